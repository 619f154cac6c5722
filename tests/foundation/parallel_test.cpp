// SPDX-License-Identifier: MIT
#include "reformer/foundation/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <vector>

#include "support/compare.hpp"

namespace reformer::test {
namespace {

/// Runs a loop and returns how often each index was visited; counts visits with a bad thread too.
std::vector<int> visits(int threads, Index count, std::atomic<int>& bad_threads) {
  std::vector<int> visited(static_cast<std::size_t>(count), 0);
  parallel_for(threads, count, [&](Index i, int thread) {
    ++visited[static_cast<std::size_t>(i)];
    if (thread < 0 || thread >= threads) ++bad_threads;
  });
  return visited;
}

TEST(ParallelFor, VisitsEachIndexOnce) {
  std::atomic<int> bad_threads{0};
  for (const int threads : thread_counts) {
    for (const Index count : {0, 1, 2, 3, 7, 100, 1001}) {
      EXPECT_EQ(visits(threads, count, bad_threads),
                std::vector<int>(static_cast<std::size_t>(count), 1))
          << threads << " threads, " << count << " indices";
    }
  }
  EXPECT_EQ(bad_threads, 0);
}

TEST(ParallelFor, NothingToDoCallsNothing) {
  parallel_for(2, 0, [](Index, int) { ADD_FAILURE() << "called"; });
}

/// A body whose threads hold something: how many hold it, and how often that began.
struct Holding {
  std::atomic<int>* held;
  std::atomic<int>* begun;
  std::atomic<int>* tasks_without;

  struct Held {
    explicit Held(const Holding& body) : count(body.held) {
      ++*count;
      ++*body.begun;
      mine() = true;
    }
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() {
      --*count;
      mine() = false;
    }
    std::atomic<int>* count;
  };
  static bool& mine() {
    thread_local bool is_held = false;
    return is_held;
  }
  Held held_by_thread() const { return Held(*this); }
  void operator()(Index, int) const {
    if (!mine()) ++*tasks_without;
  }
};

TEST(ParallelFor, LetsEachThreadHoldWhatTheBodyGivesWhileItWorks) {
  for (const int threads : thread_counts) {
    std::atomic<int> held{0}, begun{0}, tasks_without{0};
    parallel_for(threads, 50, Holding{&held, &begun, &tasks_without});
    EXPECT_EQ(tasks_without, 0) << threads << " threads";
    EXPECT_EQ(held, 0) << threads << " threads";
    EXPECT_GE(begun, 1) << threads << " threads";
    EXPECT_LE(begun, threads) << "once for each thread, not for each task";
    EXPECT_FALSE(Holding::mine());
  }
}

TEST(ParallelFor, OneThreadGoesInOrder) {
  std::vector<Index> order;
  parallel_for(1, 5, [&](Index i, int thread) {
    order.push_back(i);
    EXPECT_EQ(thread, 0);
  });
  EXPECT_EQ(order, (std::vector<Index>{0, 1, 2, 3, 4}));
}

#if defined(__x86_64__) && defined(__GNUC__)
// A copy for one thread, or for each place of the loop, could be rounded otherwise.
TEST(ParallelFor, HasOneCopyOfItsBody) {
  std::set<const void*> places;
  const auto collect = [&](int threads, Index count) {
    std::mutex mutex;
    parallel_for(threads, count, [&](Index, int) {
      const void* here = nullptr;
      asm volatile("lea (%%rip), %0" : "=r"(here));
      const std::lock_guard lock(mutex);
      places.insert(here);
    });
  };
  collect(1, 2);
  collect(2, 1);
  collect(2, 100);
  EXPECT_EQ(places.size(), 1U);
}
#endif

#ifdef _OPENMP
TEST(ParallelFor, NoTwoBodiesRunAsTheSameThreadAtOnce) {
  for (const int threads : thread_counts) {
    std::vector<std::atomic<int>> running(static_cast<std::size_t>(threads));
    std::atomic<int> collisions{0};
    parallel_for(threads, 500, [&](Index, int thread) {
      auto& mine = running[static_cast<std::size_t>(thread)];
      if (++mine != 1) ++collisions;
      for (volatile int spin = 0; spin < 200;) spin = spin + 1;
      --mine;
    });
    EXPECT_EQ(collisions, 0) << threads << " threads";
  }
}

TEST(ThreadsFor, ALittleWorkIsDoneByOne) {
  EXPECT_EQ(threads_for(3, 1e6), 3);
  EXPECT_EQ(threads_for(1, 1e6), 1);
#ifndef REFORMER_THREAD_SANITIZER
  EXPECT_EQ(threads_for(3, 1e5), 1);
#endif
}

TEST(ForEachRowTile, CoversAllRowsOnce) {
  for (const int threads : thread_counts) {
    for (const Index rows : {0, 1, 63, 64, 65, 500}) {
      std::vector<int> visited(static_cast<std::size_t>(rows), 0);
      for_each_row_tile(threads, rows, [&](Index first, Index count, int thread) {
        EXPECT_TRUE(thread >= 0 && thread < threads);
        for (Index i = first; i < first + count; ++i) ++visited[static_cast<std::size_t>(i)];
      });
      EXPECT_EQ(visited, std::vector<int>(static_cast<std::size_t>(rows), 1));
    }
  }
}

TEST(ParallelFor, WorksInsideARegionOfTheCaller) {
  constexpr int outer = 2;
  std::vector<int> results[outer];
  std::atomic<int> bad_threads{0};
#pragma omp parallel for num_threads(outer)
  for (int i = 0; i < outer; ++i) results[i] = visits(3, 200, bad_threads);
  for (const auto& visited : results) EXPECT_EQ(visited, std::vector<int>(200, 1));
  EXPECT_EQ(bad_threads, 0);
}

TEST(ParallelFor, LeavesTheProgramsThreadCountAlone) {
  const int before = omp_get_max_threads();
  std::atomic<int> bad_threads{0};
  visits(before + 2, 100, bad_threads);
  EXPECT_EQ(omp_get_max_threads(), before);
}
#endif

}  // namespace
}  // namespace reformer::test
