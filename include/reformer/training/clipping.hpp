// SPDX-License-Identifier: MIT
/// @file
/// The global norm of all gradients, for clipping.
#pragma once

#include <cmath>
#include <vector>

#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer {

/// sqrt(sum of squares of all gradients); the same bits for any number of threads.
template <typename Model>
double global_gradient_norm(Workspace& workspace, Model& model) {
  using Scalar = typename Model::Scalar;
  constexpr Index block = 16384;
  double total = 0;
  std::vector<double> partial;
  model.for_each_parameter([&](const Parameter<Scalar>& p) {
    const Index blocks = ceil_div(p.gradient.size(), block);
    partial.resize(static_cast<std::size_t>(blocks));
    parallel_for(workspace.threads(), blocks, [&](Index task, int) {
      const Scalar* g = p.gradient.data() + task * block;
      const Index n = std::min(block, p.gradient.size() - task * block);
      partial[static_cast<std::size_t>(task)] = static_cast<double>(simd::dot(n, g, g));
    });
    for (const double sum : partial) total += sum;
  });
  return std::sqrt(total);
}

/// What gradients must be multiplied by so that their norm is at most `max_norm`; 1 when there is
/// no limit.
/// @param max_norm  0: no limit
inline double clipping_scale(double norm, double max_norm) {
  return max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace reformer
