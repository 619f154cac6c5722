// SPDX-License-Identifier: MIT
/// @file
/// How equal two results must be: the tolerances of all tests, and comparisons that say where and
/// by how much results differ.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "reformer/foundation/tensor.hpp"

namespace reformer::test {

/// Largest difference allowed between two ways to compute the same numbers, relative to the largest
/// magnitude among them: some hundred roundings of the scalar type. A test of a long sum, or of a
/// badly conditioned one, multiplies it and says why.
template <typename Scalar>
inline constexpr double tolerance = 128 * double{std::numeric_limits<Scalar>::epsilon()};

/// Thread counts that must all give the same bits; more than one of them exceeds most machines.
inline constexpr std::array thread_counts = {1, 2, 3, 4};

template <typename Scalar>
std::span<const Scalar> as_span(const Matrix<Scalar>& x) {
  return {x.data(), static_cast<std::size_t>(x.size())};
}
template <typename Scalar, int Rank>
std::span<const Scalar> as_span(const Tensor<Scalar, Rank>& x) {
  return {x.data(), static_cast<std::size_t>(x.size())};
}
template <typename Scalar>
std::span<const Scalar> as_span(const std::vector<Scalar>& x) {
  return x;
}
template <typename Scalar>
std::span<const Scalar> as_span(std::span<const Scalar> x) {
  return x;
}

/// Compares spans of any two scalar types by `differs(a, b)`, and reports the first that does.
template <typename A, typename B, typename Differs>
testing::AssertionResult all_equal(std::span<const A> actual, std::span<const B> expected,
                                   const Differs& differs) {
  if (actual.size() != expected.size()) {
    return testing::AssertionFailure()
           << actual.size() << " elements, expected " << expected.size();
  }
  std::size_t wrong = 0, first = 0;
  for (std::size_t i = actual.size(); i-- > 0;) {
    if (differs(actual[i], expected[i])) {
      ++wrong;
      first = i;
    }
  }
  if (wrong == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << wrong << " of " << actual.size() << " elements differ, the first is [" << first
         << "]: " << actual[first] << ", expected " << expected[first];
}

/// Whether all elements agree within `factor * tolerance<type of actual>`, relative to the largest
/// expected magnitude (at least `scale`).
template <typename Actual, typename Expected>
testing::AssertionResult close(const Actual& actual, const Expected& expected, double factor = 1,
                               double scale = 0) {
  const auto a = as_span(actual);
  const auto e = as_span(expected);
  using Scalar = typename decltype(a)::value_type;
  for (const auto value : e) {
    if (std::isfinite(value)) scale = std::max(scale, std::abs(static_cast<double>(value)));
  }
  const double allowed = factor * tolerance<Scalar> * scale;
  auto result = all_equal(a, e, [&](auto x, auto y) {
    return !(std::abs(static_cast<double>(x) - static_cast<double>(y)) <= allowed);
  });
  if (!result) result << ", allowed difference " << allowed;
  return result;
}

/// Whether all elements are the same bit for bit (so 0 is not -0, and NaN equals itself).
template <typename Actual, typename Expected>
testing::AssertionResult same_bits(const Actual& actual, const Expected& expected) {
  const auto a = as_span(actual);
  const auto e = as_span(expected);
  using Scalar = typename decltype(a)::value_type;
  static_assert(std::is_same_v<Scalar, typename decltype(e)::value_type>);
  return all_equal(a, e, [](Scalar x, Scalar y) {
    if constexpr (std::is_same_v<Scalar, float>) {
      return std::bit_cast<std::uint32_t>(x) != std::bit_cast<std::uint32_t>(y);
    } else if constexpr (std::is_same_v<Scalar, double>) {
      return std::bit_cast<std::uint64_t>(x) != std::bit_cast<std::uint64_t>(y);
    } else {
      return x != y;
    }
  });
}

}  // namespace reformer::test
