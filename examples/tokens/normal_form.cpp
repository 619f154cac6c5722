// SPDX-License-Identifier: MIT
#include "normal_form.hpp"

#include <fmt/format.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "reformer/io/text.hpp"
#include "words.hpp"

namespace tokens {
namespace {

/// The first bytes of characters from U+0300 on. All before are in normal form, in any order.
constexpr unsigned char first_lead = 0xcc;

void check_error(UErrorCode error) {
  if (U_FAILURE(error) != 0) {
    throw std::runtime_error(fmt::format("ICU: {}", u_errorName(error)));
  }
}

const icu::Normalizer2& normal_form_c() {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* form = icu::Normalizer2::getNFCInstance(error);
  check_error(error);
  return *form;
}

/// ICU counts in 32 bits.
void check_size(std::string_view text) {
  if (text.size() > std::size_t{std::numeric_limits<std::int32_t>::max()} / 4) {
    throw std::length_error(
        fmt::format("a text of {} bytes is too long to be normalised", text.size()));
  }
}

icu::StringPiece piece_of(std::string_view text) {
  return {text.data(), static_cast<std::int32_t>(text.size())};
}

}  // namespace

bool is_composed(std::string_view text) {
  const auto is_late = [](char byte) { return static_cast<unsigned char>(byte) >= first_lead; };
  if (std::none_of(text.begin(), text.end(), is_late)) {
    return true;
  }
  check_size(text);
  UErrorCode error = U_ZERO_ERROR;
  while (!text.empty()) {
    const std::size_t valid = reformer::first_non_utf8(text);
    const bool is_normal =
        normal_form_c().isNormalizedUTF8(piece_of(text.substr(0, valid)), error) != 0;
    check_error(error);
    if (!is_normal) {
      return false;
    }
    text.remove_prefix(std::min(valid + 1, text.size()));
  }
  return true;
}

bool is_boundary_of_composition(std::string_view text, std::size_t p) {
  const Character next = character_at(text, p);
  if (!next.is_valid) {
    return true;
  }
  const auto character = icu::UnicodeString::fromUTF8(piece_of(text.substr(p, next.length)));
  return normal_form_c().hasBoundaryBefore(character.char32At(0)) != 0;
}

Composition::Composition(std::string_view source) {
  check_size(source);
  UErrorCode error = U_ZERO_ERROR;
  icu::StringByteSink<std::string> sink(&text_, static_cast<std::int32_t>(source.size()));
  while (!source.empty()) {
    const std::size_t valid = reformer::first_non_utf8(source);
    normal_form_c().normalizeUTF8(U_EDITS_NO_RESET, piece_of(source.substr(0, valid)), sink,
                                  &edits_, error);
    check_error(error);
    source.remove_prefix(valid);
    if (!source.empty()) {
      text_ += source.front();
      edits_.addUnchanged(1);
      source.remove_prefix(1);
    }
  }
  edits_.copyErrorTo(error);
  check_error(error);
}

std::optional<std::size_t> Composition::place_in_source(std::size_t p) const {
  UErrorCode error = U_ZERO_ERROR;
  icu::Edits::Iterator edit = edits_.getFineIterator();
  const auto place = static_cast<std::int32_t>(p);
  const bool is_found = edit.findDestinationIndex(place, error) != 0;
  check_error(error);
  if (!is_found) {  // the end
    return p == text_.size() ? std::optional(static_cast<std::size_t>(edit.sourceIndex()))
                             : std::nullopt;
  }
  const std::int32_t inside = place - edit.destinationIndex();
  if (inside > 0 && edit.hasChange() != 0) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(edit.sourceIndex() + inside);
}

}  // namespace tokens
