// SPDX-License-Identifier: MIT
/// @file
/// Runs of trainers beside one another: the program `runs`.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "training/console.hpp"
#include "training/run_record.hpp"

namespace runs {

/// A line for each run with what it learned and what it took, and below it a line for each option
/// in which they differ.
std::string table_of(std::span<const training::RunRecord> runs);

/// @param arguments  without the name of the program
/// @return exit code
int run_runs(const std::vector<std::string>& arguments, const training::Console& console);

}  // namespace runs
