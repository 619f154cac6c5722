// SPDX-License-Identifier: MIT
// What the benchmarks share: inputs, and useful work as a fraction of this machine's own peak.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <reformer/reformer.hpp>

namespace reformer::bench {

/// Fused multiply-adds on registers only, on `threads` threads: FLOP per second that nothing can
/// exceed here.
inline double fma_peak(int threads) {
  constexpr Index rounds = 4'000'000, chains = 12;
  constexpr Index W = simd::width<float>;
  const auto run = [&] {
    std::vector<float> sink(static_cast<std::size_t>(threads) * 64);
    const auto start = std::chrono::steady_clock::now();
    parallel_for(threads, threads, [&](Index task, int) {
      simd::Packet<float> sums[chains];
      for (Index c = 0; c < chains; ++c) sums[c] = simd::set(static_cast<float>(c));
      const auto factor = simd::set(0.999f), term = simd::set(0.1f);
      for (Index i = 0; i < rounds; ++i) {
        for (auto& sum : sums) sum = Eigen::internal::pmadd(sum, factor, term);
      }
      for (const auto& sum : sums)
        sink[static_cast<std::size_t>(task) * 64] += Eigen::internal::predux(sum);
    });
    benchmark::DoNotOptimize(sink.data());
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  double best = run();
  for (int i = 0; i < 4; ++i) best = std::min(best, run());
  return 2.0 * static_cast<double>(W * chains * rounds * threads) / best;
}

/// Reports useful FLOP per iteration: per second, and as a share of the peak measured in this
/// process.
inline void report_work(benchmark::State& state, double flop, const Workspace& workspace) {
  static const double peak = fma_peak(default_threads());
  state.counters["GFLOP/s"] =
      benchmark::Counter(flop * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_peak"] =
      benchmark::Counter(flop / peak, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["scratch_MB"] = static_cast<double>(workspace.peak_bytes()) * 1e-6;
}

template <typename T>
T random_tensor(T tensor, std::uint32_t layer) {
  fill_normal(tensor.data(), tensor.size(), 1.0, RandomStream({1, 0, layer}, Purpose::data));
  return tensor;
}

}  // namespace reformer::bench
