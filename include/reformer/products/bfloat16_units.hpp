// SPDX-License-Identifier: MIT
/// @file
/// The instructions that there are for products of bfloat16 numbers, and the same arithmetic in
/// portable code. What they add in which order is said in `bfloat16_tiles.hpp`.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/products/bfloat16.hpp"
#include "reformer/products/bfloat16_tiles.hpp"
#include "reformer/products/product_kernel.hpp"

#ifdef REFORMER_BFLOAT16_X86
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace reformer::inline REFORMER_ABI {

namespace detail {

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
REFORMER_COMPILED_ONCE void portable_bfloat16_panel(const Bfloat16Tile& tile) {
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

template <Bfloat16Order order>
void portable_bfloat16_tile(const Bfloat16Tile& tile) {
  tile.for_each_panel(portable_bfloat16_panel<order>);
}

#ifdef REFORMER_BFLOAT16_X86

#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wcast-align"
#elif defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"
#endif

/// `Rows` rows of a panel by `vdpbf16ps`.
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

/// Sums that the registers hold, with a row of B and an element of A.
inline constexpr int avx512_bfloat16_height = 13;

/// In pieces of nearly equal height: instructions of few rows wait for each other.
inline void avx512_bfloat16_panel(const Bfloat16Tile& panel) {
  static constexpr auto kernels = []<int... I>(std::integer_sequence<int, I...>) {
    return std::array{avx512_bfloat16_rows<I + 1>...};
  }
  (std::make_integer_sequence<int, avx512_bfloat16_height>{});
  if (panel.rows == 0) return;
  const Bfloat16Terms terms(panel);
  const Index pieces = ceil_div(panel.rows, Index{avx512_bfloat16_height});
  const Index low = panel.rows / pieces, taller = panel.rows - low * pieces;
  Bfloat16Tile part = panel;
  for (Index piece = 0; piece < pieces; ++piece) {
    const Index height = piece < taller ? low + 1 : low;
    kernels[static_cast<std::size_t>(height - 1)](part, terms);
    part.a += height * part.a_stride;
    part.c += height * part.c_stride;
  }
}

inline void avx512_bfloat16_tile(const Bfloat16Tile& tile) {
  tile.for_each_panel(avx512_bfloat16_panel);
}

#if defined(__clang__)
#pragma clang diagnostic pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

/// AMX's tiles, all of 16 rows of 64 bytes: C in 0 to 3, two by two, A in 4 and 5, B in 6 and 7.
struct AmxConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(AmxConfiguration) == 64);

inline void begin_amx_bfloat16() {
  alignas(64) static constexpr AmxConfiguration configuration;
  // gcc 12 reads 8 of the 64 bytes that its own function is given.
  asm volatile("ldtilecfg %0" ::"m"(configuration));
}
__attribute__((target("amx-tile"))) inline void end_amx_bfloat16() {
  _tile_release();  // or every change of threads carries the tiles
}

/// At most 32 rows of a panel by `tdpbf16ps`.
__attribute__((target("amx-tile,amx-bf16"))) REFORMER_COMPILED_ONCE inline void amx_bfloat16_block(
    const Bfloat16Tile& tile) {
  constexpr Index w = bfloat16_panel, row_bytes = sizeof(float), height = 16;
  const Bfloat16Terms terms(tile);
  const bool has_high = tile.rows > height;
  const Index last_row = has_high ? height : 0, last_rows = tile.rows - last_row;
  alignas(64) float sums[2 * height * w];
  alignas(64) float last_tile[height * bfloat16_depth / 2] = {};  // if A has fewer rows
  asm volatile("" ::: "memory");  // what was packed is in memory before tiles are loaded
  _tile_zero(0);
  _tile_zero(1);
  if (has_high) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (const auto& term : terms) {
    const float* a = tile.a + term.a;
    const float* b = tile.b + term.b;
    for (Index p = 0; p < tile.depth / 2; p += bfloat16_depth / 2) {
      const float* last = a + last_row * tile.a_stride + p;
      Index last_stride = tile.a_stride * row_bytes;
      if (last_rows < height) {
        for (Index i = 0; i < last_rows; ++i) {
          std::copy_n(last + i * tile.a_stride, bfloat16_depth / 2,
                      last_tile + i * bfloat16_depth / 2);
        }
        asm volatile("" ::: "memory");
        last = last_tile;
        last_stride = bfloat16_depth / 2 * row_bytes;
      }
      _tile_loadd(6, b + p * w, w * row_bytes);
      _tile_loadd(7, b + p * w + 16, w * row_bytes);
      if (has_high) {
        _tile_loadd(4, a + p, tile.a_stride * row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, last, last_stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      } else {
        _tile_loadd(4, last, last_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
      }
    }
  }
  _tile_stored(0, sums, w * row_bytes);
  _tile_stored(1, sums + 16, w * row_bytes);
  if (has_high) {
    _tile_stored(2, sums + height * w, w * row_bytes);
    _tile_stored(3, sums + height * w + 16, w * row_bytes);
  }
  asm volatile("" ::: "memory");
  for (Index i = 0; i < tile.rows; ++i) {
    float* c = tile.c + i * tile.c_stride;
    for (Index j = 0; j < tile.columns; ++j) {
      c[j] = tile.accumulate ? c[j] + sums[i * w + j] : sums[i * w + j];
    }
  }
}

/// On a thread that has called `begin_amx_bfloat16`.
inline void amx_bfloat16_tile(const Bfloat16Tile& tile) {
  Bfloat16Tile block = tile;
  for (Index left = tile.rows; left > 0; left -= block.rows) {
    block.rows = std::min<Index>(left, 32);
    block.for_each_panel(amx_bfloat16_block);
    block.a += block.rows * block.a_stride;
    block.c += block.rows * block.c_stride;
  }
}

/// Whether there is AMX and the process may use it, for which it must ask, once.
inline bool may_use_amx_bfloat16() {
  static const bool may = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned saves_state = 1U << 27, bfloat16 = 1U << 22, tiles = 1U << 24;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & saves_state) == 0) return false;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    if ((d & bfloat16) == 0 || (d & tiles) == 0) return false;
    unsigned enabled = 0, upper = 0;
    asm volatile("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
    constexpr unsigned tile_state = 1U << 17 | 1U << 18;
    if ((enabled & tile_state) != tile_state) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;
    return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return may;
}

#endif  // REFORMER_BFLOAT16_X86

inline constexpr Bfloat16Unit portable_tile_unit{"portable", Bfloat16Order::tile,
                                                 portable_bfloat16_tile<Bfloat16Order::tile>};
#ifdef REFORMER_BFLOAT16_X86
inline constexpr Bfloat16Unit avx512_unit{avx512_name.data(), Bfloat16Order::chain,
                                          avx512_bfloat16_tile};
inline constexpr Bfloat16Unit amx_unit{amx_name.data(), Bfloat16Order::tile, amx_bfloat16_tile,
                                       begin_amx_bfloat16, end_amx_bfloat16};
inline bool has_avx512_bfloat16() {
  return __builtin_cpu_supports("avx512bf16") != 0;
}
#endif

/// Whether a unit gives the bits of portable code in its order, in tiles that take each of its
/// ways: all heights of its kernels, several panels, one part and two. Row 0 times column 0 is
/// denormal.
inline bool gives_its_bits(const Bfloat16Unit& unit) {
  constexpr std::array<Index, 17> heights{1,  2,  3,  4,  5,  6,  7,  8, 9,
                                          10, 11, 12, 13, 16, 19, 32, 33};
  constexpr Index most = heights.back(), columns = 33, depth = 64, low = depth / 2;
  constexpr Index a_stride = 2 * low, b_low = low * bfloat16_panel, b_panel = 2 * b_low;
  constexpr std::size_t a_size = most * a_stride, b_size = 2 * b_panel, c_size = most * columns;
  std::array<float, a_size> a;
  std::array<float, b_size> b;
  std::uint32_t state = 1;
  const auto pair = [&](float scale) {
    const auto number = [&] {
      state = state * 1664525U + 1013904223U;
      return bfloat16_bits((static_cast<float>(state >> 8) * 0x1p-23F - 1) * scale);
    };
    const std::uint32_t even = number();
    return bfloat16_pair(even, number());
  };
  for (std::size_t i = 0; i < a_size; ++i) store_pair(&a[i], pair(i < a_stride ? 0x1p-64F : 1));
  for (std::size_t i = 0; i < b_size; ++i) {
    store_pair(&b[i], pair(i % bfloat16_panel == 0 ? 0x1p-64F : 1));
  }
  const Bfloat16UnitInUse in_use(&unit);
  for (const Index rows : heights) {
    for (const Index apart : {0, 1}) {  // of two parts, low ones are that many times `low` behind
      std::array<float, c_size> sums, expected;
      for (std::size_t i = 0; i < c_size; ++i) sums[i] = expected[i] = static_cast<float>(i);
      Bfloat16Tile tile{a.data(), a_stride,    apart * low, b.data(), b_panel, apart * b_low,
                        depth,    sums.data(), columns,     rows,     columns, apart == 0};
      unit.multiply(tile);
      tile.c = expected.data();
      (unit.order == Bfloat16Order::tile ? portable_bfloat16_tile<Bfloat16Order::tile>
                                         : portable_bfloat16_tile<Bfloat16Order::chain>)(tile);
      if (std::memcmp(sums.data(), expected.data(), sizeof sums) != 0) return false;
    }
  }
  return true;
}

inline const Bfloat16Unit& bfloat16_unit_here() {
#ifdef REFORMER_BFLOAT16_X86
  static const Bfloat16Unit& unit = []() -> const Bfloat16Unit& {
    const unsigned mode = _mm_getcsr();  // portable code rounds as the program says
    _mm_setcsr(0x1F80);
    const bool has_amx = may_use_amx_bfloat16() && gives_its_bits(amx_unit);
    const bool has_avx512 = !has_amx && has_avx512_bfloat16() && gives_its_bits(avx512_unit);
    _mm_setcsr(mode);
    return has_amx ? amx_unit : has_avx512 ? avx512_unit : portable_tile_unit;
  }();
  return unit;
#else
  return portable_tile_unit;
#endif
}

}  // namespace detail

#ifndef REFORMER_EXTERN_INSTANCES
inline const Bfloat16Unit& bfloat16_unit() {
  return detail::bfloat16_unit_here();
}
#endif

}  // namespace reformer::inline REFORMER_ABI
