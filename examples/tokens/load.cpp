// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <stdexcept>

#include "tokenizer.hpp"

namespace tokens {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& place) {
  if (place == "bytes") {
    return std::make_unique<ByteTokenizer>();
  }
  throw std::runtime_error(
      fmt::format("'{}' is no tokenizer; allowed: the word 'bytes'", place.string()));
}

bool has_tokenizer(const std::filesystem::path&) {
  return false;
}

}  // namespace tokens
