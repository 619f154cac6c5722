// SPDX-License-Identifier: MIT
// The three kinds of product, with each kernel.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "products/kernels.hpp"
#include "reformer/products/block_product.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"
#include "support/compare.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename K>
class Product : public testing::Test {};
TYPED_TEST_SUITE(Product, Kernels);

TYPED_TEST(Product, PackedWeightServesBothOrientations) {
  using Scalar = typename TypeParam::Scalar;
  Workspace workspace(2);
  for (const Index in : {1, 5, 40, 300}) {
    for (const Index out : {1, 17, 270}) {
      const auto weight = random_operand<TypeParam>(in, out, 1);
      const auto x = random_operand<TypeParam>(3, in, 2), dy = random_operand<TypeParam>(3, out, 3);
      Scratch scratch(workspace);
      const PackedWeight<TypeParam> natural(scratch, workspace, rows_of(weight),
                                            Orientation::natural, TypeParam());
      const PackedWeight<TypeParam> transposed(scratch, workspace, rows_of(weight),
                                               Orientation::transposed, TypeParam());
      EXPECT_EQ(natural.depth(), in);
      EXPECT_EQ(natural.columns(), out);
      EXPECT_EQ(transposed.depth(), out);
      EXPECT_EQ(transposed.columns(), in);
      const Matrix<double> wide = weight.template cast<double>();
      const Matrix<double> y = naive::multiply(x.template cast<double>(), wide);
      const Matrix<double> dx = naive::multiply(dy.template cast<double>(), wide.transpose());
      const auto by = [&](const Matrix<Scalar>& a, const WeightBlock<TypeParam>& block) {
        Matrix<Scalar> c(a.rows(), block.columns);
        weight_product(workspace, rows_of(a), block, rows_of(c), Write::assign,
                       [](const auto&...) {});
        return c;
      };
      EXPECT_TRUE(close(by(x, natural.whole()), y));
      EXPECT_TRUE(close(by(dy, transposed.whole()), dx));
      if (out > 256) {
        EXPECT_TRUE(close(by(x, natural.middle_columns(256, out - 256)),
                          Matrix<double>(y.rightCols(out - 256))));
      }
    }
  }
}

TYPED_TEST(Product, WeightProductFinishesEachTileOnceWithTheSameBits) {
  using Scalar = typename TypeParam::Scalar;
  for (const Index rows : {1, 64, 65, 200}) {
    for (const Index columns : {3, 256, 520}) {
      const auto a = random_operand<TypeParam>(rows, 33, 1);
      const auto weight = random_operand<TypeParam>(33, columns, 2);
      const Matrix<double> expected =
          naive::multiply(a.template cast<double>(), weight.template cast<double>());
      Matrix<Scalar> first;
      for (const int threads : thread_counts) {
        Workspace workspace(threads);
        Scratch scratch(workspace);
        const PackedWeight<TypeParam> packed(scratch, workspace, rows_of(weight),
                                             Orientation::natural, TypeParam());
        Matrix<Scalar> y = Matrix<Scalar>::Zero(rows, columns);
        Matrix<double> finished = Matrix<double>::Zero(rows, columns);
        weight_product(workspace, rows_of(std::as_const(a)), packed.whole(), rows_of(y),
                       Write::assign, [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                         EXPECT_EQ(tile.data, &y(i, j));
                         finished.block(i, j, tile.rows, tile.columns).array() += 1;
                       });
        EXPECT_TRUE((finished.array() == 1).all());
        EXPECT_TRUE(close(y, expected));
        if (threads == 1) first = y;
        EXPECT_TRUE(same_bits(y, first)) << threads << " threads";

        // In blocks of the depth, as when the left operand is made block by block.
        Matrix<Scalar> sum = Matrix<Scalar>::Ones(rows, columns);
        constexpr Index cut = round_up(20, TypeParam::tile_depth);
        for (const auto& [from, depth] : {std::pair<Index, Index>{0, cut}, {cut, 33 - cut}}) {
          const auto part = rows_of(std::as_const(a)).middle_columns(from, depth);
          weight_product(workspace, part, packed.middle_depth(from, depth), rows_of(sum),
                         Write::accumulate, [](const auto&...) {});
        }
        EXPECT_TRUE(close(sum, Matrix<double>(expected.array() + 1)));
      }
    }
  }
}

TYPED_TEST(Product, WeightGradientIsAddedWithTheSameBitsForAnyThreads) {
  using Scalar = typename TypeParam::Scalar;
  for (const auto& [rows, in, out] : {std::array<Index, 3>{1, 1, 1},
                                      {5, 13, 17},
                                      {513, 3, 129},
                                      {1100, 29, 5},
                                      {70, 257, 130},
                                      {33, 540, 70},  // several tiles of rows
                                      {33, 70, 540},  // and of columns
                                      {0, 4, 4}}) {
    // One row more than is used, because an empty matrix has no memory to point into.
    const auto x = random_operand<TypeParam>(rows + 1, in + 2, 1);
    const auto dy = random_operand<TypeParam>(rows + 1, out + 1, 2);
    const auto before = random_operand<TypeParam>(in, out, 3);
    const MatrixView<const Scalar> x_part = rows_of(x).middle_rows(0, rows).middle_columns(1, in);
    const MatrixView<const Scalar> dy_part =
        rows_of(dy).middle_rows(0, rows).middle_columns(1, out);
    const Matrix<double> expected =
        before.template cast<double>() +
        naive::multiply(x.block(0, 1, rows, in).transpose().template cast<double>(),
                        dy.block(0, 1, rows, out).template cast<double>());
    Matrix<Scalar> first;
    for (const int threads : thread_counts) {
      Workspace workspace(threads);
      Matrix<Scalar> gradient = before;
      accumulate_weight_gradient<TypeParam>(workspace, TypeParam(), x_part, dy_part,
                                            rows_of(gradient));
      EXPECT_TRUE(close(gradient, expected)) << "[" << rows << ", " << in << ", " << out << "]";
      if (threads == 1) first = gradient;
      EXPECT_TRUE(same_bits(gradient, first)) << threads << " threads";
      EXPECT_EQ(workspace.bytes_in_use(), 0U);
    }
  }
}

// What is on and above the diagonal is a weight gradient in zeros, but for what `finish` makes of
// it, and is mirrored.
TYPED_TEST(Product, OfAMatrixWithItselfIsSymmetricWithTheBitsOfAWeightGradient) {
  using Scalar = typename TypeParam::Scalar;
  for (const Index rows : {1, 70, 1100}) {
    for (const Index n : {1, 13, 64, 65, 200}) {
      const auto x = random_operand<TypeParam>(rows, n + 2, 1);
      const MatrixView<const Scalar> part = rows_of(x).middle_columns(1, n);
      for (const int threads : thread_counts) {
        Workspace workspace(threads);
        Matrix<Scalar> expected = Matrix<Scalar>::Zero(n, n);
        accumulate_weight_gradient<TypeParam>(workspace, TypeParam(), part, part,
                                              rows_of(expected));
        workspace.reset_peak();
        Matrix<Scalar> c = Matrix<Scalar>::Constant(n, n, 99), finished = c * 0;
        symmetric_product<TypeParam>(workspace, TypeParam(), part, rows_of(c),
                                     [&](const MatrixView<Scalar>& tile, Index column) {
                                       EXPECT_EQ(tile.data, &c(0, column));
                                       EXPECT_EQ(tile.rows, column + tile.columns);
                                       for (Index i = 0; i < tile.rows; ++i) {
                                         for (Index j = 0; j < tile.columns; ++j) {
                                           tile(i, j) *= 2;
                                           ++finished(i, column + j);
                                         }
                                       }
                                     });
        const std::string where = detail::join("[", rows, ", ", n, "], ", threads, " threads");
        EXPECT_TRUE(same_bits(c, Matrix<Scalar>(c.transpose()))) << where;
        for (Index i = 0; i < n; ++i) {
          for (Index j = i; j < n; ++j) {
            ASSERT_EQ(c(i, j), 2 * expected(i, j)) << where << ", (" << i << ", " << j << ")";
            ASSERT_EQ(finished(i, j), 1) << where << ", (" << i << ", " << j << ")";
          }
        }
        EXPECT_EQ(workspace.bytes_in_use(), 0U);
        Workspace plan = Workspace::plan(threads);
        symmetric_product<TypeParam>(plan, TypeParam(), part, rows_of(c),
                                     [](const auto&...) { FAIL() << "called"; });
        EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes()) << where;
      }
    }
  }
}

// The cut depends on the number of threads, on rows and on columns; no bit does.
TYPED_TEST(Product, TilesThatAreNotKeptAreThoseOfTheProduct) {
  using Scalar = typename TypeParam::Scalar;
  for (const Index rows : {1, 70}) {
    for (const auto& sizes : {std::pair<Index, Index>{3, 1}, {520, 1}, {288, 96}, {600, 100}}) {
      const Index columns = sizes.first, grain = sizes.second;
      const auto a = random_operand<TypeParam>(rows, 530, 1);
      const auto weight = random_operand<TypeParam>(530, columns, 2);
      for (const int threads : thread_counts) {
        Workspace workspace(threads);
        Scratch scratch(workspace);
        const PackedWeight<TypeParam> packed(scratch, workspace, rows_of(weight),
                                             Orientation::natural, TypeParam());
        Matrix<Scalar> kept(rows, columns), y = Matrix<Scalar>::Constant(rows, columns, 99);
        weight_product(workspace, rows_of(std::as_const(a)), packed.whole(), rows_of(kept),
                       Write::assign, [](const auto&...) {});
        workspace.reset_peak();
        const std::size_t before = workspace.bytes_in_use();
        std::atomic<int> tiles = 0;
        weight_product_tiles(workspace, rows_of(std::as_const(a)), packed.whole(), grain,
                             [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                               EXPECT_TRUE(j % grain == 0 && tile.columns % grain == 0);
                               ++tiles;
                               for (Index r = 0; r < tile.rows; ++r) {
                                 std::copy_n(tile.row(r), tile.columns, &y(i + r, j));
                               }
                             });
        if (columns == 520) {
          EXPECT_GE(tiles, threads) << "not all threads have work";
        }
        EXPECT_TRUE(same_bits(y, kept)) << "[" << rows << ", " << columns << "] " << threads;
        Workspace plan = Workspace::plan(threads);
        weight_product_tiles<TypeParam>(plan, rows_of(a), packed.whole(), grain,
                                        [](const auto&...) {});
        EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes() - before);
      }
    }
  }
}

TYPED_TEST(Product, SeveralProductsShareRowsThatAreMadeOnce) {
  using Scalar = typename TypeParam::Scalar;
  constexpr Index depth = 530;
  for (const Index rows : {1, 64, 70}) {
    const auto a = random_operand<TypeParam>(rows, depth, 1);
    const auto first = random_operand<TypeParam>(depth, 520, 2);
    const auto second = random_operand<TypeParam>(depth, 70, 3);
    for (const int threads : thread_counts) {
      Workspace workspace(threads);
      Scratch scratch(workspace);
      const PackedWeight<TypeParam> to_first(scratch, workspace, rows_of(first),
                                             Orientation::natural, TypeParam());
      const PackedWeight<TypeParam> to_second(scratch, workspace, rows_of(second),
                                              Orientation::natural, TypeParam());
      Matrix<Scalar> expected_first(rows, 520), expected_second(rows, 70);
      const auto nothing = [](const auto&...) {};
      weight_product(workspace, rows_of(a), to_first.whole(), rows_of(expected_first),
                     Write::assign, nothing);
      weight_product(workspace, rows_of(a), to_second.whole(), rows_of(expected_second),
                     Write::assign, nothing);
      workspace.reset_peak();
      const std::size_t before = workspace.bytes_in_use();
      Matrix<Scalar> y_first = Matrix<Scalar>::Constant(rows, 520, 99);
      Matrix<Scalar> y_second = Matrix<Scalar>::Constant(rows, 70, 99);
      std::vector<int> made(static_cast<std::size_t>(rows), 0);
      weight_products<TypeParam>(
          workspace, rows, depth,
          [&](Index row, const MatrixView<Scalar>& tile) {
            for (Index i = 0; i < tile.rows; ++i) {
              ++made[static_cast<std::size_t>(row + i)];
              std::copy_n(a.row(row + i).data(), depth, tile.row(i));
            }
          },
          {{to_first.whole(), rows_of(y_first)}, {to_second.whole(), rows_of(y_second)}});
      EXPECT_TRUE(same_bits(y_first, expected_first)) << rows << " rows, " << threads;
      EXPECT_TRUE(same_bits(y_second, expected_second)) << rows << " rows, " << threads;
      EXPECT_EQ(made, std::vector<int>(static_cast<std::size_t>(rows), 1));
      Workspace plan = Workspace::plan(threads);
      weight_products<TypeParam>(plan, rows, depth, nothing,
                                 {{to_first.whole(), rows_of(y_first)}, {to_second.whole(), {}}});
      EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes() - before);
    }
  }
}

TYPED_TEST(Product, TermsAreAddedInTheirOrder) {
  using Scalar = typename TypeParam::Scalar;
  Workspace workspace(2);
  Scratch scratch(workspace);
  const auto a = random_operand<TypeParam>(70, 40, 1), b = random_operand<TypeParam>(70, 530, 2);
  const auto from_a = random_operand<TypeParam>(40, 90, 3),
             from_b = random_operand<TypeParam>(530, 90, 4);
  const PackedWeight<TypeParam> by_a(scratch, workspace, rows_of(from_a), Orientation::natural,
                                     TypeParam());
  const PackedWeight<TypeParam> by_b(scratch, workspace, rows_of(from_b), Orientation::natural,
                                     TypeParam());
  const auto nothing = [](const auto&...) {};
  Matrix<Scalar> expected(70, 90), y = Matrix<Scalar>::Constant(70, 90, 99);
  weight_product(workspace, rows_of(a), by_a.whole(), rows_of(expected), Write::assign, nothing);
  weight_product(workspace, rows_of(b), by_b.whole(), rows_of(expected), Write::accumulate,
                 nothing);
  workspace.reset_peak();
  const std::size_t before = workspace.bytes_in_use();
  weight_product<TypeParam>(workspace, {{rows_of(a), by_a.whole()}, {rows_of(b), by_b.whole()}},
                            rows_of(y), Write::assign, nothing);
  EXPECT_TRUE(same_bits(y, expected));
  Workspace plan = Workspace::plan(2);
  weight_product<TypeParam>(plan, {{rows_of(a), by_a.whole()}, {rows_of(b), by_b.whole()}},
                            rows_of(y), Write::assign, nothing);
  EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes() - before);
}

// A block's sides are prepared once and multiplied in parts.
TYPED_TEST(Product, BlockOperandsAreMultipliedInParts) {
  using Scalar = typename TypeParam::Scalar;
  constexpr Index queries = 21, keys = 45, width = 16;
  const auto q = random_operand<TypeParam>(queries, width, 1),
             k = random_operand<TypeParam>(keys, width, 2);
  std::vector<typename TypeParam::Packed> memory(
      static_cast<std::size_t>(BlockOperands<TypeParam>::size({}, queries, keys, width, 2)));
  BlockOperands<TypeParam> operands({}, memory.data(), queries, keys, width, 2);
  operands.turn(0, rows_of(q));
  operands.turn(1, rows_of(std::as_const(k)).middle_rows(0, queries));
  [[maybe_unused]] const auto in_use = TypeParam().in_use();
  const Index stride = round_up(queries, simd::width<Scalar>);
  Matrix<Scalar> scores = Matrix<Scalar>::Zero(keys, stride);
  operands.multiply(
      operands.left(rows_of(k), Orientation::natural).from(5, 0), operands.turned(0).from(0, 0),
      width, rows_of(scores).middle_rows(5, keys - 5).middle_columns(0, queries), Write::assign);
  Matrix<double> expected = Matrix<double>::Zero(keys, stride);
  const Matrix<double> kd = k.template cast<double>(), qd = q.template cast<double>();
  expected.block(5, 0, keys - 5, queries) =
      naive::multiply(kd, qd.transpose()).bottomRows(keys - 5);
  EXPECT_TRUE(close(scores, expected));

  // Rows 8 to 20 of scores^T k, over keys from the seventh on, or where a kernel may begin.
  const bool packs = TypeParam().packs_gradients();
  const Index first = packs ? round_up(7, TypeParam::tile_depth) : 7;
  const Index count = std::min<Index>(34, keys - first);
  round_operand<TypeParam>(scores);
  Matrix<Scalar> sum(13, width);
  operands.multiply(
      operands.left({scores.data(), keys, queries, stride}, Orientation::transposed).from(8, first),
      operands.right(rows_of(k)).from(first, 0), count, rows_of(sum), Write::assign);
  const Matrix<double> weights = scores.block(first, 8, count, 13).template cast<double>();
  EXPECT_TRUE(close(sum, naive::multiply(weights.transpose(), kd.middleRows(first, count))));
}

TEST(ColumnsOfTile, KeepAllThreadsAtWork) {
  using detail::columns_of_tile;
  EXPECT_EQ(columns_of_tile(1, 64, 192), 192);
  EXPECT_EQ(columns_of_tile(2, 64, 768), 256) << "rows are enough for all";
  EXPECT_EQ(columns_of_tile(2, 1, 192), 96);
  EXPECT_EQ(columns_of_tile(2, 3, 192), 96) << "three tiles would be two after one another";
  EXPECT_EQ(columns_of_tile(2, 1, 768), 192);
  EXPECT_EQ(columns_of_tile(8, 1, 1024), 128);
  EXPECT_EQ(columns_of_tile(8, 1, 40), 32) << "the least";
  EXPECT_EQ(columns_of_tile(64, 1, 1), 32);
  for (Index columns = 1; columns < 1200; columns += 13) {
    for (const int threads : {1, 2, 3, 8}) {
      for (const Index rows : {1, 2, 5, 64}) {
        const Index width = columns_of_tile(threads, rows, columns);
        SCOPED_TRACE(testing::Message() << columns << " columns, " << threads << " threads, "
                                        << rows << " tiles of rows: " << width);
        ASSERT_EQ(width % detail::least_tile_columns, 0);
        ASSERT_GE(width, detail::least_tile_columns);
        ASSERT_LE(width, detail::most_tile_columns);
        // Nothing is lost beside the widest tiles.
        const auto longest = [&](Index w) {
          return ceil_div(rows * ceil_div(columns, w), Index{threads}) * std::min(w, columns);
        };
        ASSERT_LE(longest(width), longest(detail::most_tile_columns) + detail::least_tile_columns);
      }
    }
  }
}

}  // namespace
}  // namespace reformer::test
