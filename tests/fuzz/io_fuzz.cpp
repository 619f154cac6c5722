// SPDX-License-Identifier: MIT
/// @file
/// Any bytes, given to the readers of files: they must read or refuse with `std::runtime_error`,
/// and nothing else. libFuzzer's entry; fuzz_main.cpp calls it where there is no libFuzzer.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "reformer/io/huggingface_config.hpp"
#include "reformer/io/model_file.hpp"
#include "reformer/io/safetensors.hpp"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// One line, so that a name in a file cannot forge another.
void check_message(const std::runtime_error& error) {
  const std::string_view text = error.what();
  require(!text.empty() && text.find('\n') == std::string_view::npos && text.size() < 2000);
}

void read_safetensors(std::span<const std::byte> file) {
  try {
    const reformer::SafetensorsHeader header = reformer::parse_safetensors(file);
    // What was accepted fills the data without gaps, and every byte of it can be read.
    std::uint64_t end = 0;
    unsigned sum = 0;
    for (const reformer::StoredTensor& tensor : header.tensors) {
      require(tensor.begin == end && tensor.end >= end);
      end = tensor.end;
      const auto bytes = file.subspan(static_cast<std::size_t>(header.data_begin + tensor.begin),
                                      static_cast<std::size_t>(tensor.end - tensor.begin));
      reformer::detail::with_float_type(tensor.dtype, [&](auto type) {
        using T = decltype(type);
        require(bytes.size() == static_cast<std::size_t>(tensor.size()) * sizeof(T));
        for (reformer::Index i = 0; i < tensor.size(); ++i) {
          sum += static_cast<float>(reformer::detail::unaligned<T>(bytes.data(), i)) > 0 ? 1 : 0;
        }
      });
    }
    require(header.data_begin + end == file.size() && sum <= file.size());
  } catch (const std::runtime_error& error) {
    check_message(error);
  }
}

void read_config(std::string_view text) {
  try {
    const reformer::HuggingFaceConfig config = reformer::parse_huggingface_config(text);
    // What was accepted can be written, and says the same when it is read again.
    const std::string written = reformer::huggingface_config_text(config, "float32");
    const reformer::HuggingFaceConfig again = reformer::parse_huggingface_config(written);
    require(reformer::detail::function_fields("io_fuzz", config) ==
            reformer::detail::function_fields("io_fuzz", again));
    // For weights of the type it names, it comes out as it was spelled.
    const char* key = config.fields.contains("dtype") ? "dtype" : "torch_dtype";
    const auto dtype = config.fields.value(key, reformer::Json("float32"));
    require(!dtype.is_string() ||
            reformer::huggingface_config_text(config, dtype.get<std::string>()) == text);
    require(reformer::huggingface_padded_length(config.model, 1000) >= 1000);
  } catch (const std::runtime_error& error) {
    check_message(error);
  }
}

void read_model_config(std::string_view text) {
  try {
    const reformer::ModelConfig config = reformer::parse_model_config(text);
    // What was accepted says the same when it is written and read again.
    const std::string written = reformer::model_config_text(config);
    require(reformer::model_config_text(reformer::parse_model_config(written)) == written);
  } catch (const std::runtime_error& error) {
    check_message(error);
  }
}

/// The metadata of a model, as a JSON object of text.
void read_model_header(std::string_view text) {
  try {
    const auto object = reformer::parse_json_object<nlohmann::json>("metadata", text, 1 << 20);
    std::map<std::string, std::string> metadata;
    for (const auto& [key, value] : object.items()) {
      metadata[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
    const auto header = reformer::detail::parse_model_header(metadata);
    require(header.step >= 0 && (!header.optimizer || header.optimizer->steps >= 0));
    require(header.metadata.size() < metadata.size());
  } catch (const std::runtime_error& error) {
    check_message(error);
  }
}

void read_index(std::string_view text) {
  try {
    for (const auto& [tensor, file] : reformer::parse_safetensors_index(text)) {
      require(file.find('/') == std::string::npos);
    }
  } catch (const std::runtime_error& error) {
    check_message(error);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read_safetensors(bytes);
  read_config(text);
  read_model_config(text);
  read_model_header(text);
  read_index(text);
  return 0;
}
