// SPDX-License-Identifier: MIT
/// @file
/// The program `generate`; everything is in generate.cpp.
#include "generate.hpp"

int main(int argc, char** argv) {
  return huggingface::run_generate({argv + (argc > 0 ? 1 : 0), argv + argc}, {});
}
