// SPDX-License-Identifier: MIT
/// @file
/// The gradient of a weight, a product whose depth is the positions; and the product of a matrix
/// with itself, which is one of which half is computed.
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

namespace detail {
/// C += x^T dy, with x `[rows, in]` and dy `[rows, out]`, in blocks of rows. For each of them
/// `for_each_tile(is_first, is_last, add)` calls `add(i, j, tile, thread)` for tiles of C, which
/// begin at its row i and column j and which no other thread has, in a parallel loop.
template <ProductKernel K, typename ForEachTile>
void add_gradient_in_tiles(Workspace& workspace, const K& kernel,
                           const MatrixView<const typename K::Scalar>& x,
                           const MatrixView<const typename K::Scalar>& dy, Index in, Index out,
                           const ForEachTile& for_each_tile) {
  using Packed = typename K::Packed;
  using Tile = MatrixView<typename K::Scalar>;
  const Index depth = std::min(x.rows, depth_block);
  Scratch scratch(workspace);
  if (!kernel.packs_gradients()) {
    const auto memory = scratch.per_thread<Packed>(kernel.gradient_size(depth, most_tile_columns));
    for_each_tile(true, true, [&](Index i, Index j, const Tile& tile, int thread) {
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
  auto* left = scratch.take<Packed>(kernel.left_size(in, depth));
  auto* right = scratch.take<Packed>(kernel.weight_size(depth, out));
  const Index left_tiles = ceil_div(in, tile_rows), panels = ceil_div(out, K::tile_columns);
  for_each_panel(workspace, x.rows, depth, [&](Index row, Index rows) {
    const auto x_rows = x.middle_rows(row, rows), dy_rows = dy.middle_rows(row, rows);
    parallel_for(workspace, left_tiles + panels, [&](Index task, int) {
      if (task >= left_tiles) {
        kernel.pack_weight(dy_rows, Orientation::natural, task - left_tiles, right);
        return;
      }
      const Index i = task * tile_rows;
      kernel.left(x_rows.middle_columns(i, std::min(tile_rows, in - i)), Orientation::transposed,
                  left + kernel.left_size(i, rows));
    });
    // Of no rows, but for the memory that all are in.
    const auto a = kernel.left(x_rows.middle_columns(0, 0), Orientation::transposed, left);
    const auto b = kernel.weight(right, rows);
    for_each_tile(row == 0, row + rows == x.rows, [&](Index i, Index j, const Tile& tile, int) {
      kernel.multiply(a.from(i, 0), b.from(0, j), rows, tile, Write::accumulate);
    });
  });
}
}  // namespace detail

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
  const Index blocks_in = ceil_div(dweight.rows, block_in);
  const Index block_out = detail::columns_of_tile(workspace.threads(), blocks_in, dweight.columns);
  const Index blocks_out = ceil_div(dweight.columns, block_out);
  detail::add_gradient_in_tiles<K>(
      workspace, kernel, x, dy, dweight.rows, dweight.columns, [&](bool, bool, const auto& add) {
        const auto in_tile = [&](Index task, int thread) {
          const Index i = task % blocks_in * block_in, j = task / blocks_in * block_out;
          const Index in = std::min(block_in, dweight.rows - i);
          const Index out = std::min(block_out, dweight.columns - j);
          add(i, j, dweight.middle_rows(i, in).middle_columns(j, out), thread);
        };
        parallel_for(workspace, blocks_in * blocks_out, Multiplying{kernel, in_tile});
      });
}

/// C `[n, n]` = x^T x, with x `[rows, n]` of at least one row: what is on and above the diagonal,
/// in tiles of 64 columns, with the bits of a weight gradient in zeros; below it stands the same
/// again. `finish(tile, column)` is called for `tile`, rows `[0, column + tile.columns)` of columns
/// from `column` on, when it is there and before it is mirrored, and must leave C symmetric.
///
/// @param kernel  or the precision of the product
template <ProductKernel K, typename Finish>
void symmetric_product(Workspace& workspace, const std::type_identity_t<K>& kernel,
                       const MatrixView<const typename K::Scalar>& x,
                       const MatrixView<typename K::Scalar>& c, const Finish& finish) {
  constexpr Index width = 64, together = 16;
  static_assert(width % K::tile_columns == 0);
  const Index blocks = ceil_div(c.columns, width);
  const auto for_each_tile = [&](bool is_first, bool is_last, const auto& add) {
    const auto in_tile = [&](Index task, int thread) {
      const Index j = (blocks - 1 - task) * width;  // the longest begins first
      const Index columns = std::min(width, c.columns - j), rows = j + columns;
      const auto tile = c.middle_rows(0, rows).middle_columns(j, columns);
      for (Index i = 0; is_first && i < rows; ++i) {
        std::fill_n(tile.row(i), columns, typename K::Scalar(0));
      }
      add(0, j, tile, thread);
      if (!is_last) return;
      finish(tile, j);
      for (Index first = 0; first < rows; first += together) {
        for (Index row = j; row < rows; ++row) {
          for (Index i = first; i < std::min(first + together, row); ++i) c(row, i) = c(i, row);
        }
      }
    };
    parallel_for(workspace, blocks, Multiplying{kernel, in_tile});
  };
  detail::add_gradient_in_tiles<K>(workspace, kernel, x, x, c.rows, c.columns, for_each_tile);
}

}  // namespace reformer::inline REFORMER_ABI
