// SPDX-License-Identifier: MIT
#include "sampling.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

namespace enwik8 {
namespace {

void check_logits(std::span<const float> logits) {
  if (logits.empty()) {
    throw std::invalid_argument("sample_token: there are no logits to choose from");
  }
  bool possible = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || (std::isinf(logits[i]) && logits[i] > 0)) {
      throw std::invalid_argument(fmt::format(
          "sample_token: logit {} is {}; allowed: finite numbers and -infinity", i, logits[i]));
    }
    possible = possible || std::isfinite(logits[i]);
  }
  if (!possible) {
    throw std::invalid_argument("sample_token: all logits are -infinity");
  }
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    throw std::invalid_argument(
        fmt::format("temperature is {}; allowed: 0 or more", options.temperature));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    throw std::invalid_argument(
        fmt::format("top_p is {}; allowed: more than 0, up to 1", options.top_p));
  }
}

std::size_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                         double uniform) {
  check_sampling(options);
  check_logits(logits);
  if (!(uniform >= 0 && uniform < 1)) {
    throw std::invalid_argument(
        fmt::format("sample_token: uniform is {}; allowed: 0 up to but not 1", uniform));
  }
  if (options.temperature == 0) {
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) -
                                    logits.begin());
  }

  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < order.size()) {
    order.resize(options.top_k);
  }

  // Weights relative to the largest, so that none overflows however small the temperature.
  const double largest = static_cast<double>(logits[order[0]]);
  std::vector<double> weights(order.size());
  double total = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    weights[i] = std::exp((static_cast<double>(logits[order[i]]) - largest) / options.temperature);
    total += weights[i];
  }
  if (options.top_p < 1) {
    std::size_t kept = 0;
    double sum = 0;
    while (kept < weights.size() && sum < options.top_p * total) {
      sum += weights[kept++];
    }
    weights.resize(kept);
    total = sum;
  }

  double left = uniform * total;
  std::size_t last_possible = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0) {
      last_possible = i;
      if (left < weights[i]) {
        return order[i];
      }
    }
    left -= weights[i];
  }
  return order[last_possible];  // rounding left a crumb behind the last weight
}

}  // namespace enwik8
