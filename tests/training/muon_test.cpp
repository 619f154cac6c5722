// SPDX-License-Identifier: MIT
#include "reformer/training/muon.hpp"

#include <gtest/gtest.h>

#include <Eigen/SVD>
#include <cmath>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/example_model.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// The iteration in double, with the smaller side as rows.
Matrix<double> naive_orthogonalized(const Matrix<double>& g) {
  Matrix<double> x = g.rows() > g.cols() ? Matrix<double>(g.transpose()) : g;
  x /= x.norm();
  for (int i = 0; i < 5; ++i) {
    const Matrix<double> a = x * x.transpose();
    x = (3.4445 * x - 4.7750 * a * x + 2.0315 * a * a * x).eval();
  }
  return g.rows() > g.cols() ? Matrix<double>(x.transpose()) : x;
}

TEST(Orthogonalize, IsTheIteration) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<Index, Index>>{{1, 1}, {1, 7}, {7, 1}, {13, 40}, {70, 33}, {64, 64}}) {
    const auto g = random_matrix<double>(rows, columns, 3, 1e-6);
    Matrix<double> x = g;
    Workspace workspace(1);
    detail::orthogonalize(workspace, rows_of(x));
    EXPECT_LT((x - naive_orthogonalized(g)).cwiseAbs().maxCoeff(), 1e-12)
        << rows << " x " << columns;
    EXPECT_EQ(workspace.bytes_in_use(), 0u);
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd((Eigen::MatrixXd(x)));
    EXPECT_GT(svd.singularValues().minCoeff(), 0.3) << rows << " x " << columns;
    EXPECT_LT(svd.singularValues().maxCoeff(), 1.3) << rows << " x " << columns;
  }
}

/// bfloat16 has 8 bits: singular values are as far from 1, and vectors nearly the same.
TEST(Orthogonalize, IsNearlyTheIterationInEachPrecision) {
  for (const auto& [rows, columns] :
       std::vector<std::pair<Index, Index>>{{13, 40}, {130, 70}, {64, 64}}) {
    const auto g = random_matrix<float>(rows, columns, 3);
    const Matrix<double> expected = naive_orthogonalized(g.cast<double>());
    for (const auto& [precision, tolerance] : {std::pair{Precision::float32, 1e-5},
                                               {Precision::bfloat16x3, 1e-3},
                                               {Precision::bfloat16, 0.1}}) {
      Matrix<float> x;
      for (const int threads : {1, 2}) {
        Matrix<float> again = g;
        Workspace workspace(threads);
        detail::orthogonalize(workspace, rows_of(again), precision);
        if (threads == 1) x = again;
        EXPECT_TRUE(same_bits(again, x)) << name_of(precision);
      }
      const double error = (x.cast<double>() - expected).norm() / expected.norm();
      EXPECT_LT(error, tolerance) << rows << " x " << columns << " in " << name_of(precision);
      EXPECT_GT(error, precision == Precision::float32 ? 0 : 1e-6) << name_of(precision);
    }
  }
}

TEST(Orthogonalize, LeavesZeroAndDoesNotHideWhatIsNotFinite) {
  Workspace workspace(1);
  Matrix<float> x = Matrix<float>::Zero(5, 3);
  detail::orthogonalize(workspace, rows_of(x));
  EXPECT_EQ(x, (Matrix<float>::Zero(5, 3)));
  for (const float bad : {INFINITY, NAN}) {
    x = Matrix<float>::Ones(5, 3);
    x(1, 1) = bad;
    detail::orthogonalize(workspace, rows_of(x));
    EXPECT_FALSE(x.allFinite()) << bad;
  }
  // Squares that float cannot hold.
  x = Matrix<float>::Constant(5, 3, 1e30F);
  detail::orthogonalize(workspace, rows_of(x));
  EXPECT_TRUE(x.allFinite());
}

/// Which parameters Muon steps, by name: written out, so that a change of the rule shows.
bool is_hidden(const std::string& name) {
  return name == "block.0.feed_forward.dense.weight";
}

TEST(Muon, IsItsFormulaForHiddenWeightsAndAdamForTheRest) {
  const MuonConfig config{.momentum = 0.9, .adam = {.weight_decay = 0.1}};
  ExampleModel<double> model, of_adam;
  Muon<double> muon(config);
  Adam<double> adam(config.adam);
  Workspace workspace(2);
  std::vector<Matrix<double>> momenta;
  for (const auto& p : model.parameters) momenta.emplace_back(p.value * 0);
  for (const std::uint64_t step : {1U, 2U, 3U}) {
    model.set_gradients(step);
    of_adam.set_gradients(step);
    const double rate = 0.01 * static_cast<double>(step), scale = 0.5;
    std::vector<Matrix<double>> expected;
    for (std::size_t i = 0; i < model.parameters.size(); ++i) {
      const auto& p = model.parameters[i];
      const Matrix<double> g = scale * p.gradient;
      momenta[i] = 0.9 * momenta[i] + g;
      const auto size = static_cast<double>(std::max(p.value.rows(), p.value.cols()));
      expected.emplace_back(
          p.value - rate * (0.2 * std::sqrt(size) * naive_orthogonalized(g + 0.9 * momenta[i]) +
                            0.1 * p.value));
    }
    muon.step(workspace, model, rate, scale);
    adam.step(workspace, of_adam, rate, scale);
    for (std::size_t i = 0; i < model.parameters.size(); ++i) {
      const auto& p = model.parameters[i];
      if (is_hidden(p.name)) {
        EXPECT_LT((p.value - expected[i]).cwiseAbs().maxCoeff(), 1e-12) << p.name;
      } else {
        EXPECT_TRUE(same_bits(p.value, of_adam.parameters[i].value)) << p.name;
      }
    }
  }
}

TEST(Muon, RejectsConfigurationsOutOfRange) {
  const auto message = [](const MuonConfig& config) {
    return message_of([&] { Muon<float> muon(config); });
  };
  EXPECT_EQ(message({.momentum = 1}), "reformer::Muon: momentum is 1, must be in [0, 1)");
  EXPECT_EQ(message({.adam = {.beta1 = -1}}), "reformer::Muon: beta1 is -1, must be in [0, 1)");
  EXPECT_EQ(message({.precision = static_cast<Precision>(3)}),
            "reformer::Muon: precision is 3, must be float32, bfloat16x3 or bfloat16");
  EXPECT_EQ(message_of([] { Muon<double> muon({.precision = Precision::bfloat16}); }),
            "reformer::Muon: precision is bfloat16, must be float32 for other scalars than float");
}

}  // namespace
}  // namespace reformer::test
