// SPDX-License-Identifier: MIT
// The feed-forward branch: forward, and forward + reverse.
#include "naive.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

template <typename Scalar>
naive::FeedForward<Scalar> naive_of(FeedForward<float>& branch) {
  const auto get = [&](const char* name) -> Matrix<Scalar> {
    return parameter(branch, name).value.template cast<Scalar>();
  };
  return {get("layer_norm.weight"), get("layer_norm.bias"), get("dense.weight"),
          get("dense.bias"),        get("output.weight"),   get("output.bias")};
}

struct Sizes {
  Index rows, width, hidden;
};

/// Parameters, input and output gradient of a case.
struct Inputs {
  FeedForward<float> branch;
  Matrix<float> x, dy;

  explicit Inputs(const Sizes& sizes)
      : branch("ff", {.width = sizes.width, .hidden_width = sizes.hidden}),
        x(random_matrix(sizes.rows, sizes.width, 1)),
        dy(random_matrix(sizes.rows, sizes.width, 2)) {
    randomize(branch);
  }
};

/// A product is 2 D F FLOP a row: two forward, four backward, and two again in `reverse`.
Work work(const Sizes& s, bool backward, bool reversible) {
  const double product = 2.0 * static_cast<double>(s.rows * s.width * s.hidden);
  const auto array = static_cast<double>(s.rows * s.width * 4);
  const auto weights = static_cast<double>(2 * s.width * s.hidden * 4);
  // x is read and y read and written; backward dy and dx join them, and weight gradients.
  return {product * (backward ? 6 : 2), backward && reversible ? product * 2 : 0,
          array * (backward ? 3 + 6 : 3) + weights * (backward ? 4 : 1)};
}

/// In single and in double precision no argument of relu may be on different sides of 0: biases
/// push all of them away.
void verify(const Run& run, Inputs& in, const Pass& pass) {
  in.branch.for_each_parameter([](Parameter<float>& p) {
    for (Index j = 0; p.name.ends_with("dense.bias") && j < p.size(); ++j) {
      p.value(0, j) = j % 2 == 0 ? 12.0F : -12.0F;
    }
  });
  const auto reference = naive_of<double>(in.branch);
  const Matrix<double> x = in.x.cast<double>();
  const auto expected = reference.backward(x, in.dy.cast<double>());
  const auto half = half_of(in.x);
  FloatingHalf<float> y(in.x.rows(), in.x.cols());
  Matrix<float> dx = Matrix<float>::Zero(in.x.rows(), in.x.cols());
  FeedForward<float>::Saved saved;
  in.branch.forward(half, y, saved, pass);
  run.verify("f(x)", span_of(matrix_of(y)), reference(x));
  in.branch.reverse(half, y, rows_of(std::as_const(in.dy)), rows_of(dx), saved, pass);
  run.verify(matrix_of(y).cwiseAbs().maxCoeff() < 1e-2F, "reverse does not undo forward");
  run.verify("dx", span_of(dx), expected.dx);
  const auto gradient = [&](const char* name, const Matrix<double>& value) {
    run.verify(name, span_of(parameter(in.branch, name).gradient), value);
  };
  gradient("layer_norm.weight", expected.dscale);
  gradient("layer_norm.bias", expected.dbias);
  gradient("dense.weight", expected.dweight_in);
  gradient("dense.bias", expected.dbias_in);
  gradient("output.weight", expected.dweight_out);
  gradient("output.bias", expected.dbias_out);
}

void feed_forward(Run& run, const Sizes& sizes, bool backward) {
  Inputs in(sizes);
  Workspace workspace(run.threads());
  const Pass pass{workspace, 1, sizes.rows};
  if (run.must_verify()) {
    Inputs small({std::min<Index>(sizes.rows, 600), sizes.width, sizes.hidden});
    verify(run, small, Pass{workspace, 1, small.x.rows()});
  }
  const auto x = half_of(in.x);
  FloatingHalf<float> y(sizes.rows, sizes.width);
  Matrix<float> dx = Matrix<float>::Zero(sizes.rows, sizes.width);
  FeedForward<float>::Saved saved;
  run.measure(work(sizes, backward, true), &workspace, [&] {
    in.branch.forward(x, y, saved, pass);
    if (backward) in.branch.reverse(x, y, rows_of(std::as_const(in.dy)), rows_of(dx), saved, pass);
  });
}

void naive_feed_forward(Run& run, const Sizes& sizes, bool backward) {
  Inputs in(sizes);
  const auto branch = naive_of<float>(in.branch);
  Matrix<float> y = Matrix<float>::Zero(sizes.rows, sizes.width);
  run.measure(work(sizes, backward, false), nullptr, [&] {
    y += backward ? branch.backward(in.x, in.dy).y : branch(in.x);
    benchmark::DoNotOptimize(y.data());
  });
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s, bool with_naive) {
    for (const bool backward : {false, true}) {
      const char* pass = backward ? forward_backward : forward;
      Case which{"feed_forward",
                 "reformer",
                 pass,
                 {{"rows", s.rows}, {"width", s.width}, {"hidden", s.hidden}}};
      for (const int threads : one_and_all_threads()) {
        which.threads = threads;
        add(from, which, [=](Run& run) { feed_forward(run, s, backward); });
      }
      if (!with_naive) continue;
      which.variant = "naive";
      add(from, which, [=](Run& run) { naive_feed_forward(run, s, backward); });
    }
  };
  cases(Selection::check, {256, 64, 256}, true);
  cases(Selection::quick, {4096, 512, 2048}, true);
  cases(Selection::all, {64, 512, 2048}, true);
  cases(Selection::all, {1024, 512, 2048}, true);
  cases(Selection::all, {65536, 512, 2048}, false);
  cases(Selection::all, {4096, 1024, 4096}, true);
});

}  // namespace
}  // namespace reformer::bench
