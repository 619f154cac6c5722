// SPDX-License-Identifier: MIT
/// @file
/// What a run keeps in its checkpoints.
#include <fmt/format.h>

#include <filesystem>
#include <stdexcept>

#include "run.hpp"

namespace training {

using nlohmann::json;

json Run::Running::to_json() const {
  return {{"nats", loss.nats},
          {"bytes", loss.bytes},
          {"gradient_norms", gradient_norms},
          {"steps", steps}};
}

Run::Running Run::Running::from_json(const json& object) {
  return {{object.at("nats").get<double>(), object.at("bytes").get<std::int64_t>()},
          object.at("gradient_norms").get<double>(),
          object.at("steps").get<std::int64_t>()};
}

void Run::save() {
  const Stopwatch watch;
  save_as(checkpoint_name);
  saved_step_ = step_;
  since_save_ = Stopwatch();
  costs_.save = watch.seconds();
}

void Run::save_as(const char* name) {
  model_->wait_for_parameters();
  ranks_.together([&] {
    if (const auto tensor = model_->not_finite_tensor()) {
      throw std::runtime_error(
          fmt::format("step {}: {} is no longer finite{}", step_, *tensor, what_is_kept()));
    }
  });
  json state{{"options", task_->options_json()},
             {"data", task_->data_description()},
             {"validated_step", validated_step_},
             {"running", running_.to_json()},
             {"elapsed_seconds", elapsed()},
             {"ending", nullptr},
             {"tokens", tokens_}};
  if (!options().model_config.empty()) {
    state["model_config"] = options().model_config;
  }
  if (best_ && options().keep_best > 0) {
    state["best"] = {{"validation_bpb", best_->bits_per_byte}, {"worse_since", best_->worse_since}};
  }
  if (ending_) {
    state["ending"] = {{"begin", ending_->begin}, {"end", ending_->end}};
  }
  model_->save(folder_ / name, step_, state);
}

void Run::restore(const Checkpoint& checkpoint) {
  const json& state = checkpoint.state();
  try {
    const json& data = state.at("data");
    const json here = task_->data_description();
    require_same_data(data, here, folder_);
    if (data.value("tokenizer_crc32", 0U) != here.value("tokenizer_crc32", 0U)) {
      throw std::runtime_error(fmt::format(
          "the run in '{}' was made with another tokenizer ({}) than this one ({}): name that with "
          "--tokenizer",
          folder_.string(), data.value("tokenizer", "bytes"), here.value("tokenizer", "bytes")));
    }
    step_ = saved_step_ = checkpoint.step();
    validated_step_ = state.at("validated_step").get<std::int64_t>();
    running_ = Running::from_json(state.at("running"));
    tokens_ = state.value("tokens", step_ * tokens_per_step());
    elapsed_before_ = state.at("elapsed_seconds").get<double>();
    // Without the weights it is of no use.
    if (state.contains("best") && std::filesystem::exists(folder_ / best_name)) {
      const json& best = state["best"];
      best_ =
          Best{best.at("validation_bpb").get<double>(), best.at("worse_since").get<std::int64_t>()};
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

std::string Run::what_is_kept() const {
  return saved_step_ < 0 ? std::string()
                         : fmt::format("; '{}' still holds step {}",
                                       (folder_ / checkpoint_name).string(), saved_step_);
}

}  // namespace training
