#include "vision/image.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/files.h"

namespace tutti::vision {
namespace {

template <size_t N>
bool starts_with(std::span<const std::byte> bytes, const std::array<uint8_t, N>& magic) {
  return bytes.size() >= N && std::equal(magic.begin(), magic.end(), bytes.begin(),
                                         [](uint8_t a, std::byte b) { return std::byte{a} == b; });
}

}  // namespace

void check_image_size(int64_t width, int64_t height, const std::string& place) {
  if (width < 1 || height < 1) {
    throw Error(ErrorKind::kBadFile, place + ": the image is empty; give another file");
  }
  if (width > kMaxSide || height > kMaxSide || width * height > kMaxPixels) {
    throw Error(ErrorKind::kLimit, place + ": the image has " + std::to_string(width) + " x " +
                                       std::to_string(height) + " pixels, more than " +
                                       std::to_string(kMaxPixels) + " or a side above " +
                                       std::to_string(kMaxSide) + "; make it smaller");
  }
}

Image decode_image(std::span<const std::byte> bytes, const std::string& place) {
  constexpr std::array<uint8_t, 8> kPng{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  constexpr std::array<uint8_t, 3> kJpeg{0xff, 0xd8, 0xff};
  if (starts_with(bytes, kPng)) return decode_png(bytes, place);
  if (starts_with(bytes, kJpeg)) return decode_jpeg(bytes, place);
  throw Error(ErrorKind::kUnsupported,
              place + ": is neither PNG nor JPEG; convert the image to one of them");
}

Image read_image(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) {
    throw Error(ErrorKind::kNotFound, path.string() + ": is a folder; give an image file");
  }
  const MappedFile file(path);
  return decode_image(file.bytes(), path.string());
}

}  // namespace tutti::vision
