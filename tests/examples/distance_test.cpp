// SPDX-License-Identifier: MIT
#include "enwik8/distance.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "reformer/foundation/random.hpp"

namespace enwik8::test {
namespace {

std::vector<std::uint8_t> bytes_of(const std::string& text) {
  return {text.begin(), text.end()};
}

/// Words of a few letters, so that there are repetitions of every length.
std::vector<std::uint8_t> some_text(std::size_t length, std::uint64_t seed) {
  const reformer::RandomStream stream({seed}, reformer::Purpose::data);
  std::vector<std::uint8_t> text;
  for (std::uint64_t i = 0; text.size() < length; ++i) {
    const std::uint32_t bits = stream.bits(i)[0];
    const std::size_t copied = bits % 40, back = 1 + bits / 64 % 700;
    if (bits % 3 == 0 && back < text.size()) {
      for (std::size_t j = 0; j < copied; ++j) {
        text.push_back(text[text.size() - back]);
      }
    } else {
      text.push_back(static_cast<std::uint8_t>('a' + bits / 64 % 4));
    }
  }
  text.resize(length);
  return text;
}

TEST(RepetitionDistances, AreThoseToTheLastPlaceWithTheSameNineBytes) {
  const auto text = some_text(3000, 1);
  const auto distances = repetition_distances(text);
  ASSERT_EQ(distances.size(), text.size() - 1);
  std::int64_t repeated = 0;
  for (std::int64_t label = 1; label < std::ssize(text); ++label) {
    std::int64_t expected = 0;
    for (std::int64_t place = label - 1; place >= repeated_bytes && label >= repeated_bytes;
         --place) {
      if (std::equal(text.begin() + place - repeated_bytes, text.begin() + place + 1,
                     text.begin() + label - repeated_bytes)) {
        expected = label - place;
        break;
      }
    }
    ASSERT_EQ(distances[static_cast<std::size_t>(label - 1)], expected) << "label " << label;
    repeated += expected > 0 ? 1 : 0;
  }
  EXPECT_GT(repeated, 300);
}

TEST(RepetitionDistances, OfShortTextsAreNone) {
  for (const char* text : {"", "a", "aaaaaaaa", "aaaaaaaaa"}) {
    for (const std::int64_t distance : repetition_distances(bytes_of(text))) {
      EXPECT_EQ(distance, 0) << text;
    }
  }
  // Ten equal bytes: the last nine are the first nine once more.
  EXPECT_EQ(repetition_distances(bytes_of("aaaaaaaaaa")).back(), 1);
}

TEST(DistanceClasses, SumEachLabelOnceWithinItsWindow) {
  const std::int64_t length = 1500;
  const auto text = some_text(4 * length + 1, 2);
  EvaluationWindows all(text, Text(text).whole(), 2, length);
  DistanceClasses classes(100, length);
  std::vector<std::int64_t> bytes(4);
  std::vector<double> nats(4);
  for (Windows windows = all.next(); windows.count > 0; windows = all.next()) {
    std::vector<double> losses(windows.labels.size());
    for (std::size_t i = 0; i < losses.size(); ++i) {
      losses[i] = static_cast<double>(i % 7);
    }
    classes.add(windows, losses);
    for (std::int64_t w = 0; w < windows.count; ++w) {
      const auto first = windows.inputs.begin() + w * length;
      std::vector<std::uint8_t> window(first, first + length);
      window.push_back(static_cast<std::uint8_t>(
          windows.labels[static_cast<std::size_t>((w + 1) * length - 1)]));
      const auto distances = repetition_distances(window);
      for (std::size_t i = 0; i < distances.size(); ++i) {
        const std::int64_t d = distances[i];
        const std::size_t c = d == 0 ? 3 : d <= 100 ? 0 : d <= 1024 ? 1 : 2;
        ++bytes[c];
        nats[c] += losses[static_cast<std::size_t>(w * length) + i];
      }
    }
  }
  const nlohmann::json list = classes.to_json();
  ASSERT_EQ(list.size(), 4u);
  const std::vector<std::int64_t> from{1, 101, 1025}, to{100, 1024, 1500};
  for (std::size_t c = 0; c < 4; ++c) {
    EXPECT_EQ(list[c]["bytes"], bytes[c]) << c;
    EXPECT_NEAR(list[c]["share"].get<double>(), static_cast<double>(bytes[c]) / 6000, 1e-12);
    if (bytes[c] > 0) {
      EXPECT_NEAR(list[c]["bpb"].get<double>(),
                  nats[c] / std::log(2.0) / static_cast<double>(bytes[c]), 1e-12);
    } else {
      EXPECT_TRUE(list[c]["bpb"].is_null());
    }
    EXPECT_EQ(list[c].contains("to"), c < 3);
    if (c < 3) {
      EXPECT_EQ(list[c]["from"], from[c]);
      EXPECT_EQ(list[c]["to"], to[c]);
    }
  }
  EXPECT_EQ(classes.lines().size(), 5u);
}

TEST(DistanceClasses, EndAtTheWindow) {
  EXPECT_EQ(DistanceClasses(0, 1000).lines().size(), 3u);        // one class, and nothing
  EXPECT_EQ(DistanceClasses(254, 1024).lines().size(), 4u);      // up to 254, up to 1,024
  EXPECT_EQ(DistanceClasses(1024, 100'000).lines().size(), 7u);  // 1,024 is one limit
}

}  // namespace
}  // namespace enwik8::test
