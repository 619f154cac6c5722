// SPDX-License-Identifier: MIT
// How far gradients are from those of double: a table over precisions of products and kinds of
// residual halves, for a fresh model and for one trained on a text.
//
//     accuracy --data FILE [--steps N] [--threads N]
//
// A model of depth 6 computes its loss on one batch of the text and the gradients of all
// parameters; so does the same model in double. The relative error is |g - g'| / |g'| of all
// gradients as one vector. Layers do not hash: a vector that falls on the other side of a hash is
// attended to otherwise, which is another function and not an error of rounding.
#include <cmath>
#include <cstdio>
#include <reformer/reformer.hpp>
#include <string>
#include <vector>

#include "table_program.hpp"
#include "text_model.hpp"

namespace reformer::bench {
namespace {

constexpr Index length = 512, width = 128;

ModelConfig config_of(const ResidualConfig& residual) {
  const LocalPattern local{.chunk_length = 64};
  const ExactPattern exact;
  return {.width = width,
          .num_heads = 2,
          .head_width = 64,
          .feed_forward_width = 4 * width,
          .activation = Activation::gelu,
          .positions = SinusoidalPositions{},
          .layers = {local, exact, local, exact, local, exact},
          .residual = residual};
}

struct Result {
  double loss;  // nats for each byte
  std::vector<double> gradients;
};

/// Of a model with these parameters.
template <typename Scalar>
Result result_of(const Model<float>& parameters, const ResidualConfig& residual,
                 Workspace& workspace, const Tokens& tokens, Precision precision) {
  Model<Scalar> model(config_of(residual));
  parameters.for_each_parameter([&](const Parameter<float>& p) {
    model.find_parameter(p.name)->value = p.value.template cast<Scalar>();
  });
  model.zero_gradients();
  const Loss loss =
      model.loss_and_gradients(workspace, tokens, next_token_labels(tokens),
                               Scalar(1) / Scalar(length - 1), {.precision = precision});
  Result result{loss.mean(), {}};
  model.for_each_parameter([&](const Parameter<Scalar>& p) {
    result.gradients.insert(result.gradients.end(), p.gradient.data(),
                            p.gradient.data() + p.size());
  });
  return result;
}

void table(const std::string& title, const Model<float>& model, Workspace& workspace,
           const Tokens& tokens) {
  const Result expected =
      result_of<double>(model, FloatResidual{}, workspace, tokens, Precision::float32);
  std::printf(
      "\n%s, loss %.4f nats a byte in double\n\n| precision | halves | loss is away by | error of "
      "gradients |\n|---|---|---|---|\n",
      title.c_str(), expected.loss);
  for (const Precision precision : precisions) {
    for (const auto& [name, residual] :
         {std::pair<const char*, ResidualConfig>{"float", FloatResidual{}},
          {"fixed", FixedResidual{}}}) {
      const Result result = result_of<float>(model, residual, workspace, tokens, precision);
      double difference = 0, norm = 0;
      for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
        difference += std::pow(result.gradients[i] - expected.gradients[i], 2);
        norm += expected.gradients[i] * expected.gradients[i];
      }
      std::printf("| %s | %s | %.1e | %.1e |\n", name_of(precision), name,
                  std::abs(result.loss - expected.loss), std::sqrt(difference / norm));
      std::fflush(stdout);
    }
  }
}

void run(TableOptions options) {
  const std::string text = read_text(options, length);
  Workspace workspace(std::stoi(options["--threads"]));
  const Index steps = std::stol(options["--steps"]);
  Model<float> model(config_of(FloatResidual{}));
  model.initialize(1);
  std::printf("bfloat16 by %s\n", bfloat16_unit().name);
  table("Freshly initialised", model, workspace, window_of(text, steps + 1, length));
  if (steps == 0) return;
  train(model, workspace, text, length, steps);
  table(detail::join("After ", steps, " steps of training"), model, workspace,
        window_of(text, steps + 1, length));
}

}  // namespace
}  // namespace reformer::bench

int main(int argc, char** argv) {
  using namespace reformer::bench;
  return run_table_program(argc, argv, {{"--data", ""}, {"--steps", "200"}, {"--threads", "0"}},
                           run);
}
