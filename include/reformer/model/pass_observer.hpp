// SPDX-License-Identifier: MIT
/// @file
/// How far a pass with gradients is, for who moves weights and gradients while it runs.
#pragma once

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

/// Is called by a pass with gradients, between parallel regions, in the thread that runs the pass.
/// Parts are those of `Model::num_parts`.
class PassObserver {
 public:
  virtual ~PassObserver() = default;
  /// The pass is about to compute with the parameters of a part, for the first time; parts come in
  /// ascending order. Before the first, it has looked whether the model has values that are not
  /// zero.
  virtual void before_forward(Index part) = 0;
  /// The pass has added all that it adds to the gradients of a part; parts come in descending
  /// order.
  virtual void after_backward(Index part) = 0;
};

}  // namespace reformer::inline REFORMER_ABI
