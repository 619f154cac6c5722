// SPDX-License-Identifier: MIT
#include "reformer/training/adafactor.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/example_model.hpp"
#include "support/not_finite.hpp"

namespace reformer::test {
namespace {

double rms(const Matrix<double>& x) {
  double sum = 0;
  for (Index i = 0; i < x.size(); ++i) sum += x.data()[i] * x.data()[i];
  return std::sqrt(sum / static_cast<double>(x.size()));
}

/// Algorithms 4 (matrices) and 5 (vectors, and all that has no factors) of the paper, with the
/// relative step of section 8, for one parameter in double.
class NaiveAdafactor {
 public:
  NaiveAdafactor(const AdafactorConfig& config, bool factors, Index rows, Index columns)
      : config_(config),
        factors_(factors),
        row_(Matrix<double>::Zero(rows, 1)),
        column_(Matrix<double>::Zero(1, columns)),
        elements_(Matrix<double>::Zero(rows, columns)) {}

  /// Returns the root mean square of the update before it is clipped.
  double step(Matrix<double>& x, const Matrix<double>& g, double rate) {
    ++t_;
    const double beta = 1 - std::pow(t_, -config_.decay_exponent);
    const Index m = x.rows(), n = x.cols();
    Matrix<double> v(m, n);
    if (!factors_) {
      for (Index i = 0; i < m * n; ++i) {
        double& element = elements_.data()[i];
        element = beta * element + (1 - beta) * (g.data()[i] * g.data()[i] + config_.epsilon1);
      }
      v = elements_;
    } else {
      for (Index i = 0; i < m; ++i) {
        double mean = 0;
        for (Index j = 0; j < n; ++j)
          mean += (g(i, j) * g(i, j) + config_.epsilon1) / static_cast<double>(n);
        row_(i, 0) = beta * row_(i, 0) + (1 - beta) * mean;
      }
      for (Index j = 0; j < n; ++j) {
        double mean = 0;
        for (Index i = 0; i < m; ++i)
          mean += (g(i, j) * g(i, j) + config_.epsilon1) / static_cast<double>(m);
        column_(0, j) = beta * column_(0, j) + (1 - beta) * mean;
      }
      for (Index i = 0; i < m; ++i) {
        for (Index j = 0; j < n; ++j) v(i, j) = row_(i, 0) * column_(0, j) / row_.mean();
      }
    }
    Matrix<double> d(m, n);
    for (Index i = 0; i < m * n; ++i) d.data()[i] = g.data()[i] / std::sqrt(v.data()[i]);
    const double size = rms(d);
    d /= std::max(1.0, size / config_.clip);
    x -= rate * (config_.scale_by_parameter ? std::max(config_.epsilon2, rms(x)) : 1.0) * d;
    return size;
  }

 private:
  AdafactorConfig config_;
  bool factors_;
  int t_ = 0;
  Matrix<double> row_, column_, elements_;
};

/// Whether the state of a parameter of the example is a row and a column.
template <typename Scalar>
bool has_row_and_column(const Parameter<Scalar>& p) {
  return p.value.rows() > 1 && p.role != Role::mixture;
}

template <typename Scalar>
class AdafactorTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(AdafactorTest, Scalars);

TYPED_TEST(AdafactorTest, AgreesWithTheFormulas) {
  for (const AdafactorConfig& config :
       {AdafactorConfig{}, AdafactorConfig{.scale_by_parameter = false},
        AdafactorConfig{.decay_exponent = 0.5, .epsilon1 = 1e-3, .epsilon2 = 10, .clip = 0.5},
        AdafactorConfig{.clip = 100}}) {
    Workspace workspace(2);
    ExampleModel<TypeParam> model;
    Adafactor<TypeParam> adafactor(config);
    std::vector<NaiveAdafactor> naive;
    std::vector<Matrix<double>> x;
    for (const auto& p : model.parameters) {
      naive.emplace_back(config, has_row_and_column(p), p.value.rows(), p.value.cols());
      x.push_back(p.value.template cast<double>());
    }
    double least = 1e9, most = 0;
    for (std::uint64_t t = 1; t <= 6; ++t) {
      // Gradients grow and shrink, so that updates are sometimes clipped and sometimes not.
      model.set_gradients(t % 3 + 1);
      const double rate = 0.03 / static_cast<double>(t), scale = 1 / static_cast<double>(t);
      adafactor.step(workspace, model, rate, scale);
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto& p = model.parameters[i];
        const double size = naive[i].step(x[i], scale * p.gradient.template cast<double>(), rate);
        least = std::min(least, size);
        most = std::max(most, size);
        ASSERT_TRUE(close(p.value, x[i])) << p.name << ", step " << t << ", clip " << config.clip;
      }
    }
    const double limit = std::min(config.clip, 1.0);
    EXPECT_LT(least, limit);
    EXPECT_GT(most, limit);
    EXPECT_EQ(adafactor.steps(), 6);
  }
}

TYPED_TEST(AdafactorTest, SurvivesGradientsAndParametersOfZero) {
  Workspace workspace(1);
  ExampleModel<TypeParam> model;
  for (auto& p : model.parameters) p.value.setZero();
  reset_gradients(model);
  model.parameters[0].gradient(3, 1) = 1;  // one element of one row of one parameter
  Adafactor<TypeParam> adafactor;
  adafactor.step(workspace, model, 0.1);
  for (const auto& p : model.parameters) {
    EXPECT_TRUE(p.value.array().isFinite().all()) << p.name;
    EXPECT_EQ((p.value.array() != 0).count(), p.name == "embedding.weight" ? 1 : 0) << p.name;
  }
  EXPECT_LT(model.parameters[0].value(3, 1), 0);
}

TYPED_TEST(AdafactorTest, StateIsOneRowAndOneColumn) {
  ExampleModel<TypeParam> model;
  Adafactor<TypeParam> adafactor;
  adafactor.allocate(model);
  const auto state = state_of(adafactor, model);
  ASSERT_EQ(state.names.size(), 2 * model.parameters.size());
  for (std::size_t i = 0; i < model.parameters.size(); ++i) {
    const auto& p = model.parameters[i];
    EXPECT_EQ(state.names[2 * i], "adafactor.rows." + p.name);
    const bool factors = has_row_and_column(p);
    EXPECT_EQ(state.matrices[2 * i].size(), factors ? p.value.rows() : 0) << p.name;
    EXPECT_EQ(state.names[2 * i + 1], "adafactor.columns." + p.name);
    EXPECT_EQ(state.matrices[2 * i + 1].size(), factors ? p.value.cols() : p.size()) << p.name;
  }
}

TEST(Adafactor, ChecksItsConfiguration) {
  const auto message = [](const AdafactorConfig& config) {
    return message_of([&] { Adafactor<float> adafactor(config); });
  };
  EXPECT_EQ(message({.decay_exponent = 0}),
            "reformer::Adafactor: decay_exponent is 0, must be in (0, 1]");
  EXPECT_EQ(message({.decay_exponent = 1.5}),
            "reformer::Adafactor: decay_exponent is 1.5, must be in (0, 1]");
  EXPECT_EQ(message({.decay_exponent = nan}),
            "reformer::Adafactor: decay_exponent is nan, must be in (0, 1]");
  EXPECT_EQ(message({.clip = 0}), "reformer::Adafactor: clip is 0, must be positive");
  EXPECT_EQ(message({.clip = nan}), "reformer::Adafactor: clip is nan, must be positive");
  const std::string positive = ", must be positive and finite in the parameters' type";
  EXPECT_EQ(message({.epsilon1 = 0}), "reformer::Adafactor: epsilon1 is 0" + positive);
  EXPECT_EQ(message({.epsilon1 = -1}), "reformer::Adafactor: epsilon1 is -1" + positive);
  EXPECT_EQ(message({.epsilon1 = nan}), "reformer::Adafactor: epsilon1 is nan" + positive);
  EXPECT_EQ(message({.epsilon1 = 1e-45}), "reformer::Adafactor: epsilon1 is 1e-45" + positive)
      << "divided by a number of rows, it is 0 in float";
  EXPECT_NO_THROW(Adafactor<double>({.epsilon1 = 1e-45}));
  EXPECT_EQ(message({.epsilon2 = 0}), "reformer::Adafactor: epsilon2 is 0" + positive);
  EXPECT_EQ(message({.epsilon2 = infinity}), "reformer::Adafactor: epsilon2 is inf" + positive);
  EXPECT_EQ(message({.epsilon2 = nan}), "reformer::Adafactor: epsilon2 is nan" + positive);
}

}  // namespace
}  // namespace reformer::test
