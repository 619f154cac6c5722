// SPDX-License-Identifier: MIT
#include "options.hpp"

#include <fmt/format.h>

#include "presets.hpp"

namespace enwik8 {
namespace {

using training::infinity;
using training::refuse;
using training::Table;
using training::TableBuilder;

Table<Options> make_table() {
  TableBuilder<Options> t;
  t.group("Run", false);
  t.text("data", "PLACES", &Options::data,
         "learn from these files and folders, with commas between them, raw or as gzip, bzip2, xz, "
         "zstd, tar, zip; -: standard input (default: enwik8 from the data folder, else a "
         "generated text); or tokens, a file that tokenise wrote");
  t.text("tokenizer", "PLACE", &Options::tokenizer,
         "of a token file: a sentencepiece model, vocab.json, tokenizer.json or a folder with one "
         "(default: the one beside the file); with one, a .bin without a header is read as nanoGPT "
         "writes it");
  t.add_all(training::run_table());
  t.whole("eval-bytes", &Options::eval_bytes, 1,
          "bytes, or tokens, of a validation on the way; the one at the end takes all");
  t.whole("final-bytes", &Options::final_bytes, 0,
          "bytes, or tokens, of the validation and of the test split evaluated at the end, 0: all");
  t.flag("by-distance", &Options::by_distance,
         "split evaluations by how far back lies what a byte repeats");
  t.whole("eval-overlap", &Options::eval_overlap, 0,
          "evaluate the test split also with windows that repeat so many bytes of the one before, "
          "as context; 0: only cold");
  t.whole("sample-bytes", &Options::sample_bytes, 0, "length of the text written at the end",
          1'000'000);
  t.real("sample-temperature", &Options::sample_temperature, 0, true, infinity, false,
         "of that text, 0: always the most likely byte");
  t.text("export", "FOLDER", &Options::export_folder,
         "at the end, write the model here in the layout of HuggingFace");

  t.add_all(training::model_table({}, preset_names()));
  t.group("Model", true);
  t.text("init", "FOLDER", &Options::init,
         "begin with the model in this folder, config.json and model.safetensors of "
         "HuggingFace's Reformer, which decides all other options of the model but length, "
         "axial-shape, hashes and dropout");

  t.add_all(training::training_table({}));
  t.group("Training", true);
  t.choice("windows", &Options::windows, {"stream", "documents"},
           "what a window shows, in training and evaluations: a stretch of the text, whatever "
           "documents it is of, or of one document, a whole one if it is not longer");
  t.whole("short-steps", &Options::short_steps, 0,
          "steps at the beginning whose windows are cut into four, each of which the model sees "
          "alone; those of --windows documents stay whole");
  return std::move(t.table);
}

Table<GenerateOptions> make_generate_table() {
  TableBuilder<GenerateOptions> t;
  t.group("Options", false);
  t.text("checkpoint", "FILE", &GenerateOptions::checkpoint,
         "checkpoint.safetensors of a run, or the folder of the run");
  t.text("prompt", "TEXT", &GenerateOptions::prompt, "text to continue", true);
  t.text("prompt-file", "FILE", &GenerateOptions::prompt_file, "file to continue");
  t.whole("length", &GenerateOptions::length, 1, "bytes, or tokens, to write", 1'000'000'000);
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
  t.text("data", "PLACES", &EvaluateOptions::data,
         "as for enwik8 (default: what the run was made with)");
  t.choice("split", &EvaluateOptions::split, {"train", "validation", "test"}, "part of the data");
  t.whole("bytes", &EvaluateOptions::bytes, 0, "bytes, or tokens, of it at most, 0: all");
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

}  // namespace

const training::OptionSet<Options>& option_set() {
  static const training::OptionSet<Options> set{
      .program = "enwik8",
      .description =
          "Trains a Reformer on bytes or tokens, by default for a few minutes on enwik8 or a "
          "generated text.",
      .table = make_table(),
      .presets = presets(),
      .complete = [](Options& options) { complete_options(options); }};
  return set;
}

std::vector<std::string> preset_names() {
  return training::names_of(presets());
}

void check_overlap(const std::string& name, std::int64_t overlap, std::int64_t length) {
  if (overlap >= length) {
    refuse(name, std::to_string(overlap),
           fmt::format("less than the {} bytes of a window", length));
  }
}

void complete_options(Options& options) {
  training::complete_options(options);
  check_overlap("eval-overlap", options.eval_overlap, options.length);
  if (options.short_steps > 0 && options.given.contains("short-steps") &&
      options.length % Options::short_parts != 0) {
    refuse("length", std::to_string(options.length),
           fmt::format("a multiple of {} with --short-steps", Options::short_parts));
  }
}

Parsed<Options> parse_options(const std::vector<std::string>& arguments) {
  return training::parse_options(option_set(), arguments);
}

Parsed<GenerateOptions> parse_generate_options(const std::vector<std::string>& arguments) {
  Parsed<GenerateOptions> parsed =
      training::parse_plain(arguments, make_generate_table(), "enwik8_generate",
                            "Continues a text with a model that enwik8 trained.");
  if (!parsed.help.empty()) {
    return parsed;
  }
  const GenerateOptions& options = parsed.options;
  if (options.checkpoint.empty()) {
    throw OptionError(
        "--checkpoint is missing: give checkpoint.safetensors of a run, or its folder");
  }
  if (options.given.contains("prompt") && options.given.contains("prompt-file")) {
    throw OptionError("--prompt and --prompt-file exclude each other; give one");
  }
  return parsed;
}

Parsed<EvaluateOptions> parse_evaluate_options(const std::vector<std::string>& arguments) {
  Parsed<EvaluateOptions> parsed =
      training::parse_plain(arguments, make_evaluate_table(), "enwik8_evaluate",
                            "Measures the bits per byte of a model that enwik8 trained.");
  if (parsed.help.empty() && parsed.options.checkpoint.empty()) {
    throw OptionError(
        "--checkpoint is missing: give checkpoint.safetensors of a run, or its folder");
  }
  return parsed;
}

std::vector<std::string> model_option_names() {
  std::vector<std::string> names;
  for (const auto& option : option_set().table) {
    if (option.group == "Model") {
      names.push_back(option.name);
    }
  }
  return names;
}

nlohmann::json options_to_json(const Options& options) {
  return training::options_to_json(option_set(), options);
}

Options options_from_json(const nlohmann::json& json) {
  return training::options_from_json(option_set(), json);
}

Options merge_for_resume(const Options& given, const nlohmann::json& saved) {
  return training::merge_for_resume(option_set(), given, saved);
}

}  // namespace enwik8
