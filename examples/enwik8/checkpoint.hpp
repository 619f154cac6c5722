// SPDX-License-Identifier: MIT
/// @file
/// The file from which training continues: the model with its optimizer and the step, as
/// `reformer::save_model` writes it, and under `enwik8.state` of its metadata a JSON object with
/// everything else (options, data, position in the metrics). So `reformer::load_model` opens it,
/// too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {
class ModelFile;
}

namespace enwik8 {

inline constexpr const char* checkpoint_name = "checkpoint.safetensors";
inline constexpr const char* best_name = "best.safetensors";
inline constexpr const char* state_key = "enwik8.state";

/// An open checkpoint whose every byte was checked.
class Checkpoint {
 public:
  /// @throw std::runtime_error with one line when the file is missing, no checkpoint of this
  ///   trainer, truncated or damaged
  explicit Checkpoint(const std::filesystem::path& path);
  ~Checkpoint();

  const reformer::ModelFile& file() const { return *file_; }
  const std::filesystem::path& path() const;
  /// Steps of training done.
  std::int64_t step() const;
  const nlohmann::json& state() const { return state_; }

 private:
  std::unique_ptr<reformer::ModelFile> file_;
  nlohmann::json state_;
};

}  // namespace enwik8
