// SPDX-License-Identifier: MIT
/// @file
/// The processes that train one model together, as the trainer sees them: one of them decides what
/// depends on time or on the user, and speaks for all.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "reformer/distributed/communicator.hpp"

namespace training {

struct Options;

/// Another rank has failed, and says so.
struct FailedElsewhere {
  int exit_code;
};

class Ranks {
 public:
  explicit Ranks(reformer::Communicator& communicator) : communicator_(communicator) {}

  reformer::Communicator& communicator() const { return communicator_; }
  int rank() const { return communicator_.rank(); }
  int size() const { return communicator_.size(); }
  /// Whether this rank prints, writes and decides.
  bool is_first() const { return rank() == 0; }

  /// What the first rank has, on every rank.
  template <typename T>
  T agree(T value) const {
    communicator_.broadcast(std::span(&value, 1), 0);
    return value;
  }
  std::string agree(std::string text) const {
    text.resize(agree(text.size()));
    communicator_.broadcast(std::span(text), 0);
    return text;
  }

  /// values[r] = that of rank r.
  template <typename T>
  std::vector<T> gather(const T& value) const {
    return communicator_.all_gather(std::span(&value, 1));
  }

  /// Calls `action`, which must not wait for other ranks, on every rank. If it throws on any, all
  /// throw: the lowest of those ranks what it has, the others `FailedElsewhere`.
  void together(const std::function<void()>& action) const;

  /// How many ranks share this machine.
  int on_this_machine() const;

 private:
  reformer::Communicator& communicator_;
};

/// Looks whether the ranks of this machine are still there. What has started them notices it if one
/// is not, too, and asks the others to end, which they cannot while they wait for it.
class Peers {
 public:
  /// Learns who they are. Called by all ranks.
  void meet(const Ranks& ranks);
  /// @throw std::runtime_error, or `FailedElsewhere` where another rank is there to say it, if one
  ///   has ended
  void check() const;

 private:
  struct Peer {
    int rank;
    std::int64_t process;
  };
  int own_ = 0;
  std::vector<Peer> others_;  // in the order of ranks
};

/// Divides the passes of a step over ranks. Of a new run whose --accumulate was not given, the
/// windows of a pass are divided if they can be, or else each rank gets a pass.
/// @param is_new  not the continuation of another run
/// @throw OptionError if a rank would have nothing to do
void divide_over_ranks(Options& options, int ranks, bool is_new);

/// Processors that this process may run on.
int allowed_processors();

}  // namespace training
