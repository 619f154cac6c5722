// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include "reformer/io/checksum.hpp"
#include "tokenizer.hpp"

namespace tokens {

std::vector<std::int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> tokens(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    tokens[i] = first_ + static_cast<unsigned char>(text[i]);
  }
  return tokens;
}

std::string ByteTokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (token >= first_ && token < vocabulary()) {
      text += static_cast<char>(static_cast<unsigned char>(token - first_));
    }
  }
  return text;
}

std::string ByteTokenizer::bytes_of(std::int32_t token) const {
  return decode({&token, 1});
}

std::string ByteTokenizer::description() const {
  return first_ == 0 ? "bytes, 256 tokens"
                     : fmt::format("bytes from token {} on, {} tokens", first_, vocabulary());
}

std::uint32_t ByteTokenizer::checksum() const {
  return reformer::crc32(fmt::format("bytes {}", first_));
}

}  // namespace tokens
