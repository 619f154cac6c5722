// SPDX-License-Identifier: MIT
#include "metrics.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "reformer/io/atomic_file.hpp"

namespace training {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// One line. Bytes that are not UTF-8 (generated text, odd paths) are replaced, not refused.
std::string line_of(const json& record) {
  return record.dump(-1, ' ', false, json::error_handler_t::replace) + '\n';
}

json parse_line(const std::string& line) {
  return json::parse(line, nullptr, false);
}

bool has_type(const json& record, const char* type) {
  const auto found = record.find("type");
  return found != record.end() && *found == type;
}

/// Whether a record still holds for a run that continues after `step`.
bool belongs_before(const json& record, std::int64_t step) {
  if (!record.is_object() || has_type(record, "test") || record.value("final", json()) == true) {
    return false;
  }
  const auto found = record.find("step");
  return found != record.end() && found->is_number_integer() && found->get<std::int64_t>() <= step;
}

}  // namespace

MetricsWriter::MetricsWriter(fs::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor_ < 0) {
    throw std::runtime_error(fmt::format("cannot write '{}': {}", path_.string(),
                                         std::generic_category().message(errno)));
  }
}

MetricsWriter::~MetricsWriter() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

MetricsWriter::MetricsWriter(MetricsWriter&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

MetricsWriter MetricsWriter::start(const fs::path& path, const json& header) {
  reformer::write_file_atomically(path, line_of(header));
  return MetricsWriter(path);
}

MetricsWriter MetricsWriter::resume(const fs::path& path, const json& header, std::int64_t step) {
  std::error_code ignored;
  const auto status = fs::status(path, ignored);
  if (!fs::exists(status)) {
    return start(path, header);
  }
  if (!fs::is_regular_file(status)) {
    throw std::runtime_error(
        fmt::format("cannot continue '{}': it is not a regular file", path.string()));
  }
  std::ifstream file(path, std::ios::binary);
  std::string line;
  if (!file || !std::getline(file, line)) {
    throw std::runtime_error(
        fmt::format("cannot continue '{}': it is empty or unreadable", path.string()));
  }
  const json first = parse_line(line);
  if (!first.is_object() || !has_type(first, "header")) {
    throw std::runtime_error(
        fmt::format("cannot continue '{}': its first line is not a metrics header; move it away",
                    path.string()));
  }
  std::string kept = line + '\n';
  while (std::getline(file, line)) {
    if (belongs_before(parse_line(line), step)) {
      kept += line + '\n';
    }
  }
  if (file.bad()) {
    throw std::runtime_error(fmt::format("cannot read '{}'", path.string()));
  }
  reformer::write_file_atomically(path, kept);
  return MetricsWriter(path);
}

void MetricsWriter::write(const json& record) {
  const std::string text = line_of(record);
  std::size_t written = 0;
  while (written < text.size()) {
    const ssize_t now = ::write(descriptor_, text.data() + written, text.size() - written);
    if (now < 0) {
      if (errno == EINTR) {
        continue;
      }
      throw std::runtime_error(fmt::format("cannot write '{}': {}", path_.string(),
                                           std::generic_category().message(errno)));
    }
    written += static_cast<std::size_t>(now);
  }
}

}  // namespace training
