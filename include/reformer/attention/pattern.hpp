// SPDX-License-Identifier: MIT
/// @file
/// What a layer attends to: LSH, local chunks, or everything.
#pragma once

#include <string_view>
#include <variant>
#include <vector>

#include "reformer/attention/buckets.hpp"
#include "reformer/attention/window.hpp"
#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

/// Where hashed attention cuts the tokens of a round, sorted by (bucket, position), into chunks.
enum class Chunking {
  /// Across the whole sorted sequence, as in trax and HuggingFace (paper, Eq. (5)). Chunks hold
  /// tokens of several buckets, and the window is a ring over the chunks of all rounds. A sequence
  /// not longer than one chunk is attended to exactly. Not strictly causal, in any implementation:
  /// where chunks are cut depends on the buckets of later tokens.
  sorted_chunks,
  /// Within each bucket: a token's chunk is its rank among the tokens of its bucket, the number of
  /// earlier ones, divided by the chunk length. It sees chunks of its own bucket only, the paper's
  /// set P_i (Eq. (4)) cut to a window. Strictly causal: a rank counts earlier tokens alone. A
  /// token whose window holds nothing but itself, in every round, gets its own value, or zero where
  /// keys carry values of what followed. The number of buckets must be given, because a rule that
  /// follows the length would depend on later tokens; short sequences are hashed like others.
  bucket_chunks,
};

/// How a key counts that a query sees in several rounds.
enum class Duplicates {
  each_time,  ///< once for each round, as in trax and HuggingFace
  once,  ///< seen in n rounds, each time by 1/n (N_ij of the paper, appendix A); of bucket chunks
         ///< only
};

/// Whose value the key of a token s carries.
enum class Values {
  /// v_s, as published. A token that finds an earlier one like itself gets what that one was.
  own,
  /// v_next(s), the value of the first real token after s: a token that finds an earlier one like
  /// itself gets what came after it, which is what predicting the next token asks for. Of causal
  /// attention only: a query t sees s < t, so next(s) <= t. It does not see its own key, and a
  /// query that sees nothing gets zero. See following.hpp.
  following,
  /// a v_s + b v_next(s), with two learned numbers for each head; otherwise as `following`. Of
  /// layers only: functions on tensors take values that are mixed already. See value_mixture.hpp.
  mixed,
};

/// How alike a query and a key are.
enum class Scores {
  /// <q, k> / sqrt(K), or, where keys are queries, <q, k> / |k|, as published.
  dot_product,
  /// The cosine of the angle between them times a learned temperature for each head. Of layers
  /// only: functions on tensors take queries that are scaled already. See cosine_scores.hpp.
  cosine,
};

// Where gcc 12 inlines the move of an `AttentionPattern` that holds another pattern, it warns of
// the members that an LshPattern would have.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

/// LSH attention with shared queries and keys: see `Chunking`.
struct LshPattern {
  Index chunk_length = 64;
  Index chunks_before = 1;
  Index chunks_after = 0;
  Index num_hashes = 2;
  /// Factors of the number of buckets, each even; empty, with sorted chunks only:
  /// `automatic_num_buckets` of the length at hand.
  std::vector<Index> num_buckets = {};
  /// Padding stays in the sorted order, as one more bucket behind all others, and takes up chunks
  /// of the ring, as in HuggingFace; otherwise it is left out of the order. No real token attends
  /// to it either way, but what real tokens see at the ends of a round depends on it.
  bool sort_padding = false;
  Chunking chunking = Chunking::sorted_chunks;
  Duplicates duplicates = Duplicates::each_time;
  Values values = Values::own;
  Scores scores = Scores::dot_product;
  Index rotary_width = 0;  ///< columns of each head that positions rotate, see rotary.hpp

  bool operator==(const LshPattern&) const = default;
};

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

/// Attention within chunks of the sequence and their neighbours, with separate queries and keys.
struct LocalPattern {
  Index chunk_length = 64;
  Index chunks_before = 1;
  Index chunks_after = 0;
  /// The first chunk sees the last one and the reverse, as in trax and HuggingFace. A causal layer
  /// notices only where the window is longer than the ring: a chunk that comes twice into a window
  /// is seen twice.
  bool circular = false;
  Values values = Values::own;
  Scores scores = Scores::dot_product;
  Index rotary_width = 0;  ///< columns of each head that positions rotate, see rotary.hpp

  bool operator==(const LocalPattern&) const = default;
};

/// Every token sees every token (before it, when causal), streamed: the baseline.
struct ExactPattern {
  /// Queries are the keys, as in LSH attention.
  bool shared_query_key = false;
  Values values = Values::own;
  Scores scores = Scores::dot_product;
  Index rotary_width = 0;  ///< columns of each head that positions rotate, see rotary.hpp

  bool operator==(const ExactPattern&) const = default;
};

using AttentionPattern = std::variant<LshPattern, LocalPattern, ExactPattern>;

/// Whether tokens are hashed at a length: a sequence not longer than one sorted chunk is attended
/// to exactly.
inline bool hashes(const LshPattern& lsh, Index length) {
  return lsh.chunking == Chunking::bucket_chunks || length > lsh.chunk_length;
}

/// Whether the pattern has chunks that are cut across the whole sorted sequence.
inline bool has_sorted_chunks(const AttentionPattern& pattern) {
  const auto* lsh = std::get_if<LshPattern>(&pattern);
  return lsh != nullptr && lsh->chunking == Chunking::sorted_chunks;
}

/// Whether queries are keys.
inline bool shares_query_key(const AttentionPattern& pattern) {
  if (const auto* exact = std::get_if<ExactPattern>(&pattern)) return exact->shared_query_key;
  return std::holds_alternative<LshPattern>(pattern);
}

/// Whose values keys carry.
inline Values values_of(const AttentionPattern& pattern) {
  return std::visit([](const auto& p) { return p.values; }, pattern);
}

/// How alike queries and keys are.
inline Scores scores_of(const AttentionPattern& pattern) {
  return std::visit([](const auto& p) { return p.scores; }, pattern);
}

/// Columns of each head that positions rotate.
inline Index rotary_width_of(const AttentionPattern& pattern) {
  return std::visit([](const auto& p) { return p.rotary_width; }, pattern);
}

/// Whether a key carries something of the token after it, so that its own token does not see it.
inline bool carries_next(const AttentionPattern& pattern) {
  return values_of(pattern) != Values::own;
}

/// Factors of the number of buckets at a length.
inline std::vector<Index> bucket_factors(const LshPattern& lsh, Index length) {
  return lsh.num_buckets.empty() ? automatic_num_buckets(length, lsh.chunk_length)
                                 : lsh.num_buckets;
}

inline Window window_of(const LshPattern& lsh) {
  return {lsh.chunk_length, lsh.chunks_before, lsh.chunks_after,
          lsh.chunking == Chunking::sorted_chunks};
}
inline Window window_of(const LocalPattern& local) {
  return {local.chunk_length, local.chunks_before, local.chunks_after, local.circular};
}
/// The window at a length, from which all sizes follow.
template <typename Pattern>
Window window_of(const Pattern& pattern, Index length) {
  return window_of(pattern).within(length);
}

namespace detail {
/// Throws `std::invalid_argument` if the pattern makes no sense.
inline void check_pattern(std::string_view function, const AttentionPattern& pattern,
                          bool causal = true) {
  const Values values = values_of(pattern);
  check(values == Values::own || values == Values::following || values == Values::mixed, function,
        "values is number ", static_cast<int>(values), ", must be own, following or mixed");
  check(causal || values == Values::own, function, "values are ",
        values == Values::mixed ? "mixed" : "following",
        ", must be own where attention is not causal");
  const Scores scores = scores_of(pattern);
  check(scores == Scores::dot_product || scores == Scores::cosine, function, "scores is number ",
        static_cast<int>(scores), ", must be dot_product or cosine");
  const Index rotary_width = rotary_width_of(pattern);
  check_between(function, "rotary_width", rotary_width, 0, max_size);
  check(rotary_width % 2 == 0, function, "rotary_width is ", rotary_width, ", must be even");
  if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
    check_window(function, window_of(*lsh));
    check_between(function, "num_hashes", lsh->num_hashes, 1, max_hashes);
    const bool by_bucket = lsh->chunking == Chunking::bucket_chunks;
    check(by_bucket || lsh->chunking == Chunking::sorted_chunks, function, "chunking is number ",
          static_cast<int>(lsh->chunking), ", must be sorted_chunks or bucket_chunks");
    check(lsh->duplicates == Duplicates::each_time || lsh->duplicates == Duplicates::once, function,
          "duplicates is number ", static_cast<int>(lsh->duplicates),
          ", must be each_time or once");
    check(!by_bucket || !lsh->num_buckets.empty(), function,
          "num_buckets is empty, must be given for bucket_chunks, where it may not follow the "
          "length");
    if (!lsh->num_buckets.empty()) check_buckets(function, lsh->num_buckets);
    check(!by_bucket || !lsh->sort_padding, function,
          "sort_padding is true, must be false for bucket_chunks");
    check(by_bucket || lsh->duplicates == Duplicates::each_time, function,
          "duplicates count once, which only bucket_chunks can do");
  } else if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
    check_window(function, window_of(*local));
  }
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
