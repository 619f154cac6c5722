// SPDX-License-Identifier: MIT
/// The self-attention branch: what it draws, the laws of threads, groups, padding and single
/// chunks, and what it refuses.
#include "reformer/attention/self_attention.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "attention/self_attention_cases.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/naive.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using namespace self_attention;

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
                       "rotations are given to a layer of which two kinds of heads hash"));
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

}  // namespace
}  // namespace reformer::test
