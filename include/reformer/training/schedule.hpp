// SPDX-License-Identifier: MIT
/// @file
/// Learning-rate schedules: the rate of step t = 1, 2, ...
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <variant>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"

namespace reformer::inline REFORMER_ABI {

struct ConstantSchedule {
  double rate = 1e-3;
};

/// Linear warm-up to `rate`, then rate sqrt(warmup / t), as in trax: there rate is given as peak
/// sqrt(warmup).
struct InverseSquareRootSchedule {
  double rate = 1e-3;
  std::int64_t warmup = 1000;
};

/// Linear warm-up to `rate`, then half a cosine down to `final_fraction` of it at `steps`.
struct CosineSchedule {
  double rate = 1e-3;
  std::int64_t warmup = 100;
  std::int64_t steps = 1000;
  double final_fraction = 0.05;
};

/// Linear warm-up to `rate`, which stays until the last `decay_fraction` of `steps`, over which it
/// falls in a line to `final_fraction` of it. With a `decay_fraction` of less than 1 that is
/// warm-up, stable, decay (Hu et al., arXiv 2404.06395).
struct LinearSchedule {
  double rate = 1e-3;
  std::int64_t warmup = 100;
  std::int64_t steps = 1000;
  double final_fraction = 0;
  double decay_fraction = 1;
};

using Schedule =
    std::variant<ConstantSchedule, InverseSquareRootSchedule, CosineSchedule, LinearSchedule>;

/// The rate of a step; that of the first for step 0.
/// @throw std::invalid_argument for a rate that is negative or not finite, negative numbers of
///   steps, `steps` < 1, or a `final_fraction` or `decay_fraction` outside of [0, 1]
inline double learning_rate(const Schedule& schedule, std::int64_t step) {
  constexpr const char* function = "learning_rate";
  check_at_least(function, "step", step, 0);
  const double rate = std::visit([](const auto& any) { return any.rate; }, schedule);
  check(rate >= 0 && std::isfinite(rate), function, "rate is ", rate,
        ", must be finite and not negative");
  const auto t = static_cast<double>(std::max<std::int64_t>(step, 1));
  if (std::holds_alternative<ConstantSchedule>(schedule)) return rate;
  if (const auto* root = std::get_if<InverseSquareRootSchedule>(&schedule)) {
    check_at_least(function, "warmup", root->warmup, 0);
    const auto warmup = static_cast<double>(std::max<std::int64_t>(root->warmup, 1));
    return rate * std::min(t / warmup, std::sqrt(warmup / t));
  }
  const auto falling = [&](const auto& to, double decay_fraction, const auto& shape) {
    check_at_least(function, "warmup", to.warmup, 0);
    check_at_least(function, "steps", to.steps, 1);
    check(to.final_fraction >= 0 && to.final_fraction <= 1, function, "final_fraction is ",
          to.final_fraction, ", must be in [0, 1]");
    check(decay_fraction >= 0 && decay_fraction <= 1, function, "decay_fraction is ",
          decay_fraction, ", must be in [0, 1]");
    const auto warmup = static_cast<double>(std::max<std::int64_t>(to.warmup, 1));
    if (t < warmup) return rate * t / warmup;
    const auto steps = static_cast<double>(to.steps);
    const double begin = std::max(warmup, steps * (1 - decay_fraction));
    const double progress = std::clamp((t - begin) / std::max(1.0, steps - begin), 0.0, 1.0);
    return rate * (to.final_fraction + (1 - to.final_fraction) * shape(progress));
  };
  if (const auto* linear = std::get_if<LinearSchedule>(&schedule)) {
    return falling(*linear, linear->decay_fraction, [](double progress) { return 1 - progress; });
  }
  return falling(std::get<CosineSchedule>(schedule), 1.0,
                 [](double progress) { return 0.5 * (1 + std::cos(std::numbers::pi * progress)); });
}

}  // namespace reformer::inline REFORMER_ABI
