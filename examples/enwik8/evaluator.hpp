// SPDX-License-Identifier: MIT
/// @file
/// The evaluator of checkpoints, apart from its `main`.
#pragma once

#include <string>
#include <vector>

#include "training/console.hpp"

namespace enwik8 {

using training::Console;

/// Writes the bits per byte of a checkpoint on a part of a corpus to `console.out`. Whatever goes
/// wrong becomes one line on `console.error`.
/// @param arguments  without the name of the program
/// @return exit code
int run_evaluator(const std::vector<std::string>& arguments, const Console& console);

}  // namespace enwik8
