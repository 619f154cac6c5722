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
#include <stdexcept>
#include <string>

#include "options.hpp"
#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {
class ModelFile;
}

namespace training {

inline constexpr const char* checkpoint_name = "checkpoint.safetensors";
inline constexpr const char* best_name = "best.safetensors";
inline constexpr const char* state_key = "enwik8.state";  // as the first trainer called it

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

/// `place` if it is a file, or the checkpoint in it if it is a folder.
std::filesystem::path checkpoint_path(const std::filesystem::path& place);

/// The options of the run of a checkpoint, by name.
/// @throw std::runtime_error when the checkpoint is of something else
const nlohmann::json& saved_options_json(const Checkpoint& checkpoint);
/// The config of HuggingFace's that was saved with them, or nothing.
/// @throw std::runtime_error when it is none
std::string saved_model_config(const Checkpoint& checkpoint);

/// What the checkpoint says of the data of its run: source, bytes and crc32 at least, or nothing.
/// @throw std::runtime_error when it is something else
nlohmann::json saved_data(const Checkpoint& checkpoint);

/// @param then  what a checkpoint says of the data of its run in `folder`
/// @param here  `Task::data_description` of the data at hand
/// @throw std::runtime_error unless they are the same
void require_same_data(const nlohmann::json& then, const nlohmann::json& here,
                       const std::filesystem::path& folder);

/// The options with which the run of a checkpoint was made.
/// @throw std::runtime_error when the checkpoint is of something else
template <typename Values>
Values saved_options(const OptionSet<Values>& set, const Checkpoint& checkpoint) {
  try {
    Values options = options_from_json(set, saved_options_json(checkpoint));
    options.model_config = saved_model_config(checkpoint);
    return options;
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("'{}': {}", checkpoint.path().string(), error.what()));
  }
}

}  // namespace training
