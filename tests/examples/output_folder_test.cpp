// SPDX-License-Identifier: MIT
#include "training/output_folder.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include "examples/support.hpp"

namespace training::test {
namespace {

namespace fs = std::filesystem;

TEST(PrepareOutputFolder, CreatesParentsAndLeavesNothing) {
  const TemporaryFolder folder;
  prepare_output_folder(folder / "a/b");
  EXPECT_TRUE(fs::is_empty(folder / "a/b"));
  prepare_output_folder(folder / "a/b");
}

TEST(PrepareOutputFolder, SaysWhatIsInTheWay) {
  const TemporaryFolder folder;
  write_file(folder / "file", "x");
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { prepare_output_folder(folder / "file"); }),
               "file': it exists and is not a folder"));
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { prepare_output_folder(folder / "file/sub"); }),
               "file/sub': Not a directory"));
  EXPECT_EQ(read_file(folder / "file"), "x");
}

TEST(PrepareOutputFolder, RefusesAFolderThatIsNotWritable) {
  if (::geteuid() == 0) {
    GTEST_SKIP() << "root may write everywhere";
  }
  const TemporaryFolder folder;
  fs::create_directory(folder / "closed");
  fs::permissions(folder / "closed", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { prepare_output_folder(folder / "closed"); }),
               "closed': Permission denied"));
}

}  // namespace
}  // namespace training::test
