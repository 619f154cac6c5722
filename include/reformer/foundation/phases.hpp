// SPDX-License-Identifier: MIT
/// @file
/// Cosines and sines of t w_i for whole numbers t and fixed frequencies w_i, from small tables.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// t in digits, t = sum_d t_d base^d, of which each has a table `[base, frequencies]`, and
///
///     cos(u + v) = cos u cos v - sin u sin v,   sin(u + v) = sin u cos v + cos u sin v
///
/// joins them. What is above the last digit is computed as it stands, so t has no limit.
template <typename Scalar, Index base, std::size_t num_digits>
class Phases {
 public:
  explicit Phases(std::vector<double> frequencies) : frequencies_(std::move(frequencies)) {
    double unit = 1;
    for (Digit& digit : digits_) {
      for (Index value = 0; value < base; ++value) {
        for (const double frequency : frequencies_) {
          const double angle = unit * static_cast<double>(value) * frequency;
          digit.cosines.push_back(static_cast<Scalar>(std::cos(angle)));
          digit.sines.push_back(static_cast<Scalar>(std::sin(angle)));
        }
      }
      unit *= static_cast<double>(base);
    }
  }

  Index size() const { return static_cast<Index>(frequencies_.size()); }

  /// cosines[i] = cos(t w_(first + i)), sines[i] = sin(t w_(first + i)), i < count. One copy of the
  /// function for training and decoding: the same bits.
  /// @param t  at least 0
  REFORMER_COMPILED_ONCE void at(Index t, Index first, Index count, Scalar* cosines,
                                 Scalar* sines) const {
    const Index row = t % base * size() + first;
    std::copy_n(digits_[0].cosines.data() + row, count, cosines);
    std::copy_n(digits_[0].sines.data() + row, count, sines);
    Index rest = t / base;
    double unit = static_cast<double>(base);
    for (std::size_t d = 1; d < num_digits && rest != 0; ++d, rest /= base) {
      const Scalar* c = digits_[d].cosines.data() + rest % base * size() + first;
      const Scalar* s = digits_[d].sines.data() + rest % base * size() + first;
      for (Index i = 0; i < count; ++i) turn(c[i], s[i], cosines[i], sines[i]);
      unit *= static_cast<double>(base);
    }
    for (Index i = 0; rest != 0 && i < count; ++i) {
      const double angle =
          unit * static_cast<double>(rest) * frequencies_[static_cast<std::size_t>(first + i)];
      turn(static_cast<Scalar>(std::cos(angle)), static_cast<Scalar>(std::sin(angle)), cosines[i],
           sines[i]);
    }
  }

 private:
  struct Digit {
    std::vector<Scalar> cosines, sines;  // [base, frequencies]
  };

  static void turn(Scalar c, Scalar s, Scalar& cosine, Scalar& sine) {
    const Scalar turned = cosine * c - sine * s;
    sine = sine * c + cosine * s;
    cosine = turned;
  }

  std::vector<double> frequencies_;
  std::array<Digit, num_digits> digits_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
