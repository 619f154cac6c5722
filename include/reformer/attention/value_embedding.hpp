// SPDX-License-Identifier: MIT
/// @file
/// Embeddings of n-grams added to values:
///
///     v_t = LN(x_t) W_v + m_t / (1 - p) e[h(token_(t-n+1), ..., token_t)]
///
/// with a table e `[rows, H*K]` of the layer and dropout of whole vectors as in
/// operations/ngram_embedding.hpp, which has h and m too. What a layer hands on of a token so need
/// not be made from the residual stream by a product first. With values of what followed, the key
/// of a token carries a vector of this token and the next: what came after what. (Value embeddings
/// of single tokens: Zhou et al., arXiv 2410.17897, and speed runs of small GPTs.)
///
/// Rows of padding have none, and a pass whose tokens are not known adds none.
///
/// Backward: de[h(...)] += m_t / (1 - p) dv_t; W_v and x get dv as they do without.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "reformer/attention/head_group.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/operations/ngram_embedding.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// The last tokens of each of some sequences, which decoding looks up.
class RecentTokens {
 public:
  /// @param most  tokens that are kept of a sequence
  RecentTokens(Index batch, Index most) : most_(most), last_(static_cast<std::size_t>(batch)) {
    for (Index b = 0; b < batch; ++b) selected_.push_back(static_cast<std::size_t>(b));
  }

  Index most() const { return most_; }
  /// The sequences that the next calls are for; all at first.
  void select(std::span<const Index> sequences) {
    selected_.assign(sequences.begin(), sequences.end());
  }
  /// Forgets those of the selected sequences.
  void clear() {
    for (const std::size_t sequence : selected_) last_[sequence].clear();
  }
  /// Keeps those of prompts, in place of what was kept of the selected sequences.
  void keep(const Pass& pass) {
    for (Index b = 0; b < pass.batch; ++b) {
      Index row = (b + 1) * pass.length - 1;
      while (row > b * pass.length && pass.is_padding(row)) --row;
      const auto recent = recent_tokens(pass, row, most_);
      last_[selected_[static_cast<std::size_t>(b)]].assign(recent.begin(), recent.end());
    }
  }
  /// Adds the next token of each selected sequence. Where the pass does not know it, no n-gram
  /// ends, and none of those to come holds it.
  void append(const Pass& pass) {
    if (pass.tokens.empty()) clear();
    for (std::size_t b = 0; b < pass.tokens.size(); ++b) {
      auto& last = last_[selected_[b]];
      if (static_cast<Index>(last.size()) == most_) last.erase(last.begin());
      last.push_back(pass.tokens[b]);
    }
  }
  /// Of the selected sequence i, the newest last.
  std::span<const std::int32_t> of(Index i) const {
    return last_[selected_[static_cast<std::size_t>(i)]];
  }
  std::size_t bytes() const {
    std::size_t bytes = 0;
    for (const auto& last : last_) bytes += last.size() * sizeof(std::int32_t);
    return bytes;
  }

 private:
  Index most_;
  std::vector<std::vector<std::int32_t>> last_;
  std::vector<std::size_t> selected_;
};

/// The table of a layer, parameter `<name>.weight`, and what is added from it.
template <typename Scalar>
class ValueEmbedding {
 public:
  /// @param width  H*K
  ValueEmbedding(const std::string& name, const NgramTable& config, Index width)
      : table_(name, config, width) {}

  /// n
  Index order() const { return table_.config().order; }

  /// Adds to the values `[B*T, H*K]` of a group of heads.
  void forward(const HeadGroup& group, Index head_width, const Pass& pass,
               const MatrixView<Scalar>& value) const {
    const auto dropout = dropout_of(pass);
    for_each_row_tile(pass.workspace, value.rows, [&](Index first, Index count, int) {
      for (Index i = first; i < first + count; ++i) {
        const Index row = group.first_row() + i;
        table_.add_row(recent_tokens(pass, row, order()), dropout, row, row_of(value, i),
                       group.first_head * head_width);
      }
    });
  }

  /// Adds to the values `[B, H*K]` of the next tokens.
  void add_next(const RecentTokens& recent, const Pass& pass,
                const MatrixView<Scalar>& value) const {
    const auto dropout = dropout_of(pass);
    for (Index b = 0; b < value.rows; ++b) {
      table_.add_row(recent.of(b), dropout, b, row_of(value, b));
    }
  }

  /// Adds the gradient of the table.
  /// @param dvalue  `[B*T, H*K]` of the group
  void backward(const MatrixView<const Scalar>& dvalue, const HeadGroup& group, Index head_width,
                const Pass& pass) {
    if (pass.workspace.only_plans()) {
      table_.plan_backward(pass.workspace, group.rows());
    } else {
      table_.backward(dvalue, dropout_of(pass), pass,
                      {group.first_row(), group.first_head * head_width});
    }
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    table_.for_each_parameter(f);
  }
  template <typename F>
  void for_each_parameter(F&& f) const {
    table_.for_each_parameter(f);
  }

 private:
  Dropout<Scalar> dropout_of(const Pass& pass) const {
    return table_.dropout(pass, Purpose::value_ngram_dropout);
  }
  static std::span<Scalar> row_of(const MatrixView<Scalar>& value, Index row) {
    return {value.row(row), static_cast<std::size_t>(value.columns)};
  }

  NgramEmbedding<Scalar> table_;
};

}  // namespace reformer::inline REFORMER_ABI::detail
