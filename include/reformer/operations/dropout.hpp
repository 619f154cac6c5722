// SPDX-License-Identifier: MIT
/// @file
/// Inverted dropout by counter: the mask is a function of the random key and the element's number,
/// so a backward pass or a recomputation applies the same mask without storing it.
///
///     y_i = x_i m_i / (1 - p),   m_i = 0 with probability p, else 1
///
/// The probability is rounded to a multiple of 2^-16; the scale uses the rounded value, so the mean
/// is kept exactly.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/random.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI {

/// The masks of one purpose in one layer and step.
template <typename Scalar>
class Dropout {
 public:
  /// @param probability  of dropping an element, in [0, 1); 0 does nothing
  /// @throw std::invalid_argument for another probability, or a layer that the key cannot tell
  Dropout(double probability, const RandomKey& key, Purpose purpose)
      : stream_((check_dropout("Dropout", "probability", probability),
                 detail::check_key("Dropout", key), key),
                purpose),
        threshold_(static_cast<std::uint32_t>(std::min(std::lround(probability * 65536), 65535L))),
        scale_(static_cast<Scalar>(65536.0 / (65536.0 - threshold_))) {}

  bool active() const { return threshold_ > 0; }
  /// What is kept is multiplied by it: 1 / (1 - p).
  Scalar scale() const { return scale_; }
  /// Whether an element is kept.
  bool keeps(std::uint64_t element) const {
    return !active() || uniform(stream_.bits(element / 8), element % 8) >= threshold_;
  }

  /// values[i] *= mask[first + i], i < count. Works for the backward pass too: the operation is its
  /// own transpose.
  /// @param first  number of the first element, a multiple of 8
  void apply(std::uint64_t first, Index count, Scalar* values) const {
    if (!active()) return;
    for (Index i = 0; i < count; i += 8) {
      const auto bits = stream_.bits(first / 8 + static_cast<std::uint64_t>(i) / 8);
      const Index n = std::min<Index>(8, count - i);
      for (Index j = 0; j < n; ++j) {
        const bool is_dropped = uniform(bits, static_cast<std::uint64_t>(j)) < threshold_;
        values[i + j] = is_dropped ? Scalar(0) : values[i + j] * scale_;
      }
    }
  }

  /// Rows of a tile whose top left element is (row, column) of an array with `width` columns.
  /// @param column  a multiple of 8
  void apply_tile(const MatrixView<Scalar>& tile, Index row, Index column, Index width) const {
    if (!active()) return;
    const Index padded = round_up(width, 8);
    for (Index i = 0; i < tile.rows; ++i) {
      apply(static_cast<std::uint64_t>((row + i) * padded + column), tile.columns, tile.row(i));
    }
  }

 private:
  /// Number j of eight in a block of the stream, less than 2^16.
  static std::uint32_t uniform(const std::array<std::uint32_t, 4>& bits, std::uint64_t j) {
    const std::uint32_t word = bits[static_cast<std::size_t>(j / 2)];
    return j % 2 == 0 ? word & 0xFFFF : word >> 16;
  }

  RandomStream stream_;
  std::uint32_t threshold_;
  Scalar scale_;
};

/// Rows of x after dropout: x itself without any, else a copy.
/// @param first  number of the first of them in an array of as many columns
/// @param memory  at least as large as x, or empty where there is no dropout
template <typename Scalar>
MatrixView<const Scalar> dropped_rows(Workspace& workspace, const MatrixView<const Scalar>& x,
                                      const Dropout<Scalar>& dropout, Index first,
                                      const MatrixView<Scalar>& memory) {
  if (!dropout.active()) return x;
  for_each_row_tile(workspace, x.rows, [&](Index row, Index count, int) {
    const auto tile = memory.middle_rows(row, count);
    for (Index i = 0; i < count; ++i) std::copy_n(x.row(row + i), x.columns, tile.row(i));
    dropout.apply_tile(tile, first + row, 0, x.columns);
  });
  return memory.middle_rows(0, x.rows);
}

}  // namespace reformer::inline REFORMER_ABI
