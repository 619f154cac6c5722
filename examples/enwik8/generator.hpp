// SPDX-License-Identifier: MIT
/// @file
/// The program `enwik8_generate` as a function.
#pragma once

#include <string>
#include <vector>

#include "training/console.hpp"

namespace enwik8 {

using training::Console;

/// Writes the continuation of a prompt, and nothing else, to `console.out`. Whatever goes wrong
/// becomes one line on `console.error`.
/// @param arguments  without the name of the program
/// @return exit code
int run_generator(const std::vector<std::string>& arguments, const Console& console);

}  // namespace enwik8
