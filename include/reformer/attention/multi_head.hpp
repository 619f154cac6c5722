// SPDX-License-Identifier: MIT
/// @file
/// Attention of several heads and sequences over their block lists, between the projections.
#pragma once

#include <memory>
#include <numeric>
#include <span>

#include "reformer/attention/kernel.hpp"
#include "reformer/attention/pattern.hpp"

namespace reformer {

/// A group of heads of some sequences: the arrays are `[B*T, H*K]`, heads side by side.
template <typename Scalar>
struct MultiHead {
  const AttentionPattern* pattern;
  Index batch, length, heads, head_width;
  bool causal = true;
  std::span<const std::uint8_t> is_real = {};  // [B*T] or empty
  MatrixView<const Scalar> query, key, value;
  MatrixView<Scalar> out;
  // Statistics of each (sequence, head, position), `[B, H, T]`; see `AttentionHead`.
  Scalar *maximum, *normaliser, *key_scale;
  std::int32_t* order = nullptr;  // [B, H, R * slots of the sequence], room for T slots each
  // Dropout draws by the number of the head among all heads of the layer.
  Index first_sequence = 0, first_head = 0, all_heads = 1;

  Index rounds() const {
    const auto* lsh = detail::hashed(*pattern, length);
    return lsh != nullptr ? lsh->num_hashes : 1;
  }

  MatrixView<Scalar> part(const MatrixView<Scalar>& x, Index b, Index h) const {
    return x.middle_rows(b * length, length).middle_columns(h * head_width, head_width);
  }
  MatrixView<const Scalar> part(const MatrixView<const Scalar>& x, Index b, Index h) const {
    return x.middle_rows(b * length, length).middle_columns(h * head_width, head_width);
  }
};

namespace detail {

/// Slots of a round of sequence b: its tokens, without padding unless that is sorted too.
template <typename Scalar>
Index slots_of(const MultiHead<Scalar>& group, Index b) {
  if (group.is_real.empty() || sorts_padding(*group.pattern)) return group.length;
  const auto* real = group.is_real.data() + b * group.length;
  return std::accumulate(real, real + group.length, Index{0},
                         [](Index n, std::uint8_t r) { return n + (r != 0 ? 1 : 0); });
}

template <typename Scalar>
AttentionHead<Scalar> head_of(const MultiHead<Scalar>& group, Index slots, Index b, Index h,
                              Index max_blocks) {
  const Index T = group.length;
  const bool hashed_order = hashed(*group.pattern, T) != nullptr;
  AttentionHead<Scalar> head;
  head.query = group.part(group.query, b, h);
  head.key = group.part(group.key, b, h);
  head.value = group.part(group.value, b, h);
  head.out = group.part(group.out, b, h);
  const Index row = (b * group.heads + h) * T;
  head.maximum = group.maximum + row;
  head.normaliser = group.normaliser + row;
  head.shared = shares_query_key(*group.pattern);
  head.key_scale = head.shared ? group.key_scale + row : nullptr;
  head.order = hashed_order ? group.order + row * group.rounds() : nullptr;
  // Padding that is outside the order of a hashed head needs no mask.
  const bool left_out = hashed_order && !sorts_padding(*group.pattern);
  head.is_real = left_out || group.is_real.empty() ? nullptr : group.is_real.data() + b * T;
  head.first_block = static_cast<std::uint64_t>(
      ((group.first_sequence + b) * group.all_heads + group.first_head + h) * max_blocks);
  head.slots = slots;
  head.causal = group.causal;
  return head;
}

/// Calls `body(head, b, h, list, run, thread)` for all runs of all heads, phase by phase.
/// @param lists  one for each sequence, all with the same number of phases
template <BlockList List, typename Scalar, typename Body>
void for_each_run(Workspace& workspace, const MultiHead<Scalar>& group, std::span<const List> lists,
                  Index max_blocks, const Body& body) {
  for (Index phase = 0; phase < lists[0].num_phases(); ++phase) {
    Index most = 0;
    for (const List& list : lists) most = std::max(most, list.num_runs(phase));
    const Index all_heads = group.batch * group.heads;
    // Heads vary fastest where runs differ in length, so that the last ones to start are short.
    parallel_for(workspace.threads(), all_heads * most, [&](Index task, int thread) {
      const Index i = task / all_heads;
      const Index h = task % group.heads, b = task / group.heads % group.batch;
      const List& list = lists[static_cast<std::size_t>(b)];
      if (i >= list.num_runs(phase)) return;
      body(head_of(group, list.num_slots(), b, h, max_blocks), b, h, list, list.run(phase, i),
           thread);
    });
  }
}

/// Makes the block lists of the group's pattern and runs `body` over them.
template <typename Scalar, typename Body>
void for_each_run(Workspace& workspace, const MultiHead<Scalar>& group, Disjoint disjoint,
                  const Body& body) {
  Scratch scratch(workspace);
  const Index T = group.length;
  const auto batch = static_cast<std::size_t>(group.batch);
  const auto* lsh = hashed(*group.pattern, T);
  const auto* local = std::get_if<LocalPattern>(group.pattern);
  if (lsh != nullptr || local != nullptr) {
    Window window = lsh != nullptr ? window_of(*lsh) : window_of(*local);
    if (T <= window.chunk_length) window.circular = false;  // one chunk has no neighbours
    auto* lists = scratch.take<ChunkedBlocks>(group.batch);
    for (Index b = 0; b < group.batch; ++b) {
      const Index slots = lsh != nullptr ? slots_of(group, b) : T;
      std::construct_at(lists + b, slots, group.rounds(), window, disjoint);
    }
    for_each_run(workspace, group, std::span<const ChunkedBlocks>(lists, batch),
                 group.rounds() * ceil_div(T, window.chunk_length), body);
  } else {
    auto* lists = scratch.take<TiledBlocks>(group.batch);
    std::uninitialized_fill_n(lists, group.batch, TiledBlocks(T, group.causal, disjoint));
    const Index tiles = ceil_div(T, TiledBlocks::tile);
    for_each_run(workspace, group, std::span<const TiledBlocks>(lists, batch), tiles * tiles, body);
  }
}

/// Largest block of a pattern at a length.
struct BlockSize {
  Index queries, keys;

  BlockSize(const AttentionPattern& pattern, Index length) {
    if (const auto* lsh = hashed(pattern, length)) {
      queries = lsh->chunk_length;
      keys = window_of(*lsh).max_keys();
    } else if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
      queries = std::min(length, local->chunk_length);
      keys = window_of(*local).max_keys();
    } else {
      queries = keys = std::min(length, TiledBlocks::tile);
    }
  }
};

/// Scratch tiles of each thread, large enough for the group's blocks.
template <typename Scalar>
class ThreadTiles {
 public:
  ThreadTiles(Scratch& scratch, const MultiHead<Scalar>& group)
      : size_(*group.pattern, group.length),
        width_(group.head_width),
        memory_(scratch.per_thread<Scalar>(
            BlockTiles<Scalar>::size(size_.queries, size_.keys, width_))) {}

  BlockTiles<Scalar> operator[](int thread) const {
    return {memory_[thread], size_.queries, size_.keys, width_};
  }

 private:
  BlockSize size_;
  Index width_;
  PerThread<Scalar> memory_;
};

}  // namespace detail

/// Positions sorted by bucket, for every head and round of the group.
/// @param num_buckets  those whose tokens have a place in the order, see `num_sorted_buckets`
/// @param buckets      `[B, H, R, T]`
template <typename Scalar>
void order_by_bucket(Workspace& workspace, const MultiHead<Scalar>& group, Index num_buckets,
                     const Bucket* buckets) {
  Scratch scratch(workspace);
  const auto counts = scratch.per_thread<std::int32_t>(num_buckets + 1);
  const Index T = group.length, R = group.rounds(), H = group.heads;
  parallel_for(workspace.threads(), group.batch * H * R, [&](Index task, int thread) {
    const Index r = task % R, head = task / R;
    sort_by_bucket({buckets + task * T, static_cast<std::size_t>(T)}, num_buckets, counts[thread],
                   group.order + head * R * T + r * detail::slots_of(group, head / H));
  });
}

/// Scratch of `attend` and of `attend_backward`.
template <typename Scalar>
void plan_attend(ScratchPlan& scratch, const AttentionPattern& pattern, Index batch, Index length,
                 Index head_width) {
  const detail::BlockSize size(pattern, length);
  const bool tiled =
      detail::hashed(pattern, length) == nullptr && !std::holds_alternative<LocalPattern>(pattern);
  scratch.scope([&] {
    scratch.per_thread<Scalar>(
        detail::BlockTiles<Scalar>::size(size.queries, size.keys, head_width));
    if (tiled) {
      scratch.take<TiledBlocks>(batch);
    } else {
      scratch.take<ChunkedBlocks>(batch);
    }
  });
}

/// Attention of the group, softmax over everything a query sees, in all rounds. Writes `out`,
/// `maximum`, `normaliser` and `key_scale`. A query that sees nothing gets zero.
template <typename Scalar>
void attend(Workspace& workspace, const MultiHead<Scalar>& group, const Dropout<Scalar>& dropout) {
  const Index T = group.length, K = group.head_width, H = group.heads;
  const bool shared = shares_query_key(*group.pattern);
  const Index rows_per_task = detail::tile_rows;
  const Index row_tiles = ceil_div(group.batch * T, rows_per_task);
  const auto for_each_row = [&](const auto& body) {
    parallel_for(workspace.threads(), row_tiles, [&](Index task, int) {
      const Index last = std::min((task + 1) * rows_per_task, group.batch * T);
      for (Index row = task * rows_per_task; row < last; ++row) {
        for (Index h = 0; h < H; ++h) {
          body(group.out.row(row) + h * K, group.key.row(row) + h * K,
               (row / T * H + h) * T + row % T);
        }
      }
    });
  };
  for_each_row([&](Scalar* out, const Scalar* key, Index statistic) {
    std::fill_n(out, K, Scalar(0));
    group.maximum[statistic] = std::numeric_limits<Scalar>::lowest();
    group.normaliser[statistic] = 0;
    if (shared) {
      const auto e = static_cast<Scalar>(static_cast<double>(K) * key_epsilon);
      group.key_scale[statistic] = 1 / std::sqrt(simd::dot(K, key, key) + e);
    }
  });
  {
    Scratch scratch(workspace);
    const detail::ThreadTiles<Scalar> tiles(scratch, group);
    detail::for_each_run(workspace, group, Disjoint::queries,
                         [&](const AttentionHead<Scalar>& head, Index, Index, const auto& list,
                             const Run& run, int thread) {
                           auto mine = tiles[thread];
                           attend_run(head, list, run, dropout, mine);
                         });
  }
  for_each_row([&](Scalar* out, const Scalar*, Index statistic) {
    Scalar& l = group.normaliser[statistic];
    l = l > 0 ? 1 / l : Scalar(0);
    const auto inverse = simd::set(l);
    simd::map(K, out, out, [&](const auto& o) { return Eigen::internal::pmul(o, inverse); });
  });
}

/// Gradients of `attend`, with the statistics it left.
/// @param delta  `[B, H, T]`: <dout, out>
/// @param dquery,dkey,dvalue  `[B*T, H*K]`, written; dkey is dquery when queries are keys
template <typename Scalar>
void attend_backward(Workspace& workspace, const MultiHead<Scalar>& group,
                     const Dropout<Scalar>& dropout, const MatrixView<const Scalar>& dout,
                     const Scalar* delta, const MatrixView<Scalar>& dquery,
                     const MatrixView<Scalar>& dkey, const MatrixView<Scalar>& dvalue) {
  for (const auto& gradient : {dquery, dkey, dvalue}) {
    parallel_for(workspace.threads(), ceil_div(gradient.rows, detail::tile_rows),
                 [&](Index task, int) {
                   const Index first = task * detail::tile_rows;
                   const Index last = std::min(first + detail::tile_rows, gradient.rows);
                   for (Index i = first; i < last; ++i) {
                     std::fill_n(gradient.row(i), gradient.columns, Scalar(0));
                   }
                 });
  }
  Scratch scratch(workspace);
  const detail::ThreadTiles<Scalar> tiles(scratch, group);
  detail::for_each_run(workspace, group, Disjoint::queries_and_keys,
                       [&](const AttentionHead<Scalar>& head, Index b, Index h, const auto& list,
                           const Run& run, int thread) {
                         const AttentionHeadGradient<Scalar> gradient{
                             group.part(dout, b, h), delta + (b * group.heads + h) * group.length,
                             group.part(dquery, b, h), group.part(dkey, b, h),
                             group.part(dvalue, b, h)};
                         auto mine = tiles[thread];
                         attend_run_backward(head, gradient, list, run, dropout, mine);
                       });
}

}  // namespace reformer
