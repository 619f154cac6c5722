// SPDX-License-Identifier: MIT
#include "ranks.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <stdexcept>

#include "console.hpp"
#include "options.hpp"

namespace training {
namespace {

using HostName = std::array<char, 256>;

HostName host_name() {
  HostName name{};
  ::gethostname(name.data(), name.size() - 1);
  return name;
}

}  // namespace

void Ranks::together(const std::function<void()>& action) const {
  std::exception_ptr own;
  int code = exit_success;
  try {
    action();
  } catch (const OptionError&) {
    own = std::current_exception();
    code = exit_usage;
  } catch (...) {
    own = std::current_exception();
    code = exit_failure;
  }
  const std::vector<int> codes = gather(code);
  const auto failed =
      std::find_if(codes.begin(), codes.end(), [](int c) { return c != exit_success; });
  if (failed == codes.end()) {
    return;
  }
  if (failed - codes.begin() == rank()) {
    std::rethrow_exception(own);
  }
  throw FailedElsewhere{*failed};
}

int Ranks::on_this_machine() const {
  const HostName own = host_name();
  const std::vector<HostName> names = gather(own);
  return static_cast<int>(std::count(names.begin(), names.end(), own));
}

void Peers::meet(const Ranks& ranks) {
  const HostName own = host_name();
  const std::vector<HostName> names = ranks.gather(own);
  const std::vector<std::int64_t> processes = ranks.gather(std::int64_t{::getpid()});
  own_ = ranks.rank();
  for (int rank = 0; rank < ranks.size(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    if (rank != own_ && names[r] == own) {
      others_.push_back({rank, processes[r]});
    }
  }
}

void Peers::check() const {
  int first = own_;  // of those who are there
  const Peer* lost = nullptr;
  for (const Peer& peer : others_) {
    if (::kill(static_cast<pid_t>(peer.process), 0) != 0 && errno == ESRCH) {
      lost = &peer;
    } else {
      first = std::min(first, peer.rank);
    }
  }
  if (lost == nullptr) {
    return;
  }
  if (first != own_) {
    throw FailedElsewhere{exit_failure};
  }
  throw std::runtime_error(
      fmt::format("rank {} has ended (process {}); to continue from the last checkpoint: --resume",
                  lost->rank, lost->process));
}

void divide_over_ranks(Options& options, int ranks, bool is_new) {
  if (is_new && ranks > 1 && !options.given.contains("accumulate")) {
    if (options.batch % ranks == 0) {
      options.batch /= ranks;
    }
    options.accumulate = ranks;
  }
  if (options.accumulate < ranks) {
    throw OptionError(fmt::format(
        "--accumulate is {}, but there are {} ranks, each of which needs a pass of its own in "
        "every step; allowed: {} and more{}",
        options.accumulate, ranks, ranks,
        is_new ? ""
               : fmt::format(", or at most {} ranks to continue this run", options.accumulate)));
  }
}

int allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0
             ? CPU_COUNT(&set)
             : std::max(static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)), 1);
}

}  // namespace training
