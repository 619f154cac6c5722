// SPDX-License-Identifier: MIT
#include "reformer/io/atomic_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "reformer/io/mapped_file.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;

TEST(AtomicFile, WritesAndReplaces) {
  const TemporaryFolder folder;
  write_file_atomically(folder / "a", "first");
  EXPECT_EQ(read_file(folder / "a"), "first");
  AtomicFile file(folder / "a");
  file.write(std::string_view("sec"));
  file.write(std::string_view("ond"));
  EXPECT_EQ(read_file(folder / "a"), "first") << "nothing is visible before commit";
  file.commit();
  EXPECT_EQ(read_file(folder / "a"), "second");
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a"}));
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  { AtomicFile(folder / "a").write(std::string_view("new")); }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a"}));
}

TEST(AtomicFile, ReplacesTheTemporaryOfAKilledRun) {
  const TemporaryFolder folder;
  write_file(folder / "precious", "precious");
  fs::create_symlink(folder / "precious", folder / "a.tmp");
  write_file_atomically(folder / "a", "new");
  EXPECT_EQ(read_file(folder / "a"), "new");
  EXPECT_EQ(read_file(folder / "precious"), "precious");
}

TEST(AtomicFile, OfTwoThatSaveToOneNameTheSecondIsRefused) {
  const TemporaryFolder folder;
  const std::string refused =
      "cannot write '" + (folder / "a").string() + "': another is writing it";
  const auto message = [&] {
    return message_of<std::runtime_error>([&] { write_file_atomically(folder / "a", "second"); });
  };
  {
    AtomicFile first(folder / "a");
    first.write(std::string_view("fir"));
    EXPECT_EQ(message(), refused);
    first.write(std::string_view("st"));
    first.finish();
    EXPECT_EQ(message(), refused) << "what is finished and not yet visible is not a leftover";
    first.commit();
    EXPECT_EQ(read_file(folder / "a"), "first");
    write_file_atomically(folder / "a", "second");
    EXPECT_EQ(read_file(folder / "a"), "second") << "what is committed holds no lock";
  }
  AtomicFile third(folder / "a");
  EXPECT_EQ(message(), refused + "; the previous file is unchanged");
}

// Each file has one writer's content: whoever is refused has written nothing.
TEST(AtomicFile, ManySaversLeaveWholeFiles) {
  const TemporaryFolder folder;
  const fs::path path = folder / "a";
  std::atomic<int> saved = 0;
  std::vector<std::thread> savers;
  for (int i = 0; i < 4; ++i) {
    savers.emplace_back([&, i] {
      const std::string content(20'000, static_cast<char>('a' + i));
      for (int k = 0; k < 50; ++k) {
        try {
          AtomicFile file(path);
          for (int part = 0; part < 4; ++part) file.write(content.substr(0, 5'000));
          file.commit();
          ++saved;
        } catch (const std::runtime_error& error) {
          EXPECT_TRUE(contains(error.what(), "another is writing it"));
        }
        const std::string seen = fs::exists(path) ? read_file(path) : content;
        EXPECT_EQ(seen, std::string(20'000, seen.front()));
      }
    });
  }
  for (std::thread& saver : savers) saver.join();
  EXPECT_GT(saved.load(), 0);
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a"}));
}

// Where files cannot be locked, another may remove the temporary.
TEST(AtomicFile, CommitsOnlyWhatItHasWritten) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write(std::string_view("new"));
    fs::remove(folder / "a.tmp");
    write_file(folder / "a.tmp", "half of anoth");
    EXPECT_EQ(message_of<std::runtime_error>([&] { file.commit(); }),
              "cannot write '" + (folder / "a").string() +
                  "': the new content was removed while it was written; the previous file is "
                  "unchanged");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(read_file(folder / "a.tmp"), "half of anoth") << "that of another stays";
}

TEST(AtomicFile, KeepsPermissions) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  const auto own = fs::perms::owner_read | fs::perms::owner_write;
  fs::permissions(folder / "a", own);
  write_file_atomically(folder / "a", "new");
  EXPECT_EQ(fs::status(folder / "a").permissions(), own);
}

TEST(AtomicFile, KeepsThePreviousFileWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  std::string message;
  {
    const FileSizeLimit limit(1000);
    message = message_of<std::runtime_error>(
        [&] { write_file_atomically(folder / "a", std::string(5000, 'x')); });
  }
  EXPECT_TRUE(contains(message, "cannot write '" + (folder / "a").string() + "': File too large"));
  EXPECT_TRUE(contains(message, "the previous file is unchanged"));
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a"}));
}

TEST(AtomicFile, SaysWhenTheFolderIsMissing) {
  const TemporaryFolder folder;
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { AtomicFile(folder / "no/a"); }),
                       "no/a': No such file or directory"));
}

TEST(AtomicFile, SaysWhenTheFolderIsClosed) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write everywhere";
  }
  const TemporaryFolder folder;
  fs::create_directory(folder / "closed");
  fs::permissions(folder / "closed", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { AtomicFile(folder / "closed/a"); }),
                       "closed/a': Permission denied"));
}

// A rename would put a file where the device is, and the temporary of a name that is none, or that
// goes on behind a zero byte, is another file of the user.
TEST(AtomicFile, RefusesNamesOfWhatIsNoFile) {
  const TemporaryFolder folder;
  const auto message = [](const fs::path& path) {
    return message_of<std::runtime_error>([&] { write_file_atomically(path, "new"); });
  };
  fs::create_directory(folder / "folder");
  fs::create_symlink("/dev/full", folder / "full");
  fs::create_symlink("old", folder / "link");
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  write_file(folder / "old", "old");
  const auto before = folder.names();
  const std::string here = "cannot write '" + folder.path().string();
  EXPECT_EQ(message(folder / "folder"), here + "/folder': Is a directory");
  EXPECT_EQ(message(folder / "folder/"), here + "/folder/': Is a directory");
  EXPECT_EQ(message(folder / "full"), here + "/full': is not a regular file");
  EXPECT_EQ(message(folder / "pipe"), here + "/pipe': is not a regular file");
  EXPECT_EQ(message(folder / std::string_view("old\0x", 5)),
            here + "/old': the name goes on behind a zero byte");
  EXPECT_EQ(read_file(folder / "old"), "old");
  EXPECT_EQ(folder.names(), before);
  EXPECT_TRUE(fs::is_empty(folder / "folder"));

  const fs::path start = fs::current_path();
  fs::current_path(folder / "folder");
  write_file(".tmp", "precious");
  const std::string empty = message("");
  const std::string kept = read_file(".tmp");
  fs::current_path(start);
  EXPECT_EQ(empty, "cannot write '': the name is empty");
  EXPECT_EQ(kept, "precious");

  write_file_atomically(folder / "link", "new");
  EXPECT_EQ(read_file(folder / "link"), "new") << "a link to a file is replaced";
  EXPECT_EQ(read_file(folder / "old"), "old");
}

TEST(AtomicFile, IsDurableBeforeItIsVisible) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write(std::string_view("new"));
    file.finish();
    EXPECT_EQ(read_file(folder / "a"), "old");
    EXPECT_EQ(message_of([&] { file.write(std::string_view("x")); }),
              "reformer::AtomicFile::write: the file is finished, must be open");
    file.commit();
  }
  EXPECT_EQ(read_file(folder / "a"), "new");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  const auto message = [](const fs::path& path) {
    return message_of<std::runtime_error>([&] { MappedFile file(path); });
  };
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(contains(message(folder / "pipe"), "pipe': is not a regular file"));
  EXPECT_EQ(message("/dev/zero"), "cannot read '/dev/zero': is not a regular file");
  EXPECT_TRUE(contains(message(folder.path()), "': Is a directory"));
  EXPECT_EQ(message(""), "cannot read '': the name is empty");
  write_file(folder / "a", "a");
  EXPECT_TRUE(contains(message(folder / std::string_view("a\0x", 3)),
                       "a': the name goes on behind a zero byte"));
}

}  // namespace
}  // namespace reformer::test
