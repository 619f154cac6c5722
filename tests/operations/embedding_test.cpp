// SPDX-License-Identifier: MIT
#include "reformer/operations/embedding.hpp"

#include <gtest/gtest.h>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
Parameter<Scalar>& table_of(Embedding<Scalar>& embedding) {
  Parameter<Scalar>* table = nullptr;
  embedding.for_each_parameter([&](Parameter<Scalar>& p) { table = &p; });
  return *table;
}

template <typename Scalar>
Matrix<Scalar> forward(const Embedding<Scalar>& embedding, const Tokens& tokens, Index width) {
  Matrix<Scalar> x(tokens.size(), width);
  for (Index i = 0; i < tokens.size(); ++i) {
    embedding.read(tokens.data()[i], x.row(i).data());
  }
  return x;
}

TEST(Embedding, RowsAreThoseOfTheTable) {
  Embedding<float> embedding("embedding", 7, 5);
  randomize_parameters(embedding, 1);
  const Parameter<float>& table = table_of(embedding);
  EXPECT_EQ(table.name, "embedding.weight");
  EXPECT_EQ(embedding.vocabulary(), 7);
  for (std::int32_t token = 0; token < 7; ++token) {
    for (Index j = 0; j < 5; ++j) EXPECT_EQ(embedding.row(token)[j], table.value(token, j));
  }
}

TEST(Embedding, BackwardAgreesWithFiniteDifferences) {
  Workspace workspace(2);
  for (const double scale : {1, 4}) {
    Embedding<double> embedding("embedding", 4, 3, scale);
    randomize_parameters(embedding, 1);
    reset_gradients(embedding);
    const Tokens tokens = random_tokens(2, 5, 4, 2);  // ten tokens of four: some occur again
    EXPECT_EQ(forward(embedding, tokens, 3)(0, 1),
              scale * table_of(embedding).value(tokens(0, 0), 1));
    const auto dout = random_matrix<double>(10, 3, 3);
    embedding.backward(tokens, rows_of(dout), {workspace, 2, 5});
    check_parameter_gradients("Embedding", embedding,
                              [&] { return weighted_sum(dout, forward(embedding, tokens, 3)); });
  }
}

TEST(Embedding, BackwardAddsWithTheSameBitsForAnyThreads) {
  for (const Index width : {1, 32, 33, 100}) {
    const Tokens tokens = random_tokens(3, 40, 11, 1);
    const auto dx = random_matrix<float>(120, width, 2);
    Matrix<float> first;
    for (const int threads : thread_counts) {
      Workspace workspace(threads);
      Embedding<float> embedding("embedding", 11, width);
      reset_gradients(embedding, 0.5);
      embedding.backward(tokens, rows_of(dx), {workspace, 3, 40});
      Matrix<double> expected = Matrix<double>::Constant(11, width, 0.5);
      for (Index i = 0; i < 120; ++i) {
        expected.row(tokens.data()[i]) += dx.row(i).cast<double>();
      }
      const Matrix<float>& gradient = table_of(embedding).gradient;
      EXPECT_TRUE(close(gradient, expected)) << "width " << width;
      if (threads == 1) first = gradient;
      EXPECT_TRUE(same_bits(gradient, first)) << threads << " threads";
    }
  }
}

TEST(Embedding, BackwardDoesNotLoseAMillionSmallGradients) {
  // Added one by one in float, the constant ones are off by a hundredth.
  const Index rows = 1 << 20, width = 3;
  Tokens tokens(1, rows);
  for (Index i = 0; i < rows; ++i) tokens(0, i) = i % 16 == 0 ? 1 : 2;  // often and seldom
  for (const bool is_constant : {true, false}) {
    Matrix<float> dx = random_matrix<float>(rows, width, 2);
    if (is_constant) dx.setConstant(0.1F);
    Workspace workspace(2);
    Embedding<float> embedding("embedding", 4, width);
    reset_gradients(embedding);
    embedding.backward(tokens, rows_of(std::as_const(dx)), {workspace, 1, rows});
    Matrix<double> expected = Matrix<double>::Zero(4, width), absolute = expected;
    for (Index i = 0; i < rows; ++i) {
      expected.row(tokens(0, i)) += dx.row(i).cast<double>();
      absolute.row(tokens(0, i)) += dx.row(i).cast<double>().cwiseAbs();
    }
    const Matrix<double> error =
        (table_of(embedding).gradient.cast<double>() - expected).cwiseAbs();
    EXPECT_GT(absolute(2, 0), 1e4);
    for (Index i = 0; i < error.size(); ++i) {
      EXPECT_LE(error.data()[i], 1e-7 * absolute.data()[i]) << "constant: " << is_constant;
    }
    EXPECT_EQ(workspace.bytes_in_use(), 0U);
  }
}

TEST(Embedding, BackwardChecksBeforeItWrites) {
  Workspace workspace(1);
  Embedding<float> embedding("embedding", 5, 2);
  const Tokens tokens = random_tokens(2, 3, 5, 1);
  const Matrix<float> dx = Matrix<float>::Ones(6, 2), narrow = Matrix<float>::Ones(6, 1);
  const auto message = [&](const Tokens& ids, const Matrix<float>& gradient) {
    return message_of([&] { embedding.backward(ids, rows_of(gradient), {workspace, 2, 3}); });
  };
  EXPECT_TRUE(contains(message(tokens, dx), "gradient of embedding.weight is not allocated"));
  reset_gradients(embedding, 7);
  Tokens wrong = tokens;
  wrong(1, 2) = 5;
  EXPECT_TRUE(contains(message(wrong, dx), "Embedding::backward: token 5 is 5"));
  EXPECT_TRUE(contains(message(random_tokens(1, 3, 5, 1), dx), "rows of dx is 6, must equal"));
  EXPECT_TRUE(contains(message(tokens, narrow), "columns of dx is 1, must equal width = 2"));
  for (const double g : gradients_of(embedding)) EXPECT_EQ(g, 7);
}

TEST(Embedding, ChecksTokens) {
  const Embedding<float> embedding("embedding", 5, 2);
  Tokens tokens = random_tokens(2, 3, 5, 1);
  EXPECT_NO_THROW(embedding.check_tokens("f", tokens));
  tokens(1, 0) = 5;
  EXPECT_EQ(message_of([&] { embedding.check_tokens("f", tokens); }),
            "reformer::f: token 3 is 5, must be in [0, 5)");
  tokens(0, 2) = -1;
  EXPECT_EQ(message_of([&] { embedding.check_tokens("f", tokens); }),
            "reformer::f: token 2 is -1, must be in [0, 5)");
}

TEST(Embedding, ChecksSizes) {
  EXPECT_EQ(message_of([] { Embedding<float>("embedding", 0, 2); }),
            "reformer::Embedding: vocabulary is 0, must be at least 1");
  EXPECT_EQ(message_of([] { Embedding<float>("embedding", 2, -3); }),
            "reformer::Embedding: width is -3, must be at least 1");
  EXPECT_EQ(message_of([] { Embedding<float>("embedding", Index{1} << 31, 2); }),
            "reformer::Embedding: vocabulary is 2147483648, must be at most 2147483647");
  EXPECT_EQ(message_of([] { Embedding<float>("embedding", 1 << 30, 1 << 20); }),
            "reformer::Embedding: vocabulary * width is 1073741824 * 1048576, must be at most "
            "1099511627776");
}

}  // namespace
}  // namespace reformer::test
