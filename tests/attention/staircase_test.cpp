// SPDX-License-Identifier: MIT
/// The staircase of a block: every pair that causality allows is marked, pairs that need no mask
/// are what they say, and what is hidden is mostly left out.
#include "reformer/attention/staircase.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "reformer/foundation/check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
struct Positions {
  std::vector<Scalar> query, key;

  detail::Staircase stairs(bool causal = true, bool all_real = true, bool sees_itself = true,
                           Index grain = 1) const {
    return {query.data(), static_cast<Index>(query.size()),
            key.data(),   static_cast<Index>(key.size()),
            causal,       sees_itself,
            all_real,     grain};
  }
};

/// Different positions below `limit`, ascending.
template <typename Scalar>
std::vector<Scalar> ascending(Index count, Index limit, std::uint64_t seed) {
  std::vector<Scalar> all(static_cast<std::size_t>(limit));
  std::iota(all.begin(), all.end(), Scalar(0));
  const RandomStream stream = random_stream(seed);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const auto rest = static_cast<double>(all.size() - i);
    std::swap(all[i], all[i + static_cast<std::size_t>(stream.uniform(i) * rest)]);
  }
  all.resize(static_cast<std::size_t>(count));
  std::sort(all.begin(), all.end());
  return all;
}

/// Keys in `runs` chunks, the last of which are the queries.
template <typename Scalar>
Positions<Scalar> chunks(Index length, Index runs) {
  Positions<Scalar> result;
  for (Index g = 0; g < runs; ++g) {
    result.query = ascending<Scalar>(length, 10 * length, static_cast<std::uint64_t>(g));
    result.key.insert(result.key.end(), result.query.begin(), result.query.end());
  }
  return result;
}

/// Checks a staircase pair by pair.
/// @return pairs that it marks
template <typename Scalar>
Index check_pairs(const Positions<Scalar>& positions, const detail::Staircase& stairs,
                  const std::string& what) {
  const auto queries = static_cast<Index>(positions.query.size());
  const auto keys = static_cast<Index>(positions.key.size());
  std::vector<int> marked(static_cast<std::size_t>(queries * keys));
  Index total = 0, strip_end = 0;
  for (Index s = 0; s < stairs.num_strips(); ++s) {
    EXPECT_EQ(stairs.strip_begin(s), strip_end) << what;
    strip_end = stairs.strip_end(s);
    for (Index g = 0; g < stairs.num_runs(); ++g) {
      EXPECT_LE(stairs.earlier_end(g, s), stairs.seen_end(g, s)) << what;
      for (Index j = stairs.run_begin(g); j < stairs.seen_end(g, s); ++j) {
        for (Index i = stairs.strip_begin(s); i < strip_end; ++i) {
          ++marked[static_cast<std::size_t>(j * queries + i)];
          ++total;
          if (j < stairs.earlier_end(g, s)) {
            EXPECT_LT(positions.key[static_cast<std::size_t>(j)],
                      positions.query[static_cast<std::size_t>(i)])
                << what << ": key " << j << " needs a mask for query " << i;
          }
        }
      }
    }
  }
  EXPECT_EQ(strip_end, queries) << what;
  for (Index j = 0; j < keys; ++j) {
    for (Index i = 0; i < queries; ++i) {
      const int times = marked[static_cast<std::size_t>(j * queries + i)];
      EXPECT_LE(times, 1) << what << ": key " << j << ", query " << i;
      if (positions.key[static_cast<std::size_t>(j)] <=
          positions.query[static_cast<std::size_t>(i)]) {
        EXPECT_EQ(times, 1) << what << ": key " << j << " is hidden from query " << i;
      }
    }
  }
  return total;
}

/// Steps cover the pairs that strips see, each once.
void check_steps(const detail::Staircase& stairs, Index pairs, Index queries,
                 const std::string& what) {
  Index total = 0;
  stairs.for_each_step([&](Index first, Index last, Index g, Index s) {
    EXPECT_LT(first, last) << what;
    EXPECT_EQ(last, stairs.seen_end(g, s)) << what;
    total += (last - first) * (queries - stairs.strip_begin(s));
  });
  EXPECT_EQ(total, pairs) << what;
}

/// Groups of strips begin where products may, and their steps cover what all strips see.
void check_groups(const detail::Staircase& stairs, Index grain, const std::string& what) {
  for (Index s = 0; s < stairs.num_strips(); s = stairs.last_of_group(s) + 1) {
    EXPECT_EQ(stairs.strip_begin(s) % grain, 0) << what;
    EXPECT_EQ(stairs.last_of_group(stairs.last_of_group(s)), stairs.last_of_group(s)) << what;
  }
  std::vector<Index> ends(static_cast<std::size_t>(stairs.num_runs()));
  for (std::size_t g = 0; g < ends.size(); ++g) ends[g] = stairs.run_begin(static_cast<Index>(g));
  stairs.for_each_group_step([&](Index first, Index last, Index g, Index s) {
    EXPECT_EQ(first, ends[static_cast<std::size_t>(g)]) << what;
    EXPECT_EQ(last, stairs.seen_end(g, stairs.last_of_group(s))) << what;
    EXPECT_EQ(stairs.strip_begin(s) % grain, 0) << what;
    ends[static_cast<std::size_t>(g)] = last;
  });
  for (Index g = 0; g < stairs.num_runs(); ++g) {
    EXPECT_EQ(ends[static_cast<std::size_t>(g)], stairs.seen_end(g, stairs.num_strips() - 1))
        << what;
  }
}

template <typename Scalar>
void expect_pairs() {
  for (const Index length : {1, 3, 8, 9, 17, 64, 100, 300}) {
    for (const Index runs : {1, 2, 3, 8}) {
      const std::string what = reformer::detail::join("length ", length, ", runs ", runs);
      const auto positions = chunks<Scalar>(length, runs);
      const detail::Staircase stairs = positions.stairs();
      check_steps(stairs, check_pairs(positions, stairs, what), length, what);
      for (const Index grain : {32, 48}) {
        const detail::Staircase grouped = positions.stairs(true, true, true, grain);
        check_steps(grouped, check_pairs(positions, grouped, what), length, what);
        check_groups(grouped, grain, what);
      }
    }
  }
}

TEST(Staircase, MarksWhatCausalityAllowsInFloat) {
  expect_pairs<float>();
}

TEST(Staircase, MarksWhatCausalityAllowsInDouble) {
  expect_pairs<double>();
}

TEST(Staircase, LeavesOutTheKeyThatOnlyItsOwnQueryCouldSee) {
  for (const Index length : {1, 8, 17, 64}) {
    const auto own = chunks<float>(length, 1);
    const detail::Staircase stairs = own.stairs(true, true, /*sees_itself=*/false);
    EXPECT_EQ(stairs.seen_end(0, stairs.num_strips() - 1), length - 1);
    for (Index s = 0; s < stairs.num_strips(); ++s) {
      // Its last query sees all keys before it.
      EXPECT_EQ(stairs.seen_end(0, s), stairs.strip_end(s) - 1) << "strip " << s;
      EXPECT_EQ(stairs.earlier_end(0, s), stairs.strip_begin(s)) << "strip " << s;
    }
  }
}

TEST(Staircase, LeavesHiddenHalvesOut) {
  // A chunk that sees itself: half of the pairs, and half a strip for each query.
  const auto own = chunks<float>(64, 1);
  EXPECT_LE(check_pairs(own, own.stairs(), "own chunk"), 64 * 64 * 5 / 8);
  // Behind all queries there is nothing.
  const Positions<float> behind{ascending<float>(64, 100, 1), ascending<float>(64, 100, 2)};
  auto later = behind;
  for (float& key : later.key) key += 100;
  EXPECT_EQ(check_pairs(later, later.stairs(), "later keys"), 0);
}

TEST(Staircase, IsOneStepWithoutAMaskWhereAllKeysAreEarlier) {
  auto positions = chunks<float>(64, 2);
  for (float& query : positions.query) query += 1000;
  const detail::Staircase stairs = positions.stairs();
  EXPECT_EQ(stairs.num_strips(), 1);
  EXPECT_EQ(stairs.num_runs(), 1);
  EXPECT_EQ(stairs.earlier_end(0, 0), 128);
  EXPECT_EQ(stairs.seen_end(0, 0), 128);
  EXPECT_EQ(positions.stairs(true, false).earlier_end(0, 0), 0) << "padding needs a mask";
}

TEST(Staircase, IsOneStepWithoutCausality) {
  const auto positions = chunks<float>(64, 2);
  const detail::Staircase stairs = positions.stairs(false);
  EXPECT_EQ(stairs.num_strips(), 1);
  EXPECT_EQ(stairs.num_runs(), 1);
  EXPECT_EQ(stairs.earlier_end(0, 0), 0) << "a token may be its own key";
  EXPECT_EQ(stairs.seen_end(0, 0), 128);
}

TEST(Staircase, NeedsAMaskEverywhereAmongPadding) {
  const auto positions = chunks<float>(64, 2);
  const detail::Staircase stairs = positions.stairs(true, false);
  check_pairs(positions, stairs, "padding");
  for (Index g = 0; g < stairs.num_runs(); ++g) {
    for (Index s = 0; s < stairs.num_strips(); ++s) {
      EXPECT_EQ(stairs.earlier_end(g, s), stairs.run_begin(g));
    }
  }
}

TEST(Staircase, TakesKeysInAnyOrder) {
  auto positions = chunks<float>(40, 2);
  std::reverse(positions.key.begin(), positions.key.end());
  check_pairs(positions, positions.stairs(), "descending keys");
}

}  // namespace
}  // namespace reformer::test
