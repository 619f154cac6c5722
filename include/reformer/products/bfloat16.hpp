// SPDX-License-Identifier: MIT
/// @file
/// Numbers of 16 bits, the upper half of a float, and the arithmetic of instructions that multiply
/// them.
///
/// Processors round to nearest, ties to even, take denormal operands as zero and give zero for
/// denormal results, whatever the floating-point environment says. What stands here does the same
/// on every machine.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// The bfloat16 number nearest to x, as the bits of a float: the lower half is zero. A denormal is
/// zero of its sign, and NaN is quiet.
inline std::uint32_t bfloat16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  const std::uint32_t rounded = (bits + 0x7FFFu + (bits >> 16 & 1u)) & 0xFFFF0000u;
  const std::uint32_t usual = magnitude < 0x00800000u ? bits & 0x80000000u : rounded;
  return magnitude > 0x7F800000u ? (bits & 0xFFFF0000u) | 0x00400000u : usual;
}

/// x = high + low + what 16 bits cannot hold. The low part of a number below 2^-118 is zero; that
/// of one that is not finite, or that rounds to infinity, is NaN.
struct Bfloat16Parts {
  std::uint32_t high, low;  // as of `bfloat16_bits`
};
inline Bfloat16Parts bfloat16_parts(float x) {
  const std::uint32_t high = bfloat16_bits(x);
  return {high, bfloat16_bits(x - std::bit_cast<float>(high))};
}

/// Two numbers in the memory of a float, which is never read as one: of the even depth in the lower
/// half, of the odd depth in the upper.
inline std::uint32_t bfloat16_pair(std::uint32_t even, std::uint32_t odd) {
  return even >> 16 | odd;
}
inline float even_of(std::uint32_t pair) {
  return std::bit_cast<float>(pair << 16);
}
inline float odd_of(std::uint32_t pair) {
  return std::bit_cast<float>(pair & 0xFFFF0000u);
}

inline std::uint32_t load_pair(const float* at) {
  std::uint32_t pair;
  std::memcpy(&pair, at, sizeof pair);
  return pair;
}
inline void store_pair(float* at, std::uint32_t pair) {
  std::memcpy(at, &pair, sizeof pair);
}

/// The float nearest to x, zero of its sign if that would be denormal.
///
/// In double, a product of two bfloat16 numbers is exact; the sum with a float may not be, but then
/// one of the two is so small beside the other that rounding twice is rounding once.
inline float rounded_and_flushed(double x) {
  // From here on, x rounds to 2^-126 with as many digits as it likes.
  constexpr double least = 0x1.ffffffp-127;
  return std::abs(x) < least ? std::copysign(0.0F, static_cast<float>(x)) : static_cast<float>(x);
}
/// a b + c, rounded once
inline float multiply_add_flushed(float a, float b, float c) {
  return rounded_and_flushed(static_cast<double>(a) * static_cast<double>(b) +
                             static_cast<double>(c));
}
inline float add_flushed(float a, float b) {
  return rounded_and_flushed(static_cast<double>(a) + static_cast<double>(b));
}

}  // namespace reformer::inline REFORMER_ABI::detail
