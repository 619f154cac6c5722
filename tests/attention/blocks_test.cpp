// SPDX-License-Identifier: MIT
/// Block lists: every pair that the definition demands, as often as it demands it, and phases whose
/// ranges of blocks may go at the same time.
#include "reformer/attention/blocks.hpp"
#include "reformer/attention/hashing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using Positions = std::vector<Index>;  // position of each slot

Index wrapped(Index slot, Index slots) {
  return ((slot % slots) + slots) % slots;
}

std::vector<detail::Block> blocks_of(const detail::BlockList auto& list,
                                     const detail::BlockRange& range) {
  std::vector<detail::Block> blocks;
  for (Index i = 0; i < range.count; ++i) blocks.push_back(list.block(range.first + i));
  return blocks;
}

std::vector<detail::Block> all_blocks(const detail::BlockList auto& list) {
  std::vector<detail::Block> blocks;
  for (Index phase = 0; phase < list.num_phases(); ++phase) {
    for (Index i = 0; i < list.num_ranges(phase); ++i) {
      const detail::BlockRange range = list.range(phase, i);
      EXPECT_GE(range.count, 1) << "range " << i << " of phase " << phase << " is empty";
      for (const detail::Block& block : blocks_of(list, range)) blocks.push_back(block);
    }
  }
  return blocks;
}

/// How often each pair of positions is seen, `[positions, positions]`.
naive::Counts count_pairs(const detail::BlockList auto& list, Index length,
                          const Positions& position) {
  naive::Counts counts = naive::Counts::Zero(length, length);
  const Index slots = list.num_slots();
  for (const detail::Block& block : all_blocks(list)) {
    for (Index q = block.query_begin; q < block.query_begin + block.num_queries; ++q) {
      EXPECT_TRUE(q >= 0 && q < slots) << "query slot " << q << " of " << slots;
      for (Index k = block.key_begin; k < block.key_begin + block.num_keys; ++k) {
        counts(position[static_cast<std::size_t>(q)],
               position[static_cast<std::size_t>(wrapped(k, slots))]) += 1;
      }
    }
  }
  return counts;
}

/// Tokens whose gradients a block adds to; queries only, for a forward pass.
std::set<Index> tokens_of(const detail::Block& block, Index slots, const Positions& position,
                          detail::Disjoint disjoint) {
  std::set<Index> tokens;
  for (Index q = 0; q < block.num_queries; ++q) {
    tokens.insert(position[static_cast<std::size_t>(block.query_begin + q)]);
  }
  if (disjoint == detail::Disjoint::queries_and_keys) {
    for (Index k = 0; k < block.num_keys; ++k) {
      tokens.insert(position[static_cast<std::size_t>(wrapped(block.key_begin + k, slots))]);
    }
  }
  return tokens;
}

/// Fails if two ranges of one phase share a token. With `queries_and_keys`, a query of one is not a
/// key of another either: with shared queries and keys both are rows of one gradient.
void expect_disjoint_phases(const detail::BlockList auto& list, const Positions& position,
                            detail::Disjoint disjoint, const std::string& what) {
  for (Index phase = 0; phase < list.num_phases(); ++phase) {
    std::map<Index, Index> owner;
    for (Index i = 0; i < list.num_ranges(phase); ++i) {
      for (const detail::Block& block : blocks_of(list, list.range(phase, i))) {
        for (const Index token : tokens_of(block, list.num_slots(), position, disjoint)) {
          const auto [it, is_new] = owner.emplace(token, i);
          ASSERT_TRUE(is_new || it->second == i)
              << what << ": ranges " << it->second << " and " << i << " of phase " << phase
              << " share token " << token;
        }
      }
    }
  }
}

/// A permutation of the tokens for each round, one after another; of one round: as they are.
Positions layout(Index slots, Index rounds) {
  Positions result;
  const RandomStream stream = random_stream(7);
  for (Index r = 0; r < rounds; ++r) {
    std::vector<std::pair<double, Index>> keyed;
    for (Index t = 0; t < slots; ++t) {
      keyed.emplace_back(
          rounds == 1 ? 0 : stream.uniform(static_cast<std::uint64_t>(r * slots + t)), t);
    }
    std::sort(keyed.begin(), keyed.end());
    for (const auto& [key, t] : keyed) result.push_back(t);
  }
  return result;
}

std::vector<std::vector<Index>> split(const Positions& positions, Index rounds) {
  std::vector<std::vector<Index>> result(static_cast<std::size_t>(rounds));
  for (std::size_t s = 0; s < positions.size(); ++s) {
    result[s * static_cast<std::size_t>(rounds) / positions.size()].push_back(positions[s]);
  }
  return result;
}

void check_chunks(Index slots, Index rounds, const Window& window) {
  const std::string what = reformer::detail::join(
      "slots ", slots, ", rounds ", rounds, ", chunk ", window.chunk_length, ", before ",
      window.chunks_before, ", after ", window.chunks_after, window.circular ? ", circular" : "");
  const Positions position = layout(slots, rounds);
  const detail::ChunkedBlocks forward(slots, rounds, window, detail::Disjoint::queries);
  const detail::ChunkedBlocks backward(slots, rounds, window, detail::Disjoint::queries_and_keys);

  naive::Counts expected = naive::Counts::Zero(slots, slots);
  naive::count_chunks(split(position, rounds), window.chunk_length, window.chunks_before,
                      window.chunks_after, window.circular, expected);
  ASSERT_EQ(count_pairs(forward, slots, position), expected) << what << ", forward";
  ASSERT_EQ(count_pairs(backward, slots, position), expected) << what << ", backward";

  expect_disjoint_phases(forward, position, detail::Disjoint::queries, what);
  expect_disjoint_phases(backward, position, detail::Disjoint::queries_and_keys, what);

  const auto by_id = [&](const detail::BlockList auto& list) {
    std::map<Index, std::tuple<Index, Index, Index, Index>> blocks;
    for (const detail::Block& b : all_blocks(list)) {
      EXPECT_TRUE(blocks
                      .emplace(b.id, std::tuple(b.query_begin, b.num_queries,
                                                wrapped(b.key_begin, list.num_slots()), b.num_keys))
                      .second)
          << what << ": two blocks have id " << b.id;
      EXPECT_GE(b.id, 0) << what;
      EXPECT_LT(b.id, rounds * ceil_div(slots, window.chunk_length)) << what;
      EXPECT_LE(b.num_keys, window.max_keys()) << what;
      EXPECT_LE(b.num_queries, window.chunk_length) << what;
    }
    return blocks;
  };
  EXPECT_EQ(by_id(forward), by_id(backward)) << what;
}

TEST(ChunkedBlocks, HoldEveryPairOfTheWindowAndRunInDisjointPhases) {
  for (const Index slots : {1, 3, 4, 5, 8, 13, 16, 29}) {
    for (const Index rounds : {1, 2, 3}) {
      for (const Index chunk_length : {1, 4, 7}) {
        for (const Index before : {0, 1, 2}) {
          for (const Index after : {0, 1, 2}) {
            for (const bool circular : {false, true}) {
              check_chunks(slots, rounds, {chunk_length, before, after, circular});
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST(ChunkedBlocks, OfNoSlotsAreNone) {
  for (const detail::Disjoint disjoint :
       {detail::Disjoint::queries, detail::Disjoint::queries_and_keys}) {
    const detail::ChunkedBlocks list(0, 2, {4, 1, 1, true}, disjoint);
    EXPECT_EQ(list.num_slots(), 0);
    EXPECT_TRUE(all_blocks(list).empty());
    // A sequence without real tokens stands in one batch with others: phases must agree.
    EXPECT_EQ(list.num_phases(),
              detail::ChunkedBlocks(9, 2, {4, 1, 1, true}, disjoint).num_phases());
  }
}

TEST(ChunkedBlocks, HaveAsManyPhasesForEveryLength) {
  for (const detail::Disjoint disjoint :
       {detail::Disjoint::queries, detail::Disjoint::queries_and_keys}) {
    for (const bool circular : {false, true}) {
      const Window window{4, 2, 1, circular};
      const Index phases = detail::ChunkedBlocks(64, 3, window, disjoint).num_phases();
      for (Index slots = 0; slots < 40; ++slots) {
        EXPECT_EQ(detail::ChunkedBlocks(slots, 3, window, disjoint).num_phases(), phases) << slots;
      }
    }
  }
}

TEST(ChunkedBlocks, RunMostOfABackwardPassInFewPhases) {
  // The ring costs a few blocks on their own; all others must share two phases, in enough ranges
  // for several threads.
  const detail::ChunkedBlocks list(1024, 1, {16, 1, 0, true}, detail::Disjoint::queries_and_keys);
  Index largest = 0;
  for (Index phase = 0; phase < list.num_phases(); ++phase) {
    largest = std::max(largest, list.num_ranges(phase));
  }
  EXPECT_LE(list.num_phases(), 3);
  EXPECT_GE(largest, 8);
}

void check_bucket_chunks(Index length, Index num_buckets, Index rounds, const Window& window,
                         double skew) {
  const std::string what = reformer::detail::join(
      "length ", length, ", buckets ", num_buckets, ", rounds ", rounds, ", chunk ",
      window.chunk_length, ", before ", window.chunks_before, ", after ", window.chunks_after);
  const Index max_chunks =
      detail::BucketBlocks::max_chunks(length, window.chunk_length, num_buckets);
  const Index table = detail::BucketBlocks::table_size(max_chunks);
  std::vector<std::int32_t> tables(static_cast<std::size_t>(rounds * table), -1);
  std::vector<std::int32_t> order(static_cast<std::size_t>(rounds * length));
  std::vector<std::vector<Bucket>> buckets(static_cast<std::size_t>(rounds));
  const RandomStream stream = random_stream(8);
  for (Index r = 0; r < rounds; ++r) {
    auto& round = buckets[static_cast<std::size_t>(r)];
    for (Index t = 0; t < length; ++t) {
      const double u = stream.uniform(static_cast<std::uint64_t>(r * length + t));
      round.push_back(static_cast<Bucket>(std::pow(u, skew) * static_cast<double>(num_buckets)));
    }
    std::vector<std::int32_t> ends(static_cast<std::size_t>(num_buckets + 1));
    detail::sort_by_bucket(round, num_buckets, ends.data(), order.data() + r * length);
    detail::BucketBlocks::fill_table({ends.data(), static_cast<std::size_t>(num_buckets)}, window,
                                     max_chunks, tables.data() + r * table);
  }
  const Positions position(order.begin(), order.end());
  const LshPattern lsh{.chunk_length = window.chunk_length,
                       .chunks_before = window.chunks_before,
                       .chunks_after = window.chunks_after,
                       .num_hashes = rounds,
                       .num_buckets = {num_buckets},
                       .chunking = Chunking::bucket_chunks};
  const naive::Counts expected = naive::own_bucket_counts(buckets, {}, lsh);
  for (const detail::Disjoint disjoint :
       {detail::Disjoint::queries, detail::Disjoint::queries_and_keys}) {
    const detail::BucketBlocks list(tables.data(), max_chunks, rounds, window, disjoint);
    ASSERT_EQ(list.num_slots(), rounds * length) << what;
    ASSERT_EQ(count_pairs(list, length, position), expected) << what;
    expect_disjoint_phases(list, position, disjoint, what);
    std::set<Index> ids;
    for (const detail::Block& b : all_blocks(list)) {
      EXPECT_TRUE(ids.insert(b.id).second) << what << ": two blocks have id " << b.id;
      EXPECT_LT(b.id, rounds * max_chunks) << what;
      EXPECT_LE(b.num_keys, window.max_keys()) << what;
      EXPECT_LE(b.num_queries, window.chunk_length) << what;
    }
  }
}

TEST(BucketBlocks, HoldEveryPairOfTheWindowAndRunInDisjointPhases) {
  for (const Index length : {1, 3, 8, 29, 70}) {
    for (const Index num_buckets : {2, 6, 64}) {
      for (const Index chunk_length : {1, 4, 7}) {
        for (const Index before : {0, 1, 2}) {
          for (const Index after : {0, 1}) {
            for (const double skew : {1.0, 4.0}) {
              check_bucket_chunks(length, num_buckets, 2, {chunk_length, before, after}, skew);
              if (HasFatalFailure()) return;
            }
          }
        }
      }
    }
  }
}

TEST(BucketBlocks, OfNoSlotsAreNone) {
  std::vector<std::int32_t> table(static_cast<std::size_t>(detail::BucketBlocks::table_size(5)),
                                  -1);
  const std::vector<std::int32_t> ends(4, 0);
  detail::BucketBlocks::fill_table(ends, {4, 1, 0}, 5, table.data());
  const detail::BucketBlocks list(table.data(), 5, 1, {4, 1, 0},
                                  detail::Disjoint::queries_and_keys);
  EXPECT_EQ(list.num_slots(), 0);
  EXPECT_TRUE(all_blocks(list).empty());
}

TEST(BucketBlocks, HaveAsManyPhasesForEveryHead) {
  // Heads of one group stand in one loop over phases.
  const auto phases = [](const std::vector<std::int32_t>& ends) {
    const Index most = 100;
    std::vector<std::int32_t> table(
        static_cast<std::size_t>(detail::BucketBlocks::table_size(most)), -1);
    const Window window{4, 2, 1};
    detail::BucketBlocks::fill_table(ends, window, most, table.data());
    return detail::BucketBlocks(table.data(), most, 3, window, detail::Disjoint::queries_and_keys)
        .num_phases();
  };
  EXPECT_EQ(phases({0, 0}), phases({3, 5}));
  EXPECT_EQ(phases({0, 0}), phases({170, 171}));
}

TEST(TiledBlocks, HoldEveryPairOnceAndRunInDisjointPhases) {
  constexpr Index tile = detail::TiledBlocks::tile;
  for (const bool causal : {false, true}) {
    for (const Index length :
         {Index{1}, Index{5}, tile - 1, tile, tile + 1, 2 * tile, 3 * tile + 7, 5 * tile - 1}) {
      const std::string what = reformer::detail::join("length ", length, causal ? ", causal" : "");
      for (const detail::Disjoint disjoint :
           {detail::Disjoint::queries, detail::Disjoint::queries_and_keys}) {
        const detail::TiledBlocks list(length, causal, disjoint);
        Positions position(static_cast<std::size_t>(length));
        std::iota(position.begin(), position.end(), Index{0});
        ASSERT_EQ(list.num_slots(), length);

        // Pairs of tiles are enough to know the pairs of tokens, if every tile is whole.
        std::map<std::pair<Index, Index>, Index> seen;
        std::set<Index> ids;
        for (const detail::Block& b : all_blocks(list)) {
          EXPECT_EQ(b.query_begin % tile, 0) << what;
          EXPECT_EQ(b.key_begin % tile, 0) << what;
          EXPECT_EQ(b.num_queries, std::min(tile, length - b.query_begin)) << what;
          EXPECT_EQ(b.num_keys, std::min(tile, length - b.key_begin)) << what;
          EXPECT_TRUE(ids.insert(b.id).second) << what << ": two blocks have id " << b.id;
          EXPECT_LT(b.id, ceil_div(length, tile) * ceil_div(length, tile)) << what;
          ++seen[{b.query_begin / tile, b.key_begin / tile}];
        }
        const Index tiles = ceil_div(length, tile);
        for (Index i = 0; i < tiles; ++i) {
          for (Index j = 0; j < tiles; ++j) {
            EXPECT_EQ((seen[{i, j}]), causal && j > i ? 0 : 1)
                << what << ", query tile " << i << ", key tile " << j;
          }
        }
        expect_disjoint_phases(list, position, detail::Disjoint::queries, what);
      }
    }
  }
}

TEST(TiledBlocks, MayAddToOneGradientOfSharedQueriesAndKeys) {
  // Exact attention with shared queries and keys adds dq and dk to the same rows.
  constexpr Index tile = detail::TiledBlocks::tile;
  for (const bool causal : {false, true}) {
    for (const Index tiles : {1, 2, 3, 4, 5}) {
      Positions position(static_cast<std::size_t>(tiles * tile));
      std::iota(position.begin(), position.end(), Index{0});
      expect_disjoint_phases(
          detail::TiledBlocks(tiles * tile, causal, detail::Disjoint::queries_and_keys), position,
          detail::Disjoint::queries_and_keys,
          reformer::detail::join(tiles, " tiles", causal ? ", causal" : ""));
    }
  }
}

TEST(Window, IsCutToTheSequence) {
  const auto within = [](const Window& window, Index length) {
    const Window cut = window.within(length);
    return std::tuple(cut.chunk_length, cut.chunks_before, cut.chunks_after, cut.circular);
  };
  EXPECT_EQ(within({4, 2, 1, false}, 16), std::tuple(4, 2, 1, false));
  EXPECT_EQ(within({4, 9, 5, false}, 17), std::tuple(4, 4, 4, false));
  EXPECT_EQ(within({4, 9, 5, true}, 17), std::tuple(4, 9, 5, true));  // chunks come twice
  EXPECT_EQ(within({20, 9, 5, true}, 17), std::tuple(17, 0, 0, false));
  EXPECT_EQ(within({max_size, max_size, max_size, false}, 1), std::tuple(1, 0, 0, false));
}

TEST(CheckWindow, NamesWhatIsImpossible) {
  const auto message = [](const Window& window) {
    return message_of([&] { detail::check_window("attend", window); });
  };
  EXPECT_NO_THROW(detail::check_window("attend", {64, 1, 0, true}));
  EXPECT_EQ(message({0, 1, 0, true}), "reformer::attend: chunk_length is 0, must be at least 1");
  EXPECT_EQ(message({4, -1, 0, true}), "reformer::attend: chunks_before is -1, must be at least 0");
  EXPECT_EQ(message({4, 0, -2, true}), "reformer::attend: chunks_after is -2, must be at least 0");
  const Index most = max_size, beyond = std::numeric_limits<Index>::max();
  EXPECT_NO_THROW(detail::check_window("attend", {most, most, most, false}));
  EXPECT_NO_THROW(detail::check_window("attend", {most, 256, 0, true}));
  EXPECT_TRUE(contains(message({most + 1, 1, 0, false}),
                       "chunk_length is 2147483648, must be at most 2147483647"));
  EXPECT_TRUE(contains(message({4, beyond, 0, false}), "chunks_before is 9223372036854775807, "));
  EXPECT_TRUE(contains(message({4, 0, beyond, true}), "chunks_after is 9223372036854775807, "));
  EXPECT_TRUE(contains(message({4, 256, 1, true}),
                       "chunks_before + chunks_after is 257, must be at most 256"));
}

}  // namespace
}  // namespace reformer::test
