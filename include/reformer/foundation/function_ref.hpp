// SPDX-License-Identifier: MIT
/// @file
/// A function of any type, behind one type.
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>

#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI {

template <typename Signature>
class FunctionRef;

/// Refers to a function that outlives it, as an argument outlives a call (`std::function_ref` of
/// C++26). What calls it is compiled once, and not once for each function that it is given.
template <typename Result, typename... Arguments>
class FunctionRef<Result(Arguments...)> {
 public:
  template <typename F>
  requires(!std::same_as<std::remove_cvref_t<F>, FunctionRef> &&
           std::is_invocable_r_v<Result, F&, Arguments...>)  //
      FunctionRef(F&& function)                              // NOLINT: a function is one
      : function_(const_cast<void*>(static_cast<const void*>(std::addressof(function)))),
        call_([](void* of, Arguments... arguments) -> Result {
          // `const` again, if it was.
          return std::invoke(*static_cast<std::remove_reference_t<F>*>(of),
                             std::forward<Arguments>(arguments)...);
        }) {}

  Result operator()(Arguments... arguments) const {
    return call_(function_, std::forward<Arguments>(arguments)...);
  }

 private:
  void* function_;
  Result (*call_)(void*, Arguments...);
};

}  // namespace reformer::inline REFORMER_ABI
