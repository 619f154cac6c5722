// SPDX-License-Identifier: MIT
/// @file
/// What stands around attention in its branch: layer norm, projections of queries, keys and values,
/// and the projection of the output; for a group of heads, forward and backward.
///
///     q, k, v = LN(x) W_q, LN(x) W_k, LN(x) W_v,   f = dropout(out W_o)
///
/// | name          | shape         |                                                 |
/// |---------------|---------------|-------------------------------------------------|
/// | x, f          | [B*T, D]      |                                                 |
/// | W_q, W_v      | [D, H*K]      |                                                 |
/// | W_k           | [D, H'*K]     | of the H' heads whose keys are not their queries |
/// | W_o           | [H*K, D]      |                                                 |
/// | q, k, v, out  | [rows, G*K]   | of a group of G heads and some sequences        |
///
/// Each function takes its scratch from the workspace of its pass, or, where that is a plan, only
/// counts it.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>

#include "reformer/attention/config.hpp"
#include "reformer/attention/head_group.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/layer_norm.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Queries, keys and values of a group, `[rows, G*K]` each.
template <typename Scalar>
struct QueryKeyValue {
  MatrixView<Scalar> query, key, value;  // key is query when they are shared
};

/// Layer norm and weights of a self-attention branch.
/// @tparam Kernel  of the products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
class AttentionProjections {
 public:
  /// Weights to queries, keys (unless none has its own) and values in the form that products read.
  struct Packed {
    const PackedWeight<Kernel>& query;
    const PackedWeight<Kernel>* key;
    const PackedWeight<Kernel>& value;
  };

  AttentionProjections(const std::string& name, const SelfAttentionConfig& config)
      : width_(config.width),
        head_width_(config.head_width),
        dropout_(config.dropout),
        num_heads_(config.num_heads),
        pattern_(config.pattern),
        norm_(name + ".layer_norm", width_, config.layer_norm_epsilon),
        query_(name + (has_keys() ? ".query.weight" : ".query_key.weight"), Role::weight, width_,
               config.num_heads * head_width_),
        key_(name + ".key.weight", Role::weight, has_keys() ? width_ : 0,
             first_key_column(config.num_heads)),
        value_(name + ".value.weight", Role::weight, width_, config.num_heads * head_width_),
        output_(name + ".output.weight", Role::weight, config.num_heads * head_width_, width_) {}

  /// Whether some heads have keys that are not their queries.
  bool has_keys() const { return first_key_column(num_heads_) > 0; }
  /// The first column of W_k, and of keys, of these heads.
  Index first_key_column(Index first_head) const {
    return heads_with_keys(pattern_, num_heads_, first_head) * head_width_;
  }
  const Parameter<Scalar>& query() const { return query_; }
  const Parameter<Scalar>& key() const { return key_; }
  const Parameter<Scalar>& value() const { return value_; }
  const Parameter<Scalar>& output() const { return output_; }

  /// q, k, v = LN(x) W_q, LN(x) W_k, LN(x) W_v of the group's heads
  template <typename Half>
  void forward(const Half& x, const HeadGroup& group, const QueryKeyValue<Scalar>& out,
               const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const auto pack = [&](const Parameter<Scalar>& weight) {
      return PackedWeight<Kernel>(scratch, pass.workspace, columns_of(weight, group), natural,
                                  pass.precision);
    };
    const PackedWeight<Kernel> to_query = pack(query_), to_value = pack(value_);
    std::optional<PackedWeight<Kernel>> to_key;
    if (has_keys(group)) to_key = pack(key_);
    forward(x, group, {to_query, to_key ? &*to_key : nullptr, to_value}, out, pass);
  }
  /// The same with weights that are packed.
  template <typename Half>
  void forward(const Half& x, const HeadGroup& group, const Packed& to,
               const QueryKeyValue<Scalar>& out, const Pass& pass) const {
    const auto norm = [&](Index row, const MatrixView<Scalar>& tile) {
      norm_.forward(x, group.first_row() + row, tile, pass);
    };
    const Index rows = out.query.rows;
    if (to.key != nullptr) {
      weight_products<Kernel>(pass.workspace, rows, width_, norm,
                              {{to.query.whole(), out.query},
                               {to.key->whole(), out.key},
                               {to.value.whole(), out.value}});
    } else {
      weight_products<Kernel>(pass.workspace, rows, width_, norm,
                              {{to.query.whole(), out.query}, {to.value.whole(), out.value}});
    }
  }

  /// Gradients of the weights and the layer norm, and dx += ..., by those of q, k and v.
  template <typename Half>
  void backward(const Half& x, const HeadGroup& group, const QueryKeyValue<Scalar>& d,
                const MatrixView<Scalar>& dx, const Pass& pass) {
    auto& workspace = pass.workspace;
    Scratch scratch(workspace);
    const auto pack = [&](const Parameter<Scalar>& weight) {
      return PackedWeight<Kernel>(scratch, workspace, columns_of(weight, group), transposed,
                                  pass.precision);
    };
    const PackedWeight<Kernel> from_query = pack(query_), from_value = pack(value_);
    std::optional<PackedWeight<Kernel>> from_key;
    if (has_keys(group)) from_key = pack(key_);
    const Index panel = std::min(panel_rows, d.query.rows);
    const auto normed_panel = scratch.matrix<Scalar>(panel, width_);
    const auto gradient_of = [&](Parameter<Scalar>& weight) -> MatrixView<Scalar> {
      return gradient_in(workspace, weight)
          .middle_columns(first_column(weight, group), d.query.columns);
    };
    for_each_panel(workspace, d.query.rows, panel, [&](Index first, Index rows) {
      const Index first_row = group.first_row() + first;
      const auto normed = normed_panel.middle_rows(0, rows);
      for_each_row_tile(workspace, rows, [&](Index row, Index count, int) {
        norm_.forward(x, first_row + row, normed.middle_rows(row, count), pass);
      });
      const MatrixView<const Scalar> dq = d.query.middle_rows(first, rows);
      const MatrixView<const Scalar> dk = d.key.middle_rows(first, rows);
      const MatrixView<const Scalar> dv = d.value.middle_rows(first, rows);
      accumulate_weight_gradient<Kernel>(workspace, pass.precision, normed, dq,
                                         gradient_of(query_));
      if (from_key)
        accumulate_weight_gradient<Kernel>(workspace, pass.precision, normed, dk,
                                           gradient_of(key_));
      accumulate_weight_gradient<Kernel>(workspace, pass.precision, normed, dv,
                                         gradient_of(value_));
      // dLN = dq W_q^T + dk W_k^T + dv W_v^T, in place of LN(x), which is not needed any more
      const auto dnormed = normed;
      const auto add = [&](std::initializer_list<WeightTerm<Kernel>> terms) {
        weight_product(workspace, terms, dnormed, Write::assign, [](const auto&...) {});
      };
      if (from_key) {
        add({{dq, from_query.whole()}, {dk, from_key->whole()}, {dv, from_value.whole()}});
      } else {
        add({{dq, from_query.whole()}, {dv, from_value.whole()}});
      }
      norm_.backward(x, first_row, dnormed, dx, pass);
    });
  }

  /// y +-= dropout(out W_o) of the group's heads
  template <typename Half>
  void add_output(const MatrixView<const Scalar>& out, const HeadGroup& group, Sign sign, Half& y,
                  const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const PackedWeight<Kernel> to_output(scratch, pass.workspace, output_rows(group), natural,
                                         pass.precision);
    add_output(out, group, to_output, sign, y, pass);
  }
  /// The same with a weight that is packed.
  template <typename Half>
  void add_output(const MatrixView<const Scalar>& out, const HeadGroup& group,
                  const PackedWeight<Kernel>& to_output, Sign sign, Half& y,
                  const Pass& pass) const {
    const auto dropout = dropout_of(pass);
    weight_product_tiles<Kernel>(pass.workspace, out, to_output.whole(), 1,
                                 [&](const MatrixView<Scalar>& tile, Index row, Index column) {
                                   const Index first = group.first_row() + row;
                                   dropout.apply_tile(tile, first, column, width_);
                                   for (Index i = 0; i < tile.rows; ++i) {
                                     accumulate(y, sign, first + i, column, tile.columns,
                                                tile.row(i));
                                   }
                                 });
  }

  /// Gradient of `add_output`: dW_o += out^T df, delta = <dout, out>, dout = df W_o^T.
  /// @param dy     `[B*T, D]`
  /// @param delta  `[B, G, T]` of the group, written
  /// @param dout   written; may be `out`
  void output_backward(const MatrixView<const Scalar>& out, const HeadGroup& group,
                       const MatrixView<const Scalar>& dy, Scalar* delta,
                       const MatrixView<Scalar>& dout, const Pass& pass) {
    auto& workspace = pass.workspace;
    Scratch scratch(workspace);
    const PackedWeight<Kernel> from_output(scratch, workspace, output_rows(group), transposed,
                                           pass.precision);
    const Index K = head_width_, T = pass.length;
    const Index panel = std::min(panel_rows, out.rows);
    const auto dropout = dropout_of(pass);
    const auto dropped =
        dropout.active() ? scratch.matrix<Scalar>(panel, width_) : MatrixView<Scalar>{};
    const auto dweight =
        gradient_in(workspace, output_).middle_rows(group.first_head * K, group.heads * K);

    for_each_panel(workspace, out.rows, panel, [&](Index first, Index rows) {
      const auto out_rows = out.middle_rows(first, rows);
      const auto df = dropped_rows(workspace, dy.middle_rows(group.first_row() + first, rows),
                                   dropout, group.first_row() + first, dropped);
      accumulate_weight_gradient<Kernel>(workspace, pass.precision, out_rows, df, dweight);
      weight_product_tiles<Kernel>(
          workspace, df, from_output.whole(), K,
          [&](const MatrixView<Scalar>& tile, Index row, Index column) {
            for (Index i = 0; i < tile.rows; ++i) {
              const Index t = first + row + i;  // row of the group
              const Scalar* of_out = out_rows.row(row + i) + column;
              for (Index k = 0; k < tile.columns; k += K) {
                delta[(t / T * group.heads + (column + k) / K) * T + t % T] =
                    simd::dot(K, tile.row(i) + k, of_out + k);
              }
              std::copy_n(tile.row(i), tile.columns, dout.row(t) + column);
            }
          });
    });
  }

  /// Multiply-adds for each row of the output projection.
  double output_work() const {
    return static_cast<double>(output_.value.rows()) * static_cast<double>(width_);
  }

  template <typename Self, typename F>
  static void visit_parameters(Self& self, F& f) {
    self.norm_.for_each_parameter(f);
    f(self.query_);
    if (self.has_keys()) f(self.key_);
    f(self.value_);
    f(self.output_);
  }

 private:
  static constexpr auto natural = Orientation::natural;
  static constexpr auto transposed = Orientation::transposed;
  static constexpr Index panel_rows = 512;

  /// Whether the group's keys are not its queries: all of them or none.
  bool has_keys(const HeadGroup& group) const {
    return first_key_column(group.first_head + 1) > first_key_column(group.first_head);
  }
  /// Of the group, in the weight to queries, keys or values.
  Index first_column(const Parameter<Scalar>& weight, const HeadGroup& group) const {
    return &weight == &key_ ? first_key_column(group.first_head) : group.first_head * head_width_;
  }

  Dropout<Scalar> dropout_of(const Pass& pass) const {
    return {pass.dropout(dropout_), pass.key, Purpose::branch_dropout};
  }
  MatrixView<const Scalar> columns_of(const Parameter<Scalar>& weight,
                                      const HeadGroup& group) const {
    return rows_of(weight.value)
        .middle_columns(first_column(weight, group), group.heads * head_width_);
  }
  MatrixView<const Scalar> output_rows(const HeadGroup& group) const {
    return rows_of(output_.value)
        .middle_rows(group.first_head * head_width_, group.heads * head_width_);
  }

  Index width_, head_width_;
  double dropout_;
  Index num_heads_;
  LayerPattern pattern_;  // of which it matters who shares queries and keys
  LayerNorm<Scalar> norm_;
  Parameter<Scalar> query_, key_, value_, output_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
