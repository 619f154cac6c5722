// SPDX-License-Identifier: MIT
/// @file
/// The program `tokenise` as a function.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "training/console.hpp"

namespace tokenise {

/// Writes a token file of what it is given. Whatever goes wrong becomes one line on
/// `console.error`.
/// @param arguments  without the name of the program
/// @param stop_requested  asked after each piece of text; what is done then is kept
/// @return exit code
int run_tokenise(const std::vector<std::string>& arguments, const training::Console& console,
                 const std::function<bool()>& stop_requested);

}  // namespace tokenise
