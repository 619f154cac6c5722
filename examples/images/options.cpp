// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <fmt/format.h>

namespace images {
namespace {

using training::infinity;
using training::OptionError;
using training::Parsed;
using training::Table;
using training::TableBuilder;

constexpr std::int64_t least_size = 4, most_size = 512;

/// Ten minutes on two cores.
Options quick_preset() {
  Options options;
  training::prepare_for_buckets(options);
  options.preset = "quick";
  options.minutes = 10;
  options.memory_budget = 64;
  options.dropout_passes = 1;
  options.layers = {"local", "bucket", "local"};
  options.positions = "axial";
  options.local_chunk_length = 128;  // more than a row of 32 pixels
  options.optimizer = "muon";
  options.learning_rate = 0.006;
  options.eval_every = 200;
  return options;
}

/// The published configuration (trax, reformer_imagenet64.gin) with twelve layers, which are six
/// there: pictures of 64 x 64 pixels, 12,288 positions, axial positions of rows, columns and
/// channels; its learning rate 0.03125 / sqrt(step) after 8,000 steps of warm-up.
Options paper_preset() {
  Options options;
  options.preset = "paper";
  options.size = 64;
  options.minutes = 0;
  options.steps = 500'000;
  options.batch = 8;
  options.layers.assign(12, "lsh");
  options.width = 1024;
  options.heads = 8;
  options.head_width = 64;
  options.ff_width = 4096;
  options.activation = "gelu-tanh";
  options.chunk_length = 128;
  options.hashes = 2;
  options.buckets = {192};
  options.positions = "axial";
  options.axial_shape = {64, 64, 3};
  options.axial_widths = {384, 384, 256};
  options.init_weights = options.init_embedding = 0.02;
  options.init_positions = 1;
  options.attention_dropout = 0.2;
  options.learning_rate = 0.03125 / 89.44271909999159;  // sqrt(8000)
  options.schedule = "rsqrt";
  options.warmup = 8000;
  options.log_every = 1;
  options.eval_pictures = 64;
  options.save_minutes = 30;
  return options;
}

std::vector<Options> presets() {
  std::vector<Options> all{quick_preset(), paper_preset()};
  for (Options& options : all) {
    options.length = values_of(options);
    options.precision = "auto";
  }
  return all;
}

Table<Options> make_table(const std::vector<std::string>& preset_names) {
  const training::Units units{"value", "values", "bits per dimension",
                              "rows, columns and channels"};
  TableBuilder<Options> t;
  t.group("Run", false);
  t.text("data", "FOLDER", &Options::data,
         "learn from the PNG and JPEG files in this folder (default: the emoji of "
         "fonts-noto-color-emoji)");
  t.add_all(training::run_table());
  t.whole("eval-pictures", &Options::eval_pictures, 1,
          "pictures in a validation on the way; the one at the end takes all");
  t.whole("final-pictures", &Options::final_pictures, 0,
          "pictures of the validation and of the test split evaluated at the end, 0: all");
  t.whole("samples", &Options::samples, 0, "pictures drawn at the end, in samples.png", 1000);
  t.whole("completions", &Options::completions, 0,
          "pictures of the validation split whose lower half is drawn at the end, in "
          "completions.png",
          1000);
  t.real("sample-temperature", &Options::sample_temperature, 0, true, infinity, false,
         "of these, 0: always the most likely value");

  t.group("Model", true);
  t.whole("size", &Options::size, least_size,
          "pixels of a side of the pictures, which are scaled to it; --length is 3 * size * size",
          most_size);
  t.add_all(training::model_table(units, preset_names));
  t.add_all(training::training_table(units));
  return std::move(t.table);
}

void complete(Options& options) {
  const std::int64_t values = values_of(options);
  if (options.given.contains("length") && options.length != values) {
    training::refuse("length", std::to_string(options.length),
                     fmt::format("{} with --size {}", values, options.size));
  }
  options.length = values;
  if (options.positions == "axial" && options.axial_shape == std::vector<std::int64_t>{0}) {
    options.axial_shape = {options.size, options.size, 3};
  }
  training::complete_options(options);
}

}  // namespace

std::int64_t values_of(const Options& options) {
  return 3 * options.size * options.size;
}

const training::OptionSet<Options>& option_set() {
  static const training::OptionSet<Options> set{
      .program = "images",
      .description =
          "Trains a Reformer on pictures as sequences of their values, by default for "
          "ten minutes on emoji.",
      .table = make_table(training::names_of(presets())),
      .presets = presets(),
      .complete = [](Options& options) { complete(options); }};
  return set;
}

Parsed<GenerateOptions> parse_generate_options(const std::vector<std::string>& arguments) {
  TableBuilder<GenerateOptions> t;
  t.group("Options", false);
  t.text("checkpoint", "FILE", &GenerateOptions::checkpoint,
         "checkpoint.safetensors of a run, or the folder of the run");
  t.text("out", "FILE", &GenerateOptions::out, "PNG file to write");
  t.text("complete", "PLACE", &GenerateOptions::complete,
         "complete the upper halves of the pictures in this folder, or of this picture, instead of "
         "drawing new ones");
  t.whole("count", &GenerateOptions::count, 1, "pictures at most", 1000);
  t.real("temperature", &GenerateOptions::temperature, 0, true, infinity, false,
         "below 1 more likely pictures, above 1 more surprising; 0: always the most likely value");
  t.seed("seed", &GenerateOptions::seed, "the same seed draws the same pictures");
  t.whole("threads", &GenerateOptions::threads, 0, "threads, 0 for all", 4096);
  auto parsed = training::parse_plain(arguments, t.table, "images_generate",
                                      "Draws pictures with a model that images trained.");
  if (parsed.help.empty() && parsed.options.checkpoint.empty()) {
    throw OptionError(
        "--checkpoint is missing: give checkpoint.safetensors of a run, or its folder");
  }
  return parsed;
}

Parsed<ExportOptions> parse_export_options(const std::vector<std::string>& arguments) {
  TableBuilder<ExportOptions> t;
  t.group("Options", false);
  t.text("data", "FOLDER", &ExportOptions::data, "as of images");
  t.text("out", "FOLDER", &ExportOptions::out, "folder to write to");
  t.whole("size", &ExportOptions::size, least_size, "pixels of a side", most_size);
  t.choice("split", &ExportOptions::split, {"train", "validation", "test"}, "part of the data");
  auto parsed = training::parse_plain(
      arguments, t.table, "images_export",
      "Writes the pictures that images learns from or is measured on as PNG files.");
  if (parsed.help.empty() && parsed.options.out.empty()) {
    throw OptionError("--out is missing: give a folder");
  }
  return parsed;
}

}  // namespace images
