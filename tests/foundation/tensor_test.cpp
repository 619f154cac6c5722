// SPDX-License-Identifier: MIT
#include "reformer/foundation/tensor.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <utility>

#include "reformer/foundation/parameter.hpp"
#include "support/errors.hpp"

namespace reformer::test {
namespace {

/// 0, 1, 2, ... in memory order
Matrix<double> counting(Index rows, Index columns) {
  Matrix<double> matrix(rows, columns);
  std::iota(matrix.data(), matrix.data() + matrix.size(), 0.0);
  return matrix;
}

TEST(MatrixView, SeesARowMajorMatrix) {
  Matrix<double> matrix = counting(3, 4);
  const auto whole = rows_of(matrix);
  EXPECT_EQ(whole.rows, 3);
  EXPECT_EQ(whole.columns, 4);
  EXPECT_EQ(whole.stride, 4);
  EXPECT_EQ(whole(1, 2), 6);
  EXPECT_EQ(whole.row(2)[3], 11);
  whole(0, 1) = 42;
  EXPECT_EQ(matrix(0, 1), 42);
}

TEST(MatrixView, PartsShareTheMemory) {
  Matrix<double> matrix = counting(5, 6);
  const auto part = rows_of(matrix).middle_rows(1, 3).middle_columns(2, 2);
  EXPECT_EQ(part.rows, 3);
  EXPECT_EQ(part.columns, 2);
  EXPECT_EQ(part.stride, 6);
  for (Index i = 0; i < 3; ++i) {
    for (Index j = 0; j < 2; ++j) EXPECT_EQ(&part(i, j), &matrix(1 + i, 2 + j));
  }
}

TEST(MatrixView, BecomesReadOnly) {
  Matrix<float> matrix(2, 3);
  const MatrixView<const float> constant = rows_of(matrix);
  EXPECT_EQ(constant.data, matrix.data());
  EXPECT_EQ(rows_of(std::as_const(matrix)).data, matrix.data());
  static_assert(std::is_same_v<decltype(rows_of(std::as_const(matrix))), MatrixView<const float>>);
  static_assert(!std::is_convertible_v<MatrixView<const float>, MatrixView<float>>);
}

TEST(RowsOf, SeesATensorAsAMatrixWithoutACopy) {
  Tensor<double, 3> tensor(2, 3, 4);
  std::iota(tensor.data(), tensor.data() + tensor.size(), 0.0);
  const auto rows = rows_of(tensor);
  EXPECT_EQ(rows.rows, 6);
  EXPECT_EQ(rows.columns, 4);
  EXPECT_EQ(&rows(4, 2), &tensor(1, 1, 2));
  EXPECT_EQ(rows_of(std::as_const(tensor)).data, tensor.data());
}

TEST(RowsOf, AcceptsEmptyTensors) {
  Tensor<double, 2> no_columns(3, 0), no_rows(0, 3);
  EXPECT_EQ(rows_of(no_columns).rows, 0);
  EXPECT_EQ(rows_of(no_rows).rows, 0);
  EXPECT_EQ(rows_of(no_rows).columns, 3);
}

TEST(Rounding, UpToMultiples) {
  EXPECT_EQ(round_up(0, 8), 0);
  EXPECT_EQ(round_up(1, 8), 8);
  EXPECT_EQ(round_up(8, 8), 8);
  EXPECT_EQ(round_up(9, 8), 16);
  EXPECT_EQ(ceil_div(0, 8), 0);
  EXPECT_EQ(ceil_div(1, 8), 1);
  EXPECT_EQ(ceil_div(16, 8), 2);
  EXPECT_EQ(ceil_div(17, 8), 3);
  constexpr Index most = std::numeric_limits<Index>::max();
  EXPECT_EQ(ceil_div(most, most), 1) << "nothing wraps on the way";
  EXPECT_EQ(ceil_div(most, 2), most / 2 + 1);
  EXPECT_EQ(round_up(most - 7, 8), most - 7);
}

TEST(Parameter, StartsAtZeroWithoutGradient) {
  const Parameter<float> p("name", Role::weight, 2, 3);
  EXPECT_EQ(p.name, "name");
  EXPECT_EQ(p.size(), 6);
  EXPECT_TRUE((p.value.array() == 0).all());
  EXPECT_FALSE(p.has_gradient());
  EXPECT_EQ(p.gradient.size(), 0);
}

TEST(Parameter, RefusesNegativeSizes) {
  EXPECT_EQ(message_of([] { Parameter<float>("name", Role::weight, -1, 3); }),
            "reformer::Parameter: rows is -1, must be at least 0");
  EXPECT_EQ(message_of([] { Parameter<float>("name", Role::weight, -1, -3); }),
            "reformer::Parameter: rows is -1, must be at least 0");
  EXPECT_EQ(message_of([] { Parameter<float>("name", Role::weight, 2, -3); }),
            "reformer::Parameter: columns is -3, must be at least 0");
  EXPECT_THROW(Parameter<float>("name", Role::weight, Index{1} << 32, Index{1} << 32),
               std::bad_alloc);
}

TEST(Parameter, AGradientOfAnotherShapeIsNone) {
  Parameter<float> p("name", Role::weight, 2, 3);
  p.gradient.setZero(3, 2);
  EXPECT_FALSE(p.has_gradient());
  p.allocate_gradient();
  EXPECT_EQ(p.gradient.rows(), 2);
}

TEST(Parameter, AllocatesAGradientOnce) {
  Parameter<float> p("name", Role::weight, 2, 3);
  p.allocate_gradient();
  EXPECT_TRUE(p.has_gradient());
  EXPECT_EQ(p.gradient.rows(), 2);
  EXPECT_EQ(p.gradient.cols(), 3);
  EXPECT_TRUE((p.gradient.array() == 0).all());
  p.gradient(1, 2) = 5;
  p.allocate_gradient();
  EXPECT_EQ(p.gradient(1, 2), 5) << "an existing gradient must be kept";
}

}  // namespace
}  // namespace reformer::test
