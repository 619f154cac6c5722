// SPDX-License-Identifier: MIT
#include "reformer/foundation/simd.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/compare.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

// Several vectors of any width, with every ragged end.
constexpr Index most_elements = 70;
// Elements beyond the end, which must stay as they are.
constexpr Index guard = 20;

template <typename Scalar>
class Simd : public testing::Test {
 protected:
  std::vector<Scalar> input = random_values<Scalar>(most_elements + guard, 1);
  std::vector<Scalar> before = random_values<Scalar>(most_elements + guard, 2);

  /// Runs `row(n, x, y)` for all sizes and compares y with `element(x[i],
  /// y[i])`.
  template <typename Row, typename Element>
  void expect_elementwise(const Row& row, const Element& element, double factor) {
    for (Index n = 0; n <= most_elements; ++n) {
      std::vector<Scalar> actual = before, expected = before;
      row(n, input.data(), actual.data());
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        expected[i] = element(input[i], before[i]);
      }
      ASSERT_TRUE(factor == 0 ? same_bits(actual, expected) : close(actual, expected, factor))
          << "n = " << n;
    }
  }

  /// Runs `row(n, x, y)` on every part of the arrays: each element must come out the same.
  template <typename Row>
  void expect_independent_of_place(const Row& row) {
    std::vector<Scalar> whole = before;
    row(most_elements, input.data(), whole.data());
    for (Index first = 0; first < most_elements; ++first) {
      for (Index n = 1; first + n <= most_elements; n += 1 + n / 3) {
        std::vector<Scalar> part(before.begin() + first, before.begin() + first + n);
        row(n, input.data() + first, part.data());
        const std::vector<Scalar> expected(whole.begin() + first, whole.begin() + first + n);
        ASSERT_TRUE(same_bits(part, expected)) << "part from " << first << " of length " << n;
      }
    }
  }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Simd, Scalars);

TYPED_TEST(Simd, WidthIsThatOfThePacket) {
  EXPECT_GE(simd::width<TypeParam>, 1);
  EXPECT_EQ(sizeof(simd::Packet<TypeParam>),
            static_cast<std::size_t>(simd::width<TypeParam>) * sizeof(TypeParam));
}

TYPED_TEST(Simd, PartialLoadsFillAndPartialStoresStop) {
  constexpr Index W = simd::width<TypeParam>;
  for (Index n = 0; n <= W; ++n) {
    std::vector<TypeParam> loaded(static_cast<std::size_t>(W));
    simd::store(loaded.data(), simd::load_partial(this->input.data(), n, TypeParam(9)));
    std::vector<TypeParam> stored = this->before;
    simd::store_partial(stored.data(), simd::load(this->input.data()), n);
    for (Index i = 0; i < W; ++i) {
      const auto j = static_cast<std::size_t>(i);
      EXPECT_EQ(loaded[j], i < n ? this->input[j] : TypeParam(9)) << "n = " << n;
      EXPECT_EQ(stored[j], i < n ? this->input[j] : this->before[j]) << "n = " << n;
    }
  }
}

TYPED_TEST(Simd, MapIsElementwise) {
  this->expect_elementwise(
      [](Index n, const TypeParam* x, TypeParam* y) {
        simd::map(n, x, y, [](const auto& v) { return Eigen::internal::pmul(v, v); });
      },
      [](TypeParam x, TypeParam) { return x * x; }, 0);
}

TYPED_TEST(Simd, MapWorksInPlace) {
  std::vector<TypeParam> expected = this->input;
  for (TypeParam& value : expected) value = -value;
  simd::map(most_elements + guard, this->input.data(), this->input.data(),
            [](const auto& v) { return Eigen::internal::pnegate(v); });
  EXPECT_TRUE(same_bits(this->input, expected));
}

TYPED_TEST(Simd, UpdateSeesBothArguments) {
  this->expect_elementwise(
      [](Index n, const TypeParam* x, TypeParam* y) {
        simd::update(n, x, y,
                     [](const auto& a, const auto& b) { return Eigen::internal::pdiv(a, b); });
      },
      [](TypeParam x, TypeParam y) { return x / y; }, 0);
}

TYPED_TEST(Simd, AddSubtractAndAddScaled) {
  this->expect_elementwise(
      simd::add<TypeParam>, [](auto x, auto y) { return y + x; }, 0);
  this->expect_elementwise(
      simd::subtract<TypeParam>, [](auto x, auto y) { return y - x; }, 0);
  this->expect_elementwise(
      [](Index n, const TypeParam* x, TypeParam* y) { simd::add_scaled(n, TypeParam(-1.7), x, y); },
      [](auto x, auto y) { return y + TypeParam(-1.7) * x; }, 0.1);
}

TYPED_TEST(Simd, ElementsDoNotDependOnTheirPlace) {
  this->expect_independent_of_place(simd::add<TypeParam>);
  this->expect_independent_of_place(
      [](Index n, const TypeParam* x, TypeParam* y) { simd::add_scaled(n, TypeParam(0.3), x, y); });
  this->expect_independent_of_place([](Index n, const TypeParam* x, TypeParam* y) {
    simd::map(n, x, y, [](const auto& v) { return simd::exp_or_zero<TypeParam>(v); });
  });
}

TYPED_TEST(Simd, SumAndDotAgreeWithLoops) {
  for (Index n = 0; n <= most_elements; ++n) {
    double sum = 0, dot = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      sum += static_cast<double>(this->input[i]);
      dot += static_cast<double>(this->input[i]) * static_cast<double>(this->before[i]);
    }
    const TypeParam* x = this->input.data();
    const std::vector<TypeParam> actual = {
        simd::sum<TypeParam>(n, [&](const auto& at) { return at(x); }),
        simd::dot(n, x, this->before.data())};
    ASSERT_TRUE(close(actual, std::vector<double>{sum, dot}, 1, 1)) << "n = " << n;
  }
}

// Elements beyond the end take part in the padded vector of a ragged end: a function that does not
// map 0 to 0 must not add them to the sum.
TYPED_TEST(Simd, SumCountsEachElementOnce) {
  for (Index n = 0; n <= most_elements; ++n) {
    const TypeParam* x = this->input.data();
    const auto sum = simd::sum<TypeParam>(n, [&](const auto& at) {
      return Eigen::internal::padd(Eigen::internal::pmul(at(x), simd::set(TypeParam(0))),
                                   simd::set(TypeParam(1)));
    });
    ASSERT_EQ(sum, static_cast<TypeParam>(n));
  }
}

TYPED_TEST(Simd, ExpOrZero) {
  constexpr TypeParam infinity = std::numeric_limits<TypeParam>::infinity();
  const auto exp = [](TypeParam value) {
    std::vector<TypeParam> out(static_cast<std::size_t>(simd::width<TypeParam>));
    simd::store(out.data(), simd::exp_or_zero<TypeParam>(simd::set(value)));
    for (const TypeParam other : out) EXPECT_EQ(other, out[0]);
    return out[0];
  };
  EXPECT_EQ(exp(-infinity), TypeParam(0));
  EXPECT_FALSE(std::signbit(exp(-infinity)));
  EXPECT_EQ(exp(TypeParam(0)), TypeParam(1));
  EXPECT_LE(exp(std::numeric_limits<TypeParam>::lowest()), std::numeric_limits<TypeParam>::min());
  // Up to where e^x stops being a normal number.
  const double reach = std::is_same_v<TypeParam, float> ? 87 : 708;
  for (double v = -reach; v <= reach; v += reach / 500) {
    const auto value = static_cast<TypeParam>(v);
    const double expected = std::exp(static_cast<double>(value));
    ASSERT_NEAR(static_cast<double>(exp(value)) / expected, 1, 0.05 * tolerance<TypeParam>)
        << "x = " << value;
  }
}

}  // namespace
}  // namespace reformer::test
