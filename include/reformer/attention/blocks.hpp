// SPDX-License-Identifier: MIT
/// @file
/// Block lists: which queries see which keys.
///
/// For one head of one sequence, tokens are laid out in `slots`: R rounds of n slots each (R = 1
/// unless hashed). A block is a range of query slots and the range of key slots they may see; the
/// kernel applies causality and padding inside.
///
/// A list cuts its blocks into phases. Blocks of one phase may run at the same time: their queries
/// are different tokens, and so are their keys when the list is made for a backward pass, which
/// adds to the rows of both. Phases run in order, so every sum has one order.
#pragma once

#include <concepts>

#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer {

/// Queries `[query_begin, query_begin + num_queries)` see keys `[key_begin, key_begin + num_keys)`,
/// in slots. Key slots are taken modulo the number of slots, so `key_begin` may be negative.
struct Block {
  Index id;  ///< number of the block in its list, the same in forward and backward pass
  Index query_begin, num_queries;
  Index key_begin, num_keys;
};

/// What must not overlap within a phase.
enum class Disjoint { queries, queries_and_keys };

template <typename List>
concept BlockList = requires(const List& list, Index i) {
  { list.num_slots() } -> std::same_as<Index>;
  { list.num_phases() } -> std::same_as<Index>;
  { list.num_blocks(i) } -> std::same_as<Index>;
  { list.block(i, i) } -> std::same_as<Block>;
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
      : slots_(slots), rounds_(rounds), window_(window), disjoint_(disjoint) {
    chunks_ = ceil_div(slots, window.chunk_length);
    span_ = window.chunks_before + 1 + window.chunks_after;
    // Chunks whose window leaves the round share tokens with blocks anywhere: each is a phase of
    // its own.
    crossing_ = window.circular ? std::min(chunks_, window.chunks_before + window.chunks_after) : 0;
  }

  Index num_slots() const { return slots_ * rounds_; }

  Index num_phases() const {
    return rounds_ * (disjoint_ == Disjoint::queries ? 1 : phases_per_round());
  }

  Index num_blocks(Index phase) const {
    if (disjoint_ == Disjoint::queries) return chunks_;
    const Index p = phase % phases_per_round();
    if (p >= span_) return p - span_ < crossing_ ? 1 : 0;
    const Index inner = chunks_ - crossing_;
    return p < inner ? ceil_div(inner - p, span_) : 0;
  }

  Block block(Index phase, Index i) const {
    if (disjoint_ == Disjoint::queries) return of_chunk(phase, i);
    const Index p = phase % phases_per_round();
    const Index first_inner = std::min(crossing_, window_.circular ? window_.chunks_before : 0);
    Index chunk;
    if (p < span_) {
      chunk = first_inner + p + span_ * i;
    } else {
      const Index s = p - span_;
      chunk = s < first_inner ? s : chunks_ - crossing_ + s;
    }
    return of_chunk(phase / phases_per_round(), chunk);
  }

 private:
  Index phases_per_round() const {
    return span_ + (window_.circular ? window_.chunks_before + window_.chunks_after : 0);
  }

  /// First slot of a chunk, counted over all rounds and around the ring.
  Index start(Index chunk) const {
    const Index total = chunks_ * rounds_;
    const Index turn = chunk >= 0 ? chunk / total : -ceil_div(-chunk, total);
    chunk -= turn * total;
    return turn * slots_ * rounds_ + chunk / chunks_ * slots_ +
           std::min(chunk % chunks_ * window_.chunk_length, slots_);
  }

  Block of_chunk(Index round, Index i) const {
    const Index chunk = round * chunks_ + i;
    Index first = chunk - window_.chunks_before;
    Index last = chunk + window_.chunks_after;
    if (!window_.circular) {
      first = std::max(first, round * chunks_);
      last = std::min(last, (round + 1) * chunks_ - 1);
    }
    const Index query = start(chunk), key = start(first);
    return {chunk, query, start(chunk + 1) - query, key, start(last + 1) - key};
  }

  Index slots_, rounds_;
  Window window_;
  Disjoint disjoint_;
  Index chunks_ = 0, span_ = 0, crossing_ = 0;
};

/// All pairs of tiles, or those on and below the diagonal: exact attention without a T x T array.
///
/// Phase d < n holds the pairs (i, j), i >= j, with i + j = d modulo the number of tiles n: every
/// tile is in one pair, so even the one gradient array of shared queries and keys is written to by
/// one block only. Without causality, phase n + d holds the pairs (j, i) of phase d.
class TiledBlocks {
 public:
  static constexpr Index tile = 128;

  TiledBlocks(Index length, bool causal)
      : length_(length), tiles_(ceil_div(length, tile)), causal_(causal) {}

  Index num_slots() const { return length_; }
  Index num_phases() const { return causal_ ? tiles_ : 2 * tiles_; }
  Index num_blocks(Index phase) const {
    const Range low = low_pairs(phase), high = high_pairs(phase);
    return low.last - low.first + 1 + high.last - high.first + 1;
  }

  Block block(Index phase, Index i) const {
    const Range low = low_pairs(phase), high = high_pairs(phase);
    const Index in_low = low.last - low.first + 1, d = phase % tiles_;
    const Index larger = i < in_low ? low.first + i : high.first + (i - in_low);
    const Index smaller = i < in_low ? d - larger : d + tiles_ - larger;
    const Index query_tile = phase < tiles_ ? larger : smaller;
    const Index key_tile = phase < tiles_ ? smaller : larger;
    const Index query = query_tile * tile, key = key_tile * tile;
    return {query_tile * tiles_ + key_tile, query, std::min(tile, length_ - query), key,
            std::min(tile, length_ - key)};
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
};

}  // namespace reformer
