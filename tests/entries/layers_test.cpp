// SPDX-License-Identifier: MIT
/// Every public entry of the floors foundation, operations, attention and reversible, with its
/// arguments out of range, one at a time.
#include <any>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "reformer/attention/attention.hpp"
#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/cross_entropy.hpp"
#include "reformer/operations/embedding.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "reformer/operations/positions.hpp"
#include "reformer/reversible/sequence.hpp"
#include "support/entries.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Index too_large = Index{1} << 31;
constexpr Index B = 2, T = 5, D = 6, H = 2, K = 3, F = 7, V = 11, rows = B * T;
constexpr std::uint32_t bad_layer = 1U << 24;

using Half = FloatingHalf<float>;

// --- foundation ----------------------------------------------------------------------------------

struct Foundation {
  Workspace workspace{2};
  Scratch scratch{workspace};
  Workspace plan = Workspace::plan(2);
  Scratch planned{plan};
  Half half{2, 3};
  FixedHalf<float> fixed{2, 3};

  Bits bits() const {
    Bits bits;
    for (Index n : {half.rows(), half.columns(), fixed.rows(), fixed.columns()}) bits.add(n);
    return bits.add(static_cast<Index>(plan.peak_bytes()));
  }
};

const Refusal<Foundation> foundation[] = {
    {"Workspace", "threads", "-1", "must be at least 0", [](auto&) { Workspace(-1); }},
    {"Workspace", "threads", "4097", "must be at most 4096", [](auto&) { Workspace(4097); }},
    {"Workspace::plan", "threads", "0", "must be at least 1", [](auto&) { Workspace::plan(0); }},
    {"Workspace::plan", "threads", "4097", "must be at most 4096",
     [](auto&) { Workspace::plan(4097); }},
    {"Scratch::take", "count", "-1", "must be at least 0",
     [](auto& f) { f.scratch.template take<int>(-1); }},
    {"Scratch::matrix", "count", "-2", "must be at least 0",
     [](auto& f) { f.scratch.template matrix<int>(-2, 3); }},
    {"Scratch::matrix", "count", "-3", "must be at least 0",
     [](auto& f) { f.scratch.template matrix<int>(2, -3); }},
    {"Scratch::per_thread", "count", "-1", "must be at least 0",
     [](auto& f) { f.scratch.template per_thread<int>(-1); }},
    {"Scratch::take", "count", "-1", "must be at least 0",
     [](auto& f) { f.planned.template take<int>(-1); }},
    {"Scratch::matrix", "count", "-2", "must be at least 0",
     [](auto& f) { f.planned.template matrix<int>(-2, 3); }},
    {"Scratch::per_thread", "count", "-1", "must be at least 0",
     [](auto& f) { f.planned.template per_thread<int>(-1); }},
    {"FloatingHalf", "rows", "-1", "must be at least 0", [](auto&) { Half(-1, 3); }},
    {"FloatingHalf", "columns", "-1", "must be at least 0", [](auto&) { Half(3, -1); }},
    {"FloatingHalf", "rows", "-1", "must be at least 0", [](auto& f) { Half(f.scratch, -1, 3); }},
    {"FloatingHalf", "columns", "-1", "must be at least 0",
     [](auto& f) { Half(f.scratch, 3, -1); }},
    {"FixedHalf", "rows", "-1", "must be at least 0", [](auto&) { FixedHalf<float>(-1, 3); }},
    {"FixedHalf", "columns", "-1", "must be at least 0", [](auto&) { FixedHalf<float>(3, -1); }},
    {"FixedHalf", "fraction_bits", "31", "must be in [1, 30]",
     [](auto&) { FixedHalf<float>(1, 1, 31); }},
    {"FixedHalf", "fraction_bits", "0", "must be in [1, 30]", [](auto&) { FixedHalf<float>(0); }},
    {"FixedHalf", "rows", "-1", "must be at least 0",
     [](auto& f) { FixedHalf<float>(f.scratch, -1, 3); }},
    {"FixedHalf", "columns", "-1", "must be at least 0",
     [](auto& f) { FixedHalf<float>(f.scratch, 3, -1); }},
    {"FixedHalf", "fraction_bits", "-1", "must be in [1, 30]",
     [](auto&) { DynamicHalf<float>(ResidualConfig{FixedResidual{-1}}); }},
    {"Parameter", "rows", "-1", "must be at least 0",
     [](auto&) { Parameter<float>("p", Role::weight, -1, 2); }},
    {"Parameter", "columns", "-1", "must be at least 0",
     [](auto&) { Parameter<float>("p", Role::weight, 2, -1); }},
    {"RandomKey::at_layer", "layer", "-1", "must be at least 0",
     [](auto&) { (void)RandomKey{}.at_layer(-1); }},
    {"RandomKey::at_layer", "layer", "16777216", "must be at most 16777215",
     [](auto&) { (void)RandomKey{}.at_layer(bad_layer); }},
    {"f", "batch", "0", "must be at least 1",
     [](auto& f) { check_pass("f", Pass{.workspace = f.workspace, .batch = 0}); }},
    {"f", "dropout_share", "-1", "must be from 0 to 1",
     [](auto& f) { check_pass("f", Pass{.workspace = f.workspace, .dropout_share = -1}); }},
    {"f", "length", "0", "must be at least 1",
     [](auto& f) { check_pass("f", Pass{.workspace = f.workspace, .length = 0}); }},
    {"f", "batch", "9223372036854775807", "must be at most",
     [](auto& f) {
       check_pass("f", Pass{f.workspace, std::numeric_limits<Index>::max(), 2});
     }},
    {"f", "key.layer", "16777216", "must be at most 16777215",
     [](auto& f) {
       check_pass("f", Pass{f.workspace, 1, 1, {0, 0, bad_layer}});
     }},
    {"f", "is_real", "2", "must have B*T = 1",
     [](auto& f) {
       const std::uint8_t mask[2] = {1, 1};
       check_pass("f", Pass{f.workspace, 1, 1, {}, false, mask});
     }},
};

TEST(Entries, OfFoundation) {
  Foundation fixture;
  expect_cases(expect_refused<Foundation>(fixture, foundation), 25);
}

// --- operations ----------------------------------------------------------------------------------

/// A matrix of equal elements, and a half of them.
Matrix<float> matrix(Index r, Index c) {
  return Matrix<float>::Constant(r, c, 0.5F);
}
Half half_of(Index r, Index c) {
  Half half(r, c);
  const Matrix<float> values = matrix(r, c);
  for (Index i = 0; i < r; ++i) half.write(i, 0, c, values.row(i).data());
  return half;
}
Bits& add(Bits& bits, const Half& half) {
  std::vector<float> row(static_cast<std::size_t>(half.columns()));
  for (Index i = 0; i < half.rows(); ++i) {
    half.read(i, 0, half.columns(), row.data());
    bits.add(row);
  }
  return bits;
}
/// Parameters get values that are not zero; gradients, too.
template <typename Layer>
void fill(Layer& layer) {
  layer.for_each_parameter([](Parameter<float>& p) {
    p.value.setConstant(0.125F);
    p.gradient = matrix(p.value.rows(), p.value.cols());
  });
}
template <typename Layer>
void add_gradients(Bits& bits, Layer& layer) {
  layer.for_each_parameter([&](const Parameter<float>& p) { bits.add(p.value).add(p.gradient); });
}
template <typename Layer>
void drop_gradients(Layer& layer) {
  layer.for_each_parameter([](Parameter<float>& p) { p.gradient.resize(0, 0); });
}

struct Operations {
  Workspace workspace{2};
  Tokens tokens = random_tokens(B, T, V, 1);
  LayerNorm<float> norm{"norm", D, 1e-5};
  NgramEmbedding<float> ngrams{"ngrams", {.order = 2, .rows = 8}, D};
  Embedding<float> embedding{"embedding", V, D};
  Positions<float> positions{"positions", LearnedPositions{T}, D};
  FeedForward<float> feed_forward{"f", {.width = D, .hidden_width = F}};
  FeedForward<float>::Saved saved;
  Half x = half_of(rows, D), y = half_of(rows, D);
  Matrix<float> dy = matrix(rows, D), dx = matrix(rows, D), wide = matrix(rows, D + 1),
                short_ = matrix(rows - 1, D);
  std::vector<std::uint8_t> mask = std::vector<std::uint8_t>(rows - 1, 1);

  Operations() {
    fill(norm);
    fill(ngrams);
    fill(embedding);
    fill(positions);
    fill(feed_forward);
  }
  Pass pass() { return {workspace, B, T}; }
  Bits bits() {
    Bits bits;
    for (const Matrix<float>* m : {&dy, &dx, &wide, &short_}) bits.add(*m);
    add(add(bits, x), y);
    add_gradients(bits, norm);
    add_gradients(bits, ngrams);
    add_gradients(bits, embedding);
    add_gradients(bits, positions);
    add_gradients(bits, feed_forward);
    return bits;
  }
  void forward(const Pass& p) { feed_forward.forward(x, y, saved, p); }
  void forward(const Half& a, Half&& b) { feed_forward.forward(a, b, saved, pass()); }
  void reverse(Matrix<float>& a, Matrix<float>& b) {
    feed_forward.reverse(x, y, rows_of(std::as_const(a)), rows_of(b), saved, pass());
  }
  Pass pass_with_tokens() {
    Pass with = pass();
    with.tokens = std::span(tokens.data(), rows);
    return with;
  }
  void ngram_backward(const Pass& of, const detail::PartOfRows& part) {
    ngrams.backward(rows_of(std::as_const(dx)), ngrams.dropout(of, Purpose::data), of, part);
  }
  void norm_backward(Index first, Matrix<float>& dout, Matrix<float>& into) {
    norm.backward(x, first, rows_of(dout), rows_of(into), pass());
  }
  /// Runs with a layer that has no gradients; they are put back.
  template <typename Layer, typename Action>
  void without_gradients(Layer& layer, const Action& action) {
    drop_gradients(layer);
    try {
      action();
    } catch (...) {
      fill(layer);
      throw;
    }
  }
};

const Refusal<Operations> operations[] = {
    {"Dropout", "probability", "-0.5", "must be in [0, 1)",
     [](auto&) { Dropout<float>(-0.5, {}, Purpose::data); }},
    {"Dropout", "probability", "1", "must be in [0, 1)",
     [](auto&) { Dropout<float>(1, {}, Purpose::data); }},
    {"Dropout", "probability", "nan", "must be in [0, 1)",
     [](auto&) { Dropout<float>(nan, {}, Purpose::data); }},
    {"Dropout", "key.layer", "16777216", "must be at most 16777215",
     [](auto&) {
       Dropout<float>(0.5, {0, 0, bad_layer}, Purpose::data);
     }},
    {"f", "activation", "100", "must be relu, gelu",
     [](auto&) { detail::check_activation("f", static_cast<Activation>(100)); }},
    {"f", "label 1", "11", "must be in [0, 11) or -100",
     [](auto&) {
       const std::int32_t labels[] = {0, 11};
       detail::check_label_range("f", labels, V);
     }},
    {"f", "label 0", "-1", "must be in [0, 11) or -100",
     [](auto&) {
       const std::int32_t labels[] = {-1, 0};
       detail::check_label_range("f", labels, V);
     }},
    {"LayerNorm", "width", "0", "must be at least 1", [](auto&) { LayerNorm<float>("n", 0, 1); }},
    {"LayerNorm", "width", "2147483648", "must be at most 2147483647",
     [](auto&) { LayerNorm<float>("n", too_large, 1); }},
    {"LayerNorm", "layer_norm_epsilon", "0", "must be in [1e-37, 1e37]",
     [](auto&) { LayerNorm<float>("n", D, 0); }},
    {"LayerNorm", "layer_norm_epsilon", "inf", "must be in [1e-37, 1e37]",
     [](auto&) { LayerNorm<float>("n", D, infinity); }},
    {"LayerNorm::backward", "columns of x", "6", "must equal width = 7",
     [](auto& f) {
       LayerNorm<float> other("n", D + 1, 1);
       other.backward(f.x, 0, rows_of(f.wide), rows_of(f.wide), f.pass());
     }},
    {"LayerNorm::backward", "columns of dout", "7", "must equal width = 6",
     [](auto& f) { f.norm_backward(0, f.wide, f.dx); }},
    {"LayerNorm::backward", "columns of dx", "7", "must equal width = 6",
     [](auto& f) { f.norm_backward(0, f.dy, f.wide); }},
    {"LayerNorm::backward", "rows of dx", "9", "must equal rows of x = 10",
     [](auto& f) { f.norm_backward(0, f.dy, f.short_); }},
    {"LayerNorm::backward", "first", "-1", "must be at least 0",
     [](auto& f) { f.norm_backward(-1, f.dy, f.dx); }},
    {"LayerNorm::backward", "first", "1", "must be at most 0",
     [](auto& f) { f.norm_backward(1, f.dy, f.dx); }},
    {"LayerNorm::backward", "rows of x", "10", "must equal B*T = 5",
     [](auto& f) {
       f.norm.backward(f.x, 0, rows_of(f.dy), rows_of(f.dx), {f.workspace, 1, T});
     }},
    {"LayerNorm::backward", "is_real", "9", "must have B*T = 10",
     [](auto& f) {
       f.norm.backward(f.x, 0, rows_of(f.dy), rows_of(f.dx), {f.workspace, B, T, {}, true, f.mask});
     }},
    {"NgramEmbedding::backward", "tokens", "9", "must have B*T = 10",
     [](auto& f) {
       Pass pass = f.pass();
       pass.tokens = std::span(f.tokens.data(), rows - 1);
       f.ngram_backward(pass, {});
     }},
    {"NgramEmbedding::backward", "the first row", "-1", "must be at least 0",
     [](auto& f) {
       f.ngram_backward(f.pass_with_tokens(), {-1, 0});
     }},
    {"NgramEmbedding::backward", "the first column", "-1", "must be at least 0",
     [](auto& f) {
       f.ngram_backward(f.pass_with_tokens(), {0, -1});
     }},
    {"NgramEmbedding::backward", "rows of dx", "10", "must be at most 9",
     [](auto& f) {
       f.ngram_backward(f.pass_with_tokens(), {1, 0});
     }},
    {"FeedForward", "width * hidden_width", "2147483647 * 2147483647", "must be at most",
     [](auto&) { FeedForward<float>("f", {.width = max_size, .hidden_width = max_size}); }},
    {"FeedForward::plan", "workspace", "one for use", "must be made by Workspace::plan",
     [](auto& f) {
       f.feed_forward.plan(f.workspace, {B, T}, {});
     }},
    {"FeedForward::decoding", "length", "0", "must be at least 1",
     [](auto& f) {
       f.feed_forward.decoding({f.workspace, B, 0});
     }},
    {"FeedForward::decoding", "precision", "7", "must be float32, bfloat16x3 or bfloat16",
     [](auto& f) {
       Pass pass = f.pass();
       pass.precision = static_cast<Precision>(7);
       f.feed_forward.decoding(pass);
     }},
    {"LayerNorm::backward", "norm.weight", "has no gradient", "call zero_gradients",
     [](auto& f) { f.without_gradients(f.norm, [&] { f.norm_backward(0, f.dy, f.dx); }); }},
    {"Embedding", "vocabulary", "0", "must be at least 1",
     [](auto&) { Embedding<float>("e", 0, D); }},
    {"Embedding", "width", "0", "must be at least 1", [](auto&) { Embedding<float>("e", V, 0); }},
    {"Embedding", "vocabulary * width", "2147483647 * 2147483647", "must be at most 1099511627776",
     [](auto&) { Embedding<float>("e", max_size, max_size); }},
    {"f", "token 3", "-1", "must be in [0, 11)",
     [](auto& f) {
       Tokens tokens = f.tokens;
       tokens(0, 3) = -1;
       f.embedding.check_tokens("f", tokens);
     }},
    {"Embedding::plan_backward", "workspace", "one for use", "must be made by Workspace::plan",
     [](auto& f) { Embedding<float>("e", V, D).plan_backward(f.workspace, rows); }},
    {"Embedding::backward", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       f.embedding.backward(f.tokens, rows_of(f.dx), {plan, B, T});
     }},
    {"Embedding::backward", "token 5", "11", "must be in [0, 11)",
     [](auto& f) {
       Tokens tokens = f.tokens;
       tokens(1, 0) = V;
       f.embedding.backward(tokens, rows_of(f.dx), f.pass());
     }},
    {"Embedding::backward", "rows of dx", "9", "must equal number of tokens = 10",
     [](auto& f) { f.embedding.backward(f.tokens, rows_of(f.short_), f.pass()); }},
    {"Embedding::backward", "columns of dx", "7", "must equal width = 6",
     [](auto& f) { f.embedding.backward(f.tokens, rows_of(f.wide), f.pass()); }},
    {"Embedding::backward", "embedding.weight", "", "not allocated",
     [](auto& f) {
       f.without_gradients(f.embedding,
                           [&] { f.embedding.backward(f.tokens, rows_of(f.dx), f.pass()); });
     }},
    {"Positions", "width", "0", "must be at least 1",
     [](auto&) { Positions<float>("p", SinusoidalPositions{}, 0); }},
    {"Positions", "the width of a model with axial positions", "1", "must be at least 2",
     [](auto&) { Positions<float>("p", AxialPositions{}, 1); }},
    {"Positions", "AxialPositions::shape[0]", "0", "must be at least 1",
     [](auto&) {
       Positions<float>("p", AxialPositions{{0, 4}, {}}, D);
     }},
    {"Positions", "AxialPositions::shape[1]", "2147483648", "must be at most",
     [](auto&) {
       Positions<float>("p", AxialPositions{{4, too_large}, {}}, D);
     }},
    {"max_length", "AxialPositions::shape[0]", "1099511627776", "must be at most",
     [](auto&) {
       (void)max_length(AxialPositions{{Index{1} << 40, Index{1} << 40}, {}});
     }},
    {"max_length", "the product of AxialPositions::shape", "more than 63", "must have less",
     [](auto&) {
       (void)max_length(AxialPositions{{1 << 30, 1 << 30, 1 << 30}, {}});
     }},
    {"Positions", "AxialPositions::widths[1]", "-1", "must be at least 1",
     [](auto&) {
       Positions<float>("p", AxialPositions{{4, 4}, {7, -1}}, D);
     }},
    {"Positions", "AxialPositions::widths", "2 + 3", "must add up to the model width 6",
     [](auto&) {
       Positions<float>("p", AxialPositions{{4, 4}, {2, 3}}, D);
     }},
    {"Positions", "LearnedPositions::max_length", "0", "must be at least 1",
     [](auto&) { Positions<float>("p", LearnedPositions{0}, D); }},
    {"Positions::backward", "length", "10", "must be at most 5",
     [](auto& f) {
       f.positions.backward(rows_of(f.dx), Pass{f.workspace, 1, rows});
     }},
    {"Positions::backward", "rows of dx", "9", "must equal B*T = 10",
     [](auto& f) { f.positions.backward(rows_of(f.short_), f.pass()); }},
    {"Positions::backward", "columns of dx", "7", "must equal width = 6",
     [](auto& f) { f.positions.backward(rows_of(f.wide), f.pass()); }},
    {"Positions::backward", "positions.weight", "", "not allocated",
     [](auto& f) {
       f.without_gradients(f.positions, [&] { f.positions.backward(rows_of(f.dx), f.pass()); });
     }},
    {"FeedForward::forward", "batch", "0", "must be at least 1",
     [](auto& f) {
       f.forward({f.workspace, 0, T});
     }},
    {"FeedForward::forward", "length", "-5", "must be at least 1",
     [](auto& f) {
       f.forward({f.workspace, B, -5});
     }},
    {"FeedForward::forward", "key.layer", "16777216", "must be at most",
     [](auto& f) {
       f.forward({f.workspace, B, T, {0, 0, bad_layer}});
     }},
    {"FeedForward::forward", "is_real", "9", "must have B*T = 10",
     [](auto& f) {
       f.forward({f.workspace, B, T, {}, false, f.mask});
     }},
    {"FeedForward::forward", "rows of x", "9", "must equal B*T = 10",
     [](auto& f) { f.forward(half_of(rows - 1, D), half_of(rows, D)); }},
    {"FeedForward::forward", "rows of y", "9", "must equal B*T = 10",
     [](auto& f) { f.forward(half_of(rows, D), half_of(rows - 1, D)); }},
    {"FeedForward::forward", "columns of x", "5", "must equal width = 6",
     [](auto& f) { f.forward(half_of(rows, D - 1), half_of(rows, D)); }},
    {"FeedForward::forward", "columns of y", "5", "must equal width = 6",
     [](auto& f) { f.forward(half_of(rows, D), half_of(rows, D - 1)); }},
    {"FeedForward::reverse", "rows of dy", "9", "must equal B*T = 10",
     [](auto& f) { f.reverse(f.short_, f.dx); }},
    {"FeedForward::reverse", "columns of dy", "7", "must equal width = 6",
     [](auto& f) { f.reverse(f.wide, f.dx); }},
    {"FeedForward::reverse", "rows of dx", "9", "must equal B*T = 10",
     [](auto& f) { f.reverse(f.dy, f.short_); }},
    {"FeedForward::reverse", "columns of dx", "7", "must equal width = 6",
     [](auto& f) { f.reverse(f.dy, f.wide); }},
    {"FeedForward::forward", "rows of saved.inner", "9", "must equal B*T = 10",
     [](auto& f) {
       Matrix<float> inner(rows - 1, F);
       FeedForward<float>::Saved saved{rows_of(inner)};
       f.feed_forward.forward(f.x, f.y, saved, f.pass());
     }},
    {"FeedForward::reverse", "columns of saved.inner", "8", "must equal hidden_width = 7",
     [](auto& f) {
       Matrix<float> inner(rows, F + 1);
       const FeedForward<float>::Saved saved{rows_of(inner)};
       f.feed_forward.reverse(f.x, f.y, rows_of(f.dy), rows_of(f.dx), saved, f.pass());
     }},
    {"FeedForward::reverse", "f.layer_norm.weight", "has no gradient", "call zero_gradients",
     [](auto& f) { f.without_gradients(f.feed_forward, [&] { f.reverse(f.dy, f.dx); }); }},
    {"FeedForward::decode", "columns of the kept weight", "8", "must equal hidden_width = 7",
     [](auto& f) {
       const FeedForward<float> other("g", {.width = D, .hidden_width = F + 1});
       auto decoding = other.decoding(f.pass());
       f.feed_forward.decode(f.x, f.y, decoding, f.pass());
     }},
};

const BadField<FeedForwardConfig> feed_forward_fields[] = {
    {"width", "0", "must be at least 1", [](auto& c) { c.width = 0; }},
    {"width", "2147483648", "must be at most 2147483647", [](auto& c) { c.width = too_large; }},
    {"hidden_width", "-1", "must be at least 1", [](auto& c) { c.hidden_width = -1; }},
    {"hidden_width", "2147483648", "must be at most", [](auto& c) { c.hidden_width = too_large; }},
    {"activation", "-1", "must be relu, gelu",
     [](auto& c) { c.activation = static_cast<Activation>(-1); }},
    {"dropout", "1", "must be in [0, 1)", [](auto& c) { c.dropout = 1; }},
    {"dropout", "nan", "must be in [0, 1)", [](auto& c) { c.dropout = nan; }},
    {"layer_norm_epsilon", "0", "must be in", [](auto& c) { c.layer_norm_epsilon = 0; }},
};

TEST(Entries, OfOperations) {
  Operations fixture;
  expect_cases(expect_refused<Operations>(fixture, operations) +
                   expect_refused<FeedForwardConfig>(
                       "FeedForward", {.width = D, .hidden_width = F}, feed_forward_fields,
                       [](const auto& config) { FeedForward<float>("f", config); }),
               50);
}

// --- attention -----------------------------------------------------------------------------------

LshPattern lsh() {
  return {
      .chunk_length = 2, .num_hashes = 2, .num_buckets = {4}, .chunking = Chunking::bucket_chunks};
}

SelfAttentionConfig attention_config() {
  return {.width = D, .num_heads = H, .head_width = K, .pattern = lsh()};
}

const BadField<LshPattern> lsh_fields[] = {
    {"chunk_length", "0", "must be at least 1", [](auto& c) { c.chunk_length = 0; }},
    {"chunk_length", "2147483648", "must be at most", [](auto& c) { c.chunk_length = too_large; }},
    {"chunks_before", "-1", "must be at least 0", [](auto& c) { c.chunks_before = -1; }},
    {"chunks_before", "2147483648", "must be at most",
     [](auto& c) { c.chunks_before = too_large; }},
    {"chunks_after", "-1", "must be at least 0", [](auto& c) { c.chunks_after = -1; }},
    {"chunks_before + chunks_after", "257", "must be at most 256",
     [](auto& c) {
       c.chunking = Chunking::sorted_chunks;
       c.chunks_before = 257;
     }},
    {"num_hashes", "0", "must be at least 1", [](auto& c) { c.num_hashes = 0; }},
    {"num_hashes", "65536", "must be at most 65535", [](auto& c) { c.num_hashes = 65536; }},
    {"num_buckets", "empty", "must be given", [](auto& c) { c.num_buckets.clear(); }},
    {"num_buckets", "3", "must be even", [](auto& c) { c.num_buckets = {3}; }},
    {"num_buckets", "256 * 256", "must be at most 65535",
     [](auto& c) {
       c.num_buckets = {256, 256};
     }},
    {"sort_padding", "true", "must be false", [](auto& c) { c.sort_padding = true; }},
    {"chunking", "2", "must be sorted_chunks or bucket_chunks",
     [](auto& c) { c.chunking = static_cast<Chunking>(2); }},
    {"duplicates", "2", "must be each_time or once",
     [](auto& c) { c.duplicates = static_cast<Duplicates>(2); }},
    {"duplicates", "once", "only bucket_chunks",
     [](auto& c) {
       c.chunking = Chunking::sorted_chunks;
       c.duplicates = Duplicates::once;
     }},
    {"values", "3", "must be own, following or mixed",
     [](auto& c) { c.values = static_cast<Values>(3); }},
    {"scores", "2", "must be dot_product or cosine",
     [](auto& c) { c.scores = static_cast<Scores>(2); }},
    {"rotary_width", "3", "must be even", [](auto& c) { c.rotary_width = 3; }},
};

const BadField<LocalPattern> local_fields[] = {
    {"chunk_length", "0", "must be at least 1", [](auto& c) { c.chunk_length = 0; }},
    {"chunks_before", "-1", "must be at least 0", [](auto& c) { c.chunks_before = -1; }},
    {"chunks_after", "2147483648", "must be at most", [](auto& c) { c.chunks_after = too_large; }},
    {"chunks_before + chunks_after", "257", "must be at most 256",
     [](auto& c) {
       c.circular = true;
       c.chunks_after = 256;
     }},
    {"values", "-1", "must be own, following or mixed",
     [](auto& c) { c.values = static_cast<Values>(-1); }},
    {"scores", "-1", "must be dot_product or cosine",
     [](auto& c) { c.scores = static_cast<Scores>(-1); }},
    {"rotary_width", "-2", "must be at least 0", [](auto& c) { c.rotary_width = -2; }},
};

const BadField<SelfAttentionConfig> attention_fields[] = {
    {"width", "0", "must be at least 1", [](auto& c) { c.width = 0; }},
    {"width", "2147483648", "must be at most", [](auto& c) { c.width = too_large; }},
    {"num_heads", "0", "must be at least 1", [](auto& c) { c.num_heads = 0; }},
    {"head_width", "-3", "must be at least 1", [](auto& c) { c.head_width = -3; }},
    {"head_width", "2147483647", "must be at most 1073741823",
     [](auto& c) { c.head_width = max_size; }},
    {"attention_dropout", "1", "must be in [0, 1)", [](auto& c) { c.attention_dropout = 1; }},
    {"dropout", "-1", "must be in [0, 1)", [](auto& c) { c.dropout = -1; }},
    {"layer_norm_epsilon", "nan", "must be in", [](auto& c) { c.layer_norm_epsilon = nan; }},
    {"values", "following", "must be own where attention is not causal",
     [](auto& c) {
       c.causal = false;
       c.pattern = ExactPattern{.values = Values::following};
     }},
};

struct Attention {
  Workspace workspace{2};
  // Tensors [B, T, H, K]; of every pattern whose queries are keys.
  Tensor<float, 4> query{B, T, H, K}, value{B, T, H, K}, dout{B, T, H, K}, other{B, T, H, K + 1};
  Tensor<float, 4> rotations{H, K, 2, 2};
  Tensor<Bucket, 4> buckets{B, H, 2, T};
  AttentionOptions options{.pattern = lsh()};
  AttentionOutput<float> output;
  std::vector<std::uint8_t> mask = std::vector<std::uint8_t>(rows - 1, 1);
  // The layer.
  SelfAttention<float> layer{"a", attention_config()};
  Workspace kept{1};
  Scratch memory{kept};
  SelfAttention<float>::Saved saved;
  SelfAttention<float>::Decoding decoding;
  Half x = half_of(rows, D), y = half_of(rows, D), token_x = half_of(B, D), token_y = half_of(B, D);
  Matrix<float> dy = matrix(rows, D), dx = matrix(rows, D), wide = matrix(rows, D + 1),
                short_ = matrix(rows - 1, D);

  Attention() : decoding(layer.decoding({workspace, B, 1})) {
    for (auto* tensor : {&query, &value, &dout, &other, &rotations}) {
      for (Index i = 0; i < tensor->size(); ++i) {
        tensor->data()[i] = std::sin(static_cast<float>(i));
      }
    }
    buckets = lsh_buckets(workspace, query, lsh(), rotations);
    output = attention(workspace, query, query, value, options, buckets);
    fill(layer);
    saved = layer.saved_in(memory, {B, T});
    layer.forward(x, y, saved, pass());
  }
  Pass pass() { return {workspace, B, T}; }
  Bits bits() {
    Bits bits;
    for (const Matrix<float>* m : {&dy, &dx, &wide, &short_}) bits.add(*m);
    for (const Half* half : {&x, &y, &token_x, &token_y}) add(bits, *half);
    for (const auto* tensor : {&query, &value, &dout, &output.out}) bits.add(*tensor);
    for (const auto* tensor : {&output.maximum, &output.normaliser, &output.key_scale}) {
      bits.add(*tensor);
    }
    bits.add(saved.buckets).add(saved.context).add(saved.batch).add(saved.length);
    bits.add(static_cast<Index>(decoding.bytes()));
    bits.add(std::get<LshPattern>(layer.config().pattern.of_heads[0]).num_buckets);
    if (layer.rotations()) bits.add(*layer.rotations());
    add_gradients(bits, layer);
    return bits;
  }

  void attend() { attention(workspace, query, query, value, options, buckets); }
  void attend(void (*change)(AttentionOptions&)) {
    AttentionOptions bad = options;
    change(bad);
    attention(workspace, query, query, value, bad, buckets);
  }
  void backward(void (*change)(AttentionOutput<float>&)) {
    AttentionOutput<float> bad = output;
    change(bad);
    attention_backward(workspace, query, query, value, options, bad, dout, buckets);
  }
  void rotate(Index h, Index k, Index r, Index n) {
    layer.set_rotations(Tensor<float, 4>(h, k, r, n));
  }
  void hash(Index h, Index k, Index r, Index n) {
    lsh_buckets(workspace, query, lsh(), Tensor<float, 4>(h, k, r, n));
  }
  void forward(const Pass& p) { layer.forward(x, y, saved, p); }
  void forward(const Half& a, Half&& b) { layer.forward(a, b, saved, pass()); }
  void reverse(Matrix<float>& a, Matrix<float>& b) {
    layer.reverse(x, y, rows_of(std::as_const(a)), rows_of(b), saved, pass());
  }
  void reverse(void (*change)(SelfAttention<float>::Saved&)) {
    std::vector<Bucket> ids(saved.buckets.begin(), saved.buckets.end());
    auto bad = saved;
    bad.buckets = ids;
    change(bad);
    layer.reverse(x, y, rows_of(std::as_const(dy)), rows_of(dx), bad, pass());
  }
  /// Forward with what another pass is to save.
  void forward(void (*change)(SelfAttention<float>::Saved&)) {
    auto bad = saved;
    change(bad);
    layer.forward(x, y, bad, pass());
  }
};

const Index four[] = {4};

const Refusal<Attention> attention_entries[] = {
    {"automatic_num_buckets", "length", "0", "must be at least 1",
     [](auto&) { automatic_num_buckets(0, 4); }},
    {"automatic_num_buckets", "length", "2147483648", "must be at most",
     [](auto&) { automatic_num_buckets(too_large, 4); }},
    {"automatic_num_buckets", "chunk_length", "0", "must be at least 1",
     [](auto&) { automatic_num_buckets(4, 0); }},
    {"random_rotations", "heads", "0", "must be at least 1",
     [](auto&) { detail::random_rotations<float>(0, K, 1, four, {}); }},
    {"random_rotations", "head_width", "0", "must be at least 1",
     [](auto&) { detail::random_rotations<float>(H, 0, 1, four, {}); }},
    {"random_rotations", "num_hashes", "0", "must be at least 1",
     [](auto&) { detail::random_rotations<float>(H, K, 0, four, {}); }},
    {"random_rotations", "num_hashes", "65536", "must be at most 65535",
     [](auto&) { detail::random_rotations<float>(H, K, 65536, four, {}); }},
    {"random_rotations", "first", "3", "must be even, from 0",
     [](auto&) { detail::random_rotations<float>(H, K, 1, four, {}, 3); }},
    {"random_rotations", "num_buckets", "empty", "must have at least one factor",
     [](auto&) { detail::random_rotations<float>(H, K, 1, {}, {}); }},
    {"random_rotations", "key.layer", "16777216", "must be at most",
     [](auto&) {
       detail::random_rotations<float>(H, K, 1, four, {0, 0, bad_layer});
     }},
    {"lsh_buckets", "rotations dimension 0", "1", "must equal heads = 2",
     [](auto& f) { f.hash(1, K, 2, 2); }},
    {"lsh_buckets", "rotations dimension 1", "4", "must equal head width = 3",
     [](auto& f) { f.hash(H, 4, 2, 2); }},
    {"lsh_buckets", "rotations dimension 2", "1", "must equal num_hashes = 2",
     [](auto& f) { f.hash(H, K, 1, 2); }},
    {"lsh_buckets", "rotations dimension 3", "4", "must equal half the sum of num_buckets = 2",
     [](auto& f) { f.hash(H, K, 2, 4); }},
    {"lsh_buckets", "heads", "0", "must be at least 1",
     [](auto& f) { lsh_buckets(f.workspace, Tensor<float, 4>(B, T, 0, K), lsh(), f.rotations); }},
    {"lsh_buckets", "is_real", "9", "must have B*T = 10",
     [](auto& f) { lsh_buckets(f.workspace, f.query, lsh(), f.rotations, f.mask); }},
    {"attention", "dropout", "1", "must be in [0, 1)",
     [](auto& f) { f.attend([](AttentionOptions& o) { o.dropout = 1; }); }},
    {"attention", "key.layer", "16777216", "must be at most",
     [](auto& f) { f.attend([](AttentionOptions& o) { o.key.layer = bad_layer; }); }},
    {"attention", "chunk_length", "0", "must be at least 1",
     [](auto& f) { f.attend([](AttentionOptions& o) { o.pattern = LocalPattern{0}; }); }},
    {"attention", "is_real", "1", "must have B*T = 10",
     [](auto& f) {
       static constexpr std::uint8_t one = 1;
       f.attend([](AttentionOptions& o) { o.is_real = {&one, 1}; });
     }},
    {"attention", "batch", "0", "must be at least 1",
     [](auto& f) {
       const Tensor<float, 4> none(0, T, H, K);
       attention(f.workspace, none, none, none, f.options, f.buckets);
     }},
    {"attention", "key dimension 3", "4", "must equal head width = 3",
     [](auto& f) { attention(f.workspace, f.query, f.other, f.value, f.options, f.buckets); }},
    {"attention", "value dimension 3", "4", "must equal head width = 3",
     [](auto& f) { attention(f.workspace, f.query, f.query, f.other, f.options, f.buckets); }},
    {"attention", "query and key", "two tensors", "pass one as both",
     [](auto& f) { attention(f.workspace, f.query, f.value, f.value, f.options, f.buckets); }},
    {"attention", "buckets dimension 2", "1", "must equal num_hashes = 2",
     [](auto& f) {
       attention(f.workspace, f.query, f.query, f.value, f.options, Tensor<Bucket, 4>(B, H, 1, T));
     }},
    {"attention", "bucket 7", "4", "must be less than 4",
     [](auto& f) {
       Tensor<Bucket, 4> bad = f.buckets;
       bad.data()[7] = 4;
       attention(f.workspace, f.query, f.query, f.value, f.options, bad);
     }},
    {"attention_backward", "dout dimension 3", "4", "must equal head width = 3",
     [](auto& f) {
       attention_backward(f.workspace, f.query, f.query, f.value, f.options, f.output, f.other,
                          f.buckets);
     }},
    {"attention_backward", "output.out dimension 0", "0", "must equal batch = 2",
     [](auto& f) { f.backward([](auto& output) { output = {}; }); }},
    {"attention_backward", "output.maximum dimension 0", "0", "must equal batch = 2",
     [](auto& f) { f.backward([](auto& output) { output.maximum = {}; }); }},
    {"attention_backward", "output.normaliser dimension 1", "1", "must equal heads = 2",
     [](auto& f) { f.backward([](auto& output) { output.normaliser.resize(B, 1, T); }); }},
    {"attention_backward", "output.key_scale dimension 2", "4", "must equal length = 5",
     [](auto& f) { f.backward([](auto& output) { output.key_scale.resize(B, H, T - 1); }); }},
    {"attention_backward", "bucket 0", "65535", "must be less than 4",
     [](auto& f) {
       Tensor<Bucket, 4> bad = f.buckets;
       bad.data()[0] = 65535;
       attention_backward(f.workspace, f.query, f.query, f.value, f.options, f.output, f.dout, bad);
     }},
    {"DecodingState", "batch", "0", "must be at least 1",
     [](auto&) { detail::DecodingState<float>(lsh(), 0, H, K); }},
    {"DecodingState", "heads", "0", "must be at least 1",
     [](auto&) { detail::DecodingState<float>(lsh(), B, 0, K); }},
    {"DecodingState", "head_width", "0", "must be at least 1",
     [](auto&) { detail::DecodingState<float>(lsh(), B, H, 0); }},
    {"DecodingState", "batch * heads * num_hashes", "2147483647 * 65535", "must be at most",
     [](auto&) {
       LshPattern pattern = lsh();
       pattern.num_hashes = 65535;
       detail::DecodingState<float>(pattern, max_size, 1, 1);
     }},
    {"DecodingState", "an LSH layer", "sorted_chunks", "must have bucket_chunks",
     [](auto&) { detail::DecodingState<float>(LshPattern{}, B, H, K); }},
    {"DecodingState", "chunks_before", "2", "must be at most 1",
     [](auto&) {
       detail::DecodingState<float>(LocalPattern{4, 2, 0, true}, B, H, K);
     }},
    {"DecodingState::select", "sequence", "-1", "must be in [0, 2)",
     [](auto& f) {
       f.decoding.kinds[0].state.select({0, -1});
     }},
    {"DecodingState::select", "sequence", "2", "must be in [0, 2)",
     [](auto& f) { f.decoding.kinds[0].state.select({2}); }},
    {"SelfAttention::set_rotations", "rotations dimension 0", "1", "must equal num_heads = 2",
     [](auto& f) { f.rotate(1, K, 2, 2); }},
    {"SelfAttention::set_rotations", "rotations dimension 1", "1", "must equal head_width = 3",
     [](auto& f) { f.rotate(H, 1, 2, 2); }},
    {"SelfAttention::set_rotations", "rotations dimension 2", "3", "must equal num_hashes = 2",
     [](auto& f) { f.rotate(H, K, 3, 2); }},
    {"SelfAttention::set_rotations", "rotations dimension 3", "4",
     "must equal half the sum of num_buckets = 2", [](auto& f) { f.rotate(H, K, 2, 4); }},
    {"SelfAttention::set_num_buckets", "num_buckets", "5", "must be even",
     [](auto& f) { f.layer.set_num_buckets({5}); }},
    {"SelfAttention::forward", "batch", "0", "must be at least 1",
     [](auto& f) {
       f.forward({f.workspace, 0, T});
     }},
    {"SelfAttention::forward", "length", "16777216", "must be less than 2^24",
     [](auto& f) {
       f.forward({f.workspace, 1, Index{1} << 24});
     }},
    {"SelfAttention::forward", "key.layer", "16777216", "must be at most",
     [](auto& f) {
       f.forward({f.workspace, B, T, {0, 0, bad_layer}});
     }},
    {"SelfAttention::forward", "is_real", "9", "must have B*T = 10",
     [](auto& f) {
       f.forward({f.workspace, B, T, {}, false, f.mask});
     }},
    {"SelfAttention::forward", "num_hashes", "-1", "must be at least 0",
     [](auto& f) {
       f.forward({.workspace = f.workspace, .batch = B, .length = T, .num_hashes = -1});
     }},
    {"SelfAttention::forward", "num_hashes", "65536", "must be at most 65535",
     [](auto& f) {
       f.forward({.workspace = f.workspace, .batch = B, .length = T, .num_hashes = 65536});
     }},
    {"SelfAttention::forward", "rows of x", "9", "must equal B*T = 10",
     [](auto& f) { f.forward(half_of(rows - 1, D), half_of(rows, D)); }},
    {"SelfAttention::forward", "rows of y", "9", "must equal B*T = 10",
     [](auto& f) { f.forward(half_of(rows, D), half_of(rows - 1, D)); }},
    {"SelfAttention::forward", "columns of x", "5", "must equal width = 6",
     [](auto& f) { f.forward(half_of(rows, D - 1), half_of(rows, D)); }},
    {"SelfAttention::forward", "columns of y", "5", "must equal width = 6",
     [](auto& f) { f.forward(half_of(rows, D), half_of(rows, D - 1)); }},
    {"SelfAttention::forward", "saved.buckets", "39", "must have 40 or none",
     [](auto& f) { f.forward([](auto& saved) { saved.buckets = saved.buckets.first(39); }); }},
    {"SelfAttention::forward", "size of saved.context", "1", "must equal that of the context",
     [](auto& f) {
       f.forward([](auto& saved) {
         static float one = 0;
         saved.context = {&one, 1};
       });
     }},
    {"SelfAttention::prefill", "batch", "1", "must equal selected sequences of the state = 2",
     [](auto& f) {
       Half one = half_of(1, D);
       f.layer.prefill(half_of(1, D), one, f.decoding, {f.workspace, 1, 1});
     }},
    {"SelfAttention::prefill", "columns of y", "5", "must equal width = 6",
     [](auto& f) {
       Half narrow = half_of(rows, D - 1);
       f.layer.prefill(f.x, narrow, f.decoding, f.pass());
     }},
    {"SelfAttention::reverse", "rows of dy", "9", "must equal B*T = 10",
     [](auto& f) { f.reverse(f.short_, f.dx); }},
    {"SelfAttention::reverse", "columns of dy", "7", "must equal width = 6",
     [](auto& f) { f.reverse(f.wide, f.dx); }},
    {"SelfAttention::reverse", "rows of dx", "9", "must equal B*T = 10",
     [](auto& f) { f.reverse(f.dy, f.short_); }},
    {"SelfAttention::reverse", "columns of dx", "7", "must equal width = 6",
     [](auto& f) { f.reverse(f.dy, f.wide); }},
    {"SelfAttention::reverse", "batch of saved", "5", "must equal batch = 2",
     [](auto& f) { f.reverse([](auto& saved) { std::swap(saved.batch, saved.length); }); }},
    {"SelfAttention::reverse", "length of saved", "6", "must equal length = 5",
     [](auto& f) { f.reverse([](auto& saved) { saved.length = 6; }); }},
    {"SelfAttention::reverse", "saved.buckets", "39", "must have 40 or none",
     [](auto& f) { f.reverse([](auto& saved) { saved.buckets = saved.buckets.first(39); }); }},
    {"SelfAttention::reverse", "saved.buckets", "empty", "where halves are not exact",
     [](auto& f) { f.reverse([](auto& saved) { saved.buckets = {}; }); }},
    {"SelfAttention::reverse", "size of saved.context", "1", "must equal that of the context",
     [](auto& f) {
       f.reverse([](auto& saved) {
         static float one = 0;
         saved.context = {&one, 1};
       });
     }},
    {"SelfAttention::reverse", "bucket 39", "4", "must be less than 4",
     [](auto& f) { f.reverse([](auto& saved) { saved.buckets.back() = 4; }); }},
    {"SelfAttention::reverse", "a.layer_norm.weight", "has no gradient", "call zero_gradients",
     [](auto& f) {
       drop_gradients(f.layer);
       try {
         f.reverse(f.dy, f.dx);
       } catch (...) {
         fill(f.layer);
         throw;
       }
     }},
    {"SelfAttention::decoding", "batch", "0", "must be at least 1",
     [](auto& f) {
       (void)f.layer.decoding({f.workspace, 0, 1});
     }},
    {"SelfAttention", "width * (num_heads * head_width)", "2147483647 * 2147483647",
     "must be at most",
     [](auto&) {
       SelfAttention<float>("a", {.width = max_size, .num_heads = 1, .head_width = max_size});
     }},
    {"SelfAttention::saved_in", "length", "0", "must be at least 1",
     [](auto& f) {
       f.layer.saved_in(f.memory, {B, 0});
     }},
    {"SelfAttention::plan", "length", "0", "must be at least 1",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       f.layer.plan(plan, {B, 0}, {});
     }},
    {"SelfAttention::plan", "workspace", "one for use", "must be made by Workspace::plan",
     [](auto& f) {
       f.layer.plan(f.workspace, {B, T}, {});
     }},
    {"SelfAttention::forward", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       f.forward(Pass{plan, B, T});
     }},
    {"SelfAttention::context_work", "length", "0", "must be at least 1",
     [](auto& f) { f.layer.context_work(0); }},
    {"SelfAttention::buckets_of", "length", "0", "must be at least 1",
     [](auto& f) { f.layer.buckets_of({}); }},
    {"SelfAttention::buckets_of", "saved bucket ids", "0", "must equal those of the pass",
     [](auto& f) {
       f.layer.buckets_of(f.layer.saved_in(f.memory, {B, T, true}));
     }},
    {"SelfAttention::buckets_of", "saved bucket ids", "", "must equal those of the pass",
     [](auto& f) { f.layer.buckets_of(f.saved, 7); }},
    {"SelfAttention::decode", "is_real", "2", "must have none",
     [](auto& f) {
       const std::vector<std::uint8_t> mask(B, 1);
       f.layer.decode(f.token_x, f.token_y, f.decoding, {f.workspace, B, 1, {}, false, mask});
     }},
    {"SelfAttention::decode", "length", "5", "must equal one token, = 1",
     [](auto& f) { f.layer.decode(f.x, f.y, f.decoding, f.pass()); }},
    {"SelfAttention::decode", "batch", "1", "must equal selected sequences of the state = 2",
     [](auto& f) {
       Half one = half_of(1, D);
       f.layer.decode(half_of(1, D), one, f.decoding, {f.workspace, 1, 1});
     }},
    {"SelfAttention::decode", "columns of x", "5", "must equal width = 6",
     [](auto& f) {
       f.layer.decode(half_of(B, D - 1), f.token_y, f.decoding, {f.workspace, B, 1});
     }},
    {"SelfAttention::decode", "heads of the state", "1", "must equal num_heads = 2",
     [](auto& f) {
       SelfAttentionConfig config = attention_config();
       config.num_heads = 1;
       auto other = SelfAttention<float>("b", config).decoding({f.workspace, B, 1});
       f.layer.decode(f.token_x, f.token_y, other, {f.workspace, B, 1});
     }},
};

TEST(Entries, OfAttention) {
  Attention fixture;
  std::size_t cases = expect_refused<Attention>(fixture, attention_entries);
  EXPECT_NO_THROW(fixture.reverse(fixture.dy, fixture.dx));
  const auto layer = [](const auto& config) { SelfAttention<float>("a", config); };
  cases += expect_refused<SelfAttentionConfig>("SelfAttention", attention_config(),
                                               attention_fields, layer);
  const auto with_pattern = [&](const auto& pattern) {
    SelfAttentionConfig config = attention_config();
    config.pattern = pattern;
    layer(config);
  };
  cases += expect_refused<LshPattern>("SelfAttention", lsh(), lsh_fields, with_pattern);
  cases += expect_refused<LocalPattern>("SelfAttention", {}, local_fields, with_pattern);
  expect_cases(cases, 96);
}

// --- reversible ----------------------------------------------------------------------------------

struct Reversible {
  using Stack = ReversibleSequence<Half>;

  Workspace workspace{2};
  Workspace kept{1};
  Scratch memory{kept};
  Stack stack = make(D);
  Stack::Saved saved = stack.saved_in(memory, {B, T});
  Stack::Stored stored = stack.store_all();
  Halves<Half> x{half_of(rows, D), half_of(rows, D)};
  Matrix<float> dx1 = matrix(rows, D), dx2 = matrix(rows, D), narrow = matrix(rows, D - 1),
                short_ = matrix(rows - 1, D);
  HalfGradients<float> dx{rows_of(dx1), rows_of(dx2)};

  Reversible() {
    fill(stack);
    stack.forward(x, saved, stored, pass());
  }
  /// Attention and feed-forward, twice.
  /// @param last_width  of the last branch
  static Stack make(Index last_width) {
    std::vector<AnyBranch<Half>> branches;
    for (const Index width : {D, last_width}) {
      branches.push_back(SelfAttention<float>("a", attention_config()));
      branches.push_back(FeedForward<float>("f", {.width = width, .hidden_width = F}));
    }
    return Stack(std::move(branches));
  }
  static std::span<Bucket> buckets(const std::any& saved) {
    const auto* own = std::any_cast<SelfAttention<float>::Saved>(&saved);
    return own == nullptr ? std::span<Bucket>() : own->buckets;
  }
  Pass pass() { return {workspace, B, T}; }
  Bits bits() {
    Bits bits;
    add(add(bits, x.first), x.second).add(dx1).add(dx2).add(narrow).add(short_);
    for (const auto& branch : saved) bits.add(buckets(branch));
    for (const auto& input : stored) add(bits, *input);
    add_gradients(bits, stack);
    return bits;
  }
  /// What the lowest branches refuse, which are reversed last.
  void reverse(void (*change)(Stack::Saved&, Stack::Stored&)) {
    auto bad = saved;
    std::vector<Bucket> ids(buckets(bad[0]).begin(), buckets(bad[0]).end());
    std::any_cast<SelfAttention<float>::Saved>(&bad[0])->buckets = ids;
    auto bad_stored = stored;
    change(bad, bad_stored);
    stack.reverse(x, dx, bad, bad_stored, pass());
  }
};

const Refusal<Reversible> reversible[] = {
    {"ReversibleSequence", "branch", "-1", "must be in [0, 4)", [](auto& f) { (void)f.stack[-1]; }},
    {"ReversibleSequence", "branch", "4", "must be in [0, 4)", [](auto& f) { (void)f.stack[4]; }},
    {"ReversibleSequence", "layers", "1", "must have branches = 2 or none",
     [](auto& f) {
       const Reversible::Stack other({f.stack[0], f.stack[1]}, {0});
     }},
    {"ReversibleSequence::saved_in", "storage", "3", "must be 0 or branches = 4",
     [](auto& f) {
       f.stack.saved_in(f.memory, {B, T}, std::vector<BranchStorage>(3));
     }},
    {"ReversibleSequence::plan", "storage", "3", "must be 0 or branches = 4",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       f.stack.plan(plan, {B, T}, std::vector<BranchStorage>(3));
     }},
    {"ReversibleSequence::forward", "stored", "1", "must be 0 or branches = 4",
     [](auto& f) {
       Reversible::Stack::Stored one(1);
       f.stack.forward(f.x, f.saved, one, f.pass());
     }},
    {"FeedForward::forward", "columns of x", "6", "must equal width = 7",
     [](auto& f) { Reversible::make(D + 1).forward(f.x, f.pass()); }},
    {"FeedForward::prefill", "columns of x", "6", "must equal width = 7",
     [](auto& f) {
       const Reversible::Stack other = Reversible::make(D + 1);
       auto decoding = other.decoding({f.workspace, B, 1});
       other.prefill(f.x, decoding, f.pass());
     }},
    {"FeedForward::prefill", "rows of the kept weight", "7", "must equal width = 6",
     [](auto& f) {
       auto decoding = Reversible::make(D + 1).decoding({f.workspace, B, 1});
       f.stack.prefill(f.x, decoding, f.pass());
     }},
    {"FeedForward::decode", "columns of x", "6", "must equal width = 7",
     [](auto& f) {
       const Reversible::Stack other = Reversible::make(D + 1);
       const Pass pass{f.workspace, rows, 1};
       auto decoding = other.decoding(pass);
       other.decode(f.x, decoding, pass);
     }},
    {"ReversibleSequence::prefill", "decoding", "0", "must equal branches = 4",
     [](auto& f) {
       Reversible::Stack::Decoding none;
       f.stack.prefill(f.x, none, f.pass());
     }},
    {"ReversibleSequence::decode", "decoding", "0", "must equal branches = 4",
     [](auto& f) {
       Reversible::Stack::Decoding none;
       f.stack.decode(f.x, none, f.pass());
     }},
    {"ReversibleSequence::select", "decoding", "0", "must equal branches = 4",
     [](auto& f) {
       Reversible::Stack::Decoding none;
       f.stack.select(none, {});
     }},
    {"ReversibleSequence::clear", "decoding", "0", "must equal branches = 4",
     [](auto& f) {
       Reversible::Stack::Decoding none;
       f.stack.clear(none);
     }},
    {"ReversibleSequence::bytes", "decoding", "0", "must equal branches = 4",
     [](auto& f) { (void)f.stack.bytes({}); }},
    {"AnyBranch", "decoding", "that of another branch", "must be that of attention",
     [](auto& f) {
       auto decoding = f.stack.decoding({f.workspace, B, 1});
       std::swap(decoding[0], decoding[1]);
       f.stack.prefill(f.x, decoding, f.pass());
     }},
    {"AnyBranch", "saved", "that of another branch", "must be that of attention",
     [](auto& f) {
       f.reverse([](auto& saved, auto&) { saved[0] = FeedForward<float>::Saved{}; });
     }},
    {"ReversibleSequence::forward", "saved", "1", "must equal branches = 4",
     [](auto& f) {
       Reversible::Stack::Saved one(1);
       f.stack.forward(f.x, one, f.pass());
     }},
    {"ReversibleSequence::reverse", "saved", "3", "must equal branches = 4",
     [](auto& f) { f.reverse([](auto& saved, auto&) { saved.pop_back(); }); }},
    {"ReversibleSequence::reverse", "stored", "3", "must be 0 or branches = 4",
     [](auto& f) { f.reverse([](auto&, auto& stored) { stored.pop_back(); }); }},
    {"SelfAttention::reverse", "bucket 3", "4", "must be less than 4",
     [](auto& f) { f.reverse([](auto& saved, auto&) { Reversible::buckets(saved[0])[3] = 4; }); }},
    {"SelfAttention::reverse", "saved.buckets", "empty", "where halves are not exact",
     [](auto& f) { f.reverse([](auto& saved, auto&) { saved[0].reset(); }); }},
    {"ReversibleSequence::reverse", "rows of stored[0]", "0", "must equal those of y = 10",
     [](auto& f) { f.reverse([](auto&, auto& stored) { stored[0] = Half(); }); }},
    {"ReversibleSequence::reverse", "columns of stored[1]", "5", "must equal those of y = 6",
     [](auto& f) { f.reverse([](auto&, auto& stored) { stored[1] = half_of(rows, D - 1); }); }},
    {"FeedForward::reverse", "columns of dx", "5", "must equal width = 6",
     [](auto& f) {
       f.stack.reverse(f.x, {rows_of(f.narrow), f.dx.second}, f.saved, f.pass());
     }},
    {"FeedForward::reverse", "rows of dy", "9", "must equal B*T = 10",
     [](auto& f) {
       f.stack.reverse(f.x, {f.dx.first, rows_of(f.short_)}, f.saved, f.pass());
     }},
};

TEST(Entries, OfReversible) {
  Reversible fixture;
  expect_cases(expect_refused<Reversible>(fixture, reversible), 26);
  EXPECT_NO_THROW(
      fixture.stack.reverse(fixture.x, fixture.dx, fixture.saved, fixture.stored, fixture.pass()));
}

}  // namespace
}  // namespace reformer::test
