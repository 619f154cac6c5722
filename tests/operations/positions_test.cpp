// SPDX-License-Identifier: MIT
#include "reformer/operations/positions.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// Positions 0 ... length - 1, for every sequence of a batch, added to zeros.
template <typename Scalar>
Matrix<Scalar> forward(const Positions<Scalar>& positions, Index batch, Index length, Index width) {
  Matrix<Scalar> x = Matrix<Scalar>::Zero(batch * length, width);
  for (Index i = 0; i < batch * length; ++i) positions.add_row(i % length, x.row(i).data());
  return x;
}

template <typename Scalar>
std::vector<Parameter<Scalar>*> tables_of(Positions<Scalar>& positions) {
  std::vector<Parameter<Scalar>*> tables;
  positions.for_each_parameter([&](Parameter<Scalar>& p) { tables.push_back(&p); });
  return tables;
}

TEST(AxialPositions, AreRowsOfTwoTablesSideBySide) {
  Positions<double> positions("positions", AxialPositions{{3, 4}, {2, 5}}, 7);
  randomize_parameters(positions, 1);
  const auto tables = tables_of(positions);
  ASSERT_EQ(tables.size(), 2U);
  EXPECT_EQ(tables[0]->name, "positions.weights.0");
  EXPECT_EQ(tables[1]->name, "positions.weights.1");
  EXPECT_EQ(tables[0]->value.rows(), 3);
  EXPECT_EQ(tables[0]->value.cols(), 2);
  EXPECT_EQ(tables[1]->value.rows(), 4);
  EXPECT_EQ(tables[1]->value.cols(), 5);
  const auto x = forward(positions, 1, 12, 7);
  for (Index t = 0; t < 12; ++t) {
    for (Index j = 0; j < 7; ++j) {
      EXPECT_EQ(x(t, j), j < 2 ? tables[0]->value(t / 4, j) : tables[1]->value(t % 4, j - 2))
          << "t = " << t << ", j = " << j;
    }
  }
}

TEST(LearnedPositions, AreRowsOfATable) {
  Positions<double> positions("positions", LearnedPositions{6}, 5);
  randomize_parameters(positions, 1);
  const auto tables = tables_of(positions);
  ASSERT_EQ(tables.size(), 1U);
  EXPECT_EQ(tables[0]->name, "positions.weight");
  EXPECT_TRUE(same_bits(forward(positions, 1, 6, 5), tables[0]->value));
}

TEST(SinusoidalPositions, FollowTheFormula) {
  for (const Index width : {1, 2, 7, 8}) {
    Positions<double> positions("positions", SinusoidalPositions{}, width);
    EXPECT_TRUE(tables_of(positions).empty());
    const auto x = forward(positions, 1, 50, width);
    for (Index t = 0; t < 50; ++t) {
      for (Index i = 0; 2 * i < width; ++i) {
        const double angle =
            static_cast<double>(t) /
            std::pow(10000, 2 * static_cast<double>(i) / static_cast<double>(width));
        EXPECT_NEAR(x(t, 2 * i), std::sin(angle), tolerance<double>);
        if (2 * i + 1 < width) {
          EXPECT_NEAR(x(t, 2 * i + 1), std::cos(angle), tolerance<double>);
        }
      }
    }
  }
}

const std::vector<PositionConfig>& configs() {
  static const std::vector<PositionConfig> all = {AxialPositions{{5, 3}, {40, 13}},
                                                  LearnedPositions{15}, SinusoidalPositions{}};
  return all;
}

TEST(Positions, AreAddedToWhatIsThere) {
  for (const PositionConfig& config : configs()) {
    Positions<float> positions("positions", config, 53);
    randomize_parameters(positions, 1);
    const auto alone = forward(positions, 1, 15, 53);
    auto x = random_matrix<float>(15, 53, 2);
    const Matrix<float> expected = x + alone;
    for (Index t = 0; t < 15; ++t) positions.add_row(t, x.row(t).data());
    EXPECT_TRUE(same_bits(x, expected));
  }
}

TEST(Positions, BackwardAgreesWithFiniteDifferences) {
  for (const PositionConfig& config :
       {PositionConfig(AxialPositions{{4, 3}, {2, 5}}), PositionConfig(LearnedPositions{11})}) {
    Workspace workspace(2);
    Positions<double> positions("positions", config, 7);
    randomize_parameters(positions, 1);
    reset_gradients(positions);
    const auto dout = random_matrix<double>(2 * 10, 7, 3);  // not all positions are used
    positions.backward(view(dout), {workspace, 2, 10});
    check_parameter_gradients("Positions", positions,
                              [&] { return weighted_sum(dout, forward(positions, 2, 10, 7)); });
  }
}

TEST(Positions, BackwardAddsWithTheSameBitsForAnyThreads) {
  const auto dx = random_matrix<float>(3 * 14, 53, 2);
  for (const PositionConfig& config : configs()) {
    std::vector<double> zero_based, first;
    for (const int threads : thread_counts) {
      Workspace workspace(threads);
      Positions<float> positions("positions", config, 53);
      reset_gradients(positions);
      positions.backward(view(dx), {workspace, 3, 14});
      if (threads == 1) zero_based = gradients_of(positions);
      reset_gradients(positions, 0.5);
      positions.backward(view(dx), {workspace, 3, 14});
      if (threads == 1) first = gradients_of(positions);
      EXPECT_TRUE(same_bits(gradients_of(positions), first)) << threads << " threads";
    }
    for (double& value : zero_based) value += 0.5;
    const std::vector<float> added(first.begin(), first.end());
    EXPECT_TRUE(close(added, zero_based));
  }
}

TEST(Positions, CheckTheirConfiguration) {
  const auto message = [](const PositionConfig& config, Index width) {
    return message_of([&] { Positions<float>("positions", config, width); });
  };
  EXPECT_EQ(message(AxialPositions{{4, 4}, {3, 4}}, 8),
            "reformer::Positions: axial position widths are 3 + 4, must add up to the model width "
            "8");
  EXPECT_EQ(message(AxialPositions{{4, 0}, {4, 4}}, 8),
            "reformer::Positions: axial position shape is 0, must be at least 1");
  EXPECT_EQ(message(AxialPositions{{4, 4}, {9, -1}}, 8),
            "reformer::Positions: axial position width is -1, must be at least 1");
  EXPECT_EQ(message(LearnedPositions{0}, 8),
            "reformer::Positions: max_length is 0, must be at least 1");
}

TEST(Positions, CheckTheLength) {
  const PositionConfig axial = AxialPositions{{4, 5}, {3, 5}};
  EXPECT_EQ(max_length(axial), 20);
  EXPECT_NO_THROW(check_length("f", axial, 20));
  EXPECT_EQ(message_of([&] { check_length("f", axial, 21); }),
            "reformer::f: length is 21, but there are positions for at most 20 (the product of the "
            "axial position shape)");
  const PositionConfig learned = LearnedPositions{7};
  EXPECT_EQ(max_length(learned), 7);
  EXPECT_NO_THROW(check_length("f", learned, 7));
  EXPECT_EQ(message_of([&] { check_length("f", learned, 8); }),
            "reformer::f: length is 8, but there are positions for at most 7 (max_length)");
  EXPECT_FALSE(max_length(SinusoidalPositions{}).has_value());
  EXPECT_NO_THROW(check_length("f", SinusoidalPositions{}, Index{1} << 40));
}

}  // namespace
}  // namespace reformer::test
