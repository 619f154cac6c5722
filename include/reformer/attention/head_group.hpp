// SPDX-License-Identifier: MIT
/// @file
/// Groups of heads that attention works on at a time, and their arrays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>

#include "reformer/attention/layout.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI::detail {

/// Heads of one kind and sequences that are worked on at a time, out of arrays `[B*T, H*K]`.
struct HeadGroup {
  Index length;
  Index first_sequence, batch, first_head, heads;

  Index first_row() const { return first_sequence * length; }
  Index rows() const { return batch * length; }
};

/// Sequences and heads in a group, by shape alone: about 2 MiB for each of its arrays, or one head
/// of one sequence.
template <typename Scalar>
std::pair<Index, Index> head_group_size(Index batch, Index length, Index heads, Index head_width) {
  const Index bytes_per_head = length * head_width * static_cast<Index>(sizeof(Scalar));
  const Index fit = std::max<Index>(1, (Index{1} << 21) / bytes_per_head);
  const Index together = std::min(fit, heads);
  const Index sequences = together < heads ? 1 : std::max<Index>(1, fit / together);
  return {std::min(sequences, batch), together};
}

/// Calls `body(group)` for all groups, one after another.
template <typename Scalar, typename Body>
void for_each_head_group(Index batch, Index length, Index heads, Index head_width,
                         const Body& body) {
  const auto [sequences, together] = head_group_size<Scalar>(batch, length, heads, head_width);
  for (Index b = 0; b < batch; b += sequences) {
    for (Index h = 0; h < heads; h += together) {
      body(HeadGroup{length, b, std::min(sequences, batch - b), h, std::min(together, heads - h)});
    }
  }
}

/// A group of heads of some sequences: the arrays are `[B*T, H*K]`, heads side by side.
template <typename Scalar>
struct MultiHead {
  const AttentionLayout* layout;
  Index batch, heads, head_width;
  std::span<const std::uint8_t> is_real = {};  // [B*T] or empty
  MatrixView<const Scalar> query, key, value;
  MatrixView<Scalar> out;
  // Statistics of each (sequence, head, position), `[B, H, T]`; see `AttentionHead`.
  Scalar *maximum, *normaliser, *key_scale;
  std::int32_t* order = nullptr;  // [B, H, `AttentionLayout::order_size`], if hashed
  // Dropout draws by the number of the head among all heads of the layer, each of which has so
  // many blocks at most.
  Index first_sequence = 0, first_head = 0, all_heads = 1, blocks_per_head = 0;

  Index length() const { return layout->length; }

  MatrixView<Scalar> part(const MatrixView<Scalar>& x, Index b, Index h) const {
    return x.middle_rows(b * length(), length()).middle_columns(h * head_width, head_width);
  }
  MatrixView<const Scalar> part(const MatrixView<const Scalar>& x, Index b, Index h) const {
    return x.middle_rows(b * length(), length()).middle_columns(h * head_width, head_width);
  }
};

/// What `MultiHead` says of a group; its arrays are still to be set.
/// @param all_heads  heads of the layer
/// @param is_real    `[B*T]` of all sequences, or empty
template <typename Scalar>
MultiHead<Scalar> without_arrays(const HeadGroup& group, const AttentionLayout& layout,
                                 Index all_heads, Index head_width,
                                 std::span<const std::uint8_t> is_real) {
  MultiHead<Scalar> result{};
  result.layout = &layout;
  result.batch = group.batch;
  result.heads = group.heads;
  result.head_width = head_width;
  if (!is_real.empty()) {
    result.is_real = is_real.subspan(static_cast<std::size_t>(group.first_row()),
                                     static_cast<std::size_t>(group.rows()));
  }
  result.first_sequence = group.first_sequence;
  result.first_head = group.first_head;
  result.all_heads = all_heads;
  result.blocks_per_head = layout.max_blocks;
  return result;
}

}  // namespace reformer::inline REFORMER_ABI::detail
