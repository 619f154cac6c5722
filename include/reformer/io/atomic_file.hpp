// SPDX-License-Identifier: MIT
/// @file
/// Replacing a file in one step: a reader, or a machine that loses power, sees the whole old
/// content or the whole new content and never a mixture.
///
/// The new content goes to `<name>.tmp` in the same folder (a rename is only atomic inside one file
/// system), is forced to the disk, and is then renamed over the old file; last the folder itself is
/// forced to the disk. Every error is one line and leaves the old file as it was. The temporary has
/// a fixed name so that a killed program leaves at most one behind, which the next save replaces;
/// whoever writes it holds a lock on it, so of two that save to one name the second gets an error.
///
/// The new file has the permissions of the old one where the file system lets it. A symbolic link
/// is replaced, not followed.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
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
#include "reformer/io/file_lock.hpp"
#include "reformer/io/file_name.hpp"

namespace reformer::inline REFORMER_ABI {

/// A file under construction. Nothing is visible at `path` before `commit`; without it the
/// destructor removes the temporary, and so does the first error: what is there then lacks a part,
/// and a later call throws `std::invalid_argument`.
class AtomicFile {
 public:
  /// @throw std::runtime_error when the temporary cannot be created, another is writing it, or
  ///   `path` is no name of a regular file
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)), temporary_(path_) {
    check_is_replaceable();
    temporary_ += ".tmp";
    while (!create()) remove_leftover();
    struct stat old;
    if (::stat(path_.c_str(), &old) == 0) ::fchmod(descriptor_, old.st_mode & 0777);
  }

  ~AtomicFile() { drop(); }

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
    // Network file systems report a full disk as late as at a close, so the result of one counts;
    // of a copy, because the lock ends with the last.
    const int copy = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
    if (copy < 0 || ::close(copy) != 0) give_up(errno);
    state_ = State::finished;
  }

  /// Makes the content durable and visible. @throw std::runtime_error; the old file stays, unless
  /// only the last step (forcing the folder to the disk) failed, which the message then says.
  ///   std::invalid_argument after `commit` or an error
  void commit() {
    check_is_pending("AtomicFile::commit");
    finish();
    if (!is_name_of(temporary_, descriptor_)) {  // where files cannot be locked
      give_up("the new content was removed while it was written");
    }
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) give_up(errno);
    ::close(std::exchange(descriptor_, -1));
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

  /// Creates the temporary and locks it. @return false where there is one
  bool create() {
    descriptor_ = ::open(temporary_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
    if (descriptor_ < 0 && errno != EEXIST) fail(error_text(errno));
    if (descriptor_ < 0) return false;
    // Before it was locked another may have taken it for a leftover.
    if (try_lock_file(descriptor_) && is_name_of(temporary_, descriptor_)) return true;
    ::close(std::exchange(descriptor_, -1));
    return false;
  }

  /// Removes the temporary of a killed program, which nobody locks. It is not reused: it may be a
  /// link to somewhere else, which is not opened.
  void remove_leftover() const {
    int leftover = open_leftover(O_RDWR);
    if (leftover < 0 && errno == EACCES) leftover = open_leftover(O_RDONLY);
    if (leftover < 0 && errno == ENOENT) return;  // its writer has just given it its name
    if (leftover < 0 && errno != ELOOP) fail(error_text(errno == EISDIR ? EEXIST : errno));
    const bool is_free = leftover < 0 || try_lock_file(leftover);
    const bool is_there = leftover < 0 || is_name_of(temporary_, leftover);
    const bool is_removed =
        is_free && (!is_there || ::unlink(temporary_.c_str()) == 0 || errno == ENOENT);
    if (leftover >= 0) ::close(leftover);
    if (!is_free) fail("another is writing it");
    if (!is_removed) fail(error_text(EEXIST));
  }
  int open_leftover(int access) const {
    return ::open(temporary_.c_str(), access | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  }

  /// Removes the temporary if it is there.
  void drop() {
    if (descriptor_ < 0) return;
    if (is_name_of(temporary_, descriptor_)) ::unlink(temporary_.c_str());
    ::close(std::exchange(descriptor_, -1));
  }

  /// What was written lacks a part, and an error of `fsync` is told only once: neither may be
  /// committed later.
  [[noreturn]] void give_up(const std::string& reason) {
    drop();
    state_ = State::given_up;
    fail(reason);
  }
  [[noreturn]] void give_up(int error) { give_up(error_text(error)); }

  [[noreturn]] void fail(const std::string& reason) const {
    std::error_code ignored;
    const bool had_previous = std::filesystem::exists(path_, ignored);
    detail::fail_with_file("write", path_, reason,
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
