// SPDX-License-Identifier: MIT
#include "generator.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "file_kind.hpp"
#include "model_io.hpp"
#include "options.hpp"
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
  if (const FileKind* kind =
          kind_of({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()})) {
    throw std::runtime_error(fmt::format("prompt file '{}' is {}, not raw bytes: {}",
                                         options.prompt_file, kind->name,
                                         kind->remedy_for(options.prompt_file)));
  }
  return text;
}

int generate(const GenerateOptions& options, const Console& console) {
  std::string prompt = read_prompt(options);
  if (prompt.empty()) {
    prompt = "\n";  // the model needs something to begin with
  }
  const Checkpoint checkpoint(training::checkpoint_path(options.checkpoint));
  Options saved = saved_options(checkpoint);
  saved.threads = options.threads;
  if (options.hashes > 0) {
    saved.hashes = options.hashes;
  }
  TokenModel model(saved, vocabulary, TokenModel::Use::generation);
  model.load(checkpoint);

  const auto write_byte = [&](std::uint8_t byte) {
    if (options.stop.find(static_cast<char>(byte)) != std::string::npos) {
      return false;
    }
    // At once, because each byte takes a while and somebody may be watching.
    if (std::fputc(byte, console.out) == EOF || std::fflush(console.out) != 0) {
      throw std::runtime_error(
          fmt::format("cannot write the text: {}", std::generic_category().message(errno)));
    }
    return true;
  };
  write_text(model, std::vector<std::uint8_t>(prompt.begin(), prompt.end()), options.length,
             {.temperature = options.temperature,
              .top_k = options.top_k,
              .top_p = options.top_p,
              .repetition_penalty = options.repetition_penalty},
             options.seed, write_byte);
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
