// SPDX-License-Identifier: MIT
#include "reformer/foundation/residual.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "reformer/foundation/parallel.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
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
static_assert(ResidualHalf<FloatingHalf<float>>);
static_assert(ResidualHalf<FloatingHalf<double>>);
static_assert(ResidualHalf<FixedHalf<float>>);
static_assert(ResidualHalf<FixedHalf<double>>);
static_assert(ResidualHalf<DynamicHalf<float>>);
static_assert(ResidualHalf<Minimal>);
static_assert(!ResidualHalf<WithoutSubtract>);
static_assert(!ResidualHalf<ReadsOnlyWhenMutable>);
static_assert(!ResidualHalf<Matrix<double>>);

template <typename Scalar>
class FloatingHalfTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(FloatingHalfTest, Scalars);

TYPED_TEST(FloatingHalfTest, StartsAtZero) {
  const FloatingHalf<TypeParam> half(3, 5);
  EXPECT_EQ(half.rows(), 3);
  EXPECT_EQ(half.columns(), 5);
  EXPECT_TRUE(same_bits(matrix_of(half), Matrix<TypeParam>(Matrix<TypeParam>::Zero(3, 5))));
}

TYPED_TEST(FloatingHalfTest, WritesAddsAndSubtractsARunOfOneRow) {
  constexpr Index rows = 3, columns = 41;
  Matrix<TypeParam> expected = random_matrix<TypeParam>(rows, columns, 1);
  auto half = half_of<FloatingHalf<TypeParam>>(expected);
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

TYPED_TEST(FloatingHalfTest, SubtractUndoesAddUpToRounding) {
  const auto x = random_matrix<TypeParam>(4, 19, 3);
  const auto f = random_matrix<TypeParam>(4, 19, 4);
  auto half = half_of<FloatingHalf<TypeParam>>(x);
  for (Index i = 0; i < 4; ++i) half.add(i, 0, 19, f.row(i).data());
  EXPECT_FALSE(close(matrix_of(half), x));
  for (Index i = 0; i < 4; ++i) half.subtract(i, 0, 19, f.row(i).data());
  EXPECT_TRUE(close(matrix_of(half), x));
}

template <typename Scalar>
class FixedHalfTest : public testing::Test {};
TYPED_TEST_SUITE(FixedHalfTest, Scalars);

TYPED_TEST(FixedHalfTest, RoundsToTheNearestUnitTiesToEven) {
  using Scalar = TypeParam;
  FixedHalf<Scalar> half(1, 1, 4);  // units of 1/16
  const auto rounded = [&](double x) {
    const auto value = static_cast<Scalar>(x);
    half.write(0, 0, 1, &value);
    Scalar out;
    half.read(0, 0, 1, &out);
    return static_cast<double>(out) * 16;
  };
  for (const auto& [units, expected] : std::vector<std::pair<double, double>>{{0, 0},
                                                                              {0.4, 0},
                                                                              {0.6, 1},
                                                                              {0.5, 0},
                                                                              {1.5, 2},
                                                                              {2.5, 2},
                                                                              {-0.5, 0},
                                                                              {-1.5, -2},
                                                                              {-2.5, -2},
                                                                              {-0.6, -1},
                                                                              {12345.4, 12345}}) {
    EXPECT_EQ(rounded(units / 16), expected) << units;
  }
  EXPECT_EQ(half.overflow(), std::nullopt);
}

TYPED_TEST(FixedHalfTest, AddsAndSubtractsRunsAsIntegers) {
  using Scalar = TypeParam;
  constexpr Index rows = 3, columns = 41;
  // A grid so coarse that the scalar type holds all sums without rounding.
  constexpr int bits = 10;
  FixedHalf<Scalar> half(rows, columns, bits);
  Matrix<Scalar> expected = Matrix<Scalar>::Zero(rows, columns);
  const auto unit = std::ldexp(Scalar(1), -bits);
  const auto f = random_values<Scalar>(columns, 2);
  for (Index count = 0; count <= 37; ++count) {
    const Index column = count % 4;
    half.add(1, column, count, f.data());
    half.subtract(2, column, count, f.data());
    for (Index j = 0; j < count; ++j) {
      const Scalar on_grid = std::nearbyint(f[static_cast<std::size_t>(j)] / unit) * unit;
      expected(1, column + j) += on_grid;
      expected(2, column + j) -= on_grid;
    }
    ASSERT_TRUE(close(matrix_of(half), expected, 0)) << "count " << count;
  }
  EXPECT_EQ(half.overflow(), std::nullopt);
}

TYPED_TEST(FixedHalfTest, SubtractUndoesAddBitForBit) {
  using Scalar = TypeParam;
  auto half = half_of<FixedHalf<Scalar>>(random_matrix<Scalar>(4, 19, 3, 0.2));
  const auto before = matrix_of(half);
  const auto f = random_matrix<Scalar>(4, 19, 4, 100);
  for (Index i = 0; i < 4; ++i) half.add(i, 0, 19, f.row(i).data());
  EXPECT_FALSE(close(matrix_of(half), before));
  for (Index i = 0; i < 4; ++i) half.subtract(i, 0, 19, f.row(i).data());
  EXPECT_TRUE(same_bits(matrix_of(half), before));
  EXPECT_TRUE(is_exact(half));
  EXPECT_FALSE(is_exact(FloatingHalf<Scalar>(1, 1)));
}

TYPED_TEST(FixedHalfTest, RecordsWhatLeavesItsRange) {
  using Scalar = TypeParam;
  constexpr Scalar inf = std::numeric_limits<Scalar>::infinity();
  constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
  const Scalar just_below = std::nextafter(Scalar(2048), Scalar(0));
  struct Case {
    Scalar held, added;
    bool subtract, fits;
  };
  for (const Case& c :
       std::vector<Case>{{0, just_below, false, true},
                         {0, Scalar(-2048), false, true},
                         {0, Scalar(2048), true, false},  // the sum is -2048, but 2048 is none
                         {0, Scalar(2048), false, false},
                         {0, Scalar(-2048), true, false},
                         {1000, 1047, false, true},
                         {1000, 1048, false, false},
                         {-1000, -1048, false, true},
                         {-1000, -1049, false, false},
                         {-1000, 1049, true, false},
                         {1000, -1048, true, false},
                         {-2000, Scalar(2047), false, true},
                         {0, Scalar(1e30), false, false},
                         {5, inf, false, false},
                         {5, -inf, true, false},
                         {5, nan, false, false}}) {
    for (const Index at : {0, 7, 16, 36}) {  // vectors, and what is left behind them
      FixedHalf<Scalar> half(3, 40);
      std::vector<Scalar> f(37, Scalar(1));
      half.write(1, 2 + at, 1, &c.held);
      f[static_cast<std::size_t>(at)] = c.added;
      if (c.subtract) {
        half.subtract(1, 2, 37, f.data());
      } else {
        half.add(1, 2, 37, f.data());
      }
      const std::string what =
          reformer::detail::join(c.held, c.subtract ? " - " : " + ", c.added, " at ", at);
      ASSERT_EQ(half.overflow().has_value(), !c.fits) << what;
      if (c.fits) continue;
      EXPECT_EQ(half.overflow()->row, 1) << what;
      EXPECT_EQ(half.overflow()->column, 2 + at) << what;
      EXPECT_EQ(half.overflow()->held, c.held) << what;
      EXPECT_EQ(half.overflow()->limit, 2048) << what;
      if (!std::isnan(c.added)) {
        EXPECT_EQ(half.overflow()->added, c.subtract ? -c.added : c.added) << what;
      }
    }
  }
}

TYPED_TEST(FixedHalfTest, RecordsTheFirstOverflowOnAnyThreads) {
  using Scalar = TypeParam;
  for (const int threads : thread_counts) {
    FixedHalf<Scalar> half(64, 8);
    // Backwards, so that a half that keeps what it meets first would keep another.
    parallel_for(threads, 64, [&](Index i, int) {
      std::vector<Scalar> f(8, Scalar(0));
      const Index row = 63 - i;
      if (row >= 9) f[3] = f[5] = static_cast<Scalar>(5000 + row);
      half.add(row, 0, 8, f.data());
    });
    ASSERT_TRUE(half.overflow().has_value());
    EXPECT_EQ(half.overflow()->row, 9);
    EXPECT_EQ(half.overflow()->column, 3);
    EXPECT_EQ(half.overflow()->added, 5009);
    EXPECT_EQ(message_of<std::overflow_error>([&] { detail::check_range("a test", half, 5); }),
              "reformer: residual overflow in a test, sequence 1, token 4, column 3: 0 + 5009 is "
              "outside [-2048, 2048), the range of the fixed-point halves");
  }
}

TYPED_TEST(FixedHalfTest, ChecksItsFractionBits) {
  using Half = FixedHalf<TypeParam>;
  const int most = sizeof(TypeParam) == 4 ? 30 : 62;
  EXPECT_TRUE(contains(message_of([] { Half(0); }), "fraction_bits is 0, must be in [1, "));
  EXPECT_TRUE(contains(message_of([&] { Half(most + 1); }), reformer::detail::join(most, "]")));
  EXPECT_NO_THROW(Half{most});
}

TYPED_TEST(FixedHalfTest, IsWhatADynamicHalfHoldsOnRequest) {
  using Scalar = TypeParam;
  const auto x = random_matrix<Scalar>(3, 19, 3), f = random_matrix<Scalar>(3, 19, 4);
  const auto check_as = [&](auto plain, const ResidualConfig& config) {
    DynamicHalf<Scalar> half(3, 19, config);
    for (Index i = 0; i < 3; ++i) {
      half.write(i, 0, 19, x.row(i).data());
      plain.write(i, 0, 19, x.row(i).data());
      half.add(i, 1, 17, f.row(i).data());
      plain.add(i, 1, 17, f.row(i).data());
      half.subtract(i, 5, 3, f.row(i).data());
      plain.subtract(i, 5, 3, f.row(i).data());
    }
    EXPECT_EQ(half.rows(), 3);
    EXPECT_EQ(half.columns(), 19);
    EXPECT_TRUE(same_bits(matrix_of(half), matrix_of(plain)));
    EXPECT_EQ(is_exact(half), is_exact(plain));
    const Scalar large = 1e5;
    half.add(2, 3, 1, &large);
    plain.add(2, 3, 1, &large);
    EXPECT_EQ(overflow_of(half).has_value(), overflow_of(plain).has_value());
  };
  check_as(FloatingHalf<Scalar>(3, 19), FloatResidual{});
  check_as(FixedHalf<Scalar>(3, 19), FixedResidual{});
  check_as(FixedHalf<Scalar>(3, 19, 7), FixedResidual{7});
}

template <typename Half>
void refuses_negative_sizes(const std::string& name) {
  Workspace workspace(1);
  Scratch scratch(workspace);
  for (const bool lent : {false, true}) {
    const auto message = [&](Index rows, Index columns) {
      return message_of([&] { lent ? Half(scratch, rows, columns) : Half(rows, columns); });
    };
    const std::string prefix = "reformer::" + name + ": ";
    EXPECT_EQ(message(-1, 4), prefix + "rows is -1, must be at least 0");
    EXPECT_EQ(message(-1, -4), prefix + "rows is -1, must be at least 0");
    EXPECT_EQ(message(4, -1), prefix + "columns is -1, must be at least 0");
  }
  constexpr Index large = Index{1} << 32;
  EXPECT_THROW(Half(large, large), std::bad_alloc);
  EXPECT_THROW(Half(scratch, large, large), std::bad_alloc);
}

TEST(Halves, RefuseNegativeSizes) {
  refuses_negative_sizes<FloatingHalf<float>>("FloatingHalf");
  refuses_negative_sizes<FixedHalf<double>>("FixedHalf");
}

TEST(Halves, InScratchAreThoseOfTheirOwnMemory) {
  const auto x = random_matrix<float>(5, 7, 3), other = random_matrix<float>(5, 7, 4);
  for (const ResidualConfig& residual :
       {ResidualConfig{FloatResidual{}}, ResidualConfig{FixedResidual{9}}}) {
    Workspace workspace(1);
    Workspace plan = Workspace::plan(1);
    Scratch scratch(workspace), planned(plan);
    const DynamicHalf<float> counted(planned, 5, 7, residual);
    DynamicHalf<float> lent(scratch, 5, 7, residual), own(5, 7, residual);
    EXPECT_EQ(workspace.bytes_in_use(), 192u) << "5 * 7 elements of 4 bytes, in lines of 64";
    EXPECT_EQ(plan.peak_bytes(), 192u);
    const auto write = [](DynamicHalf<float>& half, const Matrix<float>& values) {
      for (Index i = 0; i < 5; ++i) half.write(i, 0, 7, values.row(i).data());
    };
    write(lent, x);
    write(own, x);
    const auto expected = matrix_of(own);
    EXPECT_TRUE(same_bits(matrix_of(lent), expected));

    // A copy is another half; what is assigned to a half of the same size goes into its memory.
    DynamicHalf<float> copy = lent, third(scratch, 5, 7, residual);
    third = own;
    write(lent, other);
    const auto changed = matrix_of(lent);
    EXPECT_FALSE(same_bits(changed, expected));
    EXPECT_TRUE(same_bits(matrix_of(copy), expected));
    EXPECT_TRUE(same_bits(matrix_of(third), expected));
    copy = DynamicHalf<float>(2, 3, residual);
    EXPECT_EQ(copy.columns(), 3);
    EXPECT_TRUE(same_bits(matrix_of(lent), changed)) << "what is assigned to a copy";
    EXPECT_TRUE(same_bits(matrix_of(own), expected));
    EXPECT_EQ(workspace.bytes_in_use(), 2 * 192u);
  }
}

TEST(Halves, AreCopiedByAnyNumberOfThreads) {
  const auto x = random_matrix<float>(150, 7, 3);
  const std::vector<ResidualConfig> kinds{FloatResidual{}, FixedResidual{9}, FixedResidual{20}};
  for (const ResidualConfig& from_kind : kinds) {
    DynamicHalf<float> from(150, 7, from_kind);
    for (Index i = 0; i < 150; ++i) from.write(i, 0, 7, x.row(i).data());
    for (const ResidualConfig& to_kind : kinds) {
      for (const Index rows : {0, 3, 150}) {
        for (const int threads : {1, 3}) {
          Workspace workspace(1);
          Scratch scratch(workspace);
          DynamicHalf<float> own(rows, 7, to_kind), lent(scratch, rows, 7, to_kind);
          for (DynamicHalf<float>* to : {&own, &lent}) {
            copy_half(threads, from, *to);
            EXPECT_EQ(is_exact(*to), is_exact(from));
            EXPECT_TRUE(same_bits(matrix_of(*to), matrix_of(from))) << rows << ", " << threads;
          }
        }
      }
    }
  }
  FixedHalf<float> over(1, 1), copy(1, 1);
  const float large = 1e9F;
  over.add(0, 0, 1, &large);
  copy_half(2, over, copy);
  EXPECT_TRUE(copy.overflow().has_value());

  /// A half that is copied by assignment alone.
  struct Plain : FloatingHalf<float> {
    using FloatingHalf<float>::FloatingHalf;
    void copy_from(int, const FloatingHalf<float>&) = delete;
  };
  Plain plain(2, 3), assigned;
  const float one[] = {1, 2, 3};
  plain.write(1, 0, 3, one);
  copy_half(2, plain, assigned);
  EXPECT_TRUE(same_bits(matrix_of(assigned), matrix_of(plain)));
}

TEST(FixedHalf, RefusesBitsThatCannotBeNegated) {
  EXPECT_EQ(message_of([] { FixedHalf<float>{std::numeric_limits<int>::min()}; }),
            "reformer::FixedHalf: fraction_bits is -2147483648, must be in [1, 30]");
}

}  // namespace
}  // namespace reformer::test
