// A file's bytes as an image: sound, or refused.
#include <cstdlib>

#include "base/error.h"
#include "vision/image.h"
#include "vision/resize.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tutti::vision;
  try {
    const Image image = decode_image(std::as_bytes(std::span(data, size)), "fuzz");
    if (image.width < 1 || image.height < 1) std::abort();
    if (image.rgb.size() != size_t(image.width) * size_t(image.height) * 3) std::abort();
    if (image.rgb.size() > size_t(1) << 20) return 0;
    const Image small = resize_bicubic(image, 7, 5);
    if (small.rgb.size() != size_t(7 * 5 * 3)) std::abort();
  } catch (const tutti::Error&) {
  }
  return 0;
}
