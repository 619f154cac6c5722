// SPDX-License-Identifier: MIT
/// @file
/// Memory of messages to and from all ranks.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "reformer/distributed/communicator.hpp"
#include "reformer/foundation/abi.hpp"

namespace reformer::inline REFORMER_ABI::detail {

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

}  // namespace reformer::inline REFORMER_ABI::detail
