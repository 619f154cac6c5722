// SPDX-License-Identifier: MIT
/// @file
/// Choosing the next token from a row of logits.
#pragma once

#include <cstddef>
#include <span>

namespace enwik8 {

struct SamplingOptions {
  double temperature = 1;  ///< divides the logits; 0 always takes the most probable token
  std::size_t top_k = 0;   ///< only the k most probable tokens; 0 for all
  double top_p = 1;        ///< only the fewest tokens whose probabilities sum to at least p
};

/// @throw std::invalid_argument for a negative temperature or a top_p outside (0, 1]
void check_sampling(const SamplingOptions& options);

/// Draws an index of `logits`. Top-k is applied first, then top-p to what is left; among equal
/// logits the lower index comes first. The result is a function of its arguments alone.
/// @param logits  at least one; -infinity means never
/// @param uniform  a random number in [0, 1), of which the caller takes care: drawn by position
/// from
///   a counter-based generator it makes text reproducible
/// @throw std::invalid_argument for bad options, an empty row, a NaN or +infinity, a row without
/// any
///   possible token, or `uniform` outside [0, 1)
std::size_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                         double uniform);

}  // namespace enwik8
