// SPDX-License-Identifier: MIT
/// @file
/// Pictures drawn by a model, and grids of pictures.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "picture.hpp"
#include "picture_set.hpp"
#include "training/token_model.hpp"
#include "training/windows.hpp"

namespace images {

/// Values of colours.
inline constexpr std::int64_t vocabulary = 256;

/// Pictures as the model sees them: each value is predicted from those before it in raster order;
/// the first one, which has none, from a zero, as in the paper's code. So all values are predicted.
/// @param which  numbers of the pictures
training::Windows windows_of(const Pictures& pictures, const std::vector<std::int64_t>& which);

/// The values of the upper half, rounded down to whole rows.
std::int64_t upper_half(std::int64_t size);

/// Draws pictures that begin with `given` values of these, one after another: each has a state in
/// memory while it is drawn, and side by side they would be little faster.
/// @param begun  of the size of the model; for new pictures, blank ones with `given` 0
/// @param seed   picture i is drawn with the seed that is i steps from it
/// @param each   called after each value of each picture; what it throws ends the drawing
std::vector<Picture> draw(training::TokenModel& model, const std::vector<Picture>& begun,
                          std::int64_t given, double temperature, std::uint64_t seed,
                          const std::function<void()>& each);

/// Seconds that it takes to draw so many values of each of `count` pictures behind those that are
/// given, from a trial of a few.
double drawing_seconds(training::TokenModel& model, std::int64_t count, std::int64_t given,
                       std::int64_t drawn);

/// A grid on white, small pictures magnified. @param rows  of one size, as many in each row
Picture grid(const std::vector<std::vector<Picture>>& rows);

/// Pictures in rows, for a grid that is about twice as wide as high.
std::vector<std::vector<Picture>> in_rows(const std::vector<Picture>& pictures);

/// Completions of each picture.
inline constexpr std::int64_t alternatives = 3;

/// Draws the lower halves of pictures. @return a row for each: the picture, the upper half that was
/// given, and the completions
std::vector<std::vector<Picture>> completions_of(training::TokenModel& model,
                                                 const std::vector<Picture>& originals,
                                                 double temperature, std::uint64_t seed,
                                                 const std::function<void()>& each);

}  // namespace images
