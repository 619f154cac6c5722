// SPDX-License-Identifier: MIT
// One step of an optimiser over all parameters of a model, and the norm of all gradients.
#include <cmath>

#include "support.hpp"

namespace reformer::bench {
namespace {

/// Matrices of a model's shape: each layer has one `[D, 4 D]` and its bias.
struct Parameters {
  using Scalar = float;
  std::vector<Parameter<float>> list;

  Parameters(Index layers, Index width) {
    for (Index i = 0; i < layers; ++i) {
      list.emplace_back("dense.weight", Role::weight, width, 4 * width);
      list.emplace_back("dense.bias", Role::bias, 1, 4 * width);
    }
    std::uint32_t number = 0;
    for (auto& p : list) {
      p.allocate_gradient();
      fill_normal(p.value.data(), p.size(), 0.02, random_stream(++number));
      fill_normal(p.gradient.data(), p.size(), 0.01, random_stream(++number));
    }
  }

  template <typename F>
  void for_each_parameter(F&& f) {
    for (auto& p : list) f(p);
  }
};

constexpr double rate = 1e-3;

/// The first step of Adam on one parameter.
Matrix<double> naive_adam(const Parameter<float>& p) {
  const AdamConfig config;
  Matrix<double> x = p.value.cast<double>();
  for (Index i = 0; i < x.size(); ++i) {
    const auto g = static_cast<double>(p.gradient.data()[i]);
    const double m = (1 - config.beta1) * g, v = (1 - config.beta2) * g * g;
    x.data()[i] -=
        rate * (m / (1 - config.beta1)) / (std::sqrt(v / (1 - config.beta2)) + config.epsilon);
  }
  return x;
}

/// The first step of Adafactor on one parameter: beta_1 = 0.
Matrix<double> naive_adafactor(const Parameter<float>& p) {
  const AdafactorConfig config;
  const Matrix<double> x = p.value.cast<double>(), g = p.gradient.cast<double>();
  const Matrix<double> u = g.array().square() + config.epsilon1;
  Matrix<double> v = u;
  if (x.rows() > 1) {
    const Matrix<double> r = u.rowwise().mean(), c = u.colwise().mean();
    v = r * c / r.mean();
  }
  Matrix<double> d = g.array() / v.array().sqrt();
  const auto rms = [](const Matrix<double>& y) { return std::sqrt(y.array().square().mean()); };
  d /= std::max(1.0, rms(d) / config.clip);
  return x - rate * std::max(config.epsilon2, rms(x)) * d;
}

/// The first step of Muon on one parameter, or of its Adam.
Matrix<double> naive_muon(const Parameter<float>& p) {
  if (p.role != Role::weight) return naive_adam(p);
  const MuonConfig config;
  const Matrix<double> g = p.gradient.cast<double>();
  Matrix<double> x = g + config.momentum * g;
  if (x.rows() > x.cols()) x = x.transpose().eval();
  x /= x.norm();
  for (int i = 0; i < 5; ++i) {
    const Matrix<double> a = x * x.transpose();
    x = (3.4445 * x - 4.7750 * a * x + 2.0315 * a * a * x).eval();
  }
  if (p.value.rows() > p.value.cols()) x = x.transpose().eval();
  const auto size = static_cast<double>(std::max(p.value.rows(), p.value.cols()));
  return p.value.cast<double>() - rate * 0.2 * std::sqrt(size) * x;
}

/// @param streams  passes over an array of all parameters
Work work(Parameters& parameters, double flop, double streams) {
  const double count = count_parameters(parameters);
  return {flop * count, 0, 4 * streams * count};
}

template <typename Optimizer>
void optimizer(Run& run, Index layers, Index width, double flop, double streams,
               Matrix<double> (*naive)(const Parameter<float>&)) {
  Parameters parameters(layers, width);
  Workspace workspace(run.threads());
  Optimizer optimizer;
  if (run.must_verify()) {
    std::vector<Matrix<double>> expected;
    for (const auto& p : parameters.list) expected.push_back(naive(p));
    const Parameters before = parameters;
    optimizer.step(workspace, parameters, rate);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // The step itself is compared, not the sum in which it is small.
      const Matrix<float> step = parameters.list[i].value - before.list[i].value;
      Matrix<double> exact = expected[i] - before.list[i].value.cast<double>();
      const double largest = exact.cwiseAbs().maxCoeff();
      for (Index j = 0; j < step.size(); ++j) {
        run.verify(std::abs(static_cast<double>(step.data()[j]) - exact.data()[j]) < 1e-3 * largest,
                   detail::join("step of ", parameters.list[i].name, "[", j, "] is ",
                                step.data()[j], ", must be ", exact.data()[j]));
      }
    }
  }
  run.measure(work(parameters, flop, streams), &workspace,
              [&] { optimizer.step(workspace, parameters, rate); });
}

void naive_optimizer(Run& run, Index layers, Index width, double flop, double streams,
                     Matrix<double> (*naive)(const Parameter<float>&)) {
  Parameters parameters(layers, width);
  run.measure(work(parameters, flop, streams), nullptr, [&] {
    for (auto& p : parameters.list) p.value = naive(p).cast<float>();
  });
}

void norm(Run& run, Index layers, Index width, bool naive) {
  Parameters parameters(layers, width);
  Workspace workspace(run.threads());
  double result = 0;
  const auto by_library = [&] { result = global_gradient_norm(workspace, parameters); };
  const auto by_formula = [&] {
    double sum = 0;
    for (const auto& p : parameters.list) sum += p.gradient.cast<double>().squaredNorm();
    result = std::sqrt(sum);
  };
  if (run.must_verify()) {
    by_formula();
    const double expected = result;
    by_library();
    run.verify(std::abs(result - expected) < 1e-5 * expected,
               detail::join("norm is ", result, ", must be ", expected));
  }
  if (naive) {
    run.measure(work(parameters, 2, 1), nullptr, by_formula);
  } else {
    run.measure(work(parameters, 2, 1), &workspace, by_library);
  }
}

const Registration registration([] {
  const auto cases = [](Selection from, Index layers, Index width) {
    // Adam reads value, gradient and both moments and writes all but the gradient. Adafactor reads
    // the gradient for the moments, for the clipping and for the step, and the value twice.
    constexpr double adam_streams = 7, adafactor_streams = 6, adam_flop = 12, adafactor_flop = 9;
    Case which{"optimizer", "", "step", {{"layers", layers}, {"width", width}}};
    for (const int threads : one_and_all_threads()) {
      which.threads = threads;
      which.variant = "adam";
      add(from, which, [=](Run& run) {
        optimizer<Adam<float>>(run, layers, width, adam_flop, adam_streams, naive_adam);
      });
      which.variant = "adafactor";
      add(from, which, [=](Run& run) {
        optimizer<Adafactor<float>>(run, layers, width, adafactor_flop, adafactor_streams,
                                    naive_adafactor);
      });
      // For each element, in each of five rounds: half of the symmetric products of [D, 4 D] and of
      // [D, D] with themselves, and one of [D, 4 D] by [D, D].
      const double muon_flop = 5 * (1 + 0.25 + 2) * static_cast<double>(width);
      which.variant = "muon";
      add(from, which, [=](Run& run) {
        optimizer<Muon<float>>(run, layers, width, muon_flop, adam_streams, naive_muon);
      });
      which.variant = "gradient_norm";
      add(from, which, [=](Run& run) { norm(run, layers, width, false); });
    }
    which.threads = 1;
    which.variant = "naive adam";
    add(from, which, [=](Run& run) {
      naive_optimizer(run, layers, width, adam_flop, adam_streams, naive_adam);
    });
    which.variant = "naive adafactor";
    add(from, which, [=](Run& run) {
      naive_optimizer(run, layers, width, adafactor_flop, adafactor_streams, naive_adafactor);
    });
    which.variant = "naive gradient_norm";
    add(from, which, [=](Run& run) { norm(run, layers, width, true); });
  };
  cases(Selection::check, 2, 50);
  cases(Selection::quick, 12, 512);
});

}  // namespace
}  // namespace reformer::bench
