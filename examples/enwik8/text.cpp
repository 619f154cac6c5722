// SPDX-License-Identifier: MIT
#include "text.hpp"

#include <vector>

#include "reformer/foundation/random.hpp"

namespace enwik8 {

void generate_text(ByteModel& model, std::span<const std::uint8_t> prompt, std::int64_t length,
                   const SamplingOptions& sampling, std::uint64_t seed,
                   const std::function<void(std::uint8_t)>& each) {
  const reformer::RandomStream stream({seed}, reformer::Purpose::sampling);
  std::vector<std::uint8_t> text(prompt.begin(), prompt.end());
  for (std::int64_t i = 0; i < length; ++i) {
    const std::vector<float> logits = model.next_byte_logits(text);
    const auto byte = static_cast<std::uint8_t>(
        sample_token(logits, sampling, stream.uniform(static_cast<std::uint64_t>(i))));
    text.push_back(byte);
    each(byte);
  }
}

}  // namespace enwik8
