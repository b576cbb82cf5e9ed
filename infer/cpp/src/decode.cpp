// JPEG and PNG to RGB, by the rules of docs/data.md: the same pixels as Python's decoder.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "files.hpp"
#include "taps.hpp"
#include "verydeep/verydeep.hpp"

#ifdef VERYDEEP_DECODE
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>
#endif

namespace verydeep {

#ifndef VERYDEEP_DECODE
DecodedImage decode(const void*, std::size_t, bool) {
  throw Error(ErrorCode::unreadable_image, "this library was built without decoders: pass pixels");
}
#else
namespace {

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr std::int64_t kLargestPixels = 250'000;  // large images take time and find nothing
#else
constexpr std::int64_t kLargestPixels = 100'000'000;
#endif
constexpr int kMostScans = 500;  // of a progressive JPEG: each costs the whole image's time, and few bytes

[[noreturn]] void refuse(const std::string& why) { throw Error(ErrorCode::unreadable_image, "image: " + why); }

void check_size(std::int64_t height, std::int64_t width, const char* kind) {
  if (height <= 0 || width <= 0) refuse(std::string("truncated or damaged ") + kind);
  if (height * width > kLargestPixels)
    refuse("is " + std::to_string(width) + "x" + std::to_string(height) + " px, more than the " +
           std::to_string(kLargestPixels) + " pixels we decode: make it smaller");
}

struct JpegErrors {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer is ours
  std::jmp_buf out;
};

extern "C" void leave(j_common_ptr info) { std::longjmp(reinterpret_cast<JpegErrors*>(info->err)->out, 1); }

// Warnings are passed over, as everywhere, but for data that end early.
extern "C" void hear(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) leave(info);
}

extern "C" void watch(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMostScans) leave(info);
}

// A row of a CMYK JPEG, taken as inverted: c * k / 255 in OpenCV's integers.
void cmyk_to_rgb(const std::uint8_t* from, std::uint8_t* to, int width) {
  for (int x = 0; x < width; ++x, from += 4, to += 3)
    for (int c = 0; c < 3; ++c) to[c] = static_cast<std::uint8_t>(from[3] - ((255 - from[c]) * from[3] >> 8));
}

// Of a TIFF directory (EXIF 2.3, 4.5): 1 to 8 (1 too where it says nothing of it), or 0 where there is no entry to read.
// What cannot be read ends it, as in OpenCV: a text that lies beyond the data, too.
int exif_orientation(const std::uint8_t* data, std::size_t size) {
  if (size < 8) return 0;
  const bool little = std::memcmp(data, "II", 2) == 0;
  const auto u16 = [&](std::size_t at) {
    return static_cast<std::uint32_t>(little ? data[at] | data[at + 1] << 8 : data[at] << 8 | data[at + 1]);
  };
  const auto u32 = [&](std::size_t at) { return little ? u16(at) | u16(at + 2) << 16 : u16(at) << 16 | u16(at + 2); };
  const std::size_t directory = u32(4);
  if (u16(2) != 42 || directory > size || size - directory < 2) return 0;
  const std::size_t entries = u16(directory);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + 12 * i;
    const int nothing = i > 0;
    if (entry + 10 > size) return nothing;
    if (u16(entry) == 0x0112) return u16(entry + 8) >= 1 && u16(entry + 8) <= 8 ? static_cast<int>(u16(entry + 8)) : 1;
    if (u16(entry + 2) == 2 && u32(entry + 4) > 4) {
      if (entry + 12 > size || u32(entry + 8) > size || u32(entry + 4) > size - u32(entry + 8)) return nothing;
    }
  }
  return entries > 0;
}

// EXIF 2.3, tag 0x0112: what the stored rows and columns are.
DecodedImage rotated(DecodedImage image, int orientation) {
  if (orientation <= 1) return image;
  const bool swaps = orientation >= 5;
  DecodedImage turned{std::vector<std::uint8_t>(image.pixels.size()), swaps ? image.width : image.height,
                      swaps ? image.height : image.width};
  for (int y = 0; y < turned.height; ++y)
    for (int x = 0; x < turned.width; ++x) {
      int row = swaps ? x : y, column = swaps ? y : x;
      if (orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8) {
        if (swaps) column = image.width - 1 - column;
        else row = image.height - 1 - row;
      }
      if (orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7) {
        if (swaps) row = image.height - 1 - row;
        else column = image.width - 1 - column;
      }
      std::copy_n(&image.pixels[3 * (static_cast<std::size_t>(row) * image.width + column)], 3,
                  &turned.pixels[3 * (static_cast<std::size_t>(y) * turned.width + x)]);
    }
  return turned;
}

// Everything that longjmp may pass over lives outside of `read_jpeg`.
struct Jpeg {
  jpeg_decompress_struct info{};
  JpegErrors errors{};
  jpeg_progress_mgr progress{};
  std::vector<std::uint8_t> row;
  DecodedImage image;
  int orientation = 0;

  Jpeg() {
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = leave;
    errors.base.emit_message = hear;
    jpeg_create_decompress(&info);
    progress.progress_monitor = watch;
    info.progress = &progress;
  }
  ~Jpeg() { jpeg_destroy_decompress(&info); }
  Jpeg(const Jpeg&) = delete;
  Jpeg& operator=(const Jpeg&) = delete;
};

bool begin_jpeg(Jpeg& jpeg, const void* data, std::size_t size) {
  if (setjmp(jpeg.errors.out)) return false;
  jpeg_mem_src(&jpeg.info, static_cast<const unsigned char*>(data), static_cast<unsigned long>(size));
  jpeg_save_markers(&jpeg.info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&jpeg.info, TRUE);
  jpeg.info.out_color_space = jpeg.info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  return true;
}

bool read_jpeg(Jpeg& jpeg) {
  if (setjmp(jpeg.errors.out)) return false;
  jpeg_start_decompress(&jpeg.info);
  while (jpeg.info.output_scanline < jpeg.info.output_height) {
    std::uint8_t* out = &jpeg.image.pixels[static_cast<std::size_t>(3) * jpeg.image.width * jpeg.info.output_scanline];
    JSAMPROW row = jpeg.info.num_components == 4 ? jpeg.row.data() : out;
    jpeg_read_scanlines(&jpeg.info, &row, 1);
    if (jpeg.info.num_components == 4) cmyk_to_rgb(jpeg.row.data(), out, jpeg.image.width);
  }
  return true;  // what follows the picture does not count
}

DecodedImage decode_jpeg(const void* data, std::size_t size, bool apply_exif) {
  Jpeg jpeg;
  if (!begin_jpeg(jpeg, data, size)) refuse("truncated or damaged JPEG");
  check_size(jpeg.info.image_height, jpeg.info.image_width, "JPEG");
  jpeg.image.height = static_cast<int>(jpeg.info.image_height);
  jpeg.image.width = static_cast<int>(jpeg.info.image_width);
  jpeg.image.pixels.resize(static_cast<std::size_t>(3) * jpeg.image.height * jpeg.image.width);
  jpeg.row.resize(static_cast<std::size_t>(4) * jpeg.image.width);
  for (auto* marker = jpeg.info.marker_list; apply_exif && marker && !jpeg.orientation; marker = marker->next)
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0)
      jpeg.orientation = exif_orientation(marker->data + 6, marker->data_length - 6);
  const bool whole = read_jpeg(jpeg);
  if (jpeg.info.input_scan_number > kMostScans)
    refuse("is a JPEG of more than " + std::to_string(kMostScans) + " scans: save it anew");
  if (!whole) refuse("truncated or damaged JPEG");
  return rotated(std::move(jpeg.image), jpeg.orientation);
}

struct PngSource {
  const std::uint8_t* data;
  std::size_t left;
};

extern "C" void feed_png(png_structp png, png_bytep to, png_size_t count) {
  auto& source = *static_cast<PngSource*>(png_get_io_ptr(png));
  if (count > source.left) png_error(png, "the data end");
  std::memcpy(to, source.data, count);
  source.data += count;
  source.left -= count;
}
extern "C" void png_leave(png_structp png, png_const_charp) { png_longjmp(png, 1); }
extern "C" void png_pass(png_structp, png_const_charp) {}

struct Png {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, png_leave, png_pass);
  png_infop info = png ? png_create_info_struct(png) : nullptr;
  PngSource source{};
  DecodedImage image;
  std::vector<png_bytep> rows;

  Png() = default;
  ~Png() { png_destroy_read_struct(&png, &info, nullptr); }
  Png(const Png&) = delete;
  Png& operator=(const Png&) = delete;
};

bool begin_png(Png& png) {
  if (setjmp(png_jmpbuf(png.png))) return false;
  png_set_read_fn(png.png, &png.source, feed_png);
  png_set_user_limits(png.png, 0x7fffffff, 0x7fffffff);  // our own limit counts pixels
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
  png_set_crc_action(png.png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);  // else whatever is changed is refused
#endif
  png_read_info(png.png, png.info);
  return true;
}

bool read_png(Png& png) {
  if (setjmp(png_jmpbuf(png.png))) return false;
  png_set_expand(png.png);  // palettes and small depths to 8 bits; transparent colours to alpha, which goes
  png_set_strip_16(png.png);
  png_set_gray_to_rgb(png.png);
  png_set_strip_alpha(png.png);
  png_set_interlace_handling(png.png);
  png_read_update_info(png.png, png.info);
  if (png_get_rowbytes(png.png, png.info) != static_cast<std::size_t>(3) * png.image.width)
    png_error(png.png, "not three channels");
  png_read_image(png.png, png.rows.data());
  png_read_end(png.png, png.info);
  return true;
}

int orientation_of(const Png& png) {
#ifdef PNG_eXIf_SUPPORTED
  png_uint_32 size = 0;
  png_bytep data = nullptr;
  if (png_get_eXIf_1(png.png, png.info, &size, &data)) return exif_orientation(data, size);
#endif
  (void)png;
  return 0;
}

DecodedImage decode_png(const void* data, std::size_t size, bool apply_exif) {
  Png png;
  png.source = {static_cast<const std::uint8_t*>(data), size};
  if (!png.info) throw std::bad_alloc();
  if (!begin_png(png)) refuse("truncated or damaged PNG");
  const std::int64_t height = png_get_image_height(png.png, png.info), width = png_get_image_width(png.png, png.info);
  check_size(height, width, "PNG");
  png.image.height = static_cast<int>(height);
  png.image.width = static_cast<int>(width);
  png.image.pixels.resize(static_cast<std::size_t>(3) * png.image.height * png.image.width);
  for (int y = 0; y < png.image.height; ++y)
    png.rows.push_back(&png.image.pixels[static_cast<std::size_t>(3) * png.image.width * y]);
  if (!read_png(png)) refuse("truncated or damaged PNG");
  return rotated(std::move(png.image), apply_exif ? orientation_of(png) : 0);
}

}  // namespace

DecodedImage decode(const void* data, std::size_t size, bool apply_exif) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  if (!bytes && size) throw Error(ErrorCode::invalid_argument, "null data: expected an encoded image");
  if (!size) refuse("is empty (0 bytes)");
  if (size >= 3 && bytes[0] == 0xFF && bytes[1] == 0xD8 && bytes[2] == 0xFF) return decode_jpeg(data, size, apply_exif);
  if (size >= 8 && std::memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0) return decode_png(data, size, apply_exif);
  constexpr char kPointer[] = "version https://git-lfs.github.com/spec/";
  if (size >= sizeof kPointer && std::memcmp(bytes, kPointer, sizeof kPointer - 1) == 0)
    refuse("is a git-lfs pointer, not the file: git lfs pull");
  refuse("is neither a JPEG nor a PNG");
}
#endif

DecodedImage decode_file(const std::string& path, bool apply_exif) {
  const std::string data = read_file(path, kLargestImageBytes, ErrorCode::unreadable_image);
  try {
    return decode(data.data(), data.size(), apply_exif);
  } catch (const Error& error) {
    const std::string said = error.what();
    throw Error(error.code(), path + said.substr(said.find(':')));
  }
}

}  // namespace verydeep
