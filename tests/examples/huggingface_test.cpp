// SPDX-License-Identifier: MIT
/// Models of HuggingFace in the programs: the trainer's --init and --export, and `generate`.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "examples/run.hpp"
#include "huggingface/generate.hpp"
#include "huggingface/text_stream.hpp"
#include "reformer/foundation/random.hpp"
#include "reformer/io/huggingface.hpp"
#include "support/random_data.hpp"
#include "tokens/tokenizer.hpp"

namespace enwik8::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using HuggingFace = reformer::HuggingFaceModel<float>;

const json byte_config = {{"architectures", {"ReformerModelWithLMHead"}},
                          {"model_type", "reformer"},
                          {"attn_layers", {"local", "lsh"}},
                          {"hidden_size", 16},
                          {"num_attention_heads", 2},
                          {"attention_head_size", 5},
                          {"feed_forward_size", 24},
                          {"axial_pos_shape", {8, 8}},
                          {"axial_pos_embds_dim", {4, 12}},
                          {"local_attn_chunk_length", 8},
                          {"lsh_attn_chunk_length", 16},
                          {"num_hashes", 2},
                          {"num_buckets", 4},
                          {"max_position_embeddings", 64},
                          {"is_decoder", true},
                          {"vocab_size", 258}};

/// A folder with a random model of bytes, and one text.
class HuggingFaceRun : public testing::Test {
 protected:
  HuggingFaceRun() { write_model("model", byte_config); }

  void write_model(const std::string& name, const json& config) const {
    HuggingFace model(reformer::parse_huggingface_config(config.dump()));
    reformer::test::randomize_parameters(model.model(), 3, 0.1);
    model.save(folder_ / name);
  }
  json changed(const json& changes) const {
    json config = byte_config;
    config.update(changes);
    return config;
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  /// Options of a run that begins with a model.
  Strings options(const std::string& model, const std::string& out,
                  const Strings& more = {}) const {
    tiny(folder_ / "text");
    return Strings{"--data",          path("text"), "--init",       path(model),
                   "--length",        "32",         "--batch",      "2",
                   "--threads",       "1",          "--warmup",     "2",
                   "--sample-bytes",  "8",          "--eval-every", "0",
                   "--out",           path(out),    "--steps",      "3",
                   "--learning-rate", "0.001"} +
           more;
  }
  std::string succeed(const Strings& arguments) const {
    const Outcome outcome = train(arguments);
    EXPECT_EQ(outcome.code, exit_success) << outcome.error;
    return outcome.out;
  }
  void refuse(const Strings& arguments, int code, const std::string& part) const {
    const Outcome outcome = train(arguments);
    EXPECT_EQ(outcome.code, code) << part;
    EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
    EXPECT_TRUE(contains(outcome.error, part));
    EXPECT_FALSE(fs::exists(folder_ / "refused")) << part;
  }

  std::vector<float> values(const std::string& name) const {
    HuggingFace model = HuggingFace::load(folder_ / name);
    std::vector<float> all;
    model.model().for_each_parameter(
        [&](auto& p) { all.insert(all.end(), p.value.data(), p.value.data() + p.size()); });
    return all;
  }

  TemporaryFolder folder_;
};

TEST_F(HuggingFaceRun, BeginsWithTheModelAndExportsIt) {
  // A rate so small that nothing moves by more than this.
  const std::string out =
      succeed(options("model", "run", {"--learning-rate", "1e-9", "--export", path("exported")}));
  EXPECT_TRUE(contains(
      out, "beginning with the model in " + path("model") + "; nothing is initialised anew"));
  EXPECT_TRUE(contains(out, "2 layers (local, lsh), width 16, 2 heads, windows of 32 bytes"));
  EXPECT_TRUE(contains(out, "byte b is token b + 2"));
  const auto before = values("model"), after = values("exported");
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) ASSERT_NEAR(before[i], after[i], 1e-7) << i;
  EXPECT_EQ(read_file(folder_ / "exported/config.json"), read_file(folder_ / "model/config.json"));

  succeed(options("model", "learned", {"--export", path("moved")}));
  EXPECT_NE(values("moved"), before);
}

TEST_F(HuggingFaceRun, ByteBIsTokenBPlusTwo) {
  Options given = parse_options({"--init", path("model"), "--length", "64", "--threads", "1",
                                 "--precision", "float32"})
                      .options;
  begin_with_model(given, vocabulary);
  TokenModel model(given, vocabulary, TokenModel::Use::generation);
  EXPECT_EQ(model.load_huggingface(path("model")), Strings());
  EXPECT_EQ(model.first_token(), 2);
  HuggingFace expected = HuggingFace::load(folder_ / "model");
  reformer::Workspace workspace(1);
  const reformer::RunOptions run{.key = {given.seed, 0}};
  // At a length that is padded, too.
  for (const std::int64_t length : {32, 27, 7}) {
    Windows windows{.count = 1,
                    .length = length,
                    .inputs = {},
                    .labels = {},
                    .lengths = {},
                    .label_bytes = length};
    reformer::Tokens tokens(1, length), labels(1, length);
    for (std::int32_t t = 0; t < length; ++t) {
      windows.inputs.push_back(t * 37 % 256);
      const bool counts = t != 3;
      windows.labels.push_back(counts ? (t + 1) * 37 % 256 : reformer::ignored_label);
      tokens(0, t) = windows.inputs.back() + 2;
      labels(0, t) = counts ? windows.labels.back() + 2 : reformer::ignored_label;
    }
    const reformer::Loss loss = expected.loss(workspace, tokens, labels, run);
    EXPECT_EQ(model.evaluate(windows).nats, loss.sum) << length;
    EXPECT_EQ(model.evaluate(windows).bytes, length);
    const std::vector<std::uint8_t> text(windows.inputs.begin(), windows.inputs.end());
    const auto logits = expected.next_token_logits(
        workspace, {tokens.data(), static_cast<std::size_t>(length)}, run);
    EXPECT_EQ(next_byte_logits(model, text), std::vector<float>(logits.begin() + 2, logits.end()));
  }
}

TEST_F(HuggingFaceRun, WritesTextWithAWholePassForEachByte) {
  Options given =
      parse_options({"--init", path("model"), "--length", "64", "--threads", "1"}).options;
  begin_with_model(given, vocabulary);
  TokenModel model(given, vocabulary, TokenModel::Use::generation);
  model.load_huggingface(path("model"));
  for (const double penalty : {1.0, 1e6}) {
    const reformer::SamplingOptions sampling{.temperature = 0, .repetition_penalty = penalty};
    std::vector<std::uint8_t> text = {'a', 'b'};
    std::set<std::uint8_t> seen(text.begin(), text.end());
    write_text(model, text, 20, sampling, 1, [&](std::uint8_t byte) {
      auto logits = next_byte_logits(model, text);
      for (const std::uint8_t old : seen) {
        float& logit = logits[old];
        logit = static_cast<float>(logit > 0 ? logit / penalty : logit * penalty);
      }
      EXPECT_EQ(byte, std::max_element(logits.begin(), logits.end()) - logits.begin())
          << "byte " << text.size() << ", penalty " << penalty;
      text.push_back(byte);
      seen.insert(byte);
      return text.size() < 12;
    });
    EXPECT_EQ(text.size(), 12u);  // the callback has ended it
    if (penalty > 1) {
      EXPECT_EQ(seen.size(), text.size());
    }
  }
}

TEST_F(HuggingFaceRun, AResumedRunHasTheBitsOfAStraightOne) {
  fs::create_directory(folder_ / "once");
  succeed(options("model", "straight"));
  Captured out, error;
  const int code = run_trainer(options("model", "broken"),
                               {.out = out.file(), .error = error.file(), .terminal = false},
                               [](std::int64_t step) { return step >= 1; });
  EXPECT_EQ(code, exit_interrupted);
  fs::rename(folder_ / "model", folder_ / "elsewhere");  // the checkpoint has everything
  succeed({"--resume", "--out", path("broken"), "--data", path("text")});
  EXPECT_TRUE(snapshot_of(folder_ / "broken") == snapshot_of(folder_ / "straight"));
  EXPECT_EQ(test::generate({"--checkpoint", path("broken"), "--length", "40", "--threads", "1"})
                .out.size(),
            40u);
}

TEST_F(HuggingFaceRun, ASavedRunIsTakenForAnother) {
  succeed(options("model", "first"));
  succeed({"--config", path("first"), "--out", path("second")});
  EXPECT_TRUE(snapshot_of(folder_ / "first") == snapshot_of(folder_ / "second"));
}

TEST_F(HuggingFaceRun, IsEvaluatedWithOtherHashing) {
  succeed(options("model", "run"));
  const auto evaluation = [&](const Strings& more) {
    const Outcome outcome =
        test::evaluate(Strings{"--checkpoint", path("run"), "--threads", "1"} + more);
    EXPECT_EQ(outcome.code, exit_success) << outcome.error;
    return outcome.out;
  };
  // What is printed may be the same by chance, but not three times.
  const auto expect_changed_by = [&](const std::string& option, const Strings& values) {
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [&](const std::string& value) {
      return evaluation({option, value}) != evaluation({});
    })) << option;
  };
  expect_changed_by("--hashes", {"3", "8", "16"});
  expect_changed_by("--buckets", {"2", "6", "8"});
  expect_changed_by("--chunk-length", {"2", "16", "32"});
  EXPECT_EQ(test::generate(
                {"--checkpoint", path("run"), "--length", "9", "--threads", "1", "--hashes", "5"})
                .out.size(),
            9u);
}

TEST_F(HuggingFaceRun, SaysWhatBeginsAnew) {
  const std::string out =
      succeed(options("model", "longer",
                      {"--length", "128", "--axial-shape", "8,16", "--export", path("exported")}));
  EXPECT_TRUE(contains(out, "; initialised anew: positions.weights.1 [16, 12]"));
  EXPECT_TRUE(contains(out, "windows of 128 bytes"));
  const json config = json::parse(read_file(folder_ / "exported/config.json"));
  EXPECT_EQ(config["axial_pos_shape"], (json{8, 16}));
  EXPECT_EQ(config["max_position_embeddings"], 128);

  write_model("headless", changed({{"architectures", {"ReformerModel"}}}));
  EXPECT_TRUE(contains(succeed(options("headless", "head")),
                       "initialised anew: head.weight [32, 258], head.bias [1, 258]"));
}

TEST_F(HuggingFaceRun, RefusesWhatDoesNotFit) {
  refuse(options("model", "refused", {"--width", "32"}), exit_usage,
         "--width is decided by the model in --init");
  refuse(options("model", "refused", {"--layers", "lsh"}), exit_usage, "--layers is decided by");
  refuse(options("model", "refused", {"--length", "65"}), exit_usage,
         "--length is 65, but the model has 64 positions; allowed: up to that, or more with "
         "another --axial-shape");
  refuse(options("model", "refused", {"--length", "40"}), exit_usage,
         "--length is 40; allowed with --init: what chunks divide, such as 48");
  refuse(options("model", "refused", {"--axial-shape", "64"}), exit_usage,
         "--axial-shape is '64'; allowed: two numbers");
  refuse(options("none", "refused"), exit_failure, "none/config.json': No such file");
  write_model("words", changed({{"vocab_size", 320}}));
  refuse(options("words", "refused"), exit_usage,
         "which has 320 tokens; allowed: the model of bytes, with 256 tokens, or 258");
  write_model("encoder",
              changed({{"architectures", {"ReformerForMaskedLM"}}, {"is_decoder", false}}));
  refuse(options("encoder", "refused"), exit_usage, "an encoder; allowed: a decoder");
  fs::create_directory(folder_ / "mixed");
  fs::copy(folder_ / "model/model.safetensors", folder_ / "mixed");
  write_file(folder_ / "mixed/config.json",
             changed({{"hidden_size", 20}, {"axial_pos_embds_dim", {8, 12}}}).dump());
  refuse(options("mixed", "refused"), exit_failure,
         "'embeddings.word_embeddings.weight' is [258, 16] in the file and [258, 20] in the model");
  refuse(tiny(folder_ / "text") + Strings{"--positions", "sinusoidal", "--steps", "1", "--out",
                                          path("refused"), "--export", path("exported")},
         exit_usage, "this model cannot be exported");
}

TEST_F(HuggingFaceRun, AModelTrainedHereIsExported) {
  succeed(tiny(folder_ / "text") + Strings{"--steps", "1", "--out", path("run"), "--values", "own",
                                           "--ngrams", "0", "--value-ngrams", "0", "--export",
                                           path("exported")});
  HuggingFace model = HuggingFace::load(folder_ / "exported");
  EXPECT_EQ(model.config().model.vocabulary, 256);
}

// ---- generate

Outcome generate_text(const Strings& arguments) {
  Captured out, error;
  const int code = huggingface::run_generate(arguments, {.out = out.file(), .error = error.file()});
  return {code, out.text(), error.text()};
}

class Generate : public HuggingFaceRun {
 protected:
  std::string text(const Strings& arguments) const {
    const Outcome outcome =
        generate_text(Strings{"--model", path("model"), "--threads", "1"} + arguments);
    EXPECT_EQ(outcome.code, exit_success) << outcome.error;
    EXPECT_EQ(outcome.error, "");
    return outcome.out;
  }
};

TEST_F(Generate, SamplesFromTheModel) {
  // Token by token by hand, beyond the 64 positions.
  HuggingFace model = HuggingFace::load(folder_ / "model");
  reformer::Workspace workspace(1);
  const reformer::RandomStream stream({5}, reformer::Purpose::sampling);
  std::vector<std::int32_t> tokens = {'a' + 2, 'b' + 2};
  std::string expected;
  for (std::uint64_t i = 0; i < 80; ++i) {
    const auto context = std::span(tokens).last(std::min<std::size_t>(64, tokens.size()));
    const auto logits = model.next_token_logits(workspace, context, {.key = {5}});
    const auto token = static_cast<std::int32_t>(
        reformer::sample_token(std::span<const float>(logits),
                               {.temperature = 1.5, .top_k = 50, .top_p = 0.9}, stream.uniform(i)));
    tokens.push_back(token);
    if (token >= 2) expected += static_cast<char>(static_cast<unsigned char>(token - 2));
  }
  EXPECT_EQ(text({"--prompt", "ab", "--length", "80", "--temperature", "1.5", "--top-k", "50",
                  "--top-p", "0.9", "--seed", "5"}),
            expected);
}

TEST_F(Generate, TheSeedDecidesAndTheThreadsDoNot) {
  const std::string one = text({"--length", "30", "--seed", "1"});
  EXPECT_EQ(text({"--length", "30", "--seed", "1", "--threads", "2"}), one);
  EXPECT_NE(text({"--length", "30", "--seed", "2"}), one);
  // Greedy, the seed still draws the rotations; in one window of 8 nothing is hashed.
  EXPECT_EQ(text({"--length", "6", "--temperature", "0", "--seed", "1"}),
            text({"--length", "6", "--top-k", "1", "--seed", "2"}));
}

TEST_F(Generate, RefusesWithOneLine) {
  const auto refuses = [](const Strings& arguments, int code, const std::string& part) {
    const Outcome outcome = generate_text(arguments);
    EXPECT_EQ(outcome.code, code) << part;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(lines_of(outcome.error).size(), 1u) << outcome.error;
    EXPECT_TRUE(contains(outcome.error, "generate: "));
    EXPECT_TRUE(contains(outcome.error, part));
  };
  refuses({}, exit_usage, "--model is missing");
  refuses({"--model", path("model"), "--length", "0"}, exit_usage, "--length");
  refuses({"--model", path("model"), "--top-p", "2"}, exit_usage,
          "--top-p is '2'; allowed: a number above 0 and up to 1");
  refuses({"--model", path("model"), "--top-p", "nan"}, exit_usage, "--top-p is 'nan'");
  refuses({"--model", path("model"), "--temperature", "nan"}, exit_usage, "--temperature is 'nan'");
  refuses({"--model", path("model"), "--temperature", "inf"}, exit_usage, "--temperature is 'inf'");
  for (const char* name : {"--length", "--top-k", "--seed", "--threads"}) {
    for (const char* value : {"-1", "nan", "1.5", "x", "99999999999999999999"}) {
      refuses({"--model", path("model"), name, value}, exit_usage, name);
    }
  }
  refuses({"--model", path("model"), "--temperature", "-1"}, exit_usage, "--temperature");
  refuses({"--model", path("model"), "--top-k", "-1"}, exit_usage, "--top-k");
  refuses({"--model", path("model"), "--many"}, exit_usage, "--many");
  refuses({"--model", path("none")}, exit_failure, "none/config.json': No such file");
  write_model("words", changed({{"vocab_size", 320}}));
  refuses({"--model", path("words")}, exit_failure,
          "has 320 tokens and no tokenizer, such as spiece.model");
  write_model("encoder",
              changed({{"architectures", {"ReformerForMaskedLM"}}, {"is_decoder", false}}));
  refuses({"--model", path("encoder")}, exit_failure, "is no ReformerModelWithLMHead");
  write_file(folder_ / "words/spiece.model", "not a model");
  refuses({"--model", path("words")}, exit_failure, "spiece.model'");
}

#ifdef TOKENS_WITH_ICU
TEST_F(Generate, WritesTokensOfTheFoldersTokenizer) {
  // Byte-level BPE where byte b is token b, but for one merge and one special token.
  json vocabulary;
  std::uint32_t other = 256;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool is_plain = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const std::uint32_t c = is_plain ? byte : other++;
    std::string spelled(1, static_cast<char>(c < 128 ? c : 0xc0 | c >> 6));
    if (c >= 128) spelled += static_cast<char>(0x80 | (c & 63));
    vocabulary[spelled] = byte;
  }
  vocabulary["ab"] = 256;
  vocabulary["<|endoftext|>"] = 257;
  write_file(folder_ / "model/vocab.json", vocabulary.dump());
  write_file(folder_ / "model/merges.txt", "#version: 0.2\na b\n");
  HuggingFace model = HuggingFace::load(folder_ / "model");
  reformer::Workspace workspace(1);
  std::vector<std::int32_t> tokens = {257, 256, 'c'};
  std::string expected;
  for (int i = 0; i < 12; ++i) {
    const auto logits = model.next_token_logits(workspace, tokens, {.key = {1}});
    tokens.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    const std::int32_t token = tokens.back();
    if (token < 256) expected += static_cast<char>(static_cast<unsigned char>(token));
    if (token == 256) expected += "ab";
  }
  const Strings options = {"--prompt", "<|endoftext|>abc", "--length", "12", "--temperature", "0"};
  EXPECT_EQ(text(options), expected);
  vocabulary["ac"] = 258;
  write_file(folder_ / "model/vocab.json", vocabulary.dump());
  const Outcome outcome = generate_text(Strings{"--model", path("model")} + options);
  EXPECT_EQ(outcome.code, exit_failure);
  EXPECT_TRUE(contains(outcome.error,
                       "(byte-level BPE, 259 tokens) has more tokens than the model, "
                       "which has 258"));
}
#endif

TEST_F(Generate, ShowsHelp) {
  const Outcome outcome = generate_text({"--help"});
  EXPECT_EQ(outcome.code, exit_success);
  for (const char* option :
       {"--model", "--prompt", "--length", "--temperature", "--top-k", "--top-p", "--seed"}) {
    EXPECT_TRUE(contains(outcome.out, option));
  }
}

// ---- text that grows

/// All pieces, handed out while `texts` follow one another.
Strings pieces_of(const Strings& texts) {
  huggingface::TextStream stream("");
  Strings pieces;
  for (const std::string& text : texts) pieces.emplace_back(stream.more(text));
  pieces.emplace_back(stream.rest(texts.back()));
  return pieces;
}

TEST(TextStream, CutsOnlyBetweenCharacters) {
  // One to four bytes each, and the ends of the ranges.
  const Strings characters = {"a",
                              "\xc2\x80",
                              "\xdf\xbf",
                              "\xe0\xa0\x80",
                              "\xed\x9f\xbf",
                              "\xef\xbf\xbe",
                              "\xf0\x90\x80\x80",
                              "\xf4\x8f\xbf\xbf"};
  std::string all;
  for (const std::string& character : characters) all += character;
  // In every way to cut in two, and byte by byte.
  for (std::size_t cut = 0; cut <= all.size(); ++cut) {
    const Strings pieces = pieces_of({all.substr(0, cut), all});
    EXPECT_EQ(pieces[0] + pieces[1], all) << cut;
    for (const std::string& piece : pieces) {
      EXPECT_EQ(reformer::first_non_utf8(piece), piece.size()) << cut;
    }
  }
  Strings texts;
  for (std::size_t end = 1; end <= all.size(); ++end) texts.push_back(all.substr(0, end));
  Strings seen = pieces_of(texts);
  std::erase(seen, "");
  EXPECT_EQ(seen, characters);
}

TEST(TextStream, LetsInvalidBytesPass) {
  // Three bytes of any kind: all comes out, unchanged, and nothing waits for what cannot come.
  const std::string kinds = "a\x80\xa0\xbf\xc1\xc2\xe0\xed\xef\xf0\xf4\xf5\xff";
  for (const char a : kinds) {
    for (const char b : kinds) {
      for (const char c : kinds) {
        const std::string text = {a, b, c};
        Strings pieces = pieces_of({text.substr(0, 1), text.substr(0, 2), text, text + "a"});
        EXPECT_EQ(pieces.back(), "") << reformer::in_quotes(text);
        std::string joined;
        for (const std::string& piece : pieces) joined += piece;
        EXPECT_EQ(joined, text + "a");
      }
    }
  }
  EXPECT_EQ(pieces_of({"a\xe0\x80"}), (Strings{"a\xe0\x80", ""})) << "an overlong form";
  EXPECT_EQ(pieces_of({"a\xe2\x82"}), (Strings{"a", "\xe2\x82"})) << "the text ends there";
}

TEST(TextStream, WaitsForReplacementCharacters) {
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(pieces_of({"a" + r, "a" + r + r, "a" + r + r + r, "a\xf0\x9f\x98\x80"}),
            (Strings{"a", "", "", "\xf0\x9f\x98\x80", ""}));
  EXPECT_EQ(pieces_of({"a" + r, "a" + r + r, "a" + r + r + "b"}),
            (Strings{"a", "", r + r + "b", ""}));
  EXPECT_EQ(pieces_of({r + r + r + r + r}), (Strings{r + r, r + r + r}));
  huggingface::TextStream after("prompt");
  EXPECT_EQ(after.more("prompt b"), " b");
}

#ifdef TOKENS_WITH_SENTENCEPIECE
/// A model of sentencepiece with 256 bytes behind <unk>, a space and "a", in its own format.
std::string pieces_with_bytes() {
  const auto field = [](int number, const std::string& content) {
    return std::string{static_cast<char>(number << 3 | 2), static_cast<char>(content.size())} +
           content;
  };
  enum Type : char { normal = 1, unknown = 2, byte = 6 };
  const auto piece = [&](const std::string& text, Type type) {
    // score -1 as a float, and the type
    return field(1,
                 field(1, text) + std::string("\x15\x00\x00\x80\xbf\x18", 6) + std::string{type});
  };
  std::string model = piece("<unk>", unknown) + piece("\xe2\x96\x81", normal) + piece("a", normal);
  for (int b = 0; b < 256; ++b) model += piece(fmt::format("<0x{:02X}>", b), byte);
  return model + field(2, std::string("\x18\x01\x98\x02\x01", 5));  // unigram, byte_fallback
}

TEST_F(Generate, CharactersOfSeveralPiecesComeOutWhole) {
  write_model("pieces", changed({{"vocab_size", 259}}));
  write_file(folder_ / "pieces/spiece.model", pieces_with_bytes());
  const auto tokenizer = tokens::load_tokenizer(folder_ / "pieces");
  const std::string sentence = "a \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 a";
  const auto tokens = tokenizer->encode(sentence);
  ASSERT_EQ(tokenizer->decode(tokens), sentence);
  Strings texts;
  for (std::size_t n = 1; n <= tokens.size(); ++n) {
    texts.push_back(tokenizer->decode(std::span(tokens).first(n)));
  }
  std::string shown;
  for (const std::string& piece : pieces_of(texts)) {
    EXPECT_EQ(piece.find("\xef\xbf\xbd"), std::string::npos);
    shown += piece;
  }
  EXPECT_EQ(shown, sentence);

  // The program: what it has written in the end is what its tokens are decoded to.
  HuggingFace model = HuggingFace::load(folder_ / "pieces");
  reformer::Workspace workspace(1);
  const reformer::RandomStream stream({5}, reformer::Purpose::sampling);
  std::vector<std::int32_t> all = tokenizer->encode("a");
  for (std::uint64_t i = 0; i < 150; ++i) {
    const auto context = std::span(all).last(std::min<std::size_t>(64, all.size()));
    const auto logits = model.next_token_logits(workspace, context, {.key = {5}});
    all.push_back(static_cast<std::int32_t>(reformer::sample_token(
        std::span<const float>(logits), {.temperature = 3, .top_p = 1}, stream.uniform(i))));
  }
  const Outcome outcome =
      generate_text({"--model", path("pieces"), "--threads", "1", "--prompt", "a", "--length",
                     "150", "--temperature", "3", "--top-p", "1", "--seed", "5"});
  EXPECT_EQ(outcome.code, exit_success) << outcome.error;
  EXPECT_EQ("a" + outcome.out, tokenizer->decode(all));
}
#endif

}  // namespace
}  // namespace enwik8::test
