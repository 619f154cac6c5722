// SPDX-License-Identifier: MIT
/// @file
/// The nearest matrix with orthonormal rows or columns, roughly, by products alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/packed_weight.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Newton-Schulz iteration of Muon (Jordan et al., 2024): X = G / |G|, then five times
///
///     A = X^T X,   X = X (a I + b A + c A A),   (a, b, c) = (3.4445, -4.7750, 2.0315)
///
/// where X has at least as many rows as columns; of a wide matrix it is the transpose. Singular
/// vectors stay, and singular values come to lie between about 0.7 and 1.2, those below about 1e-3
/// of |G| apart: the polynomial is chosen for a steep slope at 0, not to converge to 1. The same
/// bits for any number of threads.
/// @param g  `[rows, columns]`, overwritten; zero stays zero, and what is not finite gives NaN
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
void orthogonalize(Workspace& workspace, const MatrixView<Scalar>& g) {
  constexpr Scalar a = Scalar(3.4445), b = Scalar(-4.7750), c = Scalar(2.0315);
  const bool is_wide = g.rows < g.columns;
  const Index large = std::max(g.rows, g.columns), small = std::min(g.rows, g.columns);
  Scratch scratch(workspace);
  auto x = scratch.matrix<Scalar>(large, small), next = scratch.matrix<Scalar>(large, small);
  const auto gram = scratch.matrix<Scalar>(small, small);
  const auto polynomial = scratch.matrix<Scalar>(small, small);
  const auto square = [&] {
    accumulate_weight_gradient<Kernel>(workspace, Precision::float32, x, x, gram);
  };
  const auto multiply = [&](const MatrixView<const Scalar>& left, const auto& right,
                            const MatrixView<Scalar>& product) {
    Scratch inner(workspace);
    const PackedWeight<Kernel> packed(inner, workspace, right, Orientation::natural,
                                      Precision::float32);
    weight_product<Kernel>(workspace, left, packed.whole(), product, Write::assign,
                           [](const auto&...) {});
  };
  if (workspace.only_plans()) {
    square();
    multiply(gram, gram, polynomial);
    multiply(x, polynomial, next);
    return;
  }

  double squares = 0;
  for (Index i = 0; i < g.rows; ++i) {
    for (Index j = 0; j < g.columns; ++j) {
      squares += static_cast<double>(g(i, j)) * static_cast<double>(g(i, j));
    }
  }
  // Added to keep zero from being divided by zero.
  const double scale = 1 / (std::sqrt(squares) + 1e-30);
  for (Index i = 0; i < large; ++i) {
    for (Index j = 0; j < small; ++j) {
      x(i, j) = static_cast<Scalar>(static_cast<double>(is_wide ? g(j, i) : g(i, j)) * scale);
    }
  }
  for (int step = 0; step < 5; ++step) {
    for (Index i = 0; i < small; ++i) std::fill_n(gram.row(i), small, Scalar(0));
    square();
    multiply(gram, gram, polynomial);
    for (Index i = 0; i < small; ++i) {
      simd::combine(small, b, gram.row(i), c, polynomial.row(i), polynomial.row(i));
      polynomial(i, i) += a;
    }
    multiply(x, polynomial, next);
    std::swap(x, next);
  }
  for (Index i = 0; i < large; ++i) {
    for (Index j = 0; j < small; ++j) (is_wide ? g(j, i) : g(i, j)) = x(i, j);
  }
}

}  // namespace reformer::inline REFORMER_ABI::detail
