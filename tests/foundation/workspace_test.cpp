// SPDX-License-Identifier: MIT
#include "reformer/foundation/workspace.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "support/errors.hpp"

// Thread sanitizer brings an allocator that no program can replace.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define REFORMER_TEST_COUNTS_NOTHING
#endif
#endif
#ifdef REFORMER_TEST_COUNTS_NOTHING
constexpr bool counts_allocations = false;
#else
constexpr bool counts_allocations = true;
#endif

// Every allocation of this program with the alignment that the workspace asks for is counted: the
// workspace is the only code that asks for it. Not inlined: gcc would see `free` meet `new`, and
// warn.
namespace {
std::atomic<int> aligned_allocations{0};
std::atomic<int> aligned_alive{0};
}  // namespace

#ifndef REFORMER_TEST_COUNTS_NOTHING
[[gnu::noinline]] void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto a = static_cast<std::size_t>(alignment);
  if (size > std::size_t{1} << 40) throw std::bad_alloc();
  void* memory = std::aligned_alloc(a, (size + a - 1) / a * a);
  if (memory == nullptr) throw std::bad_alloc();
  ++aligned_allocations;
  ++aligned_alive;
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  if (memory != nullptr) --aligned_alive;
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  if (memory != nullptr) --aligned_alive;
  std::free(memory);
}
#endif

namespace reformer::test {
namespace {

constexpr Index megabyte = Index{1} << 20;

template <typename T>
std::uintptr_t address(T* p) {
  return reinterpret_cast<std::uintptr_t>(p);
}

TEST(Workspace, ThreadsAreThoseAskedForOrThoseOfOpenMp) {
  EXPECT_EQ(Workspace(3).threads(), 3);
  EXPECT_EQ(Workspace(0).threads(), default_threads());
  EXPECT_EQ(Workspace().threads(), default_threads());
  EXPECT_GE(default_threads(), 1);
}

TEST(Workspace, ReservedMemoryIsTheOnlyBlockOfTheFirstPass) {
  if (!counts_allocations) GTEST_SKIP();
  Workspace workspace(1);
  workspace.reserve(6 * megabyte);
  const int before = aligned_allocations;
  {
    Scratch scratch(workspace);
    for (int i = 0; i < 6; ++i) scratch.take<std::uint8_t>(megabyte);
    workspace.reserve(20 * megabyte);  // too late: scratch is in use
    EXPECT_EQ(workspace.bytes_in_use(), std::size_t{6 * megabyte});
  }
  workspace.reserve(5 * megabyte);  // there is more
  EXPECT_EQ(aligned_allocations, before);
  EXPECT_EQ(workspace.peak_bytes(), std::size_t{6 * megabyte});
  workspace.reserve(7 * megabyte);
  EXPECT_EQ(aligned_allocations, before + 1);
  EXPECT_EQ(aligned_alive, 1);
}

TEST(Workspace, ArraysAreAlignedAndDoNotOverlap) {
  Workspace workspace(1);
  Scratch scratch(workspace);
  std::vector<std::uintptr_t> begins, ends;
  for (const Index count : {1, 3, 64, 65, 1000, 0, 7}) {
    auto* bytes = scratch.take<std::uint8_t>(count);
    auto* doubles = scratch.take<double>(count);
    EXPECT_EQ(address(bytes) % 64, 0U);
    EXPECT_EQ(address(doubles) % 64, 0U);
    std::fill_n(bytes, count, std::uint8_t{0xff});
    std::fill_n(doubles, count, 1.0);
    begins.insert(begins.end(), {address(bytes), address(doubles)});
    ends.insert(ends.end(), {address(bytes + count), address(doubles + count)});
  }
  for (std::size_t i = 0; i < begins.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_TRUE(ends[i] <= begins[j] || ends[j] <= begins[i]) << "arrays " << j << ", " << i;
    }
  }
}

TEST(Workspace, CountsBytesInUseAndTheirPeak) {
  Workspace workspace(1);
  EXPECT_EQ(workspace.bytes_in_use(), 0U);
  {
    Scratch outer(workspace);
    outer.take<float>(16);
    EXPECT_EQ(workspace.bytes_in_use(), 64U);
    outer.take<std::uint8_t>(1);  // rounded up to the alignment
    EXPECT_EQ(workspace.bytes_in_use(), 128U);
    {
      Scratch inner(workspace);
      inner.take<double>(80);
      EXPECT_EQ(workspace.bytes_in_use(), 768U);
    }
    EXPECT_EQ(workspace.bytes_in_use(), 128U);
    {
      Scratch inner(workspace);
      inner.take<double>(8);
      EXPECT_EQ(workspace.bytes_in_use(), 192U);
    }
    EXPECT_EQ(workspace.peak_bytes(), 768U);
    workspace.reset_peak();
    EXPECT_EQ(workspace.peak_bytes(), 128U);
  }
  EXPECT_EQ(workspace.bytes_in_use(), 0U);
  EXPECT_EQ(workspace.peak_bytes(), 128U);
}

TEST(Workspace, AScopeThatEndsGivesItsMemoryToTheNext) {
  Workspace workspace(1);
  Scratch outer(workspace);
  const auto* kept = outer.take<int>(10);
  const int* first = nullptr;
  {
    Scratch inner(workspace);
    first = inner.take<int>(100);
  }
  Scratch inner(workspace);
  const auto* second = inner.take<int>(10);
  EXPECT_EQ(first, second);
  EXPECT_NE(kept, second);
}

/// A walk with nested scopes that needs far more than the first block.
std::vector<std::uintptr_t> walk(Workspace& workspace) {
  std::vector<std::uintptr_t> addresses;
  Scratch outer(workspace);
  auto* kept = outer.take<std::uint8_t>(megabyte / 2);
  std::fill_n(kept, megabyte / 2, std::uint8_t{7});
  addresses.push_back(address(kept));
  for (Index layer = 0; layer < 3; ++layer) {
    Scratch inner(workspace);
    for (const Index size : {megabyte / 4, megabyte, 3 * megabyte, Index{100}}) {
      auto* bytes = inner.take<std::uint8_t>(size);
      std::fill_n(bytes, size, static_cast<std::uint8_t>(layer));
      addresses.push_back(address(bytes));
    }
  }
  for (Index i = 0; i < megabyte / 2; ++i) {
    if (kept[i] != 7) ADD_FAILURE() << "memory of the outer scope was overwritten at " << i;
    if (kept[i] != 7) break;
  }
  return addresses;
}

TEST(Workspace, TheSecondPassFindsOneBlockAndLaterPassesAllocateNothing) {
  if (!counts_allocations) GTEST_SKIP();
  Workspace workspace(1);
  const int before = aligned_allocations;
  walk(workspace);
  EXPECT_GT(aligned_allocations - before, 1) << "this walk was meant to grow the stack";
  const std::size_t peak = workspace.peak_bytes();
  EXPECT_EQ(workspace.bytes_in_use(), 0U);

  const int after_first = aligned_allocations;
  const auto second = walk(workspace);
  EXPECT_EQ(aligned_allocations, after_first + 1);
  EXPECT_EQ(workspace.peak_bytes(), peak) << "the peak must not depend on how blocks were cut";
  const auto [low, high] = std::minmax_element(second.begin(), second.end());
  EXPECT_LT(*high - *low, peak) << "memory is not in one block";

  const int after_second = aligned_allocations;
  EXPECT_EQ(walk(workspace), second);
  EXPECT_EQ(walk(workspace), second);
  EXPECT_EQ(aligned_allocations, after_second);
}

TEST(Workspace, GivesAllMemoryBack) {
  if (!counts_allocations) GTEST_SKIP();
  const int before = aligned_alive;
  {
    Workspace workspace(1);
    walk(workspace);
    walk(workspace);
    EXPECT_GT(aligned_alive, before);
  }
  EXPECT_EQ(aligned_alive, before);
}

TEST(Workspace, SurvivesAnAllocationThatFails) {
  if (!counts_allocations) GTEST_SKIP();
  Workspace workspace(1);
  walk(workspace);
  {
    Scratch scratch(workspace);
    auto* kept = scratch.take<int>(3);
    kept[0] = 42;
    EXPECT_THROW(scratch.take<std::uint8_t>(Index{1} << 50), std::bad_alloc);
    EXPECT_EQ(workspace.bytes_in_use(), 64U);
    auto* more = scratch.take<int>(3);
    ASSERT_EQ(more, kept + 64 / sizeof(int)) << "the block has room, and must go on being used";
    more[0] = 43;
    EXPECT_EQ(kept[0], 42);
  }
  EXPECT_EQ(workspace.bytes_in_use(), 0U);
  walk(workspace);
}

constexpr Index largest = std::numeric_limits<Index>::max();

TEST(Workspace, RefusesNumbersOfThreadsThatMeanNothing) {
  EXPECT_EQ(message_of([] { Workspace workspace(-1); }),
            "reformer::Workspace: threads is -1, must be at least 0");
  EXPECT_EQ(message_of([] { Workspace workspace(2147483647); }),
            "reformer::Workspace: threads is 2147483647, must be at most 4096");
}

// Sizes that wrap when they are rounded or multiplied must neither be taken for small ones nor
// change anything: the next pass works.
TEST(Scratch, RefusesSizesThatNoMemoryHolds) {
  Workspace workspace(3);
  for (const std::size_t bytes : {SIZE_MAX, SIZE_MAX - 62, SIZE_MAX / 2, SIZE_MAX / 2 + 1}) {
    EXPECT_THROW(workspace.reserve(bytes), std::bad_alloc) << bytes;
  }
  Scratch scratch(workspace);
  const int* kept = scratch.take<int>(16);
  const std::size_t used = workspace.bytes_in_use(), peak = workspace.peak_bytes();
  for (const Index count :
       {largest, largest - 1, largest / 2, largest / 4, largest / 4 + 1, largest / 8 + 1}) {
    EXPECT_THROW(scratch.take<double>(count), std::bad_alloc) << count;
    EXPECT_THROW(scratch.per_thread<double>(count), std::bad_alloc) << count;
    EXPECT_THROW(scratch.matrix<double>(count, 1), std::bad_alloc) << count;
    EXPECT_THROW(scratch.matrix<double>(1, count), std::bad_alloc) << count;
    EXPECT_THROW(scratch.matrix<double>(count, count), std::bad_alloc) << count;
  }
  EXPECT_THROW(scratch.matrix<float>(Index{1} << 31, Index{1} << 31), std::bad_alloc);
  EXPECT_THROW(scratch.matrix<float>(Index{1} << 32, Index{1} << 32), std::bad_alloc)
      << "wraps to 0";
  EXPECT_EQ(workspace.bytes_in_use(), used);
  EXPECT_EQ(workspace.peak_bytes(), peak);
  EXPECT_EQ(scratch.take<int>(16), kept + 16);
}

TEST(Scratch, RefusesNegativeCounts) {
  Workspace workspace(2);
  Scratch scratch(workspace);
  const auto count = [](const std::string& function) {
    return "reformer::" + function + ": count is -1, must be at least 0";
  };
  EXPECT_EQ(message_of([&] { scratch.take<float>(-1); }), count("Scratch::take"));
  EXPECT_EQ(message_of([&] { scratch.per_thread<float>(-1); }), count("Scratch::per_thread"));
  EXPECT_EQ(message_of([&] { scratch.matrix<float>(-1, 4); }), count("Scratch::matrix"));
  EXPECT_EQ(message_of([&] { scratch.matrix<float>(4, -1); }), count("Scratch::matrix"));
  Workspace plan = Workspace::plan(2);
  Scratch planned(plan);
  EXPECT_EQ(message_of([&] { planned.take<float>(-1); }), count("Scratch::take"));
  EXPECT_EQ(message_of([&] { planned.per_thread<float>(-1); }), count("Scratch::per_thread"));
  EXPECT_EQ(message_of([&] { planned.matrix<float>(-1, -1); }), count("Scratch::matrix"));
  EXPECT_EQ(workspace.bytes_in_use(), 0U);
  EXPECT_EQ(plan.peak_bytes(), 0U);
}

/// Given a workspace that only plans, an operation takes its scratch and touches nothing.
TEST(PlannedScratch, IsCountedAndNull) {
  Workspace plan = Workspace::plan(3), workspace(3);
  EXPECT_TRUE(plan.only_plans());
  EXPECT_FALSE(workspace.only_plans());
  EXPECT_EQ(plan.threads(), 3);
  plan.reserve(1000);
  {
    Scratch outer(plan), used(workspace);
    EXPECT_EQ(outer.take<float>(5), nullptr);
    used.take<float>(5);
    EXPECT_EQ(plan.bytes_in_use(), 64U);
    {
      Scratch inner(plan), inner_used(workspace);
      const auto m = inner.matrix<double>(3, 9);
      EXPECT_EQ(m.rows, 3);
      EXPECT_EQ(m.columns, 9);
      EXPECT_EQ(m.row(2), nullptr);
      EXPECT_EQ(inner.per_thread<float>(17)[2], nullptr);
      EXPECT_TRUE(detail::take_span<int>(inner, 4).empty());
      inner_used.matrix<double>(3, 9);
      inner_used.per_thread<float>(17);
      inner_used.take<int>(4);
      EXPECT_EQ(plan.bytes_in_use(), workspace.bytes_in_use());
    }
    EXPECT_EQ(plan.bytes_in_use(), 64U);
  }
  EXPECT_EQ(plan.bytes_in_use(), 0U);
  EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes());
  const auto fails = [](const auto&...) { FAIL() << "called"; };
  parallel_for(plan, 5, fails);
  parallel_for(plan, 2, 5, fails);
  for_each_row_tile(plan, 100, fails);
  std::vector<Index> panels;
  detail::for_each_panel(plan, 100, 30, [&](Index, Index rows) { panels.push_back(rows); });
  EXPECT_EQ(panels, std::vector<Index>{30});
}

TEST(PlannedScratch, RefusesSizesThatNoMemoryHolds) {
  Workspace plan = Workspace::plan(3);
  Scratch scratch(plan);
  for (const Index count : {largest, largest / 4 + 1, largest / 8 + 1}) {
    EXPECT_THROW(scratch.take<double>(count), std::bad_alloc) << count;
    EXPECT_THROW(scratch.per_thread<double>(count), std::bad_alloc) << count;
    EXPECT_THROW(scratch.matrix<double>(2, count), std::bad_alloc) << count;
    EXPECT_THROW(scratch.matrix<double>(count, 2), std::bad_alloc) << count;
  }
  EXPECT_EQ(plan.peak_bytes(), 0U);
  scratch.take<std::uint8_t>(largest - 127);
  scratch.take<std::uint8_t>(largest - 127);
  EXPECT_THROW(scratch.take<std::uint8_t>(largest - 127), std::bad_alloc) << "their sum wraps";
  EXPECT_EQ(plan.peak_bytes(), 2 * (static_cast<std::size_t>(largest) - 127));
}

TEST(Scratch, RowsOfAMatrixStartLinesAndAvoidLargePowersOfTwo) {
  for (const Index columns : {1, 5, 8, 63, 64, 512, 1000, 2048}) {
    Workspace workspace(1);
    Scratch scratch(workspace);
    const auto m = scratch.matrix<double>(3, columns);
    EXPECT_EQ(m.rows, 3);
    EXPECT_EQ(m.columns, columns);
    EXPECT_GE(m.stride, columns);
    EXPECT_EQ(m.stride % 8, 0) << columns;
    EXPECT_NE(m.stride % 64, 0) << columns;
    EXPECT_EQ(&m(2, columns - 1), m.data + 2 * m.stride + columns - 1);
    Workspace plan = Workspace::plan(1);
    Scratch(plan).matrix<double>(3, columns);
    EXPECT_EQ(workspace.bytes_in_use(), plan.peak_bytes()) << columns;
    EXPECT_EQ(plan.bytes_in_use(), 0U);
  }
}

TEST(Scratch, ThreadsGetArraysOnLinesOfTheirOwn) {
  Workspace workspace(4);
  Scratch scratch(workspace);
  for (const Index count : {1, 8, 9, 100}) {
    const auto arrays = scratch.per_thread<double>(count);
    for (int thread = 0; thread < 4; ++thread) {
      EXPECT_EQ(address(arrays[thread]) % 64, 0U);
      std::fill_n(arrays[thread], count, thread);
      EXPECT_TRUE(thread == 0 || arrays[thread] >= arrays[thread - 1] + count);
    }
    for (int thread = 0; thread < 4; ++thread) {
      for (Index i = 0; i < count; ++i) EXPECT_EQ(arrays[thread][i], thread);
    }
  }
}

TEST(Scratch, MemoryForThreadsGrowsWithTheThreads) {
  const auto bytes = [](int threads) {
    Workspace workspace(threads);
    Scratch scratch(workspace);
    scratch.per_thread<float>(17);
    return workspace.bytes_in_use();
  };
  EXPECT_EQ(bytes(1), 128U);
  EXPECT_EQ(bytes(3), 3 * 128U);
}

}  // namespace
}  // namespace reformer::test
