// SPDX-License-Identifier: MIT
/// @file
/// A learned mixture of own and following values: the key of token s carries, for each head h,
///
///     u_s = a_h v_s + b_h v_next(s)
///
/// KV shifting attention (arXiv 2411.19574) has the same for ordinary attention. Where keys carry
/// the values of what followed (following.hpp), it is enough to mix each value with the one before
/// it,
///
///     w_t = b_h v_t + a_h v_prev(t),   prev(t): the last real token before t
///
/// because u_s = w_next(s). Without a token before, w_t = b_h v_t, which no query sees.
///
/// Backward:  dv_t = b_h dw_t + a_h dw_next(t),
///            da_h += sum_t <dw_t, v_prev(t)>,   db_h += sum_t <dw_t, v_t>
#pragma once

#include <algorithm>
#include <string>

#include "reformer/attention/multi_head.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// The mixture of the heads of a layer: a in the first row of the parameter, b in the second,
/// `[2, H]`. Columns of heads whose values are not mixed are not read.
template <typename Scalar>
class ValueMixture {
 public:
  /// Zero until initialised. With a = 0, b = 1, which `Model::initialize` sets, values are
  /// following ones; with a = 1, b = 0 they are own ones.
  ValueMixture(const std::string& name, Index heads) : weight_(name, Role::mixture, 2, heads) {}

  Parameter<Scalar>& parameter() { return weight_; }
  const Parameter<Scalar>& parameter() const { return weight_; }

  /// w = b v + a v_prev of one token and head; `previous` may be null.
  void mix(Index head, Index head_width, const Scalar* value, const Scalar* previous,
           Scalar* mixed) const {
    const Scalar a = weight_.value(0, head), b = weight_.value(1, head);
    if (previous == nullptr) {
      simd::map(head_width, value, mixed,
                [&](const auto& v) { return simd::packet::pmul(simd::set(b), v); });
    } else {
      simd::combine(head_width, b, value, a, previous, mixed);
    }
  }

  /// Mixes the values of a group, both `[B*T, H*K]`. Rows of padding are copied.
  void forward(Workspace& workspace, const MultiHead<Scalar>& group,
               const MatrixView<const Scalar>& value, const MatrixView<Scalar>& mixed) const {
    const Index K = group.head_width;
    for_each_tile(workspace, group, [&](Index, Index first, Index last, Index begin, Index) {
      Index previous = last_real_before(group, first, begin);
      for (Index row = first; row < last; ++row) {
        if (!is_real_row(group.is_real, row)) {
          simd::copy(value.columns, value.row(row), mixed.row(row));
          continue;
        }
        for (Index h = 0; h < group.heads; ++h) {
          mix(group.first_head + h, K, value.row(row) + h * K,
              previous < begin ? nullptr : value.row(previous) + h * K, mixed.row(row) + h * K);
        }
        previous = row;
      }
    });
  }

  /// Adds the gradients of a and b to the parameter's, and overwrites the values of a group by
  /// their gradients, which are zero at padding.
  /// @param dmixed  `[B*T, H*K]`, gradients by what `forward` gave
  /// @param value   `[B*T, H*K]`, what `forward` was given
  void backward(Workspace& workspace, const MultiHead<Scalar>& group,
                const MatrixView<const Scalar>& dmixed, const MatrixView<Scalar>& value) {
    const Index K = group.head_width;
    Scratch scratch(workspace);
    // Each tile sums by itself, and tiles are added in their order: the same for any threads.
    auto* sums = scratch.take<double>(num_tiles(group.batch, group.length()) * 2 * group.heads);
    for_each_tile(workspace, group, [&](Index tile, Index first, Index last, Index begin, Index) {
      double* sum = sums + tile * 2 * group.heads;
      std::fill_n(sum, 2 * group.heads, 0.0);
      Index previous = last_real_before(group, first, begin);
      for (Index row = first; row < last; ++row) {
        if (!is_real_row(group.is_real, row)) continue;
        for (Index h = 0; h < group.heads; ++h) {
          const Scalar* d = dmixed.row(row) + h * K;
          if (previous >= begin) sum[2 * h] += simd::dot(K, d, value.row(previous) + h * K);
          sum[2 * h + 1] += simd::dot(K, d, value.row(row) + h * K);
        }
        previous = row;
      }
    });
    for (Index h = 0; !workspace.only_plans() && h < group.heads; ++h) {
      double a = 0, b = 0;
      for (Index tile = 0; tile < num_tiles(group.batch, group.length()); ++tile) {
        a += sums[(tile * group.heads + h) * 2];
        b += sums[(tile * group.heads + h) * 2 + 1];
      }
      weight_.gradient(0, group.first_head + h) += static_cast<Scalar>(a);
      weight_.gradient(1, group.first_head + h) += static_cast<Scalar>(b);
    }
    for_each_tile(workspace, group, [&](Index, Index first, Index last, Index, Index end) {
      Index next = last;
      while (next < end && !is_real_row(group.is_real, next)) ++next;
      for (Index row = last - 1; row >= first; --row) {
        if (!is_real_row(group.is_real, row)) {
          std::fill_n(value.row(row), value.columns, Scalar(0));
          continue;
        }
        for (Index h = 0; h < group.heads; ++h) {
          const Scalar a = weight_.value(0, group.first_head + h);
          const Scalar b = weight_.value(1, group.first_head + h);
          const Scalar* d = dmixed.row(row) + h * K;
          Scalar* dvalue = value.row(row) + h * K;
          if (next < end) {
            simd::combine(K, b, d, a, dmixed.row(next) + h * K, dvalue);
          } else {
            simd::map(K, d, dvalue,
                      [&](const auto& x) { return simd::packet::pmul(simd::set(b), x); });
          }
        }
        next = row;
      }
    });
  }

 private:
  static constexpr Index tile_tokens = 256;

  static Index num_tiles(Index batch, Index length) {
    return batch * ceil_div(length, tile_tokens);
  }
  /// The row of the last real token before `row` of a sequence that begins at `begin`, or one
  /// before that.
  static Index last_real_before(const MultiHead<Scalar>& group, Index row, Index begin) {
    do {
      --row;
    } while (row >= begin && !is_real_row(group.is_real, row));
    return row;
  }

  /// Calls `body(tile, first, last, begin, end)` for tiles of rows [first, last) of sequences
  /// [begin, end).
  template <typename Body>
  static void for_each_tile(Workspace& workspace, const MultiHead<Scalar>& group,
                            const Body& body) {
    const Index each = ceil_div(group.length(), tile_tokens);
    parallel_for(workspace, group.batch * each, [&](Index tile, int) {
      const Index begin = tile / each * group.length(), end = begin + group.length();
      const Index first = begin + tile % each * tile_tokens;
      body(tile, first, std::min(first + tile_tokens, end), begin, end);
    });
  }

  Parameter<Scalar> weight_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
