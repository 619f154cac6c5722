// SPDX-License-Identifier: MIT
/// @file
/// Models of sentencepiece, and training them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer.hpp"

namespace tokens {

/// A model of sentencepiece. As by `spm_encode`, each line is encoded by itself; the end of a line
/// is the piece "\n" or else `<0x0A>` if the model has one of them, and is lost if it does not.
///
/// A model that gives back all text (no normalisation, no space put before a line or taken away,
/// pieces `<0x00>` to `<0xFF>`), such as `VocabularyTrainer` makes, also gives back bytes that are
/// no UTF-8 and the character U+2581, by which sentencepiece means a space: these are encoded byte
/// by byte. Everything else has the tokens of `spm_encode`; with any other model, all has.
///
/// @throw std::runtime_error when the file is no such model, or the program was built without
///   sentencepiece
std::unique_ptr<Tokenizer> load_sentencepiece(const std::filesystem::path& path);

enum class PieceModel { unigram, bpe };

struct VocabularyOptions {
  /// Tokens in all: 256 bytes, three tokens that are no pieces of text ("<unk>", "</s>", the end of
  /// a document, and "\n"), all characters that are not rare, and pieces of words.
  std::int32_t vocabulary = 8000;
  PieceModel model = PieceModel::unigram;
  /// At most so much of the text is looked at, in lines chosen at random: what training holds in
  /// memory is a multiple of it.
  std::size_t sample_bytes = std::size_t{8} << 20;
};

/// Learns a vocabulary from text, so that every text is given back whatever its bytes. The same
/// text and options make the same file.
class VocabularyTrainer {
 public:
  /// @throw std::runtime_error when the program was built without sentencepiece
  explicit VocabularyTrainer(const VocabularyOptions& options);
  ~VocabularyTrainer();

  /// Text that follows that before, in pieces of any size.
  void add(std::string_view text);

  /// Writes a model of sentencepiece; a file that is there stays until the new one is complete.
  /// @throw std::runtime_error with one line, as when the text has too few pieces
  void train(const std::filesystem::path& path);

 private:
  class Sample;
  VocabularyOptions options_;
  std::unique_ptr<Sample> sample_;
};

}  // namespace tokens
