// SPDX-License-Identifier: MIT
/// @file
/// The program `images`.
#include "trainer.hpp"
#include "training/program.hpp"

int main(int argc, char** argv) {
  return training::run_program(images::picture_trainer(), argc, argv);
}
