// Any bytes are refused with tutti::Error, or the tensors can be written and read again.
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "formats/safetensors.h"

namespace {

std::vector<std::byte> written(const tutti::formats::Safetensors& file) {
  std::vector<std::byte> out;
  tutti::formats::write_safetensors(
      [&](auto bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }, "fuzz",
      file.tensors(), file.metadata());
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tutti::formats::Safetensors;
  std::vector<std::byte> first;
  try {
    const auto file = Safetensors::parse(std::as_bytes(std::span(data, size)), "fuzz");
    for (const auto& tensor : file.tensors()) {
      if (tensor.data.size() != tensor.elements() * info(tensor.dtype).bytes) std::abort();
    }
    first = written(file);
  } catch (const tutti::Error&) {
    return 0;
  }
  if (written(Safetensors::parse(first, "again")) != first) std::abort();
  return 0;
}
