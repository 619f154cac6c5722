// SPDX-License-Identifier: MIT
#include "data/token_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "data/encode.hpp"
#include "examples/support.hpp"
#include "reformer/io/checksum.hpp"

namespace data::test {
namespace {

namespace fs = std::filesystem;
using namespace reformer::test;

/// A token for each word with the space before it, so that it matters where a text is cut.
class Words : public tokens::Tokenizer {
 public:
  explicit Words(std::int32_t vocabulary = 1000) : vocabulary_(vocabulary) {}
  std::int32_t vocabulary() const override { return vocabulary_; }
  std::optional<std::int32_t> end_of_document() const override { return vocabulary_ - 1; }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> tokens;
    while (!text.empty()) {
      const std::string_view word = text.substr(0, text.find(' ', 1));
      tokens.push_back(static_cast<std::int32_t>(reformer::crc32(word) %
                                                 static_cast<std::uint32_t>(vocabulary_ - 1)));
      text.remove_prefix(word.size());
    }
    return tokens;
  }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::string bytes_of(std::int32_t) const override { return {}; }
  std::size_t safe_split(std::string_view text) const override {
    const std::size_t space = text.rfind(' ');
    return space == text.npos ? 0 : space;
  }
  std::string description() const override { return "words"; }
  std::uint32_t checksum() const override { return static_cast<std::uint32_t>(vocabulary_); }

 private:
  std::int32_t vocabulary_;
};

/// Words of up to 20 letters.
std::string sentences(std::size_t size, std::uint32_t seed) {
  std::string text(size, ' ');
  for (char& c : text) {
    seed = seed * 1664525 + 1013904223;
    c = seed >> 24 < 25 ? ' ' : static_cast<char>('a' + (seed >> 20) % 26);
  }
  return text;
}

TokenProgress after(std::int64_t documents, std::int64_t bytes) {
  TokenProgress progress;
  progress.documents = documents;
  progress.source_bytes = bytes;
  return progress;
}

void write_tokens(const fs::path& file, const tokens::Tokenizer& tokenizer,
                  const std::vector<std::int32_t>& tokens) {
  TokenWriter writer = TokenWriter::start(file, header_for(tokenizer));
  writer.append(tokens, after(2, 100));
  writer.finish();
}

std::vector<std::int32_t> tokens_in(const TokenFile& file) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.size()));
  file.read(0, tokens);
  return tokens;
}

template <typename Number>
Number number_at(const std::string& bytes, std::size_t offset) {
  Number number;
  std::memcpy(&number, bytes.data() + offset, sizeof(Number));
  return number;
}

TEST(TokenFile, IsWrittenAsDocumented) {
  const TemporaryFolder folder;
  for (const std::int32_t vocabulary : {1000, 65536, 65537, 200'000}) {
    const Words words(vocabulary);
    const fs::path file = folder / std::to_string(vocabulary);
    const std::vector<std::int32_t> tokens{3, 0, vocabulary - 1, 7, vocabulary - 2};
    write_tokens(file, words, tokens);
    const std::string bytes = read_file(file);
    const std::uint32_t width = vocabulary <= 65536 ? 2 : 4;
    ASSERT_EQ(bytes.size(), 128 + 5 * width);
    EXPECT_EQ(bytes.substr(0, 8), "RFTOKENS");
    EXPECT_EQ(number_at<std::uint32_t>(bytes, 8), 2u);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, 12), width);
    EXPECT_EQ(number_at<std::int64_t>(bytes, 16), vocabulary);
    EXPECT_EQ(number_at<std::int64_t>(bytes, 24), 5);
    EXPECT_EQ(number_at<std::int64_t>(bytes, 32), 2);
    EXPECT_EQ(number_at<std::int64_t>(bytes, 40), 100);
    EXPECT_EQ(number_at<std::int64_t>(bytes, 48), vocabulary - 1);
    EXPECT_EQ(number_at<std::uint32_t>(bytes, 56), reformer::crc32(bytes.substr(128)));
    EXPECT_EQ(number_at<std::uint32_t>(bytes, 60), words.checksum());
    EXPECT_EQ(std::string(bytes.c_str() + 64), "words");
    EXPECT_EQ(number_at<std::uint32_t>(bytes, 124), reformer::crc32(bytes.substr(0, 124)));

    const TokenFile read(file);
    EXPECT_EQ(tokens_in(read), tokens);
    EXPECT_EQ(read.check(), read.header().checksum);
    EXPECT_EQ(read.header().end_of_document, vocabulary - 1);
    std::vector<std::int32_t> two(2);
    read.read(3, two);
    EXPECT_EQ(two, (std::vector<std::int32_t>{7, vocabulary - 2}));
  }
  EXPECT_EQ(folder.names().size(), 4u);  // and neither parts nor journals
}

TEST(TokenFile, ReadsSixteenBitTokensWithoutAHeader) {
  const TemporaryFolder folder;
  write_file(folder / "train.bin", std::string("\1\0\x50\xc3\0\0", 6));
  EXPECT_EQ(tokens_in(TokenFile(folder / "train.bin", 50257)),
            (std::vector<std::int32_t>{1, 50000, 0}));
  EXPECT_FALSE(is_token_file(folder / "train.bin"));
  EXPECT_EQ(TokenFile(folder / "train.bin", 50257).check(),
            reformer::crc32(read_file(folder / "train.bin")));
}

TEST(TokenFile, KnowsWhereDocumentsEnd) {
  const TemporaryFolder folder;
  using Ends = std::vector<std::int64_t>;
  // By the token behind each.
  write_tokens(folder / "words", Words(), {7, 999, 999, 3, 2, 1, 999, 4});
  EXPECT_EQ(TokenFile(folder / "words").document_ends(), (Ends{2, 3, 7}));
  write_file(folder / "bin", read_file(folder / "words").substr(128));
  EXPECT_EQ(TokenFile(folder / "bin", 1000).document_ends(999), (Ends{2, 3, 7}));
  // By a table behind the tokens, in a file of bytes.
  const tokens::ByteTokenizer bytes;
  {
    TokenWriter writer = TokenWriter::start(folder / "bytes", header_for(bytes));
    writer.append(std::vector{1, 2, 3}, after(1, 3));
    writer.append(std::vector{4, 5}, after(1, 5));
    writer.save();
  }
  {
    TokenWriter writer = TokenWriter::resume(folder / "bytes", header_for(bytes));
    writer.append(std::vector{6, 7, 8, 9}, after(2, 9));
    writer.finish();
  }
  const std::string good = read_file(folder / "bytes");
  ASSERT_EQ(good.size(), 128u + 2 * 9 + 8 * 2);
  EXPECT_EQ(number_at<std::int64_t>(good, 48), -1);
  EXPECT_EQ(number_at<std::int64_t>(good, 128 + 18), 3);
  EXPECT_EQ(number_at<std::int64_t>(good, 128 + 26), 9);
  EXPECT_EQ(number_at<std::uint32_t>(good, 56), reformer::crc32(good.substr(128)));
  const TokenFile read(folder / "bytes");
  EXPECT_EQ(read.document_ends(), (Ends{3, 9}));
  EXPECT_EQ(tokens_in(read), (std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(read.check(), read.header().checksum);

  const auto error_of = [&](const std::string& contents) {
    write_file(folder / "bad", contents);
    return message_of<std::runtime_error>([&] {
      TokenFile(folder / "bad").document_ends();
      TokenFile(folder / "bad").check();
    });
  };
  EXPECT_TRUE(contains(error_of(good.substr(0, good.size() - 1)),
                       "is truncated: its header says 9 tokens of 2 bytes and the ends of 2 "
                       "documents, and 33 bytes follow it"));
  EXPECT_TRUE(contains(error_of(good + "."), "is corrupt: its header says 9 tokens"));
  std::string bad = good;
  bad[128 + 18] = 10;
  EXPECT_TRUE(contains(error_of(bad), "is corrupt: its documents do not end one after another"));
  bad[128 + 18] = 2;
  EXPECT_TRUE(contains(error_of(bad), "is corrupt: its contents have checksum"));
  bad = good;
  bad[128 + 26] = 11;
  EXPECT_TRUE(contains(error_of(bad), "is corrupt: its documents do not end one after another"));
}

TEST(TokenFile, SaysInOneLineWhatIsWrong) {
  const TemporaryFolder folder;
  const fs::path file = folder / "x.bin";
  write_tokens(file, Words(), {1, 2, 3, 4, 999});
  const std::string good = read_file(file);
  const auto error_of = [&](const std::string& bytes, std::int64_t vocabulary = 0) {
    write_file(file, bytes);
    return message_of<std::runtime_error>([&] { TokenFile(file, vocabulary).check(); });
  };
  const auto changed = [&](std::size_t offset, const std::string& by, bool is_sealed) {
    std::string bytes = good;
    bytes.replace(offset, by.size(), by);
    const std::uint32_t crc = reformer::crc32(bytes.substr(0, 124));
    if (is_sealed) std::memcpy(&bytes[124], &crc, 4);
    return bytes;
  };
  const std::string begin = "token file '" + file.string() + "' ";
  EXPECT_EQ(error_of(good), "NOTHING WAS THROWN");
  EXPECT_EQ(error_of(good.substr(0, 50)),
            begin + "is truncated: its header has 128 bytes and it has 50");
  EXPECT_EQ(error_of(good.substr(0, 134)),
            begin + "is truncated: its header says 5 tokens of 2 bytes, and 6 bytes follow it");
  EXPECT_EQ(error_of(good + "more"),
            begin + "is corrupt: its header says 5 tokens of 2 bytes, and 14 bytes follow it");
  EXPECT_EQ(error_of(changed(8, "\1", true)),
            begin + "is of version 1, and this program reads version 2");
  EXPECT_EQ(error_of(changed(32, "\3", false)),
            begin + "is corrupt: its header does not have its checksum");
  EXPECT_EQ(error_of(changed(12, "\3", true)),
            begin + "is corrupt: its width is 3, must be 2 or 4");
  EXPECT_EQ(error_of(changed(18, "\2", true)),
            begin + "is corrupt: its vocabulary is 132072, must be from 1 to 65536");
  EXPECT_EQ(error_of(changed(23, "\xff", true)).substr(0, begin.size() + 31),
            begin + "is corrupt: its vocabulary is -");
  EXPECT_EQ(error_of(changed(48, "\xe8\3", true)),
            begin + "is corrupt: its end of document is 1000, must be in the vocabulary, or -1");
  EXPECT_EQ(error_of(changed(31, "\xff", true)).substr(0, begin.size() + 37),
            begin + "is corrupt: its number of tokens is -");
  EXPECT_EQ(error_of(changed(30, "\x7f", true)),
            begin +
                "is truncated: its header says 35747322042253317 tokens of 2 bytes, and 10 bytes "
                "follow it");
  EXPECT_TRUE(contains(error_of(changed(39, "\x80", true)), "its number of documents is -"));
  EXPECT_TRUE(contains(error_of(changed(47, "\x80", true)), "its number of bytes is -"));
  EXPECT_TRUE(contains(error_of(changed(130, "\7", true)),
                       begin + "is corrupt: its contents have checksum "));
  EXPECT_EQ(error_of(changed(132, "\xe8\3", true)),
            begin + "has token 1000 at place 2, and its vocabulary has 1000");
  EXPECT_EQ(error_of(""), begin + "is empty");
  EXPECT_TRUE(
      contains(error_of("NOTOKENS" + good.substr(8)), begin + "does not begin as token files do"));
  EXPECT_EQ(error_of("odd", 50257),
            begin + "has an odd number of bytes, 3, and no header: it cannot be 16-bit tokens");
  EXPECT_EQ(error_of(std::string("\1\0\xff\xff", 4), 50257),
            begin + "has token 65535 at place 1, and its vocabulary has 50257");
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { TokenFile(folder / "none"); }), "cannot read"));
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { TokenFile{folder.path()}; }), "cannot read"));

  // Beside which tokenizer it is used.
  write_file(file, good);
  EXPECT_EQ(
      message_of<std::runtime_error>([&] { tokenizer_of(file); }),
      begin +
          "was made with a tokenizer (words) that is not beside it; name it, or put its files "
          "into '" +
          file.string() + ".tokenizer'");
  EXPECT_EQ(message_of<std::runtime_error>([&] { tokenizer_of(file, "bytes"); }),
            begin + "was made with another tokenizer (words) than 'bytes' (bytes, 256 tokens)");

  // A pipe is no token file, and is not waited for.
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_FALSE(is_token_file(folder / "pipe"));

  // Two do not write one.
  {
    TokenWriter first = TokenWriter::start(folder / "two", header_for(Words()));
    const auto second = [&] {
      return message_of<std::runtime_error>(
          [&] { TokenWriter::resume(folder / "two", header_for(Words())); });
    };
    const std::string busy =
        "token file '" + (folder / "two").string() + "' is being written by another process";
    EXPECT_EQ(second(), busy);
    fs::remove(folder / "two.journal");
    EXPECT_EQ(second(), busy) << "one that has just begun";
    first.append(std::vector<std::int32_t>{1}, after(1, 3));
    first.finish();
  }
  EXPECT_EQ(TokenFile(folder / "two").size(), 1);

  // Where one is written.
  const auto start_error = [&](const fs::path& path) {
    return message_of<std::runtime_error>([&] { TokenWriter::start(path, header_for(Words())); });
  };
  const auto resume_error = [&](const fs::path& path, const Words& words) {
    return message_of<std::runtime_error>([&] { TokenWriter::resume(path, header_for(words)); });
  };
  EXPECT_EQ(start_error(file), begin + "is there already; it is not overwritten");
  EXPECT_TRUE(contains(start_error(folder / "no/x"), "cannot be written: No such file"));
  EXPECT_TRUE(
      contains(resume_error(folder / "y", Words()), "was not begun, so there is nothing to"));
  {
    TokenWriter writer = TokenWriter::start(folder / "y", header_for(Words()));
    EXPECT_TRUE(contains(message_of<std::runtime_error>([&] {
                           writer.append(std::vector{5, 1000}, after(0, 1));
                         }),
                         "the tokenizer gave token 1000 and says that it has 1000"));
  }
  EXPECT_TRUE(contains(start_error(folder / "y"), "was begun before and not finished; go on with"));
  EXPECT_TRUE(contains(resume_error(folder / "y", Words(999)),
                       "was begun with another tokenizer, of 1000 tokens and checksum 000003e8"));
  {
    TokenWriter writer = TokenWriter::resume(folder / "y", header_for(Words()));
    writer.append(std::vector{5, 6}, after(1, 9));
    writer.save();
  }
  const std::string part = read_file(folder / "y.part");
  write_file(folder / "y.part", part.substr(0, 129));
  EXPECT_TRUE(contains(resume_error(folder / "y", Words()), ".part is shorter than its .journal"));
  write_file(folder / "y.part", part.substr(0, 129) + "zzzz");
  EXPECT_TRUE(contains(resume_error(folder / "y", Words()), "cannot go on: its .part is damaged"));
  write_file(folder / "y.journal", "{\"tokens\": ");
  EXPECT_TRUE(
      contains(resume_error(folder / "y", Words()), "cannot go on: its .journal is damaged"));
}

class Encode : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(folder_ / "texts");
    write_file(folder_ / "texts/a", sentences(30'000, 1));
    write_file(folder_ / "texts/b", sentences(1, 2));
    write_file(folder_ / "texts/c", sentences(8192, 3));
    write_file(folder_ / "texts/d", std::string(30'000, 'x') + sentences(5'000, 4));
  }

  /// Everything at once.
  std::vector<std::int32_t> expected() const {
    std::vector<std::int32_t> tokens;
    for (const char* name : {"a", "b", "c", "d"}) {
      const auto some = words_.encode(read_file(folder_ / "texts" / name));
      tokens.insert(tokens.end(), some.begin(), some.end());
      tokens.push_back(999);
    }
    return tokens;
  }

  bool run(TokenWriter writer, int threads, double save_seconds,
           const std::function<bool()>& goes_on) {
    Documents documents({(folder_ / "texts").string()});
    EncodeOptions options;
    options.threads = threads;
    options.piece_length = 8192;
    options.save_seconds = save_seconds;
    const bool is_complete = encode(documents, words_, writer, options, goes_on);
    if (is_complete) writer.finish();
    return is_complete;
  }

  TemporaryFolder folder_;
  Words words_;
};

TEST_F(Encode, GivesTheTokensOfWholeDocumentsWithAnyNumberOfThreads) {
  for (const int threads : {1, 2, 5}) {
    const fs::path file = folder_ / std::to_string(threads);
    EXPECT_TRUE(
        run(TokenWriter::start(file, header_for(words_)), threads, 10, [] { return true; }));
    const TokenFile read(file);
    EXPECT_EQ(tokens_in(read), expected());
    EXPECT_EQ(read.header().documents, 4);
    EXPECT_EQ(read.header().source_bytes, 30'000 + 1 + 8192 + 35'000);
    read.check();
    EXPECT_EQ(read_file(file), read_file(folder_ / "1"));
  }
}

TEST_F(Encode, GoesOnWhereverItWasInterruptedOrKilled) {
  const fs::path whole = folder_ / "whole";
  int pieces = 0;
  run(TokenWriter::start(whole, header_for(words_)), 1, 10, [&] { return ++pieces > 0; });
  ASSERT_GT(pieces, 7);
  const fs::path file = folder_ / "x";
  for (int stop = 1; stop <= pieces; ++stop) {
    int done = 0;
    // Asked to stop, twice.
    EXPECT_FALSE(run(TokenWriter::start(file, header_for(words_)), 2, 10,
                     [&] { return ++done < std::min(stop, pieces - 2); }));
    EXPECT_FALSE(fs::exists(file));
    run(TokenWriter::resume(file, header_for(words_)), 1, 10, [&] { return false; });
    if (!fs::exists(file)) {
      EXPECT_TRUE(run(TokenWriter::resume(file, header_for(words_)), 2, 10, [] { return true; }));
    }
    EXPECT_TRUE(read_file(file) == read_file(whole)) << stop;
    fs::remove(file);

    // Killed: what is on the disk at that moment, with a journal that is up to date and an old one.
    for (const double save_seconds : {0.0, 1e9}) {
      const fs::path killed = folder_ / "killed";
      done = 0;
      run(TokenWriter::start(file, header_for(words_)), 2, save_seconds, [&] {
        if (++done == stop) {
          for (const char* suffix : {".part", ".journal"}) {
            fs::copy_file(file.string() + suffix, killed.string() + suffix);
          }
        }
        return true;
      });
      fs::remove(file);
      std::string part = read_file(killed.string() + ".part");
      write_file(killed.string() + ".part", part + "half of what was written");
      EXPECT_TRUE(run(TokenWriter::resume(killed, header_for(words_)), 2, 10, [] { return true; }));
      EXPECT_TRUE(read_file(killed) == read_file(whole)) << stop;
      fs::remove(killed);
    }
  }
  // Between the beginning and the first journal.
  write_file(file.string() + ".part", "");
  EXPECT_TRUE(run(TokenWriter::resume(file, header_for(words_)), 2, 10, [] { return true; }));
  EXPECT_TRUE(read_file(file) == read_file(whole));
}

TEST_F(Encode, KeepsItsWorkWhenALaterFileIsDamagedAndNoticesOtherSources) {
  const fs::path file = folder_ / "x";
  write_file(folder_ / "texts/e.gz", "\x1f\x8b\x08");
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] {
                         run(TokenWriter::start(file, header_for(words_)), 2, 10,
                             [] { return true; });
                       }),
                       "e.gz' is truncated or corrupt"));
  fs::remove(folder_ / "texts/e.gz");
  EXPECT_EQ(TokenWriter::resume(file, header_for(words_)).progress().documents, 4);
  const std::string c = read_file(folder_ / "texts/c");
  write_file(folder_ / "texts/c", "C" + c.substr(1));
  const auto resume = [&] {
    return message_of<std::runtime_error>(
        [&] { run(TokenWriter::resume(file, header_for(words_)), 2, 10, [] { return true; }); });
  };
  EXPECT_TRUE(
      contains(resume(), "the sources are not what they were when the token file was begun"));
  fs::remove(folder_ / "texts/c");
  EXPECT_TRUE(
      contains(resume(), "the sources are not what they were when the token file was begun"));
  write_file(folder_ / "texts/c", c);
  EXPECT_EQ(resume(), "NOTHING WAS THROWN");
  EXPECT_EQ(tokens_in(TokenFile(file)), expected());
}

TEST_F(Encode, SaysThatTheDiskIsFull) {
  const FileSizeLimit limit(5000);
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] {
                         run(TokenWriter::start(folder_ / "x", header_for(words_)), 2, 0,
                             [] { return true; });
                       }),
                       "cannot be written: File too large"));
  EXPECT_FALSE(fs::exists(folder_ / "x"));
}

}  // namespace
}  // namespace data::test
