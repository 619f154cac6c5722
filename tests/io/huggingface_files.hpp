// SPDX-License-Identifier: MIT
/// @file
/// Configurations and fixtures, for the tests of the HuggingFace layout.
#pragma once

#include <string>
#include <vector>

#include "reformer/io/huggingface_config.hpp"
#include "support/files.hpp"

namespace reformer::test {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

inline const fs::path data = fs::path(TEST_DATA) / "huggingface";
inline const Strings fixtures = {"encoder", "local_tiny", "lsh_factorized", "lsh_tiny", "mixed"};

inline Json json_of(const fs::path& path) {
  return Json::parse(read_file(path));
}

/// The config of a small language model, with changes.
inline Json small_config(const Json& changes = Json::object()) {
  Json config = json_of(data / "lsh_tiny/config.json");
  config.update(changes);
  return config;
}

inline HuggingFaceConfig parse(const Json& config) {
  return parse_huggingface_config(config.dump());
}

}  // namespace reformer::test
