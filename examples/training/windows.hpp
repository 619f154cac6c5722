// SPDX-License-Identifier: MIT
/// @file
/// Windows: stretches of what is learned that the model sees at once, with what follows each
/// position as its label.
#pragma once

#include <cstdint>
#include <vector>

namespace training {

/// `count` windows of `length` tokens; row-major, one window after the other.
struct Windows {
  std::int64_t count = 0;
  std::int64_t length = 0;
  std::vector<std::int32_t> inputs;
  std::vector<std::int32_t> labels;  ///< what follows, or `reformer::ignored_label`
  /// Tokens of each window; what stands behind them is padding, whose labels are ignored. Empty: no
  /// window has any.
  std::vector<std::int64_t> lengths;
  std::int64_t context =
      0;  ///< positions at the beginning of each window whose labels do not count
  std::int64_t label_bytes = 0;  ///< bytes of the data that the labels which count stand for
  double epochs_before = 0;      ///< of training: how often all data has been read before

  std::int64_t positions() const { return count * length; }
};

}  // namespace training
