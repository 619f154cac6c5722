// SPDX-License-Identifier: MIT
#include "reformer/operations/layer_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/gradient_check.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr auto widths = {1, 2, 3, 16, 17, 33, 100};

/// A layer norm with random scale and bias, and access to its parameters.
template <typename Scalar>
struct Layer {
  LayerNorm<Scalar> norm;
  Parameter<Scalar>* scale = nullptr;
  Parameter<Scalar>* bias = nullptr;

  Layer(Index width, double epsilon) : norm("layer_norm", width, epsilon) {
    randomize_parameters(norm, 17);
    reset_gradients(norm);
    norm.for_each_parameter(
        [&](Parameter<Scalar>& p) { (p.name == "layer_norm.weight" ? scale : bias) = &p; });
  }

  Matrix<Scalar> forward(const Matrix<Scalar>& x) const {
    Matrix<Scalar> y(x.rows(), x.cols());
    for (Index i = 0; i < x.rows(); ++i) norm.forward_row(x.row(i).data(), y.row(i).data());
    return y;
  }
  /// In double.
  Matrix<double> expected(const Matrix<Scalar>& x, double epsilon) const {
    return naive::layer_norm(x.template cast<double>(), scale->value.template cast<double>(),
                             bias->value.template cast<double>(), epsilon);
  }
};

template <typename Scalar>
class LayerNormTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(LayerNormTest, Scalars);

TYPED_TEST(LayerNormTest, ChecksItsWidthAndEpsilon) {
  const auto message = [](Index width, double epsilon) {
    return message_of([&] { LayerNorm<TypeParam>("norm", width, epsilon); });
  };
  EXPECT_EQ(message(0, 1e-12), "reformer::LayerNorm: width is 0, must be at least 1");
  EXPECT_EQ(message(max_size + 1, 1e-12),
            "reformer::LayerNorm: width is 2147483648, must be at most 2147483647");
  EXPECT_EQ(message(4, std::numeric_limits<double>::quiet_NaN()),
            "reformer::LayerNorm: layer_norm_epsilon is nan, must be in [1e-37, 1e37]");
  EXPECT_EQ(message(4, 1e-38),
            "reformer::LayerNorm: layer_norm_epsilon is 1e-38, must be in [1e-37, 1e37]");
  const LayerNorm<TypeParam> norm("norm", 4, 1e-37);  // a row of equal numbers stays finite
  std::vector<TypeParam> row(4, TypeParam(3));
  norm.forward_row(row.data(), row.data());
  EXPECT_EQ(row, std::vector<TypeParam>(4, TypeParam(0)));
}

TYPED_TEST(LayerNormTest, HasScaleOneAndBiasZeroAtFirst) {
  LayerNorm<TypeParam> norm("block.layer_norm", 5, 1e-5);
  std::vector<std::string> names;
  norm.for_each_parameter([&](const Parameter<TypeParam>& p) {
    names.push_back(p.name);
    EXPECT_EQ(p.value.rows(), 1);
    EXPECT_EQ(p.value.cols(), 5);
    EXPECT_TRUE((p.value.array() == (names.size() == 1 ? TypeParam(1) : TypeParam(0))).all());
  });
  EXPECT_EQ(names, (std::vector<std::string>{"block.layer_norm.weight", "block.layer_norm.bias"}));
  EXPECT_EQ(norm.width(), 5);
}

TYPED_TEST(LayerNormTest, AgreesWithLoopsForInputsOfAnyScale) {
  for (const Index width : widths) {
    const Layer<TypeParam> layer(width, 1e-12);
    for (double scale = 1; scale <= 512; scale *= 2) {
      Matrix<TypeParam> x = random_matrix<TypeParam>(4, width, 1, scale);
      ASSERT_TRUE(close(layer.forward(x), layer.expected(x, 1e-12)))
          << "width " << width << ", scale " << scale;
      // A mean far from zero costs the digits that it and the deviation do not share.
      x.array() += static_cast<TypeParam>(8 * scale);
      ASSERT_TRUE(close(layer.forward(x), layer.expected(x, 1e-12), 16))
          << "width " << width << ", scale " << scale << " around " << 8 * scale;
    }
  }
}

TYPED_TEST(LayerNormTest, EpsilonIsAddedToTheVariance) {
  const Layer<TypeParam> layer(16, 0.5);
  const auto x = random_matrix<TypeParam>(3, 16, 1);
  EXPECT_TRUE(close(layer.forward(x), layer.expected(x, 0.5)));
}

TYPED_TEST(LayerNormTest, WorksInPlace) {
  for (const Index width : widths) {
    const Layer<TypeParam> layer(width, 1e-5);
    auto x = random_matrix<TypeParam>(3, width, 1);
    const auto y = layer.forward(x);
    for (Index i = 0; i < 3; ++i) layer.norm.forward_row(x.row(i).data(), x.row(i).data());
    EXPECT_TRUE(same_bits(x, y));
  }
}

TYPED_TEST(LayerNormTest, ConstantRowsGiveTheBias) {
  for (const Index width : widths) {
    Layer<TypeParam> layer(width, 1e-5);
    for (const double constant : {0.0, 1.0, -512.0, 0.1}) {
      const Matrix<TypeParam> x =
          Matrix<TypeParam>::Constant(1, width, static_cast<TypeParam>(constant));
      // The mean of 0.1s is off by roundings, and 1 / sqrt(epsilon) makes them 316 times larger.
      EXPECT_TRUE(close(layer.forward(x), layer.bias->value, constant == 0.1 ? 16 : 1))
          << "width " << width << ", constant " << constant;
      // Deviation 0 is where a division by it would show.
      auto dy = random_matrix<TypeParam>(1, width, 2);
      reset_gradients(layer.norm);
      layer.norm.backward_row(x.data(), dy.data(), layer.scale->gradient.data(),
                              layer.bias->gradient.data());
      EXPECT_TRUE(dy.array().isFinite().all()) << "width " << width;
      EXPECT_TRUE(layer.scale->gradient.array().isFinite().all()) << "width " << width;
    }
  }
}

TEST(LayerNormGradient, OfARowAgreesWithFiniteDifferences) {
  for (const Index width : widths) {
    for (const double magnitude : {1.0, 512.0}) {
      Layer<double> layer(width, 1e-5);
      auto x = random_matrix<double>(3, width, 1, magnitude);
      const auto dout = random_matrix<double>(3, width, 2);
      Matrix<double> dx = dout;
      for (Index i = 0; i < 3; ++i) {
        layer.norm.backward_row(x.row(i).data(), dx.row(i).data(), layer.scale->gradient.data(),
                                layer.bias->gradient.data());
      }
      const auto objective = [&] { return weighted_sum(dout, layer.forward(x)); };
      const std::string operation = "LayerNorm, width " + std::to_string(width);
      // Narrow rows may be close to constant, where the function is far from straight.
      const double step = magnitude * (width < 4 ? 0x1p-14 : 0x1p-9);
      check_gradient(operation, "x", objective, x, dx, {.step = step});
      check_parameter_gradients(operation, layer.norm, objective);
    }
  }
}

TYPED_TEST(LayerNormTest, BackwardOfARowAgreesWithDouble) {
  for (const Index width : widths) {
    for (const double magnitude : {1.0, 512.0}) {
      Layer<TypeParam> layer(width, 1e-2);
      Layer<double> wide(width, 1e-2);
      copy_parameters(layer.norm, wide.norm);
      const auto x = random_matrix<TypeParam>(1, width, 1, magnitude);
      auto dx = random_matrix<TypeParam>(1, width, 2);
      const Matrix<double> wide_x = x.template cast<double>();
      Matrix<double> wide_dx = dx.template cast<double>();
      layer.norm.backward_row(x.data(), dx.data(), layer.scale->gradient.data(),
                              layer.bias->gradient.data());
      wide.norm.backward_row(wide_x.data(), wide_dx.data(), wide.scale->gradient.data(),
                             wide.bias->gradient.data());
      // g - mean(g) - z mean(g z) cancels in narrow rows: compare with the scale of its terms.
      const double variance = (wide_x.array() - wide_x.mean()).square().mean();
      const double scale = 1 / std::sqrt(variance + 1e-2);
      EXPECT_TRUE(close(dx, wide_dx, 1, scale)) << "width " << width << ", scale " << magnitude;
      EXPECT_TRUE(close(layer.scale->gradient, wide.scale->gradient)) << "width " << width;
      EXPECT_TRUE(close(layer.bias->gradient, wide.bias->gradient)) << "width " << width;
    }
  }
}

/// Forward and backward of rows [first, first + count) of a half, through the interface of
/// branches.
template <typename Scalar>
class LayerNormOfHalf : public testing::Test {
 protected:
  static constexpr Index rows = 150, first = 3, count = 140, width = 19;
  const Matrix<Scalar> values = random_matrix<Scalar>(rows, width, 1);
  const FloatingHalf<Scalar> x = half_of<FloatingHalf<Scalar>>(values);
  const Matrix<Scalar> upstream = random_matrix<Scalar>(count, width, 2);
  const Matrix<Scalar> dx_before = random_matrix<Scalar>(rows, width, 3);
};
TYPED_TEST_SUITE(LayerNormOfHalf, Scalars);

TYPED_TEST(LayerNormOfHalf, ForwardGivesTheBitsOfEachRow) {
  const Layer<TypeParam> layer(this->width, 1e-5);
  Matrix<TypeParam> out(this->count, this->width);
  Workspace workspace(1);
  layer.norm.forward(this->x, this->first, rows_of(out), {workspace, 1, this->rows});
  const Matrix<TypeParam> expected =
      layer.forward(this->values).middleRows(this->first, this->count);
  EXPECT_TRUE(same_bits(out, expected));
}

TYPED_TEST(LayerNormOfHalf, BackwardAddsToEverythingItIsGiven) {
  Layer<TypeParam> layer(this->width, 1e-5);
  Matrix<TypeParam> row_gradients = this->upstream;
  Matrix<TypeParam> dscale = Matrix<TypeParam>::Zero(1, this->width), dbias = dscale;
  for (Index i = 0; i < this->count; ++i) {
    layer.norm.backward_row(this->values.row(this->first + i).data(), row_gradients.row(i).data(),
                            dscale.data(), dbias.data());
  }
  Matrix<TypeParam> expected_dx = this->dx_before;
  expected_dx.middleRows(this->first, this->count) += row_gradients;

  Workspace workspace(2);
  reset_gradients(layer.norm, 0.25);
  Matrix<TypeParam> dx = this->dx_before, dout = this->upstream;
  layer.norm.backward(this->x, this->first, rows_of(dout), rows_of(dx), {workspace, 1, this->rows});
  EXPECT_TRUE(same_bits(dx, expected_dx)) << "rows outside of the range must stay";
  dscale.array() += TypeParam(0.25);
  dbias.array() += TypeParam(0.25);
  EXPECT_TRUE(close(layer.scale->gradient, dscale));
  EXPECT_TRUE(close(layer.bias->gradient, dbias));
  EXPECT_EQ(workspace.bytes_in_use(), 0U);

  // No rows add nothing, whatever there is in the memory.
  const auto before = gradients_of(layer.norm);
  Matrix<TypeParam> none(0, this->width);
  layer.norm.backward(this->x, this->first, rows_of(none), rows_of(dx), {workspace, 1, this->rows});
  EXPECT_TRUE(same_bits(gradients_of(layer.norm), before));
}

TYPED_TEST(LayerNormOfHalf, BackwardGivesTheSameBitsForAnyThreads) {
  Matrix<TypeParam> first_dx;
  std::vector<double> first_gradients;
  for (const int threads : thread_counts) {
    Workspace workspace(threads);
    Layer<TypeParam> layer(this->width, 1e-5);
    Matrix<TypeParam> dx = this->dx_before, dout = this->upstream;
    layer.norm.backward(this->x, this->first, rows_of(dout), rows_of(dx),
                        {workspace, 1, this->rows});
    if (threads == 1) {
      first_dx = dx;
      first_gradients = gradients_of(layer.norm);
    }
    EXPECT_TRUE(same_bits(dx, first_dx)) << threads << " threads";
    EXPECT_TRUE(same_bits(gradients_of(layer.norm), first_gradients)) << threads << " threads";
  }
}

TEST(LayerNormGradient, OfAHalfAgreesWithFiniteDifferences) {
  constexpr Index rows = 70, width = 5;  // two tiles
  Layer<double> layer(width, 1e-5);
  auto x = random_matrix<double>(rows, width, 1);
  const auto dout = random_matrix<double>(rows, width, 2);
  Workspace workspace(2);
  Matrix<double> dx = Matrix<double>::Zero(rows, width), destroyed = dout;
  layer.norm.backward(half_of<FloatingHalf<double>>(x), 0, rows_of(destroyed), rows_of(dx),
                      {workspace, 1, rows});
  const auto objective = [&] {
    Matrix<double> out(rows, width);
    layer.norm.forward(half_of<FloatingHalf<double>>(x), 0, rows_of(out), {workspace, 1, x.rows()});
    return weighted_sum(dout, out);
  };
  check_gradient("LayerNorm of a half", "x", objective, x, dx, {.step = 0x1p-12});
  check_parameter_gradients("LayerNorm of a half", layer.norm, objective);
}

}  // namespace
}  // namespace reformer::test
