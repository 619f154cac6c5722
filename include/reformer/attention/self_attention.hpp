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

#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "reformer/attention/following.hpp"
#include "reformer/attention/multi_head.hpp"
#include "reformer/attention/state.hpp"
#include "reformer/attention/value_mixture.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/operations/layer_norm.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"

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
    AttentionState<Scalar, Kernel> state;
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
        shared_(shares_query_key(config.pattern)),
        norm_(name + ".layer_norm", config.width, config.layer_norm_epsilon),
        query_(name + (shared_ ? ".query_key.weight" : ".query.weight"), Role::weight, config.width,
               all_width()),
        key_(name + ".key.weight", Role::weight, shared_ ? 0 : config.width,
             shared_ ? 0 : all_width()),
        value_(name + ".value.weight", Role::weight, config.width, all_width()),
        output_(name + ".output.weight", Role::weight, all_width(), config.width) {
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
    for_each_group(pass, [&](const HeadGroup& group) {
      Scratch scratch(pass.workspace);
      auto arrays = project_group(scratch, x, group, layout, pass).arrays;
      attend_anew(scratch, arrays, rotations, saved, pass);
      if (!saved.context.empty()) {
        for_each_context(arrays, saved, [](Index n, const Scalar* now, Scalar* kept) {
          std::copy_n(now, n, kept);
        });
      }
      add_output(arrays, group, Sign::plus, y, pass);
    });
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
      return KeptWeight<Kernel>(pass.workspace, view(weight.value), natural);
    };
    Decoding decoding{{pattern_of(pass.num_hashes), pass.batch, config_.num_heads, K()},
                      rotations_for(layout, pass),
                      kept(query_),
                      kept(value_),
                      kept(output_),
                      {}};
    if (!shared_) decoding.key.emplace(kept(key_));
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
    for_each_group(pass, [&](const HeadGroup& group) {
      Scratch scratch(pass.workspace);
      auto [arrays, values] = project_group(scratch, x, group, layout, pass);
      const Bucket* buckets = attend_anew(scratch, arrays, decoding.rotations, none, pass);
      decoding.state.keep(pass.workspace, arrays, buckets);
      if (mixture_) decoding.state.keep_unmixed(arrays, values);
      add_output(arrays, group, Sign::plus, y, pass);
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
    auto arrays = arrays_of(group, layout, pass);
    const auto query = scratch.matrix<Scalar>(pass.batch, all_width());
    const auto key = shared_ ? query : scratch.matrix<Scalar>(pass.batch, all_width());
    const auto value = scratch.matrix<Scalar>(pass.batch, all_width());
    arrays.query = query;
    arrays.key = key;
    arrays.value = value;
    arrays.out = scratch.matrix<Scalar>(pass.batch, all_width());
    project(x, group, decoding.query.packed(), decoding.key ? &decoding.key->packed() : nullptr,
            decoding.value.packed(), query, key, value, pass);
    Bucket* buckets = nullptr;
    if (layout.is_hashed) {
      buckets = scratch.take<Bucket>(pass.batch * config_.num_heads * layout.rounds);
      hash(arrays, *decoding.rotations, buckets, pass);
    }
    if (mixture_) {
      const auto mixed = scratch.matrix<Scalar>(pass.batch, all_width());
      for (Index b = 0; b < pass.batch; ++b) {
        for (Index h = 0; h < config_.num_heads; ++h) {
          Scalar* previous = decoding.state.unmixed(b, h);
          mixture_->mix(h, K(), value.row(b) + h * K(), previous, mixed.row(b) + h * K());
          std::copy_n(value.row(b) + h * K(), K(), previous);
        }
      }
      arrays.value = mixed;
    }
    decoding.state.attend_next(pass.workspace, arrays, buckets);
    add_output(arrays, group, decoding.output.packed(), Sign::plus, y, pass);
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
    for_each_group(pass, [&](const HeadGroup& group) {
      Scratch scratch(pass.workspace);
      auto [arrays, values] = project_group(scratch, x, group, layout, pass);
      if (!saved.context.empty()) {
        order_tokens(scratch, arrays, rotations, saved, pass);
        for_each_context(arrays, saved, [](Index n, Scalar* now, const Scalar* kept) {
          std::copy_n(kept, n, now);
        });
      } else {
        attend_anew(scratch, arrays, rotations, saved, pass);
      }
      if (pass.subtract) add_output(arrays, group, Sign::minus, y, pass);
      auto* delta = scratch.take<Scalar>(group.batch * group.heads * pass.length);
      output_backward(arrays, group, dy, delta, pass);
      const auto dquery = scratch.matrix<Scalar>(group.rows(), group.heads * K());
      const auto dkey = shared_ ? dquery : scratch.matrix<Scalar>(dquery.rows, dquery.columns);
      const CarriedValues<Scalar> dvalues(scratch, layout, dquery.rows, dquery.columns);
      attend_backward<Scalar, Kernel>(pass.workspace, arrays, dropout_of_weights(pass), arrays.out,
                                      delta, dquery, dkey, dvalues.of_keys());
      dvalues.carry_back(pass.workspace, arrays);
      auto dvalue = dvalues.of_tokens();
      if (mixture_) {
        mixture_->backward(pass.workspace, arrays, dvalue, values);
        dvalue = values;
      }
      projections_backward(x, group, dquery, dkey, dvalue, dx, pass);
    });
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
  double output_work() const {
    return static_cast<double>(all_width()) * static_cast<double>(config_.width);
  }

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
  void plan(ScratchPlan& scratch, const SavedPass& pass, const BranchStorage& stored) const {
    const Index batch = pass.batch, length = pass.length;
    const bool keep_buckets = !pass.is_exact || stored.context;
    const auto group = head_group_size<Scalar>(batch, length, config_.num_heads, K());
    const Index sequences = group.first, heads = group.second;
    const Index D = config_.width, rows = sequences * length, width = heads * K();
    const Index panel = std::min(panel_rows, rows), statistics = sequences * heads * length;
    const Index projections = shared_ ? 2 : 3;
    const AttentionLayout layout = layout_at(length);
    scratch.scope([&] {
      for (Index i = 0; i < projections; ++i) scratch.matrix<Scalar>(rows, width);
      CarriedValues<Scalar>::plan(scratch, layout, rows, width);
      if (mixture_) scratch.matrix<Scalar>(rows, width);
      for (Index i = 0; i < layout.num_statistics(); ++i) scratch.take<Scalar>(statistics);
      scratch.scope([&] {
        for (Index i = 0; i < projections; ++i) PackedWeight<Kernel>::plan(scratch, D, width);
        plan_weight_products<Kernel>(scratch, D);
      });
      if (layout.is_hashed) {
        scratch.take<std::int32_t>(sequences * heads * layout.order_size());
        if (!keep_buckets) scratch.take<Bucket>(statistics * layout.rounds);
        plan_hash_heads<Scalar, Kernel>(scratch, K(), layout.rotation_columns());
        scratch.scope([&] { scratch.per_thread<std::int32_t>(layout.sort_size()); });
      }
      plan_attend<Scalar, Kernel>(scratch, layout, K());
      scratch.scope([&] {  // add_output
        PackedWeight<Kernel>::plan(scratch, width, D);
        plan_weight_product_tiles<Kernel>(scratch, width, D, 1);
      });
      scratch.take<Scalar>(statistics);
      scratch.scope([&] {  // output_backward
        PackedWeight<Kernel>::plan(scratch, D, width);
        if (config_.dropout > 0) scratch.matrix<Scalar>(panel, D);
        plan_weight_gradient<Kernel>(scratch, panel);
        plan_weight_product_tiles<Kernel>(scratch, D, width, K());
      });
      for (Index i = 0; i < projections - 1; ++i) scratch.matrix<Scalar>(rows, width);
      CarriedValues<Scalar>::plan(scratch, layout, rows, width);
      plan_attend<Scalar, Kernel>(scratch, layout, K());
      if (mixture_) ValueMixture<Scalar>::plan(scratch, sequences, length, heads);
      scratch.scope([&] {  // projections_backward
        for (Index i = 0; i < projections; ++i) PackedWeight<Kernel>::plan(scratch, width, D);
        scratch.matrix<Scalar>(panel, D);
        plan_weight_gradient<Kernel>(scratch, panel);
        plan_weight_product<Kernel>(scratch, width);
        norm_.plan_backward(scratch, panel);
      });
    });
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
    self.norm_.for_each_parameter(f);
    f(self.query_);
    if (!self.shared_) f(self.key_);
    f(self.value_);
    f(self.output_);
    if (self.mixture_) f(self.mixture_->parameter());
  }

  static constexpr auto natural = Orientation::natural;
  static constexpr auto transposed = Orientation::transposed;

  Index K() const { return config_.head_width; }
  Index all_width() const { return config_.num_heads * config_.head_width; }

  /// Throws unless the state is one of this layer.
  void check_state(std::string_view function, const AttentionState<Scalar, Kernel>& state,
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

  template <typename Body>
  void for_each_group(const Pass& pass, const Body& body) const {
    for_each_head_group<Scalar>(pass.batch, pass.length, config_.num_heads, K(), body);
  }

  Dropout<Scalar> dropout_of_weights(const Pass& pass) const {
    return {pass.training ? config_.attention_dropout : 0.0, pass.key, Purpose::attention_dropout};
  }
  Dropout<Scalar> dropout_of_output(const Pass& pass) const {
    return {pass.training ? config_.dropout : 0.0, pass.key, Purpose::branch_dropout};
  }

  /// Bucket ids of all heads.
  Index num_bucket_ids(const AttentionLayout& layout, Index batch) const {
    return batch * layout.length * config_.num_heads * layout.hash_rounds();
  }
  Index context_size(const AttentionLayout& layout, Index batch) const {
    return batch * layout.length * (all_width() + layout.num_statistics() * config_.num_heads);
  }

  /// Calls `copy(count, array, kept)` for the arrays of a group that `attend` writes.
  template <typename Copy>
  void for_each_context(const MultiHead<Scalar>& arrays, Saved& saved, const Copy& copy) const {
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

  MultiHead<Scalar> arrays_of(const HeadGroup& group, const AttentionLayout& layout,
                              const Pass& pass) const {
    return without_arrays<Scalar>(group, layout, config_.num_heads, K(), pass.is_real);
  }

  struct Projected {
    MultiHead<Scalar> arrays;
    MatrixView<Scalar> values;  // before they are mixed; undefined where they are not
  };

  /// Queries, keys and values of a group, and memory for what `attend` writes.
  template <typename Half>
  Projected project_group(Scratch& scratch, const Half& x, const HeadGroup& group,
                          const AttentionLayout& layout, const Pass& pass) const {
    const Index rows = group.rows(), width = group.heads * K();
    const auto query = scratch.matrix<Scalar>(rows, width);
    const auto key = shared_ ? query : scratch.matrix<Scalar>(rows, width);
    const CarriedValues<Scalar> carried(scratch, layout, rows, width);
    const auto values = mixture_ ? scratch.matrix<Scalar>(rows, width) : carried.of_tokens();
    const Index statistics = group.batch * group.heads * pass.length;

    auto arrays = arrays_of(group, layout, pass);
    arrays.query = query;
    arrays.key = key;
    arrays.value = carried.of_keys();
    arrays.out = scratch.matrix<Scalar>(rows, width);
    arrays.maximum = scratch.take<Scalar>(statistics);
    arrays.normaliser = scratch.take<Scalar>(statistics);
    arrays.key_scale = shared_ ? scratch.take<Scalar>(statistics) : nullptr;

    project(x, group, query, key, values, pass);
    if (mixture_) mixture_->forward(pass.workspace, arrays, values, carried.of_tokens());
    carried.carry(pass.workspace, arrays);
    return {arrays, values};
  }

  /// Orders the tokens by bucket. Hashes if rotations are given, else uses the saved buckets.
  /// @return bucket ids `[B, H, R, T]` of the group, null if the layer does not hash
  const Bucket* order_tokens(Scratch& scratch, MultiHead<Scalar>& arrays,
                             const std::optional<Tensor<Scalar, 4>>& rotations, Saved& saved,
                             const Pass& pass) const {
    const AttentionLayout& layout = *arrays.layout;
    if (!layout.is_hashed) return nullptr;
    const Index per_head = layout.rounds * layout.length;
    const Index first = arrays.first_sequence * config_.num_heads + arrays.first_head;
    arrays.order = scratch.take<std::int32_t>(arrays.batch * arrays.heads * layout.order_size());
    Bucket* buckets = saved.buckets.empty()
                          ? scratch.take<Bucket>(arrays.batch * arrays.heads * per_head)
                          : saved.buckets.data() + first * per_head;
    if (rotations) hash(arrays, *rotations, buckets, pass);
    order_by_bucket(pass.workspace, arrays, buckets);
    return buckets;
  }

  /// Bucket ids `[B, H, R, T]` of a group, by the rotations of all heads.
  void hash(const MultiHead<Scalar>& arrays, const Tensor<Scalar, 4>& rotations, Bucket* buckets,
            const Pass& pass) const {
    const MatrixView<const Scalar> all(rotations.data(), all_width(),
                                       arrays.layout->rotation_columns());
    hash_heads<Scalar, Kernel>(pass.workspace, arrays.query, arrays.batch, arrays.heads,
                               arrays.is_real,
                               all.middle_rows(arrays.first_head * K(), arrays.heads * K()),
                               arrays.layout->bucket_factors, buckets);
  }

  /// What the forward pass computes and the backward pass computes again.
  /// @return as `order_tokens`
  const Bucket* attend_anew(Scratch& scratch, MultiHead<Scalar>& arrays,
                            const std::optional<Tensor<Scalar, 4>>& rotations, Saved& saved,
                            const Pass& pass) const {
    const Bucket* buckets = order_tokens(scratch, arrays, rotations, saved, pass);
    attend<Scalar, Kernel>(pass.workspace, arrays, dropout_of_weights(pass));
    return buckets;
  }

  MatrixView<const Scalar> columns_of(const Parameter<Scalar>& weight,
                                      const HeadGroup& group) const {
    return view(weight.value).middle_columns(group.first_head * K(), group.heads * K());
  }
  MatrixView<const Scalar> output_rows(const HeadGroup& group) const {
    return view(output_.value).middle_rows(group.first_head * K(), group.heads * K());
  }

  /// q, k, v = LN(x) W_q, LN(x) W_k, LN(x) W_v of the group's heads
  template <typename Half>
  void project(const Half& x, const HeadGroup& group, const MatrixView<Scalar>& query,
               const MatrixView<Scalar>& key, const MatrixView<Scalar>& value,
               const Pass& pass) const {
    Workspace& workspace = pass.workspace;
    Scratch scratch(workspace);
    const PackedWeight<Kernel> to_query(scratch, workspace, columns_of(query_, group), natural);
    const PackedWeight<Kernel> to_value(scratch, workspace, columns_of(value_, group), natural);
    std::optional<PackedWeight<Kernel>> to_key;
    if (!shared_) to_key.emplace(scratch, workspace, columns_of(key_, group), natural);
    project(x, group, to_query, to_key ? &*to_key : nullptr, to_value, query, key, value, pass);
  }
  /// @param to_key  none if it is shared
  template <typename Half>
  void project(const Half& x, const HeadGroup& group, const PackedWeight<Kernel>& to_query,
               const PackedWeight<Kernel>* to_key, const PackedWeight<Kernel>& to_value,
               const MatrixView<Scalar>& query, const MatrixView<Scalar>& key,
               const MatrixView<Scalar>& value, const Pass& pass) const {
    const auto norm = [&](Index row, const MatrixView<Scalar>& tile) {
      norm_.forward(x, group.first_row() + row, tile, pass);
    };
    if (to_key != nullptr) {
      weight_products<Kernel>(
          pass.workspace, query.rows, config_.width, norm,
          {{to_query.whole(), query}, {to_key->whole(), key}, {to_value.whole(), value}});
    } else {
      weight_products<Kernel>(pass.workspace, query.rows, config_.width, norm,
                              {{to_query.whole(), query}, {to_value.whole(), value}});
    }
  }

  /// y +-= dropout(out W_o) of the group
  template <typename Half>
  void add_output(const MultiHead<Scalar>& arrays, const HeadGroup& group, Sign sign, Half& y,
                  const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const PackedWeight<Kernel> to_output(scratch, pass.workspace, output_rows(group), natural);
    add_output(arrays, group, to_output, sign, y, pass);
  }
  template <typename Half>
  void add_output(const MultiHead<Scalar>& arrays, const HeadGroup& group,
                  const PackedWeight<Kernel>& to_output, Sign sign, Half& y,
                  const Pass& pass) const {
    const auto output_dropout = dropout_of_output(pass);
    weight_product_tiles<Kernel>(pass.workspace, arrays.out, to_output.whole(), 1,
                                 [&](const MatrixView<Scalar>& tile, Index row, Index column) {
                                   const Index first = group.first_row() + row;
                                   output_dropout.apply_tile(tile, first, column, config_.width);
                                   for (Index i = 0; i < tile.rows; ++i) {
                                     accumulate(y, sign, first + i, column, tile.columns,
                                                tile.row(i));
                                   }
                                 });
  }

  /// dW_o += out^T df, delta = <dout, out>, and out is overwritten by dout = df W_o^T.
  void output_backward(const MultiHead<Scalar>& arrays, const HeadGroup& group,
                       const MatrixView<const Scalar>& dy, Scalar* delta, const Pass& pass) {
    Workspace& workspace = pass.workspace;
    Scratch scratch(workspace);
    const PackedWeight<Kernel> from_output(scratch, workspace, output_rows(group), transposed);
    const Index D = config_.width, T = pass.length;
    const Index panel = std::min(panel_rows, arrays.out.rows);
    const auto output_dropout = dropout_of_output(pass);
    const auto dropped =
        output_dropout.active() ? scratch.matrix<Scalar>(panel, D) : MatrixView<Scalar>{};
    const auto dweight =
        view(output_.gradient).middle_rows(group.first_head * K(), group.heads * K());

    for (Index first = 0; first < arrays.out.rows; first += panel) {
      const Index rows = std::min(panel, arrays.out.rows - first);
      const auto out = arrays.out.middle_rows(first, rows);
      MatrixView<const Scalar> dout = dy.middle_rows(group.first_row() + first, rows);
      if (output_dropout.active()) {
        for_each_row_tile(workspace.threads(), rows, [&](Index row, Index count, int) {
          const auto tile = dropped.middle_rows(row, count);
          for (Index i = 0; i < count; ++i) std::copy_n(dout.row(row + i), D, tile.row(i));
          output_dropout.apply_tile(tile, group.first_row() + first + row, 0, D);
        });
        dout = dropped.middle_rows(0, rows);
      }
      accumulate_weight_gradient<Kernel>(workspace, out, dout, dweight);
      weight_product_tiles<Kernel>(
          workspace, dout, from_output.whole(), K(),
          [&](const MatrixView<Scalar>& tile, Index row, Index column) {
            for (Index i = 0; i < tile.rows; ++i) {
              const Index t = first + row + i;  // row of the group
              Scalar* old = out.row(row + i) + column;
              for (Index k = 0; k < tile.columns; k += K()) {
                delta[(t / T * group.heads + (column + k) / K()) * T + t % T] =
                    simd::dot(K(), tile.row(i) + k, old + k);
              }
              std::copy_n(tile.row(i), tile.columns, old);
            }
          });
    }
  }

  /// Gradients of the projections and of the layer norm.
  template <typename Half>
  void projections_backward(const Half& x, const HeadGroup& group, const MatrixView<Scalar>& dquery,
                            const MatrixView<Scalar>& dkey, const MatrixView<Scalar>& dvalue,
                            const MatrixView<Scalar>& dx, const Pass& pass) {
    Workspace& workspace = pass.workspace;
    Scratch scratch(workspace);
    const PackedWeight<Kernel> from_query(scratch, workspace, columns_of(query_, group),
                                          transposed);
    const PackedWeight<Kernel> from_value(scratch, workspace, columns_of(value_, group),
                                          transposed);
    std::optional<PackedWeight<Kernel>> from_key;
    if (!shared_) from_key.emplace(scratch, workspace, columns_of(key_, group), transposed);
    const Index D = config_.width, width = dquery.columns;
    const Index panel = std::min(panel_rows, dquery.rows);
    const auto normed_panel = scratch.matrix<Scalar>(panel, D);
    const auto gradient_of = [&](Parameter<Scalar>& weight) {
      return view(weight.gradient).middle_columns(group.first_head * K(), width);
    };
    for (Index first = 0; first < dquery.rows; first += panel) {
      const Index rows = std::min(panel, dquery.rows - first);
      const Index first_row = group.first_row() + first;
      const auto normed = normed_panel.middle_rows(0, rows);
      for_each_row_tile(workspace.threads(), rows, [&](Index row, Index count, int) {
        norm_.forward(x, first_row + row, normed.middle_rows(row, count), pass);
      });
      const MatrixView<const Scalar> dq = dquery.middle_rows(first, rows);
      const MatrixView<const Scalar> dk = dkey.middle_rows(first, rows);
      const MatrixView<const Scalar> dv = dvalue.middle_rows(first, rows);
      accumulate_weight_gradient<Kernel>(workspace, normed, dq, gradient_of(query_));
      if (!shared_) accumulate_weight_gradient<Kernel>(workspace, normed, dk, gradient_of(key_));
      accumulate_weight_gradient<Kernel>(workspace, normed, dv, gradient_of(value_));
      // dLN = dq W_q^T + dk W_k^T + dv W_v^T, in place of LN(x), which is not needed any more
      const auto add = [&](std::initializer_list<WeightTerm<Kernel>> terms) {
        weight_product(workspace, terms, normed, Write::assign, [](const auto&...) {});
      };
      if (from_key) {
        add({{dq, from_query.whole()}, {dk, from_key->whole()}, {dv, from_value.whole()}});
      } else {
        add({{dq, from_query.whole()}, {dv, from_value.whole()}});
      }
      norm_.backward(x, first_row, normed, dx, pass);
    }
  }

  static constexpr Index panel_rows = 512;

  SelfAttentionConfig config_;
  bool shared_;
  LayerNorm<Scalar> norm_;
  Parameter<Scalar> query_, key_, value_, output_;
  std::optional<ValueMixture<Scalar>> mixture_;  // of mixed values
  std::optional<Tensor<Scalar, 4>> rotations_;
};

}  // namespace reformer::inline REFORMER_ABI
