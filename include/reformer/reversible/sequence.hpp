// SPDX-License-Identifier: MIT
/// @file
/// A stack of reversible blocks. Its memory does not grow with depth: forward keeps the two halves
/// of the top, backward walks down from them and rebuilds each block's input while it
/// differentiates.
#pragma once

#include <utility>
#include <vector>

#include "reformer/reversible/block.hpp"

namespace reformer {

/// Blocks of one type, applied in order.
template <typename Block>
class ReversibleSequence {
 public:
  using Scalar = typename Block::Scalar;
  using Saved = std::vector<typename Block::Saved>;

  ReversibleSequence() = default;
  explicit ReversibleSequence(std::vector<Block> blocks) : blocks_(std::move(blocks)) {}

  Index size() const { return static_cast<Index>(blocks_.size()); }
  Block& operator[](Index i) { return blocks_[static_cast<std::size_t>(i)]; }
  const Block& operator[](Index i) const { return blocks_[static_cast<std::size_t>(i)]; }

  /// Input halves become output halves.
  /// @param saved  filled with what the backward walk needs; its memory is used again if it fits
  template <typename Half>
  void forward(Halves<Half>& x, Saved& saved, const Pass& pass) {
    forward(x, saved, pass, [](Index) {});
  }

  /// The same, and calls `after(i)` when block i has been applied.
  template <typename Half, typename After>
  void forward(Halves<Half>& x, Saved& saved, const Pass& pass, const After& after) {
    saved.resize(blocks_.size());
    for (Index i = 0; i < size(); ++i) {
      (*this)[i].forward(x, saved[static_cast<std::size_t>(i)], pass.at_layer(i));
      after(i);
    }
  }

  /// Output halves become input halves, gradients by the outputs become gradients by the inputs.
  template <typename Half>
  void reverse(Halves<Half>& y, HalfGradients<Scalar>& dy, Saved& saved, const Pass& pass) {
    check_equal("ReversibleSequence::reverse", "saved", static_cast<Index>(saved.size()), "blocks",
                size());
    for (Index i = size() - 1; i >= 0; --i) {
      (*this)[i].reverse(y, dy, saved[static_cast<std::size_t>(i)], pass.at_layer(i));
    }
  }

  template <typename Visitor>
  void for_each_parameter(Visitor&& visitor) {
    for (Block& block : blocks_) block.for_each_parameter(visitor);
  }

 private:
  std::vector<Block> blocks_;
};

}  // namespace reformer
