// SPDX-License-Identifier: MIT
/// @file
/// Activations and their derivatives.
///
///     relu(x)      = max(x, 0)
///     gelu(x)      = x/2 (1 + erf(x / sqrt 2))                              (HuggingFace "gelu")
///     gelu_tanh(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))          (HuggingFace
///     "gelu_new", trax FastGelu)
#pragma once

#include <cmath>
#include <numbers>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/operations/config.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// tanh(x) = 1 - 2 / (e^2x + 1), without cancellation near 0 in double precision.
template <typename Scalar>
simd::Packet<Scalar> tanh(const simd::Packet<Scalar>& x) {
  if constexpr (std::is_same_v<Scalar, float>) {
    return Eigen::internal::ptanh(x);
  } else {
    Scalar buffer[simd::width<Scalar>];
    simd::store(buffer, x);
    for (Scalar& value : buffer) value = std::tanh(value);
    return simd::load(buffer);
  }
}

template <typename Scalar>
simd::Packet<Scalar> erf(const simd::Packet<Scalar>& x) {
  Scalar buffer[simd::width<Scalar>];
  simd::store(buffer, x);
  for (Scalar& value : buffer) value = std::erf(value);
  return simd::load(buffer);
}

/// Value and derivative of gelu = x Phi(x), where Phi' is given.
template <typename Scalar>
struct Gelu {
  using P = simd::Packet<Scalar>;
  P phi;         // Phi(x)
  P derivative;  // d gelu / dx

  static Gelu exact(const P& x) {
    namespace e = Eigen::internal;
    const auto set = [](double c) { return simd::set(static_cast<Scalar>(c)); };
    const P phi =
        e::pmadd(set(0.5), erf<Scalar>(e::pmul(x, set(std::numbers::sqrt2 / 2))), set(0.5));
    const P density = e::pmul(set(std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2),
                              e::pexp(e::pmul(set(-0.5), e::pmul(x, x))));
    return {phi, e::pmadd(x, density, phi)};
  }

  static Gelu by_tanh(const P& x) {
    namespace e = Eigen::internal;
    const auto set = [](double c) { return simd::set(static_cast<Scalar>(c)); };
    constexpr double a = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, b = 0.044715;
    const P x2 = e::pmul(x, x);
    const P t = tanh<Scalar>(e::pmul(e::pmul(set(a), x), e::pmadd(set(b), x2, set(1))));
    const P phi = e::pmadd(set(0.5), t, set(0.5));
    const P slope = e::pmul(set(a), e::pmadd(set(3 * b), x2, set(1)));  // d argument / dx
    const P dphi = e::pmul(set(0.5), e::pmul(e::psub(set(1), e::pmul(t, t)), slope));
    return {phi, e::pmadd(x, dphi, phi)};
  }
};

}  // namespace detail

/// y = f(x), elementwise; y may be x.
template <typename Scalar>
void activate(Activation f, Index n, const Scalar* x, Scalar* y) {
  using detail::Gelu;
  namespace e = Eigen::internal;
  switch (f) {
    case Activation::relu:
      return simd::map(n, x, y, [](const auto& v) { return e::pmax(v, simd::set(Scalar(0))); });
    case Activation::gelu:
      return simd::map(n, x, y,
                       [](const auto& v) { return e::pmul(v, Gelu<Scalar>::exact(v).phi); });
    case Activation::gelu_tanh:
      return simd::map(n, x, y,
                       [](const auto& v) { return e::pmul(v, Gelu<Scalar>::by_tanh(v).phi); });
  }
}

/// d = d f'(x), elementwise: what was the gradient by f(x) becomes that by x. The derivative of
/// relu at 0 is 0.
template <typename Scalar>
void activate_backward(Activation f, Index n, const Scalar* x, Scalar* d) {
  using detail::Gelu;
  namespace e = Eigen::internal;
  switch (f) {
    case Activation::relu:
      return simd::update(n, x, d, [](const auto& v, const auto& dv) {
        const auto zero = simd::set(Scalar(0));
        return e::pmul(e::pselect(e::pcmp_lt(zero, v), simd::set(Scalar(1)), zero), dv);
      });
    case Activation::gelu:
      return simd::update(n, x, d, [](const auto& v, const auto& dv) {
        return e::pmul(Gelu<Scalar>::exact(v).derivative, dv);
      });
    case Activation::gelu_tanh:
      return simd::update(n, x, d, [](const auto& v, const auto& dv) {
        return e::pmul(Gelu<Scalar>::by_tanh(v).derivative, dv);
      });
  }
}

}  // namespace reformer::inline REFORMER_ABI
