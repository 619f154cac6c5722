// SPDX-License-Identifier: MIT
/// @file
/// Checks hand-written gradients against finite differences, in double precision.
///
///     f'(x) = (45 (f(x+h) - f(x-h)) - 9 (f(x+2h) - f(x-2h)) + (f(x+3h) - f(x-3h))) / (60 h) +
///     O(h^6)
///
/// `compare_gradient` does the work and knows nothing of the test framework, so that it can be
/// tested itself; `check_gradient` and `check_parameter_gradients` report to it. The objective is a
/// function without arguments that reads `x` where it is: usually `weighted_sum(dout, out)` with
/// random `dout`, whose gradient by `out` is `dout`.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::test {

struct GradientCheckOptions {
  /// Largest difference allowed, relative to the largest magnitude in the tensor's gradient.
  double tolerance = 1e-6;
  /// h. The objective must be smooth from x - 3h to x + 3h: keep relu and the like away from 0.
  double step = 0x1p-9;
  /// Elements to try, spread over the tensor, first and last included; each costs six evaluations.
  Index most_elements = std::numeric_limits<Index>::max();
};

/// What `compare_gradient` found: the element with the largest error.
struct GradientMismatch {
  std::string operation;
  std::string tensor;
  Index index = 0;  ///< in memory order
  double analytic = 0;
  double numeric = 0;
  double allowed = 0;  ///< largest difference allowed
  Index wrong = 0;     ///< elements that differ by more
  Index tried = 0;

  std::string message() const {
    std::ostringstream text;
    text.precision(12);
    text << operation << ": gradient of " << tensor << "[" << index << "] is " << analytic
         << ", finite differences give " << numeric << " (difference "
         << std::abs(analytic - numeric) << ", allowed " << allowed << "; " << wrong << " of "
         << tried << " elements are wrong)";
    return text.str();
  }
};

/// Derivative of f by `x`, which is changed and restored.
template <typename F>
double finite_difference(const F& f, double& x, double step) {
  const double kept = x;
  const auto difference = [&](int k) {
    x = kept + k * step;
    const double above = f();
    x = kept - k * step;
    return above - f();
  };
  const double derivative = (45 * difference(1) - 9 * difference(2) + difference(3)) / (60 * step);
  x = kept;
  return derivative;
}

/// The worst element of `analytic`, or nothing if all agree with finite differences of `f`.
template <typename F>
std::optional<GradientMismatch> compare_gradient(const std::string& operation,
                                                 const std::string& tensor, const F& f,
                                                 std::span<double> x,
                                                 std::span<const double> analytic,
                                                 const GradientCheckOptions& options = {}) {
  const auto size = static_cast<Index>(x.size());
  GradientMismatch worst{operation, tensor};
  if (analytic.size() != x.size()) {  // for instance, a gradient that was never allocated
    worst.index = static_cast<Index>(analytic.size());
    worst.analytic = worst.numeric = std::numeric_limits<double>::quiet_NaN();
    worst.wrong = size;
    return worst;
  }
  worst.tried = std::min(size, options.most_elements);
  const auto element = [&](Index i) {
    return static_cast<std::size_t>(worst.tried < 2 ? 0 : i * (size - 1) / (worst.tried - 1));
  };
  std::vector<double> numeric(static_cast<std::size_t>(worst.tried));
  double largest = 0;
  for (Index i = 0; i < worst.tried; ++i) {
    double& value = numeric[static_cast<std::size_t>(i)];
    value = finite_difference(f, x[element(i)], options.step);
    for (const double magnitude : {std::abs(value), std::abs(analytic[element(i)])}) {
      if (std::isfinite(magnitude)) largest = std::max(largest, magnitude);
    }
  }
  // Differences of rounded values are themselves wrong by this much; it matters where the gradient
  // is zero, or tiny beside the objective.
  const double noise = 16 * std::numeric_limits<double>::epsilon() * std::abs(f()) / options.step;
  worst.allowed = options.tolerance * largest + noise;
  double worst_error = -1;
  for (Index i = 0; i < worst.tried; ++i) {
    const double a = analytic[element(i)], n = numeric[static_cast<std::size_t>(i)];
    double error = std::abs(a - n);
    if (error <= worst.allowed) continue;  // false for NaN
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    ++worst.wrong;
    if (error > worst_error) {
      worst_error = error;
      worst.index = static_cast<Index>(element(i));
      worst.analytic = a;
      worst.numeric = n;
    }
  }
  if (worst.wrong == 0) return {};
  return worst;
}

inline std::span<double> elements(Matrix<double>& x) {
  return {x.data(), static_cast<std::size_t>(x.size())};
}
inline std::span<const double> elements(const Matrix<double>& x) {
  return {x.data(), static_cast<std::size_t>(x.size())};
}

/// Fails the running test, at the caller's line, unless `analytic` is the gradient of `f` by `x`.
template <typename F>
void check_gradient(const std::string& operation, const std::string& tensor, const F& f,
                    std::span<double> x, std::span<const double> analytic,
                    const GradientCheckOptions& options = {}, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
  if (const auto mismatch = compare_gradient(operation, tensor, f, x, analytic, options)) {
    ADD_FAILURE_AT(file, line) << mismatch->message();
  }
}
template <typename F>
void check_gradient(const std::string& operation, const std::string& tensor, const F& f,
                    Matrix<double>& x, const Matrix<double>& analytic,
                    const GradientCheckOptions& options = {}, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
  check_gradient(operation, tensor, f, elements(x), elements(analytic), options, file, line);
}

/// `check_gradient` for the gradient of every parameter of a layer or model.
/// @param layer  anything with `for_each_parameter`, in double precision
template <typename Layer, typename F>
void check_parameter_gradients(const std::string& operation, Layer& layer, const F& f,
                               const GradientCheckOptions& options = {},
                               const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  layer.for_each_parameter([&](Parameter<double>& p) {
    check_gradient(operation, p.name, f, p.value, p.gradient, options, file, line);
  });
}

/// sum(dout * out): the objective whose gradient by `out` is `dout`.
inline double weighted_sum(const Matrix<double>& dout, const Matrix<double>& out) {
  return dout.cwiseProduct(out).sum();
}

}  // namespace reformer::test
