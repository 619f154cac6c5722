// SPDX-License-Identifier: MIT
/// @file
/// The two sides of a product, A `[m, k]` and B `[k, n]`, as the float kernel reads them.
///
/// A is read by broadcasts, by rows or by columns, so a transposed A costs nothing. B is read in
/// panels of `panel_width` columns: either rows of a small matrix in cache, or a large matrix
/// packed once and shared by all threads.
#pragma once

#include <algorithm>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Columns of B that the register kernel handles at a time.
template <typename Scalar>
inline constexpr Index panel_width = 2 * simd::width<Scalar>;

/// A `[m, k]`: element (i, p) is `data[i * stride + p]`, or by columns `data[p * stride + i]`.
template <typename Scalar>
struct LeftOperand {
  const Scalar* data;
  Index stride;
  bool by_columns;

  LeftOperand from(Index i, Index p) const {
    return {by_columns ? data + p * stride + i : data + i * stride + p, stride, by_columns};
  }
};

/// B `[k, n]` in panels: element (p, j) is `data[(j / w) * panel_stride + p * row_stride + j % w]`,
/// w = panel_width. Whole vectors are read: memory up to the next multiple of the vector width must
/// be readable and finite.
template <typename Scalar>
struct RightOperand {
  const Scalar* data;
  Index panel_stride;
  Index row_stride;

  /// @param j  a multiple of w, unless panels lie side by side in rows
  RightOperand from(Index p, Index j) const {
    constexpr Index w = panel_width<Scalar>;
    return {data + j / w * panel_stride + p * row_stride + j % w, panel_stride, row_stride};
  }
};

/// A row-major matrix, whose rows are padded to whole vectors, as B.
template <typename Scalar>
RightOperand<Scalar> rows_as_right(const Scalar* data, Index stride) {
  return {data, panel_width<Scalar>, stride};
}

/// Elements of memory that B `[depth, columns]` takes when packed.
template <typename Scalar>
constexpr Index packed_size(Index depth, Index columns) {
  return round_up(columns, panel_width<Scalar>) * depth;
}

/// A packed B as operand.
template <typename Scalar>
RightOperand<Scalar> packed_as_right(const Scalar* packed, Index depth) {
  return {packed, depth * panel_width<Scalar>, panel_width<Scalar>};
}

/// Packs panel `panel` of B = b, `[depth, columns]`; columns beyond the last are zero.
template <typename Scalar>
void pack_panel(const MatrixView<const Scalar>& b, Index panel, Scalar* packed) {
  constexpr Index w = panel_width<Scalar>;
  const Index first = panel * w;
  const Index count = std::min(w, b.columns - first);
  Scalar* out = packed + panel * w * b.rows;
  for (Index p = 0; p < b.rows; ++p, out += w) {
    if (count == w) {
      simd::copy(w, b.row(p) + first, out);
    } else {
      std::copy_n(b.row(p) + first, count, out);
      std::fill(out + count, out + w, Scalar(0));
    }
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of a vector type as template argument
#endif

/// out `[columns, rows]` = x^T for x `[rows, columns]`. Columns of out from `rows` up to the next
/// multiple of the vector width are zero.
template <typename Scalar>
void transpose(const MatrixView<const Scalar>& x, Scalar* out, Index out_stride) {
  constexpr Index W = simd::width<Scalar>;
  for (Index i = 0; i < x.rows; i += W) {
    for (Index j = 0; j < x.columns; j += W) {
      const Index rows = std::min(W, x.rows - i), columns = std::min(W, x.columns - j);
      Eigen::internal::PacketBlock<simd::Packet<Scalar>, static_cast<int>(W)> square;
      for (Index r = 0; r < W; ++r) {
        if (r >= rows) {
          square.packet[r] = simd::set(Scalar(0));
        } else if (columns == W) {
          square.packet[r] = simd::load(x.row(i + r) + j);
        } else {
          square.packet[r] = simd::load_partial(x.row(i + r) + j, columns);
        }
      }
      Eigen::internal::ptranspose(square);
      for (Index r = 0; r < columns; ++r) {
        simd::store(out + (j + r) * out_stride + i, square.packet[r]);
      }
    }
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// Packs panel `panel` of B = b^T, where b is `[columns, depth]`.
template <typename Scalar>
void pack_transposed_panel(const MatrixView<const Scalar>& b, Index panel, Scalar* packed) {
  constexpr Index w = panel_width<Scalar>;
  const Index first = panel * w, count = std::min(w, b.rows - first);
  Scalar* out = packed + first * b.columns;
  if (count < w) std::fill_n(out, w * b.columns, Scalar(0));
  transpose(b.middle_rows(first, count), out, w);
}

}  // namespace reformer::inline REFORMER_ABI::detail
