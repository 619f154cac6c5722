// SPDX-License-Identifier: MIT
// The program into which sources with all headers are linked, see CMakeLists.txt.
#include <cstdio>

#include "reformer/version.hpp"

int main() {
  std::puts("reformer " REFORMER_VERSION_STRING);
}
