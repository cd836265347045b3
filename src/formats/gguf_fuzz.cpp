// Any bytes are refused with tutti::Error or come back from the writer unchanged in meaning: what
// was written from them is a fixed point of read and write.
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "formats/gguf.h"

namespace {

std::vector<std::byte> written(const tutti::formats::Gguf& file) {
  std::vector<std::byte> out;
  tutti::formats::write_gguf([&](auto bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); },
                             "fuzz", file.metadata(), file.tensors(), file.version());
  return out;
}

void visit(const tutti::formats::Gguf& file) {
  for (const auto& [key, value] : file.metadata()) {
    try {
      if (value.type == tutti::formats::GgufType::kArray) (void)file.numbers(key);
      (void)file.integer(key);
    } catch (const tutti::Error&) {  // another type
    }
  }
  for (const auto& tensor : file.tensors()) {
    if (tensor.data.size() != tensor.bytes() || tensor.rows() == 0) std::abort();
    volatile auto last = tensor.data.back();
    (void)last;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tutti::formats::Gguf;
  std::vector<std::byte> first;
  try {
    const Gguf file = Gguf::parse(std::as_bytes(std::span(data, size)), "fuzz");
    visit(file);
    first = written(file);
  } catch (const tutti::Error&) {
    return 0;
  }
  if (written(Gguf::parse(first, "again")) != first) std::abort();
  return 0;
}
