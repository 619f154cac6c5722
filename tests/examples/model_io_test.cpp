// SPDX-License-Identifier: MIT
#include "enwik8/model_io.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "enwik8/windows.hpp"
#include "examples/run.hpp"
#include "reformer/operations/cross_entropy.hpp"
#include "training/model_config.hpp"

namespace enwik8::test {
namespace {

Options tiny_options(const Strings& more = {}) {
  return parse_options(Strings{"--positions",    "axial", "--length",    "32",
                               "--width",        "16",    "--heads",     "2",
                               "--chunk-length", "8",     "--layers",    "local,lsh,exact",
                               "--batch",        "2",     "--threads",   "1",
                               "--ngram-rows",   "64",    "--optimizer", "adam",
                               "--value-ngrams", "2"} +
                       more)
      .options;
}

Windows some_windows(std::int64_t length = 32) {
  std::vector<std::uint8_t> text(500);
  std::iota(text.begin(), text.end(), std::uint8_t{3});
  return TrainingWindows(text, Text(text).whole(), length, 1).of(0, 2);
}

std::vector<float> values_of(const std::vector<NamedValues>& parameters) {
  std::vector<float> values;
  for (const NamedValues& parameter : parameters) {
    values.insert(values.end(), parameter.values.begin(), parameter.values.end());
  }
  return values;
}

TEST(TokenModel, DoesNotSeePadding) {
  // Pairs of windows of different lengths, side by side, are what they are alone.
  const Options options = tiny_options({"--hashes", "3", "--buckets", "4"});
  TokenModel model(options, vocabulary, TokenModel::Use::training);
  model.initialize();
  Windows both = some_windows();
  const auto alone = [&](std::int64_t window, std::int64_t length) {
    const auto begin = window * both.length;
    Windows one{.count = 1, .length = length, .inputs = {}, .labels = {}, .lengths = {}};
    one.inputs.assign(both.inputs.begin() + begin, both.inputs.begin() + begin + length);
    one.labels.assign(both.labels.begin() + begin, both.labels.begin() + begin + length);
    std::vector<double> losses;
    model.evaluate(one, &losses);
    return losses;
  };
  const std::vector<double> whole = alone(0, 32), part = alone(1, 13);
  both.lengths = {32, 13};
  std::fill(both.inputs.begin() + 32 + 13, both.inputs.end(), 0);
  std::fill(both.labels.begin() + 32 + 13, both.labels.end(), reformer::ignored_label);
  std::vector<double> losses;
  const double sum = model.evaluate(both, &losses).nats;
  EXPECT_TRUE(std::equal(whole.begin(), whole.end(), losses.begin()));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), losses.begin() + 32));
  // Neither has padding a gradient: in training, the loss is the same sum, and what stands in
  // padded places makes no difference.
  const auto gradient_norm = [&] {
    const auto loss = model.accumulate([&](std::int64_t) { return both; }, 1, 1);
    EXPECT_NEAR(loss[0].nats, sum, 0.05 * sum);  // other rotations
    return model.gradient_norm();
  };
  const double norm = gradient_norm();
  std::fill(both.inputs.begin() + 32 + 13, both.inputs.end(), 77);
  EXPECT_EQ(gradient_norm(), norm);
  both.lengths.clear();
  EXPECT_NE(gradient_norm(), norm);
}

TEST(TokenModel, StartsNearEightBitsAndLearns) {
  for (const char* optimizer : {"adam", "adafactor"}) {
    TokenModel model(tiny_options({"--optimizer", optimizer}), vocabulary,
                     TokenModel::Use::training);
    model.initialize();
    const Windows windows = some_windows();
    const double before = model.evaluate(windows).bits_per_byte();
    EXPECT_NEAR(before, 8, 0.2);
    for (std::int64_t step = 1; step <= 10; ++step) {
      const auto losses = model.accumulate([&](std::int64_t) { return windows; }, 1.0 / 64, step);
      ASSERT_EQ(losses.size(), 1u);
      EXPECT_EQ(losses[0].bytes, 64);
      EXPECT_GT(model.gradient_norm(), 0);
      model.step(0.01, 1);
    }
    EXPECT_LT(model.evaluate(windows).bits_per_byte(), before - 0.1) << optimizer;
    EXPECT_FALSE(model.not_finite_tensor());
  }
}

TEST(TokenModel, FollowsEveryOptionOfItsShape) {
  const std::vector<std::pair<Strings, std::int64_t>> cases{
      {{}, 0},
      // 32 positions of 16 numbers instead of 4 of 4 and 8 of 12.
      {{"--positions", "learned"}, 32 * 16 - (4 * 4 + 8 * 12)},
      {{"--positions", "sinusoidal"}, -(4 * 4 + 8 * 12)},
      // Weight and bias of one hidden unit in each of three layers.
      {{"--ff-width", "65"}, 3 * (2 * 16 + 1)},
      // Both heads in three layers; queries and keys are one in the layer that hashes, and the
      // others have a table of 64 rows for values.
      {{"--head-width", "9"}, 2 * 16 * (4 + 3 + 4) + 2 * 64 * 2},
      {{"--layers", "local,lsh,lsh"}, -16 * 16 - 64 * 16},
      {{"--value-ngrams", "0"}, -2 * 64 * 16},
      {{"--embedding", "tied"}, -2 * 16 * vocabulary},  // the head's weights of both halves
      {{"--layers", "local,lsh+local,exact"}, 16 * 8},  // keys of one of two heads
      {{"--activation", "relu", "--hashes", "3", "--buckets", "4"}, 0}};
  const std::int64_t plain =
      TokenModel(tiny_options(), vocabulary, TokenModel::Use::training).num_parameters();
  for (const auto& [more, difference] : cases) {
    TokenModel model(tiny_options(more), vocabulary, TokenModel::Use::training);
    EXPECT_EQ(model.num_parameters() - plain, difference) << testing::PrintToString(more);
    model.initialize();
    EXPECT_TRUE(std::isfinite(model.evaluate(some_windows()).nats));
  }
}

TEST(TokenModel, LeavesOutAllVectorsOfNgramsAlike) {
  const reformer::ModelConfig config =
      training::config_of(tiny_options({"--ngrams", "2,3", "--ngram-dropout", "0.25"}), vocabulary);
  ASSERT_EQ(config.ngrams.size(), 2U);
  EXPECT_EQ(config.ngrams[0].dropout, 0.25);
  EXPECT_EQ(config.ngrams[1].dropout, 0.25);
  ASSERT_TRUE(config.value_ngrams);
  EXPECT_EQ(config.value_ngrams->dropout, 0.25);
}

TEST(TokenModel, TheSeedDecidesTheParameters) {
  const auto initial = [](const Strings& more) {
    TokenModel model(tiny_options(more), vocabulary, TokenModel::Use::generation);
    model.initialize();
    return values_of(model.parameters());
  };
  EXPECT_EQ(initial({}), initial({"--seed", "1"}));
  EXPECT_NE(initial({}), initial({"--seed", "2"}));
  for (const char* option : {"--init-weights", "--init-embedding", "--init-positions"}) {
    EXPECT_NE(initial({}), initial({option, "0.7"})) << option;
  }
}

TEST(TokenModel, ForecastsItsMemory) {
  const auto bytes = [](const Strings& more, const std::string& purpose) {
    const MemoryForecast forecast =
        TokenModel(tiny_options(more), vocabulary, TokenModel::Use::training).memory_forecast();
    for (const auto& [name, size] : forecast.parts) {
      if (name == purpose) {
        return size;
      }
    }
    return std::size_t{0};
  };
  const auto parameters = static_cast<std::size_t>(
      TokenModel(tiny_options(), vocabulary, TokenModel::Use::training).num_parameters());
  EXPECT_EQ(bytes({}, "parameters"), 4 * parameters);
  EXPECT_EQ(bytes({}, "optimizer"), 8 * parameters);
  const std::size_t by_muon = bytes({"--optimizer", "muon"}, "optimizer");
  EXPECT_GT(by_muon, 4 * parameters) << "one matrix of each hidden weight, two of the rest";
  EXPECT_LT(by_muon, 8 * parameters);
  const std::size_t factored = bytes({"--optimizer", "adafactor"}, "optimizer");
  EXPECT_GT(factored, 0u);
  EXPECT_LT(factored, parameters);
  EXPECT_EQ(bytes({}, "residual halves"), 4u * 4 * 2 * 32 * 16);
  EXPECT_GT(bytes({}, "scratch"), 0u);

  const MemoryForecast forecast{{{"one", 1500}, {"other", 500}}};
  EXPECT_EQ(forecast.total(), 2000u);
  EXPECT_EQ(forecast.text(), "2.00 kB: one 1.50 kB, other 500 bytes");
}

TEST(TokenModel, LooksBackOneWindowAtMost) {
  for (const char* layers : {"local,lsh,exact", "local,bucket,exact", "local,local+bucket,exact"}) {
    TokenModel model(tiny_options({"--layers", layers}), vocabulary, TokenModel::Use::generation);
    model.initialize();
    std::vector<std::uint8_t> prompt(40, 'a');
    const auto written = [&] {
      std::vector<std::uint8_t> text;
      write_text(model, prompt, 100, {.temperature = 0.02}, 1, [&](std::uint8_t byte) {
        text.push_back(byte);
        return text.size() < 90;
      });
      EXPECT_EQ(text.size(), 90u);
      return text;
    };
    const auto text = written();
    const auto logits = next_byte_logits(model, prompt);
    prompt[7] = 'b';
    EXPECT_EQ(written(), text) << layers << ", 33 bytes back";
    EXPECT_EQ(next_byte_logits(model, prompt), logits) << layers << ", 33 bytes back";
    prompt[8] = 'b';
    EXPECT_NE(next_byte_logits(model, prompt), logits) << layers << ", 32 bytes back";
    prompt[39] = 'b';  // what is further back hardly matters before training
    EXPECT_NE(written(), text) << layers << ", the last byte";
  }
}

TEST(TokenModel, NamesWhereItCeasesToBeFinite) {
  const Windows windows = some_windows();
  const auto spoil = [&](const std::string& name) {
    TokenModel model(tiny_options(), vocabulary, TokenModel::Use::training);
    model.initialize();
    for (const NamedValues& parameter : model.parameters()) {
      if (parameter.name == name) {
        std::fill(parameter.values.begin(), parameter.values.end(),
                  std::numeric_limits<float>::quiet_NaN());
        EXPECT_EQ(model.not_finite_tensor(), name);
        const auto losses = model.accumulate([&](std::int64_t) { return windows; }, 1, 1);
        EXPECT_FALSE(std::isfinite(losses.at(0).nats));
        return model.first_not_finite(windows, 1);
      }
    }
    return "no tensor is called " + name;
  };
  EXPECT_EQ(spoil("embedding.weight"), "in the embedding");
  EXPECT_EQ(spoil("layers.0.attention.output.weight"), "in layer 0 (local)");
  EXPECT_EQ(spoil("layers.1.feed_forward.layer_norm.weight"), "in layer 1 (lsh)");
  // Nothing before the head is spoiled; the gradient of what comes last is named.
  EXPECT_TRUE(contains(spoil("head.bias"), "head"));
}

TEST(TokenModel, RefusesWhatIsNotPossible) {
  Options options = tiny_options();
  options.width = 0;
  EXPECT_TRUE(contains(message_of<std::invalid_argument>(
                           [&] { TokenModel(options, vocabulary, TokenModel::Use::training); }),
                       "width"));
}

}  // namespace
}  // namespace enwik8::test
