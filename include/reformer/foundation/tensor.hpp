// SPDX-License-Identifier: MIT
/// @file
/// Tensors at the interface, views inside.
///
/// Everything is row-major: the last axis is contiguous. Users pass `Tensor<Scalar, Rank>`; inside,
/// the same memory is seen as a matrix `[rows, columns]` through `MatrixView`, never copied.
#pragma once

// Also with -Ofast. Where the compiler says so (gcc does), -fassociative-math alone is refused,
// too: it changes the order of additions, on which reversal and equal bits for any number of
// threads rest.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "reformer: -ffast-math removes the detection of NaN and overflow, compile without it"
#endif

// gcc 12 takes the undefined operand inside its own AVX-512 intrinsics for a mistake (bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#include <unsupported/Eigen/CXX11/Tensor>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

static_assert(std::is_same_v<Index, Eigen::Index>);

/// Row-major tensor; the type of arguments and results in the public interface.
template <typename Scalar, int Rank>
using Tensor = Eigen::Tensor<Scalar, Rank, Eigen::RowMajor, Index>;

/// Token ids `[B, T]`.
using Tokens = Tensor<std::int32_t, 2>;

/// Row-major matrix that owns its memory.
template <typename Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Part of a row-major matrix that somebody else owns: element (i, j) is `data[i * stride + j]`.
/// `MatrixView<const Scalar>` is the read-only form.
template <typename Element>
struct MatrixView {
  Element* data = nullptr;
  Index rows = 0;
  Index columns = 0;
  Index stride = 0;

  MatrixView() = default;
  MatrixView(Element* data_, Index rows_, Index columns_, Index stride_)
      : data(data_), rows(rows_), columns(columns_), stride(stride_) {}
  MatrixView(Element* data_, Index rows_, Index columns_)
      : MatrixView(data_, rows_, columns_, columns_) {}

  Element* row(Index i) const { return data + i * stride; }
  Element& operator()(Index i, Index j) const { return data[i * stride + j]; }
  /// Parts of a view without memory, which plans have, have none either.
  MatrixView middle_rows(Index first, Index count) const {
    return {data == nullptr ? nullptr : row(first), count, columns, stride};
  }
  MatrixView middle_columns(Index first, Index count) const {
    return {data == nullptr ? nullptr : data + first, rows, count, stride};
  }
  operator MatrixView<const Element>() const requires(!std::is_const_v<Element>) {
    return {data, rows, columns, stride};
  }
};

/// A whole matrix as a view.
template <typename Scalar>
MatrixView<Scalar> rows_of(Matrix<Scalar>& matrix) {
  return {matrix.data(), matrix.rows(), matrix.cols()};
}
template <typename Scalar>
MatrixView<const Scalar> rows_of(const Matrix<Scalar>& matrix) {
  return {matrix.data(), matrix.rows(), matrix.cols()};
}

/// A tensor `[..., D]` as a matrix `[product of the other axes, D]`, without a copy.
template <typename Scalar, int Rank>
MatrixView<Scalar> rows_of(Tensor<Scalar, Rank>& tensor) {
  const Index columns = tensor.dimension(Rank - 1);
  return {tensor.data(), columns == 0 ? 0 : tensor.size() / columns, columns};
}
template <typename Scalar, int Rank>
MatrixView<const Scalar> rows_of(const Tensor<Scalar, Rank>& tensor) {
  const Index columns = tensor.dimension(Rank - 1);
  return {tensor.data(), columns == 0 ? 0 : tensor.size() / columns, columns};
}

namespace detail {
/// Whether a row is that of a real token.
/// @param is_real  `[rows]`, 0 for padding; empty: all are
inline bool is_real_row(std::span<const std::uint8_t> is_real, Index row) {
  return is_real.empty() || is_real[static_cast<std::size_t>(row)] != 0;
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
