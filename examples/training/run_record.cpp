// SPDX-License-Identifier: MIT
#include "run_record.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>
#include <system_error>

namespace training {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// A number that is there, finite ones alone: others are null in the file.
std::optional<double> number_of(const json& record, const char* name) {
  const auto found = record.find(name);
  return found != record.end() && found->is_number() ? std::optional(found->get<double>())
                                                     : std::nullopt;
}

void add_point(std::vector<CurvePoint>& curve, const json& record, const char* name) {
  const auto bits = number_of(record, name);
  if (!bits) {
    return;
  }
  curve.push_back({static_cast<std::int64_t>(number_of(record, "step").value_or(0)),
                   number_of(record, "seconds").value_or(0), *bits});
}

void add_record(RunRecord& run, const json& record) {
  const auto found = record.find("type");
  const std::string type =
      found != record.end() && found->is_string() ? found->get<std::string>() : "";
  if (type == "train") {
    add_point(run.train, record, "bpb");
    run.tokens_per_second = number_of(record, "tokens_per_second").value_or(0);
    run.tokens = static_cast<std::int64_t>(number_of(record, "tokens").value_or(0));
  } else if (type == "validation") {
    add_point(run.validation, record, "validation_bpb");
    run.validation_bits = number_of(record, "validation_bpb");
  } else if (type == "test") {
    run.test_bits = number_of(record, "test_bpb");
  }
  for (const char* name : {"memory_bytes", "peak_memory_bytes"}) {
    run.memory_bytes =
        std::max(run.memory_bytes, static_cast<std::int64_t>(number_of(record, name).value_or(0)));
  }
}

}  // namespace

RunRecord read_run(const fs::path& place) {
  std::error_code ignored;
  const fs::path path = fs::is_directory(place, ignored) ? place / "metrics.jsonl" : place;
  std::ifstream file;
  if (fs::is_regular_file(path, ignored)) {  // opening a pipe waits
    file.open(path, std::ios::binary);
  }
  std::string line;
  if (!file.is_open() || !std::getline(file, line)) {
    throw std::runtime_error(fmt::format(
        "'{}' is missing, empty or unreadable; allowed: the folder of a run", path.string()));
  }
  RunRecord run;
  const fs::path folder = fs::absolute(path).parent_path();
  run.name = folder.filename().string();
  run.header = json::parse(line, nullptr, false);
  if (!run.header.is_object() || run.header.value("type", json()) != "header") {
    throw std::runtime_error(
        fmt::format("'{}': its first line is not a header of metrics", path.string()));
  }
  // What the table shows of it must be of its kind.
  const std::pair<const char*, bool (*)(const json&)> fields[] = {
      {"options", [](const json& value) { return value.is_object(); }},
      {"unit", [](const json& value) { return value.is_string(); }},
      {"parameters", [](const json& value) { return value.is_number_integer(); }}};
  for (const auto& [name, is_right] : fields) {
    if (run.header.contains(name) && !is_right(run.header[name])) {
      throw std::runtime_error(fmt::format("'{}': its header has {} as '{}'", path.string(),
                                           run.header[name].dump(), name));
    }
  }
  for (int number = 2; std::getline(file, line); ++number) {
    const json record = json::parse(line, nullptr, false);
    if (record.is_object()) {
      add_record(run, record);
    } else if (!file.eof()) {
      throw std::runtime_error(
          fmt::format("'{}': line {} is not a JSON object", path.string(), number));
    }
  }
  if (file.bad()) {
    throw std::runtime_error(fmt::format("cannot read '{}'", path.string()));
  }
  return run;
}

}  // namespace training
