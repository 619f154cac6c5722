// SPDX-License-Identifier: MIT
/// @file
/// The product of activations by a packed weight, shared among threads.
#pragma once

#include "reformer/products/float_kernel.hpp"
#include "reformer/products/packed_weight.hpp"

namespace reformer {

namespace detail {
/// Columns of the result that a task owns, beside `tile_rows`: few enough to share among threads,
/// enough to reuse operands.
inline constexpr Index tile_columns = 256;

/// Columns of a tile: fewer where threads would have nothing to do. No bit depends on it: it stays
/// a multiple of every panel width, and of the 8 numbers that dropout draws together.
inline Index columns_of_tile(int threads, Index row_tiles, Index columns) {
  constexpr Index least = 32;
  Index width = tile_columns;
  while (width > least && row_tiles * ceil_div(columns, width) < threads) {
    width /= 2;
  }
  return width;
}

}  // namespace detail

/// out = or += A B, in parallel tiles; calls `finish(tile, first_row, first_column)` when a tile of
/// out is there.
/// @param a  `[rows, weight.depth]`, row-major
template <typename Scalar, typename Finish>
void weight_product(Workspace& workspace, const MatrixView<const Scalar>& a,
                    const WeightBlock<Scalar>& weight, const MatrixView<Scalar>& out, Write write,
                    const Finish& finish) {
  const Index row_tiles = ceil_div(a.rows, detail::tile_rows);
  const Index width = detail::columns_of_tile(workspace.threads(), row_tiles, weight.columns);
  const Index column_tiles = ceil_div(weight.columns, width);
  parallel_for(workspace.threads(), row_tiles * column_tiles, [&](Index task, int) {
    const Index i = task % row_tiles * detail::tile_rows;
    const Index j = task / row_tiles * width;
    const Index rows = std::min(detail::tile_rows, a.rows - i);
    const Index columns = std::min(width, weight.columns - j);
    const auto tile = out.middle_rows(i, rows).middle_columns(j, columns);
    multiply(rows_as_left(a).from_row(i), weight.from_column(j), weight.depth, tile, write);
    finish(tile, i, j);
  });
}

}  // namespace reformer
