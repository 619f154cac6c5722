// SPDX-License-Identifier: MIT
// The checker that all gradients are held against must itself notice what is wrong.
#include "support/gradient_check.hpp"

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <limits>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// out = gelu(x W), with objective sum(dout * out) and a backward pass that can be broken.
class GradientCheck : public testing::Test {
 protected:
  static constexpr Index rows = 5, in = 4, out = 3;
  Matrix<double> x = random_matrix<double>(rows, in, 1);
  Matrix<double> weight = random_matrix<double>(in, out, 2);
  Matrix<double> dout = random_matrix<double>(rows, out, 3);
  Matrix<double> dx, dweight;

  void SetUp() override {
    const Matrix<double> u = naive::multiply(x, weight);
    Matrix<double> du = dout;
    for (Index i = 0; i < u.size(); ++i) {
      const double v = u.data()[i];
      const double density = std::exp(-v * v / 2) / std::sqrt(2 * std::numbers::pi);
      du.data()[i] *= 0.5 * (1 + std::erf(v / std::numbers::sqrt2)) + v * density;
    }
    dx = naive::multiply(du, weight.transpose());
    dweight = naive::multiply(x.transpose(), du);
  }

  double objective() const {
    return weighted_sum(dout, naive::activate(Activation::gelu, naive::multiply(x, weight)));
  }
  std::optional<GradientMismatch> compare(const std::string& tensor, Matrix<double>& value,
                                          const Matrix<double>& gradient,
                                          const GradientCheckOptions& options = {}) {
    return compare_gradient(
        "gelu_product", tensor, [this] { return objective(); }, elements(value), elements(gradient),
        options);
  }

  static Index largest_element(const Matrix<double>& gradient) {
    Index row = 0, column = 0;
    gradient.cwiseAbs().maxCoeff(&row, &column);
    return row * gradient.cols() + column;
  }
};

TEST_F(GradientCheck, AcceptsTheRightGradients) {
  EXPECT_FALSE(compare("x", x, dx));
  EXPECT_FALSE(compare("weight", weight, dweight));
  check_gradient(
      "gelu_product", "x", [this] { return objective(); }, x, dx);
}

// The usual tolerance is far from what finite differences can do: they must not be the weak point.
TEST_F(GradientCheck, IsAccurateFarBelowTheTolerance) {
  EXPECT_FALSE(compare("x", x, dx, {.tolerance = 1e-10}));
  EXPECT_FALSE(compare("weight", weight, dweight, {.tolerance = 1e-10}));
}

TEST_F(GradientCheck, ReportsAFlippedSign) {
  dx = -dx;
  const auto mismatch = compare("x", x, dx);
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->operation, "gelu_product");
  EXPECT_EQ(mismatch->tensor, "x");
  EXPECT_EQ(mismatch->index, largest_element(dx)) << "the worst element should be shown";
  EXPECT_NEAR(mismatch->analytic, -mismatch->numeric, 1e-9);
  EXPECT_EQ(mismatch->wrong, dx.size());
  EXPECT_EQ(mismatch->tried, dx.size());
}

TEST_F(GradientCheck, ReportsASingleFlippedSign) {
  for (Index i = 0; i < dweight.size(); ++i) {
    Matrix<double> broken = dweight;
    broken.data()[i] *= -1;
    const auto mismatch = compare("weight", weight, broken);
    ASSERT_TRUE(mismatch) << "element " << i;
    EXPECT_EQ(mismatch->tensor, "weight");
    EXPECT_EQ(mismatch->index, i);
    EXPECT_EQ(mismatch->analytic, broken.data()[i]);
    EXPECT_NEAR(mismatch->numeric, dweight.data()[i], 1e-9);
    EXPECT_EQ(mismatch->wrong, 1);
  }
}

TEST_F(GradientCheck, ReportsASingleWrongElement) {
  for (Index i = 0; i < dx.size(); ++i) {
    Matrix<double> broken = dx;
    broken.data()[i] += 1e-4;
    const auto mismatch = compare("x", x, broken);
    ASSERT_TRUE(mismatch) << "element " << i;
    EXPECT_EQ(mismatch->index, i);
    EXPECT_EQ(mismatch->wrong, 1);
  }
}

TEST_F(GradientCheck, ReportsAScaleErrorOfOneInTenThousand) {
  dweight *= 1 + 1e-4;
  const auto mismatch = compare("weight", weight, dweight);
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->tensor, "weight");
  EXPECT_EQ(mismatch->index, largest_element(dweight));
}

TEST_F(GradientCheck, ReportsAnElementThatIsNotANumber) {
  dx(2, 1) = std::numeric_limits<double>::quiet_NaN();
  const auto mismatch = compare("x", x, dx);
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->index, 2 * in + 1);
  dx(2, 1) = std::numeric_limits<double>::infinity();
  EXPECT_TRUE(compare("x", x, dx)) << "an infinite gradient must not widen what is allowed";
}

TEST_F(GradientCheck, ReportsAnObjectiveThatIsNotANumber) {
  dout(4, 2) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(compare("x", x, dx));
}

TEST_F(GradientCheck, ReportsAGradientOfAnotherSize) {
  const auto mismatch = compare("x", x, Matrix<double>());
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->tensor, "x");
}

TEST_F(GradientCheck, AcceptsAZeroGradientAndReportsItWhenItIsNot) {
  const Matrix<double> zero = Matrix<double>::Zero(rows, in);
  EXPECT_TRUE(compare("x", x, zero));
  Matrix<double> unused = x;
  EXPECT_FALSE(compare("unused", unused, zero));
  Matrix<double> tiny = zero;
  tiny(1, 3) = 1e-6;
  const auto mismatch = compare("unused", unused, tiny);
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->index, in + 3);
}

TEST_F(GradientCheck, LeavesTheTensorAsItWas) {
  const Matrix<double> before = x;
  compare("x", x, dx);
  EXPECT_TRUE(same_bits(x, before));
}

TEST_F(GradientCheck, TriesElementsSpreadOverTheTensor) {
  const Index last = dx.size() - 1;
  for (const Index tried : {1, 2, 3, 7}) {
    const GradientCheckOptions options{.most_elements = tried};
    EXPECT_FALSE(compare("x", x, dx, options));
    Matrix<double> broken = -dx;
    EXPECT_EQ(compare("x", x, broken, options).value_or(GradientMismatch{}).wrong, tried);
    broken = dx;
    broken.data()[0] *= 2;
    EXPECT_EQ(compare("x", x, broken, options).value_or(GradientMismatch{"", "", -1}).index, 0);
    if (tried > 1) {
      broken = dx;
      broken.data()[last] *= 2;
      EXPECT_EQ(compare("x", x, broken, options).value_or(GradientMismatch{}).index, last);
    }
  }
}

TEST_F(GradientCheck, MessageNamesOperationTensorIndexAndBothValues) {
  Matrix<double> broken = dweight;
  broken(1, 2) = 123.5;
  const auto mismatch = compare("weight", weight, broken);
  ASSERT_TRUE(mismatch);
  const std::string message = mismatch->message();
  EXPECT_TRUE(contains(message, "gelu_product: gradient of weight[5] is 123.5, finite"));
  std::ostringstream numeric;
  numeric.precision(8);
  numeric << dweight(1, 2);
  EXPECT_TRUE(contains(message, "give " + numeric.str().substr(0, 8)));
  EXPECT_TRUE(contains(message, "1 of 12 elements"));
}

TEST(FiniteDifference, IsExactForPolynomialsOfDegreeSix) {
  double x = 0.5;
  const auto power = [&] { return x * x * x * x * x * x - 3 * x; };
  EXPECT_NEAR(finite_difference(power, x, 0.25), 6 * std::pow(0.5, 5) - 3, 1e-14);
  EXPECT_EQ(x, 0.5);
}

/// y = a x + b, as a layer
struct Line {
  Parameter<double> slope{"line.slope", Role::gain, 1, 1}, offset{"line.offset", Role::bias, 1, 1};
  template <typename F>
  void for_each_parameter(F&& f) {
    f(slope);
    f(offset);
  }
};

TEST(CheckParameterGradients, ChecksEveryParameterByName) {
  static Line line;
  reset_gradients(line);
  line.slope.value(0, 0) = 2;
  line.slope.gradient(0, 0) = 3;
  line.offset.gradient(0, 0) = 1;
  static const auto f = [] { return line.slope.value(0, 0) * 3 + line.offset.value(0, 0); };
  check_parameter_gradients("Line", line, f);
  line.offset.gradient(0, 0) = -1;
  EXPECT_NONFATAL_FAILURE(check_parameter_gradients("Line", line, f),
                          "Line: gradient of line.offset[0] is -1, finite differences give 1");
}

TEST(Compare, CloseReportsWhereResultsDiffer) {
  const std::vector<float> expected = {1, -100, 3};
  std::vector<float> actual = expected;
  EXPECT_TRUE(close(actual, expected));
  actual[2] += 1e-5F;  // relative to the largest element
  EXPECT_TRUE(close(actual, expected));
  actual[2] += 1e-2F;
  const auto result = close(actual, expected);
  EXPECT_FALSE(result);
  EXPECT_TRUE(contains(result.message(), "1 of 3 elements differ, the first is [2]: 3.01"));
  EXPECT_FALSE(close(actual, std::vector<float>{1, -100}));
  actual[2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(close(actual, expected));
  EXPECT_FALSE(close(expected, actual));
  actual[2] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(close(expected, actual));
}

TEST(Compare, SameBitsTellsZerosApart) {
  const std::vector<double> zero = {0.0}, minus_zero = {-0.0};
  const std::vector<double> nan = {std::numeric_limits<double>::quiet_NaN()};
  EXPECT_TRUE(same_bits(zero, zero));
  EXPECT_FALSE(same_bits(zero, minus_zero));
  EXPECT_TRUE(same_bits(nan, nan));
  EXPECT_FALSE(same_bits(std::vector<double>{1}, std::vector<double>{std::nextafter(1.0, 2.0)}));
}

}  // namespace
}  // namespace reformer::test
