// SPDX-License-Identifier: MIT
#include "presets.hpp"

namespace enwik8 {
namespace {

Options quick_preset() {
  Options options;
  training::prepare_for_buckets(options);
  options.memory_budget = 64;
  options.length = 4096;
  options.layers = {"local", "bucket", "local"};
  options.ngrams = {2, 3, 4, 5, 6};
  options.value_ngrams = 2;
  options.ngram_rows = 32768;
  options.ngram_dropout = 0.5;
  options.dropout_passes = 1;
  options.optimizer = "muon";
  options.learning_rate = 0.006;
  options.short_steps = 500;
  return options;
}

/// What an hour of two cores is better spent on than on more steps of `quick`: docs/recipe.md.
Options hour_preset() {
  Options options = quick_preset();
  options.preset = "hour";
  options.minutes = 60;
  options.memory_budget = 1024;
  options.layers = {"local", "bucket", "local", "bucket", "local"};
  options.width = 256;
  options.heads = 4;
  options.ngram_dropout = 0.75;  // a text of a few million bytes is read five times
  return options;
}

/// A larger one for a day of two cores and a text that they read once or twice in it, such as
/// enwik8: docs/recipe.md. On a smaller text it ends when it learns no more.
Options day_preset() {
  Options options = hour_preset();
  options.preset = "day";
  options.minutes = 24 * 60;
  options.layers = {"local", "bucket", "local", "bucket", "local", "bucket", "local"};
  options.width = 384;
  options.heads = 6;
  options.ngram_rows = 65536;
  options.ngram_dropout = 0.5;
  options.short_steps = 2000;
  options.eval_every = 1000;
  options.eval_bytes = 262144;
  options.keep_best = 10;
  options.save_minutes = 15;
  return options;
}

/// The published configuration (trax, reformer_enwik8.gin, and google/reformer-enwik8), with its
/// learning rate 0.03125 / sqrt(step) after 2,000 steps of warm-up, which is 7e-4 at its highest.
Options paper_preset() {
  Options options;
  options.preset = "paper";
  options.minutes = 0;
  options.steps = 100'000;
  options.length = 65536;
  options.batch = 8;
  options.layers = {"local", "local", "lsh",   "local", "local", "local",
                    "lsh",   "local", "local", "local", "lsh",   "local"};
  options.width = 1024;
  options.heads = 8;
  options.head_width = 128;
  options.ff_width = 4096;
  options.activation = "relu";
  options.chunk_length = 256;
  options.local_chunk_length = 128;
  options.hashes = 2;
  options.buckets = {512};
  options.positions = "axial";
  options.axial_shape = {128, 512};
  options.axial_widths = {256, 768};
  options.init_weights = options.init_embedding = 0.02;
  options.init_positions = 1;
  options.dropout = 0.2;
  options.attention_dropout = 0.1;
  options.learning_rate = 0.03125 / 44.721359549995796;  // sqrt(2000)
  options.schedule = "rsqrt";
  options.warmup = 2000;
  options.log_every = 1;
  options.eval_every = 200;
  options.eval_bytes = 524288;
  options.save_minutes = 30;
  return options;
}

}  // namespace

const std::vector<Options>& presets() {
  static const std::vector<Options> all = [] {
    std::vector<Options> presets{quick_preset(), hour_preset(), day_preset(), paper_preset()};
    for (Options& options : presets) {
      options.precision = "auto";
    }
    return presets;
  }();
  return all;
}

}  // namespace enwik8
