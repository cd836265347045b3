// A picture as the tower cuts it up, for people.
#pragma once

#include "vision/patches.h"

namespace tutti::vision {

// Borders of patches (thin, grey), merge cells (white) and windows (red) drawn over a resized
// picture. `window`: cells of a window's side.
Image with_grid(const Image& resized, const Preprocessing& p, int window);

}  // namespace tutti::vision
