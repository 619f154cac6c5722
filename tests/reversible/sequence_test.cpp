// SPDX-License-Identifier: MIT
/// The reversible stack with real branches: how well it goes back, its gradients, its random
/// numbers and its memory.
#include "reformer/reversible/sequence.hpp"

#include <gtest/gtest.h>

#include <any>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"
#include "support/shift_branch.hpp"

namespace reformer::test {
namespace {

/// The half of the model, in floating point unless a test says otherwise.
template <typename Scalar>
using HalfOf = DynamicHalf<Scalar>;

template <typename Scalar>
using Stack = ReversibleSequence<HalfOf<Scalar>>;

struct Shape {
  Index batch = 2, length = 24;
  Index width = 8, heads = 2, head_width = 4, hidden = 12;
  double dropout = 0;
  Index first_pattern = 0;  ///< of the first layer
  /// Branches a layer: attention; with feed-forward; with another type of branch between them.
  int branches = 2;
};

/// Layers of all patterns in turn, with weights that make branches as large as what they are added
/// to.
template <typename Scalar>
Stack<Scalar> make_stack(Index depth, const Shape& shape) {
  using Attention = SelfAttention<Scalar>;
  const std::vector<LayerPattern> patterns = {LocalPattern{8, 1, 0, false},
                                              LshPattern{8, 1, 0, 2, {4}},
                                              ExactPattern{},
                                              LshPattern{4, 1, 0, 1, {2, 2}},
                                              {LocalPattern{4}, LshPattern{4, 1, 0, 1, {4}}}};
  std::vector<AnyBranch<HalfOf<Scalar>>> branches;
  std::vector<Index> layers;
  for (Index i = 0; i < depth; ++i) {
    const std::string name = "layers." + std::to_string(i);
    const auto pattern = static_cast<std::size_t>(i + shape.first_pattern) % patterns.size();
    branches.push_back(Attention(name + ".attention", {.width = shape.width,
                                                       .num_heads = shape.heads,
                                                       .head_width = shape.head_width,
                                                       .pattern = patterns[pattern],
                                                       .attention_dropout = shape.dropout,
                                                       .dropout = shape.dropout}));
    if (shape.branches > 2) branches.push_back(Shift<Scalar>(name + ".shift", shape.width));
    if (shape.branches > 1) {
      branches.push_back(
          FeedForward<Scalar>(name + ".feed_forward", {.width = shape.width,
                                                       .hidden_width = shape.hidden,
                                                       .activation = Activation::gelu,
                                                       .dropout = shape.dropout}));
    }
    layers.resize(branches.size(), i);
  }
  Stack<Scalar> stack(std::move(branches), std::move(layers));
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
  stack.reverse(x, {rows_of(dy1), rows_of(dy2)}, saved, pass);
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
  std::vector<bool> has_buckets;  ///< of each attention
};

template <typename Scalar>
struct WalkOptions {
  ResidualConfig residual = FixedResidual{};
  typename Stack<Scalar>::Stored stored = {};
  std::vector<BranchStorage> contexts = {};  ///< of which contexts are kept
  int threads = 1;                           ///< of the backward walk
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
  auto saved = std::as_const(stack).saved_in(memory, {shape.batch, shape.length, is_exact(x.first)},
                                             options.contexts);
  stack.forward(x, saved, options.stored, pass);
  EXPECT_GT((matrix_of(x.first) - before).norm(), before.norm() / 4)
      << "branches do next to nothing";
  reset_gradients(stack);
  auto dy1 = random_matrix<Scalar>(rows, shape.width, 3);
  auto dy2 = random_matrix<Scalar>(rows, shape.width, 4);
  stack.reverse(x, {rows_of(dy1), rows_of(dy2)}, saved, options.stored,
                Pass{reverse_workspace, pass.batch, pass.length, pass.key, pass.training, is_real});
  Walk<Scalar> result{matrix_of(x.first), matrix_of(x.second), dy1, dy2, gradients_of(stack), {}};
  for (const auto& branch : saved) {
    const auto* own = std::any_cast<typename SelfAttention<Scalar>::Saved>(&branch);
    if (own != nullptr) result.has_buckets.push_back(!own->buckets.empty());
  }
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
void expect_exact_reversal(Index depth, Index first_pattern = 0, int branches = 2) {
  const Shape shape{
      .length = 21, .dropout = 0.1, .first_pattern = first_pattern, .branches = branches};
  const std::string what =
      reformer::detail::join(sizeof(Scalar) * 8, " bits, depth ", depth, ", first pattern ",
                             first_pattern, ", ", branches, " branches a layer");
  auto stack = make_stack<Scalar>(depth, shape);
  const Walk<Scalar> reversed = walk<Scalar>(stack, shape, {.threads = 3});
  const Index rows = shape.batch * shape.length;
  EXPECT_TRUE(same_bits(reversed.x1, on_grid(small_input<Scalar>(rows, shape.width, 1)))) << what;
  EXPECT_TRUE(same_bits(reversed.x2, on_grid(small_input<Scalar>(rows, shape.width, 2)))) << what;
  for (const bool has_buckets : reversed.has_buckets) EXPECT_FALSE(has_buckets) << what;
  expect_same(walk<Scalar>(stack, shape, {.stored = stack.store_all()}), reversed,
              what + ", stored activations");
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
  for (const int branches : {1, 3}) {
    expect_exact_reversal<float>(64, 0, branches);
    expect_exact_reversal<double>(64, 0, branches);
  }
}

TEST(ReversibleSequence, WhatIsStoredChangesNoBitInFixedPoint) {
  for (const int branches : {1, 2, 3}) {
    const Shape shape{.length = 21, .dropout = 0.1, .branches = branches};
    auto stack = make_stack<float>(8, shape);
    const Walk<float> expected = walk<float>(stack, shape, {});
    const auto size = static_cast<std::size_t>(stack.size()),
               each = static_cast<std::size_t>(branches);
    WalkOptions<float> some{.threads = 2};
    some.stored.resize(size);
    some.contexts.resize(size);
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t layer = i / each;
      if (i % each == 0 ? layer % 2 == 0 : (layer + i % each) % 3 == 2) some.stored[i].emplace();
      some.contexts[i].context = layer % 3 == 0;
    }
    const Walk<float> actual = walk<float>(stack, shape, some);
    expect_same(actual, expected,
                reformer::detail::join("some inputs and contexts, ", branches, " branches"));
    // Layers 1, 3, 4, 6 hash; the backward walks of 3 and 6 have the context and must have the
    // order.
    EXPECT_EQ(actual.has_buckets,
              (std::vector<bool>{false, false, false, true, false, false, true, false}));
  }
}

TEST(ReversibleSequence, StoredInputsComeBackWithoutRounding) {
  const Shape shape{.length = 21, .dropout = 0.1};
  const Index rows = shape.batch * shape.length;
  auto stack = make_stack<float>(24, shape);
  const auto all = stack.store_all();
  const auto stored = walk<float>(stack, shape, {.residual = FloatResidual{}, .stored = all});
  EXPECT_TRUE(same_bits(stored.x1, small_input<float>(rows, shape.width, 1)));
  EXPECT_TRUE(same_bits(stored.x2, small_input<float>(rows, shape.width, 2)));
  // What the context was computed from is there again, so computing it again gives the same.
  expect_same(walk<float>(stack, shape,
                          {.residual = FloatResidual{},
                           .stored = all,
                           .contexts = std::vector<BranchStorage>(48, {false, true})}),
              stored, "contexts");
  EXPECT_FALSE(same_bits(walk<float>(stack, shape, {.residual = FloatResidual{}}).x1, stored.x1))
      << "reversal in floating point has become exact: then this test shows nothing";
}

TEST(ReversibleSequence, SaysWhereAHalfLeavesItsRange) {
  Workspace workspace(3);
  const auto message = [&](int branches, const std::string& name) {
    const Shape shape{.branches = branches};
    auto stack = make_stack<float>(6, shape);
    stack.for_each_parameter([&](Parameter<float>& p) {
      if (p.name == name) p.value(0, 5) = 3e3F;
    });
    const Pass pass{workspace, shape.batch, shape.length};
    Halves<HalfOf<float>> x{HalfOf<float>(pass.rows(), shape.width, FixedResidual{}),
                            HalfOf<float>(pass.rows(), shape.width, FixedResidual{})};
    for (Index i = 0; i < pass.rows(); ++i) {
      const std::vector<float> ones(8, 1.0F);
      x.first.write(i, 0, shape.width, ones.data());
      x.second.write(i, 0, shape.width, ones.data());
    }
    return message_of<std::overflow_error>([&] { stack.forward(x, pass); });
  };
  const std::string bias = message(2, "layers.4.feed_forward.output.bias");
  EXPECT_TRUE(contains(bias, "layer 4, second half (feed-forward), sequence 0, token 0, column 5"));
  EXPECT_TRUE(contains(bias, " is outside [-2048, 2048)"));
  // Three branches a layer take turns through the whole stack.
  EXPECT_TRUE(contains(message(3, "layers.2.shift.now"), "layer 2, second half (shift), "));
  EXPECT_TRUE(contains(message(3, "layers.3.shift.now"), "layer 3, first half (shift), "));

  ReversibleSequence<HalfOf<float>> unnamed({Shift<float>("a", 1), Shift<float>("b", 1)});
  unnamed[1].for_each_parameter([](Parameter<float>& p) { p.value.setConstant(1e9F); });
  Halves<HalfOf<float>> x{HalfOf<float>(1, 1, FixedResidual{}),
                          HalfOf<float>(1, 1, FixedResidual{})};
  const float one = 1;
  x.first.write(0, 0, 1, &one);
  EXPECT_TRUE(contains(message_of<std::overflow_error>([&] {
                         unnamed.forward(x, Pass{workspace, 1, 1});
                       }),
                       "overflow in branch 1, second half (shift), "));
}

TEST(ReversibleSequence, StoredInputsServeSeveralStepsWithHalvesInScratch) {
  const Shape shape;
  auto stack = make_stack<float>(1, shape);
  reset_gradients(stack);
  Workspace workspace(1);
  const Pass pass{workspace, shape.batch, shape.length, {3}};
  using Half = HalfOf<float>;
  auto stored = stack.store_all();
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
    stack.reverse(x, {rows_of(dy1), rows_of(dy2)}, saved, stored, pass);
    EXPECT_TRUE(same_bits(matrix_of(x.first), x1)) << "step " << step;
    EXPECT_TRUE(same_bits(matrix_of(x.second), x2)) << "step " << step;
  }
}

TEST(ReversibleSequence, GradientsByReversalAreTheGradients) {
  for (const auto& [dropout, branches] :
       {std::pair(0.0, 2), std::pair(0.15, 2), std::pair(0.15, 3), std::pair(0.0, 1)}) {
    const Shape shape{.length = 13, .dropout = dropout, .branches = branches};
    const std::string operation =
        reformer::detail::join("stack of ", branches, " branches a layer, dropout ", dropout);
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
      for (const auto& branch : saved) {
        const auto* own = std::any_cast<SelfAttention<double>::Saved>(&branch);
        if (own != nullptr) all.insert(all.end(), own->buckets.begin(), own->buckets.end());
      }
      return all;
    };
    auto y = forward();
    const auto buckets = buckets_now();
    ASSERT_FALSE(buckets.empty());
    Matrix<double> dx1 = dy1, dx2 = dy2;
    reset_gradients(stack);
    stack.reverse(y, {rows_of(dx1), rows_of(dx2)}, saved, pass);

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
  static constexpr std::string_view label = "recorder";
  struct Saved {};
  std::vector<std::pair<char, std::uint32_t>>* calls;

  void forward(const FloatingHalf<float>&, FloatingHalf<float>& y, Saved&, const Pass& pass) const {
    calls->emplace_back('f', pass.key.layer);
    const float one = 1;
    y.add(0, 0, 1, &one);
  }
  void reverse(const FloatingHalf<float>&, FloatingHalf<float>& y, const MatrixView<const float>&,
               const MatrixView<float>&, Saved&, const Pass& pass) {
    calls->emplace_back('r', pass.key.layer);
    const float one = 1;
    y.subtract(0, 0, 1, &one);
  }
  void plan(Workspace&, const SavedPass&, const BranchStorage&) const {}
  template <typename F>
  void for_each_parameter(F&&) const {}
};

TEST(ReversibleSequence, GivesEveryBranchAStreamOfItsOwn) {
  std::vector<std::pair<char, std::uint32_t>> calls;
  constexpr Index depth = 5;
  using Half = FloatingHalf<float>;
  ReversibleSequence<Half> stack(std::vector<AnyBranch<Half>>(depth, KeyRecorder{&calls}));
  Workspace workspace(1);
  const Pass pass{workspace, 1, 1, {3, 4, 0}};
  Halves<Half> x{Half(1, 1), Half(1, 1)};
  ReversibleSequence<Half>::Saved saved(depth);
  std::vector<Index> after;
  stack.forward(x, pass, [&](Index i) { after.push_back(i); });
  EXPECT_EQ(after, (std::vector<Index>{0, 1, 2, 3, 4}));
  EXPECT_EQ(matrix_of(x.first)(0, 0), 3);
  EXPECT_EQ(matrix_of(x.second)(0, 0), 2);
  Matrix<float> dy1 = Matrix<float>::Zero(1, 1), dy2 = dy1;
  stack.reverse(x, {rows_of(dy1), rows_of(dy2)}, saved, pass);
  EXPECT_EQ(matrix_of(x.first)(0, 0), 0);
  EXPECT_EQ(matrix_of(x.second)(0, 0), 0);

  ASSERT_EQ(calls.size(), 2u * depth);
  std::set<std::uint32_t> keys;
  for (std::size_t i = 0; i < depth; ++i) {
    EXPECT_EQ(calls[i].first, 'f');
    EXPECT_EQ(calls[calls.size() - 1 - i].first, 'r');
    EXPECT_EQ(calls[calls.size() - 1 - i].second, calls[i].second) << "call " << i;
    EXPECT_TRUE(keys.insert(calls[i].second).second)
        << "two branches draw from stream " << calls[i].second;
  }
}

TEST(ReversibleSequence, UsesScratchThatDoesNotGrowWithDepth) {
  for (const int branches : {1, 2, 3}) {
    std::vector<std::size_t> peaks;
    for (const Index depth : {4, 8, 24}) {
      const Shape shape{.length = 200, .dropout = 0.1, .branches = branches};
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
      stack.reverse(x, {rows_of(dy1), rows_of(dy2)}, saved, pass);
      EXPECT_EQ(workspace.bytes_in_use(), 0u);
      peaks.push_back(workspace.peak_bytes());
      Workspace plan = Workspace::plan(2);
      stack.plan(plan, {shape.batch, shape.length});
      EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes()) << branches << " branches a layer";
    }
    EXPECT_GT(peaks[0], 0u);
    EXPECT_EQ(peaks[1], peaks[0]);
    EXPECT_EQ(peaks[2], peaks[0]);
  }
}

/// Tokens read one after another, some of them at once as a prompt, against all of them at once.
TEST(ReversibleSequence, DecodesWhatTheForwardWalkGives) {
  for (const int branches : {1, 3}) {
    const Shape shape{.batch = 2, .length = 20, .branches = branches};
    std::vector<AnyBranch<HalfOf<float>>> kept;
    const LshPattern far{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks};
    for (const auto& pattern :
         std::vector<LayerPattern>{LocalPattern{8}, ExactPattern{}, far, {LocalPattern{8}, far}}) {
      kept.push_back(SelfAttention<float>("attention", {.width = shape.width,
                                                        .num_heads = shape.heads,
                                                        .head_width = shape.head_width,
                                                        .pattern = pattern}));
      if (branches == 1) continue;
      kept.push_back(Shift<float>("shift", shape.width));
      kept.push_back(FeedForward<float>("f", {.width = shape.width, .hidden_width = 12}));
    }
    Stack<float> stack(kept);
    randomize_parameters(stack, 9, 0.4);
    Workspace workspace(2);
    const Index rows = shape.batch * shape.length, prompt = 7;
    const auto x1 = random_matrix<float>(rows, shape.width, 1);
    const auto x2 = random_matrix<float>(rows, shape.width, 2);
    Halves<HalfOf<float>> all{half_of<HalfOf<float>>(x1), half_of<HalfOf<float>>(x2)};
    stack.forward(all, {workspace, shape.batch, shape.length, {3}});
    const Matrix<float> y1 = matrix_of(all.first), y2 = matrix_of(all.second);

    auto states = stack.decoding({workspace, shape.batch, 1, {3}});
    for (Index first = 0, count = prompt; first < shape.length; first += count, count = 1) {
      const auto part = [&](const Matrix<float>& x) {
        Matrix<float> rows_of_part(shape.batch * count, shape.width);
        for (Index b = 0; b < shape.batch; ++b) {
          rows_of_part.middleRows(b * count, count) = x.middleRows(b * shape.length + first, count);
        }
        return rows_of_part;
      };
      Halves<HalfOf<float>> x{half_of<HalfOf<float>>(part(x1)), half_of<HalfOf<float>>(part(x2))};
      const Pass pass{workspace, shape.batch, count, {3}};
      first == 0 ? stack.prefill(x, states, pass) : stack.decode(x, states, pass);
      EXPECT_TRUE(same_bits(matrix_of(x.first), part(y1))) << branches << ", token " << first;
      EXPECT_TRUE(same_bits(matrix_of(x.second), part(y2))) << branches << ", token " << first;
    }
    EXPECT_GT(stack.bytes(states), 0u);
  }
}

TEST(ReversibleSequence, OfNoBranchesIsTheIdentity) {
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
  const HalfGradients<float> dy{rows_of(dy1), rows_of(dy2)};
  Stack<float>::Saved saved(5);
  EXPECT_TRUE(contains(message_of([&] { stack.reverse(x, dy, saved, pass); }),
                       "reverse: saved is 5, must equal branches = 4"));
  EXPECT_TRUE(contains(message_of([&] { stack.forward(x, saved, pass); }),
                       "forward: saved is 5, must equal branches = 4"));
  saved.resize(4);
  Stack<float>::Stored stored(1);
  EXPECT_TRUE(contains(message_of([&] { stack.forward(x, saved, stored, pass); }),
                       "forward: stored is 1, must be 0 or branches = 4"));
  EXPECT_TRUE(contains(message_of([&] { stack.reverse(x, dy, saved, stored, pass); }),
                       "reverse: stored is 1, must be 0 or branches = 4"));
}

}  // namespace
}  // namespace reformer::test
