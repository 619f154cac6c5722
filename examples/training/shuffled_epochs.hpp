// SPDX-License-Identifier: MIT
/// @file
/// The order in which a training run reads its data.
#pragma once

#include <cstdint>

namespace training {

/// Epochs, passes over the items of a set: each item comes once before any comes again, and every
/// epoch has a random order of its own.
///
/// What comes when is a function of the seed and of the number alone, so there is no position to be
/// saved or restored, and no list of all items: an epoch's order is a Feistel network of random
/// functions (Luby and Rackoff, "How to construct pseudorandom permutations from pseudorandom
/// functions", 1988), walked until it is back among the items (Black and Rogaway, "Ciphers with
/// arbitrary finite domains", 2002).
class ShuffledEpochs {
 public:
  /// @param count  of items, at least 1
  ShuffledEpochs(std::int64_t count, std::uint64_t seed) : count_(count), seed_(seed) {}

  std::int64_t count() const { return count_; }

  struct Turn {
    std::int64_t epoch = 0;  ///< from 0
    std::int64_t item = 0;   ///< less than `count`
  };
  /// @param number  from 0
  Turn turn(std::int64_t number) const;

  /// Epochs that have been read before this turn, such as 1.5.
  double epochs_before(std::int64_t number) const {
    return static_cast<double>(number) / static_cast<double>(count_);
  }

 private:
  std::int64_t count_ = 1;
  std::uint64_t seed_ = 0;
};

}  // namespace training
