// SPDX-License-Identifier: MIT
/// @file
/// The operations as their formulas stand, on whole arrays with Eigen's own products: `[B*T, F]`
/// and `[T, T]` arrays and all. In double precision results are verified against them; in single
/// precision they are the naive rows of the tables, on as many threads as Eigen uses.
///
/// x is `[B*T, D]`. A backward pass contains the forward pass, whose results it needs.
#pragma once

#include <reformer/attention/pattern.hpp>
#include <reformer/foundation/tensor.hpp>
#include <vector>

namespace reformer::bench::naive {

template <typename Scalar>
Matrix<Scalar> product(const Matrix<Scalar>& a, const Matrix<Scalar>& b);

/// dx and dW of x W.
template <typename Scalar>
struct ProductGradients {
  Matrix<Scalar> dx, dweight;
};
template <typename Scalar>
ProductGradients<Scalar> product_backward(const Matrix<Scalar>& x, const Matrix<Scalar>& weight,
                                          const Matrix<Scalar>& dy);

inline constexpr double epsilon = 1e-12;  ///< of layer norms

template <typename Scalar>
Matrix<Scalar> layer_norm(const Matrix<Scalar>& x, const Matrix<Scalar>& scale,
                          const Matrix<Scalar>& bias);

template <typename Scalar>
struct LayerNormGradients {
  Matrix<Scalar> dx, dscale, dbias;
};
template <typename Scalar>
LayerNormGradients<Scalar> layer_norm_backward(const Matrix<Scalar>& x, const Matrix<Scalar>& scale,
                                               const Matrix<Scalar>& dy);

/// Feed-forward with relu.
template <typename Scalar>
struct FeedForward {
  Matrix<Scalar> scale, bias, weight_in, bias_in, weight_out, bias_out;

  Matrix<Scalar> operator()(const Matrix<Scalar>& x) const;

  struct Gradients {
    Matrix<Scalar> y, dx, dscale, dbias, dweight_in, dbias_in, dweight_out, dbias_out;
  };
  Gradients backward(const Matrix<Scalar>& x, const Matrix<Scalar>& dy) const;
};

/// Attention of one head `[T, K]`, with its weights `[T, T]`.
/// @param counts  `[T, T]`: how often a query sees a key; see tests/support/naive_attention.hpp
template <typename Scalar>
struct Attention {
  bool causal = true;
  bool shared = false;  ///< queries are keys
  Matrix<Scalar> counts;
  bool following = false;  ///< a key carries of_own its value + of_next that of the next token
  Scalar of_own = 0, of_next = 1;

  /// What keys carry.
  Matrix<Scalar> carried(const Matrix<Scalar>& value) const;
  Matrix<Scalar> weights(const Matrix<Scalar>& query, const Matrix<Scalar>& key) const;

  struct Gradients {
    Matrix<Scalar> out, dquery, dkey, dvalue;  ///< dquery of both when they are shared
  };
  Gradients backward(const Matrix<Scalar>& query, const Matrix<Scalar>& key,
                     const Matrix<Scalar>& value, const Matrix<Scalar>& dout) const;

 private:
  Matrix<Scalar> key_scale(const Matrix<Scalar>& key) const;
};

/// What a pattern shows to each query of a sequence.
/// @param buckets  `[R, T]` of a hashed pattern
Matrix<double> counts_of(const AttentionPattern& pattern, Index length, const Bucket* buckets);

/// The self-attention branch of one sequence.
template <typename Scalar>
struct SelfAttention {
  Index heads = 1;
  std::vector<Attention<Scalar>> attention;  ///< of each head
  Matrix<Scalar> scale, bias, query, key, value, output;
  Matrix<Scalar> temperature;  ///< `[1, H]`, if scores are cosines, else empty

  Matrix<Scalar> operator()(const Matrix<Scalar>& x) const;

  struct Gradients {
    Matrix<Scalar> y, dx, dquery, dkey, dvalue, doutput, dtemperature;
  };
  Gradients backward(const Matrix<Scalar>& x, const Matrix<Scalar>& dy) const;
};

/// Mean cross-entropy of the head over z = LN([x_1, x_2]), logits z W + b.
template <typename Scalar>
struct Head {
  Matrix<Scalar> scale, bias, weight, bias_out;

  Scalar loss(const Matrix<Scalar>& x, const std::vector<std::int32_t>& labels) const;

  struct Gradients {
    Scalar loss;
    Matrix<Scalar> dx, dweight, dbias_out;
  };
  Gradients backward(const Matrix<Scalar>& x, const std::vector<std::int32_t>& labels) const;
};

}  // namespace reformer::bench::naive
