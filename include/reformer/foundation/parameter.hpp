// SPDX-License-Identifier: MIT
/// @file
/// A trainable matrix: name, role, value, gradient.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/function_ref.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI {

/// What a parameter is for. Initial values and weight decay are chosen by it; its name says where
/// it is in a model and in files, and nothing else.
enum class Role {
  weight,          ///< `[in, out]` of a product y = x W: rows are its fan-in, columns its fan-out
  head_weight,     ///< `[in, V]`, the weight of the product that gives the logits
  gain,            ///< `[1, width]`, what a norm multiplies by: initially 1
  bias,            ///< `[1, width]`, what a norm or a product adds: initially 0
  embedding,       ///< `[V, D]`, a vector for each token
  position_table,  ///< `[T, D]`, vectors of positions, or parts of them along an axis
  mixture,         ///< `[2, H]`, shares of own and of following values: initially 0 and 1
  temperature,     ///< `[1, H]`, what cosines between queries and keys are multiplied by
  ngram_table,     ///< `[rows, D]` or `[rows, H*K]`, vectors of hashed n-grams: initially 0
};

/// Rows of a table that a step has reached. A table of many rows, of which a step reaches few, is
/// not worth walking through as a whole.
class ReachedRows {
 public:
  explicit ReachedRows(Index rows) : has_(static_cast<std::size_t>(rows), 0) {
    list_.reserve(has_.size());  // backward passes allocate nothing
  }

  void insert(Index row) {
    auto& has = has_[static_cast<std::size_t>(row)];
    if (has == 0) list_.push_back(row);
    has = 1;
  }
  void clear() {
    for (const Index row : list_) has_[static_cast<std::size_t>(row)] = 0;
    list_.clear();
  }
  /// In the order in which they were reached, or sorted.
  const std::vector<Index>& list() const { return list_; }
  void sort() { std::sort(list_.begin(), list_.end()); }

  std::size_t bytes() const { return has_.size() + sizeof(Index) * list_.capacity(); }

 private:
  std::vector<std::uint8_t> has_;
  std::vector<Index> list_;
};

/// A trainable matrix. Vectors (biases, scales) are matrices of one row.
///
/// Layers show their parameters through `for_each_parameter(f)`, in a fixed order; optimisers,
/// checkpoints and checks all loop through it. Backward passes add to `gradient` (`+=`); it is
/// empty until `allocate_gradient`.
template <typename Scalar>
struct Parameter {
  std::string name;
  Role role = Role::weight;
  Matrix<Scalar> value;     ///< linear weights are [in, out]: y = x W
  Matrix<Scalar> gradient;  ///< same shape as `value`, or empty
  /// Optimisers leave it and their state of it as they are, weight decay included, and clipping
  /// leaves it out of the norm. Its gradient is computed all the same. Not part of files.
  bool is_frozen = false;
  /// Where there is a list: rows of the gradient that are not in it are zero. Backward passes add
  /// to it, and who writes the gradient otherwise must too.
  std::optional<ReachedRows> reached;

  Parameter() = default;
  /// A value of zeros.
  /// @throw std::invalid_argument for a negative size
  Parameter(std::string name_, Role role_, Index rows, Index columns)
      : name(std::move(name_)), role(role_) {
    check_at_least("Parameter", "rows", rows, 0);
    check_at_least("Parameter", "columns", columns, 0);
    value = Matrix<Scalar>::Zero(rows, columns);
  }

  Index size() const { return value.size(); }
  bool has_gradient() const {
    return gradient.rows() == value.rows() && gradient.cols() == value.cols();
  }
  void allocate_gradient() {
    if (!has_gradient()) gradient = Matrix<Scalar>::Zero(value.rows(), value.cols());
  }
  /// Sets the gradient to zero, allocating it at first.
  void zero_gradient() {
    allocate_gradient();
    if (!reached) {
      gradient.setZero();
      return;
    }
    for (const Index row : reached->list()) gradient.row(row).setZero();
    reached->clear();
  }
};

/// What models and stacks make of the function that `for_each_parameter` is given.
template <typename Scalar>
using ParameterVisitor = FunctionRef<void(Parameter<Scalar>&)>;
/// The same of those that are const.
template <typename Scalar>
using ConstParameterVisitor = FunctionRef<void(const Parameter<Scalar>&)>;

namespace detail {
/// Throws `std::invalid_argument` unless every parameter of the layer or model has a gradient.
template <typename Layer>
void check_gradients(std::string_view function, Layer& layer) {
  layer.for_each_parameter([&](const auto& p) {
    check(p.has_gradient(), function, p.name, " has no gradient, call zero_gradients first");
  });
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
