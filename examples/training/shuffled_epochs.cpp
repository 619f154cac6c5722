// SPDX-License-Identifier: MIT
#include "shuffled_epochs.hpp"

#include <bit>

#include "reformer/foundation/random.hpp"

namespace training {
namespace {

// Three make a pseudorandom permutation of many bits; few bits want more.
constexpr std::uint32_t rounds = 8;

/// A permutation of the numbers of `2 * half_bits` bits.
std::uint64_t permuted(std::uint64_t value, int half_bits, const reformer::RandomStream& stream) {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  std::uint64_t left = value >> half_bits, right = value & mask;
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const std::uint64_t mixed = left ^ (stream.bits(round << half_bits | right)[0] & mask);
    left = right;
    right = mixed;
  }
  return left << half_bits | right;
}

}  // namespace

ShuffledEpochs::Turn ShuffledEpochs::turn(std::int64_t number) const {
  const std::int64_t epoch = number / count_;
  const auto count = static_cast<std::uint64_t>(count_);
  const int half_bits = (static_cast<int>(std::bit_width(count - 1)) + 1) / 2;
  const reformer::RandomStream stream({seed_, static_cast<std::uint32_t>(epoch)},
                                      reformer::Purpose::data);
  // Fewer than 4 * count numbers are permuted, so this takes fewer than four steps in the mean.
  auto item = static_cast<std::uint64_t>(number % count_);
  do {
    item = permuted(item, half_bits, stream);
  } while (item >= count);
  return {epoch, static_cast<std::int64_t>(item)};
}

}  // namespace training
