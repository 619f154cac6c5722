// SPDX-License-Identifier: MIT
#include "pace.hpp"

#include <algorithm>
#include <cmath>

#include "reformer/training/schedule.hpp"

namespace training {
namespace {

constexpr double share_before_ending = 0.6;
constexpr double least_share_of_training = 0.25;

std::int64_t validations_within(const Options& options, std::int64_t step, std::int64_t count) {
  // The one after the last step is replaced by that on the whole split.
  const std::int64_t every = options.eval_every;
  return every > 0 && count > 0 ? (step + count - 1) / every - step / every : 0;
}

}  // namespace

double learning_rate(const Options& options, const std::optional<Ending>& ending,
                     std::int64_t step) {
  const double rate = options.learning_rate;
  if (options.schedule == "rsqrt") {
    return reformer::learning_rate(
        reformer::InverseSquareRootSchedule{rate, std::max<std::int64_t>(options.warmup, 1)}, step);
  }
  const auto warm = [&](std::int64_t t) {
    return t < options.warmup ? rate * static_cast<double>(t) / static_cast<double>(options.warmup)
                              : rate;
  };
  if (options.schedule == "constant") {
    return warm(step);
  }
  const auto falling = [&](double highest, std::int64_t warmup, std::int64_t steps,
                           std::int64_t t) {
    const double final = options.final_fraction;
    return options.schedule == "linear"
               ? reformer::learning_rate(reformer::LinearSchedule{highest, warmup, steps, final}, t)
               : reformer::learning_rate(reformer::CosineSchedule{highest, warmup, steps, final},
                                         t);
  };
  if (options.steps > 0) {
    return falling(rate, options.warmup, options.steps, step);
  }
  if (!ending || step <= ending->begin) {
    return warm(step);
  }
  // From wherever the warm-up has got to: a very short run may end before it does.
  return falling(warm(ending->begin), 0, ending->end - ending->begin + 1, step - ending->begin + 1);
}

double training_seconds(double limit, const Costs& costs) {
  return std::max(limit - costs.final, least_share_of_training * limit);
}

bool is_time_for_ending(double elapsed, double limit, const Costs& costs) {
  return elapsed >= share_before_ending * training_seconds(limit, costs);
}

std::int64_t steps_that_fit(double elapsed, double limit, const Costs& costs,
                            const Options& options, std::int64_t step) {
  const double left = training_seconds(limit, costs) - elapsed;
  const double saving = costs.save / (60 * options.save_minutes);  // per second
  const auto seconds = [&](std::int64_t count) {
    return (static_cast<double>(count) * costs.step +
            static_cast<double>(validations_within(options, step, count)) * costs.validation) *
           (1 + saving);
  };
  if (!(left > 0) || !(costs.step > 0)) {
    return 0;
  }
  // The time grows with the number of steps; halve the range in which the answer lies.
  std::int64_t low = 0;
  auto high = static_cast<std::int64_t>(std::min(left / costs.step, 1e12));
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (seconds(middle) <= left) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

}  // namespace training
