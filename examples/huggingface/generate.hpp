// SPDX-License-Identifier: MIT
/// @file
/// The program `generate` as a function.
#pragma once

#include <string>
#include <vector>

#include "training/console.hpp"

namespace huggingface {

/// Continues a prompt with a model in the layout of HuggingFace, and writes the continuation, and
/// nothing else, to `console.out`. Whatever goes wrong becomes one line on `console.error`.
/// @param arguments  without the name of the program
/// @return exit code
int run_generate(const std::vector<std::string>& arguments, const training::Console& console);

}  // namespace huggingface
