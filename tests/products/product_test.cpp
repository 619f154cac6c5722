// SPDX-License-Identifier: MIT
#include "reformer/products/float_kernel.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"
#include "support/compare.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

enum class Left { rows, columns };
enum class Right { rows, packed, packed_transposed };
constexpr auto lefts = {Left::rows, Left::columns};
constexpr auto rights = {Right::rows, Right::packed, Right::packed_transposed};

/// A and B of a product, stored in each of the ways that the operands allow.
template <typename Scalar>
class Operands {
 public:
  Operands(Index rows, Index columns, Index depth)
      : a(random_matrix<Scalar>(rows, depth, 1)),
        b(random_matrix<Scalar>(depth, columns, 2)),
        a_transposed_(a.transpose()),
        stride_(round_up(columns, simd::width<Scalar>)),
        rows_(static_cast<std::size_t>(stride_ * depth), Scalar(0)),
        packed_(static_cast<std::size_t>(packed_size<Scalar>(depth, columns)), Scalar(99)),
        packed_transposed_(packed_) {
    const Matrix<Scalar> b_transposed = b.transpose();
    for (Index p = 0; p < depth; ++p) {
      std::copy_n(b.row(p).data(), columns, rows_.data() + p * stride_);
    }
    for (Index panel = 0; panel * panel_width<Scalar> < columns; ++panel) {
      pack_panel(view(std::as_const(b)), panel, packed_.data());
      pack_transposed_panel(view(b_transposed), panel, packed_transposed_.data());
    }
  }

  LeftOperand<Scalar> left(Left kind) const {
    return kind == Left::rows ? rows_as_left(view(a)) : columns_as_left(view(a_transposed_));
  }
  RightOperand<Scalar> right(Right kind) const {
    if (kind == Right::rows) return rows_as_right(rows_.data(), stride_);
    return packed_as_right(kind == Right::packed ? packed_.data() : packed_transposed_.data(),
                           b.rows());
  }
  /// A B in double.
  Matrix<double> expected() const {
    return naive::multiply(a.template cast<double>(), b.template cast<double>());
  }

  const Matrix<Scalar> a, b;

 private:
  Matrix<Scalar> a_transposed_;
  Index stride_;
  std::vector<Scalar> rows_, packed_, packed_transposed_;
};

/// Runs `multiply` into the middle of a larger matrix, and checks that its surroundings stay.
template <typename Scalar>
Matrix<Scalar> product(const LeftOperand<Scalar>& a, const RightOperand<Scalar>& b, Index rows,
                       Index columns, Index depth, const Matrix<Scalar>* accumulate = nullptr) {
  Matrix<Scalar> frame = Matrix<Scalar>::Constant(rows + 2, columns + 3, Scalar(-5));
  if (accumulate != nullptr) frame.block(1, 1, rows, columns) = *accumulate;
  multiply(a, b, depth, view(frame).middle_rows(1, rows).middle_columns(1, columns),
           accumulate != nullptr ? Write::accumulate : Write::assign);
  const Matrix<Scalar> result = frame.block(1, 1, rows, columns);
  frame.block(1, 1, rows, columns).setConstant(Scalar(-5));
  EXPECT_TRUE((frame.array() == Scalar(-5)).all()) << "written outside of C";
  return result;
}

template <typename Scalar>
class Product : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Product, Scalars);

TYPED_TEST(Product, AgreesWithLoopsForAllOperandsAndSizes) {
  for (const Index rows : {1, 2, 5, 7, 13, 15, 29, 70}) {
    for (const Index columns : {1, 3, 8, 9, 16, 17, 31, 33, 70}) {
      for (const Index depth : {1, 2, 19, 70}) {
        const Operands<TypeParam> operands(rows, columns, depth);
        const Matrix<double> expected = operands.expected();
        for (const Left left : lefts) {
          for (const Right right : rights) {
            ASSERT_TRUE(
                close(product(operands.left(left), operands.right(right), rows, columns, depth),
                      expected))
                << "[" << rows << ", " << depth << "] x [" << depth << ", " << columns << "], left "
                << static_cast<int>(left) << ", right " << static_cast<int>(right);
          }
        }
      }
    }
  }
}

TYPED_TEST(Product, AgreesWithLoopsForSeveralDepthBlocks) {
  for (const Index depth : {511, 512, 513, 1024, 1500}) {
    const Operands<TypeParam> operands(9, 21, depth);
    for (const Left left : lefts) {
      for (const Right right : rights) {
        ASSERT_TRUE(close(product(operands.left(left), operands.right(right), 9, 21, depth),
                          operands.expected()))
            << "depth " << depth;
      }
    }
  }
}

TYPED_TEST(Product, AddsToWhatIsThere) {
  for (const Index depth : {1, 30, 600}) {
    for (const Index columns : {7, 16, 40}) {
      const Operands<TypeParam> operands(17, columns, depth);
      const auto before = random_matrix<TypeParam>(17, columns, 3);
      const Matrix<double> expected = before.template cast<double>() + operands.expected();
      for (const Right right : rights) {
        ASSERT_TRUE(close(
            product(operands.left(Left::rows), operands.right(right), 17, columns, depth, &before),
            expected))
            << "depth " << depth << ", columns " << columns;
      }
    }
  }
}

TYPED_TEST(Product, DepthZeroIsZeroAndNoRowsIsNothing) {
  const Operands<TypeParam> operands(4, 5, 0);
  const auto left = operands.left(Left::rows);
  const auto right = operands.right(Right::packed);
  const Matrix<TypeParam> zero = Matrix<TypeParam>::Zero(4, 5);
  EXPECT_TRUE(same_bits(product(left, right, 4, 5, 0), zero));
  const auto before = random_matrix<TypeParam>(4, 5, 3);
  EXPECT_TRUE(same_bits(product(left, right, 4, 5, 0, &before), before));
  EXPECT_EQ(product(left, right, 0, 5, 0).size(), 0);
}

/// One step of the sum as the library promises it: fused where the processor can.
template <typename Scalar>
Scalar multiply_add(Scalar a, Scalar b, Scalar c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

TYPED_TEST(Product, EachElementIsOneChainInBlocksOf512) {
  for (const Index depth : {1, 100, 512, 700, 1300}) {
    const Operands<TypeParam> operands(16, 19, depth);
    const auto before = random_matrix<TypeParam>(16, 19, 3);
    Matrix<TypeParam> assigned(16, 19), accumulated = before;
    for (Index i = 0; i < 16; ++i) {
      for (Index j = 0; j < 19; ++j) {
        for (Index block = 0; block < depth; block += 512) {
          TypeParam sum = 0;
          for (Index p = block; p < std::min(block + 512, depth); ++p) {
            sum = multiply_add(operands.a(i, p), operands.b(p, j), sum);
          }
          assigned(i, j) = block == 0 ? sum : assigned(i, j) + sum;
          accumulated(i, j) += sum;
        }
      }
    }
    for (const Left left : lefts) {
      for (const Right right : rights) {
        const auto a = operands.left(left);
        const auto b = operands.right(right);
        ASSERT_TRUE(same_bits(product(a, b, 16, 19, depth), assigned)) << "depth " << depth;
        ASSERT_TRUE(same_bits(product(a, b, 16, 19, depth, &before), accumulated))
            << "depth " << depth;
      }
    }
  }
}

// The promise that everything recomputed rests on: what a row is does not depend on how many rows
// are computed with it, and neither does a column.
TYPED_TEST(Product, RowsAndColumnsAloneGiveTheBitsOfTheWhole) {
  constexpr Index rows = 37, columns = 75;
  for (const Index depth : {23, 700}) {
    const Operands<TypeParam> operands(rows, columns, depth);
    const auto before = random_matrix<TypeParam>(rows, columns, 3);
    for (const Left left : lefts) {
      for (const Right right : rights) {
        const auto a = operands.left(left);
        const auto b = operands.right(right);
        const auto whole = product(a, b, rows, columns, depth);
        const auto whole_added = product(a, b, rows, columns, depth, &before);
        for (Index i = 0; i < rows; ++i) {
          const Matrix<TypeParam> row = whole.row(i), row_added = whole_added.row(i);
          const Matrix<TypeParam> row_before = before.row(i);
          ASSERT_TRUE(same_bits(product(a.from_row(i), b, 1, columns, depth), row))
              << "row " << i << ", depth " << depth;
          ASSERT_TRUE(
              same_bits(product(a.from_row(i), b, 1, columns, depth, &row_before), row_added))
              << "row " << i << ", depth " << depth;
        }
        for (const Index count : {2, 6, 11, 14, 15, 28}) {
          const Index first = rows - count;
          const Matrix<TypeParam> part = whole.middleRows(first, count);
          ASSERT_TRUE(same_bits(product(a.from_row(first), b, count, columns, depth), part))
              << count << " rows, depth " << depth;
        }
        for (Index panel = 1; panel * panel_width<TypeParam> < columns; ++panel) {
          const Index first = panel * panel_width<TypeParam>;
          const Matrix<TypeParam> part = whole.rightCols(columns - first);
          ASSERT_TRUE(
              same_bits(product(a, b.from_panel(panel), rows, columns - first, depth), part))
              << "from panel " << panel << ", depth " << depth;
        }
      }
    }
  }
}

TYPED_TEST(Product, FromDepthSkipsRowsOfB) {
  const Operands<TypeParam> operands(5, 21, 30);
  const Matrix<double> expected =
      naive::multiply(operands.a.template cast<double>().rightCols(20),
                      operands.b.template cast<double>().bottomRows(20));
  for (const Right right : rights) {
    auto a = operands.left(Left::rows);
    a.data += 10;
    EXPECT_TRUE(close(product(a, operands.right(right).from_depth(10), 5, 21, 20), expected));
  }
}

// Whole vectors are read: what stands beyond the last column must be finite.
TYPED_TEST(Product, PackingFillsThePanelWithZeros) {
  constexpr Index w = panel_width<TypeParam>;
  for (const Index columns : {Index{1}, w - 1, w, w + 1, 3 * w + 2}) {
    for (const Index depth : {1, 15, 16, 17, 40}) {
      const auto b = random_matrix<TypeParam>(depth, columns, 1);
      const Matrix<TypeParam> b_transposed = b.transpose();
      const auto size = static_cast<std::size_t>(packed_size<TypeParam>(depth, columns));
      std::vector<TypeParam> packed(size, TypeParam(99)), transposed = packed, expected = packed;
      for (Index panel = 0; panel * w < columns; ++panel) {
        pack_panel(view(b), panel, packed.data());
        pack_transposed_panel(view(b_transposed), panel, transposed.data());
        for (Index p = 0; p < depth; ++p) {
          for (Index j = 0; j < w; ++j) {
            const Index column = panel * w + j;
            expected[static_cast<std::size_t>((panel * depth + p) * w + j)] =
                column < columns ? b(p, column) : TypeParam(0);
          }
        }
      }
      ASSERT_TRUE(same_bits(packed, expected)) << "[" << depth << ", " << columns << "]";
      ASSERT_TRUE(same_bits(transposed, expected)) << "[" << depth << ", " << columns << "]";
    }
  }
}

TYPED_TEST(Product, PackedWeightServesBothOrientations) {
  Workspace workspace(2);
  for (const Index in : {1, 5, 40, 300}) {
    for (const Index out : {1, 17, 270}) {
      const auto weight = random_matrix<TypeParam>(in, out, 1);
      const auto x = random_matrix<TypeParam>(3, in, 2);
      const auto dy = random_matrix<TypeParam>(3, out, 3);
      Scratch scratch(workspace);
      const PackedWeight<TypeParam> natural(scratch, workspace, view(weight), Orientation::natural);
      const PackedWeight<TypeParam> transposed(scratch, workspace, view(weight),
                                               Orientation::transposed);
      EXPECT_EQ(natural.depth(), in);
      EXPECT_EQ(natural.columns(), out);
      EXPECT_EQ(transposed.depth(), out);
      EXPECT_EQ(transposed.columns(), in);
      const Matrix<double> wide = weight.template cast<double>();
      const Matrix<double> y = naive::multiply(x.template cast<double>(), wide);
      const Matrix<double> dx = naive::multiply(dy.template cast<double>(), wide.transpose());
      EXPECT_TRUE(close(product(rows_as_left(view(x)), natural.from_column(0), 3, out, in), y));
      EXPECT_TRUE(
          close(product(rows_as_left(view(dy)), transposed.from_column(0), 3, in, out), dx));
      if (out > 256) {
        EXPECT_TRUE(
            close(product(rows_as_left(view(x)), natural.from_column(256), 3, out - 256, in),
                  Matrix<double>(y.rightCols(out - 256))));
      }
    }
  }
}

TYPED_TEST(Product, WeightProductFinishesEachTileOnceWithTheSameBits) {
  for (const Index rows : {1, 64, 65, 200}) {
    for (const Index columns : {3, 256, 301}) {
      const auto a = random_matrix<TypeParam>(rows, 33, 1);
      const auto weight = random_matrix<TypeParam>(33, columns, 2);
      const Matrix<double> expected =
          naive::multiply(a.template cast<double>(), weight.template cast<double>());
      Matrix<TypeParam> first;
      for (const int threads : thread_counts) {
        Workspace workspace(threads);
        Scratch scratch(workspace);
        const PackedWeight<TypeParam> packed(scratch, workspace, view(weight),
                                             Orientation::natural);
        Matrix<TypeParam> y = Matrix<TypeParam>::Zero(rows, columns);
        Matrix<double> finished = Matrix<double>::Zero(rows, columns);
        weight_product<TypeParam>(workspace, view(std::as_const(a)), packed.whole(), view(y),
                                  Write::assign,
                                  [&](const MatrixView<TypeParam>& tile, Index i, Index j) {
                                    EXPECT_EQ(tile.data, &y(i, j));
                                    finished.block(i, j, tile.rows, tile.columns).array() += 1;
                                  });
        EXPECT_TRUE((finished.array() == 1).all());
        EXPECT_TRUE(close(y, expected));
        if (threads == 1) first = y;
        EXPECT_TRUE(same_bits(y, first)) << threads << " threads";

        // In blocks of the depth, as when the left operand is made block by block.
        Matrix<TypeParam> sum = Matrix<TypeParam>::Ones(rows, columns);
        for (const auto& [from, depth] : {std::pair<Index, Index>{0, 20}, {20, 13}}) {
          const auto part = view(std::as_const(a)).middle_columns(from, depth);
          weight_product<TypeParam>(workspace, part, packed.middle_depth(from, depth), view(sum),
                                    Write::accumulate, [](const auto&...) {});
        }
        EXPECT_TRUE(close(sum, Matrix<double>(expected.array() + 1)));
      }
    }
  }
}

TYPED_TEST(Product, WeightGradientIsAddedWithTheSameBitsForAnyThreads) {
  for (const auto& [rows, in, out] : {std::array<Index, 3>{1, 1, 1},
                                      {5, 13, 17},
                                      {513, 3, 129},
                                      {1100, 29, 5},
                                      {70, 257, 130},
                                      {33, 540, 70},  // several tiles of rows
                                      {33, 70, 540},  // and of columns
                                      {0, 4, 4}}) {
    // One row more than is used, because an empty matrix has no memory to point into.
    const auto x = random_matrix<TypeParam>(rows + 1, in + 2, 1);
    const auto dy = random_matrix<TypeParam>(rows + 1, out + 1, 2);
    const auto before = random_matrix<TypeParam>(in, out, 3);
    const MatrixView<const TypeParam> x_part = view(x).middle_rows(0, rows).middle_columns(1, in);
    const MatrixView<const TypeParam> dy_part =
        view(dy).middle_rows(0, rows).middle_columns(1, out);
    const Matrix<double> expected =
        before.template cast<double>() +
        naive::multiply(x.block(0, 1, rows, in).transpose().template cast<double>(),
                        dy.block(0, 1, rows, out).template cast<double>());
    Matrix<TypeParam> first;
    for (const int threads : thread_counts) {
      Workspace workspace(threads);
      Matrix<TypeParam> gradient = before;
      accumulate_weight_gradient(workspace, x_part, dy_part, view(gradient));
      EXPECT_TRUE(close(gradient, expected)) << "[" << rows << ", " << in << ", " << out << "]";
      if (threads == 1) first = gradient;
      EXPECT_TRUE(same_bits(gradient, first)) << threads << " threads";
      EXPECT_EQ(workspace.bytes_in_use(), 0U);
    }
  }
}

}  // namespace
}  // namespace reformer::test
