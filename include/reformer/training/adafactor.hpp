// SPDX-License-Identifier: MIT
/// @file
/// Adafactor (Shazeer, Stern, arXiv 1804.04235), the optimiser of the paper: second moments of a
/// matrix in one row and one column.
///
///     beta_t = 1 - t^-0.8
///     u = g^2 + epsilon_1
///     v_ij = r_i c_j / mean(r)     of a matrix, where
///         r = beta_t r + (1 - beta_t) (mean over columns of u), and c likewise over rows
///     v = beta_t v + (1 - beta_t) u     of what has no factors
///     d = g / sqrt(v)
///     d = d / max(1, rms(d) / clip)
///     x = x - rate max(epsilon_2, rms(x)) d     (the factor of x only with `scale_by_parameter`)
///
/// No first moment.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/training/state.hpp"

namespace reformer::inline REFORMER_ABI {

struct AdafactorConfig {
  double decay_exponent = 0.8;  ///< in (0, 1]
  double epsilon1 = 1e-30;      ///< positive
  double epsilon2 = 1e-3;       ///< positive
  double clip = 1;              ///< positive; infinity: no clipping
  bool scale_by_parameter = true;
};

namespace detail {

/// Whether second moments are the product of a row and a column: of matrices, whose rows and
/// columns are alike. The two rows of a mixture are different things, for a few heads.
template <typename Scalar>
bool has_factors(const Parameter<Scalar>& p) {
  return p.value.rows() > 1 &&
         (p.role == Role::weight || p.role == Role::head_weight || p.role == Role::embedding ||
          p.role == Role::position_table || p.role == Role::ngram_table);
}

}  // namespace detail

/// State: one row and one column for each weight, embedding and table of positions, one number for
/// each element of gains, biases, mixtures and temperatures; see `detail::OptimizerState`.
template <typename Scalar>
class Adafactor : public detail::OptimizerState<Scalar, Adafactor<Scalar>> {
 public:
  static constexpr std::string_view name = "Adafactor";

  /// @throw std::invalid_argument for a configuration out of range
  explicit Adafactor(const AdafactorConfig& config = {}) { set_config(config); }

  const AdafactorConfig& config() const { return config_; }
  /// Steps from now on follow another configuration; the state stays.
  /// @throw std::invalid_argument for a configuration out of range
  void set_config(const AdafactorConfig& config) {
    check(config.decay_exponent > 0 && config.decay_exponent <= 1, "Adafactor",
          "decay_exponent is ", config.decay_exponent, ", must be in (0, 1]");
    detail::check_positive<Scalar>("Adafactor", "epsilon1", config.epsilon1);
    detail::check_positive<Scalar>("Adafactor", "epsilon2", config.epsilon2);
    check(config.clip > 0, "Adafactor", "clip is ", config.clip, ", must be positive");
    config_ = config;
  }

  /// The state of a parameter, in the order in which it is visited.
  static std::array<detail::StateShape, 2> state_shapes(const Parameter<Scalar>& p) {
    const Index rows = p.value.rows(), columns = p.value.cols();
    const bool factors = detail::has_factors(p);
    return {{{"adafactor.rows.", 1, factors ? rows : 0},
             {"adafactor.columns.", factors ? 1 : rows, columns}}};
  }

  /// Whether a step of some elements of a parameter needs no others: never, for d is clipped by its
  /// mean square.
  static bool is_divisible(const Parameter<Scalar>&) { return false; }

 private:
  friend detail::OptimizerState<Scalar, Adafactor<Scalar>>;

  void take_step(Workspace& workspace, const typename Adafactor::MutableSource& source, double rate,
                 double gradient_scale) {
    std::vector<Parameter<Scalar>*> parameters;
    Index widest = 0;
    source.for_each_parameter([&](Parameter<Scalar>& p) {
      const bool is_here = source.slice(parameters.size(), p).size() > 0;
      parameters.push_back(is_here ? &p : nullptr);
      widest = std::max(widest, p.value.cols());
    });
    update(workspace, parameters, widest, rate, gradient_scale);
  }

  /// A step with all parameters that are not null; `widest` has the most columns.
  void update(Workspace& workspace, const std::vector<Parameter<Scalar>*>& parameters, Index widest,
              double rate, double gradient_scale);
  /// @param memory  scratch, two rows of the parameter
  void update(Parameter<Scalar>& p, Matrix<Scalar>& row, Matrix<Scalar>& column, double rate,
              double beta, double gradient_scale, Scalar* memory) const;

  AdafactorConfig config_;
};

template <typename Scalar>
void Adafactor<Scalar>::update(Workspace& workspace,
                               const std::vector<Parameter<Scalar>*>& parameters, Index widest,
                               double rate, double gradient_scale) {
  Scratch scratch(workspace);
  const auto memory = scratch.per_thread<Scalar>(2 * widest);
  ++this->steps_;  // only now, as there may be no memory
  const double beta = 1 - std::pow(static_cast<double>(this->steps_), -config_.decay_exponent);
  // One task for each parameter: rows and columns are summed in one order.
  parallel_for(workspace.threads(), static_cast<Index>(parameters.size()),
               [&](Index i, int thread) {
                 const auto index = static_cast<std::size_t>(i);
                 if (parameters[index] == nullptr) return;
                 update(*parameters[index], this->first_[index], this->second_[index], rate, beta,
                        gradient_scale, memory[thread]);
               });
}

template <typename Scalar>
void Adafactor<Scalar>::update(Parameter<Scalar>& p, Matrix<Scalar>& row, Matrix<Scalar>& column,
                               double rate, double beta, double gradient_scale,
                               Scalar* memory) const {
  const Index m = p.value.rows(), n = p.value.cols();
  if (p.is_frozen || m * n == 0) return;
  const bool factors = detail::has_factors(p);
  const Index together = factors ? m : 1;  // rows of the parameter with one row of `column`
  const auto scale = static_cast<Scalar>(gradient_scale);
  const auto b = static_cast<Scalar>(beta), c = static_cast<Scalar>(1 - beta);
  const auto tiny = static_cast<Scalar>(config_.epsilon1);
  Eigen::Map<Matrix<Scalar>> column_mean(memory, 1, n), column_factor(memory + n, 1, n);
  for (Index first = 0; first < m; first += together) {
    column_mean.setZero();
    for (Index i = first; i < first + together; ++i) {
      const auto squares = (p.gradient.row(i) * scale).array().square() + tiny;
      if (factors) row(0, i) = b * row(0, i) + c * squares.mean();
      column_mean.array() += squares / static_cast<Scalar>(together);
    }
    column.row(first / together) = b * column.row(first / together) + c * column_mean;
  }
  const Scalar mean_row = factors ? row.mean() : Scalar(1);
  // 1 / sqrt(v_ij) = row_factor(i) / sqrt(column_j)
  const auto row_factor = [&](Index i) {
    return factors ? std::sqrt(mean_row / row(0, i)) : Scalar(1);
  };
  const auto set_column_factor = [&](Index i) {
    if (i % together != 0) return;
    column_factor = column.row(i / together).array().rsqrt().matrix();
  };
  double squares = 0;
  for (Index i = 0; i < m; ++i) {
    set_column_factor(i);
    squares +=
        static_cast<double>((p.gradient.row(i) * scale).cwiseProduct(column_factor).squaredNorm() *
                            row_factor(i) * row_factor(i));
  }
  const auto size = static_cast<double>(m * n);
  const double clip = std::max(1.0, std::sqrt(squares / size) / config_.clip);
  const double parameter_scale =
      config_.scale_by_parameter
          ? std::max(config_.epsilon2, std::sqrt(static_cast<double>(p.value.squaredNorm()) / size))
          : 1.0;
  const double step = rate * parameter_scale / clip;
  for (Index i = 0; i < m; ++i) {
    set_column_factor(i);
    p.value.row(i) -= (p.gradient.row(i) * (scale * static_cast<Scalar>(step) * row_factor(i)))
                          .cwiseProduct(column_factor);
  }
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template class REFORMER_EXPORT detail::OptimizerState<float, Adafactor<float>>;
extern template class REFORMER_EXPORT Adafactor<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
