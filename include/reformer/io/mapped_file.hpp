// SPDX-License-Identifier: MIT
/// @file
/// A file as read-only memory: pages are read when they are looked at, and only once.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

#include "reformer/foundation/abi.hpp"
#include "reformer/io/file_name.hpp"

namespace reformer::inline REFORMER_ABI {

/// A mapped regular file. Whoever makes the file shorter while it is mapped ends the program with
/// SIGBUS, as with every mapped file.
class MappedFile {
 public:
  /// @throw std::runtime_error with one line when there is no such file or it cannot be read
  explicit MappedFile(const std::filesystem::path& path) {
    detail::check_file_name("read", path);
    // Without O_NONBLOCK, a pipe that nobody writes to is waited for.
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status {};
    int error = descriptor < 0 || ::fstat(descriptor, &status) != 0 ? errno : 0;
    if (error == 0 && S_ISDIR(status.st_mode)) error = EISDIR;
    const bool irregular = error == 0 && !S_ISREG(status.st_mode);
    if (error == 0 && !irregular && status.st_size > 0) {  // an empty file cannot be mapped
      size_ = static_cast<std::size_t>(status.st_size);
      memory_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
      if (memory_ == MAP_FAILED) {
        error = errno;
        memory_ = nullptr;
      } else {
        ::madvise(memory_, size_, MADV_SEQUENTIAL);  // only advice, so its result does not matter
      }
    }
    if (descriptor >= 0) ::close(descriptor);
    if (irregular) detail::fail_with_file("read", path, "is not a regular file");
    if (error != 0) detail::fail_with_file("read", path, std::generic_category().message(error));
  }

  ~MappedFile() {
    if (memory_ != nullptr) ::munmap(memory_, size_);
  }
  MappedFile(MappedFile&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(size_, other.size_);
    return *this;
  }

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(memory_), size_};
  }

  /// Gives back the memory that holds what was read; whatever is asked for again is read again.
  void release() const {
    if (memory_ != nullptr) ::madvise(memory_, size_, MADV_DONTNEED);
  }

 private:
  void* memory_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace reformer::inline REFORMER_ABI
