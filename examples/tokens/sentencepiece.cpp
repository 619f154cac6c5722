// SPDX-License-Identifier: MIT
#include "sentencepiece.hpp"

#include <fmt/format.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "reformer/io/checksum.hpp"
#include "reformer/io/json.hpp"
#include "reformer/io/mapped_file.hpp"

namespace tokens {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view space_mark = "\xe2\x96\x81";  // U+2581

// ---- what the library does not tell: fields of the model, a message of protocol buffers

struct Field {
  std::uint64_t number = 0;
  std::uint64_t value = 0;   ///< of a varint
  std::string_view content;  ///< of what has a length
};

/// Takes a varint off the front.
std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7fU} << shift;
    if (byte < 0x80) {
      break;
    }
  }
  return value;
}

/// Takes a field off the front of a message that the library has accepted.
Field take_field(std::string_view& message) {
  const std::uint64_t tag = take_varint(message);
  Field field;
  field.number = tag >> 3;
  std::size_t size = 0;
  switch (tag & 7) {
    case 0:
      field.value = take_varint(message);
      return field;
    case 1:
      size = 8;
      break;
    case 2:
      size = static_cast<std::size_t>(take_varint(message));
      break;
    case 5:
      size = 4;
      break;
    default:
      size = message.size();
  }
  field.content = message.substr(0, size);
  message.remove_prefix(field.content.size());
  return field;
}

/// What a model does to text before it looks for pieces, and its type.
struct Properties {
  explicit Properties(std::string_view model) {
    constexpr std::uint64_t trainer_spec = 2, normalizer_spec = 3;
    while (!model.empty()) {
      const Field field = take_field(model);
      std::string_view spec = field.content;
      while (field.number == trainer_spec && !spec.empty()) {
        const Field option = take_field(spec);
        if (option.number == 3) {  // model_type
          type = option.value == 2   ? "BPE"
                 : option.value == 3 ? "words"
                 : option.value == 4 ? "characters"
                                     : "unigram";
        }
      }
      while (field.number == normalizer_spec && !spec.empty()) {
        const Field option = take_field(spec);
        switch (option.number) {
          case 1:
            normalization = option.content;
            break;
          case 2:
            normalizes = !option.content.empty();
            break;
          case 3:
            adds_space = option.value != 0;
            break;
          case 4:
            removes_spaces = option.value != 0;
            break;
          case 5:
            marks_spaces = option.value != 0;
            break;
          default:
            break;
        }
      }
    }
  }
  std::string type = "unigram";
  std::string normalization;
  bool normalizes = false;
  bool adds_space = true, removes_spaces = true, marks_spaces = true;
};

class Sentencepiece : public Tokenizer {
 public:
  explicit Sentencepiece(const fs::path& path) : path_(path) {
    const reformer::MappedFile file(path);
    const auto bytes = file.bytes();
    const std::string_view model(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const auto status = processor_.LoadFromSerializedProto(model);
    if (model.empty() || !status.ok()) {
      throw std::runtime_error(fmt::format("'{}' is no model of sentencepiece", path.string()));
    }
    checksum_ = reformer::crc32(model);
    properties_ = Properties(model);
    texts_.resize(static_cast<std::size_t>(processor_.GetPieceSize()));
    bytes_.fill(-1);
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      texts_[static_cast<std::size_t>(id)] = text_of(id);
      if (processor_.IsByte(id)) {
        const unsigned byte = static_cast<unsigned char>(text_of(id).front());
        bytes_[byte] = id;
      }
    }
    const int line_end = processor_.PieceToId("\n");
    line_end_ = processor_.IsUnknown(line_end) ? bytes_['\n'] : line_end;
    has_all_bytes_ = std::find(bytes_.begin(), bytes_.end(), -1) == bytes_.end();
    is_exact_ = has_all_bytes_ && !properties_.normalizes && !properties_.adds_space &&
                !properties_.removes_spaces && properties_.marks_spaces;
  }

  std::int32_t vocabulary() const override { return processor_.GetPieceSize(); }

  std::optional<std::int32_t> end_of_document() const override {
    return processor_.eos_id() < 0 ? std::nullopt : std::optional(processor_.eos_id());
  }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> tokens;
    std::vector<int> pieces;
    while (true) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      encode_line(text.substr(0, end), tokens, pieces);
      if (end == text.size()) {
        return tokens;
      }
      if (line_end_ >= 0) {
        tokens.push_back(line_end_);
      }
      text.remove_prefix(end + 1);
    }
  }

  std::string decode(std::span<const std::int32_t> tokens) const override {
    std::string text;
    std::vector<int> line;
    const auto end_line = [&] {
      if (!line.empty()) {
        text += processor_.DecodeIds(line);
        line.clear();
      }
    };
    for (const std::int32_t token : tokens) {
      if (token < 0 || token >= vocabulary()) {
        continue;
      }
      if (is_exact_ || token == line_end_) {
        end_line();
        text += texts_[static_cast<std::size_t>(token)];
      } else {
        line.push_back(token);
      }
    }
    end_line();
    return text;
  }

  std::string bytes_of(std::int32_t token) const override {
    return token >= 0 && token < vocabulary() ? texts_[static_cast<std::size_t>(token)]
                                              : std::string();
  }

  std::size_t safe_split(std::string_view text) const override {
    return text.rfind('\n') + 1;  // npos + 1 is 0
  }

  std::string what_is_lost() const override {
    if (is_exact_) {
      return {};
    }
    std::vector<std::string> losses;
    if (properties_.normalizes) {
      losses.push_back(fmt::format("characters are normalised ({})", properties_.normalization));
    }
    if (properties_.removes_spaces) {
      losses.emplace_back("spaces at the ends of lines and after spaces are left out");
    }
    if (line_end_ < 0) {
      losses.emplace_back("so are ends of lines");
    }
    losses.emplace_back(has_all_bytes_ ? "bytes that are no UTF-8 become U+FFFD"
                                       : "characters without a piece become \"unknown\"");
    return fmt::format("'{}' does not give back every text: {}", path_.string(),
                       fmt::join(losses, "; "));
  }

  std::vector<fs::path> files() const override { return {path_}; }
  std::string description() const override {
    return fmt::format("sentencepiece ({}), {} tokens", properties_.type, vocabulary());
  }
  std::uint32_t checksum() const override { return checksum_; }

 private:
  std::string text_of(int id) const {
    std::string piece = processor_.IdToPiece(id);
    if (processor_.IsControl(id)) {
      return {};
    }
    if (processor_.IsByte(id)) {  // <0x41>
      return {static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16))};
    }
    if (processor_.IsUnknown(id)) {
      return processor_.DecodeIds(std::vector<int>{id});
    }
    for (std::size_t i; (i = piece.find(space_mark)) != std::string::npos;) {
      piece.replace(i, space_mark.size(), " ");
    }
    return piece;
  }

  void encode_line(std::string_view line, std::vector<std::int32_t>& tokens,
                   std::vector<int>& pieces) const {
    const auto encode_text = [&](std::string_view text) {
      if (text.empty()) {
        return;
      }
      const auto status = processor_.Encode(text, &pieces);
      if (!status.ok()) {
        throw std::runtime_error(
            fmt::format("'{}' cannot encode a text: {}", path_.string(), status.ToString()));
      }
      tokens.insert(tokens.end(), pieces.begin(), pieces.end());
    };
    if (!is_exact_) {
      return encode_text(line);
    }
    const auto encode_bytes = [&](std::string_view bytes) {
      for (const char byte : bytes) {
        tokens.push_back(bytes_[static_cast<unsigned char>(byte)]);
      }
    };
    while (true) {
      const std::size_t valid = reformer::first_non_utf8(line);
      std::string_view text = line.substr(0, valid);
      for (std::size_t i; (i = text.find(space_mark)) != std::string_view::npos;) {
        encode_text(text.substr(0, i));
        encode_bytes(space_mark);
        text.remove_prefix(i + space_mark.size());
      }
      encode_text(text);
      if (valid == line.size()) {
        return;
      }
      encode_bytes(line.substr(valid, 1));
      line.remove_prefix(valid + 1);
    }
  }

  sentencepiece::SentencePieceProcessor processor_;
  fs::path path_;
  Properties properties_{""};
  std::vector<std::string> texts_;
  std::array<std::int32_t, 256> bytes_;  ///< the token of each byte, or -1
  std::int32_t line_end_ = -1;
  bool has_all_bytes_ = false;
  bool is_exact_ = false;
  std::uint32_t checksum_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const fs::path& path) {
  return std::make_unique<Sentencepiece>(path);
}

}  // namespace tokens
