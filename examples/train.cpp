// SPDX-License-Identifier: MIT
// The program in README.md, which tests/readme compares with this one: a small Reformer learns
// sequences that count in steps of their own, modulo 32, and prints the loss in nats as it falls.
#include <cstdio>
#include <reformer/reformer.hpp>

int main() {
  using namespace reformer;
  Model<float> model(
      {.vocabulary = 32,
       .width = 64,
       .num_heads = 2,
       .head_width = 32,
       .feed_forward_width = 128,
       .positions = LearnedPositions{64},
       .layers = {LocalPattern{.chunk_length = 16}, LshPattern{.chunk_length = 16}}});
  model.initialize(/*seed=*/1);
  Adam<float> adam;
  Workspace workspace;  // scratch memory, and a thread for each processor
  Tokens tokens(16, 64);
  for (std::uint32_t step = 1; step <= 120; ++step) {
    for (Index b = 0; b < 16; ++b) {  // each sequence counts in a step of its own, modulo 32
      const auto random =
          RandomStream({1, step}, Purpose::data).bits(static_cast<std::uint64_t>(b));
      for (Index t = 0; t < 64; ++t)
        tokens(b, t) = static_cast<int>((random[0] + t * (1 + random[1] % 5)) % 32);
    }
    const Tokens labels = next_token_labels(tokens);
    model.zero_gradients();
    const Loss loss =
        model.loss_and_gradients(workspace, tokens, labels, 1.0f / (16 * 63),
                                 {.key = {.seed = 1, .step = step}, .training = true});
    adam.step(workspace, model, /*rate=*/3e-3);
    if (step % 40 == 0) std::printf("step %u: loss %.2f\n", step, loss.mean());
  }
}
