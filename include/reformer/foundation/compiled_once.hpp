// SPDX-License-Identifier: MIT
/// @file
/// Functions of which a program has one copy.
#pragma once

/// Keeps compilers from making a second copy of a function, inlined or cloned for some of its
/// arguments. Two copies of the same source may differ in the last bit, because compilers contract
/// products and sums of each as they see fit; what a backward pass subtracts must be the bits that
/// the forward pass added.
#if defined(__GNUC__) && !defined(__clang__)
#define REFORMER_COMPILED_ONCE __attribute__((noipa))
#else
#define REFORMER_COMPILED_ONCE __attribute__((noinline))
#endif
