// SPDX-License-Identifier: MIT
/// @file
/// How much work a pattern is.
#pragma once

#include "naive.hpp"
#include "support.hpp"

namespace reformer::bench {

using naive::counts_of;

/// (query, key) pairs of one head of one sequence: those that blocks show, masked halves of causal
/// blocks included; of exact attention only T (T + 1) / 2.
inline double pairs_of(const AttentionPattern& pattern, Index length) {
  const auto T = static_cast<double>(length);
  if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
    const Index tokens = lsh->chunking == Chunking::bucket_chunks
                             ? ceil_div(length, num_buckets(lsh->num_buckets))
                             : length;
    return T * static_cast<double>(std::min(window_of(*lsh).max_keys(), tokens) * lsh->num_hashes);
  }
  if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
    return T * static_cast<double>(std::min(window_of(*local).max_keys(), length));
  }
  return T * (T + 1) / 2;
}

/// Tokens times columns of the rotations of all rounds: 2 K FLOP each.
inline double hash_columns_of(const AttentionPattern& pattern, Index length) {
  const auto* lsh = std::get_if<LshPattern>(&pattern);
  if (lsh == nullptr) return 0;
  return static_cast<double>(length * lsh->num_hashes *
                             rotation_columns(bucket_factors(*lsh, length)));
}

/// @param rounds  0: does not hash
inline std::vector<std::pair<std::string, Index>> sizes_of(Index batch, Index length,
                                                           Index rounds) {
  std::vector<std::pair<std::string, Index>> sizes{{"batch", batch}, {"length", length}};
  if (rounds > 0) sizes.emplace_back("rounds", rounds);
  return sizes;
}

}  // namespace reformer::bench
