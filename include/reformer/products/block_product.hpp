// SPDX-License-Identifier: MIT
/// @file
/// Products inside a block, on one thread: both sides are rows that the thread has gathered.
#pragma once

#include <algorithm>
#include <array>

#include "reformer/foundation/abi.hpp"
#include "reformer/products/product_kernel.hpp"

namespace reformer::inline REFORMER_ABI {

/// The sides of a thread's products, in the kernel's form. Each is made once for a block and
/// multiplied in parts: `a.from(i, p)` and `b.from(p, j)` are sides that start elsewhere.
///
/// Rows are padded: memory up to the next whole vector is readable and finite.
template <ProductKernel K>
class BlockOperands {
 public:
  using Scalar = typename K::Scalar;
  using Packed = typename K::Packed;
  using Left = typename K::Left;
  using Right = typename K::Right;
  using Rows = MatrixView<const Scalar>;

  /// Elements of memory for blocks of at most `queries` x `keys` rows of `width` numbers.
  /// @param kernel  or the precision of the products
  /// @param turned  arrays that are kept turned, 1 or 2
  static Index size(const K& kernel, Index queries, Index keys, Index width, int turned) {
    return turned * turned_size(kernel, queries, width) + left_size(kernel, queries, keys, width) +
           kernel.right_size(Orientation::natural, std::max(queries, keys), width);
  }

  BlockOperands(const K& kernel, Packed* memory, Index queries, Index keys, Index width, int turned)
      : kernel_(kernel),
        turned_memory_{memory, memory + (turned - 1) * turned_size(kernel, queries, width)},
        left_memory_(memory + turned * turned_size(kernel, queries, width)),
        right_memory_(left_memory_ + left_size(kernel, queries, keys, width)) {}

  /// B = x^T, x `[queries, width]`, kept as number `which` until it is turned anew.
  void turn(std::size_t which, const Rows& x) {
    turned_[which] = kernel_.right(x, Orientation::transposed, turned_memory_[which]);
  }
  const Right& turned(std::size_t which) const { return turned_[which]; }

  /// A = x or x^T, until the next call: x is a part of `[keys, width]` or `[keys, queries]`.
  Left left(const Rows& x, Orientation orientation) const {
    return kernel_.left(x, orientation, left_memory_);
  }
  /// B = x, some rows of `[keys or queries, width]`, until the next call.
  Right right(const Rows& x) const { return kernel_.right(x, Orientation::natural, right_memory_); }

  /// How many columns of a product are best computed at a time: as many as the kernel does.
  Index columns_together() const { return kernel_.block_columns(); }
  /// Where the depth and the columns of an operand may start: at multiples of this.
  Index grain() const { return kernel_.block_grain(); }

  /// out `[rows, columns]` = or += A `[rows, depth]` B `[depth, columns]`
  void multiply(const Left& a, const Right& b, Index depth, const MatrixView<Scalar>& out,
                Write write) const {
    kernel_.multiply(a, b, depth, out, write);
  }

 private:
  static Index turned_size(const K& kernel, Index queries, Index width) {
    return kernel.right_size(Orientation::transposed, width, queries);
  }
  static Index left_size(const K& kernel, Index queries, Index keys, Index width) {
    return std::max({kernel.left_size(keys, width), kernel.left_size(keys, queries),
                     kernel.left_size(queries, keys)});
  }

  K kernel_;
  std::array<Packed*, 2> turned_memory_;
  Packed *left_memory_, *right_memory_;
  std::array<Right, 2> turned_{};
};

}  // namespace reformer::inline REFORMER_ABI
