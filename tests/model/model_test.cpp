// SPDX-License-Identifier: MIT
/// The model's forward pass, loss, initial values and errors.
#include "reformer/model/model.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "model/one_model.hpp"
#include "model/tiny_model.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

Matrix<double> as_matrix(const Tensor<double, 3>& logits) {
  return Eigen::Map<const Matrix<double>>(logits.data(), logits.size() / logits.dimension(2),
                                          logits.dimension(2));
}

template <typename Scalar>
Tensor<Scalar, 3> first_positions(const Tensor<Scalar, 3>& logits, Index count) {
  const Eigen::array<Index, 3> first{0, 0, 0};
  const Eigen::array<Index, 3> size{logits.dimension(0), count, logits.dimension(2)};
  return logits.slice(first, size);
}

/// Sum of the losses of labels that are not ignored.
double naive_loss(const Matrix<double>& logits, const Tokens& labels) {
  double sum = 0;
  for (Index row = 0; row < logits.rows(); ++row) {
    const auto label = labels.data()[row];
    if (label != ignored_label) sum += naive::cross_entropy(logits, row, label);
  }
  return sum;
}

TEST(Model, IsEmbeddingPositionsReversibleLayersAndHead) {
  using Half = Model<double>::Half;
  const Index batch = 2, length = 19;
  for (const auto& [positions, tied] :
       std::vector<std::pair<PositionConfig, bool>>{{AxialPositions{{5, 9}, {5, 7}}, false},
                                                    {LearnedPositions{20}, false},
                                                    {SinusoidalPositions{}, false},
                                                    {SinusoidalPositions{}, true}}) {
    ModelConfig config = tiny_config();
    config.positions = positions;
    config.tied_embedding = tied;
    Model<double> model(config);
    randomize_parameters(model, 1);
    fix_rotations(model, 2);
    Workspace workspace(1);
    const Tokens tokens = random_tokens(batch, length, config.vocabulary, 3);
    const Matrix<double>& table = parameter(model, "embedding.weight").value;

    Matrix<double> x1(batch * length, config.width);
    for (Index row = 0; row < x1.rows(); ++row) {
      const Index t = row % length;
      for (Index j = 0; j < config.width; ++j) {
        double position = 0;
        if (std::holds_alternative<AxialPositions>(positions)) {
          position = j < 5 ? parameter(model, "positions.weights.0").value(t / 9, j)
                           : parameter(model, "positions.weights.1").value(t % 9, j - 5);
        } else if (std::holds_alternative<LearnedPositions>(positions)) {
          position = parameter(model, "positions.weight").value(t, j);
        } else {
          const auto pair = static_cast<double>(j / 2 * 2);
          const double angle = static_cast<double>(t) / std::pow(10000.0, pair / 12);
          position = j % 2 == 0 ? std::sin(angle) : std::cos(angle);
        }
        x1(row, j) = (tied ? 4 : 1) * table(tokens.data()[row], j) + position;
      }
    }
    Pass pass{workspace, batch, length, {}};
    pass.tokens = {tokens.data(), static_cast<std::size_t>(tokens.size())};
    for (std::size_t i = 0; i < config.ngrams.size(); ++i) {
      NgramEmbedding<double> ngram("ngram", config.ngrams[i], config.width);
      ngram.for_each_parameter([&](auto& p) {
        p.value = parameter(model, "ngrams." + std::to_string(i) + ".weight").value;
      });
      for (Index row = 0; row < x1.rows(); ++row) {
        ngram.add_row(detail::recent_tokens(pass, row, config.ngrams[i].order),
                      ngram.dropout(pass, Purpose::ngram_dropout), row,
                      {x1.row(row).data(), static_cast<std::size_t>(config.width)});
      }
    }
    Matrix<double> x2 = x1;
    // Branches have tests of their own; here it counts what they read and where they are added.
    for (Index layer = 0; layer < static_cast<Index>(config.layers.size()); ++layer) {
      SelfAttention<double>::Saved of_attention;
      FeedForward<double>::Saved of_feed_forward;
      Half attention(x1.rows(), x1.cols()), feed_forward(x1.rows(), x1.cols());
      model.branch<SelfAttention<double>>(layer)->forward(half_of<Half>(x2), attention,
                                                          of_attention, pass);
      x1 += matrix_of(attention);
      model.branch<FeedForward<double>>(layer)->forward(half_of<Half>(x1), feed_forward,
                                                        of_feed_forward, pass);
      x2 += matrix_of(feed_forward);
    }
    Matrix<double> both(x1.rows(), 2 * config.width);
    both << x1, x2;
    const Matrix<double> normed =
        naive::layer_norm(both, parameter(model, "layer_norm.weight").value,
                          parameter(model, "layer_norm.bias").value, config.layer_norm_epsilon);
    Matrix<double> weight(2 * config.width, config.vocabulary);
    if (tied) {
      EXPECT_EQ(model.find_parameter("head.weight"), nullptr);
      weight << table.transpose() / 2, table.transpose() / 2;
    } else {
      weight = parameter(model, "head.weight").value;
    }
    const Matrix<double> expected =
        naive::add_row(naive::multiply(normed, weight), parameter(model, "head.bias").value);
    EXPECT_TRUE(close(as_matrix(model.logits(workspace, tokens)), expected, 4));
  }
}

TEST(Model, LossIsTheCrossEntropyOfItsLogits) {
  // 600 rows: the loss takes several panels, logits are whole.
  const ModelConfig config = tiny_config();
  ModelConfig longer = config;
  longer.positions = LearnedPositions{300};
  Model<double> model(longer);
  randomize_parameters(model, 1);
  Workspace workspace(2);
  const Tokens tokens = random_tokens(2, 300, config.vocabulary, 3);
  Tokens labels = next_token_labels(tokens);
  for (Index t = 0; t < 300; t += 7) labels(0, t) = ignored_label;
  const RunOptions options{.key = {4}};
  const Loss loss = model.loss(workspace, tokens, labels, options);
  const double expected = naive_loss(as_matrix(model.logits(workspace, tokens, options)), labels);
  EXPECT_NEAR(loss.sum, expected, 1e-12 * expected);
  EXPECT_EQ(loss.count, 600 - 2 - 43);
  EXPECT_DOUBLE_EQ(loss.mean(), loss.sum / 555);

  std::vector<double> each(600, -1);
  EXPECT_EQ(model.loss(workspace, tokens, labels, options, each).sum, loss.sum);
  const Matrix<double> logits = as_matrix(model.logits(workspace, tokens, options));
  for (Index row = 0; row < 600; ++row) {
    const auto label = labels.data()[row];
    EXPECT_NEAR(each[static_cast<std::size_t>(row)],
                label == ignored_label ? 0 : naive::cross_entropy(logits, row, label), 1e-12)
        << "position " << row;
  }
  each.pop_back();
  EXPECT_TRUE(contains(message_of([&] { model.loss(workspace, tokens, labels, options, each); }),
                       "each has 599 elements, must have B*T = 600"));

  reset_gradients(model);
  const Loss again = model.loss_and_gradients(workspace, tokens, labels, 1.0, options);
  EXPECT_EQ(again.sum, loss.sum);
  EXPECT_EQ(again.count, loss.count);
  EXPECT_EQ(workspace.bytes_in_use(), 0u);
}

TEST(Model, LogitsOfTheLastPositionAreTheSameAlone) {
  Model<float> model(tiny_config());
  randomize_parameters(model, 1);
  Workspace workspace(1);
  for (const Index length : {1, 4, 23}) {
    const Tokens tokens = random_tokens(1, length, 11, 3);
    const auto all = model.logits(workspace, tokens, {.key = {4}});
    const std::vector<float> last = model.next_token_logits(
        workspace, std::span(tokens.data(), static_cast<std::size_t>(length)), {.key = {4}});
    ASSERT_EQ(last.size(), 11u);
    EXPECT_TRUE(same_bits(
        last, std::vector<float>(all.data() + (length - 1) * 11, all.data() + length * 11)));
  }
}

TEST(Model, LogitsOfTheLastRealPositionLeavePaddingAside) {
  Model<float> model(tiny_config());
  randomize_parameters(model, 1);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(1, 23, 11, 3);
  const std::span ids(tokens.data(), 23);
  std::vector<std::uint8_t> is_real(23, 1);
  is_real[20] = is_real[22] = 0;
  const RunOptions options{.key = {4}, .is_real = is_real};
  const auto all = model.logits(workspace, tokens, options);
  EXPECT_TRUE(same_bits(model.next_token_logits(workspace, ids, options),
                        std::vector<float>(&all(0, 21, 0), &all(0, 21, 0) + 11)));
}

TEST(Model, EncodesWhatTheHeadTurnsIntoLogits) {
  Model<double> model(tiny_config());
  randomize_parameters(model, 1);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 13, 11, 3);
  const RunOptions options{.key = {4}};
  const auto z = model.encode(workspace, tokens, options);
  ASSERT_EQ(z.dimension(2), 24);
  Matrix<double> logits = as_matrix(z) * parameter(model, "head.weight").value;
  logits.rowwise() += parameter(model, "head.bias").value.row(0);
  EXPECT_TRUE(close(as_matrix(model.logits(workspace, tokens, options)), logits));

  // Without a head, the same up to there.
  ModelConfig config = tiny_config();
  config.language_head = false;
  Model<double> headless(config);
  EXPECT_EQ(headless.num_parameters(), model.num_parameters() - 24 * 11 - 11);
  std::vector<const Matrix<double>*> values;
  model.for_each_parameter([&](const auto& p) { values.push_back(&p.value); });
  std::size_t next = 0;
  headless.for_each_parameter([&](auto& p) { p.value = *values[next++]; });
  EXPECT_TRUE(same_bits(headless.encode(workspace, tokens, options), z));
  for (const auto& message :
       {message_of([&] { headless.logits(workspace, tokens); }),
        message_of([&] { headless.loss(workspace, tokens, tokens); }),
        message_of([&] { headless.loss_and_gradients(workspace, tokens, tokens, 1, {}); }),
        message_of([&] { headless.next_token_logits(workspace, std::span(tokens.data(), 3)); })}) {
    EXPECT_TRUE(contains(message, "the model has no language head, only encode"));
  }
  EXPECT_TRUE(contains(message_of([&] {
                         headless.encode_and_gradients(workspace, tokens, options, [](const auto&) {
                           return Tensor<double, 3>(2, 13, 12);
                         });
                       }),
                       "dz dimension"));
}

TEST(Model, ShowsItsResidualStream) {
  Model<double> model(tiny_config());
  randomize_parameters(model, 1);
  fix_rotations(model, 2);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 13, 11, 3);
  std::vector<Index> visited;
  Matrix<double> first, second;
  model.trace(workspace, tokens, {}, [&](Index layer, const auto& halves) {
    visited.push_back(layer);
    first = matrix_of(halves.first);
    second = matrix_of(halves.second);
    if (layer == -1) {
      EXPECT_TRUE(same_bits(first, second));
    }
  });
  EXPECT_EQ(visited, (std::vector<Index>{-1, 0, 1, 2, 3}));
  Matrix<double> both(first.rows(), 24);
  both << first, second;
  EXPECT_TRUE(close(as_matrix(model.encode(workspace, tokens)),
                    naive::layer_norm(both, parameter(model, "layer_norm.weight").value,
                                      parameter(model, "layer_norm.bias").value, 1e-12)));
}

TEST(Model, GivesTheBucketsOfAPassOfItsOwn) {
  for (const ResidualConfig& residual :
       {ResidualConfig(FloatResidual{}), ResidualConfig(FixedResidual{})}) {
    ModelConfig config = tiny_config();
    config.residual = residual;
    Model<double> model(config);
    randomize_parameters(model, 1);
    fix_rotations(model, 2);
    Workspace workspace(1);
    const Tokens tokens = random_tokens(2, 13, 11, 3);
    const auto buckets = model.buckets(workspace, tokens);
    ASSERT_EQ(buckets.size(), 4u);
    EXPECT_TRUE(buckets[0].empty());
    EXPECT_TRUE(buckets[2].empty());
    const Tensor<Bucket, 4>& ids = buckets[1].at(0);
    EXPECT_EQ(ids.dimensions(), (Tensor<Bucket, 4>::Dimensions{2, 2, 2, 13}));
    EXPECT_EQ(buckets[3].at(0).dimensions(), (Tensor<Bucket, 4>::Dimensions{2, 2, 1, 13}));
    const std::set<Bucket> used(ids.data(), ids.data() + ids.size());
    EXPECT_GT(used.size(), 1u);
    EXPECT_LT(*used.rbegin(), 4);
    // A shorter pass, in which nothing is hashed, changes nothing about the answer.
    const auto none = model.buckets(workspace, random_tokens(1, 4, 11, 3));
    for (const auto& of_layer : none) EXPECT_TRUE(of_layer.empty());
    const auto again = model.buckets(workspace, tokens);
    EXPECT_TRUE(same_bits(again[1].at(0), ids));
    EXPECT_TRUE(same_bits(again[3].at(0), buckets[3].at(0)));
    // They are those of a training step, which keeps them where halves are in floating point.
    model.zero_gradients();
    EXPECT_NO_THROW(model.loss_and_gradients(workspace, tokens, tokens, 1, {}));
  }
}

TEST(Model, PassesMayRunWithinAPass) {
  Model<double> model(tiny_config());
  randomize_parameters(model, 1);
  Workspace workspace(1), other(1);
  const Tokens tokens = random_tokens(2, 13, 11, 3), texts = random_tokens(1, 30, 11, 4);
  const auto expected = model.logits(other, texts);
  const auto gradients_with = [&](const auto& during) {
    reset_gradients(model);
    model.encode_and_gradients(workspace, tokens, {}, [&](const Tensor<double, 3>& z) {
      during();
      return z;
    });
    EXPECT_EQ(workspace.bytes_in_use(), 0u);
    return gradients_of(model);
  };
  const auto gradients = gradients_with([] {});
  for (Workspace* own : {&workspace, &other}) {
    EXPECT_TRUE(same_bits(
        gradients_with([&] { EXPECT_TRUE(same_bits(model.logits(*own, texts), expected)); }),
        gradients));
    // Both texts of a contrastive loss: what the inner pass adds to gradients is added.
    const auto both = gradients_with(
        [&] { model.encode_and_gradients(*own, texts, {}, [](const auto& z) { return z; }); });
    reset_gradients(model);
    model.encode_and_gradients(other, texts, {}, [](const auto& z) { return z; });
    model.encode_and_gradients(other, tokens, {}, [](const auto& z) { return z; });
    EXPECT_TRUE(same_bits(both, gradients_of(model)));
  }
  const auto top = model.encode(other, tokens);
  Index layers = 0;
  model.trace(workspace, tokens, {}, [&](Index, const auto&) {
    EXPECT_TRUE(same_bits(model.logits(workspace, texts), expected));
    ++layers;
  });
  EXPECT_EQ(layers, 5);
  EXPECT_THROW(model.trace(workspace, tokens, {}, [](Index, const auto&) { throw 1; }), int);
  EXPECT_EQ(workspace.bytes_in_use(), 0u);
  EXPECT_TRUE(same_bits(model.encode(workspace, tokens), top)) << "and so it is after a throw";
}

TEST(Model, OfManyThreadsIsThatOfOne) {
  EXPECT_EQ(differences_of_threads(8), 0);
}

TEST(Model, RunsOnlyWithParameters) {
  Model<float> model(tiny_config());
  Workspace workspace(1);
  const Tokens tokens = random_tokens(1, 9, 11, 3);
  EXPECT_EQ(
      message_of([&] { model.loss_and_gradients(workspace, tokens, tokens, 1, {}); }),
      "reformer::Model::loss_and_gradients: all parameters are zero: initialize the model, or "
      "load its parameters, before it runs");
  EXPECT_TRUE(contains(message_of([&] { model.logits(workspace, tokens); }), "are zero"));
  model.for_each_parameter(
      [](const auto& p) { EXPECT_EQ(p.gradient.size(), 0) << "nothing may have been allocated"; });
  model.initialize(1, {.weights = 0, .embedding = 0, .axial_positions = 0.1});
  EXPECT_NO_THROW(model.logits(workspace, tokens)) << "something is enough";
  ModelConfig config = tiny_config();
  config.layers.push_back(LocalPattern{.chunk_length = 4, .values = Values::mixed});
  Model<float> mixed(config);
  mixed.initialize(1, {.weights = 0, .embedding = 0, .axial_positions = 0});
  EXPECT_TRUE(contains(message_of([&] { mixed.logits(workspace, tokens); }), "are zero"))
      << "gains and mixtures do not count";
}

/// The same expressions in a template, where gcc 12 gives up on some defaults of members.
template <typename Scalar>
std::size_t configurations_in_a_template() {
  const ModelConfig config{.vocabulary = 11, .width = 64};
  const ModelConfig exact{.width = 64, .residual = FixedResidual{}};
  const SelfAttentionConfig attention{.width = 64};
  const FeedForwardConfig feed_forward{.width = 64};
  const LshPattern lsh{.chunk_length = 8};
  const AxialPositions axial{.shape = {2, 2}};
  const RunOptions run{.training = true};
  const Initialization how{.weights = 0.1};
  const Model<Scalar> model(config);
  return config.layers.size() + exact.layers.size() + lsh.num_buckets.size() +
         static_cast<std::size_t>(attention.width + feed_forward.width + axial.shape[0]) +
         (run.training ? 1 : 0) + (how.weights > 0 ? 1 : 0) + model.config().layers.size();
}

TEST(ModelConfig, HasDefaultsThatFitEverySize) {
  EXPECT_EQ(configurations_in_a_template<float>(), 4u + 4 + 0 + 64 + 64 + 2 + 1 + 1 + 4);
  for (const Index width : {2, 3, 64, 100, 256}) {
    Model<float> model(ModelConfig{.vocabulary = 5, .width = width});
    const auto axial = std::get<AxialPositions>(model.config().positions);
    EXPECT_EQ(axial.widths[0], std::max<Index>(1, width / 4));
    EXPECT_EQ(axial.widths[1], width - axial.widths[0]);
  }
  EXPECT_TRUE(contains(message_of([] { Model<float>(ModelConfig{.width = 1}); }),
                       "the width of a model with axial positions is 1, must be at least 2"));
}

TEST(ModelConfig, HasDefaultLayersForBothDirections) {
  const auto has_values = [](const Model<float>& model, Values values) {
    return std::ranges::all_of(model.config().layers, [&](const LayerPattern& layer) {
      const AttentionPattern& pattern = layer.of_heads.at(0);
      return values_of(pattern) == values &&
             has_sorted_chunks(pattern) == (values == Values::own && shares_query_key(pattern));
    });
  };
  EXPECT_TRUE(has_values(Model<float>(ModelConfig{.width = 64}), Values::following));
  EXPECT_TRUE(has_values(Model<float>(ModelConfig{.width = 64, .causal = false}), Values::own));
}

TEST(Model, FixesTheNumberOfBucketsWhereItIsOpen) {
  ModelConfig config = tiny_config();
  config.layers = {LshPattern{4, 1, 0, 2, {4}}, LocalPattern{4}, LshPattern{4}};
  Model<float> model(config);
  randomize_parameters(model, 1);
  model.set_num_buckets({2, 8});
  EXPECT_EQ(std::get<LshPattern>(model.config().layers[0].of_heads[0]).num_buckets,
            (std::vector<Index>{4}));
  EXPECT_EQ(std::get<LshPattern>(model.config().layers[2].of_heads[0]).num_buckets,
            (std::vector<Index>{2, 8}));
  Workspace workspace(1);
  const auto buckets = model.buckets(workspace, random_tokens(1, 40, 11, 3));
  const Tensor<Bucket, 4>& ids = buckets[2].at(0);
  EXPECT_GT(*std::max_element(ids.data(), ids.data() + ids.size()), 4);
  EXPECT_TRUE(contains(message_of([&] {
                         Model<float> other(config);
                         other.set_num_buckets({3});
                       }),
                       "num_buckets has the factor 3"));
  EXPECT_TRUE(
      contains(message_of([&] { model.branch<SelfAttention<float>>(1)->set_num_buckets({2}); }),
               "a layer that does not hash"));
}

TEST(Model, LogitsOfRealTokensDoNotDependOnPadding) {
  Model<float> model(tiny_config());
  randomize_parameters(model, 1);
  Workspace workspace(1);
  const Index real = 21;
  const Tokens tokens = random_tokens(1, real, 11, 3);
  const auto expected = model.logits(workspace, tokens, {.key = {4}});
  for (const Index padding : {1, 6, 24}) {
    for (const std::uint64_t content : {5U, 6U}) {
      Tokens padded = random_tokens(1, real + padding, 11, content);
      std::copy_n(tokens.data(), real, padded.data());
      std::vector<std::uint8_t> is_real(static_cast<std::size_t>(real + padding), 0);
      std::fill_n(is_real.begin(), real, std::uint8_t{1});
      const auto logits = model.logits(workspace, padded, {.key = {4}, .is_real = is_real});
      EXPECT_TRUE(same_bits(first_positions(logits, real), expected)) << padding << " of padding";
    }
  }
}

TEST(Model, OfRealTokensIsFiniteWhateverPaddingHolds) {
  ModelConfig config = tiny_config();
  config.layers.push_back(ExactPattern{true});
  config.dropout = 0.1;
  Tokens tokens = random_tokens(2, 13, config.vocabulary - 1, 5);  // none is the last one
  Tokens labels = next_token_labels(tokens);
  std::vector<std::uint8_t> is_real(26, 1);
  for (const Index t : {4, 11, 12, 13, 20}) {
    is_real[static_cast<std::size_t>(t)] = 0;
    tokens.data()[t] = static_cast<std::int32_t>(config.vocabulary - 1);
    labels.data()[t] = ignored_label;
  }
  const auto run = [&](float held) {
    auto model = Model<float>(config);
    randomize_parameters(model, 1);
    fix_rotations(model, 3);
    parameter(model, "embedding.weight").value.row(config.vocabulary - 1).setConstant(held);
    model.zero_gradients();
    Workspace workspace(2);
    const Loss loss =
        model.loss_and_gradients(workspace, tokens, labels, 1.0, {.is_real = is_real});
    auto gradients = gradients_of(model);
    return std::pair(loss.sum, gradients);
  };
  const auto clean = run(0.5F), spoilt = run(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(spoilt.first, clean.first);
  // The norm at the padding is another, and with it the gradient of what padding is embedded as.
  EXPECT_TRUE(std::all_of(spoilt.second.begin(), spoilt.second.end(),
                          [](double g) { return std::isfinite(g); }));
}

TEST(Model, WithoutHashingIsCausalWhenItSaysSo) {
  // Hashed layers are not, in any implementation that cuts chunks across buckets.
  for (const bool causal : {true, false}) {
    ModelConfig config = tiny_config();
    config.causal = causal;
    config.layers = {LocalPattern{4, 1, 1, true}, ExactPattern{false}, ExactPattern{true}};
    Model<float> model(config);
    randomize_parameters(model, 1);
    Workspace workspace(1);
    Tokens tokens = random_tokens(2, 30, 11, 3);
    const auto before = model.logits(workspace, tokens);
    for (Index t = 17; t < 30; ++t) tokens(0, t) = (tokens(0, t) + 1) % 11;
    const auto after = model.logits(workspace, tokens);
    EXPECT_EQ(causal, static_cast<bool>(
                          same_bits(first_positions(after, 17), first_positions(before, 17))));
    EXPECT_FALSE(same_bits(after, before));
  }
}

TEST(Model, DrawsByKeyAndDropsOutInTrainingOnly) {
  ModelConfig config = tiny_config();
  config.dropout = config.attention_dropout = 0.1;
  Model<float> dropping(config);
  Model<float> plain(tiny_config());
  randomize_parameters(dropping, 1);
  randomize_parameters(plain, 1);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 23, 11, 3);
  const auto logits = [&](Model<float>& model, const RunOptions& options) {
    return model.logits(workspace, tokens, options);
  };
  EXPECT_TRUE(same_bits(logits(dropping, {.key = {4}}), logits(plain, {.key = {4}})));
  const auto trained = logits(dropping, {.key = {4}, .training = true});
  EXPECT_FALSE(same_bits(trained, logits(plain, {.key = {4}})));
  EXPECT_TRUE(same_bits(logits(dropping, {.key = {4}, .training = true}), trained));
  EXPECT_FALSE(same_bits(logits(dropping, {.key = {4, 1}, .training = true}), trained));
  EXPECT_FALSE(same_bits(logits(plain, {.key = {5}}), logits(plain, {.key = {4}})))
      << "the seed draws no rotations";
}

TEST(Model, DropsOutItsShareOfTheRates) {
  // All dropouts that a model has: a quarter of these rates is exact.
  const auto config_with = [](double rate) {
    ModelConfig config = tiny_config();
    config.dropout = config.attention_dropout = rate;
    for (NgramTable& table : config.ngrams) table.dropout = rate;
    config.value_ngrams->dropout = rate;
    return config;
  };
  const Tokens tokens = random_tokens(2, 23, 11, 3);
  Workspace workspace(2);
  const auto gradients = [&](double rate, double share) {
    Model<float> model(config_with(rate));
    randomize_parameters(model, 1);
    model.zero_gradients();
    model.loss_and_gradients(workspace, tokens, tokens, 1.0F,
                             {.key = {4}, .training = true, .dropout_share = share});
    return gradients_of(model);
  };
  EXPECT_EQ(gradients(0.5, 0.25), gradients(0.125, 1));
  EXPECT_EQ(gradients(0.5, 0), gradients(0, 1));
  EXPECT_NE(gradients(0.5, 0.25), gradients(0.5, 1));
}

TEST(Model, HashesAsOftenAsItIsAskedTo) {
  ModelConfig config = tiny_config(), more = config;
  for (LayerPattern& layer : more.layers) {
    if (auto* lsh = std::get_if<LshPattern>(&layer.of_heads[0])) lsh->num_hashes = 5;
  }
  Model<float> model(config), expected(more);
  randomize_parameters(model, 1);
  randomize_parameters(expected, 1);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 23, 11, 3);
  const RunOptions asked{.key = {4}, .num_hashes = 5};
  EXPECT_TRUE(same_bits(model.logits(workspace, tokens, asked),
                        expected.logits(workspace, tokens, {.key = {4}})));
  EXPECT_FALSE(same_bits(model.logits(workspace, tokens, {.key = {4}}),
                         model.logits(workspace, tokens, asked)));
  EXPECT_TRUE(contains(message_of([&] {
                         model.loss_and_gradients(workspace, tokens, next_token_labels(tokens),
                                                  1.0F, asked);
                       }),
                       "num_hashes is 5, must be 0 in a pass with gradients"));
  EXPECT_TRUE(contains(message_of([&] { model.logits(workspace, tokens, {.num_hashes = -1}); }),
                       "num_hashes is -1, must be at least 0"));
}

TEST(Model, InitializesBySeed) {
  ModelConfig config = tiny_config();
  config.width = 40;
  config.feed_forward_width = 80;
  config.vocabulary = 100;
  config.layers.push_back(
      LocalPattern{.chunk_length = 4, .values = Values::mixed, .scores = Scores::cosine});
  for (const PositionConfig& positions :
       std::vector<PositionConfig>{AxialPositions{{30, 40}, {12, 28}}, LearnedPositions{70}}) {
    config.positions = positions;
    const auto initialized = [&](std::uint64_t seed, const Initialization& how = {}) {
      Model<float> model(config);
      randomize_parameters(model, 77);  // what is there before does not count
      model.initialize(seed, how);
      return model;
    };
    auto model = initialized(1), same = initialized(1), other = initialized(2);
    EXPECT_TRUE(same_bits(values_of(same), values_of(model)));
    EXPECT_FALSE(same_bits(values_of(other), values_of(model)));

    const auto check_all = [](Model<float>& m, const Initialization& how) {
      std::set<float> first_values;
      m.for_each_parameter([&](const Parameter<float>& p) {
        const auto values = p.value.array().template cast<double>();
        if (p.name.ends_with("layer_norm.weight")) {
          EXPECT_TRUE((values == 1).all()) << p.name;
        } else if (p.name.ends_with(".bias") || p.role == Role::ngram_table) {
          EXPECT_TRUE((values == 0).all()) << p.name;
        } else if (p.name.ends_with(".value_mixture")) {
          EXPECT_TRUE((values.row(0) == 0).all() && (values.row(1) == 1).all()) << p.name;
        } else if (p.name.ends_with(".temperature")) {
          EXPECT_TRUE((values == 20).all()) << p.name;
        } else {
          const double expected = p.name.starts_with("positions.weights.") ? how.axial_positions
                                  : p.name.starts_with("positions.")       ? how.learned_positions
                                  : p.name.starts_with("embedding.")       ? how.embedding
                                                                           : how.weights;
          const auto n = static_cast<double>(p.size());
          const double deviation = std::sqrt(values.square().mean());
          EXPECT_NEAR(deviation, expected, expected * 4 / std::sqrt(2 * n)) << p.name;
          EXPECT_NEAR(values.mean(), 0, expected * 4 / std::sqrt(n)) << p.name;
          EXPECT_TRUE(first_values.insert(p.value(0, 0)).second)
              << p.name << " begins like another parameter";
        }
      });
    };
    check_all(
        model,
        {.weights = 0.02, .embedding = 0.02, .learned_positions = 0.02, .axial_positions = 1});
    const Initialization how{
        .weights = 0.1, .embedding = 0.3, .learned_positions = 0.7, .axial_positions = 0.5};
    auto scaled = initialized(3, how);
    check_all(scaled, how);
    // The stack is given the same vectors of tokens by an embedding that is tied.
    config.tied_embedding = true;
    auto tied = initialized(3, how);
    config.tied_embedding = false;
    EXPECT_TRUE(same_bits(Matrix<float>(parameter(tied, "embedding.weight").value * 4),
                          parameter(scaled, "embedding.weight").value));
  }
}

TEST(Model, CountsAndNamesItsParameters) {
  Model<float> model(tiny_config());
  std::map<std::string, Index> sizes;
  Index sum = 0;
  model.for_each_parameter([&](const Parameter<float>& p) {
    EXPECT_TRUE(sizes.emplace(p.name, p.size()).second) << "two parameters are named " << p.name;
    sum += p.size();
  });
  EXPECT_EQ(model.num_parameters(), sum);
  EXPECT_EQ(sizes.at("embedding.weight"), 11 * 12);
  EXPECT_EQ(sizes.at("positions.weights.0"), 5 * 5);
  EXPECT_EQ(sizes.at("positions.weights.1"), 9 * 7);
  EXPECT_EQ(sizes.at("layers.0.attention.key.weight"), 12 * 10);
  EXPECT_EQ(sizes.at("layers.1.attention.query_key.weight"), 12 * 10);
  EXPECT_EQ(sizes.count("layers.1.attention.key.weight"), 0u);
  EXPECT_EQ(sizes.at("layers.3.feed_forward.dense.bias"), 14);
  EXPECT_EQ(sizes.at("layer_norm.weight"), 24);
  EXPECT_EQ(sizes.at("head.weight"), 24 * 11);
  EXPECT_EQ(sizes.at("head.bias"), 11);
}

TEST(Model, FindsParametersByName) {
  Model<float> model(tiny_config());
  Parameter<float>* bias = model.find_parameter("layers.2.feed_forward.output.bias");
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(bias->size(), 12);
  EXPECT_EQ(std::as_const(model).find_parameter(bias->name), bias);
  EXPECT_EQ(model.find_parameter("layers.4.feed_forward.output.bias"), nullptr);
  EXPECT_EQ(std::as_const(model).find_parameter(""), nullptr);
}

TEST(Model, TakesBranchesOfOthers) {
  const ModelConfig config = tiny_config();
  std::vector<Index> changed;
  Model<float> model(config, [&](Index layer, auto& branches) {
    EXPECT_EQ(branches.size(), 2u);
    changed.push_back(layer);
    const std::string name = reformer::detail::join("layers.", layer, ".shift");
    if (layer == 1) branches.insert(branches.begin() + 1, Shift<float>(name, config.width));
    if (layer == 2) branches.erase(branches.begin());
  });
  EXPECT_EQ(changed, (std::vector<Index>{0, 1, 2, 3}));
  std::vector<std::string_view> labels;
  for (Index i = 0; i < model.stack().size(); ++i) labels.push_back(model.stack()[i].label());
  EXPECT_EQ(labels, (std::vector<std::string_view>{"attention", "feed-forward", "attention",
                                                   "shift", "feed-forward", "feed-forward",
                                                   "attention", "feed-forward"}));
  EXPECT_NE(model.branch<Shift<float>>(1), nullptr);
  EXPECT_EQ(model.branch<Shift<float>>(0), nullptr);
  EXPECT_EQ(model.branch<SelfAttention<float>>(2), nullptr);

  // Its parameters are parameters of the model, and get initial values by their roles.
  ASSERT_NE(model.find_parameter("layers.1.shift.now"), nullptr);
  model.initialize(1);
  EXPECT_GT(model.find_parameter("layers.1.shift.now")->value.norm(), 0);
  Model<float> copy = model;
  copy.find_parameter("layers.1.shift.now")->value.setConstant(7);
  EXPECT_LT(model.find_parameter("layers.1.shift.now")->value.norm(), 1);

  // What is said of layers is said of them, however many branches they have.
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 13, 11, 3);
  std::vector<Index> visited;
  model.trace(workspace, tokens, {}, [&](Index layer, const auto&) { visited.push_back(layer); });
  EXPECT_EQ(visited, (std::vector<Index>{-1, 0, 1, 2, 3}));
  const auto buckets = model.buckets(workspace, tokens);
  ASSERT_EQ(buckets.size(), 4u);
  EXPECT_EQ(buckets[1].at(0).size(), 2 * 2 * 2 * 13);
  EXPECT_TRUE(buckets[2].empty());
  EXPECT_EQ(buckets[3].at(0).size(), 2 * 2 * 1 * 13);
  parameter(model, "layers.1.shift.now").value.setConstant(std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(model.first_non_finite_layer(workspace, tokens, {}), 1);
}

TEST(Model, FindsTheFirstLayerThatIsNotFinite) {
  const Tokens tokens = random_tokens(1, 19, 11, 3);
  Workspace workspace(1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto found_in = [&](const std::string& name, float value) {
    Model<float> model(tiny_config());
    randomize_parameters(model, 1);
    if (!name.empty()) parameter(model, name).value.setConstant(value);
    return model.first_non_finite_layer(workspace, tokens, {});
  };
  EXPECT_EQ(found_in("", 0), std::nullopt);
  EXPECT_EQ(found_in("embedding.weight", nan), -1);
  EXPECT_EQ(found_in("layers.0.attention.value.weight", nan), 0);
  EXPECT_EQ(found_in("layers.2.feed_forward.output.bias", std::numeric_limits<float>::infinity()),
            2);
}

TEST(NextTokenLabels, AreTheTokensOneLater) {
  Tokens tokens(2, 3);
  tokens.setValues({{1, 2, 3}, {4, 5, 6}});
  const Tokens labels = next_token_labels(tokens);
  const std::vector<std::int32_t> expected = {2, 3, ignored_label, 5, 6, ignored_label};
  EXPECT_EQ(std::vector<std::int32_t>(labels.data(), labels.data() + labels.size()), expected);
}

TEST(Model, RejectsImpossibleConfigurations) {
  const auto message = [](auto change) {
    ModelConfig config = tiny_config();
    change(config);
    return message_of([&] { Model<float>{config}; });
  };
  EXPECT_TRUE(
      contains(message([](auto& c) { c.vocabulary = 0; }), "vocabulary is 0, must be at least 1"));
  EXPECT_TRUE(contains(message([](auto& c) { c.width = 0; }), "width is 0, must be at least 1"));
  EXPECT_TRUE(contains(message([](auto& c) { c.width = -12; }), "width is -12"));
  EXPECT_TRUE(contains(message([](auto& c) { c.num_heads = 0; }), "num_heads is 0"));
  EXPECT_TRUE(contains(message([](auto& c) { c.head_width = 0; }), "head_width is 0"));
  constexpr Index huge = Index{1} << 40, large = Index{1} << 29;
  for (const auto& [name, field] :
       {std::pair("vocabulary", &ModelConfig::vocabulary), std::pair("width", &ModelConfig::width),
        std::pair("num_heads", &ModelConfig::num_heads),
        std::pair("head_width", &ModelConfig::head_width),
        std::pair("feed_forward_width", &ModelConfig::feed_forward_width)}) {
    EXPECT_TRUE(contains(message([&, f = field](auto& c) { c.*f = huge; }),
                         std::string(name) + " is 1099511627776, must be at most "));
  }
  EXPECT_TRUE(contains(message([](auto& c) { c.vocabulary = c.width = large; }),
                       "vocabulary * 2 * width is 536870912 * 1073741824, must be at most "));
  EXPECT_TRUE(contains(message([](auto& c) {
                         c.feed_forward_width = large;
                         c.width = large;
                         c.vocabulary = 1;
                         c.num_heads = c.head_width = 1;
                       }),
                       "feed_forward_width * width is 536870912 * 536870912, must be at most "));
  EXPECT_TRUE(contains(message([](auto& c) { c.layer_norm_epsilon = std::nan(""); }),
                       "layer_norm_epsilon is nan"));
  EXPECT_TRUE(contains(message([](auto& c) { c.residual = FixedResidual{.fraction_bits = -1}; }),
                       "Model: residual: fraction_bits is -1, must be in [0, 30]"));
  EXPECT_TRUE(contains(message([](auto& c) { c.residual = FixedResidual{.fraction_bits = 31}; }),
                       "Model: residual: fraction_bits is 31, must be in [0, 30]"));
  EXPECT_TRUE(contains(message([](auto& c) { c.activation = static_cast<Activation>(7); }),
                       "activation is number 7"));
  EXPECT_TRUE(
      contains(message([](auto& c) { c.feed_forward_width = 0; }), "feed_forward_width is 0"));
  EXPECT_TRUE(contains(message([](auto& c) { c.layers.clear(); }), "layers is empty"));
  EXPECT_TRUE(contains(message([](auto& c) { c.dropout = 1.5; }), "dropout is 1.5"));
  EXPECT_TRUE(
      contains(message([](auto& c) { c.attention_dropout = -1; }), "attention_dropout is -1"));
  EXPECT_TRUE(contains(message([](auto& c) {
                         c.positions = AxialPositions{{5, 9}, {5, 6}};
                       }),
                       "AxialPositions::widths are 5 + 6, must add up to the model width 12"));
  EXPECT_TRUE(contains(message([](auto& c) {
                         c.positions = AxialPositions{{0, 9}, {5, 7}};
                       }),
                       "Model: AxialPositions::shape[0] is 0"));
  EXPECT_TRUE(
      contains(message([](auto& c) { c.positions = LearnedPositions{0}; }), "max_length is 0"));
  EXPECT_TRUE(contains(message([](auto& c) { c.layers[1] = LshPattern{0}; }),
                       "Model: layers[1]: chunk_length is 0"));
  EXPECT_TRUE(contains(message([](auto& c) {
                         c.layers[3] = LshPattern{4, 1, 0, 2, {3}};
                       }),
                       "factor 3, every factor must be even"));
  EXPECT_TRUE(contains(message([](auto& c) {
                         c.layers[3] = LshPattern{4, -1, 0, 2, {4}};
                       }),
                       "reformer::Model: layers[3]: chunks_before is -1"));
}

TEST(Model, RejectsImpossibleInputs) {
  Model<float> model(tiny_config());
  model.initialize(1);
  Workspace workspace(1);
  const Tokens good = random_tokens(2, 9, 11, 3);
  const auto message = [&](const Tokens& tokens, const Tokens& labels,
                           const RunOptions& options = {}) {
    const std::string loss = message_of([&] { model.loss(workspace, tokens, labels, options); });
    // Training says the same, in its own name, before it changes a gradient.
    model.zero_gradients();
    const std::string training =
        message_of([&] { model.loss_and_gradients(workspace, tokens, labels, 1.0F, options); });
    EXPECT_EQ(training.substr(training.find(": ")), loss.substr(loss.find(": ")));
    EXPECT_TRUE(contains(loss, "reformer::Model::loss: "));
    EXPECT_TRUE(contains(training, "reformer::Model::loss_and_gradients: "));
    for (const double g : gradients_of(model)) EXPECT_EQ(g, 0);
    return loss;
  };
  const auto with = [&](Index b, Index t, std::int32_t value) {
    Tokens changed = good;
    changed(b, t) = value;
    return changed;
  };
  EXPECT_TRUE(contains(message(with(1, 2, 11), good), "token 11 is 11, must be in [0, 11)"));
  EXPECT_TRUE(contains(message(with(0, 4, -1), good), "token 4 is -1, must be in [0, 11)"));
  EXPECT_TRUE(contains(message(with(0, 4, ignored_label), good), "token 4 is -100"));
  EXPECT_TRUE(contains(message(good, with(1, 0, 11)), "label 9 is 11, must be in [0, 11) or -100"));
  EXPECT_TRUE(contains(message(good, with(0, 0, -1)), "label 0 is -1"));
  EXPECT_TRUE(contains(message(good, random_tokens(1, 9, 11, 3)),
                       "labels dimension 0 is 1, must equal batch = 2"));
  EXPECT_TRUE(contains(message(good, random_tokens(2, 8, 11, 3)),
                       "labels dimension 1 is 8, must equal length = 9"));
  const Tokens longest = random_tokens(1, 45, 11, 3), too_long = random_tokens(1, 46, 11, 3);
  EXPECT_NO_THROW(model.loss(workspace, longest, longest));
  EXPECT_TRUE(contains(message(too_long, too_long),
                       "length is 46, must be at most 45, the number of positions"));
  EXPECT_TRUE(contains(message(Tokens(0, 9), Tokens(0, 9)), "batch is 0, must be at least 1"));
  EXPECT_TRUE(contains(message(Tokens(2, 0), Tokens(2, 0)), "length is 0, must be at least 1"));
  const std::vector<std::uint8_t> mask(17, 1);
  EXPECT_TRUE(contains(message(good, good, {.is_real = mask}),
                       "is_real has 17 elements, must have B*T = 18"));

  EXPECT_TRUE(contains(message_of([&] { model.logits(workspace, too_long); }),
                       "reformer::Model::logits: length is 46"));
  const std::vector<std::uint8_t> padding(3, 0);
  EXPECT_TRUE(
      contains(message_of([&] {
                 model.next_token_logits(workspace, std::array{1, 2, 3}, {.is_real = padding});
               }),
               "is_real has no token that is real"));
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (const float scale : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_TRUE(
        contains(message_of([&] { model.loss_and_gradients(workspace, good, good, scale, {}); }),
                 "reformer::Model::loss_and_gradients: scale is "));
  }
  for (const double deviation : {-1.0, std::nan(""), double{infinity}}) {
    EXPECT_TRUE(contains(message_of([&] { model.initialize(1, {.weights = deviation}); }),
                         "the deviation of weights is "));
    EXPECT_TRUE(contains(message_of([&] { model.initialize(1, {.axial_positions = deviation}); }),
                         "the deviation of axial_positions is "));
  }
  ModelConfig endless = tiny_config();
  endless.positions = SinusoidalPositions{};
  Model<float> any_length(endless);
  any_length.initialize(1);
  EXPECT_TRUE(contains(
      message_of([&] { any_length.loss(workspace, Tokens(1, 1 << 24), Tokens(1, 1 << 24)); }),
      "must be "));
  for (const auto& text : {message_of([&] { model.plan(0, 9, 1); }),
                           message_of([&] { model.plan_encoding(-1, 9, 1); })}) {
    EXPECT_TRUE(contains(text, "batch is "));
  }
  EXPECT_TRUE(
      contains(message_of([&] { model.plan(1, 46, 1); }), "length is 46, must be at most 45"));
  EXPECT_TRUE(contains(message_of([&] { model.plan(1, 9, 0); }), "threads is 0"));
  EXPECT_TRUE(contains(message_of([&] { any_length.plan(1, 1 << 24, 1); }), "less than 2^24"));
  EXPECT_TRUE(contains(message_of([&] { any_length.plan(1 << 30, 1 << 23, 1); }),
                       "batch * length is 1073741824 * 8388608, which is more than"));
  EXPECT_TRUE(contains(message_of([&] { model.stack()[8]; }), "branch is 8, must be in [0, 8)"));
  EXPECT_TRUE(contains(message_of([&] { model.stack()[-1]; }), "branch is -1"));
  EXPECT_TRUE(contains(message_of([&] { model.next_token_logits(workspace, {}); }),
                       "reformer::Model::next_token_logits: length is 0"));
  const std::vector<std::int32_t> bad = {1, 12};
  EXPECT_TRUE(
      contains(message_of([&] { model.next_token_logits(workspace, bad); }), "token 1 is 12"));
}

}  // namespace
}  // namespace reformer::test
