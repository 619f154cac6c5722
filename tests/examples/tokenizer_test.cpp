// SPDX-License-Identifier: MIT
/// Text to tokens and back.
#include "tokens/tokenizer.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace tokens {
namespace {

std::string all_bytes() {
  std::string bytes(256, '\0');
  std::iota(bytes.begin(), bytes.end(), '\0');
  return bytes;
}

TEST(ByteTokenizer, TakesEveryByte) {
  const ByteTokenizer bytes(2);
  const auto encoded = bytes.encode(all_bytes());
  EXPECT_EQ(encoded.front(), 2);
  EXPECT_EQ(encoded.back(), 257);
  EXPECT_EQ(bytes.vocabulary(), 258);
  EXPECT_EQ(bytes.decode(encoded), all_bytes());
  EXPECT_EQ(bytes.decode(std::vector<std::int32_t>{-1, 0, 'a' + 2, 1, 258}), "a");
  EXPECT_EQ(bytes.bytes_of('a' + 2), "a");
  EXPECT_EQ(bytes.bytes_of(1), "");
  EXPECT_EQ(bytes.safe_split("abc"), 3u);
  EXPECT_TRUE(bytes.is_lossless());
  EXPECT_NE(bytes.checksum(), ByteTokenizer().checksum());
  EXPECT_EQ(load_tokenizer("bytes")->checksum(), ByteTokenizer().checksum());
  EXPECT_EQ(load_tokenizer("bytes")->vocabulary(), 256);
}

}  // namespace
}  // namespace tokens
