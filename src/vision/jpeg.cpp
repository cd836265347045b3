// libjpeg reports errors by a function that must not return, here by longjmp: between setjmp and
// the calls that may jump no object with a destructor is made.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jerror.h>
#include <jpeglib.h>

#include "base/error.h"
#include "vision/image.h"

namespace tutti::vision {
namespace {

// Progressive files may repeat scans over the whole picture as often as they like.
constexpr int kMaxScans = 256;

struct Failure {
  jpeg_error_mgr manager;  // first: libjpeg hands out a pointer to it
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";
};

[[noreturn]] void leave(j_common_ptr jpeg) {
  auto* failure = reinterpret_cast<Failure*>(jpeg->err);
  failure->manager.format_message(jpeg, failure->message);
  std::longjmp(failure->jump, 1);
}

// What Pillow refuses, too: data that ends early. Other oddities are passed over.
void on_message(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  const int code = jpeg->err->msg_code;
  if (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER) leave(jpeg);
}

void count_scans(j_common_ptr jpeg) {
  auto* reading = reinterpret_cast<j_decompress_ptr>(jpeg);
  if (reading->input_scan_number <= kMaxScans) return;
  auto* failure = reinterpret_cast<Failure*>(jpeg->err);
  std::strcpy(failure->message, "too many scans");
  std::longjmp(failure->jump, 1);
}

class Reader {
 public:
  Reader() {
    jpeg_.err = jpeg_std_error(&failure_.manager);
    failure_.manager.error_exit = leave;
    failure_.manager.emit_message = on_message;
    progress_.progress_monitor = count_scans;
  }
  ~Reader() { jpeg_destroy_decompress(&jpeg_); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  const char* message() const { return failure_.message; }
  // False: message() says why.
  bool read_header(std::span<const std::byte> bytes) {
    if (setjmp(failure_.jump)) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_.progress = &progress_;
    jpeg_.mem->max_memory_to_use = 1L << 30;
    jpeg_mem_src(&jpeg_, reinterpret_cast<const unsigned char*>(bytes.data()),
                 static_cast<unsigned long>(bytes.size()));
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }
  int64_t width() const { return jpeg_.image_width; }
  int64_t height() const { return jpeg_.image_height; }
  // Whether it has channels that no rule here makes RGB of.
  bool is_print() const {
    return jpeg_.jpeg_color_space == JCS_CMYK || jpeg_.jpeg_color_space == JCS_YCCK;
  }
  bool read_pixels(uint8_t* rgb) {
    if (setjmp(failure_.jump)) return false;
    jpeg_.out_color_space = JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      JSAMPROW row = rgb + size_t(jpeg_.output_scanline) * jpeg_.output_width * 3;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

 private:
  jpeg_decompress_struct jpeg_{};
  jpeg_progress_mgr progress_{};
  Failure failure_{};
};

}  // namespace

Image decode_jpeg(std::span<const std::byte> bytes, const std::string& place) {
  Reader reader;
  const auto bad = [&] {
    throw Error(ErrorKind::kBadFile, place + ": is no sound JPEG file (" + reader.message() +
                                         "); fetch or save it again");
  };
  if (!reader.read_header(bytes)) bad();
  check_image_size(reader.width(), reader.height(), place);
  if (reader.is_print()) {
    throw Error(ErrorKind::kUnsupported,
                place + ": has colours for print (CMYK); convert the image to RGB");
  }
  Image image;
  image.width = int(reader.width());
  image.height = int(reader.height());
  image.rgb.resize(size_t(image.width) * size_t(image.height) * 3);
  if (!reader.read_pixels(image.rgb.data())) bad();
  return image;
}

}  // namespace tutti::vision
