// SPDX-License-Identifier: MIT
/// @file
/// Cases of the self-attention branch for its tests: layers, patterns, and a step of one.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "support/naive.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test::self_attention {

inline std::string name_of(const AttentionPattern& pattern) {
  const auto* lsh = std::get_if<LshPattern>(&pattern);
  std::string kind = lsh != nullptr ? "lsh" : "exact";
  if (lsh != nullptr) kind += reformer::detail::join(", R=", lsh->num_hashes);
  if (std::holds_alternative<LocalPattern>(pattern)) kind = "local";
  if (lsh == nullptr && shares_query_key(pattern)) kind += " shared";
  if (values_of(pattern) == Values::following) kind += " following";
  if (values_of(pattern) == Values::mixed) kind += " mixed";
  if (scores_of(pattern) == Scores::cosine) kind += " cosine";
  if (rotary_width_of(pattern) > 0) kind += " rotary";
  return kind;
}

struct Case {
  LayerPattern pattern;
  Index batch = 2, length = 17;
  bool causal = true, masked = false;
  double attention_dropout = 0, dropout = 0;
  Index width = 12, heads = 2, head_width = 5;
  std::optional<NgramTable> value_ngrams = {};

  SelfAttentionConfig config() const {
    return {.width = width,
            .num_heads = heads,
            .head_width = head_width,
            .pattern = pattern,
            .causal = causal,
            .attention_dropout = attention_dropout,
            .dropout = dropout,
            .value_ngrams = value_ngrams};
  }
  std::vector<HeadKind> kinds() const { return head_kinds(pattern, heads); }
  /// The pattern by which a kind of heads hashes at the length, or null.
  const LshPattern* hashed(const HeadKind& heads_of_kind) const {
    return naive::hashed(heads_of_kind.pattern, length);
  }
  std::string name() const {
    std::string kind;
    for (const AttentionPattern& of_head : pattern.of_heads) {
      kind += (kind.empty() ? "" : " | ") + name_of(of_head);
    }
    return reformer::detail::join("self-attention (", kind, ", B=", batch, " T=", length,
                                  " H=", heads, " K=", head_width, causal ? ", causal" : "",
                                  masked ? ", masked" : "",
                                  dropout + attention_dropout > 0 ? ", dropout" : "", ")");
  }
};

/// A layer with random parameters and fixed rotations, its input and its pass. Where heads hash by
/// two patterns, rotations are drawn by the key of the pass.
template <typename Scalar>
class Layer {
 public:
  using Half = FloatingHalf<Scalar>;

  explicit Layer(const Case& c, int threads = 1, std::uint64_t seed = 1)
      : workspace(threads),
        attention("layer", c.config()),
        x(random_matrix<Scalar>(c.batch * c.length, c.width, seed + 100)),
        tokens(random_tokens(c.batch, c.length, 4, seed + 200)),
        c_(c) {
    randomize_parameters(attention, seed);
    saved = attention.saved_in(memory, {c.batch, c.length});
    const auto kinds = c.kinds();
    const auto count = std::ranges::count_if(
        kinds, [](const HeadKind& kind) { return has_buckets(kind.pattern); });
    Index drawn = 0;
    for (const HeadKind& kind : kinds) {
      rotations.emplace_back();
      const auto* lsh = c.hashed(kind);
      if (lsh == nullptr) continue;
      // Drawn once in double: every scalar type uses the same.
      rotations.back() = detail::random_rotations<double>(
          kind.num_heads, c.head_width, lsh->num_hashes, bucket_factors(*lsh, c.length),
          count == 1 ? RandomKey{seed} : pass().key, drawn);
      drawn += round_up(rotations.back().size(), 2);
      if (count > 1) continue;
      attention.set_rotations(Tensor<Scalar, 4>(rotations.back().template cast<Scalar>()));
    }
    if (c.masked) {
      is_real.assign(static_cast<std::size_t>(c.batch * c.length), 1);
      for (std::size_t i = 0; i < is_real.size(); ++i) {
        const auto T = static_cast<std::size_t>(c.length);
        // The end of the first sequence, places in between in the others.
        if (i < T ? 5 * i >= 4 * T : i % 5 == 3) is_real[i] = 0;
      }
    }
  }

  Pass pass() {
    Pass pass{workspace, c_.batch, c_.length, {21, 4, 3}, true, is_real};
    if (c_.value_ngrams) pass.tokens = {tokens.data(), static_cast<std::size_t>(tokens.size())};
    return pass;
  }

  /// y + f(x)
  Matrix<Scalar> forward(const Matrix<Scalar>& y) {
    Half half = half_of<Half>(y);
    attention.forward(half_of<Half>(x), half, saved, pass());
    return matrix_of(half);
  }
  Matrix<Scalar> forward() { return forward(Matrix<Scalar>::Zero(x.rows(), x.cols())); }

  /// y - f(x); dx and parameter gradients are added to.
  Matrix<Scalar> reverse(const Matrix<Scalar>& y, const Matrix<Scalar>& dy, Matrix<Scalar>& dx) {
    Half half = half_of<Half>(y);
    attention.reverse(half_of<Half>(x), half, rows_of(dy), rows_of(dx), saved, pass());
    return matrix_of(half);
  }

  std::vector<Matrix<double>> parameters() {
    std::vector<Matrix<double>> values;
    attention.for_each_parameter(
        [&](auto& p) { values.push_back(p.value.template cast<double>()); });
    return values;
  }

  /// A copy of the bucket ids of the last pass.
  std::vector<Bucket> buckets() const { return {saved.buckets.begin(), saved.buckets.end()}; }

  Workspace workspace, kept{1};
  Scratch memory{kept};
  SelfAttention<Scalar> attention;
  typename SelfAttention<Scalar>::Saved saved;
  Matrix<Scalar> x;
  Tokens tokens;  // of passes of a layer that looks at them
  std::vector<std::uint8_t> is_real;
  std::vector<Tensor<double, 4>> rotations;  // of each kind of heads, if it hashes

 private:
  Case c_;
};

inline std::vector<AttentionPattern> patterns() {
  auto patterns = naive::with_values(
      {
          LshPattern{4, 1, 0, 2, {4}},
          LshPattern{8, 1, 1, 1, {}},
          LshPattern{5, 1, 0, 3, {2, 4}},
          LshPattern{4, 1, 0, 2, {4}, /*sort_padding=*/true},
          LshPattern{4, 1, 1, 1, {}, /*sort_padding=*/true},
          LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks},
          LshPattern{3, 1, 1, 3, {2, 4}, false, Chunking::bucket_chunks, Duplicates::once},
          LocalPattern{4, 1, 0, false},
          LocalPattern{8, 1, 1, true},
          ExactPattern{false},
          ExactPattern{true},
      },
      {Values::following, Values::mixed});
  // One of each kind with each kind of values.
  for (const std::size_t i : {1U, 5U, 7U, 9U, 10U, 11U, 17U, 19U, 28U, 30U, 32U}) {
    patterns.push_back(naive::with_cosines(patterns[i]));
  }
  for (const std::size_t i : {1U, 6U, 7U, 9U, 10U, 16U, 30U}) {
    patterns.push_back(naive::with_rotary(patterns[i], 4));
  }
  patterns.push_back(naive::with_rotary(patterns[35], 2));  // cosines, too
  return patterns;
}

/// Layers whose three heads differ: with keys of their own before, behind and between heads that
/// share, that hash by two patterns, and with values of every kind.
inline std::vector<LayerPattern> patterns_of_heads() {
  const LshPattern far{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks};
  const auto with = [](auto pattern, Values values) {
    pattern.values = values;
    return pattern;
  };
  return {
      {LocalPattern{4}, LocalPattern{4}, far},
      {far, ExactPattern{false}, LocalPattern{8, 1, 1, true}},
      {ExactPattern{false}, ExactPattern{true}, LocalPattern{4}},
      {LshPattern{4, 1, 0, 2, {4}, true}, LocalPattern{4}, LshPattern{8, 1, 1, 1, {}}},
      {far, LshPattern{5, 1, 0, 3, {2, 4}}, LshPattern{5, 1, 0, 3, {2, 4}}},
      {with(far, Values::mixed), with(LocalPattern{4}, Values::following), ExactPattern{true}},
      {with(LocalPattern{4}, Values::own), far, with(ExactPattern{false}, Values::mixed)},
      {naive::with_cosines(LocalPattern{4}), ExactPattern{false}, naive::with_cosines(far)},
      {naive::with_rotary(LocalPattern{4}, 4), naive::with_rotary(far, 2), LocalPattern{4}},
  };
}

inline bool exists(const LayerPattern& pattern, bool causal) {
  return std::ranges::all_of(pattern.of_heads, [&](const AttentionPattern& of_head) {
    return naive::exists(of_head, causal);
  });
}
inline bool only_causal(const LayerPattern& pattern) {
  return !exists(pattern, /*causal=*/false);
}

/// All that a training step makes of a layer: f(x), dx and the parameter gradients.
template <typename Scalar>
struct Step {
  Matrix<Scalar> f, restored, dx;
  std::vector<double> gradients;

  Step(Layer<Scalar>& layer, const Matrix<Scalar>& dy) {
    f = layer.forward();
    dx = Matrix<Scalar>::Zero(f.rows(), f.cols());
    reset_gradients(layer.attention);
    restored = layer.reverse(f, dy, dx);
    gradients = gradients_of(layer.attention);
  }
};

}  // namespace reformer::test::self_attention
