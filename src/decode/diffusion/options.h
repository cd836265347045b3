// What the methods over masked models can be told, read from the method options of a request.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "decode/diffusion/policy.h"
#include "decode/method.h"

namespace tutti::engine {
struct Sampling;
}
namespace tutti::decode {
class Generation;
}

namespace tutti::decode::diffusion {

// Whose keys and values are computed again at each forward (sheet 00-dllm "KV caching"). Everything
// but kNone is an approximation with full attention; models with blocks of attention always keep
// finished blocks, which is exact.
enum class Cache : uint8_t {
  kNone,      // all of the sequence
  kPrefix,    // the block and everything behind it
  kDual,      // the block
  kVicinity,  // the block and `window` positions on either side
  kDelayed,   // what is open, and what was written since the last forward
};

// When the sequence is cut behind a predicted end of text (Learn2PD's EoTP).
enum class Cut : uint8_t { kOff, kCommitted, kReference };

struct DiffusionOptions {
  PolicyOptions policy;
  int block = 32;  // 0: the whole answer; -1: the model's own, else 32
  int steps = 0;   // of the whole answer; 0: none are prescribed
  Cache cache = Cache::kNone;
  int window = 16;  // vicinity
  int warmup = 0;   // forwards over everything at the beginning
  int refresh_every =
      0;  // forwards until all is computed again; 0: at the beginning of each block only
  bool store_apart =
      false;  // block-causal: a finished block's keys and values by a forward of their own
  bool early_stop = true;  // as soon as the text up to the end token is written
  Cut cut = Cut::kOff;
  float cut_probability = 0;
  float guidance = 0;     // logits = u + (1 + guidance)(c - u), u with the prompt masked; 0: off
  bool late_end = false;  // end tokens are written last
  bool no_end = false;    // and never
  bool fresh_noise =
      false;  // noise of sampling drawn anew at each forward; false: one per position
  float smoothing =
      0;  // share of the expected embedding in an open position's input, at most; 0: off
  std::vector<std::pair<int, std::string>> pins;  // answer position (negative: from the end), text

  int draft_steps = 4;       // freedave
  bool verify_exact = true;  // freedave: false accepts drafts that are part of the verified step
  bool eager = true;         // freedave: drafts cross blocks (block-causal)
};

// The table's entries for both methods.
std::vector<MethodOption> diffusion_method_options();
std::vector<MethodOption> freedave_method_options();

// Throws Error(kUsage) naming the option, its value and what is wrong with it.
DiffusionOptions read_diffusion_options(const Generation& g);
// The same for what the model and the request's sampling rule out.
void check_against_model(const Generation& g, const DiffusionOptions& options);
[[noreturn]] void refuse(const std::string& what);

// Whether the token of a position is the argmax of its logits.
bool takes_argmax(const engine::Sampling& sampling, const DiffusionOptions& options);

}  // namespace tutti::decode::diffusion
