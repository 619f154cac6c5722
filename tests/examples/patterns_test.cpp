// SPDX-License-Identifier: MIT
/// Normal forms, and words that are those of patterns.

#include <gtest/gtest.h>

#include <random>

#include "examples/tokens.hpp"
#include "tokens/normal_form.hpp"
#include "tokens/pattern.hpp"

namespace tokens::test {
namespace {

#ifdef TOKENS_WITH_ICU

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
  file_["normalizer"] = sequence("normalizers", {});
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

#endif

}  // namespace
}  // namespace tokens::test
