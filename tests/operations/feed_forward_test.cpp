// SPDX-License-Identifier: MIT
#include "reformer/operations/feed_forward.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// A feed-forward branch with random parameters, its inputs, and the same branch in plain loops.
template <typename Scalar>
struct Example {
  using Half = FloatingHalf<Scalar>;

  Example(Index rows, const FeedForwardConfig& config, int threads = 2, std::uint64_t seed = 1)
      : branch("ff", config),
        x(random_matrix<Scalar>(rows, config.width, seed << 8 | 1)),
        y(random_matrix<Scalar>(rows, config.width, seed << 8 | 2)),
        dy(random_matrix<Scalar>(rows, config.width, seed << 8 | 3)),
        workspace(threads),
        pass{workspace, 1, rows, {seed, 7, 3}, config.dropout > 0} {
    randomize_parameters(branch, seed);
  }

  /// y + f(x) by the branch.
  Matrix<Scalar> forward() { return forward(x, y); }
  Matrix<Scalar> forward(const Matrix<Scalar>& x_values, const Matrix<Scalar>& y_values) {
    const Half x_half = half_of<Half>(x_values);
    Half y_half = half_of<Half>(y_values);
    typename FeedForward<Scalar>::Saved saved;
    Pass part = pass;
    part.length = x_values.rows();
    branch.forward(x_half, y_half, saved, part);
    EXPECT_EQ(workspace.bytes_in_use(), 0U);
    return matrix_of(y_half);
  }

  struct Reversed {
    Matrix<Scalar> y, dx;
  };
  /// Undoes `forward`; parameter gradients are accumulated in the branch. `dx` starts at 0.
  Reversed reverse(const Matrix<Scalar>& y_after) { return reverse(x, y_after, dy); }
  Reversed reverse(const Matrix<Scalar>& x_values, const Matrix<Scalar>& y_after,
                   const Matrix<Scalar>& dy_values, double dx_before = 0) {
    const Half x_half = half_of<Half>(x_values);
    Half y_half = half_of<Half>(y_after);
    Matrix<Scalar> dx =
        Matrix<Scalar>::Constant(x_values.rows(), x_values.cols(), static_cast<Scalar>(dx_before));
    Pass part = pass;
    part.length = x_values.rows();
    branch.reverse(x_half, y_half, rows_of(dy_values), rows_of(dx), {}, part);
    EXPECT_TRUE(same_bits(matrix_of(x_half), x_values)) << "x must not change";
    EXPECT_EQ(workspace.bytes_in_use(), 0U);
    return {matrix_of(y_half), dx};
  }

  /// What dropout of a purpose multiplies an array of `columns` columns by, or nothing.
  Matrix<double> mask(Purpose purpose, Index columns) const {
    if (!pass.training) return {};
    Matrix<double> ones = Matrix<double>::Ones(x.rows(), columns);
    Dropout<double>(branch.config().dropout, pass.key, purpose)
        .apply_tile(rows_of(ones), 0, 0, columns);
    return ones;
  }

  naive::FeedForward naive() {
    std::vector<Matrix<double>> p;
    branch.for_each_parameter([&](const Parameter<Scalar>& parameter) {
      p.emplace_back(parameter.value.template cast<double>());
    });
    const FeedForwardConfig& config = branch.config();
    return {p.at(0),
            p.at(1),
            p.at(2),
            p.at(3),
            p.at(4),
            p.at(5),
            config.layer_norm_epsilon,
            config.activation,
            mask(Purpose::hidden_dropout, config.hidden_width),
            mask(Purpose::branch_dropout, config.width)};
  }

  FeedForward<Scalar> branch;
  Matrix<Scalar> x, y, dy;
  Workspace workspace;
  Pass pass;
};

/// Seed of an example in which no argument of relu is so close to 0 that finite differences step
/// over it, except those that dropout sets to 0, where they stay.
std::uint64_t smooth_seed(Index rows, const FeedForwardConfig& config) {
  constexpr double margin = 0.02;
  for (std::uint64_t seed = 1; seed < 3000; ++seed) {
    Example<double> example(rows, config, 1, seed);
    const Matrix<double> u = example.naive().before_activation(example.x);
    const Matrix<double> mask = example.mask(Purpose::hidden_dropout, config.hidden_width);
    bool smooth = true;
    for (Index i = 0; i < u.size() && smooth; ++i) {
      const bool dropped = mask.size() > 0 && mask.data()[i] == 0;
      smooth = dropped || std::abs(u.data()[i]) > margin;
    }
    if (smooth) return seed;
  }
  ADD_FAILURE() << "no example keeps its distance from the kink of relu";
  return 1;
}

/// Checks the gradients of x and of all parameters, and that y is restored. Small examples run
/// thousands of times: on one thread, since to start more would take longer.
void check_reverse(const std::string& operation, Example<double>& example,
                   const GradientCheckOptions& options = {}) {
  reset_gradients(example.branch);
  const Matrix<double> after = example.forward();
  const auto reversed = example.reverse(after);
  EXPECT_TRUE(close(reversed.y, example.y)) << operation << ": reverse must restore y";
  const auto objective = [&] { return weighted_sum(example.dy, example.forward()); };
  check_gradient(operation, "x", objective, example.x, reversed.dx, options);
  check_parameter_gradients(operation, example.branch, objective, options);
}

template <typename Scalar>
class FeedForwardTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(FeedForwardTest, Scalars);

TYPED_TEST(FeedForwardTest, NamesItsParametersInOrder) {
  FeedForward<TypeParam> branch("block.0.feed_forward", {.width = 4, .hidden_width = 6});
  std::vector<std::string> shapes;
  branch.for_each_parameter([&](const Parameter<TypeParam>& p) {
    shapes.push_back(p.name + " " + std::to_string(p.value.rows()) + "x" +
                     std::to_string(p.value.cols()));
  });
  const std::string prefix = "block.0.feed_forward.";
  EXPECT_EQ(shapes, (std::vector<std::string>{
                        prefix + "layer_norm.weight 1x4", prefix + "layer_norm.bias 1x4",
                        prefix + "dense.weight 4x6", prefix + "dense.bias 1x6",
                        prefix + "output.weight 6x4", prefix + "output.bias 1x4"}));
}

// Rows: alone, a few, several tiles, more than the panels of 512 and 1,024. Widths: below, at and
// beyond whole vectors, column tiles, and blocks of 512 hidden columns.
struct Shape {
  Index rows, width, hidden;
};
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1, 1},    {1, 5, 3},    {5, 7, 13},   {5, 16, 32},
                                         {70, 19, 5},  {3, 261, 35}, {3, 20, 270}, {513, 9, 11},
                                         {1025, 3, 5}, {9, 6, 512},  {4, 10, 1041}};
  return all;
}

TYPED_TEST(FeedForwardTest, ForwardAddsWhatLoopsGive) {
  for (const auto& [rows, width, hidden] : shapes()) {
    for (const Activation activation : activations) {
      for (const double dropout : {0.0, 0.3}) {
        Example<TypeParam> example(rows, {width, hidden, activation, dropout, 1e-5});
        const Matrix<double> f = example.naive()(example.x.template cast<double>());
        const Matrix<double> expected = example.y.template cast<double>() + f;
        EXPECT_TRUE(close(example.forward(), expected))
            << rows << " rows, D = " << width << ", F = " << hidden << ", "
            << std::string(name_of(activation)) << ", dropout " << dropout;
      }
    }
  }
}

TYPED_TEST(FeedForwardTest, ReverseRestoresY) {
  for (const auto& [rows, width, hidden] : shapes()) {
    for (const double dropout : {0.0, 0.3}) {
      Example<TypeParam> example(rows, {width, hidden, Activation::gelu, dropout, 1e-5});
      reset_gradients(example.branch);
      const Matrix<TypeParam> after = example.forward();
      EXPECT_TRUE(dropout > 0 || !close(after, example.y)) << "nothing was added";
      EXPECT_TRUE(close(example.reverse(after).y, example.y))
          << rows << " rows, D = " << width << ", F = " << hidden << ", dropout " << dropout;
    }
  }
}

TYPED_TEST(FeedForwardTest, GradientsAreThoseOfDouble) {
  for (const auto& [rows, width, hidden] : shapes()) {
    for (const double dropout : {0.0, 0.3}) {
      const FeedForwardConfig config{width, hidden, Activation::gelu, dropout, 1e-2};
      Example<TypeParam> example(rows, config);
      Example<double> wide(rows, config);
      copy_parameters(example.branch, wide.branch);
      wide.x = example.x.template cast<double>();
      wide.dy = example.dy.template cast<double>();
      reset_gradients(example.branch);
      reset_gradients(wide.branch);
      const Matrix<TypeParam> dx = example.reverse(example.y).dx;
      const Matrix<double> wide_dx = wide.reverse(wide.y).dx;
      const std::string where = std::to_string(rows) + " rows, D = " + std::to_string(width) +
                                ", F = " + std::to_string(hidden);
      // Width 1 has no gradient by x: what cancels is of the size of the gradients before it.
      EXPECT_TRUE(close(dx, wide_dx, 1, width == 1 ? 10 : 0)) << where;
      std::vector<Matrix<double>> expected;
      wide.branch.for_each_parameter(
          [&](const Parameter<double>& p) { expected.push_back(p.gradient); });
      std::size_t index = 0;
      example.branch.for_each_parameter([&](const Parameter<TypeParam>& p) {
        EXPECT_TRUE(close(p.gradient, expected[index++], 1, 1)) << p.name << ", " << where;
      });
    }
  }
}

/// Root of the mean square of what differs, relative to that of what is expected.
double relative_error(const std::vector<double>& actual, const std::vector<double>& expected) {
  double difference = 0, all = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    all += expected[i] * expected[i];
  }
  return std::sqrt(difference / all);
}

TEST(FeedForwardPrecision, SaysHowFarResultsAreFromThoseOfDouble) {
  const FeedForwardConfig config{48, 1100, Activation::gelu, 0};
  Example<float> example(1030, config, 2);
  Example<double> wide(1030, config, 2);
  copy_parameters(example.branch, wide.branch);
  wide.x = example.x.cast<double>();
  wide.y = example.y.cast<double>();
  wide.dy = example.dy.cast<double>();
  const auto results = [](auto& of) {
    reset_gradients(of.branch);
    const auto y = of.forward();
    const auto reversed = of.reverse(of.y);
    EXPECT_TRUE(close(of.reverse(y).y, of.y)) << "not undone";
    std::vector<double> dx(reversed.dx.data(), reversed.dx.data() + reversed.dx.size());
    std::vector<double> added;
    for (Index i = 0; i < y.size(); ++i) added.push_back(double{y.data()[i]} - of.y.data()[i]);
    return std::vector{added, dx, gradients_of(of.branch)};
  };
  const auto expected = results(wide);
  wide.pass.precision = Precision::bfloat16;
  EXPECT_TRUE(contains(message_of([&] { wide.forward(); }),
                       "precision is bfloat16, must be float32 for other scalars than float"));
  struct Range {
    Precision precision;
    double least, most;
  };
  for (const auto& [precision, least, most] : {Range{Precision::float32, 0, 1e-6},
                                               {Precision::bfloat16x3, 2e-6, 1e-5},
                                               {Precision::bfloat16, 1e-3, 1e-2}}) {
    example.pass.precision = precision;
    const auto actual = results(example);
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double error = relative_error(actual[i], expected[i]);
      EXPECT_TRUE(error >= least && error <= most) << name_of(precision) << ": " << error;
    }
    const Matrix<float> after = example.forward();
    for (const Index row : {0, 63, 1029}) {
      EXPECT_TRUE(same_bits(example.forward(example.x.row(row), example.y.row(row)),
                            Matrix<float>(after.row(row))))
          << name_of(precision) << ", row " << row;
    }
  }
}

TEST(FeedForwardGradient, AgreesWithFiniteDifferences) {
  for (const Activation activation : activations) {
    for (const auto& [rows, width, hidden] :
         {Shape{1, 5, 3}, Shape{5, 7, 5}, Shape{2, 17, 11}, Shape{3, 3, 19}}) {
      const FeedForwardConfig config{width, hidden, activation, 0, 1e-2};
      Example<double> example(rows, config, 1, smooth_seed(rows, config));
      check_reverse("FeedForward with " + std::string(name_of(activation)) + ", " +
                        std::to_string(rows) + " rows",
                    example, {.step = 0x1p-11});
    }
  }
}

TEST(FeedForwardGradient, WithDropoutAgreesWithFiniteDifferences) {
  for (const Activation activation : activations) {
    const FeedForwardConfig config{7, 9, activation, 0.4, 1e-2};
    Example<double> example(5, config, 1, smooth_seed(5, config));
    ASSERT_TRUE(example.pass.training);
    check_reverse("FeedForward with dropout and " + std::string(name_of(activation)), example,
                  {.step = 0x1p-11});
  }
}

TEST(FeedForwardGradient, OverSeveralPanelsAgreesWithFiniteDifferences) {
  for (const double dropout : {0.0, 0.25}) {
    Example<double> example(1025, {5, 6, Activation::gelu, dropout, 1e-2}, 1);
    check_reverse("FeedForward of 1025 rows, dropout " + std::to_string(dropout), example,
                  {.most_elements = 4});
  }
}

TEST(FeedForwardGradient, OverSeveralBlocksOfHiddenColumnsAgreesWithFiniteDifferences) {
  for (const double dropout : {0.0, 0.25}) {
    Example<double> example(3, {4, 1041, Activation::gelu, dropout, 1e-2}, 1);
    check_reverse("FeedForward of 1041 hidden columns, dropout " + std::to_string(dropout), example,
                  {.most_elements = 40});
  }
}

TEST(FeedForwardGradient, OfWidthOneIsZeroByX) {
  Example<double> example(3, {1, 4, Activation::gelu, 0, 1e-2}, 1);
  check_reverse("FeedForward of width 1", example);
}

TYPED_TEST(FeedForwardTest, ReverseAddsToEveryGradient) {
  for (const double dropout : {0.0, 0.3}) {
    Example<TypeParam> example(70, {9, 21, Activation::gelu, dropout, 1e-5});
    reset_gradients(example.branch);
    const Matrix<TypeParam> dx = example.reverse(example.y).dx;
    std::vector<double> expected = gradients_of(example.branch);
    for (double& value : expected) value += 2;

    reset_gradients(example.branch, 2);
    const Matrix<TypeParam> dx_added = example.reverse(example.x, example.y, example.dy, 2).dx;
    EXPECT_TRUE(close(dx_added, Matrix<TypeParam>(dx.array() + TypeParam(2))));
    const std::vector<double> added = gradients_of(example.branch);
    EXPECT_TRUE(close(std::vector<TypeParam>(added.begin(), added.end()), expected));
  }
}

// Chunks of positions are computed one after another: each row must come out as if it were alone.
TYPED_TEST(FeedForwardTest, RowsAloneGiveTheBitsOfRowsTogether) {
  constexpr Index rows = 1042, width = 21, hidden = 530;
  for (const Activation activation : activations) {
    Example<TypeParam> example(rows, {width, hidden, activation, 0, 1e-5});
    reset_gradients(example.branch);
    const Matrix<TypeParam> after = example.forward();
    const auto reversed = example.reverse(after);
    for (const auto& [first, count] : {std::array<Index, 2>{0, 1},
                                       {1, 1},
                                       {63, 1},
                                       {511, 1},
                                       {512, 1},
                                       {1024, 1},
                                       {1041, 1},
                                       {60, 13},
                                       {500, 30},
                                       {3, 1030}}) {
      const Matrix<TypeParam> x = example.x.middleRows(first, count);
      const Matrix<TypeParam> y = example.y.middleRows(first, count);
      const Matrix<TypeParam> dy = example.dy.middleRows(first, count);
      const Matrix<TypeParam> expected = after.middleRows(first, count);
      ASSERT_TRUE(same_bits(example.forward(x, y), expected))
          << "forward, rows " << first << " + " << count << ", "
          << std::string(name_of(activation));
      const auto part = example.reverse(x, expected, dy);
      const Matrix<TypeParam> expected_y = reversed.y.middleRows(first, count);
      const Matrix<TypeParam> expected_dx = reversed.dx.middleRows(first, count);
      ASSERT_TRUE(same_bits(part.y, expected_y)) << "y of reverse, rows " << first << " + " << count
                                                 << ", " << std::string(name_of(activation));
      ASSERT_TRUE(same_bits(part.dx, expected_dx))
          << "dx, rows " << first << " + " << count << ", " << std::string(name_of(activation));
    }
  }
}

TYPED_TEST(FeedForwardTest, StoredInnerValuesGiveTheBitsOfComputedOnes) {
  for (const Activation activation : activations) {
    for (const double dropout : {0.0, 0.3}) {
      const Index rows = 1100, width = 9, hidden = 300;  // several panels, several blocks
      Example<TypeParam> example(rows, {width, hidden, activation, dropout, 1e-5});
      const auto what = std::string(name_of(activation)) + ", dropout " + std::to_string(dropout);
      Scratch memory(example.workspace);
      const SavedPass sizes{1, rows, false};
      const auto run = [&](bool context) {
        auto saved = example.branch.saved_in(memory, sizes, context);
        EXPECT_EQ(saved.inner.rows, context ? rows : 0) << what;
        const auto x = half_of<FloatingHalf<TypeParam>>(example.x);
        auto y = half_of<FloatingHalf<TypeParam>>(example.y);
        Matrix<TypeParam> dx = Matrix<TypeParam>::Zero(rows, width);
        reset_gradients(example.branch);
        example.branch.forward(x, y, saved, example.pass);
        example.branch.reverse(x, y, rows_of(example.dy), rows_of(dx), saved, example.pass);
        std::vector<Matrix<TypeParam>> results{matrix_of(y), dx};
        example.branch.for_each_parameter(
            [&](const Parameter<TypeParam>& p) { results.push_back(p.gradient); });
        return results;
      };
      const auto expected = run(false), stored = run(true);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_TRUE(same_bits(stored[i], expected[i])) << what << ", result " << i;
      }
    }
  }
}

// What `reverse` subtracts must be what `forward` added, bit for bit: on zeros it leaves zeros.
TYPED_TEST(FeedForwardTest, ReverseComputesTheSameBitsAsForward) {
  for (const auto& [rows, width, hidden] : shapes()) {
    for (const double dropout : {0.0, 0.3}) {
      Example<TypeParam> example(rows, {width, hidden, Activation::gelu_tanh, dropout, 1e-5});
      reset_gradients(example.branch);
      const Matrix<TypeParam> zero = Matrix<TypeParam>::Zero(rows, width);
      const Matrix<TypeParam> f = example.forward(example.x, zero);
      EXPECT_TRUE(same_bits(example.reverse(f).y, zero))
          << rows << " rows, D = " << width << ", F = " << hidden << ", dropout " << dropout;
    }
  }
}

TYPED_TEST(FeedForwardTest, GivesTheSameBitsForAnyThreads) {
  for (const auto& [rows, width, hidden] : {Shape{1, 21, 37}, {150, 21, 300}, {600, 9, 13}}) {
    for (const double dropout : {0.0, 0.2}) {
      Matrix<TypeParam> after, y, dx;
      std::vector<double> gradients;
      for (const int threads : thread_counts) {
        Example<TypeParam> example(rows, {width, hidden, Activation::gelu, dropout, 1e-5}, threads);
        reset_gradients(example.branch);
        const Matrix<TypeParam> now = example.forward();
        const auto reversed = example.reverse(now);
        if (threads == 1) {
          after = now;
          y = reversed.y;
          dx = reversed.dx;
          gradients = gradients_of(example.branch);
        }
        EXPECT_TRUE(same_bits(now, after)) << threads << " threads";
        EXPECT_TRUE(same_bits(reversed.y, y)) << threads << " threads";
        EXPECT_TRUE(same_bits(reversed.dx, dx)) << threads << " threads";
        EXPECT_TRUE(same_bits(gradients_of(example.branch), gradients)) << threads << " threads";
      }
    }
  }
}

TYPED_TEST(FeedForwardTest, DropoutIsOfTrainingAndFollowsTheKey) {
  Example<TypeParam> example(6, {8, 16, Activation::relu, 0.5, 1e-5});
  const auto with = example.forward();
  EXPECT_TRUE(same_bits(example.forward(), with)) << "the same key must replay";
  for (const RandomKey& key : {RandomKey{9, 7, 3}, RandomKey{1, 8, 3}, RandomKey{1, 7, 4}}) {
    example.pass.key = key;
    EXPECT_FALSE(close(example.forward(), with));
  }
  example.pass.training = false;
  const Matrix<double> expected =
      example.y.template cast<double>() + example.naive()(example.x.template cast<double>());
  EXPECT_TRUE(close(example.forward(), expected)) << "no dropout outside of training";
}

// The promise of the chunked feed-forward: the hidden array never exists, so that memory does not
// grow with the number of rows.
TYPED_TEST(FeedForwardTest, GradientsAreFiniteWhateverPaddingHolds) {
  constexpr Index rows = 150;
  std::vector<std::uint8_t> is_real(rows, 1);
  is_real[3] = is_real[70] = is_real[149] = 0;
  const auto run = [&](TypeParam held) {
    Example<TypeParam> example(rows, {12, 20, Activation::gelu, 0.1});
    example.pass.is_real = is_real;
    for (const Index row : {3, 70, 149}) {
      example.x.row(row).setConstant(held);
      example.dy.row(row).setZero();
    }
    reset_gradients(example.branch);
    typename Example<TypeParam>::Half y = half_of<typename Example<TypeParam>::Half>(example.y);
    const auto x = half_of<typename Example<TypeParam>::Half>(example.x);
    Matrix<TypeParam> dx = Matrix<TypeParam>::Zero(rows, 12);
    example.branch.reverse(x, y, rows_of(std::as_const(example.dy)), rows_of(dx), {}, example.pass);
    for (const Index row : {3, 70, 149}) dx.row(row).setZero();
    return std::pair(dx, gradients_of(example.branch));
  };
  const auto clean = run(1), spoilt = run(std::numeric_limits<TypeParam>::quiet_NaN());
  EXPECT_EQ(spoilt.first, clean.first);
  EXPECT_EQ(spoilt.second, clean.second);
}

TYPED_TEST(FeedForwardTest, ScratchDoesNotGrowWithRows) {
  const FeedForwardConfig config{8, 64, Activation::relu, 0, 1e-5};
  const auto peaks = [&](Index rows) {
    Example<TypeParam> example(rows, config);
    reset_gradients(example.branch);
    example.forward();
    const std::size_t forward = example.workspace.peak_bytes();
    example.workspace.reset_peak();
    example.reverse(example.y);
    return std::array<std::size_t, 2>{forward, example.workspace.peak_bytes()};
  };
  const auto small = peaks(1024), large = peaks(4 * 1024 + 1);
  EXPECT_EQ(large, small);
  EXPECT_LT(small[0], sizeof(TypeParam) * 4 * 1024 * 64) << "that is the whole hidden array";
  EXPECT_GT(small[0], 0U);
}

TEST(FeedForwardConfig, IsChecked) {
  const auto message = [](const FeedForwardConfig& config) {
    return message_of([&] { FeedForward<float>("ff", config); });
  };
  EXPECT_EQ(message({.width = 0}), "reformer::FeedForward: width is 0, must be at least 1");
  EXPECT_EQ(message({.width = 4, .hidden_width = -2}),
            "reformer::FeedForward: hidden_width is -2, must be at least 1");
  EXPECT_EQ(message({.width = 4, .hidden_width = 4, .dropout = 1}),
            "reformer::FeedForward: dropout is 1, must be in [0, 1)");
  EXPECT_EQ(message({.width = 4, .hidden_width = 4, .dropout = -0.25}),
            "reformer::FeedForward: dropout is -0.25, must be in [0, 1)");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(message({.width = 4, .hidden_width = 4, .dropout = nan}),
            "reformer::FeedForward: dropout is nan, must be in [0, 1)");
  EXPECT_EQ(message({.width = std::numeric_limits<Index>::max()}),
            "reformer::FeedForward: width is 9223372036854775807, must be at most 2147483647");
  EXPECT_EQ(message({.width = 4, .hidden_width = max_size + 1}),
            "reformer::FeedForward: hidden_width is 2147483648, must be at most 2147483647");
  EXPECT_TRUE(
      contains(message({.width = 4, .hidden_width = 4, .activation = static_cast<Activation>(100)}),
               "reformer::FeedForward: activation is number 100, must be relu, gelu"));
  for (const double epsilon : {0.0, -1.0, 1e-300, 1e300, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(message({.width = 4, .hidden_width = 4, .layer_norm_epsilon = epsilon}),
              reformer::detail::join("reformer::FeedForward: layer_norm_epsilon is ", epsilon,
                                     ", must be in [1e-37, 1e37]"));
  }
}

}  // namespace
}  // namespace reformer::test
