// SPDX-License-Identifier: MIT
#include "encode.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <future>
#include <stdexcept>
#include <utility>
#include <vector>

#include "reformer/io/checksum.hpp"

namespace data {
namespace {

namespace fs = std::filesystem;
using reformer::crc32;

constexpr std::size_t longest = 16;  // pieces without a place to cut

}  // namespace

Pieces::Pieces(Documents& documents, const tokens::Tokenizer& tokenizer, std::size_t length)
    : documents_(documents), tokenizer_(tokenizer), length_(length) {}

/// Reads until so much is in the buffer, or the document ends.
bool Pieces::fill(std::size_t length) {
  if (begin_ > 0) {
    buffer_.erase(0, begin_);
    begin_ = 0;
  }
  while (!is_whole_ && buffer_.size() < length) {
    const std::span<const std::uint8_t> block = documents_.block();
    is_whole_ = block.empty();
    buffer_.append(reinterpret_cast<const char*>(block.data()), block.size());
  }
  return buffer_.size() >= length;
}

void Pieces::skip(const TokenProgress& progress) {
  const auto fail_as_changed = [] {
    throw std::runtime_error(
        "the sources are not what they were when the token file was begun; give the same, or begin "
        "anew");
  };
  std::uint32_t crc = 0;
  std::int64_t bytes = 0;
  while (documents_.count() < progress.documents + (progress.offset > 0 ? 1 : 0)) {
    if (!documents_.next()) {
      fail_as_changed();
    }
    in_document_ = documents_.count() == progress.documents + 1;
    const std::uint64_t limit = in_document_ ? static_cast<std::uint64_t>(progress.offset) : ~0ULL;
    for (std::uint64_t done = 0; done < limit;) {
      const std::span<const std::uint8_t> block = documents_.block();
      if (block.empty()) {
        if (in_document_) {
          fail_as_changed();
        }
        break;
      }
      const auto some = block.first(
          static_cast<std::size_t>(std::min<std::uint64_t>(block.size(), limit - done)));
      crc = crc32(std::as_bytes(some), crc);
      bytes += std::ssize(some);
      done += some.size();
      buffer_.assign(reinterpret_cast<const char*>(some.data() + some.size()),
                     block.size() - some.size());
    }
  }
  if (crc != progress.source_checksum || bytes != progress.source_bytes) {
    fail_as_changed();
  }
  progress_ = progress;
}

bool Pieces::next(Piece& piece) {
  if (!in_document_) {
    if (!documents_.next()) {
      return false;
    }
    in_document_ = true;
    is_whole_ = false;
    buffer_.clear();
    begin_ = 0;
  }
  std::size_t length = 0;
  for (std::size_t window = length_; length == 0; window *= 2) {
    if (!fill(window)) {
      length = buffer_.size();
      break;
    }
    length = tokenizer_.safe_split(std::string_view(buffer_).substr(0, window));
    if (length == 0 && window >= longest * length_) {
      length = window;
    }
  }
  piece.ends_document = is_whole_ && length == buffer_.size();
  piece.text.assign(buffer_, 0, length);
  begin_ = length;
  progress_.offset += static_cast<std::int64_t>(length);
  progress_.source_bytes += static_cast<std::int64_t>(length);
  progress_.source_checksum = crc32(piece.text, progress_.source_checksum);
  if (piece.ends_document) {
    in_document_ = false;
    ++progress_.documents;
    progress_.offset = 0;
  }
  piece.after = progress_;
  return true;
}

TokenHeader header_for(const tokens::Tokenizer& tokenizer) {
  TokenHeader header;
  header.vocabulary = tokenizer.vocabulary();
  header.end_of_document = tokenizer.end_of_document();
  header.tokenizer_checksum = tokenizer.checksum();
  header.description = tokenizer.description();
  return header;
}

bool encode(Documents& documents, const tokens::Tokenizer& tokenizer, TokenWriter& writer,
            const EncodeOptions& options, const std::function<bool()>& goes_on) {
  using Clock = std::chrono::steady_clock;
  Pieces pieces(documents, tokenizer, options.piece_length);
  pieces.skip(writer.progress());
  const auto tokens_of = [&tokenizer](const Piece& piece) {
    std::vector<std::int32_t> tokens = tokenizer.encode(piece.text);
    const auto end = tokenizer.end_of_document();
    if (piece.ends_document && end) {
      tokens.push_back(*end);
    }
    return tokens;
  };
  struct Encoded {
    std::future<std::vector<std::int32_t>> tokens;
    TokenProgress after;
  };
  std::deque<Encoded> waiting;
  auto saved = Clock::now();
  bool is_appended = true;  // whatever was begun to be
  const auto append_first = [&] {
    is_appended = false;
    Encoded first = std::move(waiting.front());
    waiting.pop_front();
    writer.append(first.tokens.get(), first.after);
    is_appended = true;
    if (std::chrono::duration<double>(Clock::now() - saved).count() >= options.save_seconds) {
      writer.save();
      saved = Clock::now();
    }
    return goes_on();
  };
  const auto append_all = [&] {
    while (!waiting.empty()) {
      append_first();
    }
    writer.save();
  };
  bool is_complete = false;
  try {
    for (bool stopped = false; !stopped && !is_complete;) {
      if (std::ssize(waiting) >= options.threads) {
        stopped = !append_first();
        continue;
      }
      Piece piece;
      is_complete = !pieces.next(piece);
      if (!is_complete) {
        const TokenProgress after = piece.after;
        waiting.push_back({std::async(std::launch::async, tokens_of, std::move(piece)), after});
      }
    }
  } catch (...) {
    // Whoever mends a file that comes later need not begin anew. Behind a piece that could not be
    // encoded or written, nothing may follow.
    try {
      if (is_appended) {
        append_all();
      } else {
        writer.save();
      }
    } catch (const std::exception&) {  // the first reason counts
    }
    throw;
  }
  append_all();
  return is_complete;
}

fs::path tokenizer_folder(const fs::path& file) {
  fs::path folder = file;
  folder += ".tokenizer";
  return folder;
}

void copy_tokenizer(const tokens::Tokenizer& tokenizer, const fs::path& folder) {
  if (tokenizer.files().empty()) {
    return;
  }
  if (tokens::has_tokenizer(folder) &&
      tokens::load_tokenizer(folder)->checksum() == tokenizer.checksum()) {
    return;  // this one, or a copy of before
  }
  fs::path part = folder;
  part += ".part";
  fs::path before = folder;
  before += ".before";
  try {
    fs::remove_all(part);
    fs::create_directories(part);
    for (const fs::path& file : tokenizer.files()) {
      fs::copy_file(file, part / file.filename());
    }
    if (fs::exists(folder)) {
      fs::remove_all(before);
      fs::rename(folder, before);
    }
    fs::rename(part, folder);
    fs::remove_all(before);
  } catch (const fs::filesystem_error& error) {
    throw std::runtime_error(fmt::format("cannot write the tokenizer's files to '{}': {}",
                                         folder.string(), error.code().message()));
  }
}

std::unique_ptr<tokens::Tokenizer> tokenizer_of(const fs::path& file, const fs::path& place) {
  const TokenHeader header = TokenFile(file, is_token_file(file) ? 0 : 1 << 16).header();
  const bool has_header = is_token_file(file);
  const fs::path folder = tokenizer_folder(file);
  auto tokenizer = tokens::load_tokenizer(!place.empty()                  ? place
                                          : tokens::has_tokenizer(folder) ? folder
                                                                          : fs::path("bytes"));
  if (has_header && place.empty() && !tokens::has_tokenizer(folder) &&
      header.tokenizer_checksum != tokenizer->checksum()) {
    throw std::runtime_error(fmt::format(
        "token file '{}' was made with a tokenizer ({}) that is not beside it; name it, "
        "or put its files into '{}'",
        file.string(), header.description, folder.string()));
  }
  if (has_header && (header.tokenizer_checksum != tokenizer->checksum() ||
                     header.vocabulary != tokenizer->vocabulary())) {
    throw std::runtime_error(fmt::format(
        "token file '{}' was made with another tokenizer ({}) than {} ({}){}", file.string(),
        header.description, place.empty() ? "the one beside it" : "'" + place.string() + "'",
        tokenizer->description(),
        place.empty()
            ? fmt::format("; name the right one, or put its files into '{}'", folder.string())
            : ""));
  }
  return tokenizer;
}

}  // namespace data
