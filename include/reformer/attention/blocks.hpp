// SPDX-License-Identifier: MIT
/// @file
/// Block lists: which queries see which keys.
///
/// For one head of one sequence, tokens are laid out in `slots`: R rounds of n slots each (R = 1
/// unless hashed). A block is a range of query slots and the range of key slots they may see; the
/// kernel applies causality and padding inside. The queries of a block stand in order of positions.
///
/// Blocks are worked on in ranges, one after another, so that a block finds the keys it shares with
/// the one before in cache. A list cuts its ranges into phases. Ranges of one phase may go at the
/// same time: their queries are different tokens, and so are their keys when the list is made for a
/// backward pass, which adds to the rows of both. Phases go in order, so every sum has one order.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <span>

#include "reformer/attention/window.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Queries `[query_begin, query_begin + num_queries)` see keys `[key_begin, key_begin + num_keys)`,
/// in slots. Key slots are taken modulo the number of slots, so `key_begin` may be negative.
struct Block {
  Index id;  ///< number of the block in its list
  Index query_begin, num_queries;
  Index key_begin, num_keys;
};

/// Blocks `first ... first + count - 1` of a list.
struct BlockRange {
  Index first, count;
};

/// What must not overlap within a phase.
enum class Disjoint { queries, queries_and_keys };

template <typename List>
concept BlockList = requires(const List& list, Index i) {
  { list.num_slots() } -> std::same_as<Index>;
  { list.num_phases() } -> std::same_as<Index>;
  { list.num_ranges(i) } -> std::same_as<Index>;
  { list.range(i, i) } -> std::same_as<BlockRange>;
  { list.block(i) } -> std::same_as<Block>;
};

/// How a row of chunks is cut into ranges: every one may go at the same time, or every second one
/// when neighbours share keys.
struct RangesOfChunks {
  Index length = 1;  // chunks in a range
  Index turns = 1;   // phases that the ranges take

  RangesOfChunks(Index chunks, const Window& window, Disjoint disjoint)
      : length(std::clamp<Index>(chunks / 16, 1, 8)) {
    const Index neighbours = window.chunks_before + window.chunks_after;
    if (disjoint == Disjoint::queries || neighbours == 0) return;
    length = std::max(length, neighbours);
    turns = 2;
  }

  Index number(Index chunks, Index turn) const {
    return (ceil_div(chunks, length) + turns - 1 - turn) / turns;
  }
  BlockRange range(Index chunks, Index turn, Index i) const {
    const Index first = (turns * i + turn) * length;
    return {first, std::min(length, chunks - first)};
  }
};

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
      : slots_(slots),
        rounds_(rounds),
        window_(window),
        chunks_(ceil_div(slots, window.chunk_length)),
        ranges_(chunks_, window, disjoint) {
    // Chunks whose window leaves the round share tokens with blocks anywhere: each is a phase of
    // its own.
    if (ranges_.turns > 1 && window.circular) {
      crossing_phases_ = window.chunks_before + window.chunks_after;
      crossing_ = std::min(chunks_, crossing_phases_);
      first_inner_ = std::min(crossing_, window.chunks_before);
    }
  }

  Index num_slots() const { return slots_ * rounds_; }
  Index num_phases() const { return rounds_ * phases_per_round(); }

  Index num_ranges(Index phase) const {
    const Index p = phase % phases_per_round();
    if (p >= ranges_.turns) return p - ranges_.turns < crossing_ ? 1 : 0;
    return ranges_.number(chunks_ - crossing_, p);
  }

  BlockRange range(Index phase, Index i) const {
    const Index p = phase % phases_per_round(), round = phase / phases_per_round() * chunks_;
    if (p >= ranges_.turns) {
      const Index s = p - ranges_.turns;
      return {round + (s < first_inner_ ? s : chunks_ - crossing_ + s), 1};
    }
    const BlockRange inner = ranges_.range(chunks_ - crossing_, p, i);
    return {round + first_inner_ + inner.first, inner.count};
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
  Index phases_per_round() const { return ranges_.turns + crossing_phases_; }

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
  Index chunks_;  // of a round
  RangesOfChunks ranges_;
  Index crossing_ = 0;     // chunks that are phases of their own: the first ones and the last ones
  Index first_inner_ = 0;  // how many of them are at the beginning
  Index crossing_phases_ = 0;  // the same for every number of slots
};

/// Chunks within buckets: each bucket of a round is cut into chunks of a fixed length, its last one
/// ragged, and a chunk sees its neighbours in the bucket.
///
/// The chunks of a round are listed in a table, because they depend on how many tokens a bucket
/// has. A block of round r has the number r * max_chunks + (number of the chunk in the round).
class BucketBlocks {
 public:
  /// Most chunks that a round can have.
  static Index max_chunks(Index length, Index chunk_length, Index num_buckets) {
    return length / chunk_length + std::min(length, num_buckets);
  }
  /// Numbers in the table of one round.
  static Index table_size(Index max_chunks) { return 3 + 3 * max_chunks; }

  /// Writes the table of a round.
  /// @param ends  of each bucket, the slot after its last one
  static void fill_table(std::span<const std::int32_t> ends, const Window& window, Index max_chunks,
                         std::int32_t* table) {
    const auto chunk_length = static_cast<std::int32_t>(window.chunk_length);
    std::int32_t* start = table + 2;
    std::int32_t* first = start + max_chunks + 1;
    std::int32_t* last = first + max_chunks;
    Index chunks = 0;
    std::int32_t slot = 0;
    for (const std::int32_t end : ends) {
      const Index begin = chunks;
      for (; slot < end; slot = std::min(slot + chunk_length, end)) start[chunks++] = slot;
      for (Index c = begin; c < chunks; ++c) {
        first[c] = static_cast<std::int32_t>(std::max(c - window.chunks_before, begin));
        last[c] = static_cast<std::int32_t>(std::min(c + window.chunks_after, chunks - 1));
      }
    }
    start[chunks] = slot;
    table[0] = static_cast<std::int32_t>(chunks);
    table[1] = slot;
  }

  /// @param tables  of all rounds, one after another
  BucketBlocks(const std::int32_t* tables, Index max_chunks, Index rounds, const Window& window,
               Disjoint disjoint)
      : tables_(tables),
        max_chunks_(max_chunks),
        rounds_(rounds),
        window_(window),
        disjoint_(disjoint) {}

  Index num_slots() const { return slots() * rounds_; }
  Index num_phases() const { return rounds_ * turns(); }

  Index num_ranges(Index phase) const {
    const Index chunks = chunks_of(phase / turns());
    return RangesOfChunks(chunks, window_, disjoint_).number(chunks, phase % turns());
  }

  BlockRange range(Index phase, Index i) const {
    const Index round = phase / turns(), chunks = chunks_of(round);
    const RangesOfChunks ranges(chunks, window_, disjoint_);
    const BlockRange range = ranges.range(chunks, phase % turns(), i);
    return {round * max_chunks_ + range.first, range.count};
  }

  Block block(Index id) const {
    const Index round = id / max_chunks_, chunk = id % max_chunks_, before = round * slots();
    const std::int32_t* start = table(round) + 2;
    const Index key = start[first_seen(round)[chunk]], end = start[last_seen(round)[chunk] + 1];
    return {id, before + start[chunk], start[chunk + 1] - start[chunk], before + key, end - key};
  }

  Index chunks_of(Index round) const { return table(round)[0]; }
  /// The first and the last chunk that each chunk of a round sees.
  const std::int32_t* first_seen(Index round) const { return table(round) + 3 + max_chunks_; }
  const std::int32_t* last_seen(Index round) const { return first_seen(round) + max_chunks_; }

 private:
  const std::int32_t* table(Index round) const { return tables_ + round * table_size(max_chunks_); }
  Index slots() const { return tables_[1]; }
  Index turns() const { return RangesOfChunks(1, window_, disjoint_).turns; }

  const std::int32_t* tables_;
  Index max_chunks_, rounds_;
  Window window_;
  Disjoint disjoint_;
};

/// All pairs of tiles, or those on and below the diagonal: exact attention without a T x T array.
///
/// Forward, a range holds all pairs of a query tile. For the backward pass each pair is a range:
/// phase d < n holds the pairs (i, j), i >= j, with i + j = d modulo the number of tiles n: every
/// tile is in one pair, so even the one gradient array of shared queries and keys is written to by
/// one block only. Without causality, phase n + d holds the pairs (j, i) of phase d.
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
  Index num_ranges(Index phase) const {
    if (disjoint_ == Disjoint::queries) return tiles_;
    const Range low = low_pairs(phase), high = high_pairs(phase);
    return low.last - low.first + 1 + high.last - high.first + 1;
  }

  BlockRange range(Index phase, Index i) const {
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

}  // namespace reformer::inline REFORMER_ABI::detail
