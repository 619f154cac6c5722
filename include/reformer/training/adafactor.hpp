// SPDX-License-Identifier: MIT
/// @file
/// Adafactor (Shazeer, Stern, arXiv 1804.04235), the optimiser of the paper: second moments of a
/// matrix in one row and one column.
///
///     beta_t = 1 - t^-0.8,   u = g^2 + epsilon_1
///     matrix:  r = beta_t r + (1 - beta_t) mean over columns of u,  c likewise over rows,   v_ij =
///     r_i c_j / mean(r) vector:  v = beta_t v + (1 - beta_t) u d = g / sqrt(v),  d = d / max(1,
///     rms(d) / clip) x = x - rate max(epsilon_2, rms(x)) d       (the factor of x only with
///     `scale_by_parameter`)
///
/// No first moment.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer {

struct AdafactorConfig {
  double decay_exponent = 0.8;
  double epsilon1 = 1e-30;
  double epsilon2 = 1e-3;
  double clip = 1;
  bool scale_by_parameter = true;
};

/// State: one row and one column for each matrix, one row for each vector.
template <typename Scalar>
class Adafactor {
 public:
  explicit Adafactor(const AdafactorConfig& config = {}) : config_(config) {
    check(config.decay_exponent > 0 && config.decay_exponent <= 1, "Adafactor",
          "decay_exponent is ", config.decay_exponent, ", must be in (0, 1]");
    check(config.clip > 0, "Adafactor", "clip is ", config.clip, ", must be positive");
  }

  /// Changes the parameters by their gradients, times `gradient_scale`.
  /// @param model  anything with `for_each_parameter`
  /// @throw std::invalid_argument if a parameter has no gradient
  template <typename Model>
  void step(Workspace& workspace, Model& model, double rate, double gradient_scale = 1) {
    check_gradients("Adafactor::step", model);
    if (rows_.empty()) allocate(model);
    std::vector<Parameter<Scalar>*> parameters;
    Index widest = 0;
    model.for_each_parameter([&](Parameter<Scalar>& p) {
      parameters.push_back(&p);
      widest = std::max(widest, p.value.cols());
    });
    Scratch scratch(workspace);
    const auto memory = scratch.per_thread<Scalar>(2 * widest);
    ++steps_;
    const double beta = 1 - std::pow(static_cast<double>(steps_), -config_.decay_exponent);
    // One task for each parameter: rows and columns are summed in one order.
    parallel_for(workspace.threads(), static_cast<Index>(parameters.size()),
                 [&](Index i, int thread) {
                   const auto index = static_cast<std::size_t>(i);
                   update(*parameters[index], rows_[index], columns_[index], rate, beta,
                          gradient_scale, memory[thread]);
                 });
  }

  std::int64_t& steps() { return steps_; }

  /// Makes the state for a model's parameters.
  template <typename Model>
  void allocate(Model& model) {
    rows_.clear();
    columns_.clear();
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      rows_.emplace_back(Matrix<Scalar>::Zero(1, is_matrix(p) ? p.value.rows() : 0));
      columns_.emplace_back(Matrix<Scalar>::Zero(1, p.value.cols()));
    });
  }

  /// Visits the state as `f(name, matrix)`, in the order of the model's parameters.
  template <typename Model, typename F>
  void for_each_state(Model& model, F&& f) {
    std::size_t index = 0;
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      if (index >= rows_.size()) return;
      f("adafactor.rows." + p.name, rows_[index]);
      f("adafactor.columns." + p.name, columns_[index]);
      ++index;
    });
  }

 private:
  static bool is_matrix(const Parameter<Scalar>& p) { return p.value.rows() > 1; }

  /// @param memory  scratch, two rows of the parameter
  void update(Parameter<Scalar>& p, Matrix<Scalar>& row, Matrix<Scalar>& column, double rate,
              double beta, double gradient_scale, Scalar* memory) const {
    const Index m = p.value.rows(), n = p.value.cols();
    if (m * n == 0) return;
    const auto scale = static_cast<Scalar>(gradient_scale);
    const auto b = static_cast<Scalar>(beta), c = static_cast<Scalar>(1 - beta);
    const auto tiny = static_cast<Scalar>(config_.epsilon1);
    Eigen::Map<Matrix<Scalar>> column_mean(memory, 1, n), column_factor(memory + n, 1, n);
    column_mean.setZero();
    for (Index i = 0; i < m; ++i) {
      const auto squares = (p.gradient.row(i) * scale).array().square() + tiny;
      if (is_matrix(p)) row(0, i) = b * row(0, i) + c * squares.mean();
      column_mean.array() += squares / static_cast<Scalar>(m);
    }
    column = b * column + c * column_mean;
    const Scalar mean_row = is_matrix(p) ? row.mean() : Scalar(1);
    // 1 / sqrt(v_ij) = row_factor(i) / sqrt(column_j)
    const auto row_factor = [&](Index i) {
      return is_matrix(p) ? std::sqrt(mean_row / row(0, i)) : Scalar(1);
    };
    column_factor = column.array().rsqrt().matrix();
    double squares = 0;
    for (Index i = 0; i < m; ++i) {
      squares += static_cast<double>(
          (p.gradient.row(i) * scale).cwiseProduct(column_factor).squaredNorm() * row_factor(i) *
          row_factor(i));
    }
    const auto size = static_cast<double>(m * n);
    const double clip = std::max(1.0, std::sqrt(squares / size) / config_.clip);
    const double parameter_scale =
        config_.scale_by_parameter
            ? std::max(config_.epsilon2,
                       std::sqrt(static_cast<double>(p.value.squaredNorm()) / size))
            : 1.0;
    const double step = rate * parameter_scale / clip;
    for (Index i = 0; i < m; ++i) {
      p.value.row(i) -= (p.gradient.row(i) * (scale * static_cast<Scalar>(step) * row_factor(i)))
                            .cwiseProduct(column_factor);
    }
  }

  AdafactorConfig config_;
  std::int64_t steps_ = 0;
  std::vector<Matrix<Scalar>> rows_, columns_;
};

}  // namespace reformer
