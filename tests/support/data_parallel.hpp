// SPDX-License-Identifier: MIT
/// @file
/// Training runs that ranks share, for tests in threads and under MPI.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/tiny_model.hpp"
#include "reformer/distributed/data_parallel.hpp"
#include "reformer/model/model.hpp"
#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/clipping.hpp"
#include "reformer/training/muon.hpp"
#include "support/compare.hpp"
#include "support/random_data.hpp"

namespace reformer::test {

/// Weights and tables of more than one block, so that several ranks own slices of one.
inline ModelConfig divided_config(bool is_tied = false) {
  ModelConfig config = tiny_config();
  config.tied_embedding = is_tied;
  config.vocabulary = 30;
  config.width = 24;
  config.head_width = 8;
  config.feed_forward_width = 1500;
  config.positions = AxialPositions{{4, 8}, {8, 16}};
  config.ngrams = {{2, 1500}, {3, 900, 0.2}};
  config.value_ngrams = {{2, 700, 0.2}};
  config.layers = {LocalPattern{4, 1, 0, true}, LshPattern{4, 1, 0, 2, {4}}};
  config.dropout = 0.1;
  return config;
}

/// What a run does; all of it but the number of threads decides the bits.
struct SharedRun {
  Index micro_batches = 4;
  int steps = 3;
  int threads = 1;
  Precision precision = Precision::float32;
  Wire wire = Wire::exact;
  double max_norm = 0.05;
  bool is_tied = false;       ///< embedding and head
  bool freezes = false;       ///< an embedding and a weight are not trained
  bool is_backwards = false;  ///< micro-batches change places: another order of additions
};

/// What a run leaves on a rank.
struct SharedResult {
  std::vector<double> losses, norms, parameters;
  std::vector<double> state;  // of the optimiser, whole, on rank 0
  DataParallelMemory memory, plan;
  std::vector<Slice> slices;  // of this rank
};

/// Trains a model that other ranks train too, from step `first` of the run on.
template <typename Optimizer>
class SharedTraining {
 public:
  SharedTraining(Communicator& communicator, const SharedRun& run)
      : run_(run),
        rank_(communicator.rank()),
        workspace_(run.threads),
        model_(divided_config(run.is_tied)),
        training_(communicator, model_, {run.micro_batches, run.wire}) {
    if (rank_ == 0) model_.initialize(1, {.axial_positions = 0.1});
    training_.broadcast_parameters();
    for (const char* name : {"embedding.weight", "layers.1.feed_forward.dense.weight"}) {
      parameter(model_, name).is_frozen = run_.freezes;
    }
  }

  Model<float>& model() { return model_; }
  DataParallel<Model<float>, Optimizer>& training() { return training_; }

  void take_step(int step) {
    const auto losses = training_.accumulate(workspace_, [&](Index m, PassObserver& observer) {
      const Index number = run_.is_backwards ? run_.micro_batches - 1 - m : m;
      const auto pass = static_cast<std::uint32_t>(step * run_.micro_batches + number);
      const Tokens tokens = random_tokens(1, 32, model_.config().vocabulary, 100 + pass);
      return model_.loss_and_gradients(
          workspace_, tokens, next_token_labels(tokens), 1.0F / 31,
          {.key = {3, pass}, .training = true, .precision = run_.precision}, nullptr, &observer);
    });
    for (const Loss& loss : losses) result_.losses.push_back(loss.sum);
    result_.norms.push_back(training_.gradient_norm(workspace_));
    training_.step(workspace_, 1e-2, clipping_scale(result_.norms.back(), run_.max_norm));
  }

  SharedResult result() {
    training_.wait();
    result_.parameters = values_of(model_);
    training_.visit_whole_optimizer([&](const Optimizer& optimizer) {
      optimizer.for_each_state(model_, [&](const auto&, const Matrix<float>& state) {
        result_.state.insert(result_.state.end(), state.data(), state.data() + state.size());
      });
    });
    result_.memory = training_.memory();
    result_.plan = training_.plan(32);
    std::size_t index = 0;
    model_.for_each_parameter([&](const Parameter<float>&) {
      result_.slices.push_back(training_.ownership().slice(index++, rank_));
    });
    return result_;
  }

 private:
  SharedRun run_;
  int rank_;
  Workspace workspace_;
  Model<float> model_;
  DataParallel<Model<float>, Optimizer> training_;
  SharedResult result_;
};

template <typename Optimizer>
SharedResult train_shared(Communicator& communicator, const SharedRun& run) {
  SharedTraining<Optimizer> training(communicator, run);
  for (int step = 0; step < run.steps; ++step) training.take_step(step);
  return training.result();
}

/// Which of two runs' results differ first, or nothing: "parameters".
inline std::string first_difference(const SharedResult& a, const SharedResult& b, bool with_state) {
  if (!same_bits(a.losses, b.losses)) return "losses";
  if (!same_bits(a.norms, b.norms)) return "norms";
  if (!same_bits(a.parameters, b.parameters)) return "parameters";
  if (with_state && !same_bits(a.state, b.state)) return "state";
  return {};
}

}  // namespace reformer::test
