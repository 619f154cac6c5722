// SPDX-License-Identifier: MIT
#include "trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <utility>

#include "drawing.hpp"
#include "options.hpp"
#include "picture_set.hpp"
#include "training/shuffled_epochs.hpp"
#include "training/words.hpp"

namespace images {
namespace {

using nlohmann::json;
using training::grouped;
using training::TokenModel;
using training::Windows;

class PictureEvaluation : public training::Evaluation {
 public:
  /// @param name   of the split
  /// @param limit  pictures at most, 0 for all
  PictureEvaluation(std::string name, const Pictures& pictures, std::int64_t batch,
                    std::int64_t limit)
      : name_(std::move(name)),
        pictures_(pictures),
        batch_(batch),
        count_(limit > 0 ? std::min(limit, pictures.count()) : pictures.count()) {}

  Windows next() override {
    std::vector<std::int64_t> which(static_cast<std::size_t>(std::min(batch_, count_ - next_)));
    std::iota(which.begin(), which.end(), next_);
    next_ += std::ssize(which);
    return windows_of(pictures_, which);
  }
  std::int64_t positions() const override { return count_ * pictures_.values_of_one(); }
  bool is_whole() const override { return count_ == pictures_.count(); }
  std::string extent() const override {
    return fmt::format("{} {} picture{} of the {} split", is_whole() ? "all" : "the first",
                       grouped(count_), count_ == 1 ? "" : "s", name_);
  }

 private:
  std::string name_;
  const Pictures& pictures_;
  std::int64_t batch_;
  std::int64_t count_;
  std::int64_t next_ = 0;
};

class PictureTask : public training::TaskWith<Options> {
 public:
  explicit PictureTask(Options options) : TaskWith(option_set(), std::move(options)) {}

  std::vector<std::string> places() const override {
    return {pictures_place(options().data).string()};
  }
  void load(const training::Say& say) override {
    set_ = read_pictures(pictures_place(options().data), options().size);
    checksum_ = set_.checksum();
    say(fmt::format("data: {}, {} pictures of {} x {}: {} to train, {} to validate, {} to test",
                    set_.source, grouped(set_.count()), options().size, options().size,
                    grouped(set_.train.count()), grouped(set_.validation.count()),
                    grouped(set_.test.count())));
    say(fmt::format(
        "  left out: {} that are there already, {} that are smaller; near-copies stay in "
        "one part, in {} groups",
        grouped(set_.duplicates), grouped(set_.left_out), grouped(set_.groups)));
  }

  std::int64_t vocabulary() const override { return images::vocabulary; }
  training::Units units() const override { return {"value", "values", "bits per dimension"}; }
  json data_description() const override {
    return {{"source", set_.source}, {"bytes", set_.bytes()}, {"crc32", checksum_}};
  }
  json header() const override {
    return {{"train_pictures", set_.train.count()},
            {"validation_pictures", set_.validation.count()},
            {"test_pictures", set_.test.count()}};
  }
  std::size_t memory() const override { return static_cast<std::size_t>(set_.bytes()); }

  Windows training_windows(std::int64_t step, std::int64_t first) const override {
    const training::ShuffledEpochs epochs(set_.train.count(), options().seed);
    const std::int64_t before = (step - 1) * options().windows_of_a_step() + first;
    std::vector<std::int64_t> which;
    for (std::int64_t number = before; number < before + options().batch; ++number) {
      which.push_back(epochs.turn(number).item);
    }
    Windows windows = windows_of(set_.train, which);
    windows.epochs_before = epochs.epochs_before(before);
    return windows;
  }
  std::unique_ptr<training::Evaluation> evaluation(training::Split split,
                                                   training::Extent extent) const override {
    const std::int64_t limit = extent == training::Extent::trial        ? 3 * options().batch
                               : extent == training::Extent::on_the_way ? options().eval_pictures
                                                                        : options().final_pictures;
    return split == training::Split::validation
               ? std::make_unique<PictureEvaluation>("validation", set_.validation, options().batch,
                                                     limit)
               : std::make_unique<PictureEvaluation>("test", set_.test, options().batch, limit);
  }
  std::string final_limit() const override { return "--final-pictures"; }
  std::string context_rule() const override {
    return "all values of each picture are predicted, each from those before it in the picture";
  }

  std::size_t finish_memory(TokenModel& model) const override {
    return options().samples > 0 || completions() > 0
               ? model.generation_memory(values_of(options()))
               : 0;
  }
  double finish_seconds(TokenModel& model) override {
    const std::int64_t values = values_of(options()), given = upper_half(options().size);
    double seconds = 0;
    if (options().samples > 0) {
      seconds += drawing_seconds(model, options().samples, 0, values);
    }
    if (completions() > 0) {
      seconds += drawing_seconds(model, alternatives * completions(), given, values - given);
    }
    return seconds;
  }

  void finish(TokenModel& model, const training::FinishedRun& run) override {
    json record{{"type", "sample"},
                {"final", true},
                {"step", run.step},
                {"temperature", options().sample_temperature}};
    const auto write = [&](const char* name, const std::vector<std::vector<Picture>>& rows) {
      write_png(run.folder / name, grid(rows));
      record["files"].push_back(name);
      run.say(fmt::format("drawn: {}", (run.folder / name).string()));
    };
    if (options().samples > 0) {
      const std::vector<Picture> begun(static_cast<std::size_t>(options().samples),
                                       blank(options().size, options().size, 0));
      write("samples.png", in_rows(draw(model, begun, 0, options().sample_temperature,
                                        options().seed, run.check_stop)));
    }
    if (completions() > 0) {
      std::vector<Picture> originals;
      for (std::int64_t i = 0; i < completions(); ++i) {
        originals.push_back(set_.validation.picture(i));
      }
      write("completions.png", completions_of(model, originals, options().sample_temperature,
                                              options().seed, run.check_stop));
    }
    if (record.contains("files")) {
      run.write(record);
    }
  }

 private:
  std::int64_t completions() const {
    return std::min(options().completions, set_.validation.count());
  }

  PictureSet set_;
  std::uint32_t checksum_ = 0;
};

}  // namespace

training::TaskMaker picture_trainer() {
  return training::task_maker<PictureTask>(option_set());
}

}  // namespace images
