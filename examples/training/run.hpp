// SPDX-License-Identifier: MIT
/// @file
/// One run of a trainer, from its first line of output to its last.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "console.hpp"
#include "event_file.hpp"
#include "loss_sum.hpp"
#include "metrics.hpp"
#include "output_folder.hpp"
#include "pace.hpp"
#include "progress.hpp"
#include "ranks.hpp"
#include "stopwatch.hpp"
#include "task.hpp"
#include "token_model.hpp"
#include "trainer.hpp"

namespace training {

inline constexpr const char* metrics_name = "metrics.jsonl";

class Run {
 public:
  Run(std::unique_ptr<Task> task, const Console& console, const StopRequested& stop_requested,
      const Ranks& ranks);

  /// @return exit code
  int train();

 private:
  /// The user asked for the end in the middle of something.
  struct Interrupted {};

  /// The best validation on the way.
  struct Best {
    double bits_per_byte = 0;
    std::int64_t worse_since = 0;  // validations that were no better
  };

  /// What a train record is the mean of.
  struct Running {
    LossSum loss;
    double gradient_norms = 0;
    std::int64_t steps = 0;

    nlohmann::json to_json() const;
    static Running from_json(const nlohmann::json& object);
  };

  /// An evaluation that was made.
  struct Measured {
    LossSum loss;
    std::unique_ptr<Evaluation> evaluation;
    double seconds = 0;
  };

  const Options& options() const { return std::as_const(*task_).options(); }
  double elapsed() const;
  double limit_seconds() const { return 60 * options().minutes; }
  bool is_limited_by_time() const { return options().steps == 0; }
  std::int64_t last_step() const;
  bool is_last_step() const;
  bool is_out_of_patience() const;
  bool last_step_is_known() const { return !is_limited_by_time() || ending_; }
  std::int64_t tokens_per_step() const { return options().windows_of_a_step() * options().length; }
  /// Only one rank has a file to write to.
  void write(const nlohmann::json& record) {
    if (metrics_) {
      metrics_->write(record);
    }
    if (events_) {
      events_->add(record);
    }
  }

  // ---- run_begin.cpp: before the first step

  /// What each rank does for itself.
  void prepare(std::optional<Checkpoint>& checkpoint);
  /// What one rank does for all: the first output.
  void begin(const std::optional<Checkpoint>& checkpoint);
  void check_export() const;
  /// Two runs in one folder would write over each other's checkpoints and metrics.
  void lock_folder();
  void check_folder_is_new() const;
  void announce();
  void announce_ranks();
  MemoryForecast memory_forecast() const;
  nlohmann::json header() const;

  // ---- run_state.cpp: checkpoints

  void save();
  void save_as(const char* name);
  void restore(const Checkpoint& checkpoint);
  /// Ends the sentence of an error.
  std::string what_is_kept() const;

  // ---- run.cpp: training

  template <typename Action>
  auto within_range(const std::string& where, const Action& action) const {
    try {
      return action();
    } catch (const std::overflow_error& error) {
      throw std::runtime_error(
          fmt::format("{}: {}{}; a lower --learning-rate or --residual float may help", where,
                      error.what(), what_is_kept()));
    }
  }

  void train_step();
  /// Is called on every rank.
  /// @param pass  of the training step, or 0 for an evaluation
  [[noreturn]] void fail_not_finite(const std::string& where, double value, const Windows& windows,
                                    std::int64_t pass);
  double tokens_per_second() const;
  double seconds_left() const;
  void show_progress();
  void write_train_record();

  // The limit in time

  /// Decides, when it is time, which step is the last one of a run that is limited by time.
  /// @throw Interrupted
  void decide_ending();
  /// Learns from a small sample what evaluations and what is made at the end will take.
  /// @throw Interrupted
  void measure_costs();
  void update_costs();

  // ---- run_end.cpp: evaluations, and what comes after the last step

  bool validation_is_due() const;
  /// @param name  for an error
  /// @throw Interrupted
  Measured evaluate(const std::string& name, std::unique_ptr<Evaluation> evaluation);
  /// Adds the losses of some windows, which ranks compute side by side, in their order.
  void evaluate_round(const std::string& name, const std::vector<Windows>& round,
                      Measured& measured);
  nlohmann::json record_of(const char* type, const Measured& measured) const;
  void validate();
  void compare_with_best(double bits_per_byte);
  /// The weights whose validation was best, if these are not.
  void return_to_best();
  void finish();
  void test_further(FurtherTest& further);
  /// The curves as a picture, where there is what it takes.
  void draw_curves();

  std::unique_ptr<Task> task_;
  Console console_;
  const StopRequested& stop_requested_;
  const Ranks& ranks_;
  Progress progress_;
  std::filesystem::path folder_;
  std::size_t resident_before_model_ = 0;
  std::vector<std::string> not_loaded_;  // parameters that --init has none for
  std::unique_ptr<TokenModel> model_;
  std::optional<FolderLock> lock_;
  std::optional<MetricsWriter> metrics_;
  std::optional<EventFile> events_;

  // What a checkpoint holds besides the model.
  std::int64_t step_ = 0;    // steps done
  std::int64_t tokens_ = 0;  // that these have predicted
  std::int64_t validated_step_ = 0;
  Running running_;
  std::optional<Ending> ending_;
  std::optional<Best> best_;
  double elapsed_before_ = 0;  // by the processes before this one

  bool same_limit_ = true;
  std::int64_t saved_step_ = -1;
  Stopwatch clock_;
  Stopwatch since_save_;
  std::int64_t steps_here_ = 0;  // by this process
  RecentMean step_seconds_{100};
  RecentMean step_tokens_{100};  // of the same steps
  RecentMean recent_loss_{20};
  RecentMean evaluation_seconds_per_position_{50};
  double finish_seconds_ = 0;
  std::size_t finish_memory_ = 0;
  Costs costs_;
  int cost_samples_ = 0;
};

}  // namespace training
