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
/// pass but u, what the activation is applied to, where there is memory for it.
#pragma once

#include <string_view>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/operations/activation.hpp"
#include "reformer/operations/bias.hpp"
#include "reformer/operations/config.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/layer_norm.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"

namespace reformer::inline REFORMER_ABI {

/// Feed-forward branch; satisfies `ReversibleBranch`.
/// @tparam Kernel  of its products
template <typename Scalar_, ProductKernel Kernel = DefaultKernel<Scalar_>>
class FeedForward {
 public:
  using Scalar = Scalar_;
  static constexpr std::string_view label = "feed-forward";
  /// Memory for what `forward` leaves: see `saved_in`.
  struct Saved {
    MatrixView<Scalar> inner = {};  ///< u `[B*T, F]`; empty: computed again
  };
  /// What `prefill` and `decode` need; the weights are copied.
  struct Decoding {
    KeptWeight<Kernel> in, out;
  };

  /// Parameters are named `<name>.layer_norm.weight` and so on; weights are zero until initialised.
  FeedForward(const std::string& name, const FeedForwardConfig& config)
      : config_((detail::check_config("FeedForward", config), config)),
        norm_(name + ".layer_norm", config.width, config.layer_norm_epsilon),
        weight_in_(name + ".dense.weight", Role::weight, config.width, config.hidden_width),
        bias_in_(name + ".dense.bias", Role::bias, 1, config.hidden_width),
        weight_out_(name + ".output.weight", Role::weight, config.hidden_width, config.width),
        bias_out_(name + ".output.bias", Role::bias, 1, config.width) {}

  const FeedForwardConfig& config() const { return config_; }

  /// Memory for u, what the activation is applied to, if it is asked for.
  Saved saved_in(Scratch& memory, const SavedPass& pass, bool context = false) const {
    if (!context) return {};
    return {memory.matrix<Scalar>(pass.batch * pass.length, config_.hidden_width)};
  }

  /// Throws `std::invalid_argument` unless `forward` can take these arguments.
  template <ResidualHalf Half>
  void check_forward(const Half& x, const Half& y, const Saved& saved, const Pass& pass) const {
    constexpr auto function = "FeedForward::forward";
    check_rows(function, x, y, pass);
    check_saved(function, saved, pass);
  }

  /// y += f(x)
  /// @param saved  what there is memory for is filled
  /// @throw std::invalid_argument, before anything is written, for sizes that do not fit
  template <ResidualHalf Half>
  void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const {
    check_forward(x, y, saved, pass);
    add_rows(x, y, saved, pass);
  }

  /// @throw std::invalid_argument for a pass or a precision that cannot be
  Decoding decoding(const Pass& pass) const {
    check_pass("FeedForward::decoding", pass);
    detail::check_precision<Scalar>("FeedForward::decoding", pass.precision);
    return {{pass.workspace, rows_of(weight_in_.value), natural, pass.precision},
            {pass.workspace, rows_of(weight_out_.value), natural, pass.precision}};
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
    add_rows(x, y, decoding.in.packed(), decoding.out.packed(), {}, pass);
  }

  /// y += f(x) for the next token of each sequence: the bits of `forward`.
  /// @throw std::invalid_argument as `forward`
  template <ResidualHalf Half>
  void decode(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    check_decode(x, y, decoding, pass);
    add_rows(x, y, decoding.in.packed(), decoding.out.packed(), {}, pass);
  }

  /// Throws `std::invalid_argument` unless `reverse` can take these arguments.
  template <ResidualHalf Half>
  void check_reverse(const Half& x, const Half& y, const MatrixView<const Scalar>& dy,
                     const MatrixView<const Scalar>& dx, const Saved& saved,
                     const Pass& pass) const {
    constexpr auto function = "FeedForward::reverse";
    check_rows(function, x, y, pass);
    check_saved(function, saved, pass);
    check_equal(function, "rows of dy", dy.rows, "B*T", pass.rows());
    check_equal(function, "columns of dy", dy.columns, "width", config_.width);
    check_equal(function, "rows of dx", dx.rows, "B*T", pass.rows());
    check_equal(function, "columns of dx", dx.columns, "width", config_.width);
    detail::check_gradients(function, *this);
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
    reverse_rows(x, y, dy, dx, saved, pass);
  }

  /// Scratch of `forward` and of `reverse` in a pass with gradients.
  /// @tparam Half  of the pass
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument if it does more
  template <ResidualHalf Half = FloatingHalf<Scalar>>
  void plan(Workspace& workspace, const SavedPass& sizes, const BranchStorage& stored) const {
    detail::check_plans("FeedForward::plan", workspace);
    const Pass pass{.workspace = workspace,
                    .batch = sizes.batch,
                    .length = sizes.length,
                    .training = true,
                    .subtract = !stored.input,
                    .precision = sizes.precision};
    Half half;
    Saved saved;
    if (stored.context) saved.inner = {nullptr, pass.rows(), config_.hidden_width};
    add_rows(half, half, saved, pass);
    // A plan changes nothing, but a branch that is reversed does.
    const_cast<FeedForward&>(*this).reverse_rows(half, half, {}, {}, saved, pass);
  }

  /// Multiply-adds for each row that `reverse` saves when it need not subtract.
  double output_work() const {
    return static_cast<double>(config_.hidden_width) * static_cast<double>(config_.width);
  }
  /// Multiply-adds for each row that `reverse` saves when u is stored.
  double context_work(Index) const { return output_work(); }

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
  static constexpr Index forward_panel_rows = 512;
  static constexpr Index reverse_panel_rows = 1024;
  static constexpr auto natural = Orientation::natural;
  static constexpr auto transposed = Orientation::transposed;

  Dropout<Scalar> dropout(const Pass& pass, Purpose purpose) const {
    return {pass.dropout(config_.dropout), pass.key, purpose};
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
    detail::check_precision<Scalar>(function, pass.precision);
    check_equal(function, "rows of x", x.rows(), "B*T", pass.rows());
    check_equal(function, "rows of y", y.rows(), "B*T", pass.rows());
    check_equal(function, "columns of x", x.columns(), "width", config_.width);
    check_equal(function, "columns of y", y.columns(), "width", config_.width);
  }

  void check_saved(std::string_view function, const Saved& saved, const Pass& pass) const {
    if (saved.inner.rows == 0) return;
    check_equal(function, "rows of saved.inner", saved.inner.rows, "B*T", pass.rows());
    check_equal(function, "columns of saved.inner", saved.inner.columns, "hidden_width",
                config_.hidden_width);
  }

  Index block_columns() const { return std::min(detail::depth_block, config_.hidden_width); }
  /// The same in `forward`: all of them where rows are few. Threads then share two long loops
  /// instead of many short ones.
  Index forward_columns(Index rows) const {
    constexpr Index few = 1 << 15;  // hidden values
    return config_.hidden_width <= few / rows ? config_.hidden_width : block_columns();
  }

  /// Some of the hidden columns.
  struct HiddenBlock {
    Index first, count;
    Write write;   // how its part of a sum over hidden columns meets the parts before it
    bool is_last;  // of all blocks
  };

  /// Calls `body(block)` for blocks of hidden columns; for a plan only the first, the largest.
  ///
  /// Blocks are as deep as kernels sum in one go, or a multiple of that: the bits are those of an
  /// undivided product.
  template <typename Body>
  void for_each_block(Workspace& workspace, Index columns, const Body& body) const {
    const Index F = config_.hidden_width;
    detail::for_each_panel(workspace, F, columns, [&](Index first, Index count) {
      body(HiddenBlock{first, count, first == 0 ? Write::assign : Write::accumulate,
                       first + count == F});
    });
  }

  /// y += f(x)
  template <typename Half>
  void add_rows(const Half& x, Half& y, const Saved& saved, const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const PackedWeight<Kernel> in(scratch, pass.workspace, rows_of(weight_in_.value), natural,
                                  pass.precision);
    const PackedWeight<Kernel> out(scratch, pass.workspace, rows_of(weight_out_.value), natural,
                                   pass.precision);
    add_rows(x, y, in, out, saved, pass);
  }
  /// The same with weights that are packed, panel by panel.
  template <typename Half>
  void add_rows(const Half& x, Half& y, const PackedWeight<Kernel>& in,
                const PackedWeight<Kernel>& out, const Saved& saved, const Pass& pass) const {
    auto& workspace = pass.workspace;
    Scratch scratch(workspace);
    const Index panel = std::min(forward_panel_rows, pass.rows());
    const auto normed_panel = scratch.matrix<Scalar>(panel, config_.width);
    const auto sum_panel = scratch.matrix<Scalar>(panel, config_.width);
    const auto hidden_panel = scratch.matrix<Scalar>(panel, forward_columns(panel));
    detail::for_each_panel(workspace, pass.rows(), panel, [&](Index first, Index rows) {
      const auto normed = normed_panel.middle_rows(0, rows), sum = sum_panel.middle_rows(0, rows);
      normalise(x, first, normed, pass);
      for_each_block(workspace, hidden_panel.columns, [&](const HiddenBlock& block) {
        const auto hidden = hidden_panel.middle_rows(0, rows).middle_columns(0, block.count);
        hidden_layer(in.middle_columns(block.first, block.count), first, block, normed, hidden,
                     inner_of(saved, first, rows, block), pass);
        add_output(out.middle_depth(block.first, block.count), first, block, hidden, sum,
                   Sign::plus, y, pass);
      });
    });
  }

  /// Scratch of `reverse`, for a panel of rows.
  struct ReversePanel {
    MatrixView<Scalar> normed, dnormed;  // [panel, D]
    MatrixView<Scalar> hidden;           // [panel, columns of a block]
    MatrixView<Scalar> inner;            // [panel, columns of a block], if u is not stored
    MatrixView<Scalar> sum;              // [panel, D], of what is subtracted, if anything is
    MatrixView<Scalar> dropped;          // [panel, D], df after dropout, if there is any

    ReversePanel(Scratch& memory, Index rows, Index width, Index columns, bool stored,
                 bool subtracts, bool drops)
        : normed(memory.matrix<Scalar>(rows, width)),
          dnormed(memory.matrix<Scalar>(rows, width)),
          hidden(memory.matrix<Scalar>(rows, columns)) {
      if (!stored) inner = memory.matrix<Scalar>(rows, columns);
      if (subtracts) sum = memory.matrix<Scalar>(rows, width);
      if (drops) dropped = memory.matrix<Scalar>(rows, width);
    }

    ReversePanel first_rows(Index rows) const {
      ReversePanel part = *this;
      for (auto* x :
           {&part.normed, &part.dnormed, &part.hidden, &part.inner, &part.sum, &part.dropped}) {
        *x = x->middle_rows(0, rows);
      }
      return part;
    }
  };

  /// `reverse`, panel by panel.
  template <typename Half>
  void reverse_rows(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
                    const MatrixView<Scalar>& dx, const Saved& saved, const Pass& pass) {
    auto& workspace = pass.workspace;
    Scratch scratch(workspace);
    const auto output_dropout = dropout(pass, Purpose::branch_dropout);
    const Index D = config_.width, panel = std::min(reverse_panel_rows, pass.rows());
    const ReversePanel whole(scratch, panel, D, block_columns(), saved.inner.rows > 0,
                             pass.subtract, output_dropout.active());
    detail::for_each_panel(workspace, pass.rows(), panel, [&](Index first, Index rows) {
      const ReversePanel arrays = whole.first_rows(rows);
      normalise(x, first, arrays.normed, pass);
      // f = dropout(h W_2 + b_2)
      const auto df = dropped_rows(workspace, dy.middle_rows(first, rows), output_dropout, first,
                                   arrays.dropped);
      accumulate_bias_gradient(workspace, df, bias_out_.gradient.data());
      for_each_block(workspace, block_columns(), [&](const HiddenBlock& block) {
        reverse_block(arrays, df, first, block, y, saved, pass);
      });
      norm_.backward(x, first, arrays.dnormed, dx, pass);
    });
  }

  /// A block of hidden columns of a panel that begins at row `first`: its part of what is
  /// subtracted, of the gradient by the layer norm's output, and of the gradients of parameters.
  ///
  /// Each weight is packed as it is needed, and again for each panel: that is little beside a
  /// product with all its rows, and all of them would be most of the memory at short lengths.
  template <typename Half>
  void reverse_block(const ReversePanel& arrays, const MatrixView<const Scalar>& df, Index first,
                     const HiddenBlock& block, Half& y, const Saved& saved, const Pass& pass) {
    auto& workspace = pass.workspace;
    const auto hidden = arrays.hidden.middle_columns(0, block.count);
    const bool stored = saved.inner.rows > 0;
    const auto inner = stored ? inner_of(saved, first, hidden.rows, block)
                              : arrays.inner.middle_columns(0, block.count);
    const auto in =
        rows_of(std::as_const(weight_in_.value)).middle_columns(block.first, block.count);
    const auto out =
        rows_of(std::as_const(weight_out_.value)).middle_rows(block.first, block.count);

    // The forward pass: the hidden values serve both to subtract and to differentiate.
    if (stored) {
      for_each_row_tile(workspace, hidden.rows, [&](Index row, Index count, int) {
        activate_tile(inner.middle_rows(row, count), hidden.middle_rows(row, count));
      });
    } else {
      Scratch memory(workspace);
      const PackedWeight<Kernel> packed(memory, workspace, in, natural, pass.precision);
      hidden_layer(packed.whole(), first, block, arrays.normed, hidden, inner, pass);
    }
    if (pass.subtract) {
      Scratch memory(workspace);
      const PackedWeight<Kernel> packed(memory, workspace, out, natural, pass.precision);
      add_output(packed.whole(), first, block, hidden, arrays.sum, Sign::minus, y, pass);
    }
    accumulate_weight_gradient<Kernel>(
        workspace, pass.precision, hidden, df,
        gradient_in(workspace, weight_out_).middle_rows(block.first, block.count));

    // h = act(u), u = dropout(LN(x) W_1 + b_1): du = act'(u) (df W_2^T), in place of h
    const auto dhidden = hidden;
    {
      Scratch memory(workspace);
      const PackedWeight<Kernel> packed(memory, workspace, out, transposed, pass.precision);
      hidden_backward(packed.whole(), first, block, df, inner, dhidden, pass);
    }
    accumulate_bias_gradient<Scalar>(workspace, dhidden, bias_in_.gradient.data() + block.first);
    accumulate_weight_gradient<Kernel>(
        workspace, pass.precision, arrays.normed, dhidden,
        gradient_in(workspace, weight_in_).middle_columns(block.first, block.count));

    // dLN = du W_1^T
    Scratch memory(workspace);
    const PackedWeight<Kernel> packed(memory, workspace, in, transposed, pass.precision);
    weight_product(workspace, dhidden, packed.whole(), arrays.dnormed, block.write,
                   [](const auto&...) {});
  }

  template <typename Half>
  void normalise(const Half& x, Index first, const MatrixView<Scalar>& out,
                 const Pass& pass) const {
    for_each_row_tile(pass.workspace, out.rows, [&](Index row, Index count, int) {
      norm_.forward(x, first + row, out.middle_rows(row, count), pass);
    });
  }

  /// The part of a block of some rows in the u that is stored; empty if none is.
  static MatrixView<Scalar> inner_of(const Saved& saved, Index first, Index rows,
                                     const HiddenBlock& block) {
    if (saved.inner.rows == 0) return {};
    return saved.inner.middle_rows(first, rows).middle_columns(block.first, block.count);
  }

  /// h = act(u) of a tile, where h may be u.
  void activate_tile(const MatrixView<const Scalar>& u, const MatrixView<Scalar>& h) const {
    for (Index r = 0; r < u.rows; ++r) {
      activate(config_.activation, u.columns, u.row(r), h.row(r));
    }
  }

  /// hidden = act(u), u = dropout(normed W_1 + b_1), of a block of hidden columns; inner = u unless
  /// it is empty.
  void hidden_layer(const WeightBlock<Kernel>& in, Index first, const HiddenBlock& block,
                    const MatrixView<const Scalar>& normed, const MatrixView<Scalar>& hidden,
                    const MatrixView<Scalar>& inner, const Pass& pass) const {
    const auto hidden_dropout = dropout(pass, Purpose::hidden_dropout);
    weight_product(pass.workspace, normed, in, hidden, Write::assign,
                   [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                     const Index column = block.first + j;
                     add_bias(tile, bias_in_.value.data() + column);
                     hidden_dropout.apply_tile(tile, first + i, column, config_.hidden_width);
                     for (Index r = 0; r < tile.rows && inner.rows > 0; ++r) {
                       std::copy_n(tile.row(r), tile.columns, inner.row(i + r) + j);
                     }
                     activate_tile(tile, tile);
                   });
  }

  /// Gradient of `hidden_layer`: du = dropout(act'(u) (df W_2^T)).
  void hidden_backward(const WeightBlock<Kernel>& out, Index first, const HiddenBlock& block,
                       const MatrixView<const Scalar>& df, const MatrixView<const Scalar>& inner,
                       const MatrixView<Scalar>& dhidden, const Pass& pass) const {
    const auto hidden_dropout = dropout(pass, Purpose::hidden_dropout);
    weight_product(
        pass.workspace, df, out, dhidden, Write::assign,
        [&](const MatrixView<Scalar>& tile, Index i, Index j) {
          for (Index r = 0; r < tile.rows; ++r) {
            activate_backward(config_.activation, tile.columns, inner.row(i + r) + j, tile.row(r));
          }
          hidden_dropout.apply_tile(tile, first + i, block.first + j, config_.hidden_width);
        });
  }

  /// sum = or += hidden W_2 of a block of hidden columns; after the last one
  /// y +-= dropout(sum + b_2), which destroys sum.
  template <typename Half>
  void add_output(const WeightBlock<Kernel>& out, Index first, const HiddenBlock& block,
                  const MatrixView<const Scalar>& hidden, const MatrixView<Scalar>& sum, Sign sign,
                  Half& y, const Pass& pass) const {
    const auto output_dropout = dropout(pass, Purpose::branch_dropout);
    weight_product(pass.workspace, hidden, out, sum, block.write,
                   [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                     if (!block.is_last) return;
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
