// SPDX-License-Identifier: MIT
// What a generated token costs at different positions: a table of time and state, for a model of
// local layers and bucket chunks, beside running it over the whole sequence again, and beside a
// model of exact attention that keeps all keys and values.
//
//     decoding [--positions LIST] [--exact-positions LIST] [--width N] [--threads N]
//              [--precision NAME]
//
// The state at a position is made by decoding up to there; for exact attention by a prompt of that
// length. Before anything is timed, the last of 2,048 decoded rows of logits (512 of width 1,024)
// is compared with the forward pass, bit for bit. Time is the median of 512 steps. A step reads
// every weight once; beside it stands what share that is of the rate at which these threads read
// floats from memory and do nothing else, right before and after. Weights that fit into a cache are
// read faster than that.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <reformer/reformer.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "table_program.hpp"

namespace reformer::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Index steps = 512, recomputed_until = Index{1} << 18;

ModelConfig config_of(Index width, const std::vector<LayerPattern>& layers) {
  return {.width = width,
          .num_heads = width / 64,
          .head_width = 64,
          .feed_forward_width = 4 * width,
          .positions = SinusoidalPositions{},
          .layers = layers};
}

ModelConfig causal_config(Index width) {
  return config_of(
      width, {LocalPattern{.chunk_length = 64}, LshPattern{.chunk_length = 64,
                                                           .num_hashes = 2,
                                                           .num_buckets = {8},
                                                           .chunking = Chunking::bucket_chunks}});
}

/// The text that is decoded: random bytes.
std::int32_t token_at(Index t) {
  return static_cast<std::int32_t>(
      RandomStream({1}, Purpose::data).bits(static_cast<std::uint64_t>(t))[0] % 256);
}

Tokens text(Index length) {
  Tokens tokens(1, length);
  for (Index t = 0; t < length; ++t) tokens(0, t) = token_at(t);
  return tokens;
}

double seconds_of(const auto& action) {
  const auto start = Clock::now();
  action();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Decoder<float> decoder_of(Workspace& workspace, const Model<float>& model, Precision precision) {
  return {workspace, model, 1, {}, precision};
}

/// Median time of the next steps.
double step_seconds(Workspace& workspace, Decoder<float>& decoder) {
  std::vector<double> times;
  for (Index i = 0; i < steps; ++i) {
    const std::int32_t token = token_at(decoder.length(0));
    times.push_back(seconds_of([&] { decoder.step(workspace, std::span(&token, 1)); }));
  }
  std::nth_element(times.begin(), times.begin() + steps / 2, times.end());
  return times[steps / 2];
}

void verify(Workspace& workspace, Model<float>& model, Precision precision) {
  // As long as all heads are one group of the forward pass, beyond which roundings differ.
  const Index length = std::min<Index>(2048, (Index{1} << 19) / model.config().width);
  constexpr Index prompt = 100;
  Decoder<float> decoder = decoder_of(workspace, model, precision);
  decoder.prefill(workspace, text(prompt));
  for (Index t = prompt; t + 1 < length; ++t) {
    decoder.step(workspace, std::array{token_at(t)});
  }
  const auto& row = decoder.step(workspace, std::array{token_at(length - 1)});
  const Tokens whole = text(length);
  const auto expected =
      model.next_token_logits(workspace, std::span(whole.data(), static_cast<std::size_t>(length)),
                              {.precision = precision});
  if (!std::equal(expected.begin(), expected.end(), row.data())) {
    throw std::runtime_error("decoded logits differ from those of the forward pass");
  }
}

/// Bytes a second at which the threads sum 256 MiB of floats: the best of five times.
double reading_rate(Workspace& workspace) {
  static const std::vector<float> memory(std::size_t{1} << 26, 1.0F);
  constexpr Index part = Index{1} << 16;
  const auto parts = static_cast<Index>(memory.size()) / part;
  std::vector<float> sums(static_cast<std::size_t>(parts));
  double least = 1e300;
  for (int i = 0; i < 5; ++i) {
    least = std::min(least, seconds_of([&] {
                       parallel_for(workspace.threads(), parts, [&](Index task, int) {
                         const Eigen::Map<const Eigen::ArrayXf> floats(memory.data() + task * part,
                                                                       part);
                         sums[static_cast<std::size_t>(task)] = floats.sum();
                       });
                     }));
  }
  check(sums.back() == float{part}, "reading_rate", "a sum is ", sums.back());
  return static_cast<double>(memory.size() * sizeof(float)) / least;
}

/// Of all parameters that a step reads as wholes: not the table of the vocabulary. Packed in
/// bfloat16 they take half.
double bytes_of_weights(const Model<float>& model, Precision precision) {
  double bytes = 0;
  model.for_each_parameter([&](const Parameter<float>& p) {
    if (p.role != Role::embedding) bytes += static_cast<double>(p.size()) * sizeof(float);
  });
  return precision == Precision::bfloat16 ? bytes / 2 : bytes;
}

void print(Index position, const char* how, double seconds, std::size_t state,
           double of_reading = 0) {
  std::printf("| %lld | %s | %.1f | %.0f | %.2f |", static_cast<long long>(position), how,
              1e6 * seconds, 1 / seconds, static_cast<double>(state) / 1e6);
  std::printf(of_reading > 0 ? " %.0f %% |\n" : " |\n", 100 * of_reading);
  std::fflush(stdout);
}

/// Times a decoder and prints its line.
void time_decoder(Workspace& workspace, const Model<float>& model, Decoder<float>& decoder,
                  Index position, const char* how, Precision precision) {
  const double before = reading_rate(workspace);
  const double seconds = step_seconds(workspace, decoder);
  const double rate = (before + reading_rate(workspace)) / 2;
  print(position, how, seconds, decoder.state_bytes(),
        bytes_of_weights(model, precision) / seconds / rate);
}

void decode(Workspace& workspace, Model<float>& model, const std::vector<Index>& positions,
            Precision precision) {
  Decoder<float> decoder = decoder_of(workspace, model, precision);
  decoder.prefill(workspace, text(1));
  for (const Index position : positions) {
    while (decoder.length(0) < position) {
      decoder.step(workspace, std::array{token_at(decoder.length(0))});
    }
    time_decoder(workspace, model, decoder, position, "decoding", precision);
  }
}

void recompute(Workspace& workspace, Model<float>& model, const std::vector<Index>& positions,
               Precision precision) {
  const RunOptions options{.precision = precision};
  for (const Index position : positions) {
    if (position > recomputed_until) continue;
    const Tokens tokens = text(position);
    const std::span<const std::int32_t> row(tokens.data(), static_cast<std::size_t>(position));
    const auto pass = [&] { model.next_token_logits(workspace, row, options); };
    if (position < 10'000) pass();  // warms up
    print(position, "recomputing", seconds_of(pass), 0);
  }
}

void decode_exactly(Workspace& workspace, Index width, const std::vector<Index>& positions,
                    Precision precision) {
  Model<float> model(config_of(width, {ExactPattern{}, ExactPattern{}}));
  model.initialize(1);
  verify(workspace, model, precision);
  for (const Index position : positions) {
    Decoder<float> decoder = decoder_of(workspace, model, precision);
    decoder.prefill(workspace, text(position));
    time_decoder(workspace, model, decoder, position, "exact attention", precision);
  }
}

std::vector<Index> list_of(const std::string& text) {
  std::vector<Index> numbers;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = 0;
    numbers.push_back(std::stol(text.substr(at), &end));
    if (numbers.back() < 1) throw std::invalid_argument("positions must be at least 1");
    at += end + 1;
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

Precision precision_of(const std::string& name) {
  const auto precision = precision_named(name);
  check(precision.has_value(), "decoding", "--precision is '", name,
        "', must be float32, bfloat16x3 or bfloat16");
  return *precision;
}

void run(TableOptions options) {
  Workspace workspace(std::stoi(options["--threads"]));
  const Index width = std::stol(options["--width"]);
  check(width >= 64 && width % 64 == 0, "decoding", "--width is ", width,
        ", must be a multiple of 64");
  const Precision precision = precision_of(options["--precision"]);
  Model<float> model(causal_config(width));
  model.initialize(1);
  verify(workspace, model, precision);
  std::printf(
      "| position | how | us a token | tokens/s | state, MB | weights, of the rate of reading |\n"
      "|---|---|---|---|---|---|\n");
  const auto positions = list_of(options["--positions"]);
  decode(workspace, model, positions, precision);
  recompute(workspace, model, positions, precision);
  decode_exactly(workspace, width, list_of(options["--exact-positions"]), precision);
}

}  // namespace
}  // namespace reformer::bench

int main(int argc, char** argv) {
  using namespace reformer::bench;
  return run_table_program(argc, argv,
                           {{"--positions", "1024,16384,262144,1048576"},
                            {"--exact-positions", "1024,16384,65536"},
                            {"--width", "128"},
                            {"--threads", "1"},
                            {"--precision", "float32"}},
                           run);
}
