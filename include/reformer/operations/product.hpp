// SPDX-License-Identifier: MIT
/// @file
/// Matrix products of a tile, on one thread: C = A B or C += A B.
///
/// One register kernel serves every product of the library. A is read by broadcasts, by rows or by
/// columns, so a transposed A costs nothing. B is read in panels of `panel_width` columns: either
/// rows of a small matrix in cache, or a large matrix packed once by `pack` and shared by all
/// threads.
///
/// Each element of C is summed by one chain of fused multiply-adds, in ascending order within
/// blocks of `depth_block` products. The order depends on the depth alone, never on the number of
/// rows or columns of the call: one row gives the same bits alone and inside a tile.
#pragma once

#include <array>
#include <utility>

#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer {

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
  LeftOperand from_row(Index i) const { return from(i, 0); }
};

/// A row-major matrix as A.
template <typename Scalar>
LeftOperand<Scalar> rows_as_left(const Scalar* data, Index stride) {
  return {data, stride, false};
}
template <typename Element>
auto rows_as_left(const MatrixView<Element>& a) {
  return rows_as_left<std::remove_const_t<Element>>(a.data, a.stride);
}
/// A row-major matrix, transposed, as A.
template <typename Scalar>
LeftOperand<Scalar> columns_as_left(const Scalar* data, Index stride) {
  return {data, stride, true};
}
template <typename Element>
auto columns_as_left(const MatrixView<Element>& a) {
  return columns_as_left<std::remove_const_t<Element>>(a.data, a.stride);
}

/// B `[k, n]` in panels: element (p, j) is `data[(j / w) * panel_stride + p * row_stride + j % w]`,
/// w = panel_width. Whole vectors are read: memory up to the next multiple of the vector width must
/// be readable and finite.
template <typename Scalar>
struct RightOperand {
  const Scalar* data;
  Index panel_stride;
  Index row_stride;

  RightOperand from_panel(Index panel) const {
    return {data + panel * panel_stride, panel_stride, row_stride};
  }
  RightOperand from_depth(Index p) const {
    return {data + p * row_stride, panel_stride, row_stride};
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

/// How a product meets what is in C already.
enum class Write { assign, accumulate };

namespace detail {

/// Products summed in registers before they are added to C.
inline constexpr Index depth_block = 512;

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
        tile.a = operands.a.from_row(piece * height);
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
    operands.a = operands.a.from_row(count * height);
    operands.c += count * height * operands.c_stride;
  }
}

}  // namespace detail

/// C `[rows, columns]` = or += A `[rows, depth]` B `[depth, columns]`, on the calling thread.
/// @param c  must not overlap A or B
template <typename Scalar>
void multiply(const LeftOperand<Scalar>& a, const RightOperand<Scalar>& b, Index depth,
              const MatrixView<Scalar>& c, Write write = Write::assign) {
  constexpr Index w = panel_width<Scalar>;
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

/// A part of a packed weight `[depth, columns]`.
template <typename Scalar>
struct WeightBlock {
  RightOperand<Scalar> operand;
  Index depth, columns;

  /// The part of B that starts at `column`, a multiple of the panel width.
  RightOperand<Scalar> from_column(Index column) const {
    return operand.from_panel(column / panel_width<Scalar>);
  }
};

/// Whether a weight `[in, out]` stands in a product as itself or transposed.
enum class Orientation { natural, transposed };

/// A weight packed for products that share it: `x W` (natural, depth = in) or `x W^T` (transposed,
/// depth = out).
template <typename Scalar>
class PackedWeight {
 public:
  PackedWeight(Scratch& scratch, Workspace& workspace, const MatrixView<const Scalar>& weight,
               Orientation orientation)
      : PackedWeight(scratch.take<Scalar>(size(weight, orientation)), workspace, weight,
                     orientation) {}

  /// @param packed  memory of `size` elements, written
  PackedWeight(Scalar* packed, Workspace& workspace, const MatrixView<const Scalar>& weight,
               Orientation orientation)
      : depth_(orientation == Orientation::natural ? weight.rows : weight.columns),
        columns_(orientation == Orientation::natural ? weight.columns : weight.rows),
        packed_(packed) {
    parallel_for(workspace.threads(), ceil_div(columns_, panel_width<Scalar>),
                 [&](Index panel, int) {
                   if (orientation == Orientation::natural) {
                     pack_panel(weight, panel, packed);
                   } else {
                     pack_transposed_panel(weight, panel, packed);
                   }
                 });
  }

  static Index size(const MatrixView<const Scalar>& weight, Orientation orientation) {
    return orientation == Orientation::natural ? packed_size<Scalar>(weight.rows, weight.columns)
                                               : packed_size<Scalar>(weight.columns, weight.rows);
  }

  static void plan(ScratchPlan& scratch, Index depth, Index columns) {
    scratch.take<Scalar>(packed_size<Scalar>(depth, columns));
  }

  Index depth() const { return depth_; }
  Index columns() const { return columns_; }

  WeightBlock<Scalar> whole() const { return {packed_as_right(packed_, depth_), depth_, columns_}; }
  /// Some of the columns, from a multiple of the panel width on.
  WeightBlock<Scalar> middle_columns(Index first, Index count) const {
    return {whole().from_column(first), depth_, count};
  }
  /// Some of the rows of B.
  WeightBlock<Scalar> middle_depth(Index first, Index count) const {
    return {whole().operand.from_depth(first), count, columns_};
  }
  RightOperand<Scalar> from_column(Index column) const { return whole().from_column(column); }

 private:
  Index depth_;
  Index columns_;
  const Scalar* packed_;
};

/// A packed weight in memory of its own, for many passes with the same values.
template <typename Scalar>
class KeptWeight {
 public:
  KeptWeight(Workspace& workspace, const MatrixView<const Scalar>& weight, Orientation orientation)
      : memory_(1, PackedWeight<Scalar>::size(weight, orientation)),
        packed_(memory_.data(), workspace, weight, orientation) {}
  KeptWeight(const KeptWeight&) = delete;
  KeptWeight& operator=(const KeptWeight&) = delete;
  KeptWeight(KeptWeight&&) noexcept = default;
  KeptWeight& operator=(KeptWeight&&) noexcept = default;

  const PackedWeight<Scalar>& packed() const { return packed_; }

 private:
  Matrix<Scalar> memory_;
  PackedWeight<Scalar> packed_;
};

namespace detail {
/// Output tiles of the parallel products: small enough to share among threads, large enough to
/// reuse operands.
inline constexpr Index tile_rows = 64;
inline constexpr Index tile_columns = 256;

/// Columns of a tile: fewer where threads would have nothing to do. No bit depends on it: it stays
/// a multiple of every panel width, and of the 8 numbers that dropout draws together.
inline Index columns_of_tile(int threads, Index row_tiles, Index columns) {
  constexpr Index least = 32;
  Index width = tile_columns;
  while (width > least && row_tiles * ceil_div(columns, width) < threads) {
    width /= 2;
  }
  return width;
}

}  // namespace detail

/// out = or += A B, in parallel tiles; calls `finish(tile, first_row, first_column)` when a tile of
/// out is there.
/// @param a  `[rows, weight.depth]`, row-major
template <typename Scalar, typename Finish>
void parallel_product(Workspace& workspace, const MatrixView<const Scalar>& a,
                      const WeightBlock<Scalar>& weight, const MatrixView<Scalar>& out, Write write,
                      const Finish& finish) {
  const Index row_tiles = ceil_div(a.rows, detail::tile_rows);
  const Index width = detail::columns_of_tile(workspace.threads(), row_tiles, weight.columns);
  const Index column_tiles = ceil_div(weight.columns, width);
  parallel_for(workspace.threads(), row_tiles * column_tiles, [&](Index task, int) {
    const Index i = task % row_tiles * detail::tile_rows;
    const Index j = task / row_tiles * width;
    const Index rows = std::min(detail::tile_rows, a.rows - i);
    const Index columns = std::min(width, weight.columns - j);
    const auto tile = out.middle_rows(i, rows).middle_columns(j, columns);
    multiply(rows_as_left(a).from_row(i), weight.from_column(j), weight.depth, tile, write);
    finish(tile, i, j);
  });
}

namespace detail {
/// Rows of a weight gradient that a task owns: 19 register tiles of 14.
inline constexpr Index gradient_rows = 266;
}  // namespace detail

template <typename Scalar>
void plan_weight_gradient(ScratchPlan& scratch, Index rows) {
  const Index depth = std::min(rows, detail::depth_block);
  scratch.scope([&] { scratch.per_thread<Scalar>(packed_size<Scalar>(depth, 1)); });
}

/// Weight gradient: dW `[in, out]` += x^T dy, with x `[rows, in]` and dy `[rows, out]`.
///
/// Each task owns a tile of dW and walks all rows, so no sum depends on the number of threads.
template <typename Scalar>
void accumulate_weight_gradient(Workspace& workspace, const MatrixView<const Scalar>& x,
                                const MatrixView<const Scalar>& dy,
                                const MatrixView<Scalar>& dweight) {
  constexpr Index block_in = detail::gradient_rows;
  const Index depth = std::min(x.rows, detail::depth_block);
  Scratch scratch(workspace);
  const auto packed = scratch.per_thread<Scalar>(packed_size<Scalar>(depth, 1));
  const Index blocks_in = ceil_div(dweight.rows, block_in);
  const Index block_out = detail::columns_of_tile(workspace.threads(), blocks_in, dweight.columns);
  const Index blocks_out = ceil_div(dweight.columns, block_out);
  parallel_for(workspace.threads(), blocks_in * blocks_out, [&](Index task, int thread) {
    const Index i0 = task % blocks_in * block_in, i1 = std::min(i0 + block_in, dweight.rows);
    const Index j = task / blocks_in * block_out;
    const Index columns = std::min(block_out, dweight.columns - j);
    // Rows of dy are read where they are, but for a last panel that vectors would read beyond.
    const Index whole = columns / simd::width<Scalar> * simd::width<Scalar>;
    for (Index row = 0; row < x.rows; row += depth) {
      const Index rows = std::min(depth, x.rows - row);
      const auto dy_part = dy.middle_rows(row, rows).middle_columns(j, columns);
      if (whole < columns) {
        pack_panel(dy_part.middle_columns(whole, columns - whole), 0, packed[thread]);
      }
      const auto left = columns_as_left<Scalar>(x.row(row) + i0, x.stride);
      const auto tile = dweight.middle_rows(i0, i1 - i0).middle_columns(j, columns);
      multiply(left, rows_as_right(dy_part.data, dy_part.stride), rows,
               tile.middle_columns(0, whole), Write::accumulate);
      if (whole < columns) {
        multiply(left, packed_as_right<Scalar>(packed[thread], rows), rows,
                 tile.middle_columns(whole, columns - whole), Write::accumulate);
      }
    }
  });
}

/// Bias gradient: dbias `[out]` += sum over rows of dy.
///
/// Rows are summed in tiles before they are added to what is there: one by one, the error would
/// grow with the number of rows of all calls together.
template <typename Scalar>
void accumulate_bias_gradient(Workspace& workspace, const MatrixView<const Scalar>& dy,
                              Scalar* dbias) {
  constexpr Index block = 64;
  parallel_for(workspace.threads(), ceil_div(dy.columns, block), [&](Index task, int) {
    const Index j = task * block, columns = std::min(block, dy.columns - j);
    Scalar sums[block];
    for (Index first = 0; first < dy.rows; first += detail::depth_block) {
      std::fill_n(sums, columns, Scalar(0));
      const Index last = std::min(first + detail::depth_block, dy.rows);
      for (Index i = first; i < last; ++i) simd::add(columns, dy.row(i) + j, sums);
      simd::add(columns, sums, dbias + j);
    }
  });
}

/// tile row += bias, for every row
template <typename Scalar>
void add_bias(const MatrixView<Scalar>& tile, const Scalar* bias) {
  for (Index i = 0; i < tile.rows; ++i) simd::add(tile.columns, bias, tile.row(i));
}

/// Calls `body(first_row, rows, thread)` for tiles of rows, in parallel.
template <typename Body>
void for_each_row_tile(Workspace& workspace, Index rows, const Body& body) {
  parallel_for(workspace.threads(), ceil_div(rows, detail::tile_rows), [&](Index task, int thread) {
    const Index first = task * detail::tile_rows;
    body(first, std::min(detail::tile_rows, rows - first), thread);
  });
}

}  // namespace reformer
