// SPDX-License-Identifier: MIT
/// @file
/// Numbers, file names and bytes as they are shown to people.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace training {

/// "12,345,678"
std::string grouped(std::int64_t number);

/// A word for a shell, in quotes if it needs them.
std::string shell_word(const std::string& word);

/// Text that does no harm to a terminal: printable ASCII and line breaks stay, other bytes become
/// \xNN.
std::string printable(std::span<const std::uint8_t> bytes);

}  // namespace training
