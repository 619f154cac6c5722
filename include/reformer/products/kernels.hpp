// SPDX-License-Identifier: MIT
/// @file
/// The kernels there are, and the one that is used where none is named.
#pragma once

#include <concepts>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/products/float_kernel.hpp"
#include "reformer/products/precision_kernel.hpp"

namespace reformer::inline REFORMER_ABI {

/// The kernel of products of a scalar type: of floats in any precision, of doubles in their own.
template <typename Scalar>
using DefaultKernel =
    std::conditional_t<std::same_as<Scalar, float>, PrecisionKernel, FloatKernel<Scalar>>;

}  // namespace reformer::inline REFORMER_ABI
