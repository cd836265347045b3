// The layout of cached keys and values: pages of 32 slots. Within a page, per layer and KV head,
// keys stand transposed as K[head_dim][32] (scores: lanes lie across slots) and values as
// V[32][head_dim] (outputs: lanes lie across head_dim).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tutti::tensor {

inline constexpr int kPageSlots = 32;
inline constexpr int kMaxHeadDim =
    640;  // the kernels' fixed work space; larger heads are refused at loading

enum class KvType : uint8_t {
  kF16,
  kF32,
  kI8
};  // kI8: a float scale per slot and head follows each block

// Members are always inlined: per-instruction-set files use them, and must not leave their copy to
// the linker.
struct KvLayout {
  KvType type = KvType::kF16;
  int layers = 0;
  int heads = 0;     // KV heads
  int head_dim = 0;  // a multiple of 16

  [[gnu::always_inline]] constexpr size_t element_bytes() const {
    return type == KvType::kF32 ? 4 : type == KvType::kF16 ? 2 : 1;
  }
  // Bytes of K[head_dim][32] (or of V[32][head_dim]) with its scales.
  [[gnu::always_inline]] constexpr size_t block_bytes() const {
    return size_t(head_dim) * kPageSlots * element_bytes() +
           (type == KvType::kI8 ? kPageSlots * 4 : 0);
  }
  [[gnu::always_inline]] constexpr size_t head_bytes() const { return 2 * block_bytes(); }
  [[gnu::always_inline]] constexpr size_t layer_bytes() const {
    return head_bytes() * size_t(heads);
  }
  [[gnu::always_inline]] constexpr size_t page_bytes() const {
    return layer_bytes() * size_t(layers);
  }
  // Offset of a head's K block within a page; its V block follows at + block_bytes().
  [[gnu::always_inline]] constexpr size_t offset(int layer, int head) const {
    return layer_bytes() * size_t(layer) + head_bytes() * size_t(head);
  }
};

// A run of consecutive visible slots of one page, in View order.
struct KvRun {
  int32_t page;
  uint8_t first;
  uint8_t count;          // 1..32, first + count <= 32
  uint8_t softmax_class;  // index into AttendParams::classes
};

}  // namespace tutti::tensor
