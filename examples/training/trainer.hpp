// SPDX-License-Identifier: MIT
/// @file
/// A trainer as a function: everything of its program but what touches the whole process (signals,
/// standard streams), which is in program.hpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "console.hpp"
#include "reformer/distributed/communicator.hpp"
#include "task.hpp"

namespace training {

/// Asked after each step, with the number of steps done, and between the parts of an evaluation.
using StopRequested = std::function<bool(std::int64_t step)>;

/// Trains as the command line asks for, together with the other ranks of `communicator`, each of
/// which calls it with the same arguments. Whatever goes wrong becomes one line on `console.error`.
/// Only the first rank writes anything else.
/// @param arguments  without the name of the program
/// @return exit code. If it is one of an error, other ranks may wait for this one: end them
int run_trainer(const TaskMaker& maker, const std::vector<std::string>& arguments, Console console,
                const StopRequested& stop_requested, reformer::Communicator& communicator);
/// The same for a process that trains alone.
int run_trainer(const TaskMaker& maker, const std::vector<std::string>& arguments,
                const Console& console, const StopRequested& stop_requested);

}  // namespace training
