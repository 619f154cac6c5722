// SPDX-License-Identifier: MIT
/// @file
/// LSH bucketing: angular hashing by random rotations, and the stable sort by bucket.
///
/// For a vector x and a random matrix R `[K, N/2]` with normal entries (paper, section 2; Andoni et
/// al., arXiv 1509.02897):
///
///     h(x) = argmax([x R; -x R]),   0 <= h(x) < N
///
/// One hash is drawn for each head and round. N may be factorised, N = N_1 N_2 ...: each factor has
/// its own columns of R and h = h_1 + N_1 h_2 + N_1 N_2 h_3 + ..., which costs K (N_1 + N_2 + ...)
/// / 2 products instead of K N / 2. Ties go to the smallest index. The hash has no gradient.
///
/// Padding gets a bucket of its own, N, so that it never stands among real tokens.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "reformer/attention/buckets.hpp"
#include "reformer/attention/tiles.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/random.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/products/block_product.hpp"
#include "reformer/products/kernels.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Draws rotations `[H, K, R, columns]` with standard normal entries.
/// @param first  number in the key's stream that they begin at, even: behind those of other heads
/// @throw std::invalid_argument for sizes or a key out of range, factors that `check_buckets`
/// refuses, or a first number that is odd or below 0
template <typename Scalar>
Tensor<Scalar, 4> random_rotations(Index heads, Index head_width, Index num_hashes,
                                   std::span<const Index> factors, const RandomKey& key,
                                   Index first = 0) {
  constexpr auto function = "random_rotations";
  check_between(function, "heads", heads, 1, max_size);
  check_between(function, "head_width", head_width, 1, max_size / heads);
  check_between(function, "num_hashes", num_hashes, 1, max_hashes);
  check_buckets(function, factors);
  check_key(function, key);
  check(first >= 0 && first % 2 == 0, function, "first is ", first, ", must be even, from 0");
  Tensor<Scalar, 4> rotations(heads, head_width, num_hashes, rotation_columns(factors));
  fill_normal(rotations.data(), rotations.size(), 1.0, RandomStream(key, Purpose::rotations),
              first);
  return rotations;
}

inline constexpr Index hash_rows = 64;  // tokens hashed at a time

/// Bucket ids of up to `hash_rows` tokens of one head, all rounds.
/// @param scores  `[columns, stride]`: x R of one round, one row for each column of the rotations
/// @param id      `[stride]`, written
template <typename Scalar>
void choose_buckets(const Scalar* scores, Index stride, std::span<const Index> factors,
                    Scalar* id) {
  namespace e = Eigen::internal;
  constexpr Index W = simd::width<Scalar>;
  for (Index i = 0; i < stride; i += W) {
    auto total = simd::set(Scalar(0));
    Scalar place = 1;
    const Scalar* row = scores + i;
    for (const Index n : factors) {
      auto best = simd::load(row);
      auto choice = simd::set(Scalar(0));
      const auto consider = [&](const simd::Packet<Scalar>& x, Index index) {
        const auto better = e::pcmp_lt(best, x);
        choice = e::pselect(better, simd::set(static_cast<Scalar>(index)), choice);
        best = e::pselect(better, x, best);
      };
      for (Index j = 1; j < n / 2; ++j) consider(simd::load(row + j * stride), j);
      for (Index j = 0; j < n / 2; ++j)
        consider(e::pnegate(simd::load(row + j * stride)), n / 2 + j);
      total = e::pmadd(choice, simd::set(place), total);
      place *= static_cast<Scalar>(n);
      row += n / 2 * stride;
    }
    simd::store(id + i, total);
  }
}

/// Hashes rows `[first, first + count)` of one head.
/// @param rotations  `[K, R * columns]`
/// @param buckets    `[R, T]` of this head
template <typename Scalar, ProductKernel Kernel>
void hash_rows_of_head(const MatrixView<const Scalar>& x, const std::uint8_t* is_real,
                       const MatrixView<const Scalar>& rotations, std::span<const Index> factors,
                       Index first, Index count, Scalar* memory, BlockOperands<Kernel> operands,
                       Bucket* buckets) {
  const Index K = x.columns, T = x.rows;
  const Index stride = round_up(count, simd::width<Scalar>);
  const Index padded_width = round_up(K, simd::width<Scalar>);
  Scalar* rows = memory;
  Scalar* id = rows + hash_rows * padded_width;
  Scalar* scores = id + hash_rows;
  gather_rows(
      x, count, padded_width, [&](Index i) { return first + i; }, rows);
  operands.turn(0, {rows, count, K, padded_width});
  operands.multiply(operands.left(rotations, Orientation::transposed), operands.turned(0), K,
                    {scores, rotations.columns, stride}, Write::assign);
  const Index columns = rotation_columns(factors);
  const auto padding_bucket = static_cast<Bucket>(num_buckets(factors));
  for (Index r = 0; r * columns < rotations.columns; ++r) {
    choose_buckets(scores + r * columns * stride, stride, factors, id);
    Bucket* out = buckets + r * T + first;
    for (Index i = 0; i < count; ++i) {
      out[i] = is_real != nullptr && is_real[first + i] == 0 ? padding_bucket
                                                             : static_cast<Bucket>(id[i]);
    }
  }
}

/// Bucket ids of a group of heads.
/// @param x          `[B*T, H*K]`: vectors to hash, heads side by side
/// @param is_real    `[B*T]` or empty
/// @param rotations  `[H, K, R, columns]` as matrix `[H*K, R*columns]`, of these heads
/// @param buckets    `[B, H, R, T]`, written
/// @tparam Kernel    of the products
template <typename Scalar, ProductKernel Kernel = DefaultKernel<Scalar>>
void hash_heads(Workspace& workspace, const MatrixView<const Scalar>& x, Index batch, Index heads,
                std::span<const std::uint8_t> is_real, const MatrixView<const Scalar>& rotations,
                std::span<const Index> factors, Bucket* buckets) {
  const Index T = x.rows / batch, K = x.columns / heads;
  const Index rounds = rotations.columns / rotation_columns(factors);
  const Kernel kernel(Precision::float32);  // in passes of any precision: buckets mean the same
  Scratch scratch(workspace);
  const auto memory = scratch.per_thread<Scalar>(
      hash_rows * (round_up(K, simd::width<Scalar>) + 1 + rotations.columns));
  const auto packed = scratch.per_thread<typename Kernel::Packed>(
      BlockOperands<Kernel>::size(kernel, hash_rows, rotations.columns, K, 1));
  const Index tiles = ceil_div(T, hash_rows);
  parallel_for(workspace, batch * heads * tiles, [&](Index task, int thread) {
    const Index first = task % tiles * hash_rows;
    const Index h = task / tiles % heads, b = task / tiles / heads;
    hash_rows_of_head<Scalar, Kernel>(x.middle_rows(b * T, T).middle_columns(h * K, K),
                                      is_real.empty() ? nullptr : is_real.data() + b * T,
                                      rotations.middle_rows(h * K, K), factors, first,
                                      std::min(hash_rows, T - first), memory[thread],
                                      {kernel, packed[thread], hash_rows, rotations.columns, K, 1},
                                      buckets + (b * heads + h) * rounds * T);
  });
}

/// Throws for a bucket id that is none, or that is not the padding bucket for padding.
/// @param most   number of buckets, which is the id of the padding bucket
/// @param count  of ids, in rows of `length` tokens; the same number of rows for each sequence
inline void check_bucket_ids(std::string_view function, Workspace& workspace, Index batch,
                             Index length, Index most, std::span<const std::uint8_t> is_real,
                             const Bucket* buckets, Index count) {
  const auto is_real_at = [&](Index i) {
    return is_real_row(is_real, i / (count / batch) * length + i % length);
  };
  std::atomic<Index> first_bad = count;  // nothing may be thrown by a thread
  parallel_for(workspace.threads(), count / length, [&](Index row, int) {
    for (Index i = row * length; i < (row + 1) * length; ++i) {
      if (is_real_at(i) ? buckets[i] < most : buckets[i] == most) continue;
      Index known = first_bad.load();
      while (i < known && !first_bad.compare_exchange_weak(known, i)) {
      }
      return;
    }
  });
  const Index bad = first_bad.load();
  if (bad == count) return;
  const bool real = is_real_at(bad);
  check(false, function, "bucket ", bad, " is ", buckets[bad], ", must be ",
        real ? "less than " : "the padding bucket ", most, real ? "" : " for padding");
}

/// Calls `body(t, slot)` for positions t, ascending, with their place in the order by (bucket,
/// position), except those in bucket `num_buckets`.
/// @param counts  scratch, `[num_buckets + 1]`; left as the end of each bucket
template <typename Body>
void for_each_slot(std::span<const Bucket> buckets, Index num_buckets, std::int32_t* counts,
                   const Body& body) {
  std::fill_n(counts, num_buckets + 1, 0);
  for (const Bucket b : buckets) ++counts[b];
  std::int32_t start = 0;
  for (Index b = 0; b < num_buckets; ++b) start += std::exchange(counts[b], start);
  for (std::size_t t = 0; t < buckets.size(); ++t) {
    if (buckets[t] < num_buckets) body(static_cast<std::int32_t>(t), counts[buckets[t]]++);
  }
}

/// Stable counting sort: positions ordered by (bucket, position), without those in bucket
/// `num_buckets`, which is the padding's when there are N.
/// @param buckets  `[T]`, at most `num_buckets`
/// @param counts   scratch, `[num_buckets + 1]`; left as the end of each bucket
/// @param order    written; as long as there are tokens in the other buckets
inline void sort_by_bucket(std::span<const Bucket> buckets, Index num_buckets, std::int32_t* counts,
                           std::int32_t* order) {
  for_each_slot(buckets, num_buckets, counts,
                [&](std::int32_t t, std::int32_t slot) { order[slot] = t; });
}

/// The same order cut into chunks, each of them in order of positions. Attention depends on which
/// tokens share a chunk, not on their order in it, and ascending positions tell it what causality
/// hides.
/// @param counts  scratch, `[num_buckets + 1 + ceil(T / chunk_length)]`
inline void sort_into_chunks(std::span<const Bucket> buckets, Index num_buckets, Index chunk_length,
                             std::int32_t* counts, std::int32_t* order) {
  std::int32_t* in_chunk = counts + num_buckets + 1;
  const auto length = static_cast<std::uint32_t>(chunk_length);
  std::fill_n(in_chunk, ceil_div(static_cast<Index>(buckets.size()), chunk_length), 0);
  for_each_slot(buckets, num_buckets, counts, [&](std::int32_t t, std::int32_t slot) {
    const std::uint32_t chunk = static_cast<std::uint32_t>(slot) / length;
    order[chunk * length + static_cast<std::uint32_t>(in_chunk[chunk]++)] = t;
  });
}

}  // namespace reformer::inline REFORMER_ABI::detail
