// SPDX-License-Identifier: MIT
/// @file
/// Which chunks a chunk sees.
#pragma once

#include <algorithm>
#include <string_view>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"

namespace reformer::inline REFORMER_ABI {

/// Which chunks a chunk sees.
struct Window {
  Index chunk_length = 64;
  Index chunks_before = 1;
  Index chunks_after = 0;
  /// The first chunk's neighbour is the last one, and the reverse; otherwise windows end at the
  /// ends.
  bool circular = false;

  Index max_keys() const { return chunk_length * (chunks_before + 1 + chunks_after); }

  /// The same window in a sequence of `length` tokens, without what reaches beyond its ends.
  Window within(Index length) const {
    Window window = *this;
    window.chunk_length = std::min(chunk_length, length);
    const Index others = ceil_div(length, window.chunk_length) - 1;
    if (others == 0) window.circular = false;  // one chunk has no neighbours
    if (!window.circular) {
      window.chunks_before = std::min(chunks_before, others);
      window.chunks_after = std::min(chunks_after, others);
    }
    return window;
  }
};

/// Most neighbours in a circular window. It cannot be cut to the length, because a chunk that comes
/// twice is seen twice, and its scratch grows with it.
inline constexpr Index max_circular_neighbours = 256;

namespace detail {
inline void check_window(std::string_view function, const Window& window) {
  check_between(function, "chunk_length", window.chunk_length, 1, max_size);
  check_between(function, "chunks_before", window.chunks_before, 0, max_size);
  check_between(function, "chunks_after", window.chunks_after, 0, max_size);
  const Index neighbours = window.chunks_before + window.chunks_after;
  check(!window.circular || neighbours <= max_circular_neighbours, function,
        "chunks_before + chunks_after is ", neighbours, ", must be at most ",
        max_circular_neighbours, " in a circular window, as of sorted_chunks");
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
