// SPDX-License-Identifier: MIT
#include "words.hpp"

#include <unicode/uchar.h>

#include <array>
#include <vector>

namespace tokens {
namespace {

using Classes = std::vector<CharacterClass>;

constexpr UChar32 num_code_points = 0x110000;

/// Of all code points: looked up for each character of a text, so asked of ICU only once.
Classes classes_by_code_point() {
  Classes classes(num_code_points, CharacterClass::other);
  for (UChar32 c = 0; c < num_code_points; ++c) {
    CharacterClass& kind = classes[static_cast<std::size_t>(c)];
    const std::uint32_t category = U_GET_GC_MASK(c);
    if ((category & U_GC_L_MASK) != 0) {
      kind = CharacterClass::letter;
    } else if ((category & U_GC_N_MASK) != 0) {
      kind = CharacterClass::number;
    } else if (u_hasBinaryProperty(c, UCHAR_WHITE_SPACE) != 0) {
      kind = CharacterClass::space;
    }
  }
  return classes;
}

CharacterClass class_of(std::uint32_t code_point) {
  static const Classes classes = classes_by_code_point();
  return classes[code_point];
}

/// The length of 's, 't, 're, 've, 'm, 'll or 'd at byte i, or 0.
std::size_t contraction(std::string_view text, std::size_t i) {
  const std::string_view rest = text.substr(i + 1, 2);
  if (rest.starts_with('s') || rest.starts_with('t') || rest.starts_with('m') ||
      rest.starts_with('d')) {
    return 2;
  }
  return rest == "re" || rest == "ve" || rest == "ll" ? 3 : 0;
}

}  // namespace

Character character_at(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t j) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(text[j]));
  };
  const std::uint32_t lead = byte(i);
  if (lead < 0x80) {
    return {.kind = class_of(lead)};
  }
  constexpr Character invalid{.is_valid = false};
  const std::uint8_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                              : lead >= 0xe0 && lead <= 0xef ? 3
                              : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                             : 0;
  if (length == 0 || text.size() - i < length) {
    return invalid;
  }
  std::uint32_t code_point = lead & (0xffU >> (length + 1));
  for (std::size_t j = 1; j < length; ++j) {
    if ((byte(i + j) & 0xc0) != 0x80) {
      return invalid;
    }
    code_point = code_point << 6 | (byte(i + j) & 0x3f);
  }
  // Overlong forms, surrogates, and what lies beyond Unicode.
  const std::uint32_t least = length == 2 ? 0x80 : length == 3 ? 0x800 : 0x10000;
  if (code_point < least || (code_point >= 0xd800 && code_point <= 0xdfff) ||
      code_point >= num_code_points) {
    return invalid;
  }
  return {.kind = class_of(code_point), .length = length};
}

Character character_before(std::string_view text, std::size_t p) {
  for (std::size_t length = 1; length <= 4 && length <= p; ++length) {
    const Character c = character_at(text, p - length);
    if (c.is_valid && c.length == length) {
      return c;
    }
  }
  return {.is_valid = false};
}

std::size_t space_at_begin(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const Character next = character_at(text, i);
    if (next.kind != CharacterClass::space) {
      break;
    }
    i += next.length;
  }
  return i;
}

std::size_t space_at_end(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0) {
    const Character last = character_before(text, begin);
    if (!last.is_valid || last.kind != CharacterClass::space) {
      break;
    }
    begin -= last.length;
  }
  return text.size() - begin;
}

std::size_t word_end(std::string_view text, std::size_t i) {
  if (text[i] == '\'') {
    const std::size_t length = contraction(text, i);
    if (length > 0) {
      return i + length;
    }
  }
  Character first = character_at(text, i);
  std::size_t end = i + first.length;
  if (text[i] == ' ' && end < text.size()) {
    const Character next = character_at(text, end);
    if (next.kind != CharacterClass::space) {
      first = next;
      end += next.length;
    }
  }
  std::size_t last = i;  // where the last character begins
  while (end < text.size()) {
    const Character next = character_at(text, end);
    if (next.kind != first.kind) {
      break;
    }
    last = end;
    end += next.length;
  }
  // White space leaves its last character to the word behind it, unless it has only that.
  const bool leaves_one = first.kind == CharacterClass::space && end < text.size() && last > i;
  return leaves_one ? last : end;
}

bool always_ends_word(std::string_view text, std::size_t p) {
  const Character next = character_at(text, p);
  if (!next.is_valid) {
    return false;  // what follows the text may complete a character
  }
  const Character previous = character_before(text, p);
  if (!previous.is_valid || previous.kind == CharacterClass::space || previous.kind == next.kind) {
    return false;
  }
  const bool may_be_contraction = text[p - 1] == '\'' && next.kind == CharacterClass::letter;
  return !may_be_contraction;
}

}  // namespace tokens
