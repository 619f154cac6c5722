// SPDX-License-Identifier: MIT
/// Exact reversal, compiled as a program of a user that lets the compiler see and clone everything:
/// what a branch adds and what it subtracts must still come from the same code. `reversal.cmake`
/// builds it with link-time optimisation and for the processor at hand, where products and sums
/// may be contracted.
#include <cstdio>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/operations/feed_forward.hpp"

namespace {

using namespace reformer;
using Half = FixedHalf<float>;

/// Whether `reverse` takes back every bit that `forward` has added.
template <typename Branch>
bool is_exact_in(Branch& branch, Index batch, Index length, Index width, int threads) {
  int i = 0;
  branch.for_each_parameter([&](Parameter<float>& p) {
    fill_normal(p.value.data(), p.size(), 0.3,
                RandomStream({7, 0, static_cast<std::uint32_t>(i++)}, Purpose::initialization));
    p.allocate_gradient();
  });
  const Index rows = batch * length;
  std::vector<float> numbers(static_cast<std::size_t>(width)), other(numbers);
  Half x(rows, width), y(rows, width), before(rows, width);
  for (Index row = 0; row < rows; ++row) {
    const RandomStream stream({9, static_cast<std::uint32_t>(row)}, Purpose::data);
    fill_normal(numbers.data(), width, 1.0, stream);
    x.write(row, 0, width, numbers.data());
    y.write(row, 0, width, numbers.data());
    before.write(row, 0, width, numbers.data());
  }
  Workspace workspace(threads);
  const Pass pass{workspace, batch, length, {3}, /*training=*/true};
  typename Branch::Saved saved;
  branch.forward(x, y, saved, pass);
  const Matrix<float> dy = Matrix<float>::Constant(rows, width, 0.5F);
  Matrix<float> dx = Matrix<float>::Zero(rows, width);
  branch.reverse(x, y, rows_of(dy), rows_of(dx), saved, pass);
  bool is_same = true;
  for (Index row = 0; row < rows; ++row) {
    y.read(row, 0, width, numbers.data());
    before.read(row, 0, width, other.data());
    is_same = is_same && numbers == other;
  }
  return is_same;
}

}  // namespace

int main() {
  int failures = 0;
  const auto expect = [&](const char* what, Index length, int threads, bool is_exact) {
    if (is_exact) return;
    std::printf("%s, T = %d, %d threads: reversal is not exact\n", what, static_cast<int>(length),
                threads);
    ++failures;
  };
  for (const int threads : {1, 2}) {
    // 520 rows: forward two panels, the second of a single task; backward one panel.
    for (const Index length : {37, 130, 520}) {
      for (const Activation activation : {Activation::relu, Activation::gelu_tanh}) {
        FeedForward<float> feed_forward("f", {24, 600, activation, 0.1});
        expect("feed-forward", length, threads, is_exact_in(feed_forward, 1, length, 24, threads));
      }
      for (const LayerPattern& pattern :
           std::vector<LayerPattern>{LshPattern{8},
                                     LshPattern{8, 1, 0, 2, {4}, false, Chunking::bucket_chunks},
                                     LocalPattern{8},
                                     ExactPattern{},
                                     {LshPattern{8}, LocalPattern{8}}}) {
        SelfAttention<float> attention("a", {24, 2, 20, pattern, true, 0.1, 0.1});
        expect("attention", length, threads, is_exact_in(attention, 2, length, 24, threads));
      }
    }
  }
  if (failures == 0) std::printf("reversal is exact\n");
  return failures;
}
