// SPDX-License-Identifier: MIT
#include "reformer/foundation/container.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "reformer/foundation/parallel.hpp"
#include "support/files.hpp"

namespace reformer::test {
namespace {

using Files = std::vector<std::pair<std::string, std::string>>;

/// A root folder with these files: path and content.
class Root {
 public:
  explicit Root(const Files& files) {
    for (const auto& [name, content] : files) {
      const auto path = folder_ / name;
      std::filesystem::create_directories(path.parent_path());
      write_file(path, content);
    }
  }
  std::optional<int> processors() const {
    return detail::processors_below(folder_.path().string());
  }
  std::optional<std::size_t> memory() const {
    return detail::memory_limit_below(folder_.path().string());
  }

 private:
  TemporaryFolder folder_;
};

const std::pair<std::string, std::string> version2{"proc/self/cgroup", "0::/\n"};

std::optional<int> processors_of(const std::string& cpu_max) {
  return Root({version2, {"sys/fs/cgroup/cpu.max", cpu_max}}).processors();
}

TEST(Container, GrantsItsQuotaRoundedUp) {
  EXPECT_EQ(processors_of("200000 100000\n"), 2);
  EXPECT_EQ(processors_of("150000 100000\n"), 2);
  EXPECT_EQ(processors_of("1000 100000\n"), 1);
  EXPECT_EQ(processors_of("400000 50000"), 8);
  EXPECT_EQ(processors_of("9223372036854775807 1\n"), 1 << 20);
}

TEST(Container, WithoutALimitSaysNothing) {
  EXPECT_EQ(processors_of("max 100000\n"), std::nullopt);
  EXPECT_EQ(Root({version2}).processors(), std::nullopt);
  EXPECT_EQ(Root({version2}).memory(), std::nullopt);
  EXPECT_EQ(Root({}).processors(), std::nullopt);
  EXPECT_EQ(Root({}).memory(), std::nullopt);
}

TEST(Container, WhatIsMalformedIsNoLimit) {
  for (const char* text : {"", "\n", "max", "200000", "200000 ", "200000 0", "200000 -1",
                           "0 100000", "-1 100000", "2x 100000", "200000 1e5", "200000  100000",
                           "99999999999999999999 100000", "200000 100000 7", "0x10 0x10"}) {
    EXPECT_EQ(processors_of(text), std::nullopt) << '"' << text << '"';
  }
  for (const char* text : {"", "max\n", "-1", "0", "12 34", "1G", "99999999999999999999"}) {
    EXPECT_EQ(Root({version2, {"sys/fs/cgroup/memory.max", text}}).memory(), std::nullopt)
        << '"' << text << '"';
  }
  for (const char* text : {"\n", "0\n", "0:\n", "0::\n", "x::y\n", "::::\n", "0::////\n"}) {
    const Root root({{"proc/self/cgroup", text}, {"sys/fs/cgroup/memory.limit_in_bytes", "x"}});
    EXPECT_EQ(root.processors(), std::nullopt) << '"' << text << '"';
    EXPECT_EQ(root.memory(), std::nullopt) << '"' << text << '"';
  }
}

TEST(Container, TheSmallestLimitOfNestedGroupsHolds) {
  const Root root({{"proc/self/cgroup", "0::/user/job/task\n"},
                   {"sys/fs/cgroup/user/job/task/cpu.max", "max 100000\n"},
                   {"sys/fs/cgroup/user/job/task/memory.max", "3000000\n"},
                   {"sys/fs/cgroup/user/job/cpu.max", "300000 100000\n"},
                   {"sys/fs/cgroup/user/cpu.max", "800000 100000\n"},
                   {"sys/fs/cgroup/user/memory.max", "2000000\n"},
                   {"sys/fs/cgroup/other/cpu.max", "100000 100000\n"},
                   {"sys/fs/cgroup/memory.max", "max\n"}});
  EXPECT_EQ(root.processors(), 3);
  EXPECT_EQ(root.memory(), 2000000u);
}

TEST(Container, ReadsVersion1) {
  const Root root(
      {{"proc/self/cgroup",
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n3:cpuset:/x\n0::/docker/abc\n"},
       // Inside a container the group's own folder is the root.
       {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000\n"},
       {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
       {"sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "100000\n"},
       {"sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"},
       {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"},
       {"sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "536870912\n"}});
  EXPECT_EQ(root.processors(), 3);
  EXPECT_EQ(root.memory(), 536870912u);

  const Root unlimited({{"proc/self/cgroup", "1:cpu:/\n2:memory:/\n"},
                        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
                        {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"},
                        {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}});
  EXPECT_EQ(unlimited.processors(), std::nullopt);
  EXPECT_EQ(unlimited.memory(), std::nullopt);
}

TEST(Container, DoesNotLookOutsideOfWhatIsMounted) {
  const Root root({{"proc/self/cgroup", "0::/../../other\n"},
                   {"sys/other/cpu.max", "100000 100000\n"},
                   {"other/cpu.max", "100000 100000\n"},
                   {"sys/fs/cgroup/cpu.max", "500000 100000\n"}});
  EXPECT_EQ(root.processors(), 5);
}

TEST(DefaultThreads, StayWithinTheContainerUnlessTheUserSays) {
  using detail::threads_within;
  EXPECT_EQ(threads_within(64, nullptr, 4), 4);
  EXPECT_EQ(threads_within(64, "", 4), 4);
  EXPECT_EQ(threads_within(2, nullptr, 4), 2) << "never more than OpenMP would use";
  EXPECT_EQ(threads_within(64, nullptr, std::nullopt), 64);
  EXPECT_EQ(threads_within(64, "64", 4), 64) << "the user has said how many";
}

}  // namespace
}  // namespace reformer::test
