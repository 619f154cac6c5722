// SPDX-License-Identifier: MIT
#include "model_io.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <variant>

#include "progress.hpp"
#include "reformer/reformer.hpp"

namespace enwik8 {
namespace {

using reformer::Index;
using Model = reformer::Model<float>;
using Adam = reformer::Adam<float>;
using Adafactor = reformer::Adafactor<float>;

constexpr Index vocabulary = 256;

reformer::AttentionPattern pattern_of(const Options& options, const std::string& layer) {
  if (layer == "lsh") {
    reformer::LshPattern lsh{.chunk_length = options.chunk_length, .num_hashes = options.hashes};
    if (options.buckets != std::vector<std::int64_t>{0}) {
      lsh.num_buckets.assign(options.buckets.begin(), options.buckets.end());
    }
    return lsh;
  }
  if (layer == "local") {
    return reformer::LocalPattern{.chunk_length = options.local_chunk_length};
  }
  return reformer::ExactPattern{};
}

reformer::PositionConfig positions_of(const Options& options) {
  if (options.positions == "axial") {
    return reformer::AxialPositions{
        .shape = {options.axial_shape.at(0), options.axial_shape.at(1)},
        .widths = {options.axial_widths.at(0), options.axial_widths.at(1)}};
  }
  if (options.positions == "learned") {
    return reformer::LearnedPositions{.max_length = options.length};
  }
  return reformer::SinusoidalPositions{};
}

reformer::ModelConfig config_of(const Options& options) {
  reformer::ModelConfig config{
      .vocabulary = vocabulary,
      .width = options.width,
      .num_heads = options.heads,
      .head_width = options.head_width,
      .feed_forward_width = options.ff_width,
      .activation = options.activation == "relu"   ? reformer::Activation::relu
                    : options.activation == "gelu" ? reformer::Activation::gelu
                                                   : reformer::Activation::gelu_tanh,
      .positions = positions_of(options),
      .layers = {},
      .causal = true,
      .dropout = options.dropout,
      .attention_dropout = options.attention_dropout};
  if (options.residual == "fixed") {
    config.residual = reformer::FixedResidual{};
  }
  for (const std::string& layer : options.layers) {
    config.layers.push_back(pattern_of(options, layer));
  }
  return config;
}

std::variant<Adam, Adafactor> optimizer_of(const Options& options) {
  if (options.optimizer == "adafactor") {
    return Adafactor();
  }
  return Adam({.beta1 = options.beta1,
               .beta2 = options.beta2,
               .epsilon = options.epsilon,
               .weight_decay = options.weight_decay});
}

reformer::Tokens tokens_of(const Windows& windows, const std::vector<std::int32_t>& values) {
  reformer::Tokens tokens(windows.count, windows.length);
  std::copy(values.begin(), values.end(), tokens.data());
  return tokens;
}

NamedTensor named(std::string name, reformer::Matrix<float>& matrix) {
  return {std::move(name), matrix.rows(), matrix.cols(), matrix.data()};
}

}  // namespace

double LossSum::bits_per_byte() const {
  return nats / std::numbers::ln2 / static_cast<double>(bytes);
}

std::size_t MemoryForecast::total() const {
  std::size_t sum = 0;
  for (const auto& part : parts) {
    sum += part.second;
  }
  return sum;
}

std::string MemoryForecast::text() const {
  std::string text = format_bytes(total());
  const char* separator = ": ";
  for (const auto& [purpose, bytes] : parts) {
    text += fmt::format("{}{} {}", separator, purpose, format_bytes(bytes));
    separator = ", ";
  }
  return text;
}

struct ByteModel::Parts {
  Options options;
  Model model;
  std::variant<Adam, Adafactor> optimizer;
  reformer::Workspace workspace;

  Parts(const Options& given, Use use)
      : options(given),
        model(config_of(given)),
        optimizer(optimizer_of(given)),
        workspace(static_cast<int>(given.threads)) {
    if (use == Use::training) {
      std::visit([&](auto& any) { any.allocate(model); }, optimizer);
      // Scratch in one piece from the start: grown bit by bit, it would take more than foreseen.
      reformer::Scratch(workspace).take<std::byte>(static_cast<Index>(plan().scratch));
    }
  }

  reformer::MemoryPlan plan() {
    return model.plan(options.batch, options.length, workspace.threads(), memory_budget());
  }
  std::size_t memory_budget() const {
    return static_cast<std::size_t>(options.memory_budget) * 1'000'000;
  }
  reformer::RunOptions evaluation() const { return {.key = {options.seed, 0}}; }
  reformer::RunOptions training(std::int64_t pass) const {
    return {.key = {options.seed, static_cast<std::uint32_t>(pass)},
            .training = true,
            .memory_budget = memory_budget()};
  }
};

ByteModel::ByteModel(const Options& options, Use use)
    : parts_(std::make_unique<Parts>(options, use)) {}
ByteModel::~ByteModel() = default;

void ByteModel::initialize() {
  const Options& options = parts_->options;
  parts_->model.initialize(options.seed, {.weights = options.init_weights,
                                          .embedding = options.init_embedding,
                                          .learned_positions = options.init_positions,
                                          .axial_positions = options.init_positions});
}

int ByteModel::threads() const {
  return parts_->workspace.threads();
}

std::int64_t ByteModel::num_parameters() const {
  return parts_->model.num_parameters();
}

MemoryForecast ByteModel::memory_forecast() const {
  const reformer::MemoryPlan plan = parts_->plan();
  std::size_t optimizer = 0;
  std::visit(
      [&](auto& any) {
        any.for_each_state(parts_->model,
                           [&](const std::string&, const reformer::Matrix<float>& state) {
                             optimizer += static_cast<std::size_t>(state.size()) * sizeof(float);
                           });
      },
      parts_->optimizer);
  return {{{"parameters", plan.parameters},
           {"gradients", plan.gradients},
           {"optimizer", optimizer},
           {"residual halves", plan.residual_halves},
           {"bucket ids", plan.bucket_ids},
           {"scratch", plan.scratch},
           {"stored", plan.stored}}};
}

std::string ByteModel::stored_text() const {
  const reformer::StoragePlan storage = parts_->plan().storage;
  std::string text;
  const auto describe = [&](const char* what, bool reformer::LayerStorage::*stored) {
    std::vector<std::size_t> layers;
    for (std::size_t i = 0; i < storage.size(); ++i) {
      if (storage[i].*stored) {
        layers.push_back(i);
      }
    }
    if (!layers.empty()) {
      text += fmt::format("{}{} of layer{} {}", text.empty() ? "" : "; ", what,
                          layers.size() == 1 ? "" : "s", fmt::join(layers, ", "));
    }
  };
  describe("input of attention", &reformer::LayerStorage::attention_input);
  describe("context of attention", &reformer::LayerStorage::context);
  describe("input of feed-forward", &reformer::LayerStorage::feed_forward_input);
  return text;
}

LossSum ByteModel::evaluate(const Windows& windows) {
  const reformer::Loss loss =
      parts_->model.loss(parts_->workspace, tokens_of(windows, windows.inputs),
                         tokens_of(windows, windows.labels), parts_->evaluation());
  return {loss.sum, loss.count};
}

LossSum ByteModel::add_gradients(const Windows& windows, double scale, std::int64_t pass) {
  const reformer::Loss loss = parts_->model.loss_and_gradients(
      parts_->workspace, tokens_of(windows, windows.inputs), tokens_of(windows, windows.labels),
      static_cast<float>(scale), parts_->training(pass));
  return {loss.sum, loss.count};
}

double ByteModel::gradient_norm() {
  return reformer::global_gradient_norm(parts_->workspace, parts_->model);
}

void ByteModel::step(double rate, double gradient_scale) {
  std::visit([&](auto& any) { any.step(parts_->workspace, parts_->model, rate, gradient_scale); },
             parts_->optimizer);
}

void ByteModel::zero_gradients() {
  parts_->model.zero_gradients();
}

std::vector<float> ByteModel::next_byte_logits(std::span<const std::uint8_t> context) {
  const auto length = static_cast<std::size_t>(parts_->options.length);
  const auto seen = context.last(std::min(context.size(), length));
  const std::vector<std::int32_t> tokens(seen.begin(), seen.end());
  return parts_->model.next_token_logits(parts_->workspace, tokens, parts_->evaluation());
}

std::string ByteModel::first_not_finite(const Windows& windows, std::int64_t pass) {
  const std::optional<Index> block = parts_->model.first_non_finite_block(
      parts_->workspace, tokens_of(windows, windows.inputs),
      pass > 0 ? parts_->training(pass) : parts_->evaluation());
  if (block && *block < 0) {
    return "in the embedding";
  }
  if (block) {
    return fmt::format("in layer {} ({})", *block,
                       parts_->options.layers[static_cast<std::size_t>(*block)]);
  }
  // The backward pass goes from the last parameter to the first.
  std::string name;
  parts_->model.for_each_parameter([&](const reformer::Parameter<float>& parameter) {
    if (parameter.has_gradient() && !parameter.gradient.allFinite()) {
      name = parameter.name;
    }
  });
  return name.empty() ? "in the head" : fmt::format("in the gradient of {}", name);
}

std::optional<std::string> ByteModel::not_finite_tensor() {
  for (const NamedTensor& tensor : parameters_and_optimizer()) {
    const std::span<const float> values(tensor.data,
                                        static_cast<std::size_t>(tensor.rows * tensor.cols));
    if (!std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); })) {
      return tensor.name;
    }
  }
  return std::nullopt;
}

std::vector<NamedTensor> ByteModel::parameters() {
  std::vector<NamedTensor> tensors;
  parts_->model.for_each_parameter([&](reformer::Parameter<float>& parameter) {
    tensors.push_back(named(parameter_prefix + parameter.name, parameter.value));
  });
  return tensors;
}

std::vector<NamedTensor> ByteModel::parameters_and_optimizer() {
  std::vector<NamedTensor> tensors = parameters();
  std::visit(
      [&](auto& any) {
        any.for_each_state(parts_->model,
                           [&](const std::string& name, reformer::Matrix<float>& state) {
                             tensors.push_back(named(name, state));
                           });
      },
      parts_->optimizer);
  return tensors;
}

std::int64_t& ByteModel::optimizer_steps() {
  return std::visit([](auto& any) -> std::int64_t& { return any.steps(); }, parts_->optimizer);
}

std::string instruction_sets() {
  return Eigen::SimdInstructionSetsInUse();
}

Options saved_options(const CheckpointReader& reader, const std::filesystem::path& path) {
  const auto found = reader.state().find("options");
  if (found == reader.state().end() || !found->is_object()) {
    throw std::runtime_error(fmt::format(
        "checkpoint '{}' is not one of this trainer: it has no options", path.string()));
  }
  try {
    return options_from_json(*found);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("checkpoint '{}': {}", path.string(), error.what()));
  }
}

std::filesystem::path checkpoint_path(const std::filesystem::path& place) {
  std::error_code ignored;
  return std::filesystem::is_directory(place, ignored) ? place / checkpoint_name : place;
}

}  // namespace enwik8
