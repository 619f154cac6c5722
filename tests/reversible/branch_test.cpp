// SPDX-License-Identifier: MIT
/// The contract of a branch, and stacks of branches that are made here, because any branch will do.
#include "reformer/reversible/branch.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "reformer/reversible/any_branch.hpp"
#include "reformer/reversible/sequence.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"
#include "support/shift_branch.hpp"

namespace reformer::test {
namespace {

/// f(x) = weight sin(x) elementwise, weight `[1, D]`; writes down when it is called. It has no more
/// than every branch must have.
class Sine {
 public:
  using Scalar = double;
  static constexpr std::string_view label = "sine";
  struct Saved {
    double mark = 0;  ///< weight(0, 0) of the forward pass
  };
  struct Call {
    std::string what;
    RandomKey key;
  };

  Sine(const std::string& name, Index width, std::vector<Call>* calls)
      : name_(name), weight_(name + ".weight", Role::gain, 1, width), calls_(calls) {}

  template <ResidualHalf Half>
  void forward(const Half& x, Half& y, Saved& saved, const Pass& pass) const {
    calls_->push_back({name_ + " forward", pass.key});
    saved.mark = weight_.value(0, 0);
    for_each_row(x, [&](Index i, std::vector<double>& row) {
      for (std::size_t j = 0; j < row.size(); ++j) row[j] = weight(j) * std::sin(row[j]);
      y.add(i, 0, static_cast<Index>(row.size()), row.data());
    });
  }

  template <ResidualHalf Half>
  void reverse(const Half& x, Half& y, const MatrixView<const double>& dy,
               const MatrixView<double>& dx, Saved& saved, const Pass& pass) {
    calls_->push_back({name_ + " reverse", pass.key});
    EXPECT_EQ(saved.mark, weight_.value(0, 0)) << name_ << ": saved by another branch";
    for_each_row(x, [&](Index i, std::vector<double>& row) {
      for (std::size_t j = 0; j < row.size(); ++j) {
        const auto column = static_cast<Index>(j);
        const double sine = std::sin(row[j]);
        dx(i, column) += dy(i, column) * weight(j) * std::cos(row[j]);
        weight_.gradient(0, column) += dy(i, column) * sine;
        row[j] = weight(j) * sine;
      }
      y.subtract(i, 0, static_cast<Index>(row.size()), row.data());
    });
  }

  void plan(Workspace&, const SavedPass&, const BranchStorage&) const {}

  template <typename F>
  void for_each_parameter(F&& f) {
    f(weight_);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    f(weight_);
  }

 private:
  template <typename Half, typename Body>
  void for_each_row(const Half& x, const Body& body) const {
    std::vector<double> row(static_cast<std::size_t>(x.columns()));
    for (Index i = 0; i < x.rows(); ++i) {
      x.read(i, 0, x.columns(), row.data());
      body(i, row);
    }
  }
  double weight(std::size_t j) const { return weight_.value(0, static_cast<Index>(j)); }

  std::string name_;
  Parameter<double> weight_;
  std::vector<Call>* calls_;
};

using Half = FloatingHalf<double>;

/// A branch that lacks one thing.
enum class Lack { nothing, reverse, constant_forward, parameters, plan, label, scalar, decode };
template <Lack lack>
struct Incomplete {
  using Scalar = std::conditional_t<lack == Lack::scalar, float, double>;
  struct Label {};
  static constexpr std::conditional_t<lack == Lack::label, Label, std::string_view> label{};
  using Saved = int;
  void forward(const Half&, Half&, int&, const Pass&) const
      requires(lack != Lack::constant_forward) {}
  void forward(const Half&, Half&, int&, const Pass&)  // so that two threads could not run it
      requires(lack == Lack::constant_forward) {}
  void reverse(const Half&, Half&, MatrixView<const double>, MatrixView<double>, int&,
               const Pass&) requires(lack != Lack::reverse) {}
  void plan(Workspace&, const SavedPass&, const BranchStorage&) const requires(lack != Lack::plan) {
  }
  template <typename F>
  void for_each_parameter(F&&) {}
  template <typename F>
  void for_each_parameter(F&&) const requires(lack != Lack::parameters) {}

  using Decoding = int;
  int decoding(const Pass&) const { return 0; }
  void prefill(const Half&, Half&, int&, const Pass&) const {}
  void decode(const Half&, Half&, int&, const Pass&) const requires(lack != Lack::decode) {}
};

static_assert(ReversibleBranch<Incomplete<Lack::nothing>, Half>);
static_assert(DecodableBranch<Incomplete<Lack::nothing>, Half>);
static_assert(!ReversibleBranch<Incomplete<Lack::reverse>, Half>);
static_assert(!ReversibleBranch<Incomplete<Lack::constant_forward>, Half>);
static_assert(!ReversibleBranch<Incomplete<Lack::parameters>, Half>);
static_assert(!ReversibleBranch<Incomplete<Lack::plan>, Half>);
static_assert(!ReversibleBranch<Incomplete<Lack::label>, Half>);
static_assert(!ReversibleBranch<Incomplete<Lack::scalar>, Half>);
static_assert(!DecodableBranch<Incomplete<Lack::decode>, Half>);
static_assert(ReversibleBranch<Sine, Half> && !DecodableBranch<Sine, Half>);
static_assert(DecodableBranch<Shift<double>, Half>);
static_assert(DecodableBranch<SelfAttention<double>, Half>);
static_assert(DecodableBranch<FeedForward<float>, DynamicHalf<float>>);
static_assert(ReversibleBranch<SelfAttention<double>, Half>);
static_assert(ReversibleBranch<FeedForward<double>, Half>);
static_assert(ReversibleBranch<SelfAttention<float>, FloatingHalf<float>>);
static_assert(!ResidualHalf<Matrix<double>>);

/// A stack of two sines, its calls, and inputs.
class TwoBranches : public testing::Test {
 protected:
  TwoBranches() { randomize_parameters(stack, 3, 0.8); }

  Halves<Half> halves() const { return {half_of<Half>(x1), half_of<Half>(x2)}; }
  Pass pass() { return {workspace, 2, 5, {1, 2, 7}}; }

  Workspace workspace{1};
  std::vector<Sine::Call> calls;
  using Stack = ReversibleSequence<Half>;
  Stack stack{{Sine("f", 3, &calls), Sine("g", 3, &calls)}};
  Stack::Saved saved{Sine::Saved{}, Sine::Saved{}};
  Matrix<double> x1 = random_matrix<double>(10, 3, 1);
  Matrix<double> x2 = random_matrix<double>(10, 3, 2);
};

TEST_F(TwoBranches, AddEachToTheOtherHalf) {
  std::vector<Matrix<double>> weights;
  stack.for_each_parameter([&](auto& p) { weights.push_back(p.value); });
  ASSERT_EQ(weights.size(), 2u);
  const auto branch = [](const Matrix<double>& weight, const Matrix<double>& x) -> Matrix<double> {
    return x.array().sin().rowwise() * weight.row(0).array();
  };
  const Matrix<double> y1 = x1 + branch(weights[0], x2);
  const Matrix<double> y2 = x2 + branch(weights[1], y1);

  auto x = halves();
  stack.forward(x, saved, pass());
  EXPECT_TRUE(close(matrix_of(x.first), y1));
  EXPECT_TRUE(close(matrix_of(x.second), y2));
}

TEST_F(TwoBranches, RunOnceEachWay) {
  auto x = halves();
  reset_gradients(stack);
  stack.forward(x, saved, pass());
  auto dy1 = random_matrix<double>(10, 3, 4), dy2 = random_matrix<double>(10, 3, 5);
  stack.reverse(x, {rows_of(dy1), rows_of(dy2)}, saved, pass());

  std::vector<std::string> names;
  for (const auto& call : calls) names.push_back(call.what);
  EXPECT_EQ(names, (std::vector<std::string>{"f forward", "g forward", "g reverse", "f reverse"}));
  // Going back, a branch draws the numbers it drew going forward, and never those of the other.
  EXPECT_EQ(calls[0].key.layer, calls[3].key.layer);
  EXPECT_EQ(calls[1].key.layer, calls[2].key.layer);
  EXPECT_NE(calls[0].key.layer, calls[1].key.layer);
  for (const auto& call : calls) {
    EXPECT_EQ(call.key.seed, 1u);
    EXPECT_EQ(call.key.step, 2u);
  }
}

TEST_F(TwoBranches, RestoreTheInputAndDifferentiate) {
  const auto dy1 = random_matrix<double>(10, 3, 4), dy2 = random_matrix<double>(10, 3, 5);
  auto x = halves();
  reset_gradients(stack, 1);
  stack.forward(x, saved, pass());
  Matrix<double> dx1 = dy1, dx2 = dy2;
  stack.reverse(x, {rows_of(dx1), rows_of(dx2)}, saved, pass());
  EXPECT_TRUE(close(matrix_of(x.first), x1));
  EXPECT_TRUE(close(matrix_of(x.second), x2));

  stack.for_each_parameter([](auto& p) { p.gradient.array() -= 1; });
  const auto objective = [&] {
    auto y = halves();
    stack.forward(y, pass());
    return weighted_sum(dy1, matrix_of(y.first)) + weighted_sum(dy2, matrix_of(y.second));
  };
  check_gradient("two branches", "x1", objective, x1, dx1);
  check_gradient("two branches", "x2", objective, x2, dx2);
  check_parameter_gradients("two branches", stack, objective);
}

TEST(AnyBranch, HoldsACopyOfTheBranch) {
  std::vector<Sine::Call> calls;
  Sine sine("f", 3, &calls);
  sine.for_each_parameter([](auto& p) { p.value.setConstant(2); });
  AnyBranch<Half> one(sine), two = one;
  EXPECT_EQ(one.label(), "sine");
  EXPECT_EQ(one.get_if<Shift<double>>(), nullptr);
  ASSERT_NE(one.get_if<Sine>(), nullptr);
  one.get_if<Sine>()->for_each_parameter([](auto& p) { p.value.setConstant(3); });
  const auto value = [](const auto& branch) {
    double found = 0;
    branch.for_each_parameter([&](const Parameter<double>& p) { found = p.value(0, 0); });
    return found;
  };
  EXPECT_EQ(value(sine), 2);
  EXPECT_EQ(value(one), 3);
  EXPECT_EQ(value(two), 2);
  two = one;
  EXPECT_EQ(value(std::as_const(*two.get_if<Sine>())), 3);
  two = AnyBranch<Half>(Shift<double>("s", 3));
  EXPECT_EQ(two.label(), "shift");
  EXPECT_EQ(two.get_if<Sine>(), nullptr);
}

TEST(AnyBranch, SaysWhatItsBranchSays) {
  std::vector<Sine::Call> calls;
  const AnyBranch<Half> least(Sine("f", 3, &calls)), most(Shift<double>("s", 3));
  const SavedPass sizes{2, 5};
  Workspace plan = Workspace::plan(1);
  Scratch planned(plan);
  EXPECT_TRUE(least.saved_in(planned, sizes, true).has_value());
  EXPECT_EQ(plan.peak_bytes(), 0u);
  EXPECT_EQ(least.output_work(), 0);
  EXPECT_EQ(least.context_work(5), 0);
  EXPECT_FALSE(least.is_decodable());
  most.saved_in(planned, sizes);
  EXPECT_EQ(plan.peak_bytes(), 0u);
  most.saved_in(planned, sizes, true);
  EXPECT_EQ(plan.peak_bytes(), 256u);  // 2 * 5 * 3 doubles, in whole cache lines
  EXPECT_EQ(most.output_work(), 6);
  EXPECT_EQ(most.context_work(5), 60);
  EXPECT_TRUE(most.is_decodable());
  Workspace scratch = Workspace::plan(2);
  most.plan(scratch, sizes, {});
  EXPECT_EQ(scratch.peak_bytes(), 2 * 64u);
}

TEST(AnyBranch, RefusesWhatAnotherBranchHasSaved) {
  std::vector<Sine::Call> calls;
  ReversibleSequence<Half> stack({Sine("f", 3, &calls), Shift<double>("s", 3)});
  reset_gradients(stack);
  Workspace workspace(1);
  const Pass pass{workspace, 2, 5};
  Halves<Half> x{Half(10, 3), Half(10, 3)};
  Matrix<double> dx1 = Matrix<double>::Zero(10, 3), dx2 = dx1;
  ReversibleSequence<Half>::Saved saved{Sine::Saved{}, Sine::Saved{}};
  const std::string message = "AnyBranch: saved is that of another branch, must be that of shift";
  EXPECT_TRUE(contains(message_of([&] { stack.forward(x, saved, pass); }), message));
  EXPECT_TRUE(contains(message_of([&] {
                         stack.reverse(x, {rows_of(dx1), rows_of(dx2)}, saved, pass);
                       }),
                       message));
  EXPECT_TRUE(calls.empty());

  ReversibleSequence<Half> decodable({Shift<double>("s", 3)});
  auto other = ReversibleSequence<Half>({Incomplete<Lack::nothing>()}).decoding(pass);
  EXPECT_TRUE(contains(message_of([&] { decodable.prefill(x, other, pass); }),
                       "AnyBranch: decoding is that of another branch, must be that of shift"));
  EXPECT_EQ(
      message_of([&] { stack.decoding(pass); }),
      "reformer::ReversibleSequence::decoding: branch 0, first half (sine) cannot go on token "
      "by token, must have decoding, prefill and decode");
}

}  // namespace
}  // namespace reformer::test
