// SPDX-License-Identifier: MIT
/// @file
/// The operations once more, as plain as possible: loops over doubles that follow the formulas.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

#include "reformer/foundation/tensor.hpp"
#include "reformer/operations/activation.hpp"

namespace reformer::test::naive {

/// A `[m, k]` times B `[k, n]`.
inline Matrix<double> multiply(const Matrix<double>& a, const Matrix<double>& b) {
  Matrix<double> c = Matrix<double>::Zero(a.rows(), b.cols());
  for (Index i = 0; i < a.rows(); ++i) {
    for (Index j = 0; j < b.cols(); ++j) {
      for (Index p = 0; p < a.cols(); ++p) c(i, j) += a(i, p) * b(p, j);
    }
  }
  return c;
}

/// Every row of x plus a vector `[1, n]`.
inline Matrix<double> add_row(const Matrix<double>& x, const Matrix<double>& row) {
  Matrix<double> y = x;
  for (Index i = 0; i < x.rows(); ++i) {
    for (Index j = 0; j < x.cols(); ++j) y(i, j) += row(0, j);
  }
  return y;
}

/// Elementwise product; an empty `mask` is all ones.
inline Matrix<double> masked(const Matrix<double>& x, const Matrix<double>& mask) {
  if (mask.size() == 0) return x;
  Matrix<double> y = x;
  for (Index i = 0; i < x.rows(); ++i) {
    for (Index j = 0; j < x.cols(); ++j) y(i, j) *= mask(i, j);
  }
  return y;
}

/// Layer normalisation of every row; scale and bias are `[1, D]`.
inline Matrix<double> layer_norm(const Matrix<double>& x, const Matrix<double>& scale,
                                 const Matrix<double>& bias, double epsilon) {
  Matrix<double> y(x.rows(), x.cols());
  const auto n = static_cast<double>(x.cols());
  for (Index i = 0; i < x.rows(); ++i) {
    double mean = 0;
    for (Index j = 0; j < x.cols(); ++j) mean += x(i, j) / n;
    double variance = 0;
    for (Index j = 0; j < x.cols(); ++j) variance += (x(i, j) - mean) * (x(i, j) - mean) / n;
    for (Index j = 0; j < x.cols(); ++j) {
      y(i, j) = (x(i, j) - mean) / std::sqrt(variance + epsilon) * scale(0, j) + bias(0, j);
    }
  }
  return y;
}

/// Softmax of every row; elements of -infinity get 0, and so does a row of nothing else.
inline Matrix<double> softmax(const Matrix<double>& x) {
  Matrix<double> y = Matrix<double>::Zero(x.rows(), x.cols());
  for (Index i = 0; i < x.rows(); ++i) {
    double largest = -std::numeric_limits<double>::infinity();
    for (Index j = 0; j < x.cols(); ++j) largest = std::max(largest, x(i, j));
    if (std::isinf(largest)) continue;
    double sum = 0;
    for (Index j = 0; j < x.cols(); ++j) sum += std::exp(x(i, j) - largest);
    for (Index j = 0; j < x.cols(); ++j) y(i, j) = std::exp(x(i, j) - largest) / sum;
  }
  return y;
}

/// -log softmax(logits)[label] of row `row`.
inline double cross_entropy(const Matrix<double>& logits, Index row, std::int32_t label) {
  double largest = logits(row, 0);
  for (Index j = 0; j < logits.cols(); ++j) largest = std::max(largest, logits(row, j));
  double sum = 0;
  for (Index j = 0; j < logits.cols(); ++j) sum += std::exp(logits(row, j) - largest);
  return std::log(sum) + largest - logits(row, label);
}

inline double activation(Activation f, double x) {
  switch (f) {
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::gelu_tanh:
      return 0.5 * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
  return std::numeric_limits<double>::quiet_NaN();
}

inline double activation_derivative(Activation f, double x) {
  constexpr double pi = std::numbers::pi;
  switch (f) {
    case Activation::relu:
      return x > 0 ? 1 : 0;
    case Activation::gelu:
      return 0.5 * (1 + std::erf(x / std::numbers::sqrt2)) +
             x * std::exp(-x * x / 2) / std::sqrt(2 * pi);
    case Activation::gelu_tanh: {
      const double t = std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
    }
  }
  return std::numeric_limits<double>::quiet_NaN();
}

inline Matrix<double> activate(Activation f, const Matrix<double>& x) {
  Matrix<double> y(x.rows(), x.cols());
  for (Index i = 0; i < x.rows(); ++i) {
    for (Index j = 0; j < x.cols(); ++j) y(i, j) = activation(f, x(i, j));
  }
  return y;
}

/// Parameters of a feed-forward branch, in the order of its `for_each_parameter`.
struct FeedForward {
  Matrix<double> scale, bias;           ///< of the layer norm, [1, D]
  Matrix<double> weight_in, bias_in;    ///< [D, F], [1, F]
  Matrix<double> weight_out, bias_out;  ///< [F, D], [1, D]
  double epsilon = 1e-12;
  Activation activation = Activation::relu;
  /// What dropout multiplies by: 0 or 1 / (1 - p), `[B*T, F]` and `[B*T, D]`; empty without
  /// dropout.
  Matrix<double> hidden_mask = {}, output_mask = {};

  /// u, the argument of the activation
  Matrix<double> before_activation(const Matrix<double>& x) const {
    const Matrix<double> normed = layer_norm(x, scale, bias, epsilon);
    return masked(add_row(multiply(normed, weight_in), bias_in), hidden_mask);
  }
  /// f(x)
  Matrix<double> operator()(const Matrix<double>& x) const {
    const Matrix<double> hidden = activate(activation, before_activation(x));
    return masked(add_row(multiply(hidden, weight_out), bias_out), output_mask);
  }
};

}  // namespace reformer::test::naive
