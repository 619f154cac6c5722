// SPDX-License-Identifier: MIT
/// @file
/// A branch that the library does not have, with everything that a branch can have.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/residual.hpp"

namespace reformer::test {

/// f(x)_t = now tanh(x_t) + before tanh(x_{t-1}), elementwise, with parameters now, before `[1,
/// D]`.
template <typename Scalar_>
class Shift {
 public:
  using Scalar = Scalar_;
  static constexpr std::string_view label = "shift";

  /// tanh(x) `[B*T, D]`, if it is kept.
  struct Saved {
    MatrixView<Scalar> tanh;
  };

  /// tanh of the newest token of each sequence `[B, D]`.
  struct Decoding {
    Matrix<Scalar> newest;
    std::vector<Index> selected;

    void select(std::span<const Index> sequences) {
      selected.assign(sequences.begin(), sequences.end());
    }
    void clear() {
      for (const Index b : selected) newest.row(b).setZero();
    }
    std::size_t bytes() const { return static_cast<std::size_t>(newest.size()) * sizeof(Scalar); }
  };

  Shift(const std::string& name, Index width)
      : now_(name + ".now", Role::weight, 1, width),
        before_(name + ".before", Role::weight, 1, width) {}

  Saved saved_in(Scratch& scratch, const SavedPass& pass, bool context = false) const {
    const Index rows = pass.batch * pass.length;
    if (!context) return {};
    return {{scratch.take<Scalar>(rows * width()), rows, width()}};
  }

  template <ResidualHalf Half>
  void check_forward(const Half& x, const Half&, const Saved&, const Pass&) const {
    check_equal("Shift::forward", "columns of x", x.columns(), "width", width());
  }

  template <ResidualHalf Half>
  void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const {
    for (Index i = 0; i < saved.tanh.rows; ++i) read(x, i, {}, saved.tanh.row(i));
    add(x, y, Sign::plus, saved, pass);
  }

  template <ResidualHalf Half>
  void reverse(const Half& x, Half& y, const MatrixView<const Scalar>& dy,
               const MatrixView<Scalar>& dx, const Saved& saved, const Pass& pass) {
    if (pass.subtract) add(x, y, Sign::minus, saved, pass);
    Scratch scratch(pass.workspace);
    Scalar* own = scratch.take<Scalar>(width());
    Scalar* other = scratch.take<Scalar>(width());
    for (Index i = 0; i < pass.rows(); ++i) {
      const Index t = i % pass.length;
      read(x, i, saved, own);
      if (t > 0) read(x, i - 1, saved, other);
      for (Index j = 0; j < width(); ++j) {
        now_.gradient(0, j) += dy(i, j) * own[j];
        if (t > 0) before_.gradient(0, j) += dy(i, j) * other[j];
        Scalar dtanh = now_.value(0, j) * dy(i, j);
        if (t + 1 < pass.length) dtanh += before_.value(0, j) * dy(i + 1, j);
        dx(i, j) += dtanh * (1 - own[j] * own[j]);
      }
    }
  }

  void plan(Workspace& workspace, const SavedPass&, const BranchStorage&) const {
    Scratch(workspace).per_thread<Scalar>(2 * width());
    Scratch scratch(workspace);
    for (int i = 0; i < 2; ++i) scratch.take<Scalar>(width());
  }

  double output_work() const { return 2 * static_cast<double>(width()); }
  double context_work(Index) const { return 20 * static_cast<double>(width()); }

  Decoding decoding(const Pass& pass) const {
    std::vector<Index> all;
    for (Index b = 0; b < pass.batch; ++b) all.push_back(b);
    return {Matrix<Scalar>::Zero(pass.batch, width()), all};
  }

  template <ResidualHalf Half>
  void prefill(const Half& x, Half& y, Decoding& decoding, const Pass& pass) const {
    add(x, y, Sign::plus, {}, pass);
    for (Index i = 0; i < pass.rows(); ++i) {
      if (pass.is_padding(i)) continue;
      read(x, i, {}, decoding.newest.row(sequence(decoding, i / pass.length)).data());
    }
  }

  template <ResidualHalf Half>
  void decode(const Half& x, Half& y, Decoding& decoding, const Pass&) const {
    std::vector<Scalar> sum(static_cast<std::size_t>(width()));
    for (Index i = 0; i < x.rows(); ++i) {
      Scalar* newest = decoding.newest.row(sequence(decoding, i)).data();
      read(x, i, {}, sum.data());
      std::vector<Scalar> own = sum;
      combine(sum.data(), newest);
      y.add(i, 0, width(), sum.data());
      std::copy(own.begin(), own.end(), newest);
    }
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    f(now_);
    f(before_);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    f(now_);
    f(before_);
  }

 private:
  Index width() const { return now_.value.cols(); }
  static Index sequence(const Decoding& decoding, Index i) {
    return decoding.selected[static_cast<std::size_t>(i)];
  }

  /// tanh of row i, from what is kept if it is
  template <typename Half>
  void read(const Half& x, Index i, const Saved& kept, Scalar* out) const {
    if (kept.tanh.rows > 0) {
      std::copy_n(kept.tanh.row(i), width(), out);
      return;
    }
    x.read(i, 0, width(), out);
    std::transform(out, out + width(), out, [](Scalar value) { return std::tanh(value); });
  }

  /// own = now own + before other
  REFORMER_COMPILED_ONCE void combine(Scalar* own, const Scalar* other) const {
    for (Index j = 0; j < width(); ++j) {
      own[j] = now_.value(0, j) * own[j] + before_.value(0, j) * other[j];
    }
  }

  /// y +-= f(x)
  template <typename Half>
  void add(const Half& x, Half& y, Sign sign, const Saved& kept, const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const auto memory = scratch.per_thread<Scalar>(2 * width());
    for_each_row_tile(pass.workspace.threads(), pass.rows(),
                      [&](Index first, Index count, int thread) {
                        Scalar *own = memory[thread], *other = own + width();
                        for (Index i = first; i < first + count; ++i) {
                          read(x, i, kept, own);
                          std::fill_n(other, width(), Scalar(0));
                          if (i % pass.length > 0) read(x, i - 1, kept, other);
                          combine(own, other);
                          accumulate(y, sign, i, 0, width(), own);
                        }
                      });
  }

  Parameter<Scalar> now_, before_;
};

}  // namespace reformer::test
