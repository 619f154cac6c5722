// SPDX-License-Identifier: MIT
// Token embedding plus axial positions, as the model adds them, and their gradients.
#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index rows, width, vocabulary;
};

struct Inputs {
  Embedding<float> embedding;
  Positions<float> positions;
  Tokens tokens;
  Matrix<float> dx;

  explicit Inputs(const Sizes& s)
      : embedding("embedding", s.vocabulary, s.width),
        positions("positions", shape(s), s.width),
        tokens(1, s.rows),
        dx(random_matrix(s.rows, s.width, 1)) {
    randomize(embedding);
    randomize(positions);
    const auto stream = random_stream(2);
    for (Index t = 0; t < s.rows; ++t) {
      tokens(0, t) = static_cast<std::int32_t>(stream.uniform(static_cast<std::uint64_t>(t)) *
                                               static_cast<double>(s.vocabulary));
    }
  }

  static constexpr Index columns = 64;
  static AxialPositions shape(const Sizes& s) {
    return {{ceil_div(s.rows, columns), columns}, {s.width / 4, s.width - s.width / 4}};
  }
};

void embedding(Run& run, const Sizes& s, bool backward, bool naive) {
  Inputs in(s);
  Workspace workspace(run.threads());
  const Pass pass{workspace, 1, s.rows};
  Matrix<float> x(s.rows, s.width);
  const auto forward_rows = [&](Index row, Index count) {
    for (Index t = row; t < row + count; ++t) {
      std::copy_n(in.embedding.row(in.tokens(0, t)), s.width, &x(t, 0));
      in.positions.add_row(t, &x(t, 0));
    }
  };
  const auto by_library = [&] {
    for_each_row_tile(workspace.threads(), s.rows,
                      [&](Index row, Index count, int) { forward_rows(row, count); });
    if (!backward) return;
    in.embedding.backward(in.tokens, rows_of(std::as_const(in.dx)), pass);
    in.positions.backward(rows_of(std::as_const(in.dx)), pass);
  };

  const Matrix<float> table = parameter(in.embedding, "embedding.weight").value;
  const Matrix<float> first = parameter(in.positions, "weights.0").value;
  const Matrix<float> second = parameter(in.positions, "weights.1").value;
  Matrix<double> dtable = Matrix<double>::Zero(table.rows(), table.cols());
  Matrix<double> dfirst = Matrix<double>::Zero(first.rows(), first.cols());
  Matrix<double> dsecond = Matrix<double>::Zero(second.rows(), second.cols());
  const auto by_formula = [&] {
    for (Index t = 0; t < s.rows; ++t) {
      const Index i = t / Inputs::columns, j = t % Inputs::columns;
      x.row(t) = table.row(in.tokens(0, t));
      x.row(t).leftCols(first.cols()) += first.row(i);
      x.row(t).rightCols(second.cols()) += second.row(j);
      if (!backward) continue;
      dtable.row(in.tokens(0, t)) += in.dx.row(t).cast<double>();
      dfirst.row(i) += in.dx.row(t).leftCols(first.cols()).cast<double>();
      dsecond.row(j) += in.dx.row(t).rightCols(second.cols()).cast<double>();
    }
  };
  if (run.must_verify()) {
    by_formula();
    const Matrix<double> expected = x.cast<double>();
    by_library();
    run.verify("x", span_of(x), expected);
    if (backward) {
      run.verify("dtable", span_of(parameter(in.embedding, "embedding.weight").gradient), dtable);
      run.verify("dpositions 0", span_of(parameter(in.positions, "weights.0").gradient), dfirst);
      run.verify("dpositions 1", span_of(parameter(in.positions, "weights.1").gradient), dsecond);
    }
  }
  // x is written; dx read once for the tokens and once for the positions.
  const double array = 4.0 * static_cast<double>(s.rows * s.width);
  const Work work{array / 4 * (backward ? 3 : 1), 0, array * (backward ? 3 : 1)};
  if (naive) {
    run.measure(work, nullptr, by_formula);
  } else {
    run.measure(work, &workspace, by_library);
  }
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s) {
    for (const bool backward : {false, true}) {
      Case which{"embedding",
                 "reformer",
                 backward ? forward_backward : forward,
                 {{"rows", s.rows}, {"width", s.width}, {"vocabulary", s.vocabulary}}};
      for (const int threads : one_and_all_threads()) {
        which.threads = threads;
        add(from, which, [=](Run& run) { embedding(run, s, backward, false); });
      }
      which.variant = "naive";
      which.threads = 1;
      add(from, which, [=](Run& run) { embedding(run, s, backward, true); });
    }
  };
  cases(Selection::check, {200, 40, 11});
  cases(Selection::quick, {16384, 512, 256});
  cases(Selection::all, {16384, 512, 32000});
});

}  // namespace
}  // namespace reformer::bench
