// SPDX-License-Identifier: MIT
#include "reformer/io/atomic_file.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "support/errors.hpp"
#include "support/files.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;

/// Makes the disk full, as far as this process can tell: no file may grow beyond `bytes`.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit old_{};
  void (*old_handler_)(int);
};

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

}  // namespace
}  // namespace reformer::test
