// SPDX-License-Identifier: MIT
#include "naive.hpp"

#include <cmath>
#include <limits>

#include "reformer/attention/kernel.hpp"
#include "support/naive_attention.hpp"

namespace reformer::bench::naive {
namespace {

template <typename Scalar>
Matrix<Scalar> column_sums(const Matrix<Scalar>& x) {
  return x.colwise().sum();
}

/// (x - mean) / sqrt(var + epsilon) of each row, and 1 / sqrt(var + epsilon).
template <typename Scalar>
struct Normalised {
  Matrix<Scalar> z, inverse;

  explicit Normalised(const Matrix<Scalar>& x) {
    z = x.colwise() - x.rowwise().mean();
    inverse = (z.array().square().rowwise().mean() + static_cast<Scalar>(epsilon)).rsqrt();
    z.array().colwise() *= inverse.col(0).array();
  }
};

/// exp(l - max) / sum of each row.
template <typename Scalar>
Matrix<Scalar> softmax(const Matrix<Scalar>& logits) {
  Matrix<Scalar> p = (logits.colwise() - logits.rowwise().maxCoeff()).array().exp();
  p.array().colwise() /= p.rowwise().sum().eval().array();
  return p;
}

/// -log p[label], mean over rows.
template <typename Scalar>
Scalar mean_loss(const Matrix<Scalar>& p, const std::vector<std::int32_t>& labels) {
  Scalar sum = 0;
  for (Index i = 0; i < p.rows(); ++i) {
    sum -= std::log(p(i, labels[static_cast<std::size_t>(i)]));
  }
  return sum / static_cast<Scalar>(p.rows());
}

}  // namespace

template <typename Scalar>
Matrix<Scalar> product(const Matrix<Scalar>& a, const Matrix<Scalar>& b) {
  return a * b;
}

template <typename Scalar>
ProductGradients<Scalar> product_backward(const Matrix<Scalar>& x, const Matrix<Scalar>& weight,
                                          const Matrix<Scalar>& dy) {
  return {dy * weight.transpose(), x.transpose() * dy};
}

template <typename Scalar>
Matrix<Scalar> layer_norm(const Matrix<Scalar>& x, const Matrix<Scalar>& scale,
                          const Matrix<Scalar>& bias) {
  Matrix<Scalar> y = Normalised<Scalar>(x).z;
  y.array().rowwise() *= scale.row(0).array();
  y.rowwise() += bias.row(0);
  return y;
}

template <typename Scalar>
LayerNormGradients<Scalar> layer_norm_backward(const Matrix<Scalar>& x, const Matrix<Scalar>& scale,
                                               const Matrix<Scalar>& dy) {
  const Normalised<Scalar> n(x);
  Matrix<Scalar> g = dy;
  g.array().rowwise() *= scale.row(0).array();
  const Matrix<Scalar> mean_g = g.rowwise().mean();
  const Matrix<Scalar> mean_gz = g.cwiseProduct(n.z).rowwise().mean();
  Matrix<Scalar> dx = g.colwise() - mean_g.col(0);
  dx.array() -= n.z.array().colwise() * mean_gz.col(0).array();
  dx.array().colwise() *= n.inverse.col(0).array();
  return {dx, column_sums<Scalar>(dy.cwiseProduct(n.z)), column_sums(dy)};
}

template <typename Scalar>
Matrix<Scalar> FeedForward<Scalar>::operator()(const Matrix<Scalar>& x) const {
  Matrix<Scalar> hidden = layer_norm(x, scale, bias) * weight_in;
  hidden.rowwise() += bias_in.row(0);
  hidden = hidden.cwiseMax(Scalar(0));
  Matrix<Scalar> y = hidden * weight_out;
  y.rowwise() += bias_out.row(0);
  return y;
}

template <typename Scalar>
typename FeedForward<Scalar>::Gradients FeedForward<Scalar>::backward(
    const Matrix<Scalar>& x, const Matrix<Scalar>& dy) const {
  const Matrix<Scalar> normed = layer_norm(x, scale, bias);
  Matrix<Scalar> hidden = normed * weight_in;
  hidden.rowwise() += bias_in.row(0);
  const Matrix<Scalar> slope = (hidden.array() > Scalar(0)).template cast<Scalar>();
  hidden = hidden.cwiseMax(Scalar(0));
  const Matrix<Scalar> dhidden = (dy * weight_out.transpose()).cwiseProduct(slope);
  const Matrix<Scalar> dnormed = dhidden * weight_in.transpose();
  const auto norm = layer_norm_backward(x, scale, dnormed);
  Matrix<Scalar> y = hidden * weight_out;
  y.rowwise() += bias_out.row(0);
  return {y,
          norm.dx,
          norm.dscale,
          norm.dbias,
          normed.transpose() * dhidden,
          column_sums(dhidden),
          hidden.transpose() * dy,
          column_sums(dy)};
}

template <typename Scalar>
Matrix<Scalar> Attention<Scalar>::key_scale(const Matrix<Scalar>& key) const {
  const auto width = static_cast<Scalar>(key.cols());
  if (!shared) return Matrix<Scalar>::Constant(key.rows(), 1, 1 / std::sqrt(width));
  return (key.rowwise().squaredNorm().array() + width * static_cast<Scalar>(detail::key_epsilon))
      .rsqrt();
}

template <typename Scalar>
Matrix<Scalar> Attention<Scalar>::carried(const Matrix<Scalar>& value) const {
  if (!following) return value;
  Matrix<Scalar> result = of_own * value;
  result.topRows(value.rows() - 1) += of_next * value.bottomRows(value.rows() - 1);
  return result;
}

template <typename Scalar>
Matrix<Scalar> Attention<Scalar>::weights(const Matrix<Scalar>& query,
                                          const Matrix<Scalar>& key) const {
  const Index T = query.rows();
  Matrix<Scalar> score = query * key.transpose();
  score.array().rowwise() *= key_scale(key).col(0).transpose().array();
  if (shared) score.diagonal().setConstant(static_cast<Scalar>(detail::self_score));
  for (Index i = 0; i < T; ++i) {
    for (Index j = 0; j < T; ++j) {
      if (counts(i, j) == 0 || (causal && j > i) || (following && j == i)) {
        score(i, j) = -std::numeric_limits<Scalar>::infinity();
      }
    }
  }
  // A row that sees nothing stays zero.
  const Matrix<Scalar> most =
      score.rowwise().maxCoeff().cwiseMax(std::numeric_limits<Scalar>::lowest());
  Matrix<Scalar> p = (score.colwise() - most.col(0)).array().exp() * counts.array();
  p.array().colwise() /=
      p.rowwise().sum().cwiseMax(std::numeric_limits<Scalar>::min()).eval().array();
  return p;
}

template <typename Scalar>
typename Attention<Scalar>::Gradients Attention<Scalar>::backward(
    const Matrix<Scalar>& query, const Matrix<Scalar>& key, const Matrix<Scalar>& value,
    const Matrix<Scalar>& dout) const {
  const Matrix<Scalar> p = weights(query, key), c = key_scale(key);
  const Matrix<Scalar> out = p * carried(value);
  const Matrix<Scalar> delta = dout.cwiseProduct(out).rowwise().sum();
  Matrix<Scalar> dscore = dout * carried(value).transpose();
  dscore.colwise() -= delta.col(0);
  dscore.array() *= p.array();
  if (shared) dscore.diagonal().setZero();  // that score is a constant
  const auto scaled = [&](Matrix<Scalar> x) {
    x.array().colwise() *= c.col(0).array();
    return x;
  };
  Matrix<Scalar> dvalue = p.transpose() * dout;
  if (following) {  // also what the key before carried
    const Matrix<Scalar> of_keys = dvalue;
    dvalue = of_own * of_keys;
    dvalue.bottomRows(dvalue.rows() - 1) += of_next * of_keys.topRows(of_keys.rows() - 1);
  }
  Gradients gradients{out, dscore * scaled(key), scaled(dscore.transpose() * query), dvalue};
  if (shared) {  // through the length of the key, to which queries are not scaled
    Matrix<Scalar> score = query * key.transpose();
    score.array().rowwise() *= c.col(0).transpose().array();
    const Matrix<Scalar> along =
        dscore.cwiseProduct(score).colwise().sum().transpose().array() * c.array().square();
    Matrix<Scalar> part = key;
    part.array().colwise() *= along.col(0).array();
    gradients.dquery += gradients.dkey - part;
    gradients.dkey.resize(0, 0);
  }
  return gradients;
}

Matrix<double> counts_of(const AttentionPattern& pattern, Index length, const Bucket* buckets) {
  std::vector<std::vector<Bucket>> rounds;
  if (const auto* lsh = test::naive::hashed(pattern, length)) {
    for (Index r = 0; r < lsh->num_hashes; ++r) {
      rounds.emplace_back(buckets + r * length, buckets + (r + 1) * length);
    }
  }
  return test::naive::pattern_counts(pattern, length, {}, rounds);
}

namespace {

/// Rows scaled to a length, which is divided by their own.
template <typename Scalar>
Matrix<Scalar> scaled_to(Scalar length, const Matrix<Scalar>& x) {
  const auto epsilon = static_cast<Scalar>(x.cols()) * Scalar(1e-6);
  const Matrix<Scalar> factors = length / (x.rowwise().squaredNorm().array() + epsilon).sqrt();
  return factors.col(0).asDiagonal() * x;
}

/// The gradient by x of what `scaled_to` gives, from that by what it gave.
template <typename Scalar>
Matrix<Scalar> scaled_to_backward(Scalar length, const Matrix<Scalar>& x, const Matrix<Scalar>& g) {
  Matrix<Scalar> dx = scaled_to(length, x);
  for (Index i = 0; i < x.rows(); ++i) {
    const Scalar square = x.row(i).squaredNorm() + static_cast<Scalar>(x.cols()) * Scalar(1e-6);
    dx.row(i) =
        (g.row(i) - g.row(i).dot(x.row(i)) / square * x.row(i)) * length / std::sqrt(square);
  }
  return dx;
}

}  // namespace

template <typename Scalar>
Matrix<Scalar> SelfAttention<Scalar>::operator()(const Matrix<Scalar>& x) const {
  const Matrix<Scalar> normed = layer_norm(x, scale, bias);
  const Matrix<Scalar> q = normed * query, v = normed * value;
  const Matrix<Scalar> k = key.size() > 0 ? normed * key : q;
  const Index K = q.cols() / heads;
  Matrix<Scalar> out(q.rows(), q.cols());
  for (Index h = 0; h < heads; ++h) {
    const Attention<Scalar>& head = attention[static_cast<std::size_t>(h)];
    Matrix<Scalar> of_query = q.middleCols(h * K, K), of_key = k.middleCols(h * K, K);
    if (temperature.size() > 0) {
      of_query = scaled_to(temperature(0, h), of_query);
      of_key = key.size() > 0 ? scaled_to(std::sqrt(static_cast<Scalar>(K)), of_key) : of_query;
    }
    out.middleCols(h * K, K) =
        head.weights(of_query, of_key) * head.carried(v.middleCols(h * K, K));
  }
  return out * output;
}

template <typename Scalar>
typename SelfAttention<Scalar>::Gradients SelfAttention<Scalar>::backward(
    const Matrix<Scalar>& x, const Matrix<Scalar>& dy) const {
  const Matrix<Scalar> normed = layer_norm(x, scale, bias);
  const bool separate = key.size() > 0;
  const Matrix<Scalar> q = normed * query, v = normed * value;
  const Matrix<Scalar> k = separate ? normed * key : q;
  const Matrix<Scalar> dout = dy * output.transpose();
  const Index K = q.cols() / heads;
  Matrix<Scalar> out(q.rows(), q.cols()), dq(q.rows(), q.cols()), dk(q.rows(), q.cols()),
      dv(q.rows(), q.cols()), dtemperature = Matrix<Scalar>::Zero(1, heads);
  for (Index h = 0; h < heads; ++h) {
    const auto part = [&](const Matrix<Scalar>& m) -> Matrix<Scalar> {
      return m.middleCols(h * K, K);
    };
    const auto& head = attention[static_cast<std::size_t>(h)];
    const Scalar length_of_keys = std::sqrt(static_cast<Scalar>(K));
    Matrix<Scalar> of_query = part(q), of_key = part(k);
    if (temperature.size() > 0) {
      of_query = scaled_to(temperature(0, h), of_query);
      of_key = separate ? scaled_to(length_of_keys, of_key) : of_query;
    }
    auto gradients = head.backward(of_query, of_key, part(v), part(dout));
    if (temperature.size() > 0) {
      dtemperature(0, h) = gradients.dquery.cwiseProduct(scaled_to(Scalar(1), part(q))).sum();
      gradients.dquery = scaled_to_backward(temperature(0, h), part(q), gradients.dquery);
      if (separate) {
        gradients.dkey = scaled_to_backward(length_of_keys, part(k), gradients.dkey);
      }
    }
    out.middleCols(h * K, K) = gradients.out;
    dq.middleCols(h * K, K) = gradients.dquery;
    if (separate) dk.middleCols(h * K, K) = gradients.dkey;
    dv.middleCols(h * K, K) = gradients.dvalue;
  }
  Matrix<Scalar> dnormed = dq * query.transpose() + dv * value.transpose();
  Matrix<Scalar> dkey;
  if (separate) {
    dnormed += dk * key.transpose();
    dkey = normed.transpose() * dk;
  }
  return {out * output,
          layer_norm_backward(x, scale, dnormed).dx,
          normed.transpose() * dq,
          dkey,
          normed.transpose() * dv,
          out.transpose() * dy,
          dtemperature};
}

template <typename Scalar>
Scalar Head<Scalar>::loss(const Matrix<Scalar>& x, const std::vector<std::int32_t>& labels) const {
  Matrix<Scalar> logits = layer_norm(x, scale, bias) * weight;
  logits.rowwise() += bias_out.row(0);
  return mean_loss(softmax(logits), labels);
}

template <typename Scalar>
typename Head<Scalar>::Gradients Head<Scalar>::backward(
    const Matrix<Scalar>& x, const std::vector<std::int32_t>& labels) const {
  const Matrix<Scalar> normed = layer_norm(x, scale, bias);
  Matrix<Scalar> logits = normed * weight;
  logits.rowwise() += bias_out.row(0);
  Matrix<Scalar> dlogits = softmax(logits);
  const Scalar loss = mean_loss(dlogits, labels);
  for (Index i = 0; i < x.rows(); ++i) dlogits(i, labels[static_cast<std::size_t>(i)]) -= 1;
  dlogits /= static_cast<Scalar>(x.rows());
  const Matrix<Scalar> dnormed = dlogits * weight.transpose();
  return {loss, layer_norm_backward(x, scale, dnormed).dx, normed.transpose() * dlogits,
          column_sums(dlogits)};
}

#define REFORMER_INSTANTIATE(Scalar)                                                               \
  template Matrix<Scalar> product(const Matrix<Scalar>&, const Matrix<Scalar>&);                   \
  template ProductGradients<Scalar> product_backward(const Matrix<Scalar>&, const Matrix<Scalar>&, \
                                                     const Matrix<Scalar>&);                       \
  template Matrix<Scalar> layer_norm(const Matrix<Scalar>&, const Matrix<Scalar>&,                 \
                                     const Matrix<Scalar>&);                                       \
  template LayerNormGradients<Scalar> layer_norm_backward(                                         \
      const Matrix<Scalar>&, const Matrix<Scalar>&, const Matrix<Scalar>&);                        \
  template struct FeedForward<Scalar>;                                                             \
  template struct Attention<Scalar>;                                                               \
  template struct SelfAttention<Scalar>;                                                           \
  template struct Head<Scalar>;
REFORMER_INSTANTIATE(float)
REFORMER_INSTANTIATE(double)
#undef REFORMER_INSTANTIATE

}  // namespace reformer::bench::naive
