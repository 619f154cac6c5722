// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <array>
#include <cmath>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "reformer/io/text.hpp"
#include "reformer/operations/config.hpp"
#include "toml.hpp"

namespace training {
namespace {

constexpr std::int64_t pass_limit = 4'294'967'295;  // random numbers count passes with 32 bits
constexpr std::int64_t bucket_limit = 65535;

/// Prints a number as it was meant: with an option's name, and its value from the tables.
[[noreturn]] void refuse_option(const Options& options, const std::string& name,
                                const std::string& allowed) {
  for (const Table<Options>& table : {run_table(), model_table({}, {}), training_table({})}) {
    if (const Option<Options>* option = find_option(table, name)) {
      refuse(name, as_text(option->get(options)), allowed);
    }
  }
  throw std::logic_error("there is no option " + name);
}

/// By the library's rule.
std::vector<std::int64_t> axial_widths(const Options& options) {
  const std::vector<reformer::Index> widths = reformer::axial_widths(
      {.shape = {options.axial_shape.begin(), options.axial_shape.end()}}, options.width);
  return {widths.begin(), widths.end()};
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
  const std::size_t factors = options.axial_shape.size();
  if (factors < 2 || factors > 3) {
    refuse_option(options, "axial-shape", "two or three numbers, or 0");
  }
  const char* count = factors == 2 ? "two" : "three";
  std::int64_t positions = 1;
  for (const std::int64_t factor : options.axial_shape) {
    if (factor > size_limit / positions) {
      refuse_option(options, "axial-shape",
                    fmt::format("{} numbers whose product is at most {}", count, size_limit));
    }
    positions *= factor;
  }
  if (positions < options.length) {
    refuse_option(
        options, "axial-shape",
        fmt::format("{} numbers whose product is at least --length {}", count, options.length));
  }
  if (options.axial_widths == std::vector<std::int64_t>{0}) {
    if (options.width < std::ssize(options.axial_shape)) {
      refuse_option(options, "width", fmt::format("from {} with --positions axial", factors));
    }
    options.axial_widths = axial_widths(options);
  }
  std::int64_t sum = 0;
  for (const std::int64_t width : options.axial_widths) {
    sum += width;
  }
  if (options.axial_widths.size() != factors || sum != options.width) {
    refuse_option(options, "axial-widths",
                  fmt::format("{} numbers whose sum is --width {}, or 0", count, options.width));
  }
}

nlohmann::json read_json_config(const std::string& text) {
  nlohmann::json object = nlohmann::json::parse(text, nullptr, false);
  if (object.is_discarded()) {  // metrics, of which each line is an object
    object = nlohmann::json::parse(text.substr(0, text.find('\n')), nullptr, false);
  }
  return object;
}

nlohmann::json read_toml_config(const std::string& text, const std::string& place) {
  try {
    return parse_toml(text);
  } catch (const std::runtime_error& error) {
    refuse("config", place,
           fmt::format("lines of TOML such as width = 256 or layers = \"local,lsh\", but {}",
                       error.what()));
  }
}

}  // namespace

void check_is_utf8(const nlohmann::json& options) {
  for (const auto& [name, value] : options.items()) {
    if (!value.is_string()) {
      continue;
    }
    const auto& text = value.get_ref<const std::string&>();
    if (reformer::first_non_utf8(text) < text.size() || text.find('\0') != std::string::npos) {
      throw OptionError(fmt::format("--{} is {}; allowed: text in UTF-8 without zero bytes", name,
                                    reformer::in_quotes(text)));
    }
  }
}

Given read_config(const std::filesystem::path& place) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path path = fs::is_directory(place, ignored) ? place / options_name : place;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  // Nothing to read from an empty file is no error.
  if (fs::is_directory(path, ignored) || !file ||
      (file.peek() != std::ifstream::traits_type::eof() && !(text << file.rdbuf()))) {
    refuse("config", place.string(), "a file that can be read, or the folder of a run");
  }
  nlohmann::json object = path.extension() == ".toml" ? read_toml_config(text.str(), place.string())
                                                      : read_json_config(text.str());
  if (object.is_object() && object.contains("options")) {
    object = nlohmann::json(object["options"]);
  }
  if (!object.is_object()) {
    refuse("config", place.string(),
           R"(a JSON object of options, such as {"width": 256, "layers": "local,lsh"}, or TOML in )"
           "a file named *.toml");
  }
  Given given;
  for (const auto& [name, value] : object.items()) {
    const bool is_limit = name == "minutes" || name == "steps";
    if (value.is_structured() || value.is_boolean()) {
      refuse("config", place.string(),
             fmt::format("numbers and words, but its '{}' is {}", name, value.dump()));
    }
    if (name != "out" && !value.is_null() && value != "" && !(is_limit && value == 0)) {
      given[name] = as_text(value);
    }
  }
  return given;
}

std::set<std::string> add_config(Given& given, const std::set<std::string>& names) {
  const std::string place = given.at("config");
  Given config = read_config(place);
  for (const auto& [name, value] : config) {
    if (!names.contains(name)) {
      refuse("config", place, fmt::format("options of this program, but it has '{}'", name));
    }
  }
  if (given.contains("minutes") || given.contains("steps")) {
    config.erase("minutes");
    config.erase("steps");
  }
  std::set<std::string> added;
  for (const auto& [name, value] : config) {
    if (given.emplace(name, value).second) {
      added.insert(name);
    }
  }
  return added;
}

Table<Options> run_table() {
  TableBuilder<Options> t;
  t.group("Run", false);
  t.real("minutes", &Options::minutes, 0, false, most_minutes, true, "train for so many minutes");
  t.whole("steps", &Options::steps, 1, "train for so many steps, instead of --minutes", size_limit);
  t.text("out", "FOLDER", &Options::out,
         "folder for checkpoint.safetensors and metrics.jsonl (default: a new one under runs/)");
  t.flag("resume", &Options::resume, "continue the run in the folder --out");
  t.text("config", "FILE", &Options::config,
         "take options from this file, options.json of a run or one of TOML (*.toml); those given "
         "beside it come first");
  t.flag("tensorboard", &Options::tensorboard, "write files of events for TensorBoard, too");
  t.whole("threads", &Options::threads, 0, "threads, 0 for all; the result does not depend on it",
          4096);
  t.whole("memory-budget", &Options::memory_budget, 0,
          "megabytes to spend on storing what the backward pass would compute again; with "
          "--residual fixed the result does not depend on it",
          1'000'000);
  t.whole("log-every", &Options::log_every, 1, "steps between lines in metrics.jsonl");
  t.whole("eval-every", &Options::eval_every, 0, "steps between validations, 0: only at the end");
  t.whole("keep-best", &Options::keep_best, 0,
          "keep the weights whose validation was best in best.safetensors and end with them, at "
          "once when so many validations in a row were no better; 0: end with the last weights");
  t.real("save-minutes", &Options::save_minutes, 0, false, most_minutes, true,
         "minutes between checkpoints");

  return std::move(t.table);
}

Table<Options> model_table(const Units& units, const std::vector<std::string>& presets) {
  TableBuilder<Options> t;
  t.group("Model", true);
  t.text("preset", "NAME", &Options::preset,
         fmt::format("defaults for all other options: {}", fmt::join(presets, ", ")));
  t.whole("length", &Options::length, 1, units.many + " the model sees at once", 1'000'000'000);
  t.choices("layers", &Options::layers, {"local", "lsh", "bucket", "exact"},
            "attention of each layer: local, lsh (chunks across buckets), bucket (chunks within "
            "buckets, strictly causal) or exact; or of shares of its heads, such as local+bucket",
            /*are_joined=*/true);
  t.choices("values", &Options::values, {"own", "following", "mixed"},
            fmt::format("what a {0} that finds an earlier one gets from it: its own value, as "
                        "published, that of the {0} which followed it, or a learned mixture of "
                        "both; one word for all layers, or one for each",
                        units.one));
  t.choices("scores", &Options::scores, {"dot", "cosine"},
            "how alike queries and keys are: their product, as published, or the cosine of their "
            "angle times a learned temperature; one word for all layers, or one for each");
  t.choice("rotary", &Options::rotary, {"none", "local", "all"},
           "layers whose queries and keys are rotated by their positions");
  t.whole("width", &Options::width, 1,
          fmt::format("numbers for each {} in each half of the model", units.one), 1 << 20);
  t.choice("embedding", &Options::embedding, {"separate", "tied"},
           fmt::format("table of vectors of {}, separate from the weights of the head, or tied to "
                       "them: one for both, which is a third as large",
                       units.many));
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
           fmt::format("two or three numbers whose product is at least --length; 0: {}",
                       units.axial_shape));
  t.wholes("axial-widths", &Options::axial_widths,
           "as many numbers whose sum is --width; 0: of two a quarter and the rest, of three equal "
           "shares");
  t.wholes("ngrams", &Options::ngrams,
           fmt::format(
               "lengths of n-grams of {}, from 2 to 16, of which each has a table of vectors that "
               "are added to the embedding; 0: none",
               units.many));
  t.whole("value-ngrams", &Options::value_ngrams, 0,
          fmt::format("length of the n-grams of {} whose vectors are added to the values of local "
                      "and exact layers, of which each has a table, from 2 to 16; 0: none",
                      units.many),
          16);
  t.whole("ngram-rows", &Options::ngram_rows, 1, "of each table of n-grams", 1 << 24);
  t.real("ngram-dropout", &Options::ngram_dropout, 0, true, 1, false,
         "of the vectors of n-grams, as wholes");
  t.real("init-weights", &Options::init_weights, 0, true, 1e30, true,
         "standard deviation of the initial weights of linear layers");
  t.real("init-embedding", &Options::init_embedding, 0, true, 1e30, true,
         "the same of the embedding of " + units.many);
  t.real("init-positions", &Options::init_positions, 0, true, 1e30, true,
         "the same of axial or learned positions");
  t.choice("residual", &Options::residual, {"float", "fixed"},
           "arithmetic of the residual stream; fixed point is reversed exactly");
  t.real("dropout", &Options::dropout, 0, true, 1, false, "of what each branch adds");
  t.real("attention-dropout", &Options::attention_dropout, 0, true, 1, false,
         "of attention weights");
  t.real("dropout-passes", &Options::dropout_passes, 0, true, infinity, false,
         "passes over the data in which all dropout grows from 0 to its rates, 0: it has them from "
         "the beginning");
  return std::move(t.table);
}

Table<Options> training_table(const Units& units) {
  TableBuilder<Options> t;
  t.group("Training", true);
  t.seed("seed", &Options::seed, "all randomness comes from it");
  t.choice("precision", &Options::precision, {"auto", "float32", "bfloat16x3", "bfloat16"},
           "what matrix products round their operands to: 16 binary digits in bfloat16x3, 8 in "
           "bfloat16; auto: bfloat16 where the processor multiplies it faster, else float32. "
           "Evaluations have it, too");
  t.whole("batch", &Options::batch, 1,
          fmt::format("windows of --length {} for each pass", units.many), 1 << 20);
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

void prepare_for_buckets(Options& options) {
  options.values = {"following"};
  options.scores = {"cosine"};
  options.rotary = "local";
  options.hashes = 4;
}

std::vector<std::string> heads_of(const std::string& layer) {
  return split_list(layer, '+');
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
  if (options.value_ngrams == 1) {
    refuse_option(options, "value-ngrams", "a whole number from 2 to 16, or 0");
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

std::string preset_table(
    const std::vector<std::pair<std::string, std::vector<nlohmann::json>>>& rows) {
  const auto& names = std::find_if(rows.begin(), rows.end(), [](const auto& row) {
                        return row.first == "preset";
                      })->second;
  std::string text = fmt::format("Presets:\n  {:<20}", "");
  for (const nlohmann::json& name : names) {
    text += fmt::format("{:>12}", as_text(name));
  }
  text += '\n';
  std::string layers;
  for (const auto& [name, values] : rows) {
    if (name == "preset") {
      continue;
    }
    std::vector<std::string> row;
    for (const nlohmann::json& value : values) {
      const bool is_fraction =
          value.is_number_float() && value.get<double>() != std::floor(value.get<double>());
      row.push_back(is_fraction               ? fmt::format("{:.3g}", value.get<double>())
                    : value.is_number_float() ? fmt::format("{:.0f}", value.get<double>())
                                              : as_text(value));
    }
    if (std::all_of(row.begin(), row.end(), [&](const auto& value) { return value == row[0]; })) {
      continue;
    }
    if (name == "layers") {  // too long for a column
      for (std::size_t i = 0; i < row.size(); ++i) {
        layers += fmt::format("  layers of {:<10}{}\n", as_text(names[i]), row[i]);
      }
      continue;
    }
    text += fmt::format("  {:<20}", name);
    for (const std::string& value : row) {
      text += fmt::format("{:>12}", value);
    }
    text += '\n';
  }
  return text + layers;
}

void check_limits(const Given& given) {
  if (given.contains("minutes") && given.contains("steps")) {
    throw OptionError(fmt::format("--minutes {} and --steps {} exclude each other; give one",
                                  given.at("minutes"), given.at("steps")));
  }
}

void choose_limit(const Given& given, Options& options) {
  if (given.contains("minutes")) {
    options.steps = 0;
  } else if (given.contains("steps")) {
    options.minutes = 0;
  }
}

}  // namespace training
