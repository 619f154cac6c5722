// SPDX-License-Identifier: MIT
/// @file
/// Checks of arguments. Each throws `std::invalid_argument` with one line: function, quantity,
/// value, rule.
///
/// They run at the public entry, before work starts and never inside a parallel region.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// A part of a message. All kinds of parts are of one type, so that what puts a message together is
/// compiled once, and not for each list of types that a check anywhere has.
class Part {
 public:
  Part(std::string_view text) : kind_(Kind::text), text_(text) {}
  Part(const std::string& text) : Part(std::string_view(text)) {}
  Part(const char* text) : Part(std::string_view(text)) {}
  Part(char) = delete;  // a number, or text?
  Part(std::signed_integral auto value) : kind_(Kind::integer), integer_(value) {}
  Part(std::unsigned_integral auto value) : kind_(Kind::natural), natural_(value) {}
  Part(std::floating_point auto value) : kind_(Kind::real), real_(value) {}

  void write(std::ostream& out) const {
    switch (kind_) {
      case Kind::text:
        out << text_;
        break;
      case Kind::integer:
        out << integer_;
        break;
      case Kind::natural:
        out << natural_;
        break;
      case Kind::real:
        out << real_;
        break;
    }
  }

 private:
  enum class Kind { text, integer, natural, real } kind_;
  union {
    std::string_view text_;
    std::int64_t integer_;
    std::uint64_t natural_;
    double real_;
  };
};

inline std::string join_parts(std::initializer_list<Part> parts) {
  std::ostringstream text;
  for (const Part& part : parts) part.write(text);
  return text.str();
}

template <typename... Parts>
std::string join(const Parts&... parts) {
  return join_parts({parts...});
}

/// @param parts  begin with the function's name
[[noreturn, gnu::cold]] inline void fail(std::initializer_list<Part> parts) {
  throw std::invalid_argument(join_parts(parts));
}

// What the checks that are made most say: out of line, or each caller has the code of its message.
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_least(std::string_view function,
                                                              std::string_view name, Index value,
                                                              Index least) {
  fail({"reformer::", function, ": ", name, " is ", value, ", must be at least ", least});
}
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_most(std::string_view function,
                                                             std::string_view name, Index value,
                                                             Index most) {
  fail({"reformer::", function, ": ", name, " is ", value, ", must be at most ", most});
}
[[noreturn, gnu::cold, gnu::noinline]] inline void fail_equal(std::string_view function,
                                                              std::string_view name, Index value,
                                                              std::string_view expected_name,
                                                              Index expected) {
  fail({"reformer::", function, ": ", name, " is ", value, ", must equal ", expected_name, " = ",
        expected});
}

}  // namespace detail

/// Throws `reformer::<function>: <parts...>` unless `condition` holds.
template <typename... Parts>
void check(bool condition, std::string_view function, const Parts&... parts) {
  if (!condition) [[unlikely]]
    detail::fail({"reformer::", function, ": ", parts...});
}

/// Requires `value >= least`.
inline void check_at_least(std::string_view function, std::string_view name, Index value,
                           Index least) {
  if (value < least) [[unlikely]]
    detail::fail_least(function, name, value, least);
}

/// Requires `least <= value <= most`.
inline void check_between(std::string_view function, std::string_view name, Index value,
                          Index least, Index most) {
  check_at_least(function, name, value, least);
  if (value > most) [[unlikely]]
    detail::fail_most(function, name, value, most);
}

/// Largest size of one axis, or number of one kind of thing, in a configuration: products of two
/// of them fit an `Index`.
inline constexpr Index max_size = 2147483647;

/// Largest number of elements of a parameter: its bytes, and sums of many, fit an `Index`.
inline constexpr Index max_elements = Index{1} << 40;

/// Longest sequence: positions are numbers of the scalar type, too, and float counts up to 2^24.
inline constexpr Index longest_sequence = (Index{1} << 24) - 1;

/// Requires that a sequence can have this length.
inline void check_sequence_length(std::string_view function, Index length) {
  check_at_least(function, "length", length, 1);
  check(length <= longest_sequence, function, "length is ", length, ", must be less than 2^24");
}

/// Requires that a matrix of two sizes, at least 1 each, has at most `max_elements`.
inline void check_elements(std::string_view function, std::string_view names, Index rows,
                           Index columns) {
  check(rows <= max_elements / columns, function, names, " is ", rows, " * ", columns,
        ", must be at most ", max_elements);
}

/// Requires `value == expected`.
inline void check_equal(std::string_view function, std::string_view name, Index value,
                        std::string_view expected_name, Index expected) {
  if (value != expected) [[unlikely]]
    detail::fail_equal(function, name, value, expected_name, expected);
}

/// Requires a probability of dropping an element, in [0, 1).
inline void check_dropout(std::string_view function, std::string_view name, double value) {
  check(value >= 0 && value < 1, function, name, " is ", value, ", must be in [0, 1)");
}

}  // namespace reformer::inline REFORMER_ABI
