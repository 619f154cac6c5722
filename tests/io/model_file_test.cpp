// SPDX-License-Identifier: MIT
/// Models in files: every configuration, in another process, damaged, and of other models.
#include "reformer/io/model_file.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <tuple>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;

constexpr Index V = 13;

ModelConfig small_model_config() {
  return {.vocabulary = V,
          .width = 8,
          .num_heads = 2,
          .head_width = 3,
          .feed_forward_width = 10,
          .positions = AxialPositions{{4, 5}, {0, 0}},
          .ngrams = {{.order = 3, .rows = 10, .dropout = 0.25},
                     {.order = 2, .rows = 7, .dropout = 0.5}},
          .value_ngrams = {{.order = 4, .rows = 9, .dropout = 0.125}},
          .layers = {LocalPattern{.chunk_length = 4}, LshPattern{.chunk_length = 4}}};
}

/// Patterns of every kind, with every choice there is, of causal layers or of others.
std::vector<LayerPattern> patterns(bool causal) {
  const LshPattern sorted{.chunk_length = 4, .num_hashes = 3};
  if (!causal) {
    return {LocalPattern{4, 0, 2, true},
            LshPattern{4, 2, 1, 1, {2, 4}, true},
            sorted,
            ExactPattern{.shared_query_key = true},
            {LocalPattern{4}, sorted}};
  }
  std::vector<LayerPattern> all = {sorted, LocalPattern{4, 2}};
  for (const Values values : {Values::own, Values::following, Values::mixed}) {
    all.push_back(LocalPattern{.chunk_length = 4, .values = values});
    all.push_back(ExactPattern{.shared_query_key = values == Values::mixed, .values = values});
    all.push_back(
        LshPattern{.chunk_length = 4,
                   .num_buckets = {2, 2},
                   .chunking = Chunking::bucket_chunks,
                   .duplicates = values == Values::own ? Duplicates::each_time : Duplicates::once,
                   .values = values,
                   .scores = values == Values::following ? Scores::cosine : Scores::dot_product,
                   .rotary_width = values == Values::own ? 2 : 0});
  }
  all.push_back({all[all.size() - 1].of_heads[0], all[all.size() - 3].of_heads[0]});
  return all;
}

/// Every pattern with every kind of positions and of the residual stream.
std::vector<ModelConfig> all_configs() {
  std::vector<ModelConfig> configs;
  for (const bool causal : {true, false}) {
    for (const LayerPattern& pattern : patterns(causal)) {
      for (const PositionConfig& positions :
           {PositionConfig(AxialPositions{{4, 5}, {3, 5}}), PositionConfig(LearnedPositions{17}),
            PositionConfig(SinusoidalPositions{})}) {
        const int bits = configs.size() % 4 == 0 ? 0 : 18;
        for (const ResidualConfig& residual :
             {ResidualConfig(FloatResidual{}), ResidualConfig(FixedResidual{bits})}) {
          ModelConfig config = small_model_config();
          config.causal = causal;
          config.layers = {pattern, LocalPattern{.chunk_length = 5}};
          config.positions = positions;
          config.residual = residual;
          config.activation = static_cast<Activation>(configs.size() % 3);
          config.language_head = configs.size() % 5 != 1;
          config.tied_embedding = configs.size() % 5 == 3;
          config.dropout = configs.size() % 7 < 4 ? 0.1 : 0;
          config.attention_dropout = configs.size() % 5 == 0 ? 0.2 : 0;
          config.layer_norm_epsilon = configs.size() % 3 == 0 ? 1e-12 : 0.1 + 0.2;
          configs.push_back(config);
        }
      }
    }
  }
  return configs;
}

/// Steps of training, those after `done`.
template <typename Optimizer>
void train(Model<float>& model, Optimizer& optimizer, std::int64_t done, std::int64_t steps) {
  Workspace workspace(2);
  for (std::int64_t step = done + 1; step <= done + steps; ++step) {
    const RunOptions options{.key = {1, static_cast<std::uint32_t>(step)}, .training = true};
    const Tokens tokens = random_tokens(2, 13, V, static_cast<std::uint64_t>(step));
    model.zero_gradients();
    if (model.config().language_head) {
      model.loss_and_gradients(workspace, tokens, next_token_labels(tokens), 0.04F, options);
    } else {
      model.encode_and_gradients(workspace, tokens, options, [](const Tensor<float, 3>& z) {
        return Tensor<float, 3>(z * 0.1F);
      });
    }
    optimizer.step(workspace, model, 0.01);
  }
}

std::vector<float> all_values(const Model<float>& model) {
  std::vector<float> all;
  model.for_each_parameter([&](const Parameter<float>& p) {
    all.insert(all.end(), p.value.data(), p.value.data() + p.size());
  });
  return all;
}

Model<float> random_model(const ModelConfig& config, std::uint64_t seed = 1) {
  Model<float> model(config);
  model.initialize(seed);
  return model;
}

// ---- in another process

void with_optimizer(const std::string& kind, const auto& action) {
  if (kind == "adam") {
    action(Adam<float>({.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-7, .weight_decay = 0.1}));
  } else if (kind == "adafactor") {
    action(Adafactor<float>({.decay_exponent = 0.7, .clip = INFINITY}));
  } else {
    action(Muon<float>(
        {.momentum = 0.9, .adam = {.weight_decay = 0.1}, .precision = Precision::bfloat16}));
  }
}

constexpr const char* folder_variable = "REFORMER_MODEL_FILES";

/// What the other process does: it knows nothing but the files.
TEST(ModelFile, DISABLED_GoOnWithAllOfAFolder) {
  const char* folder = std::getenv(folder_variable);
  ASSERT_NE(folder, nullptr);
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path path = entry.path();
    const auto metadata = ModelFile(path).metadata();
    Model<float> model = load_model<float>(path);
    const auto go_on = [&](auto optimizer) {
      const std::int64_t done = load_optimizer(path, model, optimizer);
      train(model, optimizer, done, 2);
      save_model(path, model, optimizer, done + 2, metadata);
    };
    const std::string& kind = metadata.at("optimizer");
    if (kind == "adam") {
      go_on(Adam<float>());
    } else if (kind == "adafactor") {
      go_on(Adafactor<float>());
    } else {
      go_on(Muon<float>());
    }
  }
}

TEST(ModelFile, AnotherProcessGoesOnWithTheSameBits) {
  const TemporaryFolder here, there;
  std::size_t count = 0;
  for (const ModelConfig& config : all_configs()) {
    for (const std::string kind : {"adam", "adafactor", "muon"}) {
      // Each with every third configuration.
      if (count % 3 != (kind == "adam" ? 0U : kind == "adafactor" ? 1U : 2U)) continue;
      with_optimizer(kind, [&](auto optimizer) {
        const std::string name = std::to_string(count);
        const std::map<std::string, std::string> metadata = {{"optimizer", kind}, {"text", "\"\n"}};
        Model<float> model = random_model(config);
        train(model, optimizer, 0, 2);
        save_model(there / name, model, optimizer, 2, metadata);
        train(model, optimizer, 2, 2);
        save_model(here / name, model, optimizer, 4, metadata);
      });
    }
    ++count;
  }
  ASSERT_EQ(setenv(folder_variable, there.path().c_str(), 1), 0);
  const std::string program = fs::read_symlink("/proc/self/exe").string();
  EXPECT_EQ(std::system(("'" + program +
                         "' --gtest_also_run_disabled_tests "
                         "--gtest_filter=ModelFile.DISABLED_GoOnWithAllOfAFolder > /dev/null")
                            .c_str()),
            0);
  ASSERT_EQ(here.names().size(), count);
  for (const std::string& name : here.names()) {
    EXPECT_TRUE(read_file(here / name) == read_file(there / name)) << name;
  }
}

// ---- what comes back

/// All fields but positions and residual, which have no comparison. That it does not compile with
/// another number of fields is a reminder to add them to model_config.hpp, too.
auto fields_of(const ModelConfig& config) {
  const auto& [vocabulary, language_head, tied_embedding, width, num_heads, head_width,
               feed_forward_width, activation, positions, ngrams, value_ngrams, causal, layers,
               dropout, attention_dropout, layer_norm_epsilon, residual] = config;
  std::vector<std::tuple<Index, Index, double>> tables;
  for (const auto& [order, rows, drop] : ngrams) tables.emplace_back(order, rows, drop);
  tables.emplace_back();
  if (value_ngrams)
    tables.emplace_back(value_ngrams->order, value_ngrams->rows, value_ngrams->dropout);
  return std::tuple(vocabulary, language_head, tied_embedding, width, num_heads, head_width,
                    feed_forward_width, activation, tables, causal, layers, dropout,
                    attention_dropout, layer_norm_epsilon, positions.index(), residual.index());
}

TEST(ModelFile, ReturnsConfigurationParametersAndMetadata) {
  const TemporaryFolder folder;
  const std::map<std::string, std::string> metadata = {{"a", "b"}, {"empty", ""}};
  for (const ModelConfig& config : all_configs()) {
    const Model<float> model = random_model(config);
    save_model(folder / "m", model, metadata);
    const ModelFile file(folder / "m");
    EXPECT_EQ(model_config_text(file.config()), model_config_text(model.config()));
    EXPECT_TRUE(fields_of(file.config()) == fields_of(config));
    EXPECT_EQ(file.metadata(), metadata);
    EXPECT_EQ(file.step(), 0);
    EXPECT_FALSE(file.has_optimizer());
    const Model<float> loaded = file.model<float>();
    EXPECT_TRUE(same_bits(all_values(loaded), all_values(model)));
    EXPECT_EQ(folder.names().size(), 1U);
  }
}

TEST(ModelFile, HoldsDoubleToo) {
  const TemporaryFolder folder;
  Model<double> model(small_model_config());
  randomize_parameters(model, 1);
  Adam<double> adam;
  adam.allocate(model);
  adam.for_each_state(model, [](const auto&, auto& state) { state.setConstant(1.0 / 3); });
  adam.steps() = 7;
  save_model(folder / "m", model, adam, 9);
  const Model<double> loaded = load_model<double>(folder / "m");
  Adam<double> other({.beta1 = 0.5});
  EXPECT_EQ(load_optimizer(folder / "m", loaded, other), 9);
  EXPECT_EQ(other.steps(), 7);
  EXPECT_EQ(other.config().beta1, AdamConfig{}.beta1);
  save_model(folder / "again", loaded, other, 9);
  EXPECT_TRUE(read_file(folder / "m") == read_file(folder / "again"));
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { load_model<float>(folder / "m"); }),
                       "'embedding.weight' is F64 [13, 8] in the file and F32 [13, 8] in the "
                       "model"));
}

TEST(ModelFile, AnOptimizerThatTookNoStepMayHaveNoState) {
  const TemporaryFolder folder;
  Model<float> model = random_model(small_model_config());
  save_model(folder / "m", model, Adafactor<float>(), 0);
  Adafactor<float> adafactor;
  train(model, adafactor, 0, 1);
  EXPECT_EQ(load_optimizer(folder / "m", model, adafactor), 0);
  EXPECT_EQ(adafactor.steps(), 0);
  adafactor.for_each_state(model, [](const std::string& name, const Matrix<float>& state) {
    EXPECT_TRUE((state.array() == 0).all()) << name;
  });
}

/// A model that is not the library's, with a parameter of its own.
struct OwnModel {
  using Scalar = float;
  Model<float> usual{small_model_config()};
  std::vector<Parameter<float>> own = {{"layers.0.gate.weight", Role::weight, 3, 5}};

  const ModelConfig& config() const { return usual.config(); }
  void for_each_parameter(const auto& f) {
    usual.for_each_parameter(f);
    for (auto& p : own) f(p);
  }
  void for_each_parameter(const auto& f) const {
    usual.for_each_parameter(f);
    for (const auto& p : own) f(p);
  }
};

TEST(ModelFile, HoldsModelsWithParametersOfTheirOwn) {
  const TemporaryFolder folder;
  OwnModel model;
  randomize_parameters(model, 1);
  Adam<float> adam;
  adam.allocate(model);
  save_model(folder / "m", std::as_const(model), adam, 3);
  OwnModel loaded;
  load_parameters(folder / "m", loaded);
  EXPECT_EQ(loaded.own[0].value, model.own[0].value);
  EXPECT_EQ(load_optimizer(folder / "m", loaded, adam), 3);
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_model<float>(folder / "m"); }),
            "'" + (folder / "m").string() +
                "' does not fit: 'layers.0.gate.weight' is unknown to the model");
  save_model(folder / "m", loaded.usual);
  const auto before = loaded.own[0].value;
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_parameters(folder / "m", loaded); }),
            "'" + (folder / "m").string() +
                "' does not fit: 'layers.0.gate.weight' is missing in the file");
  EXPECT_EQ(loaded.own[0].value, before);
}

TEST(ParameterShapes, AreTheParametersInTheirOrder) {
  for (const ModelConfig& config : all_configs()) {
    const auto shapes = parameter_shapes(config);
    std::size_t count = 0;
    Model<float>(config).for_each_parameter([&](const Parameter<float>& p) {
      ASSERT_LT(count, shapes.size());
      const ParameterShape& shape = shapes[count++];
      EXPECT_EQ(shape.name, p.name);
      EXPECT_EQ(shape.role, p.role) << p.name;
      EXPECT_EQ(shape.rows, p.value.rows()) << p.name;
      EXPECT_EQ(shape.columns, p.value.cols()) << p.name;
    });
    EXPECT_EQ(count, shapes.size());
  }
}

// ---- what does not fit

TEST(ModelFile, NoticesFlippedBytesAndOtherLengths) {
  EXPECT_EQ(crc32("123456789"), 0xcbf43926U);
  const TemporaryFolder folder;
  ModelConfig config = small_model_config();
  config.width = config.num_heads = config.head_width = config.feed_forward_width = 1;
  config.positions = SinusoidalPositions{};
  config.vocabulary = 2;
  config.layers = {ExactPattern{}};
  const Model<float> model = random_model(config);
  save_model(folder / "whole", model, Adafactor<float>(), 0, {{"key", "value"}});
  const std::string whole = read_file(folder / "whole");
  const auto error = [&](const std::string& bytes) {
    write_file(folder / "m", bytes);
    return message_of<std::runtime_error>([&] { ModelFile(folder / "m"); });
  };
  const std::string path = "'" + (folder / "m").string() + "': ";
  for (std::size_t i = 0; i < whole.size(); i += i < 1000 ? 3 : 11) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    ASSERT_EQ(error(damaged).substr(0, path.size()), path) << i;
  }
  for (std::size_t i = 0; i < whole.size(); i += 17) {
    ASSERT_EQ(error(whole.substr(0, i)).substr(0, path.size()), path) << i;
  }
  std::string damaged = whole;
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  EXPECT_TRUE(contains(error(damaged), "': is damaged: its checksum is "));
  EXPECT_TRUE(contains(error(whole + "x"), "': has 1 bytes after its last tensor"));
}

TEST(ModelFile, KeepsTheFileBeforeWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  const Model<float> model = random_model(small_model_config());
  save_model(folder / "m", model);
  const std::string before = read_file(folder / "m");
  std::string message;
  {
    const FileSizeLimit limit(1000);
    message = message_of<std::runtime_error>([&] { save_model(folder / "m", model); });
  }
  EXPECT_TRUE(contains(message, "the previous file is unchanged"));
  EXPECT_EQ(read_file(folder / "m"), before);
  EXPECT_EQ(folder.names().size(), 1U);
}

TEST(ModelFile, TakesNoMemoryForAModelThatTheFileDoesNotHold) {
  const TemporaryFolder folder;
  ModelConfig config = small_model_config();
  OwnModel model;
  randomize_parameters(model, 1);
  detail::OutgoingModel outgoing(std::as_const(model.usual), 0, {});
  config.vocabulary = max_size;  // 64 GiB of embedding
  outgoing.metadata["reformer.config"] = model_config_text(config);
  outgoing.write(folder / "m");
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { load_model<float>(folder / "m"); }),
                       "'embedding.weight' is F32 [13, 8] in the file and F32 [2147483647, 8] in "
                       "the model"));
}

// ---- the configuration

TEST(ModelConfigText, RefusesWhatItDoesNotKnow) {
  ModelConfig config = small_model_config();
  config.layers = {LshPattern{4, 1, 0, 2, {2, 4}}, LocalPattern{4}};
  config.residual = FixedResidual{};
  const std::string text = model_config_text(config);
  const auto error = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    const auto at = changed.find(from);
    EXPECT_NE(at, changed.npos) << from;
    changed.replace(at, from.size(), to);
    return message_of<std::runtime_error>([&] { parse_model_config(changed); });
  };
  EXPECT_EQ(error("\"width\":8,", ""), "config has no width");
  EXPECT_EQ(error("\"width\"", "\"widht\""), "config has no width");
  EXPECT_EQ(error("\"width\":8", "\"width\":8,\"w\\ni\":8"),
            "config has the unknown field 'w\\x0ai'");
  EXPECT_EQ(error("\"width\":8", "\"width\":8.5"),
            "config has width 8.5, must be a whole number of 64 bits");
  EXPECT_EQ(error("\"width\":8", "\"width\":9223372036854775808"),
            "config has width 9223372036854775808, must be a whole number of 64 bits");
  EXPECT_EQ(error("\"width\":8", "\"width\":-8"),
            "config is of no possible model: reformer::config: width is -8, must be at least 1");
  EXPECT_EQ(error("\"causal\":true", "\"causal\":1"), "config has causal 1, must be true or false");
  EXPECT_EQ(error("\"dropout\":0.0", "\"dropout\":\"nan\""),
            "config has dropout \"nan\", must be a number");
  EXPECT_TRUE(contains(error("\"dropout\":0.0", "\"dropout\":\"infinity\""), "dropout is inf"));
  EXPECT_TRUE(contains(error("\"relu\"", "\"tanh\""),
                       "config has activation \"tanh\", must be relu or gelu or "));
  EXPECT_EQ(error("\"kind\":\"lsh\",", ""), "config: layers[0] has no kind");
  EXPECT_EQ(error("\"kind\":\"lsh\"", "\"kind\":7"), "config: layers[0] has kind 7, must be text");
  EXPECT_EQ(error("\"kind\":\"local\"", "\"kind\":\"lxcal\""),
            "config: layers[1] has kind \"lxcal\", must be lsh or local or exact");
  EXPECT_EQ(error("\"circular\":false", "\"round\":false"), "config: layers[1] has no circular");
  EXPECT_EQ(error("\"circular\":false", "\"circular\":false,\"num_hashes\":2"),
            "config: layers[1] has the unknown field 'num_hashes'");
  EXPECT_EQ(error("[2,4]", "[2,true]"),
            "config: layers[0] has num_buckets[1] true, must be a whole number of 64 bits");
  EXPECT_TRUE(contains(error("[2,4]", "[2,3]"), "layers[0]: num_buckets has the factor 3"));
  EXPECT_EQ(error("[4,5]", "[4]"),
            "config is of no possible model: reformer::config: the number of factors of "
            "AxialPositions::shape is 1, must be at least 2");
  EXPECT_EQ(error("\"fraction_bits\":0", "\"fraction_bits\":4294967296"),
            "config: residual has fraction_bits 4294967296, must be a whole number of 32 bits");
  EXPECT_EQ(error("{\"kind\":\"fixed\",\"fraction_bits\":0}", "[]"),
            "config: residual is [], must be an object");
  EXPECT_EQ(message_of<std::runtime_error>([&] { parse_model_config("[]"); }),
            "config is not a JSON object: it does not begin with {");
}

TEST(ModelConfigText, OfTheFirstFilesMeansTheDefaults) {
  ModelConfig config = small_model_config();
  config.ngrams.clear();
  config.value_ngrams.reset();
  Json fields = Json::parse(model_config_text(config));
  ASSERT_EQ(fields.erase("ngrams"), 1U);
  ASSERT_EQ(fields.erase("tied_embedding"), 1U);
  ASSERT_EQ(fields.erase("value_ngrams"), 1U);
  for (auto& layer : fields["layers"]) {
    ASSERT_EQ(layer.erase("scores"), 1U);
    ASSERT_EQ(layer.erase("rotary_width"), 1U);
  }
  EXPECT_EQ(model_config_text(parse_model_config(fields.dump())), model_config_text(config));
  ASSERT_EQ(fields["layers"][0].erase("values"), 1U);
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { parse_model_config(fields.dump()); }),
                       "has no values"));
}

TEST(ModelHeader, OfTheFirstFilesMeansTheDefaults) {
  const TemporaryFolder folder;
  const Model<float> model = random_model(small_model_config());
  save_model(folder / "m", model, Muon<float>({.momentum = 0.5}), 5);
  auto metadata = SafetensorsFile(folder / "m").metadata();
  Json fields = Json::parse(metadata.at("reformer.optimizer"));
  ASSERT_EQ(fields["config"].erase("precision"), 1U);
  ASSERT_EQ(fields["config"].erase("ngram_rate"), 1U);
  metadata["reformer.optimizer"] = fields.dump();
  const auto header = detail::parse_model_header(metadata);
  const auto& muon = std::get<MuonConfig>(header.optimizer.value().config);
  EXPECT_EQ(muon.momentum, 0.5);
  EXPECT_EQ(muon.precision, Precision::float32);
  EXPECT_EQ(muon.adam.ngram_rate, MuonConfig().adam.ngram_rate);
}

TEST(ModelHeader, RefusesWhatItDoesNotKnow) {
  const TemporaryFolder folder;
  const Model<float> model = random_model(small_model_config());
  save_model(folder / "m", model, Adam<float>(), 5);
  const auto metadata = SafetensorsFile(folder / "m").metadata();
  const auto error = [&](const char* key, const char* value) {
    auto changed = metadata;
    if (value == nullptr) {
      changed.erase(key);
    } else {
      changed[key] = value;
    }
    return message_of<std::runtime_error>([&] { detail::parse_model_header(changed); });
  };
  const std::string steps = "', must be whole, in [0, 2^63 - 1)";
  EXPECT_EQ(detail::parse_model_header(metadata).step, 5);
  EXPECT_EQ(error("reformer.format", nullptr),
            "is no model of this library: its metadata have no reformer.format");
  EXPECT_EQ(error("reformer.format", "2"), "has reformer.format '2', must be '1'");
  EXPECT_EQ(error("reformer.config", nullptr), "has no reformer.config in its metadata");
  EXPECT_EQ(error("reformer.config", "{}"), "config has no vocabulary");
  for (const char* step : {"nan", "-1", "", "1.0", "01", "9223372036854775807", "1 "}) {
    EXPECT_EQ(error("reformer.step", step), std::string("has reformer.step '") + step + steps);
  }
  EXPECT_EQ(error("reformer.checksum", "C0FFEE00"),
            "has reformer.checksum 'C0FFEE00', must be eight hexadecimal digits");
  EXPECT_EQ(error("reformer.else", ""), "has the unknown key 'reformer.else' in its metadata");
  EXPECT_EQ(error("reformer.optimizer", "{\"steps\":null}"),
            "optimizer has steps null, must be a whole number of 64 bits");
  EXPECT_EQ(error("reformer.optimizer", "{\"steps\":-1,\"config\":{\"kind\":\"sgd\"}}"),
            "optimizer: config has kind \"sgd\", must be adam or adafactor or muon");
  const std::string adam =
      "\"config\":{\"kind\":\"adam\",\"beta1\":0.9,\"beta2\":0.9,"
      "\"epsilon\":1e-8,\"weight_decay\":0}";
  EXPECT_EQ(error("reformer.optimizer", ("{\"steps\":-1," + adam + "}").c_str()),
            "optimizer has steps -1, must be in [0, 2^63 - 1)");
  EXPECT_EQ(error("reformer.optimizer", ("{\"steps\":1,\"x\":1," + adam + "}").c_str()),
            "optimizer has the unknown field 'x'");
}

// ---- what the README shows

TEST(ModelFile, TheReadmeShowsThis) {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  Model<float> model = random_model(small_model_config());
  Model<float> own_model = random_model(small_model_config(), 2);
  Adam<float> adam;
  const std::int64_t step = 4;
  train(model, adam, 0, step);
  // clang-format off
  // README: begin
  save_model("run.safetensors", model, adam, step, {{"data", "enwik8"}});  // replaces the file in one step

  Model<float> loaded = load_model<float>("run.safetensors");  // whatever its configuration is
  Adam<float> its_adam;
  std::int64_t done = load_optimizer("run.safetensors", loaded, its_adam);  // from here, the same bits

  load_parameters("run.safetensors", own_model);  // into a model that you have built
  // README: end
  // clang-format on
  fs::current_path(before);
  train(model, adam, step, 1);
  train(loaded, its_adam, done, 1);
  EXPECT_TRUE(same_bits(all_values(loaded), all_values(model)));
  EXPECT_FALSE(same_bits(all_values(own_model), all_values(model)));
  train(own_model, adam, step, 1);

  const fs::path root = fs::path(TEST_DATA) / "../..";
  const std::string source = read_file(root / "tests/io/model_file_test.cpp");
  const std::string begin = "// README: begin\n", end = "  // README: end\n";
  const auto from = source.find(begin) + begin.size();
  std::string shown;
  std::istringstream lines(source.substr(from, source.find(end, from) - from));
  for (std::string line; std::getline(lines, line);) {
    shown += line.substr(std::min<std::size_t>(line.size(), 2)) + "\n";
  }
  EXPECT_TRUE(contains(read_file(root / "README.md"), "\n" + shown + "```"));
}

}  // namespace
}  // namespace reformer::test
