// SPDX-License-Identifier: MIT
/// @file
/// The folder a run writes to.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace training {

/// Makes sure, before hours of work, that files can be created in `folder`: creates it with its
/// parents if it is missing, and writes and removes a small file in it.
/// @throw std::runtime_error with one line that says what is in the way
void prepare_output_folder(const std::filesystem::path& folder);

/// Keeps others of this machine that ask for it out of a folder, until it is destroyed or the
/// process ends.
class FolderLock {
 public:
  /// @throw std::runtime_error with one line when another has it; a folder that is not there or
  ///   cannot be locked is left alone
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

/// The folder among `places` in which `path` is or would be: what is written there while they are
/// read would be read as well.
std::optional<std::string> folder_around(const std::filesystem::path& path,
                                         const std::vector<std::string>& places);

}  // namespace training
