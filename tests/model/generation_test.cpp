// SPDX-License-Identifier: MIT
/// Text from a model: what is drawn, where it ends, and what is looked back on.
#include "reformer/model/generation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/tiny_model.hpp"
#include "support/errors.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using Text = std::vector<std::int32_t>;
using Texts = std::vector<Text>;

/// A model of local attention and bucket chunks, or of sorted chunks, over 11 tokens.
Model<float> model_of(Chunking chunking = Chunking::bucket_chunks,
                      const PositionConfig& positions = SinusoidalPositions{}) {
  ModelConfig config = tiny_config();
  config.positions = positions;
  config.layers = {LocalPattern{4}, LshPattern{4, 1, 0, 2, {4}, false, chunking}};
  Model<float> model(config);
  randomize_parameters(model, 1);
  return model;
}

Texts texts_of(Model<float>& model, const Texts& prompts, const GenerationOptions& options,
               const TokenCallback& each = {}) {
  Workspace workspace(2);
  Decoder<float> decoder(workspace, model, static_cast<Index>(prompts.size()), {7});
  return generate(workspace, decoder, prompts, options, each);
}

/// The definition: for each token, a forward pass over what is looked back on.
Text slow_text(Model<float>& model, Text text, const GenerationOptions& options, std::uint32_t b) {
  Workspace workspace(1);
  const RandomStream stream({options.seed, b}, Purpose::sampling);
  Text result;
  auto context = static_cast<Index>(text.size());
  if (options.max_context > 0) context = std::min(context, options.max_context);
  for (Index i = 0; i < options.max_tokens; ++i) {
    const std::span<const std::int32_t> seen(text.end() - context, text.end());
    const auto logits = model.next_token_logits(workspace, seen, {.key = {7}});
    std::vector<std::uint8_t> occurred(logits.size(), 0);
    for (const std::int32_t token : text) occurred[static_cast<std::size_t>(token)] = 1;
    result.push_back(sample_token<float>(logits, options.sampling,
                                         stream.uniform(static_cast<std::uint64_t>(i)), occurred));
    text.push_back(result.back());
    context = options.max_context > 0 && context >= options.max_context ? options.max_context / 2
                                                                        : context + 1;
  }
  return result;
}

TEST(Generate, DrawsFromTheLogitsOfTheForwardPass) {
  const Texts prompts = {{1, 2, 3, 4, 5, 6, 7, 8, 9}, {10}, {3, 3, 3, 0}};
  for (const Chunking chunking : {Chunking::bucket_chunks, Chunking::sorted_chunks}) {
    auto model = model_of(chunking);
    for (const Index max_context : {0, 12, 4}) {
      for (const double temperature : {0.0, 0.7, 3.0}) {
        const GenerationOptions options{.max_tokens = 40,
                                        .sampling = {.temperature = temperature, .top_k = 9},
                                        .seed = 5,
                                        .max_context = max_context};
        for (const Text& prompt : prompts) {
          EXPECT_EQ(texts_of(model, {prompt}, options)[0], slow_text(model, prompt, options, 0))
              << "context " << max_context << ", temperature " << temperature;
        }
        const Texts together = texts_of(model, prompts, options);
        for (std::uint32_t b = 0; b < 3; ++b) {
          EXPECT_EQ(together[b], slow_text(model, prompts[b], options, b)) << b;
        }
      }
    }
  }
}

TEST(Generate, TheSeedDecides) {
  auto model = model_of();
  GenerationOptions options{.max_tokens = 50, .sampling = {.temperature = 2}, .seed = 1};
  const Texts one = texts_of(model, {{1}, {1}}, options);
  EXPECT_EQ(texts_of(model, {{1}, {1}}, options), one);
  EXPECT_NE(one[0], one[1]) << "sequences must not draw the same numbers";
  options.seed = 2;
  EXPECT_NE(texts_of(model, {{1}, {1}}, options)[0], one[0]);
}

TEST(Generate, EndsEachSequenceBeforeAStopToken) {
  auto model = model_of();
  GenerationOptions options{.max_tokens = 60, .sampling = {.temperature = 4}, .seed = 3};
  const Texts prompts = {{1, 2}, {4, 5}, {6, 7}};
  const Texts whole = texts_of(model, prompts, options);
  options.stop_tokens = {3, 8};
  const Texts stopped = texts_of(model, prompts, options);
  std::size_t different_lengths = 0;
  for (std::size_t b = 0; b < 3; ++b) {
    const auto end = std::find_first_of(whole[b].begin(), whole[b].end(),
                                        options.stop_tokens.begin(), options.stop_tokens.end());
    ASSERT_NE(end, whole[b].end()) << "no stop token comes; choose others";
    EXPECT_EQ(stopped[b], Text(whole[b].begin(), end)) << b;
    different_lengths += stopped[b].size() != stopped[0].size() ? 1 : 0;
  }
  EXPECT_GT(different_lengths, 0u) << "all end together, which shows less";
}

TEST(Generate, CallsBackWithEachTokenAndEndsWhenTold) {
  auto model = model_of();
  const GenerationOptions options{.max_tokens = 20, .sampling = {.temperature = 4}, .seed = 3};
  const Texts whole = texts_of(model, {{1, 2}, {4, 5}}, options);
  Texts seen(2);
  const Texts result = texts_of(model, {{1, 2}, {4, 5}}, options, [&](Index b, std::int32_t token) {
    seen[static_cast<std::size_t>(b)].push_back(token);
    return b != 0 || seen[0].size() < 7;
  });
  EXPECT_EQ(result, seen);
  EXPECT_EQ(result[0], Text(whole[0].begin(), whole[0].begin() + 7));
  EXPECT_EQ(result[1], whole[1]);
}

TEST(Generate, PenalisesTokensOfPromptAndText) {
  auto model = model_of();
  GenerationOptions options{.max_tokens = 40, .sampling = {.temperature = 0}};
  const Text free = texts_of(model, {{1, 2}}, options)[0];
  options.sampling.repetition_penalty = 1.5;
  const Text penalised = texts_of(model, {{1, 2}}, options)[0];
  EXPECT_EQ(penalised, slow_text(model, {1, 2}, options, 0));
  EXPECT_NE(penalised, free);
}

TEST(Generate, GoesBeyondTheTableOfPositions) {
  auto model = model_of(Chunking::bucket_chunks, LearnedPositions{16});
  GenerationOptions options{.max_tokens = 50, .max_context = 16};
  EXPECT_EQ(texts_of(model, {{1, 2, 3}}, options)[0].size(), 50u);
}

TEST(Generate, EndsWherePositionsEndAndLosesNothing) {
  auto model = model_of(Chunking::bucket_chunks, LearnedPositions{16});
  const GenerationOptions options{.max_tokens = 50, .sampling = {.temperature = 3}};
  const Text prompt = {1, 2, 3};
  const Text alone = texts_of(model, {prompt}, options)[0];
  EXPECT_EQ(alone.size(), 14u) << "13 more tokens are read, and the 14th comes after the last";
  GenerationOptions short_of_it = options;
  short_of_it.max_tokens = 14;
  EXPECT_EQ(alone, slow_text(model, prompt, short_of_it, 0));
  // One that begins near the end, and is ended at once, takes nothing from the other.
  const Texts texts =
      texts_of(model, {{5}, Text(15, 1)}, options, [](Index b, std::int32_t) { return b == 0; });
  EXPECT_EQ(texts[0], texts_of(model, {{5}}, options)[0]);
  EXPECT_EQ(texts[0].size(), 16u);
  EXPECT_EQ(texts[1].size(), 1u);
}

TEST(Generate, GivesEachSequenceTheTextThatItHasAlone) {
  const std::vector<LayerPattern> kinds = {
      LocalPattern{4}, LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks},
      LshPattern{4, 1, 0, 2, {4}}, ExactPattern{}};
  Index ended = 0, read_anew = 0;
  for (std::uint64_t draw = 0; draw < 60; ++draw) {
    const RandomStream random({draw}, Purpose::data);
    std::uint64_t used = 0;
    const auto number = [&](Index most) {
      return static_cast<Index>(random.uniform(used++) * static_cast<double>(most + 1));
    };
    ModelConfig config = tiny_config();
    config.positions = LearnedPositions{48};
    config.layers = {kinds[draw % kinds.size()], kinds[static_cast<std::size_t>(number(3))]};
    if (number(1) == 0) config.residual = FixedResidual{};
    Model<float> model(config);
    randomize_parameters(model, draw);
    Texts prompts;
    for (Index b = 0; b < 3; ++b) {
      prompts.emplace_back();
      for (Index n = number(40); n >= 0; --n) {
        prompts.back().push_back(static_cast<std::int32_t>(number(10)));
      }
    }
    const GenerationOptions options{
        .max_tokens = 1 + number(12),
        .sampling = {.temperature = static_cast<double>(number(2)), .repetition_penalty = 1.2},
        .seed = draw,
        .stop_tokens = {static_cast<std::int32_t>(number(10))},
        .max_context = 9 + number(39)};
    const Texts together = texts_of(model, prompts, options);
    for (std::uint32_t b = 0; b < 3; ++b) {
      Text alone = slow_text(model, prompts[b], options, b);
      const auto stop = std::find(alone.begin(), alone.end(), options.stop_tokens[0]);
      ended += stop != alone.end() ? 1 : 0;
      alone.erase(stop, alone.end());
      ASSERT_EQ(together[b], alone) << "draw " << draw << ", sequence " << b;
      const auto read = static_cast<Index>(prompts[b].size() + alone.size());
      read_anew += read > options.max_context ? 1 : 0;
    }
  }
  EXPECT_GT(ended, 30) << "few sequences end before others, which shows less";
  EXPECT_GT(read_anew, 30);
}

TEST(Generate, ChecksAllTokensOfAllPromptsAndNotOnlyThoseItReads) {
  auto model = model_of();
  Workspace workspace(1);
  Decoder<float> decoder(workspace, model, 2);
  const GenerationOptions options{.sampling = {.repetition_penalty = 1.2}, .max_context = 2};
  const auto message = [&](const Texts& prompts) {
    return message_of([&] { generate(workspace, decoder, prompts, options); });
  };
  EXPECT_EQ(message({{1 << 20, 1, 2}, {1}}),
            "reformer::generate: prompt 0: token 0 is 1048576, must be in [0, 11)");
  EXPECT_EQ(message({{1}, {1, -1, 2, 3}}),
            "reformer::generate: prompt 1: token 1 is -1, must be in [0, 11)");
  EXPECT_EQ(decoder.length(0), 0) << "nothing may have been read";
}

TEST(Generate, SaysWhatIsImpossible) {
  auto model = model_of();
  const auto message = [&](const Texts& prompts, const GenerationOptions& options) {
    Workspace workspace(1);
    Decoder<float> decoder(workspace, model, 1);
    return message_of([&] { generate(workspace, decoder, prompts, options); });
  };
  EXPECT_EQ(message({{1}}, {.max_tokens = 1}), "NOTHING WAS THROWN");
  EXPECT_TRUE(contains(message({{1}, {2}}, {}), "prompts has 2 elements"));
  EXPECT_TRUE(contains(message({{}}, {}), "prompt 0 is empty"));
  EXPECT_TRUE(contains(message({{11}}, {}), "prompt 0: token 0 is 11"));
  EXPECT_TRUE(contains(message({{1}}, {.max_tokens = -1}), "max_tokens is -1"));
  EXPECT_TRUE(contains(message({{1}}, {.max_context = -1}), "max_context is -1"));
  EXPECT_TRUE(contains(message({{1}}, {.sampling = {.top_p = 0}}), "top_p is 0"));
  EXPECT_TRUE(contains(message({{1}}, {.stop_tokens = {3, 11}}), "stop token 1 is 11"));
  EXPECT_TRUE(contains(message({{1}}, {.max_context = 1 << 24}),
                       "max_context is 16777216, must be at most 16777215"));
  model = model_of(Chunking::bucket_chunks, LearnedPositions{16});
  EXPECT_TRUE(
      contains(message({{1}}, {.max_context = 17}), "max_context is 17, must be at most 16"));
  EXPECT_TRUE(contains(message({Text(17, 1)}, {}), "prompt 0 has 17 tokens, must have at most 16"));
}

}  // namespace
}  // namespace reformer::test
