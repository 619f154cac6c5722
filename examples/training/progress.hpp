// SPDX-License-Identifier: MIT
/// @file
/// What the user sees while a run goes on: one line that renews itself on a terminal, plain lines
/// now and then elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace training {

/// One moment of a run.
struct ProgressValues {
  std::int64_t step = 0;
  std::int64_t total_steps = 0;  ///< 0 when the run is limited by time only
  double bits = 0;               ///< for each unit
  std::string_view unit = "bits per byte";
  double tokens_per_second = 0;
  double learning_rate = 0;
  std::size_t memory_bytes = 0;
  double seconds_left = 0;
};

/// "step 120/1000 | 2.431 bits per byte | 15.2 k tokens/s | lr 9.8e-04 | 312 MB | 3:20 left"
std::string format_progress(const ProgressValues& values);

/// "812 bytes", "34.5 kB", "1.25 GB" (powers of 1000, three digits).
std::string format_bytes(std::size_t bytes);

/// A sentence for when `planned` bytes are more than the machine has, or than its container allows;
/// empty when they fit. @param machine  0 when unknown
std::string memory_warning(std::size_t planned, std::size_t machine,
                           std::optional<std::size_t> container);

/// "0:07", "12:30", "3:05:09"; an unknown (negative or not finite) time is "?".
std::string format_duration(double seconds);

/// Resident memory of this process in bytes now, and at its peak; 0 where the system does not tell.
std::size_t resident_memory();
std::size_t peak_resident_memory();

class Progress {
 public:
  /// Writes to `out`; `terminal` says whether to renew a line or to print plain ones, and is found
  /// out when not given.
  explicit Progress(std::FILE* out = stdout, std::optional<bool> terminal = std::nullopt);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows the values if it is time to: ten times a second on a terminal, else every ten seconds in
  /// the first ten minutes and every minute after that. The first call always shows.
  /// @param seconds  time since the start of the run
  /// @param force  shows at once, for the last step
  void update(double seconds, const ProgressValues& values, bool force = false);
  /// The same with a line of one's own.
  void update(double seconds, std::string line, bool force = false);

  /// Prints a line of its own, above the one that renews itself.
  void message(std::string_view line);

  /// Ends the line that renews itself; what was shown last stays.
  void finish();

 private:
  void erase_line();

  std::FILE* out_;
  bool terminal_;
  bool line_open_ = false;
  std::optional<double> last_shown_;
};

}  // namespace training
