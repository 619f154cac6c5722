// SPDX-License-Identifier: MIT
/// @file
/// Checks of arguments. Each throws `std::invalid_argument` with one line: function, quantity,
/// value, rule.
///
/// They run at the public entry, before work starts and never inside a parallel region.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
template <typename... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}
}  // namespace detail

/// Throws `reformer::<function>: <parts...>` unless `condition` holds.
template <typename... Parts>
void check(bool condition, std::string_view function, const Parts&... parts) {
  if (!condition) [[unlikely]] {
    throw std::invalid_argument(detail::join("reformer::", function, ": ", parts...));
  }
}

/// Requires `value >= least`.
inline void check_at_least(std::string_view function, std::string_view name, Index value,
                           Index least) {
  check(value >= least, function, name, " is ", value, ", must be at least ", least);
}

/// Requires `least <= value <= most`.
inline void check_between(std::string_view function, std::string_view name, Index value,
                          Index least, Index most) {
  check_at_least(function, name, value, least);
  check(value <= most, function, name, " is ", value, ", must be at most ", most);
}

/// Largest size of one axis, or number of one kind of thing, in a configuration: products of two
/// of them fit an `Index`.
inline constexpr Index max_size = 2147483647;

/// Largest number of elements of a parameter: its bytes, and sums of many, fit an `Index`.
inline constexpr Index max_elements = Index{1} << 40;

/// Requires that a matrix of two sizes, at least 1 each, has at most `max_elements`.
inline void check_elements(std::string_view function, std::string_view names, Index rows,
                           Index columns) {
  check(rows <= max_elements / columns, function, names, " is ", rows, " * ", columns,
        ", must be at most ", max_elements);
}

/// Requires `value == expected`.
inline void check_equal(std::string_view function, std::string_view name, Index value,
                        std::string_view expected_name, Index expected) {
  check(value == expected, function, name, " is ", value, ", must equal ", expected_name, " = ",
        expected);
}

/// Requires a probability of dropping an element, in [0, 1).
inline void check_dropout(std::string_view function, std::string_view name, double value) {
  check(value >= 0 && value < 1, function, name, " is ", value, ", must be in [0, 1)");
}

}  // namespace reformer::inline REFORMER_ABI
