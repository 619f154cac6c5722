// SPDX-License-Identifier: MIT
#include "trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "corpus.hpp"
#include "distance.hpp"
#include "model_io.hpp"
#include "options.hpp"
#include "training/stopwatch.hpp"
#include "training/words.hpp"
#include "windows.hpp"

namespace enwik8 {
namespace {

using nlohmann::json;
using training::grouped;
using training::printable;

using Bytes = std::span<const std::uint8_t>;

constexpr std::int64_t prompt_bytes = 100;  // of the text at the end

class TextEvaluation : public training::Evaluation {
 public:
  /// @param name  of the split
  TextEvaluation(const Options& options, std::string name, Bytes part, std::int64_t limit,
                 std::int64_t overlap = 0)
      : name_(std::move(name)),
        part_size_(std::ssize(part)),
        overlap_(overlap),
        length_(options.length),
        windows_(part, options.batch, options.length, limit, overlap) {
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
  bool is_whole() const override { return windows_.labels() == part_size_ - 1; }
  std::string extent() const override {
    return is_whole() ? fmt::format("the whole {} split ({} bytes)", name_, grouped(part_size_))
                      : fmt::format("the first {} bytes of the {} split",
                                    grouped(windows_.labels() + 1), name_);
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
  std::int64_t part_size_;
  std::int64_t overlap_;
  std::int64_t length_;
  EvaluationWindows windows_;
  std::optional<DistanceClasses> by_distance_;
};

class TextTask : public training::TaskWith<Options> {
 public:
  explicit TextTask(Options options) : TaskWith(option_set(), std::move(options)) {}

  void load(const training::Say& say) override {
    if (!options().resume && !options().init.empty()) {
      begin_with_model(options());
    }
    corpus_ = choose_corpus(options().data,
                            data_folders(std::filesystem::current_path(), program_path()));
    corpus_.require_parts(static_cast<std::size_t>(options().length) + 1,
                          fmt::format("a window of --length {}", options().length));
    split_ = corpus_.split();
    checksum_ = corpus_.checksum();
    say(fmt::format("data: {}, {} bytes: {} to train, {} to validate, {} to test", corpus_.source,
                    grouped(std::ssize(corpus_.bytes)), grouped(std::ssize(split_.train)),
                    grouped(std::ssize(split_.validation)), grouped(std::ssize(split_.test))));
    if (corpus_.generated) {
      say("  no file was given and there is no enwik8, so this text is made up; for the real one "
          "run examples/enwik8/fetch.sh, or name a file with --data");
    }
  }

  std::int64_t vocabulary() const override { return enwik8::vocabulary; }
  training::Units units() const override { return {}; }
  json data_description() const override {
    return {{"source", corpus_.source},
            {"bytes", corpus_.bytes.size()},
            {"crc32", checksum_},
            {"generated", corpus_.generated}};
  }
  json header() const override {
    return {{"train_bytes", split_.train.size()},
            {"validation_bytes", split_.validation.size()},
            {"test_bytes", split_.test.size()}};
  }
  std::size_t memory() const override { return corpus_.bytes.size(); }

  Windows training_windows(std::int64_t step, std::int64_t first) const override {
    return enwik8::training_windows(split_.train, options().batch, options().length, options().seed,
                                    step, first);
  }
  std::unique_ptr<training::Evaluation> evaluation(training::Split split,
                                                   training::Extent extent) const override {
    const std::int64_t limit = extent == training::Extent::trial
                                   ? 3 * options().batch * options().length
                               : extent == training::Extent::on_the_way ? options().eval_bytes
                                                                        : options().final_bytes;
    return split == training::Split::validation
               ? std::make_unique<TextEvaluation>(options(), "validation", split_.validation, limit)
               : std::make_unique<TextEvaluation>(options(), "test", split_.test, limit);
  }
  std::vector<training::FurtherTest> further_tests() const override {
    std::vector<training::FurtherTest> tests;
    if (const std::int64_t overlap = options().eval_overlap; overlap > 0) {
      tests.push_back({"test_overlapping", enwik8::context_rule(options().length, overlap),
                       std::make_unique<TextEvaluation>(options(), "test", split_.test,
                                                        options().final_bytes, overlap)});
    }
    return tests;
  }
  std::string final_limit() const override { return "--final-bytes"; }
  std::string context_rule() const override { return enwik8::context_rule(options().length); }

  double finish_seconds(TokenModel& model) override {
    const training::Stopwatch watch;
    constexpr int bytes = 24;
    const auto text = split_.validation.first(static_cast<std::size_t>(
        std::min(std::ssize(split_.validation), prompt_bytes + options().sample_bytes / 2)));
    write_text(model, text, bytes, {}, options().seed, [](std::uint8_t) { return true; });
    return watch.seconds() / bytes * static_cast<double>(options().sample_bytes);
  }
  void finish(TokenModel& model, const training::FinishedRun& run) override {
    if (options().sample_bytes == 0) {
      return;
    }
    const auto prompt = split_.validation.first(
        static_cast<std::size_t>(std::min(prompt_bytes, std::ssize(split_.validation))));
    std::vector<std::uint8_t> text;
    write_text(model, prompt, options().sample_bytes, {.temperature = options().sample_temperature},
               options().seed, [&](std::uint8_t byte) {
                 run.check_stop();
                 text.push_back(byte);
                 return true;
               });
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
  std::string export_note(const TokenModel& model) const override {
    return model.first_token() == 0 ? ", byte b is token b"
                                    : fmt::format(", byte b is token b + {}", model.first_token());
  }

 private:
  Corpus corpus_;
  Split split_;
  std::uint32_t checksum_ = 0;
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
