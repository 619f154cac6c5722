// SPDX-License-Identifier: MIT
/// @file
/// The one parallel loop, over tasks or over rows. Without OpenMP it is an ordinary loop.
///
/// Results never depend on the number of threads: a task writes only what it owns, and each element
/// is computed by one task in one order, however work is cut. No thread count is set for the
/// program: each region asks for its own.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/container.hpp"
#include "reformer/foundation/tensor.hpp"

#ifdef __SANITIZE_THREAD__  // gcc
#define REFORMER_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)  // clang
#define REFORMER_THREAD_SANITIZER
#endif
#endif

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// See `default_threads`.
/// @param most     what OpenMP would use
/// @param setting  OMP_NUM_THREADS, or null
/// @param limit    of the container
inline int threads_within(int most, const char* setting, const std::optional<int>& limit) {
  const bool is_set = setting != nullptr && *setting != '\0';
  return is_set ? most : std::min(most, limit.value_or(most));
}
}  // namespace detail

namespace detail {
/// See `default_threads`.
inline int threads_here() {
#ifdef _OPENMP
  return threads_within(omp_get_max_threads(), std::getenv("OMP_NUM_THREADS"),
                        container_processors());
#else
  return 1;
#endif
}
}  // namespace detail

/// Threads that a parallel loop uses when the user does not say: what OpenMP would use, but, unless
/// OMP_NUM_THREADS is set, no more than the container grants (`container_processors`). More threads
/// than that are stopped in turn, each while others wait for it.
#ifdef REFORMER_EXTERN_INSTANCES  // whether there is OpenMP is known where the loops are compiled
REFORMER_EXPORT int default_threads();
#else
inline int default_threads() {
  return detail::threads_here();
}
#endif

namespace detail {
/// Every task of a parallel loop goes through here, so a loop's body has one copy, whether it runs
/// on one thread or many and wherever the loop stands: what is computed again has the same bits.
template <typename Body>
REFORMER_COMPILED_ONCE void run_task(const Body& body, Index i, int thread) {
  body(i, thread);
}

/// What a thread holds while it is in a parallel loop: that of the body, if it has one.
template <typename Body>
auto held_in_loop(const Body& body) {
  if constexpr (requires { body.held_by_thread(); }) {
    return body.held_by_thread();
  } else {
    return 0;
  }
}
}  // namespace detail

/// Calls `body(i, thread)` for i = 0 ... count - 1, in any order, with 0 <= thread < threads.
/// `body` must not throw, and is compiled once. If it has a member `held_by_thread`, each thread
/// makes what that gives before its tasks and destroys it behind them.
template <typename Body>
void parallel_for(int threads, Index count, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1) {
#pragma omp parallel num_threads(threads)
    {
      [[maybe_unused]] const auto held = detail::held_in_loop(body);
#ifdef REFORMER_THREAD_SANITIZER  // every thread has a share, or a race could hide by chance
#pragma omp for schedule(static, 1) nowait
#else
#pragma omp for schedule(dynamic, 1) nowait
#endif
      for (Index i = 0; i < count; ++i) detail::run_task(body, i, omp_get_thread_num());
    }
    return;
  }
#else
  static_cast<void>(threads);
#endif
  [[maybe_unused]] const auto held = detail::held_in_loop(body);
  for (Index i = 0; i < count; ++i) detail::run_task(body, i, 0);
}

/// Threads worth waking for this much work, in FLOP: one has done a little of it before the others
/// are there.
inline int threads_for(int threads, double work) {
#ifdef REFORMER_THREAD_SANITIZER  // races are looked for in small loops
  static_cast<void>(work);
  return threads;
#else
  constexpr double least = 1 << 19;
  return work < least ? 1 : threads;
#endif
}

namespace detail {
/// Rows of a task, where rows are shared among threads.
inline constexpr Index tile_rows = 64;
}  // namespace detail

/// Calls `body(first_row, count, thread)` for tiles of `rows` rows, in parallel.
template <typename Body>
void for_each_row_tile(int threads, Index rows, const Body& body) {
  parallel_for(threads, ceil_div(rows, detail::tile_rows), [&](Index task, int thread) {
    const Index first = task * detail::tile_rows;
    body(first, std::min(detail::tile_rows, rows - first), thread);
  });
}

}  // namespace reformer::inline REFORMER_ABI
