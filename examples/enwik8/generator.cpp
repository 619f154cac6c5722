// SPDX-License-Identifier: MIT
#include "generator.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "data/file_kind.hpp"
#include "model_io.hpp"
#include "options.hpp"
#include "text.hpp"
#include "training/checkpoint.hpp"

namespace enwik8 {
namespace {

std::string read_prompt(const GenerateOptions& options) {
  if (options.prompt_file.empty()) {
    return options.prompt;
  }
  std::ifstream file(options.prompt_file, std::ios::binary);
  std::ostringstream prompt;
  const bool is_empty = file && file.peek() == std::ifstream::traits_type::eof() && !file.bad();
  if (!is_empty && !(file && prompt << file.rdbuf())) {
    throw std::runtime_error(fmt::format("prompt file '{}' cannot be read", options.prompt_file));
  }
  const std::string text = prompt.str();
  if (const data::FileKind* kind =
          data::kind_of({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}, true)) {
    throw std::runtime_error(fmt::format("prompt file '{}' is {}, not raw bytes: {}",
                                         options.prompt_file, kind->name,
                                         kind->remedy_for(options.prompt_file)));
  }
  return text;
}

int generate(const GenerateOptions& options, const Console& console) {
  const Checkpoint checkpoint(training::checkpoint_path(options.checkpoint));
  Options saved = saved_options(checkpoint);
  saved.threads = options.threads;
  change_hashing(saved, options.hashes);
  const auto tokenizer = tokenizer_of_run(training::checkpoint_path(options.checkpoint),
                                          training::saved_data(checkpoint));
  const std::string prompt = read_prompt(options);
  std::vector<std::int32_t> begin = tokenizer->encode_prompt(prompt);
  if (begin.empty()) {  // the model needs something to begin with
    begin = tokenizer->end_of_document() ? std::vector{*tokenizer->end_of_document()}
                                         : tokenizer->encode("\n");
  }
  TokenModel model(saved, tokenizer->vocabulary(), TokenModel::Use::generation);
  model.load(checkpoint);

  const auto write_token = [&](std::int32_t token) {
    std::string text = tokenizer->bytes_of(token);
    const std::size_t stop = text.find_first_of(options.stop);
    text.resize(std::min(stop, text.size()));
    // At once, because each token takes a while and somebody may be watching.
    if (std::fwrite(text.data(), 1, text.size(), console.out) != text.size() ||
        std::fflush(console.out) != 0) {
      throw std::runtime_error(
          fmt::format("cannot write the text: {}", std::generic_category().message(errno)));
    }
    return stop == std::string::npos && token != tokenizer->end_of_document();
  };
  model.generate(begin, options.length,
                 {.temperature = options.temperature,
                  .top_k = options.top_k,
                  .top_p = options.top_p,
                  .repetition_penalty = options.repetition_penalty},
                 options.seed, write_token);
  return training::exit_success;
}

}  // namespace

int run_generator(const std::vector<std::string>& arguments, const Console& console) {
  return training::with_errors_reported("enwik8_generate", console, [&] {
    const Parsed<GenerateOptions> parsed = parse_generate_options(arguments);
    if (!parsed.help.empty()) {
      fmt::print(console.out, "{}", parsed.help);
      return training::exit_success;
    }
    return generate(parsed.options, console);
  });
}

}  // namespace enwik8
