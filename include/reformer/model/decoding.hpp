// SPDX-License-Identifier: MIT
/// @file
/// Decoding token by token: the state of some sequences, and logits for what comes next.
///
/// A prompt goes through the ordinary parallel forward pass, which hands over what later tokens can
/// still see (attention/decoding_state.hpp); each further token then costs one row of every product
/// and the attention of one query. For models of local layers and bucket chunks, time and memory of
/// a step do not depend on the position.
///
/// What a step computes is what the forward pass over the whole sequence computes in its last row:
/// the same hash buckets, and the same bits of the logits as long as the forward pass works on all
/// heads of a layer as one group, that is while T * H * K scalars are at most 2 MiB. Beyond that it
/// adds the outputs of groups of heads one after another, which rounds differently.
/// Each sequence is on its own: its logits have the same bits whatever the others are, how long
/// they are, and whether they go on.
///
/// Layers with `sorted_chunks` cannot go on: a new token moves the places where chunks are cut, and
/// with them what earlier tokens see. A model with such a layer is run over the whole sequence
/// again for each token. That is exact in the sense that the logits are those of the forward pass
/// over the tokens so far; but they are not the row that a longer forward pass, such as one of
/// training, has at this place.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/model/model.hpp"
#include "reformer/products/kernels.hpp"
#include "reformer/products/packed_weight.hpp"

namespace reformer::inline REFORMER_ABI {

/// Goes on with sequences token by token.
///
/// A decoder refers to its model, which must outlive it and stay where it is, and has copies of the
/// large weights, packed for products. It is for the parameters that the model has when it is made;
/// `prefill` refuses to start when they have changed, unless the decoder recomputes, and for new
/// parameters a new decoder is made. Decoders of one model may run at the same time, each on one
/// thread with its own workspace.
template <typename Scalar_>
class Decoder {
 public:
  using Scalar = Scalar_;

  /// @param batch  B, sequences decoded together
  /// @param key    hash rotations are drawn from it, one set for all tokens
  /// @param precision  as in `RunOptions`
  /// @throw std::invalid_argument for a workspace that only plans, for a batch, key or precision
  /// out of range, and for a model that is not causal, has no language head or was not initialised,
  /// or with a branch that cannot go on token by token, unless the decoder recomputes anyway
  Decoder(Workspace& workspace, const Model<Scalar>& model, Index batch = 1,
          const RandomKey& key = {}, Precision precision = Precision::float32);
  Decoder(Workspace&, const Model<Scalar>&&, Index = 1, const RandomKey& = {},
          Precision = Precision::float32) = delete;

  Index batch() const { return static_cast<Index>(sequences_.size()); }

  /// Tokens of a sequence so far.
  /// @throw std::invalid_argument if there is no such sequence
  Index length(Index sequence) const {
    check_sequence("Decoder::length", sequence);
    return sequences_[index(sequence)].length;
  }

  /// Most tokens that a sequence can have: there are no positions beyond, or `longest_sequence` is
  /// reached.
  Index max_length() const {
    return std::min(longest_sequence,
                    reformer::max_length(model_->config_.positions).value_or(longest_sequence));
  }

  /// V
  Index vocabulary() const { return logits_.cols(); }

  /// Whether each step runs over the whole sequence again.
  bool recomputes() const { return recomputes_; }

  /// Bytes that are kept of the sequences.
  std::size_t state_bytes() const;

  /// Starts anew with prompts.
  /// @param tokens   `[B, T]`
  /// @param lengths  tokens of each prompt, at least 1; empty: all T
  /// @return logits `[B, V]` of the token after each prompt, valid until the next call
  /// @throw std::invalid_argument for wrong shapes, lengths or tokens, those behind a prompt's end
  /// apart, and if the model's parameters have changed since the decoder was made, unless it
  /// recomputes
  /// @throw std::overflow_error as `Model::loss`; the sequences must then start anew
  const Matrix<Scalar>& prefill(Workspace& workspace, const Tokens& tokens,
                                std::span<const Index> lengths = {});

  /// Starts one sequence anew; the others are where they were.
  /// @param tokens  `[T]`, at least one
  /// @return logits `[B, V]`, of which the row of the sequence is new
  /// @throw std::invalid_argument for no such sequence, wrong tokens, or changed parameters
  /// @throw std::overflow_error as `Model::loss`; the sequence must then start anew
  const Matrix<Scalar>& prefill(Workspace& workspace, Index sequence,
                                std::span<const std::int32_t> tokens);

  /// Adds one token to each sequence.
  /// @param tokens  `[B]`
  /// @return logits `[B, V]` of the token after it, valid until the next call
  /// @throw std::invalid_argument for wrong tokens, or at the end of the table of positions
  /// @throw std::overflow_error as `prefill`
  const Matrix<Scalar>& step(Workspace& workspace, std::span<const std::int32_t> tokens);

  /// Adds one token to each of some sequences; the others are where they were.
  /// @param sequences  ascending
  /// @param tokens     one for each of them
  /// @return logits `[B, V]`, of which the rows of these sequences are new
  /// @throw std::invalid_argument for wrong sequences or tokens, or at the end of the positions
  /// @throw std::overflow_error as `prefill`, for these sequences
  const Matrix<Scalar>& step(Workspace& workspace, std::span<const Index> sequences,
                             std::span<const std::int32_t> tokens);

 private:
  struct Sequence {
    Index length = 0;
    bool is_broken = false;          // by an error on the way
    std::vector<std::int32_t> seen;  // all tokens if the decoder recomputes, otherwise the last
  };
  struct Prompt {
    Index sequence;
    std::span<const std::int32_t> tokens;
    Index length() const { return static_cast<Index>(tokens.size()); }
  };

  static std::size_t index(Index i) { return static_cast<std::size_t>(i); }

  static void check_arguments(const Workspace& workspace, const Model<Scalar>& model, Index batch,
                              const RandomKey& key, Precision precision) {
    constexpr auto function = "Decoder";
    detail::check_for_use(function, workspace);
    detail::check_precision<Scalar>(function, precision);
    const ModelConfig& config = model.config();
    detail::check_key(function, key);
    check_between(function, "batch", batch, 1, max_size);
    check_elements(function, "batch * vocabulary", batch, config.vocabulary);
    check(config.causal, function, "the model is not causal");
    model.check_head(function);
    model.check_filled(function);
  }

  /// Of all parameters, bit by bit; a change of one number changes it.
  std::uint64_t checksum() const {
    using Bits = std::conditional_t<sizeof(Scalar) == 4, std::uint32_t, std::uint64_t>;
    std::uint64_t sum = 0;
    model_->for_each_parameter([&](const Parameter<Scalar>& p) {
      Bits of_one = 0;
      for (Index i = 0; i < p.size(); ++i) {
        of_one += std::bit_cast<Bits>(p.value.data()[i]) * static_cast<Bits>(2 * i + 1);
      }
      sum = sum * 0x9E3779B97F4A7C15U + of_one;
    });
    return sum;
  }

  void check_sequence(std::string_view function, Index sequence) const {
    check(sequence >= 0 && sequence < batch(), function, "sequence is ", sequence,
          ", must be in [0, ", batch(), ")");
  }

  /// Calls `visit(attention)` for every self-attention of the stack.
  template <typename Visit>
  void for_each_attention(const Visit& visit) const {
    const auto& stack = model_->stack_;
    for (Index i = 0; i < stack.size(); ++i) {
      if (const auto* attention = stack[i].template get_if<SelfAttention<Scalar>>()) {
        visit(*attention);
      }
    }
  }

  /// Reads prompts, those together that get the same bits as alone.
  void read(Workspace& workspace, std::string_view function, std::vector<Prompt> prompts) {
    detail::check_for_use(function, workspace);
    check(
        recomputes_ || checksum() == checksum_, function,
        "the model's parameters have changed since the decoder was made, must be the same: make a "
        "new decoder");
    for (const Prompt& prompt : prompts) {
      model_->check_length_of_pass(function, prompt.length());
      Tokens row(1, prompt.length());
      std::copy(prompt.tokens.begin(), prompt.tokens.end(), row.data());
      model_->embedding_.check_input(function, row);
    }
    for (const Prompt& prompt : prompts) {
      auto& sequence = sequences_[index(prompt.sequence)];
      sequence.is_broken = true;  // until it is read
      sequence.length = prompt.length();
      const auto kept = prompt.tokens.last(std::min(recent_, prompt.tokens.size()));
      sequence.seen.assign(kept.begin(), kept.end());
    }
    if (recomputes_) {
      for (const Prompt& prompt : prompts) {
        sequences_[index(prompt.sequence)].seen.assign(prompt.tokens.begin(), prompt.tokens.end());
        recompute(workspace, prompt.sequence);
      }
      return;
    }
    std::stable_sort(prompts.begin(), prompts.end(),
                     [](const Prompt& a, const Prompt& b) { return a.length() < b.length(); });
    for (auto first = prompts.begin(); first != prompts.end();) {
      auto last = first + 1;
      while (last != prompts.end() && reads_as_alone(first->length(), last->length())) ++last;
      read_together(workspace, {first, last});
      first = last;
    }
  }

  /// Whether a prompt has the same bits in a pass of this length: padding changes nothing, but
  /// heads that are worked on in groups are rounded otherwise.
  bool reads_as_alone(Index length, Index length_of_pass) const {
    bool is_one_group = true;
    for_each_attention([&](const SelfAttention<Scalar>& attention) {
      for (const HeadKind& kind : attention.kinds()) {
        is_one_group =
            is_one_group && detail::head_group_size<Scalar>(1, length_of_pass, kind.num_heads,
                                                            attention.config().head_width)
                                    .second == kind.num_heads;
      }
    });
    return length == length_of_pass || is_one_group;
  }

  /// @param prompts  the longest comes last
  void read_together(Workspace& workspace, std::span<const Prompt> prompts) {
    const auto count = static_cast<Index>(prompts.size());
    const Index T = prompts.back().length();
    Tokens tokens(count, T);
    tokens.setZero();
    std::vector<std::uint8_t> is_real(index(count * T), 0);
    std::vector<Index> sequences;
    for (Index row = 0; row < count; ++row) {
      const Prompt& prompt = prompts[index(row)];
      std::copy(prompt.tokens.begin(), prompt.tokens.end(), &tokens(row, 0));
      std::fill_n(is_real.begin() + row * T, prompt.length(), std::uint8_t{1});
      sequences.push_back(prompt.sequence);
    }
    if (prompts.front().length() == T) is_real.clear();
    const Pass pass{.workspace = workspace,
                    .batch = count,
                    .length = T,
                    .key = key_,
                    .is_real = is_real,
                    .tokens = Model<Scalar>::span_of(tokens),
                    .precision = precision_};
    model_->stack_.select(states_, sequences);
    model_->stack_.clear(states_);
    Scratch memory(workspace);
    auto halves = model_->halves_in(memory, pass.rows());
    model_->embedding_.forward(tokens, pass, halves);
    model_->stack_.prefill(halves, states_, pass);
    for (Index row = 0; row < count; ++row) {
      const Prompt& prompt = prompts[index(row)];
      model_->head_.logits(halves, row * T + prompt.length() - 1, head_->packed(),
                           {&logits_(prompt.sequence, 0), 1, logits_.cols()}, pass);
      sequences_[index(prompt.sequence)].is_broken = false;
    }
  }

  void recompute(Workspace& workspace, Index b) {
    const auto logits = model_->next_token_logits(workspace, sequences_[index(b)].seen,
                                                  {.key = key_, .precision = precision_});
    std::copy(logits.begin(), logits.end(), &logits_(b, 0));
    sequences_[index(b)].is_broken = false;
  }

  const Model<Scalar>* model_;
  RandomKey key_;
  Precision precision_;
  bool recomputes_ = false;
  std::size_t recent_ = 1;  // tokens that are kept of a sequence
  std::vector<Sequence> sequences_;
  typename Model<Scalar>::Stack::Decoding states_;  // of the branches; none if it recomputes
  std::optional<KeptWeight<DefaultKernel<Scalar>>> head_;
  std::uint64_t checksum_ = 0;  // of the parameters, if the decoder has copies of some
  Matrix<Scalar> logits_, rows_;
};

template <typename Scalar>
Decoder<Scalar>::Decoder(Workspace& workspace, const Model<Scalar>& model, Index batch,
                         const RandomKey& key, Precision precision)
    : model_((check_arguments(workspace, model, batch, key, precision), &model)),
      key_(key),
      precision_(precision),
      sequences_(static_cast<std::size_t>(batch)) {
  for_each_attention([&](const SelfAttention<Scalar>& attention) {
    recomputes_ = recomputes_ || has_sorted_chunks(attention.config().pattern);
  });
  logits_.setZero(batch, model_->config().vocabulary);
  if (recomputes_) return;
  recent_ = index(model_->embedding_.longest_ngram());
  const Pass pass{
      .workspace = workspace, .batch = batch, .length = 1, .key = key_, .precision = precision_};
  states_ = model_->stack_.decoding(pass);
  head_.emplace(model_->head_.kept_weight(workspace, precision, model_->tied_table()));
  checksum_ = checksum();
}

template <typename Scalar>
std::size_t Decoder<Scalar>::state_bytes() const {
  std::size_t bytes = recomputes_ ? 0 : model_->stack_.bytes(states_);
  for (const auto& s : sequences_) bytes += s.seen.size() * sizeof(std::int32_t);
  return bytes;
}

template <typename Scalar>
const Matrix<Scalar>& Decoder<Scalar>::prefill(Workspace& workspace, const Tokens& tokens,
                                               std::span<const Index> lengths) {
  constexpr auto function = "Decoder::prefill";
  const Index T = tokens.dimension(1);
  check_equal(function, "tokens dimension 0", tokens.dimension(0), "batch", batch());
  check_at_least(function, "length", T, 1);
  check(lengths.empty() || static_cast<Index>(lengths.size()) == batch(), function, "lengths has ",
        lengths.size(), " elements, must have batch = ", batch());
  std::vector<Prompt> prompts;
  for (Index b = 0; b < batch(); ++b) {
    const Index length = lengths.empty() ? T : lengths[index(b)];
    check(length >= 1 && length <= T, function, "length ", b, " is ", length, ", must be in [1, ",
          T, "]");
    prompts.push_back({b, {&tokens(b, 0), index(length)}});
  }
  read(workspace, function, std::move(prompts));
  return logits_;
}

template <typename Scalar>
const Matrix<Scalar>& Decoder<Scalar>::prefill(Workspace& workspace, Index sequence,
                                               std::span<const std::int32_t> tokens) {
  constexpr auto function = "Decoder::prefill";
  check_sequence(function, sequence);
  read(workspace, function, {{sequence, tokens}});
  return logits_;
}

template <typename Scalar>
const Matrix<Scalar>& Decoder<Scalar>::step(Workspace& workspace,
                                            std::span<const std::int32_t> tokens) {
  check_equal("Decoder::step", "tokens", static_cast<Index>(tokens.size()), "batch", batch());
  std::vector<Index> all(tokens.size());
  std::iota(all.begin(), all.end(), 0);
  return step(workspace, all, tokens);
}

template <typename Scalar>
const Matrix<Scalar>& Decoder<Scalar>::step(Workspace& workspace, std::span<const Index> sequences,
                                            std::span<const std::int32_t> tokens) {
  constexpr auto function = "Decoder::step";
  detail::check_for_use(function, workspace);
  const auto count = static_cast<Index>(sequences.size());
  check_equal(function, "tokens", static_cast<Index>(tokens.size()), "sequences", count);
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    const Index b = sequences[i];
    check_sequence(function, b);
    check(i == 0 || sequences[i - 1] < b, function, "sequence ", b, " comes after ",
          i == 0 ? b : sequences[i - 1], ", must be ascending");
    model_->check_length_of_pass(function, length(b) + 1);
    check(!sequences_[index(b)].is_broken, function, "sequence ", b,
          " was left half-way by an error, must start anew with prefill");
  }
  Tokens column(count, 1);
  std::copy(tokens.begin(), tokens.end(), column.data());
  model_->embedding_.check_input(function, column);
  if (count == 0) return logits_;

  for (const Index b : sequences) {
    sequences_[index(b)].is_broken = true;  // until all is done
    ++sequences_[index(b)].length;
  }
  if (recomputes_) {
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      sequences_[index(sequences[i])].seen.push_back(tokens[i]);
      recompute(workspace, sequences[i]);
    }
    return logits_;
  }
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    auto& seen = sequences_[index(sequences[i])].seen;
    if (seen.size() == recent_) seen.erase(seen.begin());
    seen.push_back(tokens[i]);
  }
  model_->stack_.select(states_, sequences);
  const Pass pass{.workspace = workspace,
                  .batch = count,
                  .length = 1,
                  .key = key_,
                  .tokens = tokens,
                  .precision = precision_};
  Scratch memory(workspace);
  auto halves = model_->halves_in(memory, count);
  model_->embedding_.forward(column, pass, halves, [&](Index row) {
    const Sequence& sequence = sequences_[index(sequences[index(row)])];
    return std::pair(sequence.length - 1, std::span<const std::int32_t>(sequence.seen));
  });
  model_->stack_.decode(halves, states_, pass);
  rows_.resize(count, vocabulary());
  model_->head_.logits(halves, 0, head_->packed(), rows_of(rows_), pass);
  for (Index row = 0; row < count; ++row) {
    logits_.row(sequences[index(row)]) = rows_.row(row);
    sequences_[index(sequences[index(row)])].is_broken = false;
  }
  return logits_;
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template class REFORMER_EXPORT Decoder<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
