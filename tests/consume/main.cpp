// SPDX-License-Identifier: MIT
// What a user's first program may look like; compiled in each way to use the library.
#include <cmath>
#include <cstdio>
#include <string>

#include <reformer/reformer.hpp>

#ifndef REFORMER_VERSION_STRING
#error "the umbrella header must tell the version"
#endif

#ifdef _OPENMP
static_assert(EXPECTED_OPENMP == 1, "the library turned OpenMP on");
#else
static_assert(EXPECTED_OPENMP == 0, "the program links OpenMP");
#endif

int main() {
  const std::string from_parts = std::to_string(REFORMER_VERSION_MAJOR) + "." +
                                 std::to_string(REFORMER_VERSION_MINOR) + "." +
                                 std::to_string(REFORMER_VERSION_PATCH);
  if (from_parts != REFORMER_VERSION_STRING || from_parts != EXPECTED_VERSION) {
    std::fprintf(stderr, "version: header %s (parts %s), package %s\n", REFORMER_VERSION_STRING,
                 from_parts.c_str(), EXPECTED_VERSION);
    return 1;
  }
  std::printf("reformer %s\n", REFORMER_VERSION_STRING);

  // A row of ones, which attends to itself and to its like: compiled in half the time of a model,
  // which readme, warnings.cpp and the compiled library have.
  using namespace reformer;
  Workspace workspace;
  Tensor<float, 4> x(1, 11, 1, 4);
  x.setConstant(1.0f);
  const auto result = attention(workspace, x, x, x, {.pattern = LocalPattern{.chunk_length = 4}});
  for (Index i = 0; i < x.size(); ++i) {
    if (std::abs(result.out.data()[i] - 1) > 1e-6f) return 1;
  }
  return 0;
}
