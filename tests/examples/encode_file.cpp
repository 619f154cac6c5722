// SPDX-License-Identifier: MIT
/// encode_file TOKENIZER FILE TOKENS: writes the tokens of a file as 32-bit integers, says how fast
/// they came, and fails unless they are decoded to the file again. For comparisons with other
/// tools (scripts/compare_tokenizers.sh).
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>

#include "tokens/tokenizer.hpp"

int main(int argc, char** argv) {
  try {
    if (argc != 4) {
      fmt::print(stderr, "usage: encode_file TOKENIZER FILE TOKENS\n");
      return 2;
    }
    const auto tokenizer = tokens::load_tokenizer(argv[1]);
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto begin = std::chrono::steady_clock::now();
    const auto tokens = tokenizer->encode(text);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    std::ofstream(argv[3], std::ios::binary)
        .write(reinterpret_cast<const char*>(tokens.data()),
               static_cast<std::streamsize>(tokens.size() * sizeof tokens[0]));
    fmt::print("{}: {} bytes, {} tokens, {:.1f} MB/s\n", tokenizer->description(), text.size(),
               tokens.size(), static_cast<double>(text.size()) / 1e6 / time.count());
    if (tokenizer->what_is_lost().empty() && tokenizer->decode(tokens) != text) {
      fmt::print(stderr, "the tokens are not decoded to the bytes of '{}'\n", argv[2]);
      return 1;
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "encode_file: {}\n", error.what());
    return 1;
  }
}
