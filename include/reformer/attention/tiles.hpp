// SPDX-License-Identifier: MIT
/// @file
/// A head as the attention kernel sees it, and the tiles into which its rows are gathered.
///
/// A thread works on one block after another. The keys and values that a block shares with the one
/// before stay where they are, and while one block is computed, rows of the next are fetched.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "reformer/attention/blocks.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/block_product.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Where the tokens of a head are in the chunks of all rounds, to count how many rounds show a
/// query a key.
struct ChunkPlaces {
  Index rounds = 0;                     // 0: a key counts each time
  const std::int32_t* chunk = nullptr;  // [rounds, tokens]: chunk of each token
  Index tokens = 0;
  const std::int32_t* first = nullptr;  // [rounds, stride]: first chunk that a chunk sees
  const std::int32_t* last = nullptr;   // [rounds, stride]: and the last one
  Index stride = 0;
};

/// One head of one sequence, as the kernel sees it.
template <typename Scalar>
struct AttentionHead {
  MatrixView<const Scalar> query, key, value;  // [T, K]
  MatrixView<Scalar> out;                      // [T, K]: sum o while running, o / l when finished
  Scalar* maximum = nullptr;                   // [T]: m
  Scalar* normaliser = nullptr;                // [T]: l while running, 1 / l when finished
  const Scalar* key_scale = nullptr;           // [T]: c; null: 1 / sqrt(K)
  const std::int32_t* order = nullptr;         // [slots]: position in each slot; null: identity
  const std::uint8_t* is_real = nullptr;       // [T]; null: all
  std::uint64_t first_block = 0;               // number of the head's first block, for dropout
  ChunkPlaces places = {};
  Index slots = 0;
  bool causal = true;
  bool shared = false;      // queries are the keys
  bool sees_itself = true;  // a query sees its own key

  bool is_padding(Index t) const { return is_real != nullptr && is_real[t] == 0; }
  /// Whether row t of an array stands in products as it is. What padding holds may be anything, and
  /// a weight of zero does not hide a NaN: rows of padding that are not finite count as zero.
  bool is_usable(const MatrixView<const Scalar>& x, Index t) const {
    return !is_padding(t) || simd::is_finite(x.columns, x.row(t));
  }

  Index position(Index slot) const {
    slot = slot < 0 ? slot % slots + slots : slot;
    slot = slot >= slots ? slot % slots : slot;
    return order != nullptr ? order[slot] : slot;
  }
};

/// Gradients of one head.
template <typename Scalar>
struct AttentionHeadGradient {
  MatrixView<const Scalar> dout;            // [T, K]
  const Scalar* delta;                      // [T]: <do, o>
  MatrixView<Scalar> dquery, dkey, dvalue;  // [T, K], accumulated; dkey is dquery when shared
};

/// Rows that the next block of a range will gather or add to, fetched a few at a time between the
/// products of the block before. In the order of buckets they are anywhere in arrays that no cache
/// near the processor holds.
template <typename Scalar>
class RowsAhead {
 public:
  RowsAhead() = default;
  explicit RowsAhead(const AttentionHead<Scalar>& head) : head_(&head) {}

  /// Rows of x at the positions of slots `[begin, end)`.
  void add(const MatrixView<const Scalar>& x, Index begin, Index end) {
    if (head_->order != nullptr) parts_[num_parts_++] = {x, begin, end};
  }

  void fetch_some() {
    constexpr Index rows = 8;
    for (Index k = 0; k < num_parts_; ++k) {
      auto& [x, slot, end] = parts_[k];
      for (const Index stop = std::min(slot + rows, end); slot < stop; ++slot) {
        simd::prefetch<1>(x.columns, x.row(head_->position(slot)));
      }
    }
  }

 private:
  struct Part {
    MatrixView<const Scalar> x;
    Index slot, end;
  };
  static constexpr Index max_parts = 5;

  const AttentionHead<Scalar>* head_ = nullptr;
  Index num_parts_ = 0;
  Part parts_[max_parts] = {};
};

/// Scratch of one thread for blocks of at most `queries` x `keys`, and what of the last block it
/// still holds.
template <typename Scalar>
class BlockTiles {
 public:
  static Index padded(Index n) { return round_up(n, simd::width<Scalar>); }

  /// @param take    gives memory for a number of scalars
  /// @param rounds  as `ChunkPlaces::rounds`
  template <typename Take>
  BlockTiles(const Take& take, Index max_queries, Index max_keys, Index width, Index rounds)
      : query_stride(padded(max_queries)),
        width_stride(padded(width)),
        key_stride(padded(max_keys)) {
    const Index q = query_stride, w = width_stride, k = key_stride;
    query = {take(q * w), take(q * w), take(q * w), take(q),          take(q),         take(q),
             take(q),     take(q),     take(q),     take(rounds * q), take(rounds * q)};
    key = {take(max_keys * w),
           take(max_keys * w),
           take(max_keys * w),
           take(max_keys * w),
           take(k),
           take(k),
           take(k),
           take(rounds * k)};
    scores = take(max_keys * q);
    dscores = take(max_keys * q);
  }
  /// In memory of `size` scalars.
  BlockTiles(Scalar* memory, Index max_queries, Index max_keys, Index width, Index rounds)
      : BlockTiles([&](Index n) { return std::exchange(memory, memory + n); }, max_queries,
                   max_keys, width, rounds) {}

  static Index size(Index max_queries, Index max_keys, Index width, Index rounds) {
    Index size = 0;
    const auto count = [&](Index n) {
      size += n;
      return static_cast<Scalar*>(nullptr);
    };
    BlockTiles(count, max_queries, max_keys, width, rounds);
    return size;
  }

  Index query_stride, width_stride, key_stride;
  struct {
    Scalar *rows, *douts;  // [queries, width]
    Scalar* sums;          // [queries, width]: of values, or gradients of queries
    Scalar *position, *maximum, *normaliser, *delta, *rescale, *mask;  // [queries]
    Scalar *first_seen, *last_seen;                                    // [rounds, queries]
  } query;
  struct {
    Scalar *rows, *values, *gradients, *value_gradients;  // [keys, width]
    Scalar *position, *scale, *score_dot;                 // [keys]
    Scalar* chunk;                                        // [rounds, keys]
  } key;
  Scalar *scores, *dscores;  // [keys, queries]

  // Slots that are loaded; no keys and no queries at the beginning of a range.
  Index key_begin = 0, num_keys = 0;
  Index query_begin = 0, num_queries = 0;
  Scalar* query_rows = nullptr;  // [queries, width]: `query.rows`, or some of `key.rows`
  RowsAhead<Scalar> ahead;
  bool all_finite = true;  // no value of a real token that was loaded is infinite or NaN
};

/// What of the block's rows is turned for the products.
enum Turned : std::size_t { turned_queries, turned_douts };

/// out row i = x row position(i), padded with zeros to whole vectors.
template <typename Scalar, typename Position>
void gather_rows(const MatrixView<const Scalar>& x, Index count, Index stride,
                 const Position& position, Scalar* out) {
  for (Index i = 0; i < count; ++i) {
    Scalar* row = out + i * stride;
    simd::copy(x.columns, x.row(position(i)), row);
    std::fill(row + x.columns, row + stride, Scalar(0));
  }
}

/// Rows of a head, as `is_usable` says.
template <typename Scalar, typename Position>
void gather_rows(const AttentionHead<Scalar>& head, const MatrixView<const Scalar>& x, Index count,
                 Index stride, const Position& position, Scalar* out) {
  gather_rows(x, count, stride, position, out);
  for (Index i = 0; head.is_real != nullptr && i < count; ++i) {
    if (!head.is_usable(x, position(i))) std::fill_n(out + i * stride, x.columns, Scalar(0));
  }
}

/// Moves the window of keys to those of the block: what stays is moved to the front, what is new
/// is gathered.
/// @return the number of keys that stayed
template <typename Scalar>
Index load_keys(const AttentionHead<Scalar>& head, const Block& block, BlockTiles<Scalar>& tiles) {
  const Index gone = block.key_begin - tiles.key_begin;
  const Index kept = gone >= 0 ? std::clamp<Index>(tiles.num_keys - gone, 0, block.num_keys) : 0;
  if (kept > 0 && gone > 0) {
    for (Scalar* rows : {tiles.key.rows, tiles.key.values}) {
      simd::copy(kept * tiles.width_stride, rows + gone * tiles.width_stride, rows);
    }
    simd::copy(kept, tiles.key.position + gone, tiles.key.position);
    simd::copy(kept, tiles.key.scale + gone, tiles.key.scale);
  }
  tiles.key_begin = block.key_begin;
  tiles.num_keys = block.num_keys;

  const auto constant_scale =
      static_cast<Scalar>(1 / std::sqrt(static_cast<double>(head.key.columns)));
  for (Index j = kept; j < block.num_keys; ++j) {
    const Index t = head.position(block.key_begin + j);
    tiles.key.position[j] = static_cast<Scalar>(t);
    tiles.key.scale[j] = head.key_scale != nullptr && head.is_usable(head.key, t)
                             ? head.key_scale[t]
                             : constant_scale;
  }
  const auto key_at = [&](Index j) { return head.position(block.key_begin + kept + j); };
  const Index start = kept * tiles.width_stride, count = block.num_keys - kept;
  gather_rows(head, head.key, count, tiles.width_stride, key_at, tiles.key.rows + start);
  gather_rows(head, head.value, count, tiles.width_stride, key_at, tiles.key.values + start);
  if (head.causal && !simd::is_finite(count * tiles.width_stride, tiles.key.values + start)) {
    tiles.all_finite = false;
  }
  return kept;
}

/// Positions, running values and rows of the block's queries, unless they are there.
/// @return whether they were not
template <typename Scalar, ProductKernel Kernel>
bool load_queries(const AttentionHead<Scalar>& head, const Block& block, BlockTiles<Scalar>& tiles,
                  BlockOperands<Kernel>& operands) {
  const auto query_at = [&](Index i) { return head.position(block.query_begin + i); };
  const Index offset = block.query_begin - block.key_begin;
  // Queries that are keys of the block are not gathered twice.
  const bool among_keys =
      head.shared && offset >= 0 && offset + block.num_queries <= block.num_keys;
  tiles.query_rows = among_keys ? tiles.key.rows + offset * tiles.width_stride : tiles.query.rows;
  if (tiles.query_begin == block.query_begin && tiles.num_queries == block.num_queries) {
    return false;
  }
  tiles.query_begin = block.query_begin;
  tiles.num_queries = block.num_queries;
  // Lanes beyond the last query get values that stay finite: sums over vectors run through them.
  for (Index i = 0; i < tiles.query_stride; ++i) {
    const bool inside = i < block.num_queries;
    const Index t = inside ? query_at(i) : 0;
    tiles.query.position[i] = inside ? static_cast<Scalar>(t) : Scalar(-1);
    tiles.query.maximum[i] = inside ? head.maximum[t] : Scalar(0);
    tiles.query.normaliser[i] = inside ? head.normaliser[t] : Scalar(0);
  }
  if (!among_keys) {
    gather_rows(head, head.query, block.num_queries, tiles.width_stride, query_at,
                tiles.query.rows);
  }
  operands.turn(turned_queries,
                {tiles.query_rows, block.num_queries, head.query.columns, tiles.width_stride});
  return true;
}

/// Chunks of the block's keys, and those that its queries see, in all rounds.
template <typename Scalar>
void load_places(const AttentionHead<Scalar>& head, const Block& block, BlockTiles<Scalar>& tiles) {
  const ChunkPlaces& places = head.places;
  for (Index r = 0; r < places.rounds; ++r) {
    const std::int32_t* chunk = places.chunk + r * places.tokens;
    for (Index j = 0; j < block.num_keys; ++j) {
      tiles.key.chunk[r * tiles.key_stride + j] =
          static_cast<Scalar>(chunk[head.position(block.key_begin + j)]);
    }
    for (Index i = 0; i < tiles.query_stride; ++i) {
      // Lanes beyond the last query see every chunk, so that nothing is divided by 0.
      const bool inside = i < block.num_queries;
      const Index c = inside ? chunk[head.position(block.query_begin + i)] : 0;
      const Index place = r * tiles.query_stride + i;
      tiles.query.first_seen[place] =
          inside ? static_cast<Scalar>(places.first[r * places.stride + c]) : Scalar(-1);
      tiles.query.last_seen[place] = inside
                                         ? static_cast<Scalar>(places.last[r * places.stride + c])
                                         : std::numeric_limits<Scalar>::max();
    }
  }
}

/// out rows of x `[count, columns]` are added to rows position(i) of out.
template <typename Scalar, typename Position>
void scatter_add_rows(const Scalar* x, Index x_stride, Index count, const Position& position,
                      const MatrixView<Scalar>& out) {
  for (Index i = 0; i < count; ++i) simd::add(out.columns, x + i * x_stride, out.row(position(i)));
}

/// Keys of the next block that are not keys of this one, their values, and rows of its queries.
template <typename Scalar>
RowsAhead<Scalar> rows_ahead(const AttentionHead<Scalar>& head, const Block& block,
                             const Block& next, const MatrixView<const Scalar>& query_rows) {
  RowsAhead<Scalar> ahead(head);
  const Index first = std::max(next.key_begin, block.key_begin + block.num_keys);
  ahead.add(head.key, first, next.key_begin + next.num_keys);
  ahead.add(head.value, first, next.key_begin + next.num_keys);
  ahead.add(query_rows, next.query_begin, next.query_begin + next.num_queries);
  return ahead;
}

}  // namespace reformer::inline REFORMER_ABI::detail
