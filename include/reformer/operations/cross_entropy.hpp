// SPDX-License-Identifier: MIT
/// @file
/// Softmax cross-entropy of one row of logits.
///
///     loss = log(sum_v exp(l_v)) - l_label,   dl_v = (exp(l_v) / sum_u exp(l_u) - [v = label])
///     scale
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer::inline REFORMER_ABI {

/// Label of a position that counts neither in the sum nor in the number of losses.
inline constexpr std::int32_t ignored_label = -100;

namespace detail {
/// Throws `std::invalid_argument` unless every label is a token or ignored.
inline void check_label_range(std::string_view function, std::span<const std::int32_t> labels,
                              Index vocabulary) {
  for (std::size_t i = 0; i < labels.size(); ++i) {
    check(labels[i] == ignored_label || (labels[i] >= 0 && labels[i] < vocabulary), function,
          "label ", i, " is ", labels[i], ", must be in [0, ", vocabulary, ") or ", ignored_label);
  }
}
}  // namespace detail

/// Sum of losses in nats, and how many positions it is the sum of.
struct Loss {
  double sum = 0;
  Index count = 0;

  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0.0; }
  Loss& operator+=(const Loss& other) {
    sum += other.sum;
    count += other.count;
    return *this;
  }
};

/// Loss of one row of logits `[V]`, which is overwritten by exp(l - max) in the process.
/// @param label  in [0, V)
/// @param sum_of_exponentials  receives sum_v exp(l_v - max)
template <typename Scalar>
double cross_entropy_row(Index vocabulary, Scalar* logits, std::int32_t label,
                         Scalar& sum_of_exponentials) {
  namespace e = Eigen::internal;
  constexpr Index W = simd::width<Scalar>;
  const auto lowest = std::numeric_limits<Scalar>::lowest();
  auto best = simd::set(lowest);
  Index i = 0;
  for (; i + W <= vocabulary; i += W) best = e::pmax(best, simd::load(logits + i));
  if (i < vocabulary) best = e::pmax(best, simd::load_partial(logits + i, vocabulary - i, lowest));
  const Scalar maximum = e::predux_max(best);
  const Scalar label_logit = logits[label];
  const auto m = simd::set(maximum);
  simd::map(vocabulary, logits, logits, [&](const auto& l) { return e::pexp(e::psub(l, m)); });
  sum_of_exponentials = simd::sum<Scalar>(vocabulary, [&](const auto& at) { return at(logits); });
  return std::log(static_cast<double>(sum_of_exponentials)) +
         (static_cast<double>(maximum) - static_cast<double>(label_logit));
}

/// Gradient by the logits, from what `cross_entropy_row` left in the row.
template <typename Scalar>
void cross_entropy_row_backward(Index vocabulary, Scalar* row, std::int32_t label,
                                Scalar sum_of_exponentials, Scalar scale) {
  const auto factor = simd::set(scale / sum_of_exponentials);
  simd::map(vocabulary, row, row, [&](const auto& x) { return Eigen::internal::pmul(x, factor); });
  row[label] -= scale;
}

}  // namespace reformer::inline REFORMER_ABI
