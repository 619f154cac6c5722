// SPDX-License-Identifier: MIT
#include "console.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "options.hpp"

namespace training {

int with_errors_reported(const std::string& program, const Console& console,
                         const std::function<int()>& action, const std::string& less_memory) {
  const auto report = [&](std::string text, int code) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::fflush(console.out);
    fmt::print(console.error, "{}: {}\n", program, text);
    std::fflush(console.error);
    return code;
  };
  try {
    return action();
  } catch (const OptionError& error) {
    return report(error.what(), exit_usage);
  } catch (const std::bad_alloc&) {
    return report("there is not enough memory" +
                      (less_memory.empty() ? "" : fmt::format("; {} takes less", less_memory)),
                  exit_failure);
  } catch (const std::exception& error) {
    return report(error.what(), exit_failure);
  }
}

}  // namespace training
