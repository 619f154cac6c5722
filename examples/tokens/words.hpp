// SPDX-License-Identifier: MIT
/// @file
/// GPT-2's words: what byte-level BPE never merges across.
///
/// A text is taken apart, from the left and each time the first that fits, into
///
///     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
///
/// with Unicode's general categories L and N, and \s for Unicode's property White_Space (as in the
/// reference; JavaScript's \s differs from it at U+0085 and U+FEFF). A byte that does not belong to
/// a character in UTF-8 (RFC 3629) is a character of its own that is none of the three, as U+FFFD
/// is, for which readers of UTF-8 often take it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tokens {

enum class CharacterClass : std::uint8_t { letter, number, space, other };

struct Character {
  CharacterClass kind = CharacterClass::other;
  std::uint8_t length = 1;  ///< in bytes
  bool is_valid = true;     ///< UTF-8
};

/// The character that begins at byte i < text.size().
Character character_at(std::string_view text, std::size_t i);

/// The character that ends before byte p > 0.
Character character_before(std::string_view text, std::size_t p);

/// Bytes of white space that a text begins with.
std::size_t space_at_begin(std::string_view text);
/// Bytes of white space that it ends with.
std::size_t space_at_end(std::string_view text);

/// The end of the word that begins at byte i < text.size(), where a word before it has ended.
std::size_t word_end(std::string_view text, std::size_t i);

/// Whether a word ends at byte p of `text`, 0 < p < text.size(), whatever comes before and after
/// the two characters there. False also where it depends on others.
bool always_ends_word(std::string_view text, std::size_t p);

}  // namespace tokens
