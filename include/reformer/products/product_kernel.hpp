// SPDX-License-Identifier: MIT
/// @file
/// What a kernel of products is: the layer below the three kinds of product, and all that another
/// kind of arithmetic has to bring.
///
/// A kernel multiplies tiles, C = A B or C += A B, on the calling thread. It is a small value, made
/// of the precision of a pass, which a kernel of one arithmetic ignores. Arrays are of `Scalar`;
/// `Packed` is the element of what it packs. A weight may be cut at multiples of `tile_columns` of
/// its columns and `tile_depth` of its depth; `tile_rows` is a good height of a tile. An operand
/// may also be read where it is: then its size is 0, and its memory is not used.
///
/// | member                                       |                                            |
/// |----------------------------------------------|--------------------------------------------|
/// | `left(x, orientation, memory)`               | A = x or x^T                               |
/// | `left_size(rows, depth)`                     | elements of memory, as many for each row   |
/// | `pack_weight(w, orientation, panel, memory)` | packs `tile_columns` columns of B = w or w^T |
/// | `weight_size(depth, columns)`                | elements of all panels                     |
/// | `weight(memory, depth)`                      | B, when they are packed                    |
/// | `right(x, orientation, memory)`              | B = x or x^T, of rows that were gathered   |
/// | `right_size(orientation, depth, columns)`    | elements of memory that it takes           |
/// | `block_columns()`                            | of B, of rows, that are multiplied at a time |
/// | `block_grain()`                              | such an operand starts at a multiple of it |
/// | `in_use()`                                   | what a thread holds while it multiplies    |
/// | `multiply(a, b, depth, c, write)`            | C = or += A B; C overlaps neither          |
/// | `packs_gradients()`                          | which of the two ways of a weight gradient |
/// | `add_gradient(x, dy, c, memory)`             | C += x^T dy, over at most `depth_block` rows |
/// | `gradient_size(depth, columns)`              | elements of memory that it takes           |
///
/// In a weight gradient x^T dy, a kernel that packs gradients is given both sides to pack as a
/// whole, by `left` and `pack_weight`, and multiplies tiles of them; another has `add_gradient`
/// called for each tile.
///
/// `a.from(i, p)` and `b.from(p, j)` are the operands from another row, depth or column on. Of rows
/// that were gathered, p and j are multiples of `block_grain`, which is 1 or a multiple of 8 and of
/// the width of a vector; they are readable and finite up to the next whole vector.
///
/// An element's order of additions depends on the depth alone, never on the rows and columns of the
/// call: one row has the same bits alone and inside a tile. What was summed over `depth_block`
/// products is added to C before the next: a product may be cut there in blocks of depth.
#pragma once

#include <concepts>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/precision.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI {

/// How a product meets what is in C already.
enum class Write { assign, accumulate };

/// Whether a matrix stands in a product as itself or transposed.
enum class Orientation { natural, transposed };

namespace detail {
/// Products of an element that are summed before they are added to C.
inline constexpr Index depth_block = 512;
}  // namespace detail

template <typename K>
concept ProductKernel = requires(const K& kernel, const MatrixView<const typename K::Scalar>& x,
                                 const MatrixView<typename K::Scalar>& c, const typename K::Left& a,
                                 const typename K::Right& b, Orientation orientation,
                                 typename K::Packed* memory, Index n, Write write) {
  requires std::convertible_to<Precision, K>;
  { kernel.packs_gradients() } -> std::same_as<bool>;
  requires K::tile_rows >= 1 && K::tile_columns >= 1 && K::tile_depth >= 1;
  requires detail::depth_block % K::tile_depth == 0;
  { kernel.left_size(n, n) } -> std::same_as<Index>;
  { kernel.left(x, orientation, memory) } -> std::same_as<typename K::Left>;
  { kernel.weight_size(n, n) } -> std::same_as<Index>;
  kernel.pack_weight(x, orientation, n, memory);
  { kernel.weight(memory, n) } -> std::same_as<typename K::Right>;
  { kernel.block_columns() } -> std::same_as<Index>;
  { kernel.block_grain() } -> std::same_as<Index>;
  { kernel.right_size(orientation, n, n) } -> std::same_as<Index>;
  { kernel.right(x, orientation, memory) } -> std::same_as<typename K::Right>;
  { kernel.gradient_size(n, n) } -> std::same_as<Index>;
  kernel.add_gradient(x, x, c, memory);
  kernel.in_use();
  kernel.multiply(a, b, n, c, write);
  { a.from(n, n) } -> std::same_as<typename K::Left>;
  { b.from(n, n) } -> std::same_as<typename K::Right>;
};

/// The body of a parallel loop that multiplies.
template <ProductKernel K, typename Body>
struct Multiplying {
  K kernel;
  Body body;

  auto held_by_thread() const { return kernel.in_use(); }
  void operator()(Index task, int thread) const { body(task, thread); }
};
template <ProductKernel K, typename Body>
Multiplying(K, Body) -> Multiplying<K, Body>;

}  // namespace reformer::inline REFORMER_ABI
