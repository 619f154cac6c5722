// SPDX-License-Identifier: MIT
/// @file
/// Text that somebody else wrote, before it stands in an error or is taken for UTF-8.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

/// The beginning of UTF-8 text, cut where a character ends: at most `most` bytes, the rest as
/// "...".
inline std::string shortened(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) --most;
  return std::string(text.substr(0, most)) + "...";
}

/// A name from a file as part of a line of text: in quotes, control characters escaped, not
/// endless.
inline std::string in_quotes(std::string_view name) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text = "'";
  for (const char c : shortened(name, 120)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      text += "\\x";
      text += digits[byte >> 4];
      text += digits[byte & 15];
    } else {
      text += c;
    }
  }
  return text + "'";
}

/// Offset of the first byte that is not UTF-8 (RFC 3629: no overlong forms, no surrogates), or the
/// size.
inline std::size_t first_non_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  std::size_t i = 0;
  while (i < text.size()) {
    const unsigned lead = byte(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    const std::size_t more = lead >= 0xc2 && lead <= 0xdf   ? 1
                             : lead >= 0xe0 && lead <= 0xef ? 2
                             : lead >= 0xf0 && lead <= 0xf4 ? 3
                                                            : 0;
    if (more == 0 || text.size() - i <= more) return i;
    const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (byte(i + 1) < low || byte(i + 1) > high) return i;
    for (std::size_t j = 2; j <= more; ++j) {
      if ((byte(i + j) & 0xc0) != 0x80) return i;
    }
    i += more + 1;
  }
  return i;
}

}  // namespace reformer::inline REFORMER_ABI
