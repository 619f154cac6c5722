// SPDX-License-Identifier: MIT
/// @file
/// What the halves of the residual stream are held in.
#pragma once

#include <cstdint>
#include <type_traits>
#include <variant>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

/// Halves in plain floating point.
struct FloatResidual {};

/// Halves in fixed point: exact reversal, at any depth.
struct FixedResidual {
  /// The unit is 2^-fraction_bits. Values reach to 2^(31 - fraction_bits) in float, 2^(63 -
  /// fraction_bits) in double; 0: up to 2048.
  int fraction_bits = 0;
};

using ResidualConfig = std::variant<FloatResidual, FixedResidual>;

/// What fixed point of this precision is held in.
template <typename Scalar>
using FixedInteger = std::conditional_t<sizeof(Scalar) == 4, std::int32_t, std::int64_t>;

}  // namespace reformer::inline REFORMER_ABI
