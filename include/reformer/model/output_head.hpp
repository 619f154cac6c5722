// SPDX-License-Identifier: MIT
/// @file
/// The head over both halves of the residual stream, with the loss in chunks.
///
///     z = dropout(LN([x_1, x_2])),   logits = z W + b,   loss = sum of cross-entropies
///
/// | name         | shape       |
/// |--------------|-------------|
/// | x_1, x_2     | [B*T, D]    |
/// | W, b         | [2D, V], [V] |
///
/// A tied head has no W of its own. With the halves z = [z_1, z_2] and the table E [V, D] of the
/// embedding, which it is given by the caller,
///
///     logits = (z_1 + z_2) / 2 E^T + b
///
/// as if W were [E^T; E^T] / 2, in half the products. It adds to the gradient of E what W would
/// have, dE += dlogits^T (z_1 + z_2) / 2.
///
/// In training a panel of positions goes through product, softmax, loss and gradient at once:
/// logits [B*T, V] never exist. A head without a vocabulary ends at z.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/operations/bias.hpp"
#include "reformer/operations/cross_entropy.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/layer_norm.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/weight_gradient.hpp"
#include "reformer/products/weight_product.hpp"
#include "reformer/reversible/branch.hpp"

namespace reformer::inline REFORMER_ABI {

/// @tparam Kernel  of its products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
class OutputHead {
 public:
  /// @param is_tied  passes with logits are then given the table of the embedding, others nothing
  /// @throw std::invalid_argument for sizes, an epsilon or a dropout out of range
  OutputHead(Index width, Index vocabulary, double layer_norm_epsilon, double dropout,
             bool is_tied = false)
      : width_((check_between("OutputHead", "width", width, 1, max_size / 2),
                check_between("OutputHead", "vocabulary", vocabulary, 0, max_size),
                check_elements("OutputHead", "vocabulary * 2 * width", vocabulary, 2 * width),
                check_dropout("OutputHead", "dropout", dropout), width)),
        dropout_(dropout),
        norm_("layer_norm", 2 * width, layer_norm_epsilon),
        is_tied_(is_tied),
        weight_("head.weight", Role::head_weight, is_tied ? 0 : 2 * width, vocabulary),
        bias_("head.bias", Role::bias, 1, vocabulary) {}

  /// V, or 0 for a head that ends at z.
  Index vocabulary() const { return bias_.value.cols(); }

  /// z `[B*T, 2D]`
  /// @throw std::invalid_argument for sizes that do not fit, as the others, before anything is
  /// written
  template <ResidualHalf Half>
  void encode(const Halves<Half>& x, const MatrixView<Scalar>& out, const Pass& pass) const {
    check_input("OutputHead::encode", x, pass);
    check_matrix("OutputHead::encode", "out", out, "2 * width", 2 * width_, pass);
    normalize(x, 0, out, pass);
  }

  /// Gradient of `encode`: parameter gradients are accumulated, dx is overwritten.
  /// @param dout  `[B*T, 2D]`, destroyed
  template <ResidualHalf Half>
  void encode_backward(const Halves<Half>& x, const MatrixView<Scalar>& dout,
                       const HalfGradients<Scalar>& dx, const Pass& pass) {
    constexpr auto function = "OutputHead::encode_backward";
    check_input(function, x, pass);
    check_matrix(function, "dout", dout, "2 * width", 2 * width_, pass);
    check_output(function, dx, pass);
    detail::check_gradients(function, norm_);
    encode_rows_backward(x, dout, dx, pass);
  }

  /// Logits `[count, V]` of rows `[first, first + count)`.
  /// @param table  of the embedding `[V, D]` if the head is tied, otherwise null, as in the others
  template <ResidualHalf Half>
  void logits(const Halves<Half>& x, Index first, const MatrixView<Scalar>& out, const Pass& pass,
              const Parameter<Scalar>* table = nullptr) const {
    check_logits(x, first, out, pass);
    check_table("OutputHead::logits", table);
    Scratch scratch(pass.workspace);
    const PackedWeight<Kernel> weight(scratch, pass.workspace, rows_of(weight_or(table).value),
                                      orientation(), pass.precision);
    logits(x, first, weight, out, pass);
  }

  /// The same with a weight that is packed already.
  template <ResidualHalf Half>
  void logits(const Halves<Half>& x, Index first, const PackedWeight<Kernel>& weight,
              const MatrixView<Scalar>& out, const Pass& pass) const {
    constexpr auto function = "OutputHead::logits";
    check_logits(x, first, out, pass);
    check_equal(function, "rows of the weight", weight.depth(), is_tied_ ? "width" : "2 * width",
                factor_width());
    check_equal(function, "columns of the weight", weight.columns(), "vocabulary", vocabulary());
    Scratch scratch(pass.workspace);
    const Index panel = std::min(panel_rows(), out.rows);
    const auto normed = scratch.matrix<Scalar>(panel, 2 * width_);
    for (Index row = 0; row < out.rows; row += panel) {
      const Index rows = std::min(panel, out.rows - row);
      panel_logits(x, first + row, weight, normed.middle_rows(0, rows), out.middle_rows(row, rows),
                   pass);
    }
  }

  KeptWeight<Kernel> kept_weight(Workspace& workspace, Precision precision,
                                 const Parameter<Scalar>* table = nullptr) const {
    detail::check_for_use("OutputHead::kept_weight", workspace);
    detail::check_precision<Scalar>("OutputHead::kept_weight", precision);
    check_table("OutputHead::kept_weight", table);
    return {workspace, rows_of(weight_or(table).value), orientation(), precision};
  }

  /// Sum of losses over labels `[B*T]` that are not `ignored_label`.
  /// @param each  receives the loss of each position `[B*T]`, 0 where the label is ignored; or
  ///   empty
  template <ResidualHalf Half>
  Loss loss(const Halves<Half>& x, std::span<const std::int32_t> labels, const Pass& pass,
            std::span<double> each = {}, const Parameter<Scalar>* table = nullptr) const {
    constexpr auto function = "OutputHead::loss";
    check_input(function, x, pass);
    check_labels(function, labels, pass);
    check_table(function, table);
    check(each.empty() || static_cast<Index>(each.size()) == pass.rows(), function, "each has ",
          each.size(), " elements, must have B*T = ", pass.rows(), " or none");
    return sum_losses<false>(nullptr, table, nullptr, x, labels.data(), Scalar(0), {}, pass,
                             each.empty() ? nullptr : each.data());
  }

  /// The same, and the gradients of `scale` times the sum: parameter gradients, the table's too,
  /// are accumulated, dx is overwritten.
  template <ResidualHalf Half>
  Loss loss_and_gradients(const Halves<Half>& x, std::span<const std::int32_t> labels, Scalar scale,
                          const HalfGradients<Scalar>& dx, const Pass& pass,
                          Parameter<Scalar>* table = nullptr) {
    constexpr auto function = "OutputHead::loss_and_gradients";
    check_input(function, x, pass);
    check_labels(function, labels, pass);
    check(std::abs(scale) <= std::numeric_limits<Scalar>::max(), function, "scale is ", scale,
          ", must be finite");
    check_output(function, dx, pass);
    detail::check_gradients(function, *this);
    check_table(function, table);
    check(table == nullptr || table->has_gradient(), function,
          "the table has no gradient, call zero_gradients first");
    return sum_losses<true>(this, table, table, x, labels.data(), scale, dx, pass, nullptr);
  }

  /// Scratch of `loss_and_gradients` with halves of this type.
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument if it does more
  template <ResidualHalf Half = FloatingHalf<Scalar>>
  void plan_gradients(Workspace& workspace, Index rows, Precision precision,
                      const Parameter<Scalar>* table = nullptr) const {
    detail::check_plans("OutputHead::plan_gradients", workspace);
    const Pass pass{
        .workspace = workspace, .length = rows, .training = true, .precision = precision};
    // A plan changes nothing, but a head and a table whose gradients are computed do.
    auto* self = const_cast<OutputHead*>(this);
    sum_losses<true>(self, table, const_cast<Parameter<Scalar>*>(table), Halves<Half>{}, nullptr,
                     Scalar(0), {}, pass, nullptr);
  }

  /// Scratch of `encode_backward`, likewise.
  template <ResidualHalf Half = FloatingHalf<Scalar>>
  void plan_encode_backward(Workspace& workspace, Index rows) const {
    detail::check_plans("OutputHead::plan_encode_backward", workspace);
    const Pass pass{.workspace = workspace, .length = rows, .training = true};
    auto* self = const_cast<OutputHead*>(this);
    self->encode_rows_backward(Halves<Half>{}, {nullptr, rows, 2 * width_, 0}, {}, pass);
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
    if (self.vocabulary() == 0) return;
    if (!self.is_tied_) f(self.weight_);
    f(self.bias_);
  }

  template <typename Half>
  void check_input(std::string_view function, const Halves<Half>& x, const Pass& pass) const {
    check_pass(function, pass);
    detail::check_precision<Scalar>(function, pass.precision);
    for (const auto& [name, half] :
         {std::pair("first", &x.first), std::pair("second", &x.second)}) {
      check_equal(function, detail::join("rows of x.", name), half->rows(), "B*T", pass.rows());
      check_equal(function, detail::join("columns of x.", name), half->columns(), "width", width_);
    }
  }
  static void check_matrix(std::string_view function, std::string_view name,
                           const MatrixView<const Scalar>& matrix, std::string_view columns_name,
                           Index columns, const Pass& pass) {
    check_equal(function, detail::join("rows of ", name), matrix.rows, "B*T", pass.rows());
    check_equal(function, detail::join("columns of ", name), matrix.columns, columns_name, columns);
  }
  void check_output(std::string_view function, const HalfGradients<Scalar>& dx,
                    const Pass& pass) const {
    check_matrix(function, "dx.first", dx.first, "width", width_, pass);
    check_matrix(function, "dx.second", dx.second, "width", width_, pass);
  }
  template <typename Half>
  void check_logits(const Halves<Half>& x, Index first, const MatrixView<Scalar>& out,
                    const Pass& pass) const {
    constexpr auto function = "OutputHead::logits";
    check_input(function, x, pass);
    check_vocabulary(function);
    check_equal(function, "columns of out", out.columns, "vocabulary", vocabulary());
    check_between(function, "first", first, 0, pass.rows() - out.rows);
  }
  void check_vocabulary(std::string_view function) const {
    check_at_least(function, "vocabulary of the head", vocabulary(), 1);
  }
  void check_table(std::string_view function, const Parameter<Scalar>* table) const {
    check((table != nullptr) == is_tied_, function, "table is ",
          table == nullptr ? "none" : "given", ", must be ",
          is_tied_ ? "that of the embedding" : "none", " of a head that is ",
          is_tied_ ? "tied" : "not tied");
    if (table == nullptr) return;
    check_equal(function, "rows of the table", table->value.rows(), "vocabulary", vocabulary());
    check_equal(function, "columns of the table", table->value.cols(), "width", width_);
  }
  void check_labels(std::string_view function, std::span<const std::int32_t> labels,
                    const Pass& pass) const {
    check_vocabulary(function);
    check_equal(function, "number of labels", static_cast<Index>(labels.size()), "B*T",
                pass.rows());
    detail::check_label_range(function, labels, vocabulary());
  }

  /// Positions of a panel. Their logits are to stay in cache where the vocabulary is small. Where
  /// it is large, the weight and its gradient are walked through once for each panel, which is felt
  /// beside the products of one tile of rows and hardly beside those of two. So a panel has two
  /// then, as long as their logits take no more than 32 MB, and one beyond.
  Index panel_rows() const {
    constexpr Index in_cache = Index{1} << 18, most = 32'000'000 / Index{sizeof(Scalar)};
    const Index columns = std::max<Index>(vocabulary(), 1);
    const Index of_large = most / columns / detail::tile_rows * detail::tile_rows;
    return std::clamp<Index>(in_cache / columns,
                             std::clamp(of_large, detail::tile_rows, 2 * detail::tile_rows), 512);
  }

  /// What gives logits: W, or the table, whose rows are the columns of such a weight.
  const Parameter<Scalar>& weight_or(const Parameter<Scalar>* table) const {
    return is_tied_ ? *table : weight_;
  }
  Orientation orientation() const {
    return is_tied_ ? Orientation::transposed : Orientation::natural;
  }
  Index factor_width() const { return is_tied_ ? width_ : 2 * width_; }

  /// What is multiplied by it: z, or the mean of its halves, which replaces the first one.
  MatrixView<Scalar> factor_of(Workspace& workspace, const MatrixView<Scalar>& z) const {
    if (!is_tied_) return z;
    for_each_row_tile(workspace, z.rows, [&](Index row, Index count, int) {
      for (Index i = row; i < row + count; ++i) {
        Scalar* first = z.row(i);
        for (Index j = 0; j < width_; ++j) first[j] = (first[j] + first[width_ + j]) / 2;
      }
    });
    return z.middle_columns(0, width_);
  }

  /// From the gradient by that mean, which is where the mean was, to that by the norm's output.
  /// @param first  of the rows, which masks of dropout go by
  void mean_backward(Workspace& workspace, const MatrixView<Scalar>& dz, Index first,
                     const Dropout<Scalar>& dropout) const {
    for_each_row_tile(workspace, dz.rows, [&](Index row, Index count, int) {
      for (Index i = row; i < row + count; ++i) {
        Scalar* of_row = dz.row(i);
        for (Index j = 0; j < width_; ++j) of_row[j] /= 2;
        std::copy_n(of_row, width_, of_row + width_);
      }
      dropout.apply_tile(dz.middle_rows(row, count), first + row, 0, 2 * width_);
    });
  }

  template <typename Half>
  void read_row(const Halves<Half>& x, Index row, Scalar* out) const {
    x.first.read(row, 0, width_, out);
    x.second.read(row, 0, width_, out + width_);
  }

  Dropout<Scalar> dropout_of(const Pass& pass) const {
    return {pass.dropout(dropout_), pass.key, Purpose::head_dropout};
  }

  /// z of rows `[first, first + z.rows)`
  template <typename Half>
  void normalize(const Halves<Half>& x, Index first, const MatrixView<Scalar>& z,
                 const Pass& pass) const {
    const auto dropout = dropout_of(pass);
    for_each_row_tile(pass.workspace, z.rows, [&](Index row, Index count, int) {
      for (Index i = row; i < row + count; ++i) {
        read_row(x, first + i, z.row(i));
        norm_.forward_row(z.row(i), z.row(i));
        detail::clear_unusable_padding(pass, first + i, 2 * width_, z.row(i));
      }
      dropout.apply_tile(z.middle_rows(row, count), first + row, 0, 2 * width_);
    });
  }

  /// From the gradient of the norm's output, without dropout, to that of rows `[first, first +
  /// dnorm.rows)`.
  /// @param dnorm     destroyed
  /// @param row_of_x  scratch, `[2D]` for each thread
  template <typename Half>
  void normalize_backward(const Halves<Half>& x, Index first, const MatrixView<Scalar>& dnorm,
                          const PerThread<Scalar>& row_of_x, const HalfGradients<Scalar>& dx,
                          const Pass& pass) {
    Scratch scratch(pass.workspace);
    const detail::PartialGradients<Scalar> partial(scratch, dnorm.rows, 2 * width_);
    for_each_row_tile(pass.workspace, dnorm.rows, [&](Index row, Index count, int thread) {
      for (Index i = row; i < row + count; ++i) {
        read_row(x, first + i, row_of_x[thread]);
        if (!detail::is_usable(pass, first + i, 2 * width_, row_of_x[thread]) ||
            !detail::is_usable(pass, first + i, 2 * width_, dnorm.row(i))) {
          std::fill_n(&dx.first(first + i, 0), width_, Scalar(0));
          std::fill_n(&dx.second(first + i, 0), width_, Scalar(0));
          continue;
        }
        norm_.backward_row(row_of_x[thread], dnorm.row(i), partial.scale(row), partial.bias(row));
        std::copy_n(dnorm.row(i), width_, &dx.first(first + i, 0));
        std::copy_n(dnorm.row(i) + width_, width_, &dx.second(first + i, 0));
      }
    });
    if (!pass.workspace.only_plans()) norm_.add_gradients(partial);
  }

  /// @param dout  destroyed
  template <typename Half>
  void encode_rows_backward(const Halves<Half>& x, const MatrixView<Scalar>& dout,
                            const HalfGradients<Scalar>& dx, const Pass& pass) {
    Scratch scratch(pass.workspace);
    const auto row_of_x = scratch.per_thread<Scalar>(2 * width_);
    const auto dropout = dropout_of(pass);
    for_each_row_tile(pass.workspace, dout.rows, [&](Index row, Index count, int) {
      dropout.apply_tile(dout.middle_rows(row, count), row, 0, 2 * width_);
    });
    normalize_backward(x, 0, dout, row_of_x, dx, pass);
  }

  /// @return what was multiplied, a part of `normed`
  template <typename Half>
  MatrixView<Scalar> panel_logits(const Halves<Half>& x, Index first,
                                  const PackedWeight<Kernel>& weight,
                                  const MatrixView<Scalar>& normed, const MatrixView<Scalar>& out,
                                  const Pass& pass) const {
    normalize(x, first, normed, pass);
    const auto factor = factor_of(pass.workspace, normed);
    weight_product(pass.workspace, factor, weight.whole(), out, Write::assign,
                   [&](const MatrixView<Scalar>& tile, Index, Index j) {
                     add_bias(tile, bias_.value.data() + j);
                   });
    return factor;
  }

  /// Losses, and gradients if they are wanted, panel by panel.
  /// @param to, to_table  this head and the table, whose gradients are accumulated; not used
  ///   without gradients, as dx
  template <bool with_gradients, typename Half>
  Loss sum_losses(OutputHead* to, const Parameter<Scalar>* table, Parameter<Scalar>* to_table,
                  const Halves<Half>& x, const std::int32_t* labels, Scalar scale,
                  const HalfGradients<Scalar>& dx, const Pass& pass, double* each) const {
    auto& workspace = pass.workspace;
    Scratch scratch(workspace);
    const Index V = vocabulary(), D2 = 2 * width_;
    const auto weight_value = rows_of(weight_or(table).value);
    const PackedWeight<Kernel> weight(scratch, workspace, weight_value, orientation(),
                                      pass.precision);
    std::optional<PackedWeight<Kernel>> weight_transposed;
    if constexpr (with_gradients) {
      weight_transposed.emplace(scratch, workspace, weight_value,
                                is_tied_ ? Orientation::natural : Orientation::transposed,
                                pass.precision);
    }
    const Index panel = std::min(panel_rows(), pass.rows());
    // Positions that a thread takes at once: a few of many logits, many of few.
    const Index group = std::clamp<Index>((Index{1} << 14) / V, 1, detail::tile_rows);
    const auto normed_panel = scratch.matrix<Scalar>(panel, D2);
    const auto logits_panel = scratch.matrix<Scalar>(panel, V);
    const auto row_of_x = scratch.per_thread<Scalar>(D2);
    auto* losses = scratch.take<double>(panel);
    const auto dropout = dropout_of(pass);

    Loss total;
    detail::for_each_panel(workspace, pass.rows(), panel, [&](Index first, Index rows) {
      const auto normed = normed_panel.middle_rows(0, rows);
      const auto logits = logits_panel.middle_rows(0, rows);
      const auto factor = panel_logits(x, first, weight, normed, logits, pass);
      parallel_for(workspace, ceil_div(rows, group), [&](Index task, int) {
        for (Index i = task * group; i < std::min((task + 1) * group, rows); ++i) {
          const std::int32_t label = labels[first + i];
          losses[i] = 0;
          if (label == ignored_label) {
            if constexpr (with_gradients) std::fill_n(logits.row(i), V, Scalar(0));
            continue;
          }
          Scalar sum;
          losses[i] = cross_entropy_row(V, logits.row(i), label, sum);
          if constexpr (with_gradients) {
            cross_entropy_row_backward(V, logits.row(i), label, sum, scale);
          }
        }
      });
      for (Index i = 0; !workspace.only_plans() && i < rows; ++i) {
        total += {losses[i], labels[first + i] == ignored_label ? 0 : 1};
      }
      if (each != nullptr) std::copy_n(losses, rows, each + first);
      if constexpr (with_gradients) {
        accumulate_bias_gradient<Scalar>(workspace, logits, to->bias_.gradient.data());
        if (is_tied_) {
          accumulate_weight_gradient<Kernel>(workspace, pass.precision, logits, factor,
                                             gradient_in(workspace, *to_table));
        } else {
          accumulate_weight_gradient<Kernel>(workspace, pass.precision, factor, logits,
                                             gradient_in(workspace, to->weight_));
        }
        weight_product(workspace, logits, weight_transposed->whole(), factor, Write::assign,
                       [&](const MatrixView<Scalar>& tile, Index i, Index j) {
                         if (!is_tied_) dropout.apply_tile(tile, first + i, j, D2);
                       });
        if (is_tied_) mean_backward(workspace, normed, first, dropout);
        to->normalize_backward(x, first, normed, row_of_x, dx, pass);
      }
    });
    return total;
  }

  Index width_;
  double dropout_;
  LayerNorm<Scalar> norm_;
  bool is_tied_;
  Parameter<Scalar> weight_, bias_;  // the weight has no rows if the head is tied
};

}  // namespace reformer::inline REFORMER_ABI
