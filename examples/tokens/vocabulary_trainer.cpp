// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <unordered_map>

#include "reformer/io/atomic_file.hpp"
#include "reformer/io/json.hpp"
#include "sentencepiece.hpp"

namespace tokens {
namespace {

/// Longer lines are cut, at a space where there is one.
constexpr std::size_t longest_line = 4096;

/// A number like no other for each n (splitmix64).
std::uint64_t scrambled(std::uint64_t n) {
  n = (n + 1) * 0x9e3779b97f4a7c15;
  n = (n ^ n >> 30) * 0xbf58476d1ce4e5b9;
  n = (n ^ n >> 27) * 0x94d049bb133111eb;
  return n ^ n >> 31;
}

/// Calls a function with the parts of a line that can be learned from. What is no UTF-8, and
/// characters that the library has other uses for, are encoded byte by byte anyway.
template <typename Function>
void for_each_learnable(std::string_view line, const Function& function) {
  constexpr std::string_view space_mark = "\xe2\x96\x81", unknown_mark = "\xe2\x96\x85";
  std::size_t begin = 0;
  std::size_t valid = reformer::first_non_utf8(line);
  for (std::size_t i = 0; i <= line.size();) {
    std::size_t skipped = 0;
    if (i == line.size()) {
      skipped = 1;
    } else if (i == valid) {
      skipped = 1;
      valid += 1 + reformer::first_non_utf8(line.substr(i + 1));
    } else if (line[i] == '\0' || line[i] == '\t') {
      skipped = 1;
    } else if (line.substr(i).starts_with(space_mark) || line.substr(i).starts_with(unknown_mark)) {
      skipped = space_mark.size();
    }
    if (skipped == 0) {
      ++i;
      continue;
    }
    if (i > begin) {
      function(line.substr(begin, i - begin));
    }
    begin = i += skipped;
  }
}

}  // namespace

/// Lines chosen at random, each as likely as any other: those whose number, scrambled, is below a
/// limit, which falls when they become too many.
class VocabularyTrainer::Sample : public sentencepiece::SentenceIterator {
 public:
  explicit Sample(std::size_t most_bytes) : most_bytes_(most_bytes) {}

  void add(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      unfinished_.append(text.substr(0, end));
      while (unfinished_.size() > longest_line) {
        const std::size_t space = unfinished_.rfind(' ', longest_line);
        std::size_t cut = space == std::string::npos || space == 0 ? longest_line : space;
        while (cut > 1 && (static_cast<unsigned char>(unfinished_[cut]) & 0xc0) == 0x80) {
          --cut;
        }
        add_line(std::string_view(unfinished_).substr(0, cut));
        unfinished_.erase(0, cut);
      }
      if (end == text.size()) {
        return;
      }
      end_line();
      text.remove_prefix(end + 1);
    }
  }
  void end_line() {
    add_line(unfinished_);
    unfinished_.clear();
  }

  // For the library, which copies each line: what it has read is given back at once.
  bool done() const override { return next_ == lines_.size(); }
  void Next() override {
    lines_[next_].text = std::string();
    ++next_;
  }
  const std::string& value() const override { return lines_[next_].text; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  struct Line {
    std::uint64_t number = 0;
    std::string text;
  };

  void add_line(std::string_view line) {
    const std::uint64_t number = scrambled(num_lines_++);
    if (number > limit_) {
      return;
    }
    for_each_learnable(line, [&](std::string_view text) {
      lines_.push_back({number, std::string(text)});
      bytes_ += text.size() + sizeof(Line);
    });
    while (bytes_ > most_bytes_ && limit_ > 0) {
      limit_ /= 2;
      std::erase_if(lines_, [&](const Line& old) { return old.number > limit_; });
      bytes_ = 0;
      for (const Line& kept : lines_) {
        bytes_ += kept.text.size() + sizeof(Line);
      }
    }
  }

  std::size_t most_bytes_;
  std::size_t bytes_ = 0;
  std::uint64_t num_lines_ = 0;
  std::uint64_t limit_ = std::numeric_limits<std::uint64_t>::max();
  std::string unfinished_;
  std::vector<Line> lines_;
  std::size_t next_ = 0;
};

VocabularyTrainer::VocabularyTrainer(const VocabularyOptions& options)
    : options_(options), sample_(std::make_unique<Sample>(options.sample_bytes)) {}

VocabularyTrainer::~VocabularyTrainer() = default;

void VocabularyTrainer::add(std::string_view text) {
  sample_->add(text);
}

void VocabularyTrainer::train(const std::filesystem::path& path) {
  sample_->end_line();
  const auto fail = [&](std::string_view what) {
    throw std::runtime_error(
        fmt::format("cannot learn a vocabulary of {}: {}", options_.vocabulary, what));
  };
  if (sample_->done()) {
    fail("there is no text");
  }
  const std::unordered_map<std::string, std::string> settings = {
      {"model_type", options_.model == PieceModel::bpe ? "bpe" : "unigram"},
      {"vocab_size", fmt::to_string(options_.vocabulary)},
      // Nothing is lost.
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"byte_fallback", "true"},
      {"user_defined_symbols", "\n"},
      // Indentation is many spaces.
      {"allow_whitespace_only_pieces", "true"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      {"max_sentence_length", fmt::to_string(longest_line)},
      // Threads decide in which order numbers are summed, so they are the same everywhere.
      {"num_threads", "8"},
      {"minloglevel", "4"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(settings, sample_.get(), &model);
  if (!status.ok()) {
    // "Internal: file(line) [condition] what is wrong"
    std::string_view what = status.message();
    const std::size_t condition = what.rfind("] ");
    what.remove_prefix(condition == std::string_view::npos ? 0 : condition + 2);
    what = what.substr(0, what.find('\n'));
    // "... 300 vs 344. ...", "... to a value <= 2965."
    const auto number_behind = [&](std::string_view words) -> std::string_view {
      const std::size_t found = what.find(words);
      if (found == std::string_view::npos) return "";
      const std::string_view rest = what.substr(found + words.size());
      return rest.substr(0, rest.find_first_not_of("0123456789"));
    };
    if (const auto least = number_behind(" vs "); !least.empty()) {
      fail(fmt::format("this text takes at least {}, for its characters alone", least));
    }
    if (const auto most = number_behind(" <= "); !most.empty()) {
      fail(fmt::format("this text gives at most {}", most));
    }
    fail(what.empty() ? "it is too small" : what);
  }
  reformer::write_file_atomically(path, model);
}

}  // namespace tokens
