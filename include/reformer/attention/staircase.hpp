// SPDX-License-Identifier: MIT
/// @file
/// Which keys of a block its queries see, so that what causality hides is not computed.
///
/// Positions ascend among the queries of a block, and among its keys within runs: a chunk of sorted
/// tokens is a run, and so is a whole window of local attention. What a strip of queries sees of a
/// run are its first keys, and the later the strip, the more of them:
///
///     a run    | strip 0 | strip 1 | strip 2 |
///     step 0   |    x    |    x    |    x    |
///     step 1   |         |    x    |    x    |
///     step 2   |         |         |    x    |
///
/// Softmax and gradients go over what is marked. Products may start only at some queries, so they
/// take strips in groups of one or more, and a group sees what its last strip does.
#pragma once

#include <algorithm>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// The strips of a block's queries, and what they see of each run of its keys.
class Staircase {
 public:
  /// @param query_position  `[num_queries]`, ascending
  /// @param key_position    `[num_keys]`
  /// @param causal          whether a query sees no key behind it; otherwise all is one step
  /// @param sees_itself     whether a query sees the key at its own position
  /// @param all_real        whether every key is real
  /// @param grain           groups of strips begin at multiples of this many queries
  template <typename Scalar>
  Staircase(const Scalar* query_position, Index num_queries, const Scalar* key_position,
            Index num_keys, bool causal, bool sees_itself, bool all_real, Index grain)
      : height_(num_queries), num_queries_(num_queries) {
    begin_[1] = num_keys;
    seen_[0][0] = num_keys;
    if (!causal || !find_runs(key_position, num_keys)) return;
    Scalar latest = key_position[num_keys - 1];
    for (Index g = 1; g < num_runs_; ++g) latest = std::max(latest, key_position[begin_[g] - 1]);
    if (latest < query_position[0]) {
      num_runs_ = 1;
      begin_[1] = num_keys;
      if (all_real) earlier_[0][0] = num_keys;
      return;
    }
    constexpr Index lanes = std::max<Index>(8, simd::width<Scalar>);  // dropout draws eight at once
    height_ = round_up(ceil_div(num_queries, max_strips), lanes);
    if (grain % height_ != 0) height_ = round_up(height_, grain);
    in_group_ = strips_in(grain);
    num_strips_ = ceil_div(num_queries, height_);
    for (Index g = 0; g < num_runs_; ++g) {
      Index j = begin_[g];
      const auto pass = [&](const auto& is_below) {
        while (j < begin_[g + 1] && is_below(key_position[j])) ++j;
        return j - begin_[g];
      };
      for (Index s = 0; s < num_strips_; ++s) {
        const Scalar first = query_position[strip_begin(s)];
        const Scalar last = query_position[strip_end(s) - 1];
        const Index earlier = pass([&](Scalar key) { return key < first; });
        if (all_real) earlier_[g][s] = earlier;
        seen_[g][s] = pass([&](Scalar key) { return sees_itself ? key <= last : key < last; });
      }
    }
  }

  Index num_strips() const { return num_strips_; }
  Index strip_begin(Index s) const { return s * height_; }
  Index strip_end(Index s) const { return std::min((s + 1) * height_, num_queries_); }
  /// Strips that make up `columns` queries; at least one.
  Index strips_in(Index columns) const { return std::max<Index>(1, columns / height_); }

  /// The last strip of the group that strip s is in.
  Index last_of_group(Index s) const {
    return std::min((s / in_group_ + 1) * in_group_, num_strips_) - 1;
  }

  Index num_runs() const { return num_runs_; }
  Index run_begin(Index g) const { return begin_[g]; }
  /// The key of run g after the last one that any query of strip s sees.
  Index seen_end(Index g, Index s) const { return begin_[g] + seen_[g][s]; }
  /// The key of run g after the last one that every query of strip s sees, and that is none of
  /// them: no mask is needed up to it.
  Index earlier_end(Index g, Index s) const { return begin_[g] + earlier_[g][s]; }

  /// Calls `body(first_key, last_key, g, s)` for each step: keys `[first_key, last_key)` of run g
  /// are seen by strip s and all strips after it, and by none before.
  template <typename Body>
  void for_each_step(const Body& body) const {
    for_each_step_of(1, body);
  }
  /// The same for groups of strips: s is the first of a group.
  template <typename Body>
  void for_each_group_step(const Body& body) const {
    for_each_step_of(in_group_, body);
  }

 private:
  template <typename Body>
  void for_each_step_of(Index together, const Body& body) const {
    for (Index g = 0; g < num_runs_; ++g) {
      for (Index s = 0; s < num_strips_; s += together) {
        const Index first = s > 0 ? seen_end(g, s - 1) : run_begin(g);
        const Index last = seen_end(g, std::min(s + together, num_strips_) - 1);
        if (first < last) body(first, last, g, s);
      }
    }
  }

  static constexpr Index max_strips = 8;
  static constexpr Index max_runs = 8;

  /// Where each run begins. False if there are too many: then all keys stay one step.
  template <typename Scalar>
  bool find_runs(const Scalar* key_position, Index num_keys) {
    Index runs = 1;
    Index begin[max_runs + 1] = {};
    for (Index j = 1; j < num_keys; ++j) {
      if (key_position[j] >= key_position[j - 1]) continue;
      if (runs == max_runs) return false;
      begin[runs++] = j;
    }
    begin[runs] = num_keys;
    std::copy_n(begin, runs + 1, begin_);
    num_runs_ = runs;
    return true;
  }

  Index height_, num_queries_;
  Index num_strips_ = 1, in_group_ = 1, num_runs_ = 1;
  Index begin_[max_runs + 1] = {};
  Index seen_[max_runs][max_strips] = {};
  Index earlier_[max_runs][max_strips] = {};
};

}  // namespace reformer::inline REFORMER_ABI::detail
