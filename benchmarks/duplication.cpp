// SPDX-License-Identifier: MIT
// The duplication task of the paper (section 5): sequences 0 w 0 w, where w is drawn anew. The
// second w can be foreseen only by looking back to the first one. Prints, for a model of one layer,
// the share of symbols of the second w that are foreseen.
//
//     duplication --attention bucket | lsh | local | exact [--length N] [--steps N] [--seed N]
//                 [--buckets N] [--hashes N] [--once yes | no] [--minutes M] [--rate R]
//                 [--threads N]
//
// Every batch is new, so accuracy on the next one is accuracy on unseen data.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <reformer/reformer.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "table_program.hpp"

namespace reformer::bench {
namespace {

constexpr Index symbols = 127, batch = 8, chunk_length = 32;  // w holds symbols 1 to 127

struct Task {
  Tokens tokens, labels;
};

/// Sequences 0 w 0 w; labels are those of the second w only.
Task task_of(Index length, const RandomKey& key) {
  Task task{Tokens(batch, length), Tokens(batch, length)};
  const RandomStream stream(key, Purpose::data);
  const Index half = length / 2;
  for (Index b = 0; b < batch; ++b) {
    for (Index t = 0; t < length; ++t) {
      const Index i = t % half;
      const auto number = static_cast<std::uint64_t>(b * half + i);
      task.tokens(b, t) =
          i == 0 ? 0
                 : static_cast<std::int32_t>(1 + stream.bits(number)[0] % std::uint32_t{symbols});
    }
    for (Index t = 0; t < length; ++t) {
      task.labels(b, t) = t >= half && t + 1 < length ? task.tokens(b, t + 1) : ignored_label;
    }
  }
  return task;
}

double accuracy(Workspace& workspace, Model<float>& model, const Task& task,
                const RunOptions& options) {
  const auto logits = model.logits(workspace, task.tokens, options);
  Index right = 0, all = 0;
  for (Index b = 0; b < batch; ++b) {
    for (Index t = 0; t < task.labels.dimension(1); ++t) {
      if (task.labels(b, t) == ignored_label) continue;
      const float* row = &logits(b, t, 0);
      ++all;
      right += std::max_element(row, row + symbols + 1) - row == task.labels(b, t) ? 1 : 0;
    }
  }
  return static_cast<double>(right) / static_cast<double>(all);
}

void run(TableOptions options) {
  const auto number = [&](const char* name) { return Index{std::stol(options[name])}; };
  const Index length = number("--length");
  LshPattern lsh{.chunk_length = chunk_length,
                 .num_hashes = number("--hashes"),
                 .num_buckets = {number("--buckets")}};
  const std::map<std::string, AttentionPattern> kinds = [&] {
    LshPattern by_bucket = lsh;
    by_bucket.chunking = Chunking::bucket_chunks;
    if (options["--once"] == "yes") by_bucket.duplicates = Duplicates::once;
    const AttentionPattern local = LocalPattern{.chunk_length = chunk_length};
    return std::map<std::string, AttentionPattern>{
        {"lsh", lsh}, {"bucket", by_bucket}, {"local", local}, {"exact", ExactPattern{true}}};
  }();
  const std::string kind = options["--attention"];
  if (!kinds.contains(kind) || length < 4 || length % 2 != 0) {
    throw std::invalid_argument(
        "--attention must be bucket, lsh, local or exact, --length even and at least 4");
  }
  Model<float> model({.vocabulary = symbols + 1,
                      .width = 64,
                      .num_heads = 2,
                      .head_width = 32,
                      .feed_forward_width = 128,
                      .positions = LearnedPositions{length},
                      .layers = {kinds.at(kind)}});
  const auto seed = static_cast<std::uint64_t>(number("--seed"));
  model.initialize(seed, {.weights = 0.08, .embedding = 0.3, .learned_positions = 0.3});
  Adam<float> adam({.beta2 = 0.98});
  Workspace workspace(static_cast<int>(number("--threads")));
  const double rate = std::stod(options["--rate"]), minutes = std::stod(options["--minutes"]);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  double shown = -1e9;
  for (Index step = 1; step <= number("--steps"); ++step) {
    const RandomKey key{seed, static_cast<std::uint32_t>(step)};
    const Task task = task_of(length, key);
    const bool is_last = elapsed() > 60 * minutes || step == number("--steps");
    if (is_last || elapsed() > shown + 10) {
      shown = elapsed();
      std::printf("%s, seed %ld, step %ld, %.0f s: %.1f %% foreseen\n", kind.c_str(),
                  static_cast<long>(seed), static_cast<long>(step), shown,
                  100 * accuracy(workspace, model, task, {.key = key}));
      std::fflush(stdout);
    }
    if (is_last) break;
    model.zero_gradients();
    const float scale = 1.0F / static_cast<float>(batch * (length / 2 - 1));
    model.loss_and_gradients(workspace, task.tokens, task.labels, scale,
                             {.key = key, .training = true});
    const double norm = global_gradient_norm(workspace, model);
    adam.step(workspace, model, rate * std::min(1.0, static_cast<double>(step) / 200),
              norm > 1 ? 1 / norm : 1.0);
  }
}

}  // namespace
}  // namespace reformer::bench

int main(int argc, char** argv) {
  using namespace reformer::bench;
  return run_table_program(argc, argv,
                           {{"--attention", "bucket"},
                            {"--length", "1024"},
                            {"--steps", "100000"},
                            {"--seed", "1"},
                            {"--buckets", "16"},
                            {"--hashes", "2"},
                            {"--once", "no"},
                            {"--minutes", "1"},
                            {"--threads", "1"},
                            {"--rate", "0.001"}},
                           run);
}
