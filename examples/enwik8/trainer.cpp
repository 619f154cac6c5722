// SPDX-License-Identifier: MIT
#include "trainer.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "corpus.hpp"
#include "distance.hpp"
#include "metrics.hpp"
#include "model_io.hpp"
#include "options.hpp"
#include "output_folder.hpp"
#include "pace.hpp"
#include "progress.hpp"
#include "ranks.hpp"
#include "reformer/distributed/single_process.hpp"
#include "reformer/foundation/container.hpp"
#include "reformer/training/clipping.hpp"
#include "reformer/version.hpp"
#include "stopwatch.hpp"
#include "windows.hpp"
#include "words.hpp"

#ifndef ENWIK8_FLAGS
#define ENWIK8_FLAGS "unknown"
#endif

namespace enwik8 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* metrics_name = "metrics.jsonl";
constexpr std::int64_t prompt_bytes = 100;  // of the text at the end

/// The user asked for the end in the middle of something.
struct Interrupted {};

std::string compiler() {
#ifdef __clang__
  return __VERSION__;  // "Debian Clang 14.0.6"
#else
  return "gcc " __VERSION__;
#endif
}

/// A new folder under runs/ for a run that was given none: quick-1, quick-2, ...
fs::path new_run_folder(const std::string& preset) {
  prepare_output_folder("runs");
  for (int number = 1;; ++number) {
    const fs::path folder = fs::path("runs") / fmt::format("{}-{}", preset, number);
    std::error_code error;
    if (fs::create_directory(folder, error)) {
      return folder;
    }
    if (error) {
      throw std::runtime_error(
          fmt::format("cannot create output folder '{}': {}", folder.string(), error.message()));
    }
  }
}

std::size_t machine_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<std::size_t>(pages) * static_cast<std::size_t>(page)
                               : 0;
}

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

  json to_json() const {
    return {{"nats", loss.nats},
            {"bytes", loss.bytes},
            {"gradient_norms", gradient_norms},
            {"steps", steps}};
  }
  static Running from_json(const json& object) {
    return {{object.at("nats").get<double>(), object.at("bytes").get<std::int64_t>()},
            object.at("gradient_norms").get<double>(),
            object.at("steps").get<std::int64_t>()};
  }
};

class Trainer {
 public:
  Trainer(const Options& options, const Console& console, const StopRequested& stop_requested,
          const Ranks& ranks)
      : options_(options),
        console_(console),
        stop_requested_(stop_requested),
        ranks_(ranks),
        progress_(console.out, console.terminal) {}

  int run() {
    std::optional<Checkpoint> checkpoint;
    ranks_.together([&] { prepare(checkpoint); });
    begin(checkpoint);
    try {
      for (;;) {
        if (validation_is_due()) {
          validate();
        }
        decide_ending();
        if (is_last_step()) {
          break;
        }
        if (ranks_.agree(stop_requested_(step_))) {
          throw Interrupted();
        }
        if (ranks_.agree(since_save_.seconds() >= 60 * options_.save_minutes)) {
          save();
        }
        train_step();
      }
      if (running_.steps > 0) {
        write_train_record();
      }
      save();
      finish();
      return exit_success;
    } catch (const Interrupted&) {
      if (saved_step_ != step_) {
        save();
      }
      progress_.message(
          fmt::format("interrupted after step {}, which is saved; to continue:", step_));
      progress_.message(fmt::format("  {} --resume --out {}", shell_word(console_.program),
                                    shell_word(folder_.string())));
      return exit_interrupted;
    }
  }

 private:
  double elapsed() const { return elapsed_before_ + clock_.seconds(); }
  double limit_seconds() const { return 60 * options_.minutes; }
  bool is_limited_by_time() const { return options_.steps == 0; }
  std::int64_t last_step() const {
    return !is_limited_by_time() ? options_.steps : ending_ ? ending_->end : 0;
  }
  bool is_last_step() const {
    return is_out_of_patience() || (last_step_is_known() && step_ >= last_step());
  }
  bool is_out_of_patience() const {
    return options_.keep_best > 0 && best_ && best_->worse_since >= options_.keep_best;
  }
  bool last_step_is_known() const { return !is_limited_by_time() || ending_; }
  std::int64_t bytes_per_step() const {
    return options_.batch * options_.length * options_.accumulate;
  }

  // ---- before the first step

  /// What each rank does for itself.
  void prepare(std::optional<Checkpoint>& checkpoint) {
    if (options_.resume) {
      folder_ = options_.out;
      checkpoint.emplace(folder_ / checkpoint_name);
      const Options saved = saved_options(*checkpoint);
      options_ = merge_for_resume(options_, options_to_json(saved));
      options_.model_config = saved.model_config;
      same_limit_ = saved.minutes == options_.minutes && saved.steps == options_.steps;
    } else if (!options_.out.empty()) {
      for (const char* name : {checkpoint_name, metrics_name}) {
        if (fs::exists(fs::path(options_.out) / name)) {
          throw OptionError(fmt::format(
              "--out is '{}', which holds the {} of another run; allowed: a new folder, "
              "or --resume to continue that run",
              options_.out, name));
        }
      }
    }
    divide_over_ranks(options_, ranks_.size(), !options_.resume);
    if (!options_.resume && !options_.init.empty()) {
      begin_with_model(options_);
    }
    load_data();
    resident_before_model_ = std::max(resident_memory(), corpus_.bytes.size());
    model_ =
        std::make_unique<ByteModel>(options_, ByteModel::Use::training, &ranks_.communicator());
    if (!options_.export_folder.empty()) {
      check_export();
    }
    if (checkpoint) {
      restore(*checkpoint);
      return;
    }
    model_->initialize();
    if (!options_.init.empty()) {
      not_loaded_ = model_->load_huggingface(options_.init);
    }
  }

  /// What one rank does for all: the first output.
  void begin(const std::optional<Checkpoint>& checkpoint) {
    if (checkpoint) {
      model_->load(*checkpoint);
    }
    model_->share_parameters();
    announce();
    if (!checkpoint && !options_.init.empty()) {
      progress_.message(fmt::format(
          "beginning with the model in {}; {}", options_.init,
          not_loaded_.empty() ? "nothing is initialised anew"
                              : fmt::format("initialised anew: {}", fmt::join(not_loaded_, ", "))));
    }
    ranks_.together([&] {
      if (!ranks_.is_first()) {
        return;
      }
      if (!checkpoint && options_.out.empty()) {
        folder_ = new_run_folder(options_.preset);
      } else {
        folder_ = options_.out;
        prepare_output_folder(folder_);
      }
    });
    folder_ = ranks_.agree(folder_.string());
    const json first_record = header();
    if (checkpoint) {
      ranks_.together([&] {
        if (ranks_.is_first()) {
          metrics_.emplace(MetricsWriter::resume(folder_ / metrics_name, first_record, step_));
        }
      });
      progress_.message(fmt::format("continuing '{}' after step {}", folder_.string(), step_));
    } else {
      progress_.message(fmt::format("output: {}", folder_.string()));
      // At once, so that a disk that cannot take it is found out now and not after hours.
      save();
      if (ranks_.is_first()) {
        metrics_.emplace(MetricsWriter::start(folder_ / metrics_name, first_record));
      }
    }
    since_save_ = Stopwatch();
  }

  /// Only one rank has a file to write to.
  void write(const json& record) {
    if (metrics_) {
      metrics_->write(record);
    }
  }

  void check_export() const {
    try {
      model_->check_huggingface();
    } catch (const std::invalid_argument& error) {
      throw OptionError(fmt::format("--export is '{}', but this model cannot be exported: {}",
                                    options_.export_folder, error.what()));
    }
    if (ranks_.is_first()) {
      prepare_output_folder(options_.export_folder);
    }
  }

  void load_data() {
    corpus_ = choose_corpus(options_.data, data_folders(fs::current_path(), program_path()));
    corpus_.require_parts(static_cast<std::size_t>(options_.length) + 1,
                          fmt::format("a window of --length {}", options_.length));
    split_ = corpus_.split();
    checksum_ = corpus_.checksum();
    progress_.message(
        fmt::format("data: {}, {} bytes: {} to train, {} to validate, {} to test", corpus_.source,
                    grouped(std::ssize(corpus_.bytes)), grouped(std::ssize(split_.train)),
                    grouped(std::ssize(split_.validation)), grouped(std::ssize(split_.test))));
    if (corpus_.generated) {
      progress_.message(
          "  no file was given and there is no enwik8, so this text is made up; for the real one "
          "run examples/enwik8/fetch.sh, or name a file with --data");
    }
  }

  void announce() {
    progress_.message(fmt::format(
        "model: {} parameters, {} layers ({}), width {}, {} heads, windows of {} bytes",
        grouped(model_->num_parameters()), options_.layers.size(), fmt::join(options_.layers, ", "),
        options_.width, options_.heads, options_.length));
    const MemoryForecast forecast = memory_forecast();
    progress_.message(fmt::format("predicted peak memory: {}", forecast.text()));
    if (options_.memory_budget > 0) {
      const std::string stored = model_->stored_text();
      progress_.message(fmt::format("memory budget: {} MB, stored: {}", options_.memory_budget,
                                    stored.empty() ? "nothing, it is too small" : stored));
    }
    if (const std::string warning =
            memory_warning(forecast.total(), machine_memory(), reformer::container_memory_limit());
        !warning.empty()) {
      progress_.message(warning);
    }
    progress_.message(fmt::format("training: {}, {} bytes per step, {} on {} thread{}, seed {}",
                                  is_limited_by_time()
                                      ? fmt::format("{} minutes", options_.minutes)
                                      : fmt::format("{} steps", grouped(options_.steps)),
                                  grouped(bytes_per_step()), options_.optimizer, model_->threads(),
                                  model_->threads() == 1 ? "" : "s", options_.seed));
    announce_ranks();
    progress_.message(fmt::format("evaluation: {}", context_rule(options_.length)));
  }

  void announce_ranks() {
    const int here = ranks_.on_this_machine();
    if (ranks_.size() == 1) {
      return;
    }
    progress_.message(fmt::format(
        "ranks: {}, of which {} on this machine; a step has {} passes of {} window{} of {} bytes",
        ranks_.size(), here, options_.accumulate, options_.batch, options_.batch == 1 ? "" : "s",
        options_.length));
    const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
    if (here * model_->threads() > processors) {
      progress_.message(fmt::format(
          "note: {} ranks of {} thread{} here are more than its {} processors; --threads {} would "
          "be as many",
          here, model_->threads(), model_->threads() == 1 ? "" : "s", processors,
          std::max(processors / here, 1L)));
    }
  }

  MemoryForecast memory_forecast() const {
    MemoryForecast forecast = model_->memory_forecast();
    forecast.parts.emplace_back("program and data", resident_before_model_);
    return forecast;
  }

  json header() const {
    json memory = json::object();
    for (const auto& [purpose, bytes] : memory_forecast().parts) {
      memory[purpose] = bytes;
    }
    return {{"type", "header"},
            {"program", "enwik8"},
            {"version", REFORMER_VERSION_STRING},
            {"started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
            {"options", options_to_json(options_)},
            {"seed", options_.seed},
            {"compiler", compiler()},
            {"flags", ENWIK8_FLAGS},
            {"simd", instruction_sets()},
            {"bfloat16", bfloat16_instructions()},
            {"threads", model_->threads()},
            {"ranks", ranks_.size()},
            {"processors_allowed", ranks_.gather(allowed_processors())},
            {"data", data_description()},
            {"train_bytes", split_.train.size()},
            {"validation_bytes", split_.validation.size()},
            {"test_bytes", split_.test.size()},
            {"parameters", model_->num_parameters()},
            {"predicted_memory", std::move(memory)},
            {"context_rule", context_rule(options_.length)}};
  }

  json data_description() const {
    return {{"source", corpus_.source},
            {"bytes", corpus_.bytes.size()},
            {"crc32", checksum_},
            {"generated", corpus_.generated}};
  }

  // ---- checkpoints

  void save() {
    const Stopwatch watch;
    save_as(checkpoint_name);
    saved_step_ = step_;
    since_save_ = Stopwatch();
    costs_.save = watch.seconds();
  }

  void save_as(const char* name) {
    model_->wait_for_parameters();
    ranks_.together([&] {
      if (const auto tensor = model_->not_finite_tensor()) {
        throw std::runtime_error(
            fmt::format("step {}: {} is no longer finite{}", step_, *tensor, what_is_kept()));
      }
    });
    json state{{"options", options_to_json(options_)}, {"data", data_description()},
               {"validated_step", validated_step_},    {"running", running_.to_json()},
               {"elapsed_seconds", elapsed()},         {"ending", nullptr}};
    if (!options_.model_config.empty()) {
      state["model_config"] = options_.model_config;
    }
    if (best_) {
      state["best"] = {{"validation_bpb", best_->bits_per_byte},
                       {"worse_since", best_->worse_since}};
    }
    if (ending_) {
      state["ending"] = {{"begin", ending_->begin}, {"end", ending_->end}};
    }
    model_->save(folder_ / name, step_, state);
  }

  void restore(const Checkpoint& checkpoint) {
    const json& state = checkpoint.state();
    try {
      const json& data = state.at("data");
      if (data.at("bytes") != corpus_.bytes.size() || data.at("crc32") != checksum_) {
        throw std::runtime_error(fmt::format(
            "data '{}' has {} bytes and checksum {:08x}, but the run in '{}' was made with '{}' of "
            "{} bytes and checksum {:08x}: name that with --data",
            corpus_.source, corpus_.bytes.size(), checksum_, folder_.string(),
            data.at("source").get<std::string>(), data.at("bytes").get<std::uint64_t>(),
            data.at("crc32").get<std::uint32_t>()));
      }
      step_ = saved_step_ = checkpoint.step();
      validated_step_ = state.at("validated_step").get<std::int64_t>();
      running_ = Running::from_json(state.at("running"));
      elapsed_before_ = state.at("elapsed_seconds").get<double>();
      if (state.contains("best")) {
        const json& best = state["best"];
        best_ = Best{best.at("validation_bpb").get<double>(),
                     best.at("worse_since").get<std::int64_t>()};
      }
      // Another limit is another end.
      if (const json& ending = state.at("ending"); !ending.is_null() && same_limit_) {
        ending_ =
            Ending{ending.at("begin").get<std::int64_t>(), ending.at("end").get<std::int64_t>()};
      }
    } catch (const json::exception&) {
      throw std::runtime_error(
          fmt::format("'{}': is not a checkpoint of this trainer: its state is not readable",
                      checkpoint.path().string()));
    }
  }

  /// Ends the sentence of an error.
  std::string what_is_kept() const {
    return saved_step_ < 0 ? std::string()
                           : fmt::format("; '{}' still holds step {}",
                                         (folder_ / checkpoint_name).string(), saved_step_);
  }

  // ---- training

  /// Calls `action`, and names the step if halves in fixed point overflow in it.
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

  void train_step() {
    const Stopwatch watch;
    const std::int64_t step = step_ + 1;
    const double rate = learning_rate(options_, ending_, step);
    const double scale = 1.0 / static_cast<double>(bytes_per_step());
    const auto windows_of_pass = [&](std::int64_t i) {
      return training_windows(split_.train, options_.batch, options_.length, options_.seed, step,
                              i * options_.batch);
    };
    const std::vector<LossSum> losses = within_range(fmt::format("step {}", step), [&] {
      return model_->accumulate(windows_of_pass, scale, step);
    });
    LossSum loss;
    for (std::int64_t i = 0; i < options_.accumulate; ++i) {
      const LossSum& of_pass = losses[static_cast<std::size_t>(i)];
      if (!std::isfinite(of_pass.nats)) {
        fail_not_finite(fmt::format("step {}: the loss", step), of_pass.nats, windows_of_pass(i),
                        model_->pass_number(step, i));
      }
      loss += of_pass;
    }
    const double norm = model_->gradient_norm();
    if (!std::isfinite(norm)) {
      fail_not_finite(fmt::format("step {}: the norm of the gradient", step), norm,
                      windows_of_pass(0), model_->pass_number(step, 0));
    }
    model_->step(rate, reformer::clipping_scale(norm, options_.clip));
    running_.gradient_norms += norm;
    step_ = step;
    running_.loss += loss;
    ++running_.steps;
    recent_loss_.add(loss.bits_per_byte());
    // The first step of a process warms up memory and caches, and tells little about the others.
    if (++steps_here_ == 2) {
      step_seconds_.clear();
    }
    step_seconds_.add(watch.seconds());
    if (step_ % options_.log_every == 0) {
      write_train_record();
    }
    show_progress();
  }

  /// Is called on every rank.
  /// @param pass  of the training step, or 0 for an evaluation
  [[noreturn]] void fail_not_finite(const std::string& where, double value, const Windows& windows,
                                    std::int64_t pass) {
    if (!ranks_.is_first()) {
      throw FailedElsewhere{exit_failure};
    }
    throw std::runtime_error(
        fmt::format("{} is {}: first not finite {}{}; a lower --learning-rate may help", where,
                    std::isnan(value) ? "not a number" : "infinite",
                    model_->first_not_finite(windows, pass), what_is_kept()));
  }

  double tokens_per_second() const {
    return static_cast<double>(bytes_per_step()) / step_seconds_.value();
  }

  double seconds_left() const {
    if (is_limited_by_time()) {
      return std::max(limit_seconds() - elapsed(), 0.0);
    }
    const auto left = static_cast<double>(last_step() - step_);
    const double validations =
        options_.eval_every > 0 ? left / static_cast<double>(options_.eval_every) : 0;
    return left * step_seconds_.value() + validations * costs_.validation + costs_.final;
  }

  void show_progress() {
    progress_.update(clock_.seconds(),
                     {.step = step_,
                      .total_steps = last_step_is_known() ? last_step() : 0,
                      .bits_per_byte = recent_loss_.value(),
                      .tokens_per_second = tokens_per_second(),
                      .learning_rate = learning_rate(options_, ending_, step_),
                      .memory_bytes = resident_memory(),
                      .seconds_left = seconds_left()},
                     is_last_step());
  }

  void write_train_record() {
    write({{"type", "train"},
           {"step", step_},
           {"bpb", running_.loss.bits_per_byte()},
           {"learning_rate", learning_rate(options_, ending_, step_)},
           {"gradient_norm", running_.gradient_norms / static_cast<double>(running_.steps)},
           {"exposed_seconds", model_->exposed_seconds()},
           {"tokens", step_ * bytes_per_step()},
           {"tokens_per_second", tokens_per_second()},
           {"memory_bytes", resident_memory()},
           {"seconds", elapsed()}});
    running_ = Running();
  }

  // ---- the limit in time

  /// Decides, when it is time, which step is the last one of a run that is limited by time.
  /// @throw Interrupted
  void decide_ending() {
    if (!is_limited_by_time() || ending_ || steps_here_ == 0) {
      return;
    }
    // The first evaluation of a process takes longer, too, so the first steps go by. They may be
    // all there is time for.
    const bool is_over = ranks_.agree(elapsed() >= limit_seconds());
    if (cost_samples_ == 0 && steps_here_ >= 2 && !is_over) {
      measure_costs();
    }
    costs_.step = step_seconds_.value();
    const auto is_time = [&] {
      return ranks_.agree(is_time_for_ending(elapsed(), limit_seconds(), costs_));
    };
    if (!is_over && (cost_samples_ == 0 || !is_time())) {
      return;
    }
    // Once more: the first sample was small.
    if (!is_over && cost_samples_ == 1) {
      measure_costs();
      if (!is_time()) {
        return;
      }
    }
    ending_ = ranks_.agree(
        Ending{step_, step_ + steps_that_fit(elapsed(), limit_seconds(), costs_, options_, step_)});
    if (ending_->end == step_) {
      show_progress();
    }
  }

  /// Learns from a small sample what evaluations and the text at the end will take.
  /// @throw Interrupted
  void measure_costs() {
    constexpr int repetitions = 3;
    evaluate("a trial", split_.validation, repetitions * options_.batch * options_.length);
    const auto text = split_.validation.first(static_cast<std::size_t>(
        std::min(std::ssize(split_.validation), prompt_bytes + options_.sample_bytes / 2)));
    const Stopwatch watch;
    constexpr int bytes = 8 * repetitions;
    if (ranks_.is_first()) {
      model_->write_text(text, bytes, {}, options_.seed, [](std::uint8_t) { return true; });
    }
    sample_seconds_ = watch.seconds() / bytes * static_cast<double>(options_.sample_bytes);
    update_costs();
    if (cost_samples_++ == 0 && costs_.final > limit_seconds() / 3) {
      progress_.message(fmt::format(
          "note: the evaluation at the end takes about {} of the {}; --final-bytes limits it",
          format_duration(costs_.final), format_duration(limit_seconds())));
    }
  }

  void update_costs() {
    const auto seconds = [&](std::int64_t bytes) {
      return static_cast<double>(bytes) * evaluation_seconds_per_byte_.value();
    };
    const auto whole = [&](std::span<const std::uint8_t> part) {
      return seconds(EvaluationWindows(part, 1, 1, options_.final_bytes).labels());
    };
    costs_.validation =
        seconds(EvaluationWindows(split_.validation, 1, 1, options_.eval_bytes).labels());
    const auto length = static_cast<double>(options_.length);
    const double again =  // of each byte, with overlapping windows
        options_.eval_overlap == 0 ? 0
                                   : length / (length - static_cast<double>(options_.eval_overlap));
    costs_.final =
        whole(split_.validation) + whole(split_.test) * (1 + again) + sample_seconds_ + costs_.save;
  }

  // ---- evaluation

  bool validation_is_due() const {
    return options_.eval_every > 0 && step_ > 0 && step_ % options_.eval_every == 0 &&
           step_ != validated_step_ && !is_last_step();
  }

  struct Evaluation {
    LossSum loss;
    std::optional<DistanceClasses> by_distance;  // if asked for
    double seconds = 0;
  };

  /// @param name  for an error
  /// @param limit    bytes at most, 0 for the whole part
  /// @param overlap  of windows
  /// @throw Interrupted
  Evaluation evaluate(const std::string& name, std::span<const std::uint8_t> part,
                      std::int64_t limit, std::int64_t overlap = 0) {
    const Stopwatch watch;
    Evaluation evaluation;
    if (options_.by_distance) {
      evaluation.by_distance.emplace(local_reach(options_), options_.length);
    }
    model_->wait_for_parameters();
    EvaluationWindows all(part, options_.batch, options_.length, limit, overlap);
    for (;;) {
      std::vector<Windows> round;  // one for each rank, while there are any
      while (std::ssize(round) < ranks_.size()) {
        Windows windows = all.next();
        if (windows.count == 0) {
          break;
        }
        round.push_back(std::move(windows));
      }
      if (round.empty()) {
        break;
      }
      if (ranks_.agree(stop_requested_(step_))) {
        throw Interrupted();
      }
      evaluate_round(name, round, evaluation);
    }
    evaluation.seconds = watch.seconds();
    return evaluation;
  }

  /// Adds the losses of some windows, which ranks compute side by side, in their order.
  void evaluate_round(const std::string& name, const std::vector<Windows>& round,
                      Evaluation& evaluation) {
    const Stopwatch watch;
    const auto own = static_cast<std::size_t>(ranks_.rank());
    std::vector<double> losses;
    LossSum loss;
    if (own < round.size()) {
      loss = within_range(fmt::format("{} after step {}", name, step_),
                          [&] { return model_->evaluate(round[own], &losses); });
    }
    const std::vector<LossSum> sums = ranks_.gather(loss);
    std::vector<double> of_all;  // of each rank as many as of the longest windows
    std::int64_t longest = 0;
    if (evaluation.by_distance) {
      for (const Windows& windows : round) {
        longest = std::max(longest, windows.bytes());
      }
      losses.resize(static_cast<std::size_t>(longest));
      of_all = ranks_.communicator().all_gather(std::span<const double>(losses));
    }
    std::int64_t bytes = 0;
    for (std::size_t r = 0; r < round.size(); ++r) {
      if (!std::isfinite(sums[r].nats)) {
        fail_not_finite(fmt::format("{} after step {}: the loss", name, step_), sums[r].nats,
                        round[r], 0);
      }
      evaluation.loss += sums[r];
      bytes += sums[r].bytes;
      if (evaluation.by_distance) {
        const auto begin = of_all.begin() + static_cast<std::int64_t>(r) * longest;
        evaluation.by_distance->add(round[r], {begin, begin + round[r].bytes()});
      }
    }
    evaluation_seconds_per_byte_.add(watch.seconds() / static_cast<double>(bytes));
  }

  void validate() {
    const Evaluation result = evaluate("validation", split_.validation, options_.eval_bytes);
    update_costs();
    validated_step_ = step_;
    write({{"type", "validation"},
           {"step", step_},
           {"validation_bpb", result.loss.bits_per_byte()},
           {"bytes", result.loss.bytes},
           {"whole_split", is_whole(result, split_.validation)},
           {"by_distance", by_distance(result)},
           {"evaluation_seconds", result.seconds},
           {"seconds", elapsed()}});
    progress_.message(fmt::format("step {}: validation {:.4f} bits per byte on {}", step_,
                                  result.loss.bits_per_byte(),
                                  extent(result, split_.validation, "validation")));
    compare_with_best(result.loss.bits_per_byte());
  }

  void compare_with_best(double bits_per_byte) {
    if (best_ && bits_per_byte >= best_->bits_per_byte) {
      ++best_->worse_since;
      if (is_out_of_patience()) {
        progress_.message(fmt::format("step {}: {} validation{} without a better one: the end",
                                      step_, best_->worse_since,
                                      best_->worse_since == 1 ? "" : "s"));
      }
      return;
    }
    best_ = Best{bits_per_byte, 0};
    if (options_.keep_best > 0) {
      save_as(best_name);
    }
  }

  /// The weights whose validation was best, if these are not.
  void return_to_best() {
    if (validated_step_ != step_) {
      validate();
    }
    if (best_->worse_since == 0) {
      return;
    }
    const Checkpoint best(folder_ / best_name);
    model_->load(best);
    progress_.message(fmt::format("going back to step {}, whose validation was best: {:.4f}",
                                  best.step(), best_->bits_per_byte));
  }

  /// Null unless it was asked for.
  static json by_distance(const Evaluation& evaluation) {
    return evaluation.by_distance ? evaluation.by_distance->to_json() : json();
  }

  static bool is_whole(const Evaluation& evaluation, std::span<const std::uint8_t> part) {
    return evaluation.loss.bytes == std::ssize(part) - 1;
  }

  /// "the whole validation split (200,000 bytes)"
  static std::string extent(const Evaluation& evaluation, std::span<const std::uint8_t> part,
                            const std::string& name) {
    return is_whole(evaluation, part)
               ? fmt::format("the whole {} split ({} bytes)", name, grouped(std::ssize(part)))
               : fmt::format("the first {} bytes of the {} split",
                             grouped(evaluation.loss.bytes + 1), name);
  }

  // ---- after the last step

  void finish() {
    progress_.finish();
    if (options_.keep_best > 0) {
      return_to_best();
    }
    model_->wait_for_parameters();
    if (!options_.export_folder.empty() && ranks_.is_first()) {
      model_->save_huggingface(options_.export_folder);
      progress_.message(fmt::format(
          "written for HuggingFace: {}, byte b is token {}", options_.export_folder,
          model_->first_byte() == 0 ? "b" : fmt::format("b + {}", model_->first_byte())));
    }
    const Evaluation validation = evaluate("validation", split_.validation, options_.final_bytes);
    write({{"type", "validation"},
           {"final", true},
           {"step", step_},
           {"validation_bpb", validation.loss.bits_per_byte()},
           {"bytes", validation.loss.bytes},
           {"whole_split", is_whole(validation, split_.validation)},
           {"by_distance", by_distance(validation)},
           {"evaluation_seconds", validation.seconds},
           {"seconds", elapsed()}});
    progress_.message(fmt::format("validation bits per byte: {:.4f}, {}",
                                  validation.loss.bits_per_byte(),
                                  extent(validation, split_.validation, "validation")));
    const Evaluation test = evaluate("test", split_.test, options_.final_bytes);
    progress_.message(fmt::format("test evaluated on {}", extent(test, split_.test, "test")));
    if (options_.eval_overlap > 0) {
      evaluate_overlapping();
    }
    write_sample();
    write({{"type", "test"},
           {"final", true},
           {"step", step_},
           {"test_bpb", test.loss.bits_per_byte()},
           {"validation_bpb", validation.loss.bits_per_byte()},
           {"bytes", test.loss.bytes},
           {"whole_split", is_whole(test, split_.test)},
           {"by_distance", by_distance(test)},
           {"context_rule", context_rule(options_.length)},
           {"tokens", step_ * bytes_per_step()},
           {"peak_memory_bytes", peak_resident_memory()},
           {"evaluation_seconds", test.seconds},
           {"seconds", elapsed()}});
    progress_.message(fmt::format("{} steps, {} bytes read, {} in all, peak memory {}; run in {}",
                                  grouped(step_), grouped(step_ * bytes_per_step()),
                                  format_duration(elapsed()), format_bytes(peak_resident_memory()),
                                  folder_.string()));
    if (ranks_.size() > 1) {
      progress_.message(fmt::format("in {} of this, rank 0 only waited for others",
                                    format_duration(model_->exposed_seconds())));
    }
    if (test.by_distance) {
      for (const std::string& line : test.by_distance->lines()) {
        progress_.message(line);
      }
    }
    progress_.message(fmt::format("test bits per byte: {:.4f}", test.loss.bits_per_byte()));
  }

  void evaluate_overlapping() {
    const Evaluation test =
        evaluate("test", split_.test, options_.final_bytes, options_.eval_overlap);
    const std::string rule = context_rule(options_.length, options_.eval_overlap);
    write({{"type", "test_overlapping"},
           {"final", true},
           {"step", step_},
           {"test_bpb", test.loss.bits_per_byte()},
           {"bytes", test.loss.bytes},
           {"whole_split", is_whole(test, split_.test)},
           {"by_distance", by_distance(test)},
           {"context_rule", rule},
           {"evaluation_seconds", test.seconds},
           {"seconds", elapsed()}});
    progress_.message(
        fmt::format("test with {}: {:.4f} bits per byte", rule, test.loss.bits_per_byte()));
  }

  void write_sample() {
    if (options_.sample_bytes == 0 || !ranks_.is_first()) {
      return;
    }
    const auto prompt = split_.validation.first(
        static_cast<std::size_t>(std::min(prompt_bytes, std::ssize(split_.validation))));
    std::vector<std::uint8_t> text;
    model_->write_text(prompt, options_.sample_bytes, {.temperature = options_.sample_temperature},
                       options_.seed, [&](std::uint8_t byte) {
                         if (stop_requested_(step_)) {
                           throw Interrupted();
                         }
                         text.push_back(byte);
                         return true;
                       });
    write({{"type", "sample"},
           {"final", true},
           {"step", step_},
           {"temperature", options_.sample_temperature},
           {"prompt", printable(prompt)},
           {"text", printable(text)}});
    progress_.message("--- prompt, from the validation split");
    progress_.message(printable(prompt));
    progress_.message(
        fmt::format("--- continued by the model at temperature {}", options_.sample_temperature));
    progress_.message(printable(text));
    progress_.message("---");
  }

  Options options_;
  Console console_;
  const StopRequested& stop_requested_;
  const Ranks& ranks_;
  Progress progress_;
  fs::path folder_;
  Corpus corpus_;
  Split split_;
  std::uint32_t checksum_ = 0;
  std::size_t resident_before_model_ = 0;
  std::vector<std::string> not_loaded_;  // parameters that --init has none for
  std::unique_ptr<ByteModel> model_;
  std::optional<MetricsWriter> metrics_;

  // What a checkpoint holds besides the model.
  std::int64_t step_ = 0;  // steps done
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
  RecentMean recent_loss_{20};
  RecentMean evaluation_seconds_per_byte_{50};
  double sample_seconds_ = 0;
  Costs costs_;
  int cost_samples_ = 0;
};

int run_on_rank(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested, const Ranks& ranks) {
  const std::string name =
      ranks.is_first() ? "enwik8" : fmt::format("enwik8: rank {}", ranks.rank());
  return with_errors_reported(name, console, [&] {
    Parsed<Options> parsed;
    try {
      ranks.together([&] { parsed = parse_options(arguments); });
      if (!parsed.help.empty()) {
        fmt::print(console.out, "{}", parsed.help);
        return exit_success;
      }
      return Trainer(parsed.options, console, stop_requested, ranks).run();
    } catch (const FailedElsewhere& failure) {
      return failure.exit_code;
    }
  });
}

}  // namespace

int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested, reformer::Communicator& communicator) {
  const Ranks ranks(communicator);
  if (ranks.is_first()) {
    return run_on_rank(arguments, console, stop_requested, ranks);
  }
  // One rank speaks for all, and the others when something is wrong with them alone.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> nowhere(std::fopen("/dev/null", "w"),
                                                                &std::fclose);
  Console silent = console;
  silent.out = nowhere.get();
  silent.terminal = false;
  return run_on_rank(arguments, silent, stop_requested, ranks);
}

int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested) {
  reformer::SingleProcess alone;
  return run_trainer(arguments, console, stop_requested, alone);
}

}  // namespace enwik8
