// SPDX-License-Identifier: MIT
/// @file
/// Runs a fuzz target without libFuzzer: on every file of the folders it is given, and on so many
/// mutations of them, the same ones each time.
///
///     io_fuzz [-runs=N] FOLDER...
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

/// SplitMix64.
std::uint64_t next(std::uint64_t& state) {
  std::uint64_t z = state += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

std::size_t below(std::size_t n, std::uint64_t& state) {
  return static_cast<std::size_t>(next(state) % std::max<std::size_t>(n, 1));
}

/// Changes, inserts, removes or copies a few bytes, or cuts the end.
void mutate(Bytes& bytes, const Bytes& other, std::uint64_t& state) {
  constexpr std::string_view telling = "{}[]\":,-0123456789.e\\ \xff";
  for (std::size_t i = 1 + below(4, state); i-- > 0;) {
    const auto at = static_cast<std::ptrdiff_t>(below(bytes.size(), state));
    switch (below(6, state)) {
      case 0:
        if (!bytes.empty()) {
          bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(next(state));
        }
        break;
      case 1:
        bytes.insert(bytes.begin() + at,
                     static_cast<std::uint8_t>(telling[below(telling.size(), state)]));
        break;
      case 2:
        if (!bytes.empty()) bytes.erase(bytes.begin() + at);
        break;
      case 3:
        if (!bytes.empty()) {
          bytes[static_cast<std::size_t>(at)] =
              static_cast<std::uint8_t>(telling[below(telling.size(), state)]);
        }
        break;
      case 4:
        bytes.resize(static_cast<std::size_t>(at));
        break;
      default: {
        const std::size_t first = below(other.size(), state);
        const std::size_t count = std::min(below(16, state), other.size() - first);
        bytes.insert(bytes.begin() + at, other.begin() + static_cast<std::ptrdiff_t>(first),
                     other.begin() + static_cast<std::ptrdiff_t>(first + count));
      }
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t runs = 0;
  std::vector<Bytes> corpus;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("-runs=")) {
      runs = std::strtoull(argument.c_str() + 6, nullptr, 10);
      continue;
    }
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(argument)) {
      files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const auto& path : files) {
      std::ifstream file(path, std::ios::binary);
      corpus.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "usage: io_fuzz [-runs=N] FOLDER...\n");
    return 2;
  }
  for (const Bytes& bytes : corpus) LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  std::uint64_t state = 1;
  for (std::uint64_t i = 0; i < runs; ++i) {
    Bytes bytes = corpus[below(corpus.size(), state)];
    mutate(bytes, corpus[below(corpus.size(), state)], state);
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%zu files and %llu mutations\n", corpus.size(),
              static_cast<unsigned long long>(runs));
  return 0;
}
