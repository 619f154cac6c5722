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
#include <limits>
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
  return role == Role::weight || role == Role::head_weight || role == Role::embedding;
}

/// @throw std::invalid_argument for a configuration out of range
template <typename Scalar>
void check_adam(std::string_view function, const AdamConfig& config) {
  check(config.beta1 >= 0 && config.beta1 < 1, function, "beta1 is ", config.beta1,
        ", must be in [0, 1)");
  check(config.beta2 >= 0 && config.beta2 < 1, function, "beta2 is ", config.beta2,
        ", must be in [0, 1)");
  check_positive<Scalar>(function, "epsilon", config.epsilon);
  check_finite<Scalar>(function, "weight_decay", config.weight_decay);
  check_positive<Scalar>(function, "ngram_rate", config.ngram_rate);
}

/// Step number `steps` of a slice of one parameter; m and v are the averages of the slice.
template <typename Scalar>
void adam_update(Workspace& workspace, const AdamConfig& config, std::int64_t steps,
                 Parameter<Scalar>& p, const Slice& slice, Matrix<Scalar>& m, Matrix<Scalar>& v,
                 double rate, double gradient_scale) {
  if (p.role == Role::ngram_table) rate *= config.ngram_rate;
  namespace e = Eigen::internal;
  const auto t = static_cast<double>(steps);
  const double correction1 = 1 - std::pow(config.beta1, t);
  const double correction2 = 1 - std::pow(config.beta2, t);
  const auto set = [](double x) { return simd::set(static_cast<Scalar>(x)); };
  const auto b1 = set(config.beta1), c1 = set(1 - config.beta1);
  const auto b2 = set(config.beta2), c2 = set(1 - config.beta2);
  const auto scale = set(gradient_scale), root = set(1 / std::sqrt(correction2));
  const auto epsilon = set(config.epsilon), step = set(-rate / correction1);
  const auto keep = set(1 - (decays(p.role) ? rate * config.weight_decay : 0.0));
  for_each_piece(workspace.threads(), p, slice, [&](Index begin, Index end) {
    constexpr Index W = simd::width<Scalar>;
    for (Index i = begin; i < end; i += W) {
      const Index n = std::min(W, end - i), j = i - slice.begin;
      const auto get = [n](const Scalar* x) {
        return n == W ? simd::load(x) : simd::load_partial(x, n);
      };
      const auto put = [n](Scalar* x, const simd::Packet<Scalar>& value) {
        if (n == W) {
          simd::store(x, value);
        } else {
          simd::store_partial(x, value, n);
        }
      };
      const auto g = e::pmul(get(p.gradient.data() + i), scale);
      const auto mi = e::pmadd(b1, get(m.data() + j), e::pmul(c1, g));
      const auto vi = e::pmadd(b2, get(v.data() + j), e::pmul(c2, e::pmul(g, g)));
      put(m.data() + j, mi);
      put(v.data() + j, vi);
      const auto denominator = e::padd(e::pmul(e::psqrt(vi), root), epsilon);
      Scalar* value = p.value.data() + i;
      put(value, e::pmadd(step, e::pdiv(mi, denominator), e::pmul(keep, get(value))));
    }
  });
}

}  // namespace detail

/// State: two matrices for each parameter; see `detail::OptimizerState`.
template <typename Scalar>
class Adam : public detail::OptimizerState<Scalar, Adam<Scalar>> {
 public:
  static constexpr std::string_view name = "Adam";

  /// @throw std::invalid_argument for a configuration out of range
  explicit Adam(const AdamConfig& config = {}) { set_config(config); }

  const AdamConfig& config() const { return config_; }
  /// Steps from now on follow another configuration; the state stays.
  /// @throw std::invalid_argument for a configuration out of range
  void set_config(const AdamConfig& config) {
    detail::check_adam<Scalar>("Adam", config);
    config_ = config;
  }

  /// The state of a parameter, in the order in which it is visited.
  static std::array<detail::StateShape, 2> state_shapes(const Parameter<Scalar>& p) {
    const Index rows = p.value.rows(), columns = p.value.cols();
    return {{{"adam.first.", rows, columns}, {"adam.second.", rows, columns}}};
  }

  /// Whether a step of some elements of a parameter needs no others.
  static bool is_divisible(const Parameter<Scalar>&) { return true; }

  /// Bytes of state for a number of parameters.
  static std::size_t state_bytes(Index parameters) {
    constexpr auto most =
        std::numeric_limits<Index>::max() / static_cast<Index>(2 * sizeof(Scalar));
    check_between("Adam::state_bytes", "parameters", parameters, 0, most);
    return 2 * sizeof(Scalar) * static_cast<std::size_t>(parameters);
  }

 private:
  friend detail::OptimizerState<Scalar, Adam<Scalar>>;

  void take_step(Workspace& workspace, const typename Adam::MutableSource& source, double rate,
                 double gradient_scale) {
    ++this->steps_;
    std::size_t index = 0;
    source.for_each_parameter([&](Parameter<Scalar>& p) {
      if (!p.is_frozen) {
        detail::adam_update(workspace, config_, this->steps_, p, source.slice(index, p),
                            this->first_[index], this->second_[index], rate, gradient_scale);
      }
      ++index;
    });
  }

  AdamConfig config_;
};

#ifdef REFORMER_EXTERN_INSTANCES
namespace detail {
extern template REFORMER_EXPORT void adam_update<float>(Workspace&, const AdamConfig&, std::int64_t,
                                                        Parameter<float>&, const Slice&,
                                                        Matrix<float>&, Matrix<float>&, double,
                                                        double);
}  // namespace detail
extern template class REFORMER_EXPORT detail::OptimizerState<float, Adam<float>>;
extern template class REFORMER_EXPORT Adam<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
