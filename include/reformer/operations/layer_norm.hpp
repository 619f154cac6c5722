// SPDX-License-Identifier: MIT
/// @file
/// Layer normalisation over the last axis (Ba, Kiros, Hinton, arXiv 1607.06450).
///
///     z = (x - mean(x)) / sqrt(var(x) + epsilon),   y = z * scale + bias        (biased variance)
///
/// Backward, with g = dy * scale:
///
///     dx = (g - mean(g) - z mean(g z)) / sqrt(var(x) + epsilon),   dscale += dy z,   dbias += dy
///
/// Nothing is saved: the backward pass computes mean and variance of x again, which costs less than
/// reading them.
#pragma once

#include <algorithm>
#include <cmath>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/operations/config.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// Whether a row takes part in sums over rows. What padding holds may be anything, and a gradient
/// of zero does not hide a NaN: rows of padding that are not finite are left out.
template <typename Scalar>
bool is_usable(const Pass& pass, Index row, Index width, const Scalar* x) {
  return !pass.is_padding(row) || simd::is_finite(width, x);
}

/// Makes a row zero that is not usable.
template <typename Scalar>
void clear_unusable_padding(const Pass& pass, Index row, Index width, Scalar* x) {
  if (!is_usable(pass, row, width, x)) std::fill_n(x, width, Scalar(0));
}

/// Mean and 1 / sqrt(variance + epsilon) of a row.
template <typename Scalar>
struct RowMoments {
  Scalar mean;
  Scalar inverse_deviation;
};

/// Gradients of scale and bias from tiles of rows that run in parallel: a partial sum for each
/// tile. These are added up in order before they are added to what is there, whose error would else
/// grow with the number of all tiles.
template <typename Scalar>
class PartialGradients {
 public:
  PartialGradients(Scratch& scratch, Index rows, Index width)
      : tiles_(ceil_div(rows, detail::tile_rows)),
        width_(width),
        sums_(scratch.take<Scalar>(2 * tiles_ * width)) {
    if (sums_ != nullptr) std::fill_n(sums_, 2 * tiles_ * width, Scalar(0));
  }

  /// Sums of the tile that starts at `first_row`.
  Scalar* scale(Index first_row) const {
    return sums_ + first_row / detail::tile_rows * 2 * width_;
  }
  Scalar* bias(Index first_row) const { return scale(first_row) + width_; }

  void add_to(Scalar* dscale, Scalar* dbias) const {
    if (tiles_ == 0) return;
    for (Index tile = 1; tile < tiles_; ++tile) {
      simd::add(2 * width_, sums_ + 2 * tile * width_, sums_);
    }
    simd::add(width_, sums_, dscale);
    simd::add(width_, sums_ + width_, dbias);
  }

 private:
  Index tiles_, width_;
  Scalar* sums_;
};

}  // namespace detail

/// Layer normalisation with its parameters, `<name>.weight` (ones) and `<name>.bias` (zeros), `[1,
/// D]`.
template <typename Scalar>
class LayerNorm {
 public:
  /// @throw std::invalid_argument for a width or an epsilon out of range
  LayerNorm(const std::string& name, Index width, double epsilon)
      : epsilon_(static_cast<Scalar>(epsilon)),
        scale_((check_between("LayerNorm", "width", width, 1, max_size), name + ".weight"),
               Role::gain, 1, width),
        bias_(name + ".bias", Role::bias, 1, width) {
    detail::check_layer_norm_epsilon("LayerNorm", epsilon);
    scale_.value.setOnes();
  }

  Index width() const { return scale_.value.cols(); }

  /// y = LN(x) for one row `[D]`; y may be x.
  void forward_row(const Scalar* x, Scalar* y) const {
    namespace e = Eigen::internal;
    const auto [mean, inverse] = moments(x);
    const auto m = simd::set(mean), r = simd::set(inverse);
    const Scalar* scale = scale_.value.data();
    const Scalar* bias = bias_.value.data();
    constexpr Index W = simd::width<Scalar>;
    Index i = 0;
    for (; i + W <= width(); i += W) {
      const auto z = e::pmul(e::psub(simd::load(x + i), m), r);
      simd::store(y + i, e::pmadd(z, simd::load(scale + i), simd::load(bias + i)));
    }
    if (const Index n = width() - i; n > 0) {
      const auto z = e::pmul(e::psub(simd::load_partial(x + i, n), m), r);
      simd::store_partial(
          y + i, e::pmadd(z, simd::load_partial(scale + i, n), simd::load_partial(bias + i, n)), n);
    }
  }

  /// Gradient of one row.
  /// @param x   the row's input `[D]`
  /// @param dy  `[D]`, overwritten by dx
  /// @param dscale,dbias  `[D]`, accumulated
  void backward_row(const Scalar* x, Scalar* dy, Scalar* dscale, Scalar* dbias) const {
    namespace e = Eigen::internal;
    const auto [mean, inverse] = moments(x);
    const Index n = width();
    const Scalar* scale = scale_.value.data();
    const auto m = simd::set(mean), r = simd::set(inverse);
    const auto normal = [&](const auto& xi) { return e::pmul(e::psub(xi, m), r); };
    const auto count = static_cast<Scalar>(n);
    const Scalar mean_g =
        simd::sum<Scalar>(n, [&](const auto& at) { return e::pmul(at(dy), at(scale)); }) / count;
    const Scalar mean_gz =
        simd::sum<Scalar>(
            n, [&](const auto& at) { return e::pmul(e::pmul(at(dy), at(scale)), normal(at(x))); }) /
        count;
    simd::add(n, dy, dbias);
    const auto mg = simd::set(mean_g), mgz = simd::set(mean_gz);
    const auto step = [&](const auto& at, const auto& put) {
      const auto z = normal(at(x)), dyi = at(dy);
      put(dscale, e::pmadd(dyi, z, at(dscale)));
      const auto centred = e::psub(e::pmul(dyi, at(scale)), mg);
      put(dy, e::pmul(e::psub(centred, e::pmul(z, mgz)), r));
    };
    constexpr Index W = simd::width<Scalar>;
    Index i = 0;
    for (; i + W <= n; i += W) {
      step([&](const Scalar* p) { return simd::load(p + i); },
           [&](Scalar* p, const auto& v) { simd::store(p + i, v); });
    }
    if (i < n) {
      step([&](const Scalar* p) { return simd::load_partial(p + i, n - i); },
           [&](Scalar* p, const simd::Packet<Scalar>& v) { simd::store_partial(p + i, v, n - i); });
    }
  }

  /// out = LN(x) for rows `[first, first + out.rows)` of a residual half, on the calling thread.
  /// Rows of padding that are not finite give zero, so that no product or gradient meets them.
  template <ResidualHalf Half>
  void forward(const Half& x, Index first, const MatrixView<Scalar>& out, const Pass& pass) const {
    for (Index i = 0; i < out.rows; ++i) {
      x.read(first + i, 0, width(), out.row(i));
      forward_row(out.row(i), out.row(i));
      detail::clear_unusable_padding(pass, first + i, width(), out.row(i));
    }
  }

  /// Gradient of `forward` over many rows, in parallel.
  /// @param dout  `[rows, D]`, destroyed
  /// @param dx    `[B*T, D]`: rows `[first, first + dout.rows)` are added to
  /// @throw std::invalid_argument for rows that are not there or not those of the pass, another
  /// width, or no gradient
  template <ResidualHalf Half>
  void backward(const Half& x, Index first, const MatrixView<Scalar>& dout,
                const MatrixView<Scalar>& dx, const Pass& pass) {
    if (!pass.workspace.only_plans()) check_backward(x, first, dout, dx, pass);
    Scratch scratch(pass.workspace);
    const detail::PartialGradients<Scalar> partial(scratch, dout.rows, width());
    const auto rows_of_x = scratch.per_thread<Scalar>(width());
    for_each_row_tile(pass.workspace, dout.rows, [&](Index row, Index count, int thread) {
      for (Index i = row; i < row + count; ++i) {
        x.read(first + i, 0, width(), rows_of_x[thread]);
        if (!detail::is_usable(pass, first + i, width(), rows_of_x[thread]) ||
            !detail::is_usable(pass, first + i, width(), dout.row(i))) {
          continue;
        }
        backward_row(rows_of_x[thread], dout.row(i), partial.scale(row), partial.bias(row));
        if (first + i + simd::rows_ahead < dx.rows) {
          simd::prefetch(width(), dx.row(first + i + simd::rows_ahead));
        }
        simd::add(width(), dout.row(i), dx.row(first + i));
      }
    });
    if (!pass.workspace.only_plans()) add_gradients(partial);
  }

  void add_gradients(const detail::PartialGradients<Scalar>& partial) {
    partial.add_to(scale_.gradient.data(), bias_.gradient.data());
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
  template <typename Half>
  void check_backward(const Half& x, Index first, const MatrixView<Scalar>& dout,
                      const MatrixView<Scalar>& dx, const Pass& pass) const {
    constexpr auto function = "LayerNorm::backward";
    check_pass(function, pass);
    check_equal(function, "rows of x", x.rows(), "B*T", pass.rows());
    check_equal(function, "columns of x", x.columns(), "width", width());
    check_equal(function, "columns of dout", dout.columns, "width", width());
    check_equal(function, "columns of dx", dx.columns, "width", width());
    check_equal(function, "rows of dx", dx.rows, "rows of x", x.rows());
    check_between(function, "first", first, 0, x.rows() - dout.rows);
    detail::check_gradients(function, *this);
  }

  template <typename Self, typename F>
  static void visit_parameters(Self& self, F& f) {
    f(self.scale_);
    f(self.bias_);
  }

  detail::RowMoments<Scalar> moments(const Scalar* x) const {
    namespace e = Eigen::internal;
    const Index n = width();
    const auto count = static_cast<Scalar>(n);
    const Scalar mean = simd::sum<Scalar>(n, [&](const auto& at) { return at(x); }) / count;
    const auto m = simd::set(mean);
    const Scalar variance = simd::sum<Scalar>(n,
                                              [&](const auto& at) {
                                                const auto d = e::psub(at(x), m);
                                                return e::pmul(d, d);
                                              }) /
                            count;
    return {mean, Scalar(1) / std::sqrt(variance + epsilon_)};
  }

  Scalar epsilon_;
  Parameter<Scalar> scale_;
  Parameter<Scalar> bias_;
};

}  // namespace reformer::inline REFORMER_ABI
