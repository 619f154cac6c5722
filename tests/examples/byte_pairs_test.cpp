// SPDX-License-Identifier: MIT
/// Byte-level BPE, against its definition.

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>
#include <thread>

#include "examples/tokens.hpp"
#include "tokens/words.hpp"

namespace tokens::test {
namespace {

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
      {set("/pre_tokenizer", sequence("pretokenizers", {})),
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

}  // namespace
}  // namespace tokens::test
