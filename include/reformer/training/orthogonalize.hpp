// SPDX-License-Identifier: MIT
/// @file
/// The nearest matrix with orthonormal rows or columns, roughly, by products alone.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/precision.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/packed_weight.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// In double, whose range is that of squares of floats.
template <typename Scalar>
double sum_of_squares(const MatrixView<Scalar>& g) {
  constexpr Index lanes = 8;  // sums that do not wait for each other
  std::array<double, lanes> sums{};
  for (Index i = 0; i < g.rows; ++i) {
    const Scalar* row = g.row(i);
    Index j = 0;
    for (; j + lanes <= g.columns; j += lanes) {
      for (Index k = 0; k < lanes; ++k) {
        const auto value = static_cast<double>(row[j + k]);
        sums[static_cast<std::size_t>(k)] += value * value;
      }
    }
    for (; j < g.columns; ++j) sums[0] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
  }
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

/// Newton-Schulz iteration of Muon (Jordan et al., 2024): X = G / |G|, then five times
///
///     A = X^T X,   X = X (a I + b A + c A A),   (a, b, c) = (3.4445, -4.7750, 2.0315)
///
/// where X has at least as many rows as columns; of a wide matrix it is the transpose. A and its
/// polynomial are symmetric, and half of them is computed. Singular vectors stay, and singular
/// values come to lie between about 0.7 and 1.2, those below about 1e-3 of |G| apart: the
/// polynomial is chosen for a steep slope at 0, not to converge to 1. The same bits for any number
/// of threads.
/// @param g  `[rows, columns]`, overwritten; zero stays zero, and what is not finite gives NaN
/// @param precision  of the products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
void orthogonalize(Workspace& workspace, const MatrixView<Scalar>& g,
                   Precision precision = Precision::float32) {
  constexpr Scalar a = Scalar(3.4445), b = Scalar(-4.7750), c = Scalar(2.0315);
  const bool is_wide = g.rows < g.columns;
  const Index large = std::max(g.rows, g.columns), small = std::min(g.rows, g.columns);
  Scratch scratch(workspace);
  auto x = scratch.matrix<Scalar>(large, small), next = scratch.matrix<Scalar>(large, small);
  const auto gram = scratch.matrix<Scalar>(small, small);
  const auto polynomial = scratch.matrix<Scalar>(small, small);

  // Added to keep zero from being divided by zero.
  const double scale = workspace.only_plans() ? 0 : 1 / (std::sqrt(sum_of_squares(g)) + 1e-30);
  for_each_row_tile(workspace, large, [&](Index first, Index count, int) {
    for (Index i = first; i < first + count; ++i) {
      for (Index j = 0; j < small; ++j) {
        x(i, j) = static_cast<Scalar>(static_cast<double>(is_wide ? g(j, i) : g(i, j)) * scale);
      }
    }
  });
  for (int step = 0; step < 5; ++step) {
    symmetric_product<Kernel>(workspace, precision, x, gram, [](const auto&...) {});
    symmetric_product<Kernel>(
        workspace, precision, gram, polynomial, [&](const MatrixView<Scalar>& tile, Index column) {
          for (Index i = 0; i < tile.rows; ++i) {
            simd::combine(tile.columns, b, gram.row(i) + column, c, tile.row(i), tile.row(i));
          }
          for (Index j = 0; j < tile.columns; ++j) tile(column + j, j) += a;
        });
    Scratch inner(workspace);
    const PackedWeight<Kernel> packed(inner, workspace, polynomial, Orientation::natural,
                                      precision);
    weight_product<Kernel>(workspace, x, packed.whole(), next, Write::assign,
                           [](const auto&...) {});
    std::swap(x, next);
  }
  for_each_row_tile(workspace, g.rows, [&](Index first, Index count, int) {
    for (Index i = first; i < first + count; ++i) {
      for (Index j = 0; j < g.columns; ++j) g(i, j) = is_wide ? x(j, i) : x(i, j);
    }
  });
}

}  // namespace reformer::inline REFORMER_ABI::detail
