// SPDX-License-Identifier: MIT
/// @file
/// Weights in the form in which products read them: packed once, shared by all threads.
#pragma once

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/product_kernel.hpp"

namespace reformer::inline REFORMER_ABI {

/// A part of a packed weight, B `[depth, columns]`.
template <ProductKernel K>
struct WeightBlock {
  K kernel;
  typename K::Right operand;
  Index depth, columns;
};

/// A weight `[in, out]` packed for products that share it: `x W` (natural, depth = in) or `x W^T`
/// (transposed, depth = out).
template <ProductKernel K>
class PackedWeight {
 public:
  using Scalar = typename K::Scalar;
  using Packed = typename K::Packed;

  /// @param kernel  or the precision of the pass
  PackedWeight(Scratch& scratch, Workspace& workspace, const MatrixView<const Scalar>& weight,
               Orientation orientation, const K& kernel)
      : PackedWeight(scratch.take<Packed>(size(weight, orientation, kernel)), workspace, weight,
                     orientation, kernel) {}

  /// @param packed  memory of `size` elements, written
  PackedWeight(Packed* packed, Workspace& workspace, const MatrixView<const Scalar>& weight,
               Orientation orientation, const K& kernel)
      : kernel_(kernel),
        depth_(orientation == Orientation::natural ? weight.rows : weight.columns),
        columns_(orientation == Orientation::natural ? weight.columns : weight.rows),
        packed_(packed) {
    parallel_for(workspace, ceil_div(columns_, K::tile_columns),
                 [&](Index panel, int) { kernel.pack_weight(weight, orientation, panel, packed); });
  }

  static Index size(const MatrixView<const Scalar>& weight, Orientation orientation,
                    const K& kernel) {
    return orientation == Orientation::natural ? kernel.weight_size(weight.rows, weight.columns)
                                               : kernel.weight_size(weight.columns, weight.rows);
  }

  Index depth() const { return depth_; }
  Index columns() const { return columns_; }

  WeightBlock<K> whole() const {
    return {kernel_, kernel_.weight(packed_, depth_), depth_, columns_};
  }
  /// Some of the columns, from a multiple of the kernel's `tile_columns` on.
  WeightBlock<K> middle_columns(Index first, Index count) const {
    return {kernel_, whole().operand.from(0, first), depth_, count};
  }
  /// Some of the rows of B, from a multiple of the kernel's `tile_depth` on.
  WeightBlock<K> middle_depth(Index first, Index count) const {
    return {kernel_, whole().operand.from(first, 0), count, columns_};
  }

 private:
  K kernel_;
  Index depth_;
  Index columns_;
  const Packed* packed_;
};

/// A packed weight in memory of its own, for many passes with the same values.
template <ProductKernel K>
class KeptWeight {
 public:
  KeptWeight(Workspace& workspace, const MatrixView<const typename K::Scalar>& weight,
             Orientation orientation, const K& kernel)
      : memory_(1, PackedWeight<K>::size(weight, orientation, kernel)),
        packed_(memory_.data(), workspace, weight, orientation, kernel) {}
  KeptWeight(const KeptWeight&) = delete;
  KeptWeight& operator=(const KeptWeight&) = delete;
  KeptWeight(KeptWeight&&) noexcept = default;
  KeptWeight& operator=(KeptWeight&&) noexcept = default;

  const PackedWeight<K>& packed() const { return packed_; }

 private:
  Matrix<typename K::Packed> memory_;
  PackedWeight<K> packed_;
};

}  // namespace reformer::inline REFORMER_ABI
