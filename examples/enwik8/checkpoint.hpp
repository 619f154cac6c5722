// SPDX-License-Identifier: MIT
/// @file
/// The file from which training continues: named tensors of float and a JSON object with everything
/// else (configuration, step, seeds, position in the data, optimizer).
///
///     offset  size
///          0     8  "RFMRCKPT"
///          8     4  CRC-32 of bytes 12 up to the payload
///         12     4  format version (1)
///         16     8  length n of the header, spaces at its end included
///         24     n  header: {"state": {...}, "tensors": [{"name", "rows", "cols", "offset"}, ...],
///                   "payload_bytes": m, "payload_crc32": c} in UTF-8
///     24 + n     m  payload: the tensors one after the other, row-major, without gaps; 24 + n is a
///                   multiple of 64
///
/// All numbers are little-endian. `offset` counts from the start of the payload. A reader looks at
/// the whole file before it gives anything out, so a damaged file changes nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace enwik8 {

/// A row-major matrix somewhere in memory. The writer reads it and the reader fills it.
struct NamedTensor {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  float* data = nullptr;
};

/// A tensor as it stands in a file.
struct StoredTensor {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::uint64_t offset = 0;  ///< in bytes from the start of the payload
};

/// Writes a checkpoint in one step (`reformer::AtomicFile`): whatever goes wrong, the previous one
/// stays.
/// @param state  numbers in it come back bit for bit, NaN and infinity excepted
/// @throw std::runtime_error when it cannot be written, std::invalid_argument for two tensors of
/// one
///   name
void save_checkpoint(const std::filesystem::path& path, const nlohmann::json& state,
                     const std::vector<NamedTensor>& tensors);

/// An open checkpoint whose every byte was checked.
class CheckpointReader {
 public:
  /// @throw std::runtime_error with one line when the file is missing, no checkpoint, of another
  ///   format version, truncated or corrupt
  explicit CheckpointReader(std::filesystem::path path);

  const nlohmann::json& state() const { return state_; }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }

  /// Fills `destination`, whose names and shapes must be those of the file, in any order.
  /// @param prefix  takes part: tensors with names that begin so; empty for all
  /// @throw std::runtime_error, before anything is filled, that names the tensors which are
  /// missing, unknown or of another shape
  void read_into(const std::vector<NamedTensor>& destination, const std::string& prefix = "");

 private:
  void read_header(std::uint64_t file_size);
  void check_payload();
  [[noreturn]] void fail(const std::string& reason) const;

  std::filesystem::path path_;
  std::ifstream file_;
  nlohmann::json state_;
  std::vector<StoredTensor> tensors_;
  std::uint64_t payload_begin_ = 0;
  std::uint64_t payload_bytes_ = 0;
  std::uint32_t payload_crc_ = 0;
};

/// Compares two JSON objects by key: "width is 256 there and 512 here, heads is ...", at most five
/// of them, empty when they are equal.
std::string describe_differences(const nlohmann::json& there, const nlohmann::json& here);

}  // namespace enwik8
