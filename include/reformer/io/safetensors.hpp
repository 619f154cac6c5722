// SPDX-License-Identifier: MIT
/// @file
/// The safetensors format: reading it without trusting it, writing it in one step.
///
///     offset   size
///          0      8  n, little-endian
///          8      n  header: a JSON object, padded with spaces, {"name": {"dtype", "shape",
///                    "data_offsets": [begin, end]}, ..., "__metadata__": {"key": "text", ...}}
///      8 + n         data: row-major little-endian tensors, offsets count from here
///
/// A reader looks at the whole header before it touches data. Accepted is only what has one
/// meaning: tensors that fill the data from its first to its last byte, each byte once. Data may
/// stand at any alignment.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/tensor.hpp"
#include "reformer/io/atomic_file.hpp"
#include "reformer/io/json.hpp"
#include "reformer/io/mapped_file.hpp"

namespace reformer::inline REFORMER_ABI {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");
static_assert(std::numeric_limits<float>::is_iec559 && std::numeric_limits<double>::is_iec559);

namespace detail {
/// "[2, 3]"
inline std::string shape_text(std::span<const Index> shape) {
  std::string text = "[";
  for (const Index n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + "]";
}

/// Elements of a tensor of this shape; nothing if a size is negative or they do not fit an `Index`.
inline std::optional<Index> element_count(std::span<const Index> shape) {
  Index product = 1;
  for (const Index n : shape) {
    if (n < 0 || __builtin_mul_overflow(product, n, &product)) return {};
  }
  return product;
}
}  // namespace detail

/// A tensor in a safetensors file.
struct StoredTensor {
  std::string name;
  std::string dtype;  ///< as in the file, "F32"
  std::vector<Index> shape;
  std::uint64_t begin = 0, end = 0;  ///< in the data

  /// Elements. @throw std::invalid_argument for a shape that no file can have
  Index size() const {
    const auto count = detail::element_count(shape);
    check(count.has_value(), "StoredTensor::size", "shape is ", detail::shape_text(shape),
          ", must have sizes from 0 and a product that fits 63 bits");
    return *count;
  }

  bool operator==(const StoredTensor&) const = default;
};

/// What stands in front of the data.
struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  ///< by their place in the file
  std::map<std::string, std::string> metadata;
  std::uint64_t data_begin = 0;  ///< in the file
};

namespace detail {

/// Bits of an element, or 0 for a dtype the format does not have.
inline std::uint64_t dtype_bits(std::string_view dtype) {
  static constexpr std::pair<std::string_view, std::uint64_t> table[] = {
      {"F32", 32},        {"F64", 64},    {"F16", 16},        {"BF16", 16},   {"I64", 64},
      {"I32", 32},        {"I16", 16},    {"I8", 8},          {"U64", 64},    {"U32", 32},
      {"U16", 16},        {"U8", 8},      {"BOOL", 8},        {"C64", 64},    {"F8_E5M2", 8},
      {"F8_E4M3", 8},     {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6},
      {"F8_E5M2FNUZ", 8}, {"F4", 4}};
  for (const auto& [name, bits] : table) {
    if (name == dtype) return bits;
  }
  return 0;
}

/// Collects the header's entries from the events of the JSON parser; no tree is built, so a header
/// cannot ask for more memory than its tensors need.
struct HeaderEvents : JsonEvents {
  enum class Place { outside, top, entry, metadata, shape, offsets };

  SafetensorsHeader header;
  Place place = Place::outside;
  StoredTensor tensor;
  std::string field;
  std::set<std::string> fields;
  std::vector<std::uint64_t> offsets;
  std::unordered_set<std::string> names;

  template <typename... Parts>
  bool fail(const Parts&... parts) {
    error = join(parts...);
    return false;
  }
  std::string entry() const {
    return place == Place::metadata ? "__metadata__" : "tensor " + in_quotes(tensor.name);
  }

  bool start_object(std::size_t) override {
    switch (place) {
      case Place::outside:
        place = Place::top;
        return true;
      case Place::top:
        place = tensor.name == "__metadata__" ? Place::metadata : Place::entry;
        fields.clear();
        return true;
      default:
        return wrong_value("an object");
    }
  }

  bool key(std::string& name) override {
    if (place == Place::top) {
      tensor = {};
      offsets.clear();
      tensor.name = name;
      return names.insert(name).second || fail("has the name ", in_quotes(name), " twice");
    }
    field = name;
    if (!fields.insert(name).second) return fail(entry(), " has ", in_quotes(name), " twice");
    return place == Place::metadata || name == "dtype" || name == "shape" ||
           name == "data_offsets" || fail(entry(), " has the unknown field ", in_quotes(name));
  }

  bool end_object() override {
    if (place == Place::entry) {
      for (const char* needed : {"dtype", "shape", "data_offsets"}) {
        if (!fields.contains(needed)) return fail(entry(), " has no ", needed);
      }
      header.tensors.push_back(std::move(tensor));
      tensor = {};
    }
    place = place == Place::top ? Place::outside : Place::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place != Place::entry || field == "dtype") return wrong_value("a list");
    place = field == "shape" ? Place::shape : Place::offsets;
    return true;
  }

  bool end_array() override {
    if (place == Place::offsets) {
      if (offsets.size() != 2) {
        return fail(entry(), " has ", offsets.size(), " data_offsets, must be two");
      }
      tensor.begin = offsets[0];
      tensor.end = offsets[1];
    }
    place = Place::entry;
    return true;
  }

  bool number_unsigned(Json::number_unsigned_t number) override {
    if (place == Place::shape) {
      if (number > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) {
        return fail(entry(), " has the dimension ", number, ", which is too large");
      }
      tensor.shape.push_back(static_cast<Index>(number));
      return true;
    }
    if (place != Place::offsets) return wrong_value("a number");
    offsets.push_back(number);
    return true;
  }
  bool number_integer(Json::number_integer_t) override { return wrong_number("a negative number"); }
  bool number_float(Json::number_float_t, const std::string&) override {
    return wrong_number("a number that is not whole or does not fit 64 bits");
  }

  bool string(std::string& text) override {
    if (place == Place::metadata) {
      header.metadata.emplace(field, std::move(text));
      return true;
    }
    if (place != Place::entry || field != "dtype") return wrong_value("text");
    tensor.dtype = text;
    return true;
  }
  bool null() override { return wrong_value("null"); }
  bool boolean(bool) override { return wrong_value("true or false"); }

  bool wrong_number(std::string_view is) {
    if (place != Place::shape && place != Place::offsets) return wrong_value(is);
    return fail(entry(), " has ", is, " in ", field);
  }
  bool wrong_value(std::string_view is) {
    if (place == Place::top) {
      return fail("has ", is, " as the entry of ", in_quotes(tensor.name), ", must be an object");
    }
    if (place == Place::metadata) {
      return fail("__metadata__ has ", is, " as ", in_quotes(field), ", must be text");
    }
    return fail(entry(), " has ", is, place == Place::entry ? " as " : " in ", field);
  }
};

/// Bytes that dtype and shape ask for.
inline std::uint64_t checked_bytes(const StoredTensor& tensor) {
  const auto fail = [&](const auto&... parts) {
    throw std::runtime_error(join("tensor ", in_quotes(tensor.name), " has ", parts...));
  };
  std::uint64_t bits = dtype_bits(tensor.dtype);
  if (bits == 0) fail("the unknown dtype ", in_quotes(tensor.dtype));
  for (const Index n : tensor.shape) {
    if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(n), &bits)) {
      fail("the shape ", shape_text(tensor.shape), ", whose size does not fit 64 bits");
    }
  }
  if (bits % 8 != 0) fail(bits, " bits, which are no whole bytes");
  return bits / 8;
}

/// Tensors must follow one another from the first byte of the data to the last.
inline void check_layout(SafetensorsHeader& header, std::uint64_t data_bytes) {
  for (const StoredTensor& tensor : header.tensors) {
    const std::uint64_t bytes = checked_bytes(tensor);
    if (tensor.begin > tensor.end || tensor.end - tensor.begin != bytes) {
      throw std::runtime_error(join("tensor ", in_quotes(tensor.name), " has the data_offsets [",
                                    tensor.begin, ", ", tensor.end, "], but ", tensor.dtype, " ",
                                    shape_text(tensor.shape), " takes ", bytes, " bytes"));
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  std::uint64_t end = 0;
  for (const StoredTensor& tensor : header.tensors) {
    if (tensor.begin != end) {
      throw std::runtime_error(join("tensor ", in_quotes(tensor.name), " begins at ", tensor.begin,
                                    tensor.begin < end ? " and overlaps the one before, which ends"
                                                       : " and leaves a hole after the one before, "
                                                         "which ends",
                                    " at ", end));
    }
    end = tensor.end;
  }
  if (end > data_bytes) {
    throw std::runtime_error(
        join("is truncated: its tensors need ", end, " bytes, and there are ", data_bytes));
  }
  if (end < data_bytes) {
    throw std::runtime_error(
        join("has ", data_bytes - end, " bytes after its last tensor, must have none"));
  }
}

/// Elements of a view. @throw std::invalid_argument for one that no matrix has
template <typename Element>
Index checked_size(std::string_view function, std::string_view name, const MatrixView<Element>& x) {
  const std::array<Index, 2> sizes{x.rows, x.columns};
  const auto size = element_count(sizes);
  check(size.has_value(), function, name, " is ", shape_text(sizes),
        ", must have sizes from 0 and a product that fits 63 bits");
  check(x.rows < 2 || x.stride >= x.columns, function, name, " has the stride ", x.stride,
        ", must be at least the number of columns, ", x.columns);
  check(*size == 0 || x.data != nullptr, function, name, " is ", shape_text(sizes),
        " at a null pointer, must be at memory");
  return *size;
}

/// Calls `f(value, address)` for the floating-point type of a dtype.
/// @return whether there is one
template <typename F>
bool with_float_type(std::string_view dtype, const F& f) {
  if (dtype == "F32") return f(float{}), true;
  if (dtype == "F64") return f(double{}), true;
  if (dtype == "F16") return f(Eigen::half{}), true;
  if (dtype == "BF16") return f(Eigen::bfloat16{}), true;
  return false;
}

/// Element i of data that may stand anywhere.
template <typename T>
T unaligned(const std::byte* data, Index i) {
  T value;
  std::memcpy(static_cast<void*>(&value), data + i * static_cast<Index>(sizeof(T)), sizeof(T));
  return value;
}

}  // namespace detail

inline constexpr std::uint64_t max_safetensors_header = 100'000'000;

/// Reads and checks the header of a file in memory.
/// @param file  the whole file
/// @throw std::runtime_error that says what is wrong, without the name of the file
inline SafetensorsHeader parse_safetensors(std::span<const std::byte> file) {
  constexpr std::uint64_t prefix = 8;
  if (file.size() < prefix) {
    throw std::runtime_error(
        detail::join("has ", file.size(), " bytes, and the length of a header alone has 8"));
  }
  const std::string_view all(reinterpret_cast<const char*>(file.data()), file.size());
  if (all.starts_with("version https://git-lfs")) {
    throw std::runtime_error(
        "is a pointer of Git LFS instead of the file; get it with git lfs pull");
  }
  const auto length = detail::unaligned<std::uint64_t>(file.data(), 0);
  if (length > max_safetensors_header) {
    throw std::runtime_error(detail::join("has a header of ", length, " bytes, must be at most ",
                                          max_safetensors_header));
  }
  if (length > file.size() - prefix) {
    throw std::runtime_error(detail::join("is truncated: its header ends at byte ", prefix + length,
                                          " and the file at ", file.size()));
  }
  const std::string_view text = all.substr(prefix, static_cast<std::size_t>(length));
  detail::HeaderEvents events;
  detail::read_json_object("header", text, events);
  events.header.data_begin = prefix + length;
  detail::check_layout(events.header, file.size() - prefix - length);
  return std::move(events.header);
}

/// An open safetensors file, mapped into memory; every check is done.
class SafetensorsFile {
 public:
  /// @throw std::runtime_error with one line: the file, and what is wrong with it
  explicit SafetensorsFile(std::filesystem::path path) : path_(std::move(path)), file_(path_) {
    try {
      header_ = parse_safetensors(file_.bytes());
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(detail::join("'", path_.string(), "': ", error.what()));
    }
    for (std::size_t i = 0; i < header_.tensors.size(); ++i) {
      places_.emplace(header_.tensors[i].name, i);
    }
  }

  const std::filesystem::path& path() const { return path_; }

  /// By their place in the file.
  const std::vector<StoredTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }

  /// A tensor of this file, or null.
  const StoredTensor* find(std::string_view name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : &header_.tensors[found->second];
  }

  /// @param tensor  one of `tensors()`, here and in all that follows, or a copy of it
  /// @throw std::invalid_argument for another
  std::span<const std::byte> bytes(const StoredTensor& tensor) const {
    check_is_own("SafetensorsFile::bytes", tensor);
    return file_.bytes().subspan(static_cast<std::size_t>(header_.data_begin + tensor.begin),
                                 static_cast<std::size_t>(tensor.end - tensor.begin));
  }

  /// Gives back the memory that holds what was read, so that a file that is read tensor by tensor
  /// takes that of the largest.
  void release() const { file_.release(); }

  /// Values of a tensor, converted. `out` must have as many elements.
  /// @throw std::runtime_error unless the dtype is F32, F64, F16 or BF16
  /// @throw std::invalid_argument for an `out` of another size, or a tensor that is not of this
  /// file
  template <typename Scalar>
  void read(const StoredTensor& tensor, const MatrixView<Scalar>& out) const {
    constexpr auto function = "SafetensorsFile::read";
    check_is_own(function, tensor);
    check_equal(function, "elements of out", detail::checked_size(function, "out", out),
                "elements of the tensor", tensor.size());
    const std::byte* data = bytes(tensor).data();
    check_is_float(tensor, detail::with_float_type(tensor.dtype, [&](auto type) {
                     using T = decltype(type);
                     for (Index i = 0; i < out.rows; ++i) {
                       const Index first = i * out.columns;
                       for (Index j = 0; j < out.columns; ++j) {
                         out(i, j) = static_cast<Scalar>(detail::unaligned<T>(data, first + j));
                       }
                     }
                   }));
  }

  /// The transpose of a stored matrix `[out.columns, out.rows]`, converted.
  /// @throw std::runtime_error unless the dtype is F32, F64, F16 or BF16
  /// @throw std::invalid_argument for an `out` of another shape, or a tensor that is not of this
  /// file
  template <typename Scalar>
  void read_transposed(const StoredTensor& tensor, const MatrixView<Scalar>& out) const {
    constexpr auto function = "SafetensorsFile::read_transposed";
    check_is_own(function, tensor);
    detail::checked_size(function, "out", out);
    check(tensor.shape == std::vector<Index>{out.columns, out.rows}, function, "tensor ",
          in_quotes(tensor.name), " is ", detail::shape_text(tensor.shape), ", must be [",
          out.columns, ", ", out.rows, "]");
    constexpr Index block = 32;  // so that lines of cache are used on both sides
    const std::byte* data = bytes(tensor).data();
    check_is_float(tensor, detail::with_float_type(tensor.dtype, [&](auto type) {
                     using T = decltype(type);
                     for (Index j0 = 0; j0 < out.columns; j0 += block) {
                       const Index j1 = std::min(j0 + block, out.columns);
                       for (Index i0 = 0; i0 < out.rows; i0 += block) {
                         const Index i1 = std::min(i0 + block, out.rows);
                         for (Index i = i0; i < i1; ++i) {
                           for (Index j = j0; j < j1; ++j) {
                             out(i, j) =
                                 static_cast<Scalar>(detail::unaligned<T>(data, j * out.rows + i));
                           }
                         }
                       }
                     }
                   }));
  }

  /// Values of a tensor of whole numbers, row by row.
  /// @throw std::runtime_error unless the dtype is I64, I32, U8 or BOOL
  /// @throw std::invalid_argument for a tensor that is not of this file
  std::vector<std::int64_t> read_integers(const StoredTensor& tensor) const {
    check_is_own("SafetensorsFile::read_integers", tensor);
    std::vector<std::int64_t> values;
    const std::byte* data = bytes(tensor).data();
    const auto copy = [&](auto type) {
      values.resize(static_cast<std::size_t>(tensor.size()));
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = detail::unaligned<decltype(type)>(data, static_cast<Index>(i));
      }
    };
    if (tensor.dtype == "I64") {
      copy(std::int64_t{});
    } else if (tensor.dtype == "I32") {
      copy(std::int32_t{});
    } else if (tensor.dtype == "U8" || tensor.dtype == "BOOL") {
      copy(std::uint8_t{});
    } else {
      refuse_dtype(tensor, "I64, I32, U8 or BOOL");
    }
    return values;
  }

  /// @throw std::runtime_error unless `read` can convert the tensor
  /// @throw std::invalid_argument for a tensor that is not of this file
  void check_is_float(const StoredTensor& tensor) const {
    check_is_own("SafetensorsFile::check_is_float", tensor);
    check_is_float(tensor, detail::with_float_type(tensor.dtype, [](auto) {}));
  }

 private:
  /// Another tensor may say that it lies outside of the file.
  void check_is_own(std::string_view function, const StoredTensor& tensor) const {
    const StoredTensor* own = find(tensor.name);
    check(own != nullptr && *own == tensor, function, "tensor ", in_quotes(tensor.name), " is ",
          tensor.dtype, " ", detail::shape_text(tensor.shape), " at bytes [", tensor.begin, ", ",
          tensor.end, "], must be one of the tensors of the file");
  }
  void check_is_float(const StoredTensor& tensor, bool is) const {
    if (!is) refuse_dtype(tensor, "F32, F64, F16 or BF16");
  }
  [[noreturn]] void refuse_dtype(const StoredTensor& tensor, std::string_view allowed) const {
    throw std::runtime_error(detail::join("'", path_.string(), "': tensor ", in_quotes(tensor.name),
                                          " has the dtype ", tensor.dtype, ", must be ", allowed));
  }

  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
  std::map<std::string, std::size_t, std::less<>> places_;
};

/// A tensor to be written.
template <typename Scalar>
struct OutgoingTensor {
  std::string name;
  std::vector<Index> shape;
  MatrixView<const Scalar> values;  ///< as many elements as the shape has
  bool transposed = false;          ///< the transpose of `values` is written
};

/// Writes float tensors as F32 and double as F64 into a new file, which is not committed: sorted by
/// name, the header padded so that data begins at a multiple of 8 and every tensor is aligned.
/// @throw std::runtime_error when the file cannot be written, std::invalid_argument for names that
///   come twice, names and metadata that are not UTF-8, and shapes that do not fit
template <typename Scalar>
void write_safetensors(AtomicFile& file, std::vector<OutgoingTensor<Scalar>> tensors,
                       const std::map<std::string, std::string>& metadata = {}) {
  static_assert(std::is_same_v<Scalar, float> || std::is_same_v<Scalar, double>);
  constexpr auto function = "write_safetensors";
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto check_utf8 = [&](std::string_view text, const auto&... what) {
    const std::size_t bad = first_non_utf8(text);
    check(bad == text.size(), function, what..., " is not UTF-8 at byte ", bad, ", must be");
  };
  for (const auto& [key, value] : metadata) {
    check_utf8(key, "a key of metadata");
    check_utf8(value, "metadata ", in_quotes(key));
  }
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t end = 0;
  for (const OutgoingTensor<Scalar>& tensor : tensors) {
    check_utf8(tensor.name, "the name of a tensor");
    check(tensor.name != "__metadata__", function,
          "the name of a tensor is __metadata__, must be another: the format keeps it for itself");
    check(&tensor == tensors.data() || tensor.name != (&tensor - 1)->name, function,
          "two tensors have the name ", in_quotes(tensor.name), ", must have different ones");
    const Index size =
        detail::checked_size(function, "values of tensor " + in_quotes(tensor.name), tensor.values);
    check(detail::element_count(tensor.shape) == size, function, "tensor ", in_quotes(tensor.name),
          " has the shape ", detail::shape_text(tensor.shape), ", must be one of its ", size,
          " elements");
    const std::uint64_t begin = end;
    check(!__builtin_mul_overflow(static_cast<std::uint64_t>(size), sizeof(Scalar), &end) &&
              !__builtin_add_overflow(begin, end, &end),
          function, "tensor ", in_quotes(tensor.name), " ", detail::shape_text(tensor.shape),
          " ends at a byte whose number must, and does not, fit 64 bits");
    header[tensor.name] = {{"dtype", sizeof(Scalar) == 4 ? "F32" : "F64"},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  check(text.size() <= max_safetensors_header, function, "the header has ", text.size(),
        " bytes, must have at most ", max_safetensors_header);

  const std::uint64_t length = text.size();
  file.write(std::as_bytes(std::span(&length, 1)));
  file.write(text);
  std::vector<Scalar> panel;
  for (const OutgoingTensor<Scalar>& tensor : tensors) {
    const auto& x = tensor.values;
    const Index rows = tensor.transposed ? x.columns : x.rows;
    const Index columns = tensor.transposed ? x.rows : x.columns;
    const Index step = std::max<Index>(1, (Index{1} << 18) / std::max<Index>(columns, 1));
    for (Index first = 0; first < rows; first += step) {
      const Index count = std::min(step, rows - first);
      panel.resize(static_cast<std::size_t>(count * columns));
      const MatrixView<Scalar> out(panel.data(), count, columns);
      for (Index i = 0; i < (tensor.transposed ? columns : count); ++i) {
        for (Index j = 0; j < (tensor.transposed ? count : columns); ++j) {
          if (tensor.transposed) {
            out(j, i) = x(i, first + j);
          } else {
            out(i, j) = x(first + i, j);
          }
        }
      }
      file.write(std::as_bytes(std::span(std::as_const(panel))));
    }
  }
}

/// The same as a file, in one step: see `AtomicFile`.
/// @throw std::runtime_error also where the file cannot be made
template <typename Scalar>
void write_safetensors(const std::filesystem::path& path,
                       std::vector<OutgoingTensor<Scalar>> tensors,
                       const std::map<std::string, std::string>& metadata = {}) {
  AtomicFile file(path);
  write_safetensors(file, std::move(tensors), metadata);
  file.commit();
}

/// Reads an index: the file of each tensor.
/// @throw std::runtime_error unless it is an object with `weight_map` from names of tensors to
/// names
///   of files, which stand in the same folder
inline std::map<std::string, std::string> parse_safetensors_index(std::string_view text) {
  const auto index = parse_json_object("index", text, std::size_t{1} << 24);
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object()) {
    throw std::runtime_error("index has no object weight_map");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      throw std::runtime_error(
          detail::join("index has a file that is not text for tensor ", in_quotes(tensor)));
    }
    const auto name = file.get<std::string>();
    // Nothing outside of the folder is opened because a file says so.
    if (name.empty() || name == "." || name == ".." ||
        name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      throw std::runtime_error(detail::join("index has the file ", in_quotes(name), " for tensor ",
                                            in_quotes(tensor),
                                            ", must be a name without a folder"));
    }
    files.emplace(tensor, name);
  }
  return files;
}

/// The tensors of a model in a folder: `model.safetensors`, or the files that
/// `model.safetensors.index.json` names.
class SafetensorsFolder {
 public:
  struct Place {
    const SafetensorsFile* file;
    const StoredTensor* tensor;
  };

  /// @throw std::runtime_error with one line when there is no model, a file is damaged, or the
  /// index
  ///   and the files do not agree
  explicit SafetensorsFolder(const std::filesystem::path& folder) {
    detail::check_file_name("read", folder);
    const auto single = folder / "model.safetensors",
               index = folder / "model.safetensors.index.json";
    std::error_code ignored;
    if (std::filesystem::exists(single, ignored)) {
      files_.emplace_back(single);
      for (const StoredTensor& tensor : files_[0].tensors()) {
        places_.emplace(tensor.name, Place{&files_[0], &tensor});
      }
    } else if (std::filesystem::exists(index, ignored)) {
      read_index(folder, index);
    } else {
      const bool pickled = std::filesystem::exists(folder / "pytorch_model.bin", ignored);
      throw std::runtime_error(
          detail::join("'", folder.string(),
                       "' holds neither model.safetensors nor model.safetensors.index.json",
                       pickled ? "; convert its pytorch_model.bin with save_pretrained(folder, "
                                 "safe_serialization=True) of transformers"
                               : ""));
    }
  }
  SafetensorsFolder(const SafetensorsFolder&) = delete;
  SafetensorsFolder& operator=(const SafetensorsFolder&) = delete;

  /// All tensors by name.
  const std::map<std::string, Place, std::less<>>& tensors() const { return places_; }

  std::optional<Place> find(std::string_view name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? std::optional<Place>() : found->second;
  }

 private:
  void read_index(const std::filesystem::path& folder, const std::filesystem::path& index) {
    const auto fail = [&](const auto&... parts) {
      throw std::runtime_error(detail::join("'", index.string(), "': ", parts...));
    };
    const auto map = parse_index(index);
    std::set<std::string> names;
    for (const auto& [tensor, name] : map) names.insert(name);
    files_.reserve(names.size());  // places point into it
    for (const std::string& name : names) files_.emplace_back(folder / name);
    for (const SafetensorsFile& file : files_) {
      const std::string name = file.path().filename().string();
      for (const StoredTensor& tensor : file.tensors()) {
        const auto entry = map.find(tensor.name);
        if (entry == map.end()) {
          fail("tensor ", in_quotes(tensor.name), " of ", in_quotes(name), " is not in weight_map");
        } else if (entry->second != name) {
          fail("tensor ", in_quotes(tensor.name), " is in ", in_quotes(name),
               ", but weight_map says ", in_quotes(entry->second));
        }
        places_.emplace(tensor.name, Place{&file, &tensor});
      }
    }
    for (const auto& [tensor, name] : map) {
      if (!places_.contains(tensor)) {
        fail("tensor ", in_quotes(tensor), " is not in ", in_quotes(name),
             ", where weight_map says it is");
      }
    }
  }

  static std::map<std::string, std::string> parse_index(const std::filesystem::path& index) {
    const MappedFile file(index);
    const auto bytes = file.bytes();
    try {
      return parse_safetensors_index({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(detail::join("'", index.string(), "': ", error.what()));
    }
  }

  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place, std::less<>> places_;
};

#ifdef REFORMER_EXTERN_IO_INSTANCES
extern template void SafetensorsFile::read(const StoredTensor&, const MatrixView<float>&) const;
extern template void SafetensorsFile::read_transposed(const StoredTensor&,
                                                      const MatrixView<float>&) const;
extern template void write_safetensors(AtomicFile&, std::vector<OutgoingTensor<float>>,
                                       const std::map<std::string, std::string>&);
extern template void write_safetensors(const std::filesystem::path&,
                                       std::vector<OutgoingTensor<float>>,
                                       const std::map<std::string, std::string>&);
#endif

}  // namespace reformer::inline REFORMER_ABI
