// SPDX-License-Identifier: MIT
#include "model_io.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

#include "reformer/io/huggingface.hpp"

namespace enwik8 {
namespace {

/// google/reformer-enwik8 and its like have two tokens before those of the bytes.
constexpr std::int64_t shifted_vocabulary = 258;

}  // namespace

void begin_with_model(Options& options, std::int64_t tokens) {
  using namespace reformer;
  const std::set<std::string> allowed{"preset",       "init",           "length",
                                      "axial-shape",  "hashes",         "dropout",
                                      "init-weights", "init-positions", "attention-dropout"};
  for (const std::string& name : model_option_names()) {
    if (options.given.contains(name) && !allowed.contains(name)) {
      throw OptionError(fmt::format("--{} is decided by the model in --init '{}'; leave it out",
                                    name, options.init));
    }
  }
  const auto refuse = [&](const std::string& what) {
    throw OptionError(fmt::format("--init is '{}', {}", options.init, what));
  };
  HuggingFaceConfig config = load_huggingface_config(options.init);
  ModelConfig& model = config.model;
  if (!model.causal) {
    refuse("an encoder; allowed: a decoder, which predicts the next byte");
  }
  if (tokens != vocabulary && model.vocabulary != tokens) {
    refuse(fmt::format("which has {} tokens; allowed: as many as the tokenizer has, {}",
                       model.vocabulary, tokens));
  }
  if (tokens == vocabulary && model.vocabulary != vocabulary &&
      model.vocabulary != shifted_vocabulary) {
    refuse(fmt::format("which has {} tokens; allowed: the model of bytes, with {} tokens, or {}",
                       model.vocabulary, vocabulary, shifted_vocabulary));
  }
  // A decoder without a head gets a new one; everything else must fit its own config.
  config.kind = HuggingFaceClass::language_model;
  model.language_head = true;
  check_huggingface_weights(
      HuggingFaceWeights(options.init), model,
      [head = load_huggingface_config(options.init).model.language_head](std::string_view name) {
        return !head && name.starts_with("head.");
      });

  const Index length = options.length;
  auto* axial = std::get_if<AxialPositions>(&model.positions);
  if (options.given.contains("axial-shape")) {
    if (axial == nullptr || options.axial_shape.size() != 2) {
      throw OptionError(fmt::format(
          "--axial-shape is '{}'; allowed: {}", fmt::join(options.axial_shape, ","),
          axial == nullptr ? "nothing, the model has learned positions" : "two numbers"));
    }
    axial->shape = {options.axial_shape[0], options.axial_shape[1]};
    config.max_positions = std::max(config.max_positions, axial->shape[0] * axial->shape[1]);
  }
  const Index longest = *max_length(model.positions);
  if (length > longest) {
    throw OptionError(fmt::format(
        "--length is {}, but the model has {} positions; allowed: up to that{}", length, longest,
        axial != nullptr ? ", or more with another --axial-shape, whose tables begin anew" : ""));
  }
  if (const Index padded = huggingface_padded_length(model, length); padded != length) {
    throw OptionError(fmt::format(
        "--length is {}; allowed with --init: what chunks divide, such as {}", length, padded));
  }
  const auto factors = huggingface_open_buckets(config, length);
  for (LayerPattern& layer : model.layers) {
    auto* lsh = std::get_if<LshPattern>(&layer.of_heads.front());  // that of all heads
    if (lsh != nullptr && options.given.contains("hashes")) {
      lsh->num_hashes = options.hashes;
    }
    if (lsh != nullptr && !factors.empty()) {
      lsh->num_buckets = factors;
    }
  }
  options.model_config = huggingface_config_text(config, "float32");

  // What is shown, and what a checkpoint says about itself.
  options.layers.clear();
  options.values = {"own"};
  options.scores = {"dot"};
  options.rotary = "none";
  options.embedding = "separate";
  options.ngrams = {0};
  options.value_ngrams = 0;
  for (const LayerPattern& layer : model.layers) {
    const AttentionPattern& pattern = layer.of_heads.front();
    if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
      options.layers.emplace_back("lsh");
      options.chunk_length = lsh->chunk_length;
      options.hashes = lsh->num_hashes;
      options.buckets.assign(lsh->num_buckets.begin(), lsh->num_buckets.end());
      if (options.buckets.empty()) {
        options.buckets = {0};
      }
    } else {
      options.layers.emplace_back("local");
      options.local_chunk_length = std::get<LocalPattern>(pattern).chunk_length;
    }
  }
  options.width = model.width;
  options.heads = model.num_heads;
  options.head_width = model.head_width;
  options.ff_width = model.feed_forward_width;
  options.activation = model.activation == Activation::relu   ? "relu"
                       : model.activation == Activation::gelu ? "gelu"
                                                              : "gelu-tanh";
  options.positions = axial != nullptr ? "axial" : "learned";
  if (axial != nullptr) {
    options.axial_shape = {axial->shape[0], axial->shape[1]};
    options.axial_widths = {axial->widths[0], axial->widths[1]};
  }
  // What begins anew begins as in HuggingFace.
  if (!options.given.contains("init-weights")) {
    options.init_weights = 0.02;
  }
  if (!options.given.contains("init-positions")) {
    options.init_positions = 1;
  }
  complete_options(options);
}

Options saved_options(const Checkpoint& checkpoint) {
  return training::saved_options(option_set(), checkpoint);
}

void change_hashing(Options& saved, std::int64_t hashes, const std::vector<std::int64_t>& buckets,
                    std::int64_t chunk_length) {
  const bool has_buckets = buckets != std::vector<std::int64_t>{0};
  if (hashes > 0) {
    saved.hashes = hashes;
  }
  if (has_buckets) {
    saved.buckets = buckets;
  }
  if (chunk_length > 0) {
    saved.chunk_length = chunk_length;
  }
  complete_options(saved);
  if (saved.model_config.empty()) {
    return;
  }
  // A run that began with --init computes with the config of that model.
  reformer::HuggingFaceConfig config = reformer::parse_huggingface_config(saved.model_config);
  for (reformer::LayerPattern& layer : config.model.layers) {
    if (auto* lsh = std::get_if<reformer::LshPattern>(&layer.of_heads.front())) {
      if (hashes > 0) {
        lsh->num_hashes = hashes;
      }
      if (has_buckets) {
        lsh->num_buckets.assign(buckets.begin(), buckets.end());
      }
      if (chunk_length > 0) {
        lsh->chunk_length = chunk_length;
      }
    }
  }
  saved.model_config = reformer::huggingface_config_text(config, "float32");
}

}  // namespace enwik8
