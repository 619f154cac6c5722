// SPDX-License-Identifier: MIT
/// The self-attention branch: against layer norm, projections and attention written out, its
/// reversal, its gradients, and the laws of padding and of single chunks.
#include "reformer/attention/self_attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/naive.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

std::string name_of(const AttentionPattern& pattern) {
  const auto* lsh = std::get_if<LshPattern>(&pattern);
  std::string kind = lsh != nullptr ? "lsh" : "exact";
  if (lsh != nullptr) kind += reformer::detail::join(", R=", lsh->num_hashes);
  if (std::holds_alternative<LocalPattern>(pattern)) kind = "local";
  if (lsh == nullptr && shares_query_key(pattern)) kind += " shared";
  if (values_of(pattern) == Values::following) kind += " following";
  if (values_of(pattern) == Values::mixed) kind += " mixed";
  if (scores_of(pattern) == Scores::cosine) kind += " cosine";
  if (rotary_width_of(pattern) > 0) kind += " rotary";
  return kind;
}

struct Case {
  LayerPattern pattern;
  Index batch = 2, length = 17;
  bool causal = true, masked = false;
  double attention_dropout = 0, dropout = 0;
  Index width = 12, heads = 2, head_width = 5;

  SelfAttentionConfig config() const {
    return {.width = width,
            .num_heads = heads,
            .head_width = head_width,
            .pattern = pattern,
            .causal = causal,
            .attention_dropout = attention_dropout,
            .dropout = dropout};
  }
  std::vector<HeadKind> kinds() const { return head_kinds(pattern, heads); }
  /// The pattern by which a kind of heads hashes at the length, or null.
  const LshPattern* hashed(const HeadKind& heads_of_kind) const {
    return naive::hashed(heads_of_kind.pattern, length);
  }
  std::string name() const {
    std::string kind;
    for (const AttentionPattern& of_head : pattern.of_heads) {
      kind += (kind.empty() ? "" : " | ") + name_of(of_head);
    }
    return reformer::detail::join("self-attention (", kind, ", B=", batch, " T=", length,
                                  " H=", heads, " K=", head_width, causal ? ", causal" : "",
                                  masked ? ", masked" : "",
                                  dropout + attention_dropout > 0 ? ", dropout" : "", ")");
  }
};

/// A layer with random parameters and fixed rotations, its input and its pass. Where heads hash by
/// two patterns, rotations are drawn by the key of the pass.
template <typename Scalar>
class Layer {
 public:
  using Half = FloatingHalf<Scalar>;

  explicit Layer(const Case& c, int threads = 1, std::uint64_t seed = 1)
      : workspace(threads),
        attention("layer", c.config()),
        x(random_matrix<Scalar>(c.batch * c.length, c.width, seed + 100)),
        c_(c) {
    randomize_parameters(attention, seed);
    saved = attention.saved_in(memory, {c.batch, c.length});
    const auto kinds = c.kinds();
    const auto count = std::ranges::count_if(
        kinds, [](const HeadKind& kind) { return has_buckets(kind.pattern); });
    Index drawn = 0;
    for (const HeadKind& kind : kinds) {
      rotations.emplace_back();
      const auto* lsh = c.hashed(kind);
      if (lsh == nullptr) continue;
      // Drawn once in double: every scalar type uses the same.
      rotations.back() = detail::random_rotations<double>(
          kind.num_heads, c.head_width, lsh->num_hashes, bucket_factors(*lsh, c.length),
          count == 1 ? RandomKey{seed} : pass().key, drawn);
      drawn += round_up(rotations.back().size(), 2);
      if (count > 1) continue;
      attention.set_rotations(Tensor<Scalar, 4>(rotations.back().template cast<Scalar>()));
    }
    if (c.masked) {
      is_real.assign(static_cast<std::size_t>(c.batch * c.length), 1);
      for (std::size_t i = 0; i < is_real.size(); ++i) {
        const auto T = static_cast<std::size_t>(c.length);
        // The end of the first sequence, places in between in the others.
        if (i < T ? 5 * i >= 4 * T : i % 5 == 3) is_real[i] = 0;
      }
    }
  }

  Pass pass() { return {workspace, c_.batch, c_.length, {21, 4, 3}, true, is_real}; }

  /// y + f(x)
  Matrix<Scalar> forward(const Matrix<Scalar>& y) {
    Half half = half_of<Half>(y);
    attention.forward(half_of<Half>(x), half, saved, pass());
    return matrix_of(half);
  }
  Matrix<Scalar> forward() { return forward(Matrix<Scalar>::Zero(x.rows(), x.cols())); }

  /// y - f(x); dx and parameter gradients are added to.
  Matrix<Scalar> reverse(const Matrix<Scalar>& y, const Matrix<Scalar>& dy, Matrix<Scalar>& dx) {
    Half half = half_of<Half>(y);
    attention.reverse(half_of<Half>(x), half, rows_of(dy), rows_of(dx), saved, pass());
    return matrix_of(half);
  }

  std::vector<Matrix<double>> parameters() {
    std::vector<Matrix<double>> values;
    attention.for_each_parameter(
        [&](auto& p) { values.push_back(p.value.template cast<double>()); });
    return values;
  }

  /// A copy of the bucket ids of the last pass.
  std::vector<Bucket> buckets() const { return {saved.buckets.begin(), saved.buckets.end()}; }

  Workspace workspace, kept{1};
  Scratch memory{kept};
  SelfAttention<Scalar> attention;
  typename SelfAttention<Scalar>::Saved saved;
  Matrix<Scalar> x;
  std::vector<std::uint8_t> is_real;
  std::vector<Tensor<double, 4>> rotations;  // of each kind of heads, if it hashes

 private:
  Case c_;
};

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

std::vector<AttentionPattern> patterns() {
  auto patterns = naive::with_values(
      {
          LshPattern{4, 1, 0, 2, {4}},
          LshPattern{8, 1, 1, 1, {}},
          LshPattern{5, 1, 0, 3, {2, 4}},
          LshPattern{4, 1, 0, 2, {4}, /*sort_padding=*/true},
          LshPattern{4, 1, 1, 1, {}, /*sort_padding=*/true},
          LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks},
          LshPattern{3, 1, 1, 3, {2, 4}, false, Chunking::bucket_chunks, Duplicates::once},
          LocalPattern{4, 1, 0, false},
          LocalPattern{8, 1, 1, true},
          ExactPattern{false},
          ExactPattern{true},
      },
      {Values::following, Values::mixed});
  // One of each kind with each kind of values.
  for (const std::size_t i : {1U, 5U, 7U, 9U, 10U, 11U, 17U, 19U, 28U, 30U, 32U}) {
    patterns.push_back(naive::with_cosines(patterns[i]));
  }
  for (const std::size_t i : {1U, 6U, 7U, 9U, 10U, 16U, 30U}) {
    patterns.push_back(naive::with_rotary(patterns[i], 4));
  }
  patterns.push_back(naive::with_rotary(patterns[35], 2));  // cosines, too
  return patterns;
}

/// Layers whose three heads differ: with keys of their own before, behind and between heads that
/// share, that hash by two patterns, and with values of every kind.
std::vector<LayerPattern> patterns_of_heads() {
  const LshPattern far{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks};
  const auto with = [](auto pattern, Values values) {
    pattern.values = values;
    return pattern;
  };
  return {
      {LocalPattern{4}, LocalPattern{4}, far},
      {far, ExactPattern{false}, LocalPattern{8, 1, 1, true}},
      {ExactPattern{false}, ExactPattern{true}, LocalPattern{4}},
      {LshPattern{4, 1, 0, 2, {4}, true}, LocalPattern{4}, LshPattern{8, 1, 1, 1, {}}},
      {far, LshPattern{5, 1, 0, 3, {2, 4}}, LshPattern{5, 1, 0, 3, {2, 4}}},
      {with(far, Values::mixed), with(LocalPattern{4}, Values::following), ExactPattern{true}},
      {with(LocalPattern{4}, Values::own), far, with(ExactPattern{false}, Values::mixed)},
      {naive::with_cosines(LocalPattern{4}), ExactPattern{false}, naive::with_cosines(far)},
      {naive::with_rotary(LocalPattern{4}, 4), naive::with_rotary(far, 2), LocalPattern{4}},
  };
}

bool exists(const LayerPattern& pattern, bool causal) {
  return std::ranges::all_of(pattern.of_heads, [&](const AttentionPattern& of_head) {
    return naive::exists(of_head, causal);
  });
}
bool only_causal(const LayerPattern& pattern) {
  return !exists(pattern, /*causal=*/false);
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

/// Checks reversal and all gradients of one case.
/// @param most_elements  of each tensor
void expect_gradients(const Case& c, Index most_elements = 9) {
  Layer<double> layer(c);
  const auto y = random_matrix<double>(layer.x.rows(), c.width, 51);
  const auto dy = random_matrix<double>(layer.x.rows(), c.width, 52);
  const Matrix<double> top = layer.forward(y);
  const auto buckets = layer.buckets();
  if (has_buckets(c.pattern) && c.length > 8) {
    ASSERT_FALSE(buckets.empty()) << c.name();
  }

  // Gradients are added to what is there, here ones.
  Matrix<double> dx = Matrix<double>::Ones(dy.rows(), dy.cols());
  reset_gradients(layer.attention, 1);
  EXPECT_TRUE(close(layer.reverse(top, dy, dx), y)) << c.name() << ": y is not restored";
  EXPECT_EQ(layer.buckets(), buckets) << c.name();
  dx.array() -= 1;
  layer.attention.for_each_parameter([](auto& p) { p.gradient.array() -= 1; });

  bool flipped = false;
  const auto objective = [&] {
    const double value = weighted_sum(dy, layer.forward());
    flipped = flipped || layer.buckets() != buckets;
    return value;
  };
  const GradientCheckOptions options{
      .tolerance = 1e-6, .step = 0x1p-16, .most_elements = most_elements};
  check_gradient(c.name(), "x", objective, layer.x, dx, options);
  check_parameter_gradients(c.name(), layer.attention, objective, options);
  EXPECT_FALSE(flipped) << c.name() << ": a hash flipped under finite differences; this test needs "
                        << "data whose tokens keep away from the boundaries of buckets";
}

TEST(SelfAttentionReverse, RestoresAndDifferentiates) {
  for (const AttentionPattern& pattern : patterns()) {
    for (const bool causal : {true, false}) {
      if (!naive::exists(pattern, causal)) continue;
      for (const bool masked : {false, true}) expect_gradients({pattern, 2, 17, causal, masked});
    }
    for (const Index length : {1, 5, 16, 40}) expect_gradients({pattern, 1, length, true, false});
  }
}

TEST(SelfAttentionReverse, ReplaysDropout) {
  for (const AttentionPattern& pattern : patterns()) {
    expect_gradients({pattern, 2, 17, true, false, 0.3, 0.2});
    expect_gradients({pattern, 2, 17, only_causal(pattern), true, 0.3, 0});
    expect_gradients({pattern, 1, 23, true, true, 0, 0.4});
  }
}

TEST(SelfAttentionReverse, TakesManyShapes) {
  for (const AttentionPattern& pattern : patterns()) {
    if (rotary_width_of(pattern) == 0) {
      expect_gradients({pattern, 1, 9, true, false, 0, 0, 3, 1, 1});
      expect_gradients({pattern, 3, 18, only_causal(pattern), true, 0.1, 0.1, 7, 3, 3});
    }
    expect_gradients({pattern, 1, 70, only_causal(pattern), true, 0, 0, 16, 3, 20}, 5);
  }
  // Rows beyond one panel of the weight gradients.
  expect_gradients({LshPattern{16, 1, 0, 2, {8}}, 3, 190, true, true, 0, 0.1, 6, 2, 3}, 2);
}

TEST(SelfAttentionReverse, RestoresAndDifferentiatesWhereHeadsDiffer) {
  for (const LayerPattern& pattern : patterns_of_heads()) {
    for (const bool causal : {true, false}) {
      if (!exists(pattern, causal)) continue;
      for (const bool masked : {false, true}) {
        expect_gradients({pattern, 2, 17, causal, masked, 0, 0, 12, 3});
      }
    }
    expect_gradients({pattern, 1, 23, true, true, 0.3, 0.2, 12, 3});
  }
}

TEST(SelfAttentionReverse, SubtractsTheVeryBitsThatForwardAdded) {
  for (const AttentionPattern& pattern : patterns()) {
    for (const bool causal : {true, false}) {
      if (!naive::exists(pattern, causal)) continue;
      const Case c{pattern, 2, 70, causal, true, 0.1, 0.1, 20, 3, 16};
      Layer<float> layer(c);
      const Matrix<float> f = layer.forward();
      Matrix<float> dx = Matrix<float>::Zero(f.rows(), f.cols());
      reset_gradients(layer.attention);
      const Matrix<float> rest = layer.reverse(f, f, dx);
      EXPECT_TRUE((rest.array() == 0).all()) << c.name();
    }
  }
}

TEST(SelfAttentionReverse, IsExactWhereHeadsDifferInFixedPoint) {
  using Half = FixedHalf<float>;
  for (const LayerPattern& pattern : patterns_of_heads()) {
    const Case c{pattern, 2, 70, true, true, 0.1, 0.1, 20, 3, 16};
    Layer<float> layer(c);
    const auto y = random_matrix<float>(layer.x.rows(), c.width, 51), dy = y;
    const auto x = half_of<Half>(layer.x);
    for (const bool context : {false, true}) {
      auto half = half_of<Half>(y);
      const Matrix<float> before = matrix_of(half);
      layer.saved = layer.attention.saved_in(layer.memory, {c.batch, c.length, true}, context);
      EXPECT_EQ(layer.saved.buckets.empty(), !context || !has_buckets(pattern)) << c.name();
      layer.attention.forward(x, half, layer.saved, layer.pass());
      EXPECT_FALSE(close(matrix_of(half), before)) << c.name();
      Matrix<float> dx = Matrix<float>::Zero(y.rows(), y.cols());
      reset_gradients(layer.attention);
      layer.attention.reverse(x, half, rows_of(dy), rows_of(dx), layer.saved, layer.pass());
      EXPECT_TRUE(same_bits(matrix_of(half), before)) << c.name();
    }
  }
}

TEST(SelfAttentionReverse, UsesSavedBucketsAndDoesNotHash) {
  // With other rotations in the meantime, as if every token had been hashed to the other side.
  const Case c{LshPattern{4, 1, 0, 2, {4}}, 2, 21, true, false};
  Layer<float> layer(c);
  const Matrix<float> f = layer.forward();
  const auto buckets = layer.buckets();
  layer.attention.set_rotations(
      detail::random_rotations<float>(c.heads, c.head_width, 2, std::vector<Index>{4}, {987}));
  Matrix<float> dx = Matrix<float>::Zero(f.rows(), f.cols());
  reset_gradients(layer.attention);
  EXPECT_TRUE((layer.reverse(f, f, dx).array() == 0).all());
  EXPECT_EQ(layer.buckets(), buckets);
  layer.forward();
  EXPECT_NE(layer.buckets(), buckets);
}

TEST(SelfAttention, HasAsManyRoundsAsThePassSays) {
  for (const Chunking chunking : {Chunking::sorted_chunks, Chunking::bucket_chunks}) {
    const auto with_rounds = [&](Index rounds) {
      Case c{LshPattern{.chunk_length = 4, .num_hashes = rounds, .num_buckets = {4}}, 2, 21, true,
             true};
      std::get<LshPattern>(c.pattern.of_heads[0]).chunking = chunking;
      return c;
    };
    const auto result = [&](const Case& c, Index num_hashes) {
      Layer<float> layer(c);
      // Its rotations are drawn by the key, for the rounds that there are.
      SelfAttention<float> attention("layer", c.config());
      randomize_parameters(attention, 1);
      reset_gradients(attention);
      Pass pass = layer.pass();
      pass.num_hashes = num_hashes;
      Scratch memory(layer.workspace);
      auto saved = attention.saved_in(memory, {c.batch, c.length, false, num_hashes});
      auto x = half_of<FloatingHalf<float>>(layer.x);
      auto y = half_of<FloatingHalf<float>>(Matrix<float>::Zero(layer.x.rows(), layer.x.cols()));
      attention.forward(x, y, saved, pass);
      const Matrix<float> f = matrix_of(y);
      Matrix<float> dx = Matrix<float>::Zero(f.rows(), f.cols());
      attention.reverse(x, y, rows_of(f), rows_of(dx), saved, pass);
      EXPECT_TRUE((matrix_of(y).array() == 0).all());
      return std::pair(f, dx);
    };
    const auto [f, dx] = result(with_rounds(2), 5);
    const auto [expected, expected_dx] = result(with_rounds(5), 0);
    EXPECT_TRUE(same_bits(f, expected));
    EXPECT_TRUE(same_bits(dx, expected_dx));
    EXPECT_FALSE(same_bits(f, result(with_rounds(2), 0).first));

    Layer<float> layer(with_rounds(2));
    Pass pass = layer.pass();
    auto half = half_of<FloatingHalf<float>>(layer.x);
    const auto message = [&](Index rounds) {
      pass.num_hashes = rounds;
      return message_of([&] { layer.attention.forward(half, half, layer.saved, pass); });
    };
    EXPECT_TRUE(contains(message(-1), "num_hashes is -1, must be at least 0"));
    EXPECT_TRUE(contains(message(5), "rotations dimension 2 is 2, must equal num_hashes = 5"));
  }
}

TEST(SelfAttention, DrawsRotationsByTheKeyOfThePass) {
  const Case c{LshPattern{4, 1, 0, 2, {8}}, 2, 21, true, false};
  const auto buckets_of = [&](SelfAttention<float>& attention, const RandomKey& key) {
    Layer<float> layer(c);
    Pass pass = layer.pass();
    pass.key = key;
    FloatingHalf<float> y(layer.x.rows(), c.width);
    attention.forward(half_of<FloatingHalf<float>>(layer.x), y, layer.saved, pass);
    return layer.buckets();
  };
  SelfAttention<float> attention("layer", c.config());
  randomize_parameters(attention, 1);
  const RandomKey key{5, 6, 7};
  const auto buckets = buckets_of(attention, key);
  EXPECT_EQ(buckets_of(attention, key), buckets);
  EXPECT_NE(buckets_of(attention, {6, 6, 7}), buckets);
  EXPECT_NE(buckets_of(attention, {5, 7, 7}), buckets);
  EXPECT_NE(buckets_of(attention, {5, 6, 8}), buckets);
  attention.set_rotations(
      detail::random_rotations<float>(c.heads, c.head_width, 2, std::vector<Index>{8}, key));
  EXPECT_EQ(buckets_of(attention, {99, 1, 1}), buckets);
}

TEST(SelfAttention, DropsOutInTrainingOnly) {
  const Case c{LocalPattern{4, 1, 0, false}, 2, 21, true, false, 0.4, 0.4};
  Layer<float> layer(c);
  Case plain = c;
  plain.attention_dropout = plain.dropout = 0;
  Layer<float> without(plain);
  const Matrix<float> expected = without.forward();
  EXPECT_FALSE(same_bits(layer.forward(), expected));
  Pass pass = layer.pass();
  pass.training = false;
  FloatingHalf<float> y(layer.x.rows(), c.width);
  layer.attention.forward(half_of<FloatingHalf<float>>(layer.x), y, layer.saved, pass);
  EXPECT_TRUE(same_bits(matrix_of(y), expected));
}

TEST(SelfAttention, DropsOtherWeightsInEachKindOfHeads) {
  // All scores are zero. Every eighth token has the value one, others zero, so f(x) of the eight
  // tokens from there on says whether their weights of that token are left. The first head has
  // eight blocks of eight tokens, the second four of sixteen.
  SelfAttention<double> attention("layer",
                                  {.width = 2,
                                   .num_heads = 2,
                                   .head_width = 1,
                                   .pattern = {LocalPattern{8, 0, 0}, LocalPattern{16, 0, 0}},
                                   .attention_dropout = 0.5});
  attention.for_each_parameter([](auto& p) {
    if (p.value.rows() == 1) p.value.setConstant(0.5);  // LN(x) is (1, 0) or (0, 1)
    if (p.name == "layer.value.weight") p.value.row(0).setOnes();
    if (p.name == "layer.output.weight") p.value.setIdentity();
  });
  Matrix<double> x(64, 2);
  for (Index t = 0; t < 64; ++t) x.row(t) << (t % 8 == 0 ? 1 : -1), (t % 8 == 0 ? -1 : 1);
  Workspace workspace(1);
  FloatingHalf<double> y(64, 2);
  SelfAttention<double>::Saved saved;
  attention.forward(half_of<FloatingHalf<double>>(x), y, saved, {workspace, 1, 64, {3}, true});
  const Matrix<double> f = matrix_of(y);
  const auto is_left = [&](Index t, Index head) { return f(t, head) > 1e-6; };
  for (Index shift = 0; shift <= 4; ++shift) {
    int equal = 0;
    for (Index i = 0; i < 32; ++i) {
      equal += is_left(8 * shift + i, 0) == is_left(i / 8 * 16 + i % 8, 1) ? 1 : 0;
    }
    EXPECT_LT(equal, 28) << "blocks from " << shift << " on have the masks of the other head";
    EXPECT_GT(equal, 4);
  }
}

TEST(SelfAttention, DrawsOtherRotationsForEachKindOfHeads) {
  // Two heads with equal weights, which differ in what they do with the same buckets.
  Case c{{LshPattern{4, 1, 0, 2, {8}}, LshPattern{5, 1, 0, 2, {8}}}, 1, 40};
  Layer<float> layer(c);
  layer.attention.for_each_parameter([&](auto& p) {
    if (p.name == "layer.query_key.weight") p.value.rightCols(5) = p.value.leftCols(5);
  });
  layer.forward();
  const auto ids = layer.attention.buckets_of(layer.saved);
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(ids[0].dimensions(), (Tensor<Bucket, 4>::Dimensions{1, 1, 2, 40}));
  EXPECT_FALSE(same_bits(ids[0], ids[1]));
}

/// All that a training step makes of a layer: f(x), dx and the parameter gradients.
template <typename Scalar>
struct Step {
  Matrix<Scalar> f, restored, dx;
  std::vector<double> gradients;

  Step(Layer<Scalar>& layer, const Matrix<Scalar>& dy) {
    f = layer.forward();
    dx = Matrix<Scalar>::Zero(f.rows(), f.cols());
    reset_gradients(layer.attention);
    restored = layer.reverse(f, dy, dx);
    gradients = gradients_of(layer.attention);
  }
};

TEST(SelfAttention, GivesTheSameBitsForAnyNumberOfThreads) {
  const LshPattern lsh{16, 1, 0, 2, {8, 2}};
  const LocalPattern local{16, 1, 1, true};
  for (const LayerPattern& pattern : std::vector<LayerPattern>{
           lsh, local, ExactPattern{false}, ExactPattern{true}, {local, lsh, lsh}}) {
    const Case c{pattern, 2, 301, false, true, 0.1, 0.1, 40, 3, 16};
    const auto dy = random_matrix<float>(c.batch * c.length, c.width, 53);
    Layer<float> single(c, 1);
    const Step<float> one(single, dy);
    for (const int threads : thread_counts) {
      Layer<float> layer(c, threads);
      const Step<float> many(layer, dy);
      EXPECT_TRUE(same_bits(many.f, one.f)) << c.name() << ", " << threads << " threads";
      EXPECT_TRUE(same_bits(many.dx, one.dx)) << c.name() << ", " << threads << " threads";
      EXPECT_TRUE(same_bits(many.gradients, one.gradients))
          << c.name() << ", " << threads << " threads";
    }
  }
}

/// Groups are chosen by bytes, about 2 MiB for an array. A head whose sequence takes most of that
/// is a group of its own, with few sums to compute besides.
TEST(SelfAttention, OfSeveralGroupsIsTheSumOfItsHeadsAndSequences) {
  struct Shape {
    Index batch, length, heads;
  };
  // One head at a time; two heads of three, then the last; one head of five sequences, then two.
  for (const Shape& shape : {Shape{2, 2100, 2}, Shape{2, 1400, 3}, Shape{7, 700, 1}}) {
    for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
             LshPattern{16, 1, 0, 2, {64, 4}}, LocalPattern{16, 1, 1, false}}) {
      const Case c{pattern, shape.batch, shape.length, true, true, 0, 0, 6, shape.heads, 64};
      Layer<double> layer(c);
      const auto dy = random_matrix<double>(layer.x.rows(), c.width, 54);
      const Step<double> whole(layer, dy);
      // Queries, keys, values, their gradients and outputs would take this much at once.
      const Index arrays = shares_query_key(pattern) ? 5 : 7;
      const auto together = static_cast<std::size_t>(arrays * dy.rows() * c.heads * 64) * 8;
      EXPECT_LT(layer.workspace.peak_bytes(), together) << c.name() << " is no case of groups";

      Matrix<double> f = Matrix<double>::Zero(dy.rows(), dy.cols()), dx = f;
      std::vector<Matrix<double>> gradients = layer.parameters();
      for (auto& g : gradients) g.setZero();
      const auto parameters = layer.parameters();
      for (Index b = 0; b < c.batch; ++b) {
        for (Index h = 0; h < c.heads; ++h) {
          Case part = c;
          part.batch = part.heads = 1;
          Layer<double> head(part);
          head.x = layer.x.middleRows(b * c.length, c.length);
          head.is_real.assign(layer.is_real.begin() + b * c.length,
                              layer.is_real.begin() + (b + 1) * c.length);
          if (const auto& rotations = layer.rotations[0]; rotations.size() > 0) {
            const Eigen::array<Index, 4> first{h, 0, 0, 0};
            const Eigen::array<Index, 4> size{1, 64, rotations.dimension(2),
                                              rotations.dimension(3)};
            head.attention.set_rotations(Tensor<double, 4>(rotations.slice(first, size)));
          }
          /// Rows of the output weight, columns of the others; norms are whole.
          const auto slice =
              [&](Matrix<double>& m) -> Eigen::Ref<Matrix<double>, 0, Eigen::OuterStride<>> {
            if (m.rows() == 1) return m;
            if (m.rows() == c.width) return m.middleCols(h * 64, 64);
            return m.middleRows(h * 64, 64);
          };
          std::size_t i = 0;
          head.attention.for_each_parameter([&](auto& p) {
            Matrix<double> value = parameters[i++];
            p.value = slice(value);
          });
          const Step<double> step(head, dy.middleRows(b * c.length, c.length));
          f.middleRows(b * c.length, c.length) += step.f;
          dx.middleRows(b * c.length, c.length) += step.dx;
          i = 0;
          head.attention.for_each_parameter([&](auto& p) { slice(gradients[i++]) += p.gradient; });
        }
      }
      EXPECT_TRUE(close(whole.f, f)) << c.name();
      EXPECT_TRUE(close(whole.dx, dx)) << c.name();
      EXPECT_TRUE(close(whole.restored, Matrix<double>(0 * f), 1, f.cwiseAbs().maxCoeff()))
          << c.name();
      std::size_t i = 0;
      layer.attention.for_each_parameter([&](auto& p) {
        EXPECT_TRUE(close(p.gradient, gradients[i++], 4)) << c.name() << ", " << p.name;
      });
    }
  }
}

TEST(SelfAttentionReverse, ReplaysDropoutInSeveralGroups) {
  // Attention dropout is numbered by sequence and head of the layer, output dropout by row and
  // applied to each group's part. One derivative, along a random direction of everything, is enough
  // to find a mask that is not replayed.
  for (const auto& [batch, length, heads] :
       std::vector<std::array<Index, 3>>{{2, 1400, 3}, {7, 700, 1}}) {
    const Case c{LocalPattern{16, 1, 0, false}, batch, length, true, false, 0.2, 0.2, 6, heads, 64};
    Layer<double> layer(c);
    const auto dy = random_matrix<double>(layer.x.rows(), c.width, 55);
    const Step<double> step(layer, dy);
    const Matrix<double> x = layer.x, along_x = random_matrix<double>(x.rows(), x.cols(), 56, 0.1);
    double analytic = weighted_sum(along_x, step.dx);
    std::vector<Matrix<double>> values, along;
    layer.attention.for_each_parameter([&](auto& p) {
      values.push_back(p.value);
      along.push_back(
          random_matrix<double>(p.value.rows(), p.value.cols(), 57 + along.size(), 0.1));
      analytic += weighted_sum(along.back(), p.gradient);
    });
    Matrix<double> place = Matrix<double>::Zero(1, 1);
    const auto objective = [&] {
      layer.x = x + place(0, 0) * along_x;
      std::size_t i = 0;
      layer.attention.for_each_parameter([&](auto& p) {
        p.value = values[i] + place(0, 0) * along[i];
        ++i;
      });
      return weighted_sum(dy, layer.forward());
    };
    check_gradient(c.name(), "a random direction", objective, place,
                   Matrix<double>::Constant(1, 1, analytic), {.step = 0x1p-8});
  }
}

/// A sequence of real tokens, followed by `padding` others, as a training step sees it.
Step<float> padded_step(Case c, Index padding, std::uint64_t content) {
  const Index real = c.length;
  Layer<float> original(c);
  const auto dy_real = random_matrix<float>(real, c.width, 58);
  c.length += padding;
  Layer<float> layer(c);
  Matrix<float> dy = Matrix<float>::Zero(c.length, c.width);
  layer.x = random_matrix<float>(c.length, c.width, content, 3);
  layer.x.topRows(real) = original.x;
  dy.topRows(real) = dy_real;
  layer.is_real.clear();
  if (padding > 0) {
    layer.is_real.assign(static_cast<std::size_t>(c.length), 0);
    std::fill_n(layer.is_real.begin(), real, std::uint8_t{1});
  }
  Step<float> step(layer, dy);
  for (Matrix<float>* m : {&step.f, &step.restored, &step.dx}) {
    *m = Matrix<float>(m->topRows(real));
  }
  return step;
}

TEST(SelfAttention, OfRealTokensDoesNotDependOnPadding) {
  int turn = 0;
  for (const AttentionPattern& pattern : naive::with_values(
           {LshPattern{8, 1, 0, 2, {4}}, LshPattern{4, 1, 1, 3, {4, 2}},
            LshPattern{4, 1, 1, 2, {4}, false, Chunking::bucket_chunks, Duplicates::once},
            LocalPattern{8, 1, 1, false}, ExactPattern{false}, ExactPattern{true}},
           {Values::following, Values::mixed})) {
    for (const bool causal : {true, false}) {
      if (!naive::exists(pattern, causal)) continue;
      AttentionPattern turned = turn % 2 == 0 ? pattern : naive::with_cosines(pattern);
      if (turn++ % 3 == 0) turned = naive::with_rotary(turned, 10);
      const Case c{turned, 1, 27, causal, false, 0, 0, 20, 2, 16};
      const Step<float> alone = padded_step(c, 0, 1);
      for (const Index padding : {1, 5, 24}) {
        for (const std::uint64_t content : {60U, 61U}) {
          const Step<float> padded = padded_step(c, padding, content);
          const std::string what =
              reformer::detail::join(c.name(), " and ", padding, " of padding");
          EXPECT_TRUE(same_bits(padded.f, alone.f)) << what;
          EXPECT_TRUE(same_bits(padded.dx, alone.dx)) << what << ", dx";
          EXPECT_TRUE(same_bits(padded.gradients, alone.gradients)) << what << ", parameters";
        }
      }
    }
  }
}

TEST(SelfAttention, OfRealTokensIsFiniteWhateverPaddingHolds) {
  for (const AttentionPattern& pattern : patterns()) {
    const Case c{pattern, 2, 17, true, /*masked=*/true, 0.2, 0.2};
    const auto run = [&](float held) {
      Layer<float> layer(c);
      Matrix<float> dy = random_matrix<float>(layer.x.rows(), c.width, 9);
      const auto of_real_tokens = [&](Matrix<float> rows) {
        for (Index i = 0; i < rows.rows(); ++i) {
          if (layer.is_real[static_cast<std::size_t>(i)] == 0) rows.row(i).setZero();
        }
        return rows;
      };
      dy = of_real_tokens(dy);
      for (Index i = 0; i < layer.x.rows(); ++i) {
        if (layer.is_real[static_cast<std::size_t>(i)] == 0) layer.x.row(i).setConstant(held);
      }
      const Matrix<float> y = layer.forward();
      Matrix<float> dx = Matrix<float>::Zero(y.rows(), y.cols());
      reset_gradients(layer.attention);
      const Matrix<float> restored = layer.reverse(y, dy, dx);
      return std::tuple(of_real_tokens(y), of_real_tokens(restored), of_real_tokens(dx),
                        gradients_of(layer.attention));
    };
    const auto clean = run(1);
    for (const float held : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF}) {
      const auto spoilt = run(held);
      EXPECT_TRUE(same_bits(std::get<0>(spoilt), std::get<0>(clean))) << c.name();
      EXPECT_TRUE(same_bits(std::get<1>(spoilt), std::get<1>(clean))) << c.name();
      EXPECT_EQ(std::get<2>(spoilt), std::get<2>(clean)) << c.name();
      EXPECT_EQ(std::get<3>(spoilt), std::get<3>(clean)) << c.name();
    }
  }
}

TEST(SelfAttention, OfASequenceDoesNotDependOnTheOthersOfTheBatch) {
  for (const AttentionPattern& pattern : patterns()) {
    for (const bool causal : {true, false}) {
      if (!naive::exists(pattern, causal)) continue;
      const Case c{pattern, 3, 40, causal, true, 0, 0, 20, 2, 16};
      Layer<float> batch(c);
      const Matrix<float> f = batch.forward();
      Case single = c;
      single.batch = 1;
      for (Index b = 0; b < c.batch; ++b) {
        Layer<float> alone(single);
        alone.x = batch.x.middleRows(b * c.length, c.length);
        alone.is_real.assign(batch.is_real.begin() + b * c.length,
                             batch.is_real.begin() + (b + 1) * c.length);
        EXPECT_TRUE(same_bits(alone.forward(), Matrix<float>(f.middleRows(b * c.length, c.length))))
            << c.name() << ", sequence " << b;
      }
    }
  }
}

TEST(SelfAttention, OfOneChunkIsExactAttention) {
  const auto expect_equal = [](const AttentionPattern& chunked, const AttentionPattern& exact) {
    for (const bool causal : {true, false}) {
      for (const Index length : {1, 15, 16}) {
        const Case a{chunked, 2, length, causal, true}, b{exact, 2, length, causal, true};
        Layer<double> one(a), other(b);
        const auto dy = random_matrix<double>(one.x.rows(), one.x.cols(), 62);
        const Step<double> first(one, dy), second(other, dy);
        EXPECT_TRUE(close(first.f, second.f)) << a.name();
        EXPECT_TRUE(close(first.dx, second.dx, 4)) << a.name() << ", dx";
        EXPECT_TRUE(close(first.gradients, second.gradients, 4)) << a.name() << ", parameters";
        EXPECT_TRUE(one.saved.buckets.empty()) << a.name();
      }
    }
  };
  expect_equal(LshPattern{16, 1, 0, 2, {4}}, ExactPattern{true});
  expect_equal(LocalPattern{16, 1, 1, true}, ExactPattern{false});
}

/// Decodes the tokens behind a prompt one by one: y, and the bytes of the state at the end.
std::pair<Matrix<float>, std::size_t> decoded(Layer<float>& layer, const Case& c, Index prompt) {
  using Half = FloatingHalf<float>;
  const auto rows_of_token = [&](Index t, Index count) {
    Matrix<float> rows(c.batch * count, c.width);
    for (Index b = 0; b < c.batch; ++b) {
      rows.middleRows(b * count, count) = layer.x.middleRows(b * c.length + t, count);
    }
    return rows;
  };
  Pass pass = layer.pass();
  pass.length = 1;
  auto decoding = layer.attention.decoding(pass);
  for (std::size_t i = 0; i < decoding.kinds.size(); ++i) {
    decoding.kinds[i].rotations = layer.rotations[i].template cast<float>();
  }
  pass.length = prompt;
  Half prompt_y(c.batch * prompt, c.width);
  layer.attention.prefill(half_of<Half>(rows_of_token(0, prompt)), prompt_y, decoding, pass);
  pass.length = 1;
  Matrix<float> y = Matrix<float>::Zero(layer.x.rows(), c.width);
  const auto put = [&](const Matrix<float>& rows, Index t, Index count) {
    for (Index b = 0; b < c.batch; ++b) {
      y.middleRows(b * c.length + t, count) = rows.middleRows(b * count, count);
    }
  };
  put(matrix_of(prompt_y), 0, prompt);
  for (Index t = prompt; t < c.length; ++t) {
    Half next(c.batch, c.width);
    layer.attention.decode(half_of<Half>(rows_of_token(t, 1)), next, decoding, pass);
    put(matrix_of(next), t, 1);
  }
  return {y, decoding.bytes()};
}

TEST(SelfAttentionDecode, KeepsWhatIsThereOfAWindowWithoutEnd) {
  constexpr Index most = max_size;
  const auto buckets = [](Index length, Index before, Duplicates duplicates) {
    return LshPattern{length, before, 0, 2, {4}, false, Chunking::bucket_chunks, duplicates};
  };
  auto following = buckets(4, most, Duplicates::once);
  following.values = Values::following;
  for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
           LocalPattern{4, most}, LocalPattern{most, 1}, LocalPattern{4, 39}, ExactPattern{},
           ExactPattern{true}, buckets(4, most, Duplicates::each_time),
           buckets(4, most, Duplicates::once), buckets(most, 1, Duplicates::once),
           LocalPattern{4, most, 0, false, Values::following},
           ExactPattern{true, Values::following}, following,
           LocalPattern{4, most, 0, false, Values::mixed}, ExactPattern{true, Values::mixed},
           naive::with_rotary(ExactPattern{}, 4), naive::with_rotary(following, 2)}) {
    const Case c{LayerPattern(pattern), 2, 300};
    Layer<float> layer(c);
    const Matrix<float> whole = layer.forward();
    const std::size_t rings = has_buckets(pattern) ? 2 * 2 * 2 * 4 : 2 * 2;
    for (const Index prompt : {1, 140}) {
      const auto [y, bytes] = decoded(layer, c, prompt);
      EXPECT_TRUE(same_bits(y, whole)) << c.name() << ", prompt of " << prompt;
      // Rows of keys, values, scale and places, at most half as many again as tokens.
      EXPECT_LE(bytes, rings * (450 * (10 * 4 + 4 + 32) + 8)) << c.name();
    }
  }
}

TEST(SelfAttentionDecode, RefusesTheStateOfAnotherLayer) {
  using Half = FloatingHalf<float>;
  const auto message = [](Case other, Index batch = 2) {
    Layer<float> layer({LocalPattern{4}}), stranger(other);
    Pass pass = layer.pass();
    pass.length = 1;
    auto decoding = stranger.attention.decoding(pass);
    pass.batch = batch;
    const Half x(batch, 12);
    Half y(batch, 12);
    return message_of([&] { layer.attention.decode(x, y, decoding, pass); });
  };
  const LocalPattern local{4};
  EXPECT_EQ(message({local}, 3),
            "reformer::SelfAttention::decode: batch is 3, must equal selected sequences of the "
            "state = 2");
  EXPECT_TRUE(contains(message({.pattern = local, .heads = 3}), "heads of the state is 3"));
  EXPECT_TRUE(contains(message({.pattern = local, .head_width = 4}), "head width of the state"));
  EXPECT_TRUE(contains(message({.pattern = local, .width = 13}), "rows of the kept query weight"));
  for (const LayerPattern& other :
       {LayerPattern(ExactPattern{true}), LayerPattern(LocalPattern{4, 2})}) {
    EXPECT_TRUE(contains(message({other}), "the state is that of another pattern"));
  }
  EXPECT_TRUE(contains(message({{local, ExactPattern{}}}),
                       "kinds of heads of the state is 2, must equal those of the layer = 1"));
  // The state that a prompt fills is checked as well.
  Layer<float> layer({ExactPattern{}});
  Pass pass = layer.pass();
  auto decoding = layer.attention.decoding({layer.workspace, 3, 1});
  auto half = half_of<Half>(layer.x);
  EXPECT_TRUE(contains(message_of([&] { layer.attention.prefill(half, half, decoding, pass); }),
                       "prefill: batch is 2, must equal selected sequences of the state = 3"));
}

TEST(SelfAttention, NamesParametersAndWhatIsShared) {
  const auto names = [](const LayerPattern& pattern) {
    Case c;
    c.pattern = pattern;
    SelfAttention<float> attention("layers.3.attention", c.config());
    std::vector<std::string> result;
    attention.for_each_parameter([&](auto& p) {
      result.push_back(reformer::detail::join(p.name, " ", p.value.rows(), "x", p.value.cols()));
    });
    return result;
  };
  const std::string prefix = "layers.3.attention.";
  const std::vector<std::string> shared = {
      prefix + "layer_norm.weight 1x12", prefix + "layer_norm.bias 1x12",
      prefix + "query_key.weight 12x10", prefix + "value.weight 12x10",
      prefix + "output.weight 10x12"};
  const std::vector<std::string> separate = {
      prefix + "layer_norm.weight 1x12", prefix + "layer_norm.bias 1x12",
      prefix + "query.weight 12x10",     prefix + "key.weight 12x10",
      prefix + "value.weight 12x10",     prefix + "output.weight 10x12"};
  EXPECT_EQ(names(LshPattern{}), shared);
  EXPECT_EQ(names(ExactPattern{true}), shared);
  EXPECT_EQ(names(LocalPattern{}), separate);
  EXPECT_EQ(names(ExactPattern{false}), separate);
  EXPECT_EQ(names({LocalPattern{}, ExactPattern{false}}), separate);
  // Keys of one of the two heads.
  auto some = separate;
  some[3] = prefix + "key.weight 12x5";
  EXPECT_EQ(names({LocalPattern{}, LshPattern{}}), some);
  some.push_back(prefix + "value_mixture 2x2");
  EXPECT_EQ(names({ExactPattern{true}, LocalPattern{.values = Values::mixed}}), some);
  some.push_back(prefix + "temperature 1x2");
  EXPECT_EQ(
      names({ExactPattern{true}, LocalPattern{.values = Values::mixed, .scores = Scores::cosine}}),
      some);
}

TEST(SelfAttention, RejectsImpossibleConfigurations) {
  const auto message = [](auto change) {
    Case c;
    c.pattern = LshPattern{4, 1, 0, 2, {4}};
    SelfAttentionConfig config = c.config();
    change(config);
    return message_of([&] { SelfAttention<float>("layer", config); });
  };
  const auto with_pattern = [&](const LayerPattern& pattern) {
    return message([&](auto& config) { config.pattern = pattern; });
  };
  EXPECT_TRUE(contains(message([](auto& c) { c.width = 0; }), "width is 0, must be at least 1"));
  EXPECT_TRUE(contains(message([](auto& c) { c.num_heads = -1; }), "num_heads is -1"));
  EXPECT_TRUE(contains(message([](auto& c) { c.head_width = 0; }), "head_width is 0"));
  EXPECT_TRUE(contains(message([](auto& c) { c.dropout = 1; }), "dropout is 1, must be in [0, 1)"));
  EXPECT_TRUE(contains(message([](auto& c) { c.attention_dropout = -0.5; }),
                       "attention_dropout is -0.5, must be in [0, 1)"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{0, 1, 0, 2, {4}}), "chunk_length is 0"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, -1, 0, 2, {4}}), "chunks_before is -1"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, 1, -1, 2, {4}}), "chunks_after is -1"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, 1, 0, 0, {4}}), "num_hashes is 0"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, 1, 0, 2, {5}}), "factor 5"));
  EXPECT_TRUE(contains(with_pattern(LocalPattern{-4, 1, 0, false}), "chunk_length is -4"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{.chunking = Chunking::bucket_chunks}),
                       "num_buckets is empty, must be given for bucket_chunks"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, 1, 0, 2, {4}, true, Chunking::bucket_chunks}),
                       "sort_padding is true, must be false for bucket_chunks"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, 1, 0, 2, {4}, false, {}, Duplicates::once}),
                       "duplicates count once, which only bucket_chunks can do"));
  EXPECT_TRUE(contains(message([](auto& c) { c.width = max_size + 1; }),
                       "width is 2147483648, must be at most 2147483647"));
  EXPECT_TRUE(contains(message([](auto& c) {
                         c.num_heads = 65536;
                         c.head_width = 32768;
                       }),
                       "head_width is 32768, must be at most 32767"));
  EXPECT_TRUE(contains(message([](auto& c) { c.layer_norm_epsilon = 0; }),
                       "layer_norm_epsilon is 0, must be in [1e-37, 1e37]"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{4, 1, 0, 65536, {4}}),
                       "num_hashes is 65536, must be at most 65535"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{.chunks_before = Index{1} << 20}),
                       "chunks_before + chunks_after is 1048576, must be at most 256"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{.chunking = static_cast<Chunking>(2)}),
                       "chunking is number 2, must be sorted_chunks or bucket_chunks"));
  EXPECT_TRUE(contains(with_pattern(LshPattern{.duplicates = static_cast<Duplicates>(-1)}),
                       "duplicates is number -1, must be each_time or once"));
  EXPECT_TRUE(contains(with_pattern(LocalPattern{.values = static_cast<Values>(3)}),
                       "values is number 3, must be own, following or mixed"));
  EXPECT_TRUE(contains(with_pattern(LocalPattern{.scores = static_cast<Scores>(2)}),
                       "scores is number 2, must be dot_product or cosine"));
  EXPECT_TRUE(
      contains(with_pattern(LocalPattern{.rotary_width = 3}), "rotary_width is 3, must be even"));
  EXPECT_TRUE(contains(with_pattern({LocalPattern{}, LocalPattern{.rotary_width = 6}}),
                       "rotary_width is 6, must be at most 5"));
  EXPECT_EQ(with_pattern({LocalPattern{}, LocalPattern{}, LshPattern{}}),
            "reformer::SelfAttention: of_heads has 3 patterns, must have a number that divides "
            "num_heads = 2");
  EXPECT_TRUE(contains(with_pattern(LayerPattern(std::vector<AttentionPattern>{})),
                       "of_heads is empty, must have at least one pattern"));
  EXPECT_TRUE(contains(with_pattern({LocalPattern{}, LocalPattern{0}}),
                       "SelfAttention: of_heads[1]: chunk_length is 0"));
  for (const AttentionPattern& pattern : patterns()) {
    const std::string refusal = message([&](auto& config) {
      config.pattern = pattern;
      config.causal = false;
    });
    EXPECT_EQ(contains(refusal, ", must be own where attention is not causal"),
              only_causal(pattern));
  }
}

TEST(SelfAttention, RejectsWrongArguments) {
  const Case c{LshPattern{4, 1, 0, 2, {4}}, 2, 17};
  using Half = FloatingHalf<float>;
  const auto message = [&](Index x_rows, Index x_columns, Index y_rows, auto change,
                           Index y_columns = 12) {
    Layer<float> layer(c);
    const Half x(x_rows, x_columns);
    Half y(y_rows, y_columns);
    Pass pass = layer.pass();
    change(pass);
    return message_of([&] { layer.attention.forward(x, y, layer.saved, pass); });
  };
  const auto nothing = [](Pass&) {};
  EXPECT_TRUE(contains(message(33, 12, 34, nothing), "rows of x is 33, must equal B*T = 34"));
  EXPECT_TRUE(contains(message(34, 12, 35, nothing), "rows of y is 35, must equal B*T = 34"));
  EXPECT_TRUE(contains(message(34, 11, 34, nothing), "columns of x is 11, must equal width = 12"));
  EXPECT_TRUE(
      contains(message(34, 12, 34, nothing, 11), "columns of y is 11, must equal width = 12"));
  EXPECT_TRUE(contains(message(34, 12, 34, [](Pass& p) { p.batch = 0; }), "batch is 0"));
  EXPECT_TRUE(contains(message(34, 12, 34, [](Pass& p) { p.length = -3; }), "length is -3"));
  const std::vector<std::uint8_t> mask(33, 1);
  EXPECT_TRUE(contains(message(34, 12, 34, [&](Pass& p) { p.is_real = mask; }),
                       "is_real has 33 elements, must have B*T = 34"));

  const auto with_rotations = [&](const LayerPattern& pattern, std::array<Index, 4> shape) {
    Case other = c;
    other.pattern = pattern;
    SelfAttention<float> attention("layer", other.config());
    return message_of([&] { attention.set_rotations(random_tensor<float>(shape, 1)); });
  };
  EXPECT_TRUE(contains(with_rotations(LocalPattern{}, {2, 5, 2, 2}), "does not hash"));
  EXPECT_TRUE(contains(with_rotations({LshPattern{4}, LshPattern{8}}, {2, 5, 2, 2}),
                       "rotations are given to a layer whose heads hash by two patterns"));
  EXPECT_TRUE(contains(with_rotations({LocalPattern{}, LshPattern{4}}, {2, 5, 2, 2}),
                       "rotations dimension 0 is 2, must equal num_heads = 1"));
  EXPECT_TRUE(contains(with_rotations(c.pattern, {3, 5, 2, 2}),
                       "rotations dimension 0 is 3, must equal num_heads = 2"));
  EXPECT_TRUE(contains(with_rotations(c.pattern, {2, 4, 2, 2}),
                       "rotations dimension 1 is 4, must equal head_width = 5"));
  EXPECT_TRUE(contains(with_rotations(c.pattern, {2, 5, 1, 2}),
                       "rotations dimension 2 is 1, must equal num_hashes = 2"));
  EXPECT_TRUE(contains(with_rotations(c.pattern, {2, 5, 2, 3}),
                       "rotations dimension 3 is 3, must equal half the sum of num_buckets = 2"));
  // Where the number of buckets follows the length, a pass finds out.
  Layer<float> layer({LshPattern{4, 1, 0, 2}, 2, 17});
  layer.attention.set_rotations(random_tensor<float>(std::array<Index, 4>{2, 5, 2, 3}, 1));
  EXPECT_TRUE(contains(message_of([&] { layer.forward(); }), "rotations dimension 3 is 3"));
}

TEST(SelfAttentionReverse, RejectsWrongArguments) {
  const Case c{LshPattern{4, 1, 0, 2, {4}}, 2, 17};
  const auto message = [&](auto change, Index dy_rows, Index dy_columns, Index dx_rows,
                           Index dx_columns) {
    Layer<float> layer(c);
    const Matrix<float> f = layer.forward();
    reset_gradients(layer.attention);
    change(layer);
    Matrix<float> dx = Matrix<float>::Zero(dx_rows, dx_columns);
    return message_of([&] { layer.reverse(f, Matrix<float>::Zero(dy_rows, dy_columns), dx); });
  };
  const auto nothing = [](Layer<float>&) {};
  EXPECT_TRUE(contains(message(nothing, 33, 12, 34, 12), "rows of dy is 33, must equal B*T = 34"));
  EXPECT_TRUE(
      contains(message(nothing, 34, 11, 34, 12), "columns of dy is 11, must equal width = 12"));
  EXPECT_TRUE(contains(message(nothing, 34, 12, 33, 12), "rows of dx is 33, must equal B*T = 34"));
  EXPECT_TRUE(
      contains(message(nothing, 34, 12, 34, 11), "columns of dx is 11, must equal width = 12"));
  // Buckets of nothing, or of another shape, would be read beyond their end.
  const auto forget = [](Layer<float>& layer) { layer.saved.buckets = {}; };
  EXPECT_TRUE(contains(message(forget, 34, 12, 34, 12), "saved.buckets is empty, must have"));
  const auto cut = [](Layer<float>& layer) { layer.saved.buckets = layer.saved.buckets.first(9); };
  EXPECT_TRUE(contains(message(cut, 34, 12, 34, 12),
                       "saved.buckets has 9 elements, must have 136 or none"));
  // As many, but of another layer or shape: they would be sorted beyond the table of buckets.
  const auto strangers = [](Layer<float>& layer) { layer.saved.buckets[5] = 9; };
  EXPECT_TRUE(contains(message(strangers, 34, 12, 34, 12), "bucket 5 is 9, must be less than 4"));
  const auto reshape = [](Layer<float>& layer) {
    layer.saved.batch = 17;
    layer.saved.length = 2;
  };
  EXPECT_TRUE(
      contains(message(reshape, 34, 12, 34, 12), "batch of saved is 17, must equal batch = 2"));
  const auto deallocate = [](Layer<float>& layer) {
    layer.attention.for_each_parameter([](auto& p) {
      if (p.name == "layer.value.weight") p.gradient.resize(0, 0);
    });
  };
  EXPECT_TRUE(contains(message(deallocate, 34, 12, 34, 12), "layer.value.weight has no gradient"));
}

}  // namespace
}  // namespace reformer::test
