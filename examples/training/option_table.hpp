// SPDX-License-Identifier: MIT
/// @file
/// Tables of options: each option of a program is described once, in a row that serves the command
/// line, the help, the header of metrics.jsonl, the checkpoint and the comparison of the two on
/// `--resume`.
///
/// A row reads and shows a member of a struct, such as `Options`. Rows of a struct are rows of
/// those derived from it, too.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace training {

/// A bad option. `what()` is one line: which option, which value, what is allowed. Exit code 2.
class OptionError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// @throw OptionError
[[noreturn]] void refuse(const std::string& name, const std::string& value,
                         const std::string& allowed);

/// One option of a struct of options.
template <typename Values>
struct Option {
  std::string name;     ///< without the dashes
  std::string metavar;  ///< what its value is called in the help; empty for a flag
  std::string group;    ///< heading in the help
  std::string help;
  bool fixed;  ///< whether it belongs to the model and its training, and cannot change on resume
  std::function<void(Values&, const std::string&)> set;  ///< throws OptionError
  std::function<nlohmann::json(const Values&)> get;

  /// Whether it is to be kept: flags ask for something once, and what a file of options says is in
  /// the other options.
  bool is_setting() const { return !metavar.empty() && name != "config"; }
};

template <typename Values>
using Table = std::vector<Option<Values>>;

template <typename Values>
const Option<Values>* find_option(const Table<Values>& table, const std::string& name) {
  const auto found = std::find_if(table.begin(), table.end(), [&](const Option<Values>& option) {
    return option.name == name;
  });
  return found == table.end() ? nullptr : &*found;
}

// ---- values

/// Reads all of `text` as a whole number, or nothing.
std::optional<std::int64_t> to_whole(std::string_view text);
std::optional<std::uint64_t> to_unsigned(std::string_view text);
/// Reads all of `text` as a decimal number such as -1, .5 or 2e-4, or nothing.
std::optional<double> to_real(const std::string& text);
std::vector<std::string> split_list(const std::string& text, char separator = ',');
/// A value as one would write it on the command line.
std::string as_text(const nlohmann::json& value);

inline constexpr std::int64_t whole_limit = 1'000'000'000'000;
/// Of steps, sizes in lists, positions at once, and heads times their width.
inline constexpr std::int64_t size_limit = 2'147'483'647;
inline constexpr double most_minutes = 10'000'000;  // 19 years
inline constexpr double infinity = std::numeric_limits<double>::infinity();

/// Collects options, one call each. Every kind of value is read, shown and refused here.
template <typename Values>
class TableBuilder {
 public:
  Table<Values> table;

  /// What the options after it have in common: the heading, and whether they are fixed.
  void group(std::string name, bool fixed) {
    group_ = std::move(name);
    fixed_ = fixed;
  }

  /// All options of a struct that `Values` is derived from.
  template <typename Base>
  void add_all(const Table<Base>& base) {
    for (const Option<Base>& option : base) {
      table.push_back({option.name, option.metavar, option.group, option.help, option.fixed,
                       option.set, option.get});
    }
  }

  void whole(std::string name, std::int64_t Values::*member, std::int64_t low, std::string help,
             std::int64_t high = whole_limit) {
    const std::string allowed = high == whole_limit
                                    ? fmt::format("a whole number from {}", low)
                                    : fmt::format("a whole number from {} to {}", low, high);
    add(
        name, "N", help,
        [=](Values& values, const std::string& text) {
          const auto number = to_whole(text);
          if (!number || *number < low || *number > high) {
            refuse(name, text, allowed);
          }
          values.*member = *number;
        },
        member);
  }

  void seed(std::string name, std::uint64_t Values::*member, std::string help) {
    add(
        name, "N", help,
        [=](Values& values, const std::string& text) {
          const auto number = to_unsigned(text);
          if (!number) {
            refuse(name, text, "a whole number from 0 to 18446744073709551615");
          }
          values.*member = *number;
        },
        member);
  }

  /// @param low_included,high_included  whether the limits themselves are allowed
  void real(std::string name, double Values::*member, double low, bool low_included, double high,
            bool high_included, std::string help) {
    std::string allowed = fmt::format("a number {} {}", low_included ? "from" : "above", low);
    allowed += std::isfinite(high) ? fmt::format(" {} {}",
                                                 !high_included ? "and below"
                                                 : low_included ? "to"
                                                                : "and up to",
                                                 high)
                                   : ", in the range of float";
    add(
        name, "X", help,
        [=](Values& values, const std::string& text) {
          const auto number = to_real(text);
          // Most become floats, in which a tiny number is zero and a huge one infinite.
          const auto as_float = number ? static_cast<double>(static_cast<float>(*number)) : 0;
          const bool good =
              number && std::isfinite(as_float) &&
              (low_included ? *number >= low
                            : as_float >= double{std::numeric_limits<float>::min()}) &&
              (high_included ? *number <= high : *number < high);
          if (!good) {
            refuse(name, text, allowed);
          }
          values.*member = *number;
        },
        member);
  }

  void text(std::string name, std::string metavar, std::string Values::*member, std::string help,
            bool may_be_empty = false) {
    add(
        name, metavar, help,
        [=](Values& values, const std::string& given) {
          if (given.empty() && !may_be_empty) {
            refuse(name, given, "a name that is not empty");
          }
          values.*member = given;
        },
        member);
  }

  void choice(std::string name, std::string Values::*member, std::vector<std::string> allowed,
              std::string help) {
    help += fmt::format(": {}", fmt::join(allowed, ", "));
    add(
        name, "NAME", help,
        [=](Values& values, const std::string& given) {
          if (std::find(allowed.begin(), allowed.end(), given) == allowed.end()) {
            refuse(name, given, fmt::format("{}", fmt::join(allowed, ", ")));
          }
          values.*member = given;
        },
        member);
  }

  /// @param are_joined  each word of the list may be several of the allowed ones, joined by +
  void choices(std::string name, std::vector<std::string> Values::*member,
               std::vector<std::string> allowed, std::string help, bool are_joined = false) {
    add_list(
        name, "LIST", help,
        [=](Values& values, const std::string& given) {
          std::vector<std::string> parts = split_list(given);
          for (const std::string& part : parts) {
            for (const std::string& word : are_joined ? split_list(part, '+') : std::vector{part}) {
              if (std::find(allowed.begin(), allowed.end(), word) == allowed.end()) {
                refuse(name, given,
                       fmt::format("a comma list of {}{}", fmt::join(allowed, ", "),
                                   are_joined ? ", or of some joined by +" : ""));
              }
            }
          }
          values.*member = std::move(parts);
        },
        member);
  }

  /// A comma list of sizes; a single 0 stands for a rule.
  void wholes(std::string name, std::vector<std::int64_t> Values::*member, std::string help) {
    add_list(
        name, "LIST", help,
        [=](Values& values, const std::string& given) {
          std::vector<std::int64_t> numbers;
          for (const std::string& part : split_list(given)) {
            const auto number = to_whole(part);
            if (!number || *number < 1 || *number > size_limit) {
              if (given == "0") {
                numbers.push_back(0);
                break;
              }
              refuse(name, given,
                     fmt::format("a comma list of whole numbers from 1 to {}, or 0", size_limit));
            }
            numbers.push_back(*number);
          }
          values.*member = std::move(numbers);
        },
        member);
  }

  void flag(std::string name, bool Values::*member, std::string help) {
    add(
        name, "", help,
        [=](Values& values, const std::string& text) { values.*member = text == "true"; }, member);
  }

 private:
  template <typename T>
  void add(const std::string& name, const std::string& metavar, const std::string& help,
           std::function<void(Values&, const std::string&)> set, T Values::*member) {
    table.push_back({name, metavar, group_, help, fixed_, std::move(set),
                     [member](const Values& values) { return nlohmann::json(values.*member); }});
  }

  /// A list is one word, "local,lsh", in JSON as on the command line.
  template <typename T>
  void add_list(const std::string& name, const std::string& metavar, const std::string& help,
                std::function<void(Values&, const std::string&)> set,
                std::vector<T> Values::*member) {
    table.push_back(
        {name, metavar, group_, help, fixed_, std::move(set), [member](const Values& values) {
           return nlohmann::json(fmt::format("{}", fmt::join(values.*member, ",")));
         }});
  }

  std::string group_;
  bool fixed_ = false;
};

// ---- command lines

/// The outcome of reading a command line: options, or the text that `--help` asks for.
template <typename Values>
struct Parsed {
  Values options;
  std::string help;  ///< not empty when help was asked for; `options` are the defaults then
};

/// An option as a command line and its help know it.
struct OptionText {
  std::string name;
  std::string metavar;
  std::string group;
  std::string help;
  std::string shown;  ///< the default, in brackets, if it is worth showing
};

/// The values of a command line as they were written, "true" for flags and `--help`.
using Given = std::map<std::string, std::string>;

/// Reads a command line, without looking at the values.
/// @param rest  receives what is no option; null: that is an error
/// @throw OptionError
Given read_command_line(const std::vector<std::string>& arguments,
                        const std::vector<OptionText>& options,
                        std::vector<std::string>* rest = nullptr);
std::string help_text(const std::string& program, const std::string& description,
                      const std::vector<OptionText>& options);

/// The same with the defaults in `values`.
template <typename Values>
std::vector<OptionText> texts_of(const Table<Values>& table, const Values& values) {
  std::vector<OptionText> texts;
  for (const Option<Values>& option : table) {
    std::string shown;
    if (option.is_setting()) {
      shown = as_text(option.get(values));
      // An inactive limit has no default worth showing.
      if ((option.name == "minutes" || option.name == "steps") && shown == "0") {
        shown.clear();
      }
    }
    texts.push_back({option.name, option.metavar, option.group, option.help, std::move(shown)});
  }
  return texts;
}

/// Puts the values of a command line over `options`.
/// @param from_file  names that are not on the command line, but in a file of options: one such as
///   that of a run may have all, so what is so anyway is not taken for given
template <typename Values>
void apply(const Given& given, const Table<Values>& table, Values& options,
           const std::set<std::string>& from_file = {}) {
  for (const auto& [name, text] : given) {
    if (const Option<Values>* option = find_option(table, name)) {
      const nlohmann::json before = option->get(options);
      option->set(options, text);
      if (!from_file.contains(name) || option->get(options) != before) {
        options.given.insert(name);
      }
    }
  }
}

/// Reads the command line of a program that has no presets.
/// @param rest  the member for what is no option; null: that is an error
template <typename Values>
Parsed<Values> parse_plain(const std::vector<std::string>& arguments, const Table<Values>& table,
                           const std::string& program, const std::string& description,
                           std::vector<std::string> Values::*rest = nullptr) {
  Parsed<Values> parsed;
  const auto texts = texts_of(table, parsed.options);
  const Given given =
      read_command_line(arguments, texts, rest == nullptr ? nullptr : &(parsed.options.*rest));
  if (given.contains("help")) {
    parsed.help = help_text(program, description, texts);
  } else {
    apply(given, table, parsed.options);
  }
  return parsed;
}

}  // namespace training
