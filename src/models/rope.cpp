#include "models/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace tutti::models {
namespace {

[[noreturn]] void bad(const std::string& place, const std::string& what) {
  throw Error(ErrorKind::kBadFile,
              place + ": rotary embedding: " + what + "; fix or replace the model file");
}

void check(const RopeParameters& p, const std::string& place) {
  const RopeScaling& s = p.scaling;
  if (p.dims < 2 || p.dims % 2 != 0)
    bad(place, "rotates " + std::to_string(p.dims) + " dimensions, not an even number");
  if (!(p.base > 1.0) || !std::isfinite(float(p.base)))
    bad(place, "the base must be a finite number above 1");
  if (s.kind == RopeScaling::kNone) return;
  if (!(s.factor >= 1e-3 && s.factor <= 1e6))
    bad(place, "the scaling factor is not between 0.001 and 1e6");
  if (s.kind == RopeScaling::kLinear) return;
  if (s.original_context < 1) bad(place, "the original context length is not positive");
  if (s.kind == RopeScaling::kLlama3 &&
      !(s.low_freq_factor > 0 && s.high_freq_factor > s.low_freq_factor &&
        std::isfinite(s.high_freq_factor))) {
    bad(place, "low_freq_factor must be positive and below high_freq_factor");
  }
  if (s.kind == RopeScaling::kYarn && !(s.beta_fast > 0 && s.beta_slow > 0 &&
                                        std::isfinite(s.beta_fast) && std::isfinite(s.beta_slow))) {
    bad(place, "beta_fast and beta_slow must be positive");
  }
  if (s.kind == RopeScaling::kDynamic && p.dims < 4)
    bad(place, "dynamic scaling needs 4 dimensions or more");
}

// base^(2i/dims) in fp32: the exponent is rounded first, the power is rounded once.
std::vector<float> powers(double base, int dims) {
  std::vector<float> out(size_t(dims / 2));
  for (size_t i = 0; i < out.size(); ++i) {
    const float exponent = float(2 * i) / float(dims);
    out[i] = float(std::pow(double(float(base)), double(exponent)));
  }
  return out;
}

std::vector<float> plain(double base, int dims) {
  std::vector<float> out = powers(base, dims);
  for (float& x : out) x = 1.0f / x;
  return out;
}

// Frequencies that turn fast over the trained length stay, slow ones are divided, between them a
// smooth step.
void scale_llama3(const RopeScaling& s, std::vector<float>& inverse) {
  const auto factor = float(s.factor);
  const auto low = float(s.low_freq_factor);
  const auto original = float(s.original_context);
  const auto low_wavelength = float(double(s.original_context) / s.low_freq_factor);
  const auto high_wavelength = float(double(s.original_context) / s.high_freq_factor);
  for (float& f : inverse) {
    const float wavelength = float(2 * std::numbers::pi) / f;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      f = f / factor;
      continue;
    }
    const float smooth =
        (original / wavelength - low) / float(s.high_freq_factor - s.low_freq_factor);
    f = (1.0f - smooth) * f / factor + smooth * f;
  }
}

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The dimension whose pair makes `turns` turns over the trained length.
double yarn_dimension(double turns, const RopeParameters& p) {
  return p.dims * std::log(p.scaling.original_context / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(p.base));
}

Rope make_yarn(const RopeParameters& p) {
  const RopeScaling& s = p.scaling;
  double first = yarn_dimension(s.beta_fast, p), last = yarn_dimension(s.beta_slow, p);
  if (s.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, double(p.dims - 1));
  if (first == last) last += 0.001;

  Rope rope;
  rope.inverse_frequency = powers(p.base, p.dims);
  for (size_t i = 0; i < rope.inverse_frequency.size(); ++i) {
    float& f = rope.inverse_frequency[i];
    const float kept = 1.0f / f;
    const float stretched = 1.0f / (float(s.factor) * f);
    const float ramp = std::clamp((float(i) - float(first)) / float(last - first), 0.0f, 1.0f);
    const float keep = 1.0f - ramp;
    f = stretched * (1.0f - keep) + kept * keep;
  }
  if (s.attention_factor) {
    rope.magnitude = float(*s.attention_factor);
  } else if (s.mscale.value_or(0) != 0 && s.mscale_all_dim.value_or(0) != 0) {
    rope.magnitude =
        float(yarn_magnitude(s.factor, *s.mscale) / yarn_magnitude(s.factor, *s.mscale_all_dim));
  } else {
    rope.magnitude = float(yarn_magnitude(s.factor, 1.0));
  }
  return rope;
}

}  // namespace

RopeScaling::Kind rope_scaling_kind(std::string_view name, const std::string& place) {
  if (name == "default" || name == "none" || name.empty()) return RopeScaling::kNone;
  if (name == "linear") return RopeScaling::kLinear;
  if (name == "llama3") return RopeScaling::kLlama3;
  if (name == "yarn") return RopeScaling::kYarn;
  if (name == "dynamic") return RopeScaling::kDynamic;
  throw Error(ErrorKind::kUnsupported,
              place + ": rotary scaling \"" + std::string(name.substr(0, 80)) +
                  "\" is not known; known are linear, llama3, yarn and dynamic");
}

Rope make_rope(const RopeParameters& p, const std::string& place) {
  check(p, place);
  const RopeScaling& s = p.scaling;
  Rope rope;
  if (s.kind == RopeScaling::kYarn) {
    rope = make_yarn(p);
  } else if (s.kind == RopeScaling::kDynamic) {
    const double length = std::max(p.context_length, s.original_context);
    const double stretch = s.factor * length / s.original_context - (s.factor - 1);
    rope.inverse_frequency =
        plain(p.base * std::pow(stretch, double(p.dims) / (p.dims - 2)), p.dims);
  } else {
    rope.inverse_frequency = plain(p.base, p.dims);
    if (s.kind == RopeScaling::kLinear) {
      for (float& f : rope.inverse_frequency) f /= float(s.factor);
    } else if (s.kind == RopeScaling::kLlama3) {
      scale_llama3(s, rope.inverse_frequency);
    }
  }
  const bool finite =
      std::ranges::all_of(rope.inverse_frequency, [](float f) { return std::isfinite(f); });
  if (!finite || !std::isfinite(rope.magnitude))
    bad(place, "the scaling gives frequencies that are no numbers");
  return rope;
}

void divide_frequencies(Rope& rope, std::span<const float> factors, const std::string& place) {
  if (factors.size() != rope.inverse_frequency.size()) {
    bad(place, "has " + std::to_string(factors.size()) + " frequency factors, not " +
                   std::to_string(rope.inverse_frequency.size()));
  }
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0) || !std::isfinite(factors[i]))
      bad(place, "frequency factor " + std::to_string(i) + " is not positive");
    rope.inverse_frequency[i] /= factors[i];
  }
}

}  // namespace tutti::models
