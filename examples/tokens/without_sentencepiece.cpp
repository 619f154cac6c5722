// SPDX-License-Identifier: MIT
/// In place of sentencepiece.cpp and vocabulary_trainer.cpp where there is no sentencepiece.
#include <fmt/format.h>

#include <stdexcept>

#include "sentencepiece.hpp"

namespace tokens {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(
      fmt::format("{} needs sentencepiece, which this program was built without (Debian: "
                  "libsentencepiece-dev)",
                  what));
}

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& path) {
  fail(fmt::format("'{}'", path.string()));
}

class VocabularyTrainer::Sample {};
VocabularyTrainer::VocabularyTrainer(const VocabularyOptions& options) : options_(options) {
  fail("learning a vocabulary");
}
VocabularyTrainer::~VocabularyTrainer() = default;
void VocabularyTrainer::add(std::string_view) {}
void VocabularyTrainer::train(const std::filesystem::path&) {}

}  // namespace tokens
