// SPDX-License-Identifier: MIT
/// @file
/// How often hashing finds what it should.
///
/// Where a byte continues a repetition (see distance.hpp), the byte before it has a *match*: the
/// byte before the place that it repeats. Attention can fetch what follows the match only if some
/// round puts both into one block. Counted is, for each hashed layer and class of distances, the
/// share of matches that one head finds on average, and the share that any head finds; beside them
/// the share that one head has in the query's bucket, near enough or not, and the share that it
/// finds of bytes near the match that are none, which is what hashing finds by chance.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "reformer/attention/pattern.hpp"
#include "reformer/foundation/tensor.hpp"
#include "windows.hpp"

namespace enwik8 {

/// Which earlier tokens the blocks of one head of one sequence show to a token.
class Visibility {
 public:
  /// @param buckets  `[R, T]`, without padding
  Visibility(const reformer::LshPattern& pattern, std::span<const reformer::Bucket> buckets,
             std::int64_t length);

  /// Whether some round puts both into one block.
  bool sees(std::int64_t query, std::int64_t key) const;

  /// Whether some round puts both into one bucket.
  bool shares_bucket(std::int64_t query, std::int64_t key) const;

 private:
  struct Place {
    std::int64_t bucket, chunk;
  };
  const Place& at(std::int64_t round, std::int64_t token) const {
    return places_[static_cast<std::size_t>(round * length_ + token)];
  }

  reformer::Window window_;
  bool by_bucket_;
  std::int64_t length_, rounds_, chunks_;  // chunks of a round, where they are sorted
  std::vector<Place> places_;              // [R, T]
};

class Matches {
 public:
  /// @param layers  patterns of the kinds of heads that hash, of each layer
  /// @param reach,length  as for `distance_limits`
  Matches(std::vector<std::vector<reformer::LshPattern>> layers, std::int64_t reach,
          std::int64_t length);

  /// @param buckets  `[B, H, R, T]` of each layer's kinds of heads that hash
  void add(const Windows& windows,
           const std::vector<std::vector<reformer::Tensor<reformer::Bucket, 4>>>& buckets);

  /// A table for people, for each hashed layer.
  std::vector<std::string> lines() const;

 private:
  /// The byte so far before a match stands for those that are none.
  static constexpr std::int64_t beside = 5;

  struct Count {
    std::int64_t matches = 0, by_head = 0, by_any = 0, in_bucket = 0, beside_by_head = 0, heads = 0;
  };

  std::vector<std::vector<reformer::LshPattern>> layers_;
  std::vector<std::int64_t> limits_;
  std::vector<std::vector<Count>> counts_;  // [layers][classes]
};

}  // namespace enwik8
