// SPDX-License-Identifier: MIT
#include "training/shuffled_epochs.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace training::test {
namespace {

std::vector<std::int64_t> items_of(const ShuffledEpochs& epochs, std::int64_t epoch) {
  std::vector<std::int64_t> items;
  for (std::int64_t i = 0; i < epochs.count(); ++i) {
    const auto turn = epochs.turn(epoch * epochs.count() + i);
    EXPECT_EQ(turn.epoch, epoch);
    items.push_back(turn.item);
  }
  return items;
}

TEST(ShuffledEpochs, HaveEachItemOnce) {
  for (const std::int64_t count : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4097}) {
    const ShuffledEpochs epochs(count, 7);
    std::vector<std::int64_t> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    for (const std::int64_t epoch : {0, 1, 2, 1'000'000}) {
      auto items = items_of(epochs, epoch);
      std::sort(items.begin(), items.end());
      ASSERT_EQ(items, all) << count << " items, epoch " << epoch;
    }
  }
}

TEST(ShuffledEpochs, HaveAnOrderOfTheirOwnForEachEpochAndSeed) {
  const ShuffledEpochs epochs(100, 7);
  EXPECT_EQ(items_of(epochs, 3), items_of(ShuffledEpochs(100, 7), 3));
  EXPECT_NE(items_of(epochs, 3), items_of(epochs, 4));
  EXPECT_NE(items_of(epochs, 3), items_of(ShuffledEpochs(100, 8), 3));
}

TEST(ShuffledEpochs, PutEachItemEverywhereEquallyOften) {
  // Five items are permuted among 16 numbers. The places times 4/5 have the distribution of chi
  // square with 16 degrees of freedom, the pairs with 19: they exceed 48 and 60 less than once in
  // 10,000 times.
  constexpr std::int64_t count = 5, tries = 20'000;
  std::vector<double> places(count * count), pairs(count * count);
  const ShuffledEpochs epochs(count, 11);
  for (std::int64_t epoch = 0; epoch < tries; ++epoch) {
    const auto items = items_of(epochs, epoch);
    for (std::size_t place = 0; place < count; ++place) {
      ++places[place * count + static_cast<std::size_t>(items[place])];
    }
    ++pairs[static_cast<std::size_t>(items[0] * count + items[1])];
  }
  const auto chi_square = [](const std::vector<double>& seen, double expected) {
    return std::accumulate(seen.begin(), seen.end(), 0.0, [&](double sum, double value) {
      return sum + (value == 0 ? 0 : (value - expected) * (value - expected) / expected);
    });
  };
  EXPECT_LT(chi_square(places, tries / 5.0), 60);
  EXPECT_LT(chi_square(pairs, tries / 20.0), 60);
  EXPECT_EQ(std::count(pairs.begin(), pairs.end(), 0), count) << "no item comes twice";
}

TEST(ShuffledEpochs, KnowHowMuchHasComeBefore) {
  const ShuffledEpochs epochs(8, 1);
  EXPECT_EQ(epochs.epochs_before(0), 0);
  EXPECT_EQ(epochs.epochs_before(2), 0.25);
  EXPECT_EQ(epochs.epochs_before(12), 1.5);
}

TEST(ShuffledEpochs, ReachFurtherThanARunWillCome) {
  constexpr std::int64_t count = std::int64_t{1} << 40;
  const auto turn = ShuffledEpochs(count, 1).turn(3 * count + 5);
  EXPECT_EQ(turn.epoch, 3);
  EXPECT_GE(turn.item, 0);
  EXPECT_LT(turn.item, count);
}

}  // namespace
}  // namespace training::test
