// SPDX-License-Identifier: MIT
/// @file
/// The one attention kernel: a block of queries against a block of keys, forward and backward.
///
/// With query q_i, key k_j, value v_j (paper, Eqs. (2) and (3)), and z the log of the normaliser
/// over everything that query i sees, in all blocks and all hash rounds:
///
///     s_ij = c_j <q_i, k_j>,   o_i = sum_j exp(s_ij - z_i) v_j
///
/// c_j is 1 / sqrt(K) for separate keys. For shared queries and keys it is 1 / sqrt(|k_j|^2 + K e),
/// e = 1e-6, which makes keys unit vectors; the score of a token with itself is then replaced by
/// `self_score`, so that it attends to itself only when nothing else is there. A key counts as
/// often as blocks show it, as in trax and HuggingFace; or, of bucket chunks and on request, once:
/// each of the n blocks that show query i key j then counts it by exp(s_ij) / n.
///
/// The softmax runs over blocks one after another: for each query, the running maximum m, the
/// normaliser l and the sum o are kept and each block is merged into them. The weight is exp(s - m)
/// / l and never exp(s - logsumexp): next to self_score a float resolves only 0.0078, and the
/// textbook form is off by 0.4 %.
///
/// Scores are held transposed, keys by queries: then maxima and sums are elementwise over vectors
/// of queries, keys and values stand in the products as they are gathered, and only the block's
/// queries have to be turned.
///
/// Backward, with delta_i = <do_i, o_i>:
///
///     P_ij = exp(s_ij - z_i),  dP = do v^T,  dS = P (dP - delta),  dv += P^T do,  dq += (dS c) k,
///     dk_j += sum_i dS_ij c_j q_i  - c_j^2 (sum_i dS_ij s_ij) k_j          (the last term for unit
///     keys only)
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "reformer/attention/blocks.hpp"
#include "reformer/attention/staircase.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/product.hpp"

namespace reformer {

/// Score of a token with itself when queries and keys are shared: below every real score, above
/// exclusion, and the value that Google's weights were trained with.
inline constexpr double self_score = -1e5;

/// Keeps the length of a zero key positive.
inline constexpr double key_epsilon = 1e-6;

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
  bool shared = false;  // queries are the keys

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

namespace detail {

/// Scratch of one thread for blocks of at most `queries` x `keys`, and what of the last block it
/// still holds.
template <typename Scalar>
class BlockTiles {
 public:
  static Index padded(Index n) { return round_up(n, simd::width<Scalar>); }

  /// @param rounds  as `ChunkPlaces::rounds`
  static Index size(Index queries, Index keys, Index width, Index rounds) {
    const Index q = padded(queries), w = padded(width);
    return 5 * q * w + 4 * keys * w + 2 * keys * q + 6 * q + 3 * padded(keys) +
           rounds * (2 * q + padded(keys));
  }

  BlockTiles(Scalar* memory, Index max_queries, Index max_keys, Index width, Index rounds)
      : query_stride(padded(max_queries)),
        width_stride(padded(width)),
        key_stride(padded(max_keys)) {
    const Index q = query_stride, w = width_stride;
    const auto take = [&](Index n) {
      Scalar* p = memory;
      memory += n;
      return p;
    };
    queries = take(q * w);
    douts = take(q * w);
    query_tile = take(q * w);
    queries_turned = take(w * q);
    douts_turned = take(w * q);
    keys = take(max_keys * w);
    values = take(max_keys * w);
    dkeys = take(max_keys * w);
    dvalues = take(max_keys * w);
    scores = take(max_keys * q);
    dscores = take(max_keys * q);
    query_position = take(q);
    maximum = take(q);
    normaliser = take(q);
    delta = take(q);
    rescale = take(q);
    mask = take(q);
    key_position = take(padded(max_keys));
    key_scale = take(padded(max_keys));
    score_dot = take(padded(max_keys));
    first_seen = take(rounds * q);
    last_seen = take(rounds * q);
    key_chunk = take(rounds * key_stride);
  }

  Index query_stride, width_stride, key_stride;
  Scalar *queries, *douts, *query_tile;                                    // [queries, width]
  Scalar *queries_turned, *douts_turned;                                   // [width, queries]
  Scalar *keys, *values, *dkeys, *dvalues;                                 // [keys, width]
  Scalar *scores, *dscores;                                                // [keys, queries]
  Scalar *query_position, *maximum, *normaliser, *delta, *rescale, *mask;  // [queries]
  Scalar *key_position, *key_scale, *score_dot;                            // [keys]
  Scalar *first_seen, *last_seen;                                          // [rounds, queries]
  Scalar* key_chunk;                                                       // [rounds, keys]

  // Slots that are loaded; no keys and no queries at the beginning of a run.
  Index key_begin = 0, num_keys = 0;
  Index query_begin = 0, num_queries = 0;
  Scalar* query_rows = nullptr;  // [queries, width]: `queries`, or rows of `keys`
};

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

/// Moves the window of keys to those of the block: what stays is moved to the front, what is new
/// is gathered.
/// @return the number of keys that stayed
template <typename Scalar>
Index load_keys(const AttentionHead<Scalar>& head, const Block& block, BlockTiles<Scalar>& tiles) {
  const Index gone = block.key_begin - tiles.key_begin;
  const Index kept = gone >= 0 ? std::clamp<Index>(tiles.num_keys - gone, 0, block.num_keys) : 0;
  if (kept > 0 && gone > 0) {
    for (Scalar* rows : {tiles.keys, tiles.values}) {
      simd::copy(kept * tiles.width_stride, rows + gone * tiles.width_stride, rows);
    }
    simd::copy(kept, tiles.key_position + gone, tiles.key_position);
    simd::copy(kept, tiles.key_scale + gone, tiles.key_scale);
  }
  tiles.key_begin = block.key_begin;
  tiles.num_keys = block.num_keys;

  const auto constant_scale =
      static_cast<Scalar>(1 / std::sqrt(static_cast<double>(head.key.columns)));
  for (Index j = kept; j < block.num_keys; ++j) {
    const Index t = head.position(block.key_begin + j);
    tiles.key_position[j] = static_cast<Scalar>(t);
    tiles.key_scale[j] = head.key_scale != nullptr ? head.key_scale[t] : constant_scale;
  }
  const auto key_at = [&](Index j) { return head.position(block.key_begin + kept + j); };
  const Index start = kept * tiles.width_stride, count = block.num_keys - kept;
  gather_rows(head.key, count, tiles.width_stride, key_at, tiles.keys + start);
  gather_rows(head.value, count, tiles.width_stride, key_at, tiles.values + start);
  return kept;
}

/// Positions, running values and rows of the block's queries, unless they are there.
/// @return whether they were not
template <typename Scalar>
bool load_queries(const AttentionHead<Scalar>& head, const Block& block,
                  BlockTiles<Scalar>& tiles) {
  const auto query_at = [&](Index i) { return head.position(block.query_begin + i); };
  const Index offset = block.query_begin - block.key_begin;
  // Queries that are keys of the block are not gathered twice.
  const bool among_keys =
      head.shared && offset >= 0 && offset + block.num_queries <= block.num_keys;
  tiles.query_rows = among_keys ? tiles.keys + offset * tiles.width_stride : tiles.queries;
  if (tiles.query_begin == block.query_begin && tiles.num_queries == block.num_queries) {
    return false;
  }
  tiles.query_begin = block.query_begin;
  tiles.num_queries = block.num_queries;
  // Lanes beyond the last query get values that stay finite: sums over vectors run through them.
  for (Index i = 0; i < tiles.query_stride; ++i) {
    const bool inside = i < block.num_queries;
    const Index t = inside ? query_at(i) : 0;
    tiles.query_position[i] = inside ? static_cast<Scalar>(t) : Scalar(-1);
    tiles.maximum[i] = inside ? head.maximum[t] : Scalar(0);
    tiles.normaliser[i] = inside ? head.normaliser[t] : Scalar(0);
  }
  if (!among_keys) {
    gather_rows(head.query, block.num_queries, tiles.width_stride, query_at, tiles.queries);
  }
  transpose<Scalar>({tiles.query_rows, block.num_queries, head.query.columns, tiles.width_stride},
                    tiles.queries_turned, tiles.query_stride);
  return true;
}

/// Chunks of the block's keys, and those that its queries see, in all rounds.
template <typename Scalar>
void load_places(const AttentionHead<Scalar>& head, const Block& block, BlockTiles<Scalar>& tiles) {
  const ChunkPlaces& places = head.places;
  for (Index r = 0; r < places.rounds; ++r) {
    const std::int32_t* chunk = places.chunk + r * places.tokens;
    for (Index j = 0; j < block.num_keys; ++j) {
      tiles.key_chunk[r * tiles.key_stride + j] =
          static_cast<Scalar>(chunk[head.position(block.key_begin + j)]);
    }
    for (Index i = 0; i < tiles.query_stride; ++i) {
      // Lanes beyond the last query see every chunk, so that nothing is divided by 0.
      const bool inside = i < block.num_queries;
      const Index c = inside ? chunk[head.position(block.query_begin + i)] : 0;
      const Index place = r * tiles.query_stride + i;
      tiles.first_seen[place] =
          inside ? static_cast<Scalar>(places.first[r * places.stride + c]) : Scalar(-1);
      tiles.last_seen[place] = inside ? static_cast<Scalar>(places.last[r * places.stride + c])
                                      : std::numeric_limits<Scalar>::max();
    }
  }
}

/// In how many rounds a vector of queries, from lane i on, sees key j.
template <typename Scalar>
simd::Packet<Scalar> times_seen(const BlockTiles<Scalar>& tiles, Index rounds, Index i, Index j) {
  namespace e = Eigen::internal;
  const auto none = simd::set(Scalar(0)), once = simd::set(Scalar(1));
  auto times = none;
  for (Index r = 0; r < rounds; ++r) {
    const auto chunk = simd::set(tiles.key_chunk[r * tiles.key_stride + j]);
    const auto first = simd::load(tiles.first_seen + r * tiles.query_stride + i);
    const auto last = simd::load(tiles.last_seen + r * tiles.query_stride + i);
    const auto not_after = e::pselect(e::pcmp_lt(last, chunk), none, once);
    times = e::padd(times, e::pselect(e::pcmp_lt(chunk, first), none, not_after));
  }
  return times;
}

/// What the block's queries see, after keys and queries are loaded.
template <typename Scalar>
Staircase staircase_of(const AttentionHead<Scalar>& head, const Block& block,
                       const BlockTiles<Scalar>& tiles) {
  return {tiles.query_position, block.num_queries, tiles.key_position,
          block.num_keys,       head.causal,       head.is_real == nullptr};
}

/// scores `[keys, queries]` = <k_j, q_i>, not scaled or masked yet; only what is seen.
template <typename Scalar>
void raw_scores(const Scalar* keys, const Scalar* queries_turned, const Staircase& stairs,
                Index head_width, const BlockTiles<Scalar>& tiles, Scalar* scores) {
  const Index together = stairs.strips_in(panel_width<Scalar>);
  for (Index s = 0; s < stairs.num_strips(); s += together) {
    const Index last = std::min(s + together, stairs.num_strips()) - 1;
    const Index i = stairs.strip_begin(s);
    const Index columns = BlockTiles<Scalar>::padded(stairs.strip_end(last)) - i;
    for (Index g = 0; g < stairs.num_runs(); ++g) {
      const Index j = stairs.run_begin(g);
      multiply(rows_as_left(keys + j * tiles.width_stride, tiles.width_stride),
               rows_as_right(queries_turned + i, tiles.query_stride), head_width,
               MatrixView<Scalar>{scores + j * tiles.query_stride + i, stairs.seen_end(g, last) - j,
                                  columns, tiles.query_stride});
    }
  }
}

/// out rows of strip s of the queries = or += sum_j w_ji x_j, over the keys that the strip sees.
/// @param weights  `[keys, queries]`
/// @param x        `[keys, width]`
template <typename Scalar>
void sum_over_keys(const Scalar* weights, const Scalar* x, const Staircase& stairs,
                   Index head_width, const BlockTiles<Scalar>& tiles, Scalar* out, Write write) {
  for (Index s = 0; s < stairs.num_strips(); ++s) {
    const Index i = stairs.strip_begin(s), rows = stairs.strip_end(s) - i;
    for (Index g = 0; g < stairs.num_runs(); ++g) {
      const Index j = stairs.run_begin(g);
      multiply(
          columns_as_left(weights + j * tiles.query_stride + i, tiles.query_stride),
          rows_as_right(x + j * tiles.width_stride, tiles.width_stride), stairs.seen_end(g, s) - j,
          MatrixView<Scalar>{out + i * tiles.width_stride, rows, head_width, tiles.width_stride},
          g > 0 ? Write::accumulate : write);
    }
  }
}

/// out row j of the keys += sum_i w_ji x_i, over the queries that see the key.
/// @param weights  `[keys, queries]`
/// @param x        `[queries, width]`
template <typename Scalar>
void sum_over_queries(const Scalar* weights, const Scalar* x, const Staircase& stairs,
                      Index num_queries, Index head_width, const BlockTiles<Scalar>& tiles,
                      Scalar* out) {
  stairs.for_each_step([&](Index first, Index last, Index, Index s) {
    const Index i = stairs.strip_begin(s);
    multiply(rows_as_left(weights + first * tiles.query_stride + i, tiles.query_stride),
             rows_as_right(x + i * tiles.width_stride, tiles.width_stride), num_queries - i,
             MatrixView<Scalar>{out + first * tiles.width_stride, last - first, head_width,
                                tiles.width_stride},
             Write::accumulate);
  });
}

/// Scales and masks the vector of scores of key j with queries at `position`.
/// Returns -inf for pairs that do not exist.
template <typename Scalar>
simd::Packet<Scalar> masked_score(const AttentionHead<Scalar>& head,
                                  const BlockTiles<Scalar>& tiles, Index j, bool real,
                                  const simd::Packet<Scalar>& raw,
                                  const simd::Packet<Scalar>& position) {
  namespace e = Eigen::internal;
  const auto key_position = simd::set(tiles.key_position[j]);
  const auto excluded = simd::set(-std::numeric_limits<Scalar>::infinity());
  auto s = e::pmul(raw, simd::set(tiles.key_scale[j]));
  if (!real) s = excluded;
  if (head.causal) s = e::pselect(e::pcmp_lt(position, key_position), excluded, s);
  if (head.shared) {
    s = e::pselect(e::pcmp_eq(position, key_position), simd::set(static_cast<Scalar>(self_score)),
                   s);
  }
  return s;
}

template <typename Scalar>
bool key_is_real(const AttentionHead<Scalar>& head, const BlockTiles<Scalar>& tiles, Index j) {
  return head.is_real == nullptr || head.is_real[static_cast<Index>(tiles.key_position[j])] != 0;
}

/// Number of the first dropout element of key j's row of scores.
template <typename Scalar>
std::uint64_t dropout_row(const AttentionHead<Scalar>& head, const Block& block, Index j) {
  return ((head.first_block + static_cast<std::uint64_t>(block.id)) << 32) +
         static_cast<std::uint64_t>(j * round_up(block.num_queries, 8));
}

/// Softmax of the vector of queries from lane i on, in strip s: scores become exp(s - m), and
/// maximum, normaliser and the factor of what was summed before are brought up to date.
template <typename Scalar>
void soften(const AttentionHead<Scalar>& head, const Staircase& stairs, Index s, Index i,
            BlockTiles<Scalar>& tiles) {
  namespace e = Eigen::internal;
  const auto position = simd::load(tiles.query_position + i);
  const auto old_maximum = simd::load(tiles.maximum + i);
  auto maximum = old_maximum;
  const auto place = [&](Index j) { return tiles.scores + j * tiles.query_stride + i; };
  for (Index g = 0; g < stairs.num_runs(); ++g) {
    Index j = stairs.run_begin(g);
    for (; j < stairs.earlier_end(g, s); ++j) {
      const auto score = e::pmul(simd::load(place(j)), simd::set(tiles.key_scale[j]));
      simd::store(place(j), score);
      maximum = e::pmax(maximum, score);
    }
    for (; j < stairs.seen_end(g, s); ++j) {
      const auto score =
          masked_score(head, tiles, j, key_is_real(head, tiles, j), simd::load(place(j)), position);
      simd::store(place(j), score);
      maximum = e::pmax(maximum, score);
    }
  }
  auto sum = simd::set(Scalar(0));
  for (Index g = 0; g < stairs.num_runs(); ++g) {
    for (Index j = stairs.run_begin(g); j < stairs.seen_end(g, s); ++j) {
      auto p = simd::exp_or_zero<Scalar>(e::psub(simd::load(place(j)), maximum));
      if (head.places.rounds > 0) p = e::pdiv(p, times_seen(tiles, head.places.rounds, i, j));
      simd::store(place(j), p);
      sum = e::padd(sum, p);
    }
  }
  const auto rescale = simd::exp_or_zero<Scalar>(e::psub(old_maximum, maximum));
  simd::store(tiles.rescale + i, rescale);
  simd::store(tiles.maximum + i, maximum);
  simd::store(tiles.normaliser + i, e::pmadd(simd::load(tiles.normaliser + i), rescale, sum));
}

}  // namespace detail

namespace detail {

/// Merges one block into the running softmax of its queries.
template <typename Scalar>
[[gnu::noinline]] void attend_block(const AttentionHead<Scalar>& head, const Block& block,
                                    const Dropout<Scalar>& dropout, BlockTiles<Scalar>& tiles) {
  namespace e = Eigen::internal;
  constexpr Index W = simd::width<Scalar>;
  const Index K = head.query.columns;
  load_keys(head, block, tiles);
  load_queries(head, block, tiles);
  load_places(head, block, tiles);
  const Staircase stairs = staircase_of(head, block, tiles);
  raw_scores(tiles.keys, tiles.queries_turned, stairs, K, tiles, tiles.scores);

  for (Index s = 0; s < stairs.num_strips(); ++s) {
    for (Index i = stairs.strip_begin(s); i < stairs.strip_end(s); i += W) {
      soften(head, stairs, s, i, tiles);
    }
  }
  if (dropout.active()) {
    stairs.for_each_step([&](Index first, Index last, Index, Index s) {
      const Index i = stairs.strip_begin(s);
      for (Index j = first; j < last; ++j) {
        dropout.apply(dropout_row(head, block, j) + static_cast<std::uint64_t>(i),
                      block.num_queries - i, tiles.scores + j * tiles.query_stride + i);
      }
    });
  }
  sum_over_keys(tiles.scores, tiles.values, stairs, K, tiles, tiles.query_tile, Write::assign);

  for (Index i = 0; i < block.num_queries; ++i) {
    const Index t = head.position(block.query_begin + i);
    const auto rescale = simd::set(tiles.rescale[i]);
    simd::update(K, tiles.query_tile + i * tiles.width_stride, head.out.row(t),
                 [&](const auto& o, const auto& sum) { return e::pmadd(sum, rescale, o); });
    head.maximum[t] = tiles.maximum[i];
    head.normaliser[t] = tiles.normaliser[i];
  }
}

/// out rows of x `[count, columns]` are added to rows position(i) of out.
template <typename Scalar, typename Position>
void scatter_add_rows(const Scalar* x, Index x_stride, Index count, const Position& position,
                      const MatrixView<Scalar>& out) {
  for (Index i = 0; i < count; ++i) simd::add(out.columns, x + i * x_stride, out.row(position(i)));
}

/// Adds the gradients of the first `count` keys of the window to their rows.
template <typename Scalar>
void store_key_gradients(const AttentionHead<Scalar>& head,
                         const AttentionHeadGradient<Scalar>& gradient, Index count,
                         const BlockTiles<Scalar>& tiles) {
  const auto key_at = [&](Index j) { return head.position(tiles.key_begin + j); };
  scatter_add_rows(tiles.dkeys, tiles.width_stride, count, key_at, gradient.dkey);
  scatter_add_rows(tiles.dvalues, tiles.width_stride, count, key_at, gradient.dvalue);
}

/// P and dS c of key j in place of S and dP, and `score_dot` = sum_i dS_ij s_ij.
/// @param begin     first query that may see the key
/// @param unmasked  first query that needs no mask
template <typename Scalar>
void differentiate_softmax(const AttentionHead<Scalar>& head, const Block& block,
                           const Dropout<Scalar>& dropout, Index begin, Index unmasked, Index j,
                           BlockTiles<Scalar>& tiles) {
  namespace e = Eigen::internal;
  constexpr Index W = simd::width<Scalar>;
  const Index nq = block.num_queries;
  const bool real = key_is_real(head, tiles, j);
  const auto zero = simd::set(Scalar(0));
  const auto scale = simd::set(tiles.key_scale[j]);
  const auto key_position = simd::set(tiles.key_position[j]);
  Scalar* p_row = tiles.scores + j * tiles.query_stride;
  Scalar* d_row = tiles.dscores + j * tiles.query_stride;
  if (dropout.active()) {
    std::fill(tiles.mask + begin, tiles.mask + tiles.query_stride, Scalar(1));
    dropout.apply(dropout_row(head, block, j) + static_cast<std::uint64_t>(begin), nq - begin,
                  tiles.mask + begin);
  }
  auto dot = zero;
  const auto differentiate = [&](Index i, auto masked) {
    const auto position = simd::load(tiles.query_position + i);
    const auto raw = simd::load(p_row + i);
    auto s_i = e::pmul(raw, scale);
    if constexpr (masked) s_i = masked_score(head, tiles, j, real, raw, position);
    auto p = e::pmul(simd::exp_or_zero<Scalar>(e::psub(s_i, simd::load(tiles.maximum + i))),
                     simd::load(tiles.normaliser + i));
    if (head.places.rounds > 0) p = e::pdiv(p, times_seen(tiles, head.places.rounds, i, j));
    auto dp = simd::load(d_row + i);
    if (dropout.active()) dp = e::pmul(dp, simd::load(tiles.mask + i));
    auto ds = e::pmul(p, e::psub(dp, simd::load(tiles.delta + i)));
    if constexpr (masked) {
      // The score of a pair that does not exist, or of a token with itself, is a constant.
      if (head.shared) ds = e::pselect(e::pcmp_eq(position, key_position), zero, ds);
      s_i = e::pselect(e::pcmp_eq(p, zero), zero, s_i);
    }
    dot = e::pmadd(ds, s_i, dot);
    if (dropout.active()) p = e::pmul(p, simd::load(tiles.mask + i));
    simd::store(p_row + i, p);
    simd::store(d_row + i, e::pmul(ds, scale));
  };
  Index i = begin;
  for (; i < unmasked; i += W) differentiate(i, std::true_type{});
  for (; i < nq; i += W) differentiate(i, std::false_type{});
  tiles.score_dot[j] = e::predux(dot);
}

/// Adds one block's part of the gradients: those of the queries to their rows, those of the keys to
/// the window's, which go to their rows when the keys leave it.
template <typename Scalar>
[[gnu::noinline]] void attend_block_backward(const AttentionHead<Scalar>& head,
                                             const AttentionHeadGradient<Scalar>& gradient,
                                             const Block& block, const Dropout<Scalar>& dropout,
                                             BlockTiles<Scalar>& tiles) {
  const Index K = head.query.columns, w = tiles.width_stride;
  const Index nq = block.num_queries, nk = block.num_keys;
  const auto query_at = [&](Index i) { return head.position(block.query_begin + i); };

  const Index step = block.key_begin - tiles.key_begin;
  const Index gone = step >= 0 ? std::min(step, tiles.num_keys) : tiles.num_keys;
  store_key_gradients(head, gradient, gone, tiles);
  const Index kept = load_keys(head, block, tiles);
  for (Scalar* rows : {tiles.dkeys, tiles.dvalues}) {
    if (gone > 0) simd::copy(kept * w, rows + gone * w, rows);
    std::fill(rows + kept * w, rows + nk * w, Scalar(0));
  }
  if (load_queries(head, block, tiles)) {
    gather_rows(gradient.dout, nq, w, query_at, tiles.douts);
    transpose<Scalar>({tiles.douts, nq, K, w}, tiles.douts_turned, tiles.query_stride);
    for (Index i = 0; i < tiles.query_stride; ++i) {
      tiles.delta[i] = i < nq ? gradient.delta[query_at(i)] : Scalar(0);
    }
  }
  load_places(head, block, tiles);
  const Staircase stairs = staircase_of(head, block, tiles);
  // S = k q^T and dP = v do^T, both [keys, queries]
  raw_scores(tiles.keys, tiles.queries_turned, stairs, K, tiles, tiles.scores);
  raw_scores(tiles.values, tiles.douts_turned, stairs, K, tiles, tiles.dscores);

  // P and dS c in their places
  stairs.for_each_step([&](Index first, Index last, Index g, Index s) {
    const Index begin = stairs.strip_begin(s);
    const Index masked_end = head.is_real != nullptr ? nq : stairs.strip_end(s);
    for (Index j = first; j < last; ++j) {
      const Index unmasked = j < stairs.earlier_end(g, s) ? begin : masked_end;
      differentiate_softmax(head, block, dropout, begin, unmasked, j, tiles);
    }
  });

  // dv += P^T do
  sum_over_queries(tiles.scores, tiles.douts, stairs, nq, K, tiles, tiles.dvalues);
  // dk_j += sum_i dS_ij c_j q_i - c_j^2 (sum_i dS_ij s_ij) k_j
  sum_over_queries(tiles.dscores, tiles.query_rows, stairs, nq, K, tiles, tiles.dkeys);
  if (head.shared) {
    stairs.for_each_step([&](Index first, Index last, Index, Index) {
      for (Index j = first; j < last; ++j) {
        const Scalar c = tiles.key_scale[j];
        simd::add_scaled(K, -c * c * tiles.score_dot[j], tiles.keys + j * w, tiles.dkeys + j * w);
      }
    });
  }
  // dq += (dS c) k
  if (tiles.query_rows != tiles.queries) {  // the queries are keys of the window
    Scalar* dqueries = tiles.dkeys + (tiles.query_rows - tiles.keys);
    sum_over_keys(tiles.dscores, tiles.keys, stairs, K, tiles, dqueries, Write::accumulate);
  } else {
    sum_over_keys(tiles.dscores, tiles.keys, stairs, K, tiles, tiles.query_tile, Write::assign);
    scatter_add_rows(tiles.query_tile, w, nq, query_at, gradient.dquery);
  }
}

}  // namespace detail

/// Merges a run of blocks, one after another, into the running softmax of their queries.
template <typename Scalar, BlockList List>
void attend_run(const AttentionHead<Scalar>& head, const List& list, const Run& run,
                const Dropout<Scalar>& dropout, detail::BlockTiles<Scalar>& tiles) {
  for (Index i = 0; i < run.count; ++i) {
    detail::attend_block(head, list.block(run.first + i), dropout, tiles);
  }
}

/// Adds a run's part of the gradients.
template <typename Scalar, BlockList List>
void attend_run_backward(const AttentionHead<Scalar>& head,
                         const AttentionHeadGradient<Scalar>& gradient, const List& list,
                         const Run& run, const Dropout<Scalar>& dropout,
                         detail::BlockTiles<Scalar>& tiles) {
  for (Index i = 0; i < run.count; ++i) {
    detail::attend_block_backward(head, gradient, list.block(run.first + i), dropout, tiles);
  }
  detail::store_key_gradients(head, gradient, tiles.num_keys, tiles);
}

}  // namespace reformer
