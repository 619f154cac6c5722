// SPDX-License-Identifier: MIT
/// @file
/// Random numbers by counter: element i of a stream is a function of (seed, step, layer, purpose,
/// i).
///
/// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
/// 2011). There is no state: a backward pass draws the forward pass's numbers again, in any order
/// and on any thread.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI {

/// What a stream of random numbers is for; streams of different purposes are independent.
enum class Purpose : std::uint32_t {
  initialization = 0,
  rotations = 1,
  attention_dropout = 2,
  branch_dropout = 3,
  hidden_dropout = 4,
  embedding_dropout = 5,
  head_dropout = 6,
  data = 7,
  sampling = 8,
  ngram_dropout = 9,
  value_ngram_dropout = 10,
};

namespace detail {
/// Ten rounds of Philox 4x32: 128 random bits from a 128-bit counter and a 64-bit key.
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}
}  // namespace detail

/// Names a family of streams: one per purpose.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;   ///< training step; the same step replays the same numbers
  std::uint32_t layer = 0;  ///< less than 2^24: the purpose takes the other bits

  /// Layers a key can tell apart.
  static constexpr Index num_layers = Index{1} << 24;

  /// @throw std::invalid_argument unless 0 <= index < 2^24
  RandomKey at_layer(Index index) const {
    check_between("RandomKey::at_layer", "layer", index, 0, num_layers - 1);
    return {seed, step, static_cast<std::uint32_t>(index)};
  }
};

namespace detail {
/// Throws `std::invalid_argument` for a layer that a key cannot tell from others.
inline void check_key(std::string_view function, const RandomKey& key) {
  check_between(function, "key.layer", key.layer, 0, RandomKey::num_layers - 1);
}
}  // namespace detail

/// One stream of random numbers. Keys are not checked here, where loops in parallel make them.
class RandomStream {
 public:
  RandomStream(const RandomKey& key, Purpose purpose)
      : key_{static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32)},
        step_(key.step),
        layer_purpose_(key.layer << 8 | static_cast<std::uint32_t>(purpose)) {}

  /// Block `i` of the stream: four independent 32-bit numbers.
  std::array<std::uint32_t, 4> bits(std::uint64_t i) const {
    return detail::philox(
        {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32), step_, layer_purpose_},
        key_);
  }

  /// Element `i` of the uniform numbers in [0, 1), with 53 bits.
  double uniform(std::uint64_t i) const {
    const auto b = bits(i);
    return (static_cast<double>(b[0] >> 5) * 67108864.0 + static_cast<double>(b[1] >> 6)) * 0x1p-53;
  }

  /// Elements 2j and 2j + 1 of the standard normal numbers (Box-Muller).
  std::array<double, 2> normals(std::uint64_t j) const {
    const auto b = bits(j);
    const auto unit = [](std::uint32_t high, std::uint32_t low) {
      return (static_cast<double>(high >> 5) * 67108864.0 + static_cast<double>(low >> 6) + 0.5) *
             0x1p-53;
    };
    const double radius = std::sqrt(-2 * std::log(unit(b[0], b[1])));
    const double angle = 2 * std::numbers::pi * unit(b[2], b[3]);
    return {radius * std::cos(angle), radius * std::sin(angle)};
  }
  double normal(std::uint64_t i) const { return normals(i / 2)[i % 2]; }

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint32_t step_;
  std::uint32_t layer_purpose_;
};

/// Fills with `deviation * normal`, element i from element first + i of the stream.
/// @param first  even
template <typename Scalar>
void fill_normal(Scalar* values, Index count, double deviation, const RandomStream& stream,
                 Index first = 0) {
  for (Index i = 0; i < count; i += 2) {
    const auto [even, odd] = stream.normals(static_cast<std::uint64_t>((first + i) / 2));
    values[i] = static_cast<Scalar>(deviation * even);
    if (i + 1 < count) values[i + 1] = static_cast<Scalar>(deviation * odd);
  }
}

}  // namespace reformer::inline REFORMER_ABI
