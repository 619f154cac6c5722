// SPDX-License-Identifier: MIT
/// Agreement with HuggingFace on the folders of tests/data/huggingface, and that the comparison
/// sees what is wrong.
#include "io/parity.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <set>

#include "reformer/io/safetensors.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;

const fs::path fixtures = fs::path(TEST_DATA) / "huggingface";

template <typename Scalar>
void expect_parity(const fs::path& file, const std::set<std::string>& kinds) {
  std::set<std::string> compared;
  for (const Deviation& d : check_parity<Scalar>(file)) {
    compared.insert(d.kind);
    // These fixtures have no padded token that sees nothing, so even such rows agree.
    EXPECT_LE(d.largest, d.allowed) << d.kind << ": " << d.where << " is " << d.values;
    EXPECT_GT(d.compared, 0) << d.kind;
  }
  EXPECT_EQ(compared, kinds);
}

struct Fixture {
  const char* file;
  std::set<std::string> kinds;
};

class Parity : public testing::TestWithParam<Fixture> {};

TEST_P(Parity, InFloat) {
  expect_parity<float>(fixtures / GetParam().file, GetParam().kinds);
}
TEST_P(Parity, InDouble) {
  expect_parity<double>(fixtures / GetParam().file, GetParam().kinds);
}

INSTANTIATE_TEST_SUITE_P(
    HuggingFace, Parity,
    testing::Values(Fixture{"local_tiny/expected.safetensors",
                            {"hidden_states", "attn_output", "last_hidden_state", "logits", "loss",
                             "gradients"}},
                    Fixture{"local_tiny/expected_short.safetensors", {"logits", "loss"}},
                    Fixture{"local_tiny/expected_padded.safetensors", {"logits", "loss"}},
                    Fixture{"lsh_tiny/expected.safetensors",
                            {"hidden_states", "attn_output", "buckets", "last_hidden_state",
                             "logits", "loss", "gradients"}},
                    Fixture{"lsh_tiny/expected_short.safetensors", {"logits", "loss"}},
                    Fixture{"lsh_tiny/expected_padded.safetensors", {"buckets", "logits", "loss"}},
                    Fixture{"lsh_factorized/expected.safetensors",
                            {"hidden_states", "attn_output", "buckets", "last_hidden_state",
                             "logits", "loss", "gradients"}},
                    Fixture{"mixed/expected.safetensors",
                            {"hidden_states", "buckets", "last_hidden_state", "logits", "loss",
                             "gradients"}},
                    Fixture{"mixed/expected_padded.safetensors", {"buckets", "logits", "loss"}},
                    Fixture{"encoder/expected.safetensors",
                            {"hidden_states", "hidden_states of padded tokens", "attn_output",
                             "attn_output of padded tokens", "buckets", "last_hidden_state",
                             "last_hidden_state of padded tokens", "gradients"}}),
    [](const auto& c) {
      std::string name = c.param.file;
      name = name.substr(0, name.find('.'));
      name[name.find('/')] = '_';
      return name;
    });

TEST(Parity, EveryFixtureIsCompared) {
  std::size_t files = 0;
  for (const char* folder : {"local_tiny", "lsh_tiny", "lsh_factorized", "mixed", "encoder"}) {
    files += expected_files(fixtures / folder).size();
  }
  EXPECT_EQ(files, 10u);
}

/// A copy of a fixture whose expectations can be falsified.
class Falsified : public testing::Test {
 protected:
  fs::path copy(const std::string& fixture) {
    fs::copy(fixtures / fixture, folder / fixture);
    return folder / fixture / "expected.safetensors";
  }

  /// Adds to element i of a tensor of floats.
  static void add(const fs::path& path, const std::string& name, std::size_t i, float amount) {
    std::string content = read_file(path);
    const SafetensorsFile file(path);
    const auto place = static_cast<std::size_t>(file.bytes(*file.find(name)).data() -
                                                file.bytes(file.tensors()[0]).data());
    std::uint64_t header;
    std::memcpy(&header, content.data(), 8);
    float value;
    char* where = content.data() + 8 + header + place + 4 * i;
    std::memcpy(&value, where, 4);
    value += amount;
    std::memcpy(where, &value, 4);
    fs::remove(path);  // the mapping keeps the old content
    write_file(path, content);
  }

  static Deviation of(const fs::path& file, const std::string& kind) {
    for (const Deviation& d : check_parity<float>(file)) {
      if (d.kind == kind) return d;
    }
    throw std::logic_error("no " + kind);
  }

  TemporaryFolder folder;
};

TEST_F(Falsified, ValuesAreFoundWhereTheyStand) {
  const fs::path file = copy("lsh_tiny");
  add(file, "logits", (1 * 64 + 3) * 50 + 7, 3e-5f);
  const Deviation logits = of(file, "logits");
  EXPECT_FALSE(logits.good());
  EXPECT_EQ(logits.where, "logits[1, 3, 7]");
  EXPECT_NEAR(logits.largest, 3e-5, 5e-6);
  EXPECT_TRUE(of(file, "hidden_states").good());

  add(file, "grad.reformer.encoder.layers.1.attention.output.dense.weight", 5 * 32 + 9,
      std::numeric_limits<float>::quiet_NaN());
  add(file, "hidden_states.2", 11, -1);
  add(file, "attn_output.0", 12, 1);
  EXPECT_FALSE(of(file, "gradients").good());
  EXPECT_EQ(of(file, "gradients").where,
            "grad.reformer.encoder.layers.1.attention.output.dense.weight[5, 9]");
  EXPECT_EQ(of(file, "hidden_states").where, "hidden_states.2[0, 0, 11]");
  EXPECT_EQ(of(file, "attn_output").where, "attn_output.0[0, 0, 12]");
}

TEST_F(Falsified, WeightsAreNoticedEverywhere) {
  const fs::path file = copy("lsh_tiny");
  add(folder / "lsh_tiny" / "model.safetensors",
      "reformer.encoder.layers.0.attention.self_attention.query_key.weight", 3, 0.5f);
  for (const char* kind : {"logits", "hidden_states", "attn_output", "buckets", "gradients"}) {
    EXPECT_FALSE(of(file, kind).good()) << kind;
  }
}

TEST_F(Falsified, WhatDoesNotFitIsAnError) {
  const auto message = [](const fs::path& file) {
    return message_of<std::runtime_error>([&] { check_parity<float>(file); });
  };
  const fs::path file = copy("encoder");
  std::string content = read_file(file);
  content.replace(content.find("rotations.1"), 11, "rotations.0");
  write_file(file, content);
  EXPECT_TRUE(contains(message(file), "layer 1 hashes, so there must be rotations.1"));

  const fs::path other = copy("local_tiny");
  content = read_file(other);
  content.replace(content.find("attn_output.1"), 13, "attn_output.7");
  write_file(other, content);
  EXPECT_TRUE(contains(message(other), "tensor 'attn_output.7' is of no known kind"));
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { expected_files(folder.path()); }),
                       "holds no expected"));
}

}  // namespace
}  // namespace reformer::test
