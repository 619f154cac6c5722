// SPDX-License-Identifier: MIT
#include "enwik8/generator.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>

#include "examples/run.hpp"

namespace enwik8::test {
namespace {

/// One run for all tests.
class Generator : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    const Outcome outcome =
        train(tiny(*folder_ / "text") + Strings{"--steps", "3", "--out", run()});
    ASSERT_EQ(outcome.code, exit_success) << outcome.error;
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }

  static std::string run() { return (*folder_ / "run").string(); }
  static std::string path(const char* name) { return (*folder_ / name).string(); }

  static std::string text(const Strings& arguments) {
    const Outcome outcome = generate(Strings{"--checkpoint", run(), "--threads", "1"} + arguments);
    EXPECT_EQ(outcome.code, exit_success) << outcome.error;
    EXPECT_EQ(outcome.error, "");
    return outcome.out;
  }

  static TemporaryFolder* folder_;
};

TemporaryFolder* Generator::folder_ = nullptr;

TEST_F(Generator, WritesExactlyTheBytesItIsAskedFor) {
  EXPECT_EQ(text({"--prompt", "The ", "--length", "1"}).size(), 1u);
  // More than a window, so that it slides.
  EXPECT_EQ(text({"--prompt", "The ", "--length", "70"}).size(), 70u);
  EXPECT_EQ(text({"--length", "5"}).size(), 5u) << "without a prompt";
}

TEST_F(Generator, TheSeedDecidesAndTheThreadsDoNot) {
  const Strings common{"--prompt", "abc", "--length", "40", "--temperature", "1.5"};
  const std::string one = text(common + Strings{"--seed", "1"});
  EXPECT_EQ(text(common + Strings{"--seed", "1"}), one);
  EXPECT_NE(text(common + Strings{"--seed", "2"}), one);
  for (const char* threads : {"2", "3", "4"}) {
    EXPECT_EQ(text(common + Strings{"--seed", "1", "--threads", threads}), one) << threads;
  }
  EXPECT_EQ(text(common + Strings{"--seed", "1", "--length", "20"}), one.substr(0, 20));
}

TEST_F(Generator, TheMostLikelyByteNeedsNoSeed) {
  const Strings common{"--prompt", "abc", "--length", "20"};
  const std::string greedy = text(common + Strings{"--temperature", "0"});
  EXPECT_EQ(text(common + Strings{"--temperature", "0", "--seed", "9"}), greedy);
  EXPECT_EQ(text(common + Strings{"--top-k", "1"}), greedy);
  EXPECT_EQ(text(common + Strings{"--top-p", "1e-9"}), greedy);
}

TEST_F(Generator, StopsWhereItIsTold) {
  const Strings common{"--prompt", "abc", "--length", "200", "--temperature", "1.5"};
  const std::string whole = text(common);
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto letter = std::find_if(whole.begin() + 20, whole.end(), is_letter);
  ASSERT_NE(letter, whole.end());
  const std::string stops = std::string(1, *letter) + ' ';
  EXPECT_EQ(text(common + Strings{"--stop", stops}), whole.substr(0, whole.find_first_of(stops)));
}

TEST_F(Generator, PenalisesRepetition) {
  const auto different = [&](const char* penalty) {
    const std::string written =
        text({"--length", "60", "--temperature", "0", "--repetition-penalty", penalty});
    return std::set<char>(written.begin(), written.end()).size();
  };
  EXPECT_GT(different("9"), different("1"));
}

TEST_F(Generator, ReadsThePromptFromAFile) {
  const std::string prompt("a\0\xff\nb", 5);
  write_file(*folder_ / "prompt", prompt);
  EXPECT_EQ(text({"--prompt-file", path("prompt"), "--length", "9"}).size(), 9u);
  write_file(*folder_ / "prompt", "The ");
  EXPECT_EQ(text({"--prompt-file", path("prompt"), "--length", "9"}),
            text({"--prompt", "The ", "--length", "9"}));
}

TEST_F(Generator, TakesTheFileOfACheckpointToo) {
  const Outcome outcome = generate(
      {"--checkpoint", run() + "/checkpoint.safetensors", "--length", "9", "--threads", "1"});
  EXPECT_EQ(outcome.out, text({"--length", "9"}));
}

TEST_F(Generator, ShowsHelp) {
  const Outcome outcome = generate({"--help"});
  EXPECT_EQ(outcome.code, exit_success);
  EXPECT_TRUE(contains(outcome.out, "--top-p"));
}

TEST_F(Generator, RefusesWithOneLine) {
  const auto refuses = [](const Strings& arguments, int code, const std::string& part) {
    const Outcome outcome = generate(arguments);
    EXPECT_EQ(outcome.code, code) << part;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
    EXPECT_TRUE(contains(outcome.error, "enwik8_generate: "));
    EXPECT_TRUE(contains(outcome.error, part));
  };
  refuses({}, exit_usage, "--checkpoint is missing");
  refuses({"--checkpoint", run(), "--length", "0"}, exit_usage, "--length is '0'");
  refuses({"--checkpoint", run(), "--top-p", "2"}, exit_usage, "--top-p is '2'");
  refuses({"--checkpoint", path("none")}, exit_failure, "none': No such file or directory");
  refuses({"--checkpoint", folder_->path().string()}, exit_failure,
          "checkpoint.safetensors': No such file or directory");
  refuses({"--checkpoint", path("text")}, exit_failure, "is not a checkpoint");
  refuses({"--checkpoint", run(), "--prompt-file", path("none")}, exit_failure,
          "none' cannot be read");
  refuses({"--checkpoint", run(), "--prompt-file", run()}, exit_failure, "cannot be read");
  write_file(*folder_ / "image", "\x89PNG\r\n\x1a\n");
  refuses({"--checkpoint", run(), "--prompt-file", path("image")}, exit_failure,
          "image' is a PNG image, not raw bytes: give a text");
  refuses({"--checkpoint", path("image")}, exit_failure, "is not a checkpoint but a PNG image");
  const std::string whole = read_file(*folder_ / "run/checkpoint.safetensors");
  write_file(*folder_ / "cut", whole.substr(0, whole.size() - 7));
  refuses({"--checkpoint", path("cut")}, exit_failure, "is truncated");
  const auto refuses_other = [&](const auto& change, const std::string& part) {
    std::filesystem::copy(run(), path("other"), std::filesystem::copy_options::recursive);
    change_state(*folder_ / "other", change);
    refuses({"--checkpoint", path("other")}, exit_failure, part);
    std::filesystem::remove_all(path("other"));
  };
  refuses_other([](auto& state) { state = {{"something", "else"}}; }, "it has no options");
  refuses_other([](auto& state) { state["options"]["layers"] = "local,lsh,lsh"; },
                "does not fit: 'layers.2.attention.layer_norm.weight' is missing in the file");
}

TEST_F(Generator, RefusesEveryValueThatMeansNothing) {
  const Strings no_whole{"", "x", "-1", "1.5", "nan", "0x10", "1 ", "99999999999999999999"};
  const Strings no_real{"", "x", "-1", "nan", "inf", "1e39", "1e400", "1,5"};
  const std::vector<std::pair<std::string, Strings>> cases{
      {"length", no_whole + Strings{"0", "1000000001"}},
      {"top-k", no_whole},
      {"threads", no_whole + Strings{"4097"}},
      {"hashes", no_whole + Strings{"1025"}},
      {"seed", no_whole + Strings{"18446744073709551616"}},
      {"temperature", no_real},
      {"top-p", no_real + Strings{"0", "1.1", "1e-50"}},
      {"repetition-penalty", no_real + Strings{"0", "1e-50"}},
      {"checkpoint", {""}},
      {"prompt-file", {""}},
      {"stop", {""}}};
  for (const auto& [name, values] : cases) {
    for (const std::string& value : values) {
      const Outcome outcome = generate({"--checkpoint", run(), "--" + name + "=" + value});
      EXPECT_EQ(outcome.code, exit_usage) << name;
      EXPECT_EQ(outcome.out, "");
      EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
      const std::string start = "enwik8_generate: --" + name;
      EXPECT_TRUE(contains(outcome.error, value.empty()
                                              ? start + " needs a value"
                                              : start + " is '" + value + "'; allowed: "));
    }
  }
  // The ends of the ranges are numbers that can be computed with.
  for (const Strings& more : {Strings{"--temperature", "1e-38"},
                              {"--temperature", "3e38"},
                              {"--top-p", "2e-38"},
                              {"--top-k", "1000000000000"},
                              {"--repetition-penalty", "3e38"},
                              {"--repetition-penalty", "2e-38"}}) {
    EXPECT_EQ(text(Strings{"--length", "20"} + more).size(), 20u) << more[0] << " " << more[1];
  }
}

TEST_F(Generator, SaysWhenTheTextCannotBeWritten) {
  Captured error;
  std::FILE* full = std::fopen("/dev/full", "w");
  if (full == nullptr) {
    GTEST_SKIP() << "there is no /dev/full";
  }
  const int code = run_generator({"--checkpoint", run(), "--threads", "1"},
                                 {.out = full, .error = error.file()});
  std::fclose(full);
  EXPECT_EQ(code, exit_failure);
  EXPECT_TRUE(contains(error.text(), "cannot write the text: No space left on device"));
}

}  // namespace
}  // namespace enwik8::test
