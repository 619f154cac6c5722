// SPDX-License-Identifier: MIT
// Attention without projections on tensors, heads of 64: LSH (hashing and sorting included), local
// and exact. Forward, and forward + backward.
#include "patterns.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index batch, length, heads, head_width, chunk;
  Precision precision = Precision::float32;
};

struct Inputs {
  AttentionOptions options;
  Tensor<float, 4> query, value, dout, rotations;

  Inputs(const Sizes& s, const AttentionPattern& pattern)
      : options{.pattern = pattern, .precision = s.precision},
        query(s.batch, s.length, s.heads, s.head_width),
        value(query.dimensions()),
        dout(query.dimensions()) {
    std::uint32_t number = 0;
    for (auto* tensor : {&query, &value, &dout}) {
      fill_normal(tensor->data(), tensor->size(), 1.0, random_stream(++number));
    }
    if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
      rotations = detail::random_rotations<float>(s.heads, s.head_width, lsh->num_hashes,
                                                  bucket_factors(*lsh, s.length), {1});
    }
  }

  Tensor<Bucket, 4> buckets(Workspace& workspace) const {
    const auto* lsh = std::get_if<LshPattern>(&options.pattern);
    if (lsh == nullptr) return {};
    return lsh_buckets(workspace, query, *lsh, rotations);
  }
};

Work work(const Sizes& s, const AttentionPattern& pattern, bool backward, bool streamed) {
  const auto heads = static_cast<double>(s.batch * s.heads);
  const double width = 2.0 * static_cast<double>(s.head_width);
  const double product = heads * width * pairs_of(pattern, s.length);
  const double hashing = heads * width * hash_columns_of(pattern, s.length);
  const double array = 4 * heads * static_cast<double>(s.length * s.head_width);
  return {hashing + product * (backward ? 6 : 2), backward && streamed ? product : 0,
          array * (backward ? 3 + 6 : 3)};
}

/// Chunks within buckets.
LshPattern bucket_chunks(const Sizes& s, Index rounds, const std::vector<Index>& num_buckets) {
  return {.chunk_length = s.chunk,
          .num_hashes = rounds,
          .num_buckets = num_buckets,
          .chunking = Chunking::bucket_chunks};
}

/// One head of one sequence of `[B, T, H, K]`.
template <typename Scalar>
Matrix<Scalar> head_of(const Tensor<float, 4>& x, Index b, Index h) {
  Matrix<Scalar> head(x.dimension(1), x.dimension(3));
  for (Index t = 0; t < head.rows(); ++t) {
    for (Index k = 0; k < head.cols(); ++k) head(t, k) = static_cast<Scalar>(x(b, t, h, k));
  }
  return head;
}

template <typename Scalar>
naive::Attention<Scalar> naive_of(const AttentionPattern& pattern, Index length,
                                  const Bucket* buckets) {
  return {true, shares_query_key(pattern),
          counts_of(pattern, length, buckets).template cast<Scalar>(),
          values_of(pattern) == Values::following};
}

void verify(const Run& run, const Inputs& in) {
  Workspace workspace(run.threads());
  const auto buckets = in.buckets(workspace);
  const auto output = attention(workspace, in.query, in.query, in.value, in.options, buckets);
  const auto gradients = attention_backward(workspace, in.query, in.query, in.value, in.options,
                                            output, in.dout, buckets);
  const Index B = in.query.dimension(0), T = in.query.dimension(1), H = in.query.dimension(2);
  for (const auto& [b, h] : {std::pair<Index, Index>{0, 0}, {B - 1, H - 1}}) {
    const auto reference = naive_of<double>(in.options.pattern, T,
                                            buckets.size() > 0 ? &buckets(b, h, 0, 0) : nullptr);
    const auto expected =
        reference.backward(head_of<double>(in.query, b, h), head_of<double>(in.query, b, h),
                           head_of<double>(in.value, b, h), head_of<double>(in.dout, b, h));
    const auto check = [&, b = b, h = h](const char* what, const Tensor<float, 4>& x,
                                         const Matrix<double>& y) {
      run.verify(what, span_of(head_of<float>(x, b, h)), y);
    };
    check("out", output.out, expected.out);
    check("dquery", gradients.dquery, expected.dquery);
    if (gradients.dkey.size() > 0) check("dkey", gradients.dkey, expected.dkey);
    check("dvalue", gradients.dvalue, expected.dvalue);
  }
}

void attention_step(Run& run, const Sizes& s, const AttentionPattern& pattern, bool backward) {
  if (run.must_verify() && s.precision != Precision::bfloat16) {  // it is no closer than 1 %
    Sizes small = s;
    small.length = std::min<Index>(s.length, 700);
    small.batch = std::min<Index>(s.batch, 2);
    verify(run, Inputs(small, pattern));
  }
  const Inputs in(s, pattern);
  Workspace workspace(run.threads());
  run.measure(work(s, pattern, backward, true), &workspace, [&] {
    const auto buckets = in.buckets(workspace);
    const auto output = attention(workspace, in.query, in.query, in.value, in.options, buckets);
    benchmark::DoNotOptimize(output.out.data());
    if (!backward) return;
    const auto gradients = attention_backward(workspace, in.query, in.query, in.value, in.options,
                                              output, in.dout, buckets);
    benchmark::DoNotOptimize(gradients.dquery.data());
  });
}

/// Exact attention with its T x T arrays.
void naive_attention(Run& run, const Sizes& s, bool backward) {
  const Inputs in(s, ExactPattern{});
  const auto head = naive_of<float>(in.options.pattern, s.length, nullptr);
  const auto query = head_of<float>(in.query, 0, 0), value = head_of<float>(in.value, 0, 0),
             dout = head_of<float>(in.dout, 0, 0);
  run.measure(work(s, in.options.pattern, backward, false), nullptr, [&] {
    for (Index h = 0; h < s.heads * s.batch; ++h) {
      const Matrix<float> out = backward ? head.backward(query, query, value, dout).dvalue
                                         : Matrix<float>(head.weights(query, query) * value);
      benchmark::DoNotOptimize(out.data());
    }
  });
}

const Registration registration([] {
  const auto add_case = [](Selection from, const Sizes& s, const std::string& variant,
                           const AttentionPattern& pattern, Index rounds, int threads,
                           const std::string& operation = "attention") {
    for (const bool backward : {false, true}) {
      Case which{operation, variant, backward ? forward_backward : forward,
                 sizes_of(s.batch, s.length, rounds), threads};
      which.sizes.emplace_back("heads", s.heads);
      const auto* lsh = std::get_if<LshPattern>(&pattern);
      if (lsh != nullptr && lsh->chunking == Chunking::bucket_chunks) {
        which.sizes.emplace_back("buckets", num_buckets(bucket_factors(*lsh, s.length)));
      }
      // Those that take long are given fewer runs.
      const double flop = work(s, pattern, backward, true).flop;
      if (flop > 1e11) which.seconds = flop / 2e11;
      if (variant == "naive") {
        add(from, which, [=](Run& run) { naive_attention(run, s, backward); });
      } else {
        add(from, which, [=](Run& run) { attention_step(run, s, pattern, backward); });
      }
    }
  };
  const auto all_kinds = [&](Selection from, const Sizes& s, Index rounds, bool exact, bool naive,
                             int threads) {
    add_case(from, s, "lsh", LshPattern{.chunk_length = s.chunk, .num_hashes = rounds}, rounds,
             threads);
    // Buckets of two chunks on average.
    add_case(from, s, "bucket",
             bucket_chunks(s, rounds, automatic_num_buckets(s.length / 4, s.chunk)), rounds,
             threads);
    add_case(from, s, "local", LocalPattern{.chunk_length = s.chunk}, 0, threads);
    if (exact) add_case(from, s, "exact", ExactPattern{}, 0, threads);
    if (naive) add_case(from, s, "naive", ExactPattern{}, 0, threads);
  };
  const int all = default_threads();
  all_kinds(Selection::check, {2, 200, 2, 16, 16}, 2, true, true, all);
  for (const int threads : one_and_all_threads()) {
    all_kinds(Selection::quick, {1, 4096, 8, 64, 64}, 4, true, false, threads);
  }
  all_kinds(Selection::quick, {1, 1024, 8, 64, 64}, 4, true, true, all);
  all_kinds(Selection::quick, {1, 16384, 8, 64, 64}, 4, true, false, all);
  all_kinds(Selection::quick, {1, 65536, 8, 64, 64}, 4, false, false, all);
  all_kinds(Selection::all, {1, 65536, 8, 64, 64}, 4, true, false, all);
  all_kinds(Selection::all, {1, 262144, 8, 64, 64}, 4, false, false, all);

  // In each precision of products, one after another.
  const auto in_precisions = [&](Selection from, Sizes s, const std::string& kind,
                                 const AttentionPattern& pattern, Index rounds) {
    for (const Precision precision : precisions) {
      s.precision = precision;
      add_case(from, s, kind + "_" + name_of(precision), pattern, rounds, all,
               "precision_of_attention");
    }
  };
  const auto lsh = [](Index chunk, Index rounds) {
    return LshPattern{.chunk_length = chunk, .num_hashes = rounds};
  };
  in_precisions(Selection::check, {2, 200, 2, 16, 16}, "lsh", lsh(16, 2), 2);
  in_precisions(Selection::quick, {1, 16384, 8, 64, 64}, "lsh", lsh(64, 4), 4);
  in_precisions(Selection::all, {1, 65536, 8, 64, 64}, "lsh", lsh(64, 4), 4);
  in_precisions(Selection::quick, {1, 4096, 8, 64, 64}, "exact", ExactPattern{}, 0);
  in_precisions(Selection::all, {1, 16384, 8, 64, 64}, "exact", ExactPattern{}, 0);

  // Buckets of 512 to 8 tokens on average.
  for (const auto& buckets : std::vector<std::vector<Index>>{{8}, {16}, {64}, {8, 16}, {16, 32}}) {
    const Sizes s{1, 4096, 8, 64, 64};
    add_case(Selection::quick, s, "bucket", bucket_chunks(s, 4, buckets), 4, all);
  }

  // The same number of tokens at every length (the paper's figure 5).
  const auto fixed_tokens = [&](Selection from, Index tokens) {
    for (Index length = 1024; length <= tokens; length *= 2) {
      const Sizes s{tokens / length, length, 8, 64, 64};
      for (const Index rounds : {1, 2, 4, 8}) {
        add_case(from, s, "lsh", LshPattern{.chunk_length = 64, .num_hashes = rounds}, rounds, all);
      }
      add_case(from, s, "exact", ExactPattern{}, 0, all);
    }
  };
  fixed_tokens(Selection::quick, 16384);
  fixed_tokens(Selection::all, 65536);
});

}  // namespace
}  // namespace reformer::bench
