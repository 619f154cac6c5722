// SPDX-License-Identifier: MIT
/// @file
/// What metrics.jsonl tells of a run, for tables and plots.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace training {

/// A point of a curve.
struct CurvePoint {
  std::int64_t step = 0;
  double seconds = 0;  ///< since the begin of the run
  double bits = 0;     ///< per byte or dimension
};

struct RunRecord {
  std::string name;  ///< of the folder
  nlohmann::json header;
  std::vector<CurvePoint> train, validation;
  std::optional<double> test_bits;        ///< of a run that has ended
  std::optional<double> validation_bits;  ///< the last one
  std::int64_t tokens = 0;                ///< learned from
  double tokens_per_second = 0;           ///< of the last record
  std::int64_t memory_bytes = 0;          ///< at most
};

/// Reads the metrics of a run; a last line that is still being written is left out.
/// @param place  the folder of the run, or the file
/// @throw std::runtime_error with one line when there is none, or it is something else
RunRecord read_run(const std::filesystem::path& place);

}  // namespace training
