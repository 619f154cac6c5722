// SPDX-License-Identifier: MIT
/// Bucketing: the angular hash against its definition, the sort against std::stable_sort, and the
/// rule for the number of buckets.
#include "reformer/attention/hashing.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

struct HashCase {
  Index batch, length, heads, width, rounds;
  std::vector<Index> factors;
  bool masked;
};

std::string name_of(const HashCase& c) {
  std::string text =
      reformer::detail::join("B=", c.batch, " T=", c.length, " H=", c.heads, " K=", c.width,
                             " R=", c.rounds, c.masked ? " masked" : "", " N=");
  for (const Index n : c.factors) text += reformer::detail::join(n, ".");
  return text;
}

const std::vector<HashCase> hash_cases = {
    {1, 1, 1, 3, 1, {2}, false},          {1, 7, 1, 8, 2, {8}, false},
    {2, 64, 2, 16, 1, {6}, true},         {2, 65, 3, 20, 2, {4, 6}, true},
    {1, 130, 1, 64, 3, {2, 2, 2}, false}, {3, 33, 2, 5, 1, {32, 16}, true},
};

template <typename Scalar>
std::vector<Bucket> hash_of(const HashCase& c, const Matrix<double>& x,
                            const Tensor<Scalar, 4>& rotations,
                            std::span<const std::uint8_t> is_real, int threads = 1) {
  Workspace workspace(threads);
  const Matrix<Scalar> vectors = x.cast<Scalar>();
  std::vector<Bucket> buckets(static_cast<std::size_t>(c.batch * c.heads * c.rounds * c.length),
                              Bucket{54321});
  detail::hash_heads<Scalar>(
      workspace, rows_of(vectors), c.batch, c.heads, is_real,
      {rotations.data(), c.heads * c.width, rotations.size() / c.heads / c.width}, c.factors,
      buckets.data());
  EXPECT_EQ(workspace.bytes_in_use(), 0u);
  return buckets;
}

std::vector<std::uint8_t> every_third_is_padding(const HashCase& c) {
  std::vector<std::uint8_t> is_real;
  if (c.masked) {
    is_real.resize(static_cast<std::size_t>(c.batch * c.length));
    for (std::size_t i = 0; i < is_real.size(); ++i) is_real[i] = i % 3 != 1;
  }
  return is_real;
}

/// Calls `body(buckets [T], x [T, K], rotations [K, columns], is_real [T], where)` for every
/// sequence, head and round.
template <typename Scalar, typename Body>
void for_each_hash(const HashCase& c, const std::vector<Bucket>& buckets, const Matrix<double>& x,
                   const Tensor<Scalar, 4>& rotations, std::span<const std::uint8_t> is_real,
                   const Body& body) {
  const Index columns = rotation_columns(c.factors);
  for (Index b = 0; b < c.batch; ++b) {
    for (Index h = 0; h < c.heads; ++h) {
      for (Index r = 0; r < c.rounds; ++r) {
        Matrix<double> of_round(c.width, columns);
        for (Index i = 0; i < c.width; ++i) {
          for (Index j = 0; j < columns; ++j) {
            of_round(i, j) = static_cast<double>(rotations(h, i, r, j));
          }
        }
        const auto first = static_cast<std::size_t>(((b * c.heads + h) * c.rounds + r) * c.length);
        body(std::span(buckets).subspan(first, static_cast<std::size_t>(c.length)),
             Matrix<double>(x.block(b * c.length, h * c.width, c.length, c.width)), of_round,
             is_real.empty() ? is_real
                             : is_real.subspan(static_cast<std::size_t>(b * c.length),
                                               static_cast<std::size_t>(c.length)),
             reformer::detail::join(name_of(c), ", sequence ", b, ", head ", h, ", round ", r));
      }
    }
  }
}

TEST(HashHeads, IsTheAngularHash) {
  for (const HashCase& c : hash_cases) {
    const Matrix<double> x = random_matrix<double>(c.batch * c.length, c.heads * c.width, 1);
    const auto rotations =
        detail::random_rotations<double>(c.heads, c.width, c.rounds, c.factors, {5});
    const auto is_real = every_third_is_padding(c);
    const auto buckets = hash_of(c, x, rotations, is_real);
    for_each_hash(
        c, buckets, x, rotations, is_real,
        [&](auto ids, const auto& rows, const auto& of_round, auto real, const std::string& where) {
          const auto expected = naive::hash(rows, of_round, c.factors);
          for (std::size_t t = 0; t < ids.size(); ++t) {
            const bool padding = !real.empty() && real[t] == 0;
            ASSERT_EQ(Index{ids[t]}, padding ? num_buckets(c.factors) : Index{expected[t]})
                << where << ", token " << t;
          }
        });
  }
}

TEST(HashHeads, InFloatChoosesTheLargestProductUpToRounding) {
  for (const HashCase& c : hash_cases) {
    const Matrix<double> x = random_matrix<double>(c.batch * c.length, c.heads * c.width, 2)
                                 .cast<float>()
                                 .cast<double>();
    const auto rotations =
        detail::random_rotations<float>(c.heads, c.width, c.rounds, c.factors, {5});
    const auto buckets = hash_of(c, x, rotations, {});
    for_each_hash(
        c, buckets, x, rotations, {},
        [&](auto ids, const auto& rows, const auto& of_round, auto, const std::string& where) {
          const Matrix<double> products = rows * of_round;
          for (std::size_t t = 0; t < ids.size(); ++t) {
            Index rest = ids[t], column = 0;
            ASSERT_LT(rest, num_buckets(c.factors)) << where << ", token " << t;
            for (const Index n : c.factors) {
              const Index half = n / 2, choice = rest % n;
              const auto part = products.row(static_cast<Index>(t)).segment(column, half);
              const double value = choice < half ? part(choice) : -part(choice - half);
              ASSERT_GE(value, part.cwiseAbs().maxCoeff() - 1e-5)
                  << where << ", token " << t << ", factor " << n;
              rest /= n;
              column += half;
            }
          }
        });
  }
}

TEST(HashHeads, GivesTiesToTheSmallestIndex) {
  const HashCase c{1, 5, 1, 4, 1, {6, 4}, false};
  const Matrix<double> zero = Matrix<double>::Zero(c.length, c.width);
  Tensor<double, 4> rotations(1, c.width, 1, rotation_columns(c.factors));
  rotations.setConstant(1.0);
  for (const Bucket id : hash_of(c, zero, rotations, {})) EXPECT_EQ(id, 0);
  // All columns are equal: a positive product is first found at index 0, a negative one at N/2.
  const Matrix<double> ones = Matrix<double>::Ones(c.length, c.width);
  for (const Bucket id : hash_of(c, ones, rotations, {})) EXPECT_EQ(id, 0);
  for (const Bucket id : hash_of(c, -ones, rotations, {})) EXPECT_EQ(id, 3 + 6 * 2);
}

TEST(HashHeads, DoesNotDependOnThePlaceInTheSequenceOrOnThreads) {
  const HashCase c{1, 201, 2, 20, 2, {32, 8}, false};
  Matrix<double> x = random_matrix<double>(c.length, c.heads * c.width, 3);
  for (Index t = 1; t < c.length; ++t) x.row(t) = x.row(0);
  const auto rotations =
      detail::random_rotations<float>(c.heads, c.width, c.rounds, c.factors, {6});
  const auto equal = hash_of(c, x, rotations, {});
  for (std::size_t i = 0; i < equal.size(); ++i) {
    const std::size_t first =
        i / static_cast<std::size_t>(c.length) * static_cast<std::size_t>(c.length);
    ASSERT_EQ(equal[i], equal[first]) << "element " << i;
  }
  const Matrix<double> y = random_matrix<double>(c.length, c.heads * c.width, 4);
  EXPECT_EQ(hash_of(c, y, rotations, {}, 1), hash_of(c, y, rotations, {}, 3));
}

TEST(RandomRotations, AreStandardNormalAndKeyed) {
  const std::array<Index, 2> factors = {16, 8};
  const RandomKey key{3, 5, 2};
  const auto rotations = detail::random_rotations<double>(4, 32, 3, factors, key);
  EXPECT_EQ(rotations.dimension(0), 4);
  EXPECT_EQ(rotations.dimension(1), 32);
  EXPECT_EQ(rotations.dimension(2), 3);
  EXPECT_EQ(rotations.dimension(3), 12);
  const Eigen::Map<const Eigen::ArrayXd> values(rotations.data(), rotations.size());
  const double n = static_cast<double>(values.size());
  EXPECT_NEAR(values.mean(), 0, 5 / std::sqrt(n));
  EXPECT_NEAR(values.square().mean(), 1, 5 * std::sqrt(2 / n));

  const auto equals = [&](const RandomKey& other) {
    const auto drawn = detail::random_rotations<double>(4, 32, 3, factors, other);
    return std::equal(drawn.data(), drawn.data() + drawn.size(), rotations.data());
  };
  EXPECT_TRUE(equals(key));
  EXPECT_FALSE(equals({4, 5, 2}));
  EXPECT_FALSE(equals({3, 6, 2}));
  EXPECT_FALSE(equals({3, 5, 3}));
}

std::vector<std::int32_t> sorted(const std::vector<Bucket>& buckets, Index number) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(number + 1), -7);
  const auto real =
      std::count_if(buckets.begin(), buckets.end(), [&](Bucket b) { return Index{b} < number; });
  std::vector<std::int32_t> order(static_cast<std::size_t>(real) + 1, -9);
  detail::sort_by_bucket(buckets, number, counts.data(), order.data());
  EXPECT_EQ(order.back(), -9) << "written beyond the tokens outside the padding bucket";
  order.pop_back();
  return order;
}

TEST(SortByBucket, IsTheStableSortWithoutPadding) {
  const RandomStream stream = random_stream(9);
  for (const Index number : {2, 6, 64, 512}) {
    for (const std::size_t length : {0U, 1U, 2U, 17U, 300U}) {
      std::vector<Bucket> buckets(length);
      for (std::size_t t = 0; t < length; ++t) {
        buckets[t] = static_cast<Bucket>(stream.uniform(t) * static_cast<double>(number + 1));
      }
      std::vector<std::int32_t> expected(length);
      std::iota(expected.begin(), expected.end(), 0);
      std::erase_if(expected,
                    [&](auto t) { return buckets[static_cast<std::size_t>(t)] == number; });
      std::stable_sort(expected.begin(), expected.end(), [&](auto s, auto t) {
        return buckets[static_cast<std::size_t>(s)] < buckets[static_cast<std::size_t>(t)];
      });
      EXPECT_EQ(sorted(buckets, number), expected) << number << " buckets, length " << length;
    }
  }
}

TEST(SortByBucket, KeepsOneBucketInOrderAndLeavesPaddingOut) {
  std::vector<std::int32_t> all(40);
  std::iota(all.begin(), all.end(), 0);
  for (const auto bucket : std::array<Bucket, 3>{0, 3, 7}) {
    EXPECT_EQ(sorted(std::vector<Bucket>(40, bucket), 8), all) << bucket;
  }
  EXPECT_TRUE(sorted(std::vector<Bucket>(40, 8), 8).empty());
  EXPECT_EQ(sorted(std::vector<Bucket>(40, max_buckets - 1), max_buckets), all);
}

TEST(SortIntoChunks, HasTheTokensOfEachChunkInOrderOfPositions) {
  const RandomStream stream = random_stream(10);
  for (const Index chunk_length : {1, 4, 7, 64}) {
    for (const std::size_t length : {0U, 1U, 17U, 300U}) {
      constexpr Index number = 6;
      std::vector<Bucket> buckets(length);
      for (std::size_t t = 0; t < length; ++t) {
        buckets[t] = static_cast<Bucket>(stream.uniform(t) * static_cast<double>(number + 1));
      }
      auto expected = sorted(buckets, number);
      const auto real = static_cast<Index>(expected.size());
      for (Index first = 0; first < real; first += chunk_length) {
        std::sort(expected.begin() + first,
                  expected.begin() + std::min(first + chunk_length, real));
      }
      const Index chunks = ceil_div(static_cast<Index>(length), chunk_length);
      std::vector<std::int32_t> counts(static_cast<std::size_t>(number + 1 + chunks), -7);
      counts.push_back(-8);
      std::vector<std::int32_t> order(expected.size() + 1, -9);
      detail::sort_into_chunks(buckets, number, chunk_length, counts.data(), order.data());
      EXPECT_EQ(order.back(), -9) << "written beyond the tokens outside the padding bucket";
      EXPECT_EQ(counts.back(), -8) << "written beyond the scratch";
      order.pop_back();
      EXPECT_EQ(order, expected) << "chunks of " << chunk_length << ", length " << length;
    }
  }
}

TEST(AutomaticNumBuckets, FollowsItsRule) {
  using Factors = std::vector<Index>;
  EXPECT_EQ(automatic_num_buckets(1, 64), Factors({2}));
  EXPECT_EQ(automatic_num_buckets(31, 64), Factors({2}));
  EXPECT_EQ(automatic_num_buckets(127, 64), Factors({2}));
  EXPECT_EQ(automatic_num_buckets(128, 64), Factors({4}));
  EXPECT_EQ(automatic_num_buckets(2047, 64), Factors({32}));
  EXPECT_EQ(automatic_num_buckets(2048, 64), Factors({64}));
  EXPECT_EQ(automatic_num_buckets(4095, 64), Factors({64}));
  EXPECT_EQ(automatic_num_buckets(4096, 64), Factors({8, 16}));
  EXPECT_EQ(automatic_num_buckets(8192, 64), Factors({16, 16}));
  EXPECT_EQ(automatic_num_buckets(65536, 64), Factors({8, 16, 16}));
  EXPECT_EQ(automatic_num_buckets(1 << 24, 1), Factors({32, 32, 32}));
  for (const Index chunk : {1, 3, 16, 64, 100}) {
    for (Index length = 1; length <= Index{1} << 21; length += 1 + length / 5) {
      const auto factors = automatic_num_buckets(length, chunk);
      const std::string what = reformer::detail::join("length ", length, ", chunk ", chunk);
      ASSERT_NO_THROW(detail::check_buckets("f", factors)) << what;
      const Index product = num_buckets(factors);
      EXPECT_TRUE(std::has_single_bit(static_cast<std::uint64_t>(product))) << what;
      if (length >= chunk) {
        EXPECT_LE(product * chunk, 2 * length) << what;
      } else {
        EXPECT_EQ(product, 2) << what;
      }
      // The next power of two would be too many, unless there can be no more.
      if (product < 32768) {
        EXPECT_GT(2 * product * chunk, 2 * length) << what;
      }
      if (product <= 64) {
        EXPECT_EQ(factors.size(), 1u) << what;
      } else {
        EXPECT_GT(factors.size(), 1u) << what;
        const auto [least, most] = std::minmax_element(factors.begin(), factors.end());
        EXPECT_LE(*most, 32) << what;
        EXPECT_LE(*most, 2 * *least) << what;
      }
    }
  }
}

TEST(AutomaticNumBuckets, ChecksItsSizes) {
  const auto message = [](Index length, Index chunk_length) {
    return message_of([&] { automatic_num_buckets(length, chunk_length); });
  };
  constexpr Index beyond = std::numeric_limits<Index>::max();
  EXPECT_EQ(message(0, 64), "reformer::automatic_num_buckets: length is 0, must be at least 1");
  EXPECT_TRUE(contains(message(beyond, 64), ": length is 9223372036854775807, must be at most "));
  EXPECT_TRUE(contains(message(64, 0), ": chunk_length is 0, must be at least 1"));
  EXPECT_TRUE(contains(message(64, beyond), ": chunk_length is 9223372036854775807, must be at m"));
}

TEST(RandomRotations, CheckTheirSizes) {
  const auto message = [](Index heads, Index width, Index hashes, std::vector<Index> factors) {
    return message_of([&] { detail::random_rotations<float>(heads, width, hashes, factors, {}); });
  };
  EXPECT_EQ(message(0, 4, 1, {2}), "reformer::random_rotations: heads is 0, must be at least 1");
  EXPECT_TRUE(contains(message(2, -4, 1, {2}), ": head_width is -4, must be at least 1"));
  EXPECT_TRUE(
      contains(message(1 << 20, 2048, 1, {2}), ": head_width is 2048, must be at most 2047"));
  EXPECT_TRUE(contains(message(2, 4, 0, {2}), ": num_hashes is 0, must be at least 1"));
  EXPECT_TRUE(contains(message(2, 4, 65536, {2}), ": num_hashes is 65536, must be at most 65535"));
  EXPECT_TRUE(contains(message(2, 4, 1, {}), ": num_buckets is empty"));
  EXPECT_TRUE(contains(message(2, 4, 1, {3}), ": num_buckets has the factor 3"));
}

TEST(RotationColumns, AreHalfTheSumOfTheFactors) {
  EXPECT_EQ(rotation_columns(std::array<Index, 1>{64}), 32);
  EXPECT_EQ(rotation_columns(std::array<Index, 3>{4, 6, 2}), 6);
  EXPECT_EQ(num_buckets(std::array<Index, 3>{4, 6, 2}), 48);
}

TEST(CheckBuckets, NamesWhatIsImpossible) {
  const auto message = [](const std::vector<Index>& factors) {
    return message_of([&] { detail::check_buckets("f", factors); });
  };
  EXPECT_NO_THROW(detail::check_buckets("f", std::array<Index, 1>{2}));
  EXPECT_NO_THROW(detail::check_buckets("f", std::array<Index, 2>{254, 258}));  // 65532
  EXPECT_EQ(message({}), "reformer::f: num_buckets is empty, must have at least one factor");
  for (const Index bad : {0, -2, 7, 1}) {
    EXPECT_EQ(message({4, bad}),
              reformer::detail::join("reformer::f: num_buckets has the factor ", bad,
                                     ", every factor must be even and positive"));
  }
  EXPECT_EQ(message({65536}), "reformer::f: num_buckets is 65536, must be at most 65535");
  EXPECT_EQ(message({256, 256}), "reformer::f: num_buckets is 256 * 256, must be at most 65535");
  EXPECT_EQ(message({1 << 30, 1 << 30}),
            "reformer::f: num_buckets is 1073741824 * 1073741824, must be at most 65535");
}

}  // namespace
}  // namespace reformer::test
