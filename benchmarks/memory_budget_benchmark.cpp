// SPDX-License-Identifier: MIT
// A training step of six LSH layers that may store a part of what it would otherwise compute again
// in the walk back: time against memory.
#include <limits>

#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index length = 2048;
  Index depth = 6;
  Index width = 512;
  bool fixed = true;  // halves in fixed point
};

void memory_budget(Run& run, const Sizes& s, Index percent) {
  const Index T = s.length, D = s.width;
  ModelConfig config{.width = D,
                     .num_heads = D / 64,
                     .head_width = 64,
                     .feed_forward_width = 4 * D,
                     .positions = AxialPositions{{1024, 1024}, {D / 4, D * 3 / 4}}};
  config.layers.assign(static_cast<std::size_t>(s.depth),
                       LshPattern{.chunk_length = 64, .num_hashes = 4});
  if (s.fixed) config.residual = FixedResidual{};
  reset_peak_resident();
  const double before = resident_bytes();
  Model<float> model(config);
  model.initialize(1, {.weights = 0.05, .embedding = 0.5, .axial_positions = 0.5});
  model.zero_gradients();
  Workspace workspace(run.threads());
  Tokens tokens(1, T);
  for (Index t = 0; t < T; ++t) tokens(0, t) = static_cast<std::int32_t>(t * t % 251);
  const Tokens labels = next_token_labels(tokens);
  const auto everything =
      model.plan(1, T, run.threads(), std::numeric_limits<std::size_t>::max()).stored;
  const std::size_t budget = everything * static_cast<std::size_t>(percent) / 100;
  const auto step = [&](std::size_t bytes) {
    return model.loss_and_gradients(workspace, tokens, labels, 1 / static_cast<float>(T - 1),
                                    {.key = {1, 1}, .training = true, .memory_budget = bytes});
  };
  if (run.must_verify() && s.fixed) {  // exact halves: what is stored changes no bit
    std::vector<Matrix<float>> expected;
    step(0);
    model.for_each_parameter([&](const Parameter<float>& p) { expected.push_back(p.gradient); });
    model.zero_gradients();
    step(budget);
    std::size_t i = 0;
    model.for_each_parameter([&](const Parameter<float>& p) {
      run.verify(p.gradient == expected[i++], "the budget changes the gradient of " + p.name);
    });
  }
  reset_peak_resident();  // verifying kept a copy of the gradients
  const auto plan = model.plan(1, T, run.threads(), budget);
  run.measure({}, &workspace, [&] { benchmark::DoNotOptimize(step(budget).sum); });
  run.count("budget_bytes", static_cast<double>(budget));
  run.count("stored_bytes", static_cast<double>(plan.stored));
  run.count("planned_bytes", static_cast<double>(plan.total()));
  run.count("taken_bytes", peak_resident_bytes() - before);
}

const Registration registration([] {
  const auto with = [](Selection from, const Sizes& s, Index percent) {
    const Case which{
        "memory_budget",   s.fixed ? "fixed" : "float",
        forward_backward,  {{"length", s.length}, {"depth", s.depth}, {"percent", percent}},
        default_threads(), s.length > 1000 ? 2.0 : 0.0};
    add(from, which, [=](Run& run) { memory_budget(run, s, percent); });
  };
  for (const bool fixed : {true, false}) {
    for (const Index percent : {0, 50, 100}) {
      with(Selection::check, {.length = 100, .depth = 2, .width = 64, .fixed = fixed}, percent);
    }
    for (const Index percent : {0, 10, 25, 50, 75, 100}) {
      with(fixed ? Selection::quick : Selection::all, {.fixed = fixed}, percent);
    }
  }
});

}  // namespace
}  // namespace reformer::bench
