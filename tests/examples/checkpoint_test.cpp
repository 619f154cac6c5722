// SPDX-License-Identifier: MIT
#include "enwik8/checkpoint.hpp"

#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "examples/support.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Two tensors, an empty one between them.
struct Model {
  std::vector<float> a = std::vector<float>(6);
  std::vector<float> b = std::vector<float>(20);

  std::vector<NamedTensor> tensors() {
    return {{"layer.a", 2, 3, a.data()}, {"empty", 0, 7, nullptr}, {"layer.b", 20, 1, b.data()}};
  }
};

Model make_model() {
  Model model;
  for (std::size_t i = 0; i < model.a.size(); ++i) {
    model.a[i] = 0.1f * static_cast<float>(i);
  }
  for (std::size_t i = 0; i < model.b.size(); ++i) {
    model.b[i] = -1e-30f * static_cast<float>(i);
  }
  model.b[3] = std::numeric_limits<float>::quiet_NaN();
  model.b[4] = -0.0f;
  return model;
}

const json state{{"step", 12}, {"seed", 18446744073709551615u}, {"loss", 0.1 + 0.2}};

bool same_bits(const std::vector<float>& x, const std::vector<float>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

std::string open_error(const fs::path& path) {
  return message_of<std::runtime_error>([&] { CheckpointReader reader(path); });
}

/// A checkpoint file with one header of our choice, checksums right.
std::string handmade(const std::string& header, const std::string& payload) {
  const auto number = [](auto value) {
    std::string bytes(sizeof(value), '\0');
    std::memcpy(bytes.data(), &value, sizeof(value));
    return bytes;
  };
  const std::string checked =
      number(std::uint32_t{1}) + number(static_cast<std::uint64_t>(header.size())) + header;
  const auto crc = static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(checked.data()), checked.size()));
  return "RFMRCKPT" + number(crc) + checked + payload;
}

TEST(Checkpoint, ReturnsTheSameBits) {
  const TemporaryFolder folder;
  Model saved = make_model();
  save_checkpoint(folder / "c", state, saved.tensors());
  EXPECT_EQ(folder.names(), (Strings{"c"}));

  CheckpointReader reader(folder / "c");
  EXPECT_EQ(reader.state(), state);
  EXPECT_EQ(reader.state()["loss"].get<double>(), 0.1 + 0.2);
  ASSERT_EQ(reader.tensors().size(), 3u);
  EXPECT_EQ(reader.tensors()[2].name, "layer.b");
  EXPECT_EQ(reader.tensors()[2].offset, 24u);
  Model loaded;
  std::vector<NamedTensor> tensors = loaded.tensors();
  std::swap(tensors[0], tensors[2]);  // the order does not matter
  reader.read_into(tensors);
  EXPECT_TRUE(same_bits(loaded.a, saved.a));
  EXPECT_TRUE(same_bits(loaded.b, saved.b));
}

TEST(Checkpoint, PayloadIsAlignedAndTheFileReproducible) {
  const TemporaryFolder folder;
  Model model = make_model();
  save_checkpoint(folder / "c", state, model.tensors());
  save_checkpoint(folder / "d", state, model.tensors());
  const std::string bytes = read_file(folder / "c");
  EXPECT_EQ(bytes, read_file(folder / "d"));
  const std::size_t payload = 26 * sizeof(float);
  EXPECT_EQ((bytes.size() - payload) % 64, 0u);
  EXPECT_EQ(std::memcmp(bytes.data() + bytes.size() - payload, model.a.data(), 24), 0);
}

TEST(Checkpoint, HoldsNoTensorsAtAll) {
  const TemporaryFolder folder;
  save_checkpoint(folder / "c", json::object(), {});
  CheckpointReader reader(folder / "c");
  reader.read_into({});
  EXPECT_TRUE(reader.tensors().empty());
}

TEST(Checkpoint, RefusesTwoTensorsOfOneName) {
  const TemporaryFolder folder;
  float x = 0;
  EXPECT_TRUE(contains(message_of<std::invalid_argument>([&] {
                         save_checkpoint(folder / "c", state, {{"x", 1, 1, &x}, {"x", 1, 1, &x}});
                       }),
                       "two tensors have the name 'x'"));
  EXPECT_EQ(folder.names(), (Strings{}));
}

TEST(Checkpoint, NoticesTruncationAtEveryLength) {
  const TemporaryFolder folder;
  Model model = make_model();
  save_checkpoint(folder / "whole", state, model.tensors());
  const std::string whole = read_file(folder / "whole");
  EXPECT_EQ(open_error(folder / "none"),
            "checkpoint '" + (folder / "none").string() + "' does not exist");
  write_file(folder / "c", "");
  EXPECT_TRUE(contains(open_error(folder / "c"), "is empty"));
  for (std::size_t length = 1; length < whole.size(); ++length) {
    write_file(folder / "c", whole.substr(0, length));
    ASSERT_TRUE(contains(open_error(folder / "c"), "is truncated")) << length;
  }
  write_file(folder / "c", whole + "x");
  EXPECT_TRUE(contains(open_error(folder / "c"), "is corrupt"));
}

TEST(Checkpoint, NoticesEveryFlippedByte) {
  const TemporaryFolder folder;
  Model model = make_model();
  save_checkpoint(folder / "whole", state, model.tensors());
  const std::string whole = read_file(folder / "whole");
  for (std::size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x10);
    write_file(folder / "c", damaged);
    const char* expected = i < 8     ? "is not a checkpoint"
                           : i < 12  ? "checksum of its header"
                           : i < 16  ? "has format version"
                           : i >= 24 ? "checksum of its"
                                     : "is ";  // its length: corrupt or truncated
    ASSERT_TRUE(contains(open_error(folder / "c"), expected)) << i;
  }
}

TEST(Checkpoint, RecognisesOtherFiles) {
  const TemporaryFolder folder;
  write_file(folder / "c", "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.3/\">");
  EXPECT_TRUE(contains(open_error(folder / "c"), "is not a checkpoint"));
  write_file(folder / "c", "x");
  EXPECT_TRUE(contains(open_error(folder / "c"), "is not a checkpoint"));
  EXPECT_TRUE(contains(open_error(folder.path()), "is a folder"));
}

TEST(Checkpoint, ChecksAHeaderWhoseChecksumIsRight) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& tensors, const std::string& bytes) {
    write_file(folder / "c", handmade("{\"state\":{},\"tensors\":" + tensors +
                                          ",\"payload_bytes\":" + bytes + ",\"payload_crc32\":0}",
                                      ""));
    return open_error(folder / "c");
  };
  const auto tensor = [](const std::string& rows, const std::string& cols, const std::string& at) {
    return "{\"name\":\"x\",\"rows\":" + rows + ",\"cols\":" + cols + ",\"offset\":" + at + "}";
  };
  EXPECT_EQ(error("[]", "0"), "NOTHING WAS THROWN");
  EXPECT_TRUE(contains(error("[" + tensor("-1", "0", "0") + "]", "0"), "'x' [-1, 0]"));
  EXPECT_TRUE(contains(error("[" + tensor("4611686018427387904", "4", "0") + "]", "0"),
                       "does not fit among the others"));
  EXPECT_TRUE(contains(error("[" + tensor("1", "1", "0") + "]", "0"), "does not fit among"));
  EXPECT_TRUE(contains(error("[" + tensor("0", "1", "4") + "]", "4"), "does not fit among"));
  EXPECT_TRUE(contains(error("[" + tensor("0", "1", "0") + "," + tensor("0", "1", "0") + "]", "0"),
                       "does not fit among"));
  EXPECT_TRUE(contains(error("[]", "4"), "tensors have 0 bytes and its payload 4"));
  for (const char* tensors : {"7", "[7]", "[{}]", "{\"a\":1}", "[", "\"x\""}) {
    EXPECT_TRUE(contains(error(tensors, "0"), "its header is not readable")) << tensors;
  }
  write_file(folder / "c", handmade("[]", ""));
  EXPECT_TRUE(contains(open_error(folder / "c"), "its header is not readable"));
}

TEST(Checkpoint, NamesWhatDoesNotFitAndChangesNothing) {
  const TemporaryFolder folder;
  Model saved = make_model();
  save_checkpoint(folder / "c", state, saved.tensors());
  CheckpointReader reader(folder / "c");
  Model other;
  other.a.assign(6, 7.0f);
  std::vector<float> c(4, 7.0f);
  const std::string message = message_of<std::runtime_error>([&] {
    reader.read_into(
        {{"layer.a", 3, 2, other.a.data()}, {"layer.c", 2, 2, c.data()}, {"empty", 0, 7, nullptr}});
  });
  EXPECT_TRUE(contains(message,
                       "does not fit: 'layer.a' is [2, 3] in the file and [3, 2] in the "
                       "model, 'layer.c' is missing in the file, 'layer.b' is unknown to "
                       "the model"));
  EXPECT_EQ(other.a, std::vector<float>(6, 7.0f));
  EXPECT_EQ(c, std::vector<float>(4, 7.0f));
}

TEST(Checkpoint, ListsAFewOfManyDifferences) {
  const TemporaryFolder folder;
  save_checkpoint(folder / "c", state, {});
  CheckpointReader reader(folder / "c");
  float x = 0;
  std::vector<NamedTensor> tensors;
  for (int i = 0; i < 12; ++i) {
    tensors.push_back({"t" + std::to_string(i), 1, 1, &x});
  }
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { reader.read_into(tensors); }),
                       "'t4' is missing in the file and 7 more"));
}

TEST(Checkpoint, ReadsFromTheFileItCheckedEvenIfThatIsReplaced) {
  const TemporaryFolder folder;
  Model first = make_model();
  save_checkpoint(folder / "c", state, first.tensors());
  CheckpointReader reader(folder / "c");
  Model second = make_model();
  second.a.assign(6, 5.0f);
  save_checkpoint(folder / "c", state, second.tensors());
  Model loaded;
  reader.read_into(loaded.tensors());
  EXPECT_TRUE(same_bits(loaded.a, first.a));
}

TEST(Checkpoint, KeepsTheLastGoodOneWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  Model model = make_model();
  save_checkpoint(folder / "c", state, model.tensors());
  const std::string before = read_file(folder / "c");
  std::vector<float> large(10'000);

  std::string message;
  {
    const FileSizeLimit limit(4096);
    message = message_of<std::runtime_error>([&] {
      save_checkpoint(folder / "c", state, {{"large", 100, 100, large.data()}});
    });
  }

  EXPECT_TRUE(contains(message, "the previous file is unchanged"));
  EXPECT_EQ(read_file(folder / "c"), before);
  EXPECT_EQ(folder.names(), (Strings{"c"}));
}

TEST(DescribeDifferences, ListsKeysWithBothValues) {
  EXPECT_EQ(describe_differences(state, state), "");
  EXPECT_EQ(describe_differences({{"width", 256}, {"heads", 4}, {"kind", "lsh"}},
                                 {{"width", 512}, {"heads", 4}, {"depth", 2}}),
            "depth is not set there and 2 here, kind is lsh there and not set here, width is 256 "
            "there and 512 here");
}

}  // namespace
}  // namespace enwik8::test
