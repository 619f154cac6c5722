// SPDX-License-Identifier: MIT
/// @file
/// Random inputs: the same numbers on every run and every machine.
///
/// Every function takes a seed; arguments of one test that must be independent take different ones.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/random.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::test {

inline RandomStream random_stream(std::uint64_t seed) {
  return {RandomKey{seed}, Purpose::data};
}

/// Normal numbers with mean 0.
template <typename Scalar>
std::vector<Scalar> random_values(Index count, std::uint64_t seed, double deviation = 1) {
  std::vector<Scalar> values(static_cast<std::size_t>(count));
  fill_normal(values.data(), count, deviation, random_stream(seed));
  return values;
}

/// Normal numbers with mean 0. In float and double these are the same numbers, rounded.
template <typename Scalar>
Matrix<Scalar> random_matrix(Index rows, Index columns, std::uint64_t seed, double deviation = 1) {
  Matrix<Scalar> matrix(rows, columns);
  fill_normal(matrix.data(), matrix.size(), deviation, random_stream(seed));
  return matrix;
}

template <typename Scalar, std::size_t Rank>
Tensor<Scalar, static_cast<int>(Rank)> random_tensor(const std::array<Index, Rank>& shape,
                                                     std::uint64_t seed, double deviation = 1) {
  Tensor<Scalar, static_cast<int>(Rank)> tensor(shape);
  fill_normal(tensor.data(), tensor.size(), deviation, random_stream(seed));
  return tensor;
}

/// Uniform tokens `[batch, length]` in [0, vocabulary).
inline Tokens random_tokens(Index batch, Index length, Index vocabulary, std::uint64_t seed) {
  Tokens tokens(batch, length);
  const auto stream = random_stream(seed);
  for (Index i = 0; i < tokens.size(); ++i) {
    tokens.data()[i] = static_cast<std::int32_t>(stream.uniform(static_cast<std::uint64_t>(i)) *
                                                 static_cast<double>(vocabulary));
  }
  return tokens;
}

/// A residual half with the values of a matrix. For a half of fixed-point numbers, round to its
/// grid: `Half` must have `write`.
template <typename Half>
Half half_of(const Matrix<typename Half::Scalar>& values) {
  Half half(values.rows(), values.cols());
  for (Index i = 0; i < values.rows(); ++i) half.write(i, 0, values.cols(), values.row(i).data());
  return half;
}

/// The values of a residual half.
template <typename Half>
Matrix<typename Half::Scalar> matrix_of(const Half& half) {
  Matrix<typename Half::Scalar> values(half.rows(), half.columns());
  for (Index i = 0; i < half.rows(); ++i) {
    half.read(i, 0, half.columns(), values.row(i).data());
  }
  return values;
}

/// Fills every parameter of a layer with random numbers, so that none is a special case such as a
/// bias of 0. Scales of layer norms get 1 added, since around 0 they would hide everything else.
template <typename Layer>
void randomize_parameters(Layer& layer, std::uint64_t seed, double deviation = 0.3) {
  std::uint64_t stream = seed << 16;
  layer.for_each_parameter([&](auto& p) {
    fill_normal(p.value.data(), p.value.size(), deviation, random_stream(++stream));
    if (p.role == Role::gain) p.value.array() += 1;
  });
}

/// Allocates the gradients of a layer if there are none yet, and sets them to `value`.
template <typename Layer>
void reset_gradients(Layer& layer, double value = 0) {
  layer.for_each_parameter([&](auto& p) {
    p.allocate_gradient();
    p.gradient.setConstant(static_cast<typename decltype(p.gradient)::Scalar>(value));
  });
}

/// Gradients of all parameters of a layer, one after another; in double, which keeps their bits.
template <typename Layer>
std::vector<double> gradients_of(Layer& layer) {
  std::vector<double> all;
  layer.for_each_parameter([&](auto& p) {
    all.insert(all.end(), p.gradient.data(), p.gradient.data() + p.gradient.size());
  });
  return all;
}

/// Values of one layer's parameters to another's, which may be of another scalar type.
template <typename From, typename To>
void copy_parameters(From& from, To& to) {
  std::vector<Matrix<double>> values;
  from.for_each_parameter([&](auto& p) { values.emplace_back(p.value.template cast<double>()); });
  std::size_t index = 0;
  to.for_each_parameter([&](auto& p) {
    using Scalar = typename std::remove_reference_t<decltype(p.value)>::Scalar;
    p.value = values.at(index++).template cast<Scalar>();
  });
}

}  // namespace reformer::test
