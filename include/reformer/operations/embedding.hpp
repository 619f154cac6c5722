// SPDX-License-Identifier: MIT
/// @file
/// Token embedding: x[row] = table[token]; backward dtable[token] += dx[row].
#pragma once

#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/simd.hpp"

namespace reformer {

/// Table of token vectors `[V, D]`, parameter `<name>.weight`.
template <typename Scalar>
class Embedding {
 public:
  Embedding(const std::string& name, Index vocabulary, Index width)
      : table_((check_at_least("Embedding", "vocabulary", vocabulary, 1),
                check_at_least("Embedding", "width", width, 1), name + ".weight"),
               vocabulary, width) {}

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

  /// Table gradient += dx `[B*T, D]` at the tokens of the rows.
  void backward(const Tokens& tokens, const MatrixView<const Scalar>& dx, const Pass& pass) {
    constexpr Index block = 32;
    const auto gradient = view(table_.gradient);
    // Each task owns columns of the table and walks all rows, so that every sum has one order.
    parallel_for(pass.workspace.threads(), ceil_div(gradient.columns, block), [&](Index task, int) {
      const Index j = task * block, n = std::min(block, gradient.columns - j);
      for (Index row = 0; row < dx.rows; ++row) {
        simd::add(n, dx.row(row) + j, gradient.row(tokens.data()[row]) + j);
      }
    });
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    f(table_);
  }

 private:
  Parameter<Scalar> table_;
};

}  // namespace reformer
