// SPDX-License-Identifier: MIT
/// @file
/// Configuration of a self-attention branch.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "reformer/attention/layer_pattern.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/operations/config.hpp"

namespace reformer::inline REFORMER_ABI {

struct SelfAttentionConfig {
  Index width = 256;                    ///< D
  Index num_heads = 4;                  ///< H
  Index head_width = 64;                ///< K; H*K need not equal D
  LayerPattern pattern = LshPattern{};  ///< of all heads, or of shares of them
  bool causal = true;
  double attention_dropout = 0;  ///< of the attention weights
  double dropout = 0;            ///< of the output
  double layer_norm_epsilon = 1e-12;
  /// Its vectors for the last few tokens are added to the values, see value_embedding.hpp; or none.
  std::optional<NgramTable> value_ngrams = {};
};

namespace detail {
/// Throws `std::invalid_argument` for a table that is not possible.
/// @param width  H*K
inline void check_value_ngrams(std::string_view function, const std::optional<NgramTable>& table,
                               Index width) {
  if (!table) return;
  check_config(std::string(function) + ": value_ngrams", *table);
  check_elements(function, "value_ngrams: rows * num_heads * head_width", table->rows, width);
}

/// Throws `std::invalid_argument` for sizes out of range, an impossible pattern or a list of them
/// that heads cannot share, more rotated columns than a head has, a dropout outside [0, 1) or an
/// epsilon out of range.
inline void check_config(std::string_view function, const SelfAttentionConfig& config) {
  check_between(function, "width", config.width, 1, max_size);
  check_between(function, "num_heads", config.num_heads, 1, max_size);
  check_between(function, "head_width", config.head_width, 1, max_size / config.num_heads);
  check_elements(function, "width * (num_heads * head_width)", config.width,
                 config.num_heads * config.head_width);
  check_dropout(function, "attention_dropout", config.attention_dropout);
  check_dropout(function, "dropout", config.dropout);
  check_pattern(function, config.pattern, config.num_heads, config.causal);
  check_rotary_width(function, config.pattern, config.head_width);
  check_value_ngrams(function, config.value_ngrams, config.num_heads * config.head_width);
  check_layer_norm_epsilon(function, config.layer_norm_epsilon);
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
