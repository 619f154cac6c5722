// SPDX-License-Identifier: MIT
/// @file
/// Checks of error messages.
#pragma once

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <string_view>

namespace reformer::test {

/// Whether `part` occurs in `text`; both are shown when it does not.
inline testing::AssertionResult contains(std::string_view text, std::string_view part) {
  if (text.find(part) != std::string_view::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "\"" << part << "\" is not in \"" << text << "\"";
}

/// Calls `action`, which must throw `Error`, and returns its message, which must be one line.
template <typename Error = std::invalid_argument, typename Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    return message.find('\n') == std::string::npos ? message : "MORE THAN ONE LINE: " + message;
  }
  return "NOTHING WAS THROWN";
}

}  // namespace reformer::test
