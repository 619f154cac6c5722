// SPDX-License-Identifier: MIT
/// @file
/// What the optimisers share: the state, whose it is, and which arguments of a step mean something.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/function_ref.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI {

/// Elements `[begin, end)` of a parameter, in the order of its memory.
struct Slice {
  Index begin = 0, end = 0;

  Index size() const { return end - begin; }
  bool operator==(const Slice&) const = default;
};

namespace detail {

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

/// The elements of a parameter that a step of a model changes: all, unless the model says
/// otherwise, as part `rank` of a model whose optimiser is divided does.
template <typename Model, typename Scalar>
Slice slice_of(const Model& model, std::size_t index, const Parameter<Scalar>& p) {
  if constexpr (requires { model.slice(index); }) {
    return model.slice(index);
  } else {
    return {0, p.size()};
  }
}

/// The parameters of a model, whatever its type, as an optimiser sees them. Refers to the model.
/// @tparam P  `Parameter<Scalar>`, or that with const
template <typename P>
struct ParameterSource {
  FunctionRef<void(FunctionRef<void(P&)>)> for_each_parameter;
  FunctionRef<Slice(std::size_t, const P&)> slice;  ///< of parameter i: see `slice_of`
};

/// Calls `action` with the parameters of a model.
template <typename P, typename Model, typename Action>
void with_parameters(Model& model, const Action& action) {
  const auto visit = [&](FunctionRef<void(P&)> f) {
    model.for_each_parameter([&](P& p) { f(p); });
  };
  const auto slice = [&](std::size_t index, const P& p) { return slice_of(model, index, p); };
  action(ParameterSource<P>{visit, slice});
}

/// Calls `work(begin, end)` in parallel for pieces of a parameter's elements, which are all of the
/// slice that may have a gradient. Rows that were reached must be in the slice.
template <typename Scalar, typename Work>
void for_each_piece(int threads, const Parameter<Scalar>& p, const Slice& slice, const Work& work) {
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
  parallel_for(threads, ceil_div(slice.size(), optimizer_block), [&](Index task, int) {
    const Index begin = slice.begin + task * optimizer_block;
    work(begin, std::min(begin + optimizer_block, slice.end));
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

/// The state of a slice of a parameter, in one row, given that of all of it.
inline std::array<StateShape, 2> slice_shapes(std::array<StateShape, 2> shapes, Index size,
                                              const Slice& slice) {
  if (slice.size() == size) return shapes;
  for (StateShape& shape : shapes) {
    const bool has_element_for_each = shape.rows * shape.columns == size && slice.size() > 0;
    shape.rows = has_element_for_each ? 1 : 0;
    shape.columns = has_element_for_each ? slice.size() : 0;
  }
  return shapes;
}

/// Names and shapes of the parameters that an optimiser holds state for.
class StateOwner {
 public:
  StateOwner() = default;
  template <typename P>
  explicit StateOwner(const ParameterSource<P>& source) {
    source.for_each_parameter([&](const P& p) {
      parameters_.push_back({p.name, p.value.rows(), p.value.cols()});
    });
  }

  bool operator==(const StateOwner&) const = default;

  /// Whether there is no state yet.
  bool is_empty() const { return parameters_.empty(); }

  /// @throw std::invalid_argument unless the model has these parameters, in this order
  template <typename P>
  void check_owns(std::string_view function, const ParameterSource<P>& source) const {
    constexpr std::string_view rule = " as in the model whose state this is";
    std::size_t count = 0;
    source.for_each_parameter([&](const P&) { ++count; });
    check(count == parameters_.size(), function, "the model has ", count, " parameters, must have ",
          parameters_.size(), rule);
    std::size_t index = 0;
    source.for_each_parameter([&](const P& p) {
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

/// An optimiser's step, and its state: the number of steps, and two matrices for each parameter,
/// either of which may be empty, in the order of `for_each_parameter`. It belongs to the model of
/// the first step (or of `allocate`): any other must have parameters of the same names and shapes,
/// such as a copy of that model has.
/// @tparam Optimizer  derived from this; has `name`, `state_shapes(parameter)` and `take_step`
template <typename Scalar, typename Optimizer>
class OptimizerState {
 public:
  /// Changes the parameters that are not frozen by their gradients, times `gradient_scale`.
  /// Gradients are not looked at: one that is not finite makes its parameter so. `clipping_scale`
  /// refuses their norm.
  /// @param model  anything with `for_each_parameter`
  /// @param rate   finite and not negative
  /// @throw std::invalid_argument, before anything is changed, if a parameter has no gradient, if
  ///   the state is that of other parameters, or for arguments out of range
  template <typename Model>
  void step(Workspace& workspace, Model& model, double rate, double gradient_scale = 1) {
    with_parameters<const Parameter<Scalar>>(model, [&](const Source& source) {
      prepare_step(workspace, source, rate, gradient_scale);
    });
    with_parameters<Parameter<Scalar>>(model, [&](const MutableSource& source) {
      static_cast<Optimizer&>(*this).take_step(workspace, source, rate, gradient_scale);
    });
  }

  /// Number of steps taken; part of the state.
  std::int64_t& steps() { return steps_; }
  std::int64_t steps() const { return steps_; }

  /// Begins anew: state of zeros for a model's parameters and no steps taken, into which a
  /// checkpoint can be read. State that has their shapes stays where it is.
  template <typename Model>
  void allocate(Model& model) {
    with_parameters<const Parameter<Scalar>>(model,
                                             [&](const Source& source) { allocate_state(source); });
    steps_ = 0;
  }

  /// Visits the state as `f(name, matrix)`, in the order of the model's parameters; nothing before
  /// there is any.
  /// @throw std::invalid_argument if the state is that of other parameters
  template <typename Model>
  void for_each_state(Model& model, auto&& f) {
    const FunctionRef<void(const std::string&, Matrix<Scalar>&)> visit(f);
    with_parameters<const Parameter<Scalar>>(
        model, [&](const Source& source) { visit_state(*this, source, visit); });
  }
  template <typename Model>
  void for_each_state(Model& model, auto&& f) const {
    const FunctionRef<void(const std::string&, const Matrix<Scalar>&)> visit(f);
    with_parameters<const Parameter<Scalar>>(
        model, [&](const Source& source) { visit_state(*this, source, visit); });
  }

 protected:
  using MutableSource = ParameterSource<Parameter<Scalar>>;

  std::int64_t steps_ = 0;
  std::vector<Matrix<Scalar>> first_, second_;

 private:
  using Source = ParameterSource<const Parameter<Scalar>>;

  static std::array<StateShape, 2> shapes_of(const Source& source, std::size_t index,
                                             const Parameter<Scalar>& p) {
    return slice_shapes(Optimizer::state_shapes(p), p.size(), source.slice(index, p));
  }

  void prepare_step(const Workspace& workspace, const Source& source, double rate,
                    double gradient_scale) {
    const std::string function = join(Optimizer::name, "::step");
    check_for_use(function, workspace);
    check_step<Scalar>(function, steps_, rate, gradient_scale);
    check_gradients(function, source);
    if (owner_.is_empty()) {
      allocate_state(source);
    } else {
      check_all(function, source);
    }
  }

  void allocate_state(const Source& source) {
    StateOwner owner(source);
    const bool is_own = owner == owner_;
    std::vector<Matrix<Scalar>> first, second;
    std::size_t index = 0;
    source.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = shapes_of(source, index, p);
      if (!is_own) {
        first.emplace_back();
        second.emplace_back();
      }
      (is_own ? first_ : first)[index].setZero(shapes[0].rows, shapes[0].columns);
      (is_own ? second_ : second)[index].setZero(shapes[1].rows, shapes[1].columns);
      ++index;
    });
    if (is_own) return;
    owner_ = std::move(owner);  // only now: what was there stays when memory ends
    first_ = std::move(first);
    second_ = std::move(second);
  }

  void check_all(std::string_view function, const Source& source) const {
    owner_.check_owns(function, source);
    std::size_t index = 0;
    source.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = shapes_of(source, index, p);
      check_state(function, shapes[0], p.name, first_[index]);
      check_state(function, shapes[1], p.name, second_[index]);
      ++index;
    });
  }

  template <typename Self, typename Visitor>
  static void visit_state(Self& self, const Source& source, Visitor f) {
    if (self.owner_.is_empty()) return;
    self.check_all(join(Optimizer::name, "::for_each_state"), source);
    std::size_t index = 0;
    source.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = shapes_of(source, index, p);
      f(join(shapes[0].prefix, p.name), self.first_[index]);
      f(join(shapes[1].prefix, p.name), self.second_[index]);
      ++index;
    });
  }

  StateOwner owner_;
};

}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
