// SPDX-License-Identifier: MIT
/// @file
/// Locks on open files, for what only one may write at a time.
///
/// A lock is that of `flock`: it belongs to what `open` has opened, ends when the last descriptor
/// of that is closed or the process ends, and is no obstacle to those that do not ask for it.
#pragma once

#include <sys/file.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

/// Locks an open file, without waiting.
/// @param descriptor  open for writing, as network file systems want it
/// @return false if another has the lock, or this cannot be told; true where files cannot be locked
inline bool try_lock_file(int descriptor) {
  return ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EBADF);
}

/// Whether a name is that of an open file, links not followed: a file may have been renamed,
/// replaced or removed before it was locked.
inline bool is_name_of(const std::filesystem::path& path, int descriptor) {
  struct stat open, named;
  return ::fstat(descriptor, &open) == 0 && ::lstat(path.c_str(), &named) == 0 &&
         open.st_dev == named.st_dev && open.st_ino == named.st_ino;
}

}  // namespace reformer::inline REFORMER_ABI
