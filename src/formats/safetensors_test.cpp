#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <random>

#include "base/error.h"
#include "formats/crafted_bytes.h"
#include "formats/json_text.h"
#include "formats/temporary_folder.h"

namespace tutti::formats {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> crafted(std::string_view header, size_t data) {
  return CraftedBytes().text(header).zeros(data).bytes();
}

std::vector<std::byte> written(const std::vector<SafetensorsTensor>& tensors,
                               const std::map<std::string, std::string>& metadata = {}) {
  std::vector<std::byte> out;
  write_safetensors([&](auto bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); },
                    "memory", tensors, metadata);
  return out;
}

std::string message_of(const std::function<void()>& action, ErrorKind kind) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(int(error.kind()), int(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

template <typename T>
std::vector<T> values(const SafetensorsTensor& tensor) {
  std::vector<T> result(tensor.data.size() / sizeof(T));
  if (!result.empty()) std::memcpy(result.data(), tensor.data.data(), tensor.data.size());
  return result;
}

// Written by the Python package safetensors 0.8.0 (safetensors.torch.save) from
// {w: arange(6).reshape(2, 3) / 4, h: half [1.5, -2], b: bfloat16 [1, 3.140625], d: double 2.5,
//  l: [-1, 2^40], i: int32 [-7], s: int16 [[300]], c: int8 [-128, 127], u: uint8 [255],
//  o: [True, False], e4: float8_e4m3fn [1, 448], e5: float8_e5m2 [1, -0.5], z: zeros(0, 4)},
// metadata {"format": "pt"}.
std::vector<std::byte> python_file() {
  constexpr std::string_view kHeader =
      R"({"__metadata__":{"format":"pt"},"l":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
      R"("d":{"dtype":"F64","shape":[],"data_offsets":[16,24]},)"
      R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[24,48]},)"
      R"("z":{"dtype":"F32","shape":[0,4],"data_offsets":[48,48]},)"
      R"("i":{"dtype":"I32","shape":[1],"data_offsets":[48,52]},)"
      R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[52,56]},)"
      R"("h":{"dtype":"F16","shape":[2],"data_offsets":[56,60]},)"
      R"("s":{"dtype":"I16","shape":[1,1],"data_offsets":[60,62]},)"
      R"("e4":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[62,64]},)"
      R"("e5":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[64,66]},)"
      R"("c":{"dtype":"I8","shape":[2],"data_offsets":[66,68]},)"
      R"("u":{"dtype":"U8","shape":[1],"data_offsets":[68,69]},)"
      R"("o":{"dtype":"BOOL","shape":[2],"data_offsets":[69,71]}}       )";
  constexpr char kData[] =
      "\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\1\0\0"  // l
      "\0\0\0\0\0\0\4@"                                   // d
      "\0\0\0\0\0\0\x80>\0\0\0?\0\0@?\0\0\x80?\0\0\xa0?"  // w
      "\xf9\xff\xff\xff\x80?I@\0>\0\xc0,\1"
      "8~<\xb8\x80\x7f\xff\1\0";  // i ... o
  return CraftedBytes().text(kHeader).raw({kData, sizeof(kData) - 1}).bytes();
}

TEST(Safetensors, ReadsWhatThePythonPackageWrote) {
  const auto bytes = python_file();
  ASSERT_EQ(bytes.size(), 847u);
  const Safetensors file = Safetensors::parse(bytes, "py.safetensors");
  EXPECT_EQ(file.tensors().size(), 13u);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(file.tensor("w").shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(values<float>(file.tensor("w")), (std::vector<float>{0, 0.25, 0.5, 0.75, 1, 1.25}));
  EXPECT_EQ(values<double>(file.tensor("d")), std::vector<double>{2.5});
  EXPECT_TRUE(file.tensor("d").shape.empty());
  EXPECT_EQ(file.tensor("d").elements(), 1u);
  EXPECT_EQ(values<int64_t>(file.tensor("l")), (std::vector<int64_t>{-1, int64_t(1) << 40}));
  EXPECT_EQ(values<int32_t>(file.tensor("i")), std::vector<int32_t>{-7});
  EXPECT_EQ(values<int16_t>(file.tensor("s")), std::vector<int16_t>{300});
  EXPECT_EQ(values<int8_t>(file.tensor("c")), (std::vector<int8_t>{-128, 127}));
  EXPECT_EQ(values<uint8_t>(file.tensor("u")), std::vector<uint8_t>{255});
  EXPECT_EQ(values<uint8_t>(file.tensor("o")), (std::vector<uint8_t>{1, 0}));
  EXPECT_EQ(values<uint16_t>(file.tensor("h")), (std::vector<uint16_t>{0x3e00, 0xc000}));
  EXPECT_EQ(values<uint16_t>(file.tensor("b")), (std::vector<uint16_t>{0x3f80, 0x4049}));
  EXPECT_EQ(values<uint8_t>(file.tensor("e4")), (std::vector<uint8_t>{0x38, 0x7e}));
  EXPECT_EQ(values<uint8_t>(file.tensor("e5")), (std::vector<uint8_t>{0x3c, 0xb8}));
  EXPECT_EQ(file.tensor("e4").dtype, Dtype::kF8E4M3);
  EXPECT_EQ(file.tensor("e5").dtype, Dtype::kF8E5M2);
  EXPECT_EQ(file.tensor("z").elements(), 0u);
  EXPECT_EQ(file.find("absent"), nullptr);
}

// The keys of an entry come sorted from our writer; then both packages' files have the same length.
TEST(Safetensors, WritesBackTheSameTensors) {
  const auto bytes = python_file();
  const Safetensors file = Safetensors::parse(bytes, "py.safetensors");
  const auto again = written(file.tensors(), file.metadata());
  EXPECT_EQ(again.size(), bytes.size());
  const Safetensors copy = Safetensors::parse(again, "copy");
  ASSERT_EQ(copy.tensors().size(), file.tensors().size());
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const auto &a = file.tensors()[i], &b = copy.tensors()[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.shape, b.shape);
    EXPECT_EQ(a.dtype, b.dtype);
    EXPECT_EQ(values<uint8_t>(a), values<uint8_t>(b));
  }
}

TEST(Safetensors, RandomFilesComeBackAsTheyWere) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](uint32_t n) { return random() % n; };
    std::vector<std::vector<std::byte>> data;
    std::vector<SafetensorsTensor> tensors(below(8));
    for (size_t i = 0; i < tensors.size(); ++i) {
      tensors[i].name = "tensor \"\xc3\xa9\n" + std::to_string(i);  // must be escaped
      tensors[i].dtype = Dtype(below(12));
      while (below(3)) tensors[i].shape.push_back(below(5));
      data.emplace_back(tensors[i].elements() * info(tensors[i].dtype).bytes);
      for (auto& byte : data.back()) byte = std::byte(below(256));
      tensors[i].data = data.back();
    }
    const std::map<std::string, std::string> metadata = {{"seed", std::to_string(seed)}};
    const auto bytes = written(tensors, metadata);
    const Safetensors file = Safetensors::parse(bytes, "random");
    EXPECT_EQ(file.metadata(), metadata);
    EXPECT_EQ(file.tensors().size(), tensors.size());
    for (const auto& in : tensors) {
      const auto& out = file.tensor(in.name);
      EXPECT_EQ(in.shape, out.shape);
      EXPECT_EQ(in.dtype, out.dtype);
      EXPECT_EQ(values<uint8_t>(in), values<uint8_t>(out));
    }
    EXPECT_EQ(written(file.tensors(), metadata).size(), bytes.size());
  }
}

struct Case {
  const char* name;
  std::vector<std::byte> file;
  const char* says;
  ErrorKind kind = ErrorKind::kBadFile;
};

std::vector<Case> cases() {
  std::vector<Case> list;
  const auto add = [&](const char* name, const std::vector<std::byte>& file, const char* says,
                       ErrorKind kind = ErrorKind::kBadFile) {
    list.push_back({name, file, says, kind});
  };
  // One tensor "t" with this entry.
  const auto one = [](const std::string& entry, size_t data) {
    return crafted("{\"t\":" + entry + "}", data);
  };
  add("empty_file", {}, "too short");
  add("seven_bytes", CraftedBytes().zeros(7).bytes(), "too short");
  add("header_empty", crafted("", 0), "does not start with '{'");
  add("header_length_huge", CraftedBytes().u64(~uint64_t(0)).raw("{}").bytes(),
      "claims a header of");
  add("header_length_over_cap", CraftedBytes().u64(100'000'001).raw("{}").bytes(),
      "at most 100000000");
  add("header_longer_than_file", CraftedBytes().u64(3).raw("{}").bytes(), "but only 2 follow");
  add("header_not_json", crafted("{x}", 0), "no valid JSON at line 1");
  add("header_cut", crafted("{\"t\":", 0), "no valid JSON");
  add("header_array", crafted("[]", 0), "does not start with '{'");
  add("header_space_first", crafted(" {}", 0), "does not start with '{'");
  add("header_garbage_after", crafted("{}x", 0), "no valid JSON");
  add("header_bad_utf8", crafted("{\"\xff\":1}", 0), "no valid JSON");
  add("header_deep",
      crafted("{\"t\":" + std::string(100000, '[') + std::string(100000, ']') + "}", 0),
      "nested deeper");
  add("name_twice",
      crafted(
          R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2),
      "\"t\" occurs twice");
  add("field_twice", one(R"({"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]})", 1),
      "twice");
  add("name_empty", crafted(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
      "empty name");
  add("entry_number", one("1", 0), "no object");
  add("entry_unknown_field", one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0})", 1),
      "unknown field");
  add("dtype_absent", one(R"({"shape":[1],"data_offsets":[0,1]})", 1), "no dtype");
  add("dtype_number", one(R"({"dtype":8,"shape":[1],"data_offsets":[0,1]})", 1), "no dtype");
  add("dtype_unknown", one(R"({"dtype":"C64","shape":[1],"data_offsets":[0,8]})", 8),
      "\"C64\" is not read", ErrorKind::kUnsupported);
  add("dtype_lower_case", one(R"({"dtype":"f32","shape":[1],"data_offsets":[0,4]})", 4),
      "\"f32\" is not read", ErrorKind::kUnsupported);
  add("shape_absent", one(R"({"dtype":"U8","data_offsets":[0,1]})", 1), "no shape");
  add("shape_negative", one(R"({"dtype":"U8","shape":[-1],"data_offsets":[0,1]})", 1),
      "no whole number");
  add("shape_float", one(R"({"dtype":"U8","shape":[1.0],"data_offsets":[0,1]})", 1),
      "no whole number");
  add("shape_beyond_64_bits",
      one(R"({"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]})", 1),
      "no whole number");
  add("shape_wraps",
      one(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0),
      "overflows");
  add("shape_times_width_wraps",
      one(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]})", 0), "overflows");
  add("shape_too_small", one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,12]})", 12), "need 8");
  add("shape_too_big", one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,12]})", 12), "need 16");
  add("offsets_absent", one(R"({"dtype":"U8","shape":[1]})", 1), "data_offsets");
  add("offsets_three", one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1,2]})", 1), "no pair");
  add("offsets_negative", one(R"({"dtype":"U8","shape":[1],"data_offsets":[-1,0]})", 1), "no pair");
  add("offsets_swapped", one(R"({"dtype":"U8","shape":[1],"data_offsets":[1,0]})", 1),
      "leave the file");
  add("offsets_beyond_file", one(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})", 1),
      "leave the file's 1 bytes");
  add("offsets_huge",
      one(R"({"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]})",
          1),
      "leave the file");
  add("hole_before", one(R"({"dtype":"U8","shape":[1],"data_offsets":[1,2]})", 2), "hole from 0");
  add("hole_between",
      crafted(
          R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
          3),
      "hole from 1");
  add("hole_after", one(R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})", 2),
      "1 bytes behind its last");
  add("overlap",
      crafted(
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          3),
      "inside another");
  add("same_bytes_twice",
      crafted(
          R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
          2),
      "inside another");
  add("data_without_tensors", crafted("{}", 1), "behind its last tensor");
  add("metadata_list", crafted(R"({"__metadata__":[]})", 0), "__metadata__ is no object");
  add("metadata_number", crafted(R"({"__metadata__":{"a":1}})", 0), "\"a\" is no string");
  return list;
}

TEST(SafetensorsMalformed, EveryCaseIsRefusedAndNamed) {
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name);
    const auto message = message_of([&] { Safetensors::parse(c.file, "hostile"); }, c.kind);
    EXPECT_NE(message.find(c.says), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("hostile: ")) << message;
    EXPECT_NE(message.find("; "), std::string::npos) << message;
  }
}

TEST(SafetensorsMalformed, EveryTruncationIsRefused) {
  const auto whole = python_file();
  for (size_t n = 0; n < whole.size(); ++n) {
    const std::vector<std::byte> cut(whole.begin(), whole.begin() + long(n));
    EXPECT_THROW(Safetensors::parse(cut, "cut"), Error) << n;
  }
}

TEST(Safetensors, EmptyFilesAndPaddedHeadersAreRight) {
  EXPECT_TRUE(Safetensors::parse(crafted("{}", 0), "empty").tensors().empty());
  EXPECT_TRUE(Safetensors::parse(crafted("{}      ", 0), "padded").tensors().empty());
}

TEST(Safetensors, TheWriterRefusesWhatIsWrong) {
  const std::vector<std::byte> data(8);
  const auto refuses = [&](const std::vector<SafetensorsTensor>& tensors) {
    EXPECT_NE(message_of([&] { written(tensors); }, ErrorKind::kUsage), "");
  };
  EXPECT_NO_THROW(written({{"w", Dtype::kF32, {2}, data}}));
  refuses({{"", Dtype::kF32, {2}, data}});
  refuses({{"__metadata__", Dtype::kF32, {2}, data}});
  refuses({{"w", Dtype::kF32, {2}, data}, {"w", Dtype::kF32, {2}, data}});
  refuses({{"w", Dtype::kF32, {3}, data}});
  refuses({{"w", Dtype::kF32, {uint64_t(1) << 63, 4}, data}});
  refuses({{"\xff", Dtype::kF32, {2}, data}});
}

class ShardedModel : public testing::Test {
 protected:
  void SetUp() override {
    const std::vector<std::byte> data(4, std::byte(9));
    write_safetensors(folder_ / "m-1.safetensors", {{"a", Dtype::kU8, {4}, data}},
                      {{"format", "pt"}});
    write_safetensors(folder_ / "m-2.safetensors", {{"b", Dtype::kI16, {2}, data}});
  }
  Safetensors open(const std::string& map) {
    const fs::path index = folder_ / "model.safetensors.index.json";
    write_file_atomically(index, R"({"metadata":{"total_size":8},"weight_map":)" + map + "}");
    return Safetensors::open(index);
  }
  std::string refusal(const std::string& map, ErrorKind kind = ErrorKind::kBadFile) {
    return message_of([&] { open(map); }, kind);
  }
  TemporaryFolder folder_;
};

TEST_F(ShardedModel, OpensAllShards) {
  const Safetensors model = open(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})");
  EXPECT_EQ(model.tensors().size(), 2u);
  EXPECT_EQ(model.tensor("b").dtype, Dtype::kI16);
  EXPECT_EQ(model.tensor("b").data[3], std::byte(9));
  EXPECT_EQ(model.metadata().at("format"), "pt");
}

TEST_F(ShardedModel, WrongIndexesAreNamed) {
  EXPECT_NE(refusal(R"({"a":"m-3.safetensors"})", ErrorKind::kNotFound).find("m-3"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"a":"m-2.safetensors"})").find("\"a\" is not in"), std::string::npos);
  EXPECT_NE(refusal(R"({})").find("missing or empty"), std::string::npos);
  EXPECT_NE(refusal(R"([])").find("missing or empty"), std::string::npos);
  for (const char* file :
       {"../m-1.safetensors", "/etc/passwd", "x/m-1.safetensors", "..", "", "pytorch_model.bin",
        ".safetensors", R"(a\\b.safetensors)", R"(m-1.safetensors\u0000.safetensors)"}) {
    EXPECT_NE(refusal(std::string(R"({"a":")") + file + "\"}").find("which is no name of"),
              std::string::npos)
        << file;
  }
  EXPECT_NE(refusal(R"({"a":1})").find("which is no name of"), std::string::npos);
  const std::vector<std::byte> data(4);
  write_safetensors(folder_ / "m-2.safetensors", {{"a", Dtype::kU8, {4}, data}});
  EXPECT_NE(
      refusal(R"({"a":"m-1.safetensors","b":"m-2.safetensors"})").find("already in shard m-1"),
      std::string::npos);
}

TEST(JsonText, IsReadStrictly) {
  const auto refusal = [](const std::string& text) {
    return message_of([&] { parse_json(text, "c.json"); }, ErrorKind::kBadFile);
  };
  EXPECT_EQ(parse_json(R"({"a":[1,-2,0.5,true,null,{"b":"c"}],"d":{}})", "c.json"),
            nlohmann::json::parse(R"({"a":[1,-2,0.5,true,null,{"b":"c"}],"d":{}})"));
  EXPECT_EQ(parse_json("3", "c.json"), 3);
  EXPECT_EQ(refusal("{\n\"a\": 1,\n}").substr(0, 34), "c.json: is no valid JSON at line 3");
  EXPECT_NE(refusal(R"({"a":{"b":1,"b":2}})").find("key \"b\" occurs twice"), std::string::npos);
  EXPECT_NE(refusal(std::string(65, '[') + std::string(65, ']')).find("deeper than 64"),
            std::string::npos);
  EXPECT_NO_THROW(parse_json(std::string(64, '[') + std::string(64, ']'), "c.json"));
  for (const char* text :
       {"", "{", "// c\n1", "NaN", "[1,]", "{'a':1}", "1 2", "01", "\"\x01\"", "1e999"}) {
    EXPECT_NE(refusal(text).find("no valid JSON"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace tutti::formats
