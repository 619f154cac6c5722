// SPDX-License-Identifier: MIT
/// @file
/// The two sides of a product, packed as bfloat16 numbers.
///
/// Pairs of neighbours along the depth stand in the memory of floats, in rows or panels that are
/// filled with zeros to a multiple of `bfloat16_depth`. Low parts, if there are any, stand behind
/// the high parts of the same row or panel.
#pragma once

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/products/bfloat16_tiles.hpp"
#include "reformer/products/float_operands.hpp"
#include "reformer/products/product_kernel.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// A `[m, k]`, row after row.
struct Bfloat16Left {
  const float* data;
  Index stride;
  Index low;  ///< from high to low parts; 0: there are none

  /// @param p  a multiple of `bfloat16_depth`
  Bfloat16Left from(Index i, Index p) const { return {data + i * stride + p / 2, stride, low}; }
};

/// B `[k, n]` in panels of `bfloat16_panel` columns.
struct Bfloat16Right {
  const float* data;
  Index panel_stride;
  Index low;

  /// @param p  a multiple of `bfloat16_depth`
  /// @param j  a multiple of `bfloat16_panel`
  Bfloat16Right from(Index p, Index j) const {
    constexpr Index w = bfloat16_panel;
    return {data + j / w * panel_stride + p / 2 * w, panel_stride, low};
  }
};

inline Index bfloat16_pairs(Index depth) {
  return round_up(depth, bfloat16_depth) / 2;
}

/// A = x or x^T, in memory of `bfloat16_left_size`.
template <bool Low>
REFORMER_EXPORT void pack_bfloat16_left(const MatrixView<const float>& x, Orientation orientation,
                                        float* to, Index stride, Index low);

/// A panel of B = x or x^T.
/// @param x  `[depth, columns]` or `[columns, depth]`, of the panel alone
template <bool Low>
REFORMER_EXPORT void pack_bfloat16_panel(const MatrixView<const float>& x, Orientation orientation,
                                         float* to, Index low);

}  // namespace reformer::inline REFORMER_ABI::detail
