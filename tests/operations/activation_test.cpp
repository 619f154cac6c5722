// SPDX-License-Identifier: MIT
#include "reformer/operations/activation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/compare.hpp"
#include "support/gradient_check.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

template <typename Scalar>
Scalar value(Activation f, Scalar x) {
  activate(f, 1, &x, &x);
  return x;
}
/// d = f'(x): the gradient by x of a sum of all f(x).
template <typename Scalar>
void derivatives(Activation f, Index n, const Scalar* x, Scalar* d) {
  std::fill_n(d, n, Scalar(1));
  activate_backward(f, n, x, d);
}
template <typename Scalar>
Scalar derivative(Activation f, Scalar x) {
  Scalar d;
  derivatives(f, 1, &x, &d);
  return d;
}

template <typename Scalar>
class ActivationTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ActivationTest, Scalars);

TYPED_TEST(ActivationTest, ValuesAndDerivativesFollowTheFormulas) {
  for (const Activation f : activations) {
    std::vector<TypeParam> x;
    for (double v = -12; v <= 12; v += 0.01) x.push_back(static_cast<TypeParam>(v));
    std::vector<TypeParam> y(x.size()), slope(x.size());
    const auto n = static_cast<Index>(x.size());
    activate(f, n, x.data(), y.data());
    derivatives(f, n, x.data(), slope.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto v = static_cast<double>(x[i]);
      ASSERT_NEAR(static_cast<double>(y[i]), naive::activation(f, v), 0.1 * tolerance<TypeParam>)
          << name_of(f) << "(" << v << ")";
      // A rounding of tanh is multiplied by the slope of its argument, 3.5 where it saturates.
      ASSERT_NEAR(static_cast<double>(slope[i]), naive::activation_derivative(f, v),
                  (f == Activation::gelu_tanh ? 0.3 : 0.1) * tolerance<TypeParam>)
          << name_of(f) << "'(" << v << ")";
    }
  }
}

TYPED_TEST(ActivationTest, FarFromZeroTheyFollowTheFormulas) {
  for (const Activation f : activations) {
    for (const double size : {15.0, 50.0, 1000.0, 1e6}) {
      for (const double v : {size, -size}) {
        const auto x = static_cast<TypeParam>(v);
        EXPECT_NEAR(static_cast<double>(value(f, x)), naive::activation(f, v),
                    0.1 * size * tolerance<TypeParam>)
            << name_of(f) << "(" << v << ")";
        EXPECT_NEAR(static_cast<double>(derivative(f, x)), naive::activation_derivative(f, v),
                    tolerance<TypeParam>)
            << name_of(f) << "'(" << v << ")";
      }
    }
  }
}

TEST(ActivationDerivative, AgreesWithFiniteDifferences) {
  for (const Activation f : activations) {
    Matrix<double> x(1, 41);
    for (Index i = 0; i < 41; ++i) x(0, i) = 0.1 + 0.25 * static_cast<double>(i - 20);  // never 0
    Matrix<double> slope(1, 41), y(1, 41);
    derivatives(f, 41, x.data(), slope.data());
    check_gradient(std::string(name_of(f)), "x",
                   [&] {
                     activate(f, 41, x.data(), y.data());
                     return y.sum();
                   },
                   x, slope, {.tolerance = 1e-9});
  }
}

TYPED_TEST(ActivationTest, GradientsAreMultipliedByTheDerivative) {
  const auto x = random_values<TypeParam>(37, 4), d = random_values<TypeParam>(37, 5);
  for (const Activation f : activations) {
    std::vector<TypeParam> dx = d;
    activate_backward(f, 37, x.data(), dx.data());
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(dx[i], d[i] * derivative(f, x[i])) << name_of(f) << ", element " << i;
    }
  }
}

TYPED_TEST(ActivationTest, ReluAtZero) {
  EXPECT_EQ(value(Activation::relu, TypeParam(0)), TypeParam(0));
  EXPECT_EQ(value(Activation::relu, TypeParam(-0.0)), TypeParam(0));
  EXPECT_EQ(derivative(Activation::relu, TypeParam(0)), TypeParam(0));
  EXPECT_EQ(derivative(Activation::relu, TypeParam(-0.0)), TypeParam(0));
  const TypeParam least = std::numeric_limits<TypeParam>::min();
  EXPECT_EQ(value(Activation::relu, least), least);
  EXPECT_EQ(derivative(Activation::relu, least), TypeParam(1));
  EXPECT_EQ(derivative(Activation::relu, -least), TypeParam(0));
}

TYPED_TEST(ActivationTest, NotANumberIsNotHidden) {
  for (const Activation f : activations) {
    for (Index n = 1; n <= 40; n += 3) {  // in vectors and in their ragged ends
      auto x = random_values<TypeParam>(n, 1);
      const auto place = static_cast<std::size_t>(n / 2);
      x[place] = std::numeric_limits<TypeParam>::quiet_NaN();
      std::vector<TypeParam> y(x.size());
      activate(f, n, x.data(), y.data());
      for (std::size_t i = 0; i < x.size(); ++i) {
        EXPECT_EQ(std::isnan(y[i]), i == place) << name_of(f) << ", n = " << n;
      }
    }
  }
}

// A recomputed tile may cut a row elsewhere.
TYPED_TEST(ActivationTest, ElementsDoNotDependOnTheirPlace) {
  constexpr Index most = 70;
  const auto x = random_values<TypeParam>(most, 2, 3);
  for (const Activation f : activations) {
    std::vector<TypeParam> y(x.size()), slope(x.size());
    activate(f, most, x.data(), y.data());
    derivatives(f, most, x.data(), slope.data());
    for (Index first = 0; first < most; ++first) {
      for (Index n = 1; first + n <= most; n += 5) {
        std::vector<TypeParam> part(x.begin() + first, x.begin() + first + n), part_slope = part;
        activate(f, n, part.data(), part.data());  // in place
        derivatives(f, n, x.data() + first, part_slope.data());
        const std::vector<TypeParam> expected(y.begin() + first, y.begin() + first + n);
        const std::vector<TypeParam> expected_slope(slope.begin() + first,
                                                    slope.begin() + first + n);
        ASSERT_TRUE(same_bits(part, expected)) << name_of(f) << " from " << first << ", n = " << n;
        ASSERT_TRUE(same_bits(part_slope, expected_slope))
            << name_of(f) << "' from " << first << ", n = " << n;
      }
    }
  }
}

TYPED_TEST(ActivationTest, WritesNoFurtherThanTheCount) {
  const auto x = random_values<TypeParam>(80, 3);
  for (const Activation f : activations) {
    for (Index n = 0; n <= 40; ++n) {
      std::vector<TypeParam> y(80, TypeParam(-7)), slope = y;
      activate(f, n, x.data(), y.data());
      derivatives(f, n, x.data(), slope.data());
      for (auto i = static_cast<std::size_t>(n); i < 80; ++i) {
        ASSERT_EQ(y[i], TypeParam(-7)) << name_of(f) << ", n = " << n;
        ASSERT_EQ(slope[i], TypeParam(-7)) << name_of(f) << ", n = " << n;
      }
    }
  }
}

}  // namespace
}  // namespace reformer::test
