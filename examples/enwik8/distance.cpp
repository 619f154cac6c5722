// SPDX-License-Identifier: MIT
#include "distance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "training/words.hpp"

namespace enwik8 {

using training::grouped;

std::vector<std::int64_t> repetition_distances(std::span<const std::uint8_t> text) {
  const std::string_view bytes(reinterpret_cast<const char*>(text.data()), text.size());
  const auto labels = std::ssize(text) - 1;
  std::vector<std::int64_t> distances(static_cast<std::size_t>(std::max<std::int64_t>(labels, 0)));
  std::unordered_map<std::string_view, std::int64_t> last_place;
  for (std::int64_t label = repeated_bytes; label <= labels; ++label) {
    const std::string_view repeated =
        bytes.substr(static_cast<std::size_t>(label - repeated_bytes), repeated_bytes + 1);
    const auto [found, is_new] = last_place.try_emplace(repeated, label);
    if (is_new) {
      continue;
    }
    distances[static_cast<std::size_t>(label - 1)] = label - found->second;
    found->second = label;
  }
  return distances;
}

std::vector<std::int64_t> repetition_distances(const Windows& windows, std::int64_t window) {
  const auto first = windows.inputs.begin() + window * windows.length;
  std::vector<std::uint8_t> text;
  std::transform(first, first + windows.length, std::back_inserter(text),
                 [](std::int32_t byte) { return static_cast<std::uint8_t>(byte); });
  const auto last = static_cast<std::size_t>((window + 1) * windows.length - 1);
  text.push_back(static_cast<std::uint8_t>(windows.labels[last]));
  return repetition_distances(text);
}

std::vector<std::int64_t> distance_limits(std::int64_t reach, std::int64_t length) {
  std::vector<std::int64_t> limits{1 << 10, 1 << 12, 1 << 14, 1 << 16};
  if (reach > 0) {
    limits.push_back(reach);
  }
  std::sort(limits.begin(), limits.end());
  limits.erase(std::unique(limits.begin(), limits.end()), limits.end());
  limits.erase(std::lower_bound(limits.begin(), limits.end(), length), limits.end());
  limits.push_back(length);
  return limits;
}

std::string distances_text(std::int64_t from, std::int64_t to) {
  return fmt::format("{} to {}", grouped(from), grouped(to));
}

DistanceClasses::DistanceClasses(std::int64_t reach, std::int64_t length) {
  for (const std::int64_t limit : distance_limits(reach, length)) {
    classes_.push_back({limit, {}});
  }
  classes_.push_back({0, {}});
}

void DistanceClasses::add(const Windows& windows, std::span<const double> losses) {
  for (std::int64_t window = 0; window < windows.count; ++window) {
    const std::vector<std::int64_t> distances = repetition_distances(windows, window);
    const auto first = static_cast<std::size_t>(window * windows.length);
    for (auto i = static_cast<std::size_t>(windows.context); i < distances.size(); ++i) {
      Class& of_label = distances[i] == 0
                            ? classes_.back()
                            : *std::find_if(classes_.begin(), classes_.end(),
                                            [&](const Class& c) { return distances[i] <= c.to; });
      of_label.loss += {losses[first + i], 1};
    }
  }
}

nlohmann::json DistanceClasses::to_json() const {
  LossSum all;
  for (const Class& c : classes_) {
    all += c.loss;
  }
  nlohmann::json list = nlohmann::json::array();
  std::int64_t from = 1;
  for (const Class& c : classes_) {
    nlohmann::json entry{
        {"bytes", c.loss.bytes},
        {"share", static_cast<double>(c.loss.bytes) / static_cast<double>(all.bytes)},
        {"bpb", c.loss.bytes > 0 ? nlohmann::json(c.loss.bits_per_byte()) : nlohmann::json()}};
    if (c.to > 0) {
      entry["from"] = from;
      entry["to"] = c.to;
      from = c.to + 1;
    }
    list.push_back(std::move(entry));
  }
  return list;
}

std::vector<std::string> DistanceClasses::lines() const {
  std::vector<std::string> lines{fmt::format("  {:<28} {:>10} {:>7} {:>14}", "repeats, bytes back",
                                             "bytes", "share", "bits per byte")};
  for (const nlohmann::json& entry : to_json()) {
    const std::string distances =
        entry.contains("to") ? distances_text(entry["from"], entry["to"]) : "nothing";
    lines.push_back(fmt::format(
        "  {:<28} {:>10} {:>6.1f}% {:>14}", distances, grouped(entry["bytes"].get<std::int64_t>()),
        100 * entry["share"].get<double>(),
        entry["bpb"].is_null() ? "-" : fmt::format("{:.4f}", entry["bpb"].get<double>())));
  }
  return lines;
}

}  // namespace enwik8
