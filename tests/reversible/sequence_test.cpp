// SPDX-License-Identifier: MIT
/// The reversible stack with real branches: how well it goes back, its gradients, its random
/// numbers and its memory.
#include "reformer/reversible/sequence.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
using Stack = ReversibleSequence<ReversibleBlock<SelfAttention<Scalar>, FeedForward<Scalar>>>;

/// The half of the model, in floating point unless a test says otherwise.
template <typename Scalar>
using HalfOf = DynamicHalf<Scalar>;

struct Shape {
  Index batch = 2, length = 24;
  Index width = 8, heads = 2, head_width = 4, hidden = 12;
  double dropout = 0;
  Index first_pattern = 0;  ///< of the first layer
};

/// Layers of all patterns in turn, with weights that make branches as large as what they are added
/// to.
template <typename Scalar>
Stack<Scalar> make_stack(Index depth, const Shape& shape) {
  const std::vector<AttentionPattern> patterns = {LocalPattern{8, 1, 0, false},
                                                  LshPattern{8, 1, 0, 2, {4}}, ExactPattern{},
                                                  LshPattern{4, 1, 0, 1, {2, 2}}};
  std::vector<ReversibleBlock<SelfAttention<Scalar>, FeedForward<Scalar>>> blocks;
  for (Index i = 0; i < depth; ++i) {
    const std::string name = "layers." + std::to_string(i);
    blocks.emplace_back(
        SelfAttention<Scalar>(
            name + ".attention",
            {.width = shape.width,
             .num_heads = shape.heads,
             .head_width = shape.head_width,
             .pattern =
                 patterns[static_cast<std::size_t>(i + shape.first_pattern) % patterns.size()],
             .attention_dropout = shape.dropout,
             .dropout = shape.dropout}),
        FeedForward<Scalar>(name + ".feed_forward", {.width = shape.width,
                                                     .hidden_width = shape.hidden,
                                                     .activation = Activation::gelu,
                                                     .dropout = shape.dropout}));
  }
  Stack<Scalar> stack(std::move(blocks));
  randomize_parameters(stack, 9, 1 / std::sqrt(static_cast<double>(shape.width)));
  return stack;
}

/// Largest error of going through a stack and back, relative to the largest input.
template <typename Scalar>
double reversal_error(Index depth, double dropout) {
  const Shape shape{.batch = 2,
                    .length = 45,
                    .width = 32,
                    .heads = 2,
                    .head_width = 16,
                    .hidden = 64,
                    .dropout = dropout};
  auto stack = make_stack<Scalar>(depth, shape);
  Workspace workspace(2);
  const Pass pass{workspace, shape.batch, shape.length, {3}, true};
  const auto x1 = random_matrix<Scalar>(pass.rows(), shape.width, 1);
  const auto x2 = random_matrix<Scalar>(pass.rows(), shape.width, 2);
  Halves<HalfOf<Scalar>> x{half_of<HalfOf<Scalar>>(x1), half_of<HalfOf<Scalar>>(x2)};
  Scratch memory(workspace);
  auto saved = stack.saved_in(memory, {shape.batch, shape.length});
  stack.forward(x, saved, pass);
  EXPECT_GT((matrix_of(x.first) - x1).norm(), x1.norm() / 4) << "the branches do next to nothing";
  reset_gradients(stack);
  auto dy1 = random_matrix<Scalar>(pass.rows(), shape.width, 3);
  auto dy2 = random_matrix<Scalar>(pass.rows(), shape.width, 4);
  stack.reverse(x, {view(dy1), view(dy2)}, saved, pass);
  return static_cast<double>(std::max((matrix_of(x.first) - x1).cwiseAbs().maxCoeff(),
                                      (matrix_of(x.second) - x2).cwiseAbs().maxCoeff()) /
                             std::max(x1.cwiseAbs().maxCoeff(), x2.cwiseAbs().maxCoeff()));
}

template <typename Scalar>
void expect_reversal(const std::string& scalar, double dropout) {
  for (const Index depth : {1, 6, 24}) {
    const double error = reversal_error<Scalar>(depth, dropout);
    const std::string what = reformer::detail::join("reversal error, ", scalar, ", depth ", depth,
                                                    dropout > 0 ? ", dropout" : "", ": ", error);
    std::cout << what << '\n';
    // A layer adds the roundings of its two sums, and passes what the layers above have left on
    // through its branches. About 2 epsilon for each layer are measured.
    const double allowed =
        16 * static_cast<double>(depth) * double{std::numeric_limits<Scalar>::epsilon()};
    EXPECT_LE(error, allowed) << what;
  }
}

TEST(ReversibleSequence, ReversalRestoresTheInputInFloat) {
  expect_reversal<float>("float", 0);
  expect_reversal<float>("float", 0.1);
}

TEST(ReversibleSequence, ReversalRestoresTheInputInDouble) {
  expect_reversal<double>("double", 0);
  expect_reversal<double>("double", 0.1);
}

/// What a forward and a backward walk leave.
template <typename Scalar>
struct Walk {
  Matrix<Scalar> x1, x2;    ///< the input of the stack, as the backward walk gave it back
  Matrix<Scalar> dx1, dx2;  ///< its gradient
  std::vector<double> gradients;
  std::vector<bool> has_buckets;  ///< of each layer
};

template <typename Scalar>
struct WalkOptions {
  ResidualConfig residual = FixedResidual{};
  typename Stack<Scalar>::template Stored<HalfOf<Scalar>> stored = {};
  Index keep_context_every = 0;  ///< layers; 0: nowhere
  int threads = 1;               ///< of the backward walk
};

/// Inputs below 1, so that a half in fixed point reads them without rounding.
template <typename Scalar>
Matrix<Scalar> small_input(Index rows, Index columns, std::uint64_t seed) {
  return random_matrix<Scalar>(rows, columns, seed, 0.2).cwiseMin(Scalar(1)).cwiseMax(Scalar(-1));
}

template <typename Scalar>
Walk<Scalar> walk(Stack<Scalar>& stack, const Shape& shape, WalkOptions<Scalar> options) {
  Workspace workspace(1), reverse_workspace(options.threads);
  const Index rows = shape.batch * shape.length;
  std::vector<std::uint8_t> is_real(static_cast<std::size_t>(rows), 1);
  is_real[3] = is_real[static_cast<std::size_t>(rows - 1)] = 0;
  Pass pass{workspace, shape.batch, shape.length, {3}, true, is_real};
  Halves<HalfOf<Scalar>> x{HalfOf<Scalar>(rows, shape.width, options.residual),
                           HalfOf<Scalar>(rows, shape.width, options.residual)};
  const auto x1 = small_input<Scalar>(rows, shape.width, 1);
  const auto x2 = small_input<Scalar>(rows, shape.width, 2);
  for (Index i = 0; i < rows; ++i) {
    x.first.write(i, 0, shape.width, x1.row(i).data());
    x.second.write(i, 0, shape.width, x2.row(i).data());
  }
  const auto before = matrix_of(x.first);
  Scratch memory(workspace);
  typename Stack<Scalar>::Saved saved;
  for (Index i = 0; i < stack.size(); ++i) {
    const bool context = options.keep_context_every > 0 && i % options.keep_context_every == 0;
    const SavedPass sizes{shape.batch, shape.length, is_exact(x.first)};
    saved.push_back({std::as_const(stack)[i].f().saved_in(memory, sizes, context), {}});
  }
  stack.forward(x, saved, options.stored, pass);
  EXPECT_GT((matrix_of(x.first) - before).norm(), before.norm() / 4)
      << "branches do next to nothing";
  reset_gradients(stack);
  auto dy1 = random_matrix<Scalar>(rows, shape.width, 3);
  auto dy2 = random_matrix<Scalar>(rows, shape.width, 4);
  stack.reverse(x, {view(dy1), view(dy2)}, saved, options.stored,
                Pass{reverse_workspace, pass.batch, pass.length, pass.key, pass.training, is_real});
  Walk<Scalar> result{matrix_of(x.first), matrix_of(x.second), dy1, dy2, gradients_of(stack), {}};
  for (const auto& layer : saved) result.has_buckets.push_back(!layer.f.buckets.empty());
  return result;
}

/// The values of a matrix on the grid of halves in fixed point.
template <typename Scalar>
Matrix<Scalar> on_grid(const Matrix<Scalar>& x) {
  return matrix_of(half_of<FixedHalf<Scalar>>(x));
}

template <typename Scalar>
void expect_same(const Walk<Scalar>& actual, const Walk<Scalar>& expected,
                 const std::string& what) {
  EXPECT_TRUE(same_bits(actual.x1, expected.x1)) << what << ", x1";
  EXPECT_TRUE(same_bits(actual.x2, expected.x2)) << what << ", x2";
  EXPECT_TRUE(same_bits(actual.dx1, expected.dx1)) << what << ", dx1";
  EXPECT_TRUE(same_bits(actual.dx2, expected.dx2)) << what << ", dx2";
  EXPECT_TRUE(same_bits(actual.gradients, expected.gradients)) << what << ", parameters";
}

/// Reversal against stored activations, with no tolerance.
template <typename Scalar>
void expect_exact_reversal(Index depth, Index first_pattern = 0) {
  const Shape shape{.length = 21, .dropout = 0.1, .first_pattern = first_pattern};
  const std::string what = reformer::detail::join(sizeof(Scalar) * 8, " bits, depth ", depth,
                                                  ", first pattern ", first_pattern);
  auto stack = make_stack<Scalar>(depth, shape);
  const Walk<Scalar> reversed = walk<Scalar>(stack, shape, {.threads = 3});
  const Index rows = shape.batch * shape.length;
  EXPECT_TRUE(same_bits(reversed.x1, on_grid(small_input<Scalar>(rows, shape.width, 1)))) << what;
  EXPECT_TRUE(same_bits(reversed.x2, on_grid(small_input<Scalar>(rows, shape.width, 2)))) << what;
  for (const bool has_buckets : reversed.has_buckets) EXPECT_FALSE(has_buckets) << what;
  expect_same(walk<Scalar>(stack, shape, {.stored = stack.template store_all<HalfOf<Scalar>>()}),
              reversed, what + ", stored activations");
}

TEST(ReversibleSequence, InFixedPointReversalIsExact) {
  for (const Index pattern : {0, 1, 2, 3}) {
    expect_exact_reversal<float>(1, pattern);
    expect_exact_reversal<double>(1, pattern);
  }
  for (const Index depth : {12, 64, 256}) {
    expect_exact_reversal<float>(depth);
    expect_exact_reversal<double>(depth);
  }
}

TEST(ReversibleSequence, WhatIsStoredChangesNoBitInFixedPoint) {
  const Shape shape{.length = 21, .dropout = 0.1};
  auto stack = make_stack<float>(8, shape);
  const Walk<float> expected = walk<float>(stack, shape, {});
  WalkOptions<float> some{.keep_context_every = 3, .threads = 2};
  some.stored.resize(8);
  for (std::size_t i = 0; i < 8; ++i) {
    if (i % 2 == 0) some.stored[i].first.emplace();
    if (i % 3 == 1) some.stored[i].second.emplace();
  }
  const Walk<float> actual = walk<float>(stack, shape, some);
  expect_same(actual, expected, "some inputs and contexts");
  // Layers 1, 3, 5, 7 hash; the backward walk of 3 has the context and must have the order.
  EXPECT_EQ(actual.has_buckets,
            (std::vector<bool>{false, false, false, true, false, false, false, false}));
}

TEST(ReversibleSequence, StoredInputsComeBackWithoutRounding) {
  const Shape shape{.length = 21, .dropout = 0.1};
  const Index rows = shape.batch * shape.length;
  auto stack = make_stack<float>(24, shape);
  const auto all = stack.store_all<HalfOf<float>>();
  const auto stored = walk<float>(stack, shape, {.residual = FloatResidual{}, .stored = all});
  EXPECT_TRUE(same_bits(stored.x1, small_input<float>(rows, shape.width, 1)));
  EXPECT_TRUE(same_bits(stored.x2, small_input<float>(rows, shape.width, 2)));
  // What the context was computed from is there again, so computing it again gives the same.
  expect_same(walk<float>(stack, shape,
                          {.residual = FloatResidual{}, .stored = all, .keep_context_every = 1}),
              stored, "contexts");
  EXPECT_FALSE(same_bits(walk<float>(stack, shape, {.residual = FloatResidual{}}).x1, stored.x1))
      << "reversal in floating point has become exact: then this test shows nothing";
}

TEST(ReversibleSequence, SaysWhereAHalfLeavesItsRange) {
  const Shape shape;
  auto stack = make_stack<float>(6, shape);
  stack[4].g().for_each_parameter([](Parameter<float>& p) {
    if (p.name.ends_with("output.bias")) p.value(0, 5) = 3e3F;
  });
  Workspace workspace(3);
  const Pass pass{workspace, shape.batch, shape.length};
  const Index rows = pass.rows();
  Halves<HalfOf<float>> x{HalfOf<float>(rows, shape.width, FixedResidual{}),
                          HalfOf<float>(rows, shape.width, FixedResidual{})};
  const std::string message = message_of<std::overflow_error>([&] { stack.forward(x, pass); });
  EXPECT_TRUE(
      contains(message, "layer 4, second half (feed-forward), sequence 0, token 0, column 5"));
  EXPECT_TRUE(contains(message, " is outside [-2048, 2048)"));
}

TEST(ReversibleSequence, StoredInputsServeSeveralStepsWithHalvesInScratch) {
  const Shape shape;
  auto stack = make_stack<float>(1, shape);
  reset_gradients(stack);
  Workspace workspace(1);
  const Pass pass{workspace, shape.batch, shape.length, {3}};
  using Half = HalfOf<float>;
  auto stored = stack.store_all<Half>();
  for (std::uint64_t step = 0; step < 3; ++step) {
    const auto x1 = random_matrix<float>(pass.rows(), shape.width, 10 + step);
    const auto x2 = random_matrix<float>(pass.rows(), shape.width, 20 + step);
    Scratch memory(workspace);
    Halves<Half> x{Half(memory, pass.rows(), shape.width), Half(memory, pass.rows(), shape.width)};
    for (Index i = 0; i < pass.rows(); ++i) {
      x.first.write(i, 0, shape.width, x1.row(i).data());
      x.second.write(i, 0, shape.width, x2.row(i).data());
    }
    auto saved = stack.saved_in(memory, {shape.batch, shape.length});
    stack.forward(x, saved, stored, pass);
    auto dy1 = random_matrix<float>(pass.rows(), shape.width, 3);
    auto dy2 = random_matrix<float>(pass.rows(), shape.width, 4);
    stack.reverse(x, {view(dy1), view(dy2)}, saved, stored, pass);
    EXPECT_TRUE(same_bits(matrix_of(x.first), x1)) << "step " << step;
    EXPECT_TRUE(same_bits(matrix_of(x.second), x2)) << "step " << step;
  }
}

TEST(ReversibleSequence, GradientsByReversalAreTheGradients) {
  for (const double dropout : {0.0, 0.15}) {
    Shape shape;
    shape.length = 13;
    shape.dropout = dropout;
    const std::string operation = dropout > 0 ? "reversible stack, dropout" : "reversible stack";
    auto stack = make_stack<double>(4, shape);
    Workspace workspace(1);
    const Pass pass{workspace, shape.batch, shape.length, {3}, true};
    auto x1 = random_matrix<double>(pass.rows(), shape.width, 1);
    auto x2 = random_matrix<double>(pass.rows(), shape.width, 2);
    const auto dy1 = random_matrix<double>(pass.rows(), shape.width, 3);
    const auto dy2 = random_matrix<double>(pass.rows(), shape.width, 4);
    using Half = HalfOf<double>;
    Scratch memory(workspace);
    auto saved = stack.saved_in(memory, {pass.batch, pass.length});
    const auto forward = [&] {
      Halves<Half> x{half_of<Half>(x1), half_of<Half>(x2)};
      stack.forward(x, saved, pass);
      return x;
    };
    const auto buckets_now = [&] {
      std::vector<Bucket> all;
      for (const auto& layer : saved) {
        all.insert(all.end(), layer.f.buckets.begin(), layer.f.buckets.end());
      }
      return all;
    };
    auto y = forward();
    const auto buckets = buckets_now();
    ASSERT_FALSE(buckets.empty());
    Matrix<double> dx1 = dy1, dx2 = dy2;
    reset_gradients(stack);
    stack.reverse(y, {view(dx1), view(dx2)}, saved, pass);

    bool flipped = false;
    const auto objective = [&] {
      const auto top = forward();
      flipped = flipped || buckets_now() != buckets;
      return weighted_sum(dy1, matrix_of(top.first)) + weighted_sum(dy2, matrix_of(top.second));
    };
    const GradientCheckOptions options{.step = 0x1p-15, .most_elements = 12};
    check_gradient(operation, "x1", objective, x1, dx1, options);
    check_gradient(operation, "x2", objective, x2, dx2, options);
    check_parameter_gradients(operation, stack, objective, options);
    EXPECT_FALSE(flipped) << "a hash flipped under finite differences: choose other data";
  }
}

/// Adds a constant, and writes down the keys it is given.
struct KeyRecorder {
  using Scalar = float;
  struct Saved {};
  std::vector<std::pair<char, std::uint32_t>>* calls;

  void forward(const FloatHalf<float>&, FloatHalf<float>& y, Saved&, const Pass& pass) const {
    calls->emplace_back('f', pass.key.layer);
    const float one = 1;
    y.add(0, 0, 1, &one);
  }
  void reverse(const FloatHalf<float>&, FloatHalf<float>& y, const MatrixView<const float>&,
               const MatrixView<float>&, Saved&, const Pass& pass) {
    calls->emplace_back('r', pass.key.layer);
    const float one = 1;
    y.subtract(0, 0, 1, &one);
  }
};

TEST(ReversibleSequence, GivesEveryBranchAStreamOfItsOwn) {
  std::vector<std::pair<char, std::uint32_t>> calls;
  constexpr Index depth = 5;
  using Block = ReversibleBlock<KeyRecorder, KeyRecorder>;
  ReversibleSequence<Block> stack(
      std::vector<Block>(depth, Block(KeyRecorder{&calls}, KeyRecorder{&calls})));
  Workspace workspace(1);
  const Pass pass{workspace, 1, 1, {3, 4, 0}};
  Halves<FloatHalf<float>> x{FloatHalf<float>(1, 1), FloatHalf<float>(1, 1)};
  ReversibleSequence<Block>::Saved saved(depth);
  std::vector<Index> after;
  stack.forward(x, pass, [&](Index i) { after.push_back(i); });
  EXPECT_EQ(after, (std::vector<Index>{0, 1, 2, 3, 4}));
  EXPECT_EQ(matrix_of(x.first)(0, 0), depth);
  Matrix<float> dy1 = Matrix<float>::Zero(1, 1), dy2 = dy1;
  stack.reverse(x, {view(dy1), view(dy2)}, saved, pass);
  EXPECT_EQ(matrix_of(x.first)(0, 0), 0);

  ASSERT_EQ(calls.size(), 4u * depth);
  std::set<std::uint32_t> keys;
  for (std::size_t i = 0; i < 2 * depth; ++i) {
    EXPECT_EQ(calls[i].first, 'f');
    EXPECT_EQ(calls[calls.size() - 1 - i].first, 'r');
    EXPECT_EQ(calls[calls.size() - 1 - i].second, calls[i].second) << "call " << i;
    EXPECT_TRUE(keys.insert(calls[i].second).second)
        << "two branches draw from stream " << calls[i].second;
  }
}

TEST(ReversibleSequence, UsesScratchThatDoesNotGrowWithDepth) {
  std::vector<std::size_t> peaks;
  for (const Index depth : {4, 8, 24}) {
    const Shape shape{.length = 200, .dropout = 0.1};
    auto stack = make_stack<float>(depth, shape);
    Workspace workspace(2);
    const Pass pass{workspace, shape.batch, shape.length, {3}, true};
    using Half = HalfOf<float>;
    Halves<Half> x{half_of<Half>(random_matrix<float>(pass.rows(), shape.width, 1)),
                   half_of<Half>(random_matrix<float>(pass.rows(), shape.width, 2))};
    Workspace other(1);
    Scratch memory(other);
    auto saved = stack.saved_in(memory, {shape.batch, shape.length});
    reset_gradients(stack);
    auto dy1 = random_matrix<float>(pass.rows(), shape.width, 3);
    auto dy2 = random_matrix<float>(pass.rows(), shape.width, 4);
    stack.forward(x, saved, pass);
    stack.reverse(x, {view(dy1), view(dy2)}, saved, pass);
    EXPECT_EQ(workspace.bytes_in_use(), 0u);
    peaks.push_back(workspace.peak_bytes());
  }
  EXPECT_GT(peaks[0], 0u);
  EXPECT_EQ(peaks[1], peaks[0]);
  EXPECT_EQ(peaks[2], peaks[0]);
}

TEST(ReversibleSequence, OfNoBlocksIsTheIdentity) {
  Stack<float> stack;
  Workspace workspace(1);
  const Pass pass{workspace, 1, 3};
  const auto x1 = random_matrix<float>(3, 2, 1), x2 = random_matrix<float>(3, 2, 2);
  using Half = HalfOf<float>;
  Halves<Half> x{half_of<Half>(x1), half_of<Half>(x2)};
  stack.forward(x, pass);
  EXPECT_TRUE(same_bits(matrix_of(x.first), x1));
  EXPECT_TRUE(same_bits(matrix_of(x.second), x2));
}

TEST(ReversibleSequence, RejectsWhatAnotherStackSaved) {
  auto stack = make_stack<float>(2, {});
  Workspace workspace(1);
  const Pass pass{workspace, 2, 24};
  using Half = HalfOf<float>;
  Halves<Half> x{Half(48, 8), Half(48, 8)};
  Matrix<float> dy1 = Matrix<float>::Zero(48, 8), dy2 = dy1;
  const HalfGradients<float> dy{view(dy1), view(dy2)};
  Stack<float>::Saved saved(3);
  EXPECT_TRUE(contains(message_of([&] { stack.reverse(x, dy, saved, pass); }),
                       "reverse: saved is 3, must equal blocks = 2"));
  EXPECT_TRUE(contains(message_of([&] { stack.forward(x, saved, pass); }),
                       "forward: saved is 3, must equal blocks = 2"));
  saved.resize(2);
  Stack<float>::Stored<Half> stored(1);
  EXPECT_TRUE(contains(message_of([&] { stack.forward(x, saved, stored, pass); }),
                       "forward: stored is 1, must be 0 or blocks = 2"));
  EXPECT_TRUE(contains(message_of([&] { stack.reverse(x, dy, saved, stored, pass); }),
                       "reverse: stored is 1, must be 0 or blocks = 2"));
}

}  // namespace
}  // namespace reformer::test
