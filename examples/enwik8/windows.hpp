// SPDX-License-Identifier: MIT
/// @file
/// Windows of a text, with the token after each token as its label.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text.hpp"
#include "training/shuffled_epochs.hpp"
#include "training/windows.hpp"

namespace enwik8 {

using training::Windows;

/// Windows for training, each within one stretch of a text: epoch after epoch, each in a random
/// order. A window is a function of the seed and of its number alone, so there is no position in
/// the data to be saved or restored.
///
/// The middles of an epoch's windows are one length apart and begin elsewhere in every epoch; where
/// a window would reach over an end of its stretch, it is moved inwards. So an epoch sees all of a
/// long stretch but some tokens at its ends, and nothing twice but some others there. A stretch
/// that fits is a window as a whole, at most once in an epoch, and left out now and then if there
/// are longer ones. In the mean the labels of all stretches are seen equally often.
class TrainingWindows {
 public:
  /// @param stretches  at least one
  TrainingWindows(const Text& text, const std::vector<Stretch>& stretches, std::int64_t length,
                  std::uint64_t seed);

  /// As long as the longest of them; the others are padded.
  /// @param first  number of the first window, counted from 0 over all steps
  Windows of(std::int64_t first, std::int64_t count) const;
  /// The labels of these that count.
  std::int64_t labels(std::int64_t first, std::int64_t count) const;
  std::int64_t windows_per_epoch() const { return epochs_.count(); }

 private:
  std::vector<Stretch> places(std::int64_t first, std::int64_t count) const;

  struct Weighted {
    Stretch stretch;
    std::int64_t weight_before = 0;  // of those before it
  };
  Text text_;
  std::vector<Weighted> stretches_;
  std::int64_t weight_ = 0;
  std::int64_t length_ = 0;
  std::uint64_t seed_ = 0;
  training::ShuffledEpochs epochs_{1, 0};
};

/// The same tokens in as many times more windows, each as much shorter, one after the other.
/// Windows with padding, or whose length cannot be divided so, stay as they are.
Windows cut(Windows windows, std::int64_t parts);

/// Cuts stretches of a text into consecutive windows for an evaluation, some at a time. Each label
/// of a stretch counts in exactly one window; the last window of a stretch is as long as what is
/// left.
class EvaluationWindows {
 public:
  /// @param limit    labels at most, 0 for all
  /// @param overlap  tokens, less than `length`, with which each window but the first of a stretch
  ///   repeats the end of the one before, as context
  EvaluationWindows(const Text& text, std::vector<Stretch> stretches, std::int64_t count,
                    std::int64_t length, std::int64_t limit = 0, std::int64_t overlap = 0);

  /// All labels that are evaluated.
  std::int64_t labels() const { return labels_; }
  /// Whether there are no others.
  bool is_whole() const { return is_whole_; }

  /// The next windows, `count` or fewer, of one length and context. None at the end.
  Windows next();

 private:
  struct Place {
    Stretch window;
    std::int64_t context = 0;
  };
  /// Where the next window is.
  Place place() const;

  Text text_;
  std::vector<Stretch> stretches_;
  std::int64_t count_;
  std::int64_t length_;
  std::int64_t overlap_;
  std::int64_t labels_ = 0;
  bool is_whole_ = true;
  std::size_t stretch_ = 0;    // of the next label that counts
  std::int64_t position_ = 0;  // of that label in it
};

/// How an evaluation says what each token is predicted from.
struct ContextWords {
  std::string many = "bytes";                                 ///< what tokens are called
  std::string all = "every byte but the first of the split";  ///< what is predicted
  std::string within;                                         ///< " of each document"
};
std::string context_rule(std::int64_t length, std::int64_t overlap = 0,
                         const ContextWords& words = {});

}  // namespace enwik8
