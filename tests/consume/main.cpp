// SPDX-License-Identifier: MIT
// What a user's first program may look like; compiled in each way to use the library.
#include <cstdio>
#include <string>

#include <reformer/reformer.hpp>

#ifndef REFORMER_VERSION_STRING
#error "the umbrella header must tell the version"
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
  return 0;
}
