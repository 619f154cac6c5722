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

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "reformer/foundation/check.hpp"
#include "reformer/io/file_name.hpp"

namespace reformer {

/// A file under construction. Nothing is visible at `path` before `commit`; without it the
/// destructor removes the temporary.
class AtomicFile {
 public:
  /// @throw std::runtime_error when the temporary cannot be created, or `path` is no name of a
  ///   regular file
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)), temporary_(path_) {
    check_is_replaceable();
    temporary_ += ".tmp";
    // A leftover of a killed run is removed, not reused: it may be a link to somewhere else.
    ::unlink(temporary_.c_str());
    descriptor_ = ::open(temporary_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(errno);
  }

  ~AtomicFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends bytes. @throw std::runtime_error when the disk does not take them all
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        fail(errno);
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Makes the content durable, and not yet visible: for several files that belong together, since
  /// after it nothing but the renaming can fail. @throw std::runtime_error; the old file stays
  void finish() {
    if (descriptor_ < 0) return;
    if (!sync(descriptor_)) fail(errno);
    // Network file systems report a full disk as late as here, so the result of close counts.
    if (::close(std::exchange(descriptor_, -1)) != 0) fail(errno);
  }

  /// Makes the content durable and visible. @throw std::runtime_error; the old file stays, unless
  /// only the last step (forcing the folder to the disk) failed, which the message then says
  void commit() {
    finish();
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
    temporary_.clear();

    // The rename is durable only when the folder is.
    const std::filesystem::path parent = path_.parent_path();
    const int folder =
        ::open(parent.empty() ? "." : parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const bool synced = folder >= 0 && sync(folder);
    const int error = errno;
    if (folder >= 0) ::close(folder);
    if (!synced) {
      throw std::runtime_error(
          detail::join("'", path_.string(),
                       "' is written, but its folder could not be synced: ", error_text(error)));
    }
  }

 private:
  static std::string error_text(int error) { return std::generic_category().message(error); }

  /// fsync that accepts file systems which cannot do it (they answer EINVAL).
  static bool sync(int descriptor) {
    int result;
    do {
      result = ::fsync(descriptor);
    } while (result != 0 && errno == EINTR);
    return result == 0 || errno == EINVAL || errno == EROFS;
  }

  /// A rename replaces whatever has the name: a device too, for somebody who may write in /dev. The
  /// temporary of an empty name, or of one that ends within, is another file of the user.
  void check_is_replaceable() const {
    detail::check_file_name("write", path_);
    std::error_code ignored;
    const auto status = std::filesystem::status(path_, ignored);
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
      detail::fail_with_file(
          "write", path_,
          std::filesystem::is_directory(status) ? error_text(EISDIR) : "is not a regular file");
    }
  }

  [[noreturn]] void fail(int error) {
    std::error_code ignored;
    const bool had_previous = std::filesystem::exists(path_, ignored);
    detail::fail_with_file("write", path_, error_text(error),
                           had_previous ? "; the previous file is unchanged" : "");
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// The whole of a small file at once.
inline void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace reformer
