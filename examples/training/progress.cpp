// SPDX-License-Identifier: MIT
#include "progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <fstream>

namespace training {
namespace {

/// A figure of /proc/self/status, which Linux gives in units of 1024 bytes.
std::size_t status_bytes(std::string_view key) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == ':') {
      return static_cast<std::size_t>(std::strtoull(line.c_str() + key.size() + 1, nullptr, 10)) *
             1024;
    }
  }
  return 0;
}

/// A number with three digits and a decimal prefix: "80", "15.2 k".
std::string with_prefix(double number) {
  static constexpr std::array<const char*, 5> prefixes{"", "k", "M", "G", "T"};
  std::size_t prefix = 0;
  // 999.5 would be printed as 1000
  while (std::abs(number) >= 999.5 && prefix + 1 < prefixes.size()) {
    number /= 1000;
    ++prefix;
  }
  const int decimals = std::abs(number) >= 99.95 || prefix == 0 ? 0
                       : std::abs(number) >= 9.995              ? 1
                                                                : 2;
  return fmt::format("{:.{}f}{}{}", number, decimals, prefix == 0 ? "" : " ", prefixes[prefix]);
}

/// Columns of the terminal, 0 when unknown.
std::size_t terminal_width(std::FILE* out) {
  winsize size{};
  return ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 ? size.ws_col : std::size_t{0};
}

}  // namespace

std::string format_bytes(std::size_t bytes) {
  return bytes < 1000 ? fmt::format("{} bytes", bytes)
                      : with_prefix(static_cast<double>(bytes)) + "B";
}

std::string memory_warning(std::size_t planned, std::size_t machine,
                           std::optional<std::size_t> container) {
  constexpr const char* advice = "a smaller --batch or --length takes less";
  if (container && planned > *container) {
    return fmt::format("warning: this container may use {}, and is killed above; {}",
                       format_bytes(*container), advice);
  }
  return machine > 0 && planned > machine
             ? fmt::format("warning: this machine has only {}; {}", format_bytes(machine), advice)
             : std::string();
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) {
    return "?";
  }
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t hours = whole / 3600;
  const std::int64_t minutes = whole / 60 % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60)
                   : fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string format_progress(const ProgressValues& values) {
  const std::string total = values.total_steps > 0 ? fmt::format("/{}", values.total_steps) : "";
  return fmt::format("step {}{} | {:.3f} {} | {} tokens/s | lr {:.1e} | {} | {} left", values.step,
                     total, values.bits, values.unit, with_prefix(values.tokens_per_second),
                     values.learning_rate, format_bytes(values.memory_bytes),
                     format_duration(values.seconds_left));
}

std::size_t resident_memory() {
  return status_bytes("VmRSS");
}
std::size_t peak_resident_memory() {
  return status_bytes("VmHWM");
}

Progress::Progress(std::FILE* out, std::optional<bool> terminal)
    : out_(out), terminal_(terminal.value_or(::isatty(::fileno(out)) == 1)) {}

Progress::~Progress() {
  finish();
}

void Progress::update(double seconds, const ProgressValues& values, bool force) {
  update(seconds, format_progress(values), force);
}

void Progress::update(double seconds, std::string line, bool force) {
  const double interval = terminal_ ? 0.1 : seconds <= 600 ? 10 : 60;
  if (!force && last_shown_ && seconds - *last_shown_ < interval) {
    return;
  }
  last_shown_ = seconds;
  if (!terminal_) {
    fmt::print(out_, "{}\n", line);
  } else {
    // A line longer than the terminal would wrap, and the next one would not cover it.
    if (const std::size_t width = terminal_width(out_); width > 1 && line.size() >= width) {
      line.resize(width - 1);
    }
    erase_line();
    fmt::print(out_, "{}", line);
    line_open_ = true;
  }
  std::fflush(out_);
}

void Progress::message(std::string_view line) {
  erase_line();
  fmt::print(out_, "{}\n", line);
  std::fflush(out_);
}

void Progress::finish() {
  if (line_open_) {
    std::fputc('\n', out_);
    std::fflush(out_);
    line_open_ = false;
  }
}

void Progress::erase_line() {
  if (line_open_) {
    std::fputs("\r\x1b[2K", out_);
    line_open_ = false;
  }
}

}  // namespace training
