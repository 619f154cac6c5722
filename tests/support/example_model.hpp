// SPDX-License-Identifier: MIT
/// @file
/// Parameters without a model around them, for tests of optimisers.
#pragma once

#include <string>
#include <vector>

#include "reformer/foundation/parameter.hpp"
#include "support/random_data.hpp"

namespace reformer::test {

/// One parameter of each kind that optimisers tell apart, with ragged sizes; the largest is more
/// than one block of work.
template <typename Scalar_>
struct ExampleModel {
  using Scalar = Scalar_;
  std::vector<Parameter<Scalar>> parameters;

  explicit ExampleModel(std::uint64_t seed = 1) {
    parameters = {
        {"embedding.weight", Role::embedding, 13, 5},
        {"positions.weights.0", Role::position_table, 4, 3},
        {"positions.weight", Role::position_table, 6, 5},
        {"block.0.feed_forward.layer_norm.weight", Role::gain, 1, 19},
        {"block.0.feed_forward.dense.weight", Role::weight, 130, 257},
        {"block.0.feed_forward.dense.bias", Role::bias, 1, 33},
        {"head.weight", Role::head_weight, 7, 1},
        {"head.bias", Role::bias, 1, 1},
        {"block.0.attention.value_mixture", Role::mixture, 2, 3},
        {"block.0.attention.temperature", Role::temperature, 1, 3},
    };
    randomize_parameters(*this, seed);
    set_gradients(seed);
  }

  /// Random gradients; the scale differs between parameters and steps.
  void set_gradients(std::uint64_t seed) {
    double deviation = 0.01 * static_cast<double>(seed);
    for (auto& p : parameters) {
      p.allocate_gradient();
      p.gradient =
          random_matrix<Scalar>(p.value.rows(), p.value.cols(), seed << 8 | ++index_, deviation);
      deviation *= 3;
    }
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    for (auto& p : parameters) f(p);
  }

 private:
  std::uint64_t index_ = 0;
};

/// Values of all parameters, one after another.
template <typename Model>
std::vector<typename Model::Scalar> values_of(Model& model) {
  std::vector<typename Model::Scalar> all;
  model.for_each_parameter([&](const auto& p) {
    all.insert(all.end(), p.value.data(), p.value.data() + p.value.size());
  });
  return all;
}

/// The state of an optimiser, name by name.
template <typename Scalar>
struct State {
  std::vector<std::string> names;
  std::vector<Matrix<Scalar>> matrices;

  friend bool operator==(const State&, const State&) = default;
};
template <typename Scalar, typename Optimizer>
State<Scalar> state_of(Optimizer& optimizer, ExampleModel<Scalar>& model) {
  State<Scalar> state;
  optimizer.for_each_state(model, [&](const std::string& name, const Matrix<Scalar>& matrix) {
    state.names.push_back(name);
    state.matrices.push_back(matrix);
  });
  return state;
}

}  // namespace reformer::test
