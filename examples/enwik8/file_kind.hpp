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

namespace enwik8 {

struct FileKind {
  std::string_view name;       ///< "an xz file"
  std::string_view extension;  ///< ".xz"; empty where it is not relied on
  std::string_view remedy;     ///< "decompress it first: xz -dk {}"; {} stands for the file

  bool is_gzip() const { return extension == ".gz"; }
  bool is_zip() const { return extension == ".zip"; }
  /// The remedy for `file`.
  std::string remedy_for(const std::filesystem::path& file) const;
};

/// The kind of a file by its content, or null when it may be text or is unknown. What begins with
/// the letters of a format is taken for it only if it also holds bytes that text does not. gzip and
/// zip, which the trainer reads, are kinds, too.
const FileKind* kind_of(std::span<const std::uint8_t> content);

/// The kind whose files are named so, or null. @param extension  with its dot
const FileKind* kind_of_extension(std::string_view extension);

}  // namespace enwik8
