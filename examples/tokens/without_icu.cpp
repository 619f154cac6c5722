// SPDX-License-Identifier: MIT
/// In place of byte_pairs.cpp and words.cpp where there is no ICU.
#include <fmt/format.h>

#include <stdexcept>

#include "byte_pairs.hpp"

namespace tokens {

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& path) {
  throw std::runtime_error(fmt::format(
      "'{}' needs ICU, which this program was built without (Debian: libicu-dev)", path.string()));
}
std::unique_ptr<Tokenizer> load_vocabulary_and_merges(const std::filesystem::path& vocabulary,
                                                      const std::filesystem::path&) {
  return load_tokenizer_json(vocabulary);
}

}  // namespace tokens
