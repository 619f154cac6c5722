// SPDX-License-Identifier: MIT
#include "event_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>

namespace training {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t remainder = i;
    for (int bit = 0; bit < 8; ++bit) {
      remainder = (remainder >> 1) ^ ((remainder & 1) != 0 ? 0x82f63b78U : 0U);
    }
    table[i] = remainder;
  }
  return table;
}

// ---- the wire format of protocol buffers

enum class Wire : std::uint64_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

void put_varint(std::string& to, std::uint64_t value) {
  for (; value >= 128; value >>= 7) {
    to += static_cast<char>(value % 128 + 128);
  }
  to += static_cast<char>(value);
}

template <typename Unsigned>
void put_fixed(std::string& to, Unsigned value) {
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) {
    to += static_cast<char>(value >> (8 * i) & 255);
  }
}

void put_field(std::string& to, std::uint64_t number, Wire wire) {
  put_varint(to, number * 8 + static_cast<std::uint64_t>(wire));
}

void put_bytes(std::string& to, std::uint64_t number, std::string_view bytes) {
  put_field(to, number, Wire::bytes);
  put_varint(to, bytes.size());
  to += bytes;
}

/// message Event { double wall_time = 1; int64 step = 2; ... }
std::string event_of(std::int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  std::string event;
  put_field(event, 1, Wire::fixed64);
  put_fixed(event, std::bit_cast<std::uint64_t>(now.count()));
  put_field(event, 2, Wire::varint);
  put_varint(event, static_cast<std::uint64_t>(step));
  return event;
}

std::string record_of(std::string_view event) {
  std::string record;
  put_fixed(record, std::uint64_t{event.size()});
  put_fixed(record, masked_crc32c(record));
  record += event;
  put_fixed(record, masked_crc32c(event));
  return record;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

void write_all(int descriptor, std::string_view text, const fs::path& path) {
  while (!text.empty()) {
    const ssize_t now = ::write(descriptor, text.data(), text.size());
    if (now >= 0) {
      text.remove_prefix(static_cast<std::size_t>(now));
    } else if (errno != EINTR) {
      throw std::runtime_error(fmt::format("cannot write '{}': {}", path.string(),
                                           std::generic_category().message(errno)));
    }
  }
}

}  // namespace

std::uint32_t masked_crc32c(std::string_view bytes) {
  static constexpr auto table = make_table();
  std::uint32_t remainder = ~0U;
  for (const char c : bytes) {
    remainder = (remainder >> 8) ^ table[(remainder ^ static_cast<unsigned char>(c)) & 255];
  }
  return std::rotr(~remainder, 15) + 0xa282ead8U;
}

EventFile::EventFile(const fs::path& folder, std::int64_t step) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  path_ = folder /
          fmt::format("events.out.tfevents.{:010}.{}.{}", seconds.count(), host_name(), ::getpid());
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    throw std::runtime_error(fmt::format("cannot write '{}': {}", path_.string(),
                                         std::generic_category().message(errno)));
  }
  std::string version = event_of(0);
  put_bytes(version, 3, "brain.Event:2");
  std::string start = event_of(step + 1);
  std::string session_log;  // { START } of enum SessionStatus
  put_field(session_log, 1, Wire::varint);
  put_varint(session_log, 1);
  put_bytes(start, 7, session_log);
  write_all(descriptor_, record_of(version) + record_of(start), path_);
}

EventFile::~EventFile() {
  ::close(descriptor_);
}

void EventFile::add(const json& record) {
  const auto step = record.find("step");
  if (step == record.end()) {
    return;
  }
  std::string summary;  // { repeated Value { string tag = 1; float simple_value = 2; } value = 1; }
  for (const auto& [name, number] : record.items()) {
    if (!number.is_number() || name == "step") {
      continue;
    }
    std::string value;
    put_bytes(value, 1, fmt::format("{}/{}", record.at("type").get<std::string>(), name));
    put_field(value, 2, Wire::fixed32);
    put_fixed(value, std::bit_cast<std::uint32_t>(number.get<float>()));
    put_bytes(summary, 1, value);
  }
  std::string event = event_of(step->get<std::int64_t>());
  put_bytes(event, 5, summary);
  write_all(descriptor_, record_of(event), path_);
}

}  // namespace training
