// SPDX-License-Identifier: MIT
/// @file
/// Byte-level byte-pair encoding (BPE), as GPT-2 has it.
///
/// A text is split into words: GPT-2's (words.hpp), or those of patterns (pattern.hpp), of the text
/// or of its normal form. A word begins as its bytes; of all adjacent pairs that can be merged, the
/// one whose merge comes first in the list, and of those the leftmost, becomes one token, again and
/// again until none can.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pattern.hpp"
#include "tokenizer.hpp"

namespace tokens {

/// A token whose text is found before words are split.
struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool is_special = true;      ///< stands for no text; found in prompts only
  bool is_normalized = false;  ///< found in what is left between those that are not
  bool strips_left = false;    ///< takes the white space before it, of special tokens
  bool strips_right = false;   ///< and behind it
};

class BytePairTokenizer : public Tokenizer {
 public:
  /// What the files say, as they spell it: each byte as a printable character.
  struct Definition {
    /// By id; empty where only an added token has it.
    std::vector<std::string> vocabulary;
    std::vector<std::pair<std::string, std::string>> merges;  ///< most urgent first
    std::vector<AddedToken> added;
    std::vector<std::filesystem::path> files;
    /// Texts are brought into Unicode's normal form C first.
    bool composes = false;
    /// Each takes apart what the one before has left whole.
    std::vector<std::shared_ptr<const Pattern>> patterns;
    /// GPT-2's words are what remains to be taken apart.
    bool has_words = true;
    /// A word that is a token is that token, even if merges would not make it.
    bool ignores_merges = false;
  };

  /// That many ids may be missing among those of added tokens.
  static constexpr std::size_t most_missing_ids = 4096;

  /// @throw std::runtime_error on a definition that is none, without the name of the file
  explicit BytePairTokenizer(Definition definition);

  std::int32_t vocabulary() const override { return static_cast<std::int32_t>(bytes_.size()); }
  std::optional<std::int32_t> end_of_document() const override { return end_of_document_; }
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::vector<std::int32_t> encode_prompt(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> tokens) const override;
  std::string bytes_of(std::int32_t token) const override;
  std::size_t safe_split(std::string_view text) const override;
  std::vector<std::filesystem::path> files() const override { return files_; }
  std::string description() const override;
  std::string what_is_lost() const override;
  std::uint32_t checksum() const override { return checksum_; }

 private:
  /// Added tokens that are found in one pass, the longest first where several fit.
  using Group = std::vector<AddedToken>;
  struct Pair {
    std::uint64_t key = no_pair;
    std::int32_t rank = 0, token = 0;
  };
  static constexpr std::uint64_t no_pair = ~std::uint64_t{0};
  class Encoder;
  class Names;

  static void check_ids(const Definition& definition, const Names& names);
  static std::uint32_t checksum_of(const Definition& definition);
  void set_texts(const Definition& definition, const Names& names);
  void set_merges(const Definition& definition, const Names& names);
  void find_whole_words(const Definition& definition);
  void set_added(std::vector<AddedToken> added_tokens);

  struct Stretch;
  static Stretch stretch_without(const Group& group, std::string_view text);
  std::size_t last_word_end(std::string_view text,
                            const std::function<bool(std::size_t)>& is_allowed) const;

  const Pair* find_pair(std::int32_t left, std::int32_t right) const;
  std::int32_t find_word(std::string_view word, std::uint64_t hash) const;
  void merge(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void merge_short(std::string_view word, std::vector<std::int32_t>& tokens) const;
  void merge_long(std::string_view word, std::vector<std::int32_t>& tokens) const;

  bool composes_, has_words_, ignores_merges_;
  std::vector<std::shared_ptr<const Pattern>> patterns_;
  std::vector<std::string> bytes_;  ///< text of each token; empty for those that stand for none
  std::array<std::int32_t, 256> token_of_byte_{};
  /// Tables with open addressing, of a power of two; a free place has the key `no_pair`, or the
  /// token -1.
  std::vector<Pair> pairs_;
  std::vector<std::int32_t> whole_words_;  ///< tokens that are what their text is encoded to
  std::array<Group, 2> plain_;             ///< found in text, by pass
  std::array<Group, 2> all_;               ///< found in prompts
  std::optional<std::int32_t> end_of_document_;
  std::vector<std::filesystem::path> files_;
  std::uint32_t checksum_ = 0;
};

/// @throw std::runtime_error that names the file
std::unique_ptr<Tokenizer> load_vocabulary_and_merges(const std::filesystem::path& vocabulary,
                                                      const std::filesystem::path& merges);
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& path);

}  // namespace tokens
