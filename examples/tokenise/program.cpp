// SPDX-License-Identifier: MIT
#include "program.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "data/documents.hpp"
#include "data/encode.hpp"
#include "data/token_file.hpp"
#include "tokens/sentencepiece.hpp"
#include "tokens/tokenizer.hpp"
#include "training/option_table.hpp"
#include "training/output_folder.hpp"
#include "training/progress.hpp"
#include "training/stopwatch.hpp"
#include "training/words.hpp"

namespace tokenise {
namespace {

namespace fs = std::filesystem;
using training::Console;
using training::format_bytes;
using training::format_duration;
using training::grouped;
using training::OptionError;
using training::shell_word;

struct Options {
  std::string out;
  std::string tokenizer = "bytes";
  std::int64_t train_vocabulary = 0;
  std::int64_t threads = 0;
  bool resume = false;
  std::vector<std::string> sources;

  std::set<std::string> given;
};

training::Table<Options> make_table() {
  training::TableBuilder<Options> t;
  t.group("Options", false);
  t.text("out", "FILE", &Options::out, "the token file to write, such as corpus.bin");
  t.text("tokenizer", "PLACE", &Options::tokenizer,
         "bytes, a sentencepiece model, vocab.json beside merges.txt, tokenizer.json, or a folder "
         "with one of them");
  t.whole("train-vocabulary", &Options::train_vocabulary, 0,
          "learn a sentencepiece vocabulary of so many tokens from the text, and use that; 0: no",
          1 << 20);
  t.whole("threads", &Options::threads, 0, "threads, 0 for all; the result does not depend on it",
          4096);
  t.flag("resume", &Options::resume, "go on with what was interrupted");
  return std::move(t.table);
}

class Program {
 public:
  Program(Options options, const Console& console, const std::function<bool()>& stop_requested)
      : options_(std::move(options)),
        console_(console),
        stop_requested_(stop_requested),
        progress_(console.out, console.terminal),
        out_(options_.out),
        folder_(data::tokenizer_folder(out_)) {}

  int run() {
    std::error_code ignored;
    if (fs::exists(out_, ignored)) {
      if (!options_.resume) {
        throw std::runtime_error(
            fmt::format("token file '{}' is there already; it is not overwritten", out_.string()));
      }
      fs::remove(fs::path(out_) += ".journal", ignored);
      progress_.message(fmt::format("'{}' is complete", out_.string()));
      return training::exit_success;
    }
    if (const auto folder = training::folder_around(out_, options_.sources)) {
      training::refuse("out", options_.out,
                       fmt::format("a file outside of '{}', which is read", *folder));
    }
    if (!options_.resume && data::has_part(out_)) {
      throw std::runtime_error(
          fmt::format("token file '{}' was begun before and not finished; go on with --resume, or "
                      "remove '{}.part' and '{}.journal'",
                      out_.string(), out_.string(), out_.string()));
    }
    check_tokenizer_folder();
    data::Documents documents(options_.sources);  // finds out early what is wrong with them
    const std::optional<std::uint64_t> total = documents.total_size();
    progress_.message(fmt::format("reading {}{}", fmt::join(options_.sources, ", "),
                                  total ? fmt::format(", {}", format_bytes(*total)) : ""));
    const std::unique_ptr<tokens::Tokenizer> tokenizer = choose_tokenizer();
    if (tokenizer == nullptr) {
      return interrupted(fs::exists(folder_) ? "the vocabulary is written"
                                             : "nothing is written yet");
    }
    progress_.message(fmt::format("tokenizer: {}", tokenizer->description()));
    if (const std::string lost = tokenizer->what_is_lost(); !lost.empty()) {
      progress_.message("note: " + lost);
    }
    const data::TokenHeader header = data::header_for(*tokenizer);
    data::TokenWriter writer = [&] {
      try {
        return data::has_part(out_) ? data::TokenWriter::resume(out_, header)
                                    : data::TokenWriter::start(out_, header);
      } catch (...) {
        remove_copy();
        throw;
      }
    }();
    const std::int64_t before = writer.progress().source_bytes;
    if (before > 0) {
      progress_.message(fmt::format("going on after {} of text", format_bytes(to_size(before))));
    }
    data::EncodeOptions encode_options;
    encode_options.threads = threads();
    const training::Stopwatch watch;
    bool is_complete = false;
    try {
      is_complete = data::encode(documents, *tokenizer, writer, encode_options, [&] {
        const std::int64_t done = writer.progress().source_bytes - before;
        show(watch.seconds(), documents, done, "tokenised");
        return !stop_requested_();
      });
    } catch (...) {
      if (writer.progress().source_bytes == 0) {  // nothing to go on with
        writer.discard();
        remove_copy();
      }
      throw;
    }
    progress_.finish();
    if (!is_complete) {
      return interrupted(fmt::format("{} of text are saved",
                                     format_bytes(to_size(writer.progress().source_bytes))));
    }
    if (const std::string left_out = documents.left_out(); !left_out.empty()) {
      progress_.message(left_out);
    }
    writer.finish();
    const data::TokenFile file(out_);
    const std::int64_t bytes = file.header().source_bytes;
    progress_.message(fmt::format(
        "written: {}, {} tokens of {} in {} document{}, {:.3f} bytes each, {} in {}, peak memory "
        "{}",
        out_.string(), grouped(file.size()), format_bytes(to_size(bytes)),
        grouped(file.header().documents), file.header().documents == 1 ? "" : "s",
        static_cast<double>(bytes) / static_cast<double>(std::max<std::int64_t>(file.size(), 1)),
        speed(bytes - before, watch.seconds()), format_duration(watch.seconds()),
        format_bytes(training::peak_resident_memory())));
    return training::exit_success;
  }

 private:
  static std::size_t to_size(std::int64_t bytes) { return static_cast<std::size_t>(bytes); }
  static std::string speed(std::int64_t bytes, double seconds) {
    return format_bytes(
               static_cast<std::size_t>(static_cast<double>(bytes) / std::max(seconds, 1e-3))) +
           "/s";
  }
  int threads() const {
    return options_.threads > 0
               ? static_cast<int>(options_.threads)
               : static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
  }

  /// A tokenizer that is there may be all that is left of one with which models were trained.
  void check_tokenizer_folder() const {
    std::error_code ignored;
    if (!fs::exists(folder_, ignored)) {
      return;
    }
    if (!tokens::has_tokenizer(folder_)) {
      throw std::runtime_error(fmt::format(
          "'{}' is there already and not overwritten; give another --out", folder_.string()));
    }
    if (options_.resume) {
      return;  // it is the one with which this was begun
    }
    if (options_.train_vocabulary == 0 &&
        tokens::load_tokenizer(folder_)->checksum() ==
            tokens::load_tokenizer(options_.tokenizer)->checksum()) {
      return;
    }
    throw std::runtime_error(fmt::format(
        "'{}' is there already and not overwritten; give another --out, remove it, or use the "
        "tokenizer in it with --tokenizer {}",
        folder_.string(), shell_word(folder_.string())));
  }

  /// Null when the user asked for the end.
  std::unique_ptr<tokens::Tokenizer> choose_tokenizer() {
    // What was begun goes on with what it was begun with.
    if (options_.resume && tokens::has_tokenizer(folder_)) {
      return tokens::load_tokenizer(folder_);
    }
    if (options_.train_vocabulary > 0) {
      if (!train()) {
        return nullptr;
      }
      return tokens::load_tokenizer(folder_);
    }
    std::unique_ptr<tokens::Tokenizer> tokenizer = tokens::load_tokenizer(options_.tokenizer);
    is_copied_ = !fs::exists(folder_);
    data::copy_tokenizer(*tokenizer, folder_);
    return tokenizer;
  }

  /// Removes the copy of a tokenizer that this has made; one that was learned is worth keeping.
  void remove_copy() const {
    std::error_code ignored;
    if (is_copied_) {
      fs::remove_all(folder_, ignored);
    }
  }

  bool train() {
    tokens::VocabularyOptions vocabulary;
    vocabulary.vocabulary = static_cast<std::int32_t>(options_.train_vocabulary);
    vocabulary.sample_bytes = std::size_t{6} << 20;  // for which learning takes up to 180 MB
    tokens::VocabularyTrainer trainer(vocabulary);
    data::Documents documents(options_.sources);
    const training::Stopwatch watch;
    std::int64_t bytes = 0;
    while (documents.next()) {
      for (auto block = documents.block(); !block.empty(); block = documents.block()) {
        trainer.add({reinterpret_cast<const char*>(block.data()), block.size()});
        bytes += std::ssize(block);
        show(watch.seconds(), documents, bytes, "looked at");
        if (stop_requested_()) {
          return false;
        }
      }
      trainer.add("\n");
    }
    progress_.finish();
    seconds_at_begin_ = -1;
    progress_.message(
        fmt::format("learning {} tokens from a sample of the text, in up to a few "
                    "minutes",
                    grouped(options_.train_vocabulary)));
    const fs::path part = fs::path(folder_) += ".part";
    std::error_code error;
    fs::remove_all(part, error);
    fs::create_directories(part, error);
    if (!error) {
      try {
        trainer.train(part / "spiece.model");
      } catch (...) {
        fs::remove_all(part, error);
        throw;
      }
      fs::rename(part, folder_, error);
    }
    if (error) {
      throw std::runtime_error(
          fmt::format("cannot write the tokenizer to '{}': {}", folder_.string(), error.message()));
    }
    return !stop_requested_();
  }

  void show(double seconds, const data::Documents& documents, std::int64_t bytes,
            std::string_view verb) {
    if (seconds_at_begin_ < 0) {
      seconds_at_begin_ = seconds;
      place_at_begin_ = documents.position();
    }
    // What is skipped takes less time.
    const auto place = static_cast<double>(documents.position());
    const double since = place - static_cast<double>(place_at_begin_);
    const double taken = seconds - seconds_at_begin_;
    const std::optional<std::uint64_t> total = documents.total_size();
    std::string left;
    if (total) {
      const auto whole = static_cast<double>(*total);
      left = fmt::format(" | {:.0f} % | {} left", 100 * place / std::max(whole, 1.0),
                         format_duration(since > 0 ? taken * (whole - place) / since : -1));
    }
    progress_.update(seconds, fmt::format("{} {} | {}{} | {}", verb, format_bytes(to_size(bytes)),
                                          speed(bytes, seconds), left,
                                          format_bytes(training::resident_memory())));
  }

  int interrupted(const std::string& what) {
    progress_.finish();
    progress_.message(fmt::format("interrupted; {}; to continue:", what));
    std::string command =
        shell_word(console_.program) + " --resume --out " + shell_word(options_.out);
    if (options_.given.contains("tokenizer")) {
      command += " --tokenizer " + shell_word(options_.tokenizer);
    }
    if (options_.train_vocabulary > 0) {
      command += fmt::format(" --train-vocabulary {}", options_.train_vocabulary);
    }
    for (const std::string& source : options_.sources) {
      command += " " + shell_word(source);
    }
    progress_.message("  " + command);
    return training::exit_interrupted;
  }

  Options options_;
  const Console& console_;
  const std::function<bool()>& stop_requested_;
  training::Progress progress_;
  fs::path out_;
  fs::path folder_;
  bool is_copied_ = false;        // the tokenizer in folder_, by this
  double seconds_at_begin_ = -1;  // of what is shown
  std::uint64_t place_at_begin_ = 0;
};

/// What is not an option is a source.
training::Parsed<Options> parse(const std::vector<std::string>& arguments) {
  const training::Table<Options> table = make_table();
  training::Parsed<Options> parsed =
      training::parse_plain(arguments, table, "tokenise",
                            "Turns text into a file of tokens. What is no option is a source: a "
                            "file, a folder, an archive, "
                            "or - for standard input.",
                            &Options::sources);
  if (!parsed.help.empty()) {
    return parsed;
  }
  const Options& options = parsed.options;
  if (options.out.empty()) {
    throw OptionError("--out is missing: give the token file to write, such as corpus.bin");
  }
  if (options.sources.empty()) {
    throw OptionError("nothing to read: give files, folders or - for standard input");
  }
  if (options.given.contains("tokenizer") && options.train_vocabulary > 0) {
    throw OptionError("--tokenizer and --train-vocabulary exclude each other; give one");
  }
  if (options.train_vocabulary > 0 &&
      std::find(options.sources.begin(), options.sources.end(), "-") != options.sources.end()) {
    throw OptionError(
        "--train-vocabulary reads the text twice, and standard input can be read once; give files");
  }
  return parsed;
}

}  // namespace

int run_tokenise(const std::vector<std::string>& arguments, const Console& console,
                 const std::function<bool()>& stop_requested) {
  return training::with_errors_reported("tokenise", console, [&] {
    training::Parsed<Options> parsed = parse(arguments);
    if (!parsed.help.empty()) {
      fmt::print(console.out, "{}", parsed.help);
      return training::exit_success;
    }
    return Program(std::move(parsed.options), console, stop_requested).run();
  });
}

}  // namespace tokenise
