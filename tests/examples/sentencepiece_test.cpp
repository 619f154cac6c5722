// SPDX-License-Identifier: MIT
/// Vocabularies of sentencepiece, learned and given.

#include <gtest/gtest.h>

#include <random>
#include <sstream>

#include "examples/tokens.hpp"
#include "tokens/sentencepiece.hpp"

#ifdef TOKENS_WITH_SENTENCEPIECE
#include <sentencepiece_trainer.h>
#endif

namespace tokens::test {
namespace {

#ifdef TOKENS_WITH_SENTENCEPIECE

/// Lines with words that come again.
std::string sample_text() {
  const Strings words = {"the",     "model", "reads", "bytes", "and",
                         "writes",  "them",  "again", "  in",  "\xc3\xa9t\xc3\xa9",
                         "(order)", "12"};
  std::mt19937 random(9);
  std::string text;
  for (int line = 0; line < 400; ++line) {
    for (std::size_t i = random() % 12; i > 0; --i) {
      text += words[random() % words.size()];
      text += i > 1 ? " " : "";
    }
    text += '\n';
  }
  return text;
}

class Sentencepiece : public testing::TestWithParam<PieceModel> {
 protected:
  /// A model as `spm_train` makes it.
  fs::path given(std::unordered_map<std::string, std::string> more) const {
    more.insert({{"model_type", GetParam() == PieceModel::bpe ? "bpe" : "unigram"},
                 {"minloglevel", "4"},
                 {"num_threads", "1"}});
    std::istringstream text(sample_text());
    struct Lines : sentencepiece::SentenceIterator {
      explicit Lines(std::istream& from) : text(from) { Next(); }
      bool done() const override { return !text; }
      void Next() override { std::getline(text, line); }
      const std::string& value() const override { return line; }
      sentencepiece::util::Status status() const override { return {}; }
      std::istream& text;
      std::string line;
    } lines(text);
    std::string model;
    EXPECT_TRUE(sentencepiece::SentencePieceTrainer::Train(more, &lines, &model).ok());
    write_file(folder_ / "given.model", model);
    return folder_ / "given.model";
  }
  fs::path learned(std::int32_t vocabulary = 300) const {
    VocabularyTrainer trainer({.vocabulary = vocabulary, .model = GetParam()});
    trainer.add(sample_text());
    trainer.train(folder_ / "learned.model");
    return folder_ / "learned.model";
  }
  /// Line by line, as `spm_encode` does it.
  static Ids reference(const fs::path& path, const std::string& text, std::int32_t line_end) {
    sentencepiece::SentencePieceProcessor processor;
    EXPECT_TRUE(processor.Load(path.string()).ok());
    std::istringstream lines(text);
    Ids ids;
    for (std::string line; std::getline(lines, line);) {
      const auto pieces = processor.EncodeAsIds(line);
      ids.insert(ids.end(), pieces.begin(), pieces.end());
      if (line_end >= 0 && !lines.eof()) ids.push_back(line_end);
    }
    return ids;
  }

  TemporaryFolder folder_;
};

TEST_P(Sentencepiece, ALearnedVocabularyGivesBackEveryByte) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  std::unique_ptr<Tokenizer> tokenizer;
  EXPECT_NO_THROW(tokenizer = load_tokenizer(learned()));
  EXPECT_EQ(testing::internal::GetCapturedStdout() + testing::internal::GetCapturedStderr(), "");
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->vocabulary(), 300);
  EXPECT_EQ(tokenizer->what_is_lost(), "");
  std::mt19937 random(10);
  for (std::size_t i = 0; i < 500; ++i) {
    std::string text = bytes_of(random_text(random, i % 50));
    text += sample_text().substr(random() % 1000, random() % 100);
    if (i % 3 == 0) text += "\xe2\x96\x81\xe2\x96\x85 </s><unk>\r\n\t";
    const Ids ids = tokenizer->encode(text);
    ASSERT_EQ(tokenizer->decode(ids), text);
    ASSERT_EQ(joined_bytes(*tokenizer, ids), text);
    const std::size_t p = expect_safe_split(*tokenizer, text, {"", "a", " b", "\n"});
    ASSERT_EQ(p, text.rfind('\n') + 1);
    const auto end = tokenizer->end_of_document();
    ASSERT_TRUE(end);
    ASSERT_EQ(std::count(ids.begin(), ids.end(), *end), 0);
    ASSERT_EQ(tokenizer->decode(Ids{*end, -1, 300} + ids), text);
  }
  // The words have become tokens.
  const std::string text = sample_text();
  EXPECT_LT(tokenizer->encode(text).size(), text.size() * 2 / 3);
  EXPECT_EQ(tokenizer->encode(text),
            reference(folder_ / "learned.model", text, tokenizer->encode("\n").at(0)));
  EXPECT_EQ(tokenizer->encode(""), Ids());
}

TEST_P(Sentencepiece, GivenModelsHaveTheTokensOfTheirTool) {
  const std::string text =
      sample_text() + "  two  spaces \xef\xac\x81 \xe2\x96\x81 \xff unknown: \xd0\x96\n\n end";
  const fs::path path = given({{"vocab_size", "45"}});
  const auto tokenizer = load_tokenizer(path);
  EXPECT_EQ(tokenizer->encode(text), reference(path, text, -1));
  EXPECT_EQ(tokenizer->what_is_lost(),
            "'" + path.string() +
                "' does not give back every text: characters are normalised (nmt_nfkc); spaces at "
                "the ends of lines and after spaces are left out; so are ends of lines; characters "
                "without a piece become \"unknown\"");
  EXPECT_NE(tokenizer->what_is_lost(), "");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" the  model")), "the model");
  EXPECT_EQ(tokenizer->files(), std::vector<fs::path>{path});
  // Copied into a folder it is found there, unless there is another.
  fs::create_directories(folder_ / "copy");
  fs::copy(path, folder_ / "copy");
  EXPECT_EQ(load_tokenizer(folder_ / "copy")->checksum(), tokenizer->checksum());
  write_file(folder_ / "copy/other.model", "");
  EXPECT_FALSE(has_tokenizer(folder_ / "copy"));
  EXPECT_EQ(tokenizer->description(), GetParam() == PieceModel::bpe
                                          ? "sentencepiece (BPE), 45 tokens"
                                          : "sentencepiece (unigram), 45 tokens");
  // As LLaMA's: a space before each line, and a byte for its end.
  const fs::path spaced = given({{"vocab_size", "300"},
                                 {"byte_fallback", "true"},
                                 {"normalization_rule_name", "identity"},
                                 {"remove_extra_whitespaces", "false"}});
  const auto bytes = load_tokenizer(spaced);
  const Ids line_end = bytes->encode("\n");
  ASSERT_EQ(line_end.size(), 1u);
  EXPECT_EQ(bytes->bytes_of(line_end[0]), "\n");
  EXPECT_EQ(bytes->encode(text), reference(spaced, text, line_end[0]));
  const std::string clean = "  a the  model \n\n \xd0\x96 in\nbytes\n";
  EXPECT_EQ(bytes->decode(bytes->encode(clean)), clean);
  EXPECT_TRUE(contains(bytes->what_is_lost(), "every text: bytes that are no UTF-8"));
  EXPECT_NE(bytes->checksum(), tokenizer->checksum());
}

TEST_P(Sentencepiece, LearningDependsOnTextAlone) {
  const auto file = [&] { return reformer::test::read_file(learned()); };
  const std::string model = file();
  EXPECT_EQ(file(), model);
  VocabularyTrainer trainer({.vocabulary = 300, .model = GetParam()});
  const std::string text = sample_text();
  for (std::size_t i = 0; i < text.size(); i += 7) trainer.add(text.substr(i, 7));
  trainer.train(folder_ / "pieces.model");
  EXPECT_TRUE(reformer::test::read_file(folder_ / "pieces.model") == model);
  // A sample, of one endless line with bytes that are no text, is enough.
  VocabularyTrainer sampled({.vocabulary = 300, .model = GetParam(), .sample_bytes = 30'000});
  for (int i = 0; i < 20; ++i) {
    std::string line = text;
    std::replace(line.begin(), line.end(), '\n', i % 2 == 0 ? '\xff' : ' ');
    sampled.add(line);
  }
  sampled.train(folder_ / "sampled.model");
  EXPECT_LT(load_tokenizer(folder_ / "sampled.model")->encode(text).size(), text.size() * 2 / 3);
}

TEST_P(Sentencepiece, LearningThatFailsLeavesTheFile) {
  const auto refuse = [&](std::int32_t vocabulary, const std::string& text,
                          const std::string& part) {
    write_file(folder_ / "kept.model", "old");
    VocabularyTrainer trainer({.vocabulary = vocabulary, .model = GetParam()});
    trainer.add(text);
    EXPECT_TRUE(contains(
        message_of<std::runtime_error>([&] { trainer.train(folder_ / "kept.model"); }), part));
    EXPECT_EQ(reformer::test::read_file(folder_ / "kept.model"), "old");
    EXPECT_EQ(folder_.names(), Strings{"kept.model"});
  };
  refuse(300, "", "cannot learn a vocabulary of 300: there is no text");
  refuse(300, "\n\xff\n\t\xe2\x96\x81", "there is no text");
  refuse(300, "a", "cannot learn a vocabulary of 300: ");
  refuse(50'000, sample_text(), "50000: this text gives at most ");
  refuse(100, sample_text(), "100: this text takes at least ");
  refuse(0, sample_text(), "cannot learn a vocabulary of 0: ");
  refuse(-5, sample_text(), "cannot learn a vocabulary of -5: ");
  const reformer::test::FileSizeLimit full(100);
  VocabularyTrainer trainer({.vocabulary = 300, .model = GetParam()});
  trainer.add(sample_text());
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { trainer.train(folder_ / "kept.model"); }),
               "kept.model': File too large; the previous file is unchanged"));
  EXPECT_EQ(folder_.names(), Strings{"kept.model"});
}

INSTANTIATE_TEST_SUITE_P(Kinds, Sentencepiece,
                         testing::Values(PieceModel::unigram, PieceModel::bpe));

#endif

}  // namespace
}  // namespace tokens::test
