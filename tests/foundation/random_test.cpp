// SPDX-License-Identifier: MIT
#include "reformer/foundation/random.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "support/errors.hpp"

namespace reformer::test {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The published vectors of Random123, file kat_vectors, entries "philox4x32 10".
TEST(Philox, GivesThePublishedNumbers) {
  constexpr std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(detail::philox({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(detail::philox({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(
      detail::philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Written out from the key and the counter, so that a change of the layout, which would change the
// result of every training run and checkpoint, does not pass unnoticed.
TEST(RandomStream, BuildsKeyAndCounterFromItsNames) {
  const RandomStream stream({0x0123456789abcdef, 77, 5}, Purpose::sampling);
  EXPECT_EQ(stream.bits(0x1'00000002),
            detail::philox({2, 1, 77, 5 << 8 | 8}, {0x89abcdef, 0x01234567}));
}

TEST(RandomStream, ElementsDependOnTheirNumberOnly) {
  const RandomStream first({3}, Purpose::data), second({3}, Purpose::data);
  std::vector<double> forwards, backwards;
  for (std::uint64_t i = 0; i < 100; ++i) forwards.push_back(first.normal(i));
  for (std::uint64_t i = 100; i-- > 0;) backwards.push_back(second.normal(i));
  std::reverse(backwards.begin(), backwards.end());
  EXPECT_EQ(forwards, backwards);
}

TEST(RandomStream, DiffersBySeedStepLayerAndPurpose) {
  const std::vector<RandomStream> streams = {
      {{1, 2, 3}, Purpose::data},
      {{2, 2, 3}, Purpose::data},
      {{1 + (std::uint64_t{1} << 32), 2, 3}, Purpose::data},  // the upper half of the seed counts
      {{1, 3, 3}, Purpose::data},
      {{1, 2, 4}, Purpose::data},
      {{1, 2, 3}, Purpose::sampling},
  };
  std::set<Words> blocks;
  for (const RandomStream& stream : streams) {
    for (std::uint64_t i = 0; i < 100; ++i) blocks.insert(stream.bits(i));
  }
  EXPECT_EQ(blocks.size(), 100 * streams.size());
}

TEST(RandomStream, LayersAndPurposesDoNotOverlap) {
  std::set<Words> blocks;
  Index streams = 0;
  for (const Index layer : {0, 1, 2, 255, 256, 257, (1 << 24) - 1}) {
    for (std::uint32_t purpose = 0; purpose <= static_cast<std::uint32_t>(Purpose::sampling);
         ++purpose) {
      const RandomStream stream(RandomKey{9}.at_layer(layer), static_cast<Purpose>(purpose));
      blocks.insert(stream.bits(0));
      ++streams;
    }
  }
  EXPECT_EQ(static_cast<Index>(blocks.size()), streams);
}

TEST(RandomKey, AtLayerKeepsSeedAndStep) {
  const RandomKey key = RandomKey{11, 22, 33}.at_layer(44);
  EXPECT_EQ(key.seed, 11U);
  EXPECT_EQ(key.step, 22U);
  EXPECT_EQ(key.layer, 44U);
}

// Bounds below are five standard deviations of the statistic; seeds are fixed.
constexpr std::uint64_t draws = 40000;

TEST(RandomStream, UniformNumbersFillTheUnitInterval) {
  const RandomStream stream({5}, Purpose::data);
  double sum = 0, squares = 0, lowest = 1, highest = 0;
  for (std::uint64_t i = 0; i < draws; ++i) {
    const double x = stream.uniform(i);
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    sum += x;
    squares += x * x;
    lowest = std::min(lowest, x);
    highest = std::max(highest, x);
  }
  const double n = draws, mean = sum / n;
  EXPECT_NEAR(mean, 0.5, 5 * std::sqrt(1 / 12.0 / n));
  EXPECT_NEAR(squares / n - mean * mean, 1 / 12.0, 5 * std::sqrt(1 / 180.0 / n));
  EXPECT_LT(lowest, 1e-3);
  EXPECT_GT(highest, 1 - 1e-3);
}

TEST(RandomStream, NormalNumbersHaveTheirMoments) {
  const RandomStream stream({6}, Purpose::data);
  double moments[5] = {}, neighbours = 0;
  for (std::uint64_t i = 0; i < draws; ++i) {
    const double x = stream.normal(i);
    ASSERT_TRUE(std::isfinite(x));
    double power = 1;
    for (double& moment : moments) {
      moment += power / static_cast<double>(draws);
      power *= x;
    }
    // A pair shares a block of bits, and must be independent all the same.
    neighbours += x * stream.normal(i ^ 1) / static_cast<double>(draws);
  }
  const double deviation = 1 / std::sqrt(static_cast<double>(draws));
  EXPECT_NEAR(moments[1], 0, 5 * deviation);
  EXPECT_NEAR(moments[2], 1, 5 * std::sqrt(2.0) * deviation);
  EXPECT_NEAR(moments[3], 0, 5 * std::sqrt(15.0) * deviation);
  EXPECT_NEAR(moments[4], 3, 5 * std::sqrt(96.0) * deviation);
  EXPECT_NEAR(neighbours, 0, 5 * std::sqrt(2.0) * deviation);  // every pair counts twice
}

TEST(RandomStream, NormalElementsAreDistinct) {
  const RandomStream stream({7}, Purpose::data);
  std::set<double> values;
  for (std::uint64_t i = 0; i < 1000; ++i) values.insert(stream.normal(i));
  EXPECT_EQ(values.size(), 1000U);
}

TEST(FillNormal, ScalesElementsOfTheStream) {
  const RandomStream stream({8}, Purpose::data);
  std::vector<float> values(7, -1);
  fill_normal(values.data(), 5, 0.25, stream);
  for (std::uint64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(values[i], static_cast<float>(0.25 * stream.normal(i)));
  }
  EXPECT_EQ(values[5], -1) << "written beyond the count";
}

TEST(RandomKey, RefusesLayersItCannotTellApart) {
  EXPECT_EQ(RandomKey{}.at_layer(16777215).layer, 16777215U);
  EXPECT_EQ(message_of([] { RandomKey{}.at_layer(16777216); }),
            "reformer::RandomKey::at_layer: layer is 16777216, must be at most 16777215");
  EXPECT_EQ(message_of([] { RandomKey{}.at_layer(-1); }),
            "reformer::RandomKey::at_layer: layer is -1, must be at least 0");
}

}  // namespace
}  // namespace reformer::test
