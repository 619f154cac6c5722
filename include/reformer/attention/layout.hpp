// SPDX-License-Identifier: MIT
/// @file
/// What heads attend to in one pass: a pattern at a length, with its mask, decided once.
///
/// A branch makes the layout of its layer at the beginning of a pass, and everything below (order
/// of tokens, block lists, tiles, statistics) reads it. Nothing below asks for the pattern.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "reformer/attention/blocks.hpp"
#include "reformer/attention/hashing.hpp"
#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// The list of a head's blocks.
enum class BlockKind {
  tiles,          ///< `TiledBlocks`, of exact attention
  chunks,         ///< `ChunkedBlocks`, of local attention and of sorted chunks
  bucket_chunks,  ///< `BucketBlocks`
};

/// Sizes and rules of attention of a head of a sequence, by pattern and length.
struct AttentionLayout {
  Index length = 0;  ///< T
  bool causal = true;
  bool shared = false;  ///< whether queries are keys
  Values values = Values::own;
  Scores scores = Scores::dot_product;
  Index rotary_width = 0;
  BlockKind blocks = BlockKind::tiles;
  Window window = {};      ///< within the length; of chunks
  bool is_hashed = false;  ///< whether tokens stand in the order of their buckets
  Index rounds = 1;        ///< R; 1 unless hashed

  // Of hashed attention only.
  std::vector<Index> bucket_factors = {};
  bool sorts_padding = false;
  bool counts_once = false;  ///< see `Duplicates`

  /// Most tokens of a block, and blocks of a head.
  Index max_queries = 0, max_keys = 0, max_blocks = 0;
  /// Of bucket chunks: most chunks of a round.
  Index max_chunks = 0;

  AttentionLayout() = default;
  /// @param pattern     one that `check_pattern` lets pass
  /// @param is_real     mask `[B*T]` of the pass, or empty
  /// @param num_hashes  rounds of hashed attention; 0: those of the pattern
  AttentionLayout(const AttentionPattern& pattern, bool causal_, Index length_,
                  std::span<const std::uint8_t> is_real = {}, Index num_hashes = 0)
      : length(length_),
        causal(causal_),
        shared(shares_query_key(pattern)),
        values(values_of(pattern)),
        scores(scores_of(pattern)),
        rotary_width(rotary_width_of(pattern)) {
    if (const auto* lsh = std::get_if<LshPattern>(&pattern);
        lsh != nullptr && hashes(*lsh, length)) {
      resolve(*lsh, num_hashes);
      if (!sorts_padding) count_slots(is_real);
    } else if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
      resolve(BlockKind::chunks, window_of(*local, length));
    } else {
      const Index tiles = ceil_div(length, TiledBlocks::tile);
      max_queries = max_keys = std::min(length, TiledBlocks::tile);
      max_blocks = tiles * tiles;
    }
  }

  /// R, or 0 unless hashed.
  Index hash_rounds() const { return is_hashed ? rounds : 0; }
  /// Whether a key carries something of the token after it, so that its own token does not see it.
  bool carries_next() const { return values != Values::own; }
  /// Rounds in whose chunks a key is looked for, to count it once; 0: it counts each time.
  Index counted_rounds() const { return counts_once ? rounds : 0; }

  /// Buckets whose tokens have a place in the order.
  Index num_sorted_buckets() const { return num_buckets(bucket_factors) + (sorts_padding ? 1 : 0); }
  /// Columns of the rotations of all rounds.
  Index rotation_columns() const { return rounds * reformer::rotation_columns(bucket_factors); }
  /// Slots of a round of a sequence: its tokens, without padding unless that is sorted too.
  Index slots(Index sequence) const {
    return slots_.empty() ? length : slots_[static_cast<std::size_t>(sequence)];
  }

  /// What the order of a head consists of, in numbers: the token in each slot of all rounds, the
  /// table of each round (of bucket chunks), and the chunk of each token in all rounds (where keys
  /// count once).
  Index order_size() const { return order_slots() + order_tables() + counted_rounds() * length; }
  Index order_slots() const { return hash_rounds() * length; }
  Index order_tables() const {
    return blocks == BlockKind::bucket_chunks ? rounds * BucketBlocks::table_size(max_chunks) : 0;
  }
  /// Numbers of scratch for sorting a round.
  Index sort_size() const {
    return num_sorted_buckets() + 1 + ceil_div(length, window.chunk_length);
  }

 private:
  void resolve(const LshPattern& lsh, Index num_hashes) {
    is_hashed = true;
    rounds = num_hashes > 0 ? num_hashes : lsh.num_hashes;
    bucket_factors = reformer::bucket_factors(lsh, length);
    sorts_padding = lsh.sort_padding;
    counts_once = lsh.duplicates == Duplicates::once;
    const bool by_bucket = lsh.chunking == Chunking::bucket_chunks;
    resolve(by_bucket ? BlockKind::bucket_chunks : BlockKind::chunks, window_of(lsh, length));
    if (!by_bucket) return;
    max_chunks = BucketBlocks::max_chunks(length, lsh.chunk_length, num_buckets(bucket_factors));
    max_blocks = rounds * max_chunks;
  }

  void resolve(BlockKind kind, const Window& within) {
    blocks = kind;
    window = within;
    max_queries = window.chunk_length;
    max_keys = window.circular ? window.max_keys() : std::min(window.max_keys(), length);
    max_blocks = rounds * ceil_div(length, window.chunk_length);
  }

  void count_slots(std::span<const std::uint8_t> is_real) {
    const auto T = static_cast<std::ptrdiff_t>(length);
    for (auto row = is_real.begin(); row != is_real.end(); row += T) {
      slots_.push_back(std::count_if(row, row + T, [](std::uint8_t real) { return real != 0; }));
    }
  }

  std::vector<Index> slots_;  // of each sequence; empty: all tokens
};

}  // namespace reformer::inline REFORMER_ABI::detail
