// SPDX-License-Identifier: MIT
#include "token_model.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <set>
#include <stdexcept>
#include <type_traits>
#include <variant>

#include "model_config.hpp"
#include "progress.hpp"
#include "reformer/distributed/data_parallel.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/io/huggingface.hpp"
#include "reformer/io/model_file.hpp"
#include "reformer/reformer.hpp"

namespace training {
namespace {

using reformer::Index;
using Model = reformer::Model<float>;
using Adam = reformer::Adam<float>;
using Adafactor = reformer::Adafactor<float>;
using Muon = reformer::Muon<float>;

template <typename Optimizer>
using Training = reformer::DataParallel<Model, Optimizer>;
/// Nothing for a model that is not trained.
using AnyTraining =
    std::variant<std::monostate, Training<Adam>, Training<Adafactor>, Training<Muon>>;

/// The table of options lets no other names through.
reformer::Precision precision_of(const Options& options) {
  if (options.precision == "auto") {
    return reformer::fastest_precision();
  }
  return reformer::precision_named(options.precision).value();
}

void begin_training(AnyTraining& training, reformer::Communicator& communicator, Model& model,
                    const Options& options) {
  const reformer::DataParallelConfig shared{.micro_batches = options.accumulate};
  const reformer::AdamConfig adam{.beta1 = options.beta1,
                                  .beta2 = options.beta2,
                                  .epsilon = options.epsilon,
                                  .weight_decay = options.weight_decay};
  if (options.optimizer == "adafactor") {
    training.emplace<Training<Adafactor>>(communicator, model, shared);
  } else if (options.optimizer == "muon") {
    training.emplace<Training<Muon>>(
        communicator, model, shared,
        reformer::MuonConfig{.adam = adam, .precision = precision_of(options)});
  } else {
    training.emplace<Training<Adam>>(communicator, model, shared, adam);
  }
}

/// "head.weight [64, 258]"
std::string with_shape(const reformer::Parameter<float>& parameter) {
  return fmt::format("{} [{}, {}]", parameter.name, parameter.value.rows(), parameter.value.cols());
}

}  // namespace

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

struct TokenModel::Parts {
  Options options;
  Index vocabulary;
  std::optional<reformer::HuggingFaceConfig> huggingface;
  Model model;
  reformer::SingleProcess alone;
  AnyTraining training;
  reformer::Workspace workspace;

  Parts(const Options& given, std::int64_t tokens, Use use, reformer::Communicator* communicator)
      : options(given),
        vocabulary(tokens),
        huggingface(huggingface_of(given)),
        model(config_of(given, tokens)),
        workspace(static_cast<int>(given.threads)) {
    if (use == Use::training) {
      begin_training(training, communicator != nullptr ? *communicator : alone, model, options);
      // In one piece and in use from the start: grown bit by bit, it would take more than foreseen.
      reformer::Scratch(workspace).take<std::byte>(static_cast<Index>(plan().workspace()));
    }
  }

  /// Calls `f` with the training of a model that is trained; `otherwise` is the result of others.
  template <typename F, typename Result>
  Result in_training(const F& f, Result otherwise) {
    return std::visit(
        [&](auto& any) {
          if constexpr (!std::is_same_v<decltype(any), std::monostate&>) {
            otherwise = f(any);
          }
          return otherwise;
        },
        training);
  }
  template <typename F>
  void in_training(const F& f) {
    in_training(
        [&](auto& any) {
          f(any);
          return true;
        },
        false);
  }

  /// What the model calls token 0.
  std::int32_t first_token() const {
    return static_cast<std::int32_t>(model.config().vocabulary - vocabulary);
  }
  reformer::Tokens tokens_of(const Windows& windows,
                             const std::vector<std::int32_t>& values) const {
    reformer::Tokens tokens(windows.count, windows.length);
    std::transform(values.begin(), values.end(), tokens.data(), [&](std::int32_t value) {
      return value == reformer::ignored_label ? value : value + first_token();
    });
    return tokens;
  }
  /// With the padding that HuggingFace adds, if the model is one of its.
  reformer::PaddedTokens padded(const reformer::Tokens& tokens,
                                std::vector<std::uint8_t> is_real = {}) const {
    return huggingface ? reformer::huggingface_pad(*huggingface, tokens, is_real)
                       : reformer::PaddedTokens{tokens, std::move(is_real), tokens.dimension(1)};
  }
  reformer::PaddedTokens inputs_of(const Windows& windows) const {
    std::vector<std::uint8_t> is_real;
    for (const std::int64_t length : windows.lengths) {
      is_real.insert(is_real.end(), static_cast<std::size_t>(length), 1);
      is_real.insert(is_real.end(), static_cast<std::size_t>(windows.length - length), 0);
    }
    return padded(tokens_of(windows, windows.inputs), std::move(is_real));
  }

  reformer::Decoder<float> decoder() {
    return {workspace, model, 1, evaluation().key, evaluation().precision};
  }
  reformer::MemoryPlan plan() const {
    return model.plan(options.batch, options.length, workspace.threads(), memory_budget(),
                      precision_of(options));
  }
  std::size_t memory_budget() const {
    return static_cast<std::size_t>(options.memory_budget) * 1'000'000;
  }
  reformer::RunOptions evaluation() const {
    return {.key = {options.seed, 0}, .precision = precision_of(options)};
  }
  reformer::RunOptions training_options(std::int64_t pass, const Windows& windows) const {
    return {.key = {options.seed, static_cast<std::uint32_t>(pass)},
            .training = true,
            .memory_budget = memory_budget(),
            .precision = precision_of(options),
            .dropout_share = options.dropout_share(windows.epochs_before)};
  }
};

TokenModel::TokenModel(const Options& options, std::int64_t vocabulary, Use use,
                       reformer::Communicator* communicator)
    : parts_(std::make_unique<Parts>(options, vocabulary, use, communicator)) {}
TokenModel::~TokenModel() = default;

void TokenModel::initialize() {
  const Options& options = parts_->options;
  parts_->model.initialize(options.seed, {.weights = options.init_weights,
                                          .embedding = options.init_embedding,
                                          .learned_positions = options.init_positions,
                                          .axial_positions = options.init_positions});
}

std::vector<std::string> TokenModel::load_huggingface(const std::filesystem::path& folder) {
  // begin_with_model has seen that the folder fits its own config, so what differs was asked for.
  const auto left = reformer::load_huggingface_weights(
      reformer::HuggingFaceWeights(folder), parts_->model, [](std::string_view name) {
        return name.starts_with("positions.") || name.starts_with("head.");
      });
  std::vector<std::string> shapes;
  parts_->model.for_each_parameter([&](const reformer::Parameter<float>& parameter) {
    if (std::find(left.begin(), left.end(), parameter.name) != left.end()) {
      shapes.push_back(with_shape(parameter));
    }
  });
  return shapes;
}

void TokenModel::save_huggingface(const std::filesystem::path& folder) {
  reformer::save_huggingface(folder, parts_->model,
                             parts_->huggingface
                                 ? *parts_->huggingface
                                 : reformer::huggingface_config(parts_->model.config()));
}

void TokenModel::check_huggingface() const {
  if (!parts_->huggingface) {
    reformer::huggingface_config(parts_->model.config());
  }
}

std::string TokenModel::precision() const {
  return name_of(precision_of(parts_->options));
}

int TokenModel::threads() const {
  return parts_->workspace.threads();
}

std::int32_t TokenModel::first_token() const {
  return parts_->first_token();
}

std::int64_t TokenModel::num_parameters() const {
  return parts_->model.num_parameters();
}

MemoryForecast TokenModel::memory_forecast() const {
  const reformer::MemoryPlan plan = parts_->plan();
  const Index tokens = parts_->options.batch * parts_->options.length;
  const auto training = parts_->in_training([&](const auto& any) { return any.plan(tokens); },
                                            reformer::DataParallelMemory());
  MemoryForecast forecast{{{"parameters", plan.parameters},
                           {"gradients", plan.gradients},
                           {"optimizer", training.optimizer},
                           {"exchange", training.exchange},
                           {"residual halves", plan.residual_halves},
                           {"bucket ids", plan.saved},
                           {"scratch", plan.scratch},
                           {"stored", plan.stored}}};
  if (training.whole_optimizer > 0) {
    forecast.parts.emplace_back("optimizer of all ranks, while saving", training.whole_optimizer);
  }
  return forecast;
}

std::string TokenModel::stored_text() const {
  const reformer::StoragePlan storage = parts_->plan().storage;
  std::string text;
  // Branches are attention and feed-forward in turn.
  const auto describe = [&](const char* what, std::size_t branch,
                            bool reformer::BranchStorage::*stored) {
    std::vector<std::size_t> layers;
    for (std::size_t i = branch; i < storage.size(); i += 2) {
      if (storage[i].*stored) {
        layers.push_back(i / 2);
      }
    }
    if (!layers.empty()) {
      text += fmt::format("{}{} of layer{} {}", text.empty() ? "" : "; ", what,
                          layers.size() == 1 ? "" : "s", fmt::join(layers, ", "));
    }
  };
  describe("input of attention", 0, &reformer::BranchStorage::input);
  describe("context of attention", 0, &reformer::BranchStorage::context);
  describe("input of feed-forward", 1, &reformer::BranchStorage::input);
  describe("hidden values of feed-forward", 1, &reformer::BranchStorage::context);
  return text;
}

LossSum TokenModel::evaluate(const Windows& windows, std::vector<double>* each) {
  const auto inputs = parts_->inputs_of(windows);
  const Index padded_length = inputs.tokens.dimension(1);
  std::vector<double> losses(static_cast<std::size_t>(inputs.tokens.size()));
  const reformer::Loss loss = parts_->model.loss(
      parts_->workspace, inputs.tokens, inputs.labels(parts_->tokens_of(windows, windows.labels)),
      inputs.options(parts_->evaluation()), losses);
  if (each != nullptr) {
    each->clear();
    for (Index window = 0; window < windows.count; ++window) {
      const auto first = losses.begin() + window * padded_length;
      each->insert(each->end(), first, first + windows.length);
    }
  }
  return {loss.sum, windows.label_bytes};
}

std::vector<std::vector<reformer::LshPattern>> TokenModel::hashed_patterns() const {
  const reformer::ModelConfig& config = parts_->model.config();
  std::vector<std::vector<reformer::LshPattern>> patterns;
  for (const reformer::LayerPattern& layer : config.layers) {
    patterns.emplace_back();
    for (const reformer::HeadKind& heads : head_kinds(layer, config.num_heads)) {
      if (const auto* lsh = std::get_if<reformer::LshPattern>(&heads.pattern)) {
        patterns.back().push_back(*lsh);
      }
    }
  }
  return patterns;
}

std::vector<std::vector<reformer::Tensor<reformer::Bucket, 4>>> TokenModel::buckets(
    const Windows& windows) {
  return parts_->model.buckets(parts_->workspace, parts_->tokens_of(windows, windows.inputs),
                               parts_->evaluation());
}

std::vector<LossSum> TokenModel::accumulate(
    const std::function<Windows(std::int64_t i)>& windows_of_pass, double scale,
    std::int64_t step) {
  return parts_->in_training(
      [&](auto& training) {
        return training.accumulate(parts_->workspace, [&](Index i,
                                                          reformer::PassObserver& observer) {
          const Windows windows = windows_of_pass(i);
          const auto inputs = parts_->inputs_of(windows);
          const reformer::Loss loss = parts_->model.loss_and_gradients(
              parts_->workspace, inputs.tokens,
              inputs.labels(parts_->tokens_of(windows, windows.labels)), static_cast<float>(scale),
              inputs.options(parts_->training_options(pass_number(step, i), windows)), nullptr,
              &observer);
          return LossSum{loss.sum, windows.label_bytes};
        });
      },
      std::vector<LossSum>());
}

std::int64_t TokenModel::pass_number(std::int64_t step, std::int64_t i) const {
  return step * parts_->options.accumulate + i;
}

double TokenModel::gradient_norm() {
  return parts_->in_training(
      [&](auto& training) { return training.gradient_norm(parts_->workspace); }, 0.0);
}

void TokenModel::step(double rate, double gradient_scale) {
  parts_->in_training(
      [&](auto& training) { training.step(parts_->workspace, rate, gradient_scale); });
}

void TokenModel::share_parameters() {
  parts_->in_training([](auto& training) { training.broadcast_parameters(); });
}

void TokenModel::wait_for_parameters() {
  parts_->in_training([](auto& training) { training.wait(); });
}

double TokenModel::exposed_seconds() const {
  return parts_->in_training([](auto& training) { return training.exposed_seconds(); }, 0.0);
}

std::vector<float> TokenModel::next_logits(std::span<const std::int32_t> context) {
  const auto length = static_cast<std::size_t>(parts_->options.length);
  const auto seen = context.last(std::min(context.size(), length));
  reformer::Tokens tokens(1, std::ssize(seen));
  std::transform(seen.begin(), seen.end(), tokens.data(),
                 [&](std::int32_t token) { return token + parts_->first_token(); });
  const auto padded = parts_->padded(tokens);
  std::vector<float> logits = parts_->model.next_token_logits(
      parts_->workspace, {padded.tokens.data(), static_cast<std::size_t>(padded.tokens.size())},
      padded.options(parts_->evaluation()));
  logits.erase(logits.begin(), logits.begin() + parts_->first_token());
  return logits;
}

void TokenModel::generate(std::span<const std::int32_t> prompt, std::int64_t length,
                          const reformer::SamplingOptions& sampling, std::uint64_t seed,
                          const std::function<bool(std::int32_t)>& each) {
  if (parts_->first_token() > 0) {  // HuggingFace pads its input, so each token takes a whole pass
    std::vector<std::int32_t> text(prompt.begin(), prompt.end());
    const reformer::RandomStream stream({seed}, reformer::Purpose::sampling);
    std::vector<std::uint8_t> occurred(static_cast<std::size_t>(parts_->vocabulary), 0);
    for (const std::int32_t token : text) {
      occurred[static_cast<std::size_t>(token)] = 1;
    }
    for (std::int64_t i = 0; i < length; ++i) {
      const std::vector<float> logits = next_logits(text);
      text.push_back(static_cast<std::int32_t>(
          reformer::sample_token(std::span<const float>(logits), sampling,
                                 stream.uniform(static_cast<std::uint64_t>(i)), occurred)));
      occurred[static_cast<std::size_t>(text.back())] = 1;
      if (!each(text.back())) {
        return;
      }
    }
    return;
  }
  reformer::Decoder<float> decoder = parts_->decoder();
  reformer::generate(parts_->workspace, decoder, {{prompt.begin(), prompt.end()}},
                     {.max_tokens = length,
                      .sampling = sampling,
                      .seed = seed,
                      .max_context = parts_->options.length},
                     [&](Index, std::int32_t token) { return each(token); });
}

std::size_t TokenModel::generation_memory(std::int64_t length) {
  reformer::Decoder<float> decoder = parts_->decoder();
  if (decoder.recomputes()) {
    return 0;
  }
  const reformer::RandomStream stream({parts_->options.seed}, reformer::Purpose::sampling);
  reformer::Tokens tokens(1, length);
  for (Index i = 0; i < length; ++i) {
    tokens(0, i) = static_cast<std::int32_t>(stream.uniform(static_cast<std::uint64_t>(i)) *
                                             static_cast<double>(parts_->vocabulary));
  }
  decoder.prefill(parts_->workspace, tokens);
  return decoder.state_bytes() + parts_->plan().parameters;
}

std::string TokenModel::first_not_finite(const Windows& windows, std::int64_t pass) {
  const auto inputs = parts_->inputs_of(windows);
  const std::optional<Index> layer = parts_->model.first_non_finite_layer(
      parts_->workspace, inputs.tokens,
      inputs.options(pass > 0 ? parts_->training_options(pass, windows) : parts_->evaluation()));
  if (layer && *layer < 0) {
    return "in the embedding";
  }
  if (layer) {
    return fmt::format("in layer {} ({})", *layer,
                       parts_->options.layers[static_cast<std::size_t>(*layer)]);
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

std::optional<std::string> TokenModel::not_finite_tensor() const {
  std::optional<std::string> found;
  const auto look_at = [&](const std::string& name, const reformer::Matrix<float>& values) {
    if (!found && !values.allFinite()) {
      found = name;
    }
  };
  const Model& model = parts_->model;
  model.for_each_parameter([&](const reformer::Parameter<float>& parameter) {
    look_at(parameter.name, parameter.value);
  });
  parts_->in_training([&](const auto& training) { training.for_each_own_state(look_at); });
  return found;
}

void TokenModel::save(const std::filesystem::path& path, std::int64_t step,
                      const nlohmann::json& state) {
  // Names of files need not be UTF-8.
  const std::string text = state.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  parts_->in_training([&](auto& training) {
    training.wait();
    training.visit_whole_optimizer([&](const auto& optimizer) {
      reformer::save_model(path, parts_->model, optimizer, step, {{state_key, text}});
    });
  });
}

void TokenModel::load(const Checkpoint& checkpoint) {
  parts_->in_training([](auto& training) { training.wait(); });
  checkpoint.file().read_parameters(parts_->model);
  parts_->in_training([&](auto& training) {
    training.set_whole_optimizer(
        [&](auto& optimizer) { checkpoint.file().read_optimizer(parts_->model, optimizer); });
  });
  if (const auto tensor = not_finite_tensor()) {  // no trainer has saved it so
    throw std::runtime_error(
        fmt::format("'{}': {} is not finite", checkpoint.path().string(), *tensor));
  }
}

std::vector<NamedValues> TokenModel::parameters() {
  std::vector<NamedValues> all;
  parts_->model.for_each_parameter([&](reformer::Parameter<float>& parameter) {
    all.push_back(
        {parameter.name, {parameter.value.data(), static_cast<std::size_t>(parameter.size())}});
  });
  return all;
}

std::string instruction_sets() {
  return Eigen::SimdInstructionSetsInUse();
}

std::string bfloat16_instructions() {
  return reformer::bfloat16_unit().name;
}

}  // namespace training
