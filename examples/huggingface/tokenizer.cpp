// SPDX-License-Identifier: MIT
#include "tokenizer.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <system_error>

#ifdef GENERATE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace huggingface {
namespace {

namespace fs = std::filesystem;

constexpr std::int32_t num_bytes = 256;

#ifdef GENERATE_SENTENCEPIECE
class Sentencepiece : public Tokenizer {
 public:
  Sentencepiece(const fs::path& path, std::int64_t vocabulary) {
    const auto status = processor_.Load(path.string());
    if (!status.ok()) {
      throw std::runtime_error(
          fmt::format("cannot read '{}': {}", path.string(), status.ToString()));
    }
    if (processor_.GetPieceSize() > vocabulary) {
      throw std::runtime_error(fmt::format("'{}' has {} pieces, but the model has {} tokens",
                                           path.string(), processor_.GetPieceSize(), vocabulary));
    }
  }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    const auto ids = processor_.EncodeAsIds(std::string(text));
    return {ids.begin(), ids.end()};
  }
  std::string decode(std::span<const std::int32_t> tokens) const override {
    std::vector<int> pieces;
    for (const std::int32_t token : tokens) {
      if (token < processor_.GetPieceSize()) {
        pieces.push_back(token);
      }
    }
    return processor_.DecodeIds(pieces);
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

std::unique_ptr<Tokenizer> sentencepiece_of(const fs::path& path, std::int64_t vocabulary) {
  return std::make_unique<Sentencepiece>(path, vocabulary);
}
#else
std::unique_ptr<Tokenizer> sentencepiece_of(const fs::path& path, std::int64_t) {
  throw std::runtime_error(
      fmt::format("'{}' needs sentencepiece, which this program was built without (Debian: "
                  "libsentencepiece-dev)",
                  path.string()));
}
#endif

}  // namespace

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> tokens;
  for (const char c : text) {
    tokens.push_back(first_ + static_cast<unsigned char>(c));
  }
  return tokens;
}

std::string ByteTokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (token >= first_ && token < first_ + num_bytes) {
      text += static_cast<char>(static_cast<unsigned char>(token - first_));
    }
  }
  return text;
}

std::unique_ptr<Tokenizer> tokenizer_of(const fs::path& folder, std::int64_t vocabulary) {
  const fs::path pieces = folder / "spiece.model";
  std::error_code ignored;
  if (fs::exists(pieces, ignored)) {
    return sentencepiece_of(pieces, vocabulary);
  }
  if (vocabulary == num_bytes || vocabulary == num_bytes + 2) {
    return std::make_unique<ByteTokenizer>(static_cast<std::int32_t>(vocabulary - num_bytes));
  }
  throw std::runtime_error(
      fmt::format("'{}' has {} tokens and no spiece.model; without that, a model of bytes is "
                  "expected, with 256 tokens or 258",
                  folder.string(), vocabulary));
}

}  // namespace huggingface
