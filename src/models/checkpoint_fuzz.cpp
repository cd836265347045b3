// Any bytes, read as a GGUF model, either load or end in an Error; every loaded tensor lies in
// memory that can be read.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/error.h"
#include "models/checkpoint.h"

using namespace tutti;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    const auto checkpoint = models::Checkpoint::from_gguf(
        std::make_shared<const formats::Gguf>(formats::Gguf::parse(bytes, "fuzz.gguf")));
    volatile float sink = 0;
    const auto read = [&](const models::StoredTensor& t) {
      for (const float x : t.floats()) sink = x;
      return 0;
    };
    models::convert_weights<models::Visits>(checkpoint.weights(), read, read);
  } catch (const Error&) {
  }
  return 0;
}
