// SPDX-License-Identifier: MIT
/// @file
/// The program of a trainer.
#pragma once

#include "task.hpp"

namespace training {

/// `main` of a trainer: runs it with the signals it handles, as one of several processes if it was
/// started so.
int run_program(const TaskMaker& maker, int argc, char** argv);

}  // namespace training
