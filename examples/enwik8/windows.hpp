// SPDX-License-Identifier: MIT
/// @file
/// Windows of a text, with the token after each token as its label.
#pragma once

#include <cstdint>
#include <string>

#include "text.hpp"
#include "training/windows.hpp"

namespace enwik8 {

using training::Windows;

/// Windows for training, each at a random place of `text`. The places are a function of the
/// arguments alone, so there is no position in the data to be saved or restored.
/// @param first  number of the first window within its step
/// @param text  more than `length` tokens
Windows training_windows(const Text& text, std::int64_t count, std::int64_t length,
                         std::uint64_t seed, std::int64_t step, std::int64_t first);

/// Cuts a text into consecutive windows for an evaluation, some at a time. Each token but the first
/// of the text is a label that counts of exactly one window; the last window is as long as what is
/// left.
class EvaluationWindows {
 public:
  /// @param limit    labels at most, 0 for the whole text
  /// @param overlap  tokens, less than `length`, with which each window but the first repeats the
  ///   end of the one before, as context
  EvaluationWindows(const Text& text, std::int64_t count, std::int64_t length,
                    std::int64_t limit = 0, std::int64_t overlap = 0);

  /// All labels there are.
  std::int64_t labels() const { return labels_; }

  /// The next windows, `count` or fewer, of one length and context: the first of an evaluation with
  /// overlap, which has no context, and a last one that is shorter come alone. None at the end.
  Windows next();

 private:
  Text text_;
  std::int64_t count_;
  std::int64_t length_;
  std::int64_t overlap_;
  std::int64_t labels_;
  std::int64_t position_ = 0;  // of the next label that counts, from 0
};

/// In words, what each token of an evaluation is predicted from.
/// @param one,many  what tokens are called
std::string context_rule(std::int64_t length, std::int64_t overlap = 0,
                         const std::string& one = "byte", const std::string& many = "bytes");

}  // namespace enwik8
