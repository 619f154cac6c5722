// SPDX-License-Identifier: MIT
/// @file
/// A made-up text for machines without enwik8: an encyclopedia in MediaWiki's XML about people,
/// places and things that do not exist.
///
/// What it shares with the real text, because a model is to find it there:
///  - markup at every scale: XML around pages, templates, headings, lists, tables, [[links]],
///    ''italics'' and references inside;
///  - words built from syllables, their frequencies falling as one over the rank (Zipf), in
///    sentences with a small grammar;
///  - facts that recur: a page has its own vocabulary, its own handful of names and one motto, and
///    the dates and places of its infobox come again thousands of bytes later, so that a long
///    context pays.
///
/// Only integer arithmetic and an own generator are used, so the same seed gives the same bytes
/// with every compiler and on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace enwik8 {

inline constexpr std::uint64_t generated_corpus_seed = 2001;
inline constexpr std::size_t generated_corpus_size = 4'000'000;

/// Exactly `size` bytes; a smaller size with the same seed is a prefix of a larger one.
std::vector<std::uint8_t> generate_corpus(std::uint64_t seed = generated_corpus_seed,
                                          std::size_t size = generated_corpus_size);

}  // namespace enwik8
