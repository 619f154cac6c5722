// SPDX-License-Identifier: MIT
// Bucket ids of all heads and rounds, and the stable sort by bucket.
#include <algorithm>
#include <numeric>

#include "patterns.hpp"
#include "support.hpp"
#include "support/naive_attention.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index length, heads, head_width;
  LshPattern pattern;
  std::vector<Index> factors() const { return bucket_factors(pattern, length); }
};

struct Inputs {
  Tensor<float, 4> x, rotations;

  explicit Inputs(const Sizes& s)
      : x(1, s.length, s.heads, s.head_width),
        rotations(detail::random_rotations<float>(s.heads, s.head_width, s.pattern.num_hashes,
                                                  s.factors(), {1})) {
    fill_normal(x.data(), x.size(), 1.0, random_stream(1));
  }
};

/// 2 K FLOP a column of the rotations.
Work hash_work(const Sizes& s) {
  const auto heads = static_cast<double>(s.heads);
  return {2.0 * heads * static_cast<double>(s.head_width) * hash_columns_of(s.pattern, s.length), 0,
          heads * static_cast<double>(s.length * (4 * s.head_width + 2 * s.pattern.num_hashes))};
}

std::vector<Bucket> naive_hash(const Sizes& s, const Inputs& in, Index head, Index round) {
  const auto factors = s.factors();
  Matrix<double> x(s.length, s.head_width), rotations(s.head_width, rotation_columns(factors));
  for (Index k = 0; k < s.head_width; ++k) {
    for (Index t = 0; t < s.length; ++t) x(t, k) = static_cast<double>(in.x(0, t, head, k));
    for (Index j = 0; j < rotations.cols(); ++j) {
      rotations(k, j) = static_cast<double>(in.rotations(head, k, round, j));
    }
  }
  return test::naive::hash(x, rotations, factors);
}

void hashing(Run& run, const Sizes& s) {
  const Inputs in(s);
  Workspace workspace(run.threads());
  if (run.must_verify()) {
    const auto buckets = lsh_buckets(workspace, in.x, s.pattern, in.rotations);
    const Index h = s.heads - 1, r = s.pattern.num_hashes - 1;
    const auto expected = naive_hash(s, in, h, r);
    Index wrong = 0;
    for (Index t = 0; t < s.length; ++t) {
      wrong += buckets(0, h, r, t) != expected[static_cast<std::size_t>(t)];
    }
    // Rounding decides between two buckets that are nearly equally near.
    run.verify(wrong * 1000 <= s.length, detail::join(wrong, " of ", s.length, " buckets differ"));
  }
  run.measure(hash_work(s), &workspace, [&] {
    benchmark::DoNotOptimize(lsh_buckets(workspace, in.x, s.pattern, in.rotations).data());
  });
}

void naive_hashing(Run& run, const Sizes& s) {
  const Inputs in(s);
  run.measure(hash_work(s), nullptr, [&] {
    for (Index h = 0; h < s.heads; ++h) {
      for (Index r = 0; r < s.pattern.num_hashes; ++r) {
        benchmark::DoNotOptimize(naive_hash(s, in, h, r).data());
      }
    }
  });
}

/// A list of bucket ids is read twice, the order written.
Work sort_work(const Sizes& s) {
  return {0, 0, 8.0 * static_cast<double>(s.heads * s.pattern.num_hashes * s.length)};
}

void sorting(Run& run, const Sizes& s, bool naive) {
  const Inputs in(s);
  Workspace workspace(run.threads());
  const auto buckets = lsh_buckets(workspace, in.x, s.pattern, in.rotations);
  const Index lists = s.heads * s.pattern.num_hashes;
  std::vector<std::int32_t> order(static_cast<std::size_t>(lists * s.length));
  const auto by_library = [&] {
    const detail::AttentionLayout layout(s.pattern, true, s.length);
    detail::MultiHead<float> group{};
    group.layout = &layout;
    group.batch = 1;
    group.heads = group.all_heads = s.heads;
    group.head_width = s.head_width;
    group.order = order.data();
    detail::order_by_bucket(workspace, group, buckets.data());
  };
  const auto by_standard_library = [&] {
    for (Index list = 0; list < lists; ++list) {
      const auto begin = order.begin() + list * s.length;
      std::iota(begin, begin + s.length, 0);
      std::stable_sort(begin, begin + s.length,
                       [ids = buckets.data() + list * s.length](std::int32_t a, std::int32_t b) {
                         return ids[a] < ids[b];
                       });
      for (Index first = 0; first < s.length; first += s.pattern.chunk_length) {
        std::sort(begin + first, begin + std::min(first + s.pattern.chunk_length, s.length));
      }
    }
  };
  if (run.must_verify()) {
    by_standard_library();
    const auto expected = order;
    by_library();
    run.verify(order == expected, "the order differs from that of the standard library");
  }
  if (naive) {
    run.measure(sort_work(s), nullptr, by_standard_library);
  } else {
    run.measure(sort_work(s), &workspace, by_library);
  }
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s, bool with_naive) {
    auto sizes = sizes_of(1, s.length, s.pattern.num_hashes);
    sizes.emplace_back("heads", s.heads);
    add(from, {"hashing", "reformer", forward, sizes}, [=](Run& run) { hashing(run, s); });
    add(from, {"sorting", "reformer", forward, sizes}, [=](Run& run) { sorting(run, s, false); });
    if (!with_naive) return;
    add(from, {"hashing", "naive", forward, sizes}, [=](Run& run) { naive_hashing(run, s); });
    add(from, {"sorting", "naive", forward, sizes}, [=](Run& run) { sorting(run, s, true); });
  };
  cases(Selection::check, {200, 2, 16, {.chunk_length = 16, .num_hashes = 2}}, true);
  const LshPattern pattern{.chunk_length = 64, .num_hashes = 4};
  for (const Index length : {1024, 4096, 16384, 65536}) {
    cases(Selection::quick, {length, 8, 64, pattern}, length == 1024);
  }
  for (const Index length : {262144, 1048576}) {
    cases(Selection::all, {length, 8, 64, pattern}, false);
  }
});

}  // namespace
}  // namespace reformer::bench
