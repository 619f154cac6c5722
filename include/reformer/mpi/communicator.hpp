// SPDX-License-Identifier: MIT
/// @file
/// Ranks that are processes, by MPI (3.0 or newer). Needs `<mpi.h>`: the CMake target
/// `reformer::mpi`.
///
///     int provided;
///     MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
///     {
///       MpiCommunicator communicator(MPI_COMM_WORLD);
///       DataParallel<Model<float>, Adam<float>> training(communicator, model, ...);
///     }
///     MPI_Finalize();
#pragma once

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"

namespace reformer::inline REFORMER_ABI {

/// The ranks of an MPI communicator. It has messages of its own (`MPI_Comm_dup`), which no others
/// get mixed up with, and makes MPI report errors of these instead of ending the program. MPI is
/// called from the threads that call here only, one at a time; so messages move on only there, too.
/// While a rank waits, it gives the processor away.
class MpiCommunicator final : public Communicator {
 public:
  /// Called by all ranks of `parent`. MPI is initialised before, by the caller, and finalised after
  /// this has ended.
  /// @param while_waiting  is called about twice a second while this rank waits for others, which
  /// MPI
  ///   does for ever if one has died: what it throws ends the wait; or none
  /// @throw std::invalid_argument if MPI is not initialised, or allows no thread but one:
  ///   `MPI_THREAD_FUNNELED` is the least
  explicit MpiCommunicator(MPI_Comm parent, std::function<void()> while_waiting = {})
      : while_waiting_(std::move(while_waiting)) {
    constexpr auto function = "MpiCommunicator";
    int is_initialized = 0, is_finalized = 0;
    MPI_Initialized(&is_initialized);
    MPI_Finalized(&is_finalized);
    check(is_initialized != 0 && is_finalized == 0, function,
          "MPI is not running, must be between MPI_Init_thread and MPI_Finalize");
    int threads = 0;
    MPI_Query_thread(&threads);
    check(threads >= MPI_THREAD_FUNNELED, function,
          "MPI was initialised for a single thread, must be for MPI_THREAD_FUNNELED at least");
    throw_if_failed("MPI_Comm_dup", MPI_Comm_dup(parent, &comm_));
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  ~MpiCommunicator() override {
    int is_finalized = 0;
    MPI_Finalized(&is_finalized);
    if (is_finalized == 0) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

 private:
  static void throw_if_failed(std::string_view call, int error) {
    if (error == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(error, text, &length);
    std::replace(text, text + length, '\n', ' ');
    throw std::runtime_error(detail::join(
        "MPI: ", call, " failed: ", std::string_view(text, static_cast<std::size_t>(length))));
  }

  class Messages final : public Request {
   public:
    Messages(MPI_Comm comm, int rank, std::span<const std::span<const std::byte>> sends,
             std::span<const std::span<std::byte>> receives,
             const std::function<void()>& while_waiting)
        : while_waiting_(while_waiting) {
      try {
        for (int peer = 0; peer < static_cast<int>(receives.size()); ++peer) {
          if (peer == rank) continue;
          for_each_piece(receives[static_cast<std::size_t>(peer)], [&](std::byte* data, int count) {
            throw_if_failed("MPI_Irecv", MPI_Irecv(data, count, MPI_BYTE, peer, 0, comm, add()));
          });
        }
        for (int i = 1; i < static_cast<int>(sends.size()); ++i) {
          // Not all to rank 0 first.
          const int peer = (rank + i) % static_cast<int>(sends.size());
          for_each_piece(sends[static_cast<std::size_t>(peer)], [&](const std::byte* data,
                                                                    int count) {
            throw_if_failed("MPI_Isend", MPI_Isend(data, count, MPI_BYTE, peer, 0, comm, add()));
          });
        }
      } catch (...) {
        give_up();
        throw;
      }
    }
    ~Messages() override { give_up(); }

    bool test() override {
      if (requests_.empty()) return true;
      int is_done = 0;
      std::vector<MPI_Status> statuses(requests_.size());
      int error = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &is_done,
                              statuses.data());
      if (error == MPI_ERR_IN_STATUS) {
        for (const MPI_Status& status : statuses) {
          if (status.MPI_ERROR != MPI_SUCCESS && status.MPI_ERROR != MPI_ERR_PENDING) {
            error = status.MPI_ERROR;
          }
        }
      }
      throw_if_failed("MPI_Testall", error);
      if (is_done != 0) requests_.clear();
      return is_done != 0;
    }

    void wait() override {
      using Clock = std::chrono::steady_clock;
      const auto start = Clock::now();
      auto called = start;
      while (!test()) {
        const auto now = Clock::now();
        if (now - start < std::chrono::milliseconds(1)) {
          std::this_thread::yield();
        } else {
          std::this_thread::sleep_for(std::chrono::microseconds(100));
        }
        if (while_waiting_ && now - called >= std::chrono::milliseconds(500)) {
          while_waiting_();
          called = now;
        }
      }
    }

   private:
    /// MPI counts in int.
    template <typename Byte, typename F>
    static void for_each_piece(std::span<Byte> data, const F& f) {
      constexpr std::size_t most = std::size_t{1} << 30;
      for (std::size_t at = 0; at < data.size(); at += most) {
        f(data.data() + at, static_cast<int>(std::min(most, data.size() - at)));
      }
    }
    MPI_Request* add() {
      requests_.push_back(MPI_REQUEST_NULL);
      return &requests_.back();
    }
    /// The memory of these messages ends.
    void give_up() {
      for (MPI_Request& request : requests_) {
        if (request == MPI_REQUEST_NULL) continue;
        MPI_Cancel(&request);
        MPI_Request_free(&request);
      }
    }

    std::vector<MPI_Request> requests_;
    const std::function<void()>& while_waiting_;
  };

  std::unique_ptr<Request> start(std::span<const std::span<const std::byte>> sends,
                                 std::span<const std::span<std::byte>> receives) override {
    return std::make_unique<Messages>(comm_, rank_, sends, receives, while_waiting_);
  }

  std::function<void()> while_waiting_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
};

}  // namespace reformer::inline REFORMER_ABI
