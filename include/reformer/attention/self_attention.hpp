// SPDX-License-Identifier: MIT
/// @file
/// The self-attention branch: layer norm, projections, attention by pattern, output projection.
///
///     f(x) = dropout(attend(LN(x) W_q, LN(x) W_k, LN(x) W_v) W_o)
///
/// | name          | shape      |                                              |
/// |---------------|------------|----------------------------------------------|
/// | x, f(x)       | [B*T, D]   |                                              |
/// | W_q, W_k, W_v | [D, H*K]   | W_q = W_k is one parameter when they are shared |
/// | W_o           | [H*K, D]   |                                              |
/// | a, b          | [2, H]     | of mixed values only, see value_mixture.hpp  |
///
/// No biases, as in trax and HuggingFace. Heads are worked on in groups, and sequences too when
/// they are short: queries, keys, values and outputs exist for one group at a time, and its output
/// projection is added straight to the residual half. Saved for the backward pass: bucket ids only,
/// because a token near the boundary of a hash could fall on the other side when it is rebuilt in
/// floating point. With exact halves the backward pass hashes again, and nothing is saved. On
/// request the context, what attention gives before the output projection, is kept as well, and the
/// backward pass neither hashes nor attends again.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "reformer/attention/decoding_state.hpp"
#include "reformer/attention/following.hpp"
#include "reformer/attention/multi_head.hpp"
#include "reformer/attention/projections.hpp"
#include "reformer/attention/value_mixture.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/products/kernels.hpp"

namespace reformer::inline REFORMER_ABI {

struct SelfAttentionConfig {
  Index width = 256;      ///< D
  Index num_heads = 4;    ///< H
  Index head_width = 64;  ///< K; H*K need not equal D
  AttentionPattern pattern = LshPattern{};
  bool causal = true;
  double attention_dropout = 0;  ///< of the attention weights
  double dropout = 0;            ///< of the output
  double layer_norm_epsilon = 1e-12;
};

/// Throws `std::invalid_argument` for sizes out of range, an impossible pattern, a dropout outside
/// [0, 1) or an epsilon out of range.
inline void check_config(std::string_view function, const SelfAttentionConfig& config) {
  check_between(function, "width", config.width, 1, max_size);
  check_between(function, "num_heads", config.num_heads, 1, max_size);
  check_between(function, "head_width", config.head_width, 1, max_size / config.num_heads);
  check_dropout(function, "attention_dropout", config.attention_dropout);
  check_dropout(function, "dropout", config.dropout);
  check_pattern(function, config.pattern, config.causal);
  check_layer_norm_epsilon(function, config.layer_norm_epsilon);
}

/// Self-attention branch; satisfies `ReversibleBranch`.
/// @tparam Kernel  of its products
template <typename Scalar_, ProductKernel Kernel = DefaultKernel<Scalar_>>
class SelfAttention {
 public:
  using Scalar = Scalar_;
  static constexpr std::string_view label = "attention";
  /// Memory for what `forward` leaves: see `saved_in`. What is empty is not kept; without any, no
  /// backward pass follows.
  struct Saved {
    std::span<Bucket> buckets;  ///< [B, H, R, T]
    /// Group by group: output [B*T, H*K] of the heads, then their statistics, each [B, H, T].
    std::span<Scalar> context;
    Index batch = 0, length = 0;  ///< of the pass that filled it
  };
  /// What `prefill` and `decode` need; the weights are copied.
  struct Decoding {
    DecodingState<Scalar, Kernel> state;
    std::optional<Tensor<Scalar, 4>> rotations;
    KeptWeight<Kernel> query, value, output;
    std::optional<KeptWeight<Kernel>> key;

    /// The sequences that the next calls are for; all at first.
    void select(std::span<const Index> sequences) {
      state.select({sequences.begin(), sequences.end()});
    }
    /// Forgets the selected sequences.
    void clear() { state.clear(); }
    /// Of what is kept of the sequences.
    std::size_t bytes() const { return state.bytes(); }
  };

  /// Parameters are named `<name>.layer_norm.weight` and so on; weights are zero until initialised.
  SelfAttention(const std::string& name, const SelfAttentionConfig& config)
      : config_((check_config("SelfAttention", config), config)),
        projections_(name, config.width, config.num_heads, config.head_width,
                     shares_query_key(config.pattern), config.layer_norm_epsilon, config.dropout) {
    if (values_of(config.pattern) == Values::mixed) {
      mixture_.emplace(name + ".value_mixture", config.num_heads);
    }
  }

  const SelfAttentionConfig& config() const { return config_; }
  /// Those of `set_rotations`, if any.
  const std::optional<Tensor<Scalar, 4>>& rotations() const { return rotations_; }

  /// Uses these rotations `[H, K, R, columns]` instead of drawing them for each pass.
  /// @throw std::invalid_argument if the layer does not hash or the shape is another
  void set_rotations(const Tensor<Scalar, 4>& rotations) {
    constexpr auto function = "SelfAttention::set_rotations";
    const auto* lsh = std::get_if<LshPattern>(&config_.pattern);
    check(lsh != nullptr, function, "rotations are given to a layer that does not hash");
    const Index columns = lsh->num_buckets.empty() ? rotations.dimension(3)  // follow the length
                                                   : rotation_columns(lsh->num_buckets);
    check_shape(function, "rotations", rotations,
                {"num_heads", "head_width", "num_hashes", "half the sum of num_buckets"},
                {config_.num_heads, K(), lsh->num_hashes, columns});
    rotations_ = rotations;
  }

  /// Fixes the number of buckets, in factors, where the pattern leaves it to the length.
  /// @throw std::invalid_argument if the layer does not hash or the factors are not possible
  void set_num_buckets(const std::vector<Index>& factors) {
    constexpr auto function = "SelfAttention::set_num_buckets";
    auto* lsh = std::get_if<LshPattern>(&config_.pattern);
    check(lsh != nullptr, function, "num_buckets is given to a layer that does not hash");
    check_buckets(function, factors);
    lsh->num_buckets = factors;
  }

  /// Memory for what `forward` must leave for `reverse`: bucket ids, if the layer hashes and halves
  /// are not exact, and the context if it is asked for, with the bucket ids in any case.
  template <ScratchMemory Memory>
  Saved saved_in(Memory& memory, const SavedPass& pass, bool context = false) const {
    const AttentionLayout layout = layout_at(pass.length, pass.num_hashes);
    Saved saved{{}, {}, pass.batch, pass.length};
    if (!pass.is_exact || context) {
      saved.buckets = take_span<Bucket>(memory, num_bucket_ids(layout, pass.batch));
    }
    if (context) saved.context = take_span<Scalar>(memory, context_size(layout, pass.batch));
    return saved;
  }

  /// Throws `std::invalid_argument` unless `forward` can take these arguments.
  template <ResidualHalf Half>
  void check_forward(const Half& x, const Half& y, const Saved& saved, const Pass& pass) const {
    checked_forward(x, y, saved, pass);
  }

  /// y += f(x)
  /// @param saved  what is there of it is filled
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit
  template <ResidualHalf Half>
  void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const {
    const AttentionLayout layout = checked_forward(x, y, saved, pass);
    saved.batch = pass.batch;
    saved.length = pass.length;
    const auto rotations = rotations_for(layout, pass);
    forward_groups(x, y, {layout, matrix_of(rotations, layout), saved}, pass);
  }

  /// A fresh state for `pass.batch` sequences, with the rotations of the pass's key.
  /// @throw std::invalid_argument for a pattern or a configuration that cannot go on token by token
  Decoding decoding(const Pass& pass) const {
    constexpr auto function = "SelfAttention::decoding";
    check_pass(function, pass);
    check(config_.causal, function, "attention is not causal");
    const AttentionLayout layout = layout_of(pass);
    check_rotations(function, layout);
    const auto kept = [&](const Parameter<Scalar>& weight) {
      return KeptWeight<Kernel>(pass.workspace, view(weight.value), Orientation::natural);
    };
    Decoding decoding{{pattern_of(pass.num_hashes), pass.batch, config_.num_heads, K()},
                      rotations_for(layout, pass),
                      kept(projections_.query()),
                      kept(projections_.value()),
                      kept(projections_.output()),
                      {}};
    if (!layout.shared) decoding.key.emplace(kept(projections_.key()));
    return decoding;
  }

  /// Throws `std::invalid_argument` unless `prefill` can take these arguments.
  template <ResidualHalf Half>
  void check_prefill(const Half& x, const Half& y, const Decoding& decoding,
                     const Pass& pass) const {
    constexpr auto function = "SelfAttention::prefill";
    check_rows(function, x, y, pass);
    check_state(function, decoding.state, pass);
  }

  /// y += f(x) for prompts, whose keys and values become the state: that of the selected sequences
  /// must be empty. The bits of `forward`.
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit
  template <ResidualHalf Half>
  void prefill(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_prefill(x, y, decoding, pass);
    const AttentionLayout layout(decoding.state.pattern(), config_.causal, pass.length,
                                 pass.is_real);
    Saved none;
    forward_groups(x, y, {layout, matrix_of(decoding.rotations, layout), none}, pass,
                   [&](const Group& group, const Bucket* buckets) {
                     decoding.state.keep(pass.workspace, group.heads, buckets);
                     if (mixture_) decoding.state.keep_unmixed(group.heads, group.values);
                   });
  }

  /// Throws `std::invalid_argument` unless `decode` can take these arguments.
  template <ResidualHalf Half>
  void check_decode(const Half& x, const Half& y, const Decoding& decoding,
                    const Pass& pass) const {
    constexpr auto function = "SelfAttention::decode";
    check_rows(function, x, y, pass);
    check_equal(function, "length", pass.length, "one token,", 1);
    check_state(function, decoding.state, pass);
    check_equal(function, "rows of the kept query weight", decoding.query.packed().depth(), "width",
                config_.width);
  }

  /// y += f(x) for the next token of each sequence, x and y `[B, D]`, whose keys and values become
  /// part of the state. The bits of `forward`, if all heads are one group there.
  /// @param pass  length 1, no mask
  /// @throw std::invalid_argument if the shapes are others than those of the state
  template <ResidualHalf Half>
  void decode(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_decode(x, y, decoding, pass);
    const HeadGroup group{1, 0, pass.batch, 0, config_.num_heads};
    const AttentionLayout layout(decoding.state.pattern(), config_.causal, 1);
    Scratch scratch(pass.workspace);
    const auto array = [&] { return scratch.matrix<Scalar>(pass.batch, all_width()); };
    const auto query = array(), key = layout.shared ? query : array(), value = array();
    auto heads = without_arrays<Scalar>(group, layout, config_.num_heads, K(), {});
    heads.query = query;
    heads.key = key;
    heads.value = value;
    heads.out = array();
    projections_.forward(x, group,
                         {decoding.query.packed(), decoding.key ? &decoding.key->packed() : nullptr,
                          decoding.value.packed()},
                         {query, key, value}, pass);
    Bucket* buckets = nullptr;
    if (layout.is_hashed) {
      buckets = scratch.take<Bucket>(pass.batch * config_.num_heads * layout.rounds);
      hash(heads, *matrix_of(decoding.rotations, layout), buckets, pass);
    }
    if (mixture_) {
      const auto mixed = array();
      for (Index b = 0; b < pass.batch; ++b) {
        for (Index h = 0; h < config_.num_heads; ++h) {
          Scalar* previous = decoding.state.unmixed(b, h);
          mixture_->mix(h, K(), value.row(b) + h * K(), previous, mixed.row(b) + h * K());
          std::copy_n(value.row(b) + h * K(), K(), previous);
        }
      }
      heads.value = mixed;
    }
    decoding.state.attend_next(pass.workspace, heads, buckets);
    projections_.add_output(heads.out, group, decoding.output.packed(), Sign::plus, y, pass);
  }

  /// Throws `std::invalid_argument` unless `reverse` can take these arguments.
  template <ResidualHalf Half>
  void check_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
                     const MatrixView<const Scalar>& dx, const Saved& saved,
                     const Pass& pass) const {
    checked_reverse(x, y, dy, dx, saved, pass);
  }

  /// y -= f(x) (unless the pass says that it need not), dx += (df/dx)^T dy, parameter gradients +=
  /// ...
  /// @param dy  finite, at padding too: a product of zero and NaN is not zero
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit, what
  /// another pass has saved, and gradients that are not allocated
  template <ResidualHalf Half>
  void reverse(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
               const MatrixView<Scalar>& dx, Saved& saved, const Pass& pass) {
    const AttentionLayout layout = checked_reverse(x, y, dy, dx, saved, pass);
    const auto rotations = saved.buckets.empty() ? rotations_for(layout, pass) : std::nullopt;
    reverse_groups(x, y, dy, dx, {layout, matrix_of(rotations, layout), saved}, pass);
  }

  /// Bytes of bucket ids in `Saved`, where they are needed: halves that are not exact, or a context
  /// that is kept.
  std::size_t bucket_bytes(Index batch, Index length) const {
    return sizeof(Bucket) * static_cast<std::size_t>(num_bucket_ids(layout_at(length), batch));
  }

  /// Bytes of the context in `Saved`, if it is kept.
  std::size_t context_bytes(Index batch, Index length) const {
    return sizeof(Scalar) * static_cast<std::size_t>(context_size(layout_at(length), batch));
  }

  /// Rounds that the layer hashes in at a length, none if it does not.
  /// @param num_hashes  as in `Pass`
  Index rounds(Index length, Index num_hashes = 0) const {
    return layout_at(length, num_hashes).hash_rounds();
  }

  /// Multiply-adds for each row that `reverse` saves when it need not subtract.
  double output_work() const { return projections_.output_work(); }

  /// Multiply-adds for each row that `reverse` saves when the context is kept, hashing apart.
  double context_work(Index length) const {
    const AttentionLayout layout = layout_at(length);
    const Window& window = layout.window;
    const Index keys =
        layout.blocks == BlockKind::tiles
            ? (config_.causal ? length / 2 : length)
            : layout.rounds * std::min(window.max_keys(), round_up(length, window.chunk_length));
    return 2 * static_cast<double>(keys) * static_cast<double>(all_width());
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  void plan(ScratchPlan& scratch, const SavedPass& sizes, const BranchStorage& stored) const {
    const PlannedPass pass{
        .workspace = scratch, .batch = sizes.batch, .length = sizes.length, .training = true};
    const AttentionLayout layout = layout_at(sizes.length, sizes.num_hashes);
    const MatrixView<const Scalar> rotations(nullptr, all_width(), layout.rotation_columns(), 0);
    Saved none;
    const Walk walk{layout, rotations, none, !sizes.is_exact || stored.context};
    FloatingHalf<Scalar> half;
    forward_groups(half, half, walk, pass);
    // A plan changes nothing, but a branch that is reversed does.
    const_cast<SelfAttention&>(*this).reverse_groups(half, half, {}, {}, walk, pass);
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
  }

  /// A group on its way through the branch.
  struct Group {
    MultiHead<Scalar> heads;
    MatrixView<Scalar> values;  // before they are mixed
  };
  /// What a walk over the groups of heads needs beside the halves.
  struct Walk {
    const AttentionLayout& layout;
    std::optional<MatrixView<const Scalar>> rotations;  // [H*K, R*columns]; else buckets are saved
    Saved& saved;
    bool keeps_buckets;

    Walk(const AttentionLayout& layout_, const std::optional<MatrixView<const Scalar>>& rotations_,
         Saved& saved_)
        : Walk(layout_, rotations_, saved_, !saved_.buckets.empty()) {}
    Walk(const AttentionLayout& layout_, const std::optional<MatrixView<const Scalar>>& rotations_,
         Saved& saved_, bool keeps_buckets_)
        : layout(layout_), rotations(rotations_), saved(saved_), keeps_buckets(keeps_buckets_) {}
  };

  Index K() const { return config_.head_width; }
  Index all_width() const { return config_.num_heads * config_.head_width; }

  /// Throws unless the state is one of this layer.
  void check_state(std::string_view function, const DecodingState<Scalar, Kernel>& state,
                   const Pass& pass) const {
    check_equal(function, "batch", pass.batch, "selected sequences of the state",
                state.num_selected());
    check_equal(function, "heads of the state", state.heads(), "num_heads", config_.num_heads);
    check_equal(function, "head width of the state", state.head_width(), "head_width", K());
    const auto* lsh = std::get_if<LshPattern>(&state.pattern());
    check(state.pattern() == pattern_of(lsh != nullptr ? lsh->num_hashes : 0), function,
          "the state is that of another pattern");
  }

  template <typename Half>
  void check_rows(std::string_view function, const Half& x, const Half& y, const Pass& pass) const {
    check_pass(function, pass);
    check_between(function, "num_hashes", pass.num_hashes, 0, max_hashes);
    check(pass.length < (Index{1} << 24), function, "length is ", pass.length,
          ", must be less than 2^24");
    check_equal(function, "rows of x", x.rows(), "B*T", pass.rows());
    check_equal(function, "rows of y", y.rows(), "B*T", pass.rows());
    check_equal(function, "columns of x", x.columns(), "width", config_.width);
    check_equal(function, "columns of y", y.columns(), "width", config_.width);
  }

  /// What `check_forward` checks.
  /// @return the layout of the pass
  template <typename Half>
  AttentionLayout checked_forward(const Half& x, const Half& y, const Saved& saved,
                                  const Pass& pass) const {
    constexpr auto function = "SelfAttention::forward";
    check_rows(function, x, y, pass);
    AttentionLayout layout = layout_of(pass);
    check_rotations(function, layout);
    check_saved(function, layout, saved, pass);
    return layout;
  }

  /// What `check_reverse` checks.
  /// @return the layout of the pass
  template <typename Half>
  AttentionLayout checked_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
                                  const MatrixView<const Scalar>& dx, const Saved& saved,
                                  const Pass& pass) const {
    constexpr auto function = "SelfAttention::reverse";
    check_rows(function, x, y, pass);
    check_equal(function, "rows of dy", dy.rows, "B*T", pass.rows());
    check_equal(function, "columns of dy", dy.columns, "width", config_.width);
    check_equal(function, "rows of dx", dx.rows, "B*T", pass.rows());
    check_equal(function, "columns of dx", dx.columns, "width", config_.width);
    if (!saved.buckets.empty() || !saved.context.empty()) {
      check_equal(function, "batch of saved", saved.batch, "batch", pass.batch);
      check_equal(function, "length of saved", saved.length, "length", pass.length);
    }
    AttentionLayout layout = layout_of(pass);
    check_saved(function, layout, saved, pass);
    check_gradients(function, *this);
    if (layout.is_hashed) {
      check(is_exact(y) || !saved.buckets.empty(), function,
            "saved.buckets is empty, must have the bucket ids of the forward pass where halves are "
            "not exact");
      if (saved.buckets.empty()) {
        check_rotations(function, layout);
      } else {
        detail::check_bucket_ids(function, pass.workspace, pass.batch, pass.length,
                                 num_buckets(layout.bucket_factors), pass.is_real,
                                 saved.buckets.data(), static_cast<Index>(saved.buckets.size()));
      }
    }
    return layout;
  }

  /// Throws unless rotations that were set, if any, are those of the layout.
  void check_rotations(std::string_view function, const AttentionLayout& layout) const {
    if (!layout.is_hashed || !rotations_) return;
    check_equal(function, "rotations dimension 2", rotations_->dimension(2), "num_hashes",
                layout.rounds);
    check_equal(function, "rotations dimension 3", rotations_->dimension(3),
                "half the sum of num_buckets", rotation_columns(layout.bucket_factors));
  }

  /// Throws unless what is kept, or will be, has the sizes of the pass.
  void check_saved(std::string_view function, const AttentionLayout& layout, const Saved& saved,
                   const Pass& pass) const {
    const Index ids = num_bucket_ids(layout, pass.batch);
    check(saved.buckets.empty() || static_cast<Index>(saved.buckets.size()) == ids, function,
          "saved.buckets has ", saved.buckets.size(), " elements, must have ", ids, " or none");
    if (saved.context.empty()) return;
    check_equal(function, "size of saved.context", static_cast<Index>(saved.context.size()),
                "that of the context", context_size(layout, pass.batch));
    check(ids == 0 || !saved.buckets.empty(), function,
          "saved.buckets is empty, must be there where saved.context is");
  }

  struct Nothing {
    void operator()(const auto&...) const {}
  };

  /// y += f(x), group by group.
  /// @param after  is called as after(group, buckets) when a group has attended
  template <typename Half, ScratchSource Source, typename After = Nothing>
  void forward_groups(const Half& x, Half& y, const Walk& walk, const BasicPass<Source>& pass,
                      const After& after = {}) const {
    for_each_group(pass, [&](const HeadGroup& part) {
      ScratchOf<Source> scratch(pass.workspace);
      Group group = project(scratch, x, part, walk.layout, pass);
      const Bucket* buckets = order_tokens(scratch, group.heads, walk, pass);
      attend<Scalar, Kernel>(pass.workspace, group.heads, dropout_of_weights(pass));
      for_each_context(group.heads, walk.saved,
                       [](Index n, const Scalar* now, Scalar* kept) { std::copy_n(now, n, kept); });
      after(group, buckets);
      projections_.add_output(group.heads.out, part, Sign::plus, y, pass);
    });
  }

  /// y -= f(x) unless the pass need not, dx += (df/dx)^T dy and parameter gradients, group by
  /// group.
  template <typename Half, ScratchSource Source>
  void reverse_groups(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
                      const MatrixView<Scalar>& dx, const Walk& walk,
                      const BasicPass<Source>& pass) {
    auto& workspace = pass.workspace;
    for_each_group(pass, [&](const HeadGroup& part) {
      ScratchOf<Source> scratch(workspace);
      auto [heads, values] = project(scratch, x, part, walk.layout, pass);
      order_tokens(scratch, heads, walk, pass);
      if (walk.saved.context.empty()) {
        attend<Scalar, Kernel>(workspace, heads, dropout_of_weights(pass));
      }
      for_each_context(heads, walk.saved,
                       [](Index n, Scalar* now, const Scalar* kept) { std::copy_n(kept, n, now); });
      if (pass.subtract) projections_.add_output(heads.out, part, Sign::minus, y, pass);

      auto* delta = scratch.template take<Scalar>(part.batch * part.heads * pass.length);
      const auto dout = projections_.output_backward(heads.out, part, dy, delta, pass);
      const Index rows = part.rows(), columns = part.heads * K();
      const auto dquery = scratch.template matrix<Scalar>(rows, columns);
      const auto dkey =
          walk.layout.shared ? dquery : scratch.template matrix<Scalar>(rows, columns);
      const CarriedValues<Scalar> carried(scratch, walk.layout, rows, columns);
      attend_backward<Scalar, Kernel>(workspace, heads, dropout_of_weights(pass), dout, delta,
                                      dquery, dkey, carried.of_keys());
      carried.carry_back(workspace, heads);
      auto dvalue = carried.of_tokens();
      if (mixture_) {
        mixture_->backward(workspace, heads, dvalue, values);
        dvalue = values;
      }
      projections_.backward(x, part, {dquery, dkey, dvalue}, dx, pass);
    });
  }

  /// Calls `body(group)` for all groups; for a plan only the first, which is the largest.
  template <ScratchSource Source, typename Body>
  void for_each_group(const BasicPass<Source>& pass, const Body& body) const {
    bool is_first = true;
    for_each_head_group<Scalar>(pass.batch, pass.length, config_.num_heads, K(),
                                [&](const HeadGroup& group) {
                                  if (is_first || !only_plans<Source>) body(group);
                                  is_first = false;
                                });
  }

  template <ScratchSource Source>
  Dropout<Scalar> dropout_of_weights(const BasicPass<Source>& pass) const {
    return {pass.training ? config_.attention_dropout : 0.0, pass.key, Purpose::attention_dropout};
  }

  /// Bucket ids of all heads.
  Index num_bucket_ids(const AttentionLayout& layout, Index batch) const {
    return batch * layout.length * config_.num_heads * layout.hash_rounds();
  }
  Index context_size(const AttentionLayout& layout, Index batch) const {
    return batch * layout.length * (all_width() + layout.num_statistics() * config_.num_heads);
  }

  /// Calls `copy(count, array, kept)` for the arrays of a group that `attend` writes, if they are
  /// kept.
  template <typename Copy>
  void for_each_context(const MultiHead<Scalar>& arrays, Saved& saved, const Copy& copy) const {
    if (saved.context.empty()) return;
    const Index T = arrays.length(), per_head = T * (K() + arrays.layout->num_statistics());
    Scalar* kept =
        saved.context.data() +
        (arrays.first_sequence * config_.num_heads + arrays.first_head * arrays.batch) * per_head;
    const Index statistics = arrays.batch * arrays.heads * T;
    for (Index i = 0; i < arrays.out.rows; ++i, kept += arrays.out.columns) {
      copy(arrays.out.columns, arrays.out.row(i), kept);
    }
    for (Scalar* statistic : {arrays.maximum, arrays.normaliser, arrays.key_scale}) {
      if (statistic == nullptr) continue;
      copy(statistics, statistic, kept);
      kept += statistics;
    }
  }

  /// The pattern with the rounds of a pass.
  AttentionPattern pattern_of(Index num_hashes) const {
    AttentionPattern pattern = config_.pattern;
    if (auto* lsh = std::get_if<LshPattern>(&pattern); lsh != nullptr && num_hashes > 0) {
      lsh->num_hashes = num_hashes;
    }
    return pattern;
  }
  AttentionLayout layout_of(const Pass& pass) const {
    return {config_.pattern, config_.causal, pass.length, pass.is_real, pass.num_hashes};
  }
  /// The same without a mask, for sizes.
  AttentionLayout layout_at(Index length, Index num_hashes = 0) const {
    return {config_.pattern, config_.causal, length, {}, num_hashes};
  }

  std::optional<Tensor<Scalar, 4>> rotations_for(const AttentionLayout& layout,
                                                 const Pass& pass) const {
    if (!layout.is_hashed) return {};
    if (rotations_) return rotations_;
    return random_rotations<Scalar>(config_.num_heads, K(), layout.rounds, layout.bucket_factors,
                                    pass.key);
  }

  /// Rotations of all heads as a matrix.
  std::optional<MatrixView<const Scalar>> matrix_of(
      const std::optional<Tensor<Scalar, 4>>& rotations, const AttentionLayout& layout) const {
    if (!rotations) return {};
    return MatrixView<const Scalar>(rotations->data(), all_width(), layout.rotation_columns());
  }

  /// Queries, keys and values of a group, and memory for what `attend` writes.
  template <ScratchMemory Memory, typename Half, ScratchSource Source>
  Group project(Memory& scratch, const Half& x, const HeadGroup& part,
                const AttentionLayout& layout, const BasicPass<Source>& pass) const {
    const Index rows = part.rows(), columns = part.heads * K();
    const auto array = [&] { return scratch.template matrix<Scalar>(rows, columns); };
    const auto query = array(), key = layout.shared ? query : array();
    const CarriedValues<Scalar> carried(scratch, layout, rows, columns);
    const auto values = mixture_ ? array() : carried.of_tokens();
    const auto statistic = [&] {
      return scratch.template take<Scalar>(part.batch * part.heads * pass.length);
    };
    auto heads = without_arrays<Scalar>(part, layout, config_.num_heads, K(), pass.is_real);
    heads.query = query;
    heads.key = key;
    heads.value = carried.of_keys();
    heads.out = array();
    heads.maximum = statistic();
    heads.normaliser = statistic();
    heads.key_scale = layout.shared ? statistic() : nullptr;
    projections_.forward(x, part, {query, key, values}, pass);
    if (mixture_) mixture_->forward(pass.workspace, heads, values, carried.of_tokens());
    carried.carry(pass.workspace, heads);
    return {heads, values};
  }

  /// Orders the tokens of a group by bucket, if the layer hashes.
  /// @return bucket ids `[B, H, R, T]` of the group, or null
  template <ScratchMemory Memory, ScratchSource Source>
  const Bucket* order_tokens(Memory& scratch, MultiHead<Scalar>& heads, const Walk& walk,
                             const BasicPass<Source>& pass) const {
    const AttentionLayout& layout = walk.layout;
    if (!layout.is_hashed) return nullptr;
    const Index per_head = layout.rounds * layout.length;
    const Index first = heads.first_sequence * config_.num_heads + heads.first_head;
    heads.order =
        scratch.template take<std::int32_t>(heads.batch * heads.heads * layout.order_size());
    Bucket* buckets = walk.keeps_buckets
                          ? walk.saved.buckets.data() + first * per_head
                          : scratch.template take<Bucket>(heads.batch * heads.heads * per_head);
    if (walk.rotations) hash(heads, *walk.rotations, buckets, pass);
    order_by_bucket(pass.workspace, heads, buckets);
    return buckets;
  }

  /// Bucket ids `[B, H, R, T]` of a group.
  /// @param rotations  of all heads
  template <ScratchSource Source>
  void hash(const MultiHead<Scalar>& heads, const MatrixView<const Scalar>& rotations,
            Bucket* buckets, const BasicPass<Source>& pass) const {
    hash_heads<Scalar, Kernel>(pass.workspace, heads.query, heads.batch, heads.heads, heads.is_real,
                               rotations.middle_rows(heads.first_head * K(), heads.heads * K()),
                               heads.layout->bucket_factors, buckets);
  }

  SelfAttentionConfig config_;
  AttentionProjections<Scalar, Kernel> projections_;
  std::optional<ValueMixture<Scalar>> mixture_;  // of mixed values
  std::optional<Tensor<Scalar, 4>> rotations_;
};

}  // namespace reformer::inline REFORMER_ABI
