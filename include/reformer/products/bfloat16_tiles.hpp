// SPDX-License-Identifier: MIT
/// @file
/// Products of bfloat16 numbers with float sums, and what makes them (`bfloat16_units.hpp`).
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
#include <string_view>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/index.hpp"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define REFORMER_BFLOAT16_X86 1
#endif

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// Columns of B that are packed together.
inline constexpr Index bfloat16_panel = 32;
/// Packed depths are filled with zeros to a multiple of this.
inline constexpr Index bfloat16_depth = 32;

/// C `[rows, columns]` = or += A B over a block of the depth.
///
/// Pairs stand in the memory of floats: A's as `a[i * a_stride + p / 2]`, B's as
/// `b[j / w * b_panel + p / 2 * w + j % w]` with w = bfloat16_panel, for a depth that is a multiple
/// of `bfloat16_depth`. Low parts are as far behind high parts as `a_low` and `b_low` say, or there
/// are none and both are 0.
struct Bfloat16Tile {
  const float* a;
  Index a_stride, a_low;
  const float* b;
  Index b_panel, b_low;
  Index depth;
  float* c;
  Index c_stride, rows, columns;
  bool accumulate;

  /// Calls `body(panel)` for each panel of its columns.
  template <typename Body>
  void for_each_panel(const Body& body) const {
    Bfloat16Tile panel = *this;
    for (Index left = columns; left > 0; left -= panel.columns) {
      panel.columns = std::min(bfloat16_panel, left);
      body(std::as_const(panel));
      panel.b += b_panel;
      panel.c += panel.columns;
    }
  }
};

/// Orders of additions: see above.
enum class Bfloat16Order { chain, tile };

}  // namespace detail

/// What multiplies bfloat16 numbers. The bits of a product are those of its order of additions.
struct Bfloat16Unit {
  const char* name;
  detail::Bfloat16Order order;
  void (*multiply)(const detail::Bfloat16Tile&);
  void (*begin)() = nullptr;  ///< called by each thread before it multiplies, if it is there
  void (*end)() = nullptr;    ///< and behind
};

/// The unit that this machine has, and that gives its bits.
#ifdef REFORMER_EXTERN_INSTANCES  // the kernels of all heights are long: they are compiled there
REFORMER_EXPORT const Bfloat16Unit& bfloat16_unit();
#else
inline const Bfloat16Unit& bfloat16_unit();  // bfloat16_units.hpp
#endif

namespace detail {

inline constexpr std::string_view amx_name = "amx_bf16", avx512_name = "avx512_bf16";

/// A thread's use of a unit, or of none.
class Bfloat16UnitInUse {
 public:
  explicit Bfloat16UnitInUse(const Bfloat16Unit* unit)
      : end_(unit != nullptr ? unit->end : nullptr) {
    if (unit != nullptr && unit->begin != nullptr) unit->begin();
  }
  Bfloat16UnitInUse(const Bfloat16UnitInUse&) = delete;
  Bfloat16UnitInUse& operator=(const Bfloat16UnitInUse&) = delete;
  ~Bfloat16UnitInUse() {
    if (end_ != nullptr) end_();
  }

 private:
  void (*end_)();
};

}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
