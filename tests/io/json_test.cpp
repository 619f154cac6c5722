// SPDX-License-Identifier: MIT
#include "reformer/io/json.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "support/errors.hpp"

namespace reformer::test {
namespace {

constexpr std::size_t no_limit = std::size_t{1} << 30;

const std::vector<std::string> objects{
    "{}",
    " \t\r\n{ } \n",
    R"({"b":1,"a":2,"":3})",
    R"({"null":null,"yes":true,"no":false})",
    R"({"negative":-1,"least":-9223372036854775808,"most":18446744073709551615})",
    R"({"real":0.1,"exponent":-1.5e-300,"large":18446744073709551616,"zero":-0.0})",
    R"({"text":"\u00e9\ud83d\ude00\n\"\\\/","\u0061":"name"})",
    R"({"empty":[],"nested":[[1,[2]],{"a":{"b":[{"c":3},{}]}},[]],"after":{}})",
    R"({"a":{"a":{"a":1},"b":2},"b":{"a":3}})",
};

template <typename Tree>
void expect_trees_of_the_library() {
  for (const std::string& text : objects) {
    const auto tree = parse_json_object<Tree>("text", text, no_limit);
    EXPECT_EQ(tree, Tree::parse(text)) << text;
    EXPECT_EQ(tree.dump(), Tree::parse(text).dump()) << "order, or kind of a number";
  }
}

TEST(Json, TreesAreThoseOfTheLibrary) {
  expect_trees_of_the_library<Json>();
}
TEST(Json, SortedTreesAreThoseOfTheLibrary) {
  expect_trees_of_the_library<nlohmann::json>();
}

TEST(Json, ValuesOutsideOfObjects) {
  for (const char* text : {"null", "-7", "0.5", R"("a\tb")", "[1,[],{}]", R"({"a":[2]})"}) {
    EXPECT_EQ(detail::json_value(text), Json::parse(text)) << text;
  }
}

TEST(Json, NestsAsDeepAsItSays) {
  // The object is one of the levels.
  const auto nested = [](std::size_t depth) {
    return R"({"a":)" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  constexpr std::size_t deepest = detail::JsonTree<Json>::deepest;
  EXPECT_EQ(parse_json_object("text", nested(deepest), no_limit), Json::parse(nested(deepest)));
  EXPECT_EQ(message_of<std::runtime_error>(
                [&] { parse_json_object("text", nested(deepest + 1), no_limit); }),
            "text is nested more than 32 deep");
  // What was closed does not count.
  std::string wide = R"({"a":[)";
  for (std::size_t i = 0; i < 2 * deepest; ++i) wide += "[],";
  wide += "[]]}";
  EXPECT_EQ(parse_json_object("text", wide, no_limit), Json::parse(wide));
}

TEST(Json, KeysThatComeTwiceAreSeenInEveryObject) {
  for (const char* text : {R"({"a":1,"b":2,"a":3})", R"({"x":{"a":1,"a":1}})",
                           R"({"x":[{"a":1},{"b":{},"a":{},"a":{}}]})", R"({"a":1,"\u0061":2})"}) {
    const std::string expected = "text has the key 'a' twice";
    EXPECT_EQ(message_of<std::runtime_error>([&] { parse_json_object("text", text, no_limit); }),
              expected);
    EXPECT_EQ(message_of<std::runtime_error>(
                  [&] { parse_json_object<nlohmann::json>("text", text, no_limit); }),
              expected);
  }
}

// Each key was once searched among all before it: 13 s for this object.
TEST(Json, ManyMembersAreReadInOnePass) {
  std::string text = "{";
  constexpr int members = 100'000;
  for (int i = 0; i < members; ++i) {
    text += (i == 0 ? "\"key" : ",\"key") + std::to_string(i) + "\":" + std::to_string(i);
  }
  text += "}";
  const auto start = std::chrono::steady_clock::now();
  const Json tree = parse_json_object("text", text, no_limit);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(tree.size(), std::size_t{members});
  EXPECT_EQ(tree.back(), members - 1);
  EXPECT_LT(seconds.count(), 5.0);
}

}  // namespace
}  // namespace reformer::test
