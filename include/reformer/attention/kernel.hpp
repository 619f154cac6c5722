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
/// queries have to be turned. Pairs that causality hides are left out, by strips of queries: see
/// staircase.hpp.
///
/// Products are in the precision of the pass, whose operands are scores' weights exp(s - m) or P
/// and dS c as well as rows. All else is in the arithmetic of the arrays.
///
/// Backward, with delta_i = <do_i, o_i>:
///
///     P_ij = exp(s_ij - z_i),  dP = do v^T,  dS = P (dP - delta),  dv += P^T do,  dq += (dS c) k,
///     dk_j += sum_i dS_ij c_j q_i  - c_j^2 (sum_i dS_ij s_ij) k_j          (the last term for unit
///     keys only)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "reformer/attention/staircase.hpp"
#include "reformer/attention/tiles.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/products/block_product.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Score of a token with itself when queries and keys are shared: below every real score, above
/// exclusion, and the value that Google's weights were trained with.
inline constexpr double self_score = -1e5;

/// Keeps the length of a zero key positive.
inline constexpr double key_epsilon = 1e-6;

/// In how many rounds a vector of queries, from lane i on, sees key j.
template <typename Scalar>
simd::Packet<Scalar> times_seen(const BlockTiles<Scalar>& tiles, Index rounds, Index i, Index j) {
  namespace e = Eigen::internal;
  const auto none = simd::set(Scalar(0)), once = simd::set(Scalar(1));
  auto times = none;
  for (Index r = 0; r < rounds; ++r) {
    const auto chunk = simd::set(tiles.key.chunk[r * tiles.key_stride + j]);
    const auto first = simd::load(tiles.query.first_seen + r * tiles.query_stride + i);
    const auto last = simd::load(tiles.query.last_seen + r * tiles.query_stride + i);
    const auto not_after = e::pselect(e::pcmp_lt(last, chunk), none, once);
    times = e::padd(times, e::pselect(e::pcmp_lt(chunk, first), none, not_after));
  }
  return times;
}

/// What the block's queries see, after keys and queries are loaded.
template <typename Scalar, ProductKernel Kernel>
Staircase staircase_of(const AttentionHead<Scalar>& head, const Block& block,
                       const BlockTiles<Scalar>& tiles, const BlockOperands<Kernel>& operands) {
  return {tiles.query.position, block.num_queries, tiles.key.position,      block.num_keys,
          head.causal,          head.sees_itself,  head.is_real == nullptr, operands.grain()};
}

/// scores `[keys, queries]` = <k_j, q_i>, not scaled or masked yet; only what is seen.
/// @param turned  which queries
template <typename Scalar, ProductKernel Kernel>
void raw_scores(const Scalar* keys, Turned turned, const Staircase& stairs, Index num_keys,
                Index head_width, BlockTiles<Scalar>& tiles, const BlockOperands<Kernel>& operands,
                Scalar* scores) {
  const auto left =
      operands.left({keys, num_keys, head_width, tiles.width_stride}, Orientation::natural);
  const auto& right = operands.turned(turned);
  const Index together = stairs.strips_in(operands.columns_together());
  for (Index s = 0; s < stairs.num_strips(); s += together) {
    const Index last = std::min(s + together, stairs.num_strips()) - 1;
    const Index i = stairs.strip_begin(s);
    const Index columns = BlockTiles<Scalar>::padded(stairs.strip_end(last)) - i;
    for (Index g = 0; g < stairs.num_runs(); ++g) {
      const Index j = stairs.run_begin(g);
      tiles.ahead.fetch_some();
      operands.multiply(left.from(j, 0), right.from(0, i), head_width,
                        {scores + j * tiles.query_stride + i, stairs.seen_end(g, last) - j, columns,
                         tiles.query_stride},
                        Write::assign);
    }
  }
}

/// Clears the weights of what a strip does not see and the last strip of its group does.
/// @param weights  `[keys, queries]`
template <typename Scalar>
void clear_unseen(const Staircase& stairs, Index stride, Scalar* weights) {
  for (Index s = 0; s < stairs.num_strips(); ++s) {
    const Index i = stairs.strip_begin(s), columns = stairs.strip_end(s) - i;
    for (Index g = 0; g < stairs.num_runs(); ++g) {
      const Index end = stairs.seen_end(g, stairs.last_of_group(s));
      for (Index j = stairs.seen_end(g, s); j < end; ++j) {
        std::fill_n(weights + j * stride + i, columns, Scalar(0));
      }
    }
  }
}

/// out row i of the queries = or += sum_j w_ji x_j, over the keys that its group of strips sees,
/// run after run: what an element is the sum of begins where a run does, wherever the block begins.
/// @param weights  `[keys, queries]`
/// @param x        `[keys, width]`
template <typename Scalar, ProductKernel Kernel>
void sum_over_keys(const Scalar* weights, const Scalar* x, const Staircase& stairs,
                   Index head_width, const BlockTiles<Scalar>& tiles,
                   const BlockOperands<Kernel>& operands, Scalar* out, Write write) {
  for (Index g = 0; g < stairs.num_runs(); ++g) {
    const Index j = stairs.run_begin(g), seen = stairs.seen_end(g, stairs.num_strips() - 1) - j;
    const auto right =
        operands.right({x + j * tiles.width_stride, seen, head_width, tiles.width_stride});
    for (Index s = 0; s < stairs.num_strips(); s = stairs.last_of_group(s) + 1) {
      const Index i = stairs.strip_begin(s), last = stairs.last_of_group(s);
      const Index rows = stairs.strip_end(last) - i, depth = stairs.seen_end(g, last) - j;
      const auto left =
          operands.left({weights + j * tiles.query_stride + i, depth, rows, tiles.query_stride},
                        Orientation::transposed);
      operands.multiply(left, right, depth,
                        {out + i * tiles.width_stride, rows, head_width, tiles.width_stride},
                        g > 0 ? Write::accumulate : write);
    }
  }
}

/// The weighted sums of values where some are not finite: a query that does not see a key must not
/// get 0 x NaN from its value. What is not finite is left out of the products and added to those
/// queries alone that give it a weight.
template <typename Scalar, ProductKernel Kernel>
void sum_over_seen_keys(const Staircase& stairs, Index head_width, BlockTiles<Scalar>& tiles,
                        const BlockOperands<Kernel>& operands) {
  // What a precision of fewer digits rounds to infinity is not finite either.
  const auto is_finite = [](Scalar x) { return std::isfinite(x * Scalar(1 + 0x1p-8)); };
  Scalar* finite = tiles.key.value_gradients;  // not used forward
  std::transform(tiles.key.values, tiles.key.values + tiles.num_keys * tiles.width_stride, finite,
                 [&](Scalar x) { return is_finite(x) ? x : Scalar(0); });
  sum_over_keys(tiles.scores, finite, stairs, head_width, tiles, operands, tiles.query.sums,
                Write::assign);
  stairs.for_each_step([&](Index first, Index last, Index, Index s) {
    for (Index j = first; j < last; ++j) {
      const Scalar* value = tiles.key.values + j * tiles.width_stride;
      for (Index k = 0; k < head_width; ++k) {
        if (is_finite(value[k])) continue;
        for (Index i = stairs.strip_begin(s); i < tiles.num_queries; ++i) {
          const Scalar weight = tiles.scores[j * tiles.query_stride + i];
          if (weight != 0) tiles.query.sums[i * tiles.width_stride + k] += weight * value[k];
        }
      }
    }
  });
}

/// out row j of the keys += sum_i w_ji x_i, over the queries of the groups of strips that see it.
/// @param weights  `[keys, queries]`
/// @param x        `[queries, width]`
template <typename Scalar, ProductKernel Kernel>
void sum_over_queries(const Scalar* weights, const Scalar* x, const Staircase& stairs,
                      const Block& block, Index head_width, BlockTiles<Scalar>& tiles,
                      const BlockOperands<Kernel>& operands, Scalar* out) {
  const auto right = operands.right({x, block.num_queries, head_width, tiles.width_stride});
  stairs.for_each_group_step([&](Index first, Index last, Index, Index s) {
    const Index i = stairs.strip_begin(s), depth = block.num_queries - i;
    tiles.ahead.fetch_some();
    const auto left = operands.left(
        {weights + first * tiles.query_stride + i, last - first, depth, tiles.query_stride},
        Orientation::natural);
    operands.multiply(
        left, right.from(i, 0), depth,
        {out + first * tiles.width_stride, last - first, head_width, tiles.width_stride},
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
  const auto key_position = simd::set(tiles.key.position[j]);
  const auto excluded = simd::set(-std::numeric_limits<Scalar>::infinity());
  auto s = e::pmul(raw, simd::set(tiles.key.scale[j]));
  if (!real) s = excluded;
  if (head.causal) s = e::pselect(e::pcmp_lt(position, key_position), excluded, s);
  if (head.shared || !head.sees_itself) {
    const auto own = head.sees_itself ? simd::set(static_cast<Scalar>(self_score)) : excluded;
    s = e::pselect(e::pcmp_eq(position, key_position), own, s);
  }
  return s;
}

template <typename Scalar>
bool key_is_real(const AttentionHead<Scalar>& head, const BlockTiles<Scalar>& tiles, Index j) {
  return head.is_real == nullptr || head.is_real[static_cast<Index>(tiles.key.position[j])] != 0;
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
void update_softmax(const AttentionHead<Scalar>& head, const Staircase& stairs, Index s, Index i,
                    BlockTiles<Scalar>& tiles) {
  namespace e = Eigen::internal;
  const auto position = simd::load(tiles.query.position + i);
  const auto old_maximum = simd::load(tiles.query.maximum + i);
  auto maximum = old_maximum;
  const auto place = [&](Index j) { return tiles.scores + j * tiles.query_stride + i; };
  for (Index g = 0; g < stairs.num_runs(); ++g) {
    Index j = stairs.run_begin(g);
    for (; j < stairs.earlier_end(g, s); ++j) {
      const auto score = e::pmul(simd::load(place(j)), simd::set(tiles.key.scale[j]));
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
  simd::store(tiles.query.rescale + i, rescale);
  simd::store(tiles.query.maximum + i, maximum);
  simd::store(tiles.query.normaliser + i,
              e::pmadd(simd::load(tiles.query.normaliser + i), rescale, sum));
}

/// Merges one block into the running softmax of its queries.
template <typename Scalar, ProductKernel Kernel>
REFORMER_COMPILED_ONCE void attend_block(const AttentionHead<Scalar>& head, const Block& block,
                                         const Dropout<Scalar>& dropout, BlockTiles<Scalar>& tiles,
                                         BlockOperands<Kernel>& operands) {
  namespace e = Eigen::internal;
  constexpr Index W = simd::width<Scalar>;
  const Index K = head.query.columns;
  load_keys(head, block, tiles);
  load_queries(head, block, tiles, operands);
  load_places(head, block, tiles);
  const Staircase stairs = staircase_of(head, block, tiles, operands);
  raw_scores(tiles.key.rows, turned_queries, stairs, block.num_keys, K, tiles, operands,
             tiles.scores);

  for (Index s = 0; s < stairs.num_strips(); ++s) {
    for (Index i = stairs.strip_begin(s); i < stairs.strip_end(s); i += W) {
      tiles.ahead.fetch_some();
      update_softmax(head, stairs, s, i, tiles);
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
  clear_unseen(stairs, tiles.query_stride, tiles.scores);
  if (tiles.all_finite) {
    sum_over_keys(tiles.scores, tiles.key.values, stairs, K, tiles, operands, tiles.query.sums,
                  Write::assign);
  } else {
    sum_over_seen_keys(stairs, K, tiles, operands);
  }

  for (Index i = 0; i < block.num_queries; ++i) {
    const Index t = head.position(block.query_begin + i);
    const auto rescale = simd::set(tiles.query.rescale[i]);
    simd::update(K, tiles.query.sums + i * tiles.width_stride, head.out.row(t),
                 [&](const auto& o, const auto& sum) { return e::pmadd(sum, rescale, o); });
    head.maximum[t] = tiles.query.maximum[i];
    head.normaliser[t] = tiles.query.normaliser[i];
  }
}

/// Adds the gradients of the first `count` keys of the window to their rows.
template <typename Scalar>
void store_key_gradients(const AttentionHead<Scalar>& head,
                         const AttentionHeadGradient<Scalar>& gradient, Index count,
                         const BlockTiles<Scalar>& tiles) {
  const auto key_at = [&](Index j) { return head.position(tiles.key_begin + j); };
  scatter_add_rows(tiles.key.gradients, tiles.width_stride, count, key_at, gradient.dkey);
  scatter_add_rows(tiles.key.value_gradients, tiles.width_stride, count, key_at, gradient.dvalue);
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
  const auto scale = simd::set(tiles.key.scale[j]);
  const auto key_position = simd::set(tiles.key.position[j]);
  Scalar* p_row = tiles.scores + j * tiles.query_stride;
  Scalar* d_row = tiles.dscores + j * tiles.query_stride;
  if (dropout.active()) {
    std::fill(tiles.query.mask + begin, tiles.query.mask + tiles.query_stride, Scalar(1));
    dropout.apply(dropout_row(head, block, j) + static_cast<std::uint64_t>(begin), nq - begin,
                  tiles.query.mask + begin);
  }
  auto dot = zero;
  const auto differentiate = [&](Index i, auto masked) {
    const auto position = simd::load(tiles.query.position + i);
    const auto raw = simd::load(p_row + i);
    auto s_i = masked ? masked_score(head, tiles, j, real, raw, position) : e::pmul(raw, scale);
    auto p = e::pmul(simd::exp_or_zero<Scalar>(e::psub(s_i, simd::load(tiles.query.maximum + i))),
                     simd::load(tiles.query.normaliser + i));
    if (head.places.rounds > 0) p = e::pdiv(p, times_seen(tiles, head.places.rounds, i, j));
    auto dp = simd::load(d_row + i);
    if (dropout.active()) dp = e::pmul(dp, simd::load(tiles.query.mask + i));
    auto ds = e::pmul(p, e::psub(dp, simd::load(tiles.query.delta + i)));
    if constexpr (masked) {
      // The score of a pair that does not exist, or of a token with itself, is a constant.
      if (head.shared) ds = e::pselect(e::pcmp_eq(position, key_position), zero, ds);
      s_i = e::pselect(e::pcmp_eq(p, zero), zero, s_i);
    }
    dot = e::pmadd(ds, s_i, dot);
    if (dropout.active()) p = e::pmul(p, simd::load(tiles.query.mask + i));
    simd::store(p_row + i, p);
    simd::store(d_row + i, e::pmul(ds, scale));
  };
  Index i = begin;
  for (; i < unmasked; i += W) differentiate(i, std::true_type{});
  for (; i < nq; i += W) differentiate(i, std::false_type{});
  tiles.key.score_dot[j] = e::predux(dot);
}

/// Adds one block's part of the gradients: those of the queries to their rows, those of the keys to
/// the window's, which go to their rows when the keys leave it.
template <typename Scalar, ProductKernel Kernel>
REFORMER_COMPILED_ONCE void attend_block_backward(const AttentionHead<Scalar>& head,
                                                  const AttentionHeadGradient<Scalar>& gradient,
                                                  const Block& block,
                                                  const Dropout<Scalar>& dropout,
                                                  BlockTiles<Scalar>& tiles,
                                                  BlockOperands<Kernel>& operands) {
  const Index K = head.query.columns, w = tiles.width_stride;
  const Index nq = block.num_queries, nk = block.num_keys;
  const auto query_at = [&](Index i) { return head.position(block.query_begin + i); };

  const Index step = block.key_begin - tiles.key_begin;
  const Index gone = step >= 0 ? std::min(step, tiles.num_keys) : tiles.num_keys;
  store_key_gradients(head, gradient, gone, tiles);
  const Index kept = load_keys(head, block, tiles);
  for (Scalar* rows : {tiles.key.gradients, tiles.key.value_gradients}) {
    if (gone > 0) simd::copy(kept * w, rows + gone * w, rows);
    std::fill(rows + kept * w, rows + nk * w, Scalar(0));
  }
  if (load_queries(head, block, tiles, operands)) {
    gather_rows(head, gradient.dout, nq, w, query_at, tiles.query.douts);
    operands.turn(turned_douts, {tiles.query.douts, nq, K, w});
    for (Index i = 0; i < tiles.query_stride; ++i) {
      const bool inside = i < nq && head.is_usable(gradient.dout, query_at(i));
      tiles.query.delta[i] = inside ? gradient.delta[query_at(i)] : Scalar(0);
    }
  }
  load_places(head, block, tiles);
  const Staircase stairs = staircase_of(head, block, tiles, operands);
  // S = k q^T and dP = v do^T, both [keys, queries]
  raw_scores(tiles.key.rows, turned_queries, stairs, nk, K, tiles, operands, tiles.scores);
  raw_scores(tiles.key.values, turned_douts, stairs, nk, K, tiles, operands, tiles.dscores);

  // P and dS c in their places
  stairs.for_each_step([&](Index first, Index last, Index g, Index s) {
    const Index begin = stairs.strip_begin(s);
    const Index masked_end = head.is_real != nullptr ? nq : stairs.strip_end(s);
    for (Index j = first; j < last; ++j) {
      const Index unmasked = j < stairs.earlier_end(g, s) ? begin : masked_end;
      differentiate_softmax(head, block, dropout, begin, unmasked, j, tiles);
    }
  });

  clear_unseen(stairs, tiles.query_stride, tiles.scores);
  clear_unseen(stairs, tiles.query_stride, tiles.dscores);
  // dv += P^T do
  sum_over_queries(tiles.scores, tiles.query.douts, stairs, block, K, tiles, operands,
                   tiles.key.value_gradients);
  // dk_j += sum_i dS_ij c_j q_i - c_j^2 (sum_i dS_ij s_ij) k_j
  sum_over_queries(tiles.dscores, tiles.query_rows, stairs, block, K, tiles, operands,
                   tiles.key.gradients);
  if (head.shared) {
    stairs.for_each_step([&](Index first, Index last, Index, Index) {
      for (Index j = first; j < last; ++j) {
        const Scalar c = tiles.key.scale[j];
        simd::add_scaled(K, -c * c * tiles.key.score_dot[j], tiles.key.rows + j * w,
                         tiles.key.gradients + j * w);
      }
    });
  }
  // dq += (dS c) k
  if (tiles.query_rows != tiles.query.rows) {  // the queries are keys of the window
    Scalar* dqueries = tiles.key.gradients + (tiles.query_rows - tiles.key.rows);
    sum_over_keys(tiles.dscores, tiles.key.rows, stairs, K, tiles, operands, dqueries,
                  Write::accumulate);
  } else {
    sum_over_keys(tiles.dscores, tiles.key.rows, stairs, K, tiles, operands, tiles.query.sums,
                  Write::assign);
    scatter_add_rows(tiles.query.sums, w, nq, query_at, gradient.dquery);
  }
}

/// Merges a range of blocks, one after another, into the running softmax of their queries.
template <typename Scalar, BlockList List, ProductKernel Kernel>
void attend_range(const AttentionHead<Scalar>& head, const List& list, const BlockRange& range,
                  const Dropout<Scalar>& dropout, BlockTiles<Scalar>& tiles,
                  BlockOperands<Kernel>& operands) {
  for (Index i = 0; i < range.count; ++i) {
    const Block block = list.block(range.first + i);
    tiles.ahead = {};
    if (i + 1 < range.count) {
      tiles.ahead = rows_ahead<Scalar>(head, block, list.block(range.first + i + 1), head.out);
    }
    attend_block(head, block, dropout, tiles, operands);
  }
}

/// Adds a range's part of the gradients.
template <typename Scalar, BlockList List, ProductKernel Kernel>
void attend_range_backward(const AttentionHead<Scalar>& head,
                           const AttentionHeadGradient<Scalar>& gradient, const List& list,
                           const BlockRange& range, const Dropout<Scalar>& dropout,
                           BlockTiles<Scalar>& tiles, BlockOperands<Kernel>& operands) {
  for (Index i = 0; i < range.count; ++i) {
    const Block block = list.block(range.first + i);
    tiles.ahead = {};
    if (i + 1 < range.count) {
      const Block next = list.block(range.first + i + 1);
      tiles.ahead = rows_ahead<Scalar>(head, block, next, gradient.dout);
      // Keys that leave the window go to their rows.
      const Index last = std::min(next.key_begin, block.key_begin + block.num_keys);
      tiles.ahead.add(gradient.dkey, block.key_begin, last);
      tiles.ahead.add(gradient.dvalue, block.key_begin, last);
    }
    attend_block_backward(head, gradient, block, dropout, tiles, operands);
  }
  store_key_gradients(head, gradient, tiles.num_keys, tiles);
}

}  // namespace reformer::inline REFORMER_ABI::detail
