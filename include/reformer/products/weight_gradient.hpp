// SPDX-License-Identifier: MIT
/// @file
/// The gradient of a weight: a product whose depth is the positions.
#pragma once

#include "reformer/products/weight_product.hpp"

namespace reformer {

namespace detail {
/// Rows of a weight gradient that a task owns: 19 register tiles of 14.
inline constexpr Index gradient_rows = 266;
}  // namespace detail

template <typename Scalar>
void plan_weight_gradient(ScratchPlan& scratch, Index rows) {
  const Index depth = std::min(rows, detail::depth_block);
  scratch.scope([&] { scratch.per_thread<Scalar>(packed_size<Scalar>(depth, 1)); });
}

/// Weight gradient: dW `[in, out]` += x^T dy, with x `[rows, in]` and dy `[rows, out]`.
///
/// Each task owns a tile of dW and walks all rows, so no sum depends on the number of threads.
template <typename Scalar>
void accumulate_weight_gradient(Workspace& workspace, const MatrixView<const Scalar>& x,
                                const MatrixView<const Scalar>& dy,
                                const MatrixView<Scalar>& dweight) {
  constexpr Index block_in = detail::gradient_rows;
  const Index depth = std::min(x.rows, detail::depth_block);
  Scratch scratch(workspace);
  const auto packed = scratch.per_thread<Scalar>(packed_size<Scalar>(depth, 1));
  const Index blocks_in = ceil_div(dweight.rows, block_in);
  const Index block_out = detail::columns_of_tile(workspace.threads(), blocks_in, dweight.columns);
  const Index blocks_out = ceil_div(dweight.columns, block_out);
  parallel_for(workspace.threads(), blocks_in * blocks_out, [&](Index task, int thread) {
    const Index i0 = task % blocks_in * block_in, i1 = std::min(i0 + block_in, dweight.rows);
    const Index j = task / blocks_in * block_out;
    const Index columns = std::min(block_out, dweight.columns - j);
    // Rows of dy are read where they are, but for a last panel that vectors would read beyond.
    const Index whole = columns / simd::width<Scalar> * simd::width<Scalar>;
    for (Index row = 0; row < x.rows; row += depth) {
      const Index rows = std::min(depth, x.rows - row);
      const auto dy_part = dy.middle_rows(row, rows).middle_columns(j, columns);
      if (whole < columns) {
        pack_panel(dy_part.middle_columns(whole, columns - whole), 0, packed[thread]);
      }
      const auto left = columns_as_left<Scalar>(x.row(row) + i0, x.stride);
      const auto tile = dweight.middle_rows(i0, i1 - i0).middle_columns(j, columns);
      multiply(left, rows_as_right(dy_part.data, dy_part.stride), rows,
               tile.middle_columns(0, whole), Write::accumulate);
      if (whole < columns) {
        multiply(left, packed_as_right<Scalar>(packed[thread], rows), rows,
                 tile.middle_columns(whole, columns - whole), Write::accumulate);
      }
    }
  });
}

}  // namespace reformer
