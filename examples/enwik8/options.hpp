// SPDX-License-Identifier: MIT
/// @file
/// The options of the trainer and of the generator: their defaults, presets, checks and `--help`.
///
/// Each option is described once, in a table (options.cpp) that serves the command line, the help,
/// the header of metrics.jsonl, the checkpoint and the comparison of the two on `--resume`.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace enwik8 {

/// A bad option. `what()` is one line: which option, which value, what is allowed. Exit code 2.
class OptionError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// What the trainer is asked to do. The values here are the preset `quick`, and what a checkpoint
/// means that was written before an option existed: a new one begins as what was done without it.
struct Options {
  // The run: may change when it is resumed.
  std::string data;                 ///< empty: enwik8 from the data folder, or the generated corpus
  std::string out;                  ///< empty: a new folder under runs/
  bool resume = false;              ///< continue the run in `out`
  double minutes = 5;               ///< limit in time, 0 when `steps` is the limit
  std::int64_t steps = 0;           ///< limit in steps, 0 when `minutes` is the limit
  std::int64_t threads = 0;         ///< 0: all
  std::int64_t log_every = 10;      ///< steps between lines in metrics.jsonl
  std::int64_t eval_every = 500;    ///< steps between validations, 0: only at the end
  std::int64_t eval_bytes = 32768;  ///< bytes of a validation on the way
  bool by_distance = false;         ///< evaluations are split by the distance of repetitions
  std::int64_t final_bytes = 0;     ///< bytes of each split evaluated at the end, 0: all
  std::int64_t keep_best = 0;       ///< validations without a better one before the end, 0: no end
  std::int64_t eval_overlap = 0;    ///< of windows of another evaluation at the end, 0: none
  std::int64_t memory_budget = 0;   ///< megabytes that may be spent to save time
  double save_minutes = 5;          ///< time between checkpoints
  std::int64_t sample_bytes = 400;  ///< length of the text sample at the end
  double sample_temperature = 0.8;  ///< of that text, 0: always the most likely byte
  std::string export_folder;        ///< the model is written here, too, at the end; empty: nowhere

  // The model.
  std::string preset = "quick";
  std::string init;  ///< folder of the model to begin with; empty: a new one
  std::int64_t length = 1024;
  /// local, lsh, bucket or exact, or some of them joined by +, which share the heads equally
  std::vector<std::string> layers{"local", "lsh", "local"};
  std::string rotary = "none";             ///< layers: none, local or all
  std::vector<std::string> scores{"dot"};  ///< dot or cosine: of all layers, or of each
  std::vector<std::string> values{"own"};  ///< own, following or mixed: of all layers, or of each
  std::int64_t width = 192;
  std::int64_t heads = 3;
  std::int64_t head_width = 0;                ///< 0: width / heads
  std::int64_t ff_width = 0;                  ///< 0: 4 * width
  std::string activation = "relu";            ///< relu, gelu or gelu-tanh
  std::int64_t chunk_length = 64;             ///< of lsh and bucket layers
  std::int64_t local_chunk_length = 0;        ///< of local layers, 0: as chunk_length
  std::int64_t hashes = 2;                    ///< rounds
  std::vector<std::int64_t> buckets{0};       ///< one number or factors, 0: by a rule
  std::string positions = "sinusoidal";       ///< axial, learned or sinusoidal
  std::vector<std::int64_t> axial_shape{0};   ///< two factors, 0: near the square root of length
  std::vector<std::int64_t> axial_widths{0};  ///< two summands, 0: a quarter and the rest
  std::vector<std::int64_t> ngrams = {0};     ///< orders of tables of n-grams, 0: none
  std::int64_t ngram_rows = 16384;            ///< of each table
  double ngram_dropout = 0;                   ///< of the vectors of each table, as wholes
  double init_weights = 0.05;                 ///< standard deviations of the initial values
  double init_embedding = 0.5;
  double init_positions = 0.02;
  std::string residual = "float";  ///< halves of the residual stream: float or fixed
  double dropout = 0;              ///< of branches' outputs
  double attention_dropout = 0;    ///< of attention weights

  // Training.
  std::uint64_t seed = 1;
  std::string precision = "float32";  ///< of matrix products: float32, bfloat16x3 or bfloat16
  std::int64_t batch = 1;
  std::int64_t accumulate = 1;  ///< batches for each step
  std::string optimizer = "adam";
  double learning_rate = 3e-3;  ///< the highest of the schedule
  std::string schedule = "cosine";
  std::int64_t warmup = 100;
  double final_fraction = 0.05;  ///< of the learning rate, at the end of the cosine
  double beta1 = 0.9;
  double beta2 = 0.98;
  double epsilon = 1e-9;
  double weight_decay = 0;
  double clip = 1;  ///< largest norm of the gradient, 0: as it is

  /// The text of config.json of a model that was begun with `init`, which then decides what is not
  /// an option here. It is saved with the checkpoint, beside the options.
  std::string model_config;

  /// Names of the options that were given by the user, such as "width".
  std::set<std::string> given;
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

/// The outcome of reading a command line: options, or the text that `--help` asks for.
template <typename Values>
struct Parsed {
  Values options;
  std::string help;  ///< not empty when help was asked for; `options` are the defaults then
};

/// @param arguments  without the name of the program
/// @throw OptionError for anything that is not allowed
Parsed<Options> parse_options(const std::vector<std::string>& arguments);
Parsed<GenerateOptions> parse_generate_options(const std::vector<std::string>& arguments);
Parsed<EvaluateOptions> parse_evaluate_options(const std::vector<std::string>& arguments);

/// The names of the presets, the default first.
std::vector<std::string> preset_names();

/// Defaults of a preset. @throw OptionError that lists the allowed names
Options preset_options(const std::string& name);

/// Checks what concerns more than one option, and replaces the zeros that stand for a rule by what
/// the rule gives (head_width, ff_width, local_chunk_length, axial_shape, axial_widths, and buckets
/// if there are bucket layers).
/// @throw OptionError
void complete_options(Options& options);

/// @throw OptionError unless windows of a length can overlap by so many bytes
void check_overlap(const std::string& name, std::int64_t overlap, std::int64_t length);

/// The kinds of heads of a layer, such as local and bucket of "local+bucket".
std::vector<std::string> heads_of(const std::string& layer);

/// Names of the options that describe the model.
std::vector<std::string> model_option_names();

/// All options by name, for checkpoints and metrics.
nlohmann::json options_to_json(const Options& options);

/// The reverse. Options that are missing, because they are younger than the checkpoint, have the
/// values of `Options()`. @throw std::runtime_error when an option is unknown or its value is not
/// allowed
Options options_from_json(const nlohmann::json& json);

/// The options of a resumed run: what was given on the command line where that may change (limits,
/// threads, intervals, the place of the data; the memory budget where it changes no bit), and what
/// the checkpoint says in everything else.
/// @throw OptionError when an option was given that would change the model or its training
Options merge_for_resume(const Options& given, const nlohmann::json& saved);

}  // namespace enwik8
