// SPDX-License-Identifier: MIT
/// @file
/// Files of tokens, which are mapped into memory and so may be larger than it.
///
/// The format, all numbers little endian:
///
///     offset  bytes
///          0      8  "RFTOKENS"
///          8      4  version, 2
///         12      4  bytes for each token: 2 or 4
///         16      8  vocabulary: tokens are 0 .. vocabulary - 1
///         24      8  number of tokens
///         32      8  number of documents
///         40      8  bytes of the text the tokens stand for
///         48      8  the token behind each document, -1 for none
///         56      4  CRC-32 of all that follows the header
///         60      4  checksum of the tokenizer, `tokens::Tokenizer::checksum`
///         64     60  a description in UTF-8, filled up with zeros
///        124      4  CRC-32 of the 124 bytes before
///        128         the tokens
///                    if there is no token behind documents: for each document, in 8 bytes, the
///                    number of tokens up to its end
///
/// A file without this header is read as well if its vocabulary is told: 16-bit tokens from its
/// first byte on, as nanoGPT writes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "reformer/io/mapped_file.hpp"

namespace data {

struct TokenHeader {
  std::int64_t vocabulary = 0;
  std::int64_t tokens = 0;
  std::int64_t documents = 0;
  std::int64_t source_bytes = 0;
  std::optional<std::int32_t> end_of_document;
  std::uint32_t checksum = 0;
  std::uint32_t tokenizer_checksum = 0;
  std::string description;  ///< what is beyond 60 bytes is cut off
  int width = 2;            ///< bytes for each token

  static constexpr std::size_t size = 128;
};

/// Whether a file begins as token files with a header do.
bool is_token_file(const std::filesystem::path& file);

/// Tokens in a file. Nothing is in memory but what was looked at last.
class TokenFile {
 public:
  /// @param vocabulary  of a file without a header, which is 0 then: that of a file with one is in
  ///   it
  /// @throw std::runtime_error with one line for what is no token file, has another version or does
  ///   not have the size that its header says
  explicit TokenFile(const std::filesystem::path& file, std::int64_t vocabulary = 0);

  const TokenHeader& header() const { return header_; }
  bool has_header() const { return has_header_; }
  std::int64_t size() const { return header_.tokens; }

  /// Copies tokens from a place on. @throw std::runtime_error for one that is not in the vocabulary
  void read(std::int64_t begin, std::span<std::int32_t> tokens) const;

  /// The number of tokens up to the end of each document.
  /// @param end  the token behind each, of a file without a header
  /// @throw std::runtime_error when the file's table of them is not in order
  std::vector<std::int64_t> document_ends(std::optional<std::int32_t> end = {}) const;

  /// Reads all tokens. @return the CRC-32 of all but the header
  /// @throw std::runtime_error unless all are in the vocabulary and have the checksum of the header
  std::uint32_t check() const;

 private:
  template <typename Look>
  void for_all_tokens(const Look& look) const;

  std::filesystem::path file_;
  reformer::MappedFile mapped_;
  TokenHeader header_;
  bool has_header_ = false;
  mutable std::size_t read_since_release_ = 0;
};

/// How much of the sources has become tokens.
struct TokenProgress {
  std::int64_t documents = 0;         ///< that are done
  std::int64_t offset = 0;            ///< bytes of the next one that are done
  std::int64_t source_bytes = 0;      ///< of all that is done
  std::uint32_t source_checksum = 0;  ///< CRC-32 of those bytes
};

/// Writes a token file from its beginning to its end. It is `<name>.part` until `finish`, and
/// beside it `<name>.journal` says after `save` how far it is, so that a later process can go on.
class TokenWriter {
 public:
  /// Begins a file. @param header  vocabulary, end of document, checksum of the tokenizer and
  ///   description are taken from it
  /// @throw std::runtime_error when there is a file of that name or a part of one, or it cannot be
  ///   written
  static TokenWriter start(const std::filesystem::path& file, const TokenHeader& header);

  /// Continues one. What was written after the last `save` is forgotten.
  /// @throw std::runtime_error when there is no part, it is damaged, or it was begun with another
  ///   tokenizer
  static TokenWriter resume(const std::filesystem::path& file, const TokenHeader& header);

  TokenWriter(TokenWriter&& other) noexcept;
  ~TokenWriter();

  const TokenProgress& progress() const { return progress_; }
  std::int64_t tokens() const { return header_.tokens; }

  /// Appends the tokens up to some progress.
  /// @throw std::runtime_error for what is not in the vocabulary, or when the disk does not take it
  void append(std::span<const std::int32_t> tokens, const TokenProgress& progress);

  /// Makes all that was appended durable.
  void save();

  /// Completes the file and gives it its name.
  void finish();

  /// Removes what was begun; nothing else may be called after it.
  void discard();

 private:
  TokenWriter(std::filesystem::path file, const TokenHeader& header);
  /// @return how many of the bytes, at least one
  std::size_t write_some(std::span<const std::byte> bytes);
  void flush();
  void sync();
  /// Two that wrote would write over each other.
  void lock() const;
  [[noreturn]] void fail_to_write(int error) const;

  std::filesystem::path file_;
  std::filesystem::path part_;
  std::filesystem::path journal_;
  TokenHeader header_;
  TokenProgress progress_;
  std::vector<std::int64_t> document_ends_;  // if no token says where they are
  int descriptor_ = -1;
  std::string buffer_;
};

/// Whether a token file was begun and not finished.
bool has_part(const std::filesystem::path& file);

}  // namespace data
