// SPDX-License-Identifier: MIT
#include "reformer/operations/positions.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
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

TEST(AxialPositions, AreRowsOfAsManyTablesAsTheGridHasDimensions) {
  const AxialPositions axial{{3, 4, 2}, {2, 4, 1}};
  Positions<double> positions("positions", axial, 7);
  EXPECT_EQ(max_length(axial), 24);
  randomize_parameters(positions, 1);
  const auto tables = tables_of(positions);
  ASSERT_EQ(tables.size(), 3U);
  for (const Index length : {1, 7, 23, 24}) {
    const auto x = forward(positions, 1, length, 7);
    const auto dx = random_matrix<double>(2 * length, 7, 3);
    Workspace workspace(2);
    reset_gradients(positions);
    positions.backward(rows_of(dx), {workspace, 2, length});
    std::vector<Matrix<double>> sums;
    for (const auto* table : tables) {
      sums.push_back(Matrix<double>::Zero(table->value.rows(), table->value.cols()));
    }
    for (Index row = 0; row < 2 * length; ++row) {
      const Index t = row % length;
      const std::array<Index, 3> rows = {t / 8, t / 2 % 4, t % 2};
      for (std::size_t i = 0, j = 0; i < 3; ++i) {
        const Index width = axial.widths[i];
        const auto first = static_cast<Index>(j);
        if (row < length) {
          EXPECT_TRUE(same_bits(Matrix<double>(x.row(row).middleCols(first, width)),
                                Matrix<double>(tables[i]->value.row(rows[i]))))
              << "t = " << t << ", table " << i;
        }
        sums[i].row(rows[i]) += dx.row(row).middleCols(first, width);
        j += static_cast<std::size_t>(width);
      }
    }
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(close(tables[i]->gradient, sums[i])) << length << ", table " << i;
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

TEST(SinusoidalPositions, HaveNoLimit) {
  constexpr Index width = 140;  // more frequencies than are computed at once
  const Positions<double> positions("positions", SinusoidalPositions{}, width);
  for (const Index t : {63, 64, 4095, 4096, 262143, 262144, (1 << 24) - 1, 1 << 24, 123456789}) {
    std::vector<double> x(width);
    positions.add_row(t, x.data());
    for (Index j = 0; j < width; ++j) {
      const double angle =
          static_cast<double>(t) * std::pow(10000, -static_cast<double>(j / 2 * 2) / double{width});
      const double expected = j % 2 == 0 ? std::sin(angle) : std::cos(angle);
      const double rounding = static_cast<double>(t) * std::numeric_limits<double>::epsilon();
      EXPECT_NEAR(x[static_cast<std::size_t>(j)], expected, 1e-14 + 2 * rounding)
          << "position " << t << ", column " << j;
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
    positions.backward(rows_of(dout), {workspace, 2, 10});
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
      positions.backward(rows_of(dx), {workspace, 3, 14});
      if (threads == 1) zero_based = gradients_of(positions);
      reset_gradients(positions, 0.5);
      positions.backward(rows_of(dx), {workspace, 3, 14});
      if (threads == 1) first = gradients_of(positions);
      EXPECT_TRUE(same_bits(gradients_of(positions), first)) << threads << " threads";
    }
    for (double& value : zero_based) value += 0.5;
    const std::vector<float> added(first.begin(), first.end());
    EXPECT_TRUE(close(added, zero_based));
  }
}

TEST(Positions, BackwardDoesNotLoseAMillionSmallGradients) {
  // Added one by one in float, the constant ones of the single row are off by a hundredth.
  const Index T = 1 << 20, width = 4;
  for (const auto& shape : {std::vector<Index>{T, 1}, std::vector<Index>{2, T / 2}}) {
    for (const bool is_constant : {true, false}) {
      Matrix<float> dx = random_matrix<float>(T, width, 2);
      if (is_constant) dx.setConstant(0.1F);
      Workspace workspace(2);
      Positions<float> positions("positions", AxialPositions{shape, {2, 2}}, width);
      reset_gradients(positions);
      positions.backward(rows_of(std::as_const(dx)), {workspace, 1, T});
      const auto tables = tables_of(positions);
      for (std::size_t i = 0; i < 2; ++i) {
        const Matrix<float>& gradient = tables[i]->gradient;
        Matrix<double> expected = Matrix<double>::Zero(gradient.rows(), 2), absolute = expected;
        for (Index t = 0; t < T; ++t) {
          const Index row = i == 0 ? t / shape[1] : t % shape[1];
          const auto part = dx.row(t).middleCols(static_cast<Index>(2 * i), 2).cast<double>();
          expected.row(row) += part;
          absolute.row(row) += part.cwiseAbs();
        }
        EXPECT_TRUE(
            ((gradient.cast<double>() - expected).array().abs() <= 1e-7 * absolute.array()).all())
            << "table " << i << " of " << gradient.rows() << " rows, constant: " << is_constant;
      }
    }
  }
}

TEST(Positions, BackwardOfManyRowsAndColumnsIsTheSumOverPositions) {
  // More table rows and columns than one task has, and lengths that end within a row of the grid.
  const std::vector<Index> shape = {70, 150};
  for (const Index length : {1, 149, 150, 151, 9000, 10500}) {
    const auto dx = random_matrix<double>(2 * length, 80, 3);
    Positions<double> positions("positions", AxialPositions{shape, {33, 47}}, 80);
    Workspace workspace(2);
    reset_gradients(positions);
    positions.backward(rows_of(dx), {workspace, 2, length});
    const auto tables = tables_of(positions);
    Matrix<double> first = Matrix<double>::Zero(70, 33), second = Matrix<double>::Zero(150, 47);
    for (Index row = 0; row < 2 * length; ++row) {
      const Index t = row % length;
      first.row(t / 150) += dx.row(row).head(33);
      second.row(t % 150) += dx.row(row).tail(47);
    }
    EXPECT_TRUE(close(tables[0]->gradient, first)) << length;
    EXPECT_TRUE(close(tables[1]->gradient, second)) << length;
  }
}

TEST(Positions, BackwardChecksBeforeItWrites) {
  Workspace workspace(1);
  Positions<float> positions("positions", LearnedPositions{4}, 2);
  const Matrix<float> dx = Matrix<float>::Ones(6, 2), narrow = Matrix<float>::Ones(6, 1);
  const auto message = [&](const Matrix<float>& gradient, Index batch, Index length) {
    return message_of([&] { positions.backward(rows_of(gradient), {workspace, batch, length}); });
  };
  EXPECT_TRUE(contains(message(dx, 2, 3), "gradient of positions.weight is not allocated"));
  reset_gradients(positions, 7);
  EXPECT_TRUE(
      contains(message(dx, 1, 6), "length is 6, must be at most 4, the number of positions"));
  EXPECT_TRUE(contains(message(dx, 3, 3), "rows of dx is 6, must equal B*T = 9"));
  EXPECT_TRUE(contains(message(dx, 0, 3), "batch is 0"));
  EXPECT_TRUE(contains(message(narrow, 2, 3), "columns of dx is 1, must equal width = 2"));
  for (const double g : gradients_of(positions)) EXPECT_EQ(g, 7);
}

TEST(AxialPositions, HaveWidthsForEveryModelWidth) {
  using Widths = std::vector<Index>;
  EXPECT_EQ(axial_widths(AxialPositions{}, 256), (Widths{64, 192}));
  EXPECT_EQ(axial_widths(AxialPositions{}, 2), (Widths{1, 1}));
  EXPECT_EQ(axial_widths(AxialPositions{}, 67), (Widths{16, 51}));
  EXPECT_EQ(axial_widths(AxialPositions{.widths = {5, 2}}, 7), (Widths{5, 2}));
  EXPECT_EQ(axial_widths(AxialPositions{{4, 4}, {0, 0}}, 67), (Widths{16, 51}));
  EXPECT_EQ(axial_widths(AxialPositions{{64, 64, 3}}, 1024), (Widths{341, 341, 342}));
  const Positions<float> positions("positions", AxialPositions{}, 64);
  EXPECT_EQ(std::get<AxialPositions>(positions.config()).widths, (Widths{16, 48}));
}

TEST(Positions, CheckTheirConfiguration) {
  const auto message = [](const PositionConfig& config, Index width) {
    return message_of([&] { Positions<float>("positions", config, width); });
  };
  EXPECT_EQ(message(AxialPositions{{4, 4}, {3, 4}}, 8),
            "reformer::Positions: AxialPositions::widths are 3 + 4, must add up to the model width "
            "8");
  EXPECT_EQ(message(AxialPositions{{4, 4, 2}, {3, 4, 2}}, 8),
            "reformer::Positions: AxialPositions::widths are 3 + 4 + 2, must add up to the model "
            "width 8");
  EXPECT_EQ(message(AxialPositions{{4, 4, 2}, {4, 4}}, 8),
            "reformer::Positions: the number of AxialPositions::widths is 2, must equal that of "
            "AxialPositions::shape = 3");
  EXPECT_EQ(message(AxialPositions{{4}, {8}}, 8),
            "reformer::Positions: the number of factors of AxialPositions::shape is 1, must be at "
            "least 2");
  const Index many = Index{1} << 30;
  EXPECT_EQ(message(AxialPositions{{many, many, many}, {1, 1, 1}}, 3),
            "reformer::Positions: the product of AxialPositions::shape has more than 63 binary "
            "digits, must have less");
  EXPECT_EQ(message(AxialPositions{{4, 0}, {4, 4}}, 8),
            "reformer::Positions: AxialPositions::shape[1] is 0, must be at least 1");
  EXPECT_EQ(message(AxialPositions{{4, 4}, {9, -1}}, 8),
            "reformer::Positions: AxialPositions::widths[1] is -1, must be at least 1");
  EXPECT_EQ(message(LearnedPositions{0}, 8),
            "reformer::Positions: LearnedPositions::max_length is 0, must be at least 1");
  EXPECT_EQ(message(AxialPositions{}, 1),
            "reformer::Positions: the width of a model with axial positions is 1, must be at least "
            "2");
  EXPECT_EQ(message(AxialPositions{{4, 4}, {0, 8}}, 8),
            "reformer::Positions: AxialPositions::widths[0] is 0, must be at least 1");
  EXPECT_EQ(message(AxialPositions{{Index{1} << 40, Index{1} << 40}, {4, 4}}, 8),
            "reformer::Positions: AxialPositions::shape[0] is 1099511627776, must be at most "
            "2147483647");
  EXPECT_EQ(message(LearnedPositions{Index{1} << 62}, 8),
            "reformer::Positions: LearnedPositions::max_length is 4611686018427387904, must be at "
            "most 2147483647");
  EXPECT_EQ(message(LearnedPositions{1 << 30}, 1 << 20),
            "reformer::Positions: LearnedPositions::max_length * width is 1073741824 * 1048576, "
            "must be at most 1099511627776");
  EXPECT_EQ(message(LearnedPositions{4}, -1),
            "reformer::Positions: width is -1, must be at least 1");
}

TEST(Positions, CheckTheLength) {
  const PositionConfig axial = AxialPositions{{4, 5}, {3, 5}};
  EXPECT_EQ(max_length(axial), 20);
  EXPECT_NO_THROW(detail::check_length("f", axial, 20));
  EXPECT_EQ(message_of([&] { detail::check_length("f", axial, 21); }),
            "reformer::f: length is 21, must be at most 20, the number of positions: the "
            "product of "
            "AxialPositions::shape");
  const PositionConfig learned = LearnedPositions{7};
  EXPECT_EQ(max_length(learned), 7);
  EXPECT_NO_THROW(detail::check_length("f", learned, 7));
  EXPECT_EQ(message_of([&] { detail::check_length("f", learned, 8); }),
            "reformer::f: length is 8, must be at most 7, the number of positions: "
            "LearnedPositions::max_length");
  EXPECT_FALSE(max_length(SinusoidalPositions{}).has_value());
  EXPECT_NO_THROW(detail::check_length("f", SinusoidalPositions{}, Index{1} << 40));
}

}  // namespace
}  // namespace reformer::test
