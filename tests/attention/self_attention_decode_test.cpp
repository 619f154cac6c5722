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
  Pass pass = layer.pass();
  pass.length = 1;
  auto decoding = layer.attention.decoding(pass);
  for (std::size_t i = 0; i < decoding.kinds.size(); ++i) {
    decoding.kinds[i].rotations = layer.rotations[i].template cast<float>();
  }
  pass.length = prompt;
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
