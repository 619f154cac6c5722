// SPDX-License-Identifier: MIT
/// @file
/// A half of the residual stream: what branches read, and add themselves to.
#pragma once

#include <concepts>

#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer {

/// A half of the residual stream, `[B*T, D]`, behind three operations on a run of elements of one
/// row.
template <typename Half>
concept ResidualHalf = requires(const Half& constant, Half& half, typename Half::Scalar* out,
                                const typename Half::Scalar* in, Index i) {
  { constant.rows() } -> std::convertible_to<Index>;
  { constant.columns() } -> std::convertible_to<Index>;
  constant.read(i, i, i, out);
  half.add(i, i, i, in);
  half.subtract(i, i, i, in);
};

/// A half held as plain floating point. Reversal, `(x + f) - f`, gives x back up to rounding.
template <typename Scalar_>
class FloatHalf {
 public:
  using Scalar = Scalar_;

  FloatHalf() = default;
  FloatHalf(Index rows, Index columns) : values_(Matrix<Scalar>::Zero(rows, columns)) {}

  /// Elements are undefined afterwards; memory is kept when the size is the same.
  void resize(Index rows, Index columns) { values_.resize(rows, columns); }

  Index rows() const { return values_.rows(); }
  Index columns() const { return values_.cols(); }

  /// out[j] = element (row, column + j), j < count
  void read(Index row, Index column, Index count, Scalar* out) const {
    std::copy_n(&values_(row, column), count, out);
  }
  /// element (row, column + j) += f[j]
  void add(Index row, Index column, Index count, const Scalar* f) {
    simd::add(count, f, &values_(row, column));
  }
  /// element (row, column + j) -= f[j]
  void subtract(Index row, Index column, Index count, const Scalar* f) {
    simd::subtract(count, f, &values_(row, column));
  }
  /// element (row, column + j) = x[j]
  void write(Index row, Index column, Index count, const Scalar* x) {
    std::copy_n(x, count, &values_(row, column));
  }

 private:
  Matrix<Scalar> values_;
};

}  // namespace reformer
