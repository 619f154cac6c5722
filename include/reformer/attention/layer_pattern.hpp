// SPDX-License-Identifier: MIT
/// @file
/// What the heads of a layer attend to, which may differ from head to head.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"

namespace reformer::inline REFORMER_ABI {

/// Patterns of a layer's heads: one for all of them, or several, each for an equal share of the
/// heads, in their order.
///
///     LayerPattern{LocalPattern{}}                                  all heads are local
///     LayerPattern{LocalPattern{}, LshPattern{}}                    half of them, then the others
///     LayerPattern{LocalPattern{}, LocalPattern{}, LshPattern{}}    two thirds, then one third
///
/// Of n patterns and H heads, n divides H, and head h attends by pattern h n / H, rounded down.
struct LayerPattern {
  std::vector<AttentionPattern> of_heads = {LshPattern{}};

  LayerPattern() = default;
  /// A pattern for all heads.
  template <std::convertible_to<AttentionPattern> Pattern>
  LayerPattern(Pattern pattern)  // NOLINT: the usual layer
      : of_heads(1, AttentionPattern(std::move(pattern))) {}
  LayerPattern(std::initializer_list<AttentionPattern> patterns) : of_heads(patterns) {}
  explicit LayerPattern(std::vector<AttentionPattern> patterns) : of_heads(std::move(patterns)) {}

  bool operator==(const LayerPattern&) const = default;
};

/// Heads of a layer, one beside the other, that attend by one pattern and are worked on together.
struct HeadKind {
  AttentionPattern pattern;
  Index first_head, num_heads;
};

/// The kinds of a layer's heads, in their order. Equal patterns that follow each other are one.
/// @param pattern  one that `check_pattern` lets pass
inline std::vector<HeadKind> head_kinds(const LayerPattern& pattern, Index num_heads) {
  const auto share = num_heads / static_cast<Index>(pattern.of_heads.size());
  std::vector<HeadKind> kinds;
  Index head = 0;
  for (const AttentionPattern& next : pattern.of_heads) {
    if (kinds.empty() || kinds.back().pattern != next) kinds.push_back({next, head, 0});
    kinds.back().num_heads += share;
    head += share;
  }
  return kinds;
}

/// Whether the values of some heads are mixed.
inline bool mixes_values(const LayerPattern& pattern) {
  return std::any_of(pattern.of_heads.begin(), pattern.of_heads.end(),
                     [](const auto& of_head) { return values_of(of_head) == Values::mixed; });
}

/// Whether the scores of some heads are cosines, with a temperature that is learned.
inline bool has_cosine_scores(const LayerPattern& pattern) {
  return std::any_of(pattern.of_heads.begin(), pattern.of_heads.end(),
                     [](const auto& of_head) { return scores_of(of_head) == Scores::cosine; });
}

/// How many of the first `heads` heads of a layer have keys that are not their queries.
inline Index heads_with_keys(const LayerPattern& pattern, Index num_heads, Index heads) {
  const auto share = num_heads / static_cast<Index>(pattern.of_heads.size());
  Index with_keys = 0;
  for (const AttentionPattern& of_head : pattern.of_heads) {
    const Index count = std::clamp<Index>(heads, 0, share);
    if (!shares_query_key(of_head)) with_keys += count;
    heads -= count;
  }
  return with_keys;
}

/// Whether attention of some heads depends on where chunks of the sorted sequence are cut.
inline bool has_sorted_chunks(const LayerPattern& pattern) {
  return std::any_of(pattern.of_heads.begin(), pattern.of_heads.end(),
                     [](const auto& of_head) { return has_sorted_chunks(of_head); });
}

/// Whether some heads hash.
inline bool has_buckets(const LayerPattern& pattern) {
  return std::any_of(pattern.of_heads.begin(), pattern.of_heads.end(), [](const auto& of_head) {
    return std::holds_alternative<LshPattern>(of_head);
  });
}

/// Fixes the number of buckets, in factors, of the heads whose pattern leaves it to the length.
inline void set_num_buckets(LayerPattern& pattern, const std::vector<Index>& factors) {
  for (AttentionPattern& of_head : pattern.of_heads) {
    auto* lsh = std::get_if<LshPattern>(&of_head);
    if (lsh != nullptr && lsh->num_buckets.empty()) lsh->num_buckets = factors;
  }
}

namespace detail {
/// Throws `std::invalid_argument` unless the patterns can be shared between the heads and each of
/// them makes sense.
inline void check_pattern(std::string_view function, const LayerPattern& pattern, Index num_heads,
                          bool causal = true) {
  const std::size_t count = pattern.of_heads.size();
  check(count > 0, function, "of_heads is empty, must have at least one pattern");
  check(num_heads % static_cast<Index>(count) == 0, function, "of_heads has ", count,
        " patterns, must have a number that divides num_heads = ", num_heads);
  for (std::size_t i = 0; i < count; ++i) {
    check_pattern(
        count == 1 ? std::string(function) : detail::join(function, ": of_heads[", i, "]"),
        pattern.of_heads[i], causal);
  }
}

/// Throws `std::invalid_argument` if more columns are rotated than a head has.
inline void check_rotary_width(std::string_view function, const LayerPattern& pattern,
                               Index head_width) {
  for (const AttentionPattern& of_head : pattern.of_heads) {
    check_between(function, "rotary_width", rotary_width_of(of_head), 0, head_width);
  }
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
