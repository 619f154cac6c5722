// SPDX-License-Identifier: MIT
/// @file
/// Pictures: read from PNG and JPEG, scaled, written as PNG.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace images {

/// Red, green and blue of each pixel, in raster order.
struct Picture {
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::vector<std::uint8_t> rgb;

  std::uint8_t* pixel(std::int64_t x, std::int64_t y) { return rgb.data() + 3 * (y * width + x); }
  const std::uint8_t* pixel(std::int64_t x, std::int64_t y) const {
    return rgb.data() + 3 * (y * width + x);
  }
};

/// All of one colour.
Picture blank(std::int64_t width, std::int64_t height, std::uint8_t value);

/// Pixels of a side that are read at most.
inline constexpr std::int64_t most_pixels = 30'000;

/// Whether these bytes begin as a PNG or JPEG file does.
bool is_picture(std::span<const std::uint8_t> file);

/// Reads a PNG file of any kind, or a JPEG file of one (grey) or three channels; what is
/// transparent stands before white. 16 bits become 8; what a file says about its gamma is not
/// looked at.
/// @param name  for errors
/// @throw std::runtime_error with one line when it is neither, too large, truncated or damaged, or
///   has the colours of print (CMYK)
Picture read_picture(std::span<const std::uint8_t> file, const std::string& name);

/// The square in the middle, in `size` x `size` pixels, each of which is the mean over its area.
/// @param picture  of `size` pixels and more in both directions
Picture scaled(const Picture& picture, std::int64_t size);

/// @throw std::runtime_error when it cannot be written; an old file of that name stays then
void write_png(const std::filesystem::path& path, const Picture& picture);

/// @throw std::runtime_error when it cannot be read
std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path);

}  // namespace images
