// SPDX-License-Identifier: MIT
#include "toml.hpp"

#include <fmt/format.h>

#include <cmath>
#include <sstream>
#include <stdexcept>

#ifdef TRAINING_WITH_TOML
#include <toml++/toml.h>
#endif

namespace training {

#ifdef TRAINING_WITH_TOML

namespace {

nlohmann::json json_of(const toml::node& node) {
  if (const toml::table* table = node.as_table()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [key, value] : *table) {
      object[std::string(key.str())] = json_of(value);
    }
    return object;
  }
  if (const toml::array* array = node.as_array()) {
    nlohmann::json list = nlohmann::json::array();
    for (const toml::node& value : *array) {
      list.push_back(json_of(value));
    }
    return list;
  }
  if (const auto* text = node.as_string()) {
    return text->get();
  }
  if (const auto* whole = node.as_integer()) {
    return whole->get();
  }
  if (const auto* is_true = node.as_boolean()) {
    return is_true->get();
  }
  if (const auto* number = node.as_floating_point()) {
    return std::isfinite(number->get()) ? nlohmann::json(number->get())
                                        : nlohmann::json(fmt::format("{}", number->get()));
  }
  std::ostringstream text;
  if (const auto* date = node.as_date()) {
    text << *date;
  } else if (const auto* time = node.as_time()) {
    text << *time;
  } else if (const auto* both = node.as_date_time()) {
    text << *both;
  }
  return text.str();
}

}  // namespace

nlohmann::json parse_toml(const std::string& text) {
  try {
    return json_of(toml::parse(text));
  } catch (const toml::parse_error& error) {
    throw std::runtime_error(
        fmt::format("line {}: {}", error.source().begin.line, error.description()));
  }
}

#else

nlohmann::json parse_toml(const std::string&) {
  throw std::runtime_error(
      "this program was built without toml++, which it takes (Debian: libtomlplusplus-dev)");
}

#endif

}  // namespace training
