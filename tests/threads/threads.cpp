// SPDX-License-Identifier: MIT
/// What thread sanitizer must report, and what it must not: whether the other tests mean anything
/// under it. Every loop has one task for each of two threads. And what a model promises to threads.
///
///     ordered   what a thread writes in one loop, the other goes on with in the next. Only the end
///               of a loop orders the two, which the sanitizer has to be told.
///     race      both threads write the same number in the same loop
///     model     eight threads run inference on one model, with the results of one thread
#include <array>
#include <atomic>
#include <cstdio>
#include <string_view>

#include "model/one_model.hpp"
#include "reformer/foundation/parallel.hpp"

int main(int argc, char** argv) {
  const std::string_view mode = argc == 2 ? argv[1] : "";
  if (mode == "model") return reformer::test::differences_of_threads(8);
  if (mode != "ordered" && mode != "race") {
    std::fprintf(stderr, "usage: %s ordered|race|model\n", argv[0]);
    return 2;
  }
  constexpr int loops = 100;
  std::array<int, 2> numbers{};
  std::atomic<int> arrived = 0;
  for (int loop = 0; loop < loops; ++loop) {
    reformer::parallel_for(2, 2, [&](reformer::Index, int thread) {
      // Tasks wait for each other, so each thread has one. Relaxed: this orders nothing else.
      arrived.fetch_add(1, std::memory_order_relaxed);
      while (arrived.load(std::memory_order_relaxed) < 2 * (loop + 1)) continue;
      numbers[static_cast<std::size_t>(mode == "race" ? 0 : (thread + loop) % 2)] += 1;
    });
  }
  if (mode == "ordered" && numbers != std::array{loops, loops}) return 1;
  return 0;
}
