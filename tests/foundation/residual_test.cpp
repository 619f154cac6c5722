// SPDX-License-Identifier: MIT
#include "reformer/foundation/residual.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "support/compare.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

struct WithoutSubtract {
  using Scalar = double;
  Index rows() const { return 0; }
  Index columns() const { return 0; }
  void read(Index, Index, Index, double*) const {}
  void add(Index, Index, Index, const double*) {}
};
/// `read` must work on a constant half: branches are given x as one.
struct ReadsOnlyWhenMutable {
  using Scalar = double;
  Index rows() const { return 0; }
  Index columns() const { return 0; }
  void read(Index, Index, Index, double*) {}
  void add(Index, Index, Index, const double*) {}
  void subtract(Index, Index, Index, const double*) {}
};
struct Minimal {
  using Scalar = double;
  int rows() const { return 0; }
  int columns() const { return 0; }
  void read(Index, Index, Index, double*) const {}
  void add(Index, Index, Index, const double*) {}
  void subtract(Index, Index, Index, const double*) {}
};
static_assert(ResidualHalf<FloatHalf<float>>);
static_assert(ResidualHalf<FloatHalf<double>>);
static_assert(ResidualHalf<Minimal>);
static_assert(!ResidualHalf<WithoutSubtract>);
static_assert(!ResidualHalf<ReadsOnlyWhenMutable>);
static_assert(!ResidualHalf<Matrix<double>>);

template <typename Scalar>
class FloatHalfTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(FloatHalfTest, Scalars);

TYPED_TEST(FloatHalfTest, StartsAtZero) {
  const FloatHalf<TypeParam> half(3, 5);
  EXPECT_EQ(half.rows(), 3);
  EXPECT_EQ(half.columns(), 5);
  EXPECT_TRUE(same_bits(matrix_of(half), Matrix<TypeParam>(Matrix<TypeParam>::Zero(3, 5))));
}

TYPED_TEST(FloatHalfTest, WritesAddsAndSubtractsARunOfOneRow) {
  constexpr Index rows = 3, columns = 41;
  Matrix<TypeParam> expected = random_matrix<TypeParam>(rows, columns, 1);
  auto half = half_of<FloatHalf<TypeParam>>(expected);
  EXPECT_TRUE(same_bits(matrix_of(half), expected));

  // Runs of every length from odd places, so that vectors and their ragged ends both occur.
  const auto f = random_values<TypeParam>(columns, 2);
  for (Index count = 0; count <= 37; ++count) {
    const Index column = count % 4;
    half.add(1, column, count, f.data());
    for (Index j = 0; j < count; ++j) expected(1, column + j) += f[static_cast<std::size_t>(j)];
    ASSERT_TRUE(same_bits(matrix_of(half), expected)) << "add, count " << count;
    half.subtract(2, column, count, f.data());
    for (Index j = 0; j < count; ++j) expected(2, column + j) -= f[static_cast<std::size_t>(j)];
    ASSERT_TRUE(same_bits(matrix_of(half), expected)) << "subtract, count " << count;
  }

  std::vector<TypeParam> out(7, TypeParam(-1));
  half.read(2, 3, 6, out.data());
  for (Index j = 0; j < 6; ++j) EXPECT_EQ(out[static_cast<std::size_t>(j)], expected(2, 3 + j));
  EXPECT_EQ(out[6], TypeParam(-1)) << "read beyond the count";
}

TYPED_TEST(FloatHalfTest, SubtractUndoesAddUpToRounding) {
  const auto x = random_matrix<TypeParam>(4, 19, 3);
  const auto f = random_matrix<TypeParam>(4, 19, 4);
  auto half = half_of<FloatHalf<TypeParam>>(x);
  for (Index i = 0; i < 4; ++i) half.add(i, 0, 19, f.row(i).data());
  EXPECT_FALSE(close(matrix_of(half), x));
  for (Index i = 0; i < 4; ++i) half.subtract(i, 0, 19, f.row(i).data());
  EXPECT_TRUE(close(matrix_of(half), x));
}

}  // namespace
}  // namespace reformer::test
