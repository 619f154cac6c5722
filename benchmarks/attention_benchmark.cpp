// SPDX-License-Identifier: MIT
// Attention without projections: LSH, local and exact, 8 heads of 64, forward and forward +
// backward.
//
// Useful work: 2 products forward and 5 backward of 2 K FLOP for each (query, key) pair that blocks
// show, masked halves included, and 2 K FLOP for each column of the rotations and token.
#include "support.hpp"

namespace reformer::bench {
namespace {

constexpr Index heads = 8, head_width = 64;

AttentionPattern pattern_of(int kind) {
  if (kind == 0) return LshPattern{.chunk_length = 64, .num_hashes = 4};
  if (kind == 1) return LocalPattern{.chunk_length = 64};
  return ExactPattern{};
}

double pairs_of(const AttentionPattern& pattern, Index length) {
  const auto T = static_cast<double>(length);
  if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
    return T * static_cast<double>(2 * lsh->chunk_length * lsh->num_hashes);
  }
  if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
    return T * static_cast<double>(2 * local->chunk_length);
  }
  return T * (T + 1) / 2;
}

void attention_step(benchmark::State& state) {
  const bool backward = state.range(1) != 0;
  const Index T = state.range(2);
  const AttentionOptions options{.pattern = pattern_of(static_cast<int>(state.range(0)))};
  const auto* lsh = std::get_if<LshPattern>(&options.pattern);
  Workspace workspace;
  const auto query = random_tensor(Tensor<float, 4>(1, T, heads, head_width), 1);
  const auto value = random_tensor(Tensor<float, 4>(1, T, heads, head_width), 2);
  const auto dout = random_tensor(Tensor<float, 4>(1, T, heads, head_width), 3);
  Tensor<float, 4> rotations;
  double columns = 0;
  if (lsh != nullptr) {
    const auto factors = bucket_factors(*lsh, T);
    rotations = random_rotations<float>(heads, head_width, lsh->num_hashes, factors, {1});
    columns = static_cast<double>(lsh->num_hashes * rotation_columns(factors));
  }
  for (auto _ : state) {
    Tensor<Bucket, 4> buckets;
    if (lsh != nullptr) buckets = lsh_buckets(workspace, query, *lsh, rotations);
    const auto output = attention(workspace, query, query, value, options, buckets);
    benchmark::DoNotOptimize(output.out.data());
    if (backward) {
      const auto gradients =
          attention_backward(workspace, query, query, value, options, output, dout, buckets);
      benchmark::DoNotOptimize(gradients.dquery.data());
    }
  }
  const double pairs = pairs_of(options.pattern, T);
  report_work(
      state,
      2.0 * head_width * heads * (pairs * (backward ? 7 : 2) + static_cast<double>(T) * columns),
      workspace);
}

BENCHMARK(attention_step)
    ->ArgNames({"kind(lsh,local,exact)", "backward", "length"})
    ->ArgsProduct({{0, 1, 2}, {0, 1}, {1024, 4096, 16384}})
    ->ArgsProduct({{0, 1}, {0, 1}, {65536}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void hashing(benchmark::State& state) {
  const Index T = state.range(0);
  const LshPattern pattern{.chunk_length = 64, .num_hashes = 4};
  const auto factors = bucket_factors(pattern, T);
  Workspace workspace;
  const auto x = random_tensor(Tensor<float, 4>(1, T, heads, head_width), 1);
  const auto rotations =
      random_rotations<float>(heads, head_width, pattern.num_hashes, factors, {1});
  for (auto _ : state) {
    const auto buckets = lsh_buckets(workspace, x, pattern, rotations);
    benchmark::DoNotOptimize(buckets.data());
  }
  report_work(state,
              2.0 * static_cast<double>(T * heads * head_width * pattern.num_hashes *
                                        rotation_columns(factors)),
              workspace);
}

BENCHMARK(hashing)
    ->ArgName("length")
    ->RangeMultiplier(4)
    ->Range(1024, 65536)
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace reformer::bench
