// SPDX-License-Identifier: MIT
#include "byte_pairs.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <queue>
#include <stdexcept>
#include <unordered_map>
#include <unordered_set>

#include "normal_form.hpp"
#include "reformer/io/checksum.hpp"
#include "reformer/io/json.hpp"
#include "words.hpp"

namespace tokens {
namespace {

using reformer::in_quotes;

constexpr std::int32_t no_token = -1;
constexpr std::int32_t no_rank = std::numeric_limits<std::int32_t>::max();
constexpr std::uint64_t multiplier = 0x9e3779b97f4a7c15;
/// Longer words are merged with a queue, which is slower for short ones.
constexpr std::size_t short_word = 64;

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what);
}

std::uint64_t hash_of(std::string_view word) {
  std::uint64_t hash = word.size();
  const auto mix = [&](std::uint64_t bits) {
    hash = (hash ^ bits) * multiplier;
    hash ^= hash >> 32;
  };
  std::uint64_t bits = 0;
  for (; word.size() >= 8; word.remove_prefix(8)) {
    std::memcpy(&bits, word.data(), 8);
    mix(bits);
  }
  bits = 0;
  std::memcpy(&bits, word.data(), word.size());
  mix(bits);
  return hash;
}

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

/// The places of a table for n entries: never more than half of them taken.
std::size_t places_for(std::size_t n) {
  return std::bit_ceil(2 * n + 2);
}

std::size_t first_place(std::uint64_t hash, std::size_t places) {
  return static_cast<std::size_t>(hash * multiplier >> 32) & (places - 1);
}

/// How the files spell bytes: those that are printable in Latin-1 as they are, the others as U+0100
/// and what follows, in UTF-8.
struct Spelling {
  Spelling() {
    std::uint32_t next = 0x100;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      const std::uint32_t code_point = is_printable ? byte : next++;
      std::string& text = of_byte[byte];
      if (code_point < 0x80) {
        text = static_cast<char>(code_point);
      } else {
        text = {static_cast<char>(0xc0 | code_point >> 6),
                static_cast<char>(0x80 | (code_point & 0x3f))};
      }
      bytes.emplace(text, static_cast<char>(static_cast<unsigned char>(byte)));
    }
  }
  /// The bytes that `text` spells, or nothing where it spells none.
  std::optional<std::string> read(std::string_view text) const {
    std::string result;
    while (!text.empty()) {
      const std::size_t length = static_cast<unsigned char>(text.front()) < 0x80 ? 1 : 2;
      const auto found = bytes.find(std::string(text.substr(0, length)));
      if (found == bytes.end()) {
        return std::nullopt;
      }
      result += found->second;
      text.remove_prefix(length);
    }
    return result;
  }

  std::array<std::string, 256> of_byte;
  std::unordered_map<std::string, char> bytes;
};

/// The added tokens of a group by their first byte.
class Finder {
 public:
  explicit Finder(const std::vector<AddedToken>& group) : group_(group) {
    for (const AddedToken& added : group) {
      begins_[static_cast<unsigned char>(added.content.front())] = true;
    }
  }
  /// The one that stands at byte i, of several the longest; null for none.
  const AddedToken* at(std::string_view text, std::size_t i) const {
    if (!begins_[static_cast<unsigned char>(text[i])]) {
      return nullptr;
    }
    const auto found = std::find_if(group_.begin(), group_.end(), [&](const AddedToken& added) {
      return text.substr(i).starts_with(added.content);
    });
    return found == group_.end() ? nullptr : &*found;
  }
  /// Whether one may stand at byte i, or a longer one, that is completed by what follows the text.
  bool may_reach_beyond(std::string_view text, std::size_t i) const {
    return begins_[static_cast<unsigned char>(text[i])] &&
           std::any_of(group_.begin(), group_.end(), [&](const AddedToken& added) {
             return added.content.size() > text.size() - i &&
                    added.content.starts_with(text.substr(i));
           });
  }

 private:
  const std::vector<AddedToken>& group_;
  std::array<bool, 256> begins_{};
};

}  // namespace

/// One call of `encode`: words that come again are not merged again.
class BytePairTokenizer::Encoder {
 public:
  Encoder(const BytePairTokenizer& tokenizer, std::size_t size)
      : tokenizer_(tokenizer),
        seen_(std::bit_ceil(std::clamp(size / 8, std::size_t{1}, most_seen))) {
    for (const auto& pattern : tokenizer.patterns_) {
      cutters_.emplace_back(*pattern);
    }
  }

  void encode(std::string_view text, const std::array<Group, 2>& groups, std::size_t pass) {
    if (pass == groups.size()) {
      return encode_pieces(text, 0);
    }
    if (pass == 1 && tokenizer_.composes_ && !is_composed(text)) {
      text = composed_.emplace_back(Composition(text).take());
    }
    if (groups[pass].empty()) {
      return encode(text, groups, pass + 1);
    }
    const Finder finder(groups[pass]);
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size();) {
      const AddedToken* found = finder.at(text, i);
      if (found == nullptr) {
        ++i;
        continue;
      }
      const std::string_view before = text.substr(begin, i - begin);
      encode(found->strips_left ? before.substr(0, before.size() - space_at_end(before)) : before,
             groups, pass + 1);
      tokens_.push_back(found->id);
      i += found->content.size();
      begin = i += found->strips_right ? space_at_begin(text.substr(i)) : 0;
    }
    encode(text.substr(begin), groups, pass + 1);
  }

  std::vector<std::int32_t> take() { return std::move(tokens_); }

 private:
  static constexpr std::size_t most_seen = std::size_t{1} << 15;
  /// A word, and where its tokens stand in `tokens_`.
  struct Seen {
    std::string_view word;
    std::size_t begin = 0, size = 0;
  };

  /// @param first_pattern  the first that has not taken this text apart yet
  void encode_pieces(std::string_view text, std::size_t first_pattern) {
    if (first_pattern == cutters_.size()) {
      return tokenizer_.has_words_ ? encode_words(text) : encode_word(text);
    }
    Pattern::Cutter& cutter = cutters_[first_pattern];
    cutter.begin(text);
    for (std::string_view piece; cutter.next(piece);) {
      encode_pieces(piece, first_pattern + 1);
    }
  }

  void encode_words(std::string_view text) {
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = word_end(text, begin);
      encode_word(text.substr(begin, end - begin));
      begin = end;
    }
  }

  void encode_word(std::string_view word) {
    const std::uint64_t hash = hash_of(word);
    const std::int32_t token = tokenizer_.find_word(word, hash);
    if (token != no_token) {
      tokens_.push_back(token);
      return;
    }
    Seen& seen = seen_[first_place(hash, seen_.size())];
    if (seen.word == word) {
      for (std::size_t i = 0; i < seen.size; ++i) {
        const std::int32_t again = tokens_[seen.begin + i];
        tokens_.push_back(again);
      }
      return;
    }
    const std::size_t before = tokens_.size();
    tokenizer_.merge(word, tokens_);
    seen = {word, before, tokens_.size() - before};
  }

  const BytePairTokenizer& tokenizer_;
  std::vector<Pattern::Cutter> cutters_;
  std::deque<std::string> composed_;  ///< texts that were not in normal form, where words stand
  std::vector<std::int32_t> tokens_;
  std::vector<Seen> seen_;  ///< one word at each place, the latest
};

/// The ids of tokens as the files spell them.
class BytePairTokenizer::Names {
 public:
  explicit Names(const std::vector<std::string>& vocabulary) {
    for (std::size_t i = 0; i < vocabulary.size(); ++i) {
      if (!vocabulary[i].empty()) {
        ids_.emplace(vocabulary[i], static_cast<std::int32_t>(i));
      }
    }
  }
  /// -1 for what is no token.
  std::int32_t id_of(const std::string& name) const {
    const auto found = ids_.find(name);
    return found == ids_.end() ? no_token : found->second;
  }

 private:
  std::unordered_map<std::string_view, std::int32_t> ids_;
};

BytePairTokenizer::BytePairTokenizer(Definition definition)
    : composes_(definition.composes),
      has_words_(definition.has_words),
      ignores_merges_(definition.ignores_merges),
      patterns_(std::move(definition.patterns)),
      files_(std::move(definition.files)) {
  const Names names(definition.vocabulary);
  check_ids(definition, names);
  checksum_ = checksum_of(definition);
  if (composes_ || !patterns_.empty() || ignores_merges_) {
    std::string more = fmt::format("{} {} {}", composes_, has_words_, ignores_merges_);
    for (const auto& pattern : patterns_) {
      more += fmt::format(" {} {}", pattern->expression().size(), pattern->expression());
    }
    checksum_ = reformer::crc32(more, checksum_);
  }
  set_texts(definition, names);
  set_merges(definition, names);
  find_whole_words(definition);
  set_added(std::move(definition.added));
}

/// Every token has one id, and every id one token, except that some may be missing among those of
/// added tokens, as GPT-4 has it.
void BytePairTokenizer::check_ids(const Definition& definition, const Names& names) {
  const std::vector<std::string>& vocabulary = definition.vocabulary;
  std::size_t count = vocabulary.size();
  std::size_t learned = 0;  // ids up to the last that is no added token
  std::unordered_set<std::int32_t> added_ids;
  std::unordered_set<std::string_view> contents;
  for (const AddedToken& added : definition.added) {
    const std::string named = "the added token " + in_quotes(added.content);
    const auto index = static_cast<std::size_t>(added.id);
    if (!contents.insert(added.content).second) {
      fail("has " + named + " twice");
    }
    const bool is_taken = index < vocabulary.size() && !vocabulary[index].empty() &&
                          vocabulary[index] != added.content;
    if (!added_ids.insert(added.id).second || is_taken) {
      fail(fmt::format("gives the id {} to {} and to another token", added.id, named));
    }
    const std::int32_t other = names.id_of(added.content);
    if (other != no_token && other != added.id) {
      fail(fmt::format("has {} with the id {}, and in the vocabulary with {}", named, added.id,
                       other));
    }
    count = std::max(count, index + 1);
  }
  for (std::size_t i = 0; i < vocabulary.size(); ++i) {
    if (!vocabulary[i].empty() && !added_ids.contains(static_cast<std::int32_t>(i))) {
      learned = i + 1;
    }
  }
  std::size_t missing = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const bool is_named = i < vocabulary.size() && !vocabulary[i].empty();
    if (!is_named && !added_ids.contains(static_cast<std::int32_t>(i)) &&
        (i < learned || ++missing > most_missing_ids)) {
      fail(fmt::format("has no token with the id {}, but one with {}", i, count - 1));
    }
  }
}

std::uint32_t BytePairTokenizer::checksum_of(const Definition& definition) {
  std::uint32_t checksum = 0;
  const auto include = [&](std::string_view text) {
    checksum = reformer::crc32(fmt::format("{} ", text.size()), checksum);
    checksum = reformer::crc32(text, checksum);
  };
  for (const std::string& name : definition.vocabulary) {
    include(name);
  }
  for (const auto& [left, right] : definition.merges) {
    include(left);
    include(right);
  }
  for (const AddedToken& added : definition.added) {
    include(fmt::format("{} {} {}{}{}", added.id, added.is_special, added.is_normalized,
                        added.strips_left ? " left" : "", added.strips_right ? " right" : ""));
    include(added.content);
  }
  return checksum;
}

void BytePairTokenizer::set_texts(const Definition& definition, const Names& names) {
  const Spelling spelling;
  for (const std::string& name : definition.vocabulary) {
    bytes_.push_back(spelling.read(name).value_or(name));
  }
  for (const AddedToken& added : definition.added) {
    const auto index = static_cast<std::size_t>(added.id);
    bytes_.resize(std::max(bytes_.size(), index + 1));
    bytes_[index] = added.is_special ? "" : added.content;
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    token_of_byte_[byte] = names.id_of(spelling.of_byte[byte]);
    if (token_of_byte_[byte] == no_token) {
      fail(
          fmt::format("has no token for the byte {}, which is spelled {}; only vocabularies with "
                      "all 256 bytes are allowed",
                      byte, in_quotes(spelling.of_byte[byte])));
    }
  }
}

void BytePairTokenizer::set_merges(const Definition& definition, const Names& names) {
  pairs_.resize(places_for(definition.merges.size()));
  for (std::size_t i = 0; i < definition.merges.size(); ++i) {
    const std::string& left = definition.merges[i].first;
    const std::string& right = definition.merges[i].second;
    const auto in_vocabulary = [&](const std::string& name) {
      const std::int32_t id = names.id_of(name);
      if (id == no_token) {
        fail(fmt::format("has the merge {} of {} and {}, but no token {}", i + 1, in_quotes(left),
                         in_quotes(right), in_quotes(name)));
      }
      return id;
    };
    const std::uint64_t key = key_of(in_vocabulary(left), in_vocabulary(right));
    std::size_t place = first_place(key, pairs_.size());
    while (pairs_[place].key != no_pair && pairs_[place].key != key) {
      place = (place + 1) & (pairs_.size() - 1);
    }
    if (pairs_[place].key == key) {
      fail(fmt::format("has the merge of {} and {} twice", in_quotes(left), in_quotes(right)));
    }
    pairs_[place] = {key, static_cast<std::int32_t>(i), in_vocabulary(left + right)};
  }
}

/// Most words of a text are one token, and need not be merged to find it.
void BytePairTokenizer::find_whole_words(const Definition& definition) {
  const Spelling spelling;
  // A name that spells no bytes is no word of any text.
  const auto is_spelled = [&](std::int32_t id) {
    const auto index = static_cast<std::size_t>(id);
    return index < definition.vocabulary.size() &&
           spelling.read(definition.vocabulary[index]).has_value();
  };
  whole_words_.assign(places_for(bytes_.size()), no_token);
  std::vector<std::int32_t> merged;
  for (std::int32_t id = 0; id < vocabulary(); ++id) {
    const std::string& word = bytes_[static_cast<std::size_t>(id)];
    merged.clear();
    if (word.empty()) {
      continue;
    }
    bool is_whole = ignores_merges_ && is_spelled(id);
    if (!is_whole) {
      merge(word, merged);
      is_whole = merged.size() == 1 && merged.front() == id;
    }
    if (is_whole) {
      std::size_t place = first_place(hash_of(word), whole_words_.size());
      while (whole_words_[place] != no_token) {
        place = (place + 1) & (whole_words_.size() - 1);
      }
      whole_words_[place] = id;
    }
  }
}

void BytePairTokenizer::set_added(std::vector<AddedToken> added_tokens) {
  constexpr std::array<std::string_view, 4> ends = {"<|endoftext|>", "<|end_of_text|>", "</s>",
                                                    "<eos>"};
  for (AddedToken& added : added_tokens) {
    if (added.is_normalized && composes_) {
      added.content = Composition(added.content).take();
    }
  }
  std::stable_sort(
      added_tokens.begin(), added_tokens.end(),
      [](const AddedToken& a, const AddedToken& b) { return a.content.size() > b.content.size(); });
  for (const AddedToken& added : added_tokens) {
    const std::size_t pass = added.is_normalized ? 1 : 0;
    all_[pass].push_back(added);
    if (!added.is_special) {
      plain_[pass].push_back(added);
    } else if (std::find(ends.begin(), ends.end(), added.content) != ends.end()) {
      end_of_document_ = end_of_document_.value_or(added.id);
    }
  }
}

const BytePairTokenizer::Pair* BytePairTokenizer::find_pair(std::int32_t left,
                                                            std::int32_t right) const {
  const std::uint64_t key = key_of(left, right);
  for (std::size_t place = first_place(key, pairs_.size());;
       place = (place + 1) & (pairs_.size() - 1)) {
    if (pairs_[place].key == key) {
      return &pairs_[place];
    }
    if (pairs_[place].key == no_pair) {
      return nullptr;
    }
  }
}

std::int32_t BytePairTokenizer::find_word(std::string_view word, std::uint64_t hash) const {
  for (std::size_t place = first_place(hash, whole_words_.size());;
       place = (place + 1) & (whole_words_.size() - 1)) {
    const std::int32_t token = whole_words_[place];
    if (token == no_token || bytes_[static_cast<std::size_t>(token)] == word) {
      return token;
    }
  }
}

void BytePairTokenizer::merge(std::string_view word, std::vector<std::int32_t>& tokens) const {
  if (word.size() <= short_word) {
    merge_short(word, tokens);
  } else {
    merge_long(word, tokens);
  }
}

void BytePairTokenizer::merge_short(std::string_view word,
                                    std::vector<std::int32_t>& tokens) const {
  // Part i can be merged with the next to `into[i]`, at rank `ranks[i]`.
  std::array<std::int32_t, short_word> parts, ranks, into;
  std::size_t count = word.size();
  for (std::size_t i = 0; i < count; ++i) {
    parts[i] = token_of_byte_[static_cast<unsigned char>(word[i])];
  }
  const auto look = [&](std::size_t i) {
    const Pair* pair = i + 1 < count ? find_pair(parts[i], parts[i + 1]) : nullptr;
    ranks[i] = pair == nullptr ? no_rank : pair->rank;
    into[i] = pair == nullptr ? no_token : pair->token;
  };
  for (std::size_t i = 0; i < count; ++i) {
    look(i);
  }
  while (true) {
    const auto best = static_cast<std::size_t>(
        std::min_element(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(count)) -
        ranks.begin());
    if (ranks[best] == no_rank) {
      break;
    }
    parts[best] = into[best];
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      parts[i] = parts[i + 1];
      ranks[i] = ranks[i + 1];
      into[i] = into[i + 1];
    }
    --count;
    look(best);
    if (best > 0) {
      look(best - 1);
    }
  }
  tokens.insert(tokens.end(), parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(count));
}

void BytePairTokenizer::merge_long(std::string_view word, std::vector<std::int32_t>& tokens) const {
  using Place = std::uint32_t;
  constexpr Place none = std::numeric_limits<Place>::max();
  if (word.size() >= none) {
    throw std::length_error(
        fmt::format("a word of {} bytes is too long for byte-level BPE", word.size()));
  }
  struct Part {
    std::int32_t token;
    Place before, after;
  };
  std::vector<Part> parts(word.size());
  for (std::size_t i = 0; i < parts.size(); ++i) {
    parts[i] = {token_of_byte_[static_cast<unsigned char>(word[i])],
                i == 0 ? none : static_cast<Place>(i - 1),
                i + 1 == parts.size() ? none : static_cast<Place>(i + 1)};
  }
  const auto pair_at = [&](Place place) {
    const Part& part = parts[place];
    return part.token == no_token || part.after == none
               ? nullptr
               : find_pair(part.token, parts[part.after].token);
  };
  // The least rank first, and of these the leftmost. What has become of a pair since it was queued
  // shows when it comes out.
  using Merge = std::pair<std::int32_t, Place>;
  std::vector<Merge> found;
  for (Place place = 0; place < parts.size(); ++place) {
    if (const Pair* pair = pair_at(place)) {
      found.emplace_back(pair->rank, place);
    }
  }
  std::priority_queue<Merge, std::vector<Merge>, std::greater<>> queue(std::greater<>(),
                                                                       std::move(found));
  while (!queue.empty()) {
    const auto [rank, place] = queue.top();
    queue.pop();
    const Pair* pair = pair_at(place);
    if (pair == nullptr || pair->rank != rank) {
      continue;
    }
    Part& left = parts[place];
    Part& right = parts[left.after];
    left.token = pair->token;
    left.after = right.after;
    right.token = no_token;
    if (left.after != none) {
      parts[left.after].before = place;
    }
    for (const Place changed : {left.before, place}) {
      const Pair* next = changed == none ? nullptr : pair_at(changed);
      if (next != nullptr) {
        queue.emplace(next->rank, changed);
      }
    }
  }
  for (Place place = 0; place != none; place = parts[place].after) {
    tokens.push_back(parts[place].token);
  }
}

std::vector<std::int32_t> BytePairTokenizer::encode(std::string_view text) const {
  Encoder encoder(*this, text.size());
  encoder.encode(text, plain_, 0);
  return encoder.take();
}

std::vector<std::int32_t> BytePairTokenizer::encode_prompt(std::string_view text) const {
  Encoder encoder(*this, text.size());
  encoder.encode(text, all_, 0);
  return encoder.take();
}

std::string BytePairTokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (token >= 0 && token < vocabulary()) {
      text += bytes_[static_cast<std::size_t>(token)];
    }
  }
  return text;
}

std::string BytePairTokenizer::bytes_of(std::int32_t token) const {
  return decode({&token, 1});
}

/// Of a text, where words are looked for.
struct BytePairTokenizer::Stretch {
  std::size_t begin = 0, end = 0;
  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
};

/// What lies behind the last added token of a text, up to where another may begin that what follows
/// completes.
BytePairTokenizer::Stretch BytePairTokenizer::stretch_without(const Group& group,
                                                              std::string_view text) {
  if (group.empty()) {
    return {0, text.size()};
  }
  const Finder finder(group);
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (finder.may_reach_beyond(text, i)) {
      return {begin, i};
    }
    const AddedToken* found = finder.at(text, i);
    i += found == nullptr ? 1 : found->content.size();
    if (found != nullptr) {
      begin = i;
    }
  }
  return {begin, text.size()};
}

/// The last place that `is_allowed` where a word ends whatever follows this text, which holds no
/// added tokens; 0 for none.
std::size_t BytePairTokenizer::last_word_end(
    std::string_view text, const std::function<bool(std::size_t)>& is_allowed) const {
  if (patterns_.empty()) {
    for (std::size_t p = text.empty() ? 0 : text.size() - 1; p > 0; --p) {
      if (always_ends_word(text, p) && is_allowed(p)) {
        return p;
      }
    }
    return 0;
  }
  // What other patterns, or GPT-2's words, do within the pieces of the first does not matter.
  return Pattern::Cutter(*patterns_.front()).last_cut(text, is_allowed);
}

std::size_t BytePairTokenizer::safe_split(std::string_view text) const {
  // The last bytes may become a character with what follows.
  for (int i = 0; i < 3 && !text.empty() && !character_before(text, text.size()).is_valid; ++i) {
    text.remove_suffix(1);
  }
  const Stretch outer = stretch_without(plain_[0], text);
  std::string_view source = outer.of(text);
  std::optional<Composition> composition;
  if (composes_) {
    // What follows may also change the last character and the marks behind it.
    std::size_t end = source.size();
    do {
      end -= end > 0 ? character_before(source, end).length : 0;
    } while (end > 0 && !is_boundary_of_composition(source, end));
    source = source.substr(0, end);
    if (!is_composed(source)) {
      composition.emplace(source);
    }
  }
  const std::string_view words = composition ? composition->text() : source;
  // Words are found in the normal form, and the source is cut.
  const auto place_in_source = [&](std::size_t p) {
    const std::optional<std::size_t> place = composition ? composition->place_in_source(p) : p;
    const bool is_allowed = !composes_ || !place || *place == source.size() ||
                            is_boundary_of_composition(source, *place);
    return is_allowed ? place : std::nullopt;
  };
  const Stretch inner = stretch_without(plain_[1], words);
  const std::size_t end = last_word_end(
      inner.of(words), [&](std::size_t p) { return place_in_source(inner.begin + p).has_value(); });
  return outer.begin + place_in_source(inner.begin + end).value_or(0);
}

std::string BytePairTokenizer::what_is_lost() const {
  return composes_
             ? fmt::format("'{}' does not give back every text: characters are normalised (NFC)",
                           files_.empty() ? "" : files_.front().string())
             : "";
}

std::string BytePairTokenizer::description() const {
  return fmt::format("byte-level BPE, {} tokens", vocabulary());
}

}  // namespace tokens
