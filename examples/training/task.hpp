// SPDX-License-Identifier: MIT
/// @file
/// What a trainer learns from: all that differs between trainers, for `run_trainer`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "options.hpp"
#include "token_model.hpp"
#include "windows.hpp"

namespace training {

/// Prints a line.
using Say = std::function<void(const std::string&)>;

/// The windows of an evaluation, some at a time.
class Evaluation {
 public:
  virtual ~Evaluation() = default;

  /// The next ones, all of one length; none at the end.
  virtual Windows next() = 0;
  /// Positions of all windows.
  virtual std::int64_t positions() const = 0;
  /// Whether these are all windows of the split.
  virtual bool is_whole() const = 0;
  /// "the whole test split (180,000 bytes)"
  virtual std::string extent() const = 0;

  /// Whether `add` is to be called with the losses of all labels, in nats.
  virtual bool wants_each_loss() const { return false; }
  virtual void add(const Windows& /*windows*/, std::span<const double> /*losses*/) {}
  /// What an evaluation adds to its record.
  virtual nlohmann::json details() const { return nlohmann::json::object(); }
  /// The same for people, after the last evaluation of a run.
  virtual std::vector<std::string> lines() const { return {}; }
};

enum class Split { validation, test };

/// How much of a split is evaluated.
enum class Extent {
  trial,       ///< about three passes, to learn what an evaluation takes
  on_the_way,  ///< between steps
  final        ///< after the last step
};

/// One more evaluation of the test split, after the last step.
struct FurtherTest {
  std::string type;  ///< of its record
  std::string rule;  ///< see `Task::context_rule`
  std::unique_ptr<Evaluation> evaluation;
};

/// A run that has come to its end, for what is made of its model.
struct FinishedRun {
  std::filesystem::path folder;
  std::int64_t step = 0;
  std::function<void(const nlohmann::json&)> write;  ///< a record of metrics.jsonl
  Say say;
  std::function<void()> check_stop;  ///< throws when the user asks for the end
};

class Task {
 public:
  virtual ~Task() = default;

  /// Name of the program.
  virtual std::string program() const = 0;

  // ---- options

  virtual Options& options() = 0;
  virtual const Options& options() const = 0;
  /// All options by name.
  virtual nlohmann::json options_json() const = 0;
  /// The flags that were given, as "by-distance", but for that to resume: no file keeps them.
  virtual std::vector<std::string> flags_given() const = 0;
  /// Puts the options of the run of a checkpoint under those that were given.
  /// @return whether the limits in minutes and in steps are still the same
  /// @throw OptionError for options that would change the run
  virtual bool resume(const Checkpoint& checkpoint) = 0;

  // ---- data

  /// Files and folders that `load` reads.
  virtual std::vector<std::string> places() const = 0;
  /// Reads the data, before anything is asked about it.
  virtual void load(const Say& say) = 0;
  virtual std::int64_t vocabulary() const = 0;
  virtual Units units() const = 0;
  /// What the data is, by which a resumed run knows it: "source", "bytes", "crc32" and more.
  virtual nlohmann::json data_description() const = 0;
  /// What a run writes into its header beside that.
  virtual nlohmann::json header() const = 0;
  /// Bytes of memory that the data takes.
  virtual std::size_t memory() const = 0;

  /// The windows of a pass of training, a function of the arguments alone, so that there is no
  /// position in the data to be saved.
  /// @param step   from 1
  /// @param first  number of the first window within its step
  virtual Windows training_windows(std::int64_t step, std::int64_t first) const = 0;
  /// The labels of all windows of a step that count, for the mean of their losses.
  virtual std::int64_t training_labels(std::int64_t /*step*/) const {
    return options().windows_of_a_step() * options().length;
  }
  virtual std::unique_ptr<Evaluation> evaluation(Split split, Extent extent) const = 0;
  virtual std::vector<FurtherTest> further_tests() const { return {}; }
  /// The option that limits `Extent::final`.
  virtual std::string final_limit() const = 0;
  /// In words, what each label of an evaluation is predicted from.
  virtual std::string context_rule() const = 0;

  /// Called on the first rank when the folder of the run is there, new or resumed, for what is kept
  /// beside the checkpoint.
  virtual void begin(const std::filesystem::path& /*folder*/) {}

  // ---- the end

  /// Makes samples or whatever else shows what was learned. Called on the first rank.
  virtual void finish(TokenModel& model, const FinishedRun& run) = 0;
  /// Bytes that `finish` takes beside those of a step, if they are worth mentioning.
  virtual std::size_t finish_memory(TokenModel& /*model*/) const { return 0; }
  /// Seconds that `finish` is going to take, from a small share of it.
  virtual double finish_seconds(TokenModel& model) = 0;
  /// Called on the first rank when the model is written there in the layout of HuggingFace, for
  /// what belongs to it.
  virtual void complete_export(const std::filesystem::path& /*folder*/) {}
  /// Ends the sentence "written for HuggingFace: FOLDER".
  virtual std::string export_note(const TokenModel& /*model*/) const { return ""; }
};

/// A task with options of its own.
/// @tparam Values  derived from `Options`
template <typename Values>
class TaskWith : public Task {
 public:
  TaskWith(const OptionSet<Values>& set, Values values) : set_(set), options_(std::move(values)) {}

  std::string program() const final { return set_.program; }
  Values& options() final { return options_; }
  const Values& options() const final { return options_; }
  nlohmann::json options_json() const final { return options_to_json(set_, options_); }
  std::vector<std::string> flags_given() const final {
    std::vector<std::string> flags;
    for (const Option<Values>& option : set_.table) {
      if (option.metavar.empty() && option.name != "resume" &&
          options_.given.contains(option.name)) {
        flags.push_back(option.name);
      }
    }
    return flags;
  }
  bool resume(const Checkpoint& checkpoint) final {
    const Values saved = saved_options(set_, checkpoint);
    options_ = merge_for_resume(set_, options_, options_to_json(set_, saved));
    options_.model_config = saved.model_config;
    return saved.minutes == options_.minutes && saved.steps == options_.steps;
  }

 private:
  const OptionSet<Values>& set_;
  Values options_;
};

/// A task for the options on a command line, or the text that `--help` asks for.
struct Begun {
  std::unique_ptr<Task> task;
  std::string help;
};

/// How a trainer begins.
struct TaskMaker {
  std::string program;
  /// Given the arguments of the program. @throw OptionError
  std::function<Begun(const std::vector<std::string>&)> make;
};

/// @tparam MyTask  constructed from its options
template <typename MyTask, typename Values>
TaskMaker task_maker(const OptionSet<Values>& set) {
  return {set.program, [&set](const std::vector<std::string>& arguments) {
            Parsed<Values> parsed = parse_options(set, arguments);
            return Begun{
                parsed.help.empty() ? std::make_unique<MyTask>(std::move(parsed.options)) : nullptr,
                std::move(parsed.help)};
          }};
}

}  // namespace training
