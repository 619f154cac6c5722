// SPDX-License-Identifier: MIT
// The common instances of templates, which the headers declare `extern template` where
// REFORMER_EXTERN_INSTANCES is defined: a source of a program that compiles them apart (target
// reformer::instances), or of the shared library (reformer::compiled), for each instruction set.
#include "reformer/products/bfloat16_packing.hpp"
#include "reformer/products/bfloat16_units.hpp"
#include "reformer/reformer.hpp"

#ifndef REFORMER_EXTERN_INSTANCES
#error "reformer: src/instances.cpp takes -DREFORMER_EXTERN_INSTANCES, like all other sources"
#endif

namespace reformer::inline REFORMER_ABI {

// Weak, as instances of templates are: two parts of a program may each have compiled them.
__attribute__((weak)) int default_threads() {
  return detail::threads_here();
}

__attribute__((weak)) const Bfloat16Unit& bfloat16_unit() {
  return detail::bfloat16_unit_here();
}

template void detail::pack_bfloat16_left<false>(const MatrixView<const float>&, Orientation, float*,
                                                Index, Index);
template void detail::pack_bfloat16_left<true>(const MatrixView<const float>&, Orientation, float*,
                                               Index, Index);
template void detail::pack_bfloat16_panel<false>(const MatrixView<const float>&, Orientation,
                                                 float*, Index);
template void detail::pack_bfloat16_panel<true>(const MatrixView<const float>&, Orientation, float*,
                                                Index);

template void AnyBranch<DynamicHalf<float>>::hold(SelfAttention<float>);
template void AnyBranch<DynamicHalf<float>>::hold(FeedForward<float>);
template class Model<float>;
template class Decoder<float>;
template std::vector<std::vector<std::int32_t>> generate<float>(
    Workspace&, Decoder<float>&, const std::vector<std::vector<std::int32_t>>&,
    const GenerationOptions&, const TokenCallback&);

template void detail::adam_update<float>(Workspace&, const AdamConfig&, std::int64_t,
                                         Parameter<float>&, const Slice&, Matrix<float>&,
                                         Matrix<float>&, double, double);
template class detail::OptimizerState<float, Adam<float>>;
template class Adam<float>;
template class detail::OptimizerState<float, Muon<float>>;
template class Muon<float>;
template class detail::OptimizerState<float, Adafactor<float>>;
template class Adafactor<float>;
template std::vector<double> detail::block_squares<float>(Workspace&, const Parameter<float>&,
                                                          const Slice&);

template Tensor<Bucket, 4> lsh_buckets<float>(Workspace&, const Tensor<float, 4>&,
                                              const LshPattern&, const Tensor<float, 4>&,
                                              std::span<const std::uint8_t>);
template AttentionOutput<float> attention<float>(Workspace&, const Tensor<float, 4>&,
                                                 const Tensor<float, 4>&, const Tensor<float, 4>&,
                                                 const AttentionOptions&, const Tensor<Bucket, 4>&);
template AttentionGradients<float> attention_backward<float>(
    Workspace&, const Tensor<float, 4>&, const Tensor<float, 4>&, const Tensor<float, 4>&,
    const AttentionOptions&, const AttentionOutput<float>&, const Tensor<float, 4>&,
    const Tensor<Bucket, 4>&);

}  // namespace reformer::inline REFORMER_ABI
