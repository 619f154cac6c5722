// SPDX-License-Identifier: MIT
/// @file
/// How gradients are written into messages.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/foundation/abi.hpp"
#include "reformer/foundation/check.hpp"
#include "reformer/foundation/index.hpp"
#include "reformer/products/bfloat16.hpp"

namespace reformer::inline REFORMER_ABI {

/// What is sent of a gradient. With `bfloat16` every contribution is rounded before it is added, a
/// rank's own too: half the bytes, other bits than `exact`, the same for any number of ranks.
enum class Wire {
  exact,     ///< all bits
  bfloat16,  ///< the nearest number of 16 bits, as of `bfloat16_bits`; of a model of floats
};

namespace detail {

/// @throw std::invalid_argument unless a model of this type can have it
template <typename Scalar>
void check_wire(std::string_view function, Wire wire) {
  check(wire == Wire::exact || wire == Wire::bfloat16, function, "wire is ", static_cast<int>(wire),
        ", must be exact or bfloat16");
  check(wire == Wire::exact || std::is_same_v<Scalar, float>, function,
        "wire is bfloat16, must be exact for a model that is not of floats");
}

template <typename Scalar>
std::size_t wire_bytes(Wire wire, Index elements) {
  return static_cast<std::size_t>(elements) *
         (wire == Wire::bfloat16 ? sizeof(std::uint16_t) : sizeof(Scalar));
}

/// Writes n elements, and returns the end of what is written.
template <typename Scalar>
std::byte* write_wire(Wire wire, Index n, const Scalar* from, std::byte* to) {
  const std::size_t bytes = wire_bytes<Scalar>(wire, n);
  if (wire == Wire::exact) {
    std::memcpy(to, from, bytes);
  } else {
    for (Index i = 0; i < n; ++i) {
      const auto half =
          static_cast<std::uint16_t>(bfloat16_bits(static_cast<float>(from[i])) >> 16);
      std::memcpy(to + i * 2, &half, sizeof half);
    }
  }
  return to + bytes;
}

/// What n elements are read as.
template <typename Scalar>
void read_wire(Wire wire, Index n, const std::byte* from, Scalar* to) {
  if (wire == Wire::exact) {
    std::memcpy(to, from, wire_bytes<Scalar>(wire, n));
    return;
  }
  for (Index i = 0; i < n; ++i) {
    std::uint16_t half;
    std::memcpy(&half, from + i * 2, sizeof half);
    to[i] = static_cast<Scalar>(std::bit_cast<float>(std::uint32_t{half} << 16));
  }
}

/// The same of what was never sent.
template <typename Scalar>
void round_as_wire(Wire wire, Index n, const Scalar* from, Scalar* to) {
  for (Index i = 0; i < n; ++i) {
    to[i] =
        wire == Wire::exact
            ? from[i]
            : static_cast<Scalar>(std::bit_cast<float>(bfloat16_bits(static_cast<float>(from[i]))));
  }
}

/// Memory of a message, which stays for the next.
class MessageBuffer {
 public:
  void resize(std::size_t size) {
    if (size > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_ = std::make_unique_for_overwrite<std::byte[]>(size);
      capacity_ = size;
    }
    size_ = size;
  }
  std::byte* data() const { return data_.get(); }
  std::span<std::byte> all() const { return {data_.get(), size_}; }
  std::size_t capacity() const { return capacity_; }

 private:
  std::unique_ptr<std::byte[]> data_;
  std::size_t size_ = 0, capacity_ = 0;
};

/// Messages to and from all ranks.
class MessageBuffers {
 public:
  /// Begins with messages of these sizes, one of each for each rank.
  void resize(const std::vector<std::size_t>& sends, const std::vector<std::size_t>& receives) {
    resize(sends_, sends);
    resize(receives_, receives);
  }
  std::byte* send(std::size_t rank) { return sends_[rank].data(); }
  const std::byte* received(std::size_t rank) const { return receives_[rank].data(); }
  std::unique_ptr<Communicator::Request> start(Communicator& communicator) {
    std::vector<std::span<const std::byte>> sends;
    for (const MessageBuffer& buffer : sends_) sends.push_back(buffer.all());
    return start(communicator, sends);
  }
  /// The same, and sends what is given.
  std::unique_ptr<Communicator::Request> start(
      Communicator& communicator, const std::vector<std::span<const std::byte>>& sends) {
    std::vector<std::span<std::byte>> receives;
    for (const MessageBuffer& buffer : receives_) receives.push_back(buffer.all());
    return communicator.start_exchange(sends, receives);
  }
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto* all : {&sends_, &receives_}) {
      for (const MessageBuffer& buffer : *all) sum += buffer.capacity();
    }
    return sum;
  }

 private:
  static void resize(std::vector<MessageBuffer>& buffers, const std::vector<std::size_t>& sizes) {
    if (buffers.size() != sizes.size()) buffers = std::vector<MessageBuffer>(sizes.size());
    for (std::size_t r = 0; r < sizes.size(); ++r) buffers[r].resize(sizes[r]);
  }

  std::vector<MessageBuffer> sends_, receives_;
};

}  // namespace detail

}  // namespace reformer::inline REFORMER_ABI
