// SPDX-License-Identifier: MIT
/// @file
/// Scores that compare directions alone, with a learned temperature for each head h:
///
///     s_ij = tau_h <q_i, k_j> / (|q_i| |k_j|),   |x| = sqrt(sum_k x_k^2 + K e),   e = 1e-6
///
/// Keys of hashed attention are unit vectors anyhow (paper, section 2); here the length of a query
/// does not matter either, as it does not matter to its bucket. Query-key normalisation is from
/// Henry et al. (arXiv 2010.04245).
///
/// The kernel scales keys by 1/|k_j| where they are queries, and by 1/sqrt(K) where they are not
/// (kernel.hpp). So it is enough to give it other vectors:
///
///     q'_i = tau_h q_i / |q_i|,   and k'_j = sqrt(K) k_j / |k_j|, unless keys are queries
///
/// Backward, with g = dq' and c = 1/|q|, and likewise for keys with sqrt(K) in place of tau:
///
///     dq = tau c (g - c^2 <q, g> q),   dtau += sum_i c_i <q_i, g_i>
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "reformer/attention/multi_head.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Scales queries and keys so that the kernel's scores are cosines times a temperature, which is
/// the parameter, `[1, H]`. Columns of heads whose scores are no cosines are not read.
template <typename Scalar>
class CosineScores {
 public:
  /// Zero until initialised.
  CosineScores(const std::string& name, Index heads, Index head_width)
      : head_width_(head_width), temperature_(name, Role::temperature, 1, heads) {}

  Parameter<Scalar>& parameter() { return temperature_; }
  const Parameter<Scalar>& parameter() const { return temperature_; }

  /// Queries of heads from `first_head` on, scaled, both `[rows, G*K]`.
  void scale_queries(Workspace& workspace, Index first_head, const MatrixView<const Scalar>& query,
                     const MatrixView<Scalar>& scaled) const {
    scale(workspace, query, scaled, [&](Index h) { return temperature_.value(0, first_head + h); });
  }
  /// The same of keys that are not queries.
  void scale_keys(Workspace& workspace, const MatrixView<const Scalar>& key,
                  const MatrixView<Scalar>& scaled) const {
    scale(workspace, key, scaled, [&](Index) { return of_keys(); });
  }

  /// Gradients by the scaled queries become those by the queries, and dtau is added to the
  /// parameter's gradient.
  void backward_queries(Workspace& workspace, Index first_head,
                        const MatrixView<const Scalar>& query, const MatrixView<Scalar>& dquery) {
    const Index heads = query.columns / head_width_, tiles = ceil_div(query.rows, tile_tokens);
    Scratch scratch(workspace);
    // Each tile sums by itself, and tiles are added in their order: the same for any threads.
    auto* sums = scratch.take<double>(tiles * heads);
    for_each_tile(workspace, query.rows, [&](Index tile, Index first, Index last) {
      std::fill_n(sums + tile * heads, heads, 0.0);
      for (Index row = first; row < last; ++row) {
        for (Index h = 0; h < heads; ++h) {
          sums[tile * heads + h] +=
              backward_row(temperature_.value(0, first_head + h), query.row(row) + h * head_width_,
                           dquery.row(row) + h * head_width_);
        }
      }
    });
    for (Index h = 0; !workspace.only_plans() && h < heads; ++h) {
      double sum = 0;
      for (Index tile = 0; tile < tiles; ++tile) sum += sums[tile * heads + h];
      temperature_.gradient(0, first_head + h) += static_cast<Scalar>(sum);
    }
  }
  /// The same of keys that are not queries.
  void backward_keys(Workspace& workspace, const MatrixView<const Scalar>& key,
                     const MatrixView<Scalar>& dkey) const {
    for_each_tile(workspace, key.rows, [&](Index, Index first, Index last) {
      for (Index row = first; row < last; ++row) {
        for (Index k = 0; k < key.columns; k += head_width_) {
          backward_row(of_keys(), key.row(row) + k, dkey.row(row) + k);
        }
      }
    });
  }

 private:
  static constexpr Index tile_tokens = 256;

  Scalar of_keys() const { return std::sqrt(static_cast<Scalar>(head_width_)); }

  template <typename Body>
  static void for_each_tile(Workspace& workspace, Index rows, const Body& body) {
    parallel_for(workspace, ceil_div(rows, tile_tokens), [&](Index tile, int) {
      const Index first = tile * tile_tokens;
      body(tile, first, std::min(first + tile_tokens, rows));
    });
  }

  /// @param length_of  of the scaled vectors of head h of the group
  template <typename LengthOf>
  void scale(Workspace& workspace, const MatrixView<const Scalar>& x,
             const MatrixView<Scalar>& scaled, const LengthOf& length_of) const {
    for_each_tile(workspace, x.rows, [&](Index, Index first, Index last) {
      for (Index row = first; row < last; ++row) {
        for (Index h = 0; h < x.columns / head_width_; ++h) {
          const Scalar* from = x.row(row) + h * head_width_;
          const auto factor = simd::set(length_of(h) * key_scale_of(head_width_, from));
          simd::map(head_width_, from, scaled.row(row) + h * head_width_,
                    [&](const auto& v) { return simd::packet::pmul(factor, v); });
        }
      }
    });
  }

  /// g becomes length c (g - c^2 <x, g> x).
  /// @return c <x, g>
  Scalar backward_row(Scalar length, const Scalar* x, Scalar* g) const {
    const Scalar c = key_scale_of(head_width_, x);
    const Scalar along = c * simd::dot(head_width_, x, g);
    simd::combine(head_width_, length * c, g, -length * c * c * along, x, g);
    return along;
  }

  Index head_width_;
  Parameter<Scalar> temperature_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
