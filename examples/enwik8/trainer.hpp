// SPDX-License-Identifier: MIT
/// @file
/// The trainer of text as a function: what the program `enwik8` runs.
#pragma once

#include <string>
#include <vector>

#include "training/trainer.hpp"

namespace enwik8 {

using training::Console;
using training::StopRequested;

/// How the trainer of text begins.
training::TaskMaker text_trainer();

/// See training/trainer.hpp.
int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested, reformer::Communicator& communicator);
int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested);

}  // namespace enwik8
