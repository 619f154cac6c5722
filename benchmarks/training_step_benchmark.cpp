// SPDX-License-Identifier: MIT
// Whole training steps without the optimiser: width 512, 8 heads of 64, feed-forward 2048, LSH with
// chunks of 64 and 4 rounds, byte vocabulary; over length and depth.
//
// Useful work counts every product once, and the recomputation of each branch during reversal once
// more.
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

void training_step(benchmark::State& state) {
  const Index T = state.range(0), L = state.range(1);
  ModelConfig config{.width = 512,
                     .num_heads = 8,
                     .head_width = 64,
                     .feed_forward_width = 2048,
                     .positions = AxialPositions{{1024, 1024}, {128, 384}}};
  config.layers.assign(static_cast<std::size_t>(L),
                       LshPattern{.chunk_length = 64, .num_hashes = 4});
  Model<float> model(config);
  model.initialize(1);
  model.zero_gradients();
  Workspace workspace;
  Tokens tokens(1, T);
  for (Index t = 0; t < T; ++t) tokens(0, t) = static_cast<int>((t * t) % 251);
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

}  // namespace
}  // namespace reformer::bench
