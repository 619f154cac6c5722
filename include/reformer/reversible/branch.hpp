// SPDX-License-Identifier: MIT
/// @file
/// The two halves of the residual stream, and what a reversible stack asks of its branches.
///
///     forward:   y += f(x)      reverse:   y -= f(x),   dx += (df/dx)^T dy
///
/// A branch adds itself to one half and can undo that while it differentiates, so a stack keeps
/// nothing but the halves and what its branches say they must save.
#pragma once

#include <concepts>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"

namespace reformer::inline REFORMER_ABI {

/// The two halves of the residual stream, each `[B*T, D]`.
template <typename Half>
struct Halves {
  Half first, second;
};

/// Gradients of the loss by the two halves, each `[B*T, D]`, in the caller's memory.
template <typename Scalar>
struct HalfGradients {
  MatrixView<Scalar> first, second;
};

/// What a branch of a reversible stack has. With halves x, y and gradients dx, dy `[B*T, D]`:
///
/// - `Scalar`: that of the half.
/// - `label`: what messages call it, such as "attention".
/// - `Saved`: what `forward` leaves for `reverse`; may be empty.
/// - `forward(x, y, saved, pass) const`: y += f(x).
/// - `reverse(x, y, dy, dx, saved, pass)`: y -= f(x), dx += (df/dx)^T dy, and the gradients of
///   parameters are added to.
/// - `plan(workspace, pass, stored) const`: takes the scratch of both from a workspace that only
///   plans (`Workspace::plan`).
/// - `for_each_parameter(f)`, with and without const: calls f for each `Parameter`, in a fixed
///   order.
///
/// `reverse` is given what `forward` left in `saved` and the same pass, and computes f(x) by the
/// same compiled function, so that what it subtracts are the bits that were added: as tasks of one
/// `parallel_for`, with the sign as an argument, are. It leaves the subtraction out where
/// `pass.subtract` is false. A branch never reads y or dx for anything else.
/// dy is finite, at padding too. `forward` changes nothing of the branch, so that any number of
/// threads may run it at a time. Random numbers come from `pass.key`, which is another for each
/// branch of a stack. Scratch comes from `pass.workspace`.
///
/// The rest is for branches that need it:
///
/// - `saved_in(scratch, pass)`: takes memory for a `Saved`, which is null where the workspace only
///   plans. A `Saved` that is default-constructed has no memory, and nothing is kept in it.
/// - `plan<Half>(workspace, pass, stored)`, where `plan` runs `forward` and `reverse` on an empty
///   half of the stack's type.
/// - `check_forward`, `check_reverse`, `check_prefill`, `check_decode`: take the arguments of the
///   functions that they are named after and throw `std::invalid_argument` for those that do not
///   fit. A stack calls those of all branches before any of them writes.
/// - Going on token by token: see `DecodableBranch`.
/// - A memory budget: `output_work()` is the number of multiply-adds a row that `reverse` saves
///   when it need not subtract; y may then be stored instead. A branch with
///   `saved_in(memory, pass, context)`, where true asks for memory for inner values too, and
///   `context_work(length)`, the multiply-adds of dense products a row that take the time they
///   save, can have these stored. Without them nothing is stored of a branch.
template <typename Branch, typename Half>
concept ReversibleBranch = ResidualHalf<Half> && std::copy_constructible<Branch> &&
    std::default_initializable<typename Branch::Saved> &&
    std::copy_constructible<typename Branch::Saved> &&
    std::same_as<typename Branch::Scalar, typename Half::Scalar> &&
    requires(Branch& branch, const Branch& constant, const Half& x, Half& y,
             typename Branch::Saved& saved, const Pass& pass,
             MatrixView<const typename Half::Scalar> dy, MatrixView<typename Half::Scalar> dx,
             Workspace& workspace, const SavedPass& sizes, const BranchStorage& stored,
             ParameterVisitor<typename Half::Scalar> visit,
             ConstParameterVisitor<typename Half::Scalar> visit_constant) {
  { Branch::label } -> std::convertible_to<std::string_view>;
  constant.forward(x, y, saved, pass);
  branch.reverse(x, y, dy, dx, saved, pass);
  constant.plan(workspace, sizes, stored);
  branch.for_each_parameter(visit);
  constant.for_each_parameter(visit_constant);
};

namespace detail {
/// `branch.plan`, for halves of this type if it is a template over them.
template <typename Half, typename Branch>
void plan_branch(const Branch& branch, Workspace& workspace, const SavedPass& pass,
                 const BranchStorage& stored) {
  if constexpr (std::default_initializable<Half> &&
                requires { branch.template plan<Half>(workspace, pass, stored); }) {
    branch.template plan<Half>(workspace, pass, stored);
  } else {
    branch.plan(workspace, pass, stored);
  }
}
}  // namespace detail

/// A branch that can go on token by token, so that a `Decoder` can:
///
/// - `decoding(pass)` gives a fresh `Decoding` for `pass.batch` sequences and the pass's random
///   key, with copies of whatever parameters it wants to have at hand;
/// - `prefill(x, y, decoding, pass)` is `forward` for prompts, and leaves in `decoding` what later
///   tokens need of them;
/// - `decode(x, y, decoding, pass)` is `forward` for the next token of each sequence, x and y
///   `[B, D]`, length 1. It gives the bits that `forward` over the whole sequence has in this row.
///
/// Tokens must not depend on later ones, nor on padding or other sequences. A `Decoding` that keeps
/// something of each sequence has `select(sequences)`, which says what sequences the next calls are
/// for, `clear()`, which forgets these, and `bytes()`.
template <typename Branch, typename Half>
concept DecodableBranch = ReversibleBranch<Branch, Half> &&
    std::move_constructible<typename Branch::Decoding> &&
    requires(const Branch& constant, const Half& x, Half& y, typename Branch::Decoding& decoding,
             const Pass& pass) {
  { constant.decoding(pass) } -> std::same_as<typename Branch::Decoding>;
  constant.prefill(x, y, decoding, pass);
  constant.decode(x, y, decoding, pass);
};

}  // namespace reformer::inline REFORMER_ABI
