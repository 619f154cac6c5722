// SPDX-License-Identifier: MIT
/// @file
/// Vectors of the processor's width, by Eigen's packets, and row functions made of them.
///
/// Row functions treat a ragged end with a padded vector, so that an element's value never depends
/// on where in a row or at which address it stands. That is what makes a recomputed tile equal to
/// the first one, bit for bit.
#pragma once

#include <algorithm>
#include <limits>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/tensor.hpp"

namespace reformer::inline REFORMER_ABI::simd {

namespace packet = Eigen::internal;

template <typename Scalar>
using Packet = typename packet::packet_traits<Scalar>::type;

/// Elements in a vector; 1 where Eigen does not vectorise.
template <typename Scalar>
inline constexpr Index width = packet::unpacket_traits<Packet<Scalar>>::size;

template <typename Scalar>
Packet<Scalar> set(Scalar x) {
  return packet::pset1<Packet<Scalar>>(x);
}
template <typename Scalar>
Packet<Scalar> load(const Scalar* p) {
  return packet::ploadu<Packet<Scalar>>(p);
}
template <typename Scalar>
void store(Scalar* p, const Packet<Scalar>& x) {
  packet::pstoreu(p, x);
}

/// The first `count` elements at `p`, the rest filled with `fill`.
template <typename Scalar>
Packet<Scalar> load_partial(const Scalar* p, Index count, Scalar fill = Scalar(0)) {
  Scalar buffer[width<Scalar>];
  for (Index i = 0; i < width<Scalar>; ++i) buffer[i] = i < count ? p[i] : fill;
  return load(buffer);
}
template <typename Scalar>
void store_partial(Scalar* p, const Packet<Scalar>& x, Index count) {
  Scalar buffer[width<Scalar>];
  store(buffer, x);
  for (Index i = 0; i < count; ++i) p[i] = buffer[i];
}

/// e^x with e^-inf = 0 exactly: Eigen's vector exponential clamps its argument and would give
/// 1e-38.
template <typename Scalar>
Packet<Scalar> exp_or_zero(const Packet<Scalar>& x) {
  const auto lowest = set(std::numeric_limits<Scalar>::lowest());
  return packet::pselect(packet::pcmp_lt(x, lowest), set(Scalar(0)), packet::pexp(x));
}

/// y[i] = x[i]; for runs so short that a call would cost more than the copy.
template <typename Scalar>
void copy(Index n, const Scalar* x, Scalar* y) {
  constexpr Index W = width<Scalar>;
  Index i = 0;
  for (; i + W <= n; i += W) store(y + i, load(x + i));
  for (; i < n; ++i) y[i] = x[i];
}

/// How many rows ahead `prefetch` is best called in a loop over rows of one or two kilobytes.
inline constexpr Index rows_ahead = 3;

/// Asks for x[0 ... n - 1] to be in cache soon. Processors do so by themselves for memory that is
/// read in order, but not beyond the end of a page, and a page holds a row or two.
/// @tparam locality  3: into the first cache; 1: not into the first, where it could be gone again
template <int locality = 3, typename T>
void prefetch(Index n, const T* x) {
  constexpr Index line = 64 / static_cast<Index>(sizeof(T));
  for (Index i = 0; i < n; i += line) __builtin_prefetch(x + i, 0, locality);
}

/// y[i] = f(x[i]) for vectors; `f` maps packets to a packet.
template <typename Scalar, typename F>
void map(Index n, const Scalar* x, Scalar* y, const F& f) {
  constexpr Index W = width<Scalar>;
  Index i = 0;
  for (; i + W <= n; i += W) store(y + i, Packet<Scalar>(f(load(x + i))));
  if (i < n) store_partial(y + i, Packet<Scalar>(f(load_partial(x + i, n - i))), n - i);
}

/// y[i] = f(x[i], y[i]).
template <typename Scalar, typename F>
void update(Index n, const Scalar* x, Scalar* y, const F& f) {
  constexpr Index W = width<Scalar>;
  Index i = 0;
  for (; i + W <= n; i += W) store(y + i, Packet<Scalar>(f(load(x + i), load(y + i))));
  if (i < n) {
    store_partial(y + i, Packet<Scalar>(f(load_partial(x + i, n - i), load_partial(y + i, n - i))),
                  n - i);
  }
}

/// y[i] += a * x[i]
template <typename Scalar>
void add_scaled(Index n, Scalar a, const Scalar* x, Scalar* y) {
  const auto factor = set(a);
  update(n, x, y, [&](const auto& xi, const auto& yi) { return packet::pmadd(factor, xi, yi); });
}

/// z[i] = a * x[i] + b * y[i]
template <typename Scalar>
void combine(Index n, Scalar a, const Scalar* x, Scalar b, const Scalar* y, Scalar* z) {
  constexpr Index W = width<Scalar>;
  const auto of = [fa = set(a), fb = set(b)](const auto& xi, const auto& yi) {
    return packet::pmadd(fb, yi, packet::pmul(fa, xi));
  };
  Index i = 0;
  for (; i + W <= n; i += W) store(z + i, Packet<Scalar>(of(load(x + i), load(y + i))));
  if (i < n) {
    const auto rest = of(load_partial(x + i, n - i), load_partial(y + i, n - i));
    store_partial(z + i, Packet<Scalar>(rest), n - i);
  }
}

/// y[i] += x[i]
template <typename Scalar>
void add(Index n, const Scalar* x, Scalar* y) {
  update(n, x, y, [](const auto& xi, const auto& yi) { return packet::padd(yi, xi); });
}

/// y[i] -= x[i]
template <typename Scalar>
void subtract(Index n, const Scalar* x, Scalar* y) {
  update(n, x, y, [](const auto& xi, const auto& yi) { return packet::psub(yi, xi); });
}

/// Sum over i of f(i), where `f(load_at)` gets a loader that yields the vector of any array at the
/// current place.
template <typename Scalar, typename F>
Scalar sum(Index n, const F& f) {
  constexpr Index W = width<Scalar>;
  auto even = set(Scalar(0));
  auto odd = set(Scalar(0));
  Index i = 0;
  for (; i + 2 * W <= n; i += 2 * W) {
    even = packet::padd(even, f([&](const Scalar* p) { return load(p + i); }));
    odd = packet::padd(odd, f([&](const Scalar* p) { return load(p + i + W); }));
  }
  if (i + W <= n) {
    even = packet::padd(even, f([&](const Scalar* p) { return load(p + i); }));
    i += W;
  }
  Scalar total = packet::predux(packet::padd(even, odd));
  if (i < n) {
    Scalar tail[W];
    store(tail, Packet<Scalar>(f([&](const Scalar* p) { return load_partial(p + i, n - i); })));
    for (Index j = 0; j < n - i; ++j) total += tail[j];
  }
  return total;
}

template <typename Scalar>
Scalar dot(Index n, const Scalar* x, const Scalar* y) {
  return sum<Scalar>(n, [&](const auto& at) { return packet::pmul(at(x), at(y)); });
}

/// Whether the numbers are finite, and their squares too, so that products of two such rows are.
template <typename Scalar>
bool is_finite(Index n, const Scalar* x) {
  return dot(n, x, x) <= std::numeric_limits<Scalar>::max();
}

}  // namespace reformer::inline REFORMER_ABI::simd
