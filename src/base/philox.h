// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). A draw is a pure function of its key and counter, so it
// does not depend on what else runs, in which order, or on which thread.
#pragma once

#include <array>
#include <cstdint>

namespace tutti {

using PhiloxBlock = std::array<uint32_t, 4>;

// One block of four words from a 64-bit key and a 128-bit counter.
static inline PhiloxBlock philox4x32(uint64_t key, PhiloxBlock counter) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * counter[0];
    const uint64_t p1 = uint64_t(0xCD9E8D57u) * counter[2];
    counter = {uint32_t(p1 >> 32) ^ counter[1] ^ k0, uint32_t(p1),
               uint32_t(p0 >> 32) ^ counter[3] ^ k1, uint32_t(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

// What a draw is for. Two draws of different purpose never share a number.
enum class Purpose : uint32_t {
  kTargetSample = 1,
  kDraftSample = 2,
  kAcceptTest = 3,
  kResidualSample = 4,
  kDropout = 5,
  kDataShuffle = 6,
  kInitialWeights = 7,
  kTrace = 8,
  kTest = 9,
  kTrainingNoise = 10,
  kProblem = 11,
  kDenoising = 12,
};

// Names one stream of draws. `request` is 0 when the caller gave a seed, so that the seed
// reproduces.
struct DrawKey {
  uint64_t seed = 0;
  uint32_t request = 0;
  uint32_t path = 0;      // 0 for the root; a fork's path is fork_path(parent, index)
  uint32_t position = 0;  // absolute token position
  Purpose purpose = Purpose::kTargetSample;
};

// Path id of fork `index` of path `parent`: distinct forks draw distinct noise.
static inline uint32_t fork_path(uint32_t parent, uint32_t index) {
  return philox4x32(0x5475747469ull, {parent, index, 0, 0})[0];
}

// Four words number 4*block .. 4*block+3 of the stream. The purpose and request are folded into the
// key so that the 128-bit counter holds path, position and block without overlap.
static inline PhiloxBlock draw_block(const DrawKey& key, uint32_t block) {
  const PhiloxBlock mixed =
      philox4x32(key.seed, {key.request, uint32_t(key.purpose), 0x54757474u, 0u});
  return philox4x32((uint64_t(mixed[1]) << 32) | mixed[0],
                    {block, key.position, key.path, mixed[2]});
}

static inline uint32_t draw_word(const DrawKey& key, uint32_t index) {
  return draw_block(key, index / 4)[index % 4];
}

// Uniform in the open interval (0, 1): never 0, never 1, exact in fp32 (24 bits, at cell
// midpoints).
static inline float uniform_open(uint32_t word) { return (float(word >> 9) + 0.5f) * 0x1p-23f; }

// Uniform in [0, 1) with 53 bits, from two words.
static inline double uniform53(uint32_t high, uint32_t low) {
  return double((uint64_t(high) << 21) | (low >> 11)) * 0x1p-53;
}

}  // namespace tutti
