// SPDX-License-Identifier: MIT
// The self-attention branch, projections included: forward, and forward + reverse.
#include "patterns.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index length, width, heads, head_width, chunk;
};

struct Inputs {
  SelfAttention<float> branch;
  Matrix<float> x, dy;

  Inputs(const Sizes& s, const AttentionPattern& pattern)
      : branch("attention", {.width = s.width,
                             .num_heads = s.heads,
                             .head_width = s.head_width,
                             .pattern = pattern}),
        x(random_matrix(s.length, s.width, 1)),
        dy(random_matrix(s.length, s.width, 2)) {
    randomize(branch);
  }
};

Work work(const Sizes& s, const AttentionPattern& pattern, bool backward, bool reversible) {
  const auto inner = static_cast<double>(s.heads * s.head_width);
  const double projections = shares_query_key(pattern) ? 3 : 4;
  const auto rows = static_cast<double>(s.length), width = static_cast<double>(s.width);
  const double dense = 2 * projections * rows * width * inner;
  const double product = 2 * inner * pairs_of(pattern, s.length);
  const double hashing = 2 * inner * hash_columns_of(pattern, s.length);
  const double once = dense + 2 * product;
  const double array = 4 * rows * width, weights = 4 * projections * width * inner;
  return {once + hashing + (backward ? 2 * once : 0), backward && reversible ? once : 0,
          array * (backward ? 3 + 6 : 3) + weights * (backward ? 4 : 1)};
}

template <typename Scalar>
naive::SelfAttention<Scalar> naive_of(const Sizes& s, SelfAttention<float>& branch,
                                      const std::vector<Bucket>& buckets) {
  const AttentionPattern& pattern = branch.kinds()[0].pattern;  // that of all heads
  const bool shared = shares_query_key(pattern);
  const auto get = [&](const char* name) -> Matrix<Scalar> {
    return parameter(branch, name).value.template cast<Scalar>();
  };
  naive::SelfAttention<Scalar> result;
  result.heads = s.heads;
  const auto per_head = static_cast<Index>(buckets.size()) / s.heads;
  for (Index h = 0; h < s.heads; ++h) {
    result.attention.push_back(
        {true, shared,
         counts_of(pattern, s.length, buckets.data() + h * per_head).template cast<Scalar>(),
         carries_next(pattern)});
    if (values_of(pattern) == Values::mixed) {
      const Matrix<Scalar> mixture = get("value_mixture");
      result.attention.back().of_own = mixture(0, h);
      result.attention.back().of_next = mixture(1, h);
    }
  }
  result.scale = get("layer_norm.weight");
  result.bias = get("layer_norm.bias");
  result.query = get(shared ? "query_key.weight" : "query.weight");
  if (!shared) result.key = get(".key.weight");
  result.value = get("value.weight");
  result.output = get("output.weight");
  if (scores_of(pattern) == Scores::cosine) result.temperature = get("temperature");
  return result;
}

void verify(const Run& run, const Sizes& s, const AttentionPattern& pattern) {
  Inputs in(s, pattern);
  Workspace workspace(run.threads());
  const Pass pass{workspace, 1, s.length, {1}};
  const auto x = half_of(in.x);
  FloatingHalf<float> y(s.length, s.width);
  Matrix<float> dx = Matrix<float>::Zero(s.length, s.width);
  Scratch memory(workspace);
  auto saved = in.branch.saved_in(memory, {1, s.length});
  in.branch.forward(x, y, saved, pass);
  const std::vector<Bucket> buckets(saved.buckets.begin(), saved.buckets.end());
  const auto expected =
      naive_of<double>(s, in.branch, buckets).backward(in.x.cast<double>(), in.dy.cast<double>());
  run.verify("f(x)", span_of(matrix_of(y)), expected.y);
  in.branch.reverse(x, y, rows_of(std::as_const(in.dy)), rows_of(dx), saved, pass);
  run.verify(matrix_of(y).cwiseAbs().maxCoeff() < 1e-3F, "reverse does not undo forward");
  run.verify("dx", span_of(dx), expected.dx);
  const auto gradient = [&](const char* name, const Matrix<double>& value) {
    run.verify(name, span_of(parameter(in.branch, name).gradient), value);
  };
  gradient(shares_query_key(pattern) ? "query_key.weight" : "query.weight", expected.dquery);
  if (!shares_query_key(pattern)) gradient(".key.weight", expected.dkey);
  gradient("value.weight", expected.dvalue);
  gradient("output.weight", expected.doutput);
  if (scores_of(pattern) == Scores::cosine) gradient("temperature", expected.dtemperature);
}

void self_attention(Run& run, const Sizes& s, const AttentionPattern& pattern, bool backward) {
  if (run.must_verify()) {
    Sizes small = s;
    small.length = std::min<Index>(s.length, 500);
    verify(run, small, pattern);
  }
  Inputs in(s, pattern);
  Workspace workspace(run.threads());
  const Pass pass{workspace, 1, s.length, {1}};
  const auto x = half_of(in.x);
  FloatingHalf<float> y(s.length, s.width);
  Matrix<float> dx = Matrix<float>::Zero(s.length, s.width);
  Workspace kept(1);  // not counted as scratch
  Scratch memory(kept);
  auto saved = in.branch.saved_in(memory, {1, s.length});
  run.measure(work(s, pattern, backward, true), &workspace, [&] {
    in.branch.forward(x, y, saved, pass);
    if (backward) in.branch.reverse(x, y, rows_of(std::as_const(in.dy)), rows_of(dx), saved, pass);
  });
}

/// The branch with exact attention and T x T arrays.
void naive_self_attention(Run& run, const Sizes& s, bool backward) {
  Inputs in(s, ExactPattern{});
  const auto branch = naive_of<float>(s, in.branch, {});
  run.measure(work(s, ExactPattern{}, backward, false), nullptr, [&] {
    const Matrix<float> y = backward ? branch.backward(in.x, in.dy).y : branch(in.x);
    benchmark::DoNotOptimize(y.data());
  });
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s, Index rounds, bool exact, bool naive) {
    const auto kind = [&](const std::string& variant, const AttentionPattern& pattern, Index r,
                          int threads) {
      for (const bool backward : {false, true}) {
        Case which{"self_attention", variant, backward ? forward_backward : forward,
                   sizes_of(1, s.length, r), threads};
        which.sizes.emplace_back("width", s.width);
        const double flop = work(s, pattern, backward, true).flop;
        if (flop > 1e11) which.seconds = flop / 2e11;
        if (variant == "naive") {
          add(from, which, [=](Run& run) { naive_self_attention(run, s, backward); });
        } else {
          add(from, which, [=](Run& run) { self_attention(run, s, pattern, backward); });
        }
      }
    };
    const LshPattern lsh{.chunk_length = s.chunk, .num_hashes = rounds};
    LshPattern following = lsh, mixed = lsh, cosine = lsh;
    following.values = Values::following;
    mixed.values = Values::mixed;
    cosine.scores = Scores::cosine;
    if (s.length <= 4096) {
      for (const int threads : one_and_all_threads()) kind("lsh", lsh, rounds, threads);
    } else {
      kind("lsh", lsh, rounds, default_threads());
    }
    if (s.length <= 4096) {
      kind("following", following, rounds, default_threads());
      kind("mixed", mixed, rounds, default_threads());
      kind("cosine", cosine, rounds, default_threads());
    }
    if (exact) {
      kind("local", LocalPattern{.chunk_length = s.chunk}, 0, default_threads());
      kind("local cosine", LocalPattern{.chunk_length = s.chunk, .scores = Scores::cosine}, 0,
           default_threads());
      kind("exact", ExactPattern{}, 0, default_threads());
    }
    if (naive) kind("naive", ExactPattern{}, 0, default_threads());
  };
  cases(Selection::check, {200, 48, 3, 16, 16}, 2, true, true);
  cases(Selection::quick, {1024, 512, 8, 64, 64}, 4, true, true);
  cases(Selection::quick, {4096, 512, 8, 64, 64}, 4, true, false);
  cases(Selection::quick, {16384, 512, 8, 64, 64}, 4, false, false);
  cases(Selection::quick, {65536, 512, 8, 64, 64}, 4, false, false);
  cases(Selection::all, {16384, 512, 8, 64, 64}, 4, true, false);
  cases(Selection::all, {262144, 512, 8, 64, 64}, 4, false, false);
  cases(Selection::all, {1048576, 512, 8, 64, 64}, 4, false, false);
});

}  // namespace
}  // namespace reformer::bench
