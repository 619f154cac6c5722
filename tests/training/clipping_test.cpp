// SPDX-License-Identifier: MIT
#include "reformer/training/clipping.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/example_model.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
class ClippingTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ClippingTest, Scalars);

TYPED_TEST(ClippingTest, NormIsThatOfAllGradientsWithTheSameBitsForAnyThreads) {
  ExampleModel<TypeParam> model;
  double squares = 0;
  for (const double g : gradients_of(model)) squares += g * g;
  double first = 0;
  for (const int threads : thread_counts) {
    Workspace workspace(threads);
    const double norm = global_gradient_norm(workspace, model);
    EXPECT_NEAR(norm / std::sqrt(squares), 1, tolerance<TypeParam>);
    if (threads == 1) first = norm;
    EXPECT_EQ(norm, first) << threads << " threads";
  }
}

TYPED_TEST(ClippingTest, EveryElementCounts) {
  Workspace workspace(2);
  ExampleModel<TypeParam> model;
  reset_gradients(model);
  EXPECT_EQ(global_gradient_norm(workspace, model), 0);
  // First and last of every parameter, and the ends of a block of work.
  for (auto& p : model.parameters) {
    for (const Index i : {Index{0}, p.size() - 1, Index{16383}, Index{16384}}) {
      if (i >= p.size()) continue;
      p.gradient.data()[i] = -3;
      EXPECT_EQ(global_gradient_norm(workspace, model), 3) << p.name << "[" << i << "]";
      p.gradient.data()[i] = 0;
    }
  }
}

TYPED_TEST(ClippingTest, NotANumberIsNotHidden) {
  Workspace workspace(2);
  ExampleModel<TypeParam> model;
  model.parameters[5].gradient(0, 32) = std::numeric_limits<TypeParam>::quiet_NaN();
  EXPECT_TRUE(std::isnan(global_gradient_norm(workspace, model)));
}

// Squares of large gradients leave the range of float; the norm does not.
TYPED_TEST(ClippingTest, LargeGradientsHaveAFiniteNorm) {
  Workspace workspace(2);
  ExampleModel<TypeParam> model;
  reset_gradients(model);
  model.parameters[4].gradient(0, 1) = TypeParam(3e20);
  model.parameters[4].gradient(129, 256) = TypeParam(-4e20);
  EXPECT_NEAR(global_gradient_norm(workspace, model) / 5e20, 1, 1e-6);
}

TYPED_TEST(ClippingTest, TakesGradientsOfEveryParameter) {
  Workspace workspace(1);
  ExampleModel<TypeParam> model;
  model.parameters[1].gradient.resize(0, 0);
  EXPECT_EQ(message_of([&] { global_gradient_norm(workspace, model); }),
            "reformer::global_gradient_norm: positions.weights.0 has no gradient, call "
            "zero_gradients first");
}

TEST(GlobalGradientNorm, LeavesFrozenParametersOut) {
  Workspace workspace(2);
  ExampleModel<double> model;
  double squares = 0;
  model.for_each_parameter([&](auto& p) {
    p.is_frozen = p.name == "embedding.weight";
    if (p.is_frozen) {
      p.gradient.setConstant(std::numeric_limits<double>::quiet_NaN());
    } else {
      squares += p.gradient.squaredNorm();
    }
  });
  EXPECT_NEAR(global_gradient_norm(workspace, model) / std::sqrt(squares), 1, 1e-12);
}

TEST(ClippingScale, BringsTheNormDownToItsLimit) {
  EXPECT_EQ(clipping_scale(4, 1), 0.25);
  EXPECT_EQ(clipping_scale(1, 1), 1);
  EXPECT_EQ(clipping_scale(0.5, 1), 1) << "never up";
  EXPECT_EQ(clipping_scale(0, 1), 1);
  EXPECT_EQ(clipping_scale(1e9, 0), 1) << "0 is no limit";
  EXPECT_EQ(clipping_scale(1e9, std::numeric_limits<double>::infinity()), 1);
}

TEST(ClippingScale, RefusesWhatMeansNothing) {
  const auto message = [](double norm, double max_norm) {
    return message_of([&] { clipping_scale(norm, max_norm); });
  };
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const std::string prefix = "reformer::clipping_scale: ";
  for (const double limit : {0.0, 1.0}) {
    EXPECT_EQ(message(nan, limit), prefix + "norm is nan, must be finite and not negative");
    EXPECT_EQ(message(infinity, limit), prefix + "norm is inf, must be finite and not negative");
    EXPECT_EQ(message(-1, limit), prefix + "norm is -1, must be finite and not negative");
  }
  EXPECT_EQ(message(1, nan), prefix + "max_norm is nan, must not be negative");
  EXPECT_EQ(message(1, -0.5), prefix + "max_norm is -0.5, must not be negative");
}

TYPED_TEST(ClippingTest, NormOfATableIsThatOfTheRowsThatAStepHasReached) {
  ExampleModel<TypeParam> model;
  reset_gradients(model);
  Parameter<TypeParam>& table = model.parameters.front();
  table.reached.emplace(table.value.rows());
  table.gradient(3, 4) = 3;
  table.gradient(12, 0) = -4;
  Workspace workspace(2);
  EXPECT_EQ(global_gradient_norm(workspace, model), 0);  // none is said to be reached
  table.reached->insert(12);
  table.reached->insert(3);
  EXPECT_EQ(global_gradient_norm(workspace, model), 5);
}

}  // namespace
}  // namespace reformer::test
