// SPDX-License-Identifier: MIT
/// config.json of HuggingFace's Reformer: what is read, what is refused, what is written.
#include <gtest/gtest.h>

#include "io/huggingface_files.hpp"
#include "support/errors.hpp"

namespace reformer::test {
namespace {

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
  EXPECT_EQ(axial.shape, (std::vector<Index>{64, 64}));
  EXPECT_EQ(axial.widths, (std::vector<Index>{64, 192}));
  ASSERT_EQ(model.layers.size(), 6u);
  const auto& local = std::get<LocalPattern>(model.layers[0].of_heads[0]);
  EXPECT_EQ(local.chunk_length, 64);
  EXPECT_EQ(local.chunks_before, 1);
  EXPECT_EQ(local.chunks_after, 0);
  EXPECT_TRUE(local.circular);
  const auto& lsh = std::get<LshPattern>(model.layers[5].of_heads[0]);
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
  const auto& lsh = std::get<LshPattern>(model.layers.at(0).of_heads[0]);
  EXPECT_EQ(lsh.chunk_length, 4);
  EXPECT_EQ(lsh.chunks_before, 2);
  EXPECT_EQ(lsh.chunks_after, 3);
  EXPECT_EQ(lsh.num_hashes, 6);
  EXPECT_EQ(lsh.num_buckets, (std::vector<Index>{4, 6}));
  const auto& local = std::get<LocalPattern>(model.layers.at(1).of_heads[0]);
  EXPECT_EQ(local.chunk_length, 7);
  EXPECT_EQ(local.chunks_before, 0);
  EXPECT_EQ(local.chunks_after, 8);
  EXPECT_EQ(config.padding_token, 9);
  EXPECT_EQ(
      std::get<LshPattern>(parse({{"num_buckets", 8}}).model.layers[1].of_heads[0]).num_buckets,
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
  EXPECT_EQ(detail::function_fields("", parse(more)), detail::function_fields("", parse(plain)));
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
  EXPECT_EQ(huggingface_config_text(parse(config), "float32"), config.dump());
}

TEST(HuggingFaceConfig, ComesOutHoweverItWasSpelled) {
  const std::string small = small_config().dump();
  const std::string texts[] = {
      "{}",
      " \t\r\n{ }\n",
      R"({"id2label": {"0": "n\u00e9gatif", "1": "positif \/ \ud83d\ude00"}})",
      "{\"id2label\": {\"0\": \"n\xc3\xa9gatif\"}}",
      R"({"vocab\u005fsize": 32, "layer_norm_eps": 1e-12, "x\"}": "{\\\"", "initializer_range": 2.50E-2})",
      R"({"layer_norm_eps":0.000000000001,"big":123456789012345678901234567890,"minus":-0,"one":1.0})",
      R"({"z": null, "a": [ 1,2 , {"b" : [ ]}], "vocab_size" :320 })",
      "{\r\n\t\"num_hashes\": 2,\r\n\t\"attn_layers\": [\r\n\t\t\"lsh\"]\r\n}\r\n",
      small,
      small_config().dump(4) + "\n\n"};
  for (const std::string& text : texts) {
    EXPECT_EQ(huggingface_config_text(parse_huggingface_config(text), "float32"), text);
  }
}

TEST(HuggingFaceConfig, ChangesOnlyWhatHasChanged) {
  const auto saved = [](const std::string& text) {
    HuggingFaceConfig config = parse_huggingface_config(text);
    std::get<LshPattern>(config.model.layers.at(0).of_heads[0]).num_buckets = {4, 8};
    return huggingface_config_text(config, "float64");
  };
  EXPECT_EQ(
      saved(R"({ "attn_layers":["lsh"], "n\u00e9":"\u00e9", "num_buckets" : null,"x":1e-12 })"),
      R"({ "attn_layers":["lsh"], "n\u00e9":"\u00e9", "num_buckets" : [4,8],"x":1e-12, )"
      R"("torch_dtype":"float64" })");
  EXPECT_EQ(saved("{\r\n  \"attn_layers\": [\"lsh\"],\r\n  \"x\": 1.50,\r\n"
                  "  \"dtype\": \"float32\"\r\n}\r\n"),
            "{\r\n  \"attn_layers\": [\"lsh\"],\r\n  \"x\": 1.50,\r\n"
            "  \"dtype\": \"float64\",\r\n"
            "  \"num_buckets\": [\r\n    4,\r\n    8\r\n  ]\r\n}\r\n");
  EXPECT_EQ(saved("{\n\t\"attn_layers\": [\"lsh\"],\n\t\"num_buckets\": 16\n}"),
            "{\n\t\"attn_layers\": [\"lsh\"],\n\t\"num_buckets\": [\n\t\t4,\n\t\t8\n\t],\n"
            "\t\"torch_dtype\": \"float64\"\n}");
}

TEST(HuggingFaceConfig, KeepsWhatSomebodyAdded) {
  HuggingFaceConfig config = parse_huggingface_config(R"({"a": "\u00e9", "b": 1})");
  config.fields["c"] = 2;
  EXPECT_EQ(huggingface_config_text(config, "float32"), R"({"a": "\u00e9", "b": 1,"c":2})");
  config.fields.erase("b");
  EXPECT_EQ(huggingface_config_text(config, "float32"), config.fields.dump(2) + "\n");
}

TEST(HuggingFaceConfig, MessagesAreUtf8) {
  // Cut in the middle of a letter, whatever is in front.
  for (const std::string front : {"", "a"}) {
    std::string value = front;
    for (int i = 0; i < 100; ++i) value += "\xc3\xa9";
    for (const std::string& text : {Json{{"hidden_act", value}}.dump(),
                                    R"({")" + value + R"(": 1, ")" + value + R"(": 1})"}) {
      const std::string message =
          message_of<std::runtime_error>([&] { parse_huggingface_config(text); });
      EXPECT_TRUE(contains(message, "\xc3\xa9..."));
      EXPECT_EQ(first_non_utf8(message), message.size()) << message;
    }
  }
}

TEST(HuggingFaceConfig, SaysWhatHasChanged) {
  HuggingFaceConfig config = parse(small_config({{"num_buckets", nullptr}}));
  std::get<LshPattern>(config.model.layers[0].of_heads[0]).num_buckets = {4, 8};
  std::get<LshPattern>(config.model.layers[1].of_heads[0]).num_buckets = {4, 8};
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

TEST(HuggingFaceNumBuckets, RefusesSizesThatNothingHas) {
  const auto message = [](Index length, Index chunk, Index positions) {
    return message_of([&] { huggingface_num_buckets(length, chunk, positions); });
  };
  EXPECT_EQ(message(0, 4, 64),
            "reformer::huggingface_num_buckets: length is 0, must be at least 1");
  EXPECT_TRUE(contains(message(64, 0, 64), "chunk_length is 0, must be at least 1"));
  EXPECT_TRUE(contains(message(64, -4, 64), "chunk_length is -4, must be at least 1"));
  EXPECT_TRUE(contains(message(64, 4, -1), "max_positions is -1, must be at least 1"));
  constexpr Index huge = std::numeric_limits<Index>::max();
  EXPECT_TRUE(contains(message(huge, 1, 64), "length is 9223372036854775807, must be at most"));
  EXPECT_TRUE(contains(message(64, huge, 64), "chunk_length is 92233"));
  EXPECT_TRUE(contains(message(64, 4, huge), "max_positions is 92233"));
}

TEST(HuggingFacePaddedLength, RefusesSizesThatNothingHas) {
  const auto message = [](std::vector<LayerPattern> layers, Index length) {
    ModelConfig config;
    config.layers = std::move(layers);
    return message_of([&] { huggingface_padded_length(config, length); });
  };
  EXPECT_EQ(message({LocalPattern{0}}, 8),
            "reformer::huggingface_padded_length: chunk_length is 0, must be at least 1");
  EXPECT_TRUE(contains(message({LshPattern{-8}}, 8), "chunk_length is -8, must be at least 1"));
  EXPECT_TRUE(contains(message({LocalPattern{8}}, 0), "length is 0, must be at least 1"));
  EXPECT_TRUE(contains(message({LocalPattern{8}}, -8), "length is -8, must be at least 1"));
  EXPECT_TRUE(contains(message({LocalPattern{8}}, std::numeric_limits<Index>::max()),
                       "length is 9223372036854775807, must be at most"));
  EXPECT_TRUE(contains(
      message({LocalPattern{max_size}, LshPattern{max_size - 1}, LshPattern{max_size - 2}}, 9),
      "the least common multiple of the chunk lengths is 4611686011984936962 * 2147483645"));
}

TEST(HuggingFaceConfig, RefusesWhatNoModelCanHold) {
  EXPECT_TRUE(contains(message_of<std::runtime_error>([] {
                         parse(small_config({{"feed_forward_size", 1 << 28},
                                             {"hidden_size", 1 << 24},
                                             {"axial_pos_embds_dim", {1 << 23, 1 << 23}}}));
                       }),
                       "feed_forward_width * width is 268435456 * 16777216, must be at most"));
}

TEST(HuggingFacePaddedLength, IsAMultipleOfAllChunkLengths) {
  const auto padded = [](std::vector<LayerPattern> layers, Index length) {
    ModelConfig config;
    config.layers = std::move(layers);
    return huggingface_padded_length(config, length);
  };
  const std::vector<LayerPattern> both = {LocalPattern{8}, LshPattern{16}, LocalPattern{8}};
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

}  // namespace
}  // namespace reformer::test
