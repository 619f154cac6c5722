// SPDX-License-Identifier: MIT
/// @file
/// Tables of calls with one argument out of range, and what each must answer.
#pragma once

#include <gtest/gtest.h>

#include <iostream>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <typeinfo>

#include "reformer/foundation/check.hpp"

namespace reformer::test {

/// A call of the library with one argument out of range, or of a file that is.
template <typename Fixture>
struct Refusal {
  std::string_view function;               ///< without the namespace
  std::string_view quantity, value, rule;  ///< pieces of the message, in this order
  void (*call)(Fixture&);
};

/// A field of a configuration that is out of range.
template <typename Config>
struct BadField {
  std::string_view quantity, value, rule;
  void (*change)(Config&);
};

/// Bits of what a call could have written.
class Bits {
 public:
  template <typename Values>
  Bits& add(const Values& values) {
    text_.append(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::size_t>(values.size()) * sizeof(*values.data()));
    return *this;
  }
  Bits& add(Index number) { return add(std::span(&number, 1)); }
  bool operator==(const Bits&) const = default;

 private:
  std::string text_;
};

/// Calls `action`, which must throw exactly `Error`, in one line with the pieces in their order.
template <typename Error = std::invalid_argument, typename Action>
void expect_answer(std::string_view function, std::string_view quantity, std::string_view value,
                   std::string_view rule, const Action& action) {
  std::string message = "nothing was thrown";
  bool is_error = false;
  try {
    action();
  } catch (const std::exception& error) {
    message = error.what();
    is_error = typeid(error) == typeid(Error);
  }
  EXPECT_TRUE(is_error) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  if (std::is_same_v<Error, std::invalid_argument>) {
    EXPECT_TRUE(message.starts_with(reformer::detail::join("reformer::", function, ":")))
        << message;
  }
  std::size_t at = 0;
  for (const std::string_view piece : {quantity, value, rule}) {
    const std::size_t found = message.find(piece, at);
    EXPECT_NE(found, std::string::npos) << "\"" << piece << "\" is not in its place in " << message;
    if (found != std::string::npos) at = found + piece.size();
  }
}

/// The same of all rows; nothing that the fixture shows may have changed, and no scratch of its
/// workspace may be in use.
/// @return the number of cases
template <typename Fixture, typename Error = std::invalid_argument>
std::size_t expect_refused(Fixture& fixture, std::span<const Refusal<Fixture>> table) {
  for (const auto& row : table) {
    SCOPED_TRACE(
        reformer::detail::join(row.function, ": ", row.quantity, " ", row.value, ", ", row.rule));
    const Bits before = fixture.bits();
    expect_answer<Error>(row.function, row.quantity, row.value, row.rule,
                         [&] { row.call(fixture); });
    EXPECT_TRUE(fixture.bits() == before) << "something was written";
    EXPECT_EQ(fixture.workspace.bytes_in_use(), 0U);
  }
  return table.size();
}

/// Makes something of a configuration with one bad field after the other.
/// @return the number of cases
template <typename Config, typename Make>
std::size_t expect_refused(std::string_view function, const Config& good,
                           std::span<const BadField<Config>> table, const Make& make) {
  EXPECT_NO_THROW(make(good));
  for (const auto& row : table) {
    SCOPED_TRACE(
        reformer::detail::join(function, ": ", row.quantity, " ", row.value, ", ", row.rule));
    Config bad = good;
    row.change(bad);
    expect_answer(function, row.quantity, row.value, row.rule, [&] { make(bad); });
  }
  return table.size();
}

/// Prints and checks how many cases there were.
inline void expect_cases(std::size_t cases, std::size_t least) {
  std::cout << cases << " cases\n";
  EXPECT_GE(cases, least);
}

}  // namespace reformer::test
