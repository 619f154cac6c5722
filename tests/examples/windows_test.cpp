// SPDX-License-Identifier: MIT
#include "enwik8/windows.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

Windows training_windows(const Text& text, std::int64_t count, std::int64_t length,
                         std::uint64_t seed, std::int64_t first) {
  return TrainingWindows(text, text.whole(), length, seed).of(first, count);
}

EvaluationWindows evaluation_windows(const Text& text, std::int64_t count, std::int64_t length,
                                     std::int64_t limit = 0, std::int64_t overlap = 0) {
  return {text, text.whole(), count, length, limit, overlap};
}

TEST(Windows, LabelsAreTheInputsOneFurtherOn) {
  const auto text = counting(200);
  const Windows windows = training_windows(text, 3, 10, 7, 0);
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

TEST(Windows, CutOnesHaveTheSameTokens) {
  const auto text = counting(200);
  const Windows windows = training_windows(text, 3, 12, 7, 0), parts = cut(windows, 4);
  EXPECT_EQ(parts.count, 12);
  EXPECT_EQ(parts.length, 3);
  EXPECT_EQ(parts.inputs, windows.inputs);
  EXPECT_EQ(parts.labels, windows.labels);
  EXPECT_EQ(cut(windows, 5).count, 3) << "12 is no multiple of 5";
  const std::vector<Stretch> documents = {{0, 8}, {10, 5}};
  const Windows padded = TrainingWindows(Text(text), documents, 8, 7).of(0, 20);
  ASSERT_FALSE(padded.lengths.empty());
  EXPECT_EQ(cut(padded, 4).count, padded.count) << "padding would be windows of its own";
}

TEST(Windows, PlacesDependOnSeedAndNumberOnlyAndCoverTheText) {
  const auto text = counting(100);
  const auto inputs = [&](std::uint64_t seed, std::int64_t first) {
    return training_windows(text, 4, 8, seed, first).inputs;
  };
  EXPECT_EQ(inputs(1, 5), inputs(1, 5));
  EXPECT_NE(inputs(1, 5), inputs(2, 5));
  EXPECT_NE(inputs(1, 5), inputs(1, 9));
  // The passes of a step see what one large pass would see.
  const auto all = training_windows(text, 8, 8, 1, 5).inputs;
  EXPECT_TRUE(std::equal(all.begin() + 32, all.end(), inputs(1, 9).begin()));

  std::set<std::int32_t> starts;
  for (std::int64_t number = 0; number < 2000; ++number) {
    starts.insert(training_windows(text, 1, 8, 3, number).inputs[0]);
  }
  EXPECT_EQ(starts.size(), 92u) << "all places at which a window and its last label fit";
  EXPECT_EQ(*starts.rbegin(), 91);
}

TEST(Windows, AnEpochSeesNearlyEverythingOnce) {
  const auto bytes = counting(241);
  const Text text(bytes);
  const TrainingWindows all(text, text.whole(), 8, 3);
  ASSERT_EQ(all.windows_per_epoch(), 30);
  for (std::int64_t epoch = 0; epoch < 20; ++epoch) {
    const std::vector<std::int32_t> labels = all.of(epoch * 30, 30).labels;
    ASSERT_EQ(labels.size(), 240u);
    EXPECT_GE(std::set(labels.begin(), labels.end()).size(), 240u - 8 / 2) << "epoch " << epoch;
  }
}

TEST(Windows, AnEpochHasEachDocumentThatFitsOnce) {
  const auto bytes = counting(60);
  const Text text(bytes);
  const std::vector<Stretch> documents = {{0, 8}, {10, 5}, {20, 1}, {30, 8}, {50, 3}};
  const TrainingWindows all(text, documents, 8, 3);
  ASSERT_EQ(all.windows_per_epoch(), 5);
  for (std::int64_t epoch = 0; epoch < 20; ++epoch) {
    std::multiset<std::int32_t> begins;
    for (std::int64_t i = 0; i < 5; ++i) begins.insert(all.of(epoch * 5 + i, 1).inputs[0]);
    EXPECT_EQ(begins, (std::multiset<std::int32_t>{0, 10, 20, 30, 50})) << "epoch " << epoch;
  }
}

TEST(Windows, KnowHowOftenAllHasBeenRead) {
  const auto text = counting(241);  // 30 windows
  EXPECT_EQ(training_windows(text, 2, 8, 1, 0).epochs_before, 0);
  EXPECT_EQ(training_windows(text, 2, 8, 1, 15).epochs_before, 0.5);
  EXPECT_EQ(training_windows(text, 2, 8, 1, 75).epochs_before, 2.5);
  EXPECT_EQ(cut(training_windows(text, 2, 8, 1, 15), 4).epochs_before, 0.5);
}

TEST(Windows, ATextOfOneWindowIsEnough) {
  const auto text = counting(9);
  EXPECT_EQ(training_windows(text, 1, 8, 1, 0).labels.back(), 8);
}

TEST(Windows, EvaluationPredictsEachByteButTheFirstOnce) {
  for (const std::size_t size : {2u, 3u, 8u, 9u, 10u, 17u, 41u, 50u, 64u, 65u, 66u}) {
    const auto text = counting(size);
    EvaluationWindows all = evaluation_windows(text, 3, 8);
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
      EvaluationWindows all = evaluation_windows(text, 3, 8, 0, overlap);
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
  EvaluationWindows some = evaluation_windows(text, 4, 8, 20);
  EXPECT_FALSE(some.is_whole());
  EXPECT_EQ(some.labels(), 20);
  EXPECT_EQ(some.next().positions(), 16);
  const Windows last = some.next();
  EXPECT_EQ(last.count, 1);
  EXPECT_EQ(last.length, 4);
  EXPECT_EQ(last.labels.back(), 20);
  EXPECT_EQ(some.next().count, 0);
  EXPECT_EQ(evaluation_windows(text, 4, 8, 1000).labels(), 99);
  EXPECT_TRUE(evaluation_windows(text, 4, 8, 99).is_whole());
}

TEST(Windows, TooShortATextHasNone) {
  EXPECT_EQ(evaluation_windows(counting(1), 4, 8).next().count, 0);
  EXPECT_EQ(evaluation_windows({}, 4, 8).next().count, 0);
}

TEST(Windows, TheRuleNamesTheLength) {
  EXPECT_TRUE(contains(context_rule(512), "windows of 512 bytes"));
}

/// Documents of 5, 1, 9, 40, 2 and 23 bytes, one after another.
class DocumentWindows : public testing::Test {
 protected:
  Text text(std::int64_t begin = 0, std::int64_t size = 80) const {
    return Text(bytes_).with(ends_).part(begin, size);
  }

  const std::vector<std::uint8_t> bytes_ = counting(80);
  DocumentEnds ends_{{5, 6, 15, 55, 57, 80}, false};
};

TEST_F(DocumentWindows, LieInStretchesOfTheirText) {
  EXPECT_EQ(text().documents(),
            (std::vector<Stretch>{{0, 4}, {6, 8}, {15, 39}, {55, 1}, {57, 22}}));
  // Of a part, as much of them as it has.
  EXPECT_EQ(text(8, 30).documents(), (std::vector<Stretch>{{0, 6}, {7, 22}}));
  EXPECT_EQ(text(15, 40).documents(), (std::vector<Stretch>{{0, 39}}));
  EXPECT_EQ(text(54, 2).documents(), std::vector<Stretch>());
  EXPECT_EQ(text(0, 0).documents(), std::vector<Stretch>());
  // A token for the end of a document is what the next one begins with.
  ends_.has_token = true;
  EXPECT_EQ(text().documents(),
            (std::vector<Stretch>{{0, 4}, {4, 1}, {5, 9}, {14, 40}, {54, 2}, {56, 23}}));
  EXPECT_EQ(text(15, 41).documents(), (std::vector<Stretch>{{0, 39}, {39, 1}}));
  // What follows the last end is a document, too, and a text without ends is one.
  ends_.places.pop_back();
  EXPECT_EQ(text().documents().back(), (Stretch{56, 23}));
  ends_.places.clear();
  EXPECT_EQ(text().documents(), text().whole());
}

TEST_F(DocumentWindows, EvaluatePredictEachLabelOnceFromItsDocument) {
  for (const bool has_token : {false, true}) {
    for (const std::int64_t overlap : {0, 3}) {
      ends_.has_token = has_token;
      EvaluationWindows all(text(), text().documents(), 3, 8, 0, overlap);
      EXPECT_TRUE(all.is_whole());
      std::vector<std::int32_t> labels;
      int full = 0;
      for (Windows windows = all.next(); windows.count > 0; windows = all.next()) {
        ASSERT_EQ(windows.inputs.size(), static_cast<std::size_t>(windows.positions()));
        ASSERT_TRUE(windows.lengths.empty()) << "no window of an evaluation is padded";
        full = std::max(full, static_cast<int>(windows.count));
        for (std::size_t i = 0; i < windows.labels.size(); ++i) {
          const auto input = windows.inputs[i];
          if (windows.labels[i] == reformer::ignored_label) {
            EXPECT_LT(static_cast<std::int64_t>(i) % windows.length, windows.context);
            continue;
          }
          EXPECT_EQ(windows.labels[i], input + 1);
          labels.push_back(windows.labels[i]);
          for (const std::int64_t end : ends_.places) {
            const auto first = windows.inputs[i - i % static_cast<std::size_t>(windows.length)];
            EXPECT_FALSE(first + (has_token ? 1 : 0) < end && input + 1 >= end)
                << "from " << first << " to " << input + 1;
          }
        }
      }
      EXPECT_EQ(full, 3) << "windows of one length are taken together";
      std::vector<std::int32_t> expected;
      for (std::int32_t byte = 1; byte < 80; ++byte) {
        if (has_token ||
            std::find(ends_.places.begin(), ends_.places.end(), byte) == ends_.places.end()) {
          expected.push_back(byte);
        }
      }
      EXPECT_EQ(labels, expected);
      EXPECT_EQ(all.labels(), std::ssize(expected));
    }
  }
  EvaluationWindows some(text(), text().documents(), 3, 8, 14);
  EXPECT_FALSE(some.is_whole());
  std::int64_t count = 0;
  for (Windows windows = some.next(); windows.count > 0; windows = some.next()) {
    count += windows.positions();
  }
  EXPECT_EQ(count, 14);
}

TEST_F(DocumentWindows, OfTrainingArePaddedAndSeeAllDocumentsEquallyOften) {
  const TrainingWindows all(text(), text().documents(), 8, 5);
  std::vector<int> seen(80);
  constexpr int steps = 20'000;
  for (std::int64_t step = 1; step <= steps; ++step) {
    const Windows windows = all.of(2 * step, 2);
    ASSERT_EQ(windows.count, 2);
    ASSERT_LE(windows.length, 8);
    ASSERT_EQ(windows.inputs.size(), static_cast<std::size_t>(windows.positions()));
    ASSERT_EQ(windows.labels.size(), windows.inputs.size());
    std::vector<std::int64_t> lengths(2);
    for (std::size_t i = 0; i < windows.labels.size(); ++i) {
      const auto window = i / static_cast<std::size_t>(windows.length);
      if (windows.labels[i] == reformer::ignored_label) {
        ASSERT_EQ(windows.inputs[i], 0);
        continue;
      }
      ASSERT_EQ(++lengths[window], static_cast<std::int64_t>(i) % windows.length + 1)
          << "padding is at the end";
      ASSERT_EQ(windows.labels[i], windows.inputs[i] + 1);
      ++seen[static_cast<std::size_t>(windows.labels[i])];
    }
    ASSERT_EQ(*std::max_element(lengths.begin(), lengths.end()), windows.length);
    ASSERT_EQ(windows.lengths, lengths[0] == lengths[1] ? std::vector<std::int64_t>() : lengths);
    ASSERT_EQ(all.labels(2 * step, 2), lengths[0] + lengths[1]);
    ASSERT_EQ(windows.label_bytes, lengths[0] + lengths[1]);
  }
  // Weights are 8 + 8 + 39 + 8 + 22. The middle of a window is any place of a stretch that it can
  // be.
  std::vector<double> expected(80);
  for (const auto& [begin, labels] : text().documents()) {
    const std::int64_t length = std::min<std::int64_t>(labels, 8);
    const double often = 2.0 * steps * static_cast<double>(std::max<std::int64_t>(labels, 8)) / 85;
    for (std::int64_t middle = 0; middle < labels; ++middle) {
      const std::int64_t start = std::clamp<std::int64_t>(middle - 4, 0, labels - length);
      for (std::int64_t i = 1; i <= length; ++i) {
        expected[static_cast<std::size_t>(begin + start + i)] +=
            often / static_cast<double>(labels);
      }
    }
    // All labels of each document together are seen as often as there are.
    const auto first = seen.begin() + begin + 1;
    EXPECT_NEAR(std::accumulate(first, first + labels, 0.0) / static_cast<double>(labels),
                2.0 * steps * 8 / 85, 200);
  }
  for (std::size_t label = 0; label < 80; ++label) {
    EXPECT_NEAR(seen[label], expected[label], 5 * std::sqrt(expected[label])) << label;
  }
}

}  // namespace
}  // namespace enwik8::test
