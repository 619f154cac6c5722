// SPDX-License-Identifier: MIT
/// @file
/// Models in files: configuration, parameters, state of an optimiser, in one safetensors file that
/// is replaced in one step.
///
///     save_model("model.safetensors", model);
///     Model<float> model = load_model<float>("model.safetensors");
///
///     save_model("run.safetensors", model, adam, step);   // to go on with the same bits
///     load_optimizer("run.safetensors", model, adam);
///
/// Tensors are the parameters by their names, `[rows, columns]`, and the optimiser's state with
/// `optimizer.` in front, as F32 or F64. The rest is in the metadata:
///
///     reformer.format      "1"
///     reformer.config      `ModelConfig` as JSON, see model_config.hpp
///     reformer.step        training steps done
///     reformer.optimizer   if there is one: {"steps": 7, "config": {"kind": "adam", "beta1": 0.9,
///                          ...}}
///     reformer.checksum    CRC-32, eight hexadecimal digits, of all other metadata by key (key,
///                          line end, value, line end), then of each tensor by name (name, dtype
///                          and shape as in "[2, 3]", with line ends), then of their data by name
///
/// and what the caller adds under other keys. Everything is checked before anything is changed.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/io/checksum.hpp"
#include "reformer/io/model_config.hpp"
#include "reformer/io/parameter_shapes.hpp"
#include "reformer/io/safetensors.hpp"
#include "reformer/model/model.hpp"
#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/muon.hpp"

namespace reformer::inline REFORMER_ABI {
namespace detail {

template <>
inline constexpr std::string_view kind_name<AdamConfig> = "adam";
template <>
inline constexpr std::string_view kind_name<AdafactorConfig> = "adafactor";
template <>
inline constexpr std::string_view kind_name<MuonConfig> = "muon";

void visit_fields(auto& f, ConstOrNot<AdamConfig> auto& adam) {
  f("beta1", adam.beta1);
  f("beta2", adam.beta2);
  f("epsilon", adam.epsilon);
  f("weight_decay", adam.weight_decay);
  f("ngram_rate", adam.ngram_rate);
}
void visit_fields(auto& f, ConstOrNot<MuonConfig> auto& muon) {
  f("momentum", muon.momentum);
  f("precision", muon.precision);
  visit_fields(f, muon.adam);
}
void visit_fields(auto& f, ConstOrNot<AdafactorConfig> auto& adafactor) {
  f("decay_exponent", adafactor.decay_exponent);
  f("epsilon1", adafactor.epsilon1);
  f("epsilon2", adafactor.epsilon2);
  f("clip", adafactor.clip);
  f("scale_by_parameter", adafactor.scale_by_parameter);
}

/// What a file says of an optimiser, its state apart.
struct SavedOptimizer {
  std::variant<AdamConfig, AdafactorConfig, MuonConfig> config;
  std::int64_t steps = 0;
};
void visit_fields(auto& f, ConstOrNot<SavedOptimizer> auto& saved) {
  f("steps", saved.steps);
  f("config", saved.config);
}

/// The metadata of a file, understood.
struct ModelHeader {
  ModelConfig config;
  std::optional<SavedOptimizer> optimizer;
  std::int64_t step = 0;
  std::uint32_t checksum = 0;
  std::map<std::string, std::string> metadata;  // of the caller
};

inline constexpr std::string_view model_format = "1";
inline constexpr std::string_view own_prefix = "reformer.", optimizer_prefix = "optimizer.";
inline constexpr std::int64_t max_steps = std::numeric_limits<std::int64_t>::max() - 1;

/// A number of which every character counts. @return nothing for any other text
template <typename Number>
std::optional<Number> parse_number(std::string_view text, int base) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// "00c0ffee"
inline std::string checksum_text(std::uint32_t checksum) {
  std::string text(8, '0');
  for (std::size_t i = 8; i-- > 0; checksum >>= 4) text[i] = "0123456789abcdef"[checksum & 15];
  return text;
}

/// @throw std::runtime_error with one line, without the name of the file
inline ModelHeader parse_model_header(const std::map<std::string, std::string>& metadata) {
  const auto fail = [](const auto&... parts) { throw std::runtime_error(join(parts...)); };
  if (!metadata.contains("reformer.format")) {
    fail("is no model of this library: its metadata have no reformer.format");
  }
  ModelHeader header;
  std::set<std::string_view> known;
  const auto find = [&](const char* key) -> const std::string* {
    const auto found = metadata.find(key);
    known.insert(key);
    return found == metadata.end() ? nullptr : &found->second;
  };
  const auto get = [&](const char* key) -> const std::string& {
    const std::string* value = find(key);
    if (value == nullptr) fail("has no ", key, " in its metadata");
    return *value;
  };
  const auto refuse = [&](const char* key, const std::string& value, std::string_view allowed) {
    fail("has ", key, " ", in_quotes(value), ", must be ", allowed);
  };
  if (get("reformer.format") != model_format) {
    refuse("reformer.format", get("reformer.format"), join("'", model_format, "'"));
  }
  header.config = parse_model_config(get("reformer.config"));
  const std::string& step = get("reformer.step");
  header.step = parse_number<std::int64_t>(step, 10).value_or(-1);
  if (header.step < 0 || header.step > max_steps || step != std::to_string(header.step)) {
    refuse("reformer.step", step, "whole, in [0, 2^63 - 1)");
  }
  if (const std::string* optimizer = find("reformer.optimizer")) {
    const Json object = parse_json_object("optimizer", *optimizer, std::size_t{1} << 12);
    FieldReader fields("optimizer", object);
    visit_fields(fields, header.optimizer.emplace());
    fields.check_known();
    if (header.optimizer->steps < 0 || header.optimizer->steps > max_steps) {
      fail("optimizer has steps ", header.optimizer->steps, ", must be in [0, 2^63 - 1)");
    }
  }
  const std::string& checksum = get("reformer.checksum");
  header.checksum = parse_number<std::uint32_t>(checksum, 16).value_or(0);
  if (checksum != checksum_text(header.checksum)) {
    refuse("reformer.checksum", checksum, "eight hexadecimal digits");
  }
  for (const auto& [key, value] : metadata) {
    if (!key.starts_with(own_prefix)) {
      header.metadata.emplace(key, value);
    } else if (!known.contains(key)) {
      fail("has the unknown key ", in_quotes(key), " in its metadata");
    }
  }
  return header;
}

/// Of the metadata, but for a checksum among them.
inline std::uint32_t checksum_of(const std::map<std::string, std::string>& metadata) {
  std::uint32_t sum = 0;
  for (const auto& [key, value] : metadata) {
    if (key != "reformer.checksum") sum = crc32(join(key, "\n", value, "\n"), sum);
  }
  return sum;
}
inline std::uint32_t checksum_of_header(std::string_view name, std::string_view dtype,
                                        std::span<const Index> shape, std::uint32_t before) {
  return crc32(join(name, "\n", dtype, "\n", shape_text(shape), "\n"), before);
}

template <typename Scalar>
inline constexpr std::string_view dtype_of = std::is_same_v<Scalar, double> ? "F64" : "F32";

}  // namespace detail

/// A file with a model; every check that needs no model is done, the checksum among them.
class ModelFile {
 public:
  /// @throw std::runtime_error with one line: the file, and what is wrong with it
  explicit ModelFile(std::filesystem::path path) : file_(std::move(path)) {
    try {
      header_ = detail::parse_model_header(file_.metadata());
      check_contents();
    } catch (const std::runtime_error& error) {
      fail("': ", error.what());
    }
  }

  const std::filesystem::path& path() const { return file_.path(); }
  const ModelConfig& config() const { return header_.config; }
  /// Training steps done when it was saved.
  std::int64_t step() const { return header_.step; }
  bool has_optimizer() const { return header_.optimizer.has_value(); }
  /// What the caller added.
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// The model of the configuration with its parameters.
  /// @throw std::runtime_error, before memory is taken for a model, unless the parameters are those
  ///   of the configuration: a model with branches of one's own is built first, and filled by
  ///   `read_parameters`
  template <typename Scalar>
  Model<Scalar> model() const {
    std::vector<Expected> expected;
    for (ParameterShape& p : parameter_shapes(config())) {
      expected.push_back({std::move(p.name), p.rows, p.columns});
    }
    check_tensors<Scalar>(false, expected);
    try {
      detail::check_residual<Scalar>("config", config().residual);
    } catch (const std::invalid_argument& error) {
      fail("': config is of no possible model: ", error.what());
    }
    Model<Scalar> model(config());
    fill_parameters(model);
    return model;
  }

  /// Fills a model that the caller has made.
  /// @param model  anything with `for_each_parameter`
  /// @throw std::runtime_error, before anything is changed, unless the parameters of the file are
  ///   those of the model, by names, shapes and type
  template <typename AnyModel>
  void read_parameters(AnyModel& model) const {
    using Scalar = typename AnyModel::Scalar;
    std::vector<Expected> expected;
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      expected.push_back({p.name, p.value.rows(), p.value.cols()});
    });
    check_tensors<Scalar>(false, expected);
    fill_parameters(model);
  }

  /// Gives an optimiser the configuration, the state and the number of steps of the file.
  /// @param model      whose optimiser it is; it is not changed
  /// @param optimizer  an `Adam`, `Adafactor` or `Muon`, as it was saved
  /// @throw std::runtime_error, before anything is changed, for a file without an optimiser or with
  ///   another kind, for state that is not that of the model's parameters, and for a configuration
  ///   that is out of range
  template <typename AnyModel, typename Optimizer>
  void read_optimizer(AnyModel& model, Optimizer& optimizer) const {
    using Scalar = typename AnyModel::Scalar;
    using Config = std::remove_cvref_t<decltype(optimizer.config())>;
    if (!has_optimizer()) fail("' holds no state of an optimizer");
    const detail::SavedOptimizer& saved = *header_.optimizer;
    const auto* config = std::get_if<Config>(&saved.config);
    if (config == nullptr) {
      const auto kind = std::visit(
          [](const auto& c) { return detail::kind_name<std::remove_cvref_t<decltype(c)>>; },
          saved.config);
      fail("' holds the state of ", kind, ", must be that of ", detail::kind_name<Config>);
    }
    try {
      (void)Optimizer(*config);
    } catch (const std::invalid_argument& error) {
      fail("': optimizer is none that is possible: ", error.what());
    }
    std::vector<Expected> expected;
    if (saved.steps > 0 || has_state()) {  // one that never took a step may have no state
      model.for_each_parameter([&](const Parameter<Scalar>& p) {
        for (const detail::StateShape& shape : Optimizer::state_shapes(p)) {
          expected.push_back({detail::join(detail::optimizer_prefix, shape.prefix, p.name),
                              shape.rows, shape.columns});
        }
      });
    }
    check_tensors<Scalar>(true, expected);

    optimizer.allocate(model);
    optimizer.set_config(*config);
    optimizer.steps() = saved.steps;
    if (expected.empty()) return;
    optimizer.for_each_state(model, [&](const std::string& name, Matrix<Scalar>& state) {
      read(std::string(detail::optimizer_prefix) + name, state);
    });
  }

 private:
  /// A tensor that the file must have.
  struct Expected {
    std::string name;
    Index rows, columns;
  };

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw std::runtime_error(detail::join("'", path().string(), parts...));
  }

  static bool is_state(const StoredTensor& tensor) {
    return tensor.name.starts_with(detail::optimizer_prefix);
  }
  bool has_state() const {
    return std::any_of(file_.tensors().begin(), file_.tensors().end(), is_state);
  }

  void check_contents() const {
    std::map<std::string_view, const StoredTensor*> tensors;
    for (const StoredTensor& tensor : file_.tensors()) {
      tensors.emplace(tensor.name, &tensor);
      if (is_state(tensor) && !has_optimizer()) {
        throw std::runtime_error(detail::join("tensor ", in_quotes(tensor.name),
                                              " is of an optimizer, but the metadata name none"));
      }
    }
    std::uint32_t sum = detail::checksum_of(file_.metadata());
    for (const auto& [name, tensor] : tensors) {
      sum = detail::checksum_of_header(name, tensor->dtype, tensor->shape, sum);
    }
    for (const auto& [name, tensor] : tensors) sum = crc32(file_.bytes(*tensor), sum);
    file_.release();
    if (sum != header_.checksum) {
      throw std::runtime_error(detail::join("is damaged: its checksum is ",
                                            detail::checksum_text(sum), ", must be ",
                                            detail::checksum_text(header_.checksum)));
    }
  }

  /// The tensors of the optimiser, or all others, must be these.
  template <typename Scalar>
  void check_tensors(bool of_optimizer, const std::vector<Expected>& expected) const {
    constexpr std::size_t shown = 5;
    std::size_t count = 0;
    std::string differences;
    const auto add = [&](const auto&... parts) {
      if (count++ < shown) {
        differences += detail::join(differences.empty() ? "" : ", ", parts...);
      }
    };
    const auto text = [](std::string_view dtype, std::span<const Index> shape) {
      return detail::join(dtype, " ", detail::shape_text(shape));
    };
    std::set<std::string_view> names;
    for (const Expected& wanted : expected) {
      names.insert(wanted.name);
      const StoredTensor* tensor = file_.find(wanted.name);
      const std::vector<Index> shape = {wanted.rows, wanted.columns};
      if (tensor == nullptr) {
        add(in_quotes(wanted.name), " is missing in the file");
      } else if (tensor->dtype != detail::dtype_of<Scalar> || tensor->shape != shape) {
        add(in_quotes(wanted.name), " is ", text(tensor->dtype, tensor->shape), " in the file and ",
            text(detail::dtype_of<Scalar>, shape), " in the model");
      }
    }
    for (const StoredTensor& tensor : file_.tensors()) {
      if (is_state(tensor) == of_optimizer && !names.contains(tensor.name)) {
        add(in_quotes(tensor.name), " is unknown to the model");
      }
    }
    if (count > shown) differences += detail::join(" and ", count - shown, " more");
    if (count > 0) fail("' does not fit: ", differences);
  }

  /// A tensor that was checked.
  template <typename Scalar>
  void read(const std::string& name, Matrix<Scalar>& out) const {
    file_.read(*file_.find(name), rows_of(out));
    file_.release();
  }
  template <typename AnyModel>
  void fill_parameters(AnyModel& model) const {
    using Scalar = typename AnyModel::Scalar;
    model.for_each_parameter([&](Parameter<Scalar>& p) { read(p.name, p.value); });
  }

  SafetensorsFile file_;
  detail::ModelHeader header_;
};

namespace detail {

/// What `save_model` writes, but for an optimiser.
template <typename AnyModel>
struct OutgoingModel {
  using Scalar = typename AnyModel::Scalar;
  std::vector<OutgoingTensor<Scalar>> tensors;
  std::map<std::string, std::string> metadata;

  OutgoingModel(const AnyModel& model, std::int64_t step,
                const std::map<std::string, std::string>& extra)
      : metadata(extra) {
    constexpr auto function = "save_model";
    check(step >= 0 && step <= max_steps, function, "step is ", step, ", must be in [0, 2^63 - 1)");
    for (const auto& [key, value] : extra) {
      check(!key.starts_with(own_prefix), function, "a key of metadata is ", in_quotes(key),
            ", must not begin with ", own_prefix);
    }
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      check(!p.name.starts_with(optimizer_prefix), function, "a parameter is ", in_quotes(p.name),
            ", must not begin with ", optimizer_prefix);
      add(p.name, p.value);
    });
    metadata["reformer.format"] = model_format;
    metadata["reformer.config"] = model_config_text(model.config());
    metadata["reformer.step"] = std::to_string(step);
  }

  void add(std::string name, const Matrix<Scalar>& matrix) {
    tensors.push_back({std::move(name), {matrix.rows(), matrix.cols()}, rows_of(matrix)});
  }

  void write(const std::filesystem::path& path) {
    std::sort(tensors.begin(), tensors.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    std::uint32_t sum = checksum_of(metadata);
    for (const auto& tensor : tensors) {
      sum = checksum_of_header(tensor.name, dtype_of<Scalar>, tensor.shape, sum);
    }
    for (const auto& tensor : tensors) {
      const auto size = static_cast<std::size_t>(tensor.values.rows * tensor.values.columns);
      sum = crc32(std::as_bytes(std::span(tensor.values.data, size)), sum);
    }
    metadata["reformer.checksum"] = checksum_text(sum);
    write_safetensors(path, std::move(tensors), metadata);
  }
};

}  // namespace detail

/// Writes a model in one step: whatever goes wrong, the previous file stays.
/// @param model     anything with `config`, a `ModelConfig`, and `for_each_parameter`
/// @param metadata  the caller's own entries
/// @throw std::runtime_error when it cannot be written, std::invalid_argument for keys of metadata
///   that begin with `reformer.`, text that is not UTF-8, and parameters of one name
template <typename AnyModel>
void save_model(const std::filesystem::path& path, const AnyModel& model,
                const std::map<std::string, std::string>& metadata = {}) {
  detail::OutgoingModel(model, 0, metadata).write(path);
}

/// The same with what it takes to go on training with the same bits.
/// @param optimizer  an `Adam`, `Adafactor` or `Muon` of this model
/// @param step       training steps done
/// @throw std::invalid_argument also for an optimiser of another model and for a negative step
template <typename AnyModel, typename Optimizer>
void save_model(const std::filesystem::path& path, const AnyModel& model,
                const Optimizer& optimizer, std::int64_t step,
                const std::map<std::string, std::string>& metadata = {}) {
  detail::OutgoingModel outgoing(model, step, metadata);
  bool has_state = false;
  optimizer.for_each_state(model, [&](const std::string& name, const auto& state) {
    outgoing.add(std::string(detail::optimizer_prefix) + name, state);
    has_state = true;
  });
  const std::int64_t steps = optimizer.steps();
  check(steps >= 0 && steps <= detail::max_steps, "save_model", "steps of the optimizer is ", steps,
        ", must be in [0, 2^63 - 1)");
  check(steps == 0 || has_state, "save_model", "steps of the optimizer is ", steps,
        ", must be 0 before there is any state");
  outgoing.metadata["reformer.optimizer"] =
      detail::fields_to_json(detail::SavedOptimizer{optimizer.config(), steps}).dump();
  outgoing.write(path);
}

/// Loads a model; a layer's number of buckets, dropout and all else are those it was saved with.
/// @throw std::runtime_error with one line, as `ModelFile` and `ModelFile::model`
template <typename Scalar>
Model<Scalar> load_model(const std::filesystem::path& path) {
  return ModelFile(path).model<Scalar>();
}

/// Fills a model that the caller has made, such as one with branches of its own.
/// @throw std::runtime_error with one line, as `ModelFile` and `ModelFile::read_parameters`
template <typename AnyModel>
void load_parameters(const std::filesystem::path& path, AnyModel& model) {
  ModelFile(path).read_parameters(model);
}

/// Gives an optimiser the configuration, the state and the number of steps it was saved with.
/// @return training steps done
/// @throw std::runtime_error with one line, as `ModelFile` and `ModelFile::read_optimizer`
template <typename AnyModel, typename Optimizer>
std::int64_t load_optimizer(const std::filesystem::path& path, AnyModel& model,
                            Optimizer& optimizer) {
  const ModelFile file(path);
  file.read_optimizer(model, optimizer);
  return file.step();
}

#ifdef REFORMER_EXTERN_IO_INSTANCES
extern template Model<float> ModelFile::model() const;
extern template void ModelFile::read_parameters(Model<float>&) const;
extern template void save_model(const std::filesystem::path&, const Model<float>&,
                                const std::map<std::string, std::string>&);
extern template Model<float> load_model(const std::filesystem::path&);
extern template void load_parameters(const std::filesystem::path&, Model<float>&);
extern template void ModelFile::read_optimizer(Model<float>&, Adam<float>&) const;
extern template void save_model(const std::filesystem::path&, const Model<float>&,
                                const Adam<float>&, std::int64_t,
                                const std::map<std::string, std::string>&);
extern template std::int64_t load_optimizer(const std::filesystem::path&, Model<float>&,
                                            Adam<float>&);
extern template void ModelFile::read_optimizer(Model<float>&, Adafactor<float>&) const;
extern template void save_model(const std::filesystem::path&, const Model<float>&,
                                const Adafactor<float>&, std::int64_t,
                                const std::map<std::string, std::string>&);
extern template std::int64_t load_optimizer(const std::filesystem::path&, Model<float>&,
                                            Adafactor<float>&);
extern template void ModelFile::read_optimizer(Model<float>&, Muon<float>&) const;
extern template void save_model(const std::filesystem::path&, const Model<float>&,
                                const Muon<float>&, std::int64_t,
                                const std::map<std::string, std::string>&);
extern template std::int64_t load_optimizer(const std::filesystem::path&, Model<float>&,
                                            Muon<float>&);
#endif

}  // namespace reformer::inline REFORMER_ABI
