// SPDX-License-Identifier: MIT
// The program `tokenise`, and training on what it wrote.
#include "tokenise/program.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "data/encode.hpp"
#include "data/token_file.hpp"
#include "enwik8/evaluator.hpp"
#include "enwik8/generated_corpus.hpp"
#include "enwik8/generator.hpp"
#include "examples/archives.hpp"
#include "examples/run.hpp"
#include "examples/support.hpp"
#include "training/words.hpp"

namespace tokenise::test {
namespace {

namespace fs = std::filesystem;
using enwik8::test::Captured;
using enwik8::test::evaluate;
using enwik8::test::generate;
using enwik8::test::Outcome;
using enwik8::test::records_of;
using enwik8::test::snapshot_of;
using enwik8::test::Strings;
using enwik8::test::tiny;
using enwik8::test::train;
using enwik8::test::write_documents;
using enwik8::test::operator+;
using namespace reformer::test;

/// Byte-level BPE of 259 tokens: bytes, two pairs, and the end of a document.
void write_vocabulary(const fs::path& folder) {
  nlohmann::json vocabulary;
  std::int32_t next = 0;
  const auto add = [&](std::uint32_t letter) {
    std::string text;
    if (letter < 0x80) {
      text = std::string(1, static_cast<char>(letter));
    } else {
      text = {static_cast<char>(0xc0 | letter >> 6), static_cast<char>(0x80 | (letter & 63))};
    }
    vocabulary[text] = next++;
  };
  std::uint32_t unprintable = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_printable =
        (byte > 32 && byte < 127) || (byte > 160 && byte < 256 && byte != 173);
    add(is_printable ? byte : unprintable++);
  }
  vocabulary["th"] = next++;
  vocabulary["the"] = next++;
  vocabulary["<|endoftext|>"] = next++;
  fs::create_directories(folder);
  write_file(folder / "vocab.json", vocabulary.dump());
  write_file(folder / "merges.txt", "#version: 0.2\nt h\nth e\n");
}

class Tokenise : public testing::Test {
 protected:
  void SetUp() override {
    const auto bytes = enwik8::generate_corpus(enwik8::generated_corpus_seed, 120'000);
    text_.assign(bytes.begin(), bytes.end());
    write_file(folder_ / "text", text_);
    write_vocabulary(folder_ / "bpe");
    try {
      tokens::load_tokenizer(folder_ / "bpe");
    } catch (const std::runtime_error& error) {
      GTEST_SKIP() << error.what();
    }
  }

  std::string at(const std::string& name) const { return (folder_ / name).string(); }

  static Outcome run(
      const Strings& arguments, const std::function<bool()>& stop = [] { return false; }) {
    Captured out, error;
    const int code = run_tokenise(
        arguments, {.out = out.file(), .error = error.file(), .terminal = false}, stop);
    return {code, out.text(), error.text()};
  }

  TemporaryFolder folder_;
  std::string text_;
};

TEST_F(Tokenise, WritesTheSameWithAnyNumberOfThreadsAndFromAnyContainer) {
  data::test::write_archive(folder_ / "text.xz", "raw", "xz", {{"data", text_}});
  ASSERT_EQ(
      run({"--out", at("a.bin"), "--tokenizer", at("bpe"), "--threads", "1", at("text")}).code, 0);
  ASSERT_EQ(
      run({"--out", at("b.bin"), "--tokenizer", at("bpe"), "--threads", "3", at("text.xz")}).code,
      0);
  EXPECT_TRUE(read_file(folder_ / "a.bin") == read_file(folder_ / "b.bin"));
  const data::TokenFile file(folder_ / "a.bin");
  file.check();
  EXPECT_EQ(file.header().vocabulary, 259);
  EXPECT_EQ(file.header().documents, 1);
  EXPECT_EQ(file.header().source_bytes, std::ssize(text_));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.size()));
  file.read(0, tokens);
  EXPECT_LT(tokens.size(), text_.size());
  EXPECT_EQ(tokens.back(), 258);
  EXPECT_TRUE(
      data::tokenizer_of(folder_ / "a.bin")->decode(std::span(tokens).first(tokens.size() - 1)) ==
      text_);
}

TEST_F(Tokenise, ReadsNothingThatItWrites) {
  fs::create_directory(folder_ / "texts");
  fs::rename(folder_ / "text", folder_ / "texts/text");
  const Outcome outcome = run({"--out", at("texts/x.bin"), "--tokenizer", at("bpe"), at("texts")});
  EXPECT_EQ(outcome.code, training::exit_usage);
  EXPECT_TRUE(contains(outcome.error, "allowed: a file outside of '" + at("texts") + "', which"));
  EXPECT_FALSE(fs::exists(at("texts/x.bin.tokenizer")));
}

TEST_F(Tokenise, LeavesATokenizerThatIsThere) {
  const auto bpe = tokens::load_tokenizer(folder_ / "bpe");
  data::copy_tokenizer(*bpe, folder_ / "copy");
  const auto copy = tokens::load_tokenizer(folder_ / "copy");
  EXPECT_EQ(copy->checksum(), bpe->checksum());
  write_file(folder_ / "copy/mark", "");
  data::copy_tokenizer(*bpe, folder_ / "copy");
  data::copy_tokenizer(*copy, folder_ / "copy");
  EXPECT_TRUE(fs::exists(folder_ / "copy/mark")) << "it was the same";
  write_file(folder_ / "copy/merges.txt", "#version: 0.2\nt h\n");
  data::copy_tokenizer(*bpe, folder_ / "copy");
  EXPECT_EQ(tokens::load_tokenizer(folder_ / "copy")->checksum(), bpe->checksum());
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    EXPECT_FALSE(entry.path().filename().string().starts_with("copy.")) << entry.path();
  }
}

TEST_F(Tokenise, GoesOnAfterAnInterruption) {
  write_file(folder_ / "text",
             text_ + text_ + text_ + text_ + text_ + text_ + text_);  // three pieces
  ASSERT_EQ(run({"--out", at("whole.bin"), "--tokenizer", at("bpe"), at("text")}).code, 0);
  const Strings arguments{"--out",     at("x.bin"), "--tokenizer", at("bpe"),
                          "--threads", "1",         at("text")};
  const Outcome stopped = run(arguments, [] { return true; });
  EXPECT_EQ(stopped.code, 130);
  EXPECT_TRUE(contains(stopped.out, "of text are saved; to continue:"));
  EXPECT_TRUE(contains(stopped.out, " --resume --out "));
  EXPECT_FALSE(fs::exists(at("x.bin")));
  EXPECT_TRUE(
      contains(run(arguments).error, "was begun before and not finished; go on with --resume"));
  // It knows its tokenizer, wherever that has gone.
  fs::remove_all(folder_ / "bpe");
  const Outcome resumed = run({"--resume", "--out", at("x.bin"), at("text")});
  EXPECT_EQ(resumed.code, 0) << resumed.error;
  EXPECT_TRUE(contains(resumed.out, "going on after"));
  EXPECT_TRUE(read_file(folder_ / "x.bin") == read_file(folder_ / "whole.bin"));
  EXPECT_TRUE(contains(run(arguments).error, "is there already; it is not overwritten"));
  EXPECT_TRUE(contains(run({"--resume", "--out", at("x.bin"), at("text")}).out, "is complete"));
}

TEST_F(Tokenise, KeepsATokenizerThatIsThere) {
  write_vocabulary(folder_ / "x.bin.tokenizer");
  write_file(folder_ / "x.bin.tokenizer/merges.txt", "#version: 0.2\nt h\n");
  const std::string merges = read_file(folder_ / "x.bin.tokenizer/merges.txt");
  for (const Strings& how :
       {Strings{"--tokenizer", at("bpe")}, Strings{"--train-vocabulary", "500"}, Strings{}}) {
    const Outcome finished = run(Strings{"--out", at("x.bin"), at("text")} + how);
    EXPECT_EQ(finished.code, 1);
    EXPECT_TRUE(contains(finished.error, "x.bin.tokenizer' is there already and not overwritten"));
    EXPECT_EQ(read_file(folder_ / "x.bin.tokenizer/merges.txt"), merges);
    EXPECT_FALSE(data::has_part(at("x.bin")));
  }
  const Outcome used =
      run({"--out", at("x.bin"), "--tokenizer", at("x.bin.tokenizer"), at("text")});
  EXPECT_EQ(used.code, 0) << used.error;

  fs::create_directory(at("y.bin.tokenizer"));
  write_file(folder_ / "y.bin.tokenizer/notes", "precious");
  for (const Strings& how : {Strings{}, Strings{"--resume", "--tokenizer", at("bpe")}}) {
    EXPECT_EQ(run(Strings{"--out", at("y.bin"), at("text")} + how).code, 1);
    EXPECT_EQ(read_file(folder_ / "y.bin.tokenizer/notes"), "precious");
  }
}

// A corrected command begins anew.
TEST_F(Tokenise, LeavesNothingOfWhatHasNotBegun) {
  write_file(folder_ / "picture", "\x89PNG\r\n\x1a\n" + std::string(100, 'x'));
  EXPECT_EQ(run({"--out", at("x.bin"), "--tokenizer", at("bpe"), at("picture")}).code, 1);
  EXPECT_FALSE(data::has_part(at("x.bin")));
  EXPECT_FALSE(fs::exists(at("x.bin.tokenizer")));
  EXPECT_EQ(run({"--out", at("x.bin"), at("text")}).code, 0);
}

TEST_F(Tokenise, SaysWhatTheDiskSaid) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += text_;  // more than is kept in memory
  write_file(folder_ / "text", text);
  Outcome finished;
  {
    const FileSizeLimit limit(2'000'000);
    finished = run({"--out", at("x.bin"), "--threads", "2", at("text")});
  }
  EXPECT_EQ(finished.code, 1);
  EXPECT_EQ(finished.error,
            "tokenise: token file '" + at("x.bin") + "' cannot be written: File too large\n");
  EXPECT_EQ(run({"--resume", "--out", at("x.bin"), at("text")}).code, 0);
  EXPECT_EQ(run({"--out", at("y.bin"), at("text")}).code, 0);
  EXPECT_TRUE(read_file(folder_ / "x.bin") == read_file(folder_ / "y.bin"));
}

TEST_F(Tokenise, SaysInOneLineWhatIsWrong) {
  struct Case {
    Strings arguments;
    int code;
    const char* error;
  };
  for (const Case& bad : std::vector<Case>{
           {{at("text")}, 2, "tokenise: --out is missing: give the token file to write"},
           {{"--out", at("x.bin")},
            2,
            "nothing to read: give files, folders or - for standard input"},
           {{"--out", at("x.bin"), "--colour", at("text")}, 2, "unknown option '--colour'"},
           {{"--out", at("x.bin"), "--train-vocabulary", "many", at("text")},
            2,
            "--train-vocabulary is 'many'"},
           {{"--out", at("x.bin"), "--train-vocabulary", "500", "--tokenizer", "bytes", at("text")},
            2,
            "--tokenizer and --train-vocabulary exclude each other"},
           {{"--out", at("x.bin"), "--train-vocabulary", "500", "-"},
            2,
            "standard input can be read once; give files"},
           {{"--out", at("x.bin"), at("missing")}, 1, "missing' does not exist"},
           {{"--out", at("x.bin"), "--tokenizer", at("text"), at("text")},
            1,
            "text' has the name of no tokenizer"},
           {{"--out", at("no/x.bin"), at("text")},
            1,
            "cannot be written: No such file or directory"}}) {
    const Outcome finished = run(bad.arguments);
    EXPECT_EQ(finished.code, bad.code) << bad.error;
    EXPECT_TRUE(contains(finished.error, bad.error));
    EXPECT_EQ(std::count(finished.error.begin(), finished.error.end(), '\n'), 1);
  }
  EXPECT_TRUE(contains(run({"--help"}).out, "--train-vocabulary N"));
}

// ---- training on tokens

class TrainOnTokens : public Tokenise {
 protected:
  void SetUp() override {
    Tokenise::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(run({"--out", at("a.bin"), "--tokenizer", at("bpe"), at("text")}).code, 0);
  }

  Outcome train_on(const std::string& data, const std::string& out, const Strings& more) {
    return train(tiny(folder_ / data) + Strings{"--out", at(out)} + more);
  }
};

TEST_F(TrainOnTokens, ReportsBitsPerByteAndKeepsItsTokenizer) {
  const Outcome outcome = train_on("a.bin", "run", {"--steps", "6"});
  ASSERT_EQ(outcome.code, 0) << outcome.error;
  EXPECT_TRUE(contains(outcome.out, "windows of 32 tokens"));
  EXPECT_TRUE(contains(outcome.out, "test bits per byte: "));
  const auto records = records_of(folder_ / "run");
  EXPECT_EQ(records.front()["data"]["tokenizer"], data::tokenizer_of(at("a.bin"))->description());
  const nlohmann::json& test = records.back();
  ASSERT_EQ(test["type"], "test");

  // The bytes are those of the tokens of the split but the first.
  const data::TokenFile file(folder_ / "a.bin");
  const std::int64_t part = file.size() / 20;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(part - 1));
  file.read(file.size() - part + 1, labels);
  const auto tokenizer = data::tokenizer_of(at("a.bin"));
  const std::size_t bytes = tokenizer->decode(labels).size();
  EXPECT_GT(bytes, labels.size());
  EXPECT_EQ(test["bytes"], bytes);

  // A model that knows nothing needs the logarithm of the vocabulary for each token.
  const Outcome untrained = train_on("a.bin", "untrained",
                                     {"--steps", "1", "--learning-rate", "1e-30", "--init-weights",
                                      "1e-6", "--init-embedding", "1e-6"});
  ASSERT_EQ(untrained.code, 0) << untrained.error;
  EXPECT_NEAR(records_of(folder_ / "untrained").back()["test_bpb"].get<double>(),
              std::log2(259.0) * static_cast<double>(labels.size()) / static_cast<double>(bytes),
              0.02);

  // The folder of the run is enough, and so is the text.
  const std::string before = evaluate({"--checkpoint", at("run"), "--split", "test"}).out;
  EXPECT_TRUE(
      contains(before, fmt::format("{:.4f} bits per byte", test["test_bpb"].get<double>())));
  fs::remove_all(folder_ / "bpe");
  fs::remove_all(at("a.bin.tokenizer"));
  EXPECT_EQ(evaluate({"--checkpoint", at("run"), "--split", "test"}).out, before);
  const Outcome of_text =
      evaluate({"--checkpoint", at("run"), "--split", "test", "--data", at("text")});
  EXPECT_EQ(of_text.error, "");
  EXPECT_EQ(of_text.out.substr(of_text.out.find(',')), before.substr(before.find(',')));
  const Outcome written = generate(
      {"--checkpoint", at("run"), "--prompt", "the", "--length", "9", "--temperature", "0"});
  EXPECT_EQ(written.code, 0) << written.error;
  EXPECT_GE(written.out.size(), 9u);
}

TEST_F(TrainOnTokens, GoesOnAfterAnInterruptionToTheSameBits) {
  ASSERT_EQ(train_on("a.bin", "whole", {"--steps", "6"}).code, 0);
  EXPECT_EQ(train(tiny(folder_ / "a.bin") + Strings{"--out", at("run"), "--steps", "6"},
                  [](std::int64_t step) { return step == 3; })
                .code,
            130);
  const Outcome resumed = train({"--resume", "--out", at("run")});
  ASSERT_EQ(resumed.code, 0) << resumed.error;
  EXPECT_EQ(snapshot_of(folder_ / "run"), snapshot_of(folder_ / "whole"));
}

TEST_F(TrainOnTokens, IsTheSameForBytesInATokenFileAndForNanoGptsFiles) {
  ASSERT_EQ(run({"--out", at("bytes.bin"), at("text")}).code, 0);
  ASSERT_EQ(train_on("text", "a", {"--steps", "3"}).code, 0);
  const Outcome of_file = train_on("bytes.bin", "b", {"--steps", "3"});
  ASSERT_EQ(of_file.code, 0) << of_file.error;
  EXPECT_EQ(snapshot_of(folder_ / "a").values, snapshot_of(folder_ / "b").values);
  EXPECT_EQ(records_of(folder_ / "a").back(), records_of(folder_ / "b").back());

  write_file(folder_ / "nanogpt.bin", read_file(folder_ / "a.bin").substr(128));
  ASSERT_EQ(train_on("a.bin", "c", {"--steps", "3"}).code, 0);
  const Outcome nanogpt = train_on("nanogpt.bin", "d", {"--steps", "3", "--tokenizer", at("bpe")});
  ASSERT_EQ(nanogpt.code, 0) << nanogpt.error;
  EXPECT_EQ(snapshot_of(folder_ / "c").values, snapshot_of(folder_ / "d").values);
}

TEST_F(TrainOnTokens, KeepsWindowsWithinDocuments) {
  const Strings documents{"--windows", "documents", "--steps", "4", "--data"};
  write_documents(folder_ / "texts");
  ASSERT_EQ(run({"--out", at("bytes.bin"), at("texts")}).code, 0);
  ASSERT_EQ(run({"--out", at("pieces.bin"), "--tokenizer", at("bpe"), at("texts")}).code, 0);
  write_file(folder_ / "nanogpt.bin", read_file(folder_ / "pieces.bin").substr(128));
  const auto learn = [&](const std::string& data, const Strings& more = {}) {
    const Outcome outcome = train(tiny(folder_ / "text") + documents +
                                  Strings{at(data), "--out", at(data + "-run")} + more);
    EXPECT_EQ(outcome.code, 0) << outcome.error;
    return outcome.out;
  };
  // A file of bytes knows the documents of the text that it was made of.
  const std::string of_texts = learn("texts"), of_bytes = learn("bytes.bin");
  EXPECT_TRUE(contains(of_texts, "every byte but the first of each document is predicted"));
  EXPECT_EQ(snapshot_of(at("texts-run")).values, snapshot_of(at("bytes.bin-run")).values);
  EXPECT_EQ(records_of(at("texts-run")).back(), records_of(at("bytes.bin-run")).back());
  // So does one without a header whose tokenizer has a token for the end.
  const std::string of_pieces = learn("pieces.bin");
  learn("nanogpt.bin", {"--tokenizer", at("bpe")});
  EXPECT_TRUE(contains(of_pieces,
                       "of each document, each started cold: every token but the first "
                       "of the split is predicted"));
  EXPECT_EQ(snapshot_of(at("pieces.bin-run")).values, snapshot_of(at("nanogpt.bin-run")).values);
  // All tokens of a split but the first are predicted, those for ends, too.
  const data::TokenFile file(at("pieces.bin"));
  const auto test = records_of(at("pieces.bin-run")).back();
  std::vector<std::int32_t> labels(static_cast<std::size_t>(file.size() / 20 - 1));
  file.read(file.size() - file.size() / 20 + 1, labels);
  EXPECT_EQ(test["bytes"], data::tokenizer_of(at("pieces.bin"))->decode(labels).size());
  // The evaluator does as the trainer did, with a text that has no token file, too.
  for (const Strings& more : {Strings{}, Strings{"--data", at("texts")}}) {
    const Outcome again =
        evaluate(Strings{"--checkpoint", at("pieces.bin-run"), "--split", "test"} + more);
    EXPECT_TRUE(
        contains(again.out, fmt::format("{} bytes: {:.4f} bits per byte",
                                        training::grouped(test["bytes"].get<std::int64_t>()),
                                        test["test_bpb"].get<double>())))
        << again.error;
  }
}

TEST_F(TrainOnTokens, SaysInOneLineWhatDoesNotFit) {
  const auto error_of = [](const Outcome& outcome, int code) {
    EXPECT_EQ(outcome.code, code);
    EXPECT_EQ(std::count(outcome.error.begin(), outcome.error.end(), '\n'), 1) << outcome.error;
    return outcome.error;
  };
  EXPECT_TRUE(contains(error_of(train_on("text", "r", {"--tokenizer", at("bpe")}), 1),
                       "is a text; with --tokenizer"));
  EXPECT_TRUE(contains(error_of(train_on("a.bin", "r", {"--by-distance"}), 2),
                       "--by-distance looks at the bytes"));
  EXPECT_TRUE(contains(error_of(train_on("a.bin", "r", {"--tokenizer", "bytes"}), 1),
                       "was made with another tokenizer"));
  EXPECT_TRUE(contains(error_of(train_on("a.bin", "r", {"--tokenizer", at("text")}), 1),
                       "text' has the name of no tokenizer"));
  EXPECT_TRUE(contains(error_of(train_on("a.bin", "r", {"--length", "200000"}), 1),
                       "is too short: it has"));
  const std::string good = read_file(folder_ / "a.bin");
  write_file(folder_ / "damaged.bin", good.substr(0, 5000) + "!" + good.substr(5001));
  EXPECT_TRUE(contains(error_of(train_on("damaged.bin", "r", {"--tokenizer", at("bpe")}), 1),
                       "damaged.bin' is corrupt: its contents have checksum"));
  write_file(folder_ / "short.bin", good.substr(0, 5000));
  EXPECT_TRUE(contains(error_of(train_on("short.bin", "r", {}), 1), "short.bin' is truncated"));
  write_file(folder_ / "odd.bin", "odd");
  EXPECT_TRUE(contains(error_of(train_on("odd.bin", "r", {"--tokenizer", at("bpe")}), 1),
                       "odd.bin' has an odd number of bytes, 3"));
  write_file(folder_ / "large.bin", std::string(20'000, '\x77'));
  EXPECT_TRUE(contains(error_of(train_on("large.bin", "r", {"--tokenizer", at("bpe")}), 1),
                       "large.bin' has token 30583 at place 0, and its vocabulary has 259"));

  // A run and what belongs to it.
  ASSERT_EQ(train_on("a.bin", "run", {"--steps", "1"}).code, 0);
  const Strings model{"--checkpoint", at("run")};
  EXPECT_TRUE(contains(error_of(evaluate(model + Strings{"--matches"}), 2), "--matches looks at"));
  ASSERT_EQ(run({"--out", at("bytes.bin"), at("text")}).code, 0);
  EXPECT_TRUE(contains(error_of(evaluate(model + Strings{"--data", at("bytes.bin")}), 1),
                       "bytes.bin' was made with another tokenizer (bytes, 256 tokens) than the"));
  EXPECT_TRUE(
      contains(error_of(train({"--resume", "--out", at("run"), "--data", at("bytes.bin")}), 1),
               "the run in"));
  const std::string merges = read_file(folder_ / "run/tokenizer/merges.txt");
  write_file(folder_ / "run/tokenizer/merges.txt", "#version: 0.2\nt h\n");
  EXPECT_TRUE(contains(error_of(generate(model + Strings{"--prompt", "a"}), 1),
                       "is not the one that the model was trained with"));
  fs::remove_all(folder_ / "run/tokenizer");
  EXPECT_TRUE(contains(error_of(generate(model + Strings{"--prompt", "a"}), 1), "run/tokenizer"));
}

}  // namespace
}  // namespace tokenise::test
