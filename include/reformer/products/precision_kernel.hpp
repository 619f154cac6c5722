// SPDX-License-Identifier: MIT
/// @file
/// Products of float arrays in a precision that is chosen at run time.
///
/// What is above a kernel is compiled once, for all precisions: they differ in what packed memory
/// holds and in what multiplies a panel of it.
#pragma once

#include <algorithm>
#include <string_view>
#include <variant>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/precision.hpp"
#include "reformer/products/bfloat16_operands.hpp"
#include "reformer/products/bfloat16_tiles.hpp"
#include "reformer/products/float_kernel.hpp"
#include "reformer/products/product_kernel.hpp"
#ifndef REFORMER_EXTERN_INSTANCES
#include "reformer/products/bfloat16_packing.hpp"
#include "reformer/products/bfloat16_units.hpp"
#endif

namespace reformer::inline REFORMER_ABI {

/// The precision whose products take the least time here: `bfloat16` where it has a unit that is
/// faster than the float kernel of this program, else `float32`. With vectors of AVX-512,
/// processors of Intel do no more products a second by `vdpbf16ps` than with floats, those of AMD
/// twice as many.
inline Precision fastest_precision() {
#ifdef REFORMER_BFLOAT16_X86
  const std::string_view unit = bfloat16_unit().name;
  if (unit == detail::amx_name) return Precision::bfloat16;
#ifdef __AVX512F__
  const bool is_faster = __builtin_cpu_is("amd") != 0;
#else
  const bool is_faster = true;
#endif
  if (unit == detail::avx512_name && is_faster) return Precision::bfloat16;
#endif
  return Precision::float32;
}

/// Satisfies `ProductKernel`. In `float32` it is `FloatKernel<float>`, bit for bit; in the others
/// both sides are packed as bfloat16 numbers, which start at multiples of `tile_depth` of the
/// depth, and an element is summed as the machine's unit does (`products/bfloat16_tiles.hpp`), in
/// blocks of `depth_block` products.
///
/// What it does is compiled once and not into every caller, of which there are many: a call is
/// nothing beside a tile.
class PrecisionKernel {
 public:
  using Scalar = float;
  using Packed = float;  // in bfloat16, memory of two numbers
  using View = MatrixView<const float>;
  static constexpr Index tile_rows = FloatKernel<float>::tile_rows;
  static constexpr Index tile_columns = detail::bfloat16_panel;
  static constexpr Index tile_depth = detail::bfloat16_depth;

  /// A side as either kind of kernel reads it.
  struct Left {
    std::variant<detail::LeftOperand<float>, detail::Bfloat16Left> side;
    Left from(Index i, Index p) const {
      if (const auto* packed = std::get_if<detail::Bfloat16Left>(&side))
        return {packed->from(i, p)};
      return {std::get_if<detail::LeftOperand<float>>(&side)->from(i, p)};
    }
  };
  struct Right {
    std::variant<detail::RightOperand<float>, detail::Bfloat16Right> side;
    Right from(Index p, Index j) const {
      if (const auto* packed = std::get_if<detail::Bfloat16Right>(&side))
        return {packed->from(p, j)};
      return {std::get_if<detail::RightOperand<float>>(&side)->from(p, j)};
    }
  };

  PrecisionKernel(Precision precision = Precision::float32)  // NOLINT: all that it is
      : precision_(precision),
        unit_(precision == Precision::float32 ? nullptr : &bfloat16_unit()) {}
  /// The same by another unit, whose order of additions the bits are those of.
  PrecisionKernel(Precision precision, const Bfloat16Unit& unit)
      : precision_(precision), unit_(&unit) {}

  Index left_size(Index rows, Index depth) const {
    return in_floats() ? 0 : rows * left_stride(depth);
  }
  Left left(const View& x, Orientation orientation, Packed* memory) const {
    if (in_floats()) return {Floats::left(x, orientation, memory)};
    return packed_left(x, orientation, memory);
  }

  Index weight_size(Index depth, Index columns) const {
    return in_floats() ? Floats::weight_size(depth, columns)
                       : ceil_div(columns, tile_columns) * panel_size(depth);
  }
  REFORMER_COMPILED_ONCE void pack_weight(const View& weight, Orientation orientation, Index panel,
                                          Packed* packed) const {
    const bool is_natural = orientation == Orientation::natural;
    const Index columns = is_natural ? weight.columns : weight.rows;
    const Index depth = is_natural ? weight.rows : weight.columns;
    const Index first = panel * tile_columns, count = std::min(tile_columns, columns - first);
    if (in_floats()) {
      constexpr Index narrow = Floats::tile_columns;
      static_assert(tile_columns % narrow == 0);
      for (Index j = first; j < first + count; j += narrow) {
        Floats::pack_weight(weight, orientation, j / narrow, packed);
      }
      return;
    }
    const View part =
        is_natural ? weight.middle_columns(first, count) : weight.middle_rows(first, count);
    float* to = packed + panel * panel_size(depth);
    if (has_low()) {
      detail::pack_bfloat16_panel<true>(part, orientation, to, panel_size(depth) / 2);
    } else {
      detail::pack_bfloat16_panel<false>(part, orientation, to, 0);
    }
  }
  Right weight(const Packed* packed, Index depth) const {
    if (in_floats()) return {Floats::weight(packed, depth)};
    return {
        detail::Bfloat16Right{packed, panel_size(depth), has_low() ? panel_size(depth) / 2 : 0}};
  }

  Index right_size(Orientation orientation, Index depth, Index columns) const {
    return in_floats() ? Floats::right_size(orientation, depth, columns)
                       : weight_size(depth, columns);
  }
  REFORMER_COMPILED_ONCE Right right(const View& x, Orientation orientation, Packed* memory) const {
    if (in_floats()) return {Floats::right(x, orientation, memory)};
    const bool is_natural = orientation == Orientation::natural;
    const Index panels = ceil_div(is_natural ? x.columns : x.rows, tile_columns);
    for (Index panel = 0; panel < panels; ++panel) pack_weight(x, orientation, panel, memory);
    return weight(memory, is_natural ? x.rows : x.columns);
  }

  Index block_columns() const { return in_floats() ? Floats::tile_columns : tile_columns; }
  Index block_grain() const { return in_floats() ? 1 : std::max(tile_columns, tile_depth); }
  bool packs_gradients() const { return !in_floats(); }
  Index gradient_size(Index depth, Index columns) const {
    return Floats::gradient_size(depth, columns);
  }
  REFORMER_COMPILED_ONCE void add_gradient(const View& x, const View& dy,
                                           const MatrixView<float>& c, Packed* memory) const {
    Floats::add_gradient(x, dy, c, memory);
  }

  detail::Bfloat16UnitInUse in_use() const { return detail::Bfloat16UnitInUse(unit_); }
  /// @param c  must not overlap A or B
  REFORMER_COMPILED_ONCE void multiply(const Left& a, const Right& b, Index depth,
                                       const MatrixView<float>& c, Write write) const {
    if (in_floats()) {
      Floats::multiply(*std::get_if<detail::LeftOperand<float>>(&a.side),
                       *std::get_if<detail::RightOperand<float>>(&b.side), depth, c, write);
      return;
    }
    const auto& left = *std::get_if<detail::Bfloat16Left>(&a.side);
    const auto& right = *std::get_if<detail::Bfloat16Right>(&b.side);
    for (Index p = 0; p == 0 || p < depth; p += detail::depth_block) {
      const Index count = std::min(detail::depth_block, depth - p);
      unit_->multiply({left.from(0, p).data, left.stride, left.low, right.from(p, 0).data,
                       right.panel_stride, right.low, round_up(count, tile_depth), c.data, c.stride,
                       c.rows, c.columns, write == Write::accumulate || p > 0});
    }
  }

 private:
  using Floats = FloatKernel<float>;

  bool in_floats() const { return precision_ == Precision::float32; }
  bool has_low() const { return precision_ == Precision::bfloat16x3; }
  REFORMER_COMPILED_ONCE Left packed_left(const View& x, Orientation orientation,
                                          Packed* memory) const {
    const Index depth = orientation == Orientation::natural ? x.columns : x.rows;
    const detail::Bfloat16Left packed{memory, left_stride(depth),
                                      has_low() ? detail::bfloat16_pairs(depth) : 0};
    if (has_low()) {
      detail::pack_bfloat16_left<true>(x, orientation, memory, packed.stride, packed.low);
    } else {
      detail::pack_bfloat16_left<false>(x, orientation, memory, packed.stride, 0);
    }
    return {packed};
  }
  Index parts() const { return has_low() ? 2 : 1; }
  /// A cache line more, so that rows do not lie a power of two apart.
  Index left_stride(Index depth) const { return parts() * detail::bfloat16_pairs(depth) + 16; }
  Index panel_size(Index depth) const {
    return parts() * detail::bfloat16_pairs(depth) * tile_columns;
  }

  Precision precision_;
  const Bfloat16Unit* unit_;
};

static_assert(ProductKernel<PrecisionKernel>);

}  // namespace reformer::inline REFORMER_ABI
