// SPDX-License-Identifier: MIT
#include "windows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <vector>

#include "reformer/foundation/random.hpp"
#include "reformer/operations/cross_entropy.hpp"

namespace enwik8 {
namespace {

void append(Windows& windows, const Text& text, std::int64_t begin) {
  const std::vector<std::int32_t> window = text.tokens(begin, windows.length + 1);
  windows.inputs.insert(windows.inputs.end(), window.begin(), window.end() - 1);
  windows.labels.insert(windows.labels.end(), static_cast<std::size_t>(windows.context),
                        reformer::ignored_label);
  const auto labels = std::span(window).subspan(static_cast<std::size_t>(1 + windows.context));
  windows.labels.insert(windows.labels.end(), labels.begin(), labels.end());
  ++windows.count;
  windows.label_bytes += text.bytes_of(labels);
}

}  // namespace

Windows training_windows(const Text& text, std::int64_t count, std::int64_t length,
                         std::uint64_t seed, std::int64_t step, std::int64_t first) {
  const reformer::RandomStream stream({seed, static_cast<std::uint32_t>(step)},
                                      reformer::Purpose::data);
  const std::int64_t places = text.size() - length;
  Windows windows;
  windows.length = length;
  for (std::int64_t i = first; i < first + count; ++i) {
    const double place =
        stream.uniform(static_cast<std::uint64_t>(i)) * static_cast<double>(places);
    // The product of a number just below 1 may round up to `places`.
    append(windows, text, std::min(static_cast<std::int64_t>(place), places - 1));
  }
  return windows;
}

EvaluationWindows::EvaluationWindows(const Text& text, std::int64_t count, std::int64_t length,
                                     std::int64_t limit, std::int64_t overlap)
    : text_(text),
      count_(count),
      length_(length),
      overlap_(overlap),
      labels_(std::max<std::int64_t>(text.size() - 1, 0)) {
  if (limit > 0) {
    labels_ = std::min(labels_, limit);
  }
}

Windows EvaluationWindows::next() {
  Windows windows;
  windows.context = position_ == 0 ? 0 : overlap_;
  windows.length = std::min(length_, windows.context + labels_ - position_);
  const std::int64_t counted = windows.length - windows.context;
  const std::int64_t most = windows.context < overlap_ ? 1 : count_;
  while (windows.count < most && counted > 0 && labels_ - position_ >= counted) {
    append(windows, text_, position_ - windows.context);
    position_ += counted;
  }
  return windows;
}

std::string context_rule(std::int64_t length, std::int64_t overlap, const std::string& one,
                         const std::string& many) {
  if (overlap > 0) {
    return fmt::format(
        "windows of {0} {4} that overlap by {1}: every {3} but the first of the split is predicted "
        "once, from the {2} to {0} {4} before it, those of the first window from 1 on",
        length, overlap, overlap + 1, one, many);
  }
  return fmt::format(
      "consecutive windows of {0} {2}, each started cold: every {1} but the first of the split is "
      "predicted, from the 1 to {0} {2} before it in its window",
      length, one, many);
}

}  // namespace enwik8
