// SPDX-License-Identifier: MIT
/// The reversal of the self-attention branch, and its gradients.
#include "reformer/attention/self_attention.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "attention/self_attention_cases.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/naive.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using namespace self_attention;

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

/// A context lies group by group, kind by kind: of two heads of some sequences, the last fewer,
/// then of one head of others.
TEST(SelfAttentionReverse, ReadsTheContextOfSeveralGroupsAndKindsWhereItWasWritten) {
  const LshPattern far{16, 1, 0, 1, {8, 4}, false, Chunking::bucket_chunks};
  for (const auto& [batch, length] : {std::pair<Index, Index>{7, 700}, {2, 2900}}) {
    const Case c{
        {LocalPattern{16}, LocalPattern{16}, far}, batch, length, true, true, 0, 0, 6, 3, 64};
    Layer<double> layer(c);
    const auto dy = random_matrix<double>(layer.x.rows(), c.width, 54);
    const Step<double> expected(layer, dy);
    layer.saved = layer.attention.saved_in(layer.memory, {c.batch, c.length}, /*context=*/true);
    layer.workspace.reset_peak();
    const Step<double> step(layer, dy);
    EXPECT_TRUE(same_bits(step.f, expected.f)) << c.name();
    EXPECT_TRUE(same_bits(step.restored, expected.restored)) << c.name();
    EXPECT_TRUE(same_bits(step.dx, expected.dx)) << c.name();
    EXPECT_TRUE(same_bits(step.gradients, expected.gradients)) << c.name();
    Workspace plan = Workspace::plan(layer.workspace.threads());
    layer.attention.plan(plan, {c.batch, c.length}, {.context = true});
    EXPECT_EQ(plan.peak_bytes(), layer.workspace.peak_bytes()) << c.name();
    // Reading it leaves it as it is.
    Matrix<double> dx = Matrix<double>::Zero(dy.rows(), dy.cols());
    layer.reverse(step.f, dy, dx);
    EXPECT_TRUE(same_bits(dx, expected.dx)) << c.name();
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
