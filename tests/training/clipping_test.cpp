// SPDX-License-Identifier: MIT
#include "reformer/training/clipping.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/compare.hpp"
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

TEST(ClippingScale, BringsTheNormDownToItsLimit) {
  EXPECT_EQ(clipping_scale(4, 1), 0.25);
  EXPECT_EQ(clipping_scale(1, 1), 1);
  EXPECT_EQ(clipping_scale(0.5, 1), 1) << "never up";
  EXPECT_EQ(clipping_scale(0, 1), 1);
  EXPECT_EQ(clipping_scale(1e9, 0), 1) << "0 is no limit";
}

}  // namespace
}  // namespace reformer::test
