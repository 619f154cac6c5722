// SPDX-License-Identifier: MIT
/// @file
/// The kernels that products are tested with.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <type_traits>

#include "reformer/products/kernels.hpp"
#include "support/naive_kernel.hpp"
#include "support/random_data.hpp"

namespace reformer::test {

/// Products of floats in bfloat16.
struct Bfloat16Kernel : PrecisionKernel {
  Bfloat16Kernel(Precision = Precision::bfloat16) : PrecisionKernel(Precision::bfloat16) {}
};
struct Bfloat16x3Kernel : PrecisionKernel {
  Bfloat16x3Kernel(Precision = Precision::bfloat16x3) : PrecisionKernel(Precision::bfloat16x3) {}
};

using Kernels = testing::Types<PrecisionKernel, FloatKernel<double>, NaiveKernel<float>,
                               NaiveKernel<double>, Bfloat16Kernel, Bfloat16x3Kernel>;

/// Rounds numbers to those that a kernel multiplies as they are.
template <ProductKernel K>
void round_operand(Matrix<typename K::Scalar>& matrix) {
  if constexpr (std::is_base_of_v<PrecisionKernel, K>) {
    for (Index i = 0; i < matrix.size(); ++i) {
      float& x = matrix.data()[i];
      const auto [high, low] = detail::bfloat16_parts(x);
      if (std::is_same_v<K, Bfloat16Kernel>) x = std::bit_cast<float>(high);
      if (std::is_same_v<K, Bfloat16x3Kernel>) {
        x = std::bit_cast<float>(high) + std::bit_cast<float>(low);
      }
    }
  }
}

/// Random numbers that a kernel multiplies as they are.
template <ProductKernel K>
Matrix<typename K::Scalar> random_operand(Index rows, Index columns, std::uint64_t seed) {
  auto matrix = random_matrix<typename K::Scalar>(rows, columns, seed);
  round_operand<K>(matrix);
  return matrix;
}

}  // namespace reformer::test
