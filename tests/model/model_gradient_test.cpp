// SPDX-License-Identifier: MIT
/// Gradients of the whole model: every parameter tensor against finite differences, and sums over
/// several passes.
#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <span>
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
  std::vector<LayerPattern> layers = tiny_layers();
  int branches = 2;      ///< a layer
  bool vectors = false;  ///< as input, in place of tokens
  bool tied = false;     ///< embedding and head
};

/// Bucket ids of all hashed layers in a pass of the model.
std::vector<Bucket> buckets_of(Model<double>& model, Workspace& workspace,
                               const ModelInput<double>& input, const RunOptions& options) {
  std::vector<Bucket> all;
  for (const auto& layer : model.buckets(workspace, input, options)) {
    for (const auto& ids : layer) all.insert(all.end(), ids.data(), ids.data() + ids.size());
  }
  return all;
}

void expect_gradients(const Case& c) {
  ModelConfig config = tiny_config();
  config.positions = c.positions;
  config.layers = c.layers;
  config.causal = c.causal;
  config.tied_embedding = c.tied;
  config.dropout = config.attention_dropout = c.dropout;
  Model<double> model(config, layers_of<double>(c.branches, config.width));
  randomize_parameters(model, 7);
  fix_rotations(model, 8);
  Workspace workspace(1);

  const Tokens tokens = random_tokens(batch, length, config.vocabulary, 9);
  auto vectors = random_tensor<double>(std::array<Index, 3>{batch, length, config.width}, 11, 0.5);
  const ModelInput<double> input =
      c.vectors ? ModelInput<double>(vectors) : ModelInput<double>(tokens);
  Tokens labels = next_token_labels(tokens);
  labels(0, 3) = labels(1, 0) = labels(1, 11) = ignored_label;
  std::vector<std::uint8_t> is_real;
  if (c.masked) {
    is_real.assign(static_cast<std::size_t>(batch * length), 1);
    for (Index t = length - 5; t < length; ++t) {
      is_real[static_cast<std::size_t>(t)] = 0;
      labels(0, t) = ignored_label;
      // What padding holds may be anything.
      vectors(0, t, 1) = std::numeric_limits<double>::quiet_NaN();
    }
  }
  const RunOptions options{.key = {4, 5}, .training = c.dropout > 0, .is_real = is_real};
  const double scale = 1.0 / 30;

  const auto buckets = buckets_of(model, workspace, input, options);
  Index rounds = 0;  // of all heads
  for (const LayerPattern& layer : c.layers) {
    for (const HeadKind& kind : head_kinds(layer, config.num_heads)) {
      const auto* lsh = std::get_if<LshPattern>(&kind.pattern);
      if (lsh != nullptr) rounds += kind.num_heads * lsh->num_hashes;
    }
  }
  ASSERT_EQ(buckets.size(), static_cast<std::size_t>(batch * length * rounds));
  reset_gradients(model, 1);  // they are added to
  Tensor<double, 3> dvectors;
  const Loss loss = model.loss_and_gradients(workspace, input, labels, scale, options, &dvectors);
  model.for_each_parameter([](auto& p) { p.gradient.array() -= 1; });
  EXPECT_EQ(loss.sum, model.loss(workspace, input, labels, options).sum) << c.name;
  EXPECT_EQ(loss.count, c.masked ? 29 : 33) << c.name;

  bool flipped = false;
  const auto objective = [&] {
    const double value = scale * model.loss(workspace, input, labels, options).sum;
    flipped = flipped || buckets_of(model, workspace, input, options) != buckets;
    return value;
  };
  check_parameter_gradients(c.name, model, objective, {.step = 0x1p-16, .most_elements = 4});
  if (c.vectors) {
    EXPECT_EQ(parameter(model, "embedding.weight").gradient.isZero(0), !c.tied) << c.name;
    std::vector<double> analytic(dvectors.data(), dvectors.data() + dvectors.size());
    for (Index i = 0; c.masked && i < 5 * config.width; ++i) {  // the padding of sequence 0
      EXPECT_EQ(dvectors(0, length - 5 + i / config.width, i % config.width), 0) << c.name;
    }
    const std::span all(vectors.data(), static_cast<std::size_t>(vectors.size()));
    const auto real = static_cast<std::size_t>((length - 5) * config.width);
    check_gradient(c.name, "vectors", objective, all.first(real),
                   std::span<const double>(analytic).first(real),
                   {.step = 0x1p-16, .most_elements = 10});
    const auto second = static_cast<std::size_t>(length * config.width);
    check_gradient(c.name, "vectors of sequence 1", objective, all.subspan(second),
                   std::span<const double>(analytic).subspan(second),
                   {.step = 0x1p-16, .most_elements = 10});
  } else if (!c.tied) {  // by the embeddings of the tokens: summed, the embedding's
    Matrix<double> sum = Matrix<double>::Zero(config.vocabulary, config.width);
    for (Index row = 0; row < batch * length; ++row) {
      for (Index j = 0; j < config.width; ++j) {
        sum(tokens.data()[row], j) += dvectors.data()[row * config.width + j];
      }
    }
    EXPECT_TRUE(close(parameter(model, "embedding.weight").gradient, sum)) << c.name;
  }
  EXPECT_FALSE(flipped) << c.name << ": a hash flipped under finite differences; this test needs "
                        << "data whose tokens keep away from the boundaries of buckets";
}

TEST(ModelGradient, IsTheGradient) {
  expect_gradients({.name = "model, axial positions"});
  expect_gradients({.name = "model, learned positions", .positions = LearnedPositions{length}});
  expect_gradients({.name = "model, masked", .masked = true});
  expect_gradients({.name = "model, bidirectional", .causal = false});
}

TEST(ModelGradient, IsTheGradientOfLayersOfOtherBranches) {
  expect_gradients({.name = "model, one branch a layer", .branches = 1});
  expect_gradients({.name = "model, three branches a layer, masked, dropout",
                    .masked = true,
                    .dropout = 0.1,
                    .branches = 3});
}

TEST(ModelGradient, IsTheGradientByVectors) {
  expect_gradients({.name = "model of vectors", .vectors = true});
  expect_gradients({.name = "model of vectors, learned positions, masked, dropout",
                    .positions = LearnedPositions{length},
                    .masked = true,
                    .dropout = 0.1,
                    .vectors = true});
}

TEST(ModelGradient, IsTheGradientUnderDropout) {
  expect_gradients({.name = "model, dropout", .dropout = 0.1});
  expect_gradients({.name = "model, learned positions, bidirectional, masked, dropout",
                    .positions = LearnedPositions{length + 3},
                    .causal = false,
                    .masked = true,
                    .dropout = 0.2});
}

TEST(ModelGradient, IsTheGradientOfATiedEmbedding) {
  expect_gradients({.name = "tied", .tied = true});
  expect_gradients({.name = "tied, masked, dropout", .masked = true, .dropout = 0.2, .tied = true});
  expect_gradients({.name = "tied, of vectors", .vectors = true, .tied = true});
}

/// A loss of the caller's own, on a model without a head.
TEST(ModelGradient, OfTheEncodingIsTheGradient) {
  for (const bool busy : {false, true}) {
    ModelConfig config = tiny_config();
    config.ngrams = {};  // which vectors in place of tokens do not have
    config.value_ngrams = {};
    config.language_head = false;
    config.causal = !busy;
    config.dropout = config.attention_dropout = busy ? 0.1 : 0;
    Model<double> model(config);
    randomize_parameters(model, 7);
    fix_rotations(model, 8);
    Workspace workspace(1);
    const Tokens tokens = random_tokens(batch, length, config.vocabulary, 9);
    std::vector<std::uint8_t> is_real(static_cast<std::size_t>(batch * length), 1);
    is_real[3] = is_real[length + 1] = 0;
    const RunOptions options{
        .key = {4, 5}, .training = busy, .is_real = std::span(is_real).first(busy ? 38 : 0)};
    const auto dz = random_tensor<double>(std::array<Index, 3>{batch, length, 24}, 10);

    const auto z = model.encode(workspace, tokens, options);
    const auto buckets = buckets_of(model, workspace, tokens, options);
    reset_gradients(model, 1);  // they are added to
    Tensor<double, 3> dvectors;
    model.encode_and_gradients(
        workspace, tokens, options,
        [&](const Tensor<double, 3>& again) {
          EXPECT_TRUE(same_bits(again, z));
          return dz;
        },
        &dvectors);
    // The embeddings of the tokens, given as vectors, have the same gradients.
    const auto gradients = gradients_of(model);
    Tensor<double, 3> vectors(batch, length, config.width), again;
    for (Index row = 0; row < batch * length; ++row) {
      for (Index j = 0; j < config.width; ++j) {
        vectors.data()[row * config.width + j] =
            parameter(model, "embedding.weight").value(tokens.data()[row], j);
      }
    }
    EXPECT_TRUE(same_bits(model.encode(workspace, vectors, options), z));
    const Matrix<double> of_embedding = parameter(model, "embedding.weight").gradient;
    reset_gradients(model, 1);
    model.encode_and_gradients(
        workspace, vectors, options, [&](const auto&) { return dz; }, &again);
    EXPECT_TRUE(same_bits(again, dvectors));
    parameter(model, "embedding.weight").gradient = of_embedding;
    EXPECT_TRUE(same_bits(gradients_of(model), gradients));
    model.for_each_parameter([](auto& p) { p.gradient.array() -= 1; });
    bool flipped = false;
    const auto objective = [&] {
      const auto now = model.encode(workspace, tokens, options);
      flipped = flipped || buckets_of(model, workspace, tokens, options) != buckets;
      double sum = 0;
      for (Index i = 0; i < now.size(); ++i) sum += now.data()[i] * dz.data()[i];
      return sum;
    };
    check_parameter_gradients(busy ? "encoding, dropout, masked, bidirectional" : "encoding", model,
                              objective, {.step = 0x1p-16, .most_elements = 4});
    EXPECT_FALSE(flipped);
  }
}

TEST(ModelGradient, IsTheGradientOfBucketChunks) {
  const std::vector<LayerPattern> layers = {
      LshPattern{3, 1, 0, 2, {4}, false, Chunking::bucket_chunks}, LocalPattern{4, 1, 0, false},
      LshPattern{2, 1, 1, 3, {2, 2}, false, Chunking::bucket_chunks, Duplicates::once}};
  expect_gradients({.name = "bucket chunks", .layers = layers});
  expect_gradients({.name = "bucket chunks, bidirectional, masked, dropout",
                    .causal = false,
                    .masked = true,
                    .dropout = 0.2,
                    .layers = layers});
}

TEST(ModelGradient, IsTheGradientOfHeadsOfDifferentKinds) {
  const LshPattern far{3, 1, 0, 2, {4}, false, Chunking::bucket_chunks};
  std::vector<LayerPattern> layers = {{LocalPattern{4, 1, 0, false}, far},
                                      {far, ExactPattern{false}},
                                      {LshPattern{4, 1, 0, 1, {2, 2}}, ExactPattern{true}}};
  expect_gradients({.name = "heads of different kinds, bidirectional, masked, dropout",
                    .causal = false,
                    .masked = true,
                    .dropout = 0.2,
                    .layers = layers});
  std::get<ExactPattern>(layers[1].of_heads[1]).values = Values::mixed;
  std::get<LocalPattern>(layers[0].of_heads[0]).values = Values::following;
  std::get<LocalPattern>(layers[0].of_heads[0]).scores = Scores::cosine;
  std::get<LshPattern>(layers[1].of_heads[0]).scores = Scores::cosine;
  std::get<LocalPattern>(layers[0].of_heads[0]).rotary_width = 2;
  std::get<LshPattern>(layers[0].of_heads[1]).rotary_width = 2;
  expect_gradients({.name = "heads of different kinds", .layers = layers, .branches = 3});
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
