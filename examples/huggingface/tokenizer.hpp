// SPDX-License-Identifier: MIT
/// @file
/// Text to tokens and back, by what a model's folder says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace huggingface {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  /// Tokens that stand for no text are left out.
  virtual std::string decode(std::span<const std::int32_t> tokens) const = 0;
};

/// Bytes as they are, from token `first` on; `google/reformer-enwik8` has the byte 0 at token 2.
class ByteTokenizer : public Tokenizer {
 public:
  explicit ByteTokenizer(std::int32_t first) : first_(first) {}
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> tokens) const override;

 private:
  std::int32_t first_;
};

/// The tokenizer of a folder: `spiece.model` if it is there, else bytes for a vocabulary of 256, or
/// of 258, where byte b is token b + 2.
/// @throw std::runtime_error when there is none for this vocabulary, or the program was built
///   without sentencepiece
std::unique_ptr<Tokenizer> tokenizer_of(const std::filesystem::path& folder,
                                        std::int64_t vocabulary);

}  // namespace huggingface
