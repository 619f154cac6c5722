// SPDX-License-Identifier: MIT
#include "reformer/training/adam.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/example_model.hpp"
#include "support/not_finite.hpp"

namespace reformer::test {
namespace {

/// The formulas of the paper for one element after another, in double.
class NaiveAdam {
 public:
  NaiveAdam(const AdamConfig& config, std::size_t size) : config_(config), m_(size), v_(size) {}

  void step(std::vector<double>& x, const std::vector<double>& g, const std::vector<bool>& decays,
            double rate) {
    ++t_;
    for (std::size_t i = 0; i < x.size(); ++i) {
      m_[i] = config_.beta1 * m_[i] + (1 - config_.beta1) * g[i];
      v_[i] = config_.beta2 * v_[i] + (1 - config_.beta2) * g[i] * g[i];
      const double m = m_[i] / (1 - std::pow(config_.beta1, t_));
      const double v = v_[i] / (1 - std::pow(config_.beta2, t_));
      const double decay = decays[i] ? config_.weight_decay * x[i] : 0;
      x[i] -= rate * (m / (std::sqrt(v) + config_.epsilon) + decay);
    }
  }

 private:
  AdamConfig config_;
  int t_ = 0;
  std::vector<double> m_, v_;
};

/// Which parameters decay, by name: written out, so that a change of the rule shows.
bool should_decay(const std::string& name) {
  return name == "embedding.weight" || name == "block.0.feed_forward.dense.weight" ||
         name == "head.weight";
}

template <typename Scalar>
class AdamTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(AdamTest, Scalars);

TYPED_TEST(AdamTest, AgreesWithTheFormulas) {
  for (const AdamConfig& config :
       {AdamConfig{}, AdamConfig{.weight_decay = 0.1},
        AdamConfig{.beta1 = 0, .beta2 = 0.5, .epsilon = 1e-2, .weight_decay = 0.01}}) {
    Workspace workspace(2);
    ExampleModel<TypeParam> model;
    Adam<TypeParam> adam(config);
    std::vector<double> x;
    std::vector<bool> decays;
    for (const auto& p : model.parameters) {
      x.insert(x.end(), p.value.data(), p.value.data() + p.size());
      decays.insert(decays.end(), static_cast<std::size_t>(p.size()), should_decay(p.name));
    }
    NaiveAdam naive(config, x.size());
    for (std::uint64_t t = 1; t <= 6; ++t) {
      model.set_gradients(t);
      const double rate = 0.03 / static_cast<double>(t), scale = 1 / static_cast<double>(t);
      std::vector<double> g = gradients_of(model);
      for (double& value : g) value *= scale;
      naive.step(x, g, decays, rate);
      adam.step(workspace, model, rate, scale);
      ASSERT_TRUE(close(values_of(model), x)) << "step " << t << ", decay " << config.weight_decay;
    }
    EXPECT_EQ(adam.steps(), 6);
  }
}

// With bias correction the first step moves every element by the rate, whatever its gradient.
TYPED_TEST(AdamTest, FirstStepIsTheRateInTheDirectionOfTheSign) {
  Workspace workspace(1);
  ExampleModel<TypeParam> model;
  std::vector<double> expected;
  const auto gradients = gradients_of(model);
  for (const TypeParam value : values_of(model)) {
    const double g = gradients[expected.size()];
    expected.push_back(static_cast<double>(value) - 0.01 * g / (std::abs(g) + 1e-9));
  }
  Adam<TypeParam>().step(workspace, model, 0.01);
  EXPECT_TRUE(close(values_of(model), expected));
}

TYPED_TEST(AdamTest, DecayIsOfWeightsAndDoesNotPassThroughTheMoments) {
  Workspace workspace(1);
  ExampleModel<TypeParam> model;
  const auto before = values_of(model);
  reset_gradients(model);
  Adam<TypeParam> adam({.weight_decay = 0.5});
  adam.step(workspace, model, 0.1);
  std::size_t i = 0;
  for (const auto& p : model.parameters) {
    for (Index j = 0; j < p.size(); ++j, ++i) {
      const double expected = static_cast<double>(before[i]) * (should_decay(p.name) ? 0.95 : 1);
      ASSERT_NEAR(static_cast<double>(p.value.data()[j]), expected, tolerance<TypeParam>) << p.name;
    }
  }
  for (const auto& matrix : state_of(adam, model).matrices) {
    EXPECT_TRUE((matrix.array() == 0).all());
  }
}

TYPED_TEST(AdamTest, StateIsTwoMatricesForEachParameter) {
  ExampleModel<TypeParam> model;
  Adam<TypeParam> adam;
  adam.allocate(model);
  const auto state = state_of(adam, model);
  ASSERT_EQ(state.names.size(), 2 * model.parameters.size());
  std::size_t bytes = 0;
  Index elements = 0;
  for (std::size_t i = 0; i < state.names.size(); ++i) {
    const auto& p = model.parameters[i / 2];
    EXPECT_EQ(state.names[i], (i % 2 == 0 ? "adam.first." : "adam.second.") + p.name);
    EXPECT_EQ(state.matrices[i].rows(), p.value.rows());
    EXPECT_EQ(state.matrices[i].cols(), p.value.cols());
    EXPECT_TRUE((state.matrices[i].array() == 0).all());
    bytes += sizeof(TypeParam) * static_cast<std::size_t>(state.matrices[i].size());
    elements += i % 2 == 0 ? p.size() : 0;
  }
  EXPECT_EQ(Adam<TypeParam>::state_bytes(elements), bytes);
}

TEST(Adam, ChecksItsConfiguration) {
  const auto message = [](const AdamConfig& config) {
    return message_of([&] { Adam<float> adam(config); });
  };
  EXPECT_EQ(message({.beta1 = 1}), "reformer::Adam: beta1 is 1, must be in [0, 1)");
  EXPECT_EQ(message({.beta2 = -0.5}), "reformer::Adam: beta2 is -0.5, must be in [0, 1)");
  const std::string positive = ", must be positive and finite in the parameters' type";
  const std::string finite = ", must be finite and not negative";
  EXPECT_EQ(message({.epsilon = 0}), "reformer::Adam: epsilon is 0" + positive);
  EXPECT_EQ(message({.epsilon = infinity}), "reformer::Adam: epsilon is inf" + positive);
  EXPECT_EQ(message({.epsilon = nan}), "reformer::Adam: epsilon is nan" + positive);
  EXPECT_EQ(message({.epsilon = 1e-50}), "reformer::Adam: epsilon is 1e-50" + positive)
      << "0 in float";
  EXPECT_NO_THROW(Adam<double>({.epsilon = 1e-50}));
  EXPECT_EQ(message({.weight_decay = -1}), "reformer::Adam: weight_decay is -1" + finite);
  EXPECT_EQ(message({.weight_decay = nan}), "reformer::Adam: weight_decay is nan" + finite);
  EXPECT_EQ(message({.weight_decay = infinity}), "reformer::Adam: weight_decay is inf" + finite);
  EXPECT_EQ(message({.beta1 = nan}), "reformer::Adam: beta1 is nan, must be in [0, 1)");
  EXPECT_EQ(message({.beta2 = nan}), "reformer::Adam: beta2 is nan, must be in [0, 1)");
}

TEST(Adam, RefusesANegativeNumberOfParameters) {
  EXPECT_EQ(message_of([] { Adam<float>::state_bytes(-1); }),
            "reformer::Adam::state_bytes: parameters is -1, must be at least 0");
}

TYPED_TEST(AdamTest, ChangesOnlyTheRowsOfATableThatAStepHasReached) {
  // A table of four rows of which the steps reach some, against one of these rows alone.
  struct Table {
    std::vector<Parameter<TypeParam>> parameters;
    Table(Role role, Index rows) { parameters.emplace_back("t", role, rows, 37); }
    void for_each_parameter(const std::function<void(Parameter<TypeParam>&)>& f) {
      f(parameters.front());
    }
  };
  Workspace workspace(2);
  Table table(Role::ngram_table, 4), alone(Role::position_table, 2);
  Parameter<TypeParam>&p = table.parameters.front(), &q = alone.parameters.front();
  p.value = random_matrix<TypeParam>(4, 37, 1);
  q.value << p.value.row(3), p.value.row(1);
  p.reached.emplace(4);
  Adam<TypeParam> adam({.weight_decay = 0.1, .ngram_rate = 4}), adam_alone({.weight_decay = 0.1});
  const Matrix<TypeParam> before = p.value;
  for (std::uint64_t step = 1; step <= 3; ++step) {
    p.zero_gradient();
    q.zero_gradient();
    q.gradient = random_matrix<TypeParam>(2, 37, step + 7);
    p.gradient.row(3) = q.gradient.row(0);
    p.gradient.row(1) = q.gradient.row(1);
    p.reached->insert(3);
    p.reached->insert(1);
    adam.step(workspace, table, 0.01);
    adam_alone.step(workspace, alone, 0.04);
  }
  Matrix<TypeParam> expected = before;
  expected.row(3) = q.value.row(0);
  expected.row(1) = q.value.row(1);
  EXPECT_TRUE(same_bits(p.value, expected));
  EXPECT_FALSE(same_bits(p.value, before));
}

}  // namespace
}  // namespace reformer::test
