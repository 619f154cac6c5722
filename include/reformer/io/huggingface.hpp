// SPDX-License-Identifier: MIT
/// @file
/// Folders in the layout of HuggingFace's Reformer: `config.json` with `model.safetensors`, or with
/// `model.safetensors.index.json` and its files.
///
/// The tensors, all but the head's with `reformer.` in front unless the model is a base model:
///
///     embedding.weight [V, D]               embeddings.word_embeddings.weight [V, D]
///     positions.weights.0 [n_0, d_0]        embeddings.position_embeddings.weights.0 [n_0, 1, d_0]
///     positions.weights.1 [n_1, d_1]        embeddings.position_embeddings.weights.1 [1, n_1, d_1]
///     positions.weight [P, D]               embeddings.position_embeddings.embedding.weight [P, D]
///     layers.i.                             encoder.layers.i.
///       attention.query.weight [D, H*K]       attention.self_attention.query.weight [H*K, D]
///       attention.output.weight [H*K, D]      attention.output.dense.weight [D, H*K]
///       feed_forward.dense.weight [D, F]      feed_forward.dense.dense.weight [F, D]
///       feed_forward.output.weight [F, D]     feed_forward.output.dense.weight [D, F]
///     layer_norm.weight [1, 2D]             encoder.layer_norm.weight [2D]
///     head.weight [2D, V]                   lm_head.decoder.weight [V, 2D]
///     head.bias [1, V]                      lm_head.decoder.bias, or else lm_head.bias [V]
///
/// Linear weights are transposed. What wrappers put in front of all names, such as `module.`, is
/// left out when they are read. The scalars of masks that old versions store are ignored.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check_shape.hpp"
#include "reformer/foundation/function_ref.hpp"
#include "reformer/io/huggingface_config.hpp"
#include "reformer/io/parameter_shapes.hpp"
#include "reformer/io/safetensors.hpp"
#include "reformer/model/model.hpp"

namespace reformer::inline REFORMER_ABI {

/// A parameter of the model, and how it is stored.
struct HuggingFaceTensor {
  std::string parameter;     ///< name here
  std::string name;          ///< name there, without the prefix `reformer.`
  std::vector<Index> shape;  ///< there
  bool transposed = false;
};

namespace detail {

/// Parts of names, here and there; the first that stands in a name is replaced.
inline constexpr std::pair<std::string_view, std::string_view> huggingface_names[] = {
    {"embedding.weight", "embeddings.word_embeddings.weight"},
    {"positions.weights.", "embeddings.position_embeddings.weights."},
    {"positions.weight", "embeddings.position_embeddings.embedding.weight"},
    {".attention.output.", ".attention.output.dense."},
    {".attention.layer_norm.", ".attention.layer_norm."},
    {".attention.", ".attention.self_attention."},
    {".feed_forward.dense.", ".feed_forward.dense.dense."},
    {".feed_forward.output.", ".feed_forward.output.dense."},
    {"head.weight", "lm_head.decoder.weight"},
    {"head.bias", "lm_head.bias"}};

inline std::string huggingface_name(const std::string& parameter) {
  const bool in_encoder = parameter.starts_with("layers.") || parameter.starts_with("layer_norm.");
  std::string name = (in_encoder ? "encoder." : "") + parameter;
  for (const auto& [here, there] : huggingface_names) {
    if (const auto at = name.find(here); at != name.npos)
      return name.replace(at, here.size(), there);
  }
  return name;
}

}  // namespace detail

/// All parameters of a model, in the order of `Model::for_each_parameter`, none of which is
/// allocated. @throw std::invalid_argument for a configuration that no model can have
inline std::vector<HuggingFaceTensor> huggingface_tensors(const ModelConfig& config) {
  detail::check_config("huggingface_tensors", config);
  std::vector<HuggingFaceTensor> tensors;
  for (const ParameterShape& p : parameter_shapes(config)) {
    std::vector<Index> shape = {p.rows, p.columns};
    const bool is_weight = p.role == Role::weight || p.role == Role::head_weight;
    if (is_weight) shape = {p.columns, p.rows};
    if (p.role == Role::gain || p.role == Role::bias) shape = {p.columns};
    if (p.name == "positions.weights.0") shape = {p.rows, 1, p.columns};
    if (p.name == "positions.weights.1") shape = {1, p.rows, p.columns};
    tensors.push_back({p.name, detail::huggingface_name(p.name), std::move(shape), is_weight});
  }
  return tensors;
}

/// The tensors of a folder by the names of `huggingface_tensors`.
class HuggingFaceWeights {
 public:
  /// @throw std::runtime_error with one line when files are missing or damaged
  explicit HuggingFaceWeights(const std::filesystem::path& folder)
      : folder_(folder), files_(folder) {
    const auto& tensors = files_.tensors();
    const std::string wrapper = wrapper_of(tensors);
    const std::string encoder = wrapper + "reformer.";
    const bool prefixed = std::any_of(tensors.begin(), tensors.end(), [&](const auto& entry) {
      return entry.first.starts_with(encoder);
    });
    for (const auto& [name, place] : tensors) {
      const bool wrapped = name.starts_with(wrapper);
      const bool stripped = prefixed && name.starts_with(encoder);
      const std::string rest = name.substr(stripped  ? encoder.size()
                                           : wrapped ? wrapper.size()
                                                     : 0);
      places_.emplace(rest, place);
      // In a file with the prefix, the encoder has no other names.
      if (!wrapped || (prefixed && !stripped && !rest.starts_with("lm_head."))) {
        unknown_.insert(rest);
      }
    }
    // One parameter under two names: converters fill only the first.
    if (const auto decoder = places_.find("lm_head.decoder.bias"); decoder != places_.end()) {
      places_["lm_head.bias"] = decoder->second;
      places_.erase("lm_head.decoder.bias");
    }
    std::erase_if(places_, [](const auto& entry) { return is_mask_constant(entry.first); });
  }

  const std::filesystem::path& folder() const { return folder_; }

  /// Whether the folder has any tensor of the list. One that has none holds another kind of model,
  /// and a list of all that is missing and unknown would not say so.
  bool has_any(const std::vector<HuggingFaceTensor>& wanted) const {
    return std::any_of(wanted.begin(), wanted.end(), [&](const HuggingFaceTensor& tensor) {
      return find(tensor.name) != nullptr;
    });
  }

  const SafetensorsFolder::Place* find(std::string_view name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : &found->second;
  }

  /// Everything that keeps the folder from being the weights of a model: missing and unknown
  /// tensors, other shapes, dtypes that are not numbers.
  /// @param may_differ  parameters that need not be there or may have another shape; empty: none
  std::vector<std::string> differences(
      const std::vector<HuggingFaceTensor>& wanted,
      const std::function<bool(std::string_view)>& may_differ = {}) const {
    const auto must_fit = [&](const HuggingFaceTensor& tensor) {
      return !may_differ || !may_differ(tensor.parameter);
    };
    std::vector<std::string> lines;
    std::set<std::string_view> known;
    for (const HuggingFaceTensor& tensor : wanted) {
      known.insert(tensor.name);
      const auto* place = find(tensor.name);
      if (place == nullptr) {
        if (must_fit(tensor)) {
          lines.push_back(detail::join("'", tensor.name, "' ", detail::shape_text(tensor.shape),
                                       " is missing in the file"));
        }
      } else if (place->tensor->shape != tensor.shape) {
        if (must_fit(tensor)) {
          lines.push_back(
              detail::join("'", tensor.name, "' is ", detail::shape_text(place->tensor->shape),
                           " in the file and ", detail::shape_text(tensor.shape), " in the model"));
        }
      } else {
        place->file->check_is_float(*place->tensor);
      }
    }
    for (const auto& [name, place] : places_) {
      if (!known.contains(name) || unknown_.contains(name)) {
        lines.push_back(detail::join(in_quotes(name), " ", detail::shape_text(place.tensor->shape),
                                     " is unknown to the model"));
      }
    }
    return lines;
  }

 private:
  /// What stands in front of all names because the model was wrapped when it was saved: "module."
  /// for data parallelism, "_orig_mod." for compilation; or nothing.
  static std::string wrapper_of(
      const std::map<std::string, SafetensorsFolder::Place, std::less<>>& tensors) {
    constexpr std::string_view always = "embeddings.word_embeddings.weight", encoder = "reformer.";
    for (const auto& [name, place] : tensors) {
      if (!name.ends_with(always)) continue;
      std::string_view front(name);
      front.remove_suffix(always.size());
      if (front.ends_with(encoder)) front.remove_suffix(encoder.size());
      if (front.empty() || front.ends_with('.')) return std::string(front);
    }
    return "";
  }

  static bool is_mask_constant(std::string_view name) {
    for (const std::string_view end :
         {".self_attention.mask_value_float16", ".self_attention.mask_value_float32",
          ".self_attention.self_mask_value_float16", ".self_attention.self_mask_value_float32"}) {
      if (name.starts_with("encoder.layers.") && name.ends_with(end)) return true;
    }
    return false;
  }

  std::filesystem::path folder_;
  SafetensorsFolder files_;
  std::map<std::string, SafetensorsFolder::Place, std::less<>> places_;
  std::set<std::string, std::less<>> unknown_;
};

/// Throws `std::runtime_error` listing all differences between the weights and a model of this
/// configuration, and `std::invalid_argument` for a configuration that no model can have; see
/// `HuggingFaceWeights::differences`.
inline void check_huggingface_weights(
    const HuggingFaceWeights& weights, const ModelConfig& config,
    const std::function<bool(std::string_view)>& may_differ = {}) {
  constexpr std::size_t shown = 50;
  detail::check_config("check_huggingface_weights", config);
  const auto wanted = huggingface_tensors(config);
  if (!weights.has_any(wanted)) {
    throw std::runtime_error(detail::join("'", weights.folder().string(),
                                          "' holds no tensor of HuggingFace's Reformer, such as '",
                                          wanted[0].name, "' or 'reformer.", wanted[0].name, "'"));
  }
  const auto lines = weights.differences(wanted, may_differ);
  if (lines.empty()) return;
  std::string text = "'" + weights.folder().string() + "' does not fit its config: ";
  for (std::size_t i = 0; i < std::min(shown, lines.size()); ++i) {
    text += (i > 0 ? ", " : "") + lines[i];
  }
  if (lines.size() > shown) text += detail::join(" and ", lines.size() - shown, " more");
  throw std::runtime_error(text);
}

namespace detail {

/// Throws `std::invalid_argument` unless the tensors are the parameters of the model, in order.
template <typename Scalar>
void check_parameters(std::string_view function, const Model<Scalar>& model,
                      const std::vector<HuggingFaceTensor>& tensors) {
  std::size_t count = 0;
  model.for_each_parameter([&](const Parameter<Scalar>& p) {
    check(count < tensors.size() && p.name == tensors[count].parameter, function, "parameter ",
          count, " of the model is ", p.name, ", must be ",
          count < tensors.size() ? tensors[count].parameter : "none");
    const HuggingFaceTensor& tensor = tensors[count++];
    const std::vector<Index> stored = tensor.transposed
                                          ? std::vector{p.value.cols(), p.value.rows()}
                                          : std::vector{p.value.rows(), p.value.cols()};
    std::vector<Index> squeezed[2];  // without axes of one row, which one side may have
    for (const Index n : stored)
      if (n != 1) squeezed[0].push_back(n);
    for (const Index n : tensor.shape)
      if (n != 1) squeezed[1].push_back(n);
    check(squeezed[0] == squeezed[1], function, "parameter ", p.name, " is ", shape_text(stored),
          tensor.transposed ? " transposed" : "", ", must be ", shape_text(tensor.shape));
  });
  check(count == tensors.size(), function, "the model has ", count, " parameters, must have ",
        tensors.size());
}

}  // namespace detail

/// Fills a model; nothing is changed unless everything fits.
/// @param may_differ  names (here) of parameters that stay as they are where the folder has none of
///   their shape; empty: none
/// @return the names of those that did
/// @throw std::runtime_error listing all differences by name with both shapes
/// @throw std::invalid_argument for a model whose parameters have been given other shapes
template <typename Scalar>
std::vector<std::string> load_huggingface_weights(
    const HuggingFaceWeights& weights, Model<Scalar>& model,
    const std::function<bool(std::string_view)>& may_differ = {}) {
  check_huggingface_weights(weights, model.config(), may_differ);
  const auto tensors = huggingface_tensors(model.config());
  detail::check_parameters("load_huggingface_weights", model, tensors);
  std::size_t next = 0;
  std::vector<std::string> left;
  model.for_each_parameter([&](Parameter<Scalar>& p) {
    const HuggingFaceTensor& tensor = tensors[next++];
    const auto* place = weights.find(tensor.name);
    if (place == nullptr || place->tensor->shape != tensor.shape) {
      left.push_back(p.name);
    } else if (tensor.transposed) {
      place->file->read_transposed(*place->tensor, rows_of(p.value));
    } else {
      place->file->read(*place->tensor, rows_of(p.value));
    }
  });
  return left;
}

/// Reads `config.json` of a folder.
/// @throw std::runtime_error with one line: the file, the field, its value and what is allowed
inline HuggingFaceConfig load_huggingface_config(const std::filesystem::path& folder) {
  detail::check_file_name("read", folder);  // an empty one would be the current folder
  const auto path = folder / "config.json";
  const MappedFile file(path);
  try {
    return parse_huggingface_config(
        {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(detail::join("'", path.string(), "': ", error.what()));
  }
}

namespace detail {

/// Throws `std::invalid_argument` unless a model of the configuration computes what the config
/// says. Circular windows and sorted padding are HuggingFace's: see `huggingface_config`.
inline void check_is_of_model(std::string_view function, const HuggingFaceConfig& config,
                              const ModelConfig& model) {
  HuggingFaceConfig own = config;
  own.model = model;
  pad_as_huggingface(own.model);
  const Json of_config = function_fields(function, config),
             of_model = function_fields(function, own);
  for (const auto& [name, value] : of_model.items()) {
    const Json found = of_config.value(name, Json());
    check(found == value, function, "config has ", name, " ", shortened(found.dump(), 80),
          ", must be ", shortened(value.dump(), 80), " as in the model");
  }
}

}  // namespace detail

/// Writes a folder that HuggingFace loads: `config.json` and `model.safetensors`, each in one step,
/// and none before both are on the disk.
/// The head's bias is stored as `lm_head.bias`, mask constants are not stored, as in recent
/// versions. Loading it gives the same bits, and saving again the same files.
/// @throw std::runtime_error when they cannot be written, std::invalid_argument for a config that
///   is not the model's
template <typename Scalar>
void save_huggingface(const std::filesystem::path& folder, const Model<Scalar>& model,
                      const HuggingFaceConfig& config) {
  constexpr auto function = "save_huggingface";
  detail::check_huggingface_config(function, config);
  detail::check_is_of_model(function, config, model.config());
  const auto tensors = huggingface_tensors(config.model);
  detail::check_parameters(function, model, tensors);
  const std::string text =
      huggingface_config_text(config, std::is_same_v<Scalar, double> ? "float64" : "float32");
  std::vector<OutgoingTensor<Scalar>> outgoing;
  model.for_each_parameter([&](const Parameter<Scalar>& p) {
    const std::size_t i = outgoing.size();
    const bool prefixed =
        config.kind != HuggingFaceClass::base && !tensors[i].name.starts_with("lm_head.");
    outgoing.push_back({(prefixed ? "reformer." : "") + tensors[i].name, tensors[i].shape,
                        rows_of(p.value), tensors[i].transposed});
  });
  detail::check_file_name("write", folder);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    throw std::runtime_error(
        detail::join("cannot create folder '", folder.string(), "': ", error.message()));
  }
  // Whatever cannot be written, the weights and the config of before still belong together.
  AtomicFile weights(folder / "model.safetensors"), config_file(folder / "config.json");
  config_file.write(text);
  config_file.finish();
  write_safetensors(weights, std::move(outgoing), {{"format", "pt"}});
  weights.commit();
  config_file.commit();
}

/// Tokens with the padding that HuggingFace adds at the end when it evaluates.
struct PaddedTokens {
  Tokens tokens;                      ///< [B, padded length]
  std::vector<std::uint8_t> is_real;  ///< [B * padded length]; empty: all real
  Index length = 0;                   ///< before padding

  /// Options with this mask, which must outlive them.
  RunOptions options(RunOptions options) const {
    options.is_real = is_real;
    return options;
  }
  /// Labels `[B, length]` as `[B, padded length]`, the padding ignored.
  /// @throw std::invalid_argument for another shape
  Tokens labels(const Tokens& labels) const {
    constexpr auto function = "PaddedTokens::labels";
    check_between(function, "length", length, 1, tokens.dimension(1));
    check_shape(function, "labels", labels, {"batch", "length"}, {tokens.dimension(0), length});
    Tokens padded(tokens.dimension(0), tokens.dimension(1));
    padded.setConstant(ignored_label);
    for (Index b = 0; b < labels.dimension(0); ++b) {
      std::copy_n(&labels(b, 0), length, &padded(b, 0));
    }
    return padded;
  }
  /// The part of a result `[B, padded length, n]` that is not padding.
  /// @throw std::invalid_argument for another shape
  template <typename Scalar>
  Tensor<Scalar, 3> cut(const Tensor<Scalar, 3>& x) const {
    constexpr auto function = "PaddedTokens::cut";
    check_between(function, "length", length, 1, tokens.dimension(1));
    check_shape(function, "x", x, {"batch", "padded length", "columns"},
                {tokens.dimension(0), tokens.dimension(1), x.dimension(2)});
    if (x.dimension(1) == length) return x;
    Tensor<Scalar, 3> result(x.dimension(0), length, x.dimension(2));
    for (Index b = 0; b < x.dimension(0); ++b) {
      std::copy_n(x.data() + b * x.dimension(1) * x.dimension(2), length * x.dimension(2),
                  result.data() + b * length * x.dimension(2));
    }
    return result;
  }
};

/// Pads tokens `[B, T]`, with a mask of real ones `[B*T]` or none, as HuggingFace does.
/// @throw std::invalid_argument unless there are tokens, and positions for the padded length
inline PaddedTokens huggingface_pad(const HuggingFaceConfig& config, const Tokens& tokens,
                                    std::span<const std::uint8_t> is_real = {}) {
  constexpr auto function = "huggingface_pad";
  detail::check_huggingface_config(function, config);
  const Index B = tokens.dimension(0), T = tokens.dimension(1);
  check_at_least(function, "batch", B, 1);
  check_at_least(function, "length", T, 1);
  check(is_real.empty() || static_cast<Index>(is_real.size()) == B * T, function, "is_real has ",
        is_real.size(), " elements, must have B*T = ", B * T);
  const auto check_token = [&](std::int32_t token, const auto&... what) {
    check(token >= 0 && token < config.model.vocabulary, function, what..., " is ", token,
          ", must be in [0, ", config.model.vocabulary, ")");
  };
  for (Index i = 0; i < tokens.size(); ++i) check_token(tokens.data()[i], "token ", i);
  const Index padded = huggingface_padded_length(config.model, T);
  const auto longest = max_length(config.model.positions);
  check(!longest || padded <= *longest, function, "padded length is ", padded, ", must be at most ",
        longest.value_or(0), ", the number of positions");
  check(padded < (Index{1} << 24), function, "padded length is ", padded,
        ", must be less than 2^24");
  if (padded == T) return {tokens, {is_real.begin(), is_real.end()}, T};
  PaddedTokens result{Tokens(B, padded), {}, T};
  result.is_real.assign(static_cast<std::size_t>(B * padded), 0);
  result.tokens.setConstant(config.padding_token);
  for (Index b = 0; b < B; ++b) {
    std::copy_n(&tokens(b, 0), T, &result.tokens(b, 0));
    auto* mask = result.is_real.data() + b * padded;
    if (is_real.empty()) {
      std::fill_n(mask, T, std::uint8_t{1});
    } else {
      std::copy_n(is_real.data() + b * T, T, mask);
    }
  }
  return result;
}

/// A model that computes what HuggingFace's does.
///
/// The functions take tokens `[B, T]` of any length that has positions, padded to a multiple of the
/// chunk lengths inside, with a mask of real tokens `[B*T]` in the options. Results are those of
/// HuggingFace up to rounding, given the same rotations, for every real token; rows of padded
/// tokens that see no real one are zero here and a mean there, and nothing depends on them.
template <typename Scalar>
class HuggingFaceModel {
 public:
  /// Weights are zero until something fills them.
  /// @throw std::invalid_argument naming the first impossible field of the config
  explicit HuggingFaceModel(HuggingFaceConfig config)
      : config_((detail::check_huggingface_config("HuggingFaceModel", config), std::move(config))),
        model_(std::make_unique<Model<Scalar>>(config_.model)) {}

  /// Loads a folder.
  /// @throw std::runtime_error with one line when a file is missing, damaged or does not fit
  static HuggingFaceModel load(const std::filesystem::path& folder) {
    HuggingFaceConfig config = load_huggingface_config(folder);
    const HuggingFaceWeights weights(folder);
    check_huggingface_weights(weights, config.model);  // before memory is taken for it
    HuggingFaceModel loaded(std::move(config));
    load_huggingface_weights(weights, loaded.model());
    return loaded;
  }

  /// Writes a folder that `load` reads; see `save_huggingface`.
  void save(const std::filesystem::path& folder) const {
    HuggingFaceConfig config = config_;
    config.model = model_->config();  // where the number of buckets may have been fixed
    save_huggingface(folder, std::as_const(*model_), config);
  }

  const HuggingFaceConfig& config() const { return config_; }
  /// The model itself, which pads nothing.
  Model<Scalar>& model() { return *model_; }
  const Model<Scalar>& model() const { return *model_; }

  /// What the model is run on. The first length that is hashed fixes the number of buckets where
  /// the config leaves it open; it stays, and is saved.
  PaddedTokens pad(const Tokens& tokens, std::span<const std::uint8_t> is_real = {}) {
    PaddedTokens padded = huggingface_pad(config_, tokens, is_real);
    fix_num_buckets(padded.tokens.dimension(1));
    return padded;
  }

  /// Labels `[B, T]` of HuggingFace, which shifts them by one for a language model, as they are
  /// counted here.
  Tokens loss_labels(const Tokens& labels) const {
    return config_.kind == HuggingFaceClass::language_model ? next_token_labels(labels) : labels;
  }

  /// Logits `[B, T, V]`.
  Tensor<Scalar, 3> logits(Workspace& workspace, const Tokens& tokens,
                           const RunOptions& options = {}) {
    constexpr auto function = "HuggingFaceModel::logits";
    check_head(function);
    const PaddedTokens padded =
        checked_pad(function, workspace, tokens, options, [&](const Tokens& all) {
          check_elements(function, "B*T * vocabulary", all.size(), config_.model.vocabulary);
        });
    return padded.cut(model_->logits(workspace, padded.tokens, padded.options(options)));
  }

  /// `last_hidden_state` `[B, T, 2D]`.
  Tensor<Scalar, 3> encode(Workspace& workspace, const Tokens& tokens,
                           const RunOptions& options = {}) {
    const PaddedTokens padded = checked_pad("HuggingFaceModel::encode", workspace, tokens, options);
    return padded.cut(model_->encode(workspace, padded.tokens, padded.options(options)));
  }

  /// Sum of cross-entropies over the labels, as in `Model::loss`; see `loss_labels`.
  Loss loss(Workspace& workspace, const Tokens& tokens, const Tokens& labels,
            const RunOptions& options = {}) {
    constexpr auto function = "HuggingFaceModel::loss";
    check_head(function);
    check_labels(function, tokens, labels);
    const PaddedTokens padded = checked_pad(function, workspace, tokens, options);
    return model_->loss(workspace, padded.tokens, padded.labels(labels), padded.options(options));
  }

  /// The same with gradients, as in `Model::loss_and_gradients`. HuggingFace trains only at lengths
  /// that need no padding.
  Loss loss_and_gradients(Workspace& workspace, const Tokens& tokens, const Tokens& labels,
                          Scalar scale, const RunOptions& options) {
    constexpr auto function = "HuggingFaceModel::loss_and_gradients";
    check_head(function);
    check_labels(function, tokens, labels);
    check(std::isfinite(scale), function, "scale is ", scale, ", must be finite");
    check(options.num_hashes == 0, function, "num_hashes is ", options.num_hashes,
          ", must be 0 in a pass with gradients");
    const PaddedTokens padded = checked_pad(function, workspace, tokens, options);
    return model_->loss_and_gradients(workspace, padded.tokens, padded.labels(labels), scale,
                                      padded.options(options));
  }

  /// Logits `[V]` of the last token of one sequence.
  std::vector<Scalar> next_token_logits(Workspace& workspace, std::span<const std::int32_t> tokens,
                                        const RunOptions& options = {}) {
    constexpr auto function = "HuggingFaceModel::next_token_logits";
    check_head(function);
    check(options.is_real.empty() ||
              std::ranges::count(options.is_real, 0) < std::ssize(options.is_real),
          function, "is_real has no token that is real, must have at least one");
    Tokens row(1, static_cast<Index>(tokens.size()));
    std::copy(tokens.begin(), tokens.end(), row.data());
    const PaddedTokens padded = checked_pad(function, workspace, row, options);
    return model_->next_token_logits(
        workspace, {padded.tokens.data(), static_cast<std::size_t>(padded.tokens.size())},
        padded.options(options));
  }

 private:
  void check_labels(std::string_view function, const Tokens& tokens, const Tokens& labels) const {
    check_shape(function, "labels", labels, {"batch", "length"}, tokens.dimensions());
    detail::check_label_range(function, {labels.data(), static_cast<std::size_t>(labels.size())},
                              config_.model.vocabulary);
  }

  void check_head(std::string_view function) const {
    check(config_.model.language_head, function, "the model has no language head, only encode");
  }

  /// `pad` for a pass: one that the model refuses fixes nothing.
  /// @param check_result  of the padded tokens, what only this pass requires
  PaddedTokens checked_pad(
      std::string_view function, Workspace& workspace, const Tokens& tokens,
      const RunOptions& options,
      const FunctionRef<void(const Tokens&)>& check_result = [](const Tokens&) {}) {
    PaddedTokens padded = huggingface_pad(config_, tokens, options.is_real);
    model_->check_input(function, workspace, padded.tokens, padded.options(options));
    check_result(padded.tokens);
    fix_num_buckets(padded.tokens.dimension(1));
    return padded;
  }

  void fix_num_buckets(Index length) {
    const auto factors = huggingface_open_buckets(config_, length);
    if (factors.empty()) return;
    model_->set_num_buckets(factors);
    config_.model = model_->config();
  }

  HuggingFaceConfig config_;
  std::unique_ptr<Model<Scalar>> model_;
};

#ifdef REFORMER_EXTERN_IO_INSTANCES
extern template std::vector<std::string> load_huggingface_weights(
    const HuggingFaceWeights&, Model<float>&, const std::function<bool(std::string_view)>&);
extern template void save_huggingface(const std::filesystem::path&, const Model<float>&,
                                      const HuggingFaceConfig&);
extern template class HuggingFaceModel<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
