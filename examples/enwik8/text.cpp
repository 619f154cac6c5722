// SPDX-License-Identifier: MIT
#include "text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "data/documents.hpp"
#include "data/encode.hpp"
#include "reformer/io/checksum.hpp"
#include "training/option_table.hpp"
#include "training/words.hpp"

namespace enwik8 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Whether a file without a header is one of 16-bit tokens.
bool is_named_bin(const std::string& data) {
  std::error_code ignored;
  return fs::path(data).extension() == ".bin" && fs::is_regular_file(data, ignored);
}

}  // namespace

Text Text::part(std::int64_t begin, std::int64_t size) const {
  Text part = *this;
  part.begin_ += begin;
  part.size_ = size;
  return part;
}

Text Text::with(const DocumentEnds& documents) const {
  Text text = *this;
  text.documents_ = &documents;
  return text;
}

std::vector<Stretch> Text::whole() const {
  return size_ > 1 ? std::vector{Stretch{0, size_ - 1}} : std::vector<Stretch>();
}

std::vector<Stretch> Text::documents() const {
  std::vector<Stretch> stretches;
  const auto& ends = documents_->places;
  auto end = std::upper_bound(ends.begin(), ends.end(), begin_);
  for (std::int64_t begin = 0; begin < size_;) {
    const std::int64_t next = end == ends.end() ? size_ : std::min(*end++ - begin_, size_);
    const std::int64_t first = begin > 0 && documents_->has_token ? begin - 1 : begin;
    if (next - first > 1) {
      stretches.push_back({first, next - first - 1});
    }
    begin = next;
  }
  return stretches;
}

void Text::read(std::int64_t begin, std::int64_t count, std::vector<std::int32_t>& to) const {
  const auto first = static_cast<std::size_t>(begin_ + begin);
  const auto size = static_cast<std::size_t>(count);
  if (file_ != nullptr) {
    to.resize(to.size() + size);
    file_->read(begin_ + begin, std::span(to).last(size));
  } else if (!tokens_.empty()) {
    const auto some = tokens_.subspan(first, size);
    to.insert(to.end(), some.begin(), some.end());
  } else {
    const auto some = bytes_.subspan(first, size);
    to.insert(to.end(), some.begin(), some.end());
  }
}

std::vector<std::int32_t> Text::tokens(std::int64_t begin, std::int64_t count) const {
  std::vector<std::int32_t> tokens;
  read(begin, count, tokens);
  return tokens;
}

std::int64_t Text::bytes_of(std::span<const std::int32_t> tokens) const {
  if (lengths_.empty()) {
    return std::ssize(tokens);
  }
  std::int64_t bytes = 0;
  for (const std::int32_t token : tokens) {
    bytes += lengths_[static_cast<std::size_t>(token)];
  }
  return bytes;
}

void TextData::set_tokenizer(std::unique_ptr<tokens::Tokenizer> tokenizer) {
  tokenizer_ = std::move(tokenizer);
  lengths_.clear();
  for (std::int32_t token = 0; token < tokenizer_->vocabulary(); ++token) {
    lengths_.push_back(static_cast<std::int32_t>(tokenizer_->bytes_of(token).size()));
  }
}

TextData TextData::for_training(const std::string& data, const std::string& tokenizer,
                                const std::vector<fs::path>& folders) {
  TextData text;
  const bool is_other = !tokenizer.empty() && tokenizer != "bytes";
  const bool has_header = !data.empty() && data::is_token_file(data);
  if (has_header || (is_other && is_named_bin(data))) {
    text.set_tokenizer(data::tokenizer_of(data, tokenizer));
    text.file_ = std::make_unique<data::TokenFile>(data, text.tokenizer_->vocabulary());
    text.checksum_ = text.file_->check();
    text.corpus_.source = data;
    return text;
  }
  if (is_other && data.empty()) {
    throw training::OptionError(
        fmt::format("--tokenizer is '{}', but no data is named; allowed: with --data, a token file",
                    tokenizer));
  }
  if (is_other) {
    throw std::runtime_error(fmt::format(
        "data '{}' is a text; with --tokenizer {} make it a token file first: {}", data, tokenizer,
        tokenise_command(data, fmt::format("--tokenizer {} ", training::shell_word(tokenizer)))));
  }
  text.tokenizer_ = std::make_unique<tokens::ByteTokenizer>();
  text.corpus_ = choose_corpus(data, folders);
  text.checksum_ = text.corpus_.checksum();
  return text;
}

std::int64_t TextData::vocabulary_of(const std::string& data, const std::string& tokenizer) {
  const bool is_other = !tokenizer.empty() && tokenizer != "bytes";
  if (!data.empty() && data::is_token_file(data)) {
    return data::TokenFile(data).header().vocabulary;
  }
  return is_other ? tokens::load_tokenizer(tokenizer)->vocabulary()
                  : tokens::ByteTokenizer().vocabulary();
}

TextData TextData::for_model(const std::string& data, std::unique_ptr<tokens::Tokenizer> tokenizer,
                             const std::vector<fs::path>& folders) {
  TextData text;
  text.set_tokenizer(std::move(tokenizer));
  const bool has_header = !data.empty() && data::is_token_file(data);
  if (has_header || (!text.is_bytes() && is_named_bin(data))) {
    text.file_ = std::make_unique<data::TokenFile>(data, text.tokenizer_->vocabulary());
    text.checksum_ = text.file_->check();
    text.corpus_.source = data;
    const data::TokenHeader& header = text.file_->header();
    if (has_header && (header.tokenizer_checksum != text.tokenizer_->checksum() ||
                       header.vocabulary != text.tokenizer_->vocabulary())) {
      throw std::runtime_error(
          fmt::format("token file '{}' was made with another tokenizer ({}) than the model ({})",
                      data, header.description, text.tokenizer_->description()));
    }
    return text;
  }
  if (text.is_bytes()) {
    text.lengths_.clear();
    text.corpus_ = choose_corpus(data, folders);
    text.checksum_ = text.corpus_.checksum();
    return text;
  }
  if (data.empty()) {
    throw std::runtime_error("the data of the run is not known; name a token file or a text");
  }
  data::Documents documents({data});
  data::Pieces pieces(documents, *text.tokenizer_, std::size_t{1} << 18);
  data::Piece piece;
  while (pieces.next(piece)) {
    const std::vector<std::int32_t> some = text.tokenizer_->encode(piece.text);
    text.tokens_.insert(text.tokens_.end(), some.begin(), some.end());
    if (piece.ends_document) {
      if (const auto end = text.tokenizer_->end_of_document()) {
        text.tokens_.push_back(*end);
      }
      text.documents_.places.push_back(std::ssize(text.tokens_));
    }
  }
  text.corpus_.source = data;
  return text;
}

bool TextData::is_bytes() const {
  return tokenizer_->checksum() == tokens::ByteTokenizer().checksum();
}

void TextData::find_documents() {
  const auto end = tokenizer_->end_of_document();
  if (file_) {
    if (!file_->has_header() && !end) {
      throw std::runtime_error(fmt::format(
          "token file '{}' does not say where documents end: it has no header, and its tokenizer "
          "no token for that",
          source()));
    }
    documents_.places = file_->document_ends(end);
  } else if (is_corpus()) {
    documents_.places = corpus_.document_ends;
    checksum_ = reformer::crc32(std::as_bytes(std::span(documents_.places)), checksum_);
  }
  documents_.has_token = end.has_value();
}

Text TextData::text() const {
  const Text text = file_              ? Text(*file_, lengths_)
                    : !tokens_.empty() ? Text(std::span<const std::int32_t>(tokens_), lengths_)
                                       : Text(corpus_.bytes);
  return text.with(documents_);
}

json TextData::description() const {
  json description{{"source", corpus_.source},
                   {"bytes", corpus_.bytes.size()},
                   {"crc32", checksum_},
                   {"generated", corpus_.generated}};
  if (file_) {
    description["bytes"] = file_->has_header() ? file_->header().source_bytes : 2 * file_->size();
    description["tokens"] = file_->size();
  }
  if (!is_bytes()) {
    description["tokenizer"] = tokenizer_->description();
    description["tokenizer_crc32"] = tokenizer_->checksum();
  }
  return description;
}

void TextData::require_parts(std::int64_t minimum_part, const std::string& purpose) const {
  if (is_corpus()) {
    corpus_.require_parts(static_cast<std::size_t>(minimum_part), purpose);
  } else if (part_size() < minimum_part) {
    throw std::runtime_error(
        fmt::format("data '{}' is too short: it has {} tokens, its validation and test parts (5 % "
                    "each) {}, but "
                    "{} needs at least {} in each part, so {} in all",
                    source(), size(), part_size(), purpose, minimum_part, 20 * minimum_part));
  }
}

std::unique_ptr<tokens::Tokenizer> tokenizer_of_run(const fs::path& place, const json& data) {
  const auto checksum = data.find("tokenizer_crc32");
  if (checksum == data.end() || !checksum->is_number_unsigned()) {
    return std::make_unique<tokens::ByteTokenizer>();
  }
  const fs::path folder = place.parent_path() / tokenizer_name;
  auto tokenizer = tokens::load_tokenizer(folder);
  if (tokenizer->checksum() != checksum->get<std::uint32_t>()) {
    throw std::runtime_error(fmt::format(
        "the tokenizer in '{}' ({}) is not the one that the model was trained with ({})",
        folder.string(), tokenizer->description(), data.value("tokenizer", "")));
  }
  return tokenizer;
}

}  // namespace enwik8
