// SPDX-License-Identifier: MIT
/// @file
/// Configuration of the operations: activations, feed-forward, n-grams, positions.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

/// See activation.hpp.
enum class Activation { relu, gelu, gelu_tanh };

/// All activations; what each computes stands in activation.hpp.
inline constexpr std::array activations = {Activation::relu, Activation::gelu,
                                           Activation::gelu_tanh};

/// What files and messages call an activation; "" for a number that is none.
constexpr std::string_view name_of(Activation f) {
  switch (f) {
    case Activation::relu:
      return "relu";
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_tanh";
  }
  return "";
}

namespace detail {
/// Throws `std::invalid_argument` for a number that is no activation.
inline void check_activation(std::string_view function, Activation f) {
  if (!name_of(f).empty()) return;
  std::string names;
  for (std::size_t i = 0; i < activations.size(); ++i) {
    names += i == 0 ? "" : i + 1 == activations.size() ? " or " : ", ";
    names += name_of(activations[i]);
  }
  check(false, function, "activation is number ", static_cast<int>(f), ", must be ", names);
}

/// Requires an epsilon that is neither zero nor infinite in any scalar type.
inline void check_layer_norm_epsilon(std::string_view function, double epsilon) {
  check(epsilon >= 1e-37 && epsilon <= 1e37, function, "layer_norm_epsilon is ", epsilon,
        ", must be in [1e-37, 1e37]");
}
}  // namespace detail

struct FeedForwardConfig {
  Index width = 256;          ///< D
  Index hidden_width = 1024;  ///< F
  Activation activation = Activation::relu;
  double dropout = 0;  ///< of the hidden array before the activation, and of the output
  double layer_norm_epsilon = 1e-12;
};

namespace detail {
/// Throws `std::invalid_argument` for sizes out of range, an activation that is none, a dropout
/// outside [0, 1) or an epsilon out of range.
inline void check_config(std::string_view function, const FeedForwardConfig& config) {
  check_between(function, "width", config.width, 1, max_size);
  check_between(function, "hidden_width", config.hidden_width, 1, max_size);
  check_elements(function, "width * hidden_width", config.width, config.hidden_width);
  check_activation(function, config.activation);
  check_dropout(function, "dropout", config.dropout);
  check_layer_norm_epsilon(function, config.layer_norm_epsilon);
}
}  // namespace detail

// Positions: see positions.hpp.

struct AxialPositions {
  std::vector<Index> shape = {64,
                              64};  ///< n_0, ..., n_{K-1}, 2 <= K <= 8: lengths up to their product
  /// d_0, ..., d_{K-1}: their sum is D; none, or only zeros: of two a quarter of D, at least 1, and
  /// the rest, of more equal shares, rounded down, and the rest. A `Model` has them worked out in
  /// its configuration.
  std::vector<Index> widths = {};
};
struct LearnedPositions {
  Index max_length = 2048;
};
struct SinusoidalPositions {};

using PositionConfig = std::variant<AxialPositions, LearnedPositions, SinusoidalPositions>;

namespace detail {
/// The number of positions.
/// @throw std::invalid_argument for a factor out of range, or a product that is none
inline Index product_of_shape(std::string_view function, const AxialPositions& axial) {
  Index positions = 1;
  for (std::size_t i = 0; i < axial.shape.size(); ++i) {
    if (axial.shape[i] < 1 || axial.shape[i] > max_size) {  // each pass asks: no text before
      check_between(function, join("AxialPositions::shape[", i, "]"), axial.shape[i], 1, max_size);
    }
    check(positions <= std::numeric_limits<Index>::max() / axial.shape[i], function,
          "the product of AxialPositions::shape has more than 63 binary digits, must have less");
    positions *= axial.shape[i];
  }
  return positions;
}
}  // namespace detail

/// Widths of the tables for a model width.
inline std::vector<Index> axial_widths(const AxialPositions& axial, Index width) {
  const bool are_given =
      std::any_of(axial.widths.begin(), axial.widths.end(), [](Index d) { return d != 0; });
  if (are_given) return axial.widths;
  const Index K = std::ssize(axial.shape);
  const Index share = std::max<Index>(1, width / (K == 2 ? 4 : std::max<Index>(1, K)));
  std::vector<Index> widths(axial.shape.size(), share);
  if (!widths.empty()) widths.back() = width - (K - 1) * share;
  return widths;
}

/// Longest sequence, or no value when there is no limit.
/// @throw std::invalid_argument for a shape that no model can have
inline std::optional<Index> max_length(const PositionConfig& config) {
  if (const auto* axial = std::get_if<AxialPositions>(&config)) {
    return detail::product_of_shape("max_length", *axial);
  }
  if (const auto* learned = std::get_if<LearnedPositions>(&config)) return learned->max_length;
  return {};
}

namespace detail {
inline void check_config(std::string_view function, const PositionConfig& config, Index width) {
  if (const auto* axial = std::get_if<AxialPositions>(&config)) {
    const Index K = std::ssize(axial->shape);
    check_between(function, "the number of factors of AxialPositions::shape", K, 2, 8);
    check_at_least(function, "the width of a model with axial positions", width, K);
    const auto widths = axial_widths(*axial, width);
    check_equal(function, "the number of AxialPositions::widths", std::ssize(widths),
                "that of AxialPositions::shape", K);
    product_of_shape(function, *axial);
    Index sum = 0;
    std::string summands;
    for (std::size_t i = 0; i < widths.size(); ++i) {
      const auto name = [&](std::string_view field) { return detail::join(field, "[", i, "]"); };
      check_between(function, name("AxialPositions::widths"), widths[i], 1, max_size);
      check_elements(function, name("AxialPositions::shape * widths"), axial->shape[i], widths[i]);
      sum += widths[i];
      summands += detail::join(i == 0 ? "" : " + ", widths[i]);
    }
    check(sum == width, function, "AxialPositions::widths are ", summands,
          ", must add up to the model width ", width);
  } else if (const auto* learned = std::get_if<LearnedPositions>(&config)) {
    check_between(function, "LearnedPositions::max_length", learned->max_length, 1, max_size);
    check_elements(function, "LearnedPositions::max_length * width", learned->max_length, width);
  }
}

/// Throws `std::invalid_argument` if a sequence is longer than there are positions.
inline void check_length(std::string_view function, const PositionConfig& config, Index length) {
  const auto longest = max_length(config);
  check(!longest || length <= *longest, function, "length is ", length, ", must be at most ",
        longest.value_or(0), ", the number of positions: ",
        std::holds_alternative<AxialPositions>(config) ? "the product of AxialPositions::shape"
                                                       : "LearnedPositions::max_length");
}
}  // namespace detail

/// A table for the last `order` tokens.
struct NgramTable {
  Index order = 2;       ///< n, 2 to 16
  Index rows = 1 << 14;  ///< of the table; more rows, fewer n-grams that share one
  /// Of the vectors as wholes: what is left out, the rest of the model must do without. It keeps
  /// n-grams from being learnt by heart where a text is read several times.
  double dropout = 0;
};

namespace detail {
/// Throws `std::invalid_argument` naming the first field that is not possible.
inline void check_config(std::string_view function, const NgramTable& config) {
  check_between(function, "order", config.order, 2, 16);
  check_between(function, "rows", config.rows, 1, max_size);
  check_dropout(function, "dropout", config.dropout);
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
