// SPDX-License-Identifier: MIT
/// @file
/// What causal attention must keep of the tokens it has seen to go on token by token.
///
/// | pattern       | kept for each head of each sequence            | grows with length |
/// |---------------|------------------------------------------------|-------------------|
/// | local         | keys, values of the last chunks_before + 1 chunks | no             |
/// | bucket chunks | the same for every round and bucket            | no                |
/// | exact         | all keys and values                            | yes               |
/// | sorted chunks | impossible: later tokens change what earlier ones see |            |
///
/// Keys and values of a window stand in a ring of (chunks_before + 1) C rows: the token of rank i
/// among those of the ring is in row i modulo that, where i is its position, or its rank in its
/// bucket. Exact attention has one ring for each head, longer than any sequence. The memory of
/// each ring grows with its own tokens until it is full, and before any thread works. A query is
/// attended to by the kernel of the forward pass, as a block of one query whose keys are in the
/// same order, and rounds and tiles are merged in the same order.
///
/// Where keys carry values of what followed, the newest token's value is not known when its key is
/// kept: it is filled in one step later, before anything can see it.
#pragma once

#include <algorithm>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "reformer/attention/multi_head.hpp"
#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Throws `std::invalid_argument` unless attention by the pattern can go on token by token.
inline void check_decodable(std::string_view function, const AttentionPattern& pattern) {
  if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
    check(!local->circular || (local->chunks_before <= 1 && local->chunks_after == 0), function,
          "a local layer is circular with chunks_before ", local->chunks_before,
          " and chunks_after ", local->chunks_after,
          ", must be at most 1 and 0: else what a token sees depends on the length");
  }
  check(!has_sorted_chunks(pattern), function,
        "an LSH layer has sorted_chunks, must have bucket_chunks: else what a "
        "token sees depends on later ones");
}

/// Keys and values of a layer's heads of one kind, of all sequences.
/// @tparam Kernel  of the products of attention
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
class DecodingState {
 public:
  /// @param first_head  of these heads in their layer
  /// @throw std::invalid_argument for sizes below 1, or a pattern that cannot go on, see
  /// `check_decodable`
  DecodingState(const AttentionPattern& pattern, Index batch, Index heads, Index head_width,
                Index first_head = 0)
      : pattern_((check_pattern("DecodingState", pattern),
                  check_decodable("DecodingState", pattern), pattern)),
        batch_(batch),
        heads_(heads),
        width_(head_width),
        first_head_(first_head),
        layout_(pattern, true, longest_sequence + 1) {
    check_between("DecodingState", "batch", batch, 1, max_size);
    check_between("DecodingState", "heads", heads, 1, max_size / batch);
    check_between("DecodingState", "head_width", head_width, 1, max_size / heads);
    check_elements("DecodingState", "batch * heads * num_hashes", batch * heads, rounds());
    if (layout_.is_hashed) buckets_ = num_buckets(layout_.bucket_factors);
    if (!is_exact()) {
      const Window& window = layout_.window;
      most_rows_ = std::min(most_rows_, (window.chunks_before + 1) * window.chunk_length);
    }
    selected_.resize(static_cast<std::size_t>(batch));
    std::iota(selected_.begin(), selected_.end(), 0);
    rings_.resize(static_cast<std::size_t>(batch * heads * rounds() * buckets_));
    if (layout_.carries_next()) newest_.resize(static_cast<std::size_t>(batch * heads * rounds()));
    if (values_of(pattern) == Values::mixed) {
      unmixed_.assign(static_cast<std::size_t>(batch * heads * head_width), Scalar(0));
    }
  }

  const AttentionPattern& pattern() const { return pattern_; }
  Index heads() const { return heads_; }
  Index head_width() const { return width_; }

  /// Chooses the sequences that `clear`, `keep` and `attend_next` are about from now on, in the
  /// order of a group's batch; all, in their order, until it is called.
  void select(std::vector<Index> sequences) {
    for (const Index b : sequences) {
      check(b >= 0 && b < batch_, "DecodingState::select", "sequence is ", b, ", must be in [0, ",
            batch_, ")");
    }
    selected_ = std::move(sequences);
  }
  Index num_selected() const { return static_cast<Index>(selected_.size()); }

  /// Forgets the sequences, but keeps the memory.
  void clear() {
    const auto forget = [&](auto& all, Index per_head, const auto& what) {
      const Index each = all.empty() ? 0 : heads_ * per_head;
      for (const Index b : selected_) std::for_each_n(all.begin() + b * each, each, what);
    };
    forget(rings_, rounds() * buckets_, [](Ring& ring) { ring.count = 0; });
    forget(newest_, rounds(), [](Newest& newest) { newest = {}; });
    forget(unmixed_, width_, [](Scalar& value) { value = 0; });
  }

  /// Bytes of keys, values and what belongs to them.
  std::size_t bytes() const {
    std::size_t bytes = rings_.size() * sizeof(Ring) + newest_.size() * sizeof(Newest) +
                        unmixed_.size() * sizeof(Scalar);
    for (const Ring& ring : rings_) {
      bytes += ring.rows.size() * sizeof(Scalar) + ring.places.size() * sizeof(Place);
    }
    return bytes;
  }

  /// Takes over the keys and values of a prompt's real tokens, after `attend`.
  /// @param group    some of these heads, whose state is empty
  /// @param buckets  `[B, H, R, T]` of the group, if hashed
  void keep(Workspace& workspace, const MultiHead<Scalar>& group, const Bucket* buckets) {
    const Index T = group.length(), rings = rounds() * buckets_, tasks = group.batch * group.heads;
    Scratch scratch(workspace);
    const auto memory = scratch.per_thread<Index>(rings + rounds());
    const auto place_memory = scratch.per_thread<Place>(rounds());
    auto* tokens = scratch.take<Index>(tasks * rings);
    const auto bucket_at = [&](Index task, Index r, Index t) {
      return buckets != nullptr ? buckets[(task * rounds() + r) * T + t] : 0;
    };
    const auto is_real_at = [&](Index b, Index t) { return is_real_row(group.is_real, b * T + t); };
    parallel_for(workspace.threads(), tasks, [&](Index task, int) {
      Index* all = tokens + task * rings;
      std::fill_n(all, rings, Index{0});
      for (Index r = 0; r < rounds(); ++r) {
        for (Index t = 0; t < T; ++t) {
          if (is_real_at(task / group.heads, t)) ++all[r * buckets_ + bucket_at(task, r, t)];
        }
      }
    });
    for (Index i = 0; i < tasks * rings; ++i) {
      const Index task = i / rings, b = task / group.heads, h = task % group.heads;
      grow(rings_at(head_of(group, b, h))[i % rings], tokens[i]);
    }
    parallel_for(workspace.threads(), tasks, [&](Index task, int thread) {
      const Index b = task / group.heads, h = task % group.heads;
      const Index head = head_of(group, b, h);
      const auto key = group.part(group.key, b, h), value = group.part(group.value, b, h);
      const Scalar* scale = layout_.shared ? group.key_scale + task * T : nullptr;
      const Index* all = tokens + task * rings;
      // Only tokens that a later one can still see are copied.
      Index *seen = memory[thread], *rank = seen + rings;
      std::fill_n(seen, rings, Index{0});
      for (Index t = 0; t < T; ++t) {
        if (!is_real_at(b, t)) continue;
        for (Index r = 0; r < rounds(); ++r) {
          const Index bucket = bucket_at(task, r, t);
          rank[r] = seen[r * buckets_ + bucket]++;
          place_memory[thread][r] = {bucket, rank[r] / layout_.window.chunk_length};
        }
        for (Index r = 0; r < rounds(); ++r) {
          const Index bucket = bucket_at(task, r, t);
          if (rank[r] + most_rows_ < all[r * buckets_ + bucket]) continue;
          insert(head, r, bucket, rank[r], key.row(t), value.row(t),
                 scale != nullptr ? scale[t] : Scalar(0), place_memory[thread]);
        }
      }
      for (Index i = 0; i < rings; ++i) rings_at(head)[i].count = all[i];
    });
  }

  /// Tokens of the sequence that row b of a batch belongs to.
  Index num_tokens(Index b) const {
    const Ring* rings = rings_at(head_of(b, 0));
    return std::accumulate(rings, rings + buckets_, Index{0},
                           [](Index sum, const Ring& ring) { return sum + ring.count; });
  }

  /// Takes over the value of a prompt's last real token, with which the next one is mixed.
  /// @param values  of the group, before they are mixed
  void keep_unmixed(const MultiHead<Scalar>& group, const MatrixView<const Scalar>& values) {
    for (Index b = 0; b < group.batch; ++b) {
      Index t = group.length() - 1;
      while (t >= 0 && !is_real_row(group.is_real, b * group.length() + t)) --t;
      if (t < 0) continue;
      for (Index h = 0; h < group.heads; ++h) {
        const auto value = group.part(values, b, h);
        std::copy_n(value.row(t), width_, unmixed_.data() + head_of(group, b, h) * width_);
      }
    }
  }

  /// The value of the newest token before it was mixed, zero if there is none: of a head of a
  /// selected sequence.
  Scalar* unmixed(Index b, Index h) { return unmixed_.data() + head_of(b, h) * width_; }

  /// Attention of one further token of each sequence, whose key and value are then part of the
  /// state.
  /// @param group    all of these heads, length 1; `out` is written
  /// @param buckets  `[B, H, R]`, if hashed
  /// @param kernel   of the products, or their precision
  /// @throw std::invalid_argument at the longest sequence, if all of its tokens are kept
  void attend_next(Workspace& workspace, const MultiHead<Scalar>& group, const Bucket* buckets,
                   const Kernel& kernel) {
    check_equal("DecodingState::attend_next", "batch", group.batch, "selected sequences",
                static_cast<Index>(selected_.size()));
    const Index tasks = group.batch * heads_;
    const auto for_each_ring = [&](const auto& body) {
      for (Index task = 0; task < tasks; ++task) {
        for (Index r = 0; r < rounds(); ++r) {
          body(ring_of(head_of(task / heads_, task % heads_), r,
                       buckets != nullptr ? buckets[task * rounds() + r] : 0));
        }
      }
    };
    Index longest = 0;
    for_each_ring([&](const Ring& ring) { longest = std::max(longest, ring.count); });
    check(longest < most_rows_ || most_rows_ < longest_sequence, "DecodingState", "length is ",
          longest + 1, ", must be less than 2^24");
    for_each_ring([&](Ring& ring) { grow(ring, ring.count + 1); });
    const Index rows = is_exact() ? TiledBlocks::tile + 1 : capacity_;
    const Index place_rounds = layout_.counted_rounds();
    Scratch scratch(workspace);
    const Tiles tiles{
        kernel,
        rows,
        place_rounds,
        scratch.per_thread<Scalar>(2 * rows +
                                   BlockTiles<Scalar>::size(1, rows, width_, place_rounds)),
        scratch.per_thread<typename Kernel::Packed>(
            BlockOperands<Kernel>::size(kernel, 1, rows, width_, 1)),
        scratch.per_thread<std::int32_t>(rows + place_rounds * rows + 2 * (chunks_kept() + 1)),
        scratch.per_thread<Place>(rounds()),
        Dropout<Scalar>(0, {}, {})};
    const Index keys = is_exact() ? longest + 1 : rounds() * std::min(longest + 1, capacity_);
    const double work = 2.0 * static_cast<double>(tasks * keys * width_);
    const auto attend_task = [&](Index task, int thread) {
      const Index b = task / heads_, h = task % heads_, head = head_of(b, h);
      const auto part = [&](const auto& x) { return group.part(x, b, h); };
      Query query{part(group.query).data, part(group.out).data,
                  std::numeric_limits<Scalar>::lowest(), 0};
      const Scalar *key = part(group.key).data, *value = part(group.value).data;
      const Scalar scale = layout_.shared ? key_scale_of(width_, key) : Scalar(0);
      std::fill_n(query.out, width_, Scalar(0));
      if (is_exact()) {
        put_newest_value(head, value);
        insert(head, 0, 0, ring_of(head, 0, 0).count++, key, value, scale, tiles.places[thread]);
        attend_all(tiles, thread, head, query);
      } else {
        attend_rings(tiles, thread, head, buckets != nullptr ? buckets + task * rounds() : nullptr,
                     query, key, value, scale);
      }
      finish_row(width_, query.out, query.normaliser);
    };
    parallel_for(threads_for(workspace.threads(), work), tasks, Multiplying{kernel, attend_task});
  }

 private:
  static constexpr Index none = -1;

  /// Where a token is in one round.
  struct Place {
    Index bucket, chunk;
  };

  /// The tokens of one bucket, or of all. As long as it can grow, the token of rank i is in row i.
  struct Ring {
    Index count = 0;            // tokens it has seen
    Index capacity = 0;         // rows
    std::vector<Scalar> rows;   // keys [capacity, width], values, and scales of shared keys
    std::vector<Place> places;  // [capacity, rounds], where keys count once
  };

  /// Where the newest key of a round is, whose value is to come.
  struct Newest {
    Index ring = none, row = 0;
  };

  /// One query with its running softmax.
  struct Query {
    const Scalar* row;
    Scalar* out;
    Scalar maximum, normaliser;
  };

  /// Memory of each thread.
  struct Tiles {
    Kernel kernel;
    Index rows, place_rounds;
    PerThread<Scalar> scalars;
    PerThread<typename Kernel::Packed> packed;
    PerThread<std::int32_t> integers;
    PerThread<Place> places;
    Dropout<Scalar> no_dropout;
  };

  /// Makes room for `rows` tokens. If there is no memory, nothing has changed.
  void grow(Ring& ring, Index rows) {
    rows = std::min(rows, most_rows_);
    if (rows <= ring.capacity) return;
    Ring larger;
    larger.count = ring.count;
    larger.capacity =
        std::min(most_rows_, std::max({rows, ring.capacity + ring.capacity / 2, least_rows}));
    larger.rows.resize(
        static_cast<std::size_t>(larger.capacity * (2 * width_ + (layout_.shared ? 1 : 0))));
    larger.places.resize(
        static_cast<std::size_t>(layout_.counts_once ? larger.capacity * rounds() : 0));
    std::copy_n(keys_in(ring), ring.capacity * width_, keys_in(larger));
    std::copy_n(values_in(ring), ring.capacity * width_, values_in(larger));
    if (layout_.shared) std::copy_n(scales_in(ring), ring.capacity, scales_in(larger));
    std::copy(ring.places.begin(), ring.places.end(), larger.places.begin());
    capacity_ = std::max(capacity_, larger.capacity);
    ring = std::move(larger);
  }

  bool is_exact() const { return layout_.blocks == BlockKind::tiles; }
  Index rounds() const { return layout_.rounds; }

  /// Head h of the sequence that row b of a batch belongs to.
  Index head_of(Index b, Index h) const {
    return selected_[static_cast<std::size_t>(b)] * heads_ + h;
  }
  /// The same of a group's sequence and head.
  Index head_of(const MultiHead<Scalar>& group, Index b, Index h) const {
    return head_of(group.first_sequence + b, group.first_head - first_head_ + h);
  }

  /// Chunks before a token's own that its ring may hold.
  Index chunks_kept() const { return ceil_div(capacity_, layout_.window.chunk_length) - 1; }

  /// Rings of a head, `[rounds, buckets]`.
  Ring* rings_at(Index head) { return rings_.data() + head * rounds() * buckets_; }
  const Ring* rings_at(Index head) const { return rings_.data() + head * rounds() * buckets_; }
  Ring& ring_of(Index head, Index round, Index bucket) {
    return rings_at(head)[round * buckets_ + bucket];
  }

  template <typename SomeRing>
  auto* keys_in(SomeRing& ring) const {
    return ring.rows.data();
  }
  template <typename SomeRing>
  auto* values_in(SomeRing& ring) const {
    return ring.rows.data() + ring.capacity * width_;
  }
  template <typename SomeRing>
  auto* scales_in(SomeRing& ring) const {
    return ring.rows.data() + 2 * ring.capacity * width_;
  }

  /// Completes the newest key of a head with the value of the token after it.
  void put_newest_value(Index head, const Scalar* value) {
    for (Index r = 0; layout_.carries_next() && r < rounds(); ++r) {
      const Newest& newest = newest_[static_cast<std::size_t>(head * rounds() + r)];
      if (newest.ring == none) continue;
      std::copy_n(value, width_,
                  values_in(rings_[static_cast<std::size_t>(newest.ring)]) + newest.row * width_);
    }
  }

  void insert(Index head, Index round, Index bucket, Index rank, const Scalar* key,
              const Scalar* value, Scalar scale, const Place* places) {
    Ring& ring = ring_of(head, round, bucket);
    const Index row = rank % ring.capacity;
    if (layout_.carries_next())
      newest_[static_cast<std::size_t>(head * rounds() + round)] = {&ring - rings_.data(), row};
    std::copy_n(key, width_, keys_in(ring) + row * width_);
    std::copy_n(value, width_, values_in(ring) + row * width_);
    if (layout_.shared) scales_in(ring)[row] = scale;
    if (layout_.counts_once) {
      std::copy_n(places, rounds(), ring.places.begin() + row * rounds());
    }
  }

  /// Merges the keys in the first `count` rows of `head.order` into the query's softmax.
  /// @param own  slot of the query in the order: that of its own key, or one behind all keys
  void merge(const Tiles& tiles, int thread, AttentionHead<Scalar>& head, Index count, Index own,
             Query& query) const {
    Scalar* memory = tiles.scalars[thread];
    head.maximum = memory;
    head.normaliser = memory + tiles.rows;
    head.query = {query.row, tiles.rows, width_, 0};  // one row, wherever the query stands
    head.out = {query.out, tiles.rows, width_, 0};
    head.shared = layout_.shared;
    head.causal = false;  // all keys are earlier ones
    const Index row = head.position(own);
    head.maximum[row] = query.maximum;
    head.normaliser[row] = query.normaliser;
    BlockTiles<Scalar> block_tiles(memory + 2 * tiles.rows, 1, tiles.rows, width_,
                                   tiles.place_rounds);
    BlockOperands<Kernel> operands(tiles.kernel, tiles.packed[thread], 1, tiles.rows, width_, 1);
    attend_block(head, Block{0, own, 1, 0, count}, tiles.no_dropout, block_tiles, operands);
    query.maximum = head.maximum[row];
    query.normaliser = head.normaliser[row];
  }

  void attend_rings(const Tiles& tiles, int thread, Index head, const Bucket* buckets, Query& query,
                    const Scalar* key, const Scalar* value, Scalar scale) {
    Place* places = tiles.places[thread];
    const auto ring_at = [&](Index r) -> Ring& { return ring_of(head, r, places[r].bucket); };
    for (Index r = 0; r < rounds(); ++r) {
      places[r].bucket = buckets != nullptr ? buckets[r] : 0;
      places[r].chunk = ring_at(r).count / layout_.window.chunk_length;
    }
    put_newest_value(head, value);
    std::int32_t* order = tiles.integers[thread];
    for (Index r = 0; r < rounds(); ++r) {
      Ring& ring = ring_at(r);
      const Index rank = ring.count++;
      insert(head, r, places[r].bucket, rank, key, value, scale, places);
      const Index first = std::max<Index>(0, places[r].chunk - layout_.window.chunks_before) *
                          layout_.window.chunk_length;
      const Index count = rank - first + 1;
      for (Index i = 0; i < count; ++i) {
        order[i] = static_cast<std::int32_t>((first + i) % ring.capacity);
      }
      AttentionHead<Scalar> part;
      part.key = {keys_in(ring), ring.capacity, width_};
      part.value = {values_in(ring), ring.capacity, width_};
      if (layout_.shared) part.key_scale = scales_in(ring);
      part.order = order;
      part.slots = count;
      if (layout_.counts_once) {
        part.places = places_of(ring, places, count, order, tiles.integers[thread] + capacity_);
      }
      merge(tiles, thread, part, layout_.carries_next() ? count - 1 : count, count - 1, query);
    }
  }

  /// Chunks of the ring's keys in all rounds, counted from the first one that the query may see:
  /// the query is in number `chunks_kept`, and a key that it does not see in one behind.
  ChunkPlaces places_of(const Ring& ring, const Place* query, Index count,
                        const std::int32_t* order, std::int32_t* memory) const {
    const Index before = chunks_kept();
    std::int32_t* chunk = memory + 2 * (before + 1);
    std::int32_t *first = memory, *last = memory + before + 1;
    first[before] = 0;
    last[before] = static_cast<std::int32_t>(before);
    for (Index i = 0; i < count; ++i) {
      const Place* key = ring.places.data() + order[i] * rounds();
      for (Index r = 0; r < rounds(); ++r) {
        const Index away = key[r].bucket == query[r].bucket ? query[r].chunk - key[r].chunk : -1;
        const bool sees = away >= 0 && away <= before;
        chunk[r * capacity_ + order[i]] =
            static_cast<std::int32_t>(sees ? before - away : before + 1);
      }
    }
    return {rounds(), chunk, capacity_, first, last, 0};
  }

  void attend_all(const Tiles& tiles, int thread, Index head, Query& query) {
    constexpr Index tile = TiledBlocks::tile;
    std::int32_t* order = tiles.integers[thread];
    std::iota(order, order + tile + 1, 0);
    Ring& ring = *rings_at(head);
    const Index length = ring.count - (layout_.carries_next() ? 1 : 0);
    for (Index first = 0; first < length; first += tile) {
      const Index count = std::min(tile, length - first);
      AttentionHead<Scalar> part;
      part.key = {keys_in(ring) + first * width_, count, width_};
      part.value = {values_in(ring) + first * width_, count, width_};
      if (layout_.shared) part.key_scale = scales_in(ring) + first;
      part.order = order;
      part.slots = tile + 1;
      const bool is_last = first + count == length;
      merge(tiles, thread, part, count, is_last && !layout_.carries_next() ? count - 1 : tile,
            query);
    }
  }

  AttentionPattern pattern_;
  Index batch_, heads_, width_, first_head_;
  static constexpr Index least_rows = 8;

  AttentionLayout layout_;              // of a sequence without an end
  Index buckets_ = 1;                   // of a round
  Index most_rows_ = longest_sequence;  // what a ring grows to
  Index capacity_ = 0;                  // rows of the largest ring
  std::vector<Index> selected_;
  std::vector<Ring> rings_;      // [B, H, rounds, buckets]
  std::vector<Newest> newest_;   // [B, H, rounds]
  std::vector<Scalar> unmixed_;  // [B, H, width]: value of the newest token, where they are mixed
};

}  // namespace reformer::inline REFORMER_ABI::detail
