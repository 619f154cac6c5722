// SPDX-License-Identifier: MIT
/// @file
/// The float kernel: vectors of fused multiply-adds.
///
/// Each element of C is summed by one chain of fused multiply-adds, in ascending order within
/// blocks of `depth_block` products. From the end of the file to its beginning:
/// `FloatKernel::multiply` cuts the depth into these blocks and the columns into panels,
/// `multiply_panel` cuts the rows of a panel into pieces, and `register_tiles` has a piece in
/// registers.
#pragma once

#include <array>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/products/float_operands.hpp"
#include "reformer/products/product_kernel.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// Rows of C held in registers: 32 vector registers carry 14 x 2 sums, 16 carry 6 x 2.
template <typename Scalar>
inline constexpr int register_rows = simd::width<Scalar> * sizeof(Scalar) == 64 ? 14 : 6;

/// What the register kernel multiplies: A and B from where it starts, C where it writes.
template <typename Scalar>
struct TileOperands {
  LeftOperand<Scalar> a;
  const Scalar* b;
  Index b_stride;
  Index depth;
  Scalar* c;
  Index c_stride;
  bool accumulate;
};

/// Hides where a pointer comes from. Otherwise compilers compute the addresses of all rows of a
/// tile before its loop, more than there are registers, and read them from memory again behind it.
template <typename T>
void keep_in_step(T*& row) {
  asm volatile("" : "+r"(row));
}

/// The register kernel: `count` tiles, one below the other, of `Rows` rows by `Vectors` vectors of
/// C. A stands in its type as it lies, so that the inner loop has no addresses to compute.
template <typename Scalar, int Rows, int Vectors, bool ByColumns>
REFORMER_COMPILED_ONCE void register_tiles(const TileOperands<Scalar>& operands, Index count) {
  constexpr Index W = simd::width<Scalar>;
  using Packet = simd::Packet<Scalar>;
  const Index a_stride = operands.a.stride, b_stride = operands.b_stride;
  const Index c_stride = operands.c_stride, depth = operands.depth;
  const Scalar* a = operands.a.data;
  Scalar* c = operands.c;
  for (; count > 0; --count, a += ByColumns ? Rows : Rows * a_stride, c += Rows * c_stride) {
    // Every loop over `sums` is unrolled: else the compiler keeps them in memory.
    Packet sums[Rows][Vectors];
    const Scalar* ahead = c;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i, ahead += c_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        sums[i][v] = simd::set(Scalar(0));
        __builtin_prefetch(ahead + v * W, 1);
      }
      keep_in_step(ahead);
    }
    const Scalar* b = operands.b;
#pragma GCC unroll 2
    for (Index p = 0; p < depth; ++p, b += b_stride) {
      // In a weight gradient the rows of A and B are pages apart, where no processor looks ahead by
      // itself.
      constexpr Index rows_ahead = 16;
      if constexpr (ByColumns) {
        __builtin_prefetch(a + (p + rows_ahead) * a_stride);
        __builtin_prefetch(a + (p + rows_ahead) * a_stride + Rows - 1);
      }
      Packet bp[Vectors];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        bp[v] = simd::load(b + v * W);
        if constexpr (ByColumns) __builtin_prefetch(b + rows_ahead * b_stride + v * W);
      }
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i) {
        const Packet x = simd::set(ByColumns ? a[p * a_stride + i] : a[i * a_stride + p]);
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) {
          sums[i][v] = Eigen::internal::pmadd(x, bp[v], sums[i][v]);
        }
      }
    }
    if (operands.accumulate) {
      Scalar* row = c;
#pragma GCC unroll 16
      for (int i = 0; i < Rows; ++i, row += c_stride) {
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) {
          sums[i][v] = Eigen::internal::padd(simd::load(row + v * W), sums[i][v]);
        }
        keep_in_step(row);
      }
    }
    Scalar* row = c;
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i, row += c_stride) {
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) simd::store(row + v * W, sums[i][v]);
      keep_in_step(row);
    }
  }
}

/// The register kernels by how A lies and by the number of rows.
template <typename Scalar, int Vectors>
struct RegisterKernels {
  using Function = void (*)(const TileOperands<Scalar>&, Index);
  template <bool ByColumns, int... I>
  static constexpr auto make(std::integer_sequence<int, I...>) {
    return std::array<Function, sizeof...(I)>{register_tiles<Scalar, I + 1, Vectors, ByColumns>...};
  }
  using Heights = std::make_integer_sequence<int, register_rows<Scalar>>;
  static constexpr std::array by_rows{make<false>(Heights{}), make<true>(Heights{})};
};

/// One panel of C = A B, with A in pieces of nearly equal height.
template <typename Scalar, int Vectors>
void multiply_panel(TileOperands<Scalar> operands, Index rows, Index columns) {
  constexpr Index W = simd::width<Scalar>;
  const Index pieces = ceil_div(rows, Index{register_rows<Scalar>});
  const Index low = rows / pieces, taller = rows - low * pieces;
  const auto& kernels = RegisterKernels<Scalar, Vectors>::by_rows[operands.a.by_columns ? 1 : 0];
  for (const auto& [height, count] : {std::pair{low + 1, taller}, {low, pieces - taller}}) {
    if (count == 0) continue;
    const auto kernel = kernels[static_cast<std::size_t>(height - 1)];
    if (columns == Vectors * W) {
      kernel(operands, count);
    } else {  // whole vectors would reach beyond C
      alignas(64) Scalar buffer[register_rows<Scalar> * Vectors * W];
      auto tile = operands;
      tile.c = buffer;
      tile.c_stride = Vectors * W;
      for (Index piece = 0; piece < count; ++piece) {
        tile.a = operands.a.from(piece * height, 0);
        Scalar* c = operands.c + piece * height * operands.c_stride;
        for (Index r = 0; operands.accumulate && r < height; ++r) {
          std::copy_n(c + r * operands.c_stride, columns, buffer + r * tile.c_stride);
        }
        kernel(tile, 1);
        for (Index r = 0; r < height; ++r) {
          std::copy_n(buffer + r * tile.c_stride, columns, c + r * operands.c_stride);
        }
      }
    }
    operands.a = operands.a.from(count * height, 0);
    operands.c += count * height * operands.c_stride;
  }
}

}  // namespace detail

/// Products in the arithmetic of their arrays, float or double; satisfies `ProductKernel`.
template <typename Scalar_>
struct FloatKernel {
  using Scalar = Scalar_;
  using Packed = Scalar;
  using Left = detail::LeftOperand<Scalar>;
  using Right = detail::RightOperand<Scalar>;
  using View = MatrixView<const Scalar>;
  static constexpr Index tile_rows = detail::register_rows<Scalar>;
  static constexpr Index tile_columns = detail::panel_width<Scalar>;
  static constexpr Index tile_depth = 1;

  FloatKernel(Precision = Precision::float32) {}  // NOLINT: it has one

  static Index left_size(Index, Index) { return 0; }
  static Left left(const View& x, Orientation orientation, Packed*) {
    return {x.data, x.stride, orientation == Orientation::transposed};
  }

  static Index weight_size(Index depth, Index columns) {
    return detail::packed_size<Scalar>(depth, columns);
  }
  static void pack_weight(const View& weight, Orientation orientation, Index panel,
                          Packed* packed) {
    if (orientation == Orientation::natural) {
      detail::pack_panel(weight, panel, packed);
    } else {
      detail::pack_transposed_panel(weight, panel, packed);
    }
  }
  static Right weight(const Packed* packed, Index depth) {
    return detail::packed_as_right(packed, depth);
  }

  static Index right_size(Orientation orientation, Index depth, Index columns) {
    return orientation == Orientation::natural ? 0 : depth * turned_stride(columns);
  }
  static Right right(const View& x, Orientation orientation, Packed* memory) {
    if (orientation == Orientation::natural) return detail::rows_as_right(x.data, x.stride);
    detail::transpose(x, memory, turned_stride(x.rows));
    return detail::rows_as_right(memory, turned_stride(x.rows));
  }

  static Index block_columns() { return tile_columns; }
  static Index block_grain() { return 1; }
  static bool packs_gradients() { return false; }
  static Index gradient_size(Index depth, Index) { return detail::packed_size<Scalar>(depth, 1); }
  /// Rows of dy are read where they are, but for a last panel that vectors would read beyond.
  static void add_gradient(const View& x, const View& dy, const MatrixView<Scalar>& c,
                           Packed* memory) {
    const Index whole = dy.columns / simd::width<Scalar> * simd::width<Scalar>;
    const Left a = left(x, Orientation::transposed, nullptr);
    multiply(a, detail::rows_as_right(dy.data, dy.stride), x.rows, c.middle_columns(0, whole),
             Write::accumulate);
    if (whole == dy.columns) return;
    detail::pack_panel(dy.middle_columns(whole, dy.columns - whole), 0, memory);
    multiply(a, detail::packed_as_right<Scalar>(memory, x.rows), x.rows,
             c.middle_columns(whole, dy.columns - whole), Write::accumulate);
  }

  struct Nothing {};
  static Nothing in_use() { return {}; }
  /// @param c  must not overlap A or B
  static void multiply(const Left& a, const Right& b, Index depth, const MatrixView<Scalar>& c,
                       Write write) {
    constexpr Index w = tile_columns;
    if (c.rows == 0) return;
    for (Index p0 = 0; p0 == 0 || p0 < depth; p0 += detail::depth_block) {
      for (Index j = 0; j < c.columns; j += w) {
        const Index columns = std::min(w, c.columns - j);
        const detail::TileOperands<Scalar> operands{
            a.from(0, p0),
            b.data + (j / w) * b.panel_stride + p0 * b.row_stride,
            b.row_stride,
            std::min(detail::depth_block, depth - p0),
            c.data + j,
            c.stride,
            write == Write::accumulate || p0 > 0};
        if (columns > simd::width<Scalar>) {
          detail::multiply_panel<Scalar, 2>(operands, c.rows, columns);
        } else {
          detail::multiply_panel<Scalar, 1>(operands, c.rows, columns);
        }
      }
    }
  }

 private:
  static Index turned_stride(Index rows) { return round_up(rows, simd::width<Scalar>); }
};

static_assert(ProductKernel<FloatKernel<float>>);

}  // namespace reformer::inline REFORMER_ABI
