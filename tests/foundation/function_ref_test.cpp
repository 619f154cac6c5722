// SPDX-License-Identifier: MIT
#include "reformer/foundation/function_ref.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <type_traits>
#include <utility>

namespace reformer::test {
namespace {

int twice_of(int x) {
  return 2 * x;
}

struct Counter {
  int calls = 0;
  int operator()(int x) { return x + ++calls; }
};

TEST(FunctionRef, CallsFunctionsOfAnyType) {
  EXPECT_EQ(FunctionRef<int(int)>(twice_of)(3), 6);
  const auto thrice = [](int x) { return 3 * x; };
  EXPECT_EQ(FunctionRef<int(int)>(thrice)(3), 9);
  EXPECT_EQ(FunctionRef<double(int)>(thrice)(3), 9.0);
  int sum = 0;
  FunctionRef<void(int)>([&](int x) { sum += x; })(5);
  EXPECT_EQ(sum, 5);
}

TEST(FunctionRef, RefersToTheFunctionItself) {
  Counter counter;
  const FunctionRef<int(int)> f(counter);
  const FunctionRef<int(int)> copy(f);
  EXPECT_EQ(f(0), 1);
  EXPECT_EQ(copy(0), 2);
  EXPECT_EQ(counter.calls, 2);
}

TEST(FunctionRef, PassesArgumentsOnAsTheyAre) {
  const auto take = [](std::unique_ptr<int> owned, int& to) { to = *owned; };
  int to = 0;
  const FunctionRef<void(std::unique_ptr<int>, int&)> f(take);
  f(std::make_unique<int>(7), to);
  EXPECT_EQ(to, 7);
}

// What takes const parameters may be shown others, and not the other way round.
TEST(FunctionRef, TakesWhatCanBeCalledWithItsArguments) {
  using Shown = FunctionRef<void(int&)>;
  using ConstShown = FunctionRef<void(const int&)>;
  static_assert(std::is_constructible_v<Shown, ConstShown&>);
  static_assert(!std::is_constructible_v<ConstShown, Shown&>);
  static_assert(!std::is_constructible_v<FunctionRef<int(int)>, const Counter&>);
  int seen = 0;
  const auto see = [&](const int& x) { seen = x; };
  const ConstShown inner(see);
  int value = 4;
  const Shown outer(inner);
  outer(value);
  EXPECT_EQ(seen, 4);
}

}  // namespace
}  // namespace reformer::test
