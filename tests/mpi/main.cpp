// SPDX-License-Identifier: MIT
/// Run by mpirun: what the ranks train together must have the bits of what one rank trains alone.
/// Prints a digest of the results, which does not depend on the number of ranks nor on whose MPI it
/// is.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "reformer/distributed/single_process.hpp"
#include "reformer/mpi/communicator.hpp"
#include "support/data_parallel.hpp"

namespace {

using namespace reformer;
using namespace reformer::test;

/// FNV-1a.
struct Digest {
  std::uint64_t hash = 0xcbf29ce484222325U;

  void add(const std::vector<double>& values) {
    for (const double value : values) {
      std::uint64_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      hash = (hash ^ bits) * 0x100000001b3U;
    }
  }
  void add(const SharedResult& result) {
    for (const auto* values : {&result.losses, &result.norms, &result.parameters, &result.state}) {
      add(*values);
    }
  }
};

class Check {
 public:
  explicit Check(Communicator& communicator) : communicator_(communicator) {}

  template <typename Optimizer>
  void compare(const std::string& what, const SharedRun& run) {
    SingleProcess single;
    const SharedResult alone = train_shared<Optimizer>(single, run);
    report(what, alone, train_shared<Optimizer>(communicator_, run));
    digest_.add(alone);
  }

  /// Saved by all ranks after two steps, and resumed by all.
  template <typename Optimizer>
  void resume(const std::string& what, SharedRun run) {
    run.steps = 4;
    SingleProcess single;
    const SharedResult alone = train_shared<Optimizer>(single, run);
    SharedTraining<Optimizer> before(communicator_, run);
    for (int step = 0; step < 2; ++step) before.take_step(step);
    before.training().wait();
    SharedTraining<Optimizer> after(communicator_, run);
    if (communicator_.rank() == 0) copy_parameters(before.model(), after.model());
    after.training().broadcast_parameters();
    Optimizer saved;
    before.training().visit_whole_optimizer([&](const Optimizer& whole) { saved = whole; });
    after.training().set_whole_optimizer([&](Optimizer& whole) { whole = saved; });
    for (int step = 2; step < 4; ++step) after.take_step(step);
    SharedResult result = after.result();
    result.losses = alone.losses;
    result.norms = alone.norms;
    report(what, alone, result);
  }

  /// What MPI reports is one line: rank 0 sends more than others have memory for.
  void fail() {
    std::vector<char> data(communicator_.rank() == 0 ? 2 : 1);
    std::string message;
    try {
      communicator_.broadcast(std::span(data), 0);
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    const bool is_right = communicator_.rank() == 0
                              ? message.empty()
                              : message.starts_with("MPI: MPI_Testall failed: ") &&
                                    message.find('\n') == std::string::npos;
    if (is_right) return;
    std::printf("rank %d: '%s'\n", communicator_.rank(), message.c_str());
    ++differences_;
  }

  /// The number of differences of all ranks.
  int finish() {
    std::vector<int> all = communicator_.all_gather(std::span<const int>(&differences_, 1));
    int sum = 0;
    for (const int differences : all) sum += differences;
    if (communicator_.rank() == 0) {
      std::printf("%d ranks: digest %016llx, %d differences\n", communicator_.size(),
                  static_cast<unsigned long long>(digest_.hash), sum);
    }
    return sum;
  }

 private:
  void report(const std::string& what, const SharedResult& alone, const SharedResult& shared) {
    const std::string difference = first_difference(shared, alone, communicator_.rank() == 0);
    if (difference.empty()) return;
    std::printf("rank %d of %d, %s: %s differ\n", communicator_.rank(), communicator_.size(),
                what.c_str(), difference.c_str());
    ++differences_;
  }

  Communicator& communicator_;
  Digest digest_;
  int differences_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int differences = 1;
  try {
    MpiCommunicator communicator(MPI_COMM_WORLD);
    Check check(communicator);
    check.compare<Adam<float>>("Adam", {});
    check.compare<Adam<float>>("Adam on two threads", {.threads = 2});
    check.compare<Adam<float>>("Adam in bfloat16", {.precision = Precision::bfloat16});
    check.compare<Adam<float>>("Adam over wires of bfloat16", {.wire = Wire::bfloat16});
    check.compare<Adafactor<float>>("Adafactor", {});
    check.compare<Muon<float>>("Muon", {});
    check.resume<Adam<float>>("Adam, resumed", {});
    check.fail();
    differences = check.finish();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return differences == 0 ? 0 : 1;
}
