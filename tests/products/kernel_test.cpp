// SPDX-License-Identifier: MIT
// What every kernel of products promises.
#include "reformer/products/product_kernel.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "products/kernels.hpp"
#include "support/compare.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr auto natural = Orientation::natural;
constexpr auto transposed = Orientation::transposed;

enum class Right { rows, turned, weight, weight_transposed };
constexpr auto lefts = {natural, transposed};
constexpr auto rights = {Right::rows, Right::turned, Right::weight, Right::weight_transposed};

/// A and B of a product, in each of the ways in which a kernel takes them.
template <typename K>
class Operands {
 public:
  using Scalar = typename K::Scalar;

  Operands(Index rows, Index columns, Index depth)
      : a(random_operand<K>(rows, depth, 1)),
        b(random_operand<K>(depth, columns, 2)),
        a_transposed_(a.transpose()),
        b_transposed_(b.transpose()),
        stride_(round_up(columns, simd::width<Scalar>)),
        rows_(static_cast<std::size_t>(stride_ * depth), Scalar(0)) {
    for (Index p = 0; p < depth; ++p) {
      std::copy_n(b.row(p).data(), columns, rows_.data() + p * stride_);
    }
    for (auto& memory : lefts_) memory = memory_of(kernel.left_size(rows, depth));
    rights_[0] = memory_of(kernel.right_size(natural, depth, columns));
    rights_[1] = memory_of(kernel.right_size(transposed, depth, columns));
    for (auto& memory : weights_) memory = memory_of(kernel.weight_size(depth, columns));
    for (Index panel = 0; panel * K::tile_columns < columns; ++panel) {
      kernel.pack_weight(rows_of(std::as_const(b)), natural, panel, weights_[0].data());
      kernel.pack_weight(rows_of(std::as_const(b_transposed_)), transposed, panel,
                         weights_[1].data());
    }
  }

  typename K::Left left(Orientation orientation) {
    return orientation == natural
               ? kernel.left(rows_of(std::as_const(a)), orientation, lefts_[0].data())
               : kernel.left(rows_of(std::as_const(a_transposed_)), orientation, lefts_[1].data());
  }
  typename K::Right right(Right kind) {
    switch (kind) {
      case Right::rows:
        return kernel.right({rows_.data(), b.rows(), b.cols(), stride_}, natural,
                            rights_[0].data());
      case Right::turned:
        return kernel.right(rows_of(std::as_const(b_transposed_)), transposed, rights_[1].data());
      case Right::weight:
        return kernel.weight(weights_[0].data(), b.rows());
      default:
        return kernel.weight(weights_[1].data(), b.rows());
    }
  }
  /// A B in double.
  Matrix<double> expected() const {
    return naive::multiply(a.template cast<double>(), b.template cast<double>());
  }

  const K kernel;
  const Matrix<Scalar> a, b;

 private:
  using Memory = std::vector<typename K::Packed>;
  static Memory memory_of(Index size) {
    return Memory(static_cast<std::size_t>(size), typename K::Packed(99));
  }

  const Matrix<Scalar> a_transposed_, b_transposed_;
  Index stride_;
  std::vector<Scalar> rows_;
  Memory lefts_[2], rights_[2], weights_[2];
};

/// Multiplies into the middle of a larger matrix, and checks that its surroundings stay.
template <typename K>
Matrix<typename K::Scalar> product(const typename K::Left& a, const typename K::Right& b,
                                   Index rows, Index columns, Index depth,
                                   const Matrix<typename K::Scalar>* accumulate = nullptr) {
  using Scalar = typename K::Scalar;
  Matrix<Scalar> frame = Matrix<Scalar>::Constant(rows + 2, columns + 3, Scalar(-5));
  if (accumulate != nullptr) frame.block(1, 1, rows, columns) = *accumulate;
  const K kernel;
  [[maybe_unused]] const auto in_use = kernel.in_use();
  kernel.multiply(a, b, depth, rows_of(frame).middle_rows(1, rows).middle_columns(1, columns),
                  accumulate != nullptr ? Write::accumulate : Write::assign);
  const Matrix<Scalar> result = frame.block(1, 1, rows, columns);
  frame.block(1, 1, rows, columns).setConstant(Scalar(-5));
  EXPECT_TRUE((frame.array() == Scalar(-5)).all()) << "written outside of C";
  return result;
}

template <typename K>
class Kernel : public testing::Test {};
TYPED_TEST_SUITE(Kernel, Kernels);

TYPED_TEST(Kernel, AgreesWithLoopsForAllOperandsAndSizes) {
  for (const Index rows : {1, 2, 5, 7, 13, 15, 29, 70}) {
    for (const Index columns : {1, 3, 8, 9, 16, 17, 31, 33, 70}) {
      for (const Index depth : {1, 2, 19, 70}) {
        Operands<TypeParam> operands(rows, columns, depth);
        const Matrix<double> expected = operands.expected();
        for (const Orientation left : lefts) {
          for (const Right right : rights) {
            ASSERT_TRUE(close(product<TypeParam>(operands.left(left), operands.right(right), rows,
                                                 columns, depth),
                              expected))
                << "[" << rows << ", " << depth << "] x [" << depth << ", " << columns << "], left "
                << static_cast<int>(left) << ", right " << static_cast<int>(right);
          }
        }
      }
    }
  }
}

TYPED_TEST(Kernel, AgreesWithLoopsForSeveralDepthBlocks) {
  for (const Index depth : {511, 512, 513, 1024, 1500}) {
    Operands<TypeParam> operands(9, 21, depth);
    for (const Orientation left : lefts) {
      for (const Right right : rights) {
        ASSERT_TRUE(
            close(product<TypeParam>(operands.left(left), operands.right(right), 9, 21, depth),
                  operands.expected()))
            << "depth " << depth;
      }
    }
  }
}

TYPED_TEST(Kernel, AddsToWhatIsThere) {
  for (const Index depth : {1, 30, 600}) {
    for (const Index columns : {7, 16, 40}) {
      Operands<TypeParam> operands(17, columns, depth);
      const auto before = random_matrix<typename TypeParam::Scalar>(17, columns, 3);
      const Matrix<double> expected = before.template cast<double>() + operands.expected();
      for (const Right right : rights) {
        ASSERT_TRUE(close(product<TypeParam>(operands.left(natural), operands.right(right), 17,
                                             columns, depth, &before),
                          expected))
            << "depth " << depth << ", columns " << columns;
      }
    }
  }
}

TYPED_TEST(Kernel, DepthZeroIsZeroAndNoRowsIsNothing) {
  Operands<TypeParam> operands(4, 5, 0);
  const auto left = operands.left(natural);
  const auto right = operands.right(Right::weight);
  const Matrix<typename TypeParam::Scalar> zero = Matrix<typename TypeParam::Scalar>::Zero(4, 5);
  EXPECT_TRUE(same_bits(product<TypeParam>(left, right, 4, 5, 0), zero));
  const auto before = random_matrix<typename TypeParam::Scalar>(4, 5, 3);
  EXPECT_TRUE(same_bits(product<TypeParam>(left, right, 4, 5, 0, &before), before));
  EXPECT_EQ(product<TypeParam>(left, right, 0, 5, 0).size(), 0);
}

// The promise that everything recomputed rests on: what a row is does not depend on how many rows
// are computed with it, and neither does a column.
TYPED_TEST(Kernel, RowsAndColumnsAloneGiveTheBitsOfTheWhole) {
  constexpr Index rows = 37, columns = 75;
  for (const Index depth : {23, 700}) {
    Operands<TypeParam> operands(rows, columns, depth);
    const auto before = random_matrix<typename TypeParam::Scalar>(rows, columns, 3);
    for (const Orientation left : lefts) {
      for (const Right right : rights) {
        const auto a = operands.left(left);
        const auto b = operands.right(right);
        const auto whole = product<TypeParam>(a, b, rows, columns, depth);
        const auto whole_added = product<TypeParam>(a, b, rows, columns, depth, &before);
        for (Index i = 0; i < rows; ++i) {
          const Matrix<typename TypeParam::Scalar> row = whole.row(i),
                                                   row_added = whole_added.row(i);
          const Matrix<typename TypeParam::Scalar> row_before = before.row(i);
          ASSERT_TRUE(same_bits(product<TypeParam>(a.from(i, 0), b, 1, columns, depth), row))
              << "row " << i << ", depth " << depth;
          ASSERT_TRUE(same_bits(product<TypeParam>(a.from(i, 0), b, 1, columns, depth, &row_before),
                                row_added))
              << "row " << i << ", depth " << depth;
        }
        for (const Index count : {2, 6, 11, 14, 15, 28}) {
          const Index first = rows - count;
          const Matrix<typename TypeParam::Scalar> part = whole.middleRows(first, count);
          ASSERT_TRUE(
              same_bits(product<TypeParam>(a.from(first, 0), b, count, columns, depth), part))
              << count << " rows, depth " << depth;
        }
        for (Index panel = 1; panel * TypeParam::tile_columns < columns; ++panel) {
          const Index first = panel * TypeParam::tile_columns;
          const Matrix<typename TypeParam::Scalar> part = whole.rightCols(columns - first);
          ASSERT_TRUE(same_bits(
              product<TypeParam>(a, b.from(0, first), rows, columns - first, depth), part))
              << "from panel " << panel << ", depth " << depth;
        }
      }
    }
  }
}

TYPED_TEST(Kernel, OperandsMayStartAtAnotherDepth) {
  constexpr Index first = round_up(10, TypeParam::tile_depth);
  Operands<TypeParam> operands(5, 21, first + 20);
  const Matrix<double> expected =
      naive::multiply(operands.a.template cast<double>().rightCols(20),
                      operands.b.template cast<double>().bottomRows(20));
  for (const Orientation left : lefts) {
    for (const Right right : rights) {
      EXPECT_TRUE(close(product<TypeParam>(operands.left(left).from(0, first),
                                           operands.right(right).from(first, 0), 5, 21, 20),
                        expected));
    }
  }
}

TYPED_TEST(Kernel, GradientsAreAddedAndNothingBesideThem) {
  using Scalar = typename TypeParam::Scalar;
  const TypeParam kernel;
  if (kernel.packs_gradients()) {  // parts of A may be packed one by one, and are then one A
    Operands<TypeParam> operands(70, 40, 90);
    const Matrix<Scalar> x = operands.a.transpose();
    std::vector<typename TypeParam::Packed> memory(
        static_cast<std::size_t>(kernel.left_size(70, 90)));
    for (const auto& [first, count] : {std::pair<Index, Index>{0, 64}, {64, 6}}) {
      kernel.left(rows_of(x).middle_columns(first, count), transposed,
                  memory.data() + kernel.left_size(first, 90));
    }
    const auto a = kernel.left(rows_of(x).middle_columns(0, 0), transposed, memory.data());
    const auto b = operands.right(Right::weight);
    EXPECT_TRUE(same_bits(product<TypeParam>(a, b, 70, 40, 90),
                          product<TypeParam>(operands.left(natural), b, 70, 40, 90)));
    return;
  }
  for (const Index rows : {1, 30, 512}) {
    for (const Index columns : {1, 16, 21, 40}) {
      const auto x = random_matrix<Scalar>(rows, 19, 1);
      const auto dy = random_matrix<Scalar>(rows, columns, 2);
      std::vector<typename TypeParam::Packed> memory(
          static_cast<std::size_t>(kernel.gradient_size(rows, columns)));
      Matrix<Scalar> frame = random_matrix<Scalar>(21, columns + 3, 3);
      Matrix<double> expected = frame.template cast<double>();
      expected.block(1, 1, 19, columns) +=
          naive::multiply(x.transpose().template cast<double>(), dy.template cast<double>());
      kernel.add_gradient(rows_of(x), rows_of(dy),
                          rows_of(frame).middle_rows(1, 19).middle_columns(1, columns),
                          memory.data());
      EXPECT_TRUE(close(frame, expected)) << rows << " rows, " << columns << " columns";
    }
  }
}

template <typename Scalar>
class FloatKernelOf : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(FloatKernelOf, Scalars);

/// One step of the sum as the library promises it: fused where the processor can.
template <typename Scalar>
Scalar multiply_add(Scalar a, Scalar b, Scalar c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

TYPED_TEST(FloatKernelOf, EachElementIsOneChainInBlocksOf512) {
  for (const Index depth : {1, 100, 512, 700, 1300}) {
    Operands<FloatKernel<TypeParam>> operands(16, 19, depth);
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
    for (const Orientation left : lefts) {
      for (const Right right : rights) {
        const auto a = operands.left(left);
        const auto b = operands.right(right);
        ASSERT_TRUE(same_bits(product<FloatKernel<TypeParam>>(a, b, 16, 19, depth), assigned))
            << "depth " << depth;
        ASSERT_TRUE(
            same_bits(product<FloatKernel<TypeParam>>(a, b, 16, 19, depth, &before), accumulated))
            << "depth " << depth;
      }
    }
  }
}

// Whole vectors are read: what stands beyond the last column must be finite.
TYPED_TEST(FloatKernelOf, PackingFillsThePanelWithZeros) {
  constexpr Index w = detail::panel_width<TypeParam>;
  for (const Index columns : {Index{1}, w - 1, w, w + 1, 3 * w + 2}) {
    for (const Index depth : {1, 15, 16, 17, 40}) {
      const auto b = random_matrix<TypeParam>(depth, columns, 1);
      const Matrix<TypeParam> b_transposed = b.transpose();
      const auto size = static_cast<std::size_t>(detail::packed_size<TypeParam>(depth, columns));
      std::vector<TypeParam> packed(size, TypeParam(99)), turned = packed, expected = packed;
      for (Index panel = 0; panel * w < columns; ++panel) {
        detail::pack_panel(rows_of(b), panel, packed.data());
        detail::pack_transposed_panel(rows_of(b_transposed), panel, turned.data());
        for (Index p = 0; p < depth; ++p) {
          for (Index j = 0; j < w; ++j) {
            const Index column = panel * w + j;
            expected[static_cast<std::size_t>((panel * depth + p) * w + j)] =
                column < columns ? b(p, column) : TypeParam(0);
          }
        }
      }
      ASSERT_TRUE(same_bits(packed, expected)) << "[" << depth << ", " << columns << "]";
      ASSERT_TRUE(same_bits(turned, expected)) << "[" << depth << ", " << columns << "]";
    }
  }
}

}  // namespace
}  // namespace reformer::test
