// SPDX-License-Identifier: MIT
#include "picture.hpp"

// The header of libjpeg needs what stands before it.
#include <cstddef>
#include <cstdio>
// clang-format off
#include <jpeglib.h>
// clang-format on
#include <fmt/format.h>
#include <png.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csetjmp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "reformer/io/atomic_file.hpp"

namespace images {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view png_start = "\x89PNG\r\n\x1a\n"sv;
constexpr std::string_view jpeg_start = "\xff\xd8\xff"sv;

bool begins_with(std::span<const std::uint8_t> file, std::string_view start) {
  return file.size() >= start.size() && std::memcmp(file.data(), start.data(), start.size()) == 0;
}

[[noreturn]] void fail(const std::string& name, const std::string& reason) {
  throw std::runtime_error(fmt::format("picture '{}' {}", name, reason));
}

void check_size(const std::string& name, std::int64_t width, std::int64_t height) {
  if (width < 1 || height < 1 || width > most_pixels || height > most_pixels) {
    fail(name, fmt::format("has {} x {} pixels; allowed: 1 to {} in each direction", width, height,
                           most_pixels));
  }
}

/// What libpng's functions are called back with.
struct PngFile {
  std::span<const std::uint8_t> rest;
  std::jmp_buf back;
  std::array<char, 200> message{};
};

void read_more(png_structp reader, png_bytep to, std::size_t count) {
  auto* file = static_cast<PngFile*>(png_get_io_ptr(reader));
  if (count > file->rest.size()) {
    png_error(reader, "it ends too early");
  }
  std::memcpy(to, file->rest.data(), count);
  file->rest = file->rest.subspan(count);
}

void jump_back(png_structp reader, png_const_charp message) {
  auto* file = static_cast<PngFile*>(png_get_error_ptr(reader));
  std::strncpy(file->message.data(), message, file->message.size() - 1);
  std::longjmp(file->back, 1);
}

/// Nothing with a destructor may be made here, and nothing of its own changed: it may be jumped
/// over.
/// @param rgba  made as large as the picture
/// @return whether the picture was read; otherwise it is too large, or there is a message
bool decode(PngFile& file, png_structp reader, png_infop info, Picture& picture,
            std::vector<std::uint8_t>& rgba, std::vector<png_bytep>& rows) {
  if (setjmp(file.back) != 0) {
    return false;
  }
  png_set_user_limits(reader, 0x7fffffff, 0x7fffffff);
  png_set_read_fn(reader, &file, &read_more);
  png_read_info(reader, info);
  picture.width = png_get_image_width(reader, info);
  picture.height = png_get_image_height(reader, info);
  if (picture.width > most_pixels || picture.height > most_pixels) {
    return false;
  }
  png_set_expand(reader);
  png_set_scale_16(reader);
  png_set_gray_to_rgb(reader);
  png_set_add_alpha(reader, 0xff, PNG_FILLER_AFTER);
  png_set_interlace_handling(reader);
  png_read_update_info(reader, info);
  rgba.resize(4 * static_cast<std::size_t>(picture.width * picture.height));
  rows.resize(static_cast<std::size_t>(picture.height));
  for (std::size_t y = 0; y < rows.size(); ++y) {
    rows[y] = rgba.data() + 4 * y * static_cast<std::size_t>(picture.width);
  }
  png_read_image(reader, rows.data());
  png_read_end(reader, nullptr);
  return true;
}

Picture read_png(std::span<const std::uint8_t> bytes, const std::string& name) {
  Picture picture;
  std::vector<std::uint8_t> rgba;
  std::vector<png_bytep> rows;
  PngFile file{.rest = bytes, .back = {}};
  png_structp reader = png_create_read_struct(PNG_LIBPNG_VER_STRING, &file, &jump_back,
                                              [](png_structp, png_const_charp) {});
  png_infop info = reader != nullptr ? png_create_info_struct(reader) : nullptr;
  if (info == nullptr) {
    png_destroy_read_struct(&reader, nullptr, nullptr);
    throw std::bad_alloc();
  }
  const bool is_read = decode(file, reader, info, picture, rgba, rows);
  png_destroy_read_struct(&reader, &info, nullptr);
  if (!is_read && file.message[0] == '\0') {
    check_size(name, picture.width, picture.height);
  }
  if (!is_read) {
    fail(name, fmt::format("is a PNG file that is truncated or damaged: {}", file.message.data()));
  }
  picture.rgb.resize(rgba.size() / 4 * 3);
  for (std::size_t i = 0; i < rgba.size() / 4; ++i) {
    const unsigned alpha = rgba[4 * i + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      const unsigned over_white = rgba[4 * i + c] * alpha + 255 * (255 - alpha);
      picture.rgb[3 * i + c] = static_cast<std::uint8_t>((over_white + 127) / 255);
    }
  }
  return picture;
}

/// libjpeg reports errors by calling this, which must not return.
struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf back;
  std::array<char, JMSG_LENGTH_MAX> message;
};

void jump_back(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->base.format_message(info, errors->message.data());
  std::longjmp(errors->back, 1);
}

/// Keeps the first warning, which mostly says that the file is damaged.
void keep_warning(j_common_ptr info, int level) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  if (level < 0 && errors->base.num_warnings++ == 0) {
    errors->base.format_message(info, errors->message.data());
  }
}

struct JpegFile {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
};

bool is_print(const JpegFile& jpeg) {
  return jpeg.info.jpeg_color_space == JCS_CMYK || jpeg.info.jpeg_color_space == JCS_YCCK;
}

/// Nothing with a destructor may be made here, and nothing of its own changed: it may be jumped
/// over.
/// @return whether the picture was read; otherwise it is too large, for print, or there is a
/// message
bool decode(JpegFile& jpeg, std::span<const std::uint8_t> file, Picture& picture) {
  if (setjmp(jpeg.errors.back) != 0) {
    return false;
  }
  jpeg_create_decompress(&jpeg.info);
  jpeg_mem_src(&jpeg.info, file.data(), static_cast<unsigned long>(file.size()));
  jpeg_read_header(&jpeg.info, TRUE);
  picture.width = jpeg.info.image_width;
  picture.height = jpeg.info.image_height;
  if (is_print(jpeg) || picture.width > most_pixels || picture.height > most_pixels) {
    return false;
  }
  jpeg.info.out_color_space = JCS_RGB;
  picture.rgb.resize(3 * static_cast<std::size_t>(picture.width * picture.height));
  jpeg_start_decompress(&jpeg.info);
  while (jpeg.info.output_scanline < jpeg.info.output_height) {
    JSAMPROW row = picture.pixel(0, jpeg.info.output_scanline);
    jpeg_read_scanlines(&jpeg.info, &row, 1);
  }
  jpeg_finish_decompress(&jpeg.info);
  return jpeg.errors.base.num_warnings == 0;
}

Picture read_jpeg(std::span<const std::uint8_t> file, const std::string& name) {
  Picture picture;
  JpegFile jpeg;
  jpeg.info.err = jpeg_std_error(&jpeg.errors.base);
  jpeg.errors.base.error_exit = &jump_back;
  jpeg.errors.base.emit_message = &keep_warning;
  const bool is_read = decode(jpeg, file, picture);
  const bool was_print = is_print(jpeg);
  jpeg_destroy_decompress(&jpeg.info);
  if (is_read) {
    return picture;
  }
  if (was_print) {
    fail(name, "is a JPEG file with the colours of print (CMYK); convert it to RGB");
  }
  if (jpeg.errors.message[0] == '\0') {
    check_size(name, picture.width, picture.height);
  }
  fail(name,
       fmt::format("is a JPEG file that is truncated or damaged: {}", jpeg.errors.message.data()));
}

/// For each of `size` pixels of a row or column of `count`, which of these it covers and how much.
struct Share {
  std::int64_t from;
  double weight;
};
std::vector<std::vector<Share>> shares_of(std::int64_t count, std::int64_t size) {
  std::vector<std::vector<Share>> shares(static_cast<std::size_t>(size));
  const double step = static_cast<double>(count) / static_cast<double>(size);
  for (std::int64_t i = 0; i < size; ++i) {
    const double begin = static_cast<double>(i) * step;
    const double end = begin + step;
    for (auto j = static_cast<std::int64_t>(begin); j < count && static_cast<double>(j) < end;
         ++j) {
      const double covered =
          std::min(end, static_cast<double>(j + 1)) - std::max(begin, static_cast<double>(j));
      shares[static_cast<std::size_t>(i)].push_back({j, covered / step});
    }
  }
  return shares;
}

}  // namespace

Picture blank(std::int64_t width, std::int64_t height, std::uint8_t value) {
  return {width, height,
          std::vector<std::uint8_t>(static_cast<std::size_t>(3 * width * height), value)};
}

bool is_picture(std::span<const std::uint8_t> file) {
  return begins_with(file, png_start) || begins_with(file, jpeg_start);
}

Picture read_picture(std::span<const std::uint8_t> file, const std::string& name) {
  if (begins_with(file, png_start)) {
    return read_png(file, name);
  }
  if (begins_with(file, jpeg_start)) {
    return read_jpeg(file, name);
  }
  fail(name, file.empty() ? "is empty" : "is neither a PNG nor a JPEG file");
}

Picture scaled(const Picture& picture, std::int64_t size) {
  const std::int64_t side = std::min(picture.width, picture.height);
  const std::int64_t left = (picture.width - side) / 2;
  const std::int64_t top = (picture.height - side) / 2;
  const auto shares = shares_of(side, size);
  Picture result = blank(size, size, 0);
  for (std::int64_t y = 0; y < size; ++y) {
    for (std::int64_t x = 0; x < size; ++x) {
      std::array<double, 3> sums{};
      for (const Share& row : shares[static_cast<std::size_t>(y)]) {
        for (const Share& column : shares[static_cast<std::size_t>(x)]) {
          const std::uint8_t* pixel = picture.pixel(left + column.from, top + row.from);
          for (std::size_t c = 0; c < 3; ++c) {
            sums[c] += row.weight * column.weight * pixel[c];
          }
        }
      }
      for (std::size_t c = 0; c < 3; ++c) {
        result.pixel(x, y)[c] = static_cast<std::uint8_t>(std::lround(std::min(sums[c], 255.0)));
      }
    }
  }
  return result;
}

void write_png(const std::filesystem::path& path, const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  std::string file(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = file.size();
  if (png_image_write_to_memory(&image, file.data(), &size, 0, picture.rgb.data(), 0, nullptr) ==
      0) {
    throw std::runtime_error(
        fmt::format("cannot write picture '{}': {}", path.string(), image.message));
  }
  file.resize(size);
  reformer::write_file_atomically(path, file);
}

std::vector<std::uint8_t> read_bytes(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored) && !std::filesystem::is_regular_file(path, ignored)) {
    throw std::runtime_error(
        fmt::format("picture '{}' is not a regular file", path.string()));  // a pipe waits
  }
  std::ifstream file(path, std::ios::binary);
  std::vector<std::uint8_t> bytes;
  if (file) {
    bytes.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  if (!file || file.bad()) {
    throw std::runtime_error(fmt::format("picture '{}' cannot be read: {}", path.string(),
                                         std::generic_category().message(errno)));
  }
  return bytes;
}

}  // namespace images
