// SPDX-License-Identifier: MIT
#include <string>
#include <vector>

#include "runs.hpp"

int main(int argc, char** argv) {
  return runs::run_runs(std::vector<std::string>(argv + 1, argv + argc), training::Console());
}
