// SPDX-License-Identifier: MIT
// The header of libjpeg needs what stands before it.
#include <cstddef>
#include <cstdio>
// clang-format off
#include <jpeglib.h>
// clang-format on
#include <gtest/gtest.h>
#include <png.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "examples/run.hpp"
#include "images/drawing.hpp"
#include "images/options.hpp"
#include "images/picture_set.hpp"
#include "images/trainer.hpp"
#include "reformer/foundation/random.hpp"

namespace images::test {
namespace {

namespace fs = std::filesystem;

using namespace training::test;
using enwik8::test::Captured;
using enwik8::test::never_stop;
using enwik8::test::Outcome;
using enwik8::test::records_of;
using enwik8::test::snapshot_of;
using enwik8::test::operator+;

using File = std::vector<std::uint8_t>;

/// A picture whose values are random, but the same for a seed.
Picture noise(std::int64_t width, std::int64_t height, std::uint64_t seed) {
  const reformer::RandomStream stream({seed}, reformer::Purpose::data);
  Picture picture = blank(width, height, 0);
  for (std::size_t i = 0; i < picture.rgb.size(); ++i) {
    picture.rgb[i] = static_cast<std::uint8_t>(256 * stream.uniform(i));
  }
  return picture;
}

/// A PNG file of one of libpng's colour types; samples(x, y, channel) has 16 bits.
File png(std::uint32_t width, std::uint32_t height, int depth, int colours, int interlace,
         const std::function<unsigned(std::uint32_t, std::uint32_t, unsigned)>& samples) {
  File file;
  png_structp writer = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(writer);
  png_set_write_fn(
      writer, &file,
      [](png_structp w, png_bytep bytes, std::size_t count) {
        auto* to = static_cast<File*>(png_get_io_ptr(w));
        to->insert(to->end(), bytes, bytes + count);
      },
      [](png_structp) {});
  png_set_IHDR(writer, info, width, height, depth, colours, interlace, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_color> palette;
  for (int i = 0; i < 4; ++i) {
    const auto value = static_cast<png_byte>(60 * i);
    palette.push_back({value, static_cast<png_byte>(value + 1), static_cast<png_byte>(value + 2)});
  }
  const std::vector<png_byte> transparency = {255, 255, 0, 255};
  if (colours == PNG_COLOR_TYPE_PALETTE) {
    png_set_PLTE(writer, info, palette.data(), 4);
    png_set_tRNS(writer, info, transparency.data(), 4, nullptr);
  }
  png_write_info(writer, info);
  const unsigned channels = png_get_channels(writer, info);
  std::vector<File> rows(height);
  std::vector<png_bytep> pointers;
  for (std::uint32_t y = 0; y < height; ++y) {
    for (std::uint32_t x = 0; x < width; ++x) {
      for (unsigned c = 0; c < channels; ++c) {
        const unsigned sample = samples(x, y, c);
        rows[y].push_back(static_cast<std::uint8_t>(sample >> 8));
        if (depth == 16) {
          rows[y].push_back(static_cast<std::uint8_t>(sample));
        }
      }
    }
    pointers.push_back(rows[y].data());
  }
  png_write_image(writer, pointers.data());
  png_write_end(writer, nullptr);
  png_destroy_write_struct(&writer, &info);
  return file;
}

/// A JPEG file of one colour.
File jpeg(J_COLOR_SPACE colours, int channels, std::uint8_t value) {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = 16;
  info.image_height = 8;
  info.input_components = channels;
  info.in_color_space = colours;
  jpeg_set_defaults(&info);
  jpeg_set_quality(&info, 100, TRUE);
  jpeg_start_compress(&info, TRUE);
  std::vector<std::uint8_t> row(static_cast<std::size_t>(16 * channels), value);
  for (int y = 0; y < 8; ++y) {
    JSAMPROW pointer = row.data();
    jpeg_write_scanlines(&info, &pointer, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  File file(buffer, buffer + size);
  std::free(buffer);
  return file;
}

unsigned sample(std::uint32_t x, std::uint32_t y, unsigned c) {
  return (x * 37 + y * 91 + c * 50) % 256 * 257;
}

std::string text_of(const File& file) {
  return {file.begin(), file.end()};
}

class Images : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// A folder of random pictures.
  std::string some_pictures(int count = 70, std::int64_t size = 5) {
    fs::create_directories(path("pictures/more"));
    for (int i = 0; i < count; ++i) {
      write_png(path((i % 2 == 0 ? "pictures/" : "pictures/more/") + std::to_string(i) + ".png"),
                noise(size, size, static_cast<std::uint64_t>(i)));
    }
    return path("pictures");
  }

  Outcome train(const Strings& arguments, const training::StopRequested& stop = never_stop) const {
    Captured out, error;
    const int code =
        training::run_trainer(picture_trainer(), arguments,
                              {.out = out.file(), .error = error.file(), .terminal = false}, stop);
    return {code, out.text(), error.text()};
  }

  Strings tiny() {
    return {"--data",
            some_pictures(),
            "--size",
            "4",
            "--width",
            "12",
            "--heads",
            "2",
            "--threads",
            "1",
            "--layers",
            "local,bucket",
            "--steps",
            "6",
            "--samples",
            "3",
            "--completions",
            "2",
            "--warmup",
            "2",
            "--log-every",
            "1",
            "--batch",
            "2",
            "--chunk-length",
            "8",
            "--local-chunk-length",
            "16",
            "--eval-every",
            "4"};
  }

  TemporaryFolder folder_;
};

TEST_F(Images, AreReadFromEveryKindOfPng) {
  const std::vector<std::pair<int, int>> kinds{{8, PNG_COLOR_TYPE_RGB},
                                               {8, PNG_COLOR_TYPE_RGBA},
                                               {8, PNG_COLOR_TYPE_GRAY},
                                               {16, PNG_COLOR_TYPE_RGB},
                                               {16, PNG_COLOR_TYPE_GRAY}};
  for (const auto& [depth, colours] : kinds) {
    for (const int interlace : {PNG_INTERLACE_NONE, PNG_INTERLACE_ADAM7}) {
      const Picture picture = read_picture(
          png(7, 5, depth, colours, interlace,
              [](auto x, auto y, unsigned c) { return c == 3 ? 65535 : sample(x, y, c); }),
          "it");
      ASSERT_EQ(picture.width, 7);
      ASSERT_EQ(picture.height, 5);
      for (std::uint32_t y = 0; y < 5; ++y) {
        for (std::uint32_t x = 0; x < 7; ++x) {
          for (unsigned c = 0; c < 3; ++c) {
            const unsigned channel = colours == PNG_COLOR_TYPE_GRAY ? 0 : c;
            EXPECT_EQ(picture.pixel(x, y)[c], sample(x, y, channel) >> 8)
                << depth << " bits, kind " << colours << ", interlaced " << interlace;
          }
        }
      }
    }
  }
  // Half transparent black, and a transparent colour of a palette, before white.
  const Picture half =
      read_picture(png(2, 2, 8, PNG_COLOR_TYPE_RGBA, 0,
                       [](auto, auto, unsigned c) { return c == 3 ? 0x8000U : 0U; }),
                   "it");
  EXPECT_EQ(half.pixel(1, 1)[0], 127);
  const Picture palette = read_picture(
      png(4, 1, 8, PNG_COLOR_TYPE_PALETTE, 0, [](auto x, auto, unsigned) { return x << 8; }), "it");
  EXPECT_EQ(std::vector<std::uint8_t>(palette.rgb.begin(), palette.rgb.end()),
            (std::vector<std::uint8_t>{0, 1, 2, 60, 61, 62, 255, 255, 255, 180, 181, 182}));
}

TEST_F(Images, AreReadFromJpeg) {
  for (const auto& [colours, channels] : {std::pair(JCS_RGB, 3), std::pair(JCS_GRAYSCALE, 1)}) {
    const Picture picture = read_picture(jpeg(colours, channels, 200), "it");
    EXPECT_EQ(picture.width, 16);
    EXPECT_EQ(picture.height, 8);
    for (const std::uint8_t value : picture.rgb) {
      EXPECT_NEAR(value, 200, 2);
    }
  }
}

TEST_F(Images, AreScaledToMeansOfAreas) {
  Picture picture = blank(6, 4, 0);  // of which the square in the middle counts
  for (std::int64_t x = 1; x < 5; ++x) {
    for (std::int64_t y = 0; y < 4; ++y) {
      picture.pixel(x, y)[0] = static_cast<std::uint8_t>(40 * x + y);
    }
  }
  const Picture half = scaled(picture, 2);
  EXPECT_EQ(half.pixel(0, 0)[0], 61);   // (40 + 80 + 41 + 81) / 4 = 60.5
  EXPECT_EQ(half.pixel(1, 1)[0], 143);  // (122 + 162 + 123 + 163) / 4 = 142.5
  // Thirds of pixels: 4 to 3, the first of which covers one and a third.
  const Picture three = scaled(picture, 3);
  EXPECT_NEAR(three.pixel(0, 0)[0], (3 * 40 + 80) / 4.0 + 0.25, 0.51);
  EXPECT_EQ(scaled(noise(5, 5, 1), 5).rgb, noise(5, 5, 1).rgb);
  EXPECT_EQ(scaled(blank(9, 7, 77), 4).rgb, blank(4, 4, 77).rgb);
}

TEST_F(Images, OfAFolderAreSplitByTheirContents) {
  const std::string data = some_pictures();
  const PictureSet set = read_pictures(data, 5);
  EXPECT_EQ(set.count(), 70);
  EXPECT_GT(set.validation.count(), 0);
  EXPECT_GT(set.test.count(), 0);
  EXPECT_GT(set.train.count(), 45);
  // Copies under other names, links and other files change nothing.
  fs::copy(data + "/0.png", data + "/copy.png");
  fs::create_symlink(data + "/2.png", data + "/link.png");
  write_file(data + "/notes.txt", "no picture");
  write_png(data + "/small.png", blank(4, 9, 1));
  const PictureSet again = read_pictures(data, 5);
  EXPECT_EQ(again.duplicates, 1);
  EXPECT_EQ(again.left_out, 1);
  EXPECT_EQ(again.checksum(), set.checksum());
  // Where a picture belongs does not depend on the others.
  fs::remove(data + "/small.png");
  for (int i = 0; i < 70; i += 7) {
    fs::remove(data + (i % 2 == 0 ? "/" : "/more/") + std::to_string(i) + ".png");
  }
  const PictureSet fewer = read_pictures(data, 5);
  const auto contains_all = [](const Pictures& all, const Pictures& some) {
    for (std::int64_t i = 0; i < some.count(); ++i) {
      bool found = false;
      for (std::int64_t j = 0; j < all.count(); ++j) {
        found = found || std::equal(some[i].begin(), some[i].end(), all[j].begin());
      }
      EXPECT_TRUE(found) << i;
    }
  };
  contains_all(set.train, fewer.train);
  contains_all(set.validation, fewer.validation);
  contains_all(set.test, fewer.test);
}

TEST_F(Images, ThatAreNearCopiesStayTogether) {
  const std::string data = some_pictures(80, 12);
  for (int i = 0; i < 80; ++i) {  // another brightness and contrast, with a little noise
    Picture picture = noise(12, 12, static_cast<std::uint64_t>(i));
    const Picture grain = noise(12, 12, static_cast<std::uint64_t>(i + 1000));
    for (std::size_t v = 0; v < picture.rgb.size(); ++v) {
      picture.rgb[v] = static_cast<std::uint8_t>(20 + picture.rgb[v] * 3 / 4 + grain.rgb[v] / 64);
    }
    write_png(data + "/darker" + std::to_string(i) + ".png", picture);
  }
  const PictureSet set = read_pictures(data, 12);
  EXPECT_EQ(set.count(), 160);
  EXPECT_EQ(set.groups, 80);
  for (const Pictures* part : {&set.train, &set.validation, &set.test}) {
    EXPECT_EQ(part->count() % 2, 0);
  }
}

TEST_F(Images, InAFontAreFound) {
  // One table, CBDT, with two pictures between other bytes.
  std::string table = "bitmaps";
  for (int i = 0; i < 2; ++i) {
    write_png(path("one.png"), noise(6, 6, static_cast<std::uint64_t>(i)));
    table += read_file(path("one.png")) + "....";
  }
  std::string font("\0\1\0\0\0\1\0\0\0\0\0\0CBDT\0\0\0\0\0\0\0\x1c\0\0", 26);
  font += static_cast<char>(table.size() / 256);
  font += static_cast<char>(table.size() % 256);
  write_file(path("font.ttf"), font + table);
  const Pictures pictures = pictures_in(path("font.ttf"), 6);
  ASSERT_EQ(pictures.count(), 2);
  EXPECT_EQ(pictures.picture(1).rgb, noise(6, 6, 1).rgb);
}

TEST_F(Images, ThatAreBadAreRefusedInOneLine) {
  const File good = png(8, 8, 8, PNG_COLOR_TYPE_RGB, 0, sample);
  const File grey = jpeg(JCS_GRAYSCALE, 1, 9);
  File damaged = good;
  damaged[damaged.size() / 2] ^= 1;
  const auto cut = [](File file, std::size_t size) {
    file.resize(size);
    return file;
  };
  struct Case {
    const char* name;
    File file;
    const char* error;
  };
  const std::vector<Case> cases{
      {"empty.png", {}, "is empty"},
      {"text.png", {'h', 'e', 'l', 'l', 'o'}, "is neither a PNG nor a JPEG file"},
      {"head.png", cut(good, 8), "PNG file that is truncated or damaged"},
      {"header.png", cut(good, 33), "PNG file that is truncated or damaged"},
      {"half.png", cut(good, good.size() / 2), "PNG file that is truncated or damaged"},
      {"damaged.png", damaged, "PNG file that is truncated or damaged"},
      {"wide.png", png(40'000, 1, 8, PNG_COLOR_TYPE_GRAY, 0, sample),
       "has 40000 x 1 pixels; allowed: 1 to 30000"},
      {"head.jpg", cut(grey, 4), "JPEG file that is truncated or damaged"},
      {"half.jpg", cut(grey, grey.size() - 20), "JPEG file that is truncated or damaged"},
      {"print.jpg", jpeg(JCS_CMYK, 4, 9), "with the colours of print (CMYK)"}};
  for (const Case& c : cases) {
    const std::string data = some_pictures();
    write_file(data + "/" + c.name, text_of(c.file));
    const Outcome outcome = train({"--data", data, "--size", "4", "--out", path("run")});
    EXPECT_EQ(outcome.code, training::exit_failure) << c.name;
    EXPECT_TRUE(contains(outcome.error, c.error)) << c.name << ": " << outcome.error;
    EXPECT_TRUE(contains(outcome.error, c.name)) << outcome.error;
    EXPECT_EQ(std::count(outcome.error.begin(), outcome.error.end(), '\n'), 1) << outcome.error;
    fs::remove(data + "/" + c.name);
  }
}

TEST_F(Images, ThatAreNotThereOrTooFewAreRefusedInOneLine) {
  fs::create_directories(path("nothing"));
  fs::create_directories(path("texts"));
  fs::create_directories(path("dots"));
  fs::create_directories(path("few"));
  write_file(path("texts/a.txt"), "text");
  write_png(path("dots/dot.png"), blank(1, 1, 0));
  for (int i = 0; i < 3; ++i) {
    write_png(path("few/" + std::to_string(i) + ".png"),
              noise(8, 8, static_cast<std::uint64_t>(i)));
  }
  struct Case {
    Strings arguments;
    int code;
    const char* error;
  };
  const std::vector<Case> cases{
      {{"--data", path("none")}, training::exit_failure, "there is no such file or folder"},
      {{"--data", path("nothing")}, training::exit_failure, "no file in this folder is named .png"},
      {{"--data", path("texts")}, training::exit_failure, "no file in this folder is named .png"},
      {{"--data", path("texts/a.txt")}, training::exit_failure, "is neither a PNG nor a JPEG file"},
      {{"--data", path("dots")}, training::exit_failure, "none has 8 x 8 pixels or more; '"},
      {{"--data", path("dots")}, training::exit_failure, "dot.png' has 1 x 1"},
      {{"--data", path("few")}, training::exit_failure, "of 3 different ones"},
      {{"--size", "0"},
       training::exit_usage,
       "--size is '0'; allowed: a whole number from 4 to 512"},
      {{"--size", "1000"}, training::exit_usage, "--size is '1000'"},
      {{"--length", "100"}, training::exit_usage, "--length is '100'; allowed: 192 with --size 8"},
      {{"--axial-shape", "8,7,3"}, training::exit_usage, "--axial-shape is '8,7,3'"}};
  for (const Case& c : cases) {
    const Outcome outcome = train(Strings{"--size", "8", "--out", path("run")} + c.arguments);
    EXPECT_EQ(outcome.code, c.code) << outcome.error;
    EXPECT_TRUE(contains(outcome.error, c.error)) << outcome.error;
    EXPECT_EQ(std::count(outcome.error.begin(), outcome.error.end(), '\n'), 1) << outcome.error;
  }
}

TEST(ImageOptions, HaveThePublishedConfigurationAsAPreset) {
  const Options paper = training::parse_options(option_set(), {"--preset", "paper"}).options;
  EXPECT_EQ(paper.precision, "auto");
  EXPECT_EQ(training::parse_options(option_set(), {}).options.precision, "auto");
  EXPECT_EQ(paper.length, 12'288);
  EXPECT_EQ(paper.layers.size(), 12u);
  EXPECT_EQ(paper.width, 1024);
  EXPECT_EQ(paper.axial_shape, (std::vector<std::int64_t>{64, 64, 3}));
  const Options other = training::parse_options(option_set(), {"--size", "16"}).options;
  EXPECT_EQ(other.length, 768);
  EXPECT_EQ(other.axial_shape, (std::vector<std::int64_t>{16, 16, 3}));
}

TEST_F(Images, ArePredictedValueByValue) {
  Pictures pictures(2);
  pictures.add(noise(2, 2, 1).rgb);
  pictures.add(noise(2, 2, 2).rgb);
  const training::Windows windows = windows_of(pictures, {1, 0});
  EXPECT_EQ(windows.count, 2);
  EXPECT_EQ(windows.length, 12);
  EXPECT_EQ(windows.label_bytes, 24);
  for (std::size_t w = 0; w < 2; ++w) {
    const auto picture = noise(2, 2, 2 - w).rgb;
    for (std::size_t i = 0; i < 12; ++i) {
      EXPECT_EQ(windows.labels[12 * w + i], picture[i]);
      EXPECT_EQ(windows.inputs[12 * w + i], i == 0 ? 0 : picture[i - 1]);
    }
  }
}

TEST_F(Images, ComeOnceInEachEpoch) {
  int run = 0;
  // Weights stand still, so the loss of a step is that of its picture.
  const auto losses = [&](const Strings& more, std::int64_t steps) {
    const std::string out = path("run" + std::to_string(run++));
    const Outcome outcome =
        train(tiny() +
              Strings{"--steps", std::to_string(steps), "--batch", "1", "--log-every", "1",
                      "--learning-rate", "1e-30", "--layers", "local", "--samples", "0",
                      "--completions", "0", "--out", out} +
              more);
    EXPECT_EQ(outcome.code, 0) << outcome.error;
    std::vector<double> found;
    for (const nlohmann::json& record : records_of(out)) {
      if (record.at("type") == "train") found.push_back(record.at("bpb"));
    }
    return found;
  };
  const auto count = read_pictures(some_pictures(), 4).train.count();
  std::vector<double> all = losses({}, 2 * count);
  ASSERT_EQ(std::ssize(all), 2 * count);
  const auto second = all.begin() + count;
  EXPECT_FALSE(std::equal(all.begin(), second, second)) << "in the same order";
  std::sort(all.begin(), second);
  std::sort(second, all.end());
  EXPECT_TRUE(std::equal(all.begin(), second, second));
  EXPECT_GT(std::set<double>(all.begin(), second).size(), static_cast<std::size_t>(count) / 2);

  const auto dropping = losses({"--dropout", "0.9", "--dropout-passes", "1"}, 2);
  const auto plain = losses({"--dropout", "0", "--dropout-passes", "1"}, 2);
  EXPECT_EQ(dropping[0], plain[0]) << "nothing is left out of what is read first";
  EXPECT_NE(dropping[1], plain[1]);
}

TEST_F(Images, AreLearnedDrawnAndCompleted) {
  const Strings options = tiny();
  const Outcome whole = train(options + Strings{"--out", path("whole")});
  ASSERT_EQ(whole.code, 0) << whole.error;
  EXPECT_TRUE(contains(whole.out, "70 pictures of 4 x 4"));
  EXPECT_TRUE(contains(whole.out, "test bits per dimension: "));
  // Every value of every picture of the split is counted.
  const auto records = records_of(path("whole"));
  EXPECT_EQ(records.front()["program"], "images");
  EXPECT_EQ(records.front()["options"]["axial-shape"], "4,4,3");
  const nlohmann::json& memory = records.front()["predicted_memory"];
  EXPECT_GT(memory.at("made at the end"), memory.at("parameters"));
  EXPECT_EQ(records.back()["type"], "test");
  EXPECT_EQ(records.back()["bytes"], records.front()["test_pictures"].get<int>() * 48);
  EXPECT_EQ(records.back()["whole_split"], true);

  // Interrupted and continued, the same.
  ASSERT_EQ(
      train(options + Strings{"--out", path("parts")}, [](std::int64_t step) { return step >= 3; })
          .code,
      training::exit_interrupted);
  ASSERT_EQ(train({"--resume", "--out", path("parts")}).code, 0);
  EXPECT_EQ(snapshot_of(path("parts")), snapshot_of(path("whole")));
  for (const char* name : {"samples.png", "completions.png"}) {
    EXPECT_EQ(read_file(path("parts") + "/" + name), read_file(path("whole") + "/" + name)) << name;
  }

  // Two rows: a picture, its upper half, three completions with that upper half; magnified.
  const Picture grid =
      read_picture(read_bytes(path("whole") + "/completions.png"), "completions.png");
  const std::int64_t factor = 24, cell = 4 * factor + 4;
  ASSERT_EQ(grid.width, 5 * cell + 4);
  ASSERT_EQ(grid.height, 2 * cell + 4);
  const PictureSet set = read_pictures(path("pictures"), 4);
  std::set<std::vector<std::uint8_t>> lower_halves;
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t column = 0; column < 5; ++column) {
      std::vector<std::uint8_t> lower;
      for (std::int64_t y = 0; y < 4; ++y) {
        for (std::int64_t x = 0; x < 4; ++x) {
          const std::uint8_t* drawn =
              grid.pixel(4 + column * cell + x * factor, 4 + row * cell + y * factor);
          const Picture original = set.validation.picture(row);
          if (y < 2 || column == 0) {
            EXPECT_TRUE(std::equal(drawn, drawn + 3, original.pixel(x, y))) << row << ' ' << column;
          } else if (column == 1) {
            EXPECT_EQ(drawn[1], 128);
          } else {
            lower.insert(lower.end(), drawn, drawn + 3);
          }
        }
      }
      lower_halves.insert(lower);
    }
  }
  EXPECT_EQ(lower_halves.size(), 7u) << "three for each picture, all different, and none";

  Captured out, error;
  const training::Console console{.out = out.file(), .error = error.file()};
  EXPECT_EQ(run_generator({"--checkpoint", path("whole"), "--count", "3", "--threads", "1", "--out",
                           path("drawn.png")},
                          console),
            0)
      << error.text();
  EXPECT_EQ(read_file(path("drawn.png")), read_file(path("whole") + "/samples.png"));
  EXPECT_EQ(run_generator({"--checkpoint", path("whole"), "--count", "2", "--complete",
                           path("pictures"), "--out", path("completed.png")},
                          console),
            0)
      << error.text();
  EXPECT_EQ(read_picture(read_bytes(path("completed.png")), "it").height, 2 * cell + 4);
  EXPECT_EQ(run_export({"--data", path("pictures"), "--size", "4", "--out", path("test")}, console),
            0)
      << error.text();
  EXPECT_EQ(read_picture(read_bytes(path("test/00000.png")), "it").rgb, set.test.picture(0).rgb);
  EXPECT_EQ(run_generator({"--checkpoint", path("whole"), "--complete", path("pictures"), "--out",
                           path("pictures/drawn.png")},
                          console),
            training::exit_usage);
  EXPECT_FALSE(fs::exists(path("pictures/drawn.png")));
  // Nothing is written over or among what is there.
  const std::string before = read_file(path("test/00000.png"));
  for (const std::string place : {"test", "pictures", "pictures/new"}) {
    EXPECT_EQ(
        run_export({"--data", path("pictures"), "--size", "4", "--out", path(place)}, console),
        training::exit_usage);
    EXPECT_TRUE(contains(error.text(), place == "test" ? "; allowed: a folder that is new or empty"
                                                       : "; allowed: a folder outside of '"));
  }
  EXPECT_EQ(read_file(path("test/00000.png")), before);
  EXPECT_FALSE(fs::exists(path("pictures/new")));
}

}  // namespace
}  // namespace images::test
