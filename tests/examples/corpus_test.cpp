// SPDX-License-Identifier: MIT
#include "enwik8/corpus.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

#include "enwik8/generated_corpus.hpp"
#include "examples/archives.hpp"
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

using data::test::write_archive;

std::string gzipped(const TemporaryFolder& folder, const std::string& text) {
  const fs::path path = folder / "gzipped.tmp";
  write_archive(path, "raw", "gz", {{"data", text}});
  std::string bytes = read_file(path);
  fs::remove(path);
  return bytes;
}

using Entries = std::vector<std::pair<std::string, std::string>>;

/// Entries whose name ends in '/' are folders.
void write_zip(const fs::path& path, const Entries& entries) {
  write_archive(path, "zip", "", entries);
}

std::string load_error(const fs::path& path) {
  return message_of<std::runtime_error>([&] { load_corpus(path); });
}

TEST(Corpus, LoadsRawGzipAndZipByContent) {
  const TemporaryFolder folder;
  const std::string text = sample_text(100'000);
  write_file(folder / "raw", text);
  write_file(folder / "named_otherwise", gzipped(folder, text));
  write_zip(folder / "archive", {{"folder/", ""}, {"folder/text", text}, {"other", "and this"}});
  EXPECT_EQ(as_string(load_corpus(folder / "raw").bytes), text);
  EXPECT_EQ(as_string(load_corpus(folder / "named_otherwise").bytes), text);
  const Corpus zipped = load_corpus(folder / "archive");
  EXPECT_EQ(as_string(zipped.bytes), text + "and this");
  EXPECT_TRUE(contains(zipped.source, "archive (2 documents)"));
  write_zip(folder / "archive", {{"folder/", ""}, {"folder/text", text}});
  EXPECT_TRUE(contains(load_corpus(folder / "archive").source, "archive (folder/text)"));
  // Several, with commas between them.
  write_file(folder / "other", "!");
  EXPECT_EQ(
      as_string(load_corpus((folder / "raw").string() + "," + (folder / "other").string()).bytes),
      text + "!");
  EXPECT_EQ(as_string(load_corpus(folder.path()).bytes), text + text + "!" + text);
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

/// Files of kinds that are no raw bytes, as their programs write them.
struct KindOfFile {
  const char* name;     // in the message
  std::string content;  // as far as it tells
  const char* remedy;   // after the name of the kind; FILE stands for the file
};

std::string with_length(const std::string& header) {
  std::string bytes(8, '\0');
  bytes[0] = static_cast<char>(header.size());
  return bytes + header;
}

const std::vector<KindOfFile>& kinds_of_files() {
  using namespace std::string_literals;
  static const std::vector<KindOfFile> kinds{
      {"a 7z archive", "7z\xbc\xaf\x27\x1c\0\x04"s, "unpack it first: 7z x FILE"},
      {"a rar archive", "Rar!\x1a\x07\x01\0"s, "unpack it first: unrar x FILE"},
      {"a PDF file", "%PDF-1.5\n%\xbf\xf7\xa2\xfe\n1 0 obj\nstream\nx\x9c\x02"s,
       "extract its text first: pdftotext FILE"},
      {"a PNG image", "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"s, "give a text"},
      {"a JPEG image", "\xff\xd8\xff\xe0\0\x10JFIF"s, "give a text"},
      {"a GIF image", "GIF87a\x10\0\x10\0"s, "give a text"},
      {"a GIF image", "GIF89a\x10\0\x10\0"s, "give a text"},
      {"a WebP image", "RIFF\x24\0\0\0WEBPVP8L"s, "give a text"},
      {"a program or library (ELF)", "\177ELF\x02\x01\x01"s, "give a text"},
      {"an SQLite database", "SQLite format 3\0\x10\0"s, "give a text"},
      {"an HDF5 file", "\x89HDF\r\n\x1a\n\0"s, "give a text"},
      {"a NumPy array", "\x93NUMPY\x01\0v\0{'descr': '<f4'"s, "give a text"},
      {"a Parquet file", "PAR1\x15\x04\x15"s, "give a text"},
      {"a safetensors file",
       with_length(R"({"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})"), "give a text"},
      {"a pointer of git-LFS in place of the file",
       "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 100000000\n",
       "fetch the file first: git lfs pull"},
  };
  return kinds;
}

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const auto at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), by);
}

TEST(Corpus, RefusesKindsThatAreNoRawBytes) {
  const TemporaryFolder folder;
  const fs::path file = folder / "a file";
  for (const KindOfFile& kind : kinds_of_files()) {
    // Whatever follows: nothing but what tells the kind is looked at.
    write_file(file, kind.content + sample_text(5000));
    if (std::string(kind.name).find("git-LFS") != std::string::npos) {
      write_file(file, kind.content);
    }
    EXPECT_EQ(load_error(file),
              "data file '" + file.string() + "' is " + kind.name +
                  ", not raw bytes: " + replaced(kind.remedy, "FILE", "'" + file.string() + "'"));
    // The same inside of what the trainer reads.
    const std::string content = read_file(file);
    write_file(file, gzipped(folder, content));
    EXPECT_TRUE(contains(load_error(file), std::string("is a gzip file with ") + kind.name +
                                               " inside, not raw bytes: unpack both"));
    fs::remove(file);
    write_zip(file, {{"entry", content}});
    EXPECT_TRUE(contains(load_error(file), std::string("is a zip archive with ") + kind.name));
  }
  write_file(file, gzipped(folder, gzipped(folder, "text")));
  EXPECT_TRUE(contains(load_error(file), "is a gzip file with a gzip file inside"));
}

TEST(Corpus, TakesTextThatBeginsLikeAnotherKind) {
  const TemporaryFolder folder;
  std::string tar(257, 'x');
  tar += "ustar is the magic of tar";
  const std::string git_lfs =
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n" + sample_text(2000);
  for (const std::string& text : Strings{
           "BZh91AY&SY is how files of bzip2 begin", "%PDF-1.7 begins a PDF\n\ttabs and lines\r\n",
           "GIF89a is a format of images", "RIFF1234WEBPVP8 begins WebP", "PAR1 begins Parquet",
           "PK, they said", "7z x file", "Rar! he cried", "(\xb5/\xfc is nearly zstd",
           "\xfd\x37zXZ without its zero", "\xff\xd8\xff in Latin-1", "ustar", tar,
           "        {\"json\": 1}", git_lfs, "\xc3\xa9t\xc3\xa9", "\xff\xfet\x00\x65\x00"}) {
    write_file(folder / "text", text);
    EXPECT_EQ(as_string(load_corpus(folder / "text").bytes), text);
  }
}

// Where memory runs out, address sanitizer ends the program.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1  // what gcc defines
#endif
#endif
#ifndef __SANITIZE_ADDRESS__
TEST(Corpus, SaysThatAFileDoesNotFitIntoMemory) {
  const TemporaryFolder folder;
  write_file(folder / "huge", "");
  std::error_code error;
  fs::resize_file(folder / "huge", std::uintmax_t{1} << 40, error);  // a hole
  if (error) {
    GTEST_SKIP() << "no file of 1 TB can be made here: " << error.message();
  }
  // Some systems promise any amount of memory and end the program that uses it.
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit before{};
  ::getrlimit(RLIMIT_AS, &before);
  rlimit limit = before;
  const std::uint64_t used = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  limit.rlim_cur = std::min<rlim_t>(before.rlim_cur, used + (rlim_t{1} << 27));
  ::setrlimit(RLIMIT_AS, &limit);
  const std::string message = load_error(folder / "huge");
  ::setrlimit(RLIMIT_AS, &before);
  EXPECT_TRUE(contains(message, "does not fit into memory"));
}
#endif

TEST(Corpus, IsHeldInMemoryUpToALimit) {
  const TemporaryFolder folder;
  write_file(folder / "a", std::string(600, 'a'));
  write_archive(folder / "b.gz", "raw", "gz", {{"data", std::string(1400, 'b')}});
  const std::string both = (folder / "a").string() + "," + (folder / "b.gz").string();
  const Corpus corpus = load_corpus(both, 2000);
  EXPECT_EQ(corpus.bytes.size(), 2000u);
  EXPECT_EQ(corpus.document_ends, (std::vector<std::int64_t>{600, 2000}));
  EXPECT_EQ(message_of<std::runtime_error>([&] { load_corpus(both, 1999); }),
            "data file '" + both +
                "' has more than the 1,999 bytes that are held in memory; make it a file that is "
                "read piece by piece, and give that: tokenise --out corpus.bin " +
                (folder / "a").string() + " " + (folder / "b.gz").string());
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
  EXPECT_TRUE(contains(load_error(folder.path()), "holds nothing to read: 3 empty files"));
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
  for (const char* extension : {".xz", ".bz2", ".zst", ".lz4", ".lz", ".7z", ".rar", ".tar"}) {
    const fs::path file = folder / (std::string("a") + extension);
    write_file(file, "just text");
    EXPECT_TRUE(contains(load_error(file), std::string("is named ") + extension + " but is"));
  }
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
  write_archive(folder / "a.zip", "zip", "stored",
                {{"text", "stored text that is changed afterwards"}});
  std::string bytes = read_file(folder / "a.zip");
  bytes.replace(bytes.find("changed"), 7, "damaged");
  write_file(folder / "a.zip", bytes);
  EXPECT_TRUE(contains(load_error(folder / "a.zip"), "'text': ZIP bad CRC"));
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
    if (std::system("command -v unzip >/dev/null && command -v curl >/dev/null") != 0) {
      GTEST_SKIP() << "needs unzip and curl";
    }
    fs::copy_file(SOURCE_DIR "/examples/enwik8/fetch.sh", folder_ / "fetch.sh");
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
