// SPDX-License-Identifier: MIT
#include "enwik8/matches.hpp"

#include <gtest/gtest.h>

#include <string>

#include "reformer/foundation/random.hpp"
#include "support/naive_attention.hpp"

namespace enwik8::test {
namespace {

using reformer::Bucket;
using reformer::Index;
using reformer::LshPattern;

/// Buckets `[R, T]`.
std::vector<Bucket> some_buckets(Index rounds, Index length, Index buckets) {
  const reformer::RandomStream stream({3}, reformer::Purpose::data);
  std::vector<Bucket> ids;
  for (Index i = 0; i < rounds * length; ++i) {
    const double number =
        stream.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(buckets);
    ids.push_back(static_cast<Bucket>(number));
  }
  return ids;
}

TEST(Visibility, IsThatOfTheDefinitionOfEachPattern) {
  for (const auto chunking :
       {reformer::Chunking::sorted_chunks, reformer::Chunking::bucket_chunks}) {
    for (const Index rounds : {1, 3}) {
      for (const Index after : {0, 1}) {
        const Index length = 61;
        LshPattern pattern{.chunk_length = 4,
                           .chunks_before = 1,
                           .chunks_after = after,
                           .num_hashes = rounds,
                           .num_buckets = {6}};
        pattern.chunking = chunking;
        const auto ids = some_buckets(rounds, length, 6);
        std::vector<std::vector<Bucket>> of_round;
        for (Index r = 0; r < rounds; ++r) {
          of_round.emplace_back(ids.begin() + r * length, ids.begin() + (r + 1) * length);
        }
        const auto counts = reformer::test::naive::pattern_counts(pattern, length, {}, of_round);
        const Visibility visibility(pattern, ids, length);
        for (Index query = 0; query < length; ++query) {
          for (Index key = 0; key < length; ++key) {
            ASSERT_EQ(visibility.sees(query, key), counts(query, key) > 0)
                << "query " << query << ", key " << key << ", rounds " << rounds << ", after "
                << after;
          }
        }
      }
    }
  }
}

/// One window in which the bytes of the first half come again, and buckets of one head.
struct Repeated {
  Windows windows;
  reformer::Tensor<Bucket, 4> buckets;

  explicit Repeated(bool by_content, bool is_one_bucket) {
    windows.count = 1;
    windows.length = 100;
    for (std::int32_t i = 0; i <= 100; ++i) {
      const std::int32_t byte = i % 50;
      if (i < 100) windows.inputs.push_back(byte);
      if (i > 0) windows.labels.push_back(byte);
    }
    buckets.resize(1, 1, 1, 100);
    for (Index t = 0; t < 100; ++t) {
      buckets(0, 0, 0, t) = static_cast<Bucket>(is_one_bucket ? 0 : by_content ? t % 50 : t);
    }
  }
};

TEST(Matches, CountWhatIsSeenBesideWhatIsNot) {
  LshPattern pattern{.chunk_length = 4, .num_buckets = {128}};
  pattern.chunking = reformer::Chunking::bucket_chunks;
  const auto line_of = [&](bool by_content, Index chunk_length = 4) {
    pattern.chunk_length = chunk_length;
    Matches matches({{}, {pattern}}, 0, 100);
    const Repeated data(by_content, chunk_length == 1);
    matches.add(data.windows, {{}, {data.buckets}});
    EXPECT_EQ(matches.lines().size(), 2u) << "a heading and one class, of the layer that hashes";
    return matches.lines().back();
  };
  // The label of each place from 57 on and the eight bytes before it stand once more 50 bytes back.
  EXPECT_NE(line_of(true).find("43         100.0%       100.0%         100.0%             0.0%"),
            std::string::npos)
      << line_of(true);
  EXPECT_NE(line_of(false).find("43           0.0%         0.0%           0.0%             0.0%"),
            std::string::npos)
      << line_of(false);
  // One bucket, whose window ends two tokens back.
  EXPECT_NE(line_of(true, 1).find("43           0.0%         0.0%         100.0%             0.0%"),
            std::string::npos)
      << line_of(true, 1);
}

TEST(Matches, AreOfAllKindsOfHeadsOfALayer) {
  LshPattern pattern{.chunk_length = 4, .num_buckets = {128}};
  pattern.chunking = reformer::Chunking::bucket_chunks;
  LshPattern other = pattern;
  other.chunk_length = 5;
  const LshPattern too_short{.chunk_length = 100};  // does not hash
  Matches matches({{pattern, too_short, other}}, 0, 100);
  const Repeated found(true, false), lost(false, false);
  matches.add(found.windows, {{found.buckets, lost.buckets}});
  EXPECT_NE(matches.lines().back().find("43          50.0%       100.0%          50.0%"),
            std::string::npos)
      << matches.lines().back();
}

}  // namespace
}  // namespace enwik8::test
