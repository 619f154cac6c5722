// SPDX-License-Identifier: MIT
/// @file
/// A bias, the same for all rows, and its gradient.
#pragma once

#include <algorithm>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI {

/// tile row += bias, for every row
template <typename Scalar>
void add_bias(const MatrixView<Scalar>& tile, const Scalar* bias) {
  for (Index i = 0; i < tile.rows; ++i) simd::add(tile.columns, bias, tile.row(i));
}

/// Bias gradient: dbias `[out]` += sum over rows of dy.
///
/// Rows are summed in tiles before they are added to what is there: one by one, the error would
/// grow with the number of rows of all calls together.
template <typename Scalar>
void accumulate_bias_gradient(Workspace& workspace, const MatrixView<const Scalar>& dy,
                              Scalar* dbias) {
  constexpr Index block = 64, together = 512;
  parallel_for(workspace, ceil_div(dy.columns, block), [&](Index task, int) {
    const Index j = task * block, columns = std::min(block, dy.columns - j);
    Scalar sums[block];
    for (Index first = 0; first < dy.rows; first += together) {
      std::fill_n(sums, columns, Scalar(0));
      const Index last = std::min(first + together, dy.rows);
      for (Index i = first; i < last; ++i) simd::add(columns, dy.row(i) + j, sums);
      simd::add(columns, sums, dbias + j);
    }
  });
}

}  // namespace reformer::inline REFORMER_ABI
