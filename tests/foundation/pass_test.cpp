// SPDX-License-Identifier: MIT
#include "reformer/foundation/pass.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/errors.hpp"

namespace reformer::test {
namespace {

TEST(Pass, RowsAreBatchTimesLength) {
  Workspace workspace(1);
  EXPECT_EQ((Pass{workspace, 3, 5}.rows()), 15);
  EXPECT_EQ((Pass{workspace}.rows()), 1);
}

TEST(Precision, IsFoundByItsName) {
  EXPECT_EQ(precision_named("float32"), Precision::float32);
  EXPECT_EQ(precision_named("bfloat16x3"), Precision::bfloat16x3);
  EXPECT_EQ(precision_named("bfloat16"), Precision::bfloat16);
  for (const char* name : {"", "float", "float320", "BFLOAT16"}) {
    EXPECT_EQ(precision_named(name), std::nullopt) << name;
  }
}

TEST(Pass, AtLayerChangesNothingElse) {
  Workspace workspace(1);
  const std::vector<std::uint8_t> mask(6, 1);
  Pass pass{workspace, 2, 3, {11, 22, 0}, true, mask};
  pass.dropout_share = 0.25;
  const Pass layer = pass.at_layer(7);
  EXPECT_EQ(&layer.workspace, &workspace);
  EXPECT_EQ(layer.batch, 2);
  EXPECT_EQ(layer.length, 3);
  EXPECT_EQ(layer.key.seed, 11U);
  EXPECT_EQ(layer.key.step, 22U);
  EXPECT_EQ(layer.key.layer, 7U);
  EXPECT_TRUE(layer.training);
  EXPECT_EQ(layer.dropout_share, 0.25);
  EXPECT_EQ(layer.is_real.data(), mask.data());
  EXPECT_EQ(layer.is_real.size(), mask.size());
}

TEST(Pass, DropsOutItsShareOfARateInTrainingOnly) {
  Workspace workspace(1);
  EXPECT_EQ((Pass{.workspace = workspace, .training = true}.dropout(0.5)), 0.5);
  EXPECT_EQ((Pass{.workspace = workspace, .training = true, .dropout_share = 0.25}.dropout(0.5)),
            0.125);
  EXPECT_EQ((Pass{.workspace = workspace, .dropout_share = 0.25}.dropout(0.5)), 0);
}

TEST(CheckPass, AcceptsAMaskOfEveryRowOrNone) {
  Workspace workspace(1);
  const std::vector<std::uint8_t> mask(6, 1);
  EXPECT_NO_THROW(check_pass("f", {workspace, 2, 3}));
  EXPECT_NO_THROW(check_pass("f", {workspace, 2, 3, {}, false, mask}));
}

TEST(CheckPass, NamesWhatIsWrong) {
  Workspace workspace(1);
  const std::vector<std::uint8_t> mask(5, 1);
  EXPECT_EQ(message_of([&] {
              check_pass("f", {workspace, 0, 3});
            }),
            "reformer::f: batch is 0, must be at least 1");
  EXPECT_EQ(message_of([&] {
              check_pass("f", {workspace, 2, -1});
            }),
            "reformer::f: length is -1, must be at least 1");
  EXPECT_EQ(message_of([&] {
              check_pass("f", {workspace, 2, 3, {.layer = 1u << 24}});
            }),
            "reformer::f: key.layer is 16777216, must be at most 16777215");
  EXPECT_EQ(message_of([&] {
              check_pass("f", {workspace, 2, 3, {}, false, mask});
            }),
            "reformer::f: is_real has 5 elements, must have B*T = 6");
  for (const auto& [share, text] : {std::pair(-0.5, "-0.5"), {1.5, "1.5"}, {std::nan(""), "nan"}}) {
    EXPECT_EQ(message_of([&, value = share] {
                check_pass("f", {.workspace = workspace, .dropout_share = value});
              }),
              std::string("reformer::f: dropout_share is ") + text + ", must be from 0 to 1");
  }
}

}  // namespace
}  // namespace reformer::test
