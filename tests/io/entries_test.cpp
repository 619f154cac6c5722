// SPDX-License-Identifier: MIT
/// Every public entry of the floor io, with its arguments out of range, one at a time: what a
/// caller hands over is answered with `std::invalid_argument`, what a file or its name says with
/// `std::runtime_error`.
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "reformer/io/huggingface.hpp"
#include "reformer/io/model_file.hpp"
#include "support/entries.hpp"
#include "support/files.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;

constexpr Index most = std::numeric_limits<Index>::max();
constexpr Index V = 11, D = 12;

ModelConfig small_config() {
  return {.vocabulary = V,
          .width = D,
          .num_heads = 2,
          .head_width = 4,
          .feed_forward_width = 8,
          .positions = AxialPositions{{4, 8}, {4, 8}},
          .layers = {LocalPattern{4}, LshPattern{4, 1, 0, 2, {4}}}};
}

/// Leaves the number of buckets to the first length that is hashed.
HuggingFaceConfig open_config() {
  ModelConfig config = small_config();
  std::get<LshPattern>(config.layers[1].of_heads[0]).num_buckets.clear();
  return huggingface_config(config);
}

/// Files of every kind, and what is read from them and written to them.
struct Io {
  Workspace workspace{1};
  TemporaryFolder folder;
  Matrix<float> out = Matrix<float>::Constant(2, 3, 0.5F), turned = out.transpose();
  HuggingFaceConfig config = huggingface_config(small_config());
  Model<float> model{config.model}, reshaped{config.model}, narrower = narrower_model();
  HuggingFaceModel<float> huggingface{open_config()};
  Adam<float> adam;
  Adafactor<float> adafactor;
  Tokens tokens = random_tokens(2, 13, V, 1);
  PaddedTokens padded = huggingface_pad(config, tokens);

  Io() {
    randomize_parameters(model, 1);
    randomize_parameters(huggingface.model(), 2);
    reshaped.for_each_parameter([](Parameter<float>& p) {
      if (p.name == "embedding.weight") p.value.setZero(D, V);
    });
    save_huggingface(folder / "model", model, config);
    adam.allocate(model);
    adam.for_each_state(model, [](const auto&, auto& state) { state.setConstant(2); });
    adam.steps() = 3;
    save_model(folder / "trained", model, adam, 3);
    save_model(folder / "untrained", model);
    write_safetensors<float>(folder / "floats", {{"a", {2, 3}, rows_of(std::as_const(out))}});
    const std::string header = R"({"n":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]}})";
    const std::uint64_t length = header.size();
    write_file(folder / "integers",
               std::string(reinterpret_cast<const char*>(&length), 8) + header + "12345678");
    write_file(folder / "file", "old");
    fs::create_directories(folder / "folder/config.json");
    fs::create_directory(folder / "index");
    write_file(folder / "index/model.safetensors.index.json", R"({"weight_map":{"a":"../file"}})");
    write_file(folder / "index/config.json", "{");

    floats.emplace(folder / "floats");
    integers.emplace(folder / "integers");
    weights.emplace(folder / "model");
    finished.emplace(folder / "finished").finish();
    committed.emplace(folder / "committed").commit();
    given_up.emplace(folder / "given_up");
    const FileSizeLimit limit(2);
    EXPECT_THROW(given_up->write(std::string_view("three")), std::runtime_error);
  }

  const StoredTensor& tensor() const { return *floats->find("a"); }
  /// The tensor, with one thing that is not so.
  template <typename Change>
  StoredTensor other(const Change& change) const {
    StoredTensor changed = tensor();
    change(changed);
    return changed;
  }
  void write(std::vector<OutgoingTensor<float>> tensors,
             const std::map<std::string, std::string>& metadata = {}) const {
    write_safetensors(folder / "file", std::move(tensors), metadata);
  }
  /// A tensor `a` of six elements, and how it is seen.
  void write(std::vector<Index> shape, Index rows, Index columns) const {
    write({{"a", std::move(shape), {out.data(), rows, columns}}});
  }
  MatrixView<const float> values() const { return rows_of(out); }

  Bits bits() {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
      files[entry.path().string()] = entry.is_regular_file() ? read_file(entry.path()) : "";
    }
    Bits bits;
    for (const auto& [name, content] : files) bits.add(name).add(content);
    for (Model<float>* m : {&model, &reshaped, &narrower, &huggingface.model()}) {
      m->for_each_parameter([&](const Parameter<float>& p) { bits.add(p.value).add(p.gradient); });
    }
    adam.for_each_state(model, [&](const auto&, const auto& state) { bits.add(state); });
    bits.add(adam.steps()).add(adafactor.steps());
    const auto& layers = huggingface.config().model.layers;
    bits.add(std::get<LshPattern>(layers[1].of_heads[0]).num_buckets);
    return bits.add(out).add(turned).add(tokens).add(padded.tokens).add(padded.is_real);
  }

  std::optional<SafetensorsFile> floats, integers;
  std::optional<HuggingFaceWeights> weights;
  std::optional<AtomicFile> finished, committed, given_up;

 private:
  static Model<float> narrower_model() {
    ModelConfig config = small_config();
    config.feed_forward_width = 7;
    return Model<float>(config);
  }
};

const std::string not_utf8 = "\xff";

// --- what a caller hands over --------------------------------------------------------------------

const Refusal<Io> arguments[] = {
    {"AtomicFile::write", "the file", "finished", "must be open",
     [](auto& f) { f.finished->write(std::string_view("x")); }},
    {"AtomicFile::write", "the file", "committed", "must be open",
     [](auto& f) { f.committed->write(std::string_view("x")); }},
    {"AtomicFile::write", "the file", "given up after an error", "must be open",
     [](auto& f) { f.given_up->write(std::string_view("x")); }},
    {"AtomicFile::finish", "the file", "committed", "must be open or finished",
     [](auto& f) { f.committed->finish(); }},
    {"AtomicFile::finish", "the file", "given up after an error", "must be open or finished",
     [](auto& f) { f.given_up->finish(); }},
    {"AtomicFile::commit", "the file", "committed", "must be open or finished",
     [](auto& f) { f.committed->commit(); }},
    {"AtomicFile::commit", "the file", "given up after an error", "must be open or finished",
     [](auto& f) { f.given_up->commit(); }},

    {"StoredTensor::size", "shape", "[4611686018427387904, 4]", "must have sizes from 0",
     [](auto&) { (void)StoredTensor{"a", "F32", {Index{1} << 62, 4}}.size(); }},
    {"StoredTensor::size", "shape", "[-1]", "must have sizes from 0",
     [](auto&) { (void)StoredTensor{"a", "F32", {-1}}.size(); }},
    {"SafetensorsFile::bytes", "tensor 'b'", "F32 [2, 3] at bytes [0, 24]", "must be one of",
     [](auto& f) { (void)f.floats->bytes(f.other([](auto& t) { t.name = "b"; })); }},
    {"SafetensorsFile::bytes", "tensor 'a'", "[1000000, 1000024]", "must be one of",
     [](auto& f) {
       (void)f.floats->bytes(f.other([](auto& t) { t.begin = 1'000'000, t.end = 1'000'024; }));
     }},
    {"SafetensorsFile::bytes", "tensor 'a'", "[24, 0]", "must be one of",
     [](auto& f) { (void)f.floats->bytes(f.other([](auto& t) { std::swap(t.begin, t.end); })); }},
    {"SafetensorsFile::read", "tensor 'a'", "F64", "must be one of",
     [](auto& f) { f.floats->read(f.other([](auto& t) { t.dtype = "F64"; }), rows_of(f.out)); }},
    {"SafetensorsFile::read", "tensor 'a'", "[600, 1]", "must be one of",
     [](auto& f) {
       f.floats->read(f.other([](auto& t) { t.shape = {600, 1}; }), rows_of(f.out));
     }},
    {"SafetensorsFile::read", "tensor 'n'", "I32", "must be one of",
     [](auto& f) { f.floats->read(*f.integers->find("n"), rows_of(f.out)); }},
    {"SafetensorsFile::read", "elements of out", "4", "must equal elements of the tensor = 6",
     [](auto& f) { f.floats->read(f.tensor(), MatrixView<float>(f.out.data(), 2, 2)); }},
    {"SafetensorsFile::read", "out", "[-2, -3]", "must have sizes from 0",
     [](auto& f) { f.floats->read(f.tensor(), MatrixView<float>(f.out.data(), -2, -3)); }},
    {"SafetensorsFile::read", "out", "[4294967296, 4294967296]", "must have sizes from 0",
     [](auto& f) {
       f.floats->read(f.tensor(), MatrixView<float>(f.out.data(), Index{1} << 32, Index{1} << 32));
     }},
    {"SafetensorsFile::read", "stride", "2", "must be at least the number of columns, 3",
     [](auto& f) { f.floats->read(f.tensor(), MatrixView<float>(f.out.data(), 2, 3, 2)); }},
    {"SafetensorsFile::read", "out", "null", "must be at memory",
     [](auto& f) { f.floats->read(f.tensor(), MatrixView<float>(nullptr, 2, 3)); }},
    {"SafetensorsFile::read_transposed", "tensor 'b'", "F32", "must be one of",
     [](auto& f) {
       f.floats->read_transposed(f.other([](auto& t) { t.name = "b"; }), rows_of(f.turned));
     }},
    {"SafetensorsFile::read_transposed", "tensor 'a'", "[2, 3]", "must be [3, 2]",
     [](auto& f) { f.floats->read_transposed(f.tensor(), rows_of(f.out)); }},
    {"SafetensorsFile::read_transposed", "out", "[-3, -2]", "must have sizes from 0",
     [](auto& f) {
       f.floats->read_transposed(f.tensor(), MatrixView<float>(f.turned.data(), -3, -2));
     }},
    {"SafetensorsFile::read_transposed", "stride", "1", "must be at least the number of columns, 2",
     [](auto& f) {
       f.floats->read_transposed(f.tensor(), MatrixView<float>(f.turned.data(), 3, 2, 1));
     }},
    {"SafetensorsFile::read_transposed", "out", "null", "must be at memory",
     [](auto& f) { f.floats->read_transposed(f.tensor(), MatrixView<float>(nullptr, 3, 2)); }},
    {"SafetensorsFile::read_integers", "tensor 'a'", "F32", "must be one of",
     [](auto& f) { (void)f.integers->read_integers(f.tensor()); }},
    {"SafetensorsFile::check_is_float", "tensor 'n'", "I32", "must be one of",
     [](auto& f) { f.floats->check_is_float(*f.integers->find("n")); }},

    {"write_safetensors", "two tensors", "'a'", "must have different ones",
     [](auto& f) {
       f.write({{"a", {2, 3}, f.values()}, {"a", {2, 3}, f.values()}});
     }},
    {"write_safetensors", "the name of a tensor", "byte 0", "must be",
     [](auto& f) { f.write({{not_utf8, {2, 3}, f.values()}}); }},
    {"write_safetensors", "the name of a tensor", "__metadata__", "must be another",
     [](auto& f) { f.write({{"__metadata__", {2, 3}, f.values()}}); }},
    {"write_safetensors", "a key of metadata", "byte 0", "must be",
     [](auto& f) { f.write({{"a", {2, 3}, f.values()}}, {{not_utf8, ""}}); }},
    {"write_safetensors", "metadata 'k'", "byte 0", "must be",
     [](auto& f) { f.write({{"a", {2, 3}, f.values()}}, {{"k", not_utf8}}); }},
    {"write_safetensors", "tensor 'a'", "[3, 3]", "must be one of its 6 elements",
     [](auto& f) { f.write({3, 3}, 2, 3); }},
    {"write_safetensors", "tensor 'a'", "[-2, -3]", "must be one of its 6 elements",
     [](auto& f) { f.write({-2, -3}, 2, 3); }},
    {"write_safetensors", "values of tensor 'a'", "[-2, -3]", "must have sizes from 0",
     [](auto& f) { f.write({6}, -2, -3); }},
    {"write_safetensors", "values of tensor 'a'", "[4294967296, 4294967296]",
     "must have sizes from 0",
     [](auto& f) { f.write({0}, Index{1} << 32, Index{1} << 32); }},
    {"write_safetensors", "tensor 'a'", "ends at a byte", "must, and does not, fit 64 bits",
     [](auto& f) { f.write({Index{1} << 62}, Index{1} << 31, Index{1} << 31); }},
    {"write_safetensors", "values of tensor 'a' has the stride", "2", "must be at least",
     [](auto& f) { f.write({{"a", {2, 3}, {f.out.data(), 2, 3, 2}}}); }},
    {"write_safetensors", "values of tensor 'a'", "null", "must be at memory",
     [](auto& f) { f.write({{"a", {2, 3}, {nullptr, 2, 3}}}); }},
    {"AtomicFile::write", "the file", "finished", "must be open",
     [](auto& f) {
       write_safetensors<float>(*f.finished, {{"a", {2, 3}, f.values()}});
     }},

    {"save_model", "step", "-1", "must be in [0, 2^63 - 1)",
     [](auto& f) { save_model(f.folder / "file", f.model, f.adam, -1); }},
    {"save_model", "a key of metadata", "'reformer.x'", "must not begin with reformer.",
     [](auto& f) {
       save_model(f.folder / "file", f.model, {{"reformer.x", ""}});
     }},
    {"write_safetensors", "metadata 'k'", "byte 0", "must be",
     [](auto& f) {
       save_model(f.folder / "file", f.model, {{"k", not_utf8}});
     }},
    {"save_model", "a parameter", "'optimizer.x'", "must not begin with optimizer.",
     [](auto& f) {
       Model<float> renamed = f.model;
       renamed.for_each_parameter([](auto& p) { p.name = "optimizer.x"; });
       save_model(f.folder / "file", renamed);
     }},
    {"write_safetensors", "two tensors", "'x'", "must have different ones",
     [](auto& f) {
       Model<float> renamed = f.model;
       renamed.for_each_parameter([](auto& p) { p.name = "x"; });
       save_model(f.folder / "file", renamed);
     }},
    {"save_model", "steps of the optimizer", "-2", "must be in [0, 2^63 - 1)",
     [](auto& f) {
       Adam<float> adam;
       adam.steps() = -2;
       save_model(f.folder / "file", f.model, adam, 3);
     }},
    {"save_model", "steps of the optimizer", "2", "must be 0 before there is any state",
     [](auto& f) {
       Adam<float> adam;
       adam.steps() = 2;
       save_model(f.folder / "file", f.model, adam, 3);
     }},
    {"Adam::for_each_state", "feed_forward.dense.weight", "[12, 7]", "must be [12, 8]",
     [](auto& f) { save_model(f.folder / "file", f.narrower, f.adam, 3); }},
    {"model_config_text", "layers", "empty", "must have at least one",
     [](auto&) { model_config_text({.layers = {}}); }},
    {"model_config_text", "the configuration", "bytes as JSON", "must have at most 4194304",
     [](auto&) {
       model_config_text({.layers = std::vector<LayerPattern>(60'000, LocalPattern{})});
     }},
    {"parameter_shapes", "width", "0", "must be at least 1",
     [](auto&) { parameter_shapes({.width = 0}); }},

    {"huggingface_num_buckets", "length", "0", "must be at least 1",
     [](auto&) { huggingface_num_buckets(0, 4, 64); }},
    {"huggingface_num_buckets", "length", "9223372036854775807", "must be at most",
     [](auto&) { huggingface_num_buckets(most, 4, 64); }},
    {"huggingface_num_buckets", "chunk_length", "0", "must be at least 1",
     [](auto&) { huggingface_num_buckets(16, 0, 64); }},
    {"huggingface_num_buckets", "chunk_length", "9223372036854775807", "must be at most",
     [](auto&) { huggingface_num_buckets(16, most, 64); }},
    {"huggingface_num_buckets", "max_positions", "-1", "must be at least 1",
     [](auto&) { huggingface_num_buckets(16, 4, -1); }},
    {"huggingface_num_buckets", "max_positions", "9223372036854775807", "must be at most",
     [](auto&) { huggingface_num_buckets(16, 4, most); }},
    {"huggingface_padded_length", "length", "0", "must be at least 1",
     [](auto&) { huggingface_padded_length(small_config(), 0); }},
    {"huggingface_padded_length", "length", "9223372036854775807", "must be at most",
     [](auto&) { huggingface_padded_length(small_config(), most); }},
    {"huggingface_padded_length", "chunk_length", "0", "must be at least 1",
     [](auto& f) {
       f.config.model.layers = {LocalPattern{0}};
       huggingface_padded_length(f.config.model, 9);
     }},
    {"huggingface_padded_length", "chunk_length", "2147483648", "must be at most",
     [](auto& f) {
       f.config.model.layers = {LshPattern{max_size + 1}};
       huggingface_padded_length(f.config.model, 9);
     }},
    {"huggingface_padded_length", "least common multiple", "* 2147483645", "must be at most",
     [](auto& f) {
       f.config.model.layers = {LshPattern{max_size}, LshPattern{max_size - 1},
                                LshPattern{max_size - 2}};
       huggingface_padded_length(f.config.model, 9);
     }},
    {"huggingface_open_buckets", "length", "0", "must be at least 1",
     [](auto& f) { huggingface_open_buckets(f.config, 0); }},
    {"huggingface_open_buckets", "length", "9223372036854775807", "must be at most",
     [](auto& f) { huggingface_open_buckets(f.config, most); }},
    {"huggingface_open_buckets", "max_positions", "0", "must be at least 1",
     [](auto& f) {
       f.config.max_positions = 0;
       huggingface_open_buckets(f.config, 9);
     }},
    {"huggingface_open_buckets", "chunk_length", "0", "must be at least 1",
     [](auto& f) {
       f.config.model.layers = {LshPattern{0}};
       huggingface_open_buckets(f.config, 9);
     }},
    {"huggingface_config_text", "dtype", "byte 0", "must be",
     [](auto& f) { huggingface_config_text(f.config, not_utf8); }},

    {"huggingface_tensors", "vocabulary", "0", "must be at least 1",
     [](auto& f) {
       f.config.model.vocabulary = 0;
       huggingface_tensors(f.config.model);
     }},
    {"huggingface_tensors", "width", "4611686018427387904", "must be at most",
     [](auto& f) {
       f.config.model.width = Index{1} << 62;
       huggingface_tensors(f.config.model);
     }},
    {"check_huggingface_weights", "layers", "empty", "must have at least one",
     [](auto& f) {
       f.config.model.layers.clear();
       check_huggingface_weights(*f.weights, f.config.model);
     }},
    {"load_huggingface_weights", "parameter embedding.weight", "[12, 11]", "must be [11, 12]",
     [](auto& f) { load_huggingface_weights(*f.weights, f.reshaped); }},
    {"save_huggingface", "parameter embedding.weight", "[12, 11]", "must be [11, 12]",
     [](auto& f) { save_huggingface(f.folder / "new", f.reshaped, f.config); }},
    {"save_huggingface", "feed_forward_size", "8", "must be 7 as in the model",
     [](auto& f) { save_huggingface(f.folder / "new", f.narrower, f.config); }},
    {"save_huggingface", "padding_token", "11", "must be in [0, 11)",
     [](auto& f) {
       f.config.padding_token = V;
       save_huggingface(f.folder / "new", f.model, f.config);
     }},
    {"save_huggingface", "local_attn_chunk_length", "8", "must be 4 as in the model",
     [](auto& f) {
       std::get<LocalPattern>(f.config.model.layers[0].of_heads[0]).chunk_length = 8;
       save_huggingface(f.folder / "model", f.model, f.config);
     }},
    {"save_huggingface", "axial_pos_shape", "[8,4]", "must be [4,8] as in the model",
     [](auto& f) {
       f.config.model.positions = AxialPositions{{8, 4}, {4, 8}};
       save_huggingface(f.folder / "model", f.model, f.config);
     }},

    {"PaddedTokens::labels", "labels dimension 0", "3", "must equal batch = 2",
     [](auto& f) { f.padded.labels(random_tokens(3, 13, V, 1)); }},
    {"PaddedTokens::labels", "labels dimension 1", "16", "must equal length = 13",
     [](auto& f) { f.padded.labels(random_tokens(2, 16, V, 1)); }},
    {"PaddedTokens::labels", "length", "17", "must be at most 16",
     [](auto& f) { PaddedTokens{f.padded.tokens, {}, 17}.labels(f.tokens); }},
    {"PaddedTokens::labels", "length", "0", "must be at least 1",
     [](auto& f) { PaddedTokens{f.padded.tokens, {}, 0}.labels(Tokens(2, 0)); }},
    {"PaddedTokens::cut", "x dimension 0", "1", "must equal batch = 2",
     [](auto& f) { f.padded.cut(Tensor<float, 3>(1, 16, 4)); }},
    {"PaddedTokens::cut", "x dimension 1", "13", "must equal padded length = 16",
     [](auto& f) { f.padded.cut(Tensor<float, 3>(2, 13, 4)); }},
    {"PaddedTokens::cut", "length", "-1", "must be at least 1",
     [](auto& f) {
       PaddedTokens{f.padded.tokens, {}, -1}.cut(Tensor<float, 3>(2, 16, 4));
     }},
    {"huggingface_pad", "batch", "0", "must be at least 1",
     [](auto& f) { huggingface_pad(f.config, Tokens(0, 13)); }},
    {"huggingface_pad", "length", "0", "must be at least 1",
     [](auto& f) { huggingface_pad(f.config, Tokens(2, 0)); }},
    {"huggingface_pad", "token 3", "11", "must be in [0, 11)",
     [](auto& f) {
       Tokens wrong = f.tokens;
       wrong(0, 3) = V;
       huggingface_pad(f.config, wrong);
     }},
    {"huggingface_pad", "token 13", "-1", "must be in [0, 11)",
     [](auto& f) {
       Tokens wrong = f.tokens;
       wrong(1, 0) = -1;
       huggingface_pad(f.config, wrong);
     }},
    {"huggingface_pad", "is_real", "25", "must have B*T = 26",
     [](auto& f) { huggingface_pad(f.config, f.tokens, std::vector<std::uint8_t>(25, 1)); }},
    {"huggingface_pad", "padded length", "36", "must be at most 32",
     [](auto& f) { huggingface_pad(f.config, random_tokens(1, 33, V, 1)); }},
    {"huggingface_pad", "padded length", "16850989", "must be less than 2^24",
     [](auto& f) {
       f.config.model.layers = {LocalPattern{4099}, LshPattern{4111}};
       f.config.model.positions = LearnedPositions{max_size};
       huggingface_pad(f.config, random_tokens(1, 4100, V, 1));
     }},
    {"huggingface_pad", "padding_token", "-1", "must be in [0, 11)",
     [](auto& f) {
       f.config.padding_token = -1;
       huggingface_pad(f.config, f.tokens);
     }},
    {"huggingface_pad", "layers[0]: chunk_length", "0", "must be at least 1",
     [](auto& f) {
       f.config.model.layers = {LocalPattern{0}};
       huggingface_pad(f.config, f.tokens);
     }},

    {"huggingface_pad", "batch", "0", "must be at least 1",
     [](auto& f) { f.huggingface.pad(Tokens(0, 13)); }},
    {"huggingface_pad", "is_real", "1", "must have B*T = 26",
     [](auto& f) { f.huggingface.pad(f.tokens, std::vector<std::uint8_t>(1, 1)); }},
    {"huggingface_pad", "length", "0", "must be at least 1",
     [](auto& f) { f.huggingface.logits(f.workspace, Tokens(2, 0)); }},
    {"huggingface_pad", "padded length", "36", "must be at most 32",
     [](auto& f) { f.huggingface.encode(f.workspace, random_tokens(1, 33, V, 1)); }},
    {"huggingface_pad", "is_real", "1", "must have B*T = 26",
     [](auto& f) {
       const std::uint8_t mask[1] = {1};
       f.huggingface.logits(f.workspace, f.tokens, {.is_real = mask});
     }},
    {"HuggingFaceModel::loss", "labels dimension 0", "1", "must equal batch = 2",
     [](auto& f) { f.huggingface.loss(f.workspace, f.tokens, random_tokens(1, 13, V, 1)); }},
    {"HuggingFaceModel::loss", "labels dimension 1", "12", "must equal length = 13",
     [](auto& f) { f.huggingface.loss(f.workspace, f.tokens, random_tokens(2, 12, V, 1)); }},
    {"HuggingFaceModel::loss", "label 1", "11", "must be in [0, 11)",
     [](auto& f) {
       Tokens labels = f.tokens;
       labels(0, 1) = V;
       f.huggingface.loss(f.workspace, f.tokens, labels);
     }},
    {"HuggingFaceModel::loss_and_gradients", "labels dimension 1", "12", "must equal length = 13",
     [](auto& f) {
       f.huggingface.loss_and_gradients(f.workspace, f.tokens, random_tokens(2, 12, V, 1), 1, {});
     }},
    {"HuggingFaceModel::loss_and_gradients", "label 25", "-2", "must be in [0, 11)",
     [](auto& f) {
       Tokens labels = f.tokens;
       labels(1, 12) = -2;
       f.huggingface.loss_and_gradients(f.workspace, f.tokens, labels, 1, {});
     }},
    {"huggingface_pad", "length", "0", "must be at least 1",
     [](auto& f) { f.huggingface.next_token_logits(f.workspace, {}); }},
    {"huggingface_pad", "token 1", "11", "must be in [0, 11)",
     [](auto& f) {
       const std::int32_t tokens[2] = {0, V};
       f.huggingface.next_token_logits(f.workspace, tokens);
     }},
};

TEST(Entries, OfIo) {
  Io fixture;
  const HuggingFaceConfig config = fixture.config;
  std::size_t cases = 0;
  for (const auto& row : arguments) {
    cases += expect_refused<Io>(fixture, std::span(&row, 1));
    fixture.config = config;
  }
  expect_cases(cases, 100);
}

// --- configurations ------------------------------------------------------------------------------

const BadField<ModelConfig> model_fields[] = {
    {"vocabulary", "0", "must be at least 1", [](auto& c) { c.vocabulary = 0; }},
    {"width", "-12", "must be at least 1", [](auto& c) { c.width = -12; }},
    {"hidden_size", "33554432", "must be whole, from 1 to 16777216",
     [](auto& c) {
       c.width = 1 << 25;
       c.positions = LearnedPositions{4};
     }},
    {"num_attention_heads", "4097", "must be whole, from 1 to 4096",
     [](auto& c) { c.num_heads = 4097; }},
    {"feed_forward_width", "2147483648", "must be at most",
     [](auto& c) { c.feed_forward_width = max_size + 1; }},
    {"layer_norm_epsilon", "0", "must be", [](auto& c) { c.layer_norm_epsilon = 0; }},
    {"dropout", "1", "must be in [0, 1)", [](auto& c) { c.dropout = 1; }},
    {"activation", "3", "must be", [](auto& c) { c.activation = static_cast<Activation>(3); }},
    {"layers", "empty", "must have at least one", [](auto& c) { c.layers.clear(); }},
    {"layers[0]: chunk_length", "0", "must be at least 1",
     [](auto& c) { c.layers[0] = LocalPattern{0}; }},
    {"local_num_chunks_after", "1", "must be 0",
     [](auto& c) { std::get<LocalPattern>(c.layers[0].of_heads[0]).chunks_after = 1; }},
    {"positions", "sinusoidal", "axial and learned",
     [](auto& c) { c.positions = SinusoidalPositions{}; }},
    {"the number of factors of axial positions", "3", "must be 2 as in HuggingFace's Reformer",
     [](auto& c) {
       c.positions = AxialPositions{{4, 4, 2}};
     }},
    {"the heads of a layer", "2 kinds", "must be of one as in HuggingFace's Reformer",
     [](auto& c) { c.layers[0].of_heads.push_back(LshPattern{4}); }},
    {"a layer", "exact attention", "does not have", [](auto& c) { c.layers[0] = ExactPattern{}; }},
    {"a layer", "bucket_chunks", "sorted_chunks only",
     [](auto& c) {
       std::get<LshPattern>(c.layers[1].of_heads[0]).chunking = Chunking::bucket_chunks;
     }},
    {"values of a layer", "following", "must be own",
     [](auto& c) { std::get<LshPattern>(c.layers[1].of_heads[0]).values = Values::following; }},
    {"values of a layer", "mixed", "must be own",
     [](auto& c) { std::get<LshPattern>(c.layers[1].of_heads[0]).values = Values::mixed; }},
    {"rotary_width of a layer", "2", "must equal that of HuggingFace's Reformer, = 0",
     [](auto& c) { std::get<LshPattern>(c.layers[1].of_heads[0]).rotary_width = 2; }},
    {"scores of a layer", "cosines", "must be dot_product",
     [](auto& c) { std::get<LshPattern>(c.layers[1].of_heads[0]).scores = Scores::cosine; }},
    {"local layers", "differ", "cannot express",
     [](auto& c) { c.layers.push_back(LocalPattern{9}); }},
    {"LSH layers", "differ", "cannot express", [](auto& c) { c.layers.push_back(LshPattern{9}); }},
};

const BadField<HuggingFaceConfig> config_fields[] = {
    {"width", "0", "must be at least 1", [](auto& c) { c.model.width = 0; }},
    {"kind", "3", "must be language_model",
     [](auto& c) { c.kind = static_cast<HuggingFaceClass>(3); }},
    {"padding_token", "-1", "must be in [0, 11)", [](auto& c) { c.padding_token = -1; }},
    {"padding_token", "11", "must be in [0, 11)", [](auto& c) { c.padding_token = V; }},
    {"max_positions", "0", "must be at least 1", [](auto& c) { c.max_positions = 0; }},
    {"max_positions", "2147483649", "must be at most 2147483648",
     [](auto& c) { c.max_positions = (Index{1} << 31) + 1; }},
};

const BadField<HuggingFaceConfig> text_fields[] = {
    {"is_decoder", "false", "must be true", [](auto& c) { c.model.causal = false; }},
    {"circular", "false", "must be true",
     [](auto& c) { std::get<LocalPattern>(c.model.layers[0].of_heads[0]).circular = false; }},
    {"sort_padding", "false", "must be true",
     [](auto& c) { std::get<LshPattern>(c.model.layers[1].of_heads[0]).sort_padding = false; }},
    {"fields", "array", "must be an object", [](auto& c) { c.fields = Json::array({1}); }},
    {"fields", "not UTF-8", "must be", [](auto& c) { c.fields["x"] = not_utf8; }},
    {"hidden_act", "\"tanh\"", "must be relu", [](auto& c) { c.fields["hidden_act"] = "tanh"; }},
    {"text", "byte 1", "must come there", [](auto& c) { c.text = "{"; }},
    {"text", "not a JSON object", "begin with {", [](auto& c) { c.text = "[1]"; }},
    {"text", "key 'a'", "twice", [](auto& c) { c.text = R"({"a":1,"a":2})"; }},
    {"text", "131073 bytes", "must have at most 131072",
     [](auto& c) { c.text.assign(max_huggingface_config + 1, ' '); }},
};

TEST(Entries, OfHuggingFaceConfig) {
  const HuggingFaceConfig config = huggingface_config(small_config());
  const auto make_text = [](const auto& c) { huggingface_config_text(c, "float32"); };
  std::size_t cases = expect_refused<ModelConfig>("huggingface_config", small_config(),
                                                  model_fields, huggingface_config);
  cases += expect_refused<HuggingFaceConfig>("HuggingFaceModel", config, config_fields,
                                             [](const auto& c) { HuggingFaceModel<float>{c}; });
  cases += expect_refused<HuggingFaceConfig>("huggingface_config_text", config, config_fields,
                                             make_text);
  cases +=
      expect_refused<HuggingFaceConfig>("huggingface_config_text", config, text_fields, make_text);
  expect_cases(cases, 36);
}

// --- what a file or its name says ----------------------------------------------------------------

constexpr std::string_view behind_zero("file\0x", 6);

/// The function is that which answers; messages about files begin with the file.
const Refusal<Io> files[] = {
    {"AtomicFile", "cannot write ''", "the name is", "empty", [](auto&) { AtomicFile(""); }},
    {"AtomicFile", "cannot write", "file'", "goes on behind a zero byte",
     [](auto& f) { AtomicFile(f.folder / behind_zero); }},
    {"AtomicFile", "cannot write", "folder'", "Is a directory",
     [](auto& f) { AtomicFile(f.folder / "folder"); }},
    {"AtomicFile", "cannot write", "/dev/null'", "is not a regular file",
     [](auto&) { AtomicFile("/dev/null"); }},
    {"AtomicFile", "cannot write", "none/file'", "No such file or directory",
     [](auto& f) { AtomicFile(f.folder / "none/file"); }},
    {"AtomicFile", "cannot write", "xxx'", "File name too long",
     [](auto& f) { AtomicFile(f.folder / std::string(300, 'x')); }},
    {"write_file_atomically", "cannot write", "folder'", "Is a directory",
     [](auto& f) { write_file_atomically(f.folder / "folder", "new"); }},
    {"write_file_atomically", "cannot write", "file'", "File too large; the previous file is",
     [](auto& f) {
       const FileSizeLimit limit(1);
       write_file_atomically(f.folder / "file", "new");
     }},
    {"MappedFile", "cannot read ''", "the name is", "empty", [](auto&) { MappedFile(""); }},
    {"MappedFile", "cannot read", "file'", "goes on behind a zero byte",
     [](auto& f) { MappedFile(f.folder / behind_zero); }},
    {"MappedFile", "cannot read", "folder'", "Is a directory",
     [](auto& f) { MappedFile(f.folder / "folder"); }},
    {"MappedFile", "cannot read", "/dev/null'", "is not a regular file",
     [](auto&) { MappedFile("/dev/null"); }},
    {"MappedFile", "cannot read", "none'", "No such file or directory",
     [](auto& f) { MappedFile(f.folder / "none"); }},

    {"parse_json_object", "thing", "has 2 bytes", "must have at most 1",
     [](auto&) { parse_json_object("thing", "{}", 1); }},
    {"parse_json_object", "thing", "not a JSON object", "begin with {",
     [](auto&) { parse_json_object("thing", "", 9); }},
    {"parse_json_object", "thing", "not UTF-8", "byte 2",
     [](auto&) { parse_json_object("thing", "{\"\xff\":1}", 9); }},
    {"parse_json_object", "thing", "not JSON", "byte 1",
     [](auto&) { parse_json_object("thing", "{", 9); }},
    {"parse_json_object", "thing", "'a'", "twice",
     [](auto&) { parse_json_object("thing", R"({"a":1,"a":1})", 99); }},
    {"parse_json_object", "thing", "nested", "more than 32 deep",
     [](auto&) { parse_json_object("thing", "{\"a\":" + std::string(40, '['), 99); }},

    {"parse_safetensors", "has 0 bytes", "the length of a header alone", "has 8",
     [](auto&) { parse_safetensors({}); }},
    {"SafetensorsFile", "cannot read ''", "the name is", "empty",
     [](auto&) { SafetensorsFile(""); }},
    {"SafetensorsFile", "file'", "has 3 bytes", "has 8",
     [](auto& f) { SafetensorsFile{f.folder / "file"}; }},
    {"SafetensorsFile::read", "tensor 'n'", "I32", "must be F32, F64, F16 or BF16",
     [](auto& f) {
       f.integers->read(*f.integers->find("n"), MatrixView<float>(f.out.data(), 2, 1));
     }},
    {"SafetensorsFile::read_transposed", "tensor 'n'", "I32", "must be F32, F64, F16 or BF16",
     [](auto& f) {
       f.integers->read_transposed(*f.integers->find("n"), MatrixView<float>(f.out.data(), 1, 2));
     }},
    {"SafetensorsFile::read_integers", "tensor 'a'", "F32", "must be I64, I32, U8 or BOOL",
     [](auto& f) { (void)f.floats->read_integers(f.tensor()); }},
    {"SafetensorsFile::check_is_float", "tensor 'n'", "I32", "must be F32, F64, F16 or BF16",
     [](auto& f) { f.integers->check_is_float(*f.integers->find("n")); }},
    {"write_safetensors", "cannot write", "folder'", "Is a directory",
     [](auto& f) {
       write_safetensors<float>(f.folder / "folder", {{"a", {2, 3}, f.values()}});
     }},
    {"parse_safetensors_index", "index", "no object", "weight_map",
     [](auto&) { parse_safetensors_index("{}"); }},
    {"parse_safetensors_index", "index", "not text", "'a'",
     [](auto&) { parse_safetensors_index(R"({"weight_map":{"a":1}})"); }},
    {"parse_safetensors_index", "index", "'../file'", "must be a name without a folder",
     [](auto&) { parse_safetensors_index(R"({"weight_map":{"a":"../file"}})"); }},
    {"SafetensorsFolder", "cannot read ''", "the name is", "empty",
     [](auto&) { SafetensorsFolder(""); }},
    {"SafetensorsFolder", "folder'", "holds neither", "model.safetensors.index.json",
     [](auto& f) { SafetensorsFolder{f.folder / "folder"}; }},
    {"SafetensorsFolder", "model.safetensors.index.json'", "'../file'",
     "must be a name without a folder", [](auto& f) { SafetensorsFolder{f.folder / "index"}; }},

    {"ModelFile", "cannot read ''", "the name is", "empty", [](auto&) { ModelFile(""); }},
    {"ModelFile", "floats'", "is no model", "have no reformer.format",
     [](auto& f) { ModelFile(f.folder / "floats"); }},
    {"ModelFile", "file'", "has 3 bytes", "has 8", [](auto& f) { ModelFile(f.folder / "file"); }},
    {"load_model", "none'", "No such file", "or directory",
     [](auto& f) { load_model<float>(f.folder / "none"); }},
    {"load_model", "embedding.weight'", "F32 [11, 12] in the file", "F64 [11, 12] in the model",
     [](auto& f) { load_model<double>(f.folder / "trained"); }},
    {"load_parameters", "feed_forward.dense.weight'", "F32 [12, 8] in the file",
     "F32 [12, 7] in the model",
     [](auto& f) { load_parameters(f.folder / "trained", f.narrower); }},
    {"load_optimizer", "untrained'", "holds no state", "of an optimizer",
     [](auto& f) { load_optimizer(f.folder / "untrained", f.model, f.adam); }},
    {"load_optimizer", "trained'", "holds the state of adam", "must be that of adafactor",
     [](auto& f) { load_optimizer(f.folder / "trained", f.model, f.adafactor); }},
    {"load_optimizer", "optimizer.adam.first.layers.0.feed_forward.dense.weight'",
     "F32 [12, 8] in the file", "F32 [12, 7] in the model",
     [](auto& f) { load_optimizer(f.folder / "trained", f.narrower, f.adam); }},
    {"save_model", "cannot write", "folder'", "Is a directory",
     [](auto& f) { save_model(f.folder / "folder", f.model); }},
    {"parse_model_config", "config", "has no", "vocabulary",
     [](auto&) { parse_model_config("{}"); }},

    {"parse_huggingface_config", "vocab_size", "0", "must be whole, from 1",
     [](auto&) { parse_huggingface_config(R"({"vocab_size":0})"); }},
    {"load_huggingface_config", "cannot read ''", "the name is", "empty",
     [](auto&) { load_huggingface_config(""); }},
    {"load_huggingface_config", "none/config.json'", "No such file", "or directory",
     [](auto& f) { load_huggingface_config(f.folder / "none"); }},
    {"load_huggingface_config", "index/config.json'", "not JSON", "byte 1",
     [](auto& f) { load_huggingface_config(f.folder / "index"); }},
    {"HuggingFaceWeights", "none'", "holds neither", "model.safetensors.index.json",
     [](auto& f) { HuggingFaceWeights{f.folder / "none"}; }},
    {"check_huggingface_weights", "feed_forward.dense.dense.weight'", "[8, 12] in the file",
     "[7, 12] in the model",
     [](auto& f) { check_huggingface_weights(*f.weights, f.narrower.config()); }},
    {"load_huggingface_weights", "feed_forward.dense.dense.weight'", "[8, 12] in the file",
     "[7, 12] in the model", [](auto& f) { load_huggingface_weights(*f.weights, f.narrower); }},
    {"HuggingFaceModel::load", "cannot read ''", "the name is", "empty",
     [](auto&) { HuggingFaceModel<float>::load(""); }},
    {"HuggingFaceModel::load", "config.json'", "Is a", "directory",
     [](auto& f) { HuggingFaceModel<float>::load(f.folder / "folder"); }},
    {"HuggingFaceModel::save", "cannot write ''", "the name is", "empty",
     [](auto& f) { f.huggingface.save(""); }},
    {"save_huggingface", "cannot write", "folder'", "goes on behind a zero byte",
     [](auto& f) {
       save_huggingface(f.folder / std::string_view("folder\0x", 8), f.model, f.config);
     }},
    {"save_huggingface", "cannot create folder", "file'", "Not a directory",
     [](auto& f) { save_huggingface(f.folder / "file", f.model, f.config); }},
    {"save_huggingface", "cannot write", "folder/config.json'", "Is a directory",
     [](auto& f) { save_huggingface(f.folder / "folder", f.model, f.config); }},
};

TEST(Entries, OfFiles) {
  Io fixture;
  expect_cases(expect_refused<Io, std::runtime_error>(fixture, files), 55);
}

}  // namespace
}  // namespace reformer::test
