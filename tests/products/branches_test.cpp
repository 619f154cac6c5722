// SPDX-License-Identifier: MIT
// What asks for products, with another kernel than its own: it gets the same results, takes itself
// back exactly, and needs the scratch that it has planned.
#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/model/output_head.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "support/compare.hpp"
#include "support/naive_kernel.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using Naive = NaiveKernel<double>;
using Half = FixedHalf<double>;
constexpr Index batch = 2, length = 41, width = 12;
constexpr int threads = 3;

/// What a branch adds, the gradients of its input and parameters, and scratch.
struct Results {
  Matrix<double> sum, dx;
  std::vector<double> gradients;
  std::size_t peak_bytes = 0;
};

template <typename Branch>
Results results_of(Branch branch) {
  randomize_parameters(branch, 1);
  branch.for_each_parameter([](auto& p) { p.allocate_gradient(); });
  Workspace workspace(threads);
  const Pass pass{workspace, batch, length, {21, 4, 3}, true};
  const Half x = half_of<Half>(random_matrix<double>(pass.rows(), width, 2));
  const auto before = random_matrix<double>(pass.rows(), width, 3);
  const auto dy = random_matrix<double>(pass.rows(), width, 4);
  Half y = half_of<Half>(before);
  const Matrix<double> exact = matrix_of(y);

  Results results;
  typename Branch::Saved saved;
  branch.forward(x, y, saved, pass);
  results.sum = matrix_of(y);
  results.dx = Matrix<double>::Zero(pass.rows(), width);
  branch.reverse(x, y, rows_of(dy), rows_of(results.dx), saved, pass);
  EXPECT_TRUE(same_bits(matrix_of(y), exact)) << "reversal is not exact";
  results.gradients = gradients_of(branch);
  results.peak_bytes = workspace.peak_bytes();
  Workspace planned = Workspace::plan(threads);
  branch.plan(planned, {batch, length, is_exact(y)}, {});
  EXPECT_EQ(planned.peak_bytes(), results.peak_bytes);
  return results;
}

void expect_equal(const Results& naive, const Results& usual) {
  EXPECT_TRUE(close(naive.sum, usual.sum));
  EXPECT_TRUE(close(naive.dx, usual.dx));
  EXPECT_TRUE(close(naive.gradients, usual.gradients));
  EXPECT_GT(naive.peak_bytes, usual.peak_bytes) << "the naive kernel packs more";
}

TEST(BranchesWithNaiveKernel, FeedForward) {
  const FeedForwardConfig config{width, 530, Activation::gelu, 0.1};
  expect_equal(results_of(FeedForward<double, Naive>("f", config)),
               results_of(FeedForward<double>("f", config)));
}

TEST(BranchesWithNaiveKernel, SelfAttention) {
  for (const LayerPattern& pattern :
       std::vector<LayerPattern>{LshPattern{8},
                                 LshPattern{8, 1, 0, 2, {4}, false, Chunking::bucket_chunks},
                                 LocalPattern{8},
                                 ExactPattern{},
                                 {ExactPattern{}, LshPattern{8}, LshPattern{8}}}) {
    const SelfAttentionConfig config{width, 3, 5, pattern, true, 0.1, 0.1};
    expect_equal(results_of(SelfAttention<double, Naive>("a", config)),
                 results_of(SelfAttention<double>("a", config)));
  }
}

TEST(BranchesWithNaiveKernel, DecodingIsTheForwardPass) {
  const LayerPattern pattern = {LocalPattern{8}, ExactPattern{true}, ExactPattern{true}};
  SelfAttention<double, Naive> attention("a", {width, 3, 5, pattern, true});
  randomize_parameters(attention, 1);
  Workspace workspace(threads);
  const auto x = random_matrix<double>(length, width, 2);
  Half y(length, width);
  typename SelfAttention<double, Naive>::Saved saved;
  attention.forward(half_of<Half>(x), y, saved, {workspace, 1, length});
  const Pass step{workspace, 1, 1};
  auto decoding = attention.decoding(step);
  for (Index t = 0; t < length; ++t) {
    Half next(1, width);
    attention.decode(half_of<Half>(Matrix<double>(x.row(t))), next, decoding, step);
    ASSERT_TRUE(same_bits(matrix_of(next), Matrix<double>(matrix_of(y).row(t)))) << t;
  }
}

template <typename K>
Results head_results(Index vocabulary) {
  OutputHead<double, K> head(width, vocabulary, 1e-5, 0.1);
  randomize_parameters(head, 1);
  head.for_each_parameter([](auto& p) { p.allocate_gradient(); });
  Workspace workspace(threads);
  const Pass pass{workspace, batch, length, {21, 4, 3}, true};
  const Halves<Half> x{half_of<Half>(random_matrix<double>(pass.rows(), width, 2)),
                       half_of<Half>(random_matrix<double>(pass.rows(), width, 3))};
  std::vector<std::int32_t> labels(static_cast<std::size_t>(pass.rows()));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    labels[i] = static_cast<std::int32_t>(i * i) % static_cast<std::int32_t>(vocabulary);
  }
  Results results;
  results.dx.resize(pass.rows(), 2 * width);
  const HalfGradients<double> dx{rows_of(results.dx).middle_columns(0, width),
                                 rows_of(results.dx).middle_columns(width, width)};
  results.sum.setConstant(1, 1, head.loss_and_gradients(x, labels, 0.5, dx, pass).sum);
  results.gradients = gradients_of(head);
  results.peak_bytes = workspace.peak_bytes();
  Workspace planned = Workspace::plan(threads);
  head.plan_gradients(planned, pass.rows(), pass.precision);
  EXPECT_EQ(planned.peak_bytes(), results.peak_bytes);
  return results;
}

TEST(BranchesWithNaiveKernel, Head) {
  for (const Index vocabulary : {45, 3000}) {
    SCOPED_TRACE(vocabulary);
    expect_equal(head_results<Naive>(vocabulary), head_results<DefaultKernel<double>>(vocabulary));
  }
}

TEST(BranchesWithNaiveKernel, Hashing) {
  constexpr Index heads = 2, rounds = 2;
  const std::vector<Index> factors{4, 6};
  Workspace workspace(threads);
  const auto x = random_matrix<double>(batch * length, heads * width, 1);
  const auto rotations = random_matrix<double>(heads * width, rounds * 5, 2);
  const auto size = static_cast<std::size_t>(batch * heads * rounds * length);
  std::vector<Bucket> naive(size), usual(size, Bucket{1});
  detail::hash_heads<double, Naive>(workspace, rows_of(x), batch, heads, {}, rows_of(rotations),
                                    factors, naive.data());
  Workspace plan = Workspace::plan(threads);
  detail::hash_heads<double, Naive>(plan, rows_of(x), batch, heads, {}, rows_of(rotations), factors,
                                    nullptr);
  EXPECT_EQ(plan.peak_bytes(), workspace.peak_bytes());
  detail::hash_heads<double>(workspace, rows_of(x), batch, heads, {}, rows_of(rotations), factors,
                             usual.data());
  EXPECT_EQ(naive, usual);
}

}  // namespace
}  // namespace reformer::test
