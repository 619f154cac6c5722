// SPDX-License-Identifier: MIT
/// @file
/// The learning rate of each step, and how many steps fit into a limit in time.
///
/// A run limited by steps knows its end from the start. One limited by time trains at the full rate
/// until a fixed share of the time for training has passed; then it decides, from the speed so far,
/// how many steps are left, and lets the rate fall over exactly these. The decision is kept in the
/// checkpoint: what comes after it no longer depends on any clock.
#pragma once

#include <cstdint>
#include <optional>

#include "options.hpp"

namespace training {

/// The last part of a run limited by time.
struct Ending {
  std::int64_t begin = 0;  ///< the step after which it was decided
  std::int64_t end = 0;    ///< the last step
};

/// The learning rate of step 1, 2, ...
double learning_rate(const Options& options, const std::optional<Ending>& ending,
                     std::int64_t step);

/// What the parts of a run take, in seconds.
struct Costs {
  double step = 0;
  double validation = 0;  ///< one on the way
  double save = 0;
  double final = 0;  ///< everything after the last step
};

/// Time for training, the validations and checkpoints on the way included: what the final part
/// leaves of `limit` seconds, but a quarter of it at least.
double training_seconds(double limit, const Costs& costs);

/// Whether the run has reached the point at which its end is decided.
bool is_time_for_ending(double elapsed, double limit, const Costs& costs);

/// How many steps fit between `elapsed` and `limit` seconds, 0 or more.
std::int64_t steps_that_fit(double elapsed, double limit, const Costs& costs,
                            const Options& options, std::int64_t step);

}  // namespace training
