// SPDX-License-Identifier: MIT
/// @file
/// What a run does before its first step.
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "output_folder.hpp"
#include "reformer/foundation/container.hpp"
#include "reformer/io/atomic_file.hpp"
#include "reformer/products/precision_kernel.hpp"
#include "reformer/version.hpp"
#include "run.hpp"
#include "words.hpp"

#ifndef TRAINING_FLAGS
#define TRAINING_FLAGS "unknown"
#endif

namespace training {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string compiler() {
#ifdef __clang__
  return __VERSION__;  // "Debian Clang 14.0.6"
#else
  return "gcc " __VERSION__;
#endif
}

constexpr const char* runs_folder = "runs";

/// A new folder under runs/ for a run that was given none: quick-1, quick-2, ...
fs::path new_run_folder(const std::string& preset) {
  prepare_output_folder(runs_folder);
  for (int number = 1;; ++number) {
    const fs::path folder = fs::path(runs_folder) / fmt::format("{}-{}", preset, number);
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

}  // namespace

void Run::prepare(std::optional<Checkpoint>& checkpoint) {
  if (options().resume) {
    checkpoint.emplace(folder_ / checkpoint_name);
    same_limit_ = task_->resume(*checkpoint);
  } else if (!options().out.empty()) {
    check_folder_is_new();
  }
  const std::string out = options().out.empty() ? runs_folder : options().out;
  if (const auto folder = folder_around(out, task_->places())) {
    refuse("out", out, fmt::format("a folder outside of '{}', which is read", *folder));
  }
  divide_over_ranks(task_->options(), ranks_.size(), !options().resume);
  task_->load([&](const std::string& line) { progress_.message(line); });
  resident_before_model_ = std::max(resident_memory(), task_->memory());
  Options of_model = options();
  if (of_model.precision == "auto") {  // what is fastest on all machines, float32 being the first
    const auto fastest = ranks_.gather(reformer::fastest_precision());
    of_model.precision = name_of(*std::min_element(fastest.begin(), fastest.end()));
  }
  model_ = std::make_unique<TokenModel>(of_model, task_->vocabulary(), TokenModel::Use::training,
                                        &ranks_.communicator());
  if (!options().export_folder.empty()) {
    check_export();
  }
  if (checkpoint) {
    restore(*checkpoint);
    return;
  }
  model_->initialize();
  if (!options().init.empty()) {
    not_loaded_ = model_->load_huggingface(options().init);
  }
}

void Run::begin(const std::optional<Checkpoint>& checkpoint) {
  if (checkpoint) {
    model_->load(*checkpoint);
  }
  model_->share_parameters();
  if (ranks_.is_first()) {
    finish_memory_ = task_->finish_memory(*model_);
  }
  announce();
  if (!checkpoint && !options().init.empty()) {
    progress_.message(fmt::format(
        "beginning with the model in {}; {}", options().init,
        not_loaded_.empty() ? "nothing is initialised anew"
                            : fmt::format("initialised anew: {}", fmt::join(not_loaded_, ", "))));
  }
  ranks_.together([&] {
    if (!ranks_.is_first()) {
      return;
    }
    if (!checkpoint && options().out.empty()) {
      folder_ = new_run_folder(options().preset);
    } else {
      folder_ = options().out;
      prepare_output_folder(folder_);
    }
    if (!checkpoint) {
      lock_folder();
      if (!options().out.empty()) {
        check_folder_is_new();  // another run may have begun here, and ended
      }
    }
    task_->begin(folder_);
    if (!checkpoint) {  // before the first checkpoint, so that none is without its options
      reformer::write_file_atomically(folder_ / options_name, options().asked.dump(2) + '\n');
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
  ranks_.together([&] {
    if (!ranks_.is_first()) {
      return;
    }
    if (options().tensorboard) {
      events_.emplace(folder_, step_);
    }
  });
  since_save_ = Stopwatch();
}

void Run::lock_folder() {
  if (ranks_.is_first()) {
    lock_.emplace(folder_);
  }
}

void Run::check_folder_is_new() const {
  for (const char* name : {checkpoint_name, metrics_name}) {
    if (fs::exists(fs::path(options().out) / name)) {
      throw OptionError(
          fmt::format("--out is '{}', which holds the {} of another run; allowed: a new folder, or "
                      "--resume to continue that run",
                      options().out, name));
    }
  }
}

void Run::check_export() const {
  if (const auto folder = folder_around(options().export_folder, task_->places())) {
    refuse("export", options().export_folder,
           fmt::format("a folder outside of '{}', which is read", *folder));
  }
  std::error_code ignored;
  if (!options().init.empty() && fs::equivalent(options().init, options().export_folder, ignored)) {
    refuse("export", options().export_folder, "another folder than that of --init");
  }
  try {
    model_->check_huggingface();
  } catch (const std::invalid_argument& error) {
    throw OptionError(fmt::format("--export is '{}', but this model cannot be exported: {}",
                                  options().export_folder, error.what()));
  }
  if (ranks_.is_first()) {
    prepare_output_folder(options().export_folder);
  }
}

void Run::announce() {
  const Units units = task_->units();
  progress_.message(fmt::format(
      "model: {} parameters, {} layers ({}), width {}, {} heads, windows of {} {}",
      grouped(model_->num_parameters()), options().layers.size(), fmt::join(options().layers, ", "),
      options().width, options().heads, options().length, units.many));
  const MemoryForecast forecast = memory_forecast();
  progress_.message(fmt::format("predicted peak memory: {}", forecast.text()));
  if (options().memory_budget > 0) {
    const std::string stored = model_->stored_text();
    progress_.message(fmt::format("memory budget: {} MB, stored: {}", options().memory_budget,
                                  stored.empty() ? "nothing, it is too small" : stored));
  }
  if (const std::string warning =
          memory_warning(forecast.total(), machine_memory(), reformer::container_memory_limit());
      !warning.empty()) {
    progress_.message(warning);
  }
  progress_.message(
      fmt::format("training: {}, {} {} per step, {} on {} thread{}, products in {}, seed {}",
                  is_limited_by_time() ? fmt::format("{} minutes", options().minutes)
                                       : fmt::format("{} steps", grouped(options().steps)),
                  grouped(tokens_per_step()), units.many, options().optimizer, model_->threads(),
                  model_->threads() == 1 ? "" : "s", model_->precision(), options().seed));
  announce_ranks();
  progress_.message(fmt::format("evaluation: {}", task_->context_rule()));
}

void Run::announce_ranks() {
  const int here = ranks_.on_this_machine();
  if (ranks_.size() == 1) {
    return;
  }
  progress_.message(fmt::format(
      "ranks: {}, of which {} on this machine; a step has {} passes of {} window{} of {} {}",
      ranks_.size(), here, options().accumulate, options().batch, options().batch == 1 ? "" : "s",
      options().length, task_->units().many));
  const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
  if (here * model_->threads() > processors) {
    progress_.message(fmt::format(
        "note: {} ranks of {} thread{} here are more than its {} processors; --threads {} would "
        "be as many",
        here, model_->threads(), model_->threads() == 1 ? "" : "s", processors,
        std::max(processors / here, 1L)));
  }
}

MemoryForecast Run::memory_forecast() const {
  MemoryForecast forecast = model_->memory_forecast();
  forecast.parts.emplace_back("program and data", resident_before_model_);
  if (finish_memory_ > 0) {
    forecast.parts.emplace_back("made at the end", finish_memory_);
  }
  return forecast;
}

json Run::header() const {
  json memory = json::object();
  for (const auto& [purpose, bytes] : memory_forecast().parts) {
    memory[purpose] = bytes;
  }
  json record{{"type", "header"},
              {"program", task_->program()},
              {"version", REFORMER_VERSION_STRING},
              {"started", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)))},
              {"options", task_->options_json()},
              {"seed", options().seed},
              {"compiler", compiler()},
              {"flags", TRAINING_FLAGS},
              {"simd", instruction_sets()},
              {"bfloat16", bfloat16_instructions()},
              {"precision", model_->precision()},
              {"threads", model_->threads()},
              {"ranks", ranks_.size()},
              {"processors_allowed", ranks_.gather(allowed_processors())},
              {"data", task_->data_description()},
              {"unit", task_->units().bits},
              {"parameters", model_->num_parameters()},
              {"predicted_memory", std::move(memory)},
              {"context_rule", task_->context_rule()}};
  record.update(task_->header());
  return record;
}

}  // namespace training
