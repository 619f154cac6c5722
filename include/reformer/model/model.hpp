// SPDX-License-Identifier: MIT
/// @file
/// The model: embedding and positions, a reversible stack, a head over both halves.
///
///     x_1 = x_2 = dropout(embedding[token] + position)
///     (x_1, x_2) through L reversible blocks of self-attention and feed-forward
///     logits = dropout(LN([x_1, x_2])) W + b
///
/// A training step keeps four arrays [B*T, D], whatever the depth: two halves and their two
/// gradients. Everything else is scratch of the workspace and, unless the halves are in fixed
/// point, the bucket ids of hashed layers. A memory budget buys time: see `StoragePlan`.
#pragma once

#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "reformer/model/config.hpp"
#include "reformer/model/head.hpp"
#include "reformer/model/storage.hpp"
#include "reformer/operations/embedding.hpp"
#include "reformer/reversible/sequence.hpp"

namespace reformer {

/// Standard deviations of the initial values; the rest is ones for norms and zeros for biases, as
/// in HuggingFace.
struct Initialization {
  double weights = 0.02;            ///< linear weights
  double embedding = 0.02;          ///< token embedding
  double learned_positions = 0.02;  ///< learned position table
  double axial_positions = 1.0;     ///< axial position tables
};

/// How a model is run.
struct RunOptions {
  RandomKey key = {};  ///< seed and step: dropout and hash rotations
  bool training = false;
  std::span<const std::uint8_t> is_real = {};  ///< `[B*T]`, 0 for padding; empty: all real
  /// Bytes that a training step may take, beyond its least, to save time: see `StoragePlan`. With
  /// halves in fixed point it changes no bit of the result.
  std::size_t memory_budget = 0;
  /// Rounds of hashed attention, in passes without gradients; 0: those of each layer. More rounds
  /// than a model was trained with find more of what it looks for, and take more time.
  Index num_hashes = 0;
};

/// Labels for predicting the next token: `labels[b, t] = tokens[b, t + 1]`, the last one ignored.
inline Tokens next_token_labels(const Tokens& tokens) {
  Tokens labels(tokens.dimension(0), tokens.dimension(1));
  const Index T = tokens.dimension(1);
  for (Index b = 0; b < tokens.dimension(0); ++b) {
    for (Index t = 0; t < T; ++t) labels(b, t) = t + 1 < T ? tokens(b, t + 1) : ignored_label;
  }
  return labels;
}

/// Bytes of a training step by category.
struct MemoryPlan {
  std::size_t parameters = 0;
  std::size_t gradients = 0;
  std::size_t residual_halves = 0;  ///< two halves and their gradients: the floor, 4 B T D
  std::size_t bucket_ids = 0;       ///< of hashed layers; none with halves in fixed point
  std::size_t scratch = 0;          ///< peak of the workspace
  std::size_t stored = 0;           ///< what `storage` takes, at most the budget
  StoragePlan storage;              ///< what is stored to save time, layer by layer

  std::size_t total() const {
    return parameters + gradients + residual_halves + bucket_ids + scratch + stored;
  }
};

template <typename Scalar>
class Decoder;

/// Reformer model with its parameters.
template <typename Scalar_>
class Model {
 public:
  using Scalar = Scalar_;
  using Half = DynamicHalf<Scalar>;
  using Block = ReversibleBlock<SelfAttention<Scalar>, FeedForward<Scalar>>;

  /// Weights are zero until `initialize` or a loader fills them.
  /// @throw std::invalid_argument naming the first impossible quantity of the configuration
  explicit Model(const ModelConfig& config)
      : config_((check_config("Model", config), config)),
        embedding_("embedding", config.vocabulary, config.width),
        positions_("positions", config.positions, config.width),
        head_(config.width, config.language_head ? config.vocabulary : 0, config.layer_norm_epsilon,
              config.dropout),
        halves_{Half(config.residual), Half(config.residual)} {
    std::vector<Block> blocks;
    blocks.reserve(config.layers.size());
    for (Index i = 0; i < static_cast<Index>(config.layers.size()); ++i) {
      const std::string name = "layers." + std::to_string(i);
      blocks.emplace_back(SelfAttention<Scalar>(name + ".attention", attention_config(config, i)),
                          FeedForward<Scalar>(name + ".feed_forward", feed_forward_config(config)));
    }
    stack_ = ReversibleSequence<Block>(std::move(blocks));
  }

  const ModelConfig& config() const { return config_; }
  ReversibleSequence<Block>& stack() { return stack_; }

  /// Fixes the number of buckets, in factors, of the layers that leave it to the length.
  void set_num_buckets(const std::vector<Index>& factors) {
    for (Index i = 0; i < stack_.size(); ++i) {
      auto* lsh = std::get_if<LshPattern>(&config_.layers[static_cast<std::size_t>(i)]);
      if (lsh == nullptr || !lsh->num_buckets.empty()) continue;
      stack_[i].f().set_num_buckets(factors);
      lsh->num_buckets = factors;
    }
  }

  /// Visits every parameter in a fixed order: optimisers, checkpoints and checks all loop here.
  template <typename F>
  void for_each_parameter(F&& f) {
    embedding_.for_each_parameter(f);
    positions_.for_each_parameter(f);
    stack_.for_each_parameter(f);
    head_.for_each_parameter(f);
  }

  Index num_parameters() {
    Index count = 0;
    for_each_parameter([&](const Parameter<Scalar>& p) { count += p.size(); });
    return count;
  }

  /// Draws the initial values; the same seed gives the same model.
  void initialize(std::uint64_t seed, const Initialization& how = {}) {
    std::uint32_t index = 0;
    const auto ends_with = [](const std::string& name, std::string_view end) {
      return name.ends_with(end);
    };
    for_each_parameter([&](Parameter<Scalar>& p) {
      const RandomStream stream({seed, 0, index++}, Purpose::initialization);
      if (ends_with(p.name, "layer_norm.weight")) {
        p.value.setOnes();
      } else if (ends_with(p.name, ".bias")) {
        p.value.setZero();
      } else {
        fill_normal(p.value.data(), p.size(), deviation(p.name, how), stream);
      }
    });
  }

  /// Sets all gradients to zero, allocating them at first.
  void zero_gradients() {
    for_each_parameter([](Parameter<Scalar>& p) {
      p.allocate_gradient();
      p.gradient.setZero();
    });
  }

  /// Sum of cross-entropies over all labels that are not `ignored_label`.
  /// @param tokens,labels  `[B, T]`; see `next_token_labels`
  /// @param each  receives the cross-entropy of each position `[B*T]`, in nats, 0 where the label
  /// is
  ///   ignored; or empty
  /// @throw std::invalid_argument for wrong shapes, tokens or labels
  /// @throw std::overflow_error if halves in fixed point leave their range, here and in every other
  /// pass: which layer and branch, where, the value and the range
  Loss loss(Workspace& workspace, const Tokens& tokens, const Tokens& labels,
            const RunOptions& options = {}, std::span<double> each = {}) {
    check_head("Model::loss");
    check_labels("Model::loss", tokens, labels);
    check(each.empty() || static_cast<Index>(each.size()) == tokens.size(), "Model::loss",
          "each has ", each.size(), " elements, must have B*T = ", tokens.size(), " or none");
    const Pass pass = start(workspace, "Model::loss", tokens, options);
    climb(tokens, pass);
    return head_.loss(halves_, labels.data(), pass, each.empty() ? nullptr : each.data());
  }

  /// One training step without the optimiser: adds the gradients of `scale` times the summed loss
  /// to the parameters'.
  /// @param scale  1 / (number of labels), or that divided by the number of accumulated passes
  /// @return the summed loss. If it is not finite, so are gradients, and the step must not be
  /// applied.
  /// @throw std::overflow_error as `loss`, before any gradient is touched
  Loss loss_and_gradients(Workspace& workspace, const Tokens& tokens, const Tokens& labels,
                          Scalar scale, const RunOptions& options) {
    check_head("Model::loss_and_gradients");
    check_labels("Model::loss_and_gradients", tokens, labels);
    for_each_parameter([](Parameter<Scalar>& p) { p.allocate_gradient(); });
    const Pass pass = start(workspace, "Model::loss_and_gradients", tokens, options);
    reserve("Model::loss_and_gradients", pass, options);
    climb_for_gradients(tokens, pass, options);
    const Loss loss = head_.loss_and_gradients(halves_, labels.data(), scale, gradients_, pass);
    descend(tokens, pass);
    return loss;
  }

  /// Logits `[B, T, V]`. Meant for short inputs and tests; training never holds them.
  Tensor<Scalar, 3> logits(Workspace& workspace, const Tokens& tokens,
                           const RunOptions& options = {}) {
    check_head("Model::logits");
    const Pass pass = start(workspace, "Model::logits", tokens, options);
    climb(tokens, pass);
    Tensor<Scalar, 3> result(pass.batch, pass.length, config_.vocabulary);
    head_.logits(halves_, 0, rows_of(result), pass);
    return result;
  }

  /// What the head makes of the stack, z = dropout(LN([x_1, x_2])) `[B, T, 2D]`, before logits.
  Tensor<Scalar, 3> encode(Workspace& workspace, const Tokens& tokens,
                           const RunOptions& options = {}) {
    const Pass pass = start(workspace, "Model::encode", tokens, options);
    climb(tokens, pass);
    Tensor<Scalar, 3> z(pass.batch, pass.length, 2 * config_.width);
    head_.encode(halves_, rows_of(z), pass);
    return z;
  }

  /// The same, and the gradients of a loss of the caller's own, which are added to the parameters'.
  /// @param gradient  is called once with z `[B, T, 2D]` and returns dz of the same shape
  template <typename F>
  void encode_and_gradients(Workspace& workspace, const Tokens& tokens, const RunOptions& options,
                            const F& gradient) {
    constexpr auto function = "Model::encode_and_gradients";
    for_each_parameter([](Parameter<Scalar>& p) { p.allocate_gradient(); });
    const Pass pass = start(workspace, function, tokens, options);
    reserve(function, pass, options);
    climb_for_gradients(tokens, pass, options);
    Tensor<Scalar, 3> z(pass.batch, pass.length, 2 * config_.width);
    head_.encode(halves_, rows_of(z), pass);
    Tensor<Scalar, 3> dz = gradient(std::as_const(z));
    check(dz.dimensions() == z.dimensions(), function,
          "the gradient has another shape than z, must be [B, T, 2D]");
    head_.encode_backward(halves_, rows_of(dz), gradients_, pass);
    descend(tokens, pass);
  }

  /// Runs the stack and shows the residual stream on its way.
  /// @param visit  is called as visit(i, halves) after block i; block -1 stands for the embedding
  template <typename Visit>
  void trace(Workspace& workspace, const Tokens& tokens, const RunOptions& options,
             const Visit& visit) {
    const Pass pass = start(workspace, "Model::trace", tokens, options);
    climb(tokens, pass, [&](Index block) { visit(block, std::as_const(halves_)); });
  }

  /// Bucket ids `[B, H, R, T]` of a layer in the last pass; empty if it did not hash.
  std::span<const Bucket> buckets(Index layer) const {
    check(layer >= 0 && layer < static_cast<Index>(saved_.size()), "Model::buckets", "layer is ",
          layer, ", must be in [0, ", saved_.size(), ") and a pass must have run");
    return saved_[static_cast<std::size_t>(layer)].f.buckets;
  }

  /// Logits `[V]` of the last real position of one sequence, for sampling the next token.
  std::vector<Scalar> next_token_logits(Workspace& workspace, std::span<const std::int32_t> tokens,
                                        const RunOptions& options = {}) {
    check_head("Model::next_token_logits");
    Tokens row(1, static_cast<Index>(tokens.size()));
    std::copy(tokens.begin(), tokens.end(), row.data());
    const Pass pass = start(workspace, "Model::next_token_logits", row, options);
    climb(row, pass);
    std::vector<Scalar> result(static_cast<std::size_t>(config_.vocabulary));
    Index last = pass.rows() - 1;
    while (last > 0 && !options.is_real.empty() &&
           options.is_real[static_cast<std::size_t>(last)] == 0) {
      --last;
    }
    head_.logits(halves_, last, {result.data(), 1, config_.vocabulary}, pass);
    return result;
  }

  /// The first block after which a half is not finite, to explain a loss that is not; no value if
  /// there is none. Block -1 stands for the embedding.
  std::optional<Index> first_non_finite_block(Workspace& workspace, const Tokens& tokens,
                                              const RunOptions& options) {
    std::optional<Index> found;
    trace(workspace, tokens, options, [&](Index block, const Halves<Half>& halves) {
      if (!found && !is_finite(halves)) found = block;
    });
    return found;
  }

  /// What a training step on `[batch, length]` tokens needs, optimiser state apart.
  /// @param memory_budget  as in `RunOptions`
  MemoryPlan plan(Index batch, Index length, int threads, std::size_t memory_budget = 0) {
    MemoryPlan plan;
    plan.storage = storage_plan(batch, length, memory_budget);
    for (const StorageItem& item : storage_items(batch, length)) {
      if (plan.storage.empty() || !(plan.storage[item.layer].*item.what)) continue;
      plan.stored += item.bytes;
    }
    const auto bytes = [](Index count) { return static_cast<std::size_t>(count) * sizeof(Scalar); };
    plan.parameters = plan.gradients = bytes(num_parameters());
    plan.residual_halves = 4 * bytes(batch * length * config_.width);
    ScratchPlan scratch(threads);
    scratch.scope([&] { scratch.per_thread<Scalar>(config_.width); });  // embed
    head_.plan_gradients(scratch, batch * length);
    for (Index i = 0; i < stack_.size(); ++i) {
      const Block& block = std::as_const(stack_)[i];
      const LayerStorage stored =
          plan.storage.empty() ? LayerStorage{} : plan.storage[static_cast<std::size_t>(i)];
      if (!halves_.first.is_exact()) plan.bucket_ids += block.f().bucket_bytes(batch, length);
      block.f().plan(scratch, batch, length, !halves_.first.is_exact() || stored.context);
      block.g().plan(scratch, batch * length, !stored.feed_forward_input);
    }
    plan.scratch = scratch.peak_bytes();
    return plan;
  }

 private:
  friend class Decoder<Scalar>;

  static double deviation(std::string_view name, const Initialization& how) {
    if (name.starts_with("embedding.")) return how.embedding;
    if (name.starts_with("positions.weights.")) return how.axial_positions;
    if (name.starts_with("positions.")) return how.learned_positions;
    return how.weights;
  }

  Pass start(Workspace& workspace, std::string_view function, const Tokens& tokens,
             const RunOptions& options) const {
    Pass pass{workspace,   tokens.dimension(0), tokens.dimension(1),
              options.key, options.training,    options.is_real};
    pass.num_hashes = options.num_hashes;
    check_pass(function, pass);
    check_between(function, "num_hashes", options.num_hashes, 0, max_hashes);
    check_length(function, config_.positions, pass.length);
    embedding_.check_tokens(function, tokens);
    return pass;
  }

  void reserve(std::string_view function, const Pass& pass, const RunOptions& options) {
    check(options.num_hashes == 0, function, "num_hashes is ", options.num_hashes,
          ", must be 0 in a pass with gradients, which has the rounds of each layer");
    Workspace& workspace = pass.workspace;
    workspace.reserve(
        plan(pass.batch, pass.length, workspace.threads(), options.memory_budget).scratch);
  }

  void check_head(std::string_view function) const {
    check(config_.language_head, function, "the model has no language head, only encode");
  }

  void check_labels(std::string_view function, const Tokens& tokens, const Tokens& labels) const {
    check_equal(function, "labels dimension 0", labels.dimension(0), "batch", tokens.dimension(0));
    check_equal(function, "labels dimension 1", labels.dimension(1), "length", tokens.dimension(1));
    for (Index i = 0; i < labels.size(); ++i) {
      const auto label = labels.data()[i];
      check(label == ignored_label || (label >= 0 && label < config_.vocabulary), function,
            "label ", i, " is ", label, ", must be in [0, ", config_.vocabulary, ") or ",
            ignored_label);
    }
  }

  /// Everything that may be stored.
  std::vector<StorageItem> storage_items(Index batch, Index length) const {
    // Multiply-adds a second of attention by those of feed-forward: what attention_benchmark and
    // feed_forward_benchmark give, rounded. A constant, so that the choice is the same everywhere.
    constexpr double attention_speed = 0.6;
    const Index rows = batch * length;
    const auto half = static_cast<std::size_t>(rows * config_.width) * sizeof(Scalar);
    std::vector<StorageItem> items;
    for (Index i = 0; i < stack_.size(); ++i) {
      const Block& block = stack_[i];
      const auto layer = static_cast<std::size_t>(i);
      const auto add = [&](bool LayerStorage::*what, std::size_t bytes, double work) {
        items.push_back({layer, what, bytes, static_cast<double>(rows) * work});
      };
      const std::size_t buckets =
          halves_.first.is_exact() ? block.f().bucket_bytes(batch, length) : 0;
      add(&LayerStorage::attention_input, half, block.f().output_work());
      add(&LayerStorage::feed_forward_input, half, block.g().output_work());
      add(&LayerStorage::context, block.f().context_bytes(batch, length) + buckets,
          block.f().context_work(length) / attention_speed);
    }
    return items;
  }

  StoragePlan storage_plan(Index batch, Index length, std::size_t budget) const {
    if (budget == 0) return {};
    return choose_storage(config_.layers.size(), storage_items(batch, length), budget);
  }

  /// Prepares the next forward pass to store what was chosen.
  void store(const StoragePlan& plan) {
    const auto prepare = [](std::optional<Half>& copy, bool wanted) {
      if (!wanted) {
        copy.reset();
      } else if (!copy) {
        copy.emplace();
      }
    };
    saved_.resize(config_.layers.size());
    stored_.resize(config_.layers.size());
    for (std::size_t i = 0; i < stored_.size(); ++i) {
      const LayerStorage layer = plan.empty() ? LayerStorage{} : plan[i];
      prepare(stored_[i].first, layer.attention_input);
      prepare(stored_[i].second, layer.feed_forward_input);
      saved_[i].f.keep_context = layer.context;
    }
  }

  /// A forward pass that no backward pass follows.
  void climb(const Tokens& tokens, const Pass& pass) {
    climb(tokens, pass, [](Index) {});
  }

  /// The same, and calls `after(i)` when block i has been applied, i = -1 for the embedding.
  template <typename After>
  void climb(const Tokens& tokens, const Pass& pass, const After& after) {
    for (auto& saved : saved_) saved.f.keep_context = false;
    embed(tokens, pass, halves_);
    after(Index{-1});
    stack_.forward(halves_, saved_, pass, after);
  }

  /// Forward pass that leaves what `descend` needs, within the budget; the gradients by the halves
  /// have their size.
  void climb_for_gradients(const Tokens& tokens, const Pass& pass, const RunOptions& options) {
    store(storage_plan(pass.batch, pass.length, options.memory_budget));
    embed(tokens, pass, halves_);
    stack_.forward(halves_, saved_, stored_, pass);
    gradients_.first.resize(pass.rows(), config_.width);
    gradients_.second.resize(pass.rows(), config_.width);
  }

  /// Backward pass from the gradients by the halves at the top.
  void descend(const Tokens& tokens, const Pass& pass) {
    stack_.reverse(halves_, gradients_, saved_, stored_, pass);
    embed_backward(tokens, gradients_, pass);
  }

  /// dropout(embedding + position), in both halves
  void embed(const Tokens& tokens, const Pass& pass, Halves<Half>& halves) const {
    embed(tokens, pass, halves, [&](Index row) { return row % pass.length; });
  }
  /// @param position  of the token in a row
  template <typename Position>
  void embed(const Tokens& tokens, const Pass& pass, Halves<Half>& halves,
             const Position& position) const {
    const Index D = config_.width;
    halves.first.resize(pass.rows(), D);
    halves.second.resize(pass.rows(), D);
    Scratch scratch(pass.workspace);
    const auto memory = scratch.per_thread<Scalar>(D);
    const auto dropout = embedding_dropout(pass);
    for_each_row_tile(pass.workspace, pass.rows(), [&](Index first, Index count, int thread) {
      const MatrixView<Scalar> x(memory[thread], 1, D);
      for (Index row = first; row < first + count; ++row) {
        std::copy_n(embedding_.row(tokens.data()[row]), D, x.data);
        positions_.add_row(position(row), x.data);
        dropout.apply_tile(x, row, 0, D);
        halves.first.write(row, 0, D, x.data);
        halves.second.write(row, 0, D, x.data);
      }
    });
    check_range("the embedding", halves.first, pass.length);
  }

  /// @param gradients  by the two halves; the first is destroyed
  void embed_backward(const Tokens& tokens, HalfGradients<Scalar>& gradients, const Pass& pass) {
    const auto dx = view(gradients.first);
    const auto dropout = embedding_dropout(pass);
    for_each_row_tile(pass.workspace, pass.rows(), [&](Index first, Index count, int) {
      const auto tile = dx.middle_rows(first, count);
      for (Index i = 0; i < count; ++i) {
        simd::add(dx.columns, &gradients.second(first + i, 0), tile.row(i));
      }
      dropout.apply_tile(tile, first, 0, dx.columns);
    });
    embedding_.backward(tokens, dx, pass);
    positions_.backward(dx, pass);
  }

  Dropout<Scalar> embedding_dropout(const Pass& pass) const {
    return {pass.training ? config_.dropout : 0.0, pass.key, Purpose::embedding_dropout};
  }

  bool is_finite(const Halves<Half>& halves) const {
    std::vector<Scalar> row(static_cast<std::size_t>(config_.width));
    for (const Half* half : {&halves.first, &halves.second}) {
      for (Index i = 0; i < half->rows(); ++i) {
        half->read(i, 0, config_.width, row.data());
        for (const Scalar value : row) {
          if (!std::isfinite(value)) return false;
        }
      }
    }
    return true;
  }

  ModelConfig config_;
  Embedding<Scalar> embedding_;
  Positions<Scalar> positions_;
  ReversibleSequence<Block> stack_;
  Head<Scalar> head_;
  // Of the last pass, kept so that their memory is used again.
  typename ReversibleSequence<Block>::Saved saved_;
  typename ReversibleSequence<Block>::template Stored<Half> stored_;
  Halves<Half> halves_;
  HalfGradients<Scalar> gradients_;
};

}  // namespace reformer
