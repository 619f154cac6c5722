// SPDX-License-Identifier: MIT
/// @file
/// Reading JSON that somebody else wrote: checked while it is read, in one pass.
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
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/io/text.hpp"

namespace reformer::inline REFORMER_ABI {

/// An object whose keys keep their order, so that it can be written as it was read.
using Json = nlohmann::ordered_json;

namespace detail {

/// What a parser finds in a text, one after another; by default all of it is accepted. The
/// functions are virtual, so that the parser is compiled once, and not for each kind of reader.
class JsonEvents : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(Json::number_integer_t) override { return true; }
  bool number_unsigned(Json::number_unsigned_t) override { return true; }
  bool number_float(Json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(Json::binary_t&) override { return true; }
  bool start_object(std::size_t) override { return true; }
  bool key(std::string&) override { return true; }
  bool end_object() override { return true; }
  bool start_array(std::size_t) override { return true; }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error = join("is not JSON: byte ", std::max<std::size_t>(position, 1) - 1,
                 " is not what must come there");
    return false;
  }

  std::string error;
};

/// @return whether it is JSON, and all of it was accepted
inline bool read_json(std::string_view text, JsonEvents& events) {
  return Json::sax_parse(text.begin(), text.end(), &events);
}

/// Reads text that must be one JSON object.
inline void read_json_object(std::string_view what, std::string_view text, JsonEvents& events) {
  const std::size_t bad = first_non_utf8(text);
  if (bad < text.size()) {
    throw std::runtime_error(join(what, " is not UTF-8: byte ", bad));
  }
  if (text.empty() || text.front() != '{') {
    throw std::runtime_error(join(what, " is not a JSON object: it does not begin with {"));
  }
  if (!read_json(text, events)) throw std::runtime_error(join(what, " ", events.error));
}

/// Builds a tree; keys that come twice, and nesting without end, are errors.
template <typename Tree>
class JsonTree : public JsonEvents {
 public:
  static constexpr std::size_t deepest = 32;

  Tree root;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(Json::number_integer_t value) override { return add(value); }
  bool number_unsigned(Json::number_unsigned_t value) override { return add(value); }
  bool number_float(Json::number_float_t value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool start_object(std::size_t) override { return open(Tree::object()); }
  bool start_array(std::size_t) override { return open(Tree::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (!open_.back().keys.insert(name).second) {
      error = join("has the key ", in_quotes(name), " twice");
      return false;
    }
    key_ = std::move(name);
    return true;
  }

 private:
  struct Open {
    Tree* tree;
    std::set<std::string> keys;
  };

  Tree* place(Tree value) {
    if (open_.empty()) return &(root = std::move(value));
    Tree& parent = *open_.back().tree;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    auto& members = parent.template get_ref<typename Tree::object_t&>();
    if constexpr (requires { members.emplace_back(std::move(key_), std::move(value)); }) {
      return &members.emplace_back(std::move(key_), std::move(value))
                  .second;  // `keys` has searched
    } else {
      return &(members[std::move(key_)] = std::move(value));
    }
  }
  bool add(Tree value) {
    place(std::move(value));
    return true;
  }
  // What is open stays where it is: only the innermost grows.
  bool open(Tree value) {
    if (open_.size() == deepest) {
      error = join("is nested more than ", deepest, " deep");
      return false;
    }
    open_.push_back({place(std::move(value)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Open> open_;
  std::string key_;
};

}  // namespace detail

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
  detail::JsonTree<Tree> tree;
  detail::read_json_object(what, text, tree);
  return std::move(tree.root);
}

namespace detail {

/// A member of an object: its name, and where the value stands in the text.
struct JsonMember {
  std::string name;
  std::size_t begin = 0, end = 0;
};

/// A value in a text that `parse_json_object` has accepted.
inline Json json_value(std::string_view text) {
  JsonTree<Json> tree;
  read_json(text, tree);
  return std::move(tree.root);
}

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
    JsonMember member{json_value(text.substr(i, name_end - i)).get<std::string>()};
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
    if (json_value(text.substr(member.begin, member.end - member.begin)) == value) continue;
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

#ifdef REFORMER_EXTERN_IO_INSTANCES
extern template class detail::JsonTree<Json>;
extern template Json parse_json_object(std::string_view, std::string_view, std::size_t);
#endif

}  // namespace reformer::inline REFORMER_ABI
