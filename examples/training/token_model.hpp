// SPDX-License-Identifier: MIT
/// @file
/// The model with its optimizer, as trainers and what uses their checkpoints have it: made from
/// options, fed with tokens, saved and loaded.
///
/// Everything of the library that is expensive to compile is compiled in token_model.cpp, once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint.hpp"
#include "loss_sum.hpp"
#include "options.hpp"
#include "reformer/attention/pattern.hpp"
#include "reformer/distributed/communicator.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/model/sampling.hpp"
#include "windows.hpp"

namespace training {

/// Bytes by purpose, for people.
struct MemoryForecast {
  std::vector<std::pair<std::string, std::size_t>> parts;

  std::size_t total() const;
  /// "123 MB: parameters 12 MB, ..."
  std::string text() const;
};

/// The values of a parameter.
struct NamedValues {
  std::string name;
  std::span<float> values;
};

class TokenModel {
 public:
  /// Generation needs neither gradients nor an optimizer.
  enum class Use { training, generation };

  /// The parameters are zero.
  /// @param options     complete
  /// @param vocabulary  tokens there are; a model of HuggingFace may have others before them
  /// @param communicator  of those who train it together; null: this process alone
  /// @throw std::invalid_argument for a configuration that is not possible
  TokenModel(const Options& options, std::int64_t vocabulary, Use use,
             reformer::Communicator* communicator = nullptr);
  ~TokenModel();
  TokenModel(const TokenModel&) = delete;
  TokenModel& operator=(const TokenModel&) = delete;

  /// Draws the initial parameters from the seed of the options.
  void initialize();

  /// Fills the parameters from a folder of HuggingFace's layout; nothing is changed unless it fits.
  /// @return the parameters the folder has none for, with their shapes: those stay as they are
  std::vector<std::string> load_huggingface(const std::filesystem::path& folder);

  /// Writes such a folder. @throw std::invalid_argument when that layout cannot express the model
  void save_huggingface(const std::filesystem::path& folder);
  /// Throws what `save_huggingface` would throw because of the model.
  void check_huggingface() const;

  int threads() const;
  /// Of its products, `auto` resolved.
  std::string precision() const;
  /// What the model calls token 0; the others follow.
  std::int32_t first_token() const;
  std::int64_t num_parameters() const;

  /// Peak of a training step, known in advance.
  MemoryForecast memory_forecast() const;

  /// What the memory budget is spent on, such as "input of attention of layers 0, 2"; empty if
  /// there is none or it is too small for anything.
  std::string stored_text() const;

  /// Loss without dropout. Hash rotations are those of step 0 of the seed, in every evaluation and
  /// in generated text.
  /// @param each  receives the loss of each label, in nats; may be null
  LossSum evaluate(const Windows& windows, std::vector<double>* each = nullptr);

  /// The gradients of `scale` times the losses of the passes of a step, which ranks share: those
  /// from before are lost. All ranks call it.
  /// @param windows_of_pass  the windows of pass i of the step
  /// @return the losses of all passes, in their order
  std::vector<LossSum> accumulate(const std::function<Windows(std::int64_t i)>& windows_of_pass,
                                  double scale, std::int64_t step);
  /// Number of pass i of a step in the whole run, from 1: of its dropout and rotations.
  std::int64_t pass_number(std::int64_t step, std::int64_t i) const;

  /// Of the gradients of all passes. All ranks call it.
  double gradient_norm();

  /// Changes the parameters by their gradients times `gradient_scale`. All ranks call it, and
  /// before anything but `accumulate` reads parameters, `wait_for_parameters`.
  void step(double rate, double gradient_scale);
  void wait_for_parameters();

  /// Gives all ranks the parameters of the first.
  void share_parameters();

  /// Seconds in which this rank did nothing but wait for others.
  double exposed_seconds() const;

  /// Logits of the token after `context`, which has at least one; tokens further back than the
  /// length of the options are not looked at.
  std::vector<float> next_logits(std::span<const std::int32_t> context);

  /// Continues `prompt`, which has at least one token, token by token. Tokens further back than the
  /// length of the options are not looked at: whenever the sequence is that long, its last half is
  /// read anew.
  /// @param seed  token i of the continuation is drawn with number i of this seed
  /// @param each  is given each token at once; false, or what it throws, ends the continuation
  void generate(std::span<const std::int32_t> prompt, std::int64_t length,
                const reformer::SamplingOptions& sampling, std::uint64_t seed,
                const std::function<bool(std::int32_t)>& each);

  /// Bytes that `generate` takes beside those of a training step, up to a text of so many tokens,
  /// which is read once, tokens drawn at random: the state of a decoder, which has most to keep
  /// where tokens differ, and its copies of weights.
  std::size_t generation_memory(std::int64_t length);

  /// The patterns of the kinds of heads that hash, of each layer.
  std::vector<std::vector<reformer::LshPattern>> hashed_patterns() const;
  /// Their bucket ids `[B, H, R, T]` in an evaluation.
  std::vector<std::vector<reformer::Tensor<reformer::Bucket, 4>>> buckets(const Windows& windows);

  /// Where a pass ceases to be finite, such as "in layer 2 (lsh)".
  /// @param pass  number of the pass, or 0 for an evaluation
  std::string first_not_finite(const Windows& windows, std::int64_t pass);

  /// The name of the first value that this rank has, that is saved, and that is not finite.
  std::optional<std::string> not_finite_tensor() const;

  /// Writes a checkpoint in one step: whatever goes wrong, the previous one stays. All ranks call
  /// it, and the first one writes.
  /// @param state  numbers in it come back bit for bit, NaN and infinity excepted
  /// @throw std::runtime_error when it cannot be written
  void save(const std::filesystem::path& path, std::int64_t step, const nlohmann::json& state);

  /// Fills the parameters and, for training, the optimizer. All ranks call it.
  /// @throw std::runtime_error, before anything is filled, that names the tensors which are
  /// missing,
  ///   unknown or of another shape
  void load(const Checkpoint& checkpoint);

  /// The parameters by their names.
  std::vector<NamedValues> parameters();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// The positions that the local layers of a model look back, one after another.
std::int64_t local_reach(const Options& options);

/// The vector instructions this program was compiled for.
std::string instruction_sets();

/// What multiplies bfloat16 numbers on this machine.
std::string bfloat16_instructions();

}  // namespace training
