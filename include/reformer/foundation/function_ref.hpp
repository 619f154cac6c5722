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
      : target_(function), call_([](Target target, Arguments... arguments) -> Result {
          return std::invoke(*target.template get<std::remove_reference_t<F>>(),
                             std::forward<Arguments>(arguments)...);
        }) {}

  Result operator()(Arguments... arguments) const {
    return call_(target_, std::forward<Arguments>(arguments)...);
  }

 private:
  /// The address of an object, const or not, or of a plain function, which are not convertible.
  union Target {
    const void* object;
    void (*function)();

    template <typename F>
    explicit Target(F& of) {
      if constexpr (std::is_function_v<F>) {
        function = reinterpret_cast<void (*)()>(&of);
      } else {
        object = std::addressof(of);
      }
    }
    /// @tparam F  what it was made from, `const` if that was
    template <typename F>
    F* get() const {
      if constexpr (std::is_function_v<F>) {
        return reinterpret_cast<F*>(function);
      } else {
        return static_cast<F*>(const_cast<void*>(object));
      }
    }
  };

  Target target_;
  Result (*call_)(Target, Arguments...);
};

}  // namespace reformer::inline REFORMER_ABI
