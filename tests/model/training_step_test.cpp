// SPDX-License-Identifier: MIT
/// Training steps of the model: the same bits on any number of threads and with any memory budget,
/// and memory that does not grow with depth.
#include <gtest/gtest.h>
#include <malloc.h>

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "model/tiny_model.hpp"
#include "reformer/model/model.hpp"
#include "reformer/training/adam.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/random_data.hpp"

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define __SANITIZE_ADDRESS__ 1  // what gcc defines
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();  // gcc lacks the header
#endif

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
  config.layers = {LocalPattern{16, 1, 1, true},
                   LshPattern{16, 1, 0, 2, {8, 4}},
                   ExactPattern{true},
                   LshPattern{32, 1, 1, 1, {}},
                   ExactPattern{false},
                   LshPattern{16, 1, 1, 2, {8}, false, Chunking::bucket_chunks},
                   LshPattern{8, 2, 0, 3, {4, 2}, false, Chunking::bucket_chunks, Duplicates::once},
                   {LshPattern{16, 1, 0, 2, {8, 4}}, LocalPattern{16, 1, 1, true}}};
  config.causal = false;
  config.dropout = config.attention_dropout = 0.1;
  return config;
}

constexpr std::size_t everything = std::numeric_limits<std::size_t>::max();

/// What some training steps of a new model leave.
struct Trained {
  std::vector<double> losses, gradients, parameters;
};

Trained train(Workspace& workspace, Model<float>& model, Index batch, Index length, int steps,
              std::size_t memory_budget = 0, Precision precision = Precision::float32) {
  model.initialize(1, {.axial_positions = 0.1});
  Adam<float> adam;
  const Tokens tokens = random_tokens(batch, length, model.config().vocabulary, 2);
  const Tokens labels = next_token_labels(tokens);
  std::vector<std::uint8_t> is_real(static_cast<std::size_t>(batch * length), 1);
  for (Index t = length - 10; t < length; ++t) is_real[static_cast<std::size_t>(t)] = 0;
  Trained result;
  for (int step = 0; step < steps; ++step) {
    model.zero_gradients();
    const Loss loss = model.loss_and_gradients(workspace, tokens, labels,
                                               1.0F / static_cast<float>(batch * length),
                                               {.key = {3, static_cast<std::uint32_t>(step)},
                                                .training = true,
                                                .is_real = is_real,
                                                .memory_budget = memory_budget,
                                                .precision = precision});
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

TEST(TrainingStep, InFixedPointNeitherThreadsNorMemoryChangeABit) {
  ModelConfig config = busy_config();
  config.residual = FixedResidual{};
  Workspace single(1);
  Model<float> model(config);
  const Trained expected = train(single, model, 2, 150, 2);
  const std::size_t all = model.plan(2, 150, 1, everything).stored;
  int threads = 0;
  for (const std::size_t budget : {all / 5, all / 2, all - 1, everything}) {
    Workspace workspace(++threads);
    Model<float> other(config);
    // The budget is that of a pass: before and after it, everything is as without.
    expect_same(train(workspace, other, 2, 150, 2, budget), expected,
                reformer::detail::join(threads, " threads, budget ", budget));
    expect_same(train(workspace, other, 2, 150, 2), expected, "and without a budget again");
  }
}

/// Gives a part its weights when they are asked for, and takes its gradients when they are said to
/// be complete; both are spoiled before and after.
class Courier : public PassObserver {
 public:
  explicit Courier(Model<float>& model) : model_(model) {
    for (Index part = 0; part < model.num_parts(); ++part) {
      parts_.emplace_back();
      model.for_each_parameter_of(part, [&](Parameter<float>& p) {
        parts_.back().push_back(&p);
        weights_[&p] = p.value;
        if (part > 0) p.value.setConstant(std::nanf(""));
      });
    }
  }

  void before_forward(Index part) override {
    EXPECT_EQ(part, next_forward_++);
    for (auto* p : parts_.at(static_cast<std::size_t>(part))) p->value = weights_.at(p);
  }
  void after_backward(Index part) override {
    EXPECT_EQ(part, next_forward_ - ++backward_);
    for (auto* p : parts_.at(static_cast<std::size_t>(part))) {
      gradients_[p] = p->gradient;
      p->gradient.setConstant(std::nanf(""));
      p->value.setConstant(std::nanf(""));
    }
  }
  /// All of the pass, in the order of the model's parameters.
  std::vector<double> gradients() const {
    EXPECT_EQ(next_forward_, model_.num_parts());
    EXPECT_EQ(backward_, model_.num_parts());
    std::vector<double> all;
    model_.for_each_parameter([&](const Parameter<float>& p) {
      const Matrix<float>& gradient = gradients_.at(&p);
      all.insert(all.end(), gradient.data(), gradient.data() + gradient.size());
    });
    return all;
  }

 private:
  Model<float>& model_;
  std::vector<std::vector<Parameter<float>*>> parts_;
  std::map<const Parameter<float>*, Matrix<float>> weights_, gradients_;
  Index next_forward_ = 0, backward_ = 0;
};

TEST(TrainingStep, TellsWhichWeightsItNeedsAndWhichGradientsAreComplete) {
  const Tokens tokens = random_tokens(2, 44, 11, 5);
  const RunOptions options{.key = {3}, .training = true};
  for (const int branches : {1, 2, 3}) {
    for (const bool encodes : {false, true}) {
      const auto pass = [&](Model<float>& model, PassObserver* observer) {
        Workspace workspace(2);
        if (encodes) {
          model.encode_and_gradients(
              workspace, tokens, options, [](const auto& z) { return z; }, nullptr, observer);
        } else {
          model.loss_and_gradients(workspace, tokens, next_token_labels(tokens), 1, options,
                                   nullptr, observer);
        }
      };
      const ModelConfig config = tiny_config();
      Model<float> model(config, layers_of<float>(branches, config.width));
      model.initialize(1);
      model.zero_gradients();
      pass(model, nullptr);
      const std::vector<double> expected = gradients_of(model);
      model.zero_gradients();
      Courier courier(model);
      pass(model, &courier);
      EXPECT_TRUE(same_bits(courier.gradients(), expected)) << branches << " branches";
    }
  }
}

TEST(TrainingStep, InEachPrecisionIsUndoneExactlyAndPlannedByAnyNumberOfThreads) {
  ModelConfig config = busy_config();
  config.residual = FixedResidual{};
  std::vector<double> losses;
  for (const Precision precision : precisions) {
    Workspace single(1);
    Model<float> model(config);
    // What a budget saves from being computed again is what would have been computed.
    const Trained expected = train(single, model, 2, 150, 2, everything, precision);
    losses.push_back(expected.losses[1]);
    for (const int threads : thread_counts) {
      Workspace workspace(threads);
      const std::string what =
          reformer::detail::join(name_of(precision), ", ", threads, " threads");
      expect_same(train(workspace, model, 2, 150, 2, 0, precision), expected, what);
      EXPECT_EQ(workspace.peak_bytes(), model.plan(2, 150, threads, 0, precision).workspace())
          << what;
    }
  }
  // Without dropout gradients are read where they are.
  config.dropout = config.attention_dropout = 0;
  for (const Precision precision : precisions) {
    Model<float> model(config);
    Workspace workspace(2);
    train(workspace, model, 2, 150, 1, 0, precision);
    EXPECT_EQ(workspace.peak_bytes(), model.plan(2, 150, 2, 0, precision).workspace())
        << name_of(precision) << " without dropout";
  }
  EXPECT_NE(losses[1], losses[0]);
  EXPECT_NE(losses[2], losses[0]);
  EXPECT_NEAR(losses[1] / losses[0], 1, 1e-4);
  EXPECT_NEAR(losses[2] / losses[0], 1, 1e-2);
}

TEST(TrainingStep, OfLayersOfOtherBranchesIsPlannedAndTakesBudgets) {
  for (const int branches : {1, 3}) {
    for (const ResidualConfig& residual :
         std::vector<ResidualConfig>{FixedResidual{}, FloatResidual{}}) {
      ModelConfig config = busy_config();
      config.residual = residual;
      Model<float> model(config, layers_of<float>(branches, config.width));
      const std::size_t all = model.plan(2, 70, 1, everything).stored;
      Trained expected;
      int threads = 0;
      for (const std::size_t budget : {std::size_t{0}, all / 3, all}) {
        const std::string what = reformer::detail::join(branches, " branches, residual kind ",
                                                        residual.index(), ", budget ", budget);
        Workspace workspace(++threads);
        const Trained trained = train(workspace, model, 2, 70, 1, budget);
        const MemoryPlan plan = model.plan(2, 70, threads, budget);
        EXPECT_EQ(workspace.peak_bytes(), plan.workspace()) << what;
        EXPECT_LE(plan.stored, budget) << what;
        EXPECT_GE(plan.stored, budget * 3 / 4) << what;
        if (budget == 0) expected = trained;
        if (residual.index() == 1) expect_same(trained, expected, what);
      }
      for (Index i = 0; i < model.stack().size(); ++i) {  // all that may be stored, is
        const auto stored = model.plan(2, 70, 1, all).storage[static_cast<std::size_t>(i)];
        EXPECT_TRUE(stored.input) << branches << " branches, branch " << i;
        EXPECT_TRUE(stored.context) << branches << " branches, branch " << i;
      }
    }
  }
}

TEST(TrainingStep, OfVectorsTakesNoMoreThanWasPlanned) {
  for (const bool head : {true, false}) {
    ModelConfig config = busy_config();
    config.language_head = head;
    Model<float> model(config);
    model.initialize(1);
    Workspace workspace(2);
    const auto vectors = random_tensor<float>(std::array<Index, 3>{2, 70, config.width}, 3);
    Tensor<float, 3> dvectors;
    if (head) {
      const Tokens labels = random_tokens(2, 70, config.vocabulary, 2);
      model.loss_and_gradients(workspace, vectors, labels, 1, {.training = true}, &dvectors);
    } else {
      model.encode_and_gradients(
          workspace, vectors, {.training = true}, [](const auto& z) { return z; }, &dvectors);
    }
    EXPECT_EQ(workspace.peak_bytes(), model.plan(2, 70, 2).workspace());
    EXPECT_EQ(dvectors.dimensions(), vectors.dimensions());
  }
}

TEST(TrainingStep, FindsAnOverflowBeforeItTouchesAGradient) {
  ModelConfig config = tiny_config();
  config.ngrams[1].dropout = config.value_ngrams->dropout =
      0;  // logits and training then add up the same
  config.residual = FixedResidual{};
  Workspace workspace(2);
  const Tokens tokens = random_tokens(2, 19, config.vocabulary, 2);
  const auto message = [&](const std::string& name, float value) {
    Model<float> model(config);
    randomize_parameters(model, 1);
    const auto& healthy = parameter(model, name).value;
    const Matrix<float> kept = healthy;
    parameter(model, name).value.setConstant(value);
    reset_gradients(model, 7);
    const auto step = [&] {
      return model.loss_and_gradients(workspace, tokens, tokens, 1.0F, {.training = true}).sum;
    };
    const std::string text = message_of<std::overflow_error>(step);
    for (const double g : gradients_of(model)) EXPECT_EQ(g, 7);
    EXPECT_EQ(message_of<std::overflow_error>([&] { model.logits(workspace, tokens); }), text);
    EXPECT_EQ(workspace.bytes_in_use(), 0u);
    parameter(model, name).value = kept;
    EXPECT_TRUE(std::isfinite(step())) << "an overflow that is over does no harm";
    return text;
  };
  EXPECT_TRUE(contains(message("embedding.weight", 2048),
                       "residual overflow in the embedding, sequence 0, token 0, column "));
  EXPECT_TRUE(contains(message("layers.2.feed_forward.output.bias", -4e3F),
                       "layer 2, second half (feed-forward), sequence 0, token 0, column 0: "));
  EXPECT_TRUE(contains(message("layers.1.attention.value.weight", 1e30F),
                       "layer 1, first half (attention), sequence 0, token 0, column 0: "));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(contains(message("layers.0.feed_forward.dense.bias", nan), "nan is outside"));
  // A smaller range is one of the ways to drive a model over it.
  config.residual = FixedResidual{.fraction_bits = 26};
  EXPECT_TRUE(contains(message("layers.3.feed_forward.output.bias", 50), "is outside [-32, 32)"));
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

/// Peak of the workspace over a training step, and the plan of the step.
/// @param encodes  a loss of the caller's own, as without a language head in any case
std::pair<std::size_t, MemoryPlan> measured_and_planned(const ModelConfig& config, Index batch,
                                                        Index length, int threads,
                                                        std::size_t memory_budget = 0,
                                                        bool encodes = false) {
  Model<float> model(config);
  model.initialize(1);
  model.zero_gradients();
  Workspace workspace(threads);
  const Tokens tokens = random_tokens(batch, length, config.vocabulary, 2);
  const RunOptions options{.training = true, .memory_budget = memory_budget};
  encodes = encodes || !config.language_head;
  if (!encodes) {
    model.loss_and_gradients(workspace, tokens, next_token_labels(tokens), 1e-3F, options);
  } else {
    model.encode_and_gradients(workspace, tokens, options, [](const auto& z) { return z; });
  }
  EXPECT_EQ(workspace.bytes_in_use(), 0u);
  return {workspace.peak_bytes(), encodes
                                      ? model.plan_encoding(batch, length, threads, memory_budget)
                                      : model.plan(batch, length, threads, memory_budget)};
}

/// What is taken from the workspace beyond halves and what branches save.
std::size_t scratch_of(const ModelConfig& config, Index batch, Index length) {
  const auto [measured, plan] = measured_and_planned(config, batch, length, 2);
  return measured - plan.residual_halves - plan.saved;
}

TEST(TrainingStep, AnOptimizerRefusesAModelOfAnotherWidth) {
  Workspace workspace(2);
  const auto model_of = [](Index feed_forward_width) {
    ModelConfig config = tiny_config();
    config.feed_forward_width = feed_forward_width;
    Model<float> model(config);
    model.initialize(1);
    model.zero_gradients();
    return model;
  };
  for (const auto& [first, second] : {std::pair(14, 30), {30, 14}}) {
    auto own = model_of(first), other = model_of(second);
    Adam<float> adam;
    adam.step(workspace, own, 0.01);
    const auto before = values_of(other);
    EXPECT_TRUE(contains(message_of([&] { adam.step(workspace, other, 0.01); }),
                         "as in the model whose state this is"));
    EXPECT_EQ(values_of(other), before);
    own.set_num_buckets({8});  // changes no parameter
    EXPECT_NO_THROW(adam.step(workspace, own, 0.01));
  }
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
    peaks.push_back(scratch_of(config, 2, 200));
  }
  EXPECT_GT(peaks[0], 0u);
  EXPECT_EQ(peaks[1], peaks[0]);
  EXPECT_EQ(peaks[2], peaks[0]);
}

TEST(TrainingStep, TakesScratchLinearInLength) {
  // Few and narrow layers with wide heads: from 8192 tokens on, a group is one head of one
  // sequence, and its arrays are much larger than panels and tiles.
  for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
           LocalPattern{16, 1, 0, false}, LshPattern{16, 1, 0, 2, {32, 8}},
           LshPattern{16, 1, 0, 2, {32, 8}, false, Chunking::bucket_chunks}}) {
    ModelConfig config = tiny_config();
    config.width = 4;
    config.head_width = 64;
    config.feed_forward_width = 4;
    config.positions = SinusoidalPositions{};
    config.layers = {pattern};
    const std::size_t shorter = scratch_of(config, 1, 8192);
    const double ratio =
        static_cast<double>(scratch_of(config, 1, 16384)) / static_cast<double>(shorter);
    EXPECT_GT(ratio, 1.9);
    EXPECT_LT(ratio, 2.1);
    // Another sequence is worked on after the first, so it takes nothing.
    EXPECT_EQ(scratch_of(config, 2, 8192), shorter);
  }
}

TEST(TrainingStep, TakesTheScratchThatWasPlanned) {
  for (const int threads : {1, 3}) {
    for (const auto& [batch, length] :
         std::vector<std::pair<Index, Index>>{{1, 1}, {2, 37}, {3, 301}}) {
      for (const LayerPattern& layer : busy_config().layers) {
        for (const double dropout : {0.0, 0.1}) {
          ModelConfig config = busy_config();
          config.layers = {layer};
          config.dropout = config.attention_dropout = dropout;
          for (const char* head : {"its own", "tied", "none"}) {
            config.language_head = head != std::string("none");
            config.tied_embedding = head == std::string("tied");
            for (const ResidualConfig& residual :
                 std::vector<ResidualConfig>{FloatResidual{}, FixedResidual{}}) {
              config.residual = residual;
              for (const std::size_t budget : {std::size_t{0}, everything}) {
                const auto [measured, plan] =
                    measured_and_planned(config, batch, length, threads, budget);
                EXPECT_EQ(measured, plan.workspace())
                    << "layer kind " << layer.of_heads[0].index() << " of " << layer.of_heads.size()
                    << ", B=" << batch << " T=" << length << ", dropout " << dropout << ", "
                    << threads << " threads, head " << head << ", residual kind "
                    << residual.index() << (budget > 0 ? ", everything stored" : "");
              }
            }
          }
        }
      }
    }
  }
}

TEST(TrainingStep, WithALossOfTheCallersOwnTakesWhatWasPlanned) {
  for (const bool head : {true, false}) {
    ModelConfig config = tiny_config();  // narrow, so that gradients of the norm count
    config.language_head = head;
    config.positions = SinusoidalPositions{};
    config.layers = {LocalPattern{4}};
    for (const Index length : {1, 70, 20000}) {
      const auto [measured, plan] = measured_and_planned(config, 1, length, 2, 0, true);
      EXPECT_EQ(measured, plan.workspace()) << "head " << head << ", length " << length;
    }
    Model<float> model(config);
    if (head) {  // in a batch that is as large, partial sums of the norm's gradients are most of it
      ModelConfig wide = config;
      wide.width = 64;  // else the order of tokens for the embedding's gradients is more
      Model<float> other(wide);
      EXPECT_GT(other.plan_encoding(256, 1 << 20, 1).scratch, other.plan(256, 1 << 20, 1).scratch);
    }
    const MemoryPlan plan = model.plan_encoding(2, 70, 1);
    EXPECT_EQ(plan.encoding, sizeof(float) * 2 * 2 * 70 * 24);
    EXPECT_EQ(model.plan(2, 70, 1).encoding, head ? 0 : plan.encoding);
    EXPECT_EQ(plan.total() - plan.scratch - plan.encoding,
              plan.parameters + plan.gradients + plan.residual_halves + plan.saved);
  }
}

TEST(TrainingStep, PlansWhatIsKept) {
  ModelConfig config = busy_config();
  Model<float> model(config);
  const Index batch = 2, length = 70;
  const MemoryPlan plan = model.plan(batch, length, 1);
  const auto floats = [](Index n) { return sizeof(float) * static_cast<std::size_t>(n); };
  EXPECT_EQ(plan.parameters, floats(model.num_parameters()));
  std::size_t of_rows = 0;  // a list of numbers, and whether a row is in it
  for (const NgramTable& table : config.ngrams) of_rows += 9 * static_cast<std::size_t>(table.rows);
  ASSERT_GT(of_rows, 0U);
  if (config.value_ngrams) {
    for (const LayerPattern& layer : config.layers) {
      if (!has_buckets(layer)) of_rows += 9 * static_cast<std::size_t>(config.value_ngrams->rows);
    }
  }
  EXPECT_EQ(plan.gradients, floats(model.num_parameters()) + of_rows);
  EXPECT_EQ(plan.residual_halves, floats(4 * batch * length * config.width));
  std::size_t buckets = 0;  // of all layers, each in whole cache lines
  for (const LayerPattern& layer : config.layers) {
    Index ids = 0;
    for (const HeadKind& kind : head_kinds(layer, config.num_heads)) {
      const auto* lsh = std::get_if<LshPattern>(&kind.pattern);
      if (lsh != nullptr) ids += batch * length * kind.num_heads * lsh->num_hashes;
    }
    buckets += static_cast<std::size_t>(round_up(ids * Index{sizeof(Bucket)}, 64));
  }
  ASSERT_GE(buckets, 3 * 64U);
  EXPECT_EQ(plan.saved, buckets);
  EXPECT_EQ(plan.total(),
            plan.parameters + plan.gradients + plan.residual_halves + plan.saved + plan.scratch);
  EXPECT_EQ(plan.workspace(), plan.residual_halves + plan.saved + plan.scratch);
  EXPECT_EQ(plan.stored, 0u);
  EXPECT_TRUE(plan.storage.empty());

  config.residual = FixedResidual{};
  Model<float> exact(config);
  EXPECT_EQ(exact.plan(batch, length, 1).saved, 0u);
  EXPECT_EQ(exact.plan(batch, length, 1).residual_halves, plan.residual_halves);
}

TEST(TrainingStep, StoresWhatSavesMostForEachByte) {
  ModelConfig config =
      tiny_config();  // D = 12, H = 2, K = 5, F = 14; layers local, lsh, exact, lsh
  config.width = 32;
  config.positions = LearnedPositions{200};
  config.feed_forward_width = 64;
  config.residual = FixedResidual{};
  Model<float> model(config);
  const Index rows = 2 * 200;
  const auto floats = [](Index n) { return sizeof(float) * static_cast<std::size_t>(n); };
  const auto plan = [&](std::size_t budget) { return model.plan(2, 200, 1, budget); };

  // Everything: two inputs of each layer, u of feed-forward, contexts of attention with 3
  // statistics a head where keys are shared, else 2, and bucket ids of 2 rounds and of 1. Rows of
  // a context, 10 numbers, are a cache line.
  const MemoryPlan all = plan(everything);
  StoragePlan expected(8, {true, true});  // attention and feed-forward of each layer
  EXPECT_EQ(all.storage, expected);
  EXPECT_EQ(all.stored, floats(rows * (4 * 2 * 32 + 4 * 64 + 4 * 16 + 2 * (2 + 3 + 2 + 3))) +
                            sizeof(Bucket) * static_cast<std::size_t>(rows * 2 * (2 + 1)));
  EXPECT_EQ(all.total() - all.scratch - all.stored, plan(0).total() - plan(0).scratch);

  // Exact attention over 200 tokens saves most, then second products (64 to a float), then local
  // and hashed contexts of a few keys, then first products (32 to a float), last the output
  // projections (10).
  expected.assign(8, {});
  const auto context = floats(rows * (16 + 2 * 2)), half = floats(rows * 32);
  EXPECT_EQ(plan(context - 1).stored, 0u) << "too little for anything, as contexts are smallest";
  expected[4].context = true;
  EXPECT_EQ(plan(context).storage, expected);
  expected[1].input = true;
  EXPECT_EQ(plan(context + half).storage, expected);
  EXPECT_EQ(plan(context + half).stored, context + half);
  expected[3].input = expected[5].input = true;
  EXPECT_EQ(plan(context + 3 * half).storage, expected);
}

/// Bytes that are allocated now, by the allocator's own count.
std::size_t heap_bytes() {
#ifdef __SANITIZE_ADDRESS__
  return __sanitizer_get_current_allocated_bytes();
#else
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
#endif
}

/// What the allocator may add to a block of the workspace, which begins on a large page.
constexpr std::size_t most_padding = std::size_t{5} << 20;

#ifndef REFORMER_THREAD_SANITIZER  // its allocator counts sizes as it rounds them up, by an eighth
TEST(TrainingStep, AllocatesWhatIsPlanned) {
  ModelConfig config = busy_config();
  config.width = 64;
  config.positions = AxialPositions{{32, 32}, {16, 48}};
  config.layers = {LocalPattern{16, 1, 0, false}, LshPattern{16, 1, 0, 16, {8, 4}}};
  const Index batch = 2, length = 1000;
  const Tokens tokens = random_tokens(batch, length, config.vocabulary, 2);
  const Tokens labels = next_token_labels(tokens);
  parallel_for(2, 2, [](Index, int) {});  // OpenMP's own memory

  const std::size_t before = heap_bytes();
  Model<float> model(config);
  model.initialize(1);
  model.zero_gradients();
  Adam<float> adam;
  const MemoryPlan plan = model.plan(batch, length, 2);
  {
    Workspace workspace(2);
    const std::size_t without = heap_bytes();
    model.loss_and_gradients(workspace, tokens, labels, 1e-3F, {.training = true});
    EXPECT_EQ(workspace.peak_bytes(), plan.workspace());
    const std::size_t taken = heap_bytes() - without;
    EXPECT_GE(taken, plan.workspace());
    EXPECT_LE(taken, plan.workspace() + most_padding);
    adam.step(workspace, model, 1e-3);
  }
  const std::size_t kept = heap_bytes() - before;

  const std::size_t planned =
      plan.parameters + plan.gradients + Adam<float>::state_bytes(model.num_parameters());
  // Every category is larger than the difference that is allowed, for names, lists and the
  // allocator's rounding to pages.
  const std::size_t allowed = 100'000;
  for (const std::size_t part : {plan.parameters, plan.gradients}) EXPECT_GT(part, allowed);
  EXPECT_GE(kept, planned);
  EXPECT_LE(kept, planned + allowed);
}
#endif

TEST(TrainingStep, LeavesNothingInTheModelAndUsesTheWorkspaceAgain) {
  // Of both kinds of halves; what is stored, what is not, and passes without gradients.
  for (const ResidualConfig& residual :
       std::vector<ResidualConfig>{FloatResidual{}, FixedResidual{}}) {
    ModelConfig config = tiny_config();
    config.residual = residual;
    config.width = 64;
    config.positions = SinusoidalPositions{};
    config.layers = {LocalPattern{16}, LshPattern{16, 1, 0, 8, {8, 4}}};
    Model<float> model(config);
    model.initialize(1);
    model.zero_gradients();
    const std::size_t before = heap_bytes();
    {
      Workspace workspace(1);
      const auto step = [&](Index length, std::size_t budget, bool encodes) {
        const Tokens tokens = random_tokens(1, length, config.vocabulary, 2);
        const RunOptions options{.training = true, .memory_budget = budget};
        if (encodes) {
          model.encode_and_gradients(workspace, tokens, options, [](const auto& z) { return z; });
        } else {
          model.loss_and_gradients(workspace, tokens, tokens, 1e-3F, options);
        }
      };
      step(4000, everything, false);
      const std::size_t held = heap_bytes() - before;
      EXPECT_GE(held, workspace.peak_bytes());
      EXPECT_LE(held, workspace.peak_bytes() + most_padding);
      EXPECT_GT(model.plan(1, 4000, 1, everything).stored, 4'000'000u);
      const auto compare = [&](const char* what) {
        EXPECT_NEAR(static_cast<double>(heap_bytes() - before), static_cast<double>(held), 50'000)
            << what << ", residual kind " << residual.index();
      };
      step(4000, 0, false);
      compare("without a budget");
      step(4000, everything, true);
      compare("everything, with a loss of the caller's own");
      step(3000, 1'000'000, false);
      compare("a part, shorter");
      model.logits(workspace, random_tokens(1, 2000, config.vocabulary, 2));
      compare("without gradients");
    }
    EXPECT_LT(heap_bytes() - before, 50'000u) << "the workspace had all of it";
  }
}

}  // namespace
}  // namespace reformer::test
