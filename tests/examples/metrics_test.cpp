// SPDX-License-Identifier: MIT
#include "training/metrics.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "examples/support.hpp"

namespace training::test {
namespace {

using nlohmann::json;

const json header{{"type", "header"}, {"seed", 1}};

json train_record(int step) {
  return {{"type", "train"}, {"step", step}, {"bpb", 8.0 / step}};
}

TEST(Metrics, WritesOneObjectPerLineAtOnce) {
  const TemporaryFolder folder;
  MetricsWriter metrics = MetricsWriter::start(folder / "m", header);
  EXPECT_EQ(read_file(folder / "m"), "{\"seed\":1,\"type\":\"header\"}\n");
  metrics.write(train_record(2));
  EXPECT_TRUE(contains(read_file(folder / "m"), "\n{\"bpb\":4.0,\"step\":2,\"type\":\"train\"}\n"));
}

TEST(Metrics, WritesNullForWhatJsonDoesNotKnow) {
  const TemporaryFolder folder;
  MetricsWriter metrics = MetricsWriter::start(folder / "m", header);
  metrics.write({{"nan", std::numeric_limits<double>::quiet_NaN()},
                 {"inf", std::numeric_limits<double>::infinity()},
                 {"text", "broken \xff utf-8\n"}});
  EXPECT_TRUE(contains(read_file(folder / "m"), "{\"inf\":null,\"nan\":null,\"text\":\"broken "));
}

TEST(Metrics, ResumedFileEqualsTheUninterruptedOne) {
  const TemporaryFolder folder;
  {
    MetricsWriter metrics = MetricsWriter::start(folder / "straight", header);
    for (int step = 1; step <= 6; ++step) {
      metrics.write(train_record(step));
    }
  }
  {
    MetricsWriter metrics = MetricsWriter::start(folder / "resumed", header);
    for (int step = 1; step <= 5; ++step) {
      metrics.write(train_record(step));
    }
    metrics.write({{"type", "test"}, {"step", 3}, {"test_bpb", 2.0}});
  }
  write_file(folder / "resumed", read_file(folder / "resumed") + "{\"type\":\"train\",\"st");
  {
    const json other{{"type", "header"}, {"seed", 2}};
    MetricsWriter metrics = MetricsWriter::resume(folder / "resumed", other, 3);
    for (int step = 4; step <= 6; ++step) {
      metrics.write(train_record(step));
    }
  }
  EXPECT_EQ(read_file(folder / "resumed"), read_file(folder / "straight"));
}

TEST(Metrics, ResumeWithoutAFileStartsOne) {
  const TemporaryFolder folder;
  MetricsWriter::resume(folder / "m", header, 10);
  EXPECT_EQ(read_file(folder / "m"), header.dump() + "\n");
}

TEST(Metrics, RefusesToResumeAnotherFile) {
  const TemporaryFolder folder;
  for (const char* content : {"", "some notes\n", "{\"type\":\"train\"}\n", "[1]\n"}) {
    write_file(folder / "m", content);
    EXPECT_TRUE(contains(
        message_of<std::runtime_error>([&] { MetricsWriter::resume(folder / "m", header, 1); }),
        "cannot continue '"));
    EXPECT_EQ(read_file(folder / "m"), content);
  }
}

TEST(Metrics, SaysWhenTheFileCannotBeWritten) {
  const TemporaryFolder folder;
  EXPECT_TRUE(contains(
      message_of<std::runtime_error>([&] { MetricsWriter::start(folder / "no/m", header); }),
      "no/m': No such file or directory"));
}

}  // namespace
}  // namespace training::test
