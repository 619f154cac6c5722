// SPDX-License-Identifier: MIT
/// @file
/// Runs of the two programs inside a test, on a model and a text so small that a step takes
/// milliseconds.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "enwik8/evaluator.hpp"
#include "enwik8/generated_corpus.hpp"
#include "enwik8/generator.hpp"
#include "enwik8/model_io.hpp"
#include "enwik8/trainer.hpp"
#include "examples/support.hpp"
#include "reformer/io/safetensors.hpp"
#include "training/checkpoint.hpp"

namespace enwik8::test {

/// A stream that collects what is written to it.
class Captured {
 public:
  Captured() : file_(::open_memstream(&buffer_, &size_)) {}
  ~Captured() {
    std::fclose(file_);
    std::free(buffer_);
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;

  std::FILE* file() { return file_; }
  std::string text() {
    std::fflush(file_);
    return {buffer_, size_};
  }

 private:
  char* buffer_ = nullptr;
  std::size_t size_ = 0;
  std::FILE* file_;
};

struct Outcome {
  int code = 0;
  std::string out;
  std::string error;
};

inline bool never_stop(std::int64_t) {
  return false;
}

inline Outcome train(const Strings& arguments, const StopRequested& stop = never_stop) {
  Captured out, error;
  const int code =
      run_trainer(arguments, {.out = out.file(), .error = error.file(), .terminal = false}, stop);
  return {code, out.text(), error.text()};
}

inline Outcome generate(const Strings& arguments) {
  Captured out, error;
  const int code = run_generator(arguments, {.out = out.file(), .error = error.file()});
  return {code, out.text(), error.text()};
}

inline Outcome evaluate(const Strings& arguments) {
  Captured out, error;
  const int code = run_evaluator(arguments, {.out = out.file(), .error = error.file()});
  return {code, out.text(), error.text()};
}

inline Strings operator+(Strings left, const Strings& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

/// Options of the tiny model, with a text for it at `data`.
inline Strings tiny(const std::filesystem::path& data) {
  if (!std::filesystem::exists(data)) {
    const std::vector<std::uint8_t> text = generate_corpus(1, 4000);
    write_file(data, std::string(text.begin(), text.end()));
  }
  // Whatever the tests rely on is given, because presets change.
  return {"--data",           data.string(),
          "--layers",         "local,lsh",
          "--values",         "following",
          "--scores",         "dot",
          "--rotary",         "none",
          "--optimizer",      "adam",
          "--length",         "32",
          "--width",          "16",
          "--heads",          "2",
          "--chunk-length",   "8",
          "--positions",      "axial",
          "--batch",          "2",
          "--threads",        "1",
          "--learning-rate",  "0.001",
          "--warmup",         "2",
          "--schedule",       "cosine",
          "--final-fraction", "0.05",
          "--log-every",      "3",
          "--eval-every",     "4",
          "--eval-bytes",     "100",
          "--sample-bytes",   "8",
          "--ngrams",         "2,3",
          "--value-ngrams",   "2",
          "--ngram-rows",     "64",
          "--short-steps",    "0"};
}

/// A folder of texts of 2 to 402 bytes.
inline void write_documents(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  const std::vector<std::uint8_t> bytes = generate_corpus(1, 6000);
  const std::string text(bytes.begin(), bytes.end());
  std::size_t begin = 0;
  for (std::size_t i = 1; begin < text.size(); ++i) {
    const std::string document = text.substr(begin, i * i * 7 % 401 + 2);
    write_file(folder / std::to_string(100 + i), document);
    begin += document.size();
  }
}

/// `TokenModel::next_logits` of bytes.
inline std::vector<float> next_byte_logits(TokenModel& model,
                                           const std::vector<std::uint8_t>& context) {
  return model.next_logits(std::vector<std::int32_t>(context.begin(), context.end()));
}

/// `TokenModel::generate` of bytes.
inline void write_text(TokenModel& model, const std::vector<std::uint8_t>& prompt,
                       std::int64_t length, const reformer::SamplingOptions& sampling,
                       std::uint64_t seed, const std::function<bool(std::uint8_t)>& each) {
  model.generate(std::vector<std::int32_t>(prompt.begin(), prompt.end()), length, sampling, seed,
                 [&](std::int32_t token) { return each(static_cast<std::uint8_t>(token)); });
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(line);
  }
  return lines;
}

/// The records of a run, without what depends on a clock or on the machine.
inline std::vector<nlohmann::json> records_of(const std::filesystem::path& folder) {
  std::vector<nlohmann::json> records;
  for (const std::string& line : lines_of(read_file(folder / "metrics.jsonl"))) {
    nlohmann::json record = nlohmann::json::parse(line);
    for (const char* name : {"seconds", "evaluation_seconds", "tokens_per_second", "memory_bytes",
                             "peak_memory_bytes", "exposed_seconds"}) {
      record.erase(name);
    }
    records.push_back(std::move(record));
  }
  return records;
}

/// Everything in a checkpoint but the clock and options that may differ between equal runs.
struct Snapshot {
  std::int64_t step = 0;
  nlohmann::json state;
  std::vector<std::string> names;
  std::vector<std::vector<float>> values;

  bool operator==(const Snapshot&) const = default;
};

inline Snapshot snapshot_of(const std::filesystem::path& folder) {
  const Checkpoint checkpoint(folder / checkpoint_name);
  Snapshot snapshot{checkpoint.step(), checkpoint.state(), {}, {}};
  snapshot.state.erase("elapsed_seconds");
  for (const char* name : {"out", "threads", "save-minutes"}) {
    snapshot.state["options"].erase(name);
  }
  const reformer::SafetensorsFile file(folder / checkpoint_name);
  for (const reformer::StoredTensor& tensor : file.tensors()) {
    snapshot.names.push_back(tensor.name);
    auto& values = snapshot.values.emplace_back(static_cast<std::size_t>(tensor.size()));
    file.read(tensor, reformer::MatrixView<float>(values.data(), 1, tensor.size()));
  }
  return snapshot;
}

/// Writes the checkpoint of a run again with another state: `change(state)`.
template <typename Change>
void change_state(const std::filesystem::path& folder, const Change& change) {
  const Checkpoint checkpoint(folder / checkpoint_name);
  TokenModel model(saved_options(checkpoint), vocabulary, TokenModel::Use::training);
  model.load(checkpoint);
  nlohmann::json state = checkpoint.state();
  change(state);
  model.save(folder / checkpoint_name, checkpoint.step(), state);
}

}  // namespace enwik8::test
