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

struct Shape {
  Index batch = 2, length = 24;
  Index width = 8, heads = 2, head_width = 4, hidden = 12;
  double dropout = 0;
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
        SelfAttention<Scalar>(name + ".attention",
                              {.width = shape.width,
                               .num_heads = shape.heads,
                               .head_width = shape.head_width,
                               .pattern = patterns[static_cast<std::size_t>(i) % patterns.size()],
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

/// A residual half in fixed point, as a user may add one: sums of multiples of 2^-20 are exact, so
/// a branch that is recomputed bit for bit is undone bit for bit.
class FixedHalf {
 public:
  using Scalar = float;
  FixedHalf(Index rows, Index columns) : values_(Matrix<std::int32_t>::Zero(rows, columns)) {}
  Index rows() const { return values_.rows(); }
  Index columns() const { return values_.cols(); }
  void read(Index row, Index column, Index count, float* out) const {
    for (Index j = 0; j < count; ++j) {
      out[j] = static_cast<float>(values_(row, column + j)) * 0x1p-20F;
    }
  }
  void add(Index row, Index column, Index count, const float* f) {
    for (Index j = 0; j < count; ++j) values_(row, column + j) += on_grid(f[j]);
  }
  void subtract(Index row, Index column, Index count, const float* f) {
    for (Index j = 0; j < count; ++j) values_(row, column + j) -= on_grid(f[j]);
  }
  void write(Index row, Index column, Index count, const float* x) {
    for (Index j = 0; j < count; ++j) values_(row, column + j) = on_grid(x[j]);
  }
  const Matrix<std::int32_t>& values() const { return values_; }

 private:
  static std::int32_t on_grid(float x) {
    return static_cast<std::int32_t>(std::lround(x * 0x1p20F));
  }
  Matrix<std::int32_t> values_;
};

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
  Halves<FloatHalf<Scalar>> x{half_of<FloatHalf<Scalar>>(x1), half_of<FloatHalf<Scalar>>(x2)};
  typename Stack<Scalar>::Saved saved;
  stack.forward(x, saved, pass);
  EXPECT_GT((matrix_of(x.first) - x1).norm(), x1.norm() / 4) << "the branches do next to nothing";
  reset_gradients(stack);
  HalfGradients<Scalar> dy{random_matrix<Scalar>(pass.rows(), shape.width, 3),
                           random_matrix<Scalar>(pass.rows(), shape.width, 4)};
  stack.reverse(x, dy, saved, pass);
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

TEST(ReversibleSequence, ReversalIsExactWhereSumsAre) {
  const Shape shape{.batch = 2,
                    .length = 45,
                    .width = 32,
                    .heads = 2,
                    .head_width = 16,
                    .hidden = 64,
                    .dropout = 0.1};
  auto stack = make_stack<float>(24, shape);
  Workspace forward_workspace(1), reverse_workspace(3);
  Pass pass{forward_workspace, shape.batch, shape.length, {3}, true};
  Halves<FixedHalf> x{half_of<FixedHalf>(random_matrix<float>(pass.rows(), shape.width, 1)),
                      half_of<FixedHalf>(random_matrix<float>(pass.rows(), shape.width, 2))};
  const Matrix<std::int32_t> x1 = x.first.values(), x2 = x.second.values();
  Stack<float>::Saved saved;
  stack.forward(x, saved, pass);
  EXPECT_NE(x.first.values(), x1);
  reset_gradients(stack);
  HalfGradients<float> dy{random_matrix<float>(pass.rows(), shape.width, 3),
                          random_matrix<float>(pass.rows(), shape.width, 4)};
  stack.reverse(x, dy, saved,
                Pass{reverse_workspace, pass.batch, pass.length, pass.key, pass.training});
  EXPECT_EQ(x.first.values(), x1);
  EXPECT_EQ(x.second.values(), x2);
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
    using Half = FloatHalf<double>;
    Stack<double>::Saved saved;
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
    HalfGradients<double> gradients{dy1, dy2};
    reset_gradients(stack);
    stack.reverse(y, gradients, saved, pass);

    bool flipped = false;
    const auto objective = [&] {
      const auto top = forward();
      flipped = flipped || buckets_now() != buckets;
      return weighted_sum(dy1, matrix_of(top.first)) + weighted_sum(dy2, matrix_of(top.second));
    };
    const GradientCheckOptions options{.step = 0x1p-15, .most_elements = 12};
    check_gradient(operation, "x1", objective, x1, gradients.first, options);
    check_gradient(operation, "x2", objective, x2, gradients.second, options);
    check_parameter_gradients(operation, stack, objective, options);
    EXPECT_FALSE(flipped) << "a hash flipped under finite differences: choose other data";
  }
}

/// Adds a constant, and writes down the keys it is given.
struct KeyRecorder {
  using Scalar = float;
  struct Saved {};
  std::vector<std::pair<char, std::uint32_t>>* calls;

  void forward(const FloatHalf<float>&, FloatHalf<float>& y, Saved&, const Pass& pass) {
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
  ReversibleSequence<Block>::Saved saved;
  std::vector<Index> after;
  stack.forward(x, saved, pass, [&](Index i) { after.push_back(i); });
  EXPECT_EQ(after, (std::vector<Index>{0, 1, 2, 3, 4}));
  EXPECT_EQ(matrix_of(x.first)(0, 0), depth);
  HalfGradients<float> dy{Matrix<float>::Zero(1, 1), Matrix<float>::Zero(1, 1)};
  stack.reverse(x, dy, saved, pass);
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
    using Half = FloatHalf<float>;
    Halves<Half> x{half_of<Half>(random_matrix<float>(pass.rows(), shape.width, 1)),
                   half_of<Half>(random_matrix<float>(pass.rows(), shape.width, 2))};
    Stack<float>::Saved saved;
    reset_gradients(stack);
    HalfGradients<float> dy{random_matrix<float>(pass.rows(), shape.width, 3),
                            random_matrix<float>(pass.rows(), shape.width, 4)};
    stack.forward(x, saved, pass);
    stack.reverse(x, dy, saved, pass);
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
  using Half = FloatHalf<float>;
  Halves<Half> x{half_of<Half>(x1), half_of<Half>(x2)};
  Stack<float>::Saved saved;
  stack.forward(x, saved, pass);
  EXPECT_TRUE(same_bits(matrix_of(x.first), x1));
  EXPECT_TRUE(same_bits(matrix_of(x.second), x2));
}

TEST(ReversibleSequence, RejectsWhatAnotherStackSaved) {
  auto stack = make_stack<float>(2, {});
  Workspace workspace(1);
  const Pass pass{workspace, 2, 24};
  using Half = FloatHalf<float>;
  Halves<Half> x{Half(48, 8), Half(48, 8)};
  HalfGradients<float> dy{Matrix<float>::Zero(48, 8), Matrix<float>::Zero(48, 8)};
  Stack<float>::Saved saved(3);
  EXPECT_TRUE(contains(message_of([&] { stack.reverse(x, dy, saved, pass); }),
                       "saved is 3, must equal blocks = 2"));
}

}  // namespace
}  // namespace reformer::test
