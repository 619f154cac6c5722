// SPDX-License-Identifier: MIT
/// @file
/// What the optimisers share: whose state they hold, and which arguments of a step mean something.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Requires 0 <= value, finite in the parameters' type: there a large double may be infinite.
template <typename Scalar>
void check_finite(std::string_view function, std::string_view name, double value) {
  check(value >= 0 && value <= static_cast<double>(std::numeric_limits<Scalar>::max()), function,
        name, " is ", value, ", must be finite and not negative");
}

/// Requires a value that is positive and finite in the parameters' type. Smaller than its normal
/// numbers, it would become 0 somewhere.
template <typename Scalar>
void check_positive(std::string_view function, std::string_view name, double value) {
  check(value >= static_cast<double>(std::numeric_limits<Scalar>::min()) &&
            value <= static_cast<double>(std::numeric_limits<Scalar>::max()),
        function, name, " is ", value, ", must be positive and finite in the parameters' type");
}

/// Elements that a task handles at a time.
inline constexpr Index optimizer_block = 16384;

/// Calls `work(begin, end)` in parallel for pieces of a parameter's elements, which are all that
/// may have a gradient.
template <typename Scalar, typename Work>
void for_each_piece(int threads, const Parameter<Scalar>& p, const Work& work) {
  if (p.reached) {
    const auto& rows = p.reached->list();
    for_each_row_tile(threads, static_cast<Index>(rows.size()), [&](Index first, Index count, int) {
      for (Index i = first; i < first + count; ++i) {
        const Index begin = rows[static_cast<std::size_t>(i)] * p.value.cols();
        work(begin, begin + p.value.cols());
      }
    });
    return;
  }
  parallel_for(threads, ceil_div(p.size(), optimizer_block), [&](Index task, int) {
    const Index begin = task * optimizer_block;
    work(begin, std::min(begin + optimizer_block, p.size()));
  });
}

/// The arguments of a step, and how many steps there were before.
template <typename Scalar>
void check_step(std::string_view function, std::int64_t steps, double rate, double gradient_scale) {
  check_finite<Scalar>(function, "rate", rate);
  check(std::abs(gradient_scale) <= static_cast<double>(std::numeric_limits<Scalar>::max()),
        function, "gradient_scale is ", gradient_scale, ", must be finite");
  check(steps >= 0 && steps < std::numeric_limits<std::int64_t>::max(), function, "steps is ",
        steps, ", must be in [0, 2^63 - 1)");
}

/// A matrix of an optimiser's state for a parameter: what stands before its name, and the shape.
struct StateShape {
  std::string_view prefix;
  Index rows, columns;
};

/// Names and shapes of the parameters that an optimiser holds state for.
class StateOwner {
 public:
  StateOwner() = default;
  template <typename Model>
  explicit StateOwner(Model& model) {
    model.for_each_parameter([&](const auto& p) {
      parameters_.push_back({p.name, p.value.rows(), p.value.cols()});
    });
  }

  bool operator==(const StateOwner&) const = default;

  /// Whether there is no state yet.
  bool is_empty() const { return parameters_.empty(); }

  /// @throw std::invalid_argument unless the model has these parameters, in this order
  template <typename Model>
  void check_owns(std::string_view function, Model& model) const {
    constexpr std::string_view rule = " as in the model whose state this is";
    std::size_t count = 0;
    model.for_each_parameter([&](const auto&) { ++count; });
    check(count == parameters_.size(), function, "the model has ", count, " parameters, must have ",
          parameters_.size(), rule);
    std::size_t index = 0;
    model.for_each_parameter([&](const auto& p) {
      const Shape& own = parameters_[index];
      check(p.name == own.name, function, "parameter ", index, " is ", p.name, ", must be ",
            own.name, rule);
      check(p.value.rows() == own.rows && p.value.cols() == own.columns, function, p.name, " is [",
            p.value.rows(), ", ", p.value.cols(), "], must be [", own.rows, ", ", own.columns, "]",
            rule);
      ++index;
    });
  }

 private:
  struct Shape {
    std::string name;
    Index rows, columns;
    bool operator==(const Shape&) const = default;
  };
  std::vector<Shape> parameters_;
};

/// The state is handed out to be filled, not to be replaced by one of another shape.
template <typename Scalar>
void check_state(std::string_view function, const StateShape& shape, std::string_view parameter,
                 const Matrix<Scalar>& state) {
  check(state.rows() == shape.rows && state.cols() == shape.columns, function, shape.prefix,
        parameter, " is [", state.rows(), ", ", state.cols(), "], must be [", shape.rows, ", ",
        shape.columns, "]");
}

}  // namespace reformer::inline REFORMER_ABI::detail
