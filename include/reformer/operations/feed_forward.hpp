// SPDX-License-Identifier: MIT
/// @file
/// The feed-forward branch, in chunks of positions (paper, section 3, Eq. (10)).
///
///     f(x) = dropout(act(dropout(LN(x) W_1 + b_1)) W_2 + b_2)
///
/// | name       | shape    |
/// |------------|----------|
/// | x, f(x)    | [B*T, D] |
/// | W_1, b_1   | [D, F], [F] |
/// | W_2, b_2   | [F, D], [D] |
///
/// The hidden array [B*T, F] never exists: a panel of rows is carried through both products, 512
/// hidden columns at a time, so that a block of it is still in cache when the second product reads
/// it. Work inside a panel is cut into tiles, so threads share it whatever its size; each weight
/// gradient is summed by the thread that owns the tile of it. Nothing is saved for the backward
/// pass.
#pragma once

#include <string_view>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/operations/activation.hpp"
#include "reformer/operations/bias.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/layer_norm.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI {

struct FeedForwardConfig {
  Index width = 256;          ///< D
  Index hidden_width = 1024;  ///< F
  Activation activation = Activation::relu;
  double dropout = 0;  ///< of the hidden array before the activation, and of the output
  double layer_norm_epsilon = 1e-12;
};

/// Throws `std::invalid_argument` for sizes out of range, an activation that is none, a dropout
/// outside [0, 1) or an epsilon out of range.
inline void check_config(std::string_view function, const FeedForwardConfig& config) {
  check_between(function, "width", config.width, 1, max_size);
  check_between(function, "hidden_width", config.hidden_width, 1, max_size);
  check_activation(function, config.activation);
  check_dropout(function, "dropout", config.dropout);
  check_layer_norm_epsilon(function, config.layer_norm_epsilon);
}

/// Feed-forward branch; satisfies `ReversibleBranch`.
/// @tparam Kernel  of its products
template <typename Scalar_, ProductKernel Kernel = DefaultKernel<Scalar_>>
class FeedForward {
 public:
  using Scalar = Scalar_;
  static constexpr std::string_view label = "feed-forward";
  struct Saved {};  // everything is recomputed
  /// What `prefill` and `decode` need; the weights are copied.
  struct Decoding {
    KeptWeight<Kernel> in, out;
  };

  /// Parameters are named `<name>.layer_norm.weight` and so on; weights are zero until initialised.
  FeedForward(const std::string& name, const FeedForwardConfig& config)
      : config_((check_config("FeedForward", config), config)),
        norm_(name + ".layer_norm", config.width, config.layer_norm_epsilon),
        weight_in_(name + ".dense.weight", Role::weight, config.width, config.hidden_width),
        bias_in_(name + ".dense.bias", Role::bias, 1, config.hidden_width),
        weight_out_(name + ".output.weight", Role::weight, config.hidden_width, config.width),
        bias_out_(name + ".output.bias", Role::bias, 1, config.width) {}

  const FeedForwardConfig& config() const { return config_; }

  /// Throws `std::invalid_argument` unless `forward` can take these arguments.
  template <ResidualHalf Half>
  void check_forward(const Half& x, const Half& y, const Saved&, const Pass& pass) const {
    check_rows("FeedForward::forward", x, y, pass);
  }

  /// y += f(x)
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit
  template <ResidualHalf Half>
  void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const {
    check_forward(x, y, saved, pass);
    Scratch scratch(pass.workspace);
    const PackedWeight<Kernel> in(scratch, pass.workspace, view(weight_in_.value), natural);
    const PackedWeight<Kernel> out(scratch, pass.workspace, view(weight_out_.value), natural);
    add_rows(x, y, in, out, pass);
  }

  Decoding decoding(const Pass& pass) const {
    return {{pass.workspace, view(weight_in_.value), natural},
            {pass.workspace, view(weight_out_.value), natural}};
  }

  /// Throws `std::invalid_argument` unless `decode` can take these arguments.
  template <ResidualHalf Half>
  void check_decode(const Half& x, const Half& y, const Decoding& decoding,
                    const Pass& pass) const {
    check_kept("FeedForward::decode", x, y, decoding, pass);
  }
  /// Throws `std::invalid_argument` unless `prefill` can take these arguments.
  template <ResidualHalf Half>
  void check_prefill(const Half& x, const Half& y, const Decoding& decoding,
                     const Pass& pass) const {
    check_kept("FeedForward::prefill", x, y, decoding, pass);
  }

  /// y += f(x) for prompts: the bits of `forward`.
  /// @throw std::invalid_argument as `forward`
  template <ResidualHalf Half>
  void prefill(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_prefill(x, y, decoding, pass);
    add_rows(x, y, decoding.in.packed(), decoding.out.packed(), pass);
  }

  /// y += f(x) for the next token of each sequence: the bits of `forward`.
  /// @throw std::invalid_argument as `forward`
  template <ResidualHalf Half>
  void decode(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_decode(x, y, decoding, pass);
    add_rows(x, y, decoding.in.packed(), decoding.out.packed(), pass);
  }

  /// Throws `std::invalid_argument` unless `reverse` can take these arguments.
  template <ResidualHalf Half>
  void check_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
                     const MatrixView<const Scalar>& dx, const Saved&, const Pass& pass) const {
    constexpr auto function = "FeedForward::reverse";
    check_rows(function, x, y, pass);
    check_equal(function, "rows of dy", dy.rows, "B*T", pass.rows());
    check_equal(function, "columns of dy", dy.columns, "width", config_.width);
    check_equal(function, "rows of dx", dx.rows, "B*T", pass.rows());
    check_equal(function, "columns of dx", dx.columns, "width", config_.width);
    check_gradients(function, *this);
  }

  /// y -= f(x) (unless the pass says that it need not), dx += (df/dx)^T dy, parameter gradients +=
  /// ...
  /// @param dy  finite, at padding too: a product of zero and NaN is not zero
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit and
  /// gradients that are not allocated
  template <ResidualHalf Half>
  void reverse(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
               const MatrixView<Scalar>& dx, const Saved& saved, const Pass& pass) {
    check_reverse(x, y, dy, dx, saved, pass);
    Workspace& workspace = pass.workspace;
    Scratch scratch(workspace);
    // One block of a weight at a time, packed again for each panel: that is little beside a product
    // with all its rows, and all of them would be most of the memory at short lengths.
    const auto with = [&](const MatrixView<const Scalar>& weight, Orientation orientation,
                          const auto& body) {
      Scratch memory(workspace);
      body(PackedWeight<Kernel>(memory, workspace, weight, orientation).whole());
    };
    const auto output_dropout = dropout(pass, Purpose::branch_dropout);
    const auto hidden_dropout = dropout(pass, Purpose::hidden_dropout);
    const Index D = config_.width;
    const Index panel = std::min(reverse_rows, pass.rows());
    const auto normed_panel = scratch.matrix<Scalar>(panel, D);
    const auto dnormed_panel = scratch.matrix<Scalar>(panel, D);
    const auto hidden_panel = scratch.matrix<Scalar>(panel, block_columns());
    const auto slope_panel = scratch.matrix<Scalar>(panel, block_columns());
    const auto sum_panel = pass.subtract ? scratch.matrix<Scalar>(panel, D) : MatrixView<Scalar>{};
    const auto dout_panel =
        output_dropout.active() ? scratch.matrix<Scalar>(panel, D) : MatrixView<Scalar>{};

    for (Index first = 0; first < pass.rows(); first += panel) {
      const Index rows = std::min(panel, pass.rows() - first);
      const auto normed = normed_panel.middle_rows(0, rows);
      const auto dnormed = dnormed_panel.middle_rows(0, rows);
      normalise(x, first, normed, pass);

      // f = dropout(h W_2 + b_2); without dropout the gradient is read where it is
      MatrixView<const Scalar> dout = dy.middle_rows(first, rows);
      if (output_dropout.active()) {
        for_each_row_tile(workspace.threads(), rows, [&](Index row, Index count, int) {
          const auto tile = dout_panel.middle_rows(row, count);
          for (Index i = 0; i < count; ++i) std::copy_n(dout.row(row + i), D, tile.row(i));
          output_dropout.apply_tile(tile, first + row, 0, D);
        });
        dout = dout_panel.middle_rows(0, rows);
      }
      accumulate_bias_gradient(workspace, dout, bias_out_.gradient.data());

      for_each_block(block_columns(), [&](Index column, Index count, Write write, bool is_last) {
        const auto hidden = hidden_panel.middle_rows(0, rows).middle_columns(0, count);
        const auto slope = slope_panel.middle_rows(0, rows).middle_columns(0, count);
        const auto in_value = view(std::as_const(weight_in_.value)).middle_columns(column, count);
        const auto out_value = view(std::as_const(weight_out_.value)).middle_rows(column, count);

        // The forward pass: the hidden values serve both to subtract and to differentiate.
        with(in_value, natural, [&](const WeightBlock<Kernel>& in) {
          hidden_layer(in, first, column, normed, hidden, slope, pass);
        });
        if (pass.subtract) {
          with(out_value, natural, [&](const WeightBlock<Kernel>& out) {
            add_output(out, first, hidden, sum_panel.middle_rows(0, rows), write, is_last,
                       Sign::minus, y, pass);
          });
        }
        accumulate_weight_gradient<Kernel>(workspace, hidden, dout,
                                           view(weight_out_.gradient).middle_rows(column, count));

        // h = act(u), u = dropout(LN(x) W_1 + b_1): du = act'(u) (df W_2^T), in place of h
        with(out_value, transposed, [&](const WeightBlock<Kernel>& out) {
          weight_product(
              workspace, dout, out, hidden, Write::assign,
              [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                for (Index r = 0; r < tile.rows; ++r) {
                  simd::update(
                      tile.columns, slope.row(i + r) + j, tile.row(r),
                      [](const auto& a, const auto& b) { return Eigen::internal::pmul(a, b); });
                }
                hidden_dropout.apply_tile(tile, first + i, column + j, config_.hidden_width);
              });
        });
        accumulate_bias_gradient<Scalar>(workspace, hidden, bias_in_.gradient.data() + column);
        accumulate_weight_gradient<Kernel>(workspace, normed, hidden,
                                           view(weight_in_.gradient).middle_columns(column, count));

        // dLN = du W_1^T
        with(in_value, transposed, [&](const WeightBlock<Kernel>& in) {
          weight_product(workspace, hidden, in, dnormed, write, [](const auto&...) {});
        });
      });
      norm_.backward(x, first, dnormed, dx, pass);
    }
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  void plan(ScratchPlan& scratch, const SavedPass& pass, const BranchStorage& stored) const {
    const Index D = config_.width, F = config_.hidden_width, rows = pass.batch * pass.length;
    const bool subtract = !stored.input;
    scratch.scope([&] {
      const Index panel = std::min(forward_rows, rows);
      PackedWeight<Kernel>::plan(scratch, D, F);
      PackedWeight<Kernel>::plan(scratch, F, D);
      for (int i = 0; i < 2; ++i) scratch.matrix<Scalar>(panel, D);
      scratch.matrix<Scalar>(panel, forward_columns(panel));
      plan_weight_product<Kernel>(scratch, std::max(D, forward_columns(panel)));
    });
    scratch.scope([&] {
      const Index panel = std::min(reverse_rows, rows);
      const int wide = 2 + (subtract ? 1 : 0) + (config_.dropout > 0 ? 1 : 0);
      for (int i = 0; i < wide; ++i) scratch.matrix<Scalar>(panel, D);
      for (int i = 0; i < 2; ++i) scratch.matrix<Scalar>(panel, block_columns());
      const auto plan_block = [&](Index depth, Index columns) {
        scratch.scope([&] {
          PackedWeight<Kernel>::plan(scratch, depth, columns);
          plan_weight_product<Kernel>(scratch, depth);
        });
      };
      plan_block(D, block_columns());
      plan_block(block_columns(), D);
      plan_weight_gradient<Kernel>(scratch, panel);
      norm_.plan_backward(scratch, panel);
    });
  }

  /// Multiply-adds for each row that `reverse` saves when it need not subtract.
  double output_work() const {
    return static_cast<double>(config_.hidden_width) * static_cast<double>(config_.width);
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    visit_parameters(*this, f);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    visit_parameters(*this, f);
  }

 private:
  template <typename Self, typename F>
  static void visit_parameters(Self& self, F& f) {
    self.norm_.for_each_parameter(f);
    f(self.weight_in_);
    f(self.bias_in_);
    f(self.weight_out_);
    f(self.bias_out_);
  }

  // Forward, both weights stay packed; `reverse` packs four blocks for each panel and column block,
  // which larger panels make rarer.
  static constexpr Index forward_rows = 512;
  static constexpr Index reverse_rows = 1024;
  static constexpr auto natural = Orientation::natural;
  static constexpr auto transposed = Orientation::transposed;

  Dropout<Scalar> dropout(const Pass& pass, Purpose purpose) const {
    return {pass.training ? config_.dropout : 0.0, pass.key, purpose};
  }

  template <typename Half>
  void check_kept(std::string_view function, const Half& x, const Half& y, const Decoding& decoding,
                  const Pass& pass) const {
    check_rows(function, x, y, pass);
    check_equal(function, "rows of the kept weight", decoding.in.packed().depth(), "width",
                config_.width);
    check_equal(function, "columns of the kept weight", decoding.in.packed().columns(),
                "hidden_width", config_.hidden_width);
  }

  template <typename Half>
  void check_rows(std::string_view function, const Half& x, const Half& y, const Pass& pass) const {
    check_pass(function, pass);
    check_equal(function, "rows of x", x.rows(), "B*T", pass.rows());
    check_equal(function, "rows of y", y.rows(), "B*T", pass.rows());
    check_equal(function, "columns of x", x.columns(), "width", config_.width);
    check_equal(function, "columns of y", y.columns(), "width", config_.width);
  }

  Index block_columns() const { return std::min(detail::depth_block, config_.hidden_width); }
  /// The same in `forward`: all of them where rows are few. Threads then share two long loops
  /// instead of many short ones.
  Index forward_columns(Index rows) const {
    constexpr Index few = 1 << 15;  // hidden values
    return config_.hidden_width <= few / rows ? config_.hidden_width : block_columns();
  }

  /// Calls `body(first, count, write, is_last)` for blocks of hidden columns; `write` is how the
  /// block's part of a sum over hidden columns meets the parts before it.
  ///
  /// Blocks are as deep as kernels sum in one go, or a multiple of that: the bits are those of an
  /// undivided product.
  template <typename Body>
  void for_each_block(Index columns, const Body& body) const {
    const Index F = config_.hidden_width;
    for (Index column = 0; column < F; column += columns) {
      const Index count = std::min(columns, F - column);
      body(column, count, column == 0 ? Write::assign : Write::accumulate, column + count == F);
    }
  }

  /// y += f(x), panel by panel
  template <typename Half>
  void add_rows(const Half& x, Half& y, const PackedWeight<Kernel>& in,
                const PackedWeight<Kernel>& out, const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const Index panel = std::min(forward_rows, pass.rows());
    const auto normed_panel = scratch.matrix<Scalar>(panel, config_.width);
    const auto sum_panel = scratch.matrix<Scalar>(panel, config_.width);
    const auto hidden_panel = scratch.matrix<Scalar>(panel, forward_columns(panel));
    for (Index first = 0; first < pass.rows(); first += panel) {
      const Index rows = std::min(panel, pass.rows() - first);
      const auto normed = normed_panel.middle_rows(0, rows);
      normalise(x, first, normed, pass);
      for_each_block(
          hidden_panel.columns, [&](Index column, Index count, Write write, bool is_last) {
            const auto hidden = hidden_panel.middle_rows(0, rows).middle_columns(0, count);
            hidden_layer(in.middle_columns(column, count), first, column, normed, hidden, {}, pass);
            add_output(out.middle_depth(column, count), first, hidden,
                       sum_panel.middle_rows(0, rows), write, is_last, Sign::plus, y, pass);
          });
    }
  }

  template <typename Half>
  void normalise(const Half& x, Index first, const MatrixView<Scalar>& out,
                 const Pass& pass) const {
    for_each_row_tile(pass.workspace.threads(), out.rows, [&](Index row, Index count, int) {
      norm_.forward(x, first + row, out.middle_rows(row, count), pass);
    });
  }

  /// hidden = act(u), u = dropout(normed W_1 + b_1), of a block of hidden columns that starts at
  /// `column`; slope = act'(u) unless it is empty.
  void hidden_layer(const WeightBlock<Kernel>& in, Index first, Index column,
                    const MatrixView<const Scalar>& normed, const MatrixView<Scalar>& hidden,
                    const MatrixView<Scalar>& slope, const Pass& pass) const {
    const auto hidden_dropout = dropout(pass, Purpose::hidden_dropout);
    weight_product(pass.workspace, normed, in, hidden, Write::assign,
                   [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                     add_bias(tile, bias_in_.value.data() + column + j);
                     hidden_dropout.apply_tile(tile, first + i, column + j, config_.hidden_width);
                     for (Index r = 0; r < tile.rows; ++r) {
                       if (slope.rows > 0) {
                         activation_derivative(config_.activation, tile.columns, tile.row(r),
                                               slope.row(i + r) + j);
                       }
                       activate(config_.activation, tile.columns, tile.row(r), tile.row(r));
                     }
                   });
  }

  /// sum = or += hidden W_2 of a block of hidden columns; after the last one
  /// y +-= dropout(sum + b_2), which destroys sum.
  template <typename Half>
  void add_output(const WeightBlock<Kernel>& out, Index first,
                  const MatrixView<const Scalar>& hidden, const MatrixView<Scalar>& sum,
                  Write write, bool is_last, Sign sign, Half& y, const Pass& pass) const {
    const auto output_dropout = dropout(pass, Purpose::branch_dropout);
    weight_product(pass.workspace, hidden, out, sum, write,
                   [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                     if (!is_last) return;
                     add_bias(tile, bias_out_.value.data() + j);
                     output_dropout.apply_tile(tile, first + i, j, config_.width);
                     for (Index r = 0; r < tile.rows; ++r) {
                       accumulate(y, sign, first + i + r, j, tile.columns, tile.row(r));
                     }
                   });
  }

  FeedForwardConfig config_;
  LayerNorm<Scalar> norm_;
  Parameter<Scalar> weight_in_, bias_in_, weight_out_, bias_out_;
};

}  // namespace reformer::inline REFORMER_ABI
