// SPDX-License-Identifier: MIT
// The head against its formula, for small and large vocabularies.
#include "reformer/model/output_head.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "support/compare.hpp"
#include "support/naive.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

using Half = FloatingHalf<double>;

Parameter<double>& parameter(OutputHead<double>& head, const std::string& name) {
  Parameter<double>* found = nullptr;
  head.for_each_parameter([&](Parameter<double>& p) {
    if (p.name == name) found = &p;
  });
  return *found;
}

constexpr int threads = 3;

/// Panels are of 512 positions, of 128, and of 64, the least, whose logits are more than 2 MB. A
/// tied head is one whose weight is twice the transposed table, halved.
TEST(OutputHead, GradientsAreThoseOfTheFormulaForEachSizeOfVocabulary) {
  constexpr Index rows = 600, width_of_half = 3, D2 = 2 * width_of_half;
  for (const auto& [vocabulary, tied, dropout] :
       std::vector<std::tuple<Index, bool, double>>{{5, false, 0.0},
                                                    {3000, false, 0.0},
                                                    {40000, false, 0.0},
                                                    {5, true, 0.3},
                                                    {3000, true, 0.0},
                                                    {40000, true, 0.0}}) {
    SCOPED_TRACE(vocabulary);
    SCOPED_TRACE(tied ? "tied" : "with a weight of its own");
    OutputHead<double> head(width_of_half, vocabulary, 1e-5, dropout, tied);
    randomize_parameters(head, 1);
    head.for_each_parameter([](auto& p) { p.allocate_gradient(); });
    Parameter<double> table("embedding.weight", Role::embedding, vocabulary, width_of_half);
    table.value = random_matrix<double>(vocabulary, width_of_half, 4);
    table.gradient = Matrix<double>::Constant(vocabulary, width_of_half, 1);  // it is added to
    Parameter<double>* given = tied ? &table : nullptr;
    Workspace workspace(threads);
    const Pass pass{.workspace = workspace, .length = rows, .training = dropout > 0};
    const Halves<Half> x{half_of<Half>(random_matrix<double>(rows, width_of_half, 2)),
                         half_of<Half>(random_matrix<double>(rows, width_of_half, 3))};
    std::vector<std::int32_t> labels(rows);
    for (std::size_t i = 0; i < labels.size(); ++i) {
      labels[i] = i % 7 == 3
                      ? ignored_label
                      : static_cast<std::int32_t>(i * 977 % static_cast<std::size_t>(vocabulary));
    }
    Matrix<double> z(rows, D2), dx(rows, D2), expected_dx(rows, D2);
    const auto halves_of = [&](Matrix<double>& both) {
      return HalfGradients<double>{rows_of(both).middle_columns(0, width_of_half),
                                   rows_of(both).middle_columns(width_of_half, width_of_half)};
    };
    const double scale = 0.25;
    const Loss loss = head.loss_and_gradients(x, labels, scale, halves_of(dx), pass, given);
    const Matrix<double> dbias = parameter(head, "head.bias").gradient;
    const Matrix<double> dnorm = parameter(head, "layer_norm.weight").gradient;

    head.encode(x, rows_of(z), pass);
    Matrix<double> logits(rows, vocabulary);
    head.logits(x, 0, rows_of(logits), pass, given);
    const Matrix<double> head_logits = logits;
    double sum = 0;
    for (Index i = 0; i < rows; ++i) {
      const auto label = labels[static_cast<std::size_t>(i)];
      if (label == ignored_label) {
        logits.row(i).setZero();
        continue;
      }
      sum += naive::cross_entropy(logits, i, label);
      const double highest = logits.row(i).maxCoeff();
      logits.row(i) = (logits.row(i).array() - highest).exp().matrix();
      logits.row(i) *= scale / logits.row(i).sum();
      logits(i, label) -= scale;
    }
    EXPECT_NEAR(loss.sum, sum, 1e-9 * sum);
    Matrix<double> weight(D2, vocabulary);
    const Matrix<double> dweight = z.transpose() * logits;
    if (tied) {
      weight << table.value.transpose() / 2, table.value.transpose() / 2;
      const Matrix<double> of_halves =
          dweight.topRows(width_of_half) + dweight.bottomRows(width_of_half);
      const Matrix<double> dtable = (of_halves.transpose() / 2).array() + 1;
      EXPECT_TRUE(close(table.gradient, dtable)) << "dE";
    } else {
      weight = parameter(head, "head.weight").value;
      EXPECT_TRUE(close(parameter(head, "head.weight").gradient, dweight)) << "dW";
    }
    EXPECT_TRUE(close(head_logits, Matrix<double>((z * weight).rowwise() +
                                                  parameter(head, "head.bias").value.row(0))))
        << "logits";
    EXPECT_TRUE(close(dbias, Matrix<double>(logits.colwise().sum()))) << "db";
    Matrix<double> dz = logits * weight.transpose();
    parameter(head, "layer_norm.weight").gradient.setZero();
    head.encode_backward(x, rows_of(dz), halves_of(expected_dx), pass);
    EXPECT_TRUE(close(dx, expected_dx)) << "dx";
    EXPECT_TRUE(close(dnorm, parameter(head, "layer_norm.weight").gradient))
        << "gradient of layer_norm.weight";
  }
}

/// One array of logits, of a panel of positions: 50,257 of them for 128 positions are 26 MB.
TEST(OutputHead, LogitsOfALargeVocabularyTakeNoMoreThan32Megabytes) {
  constexpr Index width_of_half = 2;
  for (const Index vocabulary : {1000, 50257, 62500, 125000}) {
    const OutputHead<float> head(width_of_half, vocabulary, 1e-5, 0);
    Workspace one = Workspace::plan(1), plan = Workspace::plan(1);
    head.plan_gradients(one, 1, Precision::float32);
    head.plan_gradients(plan, 100000, Precision::float32);
    const std::size_t logits = plan.peak_bytes() - one.peak_bytes();
    EXPECT_GT(logits, std::size_t{60} * 4 * static_cast<std::size_t>(vocabulary)) << vocabulary;
    EXPECT_LT(logits, std::size_t{32'000'000}) << vocabulary;
  }
}

}  // namespace
}  // namespace reformer::test
