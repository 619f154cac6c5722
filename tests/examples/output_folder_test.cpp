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

TEST(FolderAround, IsThatOfThePlacesInWhichAPathIs) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "texts/more");
  write_file(folder / "file", "x");
  fs::create_directory_symlink(folder / "texts", folder / "link");
  const auto at = [&](const std::string& name) { return (folder / name).string(); };
  EXPECT_EQ(folder_around(at("texts/out"), {at("texts")}), at("texts"));
  EXPECT_EQ(folder_around(at("texts/more/../new/out"), {at("file"), at("texts")}), at("texts"));
  EXPECT_EQ(folder_around(at("texts"), {at("texts")}), at("texts"));
  EXPECT_EQ(folder_around(at("link/out"), {at("texts")}), at("texts"));
  EXPECT_EQ(folder_around(at("texts/out"), {at("link")}), at("link"));
  EXPECT_EQ(folder_around("out", {"."}), ".");
  EXPECT_EQ(folder_around(at("texts2/out"), {at("texts")}), std::nullopt);
  EXPECT_EQ(folder_around(at("out"), {at("texts"), at("file"), "-", at("nowhere")}), std::nullopt);
  EXPECT_EQ(folder_around(at("file"), {at("file")}), std::nullopt);
}

}  // namespace
}  // namespace training::test
