// SPDX-License-Identifier: MIT
/// @file
/// Reading JSON that somebody else wrote: everything is checked before a tree is built.
///
/// Errors are `std::runtime_error` without the name of the file, which the caller knows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "reformer/foundation/check.hpp"

namespace reformer {

namespace detail {

/// A name from a file as part of a line of text: in quotes, control characters escaped, not
/// endless.
inline std::string in_quotes(std::string_view name) {
  constexpr std::size_t longest = 120;
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text = "'";
  for (const char c : name.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      text += "\\x";
      text += digits[byte >> 4];
      text += digits[byte & 15];
    } else {
      text += c;
    }
  }
  return text + (name.size() > longest ? "...'" : "'");
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

/// What a handler of nlohmann::json's events does by default: accept.
struct JsonEvents {
  using Json = nlohmann::json;
  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(Json::number_integer_t) { return true; }
  bool number_unsigned(Json::number_unsigned_t) { return true; }
  bool number_float(Json::number_float_t, const std::string&) { return true; }
  bool string(std::string&) { return true; }
  bool binary(Json::binary_t&) { return true; }
  bool start_object(std::size_t) { return true; }
  bool key(std::string&) { return true; }
  bool end_object() { return true; }
  bool start_array(std::size_t) { return true; }
  bool end_array() { return true; }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    error = join("is not JSON: byte ", std::max<std::size_t>(position, 1) - 1,
                 " is not what must come there");
    return false;
  }

  std::string error;
};

/// Keys that come twice, and nesting without end.
struct JsonStructure : JsonEvents {
  static constexpr std::size_t deepest = 32;

  bool start_object(std::size_t) { return enter(); }
  bool start_array(std::size_t) { return enter(); }
  bool end_object() { return leave(); }
  bool end_array() { return leave(); }
  bool key(std::string& name) {
    if (keys.back().insert(name).second) return true;
    error = join("has the key ", in_quotes(name), " twice");
    return false;
  }

  bool enter() {
    keys.emplace_back();
    if (keys.size() <= deepest) return true;
    error = join("is nested more than ", deepest, " deep");
    return false;
  }
  bool leave() {
    keys.pop_back();
    return true;
  }

  std::vector<std::set<std::string>> keys;
};

/// Runs a handler over text that must be one JSON object.
template <typename Handler>
void walk_json_object(std::string_view what, std::string_view text, Handler& handler) {
  const std::size_t bad = first_non_utf8(text);
  if (bad < text.size()) {
    throw std::runtime_error(join(what, " is not UTF-8: byte ", bad));
  }
  if (text.empty() || text.front() != '{') {
    throw std::runtime_error(join(what, " is not a JSON object: it does not begin with {"));
  }
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &handler)) {
    throw std::runtime_error(join(what, " ", handler.error));
  }
}

}  // namespace detail

/// An object whose keys keep their order, so that it can be written as it was read.
using Json = nlohmann::ordered_json;

/// Reads a JSON object.
/// @param what   begins the message of an error
/// @param limit  bytes; far above any honest file
/// @throw std::runtime_error unless the text is UTF-8 and one object, without a key that comes
/// twice
template <typename Tree = Json>
Tree parse_json_object(std::string_view what, std::string_view text, std::size_t limit) {
  if (text.size() > limit) {
    throw std::runtime_error(
        detail::join(what, " has ", text.size(), " bytes, must have at most ", limit));
  }
  // White space may stand around an object.
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  detail::JsonStructure structure;
  detail::walk_json_object(what, text, structure);
  return Tree::parse(text);
}

}  // namespace reformer
