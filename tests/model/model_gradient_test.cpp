// SPDX-License-Identifier: MIT
/// Gradients of the whole model: every parameter tensor against finite differences, and sums over
/// several passes.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/tiny_model.hpp"
#include "reformer/model/model.hpp"
#include "support/compare.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr Index batch = 2, length = 19;

struct Case {
  std::string name;
  PositionConfig positions = AxialPositions{{5, 9}, {5, 7}};
  bool causal = true, masked = false;
  double dropout = 0;
};

/// Bucket ids of all hashed layers. The model does not show them, so its input is embedded here.
std::vector<Bucket> buckets_of(Model<double>& model, Workspace& workspace, const Tokens& tokens,
                               const RunOptions& options) {
  const Pass pass{workspace, batch, length, options.key, options.training, options.is_real};
  const ModelConfig& config = model.config();
  const Index D = config.width;
  Matrix<double> x(batch * length, D);
  const auto& embedding = parameter(model, "embedding.weight").value;
  for (Index row = 0; row < x.rows(); ++row) {
    x.row(row) = embedding.row(tokens.data()[row]);
    const Index t = row % length;
    if (const auto* axial = std::get_if<AxialPositions>(&config.positions)) {
      const auto& first = parameter(model, "positions.weights.0").value;
      const auto& second = parameter(model, "positions.weights.1").value;
      x.row(row).head(first.cols()) += first.row(t / axial->shape[1]);
      x.row(row).tail(second.cols()) += second.row(t % axial->shape[1]);
    } else {
      x.row(row) += parameter(model, "positions.weight").value.row(t);
    }
  }
  Dropout<double>(options.training ? config.dropout : 0.0, options.key, Purpose::embedding_dropout)
      .apply_tile(view(x), 0, 0, D);
  using Half = Model<double>::Half;
  Halves<Half> halves{half_of<Half>(x), half_of<Half>(x)};
  ReversibleSequence<Model<double>::Block>::Saved saved;
  model.stack().forward(halves, saved, pass);
  std::vector<Bucket> all;
  for (const auto& layer : saved) {
    all.insert(all.end(), layer.f.buckets.begin(), layer.f.buckets.end());
  }
  return all;
}

void expect_gradients(const Case& c) {
  ModelConfig config = tiny_config();
  config.positions = c.positions;
  config.causal = c.causal;
  config.dropout = config.attention_dropout = c.dropout;
  Model<double> model(config);
  randomize_parameters(model, 7);
  fix_rotations(model, 8);
  Workspace workspace(1);

  const Tokens tokens = random_tokens(batch, length, config.vocabulary, 9);
  Tokens labels = next_token_labels(tokens);
  labels(0, 3) = labels(1, 0) = labels(1, 11) = ignored_label;
  std::vector<std::uint8_t> is_real;
  if (c.masked) {
    is_real.assign(static_cast<std::size_t>(batch * length), 1);
    for (Index t = length - 5; t < length; ++t) {
      is_real[static_cast<std::size_t>(t)] = 0;
      labels(0, t) = ignored_label;
    }
  }
  const RunOptions options{.key = {4, 5}, .training = c.dropout > 0, .is_real = is_real};
  const double scale = 1.0 / 30;

  const auto buckets = buckets_of(model, workspace, tokens, options);
  ASSERT_EQ(buckets.size(), static_cast<std::size_t>(batch * length * 2 * (2 + 1)));
  reset_gradients(model, 1);  // they are added to
  const Loss loss = model.loss_and_gradients(workspace, tokens, labels, scale, options);
  model.for_each_parameter([](auto& p) { p.gradient.array() -= 1; });
  EXPECT_EQ(loss.sum, model.loss(workspace, tokens, labels, options).sum) << c.name;
  EXPECT_EQ(loss.count, c.masked ? 29 : 33) << c.name;

  bool flipped = false;
  const auto objective = [&] {
    flipped = flipped || buckets_of(model, workspace, tokens, options) != buckets;
    return scale * model.loss(workspace, tokens, labels, options).sum;
  };
  check_parameter_gradients(c.name, model, objective, {.step = 0x1p-16, .most_elements = 4});
  EXPECT_FALSE(flipped) << c.name << ": a hash flipped under finite differences; this test needs "
                        << "data whose tokens keep away from the boundaries of buckets";
}

TEST(ModelGradient, IsTheGradient) {
  expect_gradients({.name = "model, axial positions"});
  expect_gradients({.name = "model, learned positions", .positions = LearnedPositions{length}});
  expect_gradients({.name = "model, masked", .masked = true});
  expect_gradients({.name = "model, bidirectional", .causal = false});
}

TEST(ModelGradient, IsTheGradientUnderDropout) {
  expect_gradients({.name = "model, dropout", .dropout = 0.1});
  expect_gradients({.name = "model, learned positions, bidirectional, masked, dropout",
                    .positions = LearnedPositions{length + 3},
                    .causal = false,
                    .masked = true,
                    .dropout = 0.2});
}

TEST(ModelGradient, OfHalvesOfABatchAddsUpToTheWhole) {
  const ModelConfig config = tiny_config();
  Model<double> model(config);
  randomize_parameters(model, 7);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(4, length, config.vocabulary, 9);
  Tokens labels = next_token_labels(tokens);
  labels(2, 5) = ignored_label;
  std::vector<std::uint8_t> is_real(static_cast<std::size_t>(4 * length), 1);
  is_real[30] = is_real[70] = 0;
  const double scale = 1.0 / 71;

  reset_gradients(model);
  const Loss whole =
      model.loss_and_gradients(workspace, tokens, labels, scale, {.key = {4}, .is_real = is_real});
  const auto expected = gradients_of(model);

  reset_gradients(model);
  Loss sum;
  for (Index half = 0; half < 2; ++half) {
    const Eigen::array<Index, 2> first{2 * half, 0}, size{2, length};
    const std::span mask = std::span(is_real).subspan(static_cast<std::size_t>(2 * half * length),
                                                      static_cast<std::size_t>(2 * length));
    sum += model.loss_and_gradients(workspace, Tokens(tokens.slice(first, size)),
                                    Tokens(labels.slice(first, size)), scale,
                                    {.key = {4}, .is_real = mask});
  }
  EXPECT_EQ(whole.count, 71);
  EXPECT_EQ(sum.count, whole.count);
  EXPECT_NEAR(sum.sum, whole.sum, 1e-12 * whole.sum);
  EXPECT_TRUE(close(gradients_of(model), expected));
}

TEST(ModelGradient, OfIgnoredLabelsIsZero) {
  Model<double> model(tiny_config());
  randomize_parameters(model, 7);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 9, 11, 9);
  Tokens labels(2, 9);
  labels.setConstant(ignored_label);
  reset_gradients(model);
  const Loss loss = model.loss_and_gradients(workspace, tokens, labels, 1.0, {});
  EXPECT_EQ(loss.sum, 0);
  EXPECT_EQ(loss.count, 0);
  EXPECT_EQ(loss.mean(), 0);
  for (const double g : gradients_of(model)) ASSERT_EQ(g, 0);
}

}  // namespace
}  // namespace reformer::test
