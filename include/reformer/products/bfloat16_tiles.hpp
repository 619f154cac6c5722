// SPDX-License-Identifier: MIT
/// @file
/// Products of bfloat16 numbers with float sums: the instructions that there are for them, and the
/// same arithmetic in portable code.
///
/// A sum is over a block of at most `depth_block` products and begins at zero. Depths go in pairs
/// (p, p + 1), p even. Instructions add in different orders, so the bits of a product are those of
/// one of these:
///
/// - `chain`, of `vdpbf16ps`: for each pair, the product of the odd depth is added, then that of
///   the even one.
/// - `tile`, of `tdpbf16ps`: for each 32 depths, one chain over the odd and one over the even ones
///   begin at zero; their sum is added.
///
/// All are rounded as `bfloat16_bits` says. Operands in two parts are summed in one go: low times
/// high, high times low, high times high, each over the whole block.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/products/bfloat16.hpp"
#include "reformer/products/product_kernel.hpp"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define REFORMER_BFLOAT16_X86 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// Columns of B that are packed together.
inline constexpr Index bfloat16_panel = 32;
/// Packed depths are filled with zeros to a multiple of this.
inline constexpr Index bfloat16_depth = 32;

/// C `[rows, columns]` = or += A B over a block of the depth, for at most `bfloat16_panel` columns.
///
/// Pairs stand in the memory of floats: A's as `a[i * a_stride + p / 2]`, B's as
/// `b[p / 2 * bfloat16_panel + j]`, for a depth that is a multiple of `bfloat16_depth`. Low parts
/// are as far behind high parts as the offsets say, or there are none and both are 0.
struct Bfloat16Tile {
  const float* a;
  Index a_stride, a_low;
  const float* b;
  Index b_low;
  Index depth;
  float* c;
  Index c_stride, rows, columns;
  bool accumulate;
};

/// Of which parts the products are that a sum goes through, in order.
struct Bfloat16Terms {
  struct Term {
    Index a, b;  // offsets of the parts
  };
  std::array<Term, 3> terms;
  std::size_t count;

  explicit Bfloat16Terms(const Bfloat16Tile& tile)
      : terms{{{tile.a_low, 0}, {0, tile.b_low}, {0, 0}}}, count(3) {
    if (tile.a_low == 0) {
      terms[0] = {0, 0};
      count = 1;
    }
  }
  const Term* begin() const { return terms.data(); }
  const Term* end() const { return terms.data() + count; }
};

/// Orders of additions: see above.
enum class Bfloat16Order { chain, tile };

/// Sums of a row of C, as the instruction of that order makes them, in portable code.
template <Bfloat16Order order>
void add_bfloat16_pairs(const float* a, const float* b, Index pairs, float* sums) {
  constexpr Index n = bfloat16_panel;
  if constexpr (order == Bfloat16Order::chain) {
    for (Index p = 0; p < pairs; ++p, b += n) {
      const std::uint32_t x = load_pair(a + p);
      for (Index j = 0; j < n; ++j) {
        const std::uint32_t y = load_pair(b + j);
        sums[j] = multiply_add_flushed(even_of(x), even_of(y),
                                       multiply_add_flushed(odd_of(x), odd_of(y), sums[j]));
      }
    }
  } else {
    for (Index first = 0; first < pairs; first += bfloat16_depth / 2) {
      float even[n] = {}, odd[n] = {};
      for (Index p = first; p < first + bfloat16_depth / 2; ++p, b += n) {
        const std::uint32_t x = load_pair(a + p);
        for (Index j = 0; j < n; ++j) {
          const std::uint32_t y = load_pair(b + j);
          even[j] = multiply_add_flushed(even_of(x), even_of(y), even[j]);
          odd[j] = multiply_add_flushed(odd_of(x), odd_of(y), odd[j]);
        }
      }
      for (Index j = 0; j < n; ++j) sums[j] = add_flushed(sums[j], add_flushed(even[j], odd[j]));
    }
  }
}

template <Bfloat16Order order>
REFORMER_COMPILED_ONCE void portable_bfloat16_tile(const Bfloat16Tile& tile) {
  const Bfloat16Terms terms(tile);
  for (Index i = 0; i < tile.rows; ++i) {
    float sums[bfloat16_panel] = {};
    for (const auto& term : terms) {
      add_bfloat16_pairs<order>(tile.a + i * tile.a_stride + term.a, tile.b + term.b,
                                tile.depth / 2, sums);
    }
    float* c = tile.c + i * tile.c_stride;
    for (Index j = 0; j < tile.columns; ++j) c[j] = tile.accumulate ? c[j] + sums[j] : sums[j];
  }
}

#ifdef REFORMER_BFLOAT16_X86

#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wcast-align"
#elif defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

/// `Rows` rows of a tile by `vdpbf16ps`.
template <int Rows>
__attribute__((target("avx512f,avx512bf16"))) REFORMER_COMPILED_ONCE void avx512_bfloat16_rows(
    const Bfloat16Tile& tile, const Bfloat16Terms& terms) {
  __m512 sums[Rows][2];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  for (const auto& term : terms) {
    const float* a = tile.a + term.a;
    const float* b = tile.b + term.b;
#pragma GCC unroll 2
    for (Index p = 0; p < tile.depth / 2; ++p, b += bfloat16_panel) {
      const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_ps(b));
      const auto b1 = reinterpret_cast<__m512bh>(_mm512_loadu_ps(b + 16));
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const auto x = reinterpret_cast<__m512bh>(_mm512_set1_ps(a[i * tile.a_stride + p]));
        sums[i][0] = _mm512_dpbf16_ps(sums[i][0], x, b0);
        sums[i][1] = _mm512_dpbf16_ps(sums[i][1], x, b1);
      }
    }
  }
  const auto mask = static_cast<std::uint32_t>((std::uint64_t{1} << tile.columns) - 1);
  const auto mask0 = static_cast<__mmask16>(mask), mask1 = static_cast<__mmask16>(mask >> 16);
  float* c = tile.c;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i, c += tile.c_stride) {
    if (tile.accumulate) {
      sums[i][0] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask0, c), sums[i][0]);
      sums[i][1] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask1, c + 16), sums[i][1]);
    }
    _mm512_mask_storeu_ps(c, mask0, sums[i][0]);
    _mm512_mask_storeu_ps(c + 16, mask1, sums[i][1]);
  }
}

inline void avx512_bfloat16_tile(const Bfloat16Tile& tile) {
  using Function = void (*)(const Bfloat16Tile&, const Bfloat16Terms&);
  struct Kernel {
    Index rows;
    Function function;
  };
  constexpr Kernel kernels[] = {{13, avx512_bfloat16_rows<13>},
                                {12, avx512_bfloat16_rows<12>},
                                {4, avx512_bfloat16_rows<4>},
                                {2, avx512_bfloat16_rows<2>},
                                {1, avx512_bfloat16_rows<1>}};
  const Bfloat16Terms terms(tile);
  Bfloat16Tile part = tile;
  for (const Kernel& kernel : kernels) {
    // 64 rows are 4 x 13 + 12.
    for (; part.rows >= kernel.rows; part.rows -= kernel.rows) {
      kernel.function(part, terms);
      part.a += kernel.rows * part.a_stride;
      part.c += kernel.rows * part.c_stride;
    }
  }
}

#if defined(__clang__)
#pragma clang diagnostic pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#endif  // REFORMER_BFLOAT16_X86

}  // namespace detail

/// What multiplies bfloat16 numbers. The bits of a product are those of its order of additions.
struct Bfloat16Unit {
  const char* name;
  detail::Bfloat16Order order;
  void (*multiply)(const detail::Bfloat16Tile&);
};

namespace detail {

inline constexpr Bfloat16Unit portable_tile_unit{"portable", Bfloat16Order::tile,
                                                 portable_bfloat16_tile<Bfloat16Order::tile>};
inline constexpr Bfloat16Unit portable_chain_unit{"portable, in the order of avx512_bf16",
                                                  Bfloat16Order::chain,
                                                  portable_bfloat16_tile<Bfloat16Order::chain>};
#ifdef REFORMER_BFLOAT16_X86
inline constexpr Bfloat16Unit avx512_unit{"avx512_bf16", Bfloat16Order::chain,
                                          avx512_bfloat16_tile};
inline bool has_avx512_bfloat16() {
  return __builtin_cpu_supports("avx512bf16") != 0;
}
#endif

}  // namespace detail

/// The unit that this machine has.
inline const Bfloat16Unit& bfloat16_unit() {
#ifdef REFORMER_BFLOAT16_X86
  if (detail::has_avx512_bfloat16()) return detail::avx512_unit;
#endif
  return detail::portable_tile_unit;
}

}  // namespace reformer::inline REFORMER_ABI
