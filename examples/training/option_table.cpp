// SPDX-License-Identifier: MIT
#include "option_table.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <locale>
#include <sstream>
#include <system_error>

namespace training {
namespace {

template <typename Number>
std::optional<Number> to_number(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return number;
}

/// A parser of `options` that stores what it finds in `given`.
void describe(CLI::App& app, const std::vector<OptionText>& options, Given& given) {
  const bool has_presets = std::any_of(options.begin(), options.end(),
                                       [](const auto& option) { return option.name == "preset"; });
  app.set_help_flag();
  app.add_flag_function(
         "-h,--help", [&given](std::int64_t) { given["help"] = "true"; },
         has_presets ? "show this text; with --preset, the defaults of that preset"
                     : "show this text")
      ->group("Help");
  app.allow_extras();
  for (const OptionText& option : options) {
    const std::string flags = "--" + option.name;
    const std::string name = option.name;
    if (option.metavar.empty()) {
      app.add_flag_function(
             flags, [&given, name](std::int64_t) { given[name] = "true"; }, option.help)
          ->group(option.group);
      continue;
    }
    app.add_option_function<std::string>(
           flags, [&given, name](const std::string& text) { given[name] = text; },
           option.help + (option.shown.empty() ? "" : fmt::format(" [{}]", option.shown)))
        ->type_name(option.metavar)
        ->group(option.group)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  app.get_formatter()->column_width(28);
}

bool is_flag(const std::string& word, const std::vector<OptionText>& options) {
  return word == "--help" || std::any_of(options.begin(), options.end(), [&](const auto& option) {
           return option.metavar.empty() && word == "--" + option.name;
         });
}

}  // namespace

void refuse(const std::string& name, const std::string& value, const std::string& allowed) {
  throw OptionError(fmt::format("--{} is '{}'; allowed: {}", name, value, allowed));
}

std::optional<std::int64_t> to_whole(std::string_view text) {
  return to_number<std::int64_t>(text);
}

std::optional<std::uint64_t> to_unsigned(std::string_view text) {
  return to_number<std::uint64_t>(text);
}

// libc++ has no
// `from_chars` of it before version 20; a stream takes other spellings too, and as much as it
// can, so the spelling is looked at first.
std::optional<double> to_real(const std::string& text) {
  std::size_t i = text.starts_with('-') ? 1 : 0;
  const auto digits = [&] {
    const std::size_t first = i;
    while (i < text.size() && text[i] >= '0' && text[i] <= '9') ++i;
    return i - first;
  };
  const std::size_t whole = digits();
  const std::size_t fraction = i < text.size() && text[i] == '.' ? (++i, digits()) : 0;
  const std::string mantissa = text.substr(0, i);
  bool good = whole + fraction > 0;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    ++i;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    good = good && digits() > 0;
  }
  if (!good || i != text.size()) {
    return std::nullopt;
  }
  std::istringstream stream(text);
  stream.imbue(std::locale::classic());
  double number = 0;
  // A number too small for any but 0 is refused as one too large is.
  if (!(stream >> number) ||
      (number == 0 && mantissa.find_first_of("123456789") != std::string::npos)) {
    return std::nullopt;
  }
  return number;
}

std::vector<std::string> split_list(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  for (;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) {
      return parts;
    }
    begin = end + 1;
  }
}

std::string as_text(const nlohmann::json& value) {
  return value.is_string()         ? value.get<std::string>()
         : value.is_number_float() ? fmt::format("{}", value.get<double>())  // 5, not 5.0
                                   : value.dump();
}

Given read_command_line(const std::vector<std::string>& arguments,
                        const std::vector<OptionText>& options, std::vector<std::string>* rest) {
  for (const std::string& argument : arguments) {
    const std::size_t end = argument.find('=');
    if (argument == "--") {
      break;
    }
    if (end != std::string::npos && is_flag(argument.substr(0, end), options)) {
      throw OptionError(argument.substr(0, end) + " takes no value; see --help");
    }
  }
  Given given;
  CLI::App app;
  describe(app, options, given);
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ArgumentMismatch& error) {
    // "--width: 1 required N missing"
    const std::string text = error.what();
    throw OptionError(text.substr(0, text.find(':')) + " needs a value; see --help");
  } catch (const CLI::ParseError& error) {
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    throw OptionError(text);
  }
  for (const std::string& word : app.remaining()) {
    const bool is_option = word.starts_with('-') && word != "-";
    if (rest == nullptr || is_option) {
      throw OptionError(fmt::format("unknown {} '{}'; see --help for those that are known",
                                    is_option ? "option" : "argument", word));
    }
    rest->push_back(word);
  }
  return given;
}

std::string help_text(const std::string& program, const std::string& description,
                      const std::vector<OptionText>& options) {
  Given ignored;
  CLI::App app(description, program);
  describe(app, options, ignored);
  return app.help();
}

}  // namespace training
