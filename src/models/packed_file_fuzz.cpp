// A sound file of packed weights, cut and changed in any way, is refused with an Error or gives the
// weights that were written: checksums leave nothing else.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "models/packed_file.h"

using namespace tutti;
using namespace tutti::models;

namespace {

constexpr PackedKey kKey{0x1122334455667788, 0x99aabbccddeeff00};
constexpr size_t kBytes = (size_t(1) << 20) + 5000;  // two checksums

// As the format says (packed_file.h), written down once more.
std::vector<std::byte> sound_file() {
  std::vector<std::byte> file(kPackedPiece + kBytes);
  const std::span data = std::span(file).subspan(kPackedPiece);
  for (size_t i = 0; i < data.size(); ++i) data[i] = std::byte(i * 0x9E3779B1u >> 24);
  const uint64_t numbers[] = {1,
                              kKey.layout,
                              kKey.content,
                              kBytes,
                              xxh64(data.first(size_t(1) << 20)),
                              xxh64(data.subspan(size_t(1) << 20))};
  std::memcpy(file.data(), "TUTTIPAK", 8);
  std::memcpy(file.data() + 8, numbers, sizeof(numbers));
  return file;
}

}  // namespace

// The input: a u32 that says how many bytes to cut off, then changes of five bytes each, a u32
// place and a byte to xor.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  static ComputePool pool(1);
  static const std::vector<std::byte> sound = sound_file();
  static std::vector<std::byte> file = sound;
  const auto number = [&](size_t at) {
    uint32_t value;
    std::memcpy(&value, input + at, sizeof(value));
    return value;
  };
  const size_t cut = size >= 4 ? number(0) % (file.size() + 1) : 0;
  std::vector<size_t> changed;
  for (size_t at = 4; at + 5 <= size; at += 5) {
    // Half of the changes near the beginning, where the head is.
    const uint32_t place = number(at);
    changed.push_back(place % 2 ? place / 2 % 128 : place / 2 % file.size());
    file[changed.back()] ^= std::byte(input[at + 4]);
  }
  bool read = true;
  try {
    const auto data =
        packed_data(std::span(file).first(file.size() - cut), kKey, kBytes, pool, "fuzz");
    if (!std::ranges::equal(data, std::span(sound).subspan(kPackedPiece))) __builtin_trap();
  } catch (const Error&) {
    read = false;
  }
  const size_t head = 8 + 6 * 8;
  const bool same = cut == 0 &&
                    std::ranges::equal(std::span(file).first(head), std::span(sound).first(head)) &&
                    std::ranges::equal(std::span(file).subspan(kPackedPiece),
                                       std::span(sound).subspan(kPackedPiece));
  if (read != same) __builtin_trap();
  for (const size_t at : changed) file[at] = sound[at];
  return 0;
}
