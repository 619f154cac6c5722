// SPDX-License-Identifier: MIT
/// @file
/// The global norm of all gradients, for clipping.
#pragma once

#include <cmath>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// total += x^2 over all elements, in blocks of one size: the same bits for any number of threads.
template <typename Scalar>
void add_squares(Workspace& workspace, const Matrix<Scalar>& x, double& total) {
  constexpr Index block = 16384;
  std::vector<double> partial(static_cast<std::size_t>(ceil_div(x.size(), block)));
  parallel_for(workspace.threads(), static_cast<Index>(partial.size()), [&](Index task, int) {
    const Scalar* g = x.data() + task * block;
    const Index n = std::min(block, x.size() - task * block);
    auto squares = static_cast<double>(simd::dot(n, g, g));
    if (!std::isfinite(squares)) {  // finite gradients may have squares that float cannot hold
      squares = 0;
      for (Index i = 0; i < n; ++i)
        squares += static_cast<double>(g[i]) * static_cast<double>(g[i]);
    }
    partial[static_cast<std::size_t>(task)] = squares;
  });
  for (const double sum : partial) total += sum;
}

#ifdef REFORMER_COMPILED
extern template REFORMER_EXPORT void add_squares<float>(Workspace&, const Matrix<float>&, double&);
#endif
}  // namespace detail

/// sqrt(sum of squares of all gradients), those of frozen parameters apart; the same bits for any
/// number of threads. Infinite or not a number if a gradient is.
/// @throw std::invalid_argument if a parameter has no gradient
template <typename Model>
double global_gradient_norm(Workspace& workspace, Model& model) {
  check_gradients("global_gradient_norm", model);
  double total = 0;
  model.for_each_parameter([&](const auto& p) {
    if (!p.is_frozen) detail::add_squares(workspace, p.gradient, total);
  });
  return std::sqrt(total);
}

/// What gradients must be multiplied by so that their norm is at most `max_norm`; 1 when there is
/// no limit.
/// @param max_norm  0 or infinity: no limit
/// @throw std::invalid_argument for a norm that is not finite: a gradient is not, or is far too
///   large. No scale would help then, and a step would make parameters so.
inline double clipping_scale(double norm, double max_norm) {
  check(norm >= 0 && std::isfinite(norm), "clipping_scale", "norm is ", norm,
        ", must be finite and not negative");
  check(max_norm >= 0, "clipping_scale", "max_norm is ", max_norm, ", must not be negative");
  return max_norm > 0 && norm > max_norm ? max_norm / norm : 1.0;
}

}  // namespace reformer::inline REFORMER_ABI
