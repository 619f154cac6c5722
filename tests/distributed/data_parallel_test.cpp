// SPDX-License-Identifier: MIT
/// Ranks that share the micro-batches of a step: the bits of one rank, whatever their number.
#include <gtest/gtest.h>

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "reformer/distributed/data_parallel.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/distributed/thread_communicator.hpp"
#include "support/data_parallel.hpp"
#include "support/errors.hpp"

namespace reformer::test {
namespace {

template <typename Optimizer>
class DataParallelOf : public testing::Test {
 public:
  static SharedResult alone(const SharedRun& run) {
    SingleProcess single;
    return train_shared<Optimizer>(single, run);
  }
  static std::vector<SharedResult> shared(int ranks, const SharedRun& run) {
    std::vector<SharedResult> results(static_cast<std::size_t>(ranks));
    run_on_threads(ranks, [&](Communicator& communicator) {
      results[static_cast<std::size_t>(communicator.rank())] =
          train_shared<Optimizer>(communicator, run);
    });
    return results;
  }
};

using Optimizers = testing::Types<Adam<float>, Adafactor<float>, Muon<float>>;
TYPED_TEST_SUITE(DataParallelOf, Optimizers);

TYPED_TEST(DataParallelOf, GivesTheBitsOfOneRank) {
  for (const Precision precision : {Precision::float32, Precision::bfloat16}) {
    SharedRun run{.precision = precision};
    const SharedResult expected = this->alone(run);
    ASSERT_NE(expected.parameters, this->alone({.steps = 1}).parameters);
    for (const int ranks : {2, 3, 4, 5}) {
      run.threads = 1 + ranks % 2;
      const auto results = this->shared(ranks, run);
      for (std::size_t r = 0; r < results.size(); ++r) {
        EXPECT_EQ(first_difference(results[r], expected, r == 0), "")
            << "rank " << r << " of " << ranks;
      }
    }
  }
}

}  // namespace
}  // namespace reformer::test
