// SPDX-License-Identifier: MIT
#include "reformer/io/safetensors.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "support/errors.hpp"
#include "support/files.hpp"

namespace reformer::test {
namespace {

using Strings = std::vector<std::string>;

/// A file from the text of its header and its data.
std::string file_of(const std::string& header, const std::string& data = "") {
  const std::uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

/// The header of one tensor `a`.
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)));
}

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

struct Malformed {
  const char* name;
  std::string file;
  std::string error;
};

void PrintTo(const Malformed& c, std::ostream* out) {
  *out << c.name;
}

/// A number that claims to be a header length.
std::string length_of(std::uint64_t n) {
  return {reinterpret_cast<const char*>(&n), 8};
}

const std::string eight(8, '\0');

const Malformed malformed[] = {
    {"Empty", "", "has 0 bytes, and the length of a header alone has 8"},
    {"ShorterThanALength", "1234567", "has 7 bytes, and the length of a header alone has 8"},
    {"HugeHeader", length_of(std::uint64_t{1} << 63) + "{}",
     "has a header of 9223372036854775808 bytes, must be at most 100000000"},
    {"HeaderAboveTheLimit", length_of(100'000'001) + "{}",
     "has a header of 100000001 bytes, must be at most 100000000"},
    {"TruncatedHeader", length_of(3) + "{}",
     "is truncated: its header ends at byte 11 and the file at 10"},
    {"NoHeader", length_of(0), "header is not a JSON object: it does not begin with {"},
    {"SpaceBeforeTheHeader", file_of(" {}"), "does not begin with {"},
    {"List", file_of("[]"), "does not begin with {"},
    {"StrayByte", file_of("{\"a\x80\":1}"), "header is not UTF-8: byte 3"},
    {"OverlongUtf8", file_of("{\"\xc0\x80\":1}"), "header is not UTF-8: byte 2"},
    {"SurrogateInUtf8", file_of("{\"\xed\xa0\x80\":1}"), "header is not UTF-8: byte 2"},
    {"CutUtf8", file_of("{\"\xe2\x82"), "header is not UTF-8: byte 2"},
    {"OpenObject", file_of("{"), "header is not JSON: byte 1 is not what must come there"},
    {"MoreThanOneValue", file_of("{}{}"), "header is not JSON: byte 2"},
    {"EntryIsANumber", file_of(R"({"a":1})"),
     "header has a number as the entry of 'a', must be an object"},
    {"EntryIsAList", file_of(R"({"a":[]})"),
     "header has a list as the entry of 'a', must be an object"},
    {"EntryIsNull", file_of(R"({"a":null})"), "has null as the entry of 'a', must be an object"},
    {"NameTwice", file_of(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{}})"),
     "header has the name 'a' twice"},
    {"FieldTwice", file_of(R"({"a":{"dtype":"U8","dtype":"U8"}})"),
     "header tensor 'a' has 'dtype' twice"},
    {"UnknownField", file_of(R"({"a":{"stride":[1]}})"),
     "tensor 'a' has the unknown field 'stride'"},
    {"NoDtype", file_of(R"({"a":{"shape":[],"data_offsets":[0,1]}})"), "tensor 'a' has no dtype"},
    {"NoShape", file_of(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})"), "tensor 'a' has no shape"},
    {"NoOffsets", file_of(R"({"a":{"dtype":"U8","shape":[]}})"), "tensor 'a' has no data_offsets"},
    {"DtypeIsANumber", file_of(R"({"a":{"dtype":32}})"), "tensor 'a' has a number as dtype"},
    {"DtypeIsAList", file_of(R"({"a":{"dtype":["F32"]}})"), "tensor 'a' has a list as dtype"},
    {"UnknownDtype", file_of(one("F31", "[2]", "[0,8]"), eight),
     "tensor 'a' has the unknown dtype 'F31'"},
    {"ShapeIsAnObject", file_of(R"({"a":{"shape":{}}})"), "tensor 'a' has an object as shape"},
    {"ShapeIsANumber", file_of(R"({"a":{"shape":2}})"), "tensor 'a' has a number as shape"},
    {"NestedShape", file_of(one("F32", "[[2]]", "[0,8]"), eight), "tensor 'a' has a list in shape"},
    {"NegativeDimension", file_of(one("F32", "[-2]", "[0,8]"), eight),
     "tensor 'a' has a negative number in shape"},
    {"FractionalDimension", file_of(one("F32", "[2.0]", "[0,8]"), eight),
     "tensor 'a' has a number that is not whole or does not fit 64 bits in shape"},
    {"DimensionBeyond64Bits", file_of(one("F32", "[36893488147419103232]", "[0,8]"), eight),
     "not whole or does not fit 64 bits in shape"},
    {"DimensionBeyondIndex", file_of(one("F32", "[18446744073709551614]", "[0,8]"), eight),
     "tensor 'a' has the dimension 18446744073709551614, which is too large"},
    {"DimensionIsText", file_of(one("F32", "[\"2\"]", "[0,8]"), eight),
     "tensor 'a' has text in shape"},
    {"DimensionIsTrue", file_of(one("F32", "[true]", "[0,8]"), eight),
     "tensor 'a' has true or false in shape"},
    // 2^61 * 8 * 32 bits are 2^69: 0 bytes, if nobody looks
    {"ShapeOverflows", file_of(one("F32", "[2305843009213693952,8]", "[0,0]")),
     "the shape [2305843009213693952, 8], whose size does not fit 64 bits"},
    {"PartOfAByte", file_of(one("F4", "[3]", "[0,2]"), "ab"),
     "tensor 'a' has 12 bits, which are no whole bytes"},
    {"OneOffset", file_of(one("F32", "[2]", "[8]"), eight),
     "tensor 'a' has 1 data_offsets, must be two"},
    {"ThreeOffsets", file_of(one("F32", "[2]", "[0,4,8]"), eight),
     "tensor 'a' has 3 data_offsets, must be two"},
    {"NegativeOffset", file_of(one("F32", "[2]", "[-8,0]"), eight),
     "tensor 'a' has a negative number in data_offsets"},
    {"OffsetAsFloat", file_of(one("F32", "[2]", "[0,8e0]"), eight), "in data_offsets"},
    {"OffsetsBackwards", file_of(one("F32", "[2]", "[8,0]"), eight),
     "tensor 'a' has the data_offsets [8, 0], but F32 [2] takes 8 bytes"},
    {"OffsetsDoNotFitTheShape", file_of(one("F32", "[2]", "[0,4]"), "abcd"),
     "tensor 'a' has the data_offsets [0, 4], but F32 [2] takes 8 bytes"},
    {"HoleInFront", file_of(one("F32", "[2]", "[4,12]"), eight + "abcd"),
     "tensor 'a' begins at 4 and leaves a hole after the one before, which ends at 0"},
    {"Overlap",
     file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
             R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
             eight),
     "tensor 'b' begins at 4 and overlaps the one before, which ends at 8"},
    {"SameBytesTwice",
     file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
             R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
             eight),
     "begins at 0 and overlaps the one before, which ends at 8"},
    {"HoleBetween",
     file_of(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
             R"("b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}})",
             eight),
     "tensor 'b' begins at 6 and leaves a hole after the one before, which ends at 2"},
    {"TruncatedData", file_of(one("F32", "[2]", "[0,8]"), "abcdefg"),
     "is truncated: its tensors need 8 bytes, and there are 7"},
    {"BytesAtTheEnd", file_of(one("F32", "[2]", "[0,8]"), eight + "x"),
     "has 1 bytes after its last tensor, must have none"},
    {"MetadataIsANumber", file_of(R"({"__metadata__":1})"),
     "header has a number as the entry of '__metadata__', must be an object"},
    {"NumberInMetadata", file_of(R"({"__metadata__":{"step":1}})"),
     "__metadata__ has a number as 'step', must be text"},
    {"NestedMetadata", file_of(R"({"__metadata__":{"x":{}}})"),
     "__metadata__ has an object as 'x', must be text"},
    {"NullInMetadata", file_of(R"({"__metadata__":{"x":null}})"),
     "__metadata__ has null as 'x', must be text"},
    {"MetadataKeyTwice", file_of(R"({"__metadata__":{"x":"1","x":"2"}})"),
     "__metadata__ has 'x' twice"},
};

class MalformedSafetensors : public testing::TestWithParam<Malformed> {};

TEST_P(MalformedSafetensors, IsRefusedWithItsError) {
  EXPECT_TRUE(
      contains(message_of<std::runtime_error>([&] { parse(GetParam().file); }), GetParam().error));
}

INSTANTIATE_TEST_SUITE_P(Safetensors, MalformedSafetensors, testing::ValuesIn(malformed),
                         [](const auto& c) { return std::string(c.param.name); });

TEST(Safetensors, EveryMalformedFileHasAnErrorOfItsOwn) {
  std::map<std::string, std::string> seen;
  for (const Malformed& c : malformed) {
    const std::string error = message_of<std::runtime_error>([&] { parse(c.file); });
    const auto [place, is_new] = seen.emplace(error, c.name);
    // Different ways to the same mistake may share their error.
    const std::set<std::string> alike = {"SpaceBeforeTheHeader",
                                         "List",
                                         "NoHeader",
                                         "OverlongUtf8",
                                         "SurrogateInUtf8",
                                         "CutUtf8",
                                         "DimensionBeyond64Bits",
                                         "FractionalDimension"};
    EXPECT_TRUE(is_new || alike.contains(c.name)) << c.name << " and " << place->second;
  }
}

TEST(Safetensors, ReadsWhatTheFormatAllows) {
  // any order, an empty tensor, a scalar, metadata, spaces behind the header, names in UTF-8
  const auto header = parse(file_of(
      R"({"b":{"data_offsets":[4,8],"shape":[],"dtype":"F32"},)"
      R"("__metadata__":{"format":"pt"},"é":{"dtype":"F64","shape":[0,7],"data_offsets":[4,4]},)"
      R"("a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}}   )",
      eight));
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].name, "é");
  EXPECT_EQ(header.tensors[1].size(), 0);
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.tensors[2].size(), 1);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.tensors[0].shape, (std::vector<Index>{2, 4}));
  EXPECT_TRUE(parse(file_of("{}")).tensors.empty());
}

TEST(Safetensors, NamesInErrorsStayOnOneLine) {
  const std::string name = "\\n" + std::string(1000, 'x');
  const std::string message =
      message_of<std::runtime_error>([&] { parse(file_of("{\"" + name + "\":1}")); });
  EXPECT_TRUE(contains(message, "'\\x0axxx"));
  EXPECT_LT(message.size(), 300u);
}

TEST(SafetensorsFile, SaysWhichFileCannotBeRead) {
  const TemporaryFolder folder;
  write_file(folder / "bad", "12");
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { SafetensorsFile(folder / "bad"); }),
                       "'" + (folder / "bad").string() + "': has 2 bytes"));
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { SafetensorsFile(folder / "none"); }),
                       "none': No such file or directory"));
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { SafetensorsFile{folder.path()}; }),
                       "Is a directory"));
}

/// Values at an odd offset, of every dtype that is converted.
TEST(SafetensorsFile, ConvertsAtAnyAlignment) {
  const TemporaryFolder folder;
  const auto check_values = [&]<typename T>(const std::string& dtype, const std::vector<T>& stored,
                                            const std::vector<double>& expected) {
    SCOPED_TRACE(dtype);
    const std::string data = bytes_of(stored), n = std::to_string(stored.size());
    std::string header =
        R"({"pad":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":")" + dtype +
        R"(","shape":[2,)" + std::to_string(stored.size() / 2) + R"(],"data_offsets":[1,)" +
        std::to_string(1 + data.size()) + "]}}";
    if (header.size() % 2 == 0) header += ' ';  // an odd offset in the file, too
    write_file(folder / "f", file_of(header, "x" + data));
    const SafetensorsFile file(folder / "f");
    const auto* tensor = file.find("a");
    ASSERT_NE(tensor, nullptr);
    const Index columns = static_cast<Index>(stored.size()) / 2;
    Matrix<double> plain(2, columns), turned(columns, 2);
    Matrix<float> single(2, columns);
    file.read(*tensor, rows_of(plain));
    file.read(*tensor, rows_of(single));
    file.read_transposed(*tensor, rows_of(turned));
    for (Index i = 0; i < 2; ++i) {
      for (Index j = 0; j < columns; ++j) {
        const double e = expected[static_cast<std::size_t>(i * columns + j)];
        EXPECT_EQ(plain(i, j), e) << i << ", " << j;
        EXPECT_EQ(turned(j, i), e) << i << ", " << j;
        EXPECT_EQ(single(i, j), static_cast<float>(e)) << i << ", " << j;
      }
    }
    EXPECT_TRUE(contains(message_of<std::runtime_error>([&] {
                           file.read(*file.find("pad"), MatrixView<double>(plain.data(), 1, 1));
                         }),
                         "tensor 'pad' has the dtype U8, must be F32, F64, F16 or BF16"));
    EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { file.read_integers(*tensor); }),
                         "must be I64, I32, U8 or BOOL"));
  };
  const double infinity = std::numeric_limits<double>::infinity();
  check_values("F32", std::vector<float>{1.5f, -0.f, 3e38f, 1e-45f},
               {1.5, -0., double{3e38f}, double{1e-45f}});
  check_values("F64", std::vector<double>{0.1, -2, 1e-300, 5}, {0.1, -2, 1e-300, 5});
  check_values("F16", std::vector<std::uint16_t>{0x3c00, 0xc000, 0x7c00, 0x0001},
               {1, -2, infinity, 0x1p-24});
  check_values("BF16", std::vector<std::uint16_t>{0x3f80, 0xc000, 0x7f80, 0x0001},
               {1, -2, infinity, 0x1p-133});
}

TEST(SafetensorsFile, ReadsWholeNumbers) {
  const TemporaryFolder folder;
  const std::int64_t large = std::int64_t{1} << 62;
  write_file(folder / "f", file_of(R"({"l":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
                                   R"("i":{"dtype":"I32","shape":[1],"data_offsets":[16,20]},)"
                                   R"("b":{"dtype":"BOOL","shape":[1],"data_offsets":[20,21]}})",
                                   bytes_of(std::vector<std::int64_t>{large, -100}) +
                                       bytes_of(std::vector<std::int32_t>{-7}) + "\1"));
  const SafetensorsFile file(folder / "f");
  EXPECT_EQ(file.read_integers(*file.find("l")), (std::vector<std::int64_t>{large, -100}));
  EXPECT_EQ(file.read_integers(*file.find("i")), (std::vector<std::int64_t>{-7}));
  EXPECT_EQ(file.read_integers(*file.find("b")), (std::vector<std::int64_t>{1}));
}

TEST(WriteSafetensors, ComesBackBitForBit) {
  const TemporaryFolder folder;
  Matrix<float> a = Matrix<float>::Random(300, 70), b = Matrix<float>::Random(1, 3), empty(0, 4);
  b(0, 1) = std::numeric_limits<float>::quiet_NaN();
  const auto write = [&](const std::filesystem::path& path) {
    write_safetensors<float>(path,
                             {{"turned", {70, 300}, rows_of(std::as_const(a)), true},
                              {"empty", {0, 4}, rows_of(std::as_const(empty))},
                              {"b", {1, 3, 1}, rows_of(std::as_const(b))},
                              {"a", {300, 70}, rows_of(std::as_const(a))}},
                             {{"format", "pt"}});
  };
  write(folder / "f");
  const SafetensorsFile file(folder / "f");
  Strings names;
  for (const auto& tensor : file.tensors()) {
    names.push_back(tensor.name);
    EXPECT_EQ(tensor.dtype, "F32");
  }
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (Strings{"a", "b", "empty", "turned"}));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.find("b")->shape, (std::vector<Index>{1, 3, 1}));
  Matrix<float> back(300, 70), turned(300, 70), row(1, 3);
  file.read(*file.find("a"), rows_of(back));
  file.read_transposed(*file.find("turned"), rows_of(turned));
  file.read(*file.find("b"), rows_of(row));
  EXPECT_EQ(std::memcmp(back.data(), a.data(), sizeof(float) * 21000), 0);
  EXPECT_EQ(std::memcmp(turned.data(), a.data(), sizeof(float) * 21000), 0);
  EXPECT_EQ(std::memcmp(row.data(), b.data(), sizeof(float) * 3), 0);

  const std::string content = read_file(folder / "f");
  std::uint64_t length;
  std::memcpy(&length, content.data(), 8);
  EXPECT_EQ(length % 8, 0u) << "data must begin aligned";
  write(folder / "g");
  EXPECT_EQ(read_file(folder / "g"), content) << "the same tensors, the same bytes";
}

TEST(WriteSafetensors, RefusesWhatCannotBeReadBack) {
  const TemporaryFolder folder;
  const Matrix<double> x = Matrix<double>::Zero(2, 3);
  const auto message = [&](std::vector<OutgoingTensor<double>> tensors) {
    const std::string text =
        message_of([&] { write_safetensors<double>(folder / "f", std::move(tensors)); });
    EXPECT_TRUE(folder.names().empty());
    return text;
  };
  EXPECT_TRUE(contains(message({{"a", {2, 3}, rows_of(x)}, {"a", {2, 3}, rows_of(x)}}),
                       "two tensors have the name 'a'"));
  EXPECT_TRUE(contains(message({{"a", {3, 3}, rows_of(x)}}),
                       "tensor 'a' has the shape [3, 3], must be one of its 6 elements"));
  EXPECT_TRUE(contains(message({{"__metadata__", {2, 3}, rows_of(x)}}), "__metadata__"));
  EXPECT_TRUE(contains(message({{"\xff", {2, 3}, rows_of(x)}}), "is not UTF-8"));
  // Products of six, or none, that no reader takes
  EXPECT_TRUE(contains(message({{"a", {-2, -3}, rows_of(x)}}),
                       "tensor 'a' has the shape [-2, -3], must be one of its 6 elements"));
  EXPECT_TRUE(contains(message({{"a", {Index{1} << 62, 4, 6}, rows_of(x)}}),
                       "], must be one of its 6 elements"));
  const MatrixView<const double> none(x.data(), 0, 3), negative(x.data(), -2, -3),
      huge(x.data(), Index{1} << 32, Index{1} << 32),
      large(x.data(), Index{1} << 31, Index{1} << 31);
  EXPECT_TRUE(contains(message({{"a", {Index{1} << 32, Index{1} << 32}, none}}),
                       "tensor 'a' has the shape [4294967296, 4294967296], must be one of its 0"));
  EXPECT_TRUE(contains(message({{"a", {6}, negative}}),
                       "values of tensor 'a' is [-2, -3], must have sizes from 0"));
  EXPECT_TRUE(
      contains(message({{"a", {0}, huge}}), "values of tensor 'a' is [4294967296, 42949672"));
  EXPECT_TRUE(
      contains(message({{"a", {Index{1} << 62}, large}}), "must, and does not, fit 64 bits"));
  EXPECT_TRUE(contains(message_of([] {
                         StoredTensor{"a", "F32", {Index{1} << 62, 4}, 0, 0}.size();
                       }),
                       "StoredTensor::size: shape is [4611686018427387904, 4], must have"));
}

TEST(WriteSafetensors, LeavesTheOldFileWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  const Matrix<float> x = Matrix<float>::Zero(100, 100);
  write_file(folder / "f", "old");
  std::string message;
  {
    const FileSizeLimit limit(5000);
    message = message_of<std::runtime_error>([&] {
      write_safetensors<float>(folder / "f", {{"a", {100, 100}, rows_of(x)}});
    });
  }
  EXPECT_TRUE(contains(message, "f': File too large; the previous file is unchanged"));
  EXPECT_EQ(read_file(folder / "f"), "old");
  EXPECT_EQ(folder.names(), (Strings{"f"}));
}

TEST(SafetensorsFile, TransposesOnlyWhatHasTheShape) {
  const TemporaryFolder folder;
  const Matrix<float> x = Matrix<float>::Zero(2, 3);
  write_safetensors<float>(folder / "f", {{"a", {2, 3}, rows_of(x)}});
  const SafetensorsFile file(folder / "f");
  Matrix<float> same(2, 3), turned(3, 2);
  EXPECT_TRUE(contains(message_of([&] { file.read_transposed(*file.find("a"), rows_of(same)); }),
                       "read_transposed: tensor 'a' is [2, 3], must be [3, 2]"));
  file.read_transposed(*file.find("a"), rows_of(turned));
  EXPECT_EQ(turned, x.transpose());
}

/// Two files and their index.
class Sharded : public testing::Test {
 protected:
  Sharded() {
    const Matrix<float> x = Matrix<float>::Constant(1, 2, 3.f);
    write_safetensors<float>(folder / "one.safetensors",
                             {{"a", {2}, rows_of(x)}, {"b", {2}, rows_of(x)}});
    write_safetensors<float>(folder / "two.safetensors", {{"c", {2}, rows_of(x)}});
  }

  std::string message(const std::string& index) {
    write_file(folder / "model.safetensors.index.json", index);
    return message_of<std::runtime_error>([&] { SafetensorsFolder(folder.path()); });
  }
  std::string with_map(const std::string& map) {
    return message(R"({"weight_map":{)" + map + "}}");
  }

  TemporaryFolder folder;
};

TEST_F(Sharded, Loads) {
  write_file(folder / "model.safetensors.index.json",
             R"({"metadata":{"total_size":24},"weight_map":{"a":"one.safetensors",)"
             R"("b":"one.safetensors","c":"two.safetensors"}})");
  const SafetensorsFolder model(folder.path());
  EXPECT_EQ(model.tensors().size(), 3u);
  const auto c = model.find("c");
  ASSERT_TRUE(c);
  Matrix<float> x(1, 2);
  c->file->read(*c->tensor, rows_of(x));
  EXPECT_EQ(x(0, 1), 3.f);
  EXPECT_FALSE(model.find("d"));
}

TEST_F(Sharded, RefusesAnIndexThatDoesNotFit) {
  const std::string whole = R"("a":"one.safetensors","b":"one.safetensors")";
  EXPECT_TRUE(contains(with_map(whole + R"(,"c":"two.safetensors","d":"two.safetensors")"),
                       "tensor 'd' is not in 'two.safetensors', where weight_map says it is"));
  EXPECT_TRUE(contains(with_map(R"("a":"one.safetensors")"),
                       "tensor 'b' of 'one.safetensors' is not in weight_map"));
  EXPECT_TRUE(contains(with_map(whole + R"(,"c":"one.safetensors")"),
                       "tensor 'c' is not in 'one.safetensors'"));
  EXPECT_TRUE(
      contains(with_map(R"("a":"one.safetensors","b":"two.safetensors","c":"two.safetensors")"),
               "tensor 'b' is in 'one.safetensors', but weight_map says 'two.safetensors'"));
  EXPECT_TRUE(
      contains(with_map(R"("a":"../one.safetensors")"),
               "file '../one.safetensors' for tensor 'a', must be a name without a folder"));
  EXPECT_TRUE(contains(with_map(R"("a":"/etc/passwd")"), "must be a name without a folder"));
  EXPECT_TRUE(contains(with_map(R"("a":"..")"), "must be a name without a folder"));
  EXPECT_TRUE(contains(with_map(R"("a":1)"), "a file that is not text for tensor 'a'"));
  EXPECT_TRUE(contains(with_map(R"("a":"x","a":"y")"), "index has the key 'a' twice"));
  EXPECT_TRUE(contains(with_map(R"("a":"three.safetensors")"), "No such file or directory"));
  EXPECT_TRUE(contains(message("{}"), "index has no object weight_map"));
  EXPECT_TRUE(contains(message("[]"), "index is not a JSON object"));
  EXPECT_TRUE(contains(message("{\"a\":"), "index is not JSON: byte"));
  std::string deep = R"({"a":)";
  for (int i = 0; i < 40; ++i) deep += '[';
  EXPECT_TRUE(contains(message(deep), "index is nested more than 32 deep"));
}

TEST_F(Sharded, PrefersTheSingleFileAndSaysWhenThereIsNone) {
  const TemporaryFolder empty;
  EXPECT_TRUE(contains(message_of<std::runtime_error>([&] { SafetensorsFolder(empty.path()); }),
                       "holds neither model.safetensors nor model.safetensors.index.json"));
  std::filesystem::rename(folder / "two.safetensors", folder / "model.safetensors");
  write_file(folder / "model.safetensors.index.json", "not looked at");
  EXPECT_EQ(SafetensorsFolder(folder.path()).tensors().size(), 1u);
}

}  // namespace
}  // namespace reformer::test
