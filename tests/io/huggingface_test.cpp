// SPDX-License-Identifier: MIT
/// The layout of HuggingFace's Reformer: names and shapes, loading, saving, padding. That the
/// function is the same is in parity_test.cpp.
#include "reformer/io/huggingface.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "io/huggingface_files.hpp"
#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

/// A model with random weights.
template <typename Scalar>
HuggingFaceModel<Scalar> random_model(const Json& config) {
  HuggingFaceModel<Scalar> model(parse(config));
  randomize_parameters(model.model(), 3);
  return model;
}

/// Values of all parameters, one after another.
template <typename Scalar>
std::vector<Scalar> values_of(Model<Scalar>& model) {
  std::vector<Scalar> all;
  model.for_each_parameter(
      [&](auto& p) { all.insert(all.end(), p.value.data(), p.value.data() + p.size()); });
  return all;
}

// ---- names and shapes

TEST(HuggingFaceTensors, AreThoseOfThePublishedModels) {
  const Json published = json_of(data / "hf_pretrained_shapes.json");
  EXPECT_EQ(published["models"].size(), 2u);
  for (const auto& [name, model] : published["models"].items()) {
    const HuggingFaceConfig config = parse(model["config"]);
    std::map<std::string, Json> mine;
    Index parameters = 0;
    for (const HuggingFaceTensor& tensor : huggingface_tensors(config.model)) {
      const bool head = tensor.name.starts_with("lm_head.");
      mine[(head ? "" : "reformer.") + tensor.name] = tensor.shape;
      Index size = 1;
      for (const Index n : tensor.shape) size *= n;
      parameters += size;
    }
    std::map<std::string, Json> theirs;
    for (const auto& [tensor, shape] : model["parameters"].items()) theirs[tensor] = shape;
    EXPECT_EQ(mine, theirs) << name;
    EXPECT_EQ(parameters, model["num_parameters"].get<Index>()) << name;
  }
}

TEST(HuggingFaceTensors, AreTheParametersInTheirOrder) {
  for (const Json& changes :
       {Json::object(), Json{{"axial_pos_embds", false}, {"max_position_embeddings", 33}},
        Json{{"attn_layers", {"local", "lsh"}}, {"attention_head_size", 5}},
        Json{{"architectures", {"ReformerModel"}}}}) {
    HuggingFaceModel<float> model(parse(small_config(changes)));
    const auto tensors = huggingface_tensors(model.config().model);
    std::size_t i = 0;
    model.model().for_each_parameter([&](const Parameter<float>& p) {
      ASSERT_LT(i, tensors.size());
      EXPECT_EQ(tensors[i].parameter, p.name);
      Index size = 1;
      for (const Index n : tensors[i].shape) size *= n;
      EXPECT_EQ(size, p.size()) << p.name;
      if (tensors[i].transposed) {
        EXPECT_EQ(tensors[i].shape, (std::vector<Index>{p.value.cols(), p.value.rows()})) << p.name;
      }
      ++i;
    });
    EXPECT_EQ(i, tensors.size());
  }
}

// ---- loading and saving

/// The bytes of each tensor of a file.
std::map<std::string, std::string> tensors_of(const fs::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, std::string> tensors;
  for (const StoredTensor& tensor : file.tensors()) {
    const auto bytes = file.bytes(tensor);
    tensors[tensor.name] = detail::shape_text(tensor.shape) +
                           std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return tensors;
}

TEST(SaveHuggingFace, GivesTheBitsBack) {
  for (const std::string& fixture : fixtures) {
    SCOPED_TRACE(fixture);
    const TemporaryFolder folder;
    auto model = HuggingFaceModel<float>::load(data / fixture);
    model.save(folder / "first");
    auto expected = tensors_of(data / fixture / "model.safetensors");
    std::erase_if(expected, [](const auto& entry) {
      return entry.first.find("mask_value") != std::string::npos;
    });
    if (const auto decoder = expected.find("lm_head.decoder.bias"); decoder != expected.end()) {
      expected["lm_head.bias"] = decoder->second;
      expected.erase("lm_head.decoder.bias");
    }
    EXPECT_EQ(tensors_of(folder / "first/model.safetensors"), expected);
    EXPECT_EQ(read_file(folder / "first/config.json"), read_file(data / fixture / "config.json"));

    HuggingFaceModel<float>::load(folder / "first").save(folder / "second");
    EXPECT_EQ(read_file(folder / "second/model.safetensors"),
              read_file(folder / "first/model.safetensors"));
  }
}

TEST(SaveHuggingFace, WritesTheFileThatARecentVersionWrites) {
  const TemporaryFolder folder;
  HuggingFaceModel<float>::load(data / "mixed").save(folder.path());
  EXPECT_EQ(read_file(folder / "model.safetensors"), read_file(data / "mixed/model.safetensors"));
}

TEST(SaveHuggingFace, KeepsDoubleAndReplacesWhatIsThere) {
  const TemporaryFolder folder;
  HuggingFaceModel<float>::load(data / "lsh_tiny").save(folder.path());
  auto model = random_model<double>(small_config());
  model.save(folder.path());
  EXPECT_EQ(json_of(folder / "config.json")["torch_dtype"], "float64");
  auto again = HuggingFaceModel<double>::load(folder.path());
  EXPECT_TRUE(same_bits(values_of(again.model()), values_of(model.model())));
  EXPECT_EQ(SafetensorsFile(folder / "model.safetensors").tensors()[0].dtype, "F64");
}

// The weights of one model beside the config of another are no model.
TEST(SaveHuggingFace, WritesBothFilesOrNone) {
  const TemporaryFolder folder;
  auto model = random_model<float>(small_config());
  const auto message = [&](const fs::path& to) {
    return message_of<std::runtime_error>([&] { model.save(to); });
  };
  fs::create_directories(folder / "a/config.json");
  EXPECT_TRUE(contains(message(folder / "a"), "a/config.json': Is a directory"));
  EXPECT_FALSE(fs::exists(folder / "a/model.safetensors"));
  fs::create_directories(folder / "b/model.safetensors");
  EXPECT_TRUE(contains(message(folder / "b"), "b/model.safetensors': Is a directory"));
  EXPECT_FALSE(fs::exists(folder / "b/config.json"));
  write_file(folder / "file", "old");
  EXPECT_TRUE(contains(message(folder / "file"), "cannot create folder"));
  EXPECT_EQ(read_file(folder / "file"), "old");
  EXPECT_EQ(message(""), "cannot write '': the name is empty");

  model.save(folder / "c");
  const std::string weights = read_file(folder / "c/model.safetensors"),
                    config = read_file(folder / "c/config.json");
  auto other = random_model<float>(small_config({{"feed_forward_size", 48}}));
  for (const rlim_t bytes : {rlim_t{100}, rlim_t{4000}}) {  // too little for one, and for the other
    std::string full;
    {
      const FileSizeLimit limit(bytes);
      full = message_of<std::runtime_error>([&] { other.save(folder / "c"); });
    }
    EXPECT_TRUE(contains(full, "File too large; the previous file is unchanged"));
    EXPECT_EQ(read_file(folder / "c/model.safetensors"), weights);
    EXPECT_EQ(read_file(folder / "c/config.json"), config);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder / "c"), {}), 2);
  }
}

TEST(LoadHuggingFace, RefusesNamesOfWhatIsNoFile) {
  const TemporaryFolder folder;
  const auto message = [](const fs::path& path) {
    return message_of<std::runtime_error>([&] { HuggingFaceModel<float>::load(path); });
  };
  EXPECT_EQ(message(""), "cannot read '': the name is empty");
  EXPECT_EQ(message_of<std::runtime_error>([] { SafetensorsFolder(""); }),
            "cannot read '': the name is empty");
  fs::create_directory(folder / "config.json");
  EXPECT_TRUE(contains(message(folder.path()), "config.json': Is a directory"));
  fs::create_directory(folder / "model.safetensors.index.json");
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { SafetensorsFolder(folder.path()); }),
                       "model.safetensors.index.json': Is a directory"));
}

TEST(SaveHuggingFace, TakesAModelThatWasMadeHere) {
  ModelConfig config{.vocabulary = 40,
                     .width = 16,
                     .num_heads = 2,
                     .head_width = 8,
                     .feed_forward_width = 20,
                     .activation = Activation::gelu,
                     .positions = LearnedPositions{64},
                     .layers = {LocalPattern{8}, LshPattern{8, 1, 0, 2, {4}}},
                     .dropout = 0.25};
  Model<float> model(config);
  randomize_parameters(model, 4);
  const TemporaryFolder folder;
  save_huggingface(folder.path(), model, huggingface_config(config));
  auto loaded = HuggingFaceModel<float>::load(folder.path());
  EXPECT_TRUE(same_bits(values_of(loaded.model()), values_of(model)));
  EXPECT_EQ(json_of(folder / "config.json")["hidden_dropout_prob"], 0.25);
  EXPECT_EQ(json_of(folder / "config.json")["architectures"], (Json{"ReformerModelWithLMHead"}));
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 32, 40, 5);
  const RunOptions options{.key = {3}};
  EXPECT_TRUE(same_bits(loaded.logits(workspace, tokens, options),
                        model.logits(workspace, tokens, options)));

  const auto message = [&](auto change) {
    ModelConfig other = config;
    change(other);
    return message_of([&] { huggingface_config(other); });
  };
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.positions = SinusoidalPositions{}; }),
                       "positions are sinusoidal, HuggingFace's Reformer has axial and learned"));
  EXPECT_TRUE(
      contains(message([](ModelConfig& c) { c.tied_embedding = true; }),
               "tied_embedding is true, must be false: the head of HuggingFace's Reformer"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.layers.push_back(ExactPattern{}); }),
                       "a layer has exact attention"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.layers.push_back(LocalPattern{9}); }),
                       "the local layers differ"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.layers.push_back(LshPattern{9}); }),
                       "the LSH layers differ"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) {
                         std::get<LshPattern>(c.layers[1].of_heads[0]).chunking =
                             Chunking::bucket_chunks;
                       }),
                       "a layer has bucket_chunks"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) {
                         std::get<LshPattern>(c.layers[1].of_heads[0]).values = Values::following;
                       }),
                       "values of a layer are following, must be own"));
  config.layers = {LshPattern{8}};
  Model<float> other(config);
  EXPECT_TRUE(contains(
      message_of([&] {
        save_huggingface(folder.path(), other,
                         HuggingFaceModel<float>::load(folder.path()).config());
      }),
      "save_huggingface: config has attn_layers [\"local\",\"lsh\"], must be [\"lsh\"] as in"));
}

TEST(LoadHuggingFace, PrefersTheBiasOfTheDecoder) {
  // In this fixture lm_head.bias is zero, as a converter from trax leaves it.
  auto model = HuggingFaceModel<float>::load(data / "lsh_factorized");
  const SafetensorsFile file(data / "lsh_factorized/model.safetensors");
  Matrix<float> bias(1, 50), zeros(1, 50);
  file.read(*file.find("lm_head.decoder.bias"), rows_of(bias));
  file.read(*file.find("lm_head.bias"), rows_of(zeros));
  ASSERT_TRUE((zeros.array() == 0).all() && (bias.array() != 0).any());
  bool found = false;
  model.model().for_each_parameter([&](const Parameter<float>& p) {
    if (p.name != "head.bias") return;
    found = true;
    EXPECT_TRUE(same_bits(p.value, bias));
  });
  EXPECT_TRUE(found);
}

/// A folder with a small model whose tensors and config can be changed.
class Folder : public testing::Test {
 protected:
  explicit Folder(const Json& changes = Json::object()) : config(small_config(changes)) {
    auto model = random_model<float>(config);
    values = values_of(model.model());
    const auto tensors = huggingface_tensors(model.config().model);
    std::size_t i = 0;
    model.model().for_each_parameter([&](const Parameter<float>& p) {
      const HuggingFaceTensor& tensor = tensors.at(i++);
      const bool head = tensor.name.starts_with("lm_head.");
      matrices.push_back(tensor.transposed ? Matrix<float>(p.value.transpose()) : p.value);
      outgoing.push_back({(head ? "" : "reformer.") + tensor.name, tensor.shape, {}});
    });
  }

  void write() {
    for (std::size_t i = 0; i < outgoing.size(); ++i) {
      outgoing[i].values = rows_of(std::as_const(matrices[i]));
    }
    write_safetensors(folder / "model.safetensors", outgoing);
    write_file(folder / "config.json", config.dump());
  }
  std::vector<float> load() {
    write();
    return values_of(HuggingFaceModel<float>::load(folder.path()).model());
  }
  std::string message() {
    return message_of<std::runtime_error>([&] { load(); });
  }
  void add(const std::string& name, std::vector<Index> shape, float value) {
    Index size = 1;
    for (const Index n : shape) size *= n;
    matrices.push_back(Matrix<float>::Constant(1, size, value));
    outgoing.push_back({name, std::move(shape), {}});
  }
  std::size_t place(const std::string& name) {
    for (std::size_t i = 0; i < outgoing.size(); ++i) {
      if (outgoing[i].name == name) return i;
    }
    throw std::logic_error("no tensor " + name);
  }
  void remove(const std::string& name) {
    const auto i = static_cast<std::ptrdiff_t>(place(name));
    matrices.erase(matrices.begin() + i);
    outgoing.erase(outgoing.begin() + i);
  }

  TemporaryFolder folder;
  Json config;
  std::vector<float> values;
  std::vector<Matrix<float>> matrices;
  std::vector<OutgoingTensor<float>> outgoing;
};

TEST_F(Folder, LoadsWithAndWithoutThePrefix) {
  EXPECT_EQ(load(), values);
  for (auto& tensor : outgoing) {
    if (tensor.name.starts_with("reformer.")) tensor.name = tensor.name.substr(9);
  }
  EXPECT_EQ(load(), values);
}

TEST_F(Folder, LoadsWhatAWrapperSaved) {
  const auto names = outgoing;
  for (const std::string wrapper : {"module.", "_orig_mod.", "module._orig_mod.model."}) {
    for (const bool prefixed : {true, false}) {
      for (std::size_t i = 0; i < names.size(); ++i) {
        const std::string& name = names[i].name;
        outgoing[i].name =
            wrapper + (prefixed || !name.starts_with("reformer.") ? name : name.substr(9));
      }
      EXPECT_EQ(load(), values) << wrapper;
    }
  }
  // What the wrapper does not hold is not the model's.
  add("encoder.layer_norm.bias", {64}, 1.f);
  add("step", {}, 1.f);
  const std::string text = message();
  EXPECT_TRUE(contains(text, "'encoder.layer_norm.bias' [64] is unknown to the model"));
  EXPECT_TRUE(contains(text, "'step' [] is unknown to the model"));
  EXPECT_EQ(text.find("missing"), std::string::npos) << text;
}

TEST_F(Folder, AnotherModelIsOneSentence) {
  for (auto& tensor : outgoing) tensor.name = "transformer." + tensor.name + "_g";
  const std::string text = message();
  EXPECT_TRUE(
      contains(text, "holds no tensor of HuggingFace's Reformer, such as 'embeddings.word_"));
  EXPECT_LT(text.size(), 300u);
}

TEST_F(Folder, SaysWhatToDoAboutOtherFiles) {
  write();
  fs::rename(folder / "model.safetensors", folder / "pytorch_model.bin");
  const auto loading = [&] {
    return message_of<std::runtime_error>([&] { HuggingFaceModel<float>::load(folder.path()); });
  };
  EXPECT_TRUE(contains(loading(), "convert its pytorch_model.bin with save_pretrained("));
  write_file(folder / "model.safetensors",
             "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  EXPECT_TRUE(contains(loading(), "model.safetensors': is a pointer of Git LFS"));
}

TEST_F(Folder, LoadsBothSpellingsOfTheBias) {
  const std::size_t bias = place("lm_head.bias");
  outgoing[bias].name = "lm_head.decoder.bias";
  EXPECT_EQ(load(), values);
  add("lm_head.bias", {50}, 7.f);  // the decoder's counts
  EXPECT_EQ(load(), values);
}

TEST_F(Folder, IgnoresMaskConstants) {
  for (const char* name : {"mask_value_float16", "mask_value_float32", "self_mask_value_float16",
                           "self_mask_value_float32"}) {
    add(std::string("reformer.encoder.layers.0.attention.self_attention.") + name, {}, -1e4f);
  }
  EXPECT_EQ(load(), values);
}

TEST_F(Folder, ListsEverythingThatDoesNotFit) {
  const std::string gone = "reformer.encoder.layers.1.feed_forward.dense.dense.bias";
  remove(gone);
  remove("reformer.encoder.layers.0.attention.output.dense.weight");
  add("reformer.encoder.layers.2.attention.layer_norm.weight", {32}, 1.f);
  add("encoder.layers.0.attention.layer_norm.weight", {32}, 1.f);  // without the prefix
  add("reformer.encoder.layers.0.attention.self_attention.extra.mask_value", {}, 1.f);
  outgoing[place("reformer.embeddings.word_embeddings.weight")].shape = {32, 50};
  const std::string text = message();
  for (const char* part :
       {"does not fit its config: ",
        "'encoder.layers.1.feed_forward.dense.dense.bias' [64] is missing in the file",
        "'encoder.layers.0.attention.output.dense.weight' [32, 32] is missing in the file",
        "'encoder.layers.2.attention.layer_norm.weight' [32] is unknown to the model",
        "'encoder.layers.0.attention.layer_norm.weight' [32] is unknown to the model",
        "'encoder.layers.0.attention.self_attention.extra.mask_value' [] is unknown",
        "'embeddings.word_embeddings.weight' is [32, 50] in the file and [50, 32] in the model"}) {
    EXPECT_TRUE(contains(text, part));
  }
}

TEST_F(Folder, AxialTablesKeepTheirAxis) {
  outgoing[place("reformer.embeddings.position_embeddings.weights.0")].shape = {1, 8, 16};
  EXPECT_TRUE(contains(message(), "weights.0' is [1, 8, 16] in the file and [8, 1, 16]"));
}

TEST_F(Folder, ALanguageModelNeedsItsHead) {
  remove("lm_head.bias");
  remove("lm_head.decoder.weight");
  EXPECT_TRUE(contains(message(),
                       "'lm_head.decoder.weight' [50, 64] is missing in the file, "
                       "'lm_head.bias' [50] is missing in the file"));
}

TEST_F(Folder, NothingIsAllocatedForAConfigThatDoesNotFit) {
  config["vocab_size"] = 2'000'000'000;
  config["feed_forward_size"] = 100'000'000;
  EXPECT_TRUE(contains(message(),
                       "'embeddings.word_embeddings.weight' is [50, 32] in the file and "
                       "[2000000000, 32] in the model"));
}

TEST_F(Folder, AMisfitChangesNothing) {
  remove("reformer.encoder.layer_norm.bias");  // near the end
  write();
  HuggingFaceModel<float> model(parse(config));
  const HuggingFaceWeights weights(folder.path());
  EXPECT_TRUE(contains(
      message_of<std::runtime_error>([&] { load_huggingface_weights(weights, model.model()); }),
      "'encoder.layer_norm.bias' [64] is missing"));
  const auto after = values_of(model.model());
  EXPECT_EQ(std::count(after.begin(), after.end(), 1.f), 5 * 32 + 32) << "norms as made";
  EXPECT_EQ(std::count(after.begin(), after.end(), 0.f),
            static_cast<std::ptrdiff_t>(after.size()) - 6 * 32);
}

TEST_F(Folder, SomeParametersMayBeLeftAsTheyAre) {
  remove("lm_head.bias");
  outgoing[place("reformer.embeddings.position_embeddings.weights.0")].shape = {4, 1, 32};
  write();
  HuggingFaceModel<float> model(parse(config));
  const auto left = load_huggingface_weights(
      HuggingFaceWeights(folder.path()), model.model(), [](std::string_view name) {
        return name.starts_with("positions.") || name.starts_with("head.");
      });
  EXPECT_EQ(left, (Strings{"positions.weights.0", "head.bias"}));
}

TEST_F(Folder, DtypesAreConvertedOrNamed) {
  write();
  const auto rewrite = [&](const std::string& dtype, auto convert) {
    std::string header = "{", data_bytes;
    for (std::size_t i = 0; i < outgoing.size(); ++i) {
      const std::size_t begin = data_bytes.size();
      for (Index k = 0; k < matrices[i].size(); ++k) {
        const auto value = convert(matrices[i].data()[k]);
        data_bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
      }
      header += (i > 0 ? "," : "") + Json(outgoing[i].name).dump() + ":" +
                Json{{"dtype", dtype},
                     {"shape", outgoing[i].shape},
                     {"data_offsets", {begin, data_bytes.size()}}}
                    .dump();
    }
    header += "}";
    const std::uint64_t length = header.size();
    write_file(folder / "model.safetensors",
               std::string(reinterpret_cast<const char*>(&length), 8) + header + data_bytes);
  };
  const auto loaded = [&] {
    return values_of(HuggingFaceModel<float>::load(folder.path()).model());
  };
  const auto rounded = [&](auto type) {
    std::vector<float> result;
    for (const float x : values) result.push_back(static_cast<float>(decltype(type)(x)));
    return result;
  };
  rewrite("F64", [](float x) { return double{x}; });
  EXPECT_EQ(loaded(), values);
  rewrite("BF16", [](float x) { return Eigen::bfloat16(x); });
  EXPECT_EQ(loaded(), rounded(Eigen::bfloat16{}));
  rewrite("F16", [](float x) { return Eigen::half(x); });
  EXPECT_EQ(loaded(), rounded(Eigen::half{}));
  rewrite("I16", [](float x) { return static_cast<std::int16_t>(x); });
  const std::string text = message_of<std::runtime_error>(loaded);
  EXPECT_TRUE(contains(text, "has the dtype I16, must be F32, F64, F16 or BF16"));
  EXPECT_TRUE(contains(text, "word_embeddings.weight"));
}

TEST_F(Folder, ShardsAreLoaded) {
  for (std::size_t i = 0; i < outgoing.size(); ++i) {
    outgoing[i].values = rows_of(std::as_const(matrices[i]));
  }
  Json map;
  const auto half = static_cast<std::ptrdiff_t>(outgoing.size() / 2);
  const std::vector<OutgoingTensor<float>> first(outgoing.begin(), outgoing.begin() + half);
  const std::vector<OutgoingTensor<float>> second(outgoing.begin() + half, outgoing.end());
  for (const auto& tensor : first) map[tensor.name] = "model-00001-of-00002.safetensors";
  for (const auto& tensor : second) map[tensor.name] = "model-00002-of-00002.safetensors";
  write_safetensors(folder / "model-00001-of-00002.safetensors", first);
  write_safetensors(folder / "model-00002-of-00002.safetensors", second);
  write_file(folder / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  write_file(folder / "config.json", config.dump());
  EXPECT_EQ(values_of(HuggingFaceModel<float>::load(folder.path()).model()), values);
}

TEST_F(Folder, ErrorsNameTheFile) {
  write();
  write_file(folder / "config.json", "{");
  EXPECT_TRUE(contains(
      message_of<std::runtime_error>([&] { HuggingFaceModel<float>::load(folder.path()); }),
      "config.json': config is not JSON"));
  fs::remove(folder / "config.json");
  EXPECT_TRUE(contains(
      message_of<std::runtime_error>([&] { HuggingFaceModel<float>::load(folder.path()); }),
      "config.json': No such file or directory"));
}

// ---- running

TEST(HuggingFaceModel, ChoosesTheNumberOfBucketsOnce) {
  auto model = random_model<float>(
      small_config({{"num_buckets", nullptr}, {"max_position_embeddings", 64}}));
  Workspace workspace(1);
  const auto buckets = [&] {
    return std::get<LshPattern>(model.config().model.layers[1].of_heads[0]).num_buckets;
  };
  model.logits(workspace, random_tokens(1, 8, 50, 1));  // not hashed
  EXPECT_TRUE(buckets().empty());
  model.logits(workspace, random_tokens(1, 41, 50, 1));  // at 48
  EXPECT_EQ(buckets(), (std::vector<Index>{8}));
  model.logits(workspace, random_tokens(1, 64, 50, 1));
  EXPECT_EQ(buckets(), (std::vector<Index>{8}));
  const TemporaryFolder folder;
  model.save(folder.path());
  EXPECT_EQ(json_of(folder / "config.json")["num_buckets"], 8);
}

TEST(HuggingFaceModel, LogitsThatAreTooManyChooseNothing) {
  HuggingFaceModel<float> model(parse(small_config({{"num_buckets", nullptr},
                                                    {"vocab_size", 1 << 20},
                                                    {"max_position_embeddings", 1 << 21},
                                                    {"axial_pos_embds", false}})));
  model.model().initialize(1);
  Workspace workspace(1);
  Tokens tokens(1, (1 << 20) + 64);
  tokens.setZero();
  EXPECT_TRUE(contains(message_of([&] { model.logits(workspace, tokens); }),
                       "HuggingFaceModel::logits: B*T * vocabulary is 1048640 * 1048576"));
  EXPECT_TRUE(std::get<LshPattern>(model.config().model.layers[1].of_heads[0]).num_buckets.empty());
}

TEST(HuggingFaceModel, APassThatIsRefusedChoosesNothing) {
  const auto config = small_config({{"num_buckets", nullptr}, {"max_position_embeddings", 64}});
  auto model = random_model<float>(config);
  HuggingFaceModel<float> empty(model.config());
  HuggingFaceConfig without_head = model.config();
  without_head.kind = HuggingFaceClass::base;
  without_head.model.language_head = false;
  HuggingFaceModel<float> base(without_head);
  Workspace workspace(1);
  const Tokens tokens = random_tokens(1, 41, 50, 1);  // hashed
  const std::vector<std::uint8_t> none(41, 0);
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<std::string, std::function<void()>>> passes = {
      {"logits: num_hashes is -1", [&] { model.logits(workspace, tokens, {.num_hashes = -1}); }},
      {"logits: the model has no language head", [&] { base.logits(workspace, tokens); }},
      {"encode: num_hashes is -1", [&] { model.encode(workspace, tokens, {.num_hashes = -1}); }},
      {"encode: all parameters are zero", [&] { empty.encode(workspace, tokens); }},
      {"loss: num_hashes is -1",
       [&] { model.loss(workspace, tokens, tokens, {.num_hashes = -1}); }},
      {"loss_and_gradients: num_hashes is 1",
       [&] { model.loss_and_gradients(workspace, tokens, tokens, 1, {.num_hashes = 1}); }},
      {"loss_and_gradients: scale is inf",
       [&] { model.loss_and_gradients(workspace, tokens, tokens, infinity, {}); }},
      {"next_token_logits: is_real has no token", [&] {
         model.next_token_logits(workspace, {tokens.data(), 41}, {.is_real = none});
       }}};
  for (const auto& [message, pass] : passes) {
    EXPECT_TRUE(contains(message_of(pass), "HuggingFaceModel::" + message)) << message_of(pass);
    for (auto* of : {&model, &empty, &base}) {
      for (const auto& c : {of->config().model, of->model().config()}) {
        EXPECT_TRUE(std::get<LshPattern>(c.layers[1].of_heads[0]).num_buckets.empty()) << message;
      }
    }
  }
}

TEST(HuggingFaceModel, PadsAndCuts) {
  auto model = random_model<float>(small_config({{"pad_token_id", 3}}));
  const Tokens tokens = random_tokens(2, 13, 50, 1);
  std::vector<std::uint8_t> mask(26, 1);
  mask[4] = 0;
  const PaddedTokens padded = model.pad(tokens, mask);
  ASSERT_EQ(padded.tokens.dimension(1), 16);
  for (Index b = 0; b < 2; ++b) {
    for (Index t = 0; t < 16; ++t) {
      const bool inside = t < 13;
      EXPECT_EQ(padded.tokens(b, t), inside ? tokens(b, t) : 3);
      EXPECT_EQ(padded.is_real[static_cast<std::size_t>(b * 16 + t)],
                inside && !(b == 0 && t == 4) ? 1 : 0);
    }
  }
  EXPECT_TRUE(model.pad(random_tokens(2, 16, 50, 1)).is_real.empty());
  EXPECT_EQ(model.pad(random_tokens(2, 5, 50, 1)).tokens.dimension(1), 5);

  Workspace workspace(1);
  const auto logits = model.logits(workspace, tokens);
  EXPECT_EQ(logits.dimension(1), 13);
  EXPECT_EQ(model.encode(workspace, tokens).dimension(1), 13);
  // The last token of a sequence alone, padded too
  Tokens row(1, 13);
  std::copy_n(&tokens(1, 0), 13, row.data());
  const auto one = model.logits(workspace, row);
  const auto next =
      model.next_token_logits(workspace, {row.data(), static_cast<std::size_t>(row.size())});
  EXPECT_TRUE(same_bits(next, std::vector<float>(&one(0, 12, 0), &one(0, 12, 0) + 50)));
}

TEST(PaddedTokens, TakeOnlyWhatHasTheirShape) {
  const auto model = random_model<float>(small_config());
  const PaddedTokens padded = huggingface_pad(model.config(), random_tokens(2, 13, 50, 1));
  ASSERT_EQ(padded.tokens.dimension(1), 16);
  const auto message = [](const PaddedTokens& p, Index batch, Index length) {
    return message_of([&] { p.labels(random_tokens(batch, length, 50, 1)); });
  };
  EXPECT_EQ(message(padded, 3, 13),
            "reformer::PaddedTokens::labels: labels dimension 0 is 3, must equal batch = 2");
  EXPECT_TRUE(contains(message(padded, 1, 13), "labels dimension 0 is 1"));
  EXPECT_TRUE(contains(message(padded, 2, 12), "labels dimension 1 is 12, must equal length = 13"));
  EXPECT_TRUE(contains(message(padded, 2, 16), "labels dimension 1 is 16"));
  PaddedTokens longer = padded;
  longer.length = 17;
  EXPECT_TRUE(contains(message(longer, 2, 17), "length is 17, must be at most 16"));
  const auto cut = [&](Index batch, Index length) {
    return message_of([&] { padded.cut(Tensor<float, 3>(batch, length, 4)); });
  };
  EXPECT_EQ(cut(2, 12),
            "reformer::PaddedTokens::cut: x dimension 1 is 12, must equal padded length = 16");
  EXPECT_TRUE(contains(cut(2, 13), "x dimension 1 is 13"));
  EXPECT_TRUE(contains(cut(3, 16), "x dimension 0 is 3, must equal batch = 2"));
}

TEST(HuggingFacePad, RefusesWhatNoModelTakes) {
  HuggingFaceConfig config = parse(small_config({{"num_buckets", nullptr}}));
  const auto message = [&](const Tokens& tokens) {
    return message_of([&] { huggingface_pad(config, tokens); });
  };
  EXPECT_EQ(message(Tokens(0, 13)), "reformer::huggingface_pad: batch is 0, must be at least 1");
  EXPECT_TRUE(contains(message(Tokens(2, 0)), "length is 0, must be at least 1"));
  EXPECT_TRUE(contains(message(random_tokens(1, 65, 50, 1)),
                       "huggingface_pad: padded length is 72, must be at most 64, the number of"));
  Tokens wrong = random_tokens(1, 41, 50, 1);
  wrong(0, 7) = 50;
  EXPECT_TRUE(contains(message(wrong), "token 7 is 50, must be in [0, 50)"));

  // Nothing is fixed by a call that throws.
  auto model = random_model<float>(small_config({{"num_buckets", nullptr}}));
  Workspace workspace(1);
  const Tokens tokens = random_tokens(1, 41, 50, 1), labels = random_tokens(1, 40, 50, 1);
  EXPECT_TRUE(contains(message_of([&] { model.logits(workspace, wrong); }), "token 7 is 50"));
  EXPECT_TRUE(contains(message_of([&] { model.loss(workspace, tokens, labels); }), "labels"));
  EXPECT_TRUE(std::get<LshPattern>(model.config().model.layers[1].of_heads[0]).num_buckets.empty());

  config.padding_token = -1;
  EXPECT_TRUE(contains(message(random_tokens(1, 13, 50, 1)), "padding_token is -1, must be in"));
  config.model.width = Index{1} << 62;
  EXPECT_TRUE(contains(message_of([&] { huggingface_tensors(config.model); }),
                       "huggingface_tensors: width is 4611686018427387904, must be at most"));
}

TEST(HuggingFaceModel, CountsTheLabelsOfItsKind) {
  Tokens labels(1, 3);
  labels.setValues({{5, 6, ignored_label}});
  const auto of = [&](const char* kind, bool decoder) {
    HuggingFaceModel<float> model(
        parse(small_config({{"architectures", {kind}}, {"is_decoder", decoder}})));
    const Tokens counted = model.loss_labels(labels);
    return std::vector<int>(counted.data(), counted.data() + 3);
  };
  EXPECT_EQ(of("ReformerModelWithLMHead", true),
            (std::vector<int>{6, ignored_label, ignored_label}));
  EXPECT_EQ(of("ReformerForMaskedLM", false), (std::vector<int>{5, 6, ignored_label}));
}

TEST(HuggingFaceModel, LossIgnoresPadding) {
  auto model = random_model<double>(small_config());
  Workspace workspace(1);
  const Tokens tokens = random_tokens(2, 13, 50, 1);
  const Tokens labels = model.loss_labels(tokens);
  const Loss loss = model.loss(workspace, tokens, labels);
  EXPECT_EQ(loss.count, 24);
  model.model().zero_gradients();
  EXPECT_EQ(model.loss_and_gradients(workspace, tokens, labels, 1, {}).sum, loss.sum);
  EXPECT_TRUE(
      contains(message_of([&] { model.loss(workspace, tokens, random_tokens(2, 12, 50, 1)); }),
               "HuggingFaceModel::loss: labels dimension 1 is 12, must equal length = 13"));
  EXPECT_TRUE(contains(message_of([&] { model.pad(tokens, std::vector<std::uint8_t>(5, 1)); }),
                       "is_real has 5 elements, must have B*T = 26"));
}

}  // namespace
}  // namespace reformer::test
