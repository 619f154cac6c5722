// SPDX-License-Identifier: MIT
/// @file
/// Text from a model: decoding and sampling in one loop.
#pragma once

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/model/decoding.hpp"
#include "reformer/model/sampling.hpp"

namespace reformer::inline REFORMER_ABI {

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

/// Continues prompts. Each text is the one that its prompt gets alone, to the bit, with number b of
/// the seed: whatever the other prompts are and wherever they end.
/// @param prompts  one for each sequence of the decoder, of at least one token each
/// @return the tokens after each prompt: `max_tokens`, or fewer where a stop token or `each` ended
/// the sequence, or where it became as long as the decoder's `max_length` without a `max_context`
/// An exception on the way ends the texts of all sequences, and nothing is returned. Who must not
/// lose what was made until then keeps the tokens that `each` is given: it gets every token as soon
/// as it is chosen, and whatever ends the texts comes after that.
/// @throw std::invalid_argument for bad options or prompts, before anything is read; on the way,
/// for logits that are NaN or +infinity
/// @throw std::overflow_error as `Model::loss`, std::bad_alloc, and what `each` throws
template <typename Scalar>
std::vector<std::vector<std::int32_t>> generate(
    Workspace& workspace, Decoder<Scalar>& decoder,
    const std::vector<std::vector<std::int32_t>>& prompts, const GenerationOptions& options,
    const TokenCallback& each = {}) {
  constexpr auto function = "generate";
  const auto batch = static_cast<std::size_t>(decoder.batch());
  const auto vocabulary = static_cast<std::size_t>(decoder.vocabulary());
  const auto check_token = [&](std::int32_t token, const auto&... what) {
    check(token >= 0 && static_cast<std::size_t>(token) < vocabulary, function, what..., " is ",
          token, ", must be in [0, ", vocabulary, ")");
  };
  detail::check_config(function, options.sampling);
  check_at_least(function, "max_tokens", options.max_tokens, 0);
  check_between(function, "max_context", options.max_context, 0, decoder.max_length());
  for (std::size_t i = 0; i < options.stop_tokens.size(); ++i) {
    check_token(options.stop_tokens[i], "stop token ", i);
  }
  check(prompts.size() == batch, function, "prompts has ", prompts.size(),
        " elements, must have the decoder's batch = ", batch);
  const bool cuts = options.max_context > 0;
  for (std::size_t b = 0; b < batch; ++b) {
    const auto& prompt = prompts[b];
    check(!prompt.empty(), function, "prompt ", b, " is empty, must have at least one token");
    check(cuts || static_cast<Index>(prompt.size()) <= decoder.max_length(), function, "prompt ", b,
          " has ", prompt.size(), " tokens, must have at most ", decoder.max_length(),
          " where max_context does not cut it");
    for (std::size_t i = 0; i < prompt.size(); ++i) {
      check_token(prompt[i], "prompt ", b, ": token ", i);
    }
  }
  std::vector<std::vector<std::int32_t>> results(batch);
  if (options.max_tokens == 0) return results;

  auto texts = prompts;
  const auto last_of = [&](std::size_t b, Index most) {
    return std::span<const std::int32_t>(texts[b]).last(
        std::min(texts[b].size(), static_cast<std::size_t>(most)));
  };
  std::vector<Index> lengths;
  for (std::size_t b = 0; b < batch; ++b) {
    lengths.push_back(
        static_cast<Index>(last_of(b, cuts ? options.max_context : decoder.max_length()).size()));
  }
  Tokens start(static_cast<Index>(batch), *std::max_element(lengths.begin(), lengths.end()));
  start.setZero();
  for (std::size_t b = 0; b < batch; ++b) {
    const auto tokens = last_of(b, lengths[b]);
    std::copy(tokens.begin(), tokens.end(), &start(static_cast<Index>(b), 0));
  }
  const Matrix<Scalar>& logits = decoder.prefill(workspace, start, lengths);

  std::vector<std::vector<std::uint8_t>> occurred(batch);
  if (options.sampling.repetition_penalty != 1) {
    for (std::size_t b = 0; b < batch; ++b) {
      occurred[b].resize(vocabulary);
      for (const std::int32_t token : prompts[b]) occurred[b][static_cast<std::size_t>(token)] = 1;
    }
  }
  /// The next token of a sequence; whether it goes on after it.
  const auto write = [&](std::size_t b, Index i) {
    const auto sequence = static_cast<Index>(b);
    const RandomStream stream({options.seed, static_cast<std::uint32_t>(b)}, Purpose::sampling);
    const std::span<const Scalar> row(logits.row(sequence).data(), vocabulary);
    const std::int32_t token = sample_token(
        row, options.sampling, stream.uniform(static_cast<std::uint64_t>(i)), occurred[b]);
    const auto& stops = options.stop_tokens;
    if (std::find(stops.begin(), stops.end(), token) != stops.end()) return false;
    results[b].push_back(token);
    texts[b].push_back(token);
    if (!occurred[b].empty()) occurred[b][static_cast<std::size_t>(token)] = 1;
    const bool goes_on = !each || each(sequence, token);
    return goes_on && (cuts || decoder.length(sequence) < decoder.max_length());
  };
  std::vector<std::size_t> active(batch);
  std::iota(active.begin(), active.end(), std::size_t{0});
  for (Index i = 0; i < options.max_tokens; ++i) {
    std::erase_if(active, [&](std::size_t b) { return !write(b, i); });
    if (active.empty() || i + 1 == options.max_tokens) break;
    std::vector<Index> sequences;
    std::vector<std::int32_t> tokens;
    for (const std::size_t b : active) {
      const auto sequence = static_cast<Index>(b);
      if (cuts && decoder.length(sequence) >= options.max_context) {
        decoder.prefill(workspace, sequence,
                        last_of(b, std::max<Index>(1, options.max_context / 2)));
      } else {
        sequences.push_back(sequence);
        tokens.push_back(texts[b].back());
      }
    }
    decoder.step(workspace, sequences, tokens);
  }
  return results;
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template REFORMER_EXPORT std::vector<std::vector<std::int32_t>> generate<float>(
    Workspace&, Decoder<float>&, const std::vector<std::vector<std::int32_t>>&,
    const GenerationOptions&, const TokenCallback&);
#endif

}  // namespace reformer::inline REFORMER_ABI
