// SPDX-License-Identifier: MIT
/// The reversible block with branches that are made here, because any branch will do.
#include "reformer/reversible/block.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "support/compare.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// f(x) = weight sin(x) elementwise, weight `[1, D]`; writes down when it is called.
class Sine {
 public:
  using Scalar = double;
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

  template <typename F>
  void for_each_parameter(F&& f) {
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

using Half = FloatHalf<double>;

struct ForwardOnly {
  using Saved = int;
  void forward(const Half&, Half&, int&, const Pass&) const {}
};
struct ChangesItself {  // forward, so that two threads could not run it
  using Saved = int;
  void forward(const Half&, Half&, int&, const Pass&) {}
  void reverse(const Half&, Half&, MatrixView<const double>, MatrixView<double>, int&,
               const Pass&) {}
};

static_assert(ReversibleBranch<Sine, Half>);
static_assert(ReversibleBranch<SelfAttention<double>, Half>);
static_assert(ReversibleBranch<FeedForward<double>, Half>);
static_assert(ReversibleBranch<SelfAttention<float>, FloatHalf<float>>);
static_assert(!ReversibleBranch<ForwardOnly, Half>);
static_assert(!ReversibleBranch<ChangesItself, Half>);
static_assert(!ResidualHalf<Matrix<double>>);

/// A block of two sines, its calls, and inputs.
class ReversibleBlockTest : public testing::Test {
 protected:
  ReversibleBlockTest() { randomize_parameters(block, 3, 0.8); }

  Halves<Half> halves() const { return {half_of<Half>(x1), half_of<Half>(x2)}; }
  Pass pass() { return {workspace, 2, 5, {1, 2, 7}}; }

  Workspace workspace{1};
  std::vector<Sine::Call> calls;
  ReversibleBlock<Sine, Sine> block{Sine("f", 3, &calls), Sine("g", 3, &calls)};
  ReversibleBlock<Sine, Sine>::Saved saved;
  Matrix<double> x1 = random_matrix<double>(10, 3, 1);
  Matrix<double> x2 = random_matrix<double>(10, 3, 2);
};

TEST_F(ReversibleBlockTest, AddsEachBranchToTheOtherHalf) {
  std::vector<Matrix<double>> weights;
  block.for_each_parameter([&](auto& p) { weights.push_back(p.value); });
  ASSERT_EQ(weights.size(), 2u);
  const auto branch = [](const Matrix<double>& weight, const Matrix<double>& x) -> Matrix<double> {
    return x.array().sin().rowwise() * weight.row(0).array();
  };
  const Matrix<double> y1 = x1 + branch(weights[0], x2);
  const Matrix<double> y2 = x2 + branch(weights[1], y1);

  auto x = halves();
  block.forward(x, saved, pass());
  EXPECT_TRUE(close(matrix_of(x.first), y1));
  EXPECT_TRUE(close(matrix_of(x.second), y2));
}

TEST_F(ReversibleBlockTest, RunsEachBranchOnceEachWay) {
  auto x = halves();
  reset_gradients(block);
  block.forward(x, saved, pass());
  auto dy1 = random_matrix<double>(10, 3, 4), dy2 = random_matrix<double>(10, 3, 5);
  block.reverse(x, {view(dy1), view(dy2)}, saved, pass());

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

TEST_F(ReversibleBlockTest, ReverseRestoresTheInputAndDifferentiates) {
  const auto dy1 = random_matrix<double>(10, 3, 4), dy2 = random_matrix<double>(10, 3, 5);
  auto x = halves();
  reset_gradients(block, 1);
  block.forward(x, saved, pass());
  Matrix<double> dx1 = dy1, dx2 = dy2;
  block.reverse(x, {view(dx1), view(dx2)}, saved, pass());
  EXPECT_TRUE(close(matrix_of(x.first), x1));
  EXPECT_TRUE(close(matrix_of(x.second), x2));

  block.for_each_parameter([](auto& p) { p.gradient.array() -= 1; });
  const auto objective = [&] {
    auto y = halves();
    ReversibleBlock<Sine, Sine>::Saved other;
    block.forward(y, other, pass());
    return weighted_sum(dy1, matrix_of(y.first)) + weighted_sum(dy2, matrix_of(y.second));
  };
  check_gradient("reversible block", "x1", objective, x1, dx1);
  check_gradient("reversible block", "x2", objective, x2, dx2);
  check_parameter_gradients("reversible block", block, objective);
}

}  // namespace
}  // namespace reformer::test
