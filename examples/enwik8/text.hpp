// SPDX-License-Identifier: MIT
/// @file
/// Text as the model sees it: tokens, which are bytes in memory or in a token file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "corpus.hpp"
#include "data/token_file.hpp"
#include "tokens/tokenizer.hpp"

namespace enwik8 {

/// A stretch of a text of so many tokens and one more: each predicts the one after it.
struct Stretch {
  std::int64_t begin = 0;
  std::int64_t labels = 0;

  bool operator==(const Stretch&) const = default;
};

/// Where the documents of a text end.
struct DocumentEnds {
  std::vector<std::int64_t> places;  ///< behind the last token of each, in their order
  bool has_token = false;            ///< the last token of each is that for the end of a document
};

/// Tokens from some place on, which are bytes, or those of a file, or in memory. Does not own them.
class Text {
 public:
  Text() = default;
  /// Each byte is a token.
  Text(std::span<const std::uint8_t> bytes) : bytes_(bytes), size_(std::ssize(bytes)) {}
  Text(const std::vector<std::uint8_t>& bytes) : Text(std::span<const std::uint8_t>(bytes)) {}
  /// @param lengths  bytes that each token of the vocabulary stands for
  Text(const data::TokenFile& file, std::span<const std::int32_t> lengths)
      : file_(&file), lengths_(lengths), size_(file.size()) {}
  Text(std::span<const std::int32_t> tokens, std::span<const std::int32_t> lengths)
      : tokens_(tokens), lengths_(lengths), size_(std::ssize(tokens)) {}

  std::int64_t size() const { return size_; }
  Text part(std::int64_t begin, std::int64_t size) const;
  /// The same text with its documents.
  Text with(const DocumentEnds& documents) const;

  /// The whole text.
  std::vector<Stretch> whole() const;
  /// Its documents, each with the token for the end of the one before it, if there is one, from
  /// which its first token is predicted. What is cut off at either end counts as a document, what
  /// has nothing to predict is left out.
  std::vector<Stretch> documents() const;

  /// Appends tokens from a place on.
  void read(std::int64_t begin, std::int64_t count, std::vector<std::int32_t>& to) const;
  /// The same as a list.
  std::vector<std::int32_t> tokens(std::int64_t begin, std::int64_t count) const;
  /// Bytes that tokens stand for.
  std::int64_t bytes_of(std::span<const std::int32_t> tokens) const;

 private:
  std::span<const std::uint8_t> bytes_;
  const data::TokenFile* file_ = nullptr;
  std::span<const std::int32_t> tokens_;
  std::span<const std::int32_t> lengths_;
  const DocumentEnds* documents_ = nullptr;
  std::int64_t begin_ = 0;
  std::int64_t size_ = 0;
};

/// Where a run folder has the files of its tokenizer.
inline constexpr const char* tokenizer_name = "tokenizer";

/// What a run learns from, or is evaluated on: bytes in memory, a token file, or a text that is
/// turned into tokens in memory.
class TextData {
 public:
  TextData() = default;
  TextData(TextData&&) = default;
  TextData& operator=(TextData&&) = default;

  /// For training.
  /// @param data       a token file, or what `choose_corpus` takes, which is learned as bytes
  /// @param tokenizer  empty: the one beside the token file, or bytes. With another one than bytes,
  ///   a file named .bin without a header holds its tokens in 16 bits
  /// @throw std::runtime_error as `choose_corpus`, `data::TokenFile` and `data::tokenizer_of`, and
  ///   for a text with a tokenizer other than bytes, which `tokenise` makes a token file of
  static TextData for_training(const std::string& data, const std::string& tokenizer,
                               const std::vector<std::filesystem::path>& folders);

  /// Tokens that there are for these.
  static std::int64_t vocabulary_of(const std::string& data, const std::string& tokenizer);

  /// For a model that was trained with a tokenizer: a token file of the same, or any text.
  static TextData for_model(const std::string& data, std::unique_ptr<tokens::Tokenizer> tokenizer,
                            const std::vector<std::filesystem::path>& folders);

  /// Whether tokens are bytes in memory.
  bool is_corpus() const { return !file_ && tokens_.empty(); }
  const Corpus& corpus() const { return corpus_; }
  const tokens::Tokenizer& tokenizer() const { return *tokenizer_; }
  /// Whether token b is byte b, and there are no others.
  bool is_bytes() const;

  /// Finds where documents end, before parts are asked for them. A run that is resumed knows by
  /// `description` that they are the same.
  /// @throw std::runtime_error for a file without a header whose tokenizer has no token for it
  void find_documents();
  const DocumentEnds& documents() const { return documents_; }

  /// 90, 5 and 5 % of the tokens, or the standard split of enwik8.
  Text train() const { return text().part(0, size() - 2 * part_size()); }
  Text validation() const { return text().part(size() - 2 * part_size(), part_size()); }
  Text test() const { return text().part(size() - part_size(), part_size()); }
  std::int64_t size() const { return text().size(); }

  const std::string& source() const { return corpus_.source; }
  /// By which a resumed run knows it.
  nlohmann::json description() const;
  /// @throw std::runtime_error unless each part has so many tokens, as `Corpus::require_parts`
  void require_parts(std::int64_t minimum_part, const std::string& purpose) const;

 private:
  Text text() const;
  std::int64_t part_size() const { return size() / 20; }
  void set_tokenizer(std::unique_ptr<tokens::Tokenizer> tokenizer);

  Corpus corpus_;
  std::unique_ptr<data::TokenFile> file_;
  std::vector<std::int32_t> tokens_;
  DocumentEnds documents_;
  std::unique_ptr<tokens::Tokenizer> tokenizer_;
  std::vector<std::int32_t> lengths_;
  std::uint32_t checksum_ = 0;
};

/// The tokenizer of the run of a checkpoint: the one whose files are in the run's folder, or bytes.
/// @param place       the checkpoint
/// @param data  what the checkpoint says about its data
/// @throw std::runtime_error when there is none, or it is not the one that the model was trained
///   with
std::unique_ptr<tokens::Tokenizer> tokenizer_of_run(const std::filesystem::path& place,
                                                    const nlohmann::json& data);

}  // namespace enwik8
