// SPDX-License-Identifier: MIT
/// @file
/// The name of the inline namespace that everything stands in, `reformer::inline REFORMER_ABI`.
///
/// It says for which vectors, and whether with OpenMP, a source is compiled. Objects that were
/// compiled otherwise have other names: they fail to link, where the linker would keep one of two
/// functions of one name, and types would have two layouts. Programs write `reformer::Model` and
/// see nothing of it.
///
/// With REFORMER_EXTERN_INSTANCES (the CMake target `reformer::instances` defines it) the common
/// instances of templates are declared `extern template`, and src/instances.cpp has them: one more
/// source of the program, with the flags of the others. With REFORMER_EXTERN_IO_INSTANCES (the
/// target `reformer::io_instances`) the same holds for the io floor and src/io_instances.cpp.
///
/// With REFORMER_COMPILED (the target `reformer::compiled`) they are in a shared library, and there
/// is one name for the program and for all of the library's variants.
#pragma once

#ifdef REFORMER_COMPILED

#ifndef REFORMER_EXTERN_INSTANCES
#define REFORMER_EXTERN_INSTANCES
#endif
#define REFORMER_ABI compiled
#define REFORMER_EXPORT __attribute__((visibility("default")))

// Eigen puts what it allocates on the boundary that its vectors want. Of what one side allocates
// and the other frees, both must think the same.
#if !defined(EIGEN_MAX_ALIGN_BYTES) || EIGEN_MAX_ALIGN_BYTES != 64
#error "reformer: with REFORMER_COMPILED, EIGEN_MAX_ALIGN_BYTES must be 64; link reformer::compiled"
#endif

#else

#define REFORMER_EXPORT

#if defined(__AVX512F__)
#define REFORMER_ABI_VECTORS avx512
#elif defined(__AVX2__)
#define REFORMER_ABI_VECTORS avx2
#elif defined(__AVX__)
#define REFORMER_ABI_VECTORS avx
#elif defined(__SSE4_1__)
#define REFORMER_ABI_VECTORS sse4
#elif defined(__SSE2__)
#define REFORMER_ABI_VECTORS sse2
#elif defined(__ARM_NEON)
#define REFORMER_ABI_VECTORS neon
#else
#define REFORMER_ABI_VECTORS plain
#endif

#ifdef __FMA__
#define REFORMER_ABI_FMA _fma
#else
#define REFORMER_ABI_FMA
#endif

#ifdef _OPENMP
#define REFORMER_ABI_THREADS _openmp
#else
#define REFORMER_ABI_THREADS
#endif

#define REFORMER_ABI_PASTE(a, b, c) a##b##c
#define REFORMER_ABI_JOIN(a, b, c) REFORMER_ABI_PASTE(a, b, c)
#define REFORMER_ABI REFORMER_ABI_JOIN(REFORMER_ABI_VECTORS, REFORMER_ABI_FMA, REFORMER_ABI_THREADS)

#endif
