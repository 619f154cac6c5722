// SPDX-License-Identifier: MIT
#include "generate.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "reformer/io/huggingface.hpp"
#include "reformer/model/sampling.hpp"
#include "text_stream.hpp"
#include "tokens/tokenizer.hpp"
#include "training/option_table.hpp"

namespace huggingface {
namespace {

using Model = reformer::HuggingFaceModel<float>;
using reformer::Index;

struct Options {
  std::string model;
  std::string prompt;
  std::int64_t length = 200;
  reformer::SamplingOptions sampling{.temperature = 0.8, .top_p = 0.95};
  std::uint64_t seed = 1;
  int threads = 0;
};

/// @return the text of `--help`, or nothing
std::string parse(const std::vector<std::string>& arguments, Options& options) {
  CLI::App app("Continues a text with a Reformer in the layout of HuggingFace.", "generate");
  app.set_help_flag();
  app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  bool help = false;
  app.add_flag("-h,--help", help, "show this text");
  app.add_option("--model", options.model, "folder with config.json and model.safetensors")
      ->type_name("FOLDER");
  app.add_option("--prompt", options.prompt, "text to continue")->type_name("TEXT");
  app.add_option("--length", options.length, "tokens to write")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000'000}))
      ->capture_default_str();
  app.add_option(
         "--temperature", options.sampling.temperature,
         "below 1 more likely text, above 1 more surprising; 0: always the most likely token")
      ->capture_default_str();
  std::int64_t top_k = 0;
  app.add_option("--top-k", top_k, "choose among the k most likely tokens, 0: all")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1'000'000'000}))
      ->capture_default_str();
  app.add_option("--top-p", options.sampling.top_p,
                 "choose among the most likely tokens whose probabilities sum to this")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "the same seed writes the same text")
      ->check([](const std::string& text) {  // CLI11 takes what does not fit for the nearest number
        const char* end = text.data() + text.size();
        std::uint64_t seed = 0;
        const auto result = std::from_chars(text.data(), end, seed);
        return result.ec == std::errc() && result.ptr == end
                   ? std::string()
                   : fmt::format("'{}' is not a whole number from 0 to {}", text,
                                 std::numeric_limits<std::uint64_t>::max());
      })
      ->capture_default_str();
  app.add_option("--threads", options.threads, "threads, 0 for all")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    options.sampling.top_k = top_k;
  } catch (const CLI::ParseError& error) {
    throw training::OptionError(error.what());
  }
  if (help) {
    return app.help();
  }
  // CLI::Range takes NaN for a number in its range.
  const auto check_number = [](bool good, const char* name, double value, const char* allowed) {
    if (!good) {
      throw training::OptionError(fmt::format("--{} is '{}'; allowed: {}", name, value, allowed));
    }
  };
  const double temperature = options.sampling.temperature;
  const double top_p = options.sampling.top_p;
  check_number(std::isfinite(temperature) && temperature >= 0, "temperature", temperature,
               "a number from 0");
  check_number(top_p > 0 && top_p <= 1, "top-p", top_p, "a number above 0 and up to 1");
  if (options.model.empty()) {
    throw training::OptionError("--model is missing: give a folder with config.json");
  }
  return {};
}

/// The longest context whose padded length has positions.
Index longest_context(const reformer::ModelConfig& config) {
  const auto positions = reformer::max_length(config.positions);
  Index longest = positions.value_or(std::numeric_limits<Index>::max());
  while (longest > 1 && reformer::huggingface_padded_length(config, longest) > *positions) {
    --longest;
  }
  return longest;
}

/// What the folder holds, else bytes for a vocabulary of 256, or of 258, where byte b is token b
/// + 2.
std::unique_ptr<tokens::Tokenizer> tokenizer_of(const std::filesystem::path& folder,
                                                std::int64_t vocabulary) {
  if (tokens::has_tokenizer(folder)) {
    auto tokenizer = tokens::load_tokenizer(folder);
    if (tokenizer->vocabulary() > vocabulary) {
      throw std::runtime_error(
          fmt::format("the tokenizer in '{}' ({}) has more tokens than the model, which has {}",
                      folder.string(), tokenizer->description(), vocabulary));
    }
    return tokenizer;
  }
  constexpr std::int64_t num_bytes = 256;
  if (vocabulary == num_bytes || vocabulary == num_bytes + 2) {
    return std::make_unique<tokens::ByteTokenizer>(
        static_cast<std::int32_t>(vocabulary - num_bytes));
  }
  throw std::runtime_error(
      fmt::format("'{}' has {} tokens and no tokenizer, such as spiece.model or tokenizer.json; "
                  "without one, a model of bytes is expected, with 256 tokens or 258",
                  folder.string(), vocabulary));
}

int generate(const Options& options, const training::Console& console) {
  Model model = Model::load(options.model);
  const reformer::HuggingFaceConfig& config = model.config();
  if (config.kind != reformer::HuggingFaceClass::language_model) {
    throw std::runtime_error(fmt::format(
        "'{}' is no ReformerModelWithLMHead, so it does not say what comes next", options.model));
  }
  const auto tokenizer = tokenizer_of(options.model, config.model.vocabulary);
  std::vector<std::int32_t> tokens = tokenizer->encode_prompt(options.prompt);
  const auto in_prompt = static_cast<std::ptrdiff_t>(tokens.size());
  if (tokens.empty()) {
    tokens.push_back(config.padding_token);  // the model needs something to begin with
  }
  reformer::Workspace workspace(options.threads);
  const auto most = static_cast<std::size_t>(longest_context(config.model));
  const reformer::RandomStream stream({options.seed}, reformer::Purpose::sampling);
  const auto text_of = [&] {
    return tokenizer->decode(std::span(tokens).subspan(in_prompt > 0 ? 0 : 1));
  };
  TextStream shown(text_of());
  const auto write = [&](std::string_view text) {
    if (std::fwrite(text.data(), 1, text.size(), console.out) != text.size() ||
        std::fflush(console.out) != 0) {
      throw std::runtime_error(
          fmt::format("cannot write the text: {}", std::generic_category().message(errno)));
    }
  };
  for (std::int64_t i = 0; i < options.length; ++i) {
    const auto context = std::span(tokens).last(std::min(most, tokens.size()));
    const auto logits = model.next_token_logits(workspace, context, {.key = {options.seed}});
    const auto token = reformer::sample_token(std::span<const float>(logits), options.sampling,
                                              stream.uniform(static_cast<std::uint64_t>(i)));
    tokens.push_back(token);
    // At once, because each token takes a while and somebody may be watching.
    write(shown.more(text_of()));
  }
  write(shown.rest(text_of()));
  return training::exit_success;
}

}  // namespace

int run_generate(const std::vector<std::string>& arguments, const training::Console& console) {
  return training::with_errors_reported("generate", console, [&] {
    Options options;
    const std::string help = parse(arguments, options);
    if (!help.empty()) {
      fmt::print(console.out, "{}", help);
      return training::exit_success;
    }
    return generate(options, console);
  });
}

}  // namespace huggingface
