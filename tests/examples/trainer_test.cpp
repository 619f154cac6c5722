// SPDX-License-Identifier: MIT
#include "enwik8/trainer.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "enwik8/corpus.hpp"
#include "enwik8/presets.hpp"
#include "examples/run.hpp"
#include "reformer/products/precision_kernel.hpp"
#include "training/output_folder.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Trainer : public testing::Test {
 protected:
  Strings options(const Strings& more = {}) const { return tiny(folder_ / "text") + more; }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  Outcome succeed(const Strings& arguments) const {
    const Outcome outcome = train(arguments);
    EXPECT_EQ(outcome.code, exit_success);
    EXPECT_EQ(outcome.error, "");
    return outcome;
  }

  /// Trains until `stop`, which must end the run.
  Outcome interrupt(const Strings& arguments, const StopRequested& stop) const {
    const Outcome outcome = train(arguments, stop);
    EXPECT_EQ(outcome.code, exit_interrupted) << outcome.error;
    return outcome;
  }
  static StopRequested after(std::int64_t step) {
    return [step](std::int64_t done) { return done >= step; };
  }

  /// Checks that the run is refused with one line, and nothing is written to the output folder.
  void refuse(const Strings& arguments, int code, const std::string& part,
              const std::string& out = "refused") const {
    const Outcome outcome = train(arguments);
    EXPECT_EQ(outcome.code, code) << part;
    EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
    EXPECT_TRUE(contains(outcome.error, "enwik8: "));
    EXPECT_TRUE(contains(outcome.error, part));
    EXPECT_FALSE(fs::exists(folder_ / out)) << part;
  }

  TemporaryFolder folder_;
};

TEST_F(Trainer, RunsFromEndToEnd) {
  const Outcome outcome = succeed(options({"--steps", "9", "--out", path("run")}));
  const std::vector<std::string> lines = lines_of(outcome.out);
  ASSERT_FALSE(lines.empty());
  const std::string prefix = "test bits per byte: ";
  ASSERT_EQ(lines.back().substr(0, prefix.size()), prefix);
  const std::string number = lines.back().substr(prefix.size());
  ASSERT_EQ(number.size(), 6u) << "four decimals";
  EXPECT_EQ(outcome.out.back(), '\n');
  for (const char* part : {"4,000 bytes: 3,600 to train, 200 to validate, 200 to test",
                           " parameters, 2 layers", "predicted peak memory: ", "step 9/9 | ",
                           "of 32 bytes, each started cold", "validation bits per byte: ",
                           "the whole validation split (200 bytes)", "step 4: validation "}) {
    EXPECT_TRUE(contains(outcome.out, part));
  }

  const std::vector<json> records = records_of(folder_ / "run");
  Strings order;
  for (const json& record : records) {
    order.push_back(record.at("type").get<std::string>() +
                    (record.contains("step") ? record.at("step").dump() : ""));
  }
  EXPECT_EQ(order, (Strings{"header", "train3", "validation4", "train6", "validation8", "train9",
                            "validation9", "sample9", "test9"}));
  const json& header = records.front();
  for (const char* name : {"options", "seed", "compiler", "flags", "threads", "data", "parameters",
                           "predicted_memory", "context_rule"}) {
    EXPECT_TRUE(header.contains(name)) << name;
  }
  const json& test = records.back();
  EXPECT_NEAR(test.at("test_bpb").get<double>(), std::stod(number), 5e-5);
  EXPECT_EQ(test.at("bytes"), 199) << "the first byte has nothing before it";
  EXPECT_EQ(test.at("tokens"), 9 * 2 * 32);
  EXPECT_EQ(records[2].at("bytes"), 100);
  EXPECT_EQ(records[2].at("whole_split"), false);
  EXPECT_LT(records[5].at("bpb"), records[1].at("bpb")) << "it learns";
  EXPECT_EQ(records[7].at("text").get<std::string>().empty(), false);
}

TEST_F(Trainer, LearnsATextThatRepeats) {
  std::string text;
  while (text.size() < 4000) {
    text += "abcdefgh";
  }
  write_file(folder_ / "text", text);
  succeed(options({"--steps", "60", "--learning-rate", "0.02", "--out", path("run")}));
  EXPECT_LT(records_of(folder_ / "run").back().at("test_bpb"), 0.5);
}

TEST_F(Trainer, TheSameSeedGivesTheSameBitsWithAnyThreads) {
  for (const char* residual : {"float", "fixed"}) {
    const Strings common =
        options({"--steps", "6", "--accumulate", "2", "--dropout", "0.1", "--attention-dropout",
                 "0.1", "--length", "70", "--residual", residual});
    const auto run = [&](const std::string& name, const Strings& more) {
      const std::string out = std::string(residual) + "-" + name;
      succeed(common + Strings{"--out", path(out)} + more);
      return folder_ / out;
    };
    const fs::path one = run("one", {});
    const Snapshot snapshot = snapshot_of(one);
    auto records = records_of(one);  // the text at the end is one of them
    records[0] = {};
    EXPECT_EQ(records[records.size() - 2].at("type"), "sample");
    for (const char* threads : {"1", "2", "3", "4"}) {
      const fs::path other = run(threads, {"--threads", threads});
      EXPECT_EQ(snapshot_of(other), snapshot) << residual << ", " << threads << " threads";
      auto found = records_of(other);
      found[0] = {};
      EXPECT_EQ(found, records) << residual << ", " << threads << " threads";
    }
    EXPECT_NE(snapshot_of(run("seed", {"--seed", "2"})).values, snapshot.values);
  }
  EXPECT_NE(snapshot_of(folder_ / "float-one").values, snapshot_of(folder_ / "fixed-one").values);
}

TEST_F(Trainer, InFixedPointTheMemoryBudgetChangesNoBit) {
  const Strings common = options({"--steps", "4", "--dropout", "0.1", "--residual", "fixed"});
  const Strings without = common + Strings{"--memory-budget", "0"};
  EXPECT_FALSE(contains(succeed(without + Strings{"--out", path("none")}).out, "memory budget"));
  const Outcome all = succeed(common + Strings{"--out", path("all"), "--memory-budget", "1"});
  EXPECT_TRUE(contains(all.out,
                       "memory budget: 1 MB, stored: input of attention of layers 0, 1; context of "
                       "attention of layers 0, 1; input of feed-forward of layers 0, 1; hidden "
                       "values of feed-forward of layers 0, 1\n"));
  EXPECT_EQ(records_of(folder_ / "none").front().at("predicted_memory").at("bucket ids"), 0);
  EXPECT_EQ(snapshot_of(folder_ / "none").values, snapshot_of(folder_ / "all").values);
  // So it may change when a run is resumed; in floating point it may not.
  interrupt(without + Strings{"--out", path("run")}, after(2));
  succeed({"--resume", "--out", path("run"), "--memory-budget", "1"});
  EXPECT_EQ(snapshot_of(folder_ / "run"), snapshot_of(folder_ / "all"));
  interrupt(options({"--steps", "4", "--out", path("float")}), after(2));
  EXPECT_TRUE(contains(train({"--resume", "--out", path("float"), "--memory-budget", "1"}).error,
                       "--memory-budget is '1', but the run in"));
}

TEST_F(Trainer, KeepsToThePrecisionThatItBeganWith) {
  const auto losses_of = [&](const std::string& out) {
    std::vector<double> losses;
    for (const json& record : records_of(folder_ / out)) {
      if (record.contains("bpb")) losses.push_back(record.at("bpb"));
    }
    return losses;
  };
  const Strings common = options({"--steps", "4", "--log-every", "1"});
  succeed(common + Strings{"--precision", "float32", "--out", path("float32")});
  const auto expected = losses_of("float32");
  for (const std::string& precision : Strings{"bfloat16x3", "bfloat16"}) {
    const Strings own = common + Strings{"--precision", precision};
    succeed(own + Strings{"--out", path(precision)});
    const json header = records_of(folder_ / precision).front();
    EXPECT_EQ(header.at("options").at("precision"), precision);
    EXPECT_EQ(header.at("precision"), precision);
    EXPECT_EQ(header.at("bfloat16"), bfloat16_instructions());
    const auto losses = losses_of(precision);
    ASSERT_EQ(losses.size(), expected.size());
    for (std::size_t i = 0; i < losses.size(); ++i) {
      EXPECT_NE(losses[i], expected[i]) << precision;
      EXPECT_NEAR(losses[i], expected[i], 0.02 * expected[i]) << precision;
    }
    interrupt(own + Strings{"--out", path("run-" + precision)}, after(2));
    succeed({"--resume", "--out", path("run-" + precision)});
    EXPECT_EQ(snapshot_of(folder_ / ("run-" + precision)), snapshot_of(folder_ / precision));
    EXPECT_TRUE(
        contains(train({"--resume", "--out", path(precision), "--precision", "float32"}).error,
                 "--precision is 'float32', but the run in"));
  }
}

TEST_F(Trainer, TakesThePrecisionThatIsFastestHere) {
  const Strings common = options({"--steps", "4"});
  const std::string out = succeed(common + Strings{"--out", path("auto")}).out;
  const json header = records_of(folder_ / "auto").front();
  EXPECT_EQ(header.at("options").at("precision"), "auto");
  const std::string precision = name_of(reformer::fastest_precision());
  EXPECT_EQ(header.at("precision"), precision);
  EXPECT_TRUE(contains(out, "products in " + precision + ", seed"));
  succeed(common + Strings{"--precision", precision, "--out", path("named")});
  EXPECT_EQ(snapshot_of(folder_ / "auto").values, snapshot_of(folder_ / "named").values);
  interrupt(common + Strings{"--out", path("run")}, after(2));
  EXPECT_TRUE(
      contains(succeed({"--resume", "--out", path("run")}).out, "products in " + precision));
  EXPECT_EQ(snapshot_of(folder_ / "run"), snapshot_of(folder_ / "auto"));
  // Every preset asks for it; what was saved before there was a choice did not.
  for (const Options& preset : presets()) {
    EXPECT_EQ(preset.precision, "auto") << preset.preset;
  }
  EXPECT_EQ(Options().precision, "float32");
}

TEST_F(Trainer, KeepsTheBestWeightsAndEndsWithThem) {
  // Random letters can only be learnt by heart: after their frequency, validation gets worse.
  std::string letters;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    letters += static_cast<char>('a' + i * i * 2654435761U / 65536 % 23);
  }
  write_file(folder_ / "letters", letters);
  const Strings common = options({"--data", path("letters"), "--ngrams", "4", "--ngram-rows",
                                  "4096", "--learning-rate", "0.01", "--schedule", "constant",
                                  "--steps", "120", "--eval-bytes", "1000"});
  succeed(common + Strings{"--keep-best", "100", "--out", path("all")});
  const auto validations = [&](const std::string& name) {
    std::vector<double> found;
    for (const json& record : records_of(folder_ / name)) {
      if (record.at("type") == "validation" && !record.contains("final")) {
        found.push_back(record.at("validation_bpb"));
      }
    }
    return found;
  };
  const std::vector<double> all = validations("all");
  ASSERT_EQ(all.size(), 30U) << "one every 4 steps, the last step's too";
  const auto best = std::min_element(all.begin(), all.end());
  ASSERT_NE(best, all.end() - 1) << "the text has to be learnt by heart";
  const json test = records_of(folder_ / "all").back();
  EXPECT_EQ(test.at("validation_bpb"), *best) << "1,000 bytes are all there are";
  EXPECT_EQ(Checkpoint(folder_ / "all/best.safetensors").step(), 4 * (best - all.begin() + 1));

  // A run that is interrupted knows its best, and when its patience is at an end.
  const Strings patient = common + Strings{"--keep-best", "3"};
  succeed(patient + Strings{"--out", path("patient")});
  const std::vector<double> fewer = validations("patient");
  ASSERT_LT(fewer.size(), all.size());
  EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), all.begin()));
  const auto least = std::min_element(fewer.begin(), fewer.end());
  EXPECT_EQ(fewer.end() - least, 4) << "three after the best";
  const auto last = static_cast<std::int64_t>(4 * fewer.size());
  EXPECT_EQ(records_of(folder_ / "patient").back().at("step"), last);
  interrupt(patient + Strings{"--out", path("broken")}, after(last - 1));
  succeed({"--resume", "--out", path("broken")});
  EXPECT_EQ(validations("broken"), fewer);
  EXPECT_EQ(records_of(folder_ / "broken").back().at("test_bpb"),
            records_of(folder_ / "patient").back().at("test_bpb"));

  // A best whose weights were not kept, or are gone, is none.
  interrupt(common + Strings{"--out", path("late")}, after(100));
  succeed({"--resume", "--keep-best", "100", "--out", path("late")});
  EXPECT_GE(Checkpoint(folder_ / "late/best.safetensors").step(), 100);
  interrupt(common + Strings{"--keep-best", "100", "--out", path("gone")}, after(100));
  fs::remove(folder_ / "gone/best.safetensors");
  succeed({"--resume", "--out", path("gone")});
  EXPECT_GE(Checkpoint(folder_ / "gone/best.safetensors").step(), 100);
}

TEST_F(Trainer, ReadsNothingThatItWrites) {
  fs::create_directories(folder_ / "texts");
  write_file(folder_ / "texts/text", std::string(4000, 'x'));
  refuse(tiny(folder_ / "texts") + Strings{"--steps", "1", "--out", path("texts/refused")},
         exit_usage,
         "--out is '" + path("texts/refused") + "'; allowed: a folder outside of '" +
             path("texts") + "', which is read",
         "texts/refused");
}

TEST_F(Trainer, StopsAtAnOverflowInFixedPoint) {
  const Outcome outcome = train(options({"--steps", "50", "--learning-rate", "1e9", "--clip", "0",
                                         "--residual", "fixed", "--out", path("run")}));
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
  for (const char* part : {"enwik8: step 2: reformer: residual overflow in ", ", sequence ",
                           "[-2048, 2048)", "checkpoint.safetensors' still holds step 0; "}) {
    EXPECT_TRUE(contains(outcome.error, part));
  }
}

TEST_F(Trainer, BeginsWithoutDropout) {
  const auto loss = [&](const std::string& rate, const std::string& passes,
                        const std::string& steps) {
    const std::string name = rate + " " + passes + " " + steps;
    succeed(options(
        {"--steps", steps, "--dropout", rate, "--dropout-passes", passes, "--out", path(name)}));
    return records_of(folder_ / name).back().at("test_bpb");
  };
  EXPECT_EQ(loss("0.9", "1", "1"), loss("0", "1", "1"))
      << "nothing is left out of what is read first";
  EXPECT_NE(loss("0.9", "1", "2"), loss("0", "1", "2"));
  EXPECT_NE(loss("0.9", "0", "1"), loss("0", "0", "1"));
}

TEST_F(Trainer, PassesOfAStepAddUpToOneBatch) {
  const Strings common = options({"--steps", "2", "--log-every", "1", "--learning-rate", "1e-30"});
  succeed(common + Strings{"--batch", "4", "--out", path("large")});
  succeed(common + Strings{"--batch", "1", "--accumulate", "4", "--out", path("small")});
  const auto large = records_of(folder_ / "large"), small = records_of(folder_ / "small");
  for (const std::size_t step : {1u, 2u}) {
    // Rotations differ between passes, so the losses are near each other but not the same.
    EXPECT_NEAR(large[step].at("bpb").get<double>(), small[step].at("bpb").get<double>(), 1e-3);
    EXPECT_NEAR(large[step].at("gradient_norm").get<double>(),
                small[step].at("gradient_norm").get<double>(), 1e-2);
  }
  // Other windows make another loss, which the bound above tells from these.
  EXPECT_GT(std::abs(large[1].at("bpb").get<double>() - large[2].at("bpb").get<double>()), 3e-3);
}

TEST_F(Trainer, TheFirstStepsMayHaveShortWindows) {
  const auto losses = [&](const std::string& short_steps, const std::string& length) {
    const std::string out = path("short" + short_steps + "-" + length);
    succeed(options({"--steps", "2", "--log-every", "1", "--learning-rate", "1e-30", "--ngrams",
                     "0", "--layers", "local", "--positions", "sinusoidal", "--short-steps",
                     short_steps, "--length", length, "--out", out}));
    const auto records = records_of(out);
    return std::pair(records[1].at("bpb").get<double>(), records[2].at("bpb").get<double>());
  };
  // Weights stand still, so a loss depends on the windows alone.
  const auto whole = losses("0", "32"), cut = losses("1", "32");
  EXPECT_NE(cut.first, whole.first);
  EXPECT_EQ(cut.second, whole.second);
}

TEST_F(Trainer, AResumedRunHasTheBitsOfAStraightOne) {
  for (const auto& [optimizer, residual] : std::vector<std::pair<std::string, std::string>>{
           {"adam", "float"}, {"adafactor", "float"}, {"adam", "fixed"}}) {
    const Strings common = options(
        {"--steps", "10", "--optimizer", optimizer, "--residual", residual, "--short-steps", "4"});
    const std::string straight = "straight-" + optimizer + residual;
    const std::string broken = "broken-" + optimizer + residual;
    succeed(common + Strings{"--out", path(straight)});
    Outcome outcome = interrupt(common + Strings{"--by-distance", "--out", path(broken)}, after(0));
    EXPECT_TRUE(contains(outcome.out,
                         "interrupted after step 0, which is saved; to continue:\n  "
                         "enwik8 --resume --out " +
                             path(broken) + " --by-distance\n"));
    for (std::int64_t step = 1; step < 10; ++step) {
      outcome = interrupt({"--resume", "--out", path(broken)}, after(step));
      EXPECT_TRUE(contains(outcome.out, "interrupted after step " + std::to_string(step)));
    }
    succeed({"--resume", "--out", path(broken)});
    EXPECT_EQ(snapshot_of(folder_ / straight), snapshot_of(folder_ / broken));
    auto expected = records_of(folder_ / straight), found = records_of(folder_ / broken);
    expected[0] = found[0] = {};
    EXPECT_EQ(expected, found);
  }
}

TEST_F(Trainer, AnInterruptionMayComeAtAnyMoment) {
  const Strings common = options({"--steps", "5", "--sample-bytes", "2"});
  int moments = 0;
  const Outcome straight = train(common + Strings{"--out", path("straight")}, [&](std::int64_t) {
    ++moments;
    return false;
  });
  ASSERT_EQ(straight.code, exit_success);
  ASSERT_GT(moments, 12);
  auto expected = records_of(folder_ / "straight");
  expected[0] = {};
  for (int moment = 1; moment <= moments; ++moment) {
    const std::string out = "run" + std::to_string(moment);
    int now = 0;
    interrupt(common + Strings{"--out", path(out)}, [&](std::int64_t) { return ++now >= moment; });
    succeed({"--resume", "--out", path(out)});
    auto found = records_of(folder_ / out);
    found[0] = {};
    EXPECT_EQ(expected, found) << "interrupted at moment " << moment;
    EXPECT_EQ(snapshot_of(folder_ / "straight"), snapshot_of(folder_ / out));
  }
}

TEST_F(Trainer, AFinishedRunCanBeEvaluatedAgainAndGoOn) {
  succeed(options({"--steps", "5", "--out", path("run")}));
  const auto before = records_of(folder_ / "run");
  succeed({"--resume", "--out", path("run")});
  EXPECT_EQ(records_of(folder_ / "run"), before);
  succeed({"--resume", "--out", path("run"), "--steps", "8"});
  const auto after = records_of(folder_ / "run");
  EXPECT_EQ(after.back().at("step"), 8);
  EXPECT_EQ(snapshot_of(folder_ / "run").step, 8);
}

TEST_F(Trainer, AnIncreasedLimitInTimeIsFollowed) {
  interrupt(options({"--minutes", "100", "--out", path("run")}), after(2));
  succeed({"--resume", "--out", path("run"), "--minutes", "0.000001"});
  // Over already: one step, to find out how fast it goes, and the final evaluation.
  EXPECT_EQ(records_of(folder_ / "run").back().at("step"), 3);
}

TEST_F(Trainer, ARunLimitedByTimeEndsWithADecision) {
  succeed(options({"--minutes", "0.02", "--out", path("run")}));
  const Snapshot ended = snapshot_of(folder_ / "run");
  EXPECT_EQ(ended.state.at("ending").at("end"), ended.step);
  EXPECT_GE(ended.step, 1);
  succeed(options({"--minutes", "0.000001", "--out", path("short")}));
  EXPECT_EQ(snapshot_of(folder_ / "short").step, 1);
}

TEST_F(Trainer, AfterTheDecisionNothingDependsOnAClock) {
  interrupt(options({"--minutes", "1000", "--out", path("run")}), after(4));
  {
    // As if it had been decided after step 4 that the run ends after step 9.
    change_state(folder_ / "run", [](json& state) {
      state["ending"] = {{"begin", 4}, {"end", 9}};
    });
  }
  fs::copy(folder_ / "run", folder_ / "broken", fs::copy_options::recursive);
  succeed({"--resume", "--out", path("run")});
  interrupt({"--resume", "--out", path("broken")}, after(6));
  succeed({"--resume", "--out", path("broken")});
  EXPECT_EQ(snapshot_of(folder_ / "run"), snapshot_of(folder_ / "broken"));
  EXPECT_EQ(records_of(folder_ / "run"), records_of(folder_ / "broken"));
  const auto records = records_of(folder_ / "run");
  EXPECT_EQ(records.back().at("step"), 9);
  const json& last_train = records.at(records.size() - 4);
  ASSERT_EQ(last_train.at("type"), "train");
  EXPECT_NEAR(last_train.at("learning_rate").get<double>(), 5e-5, 1e-9);
}

TEST_F(Trainer, StopsWhenTheLossIsNotFiniteAndKeepsTheCheckpoint) {
  const Outcome outcome = train(
      options({"--steps", "50", "--learning-rate", "1e30", "--clip", "0", "--out", path("run")}));
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
  for (const char* part : {"enwik8: step 2: the loss is ", ": first not finite in layer ",
                           "checkpoint.safetensors' still holds step 0; "}) {
    EXPECT_TRUE(contains(outcome.error, part));
  }
  const Snapshot kept = snapshot_of(folder_ / "run");
  EXPECT_EQ(kept.step, 0);
  for (const auto& values : kept.values) {
    for (const float value : values) {
      ASSERT_TRUE(std::isfinite(value));
    }
  }
}

TEST_F(Trainer, DoesNotSaveWhatIsNotFinite) {
  const Outcome outcome =
      train(options({"--steps", "50", "--learning-rate", "1e38", "--weight-decay", "1e6", "--clip",
                     "0", "--out", path("run")}),
            after(1));
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_TRUE(contains(outcome.error, "is no longer finite"));
  EXPECT_EQ(snapshot_of(folder_ / "run").step, 0);
}

TEST_F(Trainer, ChoosesANewFolderForEachRun) {
  const fs::path before = fs::current_path();
  tiny(folder_ / "text");
  fs::current_path(folder_.path());
  const Outcome first = train(options({"--steps", "1"}));
  const Outcome second = train(options({"--steps", "1"}));
  fs::current_path(before);
  EXPECT_TRUE(contains(first.out, "output: runs/quick-1\n"));
  EXPECT_TRUE(contains(second.out, "output: runs/quick-2\n"));
  EXPECT_TRUE(fs::exists(folder_ / "runs/quick-2/checkpoint.safetensors"));
}

TEST_F(Trainer, SaysThatItsTextIsMadeUp) {
  if (find_enwik8(data_folders(fs::current_path(), program_path()))) {
    GTEST_SKIP() << "enwik8 is there";
  }
  Strings arguments = options({"--steps", "1", "--final-bytes", "50", "--out", path("run")});
  arguments.erase(arguments.begin(), arguments.begin() + 2);  // --data
  const Outcome outcome = succeed(arguments);
  EXPECT_TRUE(contains(outcome.out, "data: generated corpus"));
  EXPECT_TRUE(contains(outcome.out, "examples/enwik8/fetch.sh"));
  const json test = records_of(folder_ / "run").back();
  EXPECT_EQ(test.at("bytes"), 50);
  EXPECT_EQ(test.at("whole_split"), false);
  EXPECT_TRUE(contains(outcome.out, "the first 51 bytes of the test split"));
}

TEST_F(Trainer, ShowsHelp) {
  const Outcome outcome = succeed({"--help"});
  EXPECT_TRUE(contains(outcome.out, "--learning-rate"));
}

TEST_F(Trainer, RefusesBadOptions) {
  const auto usage = [&](const Strings& more, const std::string& part) {
    refuse(options(Strings{"--steps", "1", "--out", path("refused")} + more), exit_usage, part);
  };
  usage({"--no-such", "1"}, "unknown option '--no-such'");
  usage({"--preset", "huge"}, "allowed: quick, hour, day, paper");
  usage({"--length", "0"}, "--length is '0'");
  usage({"--batch", "-3"}, "--batch is '-3'");
  usage({"--heads", "3"}, "--width is '16'; allowed: a multiple of --heads 3");
  usage({"--axial-shape", "4,4"}, "product is at least --length 32");
  usage({"--weight-decay", "0.1", "--optimizer", "adafactor"}, "--weight-decay is '0.1'");
  usage({"--length", "30", "--short-steps", "1"}, "--length is '30'; allowed: a multiple of 4");
}

/// Values that an option does not take; "" is an argument that is empty.
struct BadValues {
  Strings names;
  Strings values;
};

const std::vector<BadValues>& bad_values() {
  const Strings no_whole{"",     "x",  "-1", "1.5", "1e3", "nan",
                         "0x10", "+1", " 1", "1 ",  "1,2", "99999999999999999999"};
  const Strings no_real{"", "x", "-1", "nan", "-nan", "inf", "-inf", "1e39", "1e400", "1,5", "1 "};
  static const std::vector<BadValues> all{
      {{"steps", "log-every", "eval-bytes", "length", "width", "heads", "chunk-length", "hashes",
        "batch", "accumulate", "ngram-rows"},
       no_whole + Strings{"0", "2000000000000"}},
      {{"threads", "memory-budget", "eval-every", "final-bytes", "sample-bytes", "head-width",
        "ff-width", "local-chunk-length", "warmup", "short-steps"},
       no_whole + Strings{"2000000000000"}},
      {{"keep-best"}, no_whole + Strings{"2000000000000"}},
      {{"eval-overlap"}, no_whole + Strings{"2000000000000", "100000"}},
      {{"seed"}, no_whole + Strings{"18446744073709551616"}},
      {{"minutes", "save-minutes"}, no_real + Strings{"0", "1e-50", "10000001"}},
      {{"learning-rate", "epsilon"}, no_real + Strings{"0", "1e-50", "1e-40"}},
      {{"sample-temperature", "weight-decay", "clip", "dropout-passes"}, no_real},
      {{"init-weights", "init-embedding", "init-positions"}, no_real + Strings{"1.1e30"}},
      {{"dropout", "attention-dropout", "ngram-dropout", "beta1", "beta2"},
       no_real + Strings{"1", "2"}},
      {{"final-fraction"}, no_real + Strings{"1.1"}},
      {{"preset", "rotary", "embedding", "activation", "positions", "residual", "optimizer",
        "schedule", "windows"},
       {"", "huge", "RELU", "0", "relu,gelu", " adam"}},
      {{"precision"}, {"", "float", "bfloat16,float32", "16"}},
      {{"values"}, {"", ",", "own,", "x", "own,own,own"}},
      {{"scores"}, {"", ",", "dot,", "x", "dot,dot,dot"}},
      {{"layers"}, {"", ",", "local,", "conv", "local,,lsh", "local lsh", "0"}},
      {{"ngrams"}, {"1,2", "17", "2,17", "1"}},
      {{"value-ngrams"}, no_whole + Strings{"1", "17"}},
      {{"buckets", "axial-shape", "axial-widths", "ngrams"},
       {"", ",", "x", "-2", "4,", "4,,4", "0,0", "1.5", "nan", "2147483648",
        "99999999999999999999"}},
      {{"buckets"}, {"5", "4,5", "65536", "256,256", "2147483646,2147483646"}},
      {{"axial-shape"}, {"7", "1,1", "2,3,4", "2147483647,2147483647"}},
      {{"axial-widths"}, {"16", "8,7", "4,4,8"}},
      // What only the product with another option makes too large.
      {{"batch"}, {"1048576"}},
      {{"head-width"}, {"1048576"}},
      {{"accumulate"}, {"1048576"}},
      {{"data", "tokenizer", "out", "init", "export"}, {""}},
  };
  return all;
}

TEST_F(Trainer, RefusesEveryValueThatMeansNothing) {
  std::set<std::string> names;
  for (const BadValues& bad : bad_values()) {
    for (const std::string& name : bad.names) {
      names.insert(name);
      for (const std::string& value : bad.values) {
        Strings more{"--steps", "3", "--out", path("refused")};
        if (name == "minutes") {
          more = {"--out", path("refused")};
        } else if (value == "1048576") {
          more = more + Strings{"--length", "1000000", "--heads", "65536", "--steps", "100000"};
        }
        refuse(options(more + Strings{"--" + name + "=" + value}), exit_usage,
               "enwik8: --" + name +
                   (value.empty() ? " needs a value" : " is '" + value + "'; allowed: "));
      }
    }
  }
  const json all = options_to_json(Options());
  for (const auto& item : all.items()) {
    EXPECT_TRUE(names.contains(item.key())) << "--" << item.key() << " is not in the table";
  }
}

TEST_F(Trainer, TakesTheLargestValuesThatItAllows) {
  // As far as the model, which is not made: a file that is missing is found first.
  for (const Strings& more : {Strings{"--minutes", "10000000"},
                              {"--steps", "2147483647", "--accumulate", "1"},
                              {"--batch", "1048576", "--length", "2047"},
                              {"--heads", "65536", "--head-width", "32767"},
                              {"--buckets", "65534"},
                              {"--positions", "axial", "--axial-shape", "1,2147483647"},
                              {"--learning-rate", "3e38"},
                              {"--seed", "18446744073709551615"}}) {
    EXPECT_TRUE(contains(train(Strings{"--data", path("missing")} + more).error, "does not exist"));
  }
}

TEST_F(Trainer, RefusesBadData) {
  const auto data = [&](const std::string& name, const std::string& part) {
    Strings arguments = options({"--steps", "1", "--out", path("refused")});
    arguments[1] = path(name);
    refuse(arguments, exit_failure, part);
  };
  data("missing", "does not exist");
  write_file(folder_ / "empty", "");
  data("empty", "is empty");
  write_file(folder_ / "short", std::string(600, 'x'));
  data("short",
       "is too short: it has 600 bytes, its validation and test parts (5 % each) 30, but a window "
       "of --length 32 needs at least 33 in each part, so 660 in all");
  write_file(folder_ / "corrupt.gz", std::string("\x1f\x8b\x08") + std::string(50, '!'));
  data("corrupt.gz", "is truncated or corrupt");
  fs::create_directory(folder_ / "nothing");
  data("nothing", "is a folder without a file in it");
}

TEST_F(Trainer, RefusesAnOutputFolderItCannotWriteTo) {
  write_file(folder_ / "file", "precious");
  refuse(options({"--steps", "1", "--out", path("file/run")}), exit_failure,
         "cannot write to output folder");
  refuse(options({"--steps", "1", "--out", path("file")}), exit_failure, "is not a folder");
  EXPECT_EQ(read_file(folder_ / "file"), "precious");
  refuse(options({"--steps", "1", "--out", "/proc/no"}), exit_failure,
         "cannot write to output folder");
}

TEST_F(Trainer, RefusesAFolderThatHoldsARun) {
  succeed(options({"--steps", "1", "--out", path("run")}));
  const std::string checkpoint = read_file(folder_ / "run/checkpoint.safetensors");
  const std::string metrics = read_file(folder_ / "run/metrics.jsonl");
  refuse(options({"--steps", "1", "--out", path("run")}), exit_usage,
         "which holds the checkpoint.safetensors of another run");
  EXPECT_EQ(read_file(folder_ / "run/checkpoint.safetensors"), checkpoint);
  EXPECT_EQ(read_file(folder_ / "run/metrics.jsonl"), metrics);
  fs::remove(folder_ / "run/checkpoint.safetensors");
  refuse(options({"--steps", "1", "--out", path("run")}), exit_usage,
         "which holds the metrics.jsonl of another run");
  EXPECT_EQ(read_file(folder_ / "run/metrics.jsonl"), metrics);
}

TEST_F(Trainer, RefusesToResumeWhatIsNoRunOrAnother) {
  refuse({"--resume"}, exit_usage, "--resume needs --out");
  refuse({"--resume", "--out", path("none")}, exit_failure,
         "checkpoint.safetensors': No such file or directory");
  const auto resume = [&](const Strings& more, int code, const std::string& part) {
    const std::string checkpoint = read_file(folder_ / "run/checkpoint.safetensors");
    const std::string metrics = read_file(folder_ / "run/metrics.jsonl");
    refuse(Strings{"--resume", "--out", path("run")} + more, code, part);
    EXPECT_EQ(read_file(folder_ / "run/checkpoint.safetensors"), checkpoint) << part;
    EXPECT_EQ(read_file(folder_ / "run/metrics.jsonl"), metrics) << part;
  };
  succeed(options({"--steps", "1", "--out", path("run")}));
  resume({"--width", "32"}, exit_usage, "--width is '32', but the run in");
  resume({"--optimizer", "adafactor"}, exit_usage, "--optimizer is 'adafactor'");
  resume({"--residual", "fixed"}, exit_usage, "--residual is 'fixed', but the run in");
  write_file(folder_ / "other", std::string(4000, 'x'));
  resume({"--data", path("other")}, exit_failure, "name that with --data");

  const std::string whole = read_file(folder_ / "run/checkpoint.safetensors");
  write_file(folder_ / "run/checkpoint.safetensors", whole.substr(0, whole.size() / 2));
  resume({}, exit_failure, "is truncated");
  write_file(folder_ / "run/checkpoint.safetensors", "no checkpoint at all");
  resume({}, exit_failure, "is not a checkpoint");
  const auto resume_changed = [&](const auto& change, const std::string& part) {
    write_file(folder_ / "run/checkpoint.safetensors", whole);
    change_state(folder_ / "run", change);
    resume({}, exit_failure, part);
  };
  resume_changed([](json& state) { state = {{"a", 1}}; }, "it has no options");
  // The options of one model with the parameters of another.
  resume_changed([](json& state) { state["options"]["ff-width"] = 8; },
                 "does not fit: 'layers.0.feed_forward");
  resume_changed([](json& state) { state.erase("running"); }, "its state is not readable");
}

TEST_F(Trainer, ContinuesARunOfTheFirstVersion) {
  // Its options have no --residual, --memory-budget, --init and --export. It trained with
  // adafactor, layers local and lsh of width 2, for 400 steps; its checkpoint has been put into the
  // form of today, with the same values.
  const fs::path run = folder_ / "run";
  fs::copy(SOURCE_DIR "/tests/data/enwik8/first_version", run);
  tiny(folder_ / "text");
  const json before = records_of(run).back();
  succeed({"--resume", "--out", run.string(), "--data", path("text"), "--threads", "1"});
  json after = records_of(run).back();
  // Other versions round otherwise, but the model is the same.
  EXPECT_NEAR(after.at("test_bpb").get<double>(), before.at("test_bpb").get<double>(), 1e-4);
  EXPECT_NEAR(after.at("validation_bpb").get<double>(), before.at("validation_bpb").get<double>(),
              1e-4);
  EXPECT_EQ(snapshot_of(run).state.at("options").at("residual"), "float");
  succeed({"--resume", "--out", run.string(), "--steps", "420"});
  after = records_of(run).back();
  EXPECT_EQ(after.at("step"), 420);
  EXPECT_NEAR(after.at("test_bpb").get<double>(), before.at("test_bpb").get<double>(), 0.1);
  EXPECT_EQ(generate({"--checkpoint", run.string(), "--length", "9"}).out.size(), 9u);
}

TEST_F(Trainer, RefusesACheckpointOfALaterVersion) {
  succeed(options({"--steps", "1", "--out", path("run")}));
  change_state(folder_ / "run", [](json& state) { state["options"]["sparsity"] = 0.5; });
  const std::string part =
      "checkpoint.safetensors': the saved options have 'sparsity', which this program does not "
      "know";
  refuse({"--resume", "--out", path("run")}, exit_failure, part);
  EXPECT_TRUE(contains(generate({"--checkpoint", path("run")}).error, part));
}

TEST_F(Trainer, AFullDiskLeavesThePreviousCheckpoint) {
  interrupt(options({"--steps", "6", "--out", path("run")}), after(3));
  const std::string checkpoint = read_file(folder_ / "run/checkpoint.safetensors");
  Outcome outcome;
  {
    const FileSizeLimit limit(checkpoint.size() / 2);
    outcome = train({"--resume", "--out", path("run")});
  }
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
  EXPECT_TRUE(contains(outcome.error,
                       "checkpoint.safetensors': File too large; the previous file is "
                       "unchanged"));
  EXPECT_EQ(read_file(folder_ / "run/checkpoint.safetensors"), checkpoint);
  succeed({"--resume", "--out", path("run")});
  succeed(options({"--steps", "6", "--out", path("straight")}));
  EXPECT_EQ(snapshot_of(folder_ / "run"), snapshot_of(folder_ / "straight"));
}

TEST_F(Trainer, TwoRunsInOneFolderAreRefused) {
  succeed(options({"--steps", "3", "--out", path("run")}));
  const std::string checkpoint = read_file(folder_ / "run/checkpoint.safetensors");
  const std::string metrics = read_file(folder_ / "run/metrics.jsonl");
  {
    const training::FolderLock lock(folder_ / "run");
    const Outcome outcome = train({"--resume", "--steps", "6", "--out", path("run")});
    EXPECT_EQ(outcome.code, exit_failure);
    EXPECT_EQ(outcome.error,
              "enwik8: the run in '" + path("run") + "' is being trained by another process\n");
  }
  EXPECT_EQ(read_file(folder_ / "run/checkpoint.safetensors"), checkpoint);
  EXPECT_EQ(read_file(folder_ / "run/metrics.jsonl"), metrics);
  fs::create_directory(folder_ / "new");
  {
    const training::FolderLock lock(folder_ / "new");
    EXPECT_EQ(train(options({"--steps", "3", "--out", path("new")})).code, exit_failure);
  }
  EXPECT_TRUE(fs::is_empty(folder_ / "new"));
  succeed({"--resume", "--steps", "6", "--out", path("run")});
}

TEST_F(Trainer, MetricsThatAreAPipeAreNotWaitedFor) {
  succeed(options({"--steps", "3", "--out", path("run")}));
  fs::remove(folder_ / "run/metrics.jsonl");
  ASSERT_EQ(::mkfifo((folder_ / "run/metrics.jsonl").c_str(), 0600), 0);
  const Outcome outcome = train({"--resume", "--steps", "6", "--out", path("run")});
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_TRUE(contains(outcome.error, "metrics.jsonl': it is not a regular file"));
}

TEST_F(Trainer, AnEmptyConfigSaysNothing) {
  write_file(folder_ / "a.toml", "");
  succeed(options({"--config", path("a.toml"), "--steps", "3", "--out", path("run")}));
}

// What a run keeps of its options is JSON.
TEST_F(Trainer, NamesThatAreNoTextAreRefusedBeforeAnythingIsMade) {
  for (const char* option : {"--out", "--data"}) {
    const Outcome outcome = train(options({"--steps", "3", option, path("a\xff")}));
    EXPECT_EQ(outcome.code, training::exit_usage);
    EXPECT_TRUE(contains(outcome.error, "a\xff'; allowed: text in UTF-8 without zero bytes"));
    EXPECT_FALSE(fs::exists(path("a\xff")));
  }
}

TEST_F(Trainer, AFolderThatCannotBeWrittenAnyMoreLeavesThePreviousCheckpoint) {
  interrupt(options({"--steps", "6", "--out", path("run")}), after(3));
  const std::string checkpoint = read_file(folder_ / "run/checkpoint.safetensors");
  // Root may write everywhere, but not in place of a folder.
  fs::create_directory(folder_ / "run/checkpoint.safetensors.tmp");
  const Outcome outcome = train({"--resume", "--out", path("run")});
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_EQ(outcome.error, "enwik8: cannot write '" + path("run/checkpoint.safetensors") +
                               "': File exists; the previous file is unchanged\n");
  EXPECT_EQ(read_file(folder_ / "run/checkpoint.safetensors"), checkpoint);
  fs::remove(folder_ / "run/checkpoint.safetensors.tmp");
  // What a killed process leaves is replaced.
  write_file(folder_ / "run/checkpoint.safetensors.tmp", checkpoint.substr(0, 1000));
  write_file(folder_ / "run/metrics.jsonl.tmp", "{");
  succeed({"--resume", "--out", path("run")});
  for (const auto& entry : fs::directory_iterator(folder_ / "run")) {
    EXPECT_NE(entry.path().extension(), ".tmp") << entry.path();
  }
  succeed(options({"--steps", "6", "--out", path("straight")}));
  EXPECT_EQ(snapshot_of(folder_ / "run"), snapshot_of(folder_ / "straight"));
}

TEST_F(Trainer, AFolderThatIsGoneIsNamed) {
  const Outcome outcome =
      train(options({"--steps", "6", "--out", path("run")}), [&](std::int64_t step) {
        if (step < 2) {
          return false;
        }
        fs::remove_all(folder_ / "run");
        return true;
      });
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_EQ(outcome.error, "enwik8: cannot write '" + path("run/checkpoint.safetensors") +
                               "': No such file or directory\n");
}

TEST_F(Trainer, ADiskThatIsFullFromTheStartIsFoundAtOnce) {
  Outcome outcome;
  const Strings arguments = options({"--steps", "6", "--out", path("run")});
  {
    const FileSizeLimit limit(1000);
    outcome = train(arguments);
  }
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_TRUE(contains(outcome.error, "cannot write '"));
  EXPECT_TRUE(fs::is_empty(folder_ / "run"));
  succeed(arguments);
}

}  // namespace
}  // namespace enwik8::test
