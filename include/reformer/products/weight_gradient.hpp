// SPDX-License-Identifier: MIT
/// @file
/// The gradient of a weight: a product whose depth is the positions.
#pragma once

#include <algorithm>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// Rows of a weight gradient that a task owns: whole tiles of the kernel.
template <ProductKernel K>
inline constexpr Index gradient_rows = round_up(256, K::tile_rows);
}  // namespace detail

/// Weight gradient: dW `[in, out]` += x^T dy, with x `[rows, in]` and dy `[rows, out]`.
///
/// Each task owns a tile of dW and walks all rows, so no sum depends on the number of threads.
template <ProductKernel K, ScratchSource Source>
void accumulate_weight_gradient(Source& workspace, const MatrixView<const typename K::Scalar>& x,
                                const MatrixView<const typename K::Scalar>& dy,
                                const MatrixView<typename K::Scalar>& dweight) {
  constexpr Index block_in = detail::gradient_rows<K>;
  const Index depth = std::min(x.rows, detail::depth_block);
  ScratchOf<Source> scratch(workspace);
  const auto memory = scratch.template per_thread<typename K::Packed>(
      K::gradient_size(depth, detail::most_tile_columns));
  const Index blocks_in = ceil_div(dweight.rows, block_in);
  const Index block_out = detail::columns_of_tile(workspace.threads(), blocks_in, dweight.columns);
  const Index blocks_out = ceil_div(dweight.columns, block_out);
  parallel_for(workspace, blocks_in * blocks_out, [&](Index task, int thread) {
    const Index i = task % blocks_in * block_in, j = task / blocks_in * block_out;
    const Index in = std::min(block_in, dweight.rows - i);
    const Index out = std::min(block_out, dweight.columns - j);
    const auto tile = dweight.middle_rows(i, in).middle_columns(j, out);
    for (Index row = 0; row < x.rows; row += depth) {
      const Index rows = std::min(depth, x.rows - row);
      K::add_gradient(x.middle_rows(row, rows).middle_columns(i, in),
                      dy.middle_rows(row, rows).middle_columns(j, out), tile, memory[thread]);
    }
  });
}

}  // namespace reformer::inline REFORMER_ABI
