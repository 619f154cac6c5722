// SPDX-License-Identifier: MIT
/// @file
/// Block lists: which queries see which keys.
///
/// For one head of one sequence, tokens are laid out in `slots`: R rounds of n slots each (R = 1
/// unless hashed). A block is a range of query slots and the range of key slots they may see; the
/// kernel applies causality and padding inside.
///
/// Blocks are worked on in runs, one after another, so that a block finds the keys it shares with
/// the one before in cache. A list cuts its runs into phases. Runs of one phase may go at the same
/// time: their queries are different tokens, and so are their keys when the list is made for a
/// backward pass, which adds to the rows of both. Phases go in order, so every sum has one order.
#pragma once

#include <concepts>

#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer {

/// Queries `[query_begin, query_begin + num_queries)` see keys `[key_begin, key_begin + num_keys)`,
/// in slots. Key slots are taken modulo the number of slots, so `key_begin` may be negative.
struct Block {
  Index id;  ///< number of the block in its list
  Index query_begin, num_queries;
  Index key_begin, num_keys;
};

/// Blocks `first ... first + count - 1` of a list.
struct Run {
  Index first, count;
};

/// What must not overlap within a phase.
enum class Disjoint { queries, queries_and_keys };

template <typename List>
concept BlockList = requires(const List& list, Index i) {
  { list.num_slots() } -> std::same_as<Index>;
  { list.num_phases() } -> std::same_as<Index>;
  { list.num_runs(i) } -> std::same_as<Index>;
  { list.run(i, i) } -> std::same_as<Run>;
  { list.block(i) } -> std::same_as<Block>;
};

/// Which chunks a chunk sees.
struct Window {
  Index chunk_length = 64;
  Index chunks_before = 1;
  Index chunks_after = 0;
  /// The first chunk's neighbour is the last one, and the reverse; otherwise windows end at the
  /// ends.
  bool circular = false;

  Index max_keys() const { return chunk_length * (chunks_before + 1 + chunks_after); }
};

inline void check_window(std::string_view function, const Window& window) {
  check_at_least(function, "chunk_length", window.chunk_length, 1);
  check_at_least(function, "chunks_before", window.chunks_before, 0);
  check_at_least(function, "chunks_after", window.chunks_after, 0);
}

/// Chunks of fixed length, the last one of a round ragged; each sees its neighbours (paper, Eq.
/// (5)).
///
/// With a circular window the ring runs over the chunks of all rounds, as in trax and HuggingFace:
/// the first chunk of a round sees the last chunk of the round before. A chunk that comes twice
/// into a window is seen twice.
class ChunkedBlocks {
 public:
  /// @param slots  n, slots in a round
  ChunkedBlocks(Index slots, Index rounds, const Window& window, Disjoint disjoint)
      : slots_(slots), rounds_(rounds), window_(window) {
    chunks_ = ceil_div(slots, window.chunk_length);
    const Index neighbours = window.chunks_before + window.chunks_after;
    const bool alone = disjoint == Disjoint::queries || neighbours == 0;
    run_ = std::clamp<Index>(chunks_ / 16, 1, 8);
    if (!alone) {
      run_ = std::max(run_, neighbours);  // then every second run may go at the same time
      turns_ = 2;
      // Chunks whose window leaves the round share tokens with blocks anywhere: each is a phase of
      // its own.
      if (window.circular) {
        crossing_phases_ = neighbours;
        crossing_ = std::min(chunks_, neighbours);
        first_inner_ = std::min(crossing_, window.chunks_before);
      }
    }
  }

  Index num_slots() const { return slots_ * rounds_; }
  Index num_phases() const { return rounds_ * phases_per_round(); }

  Index num_runs(Index phase) const {
    const Index p = phase % phases_per_round();
    if (p >= turns_) return p - turns_ < crossing_ ? 1 : 0;
    return (ceil_div(chunks_ - crossing_, run_) + turns_ - 1 - p) / turns_;
  }

  Run run(Index phase, Index i) const {
    const Index p = phase % phases_per_round(), round = phase / phases_per_round() * chunks_;
    if (p >= turns_) {
      const Index s = p - turns_;
      return {round + (s < first_inner_ ? s : chunks_ - crossing_ + s), 1};
    }
    const Index first = (turns_ * i + p) * run_;
    return {round + first_inner_ + first, std::min(run_, chunks_ - crossing_ - first)};
  }

  Block block(Index chunk) const {
    const Index round = chunk / chunks_ * chunks_;
    Index first = chunk - window_.chunks_before;
    Index last = chunk + window_.chunks_after;
    if (!window_.circular) {
      first = std::max(first, round);
      last = std::min(last, round + chunks_ - 1);
    }
    const Index query = start(chunk), key = start(first);
    return {chunk, query, start(chunk + 1) - query, key, start(last + 1) - key};
  }

 private:
  Index phases_per_round() const { return turns_ + crossing_phases_; }

  /// First slot of a chunk, counted over all rounds and around the ring.
  Index start(Index chunk) const {
    const Index total = chunks_ * rounds_;
    const Index turn = chunk >= 0 ? chunk / total : -ceil_div(-chunk, total);
    chunk -= turn * total;
    return turn * slots_ * rounds_ + chunk / chunks_ * slots_ +
           std::min(chunk % chunks_ * window_.chunk_length, slots_);
  }

  Index slots_, rounds_;
  Window window_;
  Index chunks_ = 0;       // of a round
  Index run_ = 1;          // chunks in a run
  Index turns_ = 1;        // phases that the runs of a round take
  Index crossing_ = 0;     // chunks that are phases of their own: the first ones and the last ones
  Index first_inner_ = 0;  // how many of them are at the beginning
  Index crossing_phases_ = 0;  // the same for every number of slots
};

/// All pairs of tiles, or those on and below the diagonal: exact attention without a T x T array.
///
/// Forward, a run holds all pairs of a query tile. For the backward pass each pair is a run: phase
/// d < n holds the pairs (i, j), i >= j, with i + j = d modulo the number of tiles n: every tile is
/// in one pair, so even the one gradient array of shared queries and keys is written to by one
/// block only. Without causality, phase n + d holds the pairs (j, i) of phase d.
class TiledBlocks {
 public:
  static constexpr Index tile = 128;

  TiledBlocks(Index length, bool causal, Disjoint disjoint)
      : length_(length), tiles_(ceil_div(length, tile)), causal_(causal), disjoint_(disjoint) {}

  Index num_slots() const { return length_; }
  Index num_phases() const {
    if (disjoint_ == Disjoint::queries) return 1;
    return causal_ ? tiles_ : 2 * tiles_;
  }
  Index num_runs(Index phase) const {
    if (disjoint_ == Disjoint::queries) return tiles_;
    const Range low = low_pairs(phase), high = high_pairs(phase);
    return low.last - low.first + 1 + high.last - high.first + 1;
  }

  Run run(Index phase, Index i) const {
    if (disjoint_ == Disjoint::queries) {
      const Index query_tile = tiles_ - 1 - i;  // the longest first
      return {query_tile * tiles_, causal_ ? query_tile + 1 : tiles_};
    }
    const Range low = low_pairs(phase), high = high_pairs(phase);
    const Index in_low = low.last - low.first + 1, d = phase % tiles_;
    const Index larger = i < in_low ? low.first + i : high.first + (i - in_low);
    const Index smaller = i < in_low ? d - larger : d + tiles_ - larger;
    return {phase < tiles_ ? larger * tiles_ + smaller : smaller * tiles_ + larger, 1};
  }

  Block block(Index id) const {
    const Index query = id / tiles_ * tile, key = id % tiles_ * tile;
    return {id, query, std::min(tile, length_ - query), key, std::min(tile, length_ - key)};
  }

 private:
  struct Range {
    Index first, last;
  };

  /// The larger tile of the pairs with i + j = d: from the middle up; the diagonal only among the
  /// first phases.
  Range low_pairs(Index phase) const {
    const Index d = phase % tiles_;
    return {phase < tiles_ ? (d + 1) / 2 : d / 2 + 1, d};
  }
  /// The same with i + j = d + n.
  Range high_pairs(Index phase) const {
    const Index d = phase % tiles_ + tiles_;
    return {phase < tiles_ ? (d + 1) / 2 : d / 2 + 1, tiles_ - 1};
  }

  Index length_, tiles_;
  bool causal_;
  Disjoint disjoint_;
};

}  // namespace reformer
