// SPDX-License-Identifier: MIT
/// @file
/// Muon (Jordan et al., 2024) for the weights of hidden layers, Adam for everything else.
///
///     m = momentum m + g,   u = g + momentum m,   O = orthogonalize(u)
///     W = W - rate (0.2 sqrt(max(rows, columns)) O + decay W)
///
/// A step of O changes all directions of a weight alike, where one of Adam is mostly along a few.
/// With the factor, from "Muon is scalable for LLM training" (Liu et al., arXiv 2502.16982), O has
/// a root mean square of about 0.2, as Adam's steps have, so that both take the same rate.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/precision.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/orthogonalize.hpp"
#include "reformer/training/state.hpp"

namespace reformer::inline REFORMER_ABI {

struct MuonConfig {
  double momentum = 0.95;  ///< in [0, 1)
  AdamConfig adam = {};    ///< of all other parameters; its weight decay is that of weights too
  /// Of the products that orthogonalise; `bfloat16` is the authors' choice.
  Precision precision = Precision::float32;
};

/// State: one matrix for each weight of a hidden layer, two for any other parameter; see
/// `detail::OptimizerState`.
template <typename Scalar>
class Muon : public detail::OptimizerState<Scalar, Muon<Scalar>> {
 public:
  static constexpr std::string_view name = "Muon";

  /// @throw std::invalid_argument for a configuration out of range
  explicit Muon(const MuonConfig& config = {}) { set_config(config); }

  const MuonConfig& config() const { return config_; }
  /// Steps from now on follow another configuration; the state stays.
  /// @throw std::invalid_argument for a configuration out of range
  void set_config(const MuonConfig& config) {
    check(config.momentum >= 0 && config.momentum < 1, "Muon", "momentum is ", config.momentum,
          ", must be in [0, 1)");
    detail::check_adam<Scalar>("Muon", config.adam);
    detail::check_precision<Scalar>("Muon", config.precision);
    config_ = config;
  }

  /// The state of a parameter, in the order in which it is visited.
  static std::array<detail::StateShape, 2> state_shapes(const Parameter<Scalar>& p) {
    const Index rows = p.value.rows(), columns = p.value.cols();
    const bool adam = !is_hidden(p);
    return {
        {{"muon.first.", rows, columns}, {"muon.second.", adam ? rows : 0, adam ? columns : 0}}};
  }

  /// Whether a step of some elements of a parameter needs no others: not of a hidden weight.
  static bool is_divisible(const Parameter<Scalar>& p) { return !is_hidden(p); }

 private:
  friend detail::OptimizerState<Scalar, Muon<Scalar>>;

  using Source = typename Muon::MutableSource;

  void take_step(Workspace& workspace, const Source& source, double rate, double gradient_scale) {
    take_scratch(workspace, source);
    ++this->steps_;
    std::size_t index = 0;
    source.for_each_parameter([&](Parameter<Scalar>& p) {
      Matrix<Scalar>&first = this->first_[index], &second = this->second_[index];
      const Slice slice = source.slice(index, p);
      ++index;
      if (p.is_frozen || slice.size() == 0) return;
      if (is_hidden(p)) {
        update_hidden(workspace, p, first, rate, gradient_scale);
      } else {
        detail::adam_update(workspace, config_.adam, this->steps_, p, slice, first, second, rate,
                            gradient_scale);
      }
    });
  }

  static bool is_hidden(const Parameter<Scalar>& p) { return p.role == Role::weight; }

  /// All that the step will take of the workspace, before it changes anything: there may be no
  /// memory.
  void take_scratch(Workspace& workspace, const Source& source) const {
    Workspace plan = Workspace::plan(workspace.threads());
    std::size_t index = 0;
    source.for_each_parameter([&](const Parameter<Scalar>& p) {
      const bool is_here = source.slice(index++, p).size() > 0;
      if (is_here && !p.is_frozen && is_hidden(p))
        plan_hidden(plan, p.value.rows(), p.value.cols());
    });
    workspace.reserve(plan.peak_bytes());
    Scratch(workspace).take<std::byte>(static_cast<Index>(plan.peak_bytes()));
  }
  void plan_hidden(Workspace& plan, Index rows, Index columns) const;

  void update_hidden(Workspace& workspace, Parameter<Scalar>& p, Matrix<Scalar>& momentum,
                     double rate, double gradient_scale) const;

  MuonConfig config_;
};

template <typename Scalar>
void Muon<Scalar>::plan_hidden(Workspace& plan, Index rows, Index columns) const {
  Scratch scratch(plan);
  detail::orthogonalize(plan, scratch.matrix<Scalar>(rows, columns), config_.precision);
}

template <typename Scalar>
void Muon<Scalar>::update_hidden(Workspace& workspace, Parameter<Scalar>& p,
                                 Matrix<Scalar>& momentum, double rate,
                                 double gradient_scale) const {
  const Index rows = p.value.rows(), columns = p.value.cols();
  if (p.size() == 0) return;
  Scratch scratch(workspace);
  const auto direction = scratch.matrix<Scalar>(rows, columns);
  const auto scale = static_cast<Scalar>(gradient_scale),
             mu = static_cast<Scalar>(config_.momentum);
  for_each_row_tile(workspace.threads(), rows, [&](Index first, Index count, int) {
    for (Index i = first; i < first + count; ++i) {
      Scalar *m = &momentum(i, 0), *u = direction.row(i);
      simd::combine(columns, mu, m, scale, &p.gradient(i, 0), m);
      simd::combine(columns, mu, m, scale, &p.gradient(i, 0), u);
    }
  });
  detail::orthogonalize(workspace, direction, config_.precision);
  const auto size = static_cast<double>(std::max(rows, columns));
  const auto step = static_cast<Scalar>(-0.2 * rate * std::sqrt(size));
  const auto keep = static_cast<Scalar>(1 - rate * config_.adam.weight_decay);
  for_each_row_tile(workspace.threads(), rows, [&](Index first, Index count, int) {
    for (Index i = first; i < first + count; ++i) {
      simd::combine(columns, step, direction.row(i), keep, &p.value(i, 0), &p.value(i, 0));
    }
  });
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template class REFORMER_EXPORT detail::OptimizerState<float, Muon<float>>;
extern template class REFORMER_EXPORT Muon<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
