// SPDX-License-Identifier: MIT
/// @file
/// Packs floats as pairs of bfloat16 numbers, by the instructions that round or in portable code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/products/bfloat16.hpp"
#include "reformer/products/bfloat16_operands.hpp"
#include "reformer/products/bfloat16_units.hpp"
#include "reformer/products/float_operands.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Writes a pair, and that of the low parts unless there are none.
template <bool Low>
inline void put_pair(float even, float odd, float* to, Index low) {
  if constexpr (Low) {
    const Bfloat16Parts first = bfloat16_parts(even), second = bfloat16_parts(odd);
    store_pair(to, bfloat16_pair(first.high, second.high));
    store_pair(to + low, bfloat16_pair(first.low, second.low));
  } else {
    store_pair(to, bfloat16_pair(bfloat16_bits(even), bfloat16_bits(odd)));
  }
}

#ifdef REFORMER_BFLOAT16_X86

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

/// Two vectors as bfloat16 numbers side by side, and their low parts, as `bfloat16_parts` says.
template <bool Low>
__attribute__((target("avx512f,avx512bf16"), always_inline)) inline void avx512_parts(
    const __m512& first, const __m512& second, __m512i& high, __m512i& low) {
  high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  if constexpr (Low) {
    // Under a mask of all lanes: gcc 12 takes what others write over for uninitialised.
    constexpr __mmask16 all = 0xFFFF;
    const auto* halves = reinterpret_cast<const __m256i*>(&high);
    const __m512i a = _mm512_maskz_cvtepu16_epi32(all, halves[0]);
    const __m512i b = _mm512_maskz_cvtepu16_epi32(all, halves[1]);
    low = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(
        _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all, b, 16))),
        _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_maskz_slli_epi32(all, a, 16)))));
  }
}
/// The first `count` lanes of 16, if it is in between.
__attribute__((target("avx512f"), always_inline)) inline __mmask16 avx512_lanes(Index count) {
  return static_cast<__mmask16>((1u << std::clamp<Index>(count, 0, 16)) - 1);
}

/// `pairs_along` in the instructions that round.
template <bool Low>
__attribute__((target("avx512f,avx512bf16"))) inline void avx512_pairs_along(const float* x,
                                                                             Index depth, float* to,
                                                                             Index low) {
  for (Index p = 0; p < depth; p += bfloat16_depth) {
    __m512i high_pairs, low_pairs;
    avx512_parts<Low>(_mm512_maskz_loadu_ps(avx512_lanes(depth - p), x + p),
                      _mm512_maskz_loadu_ps(avx512_lanes(depth - p - 16), x + p + 16), high_pairs,
                      low_pairs);
    _mm512_storeu_si512(to + p / 2, high_pairs);
    if constexpr (Low) _mm512_storeu_si512(to + low + p / 2, low_pairs);
  }
}

/// `pairs_across`, likewise.
template <bool Low>
__attribute__((target("avx512f,avx512bw,avx512bf16"))) inline void avx512_pairs_across(
    const float* x, Index stride, Index rows, Index count, float* to, Index low) {
  alignas(64) static constexpr std::uint16_t lanes[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i interleaved = _mm512_load_si512(lanes);
  for (Index j = 0; j < count; j += 16) {
    const __mmask16 mask = avx512_lanes(count - j);
    __m512i high_pairs, low_pairs;
    avx512_parts<Low>(rows > 0 ? _mm512_maskz_loadu_ps(mask, x + j) : _mm512_setzero_ps(),
                      rows > 1 ? _mm512_maskz_loadu_ps(mask, x + stride + j) : _mm512_setzero_ps(),
                      high_pairs, low_pairs);
    _mm512_mask_storeu_epi32(to + j, mask,
                             _mm512_maskz_permutexvar_epi16(0xFFFFFFFF, interleaved, high_pairs));
    if constexpr (Low) {
      _mm512_mask_storeu_epi32(to + low + j, mask,
                               _mm512_maskz_permutexvar_epi16(0xFFFFFFFF, interleaved, low_pairs));
    }
  }
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#endif  // REFORMER_BFLOAT16_X86

/// Pairs along a row x `[depth]`, filled up with zeros.
template <bool Low>
inline void portable_pairs_along(const float* x, Index depth, float* to, Index low) {
  const Index whole = depth / 2;
  for (Index p = 0; p < whole; ++p) put_pair<Low>(x[2 * p], x[2 * p + 1], to + p, low);
  if (depth % 2 == 1) put_pair<Low>(x[depth - 1], 0.0F, to + whole, low);
  for (Index p = ceil_div(depth, 2); p < bfloat16_pairs(depth); ++p) {
    put_pair<Low>(0.0F, 0.0F, to + p, low);
  }
}

template <bool Low>
inline void pairs_along(const float* x, Index depth, float* to, Index low) {
#ifdef REFORMER_BFLOAT16_X86
  if (has_avx512_bfloat16()) return avx512_pairs_along<Low>(x, depth, to, low);
#endif
  portable_pairs_along<Low>(x, depth, to, low);
}

/// Pairs of two rows `[count]`, of which there may be fewer: they count as zeros.
/// @param rows  2 or more, 1 or none
template <bool Low>
inline void portable_pairs_across(const float* x, Index stride, Index rows, Index count, float* to,
                                  Index low) {
  if (rows >= 2) {
    for (Index j = 0; j < count; ++j) put_pair<Low>(x[j], x[stride + j], to + j, low);
  } else {
    for (Index j = 0; j < count; ++j) put_pair<Low>(rows == 1 ? x[j] : 0.0F, 0.0F, to + j, low);
  }
}

template <bool Low>
inline void pairs_across(const float* x, Index stride, Index rows, Index count, float* to,
                         Index low) {
#ifdef REFORMER_BFLOAT16_X86
  if (has_avx512_bfloat16()) return avx512_pairs_across<Low>(x, stride, rows, count, to, low);
#endif
  portable_pairs_across<Low>(x, stride, rows, count, to, low);
}

/// Squares that are turned at a time: this many pairs of the depth by so many rows or columns.
inline constexpr Index turned_pairs = bfloat16_depth / 2, turned_rows = 64;

/// A = x^T for x `[depth, rows]`, row after row at `stride`.
template <bool Low>
inline void pack_turned_rows(const MatrixView<const float>& x, float* to, Index stride, Index low) {
  constexpr Index part = turned_pairs * turned_rows;
  alignas(64) float square[2 * part];
  for (Index p = 0; p < bfloat16_pairs(x.rows); p += turned_pairs) {
    for (Index i = 0; i < x.columns; i += turned_rows) {
      const Index rows = std::min(turned_rows, x.columns - i);
      for (Index q = 0; q < turned_pairs; ++q) {
        const Index depth = std::min(2 * (p + q), x.rows);
        pairs_across<Low>(x.row(depth) + i, x.stride, x.rows - depth, rows,
                          square + q * turned_rows, part);
      }
      float* out = to + i * stride + p;
      transpose<float>({square, turned_pairs, rows, turned_rows}, out, stride);
      if constexpr (Low) {
        transpose<float>({square + part, turned_pairs, rows, turned_rows}, out + low, stride);
      }
    }
  }
}

/// A panel of B = x^T for x `[columns, depth]`, of at most `bfloat16_panel` columns.
template <bool Low>
inline void pack_turned_panel(const MatrixView<const float>& x, float* to, Index low) {
  constexpr Index w = bfloat16_panel, part = w * turned_pairs;
  alignas(64) float square[2 * part];
  for (Index p = 0; p < bfloat16_pairs(x.columns); p += turned_pairs) {
    const Index depth = std::min(bfloat16_depth, x.columns - 2 * p);
    for (Index j = 0; j < w; ++j) {
      pairs_along<Low>(j < x.rows ? x.row(j) + 2 * p : nullptr, j < x.rows ? depth : 0,
                       square + j * turned_pairs, part);
      if (j >= x.rows) {
        std::fill_n(square + j * turned_pairs, turned_pairs, 0.0F);
        std::fill_n(square + part + j * turned_pairs, Low ? turned_pairs : 0, 0.0F);
      }
    }
    transpose<float>({square, w, turned_pairs, turned_pairs}, to + p * w, w);
    if constexpr (Low) {
      transpose<float>({square + part, w, turned_pairs, turned_pairs}, to + low + p * w, w);
    }
  }
}

/// A panel of B = x `[depth, columns]`, of at most `bfloat16_panel` columns.
template <bool Low>
inline void pack_natural_panel(const MatrixView<const float>& x, float* to, Index low) {
  for (Index p = 0; p < bfloat16_pairs(x.rows); ++p, to += bfloat16_panel) {
    const Index depth = std::min(2 * p, x.rows);
    pairs_across<Low>(x.row(depth), x.stride, x.rows - depth, x.columns, to, low);
    for (Index j = x.columns; j < bfloat16_panel; ++j) put_pair<Low>(0.0F, 0.0F, to + j, low);
  }
}

template <bool Low>
REFORMER_COMPILED_ONCE void pack_bfloat16_left(const MatrixView<const float>& x,
                                               Orientation orientation, float* to, Index stride,
                                               Index low) {
  if (orientation == Orientation::transposed) return pack_turned_rows<Low>(x, to, stride, low);
  for (Index i = 0; i < x.rows; ++i) {
    pairs_along<Low>(x.row(i), x.columns, to + i * stride, low);
  }
}

template <bool Low>
REFORMER_COMPILED_ONCE void pack_bfloat16_panel(const MatrixView<const float>& x,
                                                Orientation orientation, float* to, Index low) {
  if (orientation == Orientation::natural) {
    pack_natural_panel<Low>(x, to, low);
  } else {
    pack_turned_panel<Low>(x, to, low);
  }
}

}  // namespace reformer::inline REFORMER_ABI::detail
