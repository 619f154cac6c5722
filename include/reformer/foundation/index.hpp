// SPDX-License-Identifier: MIT
/// @file
/// The type of sizes and indices.
#pragma once

#include <cstddef>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

/// Sizes and indices; Eigen's, without its headers.
using Index = std::ptrdiff_t;

/// Number of pieces of length `step` >= 1 that cover `n` >= 0.
constexpr Index ceil_div(Index n, Index step) {
  return n / step + (n % step > 0 ? 1 : 0);
}

/// Smallest multiple of `step` >= 1 that is at least `n` >= 0; it must fit an `Index`.
constexpr Index round_up(Index n, Index step) {
  return ceil_div(n, step) * step;
}

}  // namespace reformer::inline REFORMER_ABI
