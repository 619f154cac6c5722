// SPDX-License-Identifier: MIT
/// @file
/// Attention of several heads and sequences over their block lists, between the projections.
#pragma once

#include <span>
#include <type_traits>

#include "reformer/attention/hashing.hpp"
#include "reformer/attention/head_group.hpp"
#include "reformer/attention/kernel.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/products/kernels.hpp"

namespace reformer::inline REFORMER_ABI::detail {

template <typename Scalar>
AttentionHead<Scalar> head_of(const MultiHead<Scalar>& group, Index slots, Index b, Index h) {
  const AttentionLayout& layout = *group.layout;
  const Index T = layout.length;
  AttentionHead<Scalar> head;
  head.query = group.part(group.query, b, h);
  head.key = group.part(group.key, b, h);
  head.value = group.part(group.value, b, h);
  head.out = group.part(group.out, b, h);
  const Index row = (b * group.heads + h) * T;
  head.maximum = group.maximum + row;
  head.normaliser = group.normaliser + row;
  head.shared = layout.shared;
  head.sees_itself = !layout.carries_next();
  head.key_scale = head.shared ? group.key_scale + row : nullptr;
  if (layout.is_hashed) {
    head.order = group.order + (b * group.heads + h) * layout.order_size();
    if (layout.counts_once) {
      const std::int32_t* tables = head.order + layout.order_slots();
      const BucketBlocks blocks(tables, layout.max_chunks, layout.rounds, {}, {});
      head.places = {layout.rounds,
                     tables + layout.order_tables(),
                     T,
                     blocks.first_seen(0),
                     blocks.last_seen(0),
                     BucketBlocks::table_size(layout.max_chunks)};
    }
  }
  // Padding that is outside the order of a hashed head needs no mask.
  const bool left_out = layout.is_hashed && !layout.sorts_padding;
  head.is_real = left_out || group.is_real.empty() ? nullptr : group.is_real.data() + b * T;
  head.first_block = static_cast<std::uint64_t>(
      ((group.first_sequence + b) * group.all_heads + group.first_head + h) *
      group.blocks_per_head);
  head.slots = slots;
  head.causal = layout.causal;
  return head;
}

/// Calls `body(head, b, h, list, range, thread)` for all ranges of all heads, phase by phase.
/// @param list_of  the list of a head of a sequence; all have the same number of phases
/// @param kernel   what the body multiplies by
template <typename Scalar, typename ListOf, ProductKernel Kernel, typename Body>
void for_each_range_of(Workspace& workspace, const MultiHead<Scalar>& group, const ListOf& list_of,
                       const Kernel& kernel, const Body& body) {
  const Index all_heads = group.batch * group.heads;
  for (Index phase = 0; phase < list_of(0, 0).num_phases(); ++phase) {
    Index most = 0;
    for (Index i = 0; i < all_heads; ++i) {
      most = std::max(most, list_of(i / group.heads, i % group.heads).num_ranges(phase));
    }
    // Heads vary fastest where ranges differ in length, so that the last ones to start are short.
    const auto in_range = [&](Index task, int thread) {
      const Index i = task / all_heads;
      const Index h = task % group.heads, b = task / group.heads % group.batch;
      const BlockList auto& list = list_of(b, h);
      if (i >= list.num_ranges(phase)) return;
      body(head_of(group, list.num_slots(), b, h), b, h, list, list.range(phase, i), thread);
    };
    parallel_for(workspace.threads(), all_heads * most, Multiplying{kernel, in_range});
  }
}

/// Makes the block lists of the group and calls `body` for their ranges; nothing for a plan.
template <typename Scalar, ProductKernel Kernel, typename Body>
void for_each_range(Workspace& workspace, const MultiHead<Scalar>& group, Disjoint disjoint,
                    const Kernel& kernel, const Body& body) {
  if (workspace.only_plans()) return;
  const AttentionLayout& layout = *group.layout;
  switch (layout.blocks) {
    case BlockKind::bucket_chunks: {
      const auto list_of = [&](Index b, Index h) {
        const std::int32_t* order = group.order + (b * group.heads + h) * layout.order_size();
        return BucketBlocks(order + layout.order_slots(), layout.max_chunks, layout.rounds,
                            layout.window, disjoint);
      };
      return for_each_range_of(workspace, group, list_of, kernel, body);
    }
    case BlockKind::chunks: {
      const auto list_of = [&](Index b, Index) {
        return ChunkedBlocks(layout.slots(group.first_sequence + b), layout.rounds, layout.window,
                             disjoint);
      };
      return for_each_range_of(workspace, group, list_of, kernel, body);
    }
    case BlockKind::tiles: {
      const TiledBlocks list(layout.length, layout.causal, disjoint);
      return for_each_range_of(
          workspace, group, [&](Index, Index) { return list; }, kernel, body);
    }
  }
}

/// Scratch tiles and operands of each thread, large enough for the group's blocks.
template <typename Scalar, ProductKernel Kernel>
class ThreadTiles {
 public:
  ThreadTiles(Scratch& scratch, const MultiHead<Scalar>& group, const Kernel& kernel)
      : kernel_(kernel),
        layout_(*group.layout),
        width_(group.head_width),
        memory_(scratch.per_thread<Scalar>(BlockTiles<Scalar>::size(
            layout_.max_queries, layout_.max_keys, width_, layout_.counted_rounds()))),
        packed_(scratch.per_thread<typename Kernel::Packed>(BlockOperands<Kernel>::size(
            kernel, layout_.max_queries, layout_.max_keys, width_, 2))) {}

  BlockTiles<Scalar> operator[](int thread) const {
    return {memory_[thread], layout_.max_queries, layout_.max_keys, width_,
            layout_.counted_rounds()};
  }
  BlockOperands<Kernel> operands(int thread) const {
    return {kernel_, packed_[thread], layout_.max_queries, layout_.max_keys, width_, 2};
  }

 private:
  Kernel kernel_;
  const AttentionLayout& layout_;
  Index width_;
  PerThread<Scalar> memory_;
  PerThread<typename Kernel::Packed> packed_;
};

/// Positions sorted by bucket, for every head and round of the group, and the tables of bucket
/// chunks.
/// @param buckets  `[B, H, R, T]`
template <typename Scalar>
void order_by_bucket(Workspace& workspace, const MultiHead<Scalar>& group, const Bucket* buckets) {
  const AttentionLayout& layout = *group.layout;
  const Index T = layout.length, R = layout.rounds, H = group.heads;
  const Index num_buckets = layout.num_sorted_buckets();
  Scratch scratch(workspace);
  const auto counts = scratch.per_thread<std::int32_t>(layout.sort_size());
  parallel_for(workspace, group.batch * H * R, [&](Index task, int thread) {
    const Index r = task % R, head = task / R;
    std::int32_t* head_order = group.order + head * layout.order_size();
    std::int32_t* order = head_order + r * layout.slots(group.first_sequence + head / H);
    std::int32_t* ends = counts[thread];
    const std::span ids(buckets + task * T, static_cast<std::size_t>(T));
    if (layout.blocks == BlockKind::chunks) {
      sort_into_chunks(ids, num_buckets, layout.window.chunk_length, ends, order);
      return;
    }
    sort_by_bucket(ids, num_buckets, ends, order);
    std::int32_t* tables = head_order + layout.order_slots();
    std::int32_t* table = tables + r * BucketBlocks::table_size(layout.max_chunks);
    BucketBlocks::fill_table({ends, static_cast<std::size_t>(num_buckets)}, layout.window,
                             layout.max_chunks, table);
    if (!layout.counts_once) return;
    std::int32_t* chunk_of = tables + layout.order_tables() + r * T;
    const std::int32_t* start = table + 2;
    for (std::int32_t c = 0; c < table[0]; ++c) {
      for (Index slot = start[c]; slot < start[c + 1]; ++slot) chunk_of[order[slot]] = c;
    }
  });
}

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

/// Attention of the group, softmax over everything a query sees, in all rounds. Writes `out`,
/// `maximum`, `normaliser` and `key_scale`. A query that sees nothing gets zero.
/// @param kernel  of the products, or their precision
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
void attend(Workspace& workspace, const MultiHead<Scalar>& group, const Dropout<Scalar>& dropout,
            const std::type_identity_t<Kernel>& kernel) {
  const Index T = group.length(), K = group.head_width, H = group.heads;
  const bool shared = group.layout->shared;
  const auto for_each_row = [&](const auto& body) {
    for_each_row_tile(workspace, group.batch * T, [&](Index first, Index count, int) {
      for (Index row = first; row < first + count; ++row) {
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
    if (shared) group.key_scale[statistic] = key_scale_of(K, key);
  });
  {
    Scratch scratch(workspace);
    const ThreadTiles<Scalar, Kernel> tiles(scratch, group, kernel);
    for_each_range(workspace, group, Disjoint::queries, kernel,
                   [&](const AttentionHead<Scalar>& head, Index, Index, const auto& list,
                       const BlockRange& range, int thread) {
                     auto mine = tiles[thread];
                     auto operands = tiles.operands(thread);
                     attend_range(head, list, range, dropout, mine, operands);
                   });
  }
  for_each_row([&](Scalar* out, const Scalar*, Index statistic) {
    finish_row(K, out, group.normaliser[statistic]);
  });
}

/// Gradients of `attend`, with the statistics it left.
/// @param delta  `[B, H, T]`: <dout, out>
/// @param dquery,dkey,dvalue  `[B*T, H*K]`, written; dkey is dquery when queries are keys
/// @param kernel  that of `attend`
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
void attend_backward(Workspace& workspace, const MultiHead<Scalar>& group,
                     const Dropout<Scalar>& dropout, const MatrixView<const Scalar>& dout,
                     const Scalar* delta, const MatrixView<Scalar>& dquery,
                     const MatrixView<Scalar>& dkey, const MatrixView<Scalar>& dvalue,
                     const std::type_identity_t<Kernel>& kernel) {
  for (const auto& gradient : {dquery, dkey, dvalue}) {
    for_each_row_tile(workspace, gradient.rows, [&](Index first, Index count, int) {
      for (Index i = first; i < first + count; ++i) {
        std::fill_n(gradient.row(i), gradient.columns, Scalar(0));
      }
    });
  }
  Scratch scratch(workspace);
  const ThreadTiles<Scalar, Kernel> tiles(scratch, group, kernel);
  for_each_range(workspace, group, Disjoint::queries_and_keys, kernel,
                 [&](const AttentionHead<Scalar>& head, Index b, Index h, const auto& list,
                     const BlockRange& range, int thread) {
                   const AttentionHeadGradient<Scalar> gradient{
                       group.part(dout, b, h), delta + (b * group.heads + h) * group.length(),
                       group.part(dquery, b, h), group.part(dkey, b, h), group.part(dvalue, b, h)};
                   auto mine = tiles[thread];
                   auto operands = tiles.operands(thread);
                   attend_range_backward(head, gradient, list, range, dropout, mine, operands);
                 });
}

}  // namespace reformer::inline REFORMER_ABI::detail
