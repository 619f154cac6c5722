// SPDX-License-Identifier: MIT
/// @file
/// Choosing the next token from a row of logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

struct SamplingOptions {
  double temperature = 1;  ///< divides the logits; 0 always takes the most probable token
  Index top_k = 0;         ///< only the k most probable tokens; 0 for all
  double top_p = 1;        ///< only the fewest tokens whose probabilities sum to at least p
  /// Logits of tokens that have occurred are divided by it if positive, multiplied if negative
  /// (Keskar et al., arXiv 1909.05858, as in HuggingFace); 1 does nothing.
  double repetition_penalty = 1;
};

namespace detail {
/// Throws `std::invalid_argument` for a value that is not possible.
inline void check_config(std::string_view function, const SamplingOptions& options) {
  check(std::isfinite(options.temperature) && options.temperature >= 0, function, "temperature is ",
        options.temperature, ", must be 0 or more");
  check_at_least(function, "top_k", options.top_k, 0);
  check(options.top_p > 0 && options.top_p <= 1, function, "top_p is ", options.top_p,
        ", must be more than 0, at most 1");
  check(std::isfinite(options.repetition_penalty) && options.repetition_penalty > 0, function,
        "repetition_penalty is ", options.repetition_penalty, ", must be more than 0");
}
}  // namespace detail

/// Draws an index of `logits`. The penalty comes first, then temperature, top-k, and top-p of what
/// is left; among equal logits the lower index comes first. A function of its arguments alone.
/// @param logits   at least one; -infinity means never
/// @param uniform  a random number in [0, 1)
/// @param occurred `[V]`, not 0 for a token to be penalised; empty: none
/// @throw std::invalid_argument for bad options, an empty row, NaN or +infinity, a row without any
/// possible token, or `uniform` outside [0, 1)
template <typename Scalar>
std::int32_t sample_token(std::span<const Scalar> logits, const SamplingOptions& options,
                          double uniform, std::span<const std::uint8_t> occurred = {}) {
  constexpr auto function = "sample_token";
  detail::check_config(function, options);
  check(!logits.empty(), function, "there are no logits to choose from");
  check(occurred.empty() || occurred.size() == logits.size(), function, "occurred has ",
        occurred.size(), " elements, must have as many as logits, ", logits.size());
  check(uniform >= 0 && uniform < 1, function, "uniform is ", uniform, ", must be in [0, 1)");
  std::vector<double> score(logits.size());
  bool possible = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const auto x = static_cast<double>(logits[i]);
    check(!std::isnan(x) && !(std::isinf(x) && x > 0), function, "logit ", i, " is ", x,
          ", must be finite or -infinity");
    possible = possible || std::isfinite(x);
    const bool penalised = !occurred.empty() && occurred[i] != 0;
    const double penalty = options.repetition_penalty;
    score[i] = !penalised ? x : x > 0 ? x / penalty : x * penalty;
    // An extreme penalty must not make a possible token infinitely so: infinities have no ratio.
    constexpr double largest = std::numeric_limits<double>::max();
    if (std::isfinite(x)) score[i] = std::clamp(score[i], -largest, largest);
  }
  check(possible, function, "all logits are -infinity");
  if (options.temperature == 0) {
    return static_cast<std::int32_t>(std::max_element(score.begin(), score.end()) - score.begin());
  }

  std::vector<std::int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  const auto score_of = [&](std::int32_t token) { return score[static_cast<std::size_t>(token)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return score_of(a) > score_of(b); });
  if (options.top_k > 0 && options.top_k < static_cast<Index>(order.size())) {
    order.resize(static_cast<std::size_t>(options.top_k));
  }

  // Weights relative to the largest, so that none overflows however small the temperature.
  std::vector<double> weights(order.size());
  double total = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    weights[i] = std::exp((score_of(order[i]) - score_of(order[0])) / options.temperature);
    total += weights[i];
  }
  if (options.top_p < 1) {
    std::size_t kept = 0;
    double sum = 0;
    while (kept < weights.size() && sum < options.top_p * total) sum += weights[kept++];
    weights.resize(kept);
    total = sum;
  }

  double left = uniform * total;
  std::size_t last_possible = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) {
      last_possible = i;
      if (left < weights[i]) return order[i];
    }
    left -= weights[i];
  }
  return order[last_possible];  // rounding left a crumb behind the last weight
}

}  // namespace reformer::inline REFORMER_ABI
