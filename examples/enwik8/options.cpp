// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <functional>
#include <locale>
#include <map>
#include <optional>
#include <sstream>
#include <string_view>
#include <system_error>
#include <utility>

#include "presets.hpp"

namespace enwik8 {
namespace {

using nlohmann::json;

/// One option of a struct of options.
template <typename Values>
struct Option {
  std::string name;     // without the dashes
  std::string metavar;  // what its value is called in the help; empty for a flag
  std::string group;    // heading in the help
  std::string help;
  bool fixed;  // whether it belongs to the model and its training, and cannot change on resume
  std::function<void(Values&, const std::string&)> set;
  std::function<json(const Values&)> get;

  /// Flags ask for something once; they are no setting to be kept.
  bool is_request() const { return metavar.empty(); }
};

template <typename Values>
using Table = std::vector<Option<Values>>;

[[noreturn]] void refuse(const std::string& name, const std::string& value,
                         const std::string& allowed) {
  throw OptionError(fmt::format("--{} is '{}'; allowed: {}", name, value, allowed));
}

// ---- values

/// Reads all of `text` as a whole number, or nothing.
template <typename Number>
std::optional<Number> to_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return number;
}

/// Reads all of `text` as a decimal number such as -1, .5 or 2e-4, or nothing. libc++ has no
/// `from_chars` of it before version 20; a stream takes other spellings too, and as much as it
/// can, so the spelling is looked at first.
std::optional<double> to_real(const std::string& text) {
  std::size_t i = text.starts_with('-') ? 1 : 0;
  const auto digits = [&] {
    const std::size_t first = i;
    while (i < text.size() && text[i] >= '0' && text[i] <= '9') ++i;
    return i - first;
  };
  const std::size_t whole = digits();
  const std::size_t fraction = i < text.size() && text[i] == '.' ? (++i, digits()) : 0;
  const std::string mantissa = text.substr(0, i);
  bool good = whole + fraction > 0;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    good = good && digits() > 0;
  }
  if (!good || i != text.size()) {
    return std::nullopt;
  }
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  double number = 0;
  // A number too small for any but 0 is refused as one too large is.
  if (!(stream >> number) ||
      (number == 0 && mantissa.find_first_of("123456789") != std::string::npos)) {
    return std::nullopt;
  }
  return number;
}

std::vector<std::string> split_list(const std::string& text, char separator = ',') {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) {
      return parts;
    }
    begin = end + 1;
  }
}

constexpr std::int64_t whole_limit = 1'000'000'000'000;
constexpr std::int64_t pass_limit = 4'294'967'295;  // random numbers count passes with 32 bits
/// Of steps, sizes in lists, positions at once, and heads times their width.
constexpr std::int64_t size_limit = 2'147'483'647;
constexpr std::int64_t bucket_limit = 65535;
constexpr double most_minutes = 10'000'000;  // 19 years

/// Collects options, one call each. Every kind of value is read, shown and refused here.
template <typename Values>
class TableBuilder {
 public:
  Table<Values> table;

  void group(std::string name, bool fixed) {
    group_ = std::move(name);
    fixed_ = fixed;
  }

  void whole(std::string name, std::int64_t Values::*member, std::int64_t low, std::string help,
             std::int64_t high = whole_limit) {
    const std::string allowed = high == whole_limit
                                    ? fmt::format("a whole number from {}", low)
                                    : fmt::format("a whole number from {} to {}", low, high);
    add(
        name, "N", help,
        [=](Values& values, const std::string& text) {
          const auto number = to_number<std::int64_t>(text);
          if (!number || *number < low || *number > high) {
            refuse(name, text, allowed);
          }
          values.*member = *number;
        },
        member);
  }

  void seed(std::string name, std::uint64_t Values::*member, std::string help) {
    add(
        name, "N", help,
        [=](Values& values, const std::string& text) {
          const auto number = to_number<std::uint64_t>(text);
          if (!number) {
            refuse(name, text, "a whole number from 0 to 18446744073709551615");
          }
          values.*member = *number;
        },
        member);
  }

  /// @param low_included,high_included  whether the limits themselves are allowed
  void real(std::string name, double Values::*member, double low, bool low_included, double high,
            bool high_included, std::string help) {
    std::string allowed = fmt::format("a number {} {}", low_included ? "from" : "above", low);
    allowed += std::isfinite(high) ? fmt::format(" {} {}", high_included ? "to" : "and below", high)
                                   : ", in the range of float";
    add(
        name, "X", help,
        [=](Values& values, const std::string& text) {
          const auto number = to_real(text);
          // Most become floats, in which a tiny number is zero and a huge one infinite.
          const auto as_float = number ? static_cast<double>(static_cast<float>(*number)) : 0;
          const bool good =
              number && std::isfinite(as_float) &&
              (low_included ? *number >= low
                            : as_float >= double{std::numeric_limits<float>::min()}) &&
              (high_included ? *number <= high : *number < high);
          if (!good) {
            refuse(name, text, allowed);
          }
          values.*member = *number;
        },
        member);
  }

  void text(std::string name, std::string metavar, std::string Values::*member, std::string help,
            bool may_be_empty = false) {
    add(
        name, metavar, help,
        [=](Values& values, const std::string& given) {
          if (given.empty() && !may_be_empty) {
            refuse(name, given, "a name that is not empty");
          }
          values.*member = given;
        },
        member);
  }

  void choice(std::string name, std::string Values::*member, std::vector<std::string> allowed,
              std::string help) {
    help += fmt::format(": {}", fmt::join(allowed, ", "));
    add(
        name, "NAME", help,
        [=](Values& values, const std::string& given) {
          if (std::find(allowed.begin(), allowed.end(), given) == allowed.end()) {
            refuse(name, given, fmt::format("{}", fmt::join(allowed, ", ")));
          }
          values.*member = given;
        },
        member);
  }

  /// @param are_joined  each word of the list may be several of the allowed ones, joined by +
  void choices(std::string name, std::vector<std::string> Values::*member,
               std::vector<std::string> allowed, std::string help, bool are_joined = false) {
    add_list(
        name, "LIST", help,
        [=](Values& values, const std::string& given) {
          std::vector<std::string> parts = split_list(given);
          for (const std::string& part : parts) {
            for (const std::string& word : are_joined ? heads_of(part) : std::vector{part}) {
              if (std::find(allowed.begin(), allowed.end(), word) == allowed.end()) {
                refuse(name, given,
                       fmt::format("a comma list of {}{}", fmt::join(allowed, ", "),
                                   are_joined ? ", or of some joined by +" : ""));
              }
            }
          }
          values.*member = std::move(parts);
        },
        member);
  }

  /// A comma list of sizes; a single 0 stands for a rule.
  void wholes(std::string name, std::vector<std::int64_t> Values::*member, std::string help) {
    add_list(
        name, "LIST", help,
        [=](Values& values, const std::string& given) {
          std::vector<std::int64_t> numbers;
          for (const std::string& part : split_list(given)) {
            const auto number = to_number<std::int64_t>(part);
            if (!number || *number < 1 || *number > size_limit) {
              if (given == "0") {
                numbers.push_back(0);
                break;
              }
              refuse(name, given,
                     fmt::format("a comma list of whole numbers from 1 to {}, or 0", size_limit));
            }
            numbers.push_back(*number);
          }
          values.*member = std::move(numbers);
        },
        member);
  }

  void flag(std::string name, bool Values::*member, std::string help) {
    add(
        name, "", help,
        [=](Values& values, const std::string& text) { values.*member = text == "true"; }, member);
  }

 private:
  template <typename T>
  void add(const std::string& name, const std::string& metavar, const std::string& help,
           std::function<void(Values&, const std::string&)> set, T Values::*member) {
    table.push_back({name, metavar, group_, help, fixed_, std::move(set),
                     [member](const Values& values) { return json(values.*member); }});
  }

  /// A list is one word, "local,lsh", in JSON as on the command line.
  template <typename T>
  void add_list(const std::string& name, const std::string& metavar, const std::string& help,
                std::function<void(Values&, const std::string&)> set,
                std::vector<T> Values::*member) {
    table.push_back(
        {name, metavar, group_, help, fixed_, std::move(set), [member](const Values& values) {
           return json(fmt::format("{}", fmt::join(values.*member, ",")));
         }});
  }

  std::string group_;
  bool fixed_ = false;
};

/// A value as one would write it on the command line.
std::string as_text(const json& value) {
  return value.is_string()         ? value.get<std::string>()
         : value.is_number_float() ? fmt::format("{}", value.get<double>())  // 5, not 5.0
                                   : value.dump();
}

// ---- the tables

constexpr double infinity = std::numeric_limits<double>::infinity();

Table<Options> make_training_table() {
  TableBuilder<Options> t;
  t.group("Run", false);
  t.text("data", "FILE", &Options::data,
         "learn from this file: raw, .gz or .zip (default: enwik8 from the data folder, else a "
         "generated text)");
  t.real("minutes", &Options::minutes, 0, false, most_minutes, true, "train for so many minutes");
  t.whole("steps", &Options::steps, 1, "train for so many steps, instead of --minutes", size_limit);
  t.text("out", "FOLDER", &Options::out,
         "folder for checkpoint.safetensors and metrics.jsonl (default: a new one under runs/)");
  t.flag("resume", &Options::resume, "continue the run in the folder --out");
  t.whole("threads", &Options::threads, 0, "threads, 0 for all; the result does not depend on it",
          4096);
  t.whole("memory-budget", &Options::memory_budget, 0,
          "megabytes to spend on storing what the backward pass would compute again; with "
          "--residual fixed the result does not depend on it",
          1'000'000);
  t.whole("log-every", &Options::log_every, 1, "steps between lines in metrics.jsonl");
  t.whole("eval-every", &Options::eval_every, 0, "steps between validations, 0: only at the end");
  t.whole("eval-bytes", &Options::eval_bytes, 1,
          "bytes of a validation on the way; the one at the end takes all");
  t.whole("keep-best", &Options::keep_best, 0,
          "keep the weights whose validation was best in best.safetensors and end with them, at "
          "once when so many validations in a row were no better; 0: end with the last weights");
  t.flag("by-distance", &Options::by_distance,
         "split evaluations by how far back lies what a byte repeats");
  t.whole("final-bytes", &Options::final_bytes, 0,
          "bytes of the validation and of the test split evaluated at the end, 0: all");
  t.whole("eval-overlap", &Options::eval_overlap, 0,
          "evaluate the test split also with windows that repeat so many bytes of the one before, "
          "as context; 0: only cold");
  t.real("save-minutes", &Options::save_minutes, 0, false, most_minutes, true,
         "minutes between checkpoints");
  t.whole("sample-bytes", &Options::sample_bytes, 0, "length of the text written at the end",
          1'000'000);
  t.real("sample-temperature", &Options::sample_temperature, 0, true, infinity, false,
         "of that text, 0: always the most likely byte");
  t.text("export", "FOLDER", &Options::export_folder,
         "at the end, write the model here in the layout of HuggingFace");

  t.group("Model", true);
  t.text("preset", "NAME", &Options::preset,
         fmt::format("defaults for all other options: {}", fmt::join(preset_names(), ", ")));
  t.text("init", "FOLDER", &Options::init,
         "begin with the byte model in this folder, config.json and model.safetensors of "
         "HuggingFace's Reformer, which decides all other options of the model but length, "
         "axial-shape, hashes and dropout");
  t.whole("length", &Options::length, 1, "bytes the model sees at once", 1'000'000'000);
  t.choices("layers", &Options::layers, {"local", "lsh", "bucket", "exact"},
            "attention of each layer: local, lsh (chunks across buckets), bucket (chunks within "
            "buckets, strictly causal) or exact; or of shares of its heads, such as local+bucket",
            /*are_joined=*/true);
  t.choices("values", &Options::values, {"own", "following", "mixed"},
            "what a byte that finds an earlier one gets from it: its own value, as published, "
            "that of the byte which followed it, or a learned mixture of both; one word for all "
            "layers, or one for each");
  t.choices("scores", &Options::scores, {"dot", "cosine"},
            "how alike queries and keys are: their product, as published, or the cosine of their "
            "angle times a learned temperature; one word for all layers, or one for each");
  t.choice("rotary", &Options::rotary, {"none", "local", "all"},
           "layers whose queries and keys are rotated by their positions");
  t.whole("width", &Options::width, 1, "numbers for each byte in each half of the model", 1 << 20);
  t.whole("heads", &Options::heads, 1, "attention heads", 1 << 16);
  t.whole("head-width", &Options::head_width, 0, "0: width / heads", 1 << 20);
  t.whole("ff-width", &Options::ff_width, 0, "of the feed-forward layers, 0: 4 * width", 1 << 24);
  t.choice("activation", &Options::activation, {"relu", "gelu", "gelu-tanh"},
           "of the feed-forward layers");
  t.whole("chunk-length", &Options::chunk_length, 1, "of lsh and bucket layers", 1 << 24);
  t.whole("local-chunk-length", &Options::local_chunk_length, 0,
          "of local layers, 0: as --chunk-length", 1 << 24);
  t.whole("hashes", &Options::hashes, 1, "hash rounds of lsh and bucket layers", 1 << 10);
  t.wholes("buckets", &Options::buckets,
           "of lsh and bucket layers: an even number, or even factors such as 16,32; 0: by the "
           "length at hand, or with bucket layers two factors whose product is the power of two "
           "up to 16 * length / chunk-length");
  t.choice("positions", &Options::positions, {"axial", "learned", "sinusoidal"},
           "encoding of positions");
  t.wholes("axial-shape", &Options::axial_shape,
           "two numbers whose product is at least --length; 0: by length");
  t.wholes("axial-widths", &Options::axial_widths,
           "two numbers whose sum is --width; 0: a quarter and the rest");
  t.wholes(
      "ngrams", &Options::ngrams,
      "lengths of n-grams of bytes, from 2 to 16, of which each has a table of vectors that are "
      "added to the embedding; 0: none");
  t.whole("ngram-rows", &Options::ngram_rows, 1, "of each table of n-grams", 1 << 24);
  t.real("ngram-dropout", &Options::ngram_dropout, 0, true, 1, false,
         "of the vectors of n-grams as wholes");
  t.real("init-weights", &Options::init_weights, 0, true, infinity, false,
         "standard deviation of the initial weights of linear layers");
  t.real("init-embedding", &Options::init_embedding, 0, true, infinity, false,
         "the same of the embedding of bytes");
  t.real("init-positions", &Options::init_positions, 0, true, infinity, false,
         "the same of axial or learned positions");
  t.choice("residual", &Options::residual, {"float", "fixed"},
           "arithmetic of the residual stream; fixed point is reversed exactly");
  t.real("dropout", &Options::dropout, 0, true, 1, false, "of what each branch adds");
  t.real("attention-dropout", &Options::attention_dropout, 0, true, 1, false,
         "of attention weights");

  t.group("Training", true);
  t.seed("seed", &Options::seed, "all randomness comes from it");
  t.choice("precision", &Options::precision, {"float32", "bfloat16x3", "bfloat16"},
           "what matrix products round their operands to: 16 binary digits in bfloat16x3, 8 in "
           "bfloat16, which is faster where the processor has instructions for it; evaluations "
           "have it, too");
  t.whole("batch", &Options::batch, 1, "windows of --length bytes for each pass", 1 << 20);
  t.whole("accumulate", &Options::accumulate, 1, "passes for each step, of all ranks together",
          1 << 20);
  t.choice("optimizer", &Options::optimizer, {"adam", "adafactor", "muon"},
           "optimizer; muon: Muon for the weights of the layers, Adam for the rest");
  t.real("learning-rate", &Options::learning_rate, 0, false, infinity, false,
         "highest of the schedule");
  t.choice("schedule", &Options::schedule, {"constant", "rsqrt", "cosine", "linear"},
           "learning rate after the warm-up");
  t.whole("warmup", &Options::warmup, 0, "steps of linear warm-up");
  t.real("final-fraction", &Options::final_fraction, 0, true, 1, true,
         "what is left of the learning rate at the end of the cosine or line");
  t.real("beta1", &Options::beta1, 0, true, 1, false, "of adam");
  t.real("beta2", &Options::beta2, 0, true, 1, false, "of adam");
  t.real("epsilon", &Options::epsilon, 0, false, infinity, false, "of adam");
  t.real("weight-decay", &Options::weight_decay, 0, true, infinity, false,
         "decoupled, scaled by the learning rate");
  t.real("clip", &Options::clip, 0, true, infinity, false,
         "largest norm of the gradient, 0: no limit");
  return std::move(t.table);
}

Table<GenerateOptions> make_generate_table() {
  TableBuilder<GenerateOptions> t;
  t.group("Options", false);
  t.text("checkpoint", "FILE", &GenerateOptions::checkpoint,
         "checkpoint.safetensors of a run, or the folder of the run");
  t.text("prompt", "TEXT", &GenerateOptions::prompt, "text to continue", true);
  t.text("prompt-file", "FILE", &GenerateOptions::prompt_file, "file to continue");
  t.whole("length", &GenerateOptions::length, 1, "bytes to write", 1'000'000'000);
  t.real("temperature", &GenerateOptions::temperature, 0, true, infinity, false,
         "below 1 more likely text, above 1 more surprising; 0: always the most likely byte");
  t.whole("top-k", &GenerateOptions::top_k, 0, "choose among the k most likely bytes, 0: all");
  t.real("top-p", &GenerateOptions::top_p, 0, false, 1, true,
         "choose among the most likely bytes whose probabilities sum to this");
  t.real("repetition-penalty", &GenerateOptions::repetition_penalty, 0, false, infinity, false,
         "above 1: bytes that have occurred become less likely");
  t.text("stop", "BYTES", &GenerateOptions::stop, "end the text before any of these bytes");
  t.seed("seed", &GenerateOptions::seed, "the same seed writes the same text");
  t.whole("hashes", &GenerateOptions::hashes, 0,
          "hash rounds of lsh and bucket layers, 0: those of the run", 1 << 10);
  t.whole("threads", &GenerateOptions::threads, 0, "threads, 0 for all", 4096);
  return std::move(t.table);
}

Table<EvaluateOptions> make_evaluate_table() {
  TableBuilder<EvaluateOptions> t;
  t.group("Options", false);
  t.text("checkpoint", "FILE", &EvaluateOptions::checkpoint,
         "checkpoint.safetensors of a run, or the folder of the run");
  t.text("data", "FILE", &EvaluateOptions::data,
         "raw, .gz or .zip (default: what the run was made with)");
  t.choice("split", &EvaluateOptions::split, {"train", "validation", "test"}, "part of the data");
  t.whole("bytes", &EvaluateOptions::bytes, 0, "bytes of it at most, 0: all");
  t.whole("overlap", &EvaluateOptions::overlap, 0,
          "bytes with which each window repeats the end of the one before, as context");
  t.whole("hashes", &EvaluateOptions::hashes, 0,
          "hash rounds of lsh and bucket layers, 0: those of the run", 1 << 10);
  t.wholes("buckets", &EvaluateOptions::buckets,
           "of lsh and bucket layers: an even number, or even factors such as 16,32; 0: those of "
           "the run");
  t.whole("chunk-length", &EvaluateOptions::chunk_length, 0,
          "of lsh and bucket layers, 0: that of the run", 1 << 24);
  t.wholes("without", &EvaluateOptions::without,
           "layers, from 1, whose attention is left out; 0: none");
  t.flag("by-distance", &EvaluateOptions::by_distance,
         "split the result by how far back lies what a byte repeats");
  t.flag("matches", &EvaluateOptions::matches, "count how often hashing finds what a byte repeats");
  t.whole("threads", &EvaluateOptions::threads, 0, "threads, 0 for all", 4096);
  return std::move(t.table);
}

const Table<Options>& training_table() {
  static const Table<Options> table = make_training_table();
  return table;
}

const Table<GenerateOptions>& generate_table() {
  static const Table<GenerateOptions> table = make_generate_table();
  return table;
}

const Table<EvaluateOptions>& evaluate_table() {
  static const Table<EvaluateOptions> table = make_evaluate_table();
  return table;
}

// ---- the command line

/// The values of a command line as they were written, "true" for flags.
using Given = std::map<std::string, std::string>;

template <typename Values>
const Option<Values>* find_option(const Table<Values>& table, const std::string& name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Option<Values>& option) {
    return option.name == name;
  });
  return found == table.end() ? nullptr : &*found;
}

/// A parser for `table` that stores what it finds in `given`; its help shows `defaults`.
template <typename Values>
void describe(CLI::App& app, const Table<Values>& table, const Values& defaults, Given& given) {
  app.set_help_flag();
  app.add_flag_function(
         "-h,--help", [&given](std::int64_t) { given["help"] = "true"; },
         find_option(table, "preset") != nullptr
             ? "show this text; with --preset, the defaults of that preset"
             : "show this text")
      ->group("Help");
  app.allow_extras();
  for (const Option<Values>& option : table) {
    const std::string flags = "--" + option.name;
    const std::string name = option.name;
    if (option.is_request()) {
      app.add_flag_function(
             flags, [&given, name](std::int64_t) { given[name] = "true"; }, option.help)
          ->group(option.group);
      continue;
    }
    const std::string shown = as_text(option.get(defaults));
    // An unset name and an inactive limit have no default worth showing.
    const bool is_limit = name == "minutes" || name == "steps";
    const bool has_default = !shown.empty() && !(is_limit && shown == "0");
    app.add_option_function<std::string>(
           flags, [&given, name](const std::string& text) { given[name] = text; },
           option.help + (has_default ? fmt::format(" [{}]", shown) : ""))
        ->type_name(option.metavar)
        ->group(option.group)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  app.get_formatter()->column_width(28);
}

/// Reads the command line into `Given`, without looking at the values.
template <typename Values>
Given read_command_line(const std::vector<std::string>& arguments, const Table<Values>& table) {
  Given given;
  CLI::App app;
  describe(app, table, Values(), given);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ArgumentMismatch& error) {
    // "--width: 1 required N missing"
    const std::string text = error.what();
    throw OptionError(text.substr(0, text.find(':')) + " needs a value; see --help");
  } catch (const CLI::ParseError& error) {
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    throw OptionError(text);
  }
  if (const std::vector<std::string> unknown = app.remaining(); !unknown.empty()) {
    throw OptionError(fmt::format("unknown {} '{}'; see --help for those that are known",
                                  unknown[0].starts_with('-') ? "option" : "argument", unknown[0]));
  }
  return given;
}

/// Puts the values of a command line over `options`.
template <typename Values>
void apply(const Given& given, const Table<Values>& table, Values& options) {
  for (const auto& [name, text] : given) {
    if (const Option<Values>* option = find_option(table, name)) {
      option->set(options, text);
      options.given.insert(name);
    }
  }
}

template <typename Values>
std::string help_text(const std::string& program, const std::string& description,
                      const Table<Values>& table, const Values& defaults) {
  Given ignored;
  CLI::App app(description, program);
  describe(app, table, defaults, ignored);
  return app.help();
}

/// What distinguishes the presets, as a table.
std::string preset_table() {
  std::string text = fmt::format("Presets:\n  {:<20}", "");
  for (const Options& options : presets()) {
    text += fmt::format("{:>12}", options.preset);
  }
  text += '\n';
  std::string layers;
  for (const Option<Options>& option : training_table()) {
    if (option.name == "preset") {
      continue;
    }
    std::vector<std::string> row;
    for (const Options& options : presets()) {
      const json value = option.get(options);
      row.push_back(value.is_number_float() ? fmt::format("{:.3g}", value.get<double>())
                                            : as_text(value));
    }
    if (std::all_of(row.begin(), row.end(), [&](const auto& value) { return value == row[0]; })) {
      continue;
    }
    if (option.name == "layers") {  // too long for a column
      for (std::size_t i = 0; i < row.size(); ++i) {
        layers += fmt::format("  layers of {:<10}{}\n", presets()[i].preset, row[i]);
      }
      continue;
    }
    text += fmt::format("  {:<20}", option.name);
    for (const std::string& value : row) {
      text += fmt::format("{:>12}", value);
    }
    text += '\n';
  }
  return text + layers;
}

/// Prints a number as it was meant: with an option's name, and its value from the table.
[[noreturn]] void refuse_option(const Options& options, const std::string& name,
                                const std::string& allowed) {
  refuse(name, as_text(find_option(training_table(), name)->get(options)), allowed);
}

void complete_axial(Options& options) {
  if (options.axial_shape == std::vector<std::int64_t>{0}) {
    // The smallest power of two whose square holds the length, and as few rows of it as needed.
    std::int64_t columns = 1;
    while (columns * columns < options.length) {
      columns *= 2;
    }
    options.axial_shape = {(options.length + columns - 1) / columns, columns};
  }
  if (options.axial_shape.size() != 2) {
    refuse_option(options, "axial-shape", "two numbers, or 0");
  }
  const std::int64_t rows = options.axial_shape[0];
  const std::int64_t columns = options.axial_shape[1];
  if (rows < (options.length + columns - 1) / columns) {
    refuse_option(options, "axial-shape",
                  fmt::format("two numbers whose product is at least --length {}", options.length));
  }
  if (rows > size_limit / columns) {
    refuse_option(options, "axial-shape",
                  fmt::format("two numbers whose product is at most {}", size_limit));
  }
  if (options.axial_widths == std::vector<std::int64_t>{0}) {
    if (options.width < 2) {
      refuse_option(options, "width", "from 2 with --positions axial");
    }
    const std::int64_t quarter = std::max<std::int64_t>(options.width / 4, 1);
    options.axial_widths = {quarter, options.width - quarter};
  }
  if (options.axial_widths.size() != 2 ||
      options.axial_widths[0] + options.axial_widths[1] != options.width) {
    refuse_option(options, "axial-widths",
                  fmt::format("two numbers whose sum is --width {}, or 0", options.width));
  }
}

}  // namespace

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Options& options : presets()) {
    names.push_back(options.preset);
  }
  return names;
}

std::vector<std::string> heads_of(const std::string& layer) {
  return split_list(layer, '+');
}

Options preset_options(const std::string& name) {
  for (const Options& options : presets()) {
    if (options.preset == name) {
      return options;
    }
  }
  refuse("preset", name, fmt::format("{}", fmt::join(preset_names(), ", ")));
}

void check_overlap(const std::string& name, std::int64_t overlap, std::int64_t length) {
  if (overlap >= length) {
    refuse(name, std::to_string(overlap),
           fmt::format("less than the {} bytes of a window", length));
  }
}

void complete_options(Options& options) {
  // Each is in its range; products may still be beyond what can be counted.
  const auto check_product = [&](const char* name, std::int64_t value, std::int64_t limit,
                                 const char* other, std::int64_t by) {
    if (value > limit / by) {
      refuse(name, std::to_string(value),
             fmt::format("at most {} with --{} {}", limit / by, other, by));
    }
  };
  check_product("batch", options.batch, size_limit, "length", options.length);
  if (options.accumulate > pass_limit / (options.steps + 1)) {
    refuse_option(
        options, "accumulate",
        fmt::format("at most {} with --steps {}", pass_limit / (options.steps + 1), options.steps));
  }
  if (options.head_width == 0) {
    if (options.width % options.heads != 0) {
      refuse_option(options, "width",
                    fmt::format("a multiple of --heads {}, or give --head-width", options.heads));
    }
    options.head_width = options.width / options.heads;
  }
  check_product("head-width", options.head_width, size_limit, "heads", options.heads);
  if (options.ff_width == 0) {
    options.ff_width = 4 * options.width;
  }
  if (options.local_chunk_length == 0) {
    options.local_chunk_length = options.chunk_length;
  }
  check_overlap("eval-overlap", options.eval_overlap, options.length);
  bool has_buckets = false;
  for (const std::string& layer : options.layers) {
    const std::vector<std::string> kinds = heads_of(layer);
    if (options.heads % std::ssize(kinds) != 0) {
      refuse_option(options, "layers",
                    fmt::format("with --heads {} a number of kinds that divides it, unlike the {} "
                                "of {}",
                                options.heads, kinds.size(), layer));
    }
    has_buckets = has_buckets || std::find(kinds.begin(), kinds.end(), "bucket") != kinds.end();
  }
  if (options.values.size() != 1 && options.values.size() != options.layers.size()) {
    refuse_option(options, "values",
                  fmt::format("one word, or one for each of the {} layers", options.layers.size()));
  }
  if (options.scores.size() != 1 && options.scores.size() != options.layers.size()) {
    refuse_option(options, "scores",
                  fmt::format("one word, or one for each of the {} layers", options.layers.size()));
  }
  for (const std::int64_t order : options.ngrams) {
    if (options.ngrams != std::vector<std::int64_t>{0} && (order < 2 || order > 16)) {
      refuse_option(options, "ngrams", "a comma list of whole numbers from 2 to 16, or 0");
    }
  }
  std::int64_t buckets_left = bucket_limit;
  for (const std::int64_t factor : options.buckets) {
    if (factor % 2 != 0) {
      refuse_option(options, "buckets", "an even number, even factors such as 16,32, or 0");
    }
    if (factor > buckets_left) {
      refuse_option(options, "buckets", fmt::format("up to {} buckets in all", bucket_limit));
    }
    buckets_left /= std::max<std::int64_t>(factor, 1);
  }
  if (options.buckets == std::vector<std::int64_t>{0} && has_buckets) {
    // Sixteen for each chunk: tokens are spread unevenly, so that the bucket of a token is several
    // times the mean one, and what it looks for lies behind a window's end in larger buckets. Two
    // factors, because the work of hashing is by their sum.
    std::array<std::int64_t, 2> factors{2, 2};
    while (factors[0] * factors[1] < 32768 &&
           factors[0] * factors[1] * options.chunk_length <= 8 * options.length) {
      (factors[0] < factors[1] ? factors[0] : factors[1]) *= 2;
    }
    options.buckets.assign(factors.begin(), factors.end());
  }
  if (options.positions == "axial") {
    complete_axial(options);
  }
  if (options.weight_decay > 0 && options.optimizer == "adafactor") {
    refuse_option(options, "weight-decay", "0 with --optimizer " + options.optimizer);
  }
}

Parsed<Options> parse_options(const std::vector<std::string>& arguments) {
  const Table<Options>& table = training_table();
  const Given given = read_command_line(arguments, table);
  const auto preset = given.find("preset");
  Parsed<Options> parsed{preset_options(preset == given.end() ? "quick" : preset->second), {}};
  if (given.contains("help")) {
    parsed.help = help_text("enwik8",
                            "Trains a byte-level Reformer, by default for a few minutes on "
                            "enwik8 or a generated text.",
                            table, parsed.options) +
                  '\n' + preset_table();
    return parsed;
  }
  Options& options = parsed.options;
  if (given.contains("minutes") && given.contains("steps")) {
    throw OptionError(fmt::format("--minutes {} and --steps {} exclude each other; give one",
                                  given.at("minutes"), given.at("steps")));
  }
  apply(given, table, options);
  if (given.contains("minutes")) {
    options.steps = 0;
  } else if (given.contains("steps")) {
    options.minutes = 0;
  }
  if (options.resume && options.out.empty()) {
    throw OptionError("--resume needs --out, the folder of the run to continue");
  }
  // A resumed run is completed from its checkpoint, see merge_for_resume, and one that begins with
  // a model from the model's config, see begin_with_model.
  if (!options.resume && options.init.empty()) {
    complete_options(options);
  }
  return parsed;
}

Parsed<GenerateOptions> parse_generate_options(const std::vector<std::string>& arguments) {
  const Table<GenerateOptions>& table = generate_table();
  const Given given = read_command_line(arguments, table);
  Parsed<GenerateOptions> parsed;
  if (given.contains("help")) {
    parsed.help = help_text("enwik8_generate", "Continues a text with a model that enwik8 trained.",
                            table, parsed.options);
    return parsed;
  }
  GenerateOptions& options = parsed.options;
  apply(given, table, options);
  if (options.checkpoint.empty()) {
    throw OptionError(
        "--checkpoint is missing: give checkpoint.safetensors of a run, or its folder");
  }
  if (given.contains("prompt") && given.contains("prompt-file")) {
    throw OptionError("--prompt and --prompt-file exclude each other; give one");
  }
  return parsed;
}

Parsed<EvaluateOptions> parse_evaluate_options(const std::vector<std::string>& arguments) {
  const Table<EvaluateOptions>& table = evaluate_table();
  const Given given = read_command_line(arguments, table);
  Parsed<EvaluateOptions> parsed;
  if (given.contains("help")) {
    parsed.help =
        help_text("enwik8_evaluate", "Measures the bits per byte of a model that enwik8 trained.",
                  table, parsed.options);
    return parsed;
  }
  apply(given, table, parsed.options);
  if (parsed.options.checkpoint.empty()) {
    throw OptionError(
        "--checkpoint is missing: give checkpoint.safetensors of a run, or its folder");
  }
  return parsed;
}

std::vector<std::string> model_option_names() {
  std::vector<std::string> names;
  for (const Option<Options>& option : training_table()) {
    if (option.group == "Model") {
      names.push_back(option.name);
    }
  }
  return names;
}

json options_to_json(const Options& options) {
  json object = json::object();
  for (const Option<Options>& option : training_table()) {
    if (!option.is_request()) {
      object[option.name] = option.get(options);
    }
  }
  return object;
}

namespace {

/// Sets one option from JSON; one that is not there keeps its value. Values
/// that stand for "none" (an empty name, a limit of zero) are not allowed on a command line and are
/// put in place without its check.
void set_from_json(Options& options, const Option<Options>& option, const json& object) {
  const auto found = object.find(option.name);
  if (found == object.end() || *found == option.get(options)) {
    return;
  }
  const std::string text = as_text(*found);
  if (option.name == "minutes" && text == "0") {
    options.minutes = 0;
  } else if (option.name == "steps" && text == "0") {
    options.steps = 0;
  } else if (option.name == "data" && text.empty()) {
    options.data.clear();
  } else if (option.name == "out" && text.empty()) {
    options.out.clear();
  } else {
    try {
      option.set(options, text);
    } catch (const OptionError& error) {
      throw std::runtime_error(fmt::format("the saved options are not usable: {}", error.what()));
    }
  }
}

}  // namespace

Options options_from_json(const json& json) {
  for (const auto& item : json.items()) {
    if (find_option(training_table(), item.key()) == nullptr) {
      throw std::runtime_error(fmt::format(
          "the saved options have '{}', which this version of the program does not know; "
          "use the one that wrote them",
          item.key()));
    }
  }
  Options options;
  for (const Option<Options>& option : training_table()) {
    if (!option.is_request()) {
      set_from_json(options, option, json);
    }
  }
  return options;
}

Options merge_for_resume(const Options& given, const json& saved) {
  Options options = given;
  const json before = options_to_json(Options());  // what an option stands for that is younger
  for (const Option<Options>& option : training_table()) {
    const bool is_limit = option.name == "minutes" || option.name == "steps";
    const bool was_given = is_limit
                               ? given.given.contains("minutes") || given.given.contains("steps")
                               : given.given.contains(option.name);
    if (!was_given && !option.is_request() && option.name != "out") {
      set_from_json(options, option, saved.contains(option.name) ? saved : before);
    }
  }
  const auto check_given = [&](bool rules_too) {
    for (const Option<Options>& option : training_table()) {
      const json now = option.get(options);
      const json then = saved.value(option.name, json());
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
  complete_options(options);
  check_given(true);
  return options;
}

}  // namespace enwik8
