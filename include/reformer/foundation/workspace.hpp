// SPDX-License-Identifier: MIT
/// @file
/// Scratch memory that counts its own peak, and the number of threads to use.
///
/// A stack: scratch is taken inside a `Scratch` scope and given back when the scope ends. After the
/// first pass of a given shape the stack is one block of memory and the steady state allocates
/// nothing.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parallel.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {

/// Elements of T that a block of memory can have.
template <typename T>
inline constexpr Index most_elements = (std::numeric_limits<std::ptrdiff_t>::max() - 64) /
                                       static_cast<Index>(sizeof(T));

/// a b, where the array is one that memory could hold.
/// @throw std::invalid_argument for a negative number, std::bad_array_new_length (a
///   std::bad_alloc) if it is not
template <typename T>
Index scratch_elements(std::string_view function, Index a, Index b) {
  check_at_least(function, "count", std::min(a, b), 0);
  if (b > 0 && a > most_elements<T> / b) [[unlikely]]
    throw std::bad_array_new_length();
  return a * b;
}

}  // namespace detail

/// Owner of scratch memory; one per user thread. Not copyable.
class Workspace {
 public:
  /// @param threads  threads that operations given this workspace use; 0: `default_threads()`
  /// @throw std::invalid_argument if negative or more than `max_threads`
  explicit Workspace(int threads = 0) {
    check_between("Workspace", "threads", threads, 0, max_threads);
    threads_ = threads > 0 ? threads : std::min(default_threads(), max_threads);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// A workspace that only counts what is taken from it. What it hands out is null, and the loops
  /// that it is given call nothing, so an operation that works with it takes its scratch and does
  /// nothing else: what a training step will take at most is known before it starts.
  /// @throw std::invalid_argument if `threads` is below 1 or more than `max_threads`
  static Workspace plan(int threads) {
    check_between("Workspace::plan", "threads", threads, 1, max_threads);
    return Workspace(threads, true);
  }
  bool only_plans() const { return only_plans_; }

  /// More than any machine has: what runs out of threads is OpenMP, and it ends the program.
  static constexpr int max_threads = 4096;

  int threads() const { return threads_; }

  /// Bytes of scratch in use now, and at most since construction or `reset_peak`.
  std::size_t bytes_in_use() const { return used_; }
  std::size_t peak_bytes() const { return peak_; }
  void reset_peak() { peak_ = used_; }

  /// Takes memory for a pass that is known to need `bytes`. Without it the first pass finds out
  /// step by step, in blocks that together are larger. Does nothing while scratch is in use.
  /// @throw std::bad_alloc if there is not so much
  void reserve(std::size_t bytes) {
    if (only_plans_ || used_ > 0 || (blocks_.size() == 1 && blocks_[0].size >= bytes)) return;
    blocks_.clear();
    current_ = 0;
    blocks_.push_back(make_block(std::max(bytes, least_block)));
  }

 private:
  friend class Scratch;
  static constexpr std::size_t alignment = 64;  // a cache line, and the widest vector
  static constexpr std::size_t least_block = std::size_t{1} << 20;

  // Strided reads of scratch touch a new small page with every row, and most of them would miss the
  // translation cache.
  static constexpr std::size_t huge_page = std::size_t{1} << 21;

  struct Free {
    std::align_val_t alignment;
    void operator()(std::byte* p) const { ::operator delete(p, alignment); }
  };
  struct Block {
    std::unique_ptr<std::byte, Free> memory{nullptr, Free{std::align_val_t{alignment}}};
    std::size_t size = 0;
    std::size_t used = 0;
  };
  struct Mark {
    std::size_t block = 0, used_in_block = 0, used = 0;
  };

  Workspace(int threads, bool only_plans) : only_plans_(only_plans), threads_(threads) {}

  static Block make_block(std::size_t size) {
    // The aligned operator new of libstdc++ rounds sizes up, and the largest become 0.
    if (size > static_cast<std::size_t>(detail::most_elements<std::byte>)) throw std::bad_alloc();
    const std::align_val_t align{size >= huge_page ? huge_page : alignment};
    auto* memory = static_cast<std::byte*>(::operator new(size, align));
#ifdef __linux__
    // Advice: where it is not taken, pages are small and nothing else changes.
    if (size >= huge_page) ::madvise(memory, size / huge_page * huge_page, MADV_HUGEPAGE);
#endif
    return {std::unique_ptr<std::byte, Free>(memory, Free{align}), size, 0};
  }

  Mark mark() const {
    if (blocks_.empty()) return {.used = used_};
    return {current_, blocks_[current_].used, used_};
  }

  void release(const Mark& mark) {
    if (blocks_.empty()) {
      used_ = mark.used;
      return;
    }
    for (std::size_t b = mark.block + 1; b <= current_; ++b) blocks_[b].used = 0;
    current_ = mark.block;
    blocks_[current_].used = mark.used_in_block;
    used_ = mark.used;
    if (used_ == 0 && blocks_.size() > 1) {  // the next pass finds one block of the peak's size
      blocks_.clear();
      current_ = 0;
    }
  }

  void* take(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    if (only_plans_) {
      if (used_ > std::numeric_limits<std::size_t>::max() - bytes)
        throw std::bad_array_new_length();
      count(bytes);
      return nullptr;
    }
    if (blocks_.empty()) blocks_.push_back(make_block(std::max({bytes, peak_, least_block})));
    while (blocks_[current_].size - blocks_[current_].used < bytes) {
      if (current_ + 1 == blocks_.size()) {
        blocks_.push_back(make_block(std::max(bytes, least_block)));
      }
      ++current_;  // only now: no memory is an exception, and must leave the stack as it was
    }
    Block& block = blocks_[current_];
    void* memory = block.memory.get() + block.used;
    block.used += bytes;
    count(bytes);
    return memory;
  }
  void count(std::size_t bytes) {
    used_ += bytes;
    peak_ = std::max(peak_, used_);
  }

  bool only_plans_ = false;
  int threads_ = 1;
  std::vector<Block> blocks_;
  std::size_t current_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

namespace detail {
template <typename T>
constexpr Index scratch_stride(Index columns) {
  constexpr Index line = 64 / sizeof(T);
  const Index stride = round_up(columns, line);
  return stride % (8 * line) == 0 ? stride + line : stride;
}
}  // namespace detail

/// An array for each thread, of equal size and on separate cache lines.
template <typename T>
class PerThread {
 public:
  PerThread(T* data, Index stride) : data_(data), stride_(stride) {}
  T* operator[](int thread) const { return data_ + thread * stride_; }

 private:
  T* data_;
  Index stride_;
};

/// A scope of scratch memory: what it hands out is valid until it ends.
class Scratch {
 public:
  explicit Scratch(Workspace& workspace) : workspace_(workspace), mark_(workspace.mark()) {}
  ~Scratch() { workspace_.release(mark_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// Uninitialised array of `count` elements, aligned to 64 bytes; null if the workspace only
  /// plans.
  /// @throw std::bad_alloc if there is no memory for it, std::invalid_argument for a negative
  /// count;
  ///   the workspace is as it was then
  template <typename T>
  T* take(Index count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const Index elements = detail::scratch_elements<T>("Scratch::take", count, 1);
    return static_cast<T*>(workspace_.take(sizeof(T) * static_cast<std::size_t>(elements)));
  }

  /// Uninitialised matrix. Its rows are a cache line further apart than a multiple of a large power
  /// of two: a column of it would otherwise fall into a few sets of the cache. If the workspace
  /// only plans, they lie upon each other, so that parts of it are null too.
  template <typename T>
  MatrixView<T> matrix(Index rows, Index columns) {
    detail::scratch_elements<T>("Scratch::matrix", rows, columns);
    const Index stride = detail::scratch_stride<T>(columns);
    return {take<T>(detail::scratch_elements<T>("Scratch::matrix", rows, stride)), rows, columns,
            workspace_.only_plans() ? 0 : stride};
  }

  /// `count` elements for each thread of the workspace.
  template <typename T>
  PerThread<T> per_thread(Index count) {
    constexpr auto function = "Scratch::per_thread";
    const Index stride = round_up(detail::scratch_elements<T>(function, count, 1),
                                  static_cast<Index>(64 / sizeof(T)));
    return {take<T>(detail::scratch_elements<T>(function, stride, workspace_.threads())),
            workspace_.only_plans() ? 0 : stride};
  }

 private:
  Workspace& workspace_;
  Workspace::Mark mark_;
};

namespace detail {
/// Throws `std::invalid_argument` unless the workspace only plans.
inline void check_plans(std::string_view function, const Workspace& workspace) {
  check(workspace.only_plans(), function,
        "workspace is one for use, must be made by Workspace::plan");
}
/// Throws `std::invalid_argument` if the workspace only plans.
inline void check_for_use(std::string_view function, const Workspace& workspace) {
  check(!workspace.only_plans(), function, "workspace is one that only plans, must be one for use");
}
}  // namespace detail

/// `parallel_for` with some threads of a workspace; nothing is called if it only plans.
template <typename Body>
void parallel_for(const Workspace& workspace, int threads, Index count, const Body& body) {
  if (!workspace.only_plans()) parallel_for(threads, count, body);
}
/// The same with all of them.
template <typename Body>
void parallel_for(const Workspace& workspace, Index count, const Body& body) {
  parallel_for(workspace, workspace.threads(), count, body);
}

/// `for_each_row_tile`, likewise.
template <typename Body>
void for_each_row_tile(const Workspace& workspace, Index rows, const Body& body) {
  if (!workspace.only_plans()) for_each_row_tile(workspace.threads(), rows, body);
}

namespace detail {
/// Calls `body(first, count)` for panels of at most `panel` of the rows, one after another; if the
/// workspace only plans, for the first alone, which is the largest.
template <typename Body>
void for_each_panel(const Workspace& workspace, Index rows, Index panel, const Body& body) {
  for (Index first = 0; first < rows; first += panel) {
    body(first, std::min(panel, rows - first));
    if (workspace.only_plans()) return;
  }
}

/// `count` elements of `scratch` as a span; empty where they are only counted.
template <typename T>
std::span<T> take_span(Scratch& scratch, Index count) {
  T* data = scratch.take<T>(count);
  return data == nullptr ? std::span<T>() : std::span<T>(data, static_cast<std::size_t>(count));
}
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
