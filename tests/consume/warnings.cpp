// SPDX-License-Identifier: MIT
// What users write with either scalar type: compiled with optimisation, where compilers see through
// functions and warn of what they think they see, and run.
#include <reformer/reformer.hpp>

template <typename Scalar>
bool learns_and_writes() {
  using namespace reformer;
  Model<Scalar> model({.vocabulary = 8,
                       .width = 8,
                       .num_heads = 2,
                       .head_width = 4,
                       .feed_forward_width = 8,
                       .positions = LearnedPositions{16},
                       .layers = {LocalPattern{.chunk_length = 4}, LshPattern{.chunk_length = 4}},
                       .residual = FixedResidual{}});
  model.initialize(1);
  Workspace workspace;
  Tokens tokens(2, 12);
  for (int b = 0; b < 2; ++b) {
    for (int t = 0; t < 12; ++t) tokens(b, t) = (b + t) % 8;
  }
  const Tokens labels = next_token_labels(tokens);
  const double before = model.loss(workspace, tokens, labels).mean();
  Adam<Scalar> adam;
  Adafactor<Scalar> adafactor;
  for (std::uint32_t step = 1; step <= 8; ++step) {
    model.zero_gradients();
    model.loss_and_gradients(workspace, tokens, labels, Scalar(1) / 22,
                             {.key = {.seed = 1, .step = step}, .training = true});
    const double scale = clipping_scale(global_gradient_norm(workspace, model), 1);
    adam.step(workspace, model, learning_rate(CosineSchedule{.rate = 1e-2}, step), scale);
    adafactor.step(workspace, model, 1e-3, scale);
  }
  Decoder<Scalar> decoder(workspace, model, 1);
  const auto texts = generate(workspace, decoder, {{1, 2, 3}}, {.max_tokens = 4});
  return model.loss(workspace, tokens, labels).mean() < before && texts[0].size() == 4;
}

int main() {
  return learns_and_writes<float>() && learns_and_writes<double>() ? 0 : 1;
}
