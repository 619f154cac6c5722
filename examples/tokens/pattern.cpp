// SPDX-License-Identifier: MIT
#include "pattern.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>
#include <vector>

#include "reformer/io/text.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace tokens {
namespace {

/// What stands for a byte that belongs to no character: U+FFFD.
constexpr std::string_view replacement = "\xef\xbf\xbd";
/// Far above what a pattern takes for a text in memory unless it goes through endless combinations.
constexpr std::uint32_t most_steps = 1U << 26;
/// Bytes at the end of a text in which a place to cut is looked for, and in how many places.
constexpr std::size_t first_tail = 2048;
constexpr int most_tries = 256;
constexpr std::size_t first_stack = std::size_t{1} << 15, largest_stack = std::size_t{1} << 23;

[[noreturn]] void refuse(std::string_view what) {
  throw std::runtime_error(fmt::format("{} is not supported", what));
}

std::string message_of_error(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

/// From Oniguruma's syntax to that of PCRE2. What both read alike stays; what PCRE2 does not know
/// is left for its own errors.
class Translation {
 public:
  explicit Translation(std::string_view expression) : rest_(expression) {
    while (!rest_.empty()) {
      if (rest_.front() == '\\') {
        escape();
      } else if (is_in_set_) {
        member_of_set();
      } else {
        other();
      }
    }
  }
  const std::string& result() const { return result_; }
  bool looks_at_line_begin() const { return looks_at_line_begin_; }

 private:
  void take(std::size_t count) {
    result_ += rest_.substr(0, count);
    rest_.remove_prefix(count);
  }
  void replace(std::size_t count, std::string_view by) {
    result_ += by;
    rest_.remove_prefix(count);
  }

  void escape() {
    if (rest_.size() < 2) {
      return take(1);
    }
    switch (const char name = rest_[1]) {
      // PCRE2 counts U+180E as white space.
      case 's':
        return replace(2, "\\p{White_Space}");
      case 'S':
        return replace(2, "\\P{White_Space}");
      case 'v':
        return replace(2, "\\x0b");
      case 'p':
      case 'P':
      case 'x': {
        const std::size_t end = rest_.find('}');
        if (rest_.size() < 3 || rest_[2] != '{' || end == std::string_view::npos) {
          refuse(fmt::format("\\{} without braces", name));
        }
        return take(end + 1);
      }
      case 'd':
      case 'D':
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'e':
      case 'a':
        return take(2);
      default:
        // Letters and digits mean something, and often something else: \w, \b, \h, \Z, \1.
        if ((name >= '0' && name <= '9') || (name >= 'a' && name <= 'z') ||
            (name >= 'A' && name <= 'Z')) {
          refuse(fmt::format("\\{}", name));
        }
        return take(2);
    }
  }

  void member_of_set() {
    if (rest_.front() == '[' || rest_.starts_with("&&")) {
      refuse("a set within a set");
    }
    is_in_set_ = rest_.front() != ']';
    take(1);
  }

  void other() {
    switch (rest_.front()) {
      case '[':
        is_in_set_ = true;
        take(rest_.starts_with("[^") ? 2 : 1);
        return take(rest_.starts_with(']') ? 1 : 0);  // a member, where it comes first
      case '(':
        return group();
      case '{':
        return interval();
      case '^':
        looks_at_line_begin_ = true;
        return take(1);
      default:
        return take(1);
    }
  }

  void group() {
    if (rest_.starts_with("(*")) {
      refuse("(*");
    }
    if (!rest_.starts_with("(?")) {
      return take(1);
    }
    // (?m) is one that means something else; names are of no use here.
    for (const std::string_view kind :
         {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (rest_.starts_with(kind)) {
        return take(kind.size());
      }
    }
    refuse(rest_.substr(0, 3));
  }

  /// {2,} and the like. A sign behind one means something else: {1,3}+ is possessive for PCRE2
  /// alone.
  void interval() {
    const std::size_t end = rest_.find_first_not_of("0123456789,", 1);
    if (end == std::string_view::npos || rest_[end] != '}' || rest_[1] == ',' || end == 1) {
      refuse("{ that does not begin a number of times");
    }
    const std::string_view behind = rest_.substr(end + 1, 1);
    if (behind == "+" || behind == "?") {
      refuse(rest_.substr(0, end + 2));
    }
    take(end + 1);
  }

  std::string_view rest_;
  std::string result_;
  bool is_in_set_ = false;
  bool looks_at_line_begin_ = false;
};

}  // namespace

struct Pattern::Compiled {
  pcre2_code* code = nullptr;
  bool is_machine_code = false;
  bool looks_back = false;

  Compiled() = default;
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }
};

Pattern::Pattern(std::string_view expression) : expression_(expression) {
  const Translation translation(expression);
  const std::string& translated = translation.result();
  auto compiled = std::make_unique<Compiled>();
  int error = 0;
  std::size_t place = 0;
  // Ruby's ^ and $ stand at every line.
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                 PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error, &place, nullptr);
  if (compiled->code == nullptr) {
    throw std::runtime_error(fmt::format("PCRE2: {}, before {}", message_of_error(error),
                                         reformer::in_quotes(translated.substr(place))));
  }
  compiled->is_machine_code =
      pcre2_jit_compile(compiled->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD) == 0;
  std::uint32_t characters_back = 0;
  pcre2_pattern_info(compiled->code, PCRE2_INFO_MAXLOOKBEHIND, &characters_back);
  compiled->looks_back = characters_back > 0 || translation.looks_at_line_begin();
  compiled_ = std::move(compiled);
}

Pattern::~Pattern() = default;

/// What is matched against is the subject: the text, or a copy of it in which bytes that belong to
/// no character are replaced.
struct Pattern::Cutter::State {
  explicit State(const Compiled& compiled)
      : found(pcre2_match_data_create(1, nullptr)), context(pcre2_match_context_create(nullptr)) {
    bool is_complete = found != nullptr && context != nullptr;
    if (is_complete) {
      pcre2_set_match_limit(context, most_steps);
    }
    if (is_complete && compiled.is_machine_code) {
      stack = pcre2_jit_stack_create(first_stack, largest_stack, nullptr);
      is_complete = stack != nullptr;
      pcre2_jit_stack_assign(context, nullptr, stack);
    }
    if (!is_complete) {
      free();
      throw std::bad_alloc();
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { free(); }

  void free() {
    pcre2_match_data_free(found);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }

  pcre2_match_data* found;
  pcre2_match_context* context;
  pcre2_jit_stack* stack = nullptr;

  std::string_view text, subject;
  std::string copy;
  std::vector<std::size_t> replaced;  ///< where, in the subject

  // Places in the subject.
  std::size_t at = 0;  ///< the end of the last piece
  std::size_t match_begin = 0, match_end = 0;
  std::size_t search_begin = 0;
  std::size_t last_match_end = std::string_view::npos;
  std::vector<std::pair<std::size_t, std::size_t>> matches;  ///< at the end of a text to cut
};

Pattern::Cutter::Cutter(const Pattern& pattern)
    : pattern_(pattern), state_(std::make_unique<State>(*pattern.compiled_)) {}
Pattern::Cutter::~Cutter() = default;
Pattern::Cutter::Cutter(Cutter&&) noexcept = default;

void Pattern::Cutter::begin(std::string_view text) {
  State& s = *state_;
  s.text = s.subject = text;
  s.replaced.clear();
  if (std::size_t valid = reformer::first_non_utf8(text); valid < text.size()) {
    s.copy.clear();
    for (std::string_view rest = text; !rest.empty(); valid = reformer::first_non_utf8(rest)) {
      s.copy += rest.substr(0, valid);
      rest.remove_prefix(valid);
      if (!rest.empty()) {
        s.replaced.push_back(s.copy.size());
        s.copy += replacement;
        rest.remove_prefix(1);
      }
    }
    s.subject = s.copy;
  }
  s.at = s.match_begin = s.match_end = s.search_begin = 0;
  s.last_match_end = std::string_view::npos;
}

/// The next match. An empty one where the last has ended is none, and the search goes on one
/// character later, as Oniguruma's does.
/// @return false for none
bool Pattern::Cutter::find(unsigned options) {
  State& s = *state_;
  while (s.search_begin <= s.subject.size()) {
    const int count = pcre2_match(pattern_.compiled_->code,
                                  reinterpret_cast<PCRE2_SPTR>(s.subject.data()), s.subject.size(),
                                  s.search_begin, options | PCRE2_NO_UTF_CHECK, s.found, s.context);
    if (count == PCRE2_ERROR_NOMATCH || count == PCRE2_ERROR_PARTIAL) {
      return false;
    }
    if (count < 0) {
      throw std::runtime_error(fmt::format(
          "the pattern {} cannot take a text of {} bytes apart: {}",
          reformer::in_quotes(pattern_.expression_), s.text.size(), message_of_error(count)));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(s.found);
    s.match_begin = range[0];
    s.match_end = range[1];
    if (s.match_begin < s.match_end || s.match_end != s.last_match_end) {
      s.search_begin = s.last_match_end = s.match_end;
      return true;
    }
    do {
      ++s.search_begin;
    } while (s.search_begin < s.subject.size() &&
             (static_cast<unsigned char>(s.subject[s.search_begin]) & 0xc0) == 0x80);
  }
  return false;
}

std::size_t Pattern::Cutter::place_in_text(std::size_t place_in_subject) const {
  const std::vector<std::size_t>& replaced = state_->replaced;
  const auto before = std::lower_bound(replaced.begin(), replaced.end(), place_in_subject);
  return place_in_subject -
         static_cast<std::size_t>(before - replaced.begin()) * (replacement.size() - 1);
}

bool Pattern::Cutter::next(std::string_view& piece) {
  State& s = *state_;
  if (s.at == s.subject.size()) {
    return false;
  }
  while (s.at >= s.match_end) {
    if (!find(0)) {
      s.match_begin = s.match_end = s.subject.size();
    }
  }
  const std::size_t begin = place_in_text(s.at);
  s.at = s.at < s.match_begin ? s.match_begin : s.match_end;
  piece = s.text.substr(begin, place_in_text(s.at) - begin);
  return true;
}

/// As if a match had ended here.
void Pattern::Cutter::find_from(std::size_t place) {
  state_->search_begin = state_->last_match_end = place;
}

/// Whether the first `count` of the matches behind `begin` are those of a subject that ends with
/// them.
bool Pattern::Cutter::is_cut(std::size_t begin, std::size_t count) {
  State& s = *state_;
  const auto finds = [&](std::size_t i) {
    return find(0) && std::pair(s.match_begin, s.match_end) == s.matches[i];
  };
  const std::string_view whole = s.subject;
  s.subject = whole.substr(0, s.matches[count - 1].second);
  // The last one first, which is the likeliest to have looked at what stands behind it.
  find_from(count > 1 ? s.matches[count - 2].second : begin);
  bool remain = finds(count - 1);
  find_from(begin);
  for (std::size_t i = 0; remain && i + 1 < count; ++i) {
    remain = finds(i);
  }
  s.subject = whole;
  return remain;
}

/// @param begin  where a match has ended
/// @param least  the least place to cut, behind which no match up to there has looked
std::size_t Pattern::Cutter::last_cut_behind(std::size_t begin, std::size_t least,
                                             const std::function<bool(std::size_t)>& is_allowed) {
  State& s = *state_;
  s.matches.clear();
  find_from(begin);
  while (find(PCRE2_PARTIAL_HARD)) {
    s.matches.emplace_back(s.match_begin, s.match_end);
  }
  int tries = 0;
  for (std::size_t count = s.matches.size(); count > 0 && tries < most_tries; --count) {
    const auto [match_begin, match_end] = s.matches[count - 1];
    const std::size_t place = place_in_text(match_end);
    if (match_end < least) {
      break;
    }
    if (match_begin < match_end && is_allowed(place) && (++tries, is_cut(begin, count))) {
      return place;
    }
  }
  return 0;
}

std::size_t Pattern::Cutter::last_cut(std::string_view text,
                                      const std::function<bool(std::size_t)>& is_allowed) {
  if (pattern_.compiled_->looks_back) {
    return 0;
  }
  begin(text);
  const std::string_view whole = state_->subject;
  for (std::size_t tail = first_tail;; tail *= 16) {
    // What stands before the tail does not look into it, and need not be tried at every cut.
    std::size_t limit = whole.size() - std::min(tail, whole.size());
    while (limit > 0 && (static_cast<unsigned char>(whole[limit]) & 0xc0) == 0x80) {
      --limit;
    }
    state_->subject = whole.substr(0, limit);
    find_from(0);
    std::size_t settled = 0;
    while (find(PCRE2_PARTIAL_HARD)) {  // which stops where it would have looked beyond the end
      settled = state_->match_end;
    }
    state_->subject = whole;
    const std::size_t place = last_cut_behind(settled, limit, is_allowed);
    if (place > 0 || limit == 0) {
      return place;
    }
  }
}

}  // namespace tokens
