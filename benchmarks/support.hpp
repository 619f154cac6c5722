// SPDX-License-Identifier: MIT
/// @file
/// What the benchmarks share: cases, their selection, measuring and verifying.
///
/// A file `<operation>_benchmark.cpp` adds its cases in a function that a `Registration` names. The
/// body of a case makes its inputs, verifies the operation against a plain formula, and measures
/// it. What is counted and how to read it: docs/benchmarks.md.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <functional>
#include <reformer/reformer.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace reformer::bench {

/// How much is run; each selection contains the ones before it.
enum class Selection { check, quick, all };

using Clock = std::chrono::steady_clock;

/// FLOP per second of fused multiply-adds on registers only: nothing can exceed it here. A
/// processor changes its clock under such load, by a fifth within seconds; so there are two
/// figures.
class FmaPeak {
 public:
  /// Measures at once.
  explicit FmaPeak(int threads);

  void measure();
  /// Measures unless that was done a moment ago.
  void measure_if_old();

  /// The best burst of the process so far, of this number of threads.
  double best() const { return best_; }
  /// The mean of what this object measured: beside the runs of a case.
  double beside() const { return sum_ / measures_; }

 private:
  int threads_;
  double best_ = 0, sum_ = 0, measures_ = 0;
  Clock::time_point last_;
};

/// Bytes per second of an update in place of an array far larger than caches, read and write
/// counted. Measured by the first call.
double memory_bandwidth(int threads);

/// What one run must do at least. Formulas in docs/benchmarks.md.
struct Work {
  double flop = 0;        ///< useful: every product of the mathematics once
  double recomputed = 0;  ///< FLOP done again instead of keeping a result
  double bytes = 0;       ///< floor: inputs read and outputs written once; of a step, 4 B T D
};

/// A case: `operation/variant/pass/size:value/.../threads:n` is its name.
struct Case {
  std::string operation;
  std::string variant;  ///< "reformer", or what it is held against: "naive", "exact", ...
  std::string pass;     ///< "forward", "forward+backward", ...
  std::vector<std::pair<std::string, Index>> sizes = {};
  int threads = default_threads();
  /// What a run takes, roughly, when that is long: sets the number of runs. 0: as many as fit into
  /// a fraction of a second.
  double seconds = 0;

  std::string name() const;
};

/// One call of a case's body.
class Run {
 public:
  Run(benchmark::State& state, const Case& which);

  int threads() const { return case_.threads; }

  /// Whether results are still to be verified; once for each case.
  bool must_verify() const { return must_verify_; }
  /// Throws std::runtime_error unless |actual - expected| <= 1e-4 of the largest expected magnitude
  /// for every element.
  void verify(std::string_view what, std::span<const float> actual,
              const Matrix<double>& expected) const;
  /// Throws std::runtime_error with `what` unless `condition` holds.
  void verify(bool condition, const std::string& what) const;

  /// Calls `operation` once to warm up (unless it takes minutes) and then for each run. Results are
  /// those of the median.
  void measure(const Work& work, const Workspace* workspace,
               const std::function<void()>& operation);
  /// One more number for the record.
  void count(const std::string& name, double value);
  /// The machine cannot do this case, which is no error.
  void skip(const std::string& why);

 private:
  benchmark::State& state_;
  const Case& case_;
  bool must_verify_;
};

/// Adds a case unless the selection that is run is smaller than `from`, or has it already.
void add(Selection from, const Case& which, const std::function<void(Run&)>& body);

/// `add_cases` is called when the program starts.
struct Registration {
  explicit Registration(void (*add_cases)());
};

/// Runs all cases that were registered; arguments are Google Benchmark's and --selection=NAME.
/// @return the exit code
int run_all(int argc, char** argv);

// ---- memory of the process, by the kernel's count

/// Bytes resident now, and at most since `reset_peak_resident`; 0 where the kernel does not tell.
double resident_bytes();
double peak_resident_bytes();
/// Gives freed memory back and forgets the peak.
void reset_peak_resident();
/// Bytes of memory that could be taken now.
double available_bytes();

// ---- inputs

inline RandomStream random_stream(std::uint32_t number) {
  return {{1, 0, number}, Purpose::data};
}

inline Matrix<float> random_matrix(Index rows, Index columns, std::uint32_t number,
                                   double deviation = 1) {
  Matrix<float> matrix(rows, columns);
  fill_normal(matrix.data(), matrix.size(), deviation, random_stream(number));
  return matrix;
}

inline FloatingHalf<float> half_of(const Matrix<float>& values) {
  FloatingHalf<float> half(values.rows(), values.cols());
  for (Index i = 0; i < values.rows(); ++i) half.write(i, 0, values.cols(), values.row(i).data());
  return half;
}

inline Matrix<float> matrix_of(const FloatingHalf<float>& half) {
  Matrix<float> values(half.rows(), half.columns());
  for (Index i = 0; i < half.rows(); ++i) half.read(i, 0, half.columns(), values.row(i).data());
  return values;
}

/// Random parameters (norms around 1) and zero gradients.
template <typename Layer>
void randomize(Layer& layer) {
  std::uint32_t number = 100;
  layer.for_each_parameter([&](Parameter<float>& p) {
    const double deviation = 1 / std::sqrt(static_cast<double>(std::max<Index>(p.value.rows(), 4)));
    fill_normal(p.value.data(), p.size(), deviation, random_stream(number++));
    if (p.role == Role::gain) p.value.array() += 1;
    p.allocate_gradient();
    p.gradient.setZero();
  });
}

/// Values and gradients of a layer's parameters, by name.
template <typename Layer>
const Parameter<float>& parameter(Layer& layer, std::string_view end_of_name) {
  const Parameter<float>* found = nullptr;
  layer.for_each_parameter([&](const Parameter<float>& p) {
    if (p.name.ends_with(end_of_name)) found = &p;
  });
  if (found == nullptr) throw std::logic_error("no parameter " + std::string(end_of_name));
  return *found;
}

template <typename Layer>
double count_parameters(Layer& layer) {
  double count = 0;
  layer.for_each_parameter(
      [&](const Parameter<float>& p) { count += static_cast<double>(p.size()); });
  return count;
}

inline std::span<const float> span_of(const Matrix<float>& x) {
  return {x.data(), static_cast<std::size_t>(x.size())};
}

inline constexpr const char* forward = "forward";
inline constexpr const char* forward_backward = "forward+backward";

/// One thread, and as many as OpenMP would use.
inline std::vector<int> one_and_all_threads() {
  if (default_threads() == 1) return {1};
  return {1, default_threads()};
}

}  // namespace reformer::bench
