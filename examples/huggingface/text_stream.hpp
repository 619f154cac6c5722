// SPDX-License-Identifier: MIT
/// @file
/// Text that is shown while it grows.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace huggingface {

/// Length of the part of decoded text that no later token can change.
///
/// A character may come from several tokens, a byte each. Until the last of them is there, its
/// bytes are at the end of the text, or, where a tokenizer has no way to show them, a replacement
/// character U+FFFD for each. Bytes that are no UTF-8 and can become none are final.
inline std::size_t final_length(std::string_view text) {
  constexpr std::size_t longest = 3;  // bytes of a character that is not complete
  const auto byte_at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  for (std::size_t held = 1; held <= longest && held <= text.size(); ++held) {
    const std::size_t begin = text.size() - held;
    const unsigned lead = byte_at(begin);
    if ((lead & 0xc0) == 0x80) continue;
    const std::size_t length = lead >= 0xc2 && lead <= 0xdf   ? 2
                               : lead >= 0xe0 && lead <= 0xef ? 3
                               : lead >= 0xf0 && lead <= 0xf4 ? 4
                                                              : 1;
    if (length <= held) break;
    // The second byte decides about overlong forms, surrogates and what is beyond Unicode.
    const unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (held > 1 && (byte_at(begin + 1) < low || byte_at(begin + 1) > high)) break;
    return begin;
  }
  constexpr std::string_view replacement = "\xef\xbf\xbd";
  std::size_t end = text.size();
  for (std::size_t held = 0; held < longest && text.substr(0, end).ends_with(replacement); ++held) {
    end -= replacement.size();
  }
  return end;
}

/// Hands out a growing text piece by piece, each ending with a complete character.
class TextStream {
 public:
  /// @param text  that is there before and is not handed out
  explicit TextStream(std::string_view text) : written_(final_length(text)) {}

  /// What is new and final. @param text  all of it, as it is decoded now
  std::string_view more(std::string_view text) { return up_to(text, final_length(text)); }
  /// What has been held back, when nothing comes any more.
  std::string_view rest(std::string_view text) { return up_to(text, text.size()); }

 private:
  std::string_view up_to(std::string_view text, std::size_t end) {
    if (end <= written_) return {};
    const std::string_view piece = text.substr(written_, end - written_);
    written_ = end;
    return piece;
  }

  std::size_t written_;
};

}  // namespace huggingface
