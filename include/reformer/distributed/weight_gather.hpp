// SPDX-License-Identifier: MIT
/// @file
/// Weights after a step, from those who own them to all, part by part as the next pass needs them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/distributed/messages.hpp"
#include "reformer/distributed/ownership.hpp"
#include "reformer/distributed/row_exchange.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Of tables only the rows that the step has reached are sent, for others do not change.
///
/// Refers to communicator, ownership and rows. Not copyable.
template <typename Scalar>
class WeightGather {
 public:
  template <typename Model>
  WeightGather(Communicator& communicator, Model& model, const Ownership& ownership,
               const RowExchange<Scalar>& rows)
      : communicator_(communicator),
        ownership_(ownership),
        rows_(rows),
        parts_(static_cast<std::size_t>(model.num_parts())),
        started_(parts_.size()),
        done_(parts_.size()) {
    std::size_t index = 0;
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      model.for_each_parameter_of(static_cast<Index>(part), [&](Parameter<Scalar>& p) {
        if (!p.reached) parts_[part].push_back({&p, index});
        ++index;
      });
    }
  }
  WeightGather(const WeightGather&) = delete;
  WeightGather& operator=(const WeightGather&) = delete;

  /// This rank has changed its slices; all ranks begin to send and to receive.
  void begin() {
    started_ = done_ = 0;
    start_more();
  }

  /// Waits until parts 0 ... part are as on all ranks.
  void wait_for(Index part) {
    while (done_ < parts_.size() && done_ <= static_cast<std::size_t>(part)) {
      Pending& pending = pending_[done_ % pending_.size()];
      waiting_.wait(*pending.request);
      pending.request.reset();
      read(done_, pending.received);
      ++done_;
      start_more();
    }
  }
  void wait_for_all() { wait_for(static_cast<Index>(parts_.size())); }

  double exposed_seconds() const { return waiting_.seconds(); }
  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const Pending& pending : pending_) {
      bytes += pending.sent.capacity() + pending.received.bytes();
    }
    return bytes;
  }
  /// What they are at most, of so many micro-batches of so many tokens.
  std::size_t planned_bytes(Index tokens, Index micro_batches) const {
    std::size_t bytes = 0;
    for (std::size_t r = 0; ranks() > 1 && r < ranks(); ++r) {
      std::size_t most = 0;
      for (std::size_t part = 0; part < parts_.size(); ++part) {
        most = std::max(most, bytes_of(part, r, [&](std::size_t table) {
                          return std::min(rows_.rows(table, r).size(), micro_batches * tokens);
                        }));
      }
      bytes += pending_.size() * most;
    }
    return bytes;
  }

 private:
  struct Pending {
    MessageBuffer sent;
    MessageBuffers received;
    std::unique_ptr<Communicator::Request> request;  // ends before its buffers
  };

  std::size_t ranks() const { return static_cast<std::size_t>(communicator_.size()); }
  std::size_t own_rank() const { return static_cast<std::size_t>(communicator_.rank()); }

  void start_more() {
    for (; started_ < parts_.size() && started_ < done_ + pending_.size(); ++started_) {
      Pending& pending = pending_[started_ % pending_.size()];
      start(started_, pending);
    }
  }

  void start(std::size_t part, Pending& pending) {
    const auto bytes = [&](std::size_t r) {
      return bytes_of(part, r, [&](std::size_t table) { return rows_.num_rows(table, r); });
    };
    std::vector<std::size_t> sizes(ranks(), 0);
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (r != own_rank()) sizes[r] = bytes(r);
    }
    pending.received.resize(std::vector<std::size_t>(ranks(), 0), sizes);
    if (ranks() > 1) {
      pending.sent.resize(bytes(own_rank()));
      write(part, pending.sent.data());
    }
    const std::vector<std::span<const std::byte>> sends(ranks(), pending.sent.all());
    pending.request = pending.received.start(communicator_, sends);
  }

  /// @param num_rows  of a table
  template <typename NumRows>
  std::size_t bytes_of(std::size_t part, std::size_t rank, const NumRows& num_rows) const {
    std::size_t bytes = 0;
    for (const auto& [p, i] : parts_[part]) {
      bytes += sizeof(Scalar) *
               static_cast<std::size_t>(ownership_.slice(i, static_cast<int>(rank)).size());
    }
    if (part > 0) return bytes;
    for (std::size_t t = 0; t < rows_.num_tables(); ++t) {
      const auto columns = static_cast<std::size_t>(rows_.parameter(t).value.cols());
      bytes += static_cast<std::size_t>(num_rows(t)) * (sizeof(Index) + sizeof(Scalar) * columns);
    }
    return bytes;
  }

  void write(std::size_t part, std::byte* to) const {
    const auto put = [&](const auto* from, Index n) {
      const std::size_t bytes = sizeof(*from) * static_cast<std::size_t>(n);
      if (bytes > 0) std::memcpy(to, from, bytes);
      to += bytes;
    };
    for (const auto& [p, i] : parts_[part]) {
      const Slice& slice = ownership_.slice(i, communicator_.rank());
      put(p->value.data() + slice.begin, slice.size());
    }
    if (part > 0) return;
    for (std::size_t t = 0; t < rows_.num_tables(); ++t) {
      const Parameter<Scalar>& p = rows_.parameter(t);
      for (const Index row : p.reached->list()) {
        put(&row, 1);
        put(p.value.data() + row * p.value.cols(), p.value.cols());
      }
    }
  }

  void read(std::size_t part, const MessageBuffers& buffers) {
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (r == own_rank()) continue;
      const std::byte* from = buffers.received(r);
      const auto get = [&](auto* to, Index n) {
        const std::size_t bytes = sizeof(*to) * static_cast<std::size_t>(n);
        if (bytes > 0) std::memcpy(to, from, bytes);
        from += bytes;
      };
      for (const auto& [p, i] : parts_[part]) {
        const Slice& slice = ownership_.slice(i, static_cast<int>(r));
        get(p->value.data() + slice.begin, slice.size());
      }
      if (part > 0) continue;
      for (std::size_t t = 0; t < rows_.num_tables(); ++t) {
        Parameter<Scalar>& p = rows_.parameter(t);
        for (Index i = 0; i < rows_.num_rows(t, r); ++i) {
          Index row = 0;
          get(&row, 1);
          get(p.value.data() + row * p.value.cols(), p.value.cols());
        }
      }
    }
  }

  Communicator& communicator_;
  const Ownership& ownership_;
  const RowExchange<Scalar>& rows_;
  std::vector<std::vector<std::pair<Parameter<Scalar>*, std::size_t>>> parts_;
  std::array<Pending, 3> pending_;  // part i in element i % 3
  std::size_t started_, done_;
  WaitingTime waiting_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
