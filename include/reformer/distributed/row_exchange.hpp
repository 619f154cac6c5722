// SPDX-License-Identifier: MIT
/// @file
/// Sums of gradients over micro-batches for tables of which a step reaches few rows.
///
/// A rank sends each owner the rows that it has reached, after their number. The order of additions
/// is that of `GradientExchange`; a micro-batch that has not reached a row adds nothing to it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/distributed/messages.hpp"
#include "reformer/distributed/ownership.hpp"
#include "reformer/distributed/wire.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// All tables of a model; a part of `GradientExchange`.
template <typename Scalar>
class RowExchange {
 public:
  RowExchange(Communicator& communicator, Wire wire) : communicator_(communicator), wire_(wire) {}

  /// @param index  of the parameter, which has a list of reached rows
  void add(Parameter<Scalar>& p, const Ownership& ownership, std::size_t index) {
    Table table{&p, index, {}, {}, {}, {}};
    const Index columns = std::max<Index>(p.value.cols(), 1);
    for (int r = 0; r < ownership.ranks(); ++r) {
      const Slice& slice = ownership.slice(index, r);
      table.rows.push_back({slice.begin / columns, slice.end / columns});
    }
    table.place.assign(static_cast<std::size_t>(table.rows[own_rank()].size()), -1);
    tables_.push_back(std::move(table));
  }

  /// Sends and starts to receive: see `GradientExchange::contribute`. Waits for the numbers of
  /// rows.
  /// @param is_contributor  whether this rank has a micro-batch in this round
  /// @param contributors    ranks 0 ... contributors - 1 have one
  void contribute(bool is_contributor, std::size_t contributors, WaitingTime& waiting) {
    if (tables_.empty() || ranks() == 1) return;
    const std::size_t n = tables_.size();
    std::vector<std::vector<Index>> sent(ranks(), std::vector<Index>(n, 0));
    received_.assign(ranks(), std::vector<Index>(n, 0));
    if (is_contributor) {
      for (std::size_t t = 0; t < n; ++t) {
        for (const Index row : tables_[t].parameter->reached->list()) {
          ++sent[owner_of(tables_[t], row)][t];
        }
      }
    }
    std::vector<std::span<const std::byte>> sends(ranks());
    std::vector<std::span<std::byte>> receives(ranks());
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (is_contributor) sends[r] = std::as_bytes(std::span(sent[r]));
      if (r < contributors) receives[r] = std::as_writable_bytes(std::span(received_[r]));
    }
    waiting.wait(*communicator_.start_exchange(sends, receives));

    std::vector<std::size_t> out(ranks(), 0), in(ranks(), 0);
    for (std::size_t r = 0; r < ranks(); ++r) {
      if (r == own_rank()) continue;
      for (std::size_t t = 0; t < n; ++t) {
        out[r] += message_bytes(wire_, tables_[t], sent[r][t]);
        in[r] += message_bytes(wire_, tables_[t], received_[r][t]);
      }
    }
    buffers_.resize(out, in);
    if (is_contributor) write(sent);
    request_ = buffers_.start(communicator_);
  }

  /// Adds all contributions of a round.
  void add_up(bool is_first_round, std::size_t contributors, WaitingTime& waiting) {
    if (tables_.empty()) return;
    if (request_) {
      waiting.wait(*request_);
      request_.reset();
    }
    if (is_first_round) clear();
    for (std::size_t r = 0; r < contributors; ++r) {
      if (r == own_rank()) {
        for (Table& table : tables_) add_own(table);
        continue;
      }
      const std::byte* at = buffers_.received(r);
      for (std::size_t t = 0; t < tables_.size(); ++t) {
        at = add_received(tables_[t], received_[r][t], at);
      }
    }
  }

  /// Puts the sums into the gradients, and tells all ranks how many rows each owner has.
  void finish(WaitingTime& waiting) {
    std::vector<Index> own;
    for (Table& table : tables_) {
      Parameter<Scalar>& p = *table.parameter;
      p.zero_gradient();
      std::sort(table.reached.begin(), table.reached.end());
      for (const Index row : table.reached) {
        p.reached->insert(row);
        std::copy_n(sum_of(table, row), p.value.cols(), p.gradient.data() + row * p.value.cols());
      }
      own.push_back(static_cast<Index>(table.reached.size()));
    }
    if (own.empty()) return;
    num_rows_ =
        waiting.measure([&] { return communicator_.all_gather(std::span<const Index>(own)); });
  }

  /// Ends the step of a rank that is alone with one micro-batch: its gradients are the sums.
  void finish_alone() {
    num_rows_.clear();
    for (const Table& table : tables_) {
      ReachedRows& reached = *table.parameter->reached;
      reached.sort();  // as `finish` leaves them
      num_rows_.push_back(static_cast<Index>(reached.list().size()));
    }
  }

  std::size_t num_tables() const { return tables_.size(); }
  Parameter<Scalar>& parameter(std::size_t table) const { return *tables_[table].parameter; }
  /// In the order of `for_each_parameter`.
  std::size_t parameter_index(std::size_t table) const { return tables_[table].index; }
  /// Rows of a rank's slice that any micro-batch of the step has reached.
  Index num_rows(std::size_t table, std::size_t rank) const {
    return num_rows_[rank * tables_.size() + table];
  }

  std::size_t bytes() const {
    std::size_t bytes = buffers_.bytes();
    for (const Table& table : tables_) {
      bytes += sizeof(std::int32_t) * table.place.size() +
               sizeof(Index) * table.reached.capacity() + sizeof(Scalar) * table.sum.capacity();
    }
    return bytes;
  }

  /// What `bytes` is at most, of so many micro-batches of so many tokens.
  std::size_t planned_bytes(Index tokens, Index micro_batches) const {
    std::size_t bytes = 0;
    for (const Table& table : tables_) {
      const auto rows_of = [&](std::size_t r, Index n) {
        return std::min(table.rows[r].size(), n);
      };
      const Index own = rows_of(own_rank(), micro_batches * tokens);
      // Sums grow as they are found, to twice what they need.
      bytes +=
          sizeof(std::int32_t) * table.place.size() + 2 * message_bytes(Wire::exact, table, own);
      for (std::size_t r = 0; r < ranks(); ++r) {
        if (r == own_rank()) continue;
        bytes += message_bytes(wire_, table, rows_of(r, tokens) + rows_of(own_rank(), tokens));
      }
    }
    return bytes;
  }
  /// Of a table, the rows of a rank's slice.
  const Slice& rows(std::size_t table, std::size_t rank) const { return tables_[table].rows[rank]; }

 private:
  struct Table {
    Parameter<Scalar>* parameter;
    std::size_t index;
    std::vector<Slice> rows;          // of each rank
    std::vector<std::int32_t> place;  // of a row of this rank's slice among the sums, or -1
    std::vector<Index> reached;
    std::vector<Scalar> sum;  // in the order in which rows were reached first
  };

  std::size_t ranks() const { return static_cast<std::size_t>(communicator_.size()); }
  std::size_t own_rank() const { return static_cast<std::size_t>(communicator_.rank()); }

  static std::size_t owner_of(const Table& table, Index row) {
    std::size_t r = 0;
    while (row < table.rows[r].begin || row >= table.rows[r].end) ++r;
    return r;
  }
  static std::size_t message_bytes(Wire wire, const Table& table, Index rows) {
    return static_cast<std::size_t>(rows) * sizeof(Index) +
           wire_bytes<Scalar>(wire, rows * table.parameter->value.cols());
  }

  /// Numbers of rows, then the rows, table by table.
  void write(const std::vector<std::vector<Index>>& sent) {
    std::vector<std::byte*> at;
    for (std::size_t r = 0; r < ranks(); ++r) at.push_back(buffers_.send(r));
    for (std::size_t t = 0; t < tables_.size(); ++t) {
      const Parameter<Scalar>& p = *tables_[t].parameter;
      std::vector<std::byte*> values = at;
      for (std::size_t r = 0; r < ranks(); ++r) {
        if (r != own_rank()) values[r] += static_cast<std::size_t>(sent[r][t]) * sizeof(Index);
      }
      for (const Index row : p.reached->list()) {
        const std::size_t r = owner_of(tables_[t], row);
        if (r == own_rank()) continue;
        std::memcpy(at[r], &row, sizeof row);
        at[r] += sizeof row;
        values[r] =
            write_wire(wire_, p.value.cols(), p.gradient.data() + row * p.value.cols(), values[r]);
      }
      at = values;
    }
  }

  void clear() {
    for (Table& table : tables_) {
      for (const Index row : table.reached) place_of(table, row) = -1;
      table.reached.clear();
      table.sum.clear();
    }
  }
  std::int32_t& place_of(Table& table, Index row) {
    return table.place[static_cast<std::size_t>(row - table.rows[own_rank()].begin)];
  }
  Scalar* sum_of(Table& table, Index row) {
    return table.sum.data() + place_of(table, row) * table.parameter->value.cols();
  }

  /// The sum of a row += values, or = if nothing was added to it before.
  void add_row(Table& table, Index row, const Scalar* values) {
    const Index columns = table.parameter->value.cols();
    std::int32_t& place = place_of(table, row);
    if (place >= 0) {
      simd::add(columns, values, sum_of(table, row));
      return;
    }
    place = static_cast<std::int32_t>(table.reached.size());
    table.reached.push_back(row);
    table.sum.insert(table.sum.end(), values, values + columns);
  }
  void add_own(Table& table) {
    const Parameter<Scalar>& p = *table.parameter;
    std::vector<Scalar> values(static_cast<std::size_t>(p.value.cols()));
    const Slice& own = table.rows[own_rank()];
    for (const Index row : p.reached->list()) {
      if (row < own.begin || row >= own.end) continue;
      round_as_wire(wire_, p.value.cols(), p.gradient.data() + row * p.value.cols(), values.data());
      add_row(table, row, values.data());
    }
  }
  const std::byte* add_received(Table& table, Index rows, const std::byte* at) {
    const Index columns = table.parameter->value.cols();
    std::vector<Scalar> values(static_cast<std::size_t>(columns));
    const std::byte* value = at + static_cast<std::size_t>(rows) * sizeof(Index);
    for (Index i = 0; i < rows; ++i) {
      Index row;
      std::memcpy(&row, at + static_cast<std::size_t>(i) * sizeof row, sizeof row);
      read_wire(wire_, columns, value, values.data());
      add_row(table, row, values.data());
      value += wire_bytes<Scalar>(wire_, columns);
    }
    return value;
  }

  Communicator& communicator_;
  Wire wire_;
  std::vector<Table> tables_;
  std::vector<std::vector<Index>> received_;  // rows of each rank and table
  std::vector<Index> num_rows_;               // of each owner and table, after a step
  MessageBuffers buffers_;
  std::unique_ptr<Communicator::Request> request_;  // ends before its buffers
};

}  // namespace reformer::inline REFORMER_ABI::detail
