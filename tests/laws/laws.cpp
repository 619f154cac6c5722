// SPDX-License-Identifier: MIT
/// Draws configurations at random and holds the library against its laws: what docs/design.md
/// promises for every model, whatever its sizes, patterns, masks and residual halves.
///
///     reformer_laws [--draws N] [--seed S] [--only K] [--trace]
///
/// Each violation is one line that names seed and number of the draw, the whole configuration, the
/// law, the tensor and its first wrong element; `--seed S --only K` repeats it. The exit code is 1
/// if there is any. `--trace` writes each draw before it is tried.
#include <unistd.h>

#include <bit>
#include <cmath>
#include <csignal>
#include <functional>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "laws/draw.hpp"
#include "reformer/distributed/data_parallel.hpp"
#include "reformer/distributed/thread_communicator.hpp"
#include "reformer/model/decoding.hpp"
#include "reformer/training/adam.hpp"
#include "support/random_data.hpp"

#ifdef REFORMER_LAWS_SANITIZED
#include <sanitizer/common_interface_defs.h>
#endif

namespace reformer::laws {
namespace {

/// A tensor of a result; in double, which keeps the bits of float.
struct Named {
  std::string name;
  std::vector<double> values;
};
using Results = std::vector<Named>;

/// How equal two numbers must be.
using Equal = std::function<bool(double, double)>;

bool same_bits(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
}
/// The same but for the sign of zero, which sums with further zeros do not keep.
bool same_value(double a, double b) {
  return a == b || same_bits(a, b);
}

/// The first element that differs, if any.
std::optional<std::string> difference(const Results& actual, const Results& expected,
                                      const Equal& equal = same_bits) {
  if (actual.size() != expected.size()) return "another number of tensors";
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const auto &a = actual[i].values, &e = expected[i].values;
    if (a.size() != e.size()) return actual[i].name + " has another size";
    for (std::size_t j = 0; j < a.size(); ++j) {
      if (equal(a[j], e[j])) continue;
      std::ostringstream text;
      text.precision(17);
      text << actual[i].name << '[' << j << "] is " << a[j] << ", must be " << e[j];
      return text.str();
    }
  }
  return {};
}

using reformer::detail::join;

/// Whether tensors agree up to roundings, by the norm of their differences. A tensor that is small
/// beside the others is held against the largest.
std::optional<std::string> distance(const Results& actual, const Results& expected,
                                    double tolerance) {
  double largest = 0;
  const auto norm = [](const std::vector<double>& x) {
    double sum = 0;
    for (const double value : x) sum += value * value;
    return std::sqrt(sum);
  };
  for (const Named& tensor : expected) largest = std::max(largest, norm(tensor.values));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    std::vector<double> away = actual[i].values;
    for (std::size_t j = 0; j < away.size(); ++j) away[j] -= expected[i].values[j];
    const double distance = norm(away);
    if (distance <= tolerance * largest) continue;
    std::ostringstream text;
    text << actual[i].name << " is away by " << distance << ", allowed " << tolerance * largest;
    return text.str();
  }
  return {};
}

/// How often each law was applied.
using Counts = std::map<std::string, Index>;

/// One draw with its model, held against all laws.
template <typename Scalar>
class Trial {
 public:
  using Report = std::function<void(const std::string& law, const std::string& what)>;

  /// @param dice  for what laws draw themselves
  Trial(const Draw& draw, Dice& dice, Counts& counts, const Report& report)
      : draw_(draw), dice_(dice), counts_(counts), report_(report), model_(fresh_model()) {}

  void run() {
    try {
      reference_ = step(model_, one_, drawn(), budget());
    } catch (const std::overflow_error& error) {
      overflow_is_the_same(error.what());
      return;
    }
    threads_and_repetition();
    plan_and_count();
    reversal();
    // Other tokens may leave the range of halves in fixed point.
    for (const auto law :
         {&Trial::garbage_in_padding, &Trial::appended_padding, &Trial::suffixes, &Trial::decoding,
          &Trial::batches, &Trial::finite_differences, &Trial::ranks}) {
      try {
        (this->*law)();
      } catch (const std::overflow_error&) {
        ++counts_["(left the range)"];
      }
    }
    impossible_values();
    nothing_is_left_behind();
  }

 private:
  using Half = typename Model<Scalar>::Half;
  using Activations = Tensor<Scalar, 3>;

  /// Tokens with what belongs to them.
  struct Input {
    Tokens tokens, labels;
    std::vector<std::uint8_t> is_real;
    bool training = false;
    Index num_hashes = 0;  ///< of passes without gradients
  };

  Model<Scalar> fresh_model() const {
    Model<Scalar> model(draw_.config);
    test::randomize_parameters(model, draw_.values);
    return model;
  }

  Input drawn() const { return {draw_.tokens, draw_.labels, draw_.is_real, draw_.training}; }
  /// Without dropout, whose masks depend on where a row stands in the array.
  Input drawn_without_dropout() const { return {draw_.tokens, draw_.labels, draw_.is_real, false}; }
  /// Tokens of sequence b, up to `length`.
  Input part(const Input& input, Index b, Index length) const {
    const Index T = input.tokens.dimension(1);
    Input result{Tokens(1, length), Tokens(1, length), {}, input.training, input.num_hashes};
    std::copy_n(&input.tokens(b, 0), length, result.tokens.data());
    std::copy_n(&input.labels(b, 0), length, result.labels.data());
    if (!input.is_real.empty()) {
      const auto first = input.is_real.begin() + b * T;
      result.is_real.assign(first, first + length);
    }
    return result;
  }
  RunOptions options(const Input& input, std::size_t memory_budget = 0) const {
    return {draw_.key,        input.training,  input.is_real,      memory_budget,
            input.num_hashes, draw_.precision, draw_.dropout_share};
  }

  bool drops() const {
    return draw_.training && draw_.dropout_share > 0 && draw_.config.dropout > 0;
  }

  static constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();
  std::size_t budget() {
    if (draw_.budget == 1) return no_limit;
    const std::size_t all = model_.plan(draw_.batch, draw_.length, 1, no_limit).stored;
    return static_cast<std::size_t>(draw_.budget * static_cast<double>(all));
  }

  bool is_fixed() const { return std::holds_alternative<FixedResidual>(draw_.config.residual); }
  std::size_t row(Index b, Index t) const { return static_cast<std::size_t>(b * draw_.length + t); }
  bool is_real(Index b, Index t) const {
    return draw_.is_real.empty() || draw_.is_real[row(b, t)] != 0;
  }

  // --- what is compared ----------------------------------------------------------------------

  /// Loss and gradients; without a language head those of a weighted sum of z over real tokens.
  Results step(Model<Scalar>& model, Workspace& workspace, const Input& input,
               std::size_t memory_budget) const {
    model.zero_gradients();
    Results results;
    if (draw_.config.language_head) {
      const Loss loss = model.loss_and_gradients(workspace, input.tokens, input.labels,
                                                 Scalar(0.25), options(input, memory_budget));
      results.push_back({"loss", {loss.sum, static_cast<double>(loss.count)}});
    } else {
      model.encode_and_gradients(
          workspace, input.tokens, options(input, memory_budget), [&](const Activations& z) {
            results.push_back({"z", {z.data(), z.data() + z.size()}});
            const Index columns = z.dimension(2);
            Activations dz = test::random_tensor<Scalar, 3>(
                {z.dimension(0), z.dimension(1), columns}, draw_.values);
            for (std::size_t i = 0; i < input.is_real.size(); ++i) {
              if (input.is_real[i] != 0) continue;
              std::fill_n(dz.data() + static_cast<Index>(i) * columns, columns, Scalar(0));
            }
            return dz;
          });
    }
    add_gradients(model, results);
    return results;
  }
  static void add_gradients(Model<Scalar>& model, Results& results) {
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      results.push_back(
          {"gradient of " + p.name, {p.gradient.data(), p.gradient.data() + p.gradient.size()}});
    });
  }

  /// Zero gradients through `encode_and_gradients`, whatever the head.
  void step_of_encoding(Workspace& workspace, const Input& input, std::size_t memory_budget) {
    model_.encode_and_gradients(
        workspace, input.tokens, options(input, memory_budget),
        [](const Activations& z) { return Activations(z.constant(Scalar(0))); });
  }

  /// Logits, or z without a language head.
  Activations forward(Model<Scalar>& model, Workspace& workspace, const Input& input) const {
    return draw_.config.language_head ? model.logits(workspace, input.tokens, options(input))
                                      : model.encode(workspace, input.tokens, options(input));
  }

  /// The row of token t of sequence b.
  static Results row_of(const Activations& x, Index b, Index t) {
    const Scalar* first = &x(b, t, 0);
    return {{join("row [", b, ", ", t, "]"), {first, first + x.dimension(2)}}};
  }
  static Results row_of(const Matrix<Scalar>& x, Index b, Index t) {
    const Scalar* first = &x(b, 0);
    return {{join("row [", b, ", ", t, "]"), {first, first + x.cols()}}};
  }

  /// Values of both halves without a rounding: what reading rounds off is read as well.
  static void add_halves(const std::string& name, Halves<Half> halves, Results& results) {
    for (Half* half : {&halves.first, &halves.second}) {
      Named values{name + (half == &halves.first ? ", first half" : ", second half"), {}};
      Named rest{values.name + ", what reading rounds off", {}};
      std::vector<Scalar> read(static_cast<std::size_t>(half->columns()));
      for (Index i = 0; i < half->rows(); ++i) {
        half->read(i, 0, half->columns(), read.data());
        values.values.insert(values.values.end(), read.begin(), read.end());
        half->subtract(i, 0, half->columns(), read.data());
        half->read(i, 0, half->columns(), read.data());
        rest.values.insert(rest.values.end(), read.begin(), read.end());
      }
      results.push_back(std::move(values));
      results.push_back(std::move(rest));
    }
  }

  void expect(const std::string& law, const std::optional<std::string>& wrong,
              const std::string& where = "") {
    ++counts_[law];
    if (wrong) report_(law, *wrong + where);
  }
  void expect_equal(const std::string& law, const std::string& what, std::size_t actual,
                    std::size_t expected) {
    std::optional<std::string> wrong;
    if (actual != expected) wrong = join(what, " is ", actual, ", must be ", expected);
    expect(law, wrong);
  }

  void expect_at_most(const std::string& law, const std::string& what, std::size_t actual,
                      std::size_t most) {
    std::optional<std::string> wrong;
    if (actual > most) wrong = join(what, " is ", actual, ", must be at most ", most);
    expect(law, wrong);
  }

  // --- laws ----------------------------------------------------------------------------------

  /// "Reproducibility": the same bits for any number of threads and in repeated runs, whatever the
  /// objects were used for before.
  void threads_and_repetition() {
    const auto gradients = [&](Workspace& workspace) {
      return step(model_, workspace, drawn(), budget());
    };
    expect("threads", difference(gradients(three_), reference_), ", 3 threads, gradients");
    expect("repetition", difference(gradients(one_), reference_), ", gradients");
    const auto logits = [&](Workspace& workspace) {
      const Activations x = forward(model_, workspace, drawn());
      return Results{{"logits", {x.data(), x.data() + x.size()}}};
    };
    const Results first = logits(one_);
    expect("threads", difference(logits(three_), first), ", 3 threads, forward pass");
    expect("repetition", difference(logits(one_), first), ", forward pass");
  }

  /// "Many ranks": a step has the same bits for any number of ranks that share its micro-batches.
  void ranks() {
    if (!draw_.config.language_head || draw_.values % 4 != 0) return;  // three trainings in all
    const Index micro_batches = 1 + static_cast<Index>(draw_.values / 4 % 4);
    const auto train = [&](int ranks) {
      std::vector<Results> results(static_cast<std::size_t>(ranks));
      run_on_threads(ranks, [&](Communicator& communicator) {
        results[static_cast<std::size_t>(communicator.rank())] =
            shared_step(communicator, micro_batches);
      });
      return results;
    };
    const Results alone = train(1)[0];
    for (const int number : {2, 3}) {
      const std::vector<Results> together = train(number);
      for (std::size_t r = 0; r < together.size(); ++r) {
        expect("ranks", difference(together[r], alone), join(", rank ", r, " of ", number));
      }
    }
  }
  Results shared_step(Communicator& communicator, Index micro_batches) const {
    Model<Scalar> model = fresh_model();
    Workspace workspace(1);
    DataParallel<Model<Scalar>, Adam<Scalar>> training(communicator, model,
                                                       {.micro_batches = micro_batches});
    const Input input = drawn();
    const auto losses = training.accumulate(workspace, [&](Index m, PassObserver& observer) {
      RunOptions own = options(input);
      own.key.step += static_cast<std::uint32_t>(m);
      return model.loss_and_gradients(workspace, input.tokens, input.labels, Scalar(0.25), own,
                                      nullptr, &observer);
    });
    Results results{{"losses", {}}, {"norm", {training.gradient_norm(workspace)}}};
    for (const Loss& loss : losses) results[0].values.push_back(loss.sum);
    training.step(workspace, 1e-2);
    training.wait();
    model.for_each_parameter([&](const Parameter<Scalar>& p) {
      results.push_back({p.name, {p.value.data(), p.value.data() + p.size()}});
    });
    return results;
  }

  /// The first element that leaves the range is found by row and column, whichever thread met it.
  void overflow_is_the_same(const std::string& message) {
    std::string other = "no overflow";
    try {
      step(model_, three_, drawn(), budget());
    } catch (const std::overflow_error& error) {
      other = error.what();
    }
    std::optional<std::string> wrong;
    if (other != message) wrong = other + ", must be " + message;
    expect("overflow on 3 threads", wrong);
  }

  /// "Memory": `Model::plan` predicts the peak of a training step's workspace exactly, what is
  /// stored is within the budget, and bucket ids are as long as it says. A step without its
  /// dropout needs no place for a copy without the dropped elements.
  void plan_and_count() {
    Index ids = 0;
    for (const auto& layer : model_.buckets(one_, draw_.tokens, options(drawn()))) {
      Index of_layer = 0;
      for (const auto& of_kind : layer) of_layer += of_kind.size();
      ids += round_up(of_layer * Index{sizeof(Bucket)}, 64);  // memory is taken in cache lines
    }
    expect_equal("plan and count", "bytes of bucket ids",
                 model_.plan(draw_.batch, draw_.length, 1).saved,
                 is_fixed() ? 0 : static_cast<std::size_t>(ids));
    for (const int threads : {1, 3}) {
      for (const std::size_t bytes : {std::size_t{0}, budget()}) {
        Workspace workspace(threads);
        const MemoryPlan plan =
            model_.plan(draw_.batch, draw_.length, threads, bytes, draw_.precision);
        step(model_, workspace, drawn(), bytes);
        const std::string what = join("workspace on ", threads, " threads");
        if (drops() || draw_.config.dropout == 0) {
          expect_equal("plan and count", what, workspace.peak_bytes(), plan.workspace());
        } else {
          expect_at_most("plan and count", what, workspace.peak_bytes(), plan.workspace());
        }
        expect_equal("plan and count", "scratch after the step", workspace.bytes_in_use(), 0);
        expect_at_most("plan and count", "stored", plan.stored, bytes);
        workspace.reset_peak();
        step_of_encoding(workspace, drawn(), bytes);
        expect_at_most(
            "plan and count", what + ", encoding", workspace.peak_bytes(),
            model_.plan_encoding(draw_.batch, draw_.length, threads, bytes, draw_.precision)
                .workspace());
      }
    }
  }

  /// "Exact reversal": with halves in fixed point the input comes back bit for bit, and gradients
  /// are those of stored activations; a memory budget changes no bit. In floating point they are
  /// the same up to roundings. These are tried in double and without dropout only: steps of relu's
  /// derivative magnify them, and rows that are constant, as dropout makes them, which layer norm
  /// divides by almost nothing.
  void reversal() {
    const Input input = drawn();
    constexpr double tolerance = 1e-7;
    const bool comparable = is_fixed() || (std::is_same_v<Scalar, double> && !drops());
    const auto same = [&](const Results& actual, const Results& expected) {
      return is_fixed() ? difference(actual, expected) : distance(actual, expected, tolerance);
    };
    if (comparable) {
      expect("budget", same(step(model_, one_, input, 0), reference_), ", nothing stored");
      expect("budget", same(step(model_, one_, input, no_limit), reference_), ", all stored");
    }

    Halves<Half> bottom;
    model_.trace(one_, input.tokens, options(input), [&](Index layer, const Halves<Half>& halves) {
      if (layer == -1) bottom = halves;
    });
    auto& stack = model_.stack();
    using Stack = std::remove_reference_t<decltype(stack)>;
    const Pass pass{.workspace = one_,
                    .batch = draw_.batch,
                    .length = draw_.length,
                    .key = draw_.key,
                    .training = input.training,
                    .is_real = input.is_real,
                    .precision = draw_.precision,
                    .dropout_share = draw_.dropout_share};
    const auto there_and_back = [&](typename Stack::Stored stored) {
      Halves<Half> halves = bottom;
      Scratch memory(one_);
      auto saved = stack.saved_in(memory, {pass.batch, pass.length, is_fixed()});
      stack.forward(halves, saved, stored, pass);
      auto dx1 = test::random_matrix<Scalar>(pass.rows(), draw_.config.width, draw_.values);
      auto dx2 = test::random_matrix<Scalar>(pass.rows(), draw_.config.width, draw_.values + 1);
      model_.zero_gradients();
      stack.reverse(halves, {rows_of(dx1), rows_of(dx2)}, saved, stored, pass);
      Results results;
      add_halves("the bottom", halves, results);
      for (const Matrix<Scalar>* dx : {&dx1, &dx2}) {
        results.push_back({"gradient by the bottom", {dx->data(), dx->data() + dx->size()}});
      }
      add_gradients(model_, results);
      return results;
    };
    Results start;
    add_halves("the bottom", bottom, start);
    const Results rebuilt = there_and_back({});
    const Results stored = there_and_back(stack.store_all());
    const auto bottom_of = [&](const Results& all) {
      return Results(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(start.size()));
    };
    expect("stored inputs", difference(bottom_of(stored), start));
    if (is_fixed()) {
      expect("reversal", difference(bottom_of(rebuilt), start));
      expect("reversal", difference(rebuilt, stored));
    } else if (comparable) {
      expect("reversal", distance({rebuilt.begin() + 4, rebuilt.end()},
                                  {stored.begin() + 4, stored.end()}, tolerance));
    }
  }

  /// "Padding": a padded key is never seen and no gradient comes back from it, so what stands in
  /// padded places changes nothing.
  void garbage_in_padding() {
    if (draw_.is_real.empty()) return;
    Input input = drawn();
    const Activations expected = forward(model_, one_, input);
    for (Index i = 0; i < input.tokens.size(); ++i) {
      if (input.is_real[static_cast<std::size_t>(i)] != 0) continue;
      input.tokens.data()[i] =
          static_cast<std::int32_t>(dice_.between(0, draw_.config.vocabulary - 1));
    }
    compare_real_rows("garbage in padding", forward(model_, one_, input), expected);
    Results gradients = step(model_, one_, input, budget()), before = reference_;
    if (!draw_.config.language_head) {  // z has rows of padding
      gradients.erase(gradients.begin());
      before.erase(before.begin());
    }
    if (is_fixed() || draw_.budget == 0) {
      expect("garbage in padding", difference(gradients, before, same_value));
    }
  }
  void compare_real_rows(const std::string& law, const Activations& actual,
                         const Activations& expected) {
    for (Index b = 0; b < draw_.batch; ++b) {
      for (Index t = 0; t < draw_.length; ++t) {
        if (!is_real(b, t)) continue;
        expect(law, difference(row_of(actual, b, t), row_of(expected, b, t)));
      }
    }
  }

  /// "Padding": results of real tokens are the same whatever the padding, but for the automatic
  /// number of buckets, a circular window, whose ring ends at the end of the array, and padding
  /// that is sorted. Where a sequence fits into one chunk of sorted chunks it is attended to
  /// exactly, beyond that in rounds: the same function with other roundings.
  bool depends_on_padding(Index more) const {
    for (const AttentionPattern& pattern : patterns_of(draw_.config)) {
      if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
        if (local->circular && !(draw_.config.causal && is_causal(*local))) return true;
      } else if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
        if (lsh->chunking == Chunking::bucket_chunks) continue;
        const bool hashed = draw_.length > lsh->chunk_length;
        const bool hashed_later = draw_.length + more > lsh->chunk_length;
        if (lsh->sort_padding && hashed_later) return true;
        if (hashed != hashed_later) return true;
        if (hashed &&
            bucket_factors(*lsh, draw_.length) != bucket_factors(*lsh, draw_.length + more)) {
          return true;
        }
      }
    }
    return false;
  }
  void appended_padding() {
    const Index T = draw_.length, more = draw_.appended;
    if (depends_on_padding(more)) return;
    const Input input = drawn_without_dropout();
    Input longer{
        Tokens(draw_.batch, T + more), Tokens(draw_.batch, T + more), {}, false, input.num_hashes};
    for (Index b = 0; b < draw_.batch; ++b) {
      for (Index t = 0; t < T + more; ++t) {
        longer.tokens(b, t) =
            t < T ? input.tokens(b, t)
                  : static_cast<std::int32_t>(dice_.between(0, draw_.config.vocabulary - 1));
        longer.is_real.push_back(t < T && is_real(b, t) ? 1 : 0);
      }
    }
    compare_real_rows("appended padding", forward(model_, three_, longer),
                      forward(model_, one_, input));
  }

  /// Whether a circular window is causal for any length.
  static bool is_causal(const LocalPattern& local) {
    return !local.circular || (local.chunks_before <= 1 && local.chunks_after == 0);
  }

  /// "What is causal": local attention, exact attention and bucket chunks. A change of later
  /// tokens, or another number of them, changes no bit of what earlier tokens get. Sorted chunks
  /// are not causal, and a circular window beyond one chunk before only for a fixed length.
  void suffixes() {
    if (!draw_.config.causal) return;
    bool at_any_length = true;
    for (const AttentionPattern& pattern : patterns_of(draw_.config)) {
      if (std::holds_alternative<LshPattern>(pattern) &&
          std::get<LshPattern>(pattern).chunking == Chunking::sorted_chunks) {
        return;
      }
      const auto* local = std::get_if<LocalPattern>(&pattern);
      at_any_length = at_any_length && (local == nullptr || is_causal(*local));
    }
    const Input input = drawn_without_dropout();
    const Activations whole = forward(model_, one_, input);
    Input changed = input;
    for (Index b = 0; b < draw_.batch; ++b) {
      for (Index t = draw_.cut; t < draw_.length; ++t) {
        changed.tokens(b, t) =
            static_cast<std::int32_t>(dice_.between(0, draw_.config.vocabulary - 1));
        if (!changed.is_real.empty()) changed.is_real[row(b, t)] = dice_.chance(0.5) ? 1 : 0;
      }
    }
    const Activations other = forward(model_, one_, changed);
    for (Index b = 0; b < draw_.batch; ++b) {
      const Activations cut =
          at_any_length ? forward(model_, one_, part(input, b, draw_.cut)) : Activations();
      for (Index t = 0; t < draw_.cut; ++t) {
        if (!is_real(b, t)) continue;
        const Results expected = row_of(whole, b, t);
        expect("changed suffix", difference(row_of(other, b, t), expected));
        if (!at_any_length) continue;
        expect("cut suffix", difference(row_of(cut, 0, t), expected), join(" (", b, ")"));
      }
    }
  }

  /// "Decoding": the bits of the forward pass, wherever prompts end; models with sorted chunks give
  /// those of the tokens so far. Other models are refused.
  void decoding() {
    const ModelConfig& config = draw_.config;
    bool goes_on = config.causal && config.language_head, recomputes = false;
    for (const AttentionPattern& pattern : patterns_of(config)) {
      const auto* lsh = std::get_if<LshPattern>(&pattern);
      recomputes = recomputes || (lsh && lsh->chunking == Chunking::sorted_chunks);
    }
    for (const AttentionPattern& pattern : patterns_of(config)) {
      const auto* local = std::get_if<LocalPattern>(&pattern);
      if (!recomputes && local && !is_causal(*local)) goes_on = false;
    }
    if (!goes_on) {
      expect_refusal("decoder",
                     [&] { Decoder<Scalar>(one_, model_, 1, draw_.key, draw_.precision); });
      return;
    }
    Workspace& workspace = dice_.chance(0.5) ? one_ : three_;
    Input input = drawn_without_dropout();
    input.is_real.clear();
    input.num_hashes = 0;  // a decoder has the rounds of each layer
    Decoder<Scalar> decoder(workspace, model_, draw_.batch, draw_.key, draw_.precision);
    const Activations whole = forward(model_, one_, input);
    const auto compare = [&](const Matrix<Scalar>& logits) {
      const Matrix<Scalar> actual = logits;
      for (Index b = 0; b < draw_.batch; ++b) {
        const Index t = decoder.length(b) - 1;
        const Results expected = recomputes
                                     ? row_of(forward(model_, one_, part(input, b, t + 1)), 0, t)
                                     : row_of(whole, b, t);
        expect("decoding", difference(row_of(actual, b, t), expected));
      }
    };
    for (int time = 0; time < 2; ++time) {  // the second over what the first one left
      std::vector<Index> lengths;
      Index longest = 1;
      for (Index b = 0; b < draw_.batch; ++b) {
        lengths.push_back(dice_.between(1, draw_.length));
        longest = std::max(longest, lengths.back());
      }
      compare(decoder.prefill(workspace, draw_.tokens, lengths));
      const Index steps = std::min<Index>(draw_.length - longest, recomputes ? 2 : 70);
      for (Index i = 0; i < steps; ++i) {
        std::vector<std::int32_t> next;
        for (Index b = 0; b < draw_.batch; ++b) next.push_back(draw_.tokens(b, decoder.length(b)));
        compare(decoder.step(workspace, next));
      }
    }
  }

  /// Sequences of a batch do not know of each other.
  void batches() {
    if (draw_.batch == 1) return;
    const Input input = drawn_without_dropout();
    const Activations together = forward(model_, three_, input);
    for (Index b = 0; b < draw_.batch; ++b) {
      const Activations alone = forward(model_, one_, part(input, b, draw_.length));
      for (Index t = 0; t < draw_.length; ++t) {
        expect("batch", difference(row_of(together, b, t), row_of(alone, 0, t)),
               join(" (", b, ")"));
      }
    }
  }

  /// The gradient is the derivative along a random direction of all parameters, by finite
  /// differences with two step sizes; where these do not agree, a step of relu or of a hash is
  /// between, and nothing is known. With dropout, inputs are stored: rows that it makes constant
  /// magnify the roundings of reversal, see `reversal`.
  void finite_differences() {
    if constexpr (std::is_same_v<Scalar, double>) {
      if (is_fixed() || !draw_.config.language_head || draw_.tokens.size() > 150) return;
      const Input input = drawn();
      double analytic = 0, norm = 0;
      step(model_, one_, input, drops() ? no_limit : 0);
      std::vector<Matrix<double>> directions, values;
      model_.for_each_parameter([&](const Parameter<double>& p) {
        directions.push_back(test::random_matrix<double>(p.value.rows(), p.value.cols(),
                                                         draw_.values + 100 + directions.size()));
        values.push_back(p.value);
        analytic += directions.back().cwiseProduct(p.gradient).sum();
        norm += p.gradient.squaredNorm();
      });
      const auto loss_at = [&](double distance) {
        std::size_t i = 0;
        model_.for_each_parameter([&](Parameter<double>& p) {
          p.value = values[i] + distance * directions[i];
          ++i;
        });
        // `loss` runs without dropout only if the draw does.
        return 0.25 * model_.loss(one_, input.tokens, input.labels, options(input)).sum;
      };
      const auto derivative = [&](double h) {
        return (8 * (loss_at(h) - loss_at(-h)) - (loss_at(2 * h) - loss_at(-2 * h))) / (12 * h);
      };
      const double h = 0x1p-15, coarse = derivative(2 * h), fine = derivative(h);
      const double noise = 1e-14 * std::abs(loss_at(0)) / h;
      const double allowed = 1e-5 * std::sqrt(norm) + noise;
      if (std::abs(coarse - fine) > allowed / 8) {
        ++counts_["(not smooth)"];
        return;
      }
      std::optional<std::string> wrong;
      if (!(std::abs(fine - analytic) <= allowed)) {
        wrong = join("the derivative is ", analytic, ", must be ", fine, ", allowed ", allowed);
      }
      expect("finite differences", wrong);
    }
  }

  /// "Errors are std::invalid_argument, thrown before work starts": one value out of range.
  template <typename Body>
  void expect_refusal(const std::string& name, const Body& body) {
    std::optional<std::string> wrong;
    try {
      body();
      wrong = name + " was accepted";
    } catch (const std::invalid_argument& error) {
      if (!std::string_view(error.what()).starts_with("reformer::")) {
        wrong = join(name, " is answered by: ", error.what());
      }
    } catch (const std::exception& error) {
      wrong = join(name, " is answered by another exception: ", error.what());
    }
    expect("impossible values", wrong);
  }
  void impossible_values();

  /// After all of this, the model and the workspace are as new.
  void nothing_is_left_behind() {
    Model<Scalar> model = fresh_model();
    const Results expected = step(model, one_, drawn(), budget());
    expect("repetition", difference(expected, reference_), ", a new model");
    expect("repetition", difference(step(model_, three_, drawn(), budget()), expected),
           ", the used model");
  }

  const Draw& draw_;
  Dice& dice_;
  Counts& counts_;
  const Report& report_;
  Model<Scalar> model_;
  Workspace one_{1}, three_{3};
  Results reference_;
};

/// A size that no configuration has.
Index impossible(Dice& dice, Index least) {
  return dice.pick<Index>({least - 1, -1, -dice.scaled(2, max_size), max_size + 1, Index{1} << 40,
                           std::numeric_limits<Index>::max(), std::numeric_limits<Index>::min()});
}
double impossible_dropout(Dice& dice) {
  return dice.pick({-0.1, 1.0, 1e30, std::numeric_limits<double>::quiet_NaN(),
                    std::numeric_limits<double>::infinity()});
}
double impossible_epsilon(Dice& dice) {
  return dice.pick({-1e-12, 0.0, std::numeric_limits<double>::quiet_NaN(),
                    std::numeric_limits<double>::infinity()});
}
/// Factors of a number of buckets that cannot be.
std::vector<Index> impossible_buckets(Dice& dice) {
  return dice.pick<std::vector<Index>>({{3},
                                        {0},
                                        {-2},
                                        {4, 5},
                                        {65536},
                                        {256, 256},
                                        {max_size + 1},
                                        {std::numeric_limits<Index>::max() - 1, 2},
                                        {2, std::numeric_limits<Index>::min()}});
}

/// Makes one field of a pattern impossible.
void spoil(AttentionPattern& pattern, Dice& dice, std::string& what) {
  const auto set = [&](const char* name, Index& field, Index least) {
    field = impossible(dice, least);
    what = join(name, " ", field);
  };
  if (auto* local = std::get_if<LocalPattern>(&pattern)) {
    switch (dice.between(0, 3)) {
      case 0:
        return set("chunk_length", local->chunk_length, 1);
      case 1:
        return set("chunks_before", local->chunks_before, 0);
      case 2:
        return set("chunks_after", local->chunks_after, 0);
      default:
        what = "values 7";
        local->values = static_cast<Values>(7);
        return;
    }
  }
  if (auto* exact = std::get_if<ExactPattern>(&pattern)) {
    what = "values -1";
    exact->values = static_cast<Values>(-1);
    return;
  }
  auto& lsh = std::get<LshPattern>(pattern);
  switch (dice.between(0, 7)) {
    case 0:
      return set("chunk_length", lsh.chunk_length, 1);
    case 1:
      return set("chunks_before", lsh.chunks_before, 0);
    case 2:
      return set("chunks_after", lsh.chunks_after, 0);
    case 3:
      return set("num_hashes", lsh.num_hashes, 1);
    case 4:
      what = "num_buckets";
      lsh.num_buckets = impossible_buckets(dice);
      return;
    case 5:
      what = "chunking 2";
      lsh.chunking = static_cast<Chunking>(2);
      return;
    case 6:
      what = "duplicates 2";
      lsh.duplicates = static_cast<Duplicates>(2);
      return;
    default:
      what = "options that exclude each other";
      if (lsh.chunking == Chunking::sorted_chunks) {
        lsh.duplicates = Duplicates::once;
      } else if (dice.chance(0.5)) {
        lsh.sort_padding = true;
      } else {
        lsh.num_buckets.clear();
      }
  }
}

/// Makes one field of a configuration impossible.
/// @return what was done
std::string spoil(ModelConfig& config, Dice& dice) {
  std::string what;
  const auto set = [&](const char* name, Index& field, Index least) {
    field = impossible(dice, least);
    what = join(name, " ", field);
  };
  switch (dice.between(0, 11)) {
    case 0:
      set("vocabulary", config.vocabulary, 1);
      break;
    case 1:
      set("width", config.width, 1);
      break;
    case 2:
      set("num_heads", config.num_heads, 1);
      break;
    case 3:
      set("head_width", config.head_width, 1);
      break;
    case 4:
      set("feed_forward_width", config.feed_forward_width, 1);
      break;
    case 5: {
      auto* axial = std::get_if<AxialPositions>(&config.positions);
      if (axial == nullptr) {
        LearnedPositions learned;
        set("max_length", learned.max_length, 1);
        config.positions = learned;
      } else {
        Index& field = (dice.chance(0.5) ? axial->shape : axial->widths)[dice.chance(0.5) ? 0 : 1];
        set("axial size", field, 1);
      }
      break;
    }
    case 6:
      what = "dropout";
      config.dropout = impossible_dropout(dice);
      break;
    case 7:
      what = "attention_dropout";
      config.attention_dropout = impossible_dropout(dice);
      break;
    case 8:
      what = "layer_norm_epsilon";
      config.layer_norm_epsilon = impossible_epsilon(dice);
      break;
    case 9:
      what = "activation 3";
      config.activation = static_cast<Activation>(3);
      break;
    case 10: {
      const int bits = dice.pick({-1, 63, 64, 1 << 30, std::numeric_limits<int>::min()});
      what = join("fraction_bits ", bits);
      config.residual = FixedResidual{bits};
      break;
    }
    default: {
      const auto layer = dice.between(0, static_cast<Index>(config.layers.size()) - 1);
      auto& heads = config.layers[static_cast<std::size_t>(layer)].of_heads;
      spoil(heads[static_cast<std::size_t>(dice.between(0, std::ssize(heads) - 1))], dice, what);
      what = join("layer ", layer, " with ", what);
    }
  }
  return what;
}

template <typename Scalar>
void Trial<Scalar>::impossible_values() {
  for (int i = 0; i < 3; ++i) {
    ModelConfig config = draw_.config;
    const std::string what = spoil(config, dice_);
    expect_refusal(what, [&] { Model<Scalar> model(config); });
  }
  Input input = drawn();
  const auto somewhere = [&] { return dice_.between(0, input.tokens.size() - 1); };
  const Index V = draw_.config.vocabulary;
  const auto no_token = [&] {
    return dice_.pick<std::int32_t>({-1, static_cast<std::int32_t>(V), ignored_label,
                                     std::numeric_limits<std::int32_t>::max(),
                                     std::numeric_limits<std::int32_t>::min()});
  };
  std::string what;
  switch (dice_.between(0, 4)) {
    case 0: {
      const std::int32_t token = no_token();
      what = join("token ", token);
      input.tokens.data()[somewhere()] = token;
      break;
    }
    case 1: {
      const std::int32_t label = no_token();
      if (label == ignored_label || !draw_.config.language_head) return;
      what = join("label ", label);
      input.labels.data()[somewhere()] = label;
      break;
    }
    case 2:
      what = "is_real of another size";
      input.is_real.assign(
          static_cast<std::size_t>(input.tokens.size() + (dice_.chance(0.5) ? 1 : -1)), 1);
      if (input.is_real.empty()) return;
      break;
    case 3:
      what = "no tokens";
      input.tokens = input.labels = dice_.chance(0.5) ? Tokens(0, 3) : Tokens(2, 0);
      input.is_real.clear();
      break;
    default: {
      const auto longest = max_length(draw_.config.positions);
      if (!longest) return;
      what = "more tokens than positions";
      input.tokens = input.labels = Tokens(1, *longest + 1);
      input.tokens.setZero();
      input.labels.setZero();
      input.is_real.clear();
    }
  }
  expect_refusal(what, [&] { step(model_, one_, input, budget()); });
}

// --- the program ---------------------------------------------------------------------------------

/// Written when a draw ends the program.
std::string dying_words;

void write_dying_words() {
  const auto written = ::write(STDOUT_FILENO, dying_words.data(), dying_words.size());
  static_cast<void>(written);
}

/// Names the draw that a signal or a sanitizer ends.
void listen_for_death() {
#ifdef REFORMER_LAWS_SANITIZED
  __sanitizer_set_death_callback(write_dying_words);
#else
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    std::signal(signal, [](int number) {
      write_dying_words();
      std::signal(number, SIG_DFL);
      std::raise(number);
    });
  }
#endif
}

struct Options {
  std::uint64_t seed = 1;
  std::uint32_t draws = 1000, first = 0;
  bool trace = false;
};

Options parse(int argc, char** argv) {
  Options options;
  bool only = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--trace") {
      options.trace = true;
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(join("no option: ", name));
    const std::uint64_t value = std::stoull(argv[++i]);
    if (name == "--draws") {
      options.draws = static_cast<std::uint32_t>(value);
    } else if (name == "--seed") {
      options.seed = value;
    } else if (name == "--only") {
      options.first = static_cast<std::uint32_t>(value);
      only = true;
    } else {
      throw std::invalid_argument(join("no option: ", name));
    }
  }
  if (only) options.draws = 1;
  return options;
}

int run(const Options& options) {
  Counts counts;
  Index broken = 0;
  for (std::uint32_t i = options.first; i < options.first + options.draws; ++i) {
    const Draw draw = make_draw(options.seed, i);
    const auto where = [&] {
      return join("--seed ", options.seed, " --only ", i, ": ", text_of(draw));
    };
    if (options.trace) std::cout << where() << std::endl;
    dying_words = "DIED | " + where() + '\n';
    std::set<std::string> said;
    const auto report = [&](const std::string& law, const std::string& what) {
      // One line for each law: what breaks one row mostly breaks the next as well.
      if (!said.insert(law).second) return;
      std::cout << "BROKEN " << law << ": " << what << " | " << where() << std::endl;
    };
    Dice dice(~options.seed, i);
    try {
      if (draw.in_double) {
        Trial<double>(draw, dice, counts, report).run();
      } else {
        Trial<float>(draw, dice, counts, report).run();
      }
    } catch (const std::exception& error) {
      report("no exception", error.what());
    }
    if (!said.empty()) ++broken;
  }
  for (const auto& [law, times] : counts) std::cout << times << " x " << law << '\n';
  std::cout << options.draws << " draws of seed " << options.seed << ", " << broken
            << " with a finding" << std::endl;
  return broken == 0 ? 0 : 1;
}

}  // namespace
}  // namespace reformer::laws

int main(int argc, char** argv) try {
  reformer::laws::listen_for_death();
  return reformer::laws::run(reformer::laws::parse(argc, argv));
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 2;
}
