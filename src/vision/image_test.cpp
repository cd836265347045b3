#include "vision/image.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/draws.h"
#include "base/error.h"
#include "base/files.h"
#include "vision/resize.h"

namespace tutti::vision {
namespace {

Image random_image(int width, int height, uint64_t seed) {
  Image image{width, height, {}};
  Draws draws(seed);
  for (int i = 0; i < width * height * 3; ++i) image.rgb.push_back(uint8_t(draws.below(256)));
  return image;
}

std::filesystem::path file(const std::string& name) {
  return std::filesystem::path(testing::TempDir()) / ("tutti_image_test_" + name);
}

std::string png_of(const Image& image) {
  const auto path = file("a.png");
  write_png(path, image);
  return read_file(path);
}

std::string refusal(const std::string& bytes, ErrorKind kind) {
  try {
    decode_image(std::as_bytes(std::span(bytes)), "x.png");
  } catch (const Error& error) {
    EXPECT_EQ(int(error.kind()), int(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "was read";
  return "";
}

TEST(Image, PngRoundTrip) {
  for (const auto& [w, h] : {std::pair(1, 1), {7, 3}, {64, 48}}) {
    const Image image = random_image(w, h, uint64_t(w));
    const std::string bytes = png_of(image);
    const Image back = decode_image(std::as_bytes(std::span(bytes)), "a.png");
    EXPECT_EQ(back.width, w);
    EXPECT_EQ(back.height, h);
    EXPECT_EQ(back.rgb, image.rgb);
  }
}

TEST(Image, EveryCutPngIsRefused) {
  const std::string bytes = png_of(random_image(9, 8, 1));
  for (size_t n = 8; n < bytes.size(); ++n) {
    EXPECT_NE(refusal(bytes.substr(0, n), ErrorKind::kBadFile), "") << n;
  }
}

TEST(Image, SizesAreCheckedBeforeMemoryIsTaken) {
  // A header of 32,000 x 32,000 pixels: its checksum is right, there is nothing behind it.
  std::string bytes = png_of(random_image(1, 1, 1));
  const auto put = [&](size_t at, uint32_t value) {
    for (int i = 0; i < 4; ++i) bytes[at + size_t(i)] = char(value >> (24 - 8 * i));
  };
  put(16, 32000);
  put(20, 32000);
  uint32_t crc = 0xffffffff;
  for (size_t i = 12; i < 29; ++i) {
    crc ^= uint8_t(bytes[i]);
    for (int k = 0; k < 8; ++k) crc = crc & 1 ? 0xedb88320u ^ (crc >> 1) : crc >> 1;
  }
  put(29, crc ^ 0xffffffff);
  EXPECT_NE(refusal(bytes, ErrorKind::kLimit).find("32000 x 32000"), std::string::npos);
}

TEST(Image, OtherFilesAreNamed) {
  EXPECT_NE(refusal("GIF89a.....", ErrorKind::kUnsupported).find("neither PNG nor JPEG"),
            std::string::npos);
  refusal("", ErrorKind::kUnsupported);
  refusal("\x89PNG\r\n\x1a\n", ErrorKind::kBadFile);
  refusal("\xff\xd8\xff", ErrorKind::kBadFile);
  EXPECT_THROW(read_image(file("absent.png")), Error);
  EXPECT_THROW(read_image(testing::TempDir()), Error);
}

TEST(Resize, OneColourStaysAndNothingMovesAtTheSameSize) {
  Image grey{31, 17, std::vector<uint8_t>(31 * 17 * 3, 201)};
  for (const auto& [w, h] : {std::pair(5, 40), {62, 3}, {31, 17}}) {
    const Image out = resize_bicubic(grey, w, h);
    EXPECT_EQ(out.rgb, std::vector<uint8_t>(size_t(w * h * 3), 201));
  }
  const Image image = random_image(20, 10, 3);
  EXPECT_EQ(resize_bicubic(image, 20, 10).rgb, image.rgb);
}

// The filter by its definition in double, both passes at once: roundings between passes move it by
// less than two.
TEST(Resize, IsKeysFilterStretchedOverTheInput) {
  const Image in = random_image(37, 29, 5);
  const auto kernel = [](double x) {
    x = std::fabs(x);
    if (x <= 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
    return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0.0;
  };
  for (const auto& [w, h] : {std::pair(12, 11), {80, 64}, {12, 64}}) {
    const Image out = resize_bicubic(in, w, h);
    for (int y = 0; y < h; ++y) {
      for (int x = 0; x < w; ++x) {
        const double sx = 37.0 / w, sy = 29.0 / h;
        double sum = 0, weights = 0;
        for (int v = 0; v < 29; ++v) {
          for (int u = 0; u < 37; ++u) {
            const double a = kernel((u + 0.5 - (x + 0.5) * sx) / std::max(sx, 1.0)) *
                             kernel((v + 0.5 - (y + 0.5) * sy) / std::max(sy, 1.0));
            weights += a;
            sum += a * in.rgb[size_t(v * 37 + u) * 3];
          }
        }
        const double exact = std::min(255.0, std::max(0.0, sum / weights));
        // The first pass clamps, so where the filter overshoots the passes differ from their
        // product.
        EXPECT_NEAR(out.rgb[size_t(y * w + x) * 3], exact, 26.0) << x << ' ' << y;
      }
    }
  }
}

}  // namespace
}  // namespace tutti::vision
