// SPDX-License-Identifier: MIT
/// @file
/// Decoding token by token: the state of some sequences, and logits for what comes next.
///
/// A prompt goes through the ordinary parallel forward pass, which hands over what later tokens can
/// still see (attention/state.hpp); each further token then costs one row of every product and the
/// attention of one query. For models of local layers and bucket chunks, time and memory of a step
/// do not depend on the position.
///
/// What a step computes is what the forward pass over the whole sequence computes in its last row:
/// the same hash buckets, and the same bits of the logits as long as the forward pass works on all
/// heads of a layer as one group, that is while T * H * K scalars are at most 2 MiB. Beyond that it
/// adds the outputs of groups of heads one after another, which rounds differently.
///
/// Layers with `sorted_chunks` cannot go on: a new token moves the places where chunks are cut, and
/// with them what earlier tokens see. A model with such a layer is run over the whole sequence
/// again for each token. That is exact in the sense that the logits are those of the forward pass
/// over the tokens so far; but they are not the row that a longer forward pass, such as one of
/// training, has at this place.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "reformer/model/model.hpp"

namespace reformer {

/// Goes on with sequences token by token, with the parameters that the model has when the decoder
/// is made: weights are copied into the layout of products.
template <typename Scalar_>
class Decoder {
 public:
  using Scalar = Scalar_;

  /// @param batch  B, sequences decoded together
  /// @param key    hash rotations are drawn from it, one set for all tokens
  /// @throw std::invalid_argument for a model that is not causal or has no language head
  Decoder(Workspace& workspace, Model<Scalar>& model, Index batch = 1, const RandomKey& key = {})
      : model_(model), key_(key), length_(static_cast<std::size_t>(batch), 0) {
    constexpr auto function = "Decoder";
    const ModelConfig& config = model.config();
    check_at_least(function, "batch", batch, 1);
    check(config.causal, function, "the model is not causal");
    model.check_head(function);
    recomputes_ = std::any_of(config.layers.begin(), config.layers.end(), [](const auto& pattern) {
      return std::holds_alternative<LshPattern>(pattern) && !detail::has_bucket_chunks(pattern);
    });
    logits_.resize(batch, config.vocabulary);
    if (recomputes_) {
      seen_.resize(static_cast<std::size_t>(batch));
      return;
    }
    const Pass pass = step_pass(workspace);
    for (Index i = 0; i < model.stack_.size(); ++i) {
      layers_.push_back(std::as_const(model.stack_)[i].decoding(pass.at_layer(i)));
    }
    head_.emplace(model.head_.kept_weight(workspace));
  }

  Index batch() const { return static_cast<Index>(length_.size()); }

  /// Tokens of a sequence so far.
  Index length(Index sequence) const { return length_[static_cast<std::size_t>(sequence)]; }

  /// Whether each step runs over the whole sequence again.
  bool recomputes() const { return recomputes_; }

  /// Bytes that are kept of the sequences.
  std::size_t state_bytes() const {
    std::size_t bytes = 0;
    for (const auto& layer : layers_) bytes += layer.f.state.bytes();
    for (const auto& tokens : seen_) bytes += tokens.size() * sizeof(std::int32_t);
    return bytes;
  }

  /// Starts anew with prompts.
  /// @param tokens   `[B, T]`
  /// @param lengths  tokens of each prompt, at least 1; empty: all T
  /// @return logits `[B, V]` of the token after each prompt, valid until the next call
  /// @throw std::invalid_argument for wrong shapes, lengths or tokens
  /// @throw std::overflow_error as `Model::loss`; the decoder must then start anew
  const Matrix<Scalar>& prefill(Workspace& workspace, const Tokens& tokens,
                                std::span<const Index> lengths = {}) {
    constexpr auto function = "Decoder::prefill";
    const Index T = tokens.dimension(1);
    check_equal(function, "tokens dimension 0", tokens.dimension(0), "batch", batch());
    check(lengths.empty() || static_cast<Index>(lengths.size()) == batch(), function,
          "lengths has ", lengths.size(), " elements, must have batch = ", batch());
    std::vector<std::uint8_t> is_real;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
      check(lengths[b] >= 1 && lengths[b] <= T, function, "length ", b, " is ", lengths[b],
            ", must be in [1, ", T, "]");
      is_real.insert(is_real.end(), static_cast<std::size_t>(lengths[b]), 1);
      is_real.insert(is_real.end(), static_cast<std::size_t>(T - lengths[b]), 0);
    }
    const Pass pass = model_.start(workspace, function, tokens, {.key = key_, .is_real = is_real});
    for (Index b = 0; b < batch(); ++b) {
      length_[index(b)] = lengths.empty() ? T : lengths[index(b)];
    }
    if (recomputes_) {
      for (Index b = 0; b < batch(); ++b) {
        seen_[index(b)].assign(&tokens(b, 0), &tokens(b, 0) + length(b));
      }
      recompute(workspace);
      return logits_;
    }
    typename ReversibleSequence<Block>::Saved saved(layers_.size());
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      layers_[i].f.state.clear();
      saved[i].f.state = &layers_[i].f.state;
    }
    Halves<Half> halves{Half(model_.config_.residual), Half(model_.config_.residual)};
    model_.embed(tokens, pass, halves);
    model_.stack_.forward(halves, saved, pass);
    for (Index b = 0; b < batch(); ++b) {
      model_.head_.logits(halves, b * T + length(b) - 1, head_->packed(),
                          {&logits_(b, 0), 1, logits_.cols()}, pass);
    }
    return logits_;
  }

  /// Adds one token to each sequence.
  /// @param tokens  `[B]`
  /// @return logits `[B, V]` of the token after it, valid until the next call
  /// @throw std::invalid_argument for wrong tokens, or at the end of the table of positions
  /// @throw std::overflow_error as `prefill`
  const Matrix<Scalar>& step(Workspace& workspace, std::span<const std::int32_t> tokens) {
    constexpr auto function = "Decoder::step";
    check_equal(function, "tokens", static_cast<Index>(tokens.size()), "batch", batch());
    Tokens column(batch(), 1);
    std::copy(tokens.begin(), tokens.end(), column.data());
    model_.embedding_.check_tokens(function, column);
    for (Index b = 0; b < batch(); ++b) {
      check_length(function, model_.config_.positions, length(b) + 1);
      check(length(b) + 1 < (Index{1} << 24), function, "length is ", length(b) + 1,
            ", must be less than 2^24");
    }
    for (Index b = 0; b < batch(); ++b) ++length_[index(b)];
    if (recomputes_) {
      for (Index b = 0; b < batch(); ++b) seen_[index(b)].push_back(tokens[index(b)]);
      recompute(workspace);
      return logits_;
    }
    const Pass pass = step_pass(workspace);
    model_.embed(column, pass, halves_, [&](Index b) { return length(b) - 1; });
    for (Index i = 0; i < model_.stack_.size(); ++i) {
      std::as_const(model_.stack_)[i].decode(halves_, layers_[index(i)], pass.at_layer(i));
    }
    model_.head_.logits(halves_, 0, head_->packed(), view(logits_), pass);
    return logits_;
  }

 private:
  using Half = typename Model<Scalar>::Half;
  using Block = typename Model<Scalar>::Block;

  static std::size_t index(Index i) { return static_cast<std::size_t>(i); }

  Pass step_pass(Workspace& workspace) const {
    return {.workspace = workspace, .batch = batch(), .length = 1, .key = key_};
  }

  void recompute(Workspace& workspace) {
    for (Index b = 0; b < batch(); ++b) {
      const auto logits = model_.next_token_logits(workspace, seen_[index(b)], {.key = key_});
      std::copy(logits.begin(), logits.end(), &logits_(b, 0));
    }
  }

  Model<Scalar>& model_;
  RandomKey key_;
  bool recomputes_ = false;
  std::vector<Index> length_;
  std::vector<std::vector<std::int32_t>> seen_;  // only if it recomputes
  std::vector<typename Block::Decoding> layers_;
  std::optional<KeptWeight<Scalar>> head_;
  Halves<Half> halves_{Half(model_.config_.residual), Half(model_.config_.residual)};
  Matrix<Scalar> logits_;
};

}  // namespace reformer
