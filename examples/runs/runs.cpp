// SPDX-License-Identifier: MIT
#include "runs.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "training/option_table.hpp"
#include "training/plot.hpp"
#include "training/progress.hpp"
#include "training/words.hpp"

namespace runs {
namespace {

using nlohmann::json;
using training::RunRecord;

using Row = std::vector<std::string>;

/// Columns as wide as what is in them; the first is flush left, the others right.
std::string aligned(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string text;
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += i == 0 ? fmt::format("{:<{}}", row[i], widths[i])
                     : fmt::format("  {:>{}}", row[i], widths[i]);
    }
    text += '\n';
  }
  return text;
}

std::string bits_text(const std::optional<double>& bits) {
  return bits ? fmt::format("{:.4f}", *bits) : "-";
}

/// The options of a run, with the precision that `auto` was.
json options_of(const RunRecord& run) {
  json options = run.header.value("options", json::object());
  if (const auto precision = run.header.find("precision"); precision != run.header.end()) {
    options["precision"] = *precision;
  }
  return options;
}

std::string option_text(const RunRecord& run, const std::string& name) {
  const json value = options_of(run).value(name, json());
  return value.is_null() ? "-" : training::as_text(value);
}

std::vector<std::string> names_that_differ(std::span<const RunRecord> runs) {
  std::set<std::string> names;
  for (const RunRecord& run : runs) {
    const json options = options_of(run);
    for (const auto& [name, value] : options.items()) {
      const std::string text = training::as_text(value);
      const auto differs = [&, &option = name](const RunRecord& other) {
        return option_text(other, option) != text;
      };
      if (name != "out" && std::any_of(runs.begin(), runs.end(), differs)) {
        names.insert(name);
      }
    }
  }
  return {names.begin(), names.end()};
}

/// "bits per byte", or what all of the runs count.
std::string unit_of(std::span<const RunRecord> runs) {
  std::set<std::string> units;
  for (const RunRecord& run : runs) {
    units.insert(run.header.value("unit", "bits per byte"));
  }
  return units.size() == 1 ? *units.begin() : "bits";
}

struct Arguments {
  std::vector<std::string> places;
  std::string picture;
  std::string axis = "steps";
};

}  // namespace

std::string table_of(std::span<const RunRecord> runs) {
  std::vector<Row> rows{{"run", "validation", "test", "steps", "minutes", "tokens", "tokens/s",
                         "parameters", "memory"}};
  for (const RunRecord& run : runs) {
    const std::vector<training::CurvePoint>& longest =
        run.train.empty() ? run.validation : run.train;
    const training::CurvePoint last = longest.empty() ? training::CurvePoint() : longest.back();
    rows.push_back({run.name, bits_text(run.validation_bits), bits_text(run.test_bits),
                    training::grouped(last.step), fmt::format("{:.1f}", last.seconds / 60),
                    training::grouped(run.tokens), fmt::format("{:.0f}", run.tokens_per_second),
                    training::grouped(run.header.value("parameters", std::int64_t{0})),
                    training::format_bytes(static_cast<std::size_t>(run.memory_bytes))});
  }
  std::string text = fmt::format("{} of each run\n\n{}", unit_of(runs), aligned(rows));
  if (const std::vector<std::string> names = names_that_differ(runs); !names.empty()) {
    rows.assign(1, {"option"});
    for (const RunRecord& run : runs) {
      rows[0].push_back(run.name);
    }
    for (const std::string& name : names) {
      rows.push_back({"--" + name});
      for (const RunRecord& run : runs) {
        rows.back().push_back(option_text(run, name));
      }
    }
    text += '\n' + aligned(rows);
  }
  return text;
}

int run_runs(const std::vector<std::string>& arguments, const training::Console& console) {
  return training::with_errors_reported("runs", console, [&] {
    Arguments given;
    CLI::App app("Runs of trainers beside one another.", "runs");
    app.add_option("RUN", given.places, "folder of a run, or its metrics.jsonl")->required();
    app.add_option("--plot", given.picture, "draw their curves into this file, .svg or .png")
        ->type_name("FILE");
    app.add_option("--axis", given.axis, "what the curves run over: steps, minutes")
        ->type_name("NAME")
        ->capture_default_str();
    try {
      app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    } catch (const CLI::CallForHelp&) {
      fmt::print(console.out, "{}", app.help());
      return training::exit_success;
    } catch (const CLI::ParseError& error) {
      throw training::OptionError(fmt::format("{}; see --help", error.what()));
    }
    if (given.axis != "steps" && given.axis != "minutes") {
      training::refuse("axis", given.axis, "steps, minutes");
    }
    const std::string kind = std::filesystem::path(given.picture).extension().string();
    if (app.count("--plot") > 0 && kind != ".svg" && kind != ".png") {
      training::refuse("plot", given.picture, "a file whose name ends with .svg or .png");
    }
    std::vector<RunRecord> runs;
    for (const std::string& place : given.places) {
      runs.push_back(training::read_run(place));
    }
    fmt::print(console.out, "{}", table_of(runs));
    if (!given.picture.empty()) {
      training::plot(
          given.picture, runs, unit_of(runs),
          given.axis == "steps" ? training::PlotAxis::steps : training::PlotAxis::minutes);
      fmt::print(console.out, "\ncurves: {}\n", given.picture);
    }
    return training::exit_success;
  });
}

}  // namespace runs
