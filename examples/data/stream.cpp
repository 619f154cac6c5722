// SPDX-License-Identifier: MIT
#include "stream.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "reformer/io/checksum.hpp"

namespace data {
namespace {

using Bytes = std::span<const std::uint8_t>;
using LibArchive = std::unique_ptr<::archive, int (*)(::archive*)>;

LibArchive new_archive() {
  LibArchive archive(::archive_read_new(), &::archive_read_free);
  if (!archive) {
    throw std::bad_alloc();
  }
  return archive;
}

std::string error_of(::archive* archive) {
  const char* text = ::archive_error_string(archive);
  return text != nullptr ? text : "";
}

/// The next block of an entry that is not empty; an empty one at its end.
/// @param check  called with the results of reading
template <typename Check>
Bytes next_data(::archive* archive, const Check& check) {
  for (;;) {
    const void* bytes = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int result = ::archive_read_data_block(archive, &bytes, &size, &offset);
    if (result == ARCHIVE_EOF) {
      return {};
    }
    check(result);
    if (size > 0) {
      return {static_cast<const std::uint8_t*>(bytes), size};
    }
  }
}

bool is_about_an_early_end(std::string_view error) {
  return error.find("runcated") != error.npos;
}
/// Of xz, and, without a word, of gzip.
bool is_about_a_lack_of_bytes(std::string_view error) {
  return error.empty() || error.find("No progress is possible") != error.npos;
}

std::uint32_t number_at(const std::uint8_t* bytes) {
  return bytes[0] | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
         std::uint32_t{bytes[3]} << 24;
}

/// What libarchive reads from: a stream, of whose bytes the last are kept.
class Feed {
 public:
  explicit Feed(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  Stream& stream() { return *stream_; }
  /// Given to libarchive so far.
  std::uint64_t given() const { return given_; }

  Bytes next() {
    const Bytes block = stream_->block();
    if (block.empty()) {
      return {};
    }
    std::swap(last_, before_);
    last_.assign(block.begin(), block.end());
    given_ += last_.size();
    return last_;
  }

  static la_ssize_t read(::archive* archive, void* feed, const void** bytes) {
    auto& self = *static_cast<Feed*>(feed);
    try {
      const Bytes block = self.next();
      *bytes = block.data();
      return static_cast<la_ssize_t>(block.size());
    } catch (...) {
      self.error_ = std::current_exception();
      ::archive_set_error(archive, EIO, "cannot be read");
      return -1;
    }
  }

  /// Throws what the stream threw, which libarchive does not pass on.
  void rethrow() const {
    if (error_) {
      std::rethrow_exception(error_);
    }
  }

  /// The `count` bytes before a place among the last blocks, as far as they are there.
  std::vector<std::uint8_t> before(std::uint64_t place, std::size_t count) const {
    std::vector<std::uint8_t> kept(before_);
    kept.insert(kept.end(), last_.begin(), last_.end());
    const std::uint64_t begin = given_ - kept.size();
    if (place < begin + count || place > given_) {
      return {};
    }
    const auto end = kept.begin() + static_cast<std::ptrdiff_t>(place - begin);
    return {end - static_cast<std::ptrdiff_t>(count), end};
  }

  struct Rest {
    std::uint64_t bytes = 0;
    bool is_zero = true;
    std::array<std::uint8_t, 2> first{};
  };
  /// What comes after a place among the last blocks. The stream is at its end then.
  Rest rest(std::uint64_t place) {
    Rest rest;
    const auto add = [&](Bytes bytes) {
      for (std::size_t i = 0; i < bytes.size() && rest.bytes + i < rest.first.size(); ++i) {
        rest.first[rest.bytes + i] = bytes[i];
      }
      rest.bytes += bytes.size();
      rest.is_zero = rest.is_zero && std::all_of(bytes.begin(), bytes.end(),
                                                 [](std::uint8_t byte) { return byte == 0; });
    };
    const std::vector<std::uint8_t> kept = before(given_, std::min(given_ - place, given_));
    add(kept);
    for (Bytes block = next(); !block.empty(); block = next()) {
      add(block);
    }
    return rest;
  }

 private:
  std::unique_ptr<Stream> stream_;
  std::vector<std::uint8_t> before_;  // two blocks, because libarchive looks ahead
  std::vector<std::uint8_t> last_;
  std::uint64_t given_ = 0;
  std::exception_ptr error_;
};

/// The checksum and the size at the end of each member of a gzip file, which libarchive does not
/// look at. Nor does it tell where a member ends: that is before what looks like the header of the
/// next one, if the text has the size and the checksum that are there. Of several such places, as
/// where gzip files are in an archive that is compressed again, it is the first.
class GzipMembers {
 public:
  /// To be called with all compressed bytes, before the text in them.
  void compressed(Bytes block) {
    window_.insert(window_.end(), block.begin(), block.end());
    given_ += block.size();
    const std::uint64_t begin = given_ - window_.size();
    for (std::size_t i = trailer; i + header <= window_.size(); ++i) {
      if (is_header(&window_[i])) {
        const End end{number_at(&window_[i - trailer]), number_at(&window_[i - 4]), begin + i};
        if (end.size > 0) {  // members without text change nothing
          ends_.push_back(end);
        }
      }
    }
    constexpr std::size_t kept = trailer + header - 1;
    if (window_.size() > kept) {
      window_.erase(window_.begin(), window_.end() - static_cast<std::ptrdiff_t>(kept));
    }
  }

  /// @param consumed  compressed bytes that this text and that before come from; maybe some more
  void text(Bytes block, std::uint64_t consumed) {
    for (bool found = true; found;) {
      found = false;
      for (auto end = ends_.begin(); end != ends_.end() && end->place <= consumed; ++end) {
        const std::size_t length = end->size - size_;
        if (length <= block.size() && crc_with(block.first(length)) == end->crc) {
          block = block.subspan(length);
          ends_.erase(ends_.begin(), end + 1);
          crc_ = 0;
          size_ = 0;
          found = true;
          break;
        }
      }
    }
    crc_ = crc_with(block);
    size_ += static_cast<std::uint32_t>(block.size());
  }

  /// Whether the last member with text has the checksum and the size in its last bytes.
  bool ends_with(std::span<const std::uint8_t> end, std::uint64_t consumed) {
    text({}, consumed);  // members without text after it may have come into sight since
    return end.size() == trailer && number_at(end.data()) == crc_ &&
           number_at(end.data() + 4) == size_;
  }

  static constexpr std::size_t trailer = 8;

 private:
  static constexpr std::size_t header = 10;
  struct End {
    std::uint32_t crc, size;
    std::uint64_t place;
  };

  /// Magic number, method and flags; behind the time, how well it is compressed and on what system.
  static bool is_header(const std::uint8_t* bytes) {
    return bytes[0] == 0x1f && bytes[1] == 0x8b && bytes[2] == 8 && (bytes[3] & 0xe0) == 0 &&
           (bytes[8] == 0 || bytes[8] == 2 || bytes[8] == 4) && (bytes[9] <= 13 || bytes[9] == 255);
  }

  std::uint32_t crc_with(Bytes text) const { return reformer::crc32(std::as_bytes(text), crc_); }

  std::deque<End> ends_;
  std::vector<std::uint8_t> window_;
  std::uint64_t given_ = 0;
  std::uint32_t crc_ = 0;
  std::uint32_t size_ = 0;  // of the member's text, which wraps around as it does in the file
};

class Decompressed : public Stream {
 public:
  Decompressed(std::string name, const FileKind& kind, std::unique_ptr<Stream> compressed)
      : name_(std::move(name)),
        kind_name_(kind.name),
        format_(kind.short_name()),
        is_gzip_(kind.extension == ".gz"),
        feed_(std::move(compressed)),
        archive_(new_archive()) {
    ::archive* const archive = archive_.get();
    kind.extension == ".gz"    ? ::archive_read_support_filter_gzip(archive)
    : kind.extension == ".bz2" ? ::archive_read_support_filter_bzip2(archive)
    : kind.extension == ".xz"  ? ::archive_read_support_filter_xz(archive)
    : kind.extension == ".zst" ? ::archive_read_support_filter_zstd(archive)
    : kind.extension == ".lz4" ? ::archive_read_support_filter_lz4(archive)
                               : ::archive_read_support_filter_lzip(archive);
    ::archive_read_support_format_raw(archive);
    ::archive_read_support_format_empty(archive);
  }

 protected:
  Bytes next_block() override {
    if (!is_open_) {
      is_open_ = true;
      check(::archive_read_open(archive_.get(), this, nullptr, &read, nullptr));
      ::archive_entry* entry = nullptr;
      const int result = ::archive_read_next_header(archive_.get(), &entry);
      // Whoever reads a stream knows its kind by a few bytes, and libarchive wants a whole header.
      if (::archive_filter_count(archive_.get()) < 2 && !feed_error()) {
        fail(name_,
             fmt::format("is truncated or corrupt: its {} data has no whole header", format_));
      }
      if (::archive_filter_count(archive_.get()) > 2) {
        fail(name_,
             fmt::format("is {0} with {0} inside, not raw bytes: unpack both and give a text",
                         kind_name_));
      }
      if (result == ARCHIVE_EOF) {
        check_end();
        return {};
      }
      check(result);
    }
    if (is_at_end_) {
      return {};
    }
    const Bytes block = next_data(archive_.get(), [&](int result) { check(result); });
    if (block.empty()) {
      check_end();
      return {};
    }
    produced_ += block.size();
    if (is_gzip_) {
      members_.text(block, consumed());
    }
    return block;
  }

 private:
  static la_ssize_t read(::archive* archive, void* stream, const void** bytes) {
    auto& self = *static_cast<Decompressed*>(stream);
    const la_ssize_t size = Feed::read(archive, &self.feed_, bytes);
    if (self.is_gzip_ && size > 0) {
      self.members_.compressed(
          {static_cast<const std::uint8_t*>(*bytes), static_cast<std::size_t>(size)});
    }
    return size;
  }

  std::uint64_t consumed() const {
    return static_cast<std::uint64_t>(::archive_filter_bytes(archive_.get(), -1));
  }

  bool feed_error() const {
    feed_.rethrow();
    return false;
  }

  void check(int result) {
    if (result == ARCHIVE_OK) {
      return;
    }
    feed_.rethrow();
    const std::string error = error_of(archive_.get());
    if (is_about_an_early_end(error)) {
      fail(name_, fmt::format("is truncated: its {} data ends early, after {} bytes of text",
                              format_, produced_));
    }
    if (is_about_a_lack_of_bytes(error)) {
      fail(name_, fmt::format("is truncated or corrupt: its {} data does not go on as it must, "
                              "after {} bytes of text",
                              format_, produced_));
    }
    fail(name_,
         fmt::format("is corrupt: {}: {}, after {} bytes of text", format_, error, produced_));
  }

  void check_end() {
    is_at_end_ = true;
    const std::uint64_t end = consumed();
    const std::vector<std::uint8_t> trailer = feed_.before(end, GzipMembers::trailer);
    if (is_gzip_ && !members_.ends_with(trailer, end)) {
      fail(name_, fmt::format("is corrupt: gzip: a wrong checksum or size, after {} bytes of text",
                              produced_));
    }
    const Feed::Rest rest = feed_.rest(end);
    if (rest.is_zero) {  // tapes are padded so
      return;
    }
    if (is_gzip_ && rest.first[0] == 0x1f && (rest.bytes == 1 || rest.first[1] == 0x8b)) {
      fail(name_, fmt::format("is truncated: its gzip data ends early, after {} bytes of text",
                              produced_));
    }
    fail(name_,
         fmt::format("is corrupt: {} bytes after its end are not {} data", rest.bytes, format_));
  }

  std::string name_;
  std::string kind_name_;
  std::string format_;
  bool is_gzip_;
  Feed feed_;
  LibArchive archive_;
  GzipMembers members_;
  bool is_open_ = false;
  bool is_at_end_ = false;
  std::uint64_t produced_ = 0;
};

/// The members of an archive: one stream, which begins anew with each.
class Members : public Archive {
 public:
  Members(std::string name, const FileKind& kind, std::unique_ptr<Stream> stream, int descriptor)
      : name_(std::move(name)),
        format_(kind.short_name()),
        is_tar_(kind.extension == ".tar"),
        by_descriptor_(!is_tar_ && descriptor >= 0),
        feed_(std::move(stream)),
        archive_(new_archive()) {
    ::archive* const archive = archive_.get();
    // Names are shown as they are.
    if (is_tar_) {
      ::archive_read_support_format_tar(archive);
    } else if (by_descriptor_) {
      ::archive_read_support_format_zip_seekable(archive);
    } else {
      ::archive_read_support_format_zip_streamable(archive);
    }
    const int result = by_descriptor_
                           ? ::archive_read_open_fd(archive, descriptor, Stream::head_size)
                           : ::archive_read_open(archive, &feed_, nullptr, &Feed::read, nullptr);
    if (result != ARCHIVE_OK) {
      feed_.rethrow();
      fail(name_,
           by_descriptor_
               ? "is truncated or corrupt: a zip archive without its list of files at the end"
               : fmt::format("is corrupt: {}: {}", format_, error_of(archive)));
    }
  }

  bool next() override {
    bytes_.reset();
    for (;;) {
      ::archive_entry* entry = nullptr;
      if (is_tar_) {
        end_of_data_ = position();
      }
      const int result = ::archive_read_next_header(archive_.get(), &entry);
      if (result == ARCHIVE_EOF) {
        check_end();
        return false;
      }
      const char* name = entry != nullptr ? ::archive_entry_pathname(entry) : nullptr;
      if (name == nullptr && entry != nullptr) {
        name = ::archive_entry_pathname_utf8(entry);
      }
      ++number_;
      member_ = name != nullptr ? name : fmt::format("file {}", number_);
      if (result != ARCHIVE_OK && !is_about_a_name()) {
        feed_.rethrow();
        damaged(false);
      }
      if (::archive_entry_filetype(entry) != AE_IFREG ||
          ::archive_entry_hardlink(entry) != nullptr) {
        size_ = 0;
        continue;  // a folder, or a link to a file that comes by itself
      }
      if (::archive_entry_is_data_encrypted(entry) != 0) {
        fail(name_, fmt::format("is encrypted ('{}' in it); give it decrypted", member_));
      }
      size_ = ::archive_entry_size_is_set(entry) != 0 ? ::archive_entry_size(entry) : 0;
      bytes_ = std::make_unique<Member>(*this);
      return true;
    }
  }

  const std::string& member() const override { return member_; }
  Stream& bytes() override { return *bytes_; }

 private:
  class Member : public Stream {
   public:
    explicit Member(Members& members) : members_(members) {}

   protected:
    Bytes next_block() override { return members_.next_block(); }

   private:
    Members& members_;
  };

  std::uint64_t position() const {
    return static_cast<std::uint64_t>(::archive_filter_bytes(archive_.get(), -1));
  }

  Bytes next_block() {
    return next_data(archive_.get(), [&](int result) {
      if (result != ARCHIVE_OK) {
        feed_.rethrow();
        damaged(true);
      }
    });
  }

  /// Names that the current locale has no letters for are no damage.
  bool is_about_a_name() const {
    const std::string error = error_of(archive_.get());
    return error.find("be converted") != error.npos;
  }

  [[noreturn]] void damaged(bool in_data) const {
    const std::string error = error_of(archive_.get());
    if (is_about_an_early_end(error)) {
      fail(name_, fmt::format("is truncated: its {} data ends early, in '{}'", format_, member_));
    }
    fail(name_, in_data || number_ > 1
                    ? fmt::format("is corrupt: {}: '{}': {}", format_, member_, error)
                    : fmt::format("is corrupt: {}: {}", format_, error));
  }

  void check_end() {
    if (is_tar_) {
      // Two blocks of zeros, or one from some programs, end it.
      const std::uint64_t padding = (512 - static_cast<std::uint64_t>(size_) % 512) % 512;
      if (position() < end_of_data_ + padding + 512) {
        fail(name_, "is truncated: the blocks that end a tar archive are missing");
      }
      const Feed::Rest rest = feed_.rest(position());
      if (!rest.is_zero) {
        fail(name_, fmt::format("is corrupt: {} bytes after its end are not tar data", rest.bytes));
      }
    } else if (!by_descriptor_) {
      std::vector<std::uint8_t> tail;
      do {
        const std::vector<std::uint8_t> kept =
            feed_.before(feed_.given(), std::min<std::uint64_t>(feed_.given(), Stream::head_size));
        tail = kept;
      } while (!feed_.next().empty());
      constexpr std::string_view end = "PK\x05\x06";
      if (std::search(tail.begin(), tail.end(), end.begin(), end.end()) == tail.end()) {
        fail(name_, "is truncated or corrupt: a zip archive without its list of files at the end");
      }
    }
  }

  std::string name_;
  std::string format_;
  bool is_tar_;
  bool by_descriptor_;
  Feed feed_;
  LibArchive archive_;
  std::string member_;
  std::int64_t number_ = 0;
  std::int64_t size_ = 0;
  std::uint64_t end_of_data_ = 0;
  std::unique_ptr<Member> bytes_;
};

}  // namespace

std::span<const std::uint8_t> Stream::head() {
  if (state_ == Head::unread) {
    state_ = Head::waiting;
    while (head_.size() < head_size) {
      const Bytes next = next_block();
      if (next.empty()) {
        break;
      }
      head_.insert(head_.end(), next.begin(), next.end());
    }
  }
  return head_;
}

std::span<const std::uint8_t> Stream::block() {
  if (state_ == Head::waiting) {
    state_ = Head::given;
    if (!head_.empty()) {
      return head_;
    }
  }
  state_ = Head::given;
  return next_block();
}

const FileKind* Stream::kind() {
  const Bytes bytes = head();
  return kind_of(bytes, bytes.size() < head_size);
}

void fail(const std::string& name, const std::string& reason) {
  throw std::runtime_error(fmt::format("{} {}", name, reason));
}

std::string described(const std::string& path) {
  return path == "-" ? "standard input" : fmt::format("data file '{}'", path);
}

FileStream::FileStream(const std::string& path) : name_(described(path)), buffer_(1 << 18) {
  if (path == "-") {
    descriptor_ = STDIN_FILENO;
    return;
  }
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) {
    fail(name_, "cannot be read: " + std::generic_category().message(errno));
  }
  ::posix_fadvise(descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);  // only advice
}

FileStream::~FileStream() {
  if (descriptor_ > STDIN_FILENO) {
    ::close(descriptor_);
  }
}

std::span<const std::uint8_t> FileStream::next_block() {
  ssize_t size;
  do {
    size = ::read(descriptor_, buffer_.data(), buffer_.size());
  } while (size < 0 && errno == EINTR);
  if (size < 0) {
    fail(name_, "cannot be read: " + std::generic_category().message(errno));
  }
  position_ += static_cast<std::uint64_t>(size);
  return {buffer_.data(), static_cast<std::size_t>(size)};
}

std::unique_ptr<Stream> decompressed(std::string name, const FileKind& kind,
                                     std::unique_ptr<Stream> compressed) {
  return std::make_unique<Decompressed>(std::move(name), kind, std::move(compressed));
}

std::unique_ptr<Archive> archive_of(std::string name, const FileKind& kind,
                                    std::unique_ptr<Stream> stream, int descriptor) {
  return std::make_unique<Members>(std::move(name), kind, std::move(stream), descriptor);
}

}  // namespace data
