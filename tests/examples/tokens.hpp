// SPDX-License-Identifier: MIT
/// @file
/// What tests of tokenizers share: texts, and byte-level BPE by its definition.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/errors.hpp"
#include "support/files.hpp"
#include "tokens/tokenizer.hpp"

namespace tokens::test {

namespace fs = std::filesystem;
using nlohmann::json;
using reformer::test::contains;
using reformer::test::message_of;
using reformer::test::TemporaryFolder;
using reformer::test::write_file;
using Ids = std::vector<std::int32_t>;
using Strings = std::vector<std::string>;

inline std::string all_bytes() {
  std::string bytes(256, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  return bytes;
}

inline std::string joined_bytes(const Tokenizer& tokenizer, const Ids& ids) {
  std::string text;
  for (const std::int32_t id : ids) text += tokenizer.bytes_of(id);
  return text;
}

inline Ids operator+(Ids ids, const Ids& more) {
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

/// Cut where `safe_split` says, the tokens are those of the whole, whatever follows.
/// @return where it was cut
inline std::size_t expect_safe_split(const Tokenizer& tokenizer, const std::string& text,
                                     const Strings& continuations) {
  const std::size_t p = tokenizer.safe_split(text);
  EXPECT_LE(p, text.size());
  for (const std::string& more : continuations) {
    const std::string all = text + more;
    EXPECT_EQ(tokenizer.encode(all.substr(0, p)) + tokenizer.encode(all.substr(p)),
              tokenizer.encode(all))
        << "'" << text << "' cut at " << p << ", and '" << more << "'";
  }
  return p;
}

// ---- byte-level BPE, against its definition

/// What texts are made of: classes, the borders of which decide about words, and bytes that are no
/// characters.
enum class Kind { letter, number, space, other };
inline const std::vector<std::pair<std::string, Kind>> characters = {
    {"a", Kind::letter},
    {"b", Kind::letter},
    {"s", Kind::letter},
    {"t", Kind::letter},
    {"r", Kind::letter},
    {"e", Kind::letter},
    {"l", Kind::letter},
    {"S", Kind::letter},
    {"\xc3\xa9", Kind::letter},          // Latin
    {"\xc2\xaa", Kind::letter},          // feminine ordinal, Lo
    {"\xd0\x96", Kind::letter},          // Cyrillic
    {"\xe4\xb8\xad", Kind::letter},      // Han
    {"\xf0\x90\x90\xb7", Kind::letter},  // Deseret
    {"0", Kind::number},
    {"7", Kind::number},
    {"\xd9\xa3", Kind::number},      // Arabic digit
    {"\xc2\xbd", Kind::number},      // one half, No
    {"\xe2\x85\xa7", Kind::number},  // Roman eight, Nl
    {" ", Kind::space},
    {" ", Kind::space},
    {" ", Kind::space},
    {"\n", Kind::space},
    {"\t", Kind::space},
    {"\xc2\x85", Kind::space},      // next line
    {"\xc2\xa0", Kind::space},      // no-break space
    {"\xe3\x80\x80", Kind::space},  // ideographic space
    {"'", Kind::other},
    {"'", Kind::other},
    {".", Kind::other},
    {"_", Kind::other},
    {std::string(1, '\0'), Kind::other},
    {"\xcc\x81", Kind::other},          // combining acute
    {"\xe2\x80\x8b", Kind::other},      // zero-width space, Cf
    {"\xef\xbb\xbf", Kind::other},      // byte order mark
    {"\xf0\x9f\x98\x80", Kind::other},  // emoji
    {"\xff", Kind::other},
    {"\xc3", Kind::other},          // the first byte of a character
    {"\xe2\x82", Kind::other},      // two of three
    {"\x80", Kind::other},          // a byte from within
    {"\xc0\xa0", Kind::other},      // an overlong space
    {"\xed\xa0\x80", Kind::other},  // a surrogate
    {"\xf4\x90\x80\x80", Kind::other},
};

using Text = std::vector<std::pair<std::string, Kind>>;

inline std::string bytes_of(const Text& text) {
  std::string bytes;
  for (const auto& [character, kind] : text) bytes += character;
  return bytes;
}

/// The words of GPT-2's pattern, tried alternative by alternative.
inline Strings reference_words(const Text& text) {
  const auto is = [&](std::size_t i, Kind kind) {
    return i < text.size() && text[i].second == kind;
  };
  const auto matches = [&](std::size_t i) -> std::size_t {
    for (const char* ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
      const std::size_t length = std::string(ending).size();
      if (text.size() - i >= length &&
          bytes_of({text.begin() + static_cast<std::ptrdiff_t>(i),
                    text.begin() + static_cast<std::ptrdiff_t>(i + length)}) == ending) {
        return length;
      }
    }
    for (const Kind kind : {Kind::letter, Kind::number, Kind::other}) {
      for (std::size_t spaces = text[i].first == " " ? 2 : 1; spaces-- > 0;) {
        std::size_t length = spaces;
        while (is(i + length, kind)) ++length;
        if (length > spaces) return length;
      }
    }
    std::size_t length = 0;
    while (is(i + length, Kind::space)) ++length;
    for (std::size_t shorter = length; shorter > 0; --shorter) {
      if (i + shorter == text.size() || is(i + shorter, Kind::space)) return shorter;
    }
    return length;
  };
  Strings words;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = matches(i);
    words.push_back(bytes_of({text.begin() + static_cast<std::ptrdiff_t>(i),
                              text.begin() + static_cast<std::ptrdiff_t>(i + length)}));
    i += length;
  }
  return words;
}

using Merges = std::vector<std::pair<std::string, std::string>>;

using Ranks = std::map<std::pair<std::string, std::string>, std::size_t>;

/// A word's parts: the first merge of the list that applies anywhere, at its leftmost place.
inline Strings reference_parts(const std::string& word, const Ranks& ranks) {
  Strings parts;
  for (const char byte : word) parts.emplace_back(1, byte);
  while (true) {
    std::size_t best = ranks.size(), place = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find({parts[i], parts[i + 1]});
      if (found != ranks.end() && found->second < best) {
        best = found->second;
        place = i;
      }
    }
    if (best == ranks.size()) return parts;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

inline Text random_text(std::mt19937& random, std::size_t size) {
  Text text;
  // Bytes that are no characters must not become one with what follows.
  const auto makes_character = [](const std::string& a, const std::string& b) {
    return static_cast<unsigned char>(a.back()) >= 0x80 && (b == "\x80" || b == "\xcc\x81") &&
           b == "\x80" && (a == "\xc3" || a == "\xe2\x82");
  };
  while (text.size() < size) {
    const auto& next = characters[random() % characters.size()];
    // Sometimes a run of one character.
    const std::size_t count = random() % 8 == 0 ? 1 + random() % 5 : 1;
    for (std::size_t i = 0; i < count; ++i) {
      if (text.empty() || !makes_character(text.back().first, next.first)) text.push_back(next);
    }
  }
  // An invalid sequence is one byte, one character.
  Text bytes;
  for (const auto& [character, kind] : text) {
    const auto lead = static_cast<unsigned char>(character[0]);
    const bool is_valid = lead < 0x80 || (character.size() == 2 && lead > 0xc1) ||
                          (character.size() == 3 && lead != 0xed) ||
                          (character.size() == 4 && lead != 0xf4);
    if (is_valid && !(character == "\xe2\x82")) {
      bytes.emplace_back(character, kind);
      continue;
    }
    for (const char byte : character) bytes.emplace_back(std::string(1, byte), Kind::other);
  }
  return bytes;
}

/// Merges of the pairs that are most frequent in random words.
inline const Merges& learned_merges() {
  static const Merges learned = [] {
    Merges merges;
    std::mt19937 random(1);
    std::map<std::string, int> counts;
    for (int i = 0; i < 300; ++i) {
      for (const std::string& word : reference_words(random_text(random, 40))) ++counts[word];
    }
    for (const char* word : {" the", " there", "re", "'re", " rest", "    ", "\n\n"}) {
      counts[word] += 50;
    }
    std::vector<std::pair<Strings, int>> words;
    for (const auto& [word, count] : counts) {
      words.emplace_back(reference_parts(word, {}), count);
    }
    while (merges.size() < 150) {
      std::map<std::pair<std::string, std::string>, int> pairs;
      for (const auto& [parts, count] : words) {
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
          pairs[{parts[i], parts[i + 1]}] += count;
        }
      }
      const auto best =
          std::max_element(pairs.begin(), pairs.end(),
                           [](const auto& a, const auto& b) { return a.second < b.second; });
      merges.push_back(best->first);
      for (auto& [parts, count] : words) {
        for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
          if (std::pair(parts[i], parts[i + 1]) == best->first) {
            parts[i] += parts[i + 1];
            parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
          }
        }
      }
    }
    return merges;
  }();
  return learned;
}

/// A vocabulary, and the files that hold it.
class BytePairs : public testing::Test {
 protected:
  BytePairs() : merges_(learned_merges()) { write_files(); }

  /// Bytes, then what merges make, then the end of a document.
  void write_files() {
    ids_.clear();
    vocabulary_ = json::object();
    const auto add = [&](const std::string& bytes) {
      const auto id = static_cast<std::int32_t>(ids_.size());
      if (ids_.emplace(bytes, id).second) vocabulary_[spelled(bytes)] = id;
    };
    for (const char byte : all_bytes()) add(std::string(1, byte));
    std::string lines = "#version: 0.2\n";
    Strings pairs;
    for (const auto& [left, right] : merges_) {
      add(left + right);
      pairs.push_back(spelled(left) + " " + spelled(right));
      lines += pairs.back() + "\n";
    }
    end_ = static_cast<std::int32_t>(ids_.size());
    file_ = {{"version", "1.0"},
             {"truncation", nullptr},
             {"added_tokens", json::array({added("<|endoftext|>", end_)})},
             {"normalizer", nullptr},
             {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
             {"post_processor", {{"type", "ByteLevel"}}},
             {"decoder", {{"type", "ByteLevel"}}},
             {"model",
              {{"type", "BPE"}, {"dropout", nullptr}, {"vocab", vocabulary_}, {"merges", pairs}}}};
    json with_end = vocabulary_;
    with_end["<|endoftext|>"] = end_;
    fs::create_directories(folder_ / "two");
    write_file(folder_ / "two/vocab.json", with_end.dump());
    write_file(folder_ / "two/merges.txt", lines);
    write_file(folder_ / "tokenizer.json", file_.dump());
  }

  static json added(const std::string& content, std::int32_t id, bool special = true) {
    return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
            {"rstrip", false}, {"normalized", false}, {"special", special}};
  }

  /// As the files spell bytes.
  static std::string spelled(const std::string& bytes) {
    std::string text;
    for (const char c : bytes) {
      const int byte = static_cast<unsigned char>(c);
      const auto is_plain = [](int b) {
        return (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      };
      int code = byte;
      if (!is_plain(byte)) {
        code = 256;
        for (int b = 0; b < byte; ++b) code += is_plain(b) ? 0 : 1;
      }
      if (code < 128) {
        text += static_cast<char>(code);
      } else {
        text += static_cast<char>(0xc0 | code >> 6);
        text += static_cast<char>(0x80 | (code & 63));
      }
    }
    return text;
  }

  // Vectors, because of {part}, where part is json, clang makes a copy and gcc an array.
  static json sequence(const char* list, std::vector<json> parts) {
    return {{"type", "Sequence"}, {list, std::move(parts)}};
  }
  static json split(json expression, const std::string& behavior = "Isolated",
                    json is_inverted = false) {
    return {{"type", "Split"},
            {"pattern", {{"Regex", std::move(expression)}}},
            {"behavior", behavior},
            {"invert", std::move(is_inverted)}};
  }
  /// Splits, and then the bytes of what they leave.
  static json with_patterns(std::vector<json> splits, bool has_words = false) {
    splits.push_back(
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", has_words}});
    return sequence("pretokenizers", std::move(splits));
  }

  std::unique_ptr<Tokenizer> load() const { return load_tokenizer(folder_ / "tokenizer.json"); }
  std::unique_ptr<Tokenizer> load(const json& file) const {
    write_file(folder_ / "tokenizer.json", file.dump());
    return load();
  }

  Ids reference(const Text& text) const {
    Ranks ranks;
    for (const auto& merge : merges_) ranks.emplace(merge, ranks.size());
    Ids ids;
    for (const std::string& word : reference_words(text)) {
      for (const std::string& part : reference_parts(word, ranks)) ids.push_back(ids_.at(part));
    }
    return ids;
  }

  TemporaryFolder folder_;
  Merges merges_;
  std::map<std::string, std::int32_t> ids_;
  json vocabulary_, file_;
  std::int32_t end_ = 0;
};

}  // namespace tokens::test
