// SPDX-License-Identifier: MIT
#include "reformer/training/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>

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

TEST(Schedules, HaveNoJumpsAndStayBetweenZeroAndThePeak) {
  for (const Schedule& schedule :
       {Schedule(InverseSquareRootSchedule{1, 50}), Schedule(CosineSchedule{1, 50, 300, 0.2})}) {
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

}  // namespace
}  // namespace reformer::test
