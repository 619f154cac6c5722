// SPDX-License-Identifier: MIT
/// @file
/// Reversible residual block (paper, Eqs. (7) to (9); Gomez et al., arXiv 1707.04585).
///
///     forward:   y_1 = x_1 + f(x_2),   y_2 = x_2 + g(y_1)
///     inverse:   x_2 = y_2 - g(y_1),   x_1 = y_1 - f(x_2)
///
/// A branch adds itself to one half and can undo that while it differentiates, so a block keeps
/// nothing but the halves and what its branches say they must save. Where memory is plentiful,
/// copies of its inputs may be stored instead, which saves the time to compute what is subtracted.
#pragma once

#include <optional>
#include <string_view>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"

namespace reformer::inline REFORMER_ABI {

/// What fits into a reversible block. With halves x, y and gradients dx, dy `[B*T, D]`:
///
///     forward(x, y, saved, pass)           y += f(x)
///     reverse(x, y, dy, dx, saved, pass)   y -= f(x), dx += (df/dx)^T dy, parameter gradients +=
///     ...
///
/// `reverse` is given what `forward` left in `saved` and the same pass. A branch never reads y or
/// dx for anything else. dy is finite, at padding too. `forward` changes nothing of the branch, so
/// that any number of threads may run it at a time.
///
/// Memory for what `forward` leaves is the caller's. A branch that needs some has
/// `saved_in(memory, pass)`, a template over `ScratchMemory` that takes it and returns a `Saved` to
/// be filled. A `Saved` that is default-constructed has no memory, and nothing is kept in it.
///
/// A branch may have `check_forward`, `check_reverse`, `check_prefill` and `check_decode`, which
/// take the arguments of the functions that they are named after and throw `std::invalid_argument`
/// for those that do not fit. Blocks call those of both branches before either writes, and
/// sequences those of all blocks.
template <typename Branch, typename Half>
concept ReversibleBranch = ResidualHalf<Half> &&
    requires(Branch& branch, const Branch& constant, const Half& x, Half& y,
             typename Branch::Saved& saved, const Pass& pass,
             MatrixView<const typename Half::Scalar> dy, MatrixView<typename Half::Scalar> dx) {
  constant.forward(x, y, saved, pass);
  branch.reverse(x, y, dy, dx, saved, pass);
};

/// The two halves of the residual stream, each `[B*T, D]`.
template <typename Half>
struct Halves {
  Half first, second;
};

/// Copies of a block's inputs. Those that are there, whatever their size, are filled by the forward
/// pass and put back by the backward pass; x_1 or x_2 without a copy is rebuilt by subtraction.
template <typename Half>
struct StoredInputs {
  std::optional<Half> first, second;
};

/// Gradients of the loss by the two halves, each `[B*T, D]`, in the caller's memory.
template <typename Scalar>
struct HalfGradients {
  MatrixView<Scalar> first, second;
};

/// One reversible layer: f is attention, g is feed-forward in a Reformer, but any branches will do.
template <typename F, typename G>
class ReversibleBlock {
 public:
  using Scalar = typename F::Scalar;
  struct Saved {
    typename F::Saved f;
    typename G::Saved g;
  };

  /// What `prefill` and `decode` keep, if both branches can go on token by token.
  struct Decoding {
    typename F::Decoding f;
    typename G::Decoding g;
  };

  ReversibleBlock(F f, G g) : f_(std::move(f)), g_(std::move(g)) {}

  F& f() { return f_; }
  G& g() { return g_; }
  const F& f() const { return f_; }
  const G& g() const { return g_; }

  /// Memory for what `forward` must leave for `reverse`.
  template <ScratchMemory Memory>
  Saved saved_in(Memory& memory, const SavedPass& pass) const {
    const auto of = [&]<typename Branch>(const Branch& branch) -> typename Branch::Saved {
      if constexpr (requires { branch.saved_in(memory, pass); }) {
        return branch.saved_in(memory, pass);
      } else {
        return {};
      }
    };
    return {of(f_), of(g_)};
  }

  /// (x_1, x_2) becomes (y_1, y_2).
  /// @param saved  what there is memory for is filled
  /// @throw std::overflow_error if a half of limited range has left it: layer, branch, place, value
  template <typename Half>
  requires ReversibleBranch<F, Half> && ReversibleBranch<G, Half>
  void forward(Halves<Half>& x, Saved& saved, const Pass& pass) const {
    StoredInputs<Half> none;
    forward(x, saved, none, pass);
  }
  /// @throw std::invalid_argument, before anything is written, for what a branch cannot take
  template <typename Half>
  requires ReversibleBranch<F, Half> && ReversibleBranch<G, Half>
  void forward(Halves<Half>& x, Saved& saved, StoredInputs<Half>& stored, const Pass& pass) const {
    check_forward(x, saved, pass);
    if (stored.first) *stored.first = x.first;
    f_.forward(x.second, x.first, saved.f, pass_of(pass, 0));
    check_branch("first", f_, x.first, pass);
    if (stored.second) *stored.second = x.second;
    g_.forward(x.first, x.second, saved.g, pass_of(pass, 1));
    check_branch("second", g_, x.second, pass);
  }

  /// Throws `std::invalid_argument` if a branch cannot take these arguments of `forward`.
  template <typename Half>
  void check_forward(const Halves<Half>& x, const Saved& saved, const Pass& pass) const {
    const auto check_one = [](const auto& branch, const auto&... arguments) {
      if constexpr (requires { branch.check_forward(arguments...); }) {
        branch.check_forward(arguments...);
      }
    };
    check_one(f_, x.second, x.first, saved.f, pass_of(pass, 0));
    check_one(g_, x.first, x.second, saved.g, pass_of(pass, 1));
  }

  /// A fresh state for `pass.batch` sequences and the pass's random key.
  Decoding decoding(const Pass& pass) const {
    return {f_.decoding(pass_of(pass, 0)), g_.decoding(pass_of(pass, 1))};
  }

  /// `forward` for prompts, from which `decode` goes on.
  /// @throw std::invalid_argument, std::overflow_error as `forward`
  template <typename Half>
  void prefill(Halves<Half>& x, Decoding& decoding, const Pass& pass) const {
    const auto check_one = [](const auto& branch, const auto&... arguments) {
      if constexpr (requires { branch.check_prefill(arguments...); }) {
        branch.check_prefill(arguments...);
      }
    };
    check_one(f_, x.second, x.first, decoding.f, pass_of(pass, 0));
    check_one(g_, x.first, x.second, decoding.g, pass_of(pass, 1));
    f_.prefill(x.second, x.first, decoding.f, pass_of(pass, 0));
    check_branch("first", f_, x.first, pass);
    g_.prefill(x.first, x.second, decoding.g, pass_of(pass, 1));
    check_branch("second", g_, x.second, pass);
  }

  /// `forward` for the next token of each sequence, halves `[B, D]`.
  /// @param pass  length 1
  /// @throw std::invalid_argument, std::overflow_error as `forward`
  template <typename Half>
  void decode(Halves<Half>& x, Decoding& decoding, const Pass& pass) const {
    const auto check_one = [](const auto& branch, const auto&... arguments) {
      if constexpr (requires { branch.check_decode(arguments...); }) {
        branch.check_decode(arguments...);
      }
    };
    check_one(f_, x.second, x.first, decoding.f, pass_of(pass, 0));
    check_one(g_, x.first, x.second, decoding.g, pass_of(pass, 1));
    f_.decode(x.second, x.first, decoding.f, pass_of(pass, 0));
    check_branch("first", f_, x.first, pass);
    g_.decode(x.first, x.second, decoding.g, pass_of(pass, 1));
    check_branch("second", g_, x.second, pass);
  }

  /// (y_1, y_2) becomes (x_1, x_2), their gradients likewise; parameter gradients are accumulated.
  /// @throw std::invalid_argument, before anything is written, for what a branch cannot take
  /// @throw std::overflow_error as `forward`; never if (y_1, y_2) is what `forward` gave
  template <typename Half>
  requires ReversibleBranch<F, Half> && ReversibleBranch<G, Half>
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved, const Pass& pass) {
    reverse(y, dy, saved, StoredInputs<Half>{}, pass);
  }
  template <typename Half>
  requires ReversibleBranch<F, Half> && ReversibleBranch<G, Half>
  void reverse(Halves<Half>& y, const HalfGradients<Scalar>& dy, Saved& saved,
               const StoredInputs<Half>& stored, const Pass& pass) {
    check_reverse(y, dy, saved, stored, pass);
    Pass g_pass = pass_of(pass, 1), f_pass = pass_of(pass, 0);
    g_pass.subtract = !stored.second;
    f_pass.subtract = !stored.first;
    g_.reverse(y.first, y.second, dy.second, dy.first, saved.g, g_pass);
    if (stored.second) y.second = *stored.second;
    check_branch("second", g_, y.second, pass);
    f_.reverse(y.second, y.first, dy.first, dy.second, saved.f, f_pass);
    if (stored.first) y.first = *stored.first;
    check_branch("first", f_, y.first, pass);
  }

  /// Throws `std::invalid_argument` if a branch cannot take these arguments of `reverse`, or a copy
  /// of an input has another size.
  template <typename Half>
  void check_reverse(const Halves<Half>& y, const HalfGradients<Scalar>& dy, const Saved& saved,
                     const StoredInputs<Half>& stored, const Pass& pass) const {
    const auto check_one = [](const auto& branch, const auto&... arguments) {
      if constexpr (requires { branch.check_reverse(arguments...); }) {
        branch.check_reverse(arguments...);
      }
    };
    check_one(g_, y.first, y.second, dy.second, dy.first, saved.g, pass_of(pass, 1));
    check_one(f_, y.second, y.first, dy.first, dy.second, saved.f, pass_of(pass, 0));
    check_stored("first", stored.first, y.first);
    check_stored("second", stored.second, y.second);
  }

  template <typename Visitor>
  void for_each_parameter(Visitor&& visitor) {
    f_.for_each_parameter(visitor);
    g_.for_each_parameter(visitor);
  }
  template <typename Visitor>
  void for_each_parameter(Visitor&& visitor) const {
    f_.for_each_parameter(visitor);
    g_.for_each_parameter(visitor);
  }

 private:
  template <typename Half>
  static void check_stored(std::string_view name, const std::optional<Half>& stored,
                           const Half& half) {
    if (!stored) return;
    constexpr auto function = "ReversibleBlock::reverse";
    check_equal(function, detail::join("rows of stored.", name), stored->rows(), "those of y",
                half.rows());
    check_equal(function, detail::join("columns of stored.", name), stored->columns(), "those of y",
                half.columns());
  }

  /// The two branches draw from streams of their own.
  static Pass pass_of(const Pass& pass, Index branch) {
    return pass.at_layer(2 * static_cast<Index>(pass.key.layer) + branch);
  }

  /// A branch may have a name for messages, `Branch::label`.
  template <typename Branch, typename Half>
  static void check_branch(std::string_view number, const Branch&, const Half& half,
                           const Pass& pass) {
    if (!overflow_of(half)) return;
    std::string_view label = "branch";
    if constexpr (requires { Branch::label; }) label = Branch::label;
    check_range(detail::join("layer ", pass.key.layer, ", ", number, " half (", label, ")"), half,
                pass.length);
  }

  F f_;
  G g_;
};

}  // namespace reformer::inline REFORMER_ABI
