// SPDX-License-Identifier: MIT
/// @file
/// Sums of gradients over micro-batches, in an order that does not depend on who computed them.
///
/// Micro-batches have global numbers 0 ... M-1, and rank r of R computes r, r + R, r + 2R, ... With
/// g_m, the gradient of micro-batch m computed from zero, the sum is
///
///     ((g_0 + g_1) + g_2) + ... + g_{M-1}
///
/// element by element, added by the rank that owns the element. In round k the ranks compute the
/// micro-batches kR ... kR + R - 1, or what is left of them, and send each owner its slices of a
/// part as soon as the pass has completed it, while the pass goes on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/distributed/messages.hpp"
#include "reformer/distributed/ownership.hpp"
#include "reformer/distributed/row_exchange.hpp"
#include "reformer/distributed/wire.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// After the rounds of a step, the gradient of each slice that this rank owns is the sum, and
/// `reached` is the rows of its slice that any micro-batch has reached, in ascending order. What
/// stands elsewhere in gradients means nothing.
///
/// Refers to communicator, model and ownership. Not copyable.
template <typename Scalar>
class GradientExchange {
 public:
  /// @param micro_batches  M, at least 1
  /// @throw std::invalid_argument for M or a wire out of range
  template <typename Model>
  GradientExchange(Communicator& communicator, Model& model, const Ownership& ownership,
                   Index micro_batches, Wire wire)
      : communicator_(communicator),
        ownership_(ownership),
        micro_batches_(micro_batches),
        wire_(wire),
        parts_(static_cast<std::size_t>(model.num_parts())),
        rows_(communicator, wire) {
    check_between("GradientExchange", "micro_batches", micro_batches, 1, max_size);
    check_wire<Scalar>("GradientExchange", wire);
    std::size_t index = 0;
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      model.for_each_parameter_of(static_cast<Index>(part), [&](Parameter<Scalar>& p) {
        if (p.reached) {
          rows_.add(p, ownership, index);
        } else {
          parts_[part].parameters.push_back({&p, index});
        }
        ++index;
      });
    }
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      Part& own = parts_[part];
      own.elements.resize(ranks(), 0);
      for (const auto& [p, i] : own.parameters) {
        for (std::size_t r = 0; r < ranks(); ++r) own.elements[r] += slice(i, r).size();
      }
      if (num_rounds() > 1) own.sum.resize(static_cast<std::size_t>(own.elements[own_rank()]));
    }
  }
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;

  Index micro_batches() const { return micro_batches_; }
  /// Rounds in which all ranks together compute all micro-batches.
  Index num_rounds() const { return ceil_div(micro_batches_, static_cast<Index>(ranks())); }
  /// The micro-batch of a rank in a round, or one that is too large if it has none.
  Index micro_batch(Index round, int rank) const {
    return round * static_cast<Index>(ranks()) + rank;
  }

  /// Begins a round; rounds come one after another from 0.
  /// @param threads  that add
  void begin(Index round, int threads) {
    round_ = round;
    threads_ = threads;
    next_ = static_cast<Index>(parts_.size()) - 1;
  }

  /// Sends this rank's contribution to a part, if it has a micro-batch in this round, and starts to
  /// receive those of others. The gradient of the part stays as it is until `end`, which every rank
  /// calls after it has called this for each part, in descending order.
  void contribute(Index part) {
    check_equal("GradientExchange::contribute", "part", part, "the next one", next_);
    --next_;
    if (ranks() > 1) {
      progress(false);
      start(part);
    } else if (!is_sum_already()) {
      add_up(part, MessageBuffers());
    }
    if (part == 0 && !is_alone()) {
      rows_.contribute(contributes(own_rank()), num_contributors(), waiting_);
    }
  }

  /// Ends a round: all contributions have been added. After the last round, gradients are sums.
  void end() {
    check(next_ < 0, "GradientExchange::end", "the pass has not told its observer of ", next_ + 1,
          " parts, must tell of all");
    if (is_alone()) {
      rows_.finish_alone();
      return;
    }
    progress(true);
    rows_.add_up(round_ == 0, num_contributors(), waiting_);
    if (round_ + 1 == num_rounds()) rows_.finish(waiting_);
  }

  /// Rows of tables that the micro-batches of the last step have reached, for every owner.
  const RowExchange<Scalar>& rows() const { return rows_; }

  /// Time in which this rank did nothing but wait, since it was made.
  double exposed_seconds() const { return waiting_.seconds(); }

  /// Bytes of sums over rounds and of messages, between steps.
  std::size_t bytes() const {
    std::size_t bytes = rows_.bytes();
    for (const Part& part : parts_) bytes += sizeof(Scalar) * part.sum.size();
    for (const auto& buffers : free_) bytes += buffers->bytes();
    return bytes;
  }
  /// What they are at most, of micro-batches of so many tokens.
  std::size_t planned_bytes(Index tokens) const {
    std::size_t bytes = rows_.planned_bytes(is_alone() ? 0 : tokens, micro_batches_);
    for (const Part& part : parts_) bytes += sizeof(Scalar) * part.sum.size();
    const auto has_micro_batch = [&](std::size_t r) {
      return static_cast<Index>(r) < micro_batches_;
    };
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (r == own_rank()) continue;
      Index most_sent = 0, most_received = 0;
      for (const Part& part : parts_) {
        if (has_micro_batch(own_rank())) most_sent = std::max(most_sent, part.elements[r]);
        if (has_micro_batch(r)) most_received = std::max(most_received, part.elements[own_rank()]);
      }
      bytes += most_pending * wire_bytes<Scalar>(wire_, most_sent + most_received);
    }
    return bytes;
  }

 private:
  struct Part {
    std::vector<std::pair<Parameter<Scalar>*, std::size_t>> parameters;
    std::vector<Index> elements;  // of each rank's slices
    std::vector<Scalar> sum;      // of the rounds before, this rank's slices one after another
  };
  struct Pending {
    Index part;
    std::unique_ptr<MessageBuffers> buffers;
    std::unique_ptr<Communicator::Request> request;  // ends before its buffers
  };

  /// Parts on their way. More take more memory, and are of use only if a part is computed faster
  /// than sent, which cannot go on for long.
  static constexpr std::size_t most_pending = 3;
  /// Elements that are added up before the next ones: they stay in the cache.
  static constexpr Index run = 1024;

  std::size_t ranks() const { return static_cast<std::size_t>(communicator_.size()); }
  std::size_t own_rank() const { return static_cast<std::size_t>(communicator_.rank()); }
  const Slice& slice(std::size_t parameter, std::size_t rank) const {
    return ownership_.slice(parameter, static_cast<int>(rank));
  }
  /// In this round ranks 0 ... n-1 have a micro-batch.
  std::size_t num_contributors() const {
    const Index left = micro_batches_ - round_ * static_cast<Index>(ranks());
    return std::min(ranks(), static_cast<std::size_t>(left));
  }
  bool contributes(std::size_t rank) const { return rank < num_contributors(); }
  /// Of one micro-batch, its gradient is the sum.
  bool is_sum_already() const { return micro_batches_ == 1 && wire_ == Wire::exact; }
  bool is_alone() const { return ranks() == 1 && is_sum_already(); }

  void start(Index part) {
    const Part& own = parts_[static_cast<std::size_t>(part)];
    if (pending_.size() == most_pending) finish_first();
    if (free_.empty()) free_.push_back(std::make_unique<MessageBuffers>());
    std::unique_ptr<MessageBuffers> buffers = std::move(free_.back());
    free_.pop_back();
    std::vector<std::size_t> sends(ranks(), 0), receives(ranks(), 0);
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (r == own_rank()) continue;
      if (contributes(own_rank())) {
        sends[r] = wire_bytes<Scalar>(wire_, own.elements[r]);
      }
      if (contributes(r)) {
        receives[r] = wire_bytes<Scalar>(wire_, own.elements[own_rank()]);
      }
    }
    buffers->resize(sends, receives);
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (sends[r] == 0) continue;
      std::byte* to = buffers->send(r);
      for (const auto& [p, i] : own.parameters) {
        const Slice& s = slice(i, r);
        to = write_wire(wire_, s.size(), p->gradient.data() + s.begin, to);
      }
    }
    auto request = buffers->start(communicator_);
    pending_.push_back({part, std::move(buffers), std::move(request)});
  }

  /// Adds up what has arrived, or everything.
  void progress(bool all) {
    while (!pending_.empty() && (all || pending_.front().request->test())) finish_first();
  }
  void finish_first() {
    Pending& first = pending_.front();
    waiting_.wait(*first.request);
    add_up(first.part, *first.buffers);
    free_.push_back(std::move(first.buffers));
    pending_.pop_front();
  }

  /// Adds up a part's contributions, for this rank's slices.
  void add_up(Index part, const MessageBuffers& buffers) {
    Part& own = parts_[static_cast<std::size_t>(part)];
    Index offset = 0;  // in the slices of the part
    for (const auto& [p, i] : own.parameters) {
      const Slice& s = slice(i, own_rank());
      Scalar* gradient = p->gradient.data() + s.begin;
      parallel_for(threads_, ceil_div(s.size(), optimizer_block),
                   [&, gradient, offset](Index task, int) {
                     const Index begin = task * optimizer_block;
                     const Index end = std::min(begin + optimizer_block, s.size());
                     for (Index at = begin; at < end; at += run) {
                       add_run(own, buffers, offset + at, std::min(run, end - at), gradient + at);
                     }
                   });
      offset += s.size();
    }
  }

  /// sum = sum of the rounds before + contributions in the order of ranks, of n <= `run` elements.
  /// @param offset    of the elements in the slices of the part
  /// @param gradient  this rank's contribution, and after the last round the sum
  void add_run(Part& own, const MessageBuffers& buffers, Index offset, Index n,
               Scalar* gradient) const {
    Scalar sum[run], next[run];
    Scalar* kept = own.sum.empty() ? nullptr : own.sum.data() + offset;
    bool is_first = round_ == 0;
    if (!is_first) std::copy_n(kept, n, sum);
    for (std::size_t r = 0; r < num_contributors(); ++r) {
      Scalar* to = is_first ? sum : next;
      if (r == own_rank()) {
        round_as_wire(wire_, n, gradient, to);
      } else {
        read_wire(wire_, n, buffers.received(r) + wire_bytes<Scalar>(wire_, offset), to);
      }
      if (!is_first) simd::add(n, next, sum);
      is_first = false;
    }
    std::copy_n(sum, n, round_ + 1 == num_rounds() ? gradient : kept);
  }

  Communicator& communicator_;
  const Ownership& ownership_;
  Index micro_batches_;
  Wire wire_;
  std::vector<Part> parts_;
  RowExchange<Scalar> rows_;
  Index round_ = 0, next_ = -1;
  int threads_ = 1;
  std::vector<std::unique_ptr<MessageBuffers>> free_;
  std::deque<Pending> pending_;
  WaitingTime waiting_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
