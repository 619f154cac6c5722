// SPDX-License-Identifier: MIT
#include "file_kind.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "training/words.hpp"

namespace data {
namespace {

using namespace std::string_view_literals;

struct Signature {
  std::size_t offset;
  std::string_view magic;
  /// Whether a text could have the magic, too, so that it counts only beside bytes that no text
  /// has.
  bool is_text;
  FileKind kind;
};

using enum FileKind::Use;

constexpr std::string_view none = "give a text";
constexpr std::string_view unpack = "decompress it first";  // where it is not read

constexpr FileKind bzip2{"a bzip2 file", ".bz2", decompressed, unpack};
constexpr FileKind zip{"a zip archive", ".zip", archive, "unpack it first: unzip {}"};
constexpr FileKind tar{"a tar archive", ".tar", archive, "unpack it first: tar -xf {}"};
constexpr FileKind gif{"a GIF image", "", left_out, none};
constexpr FileKind lfs_pointer{"a pointer of git-LFS in place of the file", "", refused,
                               "fetch the file first: git lfs pull"};
constexpr FileKind safetensors{"a safetensors file", "", left_out, none};

constexpr std::array signatures{
    Signature{0, "\x1f\x8b"sv, false, {"a gzip file", ".gz", decompressed, unpack}},
    Signature{0, "PK\x03\x04"sv, false, zip},
    Signature{0, "PK\x05\x06"sv, false, zip},
    Signature{0, "\xfd\x37zXZ\0"sv, false, {"an xz file", ".xz", decompressed, unpack}},
    Signature{4, "1AY&SY"sv, true, bzip2},
    Signature{4, "\x17rE8P\x90"sv, false, bzip2},  // with nothing in it
    Signature{0, "\x28\xb5\x2f\xfd"sv, false, {"a zstd file", ".zst", decompressed, unpack}},
    Signature{0, "\x04\x22\x4d\x18"sv, false, {"an lz4 file", ".lz4", decompressed, unpack}},
    Signature{0, "LZIP\x01"sv, false, {"an lzip file", ".lz", decompressed, unpack}},
    Signature{0,
              "7z\xbc\xaf\x27\x1c"sv,
              false,
              {"a 7z archive", ".7z", refused, "unpack it first: 7z x {}"}},
    Signature{0,
              "Rar!\x1a\x07"sv,
              false,
              {"a rar archive", ".rar", refused, "unpack it first: unrar x {}"}},
    Signature{257, "ustar\0"sv, false, tar},
    Signature{257, "ustar  \0"sv, false, tar},
    Signature{
        0, "%PDF-"sv, true, {"a PDF file", "", left_out, "extract its text first: pdftotext {}"}},
    Signature{0, "\x89PNG\r\n\x1a\n"sv, false, {"a PNG image", "", left_out, none}},
    Signature{0, "\xff\xd8\xff"sv, true, {"a JPEG image", "", left_out, none}},
    Signature{0, "GIF87a"sv, true, gif},
    Signature{0, "GIF89a"sv, true, gif},
    Signature{8, "WEBPVP8"sv, true, {"a WebP image", "", left_out, none}},
    Signature{0, "\177ELF"sv, false, {"a program or library (ELF)", "", left_out, none}},
    Signature{0, "SQLite format 3\0"sv, false, {"an SQLite database", "", left_out, none}},
    Signature{0, "\x89HDF\r\n\x1a\n"sv, false, {"an HDF5 file", "", left_out, none}},
    Signature{0, "\x93NUMPY"sv, false, {"a NumPy array", "", left_out, none}},
    Signature{0,
              "RFTOKENS"sv,
              false,
              {"a token file", "", refused, "give it alone, not with others or packed"}},
    Signature{0, "PAR1"sv, true, {"a Parquet file", "", left_out, none}},
};

/// Whether there are control bytes which no text has, in any encoding of one byte or in UTF-8.
bool is_binary(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < '\t' || (byte > '\r' && byte < 0x1a);
  });
}

std::string_view as_text(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// The length of a JSON object as 64 bits, and then the object, as long as the file allows.
bool is_safetensors(std::span<const std::uint8_t> content, bool is_whole) {
  if (content.size() < 10 || content[8] != '{') {
    return false;
  }
  std::uint64_t length = 0;
  for (std::size_t i = 8; i-- > 0;) {
    length = length << 8 | content[i];
  }
  // Eight letters of a text are a number that is far beyond the second limit.
  const std::uint64_t most = is_whole ? content.size() - 8 : std::uint64_t{1} << 32;
  return length >= 2 && length <= most && (content[9] == '"' || content[9] == '}');
}

}  // namespace

std::string_view FileKind::short_name() const {
  const std::string_view words = name.substr(name.find(' ') + 1);
  return words.substr(0, words.find(' '));
}

std::string FileKind::remedy_for(const std::filesystem::path& file) const {
  return fmt::format(fmt::runtime(remedy), training::shell_word(file.string()));
}

const FileKind* kind_of(std::span<const std::uint8_t> content, bool is_whole) {
  const std::string_view text = as_text(content);
  for (const Signature& signature : signatures) {
    if (text.size() >= signature.offset &&
        text.substr(signature.offset).starts_with(signature.magic) &&
        (!signature.is_text || is_binary(text))) {
      return &signature.kind;
    }
  }
  // A pointer is a text of three lines; a longer one is a text about such pointers.
  if (is_whole && text.size() < 1024 &&
      text.starts_with("version https://git-lfs.github.com/spec/v1\noid sha256:")) {
    return &lfs_pointer;
  }
  return is_safetensors(content, is_whole) ? &safetensors : nullptr;
}

const FileKind* kind_of_extension(std::string_view extension) {
  const auto found =
      std::find_if(signatures.begin(), signatures.end(), [&](const Signature& signature) {
        return !extension.empty() && signature.kind.extension == extension;
      });
  return found == signatures.end() ? nullptr : &found->kind;
}

}  // namespace data
