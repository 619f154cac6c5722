// SPDX-License-Identifier: MIT
#include "enwik8/corpus.hpp"

#include <gtest/gtest.h>
#include <zip.h>
#include <zlib.h>

#include <cstdlib>
#include <string>

#include "enwik8/generated_corpus.hpp"
#include "examples/support.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;

std::string as_string(const std::vector<std::uint8_t>& bytes) {
  return {bytes.begin(), bytes.end()};
}

/// Text that compresses neither to nothing nor not at all.
std::string sample_text(std::size_t size) {
  return as_string(generate_corpus(generated_corpus_seed, size));
}

std::string gzipped(const TemporaryFolder& folder, const std::string& text) {
  const fs::path path = folder / "gzipped.tmp";
  gzFile file = gzopen(path.c_str(), "wb9");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  std::string bytes = read_file(path);
  fs::remove(path);
  return bytes;
}

using Entries = std::vector<std::pair<std::string, std::string>>;

/// Entries whose name ends in '/' are folders.
void write_zip(const fs::path& path, const Entries& entries) {
  int error = 0;
  zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, &error);
  ASSERT_NE(archive, nullptr);
  for (const auto& [name, content] : entries) {
    if (name.back() == '/') {
      zip_dir_add(archive, name.c_str(), 0);
    } else {
      zip_source_t* source = zip_source_buffer(archive, content.data(), content.size(), 0);
      zip_file_add(archive, name.c_str(), source, 0);
    }
  }
  ASSERT_EQ(zip_close(archive), 0);
}

std::string load_error(const fs::path& path) {
  return message_of<std::runtime_error>([&] { load_corpus(path); });
}

TEST(Corpus, LoadsRawGzipAndZipByContent) {
  const TemporaryFolder folder;
  const std::string text = sample_text(100'000);
  write_file(folder / "raw", text);
  write_file(folder / "named_otherwise", gzipped(folder, text));
  write_zip(folder / "archive", {{"folder/", ""}, {"folder/text", text}, {"other", "not this"}});
  EXPECT_EQ(as_string(load_corpus(folder / "raw").bytes), text);
  EXPECT_EQ(as_string(load_corpus(folder / "named_otherwise").bytes), text);
  const Corpus zipped = load_corpus(folder / "archive");
  EXPECT_EQ(as_string(zipped.bytes), text);
  EXPECT_TRUE(contains(zipped.source, "archive (folder/text)"));
}

TEST(Corpus, AcceptsAnyBytes) {
  const TemporaryFolder folder;
  std::string all;
  for (int i = 0; i < 256; ++i) {
    all += static_cast<char>(i);
  }
  write_file(folder / "raw", all);
  EXPECT_EQ(as_string(load_corpus(folder / "raw").bytes), all);
  write_file(folder / "one", "\x1f");  // half of gzip's magic number is none
  EXPECT_EQ(as_string(load_corpus(folder / "one").bytes), "\x1f");
}

TEST(Corpus, LoadsSeveralGzipMembersAndPadding) {
  const TemporaryFolder folder;
  const std::string members =
      gzipped(folder, "one ") + gzipped(folder, "") + gzipped(folder, "two");
  write_file(folder / "a.gz", members + std::string(512, '\0'));
  EXPECT_EQ(as_string(load_corpus(folder / "a.gz").bytes), "one two");
  write_file(folder / "b.gz", members + "rubbish");
  EXPECT_TRUE(
      contains(load_error(folder / "b.gz"), "is corrupt: 7 bytes after its end are not gzip data"));
}

TEST(Corpus, SaysWhatIsWrongWithAPath) {
  const TemporaryFolder folder;
  write_file(folder / "empty", "");
  write_file(folder / "empty.gz", "");
  write_file(folder / "nothing.gz", gzipped(folder, ""));
  EXPECT_EQ(load_error(folder / "missing"),
            "data file '" + (folder / "missing").string() + "' does not exist");
  EXPECT_TRUE(contains(load_error(folder.path()), "is a folder; give a file"));
  EXPECT_TRUE(contains(load_error("/dev/null"), "is not a regular file"));
  EXPECT_TRUE(contains(load_error(folder / "empty"), "is empty"));
  EXPECT_TRUE(contains(load_error(folder / "empty.gz"), "is empty"));
  EXPECT_TRUE(contains(load_error(folder / "nothing.gz"), "is empty once decompressed"));
}

TEST(Corpus, NoticesATruncatedGzipAtEveryLength) {
  const TemporaryFolder folder;
  const std::string whole = gzipped(folder, sample_text(3000));
  for (std::size_t length = 2; length < whole.size(); ++length) {
    write_file(folder / "a.gz", whole.substr(0, length));
    ASSERT_TRUE(contains(load_error(folder / "a.gz"), "is truncated")) << length;
  }
  write_file(folder / "a.gz", whole + whole.substr(0, 20));
  EXPECT_TRUE(contains(load_error(folder / "a.gz"), "is truncated"));
}

TEST(Corpus, NoticesAnyFlippedByteOfGzipData) {
  const TemporaryFolder folder;
  const std::string whole = gzipped(folder, sample_text(3000));
  constexpr std::size_t header = 10;  // its time and system may be anything
  // The last byte of the deflate stream is padded with bits that nobody looks at.
  const std::size_t padded = whole.size() - 9;
  for (std::size_t i = header; i < whole.size(); ++i) {
    if (i == padded) {
      continue;
    }
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x40);
    write_file(folder / "a.gz", damaged);
    // Damage may also make the data seem to go on beyond the end of the file.
    ASSERT_TRUE(contains(load_error(folder / "a.gz"), "is corrupt") ||
                contains(load_error(folder / "a.gz"), "is truncated"))
        << i;
  }
}

TEST(Corpus, NoticesAGzipOrZipThatIsNone) {
  const TemporaryFolder folder;
  write_file(folder / "a.gz", "just text");
  write_file(folder / "a.zip", "just text");
  EXPECT_TRUE(contains(load_error(folder / "a.gz"), "is named .gz but is corrupt or of another"));
  EXPECT_TRUE(contains(load_error(folder / "a.zip"), "is named .zip but is corrupt or of another"));
}

TEST(Corpus, NoticesATruncatedOrDamagedZip) {
  const TemporaryFolder folder;
  const std::string text = sample_text(3000);
  write_zip(folder / "whole.zip", {{"text", text}});
  const std::string whole = read_file(folder / "whole.zip");
  for (std::size_t length = 4; length < whole.size(); length += 7) {
    write_file(folder / "a.zip", whole.substr(0, length));
    ASSERT_TRUE(contains(load_error(folder / "a.zip"), "is truncated") ||
                contains(load_error(folder / "a.zip"), "is corrupt"))
        << length;
  }
  std::string damaged = whole;
  damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
  write_file(folder / "a.zip", damaged);
  EXPECT_TRUE(contains(load_error(folder / "a.zip"), "is corrupt: zip: 'text'"));
  write_zip(folder / "folders.zip", {{"only/", ""}});
  EXPECT_TRUE(contains(load_error(folder / "folders.zip"), "without a file in it"));
}

TEST(Corpus, NoticesAWrongCrcInAZip) {
  const TemporaryFolder folder;
  // Stored entries have no other check than their CRC.
  int error = 0;
  zip_t* archive = zip_open((folder / "a.zip").c_str(), ZIP_CREATE, &error);
  ASSERT_NE(archive, nullptr);
  const std::string text = "stored text that is changed afterwards";
  const zip_int64_t index =
      zip_file_add(archive, "text", zip_source_buffer(archive, text.data(), text.size(), 0), 0);
  zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
  ASSERT_EQ(zip_close(archive), 0);
  std::string bytes = read_file(folder / "a.zip");
  bytes.replace(bytes.find("changed"), 7, "damaged");
  write_file(folder / "a.zip", bytes);
  EXPECT_TRUE(contains(load_error(folder / "a.zip"), "'text': CRC error"));
}

TEST(Corpus, SplitsByPercentAndEnwik8ByMillions) {
  Corpus corpus;
  corpus.bytes.resize(1019);
  Split split = corpus.split();
  EXPECT_EQ(split.train.size(), 919u);
  EXPECT_EQ(split.validation.size(), 50u);
  EXPECT_EQ(split.test.size(), 50u);
  EXPECT_EQ(split.validation.data(), corpus.bytes.data() + 919);
  EXPECT_EQ(split.test.data() + 50, corpus.bytes.data() + 1019);
  EXPECT_FALSE(corpus.is_enwik8());
  corpus.bytes.resize(enwik8_size);
  split = corpus.split();
  EXPECT_EQ(split.train.size(), 90'000'000u);
  EXPECT_EQ(split.validation.size(), 5'000'000u);
  EXPECT_EQ(split.test.size(), 5'000'000u);
  EXPECT_TRUE(corpus.is_enwik8());
}

TEST(Corpus, RequiresPartsOfAMinimumSize) {
  Corpus corpus;
  corpus.source = "x";
  corpus.bytes.resize(1019);
  corpus.require_parts(50, "a window");
  EXPECT_EQ(
      message_of<std::runtime_error>([&] { corpus.require_parts(51, "a window of --length 50"); }),
      "data 'x' is too short: it has 1019 bytes, its validation and test parts (5 % each) 50, "
      "but a window of --length 50 needs at least 51 in each part, so 1020 in all");
  corpus.bytes.resize(1020);
  corpus.require_parts(51, "a window");
}

TEST(Corpus, ChecksumTellsContentsApart) {
  Corpus corpus;
  corpus.bytes = {'1', '2', '3', '4', '5', '6', '7', '8', '9'};
  EXPECT_EQ(corpus.checksum(), 0xcbf43926u);  // the check value of CRC-32
}

TEST(FindEnwik8, LooksAroundTheCurrentFolderAndTheProgram) {
  const TemporaryFolder folder;
  const auto folders = data_folders(folder / "here", folder / "tree/build/deep/program");
  EXPECT_FALSE(find_enwik8(folders));
  const fs::path in_tree = folder / "tree/examples/enwik8/data";
  fs::create_directories(in_tree);
  write_file(in_tree / "enwik8.gz", "x");
  EXPECT_EQ(find_enwik8(folders), in_tree / "enwik8.gz");
  write_file(in_tree / "enwik8", "x");
  EXPECT_EQ(find_enwik8(folders), in_tree / "enwik8");
  fs::create_directories(folder / "here/data");
  write_file(folder / "here/data/enwik8.zip", "x");
  EXPECT_EQ(find_enwik8(folders), folder / "here/data/enwik8.zip");
  EXPECT_FALSE(program_path().empty());
}

TEST(ChooseCorpus, TakesTheFileThenEnwik8ThenTheGeneratedText) {
  const TemporaryFolder folder;
  write_file(folder / "mine", "my text");
  EXPECT_EQ(as_string(choose_corpus((folder / "mine").string(), {folder.path()}).bytes), "my text");

  const Corpus generated = choose_corpus("", {folder.path()});
  EXPECT_TRUE(generated.generated);
  EXPECT_EQ(generated.bytes.size(), generated_corpus_size);
  EXPECT_TRUE(contains(generated.source, "generated corpus"));

  write_file(folder / "enwik8", "half a download");
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { choose_corpus("", {folder.path()}); }),
                       "has 15 bytes and enwik8 has 100000000: fetch it again"));
  fs::resize_file(folder / "enwik8", enwik8_size);  // a hole, which takes no room on the disk
  EXPECT_TRUE(choose_corpus("", {folder.path()}).is_enwik8());
}

// ---- fetch.sh
// ------------------------------------------------------------------------------------

class FetchScript : public testing::Test {
 protected:
  void SetUp() override {
    const fs::path script =
        fs::path(__FILE__).parent_path() / ".." / ".." / "examples" / "enwik8" / "fetch.sh";
    if (!fs::exists(script) || std::system("command -v unzip curl >/dev/null 2>&1") != 0) {
      GTEST_SKIP() << "needs the source tree, unzip and curl";
    }
    fs::copy_file(script, folder_ / "fetch.sh");
    write_zip(folder_ / "small.zip", {{"enwik8", "123456789"}});
  }

  /// Runs the script and returns its exit status; what it prints goes to `output_`.
  int run(const std::string& arguments) {
    const std::string command = "sh '" + (folder_ / "fetch.sh").string() + "' " + arguments +
                                " >'" + (folder_ / "output").string() + "' 2>&1";
    const int status = std::system(command.c_str());
    output_ = read_file(folder_ / "output");
    return status;
  }

  std::string url(const std::string& name) const { return "file://" + (folder_ / name).string(); }

  TemporaryFolder folder_;
  std::string output_;
};

constexpr const char* md5_of_digits = "25f9e794323b453885f5181f1b624d0b";  // of "123456789"

TEST_F(FetchScript, FetchesChecksAndDoesNothingTwice) {
  ASSERT_EQ(run(url("small.zip") + " 9 " + md5_of_digits), 0) << output_;
  EXPECT_EQ(read_file(folder_ / "data/enwik8"), "123456789");
  fs::remove(folder_ / "small.zip");
  ASSERT_EQ(run(url("small.zip") + " 9 " + md5_of_digits), 0) << output_;
  EXPECT_TRUE(contains(output_, "is there and right"));
}

TEST_F(FetchScript, LeavesNothingWrongBehind) {
  EXPECT_NE(run(url("missing.zip")), 0);
  EXPECT_TRUE(contains(output_, "could not download"));
  EXPECT_NE(run(url("small.zip")), 0);
  EXPECT_TRUE(contains(output_, "has 9 bytes instead of 100000000"));
  EXPECT_NE(run(url("small.zip") + " 9"), 0);
  EXPECT_TRUE(contains(output_, "has MD5 25f9e794323b453885f5181f1b624d0b instead of a1fa5ffd"));
  EXPECT_NE(run(url("fetch.sh")), 0);
  EXPECT_TRUE(contains(output_, "is no zip archive"));
  EXPECT_TRUE(fs::is_empty(folder_ / "data"));
}

}  // namespace
}  // namespace enwik8::test
