// SPDX-License-Identifier: MIT
// Activations and dropout on an array, tile by tile of 16,384 elements.
#include <algorithm>
#include <cmath>

#include "support.hpp"
#include "support/naive.hpp"

namespace reformer::bench {
namespace {

constexpr Index block = 16384;

Matrix<double> naive_activate(Activation f, const Matrix<float>& x) {
  return test::naive::activate(f, x.cast<double>());
}

void activation(Run& run, Activation f, bool backward, Index count) {
  const auto x = random_matrix(1, count, 1);
  Matrix<float> y(1, count), slope(1, count);
  const auto operation = [&] {
    parallel_for(run.threads(), ceil_div(count, block), [&](Index task, int) {
      const Index i = task * block, n = std::min(block, count - i);
      activate(f, n, x.data() + i, y.data() + i);
      if (!backward) return;
      std::fill_n(slope.data() + i, n, 1.0F);
      activate_backward(f, n, x.data() + i, slope.data() + i);
    });
  };
  if (run.must_verify()) {
    operation();
    run.verify("f(x)", span_of(y), naive_activate(f, x));
    if (backward) {
      constexpr double h = 1e-5;
      const Matrix<double> xd = x.cast<double>();
      const Matrix<double> expected =
          (test::naive::activate(f, xd.array() + h) - test::naive::activate(f, xd.array() - h)) /
          (2 * h);
      for (Index i = 0; i < count; ++i) {  // relu has no derivative at 0
        run.verify(
            std::abs(xd(i)) < 2 * h || std::abs(static_cast<double>(slope(i)) - expected(i)) < 1e-4,
            detail::join("f'(", x(i), ") is ", slope(i), ", must be ", expected(i)));
      }
    }
  }
  run.measure({0, 0, 4.0 * static_cast<double>(count * (backward ? 3 : 2))}, nullptr, operation);
}

void naive_activation(Run& run, Activation f, Index count) {
  const auto x = random_matrix(1, count, 1);
  Matrix<float> y(1, count);
  run.measure({0, 0, 8.0 * static_cast<double>(count)}, nullptr, [&] {
    for (Index i = 0; i < count; ++i) {
      y(i) = static_cast<float>(test::naive::activation(f, static_cast<double>(x(i))));
    }
    benchmark::DoNotOptimize(y.data());
  });
}

void dropout(Run& run, Index count) {
  constexpr double probability = 0.25;
  const Dropout<float> mask(probability, {1, 2, 3}, Purpose::data);
  Matrix<float> x = Matrix<float>::Ones(1, count);
  const auto operation = [&] {
    parallel_for(run.threads(), ceil_div(count, block), [&](Index task, int) {
      const Index i = task * block;
      mask.apply(static_cast<std::uint64_t>(i), std::min(block, count - i), x.data() + i);
    });
  };
  if (run.must_verify()) {
    operation();
    double kept = 0;
    for (Index i = 0; i < count; ++i) {
      run.verify(x(i) == 0 || std::abs(x(i) * (1 - probability) - 1) < 1e-4,
                 detail::join("an element of 1 became ", x(i)));
      kept += x(i) != 0;
    }
    const double n = static_cast<double>(count), expected = n * (1 - probability);
    run.verify(std::abs(kept - expected) < 6 * std::sqrt(expected * probability),
               detail::join("kept ", kept, " of ", n, " elements, expected ", expected));
  }
  run.measure({0, 0, 8.0 * static_cast<double>(count)}, nullptr, operation);
}

const Registration registration([] {
  const auto cases = [](Selection from, Index count, bool with_naive) {
    for (const int threads : one_and_all_threads()) {
      for (const Activation f : activations) {
        Case which{"activation", std::string(name_of(f)), forward, {{"elements", count}}, threads};
        add(from, which, [=](Run& run) { activation(run, f, false, count); });
        which.pass = forward_backward;
        add(from, which, [=](Run& run) { activation(run, f, true, count); });
        if (!with_naive || threads > 1) continue;
        which.variant = "naive " + std::string(name_of(f));
        which.pass = forward;
        add(from, which, [=](Run& run) { naive_activation(run, f, count); });
      }
      add(from, {"dropout", "reformer", forward, {{"elements", count}}, threads},
          [=](Run& run) { dropout(run, count); });
    }
  };
  cases(Selection::check, 10'000, true);
  cases(Selection::quick, 1'048'576, true);
});

}  // namespace
}  // namespace reformer::bench
