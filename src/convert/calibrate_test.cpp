// What calibration makes of small models of the real network. The codes themselves are held to an
// independent implementation on transformers' models in tests/conformance/test_gptq.py.
#include "convert/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/draws.h"
#include "base/error.h"
#include "formats/temporary_folder.h"
#include "models/crafted_checkpoint.h"
#include "tensor/quantise.h"

namespace tutti::convert {
namespace {

using tensor::Type;

class Calibrate : public ::testing::Test {
 protected:
  Source open(const std::string& architecture, const models::DraftShape& shape = shape_of()) {
    const auto gguf = models::draft(architecture, shape).build();
    const auto path = folder_.path() / (architecture + std::to_string(++files_) + ".gguf");
    formats::write_gguf(path, gguf->metadata(), gguf->tensors());
    return Source::open(path);
  }
  static models::DraftShape shape_of() {
    models::DraftShape shape;
    shape.vocab = 64;
    return shape;
  }
  static ConvertOptions q4_0() {
    ConvertOptions options;
    options.rules.file_type = file_type("Q4_0");
    return options;
  }
  static CalibrationOptions calibration(GridMethod method, int group) {
    CalibrationOptions o;
    o.method = method;
    o.gptq.group = group;
    o.window = 40;  // not whole pages
    return o;
  }
  static std::vector<int32_t> text(int n) {
    Draws draws(1);
    std::vector<int32_t> tokens;
    for (int i = 0; i < n; ++i) tokens.push_back(draws.below(64));
    return tokens;
  }
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

 private:
  formats::TemporaryFolder folder_;
  int files_ = 0;
};

std::vector<float> values(const Source& source, size_t tensor) {
  const SourceTensor& t = source.tensors[tensor];
  std::vector<float> all(size_t(t.rows() * t.columns()));
  for (int64_t r = 0; r < t.rows(); ++r) {
    const SourceTensor::Part row = t.row(r);
    tensor::dequantise(row.type, row.bytes,
                       std::span(all).subspan(size_t(r * t.columns()), size_t(t.columns())));
  }
  return all;
}

bool in_layer(const std::string& name) {
  return name.starts_with("blk.") && !name.ends_with("norm.weight");
}

// Every weight of every matrix, in the order in which the file has its rows (Q and K in pairs), is
// within half a step of its own (the scale's rounding to half moves the largest by a little more);
// groups of 64 have one scale.
TEST_F(Calibrate, NearestStaysWithinHalfAStep) {
  ComputePool pool(2);
  for (const char* architecture : {"llama", "gemma3"}) {
    const Source source = open(architecture);
    const Source result = on_grid(source, q4_0(), calibration(GridMethod::kNearest, 64), {}, pool);
    int matrices = 0;
    for (size_t i = 0; i < source.tensors.size(); ++i) {
      const SourceTensor& to = result.tensors[i];
      SCOPED_TRACE(std::string(architecture) + " " + to.facts.name);
      if (!in_layer(to.facts.name)) {
        EXPECT_EQ(to.facts.stored, source.tensors[i].facts.stored);
        EXPECT_EQ(values(result, i), values(source, i));
        continue;
      }
      ++matrices;
      EXPECT_EQ(to.facts.stored, Type::kQ4_0);
      const std::vector<float> w = values(source, i), q = values(result, i);
      const auto columns = size_t(to.columns());
      for (size_t row = 0; row < w.size(); row += columns) {
        for (size_t first = 0; first < columns; first += 64) {
          float most = 0;
          const size_t last = std::min(columns, first + 64);
          for (size_t k = first; k < last; ++k) most = std::max(most, std::fabs(w[row + k]));
          for (size_t k = first; k < last; ++k)
            ASSERT_LE(std::fabs(w[row + k] - q[row + k]), 1.008f * most / 15)
                << row / columns << ", " << k;
        }
      }
    }
    EXPECT_EQ(matrices, 2 * 7);
  }
}

TEST_F(Calibrate, ReportsLessErrorThanRounding) {
  ComputePool pool(2);
  for (const char* architecture : {"llama", "qwen2", "qwen3", "gemma3"}) {
    const Source source = open(architecture);
    std::vector<LinearReport> reports;
    on_grid(source, q4_0(), calibration(GridMethod::kGptq, 32), text(400), pool,
            [&](const LinearReport& r, int done, int total) {
              reports.push_back(r);
              EXPECT_EQ(done, int(reports.size()));
              EXPECT_EQ(total, 2 * 7);
            });
    ASSERT_EQ(reports.size(), 14u);
    for (const LinearReport& r : reports) {
      SCOPED_TRACE(std::string(architecture) + " " + r.name);
      EXPECT_LT(r.error, r.nearest_error);
      EXPECT_GT(r.error, 0);
      EXPECT_LT(r.nearest_error, 0.2);
      EXPECT_LE(r.scale_low, r.scale_median);
      EXPECT_LE(r.scale_median, r.scale_high);
      EXPECT_GT(r.scale_low, 0);
    }
  }
}

// Nothing depends on workers, on who asks for what else, or on a rest of text that fills no window.
TEST_F(Calibrate, SameBytesFromAnyNumberOfWorkers) {
  const Source source = open("gemma3");
  ComputePool one(1), three(3);
  const auto options = calibration(GridMethod::kGptq, 32);
  const Source a = on_grid(source, q4_0(), options, text(80), one),
               b = on_grid(source, q4_0(), options, text(97), three);
  for (size_t i = 0; i < a.tensors.size(); ++i)
    EXPECT_EQ(values(a, i), values(b, i)) << a.tensors[i].facts.name;
  // Another text gives other codes: what it says is read.
  const Source c = on_grid(source, q4_0(), options, text(120), one);
  bool other = false;
  for (size_t i = 0; i < a.tensors.size(); ++i) other = other || values(a, i) != values(c, i);
  EXPECT_TRUE(other);
}

TEST_F(Calibrate, TensorsOfOtherTypesStay) {
  const Source source = open("llama");
  ConvertOptions options = q4_0();
  options.rules.overrides.push_back({text::Regex("blk\\.1\\.|ffn_down"), Type::kQ8_0});
  ComputePool pool(2);
  int told = 0;
  const Source result = on_grid(source, options, calibration(GridMethod::kGptq, 32), text(80), pool,
                                [&](const LinearReport&, int, int total) {
                                  ++told;
                                  EXPECT_EQ(total, 6);
                                });
  EXPECT_EQ(told, 6);
  for (size_t i = 0; i < result.tensors.size(); ++i) {
    const std::string& name = result.tensors[i].facts.name;
    const bool gone =
        in_layer(name) && name.starts_with("blk.0.") && name.find("ffn_down") == std::string::npos;
    EXPECT_EQ(result.tensors[i].facts.stored, gone ? Type::kQ4_0 : Type::kF32) << name;
  }
  // And the rest of the way: a file that opens, with the types asked for.
  convert_model(result, path("out.gguf"), options, {}, pool);
  const Source back = Source::open(path("out.gguf"));
  for (size_t i = 0; i < back.tensors.size(); ++i) {
    if (result.tensors[i].facts.stored == Type::kQ4_0) {
      EXPECT_EQ(values(back, i), values(result, i));
    }
  }
}

TEST_F(Calibrate, RefusesWhatItCannotDo) {
  ComputePool pool(1);
  const auto kind = [&](const Source& source, const ConvertOptions& options,
                        const CalibrationOptions& c, const std::vector<int32_t>& tokens) {
    try {
      on_grid(source, options, c, tokens, pool);
    } catch (const Error& error) {
      return int(error.kind());
    }
    return -1;
  };
  const Source source = open("llama");
  const auto gptq = calibration(GridMethod::kGptq, 32);
  EXPECT_EQ(kind(source, q4_0(), calibration(GridMethod::kGptq, 48), text(80)),
            int(ErrorKind::kUsage));
  EXPECT_EQ(kind(source, q4_0(), gptq, {}), int(ErrorKind::kUsage));
  EXPECT_EQ(kind(source, q4_0(), gptq, {64}),
            int(ErrorKind::kUsage));  // no token of the vocabulary
  ConvertOptions q8 = q4_0();
  q8.rules.file_type = file_type("Q8_0");
  EXPECT_EQ(kind(source, q8, gptq, text(80)), int(ErrorKind::kUsage));
  EXPECT_EQ(kind(open("qwen3moe"), q4_0(), gptq, text(80)), int(ErrorKind::kUnsupported));
}

}  // namespace
}  // namespace tutti::convert
