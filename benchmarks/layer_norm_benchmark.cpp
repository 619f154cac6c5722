// SPDX-License-Identifier: MIT
// Layer normalisation of the rows of a residual half.
#include "naive.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index rows, width;
};

struct Inputs {
  LayerNorm<float> norm;
  Matrix<float> x, dy;

  explicit Inputs(const Sizes& sizes)
      : norm("layer_norm", sizes.width, naive::epsilon),
        x(random_matrix(sizes.rows, sizes.width, 1)),
        dy(random_matrix(sizes.rows, sizes.width, 2)) {
    randomize(norm);
  }
};

/// Forward 8 FLOP an element: mean 1, variance 3, result 4. Backward 19, and mean and variance
/// again.
Work work(const Sizes& s, bool backward) {
  const auto elements = static_cast<double>(s.rows * s.width);
  // x read, y written; then x and dy read, dx read and written.
  return {elements * (backward ? 27 : 8), backward ? elements * 4 : 0,
          elements * 4 * (backward ? 6 : 2)};
}

void layer_norm(Run& run, const Sizes& s, bool backward) {
  Inputs in(s);
  const auto x = half_of(in.x);
  Workspace workspace(run.threads());
  const Pass pass{workspace, 1, s.rows};
  Matrix<float> y(s.rows, s.width), dx = Matrix<float>::Zero(s.rows, s.width), dy = in.dy;
  const auto operation = [&] {
    for_each_row_tile(workspace.threads(), s.rows, [&](Index row, Index count, int) {
      in.norm.forward(x, row, rows_of(y).middle_rows(row, count), pass);
    });
    if (!backward) return;
    dy = in.dy;  // is destroyed; timed, but not counted
    in.norm.backward(x, 0, rows_of(dy), rows_of(dx), pass);
  };
  if (run.must_verify()) {
    operation();
    const auto get = [&](const char* name) -> Matrix<double> {
      return parameter(in.norm, name).value.cast<double>();
    };
    const Matrix<double> xd = in.x.cast<double>();
    run.verify("y", span_of(y), naive::layer_norm(xd, get(".weight"), get(".bias")));
    if (backward) {
      const auto expected =
          naive::layer_norm_backward<double>(xd, get(".weight"), in.dy.cast<double>());
      run.verify("dx", span_of(dx), expected.dx);
      run.verify("dscale", span_of(parameter(in.norm, ".weight").gradient), expected.dscale);
      run.verify("dbias", span_of(parameter(in.norm, ".bias").gradient), expected.dbias);
    }
  }
  run.measure(work(s, backward), &workspace, operation);
}

void naive_layer_norm(Run& run, const Sizes& s, bool backward) {
  Inputs in(s);
  const Matrix<float> scale = parameter(in.norm, ".weight").value,
                      bias = parameter(in.norm, ".bias").value;
  run.measure(work(s, backward), nullptr, [&] {
    benchmark::DoNotOptimize(naive::layer_norm(in.x, scale, bias).data());
    if (!backward) return;
    benchmark::DoNotOptimize(naive::layer_norm_backward(in.x, scale, in.dy).dx.data());
  });
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s) {
    for (const bool backward : {false, true}) {
      Case which{"layer_norm",
                 "reformer",
                 backward ? forward_backward : forward,
                 {{"rows", s.rows}, {"width", s.width}}};
      for (const int threads : one_and_all_threads()) {
        which.threads = threads;
        add(from, which, [=](Run& run) { layer_norm(run, s, backward); });
      }
      which.variant = "naive";
      add(from, which, [=](Run& run) { naive_layer_norm(run, s, backward); });
    }
  };
  cases(Selection::check, {100, 60});
  cases(Selection::quick, {512, 512});
  cases(Selection::all, {65536, 512});
});

}  // namespace
}  // namespace reformer::bench
