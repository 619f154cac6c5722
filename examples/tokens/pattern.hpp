// SPDX-License-Identifier: MIT
/// @file
/// Regular expressions that take texts apart, as the `Split` of a `tokenizer.json` says.
///
/// Such files are written for the library `tokenizers`, which reads patterns by Oniguruma in Ruby's
/// syntax. Here PCRE2 does (with UTF and UCP, compiled to machine code where it can), after what
/// the two read differently was translated or refused. As with GPT-2's words, a byte that does not
/// belong to a character in UTF-8 is a character of its own, U+FFFD for the pattern.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace tokens {

/// May be used by several threads at once.
class Pattern {
 public:
  /// @throw std::runtime_error that says why it is not supported, without the expression
  explicit Pattern(std::string_view expression);
  ~Pattern();
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  const std::string& expression() const { return expression_; }

  /// Takes texts apart into what the pattern matches and what lies between: every byte is in one
  /// piece. For one thread.
  class Cutter;

 private:
  struct Compiled;

  std::string expression_;
  std::unique_ptr<const Compiled> compiled_;
};

class Pattern::Cutter {
 public:
  explicit Cutter(const Pattern& pattern);
  ~Cutter();
  Cutter(Cutter&&) noexcept;

  /// The text is not copied, and must stay.
  void begin(std::string_view text);
  /// @return false at the end of the text
  /// @throw std::runtime_error when the pattern takes too many steps
  bool next(std::string_view& piece);

  /// The last place p that `is_allowed` where a text can be cut whatever follows it: the pieces of
  /// `text + more` are those of the first p bytes, then those of the rest and `more`. 0 for none,
  /// and for a pattern that looks back, since then the rest would depend on what stands before.
  std::size_t last_cut(std::string_view text, const std::function<bool(std::size_t)>& is_allowed);

 private:
  struct State;

  bool find(unsigned options);
  void find_from(std::size_t place);
  bool is_cut(std::size_t begin, std::size_t count);
  std::size_t last_cut_behind(std::size_t begin, std::size_t least,
                              const std::function<bool(std::size_t)>& is_allowed);
  std::size_t place_in_text(std::size_t place_in_subject) const;

  const Pattern& pattern_;
  std::unique_ptr<State> state_;
};

}  // namespace tokens
