// SPDX-License-Identifier: MIT
/// @file
/// Which rank adds up which gradients, keeps their optimiser's state and steps their parameters.
///
/// Each rank owns at most one slice of each parameter, so that all have the same amount of state,
/// as far as whole blocks allow. Where an optimiser needs all of a parameter for a step of it, one
/// rank owns all: such parameters are dealt out first, the largest first, each to the rank that has
/// least. The others are cut between blocks of 16,384 elements, of whole rows in tables of n-grams;
/// part by part, so that each rank owns something of each layer and none waits long for another's.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/training/state.hpp"

namespace reformer::inline REFORMER_ABI {

/// A function of the shapes of a model, the optimiser and the number of ranks. Slices of a
/// parameter ascend with the rank.
class Ownership {
 public:
  /// What is divided: a parameter, in the order of `for_each_parameter`.
  struct Item {
    Index part;   ///< of `Model::num_parts`
    Index size;   ///< elements
    Index state;  ///< elements of the optimiser's state
    Index block;  ///< elements that have one owner; 0: all
  };

  /// @throw std::invalid_argument for fewer ranks than 1
  Ownership(const std::vector<Item>& items, int ranks)
      : ranks_(ranks), slices_(items.size() * count_of(ranks)), state_(count_of(ranks), 0) {
    deal_out_whole(items);
    Index parts = 0;
    for (const Item& item : items) parts = std::max(parts, item.part + 1);
    for (Index part = 0; part < parts; ++part) divide(items, part);
  }

  /// @tparam Optimizer  `Adam`, `Adafactor` or `Muon`
  /// @throw std::invalid_argument for fewer ranks than 1
  template <typename Optimizer, typename Model>
  static Ownership of(const Model& model, int ranks) {
    using Scalar = typename Model::Scalar;
    std::vector<Item> items;
    for (Index part = 0; part < model.num_parts(); ++part) {
      model.for_each_parameter_of(part, [&](const Parameter<Scalar>& p) {
        Item item{part, p.size(), 0, 0};
        for (const detail::StateShape& shape : Optimizer::state_shapes(p)) {
          item.state += shape.rows * shape.columns;
        }
        if (Optimizer::is_divisible(p)) {
          const Index columns = std::max<Index>(p.value.cols(), 1);
          item.block = p.reached ? std::max<Index>(detail::optimizer_block / columns, 1) * columns
                                 : detail::optimizer_block;
        }
        items.push_back(item);
      });
    }
    return Ownership(items, ranks);
  }

  int ranks() const { return ranks_; }
  /// What a rank owns of a parameter; may be empty.
  const Slice& slice(std::size_t parameter, int rank) const {
    return slices_[parameter * static_cast<std::size_t>(ranks_) + static_cast<std::size_t>(rank)];
  }
  /// Elements of the optimiser's state that a rank keeps.
  Index state_elements(int rank) const { return state_[static_cast<std::size_t>(rank)]; }

 private:
  static std::size_t count_of(int ranks) {
    check_at_least("Ownership", "ranks", ranks, 1);
    return static_cast<std::size_t>(ranks);
  }
  Slice& own(std::size_t parameter, std::size_t rank) {
    return slices_[parameter * static_cast<std::size_t>(ranks_) + rank];
  }

  void deal_out_whole(const std::vector<Item>& items) {
    std::vector<std::size_t> whole;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (items[i].block == 0) whole.push_back(i);
    }
    std::stable_sort(whole.begin(), whole.end(),
                     [&](std::size_t a, std::size_t b) { return items[a].state > items[b].state; });
    for (const std::size_t i : whole) {
      const auto least = std::min_element(state_.begin(), state_.end());
      own(i, static_cast<std::size_t>(least - state_.begin())) = {0, items[i].size};
      *least += items[i].state;
    }
  }

  /// Cuts what can be cut of a part. A rank's share is what it lacks to a level that is the same
  /// for all: what earlier cuts gave it too much is made up for by the next.
  void divide(const std::vector<Item>& items, Index part) {
    struct Piece {
      std::size_t parameter;
      Slice slice;
      double state;
    };
    std::vector<Piece> pieces;
    double total = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const Item& item = items[i];
      if (item.part != part || item.block == 0 || item.size == 0) continue;
      const double each = static_cast<double>(item.state) / static_cast<double>(item.size);
      for (Index begin = 0; begin < item.size; begin += item.block) {
        const Index end = std::min(begin + item.block, item.size);
        pieces.push_back({i, {begin, end}, each * static_cast<double>(end - begin)});
        total += pieces.back().state;
      }
    }
    const double level = level_of(total);
    const std::vector<Index> before = state_;
    const auto share = [&](std::size_t r) {
      return std::max(0.0, level - static_cast<double>(before[r]));
    };
    std::size_t rank = 0;
    double share_end = share(0), done = 0;
    for (const Piece& piece : pieces) {
      while (rank + 1 < state_.size() && done + piece.state / 2 > share_end) {
        share_end += share(++rank);
      }
      Slice& slice = own(piece.parameter, rank);
      if (slice.size() == 0) slice.begin = piece.slice.begin;
      slice.end = piece.slice.end;
      state_[rank] += static_cast<Index>(piece.state);
      done += piece.state;
    }
  }

  /// What all have if what is added is given to those who have least.
  double level_of(double added) const {
    std::vector<Index> sorted = state_;
    std::sort(sorted.begin(), sorted.end());
    double sum = added, level = 0;
    for (std::size_t i = 0; i < sorted.size(); ++i) {
      if (i > 0 && static_cast<double>(sorted[i]) >= level) break;
      sum += static_cast<double>(sorted[i]);
      level = sum / static_cast<double>(i + 1);
    }
    return level;
  }

  int ranks_;
  std::vector<Slice> slices_;  // of each parameter and rank
  std::vector<Index> state_;   // of each rank
};

}  // namespace reformer::inline REFORMER_ABI
