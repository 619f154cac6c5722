// SPDX-License-Identifier: MIT
// Whole steps of the model: forward only, forward + backward, and with clipping and Adam on top.
#include <optional>

#include "patterns.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index length = 4096;
  Index depth = 6;
  Index batch = 1;
  Index width = 512;
  Index rounds = 4;  // 0: exact attention
  Index chunk = 64;
  Index head_width = 64;
  Index vocabulary = 256;
  Precision precision = Precision::float32;
};

enum class What { forward, gradients, full };
const char* pass_of(What what) {
  return what == What::forward     ? forward
         : what == What::gradients ? forward_backward
                                   : "forward+backward+optimizer";
}

ModelConfig config_of(const Sizes& s) {
  ModelConfig config{.vocabulary = s.vocabulary,
                     .width = s.width,
                     .num_heads = s.width / s.head_width,
                     .head_width = s.head_width,
                     .feed_forward_width = 4 * s.width,
                     .positions = AxialPositions{{1024, 1024}, {s.width / 4, s.width * 3 / 4}}};
  const AttentionPattern lsh = LshPattern{.chunk_length = s.chunk, .num_hashes = s.rounds};
  config.layers.assign(static_cast<std::size_t>(s.depth),
                       s.rounds > 0 ? lsh : AttentionPattern(ExactPattern{}));
  return config;
}

/// Every product once; each branch's forward pass once more in the walk back, without the hash.
Work work(const Sizes& s, What what) {
  const ModelConfig config = config_of(s);
  const auto rows = static_cast<double>(s.batch * s.length);
  const auto D = static_cast<double>(s.width), F = 4 * D;
  const auto inner = static_cast<double>(config.num_heads * s.head_width);
  const auto batch = static_cast<double>(s.batch);
  double once = 0, hashing = 0;
  for (const LayerPattern& layer : config.layers) {
    const AttentionPattern& pattern = layer.of_heads[0];  // that of all heads
    const double projections = shares_query_key(pattern) ? 3 : 4;
    once += 2 * rows * (projections * D * inner + 2 * D * F);
    once += 2 * 2 * inner * batch * pairs_of(pattern, s.length);
    hashing += 2 * inner * batch * hash_columns_of(pattern, s.length);
  }
  const double head = 2 * rows * 2 * D * static_cast<double>(s.vocabulary);
  const double floor = 4 * rows * D * 4;
  if (what == What::forward) return {once + hashing + head, 0, floor / 2};
  return {3 * (once + head) + hashing, once, floor};
}

Tokens tokens_of(Index batch, Index length, Index vocabulary) {
  Tokens tokens(batch, length);
  const auto stream = random_stream(1);
  for (Index i = 0; i < tokens.size(); ++i) {
    tokens.data()[i] = static_cast<std::int32_t>(stream.uniform(static_cast<std::uint64_t>(i)) *
                                                 static_cast<double>(vocabulary));
  }
  return tokens;
}

/// How the model hangs together, on at most two layers and a short sequence: along the gradient of
/// each parameter, the loss must change as fast as the gradient's norm says. With exact attention,
/// because a hash that changes on the way makes the loss jump; that of LSH attention is verified by
/// its own cases. Relu bends the loss a little.
void verify(const Run& run, const Sizes& s) {
  ModelConfig config = config_of(s);
  config.layers.assign(static_cast<std::size_t>(std::min<Index>(s.depth, 2)),
                       ExactPattern{.shared_query_key = s.rounds > 0});
  Model<float> model(config);
  model.initialize(1, {.weights = 0.05, .embedding = 0.5, .axial_positions = 0.5});
  Workspace workspace(run.threads());
  const Tokens tokens = tokens_of(2, 50, s.vocabulary);
  const Tokens labels = next_token_labels(tokens);
  const RunOptions options{.key = {1, 1}, .training = true};
  model.zero_gradients();
  const Loss loss = model.loss_and_gradients(workspace, tokens, labels, 1.0F / 98, options);
  run.verify(std::isfinite(loss.sum), "the loss is not finite");
  run.verify(model.loss(workspace, tokens, labels, options).sum == loss.sum,
             "the loss with gradients differs from that without");
  model.for_each_parameter([&](Parameter<float>& p) {
    const auto norm = static_cast<double>(p.gradient.norm());
    run.verify(norm > 0, "the gradient of " + p.name + " is zero");
    const Matrix<float> kept = p.value;
    const double step = 1e-4 * loss.mean() / norm;  // along g / |g|
    const auto loss_at = [&](double by) {
      p.value = kept + static_cast<float>(by / norm) * p.gradient;
      return model.loss(workspace, tokens, labels, options).mean();
    };
    const double slope = (loss_at(step) - loss_at(-step)) / (2 * step);
    p.value = kept;
    run.verify(std::abs(slope - norm) < 0.05 * norm,
               detail::join("the loss changes along the gradient of ", p.name, " by ", slope,
                            ", the norm of the gradient is ", norm));
  });
}

void training_step(Run& run, const Sizes& s, What what) {
  const ModelConfig config = config_of(s);
  Model<float> model(config);
  const MemoryPlan plan = model.plan(s.batch, s.length, run.threads(), 0, s.precision);
  const auto bytes = [](std::size_t count) { return static_cast<double>(count); };
  const auto state = static_cast<double>(
      what == What::full ? Adam<float>::state_bytes(model.num_parameters()) : 0);
  const double needed = bytes(plan.total()) + state;
  if (const double there = available_bytes(); there > 0 && needed > there) {
    return run.skip(detail::join("needs ", needed * 1e-9, " GB, available are ", there * 1e-9));
  }
  model.initialize(1);
  model.zero_gradients();
  const Tokens tokens = tokens_of(s.batch, s.length, s.vocabulary);
  const Tokens labels = next_token_labels(tokens);
  const float scale = 1 / static_cast<float>(s.batch * (s.length - 1));
  Workspace workspace(run.threads());
  if (run.must_verify()) verify(run, s);
  reset_peak_resident();
  std::optional<Adam<float>> adam;
  if (what == What::full) adam.emplace().allocate(model);
  std::uint32_t step = 0;
  run.measure(work(s, what), &workspace, [&] {
    const RunOptions options{.key = {1, ++step}, .training = true, .precision = s.precision};
    if (what == What::forward) {
      benchmark::DoNotOptimize(model.loss(workspace, tokens, labels, options).sum);
      return;
    }
    if (adam) model.zero_gradients();
    const Loss loss = model.loss_and_gradients(workspace, tokens, labels, scale, options);
    benchmark::DoNotOptimize(loss.sum);
    if (adam) {
      const double norm = global_gradient_norm(workspace, model);
      adam->step(workspace, model, 1e-4, clipping_scale(norm, 1));
    }
  });
  run.verify(what == What::forward || workspace.peak_bytes() == plan.workspace(),
             detail::join("the workspace's peak is ", workspace.peak_bytes(),
                          " bytes, planned were ", plan.workspace()));
  run.count("parameter_bytes", bytes(plan.parameters));
  run.count("gradient_bytes", bytes(plan.gradients));
  run.count("optimizer_bytes", state);
  run.count("residual_bytes", bytes(plan.residual_halves));
  run.count("bucket_bytes", bytes(plan.saved));
  // A pass without gradients has two halves only, and nothing that is saved.
  const std::size_t kept =
      what == What::forward ? plan.residual_halves / 2 : plan.residual_halves + plan.saved;
  run.count("scratch_bytes", bytes(workspace.peak_bytes() - kept));
}

/// A case with an estimate of its time, if that is more than a moment.
Case expected(Case which, const Sizes& s, What what) {
  const double seconds = work(s, what).flop / 1.5e11 / which.threads;
  if (seconds > 0.1) which.seconds = seconds;
  return which;
}

const Registration registration([] {
  const auto step = [](Selection from, const Sizes& s, What what, int threads = default_threads()) {
    Case which{"training_step", s.rounds > 0 ? "lsh" : "exact", pass_of(what),
               sizes_of(s.batch, s.length, s.rounds), threads};
    which.sizes.emplace_back("depth", s.depth);
    which.sizes.emplace_back("width", s.width);
    if (s.vocabulary != Sizes{}.vocabulary) which.sizes.emplace_back("vocabulary", s.vocabulary);
    add(from, expected(which, s, what), [=](Run& run) { training_step(run, s, what); });
  };
  constexpr auto check = Selection::check, quick = Selection::quick, all = Selection::all;
  constexpr auto gradients = What::gradients;

  // A little of everything that the report is made of.
  for (const Index rounds : {0, 1, 2}) {
    Sizes tiny{.length = 200,
               .depth = 1,
               .batch = 2,
               .width = 32,
               .rounds = rounds,
               .chunk = 16,
               .head_width = 16};
    for (const What what : {What::forward, gradients, What::full}) step(check, tiny, what);
    for (const int threads : one_and_all_threads()) step(check, tiny, gradients, threads);
    for (const Index depth : {2, 3}) {
      tiny.depth = depth;
      step(check, tiny, gradients);
    }
    tiny.depth = 1;
    for (const Index length : {100, 400}) {
      tiny.length = length;
      for (const Index batch : {2, 400 / static_cast<int>(length)}) {
        tiny.batch = batch;
        step(check, tiny, gradients);
      }
    }
  }

  // Over length; one thread; forward only; with optimiser.
  for (const Index length : {1024, 4096, 16384}) step(quick, {.length = length}, gradients);
  for (const Index length : {65536, 262144}) step(all, {.length = length}, gradients);
  for (const Index length : {1024, 4096}) step(quick, {.length = length}, gradients, 1);
  step(all, {.length = 16384}, gradients, 1);
  step(quick, {}, What::forward);
  for (const Index length : {1024, 16384, 65536}) step(all, {.length = length}, What::forward);
  step(quick, {}, What::full);
  step(all, {.length = 1048576}, What::full);
  // Over depth, for time and memory.
  for (const Index depth : {1, 24}) step(quick, {.depth = depth}, gradients);
  for (const Index depth : {12, 96}) step(all, {.depth = depth}, gradients);
  for (const Index depth : {1, 24}) step(all, {.length = 16384, .depth = depth}, gradients);
  // Over rounds, width and batch.
  for (const Index rounds : {1, 2, 8}) step(quick, {.rounds = rounds}, gradients);
  for (const Index width : {256}) step(quick, {.width = width}, gradients);
  for (const Index width : {128, 1024}) step(all, {.width = width}, gradients);
  step(quick, {.length = 2048, .depth = 4, .batch = 4, .width = 256, .rounds = 2}, gradients);
  for (const Index batch : {4}) step(quick, {.length = 1024, .batch = batch}, gradients);
  for (const Index batch : {4, 16}) step(all, {.batch = batch}, gradients);
  // Exact attention instead.
  for (const Index length : {1024, 4096}) {
    step(quick, {.length = length, .rounds = 0}, gradients);
  }
  step(all, {.length = 16384, .rounds = 0}, gradients);
  // Tokens of pieces of words, GPT-2's number of them.
  step(all, {.length = 16384, .vocabulary = 50257}, What::full);
  // In each precision of products, one after another.
  const auto in_precision = [&](Selection from, Precision precision, Sizes s, What what) {
    s.precision = precision;
    Case which{"precision_of_step", name_of(precision), pass_of(what),
               sizes_of(s.batch, s.length, s.rounds)};
    which.sizes.emplace_back("depth", s.depth);
    add(from, expected(which, s, what), [=](Run& run) { training_step(run, s, what); });
  };
  const auto in_precisions = [&](Selection from, const Sizes& s) {
    for (const Precision precision : precisions) {
      in_precision(from, precision, s, gradients);
    }
  };
  in_precisions(check, {.length = 200, .depth = 1, .width = 32, .chunk = 16, .head_width = 16});
  in_precisions(quick, {});
  in_precisions(all, {.length = 16384});
  in_precisions(all, {.length = 65536});
  in_precision(all, Precision::bfloat16, {.length = 1048576}, What::full);
  // The same number of tokens in every step (the paper's figure 5), one layer.
  const auto fixed_tokens = [&](Selection from, Index tokens) {
    for (Index length = 1024; length <= tokens; length *= 2) {
      for (const Index rounds : {0, 1, 2, 4, 8}) {
        step(from, {.length = length, .depth = 1, .batch = tokens / length, .rounds = rounds},
             gradients);
      }
    }
  };
  fixed_tokens(quick, 16384);
  fixed_tokens(all, 65536);
});

}  // namespace
}  // namespace reformer::bench
