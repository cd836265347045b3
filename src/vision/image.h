// A picture in memory, and how it is read from PNG and JPEG files. Files are hostile: their sizes
// are checked before anything is allocated, and whatever is wrong with them is an Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace tutti::vision {

struct Image {
  int width = 0, height = 0;  // pixels
  std::vector<uint8_t> rgb;   // [height, width, 3]
};

// The largest picture that is read: 64 Mpixel, neither side above 32768.
inline constexpr int kMaxSide = 32768;
inline constexpr int64_t kMaxPixels = int64_t(1) << 26;

// PNG or JPEG by its first bytes. As Pillow's convert("RGB") has it: palettes are looked up, grey
// becomes three equal channels, alpha is dropped, of 16 bits the upper 8 stay; an orientation in
// EXIF is not applied. `place` stands for the file in errors. Throws Error(kBadFile | kUnsupported
// | kLimit).
Image decode_image(std::span<const std::byte> bytes, const std::string& place);
// Also Error(kNotFound).
Image read_image(const std::filesystem::path& path);

// Throws Error(kLimit) when a picture of that size is not read.
void check_image_size(int64_t width, int64_t height, const std::string& place);

// One format each, for decode_image.
Image decode_png(std::span<const std::byte> bytes, const std::string& place);
Image decode_jpeg(std::span<const std::byte> bytes, const std::string& place);

// A PNG file of the picture. Throws Error(kSystem).
void write_png(const std::filesystem::path& path, const Image& image);

}  // namespace tutti::vision
