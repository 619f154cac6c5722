// SPDX-License-Identifier: MIT
#include "model_io.hpp"

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

#include "progress.hpp"
#include "reformer/distributed/data_parallel.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/io/huggingface.hpp"
#include "reformer/io/model_file.hpp"
#include "reformer/reformer.hpp"

namespace enwik8 {
namespace {

using reformer::Index;
using Model = reformer::Model<float>;
using Adam = reformer::Adam<float>;
using Adafactor = reformer::Adafactor<float>;
using Muon = reformer::Muon<float>;

constexpr Index vocabulary = 256;
/// google/reformer-enwik8 and its like have two tokens before those of the bytes.
constexpr Index shifted_vocabulary = 258;

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
        .shape = {options.axial_shape.at(0), options.axial_shape.at(1)},
        .widths = {options.axial_widths.at(0), options.axial_widths.at(1)}};
  }
  if (options.positions == "learned") {
    return reformer::LearnedPositions{.max_length = options.length};
  }
  return reformer::SinusoidalPositions{};
}

/// The config of a model that was begun with `--init`.
std::optional<reformer::HuggingFaceConfig> huggingface_of(const Options& options) {
  if (options.model_config.empty()) {
    return std::nullopt;
  }
  return reformer::parse_huggingface_config(options.model_config);
}

reformer::ModelConfig config_of(const Options& options) {
  if (const auto huggingface = huggingface_of(options)) {
    reformer::ModelConfig config = huggingface->model;
    config.dropout = options.dropout;
    config.attention_dropout = options.attention_dropout;
    return config;
  }
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
  for (std::size_t layer = 0; layer < options.layers.size(); ++layer) {
    config.layers.push_back(pattern_of(options, layer));
  }
  return config;
}

template <typename Optimizer>
using Training = reformer::DataParallel<Model, Optimizer>;
/// Nothing for a model that is not trained.
using AnyTraining =
    std::variant<std::monostate, Training<Adam>, Training<Adafactor>, Training<Muon>>;

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
    training.emplace<Training<Muon>>(communicator, model, shared,
                                     reformer::MuonConfig{.adam = adam});
  } else {
    training.emplace<Training<Adam>>(communicator, model, shared, adam);
  }
}

reformer::Precision precision_of(const Options& options) {
  using reformer::Precision;
  return options.precision == "bfloat16x3" ? Precision::bfloat16x3
         : options.precision == "bfloat16" ? Precision::bfloat16
                                           : Precision::float32;
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

struct ByteModel::Parts {
  Options options;
  std::optional<reformer::HuggingFaceConfig> huggingface;
  Model model;
  reformer::SingleProcess alone;
  AnyTraining training;
  reformer::Workspace workspace;

  Parts(const Options& given, Use use, reformer::Communicator* communicator)
      : options(given),
        huggingface(huggingface_of(given)),
        model(config_of(given)),
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

  /// The token of byte 0.
  std::int32_t first_byte() const {
    return static_cast<std::int32_t>(model.config().vocabulary - vocabulary);
  }
  reformer::Tokens tokens_of(const Windows& windows, const std::vector<std::int32_t>& bytes) const {
    reformer::Tokens tokens(windows.count, windows.length);
    std::transform(bytes.begin(), bytes.end(), tokens.data(),
                   [&](std::int32_t byte) { return byte + first_byte(); });
    return tokens;
  }
  /// For an evaluation: with the padding that HuggingFace adds, if the model is one of its.
  reformer::PaddedTokens padded(const reformer::Tokens& tokens) const {
    return huggingface ? reformer::huggingface_pad(*huggingface, tokens)
                       : reformer::PaddedTokens{tokens, {}, tokens.dimension(1)};
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
  reformer::RunOptions training_options(std::int64_t pass) const {
    return {.key = {options.seed, static_cast<std::uint32_t>(pass)},
            .training = true,
            .memory_budget = memory_budget(),
            .precision = precision_of(options)};
  }
};

ByteModel::ByteModel(const Options& options, Use use, reformer::Communicator* communicator)
    : parts_(std::make_unique<Parts>(options, use, communicator)) {}
ByteModel::~ByteModel() = default;

void ByteModel::initialize() {
  const Options& options = parts_->options;
  parts_->model.initialize(options.seed, {.weights = options.init_weights,
                                          .embedding = options.init_embedding,
                                          .learned_positions = options.init_positions,
                                          .axial_positions = options.init_positions});
}

std::vector<std::string> ByteModel::load_huggingface(const std::filesystem::path& folder) {
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

void ByteModel::save_huggingface(const std::filesystem::path& folder) {
  reformer::save_huggingface(folder, parts_->model,
                             parts_->huggingface
                                 ? *parts_->huggingface
                                 : reformer::huggingface_config(parts_->model.config()));
}

void ByteModel::check_huggingface() const {
  if (!parts_->huggingface) {
    reformer::huggingface_config(parts_->model.config());
  }
}

int ByteModel::threads() const {
  return parts_->workspace.threads();
}

std::int32_t ByteModel::first_byte() const {
  return parts_->first_byte();
}

std::int64_t ByteModel::num_parameters() const {
  return parts_->model.num_parameters();
}

MemoryForecast ByteModel::memory_forecast() const {
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

std::string ByteModel::stored_text() const {
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

LossSum ByteModel::evaluate(const Windows& windows, std::vector<double>* each) {
  const auto inputs = parts_->padded(parts_->tokens_of(windows, windows.inputs));
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
  return {loss.sum, loss.count};
}

std::vector<std::vector<reformer::LshPattern>> ByteModel::hashed_patterns() const {
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

std::vector<std::vector<reformer::Tensor<reformer::Bucket, 4>>> ByteModel::buckets(
    const Windows& windows) {
  return parts_->model.buckets(parts_->workspace, parts_->tokens_of(windows, windows.inputs),
                               parts_->evaluation());
}

std::vector<LossSum> ByteModel::accumulate(
    const std::function<Windows(std::int64_t i)>& windows_of_pass, double scale,
    std::int64_t step) {
  return parts_->in_training(
      [&](auto& training) {
        return training.accumulate(
            parts_->workspace, [&](Index i, reformer::PassObserver& observer) {
              const Windows windows = windows_of_pass(i);
              const reformer::Loss loss = parts_->model.loss_and_gradients(
                  parts_->workspace, parts_->tokens_of(windows, windows.inputs),
                  parts_->tokens_of(windows, windows.labels), static_cast<float>(scale),
                  parts_->training_options(pass_number(step, i)), nullptr, &observer);
              return LossSum{loss.sum, loss.count};
            });
      },
      std::vector<LossSum>());
}

std::int64_t ByteModel::pass_number(std::int64_t step, std::int64_t i) const {
  return step * parts_->options.accumulate + i;
}

double ByteModel::gradient_norm() {
  return parts_->in_training(
      [&](auto& training) { return training.gradient_norm(parts_->workspace); }, 0.0);
}

void ByteModel::step(double rate, double gradient_scale) {
  parts_->in_training(
      [&](auto& training) { training.step(parts_->workspace, rate, gradient_scale); });
}

void ByteModel::share_parameters() {
  parts_->in_training([](auto& training) { training.broadcast_parameters(); });
}

void ByteModel::wait_for_parameters() {
  parts_->in_training([](auto& training) { training.wait(); });
}

double ByteModel::exposed_seconds() const {
  return parts_->in_training([](auto& training) { return training.exposed_seconds(); }, 0.0);
}

std::vector<float> ByteModel::next_byte_logits(std::span<const std::uint8_t> context) {
  const auto length = static_cast<std::size_t>(parts_->options.length);
  const auto seen = context.last(std::min(context.size(), length));
  reformer::Tokens tokens(1, std::ssize(seen));
  std::transform(seen.begin(), seen.end(), tokens.data(),
                 [&](std::uint8_t byte) { return byte + parts_->first_byte(); });
  const auto padded = parts_->padded(tokens);
  std::vector<float> logits = parts_->model.next_token_logits(
      parts_->workspace, {padded.tokens.data(), static_cast<std::size_t>(padded.tokens.size())},
      padded.options(parts_->evaluation()));
  logits.erase(logits.begin(), logits.begin() + parts_->first_byte());
  return logits;
}

void ByteModel::write_text(std::span<const std::uint8_t> prompt, std::int64_t length,
                           const reformer::SamplingOptions& sampling, std::uint64_t seed,
                           const std::function<bool(std::uint8_t)>& each) {
  if (parts_->first_byte() > 0) {  // HuggingFace pads its input, so each token takes a whole pass
    std::vector<std::uint8_t> text(prompt.begin(), prompt.end());
    const reformer::RandomStream stream({seed}, reformer::Purpose::sampling);
    std::vector<std::uint8_t> occurred(std::size_t{vocabulary}, 0);
    for (const std::uint8_t byte : text) {
      occurred[byte] = 1;
    }
    for (std::int64_t i = 0; i < length; ++i) {
      const std::vector<float> logits = next_byte_logits(text);
      text.push_back(static_cast<std::uint8_t>(
          reformer::sample_token(std::span<const float>(logits), sampling,
                                 stream.uniform(static_cast<std::uint64_t>(i)), occurred)));
      occurred[text.back()] = 1;
      if (!each(text.back())) {
        return;
      }
    }
    return;
  }
  reformer::Decoder<float> decoder(parts_->workspace, parts_->model, 1, parts_->evaluation().key,
                                   parts_->evaluation().precision);
  reformer::generate(
      parts_->workspace, decoder, {{prompt.begin(), prompt.end()}},
      {.max_tokens = length,
       .sampling = sampling,
       .seed = seed,
       .max_context = parts_->options.length},
      [&](Index, std::int32_t token) { return each(static_cast<std::uint8_t>(token)); });
}

std::string ByteModel::first_not_finite(const Windows& windows, std::int64_t pass) {
  const std::optional<Index> layer = parts_->model.first_non_finite_layer(
      parts_->workspace, parts_->tokens_of(windows, windows.inputs),
      pass > 0 ? parts_->training_options(pass) : parts_->evaluation());
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

std::optional<std::string> ByteModel::not_finite_tensor() const {
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

void ByteModel::save(const std::filesystem::path& path, std::int64_t step,
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

void ByteModel::load(const Checkpoint& checkpoint) {
  parts_->in_training([](auto& training) { training.wait(); });
  checkpoint.file().read_parameters(parts_->model);
  parts_->in_training([&](auto& training) {
    training.set_whole_optimizer(
        [&](auto& optimizer) { checkpoint.file().read_optimizer(parts_->model, optimizer); });
  });
}

std::vector<NamedValues> ByteModel::parameters() {
  std::vector<NamedValues> all;
  parts_->model.for_each_parameter([&](reformer::Parameter<float>& parameter) {
    all.push_back(
        {parameter.name, {parameter.value.data(), static_cast<std::size_t>(parameter.size())}});
  });
  return all;
}

void begin_with_model(Options& options) {
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
  if (model.vocabulary != vocabulary && model.vocabulary != shifted_vocabulary) {
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
  options.ngrams = {0};
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

std::int64_t local_reach(const Options& options) {
  Index reach = 0;
  for (const reformer::LayerPattern& layer : config_of(options).layers) {
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

std::string instruction_sets() {
  return Eigen::SimdInstructionSetsInUse();
}

std::string bfloat16_instructions() {
  return reformer::bfloat16_unit().name;
}

Options saved_options(const Checkpoint& checkpoint) {
  const auto fail = [&](const std::string& reason) {
    throw std::runtime_error(fmt::format("'{}': {}", checkpoint.path().string(), reason));
  };
  const auto found = checkpoint.state().find("options");
  if (found == checkpoint.state().end() || !found->is_object()) {
    fail("is not a checkpoint of this trainer: it has no options");
  }
  Options options;
  try {
    options = options_from_json(*found);
    const auto config = checkpoint.state().find("model_config");
    if (config != checkpoint.state().end() && config->is_string()) {
      options.model_config = config->get<std::string>();
      reformer::parse_huggingface_config(options.model_config);
    }
  } catch (const std::runtime_error& error) {
    fail(error.what());
  }
  return options;
}

std::filesystem::path checkpoint_path(const std::filesystem::path& place) {
  std::error_code ignored;
  return std::filesystem::is_directory(place, ignored) ? place / checkpoint_name : place;
}

}  // namespace enwik8
