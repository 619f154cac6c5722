// SPDX-License-Identifier: MIT
#include "console.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <system_error>

#include "options.hpp"

namespace training {

void open_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) < 0 && errno == EBADF) {
      [[maybe_unused]] const int opened = ::open("/dev/null", O_RDWR);
    }
  }
}

int with_errors_reported(const std::string& program, const Console& console,
                         const std::function<int()>& action, const std::string& less_memory) {
  const auto report = [&](std::string text, int code) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    std::fflush(console.out);
    // Not by fmt, which throws where this cannot be written either.
    std::fputs(fmt::format("{}: {}\n", program, text).c_str(), console.error);
    std::fflush(console.error);
    return code;
  };
  const auto report_lost_output = [&](const std::string& reason) {
    return report("cannot write to standard output" + reason, exit_failure);
  };
  open_standard_streams();
  try {
    const int code = action();
    if (std::fflush(console.out) != 0) {
      return report_lost_output(": " + std::generic_category().message(errno));
    }
    return std::ferror(console.out) != 0 ? report_lost_output("") : code;
  } catch (const OptionError& error) {
    return report(error.what(), exit_usage);
  } catch (const std::bad_alloc&) {
    return report("there is not enough memory" +
                      (less_memory.empty() ? "" : fmt::format("; {} takes less", less_memory)),
                  exit_failure);
  } catch (const std::filesystem::filesystem_error& error) {
    return report(error.path1().empty() ? error.what()
                                        : fmt::format("cannot use '{}': {}", error.path1().string(),
                                                      error.code().message()),
                  exit_failure);
  } catch (const std::system_error& error) {
    return std::ferror(console.out) != 0 ? report_lost_output(": " + error.code().message())
                                         : report(error.what(), exit_failure);
  } catch (const std::exception& error) {
    return report(error.what(), exit_failure);
  }
}

}  // namespace training
