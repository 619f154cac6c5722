// SPDX-License-Identifier: MIT
/// @file
/// The program `tokenise`: signals and arguments; the rest is in program.cpp.
#include <signal.h>
#include <unistd.h>

#include <csignal>
#include <string_view>

#include "program.hpp"

namespace {

volatile std::sig_atomic_t stop = 0;

/// The first signal asks for a good end; the next one ends the program at once.
extern "C" void ask_to_stop(int) {
  stop = 1;
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  constexpr std::string_view text = "\nfinishing what was begun; once more to stop at once\n";
  [[maybe_unused]] const auto ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

int main(int argc, char** argv) {
  struct sigaction action = {};
  action.sa_handler = &ask_to_stop;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // A file that reaches a limit on its size is an error of its write, not the end of the program.
  ::signal(SIGXFSZ, SIG_IGN);
  training::Console console;
  if (argc > 0) console.program = argv[0];
  return tokenise::run_tokenise({argv + (argc > 0 ? 1 : 0), argv + argc}, console,
                                [] { return stop != 0; });
}
