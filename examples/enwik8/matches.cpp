// SPDX-License-Identifier: MIT
#include "matches.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "distance.hpp"
#include "training/words.hpp"

namespace enwik8 {

using training::grouped;

using reformer::Bucket;
using reformer::LshPattern;

Visibility::Visibility(const LshPattern& pattern, std::span<const Bucket> buckets,
                       std::int64_t length)
    : window_(window_of(pattern, length)),
      by_bucket_(pattern.chunking == reformer::Chunking::bucket_chunks),
      length_(length),
      rounds_(std::ssize(buckets) / length),
      chunks_(reformer::ceil_div(length, window_.chunk_length)),
      places_(buckets.size()) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(length));
  for (std::int64_t round = 0; round < rounds_; ++round) {
    const auto bucket_of = [&](std::int64_t token) {
      return buckets[static_cast<std::size_t>(round * length + token)];
    };
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return bucket_of(a) < bucket_of(b); });
    std::int64_t begin = 0;  // of the bucket
    for (std::int64_t slot = 0; slot < length; ++slot) {
      const std::int64_t token = order[static_cast<std::size_t>(slot)];
      if (slot > 0 && bucket_of(order[static_cast<std::size_t>(slot - 1)]) != bucket_of(token)) {
        begin = slot;
      }
      const std::int64_t rank = by_bucket_ ? slot - begin : slot;
      places_[static_cast<std::size_t>(round * length + token)] = {bucket_of(token),
                                                                   rank / window_.chunk_length};
    }
  }
}

bool Visibility::sees(std::int64_t query, std::int64_t key) const {
  for (std::int64_t round = 0; round < rounds_; ++round) {
    const Place& of_query = at(round, query);
    if (by_bucket_) {
      const Place& of_key = at(round, key);
      const std::int64_t away = of_query.chunk - of_key.chunk;
      if (of_query.bucket == of_key.bucket && away >= -window_.chunks_after &&
          away <= window_.chunks_before) {
        return true;
      }
      continue;
    }
    // The ring runs over the chunks of all rounds.
    const std::int64_t all = rounds_ * chunks_;
    for (std::int64_t other = 0; other < rounds_; ++other) {
      const std::int64_t away =
          round * chunks_ + of_query.chunk - other * chunks_ - at(other, key).chunk;
      const std::int64_t before = (away % all + all) % all, after = (all - before) % all;
      if (before <= window_.chunks_before || after <= window_.chunks_after) {
        return true;
      }
    }
  }
  return false;
}

bool Visibility::shares_bucket(std::int64_t query, std::int64_t key) const {
  for (std::int64_t round = 0; round < rounds_; ++round) {
    if (at(round, query).bucket == at(round, key).bucket) {
      return true;
    }
  }
  return false;
}

Matches::Matches(std::vector<std::vector<LshPattern>> layers, std::int64_t reach,
                 std::int64_t length)
    : layers_(std::move(layers)),
      limits_(distance_limits(reach, length)),
      counts_(layers_.size(), std::vector<Count>(limits_.size())) {}

void Matches::add(const Windows& windows,
                  const std::vector<std::vector<reformer::Tensor<Bucket, 4>>>& buckets) {
  const std::int64_t length = windows.length;
  for (std::int64_t w = 0; w < windows.count; ++w) {
    const std::vector<std::int64_t> distances = repetition_distances(windows, w);
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      std::vector<Visibility> of_head;
      auto ids = buckets[layer].begin();
      for (const LshPattern& pattern : layers_[layer]) {
        if (!hashes(pattern, length)) {
          continue;
        }
        const auto per_head = static_cast<std::size_t>(ids->dimension(2) * length);
        for (std::int64_t h = 0; h < ids->dimension(1); ++h) {
          of_head.emplace_back(pattern, std::span<const Bucket>(&(*ids)(w, h, 0, 0), per_head),
                               length);
        }
        ++ids;
      }
      if (of_head.empty()) {
        continue;
      }
      for (std::int64_t query = windows.context; query < length; ++query) {
        const std::int64_t distance = distances[static_cast<std::size_t>(query)];
        const std::int64_t match = query - distance;
        if (distance == 0 || match < beside) {
          continue;
        }
        const auto limit = std::lower_bound(limits_.begin(), limits_.end(), distance);
        Count& count = counts_[layer][static_cast<std::size_t>(limit - limits_.begin())];
        const auto seen = [&](std::int64_t key) {
          return std::count_if(of_head.begin(), of_head.end(),
                               [&](const Visibility& head) { return head.sees(query, key); });
        };
        const auto in_bucket = [&](const Visibility& head) {
          return head.shares_bucket(query, match);
        };
        const auto by_heads = seen(match);
        ++count.matches;
        count.heads += std::ssize(of_head);
        count.by_head += by_heads;
        count.by_any += by_heads > 0 ? 1 : 0;
        count.in_bucket += std::count_if(of_head.begin(), of_head.end(), in_bucket);
        count.beside_by_head += seen(match - beside);
      }
    }
  }
}

std::vector<std::string> Matches::lines() const {
  std::vector<std::string> lines;
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    if (layers_[layer].empty()) {
      continue;
    }
    lines.push_back(fmt::format("  {:<28} {:>10} {:>14} {:>12} {:>14} {:>16}",
                                fmt::format("layer {}, match is back", layer + 1), "matches",
                                "seen by a head", "by any head", "in its bucket",
                                "beside, by a head"));
    std::int64_t from = 1;
    for (std::size_t c = 0; c < limits_.size(); ++c) {
      const Count& count = counts_[layer][c];
      const auto share = [](std::int64_t part, std::int64_t all) {
        return all == 0 ? std::string("-")
                        : fmt::format("{:.1f}%",
                                      100 * static_cast<double>(part) / static_cast<double>(all));
      };
      lines.push_back(fmt::format(
          "  {:<28} {:>10} {:>14} {:>12} {:>14} {:>16}", distances_text(from, limits_[c]),
          grouped(count.matches), share(count.by_head, count.heads),
          share(count.by_any, count.matches), share(count.in_bucket, count.heads),
          share(count.beside_by_head, count.heads)));
      from = limits_[c] + 1;
    }
  }
  return lines;
}

}  // namespace enwik8
