// SPDX-License-Identifier: MIT
/// No thread allocates inside a parallel region, where running out of memory ends the program. All
/// ways to memory of this program count what they give: operator new, and Eigen's own function.

// Asserts of Eigen report instead of ending the program; the one of interest asks whether memory
// may be allocated.
#define EIGEN_RUNTIME_NO_MALLOC
#define eigen_assert(condition) \
  (static_cast<bool>(condition) ? void() : reformer_test_assert_failed(#condition))
void reformer_test_assert_failed(const char* condition);

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string_view>

#include "model/tiny_model.hpp"
#include "reformer/attention/attention.hpp"
#include "reformer/model/decoding.hpp"
#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/clipping.hpp"
#include "reformer/training/muon.hpp"
#include "support/random_data.hpp"

namespace {

std::atomic<int> in_parallel = 0, outside = 0;
std::atomic<bool> is_counting = false;
int until_failure = 0;  // allocations, the last of which fails; 0: none does

void count_allocation() {
  if (!is_counting) return;
#ifdef _OPENMP
  ++(omp_in_parallel() != 0 ? in_parallel : outside);
#else
  ++outside;
#endif
  if (until_failure > 0 && --until_failure == 0) throw std::bad_alloc();
}

void* allocate(std::size_t size, std::size_t alignment) {
  count_allocation();
  void* memory = std::aligned_alloc(alignment, (size + alignment) / alignment * alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

void reformer_test_assert_failed(const char* condition) {
  if (std::string_view(condition).find("is_malloc_allowed") == std::string_view::npos) std::abort();
  count_allocation();
}

// Not inlined: gcc warns of memory from new that is given to free.
__attribute__((noinline)) void* operator new(std::size_t size) {
  return allocate(size, 16);
}
__attribute__((noinline)) void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<std::size_t>(alignment));
}
__attribute__((noinline)) void operator delete(void* memory) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
__attribute__((noinline)) void operator delete(void* memory, std::size_t,
                                               std::align_val_t) noexcept {
  std::free(memory);
}

namespace reformer::test {
namespace {

/// Runs an action and returns how many allocations threads made in parallel regions.
template <typename Action>
int allocations_in_parallel(const Action& action) {
  in_parallel = outside = 0;
  Eigen::internal::set_is_malloc_allowed(false);
  is_counting = true;
  action();
  is_counting = false;
  Eigen::internal::set_is_malloc_allowed(true);
  return in_parallel;
}

ModelConfig all_layers() {
  ModelConfig config = tiny_config();
  config.layers.push_back(ExactPattern{true});
  config.layers.push_back(
      LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks, Duplicates::once});
  config.dropout = 0.1;
  return config;
}

#ifdef _OPENMP
TEST(ParallelRegions, AreCounted) {
  const auto in_loop = [](auto body) {
    return allocations_in_parallel([&] { parallel_for(2, 4, body); });
  };
  EXPECT_EQ(in_loop([](Index, int) { ::operator delete(::operator new(8)); }), 4);
  EXPECT_EQ(in_loop([](Index, int) { Matrix<float>::Zero(20, 20).eval(); }), 4);
  EXPECT_EQ(in_loop([](Index, int) {}), 0);
}
#endif

TEST(ParallelRegions, OfTrainingDoNotAllocate) {
  for (const ResidualConfig& residual :
       {ResidualConfig{FloatResidual{}}, ResidualConfig{FixedResidual{}}}) {
    ModelConfig config = all_layers();
    config.residual = residual;
    Model<float> model(config);
    randomize_parameters(model, 1);
    const Tokens tokens = random_tokens(2, 41, 11, 5);
    const Tokens labels = next_token_labels(tokens);
    Workspace workspace(2);
    Adam<float> adam;
    Adafactor<float> adafactor;
    Muon<float> muon;
    EXPECT_EQ(allocations_in_parallel([&] {
                for (const std::size_t budget : {std::size_t{0}, std::size_t{1} << 20}) {
                  model.zero_gradients();
                  model.loss_and_gradients(workspace, tokens, labels, 1.0,
                                           {.memory_budget = budget});
                }
                global_gradient_norm(workspace, model);
                adam.step(workspace, model, 1e-3);
                adafactor.step(workspace, model, 1e-3);
                muon.step(workspace, model, 1e-3);
                model.logits(workspace, tokens, {});
              }),
              0);
    EXPECT_GT(outside, 0);
  }
}

TEST(OutOfMemory, LeavesAModelThatGoesOn) {
  const Tokens tokens = random_tokens(2, 21, 11, 5);
  const Tokens labels = next_token_labels(tokens);
  const auto step = [&](Model<float>& model, Workspace& workspace) {
    model.zero_gradients();
    return model.loss_and_gradients(workspace, tokens, labels, 1.0, {.memory_budget = 1 << 20}).sum;
  };
  Workspace other(2);
  Model<float> reference(all_layers());
  randomize_parameters(reference, 1);
  const double loss = step(reference, other);
  const auto gradients = gradients_of(reference);
  int failures = 0;
  for (int n = 1; n < 2000; ++n) {
    Model<float> model(all_layers());
    randomize_parameters(model, 1);
    Workspace workspace(2);
    bool has_failed = false;
    allocations_in_parallel([&] {
      until_failure = n;
      try {
        step(model, workspace);
      } catch (const std::bad_alloc&) {
        has_failed = true;
      }
      until_failure = 0;
    });
    if (!has_failed) break;
    ++failures;
    ASSERT_EQ(workspace.bytes_in_use(), 0U) << "allocation " << n;
    ASSERT_EQ(step(model, workspace), loss) << "allocation " << n;
    ASSERT_EQ(gradients_of(model), gradients) << "allocation " << n;
  }
  EXPECT_GT(failures, 10);
  EXPECT_LT(failures, 1999);
}

template <typename Optimizer>
void expect_whole_steps() {
  int failures = 0;
  for (int n = 1; n < 100; ++n) {
    Model<float> model(all_layers());
    randomize_parameters(model, 1);
    model.zero_gradients();
    model.for_each_parameter([](auto& p) { p.gradient = p.value; });
    Optimizer optimizer;
    optimizer.allocate(model);
    Workspace workspace(2);
    bool has_failed = false;
    allocations_in_parallel([&] {
      until_failure = n;
      try {
        optimizer.step(workspace, model, 1e-3);
      } catch (const std::bad_alloc&) {
        has_failed = true;
      }
      until_failure = 0;
    });
    if (!has_failed) break;
    ++failures;
    EXPECT_EQ(optimizer.steps(), 0) << Optimizer::name << ", allocation " << n;
    model.for_each_parameter([&](const auto& p) {
      EXPECT_EQ(p.value, p.gradient) << Optimizer::name << ", allocation " << n << ": " << p.name;
    });
  }
  EXPECT_GT(failures, 0) << Optimizer::name;
  EXPECT_LT(failures, 99) << Optimizer::name;
}

TEST(OutOfMemory, StopsAStepOfAnOptimizerBeforeAnythingIsChanged) {
  expect_whole_steps<Adafactor<float>>();
  expect_whole_steps<Muon<float>>();
}

TEST(OutOfMemory, InAStepOfADecoderAsksForANewPrefill) {
  ModelConfig config = all_layers();
  config.layers = {LocalPattern{4, 1}, ExactPattern{true},
                   LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks}};
  Model<float> model(config);
  randomize_parameters(model, 1);
  const std::vector<std::int32_t> prompt{1, 2, 3, 4}, next{5, 6};
  int failures = 0;
  for (int n = 1; n < 500; ++n) {
    Workspace workspace(2);
    Decoder<float> decoder(workspace, model, 2);
    const auto start = [&](Index sequence) { decoder.prefill(workspace, sequence, prompt); };
    start(0);
    start(1);
    bool has_failed = false;
    allocations_in_parallel([&] {
      until_failure = n;
      try {
        decoder.step(workspace, next);
      } catch (const std::bad_alloc&) {
        has_failed = true;
      }
      until_failure = 0;
    });
    if (!has_failed) break;
    ++failures;
    if (decoder.length(0) == 5) {  // it had begun
      EXPECT_THROW(decoder.step(workspace, next), std::invalid_argument) << "allocation " << n;
      start(0);
      start(1);
    }
    const Matrix<float> logits = decoder.step(workspace, next);
    Decoder<float> other(workspace, model, 2);
    other.prefill(workspace, 0, prompt);
    other.prefill(workspace, 1, prompt);
    ASSERT_EQ(logits, other.step(workspace, next)) << "allocation " << n;
    ASSERT_EQ(workspace.bytes_in_use(), 0U) << "allocation " << n;
  }
  EXPECT_GT(failures, 5);
  EXPECT_LT(failures, 499);
}

TEST(ParallelRegions, OfDecodingDoNotAllocate) {
  ModelConfig config = all_layers();
  config.positions = SinusoidalPositions{};
  config.layers = {LocalPattern{64, max_size}, ExactPattern{true}, ExactPattern{},
                   LshPattern{4, 1, 0, 2, {4}, false, Chunking::bucket_chunks}};
  config.head_width = 256;  // enough work for more than one thread, in a step too
  Model<float> model(config);
  randomize_parameters(model, 1);
  Workspace workspace(2);
  Decoder<float> decoder(workspace, model, 4);
  EXPECT_EQ(allocations_in_parallel([&] {
              decoder.prefill(workspace, random_tokens(4, 120, 11, 5));
              for (int i = 0; i < 100; ++i) decoder.step(workspace, std::array{1, 2, 3, 4});
            }),
            0);
  EXPECT_GT(outside, 0);
}

}  // namespace
}  // namespace reformer::test
