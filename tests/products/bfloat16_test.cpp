// SPDX-License-Identifier: MIT
// bfloat16 numbers, and what multiplies them: the same bits as loops that follow the documented
// order, for each unit that the machine has and for the portable ones everywhere.
#include "reformer/products/bfloat16.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string_view>
#include <vector>

#include "reformer/products/bfloat16_operands.hpp"
#include "reformer/products/bfloat16_packing.hpp"
#include "reformer/products/bfloat16_tiles.hpp"
#include "reformer/products/bfloat16_units.hpp"
#include "reformer/products/precision_kernel.hpp"

namespace reformer::test {
namespace {

using detail::Bfloat16Order;
using detail::Bfloat16Tile;

constexpr float infinity = std::numeric_limits<float>::infinity();

float as_float(std::uint32_t bits) {
  return std::bit_cast<float>(bits);
}
std::uint32_t bits_of(float x) {
  return std::bit_cast<std::uint32_t>(x);
}

/// All numbers, NaN among them, are as likely as their bits.
float any_float(std::mt19937& random) {
  return as_float(static_cast<std::uint32_t>(random()));
}

/// The nearest bfloat16 by trying both neighbours, in long double.
std::uint32_t nearest(float x) {
  const std::uint32_t bits = bits_of(x);
  if (std::isnan(x)) return (bits & 0xFFFF0000u) | 0x00400000u;
  if (std::fpclassify(x) == FP_SUBNORMAL) return bits & 0x80000000u;
  if (std::isinf(x)) return bits;
  const std::uint32_t toward_zero = bits & 0xFFFF0000u, away = toward_zero + 0x10000u;
  const auto value = [](std::uint32_t b) {  // what stands beyond the largest number is 2^128
    return std::isinf(as_float(b)) ? std::copysign(0x1p128L, as_float(b))
                                   : static_cast<long double>(as_float(b));
  };
  const long double down = std::abs(x - value(toward_zero)), up = std::abs(value(away) - x);
  if (down != up) return down < up ? toward_zero : away;
  return (toward_zero >> 16 & 1u) == 0 ? toward_zero : away;
}

TEST(Bfloat16, IsTheNearestNumberWithTiesToEven) {
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float x = any_float(random);
    ASSERT_EQ(detail::bfloat16_bits(x), nearest(x)) << x;
    // ties
    const float tie = as_float((bits_of(x) & 0xFFFF0000u) | 0x8000u);
    ASSERT_EQ(detail::bfloat16_bits(tie), nearest(tie)) << tie;
  }
  const float cases[] = {0.0F,
                         -0.0F,
                         infinity,
                         -infinity,
                         1.0F,
                         0x1p-126F,
                         -0x1.fffffcp-127F,
                         std::numeric_limits<float>::denorm_min(),
                         std::numeric_limits<float>::max(),
                         std::numeric_limits<float>::quiet_NaN(),
                         as_float(0x7F800001u),
                         as_float(0xFF800001u)};
  for (const float x : cases) EXPECT_EQ(detail::bfloat16_bits(x), nearest(x)) << x;
  EXPECT_EQ(as_float(detail::bfloat16_bits(std::numeric_limits<float>::max())), infinity);
}

TEST(Bfloat16, TwoPartsHoldSixteenBits) {
  std::mt19937 random(2);
  for (int i = 0; i < 100000; ++i) {
    const float x = any_float(random);
    const auto [high, low] = detail::bfloat16_parts(x);
    ASSERT_EQ(high, nearest(x));
    if (!std::isfinite(as_float(high))) {
      ASSERT_TRUE(std::isnan(as_float(low))) << x;
      continue;
    }
    const double rest = static_cast<double>(x) - as_float(high) - as_float(low);
    ASSERT_LE(std::abs(rest), std::max(0x1p-17 * std::abs(static_cast<double>(x)), 0x1p-126)) << x;
  }
  EXPECT_EQ(detail::bfloat16_parts(1 + 0x1p-9F + 0x1p-12F).low, bits_of(0x1p-9F + 0x1p-12F));
}

#ifdef REFORMER_BFLOAT16_X86
template <bool Low>
void expect_pairs_of_portable_code() {
  constexpr Index low = 200;
  std::mt19937 random(5);
  for (Index depth = 0; depth < 70; ++depth) {
    for (int repeat = 0; repeat < 30; ++repeat) {
      std::vector<float> x(140);
      for (float& number : x) {
        number = random() % 8 != 0 ? any_float(random) : (random() % 2 == 0 ? infinity : 0x1p-126F);
      }
      const Index rows = repeat % 4;
      std::vector<float> expected(400), pairs(400);
      const auto expect_same = [&](const char* what) {
        for (std::size_t i = 0; i < pairs.size(); ++i) {
          const std::uint32_t a = detail::load_pair(&pairs[i]), b = detail::load_pair(&expected[i]);
          const auto same = [](float p, float q) {
            return (std::isnan(p) && std::isnan(q)) || bits_of(p) == bits_of(q);
          };
          ASSERT_TRUE(same(detail::even_of(a), detail::even_of(b)) &&
                      same(detail::odd_of(a), detail::odd_of(b)))
              << what << " " << depth << ", rows " << rows << ", pair " << i << ": " << std::hex
              << a << ", not " << b;
        }
      };
      detail::portable_pairs_along<Low>(x.data(), depth, expected.data(), low);
      detail::avx512_pairs_along<Low>(x.data(), depth, pairs.data(), low);
      ASSERT_NO_FATAL_FAILURE(expect_same("along"));
      detail::portable_pairs_across<Low>(x.data(), 70, rows, depth, expected.data(), low);
      detail::avx512_pairs_across<Low>(x.data(), 70, rows, depth, pairs.data(), low);
      ASSERT_NO_FATAL_FAILURE(expect_same("across"));
    }
  }
}

TEST(Bfloat16, PairsOfInstructionsThatRoundAreThoseOfPortableCode) {
  if (!detail::has_avx512_bfloat16()) GTEST_SKIP() << "this machine has no such instructions";
  expect_pairs_of_portable_code<false>();
  expect_pairs_of_portable_code<true>();
}
#endif

/// a b + c rounded once to 24 bits whatever the exponent, and zero where that is denormal: in whole
/// numbers, by splitting what long double may round.
float multiply_add(float a, float b, float c) {
  const long double product = static_cast<long double>(a) * b;  // 16 bits
  if (!std::isfinite(product) || !std::isfinite(c)) return static_cast<float>(product + c);
  // 64 bits hold the sum, or all of the larger one and a sign of what is beneath.
  long double sum = product + c;
  const long double rest = std::abs(product) > std::abs(static_cast<long double>(c))
                               ? c - (sum - product)
                               : product - (sum - c);
  int exponent = 0;
  long double digits = std::frexp(sum, &exponent);  // in [1/2, 1)
  digits = std::ldexp(digits, 24);
  long double whole = std::floor(digits);
  const long double half = digits - whole;
  if (half > 0.5L || (half == 0.5L && (rest > 0 || (rest == 0 && std::fmod(whole, 2.0L) != 0)))) {
    whole += 1;
  }
  const long double rounded = std::ldexp(whole, exponent - 24);
  if (rounded == 0 && sum == 0) return static_cast<float>(product + c);  // with its sign
  if (std::abs(rounded) < 0x1p-126L) return std::copysign(0.0F, static_cast<float>(sum));
  return static_cast<float>(rounded);
}

/// A product's number: mostly of sizes at which sums round, cancel, underflow and overflow.
float any_operand(std::mt19937& random, int kind) {
  const float sign = random() % 2 == 0 ? 1.0F : -1.0F;
  const float digits = 1 + static_cast<float>(random() % 128) / 128;
  switch (kind) {
    case 0:  // of the size of one
      return sign * std::ldexp(digits, static_cast<int>(random() % 8) - 4);
    case 1:  // of all sizes, denormal too
      return sign * std::ldexp(digits, static_cast<int>(random() % 276) - 138);
    case 2:  // products near the smallest number
      return sign * std::ldexp(digits, static_cast<int>(random() % 12) - 68);
    case 3:  // products near the largest
      return sign * std::ldexp(digits, static_cast<int>(random() % 6) + 60);
    default:  // with what is no number
      switch (random() % 40) {
        case 0:
          return sign * infinity;
        case 1:
          return std::numeric_limits<float>::quiet_NaN();
        default:
          return random() % 4 == 0 ? sign * 0.0F : sign * digits;
      }
  }
}

/// A random tile, packed.
struct RandomTile {
  Index rows, columns, depth, parts;
  Index padded = round_up(depth, detail::bfloat16_depth), stride = padded / 2 * parts + 3;
  std::vector<float> a = std::vector<float>(static_cast<std::size_t>(rows * stride), 0.0F);
  std::vector<float> b = std::vector<float>(
      static_cast<std::size_t>(panel() * ceil_div(columns, detail::bfloat16_panel)), 0.0F);
  std::vector<float> c = std::vector<float>(static_cast<std::size_t>(rows * c_stride()));

  Index c_stride() const { return columns + 3; }
  Bfloat16Tile tile(std::vector<float>& out, bool accumulate) const {
    const Index low = parts == 1 ? 0 : padded / 2;
    return {a.data(), stride,     low,        b.data(), panel(), low * detail::bfloat16_panel,
            padded,   out.data(), c_stride(), rows,     columns, accumulate};
  }
  Index panel() const { return padded / 2 * parts * detail::bfloat16_panel; }
  /// Where a pair of B is.
  std::size_t place(Index part, Index p, Index j) const {
    constexpr Index w = detail::bfloat16_panel;
    return static_cast<std::size_t>(j / w * panel() + (part * padded / 2 + p / 2) * w + j % w);
  }
  void fill(std::mt19937& random, int kind) {
    const auto pair = [&](bool is_last) {
      const std::uint32_t even = detail::bfloat16_bits(any_operand(random, kind));
      return detail::bfloat16_pair(
          even, is_last && depth % 2 == 1 ? 0 : detail::bfloat16_bits(any_operand(random, kind)));
    };
    for (Index part = 0; part < parts; ++part) {
      for (Index p = 0; 2 * p < depth; ++p) {
        const bool is_last = 2 * p + 1 >= depth;
        for (Index i = 0; i < rows; ++i) {
          detail::store_pair(&a[static_cast<std::size_t>(i * stride + part * padded / 2 + p)],
                             pair(is_last));
        }
        for (Index j = 0; j < columns; ++j) {
          detail::store_pair(&b[place(part, 2 * p, j)], pair(is_last));
        }
      }
    }
    for (float& x : c) x = any_operand(random, kind == 4 ? 0 : kind);
  }
};

/// Element (i, j) of a tile, by the documented order.
float expected_element(const RandomTile& t, Bfloat16Order order, Index i, Index j) {
  const Index low = t.padded / 2;
  const auto a = [&](Index part, Index p) {
    const auto pair =
        detail::load_pair(&t.a[static_cast<std::size_t>(i * t.stride + part * low + p / 2)]);
    return p % 2 == 0 ? detail::even_of(pair) : detail::odd_of(pair);
  };
  const auto b = [&](Index part, Index p) {
    const auto pair = detail::load_pair(&t.b[t.place(part, p, j)]);
    return p % 2 == 0 ? detail::even_of(pair) : detail::odd_of(pair);
  };
  float sum = 0;
  const auto add = [&](Index a_part, Index b_part) {
    if (order == Bfloat16Order::chain) {
      for (Index p = 0; p < t.padded; p += 2) {
        for (const Index q : {p + 1, p}) sum = multiply_add(a(a_part, q), b(b_part, q), sum);
      }
      return;
    }
    for (Index first = 0; first < t.padded; first += 32) {
      float chains[2] = {};
      for (Index p = first; p < first + 32; ++p) {
        float& chain = chains[p % 2];
        chain = multiply_add(a(a_part, p), b(b_part, p), chain);
      }
      sum = multiply_add(1, sum, multiply_add(1, chains[0], chains[1]));
    }
  };
  if (t.parts == 2) {
    add(1, 0);
    add(0, 1);
  }
  add(0, 0);
  return sum;
}

bool same_number(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || bits_of(a) == bits_of(b);
}

std::vector<Bfloat16Unit> units() {
  std::vector<Bfloat16Unit> units{detail::portable_tile_unit,
                                  {"portable chain", Bfloat16Order::chain,
                                   detail::portable_bfloat16_tile<Bfloat16Order::chain>}};
#ifdef REFORMER_BFLOAT16_X86
  if (detail::may_use_amx_bfloat16()) units.push_back(detail::amx_unit);
  if (detail::has_avx512_bfloat16()) units.push_back(detail::avx512_unit);
#endif
  return units;
}

/// Portable code that adds in the order of a unit.
const Bfloat16Unit& portable_twin(const Bfloat16Unit& unit) {
  static const std::vector<Bfloat16Unit> all = units();
  return *std::find_if(all.begin(), all.end(),
                       [&](const auto& u) { return u.order == unit.order; });
}

#if defined(__SANITIZE_ADDRESS__) || defined(REFORMER_THREAD_SANITIZER)
#define REFORMER_TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer) || \
    __has_feature(thread_sanitizer)
#define REFORMER_TEST_SANITIZED
#endif
#endif

void expect_documented(const Bfloat16Unit& unit, const RandomTile& random_tile, int kind) {
  const auto& t = random_tile;
  for (const bool accumulate : {false, true}) {
    std::vector<float> out = t.c;
    const detail::Bfloat16UnitInUse in_use(&unit);
    unit.multiply(t.tile(out, accumulate));
    for (Index i = 0; i < t.rows; ++i) {
      for (Index j = 0; j < t.c_stride(); ++j) {
        const auto at = static_cast<std::size_t>(i * t.c_stride() + j);
        float expected = t.c[at];
        if (j < t.columns) {
          const float sum = expected_element(t, unit.order, i, j);
          expected = accumulate ? expected + sum : sum;
        }
        ASSERT_TRUE(same_number(out[at], expected))
            << unit.name << ": (" << i << ", " << j << ") of [" << t.rows << ", " << t.columns
            << "], depth " << t.depth << ", numbers " << kind << ": " << out[at] << ", not "
            << expected;
      }
    }
  }
}

// 10,000 tiles with each unit of many shapes; the loops cost most of the time.
TEST(Bfloat16Units, AddInTheDocumentedOrder) {
  for (const Bfloat16Unit& unit : units()) {
    std::mt19937 random(3);
    for (int i = 0; i < 10000; ++i) {
      const int kind = i % 5;
      RandomTile tile{1 + static_cast<Index>(random() % 3), 1 + static_cast<Index>(random() % 3),
                      1 + static_cast<Index>(random() % 70), 1 + static_cast<Index>(random() % 2)};
      tile.fill(random, kind);
      ASSERT_NO_FATAL_FAILURE(expect_documented(unit, tile, kind));
    }
    for (const Index rows : {1, 2, 5, 12, 13, 14, 25, 31, 64}) {
      for (const Index columns : {1, 15, 16, 17, 31, 32, 33, 70}) {
        RandomTile tile{rows, columns, 40, 1 + rows % 2};
        tile.fill(random, 0);
        ASSERT_NO_FATAL_FAILURE(expect_documented(unit, tile, 0));
      }
    }
  }
}

// 100,000 tiles with each unit that is no portable code: one row, one column, odd depths, all kinds
// of numbers. Most are small, because portable code takes a microsecond for a row of them.
TEST(Bfloat16Units, HaveTheBitsOfTheirEmulation) {
#ifdef REFORMER_TEST_SANITIZED
  constexpr int tiles = 2000;
#else
  constexpr int tiles = 100000;
#endif
  const std::vector<Bfloat16Unit> all = units();
  if (all.size() == 2) GTEST_SKIP() << "this machine has no unit";
  for (std::size_t u = 2; u < all.size(); ++u) {
    const Bfloat16Unit &unit = all[u], &twin = portable_twin(unit);
    const detail::Bfloat16UnitInUse in_use(&unit);
    std::mt19937 random(4);
    for (int n = 0; n < tiles; ++n) {
      const int kind = n % 5;
      const bool is_large = n % 1000 == 0;
      const auto up_to = [&](Index small, Index large) {
        return 1 + static_cast<Index>(random() % static_cast<unsigned>(is_large ? large : small));
      };
      RandomTile tile{up_to(2, 80), up_to(3, 100), up_to(66, 520), up_to(2, 2)};
      tile.fill(random, kind);
      std::vector<float> out = tile.c, expected = tile.c;
      const bool accumulate = n % 2 == 0;
      unit.multiply(tile.tile(out, accumulate));
      twin.multiply(tile.tile(expected, accumulate));
      const auto differs = std::mismatch(out.begin(), out.end(), expected.begin(), same_number);
      ASSERT_EQ(differs.first, out.end())
          << unit.name << " in tile " << n << ", [" << tile.rows << ", " << tile.columns
          << "], depth " << tile.depth << ", numbers " << kind << ": " << *differs.first << ", not "
          << *differs.second;
    }
  }
}

// A unit that a machine has is asked for its bits before it is used.
TEST(Bfloat16Units, AreUsedOnlyIfTheyGiveTheirBits) {
  for (const Bfloat16Unit& unit : units()) EXPECT_TRUE(detail::gives_its_bits(unit)) << unit.name;
  const auto refused = [](const char* name, Bfloat16Order order,
                          void (*multiply)(const Bfloat16Tile&)) {
    EXPECT_FALSE(detail::gives_its_bits({name, order, multiply})) << name;
  };
  constexpr auto chain = detail::portable_bfloat16_tile<Bfloat16Order::chain>;
  constexpr auto tile = detail::portable_bfloat16_tile<Bfloat16Order::tile>;
  refused("another order", Bfloat16Order::tile, chain);
  refused("another order", Bfloat16Order::chain, tile);
  refused("without low parts", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
    Bfloat16Tile high = t;
    high.a_low = high.b_low = 0;
    tile(high);
  });
  refused("only the first panel", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
    Bfloat16Tile first = t;
    first.columns = detail::bfloat16_panel;
    tile(first);
  });
  refused("without the last row", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
    Bfloat16Tile upper = t;
    --upper.rows;
    tile(upper);
  });
  for (const Index height : {1, 7, 13, 19}) {  // as if one kernel were wrong
    static Index wrong;
    wrong = height;
    refused("one height", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
      tile(t);
      if (t.rows == wrong) t.c[(t.rows - 1) * t.c_stride] += 1;
    });
  }
  refused("half of the depth", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
    Bfloat16Tile half = t;
    half.depth /= 2;
    tile(half);
  });
  refused("never adds", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
    Bfloat16Tile other = t;
    other.accumulate = false;
    tile(other);
  });
  refused("denormal sums", Bfloat16Order::tile, [](const Bfloat16Tile& t) {
    tile(t);
    if (!t.accumulate) t.c[0] = 0x1p-130F;
  });
  // What is used here is one of them, and says what is fastest.
  const auto all = units();
  EXPECT_TRUE(std::any_of(all.begin(), all.end(), [](const Bfloat16Unit& unit) {
    return std::string_view(unit.name) == bfloat16_unit().name;
  }));
  const std::string_view unit = bfloat16_unit().name;
  bool is_fast = false;
#ifdef REFORMER_BFLOAT16_X86
  is_fast = unit == "amx_bf16" || (unit == "avx512_bf16" && __builtin_cpu_is("amd"));
#ifndef __AVX512F__
  is_fast = unit != "portable";
#endif
#endif
  EXPECT_EQ(fastest_precision(), is_fast ? Precision::bfloat16 : Precision::float32) << unit;
}

}  // namespace
}  // namespace reformer::test
