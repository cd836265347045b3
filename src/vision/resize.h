// Antialiased bicubic resizing, as Pillow's Image.resize(size, BICUBIC) does it on 8-bit pixels: a
// horizontal pass, then a vertical one, with coefficients rounded to 22 bits and pixels rounded
// between the passes.
#pragma once

#include "vision/image.h"

namespace tutti::vision {

// Keys's kernel with a = -1/2, stretched over the input when the picture shrinks. Sizes >= 1.
Image resize_bicubic(const Image& image, int width, int height);

}  // namespace tutti::vision
