// SPDX-License-Identifier: MIT
/// @file
/// Files of events, from which TensorBoard draws curves.
///
/// A file is a sequence of records: length (8 bytes), masked CRC-32C of these (4), the message,
/// masked CRC-32C of it (4), all little endian. A message is an `Event` of TensorFlow's
/// event.proto. The first one says "brain.Event:2"; the second that a process begins after a step,
/// whereupon TensorBoard forgets what older files of the folder tell of later steps.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace training {

class EventFile {
 public:
  /// A new file `events.out.tfevents.<seconds>.<host>.<process>` in `folder`.
  /// @param step  after which this process begins
  /// @throw std::runtime_error when it cannot be written
  EventFile(const std::filesystem::path& folder, std::int64_t step);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  /// Adds the numbers of a record of metrics.jsonl, each as a scalar `<type>/<name>`, at its step.
  /// A record without a step adds nothing. What is added goes to the file at once.
  /// @throw std::runtime_error when the disk does not take it
  void add(const nlohmann::json& record);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// CRC-32C (Castagnoli) of some bytes, as TensorFlow masks it.
std::uint32_t masked_crc32c(std::string_view bytes);

}  // namespace training
