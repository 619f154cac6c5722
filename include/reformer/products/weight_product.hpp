// SPDX-License-Identifier: MIT
/// @file
/// Products of activations by packed weights, shared among threads.
///
/// Who asks says what is multiplied and what is done with a tile of the result while it is in
/// cache. The result is cut into tiles of rows and columns; where rows are few, as in a step of
/// decoding, columns give all threads work. No bit depends on how it is cut.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <numeric>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/packed_weight.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// Columns of the result that a task owns, beside `tile_rows`: few enough to share among threads,
/// enough to reuse operands. No fewer than the least: then they are a multiple of what kernels
/// need, and of the 8 numbers that dropout draws together.
inline constexpr Index most_tile_columns = 256, least_tile_columns = 32;

/// Columns of a tile, so that threads end together: of the cuts into equal parts the one whose
/// longest thread does least, where a tile takes as long as its columns and a few more. Three tiles
/// of 256 columns would keep one of two threads waiting for a third of the time; four of 192 do
/// not.
inline Index columns_of_tile(int threads, Index row_tiles, Index columns) {
  constexpr Index more = 16;
  const Index fewest = std::max<Index>(ceil_div(columns, most_tile_columns), 1);
  Index best = most_tile_columns, least_time = std::numeric_limits<Index>::max();
  for (Index parts = fewest; parts <= fewest + threads; ++parts) {
    const Index width =
        std::max(round_up(ceil_div(columns, parts), least_tile_columns), least_tile_columns);
    const Index tiles = row_tiles * ceil_div(columns, width);
    const Index time = ceil_div(tiles, Index{threads}) * (width + more);
    if (time < least_time) {
      least_time = time;
      best = width;
    }
  }
  return best;
}

/// The same, as a multiple of `grain` columns.
inline Index whole_grains(Index width, Index grain) {
  return round_up(width, std::lcm(least_tile_columns, grain));
}

/// Threads that are worth their waking for a product.
inline int threads_of_product(int most, Index rows, Index depth, Index columns) {
  return threads_for(most, 2.0 * static_cast<double>(rows) * static_cast<double>(depth) *
                               static_cast<double>(columns));
}

/// Elements of memory that a tile's rows of activations take for a product.
template <ProductKernel K>
Index packed_rows(const WeightBlock<K>& weight) {
  return weight.kernel.left_size(tile_rows, weight.depth);
}

/// Multiplies rows of activations that a thread has at hand.
template <ProductKernel K>
void multiply_rows(const MatrixView<const typename K::Scalar>& a, const WeightBlock<K>& weight,
                   Index column, typename K::Packed* memory,
                   const MatrixView<typename K::Scalar>& out, Write write) {
  static_assert(least_tile_columns % K::tile_columns == 0);
  const K& kernel = weight.kernel;
  kernel.multiply(kernel.left(a, Orientation::natural, memory), weight.operand.from(0, column),
                  weight.depth, out, write);
}

}  // namespace detail

/// One term of a sum of products: a `[rows, weight.depth]` by a weight.
template <ProductKernel K>
struct WeightTerm {
  MatrixView<const typename K::Scalar> a;
  WeightBlock<K> weight;
};

/// out = or += a_1 W_1 + a_2 W_2 + ..., terms added in their order; calls `finish(tile, first_row,
/// first_column)` when a tile of out is there.
template <ProductKernel K, typename Finish>
void weight_product(Workspace& workspace, std::initializer_list<WeightTerm<K>> terms,
                    const MatrixView<typename K::Scalar>& out, Write write, const Finish& finish) {
  Index packed = 0, all = 0;
  for (const auto& term : terms) {
    packed = std::max(packed, detail::packed_rows(term.weight));
    all += term.weight.depth;
  }
  Scratch scratch(workspace);
  const auto memory = scratch.per_thread<typename K::Packed>(packed);
  const int threads = detail::threads_of_product(workspace.threads(), out.rows, all, out.columns);
  const Index row_tiles = ceil_div(out.rows, detail::tile_rows);
  const Index width = detail::columns_of_tile(threads, row_tiles, out.columns);
  const auto multiply_tile = [&](Index task, int thread) {
    const Index i = task % row_tiles * detail::tile_rows, j = task / row_tiles * width;
    const Index rows = std::min(detail::tile_rows, out.rows - i);
    const auto tile = out.middle_rows(i, rows).middle_columns(j, std::min(width, out.columns - j));
    Write how = write;
    for (const auto& term : terms) {
      detail::multiply_rows(term.a.middle_rows(i, rows), term.weight, j, memory[thread], tile, how);
      how = Write::accumulate;
    }
    finish(tile, i, j);
  };
  parallel_for(workspace, threads, row_tiles * ceil_div(out.columns, width),
               Multiplying{terms.begin()->weight.kernel, multiply_tile});
}

/// out = or += a W
template <ProductKernel K, typename Finish>
void weight_product(Workspace& workspace, const MatrixView<const typename K::Scalar>& a,
                    const WeightBlock<K>& weight, const MatrixView<typename K::Scalar>& out,
                    Write write, const Finish& finish) {
  weight_product<K>(workspace, {{a, weight}}, out, write, finish);
}

/// a W, which is not kept: calls `finish(tile, first_row, first_column)` for tiles of whole
/// `grain`s of columns, each in memory that is the thread's until `finish` returns.
template <ProductKernel K, typename Finish>
void weight_product_tiles(Workspace& workspace, const MatrixView<const typename K::Scalar>& a,
                          const WeightBlock<K>& weight, Index grain, const Finish& finish) {
  using Scalar = typename K::Scalar;
  const Index columns = weight.columns;
  Scratch scratch(workspace);
  const Index most = detail::whole_grains(detail::most_tile_columns, grain);
  const auto tiles = scratch.per_thread<Scalar>(detail::tile_rows * std::min(most, columns));
  const auto memory = scratch.per_thread<typename K::Packed>(detail::packed_rows(weight));
  const int threads =
      detail::threads_of_product(workspace.threads(), a.rows, weight.depth, columns);
  const Index row_tiles = ceil_div(a.rows, detail::tile_rows);
  const Index width =
      detail::whole_grains(detail::columns_of_tile(threads, row_tiles, columns), grain);
  const auto multiply_tile = [&](Index task, int thread) {
    const Index i = task % row_tiles * detail::tile_rows, j = task / row_tiles * width;
    const Index rows = std::min(detail::tile_rows, a.rows - i);
    const MatrixView<Scalar> tile(tiles[thread], rows, std::min(width, columns - j));
    detail::multiply_rows(a.middle_rows(i, rows), weight, j, memory[thread], tile, Write::assign);
    finish(tile, i, j);
  };
  parallel_for(workspace, threads, row_tiles * ceil_div(columns, width),
               Multiplying{weight.kernel, multiply_tile});
}

/// One of several products with the same rows: out = a W.
template <ProductKernel K>
struct WeightResult {
  WeightBlock<K> weight;
  MatrixView<typename K::Scalar> out;
};

/// Products of the same a `[rows, depth]` by several weights, where a is made as it is needed and
/// never as a whole: `make(first_row, tile)` writes some of its rows.
template <ProductKernel K, typename Make>
void weight_products(Workspace& workspace, Index rows, Index depth, const Make& make,
                     std::initializer_list<WeightResult<K>> results) {
  using Scalar = typename K::Scalar;
  Scratch scratch(workspace);
  const auto made = scratch.per_thread<Scalar>(detail::tile_rows * depth);
  Index columns = 0, packed = 0;
  for (const auto& result : results) {
    columns += result.out.columns;
    packed = std::max(packed, detail::packed_rows(result.weight));
  }
  const auto memory = scratch.per_thread<typename K::Packed>(packed);
  const int threads = detail::threads_of_product(workspace.threads(), rows, depth, columns);
  const K kernel = results.begin()->weight.kernel;
  const Index row_tiles = ceil_div(rows, detail::tile_rows);
  const auto rows_of_tile = [&](Index tile, Scalar* data) {
    const Index count = std::min(detail::tile_rows, rows - tile * detail::tile_rows);
    return MatrixView<Scalar>(data, count, depth);
  };
  if (row_tiles >= threads) {
    const auto multiply_rows_of = [&](Index task, int thread) {
      const Index first = task * detail::tile_rows;
      const auto a = rows_of_tile(task, made[thread]);
      make(first, a);
      for (const auto& [weight, out] : results) {
        detail::multiply_rows<K>(a, weight, 0, memory[thread], out.middle_rows(first, a.rows),
                                 Write::assign);
      }
    };
    parallel_for(workspace, threads, row_tiles, Multiplying{kernel, multiply_rows_of});
    return;
  }
  // Rows first, each tile of them in the memory of one thread, then columns.
  parallel_for(workspace, threads, row_tiles, [&](Index task, int) {
    make(task * detail::tile_rows, rows_of_tile(task, made[static_cast<int>(task)]));
  });
  const Index width = detail::columns_of_tile(threads, row_tiles, columns);
  Index tasks = 0;
  for (const auto& result : results) tasks += row_tiles * ceil_div(result.out.columns, width);
  const auto multiply_tile = [&](Index task, int thread) {
    const auto* result = results.begin();
    for (Index own; task >= (own = row_tiles * ceil_div(result->out.columns, width)); ++result) {
      task -= own;
    }
    const Index tile = task % row_tiles, j = task / row_tiles * width;
    const auto a = rows_of_tile(tile, made[static_cast<int>(tile)]);
    const auto out = result->out.middle_rows(tile * detail::tile_rows, a.rows)
                         .middle_columns(j, std::min(width, result->out.columns - j));
    detail::multiply_rows<K>(a, result->weight, j, memory[thread], out, Write::assign);
  };
  parallel_for(workspace, threads, tasks, Multiplying{kernel, multiply_tile});
}

}  // namespace reformer::inline REFORMER_ABI
