// SPDX-License-Identifier: MIT
// What only the programs themselves do: signals, standard streams, exit codes.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <thread>

#include "enwik8/corpus.hpp"
#include "examples/run.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;

/// A program of the build this test belongs to, or an empty path.
fs::path program(const std::string& name) {
  const fs::path path = program_path().parent_path().parent_path() / "examples" / "enwik8" / name;
  return fs::exists(path) ? path : fs::path();
}

/// A running program, with its output in files.
class Process {
 public:
  Process(const fs::path& program, const Strings& arguments, const fs::path& out,
          const fs::path& error) {
    Strings words = Strings{program.string()} + arguments;
    std::vector<char*> pointers;
    for (std::string& word : words) {
      pointers.push_back(word.data());
    }
    pointers.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      constexpr int flags = O_CREAT | O_TRUNC | O_WRONLY;
      ::dup2(::open(out.c_str(), flags, 0666), STDOUT_FILENO);
      ::dup2(::open(error.c_str(), flags, 0666), STDERR_FILENO);
      ::execv(pointers[0], pointers.data());
      ::_exit(127);
    }
  }
  ~Process() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      wait();
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t id() const { return pid_; }
  void send(int signal) const { ::kill(pid_, signal); }

  /// The same if it ends within this time.
  std::optional<int> wait_at_most(std::chrono::duration<double> limit) {
    const auto end = std::chrono::steady_clock::now() + limit;
    while (std::chrono::steady_clock::now() < end) {
      int status = 0;
      if (::waitpid(pid_, &status, WNOHANG) == pid_) {
        pid_ = -1;
        return status;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return std::nullopt;
  }

  /// As `waitpid` tells.
  int wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return status;
  }

 private:
  pid_t pid_ = -1;
};

bool wait_for(const fs::path& file, const std::string& text) {
  for (int i = 0; i < 6000; ++i) {
    if (read_file(file).find(text) != std::string::npos) {
      return true;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

class Program : public testing::Test {
 protected:
  void SetUp() override {
    if (program("enwik8").empty() || program("enwik8_generate").empty()) {
      GTEST_SKIP() << "the programs are not built";
    }
  }

  TemporaryFolder folder_;
  fs::path out_ = folder_ / "out";
  fs::path error_ = folder_ / "error";
};

TEST_F(Program, ASignalEndsTheRunWithACheckpoint) {
  for (const int signal : {SIGINT, SIGTERM}) {
    const fs::path run = folder_ / ("run" + std::to_string(signal));
    Process process(program("enwik8"),
                    tiny(folder_ / "text") + Strings{"--steps", "1000000", "--out", run.string()},
                    out_, error_);
    ASSERT_TRUE(wait_for(run / "metrics.jsonl", "\"train\""));
    process.send(signal);
    const int status = process.wait();
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), exit_interrupted);
    EXPECT_TRUE(contains(read_file(out_), "enwik8 --resume --out " + run.string()));
    EXPECT_GE(Checkpoint(run / checkpoint_name).step(), 3);
  }
}

// A file that is opened where the terminal was would get what is meant for it, and an error that
// cannot be told is no reason to end otherwise.
TEST_F(Program, WorksWithoutStandardStreams) {
  const auto closed = [&](const char* name, const std::string& arguments, const char* streams) {
    return std::system(("exec '" + program(name).string() + "' " + arguments + " " + streams +
                        " 2>'" + error_.string() + "'" + " " + streams)
                           .c_str());
  };
  const Strings words = tiny(folder_ / "text") + Strings{"--steps", "9", "--log-every", "1"};
  std::string arguments;
  for (const std::string& word : words) arguments += "'" + word + "' ";
  const auto out = [&](const char* name) { return "--out '" + (folder_ / name).string() + "'"; };
  EXPECT_EQ(closed("enwik8", arguments + out("a"), ">&- <&-"), 0) << read_file(error_);
  EXPECT_EQ(records_of(folder_ / "a").back().at("type"), "test");  // all lines are records
  EXPECT_EQ(closed("enwik8", "--steps many", ">&- 2>&-"), 0x200);

  // A result that is lost is an error.
  const std::string checkpoint = "--checkpoint '" + (folder_ / "a").string() + "'";
  for (const auto& [name, what] : {std::pair{"enwik8_evaluate", checkpoint},
                                   std::pair{"enwik8_evaluate", std::string("--help")},
                                   std::pair{"enwik8", std::string("--help")}}) {
    EXPECT_EQ(closed(name, what, ">/dev/full"), 0x100);
    EXPECT_EQ(read_file(error_),
              std::string(name) + ": cannot write to standard output: No space left on device\n");
  }
}

/// A number in the environment, which scripts/kill_while_saving.sh sets.
int number_of(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text == nullptr ? otherwise : std::stoi(text);
}

TEST_F(Program, KilledAtAnyMomentItEndsWithTheSameBits) {
  const int kills = number_of("REFORMER_KILLS", 5);
  std::mt19937 random(static_cast<unsigned>(number_of("REFORMER_KILL_SEED", 1)));
  // Wide, so that saving takes more time than a step; and it saves after every step.
  const Strings options =
      tiny(folder_ / "text") + Strings{"--width",       "128", "--steps",        "10",
                                       "--dropout",     "0.1", "--save-minutes", "1e-9",
                                       "--final-bytes", "50"};
  const auto start = [&](const fs::path& run) { return options + Strings{"--out", run.string()}; };
  const auto clock = std::chrono::steady_clock::now();
  ASSERT_EQ(Process(program("enwik8"), start(folder_ / "straight"), out_, error_).wait(), 0);
  const std::chrono::duration<double> alone = std::chrono::steady_clock::now() - clock;
  auto expected_records = records_of(folder_ / "straight");
  expected_records[0] = {};
  const Snapshot expected = snapshot_of(folder_ / "straight");

  std::uniform_real_distribution<double> moment(0, alone.count());
  int killed = 0, runs = 0, while_writing = 0;
  for (const fs::path run = folder_ / "run"; killed < kills; ++runs) {
    fs::remove_all(run);
    int status = 0;
    do {
      const bool resumed = fs::exists(run / "checkpoint.safetensors");
      Process process(program("enwik8"),
                      resumed ? Strings{"--resume", "--out", run.string()} : start(run), out_,
                      error_);
      if (killed < kills) {
        std::this_thread::sleep_for(std::chrono::duration<double>(moment(random)));
        process.send(SIGKILL);
      }
      status = process.wait();
      if (WIFSIGNALED(status)) {
        ++killed;
        if (fs::exists(run / "checkpoint.safetensors")) {
          ASSERT_TRUE(fs::exists(run / "options.json")) << "a checkpoint without its options";
        }
        while_writing += fs::exists(run / "checkpoint.safetensors.tmp") ? 1 : 0;
      }
    } while (WIFSIGNALED(status));
    ASSERT_EQ(status, 0) << read_file(error_);
    ASSERT_EQ(snapshot_of(run), expected) << "after " << killed << " kills";
    auto records = records_of(run);
    records[0] = {};
    ASSERT_EQ(records, expected_records) << "after " << killed << " kills";
    for (const auto& entry : fs::directory_iterator(run)) {
      const std::string name = entry.path().filename().string();
      ASSERT_TRUE(name == "checkpoint.safetensors" || name == "metrics.jsonl" ||
                  name == "options.json" || name == "curves.svg")
          << name << " is left";
    }
  }
  std::printf("%d kills in %d runs, %d of them while a checkpoint was written\n", killed, runs,
              while_writing);
}

#ifdef MPIEXEC
/// Ranks as processes.
class RankedProgram : public Program {
 protected:
  void SetUp() override {
    Program::SetUp();
    // Also in a container, as root, and with more ranks than processors.
    for (const char* name : {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
                             "OMPI_MCA_rmaps_base_oversubscribe"}) {
      ::setenv(name, "1", 0);
    }
    ::setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0);
  }

  static Strings ranks(int count, const Strings& arguments) {
    return Strings{"-n", std::to_string(count), program("enwik8").string()} + arguments;
  }
  Strings start(const std::string& run) const {
    return tiny(folder_ / "text") + Strings{"--width",        "128",
                                            "--steps",        "10",
                                            "--accumulate",   "4",
                                            "--dropout",      "0.1",
                                            "--save-minutes", "1e-9",
                                            "--final-bytes",  "50",
                                            "--out",          (folder_ / run).string()};
  }
  int train_alone(const std::string& run) {
    return Process(program("enwik8"), start(run), out_, error_).wait();
  }
};

/// The processes that a process has started and that have not ended, whether it knows or not.
std::vector<pid_t> children_of(pid_t parent) {
  const std::string id = std::to_string(parent);
  std::istringstream stream(read_file("/proc/" + id + "/task/" + id + "/children"));
  std::vector<pid_t> children;
  for (pid_t child = 0; stream >> child;) {
    const std::string status = read_file("/proc/" + std::to_string(child) + "/status");
    if (!status.empty() && !contains(status, "State:\tZ")) {
      children.push_back(child);
    }
  }
  return children;
}

TEST_F(RankedProgram, GivesTheBitsOfOneProcess) {
  ASSERT_EQ(train_alone("alone"), 0);
  for (const int count : {2, 3}) {
    const std::string run = std::to_string(count);
    ASSERT_EQ(Process(MPIEXEC, ranks(count, start(run)), out_, error_).wait(), 0)
        << read_file(error_);
    EXPECT_EQ(snapshot_of(folder_ / run), snapshot_of(folder_ / "alone")) << count << " ranks";
    auto records = records_of(folder_ / run), expected = records_of(folder_ / "alone");
    EXPECT_EQ(records[0].at("ranks"), count);
    records[0] = expected[0] = {};
    EXPECT_EQ(records, expected) << count << " ranks";
  }
}

TEST_F(RankedProgram, AnErrorOfOneRankEndsAll) {
  ASSERT_EQ(train_alone("alone"), 0);
  // The first rank cannot write its checkpoint where a folder of that name stands.
  fs::create_directories(folder_ / "run" / "checkpoint.safetensors.tmp" / "x");
  const auto clock = std::chrono::steady_clock::now();
  EXPECT_NE(Process(MPIEXEC, ranks(2, start("run")), out_, error_).wait(), 0);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - clock;
  EXPECT_LT(seconds.count(), 10);
  EXPECT_TRUE(contains(read_file(error_), "enwik8: "));
}

/// scripts/kill_ranks.sh kills more often.
TEST_F(RankedProgram, AKilledRankEndsAllAndTheLastCheckpointGoesOn) {
  const int kills = number_of("REFORMER_KILLS", 2);
  std::mt19937 random(static_cast<unsigned>(number_of("REFORMER_KILL_SEED", 1)));
  const auto clock = [] { return std::chrono::steady_clock::now(); };
  auto begin = clock();
  ASSERT_EQ(Process(MPIEXEC, ranks(2, start("straight")), out_, error_).wait(), 0)
      << read_file(error_);
  std::uniform_real_distribution<double> moment(
      0, std::chrono::duration<double>(clock() - begin).count());
  const Snapshot expected = snapshot_of(folder_ / "straight");
  int killed = 0, runs = 0, hung = 0;
  double slowest = 0;
  for (const fs::path run = folder_ / "run"; killed < kills; ++runs) {
    fs::remove_all(run);
    int status = -1;
    for (int begun = 0; status != 0; ++begun) {
      ASSERT_LT(begun, 100 + kills) << read_file(error_);
      const int count = 1 + static_cast<int>(random() % 3);  // what was saved by two goes on by any
      const bool is_resumed = fs::exists(run / checkpoint_name);
      Process process(
          MPIEXEC,
          ranks(count, is_resumed ? Strings{"--resume", "--out", run.string()} : start("run")),
          out_, error_);
      bool has_killed = false;
      if (killed < kills) {
        std::this_thread::sleep_for(std::chrono::duration<double>(moment(random)));
        if (const auto children = children_of(process.id()); !children.empty()) {
          has_killed = ::kill(children[random() % children.size()], SIGKILL) == 0;
        }
      }
      begin = clock();
      if (has_killed) {
        const auto ended = process.wait_at_most(std::chrono::seconds(10));
        ASSERT_TRUE(ended || children_of(process.id()).empty())
            << "ranks are there still, 10 s after one was killed";
        // Open MPI's own end may lock itself up (PMIx_server_finalize of 4.2.2) when all ranks are
        // gone.
        if (ended) {
          slowest = std::max(slowest, std::chrono::duration<double>(clock() - begin).count());
        } else {
          ++hung;
          process.send(SIGKILL);
        }
        status = ended ? *ended : process.wait();
      } else {
        status = process.wait();
      }
      if (has_killed && status != 0) {
        ++killed;
        EXPECT_NE(read_file(error_), "") << "nothing says what has happened";
      } else {
        ASSERT_EQ(status, 0) << read_file(error_);
      }
    }
    ASSERT_EQ(snapshot_of(run), expected) << "after " << killed << " kills";
    std::printf("%d kills in %d runs\n", killed, runs + 1);
    std::fflush(stdout);
  }
  std::printf("%d kills in %d runs; all had ended within %.1f s, but for mpirun itself %d times\n",
              killed, runs, slowest, hung);
}
#endif

TEST_F(Program, ASecondSignalEndsItAtOnce) {
  const fs::path run = folder_ / "run";
  Process process(program("enwik8"),
                  tiny(folder_ / "text") +
                      Strings{"--steps", "10", "--accumulate", "1000000", "--out", run.string()},
                  out_, error_);
  ASSERT_TRUE(wait_for(run / "metrics.jsonl", "\"header\""));
  // A signal that comes before the first step begins ends the run without a second one, and nothing
  // that the program writes tells when it begins.
  std::this_thread::sleep_for(std::chrono::seconds(1));
  process.send(SIGINT);
  ASSERT_TRUE(wait_for(error_, "once more to stop at once"));
  process.send(SIGINT);
  const int status = process.wait();
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGINT);
  EXPECT_EQ(Checkpoint(run / checkpoint_name).step(), 0);
}

TEST_F(Program, ExitCodesAndStreams) {
  const auto exit_code = [&](const char* name, const Strings& arguments) {
    const int status = Process(program(name), arguments, out_, error_).wait();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  };
  for (const char* name : {"enwik8", "enwik8_generate"}) {
    EXPECT_EQ(exit_code(name, {"--help"}), exit_success);
    EXPECT_TRUE(contains(read_file(out_), "--threads"));
    EXPECT_EQ(read_file(error_), "");
    EXPECT_EQ(exit_code(name, {"--no-such"}), exit_usage);
    EXPECT_EQ(read_file(out_), "");
    EXPECT_TRUE(contains(read_file(error_), std::string(name) + ": unknown option"));
  }
  EXPECT_EQ(exit_code("enwik8", {"--data", (folder_ / "none").string()}), exit_failure);

  const std::string run = (folder_ / "run").string();
  EXPECT_EQ(exit_code("enwik8", tiny(folder_ / "text") + Strings{"--steps", "2", "--out", run}),
            exit_success);
  EXPECT_TRUE(lines_of(read_file(out_)).back().starts_with("test bits per byte: "));
  EXPECT_EQ(exit_code("enwik8_generate", {"--checkpoint", run, "--length", "11"}), exit_success);
  EXPECT_EQ(read_file(out_).size(), 11u);
}

/// What run.sh does before it builds, in a tree in which it cannot build.
class RunScript : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* file :
         {"examples/enwik8/run.sh", "examples/enwik8/help.txt", "scripts/setup.sh"}) {
      fs::create_directories((folder_ / file).parent_path());
      fs::copy_file(fs::path(SOURCE_DIR) / file, folder_ / file);
    }
  }
  int run(const Strings& arguments) const {
    const int status =
        Process("/bin/bash", Strings{(folder_ / "examples/enwik8/run.sh").string()} + arguments,
                folder_ / "out", folder_ / "error")
            .wait();
    EXPECT_FALSE(fs::exists(folder_ / "build"));
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  TemporaryFolder folder_;
};

TEST_F(RunScript, AnswersForHelpWithoutBuilding) {
  const std::string help = read_file(SOURCE_DIR "/examples/enwik8/help.txt");
  for (const Strings& arguments :
       {Strings{"--help"}, {"-h"}, {"--data", "--help", "-h"}, {"--resume", "--out=x", "--help"}}) {
    EXPECT_EQ(run(arguments), 0);
    EXPECT_EQ(read_file(folder_ / "out"), help);
    EXPECT_EQ(read_file(folder_ / "error"), "");
  }
  EXPECT_EQ(run({"--help", "--preset", "paper"}), 0);
  EXPECT_EQ(read_file(folder_ / "out"), help);
  EXPECT_TRUE(contains(read_file(folder_ / "error"), "these are the defaults of the preset quick"));
}

TEST_F(RunScript, RefusesWrongOptionsWithoutBuilding) {
  const std::vector<std::pair<Strings, std::string>> cases{
      {{"--no-such", "3"}, "unknown option '--no-such'; see --help for those that are known"},
      {{"--steps", "3", "--.*"}, "unknown option '--.*'; see --help for those that are known"},
      {{"--steps"}, "--steps needs a value; see --help"},
      {{"--resume", "3"}, "unknown argument '3'; see --help for those that are known"},
      {{"enwik8.gz", "--help"},
       "unknown argument 'enwik8.gz'; see --help for those that are known"}};
  for (const auto& [arguments, message] : cases) {
    EXPECT_EQ(run(arguments), exit_usage);
    EXPECT_EQ(read_file(folder_ / "out"), "");
    EXPECT_EQ(read_file(folder_ / "error"), "enwik8: " + message + "\n");
    // The trainer itself says the same.
    EXPECT_EQ(train(arguments).error, "enwik8: " + message + "\n");
  }
}

}  // namespace
}  // namespace enwik8::test
