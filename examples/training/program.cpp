// SPDX-License-Identifier: MIT
/// @file
/// What of a trainer touches the whole process: signals, arguments and processes.
#include "program.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "launcher.hpp"
#include "ranks.hpp"
#include "reformer/distributed/single_process.hpp"
#include "trainer.hpp"

#ifdef TRAINING_MPI
#include "reformer/mpi/communicator.hpp"
#endif

namespace training {
namespace {

volatile std::sig_atomic_t stop = 0;
volatile std::sig_atomic_t says_so = 1;

/// The first signal asks for a good end; the next one ends the program at once.
extern "C" void ask_to_stop(int) {
  stop = 1;
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  if (says_so == 0) return;
  constexpr std::string_view text = "\nfinishing this step; once more to stop at once\n";
  [[maybe_unused]] const auto ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

int run(const TaskMaker& maker, int argc, char** argv, const Console& console,
        reformer::Communicator& communicator) {
  return run_trainer(
      maker, {argv + (argc > 0 ? 1 : 0), argv + argc}, console,
      [](std::int64_t) { return stop != 0; }, communicator);
}

int run_ranks(const TaskMaker& maker, int argc, char** argv, Console console) {
#ifdef TRAINING_MPI
  // Open MPI lets every rank believe that it writes to a terminal.
  console.terminal = false;
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int code = 0;
  {
    Peers peers;
    reformer::MpiCommunicator communicator(MPI_COMM_WORLD, [&] { peers.check(); });
    peers.meet(Ranks(communicator));
    says_so = communicator.rank() == 0 ? 1 : 0;
    code = run(maker, argc, argv, console, communicator);
  }
  // Others may wait for this rank. Wrong options are the same for all, and none waits.
  if (code == exit_failure) {
    MPI_Abort(MPI_COMM_WORLD, code);
  }
  MPI_Finalize();
  return code;
#else
  (void)argc, (void)argv;
  fmt::print(console.error,
             "{}: was started as one of several processes, but built without MPI: each would "
             "train for itself; build it with -DREFORMER_BUILD_MPI=ON\n",
             maker.program);
  return exit_usage;
#endif
}

}  // namespace

int run_program(const TaskMaker& maker, int argc, char** argv) {
  open_standard_streams();  // before MPI opens anything
  struct sigaction action = {};
  action.sa_handler = &ask_to_stop;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // What mpirun passes on to all ranks, while it ends them a second after Ctrl-C.
  if (is_one_of_several()) ::sigaction(SIGUSR1, &action, nullptr);
  // A file that reaches a limit on its size is an error of its write, not the end of the program.
  ::signal(SIGXFSZ, SIG_IGN);
  Console console;
  if (argc > 0) console.program = argv[0];
  if (is_one_of_several()) return run_ranks(maker, argc, argv, console);
  reformer::SingleProcess alone;
  return run(maker, argc, argv, console, alone);
}

}  // namespace training
