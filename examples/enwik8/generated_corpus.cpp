// SPDX-License-Identifier: MIT
//
// Draws happen in statements of their own, never as two arguments of one call: the order in which
// arguments are evaluated differs between compilers, and with it would the text.
#include "generated_corpus.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace enwik8 {
namespace {

/// SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing function.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15U;
    std::uint64_t mixed = state_;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9U;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebU;
    return mixed ^ (mixed >> 31);
  }

  /// A whole number from 0 to `count` - 1.
  std::size_t below(std::size_t count) {
    return static_cast<std::size_t>(((next() >> 32) * count) >> 32);
  }

  /// A whole number from `low` to `high`, both included.
  std::size_t between(std::size_t low, std::size_t high) { return low + below(high - low + 1); }

  bool chance(std::size_t percent) { return below(100) < percent; }

  template <typename T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }

 private:
  std::uint64_t state_;
};

/// Draws ranks with probability proportional to 1 / (rank + offset).
class Zipf {
 public:
  explicit Zipf(std::size_t count, std::size_t offset = 2) {
    cumulative_.reserve(count);
    std::size_t total = 0;
    for (std::size_t rank = 0; rank < count; ++rank) {
      total += (std::size_t{1} << 22) / (rank + offset);
      cumulative_.push_back(total);
    }
  }

  std::size_t draw(Generator& random) const {
    const std::size_t at = random.below(cumulative_.back());
    return static_cast<std::size_t>(std::upper_bound(cumulative_.begin(), cumulative_.end(), at) -
                                    cumulative_.begin());
  }

 private:
  std::vector<std::size_t> cumulative_;
};

/// Words of one class, the frequent ones first.
struct WordClass {
  std::vector<std::string> words;
  Zipf frequency;

  const std::string& draw(Generator& random) const { return words[frequency.draw(random)]; }
};

/// Makes words that are pronounceable and never made twice.
class WordMaker {
 public:
  WordMaker() : onset_(onsets.size(), 4), vowel_(vowels.size()), coda_(codas.size(), 1) {}

  std::string make(Generator& random, std::size_t fewest, std::size_t most) {
    for (;;) {
      std::string word;
      const std::size_t syllables = random.between(fewest, most);
      for (std::size_t i = 0; i < syllables; ++i) {
        word += onsets[onset_.draw(random)];
        word += vowels[vowel_.draw(random)];
        // Open syllables inside a word keep consonants from piling up.
        if (i + 1 == syllables || random.chance(25)) {
          word += codas[coda_.draw(random)];
        }
      }
      if (word.size() >= 2 && made_.insert(word).second) {
        return word;
      }
    }
  }

 private:
  static constexpr std::array<std::string_view, 26> onsets{
      "t", "r",  "s",  "l",  "m",  "d",  "n",  "p",  "c",  "b",  "v",  "h",  "f",
      "g", "st", "pr", "th", "tr", "ch", "br", "sh", "cl", "gr", "qu", "sp", "w"};
  static constexpr std::array<std::string_view, 10> vowels{"e", "a",  "i",  "o",  "u",
                                                           "y", "ea", "io", "ou", "ai"};
  static constexpr std::array<std::string_view, 14> codas{"",   "n",  "r",  "s",  "l",  "t", "m",
                                                          "nd", "st", "rt", "ck", "ng", "x", "ll"};

  Zipf onset_;
  Zipf vowel_;
  Zipf coda_;
  std::unordered_set<std::string> made_;
};

std::string capitalised(std::string word) {
  if (!word.empty() && word[0] >= 'a' && word[0] <= 'z') {
    word[0] = static_cast<char>(word[0] - 'a' + 'A');
  }
  return word;
}

std::string padded(std::size_t number) {
  return number < 10 ? "0" + std::to_string(number) : std::to_string(number);
}

constexpr std::array<std::string_view, 12> months{"January",   "February", "March",    "April",
                                                  "May",       "June",     "July",     "August",
                                                  "September", "October",  "November", "December"};

struct Date {
  std::size_t day;
  std::size_t month;  // 0 to 11
  std::size_t year;

  std::string linked() const {
    return "[[" + std::string(months[month]) + " " + std::to_string(day) + "]], [[" +
           std::to_string(year) + "]]";
  }
};

Date draw_date(Generator& random, std::size_t first_year, std::size_t last_year) {
  Date date{};
  date.day = random.between(1, 28);
  date.month = random.below(months.size());
  date.year = random.between(first_year, last_year);
  return date;
}

enum class Kind { person, place, thing };

/// Something with a page of its own and facts that are the same wherever it is mentioned.
struct Entity {
  Kind kind;
  std::string name;
  std::string short_name;  // what later mentions use: the last name of a person
  Date from;               // birth, foundation, invention
  Date until;              // death of a person
  std::size_t home;        // index of a place
  std::size_t number;      // inhabitants, or members
  std::string trade;       // a noun
};

/// What a page keeps coming back to.
struct Topic {
  const Entity* subject;
  std::vector<const Entity*> cast;  // the entities it links to
  std::vector<bool> introduced;     // whether `cast[i]` was linked already
  std::vector<std::string> nouns;   // its own vocabulary
  std::string motto;                // a phrase quoted several times word for word
  std::vector<std::string> sources;
  std::vector<bool> cited;
};

class Encyclopedia {
 public:
  explicit Encyclopedia(std::uint64_t seed)
      : random_(seed),
        determiners_{make_words(12, 1, 1, 1), Zipf(12)},
        prepositions_{make_words(18, 1, 1, 1), Zipf(18)},
        conjunctions_{make_words(8, 1, 1, 1), Zipf(8)},
        auxiliaries_{make_words(8, 1, 1, 1), Zipf(8)},
        nouns_{make_words(6000, 1, 3, 300), Zipf(6000, 8)},
        verbs_{make_words(1800, 1, 2, 120), Zipf(1800, 6)},
        adjectives_{make_words(2500, 1, 3, 150), Zipf(2500, 6)},
        users_{make_words(400, 2, 3, 0), Zipf(400)},
        fame_(entity_count, 12) {
    make_entities();
  }

  std::vector<std::uint8_t> write(std::size_t size) {
    text_.reserve(size + (1 << 16));
    write_header();
    for (std::size_t page = 0; text_.size() < size; ++page) {
      write_page(entities_[page % entities_.size()]);
    }
    return {text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(size)};
  }

 private:
  static constexpr std::size_t entity_count = 2400;

  /// `count` words, of which the first, frequent ones have the fewest syllables.
  std::vector<std::string> make_words(std::size_t count, std::size_t fewest, std::size_t most,
                                      std::size_t short_ones) {
    std::vector<std::string> words;
    words.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      words.push_back(i < short_ones ? maker_.make(random_, fewest, fewest + 1)
                                     : maker_.make(random_, fewest, most));
    }
    return words;
  }

  void make_entities() {
    std::vector<std::string> first_names;
    std::vector<std::string> last_names;
    for (std::string& word : make_words(160, 1, 2, 0)) {
      first_names.push_back(capitalised(std::move(word)));
    }
    for (std::string& word : make_words(900, 2, 3, 0)) {
      last_names.push_back(capitalised(std::move(word)));
    }
    const Zipf first_name(first_names.size(), 5);
    static constexpr std::array<std::string_view, 8> endings{"ton",  "burg",  "ia",   "stad",
                                                             "mont", "ville", "more", "ford"};
    // Page order is the order of this list; fame is drawn over another one, so that famous entities
    // are spread over the book.
    for (std::size_t i = 0; i < entity_count; ++i) {
      Entity entity{};
      const std::size_t kind = random_.below(10);
      entity.kind = kind < 4 ? Kind::person : kind < 7 ? Kind::place : Kind::thing;
      if (entity.kind == Kind::person) {
        entity.name = first_names[first_name.draw(random_)];
        if (random_.chance(20)) {
          entity.name += ' ';
          entity.name += static_cast<char>('A' + random_.below(26));
          entity.name += '.';
        }
        entity.short_name = random_.pick(last_names);
        entity.name += ' ' + entity.short_name;
      } else if (entity.kind == Kind::place) {
        entity.name = capitalised(maker_.make(random_, 1, 2));
        entity.name += endings[random_.below(endings.size())];
        entity.short_name = entity.name;
      } else {
        entity.name = capitalised(adjectives_.draw(random_)) + ' ';
        entity.name += nouns_.draw(random_);
        if (random_.chance(30)) {
          entity.name += " (" + nouns_.draw(random_) + ')';
        }
        entity.short_name = entity.name.substr(0, entity.name.find(" ("));
      }
      entity.from = draw_date(random_, 1200, 1960);
      entity.until = draw_date(random_, entity.from.year + 20, entity.from.year + 85);
      entity.home = random_.below(entity_count);
      const std::size_t scale = random_.chance(50) ? 1000 : 90;
      entity.number = random_.between(100, 999) * scale;
      entity.number += random_.below(scale);
      entity.trade = nouns_.draw(random_);
      entities_.push_back(std::move(entity));
    }
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < entity_count; ++i) {
      if (entities_[i].kind == Kind::place) {
        places.push_back(i);
      }
      famous_.push_back(i);
    }
    for (Entity& entity : entities_) {
      entity.home = places[entity.home % places.size()];
    }
    for (std::size_t i = entity_count - 1; i > 0; --i) {
      std::swap(famous_[i], famous_[random_.below(i + 1)]);
    }
  }

  const Entity& home_of(const Entity& entity) const { return entities_[entity.home]; }

  void write_header() {
    text_ +=
        "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.3/\" version=\"0.3\" "
        "xml:lang=\"en\">\n  <siteinfo>\n    <sitename>Made-up encyclopedia</sitename>\n"
        "    <case>first-letter</case>\n  </siteinfo>\n";
  }

  // ---- sentences -----------------------------------------------------------------------------

  /// One of the cast: as a link when new on this page, mostly by its short name later.
  std::string mention(Topic& topic) {
    if (random_.chance(25)) {
      return topic.subject->short_name;
    }
    // The first of the cast are met more often than the last.
    const std::size_t one = random_.below(topic.cast.size());
    const std::size_t two = random_.below(topic.cast.size());
    const std::size_t chosen = std::min(one, two);
    const Entity& entity = *topic.cast[chosen];
    if (!topic.introduced[chosen]) {
      topic.introduced[chosen] = true;
      return entity.name == entity.short_name || random_.chance(60)
                 ? "[[" + entity.name + "]]"
                 : "[[" + entity.name + "|" + entity.short_name + "]]";
    }
    return random_.chance(10) ? "[[" + entity.name + "]]" : entity.short_name;
  }

  std::string noun(const Topic& topic) {
    std::string word = random_.chance(45) ? random_.pick(topic.nouns) : nouns_.draw(random_);
    if (random_.chance(25)) {
      word += word.back() == 's' || word.back() == 'x' ? "es" : "s";
    }
    return word;
  }

  std::string noun_phrase(Topic& topic) {
    if (random_.chance(28)) {
      return mention(topic);
    }
    std::string phrase = determiners_.draw(random_) + ' ';
    if (random_.chance(35)) {
      phrase += adjectives_.draw(random_) + ' ';
    }
    std::string word = noun(topic);
    const std::size_t dress = random_.below(100);
    if (dress < 6) {
      word = "[[" + word + "]]";
    } else if (dress < 10) {
      word = "''" + word + "''";
    }
    return phrase + word;
  }

  std::string verb_phrase() {
    const std::string& stem = verbs_.draw(random_);
    const std::size_t form = random_.below(10);
    if (form < 4) {
      return stem + (stem.back() == 'e' ? "d" : "ed");
    }
    if (form < 6) {
      return stem + 's';
    }
    std::string phrase = auxiliaries_.draw(random_) + ' ';
    if (random_.chance(20)) {
      phrase += adjectives_.draw(random_) + "ly ";
    }
    return phrase + stem;
  }

  std::string clause(Topic& topic) {
    std::string words = noun_phrase(topic) + ' ';
    words += verb_phrase() + ' ';
    words += noun_phrase(topic);
    while (random_.chance(38)) {
      words += ' ' + prepositions_.draw(random_) + ' ';
      words += noun_phrase(topic);
    }
    return words;
  }

  /// One of the page's sources: in full the first time, by its name afterwards.
  std::string citation(Topic& topic) {
    const std::size_t chosen = random_.below(topic.sources.size());
    const std::string name = "&lt;ref name=&quot;" + topic.sources[chosen] + "&quot;";
    if (topic.cited[chosen]) {
      return name + " /&gt;";
    }
    topic.cited[chosen] = true;
    std::string title = capitalised(noun(topic)) + ' ';
    title += prepositions_.draw(random_) + ' ';
    title += noun(topic);
    const std::string number = std::to_string(random_.between(100, 9999));
    const std::string year = std::to_string(random_.between(1950, 2005));
    return name + "&gt;[http://www." + topic.sources[chosen] + ".org/" + number + ".html ''" +
           title + "''], " + year + "&lt;/ref&gt;";
  }

  std::string sentence(Topic& topic) {
    const Entity& subject = *topic.subject;
    const std::size_t kind = random_.below(100);
    std::string words;
    if (kind < 5) {
      words = "In [[" + std::to_string(random_.chance(60) ? subject.from.year : subject.until.year);
      words += "]] " + clause(topic);
    } else if (kind < 9) {
      words = clause(topic) + ": &quot;" + topic.motto + "&quot;";
    } else if (kind < 12) {
      words = subject.short_name + ' ' + verb_phrase() + ' ';
      words += prepositions_.draw(random_) + " [[" + home_of(subject).name + "]]";
    } else if (kind < 15) {
      words = clause(topic) + " (" + std::to_string(subject.number) + ' ' + subject.trade + "s)";
    } else if (kind < 40) {
      words = clause(topic) + ", ";
      words += conjunctions_.draw(random_) + ' ';
      words += clause(topic);
    } else {
      words = clause(topic);
    }
    words = capitalised(std::move(words)) + '.';
    if (random_.chance(7)) {
      words += citation(topic);
    }
    return words;
  }

  void write_paragraph(Topic& topic) {
    const std::size_t sentences = random_.between(2, 6);
    for (std::size_t i = 0; i < sentences; ++i) {
      text_ += (i == 0 ? "" : " ") + sentence(topic);
    }
    text_ += "\n\n";
  }

  // ---- pages ---------------------------------------------------------------------------------

  Topic draw_topic(const Entity& subject) {
    Topic topic{};
    topic.subject = &subject;
    topic.cast.push_back(&home_of(subject));
    const std::size_t others = random_.between(5, 10);
    while (topic.cast.size() < others) {
      const Entity* entity = &entities_[famous_[fame_.draw(random_)]];
      if (entity != &subject &&
          std::find(topic.cast.begin(), topic.cast.end(), entity) == topic.cast.end()) {
        topic.cast.push_back(entity);
      }
    }
    topic.introduced.assign(topic.cast.size(), false);
    topic.nouns.push_back(subject.trade);
    while (topic.nouns.size() < 14) {
      topic.nouns.push_back(random_.pick(nouns_.words));
    }
    const std::size_t length = random_.between(4, 8);
    for (std::size_t i = 0; i < length; ++i) {
      topic.motto += (i == 0 ? "" : " ") +
                     (random_.chance(50) ? random_.pick(topic.nouns) : adjectives_.draw(random_));
    }
    const std::size_t sources = random_.between(2, 4);
    for (std::size_t i = 0; i < sources; ++i) {
      topic.sources.push_back(nouns_.draw(random_));
    }
    topic.cited.assign(sources, false);
    return topic;
  }

  void write_page_head(const std::string& title) {
    page_id_ += random_.between(1, 4);
    const std::string indent = "      ";
    text_ += "  <page>\n    <title>" + title + "</title>\n    <id>" + std::to_string(page_id_) +
             "</id>\n    <revision>\n" + indent + "<id>" +
             std::to_string(random_.between(15'000'000, 42'000'000)) + "</id>\n";
    const Date date = draw_date(random_, 2002, 2006);
    text_ += indent + "<timestamp>" + std::to_string(date.year) + '-' + padded(date.month + 1) +
             '-' + padded(date.day) + 'T';
    text_ += padded(random_.below(24)) + ':';
    text_ += padded(random_.below(60)) + ':';
    text_ += padded(random_.below(60)) + "Z</timestamp>\n" + indent + "<contributor>\n";
    const std::size_t user = users_.frequency.draw(random_);
    text_ += indent + "  <username>" + capitalised(users_.words[user]) + "</username>\n" + indent +
             "  <id>" + std::to_string(1000 + user * 137) + "</id>\n" + indent + "</contributor>\n";
    if (random_.chance(30)) {
      text_ += indent + "<minor />\n";
    }
    if (random_.chance(50)) {
      text_ += indent + "<comment>" + verbs_.draw(random_) + ' ';
      text_ += nouns_.draw(random_) + "</comment>\n";
    }
    text_ += indent + "<text xml:space=\"preserve\">";
  }

  void write_page_foot() { text_ += "</text>\n    </revision>\n  </page>\n"; }

  void write_redirect(const Entity& target) {
    write_page_head(capitalised(maker_.make(random_, 2, 3)));
    text_ += "#REDIRECT [[" + target.name + "]]";
    write_page_foot();
  }

  void write_infobox(const Entity& subject) {
    const std::string& home = home_of(subject).name;
    if (subject.kind == Kind::person) {
      text_ += "{{Infobox Biography\n| name = " + subject.name +
               "\n| date of birth = " + subject.from.linked() + "\n| place of birth = [[" + home +
               "]]\n| date of death = " + subject.until.linked() +
               "\n| occupation = " + subject.trade + "\n}}\n";
    } else if (subject.kind == Kind::place) {
      text_ += "{{Infobox City\n| name = " + subject.name +
               "\n| founded = " + subject.from.linked() +
               "\n| population = " + std::to_string(subject.number) + "\n| region = [[" + home +
               "]]\n}}\n";
    }
  }

  void write_introduction(Topic& topic) {
    const Entity& subject = *topic.subject;
    const std::string& home = home_of(subject).name;
    text_ += "'''" + subject.name + "'''";
    if (subject.kind == Kind::person) {
      text_ += " (" + subject.from.linked() + " &amp;ndash; " + subject.until.linked() + ") ";
    } else {
      text_ += ' ';
    }
    text_ += auxiliaries_.words[0] + ' ' + determiners_.words[0] + ' ' + adjectives_.draw(random_) +
             " [[" + subject.trade + "]] " + prepositions_.words[0] + " [[" + home + "]]. ";
    write_paragraph(topic);
  }

  void write_list(Topic& topic) {
    const std::size_t items = random_.between(3, 8);
    for (std::size_t i = 0; i < items; ++i) {
      text_ += "* " + (random_.chance(50) ? mention(topic) : "[[" + noun(topic) + "]]");
      if (random_.chance(60)) {
        text_ += ", " + clause(topic);
      }
      text_ += '\n';
    }
    text_ += '\n';
  }

  void write_table(Topic& topic) {
    text_ += "{| class=&quot;wikitable&quot;\n! " + capitalised(noun(topic)) + " !! ";
    text_ += capitalised(noun(topic)) + " !! ";
    text_ += capitalised(noun(topic)) + '\n';
    const std::size_t rows = random_.between(2, 6);
    for (std::size_t i = 0; i < rows; ++i) {
      text_ += "|-\n| " + mention(topic) + " || ";
      text_ += std::to_string(random_.between(1, 999)) + " || ";
      text_ += noun(topic) + '\n';
    }
    text_ += "|}\n\n";
  }

  void write_section(Topic& topic) {
    std::string title = capitalised(noun(topic));
    if (random_.chance(40)) {
      title += ' ' + prepositions_.draw(random_) + ' ';
      title += noun(topic);
    }
    text_ += "==" + title + "==\n";
    if (random_.chance(15)) {
      text_ += "{{main|" + topic.cast[random_.below(topic.cast.size())]->name + "}}\n";
    }
    const std::size_t paragraphs = random_.between(1, 3);
    for (std::size_t i = 0; i < paragraphs; ++i) {
      write_paragraph(topic);
    }
    const std::size_t extra = random_.below(100);
    if (extra < 22) {
      write_list(topic);
    } else if (extra < 30) {
      write_table(topic);
    } else if (extra < 40) {
      text_ += "===" + capitalised(noun(topic)) + "===\n";
      write_paragraph(topic);
    }
  }

  /// The end of a page comes back to what was said before: the cast, the sources, the facts.
  void write_end(const Topic& topic) {
    const Entity& subject = *topic.subject;
    text_ += "==See also==\n";
    for (const Entity* entity : topic.cast) {
      text_ += "* [[" + entity->name + "]]\n";
    }
    text_ += "\n==External links==\n";
    for (const std::string& source : topic.sources) {
      text_ += "* [http://www." + source + ".org/ " + subject.name + " " + prepositions_.words[1] +
               " " + source + "]\n";
    }
    text_ +=
        "\n{{" + topic.nouns[1] + "-stub}}\n\n[[Category:" + capitalised(subject.trade) + "s]]\n";
    if (subject.kind == Kind::person) {
      text_ += "[[Category:" + std::to_string(subject.from.year) + " births|" + subject.short_name +
               "]]\n[[Category:" + std::to_string(subject.until.year) + " deaths|" +
               subject.short_name + "]]\n";
    } else {
      text_ += "[[Category:" + home_of(subject).name + "]]\n";
    }
    text_ += "\n[[de:" + subject.name + "]]\n[[fr:L'" + subject.name +
             "]]\n[[sv:" + subject.short_name + "\xc3\xb6]]";
  }

  void write_page(const Entity& subject) {
    if (random_.chance(12)) {
      write_redirect(subject);
    }
    Topic topic = draw_topic(subject);
    write_page_head(subject.name);
    write_infobox(subject);
    write_introduction(topic);
    // Most pages are short and a few are long, as in a real encyclopedia.
    std::size_t sections = random_.between(0, 3);
    if (random_.chance(30)) {
      sections += random_.between(2, 9);
    }
    for (std::size_t i = 0; i < sections; ++i) {
      write_section(topic);
    }
    write_end(topic);
    write_page_foot();
  }

  // The order of these members is the order in which they draw.
  Generator random_;
  WordMaker maker_;
  WordClass determiners_;
  WordClass prepositions_;
  WordClass conjunctions_;
  WordClass auxiliaries_;
  WordClass nouns_;
  WordClass verbs_;
  WordClass adjectives_;
  WordClass users_;
  Zipf fame_;
  std::vector<Entity> entities_;
  std::vector<std::size_t> famous_;  // indices into entities_, the most linked first
  std::size_t page_id_ = 0;
  std::string text_;
};

}  // namespace

std::vector<std::uint8_t> generate_corpus(std::uint64_t seed, std::size_t size) {
  return Encyclopedia(seed).write(size);
}

}  // namespace enwik8
