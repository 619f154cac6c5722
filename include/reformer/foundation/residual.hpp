// SPDX-License-Identifier: MIT
/// @file
/// A half of the residual stream: what branches read, and add themselves to.
///
/// | type          | held as                        | reversal, (x + f) - f |
/// |---------------|--------------------------------|-----------------------|
/// | `FloatingHalf`   | the scalar type                | x up to rounding      |
/// | `FixedHalf`   | integers, multiples of 2^-20   | x, bit for bit        |
/// | `DynamicHalf` | one of these, by configuration | as that one           |
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/compiled_once.hpp"
#include "reformer/foundation/residual_config.hpp"
#include "reformer/foundation/simd.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/foundation/workspace.hpp"

namespace reformer::inline REFORMER_ABI {

namespace detail {
inline void check_half(std::string_view function, Index rows, Index columns) {
  check_at_least(function, "rows", rows, 0);
  check_at_least(function, "columns", columns, 0);
}

/// Element (row, column) of a matrix whose rows are visited in order: those a few rows on are
/// fetched.
template <typename Values>
auto* run_of_row(Values& values, Index row, Index column, Index count) {
  if (row + simd::rows_ahead < values.rows()) {
    simd::prefetch(count, &values(row + simd::rows_ahead, column));
  }
  return &values(row, column);
}

/// The elements of a half: in memory of its own, or in scratch that outlives it. A copy has memory
/// of its own, unless it is assigned to a half of the same size, which keeps its memory.
template <typename T>
class HalfValues {
 public:
  HalfValues() = default;
  /// Zeros.
  HalfValues(Index rows, Index columns)
      : own_(Matrix<T>::Zero(rows, columns)), values_(rows_of(own_)) {}
  /// Elements are undefined.
  HalfValues(Scratch& memory, Index rows, Index columns)
      : values_(memory.take<T>(scratch_elements<T>("HalfValues", rows, columns)), rows, columns) {}
  HalfValues(const HalfValues& other) { *this = other; }
  HalfValues(HalfValues&& other) noexcept { swap(*this, other); }
  HalfValues& operator=(const HalfValues& other) {
    if (this == &other) return *this;
    if (rows() != other.rows() || columns() != other.columns()) {
      own_.resize(other.rows(), other.columns());
      values_ = rows_of(own_);
    }
    std::copy_n(other.values_.data, other.rows() * other.columns(), values_.data);
    return *this;
  }
  HalfValues& operator=(HalfValues&& other) noexcept {
    swap(*this, other);
    return *this;
  }
  /// `*this = other` by several threads.
  void copy_from(int threads, const HalfValues& other) {
    if (rows() != other.rows() || columns() != other.columns()) {
      *this = other;
      return;
    }
    for_each_row_tile(threads, rows(), [&](Index first, Index count, int) {
      std::copy_n(other.values_.row(first), count * columns(), values_.row(first));
    });
  }
  friend void swap(HalfValues& a, HalfValues& b) noexcept {
    a.own_.swap(b.own_);
    std::swap(a.values_, b.values_);
  }

  Index rows() const { return values_.rows; }
  Index columns() const { return values_.columns; }
  T& operator()(Index row, Index column) { return values_(row, column); }
  const T& operator()(Index row, Index column) const { return values_(row, column); }

 private:
  Matrix<T> own_;
  MatrixView<T> values_;
};
}  // namespace detail

/// A half of the residual stream, `[B*T, D]`, behind three operations on a run of elements of one
/// row.
template <typename Half>
concept ResidualHalf = requires(const Half& constant, Half& half, typename Half::Scalar* out,
                                const typename Half::Scalar* in, Index i) {
  { constant.rows() } -> std::convertible_to<Index>;
  { constant.columns() } -> std::convertible_to<Index>;
  constant.read(i, i, i, out);
  half.add(i, i, i, in);
  half.subtract(i, i, i, in);
};

/// Whether a half must be added to or subtracted from. A value of run time, so that the forward and
/// the backward pass of a branch share one compiled function: two copies of the same source may be
/// rounded differently, because compilers contract products and sums of each as they see fit.
enum class Sign { plus, minus };

/// element (row, column + j) of y +-= f[j]
template <ResidualHalf Half>
void accumulate(Half& y, Sign sign, Index row, Index column, Index count,
                const typename Half::Scalar* f) {
  if (sign == Sign::plus) {
    y.add(row, column, count, f);
  } else {
    y.subtract(row, column, count, f);
  }
}

/// to = from, by several threads if the half has a member function `copy_from` for that.
template <ResidualHalf Half>
void copy_half(int threads, const Half& from, Half& to) {
  if constexpr (requires { to.copy_from(threads, from); }) {
    to.copy_from(threads, from);
  } else {
    to = from;
  }
}

/// Whether `subtract` undoes `add` bit for bit. A half says so in a member function of this name;
/// one that has none is not exact.
template <ResidualHalf Half>
bool is_exact(const Half& half) {
  if constexpr (requires { half.is_exact(); }) {
    return half.is_exact();
  } else {
    return false;
  }
}

/// The first element, by row and column, that left the range of a half.
struct ResidualOverflow {
  Index row = 0, column = 0;
  double held = 0;   ///< what the element was
  double added = 0;  ///< what was added to it; may be infinite or not a number
  double limit = 0;  ///< the range is [-limit, limit)
};

/// What a half has recorded. Branches work in parallel regions, where nothing may be thrown, so a
/// half writes an overflow down and the owner of the halves looks for it after each branch.
template <ResidualHalf Half>
std::optional<ResidualOverflow> overflow_of(const Half& half) {
  if constexpr (requires { half.overflow(); }) {
    return half.overflow();
  } else {
    return {};
  }
}

namespace detail {
/// @param where   what was added, such as "layer 3, attention"
/// @param length  T
/// @throw std::overflow_error if an element has left the range of the half
template <ResidualHalf Half>
void check_range(std::string_view where, const Half& half, Index length) {
  if (const auto overflow = overflow_of(half)) [[unlikely]] {
    throw std::overflow_error(detail::join(
        "reformer: residual overflow in ", where, ", sequence ", overflow->row / length, ", token ",
        overflow->row % length, ", column ", overflow->column, ": ", overflow->held, " + ",
        overflow->added, " is outside [", -overflow->limit, ", ", overflow->limit,
        "), the range of the fixed-point halves"));
  }
}
}  // namespace detail

/// A half held as plain floating point. Reversal, `(x + f) - f`, gives x back up to rounding.
template <typename Scalar_>
class FloatingHalf {
 public:
  using Scalar = Scalar_;

  FloatingHalf() = default;
  /// Zeros.
  /// @throw std::invalid_argument for a negative size
  FloatingHalf(Index rows, Index columns) {
    detail::check_half("FloatingHalf", rows, columns);
    values_ = {rows, columns};
  }
  /// In scratch, which must outlive it; elements are undefined.
  /// @throw std::invalid_argument for a negative size
  FloatingHalf(Scratch& memory, Index rows, Index columns) {
    detail::check_half("FloatingHalf", rows, columns);
    values_ = {memory, rows, columns};
  }

  Index rows() const { return values_.rows(); }
  Index columns() const { return values_.columns(); }

  /// out[j] = element (row, column + j), j < count
  void read(Index row, Index column, Index count, Scalar* out) const {
    std::copy_n(detail::run_of_row(values_, row, column, count), count, out);
  }
  /// element (row, column + j) += f[j]
  void add(Index row, Index column, Index count, const Scalar* f) {
    simd::add(count, f, detail::run_of_row(values_, row, column, count));
  }
  /// element (row, column + j) -= f[j]
  void subtract(Index row, Index column, Index count, const Scalar* f) {
    simd::subtract(count, f, detail::run_of_row(values_, row, column, count));
  }
  /// element (row, column + j) = x[j]
  void write(Index row, Index column, Index count, const Scalar* x) {
    std::copy_n(x, count, &values_(row, column));
  }
  /// `*this = other` by several threads.
  void copy_from(int threads, const FloatingHalf& other) {
    values_.copy_from(threads, other.values_);
  }

 private:
  detail::HalfValues<Scalar> values_;
};

/// A half held in fixed point: integers of the scalar's size, in units of 2^-fraction_bits.
///
/// What is added is rounded to the nearest unit, ties to even, and then added as an integer: a
/// branch that is recomputed bit for bit is undone bit for bit. By default values reach from -2048
/// to 2048, in steps of 2^-20 for float and of 2^-52 for double.
///
/// An element that would leave the range, or to which something outside the range is added
/// (infinity and NaN included), is recorded: see `overflow`. Its value is meaningless then, but
/// never undefined behaviour.
template <typename Scalar_>
class FixedHalf {
 public:
  using Scalar = Scalar_;
  using Integer = FixedInteger<Scalar>;
  static constexpr int default_fraction_bits = std::numeric_limits<Integer>::digits - 11;

  FixedHalf() : FixedHalf(default_fraction_bits) {}
  explicit FixedHalf(int fraction_bits) {
    constexpr int most = std::numeric_limits<Integer>::digits - 1;
    check(fraction_bits >= 1 && fraction_bits <= most, "FixedHalf", "fraction_bits is ",
          fraction_bits, ", must be in [1, ", most, "]");
    unit_ = std::ldexp(Scalar(1), -fraction_bits);
    per_unit_ = 1 / unit_;
  }
  /// Zeros.
  /// @throw std::invalid_argument for a negative size, or a number of bits that is not possible
  FixedHalf(Index rows, Index columns, int fraction_bits = default_fraction_bits)
      : FixedHalf(fraction_bits) {
    detail::check_half("FixedHalf", rows, columns);
    values_ = {rows, columns};
  }
  /// In scratch, which must outlive it; elements are undefined.
  /// @throw std::invalid_argument as above
  FixedHalf(Scratch& memory, Index rows, Index columns, int fraction_bits = default_fraction_bits)
      : FixedHalf(fraction_bits) {
    detail::check_half("FixedHalf", rows, columns);
    values_ = {memory, rows, columns};
  }

  Index rows() const { return values_.rows(); }
  Index columns() const { return values_.columns(); }

  static constexpr bool is_exact() { return true; }

  /// The first element that left the range, by row and column, whichever thread met it.
  const std::optional<ResidualOverflow>& overflow() const { return overflow_; }

  /// out[j] = element (row, column + j), rounded to the scalar type
  void read(Index row, Index column, Index count, Scalar* out) const {
    const Integer* y = detail::run_of_row(values_, row, column, count);
    for (Index j = 0; j < count; ++j) out[j] = static_cast<Scalar>(y[j]) * unit_;
  }
  /// element (row, column + j) += f[j], rounded to a unit
  void add(Index row, Index column, Index count, const Scalar* f) {
    update<Sign::plus>(row, column, count, f);
  }
  /// element (row, column + j) -= f[j], rounded to a unit
  void subtract(Index row, Index column, Index count, const Scalar* f) {
    update<Sign::minus>(row, column, count, f);
  }
  /// element (row, column + j) = x[j], rounded to a unit
  void write(Index row, Index column, Index count, const Scalar* x) {
    std::fill_n(&values_(row, column), count, Integer(0));
    add(row, column, count, x);
  }
  /// `*this = other` by several threads.
  void copy_from(int threads, const FixedHalf& other) {
    unit_ = other.unit_;
    per_unit_ = other.per_unit_;
    overflow_ = other.overflow_;
    values_.copy_from(threads, other.values_);
  }

 private:
  using Unsigned = std::make_unsigned_t<Integer>;

  /// Whether a number of units rounds to an integer of this size. The limit is a power of two, so
  /// what is below it in the scalar type rounds to an integer below it.
  static bool fits(Scalar units) {
    constexpr Scalar limit = -static_cast<Scalar>(std::numeric_limits<Integer>::min());
    return (units >= -limit) & (units < limit);  // false for NaN; & because it has no branch
  }
  static Unsigned rounded(Scalar units) {
    return static_cast<Unsigned>(static_cast<Integer>(std::rint(units)));
  }
  /// Sums of unsigned numbers wrap, so that nothing is undefined.
  template <Sign sign>
  static Unsigned sum(Unsigned before, Unsigned units) {
    return sign == Sign::plus ? before + units : before - units;
  }
  /// 1 if `sum` has wrapped, else 0: the sign of a signed sum is wrong if it differs from that of
  /// both summands.
  template <Sign sign>
  static Unsigned wrapped(Unsigned before, Unsigned units, Unsigned after) {
    return ((before ^ after) & ((sign == Sign::plus ? units : ~units) ^ after)) >>
           std::numeric_limits<Integer>::digits;
  }

  template <Sign sign>
  void update(Index row, Index column, Index count, const Scalar* f) {
    if (!add_run<sign>(count, f, per_unit_, detail::run_of_row(values_, row, column, count)))
        [[unlikely]] {
      record<sign>(row, column, count, f);
    }
  }

  /// y[j] +-= f[j] in units; false if any left the range. A loop without branches, which compilers
  /// turn into vector code: clang 14 only while it is a function of its own.
  template <Sign sign>
  REFORMER_COMPILED_ONCE static bool add_run(Index count, const Scalar* f, Scalar per_unit,
                                             Integer* y) {
    Unsigned wrong = 0;
    for (Index j = 0; j < count; ++j) {
      const Scalar scaled = f[j] * per_unit;  // exact, by a power of two
      const bool good = fits(scaled);
      const Unsigned units = rounded(good ? scaled : Scalar(0));
      const auto before = static_cast<Unsigned>(y[j]);
      const Unsigned after = sum<sign>(before, units);
      wrong |= wrapped<sign>(before, units, after) | (good ? Unsigned(0) : Unsigned(1));
      y[j] = static_cast<Integer>(after);
    }
    return wrong == 0;
  }

  /// Finds the first element of a run that has just left the range.
  template <Sign sign>
  void record(Index row, Index column, Index count, const Scalar* f) {
    constexpr Sign back = sign == Sign::plus ? Sign::minus : Sign::plus;
    static std::mutex mutex;  // runs of other rows may be recorded on other threads
    const std::lock_guard lock(mutex);
    for (Index j = 0; j < count; ++j) {
      const bool is_before =
          !overflow_ || std::pair(row, column + j) < std::pair(overflow_->row, overflow_->column);
      if (!is_before) return;
      const Scalar scaled = f[j] * per_unit_;
      const Unsigned units = rounded(fits(scaled) ? scaled : Scalar(0));
      const auto after = static_cast<Unsigned>(values_(row, column + j));
      const Unsigned before = sum<back>(after, units);
      if (fits(scaled) && wrapped<sign>(before, units, after) == 0) continue;
      const auto unit = static_cast<double>(unit_);
      const auto added = static_cast<double>(f[j]);
      overflow_ = {row, column + j, static_cast<double>(static_cast<Integer>(before)) * unit,
                   sign == Sign::plus ? added : -added,
                   -static_cast<double>(std::numeric_limits<Integer>::min()) * unit};
      return;
    }
  }

  Scalar unit_ = 0, per_unit_ = 0;
  detail::HalfValues<Integer> values_;
  std::optional<ResidualOverflow> overflow_;
};

/// A half whose kind is chosen at run time: code over it is compiled once for both. The choice
/// costs one branch for each run of elements.
template <typename Scalar_>
class DynamicHalf {
 public:
  using Scalar = Scalar_;
  using Float = FloatingHalf<Scalar>;
  using Fixed = FixedHalf<Scalar>;

  DynamicHalf() = default;
  /// @throw std::invalid_argument for a number of fraction bits that is not possible
  explicit DynamicHalf(const ResidualConfig& config) : DynamicHalf(0, 0, config) {}
  /// Zeros.
  /// @throw std::invalid_argument as above, and for a negative size
  DynamicHalf(Index rows, Index columns, const ResidualConfig& config = {}) {
    if (const auto* fixed = std::get_if<FixedResidual>(&config)) {
      half_ = Fixed(rows, columns, bits_of(*fixed));
    } else {
      half_ = Float(rows, columns);
    }
  }
  /// In scratch, which must outlive it; elements are undefined.
  /// @throw std::invalid_argument as above
  DynamicHalf(Scratch& memory, Index rows, Index columns, const ResidualConfig& config = {}) {
    if (const auto* fixed = std::get_if<FixedResidual>(&config)) {
      half_ = Fixed(memory, rows, columns, bits_of(*fixed));
    } else {
      half_ = Float(memory, rows, columns);
    }
  }

  Index rows() const {
    return std::visit([](const auto& half) { return half.rows(); }, half_);
  }
  Index columns() const {
    return std::visit([](const auto& half) { return half.columns(); }, half_);
  }
  bool is_exact() const { return std::holds_alternative<Fixed>(half_); }
  std::optional<ResidualOverflow> overflow() const {
    return std::visit([](const auto& half) { return overflow_of(half); }, half_);
  }

  void read(Index row, Index column, Index count, Scalar* out) const {
    std::visit([&](const auto& half) { half.read(row, column, count, out); }, half_);
  }
  void add(Index row, Index column, Index count, const Scalar* f) {
    std::visit([&](auto& half) { half.add(row, column, count, f); }, half_);
  }
  void subtract(Index row, Index column, Index count, const Scalar* f) {
    std::visit([&](auto& half) { half.subtract(row, column, count, f); }, half_);
  }
  void write(Index row, Index column, Index count, const Scalar* x) {
    std::visit([&](auto& half) { half.write(row, column, count, x); }, half_);
  }
  /// `*this = other` by several threads.
  void copy_from(int threads, const DynamicHalf& other) {
    if (half_.index() != other.half_.index()) {
      half_ = other.half_;
      return;
    }
    std::visit(
        [&](auto& half) {
          half.copy_from(threads, std::get<std::remove_cvref_t<decltype(half)>>(other.half_));
        },
        half_);
  }

 private:
  static int bits_of(const FixedResidual& fixed) {
    return fixed.fraction_bits == 0 ? Fixed::default_fraction_bits : fixed.fraction_bits;
  }

  std::variant<Float, Fixed> half_;
};

}  // namespace reformer::inline REFORMER_ABI
