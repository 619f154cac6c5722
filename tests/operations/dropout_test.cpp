// SPDX-License-Identifier: MIT
#include "reformer/operations/dropout.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr Index many = 1 << 16;

/// What dropout multiplies the first `count` elements by.
template <typename Scalar>
std::vector<Scalar> mask(double probability, const RandomKey& key, Purpose purpose,
                         Index count = many) {
  std::vector<Scalar> ones(static_cast<std::size_t>(count), Scalar(1));
  Dropout<Scalar>(probability, key, purpose).apply(0, count, ones.data());
  return ones;
}

template <typename Scalar>
class DropoutTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(DropoutTest, Scalars);

TYPED_TEST(DropoutTest, ProbabilityZeroDoesNothing) {
  const Dropout<TypeParam> dropout(0, {1}, Purpose::branch_dropout);
  EXPECT_FALSE(dropout.active());
  auto x = random_matrix<TypeParam>(5, 13, 1);
  const auto before = x;
  dropout.apply(0, x.size(), x.data());
  dropout.apply_tile(rows_of(x), 0, 0, 13);
  EXPECT_TRUE(same_bits(x, before));
}

TYPED_TEST(DropoutTest, DropsAtItsRateAndKeepsTheMean) {
  for (const double probability : {0.05, 0.1, 0.5, 0.9}) {
    const auto values = mask<TypeParam>(probability, {2}, Purpose::branch_dropout);
    const double rounded = std::round(probability * 65536) / 65536;
    const auto kept = static_cast<TypeParam>(1 / (1 - rounded));
    double dropped = 0, sum = 0;
    for (const TypeParam value : values) {
      ASSERT_TRUE(value == TypeParam(0) || value == kept) << value;
      dropped += value == TypeParam(0) ? 1 : 0;
      sum += static_cast<double>(value);
    }
    const double deviation = std::sqrt(probability * (1 - probability) / many);
    EXPECT_NEAR(dropped / many, probability, 5 * deviation);
    EXPECT_NEAR(sum / many, 1, 5 * deviation / (1 - probability));
  }
}

TYPED_TEST(DropoutTest, ChecksItsProbability) {
  for (const double bad : {-0.1, 1.0, 2.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(
        message_of([&] { Dropout<TypeParam>(bad, {}, Purpose::branch_dropout); }),
        reformer::detail::join("reformer::Dropout: probability is ", bad, ", must be in [0, 1)"));
  }
}

// check_dropout admits everything below 1.
TYPED_TEST(DropoutTest, KeepsSomethingAndAFiniteScaleNearOne) {
  std::vector<TypeParam> values = mask<TypeParam>(0.999999, {3}, Purpose::branch_dropout, 1 << 20);
  const TypeParam largest = *std::max_element(values.begin(), values.end());
  EXPECT_GT(largest, TypeParam(0)) << "everything was dropped";
  EXPECT_TRUE(std::isfinite(largest));
}

TYPED_TEST(DropoutTest, ReplaysTheSameMask) {
  const auto values = mask<TypeParam>(0.3, {4, 5, 6}, Purpose::hidden_dropout);
  EXPECT_TRUE(same_bits(mask<TypeParam>(0.3, {4, 5, 6}, Purpose::hidden_dropout), values));
}

TYPED_TEST(DropoutTest, MasksOfOtherKeysAndPurposesAreIndependent) {
  const auto values = mask<TypeParam>(0.5, {4, 5, 6}, Purpose::hidden_dropout);
  const std::vector<std::vector<TypeParam>> others = {
      mask<TypeParam>(0.5, {5, 5, 6}, Purpose::hidden_dropout),
      mask<TypeParam>(0.5, {4, 6, 6}, Purpose::hidden_dropout),
      mask<TypeParam>(0.5, {4, 5, 7}, Purpose::hidden_dropout),
      mask<TypeParam>(0.5, {4, 5, 6}, Purpose::branch_dropout)};
  for (const auto& other : others) {
    double equal = 0;
    for (std::size_t i = 0; i < values.size(); ++i) equal += values[i] == other[i] ? 1 : 0;
    EXPECT_NEAR(equal / many, 0.5, 5 * 0.5 / std::sqrt(static_cast<double>(many)));
  }
}

TYPED_TEST(DropoutTest, NeighboursAreIndependent) {
  const auto values = mask<TypeParam>(0.5, {8}, Purpose::hidden_dropout);
  for (const std::size_t distance : {1U, 2U, 4U, 8U}) {
    double equal = 0;
    for (std::size_t i = 0; i + distance < values.size(); ++i) {
      equal += values[i] == values[i + distance] ? 1 : 0;
    }
    EXPECT_NEAR(equal / many, 0.5, 5 * 0.5 / std::sqrt(static_cast<double>(many)) + 8.0 / many)
        << "distance " << distance;
  }
}

TYPED_TEST(DropoutTest, PartsOfARunGetTheMaskOfTheWhole) {
  const Dropout<TypeParam> dropout(0.4, {9}, Purpose::hidden_dropout);
  const auto whole = mask<TypeParam>(0.4, {9}, Purpose::hidden_dropout, 200);
  for (std::uint64_t first = 0; first < 200; first += 8) {
    for (Index count = 0; count <= std::min<Index>(30, 200 - static_cast<Index>(first)); ++count) {
      std::vector<TypeParam> part(40, TypeParam(1));
      dropout.apply(first, count, part.data());
      for (std::size_t i = 0; i < part.size(); ++i) {
        const auto expected =
            static_cast<Index>(i) < count ? whole[first + i] : TypeParam(1);  // none beyond the end
        ASSERT_EQ(part[i], expected) << "first " << first << ", count " << count << ", " << i;
      }
    }
  }
}

TYPED_TEST(DropoutTest, TilesOfAnArrayGetTheMaskOfTheWhole) {
  const Dropout<TypeParam> dropout(0.4, {10}, Purpose::hidden_dropout);
  for (const Index width : {1, 7, 8, 37, 64}) {
    constexpr Index rows = 9;
    const auto x = random_matrix<TypeParam>(rows, width, 1);
    Matrix<TypeParam> whole = x;
    dropout.apply_tile(rows_of(whole), 0, 0, width);
    EXPECT_FALSE(same_bits(whole, x));
    for (const Index row : {0, 4}) {
      for (Index column = 0; column < width; column += 8) {
        for (const Index columns : {std::min<Index>(8, width - column), width - column}) {
          Matrix<TypeParam> part = x;
          dropout.apply_tile(rows_of(part).middle_rows(row, 3).middle_columns(column, columns), row,
                             column, width);
          Matrix<TypeParam> expected = x;
          expected.block(row, column, 3, columns) = whole.block(row, column, 3, columns);
          ASSERT_TRUE(same_bits(part, expected))
              << "tile at (" << row << ", " << column << ") of width " << columns;
        }
      }
    }
  }
}

// Numbers are drawn eight at a time: where the width is no multiple of eight, a row must not begin
// with what is left of the row before.
TYPED_TEST(DropoutTest, RowsHaveMasksOfTheirOwn) {
  constexpr Index rows = 200;
  for (const Index width : {5, 61, 64}) {
    Matrix<TypeParam> ones = Matrix<TypeParam>::Ones(rows, width);
    Dropout<TypeParam>(0.5, {11}, Purpose::hidden_dropout).apply_tile(rows_of(ones), 0, 0, width);
    const Index n = std::min<Index>(width, 5);
    for (Index shift = 0; shift + n <= width; ++shift) {
      const double equal =
          static_cast<double>((ones.topRows(rows - 1).middleCols(shift, n).array() ==
                               ones.bottomRows(rows - 1).leftCols(n).array())
                                  .count());
      const auto count = static_cast<double>((rows - 1) * n);
      EXPECT_NEAR(equal / count, 0.5, 5 * 0.5 / std::sqrt(count))
          << "width " << width << ", element 0 of a row beside element " << shift
          << " of the row before";
    }
  }
}

}  // namespace
}  // namespace reformer::test
