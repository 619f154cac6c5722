// SPDX-License-Identifier: MIT
/// @file
/// `config.json` of HuggingFace's Reformer: what in it changes the function, and the rules that
/// hang on it.
///
/// Read: the kinds of the layers, all widths, chunk lengths and neighbours, hashes and buckets,
/// positions, activation, layer norm, decoder or encoder, the padding token. Fields that are
/// missing have the defaults of `transformers.ReformerConfig`.
///
/// Ignored, because they change nothing here: dropout probabilities, initial deviations, chunks of
/// feed-forward and head (memory only), `hash_seed` (the rotations of another generator), caches,
/// labels, names, and keys of old versions without effect (`seed`, `num_chunks_before`,
/// `sinusoidal_pos_embds`, `attention_probs_dropout_prob`). They are written again as they were
/// read.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/io/json.hpp"
#include "reformer/model/config.hpp"

namespace reformer::inline REFORMER_ABI {

/// HuggingFace's classes of Reformer models.
enum class HuggingFaceClass {
  language_model,         ///< ReformerModelWithLMHead: a decoder, labels shifted by one
  masked_language_model,  ///< ReformerForMaskedLM: an encoder, labels where they stand
  base,                   ///< ReformerModel: no head
};

struct HuggingFaceConfig {
  ModelConfig model;
  HuggingFaceClass kind = HuggingFaceClass::language_model;
  std::int32_t padding_token = 0;
  /// `max_position_embeddings`: the length of a learned table of positions, and part of the rule
  /// for the number of buckets.
  Index max_positions = 4096;
  Json fields = Json::object();  ///< everything that was read
  std::string text;              ///< the same as it was spelled
};

/// The number of buckets, in factors, that HuggingFace chooses at the first length that is hashed:
/// the largest power of two that is at most 2 (T / C), in two factors above 2 max(sqrt(P / C), C)
/// for P positions.
/// @throw std::invalid_argument for sizes below 1 or beyond `max_elements`
inline std::vector<Index> huggingface_num_buckets(Index length, Index chunk_length,
                                                  Index max_positions) {
  constexpr auto function = "huggingface_num_buckets";
  check_between(function, "length", length, 1, max_elements);
  check_between(function, "chunk_length", chunk_length, 1, max_elements);
  check_between(function, "max_positions", max_positions, 1, max_elements);
  const auto ratio = static_cast<std::uint64_t>(2 * (length / chunk_length));
  const int log2 = std::max(static_cast<int>(std::bit_width(ratio)) - 1, 1);
  const auto root = static_cast<Index>(
      std::sqrt(static_cast<double>(max_positions) / static_cast<double>(chunk_length)));
  const Index number = Index{1} << log2;
  if (number <= 2 * std::max(root, chunk_length)) return {number};
  return {Index{1} << (log2 / 2), Index{1} << (log2 - log2 / 2)};
}

/// The length at which HuggingFace evaluates: the next multiple of all chunk lengths, unless the
/// sequence is not longer than the shortest chunk.
/// @throw std::invalid_argument for a length or chunk lengths that nothing can have
inline Index huggingface_padded_length(const ModelConfig& config, Index length) {
  constexpr auto function = "huggingface_padded_length";
  constexpr Index most = Index{1} << 62;  // more than the product of two chunk lengths
  check_between(function, "length", length, 1, max_elements);
  Index multiple = 1, shortest = length;
  for (const LayerPattern& layer : config.layers) {
    for (const AttentionPattern& pattern : layer.of_heads) {
      const auto* lsh = std::get_if<LshPattern>(&pattern);
      const auto* local = std::get_if<LocalPattern>(&pattern);
      if (lsh == nullptr && local == nullptr) continue;
      const Index chunk = lsh != nullptr ? lsh->chunk_length : local->chunk_length;
      check_between(function, "chunk_length", chunk, 1, max_size);
      const Index factor = chunk / std::gcd(multiple, chunk);
      check(multiple <= most / factor, function,
            "the least common multiple of the chunk lengths is ", multiple, " * ", factor,
            ", must be at most ", most);
      multiple *= factor;
      shortest = std::min(shortest, chunk);
    }
  }
  return length > shortest ? round_up(length, multiple) : length;
}

/// The number of buckets, in factors, that a pass at this (padded) length fixes; empty if it hashes
/// nothing or the config leaves nothing open.
/// @throw std::invalid_argument for sizes below 1 or beyond what anything can have
inline std::vector<Index> huggingface_open_buckets(const HuggingFaceConfig& config, Index length) {
  constexpr auto function = "huggingface_open_buckets";
  check_between(function, "length", length, 1, max_elements);
  check_between(function, "max_positions", config.max_positions, 1, max_elements);
  for (const LayerPattern& layer : config.model.layers) {
    for (const AttentionPattern& pattern : layer.of_heads) {
      const auto* lsh = std::get_if<LshPattern>(&pattern);
      if (lsh != nullptr && hashes(*lsh, length) && lsh->num_buckets.empty()) {
        check_between(function, "chunk_length", lsh->chunk_length, 1, max_size);
        return huggingface_num_buckets(length, lsh->chunk_length, config.max_positions);
      }
    }
  }
  return {};
}

namespace detail {

inline constexpr std::pair<HuggingFaceClass, std::string_view> huggingface_classes[] = {
    {HuggingFaceClass::language_model, "ReformerModelWithLMHead"},
    {HuggingFaceClass::masked_language_model, "ReformerForMaskedLM"},
    {HuggingFaceClass::base, "ReformerModel"}};

/// Circular windows and sorted padding, as in HuggingFace.
inline void pad_as_huggingface(ModelConfig& model) {
  for (LayerPattern& layer : model.layers) {
    for (AttentionPattern& pattern : layer.of_heads) {
      if (auto* lsh = std::get_if<LshPattern>(&pattern)) lsh->sort_padding = true;
      if (auto* local = std::get_if<LocalPattern>(&pattern)) local->circular = true;
    }
  }
}

inline constexpr Index max_huggingface_positions = Index{1} << 31;

/// Throws `std::invalid_argument` naming the first field that is not possible.
inline void check_huggingface_config(std::string_view function, const HuggingFaceConfig& config) {
  check_config(function, config.model);
  check(std::any_of(std::begin(huggingface_classes), std::end(huggingface_classes),
                    [&](const auto& known) { return known.first == config.kind; }),
        function, "kind is number ", static_cast<int>(config.kind),
        ", must be language_model, masked_language_model or base");
  check(config.padding_token >= 0 && config.padding_token < config.model.vocabulary, function,
        "padding_token is ", config.padding_token, ", must be in [0, ", config.model.vocabulary,
        ")");
  check_between(function, "max_positions", config.max_positions, 1, max_huggingface_positions);
}

/// Names of activations; the first for each is what is written.
inline constexpr std::pair<std::string_view, Activation> huggingface_activations[] = {
    {"relu", Activation::relu},           {"gelu", Activation::gelu},
    {"gelu_new", Activation::gelu_tanh},  {"gelu_python", Activation::gelu},
    {"gelu_fast", Activation::gelu_tanh}, {"gelu_pytorch_tanh", Activation::gelu_tanh}};

/// Reads fields of a config; each error names the field, its value and what is allowed.
class ConfigFields {
 public:
  explicit ConfigFields(const Json& fields) : fields_(fields) {}

  bool has(std::string_view name) const { return find(name) != nullptr; }

  /// A field that is there and not null.
  const Json* find(std::string_view name) const {
    const auto found = fields_.find(std::string(name));
    return found == fields_.end() || found->is_null() ? nullptr : &*found;
  }

  Index whole(std::string_view name, Index otherwise, Index least, Index most) const {
    const Json* value = find(name);
    return value == nullptr ? otherwise : to_whole(name, *value, *value, least, most);
  }

  bool boolean(std::string_view name, bool otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) refuse(name, *value, "true or false");
    return value->get<bool>();
  }

  double positive(std::string_view name, double otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    const double number = value->is_number() ? value->get<double>() : 0;
    if (!(number > 0 && std::isfinite(number))) refuse(name, *value, "a number above 0");
    return number;
  }

  std::vector<Index> wholes(std::string_view name, std::vector<Index> otherwise, Index least,
                            Index most) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_array()) refuse(name, *value, "a list of whole numbers");
    std::vector<Index> numbers;
    for (const Json& element : *value) {
      numbers.push_back(to_whole(name, element, *value, least, most));
    }
    return numbers;
  }

  [[noreturn]] static void refuse(std::string_view name, const Json& value,
                                  std::string_view allowed) {
    throw std::runtime_error(
        join("config has ", name, " ", shortened(value.dump(), 80), ", must be ", allowed));
  }

 private:
  static Index to_whole(std::string_view name, const Json& value, const Json& shown, Index least,
                        Index most) {
    if (value.is_number_integer()) {
      const bool fits = !value.is_number_unsigned() ||
                        value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most);
      const auto number = fits ? value.get<std::int64_t>() : std::int64_t{-1};
      if (fits && number >= least && number <= most) return number;
    }
    refuse(name, shown, join("whole, from ", least, " to ", most));
  }

  const Json& fields_;
};

inline AttentionPattern huggingface_pattern(const ConfigFields& f, std::string_view kind) {
  constexpr Index longest = Index{1} << 24, neighbours = 1 << 10;
  if (kind == "local") {
    return LocalPattern{.chunk_length = f.whole("local_attn_chunk_length", 64, 1, longest),
                        .chunks_before = f.whole("local_num_chunks_before", 1, 0, neighbours),
                        .chunks_after = f.whole("local_num_chunks_after", 0, 0, neighbours),
                        .circular = true};
  }
  LshPattern lsh{.chunk_length = f.whole("lsh_attn_chunk_length", 64, 1, longest),
                 .chunks_before = f.whole("lsh_num_chunks_before", 1, 0, neighbours),
                 .chunks_after = f.whole("lsh_num_chunks_after", 0, 0, neighbours),
                 .num_hashes = f.whole("num_hashes", 1, 1, 1 << 16),
                 .num_buckets = {},
                 .sort_padding = true};
  if (const Json* buckets = f.find("num_buckets")) {
    constexpr std::string_view allowed =
        "null, an even number or a list of even factors, together at most 65535";
    lsh.num_buckets = buckets->is_array()
                          ? f.wholes("num_buckets", {}, 2, max_buckets)
                          : std::vector<Index>{f.whole("num_buckets", 0, 2, max_buckets)};
    try {
      check_buckets("config", lsh.num_buckets);
    } catch (const std::invalid_argument&) {
      ConfigFields::refuse("num_buckets", *buckets, allowed);
    }
  }
  return lsh;
}

inline std::vector<LayerPattern> huggingface_layers(const ConfigFields& f) {
  std::vector<std::string> kinds = {"local", "lsh", "local", "lsh", "local", "lsh"};
  if (const Json* layers = f.find("attn_layers")) {
    constexpr std::string_view allowed = R"(a list of "local" and "lsh", at least one)";
    if (!layers->is_array() || layers->empty()) f.refuse("attn_layers", *layers, allowed);
    kinds.clear();
    for (const Json& kind : *layers) {
      if (kind != "local" && kind != "lsh") f.refuse("attn_layers", *layers, allowed);
      kinds.push_back(kind.get<std::string>());
    }
  }
  if (const Json* number = f.find("num_hidden_layers"); number && *number != kinds.size()) {
    f.refuse("num_hidden_layers", *number, join("the length of attn_layers, ", kinds.size()));
  }
  std::vector<LayerPattern> layers;
  for (const std::string& kind : kinds) layers.push_back(huggingface_pattern(f, kind));
  return layers;
}

inline PositionConfig huggingface_positions(const ConfigFields& f, Index width,
                                            Index max_positions) {
  if (!f.boolean("axial_pos_embds", true)) return LearnedPositions{max_positions};
  const auto pair = [&](std::string_view name, std::vector<Index> otherwise, Index most) {
    const auto values = f.wholes(name, std::move(otherwise), 1, most);
    if (values.size() != 2) {
      f.refuse(name, f.find(name) != nullptr ? *f.find(name) : Json(),
               "two numbers: grids of other dimensions are not supported");
    }
    return values;
  };
  const AxialPositions axial{pair("axial_pos_shape", {64, 64}, Index{1} << 31),
                             pair("axial_pos_embds_dim", {64, 192}, Index{1} << 24)};
  if (axial.widths[0] + axial.widths[1] != width) {
    f.refuse("axial_pos_embds_dim", Json(axial.widths),
             join("two numbers whose sum is hidden_size ", width));
  }
  return axial;
}

inline HuggingFaceClass huggingface_class(const ConfigFields& f, bool is_decoder) {
  const Json* names = f.find("architectures");
  if (names == nullptr) {
    return is_decoder ? HuggingFaceClass::language_model : HuggingFaceClass::base;
  }
  if (names->is_array() && names->size() == 1) {
    for (const auto& [kind, name] : huggingface_classes) {
      if ((*names)[0] == name) return kind;
    }
  }
  f.refuse("architectures", *names,
           R"(["ReformerModelWithLMHead"], ["ReformerForMaskedLM"] or ["ReformerModel"])");
}

/// What can be made of the fields, without the fields themselves.
inline HuggingFaceConfig read_huggingface_fields(const Json& fields) {
  const ConfigFields f(fields);
  if (const Json* type = f.find("model_type"); type && *type != "reformer") {
    f.refuse("model_type", *type, "\"reformer\"");
  }
  if (f.boolean("tie_word_embeddings", false)) {
    f.refuse("tie_word_embeddings", true,
             "false: the head has twice the width of the embedding, so they cannot be one");
  }
  if (const Json* pruned = f.find("pruned_heads"); pruned && !pruned->empty()) {
    f.refuse("pruned_heads", *pruned, "empty: pruned heads are not supported");
  }
  if (const Json* how = f.find("quantization_config")) {
    f.refuse("quantization_config", *how, "absent: quantised weights are not supported");
  }
  if (f.boolean("is_encoder_decoder", false)) {
    f.refuse("is_encoder_decoder", true, "false: there is no encoder-decoder Reformer");
  }
  if (f.boolean("add_cross_attention", false)) {
    f.refuse("add_cross_attention", true, "false: there is no cross-attention in a Reformer");
  }

  HuggingFaceConfig config;
  ModelConfig& model = config.model;
  model.causal = f.boolean("is_decoder", false);
  config.kind = huggingface_class(f, model.causal);
  model.language_head = config.kind != HuggingFaceClass::base;
  model.vocabulary = f.whole("vocab_size", 320, 1, 2'147'483'647);
  model.width = f.whole("hidden_size", 256, 1, Index{1} << 24);
  model.num_heads = f.whole("num_attention_heads", 12, 1, 1 << 12);
  model.head_width = f.whole("attention_head_size", 64, 1, 1 << 16);
  model.feed_forward_width = f.whole("feed_forward_size", 512, 1, Index{1} << 28);
  model.layer_norm_epsilon = f.positive("layer_norm_eps", 1e-12);
  if (const Json* name = f.find("hidden_act")) {
    const auto* found =
        std::find_if(std::begin(huggingface_activations), std::end(huggingface_activations),
                     [&](const auto& known) { return *name == known.first; });
    if (found == std::end(huggingface_activations)) {
      f.refuse("hidden_act", *name,
               "relu, gelu, gelu_new, gelu_python, gelu_fast or gelu_pytorch_tanh");
    }
    model.activation = found->second;
  }
  config.max_positions = f.whole("max_position_embeddings", 4096, 1, max_huggingface_positions);
  model.positions = huggingface_positions(f, model.width, config.max_positions);
  model.layers = huggingface_layers(f);
  config.padding_token =
      static_cast<std::int32_t>(f.whole("pad_token_id", 0, 0, model.vocabulary - 1));

  if (config.kind == HuggingFaceClass::language_model) {
    if (!model.causal) {
      f.refuse("is_decoder", false, "true for ReformerModelWithLMHead");
    }
    for (const LayerPattern& layer : model.layers) {
      const AttentionPattern& pattern = layer.of_heads.front();  // that of all heads
      const auto* lsh = std::get_if<LshPattern>(&pattern);
      const Index after =
          lsh != nullptr ? lsh->chunks_after : std::get<LocalPattern>(pattern).chunks_after;
      if (after != 0) {
        f.refuse(lsh != nullptr ? "lsh_num_chunks_after" : "local_num_chunks_after", after,
                 "0 for ReformerModelWithLMHead");
      }
    }
  }
  if (config.kind == HuggingFaceClass::masked_language_model && model.causal) {
    f.refuse("is_decoder", true, "false for ReformerForMaskedLM");
  }
  try {
    check_config("config", model);  // what single fields do not show, such as the size of products
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error(join("config is of no possible model: ", error.what()));
  }
  return config;
}

/// The fields that say what a model computes.
/// @throw std::invalid_argument for what HuggingFace's Reformer cannot compute
inline Json function_fields(std::string_view function, const HuggingFaceConfig& config) {
  const ModelConfig& model = config.model;
  Json fields = Json::object();
  Json kinds = Json::array();
  std::optional<LshPattern> lsh;
  std::optional<LocalPattern> local;
  check(!model.tied_embedding, function,
        "tied_embedding is true, must be false: the head of HuggingFace's Reformer has a weight of "
        "its own");
  check(model.ngrams.empty(), function, "ngrams has ", model.ngrams.size(),
        " elements, must be empty: HuggingFace's Reformer has no embeddings of n-grams");
  check(!model.value_ngrams, function,
        "value_ngrams is a table, must be none: HuggingFace's Reformer adds nothing to values");
  for (const LayerPattern& layer : model.layers) {
    const std::vector<HeadKind> of_heads = head_kinds(layer, model.num_heads);
    check(of_heads.size() == 1, function, "the heads of a layer are of ", of_heads.size(),
          " kinds, must be of one as in HuggingFace's Reformer");
    const AttentionPattern& pattern = of_heads[0].pattern;
    const Values values = values_of(pattern);
    check(values == Values::own, function, "values of a layer are ",
          values == Values::mixed ? "mixed" : "following",
          ", must be own as in HuggingFace's Reformer");
    check(scores_of(pattern) == Scores::dot_product, function,
          "scores of a layer are cosines, must be dot_product as in HuggingFace's Reformer");
    check_equal(function, "rotary_width of a layer", rotary_width_of(pattern),
                "that of HuggingFace's Reformer,", 0);
    if (const auto* l = std::get_if<LshPattern>(&pattern)) {
      check(l->chunking == Chunking::sorted_chunks, function,
            "a layer has bucket_chunks, HuggingFace's Reformer has sorted_chunks only");
      check(
          !lsh || (lsh->chunk_length == l->chunk_length && lsh->chunks_before == l->chunks_before &&
                   lsh->chunks_after == l->chunks_after && lsh->num_hashes == l->num_hashes &&
                   lsh->num_buckets == l->num_buckets),
          function, "the LSH layers differ, which HuggingFace's layout cannot express");
      check(l->sort_padding, function,
            "sort_padding of a layer is false, must be true as in HuggingFace's Reformer");
      lsh = *l;
      kinds.push_back("lsh");
    } else if (const auto* l2 = std::get_if<LocalPattern>(&pattern)) {
      check(!local || (local->chunk_length == l2->chunk_length &&
                       local->chunks_before == l2->chunks_before &&
                       local->chunks_after == l2->chunks_after),
            function, "the local layers differ, which HuggingFace's layout cannot express");
      check(l2->circular, function,
            "circular of a layer is false, must be true as in HuggingFace's Reformer");
      local = *l2;
      kinds.push_back("local");
    } else {
      check(false, function,
            "a layer has exact attention, which HuggingFace's Reformer does not have");
    }
  }
  const AxialPositions* axial = std::get_if<AxialPositions>(&model.positions);
  check(axial != nullptr || std::holds_alternative<LearnedPositions>(model.positions), function,
        "positions are sinusoidal, HuggingFace's Reformer has axial and learned ones");
  check(axial == nullptr || axial->shape.size() == 2, function,
        "the number of factors of axial "
        "positions is ",
        axial == nullptr ? 0 : axial->shape.size(), ", must be 2 as in HuggingFace's Reformer");
  for (const auto& [kind, name] : huggingface_classes) {
    if (kind == config.kind) fields["architectures"] = Json::array({name});
  }
  fields["attention_head_size"] = model.head_width;
  fields["attn_layers"] = kinds;
  fields["axial_pos_embds"] = axial != nullptr;
  if (axial != nullptr) {
    fields["axial_pos_embds_dim"] = axial_widths(*axial, model.width);
    fields["axial_pos_shape"] = axial->shape;
  }
  fields["feed_forward_size"] = model.feed_forward_width;
  for (const auto& [name, activation] : huggingface_activations) {
    if (activation == model.activation && !fields.contains("hidden_act")) {
      fields["hidden_act"] = name;
    }
  }
  fields["hidden_size"] = model.width;
  fields["is_decoder"] = model.causal;
  fields["layer_norm_eps"] = model.layer_norm_epsilon;
  if (local) {
    fields["local_attn_chunk_length"] = local->chunk_length;
    fields["local_num_chunks_after"] = local->chunks_after;
    fields["local_num_chunks_before"] = local->chunks_before;
  }
  if (lsh) {
    fields["lsh_attn_chunk_length"] = lsh->chunk_length;
    fields["lsh_num_chunks_after"] = lsh->chunks_after;
    fields["lsh_num_chunks_before"] = lsh->chunks_before;
    fields["num_buckets"] = lsh->num_buckets.empty()       ? Json()
                            : lsh->num_buckets.size() == 1 ? Json(lsh->num_buckets[0])
                                                           : Json(lsh->num_buckets);
    fields["num_hashes"] = lsh->num_hashes;
  }
  fields["max_position_embeddings"] = config.max_positions;
  fields["num_attention_heads"] = model.num_heads;
  fields["num_hidden_layers"] = kinds.size();
  fields["pad_token_id"] = config.padding_token;
  fields["vocab_size"] = model.vocabulary;
  return fields;
}

}  // namespace detail

inline constexpr std::size_t max_huggingface_config = std::size_t{1} << 17;

/// Reads the text of a `config.json`.
/// @throw std::runtime_error with one line that names the field, its value and what is allowed
inline HuggingFaceConfig parse_huggingface_config(std::string_view text) {
  Json fields = parse_json_object("config", text, max_huggingface_config);
  HuggingFaceConfig config = detail::read_huggingface_fields(fields);
  config.fields = std::move(fields);
  config.text = text;
  return config;
}

/// The config of a model that was not loaded, and its function as HuggingFace computes it: local
/// windows become circular and padding is sorted, which changes nothing for a causal model without
/// padding whose windows are not longer than the sequence. A number of buckets that is left to the
/// length will follow HuggingFace's rule.
/// @param kind  by default a language model, masked or base as the configuration asks for
/// @throw std::invalid_argument that names what no model can have, or HuggingFace's Reformer cannot
///   compute: exact attention, chunks within buckets, windows that are not circular, values that
///   are not own, cosines, rotary or sinusoidal positions, three axial factors, n-grams, a tied
///   embedding, heads of different kinds, layers of one kind that differ
inline HuggingFaceConfig huggingface_config(const ModelConfig& model) {
  constexpr auto function = "huggingface_config";
  detail::check_config(function, model);
  HuggingFaceConfig config;
  config.model = model;
  config.kind = !model.language_head ? HuggingFaceClass::base
                : model.causal       ? HuggingFaceClass::language_model
                                     : HuggingFaceClass::masked_language_model;
  config.max_positions = max_length(model.positions).value_or(config.max_positions);
  detail::pad_as_huggingface(config.model);
  Json fields = detail::function_fields(function, config);
  fields["hidden_dropout_prob"] = model.dropout;
  fields["local_attention_probs_dropout_prob"] = model.attention_dropout;
  fields["lsh_attention_probs_dropout_prob"] = model.attention_dropout;
  fields["model_type"] = "reformer";
  fields["tie_word_embeddings"] = false;
  fields["torch_dtype"] = "float32";
  // Sorted by name, as HuggingFace writes it.
  std::vector<std::string> names;
  for (const auto& [name, value] : fields.items()) names.push_back(name);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) config.fields[name] = fields[name];
  try {
    detail::read_huggingface_fields(config.fields);  // whatever else a loader would refuse
  } catch (const std::runtime_error& error) {
    check(false, function, error.what());
  }
  return config;
}

/// The text of `config.json`: what was read, with the fields that no longer say what the model
/// computes replaced. All else comes out byte for byte, however it was written.
/// @param dtype  of the weights beside it, "float32"
/// @throw std::invalid_argument for a config that no model can have, or that could not be read back
inline std::string huggingface_config_text(const HuggingFaceConfig& config,
                                           std::string_view dtype) {
  constexpr auto function = "huggingface_config_text";
  detail::check_huggingface_config(function, config);
  const std::size_t bad = first_non_utf8(dtype);
  check(bad == dtype.size(), function, "dtype is not UTF-8 at byte ", bad, ", must be");
  check(config.fields.is_object(), function, "fields is ", config.fields.type_name(),
        ", must be an object");
  try {
    if (!config.text.empty()) parse_json_object("text", config.text, max_huggingface_config);
    Json fields = config.fields;
    const Json now = detail::function_fields(function, config);
    const Json before = detail::function_fields(function, detail::read_huggingface_fields(fields));
    for (const auto& [name, value] : now.items()) {
      if (!before.contains(name) || before[name] != value) fields[name] = value;
    }
    detail::read_huggingface_fields(fields);
    const char* key = fields.contains("dtype") ? "dtype" : "torch_dtype";
    if (fields.contains(key) || dtype != "float32") fields[key] = dtype;
    return detail::json_text_like(config.text, fields);
  } catch (const std::runtime_error& error) {
    throw std::invalid_argument(detail::join("reformer::", function, ": ", error.what()));
  } catch (const Json::exception&) {
    throw std::invalid_argument(
        detail::join("reformer::", function, ": fields has text that is not UTF-8, must be"));
  }
}

}  // namespace reformer::inline REFORMER_ABI
