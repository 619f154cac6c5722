// SPDX-License-Identifier: MIT
/// @file
/// Text from a model.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "model_io.hpp"
#include "sampling.hpp"

namespace enwik8 {

/// Continues `prompt`, byte by byte.
/// @param prompt  at least one byte
/// @param seed  byte i of the text is drawn with number i of this seed
/// @param each  is given each byte at once; what it throws ends the text
void generate_text(ByteModel& model, std::span<const std::uint8_t> prompt, std::int64_t length,
                   const SamplingOptions& sampling, std::uint64_t seed,
                   const std::function<void(std::uint8_t)>& each);

}  // namespace enwik8
