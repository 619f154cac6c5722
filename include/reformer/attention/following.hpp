// SPDX-License-Identifier: MIT
/// @file
/// Values of what followed: the key of a token carries the value of the next one.
///
///     o_t = sum_{s < t} P_ts v_next(s),   next(s): the first real token after s
///
/// With shared queries and keys a token finds the earlier tokens whose vectors are like its own,
/// and gets their values; but what predicts the next token is what came after them. With separate
/// queries and keys two layers can learn this ("induction heads"); KV shifting attention (arXiv
/// 2411.19574) builds it into one.
///
/// Hashing, order, blocks and scores are those of own values, but that a query does not see its own
/// key: its next token is in the future. All others are not, because s < t gives next(s) <= t.
///
/// Nothing is moved for it. Values are projected into an array that has one row more, and keys see
/// the array from its second row on. The last token of a sequence so carries a row of the next
/// sequence, or the additional one, but no query sees its key. Where padding follows a real token,
/// its row is overwritten by the value of the next real token; no query sees the keys of padding.
///
/// Backward, gradients by what keys carry are gradients by values in the same rows, and those in
/// rows of padding are moved to where the values came from.
#pragma once

#include "reformer/attention/multi_head.hpp"
#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Rows of values, or of their gradients, of a group of heads: as tokens have them, `[B*T, H*K]`,
/// and as keys carry them. With `Values::own` these are the same.
template <typename Scalar>
class CarriedValues {
 public:
  CarriedValues(Scratch& scratch, const AttentionLayout& layout, Index rows, Index columns)
      : shift_(shift_of(layout)),
        rows_(rows),
        memory_(scratch.matrix<Scalar>(rows + shift_, columns)) {}

  /// Own values, in memory that is there.
  explicit CarriedValues(const MatrixView<Scalar>& memory)
      : shift_(0), rows_(memory.rows), memory_(memory) {}

  MatrixView<Scalar> of_tokens() const { return memory_.middle_rows(0, rows_); }
  MatrixView<Scalar> of_keys() const { return memory_.middle_rows(shift_, rows_); }

  /// Lets keys carry what the rows of tokens hold. Rows of tokens are undefined afterwards.
  void carry(Workspace& workspace, const MultiHead<Scalar>& group) const {
    if (shift_ == 0 || workspace.only_plans()) return;
    zero(rows_);
    for_each_gap(workspace, group, [&](Index gap, Index next) {
      if (next < 0) return zero(gap);
      simd::copy(memory_.columns, memory_.row(next), memory_.row(gap));
    });
  }

  /// Brings gradients by what keys carry to the tokens whose values they carried.
  void carry_back(Workspace& workspace, const MultiHead<Scalar>& group) const {
    if (shift_ == 0 || workspace.only_plans()) return;
    zero(0);
    for_each_gap(workspace, group, [&](Index gap, Index next) {
      // Nothing is there: the key before `next` is padding's.
      if (next >= 0) simd::copy(memory_.columns, memory_.row(gap), memory_.row(next));
      zero(gap);
    });
  }

 private:
  static Index shift_of(const AttentionLayout& layout) { return layout.carries_next() ? 1 : 0; }

  void zero(Index row) const { std::fill_n(memory_.row(row), memory_.columns, Scalar(0)); }

  /// Calls `body(gap, next)` for each row of padding behind a real token, with the row of the first
  /// real token after it, or -1.
  template <typename Body>
  static void for_each_gap(Workspace& workspace, const MultiHead<Scalar>& group, const Body& body) {
    if (group.is_real.empty()) return;
    parallel_for(workspace, group.batch, [&](Index b, int) {
      const Index first = b * group.length();
      const auto is_real = [&](Index row) { return is_real_row(group.is_real, row); };
      Index next = -1;
      for (Index row = first + group.length() - 1; row > first; --row) {
        if (is_real(row)) {
          next = row;
        } else if (is_real(row - 1)) {
          body(row, next);
        }
      }
    });
  }

  Index shift_, rows_;
  MatrixView<Scalar> memory_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
