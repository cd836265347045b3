#include "vision/overlay.h"

#include <algorithm>

namespace tutti::vision {
namespace {

struct Ink {
  uint8_t r, g, b;
};

// The ink of a line that begins at this pixel, or null. Windows over cells over patches.
const Ink* ink_at(int pixel, const Preprocessing& p, int window) {
  static constexpr Ink kPatch{128, 128, 128}, kCell{255, 255, 255}, kWindow{220, 30, 30};
  if (pixel % (p.cell() * window) == 0) return &kWindow;
  if (pixel % p.cell() == 0) return &kCell;
  return pixel % p.patch == 0 ? &kPatch : nullptr;
}

}  // namespace

Image with_grid(const Image& resized, const Preprocessing& p, int window) {
  Image out = resized;
  for (int y = 0; y < out.height; ++y) {
    const Ink* row = ink_at(y, p, window);
    for (int x = 0; x < out.width; ++x) {
      const Ink* column = ink_at(x, p, window);
      const Ink* ink = row && column ? (std::min(row->g, column->g) == row->g ? row : column)
                       : row         ? row
                                     : column;
      if (!ink) continue;
      uint8_t* pixel = out.rgb.data() + (size_t(y) * size_t(out.width) + size_t(x)) * 3;
      pixel[0] = ink->r, pixel[1] = ink->g, pixel[2] = ink->b;
    }
  }
  return out;
}

}  // namespace tutti::vision
