// SPDX-License-Identifier: MIT
/// @file
/// The program `enwik8`.
#include "trainer.hpp"
#include "training/program.hpp"

int main(int argc, char** argv) {
  return training::run_program(enwik8::text_trainer(), argc, argv);
}
