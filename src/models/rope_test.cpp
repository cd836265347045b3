#include "models/rope.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"

namespace tutti::models {
namespace {

using nlohmann::json;

RopeParameters parameters_of(const json& c) {
  RopeParameters p;
  p.dims = c["dims"];
  p.base = c["base"];
  p.context_length = c["length"];
  const json& s = c["scaling"];
  p.scaling.kind = rope_scaling_kind(s.value("rope_type", "default"), "case");
  p.scaling.factor = s.value("factor", 1.0);
  p.scaling.original_context = s.value("original_max_position_embeddings", c["context"].get<int>());
  p.scaling.low_freq_factor = s.value("low_freq_factor", 1.0);
  p.scaling.high_freq_factor = s.value("high_freq_factor", 4.0);
  p.scaling.beta_fast = s.value("beta_fast", 32.0);
  p.scaling.beta_slow = s.value("beta_slow", 1.0);
  p.scaling.truncate = s.value("truncate", true);
  if (s.contains("attention_factor")) p.scaling.attention_factor = s["attention_factor"];
  if (s.contains("mscale")) p.scaling.mscale = s["mscale"];
  if (s.contains("mscale_all_dim")) p.scaling.mscale_all_dim = s["mscale_all_dim"];
  return p;
}

// transformers' own numbers (tests/conformance/make_rope_cases.py). torch's vectorised pow is
// within 1 ulp of the rounded power and differs between machines, so a few ulps are allowed, and
// most values must be the same bits.
TEST(Rope, AgreesWithTransformers) {
  const json document = json::parse(read_file(TUTTI_SOURCE_DIR "/src/models/rope_cases.json"));
  ASSERT_GE(document["cases"].size(), 17u);
  int values = 0, same = 0;
  for (const json& c : document["cases"]) {
    const std::string name = c["name"];
    const Rope rope = make_rope(parameters_of(c), name);
    const auto bits = c["inverse_frequency_bits"].get<std::vector<uint32_t>>();
    ASSERT_EQ(rope.inverse_frequency.size(), bits.size()) << name;
    EXPECT_NEAR(rope.magnitude, c["magnitude"].get<double>(), 1e-6) << name;
    for (size_t i = 0; i < bits.size(); ++i) {
      const float expected = std::bit_cast<float>(bits[i]);
      EXPECT_NEAR(rope.inverse_frequency[i], expected, 4e-7 * expected) << name << " pair " << i;
      ++values;
      same += std::bit_cast<uint32_t>(rope.inverse_frequency[i]) == bits[i];
    }
  }
  EXPECT_GE(same, values * 95 / 100) << same << " of " << values;
}

// The unscaled definition in double, independent of the cases.
TEST(Rope, PlainFrequenciesFollowTheDefinition) {
  const Rope rope =
      make_rope({.dims = 64, .base = 1e5, .context_length = 8192, .scaling = {}}, "m");
  for (size_t i = 0; i < 32; ++i) {
    const double expected = std::pow(1e5, -2.0 * double(i) / 64);
    EXPECT_NEAR(rope.inverse_frequency[i], expected, 2e-7 * expected);
  }
}

// Dynamic scaling is one fixed base: within the trained length that is the plain one.
TEST(Rope, DynamicIsPlainWithinTheTrainedLength) {
  RopeParameters p{.dims = 64, .base = 1e4, .context_length = 2048, .scaling = {}};
  const Rope plain = make_rope(p, "m");
  p.scaling.kind = RopeScaling::kDynamic;
  p.scaling.factor = 8;
  p.scaling.original_context = 2048;
  EXPECT_EQ(make_rope(p, "m").inverse_frequency, plain.inverse_frequency);
  p.context_length = 4096;
  EXPECT_LT(make_rope(p, "m").inverse_frequency.back(), plain.inverse_frequency.back());
}

TEST(Rope, DividesByFrequencyFactors) {
  Rope rope = make_rope({.dims = 8, .base = 1e4, .context_length = 64, .scaling = {}}, "m");
  const Rope before = rope;
  divide_frequencies(rope, std::vector<float>{1, 2, 4, 8}, "m");
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rope.inverse_frequency[i], before.inverse_frequency[i] / float(1 << i));
  }
  EXPECT_THROW(divide_frequencies(rope, std::vector<float>{1, 2}, "m"), Error);
  EXPECT_THROW(divide_frequencies(rope, std::vector<float>{1, 2, 0, 1}, "m"), Error);
  EXPECT_THROW(divide_frequencies(rope, std::vector<float>{1, 2, NAN, 1}, "m"), Error);
}

TEST(Rope, NamesAnUnknownScaling) {
  try {
    rope_scaling_kind("longrope", "file.gguf");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("longrope"), std::string::npos);
    EXPECT_TRUE(std::string(e.what()).starts_with("file.gguf: "));
  }
}

TEST(Rope, RefusesParametersThatMakeNoSense) {
  const auto refused = [](RopeParameters p) {
    try {
      make_rope(p, "m");
    } catch (const Error& e) {
      return e.kind() == ErrorKind::kBadFile;
    }
    return false;
  };
  RopeParameters good{.dims = 64, .base = 1e4, .context_length = 64, .scaling = {}};
  EXPECT_FALSE(refused(good));
  for (const int dims : {0, -2, 7}) {
    RopeParameters p = good;
    p.dims = dims;
    EXPECT_TRUE(refused(p)) << dims;
  }
  for (const double base : {0.0, -1.0, 1.0, double(NAN), double(INFINITY), 1e60}) {
    RopeParameters p = good;
    p.base = base;
    EXPECT_TRUE(refused(p)) << base;
  }
  for (const auto kind :
       {RopeScaling::kLinear, RopeScaling::kLlama3, RopeScaling::kYarn, RopeScaling::kDynamic}) {
    RopeParameters p = good;
    p.scaling.kind = kind;
    p.scaling.original_context = 32;
    EXPECT_FALSE(refused(p)) << kind;
    p.scaling.factor = 0;
    EXPECT_TRUE(refused(p)) << kind;
    p.scaling.factor = NAN;
    EXPECT_TRUE(refused(p)) << kind;
    p.scaling.factor = 2;
    p.scaling.original_context = 0;
    EXPECT_EQ(refused(p), kind != RopeScaling::kLinear) << kind;
  }
  RopeParameters p = good;
  p.scaling.kind = RopeScaling::kLlama3;
  p.scaling.original_context = 32;
  p.scaling.low_freq_factor = 4;
  EXPECT_TRUE(refused(p));
}

}  // namespace
}  // namespace tutti::models
