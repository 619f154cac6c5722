// SPDX-License-Identifier: MIT
// The feed-forward branch, width 512, hidden width 2048: forward, and reverse (recomputation and
// gradients).
//
// Useful work: 2 products forward, 6 in reverse, of 2 D F FLOP a token.
#include "support.hpp"

namespace reformer::bench {
namespace {

void feed_forward(benchmark::State& state) {
  const bool reverse = state.range(0) != 0;
  const Index T = state.range(1), D = 512, F = 2048;
  FeedForward<float> branch("ff", {.width = D, .hidden_width = F});
  std::uint32_t layer = 0;
  branch.for_each_parameter([&](Parameter<float>& p) {
    fill_normal(p.value.data(), p.size(), 0.02, RandomStream({1, 0, layer++}, Purpose::data));
    p.allocate_gradient();
  });
  Workspace workspace;
  FloatHalf<float> x(T, D), y(T, D);
  const auto row = random_tensor(Matrix<float>(1, D), 7);
  for (Index i = 0; i < T; ++i) x.write(i, 0, D, row.data());
  const auto dy = random_tensor(Matrix<float>(T, D), 8);
  Matrix<float> dx = Matrix<float>::Zero(T, D);
  FeedForward<float>::Saved saved;
  const Pass pass{workspace, 1, T};
  for (auto _ : state) {
    if (reverse) {
      branch.reverse(x, y, view(dy), view(dx), saved, pass);
    } else {
      branch.forward(x, y, saved, pass);
    }
  }
  report_work(state, 2.0 * static_cast<double>(D * F * T) * (reverse ? 6 : 2), workspace);
}

BENCHMARK(feed_forward)
    ->ArgNames({"reverse", "rows"})
    ->ArgsProduct({{0, 1}, {64, 1024, 16384}})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace reformer::bench
