// SPDX-License-Identifier: MIT
#include "reformer/attention/cosine_scores.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr Index cosine_rows = 600, cosine_heads = 3, head_width = 5,
                first_head = 1;  // of a layer of 4 heads

detail::CosineScores<double> example() {
  detail::CosineScores<double> scores("temperature", 4, head_width);
  scores.parameter().value = random_matrix<double>(1, 4, 9);
  scores.parameter().allocate_gradient();
  scores.parameter().gradient.setConstant(0.5);
  return scores;
}

/// The scaled vectors of a row, from the definition.
template <typename LengthOf>
Matrix<double> expected(const Matrix<double>& x, const LengthOf& length_of) {
  Matrix<double> scaled = x;
  for (Index row = 0; row < x.rows(); ++row) {
    for (Index h = 0; h < cosine_heads; ++h) {
      const auto part = x.row(row).segment(h * head_width, head_width);
      scaled.row(row).segment(h * head_width, head_width) *=
          length_of(h) / std::sqrt(part.squaredNorm() + head_width * 1e-6);
    }
  }
  return scaled;
}

TEST(CosineScores, AreTheirFormula) {
  const auto scores = example();
  Matrix<double> x = random_matrix<double>(cosine_rows, cosine_heads * head_width, 7);
  x.row(3).setZero();
  const Matrix<double> queries =
      expected(x, [&](Index h) { return scores.parameter().value(0, first_head + h); });
  const Matrix<double> keys = expected(x, [](Index) { return std::sqrt(5.0); });
  for (const int threads : {1, 3}) {
    Workspace workspace(threads);
    Matrix<double> scaled(cosine_rows, cosine_heads * head_width);
    scores.scale_queries(workspace, first_head, rows_of(x), rows_of(scaled));
    EXPECT_LT((scaled - queries).cwiseAbs().maxCoeff(), 1e-14) << threads << " threads";
    scores.scale_keys(workspace, rows_of(x), rows_of(scaled));
    EXPECT_LT((scaled - keys).cwiseAbs().maxCoeff(), 1e-14) << threads << " threads";
  }
}

/// Against differences of sum_ij g_ij scaled_ij.
TEST(CosineScores, HaveTheGradientOfTheirFormula) {
  Matrix<double> x = random_matrix<double>(cosine_rows, cosine_heads * head_width, 7);
  x.row(3) *= 1e-3;  // where e counts
  const Matrix<double> g = random_matrix<double>(cosine_rows, cosine_heads * head_width, 8);
  Matrix<double> first;
  for (const int threads : {1, 3}) {
    auto scores = example();
    const auto& temperature = scores.parameter();
    Workspace workspace(threads);
    Matrix<double> dquery = g, dkey = g;
    scores.backward_queries(workspace, first_head, rows_of(std::as_const(x)), rows_of(dquery));
    scores.backward_keys(workspace, rows_of(std::as_const(x)), rows_of(dkey));
    const auto tau = [&](Index h) { return temperature.value(0, first_head + h); };
    for (const Index row : {Index{0}, Index{3}, Index{255}, Index{256}, cosine_rows - 1}) {
      for (Index j = 0; j < x.cols(); ++j) {
        const double step = 1e-6 * x.row(row).norm();
        const auto difference = [&](const auto& length_of) {
          Matrix<double> above = x.row(row), below = x.row(row);
          above(0, j) += step;
          below(0, j) -= step;
          const Matrix<double> change = expected(above, length_of) - expected(below, length_of);
          return g.row(row).dot(change.row(0)) / (2 * step);
        };
        const double of_query = difference(tau);
        const double of_key = difference([](Index) { return std::sqrt(5.0); });
        EXPECT_NEAR(dquery(row, j), of_query, 1e-6 * (1 + std::abs(of_query)))
            << "dquery of row " << row << ", column " << j;
        EXPECT_NEAR(dkey(row, j), of_key, 1e-6 * (1 + std::abs(of_key)))
            << "dkey of row " << row << ", column " << j;
      }
    }
    const Matrix<double> units = expected(x, [](Index) { return 1.0; });
    EXPECT_EQ(temperature.gradient(0, 0), 0.5) << "of a head that is not in the group";
    for (Index h = 0; h < cosine_heads; ++h) {
      const double sum = g.middleCols(h * head_width, head_width)
                             .cwiseProduct(units.middleCols(h * head_width, head_width))
                             .sum();
      EXPECT_NEAR(temperature.gradient(0, first_head + h), 0.5 + sum, 1e-11)
          << "dtau of head " << h;
    }
    if (threads == 1) first = temperature.gradient;
    EXPECT_EQ(temperature.gradient, first) << "other bits for " << threads << " threads";
  }
}

}  // namespace
}  // namespace reformer::test
