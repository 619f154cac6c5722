// SPDX-License-Identifier: MIT
#include "model_config.hpp"

#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "reformer/io/huggingface.hpp"
#include "token_model.hpp"

namespace training {
namespace {

using reformer::Index;

reformer::AttentionPattern published_pattern_of(const Options& options, const std::string& heads) {
  if (heads == "lsh" || heads == "bucket") {
    reformer::LshPattern lsh{.chunk_length = options.chunk_length, .num_hashes = options.hashes};
    if (heads == "bucket") {
      lsh.chunking = reformer::Chunking::bucket_chunks;
    }
    if (options.buckets != std::vector<std::int64_t>{0}) {
      lsh.num_buckets.assign(options.buckets.begin(), options.buckets.end());
    }
    return lsh;
  }
  if (heads == "local") {
    return reformer::LocalPattern{.chunk_length = options.local_chunk_length};
  }
  return reformer::ExactPattern{};
}

reformer::LayerPattern pattern_of(const Options& options, std::size_t layer) {
  const auto& values = options.values;
  const std::string& word = values[values.size() == 1 ? 0 : layer];
  const bool is_cosine = options.scores[options.scores.size() == 1 ? 0 : layer] == "cosine";
  std::vector<reformer::AttentionPattern> of_heads;
  for (const std::string& heads : heads_of(options.layers[layer])) {
    of_heads.push_back(published_pattern_of(options, heads));
    if (word != "own") {
      std::visit(
          [&](auto& p) {
            p.values = word == "mixed" ? reformer::Values::mixed : reformer::Values::following;
          },
          of_heads.back());
    }
    if (options.rotary == "all" || (options.rotary == "local" && heads == "local")) {
      std::visit([&](auto& p) { p.rotary_width = options.head_width / 2 * 2; }, of_heads.back());
    }
    if (is_cosine) {
      std::visit([](auto& p) { p.scores = reformer::Scores::cosine; }, of_heads.back());
    }
  }
  return reformer::LayerPattern(std::move(of_heads));
}

reformer::PositionConfig positions_of(const Options& options) {
  if (options.positions == "axial") {
    return reformer::AxialPositions{
        .shape = {options.axial_shape.begin(), options.axial_shape.end()},
        .widths = {options.axial_widths.begin(), options.axial_widths.end()}};
  }
  if (options.positions == "learned") {
    return reformer::LearnedPositions{.max_length = options.length};
  }
  return reformer::SinusoidalPositions{};
}

}  // namespace

std::optional<reformer::HuggingFaceConfig> huggingface_of(const Options& options) {
  if (options.model_config.empty()) {
    return std::nullopt;
  }
  return reformer::parse_huggingface_config(options.model_config);
}

reformer::ModelConfig config_of(const Options& options, std::int64_t vocabulary) {
  if (const auto huggingface = huggingface_of(options)) {
    reformer::ModelConfig config = huggingface->model;
    config.dropout = options.dropout;
    config.attention_dropout = options.attention_dropout;
    return config;
  }
  reformer::ModelConfig config{
      .vocabulary = vocabulary,
      .tied_embedding = options.embedding == "tied",
      .width = options.width,
      .num_heads = options.heads,
      .head_width = options.head_width,
      .feed_forward_width = options.ff_width,
      .activation = options.activation == "relu"   ? reformer::Activation::relu
                    : options.activation == "gelu" ? reformer::Activation::gelu
                                                   : reformer::Activation::gelu_tanh,
      .positions = positions_of(options),
      .layers = {},
      .dropout = options.dropout,
      .attention_dropout = options.attention_dropout};
  if (options.residual == "fixed") {
    config.residual = reformer::FixedResidual{};
  }
  for (const std::int64_t order : options.ngrams) {
    if (order > 0) {
      config.ngrams.push_back(
          {.order = order, .rows = options.ngram_rows, .dropout = options.ngram_dropout});
    }
  }
  if (options.value_ngrams > 0) {
    config.value_ngrams = {.order = options.value_ngrams,
                           .rows = options.ngram_rows,
                           .dropout = options.ngram_dropout};
  }
  for (std::size_t layer = 0; layer < options.layers.size(); ++layer) {
    config.layers.push_back(pattern_of(options, layer));
  }
  return config;
}

std::int64_t local_reach(const Options& options) {
  Index reach = 0;
  for (const reformer::LayerPattern& layer : config_of(options, 2).layers) {
    Index of_layer = 0;
    for (const reformer::AttentionPattern& pattern : layer.of_heads) {
      if (const auto* local = std::get_if<reformer::LocalPattern>(&pattern)) {
        of_layer = (local->chunks_before + 1) * local->chunk_length - 1;
      }
    }
    reach += of_layer;
  }
  return reach;
}

}  // namespace training
