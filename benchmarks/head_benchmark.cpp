// SPDX-License-Identifier: MIT
// The head: layer norm over both halves, logits, cross-entropy, in chunks of positions.
#include "naive.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

struct Sizes {
  Index rows, width, vocabulary;
};

struct Inputs {
  OutputHead<float> head;
  Matrix<float> x;  // [x_1, x_2]
  Halves<FloatingHalf<float>> halves;
  std::vector<std::int32_t> labels;

  explicit Inputs(const Sizes& s)
      : head(s.width, s.vocabulary, naive::epsilon, 0),
        x(random_matrix(s.rows, 2 * s.width, 1)),
        halves{half_of(x.leftCols(s.width)), half_of(x.rightCols(s.width))} {
    randomize(head);
    for (Index i = 0; i < s.rows; ++i) {
      labels.push_back(static_cast<std::int32_t>(i * i % s.vocabulary));
    }
  }

  template <typename Scalar>
  naive::Head<Scalar> reference() {
    const auto get = [&](const char* name) -> Matrix<Scalar> {
      return parameter(head, name).value.template cast<Scalar>();
    };
    return {get("layer_norm.weight"), get("layer_norm.bias"), get("head.weight"), get("head.bias")};
  }
};

/// Three products of 2 * 2 D V FLOP a row, one of them forward.
Work work(const Sizes& s, bool backward) {
  const double product = 4.0 * static_cast<double>(s.rows * s.width * s.vocabulary);
  const auto x = 8.0 * static_cast<double>(s.rows * s.width),
             weight = 8.0 * static_cast<double>(s.width * s.vocabulary);
  return {product * (backward ? 3 : 1), 0, (backward ? 2 : 1) * x + (backward ? 3 : 1) * weight};
}

void head(Run& run, const Sizes& s, bool backward) {
  Inputs in(s);
  Workspace workspace(run.threads());
  const Pass pass{workspace, 1, s.rows};
  Matrix<float> dx1(s.rows, s.width), dx2(s.rows, s.width);
  const HalfGradients<float> dx{rows_of(dx1), rows_of(dx2)};
  Loss loss;
  const auto operation = [&] {
    loss = backward ? in.head.loss_and_gradients(in.halves, in.labels,
                                                 1.0F / static_cast<float>(s.rows), dx, pass)
                    : in.head.loss(in.halves, in.labels, pass);
  };
  if (run.must_verify()) {
    operation();
    const auto expected = in.reference<double>().backward(in.x.cast<double>(), in.labels);
    run.verify(std::abs(loss.mean() - expected.loss) < 1e-4 * expected.loss,
               detail::join("loss is ", loss.mean(), ", must be ", expected.loss));
    if (backward) {
      run.verify("dx_1", span_of(dx1), expected.dx.leftCols(s.width));
      run.verify("dx_2", span_of(dx2), expected.dx.rightCols(s.width));
      run.verify("dW", span_of(parameter(in.head, "head.weight").gradient), expected.dweight);
      run.verify("db", span_of(parameter(in.head, "head.bias").gradient), expected.dbias_out);
    }
  }
  run.measure(work(s, backward), &workspace, operation);
}

void naive_head(Run& run, const Sizes& s, bool backward) {
  Inputs in(s);
  const auto reference = in.reference<float>();
  run.measure(work(s, backward), nullptr, [&] {
    benchmark::DoNotOptimize(backward ? reference.backward(in.x, in.labels).loss
                                      : reference.loss(in.x, in.labels));
  });
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s) {
    for (const bool backward : {false, true}) {
      Case which{"head",
                 "reformer",
                 backward ? forward_backward : forward,
                 {{"rows", s.rows}, {"width", s.width}, {"vocabulary", s.vocabulary}}};
      for (const int threads : one_and_all_threads()) {
        which.threads = threads;
        add(from, which, [=](Run& run) { head(run, s, backward); });
      }
      which.variant = "naive";
      add(from, which, [=](Run& run) { naive_head(run, s, backward); });
    }
  };
  cases(Selection::check, {200, 40, 300});
  cases(Selection::check, {200, 8, 4000});  // panels of 128
  cases(Selection::quick, {4096, 512, 256});
  cases(Selection::quick, {1024, 512, 32000});
  cases(Selection::all, {1024, 512, 50257});
});

}  // namespace
}  // namespace reformer::bench
