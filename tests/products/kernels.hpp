// SPDX-License-Identifier: MIT
/// @file
/// The kernels that products are tested with.
#pragma once

#include <gtest/gtest.h>

#include "reformer/products/kernels.hpp"
#include "support/naive_kernel.hpp"

namespace reformer::test {

using Kernels = testing::Types<FloatKernel<float>, FloatKernel<double>, NaiveKernel<float>,
                               NaiveKernel<double>>;

}  // namespace reformer::test
