// SPDX-License-Identifier: MIT
#include "evaluator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <span>
#include <stdexcept>

#include "corpus.hpp"
#include "distance.hpp"
#include "matches.hpp"
#include "model_io.hpp"
#include "options.hpp"
#include "text.hpp"
#include "training/checkpoint.hpp"
#include "training/words.hpp"
#include "windows.hpp"

namespace enwik8 {
namespace {

using training::checkpoint_path;
using training::exit_success;
using training::grouped;
using training::local_reach;
using training::NamedValues;

/// Takes the attention of the named layers out of the model: a layer's output projection is zero.
void leave_out(TokenModel& model, const EvaluateOptions& options, const Options& saved) {
  for (const std::int64_t layer : options.without) {
    if (layer == 0) {
      continue;
    }
    if (layer > std::ssize(saved.layers)) {
      throw OptionError(fmt::format("--without is '{}'; allowed: layers from 1 to {}", layer,
                                    saved.layers.size()));
    }
    const std::string name = fmt::format("layers.{}.attention.output.weight", layer - 1);
    for (const NamedValues& parameter : model.parameters()) {
      if (parameter.name == name) {
        std::fill(parameter.values.begin(), parameter.values.end(), 0.0F);
      }
    }
  }
}

int evaluate(const EvaluateOptions& options, const Console& console) {
  const Checkpoint checkpoint(checkpoint_path(options.checkpoint));
  Options saved = saved_options(checkpoint);
  saved.threads = options.threads;
  check_overlap("overlap", options.overlap, saved.length);
  change_hashing(saved, options.hashes, options.buckets, options.chunk_length);
  const nlohmann::json data = training::saved_data(checkpoint);
  TextData text =
      TextData::for_model(options.data.empty() ? saved.data : options.data,
                          tokenizer_of_run(checkpoint_path(options.checkpoint), data),
                          data_folders(std::filesystem::current_path(), program_path()));
  if (!text.is_bytes() && (options.by_distance || options.matches)) {
    throw OptionError(
        fmt::format("--{} looks at the bytes that are repeated; allowed: for models "
                    "of bytes",
                    options.by_distance ? "by-distance" : "matches"));
  }
  text.require_parts(2, "an evaluation");
  if (saved.is_by_document()) {
    text.find_documents();
  }
  if (options.data.empty() && !data.empty()) {
    training::require_same_data(data, text.description(), checkpoint.path().parent_path());
  }
  const Text part = options.split == "train"  ? text.train()
                    : options.split == "test" ? text.test()
                                              : text.validation();
  TokenModel model(saved, text.tokenizer().vocabulary(), TokenModel::Use::generation);
  model.load(checkpoint);
  leave_out(model, options, saved);

  training::LossSum loss;
  DistanceClasses classes(local_reach(saved), saved.length);
  std::optional<Matches> matches;
  if (options.matches) {
    matches.emplace(model.hashed_patterns(), local_reach(saved), saved.length);
  }
  EvaluationWindows all(part, saved.is_by_document() ? part.documents() : part.whole(), saved.batch,
                        saved.length, options.bytes, options.overlap);
  for (Windows windows = all.next(); windows.count > 0; windows = all.next()) {
    std::vector<double> losses;
    loss += model.evaluate(windows, &losses);
    if (text.is_bytes()) {
      classes.add(windows, losses);
    }
    if (matches) {
      matches->add(windows, model.buckets(windows));
    }
  }
  if (!std::isfinite(loss.bits_per_byte())) {
    throw std::runtime_error(
        fmt::format("the loss is {}: the weights in '{}' are not finite, or too large",
                    loss.bits_per_byte(), checkpoint.path().string()));
  }
  fmt::print(console.out, "{} split of {}, {} bytes: {:.4f} bits per byte, in {}\n", options.split,
             text.source(), grouped(loss.bytes), loss.bits_per_byte(), model.precision());
  if (options.by_distance) {
    for (const std::string& line : classes.lines()) {
      fmt::print(console.out, "{}\n", line);
    }
  }
  if (matches) {
    for (const std::string& line : matches->lines()) {
      fmt::print(console.out, "{}\n", line);
    }
  }
  return exit_success;
}

}  // namespace

int run_evaluator(const std::vector<std::string>& arguments, const Console& console) {
  return training::with_errors_reported("enwik8_evaluate", console, [&] {
    const Parsed<EvaluateOptions> parsed = parse_evaluate_options(arguments);
    if (!parsed.help.empty()) {
      fmt::print(console.out, "{}", parsed.help);
      return exit_success;
    }
    return evaluate(parsed.options, console);
  });
}

}  // namespace enwik8
