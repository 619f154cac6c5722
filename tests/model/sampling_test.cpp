// SPDX-License-Identifier: MIT
/// Choosing a token: by probability, cut and penalised, and what is refused.
#include "reformer/model/sampling.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "support/errors.hpp"

namespace reformer::test {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Logits whose probabilities are 0.1, 0.4, 0.2, 0.3.
const std::vector<float> logits{std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};

std::int32_t draw(const std::vector<float>& row, const SamplingOptions& options, double uniform,
                  const std::vector<std::uint8_t>& occurred = {}) {
  return sample_token<float>(row, options, uniform, occurred);
}

/// How often each token comes, in percent, over evenly spread random numbers.
std::vector<int> percentages(const std::vector<float>& row, const SamplingOptions& options) {
  constexpr int draws = 10'000;
  std::vector<int> counts(row.size());
  for (int i = 0; i < draws; ++i) {
    ++counts[static_cast<std::size_t>(draw(row, options, (i + 0.5) / draws))];
  }
  for (int& count : counts) {
    count = (count + draws / 200) * 100 / draws;
  }
  return counts;
}

TEST(Sampling, ExtremePenaltiesLeaveNumbers) {
  constexpr float most = std::numeric_limits<float>::max();
  for (const double penalty : {1e-300, 1e300}) {
    const SamplingOptions options{.repetition_penalty = penalty};
    // Both become the largest, the lowest, or nearly zero: the same.
    for (const auto& row : {std::vector{most, most / 2}, std::vector{-most / 2, -most}}) {
      EXPECT_EQ(draw(row, options, 0.25, {1, 1}), 0);
      EXPECT_EQ(draw(row, options, 0.75, {1, 1}), 1);
    }
    EXPECT_EQ(draw({-infinity, -most}, options, 0.5, {1, 1}), 1);
  }
}

TEST(Sampling, FollowsTheProbabilities) {
  EXPECT_EQ(percentages(logits, {}), (std::vector<int>{10, 40, 20, 30}));
}

TEST(Sampling, TemperatureSharpensAndFlattens) {
  SamplingOptions options;
  options.temperature = 0.5;  // squares: 1, 16, 4, 9 of 30
  EXPECT_EQ(percentages(logits, options), (std::vector<int>{3, 53, 13, 30}));
  options.temperature = 1e6;
  EXPECT_EQ(percentages(logits, options), (std::vector<int>{25, 25, 25, 25}));
  options.temperature = 1e-30;
  EXPECT_EQ(percentages(logits, options), (std::vector<int>{0, 100, 0, 0}));
}

TEST(Sampling, ZeroTemperatureTakesTheFirstLargest) {
  const SamplingOptions greedy{0, 0, 1};
  EXPECT_EQ(draw(logits, greedy, 0.99), 1);
  EXPECT_EQ(draw({1, 3, 3}, greedy, 0.99), 1);
}

TEST(Sampling, TopKAndTopPLeaveOutTheTail) {
  EXPECT_EQ(percentages(logits, {1, 2, 1}), (std::vector<int>{0, 57, 0, 43}));
  EXPECT_EQ(percentages(logits, {1, 1, 1}), (std::vector<int>{0, 100, 0, 0}));
  EXPECT_EQ(percentages(logits, {1, 99, 1}), (std::vector<int>{10, 40, 20, 30}));
  EXPECT_EQ(percentages(logits, {1, 0, 0.65}), (std::vector<int>{0, 57, 0, 43}));
  EXPECT_EQ(percentages(logits, {1, 0, 0.75}), (std::vector<int>{0, 44, 22, 33}));
  EXPECT_EQ(percentages(logits, {1, 0, 1e-9}), (std::vector<int>{0, 100, 0, 0}));
  // top-p is measured on what top-k left: 4/7 and 3/7
  EXPECT_EQ(percentages(logits, {1, 2, 0.5}), (std::vector<int>{0, 100, 0, 0}));
}

TEST(Sampling, NeverTakesTheImpossible) {
  const std::vector<float> row{-infinity, 0, -infinity, 0};
  EXPECT_EQ(percentages(row, {}), (std::vector<int>{0, 50, 0, 50}));
  EXPECT_EQ(draw(row, {}, std::nextafter(1.0, 0.0)), 3);
  EXPECT_EQ(draw(row, {}, 0), 1);
}

TEST(Sampling, LargeLogitsDoNotOverflow) {
  EXPECT_EQ(percentages({3e38f, 3e38f, -3e38f}, {}), (std::vector<int>{50, 50, 0}));
}

TEST(Sampling, PenalisesWhatHasOccurred) {
  const std::vector<float> row{2, -1, 1.5F, -1};
  const SamplingOptions greedy{.temperature = 0, .repetition_penalty = 2};
  EXPECT_EQ(draw(row, greedy, 0), 0);
  EXPECT_EQ(draw(row, greedy, 0, {1, 0, 0, 0}), 2) << "2 becomes 1";
  EXPECT_EQ(draw(row, {.temperature = 0}, 0, {1, 0, 0, 0}), 0) << "no penalty";
  // Of two tokens with logit -1 one becomes -2; the others are made impossible.
  constexpr float never = -infinity;
  const std::vector<float> two{never, -1, never, -1};
  const double share = 100 / (1 + std::exp(-1.0));
  const auto counts = [&](const std::vector<std::uint8_t>& occurred) {
    int first = 0;
    for (int i = 0; i < 1000; ++i) {
      first += draw(two, {.repetition_penalty = 2}, (i + 0.5) / 1000, occurred) == 1 ? 1 : 0;
    }
    return first / 10.0;
  };
  EXPECT_NEAR(counts({0, 0, 0, 0}), 50, 0.2);
  EXPECT_NEAR(counts({0, 0, 1, 1}), share, 0.2);
}

TEST(Sampling, RefusesBadArguments) {
  const auto error = [](const std::vector<float>& row, SamplingOptions options, double uniform) {
    return message_of([&] { draw(row, options, uniform); });
  };
  EXPECT_TRUE(contains(error(logits, {-1, 0, 1}, 0), "temperature is -1, must be 0 or more"));
  EXPECT_TRUE(contains(error(logits, {std::nan(""), 0, 1}, 0), "temperature is nan"));
  EXPECT_TRUE(contains(error(logits, {1, 0, 0}, 0), "top_p is 0, must be more than 0, at most 1"));
  EXPECT_TRUE(contains(error(logits, {1, 0, 1.5}, 0), "top_p is 1.5"));
  EXPECT_TRUE(contains(error(logits, {.top_k = -1}, 0), "top_k is -1"));
  EXPECT_TRUE(contains(error(logits, {.repetition_penalty = 0}, 0),
                       "repetition_penalty is 0, must be more than 0"));
  EXPECT_TRUE(contains(message_of([] {
                         draw(logits, {}, 0, {1, 1});
                       }),
                       "occurred has 2 elements, must have as many as logits, 4"));
  EXPECT_TRUE(contains(error(logits, {}, 1), "uniform is 1"));
  EXPECT_TRUE(contains(error({}, {}, 0), "no logits"));
  EXPECT_TRUE(contains(error({0, std::nanf("")}, {}, 0), "logit 1 is nan"));
  EXPECT_TRUE(contains(error({infinity}, {}, 0), "logit 0 is inf"));
  EXPECT_TRUE(contains(error({-infinity, -infinity}, {}, 0), "all logits are -infinity"));
}

}  // namespace
}  // namespace reformer::test
