// SPDX-License-Identifier: MIT
#include "enwik8/evaluator.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>

#include "examples/run.hpp"
#include "reformer/products/precision_kernel.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;

/// One run for all tests, with evaluations split by distance.
class Evaluator : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const Outcome outcome = train(tiny(*folder_ / "text") +
                                  Strings{"--steps", "60", "--learning-rate", "0.01",
                                          "--by-distance", "--eval-overlap", "20", "--out", run()});
    ASSERT_EQ(outcome.code, exit_success) << outcome.error;
    EXPECT_TRUE(contains(outcome.out, "bits per byte\n")) << "the table has a heading";
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  static std::string run() { return (*folder_ / "run").string(); }

  static std::string text(const Strings& arguments) {
    const Outcome outcome = evaluate(Strings{"--checkpoint", run(), "--threads", "1"} + arguments);
    EXPECT_EQ(outcome.code, exit_success) << outcome.error;
    EXPECT_EQ(outcome.error, "");
    return outcome.out;
  }
  static double bits(const Strings& arguments) {
    const std::string out = text(arguments);
    return std::stod(out.substr(out.find("bytes: ") + 7));
  }

  static TemporaryFolder* folder_;
};

TemporaryFolder* Evaluator::folder_ = nullptr;

TEST_F(Evaluator, NamesThePrecisionOfItsProducts) {
  EXPECT_TRUE(contains(text({}), std::string(" bits per byte, in ") +
                                     name_of(reformer::fastest_precision()) + "\n"));
}

TEST_F(Evaluator, GivesWhatTheTrainerGave) {
  const nlohmann::json test = records_of(*folder_ / "run").back();
  EXPECT_NEAR(bits({"--split", "test"}), test.at("test_bpb").get<double>(), 5e-5);
  EXPECT_NEAR(bits({}), test.at("validation_bpb").get<double>(), 5e-5);
  EXPECT_TRUE(contains(text({"--bytes", "100"}), "validation split of "));
  EXPECT_TRUE(contains(text({"--bytes", "100"}), ", 100 bytes: "));

  // The classes of the trainer hold every byte once.
  std::int64_t bytes = 0;
  double sum = 0;
  for (const nlohmann::json& entry : test.at("by_distance")) {
    const auto n = entry.at("bytes").get<std::int64_t>();
    bytes += n;
    sum += n > 0 ? entry.at("bpb").get<double>() * static_cast<double>(n) : 0;
  }
  EXPECT_EQ(bytes, test.at("bytes"));
  EXPECT_NEAR(sum / static_cast<double>(bytes), test.at("test_bpb").get<double>(), 1e-9);
  EXPECT_EQ(lines_of(text({"--split", "test", "--by-distance"})).size(),
            2 + test.at("by_distance").size());
}

TEST_F(Evaluator, SaysWhatIsWrongWithACheckpoint) {
  const auto error_of = [&](const fs::path& place) {
    Captured out, error;
    EXPECT_EQ(
        run_evaluator({"--checkpoint", place.string()}, {.out = out.file(), .error = error.file()}),
        exit_failure);
    return error.text();
  };
  const TemporaryFolder other;
  for (const nlohmann::json& data :
       {nlohmann::json(), nlohmann::json(5), nlohmann::json("text"),
        nlohmann::json{{"source", "a"}, {"bytes", "4000"}, {"crc32", 1}},
        nlohmann::json{{"source", "a"}, {"bytes", 4000}}}) {
    fs::copy(*folder_ / "run", other / "run",
             fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    change_state(other / "run", [&](nlohmann::json& state) { state["data"] = data; });
    EXPECT_TRUE(contains(error_of(other / "run"), "what it says of its data is not readable"))
        << data;
  }
  const Checkpoint checkpoint(*folder_ / "run/checkpoint.safetensors");
  TokenModel model(saved_options(checkpoint), vocabulary, TokenModel::Use::training);
  model.load(checkpoint);
  const auto parameters = model.parameters();
  parameters.back().values.front() = std::numeric_limits<float>::infinity();
  const fs::path infinite = other / "infinite.safetensors";
  model.save(infinite, checkpoint.step(), checkpoint.state());
  EXPECT_EQ(error_of(infinite), "enwik8_evaluate: '" + infinite.string() +
                                    "': " + parameters.back().name + " is not finite\n");
  for (const auto& parameter : parameters) {
    for (std::size_t i = 0; i < parameter.values.size(); ++i) {
      parameter.values[i] = i % 2 == 0 ? 3e38F : -3e38F;
    }
  }
  model.save(infinite, checkpoint.step(), checkpoint.state());
  EXPECT_TRUE(contains(error_of(infinite), "are not finite, or too large"));

  ASSERT_EQ(::mkfifo((other / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(contains(error_of(other / "pipe"), "pipe': is not a regular file"));
}

TEST_F(Evaluator, LetsWindowsOverlap) {
  const nlohmann::json cold = records_of(*folder_ / "run").back();
  const std::string out = text({"--split", "test", "--overlap", "20", "--by-distance"});
  EXPECT_TRUE(contains(out, fmt::format(", {} bytes: ", cold.at("bytes").get<std::int64_t>())));
  std::int64_t bytes = 0;
  const auto lines = lines_of(out);
  for (std::size_t i = 2; i < lines.size(); ++i) {
    bytes += std::stoll(lines[i].substr(30, 11));
  }
  EXPECT_EQ(bytes, cold.at("bytes")) << "each byte is in one class";
  const std::vector<nlohmann::json> records = records_of(*folder_ / "run");
  const auto overlapping = std::find_if(records.begin(), records.end(), [](const auto& record) {
    return record.at("type") == "test_overlapping";
  });
  ASSERT_NE(overlapping, records.end());
  EXPECT_EQ(overlapping->at("bytes"), cold.at("bytes"));
  EXPECT_NE(overlapping->at("test_bpb"), cold.at("test_bpb"));
  EXPECT_NEAR(bits({"--split", "test", "--overlap", "20"}),
              overlapping->at("test_bpb").get<double>(), 5e-5);
}

TEST_F(Evaluator, ChangesHashingAndLeavesLayersOut) {
  const double all = bits({});
  // What is printed of a model that knows little may be the same by chance, but not three times.
  const auto expect_changed_by = [&](const std::string& option, const Strings& values) {
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [&](const std::string& value) {
      return bits({option, value}) != all;
    })) << option;
  };
  expect_changed_by("--hashes", {"1", "8", "16"});
  expect_changed_by("--buckets", {"2", "8,8", "16,16"});
  expect_changed_by("--chunk-length", {"1", "2", "64"});
  EXPECT_NE(bits({"--without", "1"}), all);
  EXPECT_NE(bits({"--without", "1,2"}), bits({"--without", "1"}));
  EXPECT_EQ(bits({"--without", "0"}), all);
}

TEST_F(Evaluator, CountsWhatHashingFinds) {
  const std::string out = text({"--matches"});
  EXPECT_TRUE(contains(out, "layer 2, match is back")) << "the layer that hashes";
  EXPECT_FALSE(contains(out, "layer 1, match is back"));
}

TEST_F(Evaluator, SaysWhatIsWrongInOneLine) {
  const std::vector<std::pair<Strings, std::string>> cases{
      {{}, "--checkpoint is missing"},
      {{"--checkpoint", "nowhere"}, "nowhere"},
      {{"--checkpoint", run(), "--split", "all"}, "--split is 'all'; allowed: train"},
      {{"--checkpoint", run(), "--without", "9"}, "--without is '9'; allowed: layers from 1 to 2"},
      {{"--checkpoint", run(), "--buckets", "7"}, "--buckets is '7'; allowed: an even number"},
      {{"--checkpoint", run(), "--data", "nowhere"}, "nowhere"}};
  for (const auto& [arguments, part] : cases) {
    const Outcome outcome = evaluate(arguments);
    EXPECT_NE(outcome.code, exit_success) << part;
    EXPECT_EQ(outcome.out, "") << part;
    EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
    EXPECT_TRUE(contains(outcome.error, part));
  }
}

TEST_F(Evaluator, KnowsTheDataOfTheRun) {
  const std::string before = read_file(*folder_ / "text");
  write_file(*folder_ / "text", before.substr(1) + "x");
  const Outcome outcome = evaluate({"--checkpoint", run(), "--threads", "1"});
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_TRUE(contains(outcome.error, "but the run in '" + run() + "' was made with '"));
  bits({"--data", (*folder_ / "text").string()});  // whoever names another one wants that
  write_file(*folder_ / "text", before);
}

TEST_F(Evaluator, RefusesEveryValueThatMeansNothing) {
  const Strings no_whole{"", "x", "-1", "1.5", "nan", "0x10", "1 ", "99999999999999999999"};
  const std::vector<std::pair<std::string, Strings>> cases{
      {"checkpoint", {""}},
      {"data", {""}},
      {"split", {"", "all", "Test"}},
      {"bytes", no_whole},
      {"overlap", no_whole + Strings{"100000"}},
      {"hashes", no_whole + Strings{"1025"}},
      {"buckets", no_whole + Strings{"7", "16,3", "65536", "256,258", ","}},
      {"chunk-length", no_whole + Strings{"16777217"}},
      {"without", no_whole + Strings{"3", "1,,2"}},
      {"threads", no_whole + Strings{"4097"}}};
  for (const auto& [name, values] : cases) {
    for (const std::string& value : values) {
      const Outcome outcome = evaluate({"--checkpoint", run(), "--" + name + "=" + value});
      EXPECT_EQ(outcome.code, exit_usage) << name << " " << value;
      EXPECT_EQ(outcome.out, "");
      EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
      const std::string start = "enwik8_evaluate: --" + name;
      EXPECT_TRUE(contains(outcome.error, value.empty() ? start + " needs a value"
                                                        : start + " is '" + value + "'; allowed: "))
          << outcome.error;
    }
  }
}

}  // namespace
}  // namespace enwik8::test
