// SPDX-License-Identifier: MIT
/// @file
/// A reversible stack (paper, Eqs. (7) to (9); Gomez et al., arXiv 1707.04585): a sequence of
/// branches that take turns.
///
///     branch 0: x_1 += f_0(x_2),   branch 1: x_2 += f_1(x_1),   branch 2: x_1 += f_2(x_2), ...
///
/// and back by the same walk from the last branch to the first, with -=. A layer of a Reformer is
/// two of them, attention and feed-forward.
///
/// Its memory does not grow with depth: forward keeps the two halves of the top, backward walks
/// down from them and rebuilds each branch's input while it differentiates. With halves in floating
/// point, what is rebuilt differs from what was there by roundings that grow with depth. With
/// halves in fixed point it is the same bit for bit. Memory to spare buys time: see `Stored`.
#pragma once

#include <concepts>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/reversible/any_branch.hpp"
#include "reformer/reversible/branch.hpp"

namespace reformer::inline REFORMER_ABI {

/// Branches in the order in which they are applied: 0, 2, 4, ... add to the first half and read the
/// second, 1, 3, 5, ... the other way round.
template <ResidualHalf Half_>
class ReversibleSequence {
 public:
  using Half = Half_;
  using Scalar = typename Half::Scalar;
  using Branch = AnyBranch<Half>;
  /// What branches have saved, one by one.
  using Saved = std::vector<typename Branch::Saved>;
  /// Copies of the half that a branch adds itself to, as it was before, branch by branch; may be
  /// empty. Those that are there, whatever their size, are filled by the forward walk and put back
  /// by the backward walk; other inputs are rebuilt by subtraction. Copies of another size than the
  /// halves get memory of their own.
  using Stored = std::vector<std::optional<Half>>;
  /// States of decoding, branch by branch.
  using Decoding = std::vector<typename Branch::Decoding>;

  ReversibleSequence() = default;
  /// @param layers  of each branch, for messages; or none: messages then count branches
  /// @throw std::invalid_argument for another number of layers than of branches
  explicit ReversibleSequence(std::vector<Branch> branches, std::vector<Index> layers = {})
      : branches_(std::move(branches)), layers_(std::move(layers)) {
    check(layers_.empty() || layers_.size() == branches_.size(), "ReversibleSequence",
          "layers has ", layers_.size(), " elements, must have branches = ", branches_.size(),
          " or none");
  }

  /// Number of branches.
  Index size() const { return static_cast<Index>(branches_.size()); }
  /// @throw std::invalid_argument if there is no branch i
  Branch& operator[](Index i) { return branches_[checked(i)]; }
  const Branch& operator[](Index i) const { return branches_[checked(i)]; }

  /// Stored-activation mode: the inputs of all branches are kept, and nothing is rebuilt.
  Stored store_all() const { return Stored(branches_.size(), Half()); }

  /// Memory for what `forward` must leave for `reverse`.
  /// @param storage  of each branch, of which contexts are taken memory for here; or none
  /// @throw std::invalid_argument for another size of `storage`
  Saved saved_in(Scratch& memory, const SavedPass& pass,
                 std::span<const BranchStorage> storage = {}) const {
    check_storage("ReversibleSequence::saved_in", storage);
    Saved saved;
    for (std::size_t i = 0; i < branches_.size(); ++i) {
      saved.push_back(branches_[i].saved_in(memory, pass, !storage.empty() && storage[i].context));
    }
    return saved;
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument for another size of `storage`
  void plan(Workspace& workspace, const SavedPass& pass,
            std::span<const BranchStorage> storage = {}) const {
    check_storage("ReversibleSequence::plan", storage);
    for (std::size_t i = 0; i < branches_.size(); ++i) {
      detail::plan_branch<Half>(branches_[i], workspace, pass,
                                storage.empty() ? BranchStorage{} : storage[i]);
    }
  }

  /// Input halves become output halves. Nothing is saved: no backward walk follows.
  /// @throw std::invalid_argument, before any half is written, for what one of the branches refuses
  /// @throw std::overflow_error if a half of limited range has left it: layer, branch, place, value
  void forward(Halves<Half>& x, const Pass& pass) const {
    forward(x, pass, [](Index) {});
  }

  /// The same, and calls `after(i)` when branch i has been applied.
  template <typename After>
  requires std::invocable<const After&, Index>
  void forward(Halves<Half>& x, const Pass& pass, const After& after) const {
    Saved nothing(branches_.size());
    Stored none;
    walk_up(x, nothing, none, pass, after);
  }

  /// The same, and leaves what the backward walk needs.
  /// @param saved  what there is memory for is filled: see `saved_in`
  void forward(Halves<Half>& x, Saved& saved, const Pass& pass) const {
    Stored none;
    forward(x, saved, none, pass);
  }

  /// The same, and fills `stored`.
  void forward(Halves<Half>& x, Saved& saved, Stored& stored, const Pass& pass) const {
    forward(x, saved, stored, pass, [](Index) {});
  }

  /// The same, and calls `after(i)` when branch i has been applied.
  template <typename After>
  requires std::invocable<const After&, Index>
  void forward(Halves<Half>& x, Saved& saved, Stored& stored, const Pass& pass,
               const After& after) const {
    walk_up(x, saved, stored, pass, after);
  }

  /// Output halves become input halves, gradients by the outputs become gradients by the inputs;
  /// parameter gradients are accumulated.
  /// @throw std::invalid_argument, before anything is written, for what one of the branches
  /// refuses, or a copy of an input has another size
  /// @throw std::overflow_error as `forward`; never if y is what `forward` gave
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved, const Pass& pass) {
    reverse(y, dy, saved, Stored{}, pass);
  }

  /// The same with what `forward` has stored.
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved, const Stored& stored,
               const Pass& pass) {
    reverse(y, dy, saved, stored, pass, [](Index) {});
  }

  /// The same, and calls `after(i)` when the gradients of branch i are complete.
  template <typename After>
  requires std::invocable<const After&, Index>
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved, const Stored& stored,
               const Pass& pass, const After& after) {
    walk_down(y, dy, saved, stored, pass, after, [&](std::size_t i, Half& half) {
      copy_half(pass.workspace.threads(), *stored[i], half);
    });
  }
  /// The same, and takes what is stored away: the halves become those that are stored, where they
  /// lie. What lies in scratch must outlive them.
  template <typename After>
  requires std::invocable<const After&, Index>
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved, Stored&& stored,
               const Pass& pass, const After& after) {
    walk_down(y, dy, saved, stored, pass, after,
              [&](std::size_t i, Half& half) { half = std::move(*stored[i]); });
    stored.clear();
  }

  /// Fresh states for `pass.batch` sequences and the pass's random key.
  /// @throw std::invalid_argument naming the first branch that cannot go on token by token
  Decoding decoding(const Pass& pass) const {
    for (Index i = 0; i < size(); ++i) {
      check((*this)[i].is_decodable(), "ReversibleSequence::decoding", where(i),
            " cannot go on token by token, must have decoding, prefill and decode");
    }
    Decoding decoding;
    for (Index i = 0; i < size(); ++i) decoding.push_back((*this)[i].decoding(pass.at_layer(i)));
    return decoding;
  }

  /// `forward` for prompts, from which `decode` goes on.
  /// @throw std::invalid_argument, std::overflow_error as `forward`
  void prefill(Halves<Half>& x, Decoding& decoding, const Pass& pass) const {
    check_decoding("ReversibleSequence::prefill", decoding);
    for (Index i = 0; i < size(); ++i) {
      const auto [from, to] = sides(x, i);
      (*this)[i].check_prefill(from, to, decoding[static_cast<std::size_t>(i)], pass.at_layer(i));
    }
    for (Index i = 0; i < size(); ++i) {
      const auto [from, to] = sides(x, i);
      (*this)[i].prefill(from, to, decoding[static_cast<std::size_t>(i)], pass.at_layer(i));
      check_half(i, to, pass);
    }
  }

  /// `forward` for the next token of each sequence, halves `[B, D]`.
  /// @param pass  length 1
  /// @throw std::invalid_argument, std::overflow_error as `forward`
  void decode(Halves<Half>& x, Decoding& decoding, const Pass& pass) const {
    check_decoding("ReversibleSequence::decode", decoding);
    for (Index i = 0; i < size(); ++i) {
      const auto [from, to] = sides(x, i);
      (*this)[i].check_decode(from, to, decoding[static_cast<std::size_t>(i)], pass.at_layer(i));
    }
    for (Index i = 0; i < size(); ++i) {
      const auto [from, to] = sides(x, i);
      (*this)[i].decode(from, to, decoding[static_cast<std::size_t>(i)], pass.at_layer(i));
      check_half(i, to, pass);
    }
  }

  /// The sequences that the next `prefill` and `decode` are for.
  /// @throw std::invalid_argument for states of another stack, or no such sequences
  void select(Decoding& decoding, std::span<const Index> sequences) const {
    check_decoding("ReversibleSequence::select", decoding);
    for (auto& state : decoding) state->select(sequences);
  }
  /// Forgets the selected sequences.
  /// @throw std::invalid_argument for states of another stack
  void clear(Decoding& decoding) const {
    check_decoding("ReversibleSequence::clear", decoding);
    for (auto& state : decoding) state->clear();
  }
  /// Bytes that are kept of the sequences.
  /// @throw std::invalid_argument for states of another stack
  std::size_t bytes(const Decoding& decoding) const {
    check_decoding("ReversibleSequence::bytes", decoding);
    std::size_t bytes = 0;
    for (const auto& state : decoding) bytes += state->bytes();
    return bytes;
  }

  void for_each_parameter(auto&& f) {
    for (Branch& branch : branches_) branch.for_each_parameter(f);
  }
  void for_each_parameter(auto&& f) const {
    for (const Branch& branch : branches_) branch.for_each_parameter(f);
  }

 private:
  std::size_t checked(Index i) const {
    check(i >= 0 && i < size(), "ReversibleSequence", "branch is ", i, ", must be in [0, ", size(),
          ")");
    return static_cast<std::size_t>(i);
  }

  /// What branch i reads, and what it adds to.
  template <typename Pair>
  static auto sides(Pair& pair, Index i) {
    return i % 2 == 0 ? std::tie(pair.second, pair.first) : std::tie(pair.first, pair.second);
  }

  /// What messages call a branch.
  std::string where(Index i) const {
    const auto place = layers_.empty()
                           ? detail::join("branch ", i)
                           : detail::join("layer ", layers_[static_cast<std::size_t>(i)]);
    return detail::join(place, i % 2 == 0 ? ", first half (" : ", second half (",
                        (*this)[i].label(), ")");
  }

  static bool is_stored(const Stored& stored, Index i) {
    return !stored.empty() && stored[static_cast<std::size_t>(i)].has_value();
  }

  template <typename After>
  void walk_up(Halves<Half>& x, Saved& saved, Stored& stored, const Pass& pass,
               const After& after) const {
    check_saved("ReversibleSequence::forward", saved);
    check_stored("ReversibleSequence::forward", stored);
    for (Index i = 0; i < size(); ++i) {
      const auto index = static_cast<std::size_t>(i);
      const auto [from, to] = sides(x, i);
      branches_[index].check_forward(from, to, saved[index], pass.at_layer(i));
    }
    for (Index i = 0; i < size(); ++i) {
      const auto index = static_cast<std::size_t>(i);
      const auto [from, to] = sides(x, i);
      if (is_stored(stored, i)) copy_half(pass.workspace.threads(), to, *stored[index]);
      branches_[index].forward(from, to, saved[index], pass.at_layer(i));
      check_half(i, to, pass);
      after(i);
    }
  }

  /// @param put_back  puts what is stored of branch i into a half
  template <typename After, typename PutBack>
  void walk_down(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved,
                 const Stored& stored, const Pass& pass, const After& after,
                 const PutBack& put_back) {
    constexpr auto function = "ReversibleSequence::reverse";
    check_saved(function, saved);
    check_stored(function, stored);
    for (Index i = size() - 1; i >= 0; --i) {
      const auto index = static_cast<std::size_t>(i);
      const auto [from, to] = sides(y, i);
      const auto [dfrom, dto] = sides(dy, i);
      branches_[index].check_reverse(from, to, dto, dfrom, saved[index], pass.at_layer(i));
      if (is_stored(stored, i)) check_size(function, i, *stored[index], to);
    }
    for (Index i = size() - 1; i >= 0; --i) {
      const auto index = static_cast<std::size_t>(i);
      const auto [from, to] = sides(y, i);
      const auto [dfrom, dto] = sides(dy, i);
      Pass own = pass.at_layer(i);
      own.subtract = !is_stored(stored, i);
      branches_[index].reverse(from, to, dto, dfrom, saved[index], own);
      if (is_stored(stored, i)) put_back(index, to);
      check_half(i, to, pass);
      after(i);
    }
  }

  void check_half(Index i, const Half& half, const Pass& pass) const {
    if (overflow_of(half)) [[unlikely]]
      detail::check_range(where(i), half, pass.length);
  }

  void check_saved(std::string_view function, const Saved& saved) const {
    check_equal(function, "saved", static_cast<Index>(saved.size()), "branches", size());
  }
  void check_decoding(std::string_view function, const Decoding& decoding) const {
    check_equal(function, "decoding", static_cast<Index>(decoding.size()), "branches", size());
  }
  void check_stored(std::string_view function, const Stored& stored) const {
    check(stored.empty() || static_cast<Index>(stored.size()) == size(), function, "stored is ",
          stored.size(), ", must be 0 or branches = ", size());
  }
  void check_storage(std::string_view function, std::span<const BranchStorage> storage) const {
    check(storage.empty() || static_cast<Index>(storage.size()) == size(), function, "storage is ",
          storage.size(), ", must be 0 or branches = ", size());
  }
  static void check_size(std::string_view function, Index i, const Half& stored, const Half& half) {
    check_equal(function, detail::join("rows of stored[", i, "]"), stored.rows(), "those of y",
                half.rows());
    check_equal(function, detail::join("columns of stored[", i, "]"), stored.columns(),
                "those of y", half.columns());
  }

  std::vector<Branch> branches_;
  std::vector<Index> layers_;
};

}  // namespace reformer::inline REFORMER_ABI
