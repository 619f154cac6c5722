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

#include <array>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/io/file_name.hpp"

namespace reformer::inline REFORMER_ABI {

/// A file under construction. Nothing is visible at `path` before `commit`; without it the
/// destructor removes the temporary, and so does the first error: what is there then lacks a part,
/// and a later call throws `std::invalid_argument`.
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

  /// Appends bytes. @throw std::runtime_error when the disk does not take them all,
  ///   std::invalid_argument after `finish` or an error
  void write(std::span<const std::byte> bytes) {
    check_state("AtomicFile::write", state_ == State::open, "open");
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0) {
        if (errno == EINTR) continue;
        give_up(errno);
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Makes the content durable, and not yet visible: for several files that belong together, since
  /// after it nothing but the renaming can fail. @throw std::runtime_error, and the old file stays;
  ///   std::invalid_argument after `commit` or an error
  void finish() {
    check_is_pending("AtomicFile::finish");
    if (state_ == State::finished) return;
    if (!sync(descriptor_)) give_up(errno);
    // Network file systems report a full disk as late as here, so the result of close counts.
    if (::close(std::exchange(descriptor_, -1)) != 0) give_up(errno);
    state_ = State::finished;
  }

  /// Makes the content durable and visible. @throw std::runtime_error; the old file stays, unless
  /// only the last step (forcing the folder to the disk) failed, which the message then says.
  ///   std::invalid_argument after `commit` or an error
  void commit() {
    check_is_pending("AtomicFile::commit");
    finish();
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) give_up(errno);
    temporary_.clear();
    state_ = State::committed;

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
  enum class State { open, finished, committed, given_up };

  void check_state(std::string_view function, bool is_right, std::string_view rule) const {
    constexpr std::array<std::string_view, 4> names = {"open", "finished", "committed",
                                                       "given up after an error"};
    check(is_right, function, "the file is ", names[static_cast<std::size_t>(state_)], ", must be ",
          rule);
  }
  void check_is_pending(std::string_view function) const {
    check_state(function, state_ == State::open || state_ == State::finished, "open or finished");
  }

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

  /// What was written lacks a part, and an error of `fsync` is told only once: neither may be
  /// committed later.
  [[noreturn]] void give_up(int error) {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
    ::unlink(temporary_.c_str());
    temporary_.clear();
    state_ = State::given_up;
    fail(error);
  }

  [[noreturn]] void fail(int error) const {
    std::error_code ignored;
    const bool had_previous = std::filesystem::exists(path_, ignored);
    detail::fail_with_file("write", path_, error_text(error),
                           had_previous ? "; the previous file is unchanged" : "");
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  State state_ = State::open;
};

/// The whole of a small file at once.
inline void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

}  // namespace reformer::inline REFORMER_ABI
