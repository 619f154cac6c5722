// SPDX-License-Identifier: MIT
#include "corpus.hpp"

#include <fmt/format.h>
#include <zip.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "file_kind.hpp"
#include "generated_corpus.hpp"

namespace enwik8 {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

[[noreturn]] void fail(const fs::path& file, const std::string& reason) {
  throw std::runtime_error(fmt::format("data file '{}' {}", file.string(), reason));
}

Bytes read_raw(const fs::path& file) {
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found) {
    fail(file, "does not exist");
  }
  if (error) {
    fail(file, "cannot be read: " + error.message());
  }
  if (fs::is_directory(status)) {
    fail(file, "is a folder; give a file: raw, .gz or .zip");
  }
  if (!fs::is_regular_file(status)) {
    fail(file, "is not a regular file; give a file: raw, .gz or .zip");
  }
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(file.c_str(), "rb"),
                                                               &std::fclose);
  if (!stream) {
    fail(file, "cannot be read: " + std::generic_category().message(errno));
  }
  const std::uintmax_t size = fs::file_size(file, error);
  Bytes bytes(error ? std::size_t{0} : static_cast<std::size_t>(size));
  const std::size_t read = std::fread(bytes.data(), 1, bytes.size(), stream.get());
  if (std::ferror(stream.get()) != 0) {
    fail(file, "cannot be read: " + std::generic_category().message(errno));
  }
  bytes.resize(read);  // shorter when the file shrank meanwhile
  if (bytes.empty()) {
    fail(file, "is empty");
  }
  return bytes;
}

/// Inflates all members of a gzip file. gzip itself lets zeros follow the last member (tapes are
/// padded so) and so do we; anything else there is damage.
Bytes gunzip(const fs::path& file, Bytes compressed) {
  z_stream stream{};
  constexpr int gzip_only = 16 + MAX_WBITS;
  if (inflateInit2(&stream, gzip_only) != Z_OK) {
    fail(file, "cannot be decompressed: zlib does not start");
  }
  const std::unique_ptr<z_stream, int (*)(z_stream*)> guard(&stream, &inflateEnd);

  Bytes output(std::max<std::size_t>(compressed.size() * 4, 1 << 16));
  std::size_t produced = 0;
  std::size_t consumed = 0;
  constexpr std::size_t most = std::numeric_limits<uInt>::max();
  for (;;) {
    if (produced == output.size()) {
      output.resize(output.size() * 2);
    }
    stream.next_in = compressed.data() + consumed;
    stream.avail_in = static_cast<uInt>(std::min(compressed.size() - consumed, most));
    stream.next_out = output.data() + produced;
    stream.avail_out = static_cast<uInt>(std::min(output.size() - produced, most));
    const uInt offered_in = stream.avail_in;
    const uInt offered_out = stream.avail_out;
    const int result = inflate(&stream, Z_NO_FLUSH);
    consumed += offered_in - stream.avail_in;
    produced += offered_out - stream.avail_out;

    if (result == Z_STREAM_END) {
      const auto rest = compressed.begin() + static_cast<std::ptrdiff_t>(consumed);
      if (std::all_of(rest, compressed.end(), [](std::uint8_t byte) { return byte == 0; })) {
        break;
      }
      const std::size_t left = compressed.size() - consumed;
      if (*rest != 0x1f || (left >= 2 && *(rest + 1) != 0x8b)) {
        fail(file, fmt::format("is corrupt: {} bytes after its end are not gzip data", left));
      }
      inflateReset(&stream);
    } else if (result == Z_OK || result == Z_BUF_ERROR) {
      // Out of input before the end of the member, and not for want of room.
      if (consumed == compressed.size() && stream.avail_out != 0) {
        fail(file, fmt::format("is truncated: its gzip data ends early, after {} bytes of text",
                               produced));
      }
    } else {
      fail(file, fmt::format("is corrupt: gzip: {}, after {} bytes of text",
                             stream.msg != nullptr ? stream.msg : "unreadable data", produced));
    }
  }
  output.resize(produced);
  return output;
}

struct ZipDeleter {
  void operator()(zip_t* archive) const { zip_discard(archive); }
  void operator()(zip_file_t* entry) const { zip_fclose(entry); }
};

/// Inflates the first file of a zip archive; libzip checks its CRC at the end.
Bytes unzip(const fs::path& file, std::string& entry_name) {
  int code = 0;
  const std::unique_ptr<zip_t, ZipDeleter> archive(
      zip_open(file.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code));
  if (!archive) {
    if (code == ZIP_ER_NOZIP) {
      fail(file, "is truncated or corrupt: a zip archive without its list of files at the end");
    }
    zip_error_t error;
    zip_error_init_with_code(&error, code);
    const std::string text = zip_error_strerror(&error);
    zip_error_fini(&error);
    fail(file, "is corrupt: zip: " + text);
  }
  const zip_int64_t entries = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < entries; ++i) {
    const auto index = static_cast<zip_uint64_t>(i);
    zip_stat_t stat;
    if (zip_stat_index(archive.get(), index, 0, &stat) != 0) {
      fail(file, fmt::format("is corrupt: zip: {}", zip_strerror(archive.get())));
    }
    entry_name = (stat.valid & ZIP_STAT_NAME) != 0 ? stat.name : "";
    if (!entry_name.empty() && entry_name.back() == '/') {
      continue;  // a folder
    }
    if ((stat.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && stat.encryption_method != ZIP_EM_NONE) {
      fail(file, fmt::format("is encrypted ('{}' in it); give it decrypted", entry_name));
    }
    const std::unique_ptr<zip_file_t, ZipDeleter> entry(zip_fopen_index(archive.get(), index, 0));
    if (!entry) {
      fail(file, fmt::format("is corrupt: zip: '{}': {}", entry_name, zip_strerror(archive.get())));
    }
    // The size in the archive is not believed: the output grows with what really comes.
    Bytes output;
    std::size_t produced = 0;
    for (;;) {
      if (produced == output.size()) {
        output.resize(std::max<std::size_t>(output.size() * 2, 1 << 20));
      }
      const zip_int64_t read =
          zip_fread(entry.get(), output.data() + produced, output.size() - produced);
      if (read < 0) {
        fail(file, fmt::format("is corrupt: zip: '{}': {}, after {} bytes of text", entry_name,
                               zip_file_strerror(entry.get()), produced));
      }
      if (read == 0) {
        break;
      }
      produced += static_cast<std::size_t>(read);
    }
    output.resize(produced);
    if ((stat.valid & ZIP_STAT_SIZE) != 0 && stat.size != produced) {
      fail(file, fmt::format("is corrupt: zip: '{}' has {} bytes instead of {}", entry_name,
                             produced, stat.size));
    }
    return output;
  }
  fail(file, "is a zip archive without a file in it");
}

}  // namespace

Split Corpus::split() const {
  const std::span<const std::uint8_t> all(bytes);
  // Rounding down the two small parts gives enwik8 its 90, 5 and 5 million, too.
  const std::size_t part = all.size() / 20;
  const std::size_t train = all.size() - 2 * part;
  return {all.first(train), all.subspan(train, part), all.subspan(train + part)};
}

std::uint32_t Corpus::checksum() const {
  return static_cast<std::uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
}

void Corpus::require_parts(std::size_t minimum_part, const std::string& purpose) const {
  const std::size_t part = split().test.size();
  if (part < minimum_part) {
    throw std::runtime_error(
        fmt::format("data '{}' is too short: it has {} bytes, its validation and test parts (5 % "
                    "each) {}, but {} needs at least {} in each part, so {} in all",
                    source, bytes.size(), part, purpose, minimum_part, 20 * minimum_part));
  }
}

Corpus load_corpus(const fs::path& file) {
  Corpus corpus;
  corpus.source = file.string();
  try {
    corpus.bytes = read_raw(file);
    const FileKind* kind = kind_of(corpus.bytes);
    const FileKind* named = kind_of_extension(file.extension().string());
    if (kind == nullptr && named != nullptr) {
      fail(file, fmt::format("is named {} but is corrupt or of another kind: it does not begin as "
                             "{} files do",
                             named->extension, named->extension));
    }
    if (kind != nullptr && kind->is_gzip()) {
      corpus.bytes = gunzip(file, std::move(corpus.bytes));
    } else if (kind != nullptr && kind->is_zip()) {
      std::string entry;
      corpus.bytes = unzip(file, entry);
      corpus.source += " (" + entry + ")";
    } else if (kind != nullptr) {
      fail(file, fmt::format("is {}, not raw bytes: {}", kind->name, kind->remedy_for(file)));
    }
    if (corpus.bytes.empty()) {
      fail(file, "is empty once decompressed");
    }
    if (const FileKind* inner = kind != nullptr ? kind_of(corpus.bytes) : nullptr) {
      fail(file, fmt::format("is {} with {} inside, not raw bytes: unpack both and give a text",
                             kind->name, inner->name));
    }
  } catch (const std::bad_alloc&) {
    fail(file, "does not fit into memory");
  } catch (const std::length_error&) {
    fail(file, "does not fit into memory");
  }
  return corpus;
}

std::vector<fs::path> data_folders(const fs::path& current, const fs::path& program) {
  const fs::path in_tree = fs::path("examples") / "enwik8" / "data";
  std::vector<fs::path> folders{current / in_tree, current / "data"};
  if (!program.empty()) {
    fs::path folder = program.parent_path();
    folders.push_back(folder / "data");
    while (!folder.empty()) {
      folders.push_back(folder / in_tree);
      if (folder == folder.parent_path()) {
        break;
      }
      folder = folder.parent_path();
    }
  }
  return folders;
}

fs::path program_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path() : path;
}

std::optional<fs::path> find_enwik8(const std::vector<fs::path>& folders) {
  for (const fs::path& folder : folders) {
    for (const char* name : {"enwik8", "enwik8.zip", "enwik8.gz"}) {
      std::error_code ignored;
      if (fs::is_regular_file(folder / name, ignored)) {
        return folder / name;
      }
    }
  }
  return std::nullopt;
}

Corpus choose_corpus(const std::string& file, const std::vector<fs::path>& folders) {
  if (!file.empty()) {
    return load_corpus(file);
  }
  if (const std::optional<fs::path> found = find_enwik8(folders)) {
    Corpus corpus = load_corpus(*found);
    if (!corpus.is_enwik8()) {
      fail(*found, fmt::format("has {} bytes and enwik8 has {}: fetch it again with fetch.sh, or "
                               "name the file with --data to use it as it is",
                               corpus.bytes.size(), enwik8_size));
    }
    return corpus;
  }
  Corpus corpus;
  corpus.bytes = generate_corpus();
  corpus.source = fmt::format("generated corpus (seed {})", generated_corpus_seed);
  corpus.generated = true;
  return corpus;
}

}  // namespace enwik8
