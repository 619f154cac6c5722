// SPDX-License-Identifier: MIT
/// @file
/// The evaluations of a run, and its end.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "plot.hpp"
#include "run.hpp"
#include "run_record.hpp"
#include "words.hpp"

namespace training {

using nlohmann::json;

bool Run::validation_is_due() const {
  return options().eval_every > 0 && step_ > 0 && step_ % options().eval_every == 0 &&
         step_ != validated_step_ && !is_last_step();
}

Run::Measured Run::evaluate(const std::string& name, std::unique_ptr<Evaluation> evaluation) {
  const Stopwatch watch;
  Measured measured{.loss = {}, .evaluation = std::move(evaluation), .seconds = 0};
  model_->wait_for_parameters();
  for (;;) {
    std::vector<Windows> round;  // one for each rank, while there are any
    while (std::ssize(round) < ranks_.size()) {
      Windows windows = measured.evaluation->next();
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
    evaluate_round(name, round, measured);
  }
  measured.seconds = watch.seconds();
  return measured;
}

void Run::evaluate_round(const std::string& name, const std::vector<Windows>& round,
                         Measured& measured) {
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
  if (measured.evaluation->wants_each_loss()) {
    for (const Windows& windows : round) {
      longest = std::max(longest, windows.positions());
    }
    losses.resize(static_cast<std::size_t>(longest));
    of_all = ranks_.communicator().all_gather(std::span<const double>(losses));
  }
  std::int64_t positions = 0;
  for (std::size_t r = 0; r < round.size(); ++r) {
    if (!std::isfinite(sums[r].nats)) {
      fail_not_finite(fmt::format("{} after step {}: the loss", name, step_), sums[r].nats,
                      round[r], 0);
    }
    measured.loss += sums[r];
    positions += round[r].positions();
    if (measured.evaluation->wants_each_loss()) {
      const auto begin = of_all.begin() + static_cast<std::int64_t>(r) * longest;
      measured.evaluation->add(round[r], {begin, begin + round[r].positions()});
    }
  }
  evaluation_seconds_per_position_.add(watch.seconds() / static_cast<double>(positions));
}

json Run::record_of(const char* type, const Measured& measured) const {
  json record{{"type", type},
              {"step", step_},
              {"bytes", measured.loss.bytes},
              {"whole_split", measured.evaluation->is_whole()},
              {"evaluation_seconds", measured.seconds},
              {"seconds", elapsed()}};
  record.update(measured.evaluation->details());
  return record;
}

void Run::validate() {
  const Measured result =
      evaluate("validation", task_->evaluation(Split::validation, Extent::on_the_way));
  update_costs();
  validated_step_ = step_;
  json record = record_of("validation", result);
  record["validation_bpb"] = result.loss.bits_per_byte();
  write(record);
  progress_.message(fmt::format("step {}: validation {:.4f} {} on {}", step_,
                                result.loss.bits_per_byte(), task_->units().bits,
                                result.evaluation->extent()));
  compare_with_best(result.loss.bits_per_byte());
}

void Run::compare_with_best(double bits_per_byte) {
  if (best_ && bits_per_byte >= best_->bits_per_byte) {
    ++best_->worse_since;
    if (is_out_of_patience()) {
      progress_.message(fmt::format("step {}: {} validation{} without a better one: the end", step_,
                                    best_->worse_since, best_->worse_since == 1 ? "" : "s"));
    }
    return;
  }
  best_ = Best{bits_per_byte, 0};
  if (options().keep_best > 0) {
    save_as(best_name);
  }
}

void Run::return_to_best() {
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

void Run::finish() {
  progress_.finish();
  if (options().keep_best > 0) {
    return_to_best();
  }
  model_->wait_for_parameters();
  if (!options().export_folder.empty() && ranks_.is_first()) {
    model_->save_huggingface(options().export_folder);
    task_->complete_export(options().export_folder);
    progress_.message(fmt::format("written for HuggingFace: {}{}", options().export_folder,
                                  task_->export_note(*model_)));
  }
  const std::string bits = task_->units().bits;
  const Measured validation =
      evaluate("validation", task_->evaluation(Split::validation, Extent::final));
  json record = record_of("validation", validation);
  record["final"] = true;
  record["validation_bpb"] = validation.loss.bits_per_byte();
  write(record);
  progress_.message(fmt::format("validation {}: {:.4f}, {}", bits, validation.loss.bits_per_byte(),
                                validation.evaluation->extent()));
  const Measured test = evaluate("test", task_->evaluation(Split::test, Extent::final));
  progress_.message(fmt::format("test evaluated on {}", test.evaluation->extent()));
  for (FurtherTest& further : task_->further_tests()) {
    test_further(further);
  }
  if (ranks_.is_first()) {
    task_->finish(*model_, {.folder = folder_,
                            .step = step_,
                            .write = [&](const json& made) { write(made); },
                            .say = [&](const std::string& line) { progress_.message(line); },
                            .check_stop =
                                [&] {
                                  if (stop_requested_(step_)) {
                                    throw Interrupted();
                                  }
                                }});
  }
  record = record_of("test", test);
  record["final"] = true;
  record["test_bpb"] = test.loss.bits_per_byte();
  record["validation_bpb"] = validation.loss.bits_per_byte();
  record["context_rule"] = task_->context_rule();
  record["tokens"] = tokens_;
  record["peak_memory_bytes"] = peak_resident_memory();
  write(record);
  progress_.message(fmt::format("{} steps, {} {} read, {} in all, peak memory {}; run in {}",
                                grouped(step_), grouped(tokens_), task_->units().many,
                                format_duration(elapsed()), format_bytes(peak_resident_memory()),
                                folder_.string()));
  if (ranks_.size() > 1) {
    progress_.message(fmt::format("in {} of this, rank 0 only waited for others",
                                  format_duration(model_->exposed_seconds())));
  }
  draw_curves();
  for (const std::string& line : test.evaluation->lines()) {
    progress_.message(line);
  }
  progress_.message(fmt::format("test {}: {:.4f}", bits, test.loss.bits_per_byte()));
}

void Run::draw_curves() {
  if (!ranks_.is_first() || !can_plot()) {
    return;
  }
  try {
    const RunRecord record = read_run(folder_);
    if (record.train.size() + record.validation.size() < 3) {
      return;
    }
    const std::filesystem::path picture = folder_ / "curves.svg";
    plot(picture, {&record, 1}, task_->units().bits, PlotAxis::steps);
    progress_.message(fmt::format("curves: {}", picture.string()));
  } catch (const std::runtime_error& error) {  // what was learned is safe without them
    progress_.message(fmt::format("no curves: {}", error.what()));
  }
}

void Run::test_further(FurtherTest& further) {
  const Measured test = evaluate("test", std::move(further.evaluation));
  json record = record_of(further.type.c_str(), test);
  record["final"] = true;
  record["test_bpb"] = test.loss.bits_per_byte();
  record["context_rule"] = further.rule;
  write(record);
  progress_.message(fmt::format("test with {}: {:.4f} {}", further.rule, test.loss.bits_per_byte(),
                                task_->units().bits));
}

}  // namespace training
