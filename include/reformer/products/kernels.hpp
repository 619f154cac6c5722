// SPDX-License-Identifier: MIT
/// @file
/// The kernels there are, and the one that is used where none is named.
#pragma once

#include "reformer/foundation/abi.hpp"
#include "reformer/products/float_kernel.hpp"

namespace reformer::inline REFORMER_ABI {

/// The kernel of products of a scalar type.
template <typename Scalar>
using DefaultKernel = FloatKernel<Scalar>;

}  // namespace reformer::inline REFORMER_ABI
