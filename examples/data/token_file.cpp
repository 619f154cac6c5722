// SPDX-License-Identifier: MIT
#include "token_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "reformer/io/atomic_file.hpp"
#include "reformer/io/checksum.hpp"
#include "reformer/io/file_lock.hpp"

namespace data {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers are copied as they are");

namespace fs = std::filesystem;
using nlohmann::json;
using reformer::crc32;

constexpr std::string_view magic = "RFTOKENS";
constexpr std::uint32_t version = 2;
constexpr std::size_t description_size = 60;
constexpr std::int64_t table_entry = 8;  // bytes for the end of a document
constexpr std::size_t buffer_size = 1 << 20;
constexpr std::size_t released_at_once = 1 << 24;

[[noreturn]] void fail_with(const fs::path& file, const std::string& reason) {
  throw std::runtime_error(fmt::format("token file '{}' {}", file.string(), reason));
}

template <typename Number>
void put(std::string& bytes, Number number) {
  std::array<char, sizeof(Number)> raw;
  std::memcpy(raw.data(), &number, sizeof(Number));
  bytes.append(raw.data(), raw.size());
}

template <typename Number>
Number get(std::span<const std::byte> bytes, std::size_t offset) {
  Number number;
  std::memcpy(&number, bytes.data() + offset, sizeof(Number));
  return number;
}

/// As much of a text as there is room for, without a part of a letter at its end.
std::string_view shortened(std::string_view text) {
  if (text.size() <= description_size) {
    return text;
  }
  std::size_t size = description_size;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) {
    --size;
  }
  return text.substr(0, size);
}

std::string bytes_of(const TokenHeader& header) {
  std::string bytes(magic);
  put(bytes, version);
  put(bytes, static_cast<std::uint32_t>(header.width));
  put(bytes, header.vocabulary);
  put(bytes, header.tokens);
  put(bytes, header.documents);
  put(bytes, header.source_bytes);
  put(bytes, std::int64_t{header.end_of_document.value_or(-1)});
  put(bytes, header.checksum);
  put(bytes, header.tokenizer_checksum);
  bytes += shortened(header.description);
  bytes.resize(TokenHeader::size - 4, '\0');
  put(bytes, crc32(bytes));
  return bytes;
}

TokenHeader header_in(const fs::path& file, std::span<const std::byte> bytes) {
  if (bytes.size() < TokenHeader::size) {
    fail_with(file, fmt::format("is truncated: its header has {} bytes and it has {}",
                                TokenHeader::size, bytes.size()));
  }
  if (const auto found = get<std::uint32_t>(bytes, 8); found != version) {
    fail_with(file,
              fmt::format("is of version {}, and this program reads version {}", found, version));
  }
  if (crc32(bytes.first(TokenHeader::size - 4)) != get<std::uint32_t>(bytes, 124)) {
    fail_with(file, "is corrupt: its header does not have its checksum");
  }
  TokenHeader header;
  header.width = static_cast<int>(get<std::uint32_t>(bytes, 12));
  header.vocabulary = get<std::int64_t>(bytes, 16);
  header.tokens = get<std::int64_t>(bytes, 24);
  header.documents = get<std::int64_t>(bytes, 32);
  header.source_bytes = get<std::int64_t>(bytes, 40);
  const auto end = get<std::int64_t>(bytes, 48);
  header.checksum = get<std::uint32_t>(bytes, 56);
  header.tokenizer_checksum = get<std::uint32_t>(bytes, 60);
  const auto* description = reinterpret_cast<const char*>(bytes.data() + 64);
  header.description.assign(description, ::strnlen(description, description_size));

  const auto require = [&](bool is_right, std::string_view name, std::int64_t value,
                           const std::string& rule) {
    if (!is_right) {
      fail_with(file, fmt::format("is corrupt: its {} is {}, must be {}", name, value, rule));
    }
  };
  require(header.width == 2 || header.width == 4, "width", header.width, "2 or 4");
  const std::int64_t most =
      header.width == 2 ? std::int64_t{1} << 16 : std::numeric_limits<std::int32_t>::max();
  require(header.vocabulary >= 1 && header.vocabulary <= most, "vocabulary", header.vocabulary,
          fmt::format("from 1 to {}", most));
  require(end >= -1 && end < header.vocabulary, "end of document", end, "in the vocabulary, or -1");
  require(header.documents >= 0, "number of documents", header.documents, "at least 0");
  require(header.source_bytes >= 0, "number of bytes", header.source_bytes, "at least 0");
  const auto there = static_cast<std::int64_t>(bytes.size() - TokenHeader::size);
  require(header.tokens >= 0, "number of tokens", header.tokens, "at least 0");
  if (end >= 0) {
    header.end_of_document = static_cast<std::int32_t>(end);
  }
  const std::int64_t table = end >= 0 ? 0 : header.documents;
  const bool is_short = header.tokens > there / header.width || table > there / table_entry ||
                        header.tokens * header.width + table * table_entry > there;
  if (is_short || header.tokens * header.width + table * table_entry != there) {
    fail_with(
        file,
        fmt::format("is {}: its header says {} tokens of {} bytes{}, and {} bytes "
                    "follow it",
                    is_short ? "truncated" : "corrupt", header.tokens, header.width,
                    table > 0 ? fmt::format(" and the ends of {} documents", table) : "", there));
  }
  return header;
}

/// Copies tokens of one width to one of another.
template <typename Token>
void widen(const std::byte* from, std::span<std::int32_t> to) {
  for (std::size_t i = 0; i < to.size(); ++i) {
    Token token;
    std::memcpy(&token, from + i * sizeof(Token), sizeof(Token));
    to[i] = static_cast<std::int32_t>(token);
  }
}

fs::path with_suffix(fs::path file, const char* suffix) {
  file += suffix;
  return file;
}

}  // namespace

bool is_token_file(const fs::path& file) {
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) {
    return false;  // and opening a pipe waits for somebody who writes
  }
  std::ifstream stream(file, std::ios::binary);
  std::string begin(magic.size(), '\0');
  stream.read(begin.data(), static_cast<std::streamsize>(begin.size()));
  return stream && begin == magic;
}

TokenFile::TokenFile(const fs::path& file, std::int64_t vocabulary) : file_(file), mapped_(file) {
  const std::span<const std::byte> bytes = mapped_.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  has_header_ = text.starts_with(magic);
  if (has_header_) {
    header_ = header_in(file, bytes);
    return;
  }
  if (vocabulary <= 0) {
    fail_with(file, bytes.empty() ? "is empty"
                                  : "does not begin as token files do; if it holds 16-bit tokens "
                                    "and nothing else, name their tokenizer");
  }
  if (bytes.size() % 2 != 0) {
    fail_with(file, fmt::format("has an odd number of bytes, {}, and no header: it cannot be "
                                "16-bit tokens",
                                bytes.size()));
  }
  header_.vocabulary = vocabulary;
  header_.tokens = static_cast<std::int64_t>(bytes.size() / 2);
  header_.description = "16-bit tokens without a header";
}

void TokenFile::read(std::int64_t begin, std::span<std::int32_t> tokens) const {
  const auto width = static_cast<std::size_t>(header_.width);
  const std::byte* from = mapped_.bytes().data() + (has_header_ ? TokenHeader::size : 0) +
                          static_cast<std::size_t>(begin) * width;
  if (width == 2) {
    widen<std::uint16_t>(from, tokens);
  } else {
    widen<std::int32_t>(from, tokens);
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= header_.vocabulary) {
      fail_with(file_, fmt::format("has token {} at place {}, and its vocabulary has {}", tokens[i],
                                   begin + static_cast<std::int64_t>(i), header_.vocabulary));
    }
  }
  // What is mapped counts as memory of this process until it is given back.
  read_since_release_ += std::max<std::size_t>(tokens.size() * width, std::size_t{1} << 16);
  if (read_since_release_ > released_at_once) {
    mapped_.release();
    read_since_release_ = 0;
  }
}

/// Calls `look(begin, tokens)` with all tokens, a part at a time.
template <typename Look>
void TokenFile::for_all_tokens(const Look& look) const {
  std::vector<std::int32_t> tokens;
  for (std::int64_t begin = 0; begin < size(); begin += std::ssize(tokens)) {
    tokens.resize(
        static_cast<std::size_t>(std::min<std::int64_t>(size() - begin, std::int64_t{1} << 18)));
    read(begin, tokens);
    look(begin, tokens);
  }
  mapped_.release();
}

std::vector<std::int64_t> TokenFile::document_ends(std::optional<std::int32_t> end) const {
  std::vector<std::int64_t> ends;
  if (has_header_ && !header_.end_of_document) {
    ends.resize(static_cast<std::size_t>(header_.documents));
    const auto table = mapped_.bytes().last(ends.size() * sizeof(std::int64_t));
    if (!table.empty()) {
      std::memcpy(ends.data(), table.data(), table.size());
    }
    if (!std::is_sorted(ends.begin(), ends.end()) ||
        (!ends.empty() && (ends.front() < 0 || ends.back() > size()))) {
      fail_with(file_, "is corrupt: its documents do not end one after another");
    }
    return ends;
  }
  const std::int32_t token = header_.end_of_document.value_or(end.value_or(-1));
  for_all_tokens([&](std::int64_t begin, std::span<const std::int32_t> tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (tokens[i] == token) {
        ends.push_back(begin + static_cast<std::int64_t>(i) + 1);
      }
    }
  });
  return ends;
}

std::uint32_t TokenFile::check() const {
  const auto width = static_cast<std::size_t>(header_.width);
  const std::span<const std::byte> all =
      mapped_.bytes().subspan(has_header_ ? TokenHeader::size : 0);
  std::uint32_t crc = 0;
  for_all_tokens([&](std::int64_t begin, std::span<const std::int32_t> tokens) {
    crc = crc32(all.subspan(static_cast<std::size_t>(begin) * width, tokens.size() * width), crc);
  });
  crc = crc32(all.subspan(static_cast<std::size_t>(size()) * width), crc);
  if (has_header_ && crc != header_.checksum) {
    fail_with(file_,
              fmt::format("is corrupt: its contents have checksum {:08x}, and its header says "
                          "{:08x}",
                          crc, header_.checksum));
  }
  return crc;
}

bool has_part(const fs::path& file) {
  std::error_code ignored;
  return fs::exists(with_suffix(file, ".part"), ignored) ||
         fs::exists(with_suffix(file, ".journal"), ignored);
}

TokenWriter::TokenWriter(fs::path file, const TokenHeader& header)
    : file_(std::move(file)),
      part_(with_suffix(file_, ".part")),
      journal_(with_suffix(file_, ".journal")),
      header_(header) {
  header_.width = header.vocabulary <= std::int64_t{1} << 16 ? 2 : 4;
  header_.tokens = 0;
  header_.checksum = 0;
  std::error_code ignored;
  if (fs::exists(file_, ignored)) {
    fail_with(file_, "is there already; it is not overwritten");
  }
}

TokenWriter::TokenWriter(TokenWriter&& other) noexcept
    : file_(std::move(other.file_)),
      part_(std::move(other.part_)),
      journal_(std::move(other.journal_)),
      header_(std::move(other.header_)),
      progress_(other.progress_),
      document_ends_(std::move(other.document_ends_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      buffer_(std::move(other.buffer_)) {}

TokenWriter::~TokenWriter() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

void TokenWriter::lock() const {
  if (!reformer::try_lock_file(descriptor_) || !reformer::is_name_of(part_, descriptor_)) {
    fail_with(file_, "is being written by another process");
  }
}

void TokenWriter::fail_to_write(int error) const {
  fail_with(file_, "cannot be written: " + std::generic_category().message(error));
}

TokenWriter TokenWriter::start(const fs::path& file, const TokenHeader& header) {
  TokenWriter writer(file, header);
  if (has_part(file)) {
    fail_with(file,
              "was begun before and not finished; go on with it, or remove its .part and "
              ".journal");
  }
  writer.descriptor_ = ::open(writer.part_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
  if (writer.descriptor_ < 0) {
    writer.fail_to_write(errno);
  }
  writer.lock();
  // Without its magic number, so that nobody takes it for what it is not yet.
  writer.buffer_.assign(TokenHeader::size, '\0');
  try {
    writer.save();
  } catch (...) {
    writer.discard();
    throw;
  }
  return writer;
}

TokenWriter TokenWriter::resume(const fs::path& file, const TokenHeader& header) {
  TokenWriter writer(file, header);
  writer.descriptor_ = ::open(writer.part_.c_str(), O_WRONLY | O_CLOEXEC);
  if (const int error = errno; writer.descriptor_ < 0) {
    if (!has_part(file)) {
      fail_with(file, "was not begun, so there is nothing to go on with");
    }
    writer.fail_to_write(error);
  }
  writer.lock();
  std::error_code ignored;
  if (!fs::exists(writer.journal_, ignored)) {
    fs::remove(writer.part_, ignored);
    return start(file, header);  // its beginning was interrupted
  }
  std::uint32_t tokenizer = 0;
  std::int64_t vocabulary = 0;
  try {
    std::ifstream stream(writer.journal_);
    const json journal = json::parse(stream);
    TokenProgress& progress = writer.progress_;
    journal.at("tokens").get_to(writer.header_.tokens);
    journal.at("checksum").get_to(writer.header_.checksum);
    journal.at("tokenizer").get_to(tokenizer);
    journal.at("vocabulary").get_to(vocabulary);
    journal.at("documents").get_to(progress.documents);
    journal.at("offset").get_to(progress.offset);
    journal.at("source_bytes").get_to(progress.source_bytes);
    journal.at("source_checksum").get_to(progress.source_checksum);
    journal.at("document_ends").get_to(writer.document_ends_);
  } catch (const json::exception&) {
    fail_with(file, "cannot go on: its .journal is damaged; remove it and its .part");
  }
  if (tokenizer != header.tokenizer_checksum || vocabulary != header.vocabulary) {
    fail_with(file,
              fmt::format("was begun with another tokenizer, of {} tokens and checksum "
                          "{:08x}; this one has {} and {:08x}",
                          vocabulary, tokenizer, header.vocabulary, header.tokenizer_checksum));
  }
  const std::int64_t size =
      static_cast<std::int64_t>(TokenHeader::size) + writer.header_.tokens * writer.header_.width;
  {
    const reformer::MappedFile part(writer.part_);
    if (std::ssize(part.bytes()) < size) {
      fail_with(file, "cannot go on: its .part is shorter than its .journal says; remove both");
    }
    std::uint32_t crc = 0;
    auto rest = part.bytes().first(static_cast<std::size_t>(size)).subspan(TokenHeader::size);
    while (!rest.empty()) {
      const auto some = rest.first(std::min(rest.size(), released_at_once));
      crc = crc32(some, crc);
      part.release();
      rest = rest.subspan(some.size());
    }
    if (crc != writer.header_.checksum) {
      fail_with(file, "cannot go on: its .part is damaged; remove it and its .journal");
    }
  }
  if (::ftruncate(writer.descriptor_, size) != 0 ||
      ::lseek(writer.descriptor_, size, SEEK_SET) != size) {
    writer.fail_to_write(errno);
  }
  return writer;
}

void TokenWriter::append(std::span<const std::int32_t> tokens, const TokenProgress& progress) {
  const std::size_t begin = buffer_.size();
  const auto width = static_cast<std::size_t>(header_.width);
  buffer_.resize(begin + tokens.size() * width);
  char* to = buffer_.data() + begin;
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= header_.vocabulary) {
      fail_with(file_, fmt::format(
                           "cannot be written: the tokenizer gave token {} and says that it has {}",
                           token, header_.vocabulary));
    }
    std::memcpy(to, &token, width);
    to += width;
  }
  header_.checksum = crc32(std::string_view(buffer_).substr(begin), header_.checksum);
  header_.tokens += std::ssize(tokens);
  progress_ = progress;
  if (!header_.end_of_document) {
    document_ends_.resize(static_cast<std::size_t>(progress.documents), header_.tokens);
  }
  if (buffer_.size() >= buffer_size) {
    flush();
  }
}

void TokenWriter::discard() {
  std::error_code ignored;
  fs::remove(part_, ignored);
  fs::remove(journal_, ignored);
}

std::size_t TokenWriter::write_some(std::span<const std::byte> bytes) {
  for (;;) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written >= 0) {
      return static_cast<std::size_t>(written);
    }
    if (errno != EINTR) {
      fail_to_write(errno);
    }
  }
}

void TokenWriter::flush() {
  // What is written is forgotten at once: after an error, what comes later goes behind it.
  while (!buffer_.empty()) {
    buffer_.erase(0, write_some(std::as_bytes(std::span(buffer_))));
  }
}

void TokenWriter::sync() {
  flush();
  if (::fsync(descriptor_) != 0 && errno != EINVAL && errno != EROFS) {
    fail_to_write(errno);
  }
}

void TokenWriter::save() {
  sync();
  const json journal{{"tokens", header_.tokens},
                     {"checksum", header_.checksum},
                     {"tokenizer", header_.tokenizer_checksum},
                     {"vocabulary", header_.vocabulary},
                     {"documents", progress_.documents},
                     {"offset", progress_.offset},
                     {"source_bytes", progress_.source_bytes},
                     {"source_checksum", progress_.source_checksum},
                     {"document_ends", document_ends_}};
  reformer::write_file_atomically(journal_, journal.dump(1) + "\n");
}

void TokenWriter::finish() {
  save();  // the header changes nothing of what it says
  header_.documents = progress_.documents;
  header_.source_bytes = progress_.source_bytes;
  const auto table = std::as_bytes(std::span(document_ends_));
  header_.checksum = crc32(table, header_.checksum);
  buffer_.assign(reinterpret_cast<const char*>(table.data()), table.size());
  flush();
  if (::lseek(descriptor_, 0, SEEK_SET) != 0) {
    fail_to_write(errno);
  }
  buffer_ = bytes_of(header_);
  sync();
  // Network file systems report a full disk as late as at a close; the lock ends with the last.
  const int copy = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, 0);
  if (copy < 0 || ::close(copy) != 0) {
    fail_to_write(errno);
  }
  if (::rename(part_.c_str(), file_.c_str()) != 0) {
    fail_to_write(errno);
  }
  // Before the journal goes, the name must be there for good.
  const int folder = ::open(file_.has_parent_path() ? file_.parent_path().c_str() : ".",
                            O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);
    ::close(folder);
  }
  std::error_code ignored;
  fs::remove(journal_, ignored);
}

}  // namespace data
