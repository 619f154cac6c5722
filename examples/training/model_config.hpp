// SPDX-License-Identifier: MIT
/// @file
/// The configuration of the library's model that options stand for.
#pragma once

#include <cstdint>
#include <optional>

#include "options.hpp"
#include "reformer/io/huggingface_config.hpp"
#include "reformer/model/config.hpp"

namespace training {

/// The config of a model that was begun with `--init`.
std::optional<reformer::HuggingFaceConfig> huggingface_of(const Options& options);

/// @param options     complete
/// @param vocabulary  that of a model which is not HuggingFace's
reformer::ModelConfig config_of(const Options& options, std::int64_t vocabulary);

}  // namespace training
