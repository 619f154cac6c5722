// SPDX-License-Identifier: MIT
/// @file
/// Bits per byte by the distance of what a byte repeats.
///
/// Most bytes are predicted from the last hundred, so a mean over all hides what attention to far
/// places gives. A byte *continues a repetition* if it and the `repeated_bytes` before it stand
/// once more, earlier in its window; its distance is that to the last such place. Bytes are summed
/// in classes of distances, those that continue no repetition apart.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "training/loss_sum.hpp"
#include "windows.hpp"

namespace enwik8 {

using training::LossSum;

/// Bytes before a byte that must be repeated as well.
inline constexpr std::int64_t repeated_bytes = 8;

/// For each label of a window, how far back the repetition lies that it continues, at least 1; 0 if
/// it continues none.
/// @param text  the window's inputs and, as the last one, the label after them
std::vector<std::int64_t> repetition_distances(std::span<const std::uint8_t> text);
/// The same of one of some windows.
std::vector<std::int64_t> repetition_distances(const Windows& windows, std::int64_t window);

/// The largest distance of each class of distances.
/// @param reach   bytes that local layers look back, one after another; a limit between classes,
///   like 1,024, 4,096, 16,384 and 65,536; 0: there are none
/// @param length  of a window, beyond which there are no classes
std::vector<std::int64_t> distance_limits(std::int64_t reach, std::int64_t length);

/// "1 to 254"
std::string distances_text(std::int64_t from, std::int64_t to);

class DistanceClasses {
 public:
  /// @param reach,length  as for `distance_limits`
  DistanceClasses(std::int64_t reach, std::int64_t length);

  /// Adds the losses of all labels, in nats.
  void add(const Windows& windows, std::span<const double> losses);

  /// A list of {"from", "to", "bytes", "share" of all bytes, "bpb"}, in the order of distances; the
  /// last one, of bytes that continue no repetition, has no distances. "bpb" is null without bytes.
  nlohmann::json to_json() const;

  /// A table for people.
  std::vector<std::string> lines() const;

 private:
  struct Class {
    std::int64_t to;  // the largest distance; 0: continues no repetition
    LossSum loss;
  };
  std::vector<Class> classes_;
};

}  // namespace enwik8
