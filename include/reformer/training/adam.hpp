// SPDX-License-Identifier: MIT
/// @file
/// Adam (Kingma, Ba, arXiv 1412.6980) with decoupled weight decay (Loshchilov, Hutter, arXiv
/// 1711.05101).
///
///     m = beta_1 m + (1 - beta_1) g,   v = beta_2 v + (1 - beta_2) g^2
///     x = x - rate (m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + epsilon) + decay x)
///
/// Decay is applied to weights of products and embeddings, not to norms, biases, position tables,
/// mixtures of values and temperatures.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/training/state.hpp"

namespace reformer::inline REFORMER_ABI {

struct AdamConfig {
  double beta1 = 0.9;       ///< in [0, 1)
  double beta2 = 0.98;      ///< in [0, 1)
  double epsilon = 1e-9;    ///< positive
  double weight_decay = 0;  ///< not negative
  /// Of tables of n-grams, times that of the rest. A row moves only in the steps that reach it,
  /// where a row of a table that every step changes goes on by its averages.
  double ngram_rate = 8;
};

namespace detail {

/// Whether weight decay applies.
constexpr bool decays(Role role) {
  return role == Role::weight || role == Role::embedding;
}

}  // namespace detail

/// State: two matrices for each parameter, in the order of `for_each_parameter`. It belongs to the
/// model of the first step (or of `allocate`): any other must have parameters of the same names and
/// shapes, such as a copy of that model has.
template <typename Scalar>
class Adam {
 public:
  /// @throw std::invalid_argument for a configuration out of range
  explicit Adam(const AdamConfig& config = {}) { set_config(config); }

  const AdamConfig& config() const { return config_; }
  /// Steps from now on follow another configuration; the state stays.
  /// @throw std::invalid_argument for a configuration out of range
  void set_config(const AdamConfig& config) {
    check(config.beta1 >= 0 && config.beta1 < 1, "Adam", "beta1 is ", config.beta1,
          ", must be in [0, 1)");
    check(config.beta2 >= 0 && config.beta2 < 1, "Adam", "beta2 is ", config.beta2,
          ", must be in [0, 1)");
    detail::check_positive<Scalar>("Adam", "epsilon", config.epsilon);
    detail::check_finite<Scalar>("Adam", "weight_decay", config.weight_decay);
    detail::check_positive<Scalar>("Adam", "ngram_rate", config.ngram_rate);
    config_ = config;
  }

  /// Changes the parameters that are not frozen by their gradients, times `gradient_scale`.
  /// Gradients are not looked at: one that is not finite makes its parameter so. `clipping_scale`
  /// refuses their norm.
  /// @param model  anything with `for_each_parameter`
  /// @param rate   finite and not negative
  /// @throw std::invalid_argument, before anything is changed, if a parameter has no gradient, if
  ///   the state is that of other parameters, or for arguments out of range
  template <typename Model>
  void step(Workspace& workspace, Model& model, double rate, double gradient_scale = 1) {
    detail::check_step<Scalar>("Adam::step", steps_, rate, gradient_scale);
    check_gradients("Adam::step", model);
    if (owner_.is_empty()) {
      allocate_state(model);
    } else {
      check_state("Adam::step", model);
    }
    ++steps_;
    std::size_t index = 0;
    model.for_each_parameter([&](Parameter<Scalar>& p) {
      if (!p.is_frozen) update(workspace, p, first_[index], second_[index], rate, gradient_scale);
      ++index;
    });
  }

  /// Number of steps taken; part of the state.
  std::int64_t& steps() { return steps_; }
  std::int64_t steps() const { return steps_; }

  /// Begins anew: state of zeros for a model's parameters and no steps taken, into which a
  /// checkpoint can be read. State that has their shapes stays where it is.
  template <typename Model>
  void allocate(Model& model) {
    allocate_state(model);
    steps_ = 0;
  }

  /// Visits the state as `f(name, matrix)`, in the order of the model's parameters; nothing before
  /// there is any.
  /// @throw std::invalid_argument if the state is that of other parameters
  template <typename Model, typename F>
  void for_each_state(Model& model, F&& f) {
    visit_state(*this, model, f);
  }
  template <typename Model, typename F>
  void for_each_state(Model& model, F&& f) const {
    visit_state(*this, model, f);
  }

  /// The state of a parameter, in the order in which it is visited.
  static std::array<detail::StateShape, 2> state_shapes(const Parameter<Scalar>& p) {
    const Index rows = p.value.rows(), columns = p.value.cols();
    return {{{"adam.first.", rows, columns}, {"adam.second.", rows, columns}}};
  }

  /// Bytes of state for a number of parameters.
  static std::size_t state_bytes(Index parameters) {
    check_at_least("Adam::state_bytes", "parameters", parameters, 0);
    return 2 * sizeof(Scalar) * static_cast<std::size_t>(parameters);
  }

 private:
  template <typename Model>
  void allocate_state(Model& model) {
    detail::StateOwner owner(model);
    const bool is_own = owner == owner_;
    std::vector<Matrix<Scalar>> first, second;
    std::size_t index = 0;
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = state_shapes(p);
      if (!is_own) {
        first.emplace_back();
        second.emplace_back();
      }
      (is_own ? first_ : first)[index].setZero(shapes[0].rows, shapes[0].columns);
      (is_own ? second_ : second)[index].setZero(shapes[1].rows, shapes[1].columns);
      ++index;
    });
    if (is_own) return;
    owner_ = std::move(owner);  // only now: what was there stays when memory ends
    first_ = std::move(first);
    second_ = std::move(second);
  }

  template <typename Model>
  void check_state(std::string_view function, Model& model) const {
    owner_.check_owns(function, model);
    std::size_t index = 0;
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = state_shapes(p);
      detail::check_state(function, shapes[0], p.name, first_[index]);
      detail::check_state(function, shapes[1], p.name, second_[index]);
      ++index;
    });
  }

  template <typename Self, typename Model, typename F>
  static void visit_state(Self& self, Model& model, F& f) {
    if (self.owner_.is_empty()) return;
    self.check_state("Adam::for_each_state", model);
    std::size_t index = 0;
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = state_shapes(p);
      f(detail::join(shapes[0].prefix, p.name), self.first_[index]);
      f(detail::join(shapes[1].prefix, p.name), self.second_[index]);
      ++index;
    });
  }

  /// One parameter of a step, of which `steps_` knows already.
  void update(Workspace& workspace, Parameter<Scalar>& p, Matrix<Scalar>& m, Matrix<Scalar>& v,
              double rate, double gradient_scale) const;

  AdamConfig config_;
  std::int64_t steps_ = 0;
  detail::StateOwner owner_;
  std::vector<Matrix<Scalar>> first_, second_;
};

template <typename Scalar>
void Adam<Scalar>::update(Workspace& workspace, Parameter<Scalar>& p, Matrix<Scalar>& m,
                          Matrix<Scalar>& v, double rate, double gradient_scale) const {
  if (p.role == Role::ngram_table) rate *= config_.ngram_rate;
  namespace e = Eigen::internal;
  const auto t = static_cast<double>(steps_);
  const double correction1 = 1 - std::pow(config_.beta1, t);
  const double correction2 = 1 - std::pow(config_.beta2, t);
  const auto set = [](double x) { return simd::set(static_cast<Scalar>(x)); };
  const auto b1 = set(config_.beta1), c1 = set(1 - config_.beta1);
  const auto b2 = set(config_.beta2), c2 = set(1 - config_.beta2);
  const auto scale = set(gradient_scale), root = set(1 / std::sqrt(correction2));
  const auto epsilon = set(config_.epsilon), step = set(-rate / correction1);
  const auto keep = set(1 - (detail::decays(p.role) ? rate * config_.weight_decay : 0.0));
  detail::for_each_piece(workspace.threads(), p, [&](Index begin, Index end) {
    constexpr Index W = simd::width<Scalar>;
    for (Index i = begin; i < end; i += W) {
      const Index n = std::min(W, end - i);
      const auto get = [&](const Matrix<Scalar>& x) {
        return n == W ? simd::load(x.data() + i) : simd::load_partial(x.data() + i, n);
      };
      const auto put = [&](Matrix<Scalar>& x, const simd::Packet<Scalar>& value) {
        if (n == W) {
          simd::store(x.data() + i, value);
        } else {
          simd::store_partial(x.data() + i, value, n);
        }
      };
      const auto g = e::pmul(get(p.gradient), scale);
      const auto mi = e::pmadd(b1, get(m), e::pmul(c1, g));
      const auto vi = e::pmadd(b2, get(v), e::pmul(c2, e::pmul(g, g)));
      put(m, mi);
      put(v, vi);
      const auto denominator = e::padd(e::pmul(e::psqrt(vi), root), epsilon);
      put(p.value, e::pmadd(step, e::pdiv(mi, denominator), e::pmul(keep, get(p.value))));
    }
  });
}

#ifdef REFORMER_COMPILED
extern template class REFORMER_EXPORT Adam<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
