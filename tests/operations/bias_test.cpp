// SPDX-License-Identifier: MIT
#include "reformer/operations/bias.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

#include "support/compare.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
class Bias : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Bias, Scalars);

TYPED_TEST(Bias, IsAddedToEveryRowOfATile) {
  for (const Index columns : {1, 16, 19}) {
    auto x = random_matrix<TypeParam>(4, columns + 2, 1);
    const auto bias = random_matrix<TypeParam>(1, columns, 2);
    Matrix<TypeParam> expected = x;
    for (Index i = 0; i < 4; ++i) expected.block(i, 1, 1, columns) += bias;
    add_bias(rows_of(x).middle_columns(1, columns), bias.data());
    EXPECT_TRUE(same_bits(x, expected));
  }
}

TYPED_TEST(Bias, GradientIsAddedWithTheSameBitsForAnyThreads) {
  for (const Index rows : {1, 5, 513}) {
    for (const Index columns : {1, 63, 64, 65, 200}) {
      const auto dy = random_matrix<TypeParam>(rows, columns, 1);
      const auto before = random_matrix<TypeParam>(1, columns, 2);
      const Matrix<double> expected =
          before.template cast<double>() + dy.template cast<double>().colwise().sum();
      Matrix<TypeParam> first;
      for (const int threads : thread_counts) {
        Workspace workspace(threads);
        Matrix<TypeParam> gradient = before;
        accumulate_bias_gradient(workspace, rows_of(dy), gradient.data());
        EXPECT_TRUE(close(gradient, expected)) << rows << " rows, " << columns << " columns";
        if (threads == 1) first = gradient;
        EXPECT_TRUE(same_bits(gradient, first)) << threads << " threads";
      }
    }
  }
}

TEST(BiasGradient, InFloatAgreesWithDoubleOverAMillionRows) {
  constexpr Index panel = 1024, panels = 1024, columns = 3;
  Workspace workspace(1);
  Matrix<float> sum = Matrix<float>::Zero(1, columns);
  Matrix<double> expected = Matrix<double>::Zero(1, columns);
  for (Index p = 0; p < panels; ++p) {
    Matrix<float> dy = random_matrix<float>(panel, columns, static_cast<std::uint64_t>(p));
    dy.array() += 1;  // gradients of one sign are the worst
    expected += dy.cast<double>().colwise().sum();
    accumulate_bias_gradient<float>(workspace, rows_of(std::as_const(dy)), sum.data());
  }
  for (Index j = 0; j < columns; ++j) {
    EXPECT_NEAR(sum(0, j) / expected(0, j), 1, 2e-6) << "column " << j;
  }
}

}  // namespace
}  // namespace reformer::test
