// SPDX-License-Identifier: MIT
/// @file
/// metrics.jsonl: one JSON object per line, first a header, then records in the order of steps.
///
/// Each record has a "type" ("header", "train", "validation", "test") and, but for the header, the
/// "step" after which it holds. What is only known once training is over has "final": true. NaN and
/// infinity, which JSON does not know, become null. Each line goes to the file at once, so that the
/// file of a running or a killed program can be read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

namespace training {

class MetricsWriter {
 public:
  /// A new file that begins with `header`. An old file of that name is replaced.
  /// @throw std::runtime_error when it cannot be written
  static MetricsWriter start(const std::filesystem::path& path, const nlohmann::json& header);

  /// Continues the file of an interrupted run after `step`: later records, what is final and a
  /// line cut off by a crash are dropped, so that the file goes on as if nothing had happened. Its
  /// own header stays; `header` is used when there is no file any more.
  /// @throw std::runtime_error when it cannot be written, or is not such a file (and is not
  /// touched)
  static MetricsWriter resume(const std::filesystem::path& path, const nlohmann::json& header,
                              std::int64_t step);

  ~MetricsWriter();
  MetricsWriter(MetricsWriter&& other) noexcept;
  MetricsWriter& operator=(MetricsWriter&&) = delete;

  /// Appends one line. @throw std::runtime_error when the disk does not take it
  void write(const nlohmann::json& record);

 private:
  explicit MetricsWriter(std::filesystem::path path);

  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace training
