// SPDX-License-Identifier: MIT
#include "trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "corpus.hpp"
#include "data/encode.hpp"
#include "distance.hpp"
#include "model_io.hpp"
#include "options.hpp"
#include "text.hpp"
#include "training/stopwatch.hpp"
#include "training/words.hpp"
#include "windows.hpp"

namespace enwik8 {
namespace {

using nlohmann::json;
using training::grouped;
using training::OptionError;

constexpr std::int64_t prompt_bytes = 100;  // of the text at the end

std::string printable(std::string_view text) {
  return training::printable({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
}

std::vector<Stretch> stretches_of(const Text& part, const Options& options) {
  return options.is_by_document() ? part.documents() : part.whole();
}

class TextEvaluation : public training::Evaluation {
 public:
  /// @param name  of the split
  /// @param many  what tokens are called
  TextEvaluation(const Options& options, std::string name, const std::string& many,
                 const Text& part, std::int64_t limit, std::int64_t overlap = 0)
      : name_(std::move(name)),
        many_(many),
        part_size_(part.size()),
        overlap_(overlap),
        length_(options.length),
        windows_(part, stretches_of(part, options), options.batch, options.length, limit, overlap) {
    if (options.by_distance) {
      by_distance_.emplace(training::local_reach(options), options.length);
    }
  }

  Windows next() override { return windows_.next(); }
  std::int64_t positions() const override {
    // With overlap each byte is seen more often than it is predicted.
    const double seen = static_cast<double>(length_) / static_cast<double>(length_ - overlap_);
    return static_cast<std::int64_t>(static_cast<double>(windows_.labels()) * seen);
  }
  bool is_whole() const override { return windows_.is_whole(); }
  std::string extent() const override {
    return is_whole() ? fmt::format("the whole {} split ({} {})", name_, grouped(part_size_), many_)
                      : fmt::format("the first {} {} of the {} split",
                                    grouped(windows_.labels() + 1), many_, name_);
  }

  bool wants_each_loss() const override { return by_distance_.has_value(); }
  void add(const Windows& windows, std::span<const double> losses) override {
    by_distance_->add(windows, losses);
  }
  json details() const override {
    return {{"by_distance", by_distance_ ? by_distance_->to_json() : json()}};
  }
  std::vector<std::string> lines() const override {
    return by_distance_ ? by_distance_->lines() : std::vector<std::string>();
  }

 private:
  std::string name_;
  std::string many_;
  std::int64_t part_size_;
  std::int64_t overlap_;
  std::int64_t length_;
  EvaluationWindows windows_;
  std::optional<DistanceClasses> by_distance_;
};

class TextTask : public training::TaskWith<Options> {
 public:
  explicit TextTask(Options options) : TaskWith(option_set(), std::move(options)) {}

  std::vector<std::string> places() const override {
    return options().data.empty() ? std::vector<std::string>() : places_of(options().data);
  }
  void load(const training::Say& say) override {
    const auto folders = data_folders(std::filesystem::current_path(), program_path());
    if (const std::int64_t tokens = TextData::vocabulary_of(options().data, options().tokenizer);
        !options().resume && !options().init.empty()) {
      begin_with_model(options(), tokens);
    }
    text_ = TextData::for_training(options().data, options().tokenizer, folders);
    if (options().by_distance && !text_.is_bytes()) {
      throw OptionError(
          "--by-distance looks at the bytes that are repeated; allowed: without a "
          "tokenizer");
    }
    text_.require_parts(options().length + 1,
                        fmt::format("a window of --length {}", options().length));
    if (options().is_by_document()) {
      text_.find_documents();
    }
    train_ = text_.train();
    validation_ = text_.validation();
    test_ = text_.test();
    const std::vector<Stretch> stretches = stretches_of(train_, options());
    if (stretches.empty() || stretches_of(validation_, options()).empty() ||
        stretches_of(test_, options()).empty()) {
      throw std::runtime_error(fmt::format(
          "data '{}' has a part (90 % to train, 5 % to validate, 5 % to test) without a document "
          "of two {}; --windows stream does without",
          text_.source(), units().many));
    }
    windows_.emplace(train_, stretches, options().length, options().seed);
    say(fmt::format("data: {}, {} {}: {} to train, {} to validate, {} to test", text_.source(),
                    grouped(text_.size()), units().many, grouped(train_.size()),
                    grouped(validation_.size()), grouped(test_.size())));
    if (!text_.is_bytes()) {
      say(fmt::format("tokenizer: {}", text_.tokenizer().description()));
    }
    if (const std::string& left_out = text_.corpus().left_out; !left_out.empty()) {
      say("  " + left_out);
    }
    if (options().is_by_document()) {
      say(fmt::format(
          "documents: {}, {} to train, of {} {} in the mean; no window has parts of two",
          grouped(std::ssize(text_.documents().places)), grouped(std::ssize(stretches)),
          grouped(train_.size() / std::ssize(stretches)), units().many));
    }
    if (text_.corpus().generated) {
      say("  no file was given and there is no enwik8, so this text is made up; for the real one "
          "run examples/enwik8/fetch.sh, or name a file with --data");
    }
  }

  std::int64_t vocabulary() const override { return text_.tokenizer().vocabulary(); }
  training::Units units() const override {
    return text_.is_bytes() ? training::Units()
                            : training::Units{"token", "tokens", "bits per byte"};
  }
  json data_description() const override { return text_.description(); }
  json header() const override {
    const std::string many = units().many;
    return {{"train_" + many, train_.size()},
            {"validation_" + many, validation_.size()},
            {"test_" + many, test_.size()}};
  }
  std::size_t memory() const override { return text_.corpus().bytes.size(); }

  Windows training_windows(std::int64_t step, std::int64_t first) const override {
    Windows windows =
        windows_->of((step - 1) * options().windows_of_a_step() + first, options().batch);
    return step <= options().short_steps ? cut(std::move(windows), Options::short_parts) : windows;
  }
  std::int64_t training_labels(std::int64_t step) const override {
    return windows_->labels((step - 1) * options().windows_of_a_step(),
                            options().windows_of_a_step());
  }
  std::unique_ptr<training::Evaluation> evaluation(training::Split split,
                                                   training::Extent extent) const override {
    const std::int64_t limit = extent == training::Extent::trial
                                   ? 3 * options().batch * options().length
                               : extent == training::Extent::on_the_way ? options().eval_bytes
                                                                        : options().final_bytes;
    return split == training::Split::validation
               ? std::make_unique<TextEvaluation>(options(), "validation", units().many,
                                                  validation_, limit)
               : std::make_unique<TextEvaluation>(options(), "test", units().many, test_, limit);
  }
  std::vector<training::FurtherTest> further_tests() const override {
    std::vector<training::FurtherTest> tests;
    if (const std::int64_t overlap = options().eval_overlap; overlap > 0) {
      tests.push_back({"test_overlapping", enwik8::context_rule(options().length, overlap, words()),
                       std::make_unique<TextEvaluation>(options(), "test", units().many, test_,
                                                        options().final_bytes, overlap)});
    }
    return tests;
  }
  std::string final_limit() const override { return "--final-bytes"; }
  std::string context_rule() const override {
    return enwik8::context_rule(options().length, 0, words());
  }

  void begin(const std::filesystem::path& folder) override {
    data::copy_tokenizer(text_.tokenizer(), folder / tokenizer_name);
  }

  double finish_seconds(TokenModel& model) override {
    const training::Stopwatch watch;
    constexpr int tokens = 24;
    const std::int64_t before = std::min(validation_.size(), prompt_tokens() + sample_tokens() / 2);
    model.generate(validation_.tokens(0, before), tokens, {}, options().seed,
                   [](std::int32_t) { return true; });
    return watch.seconds() / tokens * static_cast<double>(sample_tokens());
  }
  void finish(TokenModel& model, const training::FinishedRun& run) override {
    if (options().sample_bytes == 0) {
      return;
    }
    const auto prompt_begin = validation_.tokens(0, std::min(prompt_tokens(), validation_.size()));
    const std::string prompt = text_.tokenizer().decode(prompt_begin);
    std::vector<std::int32_t> tokens;
    model.generate(prompt_begin, sample_tokens(), {.temperature = options().sample_temperature},
                   options().seed, [&](std::int32_t token) {
                     run.check_stop();
                     tokens.push_back(token);
                     return true;
                   });
    const std::string text = text_.tokenizer().decode(tokens);
    run.write({{"type", "sample"},
               {"final", true},
               {"step", run.step},
               {"temperature", options().sample_temperature},
               {"prompt", printable(prompt)},
               {"text", printable(text)}});
    run.say("--- prompt, from the validation split");
    run.say(printable(prompt));
    run.say(
        fmt::format("--- continued by the model at temperature {}", options().sample_temperature));
    run.say(printable(text));
    run.say("---");
  }
  void complete_export(const std::filesystem::path& folder) override {
    for (const std::filesystem::path& file : text_.tokenizer().files()) {
      std::filesystem::copy_file(file, folder / file.filename(),
                                 std::filesystem::copy_options::overwrite_existing);
    }
  }
  std::string export_note(const TokenModel& model) const override {
    return !text_.is_bytes() ? ", with the tokenizer's files"
           : model.first_token() == 0
               ? ", byte b is token b"
               : fmt::format(", byte b is token b + {}", model.first_token());
  }

 private:
  ContextWords words() const {
    const bool is_first_predicted = !options().is_by_document() || text_.documents().has_token;
    return {units().many,
            fmt::format("every {} but the first of {}", units().one,
                        is_first_predicted ? "the split" : "each document"),
            options().is_by_document() ? " of each document" : ""};
  }
  /// About as many as there are bytes in the prompt and in the sample.
  std::int64_t prompt_tokens() const { return text_.is_bytes() ? prompt_bytes : prompt_bytes / 3; }
  std::int64_t sample_tokens() const {
    return text_.is_bytes() ? options().sample_bytes : (options().sample_bytes + 2) / 3;
  }

  TextData text_;
  Text train_;
  Text validation_;
  Text test_;
  std::optional<TrainingWindows> windows_;
};

}  // namespace

training::TaskMaker text_trainer() {
  return training::task_maker<TextTask>(option_set());
}

int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested, reformer::Communicator& communicator) {
  return training::run_trainer(text_trainer(), arguments, console, stop_requested, communicator);
}

int run_trainer(const std::vector<std::string>& arguments, const Console& console,
                const StopRequested& stop_requested) {
  return training::run_trainer(text_trainer(), arguments, console, stop_requested);
}

}  // namespace enwik8
