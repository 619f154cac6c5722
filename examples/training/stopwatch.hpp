// SPDX-License-Identifier: MIT
/// @file
/// Measuring how long things take.
#pragma once

#include <algorithm>
#include <chrono>

namespace training {

/// Seconds since its construction.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// A mean in which what lies more than `memory` values back hardly counts; 0 of no values.
class RecentMean {
 public:
  explicit RecentMean(double memory) : memory_(memory) {}

  void add(double value) {
    count_ = std::min(count_ + 1, memory_);
    mean_ += (value - mean_) / count_;
  }
  void clear() { count_ = mean_ = 0; }
  double value() const { return mean_; }

 private:
  double memory_;
  double count_ = 0;
  double mean_ = 0;
};

}  // namespace training
