// SPDX-License-Identifier: MIT
/// @file
/// A second kernel of products, as plain as possible and as unlike the float kernel as its contract
/// allows: both sides are packed, into doubles, in tiles of odd sizes, the right one in pairs along
/// the depth.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "reformer/products/product_kernel.hpp"

namespace reformer::test {

template <typename Scalar_>
struct NaiveKernel {
  using Scalar = Scalar_;
  using Packed = double;
  using View = MatrixView<const Scalar>;
  static constexpr Index tile_rows = 3, tile_columns = 4, tile_depth = 2;

  NaiveKernel(Precision = Precision::float32) {}  // NOLINT: it has one

  /// A `[rows, depth]`, row after row.
  struct Left {
    const double* data;
    Index stride;
    Left from(Index i, Index p) const { return {data + i * stride + p, stride}; }
    double operator()(Index i, Index p) const { return data[i * stride + p]; }
  };
  /// B `[depth, columns]` in panels of `tile_columns`, and pairs of rows in them.
  struct Right {
    const double* data;
    Index panel_size, first_row, first_column;
    Right from(Index p, Index j) const {
      return {data, panel_size, first_row + p, first_column + j};
    }
    double operator()(Index p, Index j) const {
      return data[place(panel_size, first_row + p, first_column + j)];
    }
  };

  static Index left_size(Index rows, Index depth) { return rows * depth; }
  static Left left(const View& x, Orientation orientation, double* memory) {
    const bool turned = orientation == Orientation::transposed;
    const Index rows = turned ? x.columns : x.rows, depth = turned ? x.rows : x.columns;
    for (Index i = 0; i < rows; ++i) {
      for (Index p = 0; p < depth; ++p) memory[i * depth + p] = turned ? x(p, i) : x(i, p);
    }
    return {memory, depth};
  }

  static Index weight_size(Index depth, Index columns) {
    return panel_size(depth) * ceil_div(columns, tile_columns);
  }
  static void pack_weight(const View& weight, Orientation orientation, Index panel,
                          double* packed) {
    const bool turned = orientation == Orientation::transposed;
    const Index depth = turned ? weight.columns : weight.rows;
    const Index columns = turned ? weight.rows : weight.columns;
    for (Index p = 0; p < depth; ++p) {
      for (Index j = panel * tile_columns; j < std::min((panel + 1) * tile_columns, columns); ++j) {
        packed[place(panel_size(depth), p, j)] = turned ? weight(j, p) : weight(p, j);
      }
    }
  }
  static Right weight(const double* packed, Index depth) {
    return {packed, panel_size(depth), 0, 0};
  }

  static Index right_size(Orientation, Index depth, Index columns) {
    return weight_size(depth, columns);
  }
  static Right right(const View& x, Orientation orientation, double* memory) {
    const bool turned = orientation == Orientation::transposed;
    const Index columns = turned ? x.rows : x.columns;
    for (Index panel = 0; panel * tile_columns < columns; ++panel) {
      pack_weight(x, orientation, panel, memory);
    }
    return weight(memory, turned ? x.columns : x.rows);
  }

  static Index block_columns() { return tile_columns; }
  static Index block_grain() { return 48; }
  static bool packs_gradients() { return false; }
  static Index gradient_size(Index depth, Index columns) { return weight_size(depth, columns); }
  static void add_gradient(const View& x, const View& dy, const MatrixView<Scalar>& c,
                           double* memory) {
    std::vector<double> turned(static_cast<std::size_t>(x.rows * x.columns));
    multiply(left(x, Orientation::transposed, turned.data()),
             right(dy, Orientation::natural, memory), x.rows, c, Write::accumulate);
  }

  struct Nothing {};
  static Nothing in_use() { return {}; }
  static void multiply(const Left& a, const Right& b, Index depth, const MatrixView<Scalar>& c,
                       Write write) {
    for (Index i = 0; i < c.rows; ++i) {
      for (Index j = 0; j < c.columns; ++j) {
        if (write == Write::assign) c(i, j) = 0;
        for (Index block = 0; block < depth; block += detail::depth_block) {
          double sum = 0;
          for (Index p = block; p < std::min(block + detail::depth_block, depth); ++p) {
            sum = multiply_add(a(i, p), b(p, j), sum);
          }
          c(i, j) += static_cast<Scalar>(sum);
        }
      }
    }
  }

 private:
  /// Where a processor can fuse, compilers do so in some turns of a loop and not in others.
  static double multiply_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return std::fma(a, b, c);
#else
    return a * b + c;
#endif
  }
  static Index panel_size(Index depth) {
    return tile_columns * round_up(depth, tile_depth);
  }
  static Index place(Index panel_size, Index p, Index j) {
    return j / tile_columns * panel_size + p / 2 * 2 * tile_columns + j % tile_columns * 2 + p % 2;
  }
};

static_assert(ProductKernel<NaiveKernel<float>>);

}  // namespace reformer::test
