// SPDX-License-Identifier: MIT
#include "picture_set.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <unordered_set>
#include <utility>

#include "reformer/foundation/parallel.hpp"
#include "reformer/io/checksum.hpp"

namespace images {
namespace {

namespace fs = std::filesystem;

using Bytes = std::span<const std::uint8_t>;

constexpr std::int64_t thumbnail_side = 8;
/// Correlation of thumbnails from which pictures are near-copies.
constexpr float alike = 0.985F;

std::uint32_t checksum_of(Bytes bytes, std::uint32_t before = 0) {
  return reformer::crc32(std::as_bytes(bytes), before);
}

std::uint32_t big_endian(Bytes bytes, std::size_t at) {
  return std::uint32_t{bytes[at]} << 24 | std::uint32_t{bytes[at + 1]} << 16 |
         std::uint32_t{bytes[at + 2]} << 8 | std::uint32_t{bytes[at + 3]};
}

/// A picture that was not decoded yet.
struct Source {
  std::string name;
  fs::path file;                       // read when it is its turn, if not empty
  std::vector<std::uint8_t> contents;  // or this
};

/// The PNG files in the table of colour bitmaps (CBDT) of a font, or nothing if there is none.
std::vector<Source> pictures_in_font(const fs::path& file, Bytes font) {
  std::vector<Source> found;
  constexpr std::size_t header = 12, entry = 16;
  const std::size_t tables = font.size() < header ? 0 : std::size_t{font[4]} << 8 | font[5];
  for (std::size_t t = 0; t < tables && header + (t + 1) * entry <= font.size(); ++t) {
    const std::size_t at = header + t * entry;
    const std::size_t begin = big_endian(font, at + 8), length = big_endian(font, at + 12);
    if (std::string_view(reinterpret_cast<const char*>(font.data() + at), 4) != "CBDT" ||
        begin > font.size() || length > font.size() - begin) {
      continue;
    }
    const std::string_view table(reinterpret_cast<const char*>(font.data() + begin), length);
    constexpr std::string_view start("\x89PNG\r\n\x1a\n", 8), end("IEND");
    for (std::size_t p = table.find(start); p != std::string_view::npos;
         p = table.find(start, p + 1)) {
      const std::size_t last = table.find(end, p);
      const std::size_t stop =
          last == std::string_view::npos ? table.size() : std::min(last + 8, table.size());
      const Bytes png = font.subspan(begin + p, stop - p);
      found.push_back({fmt::format("{}, picture {}", file.string(), found.size() + 1),
                       {},
                       {png.begin(), png.end()}});
    }
  }
  return found;
}

bool has_picture_name(const fs::path& file) {
  std::string extension = file.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

std::vector<Source> sources_in(const fs::path& place) {
  std::error_code error;
  if (!fs::exists(place, error)) {
    throw std::runtime_error(
        fmt::format("pictures '{}': there is no such file or folder", place.string()));
  }
  if (!fs::is_directory(place)) {
    const std::vector<std::uint8_t> contents = read_bytes(place);
    std::vector<Source> found = pictures_in_font(place, contents);
    if (found.empty()) {
      found.push_back({place.string(), {}, contents});
    }
    return found;
  }
  std::vector<Source> found;
  fs::recursive_directory_iterator files(place, error);
  for (; !error && files != fs::recursive_directory_iterator(); files.increment(error)) {
    std::error_code ignored;
    if (!files->is_symlink(ignored) && files->is_regular_file(ignored) &&
        has_picture_name(files->path())) {
      found.push_back({files->path().string(), files->path(), {}});
    }
  }
  if (error) {
    throw std::runtime_error(
        fmt::format("pictures '{}' cannot be read: {}", place.string(), error.message()));
  }
  if (found.empty()) {
    throw std::runtime_error(fmt::format(
        "pictures '{}': no file in this folder is named .png, .jpg or .jpeg", place.string()));
  }
  std::sort(found.begin(), found.end(),
            [](const Source& a, const Source& b) { return a.name < b.name; });
  return found;
}

/// What became of a source.
struct Read {
  std::optional<Picture> picture;  // nothing if it is too small
  std::int64_t width = 0, height = 0;
  std::string error;
};

Read read_scaled(const Source& source, std::int64_t size) {
  try {
    const Picture picture = source.file.empty()
                                ? read_picture(source.contents, source.name)
                                : read_picture(read_bytes(source.file), source.name);
    Read read{std::nullopt, picture.width, picture.height, {}};
    if (std::min(picture.width, picture.height) >= size) {
      read.picture = scaled(picture, size);
    }
    return read;
  } catch (const std::exception& error) {
    return {std::nullopt, 0, 0, error.what()};
  }
}

}  // namespace

Picture Pictures::picture(std::int64_t i) const {
  const auto values = (*this)[i];
  return {size_, size_, {values.begin(), values.end()}};
}

std::int64_t PictureSet::bytes() const {
  return std::ssize(train.values()) + std::ssize(validation.values()) + std::ssize(test.values());
}

std::uint32_t PictureSet::checksum() const {
  return checksum_of(test.values(), checksum_of(validation.values(), checksum_of(train.values())));
}

std::vector<std::int64_t> near_copies(const Pictures& pictures) {
  constexpr std::size_t n = thumbnail_side * thumbnail_side;
  using Thumbnail = std::array<float, n>;
  const std::int64_t count = pictures.count();
  std::vector<Thumbnail> thumbnails(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const Picture full = pictures.picture(i);
    const Picture small = scaled(full, std::min(thumbnail_side, full.width));
    Thumbnail& thumbnail = thumbnails[static_cast<std::size_t>(i)];
    thumbnail.fill(0);
    float mean = 0;
    for (std::size_t p = 0; p < small.rgb.size() / 3; ++p) {
      for (std::size_t c = 0; c < 3; ++c) {
        thumbnail[p] += small.rgb[3 * p + c];
      }
      mean += thumbnail[p] / static_cast<float>(small.rgb.size() / 3);
    }
    float squares = 0;
    for (std::size_t p = 0; p < small.rgb.size() / 3; ++p) {
      thumbnail[p] -= mean;
      squares += thumbnail[p] * thumbnail[p];
    }
    for (float& value : thumbnail) {
      value /= std::sqrt(std::max(squares, 1.0F));
    }
  }
  std::vector<std::int64_t> group(static_cast<std::size_t>(count));
  std::iota(group.begin(), group.end(), 0);
  const auto first_of = [&](std::int64_t i) {
    while (group[static_cast<std::size_t>(i)] != i) {
      i = group[static_cast<std::size_t>(i)];
    }
    return i;
  };
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      const Thumbnail& a = thumbnails[static_cast<std::size_t>(i)];
      const Thumbnail& b = thumbnails[static_cast<std::size_t>(j)];
      float product = 0;
      for (std::size_t p = 0; p < n; ++p) {
        product += a[p] * b[p];
      }
      if (product >= alike) {
        const std::int64_t one = first_of(i), other = first_of(j);
        group[static_cast<std::size_t>(std::max(one, other))] = std::min(one, other);
      }
    }
  }
  for (std::int64_t i = 0; i < count; ++i) {
    group[static_cast<std::size_t>(i)] = first_of(i);
  }
  return group;
}

namespace {

/// The different pictures of a place; counts what is left out.
Pictures read_all(const fs::path& place, std::int64_t size, std::int64_t& left_out,
                  std::int64_t& duplicates) {
  const std::vector<Source> sources = sources_in(place);
  std::vector<Read> read(sources.size());
  reformer::parallel_for(reformer::default_threads(), std::ssize(sources),
                         [&](std::int64_t i, int) {
                           const auto at = static_cast<std::size_t>(i);
                           read[at] = read_scaled(sources[at], size);
                         });
  Pictures all(size);
  std::unordered_set<std::string> known;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    if (!read[i].error.empty()) {
      throw std::runtime_error(read[i].error);
    }
    if (!read[i].picture) {
      ++left_out;
    } else if (known.emplace(read[i].picture->rgb.begin(), read[i].picture->rgb.end()).second) {
      all.add(read[i].picture->rgb);
    } else {
      ++duplicates;
    }
  }
  if (all.count() == 0) {
    throw std::runtime_error(
        fmt::format("pictures '{}': none has {} x {} pixels or more; '{}' has {} x {}",
                    place.string(), size, size, sources[0].name, read[0].width, read[0].height));
  }
  return all;
}

}  // namespace

Pictures pictures_in(const fs::path& place, std::int64_t size) {
  std::int64_t left_out = 0, duplicates = 0;
  return read_all(place, size, left_out, duplicates);
}

PictureSet read_pictures(const fs::path& place, std::int64_t size) {
  PictureSet set{place.string(), Pictures(size), Pictures(size), Pictures(size), 0, 0, 0};
  const Pictures all = read_all(place, size, set.left_out, set.duplicates);
  const std::vector<std::int64_t> group_of = near_copies(all);
  std::map<std::int64_t, std::uint32_t> place_of;  // of each group
  for (std::int64_t i = 0; i < all.count(); ++i) {
    const std::uint32_t checksum = checksum_of(all[i]);
    const auto [found, is_new] =
        place_of.try_emplace(group_of[static_cast<std::size_t>(i)], checksum);
    found->second = std::min(found->second, checksum);
  }
  set.groups = std::ssize(place_of);
  for (std::int64_t i = 0; i < all.count(); ++i) {
    // The smallest of several numbers is small; its own checksum is not.
    std::array<std::uint8_t, 4> digits{};
    const std::uint32_t smallest = place_of[group_of[static_cast<std::size_t>(i)]];
    for (std::size_t d = 0; d < 4; ++d) {
      digits[d] = static_cast<std::uint8_t>(smallest >> (8 * d));
    }
    const std::uint32_t twentieth = checksum_of(digits) % 20;
    (twentieth == 0 ? set.test : twentieth == 1 ? set.validation : set.train).add(all[i]);
  }
  if (set.train.count() == 0 || set.validation.count() == 0 || set.test.count() == 0) {
    throw std::runtime_error(fmt::format(
        "pictures '{}': of {} different ones {} fall to training, {} to validation and {} to test "
        "(nine tenths and a twentieth each, by their contents), and each part needs one; give more",
        place.string(), all.count(), set.train.count(), set.validation.count(), set.test.count()));
  }
  return set;
}

fs::path pictures_place(const std::string& place) {
  if (!place.empty()) {
    return place;
  }
  std::error_code ignored;
  if (!fs::exists(emoji_font, ignored)) {
    throw std::runtime_error(
        fmt::format("there is no '{}': install fonts-noto-color-emoji, or name a folder of "
                    "pictures with --data",
                    emoji_font));
  }
  return emoji_font;
}

}  // namespace images
