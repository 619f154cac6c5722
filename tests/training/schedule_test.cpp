// SPDX-License-Identifier: MIT
#include "reformer/training/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "support/errors.hpp"

namespace reformer::test {
namespace {

constexpr double rounding = 1e-15;

TEST(ConstantSchedule, IsConstant) {
  const Schedule schedule = ConstantSchedule{0.25};
  for (const std::int64_t t : {0, 1, 1000, 1000000}) EXPECT_EQ(learning_rate(schedule, t), 0.25);
}

TEST(InverseSquareRootSchedule, WarmsUpAndDecays) {
  const Schedule schedule = InverseSquareRootSchedule{0.5, 100};
  EXPECT_NEAR(learning_rate(schedule, 1), 0.005, rounding);
  EXPECT_NEAR(learning_rate(schedule, 50), 0.25, rounding);
  EXPECT_NEAR(learning_rate(schedule, 99), 0.495, rounding);
  EXPECT_NEAR(learning_rate(schedule, 100), 0.5, rounding);
  EXPECT_NEAR(learning_rate(schedule, 400), 0.25, rounding);
  EXPECT_NEAR(learning_rate(schedule, 1000000), 0.005, rounding);
  EXPECT_LT(learning_rate(schedule, 101), 0.5);
}

TEST(CosineSchedule, WarmsUpAndFallsToItsFraction) {
  const Schedule schedule = CosineSchedule{0.5, 100, 1100, 0.1};
  EXPECT_NEAR(learning_rate(schedule, 1), 0.005, rounding);
  EXPECT_NEAR(learning_rate(schedule, 50), 0.25, rounding);
  EXPECT_NEAR(learning_rate(schedule, 100), 0.5, rounding);
  // A quarter, half and three quarters of the way down from 0.5 to 0.05.
  EXPECT_NEAR(learning_rate(schedule, 350), 0.05 + 0.225 * (1 + std::sqrt(0.5)), rounding);
  EXPECT_NEAR(learning_rate(schedule, 600), 0.275, rounding);
  EXPECT_NEAR(learning_rate(schedule, 850), 0.05 + 0.225 * (1 - std::sqrt(0.5)), rounding);
  EXPECT_NEAR(learning_rate(schedule, 1100), 0.05, rounding);
  EXPECT_NEAR(learning_rate(schedule, 5000), 0.05, rounding) << "it stays there";
}

TEST(LinearSchedule, WarmsUpStaysAndFallsToItsFraction) {
  const Schedule line = LinearSchedule{0.5, 100, 1100, 0.1};
  EXPECT_NEAR(learning_rate(line, 50), 0.25, rounding);
  EXPECT_NEAR(learning_rate(line, 100), 0.5, rounding);
  EXPECT_NEAR(learning_rate(line, 600), 0.275, rounding);
  EXPECT_NEAR(learning_rate(line, 1100), 0.05, rounding);
  EXPECT_NEAR(learning_rate(line, 5000), 0.05, rounding) << "it stays there";
  const Schedule stable = LinearSchedule{0.5, 100, 1000, 0, 0.2};
  EXPECT_NEAR(learning_rate(stable, 50), 0.25, rounding);
  for (const std::int64_t t : {100, 400, 800}) {
    EXPECT_NEAR(learning_rate(stable, t), 0.5, rounding) << t;
  }
  EXPECT_NEAR(learning_rate(stable, 900), 0.25, rounding);
  EXPECT_NEAR(learning_rate(stable, 1000), 0, rounding);
}

TEST(Schedules, HaveNoJumpsAndStayBetweenZeroAndThePeak) {
  for (const Schedule& schedule :
       {Schedule(InverseSquareRootSchedule{1, 50}), Schedule(CosineSchedule{1, 50, 300, 0.2}),
        Schedule(LinearSchedule{1, 50, 300, 0.2, 0.5})}) {
    double before = 0;
    for (std::int64_t t = 1; t <= 400; ++t) {
      const double rate = learning_rate(schedule, t);
      EXPECT_GT(rate, 0);
      EXPECT_LE(rate, 1);
      EXPECT_LE(std::abs(rate - before), 1.0 / 50 + rounding) << "step " << t;
      before = rate;
    }
  }
}

TEST(Schedules, WithoutWarmUpStartAtThePeak) {
  EXPECT_NEAR(learning_rate(InverseSquareRootSchedule{0.5, 0}, 1), 0.5, rounding);
  EXPECT_NEAR(learning_rate(InverseSquareRootSchedule{0.5, 0}, 4), 0.25, rounding);
  EXPECT_NEAR(learning_rate(CosineSchedule{0.5, 0, 100, 0.1}, 1), 0.5, rounding);
}

TEST(Schedules, AreDefinedForStepsAndLengthsOutsideOfTheirRange) {
  // Steps count from 1; one that is given 0 must not divide by it.
  EXPECT_EQ(learning_rate(InverseSquareRootSchedule{0.5, 10}, 0),
            learning_rate(InverseSquareRootSchedule{0.5, 10}, 1));
  // Warm-up longer than the run.
  for (const std::int64_t t : {1, 50, 100, 101, 200}) {
    const double rate = learning_rate(CosineSchedule{0.5, 100, 20, 0.1}, t);
    EXPECT_GT(rate, 0);
    EXPECT_LE(rate, 0.5);
  }
}

TEST(Schedules, RefuseWhatMeansNothing) {
  const auto message = [](const Schedule& schedule, std::int64_t step = 1) {
    return message_of([&] { learning_rate(schedule, step); });
  };
  const std::string prefix = "reformer::learning_rate: ";
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const auto& [rate, text] : {std::pair(nan, "nan"), {infinity, "inf"}, {-0.5, "-0.5"}}) {
    const std::string expected = prefix + "rate is " + text + ", must be finite and not negative";
    EXPECT_EQ(message(ConstantSchedule{rate}), expected);
    EXPECT_EQ(message(InverseSquareRootSchedule{.rate = rate}), expected);
    EXPECT_EQ(message(CosineSchedule{.rate = rate}), expected);
    EXPECT_EQ(message(LinearSchedule{.rate = rate}), expected);
  }
  EXPECT_EQ(message(InverseSquareRootSchedule{.warmup = -1}),
            prefix + "warmup is -1, must be at least 0");
  EXPECT_EQ(message(CosineSchedule{.warmup = -1}), prefix + "warmup is -1, must be at least 0");
  EXPECT_EQ(message(CosineSchedule{.steps = 0}), prefix + "steps is 0, must be at least 1");
  EXPECT_EQ(message(CosineSchedule{.steps = -7}), prefix + "steps is -7, must be at least 1");
  EXPECT_EQ(message(CosineSchedule{.final_fraction = -0.1}),
            prefix + "final_fraction is -0.1, must be in [0, 1]");
  EXPECT_EQ(message(CosineSchedule{.final_fraction = 2}),
            prefix + "final_fraction is 2, must be in [0, 1]");
  EXPECT_EQ(message(CosineSchedule{.final_fraction = nan}),
            prefix + "final_fraction is nan, must be in [0, 1]");
  EXPECT_EQ(message(LinearSchedule{.warmup = -1}), prefix + "warmup is -1, must be at least 0");
  EXPECT_EQ(message(LinearSchedule{.steps = 0}), prefix + "steps is 0, must be at least 1");
  EXPECT_EQ(message(LinearSchedule{.final_fraction = 2}),
            prefix + "final_fraction is 2, must be in [0, 1]");
  EXPECT_EQ(message(LinearSchedule{.decay_fraction = nan}),
            prefix + "decay_fraction is nan, must be in [0, 1]");
  EXPECT_EQ(message(ConstantSchedule{}, -1), prefix + "step is -1, must be at least 0");
}

TEST(Schedules, AreFiniteToTheLastStep) {
  constexpr std::int64_t last = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(learning_rate(ConstantSchedule{0.5}, last), 0.5);
  EXPECT_GT(learning_rate(InverseSquareRootSchedule{0.5, 10}, last), 0);
  EXPECT_NEAR(learning_rate(InverseSquareRootSchedule{0.5, last}, last), 0.5, rounding);
  EXPECT_NEAR(learning_rate(CosineSchedule{0.5, 10, last, 0.1}, last), 0.05, rounding);
  EXPECT_NEAR(learning_rate(CosineSchedule{0.5, last, 1, 0.1}, last), 0.5, rounding);
}

}  // namespace
}  // namespace reformer::test
