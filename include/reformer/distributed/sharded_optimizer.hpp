// SPDX-License-Identifier: MIT
/// @file
/// An optimiser whose state is divided over ranks (ZeRO-1, Rajbhandari et al., arXiv 1910.02054).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/distributed/ownership.hpp"
#include "reformer/distributed/row_exchange.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/training/clipping.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// A model, of which an optimiser steps what a rank owns: see `detail::slice_of`.
template <typename Model>
class ModelShard {
 public:
  ModelShard(Model& model, const Ownership& ownership, int rank)
      : model_(model), ownership_(ownership), rank_(rank) {}

  template <typename F>
  void for_each_parameter(F&& f) const {
    model_.for_each_parameter(f);
  }
  const Slice& slice(std::size_t index) const { return ownership_.slice(index, rank_); }

 private:
  Model& model_;
  const Ownership& ownership_;
  int rank_;
};

/// `Adam`, `Adafactor` or `Muon` with the state of this rank's slices. A step gives the bits that
/// one rank with all of the state gives.
///
/// Refers to communicator, model and ownership. Not copyable.
template <typename Model, typename Optimizer>
class ShardedOptimizer {
 public:
  using Scalar = typename Model::Scalar;
  using Config = std::remove_cvref_t<decltype(std::declval<const Optimizer&>().config())>;

  /// @throw std::invalid_argument for a configuration out of range
  ShardedOptimizer(Communicator& communicator, Model& model, const Ownership& ownership,
                   const Config& config)
      : communicator_(communicator),
        model_(model),
        ownership_(ownership),
        shard_(model, ownership, communicator.rank()),
        optimizer_(config) {
    optimizer_.allocate(shard_);
  }
  ShardedOptimizer(const ShardedOptimizer&) = delete;
  ShardedOptimizer& operator=(const ShardedOptimizer&) = delete;

  /// Calls `f(name, state)` for the state of this rank's slices, in one row each; that of a
  /// parameter that this rank owns as a whole has its shape.
  template <typename F>
  void for_each_own_state(const F& f) const {
    optimizer_.for_each_state(shard_, f);
  }

  /// Steps this rank's slices by their gradients.
  /// @throw std::invalid_argument as `Optimizer::step`
  void step(Workspace& workspace, double rate, double gradient_scale) {
    optimizer_.step(workspace, shard_, rate, gradient_scale);
  }

  /// The bits of `global_gradient_norm` where the gradients are those of this rank's slices:
  /// squares are summed over blocks, and blocks in the order of the model.
  double gradient_norm(Workspace& workspace, const RowExchange<Scalar>& rows,
                       WaitingTime& waiting) const {
    check_for_use("ShardedOptimizer::gradient_norm", workspace);
    check_gradients("ShardedOptimizer::gradient_norm", model_);
    const auto ranks = static_cast<std::size_t>(communicator_.size());
    const auto own_rank = static_cast<std::size_t>(communicator_.rank());
    // Blocks of each parameter and rank.
    std::vector<std::size_t> counts;
    std::vector<std::vector<double>> sums(ranks);
    std::size_t index = 0, table = 0;
    std::vector<std::size_t> sizes(ranks, 0);
    model_.for_each_parameter([&](const Parameter<Scalar>& p) {
      for (std::size_t r = 0; r < ranks; ++r) {
        const Slice& slice = ownership_.slice(index, static_cast<int>(r));
        const Index blocks = p.is_frozen ? 0
                             : p.reached ? rows.num_rows(table, r)
                                         : ceil_div(slice.size(), optimizer_block);
        counts.push_back(static_cast<std::size_t>(blocks));
        sizes[r] += counts.back();
      }
      if (!p.is_frozen) {
        const auto own = block_squares(workspace, p, ownership_.slice(index, communicator_.rank()));
        sums[own_rank].insert(sums[own_rank].end(), own.begin(), own.end());
      }
      if (p.reached) ++table;
      ++index;
    });
    std::vector<std::span<const std::byte>> sends(ranks, std::as_bytes(std::span(sums[own_rank])));
    std::vector<std::span<std::byte>> receives;
    for (std::size_t r = 0; r < ranks; ++r) {
      sums[r].resize(sizes[r]);
      receives.push_back(std::as_writable_bytes(std::span(sums[r])));
    }
    waiting.wait(*communicator_.start_exchange(sends, receives));
    double total = 0;
    std::vector<std::size_t> at(ranks, 0);
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::size_t r = i % ranks;
      for (std::size_t block = 0; block < counts[i]; ++block) total += sums[r][at[r]++];
    }
    return std::sqrt(total);
  }

  /// Calls `f(optimizer)` on rank 0 with the state of all ranks, for a checkpoint that does not
  /// know how many there are. All ranks call it. Of more than one rank, rank 0 holds all state
  /// until `f` returns.
  template <typename F>
  void visit_whole(const F& f) const {
    if (communicator_.size() == 1) {
      f(optimizer_);
      return;
    }
    Optimizer whole(optimizer_.config());
    if (communicator_.rank() == 0) {
      whole.allocate(model_);
      whole.steps() = optimizer_.steps();
    }
    move_state<true>(optimizer_, whole);
    if (communicator_.rank() == 0) f(std::as_const(whole));
  }

  /// Calls `f(optimizer)` on rank 0, which fills it, as `ModelFile::read_optimizer` does; then each
  /// rank has its part of the state, the configuration and the number of steps. All ranks call it.
  template <typename F>
  void set_whole(const F& f) {
    if (communicator_.size() == 1) {
      f(optimizer_);
      return;
    }
    Optimizer whole(optimizer_.config());
    if (communicator_.rank() == 0) {
      whole.allocate(model_);
      f(whole);
    }
    static_assert(std::is_trivially_copyable_v<Config>);
    Config config = whole.config();
    communicator_.broadcast(std::span(&config, 1), 0);
    communicator_.broadcast(std::span(&whole.steps(), 1), 0);
    optimizer_.set_config(config);
    optimizer_.steps() = whole.steps();
    move_state<false>(optimizer_, whole);
  }

  /// Bytes that `visit_whole` and `set_whole` take on this rank.
  std::size_t whole_bytes() const {
    Index elements = 0;
    for (int r = 0; r < ownership_.ranks(); ++r) elements += ownership_.state_elements(r);
    const bool holds_all = communicator_.rank() == 0 && communicator_.size() > 1;
    return holds_all ? sizeof(Scalar) * static_cast<std::size_t>(elements) : 0;
  }
  /// Bytes of state that this rank keeps.
  std::size_t state_bytes() const {
    return sizeof(Scalar) *
           static_cast<std::size_t>(ownership_.state_elements(communicator_.rank()));
  }

 private:
  /// Moves the state of all slices between this rank's, `part`, and all of it on rank 0, `whole`.
  template <bool to_whole, typename Part>
  void move_state(Part& part, Optimizer& whole) const {
    std::vector<std::span<std::byte>> of_part, of_whole;
    const auto list_in = [](auto& list) {
      return [&list](const auto&, auto& state) {
        auto* data = const_cast<Scalar*>(state.data());
        list.push_back(
            std::as_writable_bytes(std::span(data, static_cast<std::size_t>(state.size()))));
      };
    };
    part.for_each_state(shard_, list_in(of_part));
    whole.for_each_state(model_, list_in(of_whole));
    std::size_t index = 0;
    model_.for_each_parameter([&](const Parameter<Scalar>& p) {
      const auto shapes = Optimizer::state_shapes(p);
      for (std::size_t which = 0; which < 2; ++which) {
        const auto i = 2 * index + which;
        move_one<to_whole>(of_part[i], of_whole.empty() ? std::span<std::byte>() : of_whole[i],
                           index, p.size(), shapes[which]);
      }
      ++index;
    });
  }

  template <bool to_whole>
  void move_one(std::span<std::byte> part, std::span<std::byte> whole, std::size_t index,
                Index size, const StateShape& shape) const {
    const auto ranks = static_cast<std::size_t>(communicator_.size());
    const bool is_root = communicator_.rank() == 0;
    std::vector<std::span<const std::byte>> sends(ranks);
    std::vector<std::span<std::byte>> receives(ranks);
    for (std::size_t r = 0; is_root && r < ranks; ++r) {
      const Slice& slice = ownership_.slice(index, static_cast<int>(r));
      const auto own = slice_shapes({shape, shape}, size, slice)[0];
      const auto bytes = sizeof(Scalar) * static_cast<std::size_t>(own.rows * own.columns);
      const bool is_all = slice.size() == size;
      const auto at = is_all ? 0 : sizeof(Scalar) * static_cast<std::size_t>(slice.begin);
      if (bytes == 0) continue;
      const std::span<std::byte> of_rank = whole.subspan(at, bytes);
      if (r == 0) {
        const std::span<std::byte> from = to_whole ? part : of_rank, to = to_whole ? of_rank : part;
        std::copy(from.begin(), from.end(), to.begin());
      } else if (to_whole) {
        receives[r] = of_rank;
      } else {
        sends[r] = of_rank;
      }
    }
    if (!is_root) (to_whole ? void(sends[0] = part) : void(receives[0] = part));
    communicator_.start_exchange(sends, receives)->wait();
  }

  Communicator& communicator_;
  Model& model_;
  const Ownership& ownership_;
  ModelShard<Model> shard_;
  Optimizer optimizer_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
