// SPDX-License-Identifier: MIT
/// @file
/// A model of bytes that learns from a text: what the tables of rounding errors share.
#pragma once

#include <cstdint>
#include <fstream>
#include <iterator>
#include <reformer/reformer.hpp>
#include <stdexcept>
#include <string>

#include "table_program.hpp"

namespace reformer::bench {

/// The file that `--data` names.
/// @throw std::invalid_argument for one of fewer bytes than a window has
inline std::string read_text(const TableOptions& options, Index length) {
  const std::string& path = options.at("--data");
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (static_cast<Index>(text.size()) < length) {
    throw std::invalid_argument(
        detail::join("--data is '", path, "', must be a file of at least ", length, " bytes"));
  }
  return text;
}

/// The window of a step, `[1, length]`: one after another, from the beginning again when the text
/// ends.
inline Tokens window_of(const std::string& text, Index step, Index length) {
  Tokens tokens(1, length);
  const Index first = step % (static_cast<Index>(text.size()) / length) * length;
  for (Index t = 0; t < length; ++t) {
    tokens(0, t) = static_cast<unsigned char>(text[static_cast<std::size_t>(first + t)]);
  }
  return tokens;
}

/// @return mean loss of the last ten steps, in nats
inline double train(Model<float>& model, Workspace& workspace, const std::string& text,
                    Index length, Index steps) {
  Adam<float> adam;
  const Schedule schedule = CosineSchedule{.rate = 1e-3, .warmup = 20, .steps = steps};
  Loss recent;
  for (Index step = 1; step <= steps; ++step) {
    const Tokens tokens = window_of(text, step, length);
    model.zero_gradients();
    const Loss loss = model.loss_and_gradients(
        workspace, tokens, next_token_labels(tokens), 1.0F / static_cast<float>(length - 1),
        {.key = {1, static_cast<std::uint32_t>(step)}, .training = true});
    adam.step(workspace, model, learning_rate(schedule, step),
              clipping_scale(global_gradient_norm(workspace, model), 1));
    if (step > steps - 10) recent += loss;
  }
  return recent.mean();
}

}  // namespace reformer::bench
