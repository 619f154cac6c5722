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

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/io/text.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

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

namespace detail {

/// A member of an object: its name, and where the value stands in the text.
struct JsonMember {
  std::string name;
  std::size_t begin = 0, end = 0;
};

/// The members of an object that `parse_json_object` has accepted.
inline std::vector<JsonMember> json_members(std::string_view text) {
  constexpr std::string_view space = " \t\r\n";
  const auto end_of_string = [&](std::size_t i) {
    for (++i; text[i] != '"'; ++i) i += text[i] == '\\' ? 1 : 0;
    return i + 1;
  };
  const auto end_of_value = [&](std::size_t i) {
    if (text[i] == '"') return end_of_string(i);
    if (text[i] != '{' && text[i] != '[') return text.find_first_of(",} \t\r\n", i);
    for (int depth = 0;;) {
      depth += text[i] == '{' || text[i] == '[' ? 1 : text[i] == '}' || text[i] == ']' ? -1 : 0;
      i = text[i] == '"' ? end_of_string(i) : i + 1;
      if (depth == 0) return i;
    }
  };
  std::vector<JsonMember> members;
  std::size_t i = text.find('{') + 1;
  while (text[i = text.find_first_not_of(" \t\r\n,", i)] != '}') {
    const std::size_t name_end = end_of_string(i);
    JsonMember member{Json::parse(text.substr(i, name_end - i)).get<std::string>()};
    member.begin = text.find_first_not_of(space, text.find(':', name_end) + 1);
    i = member.end = end_of_value(member.begin);
    members.push_back(std::move(member));
  }
  return members;
}

/// An object as text, spelled as in `text` where that has the same: values, escapes, order, white
/// space. What is new comes last, in the way of the first member.
/// @param text  an object that `parse_json_object` has accepted, or nothing
inline std::string json_text_like(std::string_view text, const Json& object) {
  const std::string plain = object.dump(2) + "\n";
  if (text.empty()) return plain;
  const std::vector<JsonMember> members = json_members(text);
  // An object without members shows no style, and one that has lost some is another.
  if (members.empty()) return object.empty() ? std::string(text) : plain;
  for (const JsonMember& member : members) {
    if (!object.contains(member.name)) return plain;
  }
  const std::size_t first = text.find('{') + 1;
  const std::string_view before = text.substr(first, text.find('"', first) - first);
  const std::size_t line = before.rfind('\n');
  const auto written = [&](const std::string& name, const Json& value) {
    Json alone = Json::object();
    alone[name] = value;
    if (line == std::string_view::npos) {  // all in one line
      const std::string one = alone.dump();
      return one.substr(1, one.size() - 2);
    }
    const std::string_view indent = before.substr(line + 1);
    const std::string all =
        alone.dump(static_cast<int>(indent.size()), indent.starts_with('\t') ? '\t' : ' ');
    std::string result;
    for (const char c : all.substr(2 + indent.size(), all.size() - 4 - indent.size())) {
      if (c == '\n' && before.ends_with("\r\n" + std::string(indent))) result += '\r';
      result += c;
    }
    return result;
  };
  std::string result;
  std::size_t copied = 0;
  for (const JsonMember& member : members) {
    const Json& value = object[member.name];
    if (Json::parse(text.substr(member.begin, member.end - member.begin)) == value) continue;
    const std::string replaced = written(member.name, value);
    const std::string name = Json(member.name).dump();
    result += text.substr(copied, member.begin - copied);
    result += replaced.substr(replaced.find_first_not_of(": ", name.size()));
    copied = member.end;
  }
  result += text.substr(copied, members.back().end - copied);
  for (const auto& [name, value] : object.items()) {
    const auto is_name = [&, &key = name](const JsonMember& member) { return member.name == key; };
    if (std::none_of(members.begin(), members.end(), is_name)) {
      result += ',';
      result += before;
      result += written(name, value);
    }
  }
  result += text.substr(members.back().end);
  return result;
}

}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
