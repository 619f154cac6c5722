// SPDX-License-Identifier: MIT
/// @file
/// The documents in what somebody gives to be learned from: files, folders, archives, standard
/// input.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stream.hpp"

namespace data {

/// The files below some places, one after another: of a folder those in it and in its folders,
/// sorted by name, without those whose names begin with a dot. Links are followed.
class FileList {
 public:
  /// @param places  files, folders or "-"
  explicit FileList(std::vector<std::string> places);

  struct File {
    std::string path;
    bool is_named = true;    ///< and not found in a folder
    std::uint64_t size = 0;  ///< 0 for standard input
  };
  /// The next file, none at the end.
  /// @throw std::runtime_error for a place that does not exist, a link to nothing, a link to a
  ///   folder that the link is in, or what is no file, such as a pipe
  std::optional<File> next();

 private:
  struct Folder {
    std::string path;
    std::pair<std::uint64_t, std::uint64_t> identity;
    std::vector<std::string> names;  // the last comes next
  };
  std::optional<File> visit(const std::string& path, bool is_named);

  std::vector<std::string> places_;
  std::size_t next_place_ = 0;
  std::vector<Folder> folders_;
};

/// Reads documents one after another; each file is one, and in an archive each file in it. Nothing
/// but a block or two is in memory.
///
/// What is gzip, bzip2, xz, zstd, lz4, lzip, tar or zip is told by its first bytes, and so are the
/// kinds that are refused (file_kind.hpp). Among others, in a folder or an archive, what cannot be
/// a text is left out, and `left_out` tells of it; anything else that is wrong is an error.
class Documents {
 public:
  /// Looks at all places, and for what can be told without reading the files.
  /// @param places  at least one: files, folders, or once "-"
  /// @throw std::runtime_error as `FileList::next`, and for folders without a file
  explicit Documents(std::vector<std::string> places);

  /// Goes on to the next document that is not empty; the rest of this one is read to be checked.
  /// @throw std::runtime_error with one line for whatever is damaged or refused, and at the end
  ///   when there was nothing but what is empty or left out
  bool next();

  /// "corpus.tar.gz (folder/text)"
  const std::string& name() const { return name_; }

  /// The next bytes of the document, valid until the next call; none at its end.
  std::span<const std::uint8_t> block();

  /// Bytes of all files on the disk, none when one of the places is standard input.
  std::optional<std::uint64_t> total_size() const { return total_size_; }
  /// Bytes of those that were read.
  std::uint64_t position() const;

  /// One line on what was left out, "" for nothing: "left out: 3 x a PNG image, such as 'x.png'".
  std::string left_out() const;

  /// Documents so far.
  std::int64_t count() const { return count_; }

 private:
  bool open_next_file();
  bool open_next_member();
  void begin(Stream& stream, std::string name);
  bool is_left_out(const FileKind& kind, const std::string& name);
  [[noreturn]] void fail_without_documents() const;

  std::vector<std::string> places_;
  FileList files_;
  std::optional<std::uint64_t> total_size_ = 0;
  std::uint64_t position_before_ = 0;  // of the files before this one

  FileList::File file_;
  bool is_among_others_ = false;
  int opened_ = 0;
  const FileStream* raw_ = nullptr;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Stream> kept_open_;  // beside an archive that reads from its descriptor
  std::unique_ptr<Archive> archive_;
  const FileKind* archive_kind_ = nullptr;
  Stream* document_ = nullptr;
  std::string name_;
  std::int64_t count_ = 0;
  std::int64_t empty_ = 0;
  struct LeftOut {
    std::int64_t count = 0;
    std::string example;
  };
  std::map<std::string_view, LeftOut> left_out_;
  std::string last_empty_;
};

}  // namespace data
