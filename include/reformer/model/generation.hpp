// SPDX-License-Identifier: MIT
/// @file
/// Text from a model: decoding and sampling in one loop.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "reformer/model/decoding.hpp"
#include "reformer/model/sampling.hpp"

namespace reformer {

struct GenerationOptions {
  Index max_tokens = 256;  ///< of each sequence
  SamplingOptions sampling = {};
  std::uint64_t seed = 0;  ///< token i of sequence b is drawn with number i of (seed, b)
  /// They end a sequence and are left out of it.
  std::vector<std::int32_t> stop_tokens = {};
  /// Most tokens that the model looks back on; 0: all. A prompt is cut to its last ones, and when
  /// a sequence has become that long, it is read anew from its last half. For positions that end,
  /// or that were never trained.
  Index max_context = 0;
};

/// Called with each token at once, as `each(sequence, token)`; false ends the sequence after it.
using TokenCallback = std::function<bool(Index, std::int32_t)>;

/// Continues prompts.
/// @param prompts  one for each sequence of the decoder, of at least one token each
/// @return the tokens after each prompt
/// @throw std::invalid_argument for bad options or prompts; what `each` throws ends the text
template <typename Scalar>
std::vector<std::vector<std::int32_t>> generate(
    Workspace& workspace, Decoder<Scalar>& decoder,
    const std::vector<std::vector<std::int32_t>>& prompts, const GenerationOptions& options,
    const TokenCallback& each = {}) {
  constexpr auto function = "generate";
  const auto batch = static_cast<std::size_t>(decoder.batch());
  check_config(function, options.sampling);
  check_at_least(function, "max_tokens", options.max_tokens, 0);
  check_at_least(function, "max_context", options.max_context, 0);
  check(prompts.size() == batch, function, "prompts has ", prompts.size(),
        " elements, must have the decoder's batch = ", batch);
  for (std::size_t b = 0; b < batch; ++b) {
    check(!prompts[b].empty(), function, "prompt ", b, " is empty, must have at least one token");
  }

  // What a decoder has read of each sequence is its end, of at most this many tokens.
  auto texts = prompts;
  const auto read = [&](Index most) -> const Matrix<Scalar>& {
    std::vector<Index> lengths;
    Index longest = 0;
    for (const auto& text : texts) {
      const auto size = static_cast<Index>(text.size());
      lengths.push_back(most > 0 ? std::min(size, most) : size);
      longest = std::max(longest, lengths.back());
    }
    Tokens tokens(static_cast<Index>(batch), longest);
    tokens.setZero();
    bool equal = true;
    for (std::size_t b = 0; b < batch; ++b) {
      std::copy(texts[b].end() - lengths[b], texts[b].end(), &tokens(static_cast<Index>(b), 0));
      equal = equal && lengths[b] == longest;
    }
    return decoder.prefill(workspace, tokens, equal ? std::span<const Index>{} : lengths);
  };

  std::vector<std::vector<std::int32_t>> results(batch);
  if (options.max_tokens == 0) return results;
  const Matrix<Scalar>* logits = &read(options.max_context);
  const auto vocabulary = static_cast<std::size_t>(logits->cols());
  std::vector<std::vector<std::uint8_t>> occurred(batch);
  if (options.sampling.repetition_penalty != 1) {
    for (std::size_t b = 0; b < batch; ++b) {
      occurred[b].resize(vocabulary);
      for (const std::int32_t token : prompts[b]) occurred[b][static_cast<std::size_t>(token)] = 1;
    }
  }
  std::vector<std::uint8_t> ended(batch, 0);
  std::vector<std::int32_t> next(batch);
  for (Index i = 0;; ++i) {
    bool is_over = true;
    for (std::size_t b = 0; b < batch; ++b) {
      if (ended[b] != 0) continue;  // it goes on with its last token, and nobody looks
      const RandomStream stream({options.seed, static_cast<std::uint32_t>(b)}, Purpose::sampling);
      const std::span<const Scalar> row(logits->row(static_cast<Index>(b)).data(), vocabulary);
      next[b] = sample_token(row, options.sampling, stream.uniform(static_cast<std::uint64_t>(i)),
                             occurred[b]);
      const auto& stops = options.stop_tokens;
      ended[b] = std::find(stops.begin(), stops.end(), next[b]) != stops.end() ? 1 : 0;
      if (ended[b] != 0) continue;
      results[b].push_back(next[b]);
      if (!occurred[b].empty()) occurred[b][static_cast<std::size_t>(next[b])] = 1;
      if (each && !each(static_cast<Index>(b), next[b])) ended[b] = 1;
      is_over = is_over && ended[b] != 0;
    }
    if (is_over || i + 1 == options.max_tokens) return results;
    bool is_full = false;
    for (std::size_t b = 0; b < batch; ++b) {
      texts[b].push_back(next[b]);
      is_full = is_full || (options.max_context > 0 &&
                            decoder.length(static_cast<Index>(b)) >= options.max_context);
    }
    logits = is_full ? &read(std::max<Index>(1, options.max_context / 2))
                     : &decoder.step(workspace, next);
  }
}

}  // namespace reformer
