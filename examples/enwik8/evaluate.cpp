// SPDX-License-Identifier: MIT
/// @file
/// The program `enwik8_evaluate`; everything is in evaluator.cpp.
#include "evaluator.hpp"

int main(int argc, char** argv) {
  return enwik8::run_evaluator({argv + (argc > 0 ? 1 : 0), argv + argc}, {});
}
