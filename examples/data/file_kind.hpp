// SPDX-License-Identifier: MIT
/// @file
/// What kind of file some bytes are, where that is certain: raw bytes can be learned whatever they
/// are, but an archive or an image given for a text is a mistake that nothing else would show.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace data {

struct FileKind {
  enum class Use {
    decompressed,  ///< one text in it, which is read
    archive,       ///< files in it, which are read
    refused,       ///< there may be text in it, which is not read: always an error
    left_out       ///< holds no plain text: an error by itself, left out among others
  };

  std::string_view name;       ///< "an xz file"
  std::string_view extension;  ///< ".xz"; empty where it is not relied on
  Use use;
  std::string_view remedy;  ///< "unpack it first: 7z x {}"; {} stands for the file

  bool is_read() const { return use == Use::decompressed || use == Use::archive; }
  /// "gzip" of "a gzip file"
  std::string_view short_name() const;
  /// The remedy for `file`.
  std::string remedy_for(const std::filesystem::path& file) const;
};

/// The kind of a file by its content, or null when it may be text or is unknown. What begins with
/// the letters of a format is taken for it only if it also holds bytes that text does not. What is
/// read, such as gzip, is a kind, too.
/// @param content  the beginning
/// @param is_whole  whether there is no more
const FileKind* kind_of(std::span<const std::uint8_t> content, bool is_whole);

/// The kind whose files are named so, or null. @param extension  with its dot
const FileKind* kind_of_extension(std::string_view extension);

}  // namespace data
