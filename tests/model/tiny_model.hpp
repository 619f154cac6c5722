// SPDX-License-Identifier: MIT
/// @file
/// Small models with every kind of layer, shared by the tests of the model.
#pragma once

#include <string>
#include <vector>

#include "reformer/model/model.hpp"
#include "support/random_data.hpp"
#include "support/shift_branch.hpp"

namespace reformer::test {

/// Chunks of 4 and buckets that do not depend on the length.
inline std::vector<LayerPattern> tiny_layers() {
  return {LocalPattern{4, 1, 0, false}, LshPattern{4, 1, 0, 2, {4}}, ExactPattern{false},
          LshPattern{4, 1, 0, 1, {2, 2}}};
}

inline ModelConfig tiny_config() {
  return {.vocabulary = 11,
          .width = 12,
          .num_heads = 2,
          .head_width = 5,
          .feed_forward_width = 14,
          .activation = Activation::gelu,
          .positions = AxialPositions{{5, 9}, {5, 7}},
          .ngrams = {{2, 7}, {4, 9, 0.3}},
          .value_ngrams = {{2, 8, 0.2}},
          .layers = tiny_layers()};
}

/// Layers of so many branches: attention; with feed-forward; with another type of branch between.
template <typename Scalar>
typename Model<Scalar>::LayerChange layers_of(int branches, Index width) {
  return [=](Index layer, auto& all) {
    if (branches == 1) all.pop_back();
    if (branches == 3) {
      all.insert(all.begin() + 1,
                 Shift<Scalar>("layers." + std::to_string(layer) + ".shift", width));
    }
  };
}

/// Gives every layer whose heads hash by one pattern rotations of its own, the same in float and
/// double.
template <typename Scalar>
void fix_rotations(Model<Scalar>& model, std::uint64_t seed) {
  for (Index i = 0; i < static_cast<Index>(model.config().layers.size()); ++i) {
    auto& attention = *model.template branch<SelfAttention<Scalar>>(i);
    for (const HeadKind& kind : attention.kinds()) {
      const auto* lsh = std::get_if<LshPattern>(&kind.pattern);
      if (lsh == nullptr) continue;
      const auto drawn = detail::random_rotations<double>(
          kind.num_heads, attention.config().head_width, lsh->num_hashes, lsh->num_buckets,
          RandomKey{seed}.at_layer(i));
      attention.set_rotations(Tensor<Scalar, 4>(drawn.template cast<Scalar>()));
    }
  }
}

/// A parameter of the model, by name.
template <typename Scalar>
Parameter<Scalar>& parameter(Model<Scalar>& model, const std::string& name) {
  Parameter<Scalar>* found = model.find_parameter(name);
  if (found == nullptr) throw std::logic_error("the model has no parameter " + name);
  return *found;
}

/// All values of the parameters, one after another; in double, which keeps their bits.
template <typename Scalar>
std::vector<double> values_of(Model<Scalar>& model) {
  std::vector<double> all;
  model.for_each_parameter(
      [&](auto& p) { all.insert(all.end(), p.value.data(), p.value.data() + p.value.size()); });
  return all;
}

}  // namespace reformer::test
