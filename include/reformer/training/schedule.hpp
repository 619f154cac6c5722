// SPDX-License-Identifier: MIT
/// @file
/// Learning-rate schedules: the rate of step t = 1, 2, ...
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <variant>

namespace reformer {

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

using Schedule = std::variant<ConstantSchedule, InverseSquareRootSchedule, CosineSchedule>;

inline double learning_rate(const Schedule& schedule, std::int64_t step) {
  const auto t = static_cast<double>(std::max<std::int64_t>(step, 1));
  if (const auto* constant = std::get_if<ConstantSchedule>(&schedule)) return constant->rate;
  if (const auto* root = std::get_if<InverseSquareRootSchedule>(&schedule)) {
    const auto warmup = static_cast<double>(std::max<std::int64_t>(root->warmup, 1));
    return root->rate * std::min(t / warmup, std::sqrt(warmup / t));
  }
  const auto& cosine = std::get<CosineSchedule>(schedule);
  const auto warmup = static_cast<double>(std::max<std::int64_t>(cosine.warmup, 1));
  if (t < warmup) return cosine.rate * t / warmup;
  const double length = std::max(1.0, static_cast<double>(cosine.steps) - warmup);
  const double progress = std::clamp((t - warmup) / length, 0.0, 1.0);
  const double wave = 0.5 * (1 + std::cos(std::numbers::pi * progress));
  return cosine.rate * (cosine.final_fraction + (1 - cosine.final_fraction) * wave);
}

}  // namespace reformer
