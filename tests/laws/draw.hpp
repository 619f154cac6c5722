// SPDX-License-Identifier: MIT
/// @file
/// Random configurations and inputs for the laws: a draw is a function of (seed, number).
///
/// A new field of a pattern takes two lines: one where the pattern is drawn, one where it is
/// written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "reformer/model/model.hpp"

namespace reformer::laws {

/// Numbers of one draw, one after another.
class Dice {
 public:
  Dice(std::uint64_t seed, std::uint32_t draw) : stream_({seed, draw}, Purpose::data) {}

  double uniform() { return stream_.uniform(next_++); }
  bool chance(double probability) { return uniform() < probability; }
  /// Uniform in [least, most].
  Index between(Index least, Index most) {
    return least + static_cast<Index>(uniform() * static_cast<double>(most - least + 1));
  }
  /// In [least, most]: small numbers are as likely as large ones.
  Index scaled(Index least, Index most) {
    const double ratio = static_cast<double>(most + 1) / static_cast<double>(least);
    const auto x = static_cast<Index>(static_cast<double>(least) * std::pow(ratio, uniform()));
    return std::clamp(x, least, most);
  }
  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[between(0, static_cast<Index>(choices.size()) - 1)];
  }

 private:
  RandomStream stream_;
  std::uint64_t next_ = 0;
};

/// Everything that a draw decides.
struct Draw {
  ModelConfig config;
  bool in_double = false;
  Index batch = 1, length = 1;
  Index appended = 1;  ///< padding that the law of padding appends
  Index cut = 1;       ///< where the law of suffixes cuts
  RandomKey key;
  bool training = false;
  double dropout_share = 1;
  Index num_hashes = 0;  ///< `RunOptions::num_hashes` of passes without gradients
  double budget = 0;     ///< share of what could be stored
  Precision precision = Precision::float32;
  std::vector<std::uint8_t> is_real;
  Tokens tokens, labels;
  std::uint64_t values = 0;  ///< seed of weights and of other numbers
};

namespace detail {

inline Index window_number(Dice& dice) {
  if (dice.chance(0.1)) return dice.pick<Index>({Index{1} << 20, max_size});
  return dice.between(0, 3);
}

inline Index chunk_length(Dice& dice, Index length) {
  if (dice.chance(0.08)) return dice.pick<Index>({4 * length, Index{1} << 24, max_size});
  return dice.scaled(1, 64);
}

inline std::vector<Index> bucket_factors(Dice& dice) {
  std::vector<Index> factors;
  const Index count = dice.pick<Index>({1, 1, 2, 3});
  for (Index i = 0; i < count; ++i) {
    factors.push_back(2 * dice.scaled(1, count == 1 ? 20 : 4));
  }
  return factors;
}

inline AttentionPattern head_pattern(Dice& dice, Index length, bool causal, Index head_width) {
  const Values values = causal && dice.chance(0.4)
                            ? dice.pick<Values>({Values::following, Values::mixed})
                            : Values::own;
  const Scores scores = dice.chance(0.25) ? Scores::cosine : Scores::dot_product;
  const Index rotary_width = dice.chance(0.25) ? 2 * dice.between(0, head_width / 2) : 0;
  const double kind = dice.uniform();
  if (kind < 0.3) {
    LocalPattern local{.chunk_length = chunk_length(dice, length),
                       .chunks_before = window_number(dice),
                       .chunks_after = window_number(dice),
                       .circular = dice.chance(0.3),
                       .values = values,
                       .scores = scores,
                       .rotary_width = rotary_width};
    if (local.circular) {
      local.chunks_before = std::min<Index>(local.chunks_before, 4);
      local.chunks_after = std::min<Index>(local.chunks_after, 4);
    }
    return local;
  }
  if (kind < 0.45) {
    return ExactPattern{.shared_query_key = dice.chance(0.5),
                        .values = values,
                        .scores = scores,
                        .rotary_width = rotary_width};
  }
  LshPattern lsh{.chunk_length = chunk_length(dice, length),
                 .chunks_before = window_number(dice),
                 .chunks_after = dice.chance(0.6) ? 0 : window_number(dice),
                 .num_hashes = dice.between(1, 4),
                 .values = values,
                 .scores = scores,
                 .rotary_width = rotary_width};
  if (dice.chance(0.5)) {
    lsh.chunking = Chunking::bucket_chunks;
    lsh.num_buckets = bucket_factors(dice);
    lsh.duplicates = dice.chance(0.4) ? Duplicates::once : Duplicates::each_time;
  } else {
    lsh.chunks_before = std::min<Index>(lsh.chunks_before, 4);
    lsh.chunks_after = std::min<Index>(lsh.chunks_after, 4);
    if (dice.chance(0.6)) lsh.num_buckets = bucket_factors(dice);
    lsh.sort_padding = dice.chance(0.3);
  }
  return lsh;
}

/// The pattern of a layer, whose heads may differ.
inline LayerPattern pattern(Dice& dice, Index heads, Index head_width, Index length, bool causal) {
  LayerPattern layer = head_pattern(dice, length, causal, head_width);
  if (heads == 1 || dice.chance(0.7)) return layer;
  while (static_cast<Index>(layer.of_heads.size()) < heads) {
    // Every now and then two heads are of one kind.
    layer.of_heads.push_back(dice.chance(0.3) ? layer.of_heads.back()
                                              : head_pattern(dice, length, causal, head_width));
  }
  return layer;
}

inline PositionConfig positions(Dice& dice, Index width, Index length) {
  const double kind = dice.uniform();
  if (kind < 0.4 && width >= 2) {
    const Index rows = dice.scaled(1, length), first = dice.between(1, width - 1);
    AxialPositions axial{{rows, ceil_div(length, rows)}, {first, width - first}};
    if (width - first >= 2 && dice.chance(0.3)) {  // a third factor out of the second
      const Index columns = dice.between(1, axial.shape[1]);
      axial.shape = {rows, columns, ceil_div(axial.shape[1], columns)};
      axial.widths = {first, 1, width - first - 1};
    }
    return axial;
  }
  if (kind < 0.7) return LearnedPositions{length + dice.between(0, 3)};
  return SinusoidalPositions{};
}

/// Which tokens are real.
inline std::vector<std::uint8_t> mask(Dice& dice, Index batch, Index length) {
  const double kind = dice.uniform();
  if (kind < 0.4) return {};
  std::vector<std::uint8_t> real;
  for (Index b = 0; b < batch; ++b) {
    const Index count = dice.between(1, length), one = dice.between(0, length - 1);
    for (Index t = 0; t < length; ++t) {
      const bool suffix = t < count, prefix = t >= length - count, hole = dice.chance(0.6);
      real.push_back(kind < 0.6    ? suffix
                     : kind < 0.7  ? prefix
                     : kind < 0.9  ? hole
                     : kind < 0.97 ? t == one
                                   : b > 0 || t < count / 2);  // perhaps nothing is real
    }
  }
  return real;
}

inline ResidualConfig residual(Dice& dice, bool in_double) {
  if (dice.chance(0.45)) return FloatResidual{};
  if (dice.chance(0.6)) return FixedResidual{};
  return FixedResidual{static_cast<int>(in_double ? dice.between(16, 60) : dice.between(8, 29))};
}

}  // namespace detail

inline Draw make_draw(std::uint64_t seed, std::uint32_t number) {
  Dice dice(seed, number);
  Draw draw;
  draw.in_double = dice.chance(0.3);
  draw.batch = dice.pick<Index>({1, 1, 2, 3});
  draw.length = dice.chance(0.1) ? dice.between(1, 300) : dice.scaled(1, 60);
  draw.appended = dice.scaled(1, 40);
  draw.cut = dice.between(1, draw.length);
  ModelConfig& config = draw.config;
  config.vocabulary = dice.scaled(2, 40);
  config.language_head = dice.chance(0.9);
  config.width = dice.scaled(1, 40);
  config.num_heads = dice.between(1, 3);
  config.head_width = dice.scaled(1, 20);
  config.feed_forward_width = dice.scaled(1, 70);
  config.activation = activations[static_cast<std::size_t>(
      dice.between(0, static_cast<Index>(activations.size()) - 1))];
  config.positions = detail::positions(dice, config.width, draw.length + draw.appended);
  config.ngrams.clear();
  while (config.ngrams.size() < 3 && dice.chance(0.3)) {
    config.ngrams.push_back({.order = dice.between(2, 16),
                             .rows = dice.scaled(1, 60),
                             .dropout = dice.chance(0.5) ? 0.5 : 0.0});
  }
  config.causal = dice.chance(0.7);
  config.layers.clear();
  for (Index layers = dice.between(1, 3); layers > 0; --layers) {
    config.layers.push_back(
        detail::pattern(dice, config.num_heads, config.head_width, draw.length, config.causal));
  }
  if (dice.chance(0.3)) config.dropout = dice.pick({0.1, 0.5, 0.99});
  if (dice.chance(0.3)) config.attention_dropout = dice.pick({0.1, 0.5, 0.99});
  if (dice.chance(0.1)) config.layer_norm_epsilon = 1e-5;
  config.residual = detail::residual(dice, draw.in_double);
  draw.key = {static_cast<std::uint64_t>(dice.between(0, 1000)),
              static_cast<std::uint32_t>(dice.between(0, 5))};
  draw.training = dice.chance(0.6);
  draw.budget = dice.pick({0.0, dice.uniform(), 1.0});
  draw.is_real = detail::mask(dice, draw.batch, draw.length);
  draw.tokens = Tokens(draw.batch, draw.length);
  draw.labels = Tokens(draw.batch, draw.length);
  for (Index i = 0; i < draw.tokens.size(); ++i) {
    const bool real = draw.is_real.empty() || draw.is_real[static_cast<std::size_t>(i)] != 0;
    draw.tokens.data()[i] = static_cast<std::int32_t>(dice.between(0, config.vocabulary - 1));
    draw.labels.data()[i] = !real || dice.chance(0.2)
                                ? ignored_label
                                : static_cast<std::int32_t>(dice.between(0, config.vocabulary - 1));
  }
  if (dice.chance(0.2)) draw.num_hashes = dice.between(1, 6);
  draw.values = static_cast<std::uint64_t>(dice.between(1, 1 << 30));
  if (!draw.in_double && dice.chance(0.5)) {
    draw.precision = dice.pick({Precision::bfloat16x3, Precision::bfloat16});
  }
  if (dice.chance(0.3)) {
    config.value_ngrams = {.order = dice.between(2, 16),
                           .rows = dice.scaled(1, 60),
                           .dropout = dice.chance(0.5) ? 0.5 : 0.0};
  }
  config.tied_embedding = config.language_head && dice.chance(0.3);
  if (dice.chance(0.3)) draw.dropout_share = dice.pick({0.0, 0.25});
  return draw;
}

/// The patterns of all heads of all layers.
inline std::vector<AttentionPattern> patterns_of(const ModelConfig& config) {
  std::vector<AttentionPattern> all;
  for (const LayerPattern& layer : config.layers) {
    all.insert(all.end(), layer.of_heads.begin(), layer.of_heads.end());
  }
  return all;
}

namespace detail {

inline void write(std::ostream& out, const AttentionPattern& pattern) {
  const auto values = [&](Values v) {
    out << (v == Values::following ? " following" : v == Values::mixed ? " mixed" : "");
  };
  if (rotary_width_of(pattern) > 0) out << "rotary " << rotary_width_of(pattern) << ' ';
  const auto scores = [&](Scores s) { out << (s == Scores::cosine ? " cosine" : ""); };
  if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
    out << "lsh{C " << lsh->chunk_length << " before " << lsh->chunks_before << " after "
        << lsh->chunks_after << " hashes " << lsh->num_hashes << " buckets";
    for (const Index n : lsh->num_buckets) out << ' ' << n;
    if (lsh->num_buckets.empty()) out << " automatic";
    if (lsh->sort_padding) out << " sort_padding";
    if (lsh->chunking == Chunking::bucket_chunks) out << " bucket_chunks";
    if (lsh->duplicates == Duplicates::once) out << " once";
    values(lsh->values);
    scores(lsh->scores);
  } else if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
    out << "local{C " << local->chunk_length << " before " << local->chunks_before << " after "
        << local->chunks_after << (local->circular ? " circular" : "");
    values(local->values);
    scores(local->scores);
  } else {
    const auto& exact = std::get<ExactPattern>(pattern);
    out << "exact{" << (exact.shared_query_key ? "shared" : "separate");
    values(exact.values);
    scores(exact.scores);
  }
  out << '}';
}

inline void write(std::ostream& out, const LayerPattern& layer) {
  if (layer.of_heads.size() == 1) return write(out, layer.of_heads[0]);
  out << "heads{";
  for (const AttentionPattern& pattern : layer.of_heads) write(out << ' ', pattern);
  out << '}';
}

inline void write(std::ostream& out, const PositionConfig& positions) {
  if (const auto* axial = std::get_if<AxialPositions>(&positions)) {
    out << "axial{";
    for (std::size_t i = 0; i < axial->shape.size(); ++i)
      out << (i > 0 ? "x" : "") << axial->shape[i];
    out << ", ";
    for (std::size_t i = 0; i < axial->widths.size(); ++i)
      out << (i > 0 ? "+" : "") << axial->widths[i];
    out << '}';
  } else if (const auto* learned = std::get_if<LearnedPositions>(&positions)) {
    out << "learned{" << learned->max_length << '}';
  } else {
    out << "sinusoidal";
  }
}

inline void write_mask(std::ostream& out, const std::vector<std::uint8_t>& is_real) {
  if (is_real.empty()) out << " none";
  for (std::size_t i = 0; i < is_real.size();) {
    const std::size_t first = i;
    while (i < is_real.size() && is_real[i] == is_real[first]) ++i;
    out << ' ' << i - first << (is_real[first] != 0 ? "r" : "p");
  }
}

}  // namespace detail

/// The whole draw in one line.
inline std::string text_of(const Draw& draw) {
  std::ostringstream out;
  const ModelConfig& c = draw.config;
  out << (draw.in_double ? "double" : "float") << " B " << draw.batch << " T " << draw.length
      << " V " << c.vocabulary << (c.language_head ? "" : " no_head")
      << (c.tied_embedding ? " tied" : "") << " D " << c.width << " H " << c.num_heads << " K "
      << c.head_width << " F " << c.feed_forward_width << ' ' << name_of(c.activation) << ' ';
  detail::write(out, c.positions);
  for (const NgramTable& table : c.ngrams)
    out << ' ' << table.order << "-grams{" << table.rows << ", dropout " << table.dropout << '}';
  if (c.value_ngrams) {
    out << " values' " << c.value_ngrams->order << "-grams{" << c.value_ngrams->rows << ", dropout "
        << c.value_ngrams->dropout << '}';
  }
  for (const LayerPattern& layer : c.layers) detail::write(out << ' ', layer);
  out << (c.causal ? " causal" : " not_causal") << " dropout " << c.dropout << " and "
      << c.attention_dropout << " epsilon " << c.layer_norm_epsilon;
  if (const auto* fixed = std::get_if<FixedResidual>(&c.residual)) {
    out << " fixed{" << fixed->fraction_bits << '}';
  } else {
    out << " floating";
  }
  out << " key " << draw.key.seed << ',' << draw.key.step << (draw.training ? " training" : "")
      << " share " << draw.dropout_share << " budget " << draw.budget << " hashes "
      << draw.num_hashes << ' ' << name_of(draw.precision) << " append " << draw.appended << " cut "
      << draw.cut << " values " << draw.values << " mask";
  detail::write_mask(out, draw.is_real);
  return out.str();
}

}  // namespace reformer::laws
