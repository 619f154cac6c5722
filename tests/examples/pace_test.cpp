// SPDX-License-Identifier: MIT
#include "training/pace.hpp"

#include <gtest/gtest.h>

#include <optional>

namespace training::test {
namespace {

Options limited_by_steps(std::int64_t steps) {
  Options options;
  options.minutes = 0;
  options.steps = steps;
  options.learning_rate = 1;
  options.warmup = 10;
  options.final_fraction = 0.1;
  return options;
}

Options limited_by_time() {
  Options options = limited_by_steps(0);
  options.minutes = 1;
  return options;
}

TEST(Pace, CosineOverTheSteps) {
  const Options options = limited_by_steps(110);
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 1), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 10), 1);
  EXPECT_NEAR(learning_rate(options, {}, 60), 0.55, 1e-12);
  EXPECT_NEAR(learning_rate(options, {}, 110), 0.1, 1e-12);
}

TEST(Pace, OtherSchedulesDoNotFallToAnEnd) {
  Options options = limited_by_steps(100);
  options.schedule = "constant";
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 5), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 100), 1);
  options.schedule = "rsqrt";
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 5), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 40), 0.5);
}

TEST(Pace, NoWarmUpIsAllowed) {
  for (const char* schedule : {"cosine", "linear", "constant", "rsqrt"}) {
    for (Options options : {limited_by_steps(5), limited_by_time()}) {
      options.schedule = schedule;
      options.warmup = 0;
      EXPECT_DOUBLE_EQ(learning_rate(options, {}, 1), 1) << schedule;
    }
  }
}

TEST(Pace, WithATimeLimitTheRateFallsFromTheDecisionOn) {
  const Options options = limited_by_time();
  const Ending ending{50, 150};
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 5), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(options, {}, 1000), 1);
  EXPECT_DOUBLE_EQ(learning_rate(options, ending, 50), learning_rate(options, {}, 50));
  double last = 1;
  for (std::int64_t step = 51; step <= 150; ++step) {
    const double now = learning_rate(options, ending, step);
    EXPECT_LT(now, last) << step;
    last = now;
  }
  EXPECT_NEAR(last, 0.1, 1e-12);
  EXPECT_NEAR(learning_rate(options, ending, 100), 0.55, 0.01);
}

TEST(Pace, AnEndDuringTheWarmUpFallsFromWhereItIs) {
  const Options options = limited_by_time();
  EXPECT_DOUBLE_EQ(learning_rate(options, Ending{5, 8}, 5), 0.5);
  EXPECT_LT(learning_rate(options, Ending{5, 8}, 6), 0.5);
  EXPECT_NEAR(learning_rate(options, Ending{5, 8}, 8), 0.05, 1e-12);
  EXPECT_NEAR(learning_rate(options, Ending{5, 6}, 6), 0.05, 1e-12);
}

TEST(Pace, TheFinalPartIsTakenOffButTrainingKeepsAQuarter) {
  EXPECT_DOUBLE_EQ(training_seconds(100, {.final = 30}), 70);
  EXPECT_DOUBLE_EQ(training_seconds(100, {.final = 500}), 25);
}

TEST(Pace, TheEndIsDecidedAtAShareOfTheTraining) {
  const Costs costs{.step = 1, .final = 50};
  EXPECT_FALSE(is_time_for_ending(29, 100, costs));
  EXPECT_TRUE(is_time_for_ending(30, 100, costs));
}

TEST(Pace, StepsFitWithTheirValidationsAndCheckpoints) {
  Options options = limited_by_time();
  options.eval_every = 0;
  options.save_minutes = 1;
  const auto fit = [&](double elapsed, const Costs& costs, std::int64_t step = 0) {
    return steps_that_fit(elapsed, 100, costs, options, step);
  };
  EXPECT_EQ(fit(60, {.step = 0.5}), 80);
  EXPECT_EQ(fit(60, {.step = 0.5, .final = 10}), 60);
  EXPECT_EQ(fit(60, {.step = 0.5, .save = 60}), 40) << "half of the time goes into checkpoints";
  EXPECT_EQ(fit(60, {.step = 41}), 0);
  EXPECT_EQ(fit(100, {.step = 1}), 0);
  EXPECT_EQ(fit(1000, {.step = 1}), 0);
  EXPECT_EQ(fit(0, {}), 0) << "an unknown speed";
  options.eval_every = 10;
  // 34 steps with validations after 10, 20 and 30; a 35th would cost more than is left.
  EXPECT_EQ(fit(60, {.step = 1, .validation = 2}), 34);
  // The one after the last step is replaced by the final one, which is not counted here.
  EXPECT_EQ(fit(90, {.step = 1, .validation = 2}), 10);
  // Begun at step 5, they come after 5 and 15 more.
  EXPECT_EQ(fit(60, {.step = 1, .validation = 2}, 5), 34);
}

TEST(Pace, ALongRunIsNoProblem) {
  EXPECT_GT(steps_that_fit(0, 1e15, {.step = 1e-6}, limited_by_time(), 0), 1'000'000'000);
}

}  // namespace
}  // namespace training::test
