// SPDX-License-Identifier: MIT
/// @file
/// Errors of files by their names.
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"

namespace reformer::inline REFORMER_ABI {
namespace detail {

/// @param verb  "read" or "write"
template <typename... Parts>
[[noreturn]] void fail_with_file(std::string_view verb, const std::filesystem::path& path,
                                 const Parts&... parts) {
  throw std::runtime_error(join("cannot ", verb, " '", path.string(), "': ", parts...));
}

/// Throws `std::runtime_error` for names that the system would take for another file, or for none.
inline void check_file_name(std::string_view verb, const std::filesystem::path& path) {
  if (path.empty()) fail_with_file(verb, path, "the name is empty");
  const auto& text = path.native();
  if (const auto end = text.find('\0'); end != text.npos) {
    fail_with_file(verb, path.native().substr(0, end), "the name goes on behind a zero byte");
  }
}

}  // namespace detail
}  // namespace reformer::inline REFORMER_ABI
