// SPDX-License-Identifier: MIT
#include "reformer/operations/ngram_embedding.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
Parameter<Scalar>& table_of(NgramEmbedding<Scalar>& embedding) {
  Parameter<Scalar>* table = nullptr;
  embedding.for_each_parameter([&](Parameter<Scalar>& p) { table = &p; });
  return *table;
}

template <typename Scalar>
Dropout<Scalar> dropout_of(const NgramEmbedding<Scalar>& embedding, const Pass& pass) {
  return embedding.dropout(pass, Purpose::ngram_dropout);
}

/// What is added to each row of a pass.
template <typename Scalar>
Matrix<Scalar> forward(const NgramEmbedding<Scalar>& embedding, const Pass& pass, Index width) {
  Matrix<Scalar> x = Matrix<Scalar>::Zero(pass.rows(), width);
  for (Index i = 0; i < pass.rows(); ++i) {
    embedding.add_row(detail::recent_tokens(pass, i, 16), dropout_of(embedding, pass), i,
                      {x.row(i).data(), static_cast<std::size_t>(width)});
  }
  return x;
}

std::span<const std::int32_t> span_of(const Tokens& tokens) {
  return {tokens.data(), static_cast<std::size_t>(tokens.size())};
}

Pass pass_over(Workspace& workspace, const Tokens& tokens) {
  return {.workspace = workspace,
          .batch = tokens.dimension(0),
          .length = tokens.dimension(1),
          .tokens = span_of(tokens)};
}

/// A text of each letter's number.
Tokens text(std::string_view letters) {
  Tokens tokens(1, static_cast<Index>(letters.size()));
  std::copy(letters.begin(), letters.end(), tokens.data());
  return tokens;
}

constexpr Index width = 5;

TEST(NgramEmbedding, IsAFunctionOfTheLastTokens) {
  NgramEmbedding<float> embedding("ngrams", {.order = 3, .rows = 4096}, width);
  EXPECT_EQ(table_of(embedding).name, "ngrams.weight");
  randomize_parameters(embedding, 1);
  Workspace workspace(1);
  const Tokens tokens = text("abcxabcybcaaaa");
  const auto x = forward(embedding, pass_over(workspace, tokens), width);
  EXPECT_TRUE(same_bits(Matrix<float>(x.row(2)), Matrix<float>(x.row(6))));    // abc and abc
  EXPECT_FALSE(same_bits(Matrix<float>(x.row(2)), Matrix<float>(x.row(9))));   // abc and ybc
  EXPECT_FALSE(same_bits(Matrix<float>(x.row(1)), Matrix<float>(x.row(5))));   // ab and xab
  EXPECT_FALSE(same_bits(Matrix<float>(x.row(0)), Matrix<float>(x.row(4))));   // a and yxa
  EXPECT_FALSE(same_bits(Matrix<float>(x.row(2)), Matrix<float>(x.row(10))));  // abc and bca
  EXPECT_TRUE(same_bits(Matrix<float>(x.row(12)), Matrix<float>(x.row(13))));  // aaa and aaa
}

TEST(NgramEmbedding, SeesNothingBeforeTheSequenceOrPadding) {
  NgramEmbedding<float> embedding("ngrams", {.order = 4, .rows = 512}, width);
  randomize_parameters(embedding, 1);
  Workspace workspace(1);
  Tokens tokens = random_tokens(2, 6, 9, 1);
  std::vector<std::uint8_t> is_real(12, 1);
  is_real[8] = 0;
  Pass pass = pass_over(workspace, tokens);
  pass.is_real = is_real;
  const auto before = forward(embedding, pass, width);
  for (Index j = 0; j < width; ++j) EXPECT_EQ(before(8, j), 0);
  tokens(0, 5) += 1;  // the last of the sequence before
  tokens(1, 2) += 1;  // padding
  const auto after = forward(embedding, pass, width);
  for (Index i = 0; i < 12; ++i) {
    EXPECT_EQ(same_bits(Matrix<float>(before.row(i)), Matrix<float>(after.row(i))), i != 5)
        << "row " << i;
  }
}

TEST(NgramEmbedding, SpreadsOverItsRows) {
  // 4,096 different 3-grams thrown at 1,024 rows leave 1,024 e^-4 = 19 of them empty.
  const Index rows = 1024;
  Workspace workspace(1);
  const Pass pass{.workspace = workspace};
  NgramEmbedding<float> embedding("ngrams", {.order = 3, .rows = rows}, 1);
  for (Index i = 0; i < rows; ++i) table_of(embedding).value(i, 0) = static_cast<float>(i);
  std::set<float> found;
  for (std::int32_t i = 0; i < 4096; ++i) {
    const std::int32_t gram[] = {i / 256, i / 16 % 16, i % 16};
    float row = 0;
    embedding.add_row(gram, dropout_of(embedding, pass), 0, {&row, 1});
    found.insert(row);
  }
  EXPECT_NEAR(static_cast<double>(found.size()), 1024 - 19, 16);
}

TEST(NgramEmbedding, BackwardAgreesWithFiniteDifferences) {
  Workspace workspace(2);
  NgramEmbedding<double> embedding("ngrams", {.order = 2, .rows = 7}, width);
  randomize_parameters(embedding, 1);
  reset_gradients(embedding);
  const Tokens tokens = random_tokens(2, 6, 4, 2);
  std::vector<std::uint8_t> is_real(12, 1);
  is_real[2] = is_real[11] = 0;
  Pass pass = pass_over(workspace, tokens);
  pass.is_real = is_real;
  auto dout = random_matrix<double>(12, width, 3);
  for (const Index row : {2, 11}) dout.row(row).setZero();  // padding has no gradient
  embedding.backward(rows_of(std::as_const(dout)), dropout_of(embedding, pass), pass);
  check_parameter_gradients("NgramEmbedding", embedding,
                            [&] { return weighted_sum(dout, forward(embedding, pass, width)); });
  EXPECT_EQ(workspace.bytes_in_use(), 0U);
}

TEST(NgramEmbedding, DropsWholeVectorsInTraining) {
  Workspace workspace(2);
  const Index length = 4000;
  const Tokens tokens = random_tokens(1, length, 4, 2);
  const auto one = [&](Index table, double dropout, const RandomKey& key, bool training) {
    NgramEmbedding<double> embedding("n", {3, 50, dropout}, width);
    randomize_parameters(embedding, 1);
    Pass pass = pass_over(workspace, tokens);
    pass.key = key;
    pass.training = training;
    return forward(embedding, pass.at_layer(table), width);
  };
  const Matrix<double> all = one(0, 0, {}, true);
  EXPECT_TRUE(same_bits(one(0, 0.75, {1, 2}, false), all));  // evaluation
  const Matrix<double> some = one(0, 0.75, {1, 2}, true);
  Index kept = 0;
  for (Index i = 0; i < length; ++i) {
    const bool is_kept = some.row(i).cwiseAbs().maxCoeff() > 0;
    const Matrix<double> row = some.row(i), expected = all.row(i) * 4;
    if (is_kept) {
      ASSERT_TRUE(same_bits(row, expected)) << "row " << i;
    }
    kept += is_kept ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(kept), 1000, 110);          // four standard deviations
  EXPECT_FALSE(same_bits(one(0, 0.75, {1, 3}, true), some));  // another step
  EXPECT_FALSE(same_bits(one(1, 0.75, {1, 2}, true), some));  // another table
}

TEST(NgramEmbedding, BackwardWithDropoutAgreesWithFiniteDifferences) {
  Workspace workspace(2);
  NgramEmbedding<double> embedding("ngrams", {.order = 2, .rows = 7, .dropout = 0.4}, width);
  randomize_parameters(embedding, 1);
  reset_gradients(embedding);
  const Tokens tokens = random_tokens(2, 20, 4, 2);
  Pass pass = pass_over(workspace, tokens);
  pass.key = {3, 4};
  pass.training = true;
  const auto dout = random_matrix<double>(40, width, 3);
  embedding.backward(rows_of(dout), dropout_of(embedding, pass), pass);
  check_parameter_gradients("NgramEmbedding", embedding,
                            [&] { return weighted_sum(dout, forward(embedding, pass, width)); });
}

TEST(NgramEmbedding, KnowsWhichRowsHaveAGradient) {
  NgramEmbedding<float> embedding("ngrams", {.order = 2, .rows = 4096}, width);
  Parameter<float>& table = table_of(embedding);
  table.zero_gradient();
  Matrix<float> first;
  for (const int threads : thread_counts) {
    Workspace workspace(threads);
    table.zero_gradient();
    EXPECT_TRUE(table.reached->list().empty());
    EXPECT_EQ(table.gradient.cwiseAbs().maxCoeff(), 0);
    for (const std::uint64_t seed : {1U, 2U}) {              // gradients add up, and so do rows
      const Tokens tokens = random_tokens(1, 20, 11, seed);  // most 2-grams stand once
      const auto dx = random_matrix<float>(20, width, seed + 10);
      const Pass pass = pass_over(workspace, tokens);
      embedding.backward(rows_of(dx), dropout_of(embedding, pass), pass);
    }
    std::set<Index> reached(table.reached->list().begin(), table.reached->list().end());
    EXPECT_EQ(reached.size(), table.reached->list().size()) << "a row is there twice";
    for (Index row = 0; row < 4096; ++row) {
      EXPECT_EQ(table.gradient.row(row).cwiseAbs().maxCoeff() > 0, reached.contains(row))
          << "row " << row;
    }
    if (threads == 1) first = table.gradient;
    EXPECT_TRUE(same_bits(table.gradient, first)) << threads << " threads";
  }
}

TEST(NgramEmbedding, ChecksBeforeItWrites) {
  const auto refusal = [](const NgramTable& config, Index columns) {
    return message_of([&] { NgramEmbedding<float>("n", config, columns); });
  };
  EXPECT_EQ(refusal({.order = 1}, 2), "reformer::NgramEmbedding: order is 1, must be at least 2");
  EXPECT_TRUE(contains(refusal({.rows = 0}, 2), "rows is 0, must be at least 1"));
  EXPECT_TRUE(contains(refusal({}, 0), "width is 0, must be at least 1"));
  Workspace workspace(1);
  NgramEmbedding<float> embedding("n", {.order = 2, .rows = 3}, width);
  const Tokens tokens = random_tokens(1, 4, 3, 1);
  const Matrix<float> dx = Matrix<float>::Ones(4, width), wide = Matrix<float>::Ones(4, 6);
  const auto message = [&](const Matrix<float>& gradient) {
    const Pass pass = pass_over(workspace, tokens);
    return message_of(
        [&] { embedding.backward(rows_of(gradient), dropout_of(embedding, pass), pass); });
  };
  EXPECT_TRUE(contains(message(dx), "gradient of n.weight is not allocated"));
  table_of(embedding).zero_gradient();
  EXPECT_TRUE(contains(message(wide), "columns of dx is 6, must be at most 5"));
  EXPECT_TRUE(
      contains(message(Matrix<float>::Ones(5, width)), "rows of dx is 5, must be at most 4"));
  EXPECT_TRUE(table_of(embedding).reached->list().empty());
}

}  // namespace
}  // namespace reformer::test
