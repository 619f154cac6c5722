// SPDX-License-Identifier: MIT
// The duplication task of the paper (section 5): sequences 0 w 0 w, where w is drawn anew. The
// second w can be foreseen only by looking back to the first one. Prints, for a model of one layer,
// the share of symbols of the second w that are foreseen, and at the end that share with exact
// attention and with other numbers of hash rounds (the paper's table 2): of the pattern it was
// trained with, or of bucket chunks if that was exact.
//
//     duplication --attention bucket | lsh | local | exact [--values following | own]
//                 [--length N] [--batch N] [--steps N] [--seed N] [--chunk N]
//                 [--buckets N or N,N] [--hashes N] [--once yes | no] [--minutes M] [--rate R]
//                 [--positions learned | axial] [--threads N]
//
// Every batch is new, so accuracy on the next one is accuracy on unseen data.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <reformer/reformer.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "table_program.hpp"

namespace reformer::bench {
namespace {

constexpr Index symbols = 127;  // w holds symbols 1 to 127

struct Task {
  Tokens tokens, labels;
};

/// Sequences 0 w 0 w; labels are those of the second w only.
Task task_of(Index batch, Index length, const RandomKey& key) {
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
  for (Index b = 0; b < task.tokens.dimension(0); ++b) {
    for (Index t = 0; t < task.labels.dimension(1); ++t) {
      if (task.labels(b, t) == ignored_label) continue;
      const float* row = &logits(b, t, 0);
      ++all;
      right += std::max_element(row, row + symbols + 1) - row == task.labels(b, t) ? 1 : 0;
    }
  }
  return static_cast<double>(right) / static_cast<double>(all);
}

/// "16" or "4,8"
std::vector<Index> numbers_of(const std::string& text) {
  std::vector<Index> numbers;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) numbers.push_back(std::stol(part));
  return numbers;
}

/// The same parameters, but another pattern of attention with shared queries and keys.
Model<float> copy_with(AttentionPattern pattern, Model<float>& model) {
  ModelConfig config = model.config();
  std::visit([&](auto& p) { p.values = values_of(config.layers[0].of_heads[0]); }, pattern);
  config.layers = {pattern};
  Model<float> copy(config);
  std::vector<Matrix<float>> values;
  model.for_each_parameter([&](const auto& p) { values.push_back(p.value); });
  std::size_t next = 0;
  copy.for_each_parameter([&](auto& p) { p.value = values[next++]; });
  return copy;
}

void run(TableOptions options) {
  const auto number = [&](const char* name) { return Index{std::stol(options[name])}; };
  const Index length = number("--length"), batch = number("--batch"), chunk = number("--chunk");
  LshPattern lsh{.chunk_length = chunk,
                 .num_hashes = number("--hashes"),
                 .num_buckets = numbers_of(options["--buckets"])};
  std::map<std::string, AttentionPattern> kinds = [&] {
    LshPattern by_bucket = lsh;
    by_bucket.chunking = Chunking::bucket_chunks;
    if (options["--once"] == "yes") by_bucket.duplicates = Duplicates::once;
    const AttentionPattern local = LocalPattern{.chunk_length = chunk};
    return std::map<std::string, AttentionPattern>{
        {"lsh", lsh}, {"bucket", by_bucket}, {"local", local}, {"exact", ExactPattern{true}}};
  }();
  const std::map<std::string, Values> values{{"own", Values::own},
                                             {"following", Values::following}};
  const std::string kind = options["--attention"];
  if (!kinds.contains(kind) || !values.contains(options["--values"]) || length < 4 ||
      length % 2 != 0) {
    throw std::invalid_argument(
        "--attention must be bucket, lsh, local or exact, --values own or following, --length even "
        "and at least 4");
  }
  AttentionPattern pattern = kinds.at(kind);
  std::visit([&](auto& p) { p.values = values.at(options["--values"]); }, pattern);
  PositionConfig positions = LearnedPositions{length};
  if (options["--positions"] == "axial") {
    Index columns = 1;
    while (columns * columns < length) columns *= 2;
    positions = AxialPositions{{ceil_div(length, columns), columns}, {32, 32}};
  }
  Model<float> model({.vocabulary = symbols + 1,
                      .width = 64,
                      .num_heads = 2,
                      .head_width = 32,
                      .feed_forward_width = 128,
                      .positions = positions,
                      .layers = {pattern}});
  const auto seed = static_cast<std::uint64_t>(number("--seed"));
  model.initialize(
      seed, {.weights = 0.08, .embedding = 0.3, .learned_positions = 0.3, .axial_positions = 0.3});
  Adam<float> adam({.beta2 = 0.98});
  Workspace workspace(static_cast<int>(number("--threads")));
  const double rate = std::stod(options["--rate"]), minutes = std::stod(options["--minutes"]);
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const std::string name = kind + ", values " + options["--values"];
  double shown = -1e9;
  Index step = 1;
  for (;; ++step) {
    const RandomKey key{seed, static_cast<std::uint32_t>(step)};
    const Task task = task_of(batch, length, key);
    const bool is_last = elapsed() > 60 * minutes || step == number("--steps");
    if (is_last || elapsed() > shown + 10) {
      shown = elapsed();
      std::printf("%s, seed %ld, step %ld, %.0f s: %.2f %% foreseen\n", name.c_str(),
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
    // A warm-up, and a linear cool-down over the last fifth of the time.
    const double warm_up = static_cast<double>(step) / 200;
    const double cool_down = std::max(0.02, 5 * (1 - elapsed() / (60 * minutes)));
    adam.step(workspace, model, rate * std::min({1.0, warm_up, cool_down}),
              norm > 1 ? 1 / norm : 1.0);
  }

  // Sequences that no step has seen.
  const auto evaluate = [&](Model<float>& trained, const std::string& how, Index rounds) {
    double sum = 0;
    constexpr std::uint32_t tasks = 4;
    for (std::uint32_t i = 0; i < tasks; ++i) {
      const RandomKey key{seed + 1, i};
      sum += accuracy(workspace, trained, task_of(batch, length, key),
                      {.key = key, .num_hashes = rounds});
    }
    std::printf("%s, seed %ld, evaluated with %s: %.2f %%\n", name.c_str(), static_cast<long>(seed),
                how.c_str(), 100 * sum / tasks);
    std::fflush(stdout);
  };
  if (!shares_query_key(pattern)) return;
  Model<float> exact = copy_with(kinds.at("exact"), model);
  evaluate(exact, "exact attention", 0);
  Model<float> hashed = copy_with(kinds.at(kind == "lsh" ? "lsh" : "bucket"), model);
  for (const Index rounds : {8, 4, 2, 1}) {
    evaluate(hashed, std::to_string(rounds) + " rounds", rounds);
  }
}

}  // namespace
}  // namespace reformer::bench

int main(int argc, char** argv) {
  using namespace reformer::bench;
  return run_table_program(argc, argv,
                           {{"--attention", "bucket"},
                            {"--values", "following"},
                            {"--length", "1024"},
                            {"--batch", "8"},
                            {"--steps", "1000000"},
                            {"--seed", "1"},
                            {"--chunk", "32"},
                            {"--positions", "learned"},
                            {"--buckets", "16"},
                            {"--hashes", "2"},
                            {"--once", "no"},
                            {"--minutes", "1"},
                            {"--threads", "1"},
                            {"--rate", "0.001"}},
                           run);
}
