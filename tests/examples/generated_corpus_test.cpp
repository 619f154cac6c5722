// SPDX-License-Identifier: MIT
#include "enwik8/generated_corpus.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "reformer/io/checksum.hpp"

namespace enwik8::test {
namespace {

std::uint32_t crc_of(const std::vector<std::uint8_t>& bytes) {
  return reformer::crc32(std::as_bytes(std::span(bytes)));
}

TEST(GeneratedCorpus, IsTheSameEverywhere) {
  // Any change of these numbers changes the results of everyone who trains without enwik8.
  EXPECT_EQ(crc_of(generate_corpus()), 4124365810u);
  EXPECT_EQ(crc_of(generate_corpus(1, 100'000)), 1012947648u);
}

TEST(GeneratedCorpus, HasTheSizeAskedForAndPrefixesAgree) {
  const auto large = generate_corpus(3, 50'000);
  EXPECT_EQ(large.size(), 50'000u);
  const auto small = generate_corpus(3, 12'345);
  ASSERT_EQ(small.size(), 12'345u);
  EXPECT_TRUE(std::equal(small.begin(), small.end(), large.begin()));
  EXPECT_TRUE(generate_corpus(3, 0).empty());
  EXPECT_NE(generate_corpus(4, 50'000), large);
}

TEST(GeneratedCorpus, LooksLikeMediaWiki) {
  const auto bytes = generate_corpus();
  const std::string text(bytes.begin(), bytes.end());
  for (const char* markup : {"<title>", "<timestamp>", "[[", "''", "'''", "==", "\n* ", "{{Infobox",
                             "{|", "&lt;ref", "&quot;", "[[Category:", "#REDIRECT [["}) {
    EXPECT_NE(text.find(markup), std::string::npos) << markup;
  }
}

TEST(GeneratedCorpus, WordFrequenciesFallAsInRealText) {
  const auto bytes = generate_corpus();
  std::map<std::string, std::size_t> counts;
  std::string word;
  std::size_t total = 0;
  for (const std::uint8_t byte : bytes) {
    if (byte >= 'a' && byte <= 'z') {
      word += static_cast<char>(byte);
    } else if (!word.empty()) {
      ++counts[word];
      ++total;
      word.clear();
    }
  }
  std::vector<std::size_t> sorted;
  for (const auto& [ignored, count] : counts) {
    sorted.push_back(count);
  }
  std::sort(sorted.rbegin(), sorted.rend());
  EXPECT_GT(counts.size(), 10'000u);
  EXPECT_GT(sorted[0], total / 50) << "the commonest word is common";
  // One over the rank, within a factor of three over two orders of magnitude.
  EXPECT_GT(sorted[20] * 21 * 3, sorted[200] * 201);
  EXPECT_LT(sorted[20] * 21, sorted[200] * 201 * 3);
}

TEST(GeneratedCorpus, NamesRecurFarAwayWithinAPage) {
  // Of the names linked in the last quarter of a long page, most stood in its first half already.
  const auto bytes = generate_corpus();
  const std::string text(bytes.begin(), bytes.end());
  std::size_t recurring = 0;
  std::size_t all = 0;
  for (std::size_t begin = text.find("<page>"); begin != std::string::npos;) {
    const std::size_t end = text.find("<page>", begin + 1);
    const std::string page = text.substr(begin, end - begin);
    if (page.size() > 6000 && end != std::string::npos) {
      const std::string_view first_half = std::string_view(page).substr(0, page.size() / 2);
      for (std::size_t at = page.find("\n* [[", page.size() * 3 / 4); at != std::string::npos;
           at = page.find("\n* [[", at + 1)) {
        const std::size_t name = at + 5;
        ++all;
        recurring += first_half.find(page.substr(name, page.find("]]", name) - name)) !=
                     std::string_view::npos;
      }
    }
    begin = end;
  }
  EXPECT_GT(all, 500u);
  EXPECT_GT(recurring * 2, all);
}

}  // namespace
}  // namespace enwik8::test
