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
#include "reformer/training/state.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// Sum of squares of elements that are side by side.
template <typename Scalar>
double squares_of(const Scalar* x, Index n) {
  const auto squares = static_cast<double>(simd::dot(n, x, x));
  if (std::isfinite(squares)) return squares;
  double sum = 0;  // finite gradients may have squares that float cannot hold
  for (Index i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

/// Sums of g^2 over pieces of a gradient of one size, whose sum has the same bits for any number of
/// threads. Slices that begin at a multiple of `optimizer_block` have the sums that all has there.
template <typename Scalar>
std::vector<double> block_squares(Workspace& workspace, const Parameter<Scalar>& p,
                                  const Slice& slice) {
  std::vector<double> partial;
  if (p.reached) {
    const auto& rows = p.reached->list();
    partial.resize(rows.size());
    for_each_row_tile(workspace.threads(), static_cast<Index>(rows.size()),
                      [&](Index first, Index count, int) {
                        for (auto i = static_cast<std::size_t>(first);
                             i < static_cast<std::size_t>(first + count); ++i) {
                          partial[i] = squares_of(&p.gradient(rows[i], 0), p.gradient.cols());
                        }
                      });
  } else {
    constexpr Index block = optimizer_block;
    partial.resize(static_cast<std::size_t>(ceil_div(slice.size(), block)));
    parallel_for(workspace.threads(), static_cast<Index>(partial.size()), [&](Index task, int) {
      const Index begin = slice.begin + task * block;
      partial[static_cast<std::size_t>(task)] =
          squares_of(p.gradient.data() + begin, std::min(block, slice.end - begin));
    });
  }
  return partial;
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template REFORMER_EXPORT std::vector<double> block_squares<float>(Workspace&,
                                                                         const Parameter<float>&,
                                                                         const Slice&);
#endif
}  // namespace detail

/// sqrt(sum of squares of all gradients), those of frozen parameters apart; the same bits for any
/// number of threads. Infinite or not a number if a gradient is.
/// @throw std::invalid_argument if a parameter has no gradient
template <typename Model>
double global_gradient_norm(Workspace& workspace, Model& model) {
  detail::check_for_use("global_gradient_norm", workspace);
  detail::check_gradients("global_gradient_norm", model);
  double total = 0;
  model.for_each_parameter([&](const auto& p) {
    if (p.is_frozen) return;
    for (const double sum : detail::block_squares(workspace, p, {0, p.size()})) total += sum;
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
