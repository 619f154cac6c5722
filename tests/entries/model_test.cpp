// SPDX-License-Identifier: MIT
/// Every public entry of the floors model and training, with its arguments out of range, one at a
/// time.
#include "model/tiny_model.hpp"

#include <limits>
#include <utility>
#include <vector>

#include "reformer/model/generation.hpp"
#include "reformer/training/adafactor.hpp"
#include "reformer/training/adam.hpp"
#include "reformer/training/clipping.hpp"
#include "reformer/training/schedule.hpp"
#include "support/entries.hpp"

namespace reformer::test {
namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Index too_large = Index{1} << 31;
constexpr Index B = 2, T = 6, V = 11, D = 12;
constexpr std::uint32_t bad_layer = 1U << 24;

// --- configuration -------------------------------------------------------------------------------

const BadField<ModelConfig> config_fields[] = {
    {"vocabulary", "0", "must be at least 1", [](auto& c) { c.vocabulary = 0; }},
    {"vocabulary", "2147483648", "must be at most", [](auto& c) { c.vocabulary = too_large; }},
    {"width", "0", "must be at least 1", [](auto& c) { c.width = 0; }},
    {"width", "1073741824", "must be at most 1073741823", [](auto& c) { c.width = 1 << 30; }},
    {"num_heads", "0", "must be at least 1", [](auto& c) { c.num_heads = 0; }},
    {"num_heads", "2147483648", "must be at most", [](auto& c) { c.num_heads = too_large; }},
    {"head_width", "-1", "must be at least 1", [](auto& c) { c.head_width = -1; }},
    {"head_width", "2147483647", "must be at most 1073741823",
     [](auto& c) { c.head_width = max_size; }},
    {"feed_forward_width", "0", "must be at least 1", [](auto& c) { c.feed_forward_width = 0; }},
    {"feed_forward_width", "2147483648", "must be at most",
     [](auto& c) { c.feed_forward_width = too_large; }},
    {"vocabulary * 2 * width", "2147483647 * 2000000", "must be at most",
     [](auto& c) {
       c.vocabulary = max_size;
       c.width = 1'000'000;
     }},
    {"num_heads * head_width * width", "2147483646 * 1000", "must be at most",
     [](auto& c) {
       c.head_width = max_size / 2;
       c.width = 1000;
     }},
    {"feed_forward_width * width", "2147483647 * 1000", "must be at most",
     [](auto& c) {
       c.feed_forward_width = max_size;
       c.width = 1000;
     }},
    {"activation", "100", "must be relu, gelu",
     [](auto& c) { c.activation = static_cast<Activation>(100); }},
    {"dropout", "1", "must be in [0, 1)", [](auto& c) { c.dropout = 1; }},
    {"dropout", "nan", "must be in [0, 1)", [](auto& c) { c.dropout = nan; }},
    {"attention_dropout", "-0.1", "must be in [0, 1)", [](auto& c) { c.attention_dropout = -0.1; }},
    {"layer_norm_epsilon", "0", "must be in [1e-37, 1e37]",
     [](auto& c) { c.layer_norm_epsilon = 0; }},
    {"layer_norm_epsilon", "inf", "must be in [1e-37, 1e37]",
     [](auto& c) { c.layer_norm_epsilon = infinity; }},
    {"AxialPositions::shape[0]", "0", "must be at least 1",
     [](auto& c) {
       c.positions = AxialPositions{{0, 9}, {5, 7}};
     }},
    {"AxialPositions::widths", "5 + 8", "must add up to the model width 12",
     [](auto& c) {
       c.positions = AxialPositions{{5, 9}, {5, 8}};
     }},
    {"LearnedPositions::max_length", "0", "must be at least 1",
     [](auto& c) { c.positions = LearnedPositions{0}; }},
    {"tied_embedding", "true", "must be false without a language head",
     [](auto& c) {
       c.language_head = false;
       c.tied_embedding = true;
     }},
    {"ngrams[1]: order", "17", "must be at most 16", [](auto& c) { c.ngrams[1].order = 17; }},
    {"ngrams[0]: order", "1", "must be at least 2", [](auto& c) { c.ngrams[0].order = 1; }},
    {"ngrams[1]: dropout", "1", "must be in [0, 1)", [](auto& c) { c.ngrams[1].dropout = 1; }},
    {"ngrams[0]: rows", "0", "must be at least 1", [](auto& c) { c.ngrams[0].rows = 0; }},
    {"ngrams[1]: rows * width", "2147483647 * 1048576", "must be at most",
     [](auto& c) {
       c.width = 1 << 20;
       c.num_heads = c.head_width = c.feed_forward_width = 2;
       c.positions = SinusoidalPositions{};
       c.ngrams[0].rows = 2;
       c.ngrams[1].rows = max_size;
     }},
    {"value_ngrams: order", "1", "must be at least 2", [](auto& c) { c.value_ngrams->order = 1; }},
    {"value_ngrams: rows", "0", "must be at least 1", [](auto& c) { c.value_ngrams->rows = 0; }},
    {"value_ngrams: dropout", "1", "must be in [0, 1)",
     [](auto& c) { c.value_ngrams->dropout = 1; }},
    {"layers", "empty", "must have at least one", [](auto& c) { c.layers.clear(); }},
    {"layers", "1048577", "must have at most 1048576",
     [](auto& c) { c.layers.assign((1 << 20) + 1, ExactPattern{}); }},
    {"layers[1]: chunk_length", "0", "must be at least 1",
     [](auto& c) { std::get<LshPattern>(c.layers[1].of_heads[0]).chunk_length = 0; }},
    {"layers[0]: chunks_before", "-1", "must be at least 0",
     [](auto& c) { std::get<LocalPattern>(c.layers[0].of_heads[0]).chunks_before = -1; }},
    {"layers[2]: values", "following", "must be own where attention is not causal",
     [](auto& c) {
       c.causal = false;
       std::get<ExactPattern>(c.layers[2].of_heads[0]).values = Values::following;
     }},
    {"layers[0]: of_heads", "3 patterns", "must have a number that divides num_heads = 2",
     [](auto& c) {
       c.layers[0] = {LocalPattern{}, LocalPattern{}, ExactPattern{}};
     }},
    {"layers[0]: of_heads", "empty", "must have at least one pattern",
     [](auto& c) { c.layers[0].of_heads.clear(); }},
    {"layers[0]: of_heads[1]: chunk_length", "0", "must be at least 1",
     [](auto& c) { c.layers[0].of_heads.push_back(LocalPattern{0}); }},
    {"residual: fraction_bits", "31", "must be in [0, 30]",
     [](auto& c) { c.residual = FixedResidual{31}; }},
    {"residual: fraction_bits", "-1", "must be in [0, 30]",
     [](auto& c) { c.residual = FixedResidual{-1}; }},
};

TEST(Entries, OfModelConfig) {
  expect_cases(expect_refused<ModelConfig>("Model", tiny_config(), config_fields,
                                           [](const auto& config) { Model<float> model(config); }),
               31);
}

// --- passes --------------------------------------------------------------------------------------

/// A causal model with bucket chunks, which a decoder can go on with.
ModelConfig decodable_config() {
  ModelConfig config = tiny_config();
  for (auto& layer : config.layers) {
    if (auto* lsh = std::get_if<LshPattern>(&layer.of_heads[0]))
      lsh->chunking = Chunking::bucket_chunks;
  }
  return config;
}

struct Passes {
  Workspace workspace{2};
  Model<float> model{decodable_config()};
  Tokens tokens = random_tokens(B, T, V, 1), labels = next_token_labels(tokens);
  RunOptions options;
  std::vector<double> each = std::vector<double>(B * T, 1.0);
  std::vector<std::uint8_t> mask = std::vector<std::uint8_t>(B * T, 1);

  Passes() {
    randomize_parameters(model, 1);
    model.for_each_parameter([](Parameter<float>& p) {
      p.allocate_gradient();
      p.gradient.setConstant(0.5F);
    });
  }
  Bits bits() {
    Bits bits;
    model.for_each_parameter([&](const Parameter<float>& p) { bits.add(p.value).add(p.gradient); });
    bits.add(each).add(tokens).add(labels);
    for (const auto& layer : model.config().layers) {
      const auto* lsh = std::get_if<LshPattern>(&layer.of_heads[0]);
      if (lsh != nullptr) bits.add(lsh->num_buckets);
    }
    return bits;
  }
  void train(float scale) { model.loss_and_gradients(workspace, tokens, labels, scale, options); }
};

/// All passes take tokens and options.
struct PassEntry {
  std::string_view function;
  void (*call)(Passes&, const Tokens&, const RunOptions&);
};

/// Labels that any tokens could have.
Tokens zeros_like(const Tokens& tokens) {
  Tokens zeros(tokens.dimensions());
  zeros.setZero();
  return zeros;
}

const PassEntry pass_entries[] = {
    {"Model::loss",
     [](auto& f, const auto& tokens, const auto& options) {
       f.model.loss(f.workspace, tokens, zeros_like(tokens), options);
     }},
    {"Model::loss_and_gradients",
     [](auto& f, const auto& tokens, const auto& options) {
       f.model.loss_and_gradients(f.workspace, tokens, zeros_like(tokens), 1, options);
     }},
    {"Model::logits", [](auto& f, const auto& tokens,
                         const auto& options) { f.model.logits(f.workspace, tokens, options); }},
    {"Model::encode", [](auto& f, const auto& tokens,
                         const auto& options) { f.model.encode(f.workspace, tokens, options); }},
    {"Model::encode_and_gradients",
     [](auto& f, const auto& tokens, const auto& options) {
       f.model.encode_and_gradients(f.workspace, tokens, options, [](const auto& z) { return z; });
     }},
    {"Model::trace",
     [](auto& f, const auto& tokens, const auto& options) {
       f.model.trace(f.workspace, tokens, options, [](Index, const auto&) { FAIL(); });
     }},
    {"Model::trace",
     [](auto& f, const auto& tokens, const auto& options) {
       (void)f.model.first_non_finite_layer(f.workspace, tokens, options);
     }},
    {"Model::buckets", [](auto& f, const auto& tokens,
                          const auto& options) { f.model.buckets(f.workspace, tokens, options); }},
};

struct BadPass {
  std::string_view quantity, value, rule;
  void (*change)(Tokens&, RunOptions&);
};

constexpr std::uint8_t two_real[] = {1, 1};

const BadPass bad_passes[] = {
    {"batch", "0", "must be at least 1", [](auto& tokens, auto&) { tokens.resize(0, T); }},
    {"length", "0", "must be at least 1", [](auto& tokens, auto&) { tokens.resize(B, 0); }},
    {"length", "46", "must be at most 45, the number of positions",
     [](auto& tokens, auto&) {
       tokens.resize(1, 46);
       tokens.setZero();
     }},
    {"token 1", "11", "must be in [0, 11)", [](auto& tokens, auto&) { tokens(0, 1) = V; }},
    {"token 6", "-1", "must be in [0, 11)", [](auto& tokens, auto&) { tokens(1, 0) = -1; }},
    {"is_real", "2", "must have B*T = 12",
     [](auto&, auto& options) { options.is_real = two_real; }},
    {"key.layer", "16777216", "must be at most",
     [](auto&, auto& options) { options.key.layer = bad_layer; }},
    {"num_hashes", "-1", "must be at least 0",
     [](auto&, auto& options) { options.num_hashes = -1; }},
    {"num_hashes", "65536", "must be at most 65535",
     [](auto&, auto& options) { options.num_hashes = 65536; }},
    {"dropout_share", "2", "must be from 0 to 1",
     [](auto&, auto& options) { options.dropout_share = 2; }},
    {"precision", "3", "must be float32, bfloat16x3 or bfloat16",
     [](auto&, auto& options) { options.precision = static_cast<Precision>(3); }},
};

const Refusal<Passes> model_entries[] = {
    {"Model::loss", "labels dimension 0", "1", "must equal batch = 2",
     [](auto& f) { f.model.loss(f.workspace, f.tokens, Tokens(1, T)); }},
    {"Model::loss", "labels dimension 1", "5", "must equal length = 6",
     [](auto& f) { f.model.loss(f.workspace, f.tokens, Tokens(B, T - 1)); }},
    {"Model::loss", "label 2", "11", "must be in [0, 11) or -100",
     [](auto& f) {
       Tokens labels = f.labels;
       labels(0, 2) = V;
       f.model.loss(f.workspace, f.tokens, labels);
     }},
    {"Model::encode", "vectors dimension 2", "11", "must equal width = 12",
     [](auto& f) { f.model.encode(f.workspace, Tensor<float, 3>(B, T, D - 1)); }},
    {"Model::encode", "vectors dimension 2", "13", "must equal width = 12",
     [](auto& f) { f.model.encode(f.workspace, Tensor<float, 3>(B, T, D + 1)); }},
    {"Model::encode_and_gradients", "length", "0", "must be at least 1",
     [](auto& f) {
       f.model.encode_and_gradients(f.workspace, Tensor<float, 3>(B, 0, D), {},
                                    [](const auto& z) { return z; });
     }},
    {"Model::loss", "labels dimension 1", "6", "must equal length = 5",
     [](auto& f) { f.model.loss(f.workspace, Tensor<float, 3>(B, T - 1, D), f.labels); }},
    {"Model::loss_and_gradients", "num_hashes", "1", "must be 0 in a pass with gradients",
     [](auto& f) {
       Tensor<float, 3> dvectors;
       f.model.loss_and_gradients(f.workspace, f.tokens, f.labels, 1, {.num_hashes = 1}, &dvectors);
       EXPECT_EQ(dvectors.size(), 0);
     }},
    {"Model::loss", "each", "11", "must have B*T = 12",
     [](auto& f) {
       f.model.loss(f.workspace, f.tokens, f.labels, {}, std::span(f.each).first(11));
     }},
    {"Model::loss_and_gradients", "label 0", "-1", "must be in [0, 11) or -100",
     [](auto& f) {
       Tokens labels = f.labels;
       labels(0, 0) = -1;
       f.model.loss_and_gradients(f.workspace, f.tokens, labels, 1, {});
     }},
    {"Model::loss_and_gradients", "scale", "nan", "must be finite",
     [](auto& f) { f.train(static_cast<float>(nan)); }},
    {"Model::loss_and_gradients", "scale", "inf", "must be finite",
     [](auto& f) { f.train(static_cast<float>(infinity)); }},
    {"Model::loss_and_gradients", "num_hashes", "3", "must be 0 in a pass with gradients",
     [](auto& f) {
       f.model.loss_and_gradients(f.workspace, f.tokens, f.labels, 1, {.num_hashes = 3});
     }},
    {"Model::encode_and_gradients", "num_hashes", "3", "must be 0 in a pass with gradients",
     [](auto& f) {
       f.model.encode_and_gradients(f.workspace, f.tokens, {.num_hashes = 3},
                                    [](const auto& z) { return z; });
     }},
    {"Model::encode_and_gradients", "gradient", "empty", "must be a function",
     [](auto& f) { f.model.encode_and_gradients(f.workspace, f.tokens, {}, nullptr); }},
    {"Model::trace", "visit", "empty", "must be a function",
     [](auto& f) { f.model.trace(f.workspace, f.tokens, {}, nullptr); }},
    {"Model::encode_and_gradients", "dz dimension 1", "1", "must equal length = 6",
     [](auto& f) {
       f.model.encode_and_gradients(f.workspace, f.tokens, {},
                                    [](const auto&) { return Tensor<float, 3>(B, 1, 2 * D); });
     }},
    {"Model::next_token_logits", "length", "0", "must be at least 1",
     [](auto& f) { f.model.next_token_logits(f.workspace, {}); }},
    {"Model::next_token_logits", "token 0", "11", "must be in [0, 11)",
     [](auto& f) { f.model.next_token_logits(f.workspace, std::vector<std::int32_t>{V}); }},
    {"Model::next_token_logits", "is_real", "no token", "must have at least one",
     [](auto& f) {
       static constexpr std::uint8_t none[] = {0, 0};
       f.model.next_token_logits(f.workspace, std::vector<std::int32_t>{1, 2}, {.is_real = none});
     }},
    {"Model::initialize", "weights", "-1", "must be in [0, 1e30]",
     [](auto& f) { f.model.initialize(1, {.weights = -1}); }},
    {"Model::initialize", "embedding", "nan", "must be in [0, 1e30]",
     [](auto& f) { f.model.initialize(1, {.embedding = nan}); }},
    {"Model::initialize", "learned_positions", "inf", "must be in [0, 1e30]",
     [](auto& f) { f.model.initialize(1, {.learned_positions = infinity}); }},
    {"Model::initialize", "axial_positions", "-2", "must be in [0, 1e30]",
     [](auto& f) { f.model.initialize(1, {.axial_positions = -2}); }},
    {"Model::set_num_buckets", "num_buckets", "3", "must be even",
     [](auto& f) { f.model.set_num_buckets({3}); }},
    {"Model::set_num_buckets", "num_buckets", "empty", "must have at least one",
     [](auto& f) { f.model.set_num_buckets({}); }},
    {"Model::plan", "batch", "0", "must be at least 1", [](auto& f) { f.model.plan(0, T, 1); }},
    {"Model::plan", "batch", "2147483648", "must be at most",
     [](auto& f) { f.model.plan(too_large, T, 1); }},
    {"Model::plan", "length", "0", "must be at least 1", [](auto& f) { f.model.plan(1, 0, 1); }},
    {"Model::plan", "length", "46", "must be at most 45", [](auto& f) { f.model.plan(1, 46, 1); }},
    {"Model::plan", "threads", "0", "must be at least 1", [](auto& f) { f.model.plan(1, T, 0); }},
    {"Model::plan", "threads", "4097", "must be at most 4096",
     [](auto& f) { f.model.plan_encoding(1, T, 4097); }},
    {"Model::plan", "precision", "-1", "must be float32, bfloat16x3 or bfloat16",
     [](auto& f) { f.model.plan(1, T, 1, 0, static_cast<Precision>(-1)); }},
    {"Decoder", "precision", "3", "must be float32, bfloat16x3 or bfloat16",
     [](auto& f) { Decoder<float>(f.workspace, f.model, 1, {}, static_cast<Precision>(3)); }},
    {"ReversibleSequence", "branch", "8", "must be in [0, 8)",
     [](auto& f) { (void)f.model.stack()[8]; }},
    {"Model::branch", "layer", "4", "must be in [0, 4)",
     [](auto& f) { (void)f.model.template branch<FeedForward<float>>(4); }},
    {"Model::branch", "layer", "-1", "must be in [0, 4)",
     [](auto& f) { (void)std::as_const(f.model).template branch<FeedForward<float>>(-1); }},
    {"Model", "layer 1", "no branch", "must have at least one",
     [](auto& f) {
       const Model<float> other(f.model.config(), [](Index layer, auto& branches) {
         if (layer == 1) branches.clear();
       });
     }},
    {"Model", "layers.0.attention.layer_norm.weight", "two parameters", "must be that of one",
     [](auto& f) {
       const Model<float> other(f.model.config(), [](Index layer, auto& branches) {
         if (layer == 0) branches.push_back(branches[0]);
       });
     }},
    {"choose_storage", "items[0].branch", "2", "must be less than num_branches = 2",
     [](auto&) {
       detail::choose_storage(2, {{2, &BranchStorage::context, 8, 1.0}}, 100);
     }},
    {"choose_storage", "items[0].what", "null", "must be a member of BranchStorage",
     [](auto&) {
       detail::choose_storage(2, {{0, nullptr, 8, 1.0}}, 100);
     }},
    {"choose_storage", "items[0].work", "nan", "must be finite and not negative",
     [](auto&) {
       detail::choose_storage(2, {{0, &BranchStorage::context, 8, nan}}, 100);
     }},
};

TEST(Entries, OfModel) {
  Passes fixture;
  const auto logits = fixture.model.logits(fixture.workspace, fixture.tokens);
  std::size_t cases = expect_refused<Passes>(fixture, model_entries);
  for (const auto& entry : pass_entries) {
    for (const auto& bad : bad_passes) {
      SCOPED_TRACE(detail::join(entry.function, ": ", bad.quantity, " ", bad.value));
      Tokens tokens = fixture.tokens;
      RunOptions options;
      bad.change(tokens, options);
      const Bits before = fixture.bits();
      expect_answer(entry.function, bad.quantity, bad.value, bad.rule,
                    [&] { entry.call(fixture, tokens, options); });
      EXPECT_TRUE(fixture.bits() == before) << "something was written";
      EXPECT_EQ(fixture.workspace.bytes_in_use(), 0U);
      ++cases;
    }
  }
  expect_cases(cases, 100);
  EXPECT_TRUE(Bits().add(fixture.model.logits(fixture.workspace, fixture.tokens)) ==
              Bits().add(logits));
}

// --- decoding and sampling -----------------------------------------------------------------------

struct Decoding : Passes {
  Decoder<float> decoder{workspace, model, B};
  Workspace plan = Workspace::plan(1);
  Index calls = 0;  // of the callback of `generate`

  Decoding() { decoder.prefill(workspace, tokens); }
  Bits bits() {
    Bits bits = Passes::bits();
    for (Index b = 0; b < B; ++b) bits.add(decoder.length(b));
    return bits.add(static_cast<Index>(decoder.state_bytes())).add(calls);
  }
  using Prompts = std::vector<std::vector<std::int32_t>>;
  void text(const GenerationOptions& generation, const Prompts& prompts = {{1, 2}, {3}}) {
    generate(workspace, decoder, prompts, generation, [&](Index, std::int32_t) {
      ++calls;
      return true;
    });
  }
  void step(std::vector<Index> sequences, std::vector<std::int32_t> next) {
    decoder.step(workspace, sequences, next);
  }
  void lengths(std::vector<Index> of_prompts) { decoder.prefill(workspace, tokens, of_prompts); }
};

const Refusal<Decoding> decoding[] = {
    {"Decoder", "workspace", "one that only plans", "must be one for use",
     [](auto& f) { Decoder<float>(f.plan, f.model); }},
    {"Decoder::prefill", "workspace", "one that only plans", "must be one for use",
     [](auto& f) { f.decoder.prefill(f.plan, f.tokens); }},
    {"Decoder::prefill", "workspace", "one that only plans", "must be one for use",
     [](auto& f) { f.decoder.prefill(f.plan, 0, std::vector<std::int32_t>{1}); }},
    {"Decoder::step", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       f.decoder.step(f.plan, std::vector<std::int32_t>{1, 2});
     }},
    {"Decoder::prefill", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       generate(f.plan, f.decoder, {{1, 2}, {3}}, {.max_tokens = 1}, {});
     }},
    {"Decoder", "batch", "0", "must be at least 1",
     [](auto& f) { Decoder<float>(f.workspace, f.model, 0); }},
    {"Decoder", "batch", "-1", "must be at least 1",
     [](auto& f) { Decoder<float>(f.workspace, f.model, -1); }},
    {"Decoder", "batch", "2147483648", "must be at most",
     [](auto& f) { Decoder<float>(f.workspace, f.model, too_large); }},
    {"Decoder", "key.layer", "16777216", "must be at most",
     [](auto& f) {
       Decoder<float>(f.workspace, f.model, B, {0, 0, bad_layer});
     }},
    {"Decoder::length", "sequence", "-1", "must be", [](auto& f) { (void)f.decoder.length(-1); }},
    {"Decoder::length", "sequence", "2", "must be", [](auto& f) { (void)f.decoder.length(2); }},
    {"Decoder::prefill", "tokens dimension 0", "3", "must equal batch = 2",
     [](auto& f) { f.decoder.prefill(f.workspace, zeros_like(Tokens(3, T))); }},
    {"Decoder::prefill", "length", "0", "must be at least 1",
     [](auto& f) { f.decoder.prefill(f.workspace, Tokens(B, 0)); }},
    {"Decoder::prefill", "length", "46", "must be at most 45",
     [](auto& f) { f.decoder.prefill(f.workspace, zeros_like(Tokens(B, 46))); }},
    {"Decoder::prefill", "lengths", "1", "must have batch = 2", [](auto& f) { f.lengths({T}); }},
    {"Decoder::prefill", "length 0", "0", "must be in [1, 6]",
     [](auto& f) {
       f.lengths({0, T});
     }},
    {"Decoder::prefill", "length 1", "7", "must be in [1, 6]",
     [](auto& f) {
       f.lengths({T, T + 1});
     }},
    {"Decoder::prefill", "token 2", "11", "must be in [0, 11)",
     [](auto& f) {
       Tokens tokens = f.tokens;
       tokens(1, 2) = V;
       f.decoder.prefill(f.workspace, tokens);
     }},
    {"Decoder::prefill", "sequence", "2", "must be in [0, 2)",
     [](auto& f) { f.decoder.prefill(f.workspace, 2, std::vector<std::int32_t>{1}); }},
    {"Decoder::prefill", "length", "0", "must be at least 1",
     [](auto& f) { f.decoder.prefill(f.workspace, 0, {}); }},
    {"Decoder::prefill", "token 0", "-1", "must be in [0, 11)",
     [](auto& f) { f.decoder.prefill(f.workspace, 0, std::vector<std::int32_t>{-1}); }},
    {"Decoder::step", "tokens", "1", "must equal batch = 2",
     [](auto& f) { f.decoder.step(f.workspace, std::vector<std::int32_t>{1}); }},
    {"Decoder::step", "tokens", "2", "must equal sequences = 1",
     [](auto& f) {
       f.step({0}, {1, 2});
     }},
    {"Decoder::step", "sequence", "2", "must be in [0, 2)",
     [](auto& f) {
       f.step({0, 2}, {1, 2});
     }},
    {"Decoder::step", "sequence 0", "comes after 1", "must be ascending",
     [](auto& f) {
       f.step({1, 0}, {1, 2});
     }},
    {"Decoder::step", "sequence 1", "comes after 1", "must be ascending",
     [](auto& f) {
       f.step({1, 1}, {1, 2});
     }},
    {"Decoder::step", "token 1", "11", "must be in [0, 11)",
     [](auto& f) {
       f.step({0, 1}, {1, V});
     }},
    {"generate", "max_tokens", "-1", "must be at least 0",
     [](auto& f) { f.text({.max_tokens = -1}); }},
    {"generate", "max_context", "-1", "must be at least 0",
     [](auto& f) { f.text({.max_context = -1}); }},
    {"generate", "max_context", "46", "must be at most 45",
     [](auto& f) { f.text({.max_context = 46}); }},
    {"generate", "stop token 0", "11", "must be in [0, 11)",
     [](auto& f) { f.text({.stop_tokens = {V}}); }},
    {"generate", "prompts", "1", "must have the decoder's batch = 2",
     [](auto& f) { f.text({}, {{1}}); }},
    {"generate", "prompt 1", "empty", "must have at least one token",
     [](auto& f) {
       f.text({}, {{1}, {}});
     }},
    {"generate", "prompt 0", "46", "must have at most 45",
     [](auto& f) {
       f.text({}, {std::vector<std::int32_t>(46, 1), {1}});
     }},
    {"generate", "prompt 1: token 0", "-1", "must be in [0, 11)",
     [](auto& f) {
       f.text({.max_context = 1}, {{1}, {-1, 1, 2}});
     }},
    {"generate", "temperature", "-1", "must be 0 or more",
     [](auto& f) { f.text({.sampling = {.temperature = -1}}); }},
    {"generate", "temperature", "nan", "must be 0 or more",
     [](auto& f) { f.text({.sampling = {.temperature = nan}}); }},
    {"generate", "top_k", "-1", "must be at least 0",
     [](auto& f) { f.text({.sampling = {.top_k = -1}}); }},
    {"generate", "top_p", "0", "must be more than 0",
     [](auto& f) { f.text({.sampling = {.top_p = 0}}); }},
    {"generate", "top_p", "1.5", "must be more than 0, at most 1",
     [](auto& f) { f.text({.sampling = {.top_p = 1.5}}); }},
    {"generate", "repetition_penalty", "0", "must be more than 0",
     [](auto& f) { f.text({.sampling = {.repetition_penalty = 0}}); }},
    {"generate", "repetition_penalty", "inf", "must be more than 0",
     [](auto& f) { f.text({.sampling = {.repetition_penalty = infinity}}); }},
    {"sample_token", "there are no logits", "", "to choose from",
     [](auto&) { sample_token<float>({}, {}, 0.5); }},
    {"sample_token", "uniform", "1", "must be in [0, 1)",
     [](auto&) {
       sample_token<float>(std::vector{0.F, 1.F}, {}, 1);
     }},
    {"sample_token", "occurred", "1", "must have as many as logits, 2",
     [](auto&) {
       sample_token<float>(std::vector{0.F, 1.F}, {}, 0, std::vector<std::uint8_t>{1});
     }},
    {"sample_token", "logit 1", "nan", "must be finite or -infinity",
     [](auto&) {
       sample_token<float>(std::vector{0.F, static_cast<float>(nan)}, {}, 0);
     }},
    {"sample_token", "logit 0", "inf", "must be finite or -infinity",
     [](auto&) {
       sample_token<float>(std::vector{static_cast<float>(infinity), 0.F}, {}, 0);
     }},
    {"sample_token", "temperature", "inf", "must be 0 or more",
     [](auto&) { sample_token<float>(std::vector{0.F}, {.temperature = infinity}, 0); }},
};

TEST(Entries, OfDecoding) {
  Decoding fixture;
  expect_cases(expect_refused<Decoding>(fixture, decoding), 40);
  fixture.step({0, 1}, {1, 2});
  EXPECT_EQ(fixture.decoder.length(0), T + 1);
}

// --- head ----------------------------------------------------------------------------------------

struct HeadOfModel {
  using Half = FloatingHalf<float>;
  static constexpr Index W = 3, rows = 4;

  Workspace workspace{2};
  OutputHead<float> head{W, V, 1e-5, 0};
  Halves<Half> x{Half(rows, W), Half(rows, W)};
  Matrix<float> dx1 = Matrix<float>::Zero(rows, W), dx2 = dx1;
  HalfGradients<float> dx{rows_of(dx1), rows_of(dx2)};
  Matrix<float> z = Matrix<float>::Zero(rows, 2 * W), logits = Matrix<float>::Zero(2, V);
  std::vector<std::int32_t> labels{0, 1, 2, ignored_label};
  std::vector<double> each = std::vector<double>(rows, 1.0);

  HeadOfModel() {
    head.for_each_parameter([](Parameter<float>& p) { p.allocate_gradient(); });
  }
  Pass pass() { return {workspace, 1, rows}; }
  Bits bits() {
    Bits bits;
    bits.add(dx1).add(dx2).add(z).add(logits).add(each);
    head.for_each_parameter([&](const Parameter<float>& p) { bits.add(p.gradient); });
    return bits;
  }
  void train(float scale, const std::vector<std::int32_t>& l, const HalfGradients<float>& d) {
    head.loss_and_gradients(x, l, scale, d, pass());
  }
};

const Refusal<HeadOfModel> head_entries[] = {
    {"OutputHead", "width", "0", "must be at least 1",
     [](auto&) { OutputHead<float>(0, V, 1e-5, 0); }},
    {"OutputHead", "vocabulary", "-1", "must be at least 0",
     [](auto&) { OutputHead<float>(2, -1, 1e-5, 0); }},
    {"LayerNorm", "layer_norm_epsilon", "0", "must be in",
     [](auto&) { OutputHead<float>(2, V, 0, 0); }},
    {"OutputHead", "dropout", "1", "must be in [0, 1)",
     [](auto&) { OutputHead<float>(2, V, 1e-5, 1); }},
    {"OutputHead::loss", "rows of x.first", "4", "must equal B*T = 5",
     [](auto& f) {
       f.head.loss(f.x, f.labels, {f.workspace, 1, 5});
     }},
    {"OutputHead::loss", "columns of x.second", "2", "must equal width = 3",
     [](auto& f) {
       const Halves<HeadOfModel::Half> bad{f.x.first, HeadOfModel::Half(4, 2)};
       f.head.loss(bad, f.labels, f.pass());
     }},
    {"OutputHead::loss", "number of labels", "3", "must equal B*T = 4",
     [](auto& f) { f.head.loss(f.x, std::span(f.labels).first(3), f.pass()); }},
    {"OutputHead::loss", "label 1", "11", "must be in [0, 11) or -100",
     [](auto& f) {
       f.head.loss(f.x, std::vector<std::int32_t>{0, V, 0, 0}, f.pass());
     }},
    {"OutputHead::loss", "each", "3", "must have B*T = 4",
     [](auto& f) { f.head.loss(f.x, f.labels, f.pass(), std::span(f.each).first(3)); }},
    {"OutputHead::loss", "vocabulary of the head", "0", "must be at least 1",
     [](auto& f) { OutputHead<float>(3, 0, 1e-5, 0).loss(f.x, f.labels, f.pass()); }},
    {"OutputHead::loss_and_gradients", "scale", "nan", "must be finite",
     [](auto& f) { f.train(static_cast<float>(nan), f.labels, f.dx); }},
    {"OutputHead::loss_and_gradients", "label 0", "-1", "must be in [0, 11)",
     [](auto& f) {
       f.train(1, {-1, 0, 0, 0}, f.dx);
     }},
    {"OutputHead::loss_and_gradients", "rows of dx.second", "0", "must equal B*T = 4",
     [](auto& f) {
       f.train(1, f.labels, {f.dx.first, {}});
     }},
    {"OutputHead::loss_and_gradients", "head.weight", "has no gradient", "call zero_gradients",
     [](auto& f) {
       OutputHead<float> other(3, V, 1e-5, 0);
       other.for_each_parameter([](Parameter<float>& p) {
         if (p.name != "head.weight") p.allocate_gradient();
       });
       other.loss_and_gradients(f.x, f.labels, 1, f.dx, f.pass());
     }},
    {"OutputHead::encode", "columns of out", "11", "must equal 2 * width = 6",
     [](auto& f) {
       Matrix<float> out(4, V);
       f.head.encode(f.x, rows_of(out), f.pass());
     }},
    {"OutputHead::encode_backward", "rows of dout", "2", "must equal B*T = 4",
     [](auto& f) { f.head.encode_backward(f.x, rows_of(f.z).middle_rows(0, 2), f.dx, f.pass()); }},
    {"OutputHead::encode_backward", "columns of dx.first", "0", "must equal width = 3",
     [](auto& f) {
       const HalfGradients<float> bad{f.dx.first.middle_columns(0, 0), f.dx.second};
       f.head.encode_backward(f.x, rows_of(f.z), bad, f.pass());
     }},
    {"OutputHead::logits", "columns of out", "6", "must equal vocabulary = 11",
     [](auto& f) { f.head.logits(f.x, 0, rows_of(f.z), f.pass()); }},
    {"OutputHead::logits", "first", "3", "must be at most 2",
     [](auto& f) { f.head.logits(f.x, 3, rows_of(f.logits), f.pass()); }},
    {"OutputHead::logits", "first", "-1", "must be at least 0",
     [](auto& f) { f.head.logits(f.x, -1, rows_of(f.logits), f.pass()); }},
    {"OutputHead::kept_weight", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       f.head.kept_weight(plan, Precision::float32);
     }},
    {"OutputHead::plan_gradients", "workspace", "one for use", "must be made by Workspace::plan",
     [](auto& f) { f.head.plan_gradients(f.workspace, 5, Precision::float32); }},
    {"OutputHead::plan_encode_backward", "workspace", "one for use",
     "must be made by Workspace::plan",
     [](auto& f) { f.head.plan_encode_backward(f.workspace, 5); }},
    {"OutputHead::kept_weight", "precision", "7", "must be float32, bfloat16x3 or bfloat16",
     [](auto& f) { f.head.kept_weight(f.workspace, static_cast<Precision>(7)); }},
    {"OutputHead::logits", "table", "given", "must be none of a head that is not tied",
     [](auto& f) {
       const Parameter<float> table("e", Role::embedding, V, 3);
       f.head.logits(f.x, 0, rows_of(f.logits), f.pass(), &table);
     }},
    {"OutputHead::loss", "table", "none", "must be that of the embedding of a head that is tied",
     [](auto& f) { OutputHead<float>(3, V, 1e-5, 0, true).loss(f.x, f.labels, f.pass()); }},
    {"OutputHead::loss", "rows of the table", "10", "must equal vocabulary = 11",
     [](auto& f) {
       const Parameter<float> table("e", Role::embedding, V - 1, 3);
       OutputHead<float>(3, V, 1e-5, 0, true).loss(f.x, f.labels, f.pass(), {}, &table);
     }},
    {"OutputHead::kept_weight", "columns of the table", "6", "must equal width = 3",
     [](auto& f) {
       const Parameter<float> table("e", Role::embedding, V, 6);
       OutputHead<float>(3, V, 1e-5, 0, true).kept_weight(f.workspace, Precision::float32, &table);
     }},
    {"OutputHead::loss_and_gradients", "the table", "has no gradient", "call zero_gradients",
     [](auto& f) {
       OutputHead<float> tied(3, V, 1e-5, 0, true);
       tied.for_each_parameter([](Parameter<float>& p) { p.allocate_gradient(); });
       Parameter<float> table("e", Role::embedding, V, 3);
       tied.loss_and_gradients(f.x, f.labels, 1, f.dx, f.pass(), &table);
     }},
};

TEST(Entries, OfHead) {
  HeadOfModel fixture;
  expect_cases(expect_refused<HeadOfModel>(fixture, head_entries), 25);
}

// --- training ------------------------------------------------------------------------------------

/// Two parameters, the least that has a state.
struct Parameters {
  using Scalar = float;
  Parameter<float> a, b;

  explicit Parameters(const std::string& name = "a.weight", Index width = 3)
      : a(name, Role::weight, 2, width), b("b.bias", Role::bias, 1, width) {
    for_each_parameter([](Parameter<float>& p) {
      p.value.setConstant(0.25F);
      p.gradient = Matrix<float>::Constant(p.value.rows(), p.value.cols(), 0.5F);
    });
  }
  void for_each_parameter(auto&& visit) {
    visit(a);
    visit(b);
  }
};

struct Training {
  Workspace workspace{2};
  Parameters model;
  Adam<float> adam;
  Adafactor<float> adafactor;

  Training() {
    adam.step(workspace, model, 0.1);
    adafactor.step(workspace, model, 0.1);
  }
  Bits bits() {
    Bits bits;
    model.for_each_parameter([&](const Parameter<float>& p) { bits.add(p.value).add(p.gradient); });
    const auto add = [&](const std::string&, const Matrix<float>& state) { bits.add(state); };
    adam.for_each_state(model, add);
    adafactor.for_each_state(model, add);
    return bits.add(adam.steps()).add(adafactor.steps());
  }
  template <typename Optimizer>
  void step_with(Optimizer& optimizer, const Parameters& other) {
    Parameters copy = other;
    optimizer.step(workspace, copy, 0.1);
  }
  static Parameters without_gradient() {
    Parameters other;
    other.b.gradient.resize(0, 0);
    return other;
  }
  template <typename Optimizer>
  void step_at(Optimizer& optimizer, std::int64_t steps) {
    Optimizer other = optimizer;
    other.steps() = steps;
    other.step(workspace, model, 0.1);
  }
  template <typename Optimizer>
  void visit(Optimizer& optimizer) {
    Parameters other("a.weight", 2);
    optimizer.for_each_state(other, [](const auto&, auto& state) { state.setZero(); });
  }
};

const Refusal<Training> training[] = {
    {"Adam", "beta1", "1", "must be in [0, 1)", [](auto&) { Adam<float>({.beta1 = 1}); }},
    {"Adam", "beta1", "nan", "must be in [0, 1)", [](auto&) { Adam<float>({.beta1 = nan}); }},
    {"Adam", "beta2", "-0.1", "must be in [0, 1)", [](auto&) { Adam<float>({.beta2 = -0.1}); }},
    {"Adam", "epsilon", "0", "must be positive", [](auto&) { Adam<float>({.epsilon = 0}); }},
    {"Adam", "epsilon", "1e-50", "must be positive",
     [](auto&) { Adam<float>({.epsilon = 1e-50}); }},
    {"Adam", "weight_decay", "-1", "must be finite and not negative",
     [](auto&) { Adam<float>({.weight_decay = -1}); }},
    {"Adam", "ngram_rate", "0", "must be positive and finite",
     [](auto&) { Adam<float>({.ngram_rate = 0}); }},
    {"Adafactor", "decay_exponent", "0", "must be in (0, 1]",
     [](auto&) { Adafactor<float>({.decay_exponent = 0}); }},
    {"Adafactor", "decay_exponent", "1.5", "must be in (0, 1]",
     [](auto&) { Adafactor<float>({.decay_exponent = 1.5}); }},
    {"Adafactor", "epsilon1", "0", "must be positive",
     [](auto&) { Adafactor<float>({.epsilon1 = 0}); }},
    {"Adafactor", "epsilon2", "inf", "must be positive and finite",
     [](auto&) { Adafactor<float>({.epsilon2 = infinity}); }},
    {"Adafactor", "clip", "0", "must be positive", [](auto&) { Adafactor<float>({.clip = 0}); }},
    {"Adam::step", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       f.adam.step(plan, f.model, 0.1);
     }},
    {"Adam::step", "rate", "nan", "must be finite and not negative",
     [](auto& f) { f.adam.step(f.workspace, f.model, nan); }},
    {"Adam::step", "rate", "-1", "must be finite and not negative",
     [](auto& f) { f.adam.step(f.workspace, f.model, -1); }},
    {"Adam::step", "gradient_scale", "inf", "must be finite",
     [](auto& f) { f.adam.step(f.workspace, f.model, 0.1, infinity); }},
    {"Adam::step", "steps", "-1", "must be in [0, 2^63 - 1)",
     [](auto& f) { f.step_at(f.adam, -1); }},
    {"Adam::step", "b.bias", "has no gradient", "call zero_gradients",
     [](auto& f) { f.step_with(f.adam, Training::without_gradient()); }},
    {"Adam::step", "a.weight", "[2, 4]", "must be [2, 3]",
     [](auto& f) { f.step_with(f.adam, Parameters("a.weight", 4)); }},
    {"Adam::step", "parameter 0", "c.weight", "must be a.weight",
     [](auto& f) { f.step_with(f.adam, Parameters("c.weight")); }},
    {"Adam::for_each_state", "a.weight", "[2, 2]", "must be [2, 3]",
     [](auto& f) { f.visit(f.adam); }},
    {"Adam::state_bytes", "parameters", "1152921504606846976", "must be at most",
     [](auto&) { Adam<float>::state_bytes(Index{1} << 60); }},
    {"Adam::state_bytes", "parameters", "-1", "must be at least 0",
     [](auto&) { Adam<float>::state_bytes(-1); }},
    {"Adafactor::step", "rate", "inf", "must be finite and not negative",
     [](auto& f) { f.adafactor.step(f.workspace, f.model, infinity); }},
    {"Adafactor::step", "gradient_scale", "nan", "must be finite",
     [](auto& f) { f.adafactor.step(f.workspace, f.model, 0.1, nan); }},
    {"Adafactor::step", "steps", "9223372036854775807", "must be in [0, 2^63 - 1)",
     [](auto& f) { f.step_at(f.adafactor, std::numeric_limits<std::int64_t>::max()); }},
    {"Adafactor::step", "b.bias", "has no gradient", "call zero_gradients",
     [](auto& f) { f.step_with(f.adafactor, Training::without_gradient()); }},
    {"Adafactor::step", "a.weight", "[2, 4]", "must be [2, 3]",
     [](auto& f) { f.step_with(f.adafactor, Parameters("a.weight", 4)); }},
    {"Adafactor::for_each_state", "a.weight", "[2, 2]", "must be [2, 3]",
     [](auto& f) { f.visit(f.adafactor); }},
    {"global_gradient_norm", "workspace", "one that only plans", "must be one for use",
     [](auto& f) {
       Workspace plan = Workspace::plan(1);
       global_gradient_norm(plan, f.model);
     }},
    {"global_gradient_norm", "b.bias", "has no gradient", "call zero_gradients",
     [](auto& f) {
       Parameters other = Training::without_gradient();
       global_gradient_norm(f.workspace, other);
     }},
    {"clipping_scale", "norm", "nan", "must be finite and not negative",
     [](auto&) { clipping_scale(nan, 1); }},
    {"clipping_scale", "norm", "-1", "must be finite and not negative",
     [](auto&) { clipping_scale(-1, 1); }},
    {"clipping_scale", "max_norm", "-1", "must not be negative",
     [](auto&) { clipping_scale(1, -1); }},
    {"learning_rate", "step", "-1", "must be at least 0",
     [](auto&) { learning_rate(ConstantSchedule{}, -1); }},
    {"learning_rate", "rate", "-1", "must be finite and not negative",
     [](auto&) { learning_rate(ConstantSchedule{-1}, 1); }},
    {"learning_rate", "rate", "nan", "must be finite and not negative",
     [](auto&) { learning_rate(CosineSchedule{.rate = nan}, 1); }},
    {"learning_rate", "warmup", "-1", "must be at least 0",
     [](auto&) { learning_rate(InverseSquareRootSchedule{.warmup = -1}, 1); }},
    {"learning_rate", "warmup", "-1", "must be at least 0",
     [](auto&) { learning_rate(CosineSchedule{.warmup = -1}, 1); }},
    {"learning_rate", "steps", "0", "must be at least 1",
     [](auto&) { learning_rate(CosineSchedule{.steps = 0}, 1); }},
    {"learning_rate", "final_fraction", "1.5", "must be in [0, 1]",
     [](auto&) { learning_rate(CosineSchedule{.final_fraction = 1.5}, 1); }},
};

TEST(Entries, OfTraining) {
  Training fixture;
  expect_cases(expect_refused<Training>(fixture, training), 35);
}

}  // namespace
}  // namespace reformer::test
