// SPDX-License-Identifier: MIT
/// @file
/// Token embedding: x[row] = c table[token]; backward dtable[token] += c dx[row].
#pragma once

#include <algorithm>
#include <compare>
#include <string>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// A row of a gradient, and the row of the table that it belongs to.
struct RowPair {
  Index table, dx;

  auto operator<=>(const RowPair&) const = default;
};

inline RowPair* row_pairs_in(Scratch& scratch, Index rows) {
  return scratch.take<RowPair>(rows);
}

/// Gradient of the columns of a table from `first_column` on: dtable[row[i]] += scale dx[i], for
/// i < dx.rows with row[i] >= 0. Sums run in double: a text of a million bytes has a hundred
/// thousand spaces, and as many roundings would be felt in float.
template <typename Scalar, typename RowOf>
void accumulate_rows(Workspace& workspace, Parameter<Scalar>& table,
                     const MatrixView<const Scalar>& dx, const RowOf& row_of, Scalar scale = 1,
                     Index first_column = 0) {
  constexpr Index block = 32;
  constexpr Index ahead = 8;  // pieces of rows that lie anywhere
  const auto gradient = rows_of(table.gradient).middle_columns(first_column, dx.columns);
  Scratch scratch(workspace);
  auto* pairs = row_pairs_in(scratch, dx.rows);
  for (Index i = 0; i < dx.rows; ++i) pairs[i] = {static_cast<Index>(row_of(i)), i};
  std::sort(pairs, pairs + dx.rows);  // each sum has one order, whatever the number of threads
  Index begin = 0;
  while (begin < dx.rows && pairs[begin].table < 0) ++begin;
  const auto dx_row = [&](Index i) { return dx.row(pairs[i].dx); };
  if (table.reached) {
    for (Index i = begin; i < dx.rows; ++i) table.reached->insert(pairs[i].table);
  }
  // Each task owns columns of the table.
  parallel_for(workspace.threads(), ceil_div(gradient.columns, block), [&](Index task, int) {
    const Index j = task * block, n = std::min(block, gradient.columns - j);
    for (Index i = begin; i < dx.rows;) {
      const Index row = pairs[i].table;
      double sum[block] = {};
      for (; i < dx.rows && pairs[i].table == row; ++i) {
        if (i + ahead < dx.rows) simd::prefetch(n, dx_row(i + ahead) + j);
        const Scalar* from = dx_row(i) + j;
        for (Index k = 0; k < n; ++k) sum[k] += static_cast<double>(from[k]);
      }
      Scalar* out = gradient.row(row) + j;
      for (Index k = 0; k < n; ++k) out[k] += scale * static_cast<Scalar>(sum[k]);
    }
  });
}

inline void plan_accumulate_rows(std::string_view function, Workspace& workspace, Index rows) {
  check_plans(function, workspace);
  Scratch scratch(workspace);
  row_pairs_in(scratch, rows);
}

}  // namespace detail

/// Table of token vectors `[V, D]`, parameter `<name>.weight`.
template <typename Scalar>
class Embedding {
 public:
  /// @param scale  c, what rows of the table are multiplied by to be the vectors of tokens
  Embedding(const std::string& name, Index vocabulary, Index width, Scalar scale = 1)
      : table_((check_between("Embedding", "vocabulary", vocabulary, 1, max_size),
                check_between("Embedding", "width", width, 1, max_size),
                check_elements("Embedding", "vocabulary * width", vocabulary, width),
                name + ".weight"),
               Role::embedding, vocabulary, width),
        scale_(scale) {}

  Index vocabulary() const { return table_.value.rows(); }
  Scalar scale() const { return scale_; }
  Parameter<Scalar>& table() { return table_; }
  const Parameter<Scalar>& table() const { return table_; }

  /// Throws `std::invalid_argument` if a token is outside [0, V).
  void check_tokens(std::string_view function, const Tokens& tokens) const {
    for (Index i = 0; i < tokens.size(); ++i) {
      const auto token = tokens.data()[i];
      check(token >= 0 && token < vocabulary(), function, "token ", i, " is ", token,
            ", must be in [0, ", vocabulary(), ")");
    }
  }

  /// The row `[D]` of a token in the table.
  const Scalar* row(std::int32_t token) const { return rows_of(table_.value).row(token); }

  /// out `[D]` = the vector of a token
  void read(std::int32_t token, Scalar* out) const {
    const Scalar* from = row(token);
    for (Index j = 0; j < table_.value.cols(); ++j) out[j] = scale_ * from[j];
  }

  /// Table gradient += c dx `[B*T, D]` at the tokens of the rows.
  /// @throw std::invalid_argument for tokens out of range, another shape of dx, or no gradient
  void backward(const Tokens& tokens, const MatrixView<const Scalar>& dx, const Pass& pass) {
    constexpr auto function = "Embedding::backward";
    check_pass(function, pass);
    check_tokens(function, tokens);
    check_equal(function, "rows of dx", dx.rows, "number of tokens", tokens.size());
    check_equal(function, "columns of dx", dx.columns, "width", table_.value.cols());
    check(table_.has_gradient(), function, "gradient of ", table_.name, " is not allocated");
    detail::accumulate_rows(
        pass.workspace, table_, dx, [&](Index i) { return tokens.data()[i]; }, scale_);
  }

  /// Scratch of `backward`.
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument if it does more
  void plan_backward(Workspace& workspace, Index rows) const {
    detail::plan_accumulate_rows("Embedding::plan_backward", workspace, rows);
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    f(table_);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    f(table_);
  }

 private:
  Parameter<Scalar> table_;
  Scalar scale_;
};

}  // namespace reformer::inline REFORMER_ABI
