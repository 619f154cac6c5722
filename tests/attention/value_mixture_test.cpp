// SPDX-License-Identifier: MIT
#include "reformer/attention/value_mixture.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "reformer/foundation/random.hpp"

namespace reformer::test {
namespace {

/// A group of heads 1 to 3 of a layer of 4, whose sequences are longer than two tiles.
struct Case {
  static constexpr Index batch = 2, length = 600, heads = 3, head_width = 5, first_head = 1;
  static constexpr Index rows = batch * length, columns = heads * head_width;

  explicit Case(bool masked) : mixture("mixture", 4) {
    const RandomStream stream({7}, Purpose::data);
    fill_normal(value.data(), value.size(), 1.0, stream);
    fill_normal(dmixed.data(), dmixed.size(), 1.0, RandomStream({8}, Purpose::data));
    fill_normal(mixture.parameter().value.data(), 8, 1.0, RandomStream({9}, Purpose::data));
    mixture.parameter().allocate_gradient();
    mixture.parameter().gradient.setConstant(0.5);
    if (masked) {
      // Padding in front, a gap longer than a tile, single tokens, padding at the end.
      is_real.assign(static_cast<std::size_t>(rows), 1);
      const auto pad = [&](Index from, Index to) {
        std::fill(is_real.begin() + from, is_real.begin() + to, std::uint8_t{0});
      };
      pad(0, 3);
      pad(100, 480);
      pad(482, 484);
      pad(length + 1, length + 2);
      pad(length + 255, length + 258);
      pad(rows - 4, rows);
      // What padding holds is nobody's business.
      for (Index row = 0; row < rows; ++row) {
        if (!real(row)) dmixed.row(row).setZero();
      }
    }
    group.batch = batch;
    group.layout = &layout;
    group.heads = heads;
    group.head_width = head_width;
    group.first_head = first_head;
    group.is_real = is_real;
  }

  bool real(Index row) const {
    return is_real.empty() || is_real[static_cast<std::size_t>(row)] != 0;
  }
  /// The real row before, or after, in the same sequence; -1 if there is none.
  Index neighbour(Index row, Index step) const {
    const Index begin = row / length * length;
    for (row += step; row >= begin && row < begin + length; row += step) {
      if (real(row)) return row;
    }
    return -1;
  }
  double weight(Index which, Index column) const {
    return mixture.parameter().value(which, first_head + column / head_width);
  }

  Matrix<double> value{rows, columns}, dmixed{rows, columns};
  std::vector<std::uint8_t> is_real;
  detail::ValueMixture<double> mixture;
  detail::AttentionLayout layout{ExactPattern{}, true, length};
  detail::MultiHead<double> group{};
};

TEST(ValueMixture, IsItsFormula) {
  for (const bool masked : {false, true}) {
    const Case c(masked);
    for (const int threads : {1, 3}) {
      Workspace workspace(threads);
      Matrix<double> mixed(Case::rows, Case::columns);
      c.mixture.forward(workspace, c.group, rows_of(c.value), rows_of(mixed));
      for (Index row = 0; row < Case::rows; ++row) {
        const Index previous = c.neighbour(row, -1);
        for (Index j = 0; j < Case::columns; ++j) {
          double expected = c.value(row, j);
          if (c.real(row)) {
            expected *= c.weight(1, j);
            if (previous >= 0) expected += c.weight(0, j) * c.value(previous, j);
          }
          ASSERT_NEAR(mixed(row, j), expected, 1e-14)
              << "masked " << masked << ", row " << row << ", column " << j;
        }
      }
    }
  }
}

TEST(ValueMixture, HasTheGradientOfItsFormula) {
  for (const bool masked : {false, true}) {
    Matrix<double> first_gradient;
    for (const int threads : {1, 3}) {
      Case c(masked);
      const Matrix<double> value = c.value;
      Workspace workspace(threads);
      c.mixture.backward(workspace, c.group, rows_of(std::as_const(c.dmixed)), rows_of(c.value));
      Matrix<double> sums = Matrix<double>::Constant(2, 4, 0.5);  // what was there is added to
      for (Index row = 0; row < Case::rows; ++row) {
        const Index previous = c.neighbour(row, -1), next = c.neighbour(row, 1);
        for (Index j = 0; j < Case::columns; ++j) {
          double expected = 0;
          if (c.real(row)) {
            const Index head = Case::first_head + j / Case::head_width;
            if (previous >= 0) sums(0, head) += c.dmixed(row, j) * value(previous, j);
            sums(1, head) += c.dmixed(row, j) * value(row, j);
            expected = c.weight(1, j) * c.dmixed(row, j);
            if (next >= 0) expected += c.weight(0, j) * c.dmixed(next, j);
          }
          ASSERT_NEAR(c.value(row, j), expected, 1e-14)
              << "masked " << masked << ", dvalue of row " << row << ", column " << j;
        }
      }
      const auto& gradient = c.mixture.parameter().gradient;
      for (Index head = 0; head < 4; ++head) {
        EXPECT_NEAR(gradient(0, head), sums(0, head), 1e-11) << "da of head " << head;
        EXPECT_NEAR(gradient(1, head), sums(1, head), 1e-11) << "db of head " << head;
      }
      if (threads == 1) first_gradient = gradient;
      EXPECT_EQ(gradient, first_gradient) << "other bits for " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace reformer::test
