// SPDX-License-Identifier: MIT
#include "training/words.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace training::test {
namespace {

TEST(Words, GroupsDigits) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(12345678), "12,345,678");
  EXPECT_EQ(grouped(-123), "-123");
  EXPECT_EQ(grouped(-1234), "-1,234");
}

TEST(Words, QuotesForAShellWhatNeedsIt) {
  EXPECT_EQ(shell_word("runs/quick-1"), "runs/quick-1");
  EXPECT_EQ(shell_word("my runs"), "'my runs'");
  EXPECT_EQ(shell_word("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_word("$HOME"), "'$HOME'");
  EXPECT_EQ(shell_word(""), "''");
}

TEST(Words, PrintsOnlyWhatATerminalCanBear) {
  const std::vector<std::uint8_t> bytes{'a', ' ', '~', '\n', '\t', 0, 0x1b, 0x7f, 0xc3, 0xa9};
  EXPECT_EQ(printable(bytes), "a ~\n\\x09\\x00\\x1b\\x7f\\xc3\\xa9");
}

}  // namespace
}  // namespace training::test
