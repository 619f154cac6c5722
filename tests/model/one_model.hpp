// SPDX-License-Identifier: MIT
/// @file
/// Inference of many threads on one model, for the tests of the model and for thread sanitizer.
#pragma once

#include <thread>
#include <vector>

#include "model/tiny_model.hpp"
#include "reformer/model/decoding.hpp"
#include "reformer/model/generation.hpp"
#include "support/random_data.hpp"

namespace reformer::test {

/// Loss, logits, vectors, bucket ids and a text of a model, as numbers whose bits can be compared.
inline std::vector<double> inference(const Model<float>& model, int threads, std::uint64_t seed) {
  Workspace workspace(threads);
  const Tokens tokens = random_tokens(2, 41, 11, seed);
  const RunOptions options{.key = {seed}};
  std::vector<double> result{model.loss(workspace, tokens, next_token_labels(tokens), options).sum};
  const auto add = [&](const auto& values) {
    result.insert(result.end(), values.data(), values.data() + values.size());
  };
  add(model.logits(workspace, tokens, options));
  add(model.encode(workspace, tokens, options));
  for (const auto& layer : model.buckets(workspace, tokens, options)) {
    for (const auto& ids : layer) add(ids);
  }
  Decoder<float> decoder(workspace, model, 1, options.key);
  add(generate(workspace, decoder, {{1, 2, 3}},
               {.max_tokens = 12, .sampling = {.temperature = 2}, .seed = seed})[0]);
  return result;
}

/// How many of some threads, each with a workspace, get other results from one model than they
/// would alone, while another thread has passes with gradients.
inline int differences_of_threads(std::uint64_t count) {
  ModelConfig decodable = tiny_config();
  decodable.layers = {LocalPattern{4}, ExactPattern{true},
                      LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks}};
  ModelConfig sorted = tiny_config();
  sorted.layers.push_back({LocalPattern{4}, LshPattern{4, 1, 0, 2, {4}}});
  sorted.residual = FixedResidual{};
  int differences = 0;
  for (const ModelConfig& config : {decodable, sorted}) {
    Model<float> made(config);
    randomize_parameters(made, 1);
    const Model<float>& model = made;
    std::vector<std::vector<double>> expected, results(count);
    for (std::uint64_t seed = 0; seed < count; ++seed) {
      expected.push_back(inference(model, 1, seed));
    }
    std::vector<std::thread> threads;
    for (std::uint64_t seed = 0; seed < count; ++seed) {
      threads.emplace_back(
          [&, seed] { results[seed] = inference(model, 1 + static_cast<int>(seed % 2), seed); });
    }
    threads.emplace_back([&] {
      Workspace workspace(1);
      const Tokens tokens = random_tokens(2, 41, 11, count);
      made.loss_and_gradients(workspace, tokens, tokens, 1, {});
      made.loss_and_gradients(workspace, tokens, tokens, 1, {.memory_budget = 1 << 20});
    });
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < count; ++i) differences += results[i] == expected[i] ? 0 : 1;
  }
  return differences;
}

}  // namespace reformer::test
