// SPDX-License-Identifier: MIT
/// @file
/// Bucket ids, and numbers of buckets.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <numeric>
#include <span>
#include <sstream>
#include <string_view>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

/// A bucket id; the padding bucket included.
using Bucket = std::uint16_t;

/// Largest number of buckets, so that the padding bucket is a `Bucket` too.
inline constexpr Index max_buckets = 65535;

/// The automatic number of buckets for a length, in factors.
///
/// N is the largest power of two that is at most 2 T / C, and at least 2: a bucket then holds half
/// a chunk to a chunk on average, as in trax and HuggingFace. Above 64 it is split into factors of
/// at most 32, as equal as can be, so that hashing costs less than attention at any length.
/// @throw std::invalid_argument for lengths below 1 or beyond `max_size`
inline std::vector<Index> automatic_num_buckets(Index length, Index chunk_length) {
  check_between("automatic_num_buckets", "length", length, 1, max_size);
  check_between("automatic_num_buckets", "chunk_length", chunk_length, 1, max_size);
  const auto ratio = static_cast<std::uint64_t>(2 * length / chunk_length);
  const int log2 = std::clamp(static_cast<int>(std::bit_width(ratio)) - 1, 1, 15);
  if (log2 <= 6) return {Index{1} << log2};
  const int factors = (log2 + 4) / 5;
  std::vector<Index> result;
  for (int i = 0; i < factors; ++i) result.push_back(Index{1} << ((log2 + i) / factors));
  return result;
}

inline Index num_buckets(std::span<const Index> factors) {
  return std::accumulate(factors.begin(), factors.end(), Index{1}, std::multiplies<>());
}

/// Columns of the rotations of one round: half of the sum of the factors.
inline Index rotation_columns(std::span<const Index> factors) {
  return std::accumulate(factors.begin(), factors.end(), Index{0}) / 2;
}

namespace detail {
/// Throws `std::invalid_argument` unless the factors are even and their product is at most
/// `max_buckets`.
inline void check_buckets(std::string_view function, std::span<const Index> factors) {
  check(!factors.empty(), function, "num_buckets is empty, must have at least one factor");
  Index product = 1;
  for (const Index n : factors) {
    check(n >= 2 && n % 2 == 0, function, "num_buckets has the factor ", n,
          ", every factor must be even and positive");
    if (n > max_buckets / product) [[unlikely]] {
      std::ostringstream text;
      for (std::size_t i = 0; i < factors.size(); ++i) text << (i == 0 ? "" : " * ") << factors[i];
      check(false, function, "num_buckets is ", text.str(), ", must be at most ", max_buckets);
    }
    product *= n;
  }
}
}  // namespace detail

/// Most hash rounds.
inline constexpr Index max_hashes = 65535;

}  // namespace reformer::inline REFORMER_ABI
