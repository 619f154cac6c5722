// SPDX-License-Identifier: MIT
// A branch of one's own in a model: between attention and feed-forward of each layer, every token
// is given its predecessor. Trains it on sequences that count, and goes forth and back through the
// stack.
#include <cstdio>
#include <reformer/reformer.hpp>

using namespace reformer;
using Half = DynamicHalf<float>;

/// f(x)_t = w x_{t-1}, elementwise, with w [1, D].
struct Predecessor {
  using Scalar = float;
  static constexpr std::string_view label = "predecessor";
  struct Saved {};  // reverse needs nothing of forward
  Parameter<float> w;

  /// y +-= f(x): one function for both, so that the same bits are added and subtracted.
  void accumulate_rows(const Half& x, Half& y, Sign sign, const Pass& pass) const {
    Scratch scratch(pass.workspace);
    const auto memory = scratch.per_thread<float>(w.size());
    parallel_for(pass.workspace.threads(), pass.rows(), [&](Index t, int thread) {
      if (t % pass.length == 0) return;
      float* row = memory[thread];
      x.read(t - 1, 0, w.size(), row);
      for (Index j = 0; j < w.size(); ++j) row[j] *= w.value(0, j);
      accumulate(y, sign, t, 0, w.size(), row);
    });
  }
  void forward(const Half& x, Half& y, Saved&, const Pass& pass) const {
    accumulate_rows(x, y, Sign::plus, pass);
  }
  void reverse(const Half& x, Half& y, const MatrixView<const float>& dy,
               const MatrixView<float>& dx, Saved&, const Pass& pass) {
    if (pass.subtract) accumulate_rows(x, y, Sign::minus, pass);
    Scratch scratch(pass.workspace);
    float* row = scratch.take<float>(w.size());
    for (Index t = 0; t < pass.rows(); ++t) {
      if (t % pass.length == 0) continue;
      x.read(t - 1, 0, w.size(), row);
      for (Index j = 0; j < w.size(); ++j) {
        w.gradient(0, j) += dy(t, j) * row[j];
        dx(t - 1, j) += dy(t, j) * w.value(0, j);
      }
    }
  }
  void plan(Workspace& workspace, const SavedPass&, const BranchStorage&) const {
    Scratch(workspace).per_thread<float>(w.size());
    Scratch(workspace).take<float>(w.size());
  }
  void for_each_parameter(auto&& f) { f(w); }
  void for_each_parameter(auto&& f) const { f(w); }
};

int main() {
  const ModelConfig config{.vocabulary = 32,
                           .width = 64,
                           .num_heads = 2,
                           .head_width = 32,
                           .feed_forward_width = 128,
                           .positions = LearnedPositions{64},
                           .layers = {LocalPattern{.chunk_length = 16}, LocalPattern{}},
                           .residual = FixedResidual{}};
  Model<float> model(config, [&](Index layer, auto& branches) {
    const std::string name = "layers." + std::to_string(layer) + ".predecessor.weight";
    branches.insert(branches.begin() + 1, Predecessor{{name, Role::weight, 1, config.width}});
  });
  model.initialize(/*seed=*/1);
  Adam<float> adam;
  Workspace workspace;
  Tokens tokens(8, 64);
  for (int b = 0; b < 8; ++b) {
    for (int t = 0; t < 64; ++t) tokens(b, t) = (5 * b + t * (1 + b % 3)) % 32;
  }
  double first_loss = 0, loss = 0;
  for (std::uint32_t step = 0; step <= 30; ++step) {
    model.zero_gradients();
    loss = model
               .loss_and_gradients(workspace, tokens, next_token_labels(tokens), 1.0f / (8 * 63),
                                   {.key = {.seed = 1, .step = step}, .training = true})
               .mean();
    adam.step(workspace, model, /*rate=*/3e-3);
    if (step == 0) first_loss = loss;
    if (step % 10 == 0) std::printf("step %u: loss %.2f\n", step, loss);
  }

  // Up the stack from the embedding and down again: in fixed point, the same bits.
  Halves<Half> bottom;
  model.trace(workspace, tokens, {}, [&](Index layer, const Halves<Half>& halves) {
    if (layer == -1) bottom = halves;
  });
  Halves<Half> halves = bottom;
  const Pass pass{workspace, 8, 64};
  Matrix<float> dx1 = Matrix<float>::Ones(pass.rows(), config.width), dx2 = dx1;
  Model<float>::Stack::Saved nothing(static_cast<std::size_t>(model.stack().size()));
  model.stack().forward(halves, pass);
  model.stack().reverse(halves, {rows_of(dx1), rows_of(dx2)}, nothing, pass);
  const auto values = [&](const Half& half) {
    Matrix<float> all(pass.rows(), config.width);
    for (Index t = 0; t < pass.rows(); ++t) half.read(t, 0, config.width, all.row(t).data());
    return all;
  };
  const bool is_exact = values(halves.first) == values(bottom.first) &&
                        values(halves.second) == values(bottom.second);
  std::printf("reversal is %s\n", is_exact ? "exact" : "NOT exact");
  return is_exact && loss < first_loss / 2 ? 0 : 1;
}
