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

#include "reformer/attention/config.hpp"
#include "reformer/attention/decoding_state.hpp"
#include "reformer/attention/grouped_attention.hpp"
#include "reformer/attention/hashing.hpp"
#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/check_shape.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/products/kernels.hpp"

namespace reformer::inline REFORMER_ABI {

/// Self-attention branch; satisfies `ReversibleBranch`.
/// @tparam Kernel  of its products
template <typename Scalar_, ProductKernel Kernel = DefaultKernel<Scalar_>>
class SelfAttention {
 public:
  using Scalar = Scalar_;
  static constexpr std::string_view label = "attention";
  /// Memory for what `forward` leaves: see `saved_in`.
  using Saved = SavedAttention<Scalar>;
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
      : config_((check_config("SelfAttention", config), config)), heads_(name, config) {}

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
    heads_.forward(x, y, {layout, matrix_of(rotations, layout), saved}, pass);
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
                      kept(heads_.projections().query()),
                      kept(heads_.projections().value()),
                      kept(heads_.projections().output()),
                      {}};
    if (!layout.shared) decoding.key.emplace(kept(heads_.projections().key()));
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
    heads_.forward(x, y, {layout, matrix_of(decoding.rotations, layout), none}, pass,
                   [&](const auto& group, const Bucket* buckets) {
                     decoding.state.keep(pass.workspace, group.heads, buckets);
                     if (heads_.mixture()) decoding.state.keep_unmixed(group.heads, group.values);
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
    heads_.projections().forward(
        x, group,
        {decoding.query.packed(), decoding.key ? &decoding.key->packed() : nullptr,
         decoding.value.packed()},
        {query, key, value}, pass);
    Bucket* buckets = nullptr;
    if (layout.is_hashed) {
      buckets = scratch.take<Bucket>(pass.batch * config_.num_heads * layout.rounds);
      heads_.hash(heads, *matrix_of(decoding.rotations, layout), buckets, pass);
    }
    if (const auto& mixture = heads_.mixture()) {
      const auto mixed = array();
      for (Index b = 0; b < pass.batch; ++b) {
        for (Index h = 0; h < config_.num_heads; ++h) {
          Scalar* previous = decoding.state.unmixed(b, h);
          mixture->mix(h, K(), value.row(b) + h * K(), previous, mixed.row(b) + h * K());
          std::copy_n(value.row(b) + h * K(), K(), previous);
        }
      }
      heads.value = mixed;
    }
    decoding.state.attend_next(pass.workspace, heads, buckets);
    heads_.projections().add_output(heads.out, group, decoding.output.packed(), Sign::plus, y,
                                    pass);
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
    heads_.reverse(x, y, dy, dx, {layout, matrix_of(rotations, layout), saved}, pass);
  }

  /// Rounds that the layer hashes in at a length, none if it does not.
  /// @param num_hashes  as in `Pass`
  Index rounds(Index length, Index num_hashes = 0) const {
    return layout_at(length, num_hashes).hash_rounds();
  }

  /// Multiply-adds for each row that `reverse` saves when it need not subtract.
  double output_work() const { return heads_.projections().output_work(); }

  /// Multiply-adds for each row that `reverse` saves when the context is kept, hashing apart, as
  /// many as dense products do in that time.
  double context_work(Index length) const {
    // Multiply-adds a second of attention by those of feed-forward: what attention_benchmark and
    // feed_forward_benchmark give, rounded. A constant, so that choices are the same everywhere.
    constexpr double speed = 0.6;
    const AttentionLayout layout = layout_at(length);
    const Window& window = layout.window;
    const Index keys =
        layout.blocks == BlockKind::tiles
            ? (config_.causal ? length / 2 : length)
            : layout.rounds * std::min(window.max_keys(), round_up(length, window.chunk_length));
    return 2 * static_cast<double>(keys) * static_cast<double>(all_width()) / speed;
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  void plan(ScratchPlan& scratch, const SavedPass& sizes, const BranchStorage& stored) const {
    const PlannedPass pass{
        .workspace = scratch, .batch = sizes.batch, .length = sizes.length, .training = true};
    const AttentionLayout layout = layout_at(sizes.length, sizes.num_hashes);
    const MatrixView<const Scalar> rotations(nullptr, all_width(), layout.rotation_columns(), 0);
    Saved none;
    const AttentionWalk<Scalar> walk{layout, rotations, none, !sizes.is_exact || stored.context};
    FloatingHalf<Scalar> half;
    heads_.forward(half, half, walk, pass);
    // A plan changes nothing, but what is reversed does.
    const_cast<GroupedAttention<Scalar, Kernel>&>(heads_).reverse(half, half, {}, {}, walk, pass);
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    heads_.for_each_parameter(f);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    heads_.for_each_parameter(f);
  }

 private:
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

  /// Bucket ids of all heads.
  Index num_bucket_ids(const AttentionLayout& layout, Index batch) const {
    return batch * layout.length * config_.num_heads * layout.hash_rounds();
  }
  Index context_size(const AttentionLayout& layout, Index batch) const {
    return batch * layout.length * (all_width() + layout.num_statistics() * config_.num_heads);
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

  SelfAttentionConfig config_;
  GroupedAttention<Scalar, Kernel> heads_;
  std::optional<Tensor<Scalar, 4>> rotations_;
};

}  // namespace reformer::inline REFORMER_ABI
