// A filter's file: whatever its bytes, it is refused with an Error or gives an output for each
// position of its block.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "base/error.h"
#include "decode/diffusion/filter.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tutti::decode::diffusion::FilterWeights;
  try {
    const FilterWeights filter = FilterWeights::from(tutti::formats::Safetensors::parse(
        std::as_bytes(std::span(data, size)), "filter.safetensors"));
    const std::vector<float> all(size_t(filter.block), 0.5f);
    if (filter(all).size() != all.size()) std::abort();
  } catch (const tutti::Error&) {
  }
  return 0;
}
