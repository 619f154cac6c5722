// SPDX-License-Identifier: MIT
#include "training/progress.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>
#include <vector>

namespace training::test {
namespace {

ProgressValues values_at(std::int64_t step) {
  ProgressValues values;
  values.step = step;
  values.total_steps = 1000;
  values.bits = 2.4314;
  values.tokens_per_second = 15234;
  values.learning_rate = 9.8e-4;
  values.memory_bytes = 312'400'000;
  values.seconds_left = 200;
  return values;
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;
File make_file() {
  return File(std::tmpfile(), &std::fclose);
}

std::string content(std::FILE* file) {
  std::fflush(file);
  std::rewind(file);
  std::string text;
  for (int c = std::fgetc(file); c != EOF; c = std::fgetc(file)) {
    text += static_cast<char>(c);
  }
  return text;
}

constexpr const char* line_of_step_7 =
    "step 7/1000 | 2.431 bits per byte | 15.2 k tokens/s | lr 9.8e-04 | 312 MB | 3:20 left";

TEST(Progress, FormatsAllFields) {
  EXPECT_EQ(format_progress(values_at(7)), line_of_step_7);
  ProgressValues values = values_at(7);
  values.total_steps = 0;
  values.tokens_per_second = 80;
  EXPECT_EQ(format_progress(values),
            "step 7 | 2.431 bits per byte | 80 tokens/s | lr 9.8e-04 | 312 MB | 3:20 left");
}

TEST(Progress, FormatsSizesAndTimes) {
  EXPECT_EQ(format_bytes(0), "0 bytes");
  EXPECT_EQ(format_bytes(999), "999 bytes");
  EXPECT_EQ(format_bytes(34'500), "34.5 kB");
  EXPECT_EQ(format_bytes(999'700), "1.00 MB");
  EXPECT_EQ(format_bytes(1'250'000'000), "1.25 GB");
  EXPECT_EQ(format_duration(0), "0:00");
  EXPECT_EQ(format_duration(59.6), "1:00");
  EXPECT_EQ(format_duration(750), "12:30");
  EXPECT_EQ(format_duration(3 * 3600 + 5 * 60 + 9), "3:05:09");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Progress, PrintsPlainLinesNowAndThen) {
  const File file = make_file();
  {
    Progress progress(file.get());  // a file is no terminal
    for (int second = 0; second <= 900; ++second) {
      progress.update(second, values_at(second));
    }
    progress.update(900.1, values_at(901), true);
  }
  const std::string text = content(file.get());
  EXPECT_EQ(text.find('\r'), std::string::npos);
  std::vector<int> steps;
  for (std::size_t at = text.find("step "); at != std::string::npos;
       at = text.find("step ", at + 1)) {
    steps.push_back(std::stoi(text.substr(at + 5)));
  }
  std::vector<int> expected;
  for (int step = 0; step <= 600; step += 10) {
    expected.push_back(step);
  }
  for (int step : {660, 720, 780, 840, 900, 901}) {
    expected.push_back(step);
  }
  EXPECT_EQ(steps, expected);
}

TEST(Progress, RenewsOneLineOnATerminal) {
  const File file = make_file();
  {
    Progress progress(file.get(), true);
    progress.update(0, values_at(6));
    progress.update(0.05, values_at(99));  // too early
    progress.update(0.2, values_at(7));
    progress.message("saved");
    progress.update(0.4, values_at(7));
  }
  const std::string six = format_progress(values_at(6));
  const std::string erase = "\r\x1b[2K";
  EXPECT_EQ(content(file.get()),
            six + erase + line_of_step_7 + erase + "saved\n" + line_of_step_7 + "\n");
}

TEST(Progress, KnowsTheMemoryOfThisProcess) {
  EXPECT_GT(resident_memory(), 500'000u);
  EXPECT_GE(peak_resident_memory(), resident_memory() / 2);
}

TEST(MemoryWarning, NamesTheLimitThatIsExceeded) {
  constexpr std::size_t gigabyte = 1'000'000'000;
  EXPECT_EQ(memory_warning(2 * gigabyte, 4 * gigabyte, std::nullopt), "");
  EXPECT_EQ(memory_warning(2 * gigabyte, 0, std::nullopt), "");
  EXPECT_EQ(memory_warning(2 * gigabyte, 4 * gigabyte, 2 * gigabyte), "");
  EXPECT_EQ(memory_warning(2 * gigabyte, 4 * gigabyte, gigabyte / 2),
            "warning: this container may use 500 MB, and is killed above; a smaller --batch or "
            "--length takes less");
  EXPECT_EQ(memory_warning(8 * gigabyte, 4 * gigabyte, 16 * gigabyte),
            "warning: this machine has only 4.00 GB; a smaller --batch or --length takes less");
}

}  // namespace
}  // namespace training::test
