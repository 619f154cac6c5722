// SPDX-License-Identifier: MIT
/// Bucketing and attention as functions on tensors. What they are made of has tests of its own;
/// here it counts that tensors are laid out as promised, and that arguments are checked.
#include "reformer/attention/attention.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr Index B = 2, T = 19, H = 3, K = 5;
constexpr std::array<Index, 4> shape = {B, T, H, K};
const LshPattern lsh_pattern{4, 1, 0, 2, {4, 2}};

std::vector<std::uint8_t> mask() {
  std::vector<std::uint8_t> is_real(static_cast<std::size_t>(B * T), 1);
  is_real[3] = is_real[18] = is_real[19] = is_real[30] = 0;
  return is_real;
}

Tensor<double, 4> rotations() {
  return detail::random_rotations<double>(H, K, lsh_pattern.num_hashes, lsh_pattern.num_buckets,
                                          {5});
}

std::string name_of(const AttentionOptions& options) {
  return reformer::detail::join(
      "attention, pattern ", options.pattern.index(), options.causal ? ", causal" : "",
      options.is_real.empty() ? "" : ", masked", options.dropout > 0 ? ", dropout" : "");
}

std::vector<AttentionPattern> patterns() {
  return {lsh_pattern, LocalPattern{4, 1, 1, true}, ExactPattern{false}, ExactPattern{true}};
}

/// One head of one sequence, `[T, K]`.
Matrix<double> head_of(const Tensor<double, 4>& x, Index b, Index h) {
  Matrix<double> result(T, K);
  for (Index t = 0; t < T; ++t) {
    for (Index k = 0; k < K; ++k) result(t, k) = x(b, t, h, k);
  }
  return result;
}

/// Buckets of one head of one sequence, one list for each round.
std::vector<std::vector<Bucket>> buckets_of(const Tensor<Bucket, 4>& buckets, Index b, Index h) {
  std::vector<std::vector<Bucket>> rounds;
  for (Index r = 0; r < buckets.dimension(2) && buckets.size() > 0; ++r) {
    rounds.emplace_back();
    for (Index t = 0; t < T; ++t) rounds.back().push_back(buckets(b, h, r, t));
  }
  return rounds;
}

TEST(LshBuckets, AreTheHashOfEachHead) {
  Workspace workspace(2);
  const auto x = random_tensor<double>(shape, 1);
  const auto is_real = mask();
  const auto drawn = rotations();
  for (const bool masked : {false, true}) {
    const auto buckets = lsh_buckets<double>(
        workspace, x, lsh_pattern, drawn, masked ? std::span(is_real) : std::span<std::uint8_t>());
    ASSERT_EQ(buckets.dimensions(), (Tensor<Bucket, 4>::Dimensions(B, H, 2, T)));
    for (Index b = 0; b < B; ++b) {
      for (Index h = 0; h < H; ++h) {
        for (Index r = 0; r < 2; ++r) {
          Matrix<double> of_round(K, 3);
          for (Index k = 0; k < K; ++k) {
            for (Index c = 0; c < 3; ++c) of_round(k, c) = drawn(h, k, r, c);
          }
          const auto ids = naive::hash(head_of(x, b, h), of_round, lsh_pattern.num_buckets);
          for (Index t = 0; t < T; ++t) {
            const bool padding = masked && is_real[static_cast<std::size_t>(b * T + t)] == 0;
            ASSERT_EQ(buckets(b, h, r, t), padding ? 8 : ids[static_cast<std::size_t>(t)])
                << "sequence " << b << ", head " << h << ", round " << r << ", token " << t;
          }
        }
      }
    }
  }
}

void check_attention_of(const AttentionOptions& options) {
  Workspace workspace(1);
  const bool shared = shares_query_key(options.pattern);
  auto query = random_tensor<double>(shape, 1), separate_key = random_tensor<double>(shape, 2),
       value = random_tensor<double>(shape, 3);
  auto& key = shared ? query : separate_key;
  const auto dout = random_tensor<double>(shape, 4);
  Tensor<Bucket, 4> buckets;
  if (std::holds_alternative<LshPattern>(options.pattern)) {
    buckets = lsh_buckets<double>(workspace, query, lsh_pattern, rotations(), options.is_real);
  }
  const auto output = attention<double>(workspace, query, key, value, options, buckets);
  ASSERT_EQ(output.out.dimensions(), query.dimensions());
  if (options.dropout == 0) {
    for (Index b = 0; b < B; ++b) {
      naive::Rules rules = naive::rules_of(options.pattern, options.causal);
      if (!options.is_real.empty()) {
        rules.is_real = options.is_real.subspan(static_cast<std::size_t>(b * T), T);
      }
      for (Index h = 0; h < H; ++h) {
        const auto counts =
            naive::pattern_counts(options.pattern, T, rules, buckets_of(buckets, b, h));
        EXPECT_TRUE(close(head_of(output.out, b, h),
                          naive::attention(head_of(query, b, h), head_of(key, b, h),
                                           head_of(value, b, h), counts, rules)))
            << name_of(options) << ", sequence " << b << ", head " << h;
      }
    }
  }

  const auto gradients =
      attention_backward<double>(workspace, query, key, value, options, output, dout, buckets);
  EXPECT_EQ(workspace.bytes_in_use(), 0u);
  EXPECT_EQ(gradients.dkey.size(), shared ? 0 : query.size());
  const auto objective = [&] {
    const auto again = attention<double>(workspace, query, key, value, options, buckets);
    double sum = 0;
    for (Index i = 0; i < dout.size(); ++i) sum += dout.data()[i] * again.out.data()[i];
    return sum;
  };
  const auto check_one = [&](const std::string& name, Tensor<double, 4>& x,
                             const Tensor<double, 4>& gradient) {
    check_gradient(name_of(options), name, objective,
                   std::span(x.data(), static_cast<std::size_t>(x.size())), as_span(gradient),
                   {.most_elements = 20});
  };
  check_one("query", query, gradients.dquery);
  if (!shared) check_one("key", key, gradients.dkey);
  check_one("value", value, gradients.dvalue);
}

TEST(Attention, IsTheDefinitionAndItsGradient) {
  const auto is_real = mask();
  for (const AttentionPattern& pattern : naive::with_values(patterns(), {Values::following})) {
    for (const bool causal : {true, false}) {
      if (!naive::exists(pattern, causal)) continue;
      check_attention_of({.pattern = pattern, .causal = causal});
      check_attention_of({.pattern = pattern, .causal = causal, .is_real = is_real});
      check_attention_of(
          {.pattern = pattern, .causal = causal, .dropout = 0.2, .key = {3}, .is_real = is_real});
    }
  }
}

/// Output and gradients of a large case, with buckets that do not depend on the scalar type.
template <typename Scalar>
struct LargeCase {
  // In float all heads are one group of 2 MiB arrays, in double each sequence is two.
  static constexpr std::array<Index, 4> shape = {2, 100, 3, 1300};
  AttentionOutput<Scalar> output;
  AttentionGradients<Scalar> gradients;

  explicit LargeCase(const AttentionOptions& options) {
    Workspace workspace(2);
    const bool shared = shares_query_key(options.pattern);
    const auto query = random_tensor<Scalar>(shape, 1);
    const auto separate_key = random_tensor<Scalar>(shape, 2);
    const auto& key = shared ? query : separate_key;
    const auto value = random_tensor<Scalar>(shape, 3), dout = random_tensor<Scalar>(shape, 4);
    Tensor<Bucket, 4> buckets(shape[0], shape[2], 2, shape[1]);
    for (Index i = 0; i < buckets.size(); ++i) {
      const Index t = i % shape[1], b = i / (buckets.size() / shape[0]);
      const bool real = options.is_real[static_cast<std::size_t>(b * shape[1] + t)] != 0;
      buckets.data()[i] = static_cast<Bucket>(real ? i * 7 % 8 : 8);
    }
    output = attention<Scalar>(workspace, query, key, value, options, buckets);
    gradients =
        attention_backward<Scalar>(workspace, query, key, value, options, output, dout, buckets);
  }
};

TEST(Attention, InGroupsOfHeadsIsThatOfAllHeadsTogether) {
  const auto group_of = [](auto scalar) {
    const auto& [batch, length, heads, width] = LargeCase<decltype(scalar)>::shape;
    return detail::head_group_size<decltype(scalar)>(batch, length, heads, width);
  };
  ASSERT_EQ(group_of(0.0F), std::pair(Index{1}, Index{3}));
  ASSERT_EQ(group_of(0.0), std::pair(Index{1}, Index{2}));
  std::vector<std::uint8_t> is_real(200, 1);
  is_real[7] = is_real[150] = is_real[199] = 0;
  for (const AttentionPattern& pattern : patterns()) {
    const AttentionOptions options{
        .pattern = pattern, .dropout = 0.2, .key = {3}, .is_real = is_real};
    const LargeCase<float> together(options);
    const LargeCase<double> apart(options);
    const auto name = name_of(options);
    // Scores are sums of 1,300 products.
    EXPECT_TRUE(close(together.output.out, apart.output.out, 4)) << name;
    EXPECT_TRUE(close(together.output.normaliser, apart.output.normaliser, 4)) << name;
    EXPECT_TRUE(close(together.gradients.dquery, apart.gradients.dquery, 4)) << name;
    EXPECT_TRUE(close(together.gradients.dkey, apart.gradients.dkey, 4)) << name;
    EXPECT_TRUE(close(together.gradients.dvalue, apart.gradients.dvalue, 4)) << name;
  }
}

/// Output and gradients in float of a small case, and the scratch they took.
struct SmallCase {
  AttentionOutput<float> output;
  AttentionGradients<float> gradients;
  std::size_t scratch = 0;

  explicit SmallCase(const AttentionPattern& pattern, bool causal, double dropout = 0) {
    Workspace workspace(2);
    const AttentionOptions options{.pattern = pattern, .causal = causal, .dropout = dropout};
    const auto query = random_tensor<float>(shape, 1), separate = random_tensor<float>(shape, 2);
    const auto& key = shares_query_key(pattern) ? query : separate;
    const auto value = random_tensor<float>(shape, 3), dout = random_tensor<float>(shape, 4);
    Tensor<Bucket, 4> buckets;
    if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
      const Tensor<float, 4> drawn =
          detail::random_rotations<float>(H, K, lsh->num_hashes, lsh->num_buckets, {5});
      buckets = lsh_buckets<float>(workspace, query, *lsh, drawn);
    }
    output = attention<float>(workspace, query, key, value, options, buckets);
    gradients =
        attention_backward<float>(workspace, query, key, value, options, output, dout, buckets);
    scratch = workspace.peak_bytes();
  }
};

TEST(Attention, OfAWindowBeyondTheSequenceIsThatOfTheWholeSequence) {
  struct Case {
    AttentionPattern beyond, whole;
  };
  constexpr Index most = max_size, chunks = (T + 3) / 4, others = chunks - 1;
  const auto in_buckets = [](Index length, Index before, Index after, Duplicates duplicates) {
    return LshPattern{length, before, after, 2, {4}, false, Chunking::bucket_chunks, duplicates};
  };
  constexpr auto once = Duplicates::once, each_time = Duplicates::each_time;
  const std::vector<Case> cases = {
      {in_buckets(most, 1, 0, each_time), in_buckets(T + 1, 0, 0, each_time)},
      {in_buckets(most, most, most, once), in_buckets(T + 1, 0, 0, once)},
      {in_buckets(4, most, 0, each_time), in_buckets(4, others, 0, each_time)},
      {in_buckets(4, most, most, once), in_buckets(4, others, others, once)},
      {LocalPattern{most, 1, 1}, LocalPattern{T, 0, 0}},
      {LocalPattern{most, 1, 1, true}, LocalPattern{T, 0, 0}},
      {LocalPattern{4, Index{1} << 20, 0}, LocalPattern{4, others, 0}},
      {LocalPattern{4, most, most}, LocalPattern{4, others, others}},
      {LshPattern{most, 1, 0, 2, {4}}, LshPattern{T, 1, 0, 2, {4}}},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    for (const bool causal : {true, false}) {
      const SmallCase beyond(cases[i].beyond, causal, 0.2), whole(cases[i].whole, causal, 0.2);
      const auto name = reformer::detail::join("case ", i, causal ? ", causal" : "");
      EXPECT_EQ(beyond.scratch, whole.scratch) << name;
      EXPECT_TRUE(same_bits(beyond.output.out, whole.output.out)) << name;
      EXPECT_TRUE(same_bits(beyond.output.normaliser, whole.output.normaliser)) << name;
      EXPECT_TRUE(same_bits(beyond.gradients.dquery, whole.gradients.dquery)) << name;
      EXPECT_TRUE(same_bits(beyond.gradients.dkey, whole.gradients.dkey)) << name;
      EXPECT_TRUE(same_bits(beyond.gradients.dvalue, whole.gradients.dvalue)) << name;
    }
  }
}

/// Sets rows of tokens to what memory may hold that was never filled.
void spoil(Tensor<float, 4>& x, const std::function<bool(Index, Index)>& is_spoilt) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::array bad = {std::numeric_limits<float>::quiet_NaN(), infinity, -infinity, 3e38F};
  const Index row = x.dimension(2) * x.dimension(3);
  for (Index i = 0; i < x.size(); ++i) {
    const Index t = i / row % x.dimension(1), b = i / row / x.dimension(1);
    if (is_spoilt(b, t)) x.data()[i] = bad[static_cast<std::size_t>(i % 4)];
  }
}

std::vector<AttentionPattern> all_patterns() {
  auto result = patterns();
  LshPattern padded = lsh_pattern, buckets = lsh_pattern, short_one = lsh_pattern;
  padded.sort_padding = true;
  buckets.chunking = Chunking::bucket_chunks;
  short_one.chunk_length = T;
  result.insert(result.end(), {padded, buckets, short_one, LocalPattern{8, 1, 0}});
  for (std::size_t i = 0, n = result.size(); i < n; ++i) {
    AttentionPattern following = result[i];
    std::visit([](auto& pattern) { pattern.values = Values::following; }, following);
    result.push_back(following);
  }
  return result;
}

TEST(Attention, OfRealTokensIsFiniteWhateverPaddingHolds) {
  const auto is_real = mask();
  const auto is_padding = [&](Index b, Index t) {
    return is_real[static_cast<std::size_t>(b * T + t)] == 0;
  };
  Workspace workspace(2);
  const auto zero_padding = [&](Tensor<float, 4>& x) {
    for (Index i = 0; i < x.size(); ++i) {
      if (is_real[static_cast<std::size_t>(i / (H * K))] == 0) x.data()[i] = 0;
    }
  };
  for (const AttentionPattern& pattern : all_patterns()) {
    for (const bool causal : {true, false}) {
      if (!causal && values_of(pattern) == Values::following) continue;
      const AttentionOptions options{.pattern = pattern, .causal = causal, .is_real = is_real};
      const auto run = [&](bool spoilt) {
        std::array<Tensor<float, 4>, 4> x;
        for (std::size_t i = 0; i < 4; ++i) {
          x[i] = random_tensor<float>(shape, i + 1);
          zero_padding(x[i]);
          if (spoilt) spoil(x[i], is_padding);
        }
        const auto& key = shares_query_key(pattern) ? x[0] : x[1];
        Tensor<Bucket, 4> buckets;
        if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
          buckets = lsh_buckets<float>(workspace, x[0], *lsh, rotations().cast<float>(), is_real);
        }
        auto output = attention<float>(workspace, x[0], key, x[2], options, buckets);
        auto gradients =
            attention_backward<float>(workspace, x[0], key, x[2], options, output, x[3], buckets);
        // What is compared are rows of real tokens.
        for (auto* result : {&output.out, &gradients.dquery, &gradients.dkey, &gradients.dvalue}) {
          zero_padding(*result);
        }
        return std::array{output.out, gradients.dquery, gradients.dkey, gradients.dvalue};
      };
      const auto clean = run(false), spoilt = run(true);
      for (std::size_t i = 0; i < clean.size(); ++i) {
        EXPECT_TRUE(same_bits(spoilt[i], clean[i])) << name_of(options) << ", result " << i;
      }
    }
  }
}

TEST(Attention, HidesASuffixFromTheTokensBeforeItWhateverItHolds) {
  constexpr Index length = 150;
  constexpr std::array<Index, 4> long_shape = {B, length, H, K};
  const AttentionPattern buckets_of_8 =
      LshPattern{8, 1, 0, 2, {4, 2}, false, Chunking::bucket_chunks};
  auto once = std::get<LshPattern>(buckets_of_8);
  once.duplicates = Duplicates::once;
  std::vector<AttentionPattern> causal = {buckets_of_8,
                                          once,
                                          LocalPattern{16, 1, 0, true},
                                          LocalPattern{64, 1, 0},
                                          ExactPattern{false},
                                          ExactPattern{true}};
  for (std::size_t i = 0, n = causal.size(); i < n; ++i) {
    AttentionPattern following = causal[i];
    std::visit([](auto& pattern) { pattern.values = Values::following; }, following);
    causal.push_back(following);
  }
  Workspace workspace(2);
  for (const AttentionPattern& pattern : causal) {
    struct Suffix {
      Index begin;
      Precision precision = Precision::float32;
    };
    for (const Suffix& suffix :
         {Suffix{1}, Suffix{57}, Suffix{140}, Suffix{57, Precision::bfloat16x3},
          Suffix{57, Precision::bfloat16}}) {
      const AttentionOptions options{.pattern = pattern, .precision = suffix.precision};
      const Index end = suffix.begin;
      const auto before = [&](bool spoilt) {
        std::array<Tensor<float, 4>, 3> x;
        for (std::size_t i = 0; i < 3; ++i) {
          x[i] = random_tensor<float>(long_shape, i + 1);
          if (spoilt) spoil(x[i], [&](Index b, Index t) { return t >= (b == 0 ? end : 90); });
        }
        const auto& key = shares_query_key(pattern) ? x[0] : x[1];
        Tensor<Bucket, 4> buckets;
        if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
          buckets = lsh_buckets<float>(workspace, x[0], *lsh, rotations().cast<float>());
        }
        const auto output = attention<float>(workspace, x[0], key, x[2], options, buckets);
        std::vector<float> rows;
        for (Index b = 0; b < B; ++b) {
          const float* first = output.out.data() + b * length * H * K;
          rows.insert(rows.end(), first, first + (b == 0 ? end : 90) * H * K);
        }
        return rows;
      };
      EXPECT_TRUE(same_bits(before(true), before(false)))
          << name_of(options) << ", suffix from " << end << ", " << name_of(suffix.precision);
    }
  }
}

/// Calls with one argument wrong, in float.
class AttentionErrors : public testing::Test {
 protected:
  using Values = Tensor<float, 4>;

  std::string message(const Values& q, const Values& k, const Values& v,
                      const AttentionOptions& options, const Tensor<Bucket, 4>& ids) {
    const std::string forward =
        message_of([&] { attention<float>(workspace, q, k, v, options, ids); });
    const std::string backward = message_of([&] {
      attention_backward<float>(workspace, q, k, v, options, AttentionOutput<float>{}, q, ids);
    });
    EXPECT_TRUE(contains(forward, "reformer::attention: "));
    EXPECT_TRUE(contains(backward, "reformer::attention_backward: "));
    EXPECT_EQ(forward.substr(forward.find(": ")), backward.substr(backward.find(": ")));
    return forward;
  }
  std::string hashed_message(const Tensor<Bucket, 4>& ids,
                             std::span<const std::uint8_t> real = {}) {
    return message(x, x, value, {.pattern = lsh_pattern, .is_real = real}, ids);
  }

  Workspace workspace{1};
  Values x = random_tensor<float>(shape, 1), key = random_tensor<float>(shape, 2),
         value = random_tensor<float>(shape, 3);
  Values wrong = random_tensor<float>(std::array<Index, 4>{B, T, H, K + 1}, 4);
  std::vector<std::uint8_t> is_real = mask();
  Values drawn = rotations().cast<float>();
  Tensor<Bucket, 4> buckets = lsh_buckets<float>(workspace, x, lsh_pattern, drawn);
};

TEST_F(AttentionErrors, NameWhatIsWrong) {
  const AttentionOptions exact{.pattern = ExactPattern{}};
  EXPECT_TRUE(contains(message(x, wrong, value, exact, {}), "key dimension"));
  EXPECT_TRUE(contains(message(x, key, wrong, exact, {}), "value dimension"));
  EXPECT_TRUE(contains(message(x, key, value, {.pattern = ExactPattern{true}}, {}),
                       "query and key are two tensors"));
  EXPECT_TRUE(contains(message(x, key, value, {.pattern = LocalPattern{0}}, {}),
                       "chunk_length is 0, must be at least 1"));
  EXPECT_TRUE(contains(message(x, key, value, {.pattern = ExactPattern{}, .dropout = 1}, {}),
                       "dropout is 1, must be in [0, 1)"));
  const auto none_such = static_cast<Precision>(3);
  EXPECT_TRUE(
      contains(message(x, key, value, {.pattern = ExactPattern{}, .precision = none_such}, {}),
               "precision is 3, must be float32, bfloat16x3 or bfloat16"));
  EXPECT_TRUE(contains(
      message(x, key, value,
              {.pattern = ExactPattern{.values = reformer::Values::following}, .causal = false},
              {}),
      "values are following, must be own where attention is not causal"));
  const std::span short_mask = std::span<const std::uint8_t>(is_real).first(37);
  EXPECT_TRUE(
      contains(message(x, key, value, {.pattern = ExactPattern{}, .is_real = short_mask}, {}),
               "is_real has 37 elements, must have B*T = 38"));
  const Values none(B, 0, H, K);
  EXPECT_TRUE(contains(message(none, none, none, exact, {}), "length is 0, must be at least 1"));
  const Values headless(B, T, 0, K);
  EXPECT_TRUE(contains(message(headless, headless, headless, exact, {}), "heads is 0"));
  EXPECT_TRUE(contains(message_of([&] {
                         const auto output = attention<float>(workspace, x, key, value, exact);
                         attention_backward<float>(workspace, x, key, value, exact, output, wrong);
                       }),
                       "dout dimension"));
}

TEST_F(AttentionErrors, OfAnOutputThatIsOfAnotherCall) {
  for (const AttentionPattern& pattern : patterns()) {
    const auto& other = shares_query_key(pattern) ? x : key;
    const AttentionOptions options{.pattern = pattern};
    const auto filled = attention<float>(workspace, x, other, value, options, buckets);
    const auto backward = [&](auto change) {
      auto output = filled;
      change(output);
      return message_of([&] {
        attention_backward<float>(workspace, x, other, value, options, output, x, buckets);
      });
    };
    EXPECT_TRUE(contains(backward([](auto& o) { o = {}; }),
                         "reformer::attention_backward: output.out dimension 0 is 0, must equal "
                         "batch = 2"));
    EXPECT_TRUE(contains(backward([](auto& o) { o.out.resize(B, T, H, K + 1); }),
                         "output.out dimension 3 is 6, must equal head width = 5"));
    EXPECT_TRUE(contains(backward([](auto& o) { o.maximum.resize(B, T, H); }),
                         "output.maximum dimension 1 is 19, must equal heads = 3"));
    EXPECT_TRUE(contains(backward([](auto& o) { o.normaliser.resize(B, H, T - 1); }),
                         "output.normaliser dimension 2 is 18, must equal length = 19"));
    EXPECT_TRUE(contains(backward([](auto& o) { o.key_scale.resize(0, 0, 0); }),
                         "output.key_scale dimension 0 is 0"));
  }
}

TEST_F(AttentionErrors, OfRotationsNameTheDimension) {
  const auto of_rotations = [&](const std::array<Index, 4>& dimensions,
                                const LshPattern& pattern = lsh_pattern) {
    return message_of(
        [&] { lsh_buckets<float>(workspace, x, pattern, random_tensor<float>(dimensions, 1)); });
  };
  EXPECT_TRUE(contains(of_rotations({2, K, 2, 3}), "rotations dimension 0 is 2"));
  EXPECT_TRUE(contains(of_rotations({H, 4, 2, 3}), "rotations dimension 1 is 4"));
  EXPECT_TRUE(contains(of_rotations({H, K, 1, 3}), "rotations dimension 2 is 1"));
  EXPECT_TRUE(contains(of_rotations({H, K, 2, 4}), "rotations dimension 3 is 4"));
  EXPECT_TRUE(contains(of_rotations({H, K, 2, 3}, {4, 1, 0, 2, {3}}), "factor 3"));
}

TEST_F(AttentionErrors, OfBucketsNameTheirNumberOrValue) {
  EXPECT_TRUE(contains(hashed_message({}), "buckets dimension 0 is 0, must equal batch = 2"));
  const auto of_shape = [&](Index b, Index h, Index r, Index t) {
    Tensor<Bucket, 4> swapped(b, h, r, t);  // as many as there must be
    swapped.setZero();
    return hashed_message(swapped);
  };
  EXPECT_TRUE(contains(of_shape(H, B, 2, T), "buckets dimension 0 is 3, must equal batch = 2"));
  EXPECT_TRUE(contains(of_shape(B, 2, H, T), "buckets dimension 1 is 2, must equal heads = 3"));
  EXPECT_TRUE(contains(of_shape(B, H, T, 2), "dimension 2 is 19, must equal num_hashes = 2"));
  Tensor<Bucket, 4> bad = buckets;
  bad(1, 2, 0, 7) = 9;
  EXPECT_TRUE(contains(hashed_message(bad), "bucket 197 is 9, must be less than 8"));
  bad(0, 1, 0, 5) = 10;  // of several, whichever thread meets it, the first
  EXPECT_TRUE(contains(hashed_message(bad), "bucket 43 is 10"));
}

TEST_F(AttentionErrors, OfBucketsThatDoNotKnowThePadding) {
  // Real tokens stand in the order, padding does not: buckets of another mask would leave slots
  // without a token, or tokens without a slot.
  EXPECT_TRUE(contains(hashed_message(buckets, is_real), "bucket 3 is "));
  Tensor<Bucket, 4> padded = lsh_buckets<float>(workspace, x, lsh_pattern, drawn, is_real);
  EXPECT_TRUE(contains(hashed_message(padded), "bucket 3 is 8"));
}

TEST_F(AttentionErrors, OfImpossibleSizesAreFoundBeforeTheyDivide) {
  EXPECT_TRUE(contains(message_of([&] {
                         lsh_buckets<float>(workspace, x, LshPattern{0, 1, 0, 2, {}}, drawn);
                       }),
                       "chunk_length is 0, must be at least 1"));
  const Values headless(B, T, 0, K), no_rotations(0, K, 2, 3);
  EXPECT_TRUE(contains(
      message_of([&] { lsh_buckets<float>(workspace, headless, lsh_pattern, no_rotations); }),
      "heads is 0"));
}

}  // namespace
}  // namespace reformer::test
