// SPDX-License-Identifier: MIT
/// @file
/// Self-attention of a layer's heads of one kind between the halves of the residual stream, group
/// by group of heads:
///
///     y +-= dropout(attend(q, k, u) W_o),   q, k, v = LN(x) W_q, LN(x) W_k, LN(x) W_v
///
/// where u, the values that keys carry, are v, those of what followed, or a mixture of both, to v
/// vectors of n-grams may be added, and q and k are scaled where scores are cosines. Groups are so
/// small that their arrays are about 2 MiB each: queries, keys, values and outputs exist for one
/// group at a time. The output of a group is added straight to the half.
///
/// A walk over the groups is written once for its memory and for its plan: given a workspace that
/// only plans, it takes the scratch of its largest group and computes nothing.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "reformer/attention/config.hpp"
#include "reformer/attention/cosine_scores.hpp"
#include "reformer/attention/following.hpp"
#include "reformer/attention/hashing.hpp"
#include "reformer/attention/multi_head.hpp"
#include "reformer/attention/projections.hpp"
#include "reformer/attention/rotary.hpp"
#include "reformer/attention/value_embedding.hpp"
#include "reformer/attention/value_mixture.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/products/kernels.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Memory for what the forward pass of a branch leaves for its backward pass: of its kinds of
/// heads, one behind the other. What is empty is not kept, and computed again.
template <typename Scalar>
struct SavedAttention {
  std::span<Bucket> buckets;  ///< [B, H, R, T]
  /// Group by group what `attend` writes, where it has written it: output [B*T, H*K] of the heads,
  /// its rows a little apart, then their statistics, each [B, H, T].
  std::span<Scalar> context;
  Index batch = 0, length = 0;  ///< of the pass that filled it
};

/// What a walk over the groups of heads of one kind needs beside halves and pass. H is the number
/// of these heads.
template <typename Scalar>
struct AttentionWalk {
  const AttentionLayout& layout;
  Index first_head, num_heads;                        // in the layer
  Index blocks_per_head;                              // at most, of any kind of the layer's heads
  std::optional<MatrixView<const Scalar>> rotations;  // [H*K, R*columns]; else buckets are saved
  SavedAttention<Scalar> saved;                       // the part of these heads
  bool keeps_buckets = !saved.buckets.empty();
  bool keeps_context = !saved.context.empty();
};

/// Projections and attention of a layer's heads, one kind of heads after another.
/// @tparam Kernel  of the products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
class GroupedAttention {
  struct Nothing {
    void operator()(const auto&...) const {}
  };

 public:
  GroupedAttention(const std::string& name, const SelfAttentionConfig& config)
      : num_heads_(config.num_heads),
        head_width_(config.head_width),
        attention_dropout_(config.attention_dropout),
        projections_(name, config) {
    if (mixes_values(config.pattern)) {
      mixture_.emplace(name + ".value_mixture", config.num_heads);
    }
    if (has_cosine_scores(config.pattern)) {
      cosines_.emplace(name + ".temperature", config.num_heads, config.head_width);
    }
    if (config.value_ngrams) {
      value_embedding_.emplace(name + ".value_ngrams", *config.value_ngrams,
                               config.num_heads * config.head_width);
    }
    for (const AttentionPattern& pattern : config.pattern.of_heads) {
      const Index width = rotary_width_of(pattern);
      if (width > 0 && rotary_of(width) == nullptr) rotaries_.emplace_back(width, head_width_);
    }
  }

  const AttentionProjections<Scalar, Kernel>& projections() const { return projections_; }
  /// None if nothing is added to values.
  const std::optional<ValueEmbedding<Scalar>>& value_embedding() const { return value_embedding_; }
  /// Of the heads of a layout, if their values are mixed, else null.
  const ValueMixture<Scalar>* mixture_of(const AttentionLayout& layout) const {
    return layout.values == Values::mixed ? &*mixture_ : nullptr;
  }

  /// Of the heads of a layout, if their scores are cosines, else null.
  const CosineScores<Scalar>* cosines_of(const AttentionLayout& layout) const {
    return layout.scores == Scores::cosine ? &*cosines_ : nullptr;
  }

  /// Of the heads of a layout, if positions rotate them, else null.
  const Rotary<Scalar>* rotary_of(const AttentionLayout& layout) const {
    return rotary_of(layout.rotary_width);
  }

  /// A group on its way.
  struct Group {
    MultiHead<Scalar> heads;
    QueryKeyValue<Scalar> projected;  // before queries and keys are scaled, and values mixed
    MatrixView<Scalar> query, key;    // of the heads
    const std::int32_t* positions;    // [B*T], if they rotate the heads
  };

  /// y += f(x), group by group.
  /// @param after  is called as after(group, buckets) when a group has attended
  template <typename Half, typename After = Nothing>
  void forward(const Half& x, Half& y, const AttentionWalk<Scalar>& walk, const Pass& pass,
               const After& after = {}) const {
    for_each_group(walk, pass, [&](const HeadGroup& part, Scalar* kept) {
      Scratch scratch(pass.workspace);
      Group group = project(scratch, x, part, kept, walk, pass);
      const Bucket* buckets = order_tokens(scratch, group.heads, walk, pass);
      rotate(group, walk, Rotation::forward, group.query, group.key, pass);
      attend<Scalar, Kernel>(pass.workspace, group.heads, dropout_of_weights(pass), pass.precision);
      after(group, buckets);
      projections_.add_output(group.heads.out, part, Sign::plus, y, pass);
    });
  }

  /// y -= f(x) unless the pass need not, dx += (df/dx)^T dy and parameter gradients, group by
  /// group.
  template <typename Half>
  void reverse(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
               const MatrixView<Scalar>& dx, const AttentionWalk<Scalar>& walk, const Pass& pass) {
    auto& workspace = pass.workspace;
    for_each_group(walk, pass, [&](const HeadGroup& part, Scalar* kept) {
      Scratch scratch(workspace);
      Group group = project(scratch, x, part, kept, walk, pass);
      auto& [heads, projected, query, key, positions] = group;
      order_tokens(scratch, heads, walk, pass);
      rotate(group, walk, Rotation::forward, query, key, pass);
      if (!walk.keeps_context) {
        attend<Scalar, Kernel>(workspace, heads, dropout_of_weights(pass), pass.precision);
      }
      if (pass.subtract) projections_.add_output(heads.out, part, Sign::minus, y, pass);

      auto* delta = scratch.take<Scalar>(part.batch * part.heads * pass.length);
      const Index rows = part.rows(), columns = part.heads * head_width_;
      // Where out is read for the last time, unless it is kept.
      const auto dout = walk.keeps_context ? scratch.matrix<Scalar>(rows, columns) : heads.out;
      projections_.output_backward(heads.out, part, dy, delta, dout, pass);
      const auto dquery = scratch.matrix<Scalar>(rows, columns);
      const auto dkey = walk.layout.shared ? dquery : scratch.matrix<Scalar>(rows, columns);
      const CarriedValues<Scalar> carried(scratch, walk.layout, rows, columns);
      attend_backward<Scalar, Kernel>(workspace, heads, dropout_of_weights(pass), dout, delta,
                                      dquery, dkey, carried.of_keys(), pass.precision);
      carried.carry_back(workspace, heads);
      auto dvalue = carried.of_tokens();
      if (walk.layout.values == Values::mixed) {
        mixture_->backward(workspace, heads, dvalue, projected.value);
        dvalue = projected.value;
      }
      if (value_embedding_) value_embedding_->backward(dvalue, part, head_width_, pass);
      rotate(group, walk, Rotation::back, dquery, dkey, pass);
      if (walk.layout.scores == Scores::cosine) {
        cosines_->backward_queries(workspace, part.first_head, projected.query, dquery);
        if (!walk.layout.shared) cosines_->backward_keys(workspace, projected.key, dkey);
      }
      projections_.backward(x, part, {dquery, dkey, dvalue}, dx, pass);
    });
  }

  /// Scalars of the context of some heads of one kind.
  Index context_size(const AttentionLayout& layout, Index heads, Index batch) const {
    Index size = 0;
    for_each_head_group<Scalar>(
        batch, layout.length, heads, head_width_,
        [&](const HeadGroup& group) { size += context_size(group, layout); });
    return size;
  }

  /// Bucket ids `[B, H, R, T]` of a group.
  /// @param rotations  of these heads
  static void hash(const MultiHead<Scalar>& heads, const MatrixView<const Scalar>& rotations,
                   Bucket* buckets, const Pass& pass) {
    hash_heads<Scalar, Kernel>(pass.workspace, heads.query, heads.batch, heads.heads, heads.is_real,
                               rotations, heads.layout->bucket_factors, buckets);
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    visit_parameters(*this, f);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    visit_parameters(*this, f);
  }

 private:
  template <typename Self, typename F>
  static void visit_parameters(Self& self, F& f) {
    AttentionProjections<Scalar, Kernel>::visit_parameters(self.projections_, f);
    if (self.mixture_) f(self.mixture_->parameter());
    if (self.cosines_) f(self.cosines_->parameter());
    if (self.value_embedding_) self.value_embedding_->for_each_parameter(f);
  }

  /// Queries, keys and values of a group, and memory for what `attend` writes.
  /// @param kept  that memory, if it is kept
  template <typename Half>
  Group project(Scratch& scratch, const Half& x, const HeadGroup& part, Scalar* kept,
                const AttentionWalk<Scalar>& walk, const Pass& pass) const {
    const AttentionLayout& layout = walk.layout;
    const ValueMixture<Scalar>* mixture = mixture_of(layout);
    const CosineScores<Scalar>* cosines = cosines_of(layout);
    const Index rows = part.rows(), columns = part.heads * head_width_;
    const auto array = [&] { return scratch.matrix<Scalar>(rows, columns); };
    const auto query = array(), key = layout.shared ? query : array();
    const auto scaled_query = cosines != nullptr ? array() : query;
    const auto scaled_key = layout.shared ? scaled_query : (cosines != nullptr ? array() : key);
    const CarriedValues<Scalar> carried(scratch, layout, rows, columns);
    const auto values = mixture != nullptr ? array() : carried.of_tokens();
    auto heads = without_arrays<Scalar>(part, layout, num_heads_, head_width_, pass.is_real);
    heads.blocks_per_head = walk.blocks_per_head;
    heads.query = scaled_query;
    heads.key = scaled_key;
    heads.value = carried.of_keys();
    if (walk.keeps_context) {
      take_context(heads, [&](Index count) {
        return kept == nullptr ? nullptr : std::exchange(kept, kept + in_lines(count));
      });
    } else {
      take_context(heads, [&](Index count) { return scratch.take<Scalar>(count); });
    }
    projections_.forward(x, part, {query, key, values}, pass);
    if (value_embedding_) value_embedding_->forward(part, head_width_, pass, values);
    if (cosines != nullptr) {
      cosines->scale_queries(pass.workspace, part.first_head, query, scaled_query);
      if (!layout.shared) cosines->scale_keys(pass.workspace, key, scaled_key);
    }
    if (mixture != nullptr) mixture->forward(pass.workspace, heads, values, carried.of_tokens());
    carried.carry(pass.workspace, heads);
    std::int32_t* positions = nullptr;
    if (layout.rotary_width > 0) {
      positions = scratch.take<std::int32_t>(rows);
      if (!pass.workspace.only_plans()) {
        count_positions(rows, pass.length, heads.is_real, positions);
      }
    }
    return {heads, {query, key, values}, scaled_query, scaled_key, positions};
  }

  const Rotary<Scalar>* rotary_of(Index width) const {
    const auto found = std::find_if(rotaries_.begin(), rotaries_.end(), [&](const auto& rotary) {
      return rotary.rotary_width() == width;
    });
    return found == rotaries_.end() ? nullptr : &*found;
  }

  /// Rotates queries and keys of a group, or their gradients, if positions rotate its heads.
  void rotate(const Group& group, const AttentionWalk<Scalar>& walk, Rotation rotation,
              const MatrixView<Scalar>& query, const MatrixView<Scalar>& key,
              const Pass& pass) const {
    const Rotary<Scalar>* rotary = rotary_of(walk.layout);
    if (rotary == nullptr) return;
    rotary->rotate(pass.workspace, group.positions, rotation, query);
    if (!walk.layout.shared) {
      rotary->rotate(pass.workspace, group.positions, rotation, key);
    }
  }

  /// Orders the tokens of a group by bucket, if it hashes.
  /// @return bucket ids `[B, H, R, T]` of the group, or null
  const Bucket* order_tokens(Scratch& scratch, MultiHead<Scalar>& heads,
                             const AttentionWalk<Scalar>& walk, const Pass& pass) const {
    const AttentionLayout& layout = walk.layout;
    if (!layout.is_hashed) return nullptr;
    const Index per_head = layout.rounds * layout.length;
    const Index first_head = heads.first_head - walk.first_head;  // of this kind
    heads.order = scratch.take<std::int32_t>(heads.batch * heads.heads * layout.order_size());
    Bucket* buckets = walk.keeps_buckets
                          ? walk.saved.buckets.data() +
                                (heads.first_sequence * walk.num_heads + first_head) * per_head
                          : scratch.take<Bucket>(heads.batch * heads.heads * per_head);
    if (walk.rotations) {
      hash(heads, walk.rotations->middle_rows(first_head * head_width_, heads.heads * head_width_),
           buckets, pass);
    }
    order_by_bucket(pass.workspace, heads, buckets);
    return buckets;
  }

  /// Sets the arrays of a group that `attend` writes, with memory from `take(count)`.
  template <typename Take>
  static void take_context(MultiHead<Scalar>& heads, const Take& take) {
    const Index rows = heads.batch * heads.length(), columns = heads.heads * heads.head_width;
    const Index stride = scratch_stride<Scalar>(columns), statistic = rows * heads.heads;
    Scalar* out = take(rows * stride);
    heads.out = {out, rows, columns, out == nullptr ? 0 : stride};
    heads.maximum = take(statistic);
    heads.normaliser = take(statistic);
    heads.key_scale = heads.layout->shared ? take(statistic) : nullptr;
  }
  static Index in_lines(Index count) {
    return round_up(count, static_cast<Index>(64 / sizeof(Scalar)));
  }
  Index context_size(const HeadGroup& part, const AttentionLayout& layout) const {
    auto heads = without_arrays<Scalar>(part, layout, num_heads_, head_width_, {});
    Index size = 0;
    take_context(heads, [&](Index count) {
      size += in_lines(count);
      return static_cast<Scalar*>(nullptr);
    });
    return size;
  }

  /// Calls `body(group, kept)` for all groups of a walk, with the memory of its context if that is
  /// kept; for a plan only for the first, which is the largest.
  template <typename Body>
  void for_each_group(const AttentionWalk<Scalar>& walk, const Pass& pass, const Body& body) const {
    bool is_first = true;
    Scalar* kept = walk.saved.context.data();
    for_each_head_group<Scalar>(pass.batch, pass.length, walk.num_heads, head_width_,
                                [&](HeadGroup group) {
                                  group.first_head += walk.first_head;
                                  if (is_first || !pass.workspace.only_plans()) body(group, kept);
                                  is_first = false;
                                  if (kept != nullptr) kept += context_size(group, walk.layout);
                                });
  }

  Dropout<Scalar> dropout_of_weights(const Pass& pass) const {
    return {pass.dropout(attention_dropout_), pass.key, Purpose::attention_dropout};
  }

  Index num_heads_, head_width_;
  double attention_dropout_;
  AttentionProjections<Scalar, Kernel> projections_;
  std::optional<ValueMixture<Scalar>> mixture_;  // of mixed values, for all heads
  std::optional<CosineScores<Scalar>> cosines_;  // likewise
  std::optional<ValueEmbedding<Scalar>> value_embedding_;
  std::vector<Rotary<Scalar>> rotaries_;  // one for each width
};

}  // namespace reformer::inline REFORMER_ABI::detail
