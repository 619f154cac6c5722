// SPDX-License-Identifier: MIT
#include "atomic_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace enwik8 {
namespace {

namespace fs = std::filesystem;

std::string error_text(int error) {
  return std::generic_category().message(error);
}

/// The folder a file stands in; an empty parent means the current one.
fs::path folder_of(const fs::path& file) {
  const fs::path parent = file.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

/// fsync that accepts file systems which cannot do it (they answer EINVAL).
bool sync_descriptor(int descriptor) {
  int result;
  do {
    result = ::fsync(descriptor);
  } while (result != 0 && errno == EINTR);
  return result == 0 || errno == EINVAL || errno == EROFS;
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), temporary_(path_) {
  temporary_ += ".tmp";
  // A leftover of a killed run is removed, not reused: it may be a link to somewhere else.
  ::unlink(temporary_.c_str());
  descriptor_ = ::open(temporary_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    throw std::runtime_error(
        fmt::format("cannot write '{}': {}", path_.string(), error_text(errno)));
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::fail(int error) {
  std::error_code ignored;
  const bool had_previous = fs::exists(path_, ignored);
  throw std::runtime_error(fmt::format("cannot write '{}': {}{}", path_.string(), error_text(error),
                                       had_previous ? "; the previous file is unchanged" : ""));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail(errno);
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void AtomicFile::commit() {
  if (!sync_descriptor(descriptor_)) {
    fail(errno);
  }
  // Network file systems report a full disk as late as here, so the result of close counts.
  if (::close(std::exchange(descriptor_, -1)) != 0) {
    fail(errno);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail(errno);
  }
  temporary_.clear();

  // The rename is durable only when the folder is.
  const fs::path folder = folder_of(path_);
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = descriptor >= 0 && sync_descriptor(descriptor);
  const int error = errno;
  if (descriptor >= 0) {
    ::close(descriptor);
  }
  if (!synced) {
    throw std::runtime_error(fmt::format("'{}' is written, but its folder could not be synced: {}",
                                         path_.string(), error_text(error)));
  }
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

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
    fail(error_text(errno));
  }
  ::close(descriptor);
  ::unlink(probe.c_str());
}

}  // namespace enwik8
