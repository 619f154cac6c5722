// SPDX-License-Identifier: MIT
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace training {

/// A TOML document as the JSON object of the same names and values. What JSON has no word for, such
/// as a date or infinity, becomes text.
/// @throw std::runtime_error that says in one line what is wrong, and on which line
nlohmann::json parse_toml(const std::string& text);

}  // namespace training
