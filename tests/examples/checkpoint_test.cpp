// SPDX-License-Identifier: MIT
#include "training/checkpoint.hpp"

#include <gtest/gtest.h>

#include <string>

#include "examples/run.hpp"
#include "reformer/io/model_file.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string open_error(const fs::path& path) {
  return message_of<std::runtime_error>([&] { Checkpoint checkpoint(path); });
}

TEST(Checkpoint, IsAModelOfTheLibrary) {
  const TemporaryFolder folder;
  for (const char* optimizer : {"adam", "adafactor", "muon"}) {
    const fs::path run = folder / optimizer;
    const Outcome outcome =
        train(tiny(folder / "text") + Strings{"--steps", "3", "--optimizer", optimizer,
                                              "--precision", "bfloat16", "--out", run.string()});
    ASSERT_EQ(outcome.code, exit_success) << outcome.error;
    const fs::path path = run / checkpoint_name;
    const reformer::Model<float> model = reformer::load_model<float>(path);
    EXPECT_EQ(model.config().width, 16);
    EXPECT_EQ(model.config().layers.size(), 2U);
    const auto metadata = reformer::ModelFile(path).metadata();
    ASSERT_EQ(metadata.size(), 1U);
    EXPECT_EQ(json::parse(metadata.at(state_key)), Checkpoint(path).state());
    // Written by the library, it is the same file.
    const auto save_again = [&](auto loaded) {
      EXPECT_EQ(reformer::load_optimizer(path, model, loaded), 3);
      EXPECT_EQ(loaded.steps(), 3);
      if constexpr (requires { loaded.config().precision; }) {
        EXPECT_EQ(loaded.config().precision, reformer::Precision::bfloat16) << "that of the run";
      }
      reformer::save_model(folder / "again", model, loaded, 3, metadata);
    };
    if (std::string(optimizer) == "adam") {
      save_again(reformer::Adam<float>());
    } else if (std::string(optimizer) == "adafactor") {
      save_again(reformer::Adafactor<float>());
    } else {
      save_again(reformer::Muon<float>());
    }
    EXPECT_TRUE(read_file(folder / "again") == read_file(path));

    reformer::save_model(folder / "model", model);
    EXPECT_EQ(open_error(folder / "model"),
              "'" + (folder / "model").string() +
                  "' is a model, but not a checkpoint of this trainer: its metadata have no "
                  "enwik8.state");
    reformer::save_model(folder / "model", model, {{state_key, "{\"a\":}"}});
    EXPECT_EQ(open_error(folder / "model"), "'" + (folder / "model").string() +
                                                "': enwik8.state is not JSON: byte 5 is not what "
                                                "must come there");
  }
}

TEST(Checkpoint, ReturnsTheSameState) {
  const TemporaryFolder folder;
  Options options;
  options.width = options.heads = options.length = options.chunk_length = 4;
  complete_options(options);
  const json state{{"seed", 18446744073709551615U}, {"loss", 0.1 + 0.2}, {"nested", {{"a", {1}}}}};
  TokenModel model(options, vocabulary, TokenModel::Use::training);
  model.initialize();
  model.save(folder / "c", 12, state);
  const Checkpoint checkpoint(folder / "c");
  EXPECT_EQ(checkpoint.state(), state);
  EXPECT_EQ(checkpoint.state().at("loss").get<double>(), 0.1 + 0.2);
  EXPECT_EQ(checkpoint.step(), 12);
  model.save(folder / "c", 12, {{"out", "\xff"}});  // the name of a folder may be any bytes
  EXPECT_EQ(Checkpoint(folder / "c").state().at("out"), "\xef\xbf\xbd");
  // The file that was opened is read, even if it has been replaced.
  TokenModel other(options, vocabulary, TokenModel::Use::generation);
  other.load(checkpoint);
  EXPECT_EQ(other.not_finite_tensor(), std::nullopt);
}

TEST(Checkpoint, RecognisesOtherFiles) {
  const TemporaryFolder folder;
  const std::string path = "'" + (folder / "c").string() + "'";
  EXPECT_EQ(open_error(folder / "c"), "cannot read " + path + ": No such file or directory");
  write_file(folder / "c", "");
  EXPECT_TRUE(contains(open_error(folder / "c"), path + ": has 0 bytes"));
  write_file(folder / "c", "<mediawiki xmlns=\"http://www.mediawiki.org/xml/export-0.3/\">");
  EXPECT_EQ(open_error(folder / "c"),
            path + " is not a checkpoint: it does not begin as a safetensors file");
  write_file(folder / "c", "\x89PNG\r\n\x1a\n12");
  EXPECT_EQ(open_error(folder / "c"), path + " is not a checkpoint but a PNG image");
  EXPECT_TRUE(contains(open_error(folder.path()), "Is a directory"));
}

}  // namespace
}  // namespace enwik8::test
