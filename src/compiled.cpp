// SPDX-License-Identifier: MIT
// What the compiled library has of the headers: all that they declare `extern template` for
// programs that define REFORMER_COMPILED. CMake compiles this file once for each instruction set.
#include "reformer/reformer.hpp"

#ifndef REFORMER_COMPILED
#error "this file belongs to the target reformer::compiled"
#endif

namespace reformer::inline REFORMER_ABI {

int default_threads() {
  return detail::threads_here();
}

const Bfloat16Unit& bfloat16_unit() {
  return detail::bfloat16_unit_here();
}

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
