// SPDX-License-Identifier: MIT
#include "reformer/operations/cross_entropy.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/compare.hpp"
#include "support/gradient_check.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr auto vocabularies = {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 70, 257};

template <typename Scalar>
struct Result {
  double loss = 0;
  Matrix<Scalar> gradient;
};

/// Loss of one row and its gradient times `scale`, leaving the logits as they are.
template <typename Scalar>
Result<Scalar> run(const Matrix<Scalar>& logits, std::int32_t label, Scalar scale = 1) {
  Result<Scalar> result{0, logits};
  Scalar sum = 0;
  result.loss = cross_entropy_row(logits.cols(), result.gradient.data(), label, sum);
  cross_entropy_row_backward(logits.cols(), result.gradient.data(), label, sum, scale);
  return result;
}

/// Labels at both ends and in the middle.
std::vector<std::int32_t> labels(Index vocabulary) {
  return {0, static_cast<std::int32_t>(vocabulary / 2), static_cast<std::int32_t>(vocabulary - 1)};
}

template <typename Scalar>
class CrossEntropy : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(CrossEntropy, Scalars);

TYPED_TEST(CrossEntropy, AgreesWithLoops) {
  for (const Index vocabulary : vocabularies) {
    for (const double magnitude : {0.1, 1.0, 20.0}) {
      const auto logits = random_matrix<TypeParam>(1, vocabulary, 1, magnitude);
      const Matrix<double> wide = logits.template cast<double>();
      for (const std::int32_t label : labels(vocabulary)) {
        const auto result = run(logits, label, TypeParam(0.7));
        Matrix<double> expected = naive::softmax(wide);
        expected(0, label) -= 1;
        expected *= 0.7;
        EXPECT_NEAR(result.loss, naive::cross_entropy(wide, 0, label),
                    tolerance<TypeParam> * (1 + magnitude))
            << "V = " << vocabulary << ", label " << label;
        EXPECT_TRUE(close(result.gradient, expected, 1, 0.7))
            << "V = " << vocabulary << ", label " << label;
      }
    }
  }
}

TEST(CrossEntropyGradient, AgreesWithFiniteDifferences) {
  for (const Index vocabulary : {1, 2, 17, 33}) {
    auto logits = random_matrix<double>(1, vocabulary, 1, 2);
    for (const std::int32_t label : labels(vocabulary)) {
      const auto gradient = run(logits, label, 1.5).gradient;
      check_gradient(
          "cross_entropy_row", "logits", [&] { return 1.5 * run(logits, label).loss; }, logits,
          gradient);
    }
  }
}

TYPED_TEST(CrossEntropy, LargeLogitsNeitherOverflowNorLoseTheLoss) {
  for (const double offset : {-1e4, 0.0, 1e4}) {
    Matrix<TypeParam> logits = Matrix<TypeParam>::Constant(1, 19, static_cast<TypeParam>(offset));
    logits(0, 3) += 10000;
    const auto right = run(logits, 3), wrong = run(logits, 18);
    EXPECT_EQ(right.loss, 0) << "offset " << offset;
    EXPECT_EQ(wrong.loss, 10000) << "offset " << offset;
    Matrix<TypeParam> expected = Matrix<TypeParam>::Zero(1, 19);
    EXPECT_TRUE(close(right.gradient, expected, 1, 1));
    expected(0, 3) = 1;
    expected(0, 18) = -1;
    EXPECT_TRUE(close(wrong.gradient, expected));
  }
}

TYPED_TEST(CrossEntropy, EqualLogitsGiveTheLogarithmOfTheVocabulary) {
  for (const Index vocabulary : vocabularies) {
    for (const double constant : {0.0, -1e4, 1e4}) {
      const Matrix<TypeParam> logits =
          Matrix<TypeParam>::Constant(1, vocabulary, static_cast<TypeParam>(constant));
      EXPECT_NEAR(run(logits, 0).loss, std::log(static_cast<double>(vocabulary)),
                  tolerance<TypeParam>);
    }
  }
}

TYPED_TEST(CrossEntropy, MinusInfinityIsProbabilityZero) {
  constexpr TypeParam infinity = std::numeric_limits<TypeParam>::infinity();
  for (const Index vocabulary : {2, 17, 40}) {
    auto logits = random_matrix<TypeParam>(1, vocabulary, 1);
    logits(0, vocabulary - 1) = -infinity;
    const auto result = run(logits, 0);
    EXPECT_NEAR(result.loss, naive::cross_entropy(logits.template cast<double>(), 0, 0),
                tolerance<TypeParam>);
    EXPECT_NEAR(static_cast<double>(result.gradient(0, vocabulary - 1)), 0, 1e-30);
    EXPECT_EQ(run(logits, static_cast<std::int32_t>(vocabulary - 1)).loss,
              std::numeric_limits<double>::infinity());
  }
}

TYPED_TEST(CrossEntropy, NotANumberIsNotHidden) {
  for (const Index vocabulary : {1, 3, 16, 37}) {
    for (const std::int32_t place : labels(vocabulary)) {
      auto logits = random_matrix<TypeParam>(1, vocabulary, 1);
      logits(0, place) = std::numeric_limits<TypeParam>::quiet_NaN();
      EXPECT_TRUE(std::isnan(run(logits, 0).loss)) << "V = " << vocabulary << " at " << place;
    }
  }
}

TYPED_TEST(CrossEntropy, ReadsAndWritesNoFurtherThanTheVocabulary) {
  for (Index vocabulary = 1; vocabulary <= 40; ++vocabulary) {
    // A larger logit behind the row must not become its maximum.
    Matrix<TypeParam> logits = Matrix<TypeParam>::Constant(1, vocabulary + 20, TypeParam(500));
    logits.leftCols(vocabulary).setZero();
    TypeParam sum = 0;
    EXPECT_NEAR(cross_entropy_row(vocabulary, logits.data(), 0, sum),
                std::log(static_cast<double>(vocabulary)), tolerance<TypeParam>);
    EXPECT_EQ(sum, static_cast<TypeParam>(vocabulary));
    cross_entropy_row_backward(vocabulary, logits.data(), 0, sum, TypeParam(1));
    EXPECT_TRUE((logits.rightCols(20).array() == TypeParam(500)).all());
  }
}

TEST(Loss, AddsAndAverages) {
  Loss loss;
  EXPECT_EQ(loss.mean(), 0) << "the mean of nothing";
  loss += Loss{3, 2};
  loss += Loss{5, 2};
  EXPECT_EQ(loss.sum, 8);
  EXPECT_EQ(loss.count, 4);
  EXPECT_EQ(loss.mean(), 2);
}

}  // namespace
}  // namespace reformer::test
