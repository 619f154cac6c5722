// SPDX-License-Identifier: MIT
/// @file
/// Ranks that are threads of one process, to try out and to test what processes do.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// What ranks get that wait for one that has failed.
struct RankFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Where threads leave messages for each other. Messages from one rank to another arrive in the
/// order in which they were sent, in memory that the receiver named in the same order.
class ThreadGroup {
 public:
  /// Bytes to be taken, or to be filled. They belong to a request.
  struct Message {
    int peer;
    std::span<const std::byte> from;
    std::span<std::byte> to;
    bool is_done = false;
  };

  explicit ThreadGroup(int ranks)
      : ranks_(ranks),
        sent_(static_cast<std::size_t>(ranks) * static_cast<std::size_t>(ranks)),
        awaited_(sent_.size()) {}

  int ranks() const { return ranks_; }

  void post(int rank, std::deque<Message>& sends, std::deque<Message>& receives) {
    const std::lock_guard lock(mutex_);
    for (Message& message : sends) sent_[pair(rank, message.peer)].push_back(&message);
    for (Message& message : receives) awaited_[pair(message.peer, rank)].push_back(&message);
    for (const Message& message : sends) deliver(pair(rank, message.peer));
    for (const Message& message : receives) deliver(pair(message.peer, rank));
  }

  /// Whether all are done.
  bool test(const std::deque<Message>& messages) {
    const std::lock_guard lock(mutex_);
    return are_done(messages);
  }
  void wait(const std::deque<Message>& messages) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return are_done(messages); });
  }

  /// Whoever waits, or will, gets an exception of this text; the first reason counts.
  void fail(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = reason;
    arrived_.notify_all();
  }
  /// The memory of these messages ends before they are done, and with it the group.
  void abandon(int rank, const std::deque<Message>& messages) {
    const std::lock_guard lock(mutex_);
    const auto is_done = [](const Message& message) { return message.is_done; };
    if (std::all_of(messages.begin(), messages.end(), is_done)) return;
    if (!failure_) failure_ = join("rank ", rank, " has left the others");
    for (auto* queues : {&sent_, &awaited_}) {
      for (auto& queue : *queues) queue.clear();
    }
    arrived_.notify_all();
  }

 private:
  std::size_t pair(int from, int to) const {
    return static_cast<std::size_t>(from) * static_cast<std::size_t>(ranks_) +
           static_cast<std::size_t>(to);
  }

  void deliver(std::size_t pair) {
    auto &sent = sent_[pair], &awaited = awaited_[pair];
    while (!failure_ && !sent.empty() && !awaited.empty()) {
      Message &from = *sent.front(), &to = *awaited.front();
      if (from.from.size() != to.to.size()) {
        failure_ = join("rank ", to.peer, " has sent ", from.from.size(), " bytes, where rank ",
                        from.peer, " expected ", to.to.size());
      } else {
        std::memcpy(to.to.data(), from.from.data(), to.to.size());
        from.is_done = to.is_done = true;
      }
      sent.pop_front();
      awaited.pop_front();
    }
    arrived_.notify_all();
  }

  bool are_done(const std::deque<Message>& messages) const {
    if (failure_) throw RankFailure(*failure_);
    return std::all_of(messages.begin(), messages.end(),
                       [](const Message& message) { return message.is_done; });
  }

  int ranks_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<std::deque<Message*>> sent_, awaited_;  // of each pair of ranks
  std::optional<std::string> failure_;
};

/// One rank of a group.
class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(ThreadGroup& group, int rank) : group_(group), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return group_.ranks(); }

 private:
  class Messages final : public Request {
   public:
    Messages(ThreadGroup& group, int rank, std::span<const std::span<const std::byte>> sends,
             std::span<const std::span<std::byte>> receives)
        : group_(group), rank_(rank) {
      for (int peer = 0; peer < group.ranks(); ++peer) {
        const auto r = static_cast<std::size_t>(peer);
        if (peer == rank) continue;
        if (!sends[r].empty()) sends_.push_back({peer, sends[r], {}});
        if (!receives[r].empty()) receives_.push_back({peer, {}, receives[r]});
      }
      group.post(rank, sends_, receives_);
    }
    ~Messages() override {
      group_.abandon(rank_, sends_);
      group_.abandon(rank_, receives_);
    }
    bool test() override { return group_.test(sends_) && group_.test(receives_); }
    void wait() override {
      group_.wait(sends_);
      group_.wait(receives_);
    }

   private:
    ThreadGroup& group_;
    int rank_;
    std::deque<ThreadGroup::Message> sends_, receives_;  // which stay where they are
  };

  std::unique_ptr<Request> start(std::span<const std::span<const std::byte>> sends,
                                 std::span<const std::span<std::byte>> receives) override {
    return std::make_unique<Messages>(group_, rank_, sends, receives);
  }

  ThreadGroup& group_;
  int rank_;
};

}  // namespace detail

/// Calls `rank(communicator)` in `ranks` threads at once, and returns when all have. If one throws,
/// the others get a `std::runtime_error` where they wait for it, and its exception is thrown here.
/// @throw std::invalid_argument unless there are 1 to 1,024 ranks
/// @throw std::system_error or std::bad_alloc when there are no more threads; those that have begun
///   end
template <typename Rank>
void run_on_threads(int ranks, const Rank& rank) {
  check_between("run_on_threads", "ranks", ranks, 1, 1024);
  detail::ThreadGroup group(ranks);
  std::mutex mutex;
  std::exception_ptr first, of_waiting;
  const auto fail = [&](int r, const std::string& what) {
    {
      const std::lock_guard lock(mutex);
      if (!first) first = std::current_exception();
    }
    group.fail(detail::join("rank ", r, " has failed: ", what));
  };
  const auto run = [&](int r) {
    detail::ThreadCommunicator communicator(group, r);
    try {
      rank(static_cast<Communicator&>(communicator));
    } catch (const detail::RankFailure&) {
      const std::lock_guard lock(mutex);
      if (!of_waiting) of_waiting = std::current_exception();
    } catch (const std::exception& error) {
      fail(r, error.what());
    } catch (...) {
      fail(r, "an exception");
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(static_cast<std::size_t>(ranks));
  for (int r = 0; r < ranks; ++r) {
    try {
      threads.emplace_back(run, r);
    } catch (const std::exception& error) {  // the others wait for it
      fail(r, error.what());
      break;
    }
  }
  for (std::thread& thread : threads) thread.join();
  if (first || of_waiting) std::rethrow_exception(first ? first : of_waiting);
}

}  // namespace reformer::inline REFORMER_ABI
