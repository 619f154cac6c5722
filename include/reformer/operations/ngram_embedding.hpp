// SPDX-License-Identifier: MIT
/// @file
/// Embeddings of hashed n-grams: x[t] += m[t] / (1 - p) table[h(token[t-n+1], ..., token[t])],
///
/// where m[t] = 0 with probability p in training, else 1: dropout of whole vectors. x is what a
/// model reads, or the values of an attention layer (attention/value_embedding.hpp).
///
/// A byte says little of what comes next, the last three or four say most of what a small model
/// will learn of it. A table looks that up for the price of a row: no product, and nothing is kept
/// for the backward pass but the tokens. N-grams that share a row share a vector; a larger table
/// has fewer of them. (Hashed n-gram features: Weinberger et al., arXiv 0902.2206; as embeddings of
/// bytes: Clark et al., arXiv 2103.06874.)
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/operations/config.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/embedding.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
/// The last real tokens at row `b*T + t` of a pass, the newest last: at most `most`, and none from
/// before the sequence or from before padding. A row of padding has none, and no row has any if the
/// tokens of the pass are not known.
inline std::span<const std::int32_t> recent_tokens(const Pass& pass, Index row, Index most) {
  if (pass.tokens.empty()) return {};
  const Index begin = row - std::min(row % pass.length + 1, most) + 1;
  Index first = row + 1;
  while (first > begin && !pass.is_padding(first - 1)) --first;
  return pass.tokens.subspan(static_cast<std::size_t>(first),
                             static_cast<std::size_t>(row + 1 - first));
}

/// A part of arrays `[B*T, D]`, by its first element.
struct PartOfRows {
  Index first_row = 0, first_column = 0;
};
}  // namespace detail

/// One table of n-grams, parameter `<name>.weight` `[rows, D]`, of which a step reaches few rows.
template <typename Scalar>
class NgramEmbedding {
 public:
  /// @throw std::invalid_argument for a configuration or width out of range
  NgramEmbedding(const std::string& name, const NgramTable& config, Index width)
      : config_((detail::check_config("NgramEmbedding", config),
                 check_between("NgramEmbedding", "width", width, 1, max_size),
                 check_elements("NgramEmbedding", "rows * width", config.rows, width), config)),
        table_(name + ".weight", Role::ngram_table, config.rows, width) {
    table_.reached.emplace(config.rows);
  }

  const NgramTable& config() const { return config_; }

  /// Of a pass, at its layer: element `b*T + t` stands for the vector of token t of sequence b.
  Dropout<Scalar> dropout(const Pass& pass, Purpose purpose) const {
    return {pass.dropout(config_.dropout), pass.key, purpose};
  }

  /// x += the vector of the last n of these tokens, or of all where there are fewer; nothing if
  /// there is none.
  /// @param recent   the newest last
  /// @param dropout  of the pass
  /// @param row      b*T + t
  /// @param x        `[D]`, or so many columns of it from `first_column` on
  void add_row(std::span<const std::int32_t> recent, const Dropout<Scalar>& dropout, Index row,
               std::span<Scalar> x, Index first_column = 0) const {
    if (recent.empty() || !dropout.keeps(static_cast<std::uint64_t>(row))) return;
    const Scalar* vector = rows_of(table_.value).row(index_of(recent)) + first_column;
    simd::add_scaled(static_cast<Index>(x.size()), dropout.scale(), vector, x.data());
  }

  /// Table gradient += dx at the n-grams of the rows of the pass, of which dx is a part.
  /// @throw std::invalid_argument for a part that the pass and the table do not have, or no
  /// gradient
  void backward(const MatrixView<const Scalar>& dx, const Dropout<Scalar>& dropout,
                const Pass& pass, const detail::PartOfRows& part = {}) {
    constexpr auto function = "NgramEmbedding::backward";
    check_pass(function, pass);
    check_at_least(function, "the first row", part.first_row, 0);
    check_at_least(function, "the first column", part.first_column, 0);
    check_between(function, "rows of dx", dx.rows, 0, pass.rows() - part.first_row);
    check_between(function, "columns of dx", dx.columns, 0,
                  table_.value.cols() - part.first_column);
    check(table_.has_gradient(), function, "gradient of ", table_.name, " is not allocated");
    const auto table_row_of = [&](Index i) -> Index {
      const Index row = part.first_row + i;
      const auto recent = detail::recent_tokens(pass, row, config_.order);
      const bool is_added = !recent.empty() && dropout.keeps(static_cast<std::uint64_t>(row));
      return is_added ? index_of(recent) : -1;
    };
    detail::accumulate_rows(pass.workspace, table_, dx, table_row_of, dropout.scale(),
                            part.first_column);
  }

  /// Scratch of `backward`.
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument if it does more
  void plan_backward(Workspace& workspace, Index rows) const {
    detail::plan_accumulate_rows("NgramEmbedding::plan_backward", workspace, rows);
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
  /// Each token is mixed into the hash as splitmix64 mixes its counter (Steele et al., 2014). The
  /// order and how many tokens there are count, so that "a" at the beginning is not "aa".
  Index index_of(std::span<const std::int32_t> recent) const {
    const auto n = std::min(recent.size(), static_cast<std::size_t>(config_.order));
    auto hash = static_cast<std::uint64_t>(n);
    for (const std::int32_t token : recent.last(n)) {
      hash += 0x9E3779B97F4A7C15U * (static_cast<std::uint64_t>(token) + 1);
      hash = (hash ^ (hash >> 30)) * 0xBF58476D1CE4E5B9U;
      hash = (hash ^ (hash >> 27)) * 0x94D049BB133111EBU;
      hash ^= hash >> 31;
    }
    return static_cast<Index>((hash >> 32) * static_cast<std::uint64_t>(config_.rows) >> 32);
  }

  NgramTable config_;
  Parameter<Scalar> table_;
};

}  // namespace reformer::inline REFORMER_ABI
