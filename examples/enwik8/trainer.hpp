// SPDX-License-Identifier: MIT
/// @file
/// The trainer as a function: everything of the program `enwik8` but what touches the whole process
/// (signals, standard streams).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "console.hpp"

namespace enwik8 {

/// Asked after each step, with the number of steps done, and between the parts of an evaluation.
using StopRequested = std::function<bool(std::int64_t step)>;

/// Trains as the command line asks for. Whatever goes wrong becomes one line on `console.error`.
/// @param arguments  without the name of the program
/// @return exit code
int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested);

}  // namespace enwik8
