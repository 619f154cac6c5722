// SPDX-License-Identifier: MIT
/// @file
/// The self-attention branch: layer norm, projections, attention by pattern, output projection.
///
///     f(x) = dropout(attend(LN(x) W_q, LN(x) W_k, LN(x) W_v) W_o)
///
/// | name          | shape      |                                              |
/// |---------------|------------|----------------------------------------------|
/// | x, f(x)       | [B*T, D]   |                                              |
/// | W_q, W_v      | [D, H*K]   |                                              |
/// | W_k           | [D, H'*K]  | of the H' heads whose keys are not their queries |
/// | W_o           | [H*K, D]   |                                              |
/// | a, b          | [2, H]     | if values of some heads are mixed, see value_mixture.hpp |
/// | tau           | [1, H]     | if scores of some heads are cosines, see cosine_scores.hpp |
/// | e             | [rows, H*K] | of n-grams, if there are, see value_embedding.hpp |
///
/// No biases, as in trax and HuggingFace. Heads may be of different kinds (`LayerPattern`): kinds
/// are worked on one after another, each with its own layout; they share layer norm and weights.
/// W_q is named `query_key` where all heads share. Heads are worked on in groups, and sequences too
/// when they are short: queries, keys, values and outputs exist for one group at a time, and its
/// output projection is added straight to the residual half. Saved for the backward pass: bucket
/// ids only, because a token near the boundary of a hash could fall on the other side when it is
/// rebuilt in floating point. With exact halves the backward pass hashes again, and nothing is
/// saved. On request the context, what attention gives before the output projection, is kept as
/// well, and the backward pass neither hashes nor attends again.
#pragma once

#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/attention/config.hpp"
#include "reformer/attention/decoding_state.hpp"
#include "reformer/attention/grouped_attention.hpp"
#include "reformer/attention/hashing.hpp"
#include "reformer/attention/layer_pattern.hpp"
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
  using Saved = detail::SavedAttention<Scalar>;
  /// What `prefill` and `decode` need; the weights are copied.
  struct Decoding {
    /// Of heads of one kind.
    struct Heads {
      detail::DecodingState<Scalar, Kernel> state;
      std::optional<Tensor<Scalar, 4>> rotations;
      KeptWeight<Kernel> output;
    };
    std::vector<Heads> kinds;
    KeptWeight<Kernel> query, value;
    std::optional<KeptWeight<Kernel>> key;
    std::optional<detail::RecentTokens> recent;  ///< if their vectors are added to values

    /// The sequences that the next calls are for; all at first.
    void select(std::span<const Index> sequences) {
      for (Heads& heads : kinds) heads.state.select({sequences.begin(), sequences.end()});
      if (recent) recent->select(sequences);
    }
    /// Forgets the selected sequences.
    void clear() {
      for (Heads& heads : kinds) heads.state.clear();
      if (recent) recent->clear();
    }
    /// Of what is kept of the sequences.
    std::size_t bytes() const {
      std::size_t bytes = 0;
      for (const Heads& heads : kinds) bytes += heads.state.bytes();
      if (recent) bytes += recent->bytes();
      return bytes;
    }
  };

  /// Parameters are named `<name>.layer_norm.weight` and so on; weights are zero until initialised.
  SelfAttention(const std::string& name, const SelfAttentionConfig& config)
      : config_((detail::check_config("SelfAttention", config), config)),
        kinds_(head_kinds(config.pattern, config.num_heads)),
        heads_(name, config) {}

  const SelfAttentionConfig& config() const { return config_; }
  /// The kinds of its heads.
  const std::vector<HeadKind>& kinds() const { return kinds_; }
  /// Those of `set_rotations`, if any.
  const std::optional<Tensor<Scalar, 4>>& rotations() const { return rotations_; }

  /// Uses these rotations `[H, K, R, columns]` instead of drawing them for each pass, where H heads
  /// hash, which are of one kind: side by side and with one pattern.
  /// @throw std::invalid_argument if the layer does not hash, or heads of several kinds do, or the
  /// shape is another
  void set_rotations(const Tensor<Scalar, 4>& rotations) {
    constexpr auto function = "SelfAttention::set_rotations";
    const HeadKind* hashed = nullptr;
    for (const HeadKind& kind : kinds_) {
      if (!std::holds_alternative<LshPattern>(kind.pattern)) continue;
      check(hashed == nullptr, function,
            "rotations are given to a layer of which two kinds of heads hash, must be one");
      hashed = &kind;
    }
    check(hashed != nullptr, function, "rotations are given to a layer that does not hash");
    const auto* lsh = &std::get<LshPattern>(hashed->pattern);
    const Index columns = lsh->num_buckets.empty() ? rotations.dimension(3)  // follow the length
                                                   : rotation_columns(lsh->num_buckets);
    check_shape(function, "rotations", rotations,
                {"num_heads", "head_width", "num_hashes", "half the sum of num_buckets"},
                {hashed->num_heads, K(), lsh->num_hashes, columns});
    rotations_ = rotations;
  }

  /// Fixes the number of buckets, in factors, of the heads whose pattern leaves it to the length.
  /// @throw std::invalid_argument if the layer does not hash or the factors are not possible
  void set_num_buckets(const std::vector<Index>& factors) {
    constexpr auto function = "SelfAttention::set_num_buckets";
    check(has_buckets(config_.pattern), function,
          "num_buckets is given to a layer that does not hash");
    detail::check_buckets(function, factors);
    reformer::set_num_buckets(config_.pattern, factors);
    kinds_ = head_kinds(config_.pattern, config_.num_heads);
  }

  /// Memory for what `forward` must leave for `reverse`: bucket ids, if the layer hashes and halves
  /// are not exact, and the context if it is asked for, with the bucket ids in any case.
  /// @throw std::invalid_argument for a length that no pass has
  Saved saved_in(Scratch& memory, const SavedPass& pass, bool context = false) const {
    check_sequence_length("SelfAttention::saved_in", pass.length);
    const Layouts layouts = layouts_at(pass.length, pass.num_hashes);
    Saved saved{{}, {}, pass.batch, pass.length};
    if (!pass.is_exact || context) {
      saved.buckets = detail::take_span<Bucket>(memory, num_bucket_ids(layouts, pass.batch));
    }
    if (context)
      saved.context = detail::take_span<Scalar>(memory, context_size(layouts, pass.batch));
    return saved;
  }

  /// The bucket ids `[B, H, R, T]` that `forward` has saved, of each kind of heads that hashes.
  /// @param num_hashes  that of the pass
  /// @throw std::invalid_argument if it has not saved so many
  std::vector<Tensor<Bucket, 4>> buckets_of(const Saved& saved, Index num_hashes = 0) const {
    constexpr auto function = "SelfAttention::buckets_of";
    check_sequence_length(function, saved.length);
    check_between(function, "num_hashes", num_hashes, 0, max_hashes);
    const Layouts layouts = layouts_at(saved.length, num_hashes);
    check_equal(function, "saved bucket ids", static_cast<Index>(saved.buckets.size()),
                "those of the pass", num_bucket_ids(layouts, saved.batch));
    std::vector<Tensor<Bucket, 4>> result;
    const Bucket* ids = saved.buckets.data();
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      if (!layouts[i].is_hashed) continue;
      Tensor<Bucket, 4> of_kind(saved.batch, kinds_[i].num_heads, layouts[i].rounds, saved.length);
      std::copy_n(ids, of_kind.size(), of_kind.data());
      ids += of_kind.size();
      result.push_back(std::move(of_kind));
    }
    return result;
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
    const Layouts layouts = checked_forward(x, y, saved, pass);
    saved.batch = pass.batch;
    saved.length = pass.length;
    const Rotations rotations = rotations_for(layouts, pass);
    for_each_walk(layouts, saved, [&](std::size_t i, detail::AttentionWalk<Scalar>& walk) {
      walk.rotations = matrix_of(rotations[i]);
      heads_.forward(x, y, walk, pass);
    });
  }

  /// A fresh state for `pass.batch` sequences, with the rotations of the pass's key.
  /// @throw std::invalid_argument for a pattern or a configuration that cannot go on token by token
  Decoding decoding(const Pass& pass) const {
    constexpr auto function = "SelfAttention::decoding";
    check_pass(function, pass);
    detail::check_precision<Scalar>(function, pass.precision);
    check(config_.causal, function, "attention is not causal");
    const Layouts layouts = layouts_of(pass);
    check_rotations(function, layouts);
    const auto& projections = heads_.projections();
    const auto kept = [&](const MatrixView<const Scalar>& weight) {
      return KeptWeight<Kernel>(pass.workspace, weight, Orientation::natural, pass.precision);
    };
    Decoding decoding{{},
                      kept(rows_of(projections.query().value)),
                      kept(rows_of(projections.value().value)),
                      {},
                      {}};
    if (const auto& embedding = heads_.value_embedding()) {
      decoding.recent.emplace(pass.batch, embedding->order());
    }
    if (projections.has_keys()) decoding.key.emplace(kept(rows_of(projections.key().value)));
    auto rotations = rotations_for(layouts, pass);
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      const auto& [pattern, first, heads] = kinds_[i];
      decoding.kinds.push_back(
          {{with_rounds(pattern, pass.num_hashes), pass.batch, heads, K(), first},
           std::move(rotations[i]),
           kept(rows_of(projections.output().value).middle_rows(first * K(), heads * K()))});
    }
    return decoding;
  }

  /// Throws `std::invalid_argument` unless `prefill` can take these arguments.
  template <ResidualHalf Half>
  void check_prefill(const Half& x, const Half& y, const Decoding& decoding,
                     const Pass& pass) const {
    constexpr auto function = "SelfAttention::prefill";
    check_rows(function, x, y, pass);
    check_state(function, decoding, pass);
  }

  /// y += f(x) for prompts, whose keys and values become the state: that of the selected sequences
  /// must be empty. The bits of `forward`.
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit
  template <ResidualHalf Half>
  void prefill(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_prefill(x, y, decoding, pass);
    Layouts layouts;
    for (const auto& kind : decoding.kinds) {
      layouts.emplace_back(kind.state.pattern(), config_.causal, pass.length, pass.is_real);
    }
    for_each_walk(layouts, {}, [&](std::size_t i, detail::AttentionWalk<Scalar>& walk) {
      auto& state = decoding.kinds[i].state;
      walk.rotations = matrix_of(decoding.kinds[i].rotations);
      heads_.forward(x, y, walk, pass, [&](const auto& group, const Bucket* buckets) {
        state.keep(pass.workspace, group.heads, buckets);
        if (heads_.mixture_of(layouts[i])) state.keep_unmixed(group.heads, group.projected.value);
      });
    });
    if (decoding.recent) decoding.recent->keep(pass);
  }

  /// Throws `std::invalid_argument` unless `decode` can take these arguments.
  template <ResidualHalf Half>
  void check_decode(const Half& x, const Half& y, const Decoding& decoding,
                    const Pass& pass) const {
    constexpr auto function = "SelfAttention::decode";
    check_rows(function, x, y, pass);
    check_equal(function, "length", pass.length, "one token,", 1);
    check(pass.is_real.empty(), function, "is_real has ", pass.is_real.size(),
          " elements, must have none");
    check_state(function, decoding, pass);
    check_equal(function, "rows of the kept query weight", decoding.query.packed().depth(), "width",
                config_.width);
  }

  /// y += f(x) for the next token of each sequence, x and y `[B, D]`, whose keys and values become
  /// part of the state. The bits of `forward`, if all heads of a kind are one group there.
  /// @param pass  length 1, no mask
  /// @throw std::invalid_argument if the shapes are others than those of the state, for a mask, and
  ///   at the longest sequence
  template <ResidualHalf Half>
  void decode(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_decode(x, y, decoding, pass);
    const auto& projections = heads_.projections();
    const detail::HeadGroup all{1, 0, pass.batch, 0, config_.num_heads};
    Scratch scratch(pass.workspace);
    const auto array = [&](Index columns) { return scratch.matrix<Scalar>(pass.batch, columns); };
    const auto query = array(all_width()), value = array(all_width());
    const auto key = projections.has_keys() ? array(projections.key().value.cols()) : query;
    projections.forward(x, all,
                        {decoding.query.packed(), decoding.key ? &decoding.key->packed() : nullptr,
                         decoding.value.packed()},
                        {query, key, value}, pass);
    if (decoding.recent) {
      decoding.recent->append(pass);
      heads_.value_embedding()->add_next(*decoding.recent, pass, value);
    }
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      decode_heads(kinds_[i], decoding.kinds[i], {query, key, value}, y, pass);
    }
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
    const Layouts layouts = checked_reverse(x, y, dy, dx, saved, pass);
    const Rotations rotations =
        saved.buckets.empty() ? rotations_for(layouts, pass) : Rotations(layouts.size());
    for_each_walk(layouts, saved, [&](std::size_t i, detail::AttentionWalk<Scalar>& walk) {
      walk.rotations = matrix_of(rotations[i]);
      heads_.reverse(x, y, dy, dx, walk, pass);
    });
  }

  /// Multiply-adds for each row that `reverse` saves when it need not subtract.
  double output_work() const { return heads_.projections().output_work(); }

  /// Multiply-adds for each row that `reverse` saves when the context is kept, hashing apart, as
  /// many as dense products do in that time.
  double context_work(Index length) const {
    check_sequence_length("SelfAttention::context_work", length);
    // Multiply-adds a second of attention by those of feed-forward: what attention_benchmark and
    // feed_forward_benchmark give, rounded. A constant, so that choices are the same everywhere.
    constexpr double speed = 0.6;
    double work = 0;
    for (const HeadKind& kind : kinds_) {
      const detail::AttentionLayout layout(kind.pattern, config_.causal, length);
      const Window& window = layout.window;
      const Index keys =
          layout.blocks == detail::BlockKind::tiles
              ? (config_.causal ? length / 2 : length)
              : layout.rounds * std::min(window.max_keys(), round_up(length, window.chunk_length));
      work += 2 * static_cast<double>(keys) * static_cast<double>(kind.num_heads * K());
    }
    return work / speed;
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  /// @tparam Half  of the pass
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument if it does more, and for a length that no pass has
  template <ResidualHalf Half = FloatingHalf<Scalar>>
  void plan(Workspace& workspace, const SavedPass& sizes, const BranchStorage& stored) const {
    detail::check_plans("SelfAttention::plan", workspace);
    check_sequence_length("SelfAttention::plan", sizes.length);
    const Pass pass{.workspace = workspace,
                    .batch = sizes.batch,
                    .length = sizes.length,
                    .training = true,
                    .precision = sizes.precision};
    const Layouts layouts = layouts_at(sizes.length, sizes.num_hashes);
    Half half;
    // A plan changes nothing, but what is reversed does.
    auto& heads = const_cast<detail::GroupedAttention<Scalar, Kernel>&>(heads_);
    for_each_walk(layouts, {}, [&](std::size_t, detail::AttentionWalk<Scalar>& walk) {
      walk.rotations.emplace(nullptr, walk.num_heads * K(), walk.layout.rotation_columns(), 0);
      walk.keeps_buckets = !sizes.is_exact || stored.context;
      walk.keeps_context = stored.context;
      heads.forward(half, half, walk, pass);
      heads.reverse(half, half, {}, {}, walk, pass);
    });
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

  using Layouts = std::vector<detail::AttentionLayout>;  // of each kind of heads
  using Rotations = std::vector<std::optional<Tensor<Scalar, 4>>>;

  /// Calls `body(i, walk)` for the kinds of heads, one after another, each with its part of what is
  /// saved, and without rotations.
  template <typename Body>
  void for_each_walk(const Layouts& layouts, Saved saved, const Body& body) const {
    Index most_blocks = 0;
    for (const detail::AttentionLayout& layout : layouts) {
      most_blocks = std::max(most_blocks, layout.max_blocks);
    }
    const auto take = [](auto& all, Index count) {
      const auto part = all.first(all.empty() ? 0 : static_cast<std::size_t>(count));
      all = all.subspan(part.size());
      return part;
    };
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      const detail::AttentionLayout& layout = layouts[i];
      const auto& [pattern, first, heads] = kinds_[i];
      detail::AttentionWalk<Scalar> walk{
          layout,
          first,
          heads,
          most_blocks,
          {},
          {take(saved.buckets, num_bucket_ids(layout, heads, saved.batch)),
           take(saved.context, heads_.context_size(layout, heads, saved.batch)), saved.batch,
           saved.length}};
      body(i, walk);
    }
  }

  /// `decode` of heads of one kind, by the queries, keys and values `[B, columns]` of the layer.
  template <ResidualHalf Half>
  void decode_heads(const HeadKind& kind, typename Decoding::Heads& decoding,
                    const detail::QueryKeyValue<Scalar>& projected, Half& y,
                    const Pass& pass) const {
    const auto& projections = heads_.projections();
    const Index first = kind.first_head * K(), width = kind.num_heads * K();
    const detail::HeadGroup group{1, 0, pass.batch, kind.first_head, kind.num_heads};
    const detail::AttentionLayout layout(decoding.state.pattern(), config_.causal, 1);
    Scratch scratch(pass.workspace);
    auto heads = detail::without_arrays<Scalar>(group, layout, config_.num_heads, K(), {});
    const auto value = projected.value.middle_columns(first, width);
    auto query = projected.query.middle_columns(first, width);
    auto key = layout.shared ? query
                             : projected.key.middle_columns(
                                   projections.first_key_column(kind.first_head), width);
    if (const auto* cosines = heads_.cosines_of(layout)) {
      const auto scaled = scratch.matrix<Scalar>(pass.batch, width);
      cosines->scale_queries(pass.workspace, kind.first_head, query, scaled);
      query = scaled;
      if (!layout.shared) {
        const auto scaled_key = scratch.matrix<Scalar>(pass.batch, width);
        cosines->scale_keys(pass.workspace, key, scaled_key);
        key = scaled_key;
      } else {
        key = query;
      }
    }
    heads.query = query;
    heads.key = key;
    heads.value = value;
    heads.out = scratch.matrix<Scalar>(pass.batch, width);
    Bucket* buckets = nullptr;
    if (layout.is_hashed) {
      buckets = scratch.take<Bucket>(pass.batch * kind.num_heads * layout.rounds);
      heads_.hash(heads, *matrix_of(decoding.rotations), buckets, pass);
    }
    if (const auto* rotary = heads_.rotary_of(layout)) {
      auto* positions = scratch.take<std::int32_t>(pass.batch);
      for (Index b = 0; b < pass.batch; ++b) {
        positions[b] = static_cast<std::int32_t>(decoding.state.num_tokens(b));
      }
      rotary->rotate(pass.workspace, positions, detail::Rotation::forward, query);
      if (!layout.shared) rotary->rotate(pass.workspace, positions, detail::Rotation::forward, key);
    }
    if (const auto* mixture = heads_.mixture_of(layout)) {
      const auto mixed = scratch.matrix<Scalar>(pass.batch, width);
      for (Index b = 0; b < pass.batch; ++b) {
        for (Index h = 0; h < kind.num_heads; ++h) {
          Scalar* previous = decoding.state.unmixed(b, h);
          mixture->mix(kind.first_head + h, K(), value.row(b) + h * K(), previous,
                       mixed.row(b) + h * K());
          std::copy_n(value.row(b) + h * K(), K(), previous);
        }
      }
      heads.value = mixed;
    }
    decoding.state.attend_next(pass.workspace, heads, buckets, pass.precision);
    projections.add_output(heads.out, group, decoding.output.packed(), Sign::plus, y, pass);
  }

  /// Throws unless the state is one of this layer.
  void check_state(std::string_view function, const Decoding& decoding, const Pass& pass) const {
    check_equal(function, "kinds of heads of the state", static_cast<Index>(decoding.kinds.size()),
                "those of the layer", static_cast<Index>(kinds_.size()));
    const auto& embedding = heads_.value_embedding();
    check_equal(function, "tokens that the state keeps of a sequence",
                decoding.recent ? decoding.recent->most() : 0, "order of value_ngrams",
                embedding ? embedding->order() : 0);
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      const auto& state = decoding.kinds[i].state;
      check_equal(function, "batch", pass.batch, "selected sequences of the state",
                  state.num_selected());
      check_equal(function, "heads of the state", state.heads(), "num_heads", kinds_[i].num_heads);
      check_equal(function, "head width of the state", state.head_width(), "head_width", K());
      const auto* lsh = std::get_if<LshPattern>(&state.pattern());
      check(state.pattern() == with_rounds(kinds_[i].pattern, lsh != nullptr ? lsh->num_hashes : 0),
            function, "the state is that of another pattern");
    }
  }

  template <typename Half>
  void check_rows(std::string_view function, const Half& x, const Half& y, const Pass& pass) const {
    check_pass(function, pass);
    detail::check_precision<Scalar>(function, pass.precision);
    check_between(function, "num_hashes", pass.num_hashes, 0, max_hashes);
    check_sequence_length(function, pass.length);
    check_equal(function, "rows of x", x.rows(), "B*T", pass.rows());
    check_equal(function, "rows of y", y.rows(), "B*T", pass.rows());
    check_equal(function, "columns of x", x.columns(), "width", config_.width);
    check_equal(function, "columns of y", y.columns(), "width", config_.width);
  }

  /// What `check_forward` checks.
  /// @return the layouts of the pass
  template <typename Half>
  Layouts checked_forward(const Half& x, const Half& y, const Saved& saved,
                          const Pass& pass) const {
    constexpr auto function = "SelfAttention::forward";
    check_rows(function, x, y, pass);
    Layouts layouts = layouts_of(pass);
    check_rotations(function, layouts);
    check_saved(function, layouts, saved, pass);
    return layouts;
  }

  /// What `check_reverse` checks.
  /// @return the layouts of the pass
  template <typename Half>
  Layouts checked_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
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
    Layouts layouts = layouts_of(pass);
    check_saved(function, layouts, saved, pass);
    detail::check_gradients(function, *this);
    if (num_bucket_ids(layouts, pass.batch) == 0) return layouts;
    check(is_exact(y) || !saved.buckets.empty(), function,
          "saved.buckets is empty, must have the bucket ids of the forward pass where halves are "
          "not exact");
    if (saved.buckets.empty()) check_rotations(function, layouts);
    for_each_walk(layouts, saved, [&](std::size_t, const detail::AttentionWalk<Scalar>& walk) {
      if (walk.saved.buckets.empty()) return;
      detail::check_bucket_ids(function, pass.workspace, pass.batch, pass.length,
                               num_buckets(walk.layout.bucket_factors), pass.is_real,
                               walk.saved.buckets.data(),
                               static_cast<Index>(walk.saved.buckets.size()));
    });
    return layouts;
  }

  /// Throws unless rotations that were set, if any, are those of the layout that hashes.
  void check_rotations(std::string_view function, const Layouts& layouts) const {
    for (const detail::AttentionLayout& layout : layouts) {
      if (!layout.is_hashed || !rotations_) continue;
      check_equal(function, "rotations dimension 2", rotations_->dimension(2), "num_hashes",
                  layout.rounds);
      check_equal(function, "rotations dimension 3", rotations_->dimension(3),
                  "half the sum of num_buckets", rotation_columns(layout.bucket_factors));
    }
  }

  /// Throws unless what is kept, or will be, has the sizes of the pass.
  void check_saved(std::string_view function, const Layouts& layouts, const Saved& saved,
                   const Pass& pass) const {
    const Index ids = num_bucket_ids(layouts, pass.batch);
    check(saved.buckets.empty() || static_cast<Index>(saved.buckets.size()) == ids, function,
          "saved.buckets has ", saved.buckets.size(), " elements, must have ", ids, " or none");
    if (saved.context.empty()) return;
    check_equal(function, "size of saved.context", static_cast<Index>(saved.context.size()),
                "that of the context", context_size(layouts, pass.batch));
    check(ids == 0 || !saved.buckets.empty(), function,
          "saved.buckets is empty, must be there where saved.context is");
  }

  /// Bucket ids of heads of one kind.
  static Index num_bucket_ids(const detail::AttentionLayout& layout, Index heads, Index batch) {
    return batch * layout.length * heads * layout.hash_rounds();
  }
  /// The same of all heads.
  Index num_bucket_ids(const Layouts& layouts, Index batch) const {
    Index sum = 0;
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      sum += num_bucket_ids(layouts[i], kinds_[i].num_heads, batch);
    }
    return sum;
  }
  Index context_size(const Layouts& layouts, Index batch) const {
    Index sum = 0;
    for (std::size_t i = 0; i < kinds_.size(); ++i) {
      sum += heads_.context_size(layouts[i], kinds_[i].num_heads, batch);
    }
    return sum;
  }

  /// A pattern with the rounds of a pass.
  static AttentionPattern with_rounds(AttentionPattern pattern, Index num_hashes) {
    if (auto* lsh = std::get_if<LshPattern>(&pattern); lsh != nullptr && num_hashes > 0) {
      lsh->num_hashes = num_hashes;
    }
    return pattern;
  }
  Layouts layouts_of(const Pass& pass) const {
    return layouts_at(pass.length, pass.num_hashes, pass.is_real);
  }
  Layouts layouts_at(Index length, Index num_hashes,
                     std::span<const std::uint8_t> is_real = {}) const {
    Layouts layouts;
    for (const HeadKind& kind : kinds_) {
      layouts.emplace_back(kind.pattern, config_.causal, length, is_real, num_hashes);
    }
    return layouts;
  }

  /// Of each kind of heads that hashes. What is drawn for one kind stands in the stream of random
  /// numbers behind that of the kinds before it.
  Rotations rotations_for(const Layouts& layouts, const Pass& pass) const {
    Rotations rotations(layouts.size());
    Index first = 0;
    for (std::size_t i = 0; i < layouts.size(); ++i) {
      const detail::AttentionLayout& layout = layouts[i];
      if (!layout.is_hashed) continue;
      rotations[i] = rotations_
                         ? *rotations_
                         : detail::random_rotations<Scalar>(kinds_[i].num_heads, K(), layout.rounds,
                                                            layout.bucket_factors, pass.key, first);
      first += round_up(rotations[i]->size(), 2);
    }
    return rotations;
  }

  /// Rotations `[H, K, R, columns]` as a matrix `[H*K, R*columns]`.
  static std::optional<MatrixView<const Scalar>> matrix_of(
      const std::optional<Tensor<Scalar, 4>>& rotations) {
    if (!rotations) return {};
    return MatrixView<const Scalar>(rotations->data(),
                                    rotations->dimension(0) * rotations->dimension(1),
                                    rotations->dimension(2) * rotations->dimension(3));
  }

  SelfAttentionConfig config_;
  std::vector<HeadKind> kinds_;  // of its pattern
  detail::GroupedAttention<Scalar, Kernel> heads_;
  std::optional<Tensor<Scalar, 4>> rotations_;
};

}  // namespace reformer::inline REFORMER_ABI
