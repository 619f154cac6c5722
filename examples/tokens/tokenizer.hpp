// SPDX-License-Identifier: MIT
/// @file
/// Text to tokens and back: bytes, sentencepiece, byte-level BPE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tokens {

/// Everything may be called from several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Tokens are 0 .. vocabulary() - 1.
  virtual std::int32_t vocabulary() const = 0;

  /// The token that is put behind a document. No text is encoded to it.
  virtual std::optional<std::int32_t> end_of_document() const { return std::nullopt; }

  /// The tokens of a document, or of a part of one that `safe_split` allows. Any bytes are text,
  /// and text is only text: what spells the name of a special token does not become that token.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;

  /// The same for a text that a person wrote for a model, such as a prompt: the names of special
  /// tokens become those tokens, where the tokenizer's reference does so.
  virtual std::vector<std::int32_t> encode_prompt(std::string_view text) const {
    return encode(text);
  }

  /// The bytes that were encoded, exactly, unless `what_is_lost` says otherwise. Tokens that stand
  /// for no text, and numbers that are no tokens, are left out.
  virtual std::string decode(std::span<const std::int32_t> tokens) const = 0;

  /// The text of one token, for bits per byte: empty for a token that stands for no text. Those of
  /// `encode(text)` joined are `text`, but for what `what_is_lost` says and, where a sentencepiece
  /// model puts a space before each line, for that space.
  virtual std::string bytes_of(std::int32_t token) const = 0;

  /// The last place p in `text` where it can be cut whatever follows it: the tokens of
  /// `text + more` are those of the first p bytes, then those of the rest and `more`. 0 when no
  /// such place is known. Texts larger than memory are encoded so, in pieces and in parallel.
  virtual std::size_t safe_split(std::string_view text) const = 0;

  /// A sentence for the user on what `decode(encode(text))` may not give back; empty when it gives
  /// back every text.
  virtual std::string what_is_lost() const { return {}; }

  /// The files to copy into one folder, under their own names, so that `load_tokenizer` finds the
  /// tokenizer again in that folder. None for bytes, which the word "bytes" names.
  virtual std::vector<std::filesystem::path> files() const { return {}; }

  /// In a few words, such as "sentencepiece (unigram), 8000 tokens".
  virtual std::string description() const = 0;

  /// CRC-32 of what decides about the tokens: whoever has another has other tokens.
  virtual std::uint32_t checksum() const = 0;
};

/// Bytes as they are, from token `first` on; `google/reformer-enwik8` has the byte 0 at token 2.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(std::int32_t first = 0) : first_(first) {}
  std::int32_t vocabulary() const override { return first_ + 256; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> tokens) const override;
  std::string bytes_of(std::int32_t token) const override;
  std::size_t safe_split(std::string_view text) const override { return text.size(); }
  std::string description() const override;
  std::uint32_t checksum() const override;

 private:
  std::int32_t first_;
};

/// The tokenizer at a place, which is one of
///  - the word "bytes";
///  - a sentencepiece model, a file named `*.model`;
///  - a file `tokenizer.json` of byte-level BPE, be it with patterns of its own, or a file
///  `vocab.json` beside a `merges.txt`;
///  - a folder that holds `spiece.model`, `tokenizer.model`, `tokenizer.json`, or `vocab.json` and
///    `merges.txt` (or `encoder.json` and `vocab.bpe`): the first that is there; or one `*.model`.
/// @throw std::runtime_error with one line for everything else
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& place);

/// Whether a folder holds one of the files that `load_tokenizer` looks for.
bool has_tokenizer(const std::filesystem::path& folder);

}  // namespace tokens
