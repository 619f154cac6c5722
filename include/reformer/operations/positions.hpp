// SPDX-License-Identifier: MIT
/// @file
/// Positions: axial, learned, sinusoidal.
///
/// Axial (trax, HuggingFace): position t of a grid `[n_0, ..., n_{K-1}]` in row-major order is the
/// concatenation of one row of each of K tables `[n_i, d_i]`, d_0 + ... + d_{K-1} = D: with
/// s_i = n_{i+1} ... n_{K-1}, row (t / s_i) % n_i. A million positions in a square cost 2,000 rows
/// instead of a million. Three factors are those of pictures: rows, columns, channels.
///
/// Sinusoidal (Vaswani et al., arXiv 1706.03762, section 3.5), no parameters:
///
///     p[t, 2i] = sin(t / 10000^(2i/D)),   p[t, 2i+1] = cos(t / 10000^(2i/D))
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/phases.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/operations/config.hpp"

namespace reformer::inline REFORMER_ABI {

/// Position vectors with their parameters.
template <typename Scalar>
class Positions {
 public:
  Positions(const std::string& name, const PositionConfig& config, Index width)
      : config_((check_between("Positions", "width", width, 1, max_size),
                 detail::check_config("Positions", config, width), config)),
        width_(width) {
    if (auto* axial = std::get_if<AxialPositions>(&config_)) {
      axial->widths = axial_widths(*axial, width);
      for (std::size_t i = 0; i < axial->shape.size(); ++i) {
        tables_.emplace_back(name + ".weights." + std::to_string(i), Role::position_table,
                             axial->shape[i], axial->widths[i]);
      }
    } else if (const auto* learned = std::get_if<LearnedPositions>(&config)) {
      tables_.emplace_back(name + ".weight", Role::position_table, learned->max_length, width);
    } else {
      std::vector<double> frequencies;
      for (Index j = 0; j < width; j += 2) {
        frequencies.push_back(
            std::pow(10000.0, -static_cast<double>(j) / static_cast<double>(width)));
      }
      phases_.emplace(std::move(frequencies));
    }
  }

  const PositionConfig& config() const { return config_; }

  /// x[j] += p[t, j] for one row `[D]`
  void add_row(Index t, Scalar* x) const {
    if (phases_) {
      constexpr Index most = 64;  // frequencies at once
      std::array<double, most> cosines, sines;
      for (Index first = 0; first < phases_->size(); first += most) {
        const Index count = std::min(most, phases_->size() - first);
        phases_->at(t, first, count, cosines.data(), sines.data());
        for (Index i = 0; i < count; ++i) {
          const Index j = 2 * (first + i);
          x[j] += static_cast<Scalar>(sines[static_cast<std::size_t>(i)]);
          if (j + 1 < width_) x[j + 1] += static_cast<Scalar>(cosines[static_cast<std::size_t>(i)]);
        }
      }
      return;
    }
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      const auto table = rows_of(tables_[i].value);
      simd::add(table.columns, table.row(row_of(i, t)), x);
      x += table.columns;
    }
  }

  /// Table gradients += sum over sequences of dx `[B*T, D]`. Sums run in double: a row of an axial
  /// table belongs to many positions of every sequence.
  /// @throw std::invalid_argument for another shape of dx, a length without positions, or no
  /// gradient
  void backward(const MatrixView<const Scalar>& dx, const Pass& pass) {
    constexpr auto function = "Positions::backward";
    check_pass(function, pass);
    detail::check_length(function, config_, pass.length);
    check_equal(function, "rows of dx", dx.rows, "B*T", pass.rows());
    check_equal(function, "columns of dx", dx.columns, "width", width_);
    for (const auto& table : tables_) {
      check(table.has_gradient(), function, "gradient of ", table.name, " is not allocated");
    }
    constexpr Index block = 32, most_rows = 64;  // of a table, of which one task has the sums
    const Index T = pass.length;
    Index first_column = 0;
    for (std::size_t i = 0; i < tables_.size(); ++i) {
      const auto gradient = rows_of(tables_[i].gradient);
      const Index stride = stride_of(i), period = stride * gradient.rows;
      const Index column_blocks = ceil_div(gradient.columns, block);
      const Index tasks = ceil_div(gradient.rows, most_rows) * column_blocks;
      parallel_for(pass.workspace.threads(), tasks, [&](Index task, int) {
        const Index j = task % column_blocks * block, n = std::min(block, gradient.columns - j);
        const Index first = task / column_blocks * most_rows;
        const Index rows = std::min(most_rows, gradient.rows - first);
        double sums[most_rows][block] = {};
        const auto add = [&](Index b, Index t, Index row) {
          const Scalar* x = dx.row(b * T + t) + first_column + j;
          for (Index k = 0; k < n; ++k) sums[row][k] += static_cast<double>(x[k]);
        };
        for (Index b = 0; b < pass.batch; ++b) {
          // Each row has `stride` positions one after another in every `period`.
          for (Index start = first * stride; start < T; start += period) {
            const Index end = std::min(T, start + rows * stride);
            for (Index t = start; t < end; ++t) add(b, t, (t - start) / stride);
          }
        }
        for (Index row = 0; row < rows; ++row) {
          Scalar* out = gradient.row(first + row) + j;
          for (Index k = 0; k < n; ++k) out[k] += static_cast<Scalar>(sums[row][k]);
        }
      });
      first_column += gradient.columns;
    }
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    for (auto& table : tables_) f(table);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    for (const auto& table : tables_) f(table);
  }

 private:
  /// Positions from one row of a table to its next.
  Index stride_of(std::size_t table) const {
    Index stride = 1;
    while (++table < tables_.size()) stride *= tables_[table].value.rows();
    return stride;
  }
  Index row_of(std::size_t table, Index t) const {
    return t / stride_of(table) % tables_[table].value.rows();
  }

  PositionConfig config_;
  Index width_;
  std::vector<Parameter<Scalar>> tables_;
  // Of sinusoidal positions, in double: the last bit of a float is nearly always that of the
  // formula.
  std::optional<detail::Phases<double, 64, 4>> phases_;
};

}  // namespace reformer::inline REFORMER_ABI
