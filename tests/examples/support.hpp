// SPDX-License-Identifier: MIT
/// @file
/// Files and checks of messages, for the tests of the examples.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/files.hpp"

namespace enwik8::test {

using Strings = std::vector<std::string>;

using reformer::test::read_file;
using reformer::test::TemporaryFolder;
using reformer::test::write_file;

/// Whether `part` occurs in `text`; both are shown when it does not.
inline testing::AssertionResult contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "\"" << part << "\" is not in \"" << text << "\"";
}

/// Calls `action`, which must throw `Error`, and returns its message, which must be one line.
template <typename Error, typename Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    return message.find('\n') == std::string::npos ? message : "MORE THAN ONE LINE: " + message;
  }
  return "NOTHING WAS THROWN";
}

}  // namespace enwik8::test
