// SPDX-License-Identifier: MIT
#include "reformer/attention/value_embedding.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "support/compare.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr Index K = 5, all_heads = 4, width = all_heads * K;

/// Heads 1 and 2 of four, of sequences 1 and 2 of three, in a training step with dropout.
struct Part {
  explicit Part(int threads, bool masked) : workspace(threads) {
    if (masked) {
      is_real.assign(static_cast<std::size_t>(tokens.size()), 1);
      for (const Index row : {70, 71, 100, 141, 142, 209}) {
        is_real[static_cast<std::size_t>(row)] = 0;
      }
    }
    auto initial = random_matrix<double>(9, width, 2);
    table().value = initial;
  }

  Parameter<double>& table() {
    Parameter<double>* found = nullptr;
    embedding.for_each_parameter([&](auto& p) { found = &p; });
    return *found;
  }
  Pass pass() {
    return {.workspace = workspace,
            .batch = 3,
            .length = 70,
            .key = {5, 6, 7},
            .training = true,
            .is_real = is_real,
            .tokens = {tokens.data(), static_cast<std::size_t>(tokens.size())}};
  }
  /// What is added to row i of the group: from the formula, element by element.
  double expected(Index i, Index column) {
    const NgramEmbedding<double> same("same", config, width);
    const Pass pass = this->pass();
    const Index row = group.first_row() + i;
    std::vector<double> vector(static_cast<std::size_t>(width), 0.0);
    NgramEmbedding<double> filled = same;
    filled.for_each_parameter([&](auto& p) { p.value = table().value; });
    filled.add_row(detail::recent_tokens(pass, row, config.order),
                   filled.dropout(pass, Purpose::value_ngram_dropout), row, vector);
    return vector[static_cast<std::size_t>(group.first_head * K + column)];
  }

  Workspace workspace;
  NgramTable config{.order = 2, .rows = 9, .dropout = 0.3};
  Tokens tokens = random_tokens(3, 70, 4, 1);
  std::vector<std::uint8_t> is_real;
  detail::HeadGroup group{
      .length = 70, .first_sequence = 1, .batch = 2, .first_head = 1, .heads = 2};
  detail::ValueEmbedding<double> embedding{"e", config, width};
};

TEST(ValueEmbedding, AddsTheVectorsOfItsHeadsToTheRowsOfItsSequences) {
  for (const bool masked : {false, true}) {
    for (const int threads : thread_counts) {
      Part part(threads, masked);
      const auto before = random_matrix<double>(140, 2 * K, 3);
      Matrix<double> value = before;
      part.embedding.forward(part.group, K, part.pass(), rows_of(value));
      Index kept = 0;
      for (Index i = 0; i < value.rows(); ++i) {
        for (Index j = 0; j < value.cols(); ++j) {
          const double added = part.expected(i, j);
          ASSERT_NEAR(value(i, j), before(i, j) + added, added == 0 ? 0 : 1e-14)
              << "masked " << masked << ", row " << i << ", column " << j;
          kept += added != 0 ? 1 : 0;
        }
      }
      EXPECT_GT(kept, 700);  // about 0.7 of 1,400
      EXPECT_LT(kept, 1200);
      if (masked) {
        EXPECT_TRUE(same_bits(Matrix<double>(value.row(0)), Matrix<double>(before.row(0))));
      }
    }
  }
}

TEST(ValueEmbedding, HasTheGradientOfItsFormula) {
  Matrix<double> first;
  for (const bool masked : {false, true}) {
    for (const int threads : thread_counts) {
      Part part(threads, masked);
      const auto dvalue = random_matrix<double>(140, 2 * K, 4);
      part.table().zero_gradient();
      part.embedding.backward(rows_of(dvalue), part.group, K, part.pass());
      if (threads == 1) first = part.table().gradient;
      EXPECT_TRUE(same_bits(part.table().gradient, first)) << threads << " threads";
      check_parameter_gradients("ValueEmbedding", part.embedding, [&] {
        Matrix<double> value = Matrix<double>::Zero(140, 2 * K);
        part.embedding.forward(part.group, K, part.pass(), rows_of(value));
        return weighted_sum(dvalue, value);
      });
      EXPECT_EQ(part.workspace.bytes_in_use(), 0U);
    }
  }
}

TEST(ValueEmbedding, WithoutTokensAddsNothing) {
  Part part(1, false);
  Pass pass = part.pass();
  pass.tokens = {};
  Matrix<double> value = Matrix<double>::Zero(140, 2 * K);
  part.embedding.forward(part.group, K, pass, rows_of(value));
  part.table().zero_gradient();
  part.embedding.backward(rows_of(std::as_const(value)), part.group, K, pass);
  EXPECT_EQ(value.cwiseAbs().maxCoeff(), 0);
  EXPECT_TRUE(part.table().reached->list().empty());
}

TEST(RecentTokens, AreTheLastRealOnesOfEachSequence) {
  Workspace workspace(1);
  const std::vector<std::int32_t> prompts = {1, 2, 3, 4, 5, 0};
  const std::vector<std::uint8_t> is_real = {1, 1, 1, 1, 1, 0};
  const Pass pass{
      .workspace = workspace, .batch = 2, .length = 3, .is_real = is_real, .tokens = prompts};
  detail::RecentTokens recent(4, 3);
  const std::vector<Index> two = {1, 3}, one = {3};
  const auto all = [&](Index i) {
    const auto span = recent.of(i);
    return std::vector<std::int32_t>(span.begin(), span.end());
  };
  using Recent = std::vector<std::int32_t>;
  recent.select(two);
  recent.keep(pass);
  EXPECT_EQ(all(0), Recent({1, 2, 3}));
  EXPECT_EQ(all(1), Recent({4, 5}));
  recent.select(one);
  for (const std::int32_t token : {6, 7}) {
    recent.append({.workspace = workspace, .batch = 1, .tokens = {&token, 1}});
  }
  EXPECT_EQ(all(0), Recent({5, 6, 7}));
  recent.select(two);
  EXPECT_EQ(all(0), Recent({1, 2, 3}));  // its turn was not
  EXPECT_EQ(recent.bytes(), 6 * sizeof(std::int32_t));
}

/// A layer whose table has one vector for all n-grams is the layer without one whose values are all
/// larger by this vector: what a query sees then is larger by it, times W_o.
TEST(ValueEmbedding, OfALayerAddsToWhatQueriesSee) {
  SelfAttentionConfig config{
      .width = 6, .num_heads = 2, .head_width = 4, .pattern = LocalPattern{.chunk_length = 4}};
  SelfAttention<double> plain("layer", config);
  config.value_ngrams = {.order = 2, .rows = 1};
  SelfAttention<double> with("layer", config);
  randomize_parameters(with, 1);
  std::vector<Parameter<double>*> parameters;
  with.for_each_parameter([&](auto& p) { parameters.push_back(&p); });
  ASSERT_EQ(parameters.back()->name, "layer.value_ngrams.weight");
  const Matrix<double> added = parameters.back()->value;
  std::size_t i = 0;
  Matrix<double> output;
  plain.for_each_parameter([&](auto& p) {
    p.value = parameters[i++]->value;
    if (p.name == "layer.output.weight") output = p.value;
  });
  const Tokens tokens = random_tokens(2, 11, 3, 1);
  Workspace workspace(1);
  const Pass pass{.workspace = workspace,
                  .batch = 2,
                  .length = 11,
                  .tokens = {tokens.data(), static_cast<std::size_t>(tokens.size())}};
  const auto x = random_matrix<double>(22, 6, 2);
  const auto forward = [&](const SelfAttention<double>& attention) {
    using Half = FloatingHalf<double>;
    Half y(22, 6);
    SelfAttention<double>::Saved saved;
    attention.forward(half_of<Half>(x), y, saved, pass);
    return matrix_of(y);
  };
  const Matrix<double> one = added * output;
  const Matrix<double> difference = forward(with) - forward(plain);
  for (Index row = 0; row < 22; ++row) {
    for (Index j = 0; j < 6; ++j) EXPECT_NEAR(difference(row, j), one(0, j), 1e-12) << row;
  }
}

}  // namespace
}  // namespace reformer::test
