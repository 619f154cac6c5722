// SPDX-License-Identifier: MIT
/// @file
/// Attention of several heads and sequences over their block lists, between the projections.
#pragma once

#include <memory>
#include <numeric>
#include <span>

#include "reformer/attention/kernel.hpp"
#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/products/kernels.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// What `MultiHead::order` holds for each head of each sequence, in numbers.
struct OrderLayout {
  Index order = 0;       // token in each slot, of all rounds
  Index max_chunks = 0;  // of bucket chunks: most chunks of a round
  Index table = 0;       // of bucket chunks: table of each round
  Index chunk = 0;       // chunk of each token, of all rounds, where keys count once

  OrderLayout(const AttentionPattern& pattern, Index length) {
    const auto* lsh = hashed(pattern, length);
    if (lsh == nullptr) return;
    order = lsh->num_hashes * length;
    if (lsh->chunking != Chunking::bucket_chunks) return;
    max_chunks = BucketBlocks::max_chunks(length, lsh->chunk_length, num_buckets(lsh->num_buckets));
    table = lsh->num_hashes * BucketBlocks::table_size(max_chunks);
    if (lsh->duplicates == Duplicates::once) chunk = order;
  }
  Index size() const { return order + table + chunk; }
};

/// Numbers of scratch for sorting a round.
inline Index sort_scratch(const LshPattern& lsh, Index num_buckets, Index length) {
  return num_buckets + 1 + ceil_div(length, lsh.chunk_length);
}

}  // namespace detail

/// Heads of sequences that are worked on at a time, out of arrays `[B*T, H*K]`.
struct HeadGroup {
  Index length;
  Index first_sequence, batch, first_head, heads;

  Index first_row() const { return first_sequence * length; }
  Index rows() const { return batch * length; }
};

/// Sequences and heads in a group, by shape alone: about 2 MiB for each of its arrays, or one head
/// of one sequence.
template <typename Scalar>
std::pair<Index, Index> head_group_size(Index batch, Index length, Index heads, Index head_width) {
  const Index bytes_per_head = length * head_width * static_cast<Index>(sizeof(Scalar));
  const Index fit = std::max<Index>(1, (Index{1} << 21) / bytes_per_head);
  const Index together = std::min(fit, heads);
  const Index sequences = together < heads ? 1 : std::max<Index>(1, fit / together);
  return {std::min(sequences, batch), together};
}

/// Calls `body(group)` for all groups, one after another.
template <typename Scalar, typename Body>
void for_each_head_group(Index batch, Index length, Index heads, Index head_width,
                         const Body& body) {
  const auto [sequences, together] = head_group_size<Scalar>(batch, length, heads, head_width);
  for (Index b = 0; b < batch; b += sequences) {
    for (Index h = 0; h < heads; h += together) {
      body(HeadGroup{length, b, std::min(sequences, batch - b), h, std::min(together, heads - h)});
    }
  }
}

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
  std::int32_t* order = nullptr;  // [B, H, numbers of `detail::OrderLayout`], if hashed
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

/// What `MultiHead` says of a group; its arrays are still to be set.
/// @param all_heads  heads of the layer
/// @param is_real    `[B*T]` of all sequences, or empty
template <typename Scalar>
MultiHead<Scalar> without_arrays(const HeadGroup& group, const AttentionPattern& pattern,
                                 Index all_heads, Index head_width, bool causal,
                                 std::span<const std::uint8_t> is_real) {
  MultiHead<Scalar> result{};
  result.pattern = &pattern;
  result.batch = group.batch;
  result.length = group.length;
  result.heads = group.heads;
  result.head_width = head_width;
  result.causal = causal;
  if (!is_real.empty()) {
    result.is_real = is_real.subspan(static_cast<std::size_t>(group.first_row()),
                                     static_cast<std::size_t>(group.rows()));
  }
  result.first_sequence = group.first_sequence;
  result.first_head = group.first_head;
  result.all_heads = all_heads;
  return result;
}

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
  head.sees_itself = !carries_next(*group.pattern);
  head.key_scale = head.shared ? group.key_scale + row : nullptr;
  if (hashed_order) {
    const OrderLayout layout(*group.pattern, T);
    head.order = group.order + (b * group.heads + h) * layout.size();
    if (layout.chunk > 0) {
      const Index rounds = group.rounds();
      const std::int32_t* tables = head.order + layout.order;
      const BucketBlocks blocks(tables, layout.max_chunks, rounds, {}, {});
      head.places = {rounds,
                     tables + layout.table,
                     T,
                     blocks.first_seen(0),
                     blocks.last_seen(0),
                     BucketBlocks::table_size(layout.max_chunks)};
    }
  }
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
/// @param list_of  the list of a head of a sequence; all have the same number of phases
template <typename Scalar, typename ListOf, typename Body>
void for_each_run_of(Workspace& workspace, const MultiHead<Scalar>& group, const ListOf& list_of,
                     Index max_blocks, const Body& body) {
  const Index all_heads = group.batch * group.heads;
  for (Index phase = 0; phase < list_of(0, 0).num_phases(); ++phase) {
    Index most = 0;
    for (Index i = 0; i < all_heads; ++i) {
      most = std::max(most, list_of(i / group.heads, i % group.heads).num_runs(phase));
    }
    // Heads vary fastest where runs differ in length, so that the last ones to start are short.
    parallel_for(workspace.threads(), all_heads * most, [&](Index task, int thread) {
      const Index i = task / all_heads;
      const Index h = task % group.heads, b = task / group.heads % group.batch;
      const BlockList auto& list = list_of(b, h);
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
  const auto* lsh = hashed(*group.pattern, T);
  const auto* local = std::get_if<LocalPattern>(group.pattern);
  if (has_bucket_chunks(*group.pattern)) {
    const OrderLayout layout(*group.pattern, T);
    const Window window = window_of(*lsh, T);
    const auto list_of = [&](Index b, Index h) {
      const std::int32_t* order = group.order + (b * group.heads + h) * layout.size();
      return BucketBlocks(order + layout.order, layout.max_chunks, group.rounds(), window,
                          disjoint);
    };
    for_each_run_of(workspace, group, list_of, group.rounds() * layout.max_chunks, body);
  } else if (lsh != nullptr || local != nullptr) {
    const Window window = lsh != nullptr ? window_of(*lsh, T) : window_of(*local, T);
    auto* lists = scratch.take<ChunkedBlocks>(group.batch);
    for (Index b = 0; b < group.batch; ++b) {
      const Index slots = lsh != nullptr ? slots_of(group, b) : T;
      std::construct_at(lists + b, slots, group.rounds(), window, disjoint);
    }
    for_each_run_of(
        workspace, group, [&](Index b, Index) -> const ChunkedBlocks& { return lists[b]; },
        group.rounds() * ceil_div(T, window.chunk_length), body);
  } else {
    const TiledBlocks list(T, group.causal, disjoint);
    const Index tiles = ceil_div(T, TiledBlocks::tile);
    for_each_run_of(
        workspace, group, [&](Index, Index) -> const TiledBlocks& { return list; }, tiles* tiles,
        body);
  }
}

/// Largest block of a pattern at a length.
struct BlockSize {
  Index queries, keys;
  Index rounds = 0;  // as `ChunkPlaces::rounds`

  BlockSize(const AttentionPattern& pattern, Index length) {
    if (const auto* lsh = hashed(pattern, length)) {
      take(window_of(*lsh, length), length);
      if (lsh->duplicates == Duplicates::once) rounds = lsh->num_hashes;
    } else if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
      take(window_of(*local, length), length);
    } else {
      queries = keys = std::min(length, TiledBlocks::tile);
    }
  }

 private:
  void take(const Window& window, Index length) {
    queries = window.chunk_length;
    keys = window.circular ? window.max_keys() : std::min(window.max_keys(), length);
  }
};

/// Scratch tiles and operands of each thread, large enough for the group's blocks.
template <typename Scalar, ProductKernel Kernel>
class ThreadTiles {
 public:
  ThreadTiles(Scratch& scratch, const MultiHead<Scalar>& group)
      : size_(*group.pattern, group.length),
        width_(group.head_width),
        memory_(scratch.per_thread<Scalar>(
            BlockTiles<Scalar>::size(size_.queries, size_.keys, width_, size_.rounds))),
        packed_(scratch.per_thread<typename Kernel::Packed>(
            BlockOperands<Kernel>::size(size_.queries, size_.keys, width_, 2))) {}

  BlockTiles<Scalar> operator[](int thread) const {
    return {memory_[thread], size_.queries, size_.keys, width_, size_.rounds};
  }
  BlockOperands<Kernel> operands(int thread) const {
    return {packed_[thread], size_.queries, size_.keys, width_, 2};
  }

 private:
  BlockSize size_;
  Index width_;
  PerThread<Scalar> memory_;
  PerThread<typename Kernel::Packed> packed_;
};

}  // namespace detail

/// Positions sorted by bucket, for every head and round of the group, and the tables of bucket
/// chunks.
/// @param num_buckets  those whose tokens have a place in the order, see `num_sorted_buckets`
/// @param buckets      `[B, H, R, T]`
template <typename Scalar>
void order_by_bucket(Workspace& workspace, const MultiHead<Scalar>& group, Index num_buckets,
                     const Bucket* buckets) {
  const Index T = group.length, R = group.rounds(), H = group.heads;
  const LshPattern& lsh = *detail::hashed(*group.pattern, T);
  const detail::OrderLayout layout(*group.pattern, T);
  Scratch scratch(workspace);
  const auto counts = scratch.per_thread<std::int32_t>(detail::sort_scratch(lsh, num_buckets, T));
  parallel_for(workspace.threads(), group.batch * H * R, [&](Index task, int thread) {
    const Index r = task % R, head = task / R, slots = detail::slots_of(group, head / H);
    std::int32_t* head_order = group.order + head * layout.size();
    std::int32_t* order = head_order + r * slots;
    std::int32_t* ends = counts[thread];
    const std::span ids(buckets + task * T, static_cast<std::size_t>(T));
    if (layout.table == 0) {
      sort_into_chunks(ids, num_buckets, lsh.chunk_length, ends, order);
      return;
    }
    sort_by_bucket(ids, num_buckets, ends, order);
    const Window window = window_of(lsh, T);
    std::int32_t* tables = head_order + layout.order;
    std::int32_t* table = tables + r * BucketBlocks::table_size(layout.max_chunks);
    BucketBlocks::fill_table({ends, static_cast<std::size_t>(num_buckets)}, window,
                             layout.max_chunks, table);
    if (layout.chunk == 0) return;
    std::int32_t* chunk_of = tables + layout.table + r * T;
    const std::int32_t* start = table + 2;
    for (std::int32_t c = 0; c < table[0]; ++c) {
      for (Index slot = start[c]; slot < start[c + 1]; ++slot) chunk_of[order[slot]] = c;
    }
  });
}

/// Scratch of `attend` and of `attend_backward`.
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
void plan_attend(ScratchPlan& scratch, const AttentionPattern& pattern, Index batch, Index length,
                 Index head_width) {
  const detail::BlockSize size(pattern, length);
  const bool sorted =
      detail::hashed(pattern, length) != nullptr && !detail::has_bucket_chunks(pattern);
  scratch.scope([&] {
    scratch.per_thread<Scalar>(
        detail::BlockTiles<Scalar>::size(size.queries, size.keys, head_width, size.rounds));
    scratch.per_thread<typename Kernel::Packed>(
        BlockOperands<Kernel>::size(size.queries, size.keys, head_width, 2));
    if (sorted || std::holds_alternative<LocalPattern>(pattern)) {
      scratch.take<ChunkedBlocks>(batch);
    }
  });
}

namespace detail {

/// c of a shared key; decoding computes it too.
template <typename Scalar>
REFORMER_COMPILED_ONCE Scalar key_scale_of(Index width, const Scalar* key) {
  const auto e = static_cast<Scalar>(static_cast<double>(width) * key_epsilon);
  return 1 / std::sqrt(simd::dot(width, key, key) + e);
}

/// The weighted sum of values becomes their mean, the normaliser its inverse.
template <typename Scalar>
void finish_row(Index width, Scalar* out, Scalar& normaliser) {
  normaliser = normaliser > 0 ? 1 / normaliser : Scalar(0);
  const auto inverse = simd::set(normaliser);
  simd::map(width, out, out, [&](const auto& o) { return Eigen::internal::pmul(o, inverse); });
}

}  // namespace detail

/// Attention of the group, softmax over everything a query sees, in all rounds. Writes `out`,
/// `maximum`, `normaliser` and `key_scale`. A query that sees nothing gets zero.
/// @tparam Kernel  of the products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
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
    if (shared) group.key_scale[statistic] = detail::key_scale_of(K, key);
  });
  {
    Scratch scratch(workspace);
    const detail::ThreadTiles<Scalar, Kernel> tiles(scratch, group);
    detail::for_each_run(workspace, group, Disjoint::queries,
                         [&](const AttentionHead<Scalar>& head, Index, Index, const auto& list,
                             const Run& run, int thread) {
                           auto mine = tiles[thread];
                           auto operands = tiles.operands(thread);
                           attend_run(head, list, run, dropout, mine, operands);
                         });
  }
  for_each_row([&](Scalar* out, const Scalar*, Index statistic) {
    detail::finish_row(K, out, group.normaliser[statistic]);
  });
}

/// Gradients of `attend`, with the statistics it left.
/// @param delta  `[B, H, T]`: <dout, out>
/// @param dquery,dkey,dvalue  `[B*T, H*K]`, written; dkey is dquery when queries are keys
/// @tparam Kernel  of the products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
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
  const detail::ThreadTiles<Scalar, Kernel> tiles(scratch, group);
  detail::for_each_run(workspace, group, Disjoint::queries_and_keys,
                       [&](const AttentionHead<Scalar>& head, Index b, Index h, const auto& list,
                           const Run& run, int thread) {
                         const AttentionHeadGradient<Scalar> gradient{
                             group.part(dout, b, h), delta + (b * group.heads + h) * group.length,
                             group.part(dquery, b, h), group.part(dkey, b, h),
                             group.part(dvalue, b, h)};
                         auto mine = tiles[thread];
                         auto operands = tiles.operands(thread);
                         attend_run_backward(head, gradient, list, run, dropout, mine, operands);
                       });
}

}  // namespace reformer::inline REFORMER_ABI
