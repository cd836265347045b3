// Any bytes as a file of requests: an Error, or a trace that can be played.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "eval/traffic/trace.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti;
  eval::TraceDefaults defaults;
  defaults.vocab = 1000;
  // One token a byte: an encoder that may refuse nothing and may return nothing.
  defaults.encode = [](const std::string& text) {
    return std::vector<int32_t>(text.begin(), text.end());
  };
  try {
    const eval::Trace trace =
        eval::parse_trace({reinterpret_cast<const char*>(data), size}, "fuzz", defaults);
    if (trace.empty()) std::abort();
    double before = 0;
    for (const eval::TrafficRequest& r : trace) {
      if (!(r.arrival >= before) || r.prompt.empty() || r.output_tokens < 1) std::abort();
      before = r.arrival;
      engine::validate(r.sampling, defaults.vocab);
    }
  } catch (const Error&) {
  }
  return 0;
}
