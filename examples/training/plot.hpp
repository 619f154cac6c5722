// SPDX-License-Identifier: MIT
/// @file
/// Curves of runs as a picture, drawn by gnuplot.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "run_record.hpp"

namespace training {

/// What a curve runs over.
enum class PlotAxis { steps, minutes };

/// What gnuplot is told to draw: for each run the training curve, thin, and its validations, with
/// points.
/// @param unit  of the values, such as "bits per byte"
/// @throw std::runtime_error when `picture` does not end in .svg or .png, or no run has a point
std::string plot_script(const std::filesystem::path& picture, std::span<const RunRecord> runs,
                        const std::string& unit, PlotAxis axis);

/// Whether there is a gnuplot.
bool can_plot();

/// Draws it. The picture appears under its name when it is whole.
/// @throw std::runtime_error also when there is no gnuplot or it fails
void plot(const std::filesystem::path& picture, std::span<const RunRecord> runs,
          const std::string& unit, PlotAxis axis);

}  // namespace training
