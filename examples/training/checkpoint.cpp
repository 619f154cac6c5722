// SPDX-License-Identifier: MIT
#include "checkpoint.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <fstream>
#include <stdexcept>
#include <string>

#include "data/file_kind.hpp"
#include "reformer/io/huggingface_config.hpp"
#include "reformer/io/model_file.hpp"

namespace training {
namespace {

/// What is given for a checkpoint may be anything, and of some files the kind is known.
void check_is_safetensors(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    return;  // which is found where it is read; opening a pipe waits
  }
  std::string start(1024, '\0');  // as much as it takes to know the kind
  std::ifstream file(path, std::ios::binary);
  file.read(start.data(), static_cast<std::streamsize>(start.size()));
  start.resize(static_cast<std::size_t>(file.gcount()));
  const data::FileKind* kind =
      data::kind_of({reinterpret_cast<const std::uint8_t*>(start.data()), start.size()}, !file);
  const bool is_too_short = start.size() < 9;
  if (is_too_short ? kind == nullptr : start[8] == '{') {
    return;  // whatever is wrong with it is found where it is read
  }
  throw std::runtime_error(
      fmt::format("'{}' is not a checkpoint{}", path.string(),
                  kind != nullptr ? fmt::format(" but {}", kind->name)
                                  : std::string(": it does not begin as a safetensors file")));
}

}  // namespace

Checkpoint::Checkpoint(const std::filesystem::path& path) {
  check_is_safetensors(path);
  file_ = std::make_unique<reformer::ModelFile>(path);
  const auto found = file_->metadata().find(state_key);
  if (found == file_->metadata().end()) {
    throw std::runtime_error(fmt::format(
        "'{}' is a model, but not a checkpoint of this trainer: its metadata have no {}",
        path.string(), state_key));
  }
  try {
    state_ =
        reformer::parse_json_object<nlohmann::json>(state_key, found->second, std::size_t{1} << 22);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("'{}': {}", path.string(), error.what()));
  }
}

Checkpoint::~Checkpoint() = default;

const std::filesystem::path& Checkpoint::path() const {
  return file_->path();
}

std::int64_t Checkpoint::step() const {
  return file_->step();
}

std::filesystem::path checkpoint_path(const std::filesystem::path& place) {
  std::error_code ignored;
  return std::filesystem::is_directory(place, ignored) ? place / checkpoint_name : place;
}

const nlohmann::json& saved_options_json(const Checkpoint& checkpoint) {
  const auto found = checkpoint.state().find("options");
  if (found == checkpoint.state().end() || !found->is_object()) {
    throw std::runtime_error("is not a checkpoint of this trainer: it has no options");
  }
  return *found;
}

std::string saved_model_config(const Checkpoint& checkpoint) {
  const auto found = checkpoint.state().find("model_config");
  if (found == checkpoint.state().end() || !found->is_string()) {
    return "";
  }
  reformer::parse_huggingface_config(found->get<std::string>());
  return found->get<std::string>();
}

nlohmann::json saved_data(const Checkpoint& checkpoint) {
  const auto found = checkpoint.state().find("data");
  if (found == checkpoint.state().end()) {
    return nlohmann::json::object();
  }
  const auto has = [&](const char* name, bool (nlohmann::json::*is_right)() const noexcept) {
    return found->contains(name) && ((*found)[name].*is_right)();
  };
  using nlohmann::json;
  if (!found->is_object() || !has("source", &json::is_string) ||
      !has("bytes", &json::is_number_unsigned) || !has("crc32", &json::is_number_unsigned) ||
      (found->contains("tokenizer") && !has("tokenizer", &json::is_string))) {
    throw std::runtime_error(
        fmt::format("'{}': is not a checkpoint of this trainer: what it says of its data is not "
                    "readable",
                    checkpoint.path().string()));
  }
  return *found;
}

void require_same_data(const nlohmann::json& then, const nlohmann::json& here,
                       const std::filesystem::path& folder) {
  if (then.at("bytes") == here.at("bytes") && then.at("crc32") == here.at("crc32")) {
    return;
  }
  throw std::runtime_error(fmt::format(
      "data '{}' has {} bytes and checksum {:08x}, but the run in '{}' was made with '{}' of {} "
      "bytes and checksum {:08x}: name that with --data",
      here.at("source").get<std::string>(), here.at("bytes").get<std::uint64_t>(),
      here.at("crc32").get<std::uint32_t>(), folder.string(), then.at("source").get<std::string>(),
      then.at("bytes").get<std::uint64_t>(), then.at("crc32").get<std::uint32_t>()));
}

}  // namespace training
