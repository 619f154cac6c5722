// SPDX-License-Identifier: MIT
/// In place of pattern.cpp where there is no PCRE2: no pattern can be made, so none is ever used.
#include <stdexcept>

#include "pattern.hpp"

namespace tokens {

struct Pattern::Compiled {};
struct Pattern::Cutter::State {};

Pattern::Pattern(std::string_view) {
  throw std::runtime_error(
      "it takes PCRE2, which this program was built without (Debian: libpcre2-dev)");
}
Pattern::~Pattern() = default;

Pattern::Cutter::Cutter(const Pattern& pattern) : pattern_(pattern) {}
Pattern::Cutter::~Cutter() = default;
Pattern::Cutter::Cutter(Cutter&&) noexcept = default;
void Pattern::Cutter::begin(std::string_view) {}
bool Pattern::Cutter::next(std::string_view&) {
  return false;
}
std::size_t Pattern::Cutter::last_cut(std::string_view, const std::function<bool(std::size_t)>&) {
  return 0;
}

}  // namespace tokens
