// SPDX-License-Identifier: MIT
/// @file
/// What a model reads, and its way into both halves of the stack:
///
///     x_1 = x_2 = dropout(e + n_1 + n_2 + ... + position)
///
/// with e the row of a token in the table (times 4 if the head is tied to it), or a vector in its
/// place, and n_i the vectors of the n-grams that end with the token, which vectors have none of.
/// Backward: dx = dropout(dx_1 + dx_2) goes to the row of the table, to each table of n-grams and
/// to the positions, or is the gradient by the vectors.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/pass.hpp"
#include "reformer/foundation/random.hpp"
#include "reformer/foundation/residual.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/model/config.hpp"
#include "reformer/operations/dropout.hpp"
#include "reformer/operations/embedding.hpp"
#include "reformer/operations/layer_norm.hpp"
#include "reformer/operations/ngram_embedding.hpp"
#include "reformer/operations/positions.hpp"
#include "reformer/reversible/branch.hpp"

namespace reformer::inline REFORMER_ABI {

/// What a pass reads: tokens `[B, T]`, or vectors `[B, T, D]` that take the place of their
/// embeddings (of 4 times the rows of an embedding that is tied). Positions are added and dropout
/// is applied to both. A vector of padding may hold anything: one that is not finite counts as
/// zero. Vectors of n-grams, which tokens have in the embedding and in values, they do not get.
/// Refers to what it is made from.
template <typename Scalar>
class ModelInput {
 public:
  ModelInput(const Tokens& tokens)  // NOLINT: one of the two things that it is
      : tokens_(&tokens), batch_(tokens.dimension(0)), length_(tokens.dimension(1)) {}
  ModelInput(const Tensor<Scalar, 3>& vectors)  // NOLINT
      : vectors_(&vectors), batch_(vectors.dimension(0)), length_(vectors.dimension(1)) {}

  Index batch() const { return batch_; }
  Index length() const { return length_; }
  /// Null if it is vectors.
  const Tokens* tokens() const { return tokens_; }
  /// Null if it is tokens.
  const Tensor<Scalar, 3>* vectors() const { return vectors_; }

 private:
  const Tokens* tokens_ = nullptr;
  const Tensor<Scalar, 3>* vectors_ = nullptr;
  Index batch_, length_;
};

/// Embedding, n-grams and positions of a model: its part 0.
template <typename Scalar>
class InputEmbedding {
 public:
  using Half = DynamicHalf<Scalar>;
  using Input = ModelInput<Scalar>;

  /// @param config  has been checked
  explicit InputEmbedding(const ModelConfig& config)
      : width_(config.width),
        dropout_(config.dropout),
        embedding_("embedding", config.vocabulary, config.width,
                   static_cast<Scalar>(config.tied_embedding ? detail::tied_embedding_scale : 1)),
        positions_("positions", config.positions, config.width) {
    for (std::size_t i = 0; i < config.ngrams.size(); ++i) {
      ngrams_.emplace_back("ngrams." + std::to_string(i), config.ngrams[i], config.width);
      longest_ngram_ = std::max(longest_ngram_, config.ngrams[i].order);
    }
  }

  void for_each_parameter(ParameterVisitor<Scalar> f) { visit_parameters(*this, f); }
  void for_each_parameter(ConstParameterVisitor<Scalar> f) const { visit_parameters(*this, f); }

  /// `[V, D]`; `scale` times its rows are the vectors of tokens.
  const Parameter<Scalar>& table() const { return embedding_.table(); }
  Parameter<Scalar>& table() { return embedding_.table(); }
  Scalar scale() const { return embedding_.scale(); }

  /// What they are made of, with what a rule has filled in.
  const PositionConfig& positions() const { return positions_.config(); }

  /// Tokens that embedding the last of them looks at.
  Index longest_ngram() const { return longest_ngram_; }

  /// @throw std::invalid_argument for a token that the table has not, or vectors of another width
  void check_input(std::string_view function, const Input& input) const {
    if (input.vectors() != nullptr) {
      check_equal(function, "vectors dimension 2", input.vectors()->dimension(2), "width", width_);
    } else {
      embedding_.check_tokens(function, *input.tokens());
    }
  }

  /// Overwrites both halves.
  void forward(const Input& input, const Pass& pass, Halves<Half>& halves) const {
    forward(input, pass, halves, [&](Index row) {
      return std::pair(row % pass.length, detail::recent_tokens(pass, row, longest_ngram_));
    });
  }
  /// @param place  of the token in a row: its position, and the tokens that end with it
  template <typename Place>
  void forward(const Input& input, const Pass& pass, Halves<Half>& halves,
               const Place& place) const {
    Scratch scratch(pass.workspace);
    const auto memory = row_in(scratch);
    const auto dropout = dropout_of(pass);
    const auto ngram_dropouts = dropouts_of_ngrams(pass);
    for_each_row_tile(pass.workspace.threads(), pass.rows(),
                      [&](Index first, Index count, int thread) {
                        const MatrixView<Scalar> x(memory[thread], 1, width_);
                        for (Index row = first; row < first + count; ++row) {
                          if (input.vectors() != nullptr) {
                            std::copy_n(vector_of(input, row), width_, x.data);
                            detail::clear_unusable_padding(pass, row, width_, x.data);
                          } else {
                            embedding_.read(input.tokens()->data()[row], x.data);
                          }
                          const auto [position, recent] = place(row);
                          for (std::size_t i = 0; i < ngrams_.size(); ++i) {
                            ngrams_[i].add_row(recent, ngram_dropouts[i], row,
                                               {x.data, static_cast<std::size_t>(width_)});
                          }
                          positions_.add_row(position, x.data);
                          dropout.apply_tile(x, row, 0, width_);
                          halves.first.write(row, 0, width_, x.data);
                          halves.second.write(row, 0, width_, x.data);
                        }
                      });
    detail::check_range("the embedding", halves.first, pass.length);
  }

  /// Adds to the gradients of the parameters.
  /// @param gradients  by the two halves; the first is destroyed
  /// @param dvectors   `[B, T, D]`, overwritten by the gradient by the vectors; or null
  void backward(const Input& input, const HalfGradients<Scalar>& gradients,
                Tensor<Scalar, 3>* dvectors, const Pass& pass) {
    const MatrixView<Scalar> dx = gradients.first;
    const auto dropout = dropout_of(pass);
    for_each_row_tile(pass.workspace.threads(), pass.rows(), [&](Index first, Index count, int) {
      const auto tile = dx.middle_rows(first, count);
      for (Index i = 0; i < count; ++i) {
        simd::add(dx.columns, &gradients.second(first + i, 0), tile.row(i));
      }
      dropout.apply_tile(tile, first, 0, dx.columns);
    });
    if (input.tokens() != nullptr) {
      embedding_.backward(*input.tokens(), dx, pass);
      const auto ngram_dropouts = dropouts_of_ngrams(pass);
      for (std::size_t i = 0; i < ngrams_.size(); ++i) {
        ngrams_[i].backward(dx, ngram_dropouts[i], pass);
      }
    }
    positions_.backward(dx, pass);
    if (dvectors == nullptr) return;
    dvectors->resize(pass.batch, pass.length, dx.columns);
    for (Index row = 0; row < dx.rows; ++row) {
      Scalar* out = dvectors->data() + row * dx.columns;
      if (detail::is_usable(pass, row, dx.columns, vector_of(input, row))) {
        std::copy_n(dx.row(row), dx.columns, out);
      } else {
        std::fill_n(out, dx.columns, Scalar(0));
      }
    }
  }

  /// What `forward` and `backward` take of the workspace.
  /// @param workspace  one that only plans
  /// @throw std::invalid_argument if it does more
  void plan(Workspace& workspace, Index rows) const {
    {
      Scratch scratch(workspace);
      row_in(scratch);
    }
    embedding_.plan_backward(workspace, rows);
    for (const auto& ngram : ngrams_) ngram.plan_backward(workspace, rows);
  }

 private:
  template <typename Self, typename Visitor>
  static void visit_parameters(Self& self, Visitor f) {
    self.embedding_.for_each_parameter(f);
    self.positions_.for_each_parameter(f);
    for (auto& ngram : self.ngrams_) ngram.for_each_parameter(f);
  }

  PerThread<Scalar> row_in(Scratch& memory) const { return memory.per_thread<Scalar>(width_); }

  /// `[D]`, before its position is added; of a token the row of the table.
  const Scalar* vector_of(const Input& input, Index row) const {
    return input.vectors() != nullptr ? input.vectors()->data() + row * width_
                                      : embedding_.row(input.tokens()->data()[row]);
  }

  Dropout<Scalar> dropout_of(const Pass& pass) const {
    return {pass.dropout(dropout_), pass.key, Purpose::embedding_dropout};
  }
  std::vector<Dropout<Scalar>> dropouts_of_ngrams(const Pass& pass) const {
    std::vector<Dropout<Scalar>> dropouts;
    for (std::size_t i = 0; i < ngrams_.size(); ++i) {  // each table has masks of its own
      const Pass pass_of_table = pass.at_layer(static_cast<Index>(i));
      dropouts.push_back(ngrams_[i].dropout(pass_of_table, Purpose::ngram_dropout));
    }
    return dropouts;
  }

  Index width_;
  double dropout_;
  Embedding<Scalar> embedding_;
  Positions<Scalar> positions_;
  std::vector<NgramEmbedding<Scalar>> ngrams_;
  Index longest_ngram_ = 1;
};

}  // namespace reformer::inline REFORMER_ABI
