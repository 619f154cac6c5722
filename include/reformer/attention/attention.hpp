// SPDX-License-Identifier: MIT
/// @file
/// Bucketing and attention as functions on tensors, without projections: for programs that have
/// their own layers.
///
/// | name              | shape        |                                     |
/// |-------------------|--------------|-------------------------------------|
/// | query, key, value | [B, T, H, K] | for shared patterns query is the key |
/// | out               | [B, T, H, K] |                                     |
/// | buckets           | [B, H, R, T] | of hashed attention                 |
/// | rotations         | [H, K, R, columns] | see hashing.hpp               |
#pragma once

#include "reformer/attention/multi_head.hpp"
#include "reformer/foundation/pass.hpp"

namespace reformer {

struct AttentionOptions {
  AttentionPattern pattern = LshPattern{};
  bool causal = true;
  double dropout = 0;                          ///< of the attention weights
  RandomKey key = {};                          ///< of dropout
  std::span<const std::uint8_t> is_real = {};  ///< `[B*T]`, 0 for padding; empty: all real
};

/// What attention returns: the output, and what the backward pass needs.
template <typename Scalar>
struct AttentionOutput {
  Tensor<Scalar, 4> out;         ///< [B, T, H, K]
  Tensor<Scalar, 3> maximum;     ///< [B, H, T]: largest score m of each query
  Tensor<Scalar, 3> normaliser;  ///< [B, H, T]: 1 / l; weights are exp(s - m) / l
  Tensor<Scalar, 3> key_scale;   ///< [B, H, T]: c, when queries are keys
};

template <typename Scalar>
struct AttentionGradients {
  Tensor<Scalar, 4> dquery;  ///< [B, T, H, K]; of query and key together when they are shared
  Tensor<Scalar, 4> dkey;    ///< [B, T, H, K]; empty when they are shared
  Tensor<Scalar, 4> dvalue;  ///< [B, T, H, K]
};

/// Buckets `[B, H, R, T]` of vectors x `[B, T, H, K]`, the padding bucket for padding.
/// @throw std::invalid_argument if rotations do not fit x and the pattern's buckets
template <typename Scalar>
Tensor<Bucket, 4> lsh_buckets(Workspace& workspace, const Tensor<Scalar, 4>& x,
                              const LshPattern& pattern, const Tensor<Scalar, 4>& rotations,
                              std::span<const std::uint8_t> is_real = {}) {
  constexpr auto function = "lsh_buckets";
  const Index B = x.dimension(0), T = x.dimension(1), H = x.dimension(2), K = x.dimension(3);
  check_pattern(function, pattern);
  check_pass(function, Pass{workspace, B, T, {}, false, is_real});
  check_at_least(function, "heads", H, 1);
  check_at_least(function, "head width", K, 1);
  const auto factors = bucket_factors(pattern, T);
  check_equal(function, "rotations dimension 0", rotations.dimension(0), "heads", H);
  check_equal(function, "rotations dimension 1", rotations.dimension(1), "head width", K);
  check_equal(function, "rotations dimension 2", rotations.dimension(2), "num_hashes",
              pattern.num_hashes);
  check_equal(function, "rotations dimension 3", rotations.dimension(3),
              "half the sum of num_buckets", rotation_columns(factors));
  Tensor<Bucket, 4> buckets(B, H, pattern.num_hashes, T);
  hash_heads<Scalar>(workspace, {x.data(), B * T, H * K}, B, H, is_real,
                     {rotations.data(), H * K, pattern.num_hashes * rotation_columns(factors)},
                     factors, buckets.data());
  return buckets;
}

namespace detail {

/// Views of the tensors as a group of all heads and sequences, with the order of hashed attention
/// in `scratch`.
template <typename Scalar>
MultiHead<Scalar> group_of(Workspace& workspace, Scratch& scratch, const Tensor<Scalar, 4>& query,
                           const Tensor<Scalar, 4>& key, const Tensor<Scalar, 4>& value,
                           const AttentionOptions& options, const Tensor<Bucket, 4>& buckets,
                           AttentionOutput<Scalar>& output) {
  MultiHead<Scalar> group{};
  group.pattern = &options.pattern;
  group.batch = query.dimension(0);
  group.length = query.dimension(1);
  group.heads = group.all_heads = query.dimension(2);
  group.head_width = query.dimension(3);
  group.causal = options.causal;
  group.is_real = options.is_real;
  const Index rows = group.batch * group.length, width = group.heads * group.head_width;
  group.query = {query.data(), rows, width};
  group.key = {key.data(), rows, width};
  group.value = {value.data(), rows, width};
  group.out = {output.out.data(), rows, width};
  group.maximum = output.maximum.data();
  group.normaliser = output.normaliser.data();
  group.key_scale = output.key_scale.data();
  if (const auto* lsh = hashed(options.pattern, group.length)) {
    group.order = scratch.take<std::int32_t>(group.batch * group.heads *
                                             OrderLayout(options.pattern, group.length).size());
    order_by_bucket(workspace, group, num_sorted_buckets(*lsh, group.length), buckets.data());
  }
  return group;
}

template <typename Scalar>
void check_attention(std::string_view function, Workspace& workspace,
                     const Tensor<Scalar, 4>& query, const Tensor<Scalar, 4>& key,
                     const Tensor<Scalar, 4>& value, const AttentionOptions& options,
                     const Tensor<Bucket, 4>& buckets) {
  check_pattern(function, options.pattern);
  check_dropout(function, "dropout", options.dropout);
  check_pass(function,
             Pass{workspace, query.dimension(0), query.dimension(1), {}, false, options.is_real});
  check(query.dimension(1) < (Index{1} << 24), function, "length is ", query.dimension(1),
        ", must be less than 2^24");
  check_at_least(function, "heads", query.dimension(2), 1);
  check_at_least(function, "head width", query.dimension(3), 1);
  check(query.dimensions() == value.dimensions(), function,
        "value has another shape than query, both must be [B, T, H, K]");
  check(query.dimensions() == key.dimensions(), function,
        "key has another shape than query, both must be [B, T, H, K]");
  check(!shares_query_key(options.pattern) || query.data() == key.data(), function,
        "query and key are two tensors, but the pattern shares them: pass one as both");
  const auto* lsh = hashed(options.pattern, query.dimension(1));
  const Index ids = lsh != nullptr ? query.dimension(0) * query.dimension(1) * query.dimension(2) *
                                         lsh->num_hashes
                                   : 0;
  check(lsh == nullptr || buckets.size() == ids, function, "buckets has ", buckets.size(),
        " elements, must have B*H*R*T = ", ids);
  if (lsh != nullptr) {
    const Index T = query.dimension(1), n = num_buckets(bucket_factors(*lsh, T));
    for (Index i = 0; i < ids; ++i) {
      const Index id = buckets.data()[i], t = i % T;
      const bool real =
          options.is_real.empty() ||
          options.is_real[static_cast<std::size_t>(i / (ids / query.dimension(0)) * T + t)] != 0;
      check(real ? id < n : id == n, function, "bucket ", i, " is ", id, ", must be ",
            real ? "less than " : "the padding bucket ", n, real ? "" : " for padding");
    }
  }
}

}  // namespace detail

/// Attention by the pattern of the options; see kernel.hpp for the formula.
/// @param key      the same tensor as `query` for patterns that share them
/// @param buckets  of LSH attention, from `lsh_buckets`; ignored otherwise, and for sorted chunks
/// in sequences not longer than one
/// @throw std::invalid_argument for shapes, patterns or buckets that do not fit
template <typename Scalar>
AttentionOutput<Scalar> attention(Workspace& workspace, const Tensor<Scalar, 4>& query,
                                  const Tensor<Scalar, 4>& key, const Tensor<Scalar, 4>& value,
                                  const AttentionOptions& options,
                                  const Tensor<Bucket, 4>& buckets = {}) {
  detail::check_attention("attention", workspace, query, key, value, options, buckets);
  const Index B = query.dimension(0), T = query.dimension(1), H = query.dimension(2);
  AttentionOutput<Scalar> output{Tensor<Scalar, 4>(query.dimensions()), Tensor<Scalar, 3>(B, H, T),
                                 Tensor<Scalar, 3>(B, H, T), Tensor<Scalar, 3>(B, H, T)};
  Scratch scratch(workspace);
  const auto group =
      detail::group_of(workspace, scratch, query, key, value, options, buckets, output);
  attend(workspace, group, {options.dropout, options.key, Purpose::attention_dropout});
  return output;
}

/// Gradients of `attention`.
/// @param output  what `attention` returned for the same arguments
/// @param dout    `[B, T, H, K]`
template <typename Scalar>
AttentionGradients<Scalar> attention_backward(Workspace& workspace, const Tensor<Scalar, 4>& query,
                                              const Tensor<Scalar, 4>& key,
                                              const Tensor<Scalar, 4>& value,
                                              const AttentionOptions& options,
                                              const AttentionOutput<Scalar>& output,
                                              const Tensor<Scalar, 4>& dout,
                                              const Tensor<Bucket, 4>& buckets = {}) {
  detail::check_attention("attention_backward", workspace, query, key, value, options, buckets);
  check(dout.dimensions() == query.dimensions(), "attention_backward",
        "dout has another shape than query, both must be [B, T, H, K]");
  const bool shared = shares_query_key(options.pattern);
  AttentionGradients<Scalar> gradients{
      Tensor<Scalar, 4>(query.dimensions()), {}, Tensor<Scalar, 4>(query.dimensions())};
  if (!shared) gradients.dkey = Tensor<Scalar, 4>(query.dimensions());
  Scratch scratch(workspace);
  // A group can be written to, but the backward pass only reads it.
  auto& readable = const_cast<AttentionOutput<Scalar>&>(output);
  const auto group =
      detail::group_of(workspace, scratch, query, key, value, options, buckets, readable);
  const Index T = group.length, H = group.heads, K = group.head_width;
  auto* delta = scratch.take<Scalar>(group.batch * H * T);
  for (Index row = 0; row < group.out.rows; ++row) {
    for (Index h = 0; h < H; ++h) {
      delta[(row / T * H + h) * T + row % T] =
          simd::dot(K, group.out.row(row) + h * K, dout.data() + (row * H + h) * K);
    }
  }
  const auto matrix = [&](Tensor<Scalar, 4>& x) {
    return MatrixView<Scalar>(x.data(), group.out.rows, group.out.columns);
  };
  attend_backward<Scalar>(
      workspace, group, {options.dropout, options.key, Purpose::attention_dropout},
      {dout.data(), group.out.rows, group.out.columns}, delta, matrix(gradients.dquery),
      matrix(shared ? gradients.dquery : gradients.dkey), matrix(gradients.dvalue));
  return gradients;
}

}  // namespace reformer
