// SPDX-License-Identifier: MIT
#include "output_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <system_error>

#include "reformer/io/file_lock.hpp"

namespace training {

namespace fs = std::filesystem;

void prepare_output_folder(const fs::path& folder) {
  const auto fail = [&](const std::string& reason) {
    throw std::runtime_error(
        fmt::format("cannot write to output folder '{}': {}", folder.string(), reason));
  };
  std::error_code error;
  fs::create_directories(folder, error);
  std::error_code ignored;
  if (fs::exists(folder, ignored) && !fs::is_directory(folder, ignored)) {
    fail("it exists and is not a folder");
  }
  if (error) {
    fail(error.message());
  }
  const fs::path probe = folder / ".write_probe";
  const int descriptor = ::open(probe.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor < 0) {
    fail(std::generic_category().message(errno));
  }
  ::close(descriptor);
  ::unlink(probe.c_str());
}

FolderLock::FolderLock(const fs::path& folder)
    : descriptor_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (descriptor_ >= 0 && !reformer::try_lock_file(descriptor_)) {
    ::close(descriptor_);
    throw std::runtime_error(
        fmt::format("the run in '{}' is being trained by another process", folder.string()));
  }
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

std::optional<std::string> folder_around(const fs::path& path,
                                         const std::vector<std::string>& places) {
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(fs::absolute(path, error), error);
  for (const std::string& place : places) {
    const fs::path folder = fs::canonical(place, error);
    if (error || !fs::is_directory(folder, error)) {
      continue;
    }
    if (std::mismatch(folder.begin(), folder.end(), whole.begin(), whole.end()).first ==
        folder.end()) {
      return place;
    }
  }
  return std::nullopt;
}

}  // namespace training
