// SPDX-License-Identifier: MIT
#include "drawing.hpp"

#include <algorithm>
#include <cstring>

#include "training/stopwatch.hpp"

namespace images {
namespace {

constexpr std::int64_t least_cell = 96;  // pixels, to which small pictures are magnified
constexpr std::int64_t margin = 4;
/// So far that pictures of neighbouring seeds have none in common.
constexpr std::uint64_t seed_step = 0x9e3779b97f4a7c15;

/// The picture with its lower half in grey.
Picture without_lower_half(const Picture& picture) {
  Picture half = picture;
  std::fill(half.rgb.begin() + upper_half(picture.width), half.rgb.end(), std::uint8_t{128});
  return half;
}

}  // namespace

training::Windows windows_of(const Pictures& pictures, const std::vector<std::int64_t>& which) {
  training::Windows windows;
  windows.length = pictures.values_of_one();
  for (const std::int64_t i : which) {
    const auto values = pictures[i];
    windows.inputs.push_back(0);
    windows.inputs.insert(windows.inputs.end(), values.begin(), values.end() - 1);
    windows.labels.insert(windows.labels.end(), values.begin(), values.end());
    ++windows.count;
    windows.label_bytes += windows.length;
  }
  return windows;
}

std::int64_t upper_half(std::int64_t size) {
  return 3 * size * (size / 2);
}

std::vector<Picture> draw(training::TokenModel& model, const std::vector<Picture>& begun,
                          std::int64_t given, double temperature, std::uint64_t seed,
                          const std::function<void()>& each) {
  std::vector<Picture> pictures = begun;
  for (Picture& picture : pictures) {
    const auto begin = picture.rgb.begin() + given;
    std::vector<std::int32_t> prompt{0};
    prompt.insert(prompt.end(), picture.rgb.begin(), begin);
    auto next = begin;
    model.generate(prompt, picture.rgb.end() - begin, {.temperature = temperature}, seed,
                   [&](std::int32_t value) {
                     *next++ = static_cast<std::uint8_t>(value);
                     each();
                     return true;
                   });
    seed += seed_step;
  }
  return pictures;
}

double drawing_seconds(training::TokenModel& model, std::int64_t count, std::int64_t given,
                       std::int64_t drawn) {
  const std::vector<std::int32_t> prompt(static_cast<std::size_t>(given) + 1, 0);
  const auto seconds_of = [&](std::int64_t values) {
    const training::Stopwatch watch;
    model.generate(prompt, values, {}, 1, [](std::int32_t) { return true; });
    return watch.seconds();
  };
  // Of what both take, reading what is given is no part of each value.
  constexpr std::int64_t few = 4, more = 32;
  const double first = seconds_of(few), second = seconds_of(more);
  const double each = std::max(second - first, 0.0) / (more - few);
  return static_cast<double>(count) *
         (first + each * static_cast<double>(std::max<std::int64_t>(drawn - few, 0)));
}

Picture grid(const std::vector<std::vector<Picture>>& rows) {
  const std::int64_t size = rows.at(0).at(0).width;
  const std::int64_t factor = std::max<std::int64_t>((least_cell + size - 1) / size, 1);
  const std::int64_t cell = factor * size + margin;
  Picture all = blank(std::ssize(rows[0]) * cell + margin, std::ssize(rows) * cell + margin, 255);
  for (std::int64_t r = 0; r < std::ssize(rows); ++r) {
    const auto& row = rows[static_cast<std::size_t>(r)];
    for (std::int64_t c = 0; c < std::ssize(row); ++c) {
      for (std::int64_t y = 0; y < factor * size; ++y) {
        for (std::int64_t x = 0; x < factor * size; ++x) {
          std::memcpy(all.pixel(margin + c * cell + x, margin + r * cell + y),
                      row[static_cast<std::size_t>(c)].pixel(x / factor, y / factor), 3);
        }
      }
    }
  }
  return all;
}

std::vector<std::vector<Picture>> in_rows(const std::vector<Picture>& pictures) {
  std::size_t columns = 1;
  while (columns * columns < 2 * pictures.size()) {
    ++columns;
  }
  columns = std::min(columns, pictures.size());
  std::vector<std::vector<Picture>> rows;
  for (std::size_t i = 0; i < pictures.size(); i += columns) {
    const std::size_t end = std::min(i + columns, pictures.size());
    rows.emplace_back(pictures.begin() + static_cast<std::ptrdiff_t>(i),
                      pictures.begin() + static_cast<std::ptrdiff_t>(end));
  }
  return rows;
}

std::vector<std::vector<Picture>> completions_of(training::TokenModel& model,
                                                 const std::vector<Picture>& originals,
                                                 double temperature, std::uint64_t seed,
                                                 const std::function<void()>& each) {
  std::vector<Picture> begun;
  for (std::int64_t i = 0; i < alternatives; ++i) {
    for (const Picture& original : originals) {
      begun.push_back(without_lower_half(original));
    }
  }
  const std::vector<Picture> drawn =
      draw(model, begun, upper_half(originals.at(0).width), temperature, seed, each);
  std::vector<std::vector<Picture>> rows;
  for (std::size_t i = 0; i < originals.size(); ++i) {
    rows.push_back({originals[i], begun[i]});
    for (std::size_t place = i; place < drawn.size(); place += originals.size()) {
      rows.back().push_back(drawn[place]);
    }
  }
  return rows;
}

}  // namespace images
