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

  using namespace reformer;
  Model<float> model({.vocabulary = 8,
                      .width = 4,
                      .num_heads = 1,
                      .head_width = 4,
                      .feed_forward_width = 8,
                      .positions = SinusoidalPositions{},
                      .layers = {LshPattern{.chunk_length = 4}}});
  model.initialize(1);
  Workspace workspace;
  Tokens tokens(1, 11);
  for (int t = 0; t < 11; ++t) tokens(0, t) = t % 8;
  const double loss = model.loss(workspace, tokens, next_token_labels(tokens)).mean();
  return std::abs(loss - std::log(8.0)) < 0.1 ? 0 : 1;  // it knows nothing yet
}
