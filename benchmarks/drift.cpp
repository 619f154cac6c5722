// SPDX-License-Identifier: MIT
// How far reversal drifts: a table over depth and kinds of residual halves, for a fresh model and
// for one trained on a text.
//
//     drift --data FILE [--steps N] [--threads N]
//
// A model of LSH layers goes forward and back over one batch of the text. For each kind of halves:
// the largest and the mean absolute error of the input that the backward walk arrives at, the share
// of bucket ids that come out otherwise when each layer's rebuilt input is hashed again, and the
// relative error of the gradient of all layers, |g - g'| / |g'|, against g' of the same halves with
// stored activations.
#include <algorithm>
#include <cstdio>
#include <map>
#include <reformer/reformer.hpp>
#include <string>
#include <vector>

#include "table_program.hpp"
#include "text_model.hpp"

namespace reformer::bench {
namespace {

constexpr Index batch = 1, length = 256, width = 64;

/// Claims to be exact, so that no bucket ids are saved: the mistake that saved bucket ids prevent.
struct FloatWithoutBuckets : FloatingHalf<float> {
  using FloatingHalf<float>::FloatingHalf;
  static constexpr bool is_exact() { return true; }
};

ModelConfig config_of(Index depth) {
  ModelConfig config{.width = width,
                     .num_heads = 2,
                     .head_width = 32,
                     .feed_forward_width = 256,
                     .positions = LearnedPositions{length}};
  config.layers.assign(static_cast<std::size_t>(depth),
                       LshPattern{.chunk_length = 32, .num_hashes = 2});
  return config;
}

std::vector<float> values_of(const auto& half) {
  std::vector<float> values(static_cast<std::size_t>(half.rows() * half.columns()));
  for (Index i = 0; i < half.rows(); ++i) {
    half.read(i, 0, half.columns(), values.data() + i * half.columns());
  }
  return values;
}

/// Bucket ids of a layer's attention on the half that it reads, hashed anew.
template <typename Half>
std::vector<Bucket> buckets_of(const SelfAttention<float>& attention, const Half& x,
                               const Pass& pass) {
  FloatingHalf<float> copy(x.rows(), width), sum(x.rows(), width);
  const auto values = values_of(x);
  for (Index row = 0; row < x.rows(); ++row) {
    copy.write(row, 0, width, values.data() + row * width);
  }
  Scratch memory(pass.workspace);
  auto saved = attention.saved_in(memory, {pass.batch, pass.length});
  attention.forward(copy, sum, saved, pass);
  return {saved.buckets.begin(), saved.buckets.end()};
}

struct Result {
  double largest = 0, mean = 0, changed = 0;
  std::vector<float> gradients;
};

template <typename Half>
Result walk(Model<float>& model, Workspace& workspace, const Tokens& tokens, bool store) {
  const Pass pass{workspace, batch, length, {1, 1}};
  const Index depth = static_cast<Index>(model.config().layers.size());
  std::map<std::string, Parameter<float>*> parameters;
  model.for_each_parameter([&](Parameter<float>& p) { parameters[p.name] = &p; });
  OutputHead<float> head(width, model.config().vocabulary, model.config().layer_norm_epsilon, 0);
  head.for_each_parameter([&](Parameter<float>& p) {
    p.value = parameters.at(p.name)->value;
    p.allocate_gradient();
  });
  model.zero_gradients();

  Halves<Half> x{Half(pass.rows(), width), Half(pass.rows(), width)};
  for (Index row = 0; row < pass.rows(); ++row) {
    const Matrix<float> sum = parameters.at("embedding.weight")->value.row(tokens.data()[row]) +
                              parameters.at("positions.weight")->value.row(row % length);
    x.first.write(row, 0, width, sum.data());
    x.second.write(row, 0, width, sum.data());
  }
  const std::vector<float> before[] = {values_of(x.first), values_of(x.second)};

  // The branches themselves, because the halves are of other types than the model's.
  Scratch memory(workspace);
  const auto attention = [&](Index i) { return model.branch<SelfAttention<float>>(i); };
  const auto feed_forward = [&](Index i) { return model.branch<FeedForward<float>>(i); };
  std::vector<SelfAttention<float>::Saved> saved;
  std::vector<Halves<Half>> stored;
  std::vector<std::vector<Bucket>> buckets;
  FeedForward<float>::Saved nothing;
  for (Index i = 0; i < depth; ++i) {
    const Pass first = pass.at_layer(2 * i), second = pass.at_layer(2 * i + 1);
    saved.push_back(attention(i)->saved_in(memory, {batch, length, is_exact(x.first)}));
    buckets.push_back(buckets_of(*attention(i), x.second, first));
    if (store) stored.push_back(x);
    attention(i)->forward(x.second, x.first, saved.back(), first);
    feed_forward(i)->forward(x.first, x.second, nothing, second);
  }
  Matrix<float> dx1(pass.rows(), width), dx2(pass.rows(), width);
  const HalfGradients<float> dx{rows_of(dx1), rows_of(dx2)};
  const Tokens labels = next_token_labels(tokens);
  head.loss_and_gradients(x, {labels.data(), static_cast<std::size_t>(labels.size())},
                          1.0F / (batch * (length - 1)), dx, pass);
  Result result;
  double ids = 0;
  for (Index i = depth - 1; i >= 0; --i) {
    const auto index = static_cast<std::size_t>(i);
    const Pass first = pass.at_layer(2 * i), second = pass.at_layer(2 * i + 1);
    feed_forward(i)->reverse(x.first, x.second, dx.second, dx.first, nothing, second);
    if (store) x.second = stored[index].second;
    attention(i)->reverse(x.second, x.first, dx.first, dx.second, saved[index], first);
    if (store) x.first = stored[index].first;
    const auto now = buckets_of(*attention(i), x.second, first);
    for (std::size_t j = 0; j < now.size(); ++j) result.changed += now[j] != buckets[index][j];
    ids += static_cast<double>(now.size());
  }
  result.changed /= ids;
  const std::vector<float> after[] = {values_of(x.first), values_of(x.second)};
  for (int half = 0; half < 2; ++half) {
    for (std::size_t j = 0; j < after[half].size(); ++j) {
      const double error = std::abs(static_cast<double>(after[half][j]) - before[half][j]);
      result.largest = std::max(result.largest, error);
      result.mean += error / static_cast<double>(2 * after[half].size());
    }
  }
  model.stack().for_each_parameter([&](Parameter<float>& p) {
    result.gradients.insert(result.gradients.end(), p.gradient.data(),
                            p.gradient.data() + p.size());
  });
  return result;
}

template <typename Half>
void row(const char* kind, Model<float>& model, Workspace& workspace, const Tokens& tokens) {
  const Result reversed = walk<Half>(model, workspace, tokens, false);
  const Result stored = walk<Half>(model, workspace, tokens, true);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < stored.gradients.size(); ++i) {
    const double expected = stored.gradients[i];
    difference += std::pow(reversed.gradients[i] - expected, 2);
    norm += expected * expected;
  }
  std::printf("| %zu | %s | %.1e | %.1e | %.3f %% | %.1e |\n", model.config().layers.size(), kind,
              reversed.largest, reversed.mean, 100 * reversed.changed,
              std::sqrt(difference / norm));
  std::fflush(stdout);
}

void table(const std::string& title, const std::string& text, Workspace& workspace, Index steps) {
  std::printf(
      "\n%s\n\n| depth | halves | largest error | mean error | buckets changed | gradient "
      "error |\n|---|---|---|---|---|---|\n",
      title.c_str());
  std::vector<double> losses;
  for (const Index depth : {1, 6, 12, 24, 64, 256}) {
    Model<float> model(config_of(depth));
    model.initialize(1);
    if (steps > 0) losses.push_back(train(model, workspace, text, length, steps));
    const Tokens tokens = window_of(text, steps + 1, length);
    row<FloatingHalf<float>>("float", model, workspace, tokens);
    row<FloatWithoutBuckets>("float, no saved buckets", model, workspace, tokens);
    row<FixedHalf<float>>("fixed", model, workspace, tokens);
  }
  if (losses.empty()) return;
  std::printf("\nTraining loss at the end, nats a byte, by depth:");
  for (const double loss : losses) std::printf(" %.2f", loss);
  std::printf("\n");
}

void run(TableOptions options) {
  const std::string text = read_text(options, length);
  Workspace workspace(std::stoi(options["--threads"]));
  const Index steps = std::stol(options["--steps"]);
  table("Freshly initialised:", text, workspace, 0);
  if (steps > 0)
    table(detail::join("After ", steps, " steps of training:"), text, workspace, steps);
}

}  // namespace
}  // namespace reformer::bench

int main(int argc, char** argv) {
  using namespace reformer::bench;
  return run_table_program(argc, argv, {{"--data", ""}, {"--steps", "200"}, {"--threads", "0"}},
                           run);
}
