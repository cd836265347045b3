// Words written out by hand, and everything a damaged layer can be refused for. Whole models in
// every layout are in tests/conformance/test_quantised_folders.py.
#include "formats/quantised_layers.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/half.h"

namespace tutti::formats {
namespace {

using nlohmann::json;
using Kind = QuantisedScheme::Kind;

// Tensors of one layer "x", in memory.
class Parts {
 public:
  template <class T>
  void set(const std::string& part, Dtype dtype, std::vector<uint64_t> shape,
           const std::vector<T>& values) {
    std::vector<std::byte> bytes(values.size() * sizeof(T));
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    tensors_["x" + part] = {dtype, std::move(shape), std::move(bytes)};
  }
  void ints(const std::string& part, std::vector<uint64_t> shape,
            const std::vector<uint32_t>& values) {
    set(part, Dtype::kI32, std::move(shape), values);
  }
  void halfs(const std::string& part, std::vector<uint64_t> shape,
             const std::vector<float>& values) {
    std::vector<uint16_t> h;
    for (const float v : values) h.push_back(float_to_half(v));
    set(part, Dtype::kF16, std::move(shape), h);
  }
  void remove(const std::string& part) { tensors_.erase("x" + part); }

  tensor::Grid read(const QuantisedScheme& scheme) const {
    std::vector<SafetensorsTensor> list;
    for (const auto& [name, t] : tensors_) list.push_back({name, t.dtype, t.shape, t.bytes});
    std::vector<std::byte> file;
    write_safetensors(
        [&](std::span<const std::byte> part) { file.insert(file.end(), part.begin(), part.end()); },
        "layer", list);
    const Safetensors weights = Safetensors::parse(file, "layer");
    EXPECT_LE(quantised_layers(weights, scheme).size(), 1u);
    return read_layer(weights, scheme, "x");
  }

 private:
  struct Tensor {
    Dtype dtype;
    std::vector<uint64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::map<std::string, Tensor> tensors_;
};

QuantisedScheme scheme(Kind kind, int group, bool less_one = false) {
  QuantisedScheme s;
  s.kind = kind;
  s.group = group;
  s.zeros_less_one = less_one;
  return s;
}

// 8 inputs, 8 outputs, two groups of 4: output o's inputs are o, o + 1, ... (mod 16).
Parts small_gptq() {
  Parts p;
  p.ints(".qweight", {1, 8},
         {0x76543210, 0x87654321, 0x98765432, 0xa9876543, 0xba987654, 0xcba98765, 0xdcba9876,
          0xedcba987});
  p.ints(".qzeros", {2, 1}, {0x76543210, 0xffffffff});
  p.halfs(".scales", {2, 8}, {1, 2, 3, 4, 5, 6, 7, 8, .5, .5, .5, .5, .25, .25, .25, .25});
  p.ints(".g_idx", {8}, {0, 0, 0, 0, 1, 1, 1, 1});
  return p;
}

TEST(QuantisedLayers, Gptq) {
  const tensor::Grid grid = small_gptq().read(scheme(Kind::kGptq, 4, true));
  EXPECT_EQ(grid.in, 8);
  EXPECT_EQ(grid.out, 8);
  EXPECT_TRUE(grid.groups.empty());  // the natural ones
  for (int k = 0; k < 8; ++k) {
    for (int o = 0; o < 8; ++o) EXPECT_EQ(grid.codes[size_t(k * 8 + o)], o + k);
  }
  for (int o = 0; o < 8; ++o) {
    EXPECT_EQ(grid.zeros[size_t(o)], o + 1);
    EXPECT_EQ(grid.zeros[size_t(8 + o)], 16);
    EXPECT_EQ(grid.scales[size_t(o)], float(o + 1));
  }
  EXPECT_EQ(grid.dequantised()[size_t(3 * 8 + 6)], (9 - 16) * 0.5f);
  EXPECT_EQ(small_gptq().read(scheme(Kind::kGptq, 4)).zeros[2], 2);  // the second format
}

TEST(QuantisedLayers, AwqsOrderOfOutputs) {
  Parts p;
  // Outputs 0 ... 7 stand in nibbles 0 4 1 5 2 6 3 7.
  p.ints(".qweight", {2, 1}, {0x75316420, 0x0000000f});
  p.ints(".qzeros", {1, 1}, {0x75316420});
  p.halfs(".scales", {1, 8}, std::vector<float>(8, 1));
  const tensor::Grid grid = p.read(scheme(Kind::kAwq, -1));
  for (int o = 0; o < 8; ++o) {
    EXPECT_EQ(grid.codes[size_t(o)], o);
    EXPECT_EQ(grid.codes[size_t(8 + o)], o == 0 ? 15 : 0);
    EXPECT_EQ(grid.zeros[size_t(o)], o);
  }
}

TEST(QuantisedLayers, CompressedTensorsAreRowsOfOutputs) {
  Parts p;
  p.ints(".weight_packed", {2, 2}, {0x76543210, 0x00000008, 0xfedcba98, 0x00000007});
  p.set<uint16_t>(".weight_scale", Dtype::kBF16, {2, 1}, {0x3f80, 0x4000});
  p.set<int64_t>(".weight_shape", Dtype::kI64, {2}, {2, 9});  // the last word holds one
  const tensor::Grid grid = p.read(scheme(Kind::kCompressedTensors, -1));
  EXPECT_EQ(grid.in, 9);
  EXPECT_EQ(grid.out, 2);
  EXPECT_EQ(grid.dequantised(),
            (std::vector<float>{-8, -7, -6, -5, -4, -3, -2, -1, 0, 0, 2, 4, 6, 8, 10, 12, 14, -2}));
}

std::string refusal(const Parts& parts, const QuantisedScheme& s) {
  try {
    parts.read(s);
  } catch (const Error& error) {
    EXPECT_EQ(int(error.kind()), int(ErrorKind::kBadFile)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return {};
}

TEST(QuantisedLayers, DamagedLayersAreRefusedByName) {
  const auto gptq = [](const std::string& names, const std::function<void(Parts&)>& damage) {
    Parts p = small_gptq();
    damage(p);
    const std::string message = refusal(p, scheme(Kind::kGptq, 4, true));
    EXPECT_NE(message.find(names), std::string::npos) << message;
  };
  gptq("x.qweight", [](Parts& p) { p.ints(".qweight", {8}, std::vector<uint32_t>(8)); });
  gptq("x.qweight", [](Parts& p) { p.ints(".qweight", {0, 8}, {}); });
  gptq("x.qweight",
       [](Parts& p) { p.set<float>(".qweight", Dtype::kF32, {1, 8}, std::vector<float>(8)); });
  gptq("x.qzeros", [](Parts& p) { p.ints(".qzeros", {1, 1}, {0}); });
  gptq("x.scales", [](Parts& p) { p.halfs(".scales", {2, 7}, std::vector<float>(14)); });
  gptq("x.scales", [](Parts& p) { p.remove(".scales"); });
  gptq("x.scales", [](Parts& p) { p.ints(".scales", {2, 8}, std::vector<uint32_t>(16)); });
  gptq("group 2 of 2", [](Parts& p) { p.ints(".g_idx", {8}, {0, 0, 0, 0, 1, 1, 1, 2}); });
  gptq("4294967295", [](Parts& p) { p.ints(".g_idx", {8}, {0, 0, 0, 0, 1, 1, 1, 0xffffffff}); });
  gptq("x.g_idx", [](Parts& p) { p.ints(".g_idx", {7}, std::vector<uint32_t>(7)); });

  Parts compressed;
  compressed.ints(".weight_packed", {2, 1}, {0, 0});
  compressed.halfs(".weight_scale", {2, 1}, {1, 1});
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{2, 9}, {2, 0}, {2, -8}, {3, 8}, {2, int64_t(1) << 40}}) {
    compressed.set<int64_t>(".weight_shape", Dtype::kI64, {2}, shape);
    refusal(compressed, scheme(Kind::kCompressedTensors, -1));
  }

  Parts marlin;
  marlin.ints(".B", {8, 512}, std::vector<uint32_t>(8 * 512));
  marlin.halfs(".s", {1, 256}, std::vector<float>(256));
  EXPECT_EQ(marlin.read(scheme(Kind::kMarlin, -1)).in, 128);
  refusal(marlin, scheme(Kind::kMarlin, 64));  // two rows of scales
  refusal(marlin, scheme(Kind::kMarlin, 48));
  refusal(marlin, scheme(Kind::kSparseMarlin, -1));
  marlin.ints(".B", {8, 511}, std::vector<uint32_t>(8 * 511));
  refusal(marlin, scheme(Kind::kMarlin, -1));
}

TEST(QuantisedLayers, SchemesOfConfigurations) {
  const auto read = [](json config) { return parse_quantised_scheme(config, "config.json"); };
  const QuantisedScheme gptq = read({{"quant_method", "gptq"}, {"bits", 8}, {"group_size", 64}});
  EXPECT_EQ(gptq.kind, Kind::kGptq);
  EXPECT_EQ(gptq.bits, 8);
  EXPECT_EQ(gptq.group, 64);
  EXPECT_TRUE(gptq.zeros_less_one);
  EXPECT_FALSE(read({{"quant_method", "gptq"}, {"checkpoint_format", "gptq_v2"}}).zeros_less_one);
  EXPECT_EQ(read({{"quant_method", "gptq"}, {"is_marlin_format", true}}).kind, Kind::kMarlin);
  EXPECT_EQ(read({{"quant_method", "gptq"}, {"checkpoint_format", "marlin_24"}}).kind,
            Kind::kSparseMarlin);
  EXPECT_EQ(read({{"quant_method", "awq"}, {"w_bit", 4}, {"q_group_size", 128}}).group, 128);
  const auto refused = [&](json config, ErrorKind kind, const std::string& names) {
    try {
      read(std::move(config));
      ADD_FAILURE() << names << " accepted";
    } catch (const Error& error) {
      EXPECT_EQ(int(error.kind()), int(kind)) << error.what();
      EXPECT_NE(std::string(error.what()).find(names), std::string::npos) << error.what();
    }
  };
  refused({{"quant_method", "bitsandbytes"}}, ErrorKind::kUnsupported, "bitsandbytes");
  refused({{"quant_method", "gptq"}, {"bits", 3}}, ErrorKind::kUnsupported, "3 bits");
  refused({{"quant_method", "awq"}, {"bits", 8}}, ErrorKind::kUnsupported, "AWQ weights of 8 bits");
  refused({{"quant_method", "awq"}, {"version", "gemv"}}, ErrorKind::kUnsupported, "awq");
  refused({{"quant_method", "gptq"}, {"group_size", 0}}, ErrorKind::kBadFile, "groups of 0");
  refused({{"quant_method", "gptq"}, {"bits", "four"}}, ErrorKind::kBadFile, "bits");
  refused({{"quant_method", 7}}, ErrorKind::kBadFile, "quant_method");
  refused(json::array(), ErrorKind::kBadFile, "no object");
  refused({{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}},
          ErrorKind::kUnsupported, "float-quantized");
  refused({{"quant_method", "compressed-tensors"}, {"format", "pack-quantized"}},
          ErrorKind::kBadFile, "config_groups");
}

}  // namespace
}  // namespace tutti::formats
