// SPDX-License-Identifier: MIT
/// @file
/// The loop of a run: its steps, and when it ends.
#include "run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "reformer/training/clipping.hpp"
#include "words.hpp"

namespace training {

Run::Run(std::unique_ptr<Task> task, const Console& console, const StopRequested& stop_requested,
         const Ranks& ranks)
    : task_(std::move(task)),
      console_(console),
      stop_requested_(stop_requested),
      ranks_(ranks),
      progress_(console.out, console.terminal) {}

int Run::train() {
  std::optional<Checkpoint> checkpoint;
  ranks_.together([&] {
    if (options().resume) {
      folder_ = options().out;
      lock_folder();
    }
  });
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
      if (ranks_.agree(since_save_.seconds() >= 60 * options().save_minutes)) {
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
    std::string command = fmt::format("  {} --resume --out {}", shell_word(console_.program),
                                      shell_word(folder_.string()));
    for (const std::string& flag : task_->flags_given()) {
      command += " --" + flag;
    }
    progress_.message(command);
    return exit_interrupted;
  }
}

double Run::elapsed() const {
  return elapsed_before_ + clock_.seconds();
}

std::int64_t Run::last_step() const {
  return !is_limited_by_time() ? options().steps : ending_ ? ending_->end : 0;
}

bool Run::is_last_step() const {
  return is_out_of_patience() || (last_step_is_known() && step_ >= last_step());
}

bool Run::is_out_of_patience() const {
  return options().keep_best > 0 && best_ && best_->worse_since >= options().keep_best;
}

void Run::train_step() {
  const Stopwatch watch;
  const std::int64_t step = step_ + 1;
  const double rate = learning_rate(options(), ending_, step);
  const std::int64_t labels = task_->training_labels(step);
  const double scale = 1.0 / static_cast<double>(labels);
  const auto windows_of_pass = [&](std::int64_t i) {
    return task_->training_windows(step, i * options().batch);
  };
  const std::vector<LossSum> losses = within_range(fmt::format("step {}", step), [&] {
    return model_->accumulate(windows_of_pass, scale, step);
  });
  LossSum loss;
  for (std::int64_t i = 0; i < options().accumulate; ++i) {
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
  model_->step(rate, reformer::clipping_scale(norm, options().clip));
  running_.gradient_norms += norm;
  step_ = step;
  tokens_ += labels;
  running_.loss += loss;
  ++running_.steps;
  recent_loss_.add(loss.bits_per_byte());
  // The first step of a process warms up memory and caches, and tells little about the others.
  if (++steps_here_ == 2) {
    step_seconds_.clear();
    step_tokens_.clear();
  }
  step_seconds_.add(watch.seconds());
  step_tokens_.add(static_cast<double>(labels));
  if (step_ % options().log_every == 0) {
    write_train_record();
  }
  show_progress();
}

void Run::fail_not_finite(const std::string& where, double value, const Windows& windows,
                          std::int64_t pass) {
  if (!ranks_.is_first()) {
    throw FailedElsewhere{exit_failure};
  }
  throw std::runtime_error(
      fmt::format("{} is {}: first not finite {}{}; a lower --learning-rate may help", where,
                  std::isnan(value) ? "not a number" : "infinite",
                  model_->first_not_finite(windows, pass), what_is_kept()));
}

double Run::tokens_per_second() const {
  return step_tokens_.value() / step_seconds_.value();
}

double Run::seconds_left() const {
  if (is_limited_by_time()) {
    return std::max(limit_seconds() - elapsed(), 0.0);
  }
  const auto left = static_cast<double>(last_step() - step_);
  const double validations =
      options().eval_every > 0 ? left / static_cast<double>(options().eval_every) : 0;
  return left * step_seconds_.value() + validations * costs_.validation + costs_.final;
}

void Run::show_progress() {
  const Units units = task_->units();
  progress_.update(clock_.seconds(),
                   {.step = step_,
                    .total_steps = last_step_is_known() ? last_step() : 0,
                    .bits = recent_loss_.value(),
                    .unit = units.bits,
                    .tokens_per_second = tokens_per_second(),
                    .learning_rate = learning_rate(options(), ending_, step_),
                    .memory_bytes = resident_memory(),
                    .seconds_left = seconds_left()},
                   is_last_step());
}

void Run::write_train_record() {
  write({{"type", "train"},
         {"step", step_},
         {"bpb", running_.loss.bits_per_byte()},
         {"learning_rate", learning_rate(options(), ending_, step_)},
         {"gradient_norm", running_.gradient_norms / static_cast<double>(running_.steps)},
         {"exposed_seconds", model_->exposed_seconds()},
         {"tokens", tokens_},
         {"tokens_per_second", tokens_per_second()},
         {"memory_bytes", resident_memory()},
         {"seconds", elapsed()}});
  running_ = Running();
}

void Run::decide_ending() {
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
      Ending{step_, step_ + steps_that_fit(elapsed(), limit_seconds(), costs_, options(), step_)});
  if (ending_->end == step_) {
    show_progress();
  }
}

void Run::measure_costs() {
  evaluate("a trial", task_->evaluation(Split::validation, Extent::trial));
  if (ranks_.is_first()) {
    finish_seconds_ = task_->finish_seconds(*model_);
  }
  update_costs();
  if (cost_samples_++ == 0 && costs_.final > limit_seconds() / 3) {
    progress_.message(fmt::format(
        "note: the evaluation at the end takes about {} of the {}; {} limits it",
        format_duration(costs_.final), format_duration(limit_seconds()), task_->final_limit()));
  }
}

void Run::update_costs() {
  const auto seconds = [&](const Evaluation& evaluation) {
    return static_cast<double>(evaluation.positions()) * evaluation_seconds_per_position_.value();
  };
  costs_.validation = seconds(*task_->evaluation(Split::validation, Extent::on_the_way));
  costs_.final = seconds(*task_->evaluation(Split::validation, Extent::final)) +
                 seconds(*task_->evaluation(Split::test, Extent::final)) + finish_seconds_ +
                 costs_.save;
  for (const FurtherTest& test : task_->further_tests()) {
    costs_.final += seconds(*test.evaluation);
  }
}

}  // namespace training
