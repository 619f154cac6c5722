// SPDX-License-Identifier: MIT
/// @file
/// The gradient of a weight: a product whose depth is the positions.
#pragma once

#include <algorithm>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// Rows of a weight gradient that a task owns: whole tiles of the kernel.
template <ProductKernel K>
inline constexpr Index gradient_rows = round_up(256, K::tile_rows);
}  // namespace detail

/// The gradient of a parameter; in a plan, which may come before there is one, of its shape alone.
template <typename Scalar>
MatrixView<Scalar> gradient_in(const Workspace& workspace, Parameter<Scalar>& parameter) {
  if (workspace.only_plans()) return {nullptr, parameter.value.rows(), parameter.value.cols()};
  return rows_of(parameter.gradient);
}

/// Weight gradient: dW `[in, out]` += x^T dy, with x `[rows, in]` and dy `[rows, out]`.
///
/// Each task owns a tile of dW and walks all rows, so no sum depends on the number of threads.
///
/// @param kernel  or the precision of the pass
template <ProductKernel K>
void accumulate_weight_gradient(Workspace& workspace, const std::type_identity_t<K>& kernel,
                                const MatrixView<const typename K::Scalar>& x,
                                const MatrixView<const typename K::Scalar>& dy,
                                const MatrixView<typename K::Scalar>& dweight) {
  constexpr Index block_in = detail::gradient_rows<K>;
  const Index depth = std::min(x.rows, detail::depth_block);
  Scratch scratch(workspace);
  const Index blocks_in = ceil_div(dweight.rows, block_in);
  const Index block_out = detail::columns_of_tile(workspace.threads(), blocks_in, dweight.columns);
  const Index blocks_out = ceil_div(dweight.columns, block_out);
  const auto for_each_tile = [&](const auto& body) {
    const auto in_tile = [&](Index task, int thread) {
      const Index i = task % blocks_in * block_in, j = task / blocks_in * block_out;
      const Index in = std::min(block_in, dweight.rows - i);
      const Index out = std::min(block_out, dweight.columns - j);
      body(i, j, dweight.middle_rows(i, in).middle_columns(j, out), thread);
    };
    parallel_for(workspace, blocks_in * blocks_out, Multiplying{kernel, in_tile});
  };
  if (!kernel.packs_gradients()) {
    const auto memory = scratch.per_thread<typename K::Packed>(
        kernel.gradient_size(depth, detail::most_tile_columns));
    for_each_tile([&](Index i, Index j, const auto& tile, int thread) {
      for (Index row = 0; row < x.rows; row += depth) {
        const Index rows = std::min(depth, x.rows - row);
        kernel.add_gradient(x.middle_rows(row, rows).middle_columns(i, tile.rows),
                            dy.middle_rows(row, rows).middle_columns(j, tile.columns), tile,
                            memory[thread]);
      }
    });
    return;
  }
  // Both sides are packed in tiles of their own and serve all tiles of the result.
  auto* left = scratch.take<typename K::Packed>(kernel.left_size(dweight.rows, depth));
  auto* right = scratch.take<typename K::Packed>(kernel.weight_size(depth, dweight.columns));
  const Index left_tiles = ceil_div(dweight.rows, detail::tile_rows);
  const Index panels = ceil_div(dweight.columns, K::tile_columns);
  detail::for_each_panel(workspace, x.rows, depth, [&](Index row, Index rows) {
    const auto x_rows = x.middle_rows(row, rows), dy_rows = dy.middle_rows(row, rows);
    parallel_for(workspace, left_tiles + panels, [&](Index task, int) {
      if (task >= left_tiles) {
        kernel.pack_weight(dy_rows, Orientation::natural, task - left_tiles, right);
        return;
      }
      const Index i = task * detail::tile_rows;
      kernel.left(x_rows.middle_columns(i, std::min(detail::tile_rows, dweight.rows - i)),
                  Orientation::transposed, left + kernel.left_size(i, rows));
    });
    // Of no rows, but for the memory that all are in.
    const auto a = kernel.left(x_rows.middle_columns(0, 0), Orientation::transposed, left);
    const auto b = kernel.weight(right, rows);
    for_each_tile([&](Index i, Index j, const auto& tile, int) {
      kernel.multiply(a.from(i, 0), b.from(0, j), rows, tile, Write::accumulate);
    });
  });
}

}  // namespace reformer::inline REFORMER_ABI
