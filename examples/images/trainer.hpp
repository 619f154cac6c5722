// SPDX-License-Identifier: MIT
/// @file
/// The trainer of pictures, and the programs that use its checkpoints, as functions.
#pragma once

#include <string>
#include <vector>

#include "training/trainer.hpp"

namespace images {

/// How the trainer of pictures begins: what the program `images` runs.
training::TaskMaker picture_trainer();

/// Draws pictures with a model, new ones or lower halves. Whatever goes wrong becomes one line on
/// `console.error`.
/// @param arguments  without the name of the program
/// @return exit code
int run_generator(const std::vector<std::string>& arguments, const training::Console& console);

/// Writes the pictures of a split as PNG files.
int run_export(const std::vector<std::string>& arguments, const training::Console& console);

}  // namespace images
