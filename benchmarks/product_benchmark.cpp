// SPDX-License-Identifier: MIT
// Products with a weight, as the branches do them: x W; and with dy W^T and dW += x^T dy. Products
// of a matrix with itself, x^T x, as Muon does them.
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

void symmetric(Run& run, Index rows, Index n, Precision precision) {
  const auto x = random_matrix(rows, n, 1);
  Matrix<float> c(n, n);
  Workspace workspace(run.threads());
  const auto operation = [&] {
    symmetric_product<Kernel>(workspace, precision, rows_of(x), rows_of(c), [](const auto&...) {});
  };
  if (run.must_verify()) {
    operation();
    const Matrix<double> xd = operand(x, precision);
    run.verify("C", span_of(c), naive::product(Matrix<double>(xd.transpose()), xd));
  }
  // A multiply-add for each row and place on or above the diagonal.
  run.measure({static_cast<double>(rows * n) * static_cast<double>(n + 1), 0,
               4.0 * static_cast<double>(rows * n + n * n)},
              &workspace, operation);
}

/// `body(run, precision)` by one thread and by all.
template <typename Body>
void add_in_each_precision(Selection from, Case which, const Body& body) {
  for (const int threads : one_and_all_threads()) {
    which.threads = threads;
    for (const Precision precision : precisions) {
      which.variant = precision == Precision::float32 ? "reformer" : name_of(precision);
      add(from, which, [=](Run& run) { body(run, precision); });
    }
  }
}

const Registration registration([] {
  const auto cases = [](Selection from, const Sizes& s) {
    for (const bool backward : {false, true}) {
      Case which{"product",
                 "",
                 backward ? forward_backward : forward,
                 {{"rows", s.rows}, {"in", s.in}, {"out", s.out}}};
      add_in_each_precision(from, which, [=](Run& run, Precision precision) {
        product(run, s, backward, precision);
      });
      which.threads = one_and_all_threads().back();
      which.variant = "naive";
      add(from, which, [=](Run& run) { naive_product(run, s, backward); });
    }
  };
  const auto symmetric_cases = [](Selection from, Index rows, Index n) {
    add_in_each_precision(
        from, {"symmetric_product", "", forward, {{"rows", rows}, {"columns", n}}},
        [=](Run& run, Precision precision) { symmetric(run, rows, n, precision); });
  };
  symmetric_cases(Selection::check, 600, 130);
  symmetric_cases(Selection::quick, 768, 192);
  symmetric_cases(Selection::all, 4096, 1024);
  cases(Selection::check, {600, 64, 256});
  cases(Selection::quick, {512, 512, 512});
  cases(Selection::quick, {4096, 512, 2048});
  cases(Selection::all, {64, 512, 64});
  cases(Selection::all, {2048, 2048, 2048});
  cases(Selection::all, {16384, 1024, 4096});  // of a head, some columns of its vocabulary
});

}  // namespace
}  // namespace reformer::bench
