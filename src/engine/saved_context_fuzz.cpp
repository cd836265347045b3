// Any bytes, read as a saved Context of a small model, are refused with an Error or give a Context
// that can be queried, changed, rebuilt and saved again. The checksum and the model's fingerprint
// are put right first: without that no mutated file would get past them.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "engine/engine.h"
#include "engine/saved_context.h"
#include "engine/test_programs.h"
#include "engine/tiny_model.h"

using namespace tutti;
using namespace tutti::engine;

namespace {

constexpr size_t kSizeAt = 12, kFingerprintAt = 20;

Task<void> use(Engine& engine, std::shared_ptr<Request> request, std::vector<std::byte>& bytes) {
  Context context = ContextFile::read(engine, request, bytes, "fuzz");
  // Long recipes only cost time.
  if (context.size() > 256) context.truncate(256);
  const std::vector<int32_t> token{5};
  const auto probe = [&]() {
    return engine.forward(context, Rows::append(token, 7, want_greedy()));
  };
  co_await probe();
  Context fork = context.fork();
  if (context.state().reproducible) {
    context.release();
    co_await probe();
  }
  if (context.size() > 3) {
    const std::vector<int> kept{0, 2};
    context.keep(context.size() - 3, kept);
    co_await probe();
  }
  std::vector<std::byte> again;
  ContextFile::write(
      fork, [&](std::span<const std::byte> b) { again.insert(again.end(), b.begin(), b.end()); });
  ContextFile::read(engine, request, again, "what was written");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const TinyModel tiny = tiny_model(tensor::Type::kF32, tensor::Arithmetic::kExactF32, 1);
  static Engine engine(tiny.model, tiny.pool, small_engine(64));
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  if (size >= kFingerprintAt + 16) {
    const uint64_t length = size, fingerprint = tiny.model->fingerprint();
    std::memcpy(bytes.data() + kSizeAt, &length, 8);
    std::memcpy(bytes.data() + kFingerprintAt, &fingerprint, 8);
    const uint64_t checksum = xxh64(std::span(bytes).first(size - 8));
    std::memcpy(bytes.data() + size - 8, &checksum, 8);
  }
  try {
    run_programs(engine,
                 {[&](std::shared_ptr<Request> request) { return use(engine, request, bytes); }});
  } catch (const Error&) {
  }
  if (engine.pages().free() != engine.pages().total()) __builtin_trap();
  return 0;
}
