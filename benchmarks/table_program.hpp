// SPDX-License-Identifier: MIT
/// @file
/// What the programs that print tables share: options of the form `--name value`, and errors in one
/// line.
#pragma once

#include <cstdio>
#include <exception>
#include <map>
#include <reformer/foundation/check.hpp>
#include <stdexcept>
#include <string>

namespace reformer::bench {

using TableOptions = std::map<std::string, std::string>;

/// The options with what the command line changes.
/// @throw std::invalid_argument that lists the options, for one that is not there or has no value
inline TableOptions parse_options(int argc, char** argv, TableOptions options) {
  for (int i = 1; i < argc; i += 2) {
    if (!options.contains(argv[i]) || i + 1 == argc) {
      std::string known;
      for (const auto& [name, value] : options) known += " [" + name + " " + value + "]";
      throw std::invalid_argument(
          detail::join("'", argv[i], "' is no option with a value; there are:", known));
    }
    options[argv[i]] = argv[i + 1];
  }
  return options;
}

/// The main function of a program.
/// @param run  is called with the options
template <typename Run>
int run_table_program(int argc, char** argv, const TableOptions& defaults, const Run& run) {
  try {
    run(parse_options(argc, argv, defaults));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return 2;
  }
}

}  // namespace reformer::bench
