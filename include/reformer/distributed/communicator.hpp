// SPDX-License-Identifier: MIT
/// @file
/// What processes that train one model together need of each other: who they are, and one operation
/// that moves bytes. Everything else here is made of it.
///
/// Implementations: `SingleProcess`, threads of one process (`run_on_threads`), and MPI, in a
/// target of its own (`reformer/mpi/communicator.hpp`).
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"

namespace reformer::inline REFORMER_ABI {

/// Ranks 0 ... size - 1, one of which this is. All of them make the same calls in the same order,
/// each from one thread at a time. A function that throws leaves the others waiting: who catches
/// what it throws must end them, too.
class Communicator {
 public:
  /// Messages on their way. The memory that they are sent from and received in is theirs until they
  /// have arrived.
  class Request {
   public:
    Request() = default;
    Request(const Request&) = delete;
    Request& operator=(const Request&) = delete;
    virtual ~Request() = default;
    /// Whether all have arrived; moves them on, and does not wait.
    /// @throw std::runtime_error with one line if another rank cannot be reached
    virtual bool test() = 0;
    /// Returns when all have arrived.
    /// @throw std::runtime_error as `test`
    virtual void wait() = 0;
  };

  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Starts to send `sends[r]` to each rank r, and to receive `receives[r]` from it. What rank r
  /// sends to s must have the size that s receives; where that is nothing there is no message. The
  /// elements of this rank itself are not looked at.
  /// @param sends, receives  one element for each rank
  /// @throw std::runtime_error as `Request::test`
  std::unique_ptr<Request> start_exchange(std::span<const std::span<const std::byte>> sends,
                                          std::span<const std::span<std::byte>> receives) {
    constexpr auto function = "Communicator::start_exchange";
    check_equal(function, "sends", std::ssize(sends), "size", size());
    check_equal(function, "receives", std::ssize(receives), "size", size());
    return start(sends, receives);
  }

  /// all[r] = own of rank r.
  /// @param own  as long on every rank
  template <typename T>
  std::vector<T> all_gather(std::span<const T> own) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto ranks = static_cast<std::size_t>(size());
    std::vector<T> all(ranks * own.size());
    std::vector<std::span<const std::byte>> sends(ranks, std::as_bytes(own));
    std::vector<std::span<std::byte>> receives;
    for (std::size_t r = 0; r < ranks; ++r) {
      receives.push_back(
          std::as_writable_bytes(std::span(all).subspan(r * own.size(), own.size())));
    }
    std::copy(own.begin(), own.end(), all.begin() + rank() * std::ssize(own));
    start_exchange(sends, receives)->wait();
    return all;
  }

  /// data = that of rank `root`.
  /// @param data  as long on every rank
  template <typename T>
  void broadcast(std::span<T> data, int root) {
    static_assert(std::is_trivially_copyable_v<T>);
    check_between("Communicator::broadcast", "root", root, 0, size() - 1);
    std::vector<std::span<const std::byte>> sends(static_cast<std::size_t>(size()));
    std::vector<std::span<std::byte>> receives(sends.size());
    if (rank() == root) {
      std::fill(sends.begin(), sends.end(), std::as_bytes(data));
    } else {
      receives[static_cast<std::size_t>(root)] = std::as_writable_bytes(data);
    }
    start_exchange(sends, receives)->wait();
  }

  /// Returns when all ranks have called it.
  void barrier() { all_gather(std::span<const char>("", 1)); }

 private:
  virtual std::unique_ptr<Request> start(std::span<const std::span<const std::byte>> sends,
                                         std::span<const std::span<std::byte>> receives) = 0;
};

namespace detail {

/// Waits for requests, and counts how long: what was not hidden behind something else.
class WaitingTime {
 public:
  void wait(Communicator::Request& request) {
    if (request.test()) return;
    measure([&] { request.wait(); });
  }
  /// Calls a function that does nothing but wait, and gives what it gives.
  template <typename F>
  std::invoke_result_t<const F&> measure(const F& f) {
    struct Adder {
      double& seconds;
      std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
      ~Adder() {
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      }
    } adder{seconds_};
    return f();
  }
  double seconds() const { return seconds_; }

 private:
  double seconds_ = 0;
};

}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
