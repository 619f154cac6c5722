// SPDX-License-Identifier: MIT
/// Training steps of the model: the same bits on any number of threads, and memory that does not
/// grow with depth.
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "model/tiny_model.hpp"
#include "reformer/model/model.hpp"
#include "reformer/training/adam.hpp"
#include "support/compare.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// Large enough that every loop has several tasks, and exact attention several tiles.
ModelConfig busy_config() {
  ModelConfig config = tiny_config();
  config.vocabulary = 300;
  config.width = 24;
  config.head_width = 16;
  config.feed_forward_width = 300;
  config.positions = AxialPositions{{16, 20}, {8, 16}};
  config.layers = {LocalPattern{16, 1, 1, true}, LshPattern{16, 1, 0, 2, {8, 4}},
                   ExactPattern{true}, LshPattern{32, 1, 1, 1, {}}, ExactPattern{false}};
  config.causal = false;
  config.dropout = config.attention_dropout = 0.1;
  return config;
}

/// What some training steps of a new model leave.
struct Trained {
  std::vector<double> losses, gradients, parameters;
};

Trained train(Workspace& workspace, Model<float>& model, Index batch, Index length, int steps) {
  model.initialize(1, {.axial_positions = 0.1});
  Adam<float> adam;
  const Tokens tokens = random_tokens(batch, length, model.config().vocabulary, 2);
  const Tokens labels = next_token_labels(tokens);
  std::vector<std::uint8_t> is_real(static_cast<std::size_t>(batch * length), 1);
  for (Index t = length - 10; t < length; ++t) is_real[static_cast<std::size_t>(t)] = 0;
  Trained result;
  for (int step = 0; step < steps; ++step) {
    model.zero_gradients();
    const Loss loss = model.loss_and_gradients(
        workspace, tokens, labels, 1.0F / static_cast<float>(batch * length),
        {.key = {3, static_cast<std::uint32_t>(step)}, .training = true, .is_real = is_real});
    result.losses.push_back(loss.sum);
    const auto gradients = gradients_of(model);
    result.gradients.insert(result.gradients.end(), gradients.begin(), gradients.end());
    adam.step(workspace, model, 1e-2);
  }
  result.parameters = values_of(model);
  return result;
}

void expect_same(const Trained& actual, const Trained& expected, const std::string& what) {
  EXPECT_TRUE(same_bits(actual.losses, expected.losses)) << what << ", losses";
  EXPECT_TRUE(same_bits(actual.gradients, expected.gradients)) << what << ", gradients";
  EXPECT_TRUE(same_bits(actual.parameters, expected.parameters)) << what << ", parameters";
}

TEST(TrainingStep, GivesTheSameBitsForAnyNumberOfThreads) {
  Workspace single(1);
  Model<float> model(busy_config());
  const Trained expected = train(single, model, 2, 311, 3);
  ASSERT_NE(expected.losses[0], expected.losses[2]);
  for (const int threads : thread_counts) {
    Workspace workspace(threads);
    Model<float> other(busy_config());
    expect_same(train(workspace, other, 2, 311, 3), expected, std::to_string(threads) + " threads");
  }
}

TEST(TrainingStep, DoesNotDependOnWhatRanBefore) {
  Workspace workspace(2);
  Model<float> model(busy_config());
  const Trained expected = train(workspace, model, 2, 311, 1);
  expect_same(train(workspace, model, 2, 311, 1), expected, "again");
  train(workspace, model, 3, 40, 1);  // other shapes for all that is kept
  expect_same(train(workspace, model, 2, 311, 1), expected, "after other shapes");
}

TEST(TrainingStep, LowersTheLossOfAFixedBatch) {
  ModelConfig config = tiny_config();
  config.feed_forward_width = 32;
  Model<float> model(config);
  model.initialize(1, {.weights = 0.1, .axial_positions = 0.1});
  Workspace workspace(1);
  Adam<float> adam;
  const Tokens tokens = random_tokens(4, 33, config.vocabulary, 2);
  const Tokens labels = next_token_labels(tokens);
  std::vector<double> losses;
  for (int step = 0; step < 10; ++step) {
    model.zero_gradients();
    // One key for all steps: rotations stay, and the loss is one function.
    const Loss loss = model.loss_and_gradients(workspace, tokens, labels, 1.0F / 128, {.key = {3}});
    ASSERT_EQ(loss.count, 128);
    losses.push_back(loss.mean());
    adam.step(workspace, model, 3e-3);
  }
  // A new model knows nothing: log(11) = 2.398.
  EXPECT_NEAR(losses.front(), 2.398, 0.2);
  for (std::size_t i = 1; i < losses.size(); ++i) {
    EXPECT_LT(losses[i], losses[i - 1]) << "step " << i;
  }
  EXPECT_LT(losses.back(), losses.front() - 0.1);
}

/// Peak of the workspace over a training step, and what was predicted.
std::pair<std::size_t, std::size_t> measured_and_planned(const ModelConfig& config, Index batch,
                                                         Index length, int threads) {
  Model<float> model(config);
  model.initialize(1);
  model.zero_gradients();
  Workspace workspace(threads);
  const Tokens tokens = random_tokens(batch, length, config.vocabulary, 2);
  model.loss_and_gradients(workspace, tokens, next_token_labels(tokens), 1e-3F, {.training = true});
  EXPECT_EQ(workspace.bytes_in_use(), 0u);
  return {workspace.peak_bytes(), model.plan(batch, length, threads).scratch};
}

std::size_t peak_of(const ModelConfig& config, Index batch, Index length) {
  return measured_and_planned(config, batch, length, 2).first;
}

TEST(TrainingStep, TakesNoMoreScratchForMoreLayers) {
  std::vector<std::size_t> peaks;
  for (const std::size_t depth : {2U, 6U, 12U}) {
    ModelConfig config = busy_config();
    config.layers.clear();
    for (std::size_t i = 0; i < depth; ++i) {
      if (i % 2 == 0) {
        config.layers.push_back(LocalPattern{16, 1, 0, false});
      } else {
        config.layers.push_back(LshPattern{16, 1, 0, 2, {8, 4}});
      }
    }
    peaks.push_back(peak_of(config, 2, 200));
  }
  EXPECT_GT(peaks[0], 0u);
  EXPECT_EQ(peaks[1], peaks[0]);
  EXPECT_EQ(peaks[2], peaks[0]);
}

TEST(TrainingStep, TakesScratchLinearInLength) {
  // Few and narrow layers with wide heads: from 8192 tokens on, a group is one head of one
  // sequence, and its arrays are much larger than panels and tiles.
  for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
           LocalPattern{16, 1, 0, false}, LshPattern{16, 1, 0, 2, {32, 8}}}) {
    ModelConfig config = tiny_config();
    config.width = 4;
    config.head_width = 64;
    config.feed_forward_width = 4;
    config.positions = SinusoidalPositions{};
    config.layers = {pattern};
    const auto [shorter, planned] = measured_and_planned(config, 1, 8192, 2);
    EXPECT_EQ(shorter, planned);
    const double ratio =
        static_cast<double>(peak_of(config, 1, 16384)) / static_cast<double>(shorter);
    EXPECT_GT(ratio, 1.9);
    EXPECT_LT(ratio, 2.1);
    // Another sequence is worked on after the first, so it takes nothing.
    EXPECT_EQ(peak_of(config, 2, 8192), shorter);
  }
}

TEST(TrainingStep, TakesTheScratchThatWasPlanned) {
  for (const int threads : {1, 3}) {
    for (const auto& [batch, length] :
         std::vector<std::pair<Index, Index>>{{1, 1}, {2, 37}, {3, 301}}) {
      for (const AttentionPattern& pattern : busy_config().layers) {
        for (const double dropout : {0.0, 0.1}) {
          ModelConfig config = busy_config();
          config.layers = {pattern};
          config.dropout = config.attention_dropout = dropout;
          const auto [measured, planned] = measured_and_planned(config, batch, length, threads);
          EXPECT_EQ(measured, planned)
              << "layer kind " << pattern.index() << ", B=" << batch << " T=" << length
              << ", dropout " << dropout << ", " << threads << " threads";
        }
      }
    }
  }
}

TEST(TrainingStep, PlansWhatIsKept) {
  ModelConfig config = busy_config();
  Model<float> model(config);
  const Index batch = 2, length = 70;
  const MemoryPlan plan = model.plan(batch, length, 1);
  const auto floats = [](Index n) { return sizeof(float) * static_cast<std::size_t>(n); };
  EXPECT_EQ(plan.parameters, floats(model.num_parameters()));
  EXPECT_EQ(plan.gradients, floats(model.num_parameters()));
  EXPECT_EQ(plan.residual_halves, floats(4 * batch * length * config.width));
  // Two hashed layers, of two rounds and of one.
  EXPECT_EQ(plan.bucket_ids,
            sizeof(Bucket) * static_cast<std::size_t>(batch * length * 2 * (2 + 1)));
  EXPECT_EQ(plan.total(), plan.parameters + plan.gradients + plan.residual_halves +
                              plan.bucket_ids + plan.scratch);
}

}  // namespace
}  // namespace reformer::test
