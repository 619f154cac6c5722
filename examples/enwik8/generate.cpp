// SPDX-License-Identifier: MIT
/// @file
/// The program `enwik8_generate`; everything is in generator.cpp.
#include "generator.hpp"

int main(int argc, char** argv) {
  return enwik8::run_generator({argv + (argc > 0 ? 1 : 0), argv + argc}, {});
}
