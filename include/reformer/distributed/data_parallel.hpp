// SPDX-License-Identifier: MIT
/// @file
/// Training one model by many ranks that share the micro-batches of each step: the same bits for
/// any number of ranks and threads.
///
///     DataParallel<Model<float>, Adam<float>> training(communicator, model, {.micro_batches = 4});
///     training.broadcast_parameters();  // those of rank 0
///     for (...) {
///       const std::vector<Loss> losses = training.accumulate(
///           workspace, [&](Index micro_batch, PassObserver& observer) {
///             return model.loss_and_gradients(workspace, tokens_of(micro_batch), ..., &observer);
///           });
///       const double norm = training.gradient_norm(workspace);
///       training.step(workspace, rate, clipping_scale(norm, max_norm));
///     }
///     training.wait();  // before anything else reads the parameters
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/distributed/gradient_exchange.hpp"
#include "reformer/distributed/ownership.hpp"
#include "reformer/distributed/sharded_optimizer.hpp"
#include "reformer/distributed/weight_gather.hpp"
#include "reformer/distributed/wire.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/parameter.hpp"
#include "reformer/foundation/workspace.hpp"
#include "reformer/model/pass_observer.hpp"

namespace reformer::inline REFORMER_ABI {

struct DataParallelConfig {
  Index micro_batches = 1;  ///< of a step, of all ranks together; at least 1
  Wire wire = Wire::exact;  ///< of gradients
};

/// Bytes that a rank holds beside the model and its gradients.
struct DataParallelMemory {
  std::size_t optimizer = 0;  ///< state of its slices
  std::size_t exchange = 0;   ///< sums over rounds, and messages
  /// State of all ranks, on rank 0 of more than one, while it is visited or set for a checkpoint.
  std::size_t whole_optimizer = 0;
};

/// All ranks make the same calls in the same order, with equal arguments. What one throws, others
/// do not know: the caller ends them.
///
/// Refers to communicator and model, which it changes. Not copyable.
/// @tparam Optimizer  `Adam`, `Adafactor` or `Muon` of the model's scalar
template <typename Model, typename Optimizer>
class DataParallel {
 public:
  using Scalar = typename Model::Scalar;
  using Config = typename detail::ShardedOptimizer<Model, Optimizer>::Config;

  /// @throw std::invalid_argument for a configuration out of range
  DataParallel(Communicator& communicator, Model& model, const DataParallelConfig& config,
               const Config& optimizer = {})
      : communicator_(communicator),
        model_(model),
        ownership_(Ownership::of<Optimizer>(model, communicator.size())),
        gradients_(communicator, model, ownership_, config.micro_batches, config.wire),
        optimizer_(communicator, model, ownership_, optimizer),
        weights_(communicator, model, ownership_, gradients_.rows()),
        observer_(*this) {}
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  const Ownership& ownership() const { return ownership_; }

  /// Every rank gets the parameters of rank 0.
  void broadcast_parameters() {
    wait();
    model_.for_each_parameter([&](Parameter<Scalar>& p) {
      communicator_.broadcast(std::span(p.value.data(), static_cast<std::size_t>(p.size())), 0);
    });
  }

  /// The first half of a step: gradients of all micro-batches, summed, each element by its owner.
  /// What gradients held before is lost.
  /// @param pass  `pass(micro_batch, observer)` is called for the micro-batches of this rank. By
  /// one
  ///   pass that it gives the observer, such as `Model::loss_and_gradients`, it adds the gradients
  ///   of one to those of the model; it returns what is copied as bytes, such as `Loss`
  /// @return what it has returned for all micro-batches, in their order, on every rank
  /// @throw std::invalid_argument for a pass without the observer; whatever `pass` throws
  template <typename Pass>
  auto accumulate(Workspace& workspace, const Pass& pass) {
    using Result = std::invoke_result_t<const Pass&, Index, PassObserver&>;
    static_assert(std::is_trivially_copyable_v<Result>);
    detail::check_for_use("DataParallel::accumulate", workspace);
    has_sums_ = false;
    const auto rounds = static_cast<std::size_t>(gradients_.num_rounds());
    std::vector<Result> own(rounds);
    for (std::size_t k = 0; k < rounds; ++k) {
      const auto round = static_cast<Index>(k);
      model_.zero_gradients();
      gradients_.begin(round, workspace.threads());
      const Index micro_batch = gradients_.micro_batch(round, communicator_.rank());
      if (micro_batch < gradients_.micro_batches()) {
        own[k] = pass(micro_batch, static_cast<PassObserver&>(observer_));
      } else {
        weights_.wait_for_all();
        for (Index part = model_.num_parts() - 1; part >= 0; --part) gradients_.contribute(part);
      }
      gradients_.end();
    }
    const std::vector<Result> all =
        waiting_.measure([&] { return communicator_.all_gather(std::span<const Result>(own)); });
    std::vector<Result> results;
    for (Index m = 0; m < gradients_.micro_batches(); ++m) {
      const auto i = static_cast<std::size_t>(m);
      const auto ranks = static_cast<std::size_t>(communicator_.size());
      results.push_back(all[i % ranks * rounds + i / ranks]);
    }
    has_sums_ = true;
    return results;
  }

  /// The norm of the summed gradients, after `accumulate`: the bits of `global_gradient_norm`.
  /// @throw std::invalid_argument unless `accumulate` came before, and no step since
  double gradient_norm(Workspace& workspace) {
    check_sums("DataParallel::gradient_norm");
    return optimizer_.gradient_norm(workspace, gradients_.rows(), waiting_);
  }

  /// The second half of a step: each rank steps its slices, and all begin to gather the parameters.
  /// The next `accumulate` waits for them, layer by layer.
  /// @throw std::invalid_argument as `Optimizer::step`, and unless `accumulate` came before, and no
  ///   step since
  void step(Workspace& workspace, double rate, double gradient_scale = 1) {
    check_sums("DataParallel::step");
    optimizer_.step(workspace, rate, gradient_scale);
    has_sums_ = false;
    weights_.begin();
  }

  /// Waits until this rank has all parameters. Until then only `accumulate` may read them.
  void wait() { weights_.wait_for_all(); }

  /// Calls `f(optimizer)` on rank 0 with the state of all ranks, such as for `save_model`: a
  /// checkpoint does not know how many there are. Of more than one rank, rank 0 holds all state
  /// until `f` returns.
  template <typename F>
  void visit_whole_optimizer(const F& f) const {
    optimizer_.visit_whole(f);
  }
  /// Calls `f(optimizer)` on rank 0, which fills it, as `ModelFile::read_optimizer` does; then each
  /// rank has its part of the state, the configuration and the number of steps.
  template <typename F>
  void set_whole_optimizer(const F& f) {
    optimizer_.set_whole(f);
  }
  /// Calls `f(name, state)` for the state of this rank's slices, in one row each; that of a
  /// parameter that this rank owns as a whole has its shape.
  template <typename F>
  void for_each_own_state(const F& f) const {
    optimizer_.for_each_own_state(f);
  }

  /// Seconds, since it was made, in which this rank only waited for others: what was not hidden
  /// behind a pass.
  double exposed_seconds() const {
    return gradients_.exposed_seconds() + weights_.exposed_seconds() + waiting_.seconds();
  }

  /// What this rank holds now.
  DataParallelMemory memory() const {
    return {optimizer_.state_bytes(), gradients_.bytes() + weights_.bytes(), 0};
  }
  /// What it holds at most, of micro-batches of so many tokens.
  /// @throw std::invalid_argument for a number of tokens out of range
  DataParallelMemory plan(Index tokens) const {
    check_between("DataParallel::plan", "tokens", tokens, 1, max_size);
    return {optimizer_.state_bytes(),
            gradients_.planned_bytes(tokens) +
                weights_.planned_bytes(tokens, gradients_.micro_batches()),
            optimizer_.whole_bytes()};
  }

 private:
  void check_sums(std::string_view function) const {
    check(has_sums_, function, "there are no summed gradients, must come after accumulate");
  }

  class Observer final : public PassObserver {
   public:
    explicit Observer(DataParallel& owner) : owner_(owner) {}
    void before_forward(Index part) override { owner_.weights_.wait_for(part); }
    void after_backward(Index part) override { owner_.gradients_.contribute(part); }

   private:
    DataParallel& owner_;
  };

  Communicator& communicator_;
  Model& model_;
  Ownership ownership_;
  detail::GradientExchange<Scalar> gradients_;
  detail::ShardedOptimizer<Model, Optimizer> optimizer_;
  detail::WeightGather<Scalar> weights_;
  Observer observer_;
  detail::WaitingTime waiting_;
  bool has_sums_ = false;  // that no step has used
};

}  // namespace reformer::inline REFORMER_ABI
