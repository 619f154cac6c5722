// SPDX-License-Identifier: MIT
// Whole training steps without the optimiser: width 512, 8 heads of 64, feed-forward 2048, LSH with
// chunks of 64 and 4 rounds, byte vocabulary; over length and depth.
//
// Useful work counts every product once, and the recomputation of each branch during reversal once
// more.
//
// `memory_budget` is a step of 2048 tokens and 6 layers with halves in fixed point, or in floating
// point, given a part of the memory that it could store to save time. `planned_MB` is what
// Model::plan says of the whole step, `resident_MB` what the process has taken since the model was
// made.
#include <unistd.h>

#include <cstdio>
#include <limits>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "support.hpp"

namespace reformer::bench {
namespace {

double work(const ModelConfig& config, double T) {
  const auto D = static_cast<double>(config.width),
             F = static_cast<double>(config.feed_forward_width);
  const auto inner = static_cast<double>(config.num_heads * config.head_width);
  double products = 0;
  for (const auto& pattern : config.layers) {
    const auto& lsh = std::get<LshPattern>(pattern);
    const auto pairs = static_cast<double>(2 * lsh.chunk_length * lsh.num_hashes) * T;
    const auto columns = static_cast<double>(
        lsh.num_hashes * rotation_columns(bucket_factors(lsh, static_cast<Index>(T))));
    const double dense = T * (3 * D * inner + 2 * D * F);
    // Twice: forward, and recomputed in reverse. Hashing is done once.
    products += 2 * (dense + 2 * pairs * inner) + T * inner * columns;
    products += 2 * dense + 5 * pairs * inner;
  }
  products += 3 * T * 2 * D * static_cast<double>(config.vocabulary);
  return 2 * products;
}

ModelConfig config_of(Index L) {
  ModelConfig config{.width = 512,
                     .num_heads = 8,
                     .head_width = 64,
                     .feed_forward_width = 2048,
                     .positions = AxialPositions{{1024, 1024}, {128, 384}}};
  config.layers.assign(static_cast<std::size_t>(L),
                       LshPattern{.chunk_length = 64, .num_hashes = 4});
  return config;
}

Tokens tokens_of(Index T) {
  Tokens tokens(1, T);
  for (Index t = 0; t < T; ++t) tokens(0, t) = static_cast<int>((t * t) % 251);
  return tokens;
}

void training_step(benchmark::State& state) {
  const Index T = state.range(0);
  const ModelConfig config = config_of(state.range(1));
  Model<float> model(config);
  model.initialize(1);
  model.zero_gradients();
  Workspace workspace;
  const Tokens tokens = tokens_of(T);
  const Tokens labels = next_token_labels(tokens);
  for (auto _ : state) {
    const Loss loss = model.loss_and_gradients(
        workspace, tokens, labels, 1.0f / static_cast<float>(T), {.key = {1, 1}, .training = true});
    benchmark::DoNotOptimize(loss.sum);
  }
  report_work(state, work(config, static_cast<double>(T)), workspace);
  const auto floor = static_cast<double>(4 * T * config.width) * sizeof(float);
  state.counters["memory_by_floor"] = (floor + static_cast<double>(workspace.peak_bytes())) / floor;
}

BENCHMARK(training_step)
    ->ArgNames({"length", "depth"})
    ->ArgsProduct({{1024, 4096, 16384, 65536}, {6}})
    ->Args({4096, 12})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

/// Memory of the process that is in use, in bytes.
double resident() {
#ifdef __GLIBC__
  malloc_trim(0);  // gives back what the models before have left
#endif
  long pages = 0, in_use = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &pages, &in_use) != 2) in_use = 0;
    std::fclose(file);
  }
  return static_cast<double>(in_use) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

void memory_budget(benchmark::State& state) {
  constexpr Index T = 2048;
  ModelConfig config = config_of(6);
  if (state.range(0) == 1) config.residual = FixedResidual{};
  const double before = resident();
  Model<float> model(config);
  model.initialize(1);
  model.zero_gradients();
  Workspace workspace;
  const Tokens tokens = tokens_of(T), labels = next_token_labels(tokens);
  const auto everything =
      model.plan(1, T, workspace.threads(), std::numeric_limits<std::size_t>::max()).stored;
  const std::size_t budget = everything / 100 * static_cast<std::size_t>(state.range(1)) +
                             (state.range(1) == 100 ? 100 : 0);
  const auto step = [&] {
    const Loss loss =
        model.loss_and_gradients(workspace, tokens, labels, 1.0f / static_cast<float>(T),
                                 {.key = {1, 1}, .training = true, .memory_budget = budget});
    benchmark::DoNotOptimize(loss.sum);
  };
  step();  // allocates
  for (auto _ : state) step();
  const MemoryPlan plan = model.plan(1, T, workspace.threads(), budget);
  state.counters["budget_MB"] = static_cast<double>(budget) * 1e-6;
  state.counters["stored_MB"] = static_cast<double>(plan.stored) * 1e-6;
  state.counters["planned_MB"] = static_cast<double>(plan.total()) * 1e-6;
  state.counters["resident_MB"] = (resident() - before) * 1e-6;
}

BENCHMARK(memory_budget)
    ->ArgNames({"fixed", "percent"})
    ->ArgsProduct({{0, 1}, {0, 10, 25, 50, 75, 100}})
    ->Iterations(2)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace reformer::bench
