// SPDX-License-Identifier: MIT
/// Text to tokens and back.
#include "tokens/tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "support/errors.hpp"
#include "support/files.hpp"
#include "tokens/normal_form.hpp"
#include "tokens/pattern.hpp"
#include "tokens/sentencepiece.hpp"
#include "tokens/words.hpp"

#ifdef TOKENS_WITH_SENTENCEPIECE
#include <sentencepiece_trainer.h>
#endif

namespace tokens {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using reformer::test::contains;
using reformer::test::message_of;
using reformer::test::TemporaryFolder;
using reformer::test::write_file;
using Ids = std::vector<std::int32_t>;
using Strings = std::vector<std::string>;

std::string all_bytes() {
  std::string bytes(256, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  return bytes;
}

std::string joined_bytes(const Tokenizer& tokenizer, const Ids& ids) {
  std::string text;
  for (const std::int32_t id : ids) text += tokenizer.bytes_of(id);
  return text;
}

Ids operator+(Ids ids, const Ids& more) {
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

/// Cut where `safe_split` says, the tokens are those of the whole, whatever follows.
/// @return where it was cut
[[maybe_unused]] std::size_t expect_safe_split(const Tokenizer& tokenizer, const std::string& text,
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

// ---- bytes

TEST(ByteTokenizer, TakesEveryByte) {
  const ByteTokenizer bytes(2);
  const auto encoded = bytes.encode(all_bytes());
  EXPECT_EQ(encoded.front(), 2);
  EXPECT_EQ(encoded.back(), 257);
  EXPECT_EQ(bytes.vocabulary(), 258);
  EXPECT_EQ(bytes.decode(encoded), all_bytes());
  EXPECT_EQ(bytes.decode(Ids{-1, 0, 'a' + 2, 1, 258}), "a");
  EXPECT_EQ(joined_bytes(bytes, encoded), all_bytes());
  EXPECT_EQ(bytes.bytes_of(1), "");
  EXPECT_EQ(bytes.safe_split("abc"), 3u);
  EXPECT_EQ(bytes.what_is_lost(), "");
  EXPECT_NE(bytes.checksum(), ByteTokenizer().checksum());
  EXPECT_EQ(load_tokenizer("bytes")->checksum(), ByteTokenizer().checksum());
  EXPECT_EQ(load_tokenizer("bytes")->vocabulary(), 256);
}

// ---- byte-level BPE, against its definition

/// What texts are made of: classes, the borders of which decide about words, and bytes that are no
/// characters.
enum class Kind { letter, number, space, other };
const std::vector<std::pair<std::string, Kind>> characters = {
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

std::string bytes_of(const Text& text) {
  std::string bytes;
  for (const auto& [character, kind] : text) bytes += character;
  return bytes;
}

/// The words of GPT-2's pattern, tried alternative by alternative.
Strings reference_words(const Text& text) {
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
Strings reference_parts(const std::string& word, const Ranks& ranks) {
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

Text random_text(std::mt19937& random, std::size_t size) {
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
const Merges& learned_merges() {
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
             {"added_tokens", {added("<|endoftext|>", end_)}},
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

  static json sequence(const char* list, json parts) {
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
  static json with_patterns(json splits, bool has_words = false) {
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

#ifdef TOKENS_WITH_ICU

TEST(Words, AreThoseOfThePattern) {
  std::mt19937 random(11);
  for (std::size_t i = 0; i < 3000; ++i) {
    const Text text = random_text(random, i % 30);
    const std::string bytes = bytes_of(text);
    Strings words;
    for (std::size_t begin = 0; begin < bytes.size();) {
      const std::size_t end = word_end(bytes, begin);
      words.push_back(bytes.substr(begin, end - begin));
      begin = end;
    }
    ASSERT_EQ(words, reference_words(text));
  }
}

TEST(Words, ConsistOfCharactersOfUtf8) {
  // The first and last of each length, and of what lies beside the surrogates.
  for (const char* bytes :
       {"\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    const Character character = character_at(bytes, 0);
    EXPECT_TRUE(character.is_valid) << bytes;
    EXPECT_EQ(character.length, std::strlen(bytes)) << bytes;
  }
  // Overlong forms, surrogates, what lies beyond Unicode, and what is cut off.
  for (const char* bytes : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80",
                            "\xed\xbf\xbf", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                            "\xf5\x80\x80\x80", "\xff", "\xe4\xb8", "\xc2.", "\xe4\xb8."}) {
    const Character character = character_at(bytes, 0);
    EXPECT_FALSE(character.is_valid) << bytes;
    EXPECT_EQ(character.length, 1) << bytes;
    EXPECT_EQ(character.kind, CharacterClass::other) << bytes;
  }
}

TEST_F(BytePairs, TokensAreThoseOfTheDefinition) {
  for (const bool is_shuffled : {false, true}) {
    std::mt19937 random(2);
    if (is_shuffled) {  // a merge may then come before those that make its parts
      std::shuffle(merges_.begin(), merges_.end(), random);
      write_files();
    }
    const auto tokenizer = load();
    std::set<std::int32_t> seen;
    for (std::size_t i = 0; i < 1000; ++i) {
      const Text text = random_text(random, i % 60);
      const std::string bytes = bytes_of(text);
      const Ids ids = tokenizer->encode(bytes);
      ASSERT_EQ(ids, reference(text)) << "'" << bytes << "'";
      ASSERT_EQ(tokenizer->decode(ids), bytes);
      ASSERT_EQ(joined_bytes(*tokenizer, ids), bytes);
      seen.insert(ids.begin(), ids.end());
    }
    EXPECT_GT(seen.size(), 100u);
  }
}

TEST_F(BytePairs, LongWordsAreMergedInTheSameOrder) {
  std::mt19937 random(3);
  // Every pair of short words of two letters, in no order: nearly everything competes.
  const Merges learned = std::exchange(merges_, {});
  const Strings parts = {"a", "b", "aa", "ab", "ba", "bb", "aab", "bab"};
  for (const std::string& left : parts) {
    for (const std::string& right : parts) merges_.emplace_back(left, right);
  }
  std::shuffle(merges_.begin(), merges_.end(), random);
  write_files();
  const auto dense = load();
  for (std::size_t size = 2; size < 300; size += 1 + size / 8) {
    Text text;
    while (text.size() < size) text.push_back(characters[random() % 2]);
    ASSERT_EQ(dense->encode(bytes_of(text)), reference(text)) << size;
  }
  merges_ = learned;
  write_files();
  const auto tokenizer = load();
  for (const std::size_t size : {60u, 64u, 65u, 70u, 300u, 600u}) {
    for (int i = 0; i < 4; ++i) {
      Text text;
      while (text.size() < size) text.push_back(characters[random() % 13]);  // letters
      ASSERT_EQ(tokenizer->encode(bytes_of(text)), reference(text)) << size;
    }
  }
  // In a second, where one that looks at all pairs again and again would take hours.
  const std::string spaces(1 << 20, ' ');
  const Ids ids = tokenizer->encode(spaces);
  EXPECT_EQ(tokenizer->decode(ids), spaces);
  const Text few(512, {" ", Kind::space});
  EXPECT_EQ(tokenizer->encode(spaces.substr(0, 512)), reference(few));
}

TEST_F(BytePairs, AllBytesComeBack) {
  const auto tokenizer = load();
  EXPECT_EQ(tokenizer->encode(""), Ids());
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all_bytes())), all_bytes());
  std::mt19937 random(4);
  std::string bytes(1 << 16, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random() & 255);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), bytes);
  EXPECT_EQ(tokenizer->what_is_lost(), "");
  EXPECT_EQ(tokenizer->decode(Ids{-1, ids_.at("a"), end_, end_ + 1}), "a");
}

TEST_F(BytePairs, ATextCanBeCutWhereSafeSplitSays) {
  const auto tokenizer = load();
  std::mt19937 random(5);
  int cut = 0;
  for (std::size_t i = 0; i < 1000; ++i) {
    const std::string text = bytes_of(random_text(random, i % 20));
    Strings continuations = {"", "'s", "s", "\x80", "\xbd"};
    for (std::size_t k = 0; k < 5; ++k)
      continuations.push_back(bytes_of(random_text(random, 1 + k)));
    cut += expect_safe_split(*tokenizer, text, continuations) > 0;
  }
  EXPECT_GT(cut, 700);
  EXPECT_EQ(tokenizer->safe_split("the rest of it"), 11u);
  EXPECT_EQ(tokenizer->safe_split("the rest.\n  "), 9u);
  EXPECT_EQ(tokenizer->safe_split("it'"), 2u);
  EXPECT_EQ(tokenizer->safe_split("'s"), 0u);
  EXPECT_EQ(tokenizer->safe_split("\xe4\xb8\xad\xe4\xb8\xad.\xe4\xb8"), 6u);
  EXPECT_EQ(tokenizer->safe_split(std::string(100, ' ')), 0u);
  EXPECT_EQ(tokenizer->safe_split(""), 0u);
}

TEST_F(BytePairs, TheFilesOfGpt2AndOfTokenizersAgree) {
  const auto one = load(), two = load_tokenizer(folder_ / "two");
  std::mt19937 random(6);
  const std::string text = bytes_of(random_text(random, 2000)) + "<|endoftext|>";
  EXPECT_EQ(one->encode(text), two->encode(text));
  EXPECT_EQ(one->encode_prompt(text), two->encode_prompt(text));
  for (const auto* tokenizer : {one.get(), two.get()}) {
    EXPECT_EQ(tokenizer->vocabulary(), end_ + 1);
    EXPECT_EQ(tokenizer->end_of_document(), end_);
    EXPECT_EQ(tokenizer->description(), "byte-level BPE, " + std::to_string(end_ + 1) + " tokens");
  }
  EXPECT_EQ(two->files(),
            (std::vector<fs::path>{folder_ / "two/vocab.json", folder_ / "two/merges.txt"}));
  EXPECT_EQ(one->files(), std::vector<fs::path>{folder_ / "tokenizer.json"});
  EXPECT_EQ(load_tokenizer(folder_ / "two/vocab.json")->checksum(), two->checksum());
  EXPECT_TRUE(has_tokenizer(folder_ / "two"));
  // Merges as newer files write them, and other merges.
  json file = file_;
  for (json& merge : file["model"]["merges"]) {
    const auto pair = merge.get<std::string>();
    const std::size_t space = pair.find(' ');
    merge = {pair.substr(0, space), pair.substr(space + 1)};
  }
  EXPECT_EQ(load(file)->checksum(), one->checksum());
  file["model"].erase("type");  // as the first files had none
  EXPECT_EQ(load(file)->checksum(), one->checksum());
  std::swap(file["model"]["merges"][0], file["model"]["merges"][1]);
  EXPECT_NE(load(file)->checksum(), one->checksum());
  // Files of Windows.
  std::string lines = reformer::test::read_file(folder_ / "two/merges.txt");
  for (std::size_t i = 0; (i = lines.find('\n', i)) != std::string::npos; i += 2) {
    lines.insert(i, 1, '\r');
  }
  write_file(folder_ / "two/merges.txt", lines);
  EXPECT_EQ(load_tokenizer(folder_ / "two")->checksum(), two->checksum());
}

TEST_F(BytePairs, SpecialTokensStandInPromptsAndNotInText) {
  const auto tokenizer = load();
  const std::string text = "a<|endoftext|>b";
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end_), 0);
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(tokenizer->encode_prompt(text), (Ids{ids_.at("a"), end_, ids_.at("b")}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode_prompt(text)), "ab");
  EXPECT_EQ(tokenizer->bytes_of(end_), "");
}

TEST_F(BytePairs, SpecialTokensTakeTheWhiteSpaceBesideThem) {
  for (const auto& [name, side] :
       {std::pair("<l>", "lstrip"), std::pair("<r>", "rstrip"), std::pair("<b>", "lstrip")}) {
    json token = added(name, end_ + 1 + static_cast<std::int32_t>(name[1] == 'r') +
                                 2 * static_cast<std::int32_t>(name[1] == 'b'));
    token[side] = true;
    token["rstrip"] = name[1] != 'l';
    file_["added_tokens"].push_back(token);
  }
  const auto tokenizer = load(file_);
  const auto joined = [&](std::initializer_list<Ids> parts) {
    Ids all;
    for (const Ids& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
  };
  const auto text = [&](const std::string& words) { return tokenizer->encode(words); };
  const Ids left{end_ + 1}, right{end_ + 2}, both{end_ + 3};
  // U+3000 is white space, U+200B is none.
  const std::string space = " \t\xe3\x80\x80\n", other = "\xe2\x80\x8b";
  EXPECT_EQ(tokenizer->encode_prompt("the" + space + "<l>" + space + "cat"),
            joined({text("the"), left, text(space + "cat")}));
  EXPECT_EQ(tokenizer->encode_prompt("the" + space + "<r>" + space + "cat"),
            joined({text("the" + space), right, text("cat")}));
  EXPECT_EQ(tokenizer->encode_prompt("the" + other + space + "<b>" + space + other),
            joined({text("the" + other), both, text(other)}));
  EXPECT_EQ(tokenizer->encode_prompt(space + "<l>  <l><r> <r>" + space),
            joined({left, left, right, right}));
  EXPECT_EQ(tokenizer->encode_prompt("\x80 <b>"), joined({text("\x80"), both}));
  EXPECT_EQ(tokenizer->decode(text(space + "<b>" + space)), space + "<b>" + space);
  // Others are another tokenizer.
  const std::uint32_t before = tokenizer->checksum();
  file_["added_tokens"].back()["rstrip"] = false;
  EXPECT_NE(load(file_)->checksum(), before);
}

TEST_F(BytePairs, AddedTokensThatAreTextStandInText) {
  file_["added_tokens"].push_back(added("ab", end_ + 1, false));
  file_["added_tokens"].push_back(added("ab ab", end_ + 2, false));
  json normalized = added("bt", end_ + 3, false);
  normalized["normalized"] = true;  // only in what the others leave
  file_["added_tokens"].push_back(normalized);
  const auto tokenizer = load(file_);
  const std::int32_t b = ids_.at("b"), t = ids_.at("t"), s = ids_.at("s");
  EXPECT_EQ(tokenizer->encode("sabt"), (Ids{s, end_ + 1, t}));
  EXPECT_EQ(tokenizer->encode("ab abbt"), (Ids{end_ + 2, end_ + 3}));
  EXPECT_EQ(tokenizer->encode("ab abb"), (Ids{end_ + 2, b}));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("sab ab'abt")), "sab ab'abt");
  EXPECT_EQ(tokenizer->bytes_of(end_ + 2), "ab ab");
  // A cut within "ab ab", or before what may become it, would be one between words.
  EXPECT_EQ(tokenizer->safe_split("s ab ab"), 7u);
  EXPECT_EQ(tokenizer->safe_split("s ab a"), 1u);
  EXPECT_EQ(tokenizer->safe_split("s ab sb"), 4u);
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    while (text.size() < 12) text += "ab ts'"[random() % 6];
    expect_safe_split(*tokenizer, text, {"", "b", "ab", " ab", "t", "'s"});
  }
}

TEST_F(BytePairs, SeveralThreadsEncodeAtOnce) {
  const auto tokenizer = load();
  std::mt19937 random(8);
  const std::string text = bytes_of(random_text(random, 20000));
  const Ids expected = tokenizer->encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (Ids& result : results) {
    threads.emplace_back([&] { result = tokenizer->encode(text); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Ids& result : results) EXPECT_EQ(result, expected);
}

TEST_F(BytePairs, IdsMayBeMissingAmongThoseOfAddedTokens) {
  for (const bool is_in_vocabulary : {false, true}) {
    file_["added_tokens"].push_back(added("<last>", end_ + 20));
    if (is_in_vocabulary) file_["model"]["vocab"]["<last>"] = end_ + 20;
    const auto tokenizer = load(file_);
    EXPECT_EQ(tokenizer->vocabulary(), end_ + 21);
    EXPECT_EQ(tokenizer->encode_prompt("a<last>"), (Ids{ids_.at("a"), end_ + 20}));
    EXPECT_EQ(tokenizer->decode(Ids{end_ + 7, ids_.at("a"), end_ + 20}), "a");
    file_["added_tokens"].erase(1);
  }
}

TEST_F(BytePairs, AWordThatIsATokenIsTakenAsItIs) {
  merges_ = {{"a", "b"}, {" ", "a"}};
  write_files();
  const std::int32_t whole = end_ + 1, fake = end_ + 2;
  file_["model"]["vocab"]["aba"] = whole;
  file_["model"]["vocab"]["<\xc3\xa9\xe4\xb8\xad>"] = fake;  // spells no bytes
  const std::int32_t a = ids_.at("a"), ab = ids_.at("ab"), space = ids_.at(" ");
  const auto merging = load(file_);
  EXPECT_EQ(merging->encode("aba"), (Ids{ab, a}));
  EXPECT_EQ(merging->encode(" aba"), (Ids{space, ab, a}));
  file_["model"]["ignore_merges"] = true;
  const auto ignoring = load(file_);
  EXPECT_EQ(ignoring->encode("aba"), Ids{whole});
  EXPECT_EQ(ignoring->encode("abab aba"), (Ids{ab, ab, space, ab, a}));
  const std::string other = "<\xc3\xa9\xe4\xb8\xad>";
  const Ids as_bytes = ignoring->encode(other);
  EXPECT_EQ(as_bytes, merging->encode(other));
  EXPECT_EQ(std::count(as_bytes.begin(), as_bytes.end(), fake), 0);
  EXPECT_EQ(ignoring->decode(ignoring->encode("aba" + all_bytes())), "aba" + all_bytes());
  EXPECT_NE(ignoring->checksum(), merging->checksum());
}

// ---- normal form C

TEST(NormalForm, IsThatOfUnicode) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", ""},
      {"plain", "plain"},
      {"e\xcc\x81", "\xc3\xa9"},
      {"\xc3\xa9", "\xc3\xa9"},
      {"a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81"},             // the mark below comes first
      {"\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"},  // Hangul
      {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},              // never composed
      {"\xe2\x84\xab", "\xc3\x85"},                              // Angstrom
      {"\xef\xac\x81", "\xef\xac\x81"},                          // a ligature stays
      {"x\xcc\x81", "x\xcc\x81"},                                // there is no such character
      {"e\xff\xcc\x81\xc3", "e\xff\xcc\x81\xc3"},                // a byte between
      {"\xcc\x81\xff"
       "e\xcc\x81\xe2\x82",
       "\xcc\x81\xff\xc3\xa9\xe2\x82"},
  };
  for (const auto& [source, expected] : cases) {
    EXPECT_EQ(Composition(source).text(), expected) << source;
    EXPECT_EQ(is_composed(source), source == expected) << source;
    EXPECT_TRUE(is_composed(expected)) << source;
  }
  const Composition composition(
      "ae\xcc\x81\xff"
      "b");
  EXPECT_EQ(composition.text(),
            "a\xc3\xa9\xff"
            "b");
  EXPECT_EQ(composition.place_in_source(1), 1u);
  EXPECT_EQ(composition.place_in_source(2), std::nullopt);
  EXPECT_EQ(composition.place_in_source(3), 4u);
  EXPECT_EQ(composition.place_in_source(4), 5u);
  EXPECT_EQ(composition.place_in_source(5), 6u);
  EXPECT_TRUE(is_boundary_of_composition("e\xff", 1));
  EXPECT_TRUE(is_boundary_of_composition("ee", 1));
  EXPECT_FALSE(is_boundary_of_composition("e\xcc\x81", 1));
  EXPECT_FALSE(is_boundary_of_composition("\xe1\x84\x92\xe1\x85\xa1", 3));
}

/// Letters with and without marks, in both forms, and what stands between words.
std::string text_with_marks(std::mt19937& random, std::size_t size) {
  const Strings parts = {
      "e", "a",  "\xc3\xa9", "\xcc\x81", "\xcc\xa3",     "\xe1\x84\x92", " ", "  ", "\n", ".", "'s",
      "7", "12", "\xff",     "\xcc",     "\xe1\x85\xa1", "\xed\x95\x9c", "ab"};
  std::string text;
  while (text.size() < size) text += parts[random() % parts.size()];
  return text;
}

TEST_F(BytePairs, TextsAreBroughtIntoNormalForm) {
  merges_ = {{"\xc3", "\xa9"}, {"a", "b"}};
  write_files();
  const auto plain = load();
  file_["normalizer"] = {{"type", "NFC"}};
  const auto tokenizer = load(file_);
  EXPECT_EQ(tokenizer->encode("e\xcc\x81"), Ids{ids_.at("\xc3\xa9")});
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("se\xcc\x81.")), "s\xc3\xa9.");
  EXPECT_EQ(tokenizer->what_is_lost(),
            "'" + (folder_ / "tokenizer.json").string() +
                "' does not give back every text: characters are normalised (NFC)");
  EXPECT_NE(tokenizer->checksum(), plain->checksum());
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all_bytes())), all_bytes());
  std::mt19937 random(12);
  for (std::size_t i = 0; i < 300; ++i) {
    const std::string text = text_with_marks(random, i % 40);
    const Ids ids = tokenizer->encode(text);
    ASSERT_EQ(ids, plain->encode(Composition(text).text()));
    ASSERT_EQ(joined_bytes(*tokenizer, ids), Composition(text).text());
  }
  file_["normalizer"] = sequence("normalizers", {{{"type", "NFC"}}});
  EXPECT_EQ(load(file_)->checksum(), tokenizer->checksum());
  file_["normalizer"] = sequence("normalizers", json::array());
  EXPECT_EQ(load(file_)->checksum(), plain->checksum());
  // Added tokens are found as they are written, or in normal form, as they say.
  file_["normalizer"] = {{"type", "NFC"}};
  file_["added_tokens"].push_back(added("<e\xcc\x81>", end_ + 1, false));
  json normalized = added("[e\xcc\x81]", end_ + 2, false);
  normalized["normalized"] = true;
  file_["added_tokens"].push_back(normalized);
  const auto with_added = load(file_);
  EXPECT_EQ(with_added->encode("<e\xcc\x81>[\xc3\xa9][e\xcc\x81]"),
            (Ids{end_ + 1, end_ + 2, end_ + 2}));
  EXPECT_EQ(with_added->encode("<\xc3\xa9>"), plain->encode("<\xc3\xa9>"));
}

TEST_F(BytePairs, ATextWithMarksCanBeCutWhereSafeSplitSays) {
  file_["normalizer"] = {{"type", "NFC"}};
  file_["added_tokens"].push_back(added("ab.", end_ + 1, false));
  json normalized = added("\xc3\xa9 7", end_ + 2, false);
  normalized["normalized"] = true;
  file_["added_tokens"].push_back(normalized);
  const auto tokenizer = load(file_);
  std::mt19937 random(13);
  int cut = 0;
  for (std::size_t i = 0; i < 1000; ++i) {
    const std::string text = text_with_marks(random, i % 40);
    Strings continuations = {"", "\xcc\x81", ".", "7", "\xe1\x85\xa1", "\x81"};
    for (std::size_t k = 0; k < 3; ++k) continuations.push_back(text_with_marks(random, 1 + 4 * k));
    cut += expect_safe_split(*tokenizer, text, continuations) > 0;
  }
  EXPECT_GT(cut, 500);
  EXPECT_EQ(tokenizer->safe_split("se\xcc\x81. se"), 5u);
}

// ---- patterns of words

#ifdef TOKENS_WITH_PCRE2

constexpr const char* gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
/// Of Llama 3 and, in files made for it, of GPT-4.
constexpr const char* llama_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
/// Of GPT-4o.
constexpr const char* o200k_pattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+)"
    R"([\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Strings pieces_of(const Pattern& pattern, const std::string& text) {
  Pattern::Cutter cutter(pattern);
  cutter.begin(text);
  Strings pieces;
  for (std::string_view piece; cutter.next(piece);) pieces.emplace_back(piece);
  return pieces;
}

TEST(Patterns, TakeTextsApart) {
  const std::string long_s = "\xc5\xbf", thin_space = "\xe2\x80\x89", separator = "\xe1\xa0\x8e";
  const std::vector<Strings> cases = {
      // the pattern, and the pieces of the text
      {llama_pattern},
      {llama_pattern, "I", "'M", " we", "'ll", "'VE", " it", "'" + long_s, " o", "'clock"},
      {llama_pattern, "123", "456", "7", " ", "123", "4\xd9\xa3"},
      {llama_pattern, "a", " ", " b", "  "},
      {llama_pattern, "a", "\n", " ", " b", " \t\n", "\t"},
      {llama_pattern, "a", " \r\n\r\n", " ", " b", "...\r\n\n", "!\n"},
      {llama_pattern, " \xff\xe2\x82\n",
       "\xff"
       "a",
       " .\xff"},
      {llama_pattern, "a", thin_space + "b", " " + thin_space},
      {llama_pattern, "." + separator},  // which \s of PCRE2 is, and no white space of Unicode
      {qwen_pattern, "1", "2", "3", " ", "4"},
      {o200k_pattern, "Hello", "World's",
       " e\xcc\x81"
       "a'LL",
       ".//\n/\n"},
      {"b+", "a", "bb", "a", "b", "\xff"},
      {"(?=b)", "a", "ba", "b"},
      {"b*", "a", "bb", "\xff", "\xc3\xa9", "b"},
      {"^a|$", "a", "a", "\n", "a", "b", "\n"},
      {R"([]\]\-{&(*?+^$.|]+|\{\()", "a", "](&*{", "b", "]-", "c"},
      {R"((?<=a)b\x{62}|\v)", "ba", "bb", "b", "\x0b", "\n"},
      {"a.c", "a\rc", "a\n",
       "a\xff"
       "c"},
  };
  for (const Strings& one : cases) {
    const Pattern pattern(one.front());
    const Strings expected(one.begin() + 1, one.end());
    std::string text;
    for (const std::string& piece : expected) text += piece;
    EXPECT_EQ(pieces_of(pattern, text), expected) << one.front();
  }
}

TEST(Patterns, OfGpt2GiveItsWords) {
  const Pattern pattern(gpt2_pattern);
  std::mt19937 random(14);
  for (std::size_t i = 0; i < 1000; ++i) {
    const Text text = random_text(random, i % 60);
    ASSERT_EQ(pieces_of(pattern, bytes_of(text)), reference_words(text));
  }
}

TEST(Patterns, RefuseWhatMeansSomethingElse) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"(\w+)", "\\w is not supported"},
      {R"([\b])", "\\b is not supported"},
      {R"((a)\1)", "\\1 is not supported"},
      {R"(\pL)", "\\p without braces is not supported"},
      {R"(\p{L)", "\\p without braces is not supported"},
      {R"(\x41)", "\\x without braces is not supported"},
      {R"([a[bc]])", "a set within a set is not supported"},
      {R"([a&&b])", "a set within a set is not supported"},
      {R"((?m:a))", "(?m is not supported"},
      {R"((?<name>a))", "(?< is not supported"},
      {R"((*FAIL))", "(* is not supported"},
      {R"(a{1,3}+)", "{1,3}+ is not supported"},
      {R"(a{2}?)", "{2}? is not supported"},
      {R"(a{,3})", "{ that does not begin a number of times is not supported"},
      {R"(a{})", "{ that does not"},
      {R"(a{1)", "{ that does not"},
      {R"(a|(b)", "PCRE2: missing closing parenthesis, before ''"},
      {R"(a|*b)", "PCRE2: quantifier does not follow a repeatable item, before '*b'"},
      {R"(\p{Nothing}a)", "PCRE2: unknown property"},
      {"\\", "PCRE2: \\ at end of pattern"},
  };
  for (const auto& one : cases) {
    const std::string message =
        message_of<std::runtime_error>([&] { const Pattern refused(one.first); });
    EXPECT_TRUE(contains(message, one.second)) << one.first;
  }
}

TEST(Patterns, ThatTakeTooManyStepsAreAnError) {
  const Pattern pattern("(?:a|aa)+c|(?:a+)+b");
  const std::string text(60, 'a');
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { pieces_of(pattern, text); }),
                       "the pattern '(?:a|aa)+c|(?:a+)+b' cannot take a text of 60 bytes apart: "
                       "match limit exceeded"));
}

TEST_F(BytePairs, WordsMayBeThoseOfPatterns) {
  const auto words = load();
  file_["pre_tokenizer"] = with_patterns({split(gpt2_pattern)});
  const auto pattern = load(file_);
  file_["pre_tokenizer"] = with_patterns({split(gpt2_pattern, "Removed", true)});  // as GPT-4's are
  const auto inverted = load(file_);
  file_["pre_tokenizer"] = with_patterns({split(R"(\n+)"), split("t")}, true);
  const auto both = load(file_);
  std::mt19937 random(15);
  for (std::size_t i = 0; i < 500; ++i) {
    const std::string text = bytes_of(random_text(random, i % 60));
    const Ids ids = pattern->encode(text);
    ASSERT_EQ(ids, words->encode(text));
    ASSERT_EQ(inverted->encode(text), ids);
    ASSERT_EQ(joined_bytes(*pattern, ids), text);
    // Each pattern, and then GPT-2's words, see nothing but the piece.
    Ids expected;
    for (const std::string& line : pieces_of(Pattern(R"(\n+)"), text)) {
      for (const std::string& piece : pieces_of(Pattern("t"), line)) {
        expected = expected + words->encode(piece);
      }
    }
    ASSERT_EQ(both->encode(text), expected);
  }
  EXPECT_EQ(pattern->decode(pattern->encode(all_bytes())), all_bytes());
  EXPECT_EQ(pattern->what_is_lost(), "");
  EXPECT_EQ(pattern->encode_prompt("a<|endoftext|>b"), (Ids{ids_.at("a"), end_, ids_.at("b")}));
  EXPECT_NE(pattern->checksum(), words->checksum());
  EXPECT_NE(pattern->checksum(), both->checksum());
  EXPECT_EQ(pattern->checksum(), inverted->checksum());
}

TEST_F(BytePairs, ATextCanBeCutWhereSafeSplitSaysOfPatterns) {
  file_["added_tokens"].push_back(added("ab", end_ + 1, false));
  file_["added_tokens"].push_back(added("ab 7", end_ + 2, false));
  json normalized = added("\xc3\xa9 ", end_ + 3, false);
  normalized["normalized"] = true;
  file_["added_tokens"].push_back(normalized);
  std::mt19937 random(16);
  for (const bool composes : {false, true}) {
    file_["normalizer"] = composes ? json{{"type", "NFC"}} : json();
    for (const char* expression : {gpt2_pattern, llama_pattern, qwen_pattern, o200k_pattern}) {
      file_["pre_tokenizer"] = with_patterns({split(expression)});
      const auto tokenizer = load(file_);
      int cut = 0;
      for (std::size_t i = 0; i < 300; ++i) {
        const bool has_marks = composes || i % 2 == 0;
        const auto draw = [&](std::size_t size) {
          return has_marks ? text_with_marks(random, size) : bytes_of(random_text(random, size));
        };
        Strings continuations = {"", "'s", "\x80", "\n", " ", "7", "\xcc\x81", "."};
        for (std::size_t k = 1; k < 4; ++k) continuations.push_back(draw(2 * k));
        cut += expect_safe_split(*tokenizer, draw(i % 30), continuations) > 0;
      }
      EXPECT_GT(cut, 150) << expression << composes;
    }
  }
  file_["normalizer"] = nullptr;
  file_["added_tokens"] = json::array();
  // Long texts, at the ends of which there may be no place; words that look far ahead.
  for (const char* expression : {llama_pattern, R"([^.]*\.\n|.|\n)"}) {
    file_["pre_tokenizer"] = with_patterns({split(expression)});
    const auto tokenizer = load(file_);
    for (std::size_t i = 0; i < 30; ++i) {
      std::string text = text_with_marks(random, 1 + random() % 7000);
      text += std::string(random() % 2 == 0 ? random() % 5000 : 0, "a \n."[random() % 4]);
      const std::size_t p = expect_safe_split(*tokenizer, text, {"", ".\n", "a"});
      if (text.size() > 9000 && expression == llama_pattern) {
        EXPECT_GT(p, 0u);
      }
    }
  }
  const auto safe_split = [&](const char* expression, const std::string& text) {
    file_["pre_tokenizer"] = with_patterns({split(expression)});
    return load(file_)->safe_split(text);
  };
  EXPECT_EQ(safe_split(llama_pattern, "the rest of it"), 11u);
  EXPECT_EQ(safe_split(llama_pattern, "the rest 123"), 12u);  // no word has more digits
  EXPECT_EQ(safe_split(llama_pattern, "the rest 12"), 9u);
  EXPECT_EQ(safe_split(llama_pattern, "the rest\n\n"), 8u);
  EXPECT_EQ(safe_split(llama_pattern, std::string(100, ' ')), 0u);
  EXPECT_EQ(safe_split(llama_pattern, ""), 0u);
  // "ab" is a word as long as y follows, which a cut behind c would take away.
  merges_ = {{"a", "b"}};
  write_files();
  file_["pre_tokenizer"] = with_patterns({split("ab(?=[^y]*y)|c(?=[^z]*z)|[syz]+|.")});
  const auto looking_ahead = load(file_);
  const auto s = [](std::size_t count) { return std::string(count, 's'); };
  EXPECT_EQ(
      expect_safe_split(*looking_ahead,
                        "ab" + std::string(300, 'x') + "c" + s(40) + "y" + s(60) + "z" + s(2040),
                        {"", "y"}),
      0u);
  // What looks back could see another text behind a cut.
  EXPECT_EQ(safe_split("b+", "abbab"), 3u);
  EXPECT_EQ(safe_split("(?<!a)b+", "abbab"), 0u);
  EXPECT_EQ(safe_split("^b+", "bba"), 0u);
}

#endif

TEST_F(BytePairs, RefusesOtherFilesWithOneLine) {
  struct Case {
    std::function<void(json&)> change;
    std::string part;
  };
  const auto set = [](const char* pointer, json value) {
    return [pointer, value](json& file) { file[json::json_pointer(pointer)] = value; };
  };
  const std::vector<Case> cases = {
      {set("/model/type", "WordPiece"), "has the model 'WordPiece', which is not supported"},
      {set("/model", nullptr), "has the model 'null'"},
      {set("/normalizer", {{"type", "NFKC"}}),
       "has the normalizer 'NFKC', which is not supported; allowed: null, NFC"},
      {set("/normalizer", {{"type", "Sequence"}}), "has no normalizer.normalizers"},
      {set("/normalizer", sequence("normalizers", {{{"type", "NFC"}}, {{"type", "Strip"}}})),
       "has the normalizer.normalizers[1] 'Strip', which is not supported"},
      {set("/normalizer", "NFC"), "has the normalizer 'without a type'"},
      {set("/pre_tokenizer", {{"type", "Whitespace"}}), "has the pre_tokenizer 'Whitespace'"},
      {set("/pre_tokenizer", {{"type", "Sequence"}}), "has no pre_tokenizer.pretokenizers"},
      {set("/pre_tokenizer", sequence("pretokenizers", json::array())),
       "has the pre_tokenizer 'Sequence' without a ByteLevel behind it"},
      {set("/pre_tokenizer", split("a")),
       "has the pre_tokenizer 'Split' without a ByteLevel behind it, which is not supported; "
       "allowed: a Sequence of Split and ByteLevel"},
      {set("/pre_tokenizer", sequence("pretokenizers", {split("a"), split("b")})),
       "has the pre_tokenizer.pretokenizers[1] 'Split', which is not supported; allowed: "
       "ByteLevel"},
      {set("/pre_tokenizer", with_patterns({{{"type", "Digits"}}})),
       "has the pre_tokenizer.pretokenizers[0] 'Digits', which is not supported; allowed: Split"},
      {set("/pre_tokenizer", with_patterns({split("a", "MergedWithNext")})),
       "has pre_tokenizer.pretokenizers[0].behavior = \"MergedWithNext\", which is not supported; "
       "allowed: \"Isolated\""},
      {set("/pre_tokenizer", with_patterns({split("a", "Removed")})),
       "has pre_tokenizer.pretokenizers[0].behavior = \"Removed\""},
      {set("/pre_tokenizer", with_patterns({split("a", "Contiguous", true)})),
       "has pre_tokenizer.pretokenizers[0].behavior = \"Contiguous\""},
      {set("/pre_tokenizer", with_patterns({split("a", "Isolated", 5)})),
       "has pre_tokenizer.pretokenizers[0].invert = 5"},
      {set("/pre_tokenizer", with_patterns({split(5)})),
       "has pre_tokenizer.pretokenizers[0].pattern = {\"Regex\":5}, which is not supported; "
       "allowed: a Regex"},
      {set("/pre_tokenizer",
           with_patterns({{{"type", "Split"}, {"behavior", "Isolated"}, {"pattern", "a"}}})),
       "has pre_tokenizer.pretokenizers[0].pattern = \"a\""},
      {set("/pre_tokenizer", with_patterns({split("(a")})),
       "has pre_tokenizer.pretokenizers[0].pattern.Regex = '(a', which is not supported: "},
      {set("/pre_tokenizer/add_prefix_space", nullptr), "pre_tokenizer.add_prefix_space = null"},
      {set("/pre_tokenizer", nullptr), "has the pre_tokenizer 'null'"},
      {set("/pre_tokenizer/add_prefix_space", true), "has pre_tokenizer.add_prefix_space = true"},
      {set("/pre_tokenizer/use_regex", false), "has pre_tokenizer.use_regex = false"},
      {set("/decoder", {{"type", "Metaspace"}}), "has the decoder 'Metaspace'"},
      {set("/model/dropout", 0.1),
       "has model.dropout = 0.1, which is not supported; allowed: null"},
      {set("/model/end_of_word_suffix", "</w>"), "has model.end_of_word_suffix = \"</w>\""},
      {set("/model/continuing_subword_prefix", "##"), "has model.continuing_subword_prefix"},
      {set("/model/byte_fallback", true), "has model.byte_fallback = true"},
      {set("/model/ignore_merges", 5), "has model.ignore_merges = 5"},
      {[](json& file) { file["model"].erase("vocab"); }, "has no model.vocab"},
      {[](json& file) { file["model"].erase("merges"); }, "has no model.merges"},
      {set("/model/merges", 5), "has no model.merges"},
      {set("/model/merges/3", 5), "has '5' as merge 4; allowed: two tokens"},
      {set("/model/merges/3", "ab"), "has 'ab' as merge 4; allowed: two tokens with a space"},
      {set("/model/merges/3", "a b c"), "has 'a b c' as merge 4"},
      {set("/model/merges/3", {"a", "b", "c"}), "as merge 4"},
      {set("/model/merges/3", "a xyz"), "has the merge 4 of 'a' and 'xyz', but no token 'xyz'"},
      {set("/model/merges/3", "! !"), "but no token '!!'"},
      {[](json& file) { file["model"]["merges"][3] = file["model"]["merges"][0]; }, "twice"},
      {set("/model/vocab/a", -1), "has the id -1 for the token 'a'; allowed: whole numbers from 0"},
      {set("/model/vocab/a", "x"), "has the id \"x\" for the token 'a'"},
      {set("/model/vocab/a", 97.5), "has the id 97.5"},
      {set("/model/vocab/a", 1e300), "has the id 1e+300"},
      {set("/model/vocab/a", 98), "gives the id 98 to 'a' and to 'b'"},
      {set("/model/vocab/a", 60'000'000), "tokens and the id 60000000: there are holes"},
      {[](json& file) { file["model"]["vocab"].erase("a"); },
       "has no token with the id 97, but one with 406"},
      {set("/model/vocab", json::object()), "has no token for the byte 0, which is spelled"},
      {[](json& file) { file["model"]["vocab"].erase("a"), file["model"]["vocab"]["zzz"] = 97; },
       "has no token for the byte 97, which is spelled 'a'"},
      {[](json& file) { file["model"]["vocab"].erase("a"), file["model"]["vocab"][""] = 97; },
       "has a token without a name"},
      {set("/added_tokens", 5), "has added_tokens that are no list"},
      {set("/added_tokens/0", 5), "has an added token without content: '5'"},
      {set("/added_tokens/0/content", ""), "has an added token without content"},
      {set("/added_tokens/0/id", 5), "gives the id 5 to the added token '<|endoftext|>' and to"},
      {set("/added_tokens/0/id", nullptr), "has the id null for the token '<|endoftext|>'"},
      {set("/added_tokens/0/id", 4503), "has no token with the id 4502, but one with 4503"},
      {[](json& file) {
         file["added_tokens"][0].update({{"lstrip", true}, {"special", false}});
       },
       "the added token '<|endoftext|>' with lstrip, which is not supported of tokens that are "
       "not"},
      {set("/added_tokens/0/single_word", true), "with single_word"},
      {set("/added_tokens/0/content", "a"), "with the id 406, and in the vocabulary with 97"},
      {[](json& file) { file["added_tokens"].push_back(file["added_tokens"][0]); },
       "has the added token '<|endoftext|>' twice"},
  };
  const fs::path path = folder_ / "tokenizer.json";
  for (const Case& one : cases) {
    json file = file_;
    one.change(file);
    const std::string message = message_of<std::runtime_error>([&] { load(file); });
    EXPECT_TRUE(contains(message, one.part));
    EXPECT_TRUE(message.starts_with("'" + path.string() + "' has ") ||
                message.starts_with("'" + path.string() + "' gives "))
        << message;
  }
  const std::string good = file_.dump();
  const std::vector<std::pair<std::string, std::string>> texts = {
      {"", "is not a JSON object"},
      {good.substr(0, good.size() / 2), "is not JSON"},
      {"[1]", "is not a JSON object"},
      {"{\"model\": \"\xff\"}", "is not UTF-8: byte 11"},
      {"{\"a\": 1, \"a\": 2}", "has the key 'a' twice"},
      {"{}", "has the model 'null'"},
  };
  for (const auto& [text, part] : texts) {
    write_file(path, text);
    const std::string message = message_of<std::runtime_error>([&] { load(); });
    EXPECT_TRUE(contains(message, "'" + path.string() + "' " + part));
  }
}

TEST_F(BytePairs, RefusesOtherMergesWithOneLine) {
  const fs::path merges = folder_ / "two/merges.txt", vocabulary = folder_ / "two/vocab.json";
  const auto message = [&] {
    return message_of<std::runtime_error>([&] { load_tokenizer(folder_ / "two"); });
  };
  const std::string good = reformer::test::read_file(merges);
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {good + "ab\n", "has 'ab' as merge 151"},
           {good + "\n\na b\n", "has '' as merge 151"},
           {good + "a b c\n", "has 'a b c' as merge 151"},
           {good + " b\n", "has ' b' as merge 151"},
           {good + "\xff b\n", "is not UTF-8"}}) {
    write_file(merges, text);
    EXPECT_TRUE(contains(message(), "'" + merges.string() + "' " + part));
  }
  write_file(merges, good + "! !\n");
  EXPECT_TRUE(contains(message(), "'" + vocabulary.string() +
                                      "' has the merge 151 of '!' and '!', "
                                      "but no token '!!'"));
  fs::remove(merges);
  EXPECT_TRUE(contains(message(), "takes 'merges.txt' beside it, which is missing"));
  write_file(merges, good);
  write_file(vocabulary, "{\"a\": 0");
  EXPECT_TRUE(contains(message(), "'" + vocabulary.string() + "' is not JSON"));
  write_file(vocabulary, "{}");
  EXPECT_TRUE(contains(message(), "has no token for the byte 0"));
}

#endif

// ---- sentencepiece

#ifdef TOKENS_WITH_SENTENCEPIECE

/// Lines with words that come again.
std::string sample_text() {
  const Strings words = {"the",     "model", "reads", "bytes", "and",
                         "writes",  "them",  "again", "  in",  "\xc3\xa9t\xc3\xa9",
                         "(order)", "12"};
  std::mt19937 random(9);
  std::string text;
  for (int line = 0; line < 400; ++line) {
    for (std::size_t i = random() % 12; i > 0; --i) {
      text += words[random() % words.size()];
      text += i > 1 ? " " : "";
    }
    text += '\n';
  }
  return text;
}

class Sentencepiece : public testing::TestWithParam<PieceModel> {
 protected:
  /// A model as `spm_train` makes it.
  fs::path given(std::unordered_map<std::string, std::string> more) const {
    more.insert({{"model_type", GetParam() == PieceModel::bpe ? "bpe" : "unigram"},
                 {"minloglevel", "4"},
                 {"num_threads", "1"}});
    std::istringstream text(sample_text());
    struct Lines : sentencepiece::SentenceIterator {
      explicit Lines(std::istream& from) : text(from) { Next(); }
      bool done() const override { return !text; }
      void Next() override { std::getline(text, line); }
      const std::string& value() const override { return line; }
      sentencepiece::util::Status status() const override { return {}; }
      std::istream& text;
      std::string line;
    } lines(text);
    std::string model;
    EXPECT_TRUE(sentencepiece::SentencePieceTrainer::Train(more, &lines, &model).ok());
    write_file(folder_ / "given.model", model);
    return folder_ / "given.model";
  }
  fs::path learned(std::int32_t vocabulary = 300) const {
    VocabularyTrainer trainer({.vocabulary = vocabulary, .model = GetParam()});
    trainer.add(sample_text());
    trainer.train(folder_ / "learned.model");
    return folder_ / "learned.model";
  }
  /// Line by line, as `spm_encode` does it.
  static Ids reference(const fs::path& path, const std::string& text, std::int32_t line_end) {
    sentencepiece::SentencePieceProcessor processor;
    EXPECT_TRUE(processor.Load(path.string()).ok());
    std::istringstream lines(text);
    Ids ids;
    for (std::string line; std::getline(lines, line);) {
      const auto pieces = processor.EncodeAsIds(line);
      ids.insert(ids.end(), pieces.begin(), pieces.end());
      if (line_end >= 0 && !lines.eof()) ids.push_back(line_end);
    }
    return ids;
  }

  TemporaryFolder folder_;
};

TEST_P(Sentencepiece, ALearnedVocabularyGivesBackEveryByte) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  std::unique_ptr<Tokenizer> tokenizer;
  EXPECT_NO_THROW(tokenizer = load_tokenizer(learned()));
  EXPECT_EQ(testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr(), "");
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocabulary(), 300);
  EXPECT_EQ(tokenizer->what_is_lost(), "");
  std::mt19937 random(10);
  for (std::size_t i = 0; i < 500; ++i) {
    std::string text = bytes_of(random_text(random, i % 50));
    text += sample_text().substr(random() % 1000, random() % 100);
    if (i % 3 == 0) text += "\xe2\x96\x81\xe2\x96\x85 </s><unk>\r\n\t";
    const Ids ids = tokenizer->encode(text);
    ASSERT_EQ(tokenizer->decode(ids), text);
    ASSERT_EQ(joined_bytes(*tokenizer, ids), text);
    const std::size_t p = expect_safe_split(*tokenizer, text, {"", "a", " b", "\n"});
    ASSERT_EQ(p, text.rfind('\n') + 1);
    const auto end = tokenizer->end_of_document();
    ASSERT_TRUE(end);
    ASSERT_EQ(std::count(ids.begin(), ids.end(), *end), 0);
    ASSERT_EQ(tokenizer->decode(Ids{*end, -1, 300} + ids), text);
  }
  // The words have become tokens.
  const std::string text = sample_text();
  EXPECT_LT(tokenizer->encode(text).size(), text.size() * 2 / 3);
  EXPECT_EQ(tokenizer->encode(text),
            reference(folder_ / "learned.model", text, tokenizer->encode("\n").at(0)));
  EXPECT_EQ(tokenizer->encode(""), Ids());
}

TEST_P(Sentencepiece, GivenModelsHaveTheTokensOfTheirTool) {
  const std::string text =
      sample_text() + "  two  spaces \xef\xac\x81 \xe2\x96\x81 \xff unknown: \xd0\x96\n\n end";
  const fs::path path = given({{"vocab_size", "45"}});
  const auto tokenizer = load_tokenizer(path);
  EXPECT_EQ(tokenizer->encode(text), reference(path, text, -1));
  EXPECT_EQ(tokenizer->what_is_lost(),
            "'" + path.string() +
                "' does not give back every text: characters are normalised (nmt_nfkc); spaces at "
                "the ends of lines and after spaces are left out; so are ends of lines; characters "
                "without a piece become \"unknown\"");
  EXPECT_NE(tokenizer->what_is_lost(), "");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" the  model")), "the model");
  EXPECT_EQ(tokenizer->files(), std::vector<fs::path>{path});
  // Copied into a folder it is found there, unless there is another.
  fs::create_directories(folder_ / "copy");
  fs::copy(path, folder_ / "copy");
  EXPECT_EQ(load_tokenizer(folder_ / "copy")->checksum(), tokenizer->checksum());
  write_file(folder_ / "copy/other.model", "");
  EXPECT_FALSE(has_tokenizer(folder_ / "copy"));
  EXPECT_EQ(tokenizer->description(), GetParam() == PieceModel::bpe
                                          ? "sentencepiece (BPE), 45 tokens"
                                          : "sentencepiece (unigram), 45 tokens");
  // As LLaMA's: a space before each line, and a byte for its end.
  const fs::path spaced = given({{"vocab_size", "300"},
                                 {"byte_fallback", "true"},
                                 {"normalization_rule_name", "identity"},
                                 {"remove_extra_whitespaces", "false"}});
  const auto bytes = load_tokenizer(spaced);
  const Ids line_end = bytes->encode("\n");
  ASSERT_EQ(line_end.size(), 1u);
  EXPECT_EQ(bytes->bytes_of(line_end[0]), "\n");
  EXPECT_EQ(bytes->encode(text), reference(spaced, text, line_end[0]));
  const std::string clean = "  a the  model \n\n \xd0\x96 in\nbytes\n";
  EXPECT_EQ(bytes->decode(bytes->encode(clean)), clean);
  EXPECT_TRUE(contains(bytes->what_is_lost(), "every text: bytes that are no UTF-8"));
  EXPECT_NE(bytes->checksum(), tokenizer->checksum());
}

TEST_P(Sentencepiece, LearningDependsOnTextAlone) {
  const auto file = [&] { return reformer::test::read_file(learned()); };
  const std::string model = file();
  EXPECT_EQ(file(), model);
  VocabularyTrainer trainer({.vocabulary = 300, .model = GetParam()});
  const std::string text = sample_text();
  for (std::size_t i = 0; i < text.size(); i += 7) trainer.add(text.substr(i, 7));
  trainer.train(folder_ / "pieces.model");
  EXPECT_TRUE(reformer::test::read_file(folder_ / "pieces.model") == model);
  // A sample, of one endless line with bytes that are no text, is enough.
  VocabularyTrainer sampled({.vocabulary = 300, .model = GetParam(), .sample_bytes = 30'000});
  for (int i = 0; i < 20; ++i) {
    std::string line = text;
    std::replace(line.begin(), line.end(), '\n', i % 2 == 0 ? '\xff' : ' ');
    sampled.add(line);
  }
  sampled.train(folder_ / "sampled.model");
  EXPECT_LT(load_tokenizer(folder_ / "sampled.model")->encode(text).size(), text.size() * 2 / 3);
}

TEST_P(Sentencepiece, LearningThatFailsLeavesTheFile) {
  const auto refuse = [&](std::int32_t vocabulary, const std::string& text,
                          const std::string& part) {
    write_file(folder_ / "kept.model", "old");
    VocabularyTrainer trainer({.vocabulary = vocabulary, .model = GetParam()});
    trainer.add(text);
    EXPECT_TRUE(contains(
        message_of<std::runtime_error>([&] { trainer.train(folder_ / "kept.model"); }), part));
    EXPECT_EQ(reformer::test::read_file(folder_ / "kept.model"), "old");
    EXPECT_EQ(folder_.names(), Strings{"kept.model"});
  };
  refuse(300, "", "cannot learn a vocabulary of 300: there is no text");
  refuse(300, "\n\xff\n\t\xe2\x96\x81", "there is no text");
  refuse(300, "a", "cannot learn a vocabulary of 300: ");
  refuse(50'000, sample_text(), "Vocabulary size");
  refuse(100, sample_text(), "ocabulary size");
  refuse(0, sample_text(), "cannot learn a vocabulary of 0: ");
  refuse(-5, sample_text(), "cannot learn a vocabulary of -5: ");
  const reformer::test::FileSizeLimit full(100);
  VocabularyTrainer trainer({.vocabulary = 300, .model = GetParam()});
  trainer.add(sample_text());
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { trainer.train(folder_ / "kept.model"); }),
               "kept.model': File too large; the previous file is unchanged"));
  EXPECT_EQ(folder_.names(), Strings{"kept.model"});
}

INSTANTIATE_TEST_SUITE_P(Kinds, Sentencepiece,
                         testing::Values(PieceModel::unigram, PieceModel::bpe));

#endif

// ---- places without a tokenizer

TEST(LoadTokenizer, RefusesOtherPlacesWithOneLine) {
  const TemporaryFolder folder;
  write_file(folder / "empty.model", "");
  write_file(folder / "text.model", "This is a text and no model at all.");
  write_file(folder / "text.txt", "text");
  fs::create_directories(folder / "nothing");
  fs::create_directories(folder / "broken");
  write_file(folder / "broken/spiece.model", std::string("\x0a\x0e\x0a\x05<unk>", 9));
  fs::create_directories(folder / "alone");
  write_file(folder / "alone/vocab.json", "{}");
  fs::create_directories(folder / "folder.model");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"none", "is not there; allowed for tokens: the word 'bytes', a sentencepiece model"},
      {"none/spiece.model", "is not there"},
      {"nothing", "is a folder without a tokenizer; allowed for tokens: the word 'bytes'"},
      {"folder.model", "is a folder without a tokenizer"},
      {"text.txt", "has the name of no tokenizer; allowed"},
      {"text.txt/below", "is not there"},
      {"alone", "takes 'merges.txt' beside it, which is missing"},
#ifdef TOKENS_WITH_SENTENCEPIECE
      {"empty.model", "is no model of sentencepiece"},
      {"text.model", "is no model of sentencepiece"},
      {"broken", "is no model of sentencepiece"},
#endif
  };
  testing::internal::CaptureStderr();
  for (const auto& [name, part] : cases) {
    const fs::path place = folder / name;
    const std::string message = message_of<std::runtime_error>([&] { load_tokenizer(place); });
    EXPECT_TRUE(contains(message, part));
    EXPECT_TRUE(contains(message, "'" + place.string()));
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_TRUE(contains(message_of<std::runtime_error>([] { load_tokenizer(""); }), "''"));
  EXPECT_FALSE(has_tokenizer(folder / "nothing"));
}

}  // namespace
}  // namespace tokens
