// SPDX-License-Identifier: MIT
/// The layout of HuggingFace's Reformer: config, names and shapes, loading, saving, padding. That
/// the function is the same is in parity_test.cpp.
#include "reformer/io/huggingface.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "support/compare.hpp"
#include "support/errors.hpp"
#include "support/files.hpp"
#include "support/random_data.hpp"

namespace reformer::test {
namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

const fs::path data = fs::path(TEST_DATA) / "huggingface";
const Strings fixtures = {"encoder", "local_tiny", "lsh_factorized", "lsh_tiny", "mixed"};

Json json_of(const fs::path& path) {
  return Json::parse(read_file(path));
}

/// The config of a small language model, with changes.
Json small_config(const Json& changes = Json::object()) {
  Json config = json_of(data / "lsh_tiny/config.json");
  config.update(changes);
  return config;
}

HuggingFaceConfig parse(const Json& config) {
  return parse_huggingface_config(config.dump());
}

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

// ---- config

TEST(HuggingFaceConfig, HasTheDefaultsOfTransformers) {
  const HuggingFaceConfig config = parse_huggingface_config("{}");
  const ModelConfig& model = config.model;
  EXPECT_EQ(config.kind, HuggingFaceClass::base);
  EXPECT_FALSE(model.causal);
  EXPECT_FALSE(model.language_head);
  EXPECT_EQ(model.vocabulary, 320);
  EXPECT_EQ(model.width, 256);
  EXPECT_EQ(model.num_heads, 12);
  EXPECT_EQ(model.head_width, 64);
  EXPECT_EQ(model.feed_forward_width, 512);
  EXPECT_EQ(model.activation, Activation::relu);
  EXPECT_EQ(model.layer_norm_epsilon, 1e-12);
  EXPECT_EQ(config.padding_token, 0);
  EXPECT_EQ(config.max_positions, 4096);
  const auto& axial = std::get<AxialPositions>(model.positions);
  EXPECT_EQ(axial.shape, (std::array<Index, 2>{64, 64}));
  EXPECT_EQ(axial.widths, (std::array<Index, 2>{64, 192}));
  ASSERT_EQ(model.layers.size(), 6u);
  const auto& local = std::get<LocalPattern>(model.layers[0]);
  EXPECT_EQ(local.chunk_length, 64);
  EXPECT_EQ(local.chunks_before, 1);
  EXPECT_EQ(local.chunks_after, 0);
  EXPECT_TRUE(local.circular);
  const auto& lsh = std::get<LshPattern>(model.layers[5]);
  EXPECT_EQ(lsh.chunk_length, 64);
  EXPECT_EQ(lsh.chunks_before, 1);
  EXPECT_EQ(lsh.chunks_after, 0);
  EXPECT_EQ(lsh.num_hashes, 1);
  EXPECT_TRUE(lsh.num_buckets.empty());
  EXPECT_TRUE(lsh.sort_padding);
}

TEST(HuggingFaceConfig, TakesEveryFieldThatChangesTheFunction) {
  const HuggingFaceConfig config = parse({{"architectures", {"ReformerForMaskedLM"}},
                                          {"is_decoder", false},
                                          {"vocab_size", 11},
                                          {"hidden_size", 12},
                                          {"num_attention_heads", 3},
                                          {"attention_head_size", 5},
                                          {"feed_forward_size", 13},
                                          {"hidden_act", "gelu_new"},
                                          {"layer_norm_eps", 1e-6},
                                          {"axial_pos_embds", false},
                                          {"max_position_embeddings", 77},
                                          {"attn_layers", {"lsh", "local"}},
                                          {"num_hidden_layers", 2},
                                          {"lsh_attn_chunk_length", 4},
                                          {"lsh_num_chunks_before", 2},
                                          {"lsh_num_chunks_after", 3},
                                          {"num_hashes", 6},
                                          {"num_buckets", {4, 6}},
                                          {"local_attn_chunk_length", 7},
                                          {"local_num_chunks_before", 0},
                                          {"local_num_chunks_after", 8},
                                          {"pad_token_id", 9}});
  const ModelConfig& model = config.model;
  EXPECT_EQ(config.kind, HuggingFaceClass::masked_language_model);
  EXPECT_TRUE(model.language_head);
  EXPECT_FALSE(model.causal);
  EXPECT_EQ(model.vocabulary, 11);
  EXPECT_EQ(model.width, 12);
  EXPECT_EQ(model.num_heads, 3);
  EXPECT_EQ(model.head_width, 5);
  EXPECT_EQ(model.feed_forward_width, 13);
  EXPECT_EQ(model.activation, Activation::gelu_tanh);
  EXPECT_EQ(model.layer_norm_epsilon, 1e-6);
  EXPECT_EQ(std::get<LearnedPositions>(model.positions).max_length, 77);
  const auto& lsh = std::get<LshPattern>(model.layers.at(0));
  EXPECT_EQ(lsh.chunk_length, 4);
  EXPECT_EQ(lsh.chunks_before, 2);
  EXPECT_EQ(lsh.chunks_after, 3);
  EXPECT_EQ(lsh.num_hashes, 6);
  EXPECT_EQ(lsh.num_buckets, (std::vector<Index>{4, 6}));
  const auto& local = std::get<LocalPattern>(model.layers.at(1));
  EXPECT_EQ(local.chunk_length, 7);
  EXPECT_EQ(local.chunks_before, 0);
  EXPECT_EQ(local.chunks_after, 8);
  EXPECT_EQ(config.padding_token, 9);
  EXPECT_EQ(std::get<LshPattern>(parse({{"num_buckets", 8}}).model.layers[1]).num_buckets,
            (std::vector<Index>{8}));
}

TEST(HuggingFaceConfig, KnowsTheNamesOfActivations) {
  const std::pair<const char*, Activation> names[] = {
      {"relu", Activation::relu},           {"gelu", Activation::gelu},
      {"gelu_python", Activation::gelu},    {"gelu_new", Activation::gelu_tanh},
      {"gelu_fast", Activation::gelu_tanh}, {"gelu_pytorch_tanh", Activation::gelu_tanh}};
  for (const auto& [name, activation] : names) {
    EXPECT_EQ(parse({{"hidden_act", name}}).model.activation, activation) << name;
  }
}

TEST(HuggingFaceConfig, IgnoresWhatHasNoEffect) {
  const Json plain = small_config();
  Json more = plain;
  more.update(Json{{"hidden_dropout_prob", 0.5},
                   {"lsh_attention_probs_dropout_prob", 0.5},
                   {"local_attention_probs_dropout_prob", 0.5},
                   {"attention_probs_dropout_prob", 0.5},
                   {"chunk_size_lm_head", 64},
                   {"chunk_size_feed_forward", 64},
                   {"hash_seed", 7},
                   {"seed", 7},
                   {"num_chunks_before", 3},
                   {"sinusoidal_pos_embds", true},
                   {"use_cache", false},
                   {"axial_norm_std", 2.0},
                   {"initializer_range", 2.0},
                   {"eos_token_id", 1},
                   {"task_specific_params", {{"text-generation", {{"max_length", 100}}}}}});
  EXPECT_EQ(detail::function_fields(parse(more)), detail::function_fields(parse(plain)));
  EXPECT_EQ(parse(more).model.dropout, 0);
}

struct Refused {
  const char* name;
  std::string text;
  std::string error;
};

void PrintTo(const Refused& c, std::ostream* out) {
  *out << c.name;
}

Refused with(const char* name, const Json& changes, const std::string& error) {
  return {name, small_config(changes).dump(), error};
}

std::vector<Refused> refused_configs() {
  std::string deep = R"({"a":)";
  for (int i = 0; i < 40; ++i) deep += R"({"a":)";
  return {
      {"Empty", "", "config is not a JSON object: it does not begin with {"},
      {"List", "[1]", "config is not a JSON object"},
      {"Open", "{\"a\": 1", "config is not JSON: byte 7"},
      {"Comment", "{} // hello", "config is not JSON: byte 3"},
      {"NotUtf8", "{\"a\": \"\xfe\"}", "config is not UTF-8: byte 7"},
      {"KeyTwice", R"({"hidden_size": 1, "hidden_size": 2})",
       "config has the key 'hidden_size' twice"},
      {"Deep", deep, "config is nested more than 32 deep"},
      {"Huge", "{" + std::string(200'000, ' ') + "}", "config has 200002 bytes, must have at most"},
      with("ModelType", {{"model_type", "bert"}}, R"(model_type "bert", must be "reformer")"),
      with("Architecture", {{"architectures", {"ReformerForSequenceClassification"}}},
           R"(architectures ["ReformerForSequenceClassification"], must be)"),
      with("TwoArchitectures", {{"architectures", {"ReformerModel", "ReformerModelWithLMHead"}}},
           R"(architectures ["ReformerModel","ReformerModelWithLMHead"], must be)"),
      with("Tied", {{"tie_word_embeddings", true}}, "tie_word_embeddings true, must be false"),
      with("TiedText", {{"tie_word_embeddings", "no"}},
           R"(tie_word_embeddings "no", must be true or false)"),
      with("PrunedHeads", {{"pruned_heads", {{"0", {1}}}}}, "pruned_heads {\"0\":[1]}, must be"),
      with("Quantised", {{"quantization_config", {{"bits", 4}}}},
           "quantization_config {\"bits\":4}"),
      with("EncoderDecoder", {{"is_encoder_decoder", true}}, "is_encoder_decoder true, must be"),
      with("CrossAttention", {{"add_cross_attention", true}}, "add_cross_attention true, must be"),
      with("DecoderText", {{"is_decoder", 1}}, "is_decoder 1, must be true or false"),
      with("LanguageModelEncoder", {{"is_decoder", false}},
           "is_decoder false, must be true for ReformerModelWithLMHead"),
      with("MaskedDecoder", {{"architectures", {"ReformerForMaskedLM"}}},
           "is_decoder true, must be false for ReformerForMaskedLM"),
      with("LanguageModelSeesAhead", {{"lsh_num_chunks_after", 1}},
           "lsh_num_chunks_after 1, must be 0 for ReformerModelWithLMHead"),
      with("VocabularyZero", {{"vocab_size", 0}},
           "vocab_size 0, must be whole, from 1 to 2147483647"),
      with("WidthNegative", {{"hidden_size", -32}}, "hidden_size -32, must be whole, from 1 to"),
      with("WidthHuge", {{"hidden_size", 1ll << 40}}, "hidden_size 1099511627776, must be whole"),
      with("WidthBeyond63Bits", {{"hidden_size", 18446744073709551615ull}},
           "hidden_size 18446744073709551615, must be whole"),
      with("WidthFraction", {{"hidden_size", 32.5}}, "hidden_size 32.5, must be whole"),
      with("WidthText", {{"hidden_size", "32"}}, "hidden_size \"32\", must be whole"),
      with("Heads", {{"num_attention_heads", 0}}, "num_attention_heads 0, must be whole"),
      with("HeadSize", {{"attention_head_size", nullptr}, {"num_attention_heads", true}},
           "num_attention_heads true, must be whole"),
      with("FeedForward", {{"feed_forward_size", {64}}}, "feed_forward_size [64], must be whole"),
      with("Activation", {{"hidden_act", "silu"}}, "hidden_act \"silu\", must be relu, gelu,"),
      with("ActivationNumber", {{"hidden_act", 3}}, "hidden_act 3, must be relu, gelu,"),
      with("Epsilon", {{"layer_norm_eps", 0}}, "layer_norm_eps 0, must be a number above 0"),
      with("EpsilonText", {{"layer_norm_eps", "1e-12"}}, "layer_norm_eps \"1e-12\", must be"),
      with("AxialThree", {{"axial_pos_shape", {4, 4, 4}}},
           "axial_pos_shape [4,4,4], must be two numbers"),
      with("AxialZero", {{"axial_pos_shape", {0, 64}}}, "axial_pos_shape [0,64], must be whole"),
      with("AxialNumber", {{"axial_pos_shape", 64}}, "axial_pos_shape 64, must be a list"),
      with("AxialWidths", {{"axial_pos_embds_dim", {16, 17}}},
           "axial_pos_embds_dim [16,17], must be two numbers whose sum is hidden_size 32"),
      with("AxialFlag", {{"axial_pos_embds", "yes"}}, "axial_pos_embds \"yes\", must be true"),
      with("Positions", {{"axial_pos_embds", false}, {"max_position_embeddings", 0}},
           "max_position_embeddings 0, must be whole"),
      with("NoLayers", {{"attn_layers", Json::array()}}, "attn_layers [], must be a list"),
      with("OtherLayer", {{"attn_layers", {"lsh", "full"}}}, "attn_layers [\"lsh\",\"full\"]"),
      with("NumberOfLayers", {{"num_hidden_layers", 3}},
           "num_hidden_layers 3, must be the length of attn_layers, 2"),
      with("Chunk", {{"lsh_attn_chunk_length", 0}}, "lsh_attn_chunk_length 0, must be whole"),
      with("ChunksBefore", {{"lsh_num_chunks_before", -1}}, "lsh_num_chunks_before -1, must be"),
      with("LocalChunk",
           {{"attn_layers", {"local"}}, {"num_hidden_layers", 1}, {"local_attn_chunk_length", 1.0}},
           "local_attn_chunk_length 1.0, must be whole"),
      with("Hashes", {{"num_hashes", 0}}, "num_hashes 0, must be whole"),
      with("OddBuckets", {{"num_buckets", 7}}, "num_buckets 7, must be null, an even number"),
      with("OddFactor", {{"num_buckets", {4, 3}}}, "num_buckets [4,3], must be null, an even"),
      with("NoFactors", {{"num_buckets", Json::array()}}, "num_buckets [], must be null"),
      with("TooManyBuckets", {{"num_buckets", {256, 256}}}, "num_buckets [256,256], must be null"),
      with("BucketsText", {{"num_buckets", "auto"}}, "num_buckets \"auto\", must be whole"),
      with("PaddingToken", {{"pad_token_id", 50}}, "pad_token_id 50, must be whole, from 0 to 49"),
  };
}

class RefusedConfig : public testing::TestWithParam<Refused> {};

TEST_P(RefusedConfig, NamesFieldValueAndWhatIsAllowed) {
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { parse_huggingface_config(GetParam().text); }),
               GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(HuggingFace, RefusedConfig, testing::ValuesIn(refused_configs()),
                         [](const auto& c) { return std::string(c.param.name); });

TEST(HuggingFaceConfig, ComesOutAsItWasRead) {
  for (const std::string& fixture : fixtures) {
    const std::string text = read_file(data / fixture / "config.json");
    EXPECT_EQ(huggingface_config_text(parse_huggingface_config(text), "float32"), text) << fixture;
  }
  // Another spelling of the same function stays.
  Json config = small_config({{"num_buckets", {8}}, {"hidden_act", "gelu_fast"}});
  EXPECT_EQ(huggingface_config_text(parse(config), "float32"), config.dump(2) + "\n");
}

TEST(HuggingFaceConfig, SaysWhatHasChanged) {
  HuggingFaceConfig config = parse(small_config({{"num_buckets", nullptr}}));
  std::get<LshPattern>(config.model.layers[0]).num_buckets = {4, 8};
  std::get<LshPattern>(config.model.layers[1]).num_buckets = {4, 8};
  config.model.positions = AxialPositions{{8, 16}, {16, 16}};
  const Json text = Json::parse(huggingface_config_text(config, "float64"));
  EXPECT_EQ(text["num_buckets"], (Json{4, 8}));
  EXPECT_EQ(text["axial_pos_shape"], (Json{8, 16}));
  EXPECT_EQ(text["torch_dtype"], "float64");
}

TEST(HuggingFaceNumBuckets, FollowsTheTable) {
  const Json table = json_of(data / "num_buckets_auto.json");
  ASSERT_EQ(table["columns"], (Json{"sequence_length", "lsh_attn_chunk_length",
                                    "max_position_embeddings", "num_buckets"}));
  EXPECT_EQ(table["rows"].size(), 288u);
  for (const Json& row : table["rows"]) {
    const auto factors = huggingface_num_buckets(row[0], row[1], row[2]);
    const Json expected = row[3].is_array() ? row[3] : Json::array({row[3]});
    EXPECT_EQ(Json(factors), expected) << row;
  }
}

TEST(HuggingFacePaddedLength, IsAMultipleOfAllChunkLengths) {
  const auto padded = [](std::vector<AttentionPattern> layers, Index length) {
    ModelConfig config;
    config.layers = std::move(layers);
    return huggingface_padded_length(config, length);
  };
  const std::vector<AttentionPattern> both = {LocalPattern{8}, LshPattern{16}, LocalPattern{8}};
  EXPECT_EQ(padded(both, 7), 7);
  EXPECT_EQ(padded(both, 8), 8);
  EXPECT_EQ(padded(both, 9), 16);
  EXPECT_EQ(padded(both, 12), 16);
  EXPECT_EQ(padded(both, 16), 16);
  EXPECT_EQ(padded(both, 17), 32);
  EXPECT_EQ(padded({LocalPattern{8}, LshPattern{12}}, 9), 24);
  EXPECT_EQ(padded({LocalPattern{8}, LshPattern{12}}, 25), 48);
  EXPECT_EQ(padded({LshPattern{12}}, 13), 24);
  EXPECT_EQ(padded({LocalPattern{8}}, 21), 24);
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
    tensors[tensor.name] = shape_text(tensor.shape) +
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
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.layers.push_back(ExactPattern{}); }),
                       "a layer has exact attention"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.layers.push_back(LocalPattern{9}); }),
                       "the local layers differ"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) { c.layers.push_back(LshPattern{9}); }),
                       "the LSH layers differ"));
  EXPECT_TRUE(contains(message([](ModelConfig& c) {
                         std::get<LshPattern>(c.layers[1]).chunking = Chunking::bucket_chunks;
                       }),
                       "a layer has bucket_chunks"));
  config.layers = {LshPattern{8}};
  Model<float> other(config);
  EXPECT_TRUE(contains(message_of([&] {
                         save_huggingface(folder.path(), other,
                                          HuggingFaceModel<float>::load(folder.path()).config());
                       }),
                       "is not in the config"));
}

TEST(LoadHuggingFace, PrefersTheBiasOfTheDecoder) {
  // In this fixture lm_head.bias is zero, as a converter from trax leaves it.
  auto model = HuggingFaceModel<float>::load(data / "lsh_factorized");
  const SafetensorsFile file(data / "lsh_factorized/model.safetensors");
  Matrix<float> bias(1, 50), zeros(1, 50);
  file.read(*file.find("lm_head.decoder.bias"), view(bias));
  file.read(*file.find("lm_head.bias"), view(zeros));
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
      outgoing[i].values = view(std::as_const(matrices[i]));
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
    outgoing[i].values = view(std::as_const(matrices[i]));
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
    return std::get<LshPattern>(model.config().model.layers[1]).num_buckets;
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
               "labels have another shape than tokens"));
  EXPECT_TRUE(contains(message_of([&] { model.pad(tokens, std::vector<std::uint8_t>(5, 1)); }),
                       "is_real has 5 elements, must have B*T = 26"));
}

}  // namespace
}  // namespace reformer::test
