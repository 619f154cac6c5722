// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>

namespace reformer::bench {
namespace {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// What main has decided, and how it went.
struct Program {
  Selection selection = Selection::all;
  std::vector<void (*)()> registered;
  std::set<std::string> names, verified;
  bool failed = false;
};
Program& program() {
  static Program program;  // before any `Registration`, wherever that stands
  return program;
}

/// A field of /proc/self/status or /proc/meminfo, in bytes.
double kernel_bytes(const char* file, const std::string& field) {
  std::ifstream stream(file);
  for (std::string name; stream >> name;) {
    if (double kilobytes = 0; name == field + ":" && stream >> kilobytes) return 1024 * kilobytes;
    stream.ignore(1 << 16, '\n');
  }
  return 0;
}

/// Seconds that each of some calls takes.
template <typename F>
std::vector<double> times_of(int calls, const F& f) {
  std::vector<double> times;
  for (int i = 0; i < calls; ++i) {
    const auto start = Clock::now();
    f();
    times.push_back(seconds_since(start));
  }
  return times;
}

/// FLOP per second of fused multiply-adds on registers: the best of some bursts of a few
/// milliseconds, and their mean.
struct FmaRate {
  double best = 0, mean = 0;
};
FmaRate measure_fma_rate(int threads, int bursts) {
  constexpr Index rounds = 2'000'000, chains = 12;
  std::vector<float> sink(static_cast<std::size_t>(threads) * 64);
  const auto times = times_of(bursts, [&] {
    parallel_for(threads, threads, [&](Index task, int) {
      simd::Packet<float> sums[chains];
      for (Index c = 0; c < chains; ++c) sums[c] = simd::set(static_cast<float>(c));
      const auto factor = simd::set(0.999F), term = simd::set(0.1F);
      for (Index i = 0; i < rounds; ++i) {
        for (auto& sum : sums) sum = Eigen::internal::pmadd(sum, factor, term);
      }
      for (const auto& sum : sums) {
        sink[static_cast<std::size_t>(task) * 64] += Eigen::internal::predux(sum);
      }
    });
    benchmark::DoNotOptimize(sink.data());
  });
  const double flop = 2.0 * static_cast<double>(simd::width<float> * chains * rounds * threads);
  const double sum = std::accumulate(times.begin(), times.end(), 0.0);
  return {flop / *std::min_element(times.begin(), times.end()),
          flop * static_cast<double>(bursts) / sum};
}

double measure_memory_bandwidth(int threads) {
  constexpr Index block = 1 << 18, blocks = 128;
  std::vector<float> array(static_cast<std::size_t>(block * blocks), 1.0F);
  const auto times = times_of(6, [&] {
    parallel_for(threads, blocks, [&](Index task, int) {
      float* x = array.data() + task * block;
      simd::map(block, x, x,
                [](const auto& v) { return Eigen::internal::pmul(v, simd::set(0.999F)); });
    });
    benchmark::DoNotOptimize(array.data());
  });
  return 2.0 * static_cast<double>(sizeof(float) * array.size()) /
         *std::min_element(times.begin(), times.end());
}

std::string in_words(double seconds) {
  char text[32];
  if (seconds >= 1) {
    std::snprintf(text, sizeof text, "%8.3f s ", seconds);
  } else if (seconds >= 1e-3) {
    std::snprintf(text, sizeof text, "%8.3f ms", 1e3 * seconds);
  } else {
    std::snprintf(text, sizeof text, "%8.3f us", 1e6 * seconds);
  }
  return text;
}

/// One line for each case as it is finished.
class Progress : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      std::string name = run.benchmark_name();
      for (const char* end : {"/manual_time", "/iterations:", "/min_time:"}) {
        name.resize(std::min(name.find(end), name.size()));
      }
      if (run.error_occurred) {
        std::printf("FAILED      %s: %s\n", name.c_str(), run.error_message.c_str());
      } else if (!run.counters.count("seconds")) {
        std::printf("%s: %s\n", run.report_label.c_str(), name.c_str());
      } else {
        const auto counter = [&](const char* which) {
          const auto found = run.counters.find(which);
          return found != run.counters.end() ? static_cast<double>(found->second) : 0.0;
        };
        std::printf("%s %5.1f %% of FMA peak, %5.1f %% beside %5.1f %% of bandwidth  %s\n",
                    in_words(counter("seconds")).c_str(), 100 * counter("of_peak"),
                    100 * counter("of_rate_beside"), 100 * counter("of_bandwidth"), name.c_str());
      }
    }
    std::fflush(stdout);
  }
};

}  // namespace

FmaPeak::FmaPeak(int threads) : threads_(threads) {
  measure();
}

void FmaPeak::measure() {
  static std::map<int, double> known;
  const FmaRate rate = measure_fma_rate(threads_, 5);
  double& peak = known[threads_];
  best_ = peak = std::max(peak, rate.best);
  sum_ += rate.mean;
  ++measures_;
  last_ = Clock::now();
}

void FmaPeak::measure_if_old() {
  if (seconds_since(last_) > 0.2) measure();
}

double memory_bandwidth(int threads) {
  static std::map<int, double> known;
  double& bandwidth = known[threads];
  if (bandwidth == 0) bandwidth = measure_memory_bandwidth(threads);
  return bandwidth;
}

double resident_bytes() {
  return kernel_bytes("/proc/self/status", "VmRSS");
}
double peak_resident_bytes() {
  return kernel_bytes("/proc/self/status", "VmHWM");
}
double available_bytes() {
  return kernel_bytes("/proc/meminfo", "MemAvailable");
}
void reset_peak_resident() {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << 5;
}

std::string Case::name() const {
  std::string text = operation + "/" + variant + "/" + pass;
  for (const auto& [size, value] : sizes) text += "/" + size + ":" + std::to_string(value);
  return text + "/threads:" + std::to_string(threads);
}

Run::Run(benchmark::State& state, const Case& which)
    : state_(state), case_(which), must_verify_(program().verified.insert(which.name()).second) {}

void Run::verify(std::string_view what, std::span<const float> actual,
                 const Matrix<double>& expected) const {
  verify(static_cast<Index>(actual.size()) == expected.size(),
         detail::join(what, " has ", actual.size(), " elements, must have ", expected.size()));
  const double allowed = 1e-4 * std::max(expected.cwiseAbs().maxCoeff(), 1e-30);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double value = expected.data()[i];
    if (std::abs(static_cast<double>(actual[i]) - value) <= allowed) continue;  // false for NaN
    verify(false, detail::join(what, "[", i, "] is ", actual[i], ", must be ", value,
                               " (allowed difference ", allowed, ")"));
  }
}

void Run::verify(bool condition, const std::string& what) const {
  if (!condition) throw std::runtime_error("wrong result: " + what);
}

void Run::measure(const Work& work, const Workspace* workspace,
                  const std::function<void()>& operation) {
  const double bandwidth = memory_bandwidth(case_.threads);
  constexpr double minute = 60;  // a run this long is its own warm-up
  if (case_.seconds < minute) operation();
  FmaPeak peak(case_.threads);
  std::vector<double> times;
  const auto run_once = [&] {
    times.push_back(times_of(1, operation)[0]);
    peak.measure_if_old();
  };
  for ([[maybe_unused]] auto _ : state_) {
    run_once();
    state_.SetIterationTime(times.back());
  }
  // A case without an estimate is run for a time, which one run may fill.
  constexpr std::size_t least = 3;
  while (case_.seconds == 0 && times.size() < least) run_once();
  peak.measure();
  std::sort(times.begin(), times.end());
  const double seconds = 0.5 * (times[(times.size() - 1) / 2] + times[times.size() / 2]);
  count("seconds", seconds);
  count("seconds_least", times.front());
  count("seconds_most", times.back());
  count("runs", static_cast<double>(times.size()));
  count("flop", work.flop);
  count("recomputed_flop", work.recomputed);
  count("floor_bytes", work.bytes);
  count("scratch_bytes", workspace != nullptr ? static_cast<double>(workspace->peak_bytes()) : 0);
  count("fma_peak", peak.best());
  count("fma_rate_beside", peak.beside());
  count("bandwidth", bandwidth);
  count("of_peak", (work.flop + work.recomputed) / seconds / peak.best());
  count("of_rate_beside", (work.flop + work.recomputed) / seconds / peak.beside());
  count("of_bandwidth", work.bytes / seconds / bandwidth);
}

void Run::count(const std::string& name, double value) {
  state_.counters[name] = value;
}

void Run::skip(const std::string& why) {
  state_.SetLabel("skipped: " + why);
  for ([[maybe_unused]] auto _ : state_) state_.SetIterationTime(1);
}

void add(Selection from, const Case& which, const std::function<void(Run&)>& body) {
  if (from > program().selection || !program().names.insert(which.name()).second) return;
  auto* registered =
      benchmark::RegisterBenchmark(which.name().c_str(), [which, body](benchmark::State& state) {
        try {
          reset_peak_resident();
          const double before = resident_bytes();
          Run run(state, which);
          body(run);
          run.count("resident_before_bytes", before);
          run.count("resident_peak_bytes", peak_resident_bytes());
        } catch (const std::exception& error) {
          program().failed = true;
          state.SkipWithError(error.what());
        }
      });
  registered->UseManualTime()->Unit(benchmark::kMillisecond);
  if (which.seconds > 0) {
    const bool is_short = program().selection != Selection::all;
    const double budget = is_short ? 3 : 10;
    const Index most = is_short ? 3 : 5;
    registered->Iterations(std::clamp<Index>(std::lround(budget / which.seconds), 1, most));
  } else {
    registered->MinTime(program().selection == Selection::check ? 0.001 : 0.2);
  }
}

Registration::Registration(void (*add_cases)()) {
  program().registered.push_back(add_cases);
}

int run_all(int argc, char** argv) {
  std::vector<char*> arguments;
  for (int i = 0; i < argc; ++i) {
    const std::string_view argument = argv[i];
    constexpr std::string_view option = "--selection=";
    if (!argument.starts_with(option)) {
      arguments.push_back(argv[i]);
      continue;
    }
    const auto name = argument.substr(option.size());
    if (name == "check") {
      program().selection = Selection::check;
    } else if (name == "quick") {
      program().selection = Selection::quick;
    } else if (name == "all") {
      program().selection = Selection::all;
    } else {
      std::cerr << "error: --selection is '" << name << "'; allowed: check, quick, all\n";
      return 2;
    }
  }
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  for (const auto& add_cases : program().registered) add_cases();
#ifdef __clang__
  benchmark::AddCustomContext("compiler", __VERSION__);
#else
  benchmark::AddCustomContext("compiler", "gcc " __VERSION__);
#endif
  benchmark::AddCustomContext("vector", Eigen::SimdInstructionSetsInUse());
  benchmark::AddCustomContext("eigen", detail::join(EIGEN_WORLD_VERSION, ".", EIGEN_MAJOR_VERSION,
                                                    ".", EIGEN_MINOR_VERSION));
  benchmark::AddCustomContext("bfloat16", bfloat16_unit().name);
  benchmark::AddCustomContext("version", REFORMER_VERSION_STRING);
  benchmark::AddCustomContext("threads", std::to_string(default_threads()));
  for (const int threads : one_and_all_threads()) {  // now: their arrays are not a case's memory
    FmaPeak{threads};
    memory_bandwidth(threads);
  }
  Progress progress;
  if (benchmark::RunSpecifiedBenchmarks(&progress) == 0) {
    std::cerr << "error: no case was run\n";
    return 1;
  }
  return program().failed ? 1 : 0;
}

}  // namespace reformer::bench

int main(int argc, char** argv) {
  // Large arrays go back to the system when they are freed, so that no case is charged for what ran
  // before it.
  ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
  return reformer::bench::run_all(argc, argv);
}
