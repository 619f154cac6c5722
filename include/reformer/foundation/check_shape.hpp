// SPDX-License-Identifier: MIT
/// @file
/// Checks of the shapes of tensors.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI {

/// Requires a tensor of this shape.
/// @param axes  what each dimension is the number of
template <typename Scalar, int Rank>
void check_shape(std::string_view function, std::string_view name,
                 const Tensor<Scalar, Rank>& tensor,
                 const std::type_identity_t<std::array<std::string_view, Rank>>& axes,
                 const std::type_identity_t<std::array<Index, Rank>>& shape) {
  for (std::size_t i = 0; i < Rank; ++i) {
    check(tensor.dimension(i) == shape[i], function, name, " dimension ", i, " is ",
          tensor.dimension(i), ", must equal ", axes[i], " = ", shape[i]);
  }
}

}  // namespace reformer::inline REFORMER_ABI
