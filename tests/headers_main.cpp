// SPDX-License-Identifier: MIT
// The program into which one source for each header is linked, see CMakeLists.txt. It includes the
// umbrella as well, so at least two translation units hold the whole library.
#include <cstdio>

#include "reformer/reformer.hpp"

int main() {
  std::puts("reformer " REFORMER_VERSION_STRING);
}
