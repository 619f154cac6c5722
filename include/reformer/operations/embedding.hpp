// SPDX-License-Identifier: MIT
/// @file
/// Token embedding: x[row] = table[token]; backward dtable[token] += dx[row].
#pragma once

#include <algorithm>
#include <numeric>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer::inline REFORMER_ABI {

/// Table of token vectors `[V, D]`, parameter `<name>.weight`.
template <typename Scalar>
class Embedding {
 public:
  Embedding(const std::string& name, Index vocabulary, Index width)
      : table_((check_between("Embedding", "vocabulary", vocabulary, 1, max_size),
                check_between("Embedding", "width", width, 1, max_size),
                check_elements("Embedding", "vocabulary * width", vocabulary, width),
                name + ".weight"),
               Role::embedding, vocabulary, width) {}

  Index vocabulary() const { return table_.value.rows(); }

  /// Throws `std::invalid_argument` if a token is outside [0, V).
  void check_tokens(std::string_view function, const Tokens& tokens) const {
    for (Index i = 0; i < tokens.size(); ++i) {
      const auto token = tokens.data()[i];
      check(token >= 0 && token < vocabulary(), function, "token ", i, " is ", token,
            ", must be in [0, ", vocabulary(), ")");
    }
  }

  /// The vector `[D]` of a token.
  const Scalar* row(std::int32_t token) const { return view(table_.value).row(token); }

  /// Table gradient += dx `[B*T, D]` at the tokens of the rows. Sums run in double: a text of a
  /// million bytes has a hundred thousand spaces, and as many roundings would be felt in float.
  /// @throw std::invalid_argument for tokens out of range, another shape of dx, or no gradient
  void backward(const Tokens& tokens, const MatrixView<const Scalar>& dx, const Pass& pass) {
    constexpr auto function = "Embedding::backward";
    check_tokens(function, tokens);
    check_equal(function, "rows of dx", dx.rows, "number of tokens", tokens.size());
    check_equal(function, "columns of dx", dx.columns, "width", table_.value.cols());
    check(table_.has_gradient(), function, "gradient of ", table_.name, " is not allocated");
    constexpr Index block = 32;
    const auto gradient = view(table_.gradient);
    Scratch scratch(pass.workspace);
    // Rows in the order of their tokens: those of token v are order[first[v] ... first[v + 1] - 1].
    const Order rows = order_in(scratch, dx.rows);
    Index *first = rows.first, *order = rows.order;
    std::fill_n(first, vocabulary() + 1, Index{0});
    for (Index row = 0; row < dx.rows; ++row) ++first[tokens.data()[row]];
    std::partial_sum(first, first + vocabulary() + 1, first);
    for (Index row = dx.rows - 1; row >= 0; --row) order[--first[tokens.data()[row]]] = row;
    // Each task owns columns of the table, so that every sum has one order.
    parallel_for(pass.workspace.threads(), ceil_div(gradient.columns, block), [&](Index task, int) {
      const Index j = task * block, n = std::min(block, gradient.columns - j);
      for (Index token = 0; token < vocabulary(); ++token) {
        if (first[token] == first[token + 1]) continue;
        double sum[block] = {};
        for (Index k = first[token]; k < first[token + 1]; ++k) {
          if (k + rows_ahead < dx.rows) simd::prefetch(n, dx.row(order[k + rows_ahead]) + j);
          const Scalar* row = dx.row(order[k]) + j;
          for (Index i = 0; i < n; ++i) sum[i] += static_cast<double>(row[i]);
        }
        Scalar* out = gradient.row(token) + j;
        for (Index i = 0; i < n; ++i) out[i] += static_cast<Scalar>(sum[i]);
      }
    });
  }

  /// Scratch of `backward`.
  void plan_backward(ScratchPlan& scratch, Index rows) const {
    scratch.scope([&] { order_in(scratch, rows); });
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
  struct Order {
    Index *first, *order;
  };
  template <ScratchMemory Memory>
  Order order_in(Memory& memory, Index rows) const {
    auto* first = memory.template take<Index>(vocabulary() + 1);
    return {first, memory.template take<Index>(rows)};
  }

  static constexpr Index rows_ahead = 8;  // pieces of rows that lie anywhere

  Parameter<Scalar> table_;
};

}  // namespace reformer::inline REFORMER_ABI
