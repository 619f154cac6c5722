// SPDX-License-Identifier: MIT
/// @file
/// Precision of matrix products.
#pragma once

#include <array>
#include <optional>
#include <string_view>

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

/// All of them.
inline constexpr std::array precisions = {Precision::float32, Precision::bfloat16x3,
                                          Precision::bfloat16};

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

/// The precision of that name, if there is one.
constexpr std::optional<Precision> precision_named(std::string_view name) {
  for (const Precision precision : precisions) {
    if (name == name_of(precision)) return precision;
  }
  return std::nullopt;
}

}  // namespace reformer::inline REFORMER_ABI
