// SPDX-License-Identifier: MIT
/// Which attention is strictly causal, and decoding token by token: against the forward pass over
/// the whole sequence, bit for bit, wherever the prompt ends.
#include "reformer/model/decoding.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "model/tiny_model.hpp"
#include "reformer/attention/attention.hpp"
#include "reformer/model/generation.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

LshPattern bucket_chunks(Index chunk_length, Index before, Index rounds, std::vector<Index> buckets,
                         Duplicates duplicates = Duplicates::each_time) {
  return {.chunk_length = chunk_length,
          .chunks_before = before,
          .num_hashes = rounds,
          .num_buckets = std::move(buckets),
          .chunking = Chunking::bucket_chunks,
          .duplicates = duplicates};
}

/// Every kind of attention whose result for a token must not depend on later ones; in the last
/// ones, the two heads of a layer differ.
std::map<std::string, LayerPattern> causal_patterns() {
  std::map<std::string, AttentionPattern> patterns = {
      {"local", LocalPattern{4, 1, 0, false}},
      {"local, two chunks back", LocalPattern{3, 2, 0, false}},
      {"local, circular", LocalPattern{4, 1, 0, true}},
      {"local, chunks after", LocalPattern{4, 1, 1, false}},
      {"exact", ExactPattern{false}},
      {"exact, shared", ExactPattern{true}},
      {"bucket chunks", bucket_chunks(4, 1, 1, {4})},
      {"bucket chunks, factors", bucket_chunks(4, 1, 2, {2, 4})},
      {"bucket chunks, two back", bucket_chunks(3, 2, 3, {4})},
      {"bucket chunks, none back", bucket_chunks(5, 0, 2, {2})},
      {"bucket chunks, long", bucket_chunks(64, 1, 2, {4})},
      {"bucket chunks, once", bucket_chunks(4, 1, 2, {4}, Duplicates::once)},
      {"bucket chunks, two back, once", bucket_chunks(2, 2, 4, {2}, Duplicates::once)}};
  for (auto [name, pattern] : std::map(patterns)) {
    std::visit([](auto& p) { p.values = Values::following; }, pattern);
    patterns[name + ", following"] = pattern;
    std::visit([](auto& p) { p.values = Values::mixed; }, pattern);
    patterns[name + ", mixed"] = pattern;
    std::visit([](auto& p) { p.scores = Scores::cosine; }, pattern);
    patterns[name + ", mixed, cosine"] = pattern;
    std::visit([](auto& p) { p.rotary_width = 4; }, pattern);
    patterns[name + ", mixed, cosine, rotary"] = pattern;
  }
  std::map<std::string, LayerPattern> layers(patterns.begin(), patterns.end());
  for (const auto& [one, other] : std::vector<std::pair<std::string, std::string>>{
           {"local", "bucket chunks, factors"},
           {"bucket chunks, two back, once, following", "local, two chunks back"},
           {"bucket chunks", "bucket chunks, two back, mixed"},
           {"exact, shared, mixed", "exact"}}) {
    layers["heads: " + one + " and " + other] = {patterns.at(one), patterns.at(other)};
  }
  return layers;
}

ModelConfig config_of(const std::vector<LayerPattern>& layers,
                      const ResidualConfig& residual = FloatResidual{}) {
  ModelConfig config = tiny_config();
  config.positions = SinusoidalPositions{};
  config.layers = layers;
  config.residual = residual;
  return config;
}

template <typename Scalar>
Model<Scalar> model_of(const ModelConfig& config) {
  Model<Scalar> model(config);
  randomize_parameters(model, 1);
  return model;
}

template <typename Scalar>
Tensor<Scalar, 3> logits_of(const Model<Scalar>& model, const Tokens& tokens, int threads = 1,
                            Precision precision = Precision::float32) {
  Workspace workspace(threads);
  return model.logits(workspace, tokens, {.key = {7}, .precision = precision});
}

std::size_t index_of(Index i) {
  return static_cast<std::size_t>(i);
}

/// What the last call has returned: a step of no sequence changes nothing.
template <typename Scalar>
const Matrix<Scalar>& last_logits(Decoder<Scalar>& decoder) {
  Workspace workspace(1);
  return decoder.step(workspace, std::span<const Index>{}, {});
}

template <typename Scalar>
std::span<const Scalar> row_of(const Tensor<Scalar, 3>& logits, Index b, Index t) {
  return {&logits(b, t, 0), static_cast<std::size_t>(logits.dimension(2))};
}
template <typename Scalar>
std::span<const Scalar> row_of(const Matrix<Scalar>& logits, Index b) {
  return {&logits(b, 0), static_cast<std::size_t>(logits.cols())};
}

/// How many of the positions before `cut` change when the tokens from `cut` on do.
template <typename Scalar>
Index changed_before(Model<Scalar>& model, Index length, Index cut) {
  const Tokens tokens = random_tokens(1, length, 11, 3);
  Tokens other = tokens;
  for (Index t = cut; t < length; ++t)
    other(0, t) = (other(0, t) + 1 + static_cast<int>(t % 9)) % 11;
  const auto a = logits_of(model, tokens), b = logits_of(model, other);
  EXPECT_FALSE(same_bits(row_of(a, 0, cut), row_of(b, 0, cut))) << "the change has no effect";
  Index changed = 0;
  for (Index t = 0; t < cut; ++t) changed += same_bits(row_of(a, 0, t), row_of(b, 0, t)) ? 0 : 1;
  return changed;
}

const std::vector<ResidualConfig>& residuals() {
  static const std::vector<ResidualConfig> all = {FloatResidual{}, FixedResidual{}};
  return all;
}

/// y += x / 8, and nothing that it need not have.
struct Eighth {
  using Scalar = float;
  struct Saved {};
  static constexpr std::string_view label = "eighth";
  template <ResidualHalf Half>
  void forward(const Half& x, Half& y, Saved&, const Pass&) const {
    std::vector<float> row(index_of(x.columns()));
    for (Index i = 0; i < x.rows(); ++i) {
      x.read(i, 0, x.columns(), row.data());
      for (float& value : row) value /= 8;
      y.add(i, 0, x.columns(), row.data());
    }
  }
  template <ResidualHalf Half>
  void reverse(const Half&, Half&, const MatrixView<const float>&, const MatrixView<float>&, Saved&,
               const Pass&) {
    FAIL() << "decoding has no backward pass";
  }
  void plan(Workspace&, const SavedPass&, const BranchStorage&) const {}
  template <typename F>
  void for_each_parameter(F&&) const {}
};

TEST(Decoding, InEachPrecisionIsTheForwardPass) {
  constexpr Index length = 30, prompt = 11;
  const Tokens tokens = random_tokens(1, length, 11, 3);
  // In the last model each step runs over the whole sequence again.
  for (const auto& [hashed, tied] : {std::pair(bucket_chunks(4, 1, 2, {4}), false),
                                     {bucket_chunks(4, 1, 2, {4}), true},
                                     {LshPattern{4, 1, 0, 2, {4}}, false}}) {
    ModelConfig config = config_of({LocalPattern{4}, ExactPattern{true}, hashed});
    config.tied_embedding = tied;
    const Model<float> model = model_of<float>(config);
    const auto in_floats = logits_of(model, tokens);
    for (const Precision precision : precisions) {
      Workspace workspace(2);
      Decoder<float> decoder(workspace, model, 1, {7}, precision);
      decoder.prefill(workspace, 0, std::span(tokens.data(), index_of(prompt)));
      for (Index t = prompt;; ++t) {
        const Tokens so_far = tokens.slice(std::array<Index, 2>{0, 0}, std::array<Index, 2>{1, t});
        ASSERT_TRUE(same_bits(row_of(last_logits(decoder), 0),
                              row_of(logits_of(model, so_far, 1, precision), 0, t - 1)))
            << name_of(precision) << ", " << t << " tokens";
        if (precision != Precision::float32) {
          ASSERT_FALSE(same_bits(row_of(last_logits(decoder), 0), row_of(in_floats, 0, t - 1)));
        }
        if (t == length) break;
        decoder.step(workspace, std::span(&tokens(0, t), 1));
      }
    }
  }
}

// What an element is the sum of is cut at the same keys, although a step has other blocks.
TEST(Decoding, InEachPrecisionIsTheForwardPassOfWideWindows) {
  constexpr Index length = 150, prompt = 30;
  const Tokens tokens = random_tokens(1, length, 11, 3);
  const Model<float> model = model_of<float>(
      config_of({LocalPattern{40, 1, 0, true}, ExactPattern{false}, bucket_chunks(37, 1, 2, {2})}));
  for (const Precision precision : {Precision::bfloat16x3, Precision::bfloat16}) {
    Workspace workspace(2);
    const auto expected = logits_of(model, tokens, 1, precision);
    Decoder<float> decoder(workspace, model, 1, {7}, precision);
    decoder.prefill(workspace, 0, std::span(tokens.data(), index_of(prompt)));
    for (Index t = prompt; t < length; ++t) {
      ASSERT_TRUE(same_bits(row_of(last_logits(decoder), 0), row_of(expected, 0, t - 1)))
          << name_of(precision) << ", " << t << " tokens";
      decoder.step(workspace, std::span(&tokens(0, t), 1));
    }
  }
}

TEST(Decoding, OfLayersOfOtherBranchesIsTheForwardPass) {
  constexpr Index batch = 3, length = 30;
  const Tokens tokens = random_tokens(batch, length, 11, 3);
  const std::vector<Index> lengths = {5, 9, 7};
  for (const int branches : {1, 3}) {
    for (const ResidualConfig& residual : residuals()) {
      const ModelConfig config =
          config_of({LocalPattern{4}, ExactPattern{true}, bucket_chunks(4, 1, 2, {4})}, residual);
      Model<float> model(config, layers_of<float>(branches, config.width));
      randomize_parameters(model, 1);
      const auto expected = logits_of(model, tokens);
      Workspace workspace(2);
      Decoder<float> decoder(workspace, model, batch, {7});
      EXPECT_FALSE(decoder.recomputes());
      decoder.prefill(workspace, tokens, lengths);
      for (Index step = 0;; ++step) {
        std::vector<std::int32_t> next;
        for (Index b = 0; b < batch; ++b) {
          const Index now = lengths[index_of(b)] + step;
          EXPECT_TRUE(same_bits(row_of(last_logits(decoder), b), row_of(expected, b, now - 1)))
              << branches << " branches, sequence " << b << " of " << now << " tokens";
          if (now < length) next.push_back(tokens(b, now));
        }
        if (next.size() < index_of(batch)) break;
        decoder.step(workspace, next);
      }
    }
  }
}

TEST(Decoding, NeedsBranchesThatGoOnTokenByToken) {
  const auto add_eighth = [](Index layer, auto& branches) {
    if (layer == 1) branches.insert(branches.begin(), Eighth());
  };
  Workspace workspace(1);
  const Tokens tokens = random_tokens(1, 12, 11, 3);
  Model<float> model(config_of({LocalPattern{4}, LocalPattern{4}}), add_eighth);
  randomize_parameters(model, 1);
  EXPECT_NO_THROW(model.logits(workspace, tokens));
  EXPECT_EQ(
      message_of([&] { const Decoder<float> decoder(workspace, model); }),
      "reformer::ReversibleSequence::decoding: layer 1, first half (eighth) cannot go on token "
      "by token, must have decoding, prefill and decode");
  // Where the whole sequence is run again for each token, forward is enough.
  Model<float> sorted(config_of({LocalPattern{4}, LshPattern{4, 1, 0, 2, {4}}}), add_eighth);
  randomize_parameters(sorted, 1);
  Decoder<float> decoder(workspace, sorted, 1, {7});
  EXPECT_TRUE(decoder.recomputes());
  decoder.prefill(workspace, tokens);
  EXPECT_TRUE(same_bits(row_of(last_logits(decoder), 0), row_of(logits_of(sorted, tokens), 0, 11)));
}

TEST(Causality, NoTokenSeesLaterOnesInAnyBit) {
  for (const auto& [name, pattern] : causal_patterns()) {
    for (const ResidualConfig& residual : residuals()) {
      auto model = model_of<float>(config_of({pattern, pattern}, residual));
      auto exact = model_of<double>(config_of({pattern, pattern}, residual));
      for (const Index length : {9, 40, 131}) {
        for (const Index cut : {Index{1}, length / 2, length - 1}) {
          EXPECT_EQ(changed_before(model, length, cut), 0)
              << name << ", length " << length << ", changed from " << cut;
          EXPECT_EQ(changed_before(exact, length, cut), 0)
              << name << " in double, length " << length << ", changed from " << cut;
        }
      }
    }
  }
}

TEST(Causality, NoTokenSeesHowManyAreLater) {
  for (const auto& [name, pattern] : causal_patterns()) {
    auto model = model_of<float>(config_of({pattern, pattern}));
    const Tokens tokens = random_tokens(1, 140, 11, 3);
    const auto whole = logits_of(model, tokens);
    for (const Index length : {1, 3, 4, 5, 17, 129}) {
      Tokens start(1, length);
      std::copy_n(tokens.data(), length, start.data());
      const auto logits = logits_of(model, start);
      for (Index t = 0; t < length; ++t) {
        ASSERT_TRUE(same_bits(row_of(logits, 0, t), row_of(whole, 0, t)))
            << name << ", length " << length << ", token " << t;
      }
    }
  }
}

TEST(Causality, SortedChunksLeak) {
  // The reason for bucket chunks: later tokens move the places where earlier ones are cut.
  for (const Index rounds : {1, 4}) {
    LshPattern sorted{.chunk_length = 8, .num_hashes = rounds, .num_buckets = {8}};
    LshPattern by_bucket = sorted;
    by_bucket.chunking = Chunking::bucket_chunks;
    auto leaking = model_of<float>(config_of({sorted, sorted}));
    auto causal = model_of<float>(config_of({by_bucket, by_bucket}));
    const Index changed = changed_before(leaking, 256, 150);
    EXPECT_GT(changed, 75) << rounds << " rounds";
    EXPECT_EQ(changed_before(causal, 256, 150), 0) << rounds << " rounds";
    RecordProperty("changed_of_150_" + std::to_string(rounds), static_cast<int>(changed));
  }
}

TEST(Causality, ATokenAloneInItsBucketsGetsItsOwnValue) {
  Workspace workspace(1);
  const AttentionOptions options{.pattern = bucket_chunks(4, 1, 2, {4})};
  const auto x = random_tensor<double, 4>({1, 3, 1, 8}, 1);
  const auto value = random_tensor<double, 4>({1, 3, 1, 8}, 2);
  Tensor<Bucket, 4> buckets(1, 1, 2, 3);
  buckets.setValues({{{{0, 1, 0}, {2, 1, 3}}}});  // token 1 is alone, token 2 is with token 0 once
  const auto output = attention(workspace, x, x, value, options, buckets);
  for (Index j = 0; j < 8; ++j) {
    for (const Index t : {0, 1}) EXPECT_DOUBLE_EQ(output.out(0, t, 0, j), value(0, t, 0, j)) << t;
    EXPECT_DOUBLE_EQ(output.out(0, 2, 0, j), value(0, 0, 0, j)) << "its own weight must vanish";
  }
}

/// Holds every step after a prompt against the rows of the forward pass.
template <typename Scalar>
void expect_the_forward_pass(const std::string& name, const ModelConfig& config, Index length,
                             const std::vector<Index>& prompts, int threads = 1) {
  const Index batch = 2;
  auto model = model_of<Scalar>(config);
  const Tokens tokens = random_tokens(batch, length, config.vocabulary, 5);
  const auto expected = logits_of(model, tokens);
  Workspace workspace(threads);
  Decoder<Scalar> decoder(workspace, model, batch, {7});
  EXPECT_FALSE(decoder.recomputes()) << name;
  for (const Index prompt : prompts) {
    const auto compare = [&](const Matrix<Scalar>& logits, Index t) {
      for (Index b = 0; b < batch; ++b) {
        ASSERT_EQ(decoder.length(b), t + 1);
        ASSERT_TRUE(same_bits(row_of(logits, b), row_of(expected, b, t)))
            << name << ", prompt of " << prompt << ", token " << t << ", sequence " << b << ", "
            << threads << " threads";
      }
    };
    Tokens start(batch, prompt);
    for (Index b = 0; b < batch; ++b) std::copy_n(&tokens(b, 0), prompt, &start(b, 0));
    compare(decoder.prefill(workspace, start), prompt - 1);
    for (Index t = prompt; t < length; ++t) {
      const std::vector<std::int32_t> next = {tokens(0, t), tokens(1, t)};
      compare(decoder.step(workspace, next), t);
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(workspace.bytes_in_use(), 0u);
  }
}

TEST(Decoder, GivesTheBitsOfTheForwardPassWhereverThePromptEnds) {
  std::vector<Index> everywhere;
  for (Index prompt = 1; prompt <= 33; ++prompt) everywhere.push_back(prompt);
  for (const auto& [name, pattern] : causal_patterns()) {
    for (const ResidualConfig& residual : residuals()) {
      const ModelConfig config = config_of({pattern, pattern}, residual);
      expect_the_forward_pass<float>(name, config, 33, everywhere);
      expect_the_forward_pass<double>(name + " in double", config, 33, everywhere);
    }
    expect_the_forward_pass<float>(name, config_of({pattern}), 300, {1, 128, 129, 140, 257});
  }
}

TEST(Decoder, GivesTheBitsOfTheForwardPassInDeepModelsOnAnyThreads) {
  std::vector<LayerPattern> layers;
  for (const auto& [name, pattern] : causal_patterns()) layers.push_back(pattern);
  for (const int threads : thread_counts) {
    expect_the_forward_pass<float>("all kinds", config_of(layers), 50, {1, 20, 50}, threads);
  }
  ModelConfig config = config_of(layers);
  config.width = 40;
  config.head_width = 20;
  config.num_heads = 4;
  config.feed_forward_width = 600;  // a product deeper than a block of products
  config.vocabulary = 300;
  config.positions = AxialPositions{{9, 9}, {10, 30}};
  expect_the_forward_pass<float>("all kinds", config, 50, {7}, 2);
  config.positions = LearnedPositions{50};
  expect_the_forward_pass<double>("all kinds in double", config, 50, {31}, 2);
}

TEST(Decoder, StaysCloseWhereTheForwardPassWorksOnGroupsOfHeads) {
  // Then the forward pass adds the outputs of groups to the half one after another.
  const auto deviation = [](auto scalar, Index length) {
    using Scalar = decltype(scalar);
    ModelConfig config = config_of({LocalPattern{16}, bucket_chunks(16, 1, 2, {8})});
    config.num_heads = 2;
    config.head_width = 64;
    auto model = model_of<Scalar>(config);
    const Tokens tokens = random_tokens(1, length, config.vocabulary, 5);
    const auto expected = logits_of(model, tokens, 2);
    Workspace workspace(2);
    Decoder<Scalar> decoder(workspace, model, 1, {7});
    Tokens start(1, length - 40);
    std::copy_n(tokens.data(), length - 40, start.data());
    decoder.prefill(workspace, start);
    double largest = 0;
    for (Index t = length - 40; t < length; ++t) {
      const auto& logits = decoder.step(workspace, std::array{tokens(0, t)});
      for (Index v = 0; v < config.vocabulary; ++v) {
        largest =
            std::max(largest, static_cast<double>(std::abs(logits(0, v) - expected(0, t, v))));
      }
    }
    return largest;
  };
  const double in_float = deviation(0.0F, 8300), in_double = deviation(0.0, 4200);
  EXPECT_LE(in_float, 1e-5);
  EXPECT_LE(in_double, 1e-12);
  RecordProperty("largest_deviation_float", reformer::detail::join(in_float));
  RecordProperty("largest_deviation_double", reformer::detail::join(in_double));
  EXPECT_GT(in_float, 0) << "then this is no case of groups";
}

TEST(Decoder, WritesTheGreedyTextOfTheForwardPass) {
  constexpr Index length = 4096;
  for (const ResidualConfig& residual : residuals()) {
    const ModelConfig config =
        config_of({LocalPattern{16}, bucket_chunks(16, 1, 2, {8}), LocalPattern{16},
                   bucket_chunks(8, 1, 3, {4, 2}, Duplicates::once)},
                  residual);
    auto model = model_of<float>(config);
    Workspace workspace(2);
    Decoder<float> decoder(workspace, model, 1, {7});
    std::vector<std::int32_t> text = {1, 2, 3};
    const auto written = generate(workspace, decoder, {text},
                                  {.max_tokens = length, .sampling = {.temperature = 0}})[0];
    ASSERT_EQ(static_cast<Index>(written.size()), length);
    text.insert(text.end(), written.begin(), written.end());
    Tokens tokens(1, static_cast<Index>(text.size()));
    std::copy(text.begin(), text.end(), tokens.data());
    const auto logits = logits_of(model, tokens, 2);
    std::set<std::int32_t> used;
    for (Index i = 0; i < length; ++i) {
      const auto row = row_of(logits, 0, i + 2);
      const auto best = std::max_element(row.begin(), row.end()) - row.begin();
      ASSERT_EQ(written[static_cast<std::size_t>(i)], best) << "token " << i;
      used.insert(written[static_cast<std::size_t>(i)]);
    }
    EXPECT_GT(used.size(), 2u) << "a text of nothing but repetition shows little";
  }
}

TEST(Decoder, TakesPromptsOfDifferentLengths) {
  std::vector<LayerPattern> layers;
  for (const auto& [name, pattern] : causal_patterns()) layers.push_back(pattern);
  auto model = model_of<float>(config_of(layers));
  Workspace workspace(2);
  const std::vector<Index> lengths = {13, 1, 20};
  const Tokens prompts = random_tokens(3, 20, 11, 5), later = random_tokens(3, 15, 11, 6);
  Decoder<float> together(workspace, model, 3, {7});
  for (int i = 0; i < 2; ++i) {  // the second time over what the first one left
    std::vector<Matrix<float>> all = {together.prefill(workspace, prompts, lengths)};
    for (Index t = 0; t < 15; ++t) {
      all.push_back(together.step(workspace, std::array{later(0, t), later(1, t), later(2, t)}));
    }
    for (Index b = 0; b < 3; ++b) {
      Decoder<float> alone(workspace, model, 1, {7});
      Tokens prompt(1, lengths[static_cast<std::size_t>(b)]);
      std::copy_n(&prompts(b, 0), prompt.size(), prompt.data());
      EXPECT_TRUE(same_bits(row_of(all[0], b), row_of(alone.prefill(workspace, prompt), 0))) << b;
      for (Index t = 0; t < 15; ++t) {
        const auto& logits = alone.step(workspace, std::array{later(b, t)});
        ASSERT_TRUE(same_bits(row_of(all[static_cast<std::size_t>(t + 1)], b), row_of(logits, 0)))
            << "sequence " << b << ", token " << t;
      }
    }
  }
}

/// Those of `causal_patterns`, and sorted chunks, for which a decoder recomputes.
std::map<std::string, LayerPattern> decodable_patterns() {
  auto patterns = causal_patterns();
  const LshPattern sorted{.chunk_length = 4, .num_buckets = {4}};
  patterns["sorted chunks"] = sorted;
  patterns["heads: sorted chunks and local"] = {sorted, LocalPattern{4}};
  return patterns;
}

Tokens prompt_of(const Tokens& tokens, Index b, Index length) {
  Tokens prompt(1, length);
  std::copy_n(&tokens(b, 0), length, prompt.data());
  return prompt;
}

TEST(Decoder, StepsAndStartsSequencesOneByOne) {
  const Index batch = 3;
  const Tokens tokens = random_tokens(batch, 60, 11, 5);
  for (const auto& [name, pattern] : decodable_patterns()) {
    auto model = model_of<float>(config_of({pattern, LocalPattern{4}}));
    Workspace workspace(2);
    Decoder<float> together(workspace, model, batch, {7});
    std::vector<Decoder<float>> alone;
    std::vector<Index> read(batch, 0);
    for (Index b = 0; b < batch; ++b) alone.emplace_back(workspace, model, 1, RandomKey{7});
    const RandomStream random({3}, Purpose::data);
    for (std::uint64_t i = 0; i < 60; ++i) {
      const auto choice = static_cast<Index>(random.uniform(i) * 10);
      std::vector<Index> chosen;
      const Matrix<float>* logits = nullptr;
      if (choice < batch) {  // one starts anew, with more or fewer tokens than it had
        const Index length = 1 + static_cast<Index>(random.uniform(100 + i) * 20);
        const Tokens prompt = prompt_of(tokens, choice, length);
        logits = &together.prefill(workspace, choice, std::span(prompt.data(), index_of(length)));
        alone[index_of(choice)].prefill(workspace, prompt);
        read[index_of(choice)] = length;
        chosen = {choice};
      } else {
        std::vector<std::int32_t> next;
        for (Index b = 0; b < batch; ++b) {
          if ((choice + b) % 3 == 0) continue;
          chosen.push_back(b);
          next.push_back(tokens(b, read[index_of(b)]++ % 60));
          alone[index_of(b)].step(workspace, std::span(next).last(1));
        }
        logits = &together.step(workspace, chosen, next);
      }
      for (Index b = 0; b < batch; ++b) {
        if (read[index_of(b)] == 0) continue;
        ASSERT_EQ(together.length(b), read[index_of(b)]);
        ASSERT_TRUE(same_bits(row_of(*logits, b), row_of(last_logits(alone[index_of(b)]), 0)))
            << name << ", action " << i << ", sequence " << b;
      }
    }
  }
}

TEST(Decoder, ReadsAPromptAsAloneWhereAnotherTakesGroupsOfHeads) {
  ModelConfig config = config_of({LocalPattern{16}, bucket_chunks(16, 1, 2, {8})});
  config.head_width = 64;
  auto model = model_of<float>(config);
  Workspace workspace(2);
  const std::vector<Index> lengths = {700, 8300, 20};
  const Tokens prompts = random_tokens(3, 8300, config.vocabulary, 5);
  Decoder<float> together(workspace, model, 3, {7}), alone(workspace, model, 1, {7});
  const Matrix<float> logits = together.prefill(workspace, prompts, lengths);
  for (Index b = 0; b < 3; ++b) {
    const Tokens prompt = prompt_of(prompts, b, lengths[index_of(b)]);
    EXPECT_TRUE(same_bits(row_of(logits, b), row_of(alone.prefill(workspace, prompt), 0))) << b;
  }
}

TEST(Decoder, BelongsToTheParametersItWasMadeWith) {
  const Tokens prompt = random_tokens(1, 9, 11, 5);
  for (const auto& [name, pattern] : decodable_patterns()) {
    auto model = model_of<float>(config_of({pattern, LocalPattern{4}}));
    const auto as_it_was = model;
    Workspace workspace(1);
    Decoder<float> decoder(workspace, model, 1, {7});
    const Matrix<float> first = decoder.prefill(workspace, prompt);
    EXPECT_TRUE(
        same_bits(Decoder<float>(workspace, as_it_was, 1, {7}).prefill(workspace, prompt), first));
    for (const char* changed : {"embedding.weight", "layers.1.attention.layer_norm.bias",
                                "layers.0.attention.output.weight", "head.bias"}) {
      float& value = parameter(model, changed).value(0, 3);
      const float kept = value;
      value = std::nextafter(value, 10.0F);
      if (decoder.recomputes()) {  // it has copies of nothing
        EXPECT_TRUE(same_bits(row_of(decoder.prefill(workspace, prompt), 0),
                              row_of(logits_of(model, prompt), 0, 8)));
      } else {
        EXPECT_TRUE(contains(
            message_of([&] { decoder.prefill(workspace, prompt); }),
            "Decoder::prefill: the model's parameters have changed since the decoder was made"))
            << name << ", " << changed;
      }
      value = kept;
    }
    EXPECT_TRUE(same_bits(decoder.prefill(workspace, prompt), first)) << name;
  }
  static_assert(!std::is_constructible_v<Decoder<float>, Workspace&, Model<float>&&>,
                "it would refer to nothing");
}

TEST(Decoder, TakesTheRotationsAndBucketsOfTheModelsLayers) {
  auto model =
      model_of<float>(config_of({bucket_chunks(4, 1, 2, {4}), LshPattern{4, 1, 0, 1, {}}}));
  model.branch<SelfAttention<float>>(1)->set_num_buckets({4, 2});
  fix_rotations(model, 9);
  Workspace workspace(1);
  Decoder<float> decoder(workspace, model, 1, {7});
  const Tokens tokens = random_tokens(1, 30, 11, 5);
  EXPECT_TRUE(same_bits(row_of(decoder.prefill(workspace, tokens), 0),
                        row_of(logits_of(model, tokens), 0, 29)));
}

TEST(Decoder, OfOneModelRunOnAThreadEach) {
  for (const auto& pattern :
       {causal_patterns().at("local"), decodable_patterns().at("sorted chunks")}) {
    auto model = model_of<float>(config_of({pattern}));
    const auto text_of = [&](std::uint64_t seed) {
      Workspace workspace(1);
      Decoder<float> decoder(workspace, model, 1, {7});
      return generate(workspace, decoder, {{1, 2, 3}},
                      {.max_tokens = 60, .sampling = {.temperature = 2}, .seed = seed})[0];
    };
    std::vector<std::vector<std::int32_t>> expected, texts(3);
    for (std::uint64_t seed = 0; seed < 3; ++seed) expected.push_back(text_of(seed));
    std::vector<std::thread> threads;
    for (std::size_t seed = 0; seed < 3; ++seed) {
      threads.emplace_back([&, seed] { texts[seed] = text_of(seed); });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(texts, expected);
  }
}

TEST(Decoder, StartsAnewAfterAnErrorHalfWay) {
  for (const auto& [name, pattern] : decodable_patterns()) {
    auto model = model_of<float>(config_of({pattern, LocalPattern{4}}, FixedResidual{}));
    parameter(model, "embedding.weight").value.row(10).setConstant(3000);  // beyond the range
    Workspace workspace(1);
    Decoder<float> decoder(workspace, model, 2, {7}), alone(workspace, model, 1, {7});
    Tokens prompts(2, 2);
    prompts.setValues({{1, 2}, {3, 4}});
    decoder.prefill(workspace, prompts);
    alone.prefill(workspace, prompt_of(prompts, 0, 2));
    const std::vector<Index> second = {1}, both = {0, 1};
    EXPECT_TRUE(contains(
        message_of<std::overflow_error>([&] { decoder.step(workspace, second, std::array{10}); }),
        "the embedding"));
    EXPECT_TRUE(contains(message_of([&] {
                           decoder.step(workspace, both, std::array{1, 1});
                         }),
                         "sequence 1 was left half-way by an error, must start anew"))
        << name;
    const std::vector<Index> first = {0};
    EXPECT_TRUE(same_bits(row_of(decoder.step(workspace, first, std::array{5}), 0),
                          row_of(alone.step(workspace, std::array{5}), 0)))
        << name;
    decoder.prefill(workspace, 1, std::array{3, 4});
    EXPECT_NO_THROW(decoder.step(workspace, both, std::array{1, 1}));
  }
}

TEST(Decoder, RunsModelsWithSortedChunksOverTheWholeSequence) {
  const LshPattern sorted{.chunk_length = 4, .num_hashes = 2, .num_buckets = {4}};
  auto model = model_of<float>(config_of({LocalPattern{4}, sorted}));
  Workspace workspace(1);
  Decoder<float> decoder(workspace, model, 1, {7});
  EXPECT_TRUE(decoder.recomputes());
  const Tokens tokens = random_tokens(1, 30, 11, 5);
  const auto whole = logits_of(model, tokens);
  Tokens start(1, 9);
  std::copy_n(tokens.data(), 9, start.data());
  const Matrix<float>* logits = &decoder.prefill(workspace, start);
  Index differ = 0;
  for (Index t = 8; t < 30; ++t) {
    const std::span<const std::int32_t> so_far(tokens.data(), static_cast<std::size_t>(t + 1));
    ASSERT_TRUE(
        same_bits(row_of(*logits, 0), model.next_token_logits(workspace, so_far, {.key = {7}})))
        << t;
    differ += same_bits(row_of(*logits, 0), row_of(whole, 0, t)) ? 0 : 1;
    if (t + 1 < 30) logits = &decoder.step(workspace, std::array{tokens(0, t + 1)});
  }
  EXPECT_GT(differ, 5) << "a longer pass gives other rows";
}

TEST(Decoder, KeepsAsMuchAtEveryPosition) {
  const auto bytes = [](const LayerPattern& pattern, Index length) {
    auto model = model_of<float>(config_of({pattern}));
    Workspace workspace(1);
    Decoder<float> decoder(workspace, model, 1);
    decoder.prefill(workspace, random_tokens(1, length, 11, 1));
    decoder.step(workspace, std::array{1});
    return decoder.state_bytes();
  };
  const LayerPattern local = LocalPattern{4}, buckets = bucket_chunks(4, 1, 2, {4});
  const LayerPattern both = {LocalPattern{4}, bucket_chunks(4, 1, 2, {4})};
  // 2 heads of width 5, keys and values; scales of keys; what there is of each ring
  constexpr std::size_t ring = 64;
  constexpr std::size_t recent = 4 * sizeof(std::int32_t);     // tokens of the longest n-gram
  constexpr std::size_t of_values = 2 * sizeof(std::int32_t);  // and of a layer that does not hash
  EXPECT_EQ(bytes(local, 5), 2 * (8 * 10 * 4 + ring) + recent + of_values);
  EXPECT_EQ(bytes(local, 500), bytes(local, 5));
  EXPECT_EQ(bytes(buckets, 500), 2 * 2 * 4 * (8 * (10 * 4 + 4) + ring) + recent);
  EXPECT_EQ(bytes(buckets, 2000), bytes(buckets, 500));
  // One head of each.
  EXPECT_EQ(2 * (bytes(both, 500) - recent),
            bytes(local, 500) - of_values + bytes(buckets, 500) - 2 * recent);
  // Buckets without tokens take nothing, others 8 rows at first; 61 tokens in 2 rounds.
  EXPECT_LE(bytes(bucket_chunks(64, 1, 2, {32, 32}), 60),
            2 * 2 * (1024 * ring + 61 * 8 * (10 * 4 + 4)) + recent);
  // As many rows as the prompt has tokens, then half as many again whenever they are used up.
  EXPECT_EQ(bytes(ExactPattern{}, 99), 2 * (148 * 10 * 4 + ring) + recent + of_values);
  EXPECT_EQ(bytes(ExactPattern{}, 128), 2 * (192 * 10 * 4 + ring) + recent + of_values);
}

TEST(Decoder, SaysWhatIsImpossible) {
  Workspace workspace(1);
  const auto with = [&](auto change) {
    ModelConfig config = config_of({LocalPattern{4}, bucket_chunks(4, 1, 2, {4})});
    change(config);
    return message_of([&] {
      auto model = model_of<float>(config);
      Decoder<float> decoder(workspace, model, 1);
      decoder.prefill(workspace, random_tokens(1, 5, 11, 1));
      decoder.step(workspace, std::array{1});
      decoder.step(workspace, std::array{1});
    });
  };
  EXPECT_EQ(with([](ModelConfig&) {}), "NOTHING WAS THROWN");
  EXPECT_TRUE(contains(with([](auto& c) { c.causal = false; }), "the model is not causal"));
  EXPECT_TRUE(contains(with([](auto& c) { c.language_head = false; }), "no language head"));
  EXPECT_TRUE(contains(with([](auto& c) { c.positions = LearnedPositions{6}; }),
                       "Decoder::step: length is 7, must be at most 6, the number of positions"));
  EXPECT_TRUE(contains(with([](auto& c) {
                         c.layers[0] = LocalPattern{4, 2, 0, true};
                       }),
                       "circular with chunks_before 2"));
  EXPECT_TRUE(contains(with([](auto& c) {
                         c.layers[0] = LocalPattern{4, 0, 1, true};
                       }),
                       "circular with chunks_before 0 and chunks_after 1"));
  EXPECT_TRUE(contains(
      with([](auto& c) { std::get<LshPattern>(c.layers[1].of_heads[0]).num_buckets.clear(); }),
      "num_buckets is empty"));

  auto model = model_of<float>(config_of({LocalPattern{4}}));
  EXPECT_TRUE(contains(message_of([&] { Decoder<float>(workspace, model, 0); }), "batch is 0"));
  EXPECT_EQ(message_of([&] { Decoder<float>(workspace, model, -1); }),
            "reformer::Decoder: batch is -1, must be at least 1");
  EXPECT_TRUE(contains(message_of([&] { Decoder<float>(workspace, model, Index{1} << 40); }),
                       "batch is 1099511627776, must be at most"));
  EXPECT_TRUE(contains(message_of([&] {
                         Model<float> empty(config_of({LocalPattern{4}}));
                         Decoder<float>(workspace, empty, 1);
                       }),
                       "Decoder: all parameters are zero"));
  Decoder<float> decoder(workspace, model, 2);
  const Tokens two = random_tokens(2, 5, 11, 1);
  const auto prefill = [&](const Tokens& tokens, std::vector<Index> lengths) {
    return message_of([&] { decoder.prefill(workspace, tokens, lengths); });
  };
  EXPECT_TRUE(contains(prefill(random_tokens(1, 5, 11, 1), {}), "dimension 0 is 1"));
  EXPECT_TRUE(contains(prefill(Tokens(2, 0), {}), "length is 0"));
  EXPECT_TRUE(contains(prefill(two, {5}), "lengths has 1 elements"));
  EXPECT_TRUE(contains(prefill(two, {5, 6}), "length 1 is 6, must be in [1, 5]"));
  decoder.prefill(workspace, two);
  EXPECT_TRUE(contains(message_of([&] { decoder.step(workspace, std::array{1}); }),
                       "tokens is 1, must equal batch = 2"));
  const auto step = [&](std::vector<Index> sequences, std::vector<std::int32_t> ids) {
    return message_of([&] { decoder.step(workspace, sequences, ids); });
  };
  EXPECT_TRUE(contains(step({0}, {1, 2}), "tokens is 2, must equal sequences = 1"));
  EXPECT_TRUE(contains(step({2}, {1}), "sequence is 2, must be in [0, 2)"));
  EXPECT_TRUE(contains(step({-1}, {1}), "sequence is -1, must be in [0, 2)"));
  EXPECT_TRUE(contains(step({1, 1}, {1, 1}), "sequence 1 comes after 1, must be ascending"));
  EXPECT_TRUE(contains(message_of([&] { decoder.prefill(workspace, 2, std::array{1}); }),
                       "sequence is 2, must be in [0, 2)"));
  EXPECT_TRUE(
      contains(message_of([&] { decoder.prefill(workspace, 1, std::span<const std::int32_t>{}); }),
               "length is 0"));
  EXPECT_TRUE(contains(message_of([&] { decoder.length(2); }), "sequence is 2"));
  EXPECT_TRUE(contains(message_of([&] { decoder.length(-1); }), "sequence is -1"));
  EXPECT_EQ(decoder.length(0), 5) << "none of these may have changed anything";
  EXPECT_TRUE(contains(message_of([&] {
                         decoder.step(workspace, std::array{1, 11});
                       }),
                       "token 1 is 11, must be in [0, 11)"));
}

}  // namespace
}  // namespace reformer::test
