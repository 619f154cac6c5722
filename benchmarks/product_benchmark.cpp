// SPDX-License-Identifier: MIT
// Products with a weight, as the branches do them: x W; and with dy W^T and dW += x^T dy.
#include <bit>

#include "naive.hpp"
#include "support.hpp"

namespace reformer::bench {
namespace {

using Kernel = DefaultKernel<float>;

struct Sizes {
  Index rows, in, out;
};

/// 2 FLOP for each of rows x in x out; three products with gradients.
Work work(const Sizes& s, bool backward) {
  const auto floats = [](Index count) { return 4.0 * static_cast<double>(count); };
  const double x = floats(s.rows * s.in), y = floats(s.rows * s.out), w = floats(s.in * s.out);
  return {2.0 * static_cast<double>(s.rows * s.in * s.out) * (backward ? 3 : 1), 0,
          backward ? 3 * x + 2 * y + 4 * w : x + y + w};
}

void multiply_into(Workspace& workspace, const Matrix<float>& a, const Matrix<float>& weight,
                   Orientation orientation, Precision precision, Matrix<float>& c) {
  Scratch scratch(workspace);
  const PackedWeight<Kernel> packed(scratch, workspace, rows_of(weight), orientation, precision);
  weight_product(workspace, rows_of(a), packed.whole(), rows_of(c), Write::assign,
                 [](const auto&...) {});
}

/// In double, of what is multiplied: in bfloat16 that is rounded before.
Matrix<double> operand(const Matrix<float>& x, Precision precision) {
  if (precision != Precision::bfloat16) return x.cast<double>();
  return x.unaryExpr([](float value) { return std::bit_cast<float>(detail::bfloat16_bits(value)); })
      .cast<double>();
}

void product(Run& run, const Sizes& s, bool backward, Precision precision) {
  const auto x = random_matrix(s.rows, s.in, 1), weight = random_matrix(s.in, s.out, 2);
  const auto dy = random_matrix(s.rows, s.out, 3);
  Matrix<float> y(s.rows, s.out), dx(s.rows, s.in), dweight = Matrix<float>::Zero(s.in, s.out);
  Workspace workspace(run.threads());
  const auto operation = [&] {
    multiply_into(workspace, x, weight, Orientation::natural, precision, y);
    if (!backward) return;
    multiply_into(workspace, dy, weight, Orientation::transposed, precision, dx);
    accumulate_weight_gradient<Kernel>(workspace, precision, rows_of(x), rows_of(dy),
                                       rows_of(dweight));
  };
  if (run.must_verify()) {
    operation();
    const Matrix<double> xd = operand(x, precision), wd = operand(weight, precision);
    run.verify("y", span_of(y), naive::product(xd, wd));
    if (backward) {
      const auto expected = naive::product_backward<double>(xd, wd, operand(dy, precision));
      run.verify("dx", span_of(dx), expected.dx);
      run.verify("dW", span_of(dweight), expected.dweight);
    }
  }
  run.measure(work(s, backward), &workspace, operation);
}

void naive_product(Run& run, const Sizes& s, bool backward) {
  const auto x = random_matrix(s.rows, s.in, 1), weight = random_matrix(s.in, s.out, 2);
  const auto dy = random_matrix(s.rows, s.out, 3);
  run.measure(work(s, backward), nullptr, [&] {
    benchmark::DoNotOptimize(naive::product(x, weight).data());
    if (!backward) return;
    benchmark::DoNotOptimize(naive::product_backward(x, weight, dy).dx.data());
  });
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s) {
    for (const bool backward : {false, true}) {
      Case which{"product",
                 "reformer",
                 backward ? forward_backward : forward,
                 {{"rows", s.rows}, {"in", s.in}, {"out", s.out}}};
      for (const int threads : one_and_all_threads()) {
        which.threads = threads;
        for (const Precision precision : precisions) {
          const bool is_usual = precision == Precision::float32;
          which.variant = is_usual ? "reformer" : name_of(precision);
          add(from, which, [=](Run& run) { product(run, s, backward, precision); });
        }
      }
      which.variant = "naive";
      add(from, which, [=](Run& run) { naive_product(run, s, backward); });
    }
  };
  cases(Selection::check, {600, 64, 256});
  cases(Selection::quick, {512, 512, 512});
  cases(Selection::quick, {4096, 512, 2048});
  cases(Selection::all, {64, 512, 64});
  cases(Selection::all, {2048, 2048, 2048});
  cases(Selection::all, {16384, 1024, 4096});  // of a head, some columns of its vocabulary
});

}  // namespace
}  // namespace reformer::bench
