// SPDX-License-Identifier: MIT
/// @file
/// What a container (a control group of Linux) lets this process use. OpenMP and `sysconf` tell the
/// machine's processors and memory: with those, a process in a small container runs with far too
/// many threads, and is killed where it expected `std::bad_alloc`.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// The first line of a file; empty if there is none.
inline std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// The positive number that `text` begins with, and what is behind it and one space. "max", -1 and
/// anything malformed are no limit.
inline std::optional<std::int64_t> leading_number(std::string_view& text) {
  std::int64_t value = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (error != std::errc{} || value <= 0 || (end != last && *end != ' ')) return {};
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  if (!text.empty()) text.remove_prefix(1);
  return value;
}

inline std::optional<std::int64_t> number_in(const std::string& path) {
  const std::string line = first_line(path);
  std::string_view text = line;
  const auto value = leading_number(text);
  return text.empty() ? value : std::nullopt;
}

/// Whether a list such as "cpu,cpuacct" has this name in it.
inline bool lists(std::string_view names, std::string_view name) {
  while (true) {
    const std::size_t comma = names.find(',');
    if (names.substr(0, comma) == name) return true;
    if (comma == std::string_view::npos) return false;
    names.remove_prefix(comma + 1);
  }
}

/// Calls `visit(folder)` for each folder in which a limit of this process may stand: that of its
/// own group and of all groups around it, since the smallest limit holds.
/// @param root        what paths begin with; empty but in tests
/// @param controller  "cpu" or "memory"
template <typename Visit>
void for_each_control_group(const std::string& root, std::string_view controller,
                            const Visit& visit) {
  std::ifstream groups(root + "/proc/self/cgroup");
  // Lines are "id:controllers:/path"; with version 2 there is one, and it names no controllers.
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    // A group outside of what is mounted here: only what is around it can be read.
    if (path.find("/..") != std::string::npos) path.clear();
    std::string mount = root + "/sys/fs/cgroup";
    if (!controllers.empty()) {
      if (!lists(controllers, controller)) continue;
      mount.append("/").append(controller);  // a link, where several are mounted as one
    }
    while (!path.empty() && path.back() == '/') path.pop_back();
    for (;; path.resize(path.rfind('/'))) {
      visit(mount + path + "/");
      if (path.find('/') == std::string::npos) break;
    }
  }
}

/// See `container_processors`.
inline std::optional<int> processors_below(const std::string& root) {
  std::optional<int> least;
  const auto limit = [&](std::int64_t quota, std::int64_t period) {
    const std::int64_t count = std::min<std::int64_t>((quota - 1) / period + 1, 1 << 20);
    least = std::min(least.value_or(1 << 20), static_cast<int>(count));
  };
  for_each_control_group(root, "cpu", [&](const std::string& folder) {
    const std::string line = first_line(folder + "cpu.max");  // version 2: "quota period"
    std::string_view text = line;
    const auto quota = leading_number(text);
    const auto period = quota ? leading_number(text) : std::nullopt;
    if (period && text.empty()) limit(*quota, *period);
    const auto old_quota = number_in(folder + "cpu.cfs_quota_us");  // version 1
    const auto old_period = number_in(folder + "cpu.cfs_period_us");
    if (old_quota && old_period) limit(*old_quota, *old_period);
  });
  return least;
}

/// See `container_memory_limit`.
inline std::optional<std::size_t> memory_limit_below(const std::string& root) {
  // Version 1 writes "no limit" as the largest multiple of a page.
  constexpr std::int64_t unlimited = std::int64_t{1} << 60;
  std::optional<std::size_t> least;
  for_each_control_group(root, "memory", [&](const std::string& folder) {
    for (const char* file : {"memory.max", "memory.limit_in_bytes"}) {
      const auto bytes = number_in(folder + file);
      if (!bytes || *bytes >= unlimited) continue;
      least = std::min(least.value_or(SIZE_MAX), static_cast<std::size_t>(*bytes));
    }
  });
  return least;
}

}  // namespace detail

/// Processors whose time the container grants this process, rounded up: the smallest quota of its
/// control groups (`cpu.max`, or `cpu.cfs_quota_us` of version 1). Nothing where there is no quota,
/// or no Linux.
inline std::optional<int> container_processors() {
#ifdef __linux__
  return detail::processors_below("");
#else
  return {};
#endif
}

/// Bytes of memory above which a process of this container is killed: the smallest limit of its
/// control groups (`memory.max`, or `memory.limit_in_bytes` of version 1). Nothing where there is
/// no limit, or no Linux.
inline std::optional<std::size_t> container_memory_limit() {
#ifdef __linux__
  return detail::memory_limit_below("");
#else
  return {};
#endif
}

}  // namespace reformer::inline REFORMER_ABI
