// SPDX-License-Identifier: MIT
/// Ranks that share the micro-batches of a step: the bits of one rank, whatever their number.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "reformer/distributed/data_parallel.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/distributed/thread_communicator.hpp"
#include "support/data_parallel.hpp"
#include "support/errors.hpp"

namespace reformer::test {
namespace {

template <typename Optimizer>
class DataParallelOf : public testing::Test {
 public:
  static SharedResult alone(const SharedRun& run) {
    SingleProcess single;
    return train_shared<Optimizer>(single, run);
  }
  static std::vector<SharedResult> shared(int ranks, const SharedRun& run) {
    std::vector<SharedResult> results(static_cast<std::size_t>(ranks));
    run_on_threads(ranks, [&](Communicator& communicator) {
      results[static_cast<std::size_t>(communicator.rank())] =
          train_shared<Optimizer>(communicator, run);
    });
    return results;
  }
};

using Optimizers = testing::Types<Adam<float>, Adafactor<float>, Muon<float>>;
TYPED_TEST_SUITE(DataParallelOf, Optimizers);

TYPED_TEST(DataParallelOf, GivesTheBitsOfOneRank) {
  for (SharedRun run : {SharedRun{}, SharedRun{.is_tied = true},
                        SharedRun{.precision = Precision::bfloat16, .freezes = true}}) {
    const SharedResult expected = this->alone(run);
    ASSERT_NE(expected.parameters, this->alone({.steps = 1}).parameters);
    for (const int ranks : {2, 3, 4, 5}) {
      run.threads = 1 + ranks % 2;
      const auto results = this->shared(ranks, run);
      for (std::size_t r = 0; r < results.size(); ++r) {
        EXPECT_EQ(first_difference(results[r], expected, r == 0), "")
            << "rank " << r << " of " << ranks;
        EXPECT_EQ(results[r].memory.optimizer, results[r].plan.optimizer);
        EXPECT_EQ(results[r].plan.whole_optimizer,
                  r == 0 ? expected.state.size() * sizeof(float) : 0);
        EXPECT_LE(results[r].memory.exchange, results[r].plan.exchange);
        EXPECT_GE(results[r].memory.exchange, results[r].plan.exchange / 4);
      }
    }
  }
}

TYPED_TEST(DataParallelOf, OfOneMicroBatchIsAnOrdinaryStep) {
  const SharedRun run{.micro_batches = 1};
  Workspace workspace(1);
  Model<float> model(divided_config());
  model.initialize(1, {.axial_positions = 0.1});
  TypeParam optimizer;
  SharedResult expected;
  for (std::uint32_t step = 0; step < 3; ++step) {
    const Tokens tokens = random_tokens(1, 32, model.config().vocabulary, 100 + step);
    model.zero_gradients();
    const Loss loss = model.loss_and_gradients(workspace, tokens, next_token_labels(tokens),
                                               1.0F / 31, {.key = {3, step}, .training = true});
    expected.losses.push_back(loss.sum);
    expected.norms.push_back(global_gradient_norm(workspace, model));
    EXPECT_GT(expected.norms.back(), run.max_norm);  // gradients are clipped
    optimizer.step(workspace, model, 1e-2, clipping_scale(expected.norms.back(), run.max_norm));
  }
  expected.parameters = values_of(model);
  EXPECT_EQ(first_difference(this->alone(run), expected, false), "");
  EXPECT_EQ(first_difference(this->shared(3, run)[2], expected, false), "");
}

TYPED_TEST(DataParallelOf, IsSavedByTwoRanksAndResumedByAnyNumber) {
  const SharedRun run{.steps = 4};
  const SharedResult expected = this->alone(run);
  const int half = 2;
  std::vector<double> parameters;
  TypeParam saved;
  run_on_threads(2, [&](Communicator& communicator) {
    SharedTraining<TypeParam> training(communicator, run);
    for (int step = 0; step < half; ++step) training.take_step(step);
    training.training().wait();
    training.training().visit_whole_optimizer([&](const TypeParam& whole) { saved = whole; });
    if (communicator.rank() == 0) parameters = values_of(training.model());
  });
  for (const int ranks : {1, 3}) {
    std::optional<SharedResult> result;
    run_on_threads(ranks, [&](Communicator& communicator) {
      SharedTraining<TypeParam> training(communicator, run);
      if (communicator.rank() == 0) {
        std::size_t i = 0;
        training.model().for_each_parameter([&](Parameter<float>& p) {
          for (Index k = 0; k < p.size(); ++k) {
            p.value.data()[k] = static_cast<float>(parameters[i++]);
          }
        });
      }
      training.training().broadcast_parameters();
      training.training().set_whole_optimizer([&](TypeParam& whole) { whole = saved; });
      for (int step = half; step < run.steps; ++step) training.take_step(step);
      const SharedResult own = training.result();
      if (communicator.rank() == 0) result = own;
    });
    EXPECT_TRUE(same_bits(result->parameters, expected.parameters)) << ranks << " ranks";
    EXPECT_TRUE(same_bits(result->state, expected.state)) << ranks << " ranks";
  }
}

class DataParallelTest : public DataParallelOf<Adam<float>> {};

TEST_F(DataParallelTest, AddsInAnOrderThatMatters) {
  const SharedResult forwards = alone({.steps = 1});
  const SharedResult backwards = alone({.steps = 1, .is_backwards = true});
  EXPECT_FALSE(same_bits(backwards.parameters, forwards.parameters));
}

TEST_F(DataParallelTest, WithHalfTheBytesGivesOtherBitsThatDoNotDependOnTheRanksEither) {
  const SharedRun run{.wire = Wire::bfloat16};
  const SharedResult expected = alone(run);
  EXPECT_EQ(first_difference(expected, alone({}), false), "losses");  // from the second step on
  for (const int ranks : {2, 3}) {
    const auto results = shared(ranks, run);
    for (std::size_t r = 0; r < results.size(); ++r) {
      EXPECT_EQ(first_difference(results[r], expected, r == 0), "") << r << " of " << ranks;
    }
  }
  SingleProcess single;
  Model<double> model(tiny_config());
  EXPECT_TRUE(contains(message_of([&] {
                         DataParallel<Model<double>, Adam<double>> training(
                             single, model, {.wire = Wire::bfloat16});
                       }),
                       "wire is bfloat16, must be exact for a model that is not of floats"));
  EXPECT_TRUE(contains(message_of([&] {
                         DataParallel<Model<double>, Adam<double>> training(single, model,
                                                                            {.micro_batches = 0});
                       }),
                       "micro_batches is 0, must be at least 1"));
}

TEST_F(DataParallelTest, DividesWeightsAndTables) {
  const auto results = shared(3, {.steps = 1});
  std::size_t divided = 0;
  for (std::size_t i = 0; i < results[0].slices.size(); ++i) {
    Index end = 0;
    for (const SharedResult& result : results) {
      const Slice& slice = result.slices[i];
      if (slice.size() == 0) continue;
      EXPECT_EQ(slice.begin, end);
      divided += slice.begin > 0;
      end = slice.end;
    }
  }
  EXPECT_GE(divided, 4U);
}

TEST_F(DataParallelTest, ASilentPassIsRefused) {
  SingleProcess single;
  Workspace workspace(1);
  Model<float> model(divided_config());
  model.initialize(1);
  DataParallel<Model<float>, Adam<float>> training(single, model, {});
  const Tokens tokens = random_tokens(1, 32, model.config().vocabulary, 1);
  EXPECT_TRUE(contains(message_of([&] {
                         training.accumulate(workspace, [&](Index, PassObserver&) {
                           return model.loss_and_gradients(workspace, tokens, tokens, 1, {});
                         });
                       }),
                       "the pass has not told its observer of 4 parts, must tell of all"));
}

/// A table of n-grams has no rows to add up, and what ranks send each other is under way.
TEST_F(DataParallelTest, CallsOutOfTurnAreRefused) {
  for (const int ranks : {1, 2}) {
    run_on_threads(ranks, [&](Communicator& communicator) {
      Workspace workspace(1);
      Model<float> model(divided_config());
      model.initialize(1);
      DataParallel<Model<float>, Adam<float>> training(communicator, model, {});
      const Tokens tokens = random_tokens(1, 32, model.config().vocabulary, 1);
      const auto expect_refused = [&] {
        model.zero_gradients();
        const Matrix<float> before = model.find_parameter("embedding.weight")->value;
        const std::string rest = ": there are no summed gradients, must come after accumulate";
        EXPECT_EQ(message_of([&] { training.gradient_norm(workspace); }),
                  "reformer::DataParallel::gradient_norm" + rest);
        EXPECT_EQ(message_of([&] { training.step(workspace, 1e-2); }),
                  "reformer::DataParallel::step" + rest);
        EXPECT_EQ(model.find_parameter("embedding.weight")->value, before);
      };
      const auto pass = [&](Index, PassObserver& observer) {
        return model.loss_and_gradients(workspace, tokens, next_token_labels(tokens), 1.0F / 31, {},
                                        nullptr, &observer);
      };
      expect_refused();
      training.accumulate(workspace, pass);
      Workspace plan = Workspace::plan(1);
      EXPECT_TRUE(contains(message_of([&] { training.accumulate(plan, pass); }),
                           "workspace is one that only plans"));
      EXPECT_GT(training.gradient_norm(workspace), 0);
      training.step(workspace, 1e-2);
      training.wait();
      expect_refused();
      EXPECT_TRUE(contains(message_of([&] { training.plan(0); }), "tokens is 0"));
    });
  }
}

/// A branch of one's own may reach the rows of a table in any order; norms add them in one.
TEST_F(DataParallelTest, ReachedRowsEndInOneOrder) {
  for (const int ranks : {1, 2}) {
    run_on_threads(ranks, [&](Communicator& communicator) {
      Workspace workspace(1);
      Model<float> model(divided_config());
      model.initialize(1);
      DataParallel<Model<float>, Adam<float>> training(communicator, model, {.micro_batches = 1});
      const Tokens tokens = random_tokens(1, 32, model.config().vocabulary, 1);
      training.accumulate(workspace, [&](Index, PassObserver& observer) {
        const Loss loss = model.loss_and_gradients(workspace, tokens, next_token_labels(tokens),
                                                   1.0F / 31, {}, nullptr, &observer);
        model.for_each_parameter([](Parameter<float>& p) {
          if (!p.reached) return;
          const std::vector<Index> rows = p.reached->list();
          p.reached->clear();
          for (auto row = rows.rbegin(); row != rows.rend(); ++row) p.reached->insert(*row);
        });
        return loss;
      });
      model.for_each_parameter([&](const Parameter<float>& p) {
        if (!p.reached) return;
        const std::vector<Index>& rows = p.reached->list();
        EXPECT_TRUE(ranks > 1 || rows.size() > 1) << p.name;  // one rank has them all
        EXPECT_TRUE(std::is_sorted(rows.begin(), rows.end()))
            << p.name << ", " << ranks << " ranks";
      });
    });
  }
}

/// The paper's optimiser and both of ours, of a model that is worth dividing: what its ranks keep.
TEST(Ownership, DividesStateEvenly) {
  ModelConfig config = tiny_config();
  config.vocabulary = 256;
  config.width = 512;
  config.num_heads = 8;
  config.head_width = 64;
  config.feed_forward_width = 2048;
  config.positions = SinusoidalPositions{};
  config.ngrams = {{3, 65536}};
  config.layers.assign(6, LocalPattern{64, 1, 0, true});
  const Model<float> model(config);
  const auto expect_even = [&](const auto& of, int most, double slack) {
    for (int ranks = 1; ranks <= most; ++ranks) {
      const Ownership ownership = of(ranks);
      Index total = 0, largest = 0;
      for (int r = 0; r < ranks; ++r) {
        total += ownership.state_elements(r);
        largest = std::max(largest, ownership.state_elements(r));
      }
      EXPECT_LE(static_cast<double>(largest) * ranks, (1 + slack) * static_cast<double>(total))
          << ranks << " ranks";
    }
  };
  expect_even([&](int ranks) { return Ownership::of<Adam<float>>(model, ranks); }, 16, 0.02);
  expect_even([&](int ranks) { return Ownership::of<Muon<float>>(model, ranks); }, 8, 0.02);
}

TEST(RunOnThreads, EndsAllRanksWhenOneFails) {
  const auto failing = [](Communicator& communicator) {
    if (communicator.rank() == 1) throw std::logic_error("no luck");
    communicator.barrier();
  };
  EXPECT_EQ(message_of<std::logic_error>([&] { run_on_threads(3, failing); }), "no luck");
  EXPECT_EQ(message_of<std::runtime_error>([&] {
              run_on_threads(2, [](Communicator& communicator) {
                std::vector<char> data(communicator.rank() == 0 ? 2 : 3);
                communicator.broadcast(std::span(data), 0);
              });
            }),
            "rank 0 has sent 2 bytes, where rank 1 expected 3");
  EXPECT_TRUE(contains(message_of([&] { run_on_threads(0, failing); }), "ranks is 0"));
}

TEST(Communicator, RefusesRanksThatAreNotThere) {
  SingleProcess single;
  std::vector<char> data(1);
  EXPECT_EQ(message_of([&] { single.broadcast(std::span(data), 1); }),
            "reformer::Communicator::broadcast: root is 1, must be at most 0");
  EXPECT_EQ(message_of([&] { single.start_exchange({}, {}); }),
            "reformer::Communicator::start_exchange: sends is 0, must equal size = 1");
}

}  // namespace
}  // namespace reformer::test
