// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "drawing.hpp"
#include "options.hpp"
#include "picture_set.hpp"
#include "trainer.hpp"
#include "training/checkpoint.hpp"
#include "training/output_folder.hpp"

namespace images {
namespace {

using training::TokenModel;

int generate(const GenerateOptions& options, const training::Console& console) {
  std::error_code ignored;
  if (!options.complete.empty() &&
      (std::filesystem::equivalent(options.out, options.complete, ignored) ||
       training::folder_around(options.out, {options.complete}))) {
    training::refuse("out", options.out, "a file that is not read");
  }
  const training::Checkpoint checkpoint(training::checkpoint_path(options.checkpoint));
  Options saved = training::saved_options(option_set(), checkpoint);
  saved.threads = options.threads;
  TokenModel model(saved, vocabulary, TokenModel::Use::generation);
  model.load(checkpoint);
  const auto nothing = [] {};
  std::vector<std::vector<Picture>> rows;
  if (options.complete.empty()) {
    const std::vector<Picture> begun(static_cast<std::size_t>(options.count),
                                     blank(saved.size, saved.size, 0));
    rows = in_rows(draw(model, begun, 0, options.temperature, options.seed, nothing));
  } else {
    Pictures pictures = pictures_in(options.complete, saved.size);
    std::vector<Picture> originals;
    for (std::int64_t i = 0; i < std::min(options.count, pictures.count()); ++i) {
      originals.push_back(pictures.picture(i));
    }
    rows = completions_of(model, originals, options.temperature, options.seed, nothing);
  }
  write_png(options.out, grid(rows));
  fmt::print(console.out, "drawn: {}\n", options.out);
  return training::exit_success;
}

int export_pictures(const ExportOptions& options, const training::Console& console) {
  const PictureSet set = read_pictures(pictures_place(options.data), options.size);
  const Pictures& split = options.split == "train"  ? set.train
                          : options.split == "test" ? set.test
                                                    : set.validation;
  if (const auto folder =
          training::folder_around(options.out, {pictures_place(options.data).string()})) {
    training::refuse("out", options.out,
                     fmt::format("a folder outside of '{}', which is read", *folder));
  }
  training::prepare_output_folder(options.out);
  if (!std::filesystem::is_empty(options.out)) {
    training::refuse("out", options.out, "a folder that is new or empty");
  }
  for (std::int64_t i = 0; i < split.count(); ++i) {
    write_png(std::filesystem::path(options.out) / fmt::format("{:05}.png", i), split.picture(i));
  }
  fmt::print(console.out, "{} pictures of {} x {}, {} values\n", split.count(), options.size,
             options.size, split.values().size());
  return training::exit_success;
}

}  // namespace

int run_generator(const std::vector<std::string>& arguments, const training::Console& console) {
  return training::with_errors_reported("images_generate", console, [&] {
    const auto parsed = parse_generate_options(arguments);
    if (!parsed.help.empty()) {
      fmt::print(console.out, "{}", parsed.help);
      return training::exit_success;
    }
    return generate(parsed.options, console);
  });
}

int run_export(const std::vector<std::string>& arguments, const training::Console& console) {
  return training::with_errors_reported("images_export", console, [&] {
    const auto parsed = parse_export_options(arguments);
    if (!parsed.help.empty()) {
      fmt::print(console.out, "{}", parsed.help);
      return training::exit_success;
    }
    return export_pictures(parsed.options, console);
  });
}

}  // namespace images
