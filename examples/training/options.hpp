// SPDX-License-Identifier: MIT
/// @file
/// The options that all trainers share, their checks, and what a trainer makes of them: a trainer
/// derives its own options from `Options` and has an `OptionSet` of them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "option_table.hpp"

namespace training {

/// What every trainer is asked to do. The values here are what a checkpoint means that was written
/// before an option existed: a new one begins as what was done without it.
struct Options {
  // The run: may change when it is resumed.
  std::string out;                 ///< empty: a new folder under runs/
  bool resume = false;             ///< continue the run in `out`
  std::string config;              ///< file of further options; those given beside it come first
  bool tensorboard = false;        ///< write files of events, too
  double minutes = 5;              ///< limit in time, 0 when `steps` is the limit
  std::int64_t steps = 0;          ///< limit in steps, 0 when `minutes` is the limit
  std::int64_t threads = 0;        ///< 0: all
  std::int64_t log_every = 10;     ///< steps between lines in metrics.jsonl
  std::int64_t eval_every = 500;   ///< steps between validations, 0: only at the end
  std::int64_t keep_best = 0;      ///< validations without a better one before the end, 0: no end
  std::int64_t memory_budget = 0;  ///< megabytes that may be spent to save time
  double save_minutes = 5;         ///< time between checkpoints
  std::string export_folder;       ///< the model is written here, too, at the end; empty: nowhere

  // The model.
  std::string preset;  ///< name of the preset
  std::string init;    ///< folder of the model to begin with; empty: a new one
  std::int64_t length = 1024;
  /// local, lsh, bucket or exact, or some of them joined by +, which share the heads equally
  std::vector<std::string> layers{"local", "lsh", "local"};
  std::string rotary = "none";             ///< layers: none, local or all
  std::vector<std::string> scores{"dot"};  ///< dot or cosine: of all layers, or of each
  std::vector<std::string> values{"own"};  ///< own, following or mixed: of all layers, or of each
  std::int64_t width = 192;
  std::int64_t heads = 3;
  std::int64_t head_width = 0;           ///< 0: width / heads
  std::int64_t ff_width = 0;             ///< 0: 4 * width
  std::string activation = "relu";       ///< relu, gelu or gelu-tanh
  std::int64_t chunk_length = 64;        ///< of lsh and bucket layers
  std::int64_t local_chunk_length = 0;   ///< of local layers, 0: as chunk_length
  std::int64_t hashes = 2;               ///< rounds
  std::vector<std::int64_t> buckets{0};  ///< one number or factors, 0: by a rule
  std::string positions = "sinusoidal";  ///< axial, learned or sinusoidal
  std::vector<std::int64_t> axial_shape{
      0};  ///< two or three factors, 0: two near the square root of length
  std::vector<std::int64_t> axial_widths{0};  ///< as many summands, 0: by a rule
  std::string embedding = "separate";         ///< from the head's weights, or tied to them
  std::vector<std::int64_t> ngrams = {0};     ///< orders of tables of n-grams, 0: none
  std::int64_t value_ngrams = 0;              ///< order of tables for values, 0: none
  std::int64_t ngram_rows = 16384;            ///< of each table
  double ngram_dropout = 0;                   ///< of the vectors of n-grams, as wholes
  double init_weights = 0.05;                 ///< standard deviations of the initial values
  double init_embedding = 0.5;
  double init_positions = 0.02;
  std::string residual = "float";  ///< halves of the residual stream: float or fixed
  double dropout = 0;              ///< of branches' outputs
  double attention_dropout = 0;    ///< of attention weights
  double dropout_passes = 0;       ///< over the data, in which dropout grows

  // Training.
  std::uint64_t seed = 1;
  std::string precision = "float32";  ///< of matrix products: as `Precision`, or auto
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

  /// All options by name as they were asked for, with the zeros that stand for a rule.
  nlohmann::json asked;

  /// Names of the options that were given by the user, such as "width".
  std::set<std::string> given;

  std::int64_t windows_of_a_step() const { return accumulate * batch; }
  /// What dropout has of its rates when all data has been read so often. It costs where everything
  /// is new, and pays where it is read again.
  double dropout_share(double epochs) const {
    return epochs < dropout_passes ? epochs / dropout_passes : 1;
  }
};

/// What a model reads and predicts, in words.
struct Units {
  std::string one = "byte";                   ///< a position of a window
  std::string many = "bytes";                 ///< the same, more of them
  std::string bits = "bits per byte";         ///< of the loss
  std::string axial_shape = "two by length";  ///< what positions have where none is given
};

/// The rows of options under the headings Run, Model and Training.
/// @param presets  their names
Table<Options> run_table();
Table<Options> model_table(const Units& units, const std::vector<std::string>& presets);
Table<Options> training_table(const Units& units);

/// Checks what concerns more than one option, and replaces the zeros that stand for a rule by what
/// the rule gives (head_width, ff_width, local_chunk_length, axial_shape, axial_widths, and buckets
/// if there are bucket layers).
/// @throw OptionError
void complete_options(Options& options);

/// What layers with bucket chunks are best with, for presets.
void prepare_for_buckets(Options& options);

/// The kinds of heads of a layer, such as local and bucket of "local+bucket".
std::vector<std::string> heads_of(const std::string& layer);

/// All options of a trainer.
template <typename Values>
struct OptionSet {
  std::string program;      ///< its name
  std::string description;  ///< a sentence
  Table<Values> table;
  std::vector<Values> presets;            ///< the default first; each is named by its `preset`
  std::function<void(Values&)> complete;  ///< `complete_options` and checks of one's own
};

template <typename Values>
std::vector<std::string> names_of(const std::vector<Values>& presets) {
  std::vector<std::string> names;
  for (const Values& options : presets) {
    names.push_back(options.preset);
  }
  return names;
}

/// @throw OptionError that lists the allowed names
template <typename Values>
Values preset_of(const OptionSet<Values>& set, const std::string& name) {
  for (const Values& options : set.presets) {
    if (options.preset == name) {
      return options;
    }
  }
  refuse("preset", name, fmt::format("{}", fmt::join(names_of(set.presets), ", ")));
}

/// What distinguishes presets, as a table: of each option the values of all presets.
/// @param rows  name of an option and its values; those of "preset" are the heads of the columns
std::string preset_table(
    const std::vector<std::pair<std::string, std::vector<nlohmann::json>>>& rows);

inline constexpr const char* options_name = "options.json";

/// Options as they are saved: `options.json` of a run, or its metrics, whose header holds them. The
/// folder of that run and what stands for "none" are left out.
/// @param place  such a file, or the folder of a run
/// @throw OptionError when it is not readable as options
Given read_config(const std::filesystem::path& place);

/// Names of files may be any bytes, but what a run keeps of its options is JSON.
/// @throw OptionError for a text that is not UTF-8
void check_is_utf8(const nlohmann::json& options);

/// Adds what a file of options says to what was given on the command line, which comes first.
/// @param names  of the options that are settings
/// @return the names of what was added
/// @throw OptionError for another one
std::set<std::string> add_config(Given& given, const std::set<std::string>& names);

/// What the options of all trainers have to be checked for before presets and values are looked at.
/// @throw OptionError
void check_limits(const Given& given);
/// The limit that was given puts the other one out of force.
void choose_limit(const Given& given, Options& options);

/// All options by name, for checkpoints and metrics.
template <typename Values>
nlohmann::json options_to_json(const OptionSet<Values>& set, const Values& options) {
  nlohmann::json object = nlohmann::json::object();
  for (const Option<Values>& option : set.table) {
    if (option.is_setting()) {
      object[option.name] = option.get(options);
    }
  }
  return object;
}

/// Reads the command line of a trainer. @param arguments  without the name of the program
/// @throw OptionError for anything that is not allowed
template <typename Values>
Parsed<Values> parse_options(const OptionSet<Values>& set,
                             const std::vector<std::string>& arguments) {
  Given given = read_command_line(arguments, texts_of(set.table, set.presets.front()));
  std::set<std::string> from_file;
  if (given.contains("config") && !given.contains("help")) {
    std::set<std::string> names;
    for (const Option<Values>& option : set.table) {
      if (option.is_setting()) {
        names.insert(option.name);
      }
    }
    from_file = add_config(given, names);
  }
  const auto preset = given.find("preset");
  Parsed<Values> parsed{
      preset == given.end() ? set.presets.front() : preset_of(set, preset->second), {}};
  Values& options = parsed.options;
  if (given.contains("help")) {
    std::vector<std::pair<std::string, std::vector<nlohmann::json>>> rows;
    for (const Option<Values>& option : set.table) {
      rows.emplace_back(option.name, std::vector<nlohmann::json>());
      for (const Values& values : set.presets) {
        rows.back().second.push_back(option.get(values));
      }
    }
    parsed.help = help_text(set.program, set.description, texts_of(set.table, options)) + '\n' +
                  preset_table(rows);
    return parsed;
  }
  check_limits(given);
  apply(given, set.table, options, from_file);
  choose_limit(given, options);
  if (options.resume && options.out.empty()) {
    throw OptionError("--resume needs --out, the folder of the run to continue");
  }
  options.asked = options_to_json(set, options);
  check_is_utf8(options.asked);
  // A resumed run is completed from its checkpoint, see merge_for_resume, and one that begins with
  // a model from the model's config.
  if (!options.resume && options.init.empty()) {
    set.complete(options);
  }
  return parsed;
}

/// Sets one option from JSON; one that is not there keeps its value.
/// @throw std::runtime_error when the value is not allowed
template <typename Values>
void set_from_json(Values& options, const Option<Values>& option, const nlohmann::json& object) {
  const auto found = object.find(option.name);
  if (found == object.end() || *found == option.get(options)) {
    return;
  }
  const std::string text = as_text(*found);
  // A limit that is none cannot be given on a command line.
  if (option.name == "minutes" && text == "0") {
    options.minutes = 0;
  } else if (option.name == "steps" && text == "0") {
    options.steps = 0;
  } else {
    try {
      option.set(options, text);
    } catch (const OptionError& error) {
      throw std::runtime_error(fmt::format("the saved options are not usable: {}", error.what()));
    }
  }
}

/// The reverse of `options_to_json`. Options that are missing, because they are younger than the
/// checkpoint, have the values of `Values()`. @throw std::runtime_error when an option is unknown
/// or its value is not allowed
template <typename Values>
Values options_from_json(const OptionSet<Values>& set, const nlohmann::json& json) {
  for (const auto& item : json.items()) {
    if (find_option(set.table, item.key()) == nullptr) {
      throw std::runtime_error(fmt::format(
          "the saved options have '{}', which this program does not know; use the one that wrote "
          "them, in its version",
          item.key()));
    }
  }
  Values options;
  for (const Option<Values>& option : set.table) {
    if (option.is_setting()) {
      set_from_json(options, option, json);
    }
  }
  return options;
}

/// The options of a resumed run: what was given on the command line where that may change (limits,
/// threads, intervals, the place of the data; the memory budget where it changes no bit), and what
/// the checkpoint says in everything else.
/// @throw OptionError when an option was given that would change the model or its training
template <typename Values>
Values merge_for_resume(const OptionSet<Values>& set, const Values& given,
                        const nlohmann::json& saved) {
  Values options = given;
  // What an option stands for that is younger.
  const nlohmann::json before = options_to_json(set, Values());
  for (const Option<Values>& option : set.table) {
    const bool is_limit = option.name == "minutes" || option.name == "steps";
    const bool was_given = is_limit
                               ? given.given.contains("minutes") || given.given.contains("steps")
                               : given.given.contains(option.name);
    if (!was_given && option.is_setting() && option.name != "out") {
      set_from_json(options, option, saved.contains(option.name) ? saved : before);
    }
  }
  const auto check_given = [&](bool rules_too) {
    for (const Option<Values>& option : set.table) {
      const nlohmann::json now = option.get(options);
      const nlohmann::json then = saved.value(option.name, nlohmann::json());
      const bool compared = rules_too || as_text(now) != "0";
      const bool fixed =
          option.fixed || (option.name == "memory-budget" && options.residual != "fixed");
      if (fixed && given.given.contains(option.name) && compared && now != then) {
        throw OptionError(fmt::format(
            "--{} is '{}', but the run in '{}' has '{}': leave it out, or begin another run with "
            "another --out",
            option.name, as_text(now), given.out, as_text(then)));
      }
    }
  };
  // Before the rules are applied, which would complain about the mixture of two configurations; and
  // after it, when zeros that stand for a rule have become comparable.
  check_given(false);
  set.complete(options);
  check_given(true);
  return options;
}

}  // namespace training
