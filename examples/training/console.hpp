// SPDX-License-Identifier: MIT
/// @file
/// What both programs share towards the outside: streams, exit codes, one line for each error.
#pragma once

#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace training {

/// Where a program writes to.
struct Console {
  std::FILE* out = stdout;
  std::FILE* error = stderr;
  std::optional<bool> terminal = std::nullopt;  ///< whether `out` is one; found out when not given
  std::string program = {};                     ///< how to call it again
};

inline constexpr int exit_success = 0;
inline constexpr int exit_failure = 1;        ///< data, files, memory, a loss that is not finite
inline constexpr int exit_usage = 2;          ///< options
inline constexpr int exit_interrupted = 130;  ///< as shells say for Ctrl-C

/// Opens standard streams that are closed, on nothing: a file that is opened meanwhile would get
/// the number of one, and with it what is meant for the terminal.
void open_standard_streams();

/// Calls `action` and turns its exceptions into a line on `console.error` and an exit code, and so
/// output that cannot be written. Opens standard streams first.
/// @param less_memory  what takes less, if there is not enough
int with_errors_reported(const std::string& program, const Console& console,
                         const std::function<int()>& action, const std::string& less_memory = "");

}  // namespace training
