// SPDX-License-Identifier: MIT
/// @file
/// What every branch needs to know about the pass it is part of.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/precision.hpp"
#include "reformer/foundation/random.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI {

/// One forward or backward walk over a batch of `batch` sequences of `length` tokens. If its
/// workspace only plans, its scratch is counted and nothing is computed.
struct Pass {
  Workspace& workspace;
  Index batch = 1;   ///< B
  Index length = 1;  ///< T
  /// Random numbers of this walk; a backward pass must be given the forward pass's key.
  RandomKey key = {};
  /// Dropout is active in training only.
  bool training = false;
  /// `[B*T]`, 0 for padding and any other number for a real token; empty when all are real.
  std::span<const std::uint8_t> is_real = {};
  /// `[B*T]`, what the rows stand for; empty when that is not tokens, or not known.
  std::span<const std::int32_t> tokens = {};
  /// Backward only: false says that the caller puts y back itself, from a copy, so that a branch
  /// may leave `y -= f(x)` out and save the time.
  bool subtract = true;
  /// Rounds of hashed attention; 0: those of each layer. A backward pass must be given the forward
  /// pass's.
  Index num_hashes = 0;
  /// Of matrix products; a backward pass must be given the forward pass's.
  Precision precision = Precision::float32;
  /// What dropout has of its rates in training, from 0 to 1; a backward pass must be given the
  /// forward pass's.
  double dropout_share = 1;

  Index rows() const { return batch * length; }
  /// Probability with which a dropout of this rate leaves out in this pass.
  double dropout(double rate) const { return training ? rate * dropout_share : 0; }
  bool is_padding(Index row) const { return !detail::is_real_row(is_real, row); }
  Pass at_layer(Index layer) const {
    Pass pass = *this;
    pass.key.layer = key.at_layer(layer).layer;
    return pass;
  }
};

/// What must be known of a pass with gradients to take memory for what its forward walk saves for
/// the backward walk, and to plan its scratch.
struct SavedPass {
  Index batch = 1, length = 1;  ///< B, T
  /// Whether subtracting from the halves undoes adding bit for bit.
  bool is_exact = false;
  Index num_hashes = 0;                      ///< as in `Pass`
  Precision precision = Precision::float32;  ///< as in `Pass`
};

/// What is stored of one branch, so that going back need not compute it again.
struct BranchStorage {
  bool input = false;    ///< the half that it adds itself to, as it was before
  bool context = false;  ///< inner values that `saved_in` takes memory for on request

  bool operator==(const BranchStorage&) const = default;
};

/// Throws `std::invalid_argument` unless the workspace is one for use, sizes are positive, the
/// layer is one that a key can tell, the share of dropout is from 0 to 1, and mask and tokens, if
/// any, are `[B*T]`.
inline void check_pass(std::string_view function, const Pass& pass) {
  detail::check_for_use(function, pass.workspace);
  check_at_least(function, "batch", pass.batch, 1);
  check_at_least(function, "length", pass.length, 1);
  check(pass.batch <= std::numeric_limits<Index>::max() / pass.length, function, "batch is ",
        pass.batch, ", must be at most ", std::numeric_limits<Index>::max() / pass.length,
        " for length ", pass.length);
  detail::check_key(function, pass.key);
  check(pass.dropout_share >= 0 && pass.dropout_share <= 1, function, "dropout_share is ",
        pass.dropout_share, ", must be from 0 to 1");
  check(pass.is_real.empty() || static_cast<Index>(pass.is_real.size()) == pass.rows(), function,
        "is_real has ", pass.is_real.size(), " elements, must have B*T = ", pass.rows());
  check(pass.tokens.empty() || static_cast<Index>(pass.tokens.size()) == pass.rows(), function,
        "tokens has ", pass.tokens.size(), " elements, must have B*T = ", pass.rows());
}

namespace detail {
/// Throws `std::invalid_argument` unless products of these scalars have this precision: those of
/// doubles are in double.
template <typename Scalar>
void check_precision(std::string_view function, Precision precision) {
  const int number = static_cast<int>(precision);
  check(number >= 0 && number <= static_cast<int>(Precision::bfloat16), function, "precision is ",
        number, ", must be float32, bfloat16x3 or bfloat16");
  check(precision == Precision::float32 || std::is_same_v<Scalar, float>, function, "precision is ",
        name_of(precision), ", must be float32 for other scalars than float");
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
