// SPDX-License-Identifier: MIT
#include "plot.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <vector>

namespace training {
namespace {

namespace fs = std::filesystem;

/// A string in gnuplot's single quotes, in which only these mean anything.
std::string in_quotes(std::string_view text) {
  std::string result = "'";
  for (const char c : text) {
    result += c == '\'' ? "''" : std::string(1, c == '\n' ? ' ' : c);
  }
  return result + "'";
}

void add_curve(std::string& data, std::vector<std::string>& curves,
               const std::vector<CurvePoint>& points, PlotAxis axis, const std::string& name,
               const std::string& style) {
  if (points.empty()) {
    return;
  }
  const auto number = curves.size();
  data += fmt::format("$curve{} << EOD\n", number);
  for (const CurvePoint& point : points) {
    data += axis == PlotAxis::steps ? fmt::format("{} {}\n", point.step, point.bits)
                                    : fmt::format("{} {}\n", point.seconds / 60, point.bits);
  }
  data += "EOD\n";
  curves.push_back(fmt::format("$curve{} using 1:2 {} title {}", number, style, in_quotes(name)));
}

/// A picture that is not whole, which goes away whatever happens.
struct Draft {
  fs::path drawing;

  ~Draft() {
    std::error_code ignored;
    fs::remove(drawing, ignored);
  }
};

}  // namespace

std::string plot_script(const fs::path& picture, std::span<const RunRecord> runs,
                        const std::string& unit, PlotAxis axis) {
  const bool is_svg = picture.extension() == ".svg";
  if (!is_svg && picture.extension() != ".png") {
    throw std::runtime_error(fmt::format(
        "the picture is '{}'; allowed: a name that ends in .svg or .png", picture.string()));
  }
  std::string data;
  std::vector<std::string> curves;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto color = i + 1;
    add_curve(data, curves, runs[i].train, axis, runs[i].name + ", training",
              fmt::format("with lines lw 1 lc {}", color));
    add_curve(data, curves, runs[i].validation, axis, runs[i].name + ", validation",
              fmt::format("with linespoints lw 2 pt 7 ps 0.6 lc {}", color));
  }
  if (curves.empty()) {
    throw std::runtime_error("there is nothing to draw: no run has a record of a loss yet");
  }
  return fmt::format(
      "set terminal {} size 760,440 font 'sans,12' background 'white' noenhanced\n"
      "set output {}\n"
      "set xlabel {}\nset ylabel {}\nset grid\nset key below\n"
      "{}plot {}\n",
      is_svg ? "svg" : "pngcairo", in_quotes(picture.string()),
      axis == PlotAxis::steps ? "'steps'" : "'minutes'", in_quotes(unit), data,
      fmt::join(curves, ", \\\n  "));
}

bool can_plot() {
  return std::system("gnuplot --version > /dev/null 2>&1") == 0;
}

void plot(const fs::path& picture, std::span<const RunRecord> runs, const std::string& unit,
          PlotAxis axis) {
  Draft draft;
  const fs::path drawing =
      fs::path(picture).replace_filename(".drawing-" + picture.filename().string());
  const std::string script = plot_script(drawing, runs, unit, axis);
  draft.drawing = drawing;
  if (!can_plot()) {
    throw std::runtime_error("drawing needs gnuplot, which is not there (Debian: gnuplot-nox)");
  }
  std::FILE* gnuplot = ::popen("gnuplot > /dev/null 2>&1", "w");
  if (gnuplot == nullptr) {
    throw std::runtime_error("gnuplot cannot be started");
  }
  const bool is_written = std::fwrite(script.data(), 1, script.size(), gnuplot) == script.size();
  std::error_code error;
  if (::pclose(gnuplot) != 0 || !is_written || fs::file_size(drawing, error) == 0 || error) {
    throw std::runtime_error(
        fmt::format("gnuplot could not draw '{}'; is its folder writable?", picture.string()));
  }
  fs::rename(drawing, picture, error);
  if (error) {
    throw std::runtime_error(
        fmt::format("cannot write '{}': {}", picture.string(), error.message()));
  }
}

}  // namespace training
