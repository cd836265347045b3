// The table of methods: one line each makes a method callable, listed, batched and served.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/task.h"
#include "models/config.h"

namespace tutti::decode {

class Generation;

// What a method promises about its text, compared with plain decoding; over masked models, with
// diffusion by the same policy.
enum class Guarantee : uint8_t {
  kLossless,       // the same tokens, bit for bit, for the same seed
  kLosslessInLaw,  // the same distribution
  kApproximate,    // neither
};
std::string_view name(Guarantee guarantee);

struct MethodOption {
  std::string_view name;
  std::string_view default_value;
  std::string_view help;
};

// The models that a method reads.
enum class Reads : uint8_t {
  kCausal,
  kMasked,    // that fill in masked tokens: bidirectional or with blocks of attention
  kAnyOrder,  // two-stream models, which decide tokens in any order (XLNet)
};

struct Method {
  std::string_view name;
  std::string_view source;  // paper or field term
  std::string_view needs;   // of the model
  Reads reads;
  Guarantee guarantee;
  std::vector<MethodOption> options;
  std::function<Task<void>(Generation&)> run;
  bool more_weights = false;  // needs GenerationOptions::draft_model, or prompt tokens
};

std::span<const Method> methods();
// Throws Error(kUsage) that lists the names. "auto" is no method; see method_for.
const Method& find_method(std::string_view name);
// The same; "auto" is lookup for causal models, whose drafts pay or are not made, and else the
// first method of the table that reads the model. Throws Error(kUnsupported), too: the method does
// not read it.
const Method& method_for(std::string_view name, const models::Config& config);

// An option of the method that `g` runs, as a number; the table's default when it was not given.
// Throws Error(kUsage) naming option and range.
int int_option(const Generation& g, std::string_view option, int least, int most);
double number_option(const Generation& g, std::string_view option, double least, double most);
// The same as it was given.
std::string text_option(const Generation& g, std::string_view option);
// What the table says when it is not given.
std::string_view default_of(const Generation& g, std::string_view option);
// Whether the method that `g` runs has it.
bool has_option(const Generation& g, std::string_view option);

}  // namespace tutti::decode
