// SPDX-License-Identifier: MIT
/// Byte-level BPE as GPT-2 and the library `tokenizers` write it.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <unordered_set>

#include "byte_pairs.hpp"
#include "reformer/io/json.hpp"
#include "reformer/io/mapped_file.hpp"

namespace tokens {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using Definition = BytePairTokenizer::Definition;
using reformer::in_quotes;

/// Of a file: far above any vocabulary.
constexpr std::size_t most_bytes = std::size_t{1} << 28;
constexpr std::int64_t most_tokens = 1 << 26;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what);
}

/// Calls a function with the text of a file; its errors begin with a verb, and here get the name.
template <typename Function>
auto with_text(const fs::path& path, Function&& function) {
  const reformer::MappedFile file(path);
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  try {
    return function(text);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("'{}' {}", path.string(), error.what()));
  }
}

Json read_object(std::string_view text) {
  try {
    return reformer::parse_json_object<Json>("", text, most_bytes);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(std::string(error.what()).substr(1));  // without a space
  }
}

std::int32_t read_id(const Json& value, const std::string& name) {
  if (!value.is_number_integer() || value.get<std::int64_t>() < 0 ||
      value.get<std::int64_t>() >= most_tokens) {
    fail(fmt::format("has the id {} for the token {}; allowed: whole numbers from 0",
                     reformer::shortened(value.dump(), 40), in_quotes(name)));
  }
  return value.get<std::int32_t>();
}

/// @param num_added  ids that may be missing here
std::vector<std::string> read_vocabulary(const Json& object, std::size_t num_added) {
  std::size_t places = 0;
  for (const auto& [name, value] : object.items()) {
    places = std::max(places, static_cast<std::size_t>(read_id(value, name)) + 1);
  }
  // Before the table is made.
  if (places > object.size() + num_added + BytePairTokenizer::most_missing_ids) {
    fail(fmt::format("has {} tokens and the id {}: there are holes between the ids",
                     object.size() + num_added, places - 1));
  }
  std::vector<std::string> names(places);
  for (const auto& [name, value] : object.items()) {
    std::string& place = names[value.get<std::size_t>()];
    if (name.empty()) {
      fail("has a token without a name");
    }
    if (!place.empty()) {
      fail(fmt::format("gives the id {} to {} and to {}", value.get<std::int32_t>(),
                       in_quotes(place), in_quotes(name)));
    }
    place = name;
  }
  return names;
}

std::pair<std::string, std::string> read_merge(std::string_view line, std::size_t number) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos) {
    fail(fmt::format("has {} as merge {}; allowed: two tokens with a space between",
                     in_quotes(line), number));
  }
  return {std::string(line.substr(0, space)), std::string(line.substr(space + 1))};
}

std::vector<std::pair<std::string, std::string>> read_merges(std::string_view text) {
  const std::size_t bad = reformer::first_non_utf8(text);
  if (bad < text.size()) {
    fail(fmt::format("is not UTF-8: byte {}", bad));
  }
  std::vector<std::pair<std::string, std::string>> merges;
  for (bool is_first = true; !text.empty(); is_first = false) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) {
      line.remove_suffix(1);
    }
    if ((is_first && line.starts_with("#version")) || (line.empty() && text.empty())) {
      continue;
    }
    merges.push_back(read_merge(line, merges.size() + 1));
  }
  return merges;
}

// ---- tokenizer.json

/// The name of a part, such as a normalizer; "null" for none.
std::string type_of(const Json& part) {
  if (part.is_null()) {
    return "null";
  }
  const bool has_name = part.is_object() && part.contains("type") && part["type"].is_string();
  return has_name ? part["type"].get<std::string>() : "without a type";
}

Json member(const Json& object, const char* name) {
  return object.contains(name) ? object[name] : Json();
}

/// Refuses any other value of an option than these.
void require(const Json& object, const std::string& where, const char* name,
             std::initializer_list<Json> allowed) {
  const Json value = member(object, name);
  if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    fail(fmt::format("has {}.{} = {}, which is not supported; allowed: {}", where, name,
                     reformer::shortened(value.dump(), 40), allowed.begin()->dump()));
  }
}

/// @param where  names the part, such as "pre_tokenizer"
void require_type(const Json& part, const std::string& where,
                  std::initializer_list<const char*> allowed) {
  const std::string type = type_of(part);
  if (std::find(allowed.begin(), allowed.end(), type) == allowed.end()) {
    fail(fmt::format("has the {} {}, which is not supported; allowed: {}", where, in_quotes(type),
                     fmt::join(allowed, ", ")));
  }
}

/// The parts of a "Sequence", or the one part that a thing is, with their names.
std::vector<std::pair<Json, std::string>> parts_of(const Json& whole, const std::string& where,
                                                   const char* list) {
  if (type_of(whole) != "Sequence") {
    return {{whole, where}};
  }
  const Json parts = member(whole, list);
  if (!parts.is_array()) {
    fail(fmt::format("has no {}.{}", where, list));
  }
  std::vector<std::pair<Json, std::string>> named;
  for (const Json& part : parts) {
    named.emplace_back(part, fmt::format("{}.{}[{}]", where, list, named.size()));
  }
  return named;
}

void read_normalizer(const Json& normalizer, Definition& definition) {
  for (const auto& [part, where] : parts_of(normalizer, "normalizer", "normalizers")) {
    require_type(part, where, {"null", "NFC"});
    definition.composes = definition.composes || type_of(part) == "NFC";
  }
}

std::shared_ptr<const Pattern> read_split(const Json& split, const std::string& where) {
  // "Removed" stands in files made for GPT-4: what does not match is removed, and everything
  // matches.
  const bool keeps_matches = member(split, "invert") == true;
  if (!keeps_matches) {
    require(split, where, "invert", {false, nullptr});
  }
  require(split, where, "behavior",
          keeps_matches ? std::initializer_list<Json>{"Isolated", "Removed"}
                        : std::initializer_list<Json>{"Isolated"});
  const Json pattern = member(split, "pattern");
  const Json expression = pattern.is_object() ? member(pattern, "Regex") : Json();
  if (!expression.is_string()) {
    fail(fmt::format("has {}.pattern = {}, which is not supported; allowed: a Regex", where,
                     reformer::shortened(pattern.dump(), 40)));
  }
  const auto text = expression.get<std::string>();
  try {
    return std::make_shared<const Pattern>(text);
  } catch (const std::runtime_error& error) {
    fail(fmt::format("has {}.pattern.Regex = {}, which is not supported: {}", where,
                     in_quotes(text), error.what()));
  }
}

/// Patterns, if any, and then bytes.
void read_pre_tokenizer(const Json& pre_tokenizer, Definition& definition) {
  const auto parts = parts_of(pre_tokenizer, "pre_tokenizer", "pretokenizers");
  if (type_of(pre_tokenizer) == "Split" || parts.empty()) {
    fail(
        fmt::format("has the pre_tokenizer '{}' without a ByteLevel behind it, which is not "
                    "supported; allowed: a Sequence of Split and ByteLevel",
                    type_of(pre_tokenizer)));
  }
  const auto& [last, where] = parts.back();
  require_type(last, where, {"ByteLevel"});
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    require_type(parts[i].first, parts[i].second, {"Split"});
    definition.patterns.push_back(read_split(parts[i].first, parts[i].second));
  }
  // What is missing is off, but for `use_regex`, which came later.
  require(last, where, "add_prefix_space", {false});
  definition.has_words = definition.patterns.empty() || member(last, "use_regex") != false;
  if (definition.has_words) {
    require(last, where, "use_regex", {true, nullptr});
  }
}

/// All but the vocabulary, merges and added tokens.
void read_parts(const Json& file, Definition& definition) {
  // Files from before models had types hold BPE where they hold merges.
  if (!file.contains("model") || !file["model"].is_object() || file["model"].contains("type") ||
      !file["model"].contains("merges")) {
    require_type(member(file, "model"), "model", {"BPE"});
  }
  read_normalizer(member(file, "normalizer"), definition);
  read_pre_tokenizer(member(file, "pre_tokenizer"), definition);
  require_type(member(file, "decoder"), "decoder", {"ByteLevel", "null"});
  const Json& model = file["model"];
  require(model, "model", "dropout", {nullptr, 0.0});
  require(model, "model", "continuing_subword_prefix", {"", nullptr});
  require(model, "model", "end_of_word_suffix", {"", nullptr});
  require(model, "model", "byte_fallback", {false, nullptr});
  require(model, "model", "ignore_merges", {false, true, nullptr});
  definition.ignores_merges = member(model, "ignore_merges") == true;
}

std::vector<AddedToken> read_added(const Json& list) {
  if (!list.is_array() && !list.is_null()) {
    fail("has added_tokens that are no list");
  }
  std::vector<AddedToken> added;
  for (const Json& entry : list) {
    const Json content = entry.is_object() ? member(entry, "content") : Json();
    if (!content.is_string() || content.get<std::string>().empty()) {
      fail(fmt::format("has an added token without content: {}",
                       in_quotes(reformer::shortened(entry.dump(), 60))));
    }
    const auto name = content.get<std::string>();
    const auto flag = [&](const char* key) {
      const Json value = member(entry, key);
      return value.is_boolean() && value.get<bool>();
    };
    const bool is_special = flag("special");
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      // In text, what is stripped would be lost.
      const bool is_supported = is_special && key != std::string_view("single_word");
      if (flag(key) && !is_supported) {
        fail(fmt::format("has the added token {} with {}, which is not supported{}",
                         in_quotes(name), key,
                         is_special ? "" : " of tokens that are not special"));
      }
    }
    added.push_back({.id = read_id(member(entry, "id"), name),
                     .content = name,
                     .is_special = is_special,
                     .is_normalized = flag("normalized"),
                     .strips_left = flag("lstrip"),
                     .strips_right = flag("rstrip")});
  }
  return added;
}

}  // namespace

std::unique_ptr<Tokenizer> load_vocabulary_and_merges(const fs::path& vocabulary,
                                                      const fs::path& merges) {
  Definition definition;
  definition.merges = with_text(merges, read_merges);
  definition.files = {vocabulary, merges};
  return with_text(vocabulary, [&](std::string_view text) -> std::unique_ptr<Tokenizer> {
    definition.vocabulary = read_vocabulary(read_object(text), 0);
    // These files do not say which tokens are special; those that are nobody's merge must be.
    std::unordered_set<std::string> made;
    for (const auto& [left, right] : definition.merges) {
      made.insert(left + right);
    }
    for (std::size_t i = 0; i < definition.vocabulary.size(); ++i) {
      const std::string& name = definition.vocabulary[i];
      // Bytes are spelled as one character.
      const bool is_byte = name.size() <= 2 && reformer::first_non_utf8(name) == name.size() &&
                           (name.size() == 1 || static_cast<unsigned char>(name[0]) >= 0xc2);
      if (!name.empty() && !is_byte && !made.contains(name)) {
        definition.added.push_back({.id = static_cast<std::int32_t>(i), .content = name});
      }
    }
    return std::make_unique<BytePairTokenizer>(std::move(definition));
  });
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const fs::path& path) {
  return with_text(path, [&](std::string_view text) -> std::unique_ptr<Tokenizer> {
    const Json file = read_object(text);
    Definition definition;
    read_parts(file, definition);
    const Json& model = file["model"];
    for (const char* name : {"vocab", "merges"}) {
      if (!model.contains(name) ||
          !(name[0] == 'v' ? model[name].is_object() : model[name].is_array())) {
        fail(fmt::format("has no model.{}", name));
      }
    }
    definition.files = {path};
    definition.added = read_added(member(file, "added_tokens"));
    definition.vocabulary = read_vocabulary(model["vocab"], definition.added.size());
    for (const Json& merge : model["merges"]) {
      const std::size_t number = definition.merges.size() + 1;
      if (merge.is_string()) {
        definition.merges.push_back(read_merge(merge.get<std::string>(), number));
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        definition.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      } else {
        fail(fmt::format("has {} as merge {}; allowed: two tokens",
                         in_quotes(reformer::shortened(merge.dump(), 60)), number));
      }
    }
    return std::make_unique<BytePairTokenizer>(std::move(definition));
  });
}

}  // namespace tokens
