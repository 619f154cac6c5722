// SPDX-License-Identifier: MIT
#include "runs/runs.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "examples/run.hpp"
#include "training/plot.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;

Outcome compare(const Strings& arguments) {
  Captured out, error;
  const int code = runs::run_runs(arguments, {.out = out.file(), .error = error.file()});
  return {code, out.text(), error.text()};
}

Strings in(const fs::path& folder, const char* name) {
  return {"--out", (folder / name).string()};
}

TEST(Runs, AreComparedInATableAndAPicture) {
  const TemporaryFolder folder;
  const Strings tiny_run = tiny(folder / "text") + Strings{"--steps", "9", "--tensorboard"};
  ASSERT_EQ(train(tiny_run + in(folder.path(), "first")).code, 0);

  // The same run again, by its saved options, but for one.
  const Strings again = {"--config", (folder / "first").string(), "--width", "20"};
  const Outcome second = train(again + in(folder.path(), "second"));
  ASSERT_EQ(second.code, 0) << second.error;
  const Outcome third = train(Strings{"--config", (folder / "first/metrics.jsonl").string()} +
                              in(folder.path(), "third"));
  ASSERT_EQ(third.code, 0) << third.error;
  const auto records = records_of(folder / "first"), same = records_of(folder / "third");
  EXPECT_TRUE(std::equal(records.begin() + 1, records.end(), same.begin() + 1, same.end()));

  int events = 0;
  for (const auto& entry : fs::directory_iterator(folder / "first")) {
    events += entry.path().filename().string().starts_with("events.out.tfevents.") ? 1 : 0;
  }
  EXPECT_EQ(events, 1);

  const Strings both = {(folder / "first").string(), (folder / "second/metrics.jsonl").string()};
  const Outcome table = compare(both);
  EXPECT_EQ(table.code, 0) << table.error;
  const std::vector<std::string> lines = lines_of(table.out);
  ASSERT_EQ(lines.size(), 11u) << table.out;
  EXPECT_EQ(lines[0], "bits per byte of each run");
  const double test_bits = records.back()["test_bpb"];
  EXPECT_TRUE(contains(lines[3], fmt::format("{:.4f}", test_bits)));
  EXPECT_TRUE(contains(table.out, "--width "));
  EXPECT_TRUE(contains(table.out, "--ff-width "));
  EXPECT_FALSE(contains(table.out, "--heads ")) << "which are equal";

  for (const std::string picture : {"", "c.txt"}) {
    const Outcome refused = compare(both + Strings{"--plot", picture});
    EXPECT_EQ(refused.code, training::exit_usage);
    EXPECT_EQ(refused.error, "runs: --plot is '" + picture +
                                 "'; allowed: a file whose name ends with .svg or .png\n");
    EXPECT_TRUE(refused.out.empty());
  }
  if (!training::can_plot()) {
    GTEST_SKIP() << "gnuplot is not there";
  }
  EXPECT_TRUE(contains(read_file(folder / "first/curves.svg"), "</svg>"));
  const Outcome plotted =
      compare(both + Strings{"--plot", (folder / "c.svg").string(), "--axis", "minutes"});
  EXPECT_EQ(plotted.code, 0) << plotted.error;
  EXPECT_TRUE(contains(read_file(folder / "c.svg"), "second, validation"));
}

TEST(Runs, TellWhatAutomaticPrecisionWas) {
  const TemporaryFolder folder;
  ASSERT_EQ(train(tiny(folder / "text") + Strings{"--steps", "3"} + in(folder.path(), "here")).code,
            0);
  // The same options on another machine.
  std::vector<nlohmann::json> records = records_of(folder / "here");
  ASSERT_EQ(records.front().at("options").at("precision"), "auto");
  const std::string precision = records.front().at("precision");
  records.front()["precision"] = "of_another";
  std::string elsewhere;
  for (const nlohmann::json& record : records) elsewhere += record.dump() + '\n';
  write_file(folder / "elsewhere.jsonl", elsewhere);
  const Outcome table =
      compare({(folder / "here").string(), (folder / "elsewhere.jsonl").string()});
  EXPECT_EQ(table.code, 0) << table.error;
  EXPECT_TRUE(contains(table.out, "--precision")) << table.out;
  EXPECT_TRUE(contains(table.out, precision));
  EXPECT_TRUE(contains(table.out, "of_another"));
  EXPECT_FALSE(contains(table.out, "--width")) << "which are equal";
}

TEST(Runs, RefuseWhatTheyCannotRead) {
  const TemporaryFolder folder;
  const Outcome none = compare({(folder / "none").string()});
  EXPECT_EQ(none.code, 1);
  EXPECT_TRUE(contains(none.error, "none' is missing, empty or unreadable"));
  for (const Strings& bad : {Strings{}, Strings{"x", "--axis", "hours"}, Strings{"x", "--no"}}) {
    const Outcome outcome = compare(bad);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
  }
  EXPECT_TRUE(contains(compare({"--help"}).out, "RUN"));
}

}  // namespace
}  // namespace enwik8::test
