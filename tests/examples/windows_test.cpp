// SPDX-License-Identifier: MIT
#include "enwik8/windows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "examples/support.hpp"
#include "reformer/operations/cross_entropy.hpp"

namespace enwik8::test {
namespace {

std::vector<std::uint8_t> counting(std::size_t size) {
  std::vector<std::uint8_t> text(size);
  std::iota(text.begin(), text.end(), std::uint8_t{0});
  return text;
}

TEST(Windows, LabelsAreTheInputsOneFurtherOn) {
  const auto text = counting(200);
  const Windows windows = training_windows(text, 3, 10, 7, 1, 0);
  ASSERT_EQ(windows.count, 3);
  ASSERT_EQ(windows.inputs.size(), 30u);
  ASSERT_EQ(windows.labels.size(), 30u);
  for (std::size_t i = 0; i < 30; ++i) {
    EXPECT_EQ(windows.labels[i], windows.inputs[i] + 1);
    if (i % 10 > 0) {
      EXPECT_EQ(windows.inputs[i], windows.inputs[i - 1] + 1);
    }
  }
}

TEST(Windows, PlacesDependOnSeedAndStepOnlyAndCoverTheText) {
  const auto text = counting(100);
  const auto inputs = [&](std::uint64_t seed, std::int64_t step, std::int64_t first) {
    return training_windows(text, 4, 8, seed, step, first).inputs;
  };
  EXPECT_EQ(inputs(1, 5, 0), inputs(1, 5, 0));
  EXPECT_NE(inputs(1, 5, 0), inputs(2, 5, 0));
  EXPECT_NE(inputs(1, 5, 0), inputs(1, 6, 0));
  // The passes of a step see what one large pass would see.
  const auto all = training_windows(text, 8, 8, 1, 5, 0).inputs;
  EXPECT_TRUE(std::equal(all.begin() + 32, all.end(), inputs(1, 5, 4).begin()));

  std::set<std::int32_t> starts;
  for (std::int64_t step = 0; step < 2000; ++step) {
    starts.insert(inputs(3, step, 0)[0]);
  }
  EXPECT_EQ(starts.size(), 92u) << "all places at which a window and its last label fit";
  EXPECT_EQ(*starts.rbegin(), 91);
}

TEST(Windows, ATextOfOneWindowIsEnough) {
  const auto text = counting(9);
  EXPECT_EQ(training_windows(text, 1, 8, 1, 1, 0).labels.back(), 8);
}

TEST(Windows, EvaluationPredictsEachByteButTheFirstOnce) {
  for (const std::size_t size : {2u, 3u, 8u, 9u, 10u, 17u, 41u, 50u, 64u, 65u, 66u}) {
    const auto text = counting(size);
    EvaluationWindows all(text, 3, 8);
    EXPECT_EQ(all.labels(), static_cast<std::int64_t>(size) - 1);
    std::vector<std::int32_t> labels;
    std::int64_t ragged = 0;
    for (Windows windows = all.next(); windows.count > 0; windows = all.next()) {
      ASSERT_LE(windows.count, 3);
      ASSERT_EQ(windows.inputs.size(), static_cast<std::size_t>(windows.positions()));
      EXPECT_EQ(ragged, 0) << "the short window is the last";
      ragged += windows.length < 8 ? windows.count : 0;
      for (std::size_t i = 0; i < windows.labels.size(); ++i) {
        EXPECT_EQ(windows.inputs[i] + 1, windows.labels[i]);
      }
      labels.insert(labels.end(), windows.labels.begin(), windows.labels.end());
    }
    const auto text_after_first = counting(size);
    EXPECT_TRUE(std::equal(labels.begin(), labels.end(), text_after_first.begin() + 1,
                           text_after_first.end()))
        << size;
    EXPECT_EQ(ragged, (size - 1) % 8 == 0 ? 0 : 1);
  }
}

TEST(Windows, OverlappingOnesCountEachByteButTheFirstOnce) {
  for (const std::int64_t overlap : {1, 4, 7}) {
    for (const std::size_t size : {2u, 8u, 9u, 10u, 17u, 41u, 66u}) {
      const auto text = counting(size);
      EvaluationWindows all(text, 3, 8, 0, overlap);
      std::int32_t expected = 1;  // the next label that counts
      for (Windows windows = all.next(); windows.count > 0; windows = all.next()) {
        ASSERT_EQ(windows.labels.size(), static_cast<std::size_t>(windows.positions()));
        ASSERT_EQ(windows.inputs.size(), windows.labels.size());
        EXPECT_EQ(windows.context, expected == 1 ? 0 : overlap);
        for (std::int64_t i = 0; i < windows.positions(); ++i) {
          const auto at = static_cast<std::size_t>(i);
          if (i % windows.length < windows.context) {
            EXPECT_EQ(windows.labels[at], reformer::ignored_label);
          } else {
            EXPECT_EQ(windows.labels[at], expected++) << size << " bytes, overlap " << overlap;
            EXPECT_EQ(windows.inputs[at] + 1, windows.labels[at]);
          }
        }
      }
      EXPECT_EQ(expected, static_cast<std::int32_t>(size)) << "overlap " << overlap;
    }
  }
}

TEST(Windows, EvaluationStopsAtItsLimit) {
  const auto text = counting(100);
  EvaluationWindows some(text, 4, 8, 20);
  EXPECT_EQ(some.labels(), 20);
  EXPECT_EQ(some.next().positions(), 16);
  const Windows last = some.next();
  EXPECT_EQ(last.count, 1);
  EXPECT_EQ(last.length, 4);
  EXPECT_EQ(last.labels.back(), 20);
  EXPECT_EQ(some.next().count, 0);
  EXPECT_EQ(EvaluationWindows(text, 4, 8, 1000).labels(), 99);
}

TEST(Windows, TooShortATextHasNone) {
  EXPECT_EQ(EvaluationWindows(counting(1), 4, 8).next().count, 0);
  EXPECT_EQ(EvaluationWindows({}, 4, 8).next().count, 0);
}

TEST(Windows, TheRuleNamesTheLength) {
  EXPECT_TRUE(contains(context_rule(512), "windows of 512 bytes"));
}

}  // namespace
}  // namespace enwik8::test
