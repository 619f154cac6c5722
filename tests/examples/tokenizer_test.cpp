// SPDX-License-Identifier: MIT
/// Tokens that are bytes, and places without a tokenizer.
#include "tokens/tokenizer.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "examples/tokens.hpp"

namespace tokens::test {
namespace {

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
}  // namespace tokens::test
