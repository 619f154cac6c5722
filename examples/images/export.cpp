// SPDX-License-Identifier: MIT
/// @file
/// The program `images_export`; everything is in programs.cpp.
#include "trainer.hpp"

int main(int argc, char** argv) {
  return images::run_export({argv + (argc > 0 ? 1 : 0), argv + argc}, {});
}
