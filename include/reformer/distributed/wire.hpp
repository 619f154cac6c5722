// SPDX-License-Identifier: MIT
/// @file
/// How gradients are written into messages.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"
#include "reformer/products/bfloat16.hpp"

namespace reformer::inline REFORMER_ABI {

/// What is sent of a gradient. With `bfloat16` every contribution is rounded before it is added, a
/// rank's own too: half the bytes, other bits than `exact`, the same for any number of ranks.
enum class Wire {
  exact,     ///< all bits
  bfloat16,  ///< the nearest number of 16 bits, as of `bfloat16_bits`; of a model of floats
};

namespace detail {

/// @throw std::invalid_argument unless a model of this type can have it
template <typename Scalar>
void check_wire(std::string_view function, Wire wire) {
  check(wire == Wire::exact || wire == Wire::bfloat16, function, "wire is ", static_cast<int>(wire),
        ", must be exact or bfloat16");
  check(wire == Wire::exact || std::is_same_v<Scalar, float>, function,
        "wire is bfloat16, must be exact for a model that is not of floats");
}

template <typename Scalar>
std::size_t wire_bytes(Wire wire, Index elements) {
  return static_cast<std::size_t>(elements) *
         (wire == Wire::bfloat16 ? sizeof(std::uint16_t) : sizeof(Scalar));
}

/// Writes n elements, and returns the end of what is written.
template <typename Scalar>
std::byte* write_wire(Wire wire, Index n, const Scalar* from, std::byte* to) {
  const std::size_t bytes = wire_bytes<Scalar>(wire, n);
  if (wire == Wire::exact) {
    std::memcpy(to, from, bytes);
  } else {
    for (Index i = 0; i < n; ++i) {
      const auto half =
          static_cast<std::uint16_t>(bfloat16_bits(static_cast<float>(from[i])) >> 16);
      std::memcpy(to + i * 2, &half, sizeof half);
    }
  }
  return to + bytes;
}

/// What n elements are read as.
template <typename Scalar>
void read_wire(Wire wire, Index n, const std::byte* from, Scalar* to) {
  if (wire == Wire::exact) {
    std::memcpy(to, from, wire_bytes<Scalar>(wire, n));
    return;
  }
  for (Index i = 0; i < n; ++i) {
    std::uint16_t half;
    std::memcpy(&half, from + i * 2, sizeof half);
    to[i] = static_cast<Scalar>(std::bit_cast<float>(std::uint32_t{half} << 16));
  }
}

/// The same of what was never sent.
template <typename Scalar>
void round_as_wire(Wire wire, Index n, const Scalar* from, Scalar* to) {
  for (Index i = 0; i < n; ++i) {
    to[i] =
        wire == Wire::exact
            ? from[i]
            : static_cast<Scalar>(std::bit_cast<float>(bfloat16_bits(static_cast<float>(from[i]))));
  }
}

}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
