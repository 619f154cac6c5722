// SPDX-License-Identifier: MIT
/// @file
/// Bytes that come one block after another: of a file, of a pipe, or of what is compressed in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "file_kind.hpp"

namespace data {

/// Bytes in their order. Nothing but a block or two is in memory.
class Stream {
 public:
  Stream() = default;
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// What a kind is told by: the first bytes, all of them if there are less than `head_size`.
  /// To be called before `block`, which gives them again. @throw as `block`
  std::span<const std::uint8_t> head();
  static constexpr std::size_t head_size = 1 << 16;

  /// The next bytes, valid until the next call; none at the end.
  /// @throw std::runtime_error with one line when they cannot be read, or are damaged
  std::span<const std::uint8_t> block();

  /// The kind by the first bytes, as `kind_of`.
  const FileKind* kind();

 protected:
  virtual std::span<const std::uint8_t> next_block() = 0;

 private:
  std::vector<std::uint8_t> head_;
  enum class Head { unread, waiting, given } state_ = Head::unread;
};

/// Throws what is wrong with a source. @param name  as `described`
[[noreturn]] void fail(const std::string& name, const std::string& reason);

/// How errors name a file: "data file 'x'", or "standard input" for "-".
std::string described(const std::string& path);

/// An open file or, for "-", standard input.
class FileStream : public Stream {
 public:
  /// @throw std::runtime_error when it cannot be opened
  explicit FileStream(const std::string& path);
  ~FileStream() override;

  int descriptor() const { return descriptor_; }
  /// Bytes read so far.
  std::uint64_t position() const { return position_; }

 protected:
  std::span<const std::uint8_t> next_block() override;

 private:
  std::string name_;
  int descriptor_ = -1;
  std::uint64_t position_ = 0;
  std::vector<std::uint8_t> buffer_;
};

/// What is compressed in a stream, by libarchive: gzip, bzip2, xz, zstd, lz4 or lzip, each with any
/// number of parts one after another. Whatever the format has to tell damage by is checked; behind
/// the last part, there may be zeros.
/// @param name  for errors, as `described`
/// @param kind  of the compressed stream
std::unique_ptr<Stream> decompressed(std::string name, const FileKind& kind,
                                     std::unique_ptr<Stream> compressed);

/// The files in an archive of tar or zip, one after another.
class Archive {
 public:
  virtual ~Archive() = default;
  /// Goes on to the next file. False at the end, which is checked as well.
  /// @throw std::runtime_error with one line for damage
  virtual bool next() = 0;
  /// Its name in the archive.
  virtual const std::string& member() const = 0;
  /// Its bytes; valid until `next`.
  virtual Stream& bytes() = 0;
};

/// @param kind  tar or zip
/// @param descriptor  of a file with a place that can be changed, from which zip is read by its
/// list of files at the end; -1: there is none
std::unique_ptr<Archive> archive_of(std::string name, const FileKind& kind,
                                    std::unique_ptr<Stream> stream, int descriptor);

}  // namespace data
