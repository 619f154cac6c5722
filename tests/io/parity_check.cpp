// SPDX-License-Identifier: MIT
/// @file
/// `parity_check FOLDER...` says how far the library is from what HuggingFace computed, in float
/// and in double, for each kind of tensor; see parity.hpp for what a folder holds. The exit code is
/// 0 if everything is within the tolerances, 1 if something is not, 2 if a folder cannot be read.
#include "io/parity.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>

namespace {

using namespace reformer::test;

template <typename Scalar>
bool print(const std::filesystem::path& file, const char* precision) {
  bool good = true;
  for (const Deviation& d : check_parity<Scalar>(file)) {
    good = good && d.good();
    std::printf("  %-6s %-36s %9.2e  allowed %7.0e  %-6s %lld values, most at %s: %s\n", precision,
                d.kind.c_str(), d.largest, d.allowed,
                !d.judged  ? "-"
                : d.good() ? "ok"
                           : "WRONG",
                d.compared, d.where.c_str(), d.values.c_str());
  }
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: parity_check FOLDER...\n");
    return 2;
  }
  int result = 0;
  for (int i = 1; i < argc; ++i) {
    try {
      for (const auto& file : expected_files(argv[i])) {
        std::printf("%s\n", file.c_str());
        const bool single = print<float>(file, "float"), both = print<double>(file, "double");
        if (!single || !both) result = std::max(result, 1);
      }
    } catch (const std::exception& error) {
      std::fflush(stdout);
      std::fprintf(stderr, "parity_check: %s\n", error.what());
      result = 2;
    }
  }
  return result;
}
