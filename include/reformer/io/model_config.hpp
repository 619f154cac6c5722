// SPDX-License-Identifier: MIT
/// @file
/// `ModelConfig` as JSON: all of it, field by field under the same names.
///
///     {"vocabulary": 256, "language_head": true, "tied_embedding": false, "width": 192, ...,
///      "activation": "relu",
///      "positions": {"kind": "axial", "shape": [64, 64], "widths": [48, 144]},
///      "ngrams": [{"order": 2, "rows": 16384, "dropout": 0}, ...], "value_ngrams": null,
///      "causal": true,
///      "layers": [{"kind": "local", "chunk_length": 64, ...}, {"kind": "lsh", ...}, ...],
///      ..., "residual": {"kind": "fixed", "fraction_bits": 0}}
///
/// Every field but `tied_embedding`, `ngrams`, `value_ngrams`, `scores` and `rotary_width`, which
/// the first files do not have, must be there and no other may be, so no file can mean something
/// else than what it says. Kinds are `lsh`, `local` and `exact`; `axial`, `learned` and
/// `sinusoidal`; `float` and `fixed`. A layer whose heads differ is the list of their patterns;
/// what is absent is null.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/precision.hpp"
#include "reformer/io/json.hpp"
#include "reformer/model/config.hpp"

namespace reformer::inline REFORMER_ABI {
namespace detail {

template <typename Enum>
using EnumNames = std::pair<std::string_view, Enum>;

template <typename Enum, std::size_t n>
constexpr std::array<EnumNames<Enum>, n> with_names(const std::array<Enum, n>& all) {
  std::array<EnumNames<Enum>, n> names;
  for (std::size_t i = 0; i < n; ++i) names[i] = {name_of(all[i]), all[i]};
  return names;
}
constexpr auto names_of(Activation) {
  return with_names(activations);
}
constexpr auto names_of(Precision) {
  return with_names(precisions);
}
constexpr std::array<EnumNames<Chunking>, 2> names_of(Chunking) {
  return {{{"sorted_chunks", Chunking::sorted_chunks}, {"bucket_chunks", Chunking::bucket_chunks}}};
}
constexpr std::array<EnumNames<Duplicates>, 2> names_of(Duplicates) {
  return {{{"each_time", Duplicates::each_time}, {"once", Duplicates::once}}};
}
constexpr std::array<EnumNames<Values>, 3> names_of(Values) {
  return {{{"own", Values::own}, {"following", Values::following}, {"mixed", Values::mixed}}};
}
constexpr std::array<EnumNames<Scores>, 2> names_of(Scores) {
  return {{{"dot_product", Scores::dot_product}, {"cosine", Scores::cosine}}};
}

template <typename Config>
inline constexpr std::string_view kind_name = "";
template <>
inline constexpr std::string_view kind_name<LshPattern> = "lsh";
template <>
inline constexpr std::string_view kind_name<LocalPattern> = "local";
template <>
inline constexpr std::string_view kind_name<ExactPattern> = "exact";
template <>
inline constexpr std::string_view kind_name<AxialPositions> = "axial";
template <>
inline constexpr std::string_view kind_name<LearnedPositions> = "learned";
template <>
inline constexpr std::string_view kind_name<SinusoidalPositions> = "sinusoidal";
template <>
inline constexpr std::string_view kind_name<FloatResidual> = "float";
template <>
inline constexpr std::string_view kind_name<FixedResidual> = "fixed";

template <typename T, typename Config>
concept ConstOrNot = std::same_as<std::remove_const_t<T>, Config>;

// The fields of each configuration, once for reading and writing: f(name, field).

void visit_fields(auto& f, ConstOrNot<LshPattern> auto& lsh) {
  f("chunk_length", lsh.chunk_length);
  f("chunks_before", lsh.chunks_before);
  f("chunks_after", lsh.chunks_after);
  f("num_hashes", lsh.num_hashes);
  f("num_buckets", lsh.num_buckets);
  f("sort_padding", lsh.sort_padding);
  f("chunking", lsh.chunking);
  f("duplicates", lsh.duplicates);
  f("values", lsh.values);
  f("scores", lsh.scores);
  f("rotary_width", lsh.rotary_width);
}
void visit_fields(auto& f, ConstOrNot<LocalPattern> auto& local) {
  f("chunk_length", local.chunk_length);
  f("chunks_before", local.chunks_before);
  f("chunks_after", local.chunks_after);
  f("circular", local.circular);
  f("values", local.values);
  f("scores", local.scores);
  f("rotary_width", local.rotary_width);
}
void visit_fields(auto& f, ConstOrNot<ExactPattern> auto& exact) {
  f("shared_query_key", exact.shared_query_key);
  f("values", exact.values);
  f("scores", exact.scores);
  f("rotary_width", exact.rotary_width);
}
void visit_fields(auto& f, ConstOrNot<AxialPositions> auto& axial) {
  f("shape", axial.shape);
  f("widths", axial.widths);
}
void visit_fields(auto& f, ConstOrNot<LearnedPositions> auto& learned) {
  f("max_length", learned.max_length);
}
void visit_fields(auto&, ConstOrNot<SinusoidalPositions> auto&) {}
void visit_fields(auto&, ConstOrNot<FloatResidual> auto&) {}
void visit_fields(auto& f, ConstOrNot<FixedResidual> auto& fixed) {
  f("fraction_bits", fixed.fraction_bits);
}
void visit_fields(auto& f, ConstOrNot<NgramTable> auto& table) {
  f("order", table.order);
  f("rows", table.rows);
  f("dropout", table.dropout);
}
void visit_fields(auto& f, ConstOrNot<ModelConfig> auto& model) {
  f("vocabulary", model.vocabulary);
  f("language_head", model.language_head);
  f("tied_embedding", model.tied_embedding);
  f("width", model.width);
  f("num_heads", model.num_heads);
  f("head_width", model.head_width);
  f("feed_forward_width", model.feed_forward_width);
  f("activation", model.activation);
  f("positions", model.positions);
  f("ngrams", model.ngrams);
  f("value_ngrams", model.value_ngrams);
  f("causal", model.causal);
  f("layers", model.layers);
  f("dropout", model.dropout);
  f("attention_dropout", model.attention_dropout);
  f("layer_norm_epsilon", model.layer_norm_epsilon);
  f("residual", model.residual);
}

template <typename Config>
Json fields_to_json(const Config& config);

/// A field's value. An infinite number, which JSON does not have, is the text "infinity".
template <typename T>
Json field_to_json(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    for (const auto& [name, known] : names_of(value)) {
      if (known == value) return name;
    }
    return nullptr;
  } else if constexpr (std::same_as<T, double>) {
    return value == std::numeric_limits<double>::infinity() ? Json("infinity") : Json(value);
  } else {
    return value;
  }
}
template <typename... Kinds>
Json field_to_json(const std::variant<Kinds...>& value) {
  return std::visit(
      [](const auto& config) {
        Json object = {{"kind", kind_name<std::remove_cvref_t<decltype(config)>>}};
        object.update(fields_to_json(config));
        return object;
      },
      value);
}
inline Json field_to_json(const LayerPattern& layer) {
  if (layer.of_heads.size() == 1) return field_to_json(layer.of_heads[0]);
  Json list = Json::array();
  for (const AttentionPattern& pattern : layer.of_heads) list.push_back(field_to_json(pattern));
  return list;
}
inline Json field_to_json(const std::vector<LayerPattern>& layers) {
  Json list = Json::array();
  for (const LayerPattern& layer : layers) list.push_back(field_to_json(layer));
  return list;
}

inline Json field_to_json(const std::optional<NgramTable>& table) {
  return table ? fields_to_json(*table) : Json();
}
inline Json field_to_json(const std::vector<NgramTable>& tables) {
  Json list = Json::array();
  for (const NgramTable& table : tables) list.push_back(fields_to_json(table));
  return list;
}

template <typename Config>
Json fields_to_json(const Config& config) {
  Json object = Json::object();
  const auto write = [&](const char* name, const auto& value) {
    object[name] = field_to_json(value);
  };
  visit_fields(write, config);
  return object;
}

/// Fills fields from an object; every error names the field, its value and what is allowed.
class FieldReader {
 public:
  /// @param what  begins the message of an error
  FieldReader(std::string what, const Json& object) : what_(std::move(what)), object_(object) {
    if (!object.is_object()) refuse(what_, " is ", object, "an object");
  }

  template <typename T>
  void operator()(const char* name, T& value) {
    known_.push_back(name);
    const auto found = object_.find(name);
    // The first files do not have these, and mean what the defaults say.
    const std::string_view called = name;
    const bool is_younger = called.starts_with("ngram") || called == "value_ngrams" ||
                            called == "scores" || called == "rotary_width" ||
                            called == "tied_embedding" || called == "precision";
    if (found == object_.end() && is_younger) return;
    if (found == object_.end()) throw std::runtime_error(join(what_, " has no ", name));
    read(name, *found, value);
  }

  /// All fields must have been asked for.
  void check_known() const {
    for (const auto& [name, value] : object_.items()) {
      if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
        throw std::runtime_error(join(what_, " has the unknown field ", in_quotes(name)));
      }
    }
  }

 private:
  [[noreturn]] static void refuse(std::string_view what, std::string_view verb, const Json& value,
                                  std::string_view allowed) {
    throw std::runtime_error(join(what, verb, shortened(value.dump(), 80), ", must be ", allowed));
  }
  [[noreturn]] void refuse(std::string_view name, const Json& value,
                           std::string_view allowed) const {
    refuse(join(what_, " has ", name, " "), "", value, allowed);
  }

  template <std::integral Whole>
  void read(std::string_view name, const Json& value, Whole& whole) const {
    if (value.is_number_unsigned() && std::in_range<Whole>(value.get<std::uint64_t>())) {
      whole = static_cast<Whole>(value.get<std::uint64_t>());
    } else if (value.is_number_integer() && !value.is_number_unsigned() &&
               std::in_range<Whole>(value.get<std::int64_t>())) {
      whole = static_cast<Whole>(value.get<std::int64_t>());
    } else {
      refuse(name, value, join("a whole number of ", 8 * sizeof(Whole), " bits"));
    }
  }
  void read(std::string_view name, const Json& value, bool& is) const {
    if (!value.is_boolean()) refuse(name, value, "true or false");
    is = value.get<bool>();
  }
  void read(std::string_view name, const Json& value, double& number) const {
    if (value == "infinity") {
      number = std::numeric_limits<double>::infinity();
    } else if (value.is_number()) {
      number = value.get<double>();
    } else {
      refuse(name, value, "a number");
    }
  }
  template <typename Enum>
  requires std::is_enum_v<Enum>
  void read(std::string_view name, const Json& value, Enum& chosen) const {
    std::string allowed;
    for (const auto& [known, meaning] : names_of(Enum{})) {
      if (value == known) {
        chosen = meaning;
        return;
      }
      allowed += join(allowed.empty() ? "" : " or ", known);
    }
    refuse(name, value, allowed);
  }
  void read(std::string_view name, const Json& value, std::vector<Index>& wholes) const {
    if (!value.is_array()) refuse(name, value, "a list of whole numbers");
    wholes.assign(value.size(), 0);
    for (std::size_t i = 0; i < value.size(); ++i) {
      read(join(name, "[", i, "]"), value[i], wholes[i]);
    }
  }
  template <typename... Kinds>
  void read(std::string_view name, const Json& value, std::variant<Kinds...>& chosen) const {
    FieldReader fields(join(what_, ": ", name), value);
    std::string kind;
    fields("kind", kind);
    std::string allowed;
    const bool is_known = (... || [&] {
      allowed += join(allowed.empty() ? "" : " or ", kind_name<Kinds>);
      if (kind != kind_name<Kinds>) return false;
      Kinds config;
      visit_fields(fields, config);
      fields.check_known();
      chosen = std::move(config);
      return true;
    }());
    if (!is_known) fields.refuse("kind", value["kind"], allowed);
  }
  void read(std::string_view name, const Json& value, LayerPattern& layer) const {
    layer.of_heads.clear();
    if (!value.is_array()) return read(name, value, layer.of_heads.emplace_back());
    for (std::size_t i = 0; i < value.size(); ++i) {
      read(join(name, "[", i, "]"), value[i], layer.of_heads.emplace_back());
    }
  }
  void read(std::string_view name, const Json& value, std::vector<LayerPattern>& layers) const {
    if (!value.is_array()) refuse(name, value, "a list");
    layers.assign(value.size(), {});
    for (std::size_t i = 0; i < value.size(); ++i) {
      read(join(name, "[", i, "]"), value[i], layers[i]);
    }
  }
  void read(std::string_view name, const Json& value, std::vector<NgramTable>& tables) const {
    if (!value.is_array()) refuse(name, value, "a list");
    tables.assign(value.size(), {});
    for (std::size_t i = 0; i < value.size(); ++i) {
      read(join(name, "[", i, "]"), value[i], tables[i]);
    }
  }
  void read(std::string_view name, const Json& value, std::optional<NgramTable>& table) const {
    table.reset();
    if (!value.is_null()) read(name, value, table.emplace());
  }
  void read(std::string_view name, const Json& value, NgramTable& table) const {
    FieldReader fields(join(what_, ": ", name), value);
    visit_fields(fields, table);
    fields.check_known();
  }
  void read(std::string_view name, const Json& value, std::string& text) const {
    if (!value.is_string()) refuse(name, value, "text");
    text = value.get<std::string>();
  }

  std::string what_;
  const Json& object_;
  std::vector<std::string_view> known_;
};

}  // namespace detail

/// Far above any honest configuration: some 20,000 layers.
inline constexpr std::size_t max_model_config = std::size_t{1} << 22;

/// A configuration as JSON, in one line; `parse_model_config` gives the same back.
/// @throw std::invalid_argument naming the first impossible field, or for too many layers
inline std::string model_config_text(const ModelConfig& config) {
  constexpr auto function = "model_config_text";
  detail::check_config(function, config);
  std::string text = detail::fields_to_json(config).dump();
  check(text.size() <= max_model_config, function, "the configuration has ", text.size(),
        " bytes as JSON, must have at most ", max_model_config);
  return text;
}

/// Reads what `model_config_text` writes. Fraction bits are checked where the scalar type is known.
/// @throw std::runtime_error with one line that names the field, its value and what is allowed
inline ModelConfig parse_model_config(std::string_view text) {
  const Json object = parse_json_object("config", text, max_model_config);
  ModelConfig config;
  detail::FieldReader fields("config", object);
  detail::visit_fields(fields, config);
  fields.check_known();
  try {
    detail::check_config("config", config);
  } catch (const std::invalid_argument& error) {
    throw std::runtime_error(detail::join("config is of no possible model: ", error.what()));
  }
  return config;
}

}  // namespace reformer::inline REFORMER_ABI
