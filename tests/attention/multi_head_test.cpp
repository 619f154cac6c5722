// SPDX-License-Identifier: MIT
/// Attention over block lists, forward and backward: against the definition, against finite
/// differences, and at the edges of the number range. Bucket ids are given here; hashing has its
/// own test.
#include "reformer/attention/multi_head.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "reformer/products/bfloat16_units.hpp"
#include "support/compare.hpp"
#include "support/gradient_check.hpp"
#include "support/naive_attention.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

constexpr Index num_test_buckets = 4;

/// One way to attend. Values are given as keys carry them.
struct Case {
  AttentionPattern pattern;
  Index batch = 1, length = 1, heads = 1, width = 8;
  bool causal = true;
  bool masked = false;
  double dropout = 0;

  bool shared() const { return shares_query_key(pattern); }
  Index rounds() const { return detail::AttentionLayout(pattern, causal, length).rounds; }
  detail::AttentionLayout layout(std::span<const std::uint8_t> is_real) const {
    AttentionPattern with_buckets = pattern;
    if (auto* lsh = std::get_if<LshPattern>(&with_buckets)) lsh->num_buckets = {num_test_buckets};
    return {with_buckets, causal, length, is_real};
  }

  std::string name() const {
    std::string kind;
    if (const auto* lsh = std::get_if<LshPattern>(&pattern)) {
      kind = reformer::detail::join("lsh attention, ",
                                    lsh->chunking == Chunking::bucket_chunks ? "bucket " : "",
                                    lsh->duplicates == Duplicates::once ? "once " : "", "chunk ",
                                    lsh->chunk_length, " before ", lsh->chunks_before, " after ",
                                    lsh->chunks_after, " rounds ", lsh->num_hashes);
    } else if (const auto* local = std::get_if<LocalPattern>(&pattern)) {
      kind = reformer::detail::join("local attention, chunk ", local->chunk_length, " before ",
                                    local->chunks_before, " after ", local->chunks_after,
                                    local->circular ? " circular" : "");
    } else {
      kind = shared() ? "exact shared attention" : "exact attention";
    }
    if (values_of(pattern) == Values::following) kind += ", following";
    return reformer::detail::join(kind, ", B=", batch, " T=", length, " H=", heads, " K=", width,
                                  causal ? " causal" : "", masked ? " masked" : "",
                                  dropout > 0 ? " dropout" : "");
  }
};

/// The mask of a case: the end of the first sequence is padding, and its first token; other
/// sequences have it in between.
std::vector<std::uint8_t> mask_of(const Case& c) {
  if (!c.masked) return {};
  std::vector<std::uint8_t> is_real(static_cast<std::size_t>(c.batch * c.length), 1);
  for (Index b = 0; b < c.batch; ++b) {
    for (Index t = 0; t < c.length; ++t) {
      const bool padding = b == 0 ? t == 0 || t >= c.length - c.length / 4 : (t + b) % 4 == 2;
      if (padding) is_real[static_cast<std::size_t>(b * c.length + t)] = 0;
    }
  }
  return is_real;
}

/// Arrays of a group of heads, and runs over them.
template <typename Scalar>
class Arrays {
 public:
  explicit Arrays(const Case& c, double scale = 1)
      : c_(c),
        is_real(mask_of(c)),
        query(random_matrix<Scalar>(rows(), columns(), 1, scale)),
        key(random_matrix<Scalar>(rows(), columns(), 2, scale)),
        value(random_matrix<Scalar>(rows(), columns(), 3)) {
    const RandomStream stream = random_stream(4);
    buckets.resize(static_cast<std::size_t>(statistics() * c.rounds()));
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      const auto t = static_cast<Index>(i) % c.length;
      const auto b = static_cast<Index>(i) / (c.length * c.rounds() * c.heads);
      const bool padding =
          !is_real.empty() && is_real[static_cast<std::size_t>(b * c.length + t)] == 0;
      buckets[i] = static_cast<Bucket>(
          padding ? num_test_buckets : static_cast<Index>(stream.uniform(i) * num_test_buckets));
    }
  }

  Index rows() const { return c_.batch * c_.length; }
  Index columns() const { return c_.heads * c_.width; }
  Index statistics() const { return rows() * c_.heads; }
  const Matrix<Scalar>& keys() const { return c_.shared() ? query : key; }

  /// Attends, and sets `out`. Everything that is written holds NaN before.
  void attend(int threads = 1) {
    Workspace workspace(threads);
    poison(workspace);
    prepare();
    run_forward(workspace, group());
  }

  /// Attends, sets `out`, and the gradients of weighted_sum(dout, out).
  void attend_and_differentiate(const Matrix<Scalar>& dout, int threads = 1) {
    Workspace workspace(threads);
    poison(workspace);
    prepare();
    run(workspace, group(), dout);
    EXPECT_EQ(workspace.bytes_in_use(), 0u);
  }

  /// The same, but every head of every sequence as a group of its own.
  void attend_and_differentiate_by_groups(const Matrix<Scalar>& dout) {
    Workspace workspace(1);
    prepare();
    for (Index b = 0; b < c_.batch; ++b) {
      for (Index h = 0; h < c_.heads; ++h) {
        detail::MultiHead<Scalar> part = group();
        const detail::MultiHead<Scalar> whole = part;
        part.batch = part.heads = 1;
        part.first_sequence = b;
        part.first_head = h;
        if (!is_real.empty()) {
          part.is_real = whole.is_real.subspan(static_cast<std::size_t>(b * c_.length),
                                               static_cast<std::size_t>(c_.length));
        }
        part.query = whole.part(whole.query, b, h);
        part.key = whole.part(whole.key, b, h);
        part.value = whole.part(whole.value, b, h);
        part.out = whole.part(whole.out, b, h);
        const Index row = (b * c_.heads + h) * c_.length;
        part.maximum += row;
        part.normaliser += row;
        part.key_scale += row;
        part.order += (b * c_.heads + h) * layout_.order_size();
        run_part(workspace, part, dout, b, h, row);
      }
    }
  }

 private:
  static void poison(Workspace& workspace) {
    Scratch scratch(workspace);
    constexpr Index bytes = Index{1} << 20;
    std::memset(scratch.take<std::byte>(bytes), 0xFF, static_cast<std::size_t>(bytes));
  }

  Dropout<Scalar> dropout() const { return {c_.dropout, {12, 3, 1}, Purpose::attention_dropout}; }

  void prepare() {
    layout_ = c_.layout(is_real);
    const Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();
    for (Matrix<Scalar>* x : {&out, &dquery, &dkey, &dvalue}) {
      x->setConstant(rows(), columns(), nan);
    }
    for (std::vector<Scalar>* x : {&maximum_, &normaliser_, &key_scale_, &delta_}) {
      x->assign(static_cast<std::size_t>(statistics()), nan);
    }
    order_.assign(static_cast<std::size_t>(c_.batch * c_.heads * layout_.order_size()), -1);
  }

  detail::MultiHead<Scalar> group() {
    detail::MultiHead<Scalar> g{};
    g.layout = &layout_;
    g.batch = c_.batch;
    g.heads = c_.heads;
    g.head_width = c_.width;
    g.is_real = is_real;
    g.query = rows_of(std::as_const(query));
    g.key = rows_of(keys());
    g.value = rows_of(std::as_const(value));
    g.out = rows_of(out);
    g.maximum = maximum_.data();
    g.normaliser = normaliser_.data();
    g.key_scale = key_scale_.data();
    g.order = order_.data();
    g.all_heads = c_.heads;
    g.blocks_per_head = layout_.max_blocks;
    return g;
  }

  void run_forward(Workspace& workspace, const detail::MultiHead<Scalar>& g) {
    if (layout_.is_hashed) {
      const auto first = (g.first_sequence * c_.heads + g.first_head) * c_.rounds() * c_.length;
      detail::order_by_bucket(workspace, g, buckets.data() + first);
    }
    reformer::detail::attend(workspace, g, dropout(), kernel);
  }

  void run(Workspace& workspace, const detail::MultiHead<Scalar>& g, const Matrix<Scalar>& dout) {
    run_forward(workspace, g);
    set_delta(dout);
    reformer::detail::attend_backward<Scalar>(workspace, g, dropout(), rows_of(dout), delta_.data(),
                                              rows_of(dquery), rows_of(c_.shared() ? dquery : dkey),
                                              rows_of(dvalue), kernel);
  }

  void run_part(Workspace& workspace, const detail::MultiHead<Scalar>& g,
                const Matrix<Scalar>& dout, Index b, Index h, Index row) {
    run_forward(workspace, g);
    set_delta(dout);
    const auto part = [&](const MatrixView<Scalar>& x) { return group().part(x, b, h); };
    reformer::detail::attend_backward<Scalar>(
        workspace, g, dropout(), group().part(rows_of(dout), b, h), delta_.data() + row,
        part(rows_of(dquery)), part(rows_of(c_.shared() ? dquery : dkey)), part(rows_of(dvalue)),
        kernel);
  }

  /// delta = <dout, out> of each sequence, head and position
  void set_delta(const Matrix<Scalar>& dout) {
    for (Index row = 0; row < rows(); ++row) {
      for (Index h = 0; h < c_.heads; ++h) {
        const Index b = row / c_.length, t = row % c_.length;
        delta_[static_cast<std::size_t>((b * c_.heads + h) * c_.length + t)] =
            dout.row(row)
                .segment(h * c_.width, c_.width)
                .dot(out.row(row).segment(h * c_.width, c_.width));
      }
    }
  }

  Case c_;

 public:
  std::vector<std::uint8_t> is_real;

 private:
  detail::AttentionLayout layout_;
  std::vector<Scalar> maximum_, normaliser_, key_scale_, delta_;
  std::vector<std::int32_t> order_;

 public:
  DefaultKernel<Scalar> kernel;  // in float32
  std::vector<Bucket> buckets;   // [B, H, R, T]
  Matrix<Scalar> query, key, value, out, dquery, dkey, dvalue;
};

/// One head of one sequence as the definition sees it.
struct NaiveHead {
  naive::Rules rules;
  naive::Counts counts;
  Matrix<double> query, key, value;

  template <typename Scalar>
  NaiveHead(const Case& c, const Arrays<Scalar>& arrays, Index b, Index h) {
    rules = naive::rules_of(c.pattern, c.causal);
    const auto T = static_cast<std::size_t>(c.length);
    if (!arrays.is_real.empty()) {
      rules.is_real = std::span(arrays.is_real).subspan(static_cast<std::size_t>(b) * T, T);
    }
    std::vector<std::vector<Bucket>> rounds;
    for (Index r = 0; r < c.rounds(); ++r) {
      const auto first = arrays.buckets.begin() + ((b * c.heads + h) * c.rounds() + r) * c.length;
      rounds.emplace_back(first, first + c.length);
    }
    counts = naive::pattern_counts(c.pattern, c.length, rules, rounds);
    const auto part = [&](const Matrix<Scalar>& x) -> Matrix<double> {
      return x.block(b * c.length, h * c.width, c.length, c.width).template cast<double>();
    };
    query = part(arrays.query);
    key = part(arrays.keys());
    value = part(arrays.value);
  }

  Matrix<double> weights() const { return naive::attention_weights(query, key, counts, rules); }
};

template <typename Scalar>
Matrix<double> expected_out(const Case& c, const Arrays<Scalar>& arrays) {
  Matrix<double> out(arrays.rows(), arrays.columns());
  for (Index b = 0; b < c.batch; ++b) {
    for (Index h = 0; h < c.heads; ++h) {
      const NaiveHead head(c, arrays, b, h);
      out.block(b * c.length, h * c.width, c.length, c.width) = head.weights() * head.value;
    }
  }
  return out;
}

/// Chunks within buckets, of which the tests draw four.
LshPattern bucket_chunks(Index chunk_length, Index before, Index after, Index rounds,
                         Duplicates duplicates = Duplicates::each_time) {
  return {.chunk_length = chunk_length,
          .chunks_before = before,
          .chunks_after = after,
          .num_hashes = rounds,
          .num_buckets = {num_test_buckets},
          .chunking = Chunking::bucket_chunks,
          .duplicates = duplicates};
}

/// Patterns and shapes: odd lengths, one token, shorter than a chunk, chunks fewer than the window,
/// longer than the tiles of exact attention, widths that are no multiple of a vector.
std::vector<Case> shapes() {
  constexpr auto once = Duplicates::once;
  return {
      {LocalPattern{4, 1, 0, false}, 2, 13, 2, 3},
      {LocalPattern{4, 1, 1, false}, 1, 16, 1, 8},
      {LocalPattern{5, 1, 1, true}, 2, 19, 1, 20},
      {LocalPattern{4, 2, 0, true}, 1, 7, 2, 16},
      {LocalPattern{8, 1, 0, true}, 2, 5, 2, 8},
      {LocalPattern{3, 0, 2, false}, 1, 11, 3, 3},
      {LocalPattern{16, 1, 0, false}, 1, 33, 1, 64},
      {LocalPattern{70, 1, 0, true}, 1, 150, 1, 8},
      {LocalPattern{4, 1, 0, true}, 1, 1, 1, 8},
      {ExactPattern{false}, 2, 9, 2, 8},
      {ExactPattern{false}, 1, 1, 2, 3},
      {ExactPattern{false}, 1, 261, 1, 3},
      {ExactPattern{true}, 2, 9, 2, 20},
      {ExactPattern{true}, 1, 1, 1, 8},
      {ExactPattern{true}, 1, 261, 1, 8},
      {LshPattern{4, 1, 0, 1}, 2, 13, 2, 3},
      {LshPattern{4, 1, 0, 2}, 2, 17, 2, 8},
      {LshPattern{4, 1, 1, 3}, 1, 22, 1, 20},
      {LshPattern{5, 2, 1, 2}, 1, 7, 1, 16},
      {LshPattern{1, 1, 0, 2}, 1, 6, 1, 8},
      {LshPattern{16, 1, 0, 2}, 1, 35, 1, 64},
      {LshPattern{40, 1, 0, 2}, 2, 130, 1, 8},
      {LshPattern{8, 0, 0, 2}, 1, 24, 2, 8},
      {LshPattern{8, 1, 0, 2}, 2, 5, 1, 8},
      {LshPattern{8, 1, 0, 2}, 1, 1, 1, 3},
      {bucket_chunks(2, 1, 0, 1), 2, 13, 2, 3},
      {bucket_chunks(3, 1, 0, 2), 2, 37, 2, 8},
      {bucket_chunks(3, 1, 1, 2), 1, 37, 1, 20},
      {bucket_chunks(1, 2, 1, 3), 1, 19, 1, 8},
      {bucket_chunks(16, 1, 0, 2), 1, 131, 1, 64},
      {bucket_chunks(64, 1, 0, 2), 1, 40, 2, 8},
      {bucket_chunks(33, 1, 0, 1), 1, 250, 1, 8},
      {bucket_chunks(4, 0, 0, 2), 1, 24, 2, 8},
      {bucket_chunks(8, 1, 0, 2), 1, 1, 1, 3},
      {bucket_chunks(3, 1, 0, 1, once), 1, 17, 2, 8},
      {bucket_chunks(3, 1, 1, 3, once), 2, 37, 1, 20},
      {bucket_chunks(2, 2, 0, 4, once), 1, 41, 2, 3},
      {bucket_chunks(16, 1, 0, 2, once), 2, 90, 1, 16},
      {bucket_chunks(8, 1, 0, 2, once), 1, 1, 1, 3},
  };
}

/// Every shape, causal and not, masked and not, own values and following ones.
std::vector<Case> cases(double dropout = 0) {
  std::vector<Case> result;
  for (Case c : shapes()) {
    for (const AttentionPattern& pattern : naive::with_values({c.pattern}, {Values::following})) {
      for (const bool causal : {true, false}) {
        if (!naive::exists(pattern, causal)) continue;
        for (const bool masked : {false, true}) {
          c.pattern = pattern;
          c.causal = causal;
          c.masked = masked;
          c.dropout = dropout;
          result.push_back(c);
        }
      }
    }
  }
  return result;
}

template <typename Scalar>
void expect_definition(const Case& c) {
  Arrays<Scalar> arrays(c);
  arrays.attend();
  EXPECT_TRUE(close(arrays.out, expected_out(c, arrays), 4)) << c.name();
}

TEST(Attend, IsTheDefinitionInDouble) {
  for (const Case& c : cases()) expect_definition<double>(c);
}

TEST(Attend, IsTheDefinitionInFloat) {
  for (const Case& c : cases()) expect_definition<float>(c);
}

void expect_gradients(const Case& c, Index most_elements) {
  Arrays<double> arrays(c);
  const auto dout = random_matrix<double>(arrays.rows(), arrays.columns(), 5);
  arrays.attend_and_differentiate(dout);
  const Matrix<double> dquery = arrays.dquery, dkey = arrays.dkey, dvalue = arrays.dvalue;
  const auto objective = [&] {
    arrays.attend();
    return weighted_sum(dout, arrays.out);
  };
  const GradientCheckOptions options{.tolerance = 1e-8, .most_elements = most_elements};
  check_gradient(c.name(), c.shared() ? "query_key" : "query", objective, arrays.query, dquery,
                 options);
  if (!c.shared()) check_gradient(c.name(), "key", objective, arrays.key, dkey, options);
  check_gradient(c.name(), "value", objective, arrays.value, dvalue, options);
}

TEST(AttendBackward, IsTheGradient) {
  for (const Case& c : cases()) expect_gradients(c, c.length > 100 ? 5 : 14);
}

TEST(AttendBackward, IsTheGradientUnderDropout) {
  for (const Case& c : cases(0.3)) expect_gradients(c, c.length > 100 ? 4 : 10);
}

TEST(AttendBackward, IsTheGradientInEveryElement) {
  expect_gradients({LshPattern{4, 1, 0, 2}, 2, 14, 2, 5, true, true, 0.25}, 1 << 20);
  expect_gradients({LocalPattern{4, 1, 1, true}, 2, 14, 2, 5, false, true, 0.25}, 1 << 20);
  expect_gradients({bucket_chunks(3, 1, 0, 2), 2, 14, 2, 5, true, true, 0.25}, 1 << 20);
  expect_gradients({bucket_chunks(3, 1, 1, 3, Duplicates::once), 1, 23, 2, 5, true, true, 0.25},
                   1 << 20);
}

TEST(AttendBackward, InFloatAgreesWithDouble) {
  for (const Case& c : cases(0.2)) {
    Arrays<double> exact(c);
    Arrays<float> arrays(c);
    exact.query = arrays.query.cast<double>();
    exact.key = arrays.key.cast<double>();
    exact.value = arrays.value.cast<double>();
    const auto dout = random_matrix<float>(arrays.rows(), arrays.columns(), 5);
    arrays.attend_and_differentiate(dout);
    exact.attend_and_differentiate(dout.cast<double>());
    EXPECT_TRUE(close(arrays.out, exact.out)) << c.name();
    // A single token or a masked row has gradient 0, and what rounding leaves there is relative to
    // its terms, of size 1.
    EXPECT_TRUE(close(arrays.dquery, exact.dquery, 1, 1)) << c.name() << ", query";
    if (!c.shared()) {
      EXPECT_TRUE(close(arrays.dkey, exact.dkey, 1, 1)) << c.name() << ", key";
    }
    EXPECT_TRUE(close(arrays.dvalue, exact.dvalue, 1, 1)) << c.name() << ", value";
  }
}

/// Rounds numbers to those that a precision multiplies as they are.
void round_to(Precision precision, Matrix<float>& x) {
  for (float& element : std::span(x.data(), static_cast<std::size_t>(x.size()))) {
    const auto [high, low] = reformer::detail::bfloat16_parts(element);
    element = std::bit_cast<float>(high);
    if (precision == Precision::bfloat16x3) element += std::bit_cast<float>(low);
  }
}

// Rows are numbers that are multiplied as they are. What is rounded are weights and their
// gradients: to 8 bits, or to 16, of which the last is lost in products of low parts.
TEST(Attend, InEachPrecisionIsTheDefinitionAndItsGradient) {
  for (const Precision precision : {Precision::bfloat16x3, Precision::bfloat16}) {
    const double rounding = precision == Precision::bfloat16 ? 0x1p-8 : 0x1p-15;
    for (const Case& c : cases(0.2)) {
      if (c.causal == c.masked && c.length < 100) continue;  // half of them will do
      Arrays<float> arrays(c);
      arrays.kernel = precision;
      auto dout = random_matrix<float>(arrays.rows(), arrays.columns(), 5);
      for (Matrix<float>* x : {&arrays.query, &arrays.key, &arrays.value, &dout}) {
        round_to(precision, *x);
      }
      Arrays<double> exact(c);
      exact.query = arrays.query.cast<double>();
      exact.key = arrays.key.cast<double>();
      exact.value = arrays.value.cast<double>();
      arrays.attend_and_differentiate(dout);
      exact.attend_and_differentiate(dout.cast<double>());
      const std::string name = name_of(precision) + (", " + c.name());
      const auto expect_near = [&](const Matrix<float>& x, const Matrix<double>& expected,
                                   double factor, const char* what) {
        // Of rows without a gradient, what is rounded is relative to terms of size 1.
        const double size = std::max(1.0, expected.cwiseAbs().maxCoeff());
        const double error = (x.cast<double>() - expected).cwiseAbs().maxCoeff();
        EXPECT_LE(error, factor * rounding * size) << name << ", " << what;
      };
      expect_near(arrays.out, exact.out, 1, "out");
      // A sum of dS is of differences between products.
      expect_near(arrays.dquery, exact.dquery, 3, "query");
      if (!c.shared()) expect_near(arrays.dkey, exact.dkey, 3, "key");
      expect_near(arrays.dvalue, exact.dvalue, 2, "value");
      if (precision == Precision::bfloat16 && c.length > 100) {
        EXPECT_FALSE(close(arrays.out, exact.out)) << name << " is not that precision";
      }
    }
  }
}

// The unit of the machine against portable code that adds in its order.
TEST(Attend, OfAUnitHasTheBitsOfItsEmulation) {
  const Bfloat16Unit& unit = bfloat16_unit();
  const Bfloat16Unit emulation{"emulation", unit.order,
                               unit.order == detail::Bfloat16Order::tile
                                   ? detail::portable_bfloat16_tile<detail::Bfloat16Order::tile>
                                   : detail::portable_bfloat16_tile<detail::Bfloat16Order::chain>};
  const auto patterns = std::vector<AttentionPattern>{
      LshPattern{40, 1, 0, 2}, LocalPattern{70, 1, 0, true}, ExactPattern{false},
      bucket_chunks(16, 1, 0, 2, Duplicates::once)};
  for (const Precision precision : {Precision::bfloat16x3, Precision::bfloat16}) {
    for (const AttentionPattern& pattern : patterns) {
      const Case c{pattern, 1, 150, 1, 20, true, true, 0.2};
      Arrays<float> arrays(c), emulated(c);
      arrays.kernel = precision;
      emulated.kernel = {precision, emulation};
      const auto dout = random_matrix<float>(arrays.rows(), arrays.columns(), 5);
      arrays.attend_and_differentiate(dout);
      emulated.attend_and_differentiate(dout);
      const std::string name = name_of(precision) + (", " + c.name());
      EXPECT_TRUE(same_bits(arrays.out, emulated.out)) << name << ", out";
      EXPECT_TRUE(same_bits(arrays.dquery, emulated.dquery)) << name << ", query";
      EXPECT_TRUE(c.shared() || same_bits(arrays.dkey, emulated.dkey)) << name << ", key";
      EXPECT_TRUE(same_bits(arrays.dvalue, emulated.dvalue)) << name << ", value";
    }
  }
}

TEST(Attend, GivesTheSameBitsForAnyNumberOfThreadsAndAnyGrouping) {
  std::size_t number = 0;
  for (Case c : cases(0.2)) {
    if (c.causal == c.masked) continue;  // half of them will do
    c.batch = 2;
    c.heads = 2;
    Arrays<float> one(c);
    const auto dout = random_matrix<float>(one.rows(), one.columns(), 5);
    // In other precisions products of blocks begin at other queries.
    const Precision precision = precisions[++number % precisions.size()];
    one.kernel = precision;
    one.attend_and_differentiate(dout, 1);
    const auto expect_same = [&](const Arrays<float>& other, const std::string& how) {
      EXPECT_TRUE(same_bits(other.out, one.out)) << c.name() << ", out, " << how;
      EXPECT_TRUE(same_bits(other.dquery, one.dquery)) << c.name() << ", query, " << how;
      EXPECT_TRUE(same_bits(other.dkey, one.dkey)) << c.name() << ", key, " << how;
      EXPECT_TRUE(same_bits(other.dvalue, one.dvalue)) << c.name() << ", value, " << how;
    };
    for (const int threads : {2, 3}) {
      Arrays<float> many(c);
      many.kernel = precision;
      many.attend_and_differentiate(dout, threads);
      expect_same(many, std::to_string(threads) + " threads");
    }
    Arrays<float> grouped(c);
    grouped.kernel = precision;
    grouped.attend_and_differentiate_by_groups(dout);
    expect_same(grouped, "by groups");
  }
}

TEST(Attend, StandsLargeScores) {
  for (const double scale : {1.0, 8.0, 64.0, 512.0}) {
    for (Case c : cases()) {
      if (c.length > 100) continue;
      Arrays<double> arrays(c, scale);
      arrays.attend();
      // A score s is rounded to s epsilon, and a weight to as much, relative to itself.
      const double width = std::sqrt(static_cast<double>(c.width));
      const double largest_row = arrays.query.cwiseAbs().maxCoeff() * width;
      const double largest_score =
          c.shared() ? largest_row : largest_row * arrays.keys().cwiseAbs().maxCoeff();
      EXPECT_TRUE(close(arrays.out, expected_out(c, arrays), std::max(4.0, largest_score)))
          << c.name() << ", scale " << scale;

      // In float weights are not exact any more, but they are weights.
      Arrays<float> rough(c, scale);
      rough.value.setOnes();
      rough.attend_and_differentiate(random_matrix<float>(rough.rows(), rough.columns(), 5));
      EXPECT_TRUE(rough.dquery.allFinite()) << c.name() << ", scale " << scale;
      EXPECT_TRUE(c.shared() || rough.dkey.allFinite()) << c.name() << ", scale " << scale;
      EXPECT_TRUE(rough.dvalue.allFinite()) << c.name() << ", scale " << scale;
      for (Index i = 0; i < rough.out.size(); ++i) {
        const float sum = rough.out.data()[i];
        const bool may_see_nothing = c.masked || values_of(c.pattern) == Values::following;
        const bool is_weights = std::abs(sum - 1) < 2e-6 || (may_see_nothing && sum == 0);
        ASSERT_TRUE(is_weights) << c.name() << ", scale " << scale << ", element " << i << ": "
                                << sum;
      }
    }
  }
}

TEST(Attend, OfEqualRowsGivesTheRow) {
  for (Case c : cases()) {
    if (c.masked || values_of(c.pattern) == Values::following) continue;
    Arrays<float> arrays(c);
    for (Index i = 1; i < arrays.rows(); ++i) {
      arrays.query.row(i) = arrays.query.row(0);
      arrays.key.row(i) = arrays.key.row(0);
      arrays.value.row(i) = arrays.value.row(0);
    }
    arrays.attend();
    EXPECT_TRUE(close(arrays.out, arrays.value, 0.25)) << c.name();
  }
}

TEST(Attend, OfTokensThatSeeNothingIsZero) {
  for (Case c : cases()) {
    Arrays<float> arrays(c);
    arrays.is_real.assign(static_cast<std::size_t>(arrays.rows()), 0);
    // Shared queries and keys of exact attention: a token always has itself.
    if (c.shared() && !c.layout({}).is_hashed) continue;
    for (Bucket& bucket : arrays.buckets) bucket = num_test_buckets;
    arrays.attend_and_differentiate(random_matrix<float>(arrays.rows(), arrays.columns(), 5));
    EXPECT_TRUE((arrays.out.array() == 0).all()) << c.name();
    EXPECT_TRUE((arrays.dquery.array() == 0).all()) << c.name();
    EXPECT_TRUE(c.shared() || (arrays.dkey.array() == 0).all()) << c.name();
    EXPECT_TRUE((arrays.dvalue.array() == 0).all()) << c.name();
  }
}

TEST(Attend, OfAMaskedSequenceLeavesTheOthersAlone) {
  for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
           LshPattern{4, 1, 0, 2}, LocalPattern{4, 1, 0, false}, ExactPattern{}}) {
    const Case c{pattern, 3, 14, 2, 8};
    const Case alone{pattern, 1, 14, 2, 8};
    Arrays<float> arrays(c);
    arrays.is_real.assign(static_cast<std::size_t>(arrays.rows()), 1);
    for (Index t = 0; t < c.length; ++t) arrays.is_real[static_cast<std::size_t>(t)] = 0;
    const auto per_sequence = static_cast<std::ptrdiff_t>(c.heads * c.rounds() * c.length);
    std::fill_n(arrays.buckets.begin(), per_sequence, Bucket{num_test_buckets});
    arrays.attend();
    EXPECT_TRUE((arrays.out.topRows(c.length).array() == 0).all()) << c.name();

    Arrays<float> last(alone);
    last.query = arrays.query.bottomRows(c.length);
    last.key = arrays.key.bottomRows(c.length);
    last.value = arrays.value.bottomRows(c.length);
    last.buckets.assign(arrays.buckets.end() - per_sequence, arrays.buckets.end());
    last.attend();
    EXPECT_TRUE(same_bits(Matrix<float>(arrays.out.bottomRows(c.length)), last.out)) << c.name();
  }
}

TEST(Attend, GivesATokenThatSeesOnlyItselfItsValue) {
  // Next to the score of a token with itself, -1e5, a float resolves 0.0078 only. In 8 rounds a
  // weight exp(s - logsumexp(s)) would be off by up to 4e-3.
  for (const bool causal : {false, true}) {
    const Case c{LshPattern{1, 0, 0, 8}, 2, 21, 2, 16, causal};
    Arrays<float> arrays(c);
    const auto dout = random_matrix<float>(arrays.rows(), arrays.columns(), 5);
    arrays.attend_and_differentiate(dout);
    EXPECT_TRUE(close(arrays.out, arrays.value, 0.05)) << c.name();
    EXPECT_TRUE(close(arrays.dvalue, dout, 0.05)) << c.name();
    EXPECT_TRUE((arrays.dquery.array() == 0).all()) << c.name();
  }
  // The first token of a causal layer, beside others that see more.
  const Case c{LshPattern{4, 1, 0, 6}, 1, 26, 1, 16, true};
  Arrays<float> arrays(c);
  arrays.value.setOnes();
  arrays.attend();
  for (Index t = 0; t < c.length; ++t) {
    ASSERT_NEAR(arrays.out(t, 0), 1, 1e-6) << "weights of token " << t;
  }
}

TEST(Attend, DropsWeightsAfterTheSoftmaxAndKeepsTheirMean) {
  constexpr double rate = 0.25;
  for (const AttentionPattern& pattern : std::vector<AttentionPattern>{
           LshPattern{4, 1, 0, 3}, LocalPattern{6, 1, 1, true}, ExactPattern{false}}) {
    // Values are unit vectors, so that outputs are weights.
    const Case c{pattern, 2, 21, 2, 24, false, true, rate};
    Arrays<double> arrays(c);
    arrays.value.setZero();
    for (Index row = 0; row < arrays.rows(); ++row) {
      for (Index h = 0; h < c.heads; ++h) arrays.value(row, h * c.width + row % c.length) = 1;
    }
    arrays.attend();
    double kept = 0, all = 0;
    std::vector<Matrix<double>> patterns;
    for (Index b = 0; b < c.batch; ++b) {
      for (Index h = 0; h < c.heads; ++h) {
        const NaiveHead head(c, arrays, b, h);
        const Matrix<double> weights = head.weights();
        Matrix<double> occurrences = Matrix<double>::Zero(c.length, c.length);
        for (Index i = 0; i < c.length; ++i) {
          for (Index j = 0; j < c.length; ++j) {
            const double w = weights(i, j), count = head.counts(i, j);
            const double out = arrays.out(b * c.length + i, h * c.width + j);
            if (w == 0 || i == j) continue;  // self weights are 0 in double
            const double n = out * (1 - rate) * count / w;
            ASSERT_NEAR(n, std::round(n), 1e-9) << c.name() << ", weight " << i << ", " << j;
            ASSERT_TRUE(n > -0.5 && n < count + 0.5) << c.name() << ": " << n << " of " << count;
            occurrences(i, j) = std::round(n);
            kept += std::round(n);
            all += count;
          }
        }
        patterns.push_back(occurrences);
      }
    }
    ASSERT_GT(all, 300) << c.name();
    EXPECT_NEAR(kept / all, 1 - rate, 4 * std::sqrt(rate * (1 - rate) / all)) << c.name();
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) {
        EXPECT_NE(patterns[i], patterns[j])
            << c.name() << ": two heads of the batch drop the same weights";
      }
    }
  }
}

/// Outputs of real tokens.
Matrix<double> real_rows(const Arrays<double>& arrays) {
  Matrix<double> out = arrays.out;
  for (Index i = 0; i < out.rows() && !arrays.is_real.empty(); ++i) {
    if (arrays.is_real[static_cast<std::size_t>(i)] == 0) out.row(i).setZero();
  }
  return out;
}

TEST(Attend, OfOneChunkIsExactAttention) {
  const auto expect_equal = [](Case c, const AttentionPattern& pattern, bool shared) {
    c.pattern = pattern;
    Arrays<double> chunked(c);
    chunked.attend();
    const std::string name = c.name();
    c.pattern = ExactPattern{shared};
    Arrays<double> exact(c);
    exact.attend();
    EXPECT_TRUE(close(real_rows(chunked), real_rows(exact))) << name;
  };
  for (const bool causal : {true, false}) {
    Case c{ExactPattern{}, 2, 24, 2, 8, causal};
    for (const Index chunk_length : {24, 50}) {
      for (const bool masked : {false, true}) {
        c.masked = masked;
        expect_equal(c, LshPattern{chunk_length, 1, 0, 2}, true);
        expect_equal(c, LocalPattern{chunk_length, 1, 1, true}, false);
      }
    }
    // Longer than a chunk, but not without the padding: the chunk is really hashed and sorted. All
    // chunks of all rounds hold all tokens, so every token is seen equally often.
    c.masked = true;
    expect_equal(c, LshPattern{20, 0, 0, 1}, true);
    expect_equal(c, LshPattern{20, 1, 0, 3}, true);
    expect_equal(c, LshPattern{20, 2, 2, 2}, true);
  }
}

}  // namespace
}  // namespace reformer::test
