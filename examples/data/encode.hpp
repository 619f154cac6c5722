// SPDX-License-Identifier: MIT
/// @file
/// Documents to tokens: in pieces, in parallel, in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "documents.hpp"
#include "token_file.hpp"
#include "tokens/tokenizer.hpp"

namespace data {

/// A part of a document that is encoded by itself.
struct Piece {
  std::string text;
  bool ends_document = false;
  TokenProgress after;  ///< with this piece
};

/// Cuts documents where the tokenizer allows it, so that the tokens are those of whole documents.
/// Where it knows no such place in 16 pieces, it is cut there nevertheless. Where the cuts are
/// depends on nothing but the documents, the tokenizer and the length of pieces.
class Pieces {
 public:
  Pieces(Documents& documents, const tokens::Tokenizer& tokenizer, std::size_t length);

  /// Goes on to where some tokens ended.
  /// @throw std::runtime_error when the documents up to there are not those that they were
  void skip(const TokenProgress& progress);

  /// The next piece, false at the end.
  bool next(Piece& piece);

 private:
  bool fill(std::size_t length);

  Documents& documents_;
  const tokens::Tokenizer& tokenizer_;
  std::size_t length_;
  bool in_document_ = false;
  bool is_whole_ = false;  // nothing of the document is missing in the buffer
  std::string buffer_;
  std::size_t begin_ = 0;  // of what is left of the buffer
  TokenProgress progress_;
};

struct EncodeOptions {
  int threads = 1;
  std::size_t piece_length = std::size_t{1} << 18;
  double save_seconds = 10;  ///< between saves, so what is done again after an accident
};

/// The header of the file in which a tokenizer's tokens are written.
TokenHeader header_for(const tokens::Tokenizer& tokenizer);

/// Appends the tokens of the documents that the writer does not have yet; behind each document the
/// tokenizer's `end_of_document`, if it has one. The file is the same whatever the number of
/// threads, and however often it was interrupted.
/// @param goes_on  called after each piece; false ends it
/// @return whether it came to the end; what was written is saved in any case
bool encode(Documents& documents, const tokens::Tokenizer& tokenizer, TokenWriter& writer,
            const EncodeOptions& options, const std::function<bool()>& goes_on);

/// The tokenizer of a token file: the one at a place if it is given, else what is in the folder
/// `<file>.tokenizer`, else bytes.
/// @throw std::runtime_error with one line unless it is the one the file was made with
std::unique_ptr<tokens::Tokenizer> tokenizer_of(const std::filesystem::path& file,
                                                const std::filesystem::path& place = {});

/// The folder for the tokenizer's files beside a token file.
std::filesystem::path tokenizer_folder(const std::filesystem::path& file);

/// Copies the files of a tokenizer into a folder, unless it is there; nothing for bytes. At no time
/// is there a part of it.
void copy_tokenizer(const tokens::Tokenizer& tokenizer, const std::filesystem::path& folder);

}  // namespace data
