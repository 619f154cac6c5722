// SPDX-License-Identifier: MIT
// What all optimisers promise: state is used with the parameters it was made for, and arguments
// that mean nothing change nothing.
#include "reformer/training/state.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/muon.hpp"
#include "support/errors.hpp"
#include "support/example_model.hpp"

namespace reformer::test {
namespace {

template <typename Optimizer>
struct Name;
template <>
struct Name<Adam<float>> {
  static constexpr const char* optimizer = "reformer::Adam::";
  static constexpr const char* state = "adam.first.";
};
template <>
struct Name<Adafactor<float>> {
  static constexpr const char* optimizer = "reformer::Adafactor::";
  static constexpr const char* state = "adafactor.rows.";
};
template <>
struct Name<Muon<float>> {
  static constexpr const char* optimizer = "reformer::Muon::";
  static constexpr const char* state = "muon.first.";
};

template <typename Optimizer>
class OptimizerStateTest : public testing::Test {
 protected:
  /// The message of an action that must change neither the model nor the state.
  template <typename Action>
  std::string refused(ExampleModel<float>& model, const Action& action) {
    const auto values = values_of(model);
    const auto state = state_of(optimizer, own);
    const std::int64_t steps = optimizer.steps();
    std::string message = message_of(action);
    EXPECT_EQ(values_of(model), values);
    EXPECT_TRUE(state_of(optimizer, own) == state);
    EXPECT_EQ(optimizer.steps(), steps);
    const std::string prefix = Name<Optimizer>::optimizer;
    EXPECT_EQ(message.substr(0, prefix.size()), prefix);
    return message.substr(std::min(prefix.size(), message.size()));
  }

  Workspace workspace{2};
  ExampleModel<float> own;
  Optimizer optimizer;
};
using Optimizers = testing::Types<Adam<float>, Adafactor<float>, Muon<float>>;
TYPED_TEST_SUITE(OptimizerStateTest, Optimizers);

constexpr const char* rule = " as in the model whose state this is";

TYPED_TEST(OptimizerStateTest, RefusesOtherParametersThanItsOwn) {
  this->optimizer.step(this->workspace, this->own, 0.01);
  using Parameters = std::vector<Parameter<float>>;
  const auto message = [&](auto change) {
    ExampleModel<float> other;
    change(other.parameters);
    for (auto& p : other.parameters) p.allocate_gradient();
    const std::string of_state = this->refused(
        other, [&] { this->optimizer.for_each_state(other, [](const auto&, auto&) {}); });
    EXPECT_EQ(of_state.substr(0, 16), "for_each_state: ");
    const std::string of_step =
        this->refused(other, [&] { this->optimizer.step(this->workspace, other, 0.01); });
    EXPECT_EQ(of_step.substr(0, 6), "step: ");
    EXPECT_EQ(of_step.substr(6), of_state.substr(16));
    return of_step.substr(6);
  };
  // Larger, smaller, another shape of the same size, a vector for a matrix.
  for (const auto& shape : {std::pair(260, 514), {13, 25}, {257, 130}, {1, 33410}}) {
    const std::string size =
        "[" + std::to_string(shape.first) + ", " + std::to_string(shape.second) + "]";
    EXPECT_EQ(message([&](Parameters& p) {
                p[4] = Parameter<float>(p[4].name, p[4].role, shape.first, shape.second);
              }),
              "block.0.feed_forward.dense.weight is " + size + ", must be [130, 257]" + rule);
  }
  EXPECT_EQ(message([](Parameters& p) { std::swap(p[0], p[2]); }),
            std::string("parameter 0 is positions.weight, must be embedding.weight") + rule);
  EXPECT_EQ(message([](Parameters& p) { p[7].name = "head.scale"; }),
            std::string("parameter 7 is head.scale, must be head.bias") + rule);
  EXPECT_EQ(message([](Parameters& p) { p.pop_back(); }),
            std::string("the model has 9 parameters, must have 10") + rule);
  EXPECT_EQ(message([](Parameters& p) {
              p.push_back({"more", Role::weight, 1, 1});
            }),
            std::string("the model has 11 parameters, must have 10") + rule);
}

TYPED_TEST(OptimizerStateTest, GoesOnWithACopyOfItsModel) {
  this->optimizer.step(this->workspace, this->own, 0.01);
  ExampleModel<float> copy = this->own;
  this->optimizer.step(this->workspace, copy, 0.01);
  EXPECT_EQ(this->optimizer.steps(), 2);
  EXPECT_NE(values_of(copy), values_of(this->own));
}

TYPED_TEST(OptimizerStateTest, AllocateBeginsAnew) {
  ExampleModel<float> larger;
  larger.parameters[4] = Parameter<float>("larger", Role::weight, 200, 300);
  larger.set_gradients(1);
  ExampleModel<float> twin = larger;
  this->optimizer.step(this->workspace, this->own, 0.01);
  this->optimizer.allocate(larger);
  EXPECT_EQ(this->optimizer.steps(), 0);
  this->optimizer.step(this->workspace, larger, 0.01);
  TypeParam fresh;
  fresh.step(this->workspace, twin, 0.01);
  EXPECT_EQ(values_of(larger), values_of(twin));
  // Again for the same parameters: nothing is left, and nothing was moved.
  std::vector<const float*> places, again;
  const auto place = [&](auto& list) {
    return [&](const std::string&, const Matrix<float>& matrix) { list.push_back(matrix.data()); };
  };
  this->optimizer.for_each_state(larger, place(places));
  this->optimizer.allocate(larger);
  EXPECT_EQ(this->optimizer.steps(), 0);
  std::as_const(this->optimizer).for_each_state(larger, place(again));
  EXPECT_EQ(again, places);
  for (const Matrix<float>& matrix : state_of(this->optimizer, larger).matrices) {
    EXPECT_TRUE((matrix.array() == 0).all());
  }
}

TYPED_TEST(OptimizerStateTest, RefusesStateThatWasReplacedByAnotherShape) {
  this->optimizer.allocate(this->own);
  this->optimizer.for_each_state(this->own, [](const std::string& name, Matrix<float>& matrix) {
    if (name == std::string(Name<TypeParam>::state) + "embedding.weight") matrix.setZero(1, 2);
  });
  const auto values = values_of(this->own);
  EXPECT_TRUE(
      contains(message_of([&] { this->optimizer.step(this->workspace, this->own, 0.01); }),
               std::string(Name<TypeParam>::state) + "embedding.weight is [1, 2], must be ["));
  EXPECT_EQ(values_of(this->own), values);
}

TYPED_TEST(OptimizerStateTest, RefusesArgumentsThatMeanNothing) {
  this->optimizer.step(this->workspace, this->own, 0.01);
  const auto message = [&](double rate, double scale = 1) {
    return this->refused(this->own,
                         [&] { this->optimizer.step(this->workspace, this->own, rate, scale); });
  };
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const std::string finite = ", must be finite and not negative";
  EXPECT_EQ(message(nan), "step: rate is nan" + finite);
  EXPECT_EQ(message(infinity), "step: rate is inf" + finite);
  EXPECT_EQ(message(-0.001), "step: rate is -0.001" + finite);
  EXPECT_EQ(message(1e39), "step: rate is 1e+39" + finite) << "infinite in float";
  EXPECT_EQ(message(0.01, nan), "step: gradient_scale is nan, must be finite");
  EXPECT_EQ(message(0.01, -infinity), "step: gradient_scale is -inf, must be finite");
  this->optimizer.steps() = -1;
  EXPECT_EQ(message(0.01), "step: steps is -1, must be in [0, 2^63 - 1)");
  this->optimizer.steps() = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(message(0.01), "step: steps is 9223372036854775807, must be in [0, 2^63 - 1)");
}

TYPED_TEST(OptimizerStateTest, RefusesAGradientThatIsMissingOrOfAnotherShape) {
  for (const Index rows : {0, 257}) {
    this->own.parameters[4].gradient.setZero(rows, rows == 0 ? 0 : 130);
    EXPECT_EQ(
        this->refused(this->own, [&] { this->optimizer.step(this->workspace, this->own, 0.01); }),
        "step: block.0.feed_forward.dense.weight has no gradient, call zero_gradients first");
  }
}

}  // namespace
}  // namespace reformer::test
