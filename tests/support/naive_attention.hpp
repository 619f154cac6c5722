// SPDX-License-Identifier: MIT
/// @file
/// Attention written from its definition, in double precision and with T x T arrays, to hold the
/// kernel against.
///
/// Everything is reduced to one question, asked for each pair of tokens: how often does query i see
/// key j? The answer is a matrix of counts `[T, T]`, made from the positions (`chunk_counts`), from
/// the buckets (`bucket_counts`) or of ones; `attention` is then one softmax over what is seen.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::test::naive {

/// How often each query (row) sees each key (column), `[T, T]`.
using Counts = Matrix<double>;

/// Which pairs do not exist, and what is special about a token and itself.
struct Rules {
  bool causal = true;
  bool shared = false;                    ///< queries are keys: unit keys, self score -1e5
  std::span<const std::uint8_t> is_real;  ///< `[T]`; empty: all
  bool following = false;  ///< a key carries of_own its value + of_next that of the next real
                           ///< token, and is not seen by its own query
  double of_own = 0, of_next = 1;
  bool real(Index t) const { return is_real.empty() || is_real[static_cast<std::size_t>(t)] != 0; }
};

inline Rules rules_of(const AttentionPattern& pattern, bool causal) {
  return {causal, shares_query_key(pattern), {}, carries_next(pattern)};
}

/// The pattern if it hashes at a length, else null.
inline const LshPattern* hashed(const AttentionPattern& pattern, Index length) {
  const auto* lsh = std::get_if<LshPattern>(&pattern);
  return lsh != nullptr && hashes(*lsh, length) ? lsh : nullptr;
}

/// The patterns, then the same with other values.
inline std::vector<AttentionPattern> with_values(std::vector<AttentionPattern> patterns,
                                                 std::initializer_list<Values> others) {
  const std::vector<AttentionPattern> given = patterns;
  for (const Values values : others) {
    for (AttentionPattern pattern : given) {
      std::visit([&](auto& p) { p.values = values; }, pattern);
      patterns.push_back(pattern);
    }
  }
  return patterns;
}

/// The pattern with cosines for scores.
inline AttentionPattern with_cosines(AttentionPattern pattern) {
  std::visit([](auto& p) { p.scores = Scores::cosine; }, pattern);
  return pattern;
}

/// Vectors scaled to a length, which is divided by their own: sqrt(|x|^2 + K 1e-6).
inline Matrix<double> scaled_to(double length, Matrix<double> x) {
  for (Index row = 0; row < x.rows(); ++row) {
    const double epsilon = 1e-6 * static_cast<double>(x.cols());
    x.row(row) *= length / std::sqrt(x.row(row).squaredNorm() + epsilon);
  }
  return x;
}

/// The pattern with so many columns that positions rotate.
inline AttentionPattern with_rotary(AttentionPattern pattern, Index width) {
  std::visit([&](auto& p) { p.rotary_width = width; }, pattern);
  return pattern;
}

/// The first `width` columns rotated by positions, which count real tokens.
inline Matrix<double> rotated(Index width, const Rules& rules, Matrix<double> x) {
  Index position = 0;
  for (Index t = 0; t < x.rows(); ++t) {
    for (Index i = 0; i < width / 2; ++i) {
      const double angle =
          static_cast<double>(position) *
          std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(width));
      const double a = x(t, i), b = x(t, i + width / 2);
      x(t, i) = a * std::cos(angle) - b * std::sin(angle);
      x(t, i + width / 2) = b * std::cos(angle) + a * std::sin(angle);
    }
    if (rules.real(t)) ++position;
  }
  return x;
}

/// Whether there is such attention.
inline bool exists(const AttentionPattern& pattern, bool causal) {
  return causal || values_of(pattern) == Values::own;
}

/// Every query sees every key once.
inline Counts all_counts(Index length) {
  return Counts::Ones(length, length);
}

/// Adds what a list of tokens, cut into chunks, lets its queries see. `tokens[r]` is the list of
/// round r; chunks are cut in each round, the last one may be short, and the ring (or the line, of
/// each round) of chunks runs over all of them.
inline void count_chunks(const std::vector<std::vector<Index>>& tokens, Index chunk_length,
                         Index chunks_before, Index chunks_after, bool circular, Counts& counts) {
  std::vector<std::vector<Index>> chunks;
  std::vector<std::size_t> round_of;
  for (std::size_t r = 0; r < tokens.size(); ++r) {
    for (std::size_t i = 0; i < tokens[r].size(); ++i) {
      if (i % static_cast<std::size_t>(chunk_length) == 0) {
        chunks.emplace_back();
        round_of.push_back(r);
      }
      chunks.back().push_back(tokens[r][i]);
    }
  }
  const auto number = static_cast<Index>(chunks.size());
  for (Index c = 0; c < number; ++c) {
    for (Index d = -chunks_before; d <= chunks_after; ++d) {
      Index other = c + d;
      if (circular) {
        other = ((other % number) + number) % number;
      } else if (other < 0 || other >= number ||
                 round_of[static_cast<std::size_t>(other)] !=
                     round_of[static_cast<std::size_t>(c)]) {
        continue;
      }
      for (const Index i : chunks[static_cast<std::size_t>(c)]) {
        for (const Index j : chunks[static_cast<std::size_t>(other)]) counts(i, j) += 1;
      }
    }
  }
}

/// Local attention. One chunk has no neighbours.
inline Counts chunk_counts(Index length, Index chunk_length, Index chunks_before,
                           Index chunks_after, bool circular) {
  if (length <= chunk_length) return all_counts(length);
  std::vector<Index> line(static_cast<std::size_t>(length));
  std::iota(line.begin(), line.end(), Index{0});
  Counts counts = Counts::Zero(length, length);
  count_chunks({line}, chunk_length, chunks_before, chunks_after, circular, counts);
  return counts;
}

/// LSH attention: tokens of each round sorted by (bucket, position), padding left out or at the
/// end.
/// @param buckets  one list `[T]` for each round
inline Counts bucket_counts(const std::vector<std::vector<Bucket>>& buckets, const Rules& rules,
                            const LshPattern& lsh) {
  const auto length = static_cast<Index>(buckets.at(0).size());
  std::vector<std::vector<Index>> order;
  for (const auto& round : buckets) {
    std::vector<Index> tokens;
    for (Index t = 0; t < length; ++t) {
      if (lsh.sort_padding || rules.real(t)) tokens.push_back(t);
    }
    std::stable_sort(tokens.begin(), tokens.end(), [&](Index s, Index t) {
      return round[static_cast<std::size_t>(s)] < round[static_cast<std::size_t>(t)];
    });
    order.push_back(tokens);
  }
  Counts counts = Counts::Zero(length, length);
  count_chunks(order, lsh.chunk_length, lsh.chunks_before, lsh.chunks_after, true, counts);
  return counts;
}

/// LSH attention within buckets: query and key are in one bucket, and the chunk of the key, its
/// rank among the real tokens of the bucket divided by the chunk length, is in the query's window.
inline Counts own_bucket_counts(const std::vector<std::vector<Bucket>>& buckets, const Rules& rules,
                                const LshPattern& lsh) {
  const auto length = static_cast<Index>(buckets.at(0).size());
  Counts counts = Counts::Zero(length, length);
  for (const auto& round : buckets) {
    const auto bucket = [&](Index t) { return round[static_cast<std::size_t>(t)]; };
    const auto chunk = [&](Index t) {
      Index rank = 0;
      for (Index s = 0; s < t; ++s) rank += rules.real(s) && bucket(s) == bucket(t) ? 1 : 0;
      return rank / lsh.chunk_length;
    };
    for (Index i = 0; i < length; ++i) {
      for (Index j = 0; j < length; ++j) {
        if (!rules.real(i) || !rules.real(j) || bucket(i) != bucket(j)) continue;
        const Index away = chunk(j) - chunk(i);
        if (away >= -lsh.chunks_before && away <= lsh.chunks_after) counts(i, j) += 1;
      }
    }
  }
  return lsh.duplicates == Duplicates::once ? Counts(counts.cwiseMin(1.0)) : counts;
}

/// What a layer's pattern shows.
/// @param buckets  one list `[T]` for each round, of a pattern that hashes at this length
inline Counts pattern_counts(const AttentionPattern& pattern, Index length, const Rules& rules,
                             const std::vector<std::vector<Bucket>>& buckets = {}) {
  if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
    return chunk_counts(length, local->chunk_length, local->chunks_before, local->chunks_after,
                        local->circular);
  }
  if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
    if (lsh->chunking == Chunking::bucket_chunks) return own_bucket_counts(buckets, rules, *lsh);
    if (length > lsh->chunk_length) return bucket_counts(buckets, rules, *lsh);
  }
  return all_counts(length);
}

/// Attention weights `[T, T]`, the sum over all occurrences of a key. A row that sees nothing is
/// zero.
inline Matrix<double> attention_weights(const Matrix<double>& query, const Matrix<double>& key,
                                        const Counts& counts, const Rules& rules) {
  const Index T = query.rows(), K = query.cols();
  Matrix<double> weights = Matrix<double>::Zero(T, T);
  for (Index i = 0; i < T; ++i) {
    std::vector<double> score(static_cast<std::size_t>(T),
                              -std::numeric_limits<double>::infinity());
    for (Index j = 0; j < T; ++j) {
      double& s = score[static_cast<std::size_t>(j)];
      const bool itself = rules.shared && i == j;
      const bool exists = rules.real(j) && !(rules.causal && j > i);
      if (counts(i, j) == 0 || !(exists || itself) || (rules.following && i == j)) continue;
      double dot = 0, square = 0;
      for (Index c = 0; c < K; ++c) {
        dot += query(i, c) * key(j, c);
        square += key(j, c) * key(j, c);
      }
      const auto width = static_cast<double>(K);
      s = itself         ? -1e5
          : rules.shared ? dot / std::sqrt(square / width + 1e-6) / std::sqrt(width)
                         : dot / std::sqrt(width);
    }
    const double maximum = *std::max_element(score.begin(), score.end());
    if (std::isinf(maximum)) continue;
    double sum = 0;
    for (Index j = 0; j < T; ++j) {
      weights(i, j) = counts(i, j) * std::exp(score[static_cast<std::size_t>(j)] - maximum);
      sum += weights(i, j);
    }
    weights.row(i) /= sum;
  }
  return weights;
}

/// What the keys carry, from the values of the tokens. Keys without a token that follows are seen
/// by none.
inline Matrix<double> carried_values(const Matrix<double>& value, const Rules& rules) {
  if (!rules.following) return value;
  Matrix<double> carried = Matrix<double>::Zero(value.rows(), value.cols());
  for (Index s = 0; s < value.rows(); ++s) {
    for (Index next = value.rows() - 1; next > s; --next) {
      if (rules.real(next)) {
        carried.row(s) = rules.of_own * value.row(s) + rules.of_next * value.row(next);
      }
    }
  }
  return carried;
}

/// Attention of one head of one sequence, `[T, K]`.
inline Matrix<double> attention(const Matrix<double>& query, const Matrix<double>& key,
                                const Matrix<double>& value, const Counts& counts,
                                const Rules& rules) {
  return attention_weights(query, key, counts, rules) * carried_values(value, rules);
}

/// Angular hash h = h_1 + N_1 h_2 + ... of each row of x `[T, K]`, h_f = argmax of [x R_f, -x R_f],
/// the smallest index if several are equal.
/// @param rotations  `[K, columns]`: N_1 / 2 columns of the first factor, then those of the second
inline std::vector<Bucket> hash(const Matrix<double>& x, const Matrix<double>& rotations,
                                std::span<const Index> factors) {
  std::vector<Bucket> result;
  for (Index t = 0; t < x.rows(); ++t) {
    Index id = 0, place = 1, column = 0;
    for (const Index n : factors) {
      std::vector<double> candidates;
      for (Index c = column; c < column + n / 2; ++c) {
        candidates.push_back(x.row(t).dot(rotations.col(c)));
      }
      for (std::size_t c = 0; c < static_cast<std::size_t>(n / 2); ++c) {
        candidates.push_back(-candidates[c]);
      }
      const auto best = std::max_element(candidates.begin(), candidates.end());  // first of equals
      id += place * (best - candidates.begin());
      place *= n;
      column += n / 2;
    }
    result.push_back(static_cast<Bucket>(id));
  }
  return result;
}

}  // namespace reformer::test::naive
