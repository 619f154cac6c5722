// SPDX-License-Identifier: MIT
/// @file
/// The options of the trainer, the generator and the evaluator of text: their defaults, presets,
/// checks and `--help`.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "training/options.hpp"

namespace enwik8 {

using training::OptionError;
using training::Parsed;

/// What the trainer is asked to do: what every trainer is, and what is about text.
struct Options : training::Options {
  std::string data;                 ///< empty: enwik8 from the data folder, or the generated corpus
  std::string tokenizer;            ///< empty: the one beside a token file, or bytes
  std::int64_t eval_bytes = 32768;  ///< tokens of a validation on the way
  bool by_distance = false;         ///< evaluations are split by the distance of repetitions
  std::int64_t final_bytes = 0;     ///< tokens of each split evaluated at the end, 0: all
  std::int64_t eval_overlap = 0;    ///< of windows of another evaluation at the end, 0: none
  std::int64_t sample_bytes = 400;  ///< length of the text sample at the end
  double sample_temperature = 0.8;  ///< of that text, 0: always the most likely byte
  std::string windows = "stream";   ///< anywhere in the text, or each within one of its documents
  std::int64_t short_steps = 0;     ///< the first ones, whose windows are cut into `short_parts`

  static constexpr std::int64_t short_parts = 4;

  bool is_by_document() const { return windows == "documents"; }

  Options() { preset = "quick"; }
};

/// What the generator is asked to do.
struct GenerateOptions {
  std::string checkpoint;  ///< a checkpoint, or the folder of a run
  std::string prompt;
  std::string prompt_file;  ///< read instead of `prompt` when not empty
  std::int64_t length = 500;
  double temperature = 0.8;
  std::int64_t top_k = 0;
  double top_p = 0.95;
  double repetition_penalty = 1;
  std::string stop;         ///< bytes before which the text ends
  std::int64_t hashes = 0;  ///< rounds, 0: those of the run
  std::uint64_t seed = 1;
  std::int64_t threads = 0;

  std::set<std::string> given;
};

/// What the evaluator is asked to do.
struct EvaluateOptions {
  std::string checkpoint;  ///< a checkpoint, or the folder of a run
  std::string data;        ///< empty: what the run was made with
  std::string split = "validation";
  std::int64_t bytes = 0;                ///< at most, 0: all
  std::int64_t overlap = 0;              ///< of windows
  std::int64_t hashes = 0;               ///< rounds, 0: those of the run
  std::vector<std::int64_t> buckets{0};  ///< factors of their number, 0: those of the run
  std::int64_t chunk_length = 0;         ///< of hashed layers, 0: that of the run
  std::vector<std::int64_t> without{0};  ///< layers whose attention is left out, from 1; 0: none
  bool by_distance = false;
  bool matches = false;  ///< count what hashing finds
  std::int64_t threads = 0;

  std::set<std::string> given;
};

/// @param arguments  without the name of the program
/// @throw OptionError for anything that is not allowed
Parsed<Options> parse_options(const std::vector<std::string>& arguments);
Parsed<GenerateOptions> parse_generate_options(const std::vector<std::string>& arguments);
Parsed<EvaluateOptions> parse_evaluate_options(const std::vector<std::string>& arguments);

/// All options of the trainer.
const training::OptionSet<Options>& option_set();

/// The names of the presets, the default first.
std::vector<std::string> preset_names();

/// Checks what concerns more than one option, and completes them.
/// @throw OptionError
void complete_options(Options& options);

/// @throw OptionError unless windows of a length can overlap by so many bytes
void check_overlap(const std::string& name, std::int64_t overlap, std::int64_t length);

/// Names of the options that describe the model.
std::vector<std::string> model_option_names();

/// See training/options.hpp.
nlohmann::json options_to_json(const Options& options);
Options options_from_json(const nlohmann::json& json);
Options merge_for_resume(const Options& given, const nlohmann::json& saved);

}  // namespace enwik8
