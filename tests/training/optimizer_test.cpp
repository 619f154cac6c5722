// SPDX-License-Identifier: MIT
// What holds for every optimiser; Muon, whose products are slow in double, in float alone.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/muon.hpp"
#include "support/compare.hpp"
#include "support/example_model.hpp"

namespace reformer::test {
namespace {

template <template <typename> typename Optimizer_, typename Scalar_>
struct Kind {
  using Optimizer = Optimizer_<Scalar_>;
  using Scalar = Scalar_;
};

template <typename Kind>
struct OptimizerTest : testing::Test {};
using Kinds = testing::Types<Kind<Adam, float>, Kind<Adam, double>, Kind<Adafactor, float>,
                             Kind<Adafactor, double>, Kind<Muon, float>>;
TYPED_TEST_SUITE(OptimizerTest, Kinds);

TYPED_TEST(OptimizerTest, GivesTheSameBitsForAnyThreads) {
  std::vector<typename TypeParam::Scalar> values;
  State<typename TypeParam::Scalar> state;
  for (const int threads : thread_counts) {
    Workspace workspace(threads);
    ExampleModel<typename TypeParam::Scalar> model;
    typename TypeParam::Optimizer optimizer;
    for (std::uint64_t t = 1; t <= 3; ++t) {
      model.set_gradients(t);
      optimizer.step(workspace, model, 0.01, 0.7);
    }
    if (threads == 1) {
      values = values_of(model);
      state = state_of(optimizer, model);
    }
    EXPECT_TRUE(same_bits(values_of(model), values)) << threads << " threads";
    EXPECT_TRUE(state_of(optimizer, model) == state) << threads << " threads";
  }
}

TYPED_TEST(OptimizerTest, GoesOnFromASavedState) {
  Workspace workspace(2);
  ExampleModel<typename TypeParam::Scalar> straight;
  typename TypeParam::Optimizer optimizer;
  for (std::uint64_t t = 1; t <= 2; ++t) {
    straight.set_gradients(t);
    optimizer.step(workspace, straight, 0.01);
  }
  auto resumed = straight;
  typename TypeParam::Optimizer other;
  EXPECT_TRUE(state_of(other, resumed).names.empty()) << "there is none before it is allocated";
  other.allocate(resumed);
  const auto saved = state_of(optimizer, straight);
  std::size_t index = 0;
  other.for_each_state(resumed,
                       [&](const std::string& name, Matrix<typename TypeParam::Scalar>& matrix) {
                         EXPECT_EQ(name, saved.names.at(index));
                         EXPECT_TRUE(matrix.isZero(0)) << name;
                         matrix = saved.matrices.at(index++);
                       });
  EXPECT_EQ(index, saved.names.size());
  other.steps() = optimizer.steps();
  for (std::uint64_t t = 3; t <= 4; ++t) {
    straight.set_gradients(t);
    resumed.set_gradients(t);
    optimizer.step(workspace, straight, 0.01);
    other.step(workspace, resumed, 0.01);
  }
  EXPECT_TRUE(same_bits(values_of(resumed), values_of(straight)));
}

TYPED_TEST(OptimizerTest, LeavesFrozenParametersAndTheirStateAsTheyAre) {
  Workspace workspace(2);
  ExampleModel<typename TypeParam::Scalar> model, other;
  typename TypeParam::Optimizer optimizer, of_other;
  const auto is_frozen = [](const std::string& name) {
    return name.ends_with("embedding.weight") || name.ends_with("dense.weight");
  };
  model.for_each_parameter([&](auto& p) { p.is_frozen = is_frozen(p.name); });
  const auto before = model.parameters;
  for (int step = 0; step < 2; ++step) {
    optimizer.step(workspace, model, 0.1);
    of_other.step(workspace, other, 0.1);
  }
  int frozen = 0;
  for (std::size_t i = 0; i < before.size(); ++i) {
    const auto& p = model.parameters[i];
    const auto& without = other.parameters[i];  // those that are not frozen know nothing of it
    if (p.is_frozen) {
      EXPECT_TRUE(same_bits(p.value, before[i].value)) << p.name;
      EXPECT_FALSE(same_bits(p.value, without.value)) << p.name;
      ++frozen;
    } else {
      EXPECT_TRUE(same_bits(p.value, without.value)) << p.name;
    }
  }
  EXPECT_EQ(frozen, 2);
  optimizer.for_each_state(
      model, [&](const std::string& name, const Matrix<typename TypeParam::Scalar>& state) {
        EXPECT_EQ(state.isZero(0), state.size() == 0 || is_frozen(name)) << name;
      });
}

}  // namespace
}  // namespace reformer::test
