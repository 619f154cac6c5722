// SPDX-License-Identifier: MIT
/// @file
/// The pictures to learn from, in one size, and their split into parts for training, validation and
/// test.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "picture.hpp"

namespace images {

/// Where Debian's package fonts-noto-color-emoji has its font, whose 3,900 emoji are pictures.
inline constexpr const char* emoji_font = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf";

/// Pictures of one size, one after another, each in raster order, three values for each pixel.
class Pictures {
 public:
  explicit Pictures(std::int64_t size = 0) : size_(size) {}

  std::int64_t size() const { return size_; }
  std::int64_t values_of_one() const { return 3 * size_ * size_; }
  std::int64_t count() const {
    return size_ == 0 ? 0 : static_cast<std::int64_t>(values_.size()) / values_of_one();
  }
  std::span<const std::uint8_t> operator[](std::int64_t i) const {
    return {values_.data() + i * values_of_one(), static_cast<std::size_t>(values_of_one())};
  }
  Picture picture(std::int64_t i) const;
  void add(std::span<const std::uint8_t> values) {
    values_.insert(values_.end(), values.begin(), values.end());
  }
  std::span<const std::uint8_t> values() const { return values_; }

 private:
  std::int64_t size_;
  std::vector<std::uint8_t> values_;
};

struct PictureSet {
  std::string source;
  Pictures train, validation, test;
  std::int64_t left_out = 0;    ///< pictures that were smaller than asked for
  std::int64_t duplicates = 0;  ///< pictures with the pixels of another one
  std::int64_t groups = 0;      ///< of near-copies, which stay together

  std::int64_t count() const { return train.count() + validation.count() + test.count(); }
  std::int64_t bytes() const;
  /// CRC-32 of all pictures, part by part.
  std::uint32_t checksum() const;
};

/// The number of the group of each picture: near-copies, whose thumbnails in grey are alike but for
/// brightness and contrast, are of one group, and so are near-copies of these.
std::vector<std::int64_t> near_copies(const Pictures& pictures);

/// All different pictures of a place, as `read_pictures` finds and scales them.
Pictures pictures_in(const std::filesystem::path& place, std::int64_t size);

/// Reads all pictures of a folder and the folders in it, but not what symbolic links there point
/// to, one picture, or the pictures in a font. Equal ones count once. Whole groups of near-copies
/// go to one part: 5 % each to validation and to test, by the checksum of their smallest picture,
/// so that where a picture belongs does not depend on its name or on what else there is.
/// @param size  of the pictures that are returned; smaller ones are left out
/// @throw std::runtime_error with one line when there is nothing to read, what is there is damaged,
///   or a part would be empty
PictureSet read_pictures(const std::filesystem::path& place, std::int64_t size);

/// `place`, or the emoji if it is empty. @throw std::runtime_error when these are not there
std::filesystem::path pictures_place(const std::string& place);

}  // namespace images
