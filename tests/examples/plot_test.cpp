// SPDX-License-Identifier: MIT
#include "training/plot.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "examples/support.hpp"
#include "training/run_record.hpp"

namespace training::test {
namespace {

namespace fs = std::filesystem;

constexpr const char* metrics =
    R"({"type":"header","options":{"seed":1}}
{"type":"train","step":10,"bpb":5.5,"seconds":6,"tokens":100,"tokens_per_second":50.0,"memory_bytes":7}
{"type":"validation","step":10,"validation_bpb":5.25,"seconds":7}
{"type":"train","step":20,"bpb":null,"seconds":12,"tokens":200,"tokens_per_second":60.0,"memory_bytes":9}
{"type":"test","final":true,"step":20,"test_bpb":5.0,"validation_bpb":4.5,"seconds":13,"peak_memory_bytes":8}
)";

TEST(RunRecord, ReadsCurvesAndOutcome) {
  const TemporaryFolder folder;
  write_file(folder / "metrics.jsonl", metrics + std::string("{\"type\":\"tr"));  // being written
  const RunRecord run = read_run(folder.path());
  ASSERT_EQ(run.train.size(), 1u) << "what was not finite is no point";
  EXPECT_EQ(run.train[0].step, 10);
  EXPECT_EQ(run.train[0].seconds, 6);
  EXPECT_EQ(run.train[0].bits, 5.5);
  ASSERT_EQ(run.validation.size(), 1u);
  EXPECT_EQ(run.validation[0].bits, 5.25);
  EXPECT_EQ(run.test_bits, 5.0);
  EXPECT_EQ(run.tokens, 200);
  EXPECT_EQ(run.tokens_per_second, 60);
  EXPECT_EQ(run.memory_bytes, 9);
  EXPECT_EQ(run.header["options"]["seed"], 1);
  EXPECT_EQ(read_run(folder / "metrics.jsonl").name, run.name);
}

TEST(RunRecord, SaysWhatIsNoRun) {
  const TemporaryFolder folder;
  const auto message = [&](const char* name) {
    return message_of<std::runtime_error>([&] { read_run(folder / name); });
  };
  EXPECT_TRUE(contains(message("none"), "none' is missing, empty or unreadable; allowed: "));
  write_file(folder / "empty", "");
  EXPECT_TRUE(contains(message("empty"), "empty' is missing, empty or unreadable"));
  write_file(folder / "text", "words\n");
  EXPECT_TRUE(contains(message("text"), "text': its first line is not a header of metrics"));
  write_file(folder / "broken", "{\"type\":\"header\"}\n{\"type\":\n{}\n");
  EXPECT_TRUE(contains(message("broken"), "broken': line 2 is not a JSON object"));
  write_file(folder / "kinds", R"({"type":"header","options":5})");
  EXPECT_TRUE(contains(message("kinds"), "kinds': its header has 5 as 'options'"));
  write_file(folder / "types", "{\"type\":\"header\"}\n{\"type\":7}\n");
  EXPECT_TRUE(read_run(folder / "types").train.empty());
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(contains(message("pipe"), "pipe' is missing, empty or unreadable"));
}

class Plot : public testing::Test {
 protected:
  Plot() {
    RunRecord run;
    run.name = "a 'quoted' name";
    run.train = {{1, 60, 8}, {2, 120, 7.5}};
    run.validation = {{2, 120, 7.25}};
    runs = {run, RunRecord()};
  }
  TemporaryFolder folder;
  std::vector<RunRecord> runs;
};

TEST_F(Plot, ScriptHasThePointsOfEachCurve) {
  const std::string script = plot_script("x.svg", runs, "bits per byte", PlotAxis::minutes);
  EXPECT_TRUE(contains(script, "$curve0 << EOD\n1 8\n2 7.5\nEOD\n"));
  EXPECT_TRUE(contains(script, "$curve1 << EOD\n2 7.25\nEOD\n"));
  EXPECT_TRUE(contains(script, "title 'a ''quoted'' name, training'"));
  EXPECT_TRUE(contains(script, "set ylabel 'bits per byte'"));
  EXPECT_TRUE(contains(plot_script("x.svg", runs, "", PlotAxis::steps), "EOD\n1 8\n2 7.5\nEOD"));
  EXPECT_FALSE(contains(script, "$curve2")) << "of a run without records";
}

TEST_F(Plot, RefusesWhatItCannotDraw) {
  const auto message = [&](const char* name, const std::vector<RunRecord>& of) {
    return message_of<std::runtime_error>([&] { plot_script(name, of, "", PlotAxis::steps); });
  };
  EXPECT_TRUE(
      contains(message("x.pdf", runs), "'x.pdf'; allowed: a name that ends in .svg or .png"));
  EXPECT_TRUE(contains(message("x.svg", {RunRecord()}), "nothing to draw"));
}

TEST_F(Plot, DrawsBothKindsOfPictures) {
  if (!can_plot()) {
    GTEST_SKIP() << "gnuplot is not there";
  }
  plot(folder / "it's.svg", runs, "bits per byte", PlotAxis::steps);
  plot(folder / "b.png", runs, "bits per byte", PlotAxis::steps);
  EXPECT_TRUE(contains(read_file(folder / "it's.svg"), "</svg>"));
  EXPECT_TRUE(read_file(folder / "b.png").starts_with("\x89PNG\r\n"));
  EXPECT_TRUE(contains(message_of<std::runtime_error>(
                           [&] { plot(folder / "none" / "c.svg", runs, "", PlotAxis::steps); }),
                       "gnuplot could not draw '"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 2)
      << "nothing else is left";
}

}  // namespace
}  // namespace training::test
