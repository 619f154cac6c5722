// SPDX-License-Identifier: MIT
#include "corpus.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <system_error>

#include "data/documents.hpp"
#include "generated_corpus.hpp"
#include "reformer/io/checksum.hpp"
#include "training/option_table.hpp"
#include "training/words.hpp"

namespace enwik8 {

namespace fs = std::filesystem;

std::vector<std::string> places_of(const std::string& data) {
  std::error_code ignored;
  return data == "-" || fs::exists(fs::symlink_status(data, ignored)) ? std::vector{data}
                                                                      : training::split_list(data);
}

Split Corpus::split() const {
  const std::span<const std::uint8_t> all(bytes);
  // Rounding down the two small parts gives enwik8 its 90, 5 and 5 million, too.
  const std::size_t part = all.size() / 20;
  const std::size_t train = all.size() - 2 * part;
  return {all.first(train), all.subspan(train, part), all.subspan(train + part)};
}

std::uint32_t Corpus::checksum() const {
  return reformer::crc32(std::as_bytes(std::span(bytes)));
}

void Corpus::require_parts(std::size_t minimum_part, const std::string& purpose) const {
  const std::size_t part = split().test.size();
  if (part < minimum_part) {
    throw std::runtime_error(
        fmt::format("data '{}' is too short: it has {} bytes, its validation and test parts (5 % "
                    "each) {}, but {} needs at least {} in each part, so {} in all",
                    source, bytes.size(), part, purpose, minimum_part, 20 * minimum_part));
  }
}

Corpus load_corpus(const std::string& data, std::size_t most) {
  Corpus corpus;
  try {
    data::Documents documents(places_of(data));
    corpus.bytes.reserve(static_cast<std::size_t>(
        std::min<std::uint64_t>(documents.total_size().value_or(0), most)));
    while (documents.next()) {
      corpus.source = documents.name();
      for (auto block = documents.block(); !block.empty(); block = documents.block()) {
        if (block.size() > most - corpus.bytes.size()) {
          data::fail(data::described(data),
                     fmt::format("has more than the {} bytes that are held in memory; make it a "
                                 "file that is read piece by piece, and give that: {}",
                                 training::grouped(static_cast<std::int64_t>(most)),
                                 tokenise_command(data)));
        }
        corpus.bytes.insert(corpus.bytes.end(), block.begin(), block.end());
      }
      corpus.document_ends.push_back(std::ssize(corpus.bytes));
    }
    if (documents.count() > 1) {
      corpus.source = fmt::format("{} ({} documents)", data, documents.count());
    }
    corpus.left_out = documents.left_out();
  } catch (const std::bad_alloc&) {
    data::fail(data::described(data), "does not fit into memory");
  } catch (const std::length_error&) {
    data::fail(data::described(data), "does not fit into memory");
  }
  return corpus;
}

std::string tokenise_command(const std::string& data, const std::string& options) {
  std::string command = fmt::format("tokenise {}--out corpus.bin", options);
  for (const std::string& place : places_of(data)) {
    command += " " + training::shell_word(place);
  }
  return command;
}

std::vector<fs::path> data_folders(const fs::path& current, const fs::path& program) {
  const fs::path in_tree = fs::path("examples") / "enwik8" / "data";
  std::vector<fs::path> folders{current / in_tree, current / "data"};
  if (!program.empty()) {
    fs::path folder = program.parent_path();
    folders.push_back(folder / "data");
    while (!folder.empty()) {
      folders.push_back(folder / in_tree);
      if (folder == folder.parent_path()) {
        break;
      }
      folder = folder.parent_path();
    }
  }
  return folders;
}

fs::path program_path() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  return error ? fs::path() : path;
}

std::optional<fs::path> find_enwik8(const std::vector<fs::path>& folders) {
  for (const fs::path& folder : folders) {
    for (const char* name : {"enwik8", "enwik8.zip", "enwik8.gz"}) {
      std::error_code ignored;
      if (fs::is_regular_file(folder / name, ignored)) {
        return folder / name;
      }
    }
  }
  return std::nullopt;
}

Corpus choose_corpus(const std::string& data, const std::vector<fs::path>& folders) {
  if (!data.empty()) {
    return load_corpus(data);
  }
  if (const std::optional<fs::path> found = find_enwik8(folders)) {
    Corpus corpus = load_corpus(found->string());
    if (!corpus.is_enwik8()) {
      data::fail(data::described(found->string()),
                 fmt::format("has {} bytes and enwik8 has {}: fetch it again with fetch.sh, or "
                             "name the file with --data to use it as it is",
                             corpus.bytes.size(), enwik8_size));
    }
    return corpus;
  }
  Corpus corpus;
  corpus.bytes = generate_corpus();
  corpus.document_ends = {std::ssize(corpus.bytes)};
  corpus.source = fmt::format("generated corpus (seed {})", generated_corpus_seed);
  corpus.generated = true;
  return corpus;
}

}  // namespace enwik8
