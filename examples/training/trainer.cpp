// SPDX-License-Identifier: MIT
#include "trainer.hpp"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "ranks.hpp"
#include "reformer/distributed/single_process.hpp"
#include "run.hpp"

namespace training {
namespace {

int run_on_rank(const TaskMaker& maker, const std::vector<std::string>& arguments,
                const Console& console, const StopRequested& stop_requested, const Ranks& ranks) {
  const std::string name =
      ranks.is_first() ? maker.program : fmt::format("{}: rank {}", maker.program, ranks.rank());
  return with_errors_reported(
      name, console,
      [&] {
        Begun begun;
        try {
          ranks.together([&] { begun = maker.make(arguments); });
          if (!begun.help.empty()) {
            fmt::print(console.out, "{}", begun.help);
            return exit_success;
          }
          return Run(std::move(begun.task), console, stop_requested, ranks).train();
        } catch (const FailedElsewhere& failure) {
          return failure.exit_code;
        }
      },
      "a smaller --batch, --length or --width");
}

}  // namespace

int run_trainer(const TaskMaker& maker, const std::vector<std::string>& arguments, Console console,
                const StopRequested& stop_requested, reformer::Communicator& communicator) {
  if (console.program.empty()) {
    console.program = maker.program;
  }
  const Ranks ranks(communicator);
  if (ranks.is_first()) {
    return run_on_rank(maker, arguments, console, stop_requested, ranks);
  }
  // One rank speaks for all, and the others when something is wrong with them alone.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> nowhere(std::fopen("/dev/null", "w"),
                                                                &std::fclose);
  console.out = nowhere.get();
  console.terminal = false;
  return run_on_rank(maker, arguments, console, stop_requested, ranks);
}

int run_trainer(const TaskMaker& maker, const std::vector<std::string>& arguments,
                const Console& console, const StopRequested& stop_requested) {
  reformer::SingleProcess alone;
  return run_trainer(maker, arguments, console, stop_requested, alone);
}

}  // namespace training
