// SPDX-License-Identifier: MIT
/// @file
/// Configuration of a model.
#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "reformer/attention/config.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/residual_config.hpp"
#include "reformer/operations/config.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// Local and LSH attention in turn, four layers. Causal models have the form that learns best:
/// values of what followed, scores that are cosines, rotary positions in local layers, strictly
/// causal chunks within buckets, and many small buckets, so that what a token looks for is not
/// behind others of its bucket. Other models have the published form.
inline std::vector<LayerPattern> default_layers(bool causal, Index head_width) {
  if (!causal) return {LocalPattern{}, LshPattern{}, LocalPattern{}, LshPattern{}};
  const LocalPattern local{
      .values = Values::following, .scores = Scores::cosine, .rotary_width = head_width / 2 * 2};
  const LshPattern far{.num_hashes = 4,
                       .num_buckets = {32, 32},
                       .chunking = Chunking::bucket_chunks,
                       .values = Values::following,
                       .scores = Scores::cosine};
  return {local, far, local, far};
}

/// What rows of a tied embedding are multiplied by where tokens are read. As weights of the head
/// they must be small, as vectors of tokens about as large as what branches add to them.
inline constexpr double tied_embedding_scale = 4;
}  // namespace detail

/// A Reformer language model. Written with designated initialisers; sizes default to a small byte
/// model.
struct ModelConfig {
  Index vocabulary = 256;  ///< V
  /// Whether there are logits and a loss; without, `Model::encode` is all there is.
  bool language_head = true;
  /// Whether embedding and head share one table E `[V, D]`: a token is read as 4 E[token], and
  /// logits are (z_1 + z_2) / 2 E^T + b, where z_1 and z_2 are the halves of what the head makes of
  /// the stack. The head then has no weight of its own, which would be twice as large as E.
  bool tied_embedding = false;
  Index width = 256;                ///< D
  Index num_heads = 4;              ///< H
  Index head_width = 64;            ///< K
  Index feed_forward_width = 1024;  ///< F
  Activation activation = Activation::relu;
  PositionConfig positions = AxialPositions{};
  /// Tables whose vectors for the last few tokens are added to the embedding; may be empty.
  std::vector<NgramTable> ngrams = {};
  /// A table of its own for each layer whose heads do not hash: its vectors for the last few tokens
  /// are added to the layer's values; or none. See attention/value_embedding.hpp.
  std::optional<NgramTable> value_ngrams = {};
  bool causal = true;
  /// What each layer attends to, all its heads or shares of them; its size is the number of layers.
  /// (A function, because gcc 12 cannot compile a braced list here where a template writes the
  /// configuration.)
  std::vector<LayerPattern> layers = detail::default_layers(causal, head_width);
  double dropout = 0;            ///< of embeddings, branch outputs, hidden arrays and head input
  double attention_dropout = 0;  ///< of attention weights
  double layer_norm_epsilon = 1e-12;
  /// What the halves of the residual stream are held in.
  ResidualConfig residual = FloatResidual{};
};

namespace detail {
inline SelfAttentionConfig attention_config(const ModelConfig& config, Index layer) {
  const LayerPattern& pattern = config.layers[static_cast<std::size_t>(layer)];
  return {.width = config.width,
          .num_heads = config.num_heads,
          .head_width = config.head_width,
          .pattern = pattern,
          .causal = config.causal,
          .attention_dropout = config.attention_dropout,
          .dropout = config.dropout,
          .layer_norm_epsilon = config.layer_norm_epsilon,
          .value_ngrams = has_buckets(pattern) ? std::nullopt : config.value_ngrams};
}

inline FeedForwardConfig feed_forward_config(const ModelConfig& config) {
  return {.width = config.width,
          .hidden_width = config.feed_forward_width,
          .activation = config.activation,
          .dropout = config.dropout,
          .layer_norm_epsilon = config.layer_norm_epsilon};
}

/// Throws `std::invalid_argument` naming the first field that is not possible, and its layer.
inline void check_config(std::string_view function, const ModelConfig& config) {
  check_between(function, "vocabulary", config.vocabulary, 1, max_size);
  check_between(function, "width", config.width, 1, max_size / 2);  // of which the head has two
  check_between(function, "num_heads", config.num_heads, 1, max_size);
  check_between(function, "head_width", config.head_width, 1, max_size / config.num_heads);
  check_between(function, "feed_forward_width", config.feed_forward_width, 1, max_size);
  check_elements(function, "vocabulary * 2 * width", config.vocabulary, 2 * config.width);
  check(config.language_head || !config.tied_embedding, function,
        "tied_embedding is true, must be false without a language head");
  check_elements(function, "num_heads * head_width * width", config.num_heads * config.head_width,
                 config.width);
  check_elements(function, "feed_forward_width * width", config.feed_forward_width, config.width);
  check_activation(function, config.activation);
  check_dropout(function, "dropout", config.dropout);
  check_dropout(function, "attention_dropout", config.attention_dropout);
  check_layer_norm_epsilon(function, config.layer_norm_epsilon);
  check_config(function, config.positions, config.width);
  for (std::size_t i = 0; i < config.ngrams.size(); ++i) {
    const std::string table = detail::join(function, ": ngrams[", i, "]");
    check_config(table, config.ngrams[i]);
    check_elements(table, "rows * width", config.ngrams[i].rows, config.width);
  }
  check_value_ngrams(function, config.value_ngrams, config.num_heads * config.head_width);
  constexpr std::size_t most_layers = std::size_t{1} << 20;  // each has streams of random numbers
  check(!config.layers.empty(), function, "layers is empty, must have at least one");
  check(config.layers.size() <= most_layers, function, "layers has ", config.layers.size(),
        " elements, must have at most ", most_layers);
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const std::string layer = detail::join(function, ": layers[", i, "]");
    check_pattern(layer, config.layers[i], config.num_heads, config.causal);
    check_rotary_width(layer, config.layers[i], config.head_width);
  }
}

/// Throws `std::invalid_argument` for fraction bits that the scalar type does not have.
template <typename Scalar>
void check_residual(std::string_view function, const ResidualConfig& config) {
  constexpr int most = std::numeric_limits<FixedInteger<Scalar>>::digits - 1;
  const auto* fixed = std::get_if<FixedResidual>(&config);
  check(fixed == nullptr || (fixed->fraction_bits >= 0 && fixed->fraction_bits <= most), function,
        "residual: fraction_bits is ", fixed == nullptr ? 0 : fixed->fraction_bits,
        ", must be in [0, ", most, "]");
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
