// SPDX-License-Identifier: MIT
/// @file
/// Precision of matrix products.
#pragma once

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

/// What the operands of products of float arrays are rounded to before they are multiplied. Sums
/// are in float; so is everything else: residual halves, norms, softmax, loss, parameters and their
/// gradients, optimisers.
enum class Precision {
  float32,     ///< not at all
  bfloat16x3,  ///< to two bfloat16 parts, of which three products are added: 16 bits of a number
  bfloat16     ///< to bfloat16: 8 bits of a number
};

constexpr const char* name_of(Precision precision) {
  switch (precision) {
    case Precision::bfloat16x3:
      return "bfloat16x3";
    case Precision::bfloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

}  // namespace reformer::inline REFORMER_ABI
