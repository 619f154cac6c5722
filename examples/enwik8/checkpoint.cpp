// SPDX-License-Identifier: MIT
#include "checkpoint.hpp"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

#include "file_kind.hpp"
#include "reformer/io/atomic_file.hpp"

namespace enwik8 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little,
              "checkpoints are little-endian and written without swapping bytes");
static_assert(std::numeric_limits<float>::is_iec559 && sizeof(float) == 4);

constexpr std::string_view magic = "RFMRCKPT";
constexpr std::uint32_t format_version = 1;
constexpr std::uint64_t prefix_bytes = 24;
constexpr std::uint64_t payload_alignment = 64;
/// Far above any real header; keeps a damaged length from asking for all memory.
constexpr std::uint64_t header_limit = std::uint64_t{1} << 28;

/// CRC-32, continued from that of the bytes before.
std::uint32_t crc_of(const void* bytes, std::uint64_t size, std::uint32_t crc = 0) {
  if (size == 0) {
    return crc;  // an empty tensor may have no address, and for zlib that means "start anew"
  }
  return static_cast<std::uint32_t>(
      crc32_z(crc, static_cast<const Bytef*>(bytes), static_cast<z_size_t>(size)));
}

template <typename T>
void append_number(std::string& to, T number) {
  std::array<char, sizeof(T)> bytes;
  std::memcpy(bytes.data(), &number, sizeof(T));
  to.append(bytes.data(), bytes.size());
}

template <typename T>
T number_at(std::string_view bytes, std::size_t offset) {
  T number;
  std::memcpy(&number, bytes.data() + offset, sizeof(T));
  return number;
}

/// Bytes of a tensor; false when the shape is negative or too large to be true.
bool tensor_bytes(std::int64_t rows, std::int64_t cols, std::uint64_t& bytes) {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max() / 8;
  if (rows < 0 || cols < 0 || (cols > 0 && rows > most / cols)) {
    return false;
  }
  bytes = static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(cols) * sizeof(float);
  return true;
}

std::uint64_t checked_bytes(const NamedTensor& tensor) {
  std::uint64_t bytes = 0;
  if (!tensor_bytes(tensor.rows, tensor.cols, bytes)) {
    throw std::invalid_argument(fmt::format("checkpoint: tensor '{}' has shape [{}, {}]",
                                            tensor.name, tensor.rows, tensor.cols));
  }
  return bytes;
}

/// "a, b, c and 4 more"
std::string join_some(const std::vector<std::string>& parts, std::string_view separator) {
  constexpr std::size_t shown = 5;
  std::string text;
  for (std::size_t i = 0; i < std::min(shown, parts.size()); ++i) {
    text += (i == 0 ? "" : std::string(separator)) + parts[i];
  }
  if (parts.size() > shown) {
    text += fmt::format(" and {} more", parts.size() - shown);
  }
  return text;
}

}  // namespace

void save_checkpoint(const fs::path& path, const json& state,
                     const std::vector<NamedTensor>& tensors) {
  std::set<std::string_view> names;
  json entries = json::array();
  std::uint64_t payload_bytes = 0;
  std::uint32_t payload_crc = 0;
  for (const NamedTensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      throw std::invalid_argument(
          fmt::format("checkpoint: two tensors have the name '{}'", tensor.name));
    }
    const std::uint64_t bytes = checked_bytes(tensor);
    entries.push_back({{"name", tensor.name},
                       {"rows", tensor.rows},
                       {"cols", tensor.cols},
                       {"offset", payload_bytes}});
    payload_bytes += bytes;
    payload_crc = crc_of(tensor.data, bytes, payload_crc);
  }

  const json header{{"state", state},
                    {"tensors", std::move(entries)},
                    {"payload_bytes", payload_bytes},
                    {"payload_crc32", payload_crc}};
  std::string text = header.dump(-1, ' ', false, json::error_handler_t::replace);
  while ((prefix_bytes + text.size()) % payload_alignment != 0) {
    text += ' ';
  }
  std::string checked;  // what the header's CRC covers
  append_number(checked, format_version);
  append_number(checked, static_cast<std::uint64_t>(text.size()));
  checked += text;
  std::string start(magic);
  append_number(start, crc_of(checked.data(), checked.size()));

  reformer::AtomicFile file(path);
  file.write(start + checked);
  for (const NamedTensor& tensor : tensors) {
    file.write(
        std::as_bytes(std::span<const float>(tensor.data, checked_bytes(tensor) / sizeof(float))));
  }
  file.commit();
}

CheckpointReader::CheckpointReader(fs::path path) : path_(std::move(path)) {
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  if (status.type() == fs::file_type::not_found) {
    fail("does not exist");
  }
  if (fs::is_directory(status)) {
    fail("is a folder");
  }
  file_.open(path_, std::ios::binary);
  const std::uintmax_t size = fs::file_size(path_, error);
  if (!file_ || error) {
    fail("cannot be read");
  }
  read_header(size);
  check_payload();
}

void CheckpointReader::fail(const std::string& reason) const {
  throw std::runtime_error(fmt::format("checkpoint '{}' {}", path_.string(), reason));
}

void CheckpointReader::read_header(std::uint64_t file_size) {
  if (file_size == 0) {
    fail("is empty");
  }
  std::string prefix(static_cast<std::size_t>(std::min(file_size, prefix_bytes)), '\0');
  file_.read(prefix.data(), static_cast<std::streamsize>(prefix.size()));
  if (!file_) {
    fail("cannot be read");
  }
  const std::size_t seen = std::min(prefix.size(), magic.size());
  if (std::string_view(prefix).substr(0, seen) != magic.substr(0, seen)) {
    prefix.resize(1024);  // as much as it takes to know the kind
    file_.clear();
    file_.seekg(0);
    file_.read(prefix.data(), static_cast<std::streamsize>(prefix.size()));
    prefix.resize(static_cast<std::size_t>(file_.gcount()));
    const FileKind* kind =
        kind_of({reinterpret_cast<const std::uint8_t*>(prefix.data()), prefix.size()});
    fail(kind != nullptr ? fmt::format("is not a checkpoint but {}", kind->name)
                         : std::string("is not a checkpoint: it does not begin with RFMRCKPT"));
  }
  if (prefix.size() < prefix_bytes) {
    fail(fmt::format("is truncated: {} bytes, and already its first part has {}", file_size,
                     prefix_bytes));
  }
  const auto header_crc = number_at<std::uint32_t>(prefix, 8);
  const auto version = number_at<std::uint32_t>(prefix, 12);
  const auto header_bytes = number_at<std::uint64_t>(prefix, 16);
  if (version != format_version) {
    fail(fmt::format("has format version {}; this program reads version {}", version,
                     format_version));
  }
  if (header_bytes > header_limit) {
    fail(fmt::format("is corrupt: its header claims {} bytes", header_bytes));
  }
  if (header_bytes > file_size - prefix_bytes) {
    fail(fmt::format("is truncated: {} bytes, and its header ends at {}", file_size,
                     prefix_bytes + header_bytes));
  }
  std::string text(static_cast<std::size_t>(header_bytes), '\0');
  file_.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!file_) {
    fail("cannot be read");
  }
  const std::uint32_t crc =
      crc_of(text.data(), text.size(), crc_of(prefix.data() + 12, prefix_bytes - 12));
  if (crc != header_crc) {
    fail("is corrupt: the checksum of its header does not fit");
  }
  payload_begin_ = prefix_bytes + header_bytes;

  // A right checksum means that the header is what some program wrote, not that it makes sense.
  try {
    json header = json::parse(text);
    payload_bytes_ = header.at("payload_bytes").get<std::uint64_t>();
    payload_crc_ = header.at("payload_crc32").get<std::uint32_t>();
    std::uint64_t offset = 0;
    std::set<std::string> names;
    for (const json& entry : header.at("tensors")) {
      StoredTensor tensor{entry.at("name").get<std::string>(), entry.at("rows").get<std::int64_t>(),
                          entry.at("cols").get<std::int64_t>(),
                          entry.at("offset").get<std::uint64_t>()};
      std::uint64_t bytes = 0;
      if (!tensor_bytes(tensor.rows, tensor.cols, bytes) || tensor.offset != offset ||
          bytes > payload_bytes_ - offset || !names.insert(tensor.name).second) {
        fail(fmt::format("is corrupt: tensor '{}' [{}, {}] at {} does not fit among the others",
                         tensor.name, tensor.rows, tensor.cols, tensor.offset));
      }
      offset += bytes;
      tensors_.push_back(std::move(tensor));
    }
    if (offset != payload_bytes_) {
      fail(fmt::format("is corrupt: its tensors have {} bytes and its payload {}", offset,
                       payload_bytes_));
    }
    state_ = std::move(header.at("state"));
  } catch (const json::exception&) {
    fail("is corrupt: its header is not readable");
  }
  const std::uint64_t present = file_size - payload_begin_;
  if (present < payload_bytes_) {
    fail(fmt::format("is truncated: {} bytes instead of {}", file_size,
                     payload_begin_ + payload_bytes_));
  }
  if (present > payload_bytes_) {
    fail(fmt::format("is corrupt: {} bytes instead of {}", file_size,
                     payload_begin_ + payload_bytes_));
  }
}

void CheckpointReader::check_payload() {
  std::vector<char> buffer(1 << 20);
  std::uint32_t crc = 0;
  std::uint64_t left = payload_bytes_;
  while (left > 0) {
    const std::uint64_t now = std::min<std::uint64_t>(left, buffer.size());
    file_.read(buffer.data(), static_cast<std::streamsize>(now));
    if (!file_) {
      fail("cannot be read");
    }
    crc = crc_of(buffer.data(), now, crc);
    left -= now;
  }
  if (crc != payload_crc_) {
    fail("is corrupt: the checksum of its tensors does not fit");
  }
}

void CheckpointReader::read_into(const std::vector<NamedTensor>& destination,
                                 const std::string& prefix) {
  std::map<std::string_view, const StoredTensor*> stored;
  for (const StoredTensor& tensor : tensors_) {
    if (tensor.name.starts_with(prefix)) {
      stored[tensor.name] = &tensor;
    }
  }
  std::vector<std::string> differences;
  std::set<std::string_view> wanted;
  for (const NamedTensor& tensor : destination) {
    wanted.insert(tensor.name);
    const auto found = stored.find(tensor.name);
    if (found == stored.end()) {
      differences.push_back(fmt::format("'{}' is missing in the file", tensor.name));
    } else if (found->second->rows != tensor.rows || found->second->cols != tensor.cols) {
      differences.push_back(fmt::format("'{}' is [{}, {}] in the file and [{}, {}] in the model",
                                        tensor.name, found->second->rows, found->second->cols,
                                        tensor.rows, tensor.cols));
    }
  }
  for (const auto& item : stored) {
    if (!wanted.contains(item.first)) {
      differences.push_back(fmt::format("'{}' is unknown to the model", item.first));
    }
  }
  if (!differences.empty()) {
    fail("does not fit: " + join_some(differences, ", "));
  }

  for (const NamedTensor& tensor : destination) {
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(payload_begin_ + stored[tensor.name]->offset));
    file_.read(reinterpret_cast<char*>(tensor.data),
               static_cast<std::streamsize>(checked_bytes(tensor)));
    if (!file_) {
      fail("cannot be read");
    }
  }
}

std::string describe_differences(const json& there, const json& here) {
  const auto text = [](const json& object, const std::string& key) {
    const auto found = object.find(key);
    return found == object.end() ? std::string("not set")
           : found->is_string()  ? found->get<std::string>()
                                 : found->dump();
  };
  std::set<std::string> keys;
  for (const json* object : {&there, &here}) {
    for (const auto& item : object->items()) {
      keys.insert(item.key());
    }
  }
  std::vector<std::string> differences;
  for (const std::string& key : keys) {
    if (there.value(key, json()) != here.value(key, json())) {
      differences.push_back(
          fmt::format("{} is {} there and {} here", key, text(there, key), text(here, key)));
    }
  }
  return join_some(differences, ", ");
}

}  // namespace enwik8
