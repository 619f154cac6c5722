// SPDX-License-Identifier: MIT
/// Several ranks train as one: here they are threads of this process, in program_test.cpp
/// processes.
#include "training/ranks.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "enwik8/options.hpp"
#include "examples/run.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/distributed/thread_communicator.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;

class RanksTest : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// What each rank writes and returns.
  std::vector<Outcome> train_with(int ranks, const Strings& arguments,
                                  const StopRequested& stop = never_stop) {
    std::vector<Outcome> outcomes(static_cast<std::size_t>(ranks));
    reformer::run_on_threads(ranks, [&](reformer::Communicator& communicator) {
      Captured out, error;
      const int code =
          run_trainer(arguments, {.out = out.file(), .error = error.file(), .terminal = false},
                      stop, communicator);
      outcomes[static_cast<std::size_t>(communicator.rank())] = {code, out.text(), error.text()};
    });
    return outcomes;
  }

  void succeed(int ranks, const Strings& arguments) {
    for (const Outcome& outcome : train_with(ranks, arguments)) {
      ASSERT_EQ(outcome.code, exit_success) << outcome.error;
      ASSERT_EQ(outcome.error, "");
    }
  }

  /// The records of a run, without those of the header, which names the ranks.
  std::vector<nlohmann::json> results(const std::string& name) const {
    auto records = records_of(folder_ / name);
    records.erase(records.begin());
    return records;
  }

  Strings options(const Strings& more) const {
    return tiny(folder_ / "text") + Strings{"--steps", "7", "--batch", "1", "--by-distance"} + more;
  }

  TemporaryFolder folder_;
};

TEST_F(RanksTest, AnyNumberOfThemGivesTheBitsOfOne) {
  for (const std::string optimizer : {"adam", "adafactor", "muon"}) {
    const auto common = [&](const std::string& out) {
      return options({"--accumulate", "4", "--optimizer", optimizer, "--dropout", "0.1",
                      "--eval-overlap", "8", "--out", path(out + optimizer)});
    };
    succeed(1, common("1"));
    for (const int ranks : {2, 3, 4}) {
      const std::string name = std::to_string(ranks);
      succeed(ranks, common(name) + Strings{"--threads", "2"});
      EXPECT_EQ(snapshot_of(path(name + optimizer)), snapshot_of(path("1" + optimizer)))
          << ranks << " ranks, " << optimizer;
      EXPECT_EQ(results(name + optimizer), results("1" + optimizer))
          << ranks << " ranks, " << optimizer;
    }
  }
}

TEST_F(RanksTest, ShareWindowsOfDocumentsThatDifferInLength) {
  write_documents(folder_ / "texts");
  const auto common = [&](const std::string& out) {
    return options({"--data", path("texts"), "--windows", "documents", "--batch", "2",
                    "--accumulate", "3", "--eval-overlap", "8", "--out", path(out)});
  };
  succeed(1, common("1"));
  succeed(2, common("2") + Strings{"--threads", "2"});
  EXPECT_EQ(snapshot_of(path("2")), snapshot_of(path("1")));
  EXPECT_EQ(results("2"), results("1"));
  // All the rest of a run is as it is with a stream of text, too: it goes on to the same bits.
  for (const Outcome& outcome :
       train_with(2, common("broken"), [](std::int64_t step) { return step == 3; })) {
    EXPECT_EQ(outcome.code, exit_interrupted) << outcome.error;
  }
  succeed(1, {"--resume", "--by-distance", "--out", path("broken")});
  EXPECT_EQ(snapshot_of(path("broken")), snapshot_of(path("1")));
  EXPECT_EQ(results("broken"), results("1"));
  // Not with documents that are others, nor with other windows.
  const std::string first = read_file(folder_ / "texts/101");
  write_file(folder_ / "texts/100", first.substr(0, 3));
  write_file(folder_ / "texts/101", first.substr(3));
  EXPECT_TRUE(contains(train_with(1, {"--resume", "--out", path("broken")})[0].error,
                       "bytes and checksum"));
  EXPECT_TRUE(
      contains(train_with(1, {"--resume", "--out", path("broken"), "--windows", "stream"})[0].error,
               "--windows is 'stream', but the run in"));
}

TEST_F(RanksTest, OneRankPrintsAndWritesForAll) {
  const auto outcomes =
      train_with(3, options({"--accumulate", "3", "--threads", "40", "--out", path("run")}));
  for (const Outcome& outcome : outcomes) {
    EXPECT_EQ(outcome.code, exit_success);
    EXPECT_EQ(outcome.error, "");
  }
  EXPECT_TRUE(contains(outcomes[0].out,
                       "ranks: 3, of which 3 on this machine; a step has 3 passes "
                       "of 1 window of 32 bytes"));
  EXPECT_TRUE(contains(outcomes[0].out, "note: 3 ranks of 40 threads here are more than its "));
  EXPECT_TRUE(contains(outcomes[0].out, "of this, rank 0 only waited for others"));
  EXPECT_TRUE(contains(outcomes[0].out, "test bits per byte: "));
  EXPECT_EQ(outcomes[1].out + outcomes[2].out, "");
  const auto header = records_of(folder_ / "run").at(0);
  EXPECT_EQ(header.at("ranks"), 3);
  EXPECT_EQ(header.at("processors_allowed").size(), 3u);
  const auto record = nlohmann::json::parse(lines_of(read_file(folder_ / "run/metrics.jsonl"))[1]);
  EXPECT_GE(record.at("exposed_seconds").get<double>(), 0);
}

TEST_F(RanksTest, ARunGoesOnWithAnotherNumberOfThem) {
  const Strings common = options({"--accumulate", "4"});
  succeed(1, common + Strings{"--out", path("straight")});
  for (const int ranks : {1, 3}) {
    const std::string run = path("run" + std::to_string(ranks));
    // All ranks stop after the step at which the first one is asked to.
    for (const Outcome& outcome : train_with(2, common + Strings{"--out", run},
                                             [](std::int64_t step) { return step == 3; })) {
      EXPECT_EQ(outcome.code, exit_interrupted) << outcome.error;
    }
    EXPECT_EQ(Checkpoint(fs::path(run) / checkpoint_name).step(), 3);
    succeed(ranks, {"--resume", "--by-distance", "--out", run});
    EXPECT_EQ(snapshot_of(run), snapshot_of(path("straight"))) << ranks;
    EXPECT_EQ(results("run" + std::to_string(ranks)), results("straight")) << ranks;
  }
}

TEST_F(RanksTest, EndingByTimeIsDecidedByOne) {
  for (const Outcome& outcome :
       train_with(2, tiny(folder_ / "text") +
                         Strings{"--minutes", "0.02", "--accumulate", "2", "--out", path("run")})) {
    EXPECT_EQ(outcome.code, exit_success) << outcome.error;
  }
  EXPECT_GE(Checkpoint(folder_ / "run" / checkpoint_name).step(), 1);
}

TEST_F(RanksTest, AnErrorOfAllIsOneLine) {
  const std::vector<std::pair<Strings, std::string>> cases{
      {{"--nonsense"}, "enwik8: unknown option"},
      {options({"--data", path("none"), "--out", path("run")}), "enwik8: "},
      {options({"--accumulate", "2", "--out", path("run")}),
       "enwik8: --accumulate is 2, but there are 3 ranks, each of which needs a pass of its own in "
       "every step; allowed: 3 and more\n"},
      {options(
           {"--learning-rate", "1e30", "--clip", "0", "--accumulate", "3", "--out", path("lost")}),
       "is not a number: first not finite"}};
  for (const auto& [arguments, expected] : cases) {
    const auto outcomes = train_with(3, arguments);
    EXPECT_TRUE(contains(outcomes[0].error, expected)) << outcomes[0].error;
    EXPECT_EQ(lines_of(outcomes[0].error).size(), 1u) << outcomes[0].error;
    for (const std::size_t other : {1u, 2u}) {
      EXPECT_EQ(outcomes[other].code, outcomes[0].code);
      EXPECT_EQ(outcomes[other].error, "");
    }
  }
}

TEST_F(RanksTest, TheLowestRankThatFailsSaysWhy) {
  std::vector<std::string> said(3);
  reformer::run_on_threads(3, [&](reformer::Communicator& communicator) {
    const Ranks ranks(communicator);
    const auto rank = static_cast<std::size_t>(ranks.rank());
    try {
      ranks.together([&] {
        if (rank > 0) {
          throw std::runtime_error("rank " + std::to_string(rank));
        }
      });
    } catch (const std::runtime_error& error) {
      said[rank] = error.what();
    } catch (const FailedElsewhere& failure) {
      said[rank] = "code " + std::to_string(failure.exit_code);
    }
  });
  EXPECT_EQ(said, (std::vector<std::string>{"code 1", "rank 1", "code 1"}));
}

TEST(DivideOverRanks, DividesWindowsOrGivesEachRankAPass) {
  const auto divided = [](int ranks, std::int64_t batch, const Strings& given) {
    Options options = parse_options(given + Strings{"--batch", std::to_string(batch)}).options;
    divide_over_ranks(options, ranks, true);
    return std::pair(options.batch, options.accumulate);
  };
  using Passes = std::pair<std::int64_t, std::int64_t>;
  EXPECT_EQ(divided(4, 8, {}), Passes(2, 4));
  EXPECT_EQ(divided(4, 1, {}), Passes(1, 4));
  EXPECT_EQ(divided(4, 6, {}), Passes(6, 4));
  EXPECT_EQ(divided(1, 6, {}), Passes(6, 1));
  EXPECT_EQ(divided(4, 8, {"--accumulate", "5"}), Passes(8, 5));
  EXPECT_THROW(divided(4, 8, {"--accumulate", "3"}), OptionError);
}

}  // namespace
}  // namespace enwik8::test
