// SPDX-License-Identifier: MIT
/// @file
/// Configuration of a model.
#pragma once

#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "reformer/operations/positions.hpp"

namespace reformer {

/// A Reformer language model. Written with designated initialisers; sizes default to a small byte
/// model.
struct ModelConfig {
  Index vocabulary = 256;  ///< V
  /// Whether there are logits and a loss; without, `Model::encode` is all there is.
  bool language_head = true;
  Index width = 256;                ///< D
  Index num_heads = 4;              ///< H
  Index head_width = 64;            ///< K
  Index feed_forward_width = 1024;  ///< F
  Activation activation = Activation::relu;
  PositionConfig positions = AxialPositions{};
  /// What each layer attends to; its size is the number of layers.
  std::vector<AttentionPattern> layers = {LocalPattern{}, LshPattern{}, LocalPattern{},
                                          LshPattern{}};
  bool causal = true;
  double dropout = 0;            ///< of embeddings, branch outputs, hidden arrays and head input
  double attention_dropout = 0;  ///< of attention weights
  double layer_norm_epsilon = 1e-12;
  /// What the halves of the residual stream are held in.
  ResidualConfig residual = FloatResidual{};
};

inline SelfAttentionConfig attention_config(const ModelConfig& config, Index layer) {
  return {.width = config.width,
          .num_heads = config.num_heads,
          .head_width = config.head_width,
          .pattern = config.layers[static_cast<std::size_t>(layer)],
          .causal = config.causal,
          .attention_dropout = config.attention_dropout,
          .dropout = config.dropout,
          .layer_norm_epsilon = config.layer_norm_epsilon};
}

inline FeedForwardConfig feed_forward_config(const ModelConfig& config) {
  return {.width = config.width,
          .hidden_width = config.feed_forward_width,
          .activation = config.activation,
          .dropout = config.dropout,
          .layer_norm_epsilon = config.layer_norm_epsilon};
}

/// Throws `std::invalid_argument` naming the first quantity that is not possible.
inline void check_config(std::string_view function, const ModelConfig& config) {
  check_at_least(function, "vocabulary", config.vocabulary, 1);
  check_at_least(function, "width", config.width, 1);
  check(!config.layers.empty(), function, "layers is empty, must have at least one");
  check_config(function, config.positions, config.width);
  check_config(function, feed_forward_config(config));
  for (Index i = 0; i < static_cast<Index>(config.layers.size()); ++i) {
    check_config(function, attention_config(config, i));
  }
}

}  // namespace reformer
