// SPDX-License-Identifier: MIT
/// @file
/// Rotary positions (Su et al., arXiv 2104.09864): queries and keys are rotated by angles that grow
/// with the position, so that their product depends on how far apart they are.
///
///     (x_i, x_(i + W/2)) -> (x_i cos a - x_(i + W/2) sin a,  x_(i + W/2) cos a + x_i sin a),
///     a = t 10000^(-2 i / W),   i = 0 ... W/2 - 1
///
/// for the first W columns of a head; the others stay. The position t of a token is the number of
/// real tokens before it in its sequence. Tokens are hashed before they are rotated: equal vectors
/// far apart fall into one bucket.
///
/// Backward: gradients are rotated by -a.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/phases.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI::detail {

enum class Rotation { forward, back };

/// Rotates heads of one width by their positions.
template <typename Scalar>
class Rotary {
 public:
  /// @param rotary_width  W, even, at most `head_width`
  Rotary(Index rotary_width, Index head_width)
      : half_(rotary_width / 2), head_width_(head_width), phases_(frequencies(rotary_width)) {}

  Index rotary_width() const { return 2 * half_; }

  /// Rotates all heads of rows x `[rows, G*K]`.
  /// @param positions  `[rows]`
  void rotate(Workspace& workspace, const std::int32_t* positions, Rotation rotation,
              const MatrixView<Scalar>& x) const {
    Scratch scratch(workspace);
    const auto memory = scratch.per_thread<Scalar>(2 * half_);
    for_each_row_tile(workspace, x.rows, [&](Index first, Index count, int thread) {
      for (Index row = first; row < first + count; ++row) {
        rotate_row(positions[row], rotation, x.columns, x.row(row), memory[thread]);
      }
    });
  }

 private:
  static std::vector<double> frequencies(Index rotary_width) {
    std::vector<double> w;
    for (Index i = 0; i < rotary_width / 2; ++i) {
      w.push_back(
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_width)));
    }
    return w;
  }

  /// One function for whole sequences and for decoding: the same bits.
  REFORMER_COMPILED_ONCE void rotate_row(Index t, Rotation rotation, Index columns, Scalar* row,
                                         Scalar* memory) const {
    Scalar *cosines = memory, *sines = memory + half_;
    phases_.at(t, 0, half_, cosines, sines);
    const Scalar sign = rotation == Rotation::forward ? Scalar(1) : Scalar(-1);
    for (Index i = 0; i < half_; ++i) sines[i] *= sign;
    for (Index head = 0; head < columns; head += head_width_) {
      Scalar *x = row + head, *y = x + half_;
      for (Index i = 0; i < half_; ++i) {
        const Scalar of_x = x[i] * cosines[i] - y[i] * sines[i];
        y[i] = y[i] * cosines[i] + x[i] * sines[i];
        x[i] = of_x;
      }
    }
  }

  Index half_, head_width_;
  Phases<Scalar, 256, 3> phases_;
};

/// Positions of the tokens of sequences, `[rows]`: how many real ones stand before each.
/// @param is_real  `[rows]`; empty: all
inline void count_positions(Index rows, Index length, std::span<const std::uint8_t> is_real,
                            std::int32_t* positions) {
  std::int32_t count = 0;
  for (Index row = 0; row < rows; ++row) {
    if (row % length == 0) count = 0;
    positions[row] = count;
    count += is_real_row(is_real, row) ? 1 : 0;
  }
}

}  // namespace reformer::inline REFORMER_ABI::detail
