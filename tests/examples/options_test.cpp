// SPDX-License-Identifier: MIT
#include "enwik8/options.hpp"

#include <gtest/gtest.h>

#include <CLI/Version.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "examples/support.hpp"

namespace enwik8::test {
namespace {

using nlohmann::json;

using Numbers = std::vector<std::int64_t>;

std::vector<std::string> words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) {
    result.push_back(word);
  }
  return result;
}

Options parse(const std::string& line) {
  return parse_options(words(line)).options;
}

std::string error_of(const std::string& line) {
  return message_of<OptionError>([&] { parse(line); });
}

TEST(Options, NeedsNone) {
  const Options options = parse("");
  EXPECT_EQ(options.preset, "quick");
  EXPECT_EQ(options.minutes, 5);
  EXPECT_EQ(options.steps, 0);
  EXPECT_TRUE(options.given.empty());
  EXPECT_EQ(options.head_width * options.heads, options.width);
  EXPECT_EQ(options.ff_width, 4 * options.width);
}

TEST(Options, ReadsEveryKindOfValue) {
  const Options options = parse(
      "--data a.gz --steps 7 --layers exact,lsh --width 96 --heads=3 --buckets 16,32 --dropout "
      "0.25 "
      "--seed 18446744073709551615 --optimizer adafactor --resume --out b --learning-rate 3e-4");
  EXPECT_EQ(options.data, "a.gz");
  EXPECT_EQ(options.steps, 7);
  EXPECT_EQ(options.minutes, 0) << "steps replace the minutes of the preset";
  EXPECT_EQ(options.layers, (Strings{"exact", "lsh"}));
  EXPECT_EQ(options.width, 96);
  EXPECT_EQ(options.heads, 3);
  EXPECT_EQ(options.buckets, (Numbers{16, 32}));
  EXPECT_EQ(options.dropout, 0.25);
  EXPECT_EQ(options.seed, 18446744073709551615u);
  EXPECT_EQ(options.optimizer, "adafactor");
  EXPECT_TRUE(options.resume);
  EXPECT_EQ(options.out, "b");
  EXPECT_EQ(options.learning_rate, 3e-4);
  EXPECT_TRUE(options.given.contains("width"));
  EXPECT_FALSE(options.given.contains("length"));
}

TEST(Options, TheLastOfTwoCounts) {
  EXPECT_EQ(parse("--batch 2 --batch 3").batch, 3);
}

TEST(Options, DropoutGrowsForSoManyPassesOverTheData) {
  const Options one = parse("--dropout-passes 1"), four = parse("--dropout-passes 4");
  EXPECT_EQ(one.dropout_share(0), 0);
  EXPECT_EQ(one.dropout_share(0.25), 0.25);
  EXPECT_EQ(four.dropout_share(3), 0.75);
  EXPECT_EQ(four.dropout_share(4), 1);
  EXPECT_EQ(four.dropout_share(400), 1);
  EXPECT_EQ(parse("--dropout-passes 0").dropout_share(0), 1);
}

TEST(Options, PresetsFillWhatIsNotGiven) {
  for (const std::string& name : preset_names()) {
    const Options options = parse("--preset " + name);
    EXPECT_EQ(options.preset, name);
    EXPECT_NE(options.minutes > 0, options.steps > 0) << name;
  }
  const Options paper = parse("--width 512 --axial-widths 128,384 --preset paper");
  EXPECT_EQ(paper.width, 512);
  EXPECT_EQ(paper.length, 65536);
  EXPECT_EQ(paper.layers.size(), 12u);
  EXPECT_EQ(paper.steps, 100'000);
  EXPECT_EQ(parse("--preset paper --minutes 3").steps, 0);
}

TEST(Options, RefusesWithOneLine) {
  EXPECT_EQ(error_of("--preset huge"), "--preset is 'huge'; allowed: quick, hour, day, paper");
  EXPECT_EQ(error_of("--no-such 3"),
            "unknown option '--no-such'; see --help for those that are known");
  EXPECT_EQ(error_of("enwik8.gz"),
            "unknown argument 'enwik8.gz'; see --help for those that are known");
  EXPECT_EQ(error_of("--width"), "--width needs a value; see --help");
  EXPECT_EQ(error_of("--minutes 1 --steps 2"),
            "--minutes 1 and --steps 2 exclude each other; give one");
  for (const char* word : {"--resume=false", "--resume=true", "--by-distance=0", "--help=no"}) {
    EXPECT_EQ(error_of(word), std::string(word).substr(0, std::string(word).find('=')) +
                                  " takes no value; see --help");
  }
  EXPECT_EQ(error_of("--resume"), "--resume needs --out, the folder of the run to continue");
  EXPECT_TRUE(contains(error_of("--data="), "--data"));
}

TEST(Options, RefusesSizesThatAreZeroNegativeOrNoNumbers) {
  for (const char* name : {"length", "width", "heads", "chunk-length", "hashes", "batch",
                           "accumulate", "steps", "log-every", "eval-bytes"}) {
    for (const char* value : {"0", "-1", "abc", "1.5", "1e3", "99999999999999999999", "7x"}) {
      EXPECT_TRUE(contains(
          error_of(std::string("--") + name + " " + value),
          std::string("--") + name + " is '" + value + "'; allowed: a whole number from 1"))
          << name;
    }
  }
  for (const char* value : {"0", "-1", "nan", "inf", "x"}) {
    EXPECT_EQ(
        error_of(std::string("--minutes ") + value),
        std::string("--minutes is '") + value + "'; allowed: a number above 0 and up to 10000000");
  }
  // Decimal numbers and nothing else, whatever a stream or a locale would take
  for (const char* value : {"+1", "1,5", "0x1p3", "0x8", "1e", "1e+", "1.5.", ".", "-", "e5", "1f",
                            "infinity", "1e999", "1e-999", "1_000"}) {
    EXPECT_EQ(error_of(std::string("--learning-rate ") + value).substr(0, 19),
              "--learning-rate is ")
        << value;
  }
  const auto read = [](const char* value) {
    return parse(std::string("--sample-temperature ") + value).sample_temperature;
  };
  EXPECT_EQ(read("1."), 1);
  EXPECT_EQ(read(".5"), .5);
  EXPECT_EQ(read("007"), 7);
  EXPECT_EQ(read("-0"), 0);
  EXPECT_EQ(read("0e9"), 0);
  EXPECT_EQ(read("25E-2"), .25);
  EXPECT_EQ(read("3e+1"), 30);
  EXPECT_EQ(read("0.1"), 0.1);
  EXPECT_EQ(error_of("--dropout 1"), "--dropout is '1'; allowed: a number from 0 and below 1");
  EXPECT_TRUE(contains(error_of("--seed -1"), "--seed is '-1'"));
  EXPECT_TRUE(contains(error_of("--threads -1"), "allowed: a whole number from 0 to"));
  EXPECT_EQ(error_of("--optimizer sgd"), "--optimizer is 'sgd'; allowed: adam, adafactor, muon");
  EXPECT_EQ(error_of("--layers local,conv"),
            "--layers is 'local,conv'; allowed: a comma list of local, lsh, bucket, exact, or of "
            "some joined by +");
  EXPECT_TRUE(contains(error_of("--layers local,local+"), "--layers is 'local,local+'"));
  EXPECT_TRUE(contains(error_of("--layers local+conv"), "--layers is 'local+conv'"));
  EXPECT_TRUE(contains(error_of("--values own+mixed"), "--values is 'own+mixed'"));
  EXPECT_EQ(error_of("--layers local,local+bucket --heads 3 --width 96"),
            "--layers is 'local,local+bucket'; allowed: with --heads 3 a number of kinds that "
            "divides it, unlike the 2 of local+bucket");
  EXPECT_EQ(parse("--layers local+local+bucket --heads 3 --width 96").layers,
            Strings{"local+local+bucket"});
  EXPECT_TRUE(contains(error_of("--layers local,"), "--layers is 'local,'"));
  EXPECT_EQ(error_of("--values next"),
            "--values is 'next'; allowed: a comma list of own, following, mixed");
}

TEST(Options, RefusesCombinationsThatDoNotFit) {
  EXPECT_EQ(error_of("--width 30 --heads 4"),
            "--width is '30'; allowed: a multiple of --heads 4, or give --head-width");
  EXPECT_EQ(parse("--width 30 --heads 4 --head-width 8").head_width, 8);
  EXPECT_EQ(error_of("--positions axial --length 1000 --axial-shape 30,33"),
            "--axial-shape is '30,33'; allowed: two numbers whose product is at least --length "
            "1000");
  EXPECT_TRUE(contains(error_of("--positions axial --axial-shape 7"),
                       "allowed: two or three numbers, or 0"));
  EXPECT_TRUE(
      contains(error_of("--positions axial --axial-shape 0,1024"), "whole numbers from 1 to"));
  EXPECT_EQ(error_of("--positions axial --width 64 --heads 2 --axial-widths 30,30"),
            "--axial-widths is '30,30'; allowed: two numbers whose sum is --width 64, or 0");
  EXPECT_EQ(error_of("--positions axial --axial-shape 32,16,3 --length 1537"),
            "--axial-shape is '32,16,3'; allowed: three numbers whose product is at least --length "
            "1537");
  EXPECT_EQ(error_of("--positions axial --axial-shape 65536,65536,3"),
            "--axial-shape is '65536,65536,3'; allowed: three numbers whose product is at most "
            "2147483647");
  EXPECT_EQ(error_of("--layers local,lsh,local --values own,following"),
            "--values is 'own,following'; allowed: one word, or one for each of the 3 layers");
  EXPECT_EQ(error_of("--layers local,lsh,local --scores dot,cosine"),
            "--scores is 'dot,cosine'; allowed: one word, or one for each of the 3 layers");
  EXPECT_TRUE(contains(error_of("--buckets 5"), "allowed: an even number"));
  EXPECT_TRUE(contains(error_of("--buckets 4,5"), "allowed: an even number"));
  // The number of buckets of bucket layers is part of the configuration.
  EXPECT_EQ(parse("--layers bucket,lsh --length 1000 --chunk-length 64").buckets, (Numbers{8, 16}));
  EXPECT_EQ(parse("--layers bucket --length 1024 --chunk-length 64").buckets, (Numbers{16, 16}));
  EXPECT_EQ(parse("--layers bucket --length 1023 --chunk-length 64").buckets, (Numbers{8, 16}));
  EXPECT_EQ(parse("--layers bucket --length 9 --chunk-length 64").buckets, (Numbers{2, 2}));
  EXPECT_EQ(parse("--layers bucket --length 999999 --chunk-length 4").buckets, (Numbers{128, 256}));
  EXPECT_EQ(parse("--layers lsh,local+local+bucket --length 1024 --chunk-length 64").buckets,
            (Numbers{16, 16}));
  EXPECT_EQ(parse("--layers bucket --buckets 4,8").buckets, (Numbers{4, 8}));
  EXPECT_EQ(parse("--layers local,lsh").buckets, Numbers{0});
  EXPECT_NO_THROW(parse("--length 1000 --axial-shape 30,33 --positions learned"));
}

TEST(Options, FindsAnAxialShapeForAnyLength) {
  for (const std::int64_t length : {1, 2, 3, 63, 64, 65, 1000, 1024, 65536, 999'999'999}) {
    const Options options = parse("--positions axial --length " + std::to_string(length));
    ASSERT_EQ(options.axial_shape.size(), 2u);
    const std::int64_t product = options.axial_shape[0] * options.axial_shape[1];
    EXPECT_GE(product, length);
    EXPECT_LT(product - length, options.axial_shape[1]);
  }
  EXPECT_EQ(parse("--positions axial --length 1024").axial_shape, (Numbers{32, 32}));
  EXPECT_EQ(parse("--positions axial --width 256 --heads 4").axial_widths, (Numbers{64, 192}));
  const Options picture =
      parse("--positions axial --width 256 --heads 4 --length 12288 --axial-shape 64,64,3");
  EXPECT_EQ(picture.axial_widths, (Numbers{85, 85, 86}));
}

TEST(Options, HelpShowsAllOptionsWithTheirDefaults) {
  const std::string help = parse_options({"--help"}).help;
  const json all = options_to_json(Options());
  for (const auto& item : all.items()) {
    EXPECT_TRUE(contains(help, "--" + item.key()));
  }
  EXPECT_TRUE(contains(help, "[local,bucket,local]"));
  EXPECT_TRUE(contains(help, "--resume"));
  EXPECT_TRUE(contains(parse_options({"--help", "--preset", "paper"}).help, "[65536]"));
  EXPECT_TRUE(contains(parse_options({"-h"}).help, "Presets:"));
}

TEST(Options, HelpIsWhatRunShShows) {
#if CLI11_VERSION_MAJOR != 2 || CLI11_VERSION_MINOR != 1
  GTEST_SKIP() << "another version of CLI11 lays the text out in another way";
#endif
  EXPECT_EQ(parse_options({"--help"}).help, read_file(SOURCE_DIR "/examples/enwik8/help.txt"))
      << "make it anew: build/.../enwik8 --help >examples/enwik8/help.txt";
}

TEST(Options, ComeFromAFileToo) {
  const TemporaryFolder folder;
  const auto with = [&](const std::string& text, const std::string& line = "") {
    write_file(folder / "c.json", text);
    return parse("--config " + (folder / "c.json").string() + " " + line);
  };
  const std::string text = R"({"width": 96, "preset": "hour", "layers": "local,lsh",
                               "learning-rate": 0.5, "steps": 7, "minutes": 0, "out": "x"})";
  const Options options = with(text);
  EXPECT_EQ(options.width, 96);
  EXPECT_EQ(options.preset, "hour");
  EXPECT_EQ(options.heads, 4) << "of the preset";
  EXPECT_EQ(options.layers, (Strings{"local", "lsh"}));
  EXPECT_EQ(options.learning_rate, 0.5);
  EXPECT_EQ(options.steps, 7);
  EXPECT_EQ(options.out, "") << "the folder of the run it is from";
  EXPECT_EQ(with(text, "--width 48").width, 48) << "the command line comes first";
  EXPECT_EQ(with(text, "--minutes 3").steps, 0) << "one limit puts the other out of force";
  EXPECT_EQ(with(R"({"type":"header","options":{"seed":5}})"
                 "\n{\"type\":\"train\"}\n")
                .seed,
            5u)
      << "of metrics";

  // What a run saves gives the same options, of each preset, and leaves rules to be rules.
  for (const std::string& name : preset_names()) {
    const Options saved = parse("--preset " + name);
    EXPECT_EQ(options_to_json(with(saved.asked.dump())), options_to_json(saved)) << name;
    EXPECT_EQ(options_to_json(with(options_to_json(saved).dump())), options_to_json(saved)) << name;
  }
  // What it says as its preset does anyway, nobody asked for.
  const std::string all = parse("--width 96").asked.dump();
  EXPECT_EQ(with(all).given, (std::set<std::string>{"config", "width"}));
  EXPECT_EQ(with(all, "--heads 2").given, (std::set<std::string>{"config", "heads", "width"}));
  const Options narrow = with(parse("").asked.dump(), "--width 96");
  EXPECT_EQ(narrow.ff_width, 4 * 96);

  const auto error = [&](const std::string& content) {
    return message_of<OptionError>([&] { with(content); });
  };
  EXPECT_TRUE(contains(error("{\"widht\": 3}"), "options of this program, but it has 'widht'"));
  EXPECT_TRUE(contains(error("{\"resume\": \"true\"}"), "but it has 'resume'"));
  EXPECT_TRUE(contains(error("{\"width\": [3]}"), "numbers and words, but its 'width' is [3]"));
  EXPECT_TRUE(contains(error("{\"width\": -3}"), "--width is '-3'; allowed: "));
  EXPECT_TRUE(contains(error("width = 3"), "allowed: a JSON object of options"));
  EXPECT_TRUE(contains(error_of("--config " + (folder / "none").string()),
                       "none'; allowed: a file that can be read, or the folder of a run"));
}

TEST(Options, ComeFromAFileOfTomlToo) {
#ifndef TRAINING_WITH_TOML
  GTEST_SKIP() << "built without toml++";
#endif
  const TemporaryFolder folder;
  const auto with = [&](const std::string& text, const std::string& line = "") {
    write_file(folder / "c.toml", text);
    return parse("--config " + (folder / "c.toml").string() + " " + line);
  };
  const std::string text =
      "# a comment\nwidth = 96\npreset = \"hour\"\nlayers = 'local,lsh'\nlearning-rate = 5e-1\n"
      "steps = 7\nminutes = 0\nout = \"x\"\n";
  const Options options = with(text);
  EXPECT_EQ(options.width, 96);
  EXPECT_EQ(options.heads, 4) << "of the preset";
  EXPECT_EQ(options.layers, (Strings{"local", "lsh"}));
  EXPECT_EQ(options.learning_rate, 0.5);
  EXPECT_EQ(options.steps, 7);
  EXPECT_EQ(options.out, "");
  EXPECT_EQ(with(text, "--width 48").width, 48) << "the command line comes first";
  EXPECT_EQ(with(text, "--minutes 3").steps, 0) << "one limit puts the other out of force";
  EXPECT_EQ(with("type = 'header'\n[options]\nseed = 5\n").seed, 5u);
  EXPECT_EQ(options_to_json(with("# nothing\n")), options_to_json(parse("")));

  // What a run saves gives the same options in either form.
  for (const std::string& name : preset_names()) {
    const Options saved = parse("--preset " + name);
    std::string lines;
    for (const auto& [key, value] : saved.asked.items()) {
      if (!value.is_null()) lines += key + " = " + value.dump() + "\r\n";
    }
    EXPECT_EQ(options_to_json(with(lines)), options_to_json(saved)) << name;
  }

  const auto error = [&](const std::string& content) {
    return message_of<OptionError>([&] { with(content); });
  };
  EXPECT_TRUE(contains(error("widht = 3"), "options of this program, but it has 'widht'"));
  EXPECT_TRUE(contains(error("resume = true"), "numbers and words, but its 'resume' is true"));
  EXPECT_TRUE(contains(error("width = [3]"), "numbers and words, but its 'width' is [3]"));
  EXPECT_TRUE(contains(error("width.more = 3"), "but its 'width' is {\"more\":3}"));
  EXPECT_TRUE(contains(error("width = -3"), "--width is '-3'; allowed: "));
  EXPECT_TRUE(contains(error("width = 1979-05-27"), "--width is '1979-05-27'; allowed: "));
  EXPECT_TRUE(contains(error("learning-rate = inf"), "--learning-rate is 'inf'; allowed: "));
  const std::string broken = error("width = 96\nlayers = local\n");
  EXPECT_TRUE(contains(broken,
                       "c.toml'; allowed: lines of TOML such as width = 256 or layers = "
                       "\"local,lsh\", but line 2: "));
  EXPECT_FALSE(contains(broken, "\n"));
  EXPECT_TRUE(contains(error("width = 3\nwidth = 3\n"), "but line 2: "));
  EXPECT_TRUE(contains(error("{\"width\": 3}"), "but line 1: "));
  EXPECT_TRUE(contains(error("width = 3 # \xff"), "but line 1: "));
}

TEST(Options, SurviveJson) {
  for (const std::string& name : preset_names()) {
    const Options options = parse("--preset " + name);
    const json saved = json::parse(options_to_json(options).dump());
    EXPECT_EQ(options_to_json(options_from_json(saved)), saved);
  }
  json bad = options_to_json(Options());
  bad["width"] = -3;
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { options_from_json(bad); }),
                       "the saved options are not usable: --width is '-3'"));
}

TEST(Options, AreReadFromCheckpointsOfOtherVersions) {
  const json all =
      options_to_json(parse("--preset hour --width 384 --heads 6 --residual fixed --seed 7"));
  const json defaults = options_to_json(Options());
  for (const auto& item : all.items()) {
    json older = all;
    older.erase(item.key());
    json expected = all;
    expected[item.key()] = defaults[item.key()];
    EXPECT_EQ(options_to_json(options_from_json(older)), expected) << item.key();
  }
  EXPECT_EQ(options_to_json(options_from_json(json::object())), defaults);
  json newer = all;
  newer["sparsity"] = 0.5;
  EXPECT_EQ(
      message_of<std::runtime_error>([&] { options_from_json(newer); }),
      "the saved options have 'sparsity', which this program does not know; use the one that wrote "
      "them, in its version");
}

TEST(Options, ResumeTakesTheRestFromTheCheckpoint) {
  const json saved =
      options_to_json(parse("--preset hour --width 192 --data text --steps 50 --eval-every 7"));
  const Options options =
      merge_for_resume(parse("--resume --out run --threads 3 --minutes 2"), saved);
  EXPECT_EQ(options.preset, "hour");
  EXPECT_EQ(options.width, 192);
  EXPECT_EQ(options.data, "text");
  EXPECT_EQ(options.eval_every, 7);
  EXPECT_EQ(options.threads, 3);
  EXPECT_EQ(options.minutes, 2);
  EXPECT_EQ(options.steps, 0) << "the limits are one option of two kinds";
  EXPECT_EQ(options.out, "run");
  EXPECT_EQ(merge_for_resume(parse("--resume --out run"), saved).steps, 50);
}

TEST(Options, ResumeRefusesAnotherConfiguration) {
  const json saved = options_to_json(parse("--width 192 --heads 4"));
  const auto error = [&](const std::string& line) {
    return message_of<OptionError>(
        [&] { merge_for_resume(parse("--resume --out run " + line), saved); });
  };
  EXPECT_EQ(error("--width 256"),
            "--width is '256', but the run in 'run' has '192': leave it out, or begin another run "
            "with another --out");
  EXPECT_TRUE(contains(error("--preset paper"), "--preset is 'paper'"));
  EXPECT_TRUE(contains(error("--seed 2"), "--seed is '2'"));
  EXPECT_TRUE(contains(error("--seed 0"), "--seed is '0'"));
  EXPECT_TRUE(contains(error("--layers lsh"), "--layers is 'lsh'"));
  // Saying the same again is fine, as a value or by its rule.
  EXPECT_EQ(error("--width 192 --head-width 48"), "NOTHING WAS THROWN");
  EXPECT_EQ(error("--head-width 0 --axial-shape 0"), "NOTHING WAS THROWN");
}

TEST(GenerateOptions, ReadsAndChecks) {
  const GenerateOptions options =
      parse_generate_options({"--checkpoint", "run", "--prompt", "two words", "--top-k", "5"})
          .options;
  EXPECT_EQ(options.checkpoint, "run");
  EXPECT_EQ(options.prompt, "two words");
  EXPECT_EQ(options.top_k, 5);
  EXPECT_EQ(parse_generate_options({"--checkpoint", "run", "--prompt", ""}).options.prompt, "");
  const auto error = [](const std::vector<std::string>& arguments) {
    return message_of<OptionError>([&] { parse_generate_options(arguments); });
  };
  EXPECT_TRUE(contains(error({}), "--checkpoint is missing"));
  EXPECT_TRUE(contains(error({"--checkpoint", "c", "--top-p", "0"}),
                       "--top-p is '0'; allowed: a number above 0 and up to 1"));
  EXPECT_TRUE(contains(error({"--checkpoint", "c", "--prompt", "a", "--prompt-file", "b"}),
                       "exclude each other"));
  EXPECT_TRUE(contains(parse_generate_options({"--help"}).help, "--temperature"));
}

}  // namespace
}  // namespace enwik8::test
