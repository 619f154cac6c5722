// SPDX-License-Identifier: MIT
#include "training/event_file.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "examples/support.hpp"

namespace training::test {
namespace {

using nlohmann::json;

/// A reader of its own, by the description of the format: fields by number, in their order.
struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;  // of numbers
  std::string bytes;
};

std::uint64_t take_varint(std::string_view& text) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(text.at(0));
    text.remove_prefix(1);
    value |= std::uint64_t{byte & 127U} << shift;
    if (byte < 128) {
      return value;
    }
  }
}

std::uint64_t take_fixed(std::string_view& text, std::size_t bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, text.substr(0, bytes).data(), bytes);
  text.remove_prefix(bytes);
  return value;
}

std::vector<Field> fields_of(std::string_view message) {
  std::vector<Field> fields;
  while (!message.empty()) {
    const std::uint64_t key = take_varint(message);
    Field field{key / 8, 0, {}};
    switch (key % 8) {
      case 0:
        field.value = take_varint(message);
        break;
      case 1:
        field.value = take_fixed(message, 8);
        break;
      case 5:
        field.value = take_fixed(message, 4);
        break;
      default: {
        const std::size_t size = take_varint(message);
        field.bytes = message.substr(0, size);
        message.remove_prefix(size);
      }
    }
    fields.push_back(std::move(field));
  }
  return fields;
}

std::vector<std::vector<Field>> events_of(const std::filesystem::path& folder) {
  std::string content;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    EXPECT_TRUE(entry.path().filename().string().starts_with("events.out.tfevents."));
    content += read_file(entry.path());
  }
  std::vector<std::vector<Field>> events;
  for (std::string_view rest = content; !rest.empty();) {
    const std::string_view length = rest.substr(0, 8);
    const std::size_t size = take_fixed(rest, 8);
    EXPECT_EQ(take_fixed(rest, 4), masked_crc32c(length));
    const std::string_view message = rest.substr(0, size);
    rest.remove_prefix(size);
    EXPECT_EQ(take_fixed(rest, 4), masked_crc32c(message));
    events.push_back(fields_of(message));
  }
  return events;
}

TEST(EventFile, ChecksumIsThatOfThePublishedExamples) {
  // RFC 3720, B.4: 32 bytes of zeros, and of ones; and the usual check value.
  const auto unmasked = [](std::uint32_t masked) { return std::rotl(masked - 0xa282ead8U, 15); };
  EXPECT_EQ(unmasked(masked_crc32c(std::string(32, '\0'))), 0x8a9136aaU);
  EXPECT_EQ(unmasked(masked_crc32c(std::string(32, '\xff'))), 0x62a8ab43U);
  EXPECT_EQ(unmasked(masked_crc32c("123456789")), 0xe3069283U);
}

TEST(EventFile, HoldsTheNumbersOfRecordsAtTheirSteps) {
  const TemporaryFolder folder;
  {
    EventFile file(folder.path(), 41);
    file.add({{"type", "header"}, {"seed", 3}});
    file.add({{"type", "train"}, {"step", 300}, {"bpb", 2.5}, {"note", "text"}, {"none", nullptr}});
  }
  const auto events = events_of(folder.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0][2].number, 3u);
  EXPECT_EQ(events[0][2].bytes, "brain.Event:2");
  EXPECT_EQ(events[1][1].value, 42u) << "the step from which older files do not count";
  EXPECT_EQ(events[1][2].number, 7u);
  EXPECT_EQ(fields_of(events[1][2].bytes)[0].value, 1u) << "session START";
  const std::vector<Field>& scalars = events[2];
  EXPECT_GT(std::bit_cast<double>(scalars[0].value), 1.7e9) << "seconds since 1970";
  EXPECT_EQ(scalars[1].value, 300u);
  ASSERT_EQ(scalars[2].number, 5u);
  const std::vector<Field> values = fields_of(scalars[2].bytes);
  ASSERT_EQ(values.size(), 1u) << "numbers alone";
  const std::vector<Field> value = fields_of(values[0].bytes);
  EXPECT_EQ(value[0].bytes, "train/bpb");
  EXPECT_EQ(std::bit_cast<float>(static_cast<std::uint32_t>(value[1].value)), 2.5F);
}

TEST(EventFile, SaysWhereItCannotBeWritten) {
  const TemporaryFolder folder;
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { EventFile(folder / "missing", 0); }),
                       "cannot write '"));
}

}  // namespace
}  // namespace training::test
