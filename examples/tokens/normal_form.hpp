// SPDX-License-Identifier: MIT
/// @file
/// Unicode's normal form C, in which a letter and a mark are one character where there is one, by
/// ICU. Bytes that do not belong to a character in UTF-8 stay as they are.
#pragma once

#include <unicode/edits.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace tokens {

/// Whether a text is in normal form.
bool is_composed(std::string_view text);

/// Whether what stands before byte p < text.size() can be brought into normal form without what
/// follows, and what follows without it.
bool is_boundary_of_composition(std::string_view text, std::size_t p);

/// The normal form of a text, and what has become of its places.
class Composition {
 public:
  explicit Composition(std::string_view source);
  const std::string& text() const { return text_; }
  std::string take() { return std::move(text_); }
  /// The place in the source of what stands at byte p; nothing within what has changed.
  std::optional<std::size_t> place_in_source(std::size_t p) const;

 private:
  std::string text_;
  icu::Edits edits_;
};

}  // namespace tokens
