// SPDX-License-Identifier: MIT
/// @file
/// The model of text, which may begin with one of HuggingFace.
#pragma once

#include <cstdint>
#include <vector>

#include "options.hpp"
#include "training/checkpoint.hpp"
#include "training/token_model.hpp"

namespace enwik8 {

using training::Checkpoint;
using training::TokenModel;

/// Of a model of bytes.
inline constexpr std::int64_t vocabulary = 256;

/// Completes the options of a run that begins with the model in the folder `options.init`: what
/// describes the model is taken from its config, with the options that may differ from it, into
/// `options.model_config` and, to be shown, into the other options.
/// @param tokens  of the data's vocabulary
/// @throw OptionError for options that do not go with the model, std::runtime_error when the folder
///   cannot be read
void begin_with_model(Options& options, std::int64_t tokens);

/// The options with which the run of a checkpoint was made.
/// @throw std::runtime_error when the checkpoint is of something else
Options saved_options(const Checkpoint& checkpoint);

/// Has a model that was trained hash in another way: nothing that is learned has a size that
/// depends on it.
/// @param hashes,buckets,chunk_length  0: as it was trained
/// @throw OptionError for values that mean nothing
void change_hashing(Options& saved, std::int64_t hashes,
                    const std::vector<std::int64_t>& buckets = {0}, std::int64_t chunk_length = 0);

}  // namespace enwik8
