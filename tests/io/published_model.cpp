// SPDX-License-Identifier: MIT
/// @file
/// A random model of the size of a published one, through everything:
///
///     published_model SHAPES.json NAME FOLDER [LENGTH]
///
/// writes it to FOLDER/first, checks names and shapes against the list, reads the file alone and
/// loads it, runs one forward pass at LENGTH tokens (65,536), saves it to FOLDER/second and
/// compares the files byte for byte. Prints times and peak memory.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "reformer/io/huggingface.hpp"

namespace {

namespace fs = std::filesystem;
using namespace reformer;

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

double peak_megabytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024 / 1e6;
}

void say(const char* what, double seconds) {
  std::printf("%-42s %8.2f s, peak of the process so far %6.0f MB\n", what, seconds,
              peak_megabytes());
  std::fflush(stdout);
}

Json read_json(const fs::path& path) {
  const MappedFile file(path);
  return Json::parse(reinterpret_cast<const char*>(file.bytes().data()),
                     reinterpret_cast<const char*>(file.bytes().data()) + file.bytes().size());
}

/// Names and shapes must be those of the list.
void check_names(const fs::path& path, const Json& parameters) {
  std::map<std::string, Json> expected, found;
  for (const auto& [name, shape] : parameters.items()) expected[name] = shape;
  const SafetensorsFile file(path);
  for (const StoredTensor& tensor : file.tensors()) found[tensor.name] = tensor.shape;
  if (found != expected) throw std::runtime_error("names or shapes are not those of the list");
}

void read_alone(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> buffer(std::size_t{1} << 20);
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()))) {
  }
}

bool same_bytes(const fs::path& a, const fs::path& b) {
  const MappedFile first(a), second(b);
  const auto x = first.bytes(), y = second.bytes();
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size()) == 0;
}

void run(const fs::path& shapes, const std::string& name, const fs::path& folder, Index length) {
  const Json published = read_json(shapes).at("models").at(name);
  const HuggingFaceConfig config = parse_huggingface_config(published.at("config").dump());
  const fs::path weights = folder / "first" / "model.safetensors";
  {
    Stopwatch watch;
    HuggingFaceModel<float> model(config);
    model.model().initialize(1);
    say("drawing random weights", watch.seconds());
    watch = {};
    model.save(folder / "first");
    say("writing", watch.seconds());
  }
  check_names(weights, published.at("parameters"));
  std::printf("%s: %.1f MB, names and shapes as published\n", name.c_str(),
              static_cast<double>(fs::file_size(weights)) / 1e6);
  for (int i = 0; i < 3; ++i) {
    Stopwatch watch;
    read_alone(weights);
    say("reading the file alone", watch.seconds());
    watch = {};
    HuggingFaceModel<float>::load(folder / "first");
    say("loading", watch.seconds());
  }
  auto model = HuggingFaceModel<float>::load(folder / "first");
  Workspace workspace;
  Tokens tokens(1, length);
  for (Index t = 0; t < length; ++t) {
    tokens(0, t) = static_cast<std::int32_t>(t * 7 % config.model.vocabulary);
  }
  Stopwatch watch;
  const auto logits = model.logits(workspace, tokens);
  const double seconds = watch.seconds();
  if (!std::all_of(logits.data(), logits.data() + logits.size(),
                   [](float x) { return std::isfinite(x); })) {
    throw std::runtime_error("the logits are not finite");
  }
  std::printf("one forward pass at %td tokens on %d threads:\n", length, workspace.threads());
  say("  forward pass, all logits", seconds);
  watch = {};
  model.save(folder / "second");
  say("saving again", watch.seconds());
  for (const char* file : {"model.safetensors", "config.json"}) {
    if (!same_bytes(folder / "first" / file, folder / "second" / file)) {
      throw std::runtime_error(std::string(file) + " has other bytes when it is saved again");
    }
  }
  std::printf("both files are the same, byte for byte\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 5) {
    std::fprintf(stderr, "usage: published_model SHAPES.json NAME FOLDER [LENGTH]\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argc > 4 ? std::atoll(argv[4]) : 65536);
    return 0;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    std::fprintf(stderr, "published_model: %s\n", error.what());
    return 1;
  }
}
