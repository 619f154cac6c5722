// SPDX-License-Identifier: MIT
/// @file
/// What many tests use of the library, beside what it compiles for float: compiled.cpp compiles it
/// once for all of them.
#pragma once

#include "reformer/reformer.hpp"

#ifndef REFORMER_TEST_TEMPLATE
#define REFORMER_TEST_TEMPLATE extern template
#endif

namespace reformer::inline REFORMER_ABI {

REFORMER_TEST_TEMPLATE void AnyBranch<DynamicHalf<double>>::hold(SelfAttention<double>);
REFORMER_TEST_TEMPLATE void AnyBranch<DynamicHalf<double>>::hold(FeedForward<double>);
REFORMER_TEST_TEMPLATE class Model<double>;
REFORMER_TEST_TEMPLATE class Decoder<double>;
REFORMER_TEST_TEMPLATE std::vector<std::vector<std::int32_t>> generate(
    Workspace&, Decoder<double>&, const std::vector<std::vector<std::int32_t>>&,
    const GenerationOptions&, const TokenCallback&);
REFORMER_TEST_TEMPLATE class detail::OptimizerState<double, Adam<double>>;
REFORMER_TEST_TEMPLATE class Adam<double>;
REFORMER_TEST_TEMPLATE class detail::OptimizerState<double, Adafactor<double>>;
REFORMER_TEST_TEMPLATE class Adafactor<double>;
REFORMER_TEST_TEMPLATE Tensor<Bucket, 4> lsh_buckets(Workspace&, const Tensor<double, 4>&,
                                                     const LshPattern&, const Tensor<double, 4>&,
                                                     std::span<const std::uint8_t>);
REFORMER_TEST_TEMPLATE AttentionOutput<double> attention(Workspace&, const Tensor<double, 4>&,
                                                         const Tensor<double, 4>&,
                                                         const Tensor<double, 4>&,
                                                         const AttentionOptions&,
                                                         const Tensor<Bucket, 4>&);
REFORMER_TEST_TEMPLATE AttentionGradients<double> attention_backward(
    Workspace&, const Tensor<double, 4>&, const Tensor<double, 4>&, const Tensor<double, 4>&,
    const AttentionOptions&, const AttentionOutput<double>&, const Tensor<double, 4>&,
    const Tensor<Bucket, 4>&);

REFORMER_TEST_TEMPLATE class SelfAttention<float>;
REFORMER_TEST_TEMPLATE class SelfAttention<double>;
REFORMER_TEST_TEMPLATE class FeedForward<float>;
REFORMER_TEST_TEMPLATE class FeedForward<double>;

// Below the branches, which tests use by themselves.
namespace detail {

REFORMER_TEST_TEMPLATE class GroupedAttention<float>;
REFORMER_TEST_TEMPLATE class GroupedAttention<double>;
REFORMER_TEST_TEMPLATE class AttentionProjections<float>;
REFORMER_TEST_TEMPLATE class AttentionProjections<double>;

REFORMER_TEST_TEMPLATE void attend(Workspace&, const MultiHead<float>&, const Dropout<float>&,
                                   const PrecisionKernel&);
REFORMER_TEST_TEMPLATE void attend(Workspace&, const MultiHead<double>&, const Dropout<double>&,
                                   const FloatKernel<double>&);
REFORMER_TEST_TEMPLATE void attend_backward(Workspace&, const MultiHead<float>&,
                                            const Dropout<float>&, const MatrixView<const float>&,
                                            const float*, const MatrixView<float>&,
                                            const MatrixView<float>&, const MatrixView<float>&,
                                            const PrecisionKernel&);
REFORMER_TEST_TEMPLATE void attend_backward(Workspace&, const MultiHead<double>&,
                                            const Dropout<double>&, const MatrixView<const double>&,
                                            const double*, const MatrixView<double>&,
                                            const MatrixView<double>&, const MatrixView<double>&,
                                            const FloatKernel<double>&);
REFORMER_TEST_TEMPLATE void hash_heads(Workspace&, const MatrixView<const float>&, Index, Index,
                                       std::span<const std::uint8_t>,
                                       const MatrixView<const float>&, std::span<const Index>,
                                       Bucket*);
REFORMER_TEST_TEMPLATE void hash_heads(Workspace&, const MatrixView<const double>&, Index, Index,
                                       std::span<const std::uint8_t>,
                                       const MatrixView<const double>&, std::span<const Index>,
                                       Bucket*);

REFORMER_TEST_TEMPLATE std::vector<double> block_squares(Workspace&, const Parameter<double>&,
                                                         const Slice&);
REFORMER_TEST_TEMPLATE void multiply_panel<float, 1>(TileOperands<float>, Index, Index);
REFORMER_TEST_TEMPLATE void multiply_panel<float, 2>(TileOperands<float>, Index, Index);
REFORMER_TEST_TEMPLATE void multiply_panel<double, 1>(TileOperands<double>, Index, Index);
REFORMER_TEST_TEMPLATE void multiply_panel<double, 2>(TileOperands<double>, Index, Index);
}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
