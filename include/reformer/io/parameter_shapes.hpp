// SPDX-License-Identifier: MIT
/// @file
/// The parameters of a model, none of which is allocated: a file is held against them before memory
/// is taken for what it says.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/model/config.hpp"

namespace reformer::inline REFORMER_ABI {

/// A parameter without its values.
struct ParameterShape {
  std::string name;
  Role role = Role::weight;
  Index rows = 0, columns = 0;
};

/// All parameters of a model, in the order of `Model::for_each_parameter`.
/// @throw std::invalid_argument for a configuration that no model can have
inline std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  detail::check_config("parameter_shapes", config);
  const Index D = config.width, F = config.feed_forward_width, V = config.vocabulary;
  const Index all_heads = config.num_heads * config.head_width;
  std::vector<ParameterShape> shapes;
  const auto add = [&](std::string name, Role role, Index rows, Index columns) {
    shapes.push_back({std::move(name), role, rows, columns});
  };
  const auto norm = [&](const std::string& name, Index width) {
    add(name + ".weight", Role::gain, 1, width);
    add(name + ".bias", Role::bias, 1, width);
  };
  add("embedding.weight", Role::embedding, V, D);
  if (const auto* axial = std::get_if<AxialPositions>(&config.positions)) {
    const auto widths = axial_widths(*axial, D);
    for (std::size_t i = 0; i < widths.size(); ++i) {
      add("positions.weights." + std::to_string(i), Role::position_table, axial->shape[i],
          widths[i]);
    }
  } else if (const auto* learned = std::get_if<LearnedPositions>(&config.positions)) {
    add("positions.weight", Role::position_table, learned->max_length, D);
  }
  for (std::size_t i = 0; i < config.ngrams.size(); ++i) {
    add("ngrams." + std::to_string(i) + ".weight", Role::ngram_table, config.ngrams[i].rows, D);
  }
  for (std::size_t i = 0; i < config.layers.size(); ++i) {
    const std::string attention = "layers." + std::to_string(i) + ".attention";
    const std::string feed_forward = "layers." + std::to_string(i) + ".feed_forward";
    norm(attention + ".layer_norm", D);
    const Index keys =
        heads_with_keys(config.layers[i], config.num_heads, config.num_heads) * config.head_width;
    add(attention + (keys == 0 ? ".query_key.weight" : ".query.weight"), Role::weight, D,
        all_heads);
    if (keys > 0) add(attention + ".key.weight", Role::weight, D, keys);
    add(attention + ".value.weight", Role::weight, D, all_heads);
    add(attention + ".output.weight", Role::weight, all_heads, D);
    if (mixes_values(config.layers[i])) {
      add(attention + ".value_mixture", Role::mixture, 2, config.num_heads);
    }
    if (has_cosine_scores(config.layers[i])) {
      add(attention + ".temperature", Role::temperature, 1, config.num_heads);
    }
    if (const auto table = detail::attention_config(config, static_cast<Index>(i)).value_ngrams) {
      add(attention + ".value_ngrams.weight", Role::ngram_table, table->rows, all_heads);
    }
    norm(feed_forward + ".layer_norm", D);
    add(feed_forward + ".dense.weight", Role::weight, D, F);
    add(feed_forward + ".dense.bias", Role::bias, 1, F);
    add(feed_forward + ".output.weight", Role::weight, F, D);
    add(feed_forward + ".output.bias", Role::bias, 1, D);
  }
  norm("layer_norm", 2 * D);
  if (config.language_head) {
    if (!config.tied_embedding) add("head.weight", Role::head_weight, 2 * D, V);
    add("head.bias", Role::bias, 1, V);
  }
  return shapes;
}

}  // namespace reformer::inline REFORMER_ABI
