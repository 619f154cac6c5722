// SPDX-License-Identifier: MIT
#include "windows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "reformer/foundation/random.hpp"
#include "reformer/operations/cross_entropy.hpp"

namespace enwik8 {
namespace {

/// Appends a window, and padding up to the length of all.
void append(Windows& windows, const Text& text, const Stretch& place) {
  const std::vector<std::int32_t> window = text.tokens(place.begin, place.labels + 1);
  const auto padded = static_cast<std::size_t>(++windows.count * windows.length);
  windows.inputs.insert(windows.inputs.end(), window.begin(), window.end() - 1);
  windows.inputs.resize(padded, 0);
  windows.labels.insert(windows.labels.end(), static_cast<std::size_t>(windows.context),
                        reformer::ignored_label);
  const auto labels = std::span(window).subspan(static_cast<std::size_t>(1 + windows.context));
  windows.labels.insert(windows.labels.end(), labels.begin(), labels.end());
  windows.labels.resize(padded, reformer::ignored_label);
  windows.label_bytes += text.bytes_of(labels);
}

std::int64_t labels_of(const std::vector<Stretch>& stretches) {
  return std::accumulate(
      stretches.begin(), stretches.end(), std::int64_t{0},
      [](std::int64_t sum, const Stretch& stretch) { return sum + stretch.labels; });
}

}  // namespace

TrainingWindows::TrainingWindows(const Text& text, const std::vector<Stretch>& stretches,
                                 std::int64_t length, std::uint64_t seed)
    : text_(text), length_(length), seed_(seed) {
  stretches_.reserve(stretches.size());
  for (const Stretch& stretch : stretches) {
    stretches_.push_back({stretch, weight_});
    weight_ += std::max(stretch.labels, length);
  }
  epochs_ = {weight_ / length, seed};
}

std::vector<Stretch> TrainingWindows::places(std::int64_t first, std::int64_t count) const {
  // A stream apart from those of the orders.
  const reformer::RandomStream stream({.seed = seed_, .layer = 1}, reformer::Purpose::data);
  std::vector<Stretch> places;
  for (std::int64_t number = first; number < first + count; ++number) {
    const auto [epoch, item] = epochs_.turn(number);
    const double offset = stream.uniform(static_cast<std::uint64_t>(epoch));
    const double place = (static_cast<double>(item) + offset) /
                         static_cast<double>(epochs_.count()) * static_cast<double>(weight_);
    const auto weighted = std::upper_bound(stretches_.begin() + 1, stretches_.end(), place,
                                           [](double value, const Weighted& next) {
                                             return value < static_cast<double>(next.weight_before);
                                           }) -
                          1;
    const auto [begin, labels] = weighted->stretch;
    const auto middle =
        static_cast<std::int64_t>(place - static_cast<double>(weighted->weight_before));
    const std::int64_t last = std::max<std::int64_t>(labels - length_, 0);
    const std::int64_t start = std::clamp<std::int64_t>(middle - length_ / 2, 0, last);
    places.push_back({begin + start, std::min(labels, length_)});
  }
  return places;
}

Windows TrainingWindows::of(std::int64_t first, std::int64_t count) const {
  const std::vector<Stretch> all = places(first, count);
  Windows windows;
  windows.epochs_before = epochs_.epochs_before(first);
  for (const Stretch& place : all) {
    windows.length = std::max(windows.length, place.labels);
  }
  for (const Stretch& place : all) {
    append(windows, text_, place);
    windows.lengths.push_back(place.labels);
  }
  if (labels_of(all) == windows.positions()) {
    windows.lengths.clear();
  }
  return windows;
}

std::int64_t TrainingWindows::labels(std::int64_t first, std::int64_t count) const {
  return labels_of(places(first, count));
}

Windows cut(Windows windows, std::int64_t parts) {
  if (windows.lengths.empty() && windows.length % parts == 0) {
    windows.count *= parts;
    windows.length /= parts;
  }
  return windows;
}

EvaluationWindows::EvaluationWindows(const Text& text, std::vector<Stretch> stretches,
                                     std::int64_t count, std::int64_t length, std::int64_t limit,
                                     std::int64_t overlap)
    : text_(text),
      stretches_(std::move(stretches)),
      count_(count),
      length_(length),
      overlap_(overlap),
      labels_(labels_of(stretches_)) {
  if (limit > 0 && limit < labels_) {
    is_whole_ = false;
    labels_ = limit;
    std::int64_t left = limit;
    for (Stretch& stretch : stretches_) {
      stretch.labels = std::min(stretch.labels, left);
      left -= stretch.labels;
    }
    std::erase_if(stretches_, [](const Stretch& stretch) { return stretch.labels == 0; });
  }
}

EvaluationWindows::Place EvaluationWindows::place() const {
  const Stretch& stretch = stretches_[stretch_];
  const std::int64_t context = position_ == 0 ? 0 : overlap_;
  return {{stretch.begin + position_ - context,
           std::min(length_, context + stretch.labels - position_)},
          context};
}

Windows EvaluationWindows::next() {
  Windows windows;
  while (windows.count < count_ && stretch_ < stretches_.size()) {
    const auto [window, context] = place();
    if (windows.count > 0 && (window.labels != windows.length || context != windows.context)) {
      break;
    }
    windows.length = window.labels;
    windows.context = context;
    append(windows, text_, window);
    position_ += window.labels - context;
    if (position_ == stretches_[stretch_].labels) {
      ++stretch_;
      position_ = 0;
    }
  }
  return windows;
}

std::string context_rule(std::int64_t length, std::int64_t overlap, const ContextWords& words) {
  if (overlap > 0) {
    return fmt::format(
        "windows of {0} {1}{2} that overlap by {3}: {4} is predicted once, from the {5} to {0} {1} "
        "before it, those of the first window{2} from 1 on",
        length, words.many, words.within, overlap, words.all, overlap + 1);
  }
  return fmt::format(
      "consecutive windows of {0} {1}{2}, each started cold: {3} is predicted, from the 1 to {0} "
      "{1} before it in its window",
      length, words.many, words.within, words.all);
}

}  // namespace enwik8
