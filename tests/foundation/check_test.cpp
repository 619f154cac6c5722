// SPDX-License-Identifier: MIT
#include "reformer/foundation/check.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include "support/errors.hpp"

namespace reformer::test {
namespace {

TEST(Check, ThrowsFunctionAndPartsInOneLine) {
  EXPECT_NO_THROW(check(true, "f", "unused"));
  EXPECT_EQ(message_of([] { check(false, "f", "length is ", 3, ", must be even"); }),
            "reformer::f: length is 3, must be even");
}

TEST(Check, TakesTextAndNumbersOfAllTypes) {
  const std::string text = "of a string, ";
  EXPECT_EQ(message_of([&] {
              check(false, std::string_view("f"), text, std::string_view("a view, "), true, " ", -3,
                    " ", std::numeric_limits<std::int64_t>::min(), " ",
                    std::numeric_limits<std::uint64_t>::max(), " ", 0.1f, " ", 1e-30, " ",
                    std::numeric_limits<double>::infinity());
            }),
            "reformer::f: of a string, a view, 1 -3 -9223372036854775808 18446744073709551615 0.1 "
            "1e-30 inf");
}

TEST(Check, AtLeast) {
  EXPECT_NO_THROW(check_at_least("f", "width", 1, 1));
  EXPECT_NO_THROW(check_at_least("f", "width", 5, 1));
  EXPECT_EQ(message_of([] { check_at_least("f", "width", 0, 1); }),
            "reformer::f: width is 0, must be at least 1");
  EXPECT_EQ(message_of([] { check_at_least("f", "width", -7, 2); }),
            "reformer::f: width is -7, must be at least 2");
}

TEST(Check, Equal) {
  EXPECT_NO_THROW(check_equal("f", "rows", 4, "B*T", 4));
  EXPECT_EQ(message_of([] { check_equal("f", "rows", 3, "B*T", 4); }),
            "reformer::f: rows is 3, must equal B*T = 4");
}

TEST(Check, Dropout) {
  EXPECT_NO_THROW(check_dropout("f", "dropout", 0));
  EXPECT_NO_THROW(check_dropout("f", "dropout", 0.999));
  EXPECT_EQ(message_of([] { check_dropout("f", "dropout", 1); }),
            "reformer::f: dropout is 1, must be in [0, 1)");
  EXPECT_EQ(message_of([] { check_dropout("f", "hidden_dropout", -0.5); }),
            "reformer::f: hidden_dropout is -0.5, must be in [0, 1)");
  EXPECT_THROW(check_dropout("f", "dropout", std::numeric_limits<double>::quiet_NaN()),
               std::invalid_argument);
}

}  // namespace
}  // namespace reformer::test
