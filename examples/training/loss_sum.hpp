// SPDX-License-Identifier: MIT
/// @file
/// Sums of losses.
#pragma once

#include <cstdint>
#include <numbers>

namespace training {

/// Sum of losses over bytes.
struct LossSum {
  double nats = 0;
  std::int64_t bytes = 0;

  double bits_per_byte() const { return nats / std::numbers::ln2 / static_cast<double>(bytes); }
  LossSum& operator+=(const LossSum& other) {
    nats += other.nats;
    bytes += other.bytes;
    return *this;
  }
};

}  // namespace training
