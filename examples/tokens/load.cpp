// SPDX-License-Identifier: MIT
#include <fmt/format.h>

#include <array>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "byte_pairs.hpp"
#include "sentencepiece.hpp"
#include "tokenizer.hpp"

namespace tokens {
namespace {

namespace fs = std::filesystem;
using Loaded = std::unique_ptr<Tokenizer>;

struct Kind {
  const char* file;
  const char* beside;  ///< a second file that must be there, or null
};
/// In the order in which a folder is looked at; the last as OpenAI's GPT-2 came.
constexpr std::array kinds{Kind{"spiece.model", nullptr}, Kind{"tokenizer.model", nullptr},
                           Kind{"tokenizer.json", nullptr}, Kind{"vocab.json", "merges.txt"},
                           Kind{"encoder.json", "vocab.bpe"}};

constexpr const char* allowed =
    "the word 'bytes', a sentencepiece model (*.model), tokenizer.json, vocab.json beside "
    "merges.txt, or a folder with one of these";

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// @param file  of this kind
Loaded load_file(const fs::path& file, const Kind& kind) {
  if (file.extension() == ".model") {
    return load_sentencepiece(file);
  }
  if (kind.beside == nullptr) {
    return load_tokenizer_json(file);
  }
  const fs::path beside = file.parent_path() / kind.beside;
  if (!is_there(beside)) {
    throw std::runtime_error(
        fmt::format("'{}' takes '{}' beside it, which is missing", file.string(), kind.beside));
  }
  return load_vocabulary_and_merges(file, beside);
}

/// The first of these that a folder holds, or else its only sentencepiece model whatever the name;
/// null for none.
struct Found {
  fs::path file;
  const Kind* kind = nullptr;
};
Found find_in(const fs::path& folder) {
  for (const Kind& kind : kinds) {
    if (is_there(folder / kind.file)) {
      return {folder / kind.file, &kind};
    }
  }
  std::error_code error;
  std::vector<fs::path> models;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".model" && entry->is_regular_file(error)) {
      models.push_back(entry->path());
    }
  }
  return models.size() == 1 ? Found{models.front(), &kinds.front()} : Found{};
}

}  // namespace

bool has_tokenizer(const fs::path& folder) {
  return find_in(folder).kind != nullptr;
}

Loaded load_tokenizer(const fs::path& place) {
  if (place == "bytes") {
    return std::make_unique<ByteTokenizer>();
  }
  const auto fail = [&](const std::string& what) {
    throw std::runtime_error(
        fmt::format("'{}' {}; allowed for tokens: {}", place.string(), what, allowed));
  };
  std::error_code error;
  const auto status = fs::status(place, error);
  if (fs::is_directory(status)) {
    const Found found = find_in(place);
    if (found.kind == nullptr) {
      fail("is a folder without a tokenizer");
    }
    return load_file(found.file, *found.kind);
  }
  if (!fs::exists(status)) {
    fail(status.type() == fs::file_type::not_found ? "is not there" : error.message());
  }
  if (place.extension() == ".model") {
    return load_sentencepiece(place);
  }
  for (const Kind& kind : kinds) {
    if (place.filename() == kind.file) {
      return load_file(place, kind);
    }
  }
  fail("has the name of no tokenizer");
  return nullptr;
}

}  // namespace tokens
