// SPDX-License-Identifier: MIT
/// @file
/// Weights in the form in which products read them: packed once, shared by all threads.
#pragma once

#include "reformer/foundation/workspace.hpp"
#include "reformer/products/float_operands.hpp"

namespace reformer {

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

}  // namespace reformer
