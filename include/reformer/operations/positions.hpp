// SPDX-License-Identifier: MIT
/// @file
/// Positions: axial, learned, sinusoidal.
///
/// Axial (trax, HuggingFace): position t of a grid `[n_0, n_1]`, t < n_0 n_1, is the concatenation
/// of row t / n_1 of a table
/// `[n_0, d_0]` and row t % n_1 of a table `[n_1, d_1]`, d_0 + d_1 = D. A million positions cost 2
/// (n_0 + n_1) rows at most instead of n_0 n_1.
///
/// Sinusoidal (Vaswani et al., arXiv 1706.03762, section 3.5), no parameters:
///
///     p[t, 2i] = sin(t / 10000^(2i/D)),   p[t, 2i+1] = cos(t / 10000^(2i/D))
#pragma once

#include <array>
#include <cmath>
#include <optional>
#include <variant>
#include <vector>

#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer {

struct AxialPositions {
  std::array<Index, 2> shape = {64, 64};    ///< n_0, n_1: lengths up to their product
  std::array<Index, 2> widths = {64, 192};  ///< d_0, d_1: their sum is D
};
struct LearnedPositions {
  Index max_length = 2048;
};
struct SinusoidalPositions {};

using PositionConfig = std::variant<AxialPositions, LearnedPositions, SinusoidalPositions>;

/// Longest sequence, or no value when there is no limit.
inline std::optional<Index> max_length(const PositionConfig& config) {
  if (const auto* axial = std::get_if<AxialPositions>(&config)) {
    return axial->shape[0] * axial->shape[1];
  }
  if (const auto* learned = std::get_if<LearnedPositions>(&config)) return learned->max_length;
  return {};
}

inline void check_config(std::string_view function, const PositionConfig& config, Index width) {
  if (const auto* axial = std::get_if<AxialPositions>(&config)) {
    for (std::size_t i = 0; i < 2; ++i) {
      check_at_least(function, "axial position shape", axial->shape[i], 1);
      check_at_least(function, "axial position width", axial->widths[i], 1);
    }
    check(axial->widths[0] + axial->widths[1] == width, function, "axial position widths are ",
          axial->widths[0], " + ", axial->widths[1], ", must add up to the model width ", width);
  } else if (const auto* learned = std::get_if<LearnedPositions>(&config)) {
    check_at_least(function, "max_length", learned->max_length, 1);
  }
}

/// Throws `std::invalid_argument` if a sequence is longer than there are positions.
inline void check_length(std::string_view function, const PositionConfig& config, Index length) {
  const auto longest = max_length(config);
  check(
      !longest || length <= *longest, function, "length is ", length,
      ", but there are positions for at most ", longest.value_or(0),
      (std::holds_alternative<AxialPositions>(config) ? " (the product of the axial position shape)"
                                                      : " (max_length)"));
}

/// Position vectors with their parameters.
template <typename Scalar>
class Positions {
 public:
  Positions(const std::string& name, const PositionConfig& config, Index width)
      : config_((check_config("Positions", config, width), config)), width_(width) {
    if (const auto* axial = std::get_if<AxialPositions>(&config)) {
      for (std::size_t i = 0; i < 2; ++i) {
        tables_.emplace_back(name + ".weights." + std::to_string(i), axial->shape[i],
                             axial->widths[i]);
      }
    } else if (const auto* learned = std::get_if<LearnedPositions>(&config)) {
      tables_.emplace_back(name + ".weight", learned->max_length, width);
    }
  }

  const PositionConfig& config() const { return config_; }

  /// x[j] += p[t, j] for one row `[D]`
  void add_row(Index t, Scalar* x) const {
    if (std::holds_alternative<SinusoidalPositions>(config_)) {
      for (Index j = 0; j < width_; ++j) {
        const double angle =
            static_cast<double>(t) *
            std::pow(10000.0, -static_cast<double>(j / 2 * 2) / static_cast<double>(width_));
        x[j] += static_cast<Scalar>(j % 2 == 0 ? std::sin(angle) : std::cos(angle));
      }
      return;
    }
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      const auto table = view(tables_[i].value);
      simd::add(table.columns, table.row(row_of(i, t)), x);
      x += table.columns;
    }
  }

  /// Table gradients += sum over sequences of dx `[B*T, D]`.
  void backward(const MatrixView<const Scalar>& dx, const Pass& pass) {
    constexpr Index block = 32;
    Index first_column = 0;
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      const auto gradient = view(tables_[i].gradient);
      // Each task owns columns of the table and walks all rows, so that every sum has one order.
      parallel_for(pass.workspace.threads(), ceil_div(gradient.columns, block),
                   [&](Index task, int) {
                     const Index j = task * block, n = std::min(block, gradient.columns - j);
                     for (Index row = 0; row < dx.rows; ++row) {
                       simd::add(n, dx.row(row) + first_column + j,
                                 gradient.row(row_of(i, row % pass.length)) + j);
                     }
                   });
      first_column += gradient.columns;
    }
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    for (auto& table : tables_) f(table);
  }

 private:
  Index row_of(std::size_t table, Index t) const {
    if (tables_.size() < 2) return t;
    const Index columns = tables_[1].value.rows();  // n_1
    return table == 0 ? t / columns : t % columns;
  }

  PositionConfig config_;
  Index width_;
  std::vector<Parameter<Scalar>> tables_;
};

}  // namespace reformer
