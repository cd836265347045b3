// libpng reports errors by longjmp: between setjmp and the calls that may jump no object with a
// destructor is made.
#include <png.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "vision/image.h"

namespace tutti::vision {
namespace {

struct Source {
  std::span<const std::byte> bytes;
  size_t at = 0;
  char message[160] = "";
};

void take_bytes(png_structp png, png_bytep out, size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->bytes.size() - source->at) png_error(png, "the file is cut short");
  std::memcpy(out, source->bytes.data() + source->at, count);
  source->at += count;
}

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  std::strncpy(source->message, message, sizeof source->message - 1);
  png_longjmp(png, 1);
}

void on_warning(png_structp, png_const_charp) {}

// A reading libpng, closed with its owner.
class Reader {
 public:
  explicit Reader(Source& source)
      : source_(source),
        png_(png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, on_error, on_warning)),
        info_(png_ ? png_create_info_struct(png_) : nullptr) {
    if (png_ && info_) png_set_read_fn(png_, &source, take_bytes);
  }
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  // False: Source::message says why.
  bool read_header(uint32_t& width, uint32_t& height) {
    if (!png_ || !info_) return std::strcpy(source_.message, "out of memory"), false;
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_user_limits(png_, kMaxSide, kMaxSide);
    png_set_chunk_malloc_max(png_, 16 << 20);
    png_set_chunk_cache_max(png_, 128);
    png_read_info(png_, info_);
    width = png_get_image_width(png_, info_);
    height = png_get_image_height(png_, info_);
    return true;
  }

  bool read_rows(png_bytepp rows) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_expand(png_);
    png_set_strip_16(png_);
    png_set_strip_alpha(png_);
    png_set_gray_to_rgb(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (png_get_rowbytes(png_, info_) != size_t(png_get_image_width(png_, info_)) * 3) {
      png_error(png_, "an unknown layout of pixels");
    }
    png_read_image(png_, rows);
    png_read_end(png_, nullptr);
    return true;
  }

 private:
  Source& source_;
  png_structp png_;
  png_infop info_;
};

[[noreturn]] void bad(const Source& source, const std::string& place) {
  throw Error(ErrorKind::kBadFile,
              place + ": is no sound PNG file (" + source.message + "); fetch or save it again");
}

}  // namespace

Image decode_png(std::span<const std::byte> bytes, const std::string& place) {
  Source source{bytes};
  Reader reader(source);
  uint32_t width = 0, height = 0;
  if (!reader.read_header(width, height)) bad(source, place);
  check_image_size(width, height, place);
  Image image;
  image.width = int(width);
  image.height = int(height);
  image.rgb.resize(size_t(width) * height * 3);
  std::vector<png_bytep> rows(height);
  for (size_t y = 0; y < height; ++y) rows[y] = image.rgb.data() + y * width * 3;
  if (!reader.read_rows(rows.data())) bad(source, place);
  return image;
}

void write_png(const std::filesystem::path& path, const Image& image) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = uint32_t(image.width);
  header.height = uint32_t(image.height);
  header.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(header);
  std::string bytes(size, '\0');
  if (!png_image_write_to_memory(&header, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr)) {
    throw Error(ErrorKind::kSystem, path.string() + ": cannot be written: " + header.message);
  }
  write_file_atomically(path, std::string_view(bytes).substr(0, size));
}

}  // namespace tutti::vision
