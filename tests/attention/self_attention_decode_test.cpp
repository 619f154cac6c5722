// SPDX-License-Identifier: MIT
/// The self-attention branch token by token.
#include "reformer/attention/self_attention.hpp"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "attention/self_attention_cases.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/naive.hpp"
#include "support/naive_attention.hpp"

namespace reformer::test {
namespace {

using namespace self_attention;

/// Decodes the tokens behind a prompt one by one: y, and the bytes of the state at the end.
std::pair<Matrix<float>, std::size_t> decoded(Layer<float>& layer, const Case& c, Index prompt) {
  using Half = FloatingHalf<float>;
  const auto rows_of_token = [&](Index t, Index count) {
    Matrix<float> rows(c.batch * count, c.width);
    for (Index b = 0; b < c.batch; ++b) {
      rows.middleRows(b * count, count) = layer.x.middleRows(b * c.length + t, count);
    }
    return rows;
  };
  std::vector<std::int32_t> tokens;
  const auto tokens_from = [&](Index t, Index count) -> std::span<const std::int32_t> {
    tokens.clear();
    for (Index b = 0; c.value_ngrams && b < c.batch; ++b) {
      tokens.insert(tokens.end(), &layer.tokens(b, t), &layer.tokens(b, t) + count);
    }
    return tokens;
  };
  Pass pass = layer.pass();
  pass.length = 1;
  pass.tokens = {};
  auto decoding = layer.attention.decoding(pass);
  for (std::size_t i = 0; i < decoding.kinds.size(); ++i) {
    decoding.kinds[i].rotations = layer.rotations[i].template cast<float>();
  }
  pass.length = prompt;
  pass.tokens = tokens_from(0, prompt);
  Half prompt_y(c.batch * prompt, c.width);
  layer.attention.prefill(half_of<Half>(rows_of_token(0, prompt)), prompt_y, decoding, pass);
  pass.length = 1;
  Matrix<float> y = Matrix<float>::Zero(layer.x.rows(), c.width);
  const auto put = [&](const Matrix<float>& rows, Index t, Index count) {
    for (Index b = 0; b < c.batch; ++b) {
      y.middleRows(b * c.length + t, count) = rows.middleRows(b * count, count);
    }
  };
  put(matrix_of(prompt_y), 0, prompt);
  for (Index t = prompt; t < c.length; ++t) {
    Half next(c.batch, c.width);
    pass.tokens = tokens_from(t, 1);
    layer.attention.decode(half_of<Half>(rows_of_token(t, 1)), next, decoding, pass);
    put(matrix_of(next), t, 1);
  }
  return {y, decoding.bytes()};
}

TEST(SelfAttentionDecode, KeepsWhatIsThereOfAWindowWithoutEnd) {
  constexpr Index most = max_size;
  const auto buckets = [](Index length, Index before, Duplicates duplicates) {
    return LshPattern{length, before, 0, 2, {4}, false, Chunking::bucket_chunks, duplicates};
  };
  auto following = buckets(4, most, Duplicates::once);
  following.values = Values::following;
  for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
           LocalPattern{4, most}, LocalPattern{most, 1}, LocalPattern{4, 39}, ExactPattern{},
           ExactPattern{true}, buckets(4, most, Duplicates::each_time),
           buckets(4, most, Duplicates::once), buckets(most, 1, Duplicates::once),
           LocalPattern{4, most, 0, false, Values::following},
           ExactPattern{true, Values::following}, following,
           LocalPattern{4, most, 0, false, Values::mixed}, ExactPattern{true, Values::mixed},
           naive::with_rotary(ExactPattern{}, 4), naive::with_rotary(following, 2)}) {
    const Case c{LayerPattern(pattern), 2, 300};
    Layer<float> layer(c);
    const Matrix<float> whole = layer.forward();
    const std::size_t rings = has_buckets(pattern) ? 2 * 2 * 2 * 4 : 2 * 2;
    for (const Index prompt : {1, 140}) {
      const auto [y, bytes] = decoded(layer, c, prompt);
      EXPECT_TRUE(same_bits(y, whole)) << c.name() << ", prompt of " << prompt;
      // Rows of keys, values, scale and places, at most half as many again as tokens.
      EXPECT_LE(bytes, rings * (450 * (10 * 4 + 4 + 32) + 8)) << c.name();
    }
  }
}

TEST(SelfAttentionDecode, KeepsTheTokensOfNgramsInValues) {
  const LocalPattern local{4}, following{.chunk_length = 4, .values = Values::following},
      mixed{.chunk_length = 4, .values = Values::mixed};
  for (const LayerPattern& pattern :
       std::vector<LayerPattern>{local,
                                 following,
                                 mixed,
                                 ExactPattern{true, Values::following},
                                 {mixed, ExactPattern{}}}) {
    Case c{pattern, 2, 40};
    c.value_ngrams = {.order = 3, .rows = 50};
    Layer<float> layer(c);
    const Matrix<float> whole = layer.forward();
    for (const Index prompt : {1, 2, 17}) {
      EXPECT_TRUE(same_bits(decoded(layer, c, prompt).first, whole))
          << c.name() << ", prompt of " << prompt;
    }
  }
}

/// A sequence that is forgotten begins anew, and a token that is not known ends the n-grams.
TEST(SelfAttentionDecode, ForgetsTheTokensOfNgramsInValues) {
  using Half = FloatingHalf<float>;
  Case c{LayerPattern(LocalPattern{4}), 2, 3};
  c.value_ngrams = {.order = 3, .rows = 50};
  Layer<float> layer(c);
  Pass pass = layer.pass();
  pass.length = 1;
  pass.tokens = {};
  auto decoding = layer.attention.decoding(pass);
  const auto step = [&](std::span<const std::int32_t> tokens) {
    pass.tokens = tokens;
    Half y(2, c.width);
    layer.attention.decode(half_of<Half>(layer.x.topRows(2)), y, decoding, pass);
    return matrix_of(y);
  };
  const std::vector<std::int32_t> tokens = {1, 2};
  const Matrix<float> first = step(tokens);
  EXPECT_FALSE(same_bits(step(tokens), first));
  decoding.clear();
  EXPECT_TRUE(same_bits(step(tokens), first));
  decoding.clear();
  const Matrix<float> unknown = step({});
  decoding.clear();
  step(tokens);
  decoding.kinds[0].state.clear();  // of what is kept, the tokens alone are left
  EXPECT_TRUE(same_bits(step({}), unknown));
  EXPECT_FALSE(same_bits(unknown, first));
}

TEST(SelfAttentionDecode, RefusesTheStateOfAnotherLayer) {
  using Half = FloatingHalf<float>;
  const auto message = [](Case other, Index batch = 2) {
    Layer<float> layer({LocalPattern{4}}), stranger(other);
    Pass pass = layer.pass();
    pass.length = 1;
    auto decoding = stranger.attention.decoding(pass);
    pass.batch = batch;
    const Half x(batch, 12);
    Half y(batch, 12);
    return message_of([&] { layer.attention.decode(x, y, decoding, pass); });
  };
  const LocalPattern local{4};
  EXPECT_EQ(message({local}, 3),
            "reformer::SelfAttention::decode: batch is 3, must equal selected sequences of the "
            "state = 2");
  EXPECT_TRUE(contains(message({.pattern = local, .heads = 3}), "heads of the state is 3"));
  EXPECT_TRUE(contains(message({.pattern = local, .head_width = 4}), "head width of the state"));
  EXPECT_TRUE(contains(message({.pattern = local, .width = 13}), "rows of the kept query weight"));
  for (const LayerPattern& other :
       {LayerPattern(ExactPattern{true}), LayerPattern(LocalPattern{4, 2})}) {
    EXPECT_TRUE(contains(message({other}), "the state is that of another pattern"));
  }
  EXPECT_TRUE(contains(message({{local, ExactPattern{}}}),
                       "kinds of heads of the state is 2, must equal those of the layer = 1"));
  Case with_ngrams{local};
  with_ngrams.value_ngrams = {.order = 3, .rows = 5};
  EXPECT_TRUE(contains(message(with_ngrams),
                       "tokens that the state keeps of a sequence is 3, must equal order of "
                       "value_ngrams = 0"));
  // The state that a prompt fills is checked as well.
  Layer<float> layer({ExactPattern{}});
  Pass pass = layer.pass();
  auto decoding = layer.attention.decoding({layer.workspace, 3, 1});
  auto half = half_of<Half>(layer.x);
  EXPECT_TRUE(contains(message_of([&] { layer.attention.prefill(half, half, decoding, pass); }),
                       "prefill: batch is 2, must equal selected sequences of the state = 3"));
}

}  // namespace
}  // namespace reformer::test
