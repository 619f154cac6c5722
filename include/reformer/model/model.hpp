// SPDX-License-Identifier: MIT
/// @file
/// The model: embedding and positions, a reversible stack, a head over both halves.
///
///     x_1 = x_2 = dropout(embedding + position): `InputEmbedding`
///     (x_1, x_2) through a reversible stack: L layers of self-attention and feed-forward
///     logits = dropout(LN([x_1, x_2])) W + b, with W of its own or the embedding's rows: see
///     `ModelConfig::tied_embedding`
///
/// A model is its parameters. What a pass needs is taken from the caller's workspace and given back
/// at its end: two halves and, in a training step, their two gradients, [B*T, D] each, whatever the
/// depth, bucket ids of hashed layers unless the halves are in fixed point, and scratch. A memory
/// budget buys time: see `StoragePlan`.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reformer/attention/self_attention.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/check_shape.hpp"
#include "reformer/model/config.hpp"
#include "reformer/model/input_embedding.hpp"
#include "reformer/model/output_head.hpp"
#include "reformer/model/pass_observer.hpp"
#include "reformer/model/storage.hpp"
#include "reformer/operations/feed_forward.hpp"
#include "reformer/reversible/sequence.hpp"

namespace reformer::inline REFORMER_ABI {

/// Standard deviations of the initial values. The rest is not drawn: gains of norms are 1 and
/// biases 0, as in HuggingFace, mixed values are those of what followed, and temperatures 20.
struct Initialization {
  double weights = 0.02;            ///< linear weights
  double embedding = 0.02;          ///< token embedding, as the stack is given it
  double learned_positions = 0.02;  ///< learned position table
  double axial_positions = 1.0;     ///< axial position tables
};

/// How a model is run.
struct RunOptions {
  RandomKey key = {};  ///< seed and step: dropout and hash rotations
  bool training = false;
  std::span<const std::uint8_t> is_real = {};  ///< `[B*T]`, 0 for padding; empty: all real
  /// Bytes that a training step may take, beyond its least, to save time: see `StoragePlan`. With
  /// halves in fixed point it changes no bit of the result.
  std::size_t memory_budget = 0;
  /// Rounds of hashed attention, in passes without gradients; 0: those of each layer. More rounds
  /// than a model was trained with find more of what it looks for, and take more time.
  Index num_hashes = 0;
  /// Of matrix products, of a model of floats. What hashing multiplies is in float32 always.
  Precision precision = Precision::float32;
  /// What all dropout has in training of the rates of its configuration, from 0 to 1.
  double dropout_share = 1;
};

/// Labels for predicting the next token: `labels[b, t] = tokens[b, t + 1]`, the last one ignored.
inline Tokens next_token_labels(const Tokens& tokens) {
  Tokens labels(tokens.dimension(0), tokens.dimension(1));
  const Index T = tokens.dimension(1);
  for (Index b = 0; b < tokens.dimension(0); ++b) {
    for (Index t = 0; t < T; ++t) labels(b, t) = t + 1 < T ? tokens(b, t + 1) : ignored_label;
  }
  return labels;
}

/// Bytes of a training step by category: what the model holds, what the workspace does at its peak,
/// and what the step returns or hands out on its way.
struct MemoryPlan {
  std::size_t parameters = 0;
  std::size_t gradients = 0;        ///< and which rows of tables of n-grams have some
  std::size_t residual_halves = 0;  ///< two halves and their gradients: the floor, 4 B T D
  /// What branches save on the way forward: bucket ids of hashed layers, none with halves in fixed
  /// point.
  std::size_t saved = 0;
  std::size_t stored = 0;    ///< what `storage` takes, at most the budget
  std::size_t scratch = 0;   ///< everything else in the workspace
  std::size_t encoding = 0;  ///< z and dz of `encode_and_gradients`, two arrays [B, T, 2D]
  StoragePlan storage;       ///< what is stored to save time, branch by branch

  /// Peak of the workspace.
  std::size_t workspace() const { return residual_halves + saved + stored + scratch; }
  std::size_t total() const { return parameters + gradients + workspace() + encoding; }
};

template <typename Scalar>
class Decoder;

/// Reformer model: its parameters and their gradients, and nothing of a pass.
///
/// Passes without gradients are const: any number of threads may run them on one model, each with a
/// workspace of its own. Passes with gradients add to `Parameter::gradient`, so only one may run at
/// a time, beside passes without gradients; nothing may run while parameters change. The callback
/// of a pass may run another, on the same workspace too, which then holds both.
///
/// Passes read tokens or vectors: see `ModelInput`.
///
/// Every pass throws `std::invalid_argument`, before it writes anything, for an input, a mask or
/// options that do not fit the model, for a model that was never filled, and for logits or a loss
/// of a model without a language head; and `std::overflow_error` where halves in fixed point leave
/// their range, with layer and branch, place, value and range.
template <typename Scalar_>
class Model {
 public:
  using Scalar = Scalar_;
  using Half = DynamicHalf<Scalar>;
  using Input = ModelInput<Scalar>;
  using Stack = ReversibleSequence<Half>;
  using Branch = AnyBranch<Half>;
  /// Changes what a layer is made of: is given its number and its branches, `SelfAttention` and
  /// `FeedForward`, and may put others between them, or take one away.
  using LayerChange = std::function<void(Index layer, std::vector<Branch>& branches)>;

  /// From an encoding `[B, T, 2D]` to the gradient of a loss by it.
  using EncodingGradient = std::function<Tensor<Scalar, 3>(const Tensor<Scalar, 3>&)>;
  /// Is shown the residual stream after a layer; layer -1 stands for the embedding.
  using LayerVisit = std::function<void(Index layer, const Halves<Half>& halves)>;

  /// Weights are zero until `initialize` or a loader fills them, and no pass runs before.
  /// @param change  is called once for each layer; or none. Branches take turns through the whole
  ///   stack: what a layer of three adds to x_1, the next layer adds to x_2.
  /// @throw std::invalid_argument naming the first impossible field of the configuration, for a
  ///   layer without a branch, and for two parameters of one name
  explicit Model(const ModelConfig& config, const LayerChange& change = {});

  const ModelConfig& config() const { return config_; }
  /// All branches, one layer after another.
  Stack& stack() { return stack_; }
  const Stack& stack() const { return stack_; }

  /// The first branch of this type in a layer, or null: `branch<SelfAttention<float>>(0)`.
  /// @throw std::invalid_argument if there is no such layer
  template <typename Type>
  Type* branch(Index layer) {
    return branch_of<Type>(*this, layer);
  }
  template <typename Type>
  const Type* branch(Index layer) const {
    return branch_of<Type>(*this, layer);
  }

  /// Fixes the number of buckets, in factors, of the heads whose pattern leaves it to the length.
  /// @throw std::invalid_argument for factors that are not possible
  void set_num_buckets(const std::vector<Index>& factors);

  /// Visits every parameter in a fixed order: optimisers, checkpoints and checks all loop here.
  void for_each_parameter(auto&& f) { visit_parameters(*this, ParameterVisitor<Scalar>(f)); }
  void for_each_parameter(auto&& f) const {
    visit_parameters(*this, ConstParameterVisitor<Scalar>(f));
  }

  /// Parts of the model in the order of the forward pass: part 0 is the embedding with positions
  /// and n-grams, part 1 + i is layer i, and the last is the head. An embedding that is tied is of
  /// part 0 alone, which is the first that is read and the last whose gradients are complete.
  Index num_parts() const { return num_layers() + 2; }
  /// Visits the parameters of one part. Those of all parts, one after another, are those of
  /// `for_each_parameter` in its order.
  /// @throw std::invalid_argument if there is no such part
  void for_each_parameter_of(Index part, auto&& f) {
    visit_part(*this, part, ParameterVisitor<Scalar>(f));
  }
  void for_each_parameter_of(Index part, auto&& f) const {
    visit_part(*this, part, ConstParameterVisitor<Scalar>(f));
  }

  /// The parameter of this name, or null if there is none.
  Parameter<Scalar>* find_parameter(std::string_view name) {
    Parameter<Scalar>* found = nullptr;
    for_each_parameter([&](Parameter<Scalar>& p) {
      if (p.name == name) found = &p;
    });
    return found;
  }
  const Parameter<Scalar>* find_parameter(std::string_view name) const {
    const Parameter<Scalar>* found = nullptr;
    for_each_parameter([&](const Parameter<Scalar>& p) {
      if (p.name == name) found = &p;
    });
    return found;
  }

  Index num_parameters() const {
    Index count = 0;
    for_each_parameter([&](const Parameter<Scalar>& p) { count += p.size(); });
    return count;
  }

  /// Draws the initial values; the same seed gives the same model.
  /// @throw std::invalid_argument for a deviation that is negative or not finite
  void initialize(std::uint64_t seed, const Initialization& how = {});

  /// Sets all gradients to zero, allocating them at first.
  void zero_gradients() {
    for_each_parameter([](Parameter<Scalar>& p) { p.zero_gradient(); });
  }

  /// Throws `std::invalid_argument` for an input or options that no pass takes, as every pass does
  /// in the name of its function, and does nothing else.
  void check_input(std::string_view function, Workspace& workspace, const Input& input,
                   const RunOptions& options) const {
    start(workspace, function, input, options);
  }

  /// Sum of cross-entropies over all labels that are not `ignored_label`.
  /// @param labels  `[B, T]`; see `next_token_labels`
  /// @param each  receives the cross-entropy of each position `[B*T]`, in nats, 0 where the label
  ///   is ignored; or empty
  /// @throw std::invalid_argument, std::overflow_error as every pass, and std::invalid_argument for
  ///   wrong labels or another size of `each`
  Loss loss(Workspace& workspace, const Input& input, const Tokens& labels,
            const RunOptions& options = {}, std::span<double> each = {}) const;

  /// One training step without the optimiser: adds the gradients of `scale` times the summed loss
  /// to the parameters'.
  /// @param scale     1 / (number of labels), or that divided by the number of accumulated passes
  /// @param dvectors  is overwritten by the gradient by the vectors `[B, T, D]`, or by the
  ///   embeddings of the tokens; or null
  /// @param observer  is told of the parts whose weights are needed next and whose gradients are
  ///   complete; or null
  /// @return the summed loss. If it is not finite, so are gradients, and the step must not be
  /// applied.
  /// @throw std::invalid_argument as `loss`, for a scale that is not finite, and for `num_hashes`
  ///   other than 0
  /// @throw std::overflow_error as `loss`, before any gradient is touched
  Loss loss_and_gradients(Workspace& workspace, const Input& input, const Tokens& labels,
                          Scalar scale, const RunOptions& options,
                          Tensor<Scalar, 3>* dvectors = nullptr, PassObserver* observer = nullptr);

  /// Logits `[B, T, V]`. Meant for short inputs and tests; training never holds them.
  Tensor<Scalar, 3> logits(Workspace& workspace, const Input& input,
                           const RunOptions& options = {}) const;

  /// What the head makes of the stack, z = dropout(LN([x_1, x_2])) `[B, T, 2D]`, before logits.
  Tensor<Scalar, 3> encode(Workspace& workspace, const Input& input,
                           const RunOptions& options = {}) const;

  /// The same, and the gradients of a loss of the caller's own, which are added to the parameters'.
  /// @param gradient  is called once with z `[B, T, 2D]` and returns dz of the same shape; it may
  ///   run other passes, such as those for the other texts of a contrastive loss
  /// @param dvectors, observer  as in `loss_and_gradients`
  /// @throw std::invalid_argument as every pass, for `num_hashes` other than 0, and for another
  ///   shape of dz, before any gradient is touched
  /// @throw std::overflow_error as every pass, before any gradient is touched
  void encode_and_gradients(Workspace& workspace, const Input& input, const RunOptions& options,
                            const EncodingGradient& gradient, Tensor<Scalar, 3>* dvectors = nullptr,
                            PassObserver* observer = nullptr);

  /// Runs the stack and shows the residual stream on its way.
  void trace(Workspace& workspace, const Input& input, const RunOptions& options,
             const LayerVisit& visit) const;

  /// Runs the stack and gives the bucket ids of every layer, those of its first self-attention, the
  /// same that another pass with these arguments has: `[B, H, R, T]` for each kind of heads that
  /// hashes, none for layers that do not hash at this length.
  std::vector<std::vector<Tensor<Bucket, 4>>> buckets(Workspace& workspace, const Input& input,
                                                      const RunOptions& options = {}) const;

  /// Logits `[V]` of the last real position of one sequence, for sampling the next token.
  /// @throw std::invalid_argument, std::overflow_error as every pass, and std::invalid_argument if
  ///   no token is real
  std::vector<Scalar> next_token_logits(Workspace& workspace, std::span<const std::int32_t> tokens,
                                        const RunOptions& options = {}) const;

  /// The first layer after which a half is not finite, to explain a loss that is not; no value if
  /// there is none. Layer -1 stands for the embedding.
  std::optional<Index> first_non_finite_layer(Workspace& workspace, const Input& input,
                                              const RunOptions& options) const;

  /// What a training step on `[batch, length]` tokens needs, and one on vectors at most, optimiser
  /// state and the gradient by vectors apart:
  /// `loss_and_gradients`, or `encode_and_gradients` if there is no language head.
  /// @param memory_budget, precision  as in `RunOptions`
  /// @throw std::invalid_argument for sizes that no step can have, and as every pass for a
  /// precision
  MemoryPlan plan(Index batch, Index length, int threads, std::size_t memory_budget = 0,
                  Precision precision = Precision::float32) const {
    return plan_of(!config_.language_head, batch, length, threads, memory_budget, precision);
  }

  /// The same for `encode_and_gradients`, with or without a language head.
  MemoryPlan plan_encoding(Index batch, Index length, int threads, std::size_t memory_budget = 0,
                           Precision precision = Precision::float32) const {
    return plan_of(true, batch, length, threads, memory_budget, precision);
  }

 private:
  friend class Decoder<Scalar>;

  /// What a pass with gradients carries from its forward to its backward walk.
  struct Walk {
    Halves<Half> halves;
    HalfGradients<Scalar> gradients;
    typename Stack::Saved saved;
    typename Stack::Stored stored;
  };

  template <typename Self, typename Visitor>
  static void visit_parameters(Self& self, Visitor f) {
    for (Index part = 0; part < self.num_parts(); ++part) visit_part(self, part, f);
  }
  template <typename Self, typename Visitor>
  static void visit_part(Self& self, Index part, Visitor f) {
    check_between("Model", "part", part, 0, self.num_parts() - 1);
    if (part == 0) {
      self.embedding_.for_each_parameter(f);
    } else if (part < self.num_parts() - 1) {
      for (Index i = self.first_branch(part - 1); i < self.first_branch(part); ++i) {
        self.stack_[i].for_each_parameter(f);
      }
    } else {
      self.head_.for_each_parameter(f);
    }
  }

  template <typename Type, typename Self>
  static auto branch_of(Self& self, Index layer)
      -> decltype(self.stack_[0].template get_if<Type>()) {
    check(layer >= 0 && layer < self.num_layers(), "Model::branch", "layer is ", layer,
          ", must be in [0, ", self.num_layers(), ")");
    for (Index i = self.first_branch(layer); i < self.first_branch(layer + 1); ++i) {
      if (auto* found = self.stack_[i].template get_if<Type>()) return found;
    }
    return nullptr;
  }

  /// Branches of others may have any names; files and optimisers tell parameters by them.
  void check_names() const {
    std::set<std::string> names;
    for_each_parameter([&](const Parameter<Scalar>& p) {
      check(names.insert(p.name).second, "Model", "the name ", p.name,
            " is that of two parameters, must be that of one");
    });
  }

  /// The table that a tied head is given, or null.
  const Parameter<Scalar>* tied_table() const {
    return config_.tied_embedding ? &embedding_.table() : nullptr;
  }
  Parameter<Scalar>* tied_table() { return config_.tied_embedding ? &embedding_.table() : nullptr; }

  Index num_layers() const { return static_cast<Index>(config_.layers.size()); }
  /// The branches of a layer are from that of the layer to that of the next.
  Index first_branch(Index layer) const { return first_branch_[static_cast<std::size_t>(layer)]; }

  MemoryPlan plan_of(bool encodes, Index batch, Index length, int threads,
                     std::size_t memory_budget, Precision precision) const;

  static std::span<const std::int32_t> span_of(const Tokens& tokens) {
    return {tokens.data(), static_cast<std::size_t>(tokens.size())};
  }

  Index attention_width() const { return config_.num_heads * config_.head_width; }

  Pass start(Workspace& workspace, std::string_view function, const Input& input,
             const RunOptions& options) const {
    Pass pass{workspace,   input.batch(),    input.length(),
              options.key, options.training, options.is_real};
    if (input.tokens() != nullptr) pass.tokens = span_of(*input.tokens());
    pass.num_hashes = options.num_hashes;
    pass.precision = options.precision;
    pass.dropout_share = options.dropout_share;
    check_pass(function, pass);
    detail::check_precision<Scalar>(function, pass.precision);
    check_between(function, "num_hashes", options.num_hashes, 0, max_hashes);
    check_length_of_pass(function, pass.length);
    embedding_.check_input(function, input);
    check_filled(function);
    return pass;
  }

  void check_all_rounds(std::string_view function, const RunOptions& options) const {
    check(options.num_hashes == 0, function, "num_hashes is ", options.num_hashes,
          ", must be 0 in a pass with gradients, which has the rounds of each layer");
  }

  void check_length_of_pass(std::string_view function, Index length) const {
    check_sequence_length(function, length);
    detail::check_length(function, config_.positions, length);
  }

  /// Zeros everywhere train to nothing: every gradient but that of the last bias is zero.
  void check_filled(std::string_view function) const {
    bool is_filled = false;
    for_each_parameter([&](const Parameter<Scalar>& p) {
      if (is_filled || p.role == Role::gain || p.role == Role::mixture ||
          p.role == Role::temperature) {
        return;
      }
      const Scalar* end = p.value.data() + p.size();
      is_filled = std::find_if(p.value.data(), end, [](Scalar x) { return x != 0; }) != end;
    });
    check(is_filled, function,
          "all parameters are zero: initialize the model, or load its parameters, before it runs");
  }

  void check_head(std::string_view function) const {
    check(config_.language_head, function, "the model has no language head, only encode");
  }

  void check_labels(std::string_view function, const Input& input, const Tokens& labels) const {
    check_equal(function, "labels dimension 0", labels.dimension(0), "batch", input.batch());
    check_equal(function, "labels dimension 1", labels.dimension(1), "length", input.length());
    detail::check_label_range(function, span_of(labels), config_.vocabulary);
  }

  /// Everything that may be stored.
  std::vector<detail::StorageItem> storage_items(Index batch, Index length) const {
    const SavedPass pass{batch, length, residual_is_exact()};
    const Index rows = batch * length;
    const std::size_t half_bytes =
        bytes_of([&](Scratch& scratch) { scratch.take<Scalar>(rows * config_.width); });
    std::vector<detail::StorageItem> items;
    for (Index i = 0; i < stack_.size(); ++i) {
      const Branch& branch = stack_[i];
      const auto add = [&](bool BranchStorage::*what, std::size_t bytes, double work) {
        if (work <= 0) return;
        items.push_back(
            {static_cast<std::size_t>(i), what, bytes, static_cast<double>(rows) * work});
      };
      add(&BranchStorage::input, half_bytes, branch.output_work());
      add(&BranchStorage::context,
          saved_bytes(branch, pass, true) - saved_bytes(branch, pass, false),
          branch.context_work(length));
    }
    return items;
  }

  /// Bytes that `body(scratch)` takes.
  template <typename Body>
  static std::size_t bytes_of(const Body& body) {
    Workspace plan = Workspace::plan(1);
    Scratch scratch(plan);
    body(scratch);
    return plan.peak_bytes();
  }
  static std::size_t saved_bytes(const Branch& branch, const SavedPass& pass, bool context) {
    return bytes_of([&](Scratch& scratch) { branch.saved_in(scratch, pass, context); });
  }

  StoragePlan storage_plan(Index batch, Index length, std::size_t budget) const {
    if (budget == 0) return {};
    return detail::choose_storage(static_cast<std::size_t>(stack_.size()),
                                  storage_items(batch, length), budget);
  }

  bool residual_is_exact() const { return std::holds_alternative<FixedResidual>(config_.residual); }

  Halves<Half> halves_in(Scratch& memory, Index rows) const {
    return {Half(memory, rows, config_.width, config_.residual),
            Half(memory, rows, config_.width, config_.residual)};
  }

  /// Memory for a pass with gradients that stores what was chosen.
  Walk walk_in(Scratch& memory, Index batch, Index length, const StoragePlan& storage) const {
    const Index rows = batch * length, D = config_.width;
    const auto gradient = [&] {
      return MatrixView<Scalar>(memory.take<Scalar>(rows * D), rows, D);
    };
    Walk walk{halves_in(memory, rows), {gradient(), gradient()}, {}, {}};
    walk.saved = stack_.saved_in(memory, {batch, length, residual_is_exact()}, storage);
    walk.stored.resize(storage.size());
    for (std::size_t i = 0; i < storage.size(); ++i) {
      if (storage[i].input) walk.stored[i].emplace(memory, rows, D, config_.residual);
    }
    return walk;
  }

  /// All gradients have their size, and the workspace is one block, before a pass needs them.
  void prepare_gradients(Workspace& workspace, const MemoryPlan& plan) {
    for_each_parameter([](Parameter<Scalar>& p) { p.allocate_gradient(); });
    workspace.reserve(plan.workspace());
  }

  /// The halves at the top, of a pass without gradients.
  Halves<Half> forward(Scratch& memory, const Input& input, const Pass& pass) const {
    return forward(memory, input, pass, [](Index, const Halves<Half>&) {});
  }
  /// The same, and calls `visit(i, halves)` when layer i has been applied, i = -1 for the
  /// embedding.
  template <typename Visit>
  Halves<Half> forward(Scratch& memory, const Input& input, const Pass& pass,
                       const Visit& visit) const {
    Halves<Half> halves = halves_in(memory, pass.rows());
    embedding_.forward(input, pass, halves);
    visit(Index{-1}, std::as_const(halves));
    Index layer = 0;
    stack_.forward(halves, pass, [&](Index branch) {
      if (branch + 1 == first_branch(layer + 1)) visit(layer++, std::as_const(halves));
    });
    return halves;
  }
  /// The same, of a pass with gradients.
  void forward(const Input& input, Walk& walk, const Pass& pass, PassObserver* observer) const {
    const auto before = [&](Index part) {
      if (observer != nullptr) observer->before_forward(part);
    };
    before(0);
    embedding_.forward(input, pass, walk.halves);
    before(1);  // the first layer, or the head
    Index part = 1;
    stack_.forward(walk.halves, walk.saved, walk.stored, pass, [&](Index branch) {
      if (branch + 1 == first_branch(part)) before(++part);
    });
  }

  /// From the gradients by the halves at the top to those of the parameters.
  void backward(const Input& input, Walk& walk, Tensor<Scalar, 3>* dvectors, const Pass& pass,
                PassObserver* observer) {
    const auto after = [&](Index part) {
      if (observer != nullptr) observer->after_backward(part);
    };
    Index part = num_parts() - 1;
    after(part);  // the head
    stack_.reverse(walk.halves, walk.gradients, walk.saved, std::move(walk.stored), pass,
                   [&](Index branch) {
                     if (branch == first_branch(part - 2)) after(--part);
                   });
    embedding_.backward(input, walk.gradients, dvectors, pass);
    after(0);
  }

  bool is_finite(const Halves<Half>& halves) const {
    std::vector<Scalar> row(static_cast<std::size_t>(config_.width));
    for (const Half* half : {&halves.first, &halves.second}) {
      for (Index i = 0; i < half->rows(); ++i) {
        half->read(i, 0, config_.width, row.data());
        for (const Scalar value : row) {
          if (!std::isfinite(value)) return false;
        }
      }
    }
    return true;
  }

  ModelConfig config_;
  InputEmbedding<Scalar> embedding_;
  Stack stack_;
  std::vector<Index> first_branch_;  // of each layer, and the number of branches
  OutputHead<Scalar> head_;
};

template <typename Scalar>
Model<Scalar>::Model(const ModelConfig& config, const LayerChange& change)
    : config_((detail::check_config("Model", config),
               detail::check_residual<Scalar>("Model", config.residual), config)),
      embedding_(config),
      head_(config.width, config.language_head ? config.vocabulary : 0, config.layer_norm_epsilon,
            config.dropout, config.tied_embedding) {
  std::vector<Branch> branches;
  std::vector<Index> layers;
  for (Index i = 0; i < static_cast<Index>(config.layers.size()); ++i) {
    const std::string name = "layers." + std::to_string(i);
    std::vector<Branch> own;
    own.push_back(SelfAttention<Scalar>(name + ".attention", detail::attention_config(config, i)));
    own.push_back(FeedForward<Scalar>(name + ".feed_forward", detail::feed_forward_config(config)));
    if (change) change(i, own);
    check(!own.empty(), "Model", "layer ", i, " has no branch, must have at least one");
    first_branch_.push_back(static_cast<Index>(branches.size()));
    layers.insert(layers.end(), own.size(), i);
    std::move(own.begin(), own.end(), std::back_inserter(branches));
  }
  first_branch_.push_back(static_cast<Index>(branches.size()));
  stack_ = Stack(std::move(branches), std::move(layers));
  config_.positions = embedding_.positions();
  if (change) check_names();
}

template <typename Scalar>
void Model<Scalar>::set_num_buckets(const std::vector<Index>& factors) {
  detail::check_buckets("Model::set_num_buckets", factors);
  for (LayerPattern& layer : config_.layers) reformer::set_num_buckets(layer, factors);
  for (Index i = 0; i < stack_.size(); ++i) {
    auto* attention = stack_[i].template get_if<SelfAttention<Scalar>>();
    if (attention != nullptr && has_buckets(attention->config().pattern)) {
      attention->set_num_buckets(factors);
    }
  }
}

template <typename Scalar>
void Model<Scalar>::initialize(std::uint64_t seed, const Initialization& how) {
  constexpr auto function = "Model::initialize";
  for (const auto& [name, value] :
       {std::pair("weights", how.weights), std::pair("embedding", how.embedding),
        std::pair("learned_positions", how.learned_positions),
        std::pair("axial_positions", how.axial_positions)}) {
    check(value >= 0 && value <= 1e30, function, "the deviation of ", name, " is ", value,
          ", must be in [0, 1e30]");
  }
  std::uint32_t index = 0;
  const double positions = std::holds_alternative<AxialPositions>(config_.positions)
                               ? how.axial_positions
                               : how.learned_positions;
  for_each_parameter([&](Parameter<Scalar>& p) {
    const RandomStream stream({seed, 0, index++}, Purpose::initialization);
    const auto draw = [&](double deviation) {
      fill_normal(p.value.data(), p.size(), deviation, stream);
    };
    switch (p.role) {
      case Role::weight:
      case Role::head_weight:
        return draw(how.weights);
      case Role::embedding:
        return draw(how.embedding / static_cast<double>(embedding_.scale()));
      case Role::position_table:
        return draw(positions);
      case Role::gain:
        p.value.setOnes();
        return;
      case Role::bias:
        p.value.setZero();
        return;
      case Role::mixture:
        p.value.row(0).setZero();
        p.value.row(1).setOnes();
        return;
      case Role::temperature:
        p.value.setConstant(Scalar(20));
        return;
      case Role::ngram_table:
        p.value.setZero();
        return;
    }
  });
}

template <typename Scalar>
Loss Model<Scalar>::loss(Workspace& workspace, const Input& input, const Tokens& labels,
                         const RunOptions& options, std::span<double> each) const {
  check_head("Model::loss");
  check_labels("Model::loss", input, labels);
  check(each.empty() || static_cast<Index>(each.size()) == labels.size(), "Model::loss",
        "each has ", each.size(), " elements, must have B*T = ", labels.size(), " or none");
  const Pass pass = start(workspace, "Model::loss", input, options);
  Scratch memory(workspace);
  return head_.loss(forward(memory, input, pass), span_of(labels), pass, each, tied_table());
}

template <typename Scalar>
Loss Model<Scalar>::loss_and_gradients(Workspace& workspace, const Input& input,
                                       const Tokens& labels, Scalar scale,
                                       const RunOptions& options, Tensor<Scalar, 3>* dvectors,
                                       PassObserver* observer) {
  constexpr auto function = "Model::loss_and_gradients";
  check_head(function);
  check_labels(function, input, labels);
  check(std::abs(scale) <= std::numeric_limits<Scalar>::max(), function, "scale is ", scale,
        ", must be finite");
  const Pass pass = start(workspace, function, input, options);
  check_all_rounds(function, options);
  const MemoryPlan plan = this->plan(pass.batch, pass.length, workspace.threads(),
                                     options.memory_budget, pass.precision);
  prepare_gradients(workspace, plan);
  Scratch memory(workspace);
  Walk walk = walk_in(memory, pass.batch, pass.length, plan.storage);
  forward(input, walk, pass, observer);
  const Loss loss = head_.loss_and_gradients(walk.halves, span_of(labels), scale, walk.gradients,
                                             pass, tied_table());
  backward(input, walk, dvectors, pass, observer);
  return loss;
}

template <typename Scalar>
Tensor<Scalar, 3> Model<Scalar>::logits(Workspace& workspace, const Input& input,
                                        const RunOptions& options) const {
  constexpr auto function = "Model::logits";
  check_head(function);
  const Pass pass = start(workspace, function, input, options);
  check_elements(function, "B*T * vocabulary", pass.rows(), config_.vocabulary);
  Tensor<Scalar, 3> result(pass.batch, pass.length, config_.vocabulary);
  Scratch memory(workspace);
  head_.logits(forward(memory, input, pass), 0, rows_of(result), pass, tied_table());
  return result;
}

template <typename Scalar>
Tensor<Scalar, 3> Model<Scalar>::encode(Workspace& workspace, const Input& input,
                                        const RunOptions& options) const {
  const Pass pass = start(workspace, "Model::encode", input, options);
  Tensor<Scalar, 3> z(pass.batch, pass.length, 2 * config_.width);
  Scratch memory(workspace);
  head_.encode(forward(memory, input, pass), rows_of(z), pass);
  return z;
}

template <typename Scalar>
void Model<Scalar>::encode_and_gradients(Workspace& workspace, const Input& input,
                                         const RunOptions& options,
                                         const EncodingGradient& gradient,
                                         Tensor<Scalar, 3>* dvectors, PassObserver* observer) {
  constexpr auto function = "Model::encode_and_gradients";
  const Pass pass = start(workspace, function, input, options);
  check_all_rounds(function, options);
  check(gradient != nullptr, function, "gradient is empty, must be a function");
  const MemoryPlan plan = plan_encoding(pass.batch, pass.length, workspace.threads(),
                                        options.memory_budget, pass.precision);
  prepare_gradients(workspace, plan);
  Scratch memory(workspace);
  Walk walk = walk_in(memory, pass.batch, pass.length, plan.storage);
  forward(input, walk, pass, observer);
  Tensor<Scalar, 3> z(pass.batch, pass.length, 2 * config_.width);
  head_.encode(walk.halves, rows_of(z), pass);
  Tensor<Scalar, 3> dz = gradient(z);
  check_shape(function, "dz", dz, {"batch", "length", "2 * width"}, z.dimensions());
  z.resize(0, 0, 0);
  head_.encode_backward(walk.halves, rows_of(dz), walk.gradients, pass);
  backward(input, walk, dvectors, pass, observer);
}

template <typename Scalar>
void Model<Scalar>::trace(Workspace& workspace, const Input& input, const RunOptions& options,
                          const LayerVisit& visit) const {
  const Pass pass = start(workspace, "Model::trace", input, options);
  check(visit != nullptr, "Model::trace", "visit is empty, must be a function");
  Scratch memory(workspace);
  forward(memory, input, pass, visit);
}

template <typename Scalar>
std::vector<std::vector<Tensor<Bucket, 4>>> Model<Scalar>::buckets(
    Workspace& workspace, const Input& input, const RunOptions& options) const {
  const Pass pass = start(workspace, "Model::buckets", input, options);
  using Attention = SelfAttention<Scalar>;
  Scratch memory(workspace);
  typename Stack::Saved saved(static_cast<std::size_t>(stack_.size()));
  std::vector<std::pair<const Attention*, typename Attention::Saved>> of_layer;
  for (Index layer = 0; layer < num_layers(); ++layer) {
    of_layer.emplace_back();
    for (Index i = first_branch(layer); i < first_branch(layer + 1); ++i) {
      const auto* attention = stack_[i].template get_if<Attention>();
      if (attention == nullptr) continue;
      const auto own = attention->saved_in(
          memory, {.batch = pass.batch, .length = pass.length, .num_hashes = pass.num_hashes});
      of_layer.back() = {attention, own};
      saved[static_cast<std::size_t>(i)] = own;
      break;
    }
  }
  auto halves = halves_in(memory, pass.rows());
  embedding_.forward(input, pass, halves);
  stack_.forward(halves, saved, pass);
  std::vector<std::vector<Tensor<Bucket, 4>>> result;
  for (const auto& [attention, own] : of_layer) {
    result.emplace_back();
    if (attention != nullptr) result.back() = attention->buckets_of(own, pass.num_hashes);
  }
  return result;
}

template <typename Scalar>
std::vector<Scalar> Model<Scalar>::next_token_logits(Workspace& workspace,
                                                     std::span<const std::int32_t> tokens,
                                                     const RunOptions& options) const {
  constexpr auto function = "Model::next_token_logits";
  check_head(function);
  Tokens row(1, static_cast<Index>(tokens.size()));
  std::copy(tokens.begin(), tokens.end(), row.data());
  const Pass pass = start(workspace, function, row, options);
  Index last = pass.rows() - 1;
  while (last >= 0 && pass.is_padding(last)) --last;
  check(last >= 0, function, "is_real has no token that is real, must have at least one");
  std::vector<Scalar> result(static_cast<std::size_t>(config_.vocabulary));
  Scratch memory(workspace);
  head_.logits(forward(memory, row, pass), last, {result.data(), 1, config_.vocabulary}, pass,
               tied_table());
  return result;
}

template <typename Scalar>
std::optional<Index> Model<Scalar>::first_non_finite_layer(Workspace& workspace, const Input& input,
                                                           const RunOptions& options) const {
  std::optional<Index> found;
  trace(workspace, input, options, [&](Index layer, const Halves<Half>& halves) {
    if (!found && !is_finite(halves)) found = layer;
  });
  return found;
}

template <typename Scalar>
MemoryPlan Model<Scalar>::plan_of(bool encodes, Index batch, Index length, int threads,
                                  std::size_t memory_budget, Precision precision) const {
  constexpr auto function = "Model::plan";
  detail::check_precision<Scalar>(function, precision);
  check_between(function, "batch", batch, 1, max_size);
  check_length_of_pass(function, length);
  check_between(function, "threads", threads, 1, Workspace::max_threads);
  const auto wide = static_cast<double>(config_.width) + static_cast<double>(attention_width());
  const auto depth = static_cast<double>(config_.layers.size());
  const double estimate =
      static_cast<double>(batch) * static_cast<double>(length) * wide * (depth + 4);
  check(estimate < 0x1p52, function, "batch * length is ", batch, " * ", length,
        ", which is more than any machine can hold of this model");
  MemoryPlan plan;
  plan.storage = storage_plan(batch, length, memory_budget);
  for (const detail::StorageItem& item : storage_items(batch, length)) {
    if (plan.storage.empty() || !(plan.storage[item.branch].*item.what)) continue;
    plan.stored += item.bytes;
  }
  const auto bytes = [](Index count) { return static_cast<std::size_t>(count) * sizeof(Scalar); };
  plan.parameters = plan.gradients = bytes(num_parameters());
  for_each_parameter([&](const Parameter<Scalar>& p) {
    if (p.reached) plan.gradients += p.reached->bytes();
  });
  plan.residual_halves = 4 * bytes(batch * length * config_.width);
  const SavedPass pass{
      .batch = batch, .length = length, .is_exact = residual_is_exact(), .precision = precision};
  for (Index i = 0; i < stack_.size(); ++i) plan.saved += saved_bytes(stack_[i], pass, false);
  Workspace workspace = Workspace::plan(threads);
  Scratch scratch(workspace);
  walk_in(scratch, batch, length, plan.storage);
  embedding_.plan(workspace, batch * length);
  if (encodes) {
    plan.encoding = 2 * bytes(batch * length * 2 * config_.width);
    head_.template plan_encode_backward<Half>(workspace, batch * length);
  } else {
    head_.template plan_gradients<Half>(workspace, batch * length, precision, tied_table());
  }
  stack_.plan(workspace, pass, plan.storage);
  plan.scratch = workspace.peak_bytes() - plan.workspace();
  return plan;
}

#ifdef REFORMER_EXTERN_INSTANCES
extern template REFORMER_EXPORT void AnyBranch<DynamicHalf<float>>::hold(SelfAttention<float>);
extern template REFORMER_EXPORT void AnyBranch<DynamicHalf<float>>::hold(FeedForward<float>);
extern template class REFORMER_EXPORT Model<float>;
#endif

}  // namespace reformer::inline REFORMER_ABI
