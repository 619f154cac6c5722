// SPDX-License-Identifier: MIT
/// @file
/// The presets of the trainer: complete sets of options for one purpose each.
#pragma once

#include <vector>

#include "options.hpp"

namespace enwik8 {

/// All presets, the default first; each is named by its `preset`.
const std::vector<Options>& presets();

}  // namespace enwik8
