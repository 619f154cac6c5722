// SPDX-License-Identifier: MIT
/// @file
/// The options of the trainer of pictures, and of what uses its checkpoints.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "training/options.hpp"

namespace images {

/// What the trainer is asked to do: what every trainer is, and what is about pictures.
struct Options : training::Options {
  std::string data;                 ///< empty: the emoji
  std::int64_t size = 32;           ///< pixels of a side
  std::int64_t eval_pictures = 8;   ///< in a validation on the way
  std::int64_t final_pictures = 0;  ///< of each split evaluated at the end, 0: all
  std::int64_t samples = 16;        ///< pictures drawn at the end
  std::int64_t completions = 6;     ///< pictures whose lower half is drawn at the end
  double sample_temperature = 1;    ///< of both
};

/// What the generator is asked to do.
struct GenerateOptions {
  std::string checkpoint;  ///< a checkpoint, or the folder of a run
  std::string out = "samples.png";
  std::string complete;  ///< complete the pictures here; empty: draw new ones
  std::int64_t count = 16;
  double temperature = 1;
  std::uint64_t seed = 1;
  std::int64_t threads = 0;

  std::set<std::string> given;
};

/// What is asked of the program that writes the pictures of a split.
struct ExportOptions {
  std::string data;
  std::string out;
  std::int64_t size = 32;
  std::string split = "test";

  std::set<std::string> given;
};

/// All options of the trainer.
const training::OptionSet<Options>& option_set();

/// Values of a picture: red, green and blue of each pixel.
std::int64_t values_of(const Options& options);

/// @param arguments  without the name of the program
/// @throw training::OptionError for anything that is not allowed
training::Parsed<GenerateOptions> parse_generate_options(const std::vector<std::string>& arguments);
training::Parsed<ExportOptions> parse_export_options(const std::vector<std::string>& arguments);

}  // namespace images
