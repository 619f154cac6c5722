// SPDX-License-Identifier: MIT
/// @file
/// A stack of reversible blocks. Its memory does not grow with depth: forward keeps the two halves
/// of the top, backward walks down from them and rebuilds each block's input while it
/// differentiates.
///
/// With halves in floating point, what is rebuilt differs from what was there by roundings that
/// grow with depth. With halves in fixed point it is the same bit for bit. Memory to spare buys
/// time: see `Stored`.
#pragma once

#include <concepts>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/reversible/block.hpp"

namespace reformer::inline REFORMER_ABI {

/// Blocks of one type, applied in order.
template <typename Block>
class ReversibleSequence {
 public:
  using Scalar = typename Block::Scalar;
  using Saved = std::vector<typename Block::Saved>;
  /// Copies of inputs, block by block, that are put back instead of rebuilt; may be empty. What is
  /// there is chosen by the caller; copies of another size than the halves get memory of their own.
  template <typename Half>
  using Stored = std::vector<StoredInputs<Half>>;

  ReversibleSequence() = default;
  explicit ReversibleSequence(std::vector<Block> blocks) : blocks_(std::move(blocks)) {}

  Index size() const { return static_cast<Index>(blocks_.size()); }
  /// @throw std::invalid_argument if there is no block i
  Block& operator[](Index i) { return blocks_[checked(i)]; }
  const Block& operator[](Index i) const { return blocks_[checked(i)]; }

  /// Stored-activation mode: the inputs of all blocks are kept, and nothing is rebuilt.
  template <typename Half>
  Stored<Half> store_all() const {
    return Stored<Half>(blocks_.size(), StoredInputs<Half>{Half(), Half()});
  }

  /// Memory for what `forward` must leave for `reverse`.
  template <ScratchMemory Memory>
  Saved saved_in(Memory& memory, const SavedPass& pass) const {
    Saved saved;
    for (const Block& block : blocks_) saved.push_back(block.saved_in(memory, pass));
    return saved;
  }

  /// Input halves become output halves. Nothing is saved: no backward walk follows.
  /// @throw std::invalid_argument, before any half is written, for what one of the blocks cannot
  /// take
  template <typename Half>
  void forward(Halves<Half>& x, const Pass& pass) const {
    forward(x, pass, [](Index) {});
  }

  /// The same, and calls `after(i)` when block i has been applied.
  template <typename Half, typename After>
  requires std::invocable<const After&, Index>
  void forward(Halves<Half>& x, const Pass& pass, const After& after) const {
    Saved nothing(blocks_.size());
    Stored<Half> none;
    walk_up(x, nothing, none, pass, after);
  }

  /// The same, and leaves what the backward walk needs.
  /// @param saved  what there is memory for is filled: see `saved_in`
  template <typename Half>
  void forward(Halves<Half>& x, Saved& saved, const Pass& pass) const {
    Stored<Half> none;
    forward(x, saved, none, pass);
  }

  /// The same, and fills `stored`.
  template <typename Half>
  void forward(Halves<Half>& x, Saved& saved, Stored<Half>& stored, const Pass& pass) const {
    walk_up(x, saved, stored, pass, [](Index) {});
  }

  /// Output halves become input halves, gradients by the outputs become gradients by the inputs.
  /// @throw std::invalid_argument, before anything is written, for what one of the blocks cannot
  /// take
  template <typename Half>
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved, const Pass& pass) {
    reverse(y, dy, saved, Stored<Half>{}, pass);
  }

  /// The same with what `forward` has stored.
  template <typename Half>
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved,
               const Stored<Half>& stored, const Pass& pass) {
    check_saved("ReversibleSequence::reverse", saved);
    check_stored("ReversibleSequence::reverse", stored);
    const StoredInputs<Half> none;
    const auto stored_at = [&](Index i) -> const StoredInputs<Half>& {
      return stored.empty() ? none : stored[static_cast<std::size_t>(i)];
    };
    for (Index i = 0; i < size(); ++i) {
      (*this)[i].check_reverse(y, dy, saved[static_cast<std::size_t>(i)], stored_at(i),
                               pass.at_layer(i));
    }
    for (Index i = size() - 1; i >= 0; --i) {
      (*this)[i].reverse(y, dy, saved[static_cast<std::size_t>(i)], stored_at(i), pass.at_layer(i));
    }
  }

  template <typename Visitor>
  void for_each_parameter(Visitor&& visitor) {
    for (Block& block : blocks_) block.for_each_parameter(visitor);
  }
  template <typename Visitor>
  void for_each_parameter(Visitor&& visitor) const {
    for (const Block& block : blocks_) block.for_each_parameter(visitor);
  }

 private:
  std::size_t checked(Index i) const {
    check(i >= 0 && i < size(), "ReversibleSequence", "block is ", i, ", must be in [0, ", size(),
          ")");
    return static_cast<std::size_t>(i);
  }

  template <typename Half, typename After>
  void walk_up(Halves<Half>& x, Saved& saved, Stored<Half>& stored, const Pass& pass,
               const After& after) const {
    check_saved("ReversibleSequence::forward", saved);
    check_stored("ReversibleSequence::forward", stored);
    for (Index i = 0; i < size(); ++i) {
      (*this)[i].check_forward(x, saved[static_cast<std::size_t>(i)], pass.at_layer(i));
    }
    StoredInputs<Half> none;
    for (Index i = 0; i < size(); ++i) {
      const auto index = static_cast<std::size_t>(i);
      (*this)[i].forward(x, saved[index], stored.empty() ? none : stored[index], pass.at_layer(i));
      after(i);
    }
  }

  void check_saved(std::string_view function, const Saved& saved) const {
    check_equal(function, "saved", static_cast<Index>(saved.size()), "blocks", size());
  }
  template <typename Half>
  void check_stored(std::string_view function, const Stored<Half>& stored) const {
    check(stored.empty() || static_cast<Index>(stored.size()) == size(), function, "stored is ",
          stored.size(), ", must be 0 or blocks = ", size());
  }

  std::vector<Block> blocks_;
};

}  // namespace reformer::inline REFORMER_ABI
