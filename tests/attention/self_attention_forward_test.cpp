// SPDX-License-Identifier: MIT
/// The self-attention branch against layer norm, projections and attention written out.
#include "reformer/attention/self_attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention/self_attention_cases.hpp"
#include "support/compare.hpp"
#include "support/naive.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using namespace self_attention;

/// f(x) without dropout, from the definition. Bucket ids are hashed here; in double the layer must
/// have found the same.
template <typename Scalar>
Matrix<double> expected_branch(const Case& c, Layer<Scalar>& layer) {
  const auto parameters = layer.parameters();
  const auto kinds = c.kinds();
  const bool has_keys = std::ranges::any_of(
      kinds, [](const HeadKind& kind) { return !shares_query_key(kind.pattern); });
  const Matrix<double> normed = naive::layer_norm(layer.x.template cast<double>(), parameters[0],
                                                  parameters[1], c.config().layer_norm_epsilon);
  const Matrix<double> query = naive::multiply(normed, parameters[2]);
  const Matrix<double> key = has_keys ? naive::multiply(normed, parameters[3]) : query;
  const Matrix<double> value = naive::multiply(normed, parameters[has_keys ? 4 : 3]);
  const Matrix<double>& output = parameters[has_keys ? 5 : 4];
  const Matrix<double>& mixture = parameters[has_keys ? 6 : 5];  // if there is one
  const Matrix<double>& temperature = parameters.back();         // if there is one

  Matrix<double> heads(normed.rows(), c.heads * c.head_width);
  auto saved = layer.saved.buckets.begin();
  Index with_key = 0;  // heads before, which have columns of the keys
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    const HeadKind& kind = kinds[k];
    const auto* lsh = c.hashed(kind);
    const bool shared = shares_query_key(kind.pattern);
    for (Index i = 0; i < c.batch * kind.num_heads; ++i) {
      const Index b = i / kind.num_heads, h = i % kind.num_heads, head = kind.first_head + h;
      naive::Rules rules = naive::rules_of(kind.pattern, c.causal);
      if (c.masked) {
        rules.is_real = std::span(layer.is_real)
                            .subspan(static_cast<std::size_t>(b * c.length),
                                     static_cast<std::size_t>(c.length));
      }
      if (values_of(kind.pattern) == Values::mixed) {
        rules.of_own = mixture(0, head);
        rules.of_next = mixture(1, head);
      }
      const auto columns = [&](const Matrix<double>& m, Index of) -> Matrix<double> {
        return m.block(b * c.length, of * c.head_width, c.length, c.head_width);
      };
      Matrix<double> queries = columns(query, head);
      Matrix<double> keys = shared ? queries : columns(key, with_key + h);
      if (scores_of(kind.pattern) == Scores::cosine) {
        queries = naive::scaled_to(temperature(0, head), queries);
        keys =
            shared ? queries : naive::scaled_to(std::sqrt(static_cast<double>(c.head_width)), keys);
      }
      std::vector<std::vector<Bucket>> buckets;
      for (Index r = 0; lsh != nullptr && r < lsh->num_hashes; ++r) {
        const auto factors = bucket_factors(*lsh, c.length);
        Matrix<double> of_round(c.head_width, rotation_columns(factors));
        for (Index row = 0; row < of_round.rows(); ++row) {
          for (Index j = 0; j < of_round.cols(); ++j) {
            of_round(row, j) = layer.rotations[k](h, row, r, j);
          }
        }
        auto ids = naive::hash(queries, of_round, factors);
        for (Index t = 0; t < c.length; ++t) {
          if (!rules.real(t)) {
            ids[static_cast<std::size_t>(t)] = static_cast<Bucket>(num_buckets(factors));
          }
        }
        buckets.emplace_back(saved, saved + c.length);
        saved += c.length;
        if constexpr (std::is_same_v<Scalar, double>) {
          EXPECT_EQ(buckets.back(), ids)
              << c.name() << ", sequence " << b << ", head " << head << ", round " << r;
        }
      }
      const Index rotary_width = rotary_width_of(kind.pattern);
      queries = naive::rotated(rotary_width, rules, queries);
      keys = naive::rotated(rotary_width, rules, keys);
      heads.block(b * c.length, head * c.head_width, c.length, c.head_width) =
          naive::attention(queries, keys, columns(value, head),
                           naive::pattern_counts(kind.pattern, c.length, rules, buckets), rules);
    }
    if (!shared) with_key += kind.num_heads;
  }
  return naive::multiply(heads, output);
}

template <typename Scalar>
void expect_definition(const Case& c) {
  Layer<Scalar> layer(c);
  const Matrix<Scalar> f = layer.forward();
  EXPECT_TRUE(close(f, expected_branch(c, layer), 8)) << c.name();
  EXPECT_EQ(layer.workspace.bytes_in_use(), 0u) << c.name();
  Index ids = 0;
  for (const HeadKind& kind : c.kinds()) {
    const auto* lsh = c.hashed(kind);
    if (lsh != nullptr) ids += c.batch * kind.num_heads * lsh->num_hashes * c.length;
  }
  EXPECT_EQ(static_cast<Index>(layer.saved.buckets.size()), ids) << c.name();
  // y is added to
  const auto y = random_matrix<Scalar>(f.rows(), f.cols(), 50);
  const Matrix<Scalar> sum = layer.forward(y);
  if (c.kinds().size() == 1) {
    EXPECT_TRUE(same_bits(sum, Matrix<Scalar>(y + f))) << c.name();
  } else {  // kinds of heads add themselves one after another
    EXPECT_TRUE(close(sum, Matrix<Scalar>(y + f))) << c.name();
  }
}

TEST(SelfAttentionForward, IsTheDefinition) {
  for (const AttentionPattern& pattern : patterns()) {
    for (const Index length : {1, 5, 16, 17, 40}) {
      for (const bool causal : {true, false}) {
        if (!naive::exists(pattern, causal)) continue;
        for (const bool masked : {false, true}) {
          const Case c{pattern, 2, length, causal, masked};
          expect_definition<double>(c);
          expect_definition<float>(c);
        }
      }
    }
  }
}

TEST(SelfAttentionForward, IsTheDefinitionWhereHeadsDiffer) {
  for (const LayerPattern& pattern : patterns_of_heads()) {
    for (const Index length : {1, 5, 17, 40}) {
      for (const bool causal : {true, false}) {
        if (!exists(pattern, causal)) continue;
        for (const bool masked : {false, true}) {
          const Case c{pattern, 2, length, causal, masked, 0, 0, 12, 3};
          expect_definition<double>(c);
          expect_definition<float>(c);
        }
      }
    }
  }
}

TEST(SelfAttentionForward, TakesManyShapes) {
  for (const AttentionPattern& pattern : patterns()) {
    if (rotary_width_of(pattern) == 0) {
      expect_definition<double>({pattern, 1, 9, true, false, 0, 0, 3, 1, 1});
      expect_definition<double>({pattern, 3, 18, only_causal(pattern), true, 0, 0, 7, 3, 3});
    }
    expect_definition<double>({pattern, 1, 70, true, true, 0, 0, 16, 3, 20});
    expect_definition<float>({pattern, 1, 33, true, false, 0, 0, 20, 1, 64});
  }
}

TEST(SelfAttentionForward, DoesNotReadBeyondTheLastSequence) {
  // Sixteen buckets are more runs than a staircase has: every pair is computed and masked, that of
  // the last token's key, whose value is to come, as well.
  LshPattern pattern{2, 19, 0, 2, {16}};
  pattern.values = Values::following;
  Layer<float> layer({pattern, 2, 40});
  {
    Scratch scratch(layer.workspace);
    constexpr Index bytes = Index{1} << 18;
    std::memset(scratch.take<std::byte>(bytes), 0xFF, static_cast<std::size_t>(bytes));
  }
  EXPECT_TRUE(layer.forward().allFinite());
}

}  // namespace
}  // namespace reformer::test
