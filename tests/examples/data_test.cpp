// SPDX-License-Identifier: MIT
// Reading: documents in files, folders and archives.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "data/documents.hpp"
#include "examples/archives.hpp"
#include "examples/support.hpp"

namespace data::test {
namespace {

namespace fs = std::filesystem;
using namespace reformer::test;
using Entries = std::vector<std::pair<std::string, std::string>>;

/// Letters without order, which compress to about half.
std::string letters(std::size_t size, std::uint32_t seed = 1) {
  std::string text(size, ' ');
  for (char& c : text) {
    seed = seed * 1664525 + 1013904223;
    c = static_cast<char>('a' + (seed >> 28));
  }
  return text;
}

struct Read {
  Entries documents;
  std::string left_out;
};

Read read_all(std::vector<std::string> places) {
  Read read;
  Documents documents(std::move(places));
  while (documents.next()) {
    read.documents.emplace_back(documents.name(), "");
    for (auto block = documents.block(); !block.empty(); block = documents.block()) {
      read.documents.back().second.append(block.begin(), block.end());
    }
  }
  read.left_out = documents.left_out();
  return read;
}

std::string error_of(std::vector<std::string> places) {
  return message_of<std::runtime_error>([&] { read_all(std::move(places)); });
}

constexpr const char* filters[] = {"gz", "bz2", "xz", "zst", "lz4", "lz"};

TEST(Documents, ReadsWhatIsCompressed) {
  const TemporaryFolder folder;
  const std::string text = letters(300'000);
  for (const char* filter : filters) {
    const fs::path file = folder / (std::string("text.") + filter);
    write_archive(file, "raw", filter, {{"data", text}});
    const Read read = read_all({file.string()});
    ASSERT_EQ(read.documents.size(), 1u) << filter;
    EXPECT_EQ(read.documents[0].first, file.string());
    EXPECT_TRUE(read.documents[0].second == text) << filter;
    // Its parts may stand one behind the other, and a part may hold nothing.
    const std::string one = read_file(file);
    std::string none;
    if (filter[0] != 'l' && filter[0] != 'z') {  // which libarchive cannot write with nothing in it
      write_archive(folder / "empty", "raw", filter, {{"data", ""}});
      none = read_file(folder / "empty");
    }
    write_file(file, one + none + one + none);
    EXPECT_TRUE(read_all({file.string()}).documents[0].second == text + text) << filter;
  }
}

TEST(Documents, ReadsEachFileOfAnArchive) {
  const TemporaryFolder folder;
  const Entries files{
      {"b/", ""}, {"b/one", letters(70'000)}, {"b/empty", ""}, {"a", letters(512)}, {"c", "three"}};
  for (const char* format : {"tar", "zip"}) {
    for (const char* filter : {"", "gz", "bz2", "xz", "zst"}) {
      if (format == std::string("zip") && filter[0] != '\0') continue;
      const fs::path file =
          folder / (std::string("x.") + format + (filter[0] != '\0' ? "." : "") + filter);
      write_archive(file, format, filter, files);
      const Read read = read_all({file.string()});
      ASSERT_EQ(read.documents.size(), 3u) << file;
      EXPECT_EQ(read.documents[0], std::pair(file.string() + " (b/one)", files[1].second)) << file;
      EXPECT_EQ(read.documents[1], std::pair(file.string() + " (a)", files[3].second)) << file;
      EXPECT_EQ(read.documents[2], std::pair(file.string() + " (c)", files[4].second)) << file;
    }
  }
}

TEST(Documents, ReadsFoldersSortedByName) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "x/b");
  fs::create_directories(folder / "x/.git");
  write_file(folder / "x/c", "3");
  write_file(folder / "x/a", "1");
  write_file(folder / "x/b/inner", "2");
  write_file(folder / "x/b/nothing", "");
  write_file(folder / "x/.git/config", "hidden");
  write_file(folder / "x/image", std::string("\x89PNG\r\n\x1a\n", 8) + letters(50));
  write_archive(folder / "x/d.tar.gz", "tar", "gz", {{"in it", "4"}, {"program", "\177ELF\2\1\1"}});
  fs::create_symlink(folder / "x/a", folder / "x/e");
  const Read read = read_all({(folder / "x").string(), (folder / "x/c").string()});
  std::string all;
  for (const auto& [name, text] : read.documents) {
    all += text;
  }
  EXPECT_EQ(all, "123413");
  EXPECT_TRUE(
      contains(read.left_out, "1 x a PNG image, such as '" + (folder / "x/image").string()));
  EXPECT_TRUE(contains(read.left_out, "1 x a program or library (ELF), such as"));
  EXPECT_TRUE(contains(read.left_out, "d.tar.gz (program)'"));

  Documents documents({(folder / "x/a").string(), (folder / "x/c").string()});
  EXPECT_EQ(documents.total_size(), 2u);
  while (documents.next()) {
  }
  EXPECT_EQ(documents.position(), 2u);
  EXPECT_EQ(documents.left_out(), "");
}

/// Puts a file in the place of standard input.
class StandardInput {
 public:
  explicit StandardInput(const fs::path& file) : before_(::dup(STDIN_FILENO)) {
    const int opened = ::open(file.c_str(), O_RDONLY);
    ::dup2(opened, STDIN_FILENO);
    ::close(opened);
  }
  ~StandardInput() {
    ::dup2(before_, STDIN_FILENO);
    ::close(before_);
  }

 private:
  int before_;
};

TEST(Documents, ReadsStandardInput) {
  const TemporaryFolder folder;
  write_archive(folder / "x.zip", "zip", "", {{"a", letters(3000)}, {"b", "two"}});
  write_archive(folder / "x.tar.xz", "tar", "xz", {{"a", letters(3000)}, {"b", "two"}});
  for (const char* name : {"x.zip", "x.tar.xz"}) {
    const StandardInput input(folder / name);
    const Read read = read_all({"-"});
    ASSERT_EQ(read.documents.size(), 2u);
    EXPECT_EQ(read.documents[0].second, letters(3000));
    EXPECT_EQ(read.documents[1], std::pair(std::string("- (b)"), std::string("two")));
  }
  const std::string zip = read_file(folder / "x.zip");
  write_file(folder / "x.zip", zip.substr(0, zip.size() - 40));
  const StandardInput input(folder / "x.zip");
  EXPECT_TRUE(contains(error_of({"-"}), "standard input is truncated or corrupt: a zip archive"));
  EXPECT_TRUE(contains(error_of({"-", "-"}), "standard input is named twice"));
}

// gzip says of each member how long its text is and what its checksum is; libarchive looks at
// neither, and does not tell members apart.
TEST(Documents, ChecksEachMemberOfAGzipFile) {
  const TemporaryFolder folder;
  const fs::path file = folder / "x.gz";
  std::string members;
  std::string text;
  std::vector<std::size_t> ends;
  const std::vector<std::size_t> sizes{0, 1, 70'000, 5, 5, 0, 300'000, 64'000, 1,
                                       2, 3, 4,      5, 6, 7, 8,       9};
  for (const std::size_t size : sizes) {
    write_archive(file, "raw", "gz", {{"data", letters(size, static_cast<std::uint32_t>(size))}});
    members += read_file(file);
    if (size > 0) {  // damage at the end of none changes no text
      ends.push_back(members.size());
    }
    text += letters(size, static_cast<std::uint32_t>(size));
  }
  // What looks like the beginning of a member, with what may be a size or not, is no end of one.
  const std::string header("\x1f\x8b\x08\0time\0\3", 10);
  const std::string decoy = letters(3000) + "12345678" + header + letters(40) +
                            std::string("crc!\x20\x0c\0\0", 8) + header + letters(50'000);
  write_archive(file, "raw", "gz-stored", {{"data", decoy}});
  for (int i = 0; i < 2; ++i) {
    members += read_file(file);
    ends.push_back(members.size());
    text += decoy;
  }
  ASSERT_TRUE(contains(members, "12345678" + header));
  write_file(file, members);
  EXPECT_TRUE(read_all({file.string()}).documents[0].second == text);
  for (const std::size_t end : ends) {
    for (const std::size_t back : {1U, 5U, 8U}) {
      std::string damaged = members;
      damaged[end - back] = static_cast<char>(damaged[end - back] ^ 4);
      write_file(file, damaged);
      EXPECT_TRUE(contains(error_of({file.string()}), "is corrupt: gzip: a wrong checksum or size"))
          << end << " " << back;
    }
  }
}

TEST(Documents, NoticesATruncatedFileAtEveryLength) {
  const TemporaryFolder folder;
  const auto cut_everywhere = [&](const std::string& name, std::size_t least, std::size_t most) {
    const std::string whole = read_file(folder / name);
    fs::create_directories(folder / "cut");
    for (std::size_t length = least; length < std::min(most, whole.size()); ++length) {
      fs::remove(folder / "cut" / name);  // some file systems take their time to overwrite
      write_file(folder / "cut" / name, whole.substr(0, length));
      const std::string error = error_of({(folder / "cut" / name).string()});
      ASSERT_TRUE(error.find("truncated") != error.npos || error.find("corrupt") != error.npos)
          << name << " " << length << ": " << error;
      ASSERT_TRUE(contains(error, name));
    }
  };
  for (const char* filter : filters) {
    const std::string name = std::string("text.") + filter;
    write_archive(folder / name, "raw", filter, {{"data", letters(200)}});
    cut_everywhere(name, 1, 1 << 20);
  }
  const Entries entries{{"one", letters(600)}, {"two", letters(100)}};
  for (const char* name : {"x.tar.gz", "x.tar.zst"}) {
    write_archive(folder / name, "tar", std::string(name).substr(6), entries);
    cut_everywhere(name, 1, 1 << 20);
  }
  write_archive(folder / "x.zip", "zip", "", entries);
  cut_everywhere("x.zip", 1, 1 << 20);
  write_archive(folder / "x.tar", "tar", "", entries);
  // A block of zeros, after which nothing is missing, ends a tar archive.
  cut_everywhere("x.tar", 257 + 8, 512 + 1024 + 512 + 512 + 512);
}

TEST(Documents, NoticesDamageInWhatHasChecksums) {
  const TemporaryFolder folder;
  const auto flip_everywhere = [&](const std::string& name, std::size_t begin, std::size_t end,
                                   const std::string& text) {
    const std::string whole = read_file(folder / name);
    for (std::size_t i = begin; i < whole.size() - end; ++i) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 0x40);
      fs::remove(folder / "flipped");
      write_file(folder / "flipped", damaged);
      // Some bits are there for padding or times, and what they are does not matter.
      try {
        const Read read = read_all({(folder / "flipped").string()});
        ASSERT_EQ(read.documents.size(), 1u) << name << " " << i;
        ASSERT_EQ(read.documents[0].second, text) << name << " " << i;
      } catch (const std::runtime_error& error) {
        const std::string message = error.what();
        ASSERT_TRUE(message.find("truncated") != message.npos ||
                    message.find("corrupt") != message.npos ||
                    message.find("encrypted") != message.npos)
            << name << " " << i << ": " << message;
      }
    }
  };
  const std::string text = letters(150);
  for (const auto& [filter, header] :
       {std::pair("gz", 3), {"bz2", 10}, {"xz", 6}, {"lz4", 4}, {"lz", 5}}) {
    const std::string name = std::string("text.") + filter;
    write_archive(folder / name, "raw", filter, {{"data", text}});
    flip_everywhere(name, static_cast<std::size_t>(header), 0, text);
  }
  write_archive(folder / "x.zip", "zip", "", {{"one", text}});
  // The list of files at its end holds rights and the like.
  const std::string zip = read_file(folder / "x.zip");
  flip_everywhere("x.zip", 4, zip.size() - zip.find("PK\1\2"), text);
}

/// A file, what is in it, and how the error ends.
TEST(Documents, SaysInOneLineWhatIsWrong) {
  const TemporaryFolder folder;
  const std::string base = folder.path().string() + "/";
  const auto compressed = [&](const std::string& format, const std::string& filter,
                              const Entries& entries) {
    write_archive(folder / "made", format, filter, entries);
    std::string bytes = read_file(folder / "made");
    fs::remove(folder / "made");
    return bytes;
  };
  const std::string png = std::string("\x89PNG\r\n\x1a\n") + std::string(20, '\0');
  const std::string jpeg = std::string("\xff\xd8\xff\xe0\0\x10JFIF", 10);
  const std::string pdf = "%PDF-1.7\n\1\2\3";
  const std::string lfs =
      "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 100000000\n";
  const std::string text = letters(500);
  struct Case {
    const char* name;
    std::string content;
    const char* error;  // FILE stands for the file
  };
  const std::vector<Case> cases{
      {"empty", "", "data file 'FILE' is empty"},
      {"nothing.gz", compressed("raw", "gz", {{"data", ""}}),
       "data file 'FILE' is empty once decompressed"},
      {"nothing.tar", compressed("tar", "", {}),
       "data file 'FILE' is named .tar but is corrupt or of another kind"},
      {"nothing.zip", compressed("zip", "", {}),
       "data file 'FILE' is a zip archive without a file"},
      {"folders.tar", compressed("tar", "", {{"a/", ""}, {"a/b/", ""}}),
       "data file 'FILE' is a tar archive without a file"},
      {"empty.zip", compressed("zip", "", {{"a", ""}}), "data file 'FILE' is empty"},
      {"image.png", png, "data file 'FILE' is a PNG image, not raw bytes: give a text"},
      {"image.jpg", jpeg, "data file 'FILE' is a JPEG image, not raw bytes: give a text"},
      {"paper.pdf", pdf, "data file 'FILE' is a PDF file, not raw bytes: extract its text first: "},
      {"pointer", lfs, "data file 'FILE' is a pointer of git-LFS in place of the file, not raw "},
      {"x.7z", std::string("7z\xbc\xaf\x27\x1c\0\4", 8),
       "data file 'FILE' is a 7z archive, not raw bytes: unpack it first: 7z x "},
      {"x.rar", "Rar!\x1a\x07\1", "data file 'FILE' is a rar archive, not raw bytes: unpack it"},
      {"corpus.bin", "RFTOKENS\1\2\3",
       "data file 'FILE' is a token file, not raw bytes: give it alone"},
      {"model.safetensors", std::string("\x02\0\0\0\0\0\0\0{}", 10),
       "data file 'FILE' is a safetensors file, not raw bytes"},
      {"image.gz", compressed("raw", "gz", {{"data", png}}),
       "data file 'FILE' is a gzip file with a PNG image inside, not raw bytes: unpack both"},
      {"twice.xz", compressed("raw", "xz", {{"data", compressed("raw", "gz", {{"data", text}})}}),
       "data file 'FILE' is an xz file with a gzip file inside, not raw bytes: unpack both"},
      {"images.zip", compressed("zip", "", {{"a.png", png}, {"b.png", png}}),
       "data file 'FILE' is a zip archive with a PNG image inside, and nothing to read"},
      {"inner.tar", compressed("tar", "", {{"a.gz", compressed("raw", "gz", {{"d", text}})}}),
       "data file 'FILE' is a tar archive with a gzip file inside ('a.gz'), not raw bytes"},
      {"pointer.zip", compressed("zip", "", {{"a", text}, {"b", lfs}}),
       "data file 'FILE' is a zip archive with a pointer of git-LFS in place of the file inside"},
      {"text.gz", text, "data file 'FILE' is named .gz but is corrupt or of another kind: it does"},
      {"text.zst", text, "data file 'FILE' is named .zst but is corrupt or of another kind"},
      {"text.tar", text, "data file 'FILE' is named .tar but is corrupt or of another kind"},
      {"text.tar.xz", compressed("raw", "xz", {{"data", text}}),
       "data file 'FILE' is named as a compressed tar archive, but there is none in it"},
      {"junk.gz", compressed("raw", "gz", {{"data", text}}) + "junk",
       "data file 'FILE' is corrupt: 4 bytes after its end are not gzip data"},
      {"junk.bz2", compressed("raw", "bz2", {{"data", text}}) + "junk",
       "data file 'FILE' is corrupt: 4 bytes after its end are not bzip2 data"},
      {"junk.xz", compressed("raw", "xz", {{"data", text}}) + "junk", "data file 'FILE' is "},
      {"junk.zst", compressed("raw", "zst", {{"data", text}}) + "junk",
       "data file 'FILE' is corrupt: zstd: "},
      {"junk.lz4", compressed("raw", "lz4", {{"data", text}}) + "more junk",
       "data file 'FILE' is corrupt: "},
      {"two.tar", compressed("tar", "", {{"a", text}}) + compressed("tar", "", {{"b", text}}),
       "bytes after its end are not tar data"},
  };
  for (const Case& bad : cases) {
    const std::string path = base + bad.name;
    write_file(path, bad.content);
    std::string expected = bad.error;
    if (const auto at = expected.find("FILE"); at != expected.npos) {
      expected.replace(at, 4, path);
    }
    EXPECT_TRUE(contains(error_of({path}), expected)) << bad.name;
    fs::remove(path);
  }

  EXPECT_EQ(error_of({base + "missing"}), "data file '" + base + "missing' does not exist");
  EXPECT_TRUE(contains(error_of({"/dev/null"}), "is not a regular file; give files, folders or -"));
  fs::create_directories(folder / "some/b/c");
  EXPECT_EQ(error_of({base + "some"}),
            "data file '" + base + "some' is a folder without a file in it");
  write_file(folder / "some/a.png", png);
  write_file(folder / "some/b/b.pdf", pdf);
  write_file(folder / "some/b/empty", "");
  EXPECT_EQ(error_of({base + "some"}),
            "data file '" + base +
                "some' holds nothing to read: 1 empty file; left out: 1 x a PDF "
                "file, such as '" +
                base + "some/b/b.pdf'; 1 x a PNG image, such as '" + base + "some/a.png'");
  // What is wrong in the middle of a folder is told, where it is certain before anything is read.
  write_file(folder / "some/text", text);
  const auto in_the_middle = [&](const std::string& error) {
    EXPECT_TRUE(
        contains(message_of<std::runtime_error>([&] { Documents{{base + "some"}}; }), error));
  };
  fs::create_symlink("nowhere", folder / "some/b/dangling");
  in_the_middle("some/b/dangling' is a link to what does not exist");
  fs::remove(folder / "some/b/dangling");
  fs::create_directory_symlink(folder / "some", folder / "some/b/c/loop");
  in_the_middle("some/b/c/loop' is a link to a folder that it is in: '" + base + "some'");
  fs::remove(folder / "some/b/c/loop");
  ASSERT_EQ(::mkfifo((folder / "some/b/pipe").c_str(), 0600), 0);
  in_the_middle("some/b/pipe' is not a regular file");
  fs::remove(folder / "some/b/pipe");
  write_file(folder / "some/b/c/cut.gz", compressed("raw", "gz", {{"data", text}}).substr(0, 100));
  EXPECT_TRUE(
      contains(error_of({base + "some"}), "cut.gz' is truncated: its gzip data ends early"));
  fs::remove(folder / "some/b/c/cut.gz");
  EXPECT_EQ(read_all({base + "some"}).documents.size(), 1u);
}

}  // namespace
}  // namespace data::test
