// SPDX-License-Identifier: MIT
/// @file
/// The bytes to learn from: a user's documents, enwik8 from the data folder, or a generated text,
/// and their split into training, validation and test part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace enwik8 {

/// Size of enwik8, which is how it is recognised; fetch.sh checks its MD5.
inline constexpr std::size_t enwik8_size = 100'000'000;

/// Bytes of a text that are held in memory; what is larger is read from a token file.
inline constexpr std::size_t most_in_memory = 1'000'000'000;

/// Three parts of a corpus, in the order in which they stand in it.
struct Split {
  std::span<const std::uint8_t> train;       ///< the rest: 90 %
  std::span<const std::uint8_t> validation;  ///< the 5 % before the test part, rounded down
  std::span<const std::uint8_t> test;        ///< the last 5 %, rounded down
};

struct Corpus {
  std::vector<std::uint8_t> bytes;
  std::vector<std::int64_t> document_ends;  ///< the place behind each document
  std::string source;      ///< where the bytes come from, for people: a path or a description
  bool generated = false;  ///< made up by `generate_corpus`
  std::string left_out;    ///< a line on files that were, or nothing

  /// The standard split of enwik8 (90, 5 and 5 million bytes), and 90, 5 and 5 % of anything else.
  Split split() const;

  /// Whether this is enwik8, judged by size.
  bool is_enwik8() const { return !generated && bytes.size() == enwik8_size; }

  /// CRC-32 of all bytes; with the size it tells a resumed run that the data is the same.
  std::uint32_t checksum() const;

  /// @throw std::runtime_error unless each part has at least `minimum_part` bytes; `purpose` ends
  /// the sentence "... needs at least 513 bytes", such as "a window of --length 512"
  void require_parts(std::size_t minimum_part, const std::string& purpose) const;
};

/// The places in `--data`: a file, a folder, "-" for standard input, or several with commas between
/// them.
std::vector<std::string> places_of(const std::string& data);

/// Reads all documents (data/documents.hpp) of some places, one behind the other.
/// @param data  see `places_of`
/// @param most  bytes in all
/// @throw std::runtime_error as `data::Documents`, and when they have more bytes than `most` or
///   than fit into memory
Corpus load_corpus(const std::string& data, std::size_t most = most_in_memory);

/// How a text that is too large for memory becomes a token file, which need not be in it.
/// @param options  such as "--tokenizer PLACE", with a space behind
std::string tokenise_command(const std::string& data, const std::string& options = "");

/// Folders in which enwik8 is looked for: `examples/enwik8/data` and `data` of the current folder,
/// `data` beside the program, and `examples/enwik8/data` of each folder above the program, so that
/// a program in a build folder finds the data of its source tree.
std::vector<std::filesystem::path> data_folders(const std::filesystem::path& current,
                                                const std::filesystem::path& program);

/// The path of the running program, empty where the system does not tell.
std::filesystem::path program_path();

/// First of `enwik8`, `enwik8.zip` and `enwik8.gz` that exists in the first folder that has one.
std::optional<std::filesystem::path> find_enwik8(const std::vector<std::filesystem::path>& folders);

/// What the trainer learns from: `data` if given, else enwik8 from the data folder, else the
/// generated corpus.
/// @throw std::runtime_error as `load_corpus`, and when the enwik8 found is not of its proper size
Corpus choose_corpus(const std::string& data, const std::vector<std::filesystem::path>& folders);

}  // namespace enwik8
