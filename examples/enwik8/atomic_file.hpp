// SPDX-License-Identifier: MIT
/// @file
/// Replacing a file in one step: a reader, or a machine that loses power, sees the whole old
/// content or the whole new content and never a mixture.
///
/// The new content goes to `<name>.tmp` in the same folder (a rename is only atomic inside one file
/// system), is forced to the disk, and is then renamed over the old file; last the folder itself is
/// forced to the disk. Every error is one line and leaves the old file as it was. The temporary has
/// a fixed name so that a killed program leaves at most one behind, which the next save replaces.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace enwik8 {

/// A file under construction. Nothing is visible at `path` before `commit`; without it the
/// destructor removes the temporary.
class AtomicFile {
 public:
  /// @throw std::runtime_error when the temporary cannot be created
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes. @throw std::runtime_error when the disk does not take them all
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);

  /// Makes the content durable and visible. @throw std::runtime_error; the old file stays, unless
  /// only the last step (forcing the folder to the disk) failed, which the message then says
  void commit();

 private:
  [[noreturn]] void fail(int error);

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// The whole of a small file at once.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Makes sure, before hours of work, that files can be created in `folder`: creates it with its
/// parents if it is missing, and writes and removes a small file in it.
/// @throw std::runtime_error with one line that says what is in the way
void prepare_output_folder(const std::filesystem::path& folder);

}  // namespace enwik8
