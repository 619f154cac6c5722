// SPDX-License-Identifier: MIT
/// @file
/// Bucketing and attention as functions on tensors, without projections: for programs that have
/// their own layers. The heads of a call are of one kind; where those of a layer differ, each kind
/// is a call.
///
/// | name              | shape        |                                     |
/// |-------------------|--------------|-------------------------------------|
/// | query, key, value | [B, T, H, K] | for shared patterns query is the key |
/// | out               | [B, T, H, K] |                                     |
/// | buckets           | [B, H, R, T] | of hashed attention                 |
/// | rotations         | [H, K, R, columns] | see hashing.hpp               |
#pragma once

#include "reformer/attention/following.hpp"
#include "reformer/attention/hashing.hpp"
#include "reformer/attention/multi_head.hpp"
#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/check_shape.hpp"
#include "reformer/foundation/pass.hpp"

namespace reformer::inline REFORMER_ABI {

struct AttentionOptions {
  AttentionPattern pattern = LshPattern{};
  bool causal = true;
  double dropout = 0;                          ///< of the attention weights
  RandomKey key = {};                          ///< of dropout
  std::span<const std::uint8_t> is_real = {};  ///< `[B*T]`, 0 for padding; empty: all real
  Precision precision = Precision::float32;    ///< of the products; those of doubles are in double
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
  detail::check_pattern(function, pattern);
  check_pass(function, Pass{workspace, B, T, {}, false, is_real});
  check_at_least(function, "heads", H, 1);
  check_at_least(function, "head width", K, 1);
  const auto factors = bucket_factors(pattern, T);
  check_shape(function, "rotations", rotations,
              {"heads", "head width", "num_hashes", "half the sum of num_buckets"},
              {H, K, pattern.num_hashes, rotation_columns(factors)});
  Tensor<Bucket, 4> buckets(B, H, pattern.num_hashes, T);
  detail::hash_heads<Scalar>(
      workspace, {x.data(), B * T, H * K}, B, H, is_real,
      {rotations.data(), H * K, pattern.num_hashes * rotation_columns(factors)}, factors,
      buckets.data());
  return buckets;
}

namespace detail {

/// A tensor `[B, T, H, K]` as a matrix `[B*T, H*K]`.
template <typename Scalar>
MatrixView<Scalar> side_by_side(Tensor<Scalar, 4>& x) {
  return {x.data(), x.dimension(0) * x.dimension(1), x.dimension(2) * x.dimension(3)};
}
template <typename Scalar>
MatrixView<const Scalar> side_by_side(const Tensor<Scalar, 4>& x) {
  return {x.data(), x.dimension(0) * x.dimension(1), x.dimension(2) * x.dimension(3)};
}

template <typename Scalar>
void copy_rows(Workspace& workspace, const MatrixView<const Scalar>& from,
               const MatrixView<Scalar>& to) {
  for_each_row_tile(workspace.threads(), from.rows, [&](Index first, Index count, int) {
    for (Index i = first; i < first + count; ++i) {
      simd::copy(from.columns, from.row(i), to.row(i));
    }
  });
}

/// A group's part of the tensors. Attention takes rows of a head in any order; where they are far
/// apart, because other heads lie between them, it works on copies.
template <typename Scalar>
class TensorGroup {
 public:
  TensorGroup(Workspace& workspace, const HeadGroup& group, Index head_width)
      : workspace_(workspace),
        scratch_(workspace),
        group_(group),
        first_column_(group.first_head * head_width),
        columns_(group.heads * head_width) {}

  template <typename Element>
  MatrixView<Element> part(const MatrixView<Element>& x) const {
    return x.middle_rows(group_.first_row(), group_.rows()).middle_columns(first_column_, columns_);
  }
  /// A part to read.
  MatrixView<const Scalar> input(const Tensor<Scalar, 4>& x) {
    const auto there = part(side_by_side(x));
    if (there.columns == there.stride) return there;
    const auto copy = scratch_.matrix<Scalar>(there.rows, there.columns);
    copy_rows<Scalar>(workspace_, there, copy);
    return copy;
  }
  /// A place to write; `store` brings it to the tensor.
  MatrixView<Scalar> output(Tensor<Scalar, 4>& x) {
    const auto there = part(side_by_side(x));
    return there.columns == there.stride ? there
                                         : scratch_.matrix<Scalar>(there.rows, there.columns);
  }
  void store(const MatrixView<Scalar>& values, Tensor<Scalar, 4>& x) {
    const auto there = part(side_by_side(x));
    if (there.data != values.data) copy_rows<Scalar>(workspace_, values, there);
  }

  /// Values as keys carry them.
  MatrixView<const Scalar> carried(const Tensor<Scalar, 4>& value,
                                   const MultiHead<Scalar>& arrays) {
    if (!arrays.layout->carries_next()) return input(value);
    const CarriedValues<Scalar> values(scratch_, *arrays.layout, group_.rows(), columns_);
    copy_rows<Scalar>(workspace_, part(side_by_side(value)), values.of_tokens());
    values.carry(workspace_, arrays);
    return values.of_keys();
  }
  /// A place for gradients by values; `store` brings those of tokens to the tensor.
  CarriedValues<Scalar> carried_output(Tensor<Scalar, 4>& dvalue, const AttentionLayout& layout) {
    if (!layout.carries_next()) return CarriedValues<Scalar>(output(dvalue));
    return CarriedValues<Scalar>(scratch_, layout, group_.rows(), columns_);
  }

  /// Inputs and statistics of the group, with the order of hashed attention.
  MultiHead<Scalar> heads(const Tensor<Scalar, 4>& query, const Tensor<Scalar, 4>& key,
                          const Tensor<Scalar, 4>& value, const AttentionLayout& layout,
                          std::span<const std::uint8_t> is_real, const Tensor<Bucket, 4>& buckets,
                          AttentionOutput<Scalar>& output) {
    const Index T = group_.length, all_heads = query.dimension(2);
    const Index first = group_.first_sequence * all_heads + group_.first_head;
    auto arrays = without_arrays<Scalar>(group_, layout, all_heads, query.dimension(3), is_real);
    arrays.query = input(query);
    arrays.key = layout.shared ? arrays.query : input(key);
    arrays.value = carried(value, arrays);
    arrays.maximum = output.maximum.data() + first * T;
    arrays.normaliser = output.normaliser.data() + first * T;
    arrays.key_scale = output.key_scale.data() + first * T;
    if (layout.is_hashed) {
      arrays.order = scratch_.take<std::int32_t>(group_.batch * group_.heads * layout.order_size());
      order_by_bucket(workspace_, arrays, buckets.data() + first * layout.rounds * T);
    }
    return arrays;
  }

  /// delta `[B, H, T]` of the group: <dout, out>.
  Scalar* delta(const MatrixView<const Scalar>& dout, const MatrixView<const Scalar>& out) {
    const Index T = group_.length, H = group_.heads, K = columns_ / H;
    auto* result = scratch_.take<Scalar>(group_.rows() * H);
    for_each_row_tile(workspace_.threads(), out.rows, [&](Index first, Index count, int) {
      for (Index t = first; t < first + count; ++t) {
        for (Index h = 0; h < H; ++h) {
          result[(t / T * H + h) * T + t % T] =
              simd::dot(K, dout.row(t) + h * K, out.row(t) + h * K);
        }
      }
    });
    return result;
  }

 private:
  Workspace& workspace_;
  Scratch scratch_;
  HeadGroup group_;
  Index first_column_, columns_;
};

template <typename Scalar>
void check_like_query(std::string_view function, std::string_view name, const Tensor<Scalar, 4>& x,
                      const Tensor<Scalar, 4>& query) {
  check_shape(function, name, x, {"batch", "length", "heads", "head width"}, query.dimensions());
}

/// Throws unless `attention` can take these arguments.
/// @return the layout of the pass
template <typename Scalar>
AttentionLayout checked_layout(std::string_view function, Workspace& workspace,
                               const Tensor<Scalar, 4>& query, const Tensor<Scalar, 4>& key,
                               const Tensor<Scalar, 4>& value, const AttentionOptions& options,
                               const Tensor<Bucket, 4>& buckets) {
  check_pattern(function, options.pattern, options.causal);
  check(values_of(options.pattern) != Values::mixed, function,
        "values are mixed, which a layer learns; must be own or following");
  check(scores_of(options.pattern) == Scores::dot_product, function,
        "scores are cosines, whose temperature a layer learns; must be dot_product");
  check_equal(function, "rotary_width", rotary_width_of(options.pattern),
              "that of vectors which are rotated already,", 0);
  check_dropout(function, "dropout", options.dropout);
  check_precision<Scalar>(function, options.precision);
  check_pass(function, Pass{workspace, query.dimension(0), query.dimension(1), options.key, false,
                            options.is_real});
  check_sequence_length(function, query.dimension(1));
  check_at_least(function, "heads", query.dimension(2), 1);
  check_at_least(function, "head width", query.dimension(3), 1);
  check_like_query(function, "key", key, query);
  check_like_query(function, "value", value, query);
  check(!shares_query_key(options.pattern) || query.data() == key.data(), function,
        "query and key are two tensors, but the pattern shares them: pass one as both");
  const Index B = query.dimension(0), T = query.dimension(1), H = query.dimension(2);
  AttentionLayout layout(options.pattern, options.causal, T, options.is_real);
  if (layout.is_hashed) {
    check_shape(function, "buckets", buckets, {"batch", "heads", "num_hashes", "length"},
                {B, H, layout.rounds, T});
    check_bucket_ids(function, workspace, B, T, num_buckets(layout.bucket_factors), options.is_real,
                     buckets.data(), buckets.size());
  }
  return layout;
}

/// Throws unless the output is that of a call with these arguments, as far as its shapes say.
template <typename Scalar>
void check_output(std::string_view function, const Tensor<Scalar, 4>& query,
                  const AttentionOutput<Scalar>& output) {
  const Index B = query.dimension(0), T = query.dimension(1), H = query.dimension(2);
  check_like_query(function, "output.out", output.out, query);
  const auto check_statistic = [&](std::string_view name, const Tensor<Scalar, 3>& statistic) {
    check_shape(function, name, statistic, {"batch", "heads", "length"}, {B, H, T});
  };
  check_statistic("output.maximum", output.maximum);
  check_statistic("output.normaliser", output.normaliser);
  check_statistic("output.key_scale", output.key_scale);
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
  const detail::AttentionLayout layout =
      detail::checked_layout("attention", workspace, query, key, value, options, buckets);
  const Index B = query.dimension(0), T = query.dimension(1), H = query.dimension(2),
              K = query.dimension(3);
  AttentionOutput<Scalar> output{Tensor<Scalar, 4>(query.dimensions()), Tensor<Scalar, 3>(B, H, T),
                                 Tensor<Scalar, 3>(B, H, T), Tensor<Scalar, 3>(B, H, T)};
  const Dropout<Scalar> dropout(options.dropout, options.key, Purpose::attention_dropout);
  detail::for_each_head_group<Scalar>(B, T, H, K, [&](const detail::HeadGroup& heads) {
    detail::TensorGroup<Scalar> group(workspace, heads, K);
    auto arrays = group.heads(query, key, value, layout, options.is_real, buckets, output);
    arrays.out = group.output(output.out);
    detail::attend(workspace, arrays, dropout, options.precision);
    group.store(arrays.out, output.out);
  });
  return output;
}

/// Gradients of `attention`.
/// @param output  what `attention` returned for the same arguments
/// @param dout    `[B, T, H, K]`
/// @throw std::invalid_argument as `attention`, and for an output of another shape
template <typename Scalar>
AttentionGradients<Scalar> attention_backward(Workspace& workspace, const Tensor<Scalar, 4>& query,
                                              const Tensor<Scalar, 4>& key,
                                              const Tensor<Scalar, 4>& value,
                                              const AttentionOptions& options,
                                              const AttentionOutput<Scalar>& output,
                                              const Tensor<Scalar, 4>& dout,
                                              const Tensor<Bucket, 4>& buckets = {}) {
  const detail::AttentionLayout layout =
      detail::checked_layout("attention_backward", workspace, query, key, value, options, buckets);
  detail::check_like_query("attention_backward", "dout", dout, query);
  detail::check_output("attention_backward", query, output);
  const bool shared = layout.shared;
  AttentionGradients<Scalar> gradients{
      Tensor<Scalar, 4>(query.dimensions()), {}, Tensor<Scalar, 4>(query.dimensions())};
  if (!shared) gradients.dkey = Tensor<Scalar, 4>(query.dimensions());
  const Dropout<Scalar> dropout(options.dropout, options.key, Purpose::attention_dropout);
  const Index B = query.dimension(0), T = query.dimension(1), H = query.dimension(2),
              K = query.dimension(3);
  // A group can be written to, but the backward pass only reads output and statistics.
  auto& readable = const_cast<AttentionOutput<Scalar>&>(output);
  detail::for_each_head_group<Scalar>(B, T, H, K, [&](const detail::HeadGroup& heads) {
    detail::TensorGroup<Scalar> group(workspace, heads, K);
    auto arrays = group.heads(query, key, value, layout, options.is_real, buckets, readable);
    arrays.out = group.part(detail::side_by_side(readable.out));
    const auto dout_part = group.input(dout);
    const auto* delta = group.delta(dout_part, arrays.out);
    const auto dquery = group.output(gradients.dquery);
    const auto dkey = shared ? dquery : group.output(gradients.dkey);
    const auto dvalues = group.carried_output(gradients.dvalue, layout);
    detail::attend_backward<Scalar>(workspace, arrays, dropout, dout_part, delta, dquery, dkey,
                                    dvalues.of_keys(), options.precision);
    dvalues.carry_back(workspace, arrays);
    group.store(dquery, gradients.dquery);
    if (!shared) group.store(dkey, gradients.dkey);
    group.store(dvalues.of_tokens(), gradients.dvalue);
  });
  return gradients;
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template REFORMER_EXPORT Tensor<Bucket, 4> lsh_buckets<float>(Workspace&,
                                                                     const Tensor<float, 4>&,
                                                                     const LshPattern&,
                                                                     const Tensor<float, 4>&,
                                                                     std::span<const std::uint8_t>);
extern template REFORMER_EXPORT AttentionOutput<float> attention<float>(
    Workspace&, const Tensor<float, 4>&, const Tensor<float, 4>&, const Tensor<float, 4>&,
    const AttentionOptions&, const Tensor<Bucket, 4>&);
extern template REFORMER_EXPORT AttentionGradients<float> attention_backward<float>(
    Workspace&, const Tensor<float, 4>&, const Tensor<float, 4>&, const Tensor<float, 4>&,
    const AttentionOptions&, const AttentionOutput<float>&, const Tensor<float, 4>&,
    const Tensor<Bucket, 4>&);
#endif

}  // namespace reformer::inline REFORMER_ABI
